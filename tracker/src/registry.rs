//! Who is in which swarm: soft state that peers renew by announcing.
//!
//! Contract: no clock and no I/O; time (milliseconds since the tracker started) and randomness are arguments. Swarms
//! are spread over shards by id, each behind its own short lock; no call holds two of them, and none walks a whole
//! swarm. What is over disappears by a sweep of bounded steps, and is not handed out before that either.
//! Limits: swarms and peers in total, peers per swarm, peers per public address within a swarm, and bytes of what peers
//! say beside the needful. At a cap of the total a newcomer takes the place of a swarm that nobody put a manifest for
//! (of at most one peer first), or else of a real one with at most one peer, or is refused: so a flood of random ids can't push out a
//! real swarm.

use crate::cidr::Cidr;
use crate::handout::{self, Asker, Chosen, pick};
use crate::interval::{YOUNG_S, interval_s, ttl_s};
use crate::swarm::{Budget, Extra, Full, Key, Record, Swarm};
use shoal_protocol::announce::{HandoutPeer, SwarmCounts};
use shoal_protocol::limits::HANDOUT_PEERS;
use shoal_protocol::prng::Prng;
use shoal_protocol::{Announce, Event, Handout, SwarmId};
use std::collections::HashMap;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than cores by far, so that two announces seldom meet.
const SHARDS: usize = 64;
/// How many swarms are looked at when one has to make room.
const EVICTION_TRIES: usize = 16;
/// How long an empty swarm's count of completions is remembered.
const EMPTY_KEPT_S: u32 = 24 * 3600;

/// The registry's limits and intervals.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Most swarms.
    pub max_swarms: usize,
    /// Most peers in one swarm.
    pub max_peers_per_swarm: usize,
    /// Most peers in all swarms: what a tracker holds is bounded by memory, not by who asks.
    pub max_peers: usize,
    /// Most bytes of candidates, zones and labels; without room a peer is entered without them.
    pub max_extra_bytes: usize,
    /// Most peers of one public address in one swarm.
    pub max_peers_per_address: usize,
    /// Most peers in one handout.
    pub max_handout: usize,
    /// Candidates in these ranges are handed to everybody.
    pub trust_advertised: Vec<Cidr>,
    /// The interval's base in seconds; without it it follows from the swarm.
    pub interval_s: Option<u32>,
    /// How long a silent peer is kept; without it 2.5 intervals and some slack.
    pub peer_ttl_s: Option<u32>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            max_swarms: 1_000_000,
            max_peers_per_swarm: 1_000_000,
            max_peers: 1_000_000,
            max_extra_bytes: 64 << 20,
            max_peers_per_address: 64,
            max_handout: 50,
            trust_advertised: Vec::new(),
            interval_s: None,
            peer_ttl_s: None,
        }
    }
}

/// A limit that an announce ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegistryFull {
    /// No room for another swarm.
    #[error("this tracker holds as many swarms as it may; try again later or use another tracker")]
    Swarms,
    /// No room for another peer in any swarm.
    #[error("this tracker holds as many peers as it may; try again later or use another tracker")]
    Tracker,
    /// No room for another peer in the swarm.
    #[error("this swarm has as many peers as the tracker keeps; try again later")]
    Peers,
    /// Too many peers behind one public address.
    #[error("too many peers of this swarm announce from one public address")]
    Address,
}

/// What an announce gives, before addresses are chosen.
#[derive(Debug)]
pub struct Answer {
    /// Seconds until the next announce.
    pub interval_s: u32,
    /// Seeds in the swarm.
    pub seeds: u32,
    /// Leechers in the swarm.
    pub leechers: u32,
    /// How often a peer completed.
    pub completed: u32,
    /// Peers for the asker.
    pub peers: Vec<Chosen>,
}

impl Answer {
    /// With the addresses that this asker may have.
    #[must_use]
    pub fn handout(&self, asker: &Asker<'_>) -> Handout {
        let mut peers = Vec::with_capacity(self.peers.len());
        handout::each(&self.peers, asker, |peer, addrs| {
            peers.push(HandoutPeer { addrs: addrs.iter().map(ToString::to_string).collect(), seed: peer.seed });
        });
        let Self { interval_s: interval, seeds, leechers, completed, .. } = *self;
        Handout { interval, seeds, leechers, completed, peers }
    }
}

