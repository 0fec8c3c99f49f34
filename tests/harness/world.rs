//! A world: hosts, links, a tracker and a list of faults, played event by event.

mod hosts;
mod lines;
mod network;
mod tracker;
mod zones;

use crate::faults::{Fault, When};
use crate::host::{Disk, Host, Vices};
use crate::link::{Downlink, Lane, SLICE, Slice, Uplink};
use crate::queue::Queue;
use crate::report::Report;
use shoal_peer::swarm::{Input, Output, Time};
use shoal_protocol::prng::Prng;
use shoal_protocol::{Geometry, Hash, Message, PeerId, tree};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Nothing in a small world takes longer: an hour.
const HORIZON: Time = Time(3_600_000_000);
/// A world that does more than this, and so much per block of every host, is in a loop.
const EVENTS_MAX: u64 = 60_000_000;
const EVENTS_PER_BLOCK: u64 = 400;

/// How long a world goes on after the last one completed.
const LINGER_US: u64 = 50_000;

/// Kept small: millions of them wait at once.
#[derive(Debug)]
enum Event {
    Timer(u32),
    UplinkFree(u32),
    Deliver {
        lane: u32,
        slice: Box<Slice>,
    },
    Frame {
        lane: u32,
        message: Box<Message>,
    },
    /// Most frames are of this kind: one range of pieces.
    Have {
        lane: u32,
        first: u32,
        count: u32,
    },
    Input {
        host: u32,
        input: Box<Input>,
    },
    Dialled {
        from: u32,
        to: u32,
    },
    Announced {
        host: u32,
        tracker: u32,
    },
    Fault(u32),
    Join(u32),
    Leave(u32),
    /// A zone's link has room.
    Link {
        zone: u32,
        direction: u32,
    },
    /// A slice has passed a zone's link.
    Crossed {
        lane: u32,
        slice: Box<Slice>,
    },
}

#[derive(Debug, Clone)]
struct Plan {
    origin: bool,
    complete: bool,
    up: f64,
    down: f64,
    joins: Option<Time>,
    leaves_after: Option<u64>,
    /// It takes and gives nothing, and says so.
    only_takes: bool,
}

impl Plan {
    /// Of a host that wants the content and is there from the start; rates in bytes per second.
    fn of(up: f64, down: f64) -> Self {
        let (origin, complete, only_takes) = (false, false, false);
        Self { origin, complete, up, down, joins: Some(Time(0)), leaves_after: None, only_takes }
    }
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
    slice: u64,
    slow_hosts: bool,
    /// So many come together, when those before them have finished; 0: there are no waves.
    wave: usize,
    check: bool,
    horizon: Time,
    plans: Vec<Plan>,
    zones: zones::Zones,
    faults: Vec<(When, usize, Fault)>,
    optional: Vec<usize>,
    /// Whom hosts know before they ask anybody, as from a journal.
    acquainted: Vec<(usize, Vec<usize>)>,
    // Running.
    now: Time,
    due: Queue<Event>,
    hosts: Vec<Host>,
    lanes: Vec<Lane>,
    tracker: tracker::Tracker,
    geometry: Arc<Geometry>,
    cvs: Vec<Hash>,
    root: Hash,
    /// How many living hosts other than origins verified each piece.
    copies: Vec<u32>,
    /// How many pieces no such host has.
    without_copy: u32,
    /// Blocks, as (piece, offset), that left an origin, and the bytes of those that did again while pieces were not out.
    left_origin: HashSet<(u32, u32)>,
    sent_twice: u64,
    /// Hosts that should complete and have not yet.
    pending: usize,
    /// Hosts of waves that came and have not finished, and those that have yet to come.
    in_wave: usize,
    waiting: VecDeque<usize>,
    /// Faults that wait for a condition.
    conditional: Vec<usize>,
    /// Used again for each input's outputs.
    outputs: Vec<Output>,
    struck: Vec<bool>,
    /// How often each host dialled each address.
    dials: HashMap<(usize, SocketAddr), u32>,
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
            slice: SLICE,
            slow_hosts: false,
            wave: 0,
            check: false,
            horizon: HORIZON,
            plans: Vec::new(),
            zones: zones::Zones::default(),
            faults: Vec::new(),
            optional: Vec::new(),
            acquainted: Vec::new(),
            now: Time(0),
            due: Queue::default(),
            hosts: Vec::new(),
            lanes: Vec::new(),
            tracker: tracker::Tracker::new(seed),
            geometry: Arc::new(Geometry::new(64 << 10, std::iter::empty()).expect("no pieces")),
            cvs: Vec::new(),
            root: [0; 32],
            copies: Vec::new(),
            without_copy: 0,
            left_origin: HashSet::new(),
            sent_twice: 0,
            pending: 0,
            in_wave: 0,
            waiting: VecDeque::new(),
            conditional: Vec::new(),
            outputs: Vec::new(),
            struck: Vec::new(),
            dials: HashMap::new(),
            frozen: Vec::new(),
            report: Report::default(),
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

