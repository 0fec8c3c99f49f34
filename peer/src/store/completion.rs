//! Remembers that a place holds a content, so that running the same fetch again is answered without reading the bytes.
//!
//! The record is an extended attribute of the file or directory, or a file in the state directory where there are none.
//! It holds the content id, the name that the manifest hinted at, and a seal over these and over device, inode, size and
//! times of every entry: a copy, or a tree in which anything was edited, doesn't pass. The seal is keyed by a secret of
//! this user, as anybody who may write to a place could else put wrong bytes there with a record that praises them.
//! Checking it takes one lookup per entry. A missing or wrong record is never an error; the bytes are then checked
//! themselves.
//!
//! Names and sizes may reach the disk before bytes do. A record of bytes that nobody flushed is sealed with the machine's
//! boot, too, and worth nothing after the next one.
//!
//! A single file carries its record itself, and setting an attribute changes `ctime`. So its seal leaves `ctime` out
//! and the record has the one from just before; the file's own may be at most a second later.

use super::beneath::{Base, Tree};
use super::platform::{attribute, boot_id, flush, private_dir, set_attribute};
use super::stamp::Stamp;
use super::walk::{FoundKind, Walker};
use crate::names::plain_name;
use rustix::fs::FileType;
use shoal_protocol::manifest::{Kind, Shape};
use shoal_protocol::{ContentId, Hash, Manifest};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

const ATTRIBUTE: &str = "user.shoal.complete";
/// In the state directory.
const SECRET: &str = "complete.key";
const VERSION: u8 = 3;
const NAME: usize = 8;
/// Version, content id, name and `ctime`; the seal follows.
const HEAD: usize = 1 + 32 + NAME + 8;
const RECORD: usize = HEAD + 32;
const SLACK_NS: i64 = 1_000_000_000;

/// One run of the machine, if that is known.
pub(crate) type Boot = Option<[u8; 16]>;

/// How long a record is worth something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// The bytes were flushed.
    Always,
    /// They were not: a power cut may take them.
    UntilReboot(Boot),
}

fn seal(secret: &Hash, head: &[u8], shape: Shape, stamps: &[Stamp], boot: Boot) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(head);
    for mut stamp in stamps.iter().copied() {
        if shape == Shape::File {
            stamp.ctime_ns = 0;
        }
        hasher.update(&stamp.to_bytes());
    }
    if let Some(boot) = boot {
        hasher.update(&boot);
    }
    hasher.finalize().into()
}

/// What this user's records are sealed with, if any was made yet. A file of somebody else's is no secret of ours.
fn secret(state_dir: &Path) -> Option<Hash> {
    secret_of(state_dir, rustix::process::geteuid().as_raw())
}

