//! One swarm: a dense vector of its peers, seeds in front, so that a sample costs the same in a swarm of any size.
//!
//! Contract: no clock, no I/O; time comes as seconds since the tracker started. Peers are found by address and port,
//! not by the id they claim, so that nobody can replace or stop another's record. Two kinds are told apart by more: one
//! that can't be dialled (port 0) by its id, and one that says that its own addresses are others than the one seen here, as
//! behind a NAT, by the first of them; or all machines of an office that listen at the usual port would be one. Limits: peers per swarm, and peers per public address within one swarm; loopback
//! and private networks are spared, since many peers share a host or a NAT there. Memory is 56 bytes a peer, and what
//! [`Lookup`] takes in a swarm large enough to need one.

use crate::lookup::{Lookup, count_of_address};
use shoal_protocol::PeerId;
use shoal_protocol::address::{Reach, canonical, canonical_addr, reach};
use std::hash::RandomState;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From this many peers on a swarm has an index; below it a walk over the vector is as fast and costs no memory.
const INDEX_FROM: usize = 32;
/// A full vector grows by this part of its length: copies stay few, and little lies idle.
const GROWTH: usize = 8;

/// Where a peer is known from: the address that the tracker sees, and the port that the peer announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    ip: [u8; 16],
    port: u16,
    /// Which host behind the address; 0 where the address is its own.
    host: u16,
    /// Only where the port is 0: such peers of one address would else be one.
    id: Option<PeerId>,
}

impl Key {
    /// All addresses of loopback are one, whichever of them was used.
    #[must_use]
    pub fn new(ip: IpAddr, port: u16, id: PeerId, candidates: &[SocketAddr]) -> Self {
        let host = host_behind(SocketAddr::new(canonical(ip), port), candidates);
        Self { ip: pack(ip), port, host, id: (port == 0).then_some(id) }
    }

    /// Whether it is one of perhaps many hosts behind its address.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.host != 0
    }

    /// The address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        canonical(IpAddr::V6(Ipv6Addr::from(self.ip)))
    }
}

/// Which of the hosts behind one address says this of itself; loopback is one host. A number that follows from its first private address. Two of a
/// thousand may have the same, and are then one as if they said nothing.
fn host_behind(seen: SocketAddr, candidates: &[SocketAddr]) -> u16 {
    if reach(seen.ip()) == Reach::Loopback || candidates.iter().any(|at| canonical_addr(*at) == seen) {
        return 0;
    }
    let Some(ip) = candidates.iter().map(|at| canonical(at.ip())).find(|ip| reach(*ip) == Reach::Private) else {
        return 0;
    };
    // FNV-1a, folded: whoever makes two alike only takes a record of his own network's.
    let hash = pack(ip).iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    ((hash >> 16) as u16 ^ hash as u16).max(1)
}

fn pack(ip: IpAddr) -> [u8; 16] {
    let ip = if reach(ip) == Reach::Loopback { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { canonical(ip) };
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What few peers send and what is therefore kept apart.
#[derive(Debug, Default)]
pub struct Extra {
    candidates: Box<[SocketAddr]>,
    zone: Box<str>,
    label: Box<str>,
    /// Given back when this is dropped.
    weight: Weight,
}

impl Extra {
    /// Keeps what an announce says beside the needful, or nothing where the budget is spent: candidates, zone and label
    /// are each of use, but nobody is lost without them.
    #[must_use]
    pub fn new(budget: &Budget, candidates: &[SocketAddr], zone: &str, label: &str) -> Option<Box<Self>> {
        if candidates.is_empty() && zone.is_empty() && label.is_empty() {
            return None;
        }
        let bytes = size_of::<Self>() + size_of_val(candidates) + zone.len() + label.len();
        let weight = budget.take(bytes)?;
        Some(Box::new(Self { candidates: candidates.into(), zone: zone.into(), label: label.into(), weight }))
    }

    /// What it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.weight.bytes
    }
}

/// Memory for all that peers say of themselves beside the needful.
#[derive(Debug, Clone)]
pub struct Budget {
    most: usize,
    used: Arc<AtomicUsize>,
}

impl Budget {
    /// So many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, used: Arc::default() }
    }

    /// What is used of it.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Option<Weight> {
        // Several at once may pass by a little; each gives back what it took.
        if self.used() + bytes > self.most {
            return None;
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Some(Weight { bytes, used: Some(Arc::clone(&self.used)) })
    }
}

