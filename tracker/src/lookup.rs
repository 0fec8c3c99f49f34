//! What finds peers in a large swarm: by key, by nearness, and how many have one public address.
//!
//! Contract: beside the dense vector of peers, which is passed in, this holds positions only; hashes are made again from
//! the peers, and the groups of near peers are rings whose links lie in the peers. So it takes about 20 bytes a peer,
//! and 20 more where it has a public address. Whoever moves, enters or removes a peer says so here.

use crate::swarm::{Key, Peer};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use shoal_protocol::address::{Reach, customer, reach, subnet};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

/// A table with fewer entries than this isn't worth making smaller.
const SHRINK_FROM: usize = 64;

/// The tables of one swarm.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// Position of each peer.
    index: HashTable<u32>,
    /// Position of the peer that came last, for each group.
    heads: HashTable<u32>,
    addresses: HashTable<Address>,
}

/// Peers of one public address.
#[derive(Debug)]
struct Address {
    /// Part of the address's keyed hash. Two addresses of one tag share a limit: with a million of them a few hundred do.
    tag: u32,
    count: u32,
}

impl Address {
    fn hash(tag: u32) -> u64 {
        // A table takes its hash's upper and lower bits.
        u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Peers of one zone are near each other; without a zone those of one subnet.
fn group_hash(hasher: &RandomState, ip: IpAddr, zone: &str) -> u64 {
    if zone.is_empty() { hasher.hash_one((0_u8, subnet(ip))) } else { hasher.hash_one((1_u8, zone)) }
}

fn is_of_group(peer: &Peer, ip: IpAddr, zone: &str) -> bool {
    peer.zone() == zone && (!zone.is_empty() || subnet(peer.ip()) == subnet(ip))
}

fn peer_hash(hasher: &RandomState, peer: &Peer) -> u64 {
    hasher.hash_one(peer.key())
}

fn peer_group_hash(hasher: &RandomState, peer: &Peer) -> u64 {
    group_hash(hasher, peer.ip(), peer.zone())
}

/// One public address: a whole IPv4 address, or the /64 that one IPv6 customer has. `None` where no limit applies.
fn limited_address(hasher: &RandomState, ip: IpAddr) -> Option<u32> {
    (reach(ip) == Reach::Global).then(|| hasher.hash_one(customer(ip)) as u32)
}

/// How many of these have the public address of `ip`; nobody has one that isn't public.
pub(crate) fn count_of_address(hasher: &RandomState, peers: &[Peer], ip: IpAddr) -> usize {
    let Some(address) = limited_address(hasher, ip) else { return 0 };
    peers.iter().filter(|peer| limited_address(hasher, peer.ip()) == Some(address)).count()
}

impl Lookup {
    /// Position of a peer.
    pub(crate) fn find(&self, hasher: &RandomState, peers: &[Peer], key: &Key) -> Option<usize> {
        let is_it = |at: &u32| peers[*at as usize].is_at(key);
        self.index.find(hasher.hash_one(key), is_it).map(|at| *at as usize)
    }

    /// A peer of that zone, or without a zone of that subnet.
    pub(crate) fn head(&self, hasher: &RandomState, peers: &[Peer], ip: IpAddr, zone: &str) -> Option<usize> {
        let is_it = |at: &u32| is_of_group(&peers[*at as usize], ip, zone);
        self.heads.find(group_hash(hasher, ip, zone), is_it).map(|at| *at as usize)
    }

    /// As [`count_of_address`], without a walk.
    pub(crate) fn count_of_address(&self, hasher: &RandomState, ip: IpAddr) -> usize {
        let Some(tag) = limited_address(hasher, ip) else { return 0 };
        self.addresses.find(Address::hash(tag), |a| a.tag == tag).map_or(0, |a| a.count as usize)
    }

    /// The peer at this position is new.
    pub(crate) fn enter(&mut self, hasher: &RandomState, peers: &mut [Peer], at: usize) {
        let hash = |at: &u32| peer_hash(hasher, &peers[*at as usize]);
        self.index.insert_unique(hash(&(at as u32)), at as u32, hash);
        if let Some(tag) = limited_address(hasher, peers[at].ip()) {
            let rehash = |a: &Address| Address::hash(a.tag);
            let entry = self.addresses.entry(Address::hash(tag), |a| a.tag == tag, rehash);
            entry.or_insert(Address { tag, count: 0 }).get_mut().count += 1;
        }
        self.group(hasher, peers, at);
    }

    /// The peer at this position is about to go.
    pub(crate) fn leave(&mut self, hasher: &RandomState, peers: &mut [Peer], at: usize) {
        self.ungroup(hasher, peers, at);
        let peer = &peers[at];
        if let Ok(entry) = self.index.find_entry(peer_hash(hasher, peer), |other| *other as usize == at) {
            entry.remove();
        }
        if let Some(tag) = limited_address(hasher, peer.ip())
            && let Ok(mut entry) = self.addresses.find_entry(Address::hash(tag), |a| a.tag == tag)
        {
            entry.get_mut().count -= 1;
            if entry.get().count == 0 {
                entry.remove();
            }
        }
        shrink(&mut self.index, |at| peer_hash(hasher, &peers[*at as usize]));
        shrink(&mut self.heads, |at| peer_group_hash(hasher, &peers[*at as usize]));
        shrink(&mut self.addresses, |a| Address::hash(a.tag));
    }

    /// Enters a peer into its group, as its newest.
    pub(crate) fn group(&mut self, hasher: &RandomState, peers: &mut [Peer], at: usize) {
        let (ip, zone) = (peers[at].ip(), peers[at].zone());
        let is_it = |at: &u32| is_of_group(&peers[*at as usize], ip, zone);
        let rehash = |at: &u32| peer_group_hash(hasher, &peers[*at as usize]);
        let head = match self.heads.entry(group_hash(hasher, ip, zone), is_it, rehash) {
            Entry::Occupied(mut head) => std::mem::replace(head.get_mut(), at as u32),
            Entry::Vacant(vacant) => {
                vacant.insert(at as u32);
                (peers[at].next, peers[at].prev) = (at as u32, at as u32);
                return;
            }
        };
        let last = peers[head as usize].prev;
        (peers[at].next, peers[at].prev) = (head, last);
        peers[head as usize].prev = at as u32;
        peers[last as usize].next = at as u32;
    }

    /// Takes a peer out of its group; to be called before what makes its group changes.
    pub(crate) fn ungroup(&mut self, hasher: &RandomState, peers: &mut [Peer], at: usize) {
        let (next, prev) = (peers[at].next, peers[at].prev);
        if let Ok(mut head) = self.heads.find_entry(peer_group_hash(hasher, &peers[at]), |other| *other as usize == at)
        {
            if next as usize == at {
                head.remove();
            } else {
                *head.get_mut() = next;
            }
        }
        peers[prev as usize].next = next;
        peers[next as usize].prev = prev;
    }

    /// Lets two peers change places, here and in the vector.
    pub(crate) fn swap(&mut self, hasher: &RandomState, peers: &mut [Peer], a: usize, b: usize) {
        rename(&mut self.index, peers, [a, b], |peer| peer_hash(hasher, peer));
        rename(&mut self.heads, peers, [a, b], |peer| peer_group_hash(hasher, peer));
        let other = |at: u32| match at as usize {
            at if at == a => b as u32,
            at if at == b => a as u32,
            _ => at,
        };
        let (a, b) = (a as u32, b as u32);
        let [x, y] = [&peers[a as usize], &peers[b as usize]];
        // Who links to one of them, and the two themselves; in a small ring some are named twice.
        let touched = [a, b, x.next, x.prev, y.next, y.prev];
        peers.swap(a as usize, b as usize);
        for (n, at) in touched.iter().enumerate() {
            if !touched[..n].contains(at) {
                let peer = &mut peers[*at as usize];
                (peer.next, peer.prev) = (other(peer.next), other(peer.prev));
            }
        }
    }
}

/// Two positions change their meaning. Both are found before one is written, as they may lie side by side.
fn rename(table: &mut HashTable<u32>, peers: &[Peer], [a, b]: [usize; 2], hash: impl Fn(&Peer) -> u64) {
    let buckets = [a, b].map(|at| table.find_bucket_index(hash(&peers[at]), |other| *other as usize == at));
    for (bucket, at) in buckets.into_iter().zip([b, a]) {
        if let Some(place) = bucket.and_then(|bucket| table.get_bucket_mut(bucket)) {
            *place = at as u32;
        }
    }
}

/// Gives back what a table took when it was at least four times as full.
fn shrink<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if table.capacity() > SHRINK_FROM && 4 * table.len() < table.capacity() {
        table.shrink_to(table.len() * 2, hash);
    }
}

#[cfg(test)]
impl Lookup {
    /// Compares everything here with what a walk over the peers finds.
    pub(crate) fn check(&self, hasher: &RandomState, peers: &[Peer]) {
        use std::collections::{HashMap, HashSet};
        assert_eq!(self.index.len(), peers.len());
        let mut groups: HashMap<String, HashSet<usize>> = HashMap::new();
        let mut addresses: HashMap<u32, u32> = HashMap::new();
        for (at, peer) in peers.iter().enumerate() {
            assert_eq!(self.find(hasher, peers, &peer.key()), Some(at));
            let subnet = if peer.zone().is_empty() { format!("{:?}", subnet(peer.ip())) } else { String::new() };
            groups.entry(format!("{}|{subnet}", peer.zone())).or_default().insert(at);
            if let Some(tag) = limited_address(hasher, peer.ip()) {
                *addresses.entry(tag).or_default() += 1;
            }
        }
        assert_eq!(self.heads.len(), groups.len());
        for group in groups.values() {
            let one = &peers[*group.iter().next().unwrap()];
            let head = self.head(hasher, peers, one.ip(), one.zone()).unwrap();
            let (mut ring, mut at) = (HashSet::new(), head);
            while ring.insert(at) {
                let next = peers[at].next as usize;
                assert_eq!(peers[next].prev as usize, at);
                at = next;
            }
            assert_eq!((&ring, at), (group, head), "one ring of all");
        }
        let counted: HashMap<u32, u32> = self.addresses.iter().map(|a| (a.tag, a.count)).collect();
        assert_eq!((self.addresses.len(), counted), (addresses.len(), addresses));
        for capacity in [self.index.capacity(), self.heads.capacity(), self.addresses.capacity()] {
            assert!(capacity <= SHRINK_FROM.max(4 * peers.len()), "{capacity}");
        }
    }
}
