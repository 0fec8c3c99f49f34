//! Crowds that come only to be there (R9, T6): connections that do nothing keep a fetch from its sources and a seed from
//! its fetchers for a moment only.

use harness::loopback::{Content, hello};
use shoal_peer::swarm::{Config, ConnId, Connected, Input, Output, Swarm, Time};
use shoal_protocol::announce::{Handout, HandoutPeer};
use shoal_protocol::message::{Block, GoodbyeReason, Hello};
use shoal_protocol::{Bitfield, Message, PeerId};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const MAX: usize = 50;
const HONEST: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9)), 7171);

/// One swarm under siege, and what it said to whom.
struct Siege {
    swarm: Swarm,
    now: Time,
    next: ConnId,
    content: Content,
    /// Those that stand, by their remote address.
    open: BTreeMap<ConnId, SocketAddr>,
    refused: Vec<(ConnId, GoodbyeReason)>,
    dialled: Vec<SocketAddr>,
    /// Blocks that it was about to send, to whom.
    sending: Vec<(ConnId, Block)>,
}

impl Siege {
    fn new(complete: bool) -> Self {
        let content = Content::file(33, 1 << 20, 1 << 16);
        let geometry = content.manifest.geometry();
        let pieces = geometry.pieces();
        let config = Config {
            geometry: Arc::new(geometry.clone()),
            roots: geometry.large().iter().map(|large| content.manifest.root(large.entry)).collect(),
            peer: PeerId([0x55; 16]),
            have: if complete { Bitfield::all(pieces) } else { Bitfield::none(pieces) },
            cvs: content.cvs.iter().map(|cv| complete.then_some(*cv)).collect(),
            origin: false,
            upload: true,
            max_peers: MAX,
            trackers: 1,
            zone: String::new(),
            allow_private: false,
            seed: 1,
        };
        let swarm = Swarm::new(Time(0), config);
        let (open, refused, dialled, sending) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        Self { swarm, now: Time(0), next: 1, content, open, refused, dialled, sending }
    }