#[derive(Debug, Default)]
struct Weight {
    bytes: usize,
    used: Option<Arc<AtomicUsize>>,
}

impl Drop for Weight {
    fn drop(&mut self) {
        if let Some(used) = &self.used {
            used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    ip: [u8; 16],
    id: PeerId,
    expires_s: u32,
    /// Positions of its neighbours in the ring of near peers, in a swarm that has an index.
    pub(crate) next: u32,
    pub(crate) prev: u32,
    extra: Option<Box<Extra>>,
    port: u16,
    host: u16,
}

impl Peer {
    /// The address that the tracker saw.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        canonical(IpAddr::V6(Ipv6Addr::from(self.ip)))
    }

    /// The port that it announced; 0 when it can't be dialled.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name that it gave itself.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Its zone, or nothing.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.extra.as_ref().map_or("", |e| &e.zone)
    }

    /// Its label, or nothing.
    #[must_use]
    pub fn label(&self) -> &str {
        self.extra.as_ref().map_or("", |e| &e.label)
    }

    /// Its candidates.
    #[must_use]
    pub fn candidates(&self) -> &[SocketAddr] {
        self.extra.as_ref().map_or(&[], |e| &e.candidates)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn expired(&self, now_s: u32) -> bool {
        self.expires_s < now_s
    }

    /// Whether this is the one of that key.
    #[must_use]
    pub fn is_at(&self, key: &Key) -> bool {
        self.port == key.port
            && self.host == key.host
            && self.ip == key.ip
            && (self.port != 0 || key.id == Some(self.id))
    }

    /// Whether it is one of perhaps many hosts behind its address.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.host != 0
    }

    /// The key it is found by.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { ip: self.ip, port: self.port, host: self.host, id: (self.port == 0).then_some(self.id) }
    }
}

/// A limit of the swarm is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Too many peers in the swarm.
    Peers,
    /// Too many peers of one public address in the swarm.
    Address,
}

/// What is written for a peer.
#[derive(Debug)]
pub struct Record {
    /// How it is found.
    pub key: Key,
    /// The name it gave itself.
    pub id: PeerId,
    /// Whether it has everything.
    pub seed: bool,
    /// When it is forgotten.
    pub expires_s: u32,
    /// Candidates, zone and label, if it has any.
    pub extra: Option<Box<Extra>>,
}

/// The peers of one content.
#[derive(Debug, Default)]
pub struct Swarm {
    peers: Vec<Peer>,
    seeds: u32,
    lookup: Option<Box<Lookup>>,
    /// How often a peer completed.
    pub completed: u32,
    /// When the first peer came.
    pub born_s: u32,
    /// When a peer last announced.
    pub touched_s: u32,
}

impl Swarm {
    /// Number of peers, those included whose time is over and who weren't swept yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nobody is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Number of peers that have everything: they are the first ones in the vector.
    #[must_use]
    pub fn seeds(&self) -> usize {
        self.seeds as usize
    }

    /// All peers, seeds first.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Positions of the peers in the asker's zone, or without a zone in its subnet, each once; none in a small swarm.
    ///
    /// They form a ring from the newest to the oldest. The walk begins `skip` places behind the asker's own record, or
    /// where it has none yet behind the newest, so that not all askers get the same ones.
    pub fn near(
        &self,
        hasher: &RandomState,
        key: &Key,
        zone: &str,
        skip: usize,
        backwards: bool,
    ) -> impl Iterator<Item = usize> {
        let step = move |at: usize| {
            let peer = &self.peers[at];
            (if backwards { peer.prev } else { peer.next }) as usize
        };
        let first = self.lookup.as_ref().and_then(|lookup| {
            let own = lookup.find(hasher, &self.peers, key).filter(|at| self.peers[*at].zone() == zone);
            own.or_else(|| lookup.head(hasher, &self.peers, key.ip(), zone))
        });
        let first = first.map(|at| (0..skip).fold(at, |at, _| step(at)));
        std::iter::successors(first, move |at| Some(step(*at)).filter(|next| Some(*next) != first))
    }

