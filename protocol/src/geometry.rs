//! How content is cut into pieces: large files into BLAKE3 subtrees, small files packed whole.
//!
//! Everything here follows from the manifest alone, so every peer finds the same pieces. Walking the entries in order:
//! a file larger than the piece size becomes pieces of that size and a shorter last one; a smaller file joins the open
//! pack while the pack stays within the piece size and [`PACK_MEMBERS`], else it opens the next one. Large files in
//! between don't close a pack. A piece gets its number when its first byte is met. Empty files have no piece.

use crate::error::ManifestError;
use crate::limits::{PACK_MEMBERS, PIECE_SIZE_AUTO_MAX, PIECE_SIZE_MAX, PIECE_SIZE_MIN, PIECES, PIECES_AIM};
use std::ops::Range;

/// The piece size for content of `total` bytes when nobody chose one. Frozen: the same bytes must be the same swarm.
///
/// The smallest power of two that gives at most about [`PIECES_AIM`] pieces, within 64 KiB and 4 MiB, and larger only
/// where [`PIECES`] would be passed.
#[must_use]
pub fn auto_piece_size(total: u64) -> u32 {
    let mut size = u64::from(PIECE_SIZE_MIN);
    while size < u64::from(PIECE_SIZE_AUTO_MAX) && total.div_ceil(size) > PIECES_AIM {
        size *= 2;
    }
    while size < u64::from(PIECE_SIZE_MAX) && total.div_ceil(size) > PIECES / 2 {
        size *= 2;
    }
    u32::try_from(size).unwrap_or(PIECE_SIZE_MAX)
}

/// Whether a piece size is allowed.
#[must_use]
pub fn piece_size_is_valid(size: u64) -> bool {
    size.is_power_of_two() && (u64::from(PIECE_SIZE_MIN)..=u64::from(PIECE_SIZE_MAX)).contains(&size)
}

/// What one piece consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Part of a large file.
    Subtree {
        /// Index of the file among the manifest's entries.
        entry: u32,
        /// Which piece of its file this is.
        index: u32,
        /// Where it starts in its file.
        offset: u64,
        /// Its length; only a file's last piece is shorter than the piece size.
        length: u32,
    },
    /// Small files, whole, one after the other.
    Pack {
        /// Position of the first member in [`Geometry::members`].
        first: u32,
        /// Number of members.
        count: u32,
        /// Sum of their sizes.
        length: u32,
    },
}

impl Piece {
    /// Bytes in the piece.
    #[must_use]
    pub fn length(&self) -> u32 {
        match self {
            Self::Subtree { length, .. } | Self::Pack { length, .. } => *length,
        }
    }
}

/// A large file: which pieces are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Large {
    /// Index among the manifest's entries.
    pub entry: u32,
    /// Number of its first piece.
    pub first_piece: u32,
    /// How many pieces it has; at least two.
    pub pieces: u32,
    /// Its size in bytes.
    pub size: u64,
    /// Number of its first CV among all CVs of the content.
    pub first_cv: u32,
}

impl Large {
    /// The numbers of its CVs among all CVs of the content, as indexes.
    #[must_use]
    pub fn cvs(&self) -> Range<usize> {
        self.first_cv as usize..(self.first_cv + self.pieces) as usize
    }
}

#[derive(Debug, Clone, Copy)]
enum Span {
    Large(u32),
    Pack { first: u32, count: u32, length: u32 },
}

/// The pieces of a content.
#[derive(Debug, Clone)]
pub struct Geometry {
    piece_size: u32,
    pieces: u32,
    bytes: u64,
    /// Sorted by the first piece; neighbours have no gap between them.
    spans: Vec<(u32, Span)>,
    large: Vec<Large>,
    members: Vec<u32>,
}

