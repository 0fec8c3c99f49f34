//! Manifests: bytes, and structures that are nearly right.

use super::Choices;
use shoal_protocol::Manifest;
use shoal_protocol::manifest::{Entry, Hints, Kind, Shape};

/// Any bytes.
pub fn manifest(bytes: &[u8]) {
    match Manifest::parse(bytes) {
        Ok(manifest) => is_whole(&manifest),
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 400 && !text.chars().any(char::is_control), "{text:?}");
        }
    }
}

/// Entries of any kind with paths of few letters, so that they meet.
pub fn structure(bytes: &[u8]) {
    const PARTS: [&str; 14] = ["a", "b", "c", "-", "ab", ".", "..", "", "é", "\u{202e}", "\0", "...", " ", "a-b"];
    let mut choices = Choices::new(bytes);
    let shape = if choices.byte().is_multiple_of(8) { Shape::File } else { Shape::Tree };
    let piece = 1_u64.checked_shl(u32::from(choices.byte() % 70)).unwrap_or(0);
    let mut entries = Vec::new();
    while !choices.is_empty() && entries.len() < 64 {
        let mut text = || {
            let parts = 1 + choices.byte() % 4;
            (0..parts).map(|_| PARTS[choices.below(14) as usize]).collect::<Vec<_>>().join("/")
        };
        let (path, target) = (text(), text());
        let size = u64::from(choices.word()) << (choices.byte() % 33);
        let kind = match choices.byte() % 4 {
            0 | 1 => Kind::File { size, root: [choices.byte(); 32], executable: choices.byte() % 2 == 1 },
            2 => Kind::EmptyDirectory,
            _ => Kind::Link { target },
        };
        entries.push(Entry { path, kind });
    }
    if !choices.byte().is_multiple_of(4) {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|a, b| a.path == b.path);
    }
    if let Ok(manifest) = Manifest::new(shape, piece, entries, Hints::default()) {
        is_whole(&manifest);
    }
}

/// What passed stays what it is in both spellings, and none of it leads out.
fn is_whole(manifest: &Manifest) {
    let id = manifest.id();
    for bytes in [manifest.to_binary(), manifest.to_binary_with_hints(), manifest.to_json().into_bytes()] {
        let again = Manifest::parse_with_id(&bytes, id).unwrap_or_else(|error| panic!("its own spelling: {error}"));
        assert_eq!(again.entries(), manifest.entries());
    }
    assert_eq!(blake3::hash(&manifest.to_binary()).as_bytes(), &id.0);
    assert_eq!(manifest.to_binary().len(), manifest.binary_len() as usize);
    let mut other = id;
    other.0[31] ^= 1;
    assert!(Manifest::parse_with_id(&manifest.to_binary(), other).is_err(), "by another id");
    // Hints are no part of what it is.
    let renamed = manifest.clone().with_hints(Hints { name: Some("x".into()), ..Hints::default() });
    assert_eq!(renamed.map(|renamed| renamed.id()), Ok(id));
    assert!(manifest.files() <= manifest.entries().len());
    let mut before: Option<&Entry> = None;
    for entry in manifest.entries() {
        if manifest.shape() == Shape::Tree {
            let parts = || entry.path.split('/');
            assert!(parts().all(|part| !matches!(part, "" | "." | "..")), "{:?}", entry.path);
            assert!(!entry.path.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)));
            if let Some(before) = before {
                assert!(before.path < entry.path);
                assert!(!entry.path.starts_with(&format!("{}/", before.path)), "below what is no directory");
            }
            if let Kind::Link { target } = &entry.kind {
                // As deep as it may climb, counted from where it lies.
                let mut depth = parts().count() as i64 - 1;
                for part in target.split('/') {
                    depth += match part {
                        "." | "" => 0,
                        ".." => -1,
                        _ => 1,
                    };
                    assert!(depth >= 0 && !target.starts_with('/'), "{} -> {target}", entry.path);
                }
            }
        }
        before = Some(entry);
    }
    let geometry = manifest.geometry();
    let total: u64 = (0..geometry.pieces().min(10_000)).map(|p| u64::from(geometry.piece_length(p))).sum();
    assert!(total <= manifest.bytes() && (geometry.pieces() > 10_000 || total == manifest.bytes()));
}
