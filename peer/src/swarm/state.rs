//! The swarm's state, and the routing of what happens to the mechanism that it concerns.

use super::addresses::{AddressBook, Source};
use super::announcer::Announcer;
use super::blame::{Blame, Suspect};
use super::cvs::CvBook;
use super::fetching::{BUSY_FOR, HOLD};
use super::finished::Finished;
use super::intake::Intake;
use super::pex::Pex;
use super::picker::Picker;
use super::pieces::Pieces;
use super::proofs::NO_CVS_FOR;
use super::rate::Meter;
use super::session::Session;
use super::sessions::Sessions;
use super::spare::Spare;
use super::spread::Spread;
use super::upload::Turns;
use super::waste::Waste;
use super::zones::Zones;
use super::{Config, ConnId, Input, Output, Time};
use core::net::SocketAddr;
use shoal_protocol::address::{Trust, reach};
use shoal_protocol::limits::CV_BATCH;
use shoal_protocol::message::{GoodbyeReason, RejectReason};
use shoal_protocol::prng::Prng;
use shoal_protocol::{Bitfield, Geometry, Message, PeerId, WireError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How often addresses, pipelines and turns are looked at while anybody is connected.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// The same with nobody connected.
const TICK_ALONE: Duration = Duration::from_millis(500);
/// How often connections are looked at for what is late. The shortest patience is a second.
const SWEEP: Duration = Duration::from_millis(200);
/// How often peers get lists of peers, and word of pieces that they have themselves.
const TELL_PEERS: Duration = Duration::from_millis(500);
/// So many neighbours are looked at with each tick, on average.
const NEIGHBOURS_A_TICK: usize = 16;
/// So many addresses are kept for the next run.
const KEPT_MAX: usize = 200;
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(120);
/// How often all CVs are given on one connection, and how many batches beside: they leave outside all turns.
const CVS_AGAIN: u32 = 2;
const CVS_MORE: u32 = 16;
/// Segments of the manifest for who said what it has, and so has the manifest.
const SEGMENTS_MAX: u32 = 64;
/// When a peer hasn't answered a CV request after this long, others are asked.
const CV_PATIENCE: Duration = Duration::from_secs(5);

/// Numbers for people and for tests.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Payload bytes received, useful or not.
    pub downloaded: u64,
    /// Payload bytes received from peers that were complete.
    pub from_seeds: u64,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Part of `uploaded` that an origin had sent before, while some piece wasn't out yet.
    pub repeated: u64,
    /// Payload bytes received for nothing.
    pub waste: Waste,
    /// Pieces that failed verification.
    pub bad_pieces: u64,
    /// Blocks of named requests and assigned pieces that were sent.
    pub blocks_sent: u64,
}

/// What stays of the [`Config`].
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) peer: PeerId,
    pub(super) upload: bool,
    pub(super) max_peers: usize,
    pub(super) zone: String,
    pub(super) allow_private: bool,
}

/// One swarm, seen from one peer. See the [module](super) for the contract.
#[derive(Debug)]
pub struct Swarm {
    pub(super) geometry: Arc<Geometry>,
    pub(super) rng: Prng,
    pub(super) sessions: Sessions,
    pub(super) have: Bitfield,
    pub(super) picker: Picker,
    pub(super) pieces: Pieces,
    /// The piece that each peer is on.
    pub(super) on_piece: BTreeMap<ConnId, u32>,
    pub(super) out: VecDeque<Output>,
    pub(super) config: Settings,
    pub(super) spread: Option<Spread>,
    pub(super) spare: Spare,
    pub(super) intake: Intake,
    pub(super) cvs: CvBook,
    pub(super) book: AddressBook,
    pub(super) announcer: Announcer,
    pub(super) pex: Pex,
    pub(super) zones: Zones,
    pub(super) blame: Blame,
    /// Who sent blocks of pieces under way and is no longer connected.
    pub(super) departed: BTreeMap<ConnId, Suspect>,
    pub(super) turns: Turns,
    pub(super) finished: Finished,
    pub(super) fresh_haves: BTreeSet<u32>,
    pub(super) haves_due: Time,
    pub(super) tick_due: Time,
    sweep_due: Time,
    refill_due: Time,
    peers_due: Time,
    pub(super) total_down: Meter,
    pub(super) total_up: Meter,
    pub(super) counters: Counters,
    pub(super) done_bytes: u64,
    pub(super) told_complete: bool,
}

