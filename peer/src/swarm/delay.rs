//! How long a request takes to a peer and the answer back while the lines are in use.
//!
//! The round trip of the greeting is that of idle lines. A peer whose uplink is full of payload for others has its
//! requests stand behind that, in its system or its modem, for 100 ms and more: whoever asks for one small piece at a time
//! then waits most of the time. In the simulator a star of 8 with pieces of 64 KiB, 40 Mbit/s and control frames 100 ms late
//! took 1.59 times the bound (200 ms: 2.9) while windows knew only the idle round trip. How long a request waits for its
//! turn at the other side is not part of it: a longer window would only make that longer. So it is measured with pings, which
//! are answered at once, sent just before a request, at most every [`APART`]; the least of the last [`KEPT`] counts, as a
//! pong may stand behind a block for us.

use super::Time;
use std::collections::VecDeque;
use std::time::Duration;

const APART: Duration = Duration::from_millis(500);
const KEPT: usize = 4;
/// A ping without an answer for so long is forgotten.
const PATIENCE: Duration = Duration::from_secs(5);

/// The delay on one connection.
#[derive(Debug)]
pub struct Delay {
    idle: Duration,
    recent: VecDeque<Duration>,
    asked: Option<(u32, Time)>,
    due: Time,
    token: u32,
}

impl Delay {
    /// As measured during the greeting.
    #[must_use]
    pub fn new(now: Time, idle: Duration) -> Self {
        Self { idle, recent: VecDeque::new(), asked: None, due: now + APART, token: 0 }
    }

    /// The round trip of idle lines.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.idle
    }

    /// The round trip of late.
    #[must_use]
    pub fn recent(&self) -> Duration {
        self.recent.iter().min().copied().unwrap_or(self.idle)
    }

    /// The token of a ping to be sent now, if one is due.
    pub fn ping(&mut self, now: Time) -> Option<u32> {
        let waits = self.asked.is_some_and(|(_, at)| now.since(at) < PATIENCE);
        if waits || now < self.due {
            return None;
        }
        self.token = self.token.wrapping_add(1);
        self.asked = Some((self.token, now));
        self.due = now + APART;
        Some(self.token)
    }

    /// A pong came; one that answers nothing tells nothing.
    pub fn pong(&mut self, now: Time, token: u32) {
        let Some((_, at)) = self.asked.take_if(|(asked, _)| *asked == token) else { return };
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(now.since(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1000)
    }

    #[test]
    fn the_least_of_the_last_pings_counts() {
        let ms = Duration::from_millis;
        let mut delay = Delay::new(at(0), ms(1));
        assert_eq!((delay.ping(at(499)), delay.recent()), (None, ms(1)));
        for (n, took) in [300, 120, 250, 180, 200].into_iter().enumerate() {
            let sent = 1_000 * (n as u64 + 1);
            let token = delay.ping(at(sent)).unwrap();
            assert_eq!(delay.ping(at(sent + 900)), None, "one at a time");
            delay.pong(at(sent + 1), token.wrapping_add(7));
            delay.pong(at(sent + took), token);
            delay.pong(at(sent + took + 1), token);
        }
        assert_eq!((delay.recent(), delay.idle()), (ms(120), ms(1)));
        delay.pong(at(6_210), delay.token);
        assert_eq!(delay.recent(), ms(120), "nothing was asked");
        for n in 0..4 {
            let token = delay.ping(at(7_000 + n * 1_000)).unwrap();
            delay.pong(at(7_150 + n * 1_000), token);
        }
        assert_eq!(delay.recent(), ms(150));
    }

    #[test]
    fn a_ping_without_an_answer_is_forgotten() {
        let mut delay = Delay::new(at(0), Duration::from_millis(1));
        let lost = delay.ping(at(1_000)).unwrap();
        assert_eq!(delay.ping(at(5_900)), None);
        let token = delay.ping(at(6_100)).unwrap();
        delay.pong(at(6_200), lost);
        assert_eq!(delay.recent(), delay.idle());
        delay.pong(at(6_300), token);
        assert_eq!(delay.recent(), Duration::from_millis(200));
    }
}
