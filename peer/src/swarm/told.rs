//! What peers say they have, or have no longer.

use super::blame::Suspect;
use super::session::Session;
use super::state::Swarm;
use super::waste::Cause;
use super::{ConnId, Time};
use shoal_protocol::limits::HAVE_RANGES;
use shoal_protocol::message::{Block, GoodbyeReason};
use shoal_protocol::{Bitfield, Message, WireError, ranges};
use std::time::Duration;

/// Far peers are told of pieces this often: at 70 pieces a second 42 connections between two zones
/// had a twentieth of what crossed filled with haves.
const FAR_HAVE_DELAY: Duration = Duration::from_millis(250);

/// So often a peer that has everything may lose pieces, on one connection.
const FALLS_MAX: u32 = 8;

impl Swarm {
    pub(super) fn told_bitfield(&mut self, now: Time, conn: ConnId, message: &Message) -> Result<(), WireError> {
        let pieces = self.geometry.pieces();
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if session.told {
            return Err(WireError::Unexpected("a second bitfield"));
        }
        match message {
            Message::HaveAll | Message::HaveNone if session.bits_told > 0 => {
                return Err(WireError::Unexpected("all or nothing after a part of a bitfield"));
            }
            Message::HaveAll => session.have = Bitfield::all(pieces),
            Message::HaveNone => session.have = Bitfield::none(pieces),
            Message::Bitfield { first, count, bits } => {
                // Ranges come in order without gaps.
                if *first != session.bits_told || first.checked_add(*count).is_none_or(|end| end > pieces) {
                    return Err(WireError::OutOfRange("bitfield range"));
                }
                for i in 0..*count {
                    if bits[(i / 8) as usize] >> (7 - i % 8) & 1 == 1 {
                        session.have.set(first + i, true);
                    }
                }
                session.bits_told += count;
                if session.bits_told < pieces {
                    self.turns.note(conn, session);
                    return Ok(());
                }
            }
            _ => {}
        }
        session.told = true;
        // It said that it lacked the manifest. That it tells what it has shows that it got it, and is our sign to do so, too.
        let had_none = std::mem::take(&mut session.hello.needs_manifest);
        session.useful = session.have.count_beyond(&self.have);
        self.turns.note(conn, session);
        let (complete, has): (bool, Vec<u32>) = (session.have.is_complete(), session.have.ones().collect());
        let dialable = session.dialable;
        self.finished.joined(session.hello.peer, complete);
        if complete {
            session.came_complete = true;
            self.picker.count_seed(true);
            if let Some(addr) = dialable {
                self.book.note_seed(addr);
            }
        } else {
            has.iter().for_each(|p| self.picker.increment(*p));
        }
        if let Some(spread) = &mut self.spread {
            if had_none {
                spread.joined(conn);
            }
            has.iter().for_each(|p| spread.has(conn, *p));
        }
        if had_none {
            self.send_bitfield(now, conn);
        }
        self.count_zone(conn);
        self.part_if_useless(conn);
        self.fetch_cvs(now);
        self.refill(now, conn);
        self.tell_peers(now, conn);
        Ok(())
    }

    /// Two seeds have nothing to give each other.
    pub(super) fn part_if_useless(&mut self, conn: ConnId) {
        if self.have.is_complete() && self.sessions.get(&conn).is_some_and(Session::is_seed) {
            self.close(conn, GoodbyeReason::NothingToDo);
        }
    }

    pub(super) fn told_have(&mut self, now: Time, conn: ConnId, list: &[(u32, u32)]) {
        let mut became_seed = None;
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if !session.told || session.have.is_complete() {
            return;
        }
        for piece in list.iter().flat_map(|(first, count)| *first..first + count) {
            if !session.have.set(piece, true) {
                continue;
            }
            // What it rejected for want of it can be asked for again, what it sent wrong can not.
            if !session.refused.is_empty() {
                let bad = self.blame.record(Suspect::of(session).culprit()).is_some_and(|r| r.bad.contains(&piece));
                if !bad {
                    session.refused.remove(&piece);
                }
            }
            self.picker.increment(piece);
            if self.picker.is_listed(piece) {
                session.rests.0 = now;
            }
            if !self.have.has(piece) {
                session.useful += 1;
                if session.place.nearness > 0 && !self.zones.is_held_nearer(session.place.nearness - 1, piece) {
                    session.place.brought = now;
                }
            }
            if session.place.counts {
                self.zones.count(session.place.nearness, piece, true);
            }
            if let Some(spread) = &mut self.spread {
                spread.has(conn, piece);
            }
        }
        self.turns.note_count(conn, session.have.count());
        if session.have.is_complete() {
            if !session.came_complete {
                self.finished.completed(session.hello.peer);
            }
            became_seed = Some(session.dialable);
        }
        if let Some(dialable) = became_seed {
            for piece in 0..self.geometry.pieces() {
                self.picker.decrement(piece);
            }
            self.picker.count_seed(true);
            if let Some(addr) = dialable {
                self.book.note_seed(addr);
            }
            self.part_if_useless(conn);
        }
        self.refill(now, conn);
    }

