//! Compares a place with a manifest. Reads only.
//!
//! With all chaining values (CVs) known, damage in a large file is found by the piece; without them only the file as a
//! whole can be told good or bad. Links are compared, never followed.

use super::beneath::{Base, Found, Tree};
use super::hashing::Hasher;
use super::parallel;
use crate::failure::{Failure, FailureKind};
use rustix::fs::FileType;
use shoal_protocol::geometry::Piece;
use shoal_protocol::manifest::{Kind, Shape};
use shoal_protocol::tree::root_of;
use shoal_protocol::{Hash, Manifest};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A file whose bytes are wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFile {
    /// Its path in the content; empty for a single file.
    pub path: String,
    /// Parts that are wrong, ascending, as exact as the known CVs allow; the whole file when only its root tells.
    pub ranges: Vec<Range<u64>>,
    /// Its size if that alone is wrong already.
    pub size: Option<u64>,
}

/// What is wrong with a place.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Files with wrong bytes.
    pub bad: Vec<BadFile>,
    /// Entries that aren't there, or are of another kind.
    pub missing: Vec<String>,
    /// Files with the right bytes and the wrong executable bit.
    pub wrong_mode: Vec<String>,
    /// Links that point elsewhere.
    pub wrong_link: Vec<String>,
    /// What the content doesn't have; at most 1,000 are listed.
    pub extra: Vec<String>,
    /// Bytes that were read and found good.
    pub good_bytes: u64,
}

impl Report {
    /// Whether everything of the content is there and right. Extra files don't count.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.bad.is_empty() && self.missing.is_empty() && self.wrong_mode.is_empty() && self.wrong_link.is_empty()
    }
}

/// Most extra files that are listed.
const EXTRA: usize = 1_000;

/// Compares `path` with the manifest; `cvs` are all CVs of the content in piece order, if known.
///
/// # Errors
/// When something can't be read, or the flag is set. What is wrong with the content is in the report.
pub fn verify(
    manifest: &Manifest,
    path: &Path,
    cvs: Option<&[Hash]>,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancelled: &AtomicBool,
) -> Result<Report, Failure> {
    let is_tree = manifest.shape() == Shape::Tree;
    // The user's own link to the content is followed.
    let path = &path.canonicalize().map_err(|e| Failure::io("can't read", path, &e))?;
    let found = std::fs::metadata(path).map_err(|e| Failure::io("can't read", path, &e))?;
    if found.is_dir() != is_tree {
        let message = format!("{} is {}", path.display(), if is_tree { "not a directory" } else { "a directory" });
        return Err(Failure::new(FailureKind::Integrity, message));
    }
    let tree = Tree::new(Base::open(path, is_tree).map_err(|e| Failure::io("can't open", path, &e))?);
    let mut report = Report::default();
    let readable = look_at_all(manifest, &tree, is_tree, &mut report);
    hash_all(manifest, path, &tree, &readable, cvs, progress, cancelled, &mut report)?;
    if cancelled.load(Ordering::Relaxed) {
        return Err(Failure::new(FailureKind::Interrupted, "interrupted while verifying"));
    }
    if is_tree {
        find_extra(manifest, path, &mut report);
    }
    Ok(report)
}

/// Whether kinds, sizes, modes and links are right: what can be told without reading any file.
pub(crate) fn looks_right(manifest: &Manifest, path: &Path) -> bool {
    let is_tree = manifest.shape() == Shape::Tree;
    if std::fs::metadata(path).is_ok_and(|found| found.is_dir() != is_tree) {
        return false;
    }
    let Ok(base) = Base::open(path, is_tree) else { return false };
    let tree = Tree::new(base);
    manifest.entries().iter().all(|entry| match (&entry.kind, look(&tree, &entry.path, is_tree)) {
        (Kind::File { size, executable, .. }, Some(found)) => {
            found.kind == FileType::RegularFile && found.stamp.size == *size && found.mode_is(*executable)
        }
        (Kind::EmptyDirectory, Some(found)) => found.kind == FileType::Directory,
        (Kind::Link { target }, Some(_)) => tree.link_target(&entry.path).is_ok_and(|t| t == target.as_bytes()),
        (_, None) => false,
    })
}

/// Looks an entry up. A single file may be reached through the user's own link.
fn look(tree: &Tree, path: &str, is_tree: bool) -> Option<Found> {
    let found = tree.look(path).ok()?;
    if !is_tree && found.kind == FileType::Symlink {
        return None;
    }
    Some(found)
}

/// Fills in what lookups tell; returns which entries are files that can be read.
fn look_at_all(manifest: &Manifest, tree: &Tree, is_tree: bool, report: &mut Report) -> Vec<bool> {
    let mut readable = vec![false; manifest.entries().len()];
    for (entry, readable) in manifest.entries().iter().zip(&mut readable) {
        let found = look(tree, &entry.path, is_tree);
        let kind = found.as_ref().map(|f| f.kind);
        match &entry.kind {
            Kind::File { size, executable, .. } => match found.filter(|f| f.kind == FileType::RegularFile) {
                None => report.missing.push(entry.path.clone()),
                Some(found) => {
                    *readable = true;
                    if found.stamp.size != *size {
                        let ranges = Vec::new();
                        let bad = BadFile { path: entry.path.clone(), ranges, size: Some(found.stamp.size) };
                        report.bad.push(bad);
                    }
                    if !found.mode_is(*executable) {
                        report.wrong_mode.push(entry.path.clone());
                    }
                }
            },
            Kind::EmptyDirectory if kind == Some(FileType::Directory) => {}
            Kind::Link { target } if kind == Some(FileType::Symlink) => {
                if tree.link_target(&entry.path).ok().as_deref() != Some(target.as_bytes()) {
                    report.wrong_link.push(entry.path.clone());
                }
            }
            Kind::EmptyDirectory | Kind::Link { .. } => report.missing.push(entry.path.clone()),
        }
    }
    readable
}

