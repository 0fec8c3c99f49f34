//! Rates as they were observed.

use super::Time;

/// Bytes per second, averaged with exponentially fading weight.
///
/// Bytes are gathered over slots; a slot's rate enters with a weight that grows with its length, so that sparse and dense
/// arrivals are treated alike. Early on the average over the whole life counts, which lets a pipeline grow at once.
#[derive(Debug, Clone)]
pub struct Meter {
    average: f64,
    slot_bytes: u64,
    slot_start: Time,
    born: Time,
    total: u64,
}

const SLOT_S: f64 = 0.1;
const MEMORY_S: f64 = 1.5;

impl Meter {
    /// Nothing seen so far.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self::starting_at(now, 0.0)
    }

    /// Nothing seen so far; until something is, this is the rate.
    #[must_use]
    pub fn starting_at(now: Time, rate: f64) -> Self {
        Self { average: rate, slot_bytes: 0, slot_start: now, born: now, total: 0 }
    }

    /// Bytes passed.
    pub fn add(&mut self, now: Time, bytes: u64) {
        self.close_slot(now);
        self.slot_bytes += bytes;
        self.total += bytes;
    }

    fn close_slot(&mut self, now: Time) {
        let seconds = now.since(self.slot_start).as_secs_f64();
        if seconds < SLOT_S {
            return;
        }
        let rate = self.slot_bytes as f64 / seconds;
        let age = now.since(self.born).as_secs_f64().max(seconds);
        let weight = (1.0 - (-seconds / MEMORY_S).exp()).max(seconds / age);
        self.average += (rate - self.average) * weight;
        self.slot_bytes = 0;
        self.slot_start = now;
    }

    /// Bytes per second now.
    pub fn rate(&mut self, now: Time) -> f64 {
        self.close_slot(now);
        self.average
    }

    /// Bytes per second over all its life.
    #[must_use]
    pub fn lifelong(&self, now: Time) -> f64 {
        self.total as f64 / now.since(self.born).as_secs_f64().max(1e-6)
    }

    /// All bytes ever.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Time {
        Time(ms * 1000)
    }

    #[test]
    fn a_steady_stream_is_measured_and_its_end_noticed() {
        let mut meter = Meter::new(at(0));
        for ms in (10..=3000).step_by(10) {
            meter.add(at(ms), 10_000);
        }
        let rate = meter.rate(at(3000));
        assert!((950_000.0..1_050_000.0).contains(&rate), "{rate}");
        assert!(meter.rate(at(3000) + Duration::from_secs(6)) < 60_000.0);
    }

    #[test]
    fn the_first_slot_counts_at_once() {
        let mut meter = Meter::new(at(0));
        meter.add(at(5), 1_000_000);
        assert!(meter.rate(at(100)) > 9_000_000.0);
    }
}