    pub(super) fn told_unhave(&mut self, now: Time, conn: ConnId, list: &[(u32, u32)]) -> Result<(), WireError> {
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if !session.told {
            return Ok(());
        }
        if session.have.is_complete() && !list.is_empty() {
            // It counts as a leecher from now on: that takes a look at each piece, so nobody may do so without end.
            session.falls += 1;
            if session.falls > FALLS_MAX {
                return Err(WireError::Unexpected("a seed that loses pieces again and again"));
            }
            self.picker.count_seed(false);
            for piece in 0..self.geometry.pieces() {
                self.picker.increment(piece);
            }
        }
        let mut gone = false;
        for piece in list.iter().flat_map(|(first, count)| *first..first + count) {
            if session.have.set(piece, false) {
                self.picker.decrement(piece);
                if session.place.counts {
                    self.zones.count(session.place.nearness, piece, false);
                }
                if !self.have.has(piece) {
                    session.useful = session.useful.saturating_sub(1);
                }
                if let Some(spread) = &mut self.spread {
                    spread.lost(conn, piece);
                }
                gone = true;
            }
        }
        if !gone {
            return Ok(());
        }
        self.turns.note(conn, session);
        let owed: Vec<Block> =
            session.pipeline.asked.iter().map(|a| a.block).filter(|b| !session.have.has(b.piece)).collect();
        for block in owed {
            self.withdraw(now, conn, block, Cause::Needless, false);
        }
        self.refill_all(now);
        Ok(())
    }

    /// Tells of the pieces that are had since the last time. Who lacks one hears of it at once, as does an origin, which
    /// counts copies. Who has it already can't use it: that is told later and together, as half of all *have* are of that
    /// kind, and in a big swarm little else is said.
    pub(super) fn tell_haves(&mut self, now: Time) {
        self.haves_due = Time::NEVER;
        let fresh = std::mem::take(&mut self.fresh_haves);
        let mixed = self.zones.is_mixed();
        let conns: Vec<ConnId> = self.sessions.keys().copied().collect();
        for conn in conns {
            let Some(session) = self.sessions.get_mut(&conn) else { continue };
            if session.closing || session.hello.needs_manifest {
                continue;
            }
            let at_once = self.told_complete || session.hello.spreads;
            let far = mixed && session.place.nearness == 0;
            let waits = far || !session.owed_haves.is_empty() || fresh.iter().any(|p| session.have.has(*p));
            let list = if at_once || waits {
                let urgent = |p: &u32| at_once || (!far && !session.have.has(*p));
                let (mut now, later): (Vec<u32>, Vec<u32>) = fresh.iter().partition(|p| urgent(p));
                if at_once {
                    now.append(&mut session.owed_haves);
                    now.sort_unstable();
                } else {
                    session.owed_haves.extend(later);
                }
                ranges::from_ascending(now)
            } else {
                ranges::from_ascending(fresh.iter().copied())
            };
            self.send_haves(now, conn, &list);
            self.part_if_useless(conn);
        }
    }

    /// Tells of the pieces that could wait; `far`: only those who are far, and not too often.
    pub(super) fn tell_owed_haves(&mut self, now: Time, far: bool) {
        let due = |s: &Session| !far || (s.place.nearness == 0 && now.since(s.place.told) >= FAR_HAVE_DELAY);
        let owed = self.sessions.iter().filter(|(_, s)| !s.owed_haves.is_empty() && !s.closing && due(s));
        let owed: Vec<ConnId> = owed.map(|(conn, _)| *conn).collect();
        for conn in owed {
            let Some(session) = self.sessions.get_mut(&conn) else { continue };
            session.place.told = now;
            let mut pieces = std::mem::take(&mut session.owed_haves);
            pieces.sort_unstable();
            self.send_haves(now, conn, &ranges::from_ascending(pieces));
        }
    }

    fn send_haves(&mut self, now: Time, conn: ConnId, list: &[(u32, u32)]) {
        for part in list.chunks(HAVE_RANGES) {
            self.send(now, conn, Message::Have(part.to_vec()));
        }
    }
}