    /// A host takes and gives nothing, and says so: `--no-upload`.
    #[must_use]
    pub fn only_takes(mut self, host: usize) -> Self {
        self.plans[host].only_takes = true;
        self
    }

    /// Most connections of each host.
    #[must_use]
    pub fn max_peers(mut self, max: usize) -> Self {
        self.max_peers = max;
        self
    }

    /// Bytes that an uplink takes from one connection before it turns to the next: larger is coarser and faster.
    #[must_use]
    pub fn slice_kib(mut self, kib: u64) -> Self {
        self.slice = kib << 10;
        self
    }

    /// What limits a host's downlink is the host, as its disk is slow, and not its line: what waits there lies in its sockets.
    #[must_use]
    pub fn slow_hosts(mut self) -> Self {
        self.slow_hosts = true;
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
        self.host(Plan { origin: true, complete: true, ..Plan::of(up, down) })
    }

    /// A host that has everything but does not spread.
    #[must_use]
    pub fn seeds(mut self, n: usize, up: f64, down: f64) -> Self {
        for _ in 0..n {
            self = self.host(Plan { complete: true, ..Plan::of(up, down) });
        }
        self
    }

    /// Hosts that want the content.
    #[must_use]
    pub fn fetchers(mut self, n: usize, up: f64, down: f64) -> Self {
        for _ in 0..n {
            self = self.host(Plan::of(up, down));
        }
        self
    }

    /// Hosts that want the content and come later.
    #[must_use]
    pub fn late(mut self, n: usize, up: f64, down: f64, at_s: f64) -> Self {
        for _ in 0..n {
            let joins = Some(Time((at_s * 1e6) as u64));
            self = self.host(Plan { joins, ..Plan::of(up, down) });
        }
        self
    }

    /// Hosts that want the content and come by [`Fault::Join`].
    #[must_use]
    pub fn joiners(mut self, n: usize, up: f64, down: f64) -> Self {
        for _ in 0..n {
            self = self.host(Plan { joins: None, ..Plan::of(up, down) });
        }
        self
    }

    /// Hosts that want the content and come `size` at a time, each wave when all before it have finished.
    #[must_use]
    pub fn waves(mut self, n: usize, size: usize, up: f64, down: f64) -> Self {
        self.wave = size;
        let first = self.plans.len();
        self.waiting.extend(first..first + n);
        self.joiners(n, up, down)
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
        self.zones.host();
        self
    }

    /// The world does not wait for this host to complete.
    #[must_use]
    pub fn optional(mut self, host: usize) -> Self {
        self.optional.push(host);
        self
    }

