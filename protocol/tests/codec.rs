//! Frames: what is sent arrives, however the stream is cut, and nothing hostile gets through or does harm.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::{Buf, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use shoal_protocol::codec::Codec;
use shoal_protocol::limits::{
    BITFIELD_BITS, BLOCK_BYTES, CONTROL_BYTES, CV_BATCH, GOODBYE_BYTES, HAVE_RANGES, MANIFEST_BYTES, MANIFEST_PROOF,
    MANIFEST_SEGMENT, PEX_PEERS, QUEUE_DEPTH_MAX,
};
use shoal_protocol::message::{
    BLOCK_HEADER, BLOCK_KIND, Block, FRAME_HEADER, GoodbyeReason, Hello, PexPeer, RejectReason, longest_body,
};
use shoal_protocol::{Message, PeerId, SwarmId, WireError};
use std::net::SocketAddr;

fn any_block() -> impl Strategy<Value = Block> {
    any::<(u32, u32, u32)>().prop_map(|(piece, offset, length)| Block { piece, offset, length })
}

fn any_range(longest: u32) -> impl Strategy<Value = (u32, u32)> {
    (any::<u32>(), 1..=longest).prop_map(|(first, count)| (first.min(u32::MAX - count), count))
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    // An address in an IPv6 coat has no spelling of its own and comes back without it.
    (any::<std::net::IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

fn any_hello() -> impl Strategy<Value = Hello> {
    let head = (any::<[u8; 32]>(), any::<[u8; 16]>(), any::<u64>(), any::<u16>(), 1..=QUEUE_DEPTH_MAX);
    (head, any::<[bool; 3]>(), "([a-zA-Z0-9_.-]{1,9}(/[a-z0-9]{1,9}){0,9})?", "[ -~äß🦀]{0,16}").prop_map(
        |((swarm, peer, features, port, queue_depth), [needs_manifest, spreads, no_upload], zone, client)| Hello {
            swarm: SwarmId(swarm),
            peer: PeerId(peer),
            features,
            port,
            queue_depth,
            needs_manifest,
            spreads,
            no_upload,
            zone,
            client,
        },
    )
}

fn any_segment() -> impl Strategy<Value = Message> {
    let fields = (
        1..=MANIFEST_BYTES as u32,
        any::<prop::sample::Index>(),
        vec(any::<[u8; 32]>(), 0..=MANIFEST_PROOF),
        any::<u8>(),
    );
    let there = fields.prop_map(|(total, segment, proof, fill)| {
        let segment = segment.index(total.div_ceil(MANIFEST_SEGMENT) as usize) as u32;
        let length = (total - segment * MANIFEST_SEGMENT).min(MANIFEST_SEGMENT);
        Message::ManifestSegment { total, segment, proof, data: vec![fill; length as usize].into() }
    });
    let not = any::<u32>();
    let not = not.prop_map(|segment| Message::ManifestSegment { total: 0, segment, proof: vec![], data: Bytes::new() });
    prop_oneof![there, not]
}

fn any_message() -> impl Strategy<Value = Message> {
    use GoodbyeReason as G;
    use RejectReason as R;
    let bitfield = (any_range(5000), any::<u8>()).prop_map(|((first, count), fill)| {
        let mut bits = vec![fill; (count as usize).div_ceil(8)];
        if count % 8 != 0 {
            *bits.last_mut().unwrap() &= 0xff << (8 - count % 8);
        }
        Message::Bitfield { first, count, bits: bits.into() }
    });
    let reasons = [R::NotHad, R::NothingToAssign, R::QueueFull, R::Cancelled, R::NoUpload, R::Failed];
    let goodbyes = [
        G::Leaving,
        G::NothingToDo,
        G::TooManyPeers,
        G::UnknownSwarm,
        G::Duplicate,
        G::Protocol,
        G::BadPiece,
        G::Barred,
        G::Idle,
        G::Trouble,
    ];
    let pex = vec((any_addr(), any::<bool>()).prop_map(|(addr, seed)| PexPeer { addr, seed }), 0..=PEX_PEERS);
    prop_oneof![
        any_hello().prop_map(|hello| Message::Hello(Box::new(hello))),
        Just(Message::KeepAlive),
        bitfield,
        Just(Message::HaveAll),
        Just(Message::HaveNone),
        vec(any_range(u32::MAX), 1..50).prop_map(Message::Have),
        vec(any_range(u32::MAX), 1..50).prop_map(Message::Unhave),
        (any_block(), 1..=BLOCK_BYTES).prop_map(|(block, length)| Message::Request(Block { length, ..block })),
        Just(Message::RequestAny),
        any::<u32>().prop_map(|piece| Message::Assign { piece }),
        (any_block(), 1..=BLOCK_BYTES).prop_map(|(block, length)| Message::Block(Block { length, ..block })),
        any_block().prop_map(Message::Cancel),
        (any_block(), prop::sample::select(reasons.to_vec()))
            .prop_map(|(block, reason)| Message::Reject { block, reason }),
        (any_block(), vec(any_addr(), 0..=PEX_PEERS)).prop_map(|(block, peers)| Message::Busy { block, peers }),
        any_range(CV_BATCH).prop_map(|(first, count)| Message::CvRequest { first, count }),
        (any_range(CV_BATCH), vec(any::<[u8; 32]>(), 0..40)).prop_map(|((first, count), hashes)| Message::Cvs {
            first,
            count,
            hashes
        }),
        any::<u32>().prop_map(|segment| Message::ManifestRequest { segment }),
        any::<u32>().prop_map(|token| Message::Ping { token }),
        any::<u32>().prop_map(|token| Message::Pong { token }),
        any_segment(),
        (pex, vec(any_addr(), 0..=PEX_PEERS)).prop_map(|(added, dropped)| Message::Pex { added, dropped }),
        (prop::sample::select(goodbyes.to_vec()), "[ -~äß🦀]{0,60}")
            .prop_map(|(reason, text)| Message::Goodbye { reason, text }),
    ]
}

fn encoded(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out
}

fn refused(bytes: &[u8]) -> WireError {
    let got = Codec::default().next(&mut BytesMut::from(bytes));
    got.expect_err(&format!("{:x?}", &bytes[..bytes.len().min(40)]))
}

/// A header that announces `length` bytes, with nothing behind it.
fn header(kind: u8, length: u32) -> Vec<u8> {
    [&length.to_le_bytes()[..], &[kind]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_message_survives_and_takes_no_more_than_its_frame(message in any_message(), behind in vec(any::<u8>(), 0..20)) {
        let mut buffer = encoded(&message);
        let body = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
        prop_assert!(Some(body) <= longest_body(buffer[4]));
        if let Message::Block(block) = message {
            prop_assert_eq!((buffer.len(), body), (BLOCK_HEADER, 8 + block.length as usize));
        } else {
            prop_assert_eq!(buffer.len(), FRAME_HEADER + body);
            prop_assert!(body <= CONTROL_BYTES);
        }
        buffer.extend_from_slice(&behind);
        prop_assert_eq!(Codec::default().next(&mut buffer), Ok(Some(message)));
        prop_assert_eq!(&buffer[..], &behind[..]);
    }

    #[test]
    fn a_shortened_frame_is_waited_for_and_left_alone(message in any_message(), cut in any::<prop::sample::Index>()) {
        let whole = encoded(&message);
        let mut part = BytesMut::from(&whole[..cut.index(whole.len())]);
        let before = part.clone();
        let mut codec = Codec::default();
        prop_assert_eq!(codec.next(&mut part), Ok(None));
        prop_assert_eq!(&part, &before);
        part.extend_from_slice(&whole[before.len()..]);
        prop_assert_eq!(codec.next(&mut part), Ok(Some(message)));
    }

    #[test]
    fn a_changed_frame_is_refused_or_means_what_it_says(message in any_message(), at in any::<prop::sample::Index>(), with in 1..=255_u8) {
        let mut bytes = encoded(&message);
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let sent = bytes.clone();
        if let Ok(Some(got)) = Codec::default().next(&mut bytes) {
            prop_assert_ne!(&got, &message);
            let taken = sent.len() - bytes.len();
            prop_assert_eq!(&encoded(&got)[..], &sent[..taken], "a frame has one spelling");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn however_the_stream_is_cut_the_frames_are_the_same(
        messages in vec(prop_oneof![6 => any_message().prop_map(Some), 1 => Just(None)], 1..12), cuts in vec(1..400_usize, 1..60)
    ) {
        // `None` stands for a frame of the future that may be skipped. Payload of blocks is part of the stream.
        let mut stream = Vec::new();
        for message in &messages {
            match message {
                Some(message) => stream.extend_from_slice(&encoded(message)),
                None => stream.extend(header(0x93, 700).into_iter().chain([BLOCK_KIND; 700])),
            }
            if let Some(Message::Block(block)) = message {
                stream.resize(stream.len() + block.length as usize, 0x0b);
            }
        }
        let (mut codec, mut buffer, mut got, mut payload) = (Codec::default(), BytesMut::new(), Vec::new(), 0);
        let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts.next().copied().unwrap_or(1).min(rest.len()));
            rest = later;
            buffer.extend_from_slice(now);
            loop {
                let taken = buffer.len().min(payload);
                buffer.advance(taken);
                payload -= taken;
                if payload > 0 {
                    break;
                }
                match codec.next(&mut buffer) {
                    Ok(Some(message)) => {
                        if let Message::Block(block) = message {
                            payload = block.length as usize;
                        }
                        got.push(message);
                    }
                    Ok(None) => break,
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                }
            }
        }
        prop_assert!(buffer.is_empty() && payload == 0);
        prop_assert_eq!(got, messages.into_iter().flatten().collect::<Vec<_>>());
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut state = 0x5eed_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut frames, mut errors) = (0, 0);
    for case in 0..20_000 {
        let length = random() as usize % 120;
        let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        // Half of the cases have a plausible head, else nearly all would end at their length.
        if case % 2 == 0 && length > FRAME_HEADER {
            let body = (length - FRAME_HEADER) as u32;
            bytes[..4].copy_from_slice(&body.to_le_bytes());
            bytes[4] = 1 + (random() % 0x16) as u8;
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut codec = Codec::default();
        loop {
            match codec.next(&mut buffer) {
                Ok(Some(_)) => frames += 1,
                Ok(None) => break,
                Err(_) => {
                    errors += 1;
                    break;
                }
            }
        }
    }
    assert!(frames > 300 && errors > 5_000, "{frames} {errors}");
}

#[test]
fn a_length_is_refused_as_soon_as_it_is_seen() {
    let kinds: Vec<u8> = (0..=u8::MAX).filter(|kind| longest_body(*kind).is_some()).collect();
    assert_eq!(kinds.last(), Some(&0x16), "the newest is among those that are made up above");
    for kind in kinds {
        let longest = longest_body(kind).unwrap() as u32;
        for length in [longest + 1, longest + 2, 1 << 20, 1 << 31, u32::MAX] {
            assert_eq!(refused(&header(kind, length)), WireError::TooLong { kind, length });
        }
        if longest > 0 {
            let mut buffer = BytesMut::from(&header(kind, longest)[..]);
            assert_eq!(Codec::default().next(&mut buffer), Ok(None), "{kind}");
            assert!(buffer.capacity() < 1024, "a length reserved memory");
        }
    }
    assert_eq!(longest_body(0), None);
    assert_eq!(longest_body(0x17), None);
}

#[test]
fn unknown_frames_are_skipped_only_where_they_say_so_and_are_short() {
    for kind in [0, 0x17, 0x40, 0x7f] {
        assert_eq!(refused(&header(kind, 0)), WireError::Unknown(kind));
    }
    for kind in [0x80, 0x81, 0x8b, 0xff] {
        for length in [0, 1, CONTROL_BYTES - 1, CONTROL_BYTES] {
            let mut buffer = BytesMut::from(&header(kind, length as u32)[..]);
            buffer.resize(FRAME_HEADER + length, 0xff);
            Message::KeepAlive.encode(&mut buffer);
            assert_eq!(Codec::default().next(&mut buffer), Ok(Some(Message::KeepAlive)), "{kind} {length}");
            assert!(buffer.is_empty());
        }
        let length = CONTROL_BYTES as u32 + 1;
        assert_eq!(refused(&header(kind, length)), WireError::TooLong { kind, length });
    }
}

#[test]
fn a_million_empty_skippable_frames_keep_nothing() {
    let mut buffer = BytesMut::from(&header(0x80, 0).repeat(1_000_000)[..]);
    assert_eq!(Codec::default().next(&mut buffer), Ok(None));
    assert!(buffer.is_empty());
}

#[test]
fn a_block_comes_out_as_its_header_alone() {
    let block = Block { piece: 1, offset: 2, length: 3 };
    let mut buffer = encoded(&Message::Block(block));
    buffer.extend_from_slice(b"abc");
    Message::HaveAll.encode(&mut buffer);
    let mut codec = Codec::default();
    assert_eq!(codec.next(&mut buffer), Ok(Some(Message::Block(block))));
    assert_eq!(&buffer.split_to(3)[..], b"abc");
    assert_eq!(codec.next(&mut buffer), Ok(Some(Message::HaveAll)));
    // Too short for its own header: not waited for, whatever stands behind it.
    for length in 0..=8 {
        assert_eq!(refused(&header(BLOCK_KIND, length)), WireError::Malformed(BLOCK_KIND));
    }
}

#[test]
fn our_own_texts_always_fit_and_never_offend() {
    let arrives = |text: &str| {
        let mut buffer = encoded(&Message::Goodbye { reason: GoodbyeReason::Trouble, text: text.to_owned() });
        match Codec::default().next(&mut buffer) {
            Ok(Some(Message::Goodbye { text, .. })) => text,
            other => panic!("{text:?}: {other:?}"),
        }
    };
    for n in [0, 1, GOODBYE_BYTES - 1, GOODBYE_BYTES, GOODBYE_BYTES + 1, 256, 257, 511, 512, 100_000] {
        assert_eq!(arrives(&"x".repeat(n)).len(), n.min(GOODBYE_BYTES));
        // A character of several bytes isn't cut in two.
        let cut = arrives(&"ö".repeat(n));
        assert!(cut.len() <= GOODBYE_BYTES && cut.chars().all(|c| c == 'ö'));
        assert!(arrives(&format!("x{}", "🦀".repeat(n))).len() <= GOODBYE_BYTES);
    }
    assert_eq!(arrives("a\nb\u{1b}[2J\0\u{202e}c"), "a b [2J  c");
    let hello = Hello {
        swarm: SwarmId([1; 32]),
        peer: PeerId([2; 16]),
        features: 0,
        port: 0,
        queue_depth: 1,
        needs_manifest: true,
        spreads: true,
        no_upload: true,
        zone: "z".repeat(128),
        client: "c\r".repeat(500),
    };
    let mut buffer = encoded(&Message::Hello(Box::new(hello)));
    assert_eq!(buffer.len(), FRAME_HEADER + longest_body(1).unwrap());
    assert!(matches!(Codec::default().next(&mut buffer), Ok(Some(Message::Hello(_)))));
}

#[test]
fn our_own_lists_of_peers_are_cut_to_what_a_frame_may_hold() {
    let addr: SocketAddr = "[::ffff:10.0.0.1]:7171".parse().unwrap();
    let plain: SocketAddr = "10.0.0.1:7171".parse().unwrap();
    let block = Block { piece: 1, offset: 0, length: 1 };
    for n in [PEX_PEERS - 1, PEX_PEERS, PEX_PEERS + 1, 256, 300] {
        let kept = n.min(PEX_PEERS);
        let added = vec![PexPeer { addr, seed: true }; n];
        let got = Codec::default().next(&mut encoded(&Message::Pex { added, dropped: vec![addr; n] }));
        let added = vec![PexPeer { addr: plain, seed: true }; kept];
        assert_eq!(got, Ok(Some(Message::Pex { added, dropped: vec![plain; kept] })));
        let got = Codec::default().next(&mut encoded(&Message::Busy { block, peers: vec![addr; n] }));
        assert_eq!(got, Ok(Some(Message::Busy { block, peers: vec![plain; kept] })));
    }
}

#[test]
fn the_longest_frames_of_each_kind_pass() {
    let v6: SocketAddr = "[2a00::1]:7171".parse().unwrap();
    let full = vec![0xff; MANIFEST_SEGMENT as usize];
    for message in [
        Message::Have(vec![(1, 1); HAVE_RANGES]),
        Message::Unhave(vec![(1, 1); HAVE_RANGES]),
        Message::Bitfield { first: 0, count: BITFIELD_BITS, bits: vec![0xff; BITFIELD_BITS as usize / 8].into() },
        Message::Cvs { first: 0, count: CV_BATCH, hashes: vec![[1; 32]; CV_BATCH as usize + 64] },
        Message::ManifestSegment {
            total: MANIFEST_BYTES as u32,
            segment: 8191,
            proof: vec![[1; 32]; MANIFEST_PROOF],
            data: full.into(),
        },
        Message::Busy { block: Block { piece: 1, offset: 0, length: 1 }, peers: vec![v6; PEX_PEERS] },
        Message::Pex { added: vec![PexPeer { addr: v6, seed: false }; PEX_PEERS], dropped: vec![v6; PEX_PEERS] },
        Message::Block(Block { piece: 0, offset: 0, length: BLOCK_BYTES }),
    ] {
        let mut buffer = encoded(&message);
        let body = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
        assert_eq!(Some(body), longest_body(buffer[4]), "the limit of type {:#04x} is not exact", buffer[4]);
        assert_eq!(Codec::default().next(&mut buffer), Ok(Some(message)));
    }
}
