//! Zones behind thin links: what goes into or out of one passes its link, which has a short queue in each direction.
//!
//! A connection whose next slice finds the queue full waits until there is room, as TCP would after a loss; connections
//! that wait take turns.

use super::{Event, World};
use crate::link::{Slice, transfer_time};
use shoal_peer::swarm::Time;
use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};

/// What the addresses of hosts begin with, and their port.
pub(super) const NET: u16 = 0xfd00;
pub(super) const PORT: u16 = 7171;
/// How long a link's queue may get.
const QUEUE_US: u64 = 100_000;

/// One direction of a zone's link.
#[derive(Debug, Clone)]
struct Pipe {
    rate: f64,
    free: Time,
    /// Lanes that found it full.
    waiting: VecDeque<usize>,
}

#[derive(Debug, Clone)]
struct Zone {
    label: String,
    /// Into the zone, and out of it; a zone without a link has none.
    pipes: Option<[Pipe; 2]>,
}

/// The zones of a world.
#[derive(Debug, Default)]
pub(super) struct Zones {
    all: Vec<Zone>,
    /// In which zone each host stands, plus one; 0: in none.
    of: Vec<usize>,
    pub(super) crossed: u64,
}

impl Zones {
    /// One more host, in the zone that was named last.
    pub(super) fn host(&mut self) {
        self.of.push(self.all.len());
    }

    /// Where a host listens: its number is in the address, and its subnet is its own, but in a zone without a label.
    pub(super) fn addr(&self, host: usize) -> SocketAddr {
        let number = u32::try_from(host).expect("few hosts");
        let zone = self.of[host].checked_sub(1).filter(|zone| self.all[*zone].label.is_empty());
        let (kind, subnet) = zone.map_or((0, number), |zone| (1, zone as u32));
        let high = |value: u32| (value >> 16) as u16;
        let ip = Ipv6Addr::new(NET, kind, high(subnet), subnet as u16, 0, 0, high(number), number as u16);
        SocketAddr::new(ip.into(), PORT)
    }

    /// What a host says of where it stands.
    pub(super) fn label(&self, host: usize) -> String {
        self.of[host].checked_sub(1).map_or_else(String::new, |zone| self.all[zone].label.clone())
    }

    /// The pipes between two hosts: (zone plus one, direction).
    fn between(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (from, to) = (self.of[from], self.of[to]);
        let has = |zone: usize| zone > 0 && self.all[zone - 1].pipes.is_some();
        let out = (from != to && has(from)).then_some((from, 1));
        let into = (from != to && has(to)).then_some((to, 0));
        out.into_iter().chain(into)
    }

    fn pipe(&mut self, (zone, direction): (usize, usize)) -> &mut Pipe {
        &mut self.all[zone - 1].pipes.as_mut().expect("a pipe that was named exists")[direction]
    }
}

impl World {
    /// Hosts that are added from now on stand in a zone with this label; if it is empty they have a subnet in common.
    /// With a rate, in bytes per second each way, its
    /// link to everybody else is so thin.
    #[must_use]
    pub fn zone(mut self, label: &str, thin: Option<f64>) -> Self {
        let pipe = |rate| Pipe { rate, free: Time(0), waiting: VecDeque::new() };
        let pipes = thin.map(|rate| [pipe(rate), pipe(rate)]);
        self.zones.all.push(Zone { label: label.to_owned(), pipes });
        self
    }

    /// Whether a lane's next slice finds a link full; then the lane waits for it.
    pub(super) fn waits_for_link(&mut self, lane: usize) -> bool {
        let (from, to) = (self.lanes[lane].from(), self.lanes[lane].to());
        for at in self.zones.between(from, to) {
            let now = self.now;
            let pipe = self.zones.pipe(at);
            if pipe.free.0 > now.0 + QUEUE_US {
                pipe.waiting.push_back(lane);
                if pipe.waiting.len() == 1 {
                    let room = Time(pipe.free.0 - QUEUE_US);
                    self.push(room, Event::Link { zone: at.0 as u32, direction: at.1 as u32 });
                }
                return true;
            }
        }
        false
    }

    /// A link has room: one lane that waited gets its turn.
    pub(super) fn link_has_room(&mut self, zone: usize, direction: usize) {
        let (now, slice) = (self.now, self.slice);
        let pipe = self.zones.pipe((zone, direction));
        let Some(lane) = pipe.waiting.pop_front() else { return };
        if !pipe.waiting.is_empty() {
            // The next one when this one's slice has passed.
            let us = transfer_time(slice, pipe.rate);
            let at = Time((pipe.free.0 + us).saturating_sub(QUEUE_US).max(now.0 + 1));
            self.push(at, Event::Link { zone: zone as u32, direction: direction as u32 });
        }
        let host = self.lanes[lane].from();
        self.hosts[host].up.ring.push_front(lane);
        self.start_uplink(host);
    }

    /// When what leaves a host at `at` is through the links between it and its receiver.
    pub(super) fn through_links(&mut self, lane: usize, at: Time, bytes: u64) -> Time {
        let (from, to) = (self.lanes[lane].from(), self.lanes[lane].to());
        let mut at = at;
        for name in self.zones.between(from, to) {
            let pipe = self.zones.pipe(name);
            pipe.free = Time(pipe.free.max(at).0 + transfer_time(bytes, pipe.rate));
            at = pipe.free;
            self.zones.crossed += if name.1 == 0 { bytes } else { 0 };
        }
        at
    }

    /// A slice has passed the links and comes to its receiver's downlink.
    pub(super) fn crossed(&mut self, lane: usize, slice: Box<Slice>) {
        let to = self.lanes[lane].to();
        let down = &mut self.hosts[to].down;
        down.free = Time(down.free.max(self.now).0 + transfer_time(slice.bytes, down.rate));
        let at = down.free.max(self.lanes[lane].last_arrival);
        self.lanes[lane].last_arrival = at;
        self.push(at, Event::Deliver { lane: lane as u32, slice });
    }

    /// The bound of zones with thin links: what must come into each, and what those in it can't have from each other.
    pub(super) fn bound_of_zones(&self, size: f64) -> f64 {
        let mut bound = 0.0_f64;
        for (number, zone) in (1..).zip(&self.zones.all) {
            let Some([into, _]) = &zone.pipes else { continue };
            let inside = || self.plans.iter().zip(&self.zones.of).filter(|(_, of)| **of == number).map(|(p, _)| p);
            if inside().any(|p| p.complete) {
                continue;
            }
            let uplinks: f64 = inside().map(|p| p.up).sum();
            bound = bound.max(size / into.rate).max(inside().count() as f64 * size / (into.rate + uplinks));
        }
        bound
    }
}
