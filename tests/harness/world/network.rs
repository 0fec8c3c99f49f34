//! Connections between hosts, and the bytes on them.

use super::tracker::SWARM;
use super::{Event, World};
use crate::link::{Item, Lane, Payload, Slice, frame_bytes, transfer_time};
use crate::report::SENT_SLOT_US;
use shoal_peer::swarm::{ConnId, Connected, Input, QUEUE_DEPTH, Time};
use shoal_protocol::Message;
use shoal_protocol::message::{Block, GoodbyeReason, Hello, RejectReason};
use shoal_protocol::prng::Prng;
use std::collections::VecDeque;
use std::net::SocketAddr;

impl World {
    pub(super) fn dialled(&mut self, from: usize, to: usize) {
        if !self.hosts[from].is_alive() || self.hosts[from].stalled {
            return;
        }
        let addr = self.zones.addr(to);
        let there = self.hosts.get(to).is_some_and(|h| h.is_alive() && !h.stalled) && to != from;
        if !there {
            self.feed(from, Input::DialFailed { addr, forget: to == from });
            return;
        }
        let lane = self.lanes.len();
        for (from, to) in [(from, to), (to, from)] {
            let rate = self.hosts[from].up.rate.min(self.hosts[to].down.rate);
            let window = (rate * self.latency_us as f64 / 1e6 * 4.0) as u64;
            self.lanes.push(Lane::new(from, to, window));
        }
        let (ours, theirs) = (Lane::sender_name(lane), Lane::receiver_name(lane));
        let source = SocketAddr::new(self.hosts[from].addr.ip(), 40_000 + (ours % 20_000) as u16);
        let rtt_us = 2 * self.latency_us;
        let (hello_to, hello_from) = (self.hello(to), self.hello(from));
        let local = addr.ip();
        let incoming = Connected { conn: theirs, local, remote: source, dialled: None, hello: hello_from, rtt_us };
        let local = source.ip();
        let outgoing = Connected { conn: ours, local, remote: addr, dialled: Some(addr), hello: hello_to, rtt_us };
        self.feed(to, Input::Connected(incoming));
        self.feed(from, Input::Connected(outgoing));
    }

    pub(super) fn hello(&self, host: usize) -> Hello {
        let index = host;
        let host = &self.hosts[index];
        Hello {
            swarm: SWARM,
            peer: host.peer,
            features: 0,
            port: host.addr.port(),
            queue_depth: QUEUE_DEPTH,
            needs_manifest: false,
            spreads: host.swarm.as_ref().is_some_and(|s| s.is_origin()),
            no_upload: self.plans[index].only_takes,
            zone: self.zones.label(index),
            client: String::new(),
        }
    }

    pub(super) fn hang_up(&mut self, conn: ConnId, reason: Option<GoodbyeReason>) {
        let lane = Lane::of(conn);
        if !self.lanes[lane].open {
            return;
        }
        let (host, other) = (self.lanes[lane].from() as u32, self.lanes[lane].to() as u32);
        let theirs = Lane::receiver_name(lane);
        for lane in [lane, lane ^ 1] {
            self.lanes[lane].open = false;
            self.lanes[lane].queue = VecDeque::new();
        }
        let us = self.latency_us;
        if let Some(reason) = reason {
            let message = Message::Goodbye { reason, text: String::new() };
            let input = Box::new(Input::Message { conn: theirs, message });
            self.after(us, Event::Input { host: other, input });
        }
        self.after(us, Event::Input { host: other, input: Box::new(Input::Closed { conn: theirs }) });
        self.after(0, Event::Input { host, input: Box::new(Input::Closed { conn }) });
    }

    pub(super) fn send(&mut self, host: usize, conn: ConnId, item: Item) {
        let lane = Lane::of(conn);
        if !self.lanes[lane].open {
            return;
        }
        if let Item::Frame(message) = &item {
            self.report.messages += 1;
            self.trace(frame_bytes(message));
        }
        let item = match item {
            Item::Frame(message) if self.may_pass(host, lane) => {
                self.pass(host, lane, message);
                return;
            }
            item => item,
        };
        self.lanes[lane].queue.push_back(item);
        self.enqueue(lane);
    }

    pub(super) fn send_block(&mut self, host: usize, conn: ConnId, block: Block) {
        self.trace(u64::from(block.piece) << 24 ^ u64::from(block.offset));
        let vices = self.hosts[host].vices.clone();
        let is_had = self.hosts[host].swarm.as_ref().is_some_and(|swarm| swarm.have().has(block.piece));
        assert!(is_had, "{block:?} is not there to be sent");
        if vices.can_not_read || vices.reject.is_some() {
            let input = match vices.reject {
                Some(reason) => {
                    self.send(host, conn, Item::Frame(Message::Reject { block, reason }));
                    Input::BlockSent { conn, block }
                }
                None => Input::BlockFailed { conn, block },
            };
            self.after(0, Event::Input { host: host as u32, input: Box::new(input) });
            return;
        }
        // Which pieces a liar has wrong doesn't change from one sending to the next.
        let luck = Prng::new(self.seed ^ (host as u64) << 32 ^ u64::from(block.piece)).below(1_000_000);
        let good = luck as f64 >= vices.corrupt * 1e6;
        self.send(host, conn, Item::Block { block, rest: u64::from(block.length), good });
    }

    /// Whether nothing that was sent earlier on this lane is still at this end.
    fn may_pass(&self, host: usize, lane: usize) -> bool {
        let busy = self.hosts[host].up.busy.as_ref().is_some_and(|(l, _)| *l == lane);
        self.lanes[lane].queue.is_empty() && !busy && !self.hosts[host].stalled
    }

