//! Handing work over to a peer that would be idle otherwise.
//!
//! A request waits in its peer's queue, and meanwhile the piece can't be asked of anybody else. Where one peer's queue is
//! long and another, which has the piece too, has nothing to do for us, its block is **stolen**: the request is taken back,
//! and only when its owner says that it won't send the block (a Reject, as every request is answered once) the other is
//! asked. So nothing is sent twice, and waiting can be short. While both were asked, or the other at once, each gain in time
//! was paid for in duplicates: 100 hosts with 200 pieces of 1 MiB at 100 Mbit/s and 20 ms took 1.163 times the bound with
//! 5.3 % wasted, or 1.173 with 0.9 % where blocks were stolen only from who was a second later; now 1.132 with 0.0 %.
//!
//! An owner that says nothing to that is **snubbed** ([`requests`](super::requests)).

use super::pieces::{BlockState, Stage};
use super::requests::Asked;
use super::session::Session;
use super::state::Swarm;
use super::{ConnId, Time};
use shoal_protocol::Message;
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::message::Block;
use std::collections::BTreeMap;
use std::time::Duration;

/// The thief must have the block by this much sooner than its owner, and by [`ROUND_TRIPS`] more.
const STEAL_MIN: Duration = Duration::from_millis(100);
/// The owner must be told first. With none, 16 hosts with 64 pieces of 64 KiB took 4 % longer.
const ROUND_TRIPS: u32 = 2;
/// A peer that never sent anything may take so long for its first block before that counts as late. A newcomer among 25 who
/// have 8 MiB was done in 0.4 s, and 13 % of what it got came twice, as who had sent something stole from who had not yet.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// With more pieces under way than this nothing is stolen as long as others can be started: each look goes through all.
const UNDER_WAY_MAX: usize = 256;

impl Swarm {
    /// Whether it is time to see if this peer may help with what others are on: everything is started, or this peer has
    /// nothing to start and owes nothing.
    pub(super) fn may_steal(&mut self, now: Time, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get(&conn) else { return false };
        // Scanning is bounded: this is asked only when the normal choice found nothing.
        let only_slow_left = session.pipeline.asked.is_empty() && self.pieces.map.len() < UNDER_WAY_MAX;
        session.useful > 0
            && (self.picker.startable() == 0 || only_slow_left)
            && !session.pipeline.snubbed
            && !session.probation
            && self.may_start(now, conn)
    }

    /// Gets this peer a block that another one will deliver much later than it could; returns whether there is one.
    pub(super) fn steal(&mut self, now: Time, conn: ConnId) -> bool {
        let mine = self.expected_from(now, conn);
        let Some(thief) = self.sessions.get(&conn) else { return false };
        let least = mine + thief.pipeline.delay.recent() * ROUND_TRIPS + STEAL_MIN;
        let mut best: Option<(Duration, u32, u32)> = None;
        // Rates are looked up once for each owner: many blocks of few peers are compared.
        let mut rates: BTreeMap<ConnId, Option<f64>> = BTreeMap::new();
        let sessions = &self.sessions;
        let mut rate_of =
            |owner: ConnId| *rates.entry(owner).or_insert_with(|| sessions.get(&owner).and_then(|s| rate_now(s, now)));
        for (piece, progress) in &self.pieces.map {
            if progress.stage != Stage::Fetching
                || progress.solo
                || !thief.can_give(now, *piece)
                || !self.zones.allow(thief.place.nearness, *piece, false)
            {
                continue;
            }
            // Blocks that its owner has yet to ask for come after all that it owes.
            let mut later = 0;
            for (index, state) in progress.blocks.iter().enumerate() {
                let length = progress.block(*piece, index as u32).length;
                let theirs = match (*state, progress.owner) {
                    (BlockState::Asked(owner), _) if owner != conn => sessions
                        .get(&owner)
                        .map_or(Duration::MAX, |s| expected_of(s, now, rate_of(owner), *piece, index)),
                    (BlockState::Missing, Some(owner)) if owner != conn => {
                        later += u64::from(length);
                        sessions.get(&owner).map_or(Duration::MAX, |s| expected_after(s, rate_of(owner), later))
                    }
                    _ => continue,
                };
                if theirs > least && best.is_none_or(|(t, ..)| theirs > t) {
                    best = Some((theirs, *piece, index as u32));
                }
            }
        }
        let Some((_, piece, index)) = best else { return false };
        let Some(progress) = self.pieces.map.get_mut(&piece) else { return false };
        let block = progress.block(piece, index);
        if let BlockState::Asked(owner) = progress.blocks[index as usize] {
            self.recall(now, owner, block, conn);
            return true;
        }
        progress.blocks[index as usize] = BlockState::Asked(conn);
        if progress.first_missing().is_none()
            && let Some(owner) = progress.owner
            && self.on_piece.get(&owner) == Some(&piece)
        {
            self.on_piece.remove(&owner);
        }
        self.ask(now, conn, block);
        true
    }