    /// Position of a peer.
    #[must_use]
    pub fn find(&self, hasher: &RandomState, key: &Key) -> Option<usize> {
        match &self.lookup {
            None => self.peers.iter().position(|p| p.is_at(key)),
            Some(lookup) => lookup.find(hasher, &self.peers, key),
        }
    }

    /// Adds a peer or refreshes it. Says whether it was known, and whether as a seed.
    ///
    /// # Errors
    /// When a new peer would pass a limit; then nothing changed.
    pub fn put(
        &mut self,
        hasher: &RandomState,
        record: Record,
        max_peers: usize,
        max_per_address: usize,
    ) -> Result<Option<bool>, Full> {
        let found = self.find(hasher, &record.key);
        let known = found.map(|at| at < self.seeds());
        let at = match found {
            Some(at) => {
                let zone = record.extra.as_ref().map_or("", |extra| &extra.zone);
                let moves = self.peers[at].zone() != zone;
                if let Some(lookup) = self.lookup.as_mut().filter(|_| moves) {
                    lookup.ungroup(hasher, &mut self.peers, at);
                }
                let peer = &mut self.peers[at];
                (peer.id, peer.expires_s, peer.extra) = (record.id, record.expires_s, record.extra);
                if let Some(lookup) = self.lookup.as_mut().filter(|_| moves) {
                    lookup.group(hasher, &mut self.peers, at);
                }
                at
            }
            None => {
                if self.len() >= max_peers {
                    return Err(Full::Peers);
                }
                let Record { key, id, expires_s, extra, .. } = record;
                let count = match &self.lookup {
                    Some(lookup) => lookup.count_of_address(hasher, key.ip()),
                    None => count_of_address(hasher, &self.peers, key.ip()),
                };
                if reach(key.ip()) == Reach::Global && count >= max_per_address {
                    return Err(Full::Address);
                }
                if self.len() == self.peers.capacity() {
                    // Most hostile swarms have one peer.
                    self.peers.reserve_exact(self.len() / GROWTH + 1);
                }
                self.peers.push(Peer {
                    ip: key.ip,
                    id,
                    expires_s,
                    next: 0,
                    prev: 0,
                    extra,
                    port: key.port,
                    host: key.host,
                });
                let at = self.len() - 1;
                if let Some(lookup) = &mut self.lookup {
                    lookup.enter(hasher, &mut self.peers, at);
                } else if self.len() > INDEX_FROM {
                    let lookup = self.lookup.insert(Box::default());
                    (0..self.peers.len()).for_each(|at| lookup.enter(hasher, &mut self.peers, at));
                }
                at
            }
        };
        let is_seed = at < self.seeds();
        if record.seed && !is_seed {
            self.swap(hasher, at, self.seeds());
            self.seeds += 1;
        } else if !record.seed && is_seed {
            self.seeds -= 1;
            self.swap(hasher, at, self.seeds());
        }
        Ok(known)
    }

    /// Removes the peer at a position.
    pub fn remove(&mut self, hasher: &RandomState, at: usize) {
        if at >= self.len() {
            return;
        }
        let mut at = at;
        if at < self.seeds() {
            self.seeds -= 1;
            self.swap(hasher, at, self.seeds());
            at = self.seeds();
        }
        let last = self.len() - 1;
        self.swap(hasher, at, last);
        if let Some(lookup) = &mut self.lookup {
            lookup.leave(hasher, &mut self.peers, last);
        }
        self.peers.pop();
        if self.peers.is_empty() {
            self.lookup = None;
            self.peers = Vec::new();
        } else if self.peers.len() > 4 * INDEX_FROM && self.peers.len() < self.peers.capacity() / 4 {
            self.peers.shrink_to(self.peers.len() * 2);
        }
    }

