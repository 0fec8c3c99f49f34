//! When to announce to which tracker, and what for.
//!
//! Every tracker is told of the start, the end of fetching, and in between at the interval that it asked for. One that
//! fails is tried again after one second, then twice as long each time, up to a minute, and hears of us as of a newcomer. The
//! end of fetching is told until it was heard: what was on its way when the last piece came, or failed, doesn't count.

use super::{Time, TrackerId};
use shoal_protocol::announce::Event;
use shoal_protocol::prng::Prng;
use std::time::Duration;

const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// An announce that was never answered counts as failed after this; the driver gives up sooner.
const LOST_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
struct Tracker {
    next: Time,
    failures: u32,
    started: bool,
    completed: bool,
    /// What was told and isn't answered.
    waiting: Option<Event>,
}

/// The state of all trackers of one swarm.
#[derive(Debug)]
pub struct Announcer {
    trackers: Vec<Tracker>,
    complete: bool,
    was_complete: bool,
}

impl Announcer {
    /// All trackers are due at once.
    #[must_use]
    pub fn new(now: Time, trackers: usize, complete: bool) -> Self {
        let fresh = Tracker { next: now, failures: 0, started: false, completed: false, waiting: None };
        Self { trackers: vec![fresh; trackers], complete, was_complete: complete }
    }

    /// The content has become complete: the trackers hear of it now.
    pub fn completed(&mut self, now: Time) {
        self.complete = true;
        for tracker in &mut self.trackers {
            if tracker.failures == 0 && tracker.waiting.is_none() {
                tracker.next = now;
            }
        }
    }

    /// What is due now.
    pub fn due(&mut self, now: Time) -> Vec<(TrackerId, Event)> {
        let mut out = Vec::new();
        for (id, tracker) in self.trackers.iter_mut().enumerate() {
            if tracker.next > now {
                continue;
            }
            let event = if self.complete && !self.was_complete && !tracker.completed {
                Event::Completed
            } else if !tracker.started {
                Event::Started
            } else {
                Event::Progress
            };
            tracker.waiting = Some(event);
            tracker.next = now + LOST_AFTER;
            out.push((id, event));
        }
        out
    }

    /// A tracker answered.
    pub fn answered(&mut self, now: Time, id: TrackerId, interval_s: u32, rng: &mut Prng) {
        let (complete, was_complete) = (self.complete, self.was_complete);
        let Some(tracker) = self.trackers.get_mut(id) else { return };
        tracker.completed |= tracker.waiting.take() == Some(Event::Completed);
        tracker.started = true;
        tracker.failures = 0;
        let untold = complete && !was_complete && !tracker.completed;
        tracker.next =
            if untold { now } else { now + Duration::from_secs(interval_s.into()).mul_f64(rng.jitter(0.05)) };
    }

    /// A tracker could not be reached, or refused.
    pub fn failed(&mut self, now: Time, id: TrackerId, retry_after_s: Option<u32>, rng: &mut Prng) {
        let Some(tracker) = self.trackers.get_mut(id) else { return };
        tracker.waiting = None;
        tracker.failures = (tracker.failures + 1).min(30);
        // A tracker that forgot us must hear of us as of a newcomer.
        tracker.started = false;
        let wait = (Duration::from_secs(1) * 2_u32.saturating_pow(tracker.failures - 1)).min(BACK_OFF_MAX);
        let asked = Duration::from_secs(retry_after_s.unwrap_or(0).min(3600).into());
        // Not all at the same moment, who were refused in one.
        tracker.next = now + asked + wait.mul_f64(rng.jitter(0.2));
    }

    /// When the next announce is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        self.trackers.iter().map(|t| t.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    #[test]
    fn a_tracker_hears_of_start_progress_and_completion_once() {
        let mut rng = Prng::new(1);
        let mut a = Announcer::new(s(0), 1, false);
        assert_eq!(a.due(s(0)), [(0, Event::Started)]);
        assert!(a.due(s(1)).is_empty());
        a.answered(s(1), 0, 10, &mut rng);
        assert!(a.due(s(9)).is_empty());
        assert_eq!(a.due(s(12)), [(0, Event::Progress)]);
        a.answered(s(12), 0, 10, &mut rng);
        a.completed(s(13));
        assert_eq!(a.due(s(13)), [(0, Event::Completed)]);
        a.answered(s(13), 0, 10, &mut rng);
        assert_eq!(a.due(s(24)), [(0, Event::Progress)]);
    }

    #[test]
    fn completion_during_an_announce_is_told_right_after_it() {
        let mut rng = Prng::new(1);
        let mut a = Announcer::new(s(0), 1, false);
        a.due(s(0));
        a.completed(s(0));
        a.answered(s(1), 0, 10, &mut rng);
        assert_eq!(a.due(s(1)), [(0, Event::Completed)]);
    }

    #[test]
    fn completion_is_told_until_it_was_heard() {
        let mut rng = Prng::new(1);
        let mut a = Announcer::new(s(0), 1, false);
        a.due(s(0));
        a.answered(s(1), 0, 10, &mut rng);
        assert_eq!(a.due(s(12)), [(0, Event::Progress)]);
        a.completed(s(12));
        a.answered(s(13), 0, 10, &mut rng);
        assert_eq!(a.due(s(13)), [(0, Event::Completed)], "the answer was to what went before");
        a.failed(s(14), 0, None, &mut rng);
        assert_eq!(a.due(s(20)), [(0, Event::Completed)]);
        a.answered(s(20), 0, 10, &mut rng);
        a.due(s(31));
        a.failed(s(32), 0, None, &mut rng);
        assert_eq!(a.due(s(40)), [(0, Event::Started)], "told once, it is a seed like any other");
    }

    #[test]
    fn a_dead_tracker_is_tried_less_and_less_and_hears_a_new_start() {
        let mut rng = Prng::new(1);
        let mut a = Announcer::new(s(0), 1, true);
        let mut now = s(0);
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(a.due(now), [(0, Event::Started)]);
            a.failed(now, 0, None, &mut rng);
            let next = a.next_due().unwrap();
            waits.push(next.since(now).as_secs_f64());
            now = next;
        }
        assert!(waits[0] < 1.3 && waits[9] > 45.0 && waits[9] < 75.0, "{waits:?}");
    }
}