    /// When a peer would have delivered one more block. Who owes nothing has shown no rate lately: it is taken to send as
    /// fast as the others do on average, unless it is behind a thin link.
    fn expected_from(&mut self, now: Time, conn: ConnId) -> Duration {
        let active = self.sessions.values().filter(|s| !s.pipeline.asked.is_empty()).count();
        let average = self.total_down.rate(now) / active.max(1) as f64;
        let mixed = self.zones.is_mixed();
        let Some(session) = self.sessions.get_mut(&conn) else { return Duration::MAX };
        let expected = session.pipeline.expected(now, BLOCK_BYTES.into());
        let far = mixed && session.place.nearness == 0;
        if !far && session.pipeline.asked.is_empty() && average >= 1.0 {
            let idle = session.pipeline.delay.recent() + time_for(Some(average), BLOCK_BYTES.into());
            return expected.min(idle);
        }
        expected
    }

    /// Takes back a block so that another peer can be asked for it.
    fn recall(&mut self, now: Time, owner: ConnId, block: Block, thief: ConnId) {
        let Some(session) = self.sessions.get_mut(&owner) else { return };
        if session.pipeline.recall(now, block, thief) {
            self.send(now, owner, Message::Cancel(block));
            if let Some(session) = self.sessions.get_mut(&thief) {
                session.pipeline.promised += u64::from(block.length);
            }
        }
    }

    /// A block that was asked for is no longer expected, or came: if it was to be handed over, it no longer is.
    pub(super) fn recall_is_over(&mut self, asked: &Asked) {
        if let Some((thief, _)) = asked.recalled
            && let Some(session) = self.sessions.get_mut(&thief)
        {
            session.pipeline.promised = session.pipeline.promised.saturating_sub(asked.block.length.into());
        }
    }

    /// The owner of a block won't send it: whoever it was taken back for is asked, for the rest of the piece too.
    pub(super) fn hand_over(&mut self, now: Time, owner: ConnId, asked: &Asked, thief: ConnId) {
        self.recall_is_over(asked);
        self.give_back(owner, asked.block);
        self.take_over(now, thief, asked.block.piece);
        self.refill(now, thief);
        self.refill(now, owner);
        if self.pieces.orphans.contains(&asked.block.piece) {
            self.refill_all(now);
        }
    }

    /// Makes a peer the owner of a piece that has none, if it can be.
    fn take_over(&mut self, now: Time, conn: ConnId, piece: u32) {
        let listed = self.picker.is_listed(piece);
        let free = (listed || self.pieces.orphans.contains(&piece)) && !self.on_piece.contains_key(&conn);
        let Some(session) = self.sessions.get_mut(&conn).filter(|_| free) else { return };
        if session.closing || session.pipeline.snubbed || !session.can_give(now, piece) {
            return;
        }
        session.rests.0 = now;
        if listed {
            self.picker.remove(piece);
        }
        self.put_on(conn, piece);
    }
}

/// When a peer will have delivered a block that it owes us: by its rate and what stands before it in the queue. Never is a
/// block late that is being taken back already.
fn expected_of(session: &Session, now: Time, rate: Option<f64>, piece: u32, index: usize) -> Duration {
    let mut ahead = 0_u64;
    for asked in &session.pipeline.asked {
        ahead += u64::from(asked.block.length);
        if asked.block.piece == piece && asked.block.offset as usize / BLOCK_BYTES as usize == index {
            let unknown = rate.is_some_and(|rate| rate < 1.0);
            if asked.recalled.is_some() || (unknown && now.since(asked.at) < FIRST_ANSWER) {
                return Duration::ZERO;
            }
            break;
        }
    }
    time_for(rate, ahead)
}

/// When a peer will have delivered so many bytes beyond all that it owes us.
fn expected_after(session: &Session, rate: Option<f64>, bytes: u64) -> Duration {
    time_for(rate, session.pipeline.bytes + bytes)
}

/// The rate at which a peer delivers; `None` if it is snubbed.
fn rate_now(session: &Session, now: Time) -> Option<f64> {
    (!session.pipeline.snubbed).then(|| session.pipeline.meter.clone().rate(now))
}

fn time_for(rate: Option<f64>, bytes: u64) -> Duration {
    match rate {
        None => Duration::MAX,
        // Nothing came of it yet: give it a fair chance before its work is taken back.
        Some(rate) if rate < 1.0 => Duration::from_secs(2),
        Some(rate) => Duration::from_secs_f64((bytes as f64 / rate).min(3600.0)),
    }
}
