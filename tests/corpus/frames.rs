//! Hostile frames (R: a malicious peer), through every door that reads frames: a seed's port, a fetch's port, a fetch
//! that dialled the wrong one, a port before any hello, somebody who asks for a manifest, and the codec in any splits.

use crate::run;
use bytes::BytesMut;
use harness::loopback::{Content, Evil, PATIENCE, complete, engine, hello};
use shoal_protocol::announce::StopReason;
use shoal_protocol::codec::Codec;
use shoal_protocol::message::{Block, GoodbyeReason, Hello, PexPeer};
use shoal_protocol::{ContentId, Message, SwarmId};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Who must refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Whoever reads frames, by the bytes alone.
    Frame,
    /// Who knows the content and what was said before.
    Session,
    /// Nobody: it may be useless, but it is allowed.
    None,
}

/// Bytes behind the hellos.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    bytes: Vec<u8>,
    fault: Fault,
    /// They come in place of what the peer has to say at first, not behind it.
    first: bool,
}

/// Sixteen pieces of 256 KiB.
fn content() -> Content {
    Content::file(21, 4 << 20, 1 << 18)
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32).to_le_bytes().to_vec();
    out.push(kind);
    out.extend(body);
    out
}

fn header(kind: u8, length: u32) -> Vec<u8> {
    let mut out = length.to_le_bytes().to_vec();
    out.push(kind);
    out
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Longest body of each kind, as WIRE.md has it.
const LONGEST: [(u8, u32); 22] = [
    (0x01, 255),
    (0x02, 0),
    (0x03, 32_776),
    (0x04, 0),
    (0x05, 0),
    (0x06, 32_768),
    (0x07, 32_768),
    (0x08, 12),
    (0x09, 0),
    (0x0a, 4),
    (0x0b, 262_152),
    (0x0c, 12),
    (0x0d, 13),
    (0x0e, 963),
    (0x0f, 8),
    (0x10, 34_824),
    (0x11, 4),
    (0x12, 33_193),
    (0x13, 1_952),
    (0x14, 257),
    (0x15, 4),
    (0x16, 4),
];

/// Kinds whose bodies have one length.
const EXACT: [u8; 11] = [0x02, 0x04, 0x05, 0x08, 0x09, 0x0a, 0x0c, 0x0d, 0x11, 0x15, 0x16];

struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, fault: Fault, name: impl Into<String>, bytes: Vec<u8>) {
        self.0.push(Case { name: name.into(), bytes, fault, first: false });
    }

    fn first(&mut self, fault: Fault, name: &str, bytes: Vec<u8>) {
        self.0.push(Case { name: name.into(), bytes, fault, first: true });
    }
}

fn lengths(table: &mut Table) {
    for (kind, longest) in LONGEST {
        for length in [longest + 1, 1 << 24, (1 << 31) - 1, 1 << 31, u32::MAX] {
            table.add(Fault::Frame, format!("R2 kind {kind:#04x} of {length} bytes"), header(kind, length));
        }
        if EXACT.contains(&kind) && longest > 0 {
            let short = vec![0; longest as usize - 1];
            table.add(Fault::Frame, format!("R2 kind {kind:#04x} a byte short"), frame(kind, &short));
            table.add(Fault::Frame, format!("R2 kind {kind:#04x} empty"), frame(kind, &[]));
        }
    }
    for kind in (0x17..0x80).chain([0]) {
        table.add(Fault::Frame, format!("R2 unknown kind {kind:#04x}"), frame(kind, b"x"));
    }
    for kind in [0x80, 0x8b, 0xff] {
        table.add(Fault::None, format!("R2 kind {kind:#04x}, to be skipped"), frame(kind, &vec![0xff; 65_536]));
        for length in [65_537, u32::MAX] {
            table.add(Fault::Frame, format!("R2 kind {kind:#04x} of {length}, to be skipped"), header(kind, length));
        }
    }
    table.add(Fault::Frame, "R2 a block without payload", frame(0x0b, &[0; 8]));
    table.add(Fault::Frame, "R2 a block shorter than its head", frame(0x0b, &[0; 7]));
    table.add(Fault::Session, "R2 keep-alives without end", frame(0x02, &[]).repeat(5_000));
    table.add(Fault::Session, "R2 pings without end", frame(0x15, &[0; 4]).repeat(5_000));
    table.add(Fault::Session, "R2 nothing, to be skipped without end", frame(0x80, &[]).repeat(5_000));
}

