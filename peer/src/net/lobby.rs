//! Where those wait who were accepted and got no place among the [half-open](super::half_open) connections: a queue that costs
//! each of them a descriptor, and no task.
//!
//! In a flood it is full of connections that say nothing; where many honest ones dial in the same instant it is where the
//! later ones wait for the places of the earlier. Each is looked at again after a moment, and stays while it may yet come in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many may wait.
pub(super) const LOBBY_MAX: usize = 512;
/// When each of them is looked at again: a moment of an honest one's time, and few enough looks.
const LOOK_EACH: Duration = Duration::from_millis(20);
/// How long each of them may, from when it was accepted.
const STAY: Duration = Duration::from_secs(1);

/// Those who wait.
#[derive(Debug)]
pub(super) struct Lobby<G> {
    most: usize,
    /// In the order of their next looks.
    queue: VecDeque<(Instant, G)>,
}

impl<G> Lobby<G> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, queue: VecDeque::new() }
    }

    /// Has one wait who was accepted then, unless that is too long ago; gives back the first in the queue if one waits too
    /// many.
    pub(super) fn enter(&mut self, now: Instant, accepted: Instant, guest: G) -> Option<G> {
        if now.saturating_duration_since(accepted) < STAY {
            self.queue.push_back((now + LOOK_EACH, guest));
        }
        if self.queue.len() > self.most { self.queue.pop_front().map(|(_, guest)| guest) } else { None }
    }

    /// When somebody is to be looked at.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.queue.front().map(|(look, _)| *look)
    }

    /// Who is to be looked at now.
    pub(super) fn due(&mut self, now: Instant) -> Option<G> {
        self.queue.pop_front_if(|(look, _)| *look <= now).map(|(_, guest)| guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_looked_at_after_a_moment_until_its_time_is_over() {
        let (start, mut lobby) = (Instant::now(), Lobby::new(2));
        assert_eq!((lobby.next_look(), lobby.due(start)), (None, None));
        assert_eq!(lobby.enter(start, start, 'a'), None);
        let later = start + LOOK_EACH / 2;
        assert_eq!(lobby.enter(later, later, 'b'), None);
        assert_eq!((lobby.next_look(), lobby.due(later)), (Some(start + LOOK_EACH), None));
        assert_eq!(lobby.enter(later, later, 'c'), Some('a'), "the first goes of one too many");
        let mut now = later + LOOK_EACH;
        assert_eq!([lobby.due(now), lobby.due(now), lobby.due(now)], [Some('b'), Some('c'), None]);
        let mut looks = 0;
        assert_eq!(lobby.enter(now, later, 'b'), None);
        while let Some(look) = lobby.next_look() {
            (now, looks) = (look, looks + 1);
            assert_eq!(lobby.due(now), Some('b'));
            assert_eq!(lobby.enter(now, later, 'b'), None);
        }
        assert_eq!((now, looks), (later + STAY, 49));
    }
}
