//! How much to ask of one peer at a time, and until when to wait for it.
//!
//! The window is the bandwidth-delay product as observed and some more (see [`delay`](super::delay)). If that is near the
//! least, one least is added, so that the next request is on its way already. It is at most [`WINDOW_MAX`], and at least two
//! blocks or, where it is smaller, a piece. Each arrival refills it at once. On a shared uplink little should be asked
//! for: what waits in a queue there has to be taken back before it can be had elsewhere. In the simulator's star of 16 hosts
//! (40 Mbit/s, control frames 50 ms late) four pieces of 64 KiB instead of one cost 2 % of time with 128 MiB and a quarter
//! with 4 MiB. An origin that chooses the pieces itself has at least [`WINDOW_MIN`] asked of it, as nothing is bound by
//! that. A peer that owes blocks and sends nothing for four times its usual gap between arrivals (never less than
//! [`PATIENCE_MIN`]), or says nothing when a block is taken back, is **snubbed**: others get its work.

use super::delay::Delay;
use super::rate::Meter;
use super::{ConnId, Time};
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::message::Block;
use std::collections::VecDeque;
use std::time::Duration;

/// Most bytes asked of one peer: fills 10 Gbit/s at 50 ms.
pub const WINDOW_MAX: u64 = 64 << 20;
/// Fewest bytes in the window: one block, or four pieces of the smallest size where the peer chooses which.
pub const WINDOW_MIN: u64 = BLOCK_BYTES as u64;
/// What a peer's disk, scheduler and queue may add to the round trip without the pipe running dry.
const SLACK: Duration = Duration::from_millis(50);
/// A peer that is slow to answer pings can't make us ask it for more than fits this delay.
const DELAY_MAX: Duration = Duration::from_secs(2);
/// Shortest silence that is held against a peer that owes blocks. Who serves others first, as they have less, comes to us
/// after [`STARVED`](super::upload::STARVED) at the latest: with a second 0.2 to 0.4 % of all blocks came from both.
pub const PATIENCE_MIN: Duration = Duration::from_secs(4);
/// Longest silence that is tolerated.
pub const PATIENCE_MAX: Duration = Duration::from_secs(10);
/// A snubbed peer that says nothing is tried again after this.
const PROBE_AFTER: Duration = Duration::from_secs(10);
/// One that says something is tried again after this: saying is not sending.
const PROBE_SPOKEN: Duration = Duration::from_secs(2);
/// Patience with a peer that has never sent anything: its queue may be long.
const PATIENCE_FIRST: Duration = Duration::from_secs(4);

/// How long an origin may leave requests for any piece without an answer before it is asked by name. Long, as whoever has
/// a long relay backlog is rightly left waiting: 64 fetchers with pieces of 4 MiB at 100 Mbit/s wait for 21 s.
const PATIENCE_ANY: Duration = Duration::from_secs(30);

/// How long a peer may take to say that it won't send a block that was taken back. The answer comes after what is under
/// way on its line.
const RECALL_PATIENCE: Duration = Duration::from_secs(1);

/// A block that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Which.
    pub block: Block,
    /// When.
    pub at: Time,
    /// It was taken back so that another peer can be asked, and since when the answer is waited for.
    pub recalled: Option<(ConnId, Time)>,
}

/// The requests under way on one connection.
#[derive(Debug)]
pub struct Pipeline {
    /// In the order asked, which is the order in which they should come.
    pub asked: VecDeque<Asked>,
    /// Bytes in `asked`.
    pub bytes: u64,
    /// Bytes that are being taken back from others to be asked of this peer.
    pub promised: u64,
    /// Requests for any piece that were not answered.
    pub asks: u32,
    /// Since when the oldest of them waits, or since when the last was answered.
    pub asks_since: Time,
    /// Requests for any piece that are no longer waited for; an answer is still taken.
    pub late_asks: u32,
    /// The peer owed us blocks for too long: it gets nothing until it speaks again, or one block to try after a while.
    pub snubbed: bool,
    /// What arrives.
    pub meter: Meter,
    /// There and back.
    pub delay: Delay,
    last_arrival: Option<Time>,
    waiting_since: Time,
    /// How long it has owed us blocks that were taken back in the end, since anything came from it.
    waited: Duration,
    probe_at: Time,
    snubbed_at: Time,
    gap: Option<(f64, f64)>,
}

