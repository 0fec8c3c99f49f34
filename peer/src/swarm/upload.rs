//! Serving: who is served next, and with what.
//!
//! A **turn** is the right to have blocks under way to one peer. Few turns are open at once, so that each piece is whole
//! at its receiver as early as possible and can be passed on; a turn lasts until its piece is sent. More open while those
//! that are open don't move (a slow or dead receiver must not stop the others). Who gets a turn: the least complete asker,
//! as it is the one that the end of the whole swarm waits for; among equals the one who waits longest; before all of them
//! whoever waits for more than [`STARVED`]; and before these whoever has part of a piece from us ([`continuing_asker`]): with
//! 100 hosts, 200 pieces of 1 MiB, 100 Mbit/s and 20 ms the first piece came after 1.5 s instead of 4.5 (median), the last
//! host was done at 1.18 instead of 1.35 times the bound, and the origin sent 1.15 instead of 1.32 copies. Stars with pieces
//! of one block are not changed by it.
//!
//! Two to four turns make no difference above noise in the simulator's stars (1.020 to 1.023 of the bound with 8 hosts,
//! 1.041 to 1.044 with 16); six and more cost 1 %. A single lossy path needs several to fill an uplink.

use super::session::Session;
use super::{ConnId, Time};
use shoal_protocol::limits::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::time::Duration;

/// Turns open at once while all of them move.
pub const TURNS: usize = 3;
/// Turns for peers in other zones, where those have their own: a slow link must not stop the others, nor they it.
const TURNS_FAR: usize = 2;
/// A turn that did not move for this long, or twice as long as all open ones should take, doesn't count.
pub const TURN_STUCK: Duration = Duration::from_millis(250);
const TURN_STUCK_MAX: f64 = 2.0;
/// Who has waited for so long gets the next turn however complete it is: nobody is to think that we are dead.
pub const STARVED: Duration = Duration::from_secs(3);
/// Most bytes handed to one connection's writer; with [`writer_room`] bounds what can't be reordered any more.
pub const WRITER_MAX: u64 = 4 * BLOCK_BYTES as u64;

/// How many turns of a kind are open at once.
#[must_use]
pub fn turns(far: bool) -> usize {
    if far { TURNS_FAR } else { TURNS }
}

/// How many bytes may be in a connection's writer: what it sends in a tenth of a second, one block at least.
pub fn writer_room(session: &mut Session, now: Time) -> u64 {
    let tenth = (session.up.rate(now) / 10.0) as u64;
    tenth.clamp(BLOCK_BYTES.into(), WRITER_MAX)
}

/// How many turns are open and move; `rate` is what we send in all, in bytes per second.
#[must_use]
pub fn open_turns(sessions: &BTreeMap<ConnId, Session>, now: Time, rate: f64, far: bool) -> usize {
    let writing: u64 = sessions.values().map(|s| s.writing.1).sum();
    // A slow uplink takes its time for what is in the writers: that is no reason to give it more.
    let slow = Duration::from_secs_f64((2.0 * writing as f64 / rate.max(1.0)).min(TURN_STUCK_MAX));
    let stuck = if rate < 1.0 { TURN_STUCK } else { slow.max(TURN_STUCK) };
    let open = sessions.values().filter(|s| s.far_turn == far && s.writing.0 > 0);
    open.filter(|s| now.since(s.turn_moved) < stuck).count()
}

/// The peer to serve next among those that asked for named blocks and have no turn: the least complete one.
#[must_use]
pub fn next_asker(sessions: &BTreeMap<ConnId, Session>, far: bool) -> Option<ConnId> {
    sessions
        .iter()
        .filter(|(_, s)| s.far_turn == far && !s.queue.is_empty() && s.writing.0 == 0 && !s.closing)
        .min_by_key(|(_, s)| (s.have.count(), s.turn_moved))
        .map(|(conn, _)| *conn)
}

/// A peer that asks for another block of the piece on which it spent its last turn. With windows of one block it asks for
/// the next one only when it has one, and fifty askers in turn would all wait for their fourth block before anybody has a
/// whole piece to pass on. Who asks for more than the piece's `blocks` waits like everybody else.
#[must_use]
pub fn continuing_asker(sessions: &BTreeMap<ConnId, Session>, blocks: u32, far: bool) -> Option<ConnId> {
    let goes_on = |s: &Session| s.queue.front().is_some_and(|b| s.last_piece.0 == b.piece && s.last_piece.1 < blocks);
    sessions
        .iter()
        .filter(|(_, s)| s.far_turn == far && s.writing.0 == 0 && !s.closing && goes_on(s))
        .min_by_key(|(_, s)| s.turn_moved)
        .map(|(conn, _)| *conn)
}

/// The peer that waits longest among those that have waited for more than [`STARVED`].
#[must_use]
pub fn starved_asker(sessions: &BTreeMap<ConnId, Session>, now: Time, far: bool) -> Option<ConnId> {
    sessions
        .iter()
        .filter(|(_, s)| s.far_turn == far && !s.queue.is_empty() && s.writing.0 == 0 && !s.closing)
        .filter(|(_, s)| now.since(s.turn_moved) > STARVED)
        .min_by_key(|(_, s)| s.turn_moved)
        .map(|(conn, _)| *conn)
}