fn holdings(table: &mut Table) {
    for (name, ranges) in [
        ("past the end", &[16, 1][..]),
        ("past the end, in part", &[15, 2]),
        ("that overlap", &[0, 4, 3, 1]),
        ("twice", &[0, 16, 0, 16]),
        ("backwards", &[9, 1, 3, 1]),
    ] {
        for kind in [0x06, 0x07] {
            table.add(Fault::Session, format!("R3 kind {kind:#04x}: pieces {name}"), frame(kind, &words(ranges)));
        }
    }
    for (name, body) in [
        ("of none", vec![]),
        ("an empty range", words(&[3, 0])),
        ("that overflow", words(&[u32::MAX, 2])),
        ("that overflow by all", words(&[1, u32::MAX])),
        ("half a range", words(&[3])),
        ("a byte too many", [words(&[3, 1]), vec![0]].concat()),
    ] {
        for kind in [0x06, 0x07] {
            table.add(Fault::Frame, format!("R3 kind {kind:#04x}: {name}"), frame(kind, &body));
        }
    }
    let bits = |first, count, bits: &[u8]| frame(0x03, &[words(&[first, count]), bits.to_vec()].concat());
    table.first(Fault::Frame, "R3 a bitfield of none", bits(0, 0, &[]));
    table.first(Fault::Frame, "R3 a bitfield that is cut", bits(0, 16, &[0xff]));
    table.first(Fault::Frame, "R3 a bitfield with a byte more", bits(0, 16, &[0xff; 3]));
    table.first(Fault::Frame, "R3 spare bits", bits(0, 15, &[0xff, 0xff]));
    table.first(Fault::Frame, "R3 a bitfield that overflows", bits(u32::MAX - 6, 8, &[0xff]));
    table.first(Fault::Frame, "R3 a bitfield of too many", bits(0, 262_145, &[0; 32_768]));
    table.first(Fault::Session, "R3 a bitfield past the end", bits(0, 24, &[0xff; 3]));
    table.first(Fault::Session, "R3 a bitfield that starts late", bits(8, 8, &[0xff]));
    table.first(Fault::Session, "R3 a bitfield twice", bits(0, 16, &[0xff, 0]).repeat(2));
    table.first(Fault::Session, "R3 half a bitfield, twice", bits(0, 8, &[0xff]).repeat(2));
    table.first(Fault::Session, "R3 none and all", [frame(5, &[]), frame(4, &[])].concat());
    table.first(Fault::Session, "R3 a bitfield behind none", [frame(5, &[]), bits(0, 16, &[0xff, 0])].concat());
    for (name, kind) in [("R3 all behind half a bitfield", 4), ("R3 none behind half a bitfield", 5)] {
        table.first(Fault::Session, name, [bits(0, 8, &[0xff]), frame(kind, &[])].concat());
    }
    table.first(
        Fault::Session,
        "R3 a bitfield behind have",
        [frame(5, &[]), frame(6, &words(&[1, 1])), bits(0, 16, &[0; 2])].concat(),
    );
    table.first(Fault::None, "a bitfield in two parts", [bits(0, 8, &[0]), bits(8, 8, &[0])].concat());
}

fn requests(table: &mut Table) {
    for (name, block) in [
        ("past the piece", [0, 1 << 18, 1]),
        ("past the piece, in part", [0, 1, 1 << 18]),
        ("of no piece", [16, 0, 1]),
        ("of the last number", [u32::MAX, 0, 1]),
        ("that overflows", [0, u32::MAX, 1]),
    ] {
        table.add(Fault::Session, format!("R4 a request {name}"), frame(0x08, &words(&block)));
    }
    for length in [0, 262_145, u32::MAX] {
        table.add(Fault::Frame, format!("R4 a request of {length} bytes"), frame(0x08, &words(&[0, 0, length])));
    }
    for block in [[0, 0, 0], [16, 0, 0], [u32::MAX; 3], [3, 5, 7]] {
        table.add(Fault::None, format!("R4 a cancel of {block:?}"), frame(0x0c, &words(&block)));
    }
    table.add(Fault::Session, "R4 CVs past the end", frame(0x0f, &words(&[15, 2])));
    table.add(Fault::Session, "R4 CVs that overflow", frame(0x0f, &words(&[u32::MAX - 9, 9])));
    table.add(Fault::Frame, "R4 CVs of none", frame(0x0f, &words(&[0, 0])));
    table.add(Fault::Frame, "R4 CVs of too many", frame(0x0f, &words(&[0, 1_025])));
    table.add(Fault::Session, "R4 a manifest segment past the end", frame(0x11, &words(&[1])));
    table.add(Fault::Session, "R4 the last number of manifest segments", frame(0x11, &words(&[u32::MAX])));
}

