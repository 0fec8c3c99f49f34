//! Turns a path into a manifest: walks it, cuts it into pieces and hashes them on all cores.
//!
//! What can't be content stops the scan with a list that names the flag which decides. A file that changes while it is
//! read stops it too: its hash would be of bytes that never were there together. What an earlier scan hashed and nobody
//! touched since isn't hashed again (see `cache`). Memory: about 200 bytes per entry beside the manifest.

use super::cache;
use super::completion;
use super::hashing::Hasher;
use super::parallel;
use super::stamp::Stamp;
use super::walk::{FoundEntry, FoundKind, Skipped, Walk, Walker, executable, on_disk};
use crate::failure::{Failure, FailureKind, counted, escape};
use shoal_protocol::geometry::{Geometry, Piece, auto_piece_size};
use shoal_protocol::manifest::{EMPTY_ROOT, Entry, Hints, Kind, Shape};
use shoal_protocol::tree::root_of;
use shoal_protocol::{Hash, Manifest};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How to scan.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// Chosen by the user, else by the rule.
    pub piece_size: Option<u32>,
    /// Take what links that leave the tree point to, instead of stopping.
    pub follow_links: bool,
    /// Leave out pipes, sockets and devices, instead of stopping.
    pub skip_special: bool,
    /// Look only at what this content has, and leave whatever else is there alone: a mount point has more.
    pub only: Option<Arc<Manifest>>,
    /// The state directory, where hashes are kept for the next scan.
    pub cache: Option<PathBuf>,
}

/// How far a scan is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanProgress {
    /// Entries found so far.
    pub entries: usize,
    /// Bytes hashed so far.
    pub done: u64,
    /// Bytes to hash; 0 while still walking.
    pub total: u64,
}

/// What a scan found.
#[derive(Debug)]
pub struct Scanned {
    /// The manifest, without hints.
    pub manifest: Manifest,
    /// The chaining values of all pieces of large files, in order.
    pub cvs: Vec<Hash>,
    /// One per entry, of the moment when it was hashed.
    pub stamps: Vec<Stamp>,
    /// The scanned path, with links resolved.
    pub root: PathBuf,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// Everything was hashed just now; otherwise a source should check pieces before it serves them.
    pub trusted: bool,
    /// What the options said.
    pub follow_links: bool,
}

/// How many problems are shown.
const SHOWN: usize = 10;

/// Scans a file or a directory.
///
/// # Errors
/// Local when something can't be read, isn't content, or changes meanwhile; bad input when there is too much of it.
pub fn scan(
    path: &Path,
    options: &ScanOptions,
    progress: &(dyn Fn(ScanProgress) + Sync),
    cancelled: &AtomicBool,
) -> Result<Scanned, Failure> {
    let root = path.canonicalize().map_err(|e| Failure::io("can't read", path, &e))?;
    let (shape, walk) = match &options.only {
        Some(manifest) => listed(&root, manifest)?,
        None => find(&root, options, progress, cancelled)?,
    };
    let is_tree = shape == Shape::Tree;
    if walk.problem_count > 0 {
        return Err(unfit(&root, &walk));
    }
    let entries = walk.entries;
    let total: u64 = entries.iter().fold(0, |sum, e| sum.saturating_add(size_of(e)));
    let piece_size = options.piece_size.unwrap_or_else(|| auto_piece_size(total));
    let files = (0..).zip(&entries).filter(|(_, e)| matches!(e.kind, FoundKind::File { .. }));
    let geometry = Geometry::new(piece_size, files.map(|(i, e)| (i, size_of(e))))?;

    let cache_file = options.cache.as_ref().map(|dir| cache::file(dir, &root, options));
    let mut known = Known::none(&entries, &geometry);
    if let Some(cached) = cache_file.as_deref().and_then(cache::load) {
        known.take(&entries, &geometry, shape, &cached);
    }
    let hashed = hash(&root, is_tree, &entries, &geometry, &mut known, progress, cancelled)?;
    for file in geometry.large() {
        let own = &known.cvs[file.cvs()];
        known.roots[file.entry as usize] = root_of(own);
    }

    let checked_ns = super::platform::wall_clock_ns();
    for entry in entries.iter().filter(|e| matches!(e.kind, FoundKind::File { .. })) {
        let at = on_disk(&root, is_tree, &entry.path);
        if at.metadata().ok().map(|m| Stamp::of(&m)) != Some(entry.stamp) {
            return Err(changed(&at));
        }
    }
    let stamps: Vec<Stamp> = entries.iter().map(|e| e.stamp).collect();
    let make = |(entry, root): (FoundEntry, &Option<Hash>)| {
        let kind = match entry.kind {
            FoundKind::File { executable } => {
                Kind::File { size: entry.stamp.size, root: root.unwrap_or(EMPTY_ROOT), executable }
            }
            FoundKind::EmptyDirectory => Kind::EmptyDirectory,
            FoundKind::Link { target } => Kind::Link { target },
        };
        Entry { path: entry.path, kind }
    };
    let count = entries.len();
    let entries = entries.into_iter().zip(&known.roots).map(make).collect();
    let manifest = Manifest::new(shape, piece_size.into(), entries, Hints::default())?;
    progress(ScanProgress { entries: count, done: hashed, total: hashed });
    let scanned = Scanned {
        manifest,
        cvs: known.cvs,
        stamps,
        root,
        skipped: walk.skipped,
        trusted: !known.any,
        follow_links: options.follow_links,
    };
    if let Some(file) = cache_file.filter(|_| hashed > 0 || !known.any) {
        cache::store(&file, &scanned, checked_ns);
    }
    Ok(scanned)
}

