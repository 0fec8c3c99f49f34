//! Verifies a piece as its bytes arrive in order, however they are cut.
//!
//! A piece of a large file is one BLAKE3 subtree; a pack is checked member by member against the roots in the manifest.
//! Too many bytes or too few fail, as does a subtree whose chaining value (CV) isn't known: its own CV can then be taken
//! with [`PieceCheck::cv`] and compared later.

use shoal_protocol::geometry::Piece;
use shoal_protocol::tree::PieceHasher;
use shoal_protocol::{Hash, Manifest};

/// The check of one piece.
#[derive(Debug)]
pub struct PieceCheck(Kind);

#[derive(Debug)]
enum Kind {
    Subtree {
        hasher: Box<PieceHasher>,
        expected: Option<Hash>,
        left: u32,
    },
    Pack {
        hasher: Box<blake3::Hasher>,
        /// Sizes and roots of the members.
        members: Vec<(u32, Hash)>,
        at: usize,
        /// Bytes that the current member still lacks.
        left: u32,
    },
    Failed,
}

impl PieceCheck {
    /// Starts the check of a piece. `expected_cv` is needed for pieces of large files only.
    #[must_use]
    pub fn new(manifest: &Manifest, piece: u32, expected_cv: Option<Hash>) -> Self {
        let geometry = manifest.geometry();
        Self(match geometry.piece(piece) {
            None => Kind::Failed,
            Some(Piece::Subtree { offset, length, .. }) => {
                Kind::Subtree { hasher: Box::new(PieceHasher::new(offset)), expected: expected_cv, left: length }
            }
            Some(Piece::Pack { first, count, .. }) => {
                let members: Vec<_> = geometry
                    .members_of(first, count)
                    .iter()
                    .map(|m| (manifest.entries()[*m as usize].size() as u32, manifest.root(*m)))
                    .collect();
                let left = members.first().map_or(0, |m| m.0);
                Kind::Pack { hasher: Box::default(), members, at: 0, left }
            }
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        match &mut self.0 {
            Kind::Failed => {}
            Kind::Subtree { hasher, left, .. } => match left.checked_sub(bytes.len() as u32) {
                Some(rest) if bytes.len() <= u32::MAX as usize => {
                    hasher.update(bytes);
                    *left = rest;
                }
                _ => self.0 = Kind::Failed,
            },
            Kind::Pack { hasher, members, at, left } => {
                while !bytes.is_empty() {
                    let Some((_, root)) = members.get(*at) else {
                        self.0 = Kind::Failed;
                        return;
                    };
                    let (now, later) = bytes.split_at(bytes.len().min(*left as usize));
                    hasher.update(now);
                    bytes = later;
                    *left -= now.len() as u32;
                    if *left == 0 {
                        if *hasher.finalize().as_bytes() != *root {
                            self.0 = Kind::Failed;
                            return;
                        }
                        hasher.reset();
                        *at += 1;
                        *left = members.get(*at).map_or(0, |m| m.0);
                    }
                }
            }
        }
    }

    /// The CV of the piece, once all its bytes are in; `None` for packs.
    #[must_use]
    pub fn cv(&self) -> Option<Hash> {
        if let Kind::Subtree { hasher, left: 0, .. } = &self.0 { hasher.finish() } else { None }
    }

    /// Whether the piece is what it should be.
    #[must_use]
    pub fn finish(&self) -> bool {
        match &self.0 {
            Kind::Failed => false,
            Kind::Subtree { expected, .. } => expected.is_some() && self.cv() == *expected,
            Kind::Pack { members, at, .. } => *at == members.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{content_of, manifest_of_sizes, piece_bytes};
    use proptest::prelude::*;
    use shoal_protocol::tree::piece_cv;

    const P: u64 = 65_536;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_cut_gives_the_same_result_and_a_changed_byte_fails(
            sizes in prop::collection::vec(prop_oneof![1..3000_u64, Just(P), P + 1..P * 2], 1..12),
            cuts in prop::collection::vec(1..30_000_usize, 1..20), flip in any::<prop::sample::Index>(),
        ) {
            let manifest = manifest_of_sizes(&sizes, P);
            for piece in 0..manifest.geometry().pieces() {
                let mut bytes = piece_bytes(&manifest, &content_of(&sizes), piece);
                let cv = match manifest.geometry().piece(piece) {
                    Some(Piece::Subtree { offset, .. }) => piece_cv(offset, &bytes),
                    _ => None,
                };
                let check = |bytes: &[u8]| {
                    let mut check = PieceCheck::new(&manifest, piece, cv);
                    let mut rest = bytes;
                    for cut in cuts.iter().cycle() {
                        if rest.is_empty() { break; }
                        let (now, later) = rest.split_at(rest.len().min(*cut));
                        check.update(now);
                        rest = later;
                    }
                    prop_assert_eq!(check.cv().is_some(), cv.is_some() && bytes.len() == piece_len(&manifest, piece));
                    Ok(check.finish())
                };
                prop_assert!(check(&bytes)?);
                prop_assert!(!check(&bytes[..bytes.len() - 1])?);
                bytes.push(0);
                prop_assert!(!check(&bytes)?);
                bytes.pop();
                let at = flip.index(bytes.len());
                bytes[at] ^= 1;
                prop_assert!(!check(&bytes)?);
            }
        }
    }

    fn piece_len(manifest: &Manifest, piece: u32) -> usize {
        manifest.geometry().piece_length(piece) as usize
    }

    #[test]
    fn an_unknown_cv_does_not_pass() {
        let manifest = manifest_of_sizes(&[P * 2], P);
        let mut check = PieceCheck::new(&manifest, 0, None);
        check.update(&piece_bytes(&manifest, &content_of(&[P * 2]), 0));
        assert!(!check.finish());
        assert!(check.cv().is_some());
        assert!(!PieceCheck::new(&manifest, 2, None).finish());
    }
}
