//! Connections that have not said what they want: few, and whose place is taken when others come.
//!
//! Who says nothing must not keep out who does. A place goes first from the address that has most of them, in the network that
//! has most, and there from who has not spoken. Who is of the largest crowd itself takes such a place only once it has spoken,
//! and waits for that in the [`lobby`](super::lobby), where who loses its place before it spoke goes back to.
//! Beside 10,000 silent connections at a time, 30,000 a second, 200 fetches of 4 KiB took 0.19 s (99th percentile), and up to
//! 1.7 s while each newcomer cost somebody's connection.

use shoal_protocol::address::subnet;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How many there may be; fewer where descriptors are few, or they would keep our own files from being opened.
pub(super) const HALF_OPEN_MAX: usize = 64;
/// Who has spoken keeps its place for so long against its own crowd: what the rest of a handshake takes, on a machine that is
/// busy with many of them.
pub(super) const GREETS_WITHIN: Duration = Duration::from_millis(250);

/// All that there are.
#[derive(Debug, Clone)]
pub(super) struct HalfOpen {
    most: usize,
    /// How long one that has spoken keeps its place against its own crowd.
    keeps: Duration,
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
    spoke: bool,
    /// What ends it.
    token: CancellationToken,
}

/// A place among them; it is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    all: HalfOpen,
    number: u64,
    /// Others need the place.
    pub(super) token: CancellationToken,
}

impl HalfOpen {
    pub(super) fn new(most: usize, keeps: Duration) -> Self {
        Self { most, keeps, waiting: Arc::default() }
    }

    /// A place for who came from there, if it needn't wait. Where there is no room, somebody of the largest crowd goes.
    pub(super) fn enter(&self, now: Instant, from: IpAddr, spoke: impl FnOnce() -> bool) -> Option<Waiting> {
        let mut list = self.list();
        let number = list.next;
        list.next += 1;
        let spoke = list.each.len() >= self.most && spoke();
        let token = CancellationToken::new();
        list.enter(Waiter { number, from, since: now, spoke, token: token.clone() });
        if list.each.len() > self.most {
            let newcomer = list.each.len() - 1;
            let leaving = list.leaving(newcomer);
            let is_theirs = list.crowd(newcomer) >= list.crowd(leaving);
            if is_theirs && !(spoke && list.each[leaving].has_had_its_time(now, self.keeps)) {
                list.remove(newcomer);
                return None;
            }
            if let Some(waiter) = list.remove(leaving) {
                waiter.token.cancel();
            }
        }
        Some(Waiting { all: self.clone(), number, token })
    }

    fn list(&self) -> MutexGuard<'_, WaitingList> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Whether it goes for one of its own crowd that has spoken.
    fn has_had_its_time(&self, now: Instant, keeps: Duration) -> bool {
        !self.spoke || now.saturating_duration_since(self.since) >= keeps
    }
}

impl WaitingList {
    fn enter(&mut self, waiter: Waiter) {
        *self.networks.entry(subnet(waiter.from)).or_default() += 1;
        *self.addresses.entry(waiter.from).or_default() += 1;
        self.each.push_back(waiter);
    }

    /// How many come from the network and from the address of one.
    fn crowd(&self, at: usize) -> (Option<&usize>, Option<&usize>) {
        let from = self.each[at].from;
        (self.networks.get(&subnet(from)), self.addresses.get(&from))
    }

    /// Of those before the newcomer, one of the largest crowd: of those that are silent, or else of all, the one without progress for
    /// the longest time.
    fn leaving(&self, newcomer: usize) -> usize {
        let place = |at: &usize| (Reverse(self.crowd(*at)), self.each[*at].spoke, self.each[*at].since);
        (0..newcomer).min_by_key(place).unwrap_or(0)
    }

    fn remove(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.each.remove(at)?;
        one_less(&mut self.networks, subnet(waiter.from));
        one_less(&mut self.addresses, waiter.from);
        Some(waiter)
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.each.binary_search_by_key(&number, |waiter| waiter.number).ok()
    }
}

impl Waiting {
    /// Its first byte came.
    pub(super) fn spoke(&self) {
        let mut list = self.all.list();
        if let Some(at) = list.find(self.number) {
            list.each[at].spoke = true;
        }
    }
}

