//! The engine: many contents on one listening port, with one budget for rate, memory and connections.
//!
//! A command is a thin client of it.

use crate::failure::{Failure, FailureKind};
use crate::net::buffers::{BUFFERS, Pool};
use crate::net::connection::Shared;
use crate::net::disk::{Disk, Place};
use crate::net::driver::{self, EVENTS, Event, Work};
use crate::net::http_client::HttpClient;
use crate::net::limiter::Limiter;
use crate::net::manifest_server::ManifestBytes;
use crate::net::relays::Relays;
use crate::net::{announce, interfaces, listener, manifest_fetch};
use crate::store::{Download, Source};
use crate::swarm::{self, QUEUE_DEPTH};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use shoal_protocol::address::{Trust, reach};
use shoal_protocol::announce::{Announce, Event as AnnounceEvent, Handout, StopReason};
use shoal_protocol::limits::CANDIDATES;
use shoal_protocol::link::Url;
use shoal_protocol::message::Hello;
use shoal_protocol::{Bitfield, ContentId, Hash, Manifest, PeerId, SwarmId};
use shoal_tracker::{ManifestSource, Part, Service, ServiceConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest time that the tasks of an engine get for their end.
const SHUTDOWN: Duration = Duration::from_secs(2);
/// Peers that are asked for a manifest at a time, so that one who stalls holds up nobody.
const ASKED_AT_ONCE: usize = 8;
/// Peers that are asked for a manifest in one round.
const ASKED_MAX: usize = 100;

/// Where to listen: at this address, on the first free port of the range.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `None`: all addresses, IPv6 and IPv4 on one socket, or IPv4 alone where there is no IPv6.
    pub ip: Option<IpAddr>,
    /// Ports to try in order; `0..=0` lets the system choose.
    pub ports: RangeInclusive<u16>,
}

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Addresses for others besides those that trackers see.
    pub advertise: Vec<SocketAddr>,
    /// Zone label, e.g. `dc1/room2/rack7`; may be empty.
    pub zone: String,
    /// Host label in announces; may be empty.
    pub label: String,
    /// Bytes per second over all contents; 0 = no limit.
    pub max_upload: u64,
    /// Bytes per second over all contents; 0 = no limit.
    pub max_download: u64,
    /// Connections per content.
    pub max_peers: usize,
    /// Serve blocks at all.
    pub upload: bool,
    /// Take private addresses from a public tracker.
    pub allow_private: bool,
    /// Answer announces for the contents of this engine on its own port.
    pub tracker: bool,
}

/// What a content is doing, as numbers. Updated at least four times a second while something changes.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Payload bytes of the whole content.
    pub total: u64,
    /// Verified payload bytes.
    pub done: u64,
    /// Verified bytes that were there when this process began.
    pub resumed: u64,
    /// Payload received, bytes.
    pub downloaded: u64,
    /// Part of `downloaded` that came from peers which were complete when they sent it.
    pub from_seeds: u64,
    /// Payload sent, bytes.
    pub uploaded: u64,
    /// Payload received that was of no use (duplicates, failed pieces).
    pub wasted: u64,
    /// Pieces that failed verification.
    pub bad_pieces: u64,
    /// Receiving, bytes per second, over the last seconds.
    pub rate_down: u64,
    /// Sending, bytes per second, over the last seconds.
    pub rate_up: u64,
    /// Connected peers.
    pub peers: u32,
    /// Connected peers that have everything.
    pub seeds: u32,
    /// Connected peers that still lack something.
    pub leechers: u32,
    /// Peers from which at least one payload byte came.
    pub sources: u32,
    /// Peers that dialled us.
    pub incoming: u32,
    /// Peers seen to become complete since this process began (a seed's view).
    pub finished_peers: u32,
    /// Whole copies that others hold, by their bitfields (a seed's view).
    pub copies: f64,
    /// The least complete neighbour: its share of the content, 0 to 1 (a seed's view).
    pub slowest: Option<f64>,
    /// The most complete neighbour: its share of the content, 0 to 1.
    pub best: Option<f64>,
    /// Pieces that no connected peer has and that we lack.
    pub pieces_nobody_has: u32,
    /// Pieces that we lack.
    pub pieces_missing: u32,
    /// Where a fetch waits for its disk instead of the network: share of the last seconds, 0 to 1.
    pub disk_bound: f64,
    /// What each tracker last said, for people.
    pub trackers: Vec<TrackerState>,
}

