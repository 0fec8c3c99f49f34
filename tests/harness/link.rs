//! Links: what a connection's writer holds, and how hosts share their uplink and downlink.
//!
//! A control frame on a connection on which nothing else waits goes past the other connections' slices, as a system's fair
//! queueing lets it, and its bytes are owed by the next slice: that is one event instead of three for most frames.
//!
//! A connection has two lanes, one in each direction. A lane is a queue of control frames and blocks in the order in
//! which the swarm sent them. An uplink takes a slice of at most [`SLICE`] bytes from each lane in turn; a slice travels
//! for the latency and then waits for the receiver's downlink. A lane with [`IN_FLIGHT`] bytes not yet received waits,
//! as TCP would.

use shoal_peer::swarm::{ConnId, Time};
use shoal_protocol::Message;
use shoal_protocol::message::Block;
use std::collections::VecDeque;

/// Bytes that an uplink takes from one lane before it turns to the next.
pub const SLICE: u64 = 64 << 10;
/// Bytes that may be under way on any lane; more where rate and latency need it.
pub const IN_FLIGHT: u64 = 1 << 20;

/// What waits in a lane.
#[derive(Debug, Clone)]
pub enum Item {
    /// A control frame.
    Frame(Message),
    /// A block: bytes that are still to be sent, and whether its payload is right.
    Block {
        /// Which.
        block: Block,
        /// Bytes not yet sent.
        rest: u64,
        /// Its payload is right.
        good: bool,
    },
}

/// What arrives.
#[derive(Debug, Clone)]
pub enum Payload {
    /// A control frame.
    Frame(Message),
    /// A whole block.
    Block(Block, bool),
    /// Part of a block.
    Part,
}

/// Part of a lane's queue, on its way.
#[derive(Debug, Clone, Default)]
pub struct Slice {
    /// Its size.
    pub bytes: u64,
    /// What is whole with it.
    pub payload: Vec<Payload>,
    /// Its receiver had yet to read what came before it.
    pub was_there: bool,
}

/// One direction of a connection. The lanes of a connection are neighbours, the one of who dialled first, and each end
/// calls the connection by the number of the lane that it sends on, plus one.
#[derive(Debug, Clone)]
pub struct Lane {
    from: u32,
    to: u32,
    /// The connection stands.
    pub open: bool,
    /// It waits for its turn at the uplink.
    pub queued: bool,
    /// What waits.
    pub queue: VecDeque<Item>,
    /// Bytes that may be under way.
    pub window: u64,
    /// Bytes sent and not received.
    pub in_flight: u64,
    /// Nothing arrives before what was sent earlier.
    pub last_arrival: Time,
}

impl Lane {
    /// An empty lane.
    #[must_use]
    pub fn new(from: usize, to: usize, window: u64) -> Self {
        Self {
            from: from as u32,
            to: to as u32,
            open: true,
            queued: false,
            queue: VecDeque::new(),
            window: window.max(IN_FLIGHT),
            in_flight: 0,
            last_arrival: Time(0),
        }
    }

    /// The host that sends.
    #[must_use]
    pub fn from(&self) -> usize {
        self.from as usize
    }

    /// The host that receives.
    #[must_use]
    pub fn to(&self) -> usize {
        self.to as usize
    }

    /// What the sender of a lane calls the connection.
    #[must_use]
    pub fn sender_name(lane: usize) -> ConnId {
        lane as ConnId + 1
    }

    /// What the receiver of a lane calls the connection.
    #[must_use]
    pub fn receiver_name(lane: usize) -> ConnId {
        Self::sender_name(lane ^ 1)
    }

    /// The lane that somebody sends on who calls the connection so.
    #[must_use]
    pub fn of(conn: ConnId) -> usize {
        conn as usize - 1
    }

    /// Whether its turn at the uplink would bring anything.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.open && !self.queue.is_empty() && self.in_flight < self.window
    }

    /// Takes the next slice out of the queue.
    pub fn take(&mut self, most: u64) -> Slice {
        let mut slice = Slice::default();
        while slice.bytes < most {
            let Some(item) = self.queue.front_mut() else { break };
            match item {
                Item::Frame(message) => {
                    slice.bytes += frame_bytes(message);
                    slice.payload.push(Payload::Frame(message.clone()));
                    self.queue.pop_front();
                }
                Item::Block { block, rest, good } => {
                    let part = (most - slice.bytes).min(*rest);
                    slice.bytes += part;
                    *rest -= part;
                    if *rest == 0 {
                        slice.payload.push(Payload::Block(*block, *good));
                        self.queue.pop_front();
                    } else {
                        slice.payload.push(Payload::Part);
                    }
                }
            }
        }
        self.in_flight += slice.bytes;
        slice
    }
}

/// Size of a control frame on the wire.
#[must_use]
pub fn frame_bytes(message: &Message) -> u64 {
    let body = match message {
        Message::Bitfield { bits, .. } => 8 + bits.len(),
        Message::Have(list) | Message::Unhave(list) => 8 * list.len(),
        Message::Cvs { hashes, .. } => 8 + 32 * hashes.len(),
        Message::Pex { added, dropped } => 2 + 8 * (added.len() + dropped.len()),
        Message::Busy { peers, .. } => 13 + 7 * peers.len(),
        _ => 13,
    };
    5 + body as u64
}

/// A host's uplink: lanes take turns.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// Bytes per second.
    pub rate: f64,
    /// Lanes that have something to send.
    pub ring: VecDeque<usize>,
    /// What is being sent.
    pub busy: Option<(usize, Box<Slice>)>,
    /// Bytes of control frames that passed by the ring: they delay the next slice.
    pub debt: u64,
}

/// A host's downlink: first come, first served.
#[derive(Debug, Clone)]
pub struct Downlink {
    /// Bytes per second.
    pub rate: f64,
    /// When it will have received everything that has arrived.
    pub free: Time,
}

/// How long so many bytes take.
#[must_use]
pub fn transfer_time(bytes: u64, rate: f64) -> u64 {
    (bytes as f64 / rate * 1e6).ceil() as u64
}
