//! Sparing the origin: whether a fetcher asks it for pieces that others have, too.
//!
//! An origin's uplink is what everybody shares, and often what costs money. With at least two other complete sources a
//! fetcher leaves it alone and finds out now and then whether that costs speed: it asks the origin, too, for a short
//! while, and keeps doing so for as long as its own rate is 30 % higher than without.

use super::Time;
use std::time::Duration;

const PROBE: Duration = Duration::from_millis(700);
const REST: Duration = Duration::from_secs(8);
const FIRST: Duration = Duration::from_secs(3);
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
}

impl Default for Spare {
    fn default() -> Self {
        Self { state: State::Off }
    }
}

impl Spare {
    /// Whether to spare the origin now. `others`: other complete sources that work; `rate`: what arrives in all.
    pub fn update(&mut self, now: Time, others: usize, rate: f64) -> bool {
        if others < 2 {
            self.state = State::Off;
            return false;
        }
        self.state = match self.state {
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
    fn an_origin_that_adds_nothing_is_left_alone_most_of_the_time() {
        let mut spare = Spare::default();
        assert!(!spare.update(at(0), 1, 1e6));
        let spared = (0..60_000).step_by(100).filter(|ms| spare.update(at(*ms), 3, 1e6)).count();
        assert!(spared > 500, "{spared} of 600");
    }

    #[test]
    fn an_origin_that_doubles_the_rate_is_used_most_of_the_time() {
        let mut spare = Spare::default();
        let mut spared = false;
        let mut count = 0;
        for ms in (0..60_000).step_by(100) {
            spared = spare.update(at(ms), 3, if spared { 1e6 } else { 2e6 });
            count += usize::from(spared);
        }
        assert!(count < 120, "{count} of 600");
    }
}
