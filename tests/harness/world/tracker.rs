//! The tracker: the real registry, asked without HTTP in between.

use super::{Event, World};
use shoal_peer::swarm::{Input, Time};
use shoal_protocol::announce::{Announce, Event as AnnounceEvent, Handout, HandoutPeer};
use shoal_protocol::prng::Prng;
use shoal_protocol::{PeerId, SwarmId};
use shoal_tracker::registry::{Registry, RegistryConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The swarm that everybody is in.
pub(super) const SWARM: SwarmId = SwarmId([7; 32]);
const REACHED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1));

/// A registry, and what an announce needs besides.
#[derive(Debug)]
pub(super) struct Tracker {
    registry: Registry,
    rng: Prng,
    pub(super) dead: bool,
    seed: u64,
    /// When it last started with nothing, after the beginning.
    started: Option<Time>,
    /// How long after that it was until it had nearly all who are there on its list.
    pub(super) relisted_s: Option<f64>,
    /// Answers on their way, by host.
    answers: std::collections::BTreeMap<usize, Handout>,
}

impl Tracker {
    pub(super) fn new(seed: u64) -> Self {
        let registry = Registry::new(RegistryConfig::default());
        let answers = std::collections::BTreeMap::new();
        Self { registry, rng: Prng::new(seed), dead: false, seed, started: None, relisted_s: None, answers }
    }

    /// It is there, and knows nobody.
    pub(super) fn restart(&mut self, now: Time) {
        *self = Self { started: Some(now), ..Self::new(self.seed ^ now.0) };
    }

    /// The host's announces get no answer any more; its record stays until it expires, as that of any process that dies.
    pub(super) fn forget(&mut self, host: usize) {
        self.answers.remove(&host);
    }

    fn ask(&mut self, now: Time, announce: &Announce, addr: SocketAddr, alive: usize) -> Option<Handout> {
        let now_ms = now.0 / 1_000;
        let answer = self.registry.announce(now_ms, announce, addr.ip(), REACHED, &|_| true, &mut self.rng).ok()?;
        let listed = (answer.seeds + answer.leechers) as usize;
        if let Some(started) = self.started.filter(|_| self.relisted_s.is_none() && listed * 100 >= alive * 95) {
            self.relisted_s = Some(now.since(started).as_secs_f64());
        }
        let peers = answer
            .peers
            .iter()
            .map(|p| HandoutPeer { addrs: vec![SocketAddr::new(p.ip, p.port).to_string()], seed: p.seed });
        let peers = peers.collect();
        Some(Handout {
            interval: answer.interval_s,
            seeds: answer.seeds,
            leechers: answer.leechers,
            completed: answer.completed,
            peers,
        })
    }
}

impl World {
    pub(super) fn announce(&mut self, host: usize, tracker: usize, event: AnnounceEvent, want: u16) {
        let alive = self.hosts.iter().filter(|h| h.is_alive()).count();
        if !self.tracker.dead
            && !self.hosts[host].unplugged
            && let Some(swarm) = &self.hosts[host].swarm
        {
            let peer: PeerId = self.hosts[host].peer;
            let addr = self.hosts[host].addr;
            let announce = Announce {
                swarm: SWARM,
                peer,
                port: addr.port(),
                event,
                left: self.geometry.bytes() - swarm.done_bytes(),
                downloaded: 0,
                uploaded: 0,
                want,
                candidates: Vec::new(),
                zone: self.zones.label(host),
                label: String::new(),
                reason: None,
            };
            if let Some(handout) = self.tracker.ask(self.now, &announce, addr, alive) {
                self.tracker.answers.insert(host, handout);
            }
        }
        self.after(2 * self.latency_us, Event::Announced { host: host as u32, tracker: tracker as u32 });
    }

    pub(super) fn announced(&mut self, host: usize, tracker: usize) {
        let input = match self.tracker.answers.remove(&host) {
            Some(handout) if !self.tracker.dead => Input::Announced { tracker, reached: REACHED, handout },
            _ => Input::AnnounceFailed { tracker, retry_after_s: None },
        };
        self.feed(host, input);
    }
}
