//! Serving: who is served next, and with what.
//!
//! A **turn** is the right to have blocks under way to one peer. Few turns are open at once, so that each piece is whole
//! at its receiver as early as possible and can be passed on; a turn lasts until its piece is sent. More open while those
//! that are open don't move (a slow or dead receiver must not stop the others). Who gets a turn: the least complete asker,
//! as it is the one that the end of the whole swarm waits for; among equals the one who waits longest.

use super::session::Session;
use super::{ConnId, Time};
use shoal_protocol::limits::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::time::Duration;

/// Turns open at once while all of them move.
pub const TURNS: usize = 4;
/// A turn that did not move for this long doesn't count.
pub const TURN_STUCK: Duration = Duration::from_millis(250);
/// Who has waited for so long gets the next turn however complete it is: nobody is to think that we are dead.
pub const STARVED: Duration = Duration::from_secs(3);
/// Most bytes handed to one connection's writer; with [`writer_room`] bounds what can't be reordered any more.
pub const WRITER_MAX: u64 = 4 * BLOCK_BYTES as u64;

/// How many bytes may be in a connection's writer: what it sends in a tenth of a second, one block at least.
pub fn writer_room(session: &mut Session, now: Time) -> u64 {
    let tenth = (session.up.rate(now) / 10.0) as u64;
    tenth.clamp(BLOCK_BYTES.into(), WRITER_MAX)
}

/// Whether a session holds an open turn that moves.
#[must_use]
pub fn holds_turn(session: &Session, now: Time) -> bool {
    session.writing.0 > 0 && now.since(session.turn_moved) < TURN_STUCK
}

/// How many turns are open and move.
#[must_use]
pub fn open_turns(sessions: &BTreeMap<ConnId, Session>, now: Time) -> usize {
    sessions.values().filter(|s| holds_turn(s, now)).count()
}

/// The peer to serve next among those that asked for named blocks and have no turn: the least complete one.
#[must_use]
pub fn next_asker(sessions: &BTreeMap<ConnId, Session>) -> Option<ConnId> {
    sessions
        .iter()
        .filter(|(_, s)| !s.queue.is_empty() && s.writing.0 == 0 && !s.closing)
        .min_by_key(|(_, s)| (s.have.count(), s.turn_moved))
        .map(|(conn, _)| *conn)
}

/// The peer that waits longest among those that have waited for more than [`STARVED`].
#[must_use]
pub fn starved_asker(sessions: &BTreeMap<ConnId, Session>, now: Time) -> Option<ConnId> {
    sessions
        .iter()
        .filter(|(_, s)| !s.queue.is_empty() && s.writing.0 == 0 && !s.closing)
        .filter(|(_, s)| now.since(s.turn_moved) > STARVED)
        .min_by_key(|(_, s)| s.turn_moved)
        .map(|(conn, _)| *conn)
}