/// One peer, for the operator.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PeerRow {
    /// The address that the tracker saw.
    pub ip: IpAddr,
    /// The announced port.
    pub port: u16,
    /// Whether it has everything.
    pub seed: bool,
    /// Its zone.
    pub zone: String,
    /// Its label.
    pub label: String,
}

#[derive(Debug, Default)]
struct Shard {
    index: HashMap<SwarmId, u32>,
    swarms: Vec<(SwarmId, Swarm)>,
    /// Where the sweep goes on: swarm, and the number of its peers that are still to be looked at.
    cursor: (usize, Option<usize>),
}

impl Shard {
    fn swarm(&self, id: &SwarmId) -> Option<&Swarm> {
        Some(&self.swarms.get(*self.index.get(id)? as usize)?.1)
    }

    fn remove(&mut self, at: usize) {
        let (id, _) = self.swarms.swap_remove(at);
        self.index.remove(&id);
        if let Some((moved, _)) = self.swarms.get(at) {
            self.index.insert(*moved, at as u32);
        }
    }
}

/// All swarms.
#[derive(Debug)]
pub struct Registry {
    config: RegistryConfig,
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    swarms: AtomicUsize,
    peers: AtomicUsize,
    extras: Budget,
}

/// Seconds by a clock that starts at [`YOUNG_S`] and not at 0, so that a swarm can have been born before this process started.
fn seconds(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 1000).unwrap_or(u32::MAX).saturating_add(YOUNG_S)
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let (swarms, peers, extras) = (AtomicUsize::new(0), AtomicUsize::new(0), Budget::new(config.max_extra_bytes));
        Self { config, shards, hasher: RandomState::new(), swarms, peers, extras }
    }

    /// Ids are hashes, so any of their bytes spreads them; those who choose their ids only slow themselves.
    fn shard(&self, id: &SwarmId) -> MutexGuard<'_, Shard> {
        self.lock(usize::from(id.0[31]) % SHARDS)
    }

    fn lock(&self, at: usize) -> MutexGuard<'_, Shard> {
        // A panic elsewhere must not end every swarm: the state is soft.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an announce in and answers it. The answer is made before the announcer is entered. `is_real` tells swarms
    /// for which there is more than an announce, so that they stay when others have to make room.
    ///
    /// # Errors
    /// When a limit is reached; then nothing was entered. But for the limit of one address: a host behind one that is full is
    /// answered, and not entered.
    pub fn announce(
        &self,
        now_ms: u64,
        announce: &Announce,
        ip: IpAddr,
        reached_at: IpAddr,
        is_real: &dyn Fn(&SwarmId) -> bool,
        rng: &mut Prng,
    ) -> Result<Answer, RegistryFull> {
        let now_s = seconds(now_ms);
        let key = Key::new(ip, announce.port, announce.peer, &announce.candidates);
        let seed = announce.left == 0;
        let mut shard = self.shard(&announce.swarm);
        if announce.event == Event::Stopped {
            return Ok(self.stop(&mut shard, announce, key, now_s, rng));
        }
        if !shard.index.contains_key(&announce.swarm) && self.swarms.load(Ordering::Relaxed) >= self.config.max_swarms {
            drop(shard);
            self.make_room(is_real, rng).ok_or(RegistryFull::Swarms)?;
            shard = self.shard(&announce.swarm);
        }
        let is_known =
            |shard: &Shard| shard.swarm(&announce.swarm).is_some_and(|s| s.find(&self.hasher, &key).is_some());
        if self.peers.load(Ordering::Relaxed) >= self.config.max_peers && !is_known(&shard) {
            drop(shard);
            let freed = (0..EVICTION_TRIES).map_while(|_| self.make_room(is_real, rng)).any(|peers| peers > 0);
            if !freed {
                return Err(RegistryFull::Tracker);
            }
            shard = self.shard(&announce.swarm);
        }
        let at = match shard.index.get(&announce.swarm) {
            Some(at) => *at as usize,
            None => {
                let at = shard.swarms.len();
                shard.swarms.push((announce.swarm, Swarm::default()));
                shard.index.insert(announce.swarm, at as u32);
                self.swarms.fetch_add(1, Ordering::Relaxed);
                at
            }
        };
        let swarm = &mut shard.swarms[at].1;
        if swarm.is_empty() {
            // If the first announce isn't a start, the swarm is older than our memory of it. Then it counts as past its
            // youth, or after a restart every swarm would be told to come back within 3 s, at once; but as one that still
            // settles, so that its peers find each other within 20 s.
            swarm.born_s = if announce.event == Event::Started { now_s } else { now_s - YOUNG_S };
        }
        swarm.touched_s = now_s;
        let asker = Asker {
            ip,
            reached_at,
            key,
            id: announce.peer,
            seed,
            zone: &announce.zone,
            trusted: &self.config.trust_advertised,
        };
        let want = usize::from(announce.want).min(self.config.max_handout).min(HANDOUT_PEERS);
        let peers = pick(swarm, &self.hasher, &asker, want, now_s, rng);
        let age_s = now_s.saturating_sub(swarm.born_s);
        let (counts, completed) = ((swarm.seeds(), swarm.len() - swarm.seeds()), swarm.completed);
        let interval_s = interval_s(self.config.interval_s, age_s, counts, self.peers.load(Ordering::Relaxed), rng);
        let extra = Extra::new(&self.extras, &announce.candidates, &announce.zone, &announce.label);
        let expires_s = now_s.saturating_add(ttl_s(self.config.peer_ttl_s, interval_s));
        let record = Record { key, id: announce.peer, seed, expires_s, extra };
        let put = swarm.put(&self.hasher, record, self.config.max_peers_per_swarm, self.config.max_peers_per_address);
        match put {
            Ok(known) => {
                if known.is_none() {
                    self.peers.fetch_add(1, Ordering::Relaxed);
                }
                if announce.event == Event::Completed && known != Some(true) {
                    swarm.completed = swarm.completed.saturating_add(1);
                }
            }
            Err(full) => {
                if swarm.is_empty() && swarm.completed == 0 {
                    shard.remove(at);
                    self.swarms.fetch_sub(1, Ordering::Relaxed);
                }
                match full {
                    Full::Peers => return Err(RegistryFull::Peers),
                    Full::Address if !key.is_behind() => return Err(RegistryFull::Address),
                    // A large office or the gateway of a cloud: one host more or less in the list doesn't matter to others, and
                    // an answer does to this one.
                    Full::Address => {
                        let (seeds, leechers) = (counts.0 as u32, counts.1 as u32);
                        return Ok(Answer { interval_s, seeds, leechers, completed, peers });
                    }
                }
            }
        }
        let (seeds, leechers) = (swarm.seeds() as u32, (swarm.len() - swarm.seeds()) as u32);
        Ok(Answer { interval_s, seeds, leechers, completed: swarm.completed, peers })
    }

    /// Only who has both the address and the id of a record can end it.
    fn stop(&self, shard: &mut Shard, announce: &Announce, key: Key, now_s: u32, rng: &mut Prng) -> Answer {
        let (mut seeds, mut leechers, mut completed, mut age_s) = (0, 0, 0, 0);
        if let Some(at) = shard.index.get(&announce.swarm).copied() {
            let swarm = &mut shard.swarms[at as usize].1;
            if let Some(peer) = swarm.find(&self.hasher, &key).filter(|p| swarm.peers()[*p].id() == announce.peer) {
                swarm.remove(&self.hasher, peer);
                self.peers.fetch_sub(1, Ordering::Relaxed);
            }
            (seeds, leechers, completed) = (swarm.seeds(), swarm.len() - swarm.seeds(), swarm.completed);
            age_s = now_s.saturating_sub(swarm.born_s);
            if swarm.is_empty() && swarm.completed == 0 {
                shard.remove(at as usize);
                self.swarms.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let everybody = self.peers.load(Ordering::Relaxed);
        let interval_s = interval_s(self.config.interval_s, age_s, (seeds, leechers), everybody, rng);
        Answer { interval_s, seeds: seeds as u32, leechers: leechers as u32, completed, peers: Vec::new() }
    }

    /// At a cap: removes a swarm and says how many peers went with it. One with at most one peer that isn't real, else
    /// any that isn't real, else a real one with at most one peer; the smallest of those looked at, then the longest
    /// silent.
    fn make_room(&self, is_real: &dyn Fn(&SwarmId) -> bool, rng: &mut Prng) -> Option<usize> {
        let start = rng.below(SHARDS);
        for (real, most) in [(false, 1), (false, usize::MAX), (true, 1)] {
            for n in 0..SHARDS {
                let mut shard = self.lock((start + n) % SHARDS);
                let len = shard.swarms.len();
                let rank = |at: &usize| (shard.swarms[*at].1.len(), shard.swarms[*at].1.touched_s);
                let may_go = |at: &usize| rank(at).0 <= most && is_real(&shard.swarms[*at].0) == real;
                let tries = 0..EVICTION_TRIES.min(len);
                let victim = tries.map(|_| rng.below(len)).filter(may_go).min_by_key(rank);
                if let Some(at) = victim {
                    let peers = shard.swarms[at].1.len();
                    self.peers.fetch_sub(peers, Ordering::Relaxed);
                    self.swarms.fetch_sub(1, Ordering::Relaxed);
                    shard.remove(at);
                    return Some(peers);
                }
            }
        }
        None
    }

    /// What is known of one swarm; zeros where it isn't known.
    #[must_use]
    pub fn scrape(&self, id: &SwarmId) -> SwarmCounts {
        let shard = self.shard(id);
        shard.swarm(id).map_or(SwarmCounts { swarm: *id, seeds: 0, leechers: 0, completed: 0 }, |s| counts(*id, s))
    }

    /// Looks at up to `budget` peers in each shard and removes those whose time is over.
    pub fn sweep(&self, now_ms: u64, budget: usize) {
        let now_s = seconds(now_ms);
        for at in 0..SHARDS {
            self.sweep_shard(&mut self.lock(at), now_s, budget);
        }
    }

    fn sweep_shard(&self, shard: &mut Shard, now_s: u32, budget: usize) {
        let (mut left, mut visited, swarms) = (budget, 0, shard.swarms.len());
        while left > 0 && visited <= swarms && !shard.swarms.is_empty() {
            let (at, peers) = shard.cursor;
            let at = if at < shard.swarms.len() { at } else { 0 };
            let swarm = &mut shard.swarms[at].1;
            // From the back: what a removal moves to an earlier place has been looked at.
            let mut peer = peers.unwrap_or(usize::MAX).min(swarm.len());
            left -= 1;
            while peer > 0 && left > 0 {
                peer -= 1;
                left -= 1;
                if swarm.peers()[peer].expired(now_s) {
                    swarm.remove(&self.hasher, peer);
                    self.peers.fetch_sub(1, Ordering::Relaxed);
                }
            }
            if peer > 0 {
                shard.cursor = (at, Some(peer));
                return;
            }
            visited += 1;
            let over = swarm.completed == 0 || now_s.saturating_sub(swarm.touched_s) > EMPTY_KEPT_S;
            if swarm.is_empty() && over {
                shard.remove(at);
                self.swarms.fetch_sub(1, Ordering::Relaxed);
                shard.cursor = (at, None);
            } else {
                shard.cursor = (at + 1, None);
            }
        }
    }

    /// Numbers of swarms and of peers.
    #[must_use]
    pub fn totals(&self) -> (usize, usize) {
        (self.swarms.load(Ordering::Relaxed), self.peers.load(Ordering::Relaxed))
    }

    /// Some swarms, for the operator.
    #[must_use]
    pub fn swarms(&self, limit: usize) -> Vec<SwarmCounts> {
        let mut out = Vec::new();
        for at in 0..SHARDS {
            let shard = self.lock(at);
            out.extend(shard.swarms.iter().take(limit - out.len()).map(|(id, swarm)| counts(*id, swarm)));
        }
        out
    }

    /// Some peers of one swarm, for the operator; `None` when the swarm isn't known.
    #[must_use]
    pub fn peers(&self, id: &SwarmId, limit: usize) -> Option<Vec<PeerRow>> {
        let shard = self.shard(id);
        let swarm = shard.swarm(id)?;
        let row = |(at, peer): (usize, &crate::swarm::Peer)| PeerRow {
            ip: peer.ip(),
            port: peer.port(),
            seed: at < swarm.seeds(),
            zone: peer.zone().to_owned(),
            label: peer.label().to_owned(),
        };
        Some(swarm.peers().iter().enumerate().take(limit).map(row).collect())
    }
}

fn counts(id: SwarmId, swarm: &Swarm) -> SwarmCounts {
    SwarmCounts {
        swarm: id,
        seeds: swarm.seeds() as u32,
        leechers: (swarm.len() - swarm.seeds()) as u32,
        completed: swarm.completed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::PeerId;

    fn announce(swarm: u8, peer: u16, event: Event, left: u64) -> Announce {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&peer.to_be_bytes());
        Announce {
            swarm: SwarmId([swarm; 32]),
            peer: PeerId(id),
            port: 7171,
            event,
            left,
            downloaded: 0,
            uploaded: 0,
            want: 50,
            candidates: Vec::new(),
            zone: String::new(),
            label: String::new(),
            reason: None,
        }
    }

    fn ip(peer: u16) -> IpAddr {
        IpAddr::from([10, 0, (peer >> 8) as u8, peer as u8])
    }

    fn tell(registry: &Registry, now_ms: u64, swarm: u8, peer: u16, event: Event, left: u64) -> Answer {
        let rng = &mut Prng::new(u64::from(peer) + now_ms);
        registry.announce(now_ms, &announce(swarm, peer, event, left), ip(peer), ip(0), &|_| true, rng).unwrap()
    }

    #[test]
    fn peers_come_complete_and_go() {
        let registry = Registry::new(RegistryConfig::default());
        let first = tell(&registry, 0, 1, 1, Event::Started, 0);
        assert_eq!((first.seeds, first.leechers, first.peers.len()), (1, 0, 0));
        let second = tell(&registry, 0, 1, 2, Event::Started, 9);
        assert_eq!((second.seeds, second.leechers, second.peers.len()), (1, 1, 1));
        assert!(second.peers[0].seed);
        for _ in 0..3 {
            tell(&registry, 0, 1, 2, Event::Completed, 0);
        }
        let row = registry.scrape(&SwarmId([1; 32]));
        assert_eq!((row.seeds, row.leechers, row.completed), (2, 0, 1), "told thrice, counted once");
        assert!(tell(&registry, 0, 1, 2, Event::Progress, 0).peers.is_empty());
        tell(&registry, 0, 1, 1, Event::Stopped, 0);
        tell(&registry, 0, 1, 2, Event::Stopped, 0);
        assert_eq!(registry.scrape(&SwarmId([1; 32])).completed, 1, "remembered though nobody is left");
        assert_eq!(registry.totals(), (1, 0));
        tell(&registry, 0, 2, 9, Event::Stopped, 0);
        assert_eq!(registry.totals(), (1, 0), "a goodbye makes no swarm");
    }

    #[test]
    fn hosts_behind_one_address_are_told_apart_by_their_own() {
        let registry = Registry::new(RegistryConfig::default());
        let nat: IpAddr = "9.9.9.9".parse().unwrap();
        let trusted: &[Cidr] = &[];
        let tell = |peer: u16, event, from: IpAddr, candidates: &[&str]| {
            let candidates = candidates.iter().map(|at| at.parse().unwrap()).collect();
            let announce = Announce { candidates, ..announce(1, peer, event, 9) };
            let key = Key::new(from, 7171, announce.peer, &announce.candidates);
            let asker = Asker { ip: from, reached_at: ip(0), key, id: announce.peer, seed: false, zone: "", trusted };
            let answer = registry.announce(0, &announce, from, ip(0), &|_| true, &mut Prng::new(1)).unwrap();
            let addrs = |peer: HandoutPeer| peer.addrs.join(" ");
            (answer.leechers, answer.handout(&asker).peers.into_iter().map(addrs).collect::<Vec<_>>())
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(tell(1, Event::Started, nat, &["192.168.1.1:7171", "[fe80::1]:7171"]), (1, none.clone()));
        let others = vec!["9.9.9.9:7171 192.168.1.1:7171".to_owned()];
        assert_eq!(tell(2, Event::Started, nat, &["192.168.1.2:7171"]), (2, others));
        // To others they are one place; and who starts again, by any name, is who it was.
        assert_eq!(tell(3, Event::Started, "8.8.8.8".parse().unwrap(), &["8.8.8.8:7171"]).1, ["9.9.9.9:7171"]);
        assert_eq!(tell(4, Event::Started, "8.8.8.8".parse().unwrap(), &["10.0.0.1:7171", "8.8.8.8:7171"]).0, 3);
        assert_eq!(tell(5, Event::Started, nat, &["192.168.1.2:7171"]).0, 3);
        assert_eq!(tell(2, Event::Stopped, nat, &["192.168.1.2:7171"]).0, 3, "not by the name it had");
        assert_eq!(tell(5, Event::Stopped, nat, &["192.168.1.2:7171"]), (2, none));
        assert_eq!(tell(1, Event::Stopped, nat, &["192.168.1.1:7171"]).0, 1);
        // By `--advertise` both name the address that is seen, and each another port of it.
        let by_hand =
            |n: u16| tell(n, Event::Started, nat, &[&format!("9.9.9.9:{}", 7170 + n), &format!("192.168.1.{n}:7171")]);
        assert_eq!((by_hand(1).0, by_hand(2).0), (2, 3));
    }

    #[test]
    fn a_large_office_gets_answers_and_takes_no_more_of_anothers_than_one_place() {
        let registry = Registry::new(RegistryConfig::default());
        let trusted: &[Cidr] = &[];
        let tell = |peer: u16, want, from: &str, own: &str| {
            let from: IpAddr = from.parse().unwrap();
            // One port of the office leads to somebody, and all say so.
            let shared = (from.to_string() == "9.9.9.9").then(|| "9.9.9.9:7200".parse().unwrap());
            let candidates = std::iter::once(own.parse().unwrap()).chain(shared).collect();
            let announce = Announce { candidates, want, ..announce(1, peer, Event::Started, 9) };
            let key = Key::new(from, 7171, announce.peer, &announce.candidates);
            let asker = Asker { ip: from, reached_at: ip(0), key, id: announce.peer, seed: false, zone: "", trusted };
            let answer = registry.announce(0, &announce, from, ip(0), &|_| true, &mut Prng::new(u64::from(peer)));
            answer.map(|answer| (answer.leechers, answer.handout(&asker).peers.len()))
        };
        for n in 0..40 {
            tell(500 + n, 50, &format!("8.8.8.{n}"), &format!("8.8.8.{n}:7171")).unwrap();
        }
        for n in 0..100_u16 {
            let (leechers, peers) = tell(n, 20, "9.9.9.9", &format!("192.168.1.{n}:7171")).unwrap();
            assert_eq!((leechers, peers), (40 + u32::from(n + 1).min(64), 20), "{n}");
        }
        // 104 are here, and of the 64 at one address one is of use to somebody elsewhere.
        for n in 0..20 {
            let (_, peers) = tell(700 + n, 30, "7.7.7.7", "7.7.7.7:7171").unwrap();
            assert!(peers >= 28, "{peers}");
        }
        assert!(tell(900, 50, "9.9.9.9", "9.9.9.9:7171").is_err(), "a place of its own is one too many");
    }

    #[test]
    fn hosts_behind_one_address_that_each_asker_can_tell_apart_are_all_handed_out() {
        // Each has a port of the address that is its own, or an address that the operator trusts.
        let ranges: Vec<Cidr> = vec!["10.0.0.0/8".parse().unwrap()];
        for (trusted, own) in [(Vec::new(), "9.9.9.9:7200"), (ranges, "10.1.1.1:7171")] {
            let own: std::net::SocketAddr = own.parse().unwrap();
            let registry =
                Registry::new(RegistryConfig { trust_advertised: trusted.clone(), ..RegistryConfig::default() });
            let tell = |peer: u16, from: IpAddr, candidates: &[std::net::SocketAddr], seed| {
                let (candidates, want) = (candidates.to_vec(), 20);
                let announce = Announce { candidates, want, ..announce(1, peer, Event::Started, 9) };
                let key = Key::new(from, 7171, announce.peer, &announce.candidates);
                let (id, trusted) = (announce.peer, &trusted[..]);
                let asker = Asker { ip: from, reached_at: ip(0), key, id, seed: false, zone: "", trusted };
                let rng = &mut Prng::new(seed);
                registry.announce(0, &announce, from, ip(0), &|_| true, rng).unwrap().handout(&asker)
            };
            for n in 0..40_u8 {
                tell(500 + u16::from(n), IpAddr::from([8, 8, 8, n]), &[], 1);
            }
            for n in 0..10_u8 {
                let (port, [a, b, c, _]) = (own.port() + u16::from(n), [10, 1, 1, 0]);
                let one = if own.ip().to_string() == "9.9.9.9" {
                    std::net::SocketAddr::new(own.ip(), port)
                } else {
                    std::net::SocketAddr::from(([a, b, c, n + 1], own.port()))
                };
                let private = std::net::SocketAddr::from(([192, 168, 1, n], 7171));
                tell(u16::from(n), "9.9.9.9".parse().unwrap(), &[one, private], 1);
            }
            let (mut met, mut most) = (std::collections::BTreeSet::new(), 0);
            for seed in 0..50 {
                let peers = tell(900, "7.7.7.7".parse().unwrap(), &[], seed).peers;
                let theirs: Vec<_> =
                    peers.iter().filter(|peer| peer.addrs.len() == 2).map(|peer| peer.addrs[1].clone()).collect();
                most = most.max(theirs.len());
                met.extend(theirs);
            }
            assert!(met.len() == 10 && most > 1, "{met:?} {most}");
        }
    }

    #[test]
    fn nobody_can_stop_another() {
        let registry = Registry::new(RegistryConfig::default());
        tell(&registry, 0, 1, 1, Event::Started, 0);
        let stop = announce(1, 1, Event::Stopped, 0);
        registry.announce(0, &stop, ip(2), ip(0), &|_| true, &mut Prng::new(1)).unwrap();
        let other_id = announce(1, 2, Event::Stopped, 0);
        registry.announce(0, &other_id, ip(1), ip(0), &|_| true, &mut Prng::new(1)).unwrap();
        assert_eq!(registry.totals(), (1, 1));
        registry.announce(0, &stop, ip(1), ip(0), &|_| true, &mut Prng::new(1)).unwrap();
        assert_eq!(registry.totals(), (0, 0));
    }

    #[test]
    fn the_silent_are_forgotten_and_bounded_sweeps_reach_everybody() {
        let registry = Registry::new(RegistryConfig { peer_ttl_s: Some(10), ..RegistryConfig::default() });
        for peer in 1..200 {
            tell(&registry, 0, 1, peer, Event::Started, u64::from(peer % 3));
            tell(&registry, 0, (peer % 50) as u8 + 2, peer, Event::Started, 1);
        }
        tell(&registry, 8_000, 1, 1, Event::Progress, 1);
        registry.sweep(10_999, 1_000_000);
        assert_eq!(registry.totals(), (51, 398));
        assert_eq!(tell(&registry, 11_000, 1, 2, Event::Progress, 1).peers.len(), 1, "not handed out before the sweep");
        for _ in 0..200 {
            registry.sweep(11_000, 5);
        }
        assert_eq!(registry.totals(), (1, 2));
    }

    #[test]
    fn at_the_cap_one_peer_swarms_make_room_and_others_do_not() {
        let registry = Registry::new(RegistryConfig { max_swarms: 3, ..RegistryConfig::default() });
        for swarm in 1..=2 {
            tell(&registry, 0, swarm, 1, Event::Started, 1);
            tell(&registry, 0, swarm, 2, Event::Started, 1);
        }
        for swarm in 3..60 {
            tell(&registry, 0, swarm, 3, Event::Started, 1);
            assert_eq!(registry.totals(), (3, 5));
        }
        tell(&registry, 0, 59, 4, Event::Started, 1);
        let refused =
            registry.announce(0, &announce(60, 3, Event::Started, 1), ip(3), ip(0), &|_| true, &mut Prng::new(1));
        assert_eq!(refused.unwrap_err(), RegistryFull::Swarms);
        assert_eq!(registry.scrape(&SwarmId([1; 32])).leechers, 2);
    }

    #[test]
    fn what_nobody_put_a_manifest_for_makes_room_for_any_number_of_announces() {
        let config =
            RegistryConfig { max_swarms: 500, max_peers: 2_000, max_extra_bytes: 10_000, ..Default::default() };
        let registry = Registry::new(config);
        // Swarms 1 and 2 have manifests; the first has many peers, the second only its origin.
        let is_real = |id: &SwarmId| *id == SwarmId([1; 32]) || *id == SwarmId([2; 32]);
        let mut rng = Prng::new(9);
        for peer in 1..=100 {
            registry.announce(0, &announce(1, peer, Event::Started, 1), ip(peer), ip(0), &is_real, &mut rng).unwrap();
        }
        registry.announce(0, &announce(2, 1, Event::Started, 0), ip(1), ip(0), &is_real, &mut rng).unwrap();
        for n in 0..40_000_u32 {
            // Half of them alone, half in crowds, all with as much to say as they may.
            let crowd = if n % 2 == 0 { n } else { n % 7 };
            let mut hostile = announce(0, 1, Event::Started, 1);
            hostile.swarm.0[4..8].copy_from_slice(&crowd.to_le_bytes());
            (hostile.zone, hostile.label) = ("z".repeat(128), "l".repeat(64));
            let from = IpAddr::from((0x0b00_0000 + n).to_be_bytes());
            let _ = registry.announce(1, &hostile, from, ip(0), &is_real, &mut rng);
            let (swarms, peers) = registry.totals();
            assert!(swarms <= 500 && peers <= 2_000 && registry.extras.used() <= 10_000, "{swarms} {peers}");
        }
        assert_eq!(registry.scrape(&SwarmId([1; 32])).leechers, 100);
        assert_eq!(registry.scrape(&SwarmId([2; 32])).seeds, 1);
        let newcomer = announce(1, 200, Event::Started, 1);
        assert_eq!(registry.announce(2, &newcomer, ip(200), ip(0), &is_real, &mut rng).unwrap().peers.len(), 50);
        registry.sweep(4_000_000, usize::MAX);
        assert_eq!((registry.totals(), registry.extras.used()), ((0, 0), 0), "all is given back");
    }

    #[test]
    fn where_all_is_real_a_full_tracker_keeps_whom_it_has() {
        let registry = Registry::new(RegistryConfig { max_peers: 4, ..RegistryConfig::default() });
        for (swarm, peer) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            tell(&registry, 0, swarm, peer, Event::Started, 1);
        }
        let ask = |peer| {
            let again = announce(1, peer, Event::Progress, 1);
            registry.announce(0, &again, ip(peer), ip(0), &|_| true, &mut Prng::new(1)).map(|answer| answer.peers.len())
        };
        assert_eq!((ask(1).unwrap(), ask(9).unwrap_err()), (1, RegistryFull::Tracker));
    }

    #[test]
    fn a_refused_peer_leaves_no_empty_swarm() {
        let registry = Registry::new(RegistryConfig { max_peers_per_swarm: 0, ..RegistryConfig::default() });
        let refused =
            registry.announce(0, &announce(1, 1, Event::Started, 1), ip(1), ip(0), &|_| true, &mut Prng::new(1));
        assert_eq!(refused.unwrap_err(), RegistryFull::Peers);
        assert_eq!(registry.totals(), (0, 0));
    }

    #[test]
    fn lists_are_cut_at_their_limit() {
        let registry = Registry::new(RegistryConfig::default());
        for peer in 1..100 {
            tell(&registry, 0, peer as u8, peer, Event::Started, 1);
            tell(&registry, 0, 200, peer, Event::Started, 1);
        }
        assert_eq!((registry.swarms(10).len(), registry.swarms(1000).len()), (10, 100));
        assert_eq!(registry.peers(&SwarmId([200; 32]), 7).unwrap().len(), 7);
        assert!(registry.peers(&SwarmId([201; 32]), 7).is_none());
    }
}
