//! A world: hosts, links, a tracker and a list of faults, played event by event.

mod network;

use crate::faults::{Fault, When};
use crate::host::{Disk, Host, Vices};
use crate::link::{Downlink, Item, Lane, Slice, Uplink, transfer_time};
use crate::report::Report;
use shoal_peer::swarm::prng::Prng;
use shoal_peer::swarm::{Config, ConnId, Input, Output, Swarm, Time};
use shoal_protocol::announce::{Event as AnnounceEvent, Handout, HandoutPeer};
use shoal_protocol::message::GoodbyeReason;
use shoal_protocol::{Bitfield, Geometry, Hash, PeerId, tree};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Nothing in a small world takes longer: an hour.
const HORIZON: Time = Time(3_600_000_000);
/// A world that does more than this per block moved is in a loop.
const EVENTS_MAX: u64 = 60_000_000;

/// How long a world goes on after the last one completed.
const LINGER_US: u64 = 50_000;

#[derive(Debug)]
enum Event {
    Timer(usize),
    UplinkFree(usize),
    Arrive { lane: usize, slice: Slice },
    Deliver { lane: usize, slice: Slice },
    Input { host: usize, input: Box<Input> },
    Dialled { from: usize, addr: SocketAddr },
    Announced { host: usize, tracker: usize },
    Fault(usize),
    Leave(usize),
}

#[derive(Debug)]
struct Due {
    at: Time,
    seq: u64,
    event: Event,
}
impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

#[derive(Debug, Clone)]
struct Plan {
    origin: bool,
    complete: bool,
    up: f64,
    down: f64,
    joins: Option<Time>,
    leaves_after: Option<u64>,
}

/// A swarm on a model network. Built with its methods, then [`World::run`].
#[derive(Debug)]
pub struct World {
    seed: u64,
    rng: Prng,
    piece_size: u32,
    pieces: u32,
    latency_us: u64,
    control_delay_us: u64,
    hash_delay_us: u64,
    max_peers: usize,
    check: bool,
    horizon: Time,
    plans: Vec<Plan>,
    faults: Vec<(When, usize, Fault)>,
    // Running.
    now: Time,
    seq: u64,
    due: BinaryHeap<Reverse<Due>>,
    hosts: Vec<Host>,
    lanes: Vec<Lane>,
    next_conn: ConnId,
    by_addr: BTreeMap<SocketAddr, usize>,
    tracked: BTreeSet<usize>,
    tracker_dead: bool,
    geometry: Arc<Geometry>,
    cvs: Vec<Hash>,
    root: Hash,
    /// How many living hosts other than origins verified each piece.
    copies: Vec<u32>,
    struck: Vec<bool>,
    /// What waits for a stalled host.
    frozen: Vec<(usize, Event)>,
    report: Report,
}