fn answers(table: &mut Table) {
    table.add(Fault::Session, "R6 an assignment that nobody asked for", frame(0x0a, &words(&[3])));
    table.add(Fault::Session, "R6 an assignment of no piece", frame(0x0a, &words(&[16])));
    table.add(Fault::Session, "R6 CVs that nobody asked for", frame(0x10, &words(&[0, 1])));
    table.add(Fault::Frame, "R6 CVs of half a hash", frame(0x10, &[words(&[0, 1]), vec![0; 31]].concat()));
    table.add(Fault::Session, "R6 a manifest segment", frame(0x12, &[0; 9]));
    table.add(Fault::Frame, "R6 no manifest, with a proof", frame(0x12, &[&[0; 8][..], &[1], &[0; 32]].concat()));
    table.add(
        Fault::Frame,
        "R6 a segment past its total",
        frame(0x12, &[&words(&[10, 1])[..], &[0], &[0; 10]].concat()),
    );
    table.add(
        Fault::Frame,
        "R6 a segment shorter than said",
        frame(0x12, &[&words(&[10, 0])[..], &[0], &[0; 9]].concat()),
    );
    table.add(
        Fault::Frame,
        "R6 a total above the limit",
        frame(0x12, &[&words(&[(256 << 20) + 1, 0])[..], &[0; 33]].concat()),
    );
    table.add(
        Fault::Frame,
        "R6 a proof of too many",
        frame(0x12, &[&words(&[10, 0])[..], &[14], &[0; 32 * 14], &[0; 10]].concat()),
    );
    table.add(Fault::Frame, "R6 a reject for no reason", frame(0x0d, &[&[0; 12][..], &[6]].concat()));
    let block = |length: u32| [header(0x0b, 8 + length), words(&[1, 0]), vec![7; length as usize]].concat();
    table.add(Fault::Session, "R6 nine blocks that nobody asked for", block(100).repeat(9));
    table.add(Fault::None, "R6 eight blocks that nobody asked for", block(100).repeat(8));
    let nowhere = [header(0x0b, 8 + 9), words(&[u32::MAX, u32::MAX]), vec![7; 9]].concat();
    table.add(Fault::Session, "R6 blocks of nowhere", nowhere.repeat(9));
}

fn gossip(table: &mut Table) {
    let pex = |body: &[u8]| frame(0x13, body);
    let v4 = [4, 10, 0, 0, 1, 3, 28];
    table.add(Fault::Frame, "T1 51 peers", pex(&[&[51][..], &[&v4[..], &[0]].concat().repeat(51), &[0]].concat()));
    table.add(Fault::Frame, "T1 51 peers dropped", pex(&[&[0, 51][..], &v4.repeat(51)].concat()));
    table.add(Fault::Frame, "T1 a peer with unknown flags", pex(&[&[1][..], &v4, &[2], &[0]].concat()));
    table.add(Fault::Frame, "T1 a peer of an unknown family", pex(&[&[1, 5][..], &v4[1..], &[0], &[0]].concat()));
    table.add(Fault::Frame, "T1 an IPv4 address in an IPv6 coat", {
        let mut coat = vec![1, 6];
        coat.extend([0; 10]);
        coat.extend([0xff, 0xff, 10, 0, 0, 1, 3, 28, 0, 0]);
        pex(&coat)
    });
    table.add(Fault::Frame, "T1 fewer peers than said", pex(&[&[2][..], &v4, &[0], &[0]].concat()));
    table.add(Fault::Frame, "T1 nothing at all", pex(&[]));
    table.add(Fault::None, "T1 none", pex(&[0, 0]));
    let near = [4, 169, 254, 169, 254, 80, 0];
    table.add(Fault::None, "T1 what must not be dialled", pex(&[&[1][..], &near, &[1], &[0]].concat()));
    table.add(Fault::Frame, "R2 a goodbye without reason", frame(0x14, &[]));
    table.add(Fault::Frame, "R2 a goodbye of an unknown reason", frame(0x14, &[10, 0]));
    table.add(Fault::Frame, "P10 a goodbye that paints", frame(0x14, &[0, 4, 0x1b, b'[', b'1', b'm']));
    table.add(Fault::Frame, "R2 a goodbye longer than it says", frame(0x14, &[0, 1, b'a', b'b']));
}

