//! Makes the golden vectors of `testdata/`, which a peer in another language can be checked with.
//!
//! Expected error classes are written down here, not computed: the test beside this module compares them with what
//! the crate says.

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use shoal_protocol::geometry::{Geometry, Piece, auto_piece_size};
use shoal_protocol::handshake::Greeting;
use shoal_protocol::id::to_hex;
use shoal_protocol::manifest::binary::segment_cvs;
use shoal_protocol::manifest::{Entry, Hints, Kind, Manifest, Shape};
use shoal_protocol::message::{Block, GoodbyeReason, Hello, Message, PexPeer, RejectReason};
use shoal_protocol::tree::{make_batch, make_leaf_proof, piece_cv};
use shoal_protocol::{Hash, PeerId, SwarmId};
use std::collections::BTreeMap;

/// The content of every file in the vectors: byte number `i` is `i` modulo 251.
pub fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8).collect()
}

fn file(path: &str, size: usize) -> Entry {
    let root = *blake3::hash(&content(size)).as_bytes();
    Entry { path: path.into(), kind: Kind::File { size: size as u64, root, executable: false } }
}

fn program(path: &str, size: usize) -> Entry {
    let mut entry = file(path, size);
    if let Kind::File { executable, .. } = &mut entry.kind {
        *executable = true;
    }
    entry
}

fn dir(path: &str) -> Entry {
    Entry { path: path.into(), kind: Kind::EmptyDirectory }
}

fn link(path: &str, target: &str) -> Entry {
    Entry { path: path.into(), kind: Kind::Link { target: target.into() } }
}

/// The valid manifests, by name.
pub fn manifests() -> Vec<(&'static str, Manifest)> {
    const K: u64 = 1024;
    let hints = |name: &str| Hints {
        name: Some(name.into()),
        trackers: vec!["http://tracker.example:7070".into()],
        web_seeds: vec!["https://mirror.example/data/".into()],
    };
    let one = |size, piece, hints| Manifest::new(Shape::File, piece, vec![file("", size)], hints).unwrap();
    let tree = |piece, mut entries: Vec<Entry>| {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Manifest::new(Shape::Tree, piece, entries, Hints::default()).unwrap()
    };
    vec![
        ("small-file", one(11, 64 * K, Hints::default())),
        ("file", one(200_000, 64 * K, hints("weights.bin"))),
        ("empty-file", one(0, 64 * K, Hints::default())),
        ("program", Manifest::new(Shape::File, 64 * K, vec![program("", 5000)], hints("tool")).unwrap()),
        ("exactly-one-piece", one(65_536, 64 * K, Hints::default())),
        ("one-byte-more", one(65_537, 64 * K, Hints::default())),
        ("largest-piece-size", one((16 << 20) + 1, 16 * K * K, Hints::default())),
        ("empty-tree", tree(64 * K, vec![])),
        ("tree-of-one", tree(64 * K, vec![file("weights.bin", 200_000)])),
        ("packs", tree(64 * K, (0..40).map(|n| file(&format!("part-{n:02}"), n * 400)).collect())),
        (
            "large-and-small",
            tree(
                128 * K,
                vec![
                    file("a/small", 1000),
                    file("b/large", 300_000),
                    file("c/small", 2000),
                    file("d/fits-no-more", 130_000),
                    file("e/exactly", 131_072),
                    file("f/large", 131_073),
                    file("g/empty", 0),
                    file("h/small", 1072),
                ],
            ),
        ),
        (
            "everything",
            tree(
                64 * K,
                vec![
                    dir("cache"),
                    program("bin/run", 300),
                    link("bin/start", "run"),
                    link("bin/up", "../data/./größe"),
                    file("data-2", 1),
                    file("data/größe", 70_000),
                    file("data/日本語.txt", 9),
                    file("data/🦀 and \"quotes\"\\", 10),
                    dir("data/empty"),
                    file("data/zero", 0),
                    link("latest", "data"),
                    link("self", "."),
                    dir("z.d"),
                ],
            ),
        ),
    ]
}

