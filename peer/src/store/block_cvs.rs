//! A piece of a large file as the blocks that it comes in: each is a BLAKE3 subtree, too.
//!
//! So whoever has a block hashes it alone, at once and in any order, and the piece's chaining value (CV) is folded from
//! those of its blocks: nothing is read back because something came out of order.

use shoal_protocol::geometry::{Geometry, Piece};
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::message::Block;
use shoal_protocol::tree::{piece_cv, subtree_cv};
use shoal_protocol::{Hash, Manifest};

/// The CV of a block; `None` when it lies in a pack, or isn't one that a piece is cut into.
#[must_use]
pub fn block_cv(geometry: &Geometry, block: Block, bytes: &[u8]) -> Option<Hash> {
    let Some(Piece::Subtree { offset, length, .. }) = geometry.piece(block.piece) else { return None };
    let is_whole = block.offset.is_multiple_of(BLOCK_BYTES)
        && length.checked_sub(block.offset).is_some_and(|left| left.min(BLOCK_BYTES) == block.length);
    if is_whole && bytes.len() == block.length as usize {
        piece_cv(offset + u64::from(block.offset), bytes)
    } else {
        None
    }
}

/// The CVs of one piece's blocks, as far as they are there.
#[derive(Debug)]
pub struct BlockCvs(Vec<Option<Hash>>);

impl BlockCvs {
    /// Of a piece of which nothing is there.
    #[must_use]
    pub fn new(manifest: &Manifest, piece: u32) -> Self {
        Self(vec![None; manifest.geometry().piece_length(piece).div_ceil(BLOCK_BYTES) as usize])
    }

    /// Notes a block that was written, over an earlier one in its place.
    pub fn put(&mut self, block: Block, cv: Option<Hash>) {
        if let Some(place) = self.0.get_mut((block.offset / BLOCK_BYTES) as usize) {
            *place = cv;
        }
    }

    /// The CV of the piece, once those of all its blocks are there.
    #[must_use]
    pub fn fold(&self) -> Option<Hash> {
        subtree_cv(&self.0.iter().copied().collect::<Option<Vec<_>>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{content_of, manifest_of_sizes, piece_bytes};

    /// A piece of four blocks.
    const P: u64 = 4 * BLOCK_BYTES as u64;

    fn blocks(manifest: &Manifest, piece: u32) -> Vec<Block> {
        let total = manifest.geometry().piece_length(piece);
        let block = |offset| Block { piece, offset, length: (total - offset).min(BLOCK_BYTES) };
        (0..total).step_by(BLOCK_BYTES as usize).map(block).collect()
    }

    #[test]
    fn blocks_in_any_order_fold_to_the_piece() {
        // Last pieces of one byte, less than a block, a block, a byte more, and nearly all.
        for last in [1, 5_000, P / 4, P / 4 + 1, P - 1] {
            let sizes = [P * 2 + last];
            let (manifest, content) = (manifest_of_sizes(&sizes, P), content_of(&sizes));
            for piece in 0..manifest.geometry().pieces() {
                let bytes = piece_bytes(&manifest, &content, piece);
                let offset = u64::from(piece) * P;
                let mut cvs = BlockCvs::new(&manifest, piece);
                for block in blocks(&manifest, piece).into_iter().rev() {
                    assert_eq!(cvs.fold(), None);
                    let own = &bytes[block.offset as usize..][..block.length as usize];
                    let cv = block_cv(manifest.geometry(), block, own);
                    assert!(cv.is_some());
                    cvs.put(block, cv);
                }
                assert_eq!(cvs.fold(), piece_cv(offset, &bytes), "{last} {piece}");
                cvs.put(Block { piece, offset: 0, length: 1 }, None);
                assert_eq!(cvs.fold(), None);
            }
        }
    }

    #[test]
    fn a_changed_byte_changes_the_piece_and_other_cuts_have_no_cv() {
        let manifest = manifest_of_sizes(&[P * 2, 100], P);
        let geometry = manifest.geometry();
        let mut bytes = vec![7; BLOCK_BYTES as usize];
        let block = Block { piece: 1, offset: BLOCK_BYTES, length: BLOCK_BYTES };
        let cv = block_cv(geometry, block, &bytes);
        bytes[1_000] ^= 1;
        assert!(cv.is_some() && block_cv(geometry, block, &bytes) != cv);
        for other in [
            Block { offset: 1_024, ..block },
            Block { offset: u32::MAX, ..block },
            Block { offset: P as u32, ..block },
            Block { length: 1_024, ..block },
            Block { piece: 2, offset: 0, length: 100 },
            Block { piece: 3, ..block },
        ] {
            assert_eq!(block_cv(geometry, other, &bytes[..other.length as usize]), None, "{other:?}");
        }
        assert_eq!(block_cv(geometry, block, &bytes[1..]), None);
    }
}