fn size_of(entry: &FoundEntry) -> u64 {
    if matches!(entry.kind, FoundKind::File { .. }) { entry.stamp.size } else { 0 }
}

/// What a content has, as it is on disk now.
fn listed(root: &Path, manifest: &Manifest) -> Result<(Shape, Walk), Failure> {
    let stamps = completion::stamps(manifest, root).ok_or_else(|| {
        let message = format!("{} is no longer the content {}", root.display(), manifest.id());
        Failure::new(FailureKind::Integrity, message)
    })?;
    let entry = |(entry, stamp): (&Entry, Stamp)| {
        let kind = match &entry.kind {
            Kind::File { executable, .. } => FoundKind::File { executable: *executable },
            Kind::EmptyDirectory => FoundKind::EmptyDirectory,
            Kind::Link { target } => FoundKind::Link { target: target.clone() },
        };
        FoundEntry { path: entry.path.clone(), kind, stamp }
    };
    let entries = manifest.entries().iter().zip(stamps).map(entry).collect();
    Ok((manifest.shape(), Walk { entries, ..Walk::default() }))
}

fn find(
    root: &Path,
    options: &ScanOptions,
    progress: &(dyn Fn(ScanProgress) + Sync),
    cancelled: &AtomicBool,
) -> Result<(Shape, Walk), Failure> {
    let fail = |e: io::Error| {
        if cancelled.load(Ordering::Relaxed) { interrupted() } else { Failure::io("can't read", root, &e) }
    };
    let own = root.metadata().map_err(fail)?;
    if own.is_dir() {
        let walker = Walker { follow_links: options.follow_links, skip_special: options.skip_special, cancelled };
        let report = |entries: usize| {
            if entries.is_multiple_of(1024) {
                progress(ScanProgress { entries, ..ScanProgress::default() });
            }
        };
        return Ok((Shape::Tree, walker.walk(root, report).map_err(fail)?));
    }
    if !own.is_file() {
        let message = format!("{} is neither a file nor a directory", root.display());
        return Err(Failure::new(FailureKind::Local, message));
    }
    let kind = FoundKind::File { executable: executable(&own) };
    let entry = FoundEntry { path: String::new(), kind, stamp: Stamp::of(&own) };
    Ok((Shape::File, Walk { entries: vec![entry], ..Walk::default() }))
}

fn unfit(root: &Path, walk: &Walk) -> Failure {
    let message =
        format!("{} in {} can't be part of a content", counted(walk.problem_count as u64, "thing"), root.display());
    let mut failure = Failure::new(FailureKind::Local, message);
    for problem in walk.problems.iter().take(SHOWN) {
        failure = failure.detail(format!("{}: {}", problem.path, escape(&problem.reason)));
    }
    if walk.problem_count > SHOWN {
        failure = failure.detail(format!("and {} more", walk.problem_count - SHOWN));
    }
    // Flags that decide nothing here would only mislead.
    let names = |flag: &str| walk.problems.iter().any(|problem| problem.reason.contains(flag));
    failure.hint(match (names("--follow-links"), names("--skip-special")) {
        (true, true) => "nothing was published; --follow-links and --skip-special decide on links and special files",
        (true, false) => "nothing was published; --follow-links decides on links",
        (false, true) => "nothing was published; --skip-special decides on special files",
        (false, false) => "nothing was published",
    })
}

fn changed(path: &Path) -> Failure {
    let message = format!("source changed while it was read: {}", escape(&path.to_string_lossy()));
    Failure::new(FailureKind::Local, message).hint("run the command again when nothing writes there")
}

fn interrupted() -> Failure {
    Failure::new(FailureKind::Interrupted, "interrupted while hashing")
}

