//! Serving: who is served next, and with what.
//!
//! A **turn** is the right to have blocks under way to one peer. Few turns are open at once, so that each piece is whole
//! at its receiver as early as possible and can be passed on; a turn lasts until its piece is sent. More open while those
//! that are open don't move (a slow or dead receiver must not stop the others). Who gets a turn: the least complete asker
//! (of those that don't hide what they have, [`super::takings`]), as it is the one that the end of the whole swarm waits for; among equals the one who waits longest; before all of them
//! whoever waits for more than [`STARVED`]; and before these whoever has part of a piece from us ([`Turns::continuing_asker`]): with
//! 100 hosts, 200 pieces of 1 MiB, 100 Mbit/s and 20 ms the first piece came after 1.5 s instead of 4.5 (median), the last
//! host was done at 1.18 instead of 1.35 times the bound, and the origin sent 1.15 instead of 1.32 copies. Stars with pieces
//! of one block are not changed by it.
//!
//! Two to four turns make no difference above noise in the simulator's stars (1.020 to 1.023 of the bound with 8 hosts,
//! 1.041 to 1.044 with 16); six and more cost 1 %. A single lossy path needs several to fill an uplink. One turn at a time
//! while somebody waits who has fewer than four pieces made the first piece come earlier (1.2 instead of 1.5 s with the 100
//! hosts above) and the last no sooner; where newcomers never end, a host with a tenth of the others' links was left behind
//! (1.7 instead of 1.2 times the bound).

use super::session::Session;
use super::takings::{Taken, Takings};
use super::{ConnId, Time};
use core::net::IpAddr;
use shoal_protocol::limits::BLOCK_BYTES;
use std::time::Duration;

/// Turns open at once while all of them move.
pub const TURNS: usize = 3;
/// Turns for peers in other zones, where those have their own: a slow link must not stop the others, nor they it.
const TURNS_FAR: usize = 2;
/// A turn that did not move for this long, or twice as long as all open ones should take, doesn't count.
pub const TURN_STUCK: Duration = Duration::from_millis(250);
const TURN_STUCK_MAX: Duration = Duration::from_secs(2);
/// The same where more receivers than there are turns have not moved for [`TURN_STUCK_MAX`]: a crowd that asks and doesn't
/// read would otherwise go through all turns before anybody honest, two seconds each.
const TURN_STUCK_CROWD: Duration = Duration::from_millis(60);
/// Who has waited for so long gets the next turn however complete it is: nobody is to think that we are dead.
pub const STARVED: Duration = Duration::from_secs(3);
/// The same for one of those who seem to hide what they took: it may be another host behind the same address, and nobody
/// waits for ever.
const STARVED_HIDDEN: Duration = Duration::from_secs(30);
/// Most bytes handed to one connection's writer; with [`writer_room`] bounds what can't be reordered any more.
pub const WRITER_MAX: u64 = 4 * BLOCK_BYTES as u64;

/// Most blocks handed to it, of whatever length: each costs memory beside its payload, which is still on the disk.
pub const WRITER_BLOCKS: u32 = 64;

/// How many bytes may be in a connection's writer: what it sends in a tenth of a second, one block at least.
pub fn writer_room(session: &mut Session, now: Time) -> u64 {
    let tenth = (session.turn.sent.rate(now) / 10.0) as u64;
    tenth.clamp(BLOCK_BYTES.into(), WRITER_MAX)
}

/// What matters of one connection for whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    conn: ConnId,
    ip: IpAddr,
    /// Pieces that the peer says it has.
    count: u32,
    taken: Taken,
    moved: Time,
    writing: u32,
    writing_bytes: u64,
    /// Bytes that it asked for and that wait.
    queued: u64,
    /// It asked for named blocks.
    asks: bool,
    /// It asked for any piece.
    asks_any: bool,
    /// The next block that it asks for belongs to the piece that its last turn was spent on.
    goes_on: bool,
    /// It is served by the turns for far peers.
    far: bool,
    closing: bool,
}

