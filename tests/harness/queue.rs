//! What is due when: a calendar of events.
//!
//! Most events of a big world are due within a second and come in no order. A heap of millions of them costs a cache miss
//! on each of twenty levels; here an event is written into the bucket of its time and touched again when that time has
//! come, and only the bucket that is being played is a heap. Events of the same time are played in the order in which they
//! were added, so a world stays the same however the calendar is cut.

use shoal_peer::swarm::Time;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Microseconds in a bucket, as a power of two.
const SHIFT: u32 = 6;
/// Buckets: together a second. What is due later waits in a heap of its own.
const BUCKETS: u64 = 1 << 14;

#[derive(Debug)]
struct Due<E> {
    at: Time,
    seq: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}
impl<E> Eq for Due<E> {}
impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
/// The earliest is the greatest, as std's heap gives the greatest first.
impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// Events by time.
#[derive(Debug)]
pub struct Queue<E> {
    seq: u64,
    /// Number of the bucket that is being played.
    base: u64,
    /// What is due in that bucket or was due before it.
    near: BinaryHeap<Due<E>>,
    /// What is due in one of the following buckets.
    buckets: Vec<Vec<Due<E>>>,
    /// Which of them hold anything, a bit each.
    occupied: Vec<u64>,
    /// What is due later.
    far: BinaryHeap<Due<E>>,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            seq: 0,
            base: 0,
            near: BinaryHeap::new(),
            buckets: (0..BUCKETS).map(|_| Vec::new()).collect(),
            occupied: vec![0; (BUCKETS / 64) as usize],
            far: BinaryHeap::new(),
        }
    }
}

impl<E> Queue<E> {
    /// Adds an event.
    pub fn push(&mut self, at: Time, event: E) {
        self.seq += 1;
        self.place(Due { at, seq: self.seq, event });
    }

    fn place(&mut self, due: Due<E>) {
        let bucket = due.at.0 >> SHIFT;
        if bucket <= self.base {
            self.near.push(due);
        } else if bucket - self.base < BUCKETS {
            let slot = (bucket % BUCKETS) as usize;
            self.buckets[slot].push(due);
            self.occupied[slot / 64] |= 1 << (slot % 64);
        } else {
            self.far.push(due);
        }
    }

    /// Takes the earliest event.
    pub fn pop(&mut self) -> Option<(Time, E)> {
        loop {
            if let Some(due) = self.near.pop() {
                return Some((due.at, due.event));
            }
            let far = self.far.peek().map(|due| due.at.0 >> SHIFT);
            self.base = self.next_bucket().into_iter().chain(far).min()?;
            let slot = (self.base % BUCKETS) as usize;
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            // The memory of the heap that has run empty goes to the bucket that becomes the heap.
            let empty = std::mem::take(&mut self.near).into_vec();
            self.near = BinaryHeap::from(std::mem::replace(&mut self.buckets[slot], empty));
            while self.far.peek().is_some_and(|due| (due.at.0 >> SHIFT) - self.base < BUCKETS) {
                let Some(due) = self.far.pop() else { break };
                self.place(due);
            }
        }
    }

    /// The number of the first bucket after the one being played that holds anything.
    fn next_bucket(&self) -> Option<u64> {
        let words = self.occupied.len();
        let from = ((self.base + 1) % BUCKETS) as usize;
        // The word of the start is looked at twice: its high bits first, its low bits a round later.
        for step in 0..=words {
            let at = (from / 64 + step) % words;
            let mut word = self.occupied[at];
            if step == 0 {
                word &= u64::MAX << (from % 64);
            }
            if word != 0 {
                let slot = (at * 64) as u64 + u64::from(word.trailing_zeros());
                return Some(self.base + 1 + (slot + BUCKETS - from as u64) % BUCKETS);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_gives_what_a_sorted_list_gives(steps in prop::collection::vec((any::<bool>(), 0..6_u32, any::<u32>()), 1..400)) {
            let mut queue = Queue::default();
            let mut list: Vec<(u64, usize)> = Vec::new();
            let mut now = 0;
            for (n, (take, scale, luck)) in steps.into_iter().enumerate() {
                if take {
                    list.sort_unstable();
                    let expected = (!list.is_empty()).then(|| list.remove(0));
                    let got = queue.pop().map(|(at, event)| (at.0, event));
                    prop_assert_eq!(got, expected);
                    now = got.map_or(now, |(at, _)| at);
                } else {
                    // From the same microsecond to a quarter of an hour later.
                    let at = now + u64::from(luck) % 10_u64.pow(scale * 2).max(1);
                    queue.push(Time(at), n);
                    list.push((at, n));
                }
            }
        }
    }
}