impl Pipeline {
    /// Nothing asked for.
    #[must_use]
    pub fn new(now: Time, rtt_us: u64) -> Self {
        Self {
            asked: VecDeque::new(),
            bytes: 0,
            promised: 0,
            asks: 0,
            asks_since: now,
            late_asks: 0,
            snubbed: false,
            meter: Meter::new(now),
            delay: Delay::new(now, Duration::from_micros(rtt_us)),
            last_arrival: None,
            waiting_since: now,
            waited: Duration::ZERO,
            probe_at: now,
            snubbed_at: now,
            gap: None,
        }
    }

    /// Twice the bandwidth-delay product of idle lines, or a quarter more than that of late.
    #[must_use]
    pub fn product(&self, now: Time) -> f64 {
        let idle = self.idle_s();
        let recent = self.delay.recent().min(DELAY_MAX).as_secs_f64() * 1.25;
        self.rate(now) * idle.max(recent)
    }

    fn idle_s(&self) -> f64 {
        (self.delay.idle() + SLACK).as_secs_f64() * 2.0
    }

    /// What arrives, in bytes per second.
    #[must_use]
    pub fn rate(&self, now: Time) -> f64 {
        self.meter.clone().rate(now)
    }

    /// How many bytes may be under way now.
    pub fn window(&mut self, now: Time, least: u64) -> u64 {
        if self.snubbed {
            return u64::from(now >= self.probe_at);
        }
        let product = self.product(now) as u64;
        let spare = if product >= least / 4 * 3 { least } else { 0 };
        (product + spare).clamp(least, WINDOW_MAX)
    }

    /// An origin has given out everything once and is one source of many now. On fast lines, what it was seen to send while
    /// nobody else had anything would let it be asked for most of the rest before the others are seen to have it: on
    /// loopback the origin of five fetches of 400 MiB sent 1.62 copies, and now 1.06, in 0.80 instead of 0.88 s (`peer demo
    /// FILE --peers 5` on a tmpfs). So it shows again what it can do, from a window of [`WINDOW_MIN`].
    pub fn begin_anew(&mut self, now: Time) {
        let slow = WINDOW_MIN as f64 / self.idle_s();
        if self.meter.lifelong(now) > slow {
            self.meter = Meter::starting_at(now, slow);
        }
    }

    /// A piece of the peer's choice was asked for.
    pub fn ask_any(&mut self, now: Time) {
        if self.asks == 0 {
            self.asks_since = now;
        }
        self.asks += 1;
    }

    /// A request for any piece was answered; returns whether there was one.
    pub fn any_answered(&mut self, now: Time) -> bool {
        self.asks_since = now;
        let count = if self.asks > 0 { &mut self.asks } else { &mut self.late_asks };
        let answers = *count > 0;
        *count = count.saturating_sub(1);
        answers
    }

    /// Gives up waiting for answers to requests for any piece, when that took too long; returns whether it did.
    pub fn give_up_asks(&mut self, now: Time) -> bool {
        let since = self.asks_since.max(self.waiting_since);
        if self.asks == 0 || now.since(since) <= PATIENCE_ANY {
            return false;
        }
        self.late_asks += std::mem::take(&mut self.asks);
        true
    }

    /// A block was asked for.
    pub fn ask(&mut self, now: Time, block: Block) {
        if self.asked.is_empty() {
            self.waiting_since = now.before(self.waited);
        }
        self.asked.push_back(Asked { block, at: now, recalled: None });
        self.bytes += u64::from(block.length);
    }

    /// Takes a block out, because it arrived or is no longer expected.
    pub fn take(&mut self, block: Block) -> Option<Asked> {
        let at = self.asked.iter().position(|a| a.block == block)?;
        let asked = self.asked.remove(at)?;
        self.bytes -= u64::from(block.length);
        Some(asked)
    }