impl Row {
    fn of(conn: ConnId, s: &Session) -> Self {
        Self {
            conn,
            ip: s.remote.ip(),
            count: s.have.count(),
            taken: Taken::default(),
            moved: s.turn.moved,
            writing: s.turn.writing.0,
            writing_bytes: s.turn.writing.1,
            queued: s.turn.queue.bytes(),
            asks: !s.turn.queue.is_empty() && !s.closing,
            asks_any: s.turn.wants_any > 0 && !s.closing,
            goes_on: s.turn.goes_on(),
            far: s.turn.far,
            closing: s.closing,
        }
    }

    fn waits(&self) -> bool {
        self.asks && self.writing == 0
    }

    fn is_dead(&self, now: Time) -> bool {
        now.since(self.moved) >= TURN_STUCK_MAX
    }
}

/// Whose turn it is, in a dense table: every block sent and every request asks that of all connections, and a session is
/// ten times as large as what matters here.
#[derive(Debug)]
pub struct Turns {
    /// Ascending by connection.
    rows: Vec<Row>,
    takings: Takings,
    /// When one that hides what it took last had a turn for having waited long: of those that are near, and of far ones.
    hidden_at: [Time; 2],
    piece_bytes: u32,
}

impl Turns {
    /// Nobody is here; pieces have so many bytes.
    #[must_use]
    pub fn new(piece_bytes: u32) -> Self {
        Self { rows: Vec::new(), takings: Takings::default(), hidden_at: [Time(0); 2], piece_bytes }
    }

    /// Something about a connection changed, or it is new.
    pub fn note(&mut self, conn: ConnId, session: &Session) {
        let row = Row::of(conn, session);
        match self.rows.binary_search_by_key(&conn, |r| r.conn) {
            Ok(at) => self.rows[at] = Row { taken: self.rows[at].taken, ..row },
            Err(at) => {
                let taken = self.takings.joined(session.heard, row.ip);
                self.rows.insert(at, Row { taken, ..row });
            }
        }
    }

    /// A peer has so many pieces now.
    pub fn note_count(&mut self, conn: ConnId, count: u32) {
        if let Ok(at) = self.rows.binary_search_by_key(&conn, |r| r.conn) {
            self.rows[at].count = count;
        }
    }

    /// A peer got so many bytes of a piece. They count as a whole block at least: who asks for crumbs of many pieces takes
    /// as many turns as who takes all of them.
    pub fn note_sent(&mut self, now: Time, conn: ConnId, bytes: u32, piece_length: u32) {
        let bytes = bytes.max(piece_length.min(BLOCK_BYTES));
        if let Ok(at) = self.rows.binary_search_by_key(&conn, |r| r.conn) {
            self.rows[at].taken.add(now, bytes);
        }
    }

    /// A connection is no more.
    pub fn forget(&mut self, conn: ConnId) {
        if let Ok(at) = self.rows.binary_search_by_key(&conn, |r| r.conn) {
            let row = self.rows.remove(at);
            self.takings.left(row.ip, &row.taken);
        }
    }

    /// Whether it took more from us than it says it has.
    fn hides(&self, row: &Row) -> bool {
        row.taken.is_hidden(row.count, self.piece_bytes)
    }

    /// Whether another turn of a kind may be opened; `rate` is what we send in all, in bytes per second.
    #[must_use]
    pub fn has_room(&self, now: Time, rate: f64, far: bool) -> bool {
        let stuck = self.patience(now, rate);
        let open = self.rows.iter().filter(|r| r.writing > 0 && r.far == far && now.since(r.moved) < stuck);
        open.count() < if far { TURNS_FAR } else { TURNS }
    }

    /// How long a turn may stand still until it no longer counts.
    fn patience(&self, now: Time, rate: f64) -> Duration {
        if self.is_mobbed(now) {
            TURN_STUCK_CROWD
        } else if rate < 1.0 {
            TURN_STUCK
        } else {
            // A slow uplink takes its time for what is in the writers: that is no reason to give it more.
            let alive = self.rows.iter().filter(|r| r.writing > 0 && !r.is_dead(now));
            let writing: u64 = alive.map(|r| r.writing_bytes).sum();
            let slow = Duration::from_secs_f64((2.0 * writing as f64 / rate).min(TURN_STUCK_MAX.as_secs_f64()));
            slow.max(TURN_STUCK)
        }
    }

