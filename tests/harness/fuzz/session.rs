//! One peer's logic, fed whatever peers, trackers and the machine may say, beside a model of what it may do.

use super::Choices;
use super::frames::decode;
use crate::loopback::{Content, hello};
use shoal_peer::swarm::{Config, ConnId, Connected, Input, Outcome, Output, Swarm, Time};
use shoal_protocol::address::{Reach, reach};
use shoal_protocol::announce::{Handout, HandoutPeer};
use shoal_protocol::message::{Block, Hello};
use shoal_protocol::{Bitfield, Message, PeerId};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

/// Large and small files: nine pieces, one of them a pack.
fn content() -> &'static Content {
    static CONTENT: OnceLock<Content> = OnceLock::new();
    CONTENT.get_or_init(|| Content::tree(80, &[4 * 65_536 + 9, 700, 1_300, 3 * 65_536, 0, 5], 1 << 16))
}

struct Model {
    swarm: Swarm,
    now: Time,
    /// Connections that were made and not closed, and those that we were told to close.
    open: BTreeSet<ConnId>,
    closing: BTreeSet<ConnId>,
    next: ConnId,
    have: Bitfield,
    to_hash: Vec<u32>,
    to_commit: Vec<u32>,
    /// What was hashed last of a piece was right.
    right: BTreeSet<u32>,
    to_compare: Vec<u32>,
    asked: Vec<(ConnId, Block)>,
}

/// The bytes are a list of things that happen.
pub fn session(bytes: &[u8]) {
    let content = content();
    let geometry = content.manifest.geometry();
    let mut choices = Choices::new(bytes);
    let first = choices.byte();
    let pieces = geometry.pieces();
    let have = if first & 1 == 1 { Bitfield::all(pieces) } else { Bitfield::none(pieces) };
    let roots = geometry.large().iter().map(|large| content.manifest.root(large.entry)).collect();
    let known = first & 2 == 2 || first & 1 == 1;
    let config = Config {
        zone: String::new(),
        geometry: Arc::new(geometry.clone()),
        roots,
        peer: PeerId([0x55; 16]),
        have: have.clone(),
        cvs: content.cvs.iter().map(|cv| known.then_some(*cv)).collect(),
        origin: first & 4 == 4 && first & 1 == 1,
        upload: first & 8 == 0,
        max_peers: 6,
        trackers: 1,
        allow_private: false,
        seed: u64::from(first),
    };
    let mut model = Model {
        swarm: Swarm::new(Time(0), config),
        now: Time(0),
        open: BTreeSet::new(),
        closing: BTreeSet::new(),
        next: 1,
        have,
        to_hash: Vec::new(),
        to_commit: Vec::new(),
        right: BTreeSet::new(),
        to_compare: Vec::new(),
        asked: Vec::new(),
    };
    let mut steps = 0;
    while !choices.is_empty() && steps < 400 {
        steps += 1;
        model.step(&mut choices);
    }
}

impl Model {
    fn feed(&mut self, input: Input) {
        self.swarm.handle(self.now, input);
        while let Some(output) = self.swarm.poll() {
            self.check(output);
        }
        if let Err(text) = self.swarm.check_invariants() {
            panic!("{text}");
        }
    }

    fn check(&mut self, output: Output) {
        match output {
            Output::Send { conn, message } => {
                assert!(self.open.contains(&conn), "{message:?} to {conn}, which is not there");
                if let Message::Request(block) = message {
                    assert!(!self.have.has(block.piece), "asked for what is had: {block:?}");
                    self.asked.push((conn, block));
                }
            }
            Output::SendBlock { conn, block } => {
                assert!(self.open.contains(&conn) && self.have.has(block.piece), "{block:?} to {conn}");
                let length = content().manifest.geometry().piece_length(block.piece);
                assert!(block.offset + block.length <= length);
            }
            Output::SendManifest { conn, .. } => assert!(self.open.contains(&conn)),
            Output::Store { block, last } => {
                assert!(!self.have.has(block.piece));
                if last {
                    self.to_hash.push(block.piece);
                }
            }
            Output::Commit { piece } => {
                assert!(self.right.contains(&piece), "{piece} is wrong");
                self.to_commit.push(piece);
            }
            Output::HashBlocks { piece } => self.to_compare.push(piece),
            Output::Close { conn, .. } => {
                assert!(self.open.contains(&conn) && self.closing.insert(conn), "{conn} closed twice");
            }
            Output::Dial { addr } => {
                // All that is told here comes from afar.
                assert!(reach(addr.ip()) == Reach::Global && addr.port() >= 1_024, "{addr} dialled");
            }
            _ => {}
        }
    }

