//! Remembers that a place holds a content, so that running the same fetch again is answered without reading the bytes.
//!
//! The record is an extended attribute of the file or directory, or a file in the state directory where there are none.
//! It holds the content id and a digest over device, inode, size and times of every entry: a copy, or a tree in which
//! anything was edited, doesn't pass. Checking it takes one lookup per entry. A missing or wrong record is never an
//! error; the bytes are then checked themselves.
//!
//! A single file carries its record itself, and setting an attribute changes `ctime`. So its digest leaves `ctime` out
//! and the record has the one from just before; the file's own may be at most a second later.

use super::beneath::{Base, Tree};
use super::platform::{attribute, private_dir, set_attribute};
use super::stamp::Stamp;
use rustix::fs::FileType;
use shoal_protocol::manifest::{Kind, Shape};
use shoal_protocol::{Hash, Manifest};
use std::io;
use std::path::{Path, PathBuf};

const ATTRIBUTE: &str = "user.shoal.complete";
const VERSION: u8 = 1;
const RECORD: usize = 1 + 32 + 32 + 8;
const SLACK_NS: i64 = 1_000_000_000;

fn digest(manifest: &Manifest, stamps: impl Iterator<Item = Stamp>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&manifest.id().0);
    for mut stamp in stamps {
        if manifest.shape() == Shape::File {
            stamp.ctime_ns = 0;
        }
        hasher.update(&stamp.to_bytes());
    }
    hasher.finalize().into()
}

fn record(manifest: &Manifest, stamps: &[Stamp]) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend(manifest.id().0);
    out.extend(digest(manifest, stamps.iter().copied()));
    let ctime = if manifest.shape() == Shape::File { stamps.first().map_or(0, |s| s.ctime_ns) } else { 0 };
    out.extend(ctime.to_le_bytes());
    out
}

fn state_file(state_dir: &Path, path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let path = path.canonicalize().ok()?;
    let name = blake3::hash(path.as_os_str().as_bytes()).to_hex();
    Some(state_dir.join("complete").join(&name[..32]))
}

/// Remembers that `path` holds the content, unchanged since the stamps were taken. Failing is no harm.
pub(crate) fn remember(manifest: &Manifest, path: &Path, stamps: &[Stamp], state_dir: &Path) {
    let record = record(manifest, stamps);
    if set_attribute(path, ATTRIBUTE, &record) {
        return;
    }
    let write = || -> io::Result<()> {
        let file = state_file(state_dir, path).ok_or(io::ErrorKind::NotFound)?;
        private_dir(file.parent().unwrap_or(state_dir))?;
        let new = file.with_extension(std::process::id().to_string());
        std::fs::write(&new, &record)?;
        std::fs::rename(&new, &file)
    };
    if let Err(error) = write() {
        tracing::debug!("no completion record for {}: {error}", path.display());
    }
}

/// Whether a record says that `path` holds the content, and nothing was touched since.
pub(crate) fn is_remembered(manifest: &Manifest, path: &Path, state_dir: &Path) -> bool {
    let stored = attribute(path, ATTRIBUTE, RECORD)
        .or_else(|| std::fs::read(state_file(state_dir, path)?).ok())
        .filter(|stored| stored.len() == RECORD && stored[0] == VERSION && stored[1..33] == manifest.id().0);
    let Some(stored) = stored else { return false };
    let Some(stamps) = stamps(manifest, path) else { return false };
    if digest(manifest, stamps.iter().copied()) != stored[33..65] {
        return false;
    }
    let Some(ctime) = stored.last_chunk().map(|b| i64::from_le_bytes(*b)) else { return false };
    manifest.shape() == Shape::Tree
        || stamps.first().is_some_and(|s| (0..=SLACK_NS).contains(&s.ctime_ns.saturating_sub(ctime)))
}

/// The stamps of all entries; `None` if one is missing or of another kind, size or mode.
pub(crate) fn stamps(manifest: &Manifest, path: &Path) -> Option<Vec<Stamp>> {
    let tree = Tree::new(Base::open(path, manifest.shape() == Shape::Tree).ok()?);
    let mut out = Vec::with_capacity(manifest.entries().len());
    for entry in manifest.entries() {
        let found = tree.look(&entry.path).ok()?;
        let (kind, good) = match &entry.kind {
            Kind::File { size, executable, .. } => {
                (FileType::RegularFile, found.stamp.size == *size && found.mode_is(*executable))
            }
            Kind::EmptyDirectory => (FileType::Directory, true),
            Kind::Link { .. } => (FileType::Symlink, true),
        };
        if found.kind != kind || !good {
            return None;
        }
        out.push(found.stamp);
    }
    Some(out)
}
