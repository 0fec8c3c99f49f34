//! Whole pieces: right or wrong, whose fault, had, and lost again.

use super::blame::{Suspect, Suspects};
use super::pieces::{BlockState, Stage};
use super::state::Swarm;
use super::waste::Cause;
use super::{ConnId, Outcome, Output, Time};
use shoal_protocol::limits::HAVE_RANGES;
use shoal_protocol::message::{GoodbyeReason, RejectReason};
use shoal_protocol::{Message, ranges};
use std::collections::BTreeSet;
use std::time::Duration;

/// Verified pieces are told to others together, this long after the first of them.
const HAVE_DELAY: Duration = Duration::from_millis(15);

impl Swarm {
    pub(super) fn hashed(&mut self, now: Time, piece: u32, outcome: Outcome) {
        let Some(progress) = self.pieces.map.get_mut(&piece) else { return };
        if !matches!(progress.stage, Stage::Hashing | Stage::AwaitingCv(_)) {
            return;
        }
        let good = match outcome {
            Outcome::Pack(good) => good,
            Outcome::Cv(cv) => match self.cvs.of_piece(piece) {
                Some(expected) => cv == expected,
                None => {
                    progress.stage = Stage::AwaitingCv(cv);
                    self.fetch_cvs(now);
                    return;
                }
            },
        };
        if good {
            progress.stage = Stage::Committing;
            if let [only] = progress.senders().as_slice()
                && let Some(session) = self.sessions.get_mut(only)
            {
                session.proven = true;
            }
            self.out.push_back(Output::Commit { piece });
            if self.blame.open.contains_key(&piece) {
                self.out.push_back(Output::HashBlocks { piece });
            }
        } else {
            self.bad_piece(now, piece);
        }
    }

    pub(super) fn bad_piece(&mut self, now: Time, piece: u32) {
        self.counters.bad_pieces += 1;
        let Some(progress) = self.pieces.remove(piece) else { return };
        self.counters.waste.add(Cause::Bad, self.geometry.piece_length(piece).into());
        let senders = progress.senders();
        if let [only] = senders.as_slice() {
            if let Some(who) = self.suspect(*only) {
                self.convict(now, who, piece);
            }
            self.picker.insert(piece);
        } else {
            // Several had a hand in it: look at the blocks, then fetch it anew from one peer.
            let who = |s: &BlockState| match s {
                BlockState::Received(conn) => self.suspect(*conn),
                _ => None,
            };
            let suspects: Option<Vec<Suspect>> = progress.blocks.iter().map(who).collect();
            let length = self.geometry.piece_length(piece);
            let again = self.pieces.map.entry(piece).or_insert_with(|| super::pieces::Progress::new(length));
            again.solo = true;
            match suspects {
                Some(senders) if !self.blame.open.contains_key(&piece) => {
                    self.blame.open.insert(piece, Suspects { senders, hashes: Vec::new() });
                    // Nobody may write into it before the bad blocks are hashed.
                    again.stage = Stage::Hashing;
                    self.out.push_back(Output::HashBlocks { piece });
                }
                _ => {
                    self.pieces.orphans.insert(piece);
                }
            }
        }
        self.out.push_back(Output::Restart { piece });
        self.refill_all(now);
    }

    pub(super) fn suspect(&self, conn: ConnId) -> Option<Suspect> {
        self.sessions.get(&conn).map(Suspect::of).or_else(|| self.departed.get(&conn).copied())
    }

    pub(super) fn convict(&mut self, now: Time, who: Suspect, piece: u32) {
        let conn = self.sessions.iter().find(|(_, s)| who.is(s) && !s.closing).map(|(c, _)| *c);
        // Counting only pieces that we lack: would we be stuck without it?
        let needed = conn.and_then(|c| self.sessions.get(&c)).is_some_and(|s| {
            s.have.ones().any(|p| !self.have.has(p) && p != piece && self.picker.availability(p) <= 1)
                || self.picker.availability(piece) <= 1
        });
        let proven = conn.and_then(|c| self.sessions.get(&c)).is_some_and(|s| s.proven);
        let barred = self.blame.bad_piece(now, who, piece, proven, needed);
        self.out.push_back(Output::BadPiece { peer: who.addr, piece, barred });
        if let Some(conn) = conn {
            self.close(conn, GoodbyeReason::BadPiece);
        }
    }