/// Hashes that needn't be computed, and then those that were.
struct Known {
    /// Per entry. For large files it only says that all of its CVs are there.
    roots: Vec<Option<Hash>>,
    cvs: Vec<Hash>,
    /// Whether anything came from the cache.
    any: bool,
}

impl Known {
    fn none(entries: &[FoundEntry], geometry: &Geometry) -> Self {
        Self { roots: vec![None; entries.len()], cvs: vec![[0; 32]; geometry.cvs() as usize], any: false }
    }

    /// Takes over what the cache has for entries that nobody touched.
    fn take(&mut self, entries: &[FoundEntry], geometry: &Geometry, shape: Shape, cached: &cache::Cached) {
        if cached.manifest.shape() != shape {
            return;
        }
        let old = cached.manifest.entries();
        let mut at = 0;
        // Both lists are sorted: one pass finds all equal paths.
        let mut same = vec![u32::MAX; entries.len()];
        for (index, entry) in entries.iter().enumerate() {
            while old.get(at).is_some_and(|o| o.path < entry.path) {
                at += 1;
            }
            if old.get(at).is_some_and(|o| o.path == entry.path && o.root().is_some())
                && matches!(entry.kind, FoundKind::File { .. })
                && cached.is_current(at, &entry.stamp)
            {
                same[index] = at as u32;
            }
        }
        let piece_size = u64::from(geometry.piece_size());
        for (index, entry) in entries.iter().enumerate() {
            if same[index] != u32::MAX && size_of(entry) > 0 && size_of(entry) <= piece_size {
                self.roots[index] = old[same[index] as usize].root().copied();
                self.any = true;
            }
        }
        if cached.manifest.piece_size() != geometry.piece_size() {
            return;
        }
        let mut large = cached.manifest.geometry().large().iter().peekable();
        for file in geometry.large() {
            let from = same[file.entry as usize];
            while large.next_if(|l| l.entry < from && from != u32::MAX).is_some() {}
            if let Some(cached_file) = large.peek().filter(|l| l.entry == from)
                && let Some(cvs) = cached.cvs.get(cached_file.cvs())
                && cached_file.pieces == file.pieces
            {
                self.cvs[file.cvs()].copy_from_slice(cvs);
                self.roots[file.entry as usize] = old[from as usize].root().copied();
                self.any = true;
            }
        }
    }
}

/// Hashes what isn't known; returns how many bytes that were.
fn hash(
    root: &Path,
    is_tree: bool,
    entries: &[FoundEntry],
    geometry: &Geometry,
    known: &mut Known,
    progress: &(dyn Fn(ScanProgress) + Sync),
    cancelled: &AtomicBool,
) -> Result<u64, Failure> {
    let unknown = |entry: u32| known.roots[entry as usize].is_none();
    let total: u64 = (0..).zip(entries).filter(|(i, _)| unknown(*i)).map(|(_, e)| size_of(e)).sum();
    let done = AtomicU64::new(0);
    let at = |entry: u32| on_disk(root, is_tree, &entries[entry as usize].path);
    let open = |entry: u32| File::open(at(entry));
    let fail = |entry, error: io::Error| Failure::io("can't read", &at(entry), &error);
    let hashed = |bytes: u64| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        progress(ScanProgress { entries: entries.len(), done, total });
    };
    let results = parallel::for_each(
        geometry.pieces(),
        cancelled,
        || (Hasher::new(open), Vec::<(u32, Hash)>::new(), Vec::<(u32, Hash)>::new()),
        |(hasher, cvs, roots), piece| {
            match geometry.piece(piece) {
                Some(Piece::Subtree { entry, offset, length, .. }) if unknown(entry) => {
                    let cv = hasher.cv(entry, offset, length).map_err(|e| fail(entry, e))?;
                    cvs.push((geometry.cv_index(piece).unwrap_or_default(), cv.ok_or_else(|| changed(&at(entry)))?));
                    hashed(length.into());
                }
                Some(Piece::Pack { first, count, .. }) => {
                    let mut bytes = 0;
                    for &entry in geometry.members_of(first, count) {
                        if unknown(entry) {
                            let size = size_of(&entries[entry as usize]);
                            let root = hasher.root(entry, size).map_err(|e| fail(entry, e))?;
                            roots.push((entry, root.ok_or_else(|| changed(&at(entry)))?));
                            bytes += size;
                        }
                    }
                    hashed(bytes);
                }
                _ => {}
            }
            Ok::<_, Failure>(())
        },
    )?;
    if cancelled.load(Ordering::Relaxed) {
        return Err(interrupted());
    }
    for (_, cvs, roots) in results {
        for (at, cv) in cvs {
            known.cvs[at as usize] = cv;
        }
        for (entry, root) in roots {
            known.roots[entry as usize] = Some(root);
        }
    }
    Ok(total)
}
