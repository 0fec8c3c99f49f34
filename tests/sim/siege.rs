//! One swarm's logic with a crowd around it that says what it likes: no network, no clock.

use harness::loopback::{Content, hello};
use shoal_peer::swarm::{Config, ConnId, Connected, Input, Outcome, Output, Swarm, Time};
use shoal_protocol::message::{Block, GoodbyeReason, Hello, RejectReason};
use shoal_protocol::{Bitfield, Geometry, Message, PeerId};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(crate) const MAX: usize = 50;
pub(crate) const HONEST: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9)), 7171);

/// One swarm under siege, and what it said to whom.
pub(crate) struct Siege {
    pub(crate) swarm: Swarm,
    pub(crate) now: Time,
    pub(crate) next: ConnId,
    pub(crate) content: Content,
    /// Those that stand, by their remote address.
    pub(crate) open: BTreeMap<ConnId, SocketAddr>,
    pub(crate) refused: Vec<(ConnId, GoodbyeReason)>,
    pub(crate) dialled: Vec<SocketAddr>,
    /// Blocks that it was about to send, to whom.
    pub(crate) sending: Vec<(ConnId, Block)>,
    /// What it said last.
    pub(crate) said: Vec<(ConnId, Message)>,
    /// Pieces that came whole.
    pub(crate) whole: Vec<u32>,
    /// Pieces that turned out right.
    pub(crate) commits: Vec<u32>,
}

impl Siege {
    pub(crate) fn new(complete: bool) -> Self {
        let content = Content::file(33, 1 << 20, 1 << 16);
        let geometry = content.manifest.geometry().clone();
        Self::of(content, geometry, complete, false)
    }

    pub(crate) fn origin() -> Self {
        let content = Content::file(33, 1 << 20, 1 << 16);
        let geometry = content.manifest.geometry().clone();
        Self::of(content, geometry, true, true)
    }

    /// A fetch of a GiB that nobody has.
    pub(crate) fn large() -> Self {
        let geometry = Geometry::new(1 << 20, [(0, 1 << 30)].into_iter()).expect("it is valid");
        Self::of(Content::file(33, 1 << 10, 1 << 16), geometry, false, false)
    }

    fn of(content: Content, geometry: Geometry, complete: bool, origin: bool) -> Self {
        let pieces = geometry.pieces();
        let config = Config {
            roots: geometry.large().iter().map(|large| content.manifest.root(large.entry)).collect(),
            cvs: (0..pieces).map(|n| content.cvs.get(n as usize).copied().filter(|_| complete)).collect(),
            geometry: Arc::new(geometry),
            peer: PeerId([0x55; 16]),
            have: if complete { Bitfield::all(pieces) } else { Bitfield::none(pieces) },
            origin,
            upload: true,
            max_peers: MAX,
            trackers: 1,
            zone: String::new(),
            allow_private: false,
            seed: 1,
        };
        let swarm = Swarm::new(Time(0), config);
        let (open, refused, dialled) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self {
            swarm,
            now: Time(0),
            next: 1,
            content,
            open,
            refused,
            dialled,
            sending: Vec::new(),
            said: Vec::new(),
            whole: Vec::new(),
            commits: Vec::new(),
        }
    }

    pub(crate) fn feed(&mut self, input: Input) {
        self.swarm.handle(self.now, input);
        let mut closed = Vec::new();
        while let Some(output) = self.swarm.poll() {
            match output {
                Output::Close { conn, reason } => {
                    self.refused.push((conn, reason));
                    closed.push(conn);
                }
                Output::Dial { addr } => self.dialled.push(addr),
                Output::SendBlock { conn, block } => self.sending.push((conn, block)),
                Output::Send { conn, message } => self.said.push((conn, message)),
                Output::Store { block, last: true } => self.whole.push(block.piece),
                Output::Commit { piece } => self.commits.push(piece),
                _ => {}
            }
        }
        self.swarm.check_invariants().expect("its accounts are in order");
        for conn in closed {
            self.open.remove(&conn);
            self.feed(Input::Closed { conn });
        }
    }

    /// Somebody comes, or was dialled, and has nothing or all.
    pub(crate) fn connect(&mut self, remote: SocketAddr, dialled: bool, has_all: bool) -> ConnId {
        let mut name = [0; 16];
        name[..4].copy_from_slice(&self.next.to_le_bytes());
        self.connect_as(PeerId(name), remote, dialled, has_all)
    }