fn secret_of(state_dir: &Path, user: u32) -> Option<Hash> {
    let mut file = File::open(state_dir.join(SECRET)).ok()?;
    if file.metadata().ok()?.uid() != user {
        return None;
    }
    let mut bytes = Hash::default();
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// The same; made if there is none.
fn make_secret(state_dir: &Path) -> io::Result<Hash> {
    if let Some(found) = secret(state_dir) {
        return Ok(found);
    }
    private_dir(state_dir)?;
    let mut bytes = Hash::default();
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    // Only this user may read it, and it appears whole. Where two make it at once, one's first record is worth nothing.
    let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
    file.write_all(&bytes)?;
    file.persist(state_dir.join(SECRET))?;
    Ok(bytes)
}

/// Stands for a name in a record: enough to know it again, and of a fixed length.
fn name_mark(name: &OsStr) -> [u8; NAME] {
    let hash = blake3::hash(name.as_encoded_bytes());
    std::array::from_fn(|n| hash.as_bytes()[n])
}

fn record(secret: &Hash, manifest: &Manifest, stamps: &[Stamp], boot: Boot) -> Vec<u8> {
    let ctime = if manifest.shape() == Shape::File { stamps.first().map_or(0, |s| s.ctime_ns) } else { 0 };
    let mut out = vec![VERSION];
    out.extend(manifest.id().0);
    out.extend(name_mark(plain_name(manifest).as_ref()));
    out.extend(ctime.to_le_bytes());
    let seal = seal(secret, &out, manifest.shape(), stamps, boot);
    out.extend(seal);
    out
}

fn state_file(state_dir: &Path, path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let path = path.canonicalize().ok()?;
    let name = blake3::hash(path.as_os_str().as_bytes()).to_hex();
    Some(state_dir.join("complete").join(&name[..32]))
}

/// Remembers that `path` holds the content, unchanged since the stamps were taken. Failing is no harm.
pub(crate) fn remember(manifest: &Manifest, path: &Path, stamps: &[Stamp], state_dir: &Path, lasts: Lasts) {
    let boot = match lasts {
        Lasts::Always => None,
        Lasts::UntilReboot(None) => return,
        Lasts::UntilReboot(boot) => boot,
    };
    let write = || -> io::Result<()> {
        let secret = make_secret(state_dir)?;
        let made = record(&secret, manifest, stamps, boot);
        match (manifest.shape(), stamps) {
            (Shape::File, [stamp]) => {
                let stamp = changed_just_now(path, &made, *stamp)?;
                keep(path, &record(&secret, manifest, &[stamp], boot), state_dir)
            }
            _ => keep(path, &made, state_dir),
        }
    };
    if let Err(error) = write() {
        tracing::debug!("no completion record for {}: {error}", path.display());
    }
}

/// Has the file changed by a record now, as the one that counts holds the time from just before itself. Gives its stamp after
/// that.
fn changed_just_now(path: &Path, record: &[u8], before: Stamp) -> io::Result<Stamp> {
    let _ = set_attribute(path, ATTRIBUTE, record);
    let now = Stamp::of(&path.symlink_metadata()?);
    let same = Stamp { ctime_ns: before.ctime_ns, ..now } == before;
    if same { Ok(now) } else { Err(io::Error::other("it was edited meanwhile")) }
}

/// Puts a record where it belongs.
fn keep(path: &Path, record: &[u8], state_dir: &Path) -> io::Result<()> {
    if set_attribute(path, ATTRIBUTE, record) {
        return Ok(());
    }
    let file = state_file(state_dir, path).ok_or(io::ErrorKind::NotFound)?;
    private_dir(file.parent().unwrap_or(state_dir))?;
    let new = file.with_extension(std::process::id().to_string());
    std::fs::write(&new, record)?;
    std::fs::rename(&new, &file)
}

/// Whether a record says that `path` holds the content, and nothing was touched since; and how long that is worth something.
pub(crate) fn remembered(manifest: &Manifest, path: &Path, state_dir: &Path, boot: Boot) -> Option<Lasts> {
    let stored = stored(manifest.id(), path, state_dir)?;
    fits(&stored, state_dir, manifest.shape(), &stamps(manifest, path)?, boot)
}

/// What a record tells of the content at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Its bytes.
    pub bytes: u64,
    /// Whether the path ends in the name that the manifest hinted at.
    pub as_hinted: bool,
    /// Whether the bytes were flushed.
    pub flushed: bool,
}

/// What is known of the content at `path`, if a record says that it is this one and nothing was touched since: the answer
/// when there is nothing at hand but an id. What has more in it than the content, as a mount point may, needs a
/// manifest to be told from it, and gets no answer here.
#[must_use]
pub fn recorded(id: ContentId, path: &Path, state_dir: &Path) -> Option<Recorded> {
    let stored = stored(id, path, state_dir)?;
    let as_hinted = path.file_name().is_some_and(|name| stored.get(33..33 + NAME) == Some(&name_mark(name)[..]));
    let (shape, stamps, bytes) = found(path)?;
    let lasts = fits(&stored, state_dir, shape, &stamps, boot_id())?;
    Some(Recorded { bytes, as_hinted, flushed: lasts == Lasts::Always })
}