    fn connection(&self, choices: &mut Choices<'_>) -> Option<ConnId> {
        let at = choices.below(self.open.len().max(1) as u32) as usize;
        // Nothing comes of one that is told to close.
        self.open.iter().nth(at).copied().filter(|conn| !self.closing.contains(conn))
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let geometry = content().manifest.geometry();
        self.now = Time(self.now.0 + u64::from(choices.byte()) * 3_000);
        match choices.byte() % 16 {
            0 | 1 if self.open.len() < 12 => {
                let conn = self.next;
                self.next += 1;
                let remote = SocketAddr::from(([8, 8, 8, choices.byte()], 7_171));
                let flags = choices.byte();
                let hello = Hello {
                    peer: PeerId([choices.byte() % 8; 16]),
                    // Lower ones are read as none when the hello is.
                    port: u16::from(choices.byte() | 4) * 257,
                    queue_depth: 1 + u16::from(choices.byte()),
                    needs_manifest: flags & 7 == 7,
                    spreads: flags & 8 == 8,
                    no_upload: flags & 16 == 16,
                    ..hello(content().swarm(), 0)
                };
                self.open.insert(conn);
                let dialled = (flags & 32 == 32).then_some(remote);
                // In its subnet or in another one.
                let local = IpAddr::from([8, 8, 8 + (flags >> 6 & 1), 1]);
                self.feed(Input::Connected(Connected { conn, local, remote, dialled, hello, rtt_us: 1_000 }));
            }
            2 => {
                let at = choices.below(self.open.len().max(1) as u32) as usize;
                if let Some(conn) = self.open.iter().nth(at).copied() {
                    self.open.remove(&conn);
                    self.closing.remove(&conn);
                    self.asked.retain(|(c, _)| *c != conn);
                    self.feed(Input::Closed { conn });
                }
            }
            3..=7 => {
                let length = 5 + choices.below(60) as usize;
                let Some(conn) = self.connection(choices) else { return };
                for message in decode(choices.take(length), usize::MAX).0 {
                    if self.closing.contains(&conn) {
                        return;
                    }
                    match message {
                        Message::Block(block) => self.feed(Input::BlockArrived { conn, block, was_there: false }),
                        message => self.feed(Input::Message { conn, message }),
                    }
                }
            }
            8 => {
                // Something that is mostly right.
                let Some(conn) = self.connection(choices) else { return };
                let piece = choices.below(geometry.pieces());
                let message = match choices.byte() % 8 {
                    0 => Message::HaveAll,
                    1 => Message::HaveNone,
                    2 => Message::Have(vec![(piece, 1)]),
                    3 => Message::Unhave(vec![(piece, 1)]),
                    4 => Message::RequestAny,
                    5 => Message::Request(Block { piece, offset: 0, length: 500 }),
                    6 => Message::Assign { piece },
                    _ => Message::CvRequest { first: piece, count: 1 },
                };
                self.feed(Input::Message { conn, message });
            }
            9 | 10 => {
                let at = choices.below(self.asked.len().max(1) as u32) as usize;
                if at < self.asked.len() {
                    let (conn, block) = self.asked.swap_remove(at);
                    if !self.closing.contains(&conn) {
                        self.feed(Input::BlockArrived { conn, block, was_there: false });
                    }
                }
            }
            11 => {
                let right = !choices.byte().is_multiple_of(4);
                if let Some(piece) = self.to_hash.pop() {
                    let outcome = match geometry.cv_index(piece) {
                        Some(at) if right => Outcome::Cv(content().cvs[at as usize]),
                        Some(_) => Outcome::Cv([9; 32]),
                        None => Outcome::Pack(right),
                    };
                    if right {
                        self.right.insert(piece);
                    } else {
                        self.right.remove(&piece);
                    }
                    self.feed(Input::Hashed { piece, outcome });
                } else if let Some(piece) = self.to_compare.pop() {
                    let blocks = geometry.piece_length(piece).div_ceil(1 << 18);
                    let hashes = vec![[choices.byte() % 2; 32]; blocks as usize];
                    self.feed(Input::BlockHashes { piece, hashes });
                }
            }
            12 => {
                if let Some(piece) = self.to_commit.pop() {
                    self.have.set(piece, true);
                    self.feed(Input::Committed { piece });
                }
            }
            13 => {
                let octets = [choices.byte(), choices.byte(), choices.byte(), choices.byte()];
                let addr = SocketAddr::from((octets, choices.word() as u16)).to_string();
                let peers = vec![HandoutPeer {
                    addrs: vec![addr, format!(":{}", choices.word() as u16)],
                    seed: octets[0].is_multiple_of(2),
                }];
                let handout = Handout {
                    interval: choices.word(),
                    seeds: choices.word(),
                    leechers: 1,
                    completed: choices.word(),
                    peers,
                };
                let reached = [9, 9, 9, 9].into();
                self.feed(Input::Announced { tracker: 0, reached, handout: handout.clamped() });
            }
            14 => {
                let piece = choices.below(geometry.pieces());
                if self.have.has(piece) && choices.byte().is_multiple_of(4) {
                    self.have.set(piece, false);
                    self.feed(Input::Lost { pieces: vec![piece] });
                }
            }
            _ => {
                self.now = Time(self.now.0 + u64::from(choices.byte()) * 1_000_000);
                self.feed(Input::Timeout);
            }
        }
    }
}