/// What is done to a valid manifest so that it must be refused.
pub enum Change {
    Xor(usize, u8),
    Truncate(usize),
    Append(&'static [u8]),
    Replace(&'static str, String),
}

impl Change {
    pub fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        match self {
            Self::Xor(at, with) => out[*at] ^= with,
            Self::Truncate(length) => out.truncate(*length),
            Self::Append(more) => out.extend_from_slice(more),
            Self::Replace(from, to) => {
                let text = String::from_utf8(out).unwrap();
                assert!(text.contains(from), "{from} is not in the base");
                out = text.replacen(from, to, 1).into_bytes();
            }
        }
        out
    }

    fn describe(&self) -> Value {
        match self {
            Self::Xor(at, with) => json!({ "xor": { "offset": at, "with": with } }),
            Self::Truncate(length) => json!({ "truncate": length }),
            Self::Append(more) => json!({ "append": to_hex(more) }),
            Self::Replace(from, to) => json!({ "replace_first": from, "with": to }),
        }
    }
}

/// (base, whether its binary form is meant, change, class of the error)
pub fn corrupted() -> Vec<(&'static str, bool, Change, &'static str)> {
    use Change::{Append, Replace, Truncate, Xor};
    let mut out = vec![
        // Head of the binary form: magic, version, shape, log2 of the piece size, number of entries.
        ("small-file", true, Xor(1, 0x20), "Binary"),
        ("small-file", true, Xor(7, 0x02), "Version"),
        ("small-file", true, Xor(8, 0x02), "Binary"),
        ("small-file", true, Xor(9, 0x10), "PieceSize"),
        ("small-file", true, Xor(9, 0x40), "Binary"),
        ("small-file", true, Xor(10, 0x03), "Binary"),
        ("small-file", true, Xor(10, 0x01), "Json"),
        ("small-file", true, Xor(10, 0x81), "Binary"),
        ("small-file", true, Xor(11, 0x04), "Binary"),
        ("small-file", true, Xor(11, 0x02), "Json"),
        ("small-file", true, Xor(12, 0x01), "Binary"),
        ("small-file", true, Truncate(0), "Json"),
        ("small-file", true, Truncate(1), "Binary"),
        ("small-file", true, Truncate(45), "Binary"),
        ("small-file", true, Append(b"\0"), "Json"),
        ("small-file", true, Append(b"{}{}"), "Json"),
        ("small-file", true, Append(b"[]"), "Json"),
        ("small-file", true, Append(br#"{"size":1}"#), "Json"),
        ("small-file", true, Append(br#"{"name":"a/b"}"#), "Hint"),
        ("small-file", true, Append(br#"{"name":".."}"#), "Hint"),
        ("small-file", true, Append(br#"{"trackers":["ftp://a"]}"#), "Hint"),
        ("empty-tree", true, Xor(8, 0x01), "SingleFile"),
        ("tree-of-one", true, Xor(8, 0x01), "SingleFile"),
        ("tree-of-one", true, Xor(13, b'w'), "Path"),
        ("tree-of-one", true, Xor(13, b'w' ^ b'/'), "Path"),
        ("tree-of-one", true, Xor(13, 0x80), "Binary"),
    ];
    let mut json = |base, from, to: &str, class| out.push((base, false, Replace(from, to.to_owned()), class));
    for (to, class) in [
        ("\"shoal\":2", "Version"),
        ("\"shoal\":0", "Version"),
        ("\"shoal\":18446744073709551615", "Version"),
        ("\"shoal\":2,\"new\":[{}]", "Version"),
        ("\"shoal\":\"1\"", "Json"),
        ("\"shoal\":1.0", "Json"),
        ("\"shoal\":1e0", "Json"),
        ("\"shoal\":1,\"shoal\":1", "Json"),
        ("\"shoal\":1,\"new\":1", "Json"),
        ("\"shoal\":null", "Json"),
    ] {
        json("file", "\"shoal\":1", to, class);
    }
    for (to, class) in [
        ("\"size\":200001", "WrongId"),
        ("\"size\":0", "EmptyRoot"),
        ("\"size\":-1", "Json"),
        ("\"size\":-0", "Json"),
        ("\"size\":2e5", "Json"),
        ("\"size\":200000.0", "Json"),
        ("\"size\":1e400", "Json"),
        ("\"size\":\"200000\"", "Json"),
        ("\"size\":null", "Json"),
        ("\"size\":true", "Json"),
        ("\"size\":0200000", "Json"),
        ("\"size\":200000,\"size\":200000", "Json"),
        ("\"size\":200000,\"mode\":511", "Json"),
        ("\"size\":200000,\"target\":\"x\"", "Json"),
        ("\"size\":200000,\"path\":\"\"", "SingleFile"),
        ("\"size\":200000,\"executable\":1", "Json"),
        ("\"size\":200000,\"executable\":true", "WrongId"),
        ("\"size\":9223372036854775807", "Limit"),
        ("\"size\":9223372036854775808", "Limit"),
        ("\"size\":9223372036854775809", "TotalSize"),
        ("\"size\":18446744073709551615", "TotalSize"),
        ("\"size\":18446744073709551616", "Json"),
    ] {
        json("file", "\"size\":200000", to, class);
    }
    for (to, class) in [
        ("\"kind\":\"tree\"", "Json"),
        ("\"kind\":\"FILE\"", "Json"),
        ("\"kind\":{\"file\":null}", "Json"),
        ("\"kind\":0", "Json"),
    ] {
        json("file", "\"kind\":\"file\"", to, class);
    }
    for to in ["0", "1", "65535", "65537", "32768", "33554432", "4294967296", "9223372036854775808"] {
        json("file", "\"piece_size\":65536", &format!("\"piece_size\":{to}"), "PieceSize");
    }
    json("file", "\"piece_size\":65536", "\"piece_size\":131072", "WrongId");
    for (to, class) in [
        ("\"name\":\"weights/bin\"", "Hint"),
        ("\"name\":\"..\"", "Hint"),
        ("\"name\":\"\"", "Hint"),
        ("\"name\":\"a\\u0000\"", "Hint"),
        ("\"name\":\"a\\u202eb\"", "Hint"),
        ("\"name\":null", "Json"),
        ("\"name\":\"a\",\"name\":\"a\"", "Json"),
    ] {
        json("file", "\"name\":\"weights.bin\"", to, class);
    }
    for (to, class) in [
        ("\"file:///etc/passwd\"", "Hint"),
        ("\"http://u:p@tracker.example\"", "Hint"),
        ("\"http://tracker.example/#x\"", "Hint"),
        ("\"http://tracker.example:0\"", "Hint"),
        ("[]", "Json"),
    ] {
        json("file", "\"http://tracker.example:7070\"", to, class);
    }
    for (to, class) in [
        ("", "Path"),
        (".", "Path"),
        ("..", "Path"),
        ("../cache", "Path"),
        ("/cache", "Path"),
        ("cache/", "Path"),
        ("ca//che", "Path"),
        ("ca/./che", "Path"),
        ("ca/../che", "Path"),
        ("ca\\u0000che", "Path"),
        ("ca\\nche", "Path"),
        ("ca\\u001b[1m", "Path"),
        ("ca\\u202eche", "Path"),
        ("bin/start", "Order"),
        ("zz", "Order"),
        ("bin/up/x", "Nested"),
    ] {
        json("everything", "\"path\":\"cache\"", &format!("\"path\":\"{to}\""), class);
    }
    for (to, class) in [("data/🦀/../x", "Path"), ("data-2/x", "Order"), ("data/日本語.txt/x", "Nested")] {
        json("everything", "\"path\":\"data/🦀 and \\\"quotes\\\"\\\\\"", &format!("\"path\":\"{to}\""), class);
    }
    for to in ["", "..", "../x", "/etc", "k/../x", "a//b", "a\\u0000", "data/"] {
        json("everything", "\"target\":\"data\"", &format!("\"target\":\"{to}\""), "LinkTarget");
    }
    json("everything", "\"target\":\"data\"", "\"target\":\"data\",\"size\":0", "Json");
    json("everything", "\"kind\":\"dir\"", "\"kind\":\"dir\",\"executable\":true", "Json");
    json("everything", "\"kind\":\"dir\"", "\"kind\":\"device\"", "Json");
    json("everything", "{\"path\":\"cache\",\"kind\":\"dir\"}", "[\"cache\",\"dir\"]", "Json");
    json("small-file", "{\"shoal\"", "\u{feff}{\"shoal\"", "Json");
    json("small-file", "{\"shoal\"", "// comment\n{\"shoal\"", "Json");
    json("small-file", "]}\n", "]}\n{}", "Json");
    json("small-file", "]}\n", "],}\n", "Json");
    json("small-file", "]}\n", "]", "Json");
    out
}

/// The frames of the examples, by name.
pub fn frames() -> Vec<(&'static str, Message)> {
    let block = Block { piece: 7, offset: 262_144, length: 131_072 };
    let any = Block { piece: u32::MAX, offset: 0, length: 0 };
    let v4 = "10.0.0.1:7171".parse().unwrap();
    let v6 = "[fd00::2]:7172".parse().unwrap();
    let manifest = manifests().remove(0).1.to_binary();
    let hash = |n: u8| [n; 32];
    vec![
        (
            "hello",
            Message::Hello(Box::new(Hello {
                swarm: SwarmId(hash(0x5a)),
                peer: PeerId([0xc3; 16]),
                features: 0,
                port: 7171,
                queue_depth: 64,
                needs_manifest: false,
                spreads: true,
                no_upload: false,
                zone: "dc1/rack7".into(),
                client: "shoal 0.1.0".into(),
            })),
        ),
        ("keep-alive", Message::KeepAlive),
        ("bitfield", Message::Bitfield { first: 8, count: 11, bits: Bytes::from_static(&[0b1010_0000, 0b1110_0000]) }),
        ("have-all", Message::HaveAll),
        ("have-none", Message::HaveNone),
        ("have", Message::Have(vec![(3, 2), (9, 1)])),
        ("unhave", Message::Unhave(vec![(4, 1)])),
        ("request", Message::Request(block)),
        ("request-any", Message::RequestAny),
        ("assign", Message::Assign { piece: 7 }),
        ("block-header", Message::Block(block)),
        ("cancel", Message::Cancel(block)),
        ("cancel-piece", Message::Cancel(Block { piece: 7, offset: 0, length: 0 })),
        ("reject", Message::Reject { block, reason: RejectReason::NotHad }),
        ("reject-any", Message::Reject { block: any, reason: RejectReason::NothingToAssign }),
        ("busy", Message::Busy { block, peers: vec![v4, v6] }),
        ("cv-request", Message::CvRequest { first: 1, count: 2 }),
        ("cvs", Message::Cvs { first: 1, count: 1, hashes: vec![hash(0x11), hash(0x22), hash(0x33)] }),
        ("cvs-not-had", Message::Cvs { first: 1, count: 1, hashes: vec![] }),
        ("manifest-request", Message::ManifestRequest { segment: 0 }),
        (
            "manifest-segment",
            Message::ManifestSegment {
                total: manifest.len() as u32,
                segment: 0,
                proof: vec![],
                data: Bytes::from(manifest),
            },
        ),
        ("manifest-not-had", Message::ManifestSegment { total: 0, segment: 0, proof: vec![], data: Bytes::new() }),
        ("pex", Message::Pex { added: vec![PexPeer { addr: v4, seed: true }], dropped: vec![v6] }),
        ("goodbye", Message::Goodbye { reason: GoodbyeReason::Leaving, text: "done".into() }),
        ("ping", Message::Ping { token: 7 }),
        ("pong", Message::Pong { token: 7 }),
    ]
}

/// The greeting of the examples.
pub fn greeting() -> Greeting {
    Greeting { random: std::array::from_fn(|i| i as u8) }
}

/// Name, bytes, class of the error.
pub fn bad_frames() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let frame = |kind: u8, body: &[u8]| {
        let mut out = (body.len() as u32).to_le_bytes().to_vec();
        out.push(kind);
        out.extend_from_slice(body);
        out
    };
    let head = |kind: u8, length: u32| [&length.to_le_bytes()[..], &[kind]].concat();
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let hello = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut out = BytesMut::new();
        frames()[0].1.encode(&mut out);
        let mut body = out[5..].to_vec();
        change(&mut body);
        frame(1, &body)
    };
    vec![
        ("type 0", frame(0, &[]), "Unknown"),
        ("first unknown type", frame(0x17, &[]), "Unknown"),
        ("last type that can't be skipped", frame(0x7f, &[1, 2, 3]), "Unknown"),
        ("skippable, longer than 64 KiB", head(0x80, 65_537), "TooLong"),
        ("skippable, 4 GiB", head(0xff, u32::MAX), "TooLong"),
        ("hello, too long", head(1, 256), "TooLong"),
        ("hello, cut", hello(&|b| b.truncate(40)), "Malformed"),
        ("hello, trailing byte", hello(&|b| b.push(0)), "Malformed"),
        ("hello, queue depth 0", hello(&|b| b[58..60].fill(0)), "Malformed"),
        ("hello, queue depth 1025", hello(&|b| b[58..60].copy_from_slice(&[1, 4])), "Malformed"),
        ("hello, unknown flag", hello(&|b| b[60] = 8), "Malformed"),
        ("hello, zone with a space", hello(&|b| b[62] = b' '), "Malformed"),
        ("hello, escape in the client's name", hello(&|b| b[72] = 0x1b), "Malformed"),
        ("hello, client's name is not UTF-8", hello(&|b| b[72] = 0xff), "Malformed"),
        ("keep-alive with a body", head(2, 1), "TooLong"),
        ("bitfield without bits", frame(3, &words(&[0, 0])), "Malformed"),
        ("bitfield, a byte too few", frame(3, &[&words(&[0, 9])[..], &[0]].concat()), "Malformed"),
        ("bitfield, a byte too many", frame(3, &[&words(&[0, 8])[..], &[0, 0]].concat()), "Malformed"),
        ("bitfield, spare bit set", frame(3, &[&words(&[0, 7])[..], &[1]].concat()), "Malformed"),
        ("bitfield past the last number", frame(3, &[&words(&[u32::MAX, 8])[..], &[0]].concat()), "Malformed"),
        ("bitfield, too long", head(3, 8 + 32_768 + 1), "TooLong"),
        ("have-all with a body", head(4, 1), "TooLong"),
        ("have-none with a body", head(5, 4), "TooLong"),
        ("have without ranges", frame(6, &[]), "Malformed"),
        ("have, half a range", frame(6, &words(&[1])), "Malformed"),
        ("have, empty range", frame(6, &words(&[1, 0])), "Malformed"),
        ("have, overflow", frame(6, &words(&[2, u32::MAX])), "Malformed"),
        ("have, too long", head(6, 32_769), "TooLong"),
        ("unhave without ranges", frame(7, &[]), "Malformed"),
        ("request, length 0", frame(8, &words(&[1, 0, 0])), "Malformed"),
        ("request, length above 256 KiB", frame(8, &words(&[1, 0, 262_145])), "Malformed"),
        ("request, cut", frame(8, &words(&[1, 0])), "Malformed"),
        ("request-any with a body", head(9, 1), "TooLong"),
        ("assign, cut", frame(10, &[0; 3]), "Malformed"),
        ("block without payload", frame(11, &words(&[1, 0])), "Malformed"),
        ("block, header cut", head(11, 3), "Malformed"),
        ("block, too long", head(11, 8 + 262_145), "TooLong"),
        ("block, 4 GiB", head(11, u32::MAX), "TooLong"),
        ("cancel, too long", head(12, 13), "TooLong"),
        ("reject, unknown reason", frame(13, &[&words(&[1, 0, 1])[..], &[6]].concat()), "Malformed"),
        ("busy, number beyond the addresses", frame(14, &[&words(&[1, 0, 1])[..], &[1]].concat()), "Malformed"),
        ("busy, 51 peers", frame(14, &[&words(&[1, 0, 1])[..], &[51], &[4; 7 * 51]].concat()), "Malformed"),
        ("busy, unknown family", frame(14, &[&words(&[1, 0, 1])[..], &[1, 5, 1, 2, 3, 4, 0, 4]].concat()), "Malformed"),
        (
            "busy, IPv4 in an IPv6 coat",
            frame(14, &[&words(&[1, 0, 1])[..], &[1, 6], &[0; 10], &[255, 255, 10, 0, 0, 1, 3, 28]].concat()),
            "Malformed",
        ),
        ("cv-request for none", frame(15, &words(&[1, 0])), "Malformed"),
        ("cv-request for 1025", frame(15, &words(&[1, 1025])), "Malformed"),
        ("cvs, half a hash", frame(16, &[&words(&[1, 1])[..], &[0; 16]].concat()), "Malformed"),
        ("cvs, too long", head(16, 8 + 32 * 1088 + 1), "TooLong"),
        ("manifest-request, cut", frame(17, &[0; 3]), "Malformed"),
        ("manifest-segment past the total", frame(18, &[&words(&[1, 1])[..], &[0, 7]].concat()), "Malformed"),
        ("manifest-segment without data", frame(18, &[&words(&[1, 0])[..], &[0]].concat()), "Malformed"),
        (
            "manifest-segment, data beyond the total",
            frame(18, &[&words(&[1, 0])[..], &[0, 7, 7]].concat()),
            "Malformed",
        ),
        ("manifest-segment of nothing with data", frame(18, &[&words(&[0, 0])[..], &[0, 7]].concat()), "Malformed"),
        (
            "manifest-segment, total beyond 256 MiB",
            frame(18, &[&words(&[(256 << 20) + 1, 8192])[..], &[0, 7]].concat()),
            "Malformed",
        ),
        (
            "manifest-segment, proof of 14",
            frame(18, &[&words(&[1, 0])[..], &[14], &[0; 14 * 32], &[7]].concat()),
            "Malformed",
        ),
        ("pex, flag 2", frame(19, &[1, 4, 1, 2, 3, 4, 0, 4, 2, 0]), "Malformed"),
        ("pex, second list missing", frame(19, &[0]), "Malformed"),
        ("goodbye, unknown reason", frame(20, &[10, 0]), "Malformed"),
        ("goodbye, newline", frame(20, &[0, 1, b'\n']), "Malformed"),
        ("goodbye, override of direction", frame(20, &[0, 3, 0xe2, 0x80, 0xae]), "Malformed"),
        ("goodbye, too long", head(20, 258), "TooLong"),
    ]
}

fn geometry_vectors() -> Value {
    const P: u64 = 65_536;
    let cases: Vec<(u32, Vec<(u64, u32)>)> = vec![
        (65_536, vec![]),
        (65_536, vec![(0, 3)]),
        (65_536, vec![(1, 1)]),
        (65_536, vec![(P - 1, 1), (1, 1), (1, 1)]),
        (65_536, vec![(P, 1)]),
        (65_536, vec![(P + 1, 1)]),
        (65_536, vec![(2 * P, 1), (2 * P + 1, 1), (2 * P - 1, 1)]),
        (65_536, vec![(10, 1), (0, 1), (2 * P, 1), (20, 1), (P, 1), (5, 1)]),
        (65_536, vec![(1, 1023), (2 * P, 1), (1, 2)]),
        (65_536, vec![(40_000, 4), (25_000, 3)]),
        (16_777_216, vec![(16_777_216, 1), (16_777_217, 1), (1, 1)]),
        (4_194_304, vec![(5 << 40, 1)]),
    ];
    let rows = cases.into_iter().map(|(size, runs)| {
        let sizes = runs.iter().flat_map(|(size, times)| std::iter::repeat_n(*size, *times as usize));
        let g = Geometry::new(size, (0..).zip(sizes)).unwrap();
        let spell = |n: u32| match g.piece(n).unwrap() {
            Piece::Subtree { entry, index, offset, length } => {
                json!({ "piece": n, "entry": entry, "index": index, "offset": offset, "length": length })
            }
            Piece::Pack { first, count, length } => {
                let last = g.members()[(first + count - 1) as usize];
                let first = g.members()[first as usize];
                json!({ "piece": n, "first_entry": first, "last_entry": last, "members": count, "length": length })
            }
        };
        let shown: Vec<Value> = if g.pieces() > 16 {
            [0, 1, g.pieces() - 1].into_iter().map(spell).collect()
        } else {
            (0..g.pieces()).map(spell).collect()
        };
        json!({
            "piece_size": size,
            "sizes_and_repeats": runs,
            "pieces": g.pieces(),
            "cvs": g.cvs(),
            "bytes": g.bytes(),
            "some": shown,
        })
    });
    let auto: Vec<Value> = auto_sizes().into_iter().map(|n| json!([n, auto_piece_size(n)])).collect();
    json!({ "auto_piece_size": auto, "geometry": rows.collect::<Vec<_>>() })
}

/// Totals around every step of the rule.
pub fn auto_sizes() -> Vec<u64> {
    let mut out = vec![0, 1, 65_536, 1 << 30];
    for shift in 27..33 {
        out.extend([1_u64 << shift, (1 << shift) + 1]);
    }
    out.extend([1 << 40, 1 << 43, (1 << 43) + 1, 1 << 44, (1 << 44) + 1, 1 << 46, u64::MAX]);
    out.sort_unstable();
    out.dedup();
    out
}

fn hexes(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|h| to_hex(h)).collect()
}

/// All CVs of a file of that size in pieces of 64 KiB.
pub fn cvs_of(size: usize) -> Vec<Hash> {
    content(size).chunks(65_536).zip(0_u64..).map(|(c, i)| piece_cv(i * 65_536, c).unwrap()).collect()
}

fn tree_vectors() -> Value {
    const P: usize = 65_536;
    let files = [P + 1, 2 * P, 2 * P + 1, 3 * P - 1, 5 * P + 1023, 8 * P, 9 * P + 1].map(|size| {
        let cvs = cvs_of(size);
        let n = cvs.len() as u32;
        let ranges = [(0, n), (0, 1), (n - 1, 1), (n / 2, n - n / 2), (1, (n - 1).min(3))];
        let batches = ranges.map(|(first, count)| {
            let mut hashes = Vec::new();
            make_batch(&cvs, first..first + count, &mut hashes);
            json!({ "first": first, "count": count, "hashes": hexes(&hashes) })
        });
        json!({
            "size": size,
            "root": to_hex(blake3::hash(&content(size)).as_bytes()),
            "cvs": hexes(&cvs),
            "batches": batches,
        })
    });
    let segments = [1, 32_768, 32_769, 100_000, 5 * 32_768].map(|total| {
        let bytes = content(total);
        let cvs = segment_cvs(&bytes);
        let proofs: Vec<_> = (0..cvs.len() as u32).map(|n| hexes(&make_leaf_proof(&cvs, n))).collect();
        json!({ "total": total, "root": to_hex(blake3::hash(&bytes).as_bytes()), "proofs": proofs })
    });
    json!({ "piece_size": P, "files": files, "segments": segments })
}

fn frame_vectors() -> Value {
    let good: Vec<Value> = frames()
        .iter()
        .map(|(name, message)| {
            let mut out = BytesMut::new();
            message.encode(&mut out);
            json!({ "name": name, "hex": to_hex(&out) })
        })
        .collect();
    let bad = bad_frames();
    let bad: Vec<Value> =
        bad.iter().map(|(name, bytes, class)| json!({ "name": name, "hex": to_hex(bytes), "error": class })).collect();
    json!({ "greeting": to_hex(&greeting().to_bytes()), "valid": good, "corrupted": bad })
}

/// Every file of `testdata/` by its path.
pub fn files() -> BTreeMap<String, Vec<u8>> {
    let pretty = |value: &Value| (serde_json::to_string_pretty(value).unwrap() + "\n").into_bytes();
    let lines = |rows: Vec<Value>| {
        let rows: Vec<String> = rows.iter().map(Value::to_string).collect();
        format!("[\n{}\n]\n", rows.join(",\n")).into_bytes()
    };
    let mut out = BTreeMap::new();
    let mut index = Vec::new();
    for (name, manifest) in manifests() {
        out.insert(format!("manifests/valid/{name}.json"), manifest.to_json().into_bytes());
        out.insert(format!("manifests/valid/{name}.bin"), manifest.to_binary());
        index.push(json!({
            "name": name,
            "id": manifest.id().to_string(),
            "swarm": manifest.id().open_swarm().to_string(),
            "bytes": manifest.bytes(),
            "entries": manifest.entries().len(),
            "pieces": manifest.geometry().pieces(),
            "cvs": manifest.geometry().cvs(),
            "binary_len": manifest.binary_len(),
        }));
    }
    out.insert("manifests/index.json".into(), lines(index));
    let rows = corrupted().into_iter().map(|(base, binary, change, class)| {
        let form = if binary { "binary" } else { "json" };
        json!({ "base": base, "form": form, "change": change.describe(), "error": class })
    });
    out.insert("manifests/corrupted.json".into(), lines(rows.collect()));
    out.insert("geometry.json".into(), pretty(&geometry_vectors()));
    out.insert("tree.json".into(), pretty(&tree_vectors()));
    out.insert("frames.json".into(), pretty(&frame_vectors()));
    out
}
