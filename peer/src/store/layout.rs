//! Which parts of which files a block is made of. Pure; both the reading and the writing side use it.
//!
//! A block that is empty, or reaches past its piece, or belongs to no piece has no spans: `None`, never a shorter answer.

use shoal_protocol::Manifest;
use shoal_protocol::geometry::Piece;
use shoal_protocol::message::Block;

/// A part of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Index of the file among the manifest's entries.
    pub entry: u32,
    /// Where the part starts in the file.
    pub offset: u64,
    /// Bytes in the part; never 0.
    pub length: u32,
}

/// The spans of a block in order; `None` if the content has no such block.
#[must_use]
pub fn spans(manifest: &Manifest, block: Block) -> Option<Vec<Span>> {
    let geometry = manifest.geometry();
    let piece = geometry.piece(block.piece)?;
    let end = block.offset.checked_add(block.length)?;
    if block.length == 0 || end > piece.length() {
        return None;
    }
    match piece {
        Piece::Subtree { entry, offset, .. } => {
            Some(vec![Span { entry, offset: offset + u64::from(block.offset), length: block.length }])
        }
        Piece::Pack { first, count, .. } => {
            let mut out = Vec::new();
            let mut start = 0_u32;
            for &entry in geometry.members().get(first as usize..(first + count) as usize)? {
                // Members are at most a piece long, so their sizes and sums fit.
                let stop = start + manifest.entries().get(entry as usize)?.size() as u32;
                let (low, high) = (start.max(block.offset), stop.min(end));
                if low < high {
                    out.push(Span { entry, offset: u64::from(low - start), length: high - low });
                }
                if stop >= end {
                    break;
                }
                start = stop;
            }
            Some(out)
        }
    }
}

/// The whole piece as one block; `None` past the last piece.
#[cfg(test)]
pub(crate) fn whole(manifest: &Manifest, piece: u32) -> Option<Block> {
    let length = manifest.geometry().piece(piece)?.length();
    Some(Block { piece, offset: 0, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::manifest_of_sizes;
    use proptest::prelude::*;

    const P: u64 = 65_536;

    /// Every byte of a piece, one at a time: (entry, position in the file).
    fn reference(sizes: &[u64], manifest: &Manifest, piece: u32) -> Vec<(u32, u64)> {
        match manifest.geometry().piece(piece).unwrap() {
            Piece::Subtree { entry, offset, length, .. } => {
                (offset..offset + u64::from(length)).map(|at| (entry, at)).collect()
            }
            Piece::Pack { first, count, .. } => manifest
                .geometry()
                .members_of(first, count)
                .iter()
                .flat_map(|m| (0..sizes[*m as usize]).map(|at| (*m, at)))
                .collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn spans_equal_the_reference(
            sizes in prop::collection::vec(prop_oneof![Just(0), 1..100_u64, 1000..40_000_u64, P - 1..P + 2, P..P * 3], 1..20),
            piece in any::<prop::sample::Index>(), a in 0..70_000_u32, b in 0..70_000_u32,
        ) {
            let manifest = manifest_of_sizes(&sizes, P);
            let pieces = manifest.geometry().pieces();
            prop_assume!(pieces > 0);
            let piece = piece.index(pieces as usize) as u32;
            let bytes = reference(&sizes, &manifest, piece);
            let (low, high) = (a.min(b), a.max(b));
            let got = spans(&manifest, Block { piece, offset: low, length: high - low });
            if low == high || high as usize > bytes.len() {
                prop_assert_eq!(got, None);
            } else {
                let got: Vec<_> = got.unwrap().iter()
                    .flat_map(|s| (s.offset..s.offset + u64::from(s.length)).map(|at| (s.entry, at))).collect();
                prop_assert_eq!(&got[..], &bytes[low as usize..high as usize]);
            }
        }
    }

    #[test]
    fn blocks_that_do_not_exist_have_no_spans() {
        let manifest = manifest_of_sizes(&[10, P + 1], P);
        for (piece, offset, length) in
            [(0, 0, 0), (0, 0, 11), (0, 10, 1), (0, u32::MAX, 2), (0, 1, u32::MAX), (3, 0, 1), (2, 1, 1)]
        {
            assert_eq!(spans(&manifest, Block { piece, offset, length }), None, "{piece} {offset} {length}");
        }
        assert_eq!(whole(&manifest, 2), Some(Block { piece: 2, offset: 0, length: 1 }));
    }
}
