//! The examples in WIRE.md are what the code says.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]

mod golden;

use bytes::BytesMut;
use golden::{content, cvs_of, frames, greeting, manifests};
use shoal_protocol::codec::Codec;
use shoal_protocol::geometry::auto_piece_size;
use shoal_protocol::handshake::Greeting;
use shoal_protocol::id::{Hash, to_hex};
use shoal_protocol::message::longest_body;
use shoal_protocol::tree::{check_batch, make_batch};
use shoal_protocol::{Manifest, Message};
use std::collections::BTreeMap;

const WIRE: &str = include_str!("../WIRE.md");

/// The fenced blocks that begin with this word, by the name behind it.
fn fences(word: &str) -> BTreeMap<&'static str, String> {
    let mut out = BTreeMap::new();
    let mut lines = WIRE.lines();
    while let Some(line) = lines.next() {
        let Some(tag) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        if let Some((_, name)) = tag.split_once(' ').filter(|(first, _)| *first == word) {
            assert!(out.insert(name, body.join("\n")).is_none(), "{name} stands twice");
        }
    }
    out
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn every_example_in_hex_is_what_the_code_writes_and_reads() {
    let mut examples: BTreeMap<_, _> = fences("hex").into_iter().map(|(name, text)| (name, unhex(&text))).collect();
    let mut take = |name: &str| examples.remove(name).unwrap_or_else(|| panic!("no example '{name}'"));

    let bytes = take("greeting");
    assert_eq!(bytes, greeting().to_bytes());
    assert_eq!(Greeting::from_bytes(&bytes.try_into().unwrap()), Ok(greeting()));

    for (name, message) in frames() {
        let bytes = take(name);
        let mut buffer = BytesMut::new();
        message.encode(&mut buffer);
        assert_eq!(to_hex(&bytes), to_hex(&buffer), "{name}");
        assert_eq!(Codec::default().next(&mut buffer), Ok(Some(message)), "{name}");
    }

    let manifest = &manifests()[0].1;
    let bytes = take("manifest");
    assert_eq!(bytes, manifest.to_binary());
    assert_eq!(Manifest::parse(&bytes).unwrap().id(), manifest.id());
    assert_eq!(take("content-id"), manifest.id().0);
    assert_eq!(take("swarm-id"), manifest.id().open_swarm().0);

    let root: Hash = take("cv-root").try_into().unwrap();
    assert_eq!(root, *blake3::hash(&content(131_073)).as_bytes());
    let cvs = cvs_of(131_073);
    let batch: Vec<Hash> = take("cv-batch").chunks(32).map(|h| h.try_into().unwrap()).collect();
    let mut made = Vec::new();
    make_batch(&cvs, 2..3, &mut made);
    assert_eq!(batch, made);
    assert_eq!(check_batch(&root, 3, 2..3, &batch).as_deref(), Some(&cvs[2..]));

    assert!(examples.is_empty(), "examples that nothing checks: {:?}", examples.keys());
}

#[test]
fn every_frame_type_has_its_row_section_and_example() {
    let kinds: Vec<u8> = (0..=0x7f).filter(|kind| longest_body(*kind).is_some()).collect();
    for kind in &kinds {
        let heading = format!("{kind:#04x} ");
        assert!(WIRE.lines().any(|l| l.starts_with("### ") && l.contains(&heading)), "{heading}");
        let row = format!("| {kind:#04x} | ");
        let row = WIRE.lines().find(|l| l.starts_with(&row)).unwrap_or_else(|| panic!("no row {row}"));
        let longest = row.split('|').nth(3).map(|n| n.trim().parse().unwrap());
        assert_eq!(longest, longest_body(*kind), "{row}");
        assert!(frames().iter().any(|(_, message): &(_, Message)| message.kind() == *kind), "{heading}");
    }
}

#[test]
fn the_table_of_piece_sizes_is_the_rule() {
    let tables = fences("text");
    let rows = tables["auto-piece-size"].lines().skip(1);
    let mut count = 0;
    for row in rows {
        let numbers: Vec<u64> = row.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!(u64::from(auto_piece_size(numbers[0])), numbers[1], "{row}");
        count += 1;
    }
    assert!(count >= 12);
}
