//! Sparing the origin: whether a fetcher asks it for pieces that others have, too.
//!
//! An origin's uplink is what everybody shares, and often what costs money. With at least two other complete sources a
//! fetcher leaves it alone and finds out now and then whether that costs speed: it asks the origin, too, for a short
//! while, and keeps doing so for as long as its own rate is 30 % higher than without. Who was at it for a while when others
//! completed begins with what the origin gives it at that moment: the last of 8, at an origin with five times the uplink of
//! anybody else, waited for three seconds that were a sixth of all.

use super::Time;
use std::time::Duration;

const PROBE: Duration = Duration::from_millis(700);
const REST: Duration = Duration::from_secs(8);
const FIRST: Duration = Duration::from_secs(3);
/// How long a newcomer waits for a tracker's first answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How long it waits for connections to the complete peers that the tracker counts.
const ACQUAINTANCE: Duration = Duration::from_millis(2_500);
/// Four equal sources are enough, three are not: a fifth source of five would bring a quarter.
const GAIN: f64 = 1.3;

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Off,
    Sparing { until: Time },
    Probing { until: Time, without: f64 },
    Using { until: Time },
}

/// Decides whether the origin is spared.
#[derive(Debug)]
pub struct Spare {
    state: State,
    born: Time,
    /// Complete peers, the origin among them, by the count of a tracker; `None` while none has answered.
    counted: Option<u32>,
}

impl Spare {
    /// A newcomer. `trackers`: whether there is anybody who could know of other complete peers.
    #[must_use]
    pub fn new(now: Time, trackers: bool) -> Self {
        Self { state: State::Off, born: now, counted: if trackers { None } else { Some(0) } }
    }

    /// A tracker said how many complete peers there are.
    pub fn counted(&mut self, seeds: u32) {
        self.counted = Some(self.counted.unwrap_or(0).max(seeds));
    }

    /// Whether a newcomer should wait a moment for others than the origin, which it reaches first. On a fast network the
    /// little while in which only the origin is connected is long enough to take a tenth of a copy from it.
    fn waits(&self, now: Time, others: usize) -> bool {
        let age = now.since(self.born);
        match self.counted {
            None => age < ANSWER,
            Some(seeds) => seeds >= 3 && others < 2 && age < ACQUAINTANCE,
        }
    }

    /// Whether to spare the origin now. `others`: other complete sources that work; `rate`: what arrives in all, and
    /// `from_origin` of it from origins.
    pub fn update(&mut self, now: Time, others: usize, rate: f64, from_origin: f64) -> bool {
        if others < 2 {
            self.state = State::Off;
            return self.waits(now, others);
        }
        self.state = match self.state {
            State::Off if now.since(self.born) >= FIRST && rate > (rate - from_origin) * GAIN => {
                State::Using { until: now + REST }
            }
            State::Off => State::Sparing { until: now + FIRST },
            State::Sparing { until } if now >= until => State::Probing { until: now + PROBE, without: rate },
            State::Probing { until, without } if now >= until => {
                if rate > without * GAIN {
                    State::Using { until: now + REST }
                } else {
                    State::Sparing { until: now + REST }
                }
            }
            State::Using { until } if now >= until => State::Sparing { until: now + PROBE },
            same => same,
        };
        matches!(self.state, State::Sparing { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1000)
    }

    #[test]
    fn a_newcomer_waits_a_moment_for_the_complete_peers_that_a_tracker_counts() {
        let mut spare = Spare::new(at(0), true);
        assert!(spare.update(at(999), 0, 0.0, 0.0) && !spare.update(at(1_001), 0, 0.0, 0.0), "no answer");
        spare.counted(3);
        assert!(spare.update(at(1_100), 1, 0.0, 0.0) && !spare.update(at(2_600), 1, 0.0, 0.0));
        let mut alone = Spare::new(at(0), true);
        alone.counted(2);
        assert!(!alone.update(at(1), 0, 0.0, 0.0), "one seed besides the origin is not enough to spare it");
        assert!(!Spare::new(at(0), false).update(at(1), 0, 0.0, 0.0), "nobody to wait for");
    }

    #[test]
    fn an_origin_that_adds_nothing_is_left_alone_most_of_the_time() {
        let mut spare = Spare::new(at(0), false);
        assert!(!spare.update(at(0), 1, 1e6, 5e5));
        let spared = (0..60_000).step_by(100).filter(|ms| spare.update(at(*ms), 3, 1e6, 0.0)).count();
        assert!(spared > 500, "{spared} of 600");
    }

    #[test]
    fn an_origin_that_doubles_the_rate_is_used_most_of_the_time() {
        let mut spare = Spare::new(at(0), false);
        let mut spared = false;
        let mut count = 0;
        for ms in (0..60_000).step_by(100) {
            spared = spare.update(at(ms), 3, if spared { 1e6 } else { 2e6 }, 0.0);
            count += usize::from(spared);
        }
        assert!(count < 120, "{count} of 600");
    }

    #[test]
    fn what_an_origin_gives_when_others_complete_decides() {
        for (from_origin, spared) in [(5e5, false), (1e5, true)] {
            let mut spare = Spare::new(at(0), false);
            assert!(!spare.update(at(5_000), 1, 1e6, from_origin));
            assert_eq!(spare.update(at(5_100), 2, 1e6, from_origin), spared, "{from_origin}");
        }
        let mut newcomer = Spare::new(at(0), false);
        assert!(!newcomer.update(at(100), 1, 1e6, 5e5));
        assert!(newcomer.update(at(200), 2, 1e6, 5e5), "it has just met the others");
    }
}
