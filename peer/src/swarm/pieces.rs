//! Pieces under way: which blocks are missing, asked for, or there, and who sent them.

use super::ConnId;
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::message::Block;
use std::collections::BTreeMap;

/// Where one block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// Nobody was asked.
    Missing,
    /// Asked of one peer.
    Asked(ConnId),
    /// There, from this peer.
    Received(ConnId),
}

/// Where a piece stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Blocks are missing.
    Fetching,
    /// All blocks are there; what they hash to isn't known yet.
    Hashing,
    /// It is hashed, but the CV that it should have isn't known yet.
    AwaitingCv(shoal_protocol::Hash),
    /// It is right; the journal is being written.
    Committing,
}

/// One piece under way.
#[derive(Debug, Clone)]
pub struct Progress {
    /// From whom the next blocks are asked. A piece is taken from one peer at a time, so that a bad one names its sender.
    pub owner: Option<ConnId>,
    /// Its blocks.
    pub blocks: Vec<BlockState>,
    /// Where it stands.
    pub stage: Stage,
    /// Its blocks must all come from one peer: the last try was bad and several had a hand in it.
    pub solo: bool,
    length: u32,
    received: u32,
}

/// How many blocks a piece of this length has.
#[must_use]
pub fn blocks_in(length: u32) -> u32 {
    length.div_ceil(BLOCK_BYTES)
}

impl Progress {
    /// Nothing asked for so far.
    #[must_use]
    pub fn new(length: u32) -> Self {
        Self {
            owner: None,
            blocks: vec![BlockState::Missing; blocks_in(length) as usize],
            stage: Stage::Fetching,
            solo: false,
            length,
            received: 0,
        }
    }

    /// The block with this number.
    #[must_use]
    pub fn block(&self, piece: u32, index: u32) -> Block {
        let offset = index * BLOCK_BYTES;
        Block { piece, offset, length: (self.length - offset).min(BLOCK_BYTES) }
    }

    /// The number of a block, if it is exactly one of this piece.
    #[must_use]
    pub fn index_of(&self, block: Block) -> Option<u32> {
        let index = block.offset / BLOCK_BYTES;
        let fits = (index as usize) < self.blocks.len() && self.block(block.piece, index) == block;
        if fits { Some(index) } else { None }
    }

    /// The first block that nobody was asked for.
    #[must_use]
    pub fn first_missing(&self) -> Option<u32> {
        self.blocks.iter().position(|b| *b == BlockState::Missing).map(|i| i as u32)
    }

    /// Notes that a block is there; returns whether it is new.
    pub fn receive(&mut self, index: u32, from: ConnId) -> bool {
        let state = &mut self.blocks[index as usize];
        if matches!(state, BlockState::Received(_)) {
            return false;
        }
        *state = BlockState::Received(from);
        self.received += 1;
        true
    }

    /// Whether all blocks are there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.received as usize == self.blocks.len()
    }

    /// Whether some block is there.
    #[must_use]
    pub fn has_received(&self) -> bool {
        self.received > 0
    }

    /// Starts over: nothing is there, nobody is asked.
    pub fn clear(&mut self) {
        self.blocks.fill(BlockState::Missing);
        self.received = 0;
        self.owner = None;
    }

    /// Whether not a single block is there or asked for.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.blocks.iter().all(|b| *b == BlockState::Missing)
    }

    /// Who sent blocks of it, each once.
    #[must_use]
    pub fn senders(&self) -> Vec<ConnId> {
        let mut out: Vec<ConnId> =
            self.blocks.iter().filter_map(|b| if let BlockState::Received(c) = b { Some(*c) } else { None }).collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Gives back a block that was asked of `conn`; returns whether nobody is asked for it any more.
    pub fn unask(&mut self, index: u32, conn: ConnId) -> bool {
        let state = &mut self.blocks[index as usize];
        *state = match *state {
            BlockState::Asked(a) if a == conn => BlockState::Missing,
            same => same,
        };
        *state == BlockState::Missing
    }
}

/// All pieces under way.
#[derive(Debug, Default)]
pub struct Pieces {
    /// By number.
    pub map: BTreeMap<u32, Progress>,
    /// Pieces with a missing block and no owner: somebody else should go on with them.
    pub orphans: std::collections::BTreeSet<u32>,
}

impl Pieces {
    /// The piece is started, or gone on with, by this peer.
    pub fn own(&mut self, piece: u32, length: u32, owner: ConnId) -> &mut Progress {
        self.orphans.remove(&piece);
        let progress = self.map.entry(piece).or_insert_with(|| Progress::new(length));
        progress.owner = Some(owner);
        progress
    }

    /// Nobody owns the piece any more.
    pub fn disown(&mut self, piece: u32) {
        if let Some(progress) = self.map.get_mut(&piece) {
            progress.owner = None;
            if progress.stage == Stage::Fetching && progress.first_missing().is_some() {
                self.orphans.insert(piece);
            }
        }
    }

    /// Whether blocks from this connection are part of a piece under way.
    #[must_use]
    pub fn is_sender(&self, conn: ConnId) -> bool {
        self.map.values().any(|p| p.blocks.contains(&BlockState::Received(conn)))
    }

    /// The piece is no longer under way.
    pub fn remove(&mut self, piece: u32) -> Option<Progress> {
        self.orphans.remove(&piece);
        self.map.remove(&piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_block_is_shorter_and_no_other_cut_is_accepted() {
        let p = Progress::new(BLOCK_BYTES + 5);
        assert_eq!(p.blocks.len(), 2);
        assert_eq!(p.block(7, 1), Block { piece: 7, offset: BLOCK_BYTES, length: 5 });
        assert_eq!(p.index_of(Block { piece: 7, offset: BLOCK_BYTES, length: 5 }), Some(1));
        for (offset, length) in [(BLOCK_BYTES, 6), (BLOCK_BYTES, 4), (1, 5), (2 * BLOCK_BYTES, 1), (0, BLOCK_BYTES - 1)]
        {
            assert_eq!(p.index_of(Block { piece: 7, offset, length }), None);
        }
    }

    #[test]
    fn a_block_counts_once_and_names_its_sender() {
        let mut p = Progress::new(2 * BLOCK_BYTES);
        p.blocks[0] = BlockState::Asked(2);
        assert!(!p.unask(0, 1));
        assert_eq!(p.blocks[0], BlockState::Asked(2));
        assert!(p.unask(0, 2));
        assert!(p.receive(0, 2) && !p.receive(0, 1) && !p.is_whole());
        assert!(p.receive(1, 3) && p.is_whole());
        assert_eq!(p.senders(), [2, 3]);
    }
}