    fn pass(&mut self, host: usize, lane: usize, message: Message) {
        let bytes = frame_bytes(&message);
        let up = &mut self.hosts[host].up;
        up.debt += bytes;
        let us = transfer_time(bytes, up.rate) + self.latency_us;
        let at = self.through_links(lane, Time(self.now.0 + us), bytes);
        let at = Time(at.0 + self.control_delay_us).max(self.lanes[lane].last_arrival);
        self.lanes[lane].last_arrival = at;
        let lane = lane as u32;
        let event = match message {
            Message::Have(list) if list.len() == 1 => Event::Have { lane, first: list[0].0, count: list[0].1 },
            message => Event::Frame { lane, message: Box::new(message) },
        };
        self.push(at, event);
    }

    // ---- bytes

    pub(super) fn enqueue(&mut self, lane: usize) {
        if self.lanes[lane].is_ready() && !self.lanes[lane].queued {
            self.lanes[lane].queued = true;
            let host = self.lanes[lane].from();
            self.hosts[host].up.ring.push_back(lane);
            self.start_uplink(host);
        }
    }

    pub(super) fn start_uplink(&mut self, host: usize) {
        while self.hosts[host].up.busy.is_none() && !self.hosts[host].stalled && !self.hosts[host].unplugged {
            let Some(lane) = self.hosts[host].up.ring.pop_front() else { return };
            self.lanes[lane].queued = false;
            if !self.lanes[lane].is_ready() {
                continue;
            }
            if self.waits_for_link(lane) {
                self.lanes[lane].queued = true;
                continue;
            }
            let slice = self.lanes[lane].take(self.slice);
            let up = &mut self.hosts[host].up;
            let us = transfer_time(slice.bytes + std::mem::take(&mut up.debt), up.rate);
            up.busy = Some((lane, Box::new(slice)));
            self.after(us, Event::UplinkFree(host as u32));
        }
    }

    pub(super) fn uplink_free(&mut self, host: usize) {
        let Some((lane, mut slice)) = self.hosts[host].up.busy.take() else { return };
        if self.lanes[lane].open {
            let sent: Vec<Block> = slice
                .payload
                .iter()
                .filter_map(|p| if let Payload::Block(block, _) = p { Some(*block) } else { None })
                .collect();
            let only_frames = slice.payload.iter().all(|p| matches!(p, Payload::Frame(_)));
            let extra = if only_frames { self.control_delay_us } else { 0 };
            let mut at = Time(self.now.0 + self.latency_us + extra);
            let through = self.through_links(lane, at, slice.bytes);
            let crosses = through > at;
            at = through;
            if !only_frames && !crosses {
                // All have the same latency, so what leaves first arrives first at the receiver's downlink.
                let down = &mut self.hosts[self.lanes[lane].to()].down;
                slice.was_there = self.slow_hosts && down.free > at;
                down.free = Time(down.free.max(at).0 + transfer_time(slice.bytes, down.rate));
                at = down.free;
            }
            at = at.max(self.lanes[lane].last_arrival);
            self.lanes[lane].last_arrival = at;
            let lane32 = lane as u32;
            self.push(
                at,
                if crosses { Event::Crossed { lane: lane32, slice } } else { Event::Deliver { lane: lane32, slice } },
            );
            self.enqueue(lane);
            let conn = Lane::sender_name(lane);
            for block in sent {
                self.report.blocks += 1;
                let slot = (self.now.0 / SENT_SLOT_US) as usize;
                if self.report.sent.len() <= slot {
                    self.report.sent.resize(slot + 1, 0);
                }
                self.report.sent[slot] += u64::from(block.length);
                if self.hosts[host].origin {
                    self.report.origin_bytes += u64::from(block.length);
                    if !self.left_origin.insert((block.piece, block.offset)) && self.report.all_out.is_none() {
                        self.sent_twice += u64::from(block.length);
                    }
                }
                self.feed(host, Input::BlockSent { conn, block });
            }
        }
        self.start_uplink(host);
    }

    pub(super) fn deliver_frame(&mut self, lane: usize, message: Message) {
        let (to, conn, open) = (self.lanes[lane].to(), Lane::receiver_name(lane), self.lanes[lane].open);
        if !open {
            return;
        }
        match message {
            Message::Request(_) if self.hosts[to].vices.withholds => {}
            Message::Cancel(block) if self.hosts[to].vices.withholds => {
                let reason = RejectReason::Cancelled;
                self.send(to, conn, Item::Frame(Message::Reject { block, reason }));
            }
            message => self.feed(to, Input::Message { conn, message }),
        }
    }

    pub(super) fn deliver(&mut self, lane: usize, slice: Slice) {
        let (from, to) = (self.lanes[lane].from(), self.lanes[lane].to());
        self.lanes[lane].in_flight -= slice.bytes;
        self.enqueue(lane);
        for payload in slice.payload {
            if !self.lanes[lane].open {
                return;
            }
            let conn = Lane::receiver_name(lane);
            match payload {
                Payload::Frame(message) => self.deliver_frame(lane, message),
                Payload::Part => self.feed(to, Input::BlockProgress { conn }),
                Payload::Block(block, good) => {
                    self.hosts[to].disk.arrived.push_back((block, good, from));
                    self.feed(to, Input::BlockArrived { conn, block, was_there: slice.was_there });
                    let answered = self.hosts[to].disk.arrived.is_empty();
                    assert!(answered, "a block was neither stored nor discarded; {}", self.report.world);
                }
            }
        }
    }
}