    /// What was just taken out didn't come: the time for which it was waited for counts on. Otherwise a peer that sends
    /// nothing would be asked for a block, lose it to others, and be asked for the next one, for ever.
    pub fn in_vain(&mut self, now: Time) {
        if self.asked.is_empty() {
            self.waited = now.since(self.waiting_since).min(PATIENCE_MAX);
        }
    }

    /// Notes that a block is taken back for another peer; returns whether it was asked for and not taken back before.
    pub fn recall(&mut self, now: Time, block: Block, thief: ConnId) -> bool {
        let asked = self.asked.iter_mut().find(|a| a.block == block && a.recalled.is_none());
        asked.map(|a| a.recalled = Some((thief, now))).is_some()
    }

    /// Whether the peer has said nothing for too long on a block that was taken back.
    #[must_use]
    pub fn is_deaf(&self, now: Time) -> bool {
        let patience = RECALL_PATIENCE.max(self.delay.recent() * 2);
        let since = |a: &Asked| a.recalled.map(|(_, at)| at.max(self.waiting_since));
        self.asked.iter().filter_map(since).any(|since| now.since(since) > patience)
    }

    /// Takes everything out.
    pub fn take_all(&mut self) -> Vec<Asked> {
        self.bytes = 0;
        self.asked.drain(..).collect()
    }

    /// The peer owed us blocks for too long. What it owed must have been taken out.
    pub fn snub(&mut self, now: Time) {
        self.snubbed = true;
        self.waited = Duration::ZERO;
        self.probe_at = now + PROBE_AFTER;
        self.snubbed_at = now;
    }

    /// A snubbed peer said something: it may be tried again.
    pub fn spoke(&mut self, now: Time) {
        self.probe_at = self.probe_at.min(now.max(self.snubbed_at + PROBE_SPOKEN));
    }

    /// Payload is arriving: the peer is alive.
    pub fn progress(&mut self, now: Time) {
        self.waiting_since = now;
        self.waited = Duration::ZERO;
    }

    /// A block arrived that had been asked for.
    pub fn arrived(&mut self, now: Time, block: Block, asked_at: Time) {
        self.meter.add(now, block.length.into());
        let from = self.last_arrival.map_or(asked_at, |last| last.max(asked_at));
        let gap = now.since(from).as_secs_f64();
        let (mean, deviation) = self.gap.unwrap_or((gap, gap / 2.0));
        let error = gap - mean;
        self.gap = Some((mean + error / 8.0, deviation + (error.abs() - deviation) / 4.0));
        self.last_arrival = Some(now);
        self.progress(now);
        self.snubbed = false;
    }