fn hellos(table: &mut Table, swarm: SwarmId) {
    let body = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut out = BytesMut::new();
        Message::Hello(Box::new(Hello { zone: "z".into(), client: "c".into(), ..hello(swarm, 9) })).encode(&mut out);
        let mut body = out[5..].to_vec();
        change(&mut body);
        frame(0x01, &body)
    };
    table.add(Fault::Session, "R3 a second hello", body(&|_| {}));
    table.add(Fault::Frame, "R3 a hello with a queue of none", body(&|b| b[58..60].fill(0)));
    table.add(
        Fault::Frame,
        "R3 a hello with a queue of 1,025",
        body(&|b| b[58..60].copy_from_slice(&1_025_u16.to_le_bytes())),
    );
    table.add(Fault::Frame, "R3 a hello with unknown flags", body(&|b| b[60] = 8));
    table.add(Fault::Frame, "P10 a zone that climbs", body(&|b| b[62] = b'/'));
    table.add(Fault::Frame, "P10 a client that paints", body(&|b| b[64] = 0x1b));
    table.add(Fault::Frame, "R2 a zone longer than the hello", body(&|b| b[61] = 127));
    table.add(Fault::Frame, "R2 a hello with more behind it", body(&|b| b.push(0)));
}

fn cases(swarm: SwarmId) -> Vec<Case> {
    let mut table = Table(Vec::new());
    lengths(&mut table);
    holdings(&mut table);
    requests(&mut table);
    answers(&mut table);
    gossip(&mut table);
    hellos(&mut table, swarm);
    table.0
}

fn is_protocol(message: Option<&Message>) -> bool {
    matches!(message, Some(Message::Goodbye { reason: GoodbyeReason::Protocol, .. }))
}