/// One tracker as seen by a content.
#[derive(Debug, Clone)]
pub struct TrackerState {
    /// Its base URL.
    pub url: String,
    /// `Ok((seeds, leechers))` or the last error.
    pub state: Option<Result<(u32, u32), String>>,
}

/// Something a person or a log may want to know once.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A peer sent bytes that failed verification; `barred` if it won't be used for now.
    BadPiece {
        /// Who.
        peer: SocketAddr,
        /// Which piece.
        piece: u32,
        /// Whether it is out for an hour.
        barred: bool,
    },
    /// A local file that we serve is no longer what it was; its pieces are taken back.
    SourceChanged {
        /// Which file, relative to the content's root.
        path: String,
    },
}

/// A tracker as a content uses it.
#[derive(Debug, Clone)]
pub enum TrackerAt {
    /// The one in this process.
    Here,
    /// One that is reached over HTTP.
    Http(Url),
}

impl TrackerAt {
    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Here => "this process".into(),
            Self::Http(url) => url.base(),
        }
    }
}

/// A content in an engine. Dropping it doesn't stop it; [`Handle::stop`] does.
#[derive(Debug)]
pub struct Handle {
    /// Numbers.
    pub stats: watch::Receiver<Stats>,
    /// Events.
    pub notices: mpsc::Receiver<Notice>,
    finished: watch::Receiver<Option<Result<PathBuf, Failure>>>,
    events: mpsc::Sender<Event>,
    core: Arc<Core>,
    swarm: SwarmId,
}

impl Handle {
    /// Waits until a fetch has everything verified, flushed and under its final name, or fails for good.
    /// Bad peers, dead trackers and missing pieces are no failures: then this waits.
    ///
    /// # Errors
    /// Local trouble, such as a full disk.
    pub async fn complete(&mut self) -> Result<PathBuf, Failure> {
        match self.finished.wait_for(Option::is_some).await.map(|result| result.clone()) {
            Ok(Some(result)) => result,
            _ => Err(Failure::new(FailureKind::Bug, "the task that owns the swarm is gone")),
        }
    }

    /// Stops this content: saves state, announces the end (two seconds at most), closes its connections.
    pub async fn stop(self, reason: StopReason) {
        self.core.forget(&self.swarm);
        let (done, stopped) = oneshot::channel();
        if self.events.send(Event::Stop(reason, done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

/// A seed's content.
#[derive(Debug)]
pub struct Seeding {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Where its bytes are.
    pub source: Arc<dyn Source>,
    /// All CVs in piece order.
    pub cvs: Vec<Hash>,
    /// Trackers to announce to.
    pub trackers: Vec<Url>,
}

/// A fetch.
#[derive(Debug)]
pub struct Fetching {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Where it goes, opened and locked.
    pub download: Arc<Download>,
    /// Trackers to announce to.
    pub trackers: Vec<Url>,
    /// Peers to try first.
    pub peers: Vec<SocketAddr>,
}

/// What all contents of an engine share.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: EngineConfig,
    pub(crate) peer: PeerId,
    pub(crate) local: SocketAddr,
    pub(crate) http: HttpClient,
    pub(crate) disk: Disk,
    pub(crate) cancel: CancellationToken,
    /// Every task of the engine, so that its end can wait for theirs.
    pub(crate) tasks: TaskTracker,
    backlog: Arc<AtomicUsize>,
    pool: Pool,
    up: Limiter,
    down: Limiter,
    contents: RwLock<BTreeMap<SwarmId, Arc<Content>>>,
    service: OnceLock<Service>,
    next_content: AtomicU64,
}

/// A content as the listening port sees it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) bytes: Arc<ManifestBytes>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) origin: bool,
    place: Option<Arc<Place>>,
    cvs: Vec<Hash>,
    /// All CVs in one: a request reads them part by part, and there may be 128 MiB of them.
    cv_bytes: OnceLock<Bytes>,
    pub(crate) relays: Relays,
}

impl Content {
    /// All CVs as bytes; a fetch has them once it has asked for all.
    fn all_cvs(&self) -> Option<Bytes> {
        if let Some(bytes) = self.cv_bytes.get() {
            return Some(bytes.clone());
        }
        let bytes: Bytes = match &self.place {
            None => self.cvs.concat().into(),
            Some(place) => {
                let (cvs, known) = place.download.cvs();
                known.is_complete().then_some(cvs)?.concat().into()
            }
        };
        Some(self.cv_bytes.get_or_init(|| bytes).clone())
    }
}

impl Core {
    pub(crate) fn content_of(&self, swarm: &SwarmId) -> Option<Arc<Content>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner).get(swarm).cloned()
    }

