//! Journals as a stranger may leave them in a directory where somebody will fetch to (L11): not garbled but well made,
//! with every check right. Nothing in them is believed that the content id doesn't prove.

use crate::manifests::cases;
use shoal_peer::store::{missing_bytes, read_journal_manifest};
use shoal_protocol::Manifest;
use shoal_protocol::manifest::{Entry, Hints, Kind, Shape};
use std::path::Path;

/// The numbers of a journal's head.
#[derive(Debug, Clone, Copy)]
struct Head {
    id: [u8; 32],
    pieces: u32,
    cvs: u32,
    manifest: u64,
}

/// A journal with these numbers and this manifest, its checks right and the rest of it zeros.
fn journal(head: &Head, manifest: &[u8]) -> Vec<u8> {
    let mut out = b"\x89shoalj\x01".to_vec();
    out.extend(head.id);
    out.extend(head.pieces.to_le_bytes());
    out.extend(head.cvs.to_le_bytes());
    out.extend(head.manifest.to_le_bytes());
    out.resize(256 - 32, 0);
    out.extend(blake3::hash(&out.clone()).as_bytes());
    out.extend(manifest);
    out.extend(blake3::hash(manifest).as_bytes());
    let bitmap = (head.pieces as usize).min(1 << 20).div_ceil(8);
    // Peers, two checkpoints, live bits, CVs.
    out.resize(
        out.len() + 2 + 200 * 18 + 32 + 2 * (8 + 1 + 32 + bitmap + 32) + bitmap * 4 + head.cvs.min(9) as usize * 40,
        0,
    );
    out
}

fn good() -> (Manifest, Head) {
    let kind = Kind::File { size: 200_000, root: [7; 32], executable: false };
    let entry = Entry { path: String::new(), kind };
    let manifest = Manifest::new(Shape::File, 65_536, vec![entry], Hints::default()).unwrap();
    let head = Head { id: manifest.id().0, pieces: 4, cvs: 4, manifest: u64::from(manifest.binary_len()) };
    (manifest, head)
}

fn read(dir: &Path, bytes: &[u8]) -> Option<Manifest> {
    std::fs::write(dir.join("out.part.journal"), bytes).unwrap();
    read_journal_manifest(&dir.join("out")).map(|(manifest, _)| manifest)
}

#[test]
fn the_form_here_is_the_stores() {
    let (dir, (manifest, head)) = (tempfile::tempdir().unwrap(), good());
    let found = read(dir.path(), &journal(&head, &manifest.to_binary())).unwrap();
    assert_eq!(found.id(), manifest.id());
    assert_eq!(missing_bytes(&manifest, &dir.path().join("out"), dir.path()), 200_000, "nothing in it is had");
}

#[test]
fn no_hostile_manifest_comes_in_by_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    for case in cases().into_iter().filter(|case| case.bytes.len() < 1 << 20) {
        let id = Manifest::parse(&case.bytes).map_or_else(|_| blake3::hash(&case.bytes).into(), |good| good.id().0);
        let (pieces, cvs) =
            Manifest::parse(&case.bytes).map_or((1, 0), |good| (good.geometry().pieces(), good.geometry().cvs()));
        if cvs > 9 {
            // Long journals say nothing more.
            continue;
        }
        let head = Head { id, pieces, cvs, manifest: case.bytes.len() as u64 };
        let found = read(dir.path(), &journal(&head, &case.bytes));
        assert_eq!(found.is_some(), case.good, "{}", case.name);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "reading writes nothing");
}

#[test]
fn numbers_that_do_not_fit_end_nothing_but_the_journal() {
    let (dir, (manifest, head)) = (tempfile::tempdir().unwrap(), good());
    let bytes = manifest.to_binary();
    let edges = [0, 1, 3, 5, 1 << 20, (1 << 22) + 1, (1 << 31) - 1, 1 << 31, u32::MAX];
    for n in edges {
        for head in [Head { pieces: n, ..head }, Head { cvs: n, ..head }, Head { pieces: n, cvs: n, ..head }] {
            assert!(read(dir.path(), &journal(&head, &bytes)).is_none(), "{head:?}");
        }
    }
    for n in [0, 1, 1 << 29, (1 << 29) + 1, 1 << 32, 1 << 63, u64::MAX - 400, u64::MAX - 32, u64::MAX] {
        let head = Head { manifest: n, ..head };
        assert!(read(dir.path(), &journal(&head, &bytes)).is_none(), "{head:?}");
    }
    assert!(read(dir.path(), &journal(&Head { id: [1; 32], ..head }, &bytes)).is_none(), "another content");
}