impl Geometry {
    /// Cuts files, given as (entry index, size) in manifest order.
    ///
    /// # Errors
    /// When the piece size is not allowed, the total overflows, or there would be too many pieces.
    pub fn new(piece_size: u32, files: impl Iterator<Item = (u32, u64)>) -> Result<Self, ManifestError> {
        if !piece_size_is_valid(piece_size.into()) {
            return Err(ManifestError::PieceSize(piece_size.into()));
        }
        let size = u64::from(piece_size);
        let mut out =
            Self { piece_size, pieces: 0, bytes: 0, spans: Vec::new(), large: Vec::new(), members: Vec::new() };
        let mut pieces = 0_u64;
        let mut cvs = 0_u64;
        // Position in `spans` of the pack that can still grow.
        let mut open: Option<usize> = None;
        let narrow = |n: u64| u32::try_from(n).map_err(|_| too_many(n));
        for (entry, bytes) in files {
            out.bytes = out.bytes.checked_add(bytes).filter(|b| *b <= 1 << 63).ok_or(ManifestError::TotalSize)?;
            if bytes == 0 {
                continue;
            }
            if bytes > size {
                let count = bytes.div_ceil(size);
                let file = Large {
                    entry,
                    first_piece: narrow(pieces)?,
                    pieces: narrow(count)?,
                    size: bytes,
                    first_cv: narrow(cvs)?,
                };
                out.spans.push((file.first_piece, Span::Large(narrow(out.large.len() as u64)?)));
                out.large.push(file);
                pieces += count;
                cvs += count;
            } else {
                let small = narrow(bytes)?;
                let fits = open.and_then(|at| match &mut out.spans[at].1 {
                    Span::Pack { count, length, .. }
                        if u64::from(*length) + bytes <= size && (*count as usize) < PACK_MEMBERS =>
                    {
                        *count += 1;
                        *length += small;
                        Some(())
                    }
                    _ => None,
                });
                if fits.is_none() {
                    let first = narrow(out.members.len() as u64)?;
                    open = Some(out.spans.len());
                    out.spans.push((narrow(pieces)?, Span::Pack { first, count: 1, length: small }));
                    pieces += 1;
                }
                out.members.push(entry);
            }
            if pieces > PIECES {
                return Err(too_many(pieces));
            }
        }
        out.pieces = narrow(pieces)?;
        out.spans.shrink_to_fit();
        out.members.shrink_to_fit();
        Ok(out)
    }

    /// The piece size in bytes.
    #[must_use]
    pub fn piece_size(&self) -> u32 {
        self.piece_size
    }

    /// Number of pieces.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Payload bytes of the whole content.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entry indexes of all small files, pack after pack.
    #[must_use]
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// Those of one pack, which is given as in [`Piece::Pack`].
    #[must_use]
    pub fn members_of(&self, first: u32, count: u32) -> &[u32] {
        self.members.get(first as usize..(first + count) as usize).unwrap_or_default()
    }

    /// The large files in order.
    #[must_use]
    pub fn large(&self) -> &[Large] {
        &self.large
    }

    /// Number of chaining values of the whole content: one for each piece of a large file.
    #[must_use]
    pub fn cvs(&self) -> u32 {
        self.large.last().map_or(0, |f| f.first_cv + f.pieces)
    }

    /// What a piece consists of, or `None` past the last one.
    #[must_use]
    pub fn piece(&self, piece: u32) -> Option<Piece> {
        if piece >= self.pieces {
            return None;
        }
        let at = self.spans.partition_point(|(first, _)| *first <= piece) - 1;
        let (first_piece, span) = self.spans[at];
        Some(match span {
            Span::Pack { first, count, length } => Piece::Pack { first, count, length },
            Span::Large(file) => {
                let file = self.large[file as usize];
                let index = piece - first_piece;
                let offset = u64::from(index) * u64::from(self.piece_size);
                let length = (file.size - offset).min(self.piece_size.into()) as u32;
                Piece::Subtree { entry: file.entry, index, offset, length }
            }
        })
    }

    /// Length of a piece in bytes; 0 past the last one.
    #[must_use]
    pub fn piece_length(&self, piece: u32) -> u32 {
        self.piece(piece).map_or(0, |p| p.length())
    }

    /// Number of the piece's CV among all CVs of the content, or `None` for packs and past the end.
    #[must_use]
    pub fn cv_index(&self, piece: u32) -> Option<u32> {
        let file = self.large_at(piece)?;
        Some(file.first_cv + (piece - file.first_piece))
    }

    /// The large file that a piece belongs to.
    #[must_use]
    pub fn large_at(&self, piece: u32) -> Option<&Large> {
        let at = self.large.partition_point(|f| f.first_piece <= piece).checked_sub(1)?;
        self.large.get(at).filter(|f| piece - f.first_piece < f.pieces)
    }

    /// The large files that have pieces in `first..first + count`, each with that part as a range of its own pieces.
    pub fn large_within(&self, first: u32, count: u32) -> impl Iterator<Item = (&Large, std::ops::Range<u32>)> {
        let end = first.saturating_add(count);
        let start = self.large.partition_point(|f| f.first_piece + f.pieces <= first);
        self.large[start..].iter().take_while(move |f| f.first_piece < end).map(move |f| {
            let low = first.saturating_sub(f.first_piece);
            let high = (end - f.first_piece).min(f.pieces);
            (f, low..high)
        })
    }
}