impl Swarm {
    /// A swarm with nobody connected.
    #[must_use]
    pub fn new(now: Time, config: Config) -> Self {
        // All of it is taken over and nothing copied: of a large content there are 128 MiB of CVs.
        let Config { geometry, roots, have, cvs, origin, trackers, seed, .. } = config;
        let Config { peer, upload, max_peers, zone, allow_private, .. } = config;
        let mut rng = Prng::new(seed);
        let picker = Picker::new(&have, &mut rng);
        let spread = origin.then(|| Spread::new(geometry.pieces(), rng.below(geometry.pieces() as usize) as u32));
        let done_bytes = have.ones().map(|p| u64::from(geometry.piece_length(p))).sum();
        let complete = have.is_complete();
        Self {
            picker,
            spread,
            spare: Spare::new(now, trackers > 0),
            intake: Intake::default(),
            cvs: CvBook::new(Arc::clone(&geometry), roots, cvs),
            announcer: Announcer::new(now, trackers, complete),
            sessions: Sessions::default(),
            have,
            pieces: Pieces::default(),
            on_piece: BTreeMap::new(),
            out: VecDeque::new(),
            book: AddressBook::default(),
            pex: Pex::default(),
            zones: Zones::new(now, geometry.pieces()),
            blame: Blame::default(),
            departed: BTreeMap::new(),
            turns: Turns::new(geometry.piece_size()),
            finished: Finished::default(),
            fresh_haves: BTreeSet::new(),
            haves_due: Time::NEVER,
            tick_due: now,
            sweep_due: now,
            refill_due: now,
            peers_due: now,
            total_down: Meter::new(now),
            total_up: Meter::new(now),
            counters: Counters::default(),
            done_bytes,
            told_complete: complete,
            rng,
            geometry,
            config: Settings { peer, upload, max_peers, zone, allow_private },
        }
    }

