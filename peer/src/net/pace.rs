//! How much one peer may make us do in a second.

use shoal_protocol::Message;
use std::time::{Duration, Instant};

/// Frames that bring nothing (keep-alives, pings, unknown ones that may be skipped) in one second; more are a flood.
const EMPTY_MAX: u32 = 256;
/// What one peer's frames may cost us in one second, in parts of what a cheap one does; then it is read later.
const COSTS_MAX: u32 = 400_000;

/// Lists of peers come each five seconds, but one may wait behind a block and the next one not. Two may come at once, and
/// each so much later than the one before on average; what comes sooner is passed over.
const PEX_APART: Duration = Duration::from_secs(4);

/// How many frames came in the current second, by what they cost.
pub(super) struct Pace {
    second: Instant,
    costs: u32,
    empty: u32,
    /// When lists of peers that came were due.
    pex: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { second: now, costs: 0, empty: 0, pex: now }
    }

    /// Whether a list of peers that comes now is to be looked at.
    pub(super) fn may_tell_peers(&mut self, now: Instant) -> bool {
        let may = self.pex <= now + PEX_APART;
        if may {
            self.pex = self.pex.max(now) + PEX_APART;
        }
        may
    }

    /// Counts a frame; gives how long to read nothing more.
    pub(super) fn note(&mut self, message: &Message) -> Option<Duration> {
        self.roll();
        let cost = match message {
            // Each takes a piece of a hash tree, and the answer has 33 KiB: for a thousand pieces and more.
            Message::CvRequest { .. } => 20_000,
            Message::ManifestRequest { .. } => 4_000,
            Message::Pex { .. } => 1_000,
            Message::Have(list) | Message::Unhave(list) => {
                // A range is 8 bytes here and may be millions of pieces to count.
                let pieces = list.iter().map(|(_, count)| u64::from(*count)).sum::<u64>() / 8;
                u32::try_from(pieces).unwrap_or(u32::MAX).saturating_add(10 + list.len() as u32)
            }
            // Each has the turns of all looked at, or what others are to be asked for.
            Message::Request(_) | Message::RequestAny | Message::Cancel(_) | Message::Assign { .. } => 20,
            Message::Reject { .. } => 20,
            Message::Busy { peers, .. } => 50 + 10 * peers.len() as u32,
            Message::KeepAlive | Message::Ping { .. } | Message::Pong { .. } => {
                self.empty += 1;
                1
            }
            _ => 1,
        };
        self.costs = self.costs.saturating_add(cost);
        (self.costs > COSTS_MAX).then(|| Duration::from_secs(1).saturating_sub(self.second.elapsed()))
    }

    /// Counts frames that were skipped; whether all that say nothing are too many by now.
    pub(super) fn is_flood(&mut self, skipped: u32) -> bool {
        if skipped > 0 {
            self.roll();
            self.empty = self.empty.saturating_add(skipped);
        }
        self.empty > EMPTY_MAX
    }

    fn roll(&mut self) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::message::Block;

    #[test]
    fn a_list_of_peers_may_be_late_and_the_next_one_in_time() {
        let heard = |times: &[f64]| {
            let mut pace = Pace::new();
            let start = pace.pex;
            times.iter().filter(|s| pace.may_tell_peers(start + Duration::from_secs_f64(**s))).count()
        };
        assert_eq!(heard(&[0.0, 7.6, 10.0, 15.0, 22.6, 25.0]), 6, "each of them tells what no other does");
        let flood: Vec<f64> = (0..600).map(|tenth| f64::from(tenth) / 10.0).collect();
        assert!((15..=17).contains(&heard(&flood)), "{}", heard(&flood));
    }

    #[test]
    fn a_second_has_room_for_few_dear_frames_and_for_many_cheap_ones() {
        let block = Block { piece: 0, offset: 0, length: 1 };
        for (message, fit) in [
            (Message::CvRequest { first: 0, count: 1 }, 20),
            (Message::ManifestRequest { segment: 0 }, 100),
            (Message::Pex { added: Vec::new(), dropped: Vec::new() }, 400),
            (Message::Have(vec![(0, 4_000_000)]), 0),
            (Message::Have(vec![(0, 1)]), 36_363),
            (Message::Request(block), 20_000),
            (Message::Block(block), 400_000),
        ] {
            // Again where a second ended in between.
            let fits = || {
                let mut pace = Pace::new();
                let born = pace.second;
                let count = (0..).take_while(|_| pace.note(&message).is_none()).count();
                (pace.second == born).then_some(count)
            };
            let count = std::iter::repeat_with(fits).flatten().next();
            assert_eq!(count, Some(fit), "{message:?}");
        }
    }

    #[test]
    fn frames_that_say_nothing_are_a_flood_at_last() {
        let mut pace = Pace::new();
        pace.empty = EMPTY_MAX;
        assert!(!pace.is_flood(0));
        assert!(pace.is_flood(1));
        let mut pace = Pace::new();
        pace.empty = EMPTY_MAX;
        pace.note(&Message::KeepAlive);
        assert!(pace.is_flood(0));
    }
}
