//! The tracker as a service: registry, handout, limits and manifests put together, without sockets.
//!
//! Contract: cheap to clone; every method may be called from any thread and none waits. Time comes as milliseconds
//! since the service was made. What is refused carries its HTTP status ([`Refused`]).

use crate::cidr::Cidr;
use crate::doors::Doors;
use crate::handout::Asker;
use crate::limiter::Limiter;
use crate::manifests::{ManifestSource, Refused};
use crate::registry::{Answer, Registry, RegistryConfig, RegistryFull};
use crate::swarm::Key;
use shoal_protocol::prng::Prng;
use shoal_protocol::{Announce, Event, Handout, Scrape, SwarmId, address};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Peers that one step of the sweep looks at in each shard: keeps a shard's lock below a millisecond.
const SWEEP_BUDGET: usize = 2_000;
/// Connections of the operator's port.
const ADMIN_CONNECTIONS: usize = 64;
/// Memory for the bodies of all manifest requests at one time, in MiB.
pub(crate) const HEAVY_MIB: u32 = 512;
/// Memory for manifests spelled out as JSON while they are sent, in all. Apart from [`HEAVY_MIB`]: programs ask for the binary
/// form, which is read from the disk as it goes, and who reads slowly must not keep that from them.
pub(crate) const SPELLED_KIB: u32 = 256 << 10;

/// How long a connection may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From a request's first byte to the end of its head; also from connecting to the first byte.
    pub head: Duration,
    /// Without a byte of the body.
    pub body: Duration,
    /// Between requests, and for so many bytes of an answer:
    pub idle: Duration,
    /// 64 KiB, or less where this side sends slowly itself.
    pub answer_step: u64,
    /// Who takes nothing of an answer for so long makes room where nobody else does. The system takes a third of its buffer at
    /// a time, a MiB or so, from who reads.
    pub slow: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let (short, idle) = (Duration::from_secs(5), Duration::from_secs(30));
        Self { head: short, body: short, idle, answer_step: 64 << 10, slow: Duration::from_secs(3) }
    }
}

/// What a service does and how much of it.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Limits and intervals of the registry.
    pub registry: RegistryConfig,
    /// Whether announces are taken; a peer that is no tracker gives out manifests only.
    pub announces: bool,
    /// Proxies in these ranges are believed about who asks (`X-Forwarded-For`, its last hop).
    pub trust_forwarded: Vec<Cidr>,
    /// Requests per second and address; 0 for no limit.
    pub rate_limit: u32,
    /// Whether the rate limit spares loopback and private networks.
    pub spare_private: bool,
    /// Most open connections.
    pub max_connections: usize,
    /// Most of them from one public address, or one /64: a NAT's hosts fit, and it takes many to fill all.
    pub max_connections_per_address: usize,
    /// How long connections may take.
    pub timeouts: Timeouts,
    /// Manifests longer than this are redirected when the source offers a place.
    pub redirect_from: u64,
    /// Seed of the random choices; without it the system is asked.
    pub seed: Option<u64>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            registry: RegistryConfig::default(),
            announces: true,
            trust_forwarded: Vec::new(),
            rate_limit: 50,
            spare_private: true,
            max_connections: 16_384,
            max_connections_per_address: 256,
            timeouts: Timeouts::default(),
            redirect_from: 1 << 20,
            seed: None,
        }
    }
}

/// Counters since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) announces: AtomicU64,
    pub(crate) peers_handed_out: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) rate_limited: AtomicU64,
}

/// A snapshot of the counters, for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Swarms now.
    pub swarms: usize,
    /// Peers now.
    pub peers: usize,
    /// Manifests now.
    pub manifests: usize,
    /// Requests since the start.
    pub requests: u64,
    /// Announces answered since the start.
    pub announces: u64,
    /// Peers handed out since the start.
    pub peers_handed_out: u64,
    /// Requests answered with an error since the start.
    pub refused: u64,
    /// Requests and connections that came too fast since the start; a connection that is turned away at the door has no
    /// request, so they are not a part of `refused`.
    pub rate_limited: u64,
}

pub(crate) struct Inner {
    pub(crate) config: ServiceConfig,
    pub(crate) manifests: Arc<dyn ManifestSource>,
    pub(crate) counters: Counters,
    pub(crate) heavy: Arc<Semaphore>,
    pub(crate) spelled: Arc<Semaphore>,
    pub(crate) large: Arc<Semaphore>,
    pub(crate) doors: Doors,
    pub(crate) admin_doors: Doors,
    registry: Registry,
    limiter: Limiter,
    started: Instant,
    random: AtomicU64,
}