    fn feed(&mut self, input: Input) {
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
    fn connect(&mut self, remote: SocketAddr, dialled: bool, has_all: bool) -> ConnId {
        let conn = self.next;
        self.next += 1;
        let mut peer = [0; 16];
        peer[..4].copy_from_slice(&conn.to_le_bytes());
        let hello = Hello { peer: PeerId(peer), ..hello(self.content.swarm(), 0) };
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
    fn wait(&mut self, seconds: u64) {
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

    fn stands(&self, conn: ConnId) -> bool {
        self.open.contains_key(&conn)
    }
}

fn evil(n: u8) -> SocketAddr {
    // Each from a network of its own.
    SocketAddr::from(([11, n, 0, 1], 40_000))
}

#[test]
fn a_crowd_that_does_nothing_does_not_keep_a_fetch_from_dialling_who_has_it() {
    let mut siege = Siege::new(false);
    for n in 0..60 {
        siege.connect(evil(n), false, false);
    }
    assert!(siege.open.len() < MAX, "some places are for those whom it chooses itself");
    let peers = vec![HandoutPeer { addrs: vec![HONEST.to_string()], seed: true }];
    let handout = Handout { interval: 30, seeds: 1, leechers: 60, peers };
    siege.feed(Input::Announced { tracker: 0, reached: [9, 1, 1, 1].into(), handout });
    siege.wait(15);
    assert!(siege.dialled.contains(&HONEST), "kept from its source by {} connections", siege.open.len());
    let honest = siege.connect(HONEST, true, true);
    assert!(siege.stands(honest));
}

#[test]
fn a_house_full_of_idle_ones_has_room_for_who_comes() {
    for complete in [false, true] {
        let mut siege = Siege::new(complete);
        let crowd: Vec<ConnId> = (0..60).map(|n| siege.connect(evil(n), false, false)).collect();
        let early = siege.connect(SocketAddr::from(([9, 9, 9, 1], 40_000)), false, !complete);
        assert!(!siege.stands(early), "the house is full");
        siege.wait(11);
        let late = siege.connect(SocketAddr::from(([9, 9, 9, 2], 40_000)), false, !complete);
        assert!(siege.stands(late), "complete: {complete}");
        assert_eq!(crowd.iter().filter(|conn| siege.stands(**conn)).count(), MAX - 1 - usize::from(!complete) * 2);
    }
}

#[test]
fn a_house_full_of_busy_ones_of_one_address_has_room_for_others() {
    // In a private network, too, and where each does something all the time.
    for crowd in [[10, 0, 0, 66], [8, 8, 8, 8]] {
        let mut siege = Siege::new(true);
        let of = |n: u8| SocketAddr::from(([10, 0, 1, n], 40_000));
        let first: Vec<ConnId> = (0..40).map(|n| siege.connect(of(n), false, false)).collect();
        let many: Vec<ConnId> = (0..MAX as u16 + 30)
            .map(|n| {
                let conn = siege.connect(SocketAddr::from((crowd, 40_000 + n)), false, false);
                let block = Block { piece: 0, offset: 0, length: 1_000 };
                siege.feed(Input::Message { conn, message: Message::Request(block) });
                conn
            })
            .collect();
        assert!(first.iter().all(|conn| siege.stands(*conn)), "a crowd pushes nobody out");
        let late: Vec<ConnId> = (100..130).map(|n| siege.connect(of(n), false, false)).collect();
        let [late, many] = [late, many].map(|all| all.iter().filter(|conn| siege.stands(**conn)).count());
        assert_eq!((late, many), (MAX - 41, 1), "{crowd:?}");
        assert!(first.iter().all(|conn| siege.stands(*conn)));
    }
}

#[test]
fn a_house_full_of_one_network_has_room_for_others() {
    let mut siege = Siege::new(true);
    let come = |siege: &mut Siege, network: [u8; 3], hosts: std::ops::Range<u8>| -> Vec<ConnId> {
        let [a, b, c] = network;
        hosts.map(|n| siege.connect(SocketAddr::from(([a, b, c, n], 40_000)), false, false)).collect()
    };
    let many = come(&mut siege, [10, 0, 0], 0..60);
    let standing = |siege: &Siege, all: &[ConnId]| all.iter().filter(|conn| siege.stands(**conn)).count();
    assert_eq!(standing(&siege, &many), MAX);
    let alone: Vec<ConnId> = (0..5).flat_map(|n| come(&mut siege, [9, 9, n], 1..2)).collect();
    assert_eq!((standing(&siege, &alone), standing(&siege, &many)), (5, MAX - 5));
    let second = come(&mut siege, [10, 0, 1], 0..60);
    let halves = (standing(&siege, &second), standing(&siege, &many));
    assert!(halves.0.abs_diff(halves.1) <= 1 && halves.0 + halves.1 == MAX - 5, "{halves:?}");
    assert_eq!(standing(&siege, &alone), 5);
    // A second connection of a host costs nobody else of its network the place.
    let again = come(&mut siege, [10, 0, 1], 0..1);
    assert!(!siege.stands(again[0]));
}

#[test]
fn who_took_a_block_long_ago_makes_room_and_who_takes_them_now_does_not() {
    let mut siege = Siege::new(true);
    let crowd: Vec<ConnId> = (0..MAX as u8).map(|n| siege.connect(evil(n), false, false)).collect();
    let take = |siege: &mut Siege, conn: ConnId| {
        let block = Block { piece: conn % 16, offset: 0, length: 1_000 };
        siege.feed(Input::Message { conn, message: Message::Request(block) });
        while let Some((conn, block)) = siege.sending.pop() {
            siege.feed(Input::BlockSent { conn, block });
        }
    };
    for conn in &crowd {
        take(&mut siege, *conn);
    }
    siege.wait(50);
    take(&mut siege, crowd[0]);
    siege.wait(11);
    for n in 0..MAX as u8 + 5 {
        siege.connect(SocketAddr::from(([9, n, 9, 2], 40_000)), false, false);
    }
    assert!(siege.stands(crowd[0]), "it took something not long ago");
    assert!(crowd[1..].iter().all(|conn| !siege.stands(*conn)));
}

#[test]
fn a_network_on_the_internet_gets_a_quarter_of_the_places() {
    let mut siege = Siege::new(true);
    for n in 0..25 {
        siege.connect(evil(n), false, false);
    }
    let same: Vec<ConnId> =
        (0..40).map(|n| siege.connect(SocketAddr::from(([8, 8, 8, n], 40_000)), false, false)).collect();
    assert_eq!(same.iter().filter(|conn| siege.stands(**conn)).count(), MAX.div_ceil(4));
    let other = siege.connect(SocketAddr::from(([8, 8, 9, 1], 40_000)), false, false);
    assert!(siege.stands(other));
    // In a private network there may be nobody else.
    let mut siege = Siege::new(true);
    let near: Vec<ConnId> =
        (0..40).map(|n| siege.connect(SocketAddr::from(([10, 0, 0, n], 40_000)), false, false)).collect();
    assert!(near.iter().all(|conn| siege.stands(*conn)));
}

#[test]
fn who_comes_again_under_a_new_name_is_served_after_newcomers() {
    let ask = |siege: &mut Siege, conn: ConnId, piece: u32| {
        let block = Block { piece, offset: 0, length: 1 << 16 };
        siege.feed(Input::Message { conn, message: Message::Request(block) });
    };
    let sent = |siege: &mut Siege| {
        let (conn, block) = siege.sending.remove(0);
        siege.feed(Input::BlockSent { conn, block });
        conn
    };
    let new = SocketAddr::from(([9, 9, 9, 9], 40_000));
    for (old, waits) in [(evil(1), true), (SocketAddr::from(([10, 0, 0, 1], 40_000)), false)] {
        let mut siege = Siege::new(true);
        let greedy = siege.connect(old, false, false);
        for piece in 0..10 {
            ask(&mut siege, greedy, piece);
            assert_eq!(sent(&mut siege), greedy);
        }
        siege.feed(Input::Closed { conn: greedy });
        // All turns are taken by others; then the greedy one asks before somebody who was never here.
        for n in 10..13 {
            let busy = siege.connect(evil(n), false, false);
            ask(&mut siege, busy, 0);
        }
        let again = siege.connect(old, false, false);
        ask(&mut siege, again, 1);
        siege.now = Time(siege.now.0 + 1_000);
        let newcomer = siege.connect(new, false, false);
        ask(&mut siege, newcomer, 2);
        let order: Vec<ConnId> = (0..5).map(|_| sent(&mut siege)).skip(3).collect();
        assert_eq!(order == [newcomer, again], waits, "{order:?}");
    }
}