    /// Whether more receivers than there are turns don't take what they asked for.
    fn is_mobbed(&self, now: Time) -> bool {
        self.rows.iter().filter(|r| r.writing > 0 && r.is_dead(now)).count() > TURNS
    }

    /// Bytes that wait in the queues of those who take what they get.
    #[must_use]
    pub fn queued(&self, now: Time) -> u64 {
        self.rows.iter().filter(|r| r.writing == 0 || !r.is_dead(now)).map(|r| r.queued).sum()
    }

    /// How many connections there are that don't end.
    #[must_use]
    pub fn standing(&self) -> usize {
        self.rows.iter().filter(|r| !r.closing).count()
    }

    /// Who has a turn.
    pub fn writing(&self) -> impl Iterator<Item = ConnId> {
        self.rows.iter().filter(|r| r.writing > 0).map(|r| r.conn)
    }

    /// Who asked for any piece.
    pub fn asking_any(&self) -> impl Iterator<Item = ConnId> {
        self.rows.iter().filter(|r| r.asks_any).map(|r| r.conn)
    }

    /// Whether anybody but this one waits for a turn of its kind; `any`: also those who asked for any piece.
    #[must_use]
    pub fn others_wait(&self, conn: ConnId, any: bool) -> bool {
        let far = self.rows.binary_search_by_key(&conn, |r| r.conn).is_ok_and(|at| self.rows[at].far);
        let waits = |r: &Row| r.far == far && r.writing == 0 && (r.asks || (any && r.asks_any));
        self.rows.iter().any(|r| r.conn != conn && waits(r))
    }

    /// The peer to serve next among those that asked for named blocks and have no turn: the least complete one of those
    /// that hide nothing.
    #[must_use]
    pub fn next_asker(&self, far: bool) -> Option<ConnId> {
        self.rows
            .iter()
            .filter(|r| r.far == far && r.waits())
            .min_by_key(|r| (self.hides(r), r.count, r.moved))
            .map(|r| r.conn)
    }

    /// The peer to give a piece of our choice to: the one with the shortest relay backlog.
    #[must_use]
    pub fn next_any_asker(&self, far: bool, backlog: impl Fn(ConnId) -> i64) -> Option<ConnId> {
        let asks = self.rows.iter().filter(|r| r.far == far && r.asks_any && r.writing == 0 && !r.asks);
        asks.min_by_key(|r| (self.hides(r), backlog(r.conn), r.count, r.moved)).map(|r| r.conn)
    }

    /// A peer that asks for another block of the piece on which it spent its last turn. With windows of one block it asks
    /// for the next one only when it has one, and fifty askers in turn would all wait for their fourth block before anybody
    /// has a whole piece to pass on.
    #[must_use]
    pub fn continuing_asker(&self, far: bool) -> Option<ConnId> {
        let goes_on = |r: &&Row| r.far == far && r.waits() && r.goes_on && !self.hides(r);
        self.rows.iter().filter(goes_on).min_by_key(|r| r.moved).map(|r| r.conn)
    }

    /// The peer that waits longest among those that have waited for more than [`STARVED`]. Of those that hide what they took
    /// one at a time, each [`STARVED_HIDDEN`].
    #[must_use]
    pub fn starved_asker(&mut self, now: Time, far: bool) -> Option<ConnId> {
        let waits = |r: &&Row| r.far == far && r.waits();
        let hidden_too = now.since(self.hidden_at[usize::from(far)]) > STARVED_HIDDEN;
        let is_starved = |r: &&Row| match self.hides(r) {
            true => hidden_too && now.since(r.moved) > STARVED_HIDDEN,
            false => now.since(r.moved) > STARVED,
        };
        let row = self.rows.iter().filter(|r| waits(r) && is_starved(r)).min_by_key(|r| r.moved)?;
        if self.hides(row) {
            self.hidden_at[usize::from(far)] = now;
        }
        Some(row.conn)
    }

    /// Looks whether what others took at an address still counts.
    pub fn fade(&mut self, now: Time) {
        self.rows.iter_mut().for_each(|row| row.taken.fade(now));
    }