    pub(super) fn block_hashes(&mut self, now: Time, piece: u32, hashes: Vec<shoal_protocol::Hash>) {
        let is_good = self.have.has(piece) || self.pieces.map.get(&piece).is_some_and(|p| p.stage == Stage::Committing);
        if is_good {
            for who in self.blame.find_liars(piece, &hashes) {
                self.convict(now, who, piece);
            }
            return;
        }
        if let Some(case) = self.blame.open.get_mut(&piece) {
            case.hashes = hashes;
        }
        if let Some(progress) = self.pieces.map.get_mut(&piece) {
            progress.stage = Stage::Fetching;
            self.pieces.orphans.insert(piece);
        }
        self.refill_all(now);
    }

    pub(super) fn committed(&mut self, now: Time, piece: u32) {
        if self.pieces.map.get(&piece).is_some_and(|p| p.stage == Stage::Committing) {
            self.pieces.remove(piece);
            self.had(now, piece);
        }
    }

    /// Pieces that lay on disk turned out to be right: nobody needs to send them.
    pub(super) fn found(&mut self, now: Time, pieces: &[u32]) {
        let count = self.geometry.pieces();
        for piece in pieces.iter().copied().filter(|p| *p < count) {
            self.withdraw_piece(now, piece);
            self.picker.remove(piece);
            self.pieces.remove(piece);
            self.had(now, piece);
        }
    }

    fn had(&mut self, now: Time, piece: u32) {
        if !self.have.set(piece, true) {
            return;
        }
        if !self.departed.is_empty() {
            let pieces = &self.pieces;
            self.departed.retain(|conn, _| pieces.is_sender(*conn));
        }
        self.done_bytes += u64::from(self.geometry.piece_length(piece));
        for session in self.sessions.values_mut().filter(|s| s.told && s.have.has(piece)) {
            session.useful = session.useful.saturating_sub(1);
        }
        if self.fresh_haves.is_empty() {
            self.haves_due = now + HAVE_DELAY;
        }
        self.fresh_haves.insert(piece);
        if self.have.is_complete() && !self.told_complete {
            self.told_complete = true;
            self.haves_due = now;
            self.out.push_back(Output::Complete);
            self.announcer.completed(now);
        }
    }

    pub(super) fn lost(&mut self, now: Time, pieces: Vec<u32>) {
        let gone: BTreeSet<u32> =
            pieces.into_iter().filter(|p| *p < self.geometry.pieces() && self.have.set(*p, false)).collect();
        if gone.is_empty() {
            return;
        }
        for piece in &gone {
            self.fresh_haves.remove(piece);
            // Nobody will have it from us: an origin that went on choosing it would promise what it can't read.
            if let Some(spread) = &mut self.spread {
                spread.withdraw(*piece);
            }
            self.done_bytes -= u64::from(self.geometry.piece_length(*piece));
            // What is still being fetched comes again. What was complete once is the user's, and is not written to.
            if !self.told_complete {
                self.picker.insert(*piece);
            }
        }
        let list = ranges::from_ascending(gone.iter().copied());
        let conns: Vec<ConnId> = self.sessions.keys().copied().collect();
        for conn in conns {
            if let Some(session) = self.sessions.get_mut(&conn) {
                if session.told {
                    session.useful += gone.iter().filter(|p| session.have.has(**p)).count() as u32;
                }
                let refused = session.turn.queue.take(|b| gone.contains(&b.piece));
                session.owed_haves.retain(|p| !gone.contains(p));
                self.turns.note(conn, session);
                for block in refused {
                    self.send(now, conn, Message::Reject { block, reason: RejectReason::NotHad });
                }
            }
            for part in list.chunks(HAVE_RANGES) {
                self.send(now, conn, Message::Unhave(part.to_vec()));
            }
        }
    }
}
