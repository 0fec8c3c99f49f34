//! Whether we keep up with what comes.
//!
//! Where lines are faster than a host's disk or processor, its blocks lie in the socket before anybody reads them. Another
//! source brings nothing then, and an origin, whose bytes are what costs, is left to those who have nobody else: it is asked
//! for what is to be had from it alone, and otherwise not while others owe us blocks. Where that is wrong, as the others
//! send too little, their blocks are soon waited for, and the origin is asked again: nothing has to be tried out.
//!
//! In the simulator five hosts that take a tenth of what the origin and each of them could send had 3.6 of their five copies
//! from it, and now 1.1 in the same time.

use super::Time;
use std::time::Duration;

/// How many of the last blocks count.
const MEMORY: f32 = 16.0;
/// The part of them that must have lain there.
const MOST: f32 = 0.6;
/// With no block for so long there is nothing that we could be behind with.
const QUIET: Duration = Duration::from_millis(100);

/// What is known of the last blocks.
#[derive(Debug, Default)]
pub struct Intake {
    /// The part of them of which nothing had to be waited for.
    was_there: f32,
    last: Time,
}

impl Intake {
    /// A block came; `was_there`: all of it was there before it was read.
    pub fn note(&mut self, now: Time, was_there: bool) {
        self.was_there += (f32::from(u8::from(was_there)) - self.was_there) / MEMORY;
        self.last = now;
    }

    /// Whether more comes than we take.
    #[must_use]
    pub fn is_behind(&self, now: Time) -> bool {
        self.was_there > MOST && now.since(self.last) < QUIET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1000)
    }

    #[test]
    fn who_waits_for_blocks_or_gets_none_is_not_behind() {
        let mut intake = Intake::default();
        assert!(!intake.is_behind(at(0)));
        for ms in 0..40 {
            intake.note(at(ms), true);
        }
        assert!(intake.is_behind(at(40)) && !intake.is_behind(at(139)), "nothing came since");
        for ms in 40..50 {
            intake.note(at(ms), false);
        }
        assert!(!intake.is_behind(at(50)));
        for ms in 50..200 {
            intake.note(at(ms), ms % 2 == 0);
        }
        assert!(!intake.is_behind(at(200)), "half of them are waited for");
    }
}
