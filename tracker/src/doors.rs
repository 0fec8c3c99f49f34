//! Who may be connected: places in all, and for one public address.
//!
//! Contract: pure but for the clock, and the tokens that it cancels. When all places are taken, a newcomer gets that of who has waited
//! longest without having asked anything, or else of who has been idle longest, or else of who has taken nothing of a long
//! answer for longest, and for some seconds at least; so half-sent heads, idle connections and slow readers, however many, keep nobody out. Requests
//! and answers under way at a good pace are never cut. IPv6 counts by /64; loopback and private networks
//! have no limit of their own. The silent may take all places, as one costs 2 KiB: when there were at most 2,048 of them,
//! those who were sent away came back at once, and 19,000 kept both cores busy with nothing else.

use shoal_protocol::address::{Reach, customer, reach};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Idle connections that hyper has, at most: each takes some 40 KiB, and who announces only isn't one of them.
const WITH_HYPER_MAX: usize = 2_048;
/// Looking for the slowest takes a look at all.
const LOOK_EVERY_MS: u64 = 100;
/// How exactly it is known who has been idle longest.
const USED_EVERY_MS: u64 = 1_000;

#[derive(Debug, Default)]
struct State {
    open: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Who has not yet asked anything, oldest first.
    silent: BTreeMap<u64, CancellationToken>,
    /// Who has been answered and asks nothing now, longest first: those that hyper has, and the others.
    with_hyper: BTreeMap<u64, CancellationToken>,
    idle: BTreeMap<u64, CancellationToken>,
    /// Who is being sent a long answer, and when part of that was last taken.
    sending: BTreeMap<u64, (CancellationToken, Arc<AtomicU64>)>,
    /// None of those is looked at before then, as none was slow.
    look_ms: u64,
    next: u64,
}

impl State {
    fn remove(&mut self, number: u64) {
        let lists = [&mut self.silent, &mut self.with_hyper, &mut self.idle];
        if lists.into_iter().find_map(|list| list.remove(&number)).is_none() {
            self.sending.remove(&number);
        }
    }

    /// The one that goes for a newcomer.
    fn dispensable(&mut self, now_ms: u64, slow: Duration) -> Option<CancellationToken> {
        let lists = [&mut self.silent, &mut self.with_hyper, &mut self.idle];
        if let Some((_, token)) = lists.into_iter().find_map(BTreeMap::pop_first) {
            return Some(token);
        }
        if now_ms < self.look_ms {
            return None;
        }
        let taken = |(number, (_, at)): (&u64, &(_, Arc<AtomicU64>))| (at.load(Ordering::Relaxed), *number);
        let (taken_ms, number) = self.sending.iter().map(taken).min()?;
        if now_ms.saturating_sub(taken_ms) < slow.as_millis() as u64 {
            self.look_ms = now_ms + LOOK_EVERY_MS;
            return None;
        }
        self.sending.remove(&number).map(|(token, _)| token)
    }
}

/// All places.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    most: usize,
    per_address: usize,
    slow: Duration,
    began: Instant,
    state: Arc<Mutex<State>>,
}

/// A connection's place; dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Place {
    doors: Doors,
    address: Option<IpAddr>,
    /// Its number in one of the lists.
    number: Mutex<u64>,
    /// When it was entered into the list of the idle, in milliseconds of its own age.
    used_ms: AtomicU64,
    /// When part of a long answer was last taken, by the clock of the doors.
    taken_ms: Arc<AtomicU64>,
    evicted: CancellationToken,
}

