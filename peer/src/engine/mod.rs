//! The engine: many contents on one listening port, with one budget for rate, memory and connections.
//!
//! A command is a thin client of it.

mod config;
mod search;
mod stats;

pub use config::{EngineConfig, Listen, TrackerAt, TrackerUrl};
pub use stats::{Notice, Stats, TrackerState};

use crate::failure::{Failure, FailureKind};
use crate::net::buffers::{BUFFERS, Pool};
use crate::net::connection::Shared;
use crate::net::core::{Content, Core, OwnManifests};
use crate::net::disk::{Disk, Place};
use crate::net::doors::HTTP_MAX;
use crate::net::driver::Driver;
use crate::net::events::{Event, Events};
use crate::net::http_client::HttpClient;
use crate::net::limited::TAKERS;
use crate::net::limiter::Limiter;
use crate::net::listener;
use crate::net::manifest_server::ManifestBytes;
use crate::net::relays::Relays;
use crate::net::swarm_io::Work;
use crate::store::{Download, Source, descriptors};
use crate::swarm;
use shoal_protocol::announce::StopReason;
use shoal_protocol::{Bitfield, Hash, Manifest, PeerId, SwarmId};
use shoal_tracker::{Service, ServiceConfig, Timeouts};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest time that the tasks of an engine get for their end.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// A content in an engine. Dropping it doesn't stop it; [`Handle::stop`] does.
#[derive(Debug)]
pub struct Handle {
    /// Numbers.
    pub stats: watch::Receiver<Stats>,
    /// Events.
    pub notices: mpsc::Receiver<Notice>,
    finished: watch::Receiver<Option<Result<PathBuf, Failure>>>,
    events: Events,
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
            _ => Err(Failure::new(FailureKind::Bug, "what drives the swarm is gone")),
        }
    }

    /// Stops this content: saves state, announces the end (two seconds at most), closes its connections.
    pub async fn stop(self, reason: StopReason) {
        self.core.forget(&self.swarm);
        let (done, stopped) = oneshot::channel();
        if self.events.tell(Event::Stop(reason, done)).is_ok() {
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
    pub trackers: Vec<TrackerUrl>,
}

/// A fetch.
#[derive(Debug)]
pub struct Fetching {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Where it goes, opened and locked.
    pub download: Arc<Download>,
    /// Trackers to announce to.
    pub trackers: Vec<TrackerUrl>,
    /// Peers to try first.
    pub peers: Vec<SocketAddr>,
}

/// Where what is sent is limited, an answer over HTTP may have so small a part of that and still is on its way.
const ANSWERS_SHARE: u64 = 1_280;

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
            disk: Disk::start(&tokio::runtime::Handle::current()).map_err(bug)?,
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
            backlog: Arc::default(),
            pool: Pool::new(BUFFERS),
            up: Limiter::new(config.max_upload),
            http_turns: Arc::new(Semaphore::new(TAKERS)),
            down: Limiter::new(config.max_download),
            contents: RwLock::default(),
            service: OnceLock::new(),
            next_content: AtomicU64::new(0),
            config,
        });
        let files = usize::try_from(descriptors()).unwrap_or(usize::MAX);
        let max_connections = HTTP_MAX.min(files / 4);
        let mut timeouts = Timeouts::default();
        if core.up.is_limited() {
            // An answer shares the limit with all else that is sent, and that is no fault of who takes it.
            let idle_s = timeouts.idle.as_secs();
            timeouts.slow = timeouts.idle;
            timeouts.answer_step = (core.config.max_upload * idle_s / ANSWERS_SHARE).clamp(1, timeouts.answer_step);
        }
        let service_config =
            ServiceConfig { announces: core.config.tracker, max_connections, timeouts, ..ServiceConfig::default() };
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
            named: Vec::new(),
            kept: Vec::new(),
            cvs: content.cvs,
        };
        self.add(content.manifest, start)
    }

    /// Fetches a content and serves what it has of it.
    #[must_use]
    pub fn fetch(&self, content: Fetching) -> Handle {
        let (cvs, known) = content.download.cvs();
        let known = cvs.iter().zip(0..).map(|(cv, n)| known.has(n).then_some(*cv)).collect();
        let start = Start {
            have: content.download.have(),
            named: content.peers,
            kept: content.download.known_peers(),
            known,
            origin: false,
            source: Arc::clone(&content.download) as Arc<dyn Source>,
            download: Some(content.download),
            trackers: content.trackers,
            cvs: Vec::new(),
        };
        self.add(content.manifest, start)
    }

    fn add(&self, manifest: Arc<Manifest>, start: Start) -> Handle {
        let core = &self.core;
        let swarm_id = manifest.id().open_swarm();
        let geometry = Arc::new(manifest.geometry().clone());
        let (stats, stats_out) = watch::channel(Stats { total: manifest.bytes(), ..Stats::default() });
        let (notices, notices_out) = mpsc::channel(64);
        let (finished, finished_out) = watch::channel(None);
        let mut trackers: Vec<TrackerAt> = start.trackers.into_iter().map(TrackerAt::Http).collect();
        if core.config.tracker {
            trackers.insert(0, TrackerAt::Here);
        }
        let driver = Driver::new(|events| {
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
            let config = swarm::Config {
                geometry: Arc::clone(&geometry),
                roots: geometry.large().iter().map(|file| manifest.root(file.entry)).collect(),
                peer: core.peer,
                have: start.have,
                cvs: start.known,
                origin: start.origin,
                upload: core.config.upload,
                max_peers: core.config.max_peers,
                trackers: trackers.len(),
                zone: core.config.zone.clone(),
                allow_private: core.config.allow_private,
                seed: getrandom::u64().unwrap_or(0),
            };
            let work = Work {
                core: Arc::clone(core),
                bytes: Arc::clone(&content.bytes),
                swarm_id,
                shared: Shared {
                    events,
                    source: start.source,
                    pool: core.pool.clone(),
                    up: core.up.clone(),
                    down: core.down.clone(),
                    geometry,
                    backlog: Arc::clone(&core.backlog),
                    tasks: core.tasks.clone(),
                },
                place,
                trackers,
                named: start.named,
                kept: start.kept,
                stats,
                notices,
                finished,
                cancel: core.cancel.child_token(),
                manifest,
            };
            core.contents.write().unwrap_or_else(PoisonError::into_inner).insert(swarm_id, content);
            (work, config)
        });
        let events = driver.events();
        core.tasks.spawn(driver.run());
        Handle {
            stats: stats_out,
            notices: notices_out,
            finished: finished_out,
            events,
            core: Arc::clone(core),
            swarm: swarm_id,
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
    trackers: Vec<TrackerUrl>,
    named: Vec<SocketAddr>,
    kept: Vec<SocketAddr>,
    cvs: Vec<Hash>,
}

/// Lets the tracker forget what is over.
async fn sweep(service: Service, cancel: CancellationToken) {
    let mut due = tokio::time::interval(Duration::from_secs(1));
    while cancel.run_until_cancelled(due.tick()).await.is_some() {
        service.sweep(service.now_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemorySource;
    use crate::store::testing::{content_of, manifest_of_sizes};

    const SOON: Duration = Duration::from_secs(20);

    fn seeding(engine: &Engine, size: u64) -> Handle {
        let manifest = Arc::new(manifest_of_sizes(&[size], 65_536));
        let source = Arc::new(MemorySource::new(Arc::clone(&manifest), content_of(&[size])));
        engine.seed(Seeding { manifest, source, cvs: Vec::new(), trackers: Vec::new() })
    }

    #[tokio::test]
    async fn a_panic_in_the_logic_ends_its_swarm_and_no_other() {
        let engine = Engine::start(EngineConfig::on_loopback()).await.unwrap();
        let (mut broken, other) = (seeding(&engine, 10), seeding(&engine, 20));
        let events = broken.events.clone();
        events.panic_inside();
        let result = tokio::time::timeout(SOON, broken.complete()).await.expect("it says that it has ended");
        assert_eq!(result.unwrap_err().kind, FailureKind::Bug);
        let (done, _stopped) = oneshot::channel();
        assert!(events.tell(Event::Stop(StopReason::Interrupted, done)).is_err(), "nobody is told any more");
        tokio::time::timeout(SOON, broken.stop(StopReason::Interrupted)).await.expect("nothing to wait for");
        let (done, stopped) = oneshot::channel();
        other.events.tell(Event::Stop(StopReason::Interrupted, done)).expect("the other one goes on");
        tokio::time::timeout(SOON, stopped).await.expect("and ends as it should").unwrap();
        engine.shutdown().await;
    }
}