#[allow(clippy::too_many_arguments)] // One caller; the parts are what `verify` has at hand.
fn hash_all(
    manifest: &Manifest,
    path: &Path,
    tree: &Tree,
    readable: &[bool],
    cvs: Option<&[Hash]>,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancelled: &AtomicBool,
    report: &mut Report,
) -> Result<(), Failure> {
    let geometry = manifest.geometry();
    let done = AtomicU64::new(0);
    // Of a part of an entry: its range, the CV that was found where it can't be judged yet, and whether it is good.
    type Parts = Vec<(Range<u64>, Option<Hash>, bool)>;
    type Finding = (u32, Range<u64>, Option<Hash>, bool);
    let entry_path = |entry: u32| manifest.entries().get(entry as usize).map_or("", |e| e.path.as_str());
    let findings = parallel::for_each(
        geometry.pieces(),
        cancelled,
        || (Hasher::new(|entry| tree.open(entry_path(entry))), Vec::<Finding>::new()),
        |(hasher, findings), piece| {
            let fail = |entry, error| {
                let path = if entry_path(entry).is_empty() { path.to_owned() } else { path.join(entry_path(entry)) };
                Failure::io("can't read", &path, &error)
            };
            match geometry.piece(piece) {
                Some(Piece::Subtree { entry, offset, length, .. }) if readable[entry as usize] => {
                    let cv = hasher.cv(entry, offset, length).map_err(|e| fail(entry, e))?;
                    let known = cvs.zip(geometry.cv_index(piece)).and_then(|(cvs, at)| cvs.get(at as usize));
                    let good = cv.is_some() && known.is_none_or(|known| cv.as_ref() == Some(known));
                    let open = if known.is_some() { None } else { cv };
                    findings.push((entry, offset..offset + u64::from(length), open, good));
                }
                Some(Piece::Pack { first, count, .. }) => {
                    for &entry in geometry.members_of(first, count) {
                        if readable[entry as usize] {
                            let size = manifest.entries()[entry as usize].size();
                            let root = hasher.root(entry, size).map_err(|e| fail(entry, e))?;
                            findings.push((entry, 0..size, None, root == Some(manifest.root(entry))));
                        }
                    }
                }
                _ => {}
            }
            let length = u64::from(geometry.piece_length(piece));
            progress(done.fetch_add(length, Ordering::Relaxed) + length, geometry.bytes());
            Ok::<_, Failure>(())
        },
    )?;
    let mut files: BTreeMap<u32, Parts> = BTreeMap::new();
    for (entry, range, cv, good) in findings.into_iter().flat_map(|(_, findings)| findings) {
        if good && cv.is_none() {
            report.good_bytes += range.end - range.start;
        } else {
            files.entry(entry).or_default().push((range, cv, good));
        }
    }
    let known: HashMap<String, usize> = report.bad.iter().enumerate().map(|(at, bad)| (bad.path.clone(), at)).collect();
    for (entry, mut parts) in files {
        parts.sort_by_key(|part| part.0.start);
        let size = manifest.entries()[entry as usize].size();
        let unjudged: Option<Vec<Hash>> = parts.iter().map(|(_, cv, good)| cv.filter(|_| *good)).collect();
        if unjudged.is_some_and(|cvs| root_of(&cvs) == Some(manifest.root(entry))) {
            report.good_bytes += size;
            continue;
        }
        let judged = parts.iter().all(|(_, cv, _)| cv.is_none());
        let ranges = if judged { join(parts.into_iter().map(|p| p.0)) } else { std::iter::once(0..size).collect() };
        let path = entry_path(entry);
        match known.get(path).and_then(|at| report.bad.get_mut(*at)) {
            Some(bad) => bad.ranges = ranges,
            None => report.bad.push(BadFile { path: path.to_owned(), ranges, size: None }),
        }
    }
    report.bad.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

/// Neighbouring ranges as one.
fn join(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => out.push(range),
        }
    }
    out
}

fn find_extra(manifest: &Manifest, path: &Path, report: &mut Report) {
    let entries = manifest.entries();
    let is_entry = |path: &str| entries.binary_search_by(|e| e.path.as_str().cmp(path)).is_ok();
    let is_parent = |path: &str| {
        let below = format!("{path}/");
        let at = entries.partition_point(|e| e.path.as_str() < below.as_str());
        entries.get(at).is_some_and(|e| e.path.starts_with(&below))
    };
    let mut walk = walkdir::WalkDir::new(path).min_depth(1).sort_by_file_name().into_iter();
    while let Some(found) = walk.next() {
        let Ok(found) = found else { continue };
        let relative = found.path().strip_prefix(path).unwrap_or(found.path()).to_string_lossy();
        if is_entry(&relative) || (found.file_type().is_dir() && is_parent(&relative)) {
            continue;
        }
        if found.file_type().is_dir() {
            walk.skip_current_dir();
        }
        report.extra.push(relative.into_owned());
        if report.extra.len() == EXTRA {
            return;
        }
    }
}
