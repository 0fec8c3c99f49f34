//! The task that owns one swarm: it turns events into the logic's inputs, and the logic's outputs into deeds.

use super::announce;
use super::buffers::Buffer;
use super::connection::{self, Link, Shared};
use super::core::Core;
use super::disk::{Job, Place};
use super::handshake::{self, HandshakeError, Opened};
use super::manifest_server::ManifestBytes;
use super::socket;
use crate::engine::{Notice, Stats, TrackerAt, TrackerState};
use crate::failure::{Failure, FailureKind};
use crate::store::ReadError;
use crate::swarm::{self, ConnId, Connected, Input, Outcome, Output, Swarm, Time, TrackerId};
use shoal_protocol::announce::{Announce, Event as AnnounceEvent, Handout, StopReason};
use shoal_protocol::geometry::Piece;
use shoal_protocol::message::{Block, GoodbyeReason, Hello};
use shoal_protocol::{Hash, Manifest, Message, PeerId, SwarmId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Events that may wait: enough that readers don't wait for the driver in bursts.
pub const EVENTS: usize = 512;
const DIAL: Duration = Duration::from_secs(5);
const STATS: Duration = Duration::from_millis(250);
/// How often what was written is made safe against a power cut.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// Longest time that saying goodbye may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// What reaches a driver.
#[derive(Debug)]
pub enum Event {
    /// Somebody dialled us and named this swarm.
    Incoming(Box<Opened>, SocketAddr),
    /// A dial of ours led to a connection, or didn't.
    Dialled(SocketAddr, Result<Box<Opened>, HandshakeError>),
    /// A control frame.
    Message {
        /// From whom.
        conn: ConnId,
        /// What.
        message: Message,
    },
    /// A whole block.
    Block {
        /// From whom.
        conn: ConnId,
        /// Which.
        block: Block,
        /// Its bytes.
        buffer: Buffer,
    },
    /// Part of a block.
    Progress {
        /// From whom.
        conn: ConnId,
    },
    /// A block was sent.
    Sent {
        /// To whom.
        conn: ConnId,
        /// Which.
        block: Block,
    },
    /// A block can't be read.
    Unreadable {
        /// For whom.
        conn: ConnId,
        /// Which.
        block: Block,
        /// Why.
        error: ReadError,
    },
    /// A peer sent what isn't the protocol; its connection waits for a farewell.
    Broke {
        /// Which.
        conn: ConnId,
        /// What is wrong.
        text: String,
    },
    /// A connection ended.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// A piece was hashed.
    Hashed {
        /// Which.
        piece: u32,
        /// Result.
        outcome: Outcome,
    },
    /// The journal has a piece.
    Committed {
        /// Which.
        piece: u32,
    },
    /// Pieces on disk turned out to be right.
    Found {
        /// Which.
        pieces: Vec<u32>,
    },
    /// Blocks were hashed.
    BlockHashes {
        /// Of which piece.
        piece: u32,
        /// The hashes.
        hashes: Vec<Hash>,
    },
    /// The disk doesn't do what it should.
    DiskFailed {
        /// Why.
        error: std::io::Error,
    },
    /// A tracker answered, or didn't.
    Announced(TrackerId, Result<(IpAddr, Handout), announce::AnnounceError>),
    /// The content is under its final name, or can't be brought there.
    Finished(Result<PathBuf, Failure>),
    /// Stop, and say when done.
    Stop(StopReason, oneshot::Sender<()>),
}

/// What a driver works on.
#[derive(Debug)]
pub struct Work {
    pub core: Arc<Core>,
    pub manifest: Arc<Manifest>,
    pub bytes: Arc<ManifestBytes>,
    pub swarm_id: SwarmId,
    pub swarm: swarm::Config,
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

/// Runs a swarm until it is stopped.
pub async fn run(job: Work, events: mpsc::Receiver<Event>) {
    Driver::new(job).run(events).await;
}

struct Driver {
    job: Work,
    swarm: Swarm,
    start: Instant,
    links: BTreeMap<ConnId, Link>,
    next_conn: ConnId,
    /// The block that the logic is deciding on.
    arrived: Option<Buffer>,
    trackers: Vec<TrackerState>,
    incoming: u32,
    /// Who is behind each connection, and who of them ever sent payload.
    names: BTreeMap<ConnId, PeerId>,
    sources: BTreeSet<PeerId>,
    resumed: u64,
    checkpointed: Instant,
    starved: (Instant, u64),
    disk_bound: f64,
    /// The disk failed, and what others are told of that.
    disk_failed: Option<StopReason>,
}

impl Driver {
    fn new(job: Work) -> Self {
        let start = Instant::now();
        let swarm = Swarm::new(Time(0), job.swarm.clone());
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
            starved: (start, 0),
            disk_bound: 0.0,
            disk_failed: None,
            job,
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let peers = std::mem::take(&mut self.job.peers);
        self.input(Input::Peers(peers));
        if self.swarm.have().is_complete() {
            self.completed();
        }
        let mut stats_due = tokio::time::interval(STATS);
        stats_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.swarm.next_timeout();
            let wait = due.since(self.now());
            tokio::select! {
                biased;
                () = self.job.cancel.cancelled() => return,
                event = events.recv() => match event {
                    Some(Event::Stop(reason, done)) => {
                        self.stop(reason, &mut events).await;
                        let _ = done.send(());
                        return;
                    }
                    Some(event) => self.event(event),
                    None => return,
                },
                () = tokio::time::sleep(wait) => self.input(Input::Timeout),
                _ = stats_due.tick() => {
                    self.publish();
                    self.checkpoint();
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
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
            Event::Message { conn, message } => self.input(Input::Message { conn, message }),
            Event::Block { conn, block, buffer } => {
                self.arrived = Some(buffer);
                self.sources.extend(self.names.get(&conn));
                self.input(Input::BlockArrived { conn, block });
                self.arrived = None;
            }
            Event::Progress { conn } => self.input(Input::BlockProgress { conn }),
            Event::Sent { conn, block } => self.input(Input::BlockSent { conn, block }),
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
                self.input(Input::Closed { conn });
            }
            Event::Hashed { piece, outcome } => self.input(Input::Hashed { piece, outcome }),
            Event::Committed { piece } => self.input(Input::Committed { piece }),
            Event::Found { pieces } => self.input(Input::Found { pieces }),
            Event::BlockHashes { piece, hashes } => self.input(Input::BlockHashes { piece, hashes }),
            Event::DiskFailed { error } => self.disk_failed(&error),
            Event::Announced(tracker, result) => self.announced(tracker, result),
            Event::Finished(result) => {
                self.publish();
                self.job.finished.send_replace(Some(result));
            }
            Event::Stop(..) => {}
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

    fn input(&mut self, input: Input) {
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
            let _ = events.send(Event::Finished(result)).await;
        });
    }

    fn disk_failed(&mut self, error: &std::io::Error) {
        if self.disk_failed.is_some() {
            return;
        }
        // A quota is a full disk to whom it stops.
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        self.disk_failed = Some(if full { StopReason::DiskFull } else { StopReason::Failed });
        let what = if full { "the disk is full" } else { "writing failed" };
        let failure = Failure::new(FailureKind::Local, format!("{what}: {error}"))
            .hint("what was verified is kept; run the same command again to go on");
        self.job.finished.send_replace(Some(Err(failure)));
    }

    fn unreadable(&mut self, conn: ConnId, block: Block, error: &ReadError) {
        tracing::warn!(%error, piece = block.piece, "a block can not be read");
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
        self.job.core.hello(self.job.swarm_id, self.swarm.is_spreading() || self.job.swarm.origin)
    }

    fn dial(&self, addr: SocketAddr) {
        let (events, hello) = (self.job.shared.events.clone(), self.hello());
        let cancel = self.job.cancel.clone();
        self.job.core.tasks.spawn(async move {
            let Some(result) = cancel.run_until_cancelled(connect(addr, &hello)).await else { return };
            let _ = events.send(Event::Dialled(addr, result.map(Box::new))).await;
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
            let _ = events.send(Event::Announced(tracker, result)).await;
        });
    }

    fn announcement(&self, event: AnnounceEvent, want: u16, reason: Option<StopReason>) -> Announce {
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

    // ---- numbers

    fn publish(&mut self) {
        let now = self.now();
        let (rate_down, rate_up) = self.swarm.rates(now);
        let starved = self.job.shared.pool.starved_us();
        let elapsed = self.starved.0.elapsed();
        if elapsed > Duration::from_secs(1) {
            let waited = Duration::from_micros(starved - self.starved.1);
            let readers = self.links.len().max(1) as f64;
            self.disk_bound = (waited.as_secs_f64() / elapsed.as_secs_f64() / readers).min(1.0);
            self.starved = (Instant::now(), starved);
        }
        let counters = self.swarm.counters().clone();
        let swarm = &self.swarm;
        let peers = swarm.peers();
        let mut stats = Stats {
            total: self.job.manifest.bytes(),
            done: swarm.done_bytes(),
            resumed: self.resumed,
            downloaded: counters.downloaded,
            from_seeds: counters.from_seeds,
            uploaded: counters.uploaded,
            repeated: counters.repeated,
            wasted: counters.waste.total(),
            bad_pieces: counters.bad_pieces,
            rate_down,
            rate_up,
            incoming: self.incoming,
            sources: self.sources.len() as u32,
            finished_peers: counters.finished_peers,
            disk_bound: self.disk_bound,
            trackers: self.trackers.clone(),
            pieces_missing: swarm.have().len() - swarm.have().count(),
            ..Stats::default()
        };
        for peer in peers.filter(|p| p.told) {
            stats.peers += 1;
            let share = f64::from(peer.have.count()) / f64::from(peer.have.len().max(1));
            stats.best = Some(stats.best.map_or(share, |s| s.max(share)));
            if peer.is_seed() {
                stats.seeds += 1;
            } else {
                stats.leechers += 1;
                stats.slowest = Some(stats.slowest.map_or(share, |s| s.min(share)));
            }
        }
        if swarm.have().is_complete() {
            stats.copies = swarm.copies();
        } else {
            stats.pieces_nobody_has = swarm.pieces_nobody_has();
        }
        self.job.stats.send_replace(stats);
        if let Some(content) = self.job.core.content_of(&self.job.swarm_id) {
            content.relays.set(self.swarm.peers().filter(|p| p.told).filter_map(|p| p.dialable));
        }
    }

    fn checkpoint(&mut self) {
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
                let _ = events.blocking_send(Event::DiskFailed { error });
            }
        });
    }

    // ---- the end

    async fn stop(mut self, reason: StopReason, events: &mut mpsc::Receiver<Event>) {
        let reason = self.disk_failed.unwrap_or(reason);
        let announce = self.announcement(AnnounceEvent::Stopped, 0, Some(reason));
        let mut farewells = Vec::new();
        for (at, state) in self.job.trackers.iter().zip(&self.trackers) {
            if matches!(state.state, Some(Ok(_))) {
                let (core, at, announce) = (Arc::clone(&self.job.core), at.clone(), announce.clone());
                farewells.push(self.job.core.tasks.spawn(async move {
                    let _ = tokio::time::timeout(FAREWELL, announce::announce(&core, &at, &announce)).await;
                }));
            }
        }
        let mut open: BTreeSet<ConnId> = self.links.keys().copied().collect();
        for (_, link) in std::mem::take(&mut self.links) {
            link.end(Message::Goodbye { reason: GoodbyeReason::Leaving, text: String::new() });
        }
        if let Some(place) = self.job.place.clone() {
            let peers = self.swarm.worth_keeping();
            let mut save = tokio::task::spawn_blocking(move || {
                place.download.remember_peers(&peers);
                place.download.save();
            });
            // Events go on being taken meanwhile: the threads that hash serve other contents, too, and must not wait here.
            loop {
                tokio::select! {
                    _ = &mut save => break,
                    Some(event) = events.recv() => {
                        if let Event::Closed { conn } = event {
                            open.remove(&conn);
                        }
                    }
                }
            }
        }
        // Each connection says when it is closed; none takes longer than its own two seconds.
        let closing = async {
            while !open.is_empty() {
                match events.recv().await {
                    Some(Event::Closed { conn }) => {
                        open.remove(&conn);
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, closing).await;
        for farewell in farewells {
            let _ = farewell.await;
        }
        self.publish();
        self.job.cancel.cancel();
    }
}

/// Dials and exchanges hellos.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect(addr: SocketAddr, hello: &Hello) -> Result<Opened, HandshakeError> {
    let stream = tokio::time::timeout(DIAL, socket::connect(addr)).await.map_err(|_| HandshakeError::Timeout)??;
    handshake::dial(stream, hello).await
}
