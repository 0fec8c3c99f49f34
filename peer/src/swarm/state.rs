//! The swarm's state, and the routing of what happens to the mechanism that it concerns.

use super::addresses::AddressBook;
use super::announcer::Announcer;
use super::blame::{Blame, Suspect, Suspects};
use super::cvs::CvBook;
use super::pex::Pex;
use super::picker::Picker;
use super::pieces::{BlockState, Pieces, Stage, blocks_in};
use super::prng::Prng;
use super::rate::Meter;
use super::session::Session;
use super::spare::Spare;
use super::spread::Spread;
use super::{Config, ConnId, Input, Outcome, Output, Time, TrackerId, upload};
use shoal_protocol::address::{Trust, reach};
use shoal_protocol::announce::Handout;
use shoal_protocol::limits::{BITFIELD_BITS, BLOCK_BYTES, HAVE_RANGES, PEX_PEERS};
use shoal_protocol::message::{Block, GoodbyeReason, Hello, RejectReason};
use shoal_protocol::{Bitfield, Geometry, Message, WireError, ranges};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Verified pieces are told to others together, this long after the first of them.
const HAVE_DELAY: Duration = Duration::from_millis(15);
/// How often stalls, idleness, addresses and turns are looked at while anybody is connected.
const TICK: Duration = Duration::from_millis(100);
/// The same with nobody connected.
const TICK_ALONE: Duration = Duration::from_millis(500);
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(120);
/// A peer that hasn't answered a CV request after this long is asked no more; others are.
const CV_PATIENCE: Duration = Duration::from_secs(5);
/// A peer that told us to ask others is left in peace for this long.
const BUSY_FOR: Duration = Duration::from_secs(2);
/// Dial so many peers ourselves; more may dial us, up to the limit. Well above ln N for any swarm.
const DEGREE: usize = 24;
/// With more than this many seconds of work in its queues an origin sends askers to others.
const BUSY_QUEUE_S: f64 = 2.0;
/// After a connection ended, how long until the same address is dialled again.
const REDIAL: Duration = Duration::from_secs(2);

/// Numbers for people and for tests.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Payload bytes received, useful or not.
    pub downloaded: u64,
    /// Payload bytes received from peers that were complete.
    pub from_seeds: u64,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Payload bytes received for nothing.
    pub wasted: u64,
    /// Pieces that failed verification.
    pub bad_pieces: u64,
    /// Peers seen to become complete.
    pub finished_peers: u32,
    /// Blocks of named requests and assigned pieces that were sent.
    pub blocks_sent: u64,
}

/// One swarm, seen from one peer. See the [module](super) for the contract.
#[derive(Debug)]
pub struct Swarm {
    pub(super) geometry: Arc<Geometry>,
    pub(super) rng: Prng,
    pub(super) sessions: BTreeMap<ConnId, Session>,
    pub(super) have: Bitfield,
    pub(super) picker: Picker,
    pub(super) pieces: Pieces,
    /// The piece that each peer is on.
    pub(super) on_piece: BTreeMap<ConnId, u32>,
    pub(super) out: VecDeque<Output>,
    config: Config,
    spread: Option<Spread>,
    spare: Spare,
    cvs: CvBook,
    book: AddressBook,
    announcer: Announcer,
    pex: Pex,
    blame: Blame,
    fresh_haves: BTreeSet<u32>,
    haves_due: Time,
    tick_due: Time,
    total_down: Meter,
    total_up: Meter,
    counters: Counters,
    done_bytes: u64,
    told_complete: bool,
}

impl Swarm {
    /// A swarm with nobody connected.
    #[must_use]
    pub fn new(now: Time, config: Config) -> Self {
        let mut rng = Prng::new(config.seed);
        let geometry = Arc::clone(&config.geometry);
        let picker = Picker::new(&config.have, &mut rng);
        let spread =
            config.origin.then(|| Spread::new(geometry.pieces(), rng.below(geometry.pieces() as usize) as u32));
        let done_bytes = config.have.ones().map(|p| u64::from(geometry.piece_length(p))).sum();
        let complete = config.have.is_complete();
        Self {
            picker,
            spread,
            spare: Spare::default(),
            cvs: CvBook::new(Arc::clone(&geometry), config.roots.clone(), config.cvs.clone()),
            announcer: Announcer::new(now, config.trackers, complete),
            sessions: BTreeMap::new(),
            have: config.have.clone(),
            pieces: Pieces::default(),
            on_piece: BTreeMap::new(),
            out: VecDeque::new(),
            book: AddressBook::default(),
            pex: Pex::default(),
            blame: Blame::default(),
            fresh_haves: BTreeSet::new(),
            haves_due: Time::NEVER,
            tick_due: now,
            total_down: Meter::new(now),
            total_up: Meter::new(now),
            counters: Counters::default(),
            done_bytes,
            told_complete: complete,
            rng,
            geometry,
            config,
        }
    }

