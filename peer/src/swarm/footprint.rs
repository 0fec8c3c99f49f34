//! How much memory a swarm's state takes: an estimate from what it holds, for measurements.

use super::requests::Asked;
use super::session::Session;
use super::state::Swarm;
use shoal_protocol::message::Hello;

/// A connection's row in the table of turns.
const ROW: usize = 64;
/// What a tree map adds to each of its entries, roughly.
const NODE: usize = 16;

impl Swarm {
    /// Bytes of state, allocations included, without what the driver holds.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        let pieces = self.geometry.pieces() as usize;
        let session = |s: &Session| {
            let asked = s.pipeline.asked.capacity() * size_of::<Asked>();
            let lists = s.turn.queue.footprint() + s.refused.len() * (12 + NODE) + s.owed_haves.capacity() * 4;
            size_of::<Session>() + size_of::<Hello>() + 12 + ROW + pieces.div_ceil(8) + asked + lists
        };
        let sessions: usize = self.sessions.values().map(session).sum();
        let under_way: usize = self.pieces.map.values().map(|p| 64 + NODE + p.blocks.len() * 16).sum();
        let spread = if self.spread.is_some() { pieces * 8 + pieces / 8 } else { 0 };
        // What is had, and per piece a count, a place and a position of the picker, and a CV.
        let per_piece = pieces / 8 + pieces * (2 + 4 + 4 + 33) + pieces / 8;
        size_of::<Self>()
            + sessions
            + under_way
            + spread
            + per_piece
            + self.book.state_bytes()
            + self.pex.state_bytes()
            + self.zones.state_bytes()
    }
}