    fn forget(&self, swarm: &SwarmId) {
        self.contents.write().unwrap_or_else(PoisonError::into_inner).remove(swarm);
    }

    /// What we say of ourselves at the beginning of a connection.
    pub(crate) fn hello(&self, swarm: SwarmId, spreads: bool) -> Hello {
        Hello {
            swarm,
            peer: self.peer,
            features: 0,
            port: self.local.port(),
            queue_depth: QUEUE_DEPTH,
            needs_manifest: false,
            spreads,
            no_upload: !self.config.upload,
            zone: self.config.zone.clone(),
            client: concat!("shoal/", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// Addresses besides the one that a tracker sees: what the user said, then this machine's own.
    pub(crate) fn candidates(&self) -> Vec<SocketAddr> {
        // What the system bound says more than what was asked for: there may be no IPv6.
        let listen = Listen { ip: Some(self.local.ip()), ports: 0..=0 };
        let own = interfaces::addresses(&listen);
        let own = own.into_iter().map(|ip| SocketAddr::new(ip, self.local.port()));
        let mut seen = BTreeSet::new();
        self.config.advertise.iter().copied().chain(own).filter(|a| seen.insert(*a)).take(CANDIDATES).collect()
    }

    /// Announces to the tracker in this process.
    pub(crate) fn announce_here(&self, announce: &Announce, here: IpAddr) -> Result<Handout, String> {
        let service = self.service.get().ok_or("no tracker runs in this process")?;
        service.announce(service.now_ms(), announce, here, here).map_err(|refused| refused.error)
    }

    pub(crate) fn upload_limit(&self) -> &Limiter {
        &self.up
    }

    pub(crate) async fn serve_http(&self, stream: TcpStream, remote: SocketAddr, local: SocketAddr) {
        if let Some(service) = self.service.get() {
            service.serve_connection(TokioIo::new(stream), remote, local, self.cancel.clone()).await;
        }
    }
}

/// The manifests of an engine, as its HTTP port gives them out.
#[derive(Debug)]
struct OwnManifests(std::sync::Weak<Core>);

impl OwnManifests {
    fn content(&self, id: &ContentId) -> Option<Arc<Content>> {
        self.0.upgrade()?.content_of(&id.open_swarm())
    }
}

impl ManifestSource for OwnManifests {
    fn accepts_swarm(&self, swarm: &SwarmId) -> bool {
        self.0.upgrade().is_some_and(|core| core.content_of(swarm).is_some())
    }

    fn manifest(&self, id: &ContentId) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.content(id)?.manifest))
    }

    fn part(&self, id: &ContentId, part: Part) -> Option<Bytes> {
        let content = self.content(id)?;
        match part {
            Part::Manifest => Some(content.bytes.with_hints.clone()),
            Part::Cvs => content.all_cvs(),
        }
    }

    fn read(&self, id: &ContentId, part: Part, range: Range<u64>) -> Option<Bytes> {
        let content = self.content(id)?;
        let bytes = match part {
            Part::Manifest => content.bytes.with_hints.clone(),
            Part::Cvs => content.all_cvs()?,
        };
        if part == Part::Manifest {
            content.relays.note_read(Instant::now(), &range, bytes.len() as u64);
        }
        let end = usize::try_from(range.end).ok()?.min(bytes.len());
        let start = usize::try_from(range.start).ok()?.min(end);
        Some(bytes.slice(start..end))
    }

    fn redirect(&self, id: &ContentId, asker: IpAddr) -> Option<String> {
        let to = self.content(id)?.relays.choose(Instant::now(), asker)?;
        Some(format!("http://{to}/m/{id}"))
    }
}

/// The engine. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    core: Arc<Core>,
}

