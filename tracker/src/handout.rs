//! Which peers an asker gets, and at which of their addresses.
//!
//! Contract: pure. A handout mixes seeds and leechers, near peers and random ones (at least [`RANDOM_MIN`], as only
//! random links keep a swarm in one piece), and never holds the asker, a seed for a seed, a peer that can't be dialled,
//! or one whose time is over. The work is bounded by the size of the handout, not of the swarm.
//!
//! Addresses: the one that the tracker saw, with the announced port, is always one; what came over loopback becomes
//! `:PORT`, "the tracker's host", for every asker, also one on loopback: it fills in what it dialled itself. Candidates
//! are claims, so they go only where they can't point strangers at a victim:
//!
//! | candidate | handed to |
//! | --- | --- |
//! | on the announcer's own address | everybody: the tracker saw that address |
//! | private or global | askers with the same outside address as the announcer |
//! | private | askers at a private or loopback address, if the announcer is at one too |
//! | in the operator's trusted ranges | everybody |
//! | loopback, link-local, multicast, reserved, or a port below 1024 | nobody |

use crate::cidr::Cidr;
use crate::swarm::{Key, Peer, Swarm};
use shoal_protocol::PeerId;
use shoal_protocol::address::{Reach, canonical_addr, reach, subnet};
use shoal_protocol::announce::zone_nearness;
use shoal_protocol::limits::{CANDIDATES, PORT_MIN};
use shoal_protocol::prng::Prng;
use std::fmt;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};

/// Random peers come in runs of so many neighbours of the vector: in a swarm that no cache holds each place costs a wait
/// for memory, and neighbours come with it. Each peer has the same chance, and a handout still has many places.
const RUN: usize = 4;
/// Random peers in a handout that is large enough.
pub const RANDOM_MIN: usize = 8;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The address that the tracker sees.
    pub ip: IpAddr,
    /// The tracker's own address on that connection.
    pub reached_at: IpAddr,
    /// Its key in the registry.
    pub key: Key,
    /// The name it gives itself.
    pub id: PeerId,
    /// Whether it has everything.
    pub seed: bool,
    /// Its zone, or nothing.
    pub zone: &'a str,
    /// Ranges of candidates that everybody may have, by the operator's word.
    pub trusted: &'a [Cidr],
}

/// A peer that was picked, taken out of the registry so that its lock is short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The address that the tracker saw.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it has everything.
    pub seed: bool,
    /// What it says of itself.
    pub candidates: Box<[SocketAddr]>,
    /// Whether others may be at the same address and port, behind a NAT.
    pub behind: bool,
}

/// Picks up to `want` peers for an asker: near ones first, then random ones.
#[must_use]
pub fn pick(
    swarm: &Swarm,
    hasher: &RandomState,
    asker: &Asker<'_>,
    want: usize,
    now_s: u32,
    rng: &mut Prng,
) -> Vec<Chosen> {
    let mut picker = Picker { swarm, asker, now_s, taken: Vec::with_capacity(want), given: Vec::new() };
    let seeds = if asker.seed { 0..0 } else { 0..swarm.seeds() };
    let leechers = swarm.seeds()..swarm.len();
    if want == 0 {
        return Vec::new();
    }
    if seeds.len() + leechers.len() <= want {
        // Nobody is met twice here, so nothing has to be searched.
        picker.taken.extend(seeds.chain(leechers).map(|at| at as u32));
        rng.shuffle(&mut picker.taken);
        let mut all = std::mem::take(&mut picker.taken);
        all.retain(|at| picker.fits(*at as usize));
        picker.taken = all;
        return picker.chosen();
    }
    picker.near(hasher, want.saturating_sub(RANDOM_MIN.max(want / 2)), rng);
    // Seeds get a quarter of what is left, and leechers the rest; either fills in for the other.
    let left = want - picker.taken.len();
    picker.random(seeds.clone(), left.div_ceil(4), rng);
    picker.random(leechers, want - picker.taken.len(), rng);
    picker.random(seeds, want - picker.taken.len(), rng);
    picker.chosen()
}