    /// Checks that the table says what the sessions say.
    ///
    /// # Errors
    /// Says which row is wrong.
    pub(super) fn check<'a>(&self, sessions: impl Iterator<Item = (ConnId, &'a Session)>) -> Result<(), String> {
        let real: Vec<Row> = sessions.map(|(conn, s)| Row::of(conn, s)).collect();
        // What was taken is known here only.
        let differs = |row: &Row, real: &Row| *row != Row { taken: row.taken, ..*real };
        match self.rows.iter().zip(&real).find(|(row, real)| differs(row, real)) {
            Some((row, real)) => Err(format!("the turn table has {row:?}, should be {real:?}")),
            None if self.rows.len() != real.len() => Err(format!("{} rows, {} sessions", self.rows.len(), real.len())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(conn: ConnId) -> Row {
        let (moved, block) = (Time(0), u64::from(BLOCK_BYTES));
        Row {
            conn,
            ip: [9, 9, 9, 9].into(),
            count: 0,
            taken: Taken::default(),
            moved,
            writing: 0,
            writing_bytes: block,
            queued: 1,
            asks: true,
            asks_any: false,
            goes_on: false,
            far: false,
            closing: false,
        }
    }

    #[test]
    fn who_hides_what_it_took_does_not_go_on_before_others() {
        let mut taken = Taken::default();
        for (at_s, bytes) in [(0, 1 << 30), (6, 1), (12, 1)] {
            taken.add(Time(at_s * 1_000_000), bytes);
        }
        for (taken, goes_on) in [(Taken::default(), Some(1)), (taken, None)] {
            let row = Row { goes_on: true, taken, ..asker(1) };
            assert_eq!(Turns { rows: vec![row], ..Turns::new(1 << 20) }.continuing_asker(false), goes_on);
        }
    }

    #[test]
    fn who_seems_to_hide_has_a_turn_each_half_minute_beside_newcomers_without_end() {
        let mut taken = Taken::default();
        for (at_s, bytes) in [(0, 1 << 30), (6, 1), (12, 1)] {
            taken.add(Time(at_s * 1_000_000), bytes);
        }
        // However many they are, they have one of thirty.
        for hidden in [1, 12] {
            let rows = (0..hidden).map(|conn| Row { taken, ..asker(conn) }).collect();
            let mut turns = Turns { rows, ..Turns::new(1 << 20) };
            let mut served = 0;
            for s in 0..300_u64 {
                let now = Time(s * 1_000_000);
                turns.rows.push(Row { moved: now, ..asker(hidden + s as ConnId) });
                let next = turns.starved_asker(now, false).or_else(|| turns.next_asker(false)).unwrap();
                if next < hidden {
                    served += 1;
                    turns.rows[next as usize].moved = now;
                } else {
                    turns.rows.retain(|row| row.conn != next);
                }
            }
            assert!((8..=10).contains(&served), "{hidden}: {served}");
        }
    }

    #[test]
    fn near_ones_that_hide_take_nothing_from_far_ones() {
        let mut taken = Taken::default();
        for (at_s, bytes) in [(0, 1 << 30), (6, 1), (12, 1)] {
            taken.add(Time(at_s * 1_000_000), bytes);
        }
        let rows = [false, true].map(|far| Row { taken, far, ..asker(far.into()) }).into();
        let (mut turns, now) = (Turns { rows, ..Turns::new(1 << 20) }, Time(40_000_000));
        assert_eq!([false, true].map(|far| turns.starved_asker(now, far)), [Some(0), Some(1)]);
    }

    #[test]
    fn a_crowd_that_asks_and_does_not_read_keeps_nobody_waiting_for_long() {
        const CROWD: ConnId = 200;
        for rate in [0.0, 1e5, 1e8] {
            let mut turns = Turns { rows: (0..=CROWD).map(asker).collect(), ..Turns::new(1 << 20) };
            let mut now = Time(0);
            // The last one is honest; all others take a turn and never move.
            while turns.rows[CROWD as usize].writing == 0 {
                now = now + Duration::from_millis(10);
                while turns.has_room(now, rate, false)
                    && let Some(conn) = turns.starved_asker(now, false).or_else(|| turns.next_asker(false))
                {
                    let row = &mut turns.rows[conn as usize];
                    (row.writing, row.moved) = (1, now);
                }
            }
            assert!(now < Time(10_000_000), "at {rate} bytes per second: {now:?}");
        }
    }
}
