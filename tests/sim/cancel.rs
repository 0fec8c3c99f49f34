//! Requests that are taken back: what a seed answers, word by word, and what who asked still expects.

use harness::loopback::{Content, hello};
use shoal_peer::swarm::session::Session;
use shoal_peer::swarm::waste::Cause;
use shoal_peer::swarm::{Config, ConnId, Connected, Input, Output, Swarm, Time};
use shoal_protocol::message::{Block, RejectReason};
use shoal_protocol::{Bitfield, Message, PeerId, SwarmId};
use std::net::SocketAddr;
use std::sync::Arc;

const PEER: ConnId = 1;
const PIECE: u32 = 64 << 10;

/// A seed of sixteen pieces, and whoever is connected to it.
struct Seed(Swarm);

impl Seed {
    fn new() -> Self {
        let content = Content::tree(1, &[16 * PIECE as usize], PIECE);
        let geometry = content.manifest.geometry();
        let config = Config {
            zone: String::new(),
            roots: geometry.large().iter().map(|large| content.manifest.root(large.entry)).collect(),
            peer: PeerId([1; 16]),
            have: Bitfield::all(geometry.pieces()),
            cvs: content.cvs.iter().copied().map(Some).collect(),
            origin: false,
            upload: true,
            max_peers: 8,
            trackers: 0,
            allow_private: false,
            seed: 1,
            geometry: Arc::new(geometry.clone()),
        };
        let mut seed = Self(Swarm::new(Time(0), config));
        let hello = hello(SwarmId([7; 32]), 2);
        let remote = SocketAddr::from(([10, 0, 0, 2], 40_000));
        seed.tell(Input::Connected(Connected {
            conn: PEER,
            local: remote.ip(),
            remote,
            dialled: None,
            hello,
            rtt_us: 1_000,
        }));
        seed.hear(Message::HaveNone);
        seed
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        self.0.handle(Time(1_000), input);
        std::iter::from_fn(|| self.0.poll()).collect()
    }

    fn hear(&mut self, message: Message) -> Vec<Output> {
        self.tell(Input::Message { conn: PEER, message })
    }
}

fn block(piece: u32) -> Block {
    Block { piece, offset: 0, length: PIECE }
}

fn sends(outputs: &[Output]) -> Vec<Block> {
    outputs.iter().filter_map(|o| if let Output::SendBlock { block, .. } = o { Some(*block) } else { None }).collect()
}

fn rejects(outputs: &[Output]) -> Vec<(Block, RejectReason)> {
    let reject = |o: &Output| match o {
        Output::Send { message: Message::Reject { block, reason }, .. } => Some((*block, *reason)),
        _ => None,
    };
    outputs.iter().filter_map(reject).collect()
}

#[test]
fn every_request_is_answered_once_also_where_it_is_taken_back() {
    let mut seed = Seed::new();
    let mut sent: Vec<Block> = (0..16).flat_map(|piece| sends(&seed.hear(Message::Request(block(piece))))).collect();
    assert!(sent.contains(&block(0)) && !sent.contains(&block(15)), "a writer takes few at a time: {sent:?}");
    assert_eq!(rejects(&seed.hear(Message::Cancel(block(0)))), [], "it is on its way");
    assert_eq!(rejects(&seed.hear(Message::Cancel(block(15)))), [(block(15), RejectReason::Cancelled)]);
    assert_eq!(rejects(&seed.hear(Message::Cancel(block(15)))), [], "it was answered");
    let mut next = 0;
    while let Some(done) = sent.get(next).copied() {
        sent.extend(sends(&seed.tell(Input::BlockSent { conn: PEER, block: done })));
        next += 1;
    }
    sent.sort_unstable_by_key(|block| block.piece);
    assert_eq!(sent, (0..15).map(block).collect::<Vec<_>>());
}

#[test]
fn what_was_asked_for_twice_is_answered_twice() {
    let mut seed = Seed::new();
    (0..16).for_each(|piece| drop(seed.hear(Message::Request(block(piece)))));
    drop(seed.hear(Message::Request(block(15))));
    assert_eq!(rejects(&seed.hear(Message::Cancel(block(15)))), [(block(15), RejectReason::Cancelled); 2]);
}

#[test]
fn taking_back_a_whole_piece_has_no_answer() {
    let mut seed = Seed::new();
    (0..16).for_each(|piece| drop(seed.hear(Message::Request(block(piece)))));
    assert_eq!(rejects(&seed.hear(Message::Cancel(Block { piece: 15, offset: 0, length: 0 }))), []);
    assert_eq!(rejects(&seed.hear(Message::Cancel(block(15)))), [], "it is gone");
}

#[test]
fn a_cancelled_block_has_one_answer_and_a_cancelled_piece_takes_none_from_its_blocks() {
    let remote = SocketAddr::from(([10, 0, 0, 2], 40_000));
    let mut session = Session::new(Time(0), remote, None, hello(SwarmId([7; 32]), 2), 0, 16);
    session.expect_cancelled(Block { piece: 3, offset: 0, length: 0 }, Cause::Assigned, 2);
    assert!(session.take_cancelled(block(3)).is_none(), "it was asked for again, and that is what was answered");
    session.expect_cancelled(block(3), Cause::Beaten, 1);
    assert_eq!(session.take_cancelled(block(3)), Some(Cause::Beaten));
    assert!(session.take_cancelled(block(3)).is_none());
    for _ in 0..2 {
        assert_eq!(session.unexpected(block(3)).unwrap(), Some(Cause::Assigned), "any of its blocks may still come");
    }
    let unasked = (0..100).find(|_| session.unexpected(block(3)).is_err());
    assert!(unasked.is_some_and(|came| came > 0), "each of them once, and then it is as with any other: {unasked:?}");
}