impl Engine {
    /// Opens the port and starts accepting.
    ///
    /// # Errors
    /// When no port of the range can be had.
    pub async fn start(config: EngineConfig) -> Result<Self, Failure> {
        let listener = listener::bind(&config.listen).map_err(|error| {
            let (low, high) = (config.listen.ports.start(), config.listen.ports.end());
            Failure::new(FailureKind::Local, format!("no port from {low} to {high} can be listened on: {error}"))
                .hint("choose another with --listen")
        })?;
        let bug = |error: std::io::Error| Failure::new(FailureKind::Local, format!("this machine refuses: {error}"));
        let mut peer = [0; 16];
        getrandom::fill(&mut peer).map_err(|error| bug(std::io::Error::other(error)))?;
        let core = Arc::new(Core {
            peer: PeerId(peer),
            local: listener.local_addr().map_err(bug)?,
            http: HttpClient::new(),
            disk: Disk::start().map_err(bug)?,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            backlog: Arc::default(),
            pool: Pool::new(BUFFERS),
            up: Limiter::new(config.max_upload),
            down: Limiter::new(config.max_download),
            contents: RwLock::default(),
            service: OnceLock::new(),
            next_content: AtomicU64::new(0),
            config,
        });
        let service_config = ServiceConfig { announces: core.config.tracker, ..ServiceConfig::default() };
        let service = Service::new(service_config, Arc::new(OwnManifests(Arc::downgrade(&core))));
        core.tasks.spawn(sweep(service.clone(), core.cancel.clone()));
        let _ = core.service.set(service);
        core.tasks.spawn(listener::run(Arc::clone(&core), listener));
        Ok(Self { core })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.core.local
    }

    /// Serves a content.
    #[must_use]
    pub fn seed(&self, content: Seeding) -> Handle {
        let pieces = content.manifest.geometry().pieces();
        let known = content.cvs.iter().copied().map(Some).collect();
        let start = Start {
            have: Bitfield::all(pieces),
            known,
            origin: true,
            source: content.source,
            download: None,
            trackers: content.trackers,
            peers: Vec::new(),
            cvs: content.cvs,
        };
        self.add(content.manifest, start)
    }

    /// Fetches a content and serves what it has of it.
    #[must_use]
    pub fn fetch(&self, content: Fetching) -> Handle {
        let (cvs, known) = content.download.cvs();
        let known = cvs.iter().zip(0..).map(|(cv, n)| known.has(n).then_some(*cv)).collect();
        let mut peers = content.peers;
        peers.extend(content.download.known_peers());
        let start = Start {
            have: content.download.have(),
            known,
            origin: false,
            source: Arc::clone(&content.download) as Arc<dyn Source>,
            download: Some(content.download),
            trackers: content.trackers,
            peers,
            cvs: Vec::new(),
        };
        self.add(content.manifest, start)
    }

    fn add(&self, manifest: Arc<Manifest>, start: Start) -> Handle {
        let core = &self.core;
        let swarm_id = manifest.id().open_swarm();
        let geometry = Arc::new(manifest.geometry().clone());
        let (events, queue) = mpsc::channel(EVENTS);
        let (stats, stats_out) = watch::channel(Stats { total: manifest.bytes(), ..Stats::default() });
        let (notices, notices_out) = mpsc::channel(64);
        let (finished, finished_out) = watch::channel(None);
        let mut trackers: Vec<TrackerAt> = start.trackers.into_iter().map(TrackerAt::Http).collect();
        if core.config.tracker {
            trackers.insert(0, TrackerAt::Here);
        }
        let place = start.download.map(|download| {
            Arc::new(Place {
                content: core.next_content.fetch_add(1, Ordering::Relaxed),
                manifest: Arc::clone(&manifest),
                download,
                events: events.clone(),
            })
        });
        let content = Arc::new(Content {
            manifest: Arc::clone(&manifest),
            bytes: Arc::new(ManifestBytes::new(&manifest)),
            events: events.clone(),
            origin: start.origin,
            place: place.clone(),
            cvs: start.cvs,
            cv_bytes: OnceLock::new(),
            relays: Relays::default(),
        });
        let work = Work {
            core: Arc::clone(core),
            bytes: Arc::clone(&content.bytes),
            swarm_id,
            swarm: swarm::Config {
                geometry: Arc::clone(&geometry),
                roots: geometry.large().iter().map(|file| manifest.root(file.entry)).collect(),
                peer: core.peer,
                have: start.have,
                cvs: start.known,
                origin: start.origin,
                upload: core.config.upload,
                max_peers: core.config.max_peers,
                trackers: trackers.len(),
                allow_private: core.config.allow_private,
                seed: getrandom::u64().unwrap_or(0),
            },
            place,
            shared: Shared {
                events: events.clone(),
                source: start.source,
                pool: core.pool.clone(),
                up: core.up.clone(),
                down: core.down.clone(),
                geometry,
                backlog: Arc::clone(&core.backlog),
                tasks: core.tasks.clone(),
            },
            trackers,
            peers: start.peers,
            stats,
            notices,
            finished,
            cancel: core.cancel.child_token(),
            manifest,
        };
        core.contents.write().unwrap_or_else(PoisonError::into_inner).insert(swarm_id, content);
        core.tasks.spawn(driver::run(work, queue));
        Handle {
            stats: stats_out,
            notices: notices_out,
            finished: finished_out,
            events,
            core: Arc::clone(core),
            swarm: swarm_id,
        }
    }

