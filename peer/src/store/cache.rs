//! Keeps the hashes of a scan, so that seeding the same path again starts after one look at each file.
//!
//! One file per path and options in the state directory: manifest, chaining values and stamps, with a BLAKE3 check over
//! all. A file is taken as unchanged when its stamp is what it was. Times of files are coarse, so one that was touched
//! within two seconds of the scan that hashed it is hashed again ("racily clean", as in git). What can't be read is as if
//! it weren't there, and failing to write is no error: the cache only saves time.

use super::platform::private_dir;
use super::scan::{ScanOptions, Scanned};
use super::stamp::{STAMP_BYTES, Stamp};
use shoal_protocol::{Hash, Manifest};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"\x89shoalc\x01";
const CHECK: usize = 32;
/// Coarsest times of common filesystems.
const RACY_NS: i64 = 2_000_000_000;
/// Caches that are kept; the oldest go.
const KEPT: usize = 64;

/// What an earlier scan found.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(crate) manifest: Manifest,
    pub(crate) cvs: Vec<Hash>,
    stamps: Vec<Stamp>,
    /// When the stamps were last compared.
    checked_ns: i64,
}

impl Cached {
    /// Whether the entry at an index is surely what it was.
    pub(crate) fn is_current(&self, entry: usize, stamp: &Stamp) -> bool {
        let newest = stamp.mtime_ns.max(stamp.ctime_ns);
        self.stamps.get(entry) == Some(stamp) && newest < self.checked_ns.saturating_sub(RACY_NS)
    }
}

/// Where the cache for a path is.
pub(crate) fn file(state_dir: &Path, root: &Path, options: &ScanOptions) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(root.as_os_str().as_bytes());
    hasher.update(&[0, options.follow_links.into(), options.skip_special.into()]);
    hasher.update(&options.piece_size.unwrap_or_default().to_le_bytes());
    let name = hasher.finalize().to_hex();
    state_dir.join("seeds").join(&name[..32])
}

/// Reads a cache; `None` if there is none or anything is wrong with it.
pub(crate) fn load(file: &Path) -> Option<Cached> {
    let bytes = std::fs::read(file).ok()?;
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK)?)?;
    if blake3::hash(body).as_bytes() != check {
        return None;
    }
    let rest = body.strip_prefix(&MAGIC)?;
    let (checked, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let (manifest, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let manifest = Manifest::parse(manifest).ok()?;
    let (cvs, stamps) = rest.split_at_checked(manifest.geometry().cvs() as usize * 32)?;
    let (stamps, left) = stamps.as_chunks::<STAMP_BYTES>();
    if !left.is_empty() || stamps.len() != manifest.entries().len() {
        return None;
    }
    Some(Cached {
        manifest,
        cvs: cvs.as_chunks().0.to_vec(),
        stamps: stamps.iter().map(Stamp::from_bytes).collect(),
        checked_ns: i64::from_le_bytes(*checked),
    })
}

/// Writes a cache. `checked_ns` is when the stamps were compared for the last time.
pub(crate) fn store(file: &Path, scanned: &Scanned, checked_ns: i64) {
    let write = || -> io::Result<()> {
        let dir = file.parent().ok_or(io::ErrorKind::NotFound)?;
        private_dir(dir)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(checked_ns.to_le_bytes());
        bytes.extend(u64::from(scanned.manifest.binary_len()).to_le_bytes());
        bytes.extend(scanned.manifest.to_binary());
        bytes.extend(scanned.cvs.as_flattened());
        scanned.stamps.iter().for_each(|stamp| bytes.extend(stamp.to_bytes()));
        let check = blake3::hash(&bytes);
        bytes.extend(check.as_bytes());
        let mut new = tempfile::NamedTempFile::new_in(dir)?;
        new.write_all(&bytes)?;
        new.persist(file)?;
        prune(dir)
    };
    if let Err(error) = write() {
        tracing::debug!("no cache for {}: {error}", scanned.root.display());
    }
}

fn prune(dir: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        found.push((entry.metadata()?.modified()?, entry.path()));
    }
    found.sort_unstable();
    let surplus = found.len().saturating_sub(KEPT);
    for (_, path) in found.into_iter().take(surplus) {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}
