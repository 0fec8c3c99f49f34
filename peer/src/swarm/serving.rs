//! Serving: answers to requests, and blocks handed to the writers while turns last.

use super::pieces::blocks_in;
use super::session::Session;
use super::spread::Spread;
use super::state::Swarm;
use super::{ConnId, Output, Time, upload};
use core::net::SocketAddr;
use shoal_protocol::address::reach;
use shoal_protocol::limits::{BLOCK_BYTES, PEX_PEERS};
use shoal_protocol::message::{Block, RejectReason};
use shoal_protocol::{Message, WireError};

/// With more than this many seconds of work in its queues an origin sends askers to others.
const BUSY_QUEUE_S: f64 = 2.0;

impl Swarm {
    pub(super) fn asked_block(&mut self, now: Time, conn: ConnId, block: Block) -> Result<(), WireError> {
        let length = self.geometry.piece_length(block.piece);
        if block.offset.checked_add(block.length).is_none_or(|end| end > length) {
            return Err(WireError::OutOfRange("request"));
        }
        let saturated = self.is_saturated(now);
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        let reject = |reason| Message::Reject { block, reason };
        if !self.config.upload {
            self.send(now, conn, reject(RejectReason::NoUpload));
        } else if !self.have.has(block.piece) {
            self.send(now, conn, reject(RejectReason::NotHad));
        } else if session.turn.queue.len() >= usize::from(super::QUEUE_DEPTH) {
            return Err(WireError::Unexpected("more requests than the queue depth allows"));
        } else {
            let is_passed_on = saturated && self.picker.leechers_with(block.piece) >= 2;
            let may_be_sent_away = is_passed_on && session.turn.may_be_sent_away(now);
            let others = if may_be_sent_away { self.others_with(conn, block.piece) } else { None };
            if let Some(peers) = others {
                self.send(now, conn, Message::Busy { block, peers });
            } else if let Some(session) = self.sessions.get_mut(&conn) {
                session.turn.expect(now);
                session.turn.queue.push(block);
                self.note_turn(conn);
                self.serve(now);
            }
        }
        Ok(())
    }

    /// If others have a piece and give it: where they are, of those that this peer may know of. It may be connected to the rest.
    fn others_with(&self, conn: ConnId, piece: u32) -> Option<Vec<SocketAddr>> {
        let near = reach(self.sessions.get(&conn)?.remote.ip());
        let gives = |s: &Session| !s.closing && !s.hello.no_upload && s.have.has(piece);
        let mut others = self.sessions.iter().filter(|(c, s)| **c != conn && gives(s)).map(|(_, s)| s).peekable();
        others.peek()?;
        let told = others.filter(|s| reach(s.remote.ip()) >= near).filter_map(|s| s.dialable);
        Some(told.take(PEX_PEERS).collect())
    }

    /// An origin with more than [`BUSY_QUEUE_S`] of work in its queues lets others serve what they have, too.
    pub(super) fn is_saturated(&mut self, now: Time) -> bool {
        if self.spread.is_none() {
            return false;
        }
        let rate = self.total_up.rate(now);
        rate > 0.0 && self.turns.queued(now) as f64 / rate > BUSY_QUEUE_S
    }

    pub(super) fn asked_any(&mut self, now: Time, conn: ConnId) -> Result<(), WireError> {
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if session.turn.wants_any >= u32::from(super::QUEUE_DEPTH) {
            return Err(WireError::Unexpected("more requests than the queue depth allows"));
        }
        session.turn.wants_any += 1;
        self.note_turn(conn);
        self.serve(now);
        Ok(())
    }

    pub(super) fn serve(&mut self, now: Time) {
        if !self.config.upload {
            self.reject_any(now);
            return;
        }
        if self.spread.as_ref().is_none_or(Spread::is_done) {
            self.reject_any(now);
        }
        let writing: Vec<ConnId> = self.turns.writing().collect();
        for conn in writing {
            self.fill_turn(now, conn);
        }
        self.open_turns(now, false);
        if self.zones.is_mixed() {
            self.open_turns(now, true);
        }
    }