    /// Something happened. Drain [`Swarm::poll`] afterwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Connected { conn, remote, dialled, hello, rtt_us } => {
                self.connected(now, conn, remote, dialled, hello, rtt_us);
            }
            Input::DialFailed { addr, forget } => self.book.failed(now, addr, forget, &mut self.rng),
            Input::Closed { conn } => self.closed(now, conn),
            Input::Message { conn, message } => {
                if let Some(session) = self.sessions.get_mut(&conn)
                    && !session.closing
                {
                    session.heard = now;
                    session.pipeline.spoke(now);
                    if let Err(error) = self.message(now, conn, message) {
                        self.misbehaved(conn, &error);
                    }
                }
            }
            Input::BlockArrived { conn, block } => self.block_arrived(now, conn, block),
            Input::BlockProgress { conn } => {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.heard = now;
                    session.pipeline.progress(now);
                }
            }
            Input::Hashed { piece, outcome } => self.hashed(now, piece, outcome),
            Input::Committed { piece } => self.committed(now, piece),
            Input::BlockHashes { piece, hashes } => self.block_hashes(now, piece, hashes),
            Input::BlockSent { conn, block } => self.block_sent(now, conn, block),
            Input::BlockFailed { conn, block } => self.block_failed(now, conn, block),
            Input::Lost { pieces } => self.lost(now, pieces),
            Input::Announced { tracker, reached, handout } => self.announced(now, tracker, reached, &handout),
            Input::AnnounceFailed { tracker, retry_after_s } => {
                self.announcer.failed(now, tracker, retry_after_s, &mut self.rng);
            }
            Input::Peers(addrs) => {
                for addr in addrs {
                    self.book.trust(now, addr);
                }
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

    /// Whole copies that others hold: those who finished, and the rarest piece among the leechers.
    #[must_use]
    pub fn copies(&self) -> f64 {
        let pieces = self.have.len();
        if pieces == 0 || self.peers().all(|s| s.is_seed()) {
            return self.counters.finished_peers.into();
        }
        let least = (0..pieces).map(|p| self.picker.leechers_with(p)).min().unwrap_or(0);
        let above = (0..pieces).filter(|p| self.picker.leechers_with(*p) > least).count();
        f64::from(self.counters.finished_peers) + f64::from(least) + above as f64 / f64::from(pieces)
    }

    /// Addresses worth keeping for the next run.
    pub fn worth_keeping(&self) -> Vec<SocketAddr> {
        self.book.worth_keeping().take(200).collect()
    }

    /// Whether the origin still has pieces that are not out.
    #[must_use]
    pub fn is_spreading(&self) -> bool {
        self.spread.as_ref().is_some_and(|s| !s.is_done())
    }

    /// Whether a peer with this name is connected already.
    #[must_use]
    pub fn is_connected(&self, peer: shoal_protocol::PeerId) -> bool {
        self.sessions.values().any(|s| s.hello.peer == peer && !s.closing)
    }

    pub(super) fn config_pieces(&self) -> u32 {
        self.geometry.pieces()
    }

    // ---- connections

    fn connected(
        &mut self,
        now: Time,
        conn: ConnId,
        remote: SocketAddr,
        dialled: Option<SocketAddr>,
        hello: Hello,
        rtt_us: u64,
    ) {
        let refuse = if hello.peer == self.config.peer {
            if let Some(addr) = dialled {
                self.book.failed(now, addr, true, &mut self.rng);
            }
            Some(GoodbyeReason::Duplicate)
        } else if self.blame.is_barred(now, hello.peer) {
            Some(GoodbyeReason::Barred)
        } else if self.sessions.len() >= self.config.max_peers && !self.make_room() {
            Some(GoodbyeReason::TooManyPeers)
        } else {
            self.resolve_duplicate(conn, &hello, dialled.is_some())
        };
        let mut session = Session::new(now, remote, dialled, hello, rtt_us, self.geometry.pieces());
        if let Some(addr) = session.dialable {
            self.book.connected(now, addr, conn);
        }
        if let Some(record) = self.blame.record(session.hello.peer) {
            session.probation = true;
            session.refused.extend(&record.bad);
        }
        self.sessions.insert(conn, session);
        if let Some(reason) = refuse {
            self.close(conn, reason);
            return;
        }
        self.send_bitfield(now, conn);
        if let Some(spread) = &mut self.spread {
            spread.joined(conn);
        }
        self.tick_due = self.tick_due.min(now + TICK);
    }

    /// Two connections between the same two peers: both sides keep the one that the smaller name dialled.
    fn resolve_duplicate(&mut self, conn: ConnId, hello: &Hello, we_dialled: bool) -> Option<GoodbyeReason> {
        let (other, other_incoming) = self
            .sessions
            .iter()
            .find(|(_, s)| s.hello.peer == hello.peer && !s.closing)
            .map(|(c, s)| (*c, s.incoming))?;
        let keep_ours = self.config.peer < hello.peer;
        // Both dialled by the same side: the newer one wins, as the older may be dead without our knowing.
        if other_incoming != we_dialled || we_dialled == keep_ours {
            self.close(other, GoodbyeReason::Duplicate);
            None
        } else {
            let _ = conn;
            Some(GoodbyeReason::Duplicate)
        }
    }

    /// Makes room for a newcomer by ending a connection that is of no use to either side.
    fn make_room(&mut self) -> bool {
        let complete = self.have.is_complete();
        let idle = self.sessions.iter().find(|(_, s)| complete && s.is_seed() && !s.closing).map(|(c, _)| *c);
        if let Some(conn) = idle {
            self.close(conn, GoodbyeReason::NothingToDo);
        }
        idle.is_some()
    }

    fn send_bitfield(&mut self, now: Time, conn: ConnId) {
        if self.have.is_complete() {
            self.send(now, conn, Message::HaveAll);
        } else if self.have.count() == 0 {
            self.send(now, conn, Message::HaveNone);
        } else {
            let bytes = self.have.to_bytes();
            let step = BITFIELD_BITS as usize / 8;
            for (n, part) in bytes.chunks(step).enumerate() {
                let first = n as u32 * BITFIELD_BITS;
                let count = (self.have.len() - first).min(BITFIELD_BITS);
                self.send(now, conn, Message::Bitfield { first, count, bits: part.to_vec().into() });
            }
        }
    }

    pub(super) fn send(&mut self, now: Time, conn: ConnId, message: Message) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.spoke = now;
            self.out.push_back(Output::Send { conn, message });
        }
    }

    fn close(&mut self, conn: ConnId, reason: GoodbyeReason) {
        if let Some(session) = self.sessions.get_mut(&conn)
            && !session.closing
        {
            session.closing = true;
            self.out.push_back(Output::Close { conn, reason });
        }
    }

    fn misbehaved(&mut self, conn: ConnId, error: &WireError) {
        debug_assert_ne!(error.blame(), shoal_protocol::Blame::Caller);
        self.close(conn, GoodbyeReason::Protocol);
    }

    fn closed(&mut self, now: Time, conn: ConnId) {
        let Some(mut session) = self.sessions.remove(&conn) else { return };
        for asked in std::mem::take(&mut session.pipeline.asked) {
            self.give_back(conn, asked.block);
        }
        self.release_piece(conn);
        if session.told {
            self.uncount(&session);
        }
        if let Some(mut spread) = self.spread.take() {
            let picker = &self.picker;
            spread.left(conn, |p| picker.leechers_with(p) > 0);
            self.spread = Some(spread);
        }
        self.pex.forget(conn);
        if let Some(addr) = session.dialable {
            let wait = REDIAL.mul_f64(self.rng.jitter(0.5));
            self.book.closed(now, addr, conn, wait);
        }
        self.refill_all(now);
        self.serve(now);
    }

    /// Takes a peer's pieces out of the counts.
    fn uncount(&mut self, session: &Session) {
        if session.have.is_complete() {
            self.picker.count_seed(false);
        } else {
            for piece in session.have.ones() {
                self.picker.decrement(piece);
            }
        }
    }

    /// A block that was asked of a peer won't come from it.
    fn give_back(&mut self, conn: ConnId, block: Block) {
        let Some(progress) = self.pieces.map.get_mut(&block.piece) else { return };
        let Some(index) = progress.index_of(block) else { return };
        if progress.unask(index, conn) && (progress.owner.is_none() || progress.owner == Some(conn)) {
            self.pieces.disown(block.piece);
            if self.on_piece.get(&conn) == Some(&block.piece) {
                self.on_piece.remove(&conn);
            }
        }
        self.drop_if_untouched(block.piece);
    }

    fn release_piece(&mut self, conn: ConnId) {
        self.on_piece.remove(&conn);
        let owned: Vec<u32> = self.pieces.map.iter().filter(|(_, p)| p.owner == Some(conn)).map(|(n, _)| *n).collect();
        for piece in owned {
            self.pieces.disown(piece);
            self.drop_if_untouched(piece);
        }
    }

    /// A started piece of which nothing is there or asked for goes back to the picker.
    fn drop_if_untouched(&mut self, piece: u32) {
        let untouched =
            self.pieces.map.get(&piece).is_some_and(|p| p.stage == Stage::Fetching && p.is_untouched() && !p.solo);
        if untouched {
            self.pieces.remove(piece);
            self.picker.insert(piece);
        }
    }

    // ---- messages

    fn message(&mut self, now: Time, conn: ConnId, message: Message) -> Result<(), WireError> {
        let session = self.sessions.get_mut(&conn).ok_or(WireError::Unexpected("no session"))?;
        match message {
            Message::Hello(_) => return Err(WireError::Unexpected("a second hello")),
            Message::KeepAlive => {}
            Message::HaveAll | Message::HaveNone | Message::Bitfield { .. } => {
                self.told_bitfield(now, conn, &message)?
            }
            Message::Have(list) => {
                session.check_ranges(&list)?;
                self.told_have(now, conn, &list);
            }
            Message::Unhave(list) => {
                session.check_ranges(&list)?;
                self.told_unhave(now, conn, &list);
            }
            Message::Request(block) => self.asked_block(now, conn, block)?,
            Message::RequestAny => self.asked_any(now, conn)?,
            Message::Assign { piece } => self.assigned(now, conn, piece)?,
            Message::Block(_) => return Err(WireError::Unexpected("a block outside the data path")),
            Message::Cancel(block) => {
                let all = block.length == 0;
                session.queue.retain(|b| if all { b.piece != block.piece } else { *b != block });
            }
            Message::Reject { block, reason } => self.rejected(now, conn, block, reason),
            Message::Busy { block, peers } => {
                let trust = Trust { source: reach(session.remote.ip()), allow_private: self.config.allow_private };
                session.busy_until = now + BUSY_FOR;
                if session.pipeline.take(block).is_some() {
                    self.give_back(conn, block);
                }
                for addr in peers {
                    self.book.hear(now, addr, false, trust);
                }
                self.refill_all(now);
            }
            Message::CvRequest { first, count } => {
                if first.checked_add(count).is_none_or(|end| end > self.geometry.pieces()) {
                    return Err(WireError::OutOfRange("CV request"));
                }
                let hashes = self.cvs.answer(first, count);
                self.send(now, conn, Message::Cvs { first, count, hashes });
            }
            Message::Cvs { first, count, hashes } => self.told_cvs(now, conn, first, count, &hashes)?,
            Message::ManifestRequest { segment } => self.out.push_back(Output::SendManifest { conn, segment }),
            Message::ManifestSegment { .. } => return Err(WireError::Unexpected("a manifest segment")),
            Message::Pex { added, dropped: _ } => {
                let trust = Trust { source: reach(session.remote.ip()), allow_private: self.config.allow_private };
                for peer in added {
                    self.book.hear(now, peer.addr, peer.seed, trust);
                }
                self.dial(now);
            }
            Message::Goodbye { reason, .. } => {
                if matches!(reason, GoodbyeReason::Leaving | GoodbyeReason::NothingToDo | GoodbyeReason::TooManyPeers) {
                    session.closing = false;
                }
                self.close(conn, GoodbyeReason::NothingToDo);
            }
        }
        Ok(())
    }

    fn told_bitfield(&mut self, now: Time, conn: ConnId, message: &Message) -> Result<(), WireError> {
        let pieces = self.geometry.pieces();
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if session.told {
            return Err(WireError::Unexpected("a second bitfield"));
        }
        match message {
            Message::HaveAll => session.have = Bitfield::all(pieces),
            Message::HaveNone => session.have = Bitfield::none(pieces),
            Message::Bitfield { first, count, bits } => {
                // Ranges come in order without gaps; `useful` counts the pieces told so far until all are.
                if *first != session.useful || first.checked_add(*count).is_none_or(|end| end > pieces) {
                    return Err(WireError::OutOfRange("bitfield range"));
                }
                for i in 0..*count {
                    if bits[(i / 8) as usize] >> (7 - i % 8) & 1 == 1 {
                        session.have.set(first + i, true);
                    }
                }
                session.useful += count;
                if session.useful < pieces {
                    return Ok(());
                }
            }
            _ => {}
        }
        session.told = true;
        session.useful = session.have.ones().filter(|p| !self.have.has(*p)).count() as u32;
        let (complete, has): (bool, Vec<u32>) = (session.have.is_complete(), session.have.ones().collect());
        let dialable = session.dialable;
        if complete {
            session.counted_finished = true;
            self.picker.count_seed(true);
            if let Some(addr) = dialable {
                self.book.note_seed(addr);
            }
        } else {
            has.iter().for_each(|p| self.picker.increment(*p));
        }
        if let Some(spread) = &mut self.spread {
            has.iter().for_each(|p| spread.has(conn, *p));
        }
        self.part_if_useless(conn);
        self.fetch_cvs(now);
        self.refill(now, conn);
        self.tell_peers(now, conn);
        Ok(())
    }

    /// Two seeds have nothing to give each other.
    fn part_if_useless(&mut self, conn: ConnId) {
        if self.have.is_complete() && self.sessions.get(&conn).is_some_and(Session::is_seed) {
            self.close(conn, GoodbyeReason::NothingToDo);
        }
    }

    fn told_have(&mut self, now: Time, conn: ConnId, list: &[(u32, u32)]) {
        let mut became_seed = None;
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if !session.told || session.have.is_complete() {
            return;
        }
        for piece in list.iter().flat_map(|(first, count)| *first..first + count) {
            if !session.have.set(piece, true) {
                continue;
            }
            self.picker.increment(piece);
            if !self.have.has(piece) {
                session.useful += 1;
            }
            if let Some(spread) = &mut self.spread {
                spread.has(conn, piece);
            }
        }
        if session.have.is_complete() {
            if !session.counted_finished {
                session.counted_finished = true;
                self.counters.finished_peers += 1;
            }
            became_seed = Some(session.dialable);
        }
        if let Some(dialable) = became_seed {
            for piece in 0..self.geometry.pieces() {
                self.picker.decrement(piece);
            }
            self.picker.count_seed(true);
            if let Some(addr) = dialable {
                self.book.note_seed(addr);
            }
            self.part_if_useless(conn);
        }
        self.refill(now, conn);
    }

    fn told_unhave(&mut self, now: Time, conn: ConnId, list: &[(u32, u32)]) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if !session.told {
            return;
        }
        if session.have.is_complete() {
            // It counts as a leecher from now on.
            self.picker.count_seed(false);
            for piece in 0..self.geometry.pieces() {
                self.picker.increment(piece);
            }
        }
        let mut gone = Vec::new();
        for piece in list.iter().flat_map(|(first, count)| *first..first + count) {
            if session.have.set(piece, false) {
                self.picker.decrement(piece);
                if !self.have.has(piece) {
                    session.useful = session.useful.saturating_sub(1);
                }
                gone.push(piece);
            }
        }
        let owed: Vec<Block> =
            session.pipeline.asked.iter().map(|a| a.block).filter(|b| gone.contains(&b.piece)).collect();
        for block in owed {
            self.withdraw(now, conn, block, false);
        }
        self.refill_all(now);
    }

    /// A block that we asked for is no longer expected from this peer.
    fn withdraw(&mut self, now: Time, conn: ConnId, block: Block, tell: bool) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.pipeline.take(block).is_none() {
            return;
        }
        session.expect_cancelled(block);
        if tell {
            self.send(now, conn, Message::Cancel(block));
        }
        self.give_back(conn, block);
    }

    fn rejected(&mut self, now: Time, conn: ConnId, block: Block, reason: RejectReason) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if block.piece == u32::MAX {
            session.pipeline.asks = session.pipeline.asks.saturating_sub(1);
            session.assigns = false;
        } else {
            if reason == RejectReason::NoUpload {
                session.hello.no_upload = true;
            }
            if session.pipeline.take(block).is_some() {
                if matches!(reason, RejectReason::NotHad | RejectReason::Failed) {
                    session.refused.insert(block.piece);
                }
                if reason == RejectReason::QueueFull {
                    session.busy_until = now + BUSY_FOR;
                }
                self.give_back(conn, block);
            }
        }
        self.refill_all(now);
    }

    // ---- chaining values

    /// Asks for CV batches that nobody was asked for yet: one at a time of each peer that may have them.
    fn fetch_cvs(&mut self, now: Time) {
        if self.cvs.is_complete() {
            return;
        }
        let mut asked: BTreeSet<u32> = self.sessions.values().filter_map(|s| s.cv_asked.map(|(b, _)| b)).collect();
        let able = |s: &Session| s.told && !s.closing && !s.no_cvs && s.cv_asked.is_none() && s.have.count() > 0;
        let mut conns: Vec<(bool, ConnId)> =
            self.sessions.iter().filter(|(_, s)| able(s)).map(|(c, s)| (!s.is_seed(), *c)).collect();
        conns.sort_unstable();
        for (_, conn) in conns {
            let Some((first, count)) = self.cvs.next_missing(&asked) else { return };
            asked.insert(first);
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.cv_asked = Some((first, now));
            }
            self.send(now, conn, Message::CvRequest { first, count });
        }
    }

    fn told_cvs(
        &mut self,
        now: Time,
        conn: ConnId,
        first: u32,
        count: u32,
        hashes: &[shoal_protocol::Hash],
    ) -> Result<(), WireError> {
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        match session.cv_asked {
            Some((batch, _)) if batch == first => session.cv_asked = None,
            _ => return Err(WireError::Unexpected("CVs")),
        }
        if first.checked_add(count).is_none_or(|end| end > self.geometry.pieces()) {
            return Err(WireError::OutOfRange("CVs"));
        }
        if hashes.is_empty() && self.cvs.answer_len(first, count) > 0 {
            session.no_cvs = true;
            self.fetch_cvs(now);
            return Ok(());
        }
        let runs = self
            .cvs
            .learn(first, count, hashes)
            .map_err(|()| WireError::OutOfRange("CVs that do not fold to the root"))?;
        for (first, cvs) in runs {
            self.out.push_back(Output::KeepCvs { first, cvs });
        }
        let waiting: Vec<(u32, shoal_protocol::Hash)> = self
            .pieces
            .map
            .iter()
            .filter_map(|(n, p)| if let Stage::AwaitingCv(cv) = p.stage { Some((*n, cv)) } else { None })
            .collect();
        for (piece, cv) in waiting {
            self.hashed(now, piece, Outcome::Cv(cv));
        }
        self.fetch_cvs(now);
        Ok(())
    }

    // ---- fetching

    fn assigned(&mut self, now: Time, conn: ConnId, piece: u32) -> Result<(), WireError> {
        let length = self.geometry.piece_length(piece);
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if length == 0 || session.pipeline.asks == 0 {
            return Err(WireError::Unexpected("an assignment"));
        }
        session.pipeline.asks -= 1;
        if self.have.has(piece) || self.pieces.map.contains_key(&piece) || session.refused.contains(&piece) {
            let all = Block { piece, offset: 0, length: 0 };
            session.expect_cancelled(all);
            self.send(now, conn, Message::Cancel(all));
        } else {
            self.picker.remove(piece);
            let progress = self.pieces.own(piece, length, conn);
            for index in 0..blocks_in(length) {
                progress.blocks[index as usize] = BlockState::Asked(conn, None);
                session.pipeline.ask(now, progress.block(piece, index));
            }
        }
        self.refill(now, conn);
        Ok(())
    }

    fn block_arrived(&mut self, now: Time, conn: ConnId, block: Block) {
        self.counters.downloaded += u64::from(block.length);
        self.total_down.add(now, block.length.into());
        let Some(session) = self.sessions.get_mut(&conn) else {
            self.counters.wasted += u64::from(block.length);
            self.out.push_back(Output::Discard);
            return;
        };
        session.heard = now;
        let Some(asked) = session.pipeline.take(block) else {
            self.counters.wasted += u64::from(block.length);
            self.out.push_back(Output::Discard);
            session.pipeline.spoke(now);
            if let Err(error) = session.unexpected(block) {
                self.misbehaved(conn, &error);
            }
            return;
        };
        session.pipeline.arrived(now, block, asked.at);
        session.delivered += u64::from(block.length);
        if session.is_seed() {
            self.counters.from_seeds += u64::from(block.length);
        }
        self.store(now, conn, block);
        self.refill(now, conn);
    }

    fn store(&mut self, now: Time, conn: ConnId, block: Block) {
        let progress = self.pieces.map.get_mut(&block.piece);
        let Some((progress, index)) = progress.and_then(|p| p.index_of(block).map(|i| (p, i))) else {
            self.counters.wasted += u64::from(block.length);
            self.out.push_back(Output::Discard);
            return;
        };
        let loser = match progress.blocks[index as usize] {
            BlockState::Asked(a, Some(b)) if a == conn => Some(b),
            BlockState::Asked(a, Some(b)) if b == conn => Some(a),
            BlockState::Asked(a, None) if a != conn => Some(a),
            _ => None,
        };
        if progress.stage != Stage::Fetching || !progress.receive(index, conn) {
            self.counters.wasted += u64::from(block.length);
            self.out.push_back(Output::Discard);
            return;
        }
        let last = progress.is_whole();
        if last {
            progress.stage = Stage::Hashing;
            self.pieces.orphans.remove(&block.piece);
        }
        self.out.push_back(Output::Store { block, last });
        if let Some(loser) = loser {
            self.withdraw(now, loser, block, true);
            self.refill(now, loser);
        }
    }

    fn hashed(&mut self, now: Time, piece: u32, outcome: Outcome) {
        let Some(progress) = self.pieces.map.get_mut(&piece) else { return };
        let good = match outcome {
            Outcome::Pack(good) => good,
            Outcome::Cv(cv) => match self.cvs.of_piece(piece) {
                Some(expected) => cv == expected,
                None => {
                    progress.stage = Stage::AwaitingCv(cv);
                    self.fetch_cvs(now);
                    return;
                }
            },
        };
        if good {
            progress.stage = Stage::Committing;
            self.out.push_back(Output::Commit { piece });
            if self.blame.open.contains_key(&piece) {
                self.out.push_back(Output::HashBlocks { piece });
            }
        } else {
            self.bad_piece(now, piece);
        }
    }

    fn bad_piece(&mut self, now: Time, piece: u32) {
        self.counters.bad_pieces += 1;
        let Some(progress) = self.pieces.remove(piece) else { return };
        self.counters.wasted += u64::from(self.geometry.piece_length(piece));
        let senders = progress.senders();
        if let [only] = senders.as_slice() {
            if let Some(who) = self.suspect(*only) {
                self.convict(now, who, piece);
            }
            self.picker.insert(piece);
        } else {
            // Several had a hand in it: look at the blocks, then fetch it anew from one peer.
            let who = |s: &BlockState| match s {
                BlockState::Received(conn) => self.suspect(*conn),
                _ => None,
            };
            let suspects: Option<Vec<Suspect>> = progress.blocks.iter().map(who).collect();
            let length = self.geometry.piece_length(piece);
            let again = self.pieces.map.entry(piece).or_insert_with(|| super::pieces::Progress::new(length));
            again.solo = true;
            match suspects {
                Some(senders) if !self.blame.open.contains_key(&piece) => {
                    self.blame.open.insert(piece, Suspects { senders, hashes: Vec::new() });
                    // Nobody may write into it before the bad blocks are hashed.
                    again.stage = Stage::Hashing;
                    self.out.push_back(Output::HashBlocks { piece });
                }
                _ => {
                    self.pieces.orphans.insert(piece);
                }
            }
        }
        self.out.push_back(Output::Restart { piece });
        self.refill_all(now);
    }

    fn suspect(&self, conn: ConnId) -> Option<Suspect> {
        let session = self.sessions.get(&conn)?;
        Some(Suspect { peer: session.hello.peer, addr: session.dialable.unwrap_or(session.remote) })
    }

    fn convict(&mut self, now: Time, who: Suspect, piece: u32) {
        let conn = self.sessions.iter().find(|(_, s)| s.hello.peer == who.peer && !s.closing).map(|(c, _)| *c);
        // Counting only pieces that we lack: would we be stuck without it?
        let needed = conn.and_then(|c| self.sessions.get(&c)).is_some_and(|s| {
            s.have.ones().any(|p| !self.have.has(p) && p != piece && self.picker.availability(p) <= 1)
                || self.picker.availability(piece) <= 1
        });
        let barred = self.blame.bad_piece(now, who, piece, needed);
        self.out.push_back(Output::BadPiece { peer: who.addr, piece, barred });
        if let Some(conn) = conn {
            self.close(conn, GoodbyeReason::BadPiece);
        }
    }

    fn block_hashes(&mut self, now: Time, piece: u32, hashes: Vec<shoal_protocol::Hash>) {
        let is_good = self.have.has(piece) || self.pieces.map.get(&piece).is_some_and(|p| p.stage == Stage::Committing);
        if is_good {
            for who in self.blame.convict(piece, &hashes) {
                self.convict(now, who, piece);
            }
            return;
        }
        if let Some(case) = self.blame.open.get_mut(&piece) {
            case.hashes = hashes;
        }
        if let Some(progress) = self.pieces.map.get_mut(&piece) {
            progress.stage = Stage::Fetching;
            self.pieces.orphans.insert(piece);
        }
        self.refill_all(now);
    }

    fn committed(&mut self, now: Time, piece: u32) {
        if self.pieces.remove(piece).is_none() || !self.have.set(piece, true) {
            return;
        }
        self.done_bytes += u64::from(self.geometry.piece_length(piece));
        for session in self.sessions.values_mut().filter(|s| s.told && s.have.has(piece)) {
            session.useful = session.useful.saturating_sub(1);
        }
        if self.fresh_haves.is_empty() {
            self.haves_due = now + HAVE_DELAY;
        }
        self.fresh_haves.insert(piece);
        if self.have.is_complete() && !self.told_complete {
            self.told_complete = true;
            self.haves_due = now;
            self.out.push_back(Output::Complete);
            self.announcer.completed(now);
        }
    }

    fn lost(&mut self, now: Time, pieces: Vec<u32>) {
        let gone: BTreeSet<u32> = pieces.into_iter().filter(|p| self.have.set(*p, false)).collect();
        if gone.is_empty() {
            return;
        }
        for piece in &gone {
            self.fresh_haves.remove(piece);
            self.done_bytes -= u64::from(self.geometry.piece_length(*piece));
        }
        let list = ranges::from_ascending(gone.iter().copied());
        let conns: Vec<ConnId> = self.sessions.keys().copied().collect();
        for conn in conns {
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.queue.retain(|b| !gone.contains(&b.piece));
            }
            for part in list.chunks(HAVE_RANGES) {
                self.send(now, conn, Message::Unhave(part.to_vec()));
            }
        }
    }

    pub(super) fn refill_all(&mut self, now: Time) {
        let conns: Vec<ConnId> = self.sessions.keys().copied().collect();
        for conn in conns {
            self.refill(now, conn);
        }
    }

    pub(super) fn origin_is_spared(&mut self, now: Time) -> bool {
        let others =
            self.sessions.values().filter(|s| s.is_seed() && !s.hello.spreads && !s.pipeline.snubbed && !s.closing);
        let others = others.count();
        let rate = self.total_down.rate(now);
        self.spare.update(now, others, rate)
    }

    // ---- serving

    fn asked_block(&mut self, now: Time, conn: ConnId, block: Block) -> Result<(), WireError> {
        let length = self.geometry.piece_length(block.piece);
        if block.offset.checked_add(block.length).is_none_or(|end| end > length) {
            return Err(WireError::OutOfRange("request"));
        }
        let saturated = self.is_saturated(now);
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        let reject = |reason| Message::Reject { block, reason };
        let answer = if !self.config.upload {
            reject(RejectReason::NoUpload)
        } else if !self.have.has(block.piece) {
            reject(RejectReason::NotHad)
        } else if session.queue.len() >= usize::from(super::QUEUE_DEPTH) {
            return Err(WireError::Unexpected("more requests than the queue depth allows"));
        } else if saturated && self.picker.leechers_with(block.piece) >= 2 {
            let holders = self.sessions.iter().filter(|(c, s)| **c != conn && s.have.has(block.piece));
            let peers: Vec<SocketAddr> = holders.filter_map(|(_, s)| s.dialable).take(PEX_PEERS).collect();
            Message::Busy { block, peers }
        } else {
            session.queue.push_back(block);
            self.serve(now);
            return Ok(());
        };
        self.send(now, conn, answer);
        Ok(())
    }

    /// An origin with more than [`BUSY_QUEUE_S`] of work in its queues lets others serve what they have, too.
    fn is_saturated(&mut self, now: Time) -> bool {
        if self.spread.is_none() {
            return false;
        }
        let queued: u64 = self.sessions.values().flat_map(|s| s.queue.iter()).map(|b| u64::from(b.length)).sum();
        let rate = self.total_up.rate(now);
        rate > 0.0 && queued as f64 / rate > BUSY_QUEUE_S
    }

    fn asked_any(&mut self, now: Time, conn: ConnId) -> Result<(), WireError> {
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if session.wants_any >= u32::from(super::QUEUE_DEPTH) {
            return Err(WireError::Unexpected("more requests than the queue depth allows"));
        }
        session.wants_any += 1;
        self.serve(now);
        Ok(())
    }

    fn serve(&mut self, now: Time) {
        if !self.config.upload {
            self.reject_any(now);
            return;
        }
        if self.spread.as_ref().is_none_or(Spread::is_done) {
            self.reject_any(now);
        }
        let writing: Vec<ConnId> = self.sessions.iter().filter(|(_, s)| s.writing.0 > 0).map(|(c, _)| *c).collect();
        for conn in writing {
            self.fill_turn(now, conn);
        }
        while upload::open_turns(&self.sessions, now) < upload::TURNS {
            let Some(conn) = self.next_any_asker(now).or_else(|| upload::next_asker(&self.sessions)) else { return };
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.turn_piece = None;
                session.turn_moved = now;
            }
            self.fill_turn(now, conn);
            if self.sessions.get(&conn).is_none_or(|s| s.writing.0 == 0) {
                return;
            }
        }
    }

    /// Requests for any piece that can't be met get their answer.
    fn reject_any(&mut self, now: Time) {
        let asking: Vec<(ConnId, u32)> = self
            .sessions
            .iter_mut()
            .filter(|(_, s)| s.wants_any > 0)
            .map(|(c, s)| (*c, std::mem::take(&mut s.wants_any)))
            .collect();
        for (conn, count) in asking {
            for _ in 0..count {
                let block = Block { piece: u32::MAX, offset: 0, length: 0 };
                self.send(now, conn, Message::Reject { block, reason: RejectReason::NothingToAssign });
            }
        }
    }

    /// The peer to give the next unspread piece to: the one with the shortest relay backlog.
    fn next_any_asker(&self, _now: Time) -> Option<ConnId> {
        let spread = self.spread.as_ref()?;
        let asks = self
            .sessions
            .iter()
            .filter(|(_, s)| s.wants_any > 0 && s.writing.0 == 0 && s.queue.is_empty() && !s.closing);
        asks.min_by_key(|(c, s)| (spread.backlog(**c), s.have.count(), s.turn_moved)).map(|(c, _)| *c)
    }

    /// Gives a peer the next piece of our choice.
    fn give_any(&mut self, now: Time, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get_mut(&conn) else { return false };
        let Some(spread) = &mut self.spread else { return false };
        if session.wants_any == 0 {
            return false;
        }
        let have = &session.have;
        let Some(piece) = spread.give(conn, |p| !have.has(p)) else { return false };
        session.wants_any -= 1;
        let length = self.geometry.piece_length(piece);
        for index in 0..blocks_in(length) {
            let offset = index * BLOCK_BYTES;
            session.queue.push_back(Block { piece, offset, length: (length - offset).min(BLOCK_BYTES) });
        }
        self.send(now, conn, Message::Assign { piece });
        true
    }

    /// Hands blocks to a peer's writer while its turn lasts and there is room.
    fn fill_turn(&mut self, now: Time, conn: ConnId) {
        let others_wait = self.sessions.iter().any(|(c, s)| {
            *c != conn
                && s.writing.0 == 0
                && !s.closing
                && (!s.queue.is_empty() || (s.wants_any > 0 && self.is_spreading()))
        });
        loop {
            let Some(session) = self.sessions.get_mut(&conn) else { return };
            if session.closing || session.writing.1 >= upload::writer_room(session, now) {
                return;
            }
            let Some(block) = session.queue.front().copied() else {
                let may_go_on = session.writing.0 == 0 || !others_wait;
                if may_go_on && self.give_any(now, conn) {
                    continue;
                }
                return;
            };
            let same_turn = session.turn_piece.is_none_or(|p| p == block.piece);
            if !same_turn && others_wait && session.writing.0 > 0 {
                return;
            }
            session.turn_piece = Some(block.piece);
            session.queue.pop_front();
            session.writing.0 += 1;
            session.writing.1 += u64::from(block.length);
            self.out.push_back(Output::SendBlock { conn, block });
        }
    }

    fn block_sent(&mut self, now: Time, conn: ConnId, block: Block) {
        self.counters.uploaded += u64::from(block.length);
        self.counters.blocks_sent += 1;
        self.total_up.add(now, block.length.into());
        if let Some(spread) = &mut self.spread {
            spread.sent(block.piece);
        }
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.up.add(now, block.length.into());
            session.spoke = now;
        }
        self.writer_is_free(now, conn, block);
    }

    fn block_failed(&mut self, now: Time, conn: ConnId, block: Block) {
        self.send(now, conn, Message::Reject { block, reason: RejectReason::Failed });
        self.writer_is_free(now, conn, block);
    }

    fn writer_is_free(&mut self, now: Time, conn: ConnId, block: Block) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.writing.0 = session.writing.0.saturating_sub(1);
            session.writing.1 = session.writing.1.saturating_sub(block.length.into());
            session.turn_moved = now;
        }
        self.serve(now);
    }

    // ---- who is there

    fn announced(&mut self, now: Time, tracker: TrackerId, reached: IpAddr, handout: &Handout) {
        self.announcer.answered(now, tracker, handout.interval, &mut self.rng);
        let trust = Trust { source: reach(reached), allow_private: self.config.allow_private };
        for peer in &handout.peers {
            for addr in peer.resolve(reached) {
                self.book.hear(now, addr, peer.seed, trust);
            }
        }
        self.dial(now);
    }

    fn dial(&mut self, now: Time) {
        let degree = DEGREE.min(self.config.max_peers);
        let room = degree.saturating_sub(self.sessions.len() + self.book.dialing());
        for addr in self.book.dials(now, room, self.have.is_complete(), &mut self.rng) {
            if self.blame.addr_is_barred(now, addr) {
                self.book.failed(now, addr, false, &mut self.rng);
            } else {
                self.out.push_back(Output::Dial { addr });
            }
        }
    }

    fn tell_peers(&mut self, now: Time, conn: ConnId) {
        let Some(session) = self.sessions.get(&conn) else { return };
        let seed = session.is_seed();
        let current = self.book.tellable(now).filter(|(_, is_seed)| !(seed && *is_seed));
        if let Some((added, dropped)) = self.pex.update(now, conn, session.remote, session.dialable, current) {
            self.send(now, conn, Message::Pex { added, dropped });
        }
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

    fn tell_haves(&mut self, now: Time) {
        self.haves_due = Time::NEVER;
        let list = ranges::from_ascending(std::mem::take(&mut self.fresh_haves));
        let conns: Vec<ConnId> = self.sessions.keys().copied().collect();
        for conn in conns {
            for part in list.chunks(HAVE_RANGES) {
                self.send(now, conn, Message::Have(part.to_vec()));
            }
            self.part_if_useless(conn);
        }
    }

    fn tick(&mut self, now: Time) {
        for (tracker, event) in self.announcer.due(now) {
            let want = self.config.max_peers.saturating_sub(self.sessions.len()).min(50) as u16;
            self.out.push_back(Output::Announce { tracker, event, want });
        }
        self.dial(now);
        let conns: Vec<ConnId> = self.sessions.keys().copied().collect();
        for conn in conns {
            self.tick_session(now, conn);
        }
        self.fetch_cvs(now);
        self.refill_all(now);
        self.serve(now);
    }

    fn tick_session(&mut self, now: Time, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.closing {
            return;
        }
        if now.since(session.heard) > IDLE {
            self.close(conn, GoodbyeReason::Idle);
            return;
        }
        if session.cv_asked.is_some_and(|(_, at)| now.since(at) > CV_PATIENCE) {
            session.cv_asked = None;
            session.no_cvs = true;
        }
        let overdue = session.pipeline.is_overdue(now);
        if now.since(session.spoke) > KEEP_ALIVE {
            self.send(now, conn, Message::KeepAlive);
        }
        if overdue {
            self.snub(now, conn);
        }
        self.tell_peers(now, conn);
    }

    /// A peer owes blocks for too long: what it was asked for may be asked of others. It is not cancelled, as what it
    /// may still send is welcome until somebody else was faster.
    fn snub(&mut self, now: Time, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let owed: Vec<Block> = session.pipeline.asked.iter().map(|a| a.block).collect();
        for block in owed {
            self.withdraw(now, conn, block, true);
        }
        self.release_piece(conn);
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.pipeline.snub(now);
        }
        self.refill_all(now);
    }
}
