//! One swarm between its logic and the outside: events become the logic's inputs, and its outputs become deeds.
//!
//! Nothing here waits: what takes time is given to a connection's task, to the threads of the disk, or to a task of its own.

use super::announce;
use super::buffers::Buffer;
use super::connection::{self, Link, Shared};
use super::core::Core;
use super::disk::{Job, Place};
use super::events::Event;
use super::handshake::{self, HandshakeError, Opened};
use super::manifest_server::ManifestBytes;
use crate::engine::{Notice, Stats, TrackerAt, TrackerState};
use crate::failure::{Failure, FailureKind};
use crate::store::ReadError;
use crate::swarm::{ConnId, Connected, Input, Output, Swarm, Time, TrackerId};
use shoal_protocol::announce::{Announce, Event as AnnounceEvent, Handout, StopReason};
use shoal_protocol::geometry::Piece;
use shoal_protocol::message::{Block, GoodbyeReason, Hello};
use shoal_protocol::{Manifest, Message, PeerId, SwarmId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How often what was written is made safe against a power cut.
const CHECKPOINT: Duration = Duration::from_secs(5);

/// What a swarm works on and with.
#[derive(Debug)]
pub struct Work {
    pub core: Arc<Core>,
    pub manifest: Arc<Manifest>,
    pub bytes: Arc<ManifestBytes>,
    pub swarm_id: SwarmId,
    /// Where a fetch is written; `None` for a seed.
    pub place: Option<Arc<Place>>,
    pub shared: Shared,
    pub trackers: Vec<TrackerAt>,
    pub peers: Vec<SocketAddr>,
    pub stats: watch::Sender<Stats>,
    pub notices: mpsc::Sender<Notice>,
    pub finished: watch::Sender<Option<Result<PathBuf, Failure>>>,
    pub cancel: CancellationToken,
}

/// One swarm: its logic, and what that works with.
pub(super) struct SwarmIo {
    pub(super) job: Work,
    pub(super) swarm: Swarm,
    start: Instant,
    pub(super) links: BTreeMap<ConnId, Link>,
    next_conn: ConnId,
    /// The block that the logic is deciding on.
    arrived: Option<Buffer>,
    pub(super) trackers: Vec<TrackerState>,
    pub(super) incoming: u32,
    /// Who is behind each connection that isn't closed, and who of them ever sent payload.
    pub(super) names: BTreeMap<ConnId, PeerId>,
    pub(super) sources: BTreeSet<PeerId>,
    pub(super) resumed: u64,
    checkpointed: Instant,
    pub(super) starved: (Instant, u64),
    pub(super) disk_bound: f64,
    /// The disk failed, and what others are told of that.
    pub(super) disk_failed: Option<StopReason>,
    /// Somebody wants an end, and waits for it.
    pub(super) stop: Option<(StopReason, oneshot::Sender<()>)>,
    pub(super) stopping: bool,
}

/// Most names of those who gave something that are told apart.
const SOURCES_MAX: usize = 4_096;

impl SwarmIo {
    pub(super) fn new(job: Work, swarm: Swarm) -> Self {
        let start = Instant::now();
        let trackers = job.trackers.iter().map(|t| TrackerState { url: t.name(), state: None }).collect();
        Self {
            resumed: swarm.done_bytes(),
            swarm,
            start,
            links: BTreeMap::new(),
            next_conn: 0,
            arrived: None,
            trackers,
            incoming: 0,
            names: BTreeMap::new(),
            sources: BTreeSet::new(),
            checkpointed: start,
            starved: (start, job.shared.pool.starved_us()),
            disk_bound: 0.0,
            disk_failed: None,
            stop: None,
            stopping: false,
            job,
        }
    }

    pub(super) fn begin(&mut self) {
        let peers = std::mem::take(&mut self.job.peers);
        self.input(Input::Peers(peers));
        if self.swarm.have().is_complete() {
            self.completed();
        }
    }

    pub(super) fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Takes what happened. Once the end has begun, only the ends of connections still matter.
    pub(super) fn event(&mut self, event: Event) {
        if self.stopping && !matches!(event, Event::Closed { .. }) {
            return;
        }
        match event {
            Event::Incoming(opened, remote) => {
                self.incoming += 1;
                self.connected(*opened, remote, None);
            }
            Event::Dialled(addr, Ok(opened)) => {
                let remote = opened.stream.peer_addr().unwrap_or(addr);
                self.connected(*opened, remote, Some(addr));
            }
            Event::Dialled(addr, Err(error)) => {
                tracing::debug!(%addr, %error, "no connection");
                self.input(match error {
                    HandshakeError::Refused(_) => Input::DialRefused { addr },
                    error => Input::DialFailed { addr, forget: matches!(error, HandshakeError::Wire(_)) },
                });
            }
            Event::Input(input) => self.input(input),
            Event::Block { conn, block, buffer, lay } => {
                self.arrived = Some(buffer);
                // Names cost nothing: they are counted, and not without end.
                self.sources.extend(self.names.get(&conn).filter(|_| self.sources.len() < SOURCES_MAX));
                self.input(Input::BlockArrived { conn, block, lay });
                self.arrived = None;
            }
            Event::Unreadable { conn, block, error } => self.unreadable(conn, block, &error),
            Event::Broke { conn, text } => {
                tracing::debug!(conn, text, "a peer broke the protocol");
                if let Some(link) = self.links.remove(&conn) {
                    link.end(Message::Goodbye { reason: GoodbyeReason::Protocol, text });
                }
            }
            Event::Closed { conn } => {
                self.links.remove(&conn);
                self.names.remove(&conn);
                if !self.stopping {
                    self.input(Input::Closed { conn });
                }
            }
            Event::DiskFailed { error } => self.disk_failed(&error),
            Event::Announced(tracker, result) => self.announced(tracker, result),
            Event::Finished(result) => {
                self.publish();
                self.job.finished.send_replace(Some(result));
            }
            Event::Stop(reason, done) => self.stop = Some((reason, done)),
        }
    }

    fn connected(&mut self, mut opened: Opened, remote: SocketAddr, dialled: Option<SocketAddr>) {
        let conn = self.next_conn;
        self.next_conn += 1;
        let hello = opened.hello.clone();
        let early = opened.early.take();
        tracing::debug!(%remote, client = hello.client, "connected");
        let rtt_us = u64::try_from(opened.rtt.as_micros()).unwrap_or(u64::MAX);
        // A socket without an address has ended already; where it was makes no difference then.
        let local = opened.stream.local_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |addr| addr.ip());
        let link = connection::start(conn, opened, &self.job.shared, &self.job.cancel);
        self.links.insert(conn, link);
        self.names.insert(conn, hello.peer);
        let remote = shoal_protocol::address::canonical_addr(remote);
        self.input(Input::Connected(Connected { conn, local, remote, dialled, hello, rtt_us }));
        if let Some(message) = early {
            self.input(Input::Message { conn, message });
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        let now = self.now();
        self.swarm.handle(now, input);
        while let Some(output) = self.swarm.poll() {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send { conn, message } => self.send(conn, message),
            Output::SendBlock { conn, block } => {
                if let Some(link) = self.links.get(&conn) {
                    link.send_block(block);
                }
            }
            Output::SendManifest { conn, segment } => match self.job.bytes.segment(segment) {
                Some(message) => self.send(conn, message),
                None => self.end(conn, "there is no such manifest segment"),
            },
            Output::Store { block, last } => {
                if let (Some(buffer), Some(place)) = (self.arrived.take(), &self.job.place) {
                    self.job.core.disk.give(place, Job::Store { block, buffer, last });
                }
            }
            Output::Discard => self.arrived = None,
            Output::Restart { piece } => self.disk(Job::Restart(piece)),
            Output::Commit { piece } => self.disk(Job::Commit(piece)),
            Output::HashBlocks { piece } => self.disk(Job::HashBlocks(piece)),
            Output::KeepCvs { first, cvs } => self.disk(Job::KeepCvs(first, cvs)),
            Output::Close { conn, reason } => {
                if let Some(link) = self.links.remove(&conn) {
                    tracing::debug!(conn, ?reason, "closing");
                    link.end(Message::Goodbye { reason, text: String::new() });
                }
            }
            Output::Dial { addr } => self.dial(addr),
            Output::Announce { tracker, event, want } => self.announce(tracker, event, want),
            Output::BadPiece { peer, piece, barred } => {
                tracing::warn!(%peer, piece, barred, "a peer sent bytes that are not what they should be");
                let _ = self.job.notices.try_send(Notice::BadPiece { peer, piece, barred });
            }
            Output::Complete => self.completed(),
        }
    }

    fn send(&mut self, conn: ConnId, message: Message) {
        if self.links.get(&conn).is_some_and(|link| !link.send(message)) {
            self.end(conn, "you do not read");
        }
    }

    /// Ends a connection over what its peer did; the logic hears of it when it is closed.
    fn end(&mut self, conn: ConnId, text: &str) {
        if let Some(link) = self.links.remove(&conn) {
            link.end(Message::Goodbye { reason: GoodbyeReason::Protocol, text: text.into() });
        }
    }

    fn disk(&self, job: Job) {
        if let Some(place) = &self.job.place {
            self.job.core.disk.give(place, job);
        }
    }

    /// All pieces are verified: bring the content under its final name.
    fn completed(&self) {
        let Some(place) = self.job.place.clone() else { return };
        let events = self.job.shared.events.clone();
        self.job.core.tasks.spawn(async move {
            let result = tokio::task::spawn_blocking(move || place.download.finish()).await;
            let result =
                result.unwrap_or_else(|_| Err(Failure::new(FailureKind::Bug, "finishing the content panicked")));
            let _ = events.tell(Event::Finished(result));
        });
    }

    fn disk_failed(&mut self, error: &std::io::Error) {
        if self.disk_failed.is_some() {
            return;
        }
        // An exceeded quota is reported as a full disk.
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        self.disk_failed = Some(if full { StopReason::DiskFull } else { StopReason::Failed });
        let what = if full { "the disk is full" } else { "writing failed" };
        let failure = Failure::new(FailureKind::Local, format!("{what}: {error}"))
            .hint("what was verified is kept; run the same command again to go on");
        self.job.finished.send_replace(Some(Err(failure)));
    }

    fn unreadable(&mut self, conn: ConnId, block: Block, error: &ReadError) {
        tracing::warn!(%error, piece = block.piece, "a block can not be read");
        if error.may_pass() {
            self.input(Input::BlockFailed { conn, block });
            return;
        }
        let geometry = self.job.manifest.geometry();
        let entry = match error {
            ReadError::Changed(entry) => Some(*entry),
            ReadError::Io(_) => None,
        };
        // A changed file takes all its pieces with it; an unreadable spot only its own.
        let lost: Vec<u32> = match (entry, geometry.large_at(block.piece)) {
            (Some(_), Some(file)) => (file.first_piece..file.first_piece + file.pieces).collect(),
            _ => vec![block.piece],
        };
        if let Some(entry) = entry {
            let path = self.job.manifest.entries().get(entry as usize).map(|e| e.path.clone()).unwrap_or_default();
            let _ = self.job.notices.try_send(Notice::SourceChanged { path });
        } else if let Some(Piece::Subtree { entry, .. }) = geometry.piece(block.piece) {
            tracing::warn!(entry, "of this entry");
        }
        if let Some(place) = &self.job.place {
            // Now and not later: what is fetched anew would not be written while it counts as had.
            if let Err(error) = lost.iter().try_for_each(|piece| place.download.mark_lost(*piece)) {
                self.disk_failed(&error);
            }
        }
        self.input(Input::Lost { pieces: lost });
        self.input(Input::BlockFailed { conn, block });
    }

    // ---- reaching others

    fn hello(&self) -> Hello {
        self.job.core.hello(self.job.swarm_id, self.swarm.is_origin())
    }

    fn dial(&self, addr: SocketAddr) {
        let (events, hello) = (self.job.shared.events.clone(), self.hello());
        let cancel = self.job.cancel.clone();
        self.job.core.tasks.spawn(async move {
            let Some(result) = cancel.run_until_cancelled(handshake::connect(addr, &hello)).await else { return };
            let _ = events.tell(Event::Dialled(addr, result.map(Box::new)));
        });
    }

    fn announce(&self, tracker: TrackerId, event: AnnounceEvent, want: u16) {
        let Some(at) = self.job.trackers.get(tracker).cloned() else { return };
        let announce = self.announcement(event, want, None);
        let (core, events) = (Arc::clone(&self.job.core), self.job.shared.events.clone());
        let cancel = self.job.cancel.clone();
        self.job.core.tasks.spawn(async move {
            let asking = announce::announce(&core, &at, &announce);
            let Some(result) = cancel.run_until_cancelled(asking).await else { return };
            let _ = events.tell(Event::Announced(tracker, result));
        });
    }

    pub(super) fn announcement(&self, event: AnnounceEvent, want: u16, reason: Option<StopReason>) -> Announce {
        let counters = self.swarm.counters();
        let core = &self.job.core;
        Announce {
            swarm: self.job.swarm_id,
            peer: core.peer,
            port: core.local.port(),
            event,
            left: self.job.manifest.bytes() - self.swarm.done_bytes(),
            downloaded: counters.downloaded,
            uploaded: counters.uploaded,
            want,
            candidates: core.candidates(),
            zone: core.config.zone.clone(),
            label: core.config.label.clone(),
            reason,
        }
    }

    fn announced(&mut self, tracker: TrackerId, result: Result<(IpAddr, Handout), announce::AnnounceError>) {
        let state = match &result {
            Ok((_, handout)) => Ok((handout.seeds, handout.leechers)),
            Err(error) => Err(error.to_string()),
        };
        if let Some(slot) = self.trackers.get_mut(tracker) {
            slot.state = Some(state);
        }
        self.input(match result {
            Ok((reached, handout)) => Input::Announced { tracker, reached, handout: handout.clamped() },
            Err(error) => Input::AnnounceFailed { tracker, retry_after_s: error.retry_after_s() },
        });
        if self.swarm.have().is_complete() {
            // Whoever waits to leave wants to know at once whether anybody still needs us.
            self.publish();
        }
    }

    /// Makes what was written safe against a power cut, now and then.
    pub(super) fn checkpoint(&mut self) {
        let Some(place) = self.job.place.clone() else { return };
        if self.swarm.have().is_complete() || self.checkpointed.elapsed() < CHECKPOINT {
            return;
        }
        self.checkpointed = Instant::now();
        let peers = self.swarm.worth_keeping();
        let events = self.job.shared.events.clone();
        tokio::task::spawn_blocking(move || {
            place.download.remember_peers(&peers);
            if let Err(error) = place.download.checkpoint() {
                let _ = events.tell(Event::DiskFailed { error });
            }
        });
    }
}
