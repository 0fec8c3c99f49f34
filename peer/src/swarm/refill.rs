//! Filling the pipelines: which blocks to ask of a peer that has room.
//!
//! In this order: the rest of the piece it is on; for an origin that gives out pieces of its own choice, a request for any;
//! a piece that lost its owner; the rarest piece not started; and for who would be idle otherwise, blocks that somebody slow
//! owes us or has yet to be asked for ([`steal`](super::steal)).

use super::pieces::{BlockState, Stage};
use super::requests::WINDOW_MIN;
use super::session::Session;
use super::state::Swarm;
use super::{ConnId, Output, Time};
use shoal_protocol::message::Block;
use shoal_protocol::prng::Prng;
use shoal_protocol::{Message, PeerId};
use std::time::Duration;

/// Pieces that a newcomer picks at random, so that it soon has something to give.
const RANDOM_FIRST: u32 = 4;
/// At least so much is asked of a peer, but never more than a piece: with a single block its uplink would turn to somebody
/// else after each, and the first piece, which doubles what a swarm can send, came a quarter later.
const AHEAD: u64 = 2 * WINDOW_MIN;
/// A peer that could be asked for nothing is left alone until it tells of a piece that can be started, one is given back,
/// or this time is over, as what others owe us may have become late. Most connections of a big swarm are in this state
/// most of the time, and each word that comes over them would cost a look at all that is under way.
const REST: Duration = Duration::from_millis(100);
/// The same when nothing is left to start.
const REST_END: Duration = Duration::from_millis(20);