/// What lies at a path, without a manifest to compare it with: its shape, the stamps of all that is in it, and its bytes.
fn found(path: &Path) -> Option<(Shape, Vec<Stamp>, u64)> {
    let found = path.metadata().ok()?;
    if found.is_file() {
        let stamp = Stamp::of(&found);
        return Some((Shape::File, vec![stamp], stamp.size));
    }
    let walker = Walker { follow_links: false, skip_special: false, cancelled: &AtomicBool::new(false) };
    let walk = walker.walk(path, |_| {}).ok().filter(|walk| walk.problem_count == 0)?;
    let files = walk.entries.iter().filter(|entry| matches!(entry.kind, FoundKind::File { .. }));
    let bytes = files.map(|entry| entry.stamp.size).sum();
    Some((Shape::Tree, walk.entries.iter().map(|entry| entry.stamp).collect(), bytes))
}

/// Flushes a content that is there and was not flushed when it came, and has its record say so.
#[must_use]
pub fn make_lasting(id: ContentId, path: &Path, state_dir: &Path) -> bool {
    let Some(mut stored) = stored(id, path, state_dir) else { return false };
    let (Some(secret), Some((shape, stamps, _))) = (secret(state_dir), found(path)) else { return false };
    if fits(&stored, state_dir, shape, &stamps, boot_id()).is_none() || !flush(path) {
        return false;
    }
    // The stamps are from before the flush: what was edited meanwhile doesn't fit.
    if let (Shape::File, [stamp]) = (shape, stamps.as_slice()) {
        let Ok(stamp) = changed_just_now(path, &stored, *stamp) else { return false };
        stored[HEAD - 8..HEAD].copy_from_slice(&stamp.ctime_ns.to_le_bytes());
    }
    let sealed = seal(&secret, &stored[..HEAD], shape, &stamps, None);
    stored[HEAD..].copy_from_slice(&sealed);
    keep(path, &stored, state_dir).is_ok()
}

/// The record of `path`, if there is one for this content.
fn stored(id: ContentId, path: &Path, state_dir: &Path) -> Option<Vec<u8>> {
    attribute(path, ATTRIBUTE, RECORD)
        .or_else(|| std::fs::read(state_file(state_dir, path)?).ok())
        .filter(|stored| stored.len() == RECORD && stored[0] == VERSION && stored[1..33] == id.0)
}

/// Whether a record of this user was made of these stamps, and which.
fn fits(stored: &[u8], state_dir: &Path, shape: Shape, stamps: &[Stamp], boot: Boot) -> Option<Lasts> {
    let (head, sealed) = stored.split_at_checked(HEAD)?;
    let secret = secret(state_dir)?;
    let is_sealed = |boot| seal(&secret, head, shape, stamps, boot) == *sealed;
    let lasts = if is_sealed(None) {
        Lasts::Always
    } else if boot.is_some() && is_sealed(boot) {
        Lasts::UntilReboot(boot)
    } else {
        return None;
    };
    let ctime = head.last_chunk().map(|b| i64::from_le_bytes(*b))?;
    let is_late = |s: &Stamp| (0..=SLACK_NS).contains(&s.ctime_ns.saturating_sub(ctime));
    (shape == Shape::Tree || stamps.first().is_some_and(is_late)).then_some(lasts)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_another_user_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, state) = (rustix::process::geteuid().as_raw(), dir.path().join("state"));
        assert_eq!(secret(&state), None);
        let made = make_secret(&state).unwrap();
        assert_eq!((secret(&state), secret_of(&state, ours)), (Some(made), Some(made)));
        assert_eq!(secret_of(&state, ours + 1), None);
        assert_eq!(make_secret(&state).unwrap(), made);
    }
}