struct Picker<'a> {
    swarm: &'a Swarm,
    asker: &'a Asker<'a>,
    now_s: u32,
    /// At most a hundred: searching it is faster than hashing.
    taken: Vec<u32>,
    /// The addresses of those of them that are behind a NAT.
    given: Vec<Address>,
}

impl Picker<'_> {
    fn take(&mut self, at: usize) {
        if self.fits(at) && !self.taken.contains(&(at as u32)) && !self.repeats(at) {
            self.taken.push(at as u32);
        }
    }

    /// Whether this asker gets no address of it that isn't one of others that were taken, behind a NAT as it is.
    fn repeats(&mut self, at: usize) -> bool {
        if !self.swarm.peers()[at].is_behind() {
            return false;
        }
        let mut addrs = Vec::new();
        addresses(&self.copy(at), self.asker, &mut addrs);
        let repeats = addrs.iter().all(|addr| self.given.contains(addr));
        self.given.append(&mut addrs);
        repeats
    }

    fn copy(&self, at: usize) -> Chosen {
        let peer = &self.swarm.peers()[at];
        Chosen {
            ip: peer.ip(),
            port: peer.port(),
            seed: at < self.swarm.seeds(),
            candidates: peer.candidates().into(),
            behind: peer.is_behind(),
        }
    }

    fn fits(&self, at: usize) -> bool {
        self.swarm.peers().get(at).is_some_and(|peer| {
            peer.port() >= PORT_MIN
                && !peer.expired(self.now_s)
                && peer.id() != self.asker.id
                && !peer.is_at(&self.asker.key)
                && !(self.asker.seed && at < self.swarm.seeds())
        })
    }

    /// Takes up to `count` peers of a range, each with the same chance.
    fn random(&mut self, range: std::ops::Range<usize>, count: usize, rng: &mut Prng) {
        let goal = self.taken.len() + count;
        if range.len() <= 4 * count {
            let mut all: Vec<usize> = range.collect();
            rng.shuffle(&mut all);
            for at in all {
                if self.taken.len() >= goal {
                    return;
                }
                self.take(at);
            }
            return;
        }
        // In a range much larger than the sample few draws miss; the bound is for a range of peers that can't be dialled.
        for _ in 0..8 * count.div_ceil(RUN) {
            let first = rng.below(range.len());
            for at in first..first + RUN {
                if self.taken.len() >= goal {
                    return;
                }
                self.take(range.start + at % range.len());
            }
        }
    }

    /// Takes up to `count` near peers: those of the same zone or subnet, then the nearest of a larger random sample.
    fn near(&mut self, hasher: &RandomState, count: usize, rng: &mut Prng) {
        if count == 0 || self.swarm.is_empty() {
            return;
        }
        let (swarm, asker) = (self.swarm, self.asker);
        let group = swarm.near(hasher, &asker.key, asker.zone, rng.below(2 * count), rng.below(2) == 0);
        for at in group.take(4 * count) {
            if self.taken.len() >= count {
                return;
            }
            self.take(at);
        }
        let mut sample: Vec<(usize, usize)> = (0..4 * count)
            .map(|_| rng.below(self.swarm.len()))
            .map(|at| (nearness(self.asker, &self.swarm.peers()[at]), at))
            .filter(|(near, _)| *near > 0)
            .collect();
        sample.sort_unstable_by(|a, b| b.cmp(a));
        for (_, at) in sample {
            if self.taken.len() >= count {
                return;
            }
            self.take(at);
        }
    }

    fn chosen(self) -> Vec<Chosen> {
        self.taken.iter().map(|at| self.copy(*at as usize)).collect()
    }
}

fn nearness(asker: &Asker<'_>, peer: &Peer) -> usize {
    if asker.zone.is_empty() && peer.zone().is_empty() {
        usize::from(subnet(asker.ip) == subnet(peer.ip()))
    } else {
        zone_nearness(asker.zone, peer.zone())
    }
}

/// One address in a handout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// This port at the host at which the asker reached the tracker.
    TrackersHost(u16),
    /// Anywhere else.
    At(SocketAddr),
}