    /// A host knows others before it asks anybody, as from its journal.
    #[must_use]
    pub fn knowing(mut self, host: usize, others: &[usize]) -> Self {
        self.acquainted.push((host, others.to_vec()));
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
        let blocks = self.geometry.bytes() / u64::from(shoal_protocol::limits::BLOCK_BYTES) + u64::from(self.pieces);
        let most = EVENTS_MAX.max(EVENTS_PER_BLOCK * blocks * self.hosts.len() as u64);
        let mut over = None;
        while let Some((at, event)) = self.due.pop() {
            if at > self.horizon || self.report.events >= most {
                break;
            }
            self.now = at;
            self.report.events += 1;
            self.happen(event);
            // What was learnt with the last piece, such as whose blocks were bad, is still said.
            if over.is_none() && self.pending == 0 {
                over = Some(Time(self.now.0 + LINGER_US));
            }
            if over.is_some_and(|end| self.now >= end) {
                break;
            }
        }
        self.conclude()
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
        self.without_copy = self.geometry.pieces();
        self.struck = vec![false; self.faults.len()];
        self.describe(bytes);
        for (n, plan) in self.plans.clone().into_iter().enumerate() {
            let mut peer = [0; 16];
            peer.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.rng.next().to_le_bytes()));
            self.hosts.push(Host {
                swarm: None,
                peer: PeerId(peer),
                addr: self.zones.addr(n),
                origin: plan.origin,
                must_complete: !plan.complete,
                joined: plan.joins.unwrap_or(Time::NEVER),
                first_piece: None,
                finished: None,
                stalled: false,
                unplugged: false,
                vices: Vices::default(),
                leaves_after: plan.leaves_after,
                up: Uplink { rate: plan.up, ring: VecDeque::new(), busy: None, debt: 0 },
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
        for host in &self.optional {
            self.hosts[*host].must_complete = false;
        }
        self.pending = self.hosts.iter().filter(|h| h.must_complete).count();
        for host in 0..self.hosts.len() {
            // Processes never start in the same microsecond.
            let jitter = self.rng.below(20_000) as u64;
            let joins = self.hosts[host].joined;
            if joins < Time::NEVER {
                self.push(Time(joins.0 + jitter), Event::Join(host as u32));
            }
        }
        self.next_wave();
        for (n, (when, ..)) in faults.iter().enumerate() {
            match when {
                When::At(at) => self.push(*at, Event::Fault(n as u32)),
                _ => self.conditional.push(n),
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
        let bound = (size / source).max(size / slowest).max(wanting.len() as f64 * size / all);
        self.report.uplinks = all;
        self.report.bound = bound.max(self.bound_of_zones(size));
        self.report.own_bounds = self
            .plans
            .iter()
            .map(|p| {
                if p.complete {
                    f64::INFINITY
                } else {
                    (size / source).max(size / p.down).max(wanting.len() as f64 * size / all)
                }
            })
            .collect();
        // Long lists of faults are of a kind.
        let faults = &self.faults[..self.faults.len().min(8)];
        self.report.world = format!(
            "seed {}, {} origins and seeds, {} fetchers, {} pieces of {} KiB, latency {} ms, faults {:?}",
            self.seed,
            seeds.len(),
            wanting.len(),
            self.pieces,
            self.piece_size >> 10,
            self.latency_us as f64 / 1e3,
            faults,
        );
    }

    fn push(&mut self, at: Time, event: Event) {
        self.due.push(at, event);
    }

    fn after(&mut self, us: u64, event: Event) {
        self.push(Time(self.now.0 + us), event);
    }

    fn trace(&mut self, what: u64) {
        self.report.trace = (self.report.trace.rotate_left(5) ^ what).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn happen(&mut self, event: Event) {
        let code = match &event {
            Event::Timer(h) => 1 << 32 | u64::from(*h),
            Event::UplinkFree(h) => 2 << 32 | u64::from(*h),
            Event::Frame { lane, .. } => 3 << 32 | u64::from(*lane),
            Event::Deliver { lane, slice } => 4 << 32 | u64::from(*lane) << 8 | slice.payload.len() as u64,
            Event::Input { host, .. } => 5 << 32 | u64::from(*host),
            Event::Dialled { from, .. } => 6 << 32 | u64::from(*from),
            Event::Announced { host, .. } => 7 << 32 | u64::from(*host),
            Event::Fault(n) => 8 << 32 | u64::from(*n),
            Event::Leave(h) => 9 << 32 | u64::from(*h),
            Event::Join(h) => 10 << 32 | u64::from(*h),
            Event::Link { zone, .. } => 12 << 32 | u64::from(*zone),
            Event::Crossed { lane, .. } => 13 << 32 | u64::from(*lane),
            Event::Have { lane, first, .. } => (11 << 32 | u64::from(*lane)) ^ u64::from(*first) << 40,
        };
        self.trace(self.now.0);
        self.trace(code);
        let stalled = match &event {
            Event::Timer(host) | Event::UplinkFree(host) => Some(*host as usize),
            Event::Input { host, .. } | Event::Announced { host, .. } => Some(*host as usize),
            Event::Crossed { lane, .. }
            | Event::Deliver { lane, .. }
            | Event::Frame { lane, .. }
            | Event::Have { lane, .. } => Some(self.lanes[*lane as usize].to()),
            _ => None,
        };
        if let Some(host) = stalled.filter(|h| self.hosts[*h].stalled).or_else(|| self.cut_off(&event)) {
            self.frozen.push((host, event));
            return;
        }
        match event {
            Event::Timer(host) => {
                let host = host as usize;
                if self.hosts[host].timer <= self.now {
                    self.hosts[host].timer = Time::NEVER;
                    self.feed(host, Input::Timeout);
                }
            }
            Event::UplinkFree(host) => self.uplink_free(host as usize),
            Event::Deliver { lane, slice } => self.deliver(lane as usize, *slice),
            Event::Frame { lane, message } => self.deliver_frame(lane as usize, *message),
            Event::Have { lane, first, count } => {
                self.deliver_frame(lane as usize, Message::Have(vec![(first, count)]));
            }
            Event::Input { host, input } => self.feed(host as usize, *input),
            Event::Dialled { from, to } => self.dialled(from as usize, to as usize),
            Event::Announced { host, tracker } => self.announced(host as usize, tracker as usize),
            Event::Fault(n) => self.strike(n as usize),
            Event::Join(host) => self.join(host as usize),
            Event::Leave(host) => self.kill(host as usize),
            Event::Link { zone, direction } => self.link_has_room(zone as usize, direction as usize),
            Event::Crossed { lane, slice } => self.crossed(lane as usize, slice),
        }
    }
}

/// Which host an address belongs to, if it is that of one: see [`zones::Zones::addr`].
fn host_at(addr: SocketAddr) -> Option<usize> {
    let IpAddr::V6(ip) = addr.ip() else { return None };
    (ip.segments()[0] == zones::NET && addr.port() == zones::PORT).then(|| (ip.to_bits() as u32) as usize)
}