    /// How long a silence is tolerated.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self.gap {
            None => PATIENCE_FIRST,
            Some((mean, deviation)) => {
                Duration::from_secs_f64((4.0 * (mean + deviation)).min(60.0)).clamp(PATIENCE_MIN, PATIENCE_MAX)
            }
        }
    }

    /// Whether the peer owes blocks for too long.
    #[must_use]
    pub fn is_overdue(&self, now: Time) -> bool {
        !self.asked.is_empty() && now.since(self.waiting_since) > self.patience()
    }

    /// When what is under way will be there, as far as can be told.
    pub fn expected(&mut self, now: Time, extra: u64) -> Duration {
        let rate = self.meter.rate(now).max(1.0);
        self.delay.recent() + Duration::from_secs_f64(((self.bytes + extra) as f64 / rate).min(3600.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(n: u32) -> Block {
        Block { piece: n, offset: 0, length: BLOCK_BYTES }
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1000)
    }

    #[test]
    fn the_window_follows_the_bandwidth_delay_product() {
        let mut p = Pipeline::new(at(0), 100_000);
        assert_eq!(p.window(at(0), WINDOW_MIN), WINDOW_MIN);
        let mut asked = 0;
        let mut arrived = 0;
        // 1 Gbit/s: a block each 2.1 ms, as many as were asked for.
        for ms in (0..5000).step_by(2) {
            while p.bytes < p.window(at(ms), WINDOW_MIN) {
                p.ask(at(ms), block(asked));
                asked += 1;
            }
            if ms > 100 {
                p.take(block(arrived)).unwrap();
                p.arrived(at(ms), block(arrived), at(ms - 100));
                arrived += 1;
            }
        }
        assert!(p.window(at(5000), WINDOW_MIN) > 12_500_000, "{}", p.window(at(5000), WINDOW_MIN));
    }

    #[test]
    fn who_was_fast_while_it_was_the_only_one_begins_anew() {
        // Before the first rate is known, and after.
        for ms in [50, 500] {
            let mut p = Pipeline::new(at(0), 1_000);
            for n in 0..ms {
                p.ask(at(n), block(n as u32));
                p.arrived(at(n + 1), block(n as u32), at(n));
            }
            p.begin_anew(at(ms));
            assert!(p.window(at(ms + 99), WINDOW_MIN) <= 2 * WINDOW_MIN);
            for n in ms..ms + 300 {
                p.arrived(at(n + 1), block(n as u32), at(n));
            }
            assert!(p.window(at(ms + 300), WINDOW_MIN) > 50 * WINDOW_MIN, "it is still fast");
        }
        let mut slow = Pipeline::new(at(0), 1_000);
        for n in 1..10 {
            slow.arrived(at(n * 400), block(n as u32), at(0));
        }
        let before = slow.rate(at(4_000));
        slow.begin_anew(at(4_000));
        assert!(before > 0.0 && slow.rate(at(4_000)) == before, "who is no faster keeps what is known of it");
    }

    #[test]
    fn silence_is_held_against_whoever_owes_and_forgiven_by_an_arrival() {
        let mut p = Pipeline::new(at(0), 1_000);
        assert!(!p.is_overdue(at(100_000)), "owes nothing");
        p.ask(at(0), block(0));
        assert!(!p.is_overdue(at(3_900)) && p.is_overdue(at(4_100)));
        p.take(block(0));
        p.arrived(at(50), block(0), at(0));
        p.ask(at(60), block(1));
        assert!(!p.is_overdue(at(4_050)) && p.is_overdue(at(4_100)));
        p.progress(at(4_090));
        assert!(!p.is_overdue(at(4_100)));
    }

    #[test]
    fn a_block_is_taken_back_once_and_waited_for_only_so_long() {
        let mut p = Pipeline::new(at(0), 10_000);
        p.ask(at(0), block(0));
        assert!(!p.recall(at(0), block(1), 7), "it was not asked for");
        assert!(p.recall(at(100), block(0), 7) && !p.recall(at(100), block(0), 8));
        assert!(!p.is_deaf(at(1_050)) && p.is_deaf(at(1_200)));
        p.progress(at(1_100));
        assert!(!p.is_deaf(at(2_050)), "what is on its way comes first");
        assert_eq!(p.take(block(0)).unwrap().recalled, Some((7, at(100))));
        assert!(!p.is_deaf(at(9_000)));
    }

    #[test]
    fn who_loses_all_that_it_is_asked_for_is_overdue_in_the_end() {
        let mut p = Pipeline::new(at(0), 10_000);
        for n in 0..8 {
            let now = u64::from(n) * 1_000;
            p.ask(at(now), block(n));
            assert!(!p.is_overdue(at(now + 500)));
            p.take(block(n)).unwrap();
            p.in_vain(at(now + 500));
        }
        p.ask(at(20_000), block(9));
        assert!(!p.is_overdue(at(20_000)) && p.is_overdue(at(20_100)));
        p.take(block(9)).unwrap();
        p.arrived(at(20_100), block(9), at(20_000));
        p.ask(at(20_100), block(10));
        assert!(!p.is_overdue(at(21_000)));
    }

    #[test]
    fn slow_peers_get_patience_in_proportion() {
        let mut p = Pipeline::new(at(0), 1_000);
        for n in 0..20 {
            p.ask(at(u64::from(n) * 1_500), block(n));
            p.take(block(n));
            p.arrived(at(u64::from(n + 1) * 1_500), block(n), at(u64::from(n) * 1_500));
        }
        let patience = p.patience();
        assert!((Duration::from_millis(5_750)..Duration::from_millis(9_500)).contains(&patience), "{patience:?}");
    }
}
