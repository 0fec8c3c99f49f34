//! What bounds the connections that others make: places for peers, of each address and in all. HTTP has its own budget
//! ([`HTTP_MAX`], kept by the service behind it), so that neither keeps the other out.

use super::half_open::{GREETS_WITHIN, HALF_OPEN_MAX, HalfOpen, Waiting, one_less};
use shoal_protocol::address::{Reach, customer, reach};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// HTTP connections at once; the one that has been idle longest makes room for another.
pub const HTTP_MAX: usize = 512;
/// Peers that dialled us at once, over all contents, unless the user wants more for one.
const PEERS_MAX: usize = 200;
/// Places beside [`PEERS_MAX`] for a newcomer whose address isn't the one with most connections. The swarm then closes one of
/// the crowd's. Without these places a crowd that comes again at once would hold all of them with connections that are closing.
const PEERS_BESIDE: usize = 64;
/// Those that have yet to get the manifest are no peers: no content knows them, so a place of theirs goes as that of a
/// half-open connection does. They take one or two segments, most of them.
const NEWCOMERS_MAX: usize = 200;
/// How long one keeps its place against its own crowd after each segment that is new to it.
const NEWCOMER_KEEPS: Duration = Duration::from_secs(10);
/// Connections from one address on the internet; private networks and this host are spared, as many share one there.
const PER_ADDRESS_MAX: usize = 16;
/// Peers among them, and those that want to become peers.
const PEERS_PER_ADDRESS_MAX: usize = 4;

/// Which places are taken.
pub(super) struct Doors {
    peers: Arc<Semaphore>,
    beside: Arc<Semaphore>,
    pub(super) half_open: HalfOpen,
    newcomers: HalfOpen,
    per_address: PerAddress,
    peers_per_address: PerAddress,
    newcomers_per_address: PerAddress,
}

/// An incoming peer's place; dropping it makes room for another.
#[derive(Debug)]
pub struct Admission {
    _permit: OwnedSemaphorePermit,
    _counted: [Counted; 2],
}

impl Doors {
    /// Places for this many peers, and for fewer of everything where there are few descriptors.
    pub(super) fn new(max_peers: usize, descriptors: usize) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count));
        Self {
            peers: places(PEERS_MAX.max(max_peers).min(descriptors / 2)),
            beside: places(PEERS_BESIDE.min(descriptors / 8)),
            half_open: HalfOpen::new(HALF_OPEN_MAX.min(descriptors / 8).max(1), GREETS_WITHIN),
            newcomers: HalfOpen::new(NEWCOMERS_MAX.min(descriptors / 8).max(1), NEWCOMER_KEEPS),
            per_address: PerAddress::new(PER_ADDRESS_MAX),
            peers_per_address: PerAddress::new(PEERS_PER_ADDRESS_MAX),
            newcomers_per_address: PerAddress::new(PEERS_PER_ADDRESS_MAX),
        }
    }

    /// Counts a connection from this address, unless it has too many.
    pub(super) fn count(&self, ip: IpAddr) -> Option<Counted> {
        self.per_address.count(ip)
    }

    /// A place for who has yet to get the manifest, if there is one.
    pub(super) fn newcomer(&self, ip: IpAddr) -> Option<(Waiting, Counted)> {
        let counted = self.newcomers_per_address.count(ip)?;
        let place = self.newcomers.enter(Instant::now(), ip, || true)?;
        place.spoke();
        Some((place, counted))
    }

    /// A place for a peer from this address, if there is one.
    pub(super) fn peer(&self, ip: IpAddr, connection: Counted) -> Option<Admission> {
        let peer = self.peers_per_address.count(ip)?;
        let beside = || if self.peers_per_address.is_largest(ip) { None } else { place(&self.beside) };
        let permit = place(&self.peers).or_else(beside)?;
        Some(Admission { _permit: permit, _counted: [connection, peer] })
    }
}

fn place(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(of).try_acquire_owned().ok()
}

/// How many connections each address has.
#[derive(Debug, Clone)]
struct PerAddress {
    most: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of an address; dropping it counts one less.
#[derive(Debug)]
pub(super) struct Counted(PerAddress, IpAddr);

impl PerAddress {
    fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    fn count(&self, ip: IpAddr) -> Option<Counted> {
        let spared = matches!(reach(ip), Reach::Loopback | Reach::Private);
        let key = customer(ip);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        if *count >= self.most && !spared {
            return None;
        }
        *count += 1;
        Some(Counted(self.clone(), key))
    }

    /// Whether it has several connections and no address has more.
    fn is_largest(&self, ip: IpAddr) -> bool {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.get(&customer(ip)).copied().unwrap_or(0);
        own > 1 && counts.values().all(|count| *count <= own)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        one_less(&mut self.0.counts.lock().unwrap_or_else(PoisonError::into_inner), self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_on_the_internet_has_few_places_and_private_networks_are_spared() {
        let doors = PerAddress::new(2);
        let far: IpAddr = "8.8.8.8".parse().unwrap();
        let held: Vec<Counted> = (0..2).filter_map(|_| doors.count(far)).collect();
        assert_eq!(held.len(), 2);
        assert!(doors.count(far).is_none());
        assert!(doors.count("8.8.4.4".parse().unwrap()).is_some());
        // An IPv6 host has its whole /64.
        let six: Vec<_> = (1..4).map(|n| doors.count(format!("2600::{n}").parse().unwrap())).collect();
        assert!(six[0].is_some() && six[1].is_some() && six[2].is_none());
        let near: Vec<_> = (0..9).map(|_| doors.count("10.0.0.1".parse().unwrap())).collect();
        assert!(near.iter().all(Option::is_some));
        drop(held);
        assert!(doors.count(far).is_some());
    }

    #[test]
    fn full_places_have_some_beside_them_for_who_is_no_crowd() {
        let places = |count: usize| Arc::new(Semaphore::new(count));
        let doors = Doors { peers: places(3), beside: places(2), ..Doors::new(1, 1_000) };
        let [mob, honest]: [IpAddr; 2] = ["10.0.0.66".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        let enter = |ip: IpAddr| doors.peer(ip, doors.count(ip)?);
        let mut held: Vec<_> = (0..9).filter_map(|_| enter(mob)).collect();
        assert_eq!(held.len(), 3, "one crowd gets no place beside");
        held.extend((0..9).filter_map(|_| enter(honest)));
        assert_eq!(held.len(), 5, "others do, as long as they are fewer");
        drop(held);
        // Alone at its address anybody may come in beside, though all others are alone there, too.
        let each = |n: u8| enter(IpAddr::from([10, 0, 1, n]));
        let held: Vec<_> = (0..9).filter_map(each).collect();
        assert_eq!(held.len(), 5);
        drop(held);
        assert!(doors.peers_per_address.counts.lock().unwrap().is_empty());
        assert!(doors.per_address.counts.lock().unwrap().is_empty());
    }
}