/// A tracker without its sockets.
#[derive(Clone)]
pub struct Service {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Service {
    /// A service with an empty registry.
    pub fn new(config: ServiceConfig, manifests: Arc<dyn ManifestSource>) -> Self {
        // Without the system's randomness the choices are still spread, only the same after each start.
        let seed = config.seed.or_else(|| getrandom::u64().ok()).unwrap_or(0x5bd1_e995);
        let inner = Inner {
            manifests,
            counters: Counters::default(),
            heavy: Arc::new(Semaphore::new(HEAVY_MIB as usize)),
            spelled: Arc::new(Semaphore::new(SPELLED_KIB as usize)),
            large: Arc::new(Semaphore::new(crate::front::LARGE_MOST)),
            doors: Doors::new(config.max_connections, config.max_connections_per_address, config.timeouts.slow),
            admin_doors: Doors::new(ADMIN_CONNECTIONS, ADMIN_CONNECTIONS, config.timeouts.slow),
            registry: Registry::new(config.registry.clone()),
            limiter: Limiter::new(config.rate_limit, config.spare_private),
            started: Instant::now(),
            random: AtomicU64::new(seed),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Milliseconds since the service was made: the `now_ms` of the other methods.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Answers an announce. `remote` is who asks, `reached_at` the address of this tracker on that connection; a seed
    /// that embeds the tracker announces itself with loopback for both.
    ///
    /// # Errors
    /// 400 for values out of range, 404 for swarms that aren't served here, 503 when a limit is reached.
    pub fn announce(
        &self,
        now_ms: u64,
        announce: &Announce,
        remote: IpAddr,
        reached_at: IpAddr,
    ) -> Result<Handout, Refused> {
        let (answer, asker) = self.take_announce(now_ms, announce, remote, reached_at)?;
        let handout = answer.handout(&asker);
        self.count_handed_out(handout.peers.len());
        Ok(handout)
    }

    /// The same as JSON, for HTTP; `out` becomes it.
    pub(crate) fn announce_json(
        &self,
        now_ms: u64,
        announce: &Announce,
        remote: IpAddr,
        reached_at: IpAddr,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let (answer, asker) = self.take_announce(now_ms, announce, remote, reached_at)?;
        let peers = crate::answer::write(out, &answer, &asker);
        self.count_handed_out(peers);
        Ok(())
    }

    fn count_handed_out(&self, peers: usize) {
        self.inner.counters.announces.fetch_add(1, Ordering::Relaxed);
        self.inner.counters.peers_handed_out.fetch_add(peers as u64, Ordering::Relaxed);
    }

    fn take_announce<'a>(
        &'a self,
        now_ms: u64,
        announce: &'a Announce,
        remote: IpAddr,
        reached_at: IpAddr,
    ) -> Result<(Answer, Asker<'a>), Refused> {
        let inner = &*self.inner;
        if !inner.config.announces {
            return Err(Refused::new(404, "this peer is no tracker; announce to the tracker that the manifest names"));
        }
        announce.check().map_err(|error| Refused::new(400, error.to_string()))?;
        if !inner.manifests.accepts_swarm(&announce.swarm) {
            return Err(Refused::new(404, "this tracker does not serve that swarm"));
        }
        let (remote, reached_at) = (address::canonical(remote), address::canonical(reached_at));
        // Each call has its own stream of numbers, and no lock is needed for it.
        let mut rng = Prng::new(inner.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed));
        let mut rng = Prng::new(rng.next());
        let is_real = |swarm: &SwarmId| inner.manifests.knows(swarm);
        let answer =
            inner.registry.announce(now_ms, announce, remote, reached_at, &is_real, &mut rng).map_err(|full| {
                let status = if full == RegistryFull::Address { 429 } else { 503 };
                Refused::later(status, full.to_string(), 60)
            })?;
        if announce.event != Event::Stopped {
            inner.manifests.touch(&announce.swarm);
        }
        let key = Key::new(remote, announce.port, announce.peer, &announce.candidates);
        let seed = announce.left == 0;
        let trusted = &inner.config.registry.trust_advertised;
        let asker = Asker { ip: remote, reached_at, key, id: announce.peer, seed, zone: &announce.zone, trusted };
        Ok((answer, asker))
    }

    /// Counts of some swarms, in the order asked.
    #[must_use]
    pub fn scrape(&self, swarms: &[SwarmId]) -> Scrape {
        Scrape { swarms: swarms.iter().map(|id| self.inner.registry.scrape(id)).collect() }
    }

    /// Whether a request of this address may pass now.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub fn admit(&self, now_ms: u64, remote: IpAddr) -> Result<(), Refused> {
        self.inner.limiter.check(now_ms, remote).map_err(|after_s| {
            self.inner.counters.rate_limited.fetch_add(1, Ordering::Relaxed);
            Refused::later(429, "too many requests from this address; slow down", after_s)
        })
    }

