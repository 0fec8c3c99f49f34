//! A model host: one swarm, and the disk and links that its outputs work on.

use crate::link::{Downlink, Uplink};
use shoal_peer::swarm::{Outcome, Swarm, Time};
use shoal_protocol::message::{Block, RejectReason};
use shoal_protocol::{Geometry, Hash, PeerId};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// What a host does wrong.
#[derive(Debug, Clone, Default)]
pub struct Vices {
    /// Fraction of its pieces that go out wrong.
    pub corrupt: f64,
    /// It answers every request so.
    pub reject: Option<RejectReason>,
    /// Its reads fail.
    pub can_not_read: bool,
    /// It takes requests, sends nothing, and lets go of a block whenever that is taken back.
    pub withholds: bool,
    /// It keeps to itself what it has.
    pub hides: bool,
}

/// One machine.
#[derive(Debug)]
pub struct Host {
    /// Its swarm; `None` before it joins and after it dies.
    pub swarm: Option<Box<Swarm>>,
    /// Its name.
    pub peer: PeerId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// It brought the content.
    pub origin: bool,
    /// It is expected to complete.
    pub must_complete: bool,
    /// When it came.
    pub joined: Time,
    /// When its first piece was verified.
    pub first_piece: Option<Time>,
    /// When it completed.
    pub finished: Option<Time>,
    /// It does not react.
    pub stalled: bool,
    /// Its cable is out.
    pub unplugged: bool,
    /// What it does wrong.
    pub vices: Vices,
    /// It leaves this long after it completed.
    pub leaves_after: Option<u64>,
    /// What it sends through.
    pub up: Uplink,
    /// What it receives through.
    pub down: Downlink,
    /// The timer that counts; earlier ones were moved.
    pub timer: Time,
    /// Its disk.
    pub disk: Disk,
}

impl Host {
    /// Whether it takes part.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.swarm.is_some()
    }
}

/// Blocks on a disk, good or bad, and what the hasher was fed.
#[derive(Debug, Default)]
pub struct Disk {
    pieces: BTreeMap<u32, Vec<Option<(bool, usize)>>>,
    fed: BTreeMap<u32, Vec<u32>>,
    /// What arrived and waits for the swarm's word: (block, good, sender).
    pub arrived: VecDeque<(Block, bool, usize)>,
}

impl Disk {
    /// Writes a block and feeds it to the piece's hash.
    ///
    /// # Panics
    /// When the swarm stores what did not just arrive, or a block twice in one try.
    pub fn store(&mut self, geometry: &Geometry, block: Block, last: bool) {
        let (arrived, good, from) = self.arrived.pop_front().expect("a store answers an arrival");
        assert_eq!(arrived, block, "another block was stored than the one that came");
        let count = geometry.piece_length(block.piece).div_ceil(shoal_protocol::limits::BLOCK_BYTES);
        let index = block.offset / shoal_protocol::limits::BLOCK_BYTES;
        self.pieces.entry(block.piece).or_insert_with(|| vec![None; count as usize])[index as usize] =
            Some((good, from));
        let fed = self.fed.entry(block.piece).or_default();
        assert!(!fed.contains(&index), "block {index} of piece {} was stored twice in one try", block.piece);
        fed.push(index);
        assert_eq!(last, fed.len() == count as usize, "`last` is wrong for piece {}", block.piece);
        if last {
            self.fed.remove(&block.piece);
        }
    }

    /// The piece is had: where its blocks came from no longer matters.
    pub fn forget(&mut self, piece: u32) {
        self.pieces.remove(&piece);
    }

    /// Forgets what was hashed.
    pub fn restart(&mut self, piece: u32) {
        self.fed.remove(&piece);
    }

    /// Whether all blocks of a piece are right.
    #[must_use]
    pub fn is_good(&self, piece: u32) -> bool {
        self.pieces.get(&piece).is_some_and(|p| p.iter().all(|b| b.is_some_and(|(good, _)| good)))
    }

    /// What a piece hashes to.
    #[must_use]
    pub fn outcome(&self, geometry: &Geometry, cvs: &[Hash], piece: u32) -> Outcome {
        let good = self.is_good(piece);
        match geometry.cv_index(piece) {
            Some(at) if good => Outcome::Cv(cvs[at as usize]),
            Some(_) => Outcome::Cv([0xbb; 32]),
            None => Outcome::Pack(good),
        }
    }

    /// Hashes of the single blocks: right ones are alike wherever they came from, wrong ones name their sender.
    #[must_use]
    pub fn block_hashes(&self, piece: u32) -> Vec<Hash> {
        let blocks = self.pieces.get(&piece).map_or(&[][..], Vec::as_slice);
        (0..)
            .zip(blocks)
            .map(|(index, block)| {
                let mut hash = [index as u8; 32];
                if let Some((false, from)) = block {
                    hash[0] = 0xff;
                    hash[1] = *from as u8;
                }
                hash
            })
            .collect()
    }
}
