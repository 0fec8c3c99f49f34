//! What lies on a disk: journals, and the paths that are written to, with the kernel as the judge.

use super::Choices;
use crate::loopback::Content;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use shoal_peer::store::{Opened, read_journal_manifest};
use shoal_protocol::Manifest;
use shoal_protocol::manifest::{Entry, Hints, Kind, Shape};
use std::path::Path;
use std::sync::OnceLock;

/// A journal as a fetch leaves it, and its content.
fn journal_of() -> &'static (Vec<u8>, Content) {
    static MADE: OnceLock<(Vec<u8>, Content)> = OnceLock::new();
    MADE.get_or_init(|| {
        let content = Content::file(90, 200_000, 1 << 16);
        let dir = tempfile::tempdir().unwrap();
        let Opened::Open(download) = content.open(dir.path()) else { panic!("nothing is there") };
        download.save();
        drop(download);
        (std::fs::read(dir.path().join("out.part.journal")).unwrap(), content)
    })
}

/// The bytes say what is changed in a journal, and whether the check of its head is made to fit.
pub fn journal(bytes: &[u8]) {
    let (good, content) = journal_of();
    let mut choices = Choices::new(bytes);
    let (mut bad, fits) = (good.clone(), !choices.byte().is_multiple_of(4));
    while !choices.is_empty() {
        let at =
            if choices.byte().is_multiple_of(2) { choices.below(256) } else { choices.below(bad.len().max(1) as u32) };
        let length = 1 + choices.byte() as usize % 8;
        for (to, from) in bad.iter_mut().skip(at as usize).zip(choices.take(length)) {
            *to = *from;
        }
        if choices.byte().is_multiple_of(32) {
            bad.truncate(choices.below(bad.len().max(1) as u32) as usize);
        }
    }
    if fits && bad.len() >= 256 {
        let check = blake3::hash(&bad[..224]);
        bad[224..256].copy_from_slice(check.as_bytes());
    }
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    std::fs::write(dir.path().join("out.part.journal"), &bad).unwrap();
    if let Some(manifest) = read_journal_manifest(&dir.path().join("out")) {
        assert_eq!(manifest.id(), content.manifest.id(), "another content than it was made for");
    }
    if let Opened::Open(download) = content.open(dir.path()) {
        assert_eq!(download.have().count(), 0, "there are no data, so nothing is had");
    }
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
    let world = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
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