impl Swarm {
    /// Asks a peer for as much as its window allows.
    pub(super) fn refill(&mut self, now: Time, conn: ConnId) {
        loop {
            let piece_size = u64::from(self.geometry.piece_size());
            let mixed = self.zones.is_mixed();
            let Some(session) = self.sessions.get_mut(&conn) else { return };
            // Most calls end here: what is looked at stands first in a session.
            let rests = session.rests.0 > now && session.rests.1 == self.picker.returned();
            if session.closing
                || !session.told
                || self.told_complete
                || session.hold_until > now
                || (rests && self.pieces.orphans.is_empty())
                || session.hello.no_upload
            {
                return;
            }
            let far = mixed && session.place.nearness == 0;
            // What waits in a queue can't be had elsewhere: one piece at a time, unless it is the peer that will choose it.
            let least = if session.assigns && !far { WINDOW_MIN } else { piece_size.min(AHEAD) };
            let window = session.pipeline.window(now, least);
            let pipeline = &session.pipeline;
            let depth = usize::from(session.hello.queue_depth);
            let expected = pipeline.bytes + pipeline.promised + u64::from(pipeline.asks) * piece_size;
            if expected >= window || pipeline.asked.len() + pipeline.asks as usize >= depth {
                return;
            }
            let assigns = session.assigns && !self.awaits_cvs() && self.may_choose_for_us(conn);
            if far && self.far_is_full(now) {
                return;
            }
            let owned = self.on_piece.get(&conn).copied();
            let block = owned.and_then(|piece| self.next_block(conn, piece));
            if block.is_none() && assigns && self.ask_any(now, conn) {
                continue;
            }
            let block = block.or_else(|| self.adopt(now, conn));
            // An origin that chooses itself is asked by name only for what another one doesn't bring.
            let by_name = !assigns || self.sessions.get(&conn).is_some_and(|s| s.pipeline.asks == 0);
            let block = if by_name { block.or_else(|| self.start_piece(now, conn)) } else { block };
            match block {
                Some(block) => self.ask(now, conn, block),
                None => {
                    if !self.may_steal(now, conn) || !self.steal(now, conn) {
                        let rest = if self.picker.startable() > 0 { REST } else { REST_END };
                        // Whether an origin is spared changes with time alone.
                        if let Some(session) = self.sessions.get_mut(&conn).filter(|s| !s.hello.spreads) {
                            session.rests = (now + rest, self.picker.returned());
                        }
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn ask(&mut self, now: Time, conn: ConnId, block: Block) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.pipeline.ask(now, block);
            self.ping(now, conn);
            self.send(now, conn, Message::Request(block));
        }
    }

    /// Measures the delay now and then; goes before a request, so that its block doesn't come before the pong.
    fn ping(&mut self, now: Time, conn: ConnId) {
        if let Some(token) = self.sessions.get_mut(&conn).and_then(|s| s.pipeline.delay.ping(now)) {
            self.send(now, conn, Message::Ping { token });
        }
    }

    /// Whether this origin is the one that chooses pieces for us. Two that choose at once would choose the same pieces:
    /// with four at 20 MiB/s each, a quarter of what arrived was of no use. Which one it is depends on our name, so that
    /// fetchers spread over the origins; near the end, when much of what is missing is under way, it is none.
    fn may_choose_for_us(&self, conn: ConnId) -> bool {
        let origins = self.sessions.iter().filter(|(_, s)| s.hello.spreads && s.told && !s.closing);
        if origins.clone().nth(1).is_none() {
            return true;
        }
        let place = |peer: &PeerId| {
            let mixed =
                peer.0.iter().zip(self.our_name().0).fold(0_u64, |sum, (a, b)| sum.rotate_left(5) ^ u64::from(a ^ b));
            Prng::new(mixed).next()
        };
        let chosen =
            origins.filter(|(_, s)| s.assigns).min_by_key(|(c, s)| (place(&s.hello.peer), **c)).map(|(c, _)| *c);
        chosen == Some(conn) && self.picker.startable() > 4 * self.pieces.map.len()
    }

    /// Asks an origin for any piece, unless all that is missing was asked for that way already.
    fn ask_any(&mut self, now: Time, conn: ConnId) -> bool {
        let asks: u32 = self.sessions.values().map(|s| s.pipeline.asks).sum();
        if self.picker.startable() <= asks as usize {
            return false;
        }
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.pipeline.ask_any(now);
            self.ping(now, conn);
            self.out.push_back(Output::Send { conn, message: Message::RequestAny });
        }
        true
    }

    /// The next missing block of a piece that this peer owns.
    fn next_block(&mut self, conn: ConnId, piece: u32) -> Option<Block> {
        let progress = self.pieces.map.get_mut(&piece)?;
        if progress.owner != Some(conn) || progress.stage != Stage::Fetching {
            self.on_piece.remove(&conn);
            return None;
        }
        let Some(index) = progress.first_missing() else {
            self.on_piece.remove(&conn);
            return None;
        };
        progress.blocks[index as usize] = BlockState::Asked(conn);
        Some(progress.block(piece, index))
    }

    /// Whether the peer may be given another piece.
    pub(super) fn may_start(&mut self, now: Time, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get(&conn) else { return false };
        if self.awaits_cvs() {
            return false;
        }
        if session.busy_until > now && self.has_other_givers(now, conn) {
            return false;
        }
        if session.hello.spreads && self.origin_is_spared(now) {
            return false;
        }
        let Some(session) = self.sessions.get(&conn) else { return false };
        if !session.probation {
            return true;
        }
        // Who has only ever sent bad pieces is not tried again while that can cost a piece for nothing.
        session.pipeline.asked.is_empty() && (session.proven || !self.has_better_givers(now, conn))
    }

    fn has_better_givers(&self, now: Time, conn: ConnId) -> bool {
        self.sessions.iter().any(|(c, s)| *c != conn && s.may_give(now) && (!s.probation || s.proven))
    }

    fn has_other_givers(&self, now: Time, conn: ConnId) -> bool {
        self.sessions.iter().any(|(c, s)| *c != conn && s.may_give(now))
    }

    /// Goes on with a piece that lost its owner.
    fn adopt(&mut self, now: Time, conn: ConnId) -> Option<Block> {
        if self.pieces.orphans.is_empty() || !self.may_start(now, conn) {
            return None;
        }
        let session = &self.sessions[&conn];
        let piece = *self.pieces.orphans.iter().find(|p| {
            session.can_give(now, **p)
                && self.zones.allow(session.place.nearness, **p, false)
                && !(session.assigns && self.is_elsewhere(now, **p))
        })?;
        self.put_on(conn, piece);
        self.next_block(conn, piece)
    }

    /// Whether somebody who gives nothing out by own choice can give a piece: then an origin that still does is spared.
    fn is_elsewhere(&self, now: Time, piece: u32) -> bool {
        self.sessions.values().any(|s| {
            !s.assigns
                && !s.closing
                && !s.hello.no_upload
                && !s.pipeline.snubbed
                && s.busy_until <= now
                && s.can_give(now, piece)
        })
    }

    /// Starts the rarest piece that the peer has.
    fn start_piece(&mut self, now: Time, conn: ConnId) -> Option<Block> {
        if self.picker.startable() == 0 || !self.may_start(now, conn) {
            return None;
        }
        let session = &self.sessions[&conn];
        if session.useful == 0 {
            return None;
        }
        if session.hello.spreads && self.leaves_it_to_others(now, session.place.nearness) {
            return None;
        }
        let idle = self.nothing_asked_from(session.place.nearness);
        let zones = &self.zones;
        let random = self.have.count() < RANDOM_FIRST && self.config_pieces() > 4 * RANDOM_FIRST;
        let piece = self.picker.pick(&mut self.rng, random, &session.have, |p| {
            session.may_send(now, p) && zones.allow(session.place.nearness, p, idle)
        })?;
        self.picker.remove(piece);
        self.put_on(conn, piece);
        self.next_block(conn, piece)
    }

    /// Whether what can be started is left to others than an origin that is so near.
    fn leaves_it_to_others(&self, now: Time, near: u8) -> bool {
        if !self.intake.is_behind(now) || self.picker.some_with_seeds_only() {
            return false;
        }
        let owes =
            |s: &Session| !s.hello.spreads && !s.closing && s.place.nearness >= near && !s.pipeline.asked.is_empty();
        self.sessions.values().filter(|s| owes(s)).nth(1).is_some()
    }

    /// A peer is asked for the blocks of a piece from now on.
    pub(super) fn put_on(&mut self, conn: ConnId, piece: u32) {
        let length = self.geometry.piece_length(piece);
        self.pieces.own(piece, length, conn).solo |= self.blame.open.contains_key(&piece);
        self.on_piece.insert(conn, piece);
    }
}