    fn swap(&mut self, hasher: &RandomState, a: usize, b: usize) {
        match &mut self.lookup {
            _ if a == b => {}
            Some(lookup) => lookup.swap(hasher, &mut self.peers, a, b),
            None => self.peers.swap(a, b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::prng::Prng;
    use std::collections::HashMap;

    fn record(ip: &str, port: u16, id: u8, seed: bool, zone: &str) -> Record {
        let (ip, id) = (ip.parse().unwrap(), PeerId([id; 16]));
        let extra = Extra::new(&Budget::new(1 << 20), &[], zone, "");
        Record { key: Key::new(ip, port, id, &[]), id, seed, expires_s: 100, extra }
    }

    fn check(swarm: &Swarm, hasher: &RandomState) {
        for (at, peer) in swarm.peers.iter().enumerate() {
            assert_eq!(swarm.find(hasher, &peer.key()), Some(at));
        }
        if let Some(lookup) = &swarm.lookup {
            lookup.check(hasher, &swarm.peers);
        }
    }

    #[test]
    fn a_peer_costs_56_bytes_and_little_lies_idle() {
        assert_eq!(size_of::<Peer>(), 56);
        let hasher = RandomState::new();
        let mut swarm = Swarm::default();
        for n in 0..5_000_u16 {
            let ip = format!("10.0.{}.{}", n >> 8, n & 255);
            swarm.put(&hasher, record(&ip, 7171, 1, n % 3 == 0, ""), 5_000, 64).unwrap();
            assert!(swarm.peers.capacity() <= swarm.len() + swarm.len() / GROWTH + 1);
        }
        while !swarm.is_empty() {
            swarm.remove(&hasher, swarm.len() / 2);
            assert!(swarm.peers.capacity() <= (16 * INDEX_FROM).max(4 * swarm.len()) + 4);
        }
    }

    #[test]
    fn a_walk_meets_each_near_peer_once_wherever_it_begins() {
        let hasher = RandomState::new();
        let mut swarm = Swarm::default();
        for n in 0..200 {
            let zone = ["", "a/b", "a/c"][n % 3];
            swarm.put(&hasher, record(&format!("10.0.{}.{n}", n % 2), 7171, n as u8, false, zone), 1000, 64).unwrap();
        }
        let known = Key::new("10.0.0.6".parse().unwrap(), 7171, PeerId([6; 16]), &[]);
        let stranger = Key::new("10.0.0.250".parse().unwrap(), 7171, PeerId([250; 16]), &[]);
        for zone in ["", "a/b", "nowhere"] {
            let is_near =
                |p: &Peer| p.zone() == zone && (!zone.is_empty() || p.ip().to_string().starts_with("10.0.0."));
            let expected: Vec<usize> = (0..swarm.len()).filter(|at| is_near(&swarm.peers[*at])).collect();
            for (key, skip, backwards) in
                [(known, 0, false), (known, 500, true), (stranger, 0, true), (stranger, 7, false)]
            {
                let mut walk: Vec<usize> = swarm.near(&hasher, &key, zone, skip, backwards).collect();
                if skip == 0 && key == known && zone.is_empty() {
                    assert_eq!(swarm.find(&hasher, &known), walk.first().copied(), "from its own record");
                }
                walk.sort_unstable();
                assert_eq!(walk, expected, "{zone} {skip}");
            }
        }
    }

    #[test]
    fn every_structure_agrees_after_any_sequence_of_changes() {
        let hasher = RandomState::new();
        let (mut swarm, mut rng) = (Swarm::default(), Prng::new(3));
        let mut model: HashMap<(u8, u16), bool> = HashMap::new();
        for step in 0..6000 {
            let (host, port) = (rng.below(40) as u8, 7000 + rng.below(5) as u16);
            let ip = if host < 20 { format!("10.0.{}.{host}", host % 3) } else { format!("8.8.{}.{host}", host % 2) };
            // The phases grow and shrink the swarm, across the size from which there is an index.
            if rng.below(100) < if step / 1000 % 2 == 0 { 70 } else { 20 } {
                let seed = rng.below(2) == 0;
                let zone = ["", "a/b", "a/c"][rng.below(3)];
                let known = swarm.put(&hasher, record(&ip, port, host, seed, zone), 1000, 64).unwrap();
                assert_eq!(known, model.insert((host, port), seed));
            } else if let Some(at) = swarm.find(&hasher, &Key::new(ip.parse().unwrap(), port, PeerId([host; 16]), &[]))
            {
                swarm.remove(&hasher, at);
                assert!(model.remove(&(host, port)).is_some());
            }
            assert_eq!((swarm.len(), swarm.seeds()), (model.len(), model.values().filter(|s| **s).count()));
            if step % 50 == 0 {
                check(&swarm, &hasher);
            }
        }
    }

    #[test]
    fn limits_hold_below_at_and_above() {
        let hasher = RandomState::new();
        let mut swarm = Swarm::default();
        for n in 0..64 {
            assert!(swarm.put(&hasher, record("8.8.8.8", 7000 + n, 1, false, ""), 1000, 64).is_ok(), "{n}");
        }
        assert_eq!(swarm.put(&hasher, record("8.8.8.8", 8000, 1, false, ""), 1000, 64), Err(Full::Address));
        assert!(swarm.put(&hasher, record("8.8.8.8", 7000, 1, true, ""), 1000, 64).is_ok(), "a known one may return");
        assert!(swarm.put(&hasher, record("8.8.8.9", 8000, 1, false, ""), 1000, 64).is_ok());
        for n in 0..100 {
            assert!(swarm.put(&hasher, record("10.0.0.1", 7000 + n, 1, false, ""), 1000, 64).is_ok());
            assert!(swarm.put(&hasher, record("127.0.0.1", 7000 + n, 1, false, ""), 1000, 64).is_ok());
        }
        let len = swarm.len();
        assert!(swarm.put(&hasher, record("9.9.9.9", 7000, 1, false, ""), len + 1, 64).is_ok());
        assert_eq!(swarm.put(&hasher, record("9.9.9.8", 7000, 1, false, ""), len + 1, 64), Err(Full::Peers));
        // IPv6 customers have a /64.
        let mut swarm = Swarm::default();
        assert!(swarm.put(&hasher, record("2a00::1", 7000, 1, false, ""), 9, 1).is_ok());
        assert_eq!(swarm.put(&hasher, record("2a00::2", 7000, 1, false, ""), 9, 1), Err(Full::Address));
        assert!(swarm.put(&hasher, record("2a00:0:0:1::2", 7000, 1, false, ""), 9, 1).is_ok());
    }

    #[test]
    fn peers_that_cannot_be_dialled_are_told_apart_by_id_and_others_by_port() {
        let hasher = RandomState::new();
        let mut swarm = Swarm::default();
        for (port, id) in [(0, 1), (0, 2), (7000, 1), (7000, 2)] {
            swarm.put(&hasher, record("10.0.0.1", port, id, false, ""), 9, 9).unwrap();
        }
        assert_eq!(swarm.len(), 3);
        swarm.put(&hasher, record("::ffff:10.0.0.1", 7000, 3, false, ""), 9, 9).unwrap();
        assert_eq!(swarm.len(), 3, "an IPv4 address in an IPv6 coat is the same");
        swarm.put(&hasher, record("127.0.0.1", 7000, 4, false, ""), 9, 9).unwrap();
        swarm.put(&hasher, record("::1", 7000, 5, false, ""), 9, 9).unwrap();
        assert_eq!(swarm.len(), 4, "loopback is one host");
    }
}