    /// Whether a connection from this address may come in: not while its next request would be refused anyway.
    #[must_use]
    pub fn welcomes(&self, now_ms: u64, remote: IpAddr) -> bool {
        let remote = address::canonical(remote);
        // A proxy's own address asks for nobody.
        self.is_proxy(remote) || self.inner.limiter.would_pass(now_ms, remote)
    }

    /// Forgets what is over, in bounded steps. To be called about once a second by whoever embeds the service;
    /// [`crate::server::run`] does it itself.
    pub fn sweep(&self, now_ms: u64) {
        self.inner.registry.sweep(now_ms, SWEEP_BUDGET);
    }

    /// The counters.
    #[must_use]
    pub fn status(&self) -> Status {
        let (swarms, peers) = self.inner.registry.totals();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.inner.counters;
        Status {
            uptime_s: self.now_ms() / 1000,
            swarms,
            peers,
            manifests: self.inner.manifests.count(),
            requests: read(&counters.requests),
            announces: read(&counters.announces),
            peers_handed_out: read(&counters.peers_handed_out),
            refused: read(&counters.refused),
            rate_limited: read(&counters.rate_limited),
        }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Who asks: the socket's address, or what a trusted proxy says is its last hop.
    pub(crate) fn asker(&self, remote: IpAddr, forwarded: Option<&str>) -> IpAddr {
        let remote = address::canonical(remote);
        let last = forwarded
            .filter(|_| self.is_proxy(remote))
            .and_then(|header| header.rsplit(',').next()?.trim().parse().ok());
        last.map_or(remote, address::canonical)
    }

    fn is_proxy(&self, remote: IpAddr) -> bool {
        self.inner.config.trust_forwarded.iter().any(|range| range.contains(remote))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::Part;
    use bytes::Bytes;
    use shoal_protocol::{ContentId, Manifest};

    struct Open(bool);
    impl ManifestSource for Open {
        fn accepts_swarm(&self, _: &SwarmId) -> bool {
            self.0
        }
        fn manifest(&self, _: &ContentId) -> Option<Arc<Manifest>> {
            None
        }
        fn part(&self, _: &ContentId, _: Part) -> Option<Bytes> {
            None
        }
    }

    fn announce(id: u8, port: u16) -> Announce {
        let text = format!(
            r#"{{"swarm":"{}","peer":"{}","port":{port},"event":"started","left":1}}"#,
            "ab".repeat(32),
            format!("{id:02x}").repeat(16)
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_peer_on_the_trackers_host_is_handed_out_by_its_port() {
        let service = Service::new(ServiceConfig::default(), Arc::new(Open(true)));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        service.announce(0, &announce(1, 7171), ip("::1"), ip("::1")).unwrap();
        for (remote, reached) in [("10.0.0.2", "10.0.0.1"), ("127.0.0.1", "127.0.0.1")] {
            let got = service.announce(0, &announce(2, 7172), ip(remote), ip(reached)).unwrap();
            assert!(got.peers.iter().any(|p| p.addrs == [":7171"]), "{got:?}");
        }
    }

    #[test]
    fn what_is_not_served_is_refused_with_its_status() {
        let here: IpAddr = "10.0.0.1".parse().unwrap();
        let ask = |service: &Service, port| service.announce(0, &announce(1, port), here, here).map_err(|e| e.status);
        let closed = Service::new(ServiceConfig::default(), Arc::new(Open(false)));
        assert_eq!(ask(&closed, 7171), Err(404));
        let silent = ServiceConfig { announces: false, ..ServiceConfig::default() };
        assert_eq!(ask(&Service::new(silent, Arc::new(Open(true))), 7171), Err(404));
        let open = Service::new(ServiceConfig::default(), Arc::new(Open(true)));
        assert_eq!(ask(&open, 80), Err(400));
        assert!(ask(&open, 7171).is_ok());
    }

    #[test]
    fn only_a_trusted_proxy_may_say_who_asks_and_only_the_last_hop() {
        let config = ServiceConfig { trust_forwarded: vec!["10.0.0.0/8".parse().unwrap()], ..ServiceConfig::default() };
        let service = Service::new(config, Arc::new(Open(true)));
        let asker = |remote: &str, header| service.asker(remote.parse().unwrap(), header).to_string();
        assert_eq!(asker("10.0.0.1", Some("1.1.1.1, 8.8.8.8")), "8.8.8.8");
        assert_eq!(asker("9.9.9.9", Some("8.8.8.8")), "9.9.9.9");
        assert_eq!(asker("10.0.0.1", Some("nonsense")), "10.0.0.1");
        assert_eq!(asker("::ffff:10.0.0.1", None), "10.0.0.1");
    }
}