impl Address {
    /// The port.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::TrackersHost(port) => port,
            Self::At(addr) => addr.port(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrackersHost(port) => write!(f, ":{port}"),
            Self::At(addr) => addr.fmt(f),
        }
    }
}

/// Goes through the peers of an answer, each with the addresses that this asker may have. Who has none is left out, and so is
/// who would only repeat what others have: hosts behind one NAT may be told apart only near them.
pub fn each<'p>(peers: &'p [Chosen], asker: &Asker<'_>, mut use_it: impl FnMut(&'p Chosen, &[Address])) {
    let (mut addrs, mut given) = (Vec::new(), Vec::new());
    for peer in peers {
        addresses(peer, asker, &mut addrs);
        if peer.behind {
            if addrs.iter().all(|addr| given.contains(addr)) {
                continue;
            }
            given.extend(&addrs);
        }
        if !addrs.is_empty() {
            use_it(peer, &addrs);
        }
    }
}

/// Fills `out` with the addresses of a peer that this asker may have, best first; none when there are none.
fn addresses(peer: &Chosen, asker: &Asker<'_>, out: &mut Vec<Address>) {
    out.clear();
    if peer.port < PORT_MIN {
        return;
    }
    let seen = SocketAddr::new(peer.ip, peer.port);
    let announcer = reach(peer.ip);
    match announcer {
        Reach::Never => {}
        Reach::Loopback => out.push(Address::TrackersHost(peer.port)),
        Reach::Private | Reach::Global => out.push(Address::At(seen)),
    }
    if peer.candidates.is_empty() {
        return;
    }
    let same_address = peer.ip == asker.ip;
    let near =
        announcer <= Reach::Private && reach(asker.ip) <= Reach::Private && reach(asker.reached_at) <= Reach::Private;
    for candidate in peer.candidates.iter().take(CANDIDATES).copied().map(canonical_addr) {
        let allowed = candidate.port() >= PORT_MIN
            && candidate != seen
            && match reach(candidate.ip()) {
                Reach::Never | Reach::Loopback => false,
                Reach::Private if near => true,
                Reach::Private | Reach::Global => {
                    same_address
                        || candidate.ip() == peer.ip
                        || asker.trusted.iter().any(|range| range.contains(candidate.ip()))
                }
            };
        let address = Address::At(candidate);
        if allowed && !out.contains(&address) {
            out.push(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::{Budget, Extra, Record};
    use std::collections::HashSet;

    fn asker<'a>(ip: &str, reached_at: &str, seed: bool, zone: &'a str) -> Asker<'a> {
        let (ip, id) = (ip.parse().unwrap(), PeerId([0xee; 16]));
        Asker {
            ip,
            reached_at: reached_at.parse().unwrap(),
            key: Key::new(ip, 7171, id, &[]),
            id,
            seed,
            zone,
            trusted: &[],
        }
    }

    fn add(swarm: &mut Swarm, hasher: &RandomState, n: usize, port: u16, seed: bool, zone: &str) {
        let ip: IpAddr = format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255).parse().unwrap();
        let id = PeerId((n as u128 + 1).to_be_bytes());
        let extra = Extra::new(&Budget::new(1 << 20), &[], zone, "");
        let record = Record { key: Key::new(ip, port, id, &[]), id, seed, expires_s: 100, extra };
        swarm.put(hasher, record, usize::MAX, 64).unwrap();
    }

    #[test]
    fn nobody_is_handed_to_himself_by_key_or_by_id() {
        let hasher = RandomState::new();
        for others in [3, 100] {
            let mut swarm = Swarm::default();
            (0..others).for_each(|n| add(&mut swarm, &hasher, n, 7171, false, ""));
            let me = asker("10.0.0.1", "10.0.0.200", false, "");
            let mut by_id = asker("8.8.8.8", "10.0.0.200", false, "");
            by_id.id = PeerId(2_u128.to_be_bytes());
            for seed in 0..200 {
                for who in [&me, &by_id] {
                    let got = pick(&swarm, &hasher, who, 50, 0, &mut Prng::new(seed));
                    assert!(got.len() >= 2 && got.iter().all(|c| c.ip.to_string() != "10.0.0.1"));
                }
            }
        }
    }

    #[test]
    fn a_seed_gets_no_seeds_and_a_leecher_gets_both() {
        let hasher = RandomState::new();
        let mut swarm = Swarm::default();
        (0..400).for_each(|n| add(&mut swarm, &hasher, n, 7171, n % 2 == 0, ""));
        for seed in 0..50 {
            let mut rng = Prng::new(seed);
            let got = pick(&swarm, &hasher, &asker("9.9.9.9", "9.9.9.1", true, ""), 50, 0, &mut rng);
            assert!(got.len() == 50 && got.iter().all(|c| !c.seed));
            let got = pick(&swarm, &hasher, &asker("9.9.9.9", "9.9.9.1", false, ""), 50, 0, &mut rng);
            let seeds = got.iter().filter(|c| c.seed).count();
            assert!(got.len() == 50 && (12..=30).contains(&seeds), "{seeds}");
        }
    }

    #[test]
    fn one_seed_among_many_leechers_is_found() {
        let hasher = RandomState::new();
        let mut swarm = Swarm::default();
        (0..5000).for_each(|n| add(&mut swarm, &hasher, n, 7171, n == 77, ""));
        let got = pick(&swarm, &hasher, &asker("9.9.9.9", "9.9.9.1", false, ""), 20, 0, &mut Prng::new(1));
        assert_eq!((got.len(), got.iter().filter(|c| c.seed).count()), (20, 1));
        assert_eq!(got.iter().map(|c| c.ip).collect::<HashSet<_>>().len(), 20);
    }

    #[test]
    fn near_peers_come_with_at_least_eight_random_ones() {
        let hasher = RandomState::new();
        let mut swarm = Swarm::default();
        for n in 0..20_000 {
            add(&mut swarm, &hasher, n, 7171, false, &format!("dc{}/room{}/rack{}", n % 4, n % 40, n % 1000));
        }
        // Zone of peer 7: its rack has 20 peers of 20,000.
        let me = asker("9.9.9.9", "9.9.9.1", false, "dc3/room7/rack7");
        for want in [20, 50, 100] {
            let got = pick(&swarm, &hasher, &me, want, 0, &mut Prng::new(want as u64));
            let index = |c: &Chosen| match c.ip {
                IpAddr::V4(ip) => u32::from(ip) as usize & 0xff_ffff,
                IpAddr::V6(_) => 0,
            };
            let rack = got.iter().filter(|c| index(c) % 1000 == 7).count();
            let far = got.iter().filter(|c| index(c) % 4 != 3).count();
            assert_eq!(got.len(), want);
            assert!(rack >= (want / 2).min(10) && far >= RANDOM_MIN / 2, "{want}: {rack} near, {far} far");
        }
        // A handout too small for both is random.
        assert_eq!(pick(&swarm, &hasher, &me, 8, 0, &mut Prng::new(1)).len(), 8);
        // Without zones the subnet counts.
        let mut swarm = Swarm::default();
        (0..20_000).for_each(|n| add(&mut swarm, &hasher, n, 7171, false, ""));
        let got = pick(&swarm, &hasher, &asker("10.0.5.250", "10.0.0.1", false, ""), 40, 0, &mut Prng::new(5));
        let near = got.iter().filter(|c| c.ip.to_string().starts_with("10.0.5.")).count();
        assert!((20..=32).contains(&near), "{near}");
    }

    #[test]
    fn who_cannot_be_dialled_or_is_gone_is_not_handed_out() {
        let hasher = RandomState::new();
        let mut swarm = Swarm::default();
        (0..300).for_each(|n| add(&mut swarm, &hasher, n, if n % 3 == 0 { 7171 } else { 0 }, false, ""));
        let me = asker("9.9.9.9", "9.9.9.1", false, "");
        let got = pick(&swarm, &hasher, &me, 50, 100, &mut Prng::new(1));
        assert!(got.len() == 50 && got.iter().all(|c| c.port == 7171));
        assert!(pick(&swarm, &hasher, &me, 50, 101, &mut Prng::new(1)).is_empty());
        assert!(pick(&swarm, &hasher, &me, 0, 0, &mut Prng::new(1)).is_empty());
    }

    fn texts(peer: &Chosen, asker: &Asker<'_>, trusted: &[Cidr]) -> Vec<String> {
        let mut out = Vec::new();
        addresses(peer, &Asker { trusted, ..*asker }, &mut out);
        out.iter().map(Address::to_string).collect()
    }

    fn chosen(ip: &str, candidates: &[&str]) -> Chosen {
        let candidates = candidates.iter().map(|c| c.parse().unwrap()).collect();
        Chosen { ip: ip.parse().unwrap(), port: 7171, seed: false, candidates, behind: false }
    }

    #[test]
    fn candidates_go_only_where_they_can_do_no_harm() {
        let claims = ["10.9.9.9:7171", "8.8.4.4:7171", "127.0.0.1:7171", "169.254.169.254:7171"];
        let private = "10.9.9.9:7171";
        let both = "10.9.9.9:7171 8.8.4.4:7171";
        // announcer, asker, the tracker as the asker reached it, what the asker gets
        for (announcer, ask, reached, expected) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.1", format!(":7171 {both}")),
            ("127.0.0.1", "10.0.0.2", "10.0.0.1", format!(":7171 {private}")),
            ("127.0.0.1", "9.9.9.9", "5.5.5.5", ":7171".into()),
            ("127.0.0.1", "9.9.9.9", "10.0.0.1", ":7171".into()),
            ("10.0.0.3", "127.0.0.1", "127.0.0.1", format!("10.0.0.3:7171 {private}")),
            ("10.0.0.3", "10.0.0.2", "10.0.0.1", format!("10.0.0.3:7171 {private}")),
            ("10.0.0.3", "10.0.0.3", "10.0.0.1", format!("10.0.0.3:7171 {both}")),
            ("10.0.0.3", "9.9.9.9", "5.5.5.5", "10.0.0.3:7171".into()),
            ("9.9.9.8", "127.0.0.1", "127.0.0.1", "9.9.9.8:7171".into()),
            ("9.9.9.8", "10.0.0.2", "10.0.0.1", "9.9.9.8:7171".into()),
            ("9.9.9.8", "9.9.9.9", "5.5.5.5", "9.9.9.8:7171".into()),
            ("9.9.9.8", "9.9.9.8", "5.5.5.5", format!("9.9.9.8:7171 {both}")),
            ("169.254.0.9", "10.0.0.2", "10.0.0.1", String::new()),
            ("2a00::1", "9.9.9.9", "5.5.5.5", "[2a00::1]:7171".into()),
        ] {
            let got = texts(&chosen(announcer, &claims), &asker(ask, reached, false, ""), &[]).join(" ");
            assert_eq!(got, expected, "announced from {announcer}, asked from {ask} at {reached}");
        }
    }

    #[test]
    fn trusted_ranges_own_addresses_and_low_ports() {
        let far = asker("9.9.9.9", "5.5.5.5", false, "");
        let peer = chosen("9.9.9.8", &["9.9.9.8:8000", "10.1.0.1:7171", "10.2.0.1:7171", "10.1.0.2:80"]);
        assert_eq!(texts(&peer, &far, &[]), ["9.9.9.8:7171", "9.9.9.8:8000"]);
        let trusted = ["10.1.0.0/16".parse().unwrap()];
        assert_eq!(texts(&peer, &far, &trusted), ["9.9.9.8:7171", "9.9.9.8:8000", "10.1.0.1:7171"]);
        let repeated = chosen("9.9.9.8", &["9.9.9.8:7171", "9.9.9.8:8000", "9.9.9.8:8000"]);
        assert_eq!(texts(&repeated, &far, &[]), ["9.9.9.8:7171", "9.9.9.8:8000"]);
        assert!(texts(&Chosen { port: 1023, ..chosen("9.9.9.8", &["9.9.9.8:8000"]) }, &far, &[]).is_empty());
    }
}
