//! One swarm between its logic and the outside: events become the logic's inputs, and its outputs become deeds.
//!
//! Nothing here waits: what takes time is given to a connection's task, to the threads of the disk, or to a task of its own.

use super::announce;
use super::buffers::Buffer;
use super::connection::Shared;
use super::core::Core;
use super::disk::{Job, Place};
use super::events::Event;
use super::handshake::{self, HandshakeError, Opened};
use super::links::Links;
use super::manifest_server::ManifestBytes;
use super::numbers::Numbers;
use crate::engine::{Notice, Stats, TrackerAt};
use crate::failure::{Failure, FailureKind};
use crate::store::ReadError;
use crate::swarm::{ConnId, Connected, Input, Output, Swarm, Time, TrackerId};
use shoal_protocol::announce::{Announce, Event as AnnounceEvent, Handout, StopReason};
use shoal_protocol::geometry::Piece;
use shoal_protocol::message::{Block, Hello};
use shoal_protocol::{Manifest, SwarmId};
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
    /// Peers that the user named, and those that the journal remembers.
    pub named: Vec<SocketAddr>,
    pub kept: Vec<SocketAddr>,
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
    pub(super) links: Links,
    pub(super) numbers: Numbers,
    /// The block that the logic is deciding on.
    arrived: Option<Buffer>,
    checkpointed: Instant,
    /// The disk failed, and what others are told of that.
    pub(super) disk_failed: Option<StopReason>,
    /// Somebody wants an end, and waits for it.
    pub(super) stop: Option<(StopReason, oneshot::Sender<()>)>,
    pub(super) stopping: bool,
}

impl SwarmIo {
    pub(super) fn new(job: Work, swarm: Swarm) -> Self {
        let start = Instant::now();
        Self {
            numbers: Numbers::new(&job, &swarm),
            swarm,
            start,
            links: Links::default(),
            arrived: None,
            checkpointed: start,
            disk_failed: None,
            stop: None,
            stopping: false,
            job,
        }
    }

    pub(super) fn begin(&mut self) {
        let (named, kept) = (std::mem::take(&mut self.job.named), std::mem::take(&mut self.job.kept));
        self.input(Input::Peers { named, kept });
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
                self.numbers.incoming += 1;
                self.connected(*opened, remote, None);
            }
            Event::Dialled(addr, Ok(opened)) => {
                let remote = opened.stream.peer_addr().unwrap_or(addr);
                self.connected(*opened, remote, Some(addr));
            }
            Event::Dialled(addr, Err(error)) => {
                tracing::debug!(%addr, %error, "no connection");
                self.input(match (error.lack(), error) {
                    (Some(lack), _) => Input::NotDialled { addr, lack },
                    (None, HandshakeError::Refused(_)) => Input::DialRefused { addr },
                    (None, error) => Input::DialFailed { addr, forget: matches!(error, HandshakeError::Wire(_)) },
                });
            }
            Event::Input(input) => self.input(input),
            Event::Block { conn, block, buffer, was_there } => {
                self.arrived = Some(buffer);
                if let Some(peer) = self.links.name(conn) {
                    self.numbers.sent_payload(peer);
                }
                self.input(Input::BlockArrived { conn, block, was_there });
                self.arrived = None;
            }
            Event::Unreadable { conn, block, error } => self.unreadable(conn, block, &error),
            Event::Broke { conn, text } => {
                self.links.fault(conn, &text);
            }
            Event::Closed { conn } => {
                self.links.closed(conn);
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
        let hello = opened.hello.clone();
        let early = opened.early.take();
        tracing::debug!(%remote, client = hello.client, "connected");
        let rtt_us = u64::try_from(opened.rtt.as_micros()).unwrap_or(u64::MAX);
        // A socket without an address has ended already; where it was makes no difference then.
        let local = opened.stream.local_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |addr| addr.ip());
        let conn = self.links.start(opened, &self.job.shared, &self.job.cancel);
        let remote = shoal_protocol::address::canonical_addr(remote);
        self.input(Input::Connected(Connected { conn, local, remote, dialled, hello, rtt_us }));
        if let Some(message) = early {
            self.input(Input::Message { conn, message });
        }
    }

    /// Tells how things stand.
    pub(super) fn publish(&mut self) {
        let now = self.now();
        self.numbers.publish(&self.job, &mut self.swarm, now, self.links.len());
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
            Output::Send { conn, message } => self.links.send(conn, message),
            Output::SendBlock { conn, block } => self.links.send_block(conn, block),
            Output::SendManifest { conn, segment } => match self.job.bytes.segment(segment) {
                Some(message) => self.links.send(conn, message),
                None => self.links.fault(conn, "there is no such manifest segment"),
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
            Output::Close { conn, reason } => self.links.end(conn, reason, ""),
            Output::Dial { addr } => self.dial(addr),
            Output::Announce { tracker, event, want } => self.announce(tracker, event, want),
            Output::BadPiece { peer, piece, barred } => {
                tracing::warn!(%peer, piece, barred, "a peer sent bytes that are not what they should be");
                let _ = self.job.notices.try_send(Notice::BadPiece { peer, piece, barred });
            }
            Output::Complete => self.completed(),
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
        self.numbers.tracker_said(tracker, state);
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
