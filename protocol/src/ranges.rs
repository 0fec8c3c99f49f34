//! Piece numbers as ranges, the form in which *have* messages carry them.

/// Ascending, non-adjacent ranges as (first, count) from ascending piece numbers.
pub fn from_ascending(pieces: impl IntoIterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for piece in pieces {
        match out.last_mut() {
            Some((first, count)) if first.checked_add(*count) == Some(piece) => *count += 1,
            _ => out.push((piece, 1)),
        }
    }
    out
}

/// Whether the ranges are non-empty, inside a content of `pieces`, ascending and apart: so the work that a frame of them
/// makes is bounded by the content, however many ranges it holds.
#[must_use]
pub fn are_within(ranges: &[(u32, u32)], pieces: u32) -> bool {
    let mut from = 0;
    ranges.iter().all(|(first, count)| {
        let end = first.checked_add(*count);
        let fits = *count > 0 && *first >= from && end.is_some_and(|end| end <= pieces);
        from = end.unwrap_or(u32::MAX);
        fits
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn neighbours_join() {
        assert_eq!(super::from_ascending([0, 1, 2, 5, 7, 8]), [(0, 3), (5, 1), (7, 2)]);
        assert!(super::from_ascending([]).is_empty());
    }

    #[test]
    fn ranges_end_inside() {
        assert!(super::are_within(&[(0, 10)], 10));
        for bad in [(0, 0), (0, 11), (10, 1), (u32::MAX, 1), (1, u32::MAX)] {
            assert!(!super::are_within(&[bad], 10), "{bad:?}");
        }
        assert!(super::are_within(&[(0, 2), (2, 1), (5, 5)], 10));
        for bad in [[(0, 5), (4, 1)], [(5, 1), (0, 1)], [(3, 1), (3, 1)]] {
            assert!(!super::are_within(&bad, 10), "{bad:?}");
        }
    }
}
