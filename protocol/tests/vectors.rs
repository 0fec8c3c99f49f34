//! The committed vectors are what the generator makes, and the crate agrees with every one of them.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod golden;

use bytes::BytesMut;
use golden::{bad_frames, corrupted, files, frames, manifests};
use shoal_protocol::codec::Codec;
use shoal_protocol::{Manifest, ManifestError, WireError};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn walk(dir: &Path, out: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, out);
        } else {
            out.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn committed_vectors_are_what_the_generator_makes() {
    let made = files();
    let mut there = BTreeSet::new();
    walk(&root(), &mut there);
    assert!(there.iter().eq(made.keys()), "run: cargo run -p shoal-protocol --example golden");
    for (path, bytes) in &made {
        assert!(std::fs::read(root().join(path)).unwrap() == *bytes, "{path} differs");
    }
    assert!(made.values().map(Vec::len).sum::<usize>() < 300 << 10);
}

#[test]
fn both_spellings_of_every_valid_manifest_give_the_same_id() {
    for (name, manifest) in manifests() {
        let json = Manifest::parse(manifest.to_json().as_bytes()).unwrap();
        let binary = Manifest::parse(&manifest.to_binary_with_hints()).unwrap();
        for copy in [&json, &binary] {
            assert_eq!((copy.id(), copy.entries()), (manifest.id(), manifest.entries()), "{name}");
            assert_eq!((copy.hints(), copy.to_binary()), (manifest.hints(), manifest.to_binary()), "{name}");
        }
        assert_eq!(blake3::hash(&manifest.to_binary()).as_bytes(), &manifest.id().0, "{name}");
        assert_eq!(Manifest::parse(&manifest.to_binary()).unwrap().id(), manifest.id(), "{name}");
    }
}

pub fn class(error: &ManifestError) -> &'static str {
    match error {
        ManifestError::Json(_) => "Json",
        ManifestError::Binary(_) => "Binary",
        ManifestError::Version(_) => "Version",
        ManifestError::Limit { .. } => "Limit",
        ManifestError::PieceSize(_) => "PieceSize",
        ManifestError::Path { .. } => "Path",
        ManifestError::Order(_) => "Order",
        ManifestError::Nested(_) => "Nested",
        ManifestError::LinkTarget(_) => "LinkTarget",
        ManifestError::EmptyRoot(_) => "EmptyRoot",
        ManifestError::TotalSize => "TotalSize",
        ManifestError::SingleFile => "SingleFile",
        ManifestError::WrongId { .. } => "WrongId",
        ManifestError::Hint(_) => "Hint",
    }
}

#[test]
fn every_corrupted_manifest_is_refused_for_its_reason() {
    let bases = manifests();
    let mut wrong = Vec::new();
    for (n, (base, binary, change, expected)) in corrupted().into_iter().enumerate() {
        let manifest = &bases.iter().find(|(name, _)| *name == base).unwrap().1;
        let bytes = if binary { manifest.to_binary() } else { manifest.to_json().into_bytes() };
        match Manifest::parse(&change.apply(&bytes)) {
            Err(error) if class(&error) == expected => {}
            other => wrong.push(format!("case {n} of {base}, {expected} expected: {:?}", other.map(|m| m.id()))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_example_frame_survives_and_every_corrupted_one_is_refused_for_its_reason() {
    for (name, message) in frames() {
        let mut buffer = BytesMut::new();
        message.encode(&mut buffer);
        assert_eq!(Codec::default().next(&mut buffer), Ok(Some(message)), "{name}");
        assert!(buffer.is_empty(), "{name}");
    }
    for (name, bytes, expected) in bad_frames() {
        let error = Codec::default().next(&mut BytesMut::from(&bytes[..])).expect_err(name);
        let class = match error {
            WireError::TooLong { .. } => "TooLong",
            WireError::Malformed(_) => "Malformed",
            WireError::Unknown(_) => "Unknown",
            _ => "another",
        };
        assert_eq!(class, expected, "{name}");
    }
}
