//! What all contents of an engine share: its name, its port, its budgets, its threads, and the manifests that its port
//! gives out.

use super::buffers::Pool;
use super::disk::{Disk, Place};
use super::events::Events;
use super::http_client::HttpClient;
use super::interfaces;
use super::limited::Limited;
use super::limiter::Limiter;
use super::manifest_server::ManifestBytes;
use super::relays::Relays;
use crate::engine::{EngineConfig, Listen};
use crate::swarm::QUEUE_DEPTH;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use shoal_protocol::announce::{Announce, Handout};
use shoal_protocol::limits::CANDIDATES;
use shoal_protocol::message::Hello;
use shoal_protocol::{ContentId, Hash, Manifest, PeerId, SwarmId};
use shoal_tracker::{ManifestSource, Part, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    pub(crate) backlog: Arc<AtomicUsize>,
    pub(crate) pool: Pool,
    pub(crate) up: Limiter,
    /// Of HTTP, for what the limit lets out.
    pub(crate) http_turns: Arc<Semaphore>,
    pub(crate) down: Limiter,
    pub(crate) contents: RwLock<BTreeMap<SwarmId, Arc<Content>>>,
    pub(crate) service: OnceLock<Service>,
    pub(crate) next_content: AtomicU64,
}

/// A content as the listening port sees it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) bytes: Arc<ManifestBytes>,
    pub(crate) events: Events,
    pub(crate) origin: bool,
    pub(crate) place: Option<Arc<Place>>,
    pub(crate) cvs: Vec<Hash>,
    /// All CVs in one: a request reads them part by part, and there may be 128 MiB of them.
    pub(crate) cv_bytes: OnceLock<Bytes>,
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
            Some(place) => place.download.all_cvs()?.concat().into(),
        };
        Some(self.cv_bytes.get_or_init(|| bytes).clone())
    }
}

impl Core {
    pub(crate) fn content_of(&self, swarm: &SwarmId) -> Option<Arc<Content>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner).get(swarm).cloned()
    }

    pub(crate) fn forget(&self, swarm: &SwarmId) {
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
            let io = TokioIo::new(Limited::new(stream, self.up.clone(), Arc::clone(&self.http_turns)));
            service.serve_connection(io, remote, local, self.cancel.clone()).await;
        }
    }
}

/// The manifests of an engine, as its HTTP port gives them out.
#[derive(Debug)]
pub(crate) struct OwnManifests(pub(crate) std::sync::Weak<Core>);

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