    /// Opens turns of one kind while there is room.
    fn open_turns(&mut self, now: Time, far: bool) {
        let rate = self.total_up.rate(now);
        while self.turns.has_room(now, rate, far) {
            let next = self.turns.continuing_asker(far);
            let next = next
                .or_else(|| self.turns.starved_asker(now, far))
                .or_else(|| self.next_any_asker(far))
                .or_else(|| self.turns.next_asker(far));
            let Some(conn) = next else { return };
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.turn.piece = None;
                session.turn.moved = now;
                self.turns.note(conn, session);
            }
            self.fill_turn(now, conn);
            if self.sessions.get(&conn).is_none_or(|s| s.turn.writing.0 == 0) {
                // There is nothing to choose for it: others must not wait for that.
                self.reject_asks_of(now, conn);
                if self.sessions.get(&conn).is_some_and(|s| !s.turn.queue.is_empty()) {
                    return;
                }
            }
        }
    }

    /// Requests for any piece that can't be met get their answer.
    pub(super) fn reject_any(&mut self, now: Time) {
        let asking: Vec<ConnId> = self.turns.asking_any().collect();
        for conn in asking {
            self.reject_asks_of(now, conn);
        }
    }

    fn reject_asks_of(&mut self, now: Time, conn: ConnId) {
        let count = self.sessions.get_mut(&conn).map_or(0, |s| std::mem::take(&mut s.turn.wants_any));
        self.note_turn(conn);
        for _ in 0..count {
            let block = Block { piece: u32::MAX, offset: 0, length: 0 };
            self.send(now, conn, Message::Reject { block, reason: RejectReason::NothingToAssign });
        }
    }

    /// The peer to give the next unspread piece to: the one with the shortest relay backlog.
    /// Far peers are given none while there are enough in the zone to pass it on.
    pub(super) fn next_any_asker(&self, far: bool) -> Option<ConnId> {
        if far && self.zones.keeps_inside {
            return None;
        }
        let spread = self.spread.as_ref()?;
        self.turns.next_any_asker(far, |conn| spread.backlog(conn))
    }

    /// Gives a peer the next piece of our choice.
    pub(super) fn give_any(&mut self, now: Time, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get_mut(&conn) else { return false };
        let Some(spread) = &mut self.spread else { return false };
        if session.turn.wants_any == 0 {
            return false;
        }
        let Some(piece) = spread.give(conn, &session.have) else { return false };
        session.turn.wants_any -= 1;
        let length = self.geometry.piece_length(piece);
        for index in 0..blocks_in(length) {
            let offset = index * BLOCK_BYTES;
            session.turn.queue.push(Block { piece, offset, length: (length - offset).min(BLOCK_BYTES) });
        }
        self.note_turn(conn);
        self.send(now, conn, Message::Assign { piece });
        true
    }

    /// Hands blocks to a peer's writer while its turn lasts and there is room.
    pub(super) fn fill_turn(&mut self, now: Time, conn: ConnId) {
        let others_wait = self.turns.others_wait(conn, self.is_spreading());
        loop {
            let Some(session) = self.sessions.get_mut(&conn) else { return };
            let full = session.turn.writing.0 >= upload::WRITER_BLOCKS;
            if session.closing || full || session.turn.writing.1 >= upload::writer_room(session, now) {
                return;
            }
            let Some(block) = session.turn.queue.front() else {
                let may_go_on = session.turn.writing.0 == 0 || !others_wait;
                if may_go_on && self.give_any(now, conn) {
                    continue;
                }
                return;
            };
            // Who asks again for what it got is at the end of its turn, too, or a few blocks asked for without end
            // would be all that is ever served.
            let is_over = session.turn.last_piece == (block.piece, 0);
            let same_turn = !is_over && session.turn.piece.is_none_or(|p| p == block.piece);
            if !same_turn && others_wait && session.turn.writing.0 > 0 {
                return;
            }
            session.turn.piece = Some(block.piece);
            let (last, rest) = session.turn.last_piece;
            let whole = blocks_in(self.geometry.piece_length(block.piece));
            let rest = if last == block.piece { rest } else { whole };
            session.turn.last_piece = (block.piece, rest.saturating_sub(1));
            session.turn.queue.pop();
            session.turn.writing.0 += 1;
            session.turn.writing.1 += u64::from(block.length);
            self.turns.note(conn, session);
            self.out.push_back(Output::SendBlock { conn, block });
        }
    }

    pub(super) fn block_sent(&mut self, now: Time, conn: ConnId, block: Block) {
        self.counters.uploaded += u64::from(block.length);
        self.counters.blocks_sent += 1;
        self.total_up.add(now, block.length.into());
        if let Some(spread) = &mut self.spread {
            let again = spread.sent(block, self.geometry.piece_length(block.piece));
            self.counters.repeated += u64::from(again);
        }
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.turn.sent.add(now, block.length.into());
            session.spoke = now;
        }
        self.turns.note_sent(now, conn, block.length, self.geometry.piece_length(block.piece));
        self.writer_is_free(now, conn, block);
    }

    pub(super) fn block_failed(&mut self, now: Time, conn: ConnId, block: Block) {
        self.send(now, conn, Message::Reject { block, reason: RejectReason::Failed });
        self.writer_is_free(now, conn, block);
    }

    pub(super) fn writer_is_free(&mut self, now: Time, conn: ConnId, block: Block) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.turn.writing.0 = session.turn.writing.0.saturating_sub(1);
            session.turn.writing.1 = session.turn.writing.1.saturating_sub(block.length.into());
            session.turn.moved = now;
            self.turns.note(conn, session);
        }
        self.serve(now);
    }

    /// What matters for turns changed on a connection.
    pub(super) fn note_turn(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get(&conn) {
            self.turns.note(conn, session);
        }
    }
}