    /// Gets a manifest by its id alone, from peers and from peers that trackers name; waits until `patience` is over.
    ///
    /// # Errors
    /// When nobody had it in time.
    pub async fn find_manifest(
        &self,
        id: ContentId,
        trackers: &[Url],
        peers: &[SocketAddr],
        patience: Option<Duration>,
    ) -> Result<Manifest, Failure> {
        let search = self.search(id, trackers, peers);
        match patience {
            None => Ok(search.await),
            Some(limit) => tokio::time::timeout(limit, search).await.map_err(|_| {
                Failure::new(FailureKind::Unreachable, format!("nobody who has the manifest of {id} could be reached"))
            }),
        }
    }

    async fn search(&self, id: ContentId, trackers: &[Url], peers: &[SocketAddr]) -> Manifest {
        let core = &self.core;
        let swarm = id.open_swarm();
        let hello = Hello { needs_manifest: true, ..core.hello(swarm, false) };
        let mut pause = Duration::from_millis(500);
        loop {
            // Whom the user named comes first; ourselves and what comes twice is left out.
            let mut known: Vec<SocketAddr> = peers.to_vec();
            for url in trackers {
                known.extend(self.ask_for_peers(swarm, url).await);
            }
            let mut seen = BTreeSet::from([core.local]);
            known.retain(|addr| seen.insert(*addr));
            known.truncate(ASKED_MAX);
            let mut left = known.into_iter();
            let mut asking = JoinSet::new();
            loop {
                while asking.len() < ASKED_AT_ONCE
                    && let Some(addr) = left.next()
                {
                    let hello = hello.clone();
                    asking.spawn(async move { (addr, manifest_fetch::fetch(addr, &hello, id).await) });
                }
                match asking.join_next().await {
                    Some(Ok((_, Ok(manifest)))) => return manifest,
                    Some(Ok((addr, Err(error)))) => tracing::debug!(%addr, %error, "no manifest from this peer"),
                    Some(Err(_)) => {}
                    None => break,
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Whom a tracker names. Port 0 keeps us out of what others are told: we have nothing to give yet.
    async fn ask_for_peers(&self, swarm: SwarmId, url: &Url) -> Vec<SocketAddr> {
        let core = &self.core;
        let question = Announce {
            swarm,
            peer: core.peer,
            port: 0,
            event: AnnounceEvent::Started,
            left: 1,
            downloaded: 0,
            uploaded: 0,
            want: 20,
            candidates: Vec::new(),
            zone: core.config.zone.clone(),
            label: String::new(),
            reason: None,
        };
        match announce::announce(core, &TrackerAt::Http(url.clone()), &question).await {
            Ok((reached, handout)) => {
                let trust = Trust { source: reach(reached), allow_private: core.config.allow_private };
                let handout = handout.clamped();
                let addrs = handout.peers.iter().flat_map(|peer| peer.resolve(reached));
                addrs.filter(|addr| trust.allows(*addr)).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "the tracker named no peers");
                Vec::new()
            }
        }
    }

    /// Closes the port and every connection, and waits until all tasks are gone, two seconds at most. Contents must have
    /// been stopped before.
    pub async fn shutdown(self) {
        self.core.cancel.cancel();
        self.core.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.core.tasks.wait()).await.is_err() {
            tracing::debug!(tasks = self.core.tasks.len(), "some tasks did not end in time");
        }
    }
}

struct Start {
    have: Bitfield,
    known: Vec<Option<Hash>>,
    origin: bool,
    source: Arc<dyn Source>,
    download: Option<Arc<Download>>,
    trackers: Vec<Url>,
    peers: Vec<SocketAddr>,
    cvs: Vec<Hash>,
}

/// Lets the tracker forget what is over.
async fn sweep(service: Service, cancel: CancellationToken) {
    let mut due = tokio::time::interval(Duration::from_secs(1));
    while cancel.run_until_cancelled(due.tick()).await.is_some() {
        service.sweep(service.now_ms());
    }
}