impl World {
    /// An empty world: 64 pieces of 64 KiB, 1 ms latency.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: Prng::new(seed),
            piece_size: 64 << 10,
            pieces: 64,
            latency_us: 1_000,
            control_delay_us: 0,
            hash_delay_us: 200,
            max_peers: 64,
            check: false,
            horizon: HORIZON,
            plans: Vec::new(),
            faults: Vec::new(),
            now: Time(0),
            seq: 0,
            due: BinaryHeap::new(),
            hosts: Vec::new(),
            lanes: Vec::new(),
            next_conn: 1,
            by_addr: BTreeMap::new(),
            tracked: BTreeSet::new(),
            tracker_dead: false,
            geometry: Arc::new(Geometry::new(64 << 10, std::iter::empty()).expect("no pieces")),
            cvs: Vec::new(),
            root: [0; 32],
            copies: Vec::new(),
            struck: Vec::new(),
            frozen: Vec::new(),
            report: Report {
                world: String::new(),
                finished: Vec::new(),
                complete: false,
                seconds: Vec::new(),
                bound: 0.0,
                origin_copies: 0.0,
                wasted: 0.0,
                messages: 0,
                blocks: 0,
                events: 0,
                bad_pieces: 0,
                convicted: Vec::new(),
                protocol_errors: 0,
                ended: Time(0),
                trace: 0,
            },
        }
    }

    /// How many pieces; the last one is short.
    #[must_use]
    pub fn pieces(mut self, pieces: u32) -> Self {
        self.pieces = pieces;
        self
    }

    /// Bytes in a piece.
    #[must_use]
    pub fn piece_size(mut self, bytes: u32) -> Self {
        self.piece_size = bytes;
        self
    }

    /// One way, in milliseconds.
    #[must_use]
    pub fn latency_ms(mut self, ms: f64) -> Self {
        self.latency_us = (ms * 1e3) as u64;
        self
    }

    /// What control frames wait in sockets and schedulers, beyond the latency.
    #[must_use]
    pub fn control_delay_ms(mut self, ms: f64) -> Self {
        self.control_delay_us = (ms * 1e3) as u64;
        self
    }

    /// Most connections of each host.
    #[must_use]
    pub fn max_peers(mut self, max: usize) -> Self {
        self.max_peers = max;
        self
    }

    /// Look at the invariants of each swarm after each event.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.check = true;
        self
    }

    /// End at this time whatever is missing.
    #[must_use]
    pub fn until_s(mut self, seconds: f64) -> Self {
        self.horizon = Time((seconds * 1e6) as u64);
        self
    }

    /// A host that brings the content; rates in bytes per second.
    #[must_use]
    pub fn origin(self, up: f64, down: f64) -> Self {
        self.host(Plan { origin: true, complete: true, up, down, joins: Some(Time(0)), leaves_after: None })
    }

    /// A host that has everything but does not spread.
    #[must_use]
    pub fn seeds(mut self, n: usize, up: f64, down: f64) -> Self {
        for _ in 0..n {
            self =
                self.host(Plan { origin: false, complete: true, up, down, joins: Some(Time(0)), leaves_after: None });
        }
        self
    }

    /// Hosts that want the content.
    #[must_use]
    pub fn fetchers(mut self, n: usize, up: f64, down: f64) -> Self {
        for _ in 0..n {
            self =
                self.host(Plan { origin: false, complete: false, up, down, joins: Some(Time(0)), leaves_after: None });
        }
        self
    }

    /// Hosts that want the content and come later.
    #[must_use]
    pub fn late(mut self, n: usize, up: f64, down: f64, at_s: f64) -> Self {
        for _ in 0..n {
            let joins = Some(Time((at_s * 1e6) as u64));
            self = self.host(Plan { origin: false, complete: false, up, down, joins, leaves_after: None });
        }
        self
    }

    /// All fetchers so far leave this long after they completed.
    #[must_use]
    pub fn leaving_after_s(mut self, seconds: f64) -> Self {
        for plan in self.plans.iter_mut().filter(|p| !p.complete) {
            plan.leaves_after = Some((seconds * 1e6) as u64);
        }
        self
    }

    fn host(mut self, plan: Plan) -> Self {
        self.plans.push(plan);
        self
    }

    /// Something goes wrong. Hosts are numbered in the order in which they were added.
    #[must_use]
    pub fn fault(mut self, when: When, host: usize, fault: Fault) -> Self {
        self.faults.push((when, host, fault));
        self
    }

    /// Plays the world until every host that can complete has, or the horizon.
    #[must_use]
    pub fn run(mut self) -> Report {
        self.prepare();
        let mut over = None;
        while let Some(Reverse(due)) = self.due.pop() {
            if due.at > self.horizon || self.report.events >= EVENTS_MAX {
                break;
            }
            self.now = due.at;
            self.report.events += 1;
            self.happen(due.event);
            // What was learnt with the last piece, such as whose blocks were bad, is still said.
            if over.is_none() && self.is_over() {
                over = Some(Time(self.now.0 + LINGER_US));
            }
            if over.is_some_and(|end| self.now >= end) {
                break;
            }
        }
        self.conclude()
    }

    fn is_over(&self) -> bool {
        let pending = self.hosts.iter().any(|h| h.must_complete && h.finished.is_none());
        !pending && !self.hosts.is_empty()
    }

    fn prepare(&mut self) {
        let bytes = u64::from(self.pieces) * u64::from(self.piece_size) - 7;
        let geometry = Geometry::new(self.piece_size, std::iter::once((0, bytes))).expect("a valid geometry");
        self.geometry = Arc::new(geometry);
        self.cvs = (0..self.geometry.cvs())
            .map(|_| {
                let mut cv = [0; 32];
                cv.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.rng.next().to_le_bytes()));
                cv
            })
            .collect();
        self.root = tree::root_of(&self.cvs).unwrap_or_default();
        self.copies = vec![0; self.geometry.pieces() as usize];
        self.struck = vec![false; self.faults.len()];
        self.describe(bytes);
        for (n, plan) in self.plans.clone().into_iter().enumerate() {
            let mut peer = [0; 16];
            peer.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.rng.next().to_le_bytes()));
            let ip = IpAddr::V4(Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8));
            let addr = SocketAddr::new(ip, 7171);
            self.by_addr.insert(addr, n);
            self.hosts.push(Host {
                swarm: None,
                peer: PeerId(peer),
                addr,
                origin: plan.origin,
                must_complete: !plan.complete,
                joined: plan.joins.unwrap_or(Time::NEVER),
                finished: None,
                stalled: false,
                vices: Vices::default(),
                leaves_after: plan.leaves_after,
                conns: BTreeMap::new(),
                up: Uplink { rate: plan.up, ring: std::collections::VecDeque::new(), busy: None },
                down: Downlink { rate: plan.down, free: Time(0) },
                timer: Time::NEVER,
                disk: Disk::default(),
            });
        }
        // A host that a fault will end, stall or join is not waited for, unless it joins.
        let faults = self.faults.clone();
        for (_, host, fault) in &faults {
            if matches!(fault, Fault::Kill | Fault::Stall) {
                self.hosts[*host].must_complete = false;
            }
        }
        for host in 0..self.hosts.len() {
            // Processes never start in the same microsecond.
            let jitter = self.rng.below(20_000) as u64;
            let joins = self.hosts[host].joined;
            self.push(Time(joins.0 + jitter), Event::Fault(usize::MAX - host));
        }
        for (n, (when, ..)) in faults.iter().enumerate() {
            if let When::At(at) = when {
                self.push(*at, Event::Fault(n));
            }
        }
    }

    fn describe(&mut self, bytes: u64) {
        let seeds: Vec<&Plan> = self.plans.iter().filter(|p| p.complete).collect();
        let wanting: Vec<&Plan> = self.plans.iter().filter(|p| !p.complete).collect();
        let size = bytes as f64;
        let source: f64 = seeds.iter().map(|p| p.up).sum();
        let all: f64 = source + wanting.iter().map(|p| p.up).sum::<f64>();
        let slowest = wanting.iter().map(|p| p.down).fold(f64::INFINITY, f64::min);
        self.report.bound = (size / source).max(size / slowest).max(wanting.len() as f64 * size / all);
        self.report.world = format!(
            "seed {}, {} origins and seeds, {} fetchers, {} pieces of {} KiB, latency {} ms, faults {:?}",
            self.seed,
            seeds.len(),
            wanting.len(),
            self.pieces,
            self.piece_size >> 10,
            self.latency_us as f64 / 1e3,
            self.faults,
        );
    }

    fn push(&mut self, at: Time, event: Event) {
        self.seq += 1;
        self.due.push(Reverse(Due { at, seq: self.seq, event }));
    }

    fn after(&mut self, us: u64, event: Event) {
        self.push(Time(self.now.0 + us), event);
    }

    fn trace(&mut self, what: u64) {
        self.report.trace = (self.report.trace.rotate_left(5) ^ what).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn happen(&mut self, event: Event) {
        let code = match &event {
            Event::Timer(h) => 1 << 32 | *h as u64,
            Event::UplinkFree(h) => 2 << 32 | *h as u64,
            Event::Arrive { lane, .. } => 3 << 32 | *lane as u64,
            Event::Deliver { lane, slice } => 4 << 32 | (*lane as u64) << 8 | slice.payload.len() as u64,
            Event::Input { host, .. } => 5 << 32 | *host as u64,
            Event::Dialled { from, .. } => 6 << 32 | *from as u64,
            Event::Announced { host, .. } => 7 << 32 | *host as u64,
            Event::Fault(n) => 8 << 32 | (*n as u64 & 0xffff_ffff),
            Event::Leave(h) => 9 << 32 | *h as u64,
        };
        self.trace(self.now.0);
        self.trace(code);
        let stalled = match &event {
            Event::Timer(host) | Event::UplinkFree(host) => Some(*host),
            Event::Input { host, .. } | Event::Announced { host, .. } => Some(*host),
            Event::Deliver { lane, .. } => Some(self.lanes[*lane].to),
            _ => None,
        };
        if let Some(host) = stalled.filter(|h| self.hosts[*h].stalled) {
            self.frozen.push((host, event));
            return;
        }
        match event {
            Event::Timer(host) => {
                if self.hosts[host].timer <= self.now {
                    self.hosts[host].timer = Time::NEVER;
                    self.feed(host, Input::Timeout);
                }
            }
            Event::UplinkFree(host) => self.uplink_free(host),
            Event::Arrive { lane, slice } => {
                let to = self.lanes[lane].to;
                let down = &mut self.hosts[to].down;
                down.free = Time(down.free.max(self.now).0 + transfer_time(slice.bytes, down.rate));
                let at = down.free;
                self.push(at, Event::Deliver { lane, slice });
            }
            Event::Deliver { lane, slice } => self.deliver(lane, slice),
            Event::Input { host, input } => self.feed(host, *input),
            Event::Dialled { from, addr } => self.dialled(from, addr),
            Event::Announced { host, tracker } => self.announced(host, tracker),
            Event::Fault(n) if n > usize::MAX / 2 => self.join(usize::MAX - n),
            Event::Fault(n) => self.strike(n),
            Event::Leave(host) => self.kill(host),
        }
    }

    // ---- hosts

    fn join(&mut self, host: usize) {
        let plan = &self.plans[host];
        let pieces = self.geometry.pieces();
        let seed = self.rng.next();
        let complete = plan.complete;
        let config = Config {
            geometry: Arc::clone(&self.geometry),
            roots: vec![self.root],
            peer: self.hosts[host].peer,
            have: if complete { Bitfield::all(pieces) } else { Bitfield::none(pieces) },
            cvs: self.cvs.iter().map(|cv| complete.then_some(*cv)).collect(),
            origin: plan.origin,
            upload: true,
            max_peers: self.max_peers,
            trackers: 1,
            allow_private: true,
            seed,
        };
        self.hosts[host].swarm = Some(Swarm::new(self.now, config));
        self.hosts[host].joined = self.now;
        self.feed(host, Input::Timeout);
    }

    fn kill(&mut self, host: usize) {
        if !self.hosts[host].is_alive() {
            return;
        }
        let conns: Vec<ConnId> = self.hosts[host].conns.keys().copied().collect();
        for conn in conns {
            self.hang_up(host, conn, None);
        }
        self.tracked.remove(&host);
        let swarm = self.hosts[host].swarm.take();
        if let Some(swarm) = swarm
            && !self.hosts[host].origin
        {
            self.tally(&swarm);
            for piece in swarm.have().ones() {
                self.copies[piece as usize] -= 1;
            }
        }
    }

    fn tally(&mut self, swarm: &Swarm) {
        self.report.bad_pieces += swarm.counters().bad_pieces;
    }

    fn strike(&mut self, n: usize) {
        if std::mem::replace(&mut self.struck[n], true) {
            return;
        }
        let (_, host, fault) = self.faults[n];
        match fault {
            Fault::Kill => self.kill(host),
            Fault::Stall => self.hosts[host].stalled = true,
            Fault::Resume => {
                self.hosts[host].stalled = false;
                let (thawed, frozen): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.frozen).into_iter().partition(|(h, _)| *h == host);
                self.frozen = frozen;
                for (_, event) in thawed {
                    self.after(0, event);
                }
                self.start_uplink(host);
            }
            Fault::Join => self.join(host),
            Fault::Corrupt(p) => self.hosts[host].vices.corrupt = p,
            Fault::Reject(reason) => self.hosts[host].vices.reject = Some(reason),
            Fault::CanNotRead => self.hosts[host].vices.can_not_read = true,
            Fault::Lose(first, count) => {
                self.feed(host, Input::Lost { pieces: (first..first + count).collect() });
            }
            Fault::Find(first, count) => {
                self.feed(host, Input::Found { pieces: (first..first + count).collect() });
            }
            Fault::TrackerDies => self.tracker_dead = true,
        }
    }

    fn strike_if_met(&mut self) {
        for n in 0..self.faults.len() {
            if self.struck[n] {
                continue;
            }
            let met = match self.faults[n].0 {
                When::At(_) => false,
                When::AllOut => self.copies.iter().all(|c| *c > 0),
                When::Progress(host, fraction) => self.hosts[host]
                    .swarm
                    .as_ref()
                    .is_some_and(|s| f64::from(s.have().count()) >= fraction * f64::from(self.pieces)),
            };
            if met {
                self.after(0, Event::Fault(n));
                self.faults[n].0 = When::At(self.now);
            }
        }
    }

    /// Gives a swarm an input and does what it says.
    fn feed(&mut self, host: usize, input: Input) {
        if self.hosts[host].stalled {
            return;
        }
        let Some(mut swarm) = self.hosts[host].swarm.take() else { return };
        let commits = if let Input::Committed { piece } = input { Some(piece) } else { None };
        let had = commits.is_some_and(|p| swarm.have().has(p));
        let lost = if let Input::Lost { pieces } = &input { pieces.clone() } else { Vec::new() };
        let lost: Vec<u32> = lost.into_iter().filter(|p| swarm.have().has(*p)).collect();
        swarm.handle(self.now, input);
        let mut out = Vec::new();
        while let Some(output) = swarm.poll() {
            out.push(output);
        }
        if self.check
            && let Err(wrong) = swarm.check_invariants()
        {
            panic!("host {host} at {:?}: {wrong}; {}", self.now, self.report.world);
        }
        let next = swarm.next_timeout();
        self.hosts[host].swarm = Some(swarm);
        if next < self.hosts[host].timer || self.hosts[host].timer <= self.now {
            self.hosts[host].timer = next.max(Time(self.now.0 + 1));
            let at = self.hosts[host].timer;
            self.push(at, Event::Timer(host));
        }
        for output in out {
            self.perform(host, output);
        }
        if !self.hosts[host].origin {
            lost.iter().for_each(|p| self.copies[*p as usize] = self.copies[*p as usize].saturating_sub(1));
            if let Some(piece) = commits
                && !had
            {
                assert!(self.hosts[host].disk.is_good(piece), "host {host} has a bad piece; {}", self.report.world);
                self.copies[piece as usize] += 1;
                self.strike_if_met();
            }
        }
    }

    fn perform(&mut self, host: usize, output: Output) {
        match output {
            Output::Send { conn, message } => self.send(host, conn, Item::Frame(message)),
            Output::SendBlock { conn, block } => self.send_block(host, conn, block),
            Output::SendManifest { .. } | Output::KeepCvs { .. } => {}
            Output::Store { block, last } => {
                let geometry = Arc::clone(&self.geometry);
                self.hosts[host].disk.store(&geometry, block, last);
                if last {
                    let outcome = self.hosts[host].disk.outcome(&geometry, &self.cvs, block.piece);
                    let input = Box::new(Input::Hashed { piece: block.piece, outcome });
                    self.after(self.hash_delay_us, Event::Input { host, input });
                }
            }
            Output::Discard => {
                self.hosts[host].disk.arrived.pop_front().expect("a discard answers an arrival");
            }
            Output::Restart { piece } => self.hosts[host].disk.restart(piece),
            Output::Commit { piece } => {
                let input = Box::new(Input::Committed { piece });
                self.after(self.hash_delay_us, Event::Input { host, input });
            }
            Output::HashBlocks { piece } => {
                let hashes = self.hosts[host].disk.block_hashes(piece);
                let input = Box::new(Input::BlockHashes { piece, hashes });
                self.after(self.hash_delay_us, Event::Input { host, input });
            }
            Output::Close { conn, reason } => {
                if reason == GoodbyeReason::Protocol {
                    self.report.protocol_errors += 1;
                }
                self.hang_up(host, conn, Some(reason));
            }
            Output::Dial { addr } => {
                let us = 3 * self.latency_us;
                self.after(us, Event::Dialled { from: host, addr });
            }
            Output::Announce { tracker, event, .. } => {
                if !self.tracker_dead {
                    match event {
                        AnnounceEvent::Stopped => self.tracked.remove(&host),
                        _ => self.tracked.insert(host),
                    };
                }
                self.after(2 * self.latency_us, Event::Announced { host, tracker });
            }
            Output::BadPiece { peer, barred, .. } => {
                let who = self.by_addr.get(&peer).copied().unwrap_or(usize::MAX);
                self.report.convicted.push((who, host, barred));
            }
            Output::Complete => {
                self.hosts[host].finished = Some(self.now);
                if let Some(us) = self.hosts[host].leaves_after {
                    self.after(us, Event::Leave(host));
                }
            }
        }
    }

    // ---- tracker

    fn announced(&mut self, host: usize, tracker: usize) {
        let input = if self.tracker_dead {
            Input::AnnounceFailed { tracker, retry_after_s: None }
        } else {
            let peers = self.tracked.iter().filter(|h| **h != host).map(|h| HandoutPeer {
                addrs: vec![self.hosts[*h].addr.to_string()],
                seed: self.plans[*h].complete || self.hosts[*h].finished.is_some(),
            });
            let mut peers: Vec<HandoutPeer> = peers.collect();
            self.rng.shuffle(&mut peers);
            peers.truncate(shoal_protocol::limits::HANDOUT_PEERS);
            let reached = IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1));
            let handout = Handout { interval: 5, seeds: 1, leechers: 1, peers };
            Input::Announced { tracker, reached, handout }
        };
        self.feed(host, input);
    }

    // ---- the end

    fn conclude(mut self) -> Report {
        let (mut wasted, mut downloaded) = (0, 0);
        let hosts = std::mem::take(&mut self.hosts);
        for host in &hosts {
            self.report.finished.push(host.finished);
            if let Some(at) = host.finished {
                self.report.seconds.push(at.since(host.joined).as_secs_f64());
            }
            if let Some(swarm) = &host.swarm {
                wasted += swarm.counters().wasted;
                downloaded += swarm.counters().downloaded;
                self.report.bad_pieces += swarm.counters().bad_pieces;
            }
        }
        self.report.complete = hosts.iter().all(|h| !h.must_complete || h.finished.is_some());
        self.report.wasted = wasted as f64 / (downloaded as f64).max(1.0);
        self.report.ended = self.now;
        self.report
    }
}
