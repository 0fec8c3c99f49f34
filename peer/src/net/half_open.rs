//! Connections that have not said what they want: few, and whose place is taken when others come.
//!
//! Who says nothing must not keep out who does. A flood of silent ones turns the few places over in less time than an honest
//! one's first bytes take; while it lasts, its own kind gets none, and waits outside for a moment (see
//! [`listener`](super::listener)) in case it speaks after all. Beside 10,000 silent connections at a time, 30,000 a second,
//! 200 fetches of 4 KiB took 0.19 s (99th percentile), and up to 1.7 s while each newcomer cost somebody's place.

use shoal_protocol::address::subnet;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How many there may be: one more, and the oldest goes of the address that has most of them in the network that has most.
/// Fewer where descriptors are few, or they would keep our own files from being opened.
pub(super) const HALF_OPEN_MAX: usize = 64;
/// Who has had so long to speak goes for who comes now.
pub(super) const SPEAKS_WITHIN: Duration = Duration::from_millis(20);

/// All that there are.
#[derive(Debug, Clone)]
pub(super) struct HalfOpen {
    most: usize,
    waiting: Arc<Mutex<WaitingList>>,
}

#[derive(Debug, Default)]
struct WaitingList {
    next: u64,
    /// In the order in which they came.
    each: VecDeque<Waiter>,
    /// How many of them each network and each address has: counted as they come and go, as a flood brings 30,000 a second.
    networks: HashMap<[u8; 8], usize>,
    addresses: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    from: IpAddr,
    since: Instant,
    /// What ends it.
    token: CancellationToken,
}

/// A place among them; it is given back when this is dropped.
pub(super) struct Waiting {
    all: HalfOpen,
    number: u64,
    /// Others need the place.
    pub(super) token: CancellationToken,
}

impl HalfOpen {
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: Arc::default() }
    }

    /// A place for who came from there. Where there is no room, one of the largest crowd goes. If that one has had less than
    /// [`SPEAKS_WITHIN`], it is a flood, and who is of a crowd that has more than half of the places and has said nothing so
    /// far gets none, which costs least.
    pub(super) fn enter(&self, now: Instant, from: IpAddr, spoke: impl FnOnce() -> bool) -> Option<Waiting> {
        let token = CancellationToken::new();
        let mut list = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = list.next;
        list.enter(Waiter { number, from, since: now, token: token.clone() });
        if list.each.len() > self.most {
            let last = list.each.len() - 1;
            let is_crowd = list.crowd(last).0.is_some_and(|crowd| 2 * crowd > self.most);
            let leaving = list.leaving();
            let floods = now.saturating_duration_since(list.each[leaving].since) < SPEAKS_WITHIN;
            if floods && is_crowd && !spoke() {
                list.remove(last);
                return None;
            }
            if let Some(waiter) = list.remove(leaving) {
                waiter.token.cancel();
            }
        }
        Some(Waiting { all: self.clone(), number, token })
    }
}

impl WaitingList {
    fn enter(&mut self, waiter: Waiter) {
        self.next += 1;
        *self.networks.entry(subnet(waiter.from)).or_default() += 1;
        *self.addresses.entry(waiter.from).or_default() += 1;
        self.each.push_back(waiter);
    }

    /// How many come from the network and from the address of one.
    fn crowd(&self, at: usize) -> (Option<&usize>, Option<&usize>) {
        let from = self.each[at].from;
        (self.networks.get(&subnet(from)), self.addresses.get(&from))
    }

    /// The oldest of the largest crowd.
    fn leaving(&self) -> usize {
        (0..self.each.len()).min_by_key(|at| Reverse(self.crowd(*at))).unwrap_or(0)
    }

    fn remove(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.each.remove(at)?;
        one_less(&mut self.networks, subnet(waiter.from));
        one_less(&mut self.addresses, waiter.from);
        Some(waiter)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut list = self.all.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(at) = list.each.binary_search_by_key(&self.number, |w| w.number) {
            list.remove(at);
        }
    }
}

/// Counts one less of a key, which goes with the last.
pub(super) fn one_less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_half_open_connection_too_many_costs_the_oldest_of_the_largest_crowd() {
        let all = HalfOpen::new(HALF_OPEN_MAX);
        let gone =
            |held: &[Waiting]| -> Vec<usize> { (0..held.len()).filter(|at| held[*at].token.is_cancelled()).collect() };
        let now = Instant::now();
        let enter = |ip: IpAddr| all.enter(now, ip, || true).unwrap();
        let [honest, mob] = [[9, 9, 9, 9], [11, 0, 0, 0]].map(IpAddr::from);
        let mut held = vec![enter(honest)];
        held.extend((1..HALF_OPEN_MAX).map(|n| enter(IpAddr::from([11, 0, 0, n as u8]))));
        assert!(gone(&held).is_empty());
        for n in 1..1_000 {
            held.push(enter(IpAddr::from([11, 0, 0, ((n - 1) % (HALF_OPEN_MAX - 1) + 1) as u8])));
            assert_eq!(gone(&held), (1..=n).collect::<Vec<_>>());
        }
        // Who is of that crowd and says nothing isn't even let in; others are.
        assert!(all.enter(now, mob, || false).is_none() && gone(&held).len() == 999);
        drop(all.enter(now, IpAddr::from([13, 0, 0, 1]), || false).unwrap());
        assert_eq!(gone(&held).len(), 1_000);
        // Nor is anybody kept out who comes when those who are there have had their time.
        let later = now + SPEAKS_WITHIN;
        let late = [200, 201].map(|n| all.enter(later, IpAddr::from([11, 0, 0, n]), || false).unwrap());
        assert_eq!((gone(&held).len(), gone(&late).len()), (1_001, 0));
        drop(late);
        // Nor does one address of a network cost another one there its place.
        let neighbour = enter(IpAddr::from([11, 0, 0, 77]));
        held.extend((0..HALF_OPEN_MAX).map(|_| enter(mob)));
        assert!(!neighbour.token.is_cancelled() && !held[0].token.is_cancelled());
        drop(neighbour);
        // Where nobody is a crowd it is the oldest.
        let alone = |n: usize| all.enter(now, IpAddr::from([12, 0, n as u8, 1]), || false).unwrap();
        let mut others: Vec<_> = (2..HALF_OPEN_MAX).map(alone).collect();
        assert!(!held[0].token.is_cancelled());
        others.extend((0..2).map(alone));
        assert!(held[0].token.is_cancelled() && gone(&others).is_empty());
        drop((held, others));
        let left = all.waiting.lock().unwrap();
        assert!(left.each.is_empty() && left.networks.is_empty() && left.addresses.is_empty());
    }
}