    /// Something happened. Drain [`Swarm::poll`] afterwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected(connected) => self.connected(now, connected),
            Input::DialFailed { addr, forget } => self.book.failed(now, addr, forget, &mut self.rng),
            Input::NotDialled { addr, lack } => self.book.not_dialled(now, addr, lack, &mut self.rng),
            Input::DialRefused { addr } => self.book.refused(now, addr, false, &mut self.rng),
            Input::Closed { conn } => self.closed(now, conn),
            Input::Message { conn, message } => {
                if let Some(session) = self.sessions.get_mut(&conn)
                    && !session.closing
                {
                    session.heard = now;
                    if session.pipeline.snubbed {
                        session.pipeline.spoke(now);
                    }
                    if let Err(error) = self.message(now, conn, message) {
                        self.misbehaved(conn, &error);
                    }
                }
            }
            Input::BlockArrived { conn, block, was_there } => {
                self.intake.note(now, was_there);
                self.block_arrived(now, conn, block);
            }
            Input::BlockProgress { conn } => {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.heard = now;
                    session.pipeline.progress(now);
                }
            }
            Input::Hashed { piece, outcome } => self.hashed(now, piece, outcome),
            Input::Committed { piece } => self.committed(now, piece),
            Input::Found { pieces } => self.found(now, &pieces),
            Input::BlockHashes { piece, hashes } => self.block_hashes(now, piece, hashes),
            Input::BlockSent { conn, block } => self.block_sent(now, conn, block),
            Input::BlockFailed { conn, block } => self.block_failed(now, conn, block),
            Input::Lost { pieces } => self.lost(now, pieces),
            Input::Announced { tracker, reached, handout } => self.announced(now, tracker, reached, &handout),
            Input::AnnounceFailed { tracker, retry_after_s } => {
                self.announcer.failed(now, tracker, retry_after_s, &mut self.rng);
            }
            Input::Peers { named, kept } => {
                named.into_iter().for_each(|addr| self.book.trust(now, addr, Source::Named));
                kept.into_iter().for_each(|addr| self.book.trust(now, addr, Source::Kept));
                self.dial(now);
            }
            Input::Timeout => {}
        }
        self.timeouts(now);
    }

    /// What is to be done next; drain this after each input.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Timeout`] is due at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Time {
        self.haves_due.min(self.tick_due)
    }

    // ---- what others may know

    /// What is verified and on disk.
    #[must_use]
    pub fn have(&self) -> &Bitfield {
        &self.have
    }

    /// Payload bytes that are verified.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// Totals.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Receiving and sending rates, bytes per second.
    pub fn rates(&mut self, now: Time) -> (u64, u64) {
        (self.total_down.rate(now) as u64, self.total_up.rate(now) as u64)
    }

    /// The connected peers.
    pub fn peers(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values().filter(|s| !s.closing)
    }

    /// Pieces that we lack and no connected peer has.
    #[must_use]
    pub fn pieces_nobody_has(&self) -> u32 {
        self.have.zeros().filter(|p| self.picker.availability(*p) == 0).count() as u32
    }

    /// Peers that became complete since we are here.
    #[must_use]
    pub fn finished_peers(&self) -> u32 {
        self.finished.count()
    }

    /// Whole copies that others hold: those who finished, and the rarest piece among the leechers, each of them once on
    /// however many connections it is.
    #[must_use]
    pub fn copies(&self) -> f64 {
        let pieces = self.have.len();
        let finished = f64::from(self.finished_peers());
        if pieces == 0 || self.peers().all(Session::is_seed) {
            return finished;
        }
        let mut names = BTreeSet::new();
        let again: Vec<&Session> =
            self.peers().filter(|s| s.told && !s.is_seed() && !names.insert(s.hello.peer)).collect();
        let holders = |piece| {
            let twice = again.iter().filter(|s| s.have.has(piece)).count() as u32;
            self.picker.leechers_with(piece).saturating_sub(twice)
        };
        let least = (0..pieces).map(holders).min().unwrap_or(0);
        let above = (0..pieces).filter(|p| holders(*p) > least).count();
        finished + f64::from(least) + above as f64 / f64::from(pieces)
    }

    /// Addresses worth keeping for the next run.
    pub fn worth_keeping(&self) -> Vec<SocketAddr> {
        self.book.worth_keeping(KEPT_MAX)
    }

    /// Whether the origin still has pieces that are not out.
    #[must_use]
    pub fn is_spreading(&self) -> bool {
        self.spread.as_ref().is_some_and(|s| !s.is_done())
    }

    /// What the hello's `spreads` must say: true for an origin even when everything is out, so that newcomers who have
    /// other sources know whom to spare.
    #[must_use]
    pub fn is_origin(&self) -> bool {
        self.spread.is_some()
    }

    pub(super) fn our_name(&self) -> PeerId {
        self.config.peer
    }

    pub(super) fn config_pieces(&self) -> u32 {
        self.geometry.pieces()
    }

    // ---- messages

    fn message(&mut self, now: Time, conn: ConnId, message: Message) -> Result<(), WireError> {
        let session = self.sessions.get_mut(&conn).ok_or(WireError::Unexpected("no session"))?;
        match message {
            Message::Hello(_) => return Err(WireError::Unexpected("a second hello")),
            Message::KeepAlive => {}
            Message::Ping { token } => self.send(now, conn, Message::Pong { token }),
            Message::Pong { token } => session.pipeline.delay.pong(now, token),
            Message::HaveAll | Message::HaveNone | Message::Bitfield { .. } => {
                self.told_bitfield(now, conn, &message)?;
            }
            Message::Have(list) => {
                session.check_ranges(&list)?;
                self.told_have(now, conn, &list);
            }
            Message::Unhave(list) => {
                session.check_ranges(&list)?;
                self.told_unhave(now, conn, &list)?;
            }
            Message::Request(block) => self.asked_block(now, conn, block)?,
            Message::RequestAny => self.asked_any(now, conn)?,
            Message::Assign { piece } => self.assigned(now, conn, piece)?,
            Message::Block(_) => return Err(WireError::Unexpected("a block outside the data path")),
            Message::Cancel(block) => {
                let all = block.length == 0;
                let taken = session.turn.queue.take(|b| if all { b.piece == block.piece } else { *b == block });
                let answers = if all { 0 } else { taken.len() };
                self.turns.note(conn, session);
                for _ in 0..answers {
                    self.send(now, conn, Message::Reject { block, reason: RejectReason::Cancelled });
                }
            }
            Message::Reject { block, reason } => self.rejected(now, conn, block, reason)?,
            Message::Busy { block, peers } => {
                let trust = Trust { source: reach(session.remote.ip()), allow_private: self.config.allow_private };
                session.busy_until = now + BUSY_FOR;
                session.hold_until = now + HOLD;
                // What answers nothing is no news either: addresses come by request or by PEX.
                if let Some(asked) = session.pipeline.take(block) {
                    self.recall_is_over(&asked);
                    self.give_back(conn, block);
                    for addr in peers {
                        self.book.hear(now, addr, false, trust);
                    }
                    self.refill_all(now);
                }
            }
            Message::CvRequest { first, count } => {
                if first.checked_add(count).is_none_or(|end| end > self.geometry.pieces()) {
                    return Err(WireError::OutOfRange("CV request"));
                }
                let hashes = self.cvs.answer(first, count);
                if !hashes.is_empty() {
                    session.proofs.cvs_given = session.proofs.cvs_given.saturating_add(count);
                }
                if session.proofs.cvs_given > CVS_AGAIN * self.geometry.pieces() + CVS_MORE * CV_BATCH {
                    return Err(WireError::Unexpected("the same CVs again and again"));
                }
                self.send(now, conn, Message::Cvs { first, count, hashes });
            }
            Message::Cvs { first, count, hashes } => self.told_cvs(now, conn, first, count, &hashes)?,
            Message::ManifestRequest { segment } => {
                session.proofs.segments_given += 1;
                if session.proofs.segments_given > SEGMENTS_MAX {
                    return Err(WireError::Unexpected("a manifest that it has, again and again"));
                }
                self.out.push_back(Output::SendManifest { conn, segment });
            }
            Message::ManifestSegment { .. } => return Err(WireError::Unexpected("a manifest segment")),
            Message::Pex { added, dropped: _ } => {
                let trust = Trust { source: reach(session.remote.ip()), allow_private: self.config.allow_private };
                for peer in added {
                    self.book.hear(now, peer.addr, peer.seed, trust);
                }
                self.dial(now);
            }
            Message::Goodbye { reason, .. } => {
                session.unwelcome = matches!(
                    reason,
                    GoodbyeReason::TooManyPeers
                        | GoodbyeReason::Barred
                        | GoodbyeReason::BadPiece
                        | GoodbyeReason::Protocol
                        | GoodbyeReason::UnknownSwarm
                        | GoodbyeReason::Trouble
                );
                self.close(conn, GoodbyeReason::NothingToDo);
            }
        }
        Ok(())
    }

    // ---- time

    fn timeouts(&mut self, now: Time) {
        if self.haves_due <= now {
            self.tell_haves(now);
        }
        if self.tick_due <= now {
            self.tick_due = now + if self.sessions.is_empty() { TICK_ALONE } else { TICK };
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Time) {
        for (tracker, event) in self.announcer.due(now) {
            // A few always: those who are here may be strangers who came to keep others out.
            let want = self.config.max_peers.saturating_sub(self.sessions.len()).clamp(8, 50) as u16;
            self.out.push_back(Output::Announce { tracker, event, want });
        }
        self.dial(now);
        // With many neighbours each is looked at less often: what is urgent doesn't wait for the clock.
        let pace = TICK * (self.sessions.len() / NEIGHBOURS_A_TICK).clamp(1, 5) as u32;
        if self.sweep_due <= now {
            self.sweep_due = now + SWEEP.max(pace);
            self.sweep(now);
        }
        self.fetch_cvs(now);
        if self.zones.is_mixed() {
            self.sort_turns();
            self.tell_owed_haves(now, true);
        }
        self.look_at_zones(now);
        if self.refill_due <= now || self.picker.startable() == 0 {
            self.refill_due = now + pace;
            self.refill_all(now);
        }
        self.serve(now);
    }

    /// Looks for connections on which something took too long, or is due.
    fn sweep(&mut self, now: Time) {
        let peers_due = self.peers_due <= now;
        if peers_due {
            self.peers_due = now + TELL_PEERS;
            self.tell_owed_haves(now, false);
            self.part_from_silent_twins(now);
            self.turns.fade(now);
        }
        let late = |s: &Session| {
            now.since(s.heard) > IDLE
                || now.since(s.spoke) > KEEP_ALIVE
                || s.proofs.asked.is_some_and(|(_, at)| now.since(at) > CV_PATIENCE)
                || s.pipeline.asks > 0
                || s.pipeline.is_deaf(now)
                || s.pipeline.is_overdue(now)
        };
        let due = self.sessions.iter().filter(|(_, s)| !s.closing && (peers_due || late(s)));
        let due: Vec<ConnId> = due.map(|(conn, _)| *conn).collect();
        for conn in due {
            self.sweep_session(now, conn);
            if peers_due {
                self.tell_peers(now, conn);
            }
        }
    }

    fn sweep_session(&mut self, now: Time, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.closing {
            return;
        }
        if now.since(session.heard) > IDLE {
            self.close(conn, GoodbyeReason::Idle);
            return;
        }
        if session.proofs.asked.is_some_and(|(_, at)| now.since(at) > CV_PATIENCE) {
            session.proofs.late = session.proofs.asked.take().map(|(batch, _)| batch);
            session.proofs.not_before = now + NO_CVS_FOR;
        }
        if session.pipeline.give_up_asks(now) {
            session.assigns = false;
            self.count_zone(conn);
        }
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let overdue = session.pipeline.is_overdue(now) || session.pipeline.is_deaf(now);
        if now.since(session.spoke) > KEEP_ALIVE {
            self.send(now, conn, Message::KeepAlive);
        }
        if overdue {
            self.snub(now, conn);
        }
    }
}
