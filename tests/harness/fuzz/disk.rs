//! What lies on a disk: journals, and the paths that are written to, with the kernel as the judge.

use super::Choices;
use crate::loopback::Content;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use shoal_peer::store::{Download, Opened, Source as _, missing_bytes, read_journal_manifest};
use shoal_protocol::Manifest;
use shoal_protocol::manifest::{Entry, Hints, Kind, Shape};
use shoal_protocol::message::Block;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

/// Journals as fetches leave them, and their content.
struct Journals {
    content: Content,
    /// Just begun; with half of the pieces, peers and a checkpoint; the same after a clean stop.
    kept: [Vec<u8>; 3],
}

const PIECE: usize = 1 << 16;

fn journals() -> &'static Journals {
    static MADE: OnceLock<Journals> = OnceLock::new();
    MADE.get_or_init(|| {
        let content = Content::file(90, 5 * PIECE + 9, PIECE as u32);
        let dir = memory_dir();
        let kept = |n: usize| {
            let Opened::Open(download) = content.open(dir.path()) else { panic!("nothing is there") };
            if n > 0 {
                take(&content, &download, [0, 2, 5]);
                download.remember_peers(&["127.0.0.1:7171", "[2600::1]:7000"].map(|addr| addr.parse().unwrap()));
                download.checkpoint().unwrap();
            }
            if n == 2 {
                download.save();
            }
            let journal = std::fs::read(dir.path().join("out.part.journal")).unwrap();
            drop(download);
            std::fs::remove_file(dir.path().join("out.part.journal")).unwrap();
            let _ = std::fs::remove_file(dir.path().join("out.part"));
            journal
        };
        let kept = [kept(0), kept(1), kept(2)];
        Journals { content, kept }
    })
}

/// Writes pieces as a fetch does, with their CVs.
fn take(content: &Content, download: &Download, pieces: impl IntoIterator<Item = u32>) {
    for piece in pieces.into_iter().filter(|piece| !download.have().has(*piece)) {
        let length = content.manifest.geometry().piece_length(piece);
        let block = Block { piece, offset: 0, length };
        download.write(block, &content.block(block)).unwrap();
        download.add_cvs(piece, &content.cvs[piece as usize..=piece as usize]).unwrap();
        download.mark_verified(piece).unwrap();
    }
}

fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap()
}

/// Says that a part on the disk is the one that this journal belongs to, as if it had been kept with it.
fn adopt(journal: &mut [u8], part: &Path) {
    // Where the head has device and inode: behind magic, id, numbers, key, boot id and process.
    let found = std::fs::metadata(part).unwrap();
    journal[84..92].copy_from_slice(&found.dev().to_le_bytes());
    journal[92..100].copy_from_slice(&found.ino().to_le_bytes());
    make_fit(journal);
}

fn make_fit(journal: &mut [u8]) {
    let check = blake3::hash(&journal[..224]);
    journal[224..256].copy_from_slice(check.as_bytes());
}

/// The bytes say which journal lies there, whether its data do, what is changed in it, and whether the checks of its head
/// are made to fit. Whatever it says, what is had is right, and the fetch ends right.
pub fn journal(bytes: &[u8]) {
    let Journals { content, kept } = journals();
    let mut choices = Choices::new(bytes);
    let first = choices.byte();
    let (mut bad, fits, data) = (kept[first as usize % 3].clone(), first & 12 != 0, first & 16 == 0);
    let dir = memory_dir();
    let (part, journal) = (dir.path().join("out.part"), dir.path().join("out.part.journal"));
    if data {
        // All that was verified, and garbage where nothing was.
        let mut all = content.files[0].clone();
        for piece in [1, 3, 4] {
            all[piece * PIECE..(piece + 1) * PIECE].fill(0xee);
        }
        std::fs::write(&part, &all).unwrap();
        adopt(&mut bad, &part);
    }
    while !choices.is_empty() {
        let at =
            if choices.byte().is_multiple_of(2) { choices.below(256) } else { choices.below(bad.len().max(1) as u32) };
        let length = 1 + choices.byte() as usize % 8;
        for (to, from) in bad.iter_mut().skip(at as usize).zip(choices.take(length)) {
            *to = *from;
        }
        // Not by a zero, which is what an input that has run dry gives: every journal would end up empty.
        if choices.byte() % 32 == 31 {
            bad.truncate(choices.below(bad.len().max(1) as u32) as usize);
        }
    }
    if fits && bad.len() >= 256 {
        make_fit(&mut bad);
    }
    std::fs::write(&journal, &bad).unwrap();
    if let Some((manifest, _)) = read_journal_manifest(&dir.path().join("out")) {
        assert_eq!(manifest.id(), content.manifest.id(), "another content than it was made for");
    }
    let missing = missing_bytes(&content.manifest, &dir.path().join("out"), dir.path());
    assert!(missing <= content.manifest.bytes());
    let Opened::Open(download) = content.open(dir.path()) else { panic!("nothing is complete") };
    assert!(data || download.have().count() == 0, "there are no data, so nothing is had");
    for piece in download.have().ones() {
        let block = Block { piece, offset: 0, length: content.manifest.geometry().piece_length(piece) };
        let mut found = vec![0; block.length as usize];
        download.read(block, &mut found).unwrap();
        assert!(found == content.block(block), "piece {piece} is had and wrong");
    }
    assert!(download.known_peers().len() <= 200);
    if first & 32 == 32 && download.have().has(0) {
        // What is lost is lost, and is fetched again.
        download.mark_lost(0).unwrap();
        assert!(!download.have().has(0));
    }
    take(content, &download, 0..content.manifest.geometry().pieces());
    let path = download.finish().unwrap_or_else(|failure| panic!("all is there: {failure:?}"));
    assert!(content.is_at(&path));
}

/// A tree of a few links and files: whatever is accepted, the kernel finds nothing in it that leads out.
pub fn paths(bytes: &[u8]) {
    const PARTS: [&str; 10] = ["a", "b", "c", ".", "..", "", "d", "a b", "...", "é"];
    let mut choices = Choices::new(bytes);
    let mut entries = Vec::new();
    for _ in 0..1 + choices.byte() % 6 {
        let mut text = || {
            let parts = 1 + choices.byte() % 5;
            (0..parts).map(|_| PARTS[choices.below(10) as usize]).collect::<Vec<_>>().join("/")
        };
        let (path, target) = (text(), text());
        entries.push(Entry { path, kind: Kind::Link { target } });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries.dedup_by(|a, b| a.path == b.path);
    // One bad entry must not hide the others.
    entries.retain(|e| Manifest::new(Shape::Tree, 65_536, vec![e.clone()], Hints::default()).is_ok());
    let Ok(manifest) = Manifest::new(Shape::Tree, 65_536, entries, Hints::default()) else { return };
    let world = memory_dir();
    let root = world.path().join("root");
    std::fs::create_dir(&root).unwrap();
    // What a way out would find.
    std::fs::create_dir(world.path().join("a")).unwrap();
    for entry in manifest.entries() {
        let Kind::Link { target } = &entry.kind else { continue };
        let path = root.join(&entry.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
    }
    let base = std::fs::File::open(&root).unwrap();
    for entry in manifest.entries() {
        for below in ["", "/a", "/a/b"] {
            let path = format!("{}{below}", entry.path);
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let opened = openat2(&base, path.as_str(), flags, Mode::empty(), ResolveFlags::BENEATH);
            assert_ne!(opened.err(), Some(rustix::io::Errno::XDEV), "{path} leads out: {:?}", manifest.entries());
        }
    }
}
