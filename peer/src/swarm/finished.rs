//! How many became complete while we were there: what lets a seed stop, and what it knows of the copies that others hold.
//!
//! Contract: pure. A peer counts once, by its name, on however many connections and after however many restarts: when it
//! tells of its last piece, or comes again with everything after it once came with less. Who came with everything at first
//! is a seed and doesn't count. Those whom we never met, in a swarm larger than our house, are known to the trackers: of what
//! each counts, what came after its first answer is taken, and the largest of all these numbers stands. A tracker that
//! starts again counts from nothing, and then its count goes on from there. Limit: [`NAMES_MAX`] names of either kind.

use super::TrackerId;
use shoal_protocol::PeerId;
use std::collections::{BTreeMap, BTreeSet};

/// More aren't told apart, nor counted.
const NAMES_MAX: usize = 100_000;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// Who was seen with less than everything.
    begun: BTreeSet<PeerId>,
    names: BTreeSet<PeerId>,
    /// What a tracker counted last, and how many of them since its first answer.
    trackers: BTreeMap<TrackerId, (u32, u32)>,
}

impl Finished {
    /// A peer told what it has.
    pub(super) fn joined(&mut self, peer: PeerId, complete: bool) {
        if complete {
            if self.begun.contains(&peer) {
                self.completed(peer);
            }
        } else if !self.names.contains(&peer) {
            self.begun.insert(peer);
            if self.begun.len() > NAMES_MAX {
                // Whoever floods us with names can make us miss one that comes again, and nobody who stays.
                self.begun.pop_first();
            }
        }
    }

    /// A peer that came with less got its last piece.
    pub(super) fn completed(&mut self, peer: PeerId) {
        self.begun.remove(&peer);
        if self.names.len() < NAMES_MAX {
            self.names.insert(peer);
        }
    }

    /// A tracker says how many completed, since whenever it began.
    pub(super) fn told(&mut self, tracker: TrackerId, completed: u32) {
        let (last, since) = self.trackers.entry(tracker).or_insert((completed, 0));
        *since = since.saturating_add(completed.checked_sub(*last).unwrap_or(completed));
        *last = completed;
    }

    /// Whether one of them was met.
    pub(super) fn any_met(&self) -> bool {
        !self.names.is_empty()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        let told = self.trackers.values().map(|(_, since)| *since).max();
        (self.names.len() as u32).max(told.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counts_once_and_who_came_complete_does_not() {
        let mut finished = Finished::default();
        let name = |n| PeerId([n; 16]);
        finished.joined(name(1), true);
        assert!(!finished.any_met());
        finished.joined(name(2), false);
        finished.joined(name(2), true);
        finished.joined(name(3), false);
        finished.completed(name(3));
        finished.joined(name(3), true);
        finished.joined(name(3), false);
        finished.joined(name(3), true);
        assert_eq!((finished.count(), finished.any_met()), (2, true));
    }

    #[test]
    fn trackers_know_of_those_whom_we_never_met_and_only_what_came_since_counts() {
        let mut finished = Finished::default();
        for (tracker, completed, expected) in
            [(0, 40, 0), (0, 43, 3), (1, 0, 3), (1, 5, 5), (0, 2, 5), (0, 3, 6), (1, 5, 6)]
        {
            finished.told(tracker, completed);
            assert_eq!(finished.count(), expected);
        }
        // A hostile one may say anything.
        for completed in [0, u32::MAX, 0, u32::MAX] {
            finished.told(2, completed);
        }
        assert_eq!(finished.count(), u32::MAX);
        assert!(!finished.any_met());
    }
}
