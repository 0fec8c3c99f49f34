//! Who may be connected: places in all, and for one public address.
//!
//! Contract: pure but for the tokens that it cancels. When all places are taken, a newcomer gets that of who has waited
//! longest without having asked anything, or else of who has been idle longest; so half-sent heads and idle connections,
//! however many, keep nobody out. Requests under way are never cut. IPv6 counts by /64; loopback and private networks
//! have no limit of their own.

use shoal_protocol::address::{Reach, canonical, reach, subnet};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Connections that have not asked anything, at most: an honest one asks within a round trip, and each takes some 40 KiB
/// until its head is whole.
const SILENT_MAX: usize = 2_048;

#[derive(Debug, Default)]
struct State {
    open: usize,
    by_address: HashMap<[u8; 9], usize>,
    /// Who has not yet asked anything, oldest first.
    silent: BTreeMap<u64, CancellationToken>,
    /// Who has been answered and asks nothing now, longest first.
    idle: BTreeMap<u64, CancellationToken>,
    next: u64,
}

/// All places.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    most: usize,
    per_address: usize,
    state: Arc<Mutex<State>>,
}

/// A connection's place; dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Place {
    doors: Doors,
    address: Option<[u8; 9]>,
    /// Its number in one of the two lists.
    number: Mutex<u64>,
    evicted: CancellationToken,
}

impl Doors {
    pub(crate) fn new(most: usize, per_address: usize) -> Self {
        Self { most: most.max(1), per_address, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from an address, or none.
    pub(crate) fn enter(&self, ip: IpAddr) -> Option<Place> {
        let address = key(ip);
        let mut state = self.state();
        if let Some(address) = &address
            && state.by_address.get(address).is_some_and(|count| *count >= self.per_address)
        {
            return None;
        }
        // Those who were told to go may take a moment: the new one enters at once, so there can be a few more than `most`.
        let State { silent, idle, open, .. } = &mut *state;
        if *open >= self.most {
            let (_, token) = silent.pop_first().or_else(|| idle.pop_first())?;
            token.cancel();
        } else if silent.len() >= SILENT_MAX
            && let Some((_, token)) = silent.pop_first()
        {
            token.cancel();
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
        Some(Place { doors: self.clone(), address, number: Mutex::new(number), evicted })
    }
}

fn key(ip: IpAddr) -> Option<[u8; 9]> {
    if reach(ip) <= Reach::Private {
        return None;
    }
    let (family, bytes) = match canonical(ip) {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            (4, [a, b, c, d, 0, 0, 0, 0])
        }
        IpAddr::V6(_) => (6, subnet(ip)),
    };
    let [a, b, c, d, e, f, g, h] = bytes;
    Some([family, a, b, c, d, e, f, g, h])
}

impl Place {
    fn number(&self) -> MutexGuard<'_, u64> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole head came: until it is answered this one stays.
    pub(crate) fn busy(&self) {
        let number = self.number();
        let mut state = self.doors.state();
        state.silent.remove(&number);
        state.idle.remove(&number);
    }

    /// It was answered.
    pub(crate) fn idle(&self) {
        let mut number = self.number();
        let mut state = self.doors.state();
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
        state.silent.remove(&number);
        state.idle.remove(&number);
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

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_silent_go_first_then_the_idle_and_never_the_busy() {
        let doors = Doors::new(3, 9);
        let enter = || doors.enter(ip("10.0.0.1"));
        let (busy, idle, silent) = (enter().unwrap(), enter().unwrap(), enter().unwrap());
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
    fn the_silent_are_few_however_much_room_there_is() {
        let doors = Doors::new(9 * SILENT_MAX, 9);
        let mut held: Vec<_> = (0..SILENT_MAX).filter_map(|_| doors.enter(ip("10.0.0.1"))).collect();
        held[0].busy();
        held.push(doors.enter(ip("10.0.0.1")).unwrap());
        assert!(held.iter().all(|place| !place.evicted.is_cancelled()));
        held.push(doors.enter(ip("10.0.0.1")).unwrap());
        let gone: Vec<_> =
            held.iter().map(|place| place.evicted.is_cancelled()).enumerate().filter(|(_, e)| *e).collect();
        assert_eq!(gone, [(1, true)], "the oldest that asked nothing");
    }

    #[test]
    fn a_public_address_has_few_places_and_gives_them_back() {
        let doors = Doors::new(99, 2);
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
        assert!(state.open == 0 && state.by_address.is_empty() && state.silent.is_empty() && state.idle.is_empty());
    }
}