fn too_many(pieces: u64) -> ManifestError {
    ManifestError::Limit { what: "the number of pieces", value: pieces, limit: PIECES }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: u64 = 65_536;

    fn cut(sizes: &[u64]) -> Geometry {
        Geometry::new(P as u32, (0..).zip(sizes.iter().copied())).unwrap()
    }

    #[test]
    fn the_auto_rule_is_frozen() {
        for (total, size) in [
            (0, 64 << 10),
            (1, 64 << 10),
            (128 << 20, 64 << 10),
            ((128 << 20) + 1, 128 << 10),
            (1 << 30, 512 << 10),
            (8 << 30, 4 << 20),
            (1 << 40, 4 << 20),
            (8 << 40, 4 << 20),
            ((8 << 40) + 1, 8 << 20),
            (u64::MAX, 16 << 20),
        ] {
            assert_eq!(auto_piece_size(total), size, "{total}");
        }
    }

    #[test]
    fn a_file_of_exactly_one_piece_is_a_pack_member() {
        assert_eq!(cut(&[P]).piece(0), Some(Piece::Pack { first: 0, count: 1, length: 65_536 }));
        assert_eq!(cut(&[P + 1]).piece(1), Some(Piece::Subtree { entry: 0, index: 1, offset: P, length: 1 }));
    }

    #[test]
    fn large_files_do_not_close_a_pack() {
        let g = cut(&[10, 0, P * 2, 20, P, 5]);
        assert_eq!(g.pieces(), 5);
        assert_eq!(g.piece(0), Some(Piece::Pack { first: 0, count: 2, length: 30 }));
        assert!(matches!(g.piece(1), Some(Piece::Subtree { entry: 2, index: 0, .. })));
        assert_eq!(g.piece(3), Some(Piece::Pack { first: 2, count: 1, length: 65_536 }));
        assert_eq!(g.piece(4), Some(Piece::Pack { first: 3, count: 1, length: 5 }));
        assert_eq!(g.members(), [0, 3, 4, 5]);
        assert_eq!(g.piece(5), None);
        assert_eq!(g.cv_index(0), None);
        assert_eq!(g.cv_index(2), Some(1));
    }

    #[test]
    fn a_pack_holds_at_most_its_members() {
        for (count, pieces) in [(1023, 1), (1024, 1), (1025, 2)] {
            assert_eq!(cut(&vec![1; count]).pieces(), pieces);
        }
    }

    #[test]
    fn overflowing_sizes_are_refused() {
        assert!(matches!(
            Geometry::new(65_536, [(0, u64::MAX), (1, u64::MAX)].into_iter()),
            Err(ManifestError::TotalSize)
        ));
        assert!(matches!(Geometry::new(65_536, [(0, 1 << 63)].into_iter()), Err(ManifestError::Limit { .. })));
        for bad in [0, 1, 65_535, 65_537, 32_768, 1 << 25] {
            assert!(Geometry::new(bad, std::iter::empty()).is_err());
        }
        let limit = PIECES * P;
        assert!(Geometry::new(65_536, [(0, limit)].into_iter()).is_ok());
        assert!(Geometry::new(65_536, [(0, limit + 1)].into_iter()).is_err());
    }

    /// The rule of the module's comment, said a second time and slowly: a piece is a list of (entry, offset, length).
    fn reference(sizes: &[u64]) -> Vec<Vec<(u32, u64, u64)>> {
        let mut pieces: Vec<Vec<(u32, u64, u64)>> = Vec::new();
        let mut open = None;
        for (entry, size) in (0..).zip(sizes.iter().copied()) {
            if size > P {
                for at in (0..size).step_by(P as usize) {
                    pieces.push(vec![(entry, at, P.min(size - at))]);
                }
            } else if size > 0 {
                let at = open.filter(|p: &usize| {
                    pieces[*p].len() < 1024 && pieces[*p].iter().map(|m| m.2).sum::<u64>() + size <= P
                });
                let at = at.unwrap_or_else(|| {
                    pieces.push(Vec::new());
                    pieces.len() - 1
                });
                open = Some(at);
                pieces[at].push((entry, 0, size));
            }
        }
        pieces
    }

    proptest! {
        #[test]
        fn geometry_equals_the_reference(sizes in prop::collection::vec(
            prop_oneof![Just(0), 1..100_u64, 1000..40_000_u64, P - 1..P + 2, P..P * 5], 0..60)) {
            let g = cut(&sizes);
            let expected = reference(&sizes);
            prop_assert_eq!(g.pieces() as usize, expected.len());
            let mut cvs = 0;
            for (n, parts) in (0..).zip(&expected) {
                match g.piece(n).unwrap() {
                    Piece::Subtree { entry, offset, length, .. } => {
                        prop_assert_eq!(&vec![(entry, offset, u64::from(length))], parts);
                        prop_assert_eq!(g.cv_index(n), Some(cvs));
                        cvs += 1;
                    }
                    Piece::Pack { first, count, length } => {
                        let members = &g.members_of(first, count);
                        let got: Vec<_> = members.iter().map(|m| (*m, 0, sizes[*m as usize])).collect();
                        prop_assert_eq!(&got, parts);
                        prop_assert_eq!(u64::from(length), parts.iter().map(|p| p.2).sum::<u64>());
                        prop_assert_eq!(g.cv_index(n), None);
                    }
                }
            }
            prop_assert_eq!(g.cvs(), cvs);
        }
    }
}