    /// Somebody comes and has nothing, and says more of itself than that.
    pub(crate) fn connect_with(&mut self, remote: SocketAddr, says: impl FnOnce(&mut Hello)) -> ConnId {
        let conn = self.next;
        self.next += 1;
        let mut name = [0; 16];
        name[..4].copy_from_slice(&conn.to_le_bytes());
        let mut hello = Hello { peer: PeerId(name), ..hello(self.content.swarm(), 0) };
        says(&mut hello);
        let needs_manifest = hello.needs_manifest;
        self.open.insert(conn, remote);
        self.feed(Input::Connected(Connected {
            conn,
            local: HONEST.ip(),
            remote,
            dialled: None,
            hello,
            rtt_us: 1_000,
        }));
        if !needs_manifest {
            self.feed(Input::Message { conn, message: Message::HaveNone });
        }
        conn
    }

    /// The same under a name of its own choice.
    pub(crate) fn connect_as(&mut self, name: PeerId, remote: SocketAddr, dialled: bool, has_all: bool) -> ConnId {
        let conn = self.next;
        self.next += 1;
        let hello = Hello { peer: name, ..hello(self.content.swarm(), 0) };
        self.open.insert(conn, remote);
        let dialled = dialled.then_some(remote);
        self.feed(Input::Connected(Connected { conn, local: HONEST.ip(), remote, dialled, hello, rtt_us: 1_000 }));
        if self.open.contains_key(&conn) {
            let message = if has_all { Message::HaveAll } else { Message::HaveNone };
            self.feed(Input::Message { conn, message });
        }
        conn
    }

    /// Time passes; all who are there say that they still are. What was dialled doesn't answer, but for the honest one.
    pub(crate) fn wait(&mut self, seconds: u64) {
        let end = Time(self.now.0 + seconds * 1_000_000);
        while self.now < end {
            self.now = Time(self.now.0 + 100_000);
            if self.now.0.is_multiple_of(30_000_000) {
                for conn in self.open.keys().copied().collect::<Vec<_>>() {
                    self.feed(Input::Message { conn, message: Message::KeepAlive });
                }
            }
            self.feed(Input::Timeout);
        }
    }

    pub(crate) fn says(&mut self, conn: ConnId, message: Message) {
        self.feed(Input::Message { conn, message });
    }

    pub(crate) fn asks(&mut self, conn: ConnId, piece: u32, length: u32) {
        self.says(conn, Message::Request(Block { piece, offset: 0, length }));
    }

    /// Gives whatever blocks are asked of it, and no CVs. Returns their bytes.
    pub(crate) fn answers_without_cvs(&mut self, conn: ConnId) -> u64 {
        let mut bytes = 0;
        for (to, message) in std::mem::take(&mut self.said) {
            if let Message::Request(block) = message
                && to == conn
            {
                bytes += u64::from(block.length);
                self.feed(Input::BlockArrived { conn, block, was_there: false });
            }
        }
        for piece in std::mem::take(&mut self.whole) {
            self.feed(Input::Hashed { piece, outcome: Outcome::Cv([7; 32]) });
        }
        bytes
    }

    /// Answers one block that was asked of it, right or wrong. Others give nothing but the CVs as they are.
    pub(crate) fn answers(&mut self, conn: ConnId, right: bool) {
        let mut answered = false;
        for (to, message) in std::mem::take(&mut self.said) {
            match message {
                Message::Request(_) if to == conn && answered => self.said.push((to, message)),
                Message::Request(block) if to == conn => {
                    answered = true;
                    self.feed(Input::BlockArrived { conn, block, was_there: false });
                }
                Message::CvRequest { first, count } => {
                    let hashes = self.content.cvs[first as usize..(first + count) as usize].to_vec();
                    self.says(to, Message::Cvs { first, count, hashes });
                }
                Message::Request(block) => self.says(to, Message::Reject { block, reason: RejectReason::NoUpload }),
                _ => {}
            }
        }
        for piece in std::mem::take(&mut self.whole) {
            let cv = if right { self.content.cvs[piece as usize] } else { [7; 32] };
            self.feed(Input::Hashed { piece, outcome: Outcome::Cv(cv) });
        }
        for piece in std::mem::take(&mut self.commits) {
            self.feed(Input::Committed { piece });
        }
    }

    pub(crate) fn wait_a_moment(&mut self) {
        self.now = Time(self.now.0 + 10_000);
        self.feed(Input::Timeout);
        assert!(self.now < Time(600_000_000), "nothing came of it");
    }

    pub(crate) fn stands(&self, conn: ConnId) -> bool {
        self.open.contains_key(&conn)
    }
}

pub(crate) fn evil(n: u8) -> SocketAddr {
    // Each from a network of its own.
    SocketAddr::from(([11, n, 0, 1], 40_000))
}