/// Sends a case and sees how it ends: a fault with a word, and what is allowed not at all.
async fn play(evil: &mut Evil, case: &Case, door: &str) {
    if !case.first {
        evil.send(&Message::HaveNone).await.unwrap();
    }
    // The other side may be gone before all is written.
    let _ = evil.stream.write_all(&case.bytes).await;
    if case.fault == Fault::None {
        // A question that only who is still there answers.
        evil.send(&Message::CvRequest { first: 0, count: 1 }).await.unwrap();
        let answer = loop {
            match evil.next().await {
                Ok(Message::Cvs { first: 0, .. }) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        assert!(answer, "{} at {door}: it ended", case.name);
    } else {
        assert!(is_protocol(evil.last_words().await.as_ref()), "{} at {door}", case.name);
    }
}

#[test]
fn a_seeds_port_and_a_fetchs_port() {
    run(async {
        let content = content();
        let (a, b, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
        let seed = content.seed(&a, &[]);
        let mut fetch = content.fetch(&b, dir.path(), &[], &[]);
        for (n, case) in cases(content.swarm()).iter().enumerate() {
            for (engine, door) in [(&a, "a seed"), (&b, "a fetch")] {
                let mut ours = hello(content.swarm(), 1);
                ours.peer.0[..8].copy_from_slice(&(n as u64 + 7).to_le_bytes());
                let mut evil = Evil::dial(engine.local_addr(), &ours).await.unwrap();
                play(&mut evil, case, door).await;
            }
        }
        // Both are as good as new: told where the other one is, they transfer.
        let mut teller = Evil::dial(b.local_addr(), &hello(content.swarm(), 2)).await.unwrap();
        let added = vec![PexPeer { addr: a.local_addr(), seed: true }];
        teller.send(&Message::HaveNone).await.unwrap();
        teller.send(&Message::Pex { added, dropped: Vec::new() }).await.unwrap();
        assert!(content.is_at(&complete(&mut fetch).await));
        fetch.stop(StopReason::Done).await;
        seed.stop(StopReason::Done).await;
        a.shutdown().await;
        b.shutdown().await;
    });
}

#[test]
fn a_fetch_that_dialled_the_wrong_one() {
    run(async {
        let content = content();
        // Each needs a fetch of its own, whose first dial is what takes time.
        for some in cases(content.swarm()).chunks(32) {
            let mut playing = JoinSet::new();
            for case in some {
                let (case, content) = (case.clone(), content.clone());
                playing.spawn(async move {
                    let (engine, dir) = (engine().await, tempfile::tempdir().unwrap());
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let fetch = content.fetch(&engine, dir.path(), &[listener.local_addr().unwrap()], &[]);
                    let mut evil = Evil::accept(&listener, &hello(content.swarm(), 1)).await.unwrap();
                    play(&mut evil, &case, "a dialler").await;
                    fetch.stop(StopReason::Done).await;
                    engine.shutdown().await;
                });
            }
            while let Some(played) = playing.join_next().await {
                played.unwrap();
            }
        }
    });
}

#[test]
fn a_port_before_any_hello() {
    run(async {
        let content = content();
        let engine = engine().await;
        let seed = content.seed(&engine, &[]);
        for case in cases(content.swarm()) {
            let mut evil = Evil::greet(engine.local_addr()).await.unwrap();
            let _ = evil.stream.write_all(&case.bytes).await;
            let _ = evil.stream.shutdown().await;
            // Whatever it is, nothing but an end can follow: a hello that is right first would be needed.
            let end = loop {
                match evil.next().await {
                    Ok(Message::Goodbye { .. }) => {}
                    Ok(said) => assert!(case.name.contains("a second hello"), "{}: {said:?}", case.name),
                    Err(error) => break error.kind(),
                }
            };
            assert_ne!(end, std::io::ErrorKind::TimedOut, "{}", case.name);
        }
        seed.stop(StopReason::Done).await;
        engine.shutdown().await;
    });
}

#[test]
fn somebody_who_asks_for_a_manifest() {
    run(async {
        let swarm = content().swarm();
        let engine = engine().await;
        for case in cases(swarm).iter().filter(|case| case.fault == Fault::Frame) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let evil = async {
                let mut evil = Evil::accept_any(&listener, |theirs| hello(theirs.swarm, 1)).await.unwrap();
                let _ = evil.stream.write_all(&case.bytes).await;
                evil.last_words().await;
            };
            let peers = [addr];
            tokio::select! {
                found = engine.find_manifest(ContentId([7; 32]), &[], &peers, Some(PATIENCE)) => {
                    panic!("{}: {found:?}", case.name);
                }
                // It went away, and goes on looking.
                () = evil => {}
            }
        }
        engine.shutdown().await;
    });
}

#[test]
fn the_codec_in_any_splits() {
    for case in cases(content().swarm()) {
        let decode = |step: usize| {
            let (mut codec, mut buffer, mut out) = (Codec::default(), BytesMut::new(), Vec::new());
            let mut payload = 0_usize;
            for part in case.bytes.chunks(step) {
                let skip = payload.min(part.len());
                payload -= skip;
                buffer.extend_from_slice(&part[skip..]);
                loop {
                    match codec.next(&mut buffer) {
                        Ok(Some(Message::Block(block))) => {
                            let now = buffer.len().min(block.length as usize);
                            let _ = buffer.split_to(now);
                            payload = block.length as usize - now;
                            out.push(Message::Block(block));
                        }
                        Ok(Some(message)) => out.push(message),
                        Ok(None) => break,
                        Err(error) => return (out, Some(error)),
                    }
                }
            }
            (out, None)
        };
        let whole = decode(usize::MAX);
        assert_eq!(whole.1.is_some(), case.fault == Fault::Frame, "{}", case.name);
        for step in [1, 2, 3, 5, 7, 11, 4096] {
            assert_eq!(decode(step), whole, "{} in parts of {step}", case.name);
        }
    }
}

#[test]
fn a_million_pieces_told_in_a_few_bytes_do_not_stop_a_seed() {
    run(async {
        // Many small pieces, whose haves would cost the seed most.
        let content = Content::file(22, 64 << 20, 1 << 16);
        let (a, b, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
        let seed = content.seed(&a, &[]);
        let mut evil = Evil::dial(a.local_addr(), &hello(content.swarm(), 1)).await.unwrap();
        evil.send(&Message::HaveNone).await.unwrap();
        let mut flips = BytesMut::new();
        for _ in 0..1_000 {
            Message::Have(vec![(0, 1_000)]).encode(&mut flips);
            Message::Unhave(vec![(0, 1_000)]).encode(&mut flips);
        }
        let flood = tokio::spawn(async move { while evil.stream.write_all(&flips).await.is_ok() {} });
        let mut fetch = content.fetch(&b, dir.path(), &[a.local_addr()], &[]);
        assert!(content.is_at(&complete(&mut fetch).await));
        flood.abort();
        fetch.stop(StopReason::Done).await;
        seed.stop(StopReason::Done).await;
        a.shutdown().await;
        b.shutdown().await;
    });
}

#[test]
fn requests_for_nothing_in_particular_are_answered_by_what_is_right() {
    run(async {
        let content = content();
        let engine = engine().await;
        let seed = content.seed(&engine, &[]);
        let mut evil = Evil::dial(engine.local_addr(), &hello(content.swarm(), 1)).await.unwrap();
        evil.send(&Message::HaveNone).await.unwrap();
        // The first byte, the last, and one block over all of a piece.
        for block in [(0, 0, 1), (15, (1 << 18) - 1, 1), (7, 0, 1 << 18)] {
            let wanted = Block { piece: block.0, offset: block.1, length: block.2 };
            evil.send(&Message::Request(wanted)).await.unwrap();
            while evil.next().await.unwrap() != Message::Block(wanted) {}
        }
        seed.stop(StopReason::Done).await;
        engine.shutdown().await;
    });
}
