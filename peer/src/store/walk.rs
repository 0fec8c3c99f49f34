//! Finds everything below a path that can be content, and collects what can't.
//!
//! Names in byte order of the whole path, which is the manifest's order; walking a directory in order isn't enough for
//! that, as `a.b` comes before `a/b`. Links that stay inside are kept; others are followed only if asked to, with loops
//! found. Memory: the path and the stamp of each entry.

use super::platform;
use super::stamp::Stamp;
use shoal_protocol::path::{check_path, link_target_is_inside};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path relative to the root, fit for a terminal.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What a found entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FoundKind {
    File { executable: bool },
    EmptyDirectory,
    Link { target: String },
}

#[derive(Debug, Clone)]
pub(crate) struct FoundEntry {
    pub(crate) path: String,
    pub(crate) kind: FoundKind,
    pub(crate) stamp: Stamp,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// In byte order of their paths.
    pub(crate) entries: Vec<FoundEntry>,
    /// Left out with the user's consent.
    pub(crate) skipped: Vec<Skipped>,
    /// What stops a seed; at most [`PROBLEMS`] are kept, all are counted.
    pub(crate) problems: Vec<Skipped>,
    pub(crate) problem_count: usize,
}

/// Most problems that are kept; only ten are shown.
const PROBLEMS: usize = 100;

#[derive(Debug)]
pub(crate) struct Walker<'a> {
    pub(crate) follow_links: bool,
    pub(crate) skip_special: bool,
    pub(crate) cancelled: &'a AtomicBool,
}

pub(crate) fn executable(found: &Metadata) -> bool {
    found.mode() & 0o100 != 0
}

impl Walker<'_> {
    /// Walks the directory `root`.
    pub(crate) fn walk(&self, root: &Path, mut found: impl FnMut(usize)) -> io::Result<Walk> {
        let mut out = Walk::default();
        let own = root.metadata()?;
        let mut above = vec![(own.dev(), own.ino())];
        self.directory(root, "", &mut above, &mut out, &mut found)?;
        // Stable sorting would need room for half of the list again.
        out.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(out)
    }

    fn directory(
        &self,
        dir: &Path,
        prefix: &str,
        above: &mut Vec<(u64, u64)>,
        out: &mut Walk,
        found: &mut impl FnMut(usize),
    ) -> io::Result<()> {
        let before = out.entries.len();
        for entry in std::fs::read_dir(dir)? {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                out.problem(format!("{prefix}{}", name.to_string_lossy()), "the name is not UTF-8; rename it".into());
                continue;
            };
            let path = format!("{prefix}{name}");
            if let Err(error) = check_path(&path) {
                out.problem(path, format!("{error}; rename it"));
                continue;
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) => {
                    out.problem(path, error.to_string());
                    continue;
                }
            };
            if metadata.is_symlink() {
                self.link(&entry.path(), path, &metadata, above, out, found);
            } else {
                self.real(&entry.path(), path, &metadata, above, out, found);
            }
        }
        // Empty, or all that is in it was left out.
        if out.entries.len() == before && !prefix.is_empty() {
            let stamp = Stamp::of(&dir.metadata()?);
            let path = prefix.trim_end_matches('/').to_owned();
            out.entries.push(FoundEntry { path, kind: FoundKind::EmptyDirectory, stamp });
        }
        Ok(())
    }

    fn link(
        &self,
        at: &Path,
        path: String,
        metadata: &Metadata,
        above: &mut Vec<(u64, u64)>,
        out: &mut Walk,
        found: &mut impl FnMut(usize),
    ) {
        let target = match std::fs::read_link(at) {
            Ok(target) => target,
            Err(error) => return out.problem(path, error.to_string()),
        };
        if let Some(target) = target.to_str()
            && link_target_is_inside(&path, target)
        {
            let kind = FoundKind::Link { target: target.to_owned() };
            out.entries.push(FoundEntry { path, kind, stamp: Stamp::of(metadata) });
            found(out.entries.len());
            return;
        }
        if !self.follow_links {
            let reason =
                format!("a link that leaves the tree, to {}; --follow-links takes what it points to", target.display());
            return out.problem(path, reason);
        }
        match at.metadata() {
            Ok(target) => self.real(at, path, &target, above, out, found),
            Err(error) => out.problem(path, format!("a link to {}: {error}", target.display())),
        }
    }

    /// Something that is no link, or what a link points to.
    fn real(
        &self,
        at: &Path,
        path: String,
        metadata: &Metadata,
        above: &mut Vec<(u64, u64)>,
        out: &mut Walk,
        found: &mut impl FnMut(usize),
    ) {
        if metadata.is_dir() {
            let own = (metadata.dev(), metadata.ino());
            if above.contains(&own) {
                return out.problem(path, "a link to a directory that it lies in: a loop".into());
            }
            above.push(own);
            if let Err(error) = self.directory(at, &format!("{path}/"), above, out, found)
                && error.kind() != io::ErrorKind::Interrupted
            {
                out.problem(path, error.to_string());
            }
            above.pop();
        } else if metadata.is_file() {
            if let Err(error) = platform::may_read(at) {
                return out.problem(path, error.to_string());
            }
            let kind = FoundKind::File { executable: executable(metadata) };
            out.entries.push(FoundEntry { path, kind, stamp: Stamp::of(metadata) });
            found(out.entries.len());
        } else {
            let kind = metadata.file_type();
            let what = if kind.is_fifo() {
                "a pipe"
            } else if kind.is_socket() {
                "a socket"
            } else {
                "a device"
            };
            if self.skip_special {
                out.skipped.push(Skipped { path: shown(&path), reason: what.into() });
            } else {
                out.problem(path, format!("{what}; --skip-special leaves it out"));
            }
        }
    }
}

impl Walk {
    fn problem(&mut self, path: impl AsRef<str>, reason: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS {
            self.problems.push(Skipped { path: shown(path.as_ref()), reason });
        }
    }
}

fn shown(path: &str) -> String {
    crate::failure::escape(path)
}

/// The path that an entry has on disk.
pub(crate) fn on_disk(root: &Path, is_tree: bool, path: &str) -> PathBuf {
    if is_tree { root.join(path) } else { root.to_owned() }
}