impl Doors {
    /// `slow`: who takes nothing of an answer for so long makes room where nobody else does.
    pub(crate) fn new(most: usize, per_address: usize, slow: Duration) -> Self {
        Self { most: most.max(1), per_address, slow, began: Instant::now(), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// A place for a connection from an address, or none.
    pub(crate) fn enter(&self, ip: IpAddr) -> Option<Place> {
        self.enter_at(ip, self.now_ms())
    }

    fn enter_at(&self, ip: IpAddr, now_ms: u64) -> Option<Place> {
        let address = counted(ip);
        let mut state = self.state();
        if let Some(address) = &address
            && state.by_address.get(address).is_some_and(|count| *count >= self.per_address)
        {
            return None;
        }
        // Those who were told to go may take a moment: the new one enters at once, so there can be a few more than `most`.
        if state.open >= self.most {
            state.dispensable(now_ms, self.slow)?.cancel();
        }
        state.open += 1;
        if let Some(address) = address {
            *state.by_address.entry(address).or_default() += 1;
        }
        let number = state.next;
        state.next += 1;
        let evicted = CancellationToken::new();
        state.silent.insert(number, evicted.clone());
        drop(state);
        Some(Place {
            doors: self.clone(),
            address,
            number: Mutex::new(number),
            used_ms: AtomicU64::new(UNUSED),
            taken_ms: Arc::default(),
            evicted,
        })
    }

    /// Whether a newcomer takes the place of another.
    pub(crate) fn are_full(&self) -> bool {
        self.state().open >= self.most
    }
}

/// Of a place whose owner isn't in the list of the idle.
const UNUSED: u64 = u64::MAX;

/// Who is counted: nobody of loopback and private networks.
fn counted(ip: IpAddr) -> Option<IpAddr> {
    (reach(ip) > Reach::Private).then(|| customer(ip))
}

impl Place {
    fn number(&self) -> MutexGuard<'_, u64> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole head came: until it is answered this one stays.
    pub(crate) fn busy(&self) {
        self.used_ms.store(UNUSED, Ordering::Relaxed);
        let number = self.number();
        self.doors.state().remove(*number);
    }

    /// Its answer is a long one, and on its way: until it is sent this one stays, as long as it takes some of it.
    pub(crate) fn sending(&self) {
        self.took();
        let number = self.number();
        let entry = (self.evicted.clone(), Arc::clone(&self.taken_ms));
        self.doors.state().sending.insert(*number, entry);
    }

    /// Part of an answer was taken.
    pub(crate) fn took(&self) {
        self.taken_ms.store(self.doors.now_ms(), Ordering::Relaxed);
    }

    /// It was answered, and hyper keeps it.
    pub(crate) fn idle(&self) {
        let mut number = self.number();
        let mut state = self.doors.state();
        state.remove(*number);
        *number = state.next;
        state.next += 1;
        if state.with_hyper.len() >= WITH_HYPER_MAX
            && let Some((_, token)) = state.with_hyper.pop_first()
        {
            token.cancel();
        }
        state.with_hyper.insert(*number, self.evicted.clone());
    }

    /// It was answered before it could be in anybody's way, at this age.
    pub(crate) fn used(&self, age_ms: u64) {
        let before = self.used_ms.load(Ordering::Relaxed);
        if before != UNUSED && age_ms < before + USED_EVERY_MS {
            return;
        }
        self.used_ms.store(age_ms, Ordering::Relaxed);
        let mut number = self.number();
        let mut state = self.doors.state();
        state.remove(*number);
        *number = state.next;
        state.next += 1;
        state.idle.insert(*number, self.evicted.clone());
    }

    /// Somebody else has this place now.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let number = *self.number();
        let mut state = self.doors.state();
        state.open -= 1;
        state.remove(number);
        if let Some(address) = self.address
            && let Some(count) = state.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                state.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(3);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_silent_go_first_then_the_idle_and_never_the_busy() {
        let doors = Doors::new(3, 9, SLOW);
        let enter = || doors.enter(ip("10.0.0.1"));
        let (busy, idle, silent) = (enter().unwrap(), enter().unwrap(), enter().unwrap());
        assert!(doors.are_full());
        busy.busy();
        idle.busy();
        idle.idle();
        let fourth = enter().unwrap();
        assert!(silent.evicted.is_cancelled() && !idle.evicted.is_cancelled() && !busy.evicted.is_cancelled());
        fourth.busy();
        let fifth = enter().unwrap();
        assert!(idle.evicted.is_cancelled());
        fifth.busy();
        drop((silent, idle));
        assert!(enter().is_none(), "three are busy");
        fifth.idle();
        assert!(enter().is_some() && !busy.evicted.is_cancelled() && !fourth.evicted.is_cancelled());
    }

    #[test]
    fn the_idle_that_hyper_has_are_few_however_much_room_there_is() {
        let doors = Doors::new(9 * WITH_HYPER_MAX, 9, SLOW);
        let held: Vec<_> = (0..WITH_HYPER_MAX + 3).filter_map(|_| doors.enter(ip("10.0.0.1"))).collect();
        held[0].used(0);
        for place in &held[2..] {
            place.busy();
            place.idle();
        }
        let gone = || held.iter().position(|place| place.evicted.is_cancelled());
        assert_eq!(gone(), Some(2), "of those, the longest idle");
        assert_eq!(held.iter().filter(|place| place.evicted.is_cancelled()).count(), 1);
    }

    #[test]
    fn who_takes_nothing_of_a_long_answer_makes_room_when_nobody_else_does() {
        let doors = Doors::new(3, 9, SLOW);
        let held: Vec<_> = (0..3).filter_map(|_| doors.enter(ip("10.0.0.1"))).collect();
        for (place, taken_ms) in held.iter().zip([700, 500, 900]) {
            place.busy();
            place.sending();
            place.taken_ms.store(taken_ms, Ordering::Relaxed);
        }
        let slow_ms = SLOW.as_millis() as u64;
        let enter = |now_ms| doors.enter_at(ip("10.0.0.1"), now_ms);
        assert!(enter(499 + slow_ms).is_none(), "all take theirs");
        assert!(enter(501 + slow_ms).is_none(), "it was just looked");
        let newcomer = enter(499 + slow_ms + LOOK_EVERY_MS).unwrap();
        newcomer.busy();
        let gone = || held.iter().map(|place| place.evicted.is_cancelled()).collect::<Vec<_>>();
        assert_eq!(gone(), [false, true, false]);
        // Sent, and idle as others are.
        held[2].idle();
        let second = enter(700 + slow_ms).unwrap();
        second.busy();
        assert_eq!(gone(), [false, true, true], "first the idle");
        assert!(enter(700 + slow_ms).is_some() && gone()[0]);
        drop((held, newcomer, second));
        assert!(doors.state().sending.is_empty() && doors.state().open == 0);
    }

    #[test]
    fn of_the_idle_who_was_used_longest_ago_goes_first() {
        let doors = Doors::new(3, 9, SLOW);
        let held: Vec<_> = (0..3).filter_map(|_| doors.enter(ip("10.0.0.1"))).collect();
        held.iter().for_each(|place| place.used(0));
        held[0].used(USED_EVERY_MS - 1);
        held[1].used(USED_EVERY_MS);
        let gone = || held.iter().map(|place| place.evicted.is_cancelled()).collect::<Vec<_>>();
        let mut newer = Vec::new();
        for _ in 0..2 {
            newer.push(doors.enter(ip("10.0.0.1")).unwrap());
            newer.iter().for_each(|place| place.used(0));
        }
        assert_eq!(gone(), [true, false, true]);
        held[1].busy();
        held[1].used(USED_EVERY_MS + 1);
        assert_eq!((gone()[1], doors.state().idle.len()), (false, 3), "in the list again");
    }

    #[test]
    fn a_public_address_has_few_places_and_gives_them_back() {
        let doors = Doors::new(99, 2, SLOW);
        let held: Vec<_> = (0..3).filter_map(|_| doors.enter(ip("8.8.8.8"))).collect();
        assert_eq!(held.len(), 2);
        let six: Vec<_> = (1..4).filter_map(|n| doors.enter(ip(&format!("2600::{n}")))).collect();
        assert_eq!(six.len(), 2, "a /64 is one customer");
        assert!(doors.enter(ip("8.8.4.4")).is_some());
        assert_eq!((0..9).filter_map(|_| doors.enter(ip("10.0.0.1"))).count(), 9, "a NAT is many hosts");
        drop(held);
        assert!(doors.enter(ip("8.8.8.8")).is_some());
        drop(six);
        let state = doors.state();
        assert!(state.open == 0 && state.by_address.is_empty());
        assert!(state.silent.is_empty() && state.with_hyper.is_empty() && state.idle.is_empty());
    }
}