impl Waiting {
    /// It made progress: its time begins anew.
    pub(super) fn renew(&self, now: Instant) {
        let mut list = self.all.list();
        if let Some(at) = list.find(self.number) {
            list.each[at].since = now;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut list = self.all.list();
        if let Some(at) = list.find(self.number) {
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
    use std::net::Ipv4Addr;

    fn gone(held: &[Waiting]) -> Vec<usize> {
        (0..held.len()).filter(|at| held[*at].token.is_cancelled()).collect()
    }

    const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));
    const MOB: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 0, 0, 0));

    #[test]
    fn who_is_of_the_largest_crowd_and_silent_waits_and_others_do_not() {
        let (all, now) = (HalfOpen::new(HALF_OPEN_MAX, GREETS_WITHIN), Instant::now());
        let enter = |ip: IpAddr, spoke: bool| all.enter(now, ip, || spoke);
        let mut held = vec![enter(HONEST, false).unwrap()];
        held.extend((1..HALF_OPEN_MAX).map(|n| enter(IpAddr::from([11, 0, 0, n as u8]), false).unwrap()));
        let seconds: Vec<_> = (1..HALF_OPEN_MAX).map(|n| enter(IpAddr::from([11, 0, 0, n as u8]), false)).collect();
        assert!(seconds.iter().all(Option::is_none) && gone(&held).is_empty());
        // One address of a network has no more to say than another, and who comes from elsewhere costs the crowd a place.
        let (same, other) = (enter(MOB, false), enter(IpAddr::from([13, 0, 0, 1]), false));
        assert_eq!((same.is_none(), other.is_some(), gone(&held)), (true, true, vec![1]));
        held.extend((0..HALF_OPEN_MAX).filter_map(|_| enter(MOB, true)));
        assert!(!held[0].token.is_cancelled() && !other.unwrap().token.is_cancelled());
        drop(held);
        let left = all.list();
        assert!(left.each.is_empty() && left.networks.is_empty() && left.addresses.is_empty());
    }

    #[test]
    fn who_speaks_takes_the_place_of_one_of_its_crowd_that_is_silent_or_has_had_its_time() {
        let (all, now) = (HalfOpen::new(4, GREETS_WITHIN), Instant::now());
        let mut held: Vec<_> = (0..4).map(|_| all.enter(now, MOB, || true).unwrap()).collect();
        // Whether the first ones spoke isn't looked at: there was room.
        held[0].spoke();
        held[2].spoke();
        held.extend((0..9).filter_map(|_| all.enter(now, MOB, || true)));
        assert_eq!((held.len(), gone(&held)), (6, vec![1, 3]), "the silent ones go, and no more");
        let later = now + GREETS_WITHIN;
        assert!(all.enter(later, MOB, || false).is_none());
        held.extend((0..9).filter_map(|_| all.enter(later, MOB, || true)));
        assert_eq!((held.len(), gone(&held)), (10, vec![0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn who_gets_on_keeps_its_place() {
        let (all, now) = (HalfOpen::new(2, GREETS_WITHIN), Instant::now());
        let held = [(); 2].map(|()| all.enter(now, MOB, || true).unwrap());
        held.iter().for_each(Waiting::spoke);
        let later = now + GREETS_WITHIN;
        held[0].renew(later);
        let came: Vec<_> = (0..3).filter_map(|_| all.enter(later, MOB, || true)).collect();
        assert_eq!((came.len(), gone(&held)), (1, vec![1]));
    }

    #[test]
    fn a_neighbour_of_a_crowd_costs_the_address_that_has_most() {
        let (all, now) = (HalfOpen::new(HALF_OPEN_MAX, GREETS_WITHIN), Instant::now());
        let held: Vec<_> = (0..HALF_OPEN_MAX).map(|_| all.enter(now, MOB, || true).unwrap()).collect();
        held.iter().for_each(Waiting::spoke);
        let neighbour = all.enter(now, IpAddr::from([11, 0, 0, 77]), || false).unwrap();
        let crowd: Vec<_> = (0..HALF_OPEN_MAX).filter_map(|_| all.enter(now + GREETS_WITHIN, MOB, || true)).collect();
        assert_eq!((crowd.len(), neighbour.token.is_cancelled()), (HALF_OPEN_MAX - 1, false));
    }
}
