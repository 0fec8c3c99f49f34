//! Hosts: how they come, what their swarms' outputs do, and how they go.

use super::{Event, World, host_at};
use crate::faults::{Fault, When};
use crate::link::{Item, Lane};
use crate::report::Report;
use shoal_peer::swarm::waste::CAUSES;
use shoal_peer::swarm::{Config, ConnId, Input, Output, Swarm, Time};
use shoal_protocol::message::GoodbyeReason;
use shoal_protocol::{Bitfield, Message};
use std::sync::Arc;

/// How long a dial into nothing takes.
const DIAL_US: u64 = 5_000_000;

impl World {
    pub(super) fn join(&mut self, host: usize) {
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
            upload: !plan.only_takes,
            max_peers: self.max_peers,
            trackers: 1,
            zone: self.zones.label(host),
            allow_private: true,
            seed,
        };
        self.hosts[host].swarm = Some(Box::new(Swarm::new(self.now, config)));
        self.hosts[host].joined = self.now;
        for (_, others) in self.acquainted.clone().into_iter().filter(|(who, _)| *who == host) {
            let addrs = others.into_iter().map(|host| self.zones.addr(host)).collect();
            self.feed(host, Input::Peers { named: Vec::new(), kept: addrs });
        }
        self.feed(host, Input::Timeout);
    }

    pub(super) fn kill(&mut self, host: usize) {
        if !self.hosts[host].is_alive() {
            return;
        }
        // Rare enough for a look at all lanes.
        let conns: Vec<ConnId> =
            (0..self.lanes.len()).filter(|l| self.lanes[*l].from() == host).map(Lane::sender_name).collect();
        for conn in conns {
            self.hang_up(conn, None);
        }
        self.tracker.forget(host);
        let swarm = self.hosts[host].swarm.take();
        if let Some(swarm) = swarm
            && !self.hosts[host].origin
        {
            self.tally(&swarm);
            for piece in swarm.have().ones() {
                self.uncount_copy(piece);
            }
        }
    }

    pub(super) fn tally(&mut self, swarm: &Swarm) {
        self.report.bad_pieces += swarm.counters().bad_pieces;
    }

    pub(super) fn strike(&mut self, n: usize) {
        if std::mem::replace(&mut self.struck[n], true) {
            return;
        }
        let (_, host, fault) = self.faults[n];
        match fault {
            Fault::Kill => self.kill(host),
            Fault::Stall => self.hosts[host].stalled = true,
            Fault::Resume => {
                self.hosts[host].stalled = false;
                self.thaw(host);
            }
            Fault::Unplug => self.hosts[host].unplugged = true,
            Fault::Plug => {
                self.hosts[host].unplugged = false;
                self.thaw(host);
            }
            Fault::Join => {
                self.join(host);
                self.bound_after_join();
            }
            Fault::Corrupt(p) => self.hosts[host].vices.corrupt = p,
            Fault::Reject(reason) => self.hosts[host].vices.reject = Some(reason),
            Fault::Withhold => self.hosts[host].vices.withholds = true,
            Fault::Hide => self.hosts[host].vices.hides = true,
            Fault::CanNotRead => self.hosts[host].vices.can_not_read = true,
            Fault::Lose(first, count) => {
                self.feed(host, Input::Lost { pieces: (first..first + count).collect() });
            }
            Fault::Find(first, count) => {
                self.feed(host, Input::Found { pieces: (first..first + count).collect() });
            }
            Fault::TrackerDies => self.tracker.dead = true,
            Fault::TrackerReturns => self.tracker.restart(self.now),
        }
    }

    fn uncount_copy(&mut self, piece: u32) {
        let copies = &mut self.copies[piece as usize];
        if *copies == 1 {
            self.without_copy += 1;
        }
        *copies = copies.saturating_sub(1);
    }

    fn strike_if_met(&mut self) {
        if self.conditional.is_empty() {
            return;
        }
        let is_met = |n: &usize| match self.faults[*n].0 {
            When::At(_) => true,
            When::AllOut => self.without_copy == 0,
            When::Progress(host, fraction) => {
                let swarm = self.hosts[host].swarm.as_ref();
                swarm.is_some_and(|s| f64::from(s.have().count()) >= fraction * f64::from(self.pieces))
            }
        };
        let (met, rest): (Vec<usize>, Vec<usize>) = self.conditional.iter().partition(|n| is_met(n));
        if met.is_empty() {
            return;
        }
        self.conditional = rest;
        for n in met {
            self.after(0, Event::Fault(n as u32));
        }
    }

    /// What is missing now, and how fast it can be brought at best.
    fn bound_after_join(&mut self) {
        let whole = self.geometry.bytes() as f64;
        let (mut missing, mut uplinks, mut slowest, mut source) = (0.0, 0.0, 0.0_f64, 0.0);
        for (host, plan) in self.hosts.iter().zip(&self.plans) {
            let Some(swarm) = &host.swarm else { continue };
            let lacks = whole - swarm.done_bytes() as f64;
            missing += lacks;
            uplinks += plan.up;
            slowest = slowest.max(lacks / plan.down);
            source += if plan.origin { plan.up } else { 0.0 };
        }
        let inside = whole * f64::from(self.without_copy) / f64::from(self.pieces);
        let rest = (missing / uplinks).max(slowest).max(if source > 0.0 { inside / source } else { 0.0 });
        self.report.join_bound = self.now.0 as f64 / 1e6 + rest;
    }

    /// The next hosts come, when all of the wave before have finished.
    pub(super) fn next_wave(&mut self) {
        if self.in_wave > 0 {
            return;
        }
        for _ in 0..self.wave {
            let Some(host) = self.waiting.pop_front() else { return };
            self.in_wave += 1;
            let jitter = self.rng.below(20_000) as u64;
            self.after(jitter, Event::Join(host as u32));
        }
    }

    /// Gives a swarm an input and does what it says.
    pub(super) fn feed(&mut self, host: usize, input: Input) {
        if self.hosts[host].stalled {
            return;
        }
        let Some(mut swarm) = self.hosts[host].swarm.take() else { return };
        let commits = if let Input::Committed { piece } = input { Some(piece) } else { None };
        let had = commits.is_some_and(|p| swarm.have().has(p));
        let lost = if let Input::Lost { pieces } = &input { pieces.clone() } else { Vec::new() };
        let lost: Vec<u32> = lost.into_iter().filter(|p| swarm.have().has(*p)).collect();
        swarm.handle(self.now, input);
        assert!(lost.iter().all(|p| !swarm.have().has(*p)), "host {host} still has what it lost");
        let mut out = std::mem::take(&mut self.outputs);
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
            self.push(at, Event::Timer(host as u32));
        }
        for output in out.drain(..) {
            self.perform(host, output);
        }
        self.outputs = out;
        if !self.hosts[host].origin {
            lost.iter().for_each(|p| self.uncount_copy(*p));
            if let Some(piece) = commits
                && !had
            {
                assert!(self.hosts[host].disk.is_good(piece), "host {host} has a bad piece; {}", self.report.world);
                self.hosts[host].disk.forget(piece);
                self.hosts[host].first_piece.get_or_insert(self.now);
                self.copies[piece as usize] += 1;
                if self.copies[piece as usize] == 1 {
                    self.without_copy -= 1;
                    if self.without_copy == 0 {
                        self.report.all_out.get_or_insert(self.now);
                    }
                }
                self.strike_if_met();
            }
        }
    }

    pub(super) fn perform(&mut self, host: usize, output: Output) {
        match output {
            Output::Send { conn, message } => {
                let message = match message {
                    Message::Have(_) if self.hosts[host].vices.hides => return,
                    Message::Bitfield { .. } | Message::HaveAll if self.hosts[host].vices.hides => Message::HaveNone,
                    message => message,
                };
                self.send(host, conn, Item::Frame(message));
            }
            Output::SendBlock { conn, block } => self.send_block(host, conn, block),
            Output::SendManifest { .. } | Output::KeepCvs { .. } => {}
            Output::Store { block, last } => {
                let geometry = Arc::clone(&self.geometry);
                self.hosts[host].disk.store(&geometry, block, last);
                if last {
                    let outcome = self.hosts[host].disk.outcome(&geometry, &self.cvs, block.piece);
                    let input = Box::new(Input::Hashed { piece: block.piece, outcome });
                    self.after(self.hash_delay_us, Event::Input { host: host as u32, input });
                }
            }
            Output::Discard => {
                self.hosts[host].disk.arrived.pop_front().expect("a discard answers an arrival");
            }
            Output::Restart { piece } => self.hosts[host].disk.restart(piece),
            Output::Commit { piece } => {
                let input = Box::new(Input::Committed { piece });
                self.after(self.hash_delay_us, Event::Input { host: host as u32, input });
            }
            Output::HashBlocks { piece } => {
                let hashes = self.hosts[host].disk.block_hashes(piece);
                let input = Box::new(Input::BlockHashes { piece, hashes });
                self.after(self.hash_delay_us, Event::Input { host: host as u32, input });
            }
            Output::Close { conn, reason } => {
                if reason == GoodbyeReason::Protocol {
                    self.report.protocol_errors += 1;
                }
                self.hang_up(conn, Some(reason));
            }
            Output::Dial { addr } => {
                let dials = self.dials.entry((host, addr)).or_default();
                *dials += 1;
                self.report.most_dials = self.report.most_dials.max(*dials);
                let there = host_at(addr).filter(|to| !self.is_cut(host, *to));
                let us = if there.is_none() && host_at(addr).is_some() { DIAL_US } else { 3 * self.latency_us };
                let event = match there {
                    Some(to) => Event::Dialled { from: host as u32, to: to as u32 },
                    None => {
                        Event::Input { host: host as u32, input: Box::new(Input::DialFailed { addr, forget: false }) }
                    }
                };
                self.after(us, event);
            }
            Output::Announce { tracker, event, want } => self.announce(host, tracker, event, want),
            Output::BadPiece { peer, barred, .. } => {
                let who = host_at(peer).unwrap_or(usize::MAX);
                self.report.convicted.push((who, host, barred));
            }
            Output::Complete => {
                if self.report.state_bytes == 0 {
                    self.report.state_bytes = self.mean_state();
                }
                if self.hosts[host].finished.replace(self.now).is_none() {
                    self.pending -= usize::from(self.hosts[host].must_complete);
                    if self.plans[host].joins.is_none() && self.wave > 0 {
                        self.in_wave -= 1;
                        self.next_wave();
                    }
                }
                if let Some(us) = self.hosts[host].leaves_after {
                    self.after(us, Event::Leave(host as u32));
                }
            }
        }
    }

    fn mean_state(&self) -> u64 {
        let each: Vec<usize> = self.hosts.iter().filter_map(|h| h.swarm.as_ref()).map(|s| s.state_bytes()).collect();
        each.iter().sum::<usize>() as u64 / each.len().max(1) as u64
    }

    pub(super) fn conclude(mut self) -> Report {
        let (mut wasted, mut downloaded) = ([0_u64; CAUSES], 0);
        let hosts = std::mem::take(&mut self.hosts);
        for host in &hosts {
            self.report.finished.push(host.finished);
            if let Some(at) = host.finished.filter(|_| host.must_complete) {
                self.report.last_staying = self.report.last_staying.max(at.0 as f64 / 1e6);
            }
            if let Some(at) = host.finished {
                self.report.seconds.push(at.since(host.joined).as_secs_f64());
            }
            if let Some(at) = host.first_piece {
                self.report.first_piece.push(at.since(host.joined).as_secs_f64());
            }
            if let Some(swarm) = &host.swarm {
                let causes = swarm.counters().waste.by_cause();
                wasted.iter_mut().zip(causes).for_each(|(all, own)| *all += own);
                downloaded += swarm.counters().downloaded;
                self.report.bad_pieces += swarm.counters().bad_pieces;
            }
        }
        self.report.complete = hosts.iter().all(|h| !h.must_complete || h.finished.is_some());
        self.report.waste = wasted.map(|bytes| bytes as f64 / (downloaded as f64).max(1.0));
        self.report.wasted = self.report.waste.iter().sum();
        self.report.ended = self.now;
        self.report.relisted_s = self.tracker.relisted_s;
        self.report.first_piece.sort_by(f64::total_cmp);
        self.report.origin_copies = self.report.origin_bytes as f64 / self.geometry.bytes() as f64;
        self.report.origin_twice = self.sent_twice as f64 / self.geometry.bytes() as f64;
        self.report.crossed = self.zones.crossed as f64 / self.geometry.bytes() as f64;
        self.report
    }
}
