//! What must hold between any two inputs. For tests: it costs a walk over everything.

use super::pieces::{BlockState, Stage};
use super::requests::Asked;
use super::state::Swarm;
use shoal_protocol::Bitfield;

macro_rules! must {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

impl Swarm {
    /// Checks the accounts of all mechanisms against each other.
    ///
    /// # Errors
    /// Says which account is wrong.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_counts()?;
        self.check_requests()?;
        self.check_pieces()?;
        self.check_zones()?;
        self.turns.check(self.sessions.iter().map(|(c, s)| (*c, s)))?;
        if let Some(spread) = &self.spread {
            // What a peer has counts when it has said all of it.
            let none = Bitfield::none(self.geometry.pieces());
            spread.check(self.sessions.iter().map(|(c, s)| (*c, if s.told { &s.have } else { &none })))?;
        }
        Ok(())
    }

    /// Availability and usefulness agree with what the peers have.
    fn check_counts(&self) -> Result<(), String> {
        let told = || self.sessions.values().filter(|s| s.told);
        let seeds = told().filter(|s| s.have.is_complete()).count() as u32;
        for piece in 0..self.geometry.pieces() {
            let leechers = told().filter(|s| !s.have.is_complete() && s.have.has(piece)).count() as u32;
            let counted = self.picker.leechers_with(piece);
            must!(counted == leechers, "piece {piece}: {counted} leechers counted, {leechers} have it");
            must!(
                self.picker.availability(piece) == leechers + seeds,
                "piece {piece}: {seeds} seeds are not what is counted"
            );
        }
        for (conn, session) in self.sessions.iter().filter(|(_, s)| s.told) {
            let useful = session.have.ones().filter(|p| !self.have.has(*p)).count() as u32;
            must!(session.useful == useful, "connection {conn}: useful is {}, should be {useful}", session.useful);
        }
        let done: u64 = self.have.ones().map(|p| u64::from(self.geometry.piece_length(p))).sum();
        must!(self.done_bytes == done, "{} bytes counted as done, {done} are", self.done_bytes);
        Ok(())
    }

    /// Blocks asked for and pipelines are the same thing seen from two sides.
    fn check_requests(&self) -> Result<(), String> {
        for (conn, session) in self.sessions.iter() {
            let bytes: u64 = session.pipeline.asked.iter().map(|a| u64::from(a.block.length)).sum();
            must!(bytes == session.pipeline.bytes, "connection {conn}: {bytes} bytes asked, not what is counted");
            let to_us = |a: &&Asked| a.recalled.is_some_and(|(thief, _)| thief == *conn);
            let all = self.sessions.values().flat_map(|s| &s.pipeline.asked);
            let promised: u64 = all.filter(to_us).map(|a| u64::from(a.block.length)).sum();
            must!(promised == session.pipeline.promised, "connection {conn}: {promised} bytes taken back for it");
            must!(!session.closing || session.pipeline.asked.is_empty(), "connection {conn} closes and owes blocks");
            for asked in &session.pipeline.asked {
                let progress = self.pieces.map.get(&asked.block.piece);
                let state = progress.and_then(|p| p.index_of(asked.block).map(|i| p.blocks[i as usize]));
                let known = matches!(state, Some(BlockState::Asked(a)) if a == *conn);
                must!(known, "connection {conn} owes {:?}, which stands at {state:?}", asked.block);
            }
            let writing = (session.turn.writing.0 == 0) == (session.turn.writing.1 == 0);
            must!(writing, "connection {conn} writes {:?}", session.turn.writing);
        }
        for (piece, progress) in &self.pieces.map {
            for (index, state) in progress.blocks.iter().enumerate() {
                let BlockState::Asked(conn) = *state else { continue };
                let block = progress.block(*piece, index as u32);
                let owes = self.sessions.get(&conn).is_some_and(|s| s.pipeline.asked.iter().any(|k| k.block == block));
                must!(owes, "block {index} of piece {piece} is asked of {conn}, which doesn't know");
            }
        }
        Ok(())
    }

    /// Every piece that we lack is in one place, and somebody goes on with every block that nobody was asked for.
    fn check_pieces(&self) -> Result<(), String> {
        for piece in 0..self.geometry.pieces() {
            let (had, under_way) = (self.have.has(piece), self.pieces.map.contains_key(&piece));
            let listed = self.picker.is_listed(piece);
            let places = u32::from(had) + u32::from(under_way) + u32::from(listed);
            must!(
                places == 1 || (places == 0 && self.told_complete),
                "piece {piece}: had {had}, under way {under_way}, startable {listed}"
            );
        }
        for (piece, progress) in &self.pieces.map {
            let fetching = progress.stage == Stage::Fetching;
            let open = fetching && progress.first_missing().is_some();
            let orphan = self.pieces.orphans.contains(piece);
            must!(!orphan || open, "piece {piece} is an orphan with nothing to do: {progress:?}");
            let cared_for = progress.owner.is_some_and(|o| self.on_piece.get(&o) == Some(piece));
            must!(!open || orphan || cared_for, "nobody goes on with piece {piece}: {progress:?}");
            must!(!fetching || !progress.is_whole(), "piece {piece} is whole and still fetched");
        }
        for piece in &self.pieces.orphans {
            must!(self.pieces.map.contains_key(piece), "orphan {piece} is not under way");
        }
        Ok(())
    }
}
