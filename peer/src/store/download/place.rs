//! Where a fetch puts its data until it is complete.
//!
//! Mostly beside the final name: `OUT.part` and `OUT.part.journal`. Where OUT is an empty directory or a mount point,
//! which can't be replaced by renaming, everything is staged inside it, under names that the content itself doesn't use.

use crate::failure::{Failure, FailureKind};
use shoal_protocol::Manifest;
use shoal_protocol::manifest::Shape;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many names for staging are tried when only the place is known.
const STAGES: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The final name, with links resolved.
    pub(super) out: PathBuf,
    pub(super) part: PathBuf,
    pub(super) journal: PathBuf,
    /// Where what is replaced waits until the new content is in its place.
    pub(super) old: PathBuf,
    /// Staged inside `out`.
    pub(super) inside: bool,
}

impl Place {
    pub(super) fn of(out: &Path, manifest: &Manifest) -> Result<Self, Failure> {
        let out = resolve(out).map_err(|e| Failure::io("can't use", out, &e))?;
        let beside = Self::beside(&out);
        if beside.part.symlink_metadata().is_ok() || beside.journal.symlink_metadata().is_ok() {
            return Ok(beside);
        }
        let tops = top_names(manifest);
        // A name from the manifest may be the staging's; there are fewer of those than names to try.
        let stage =
            (0..).map(|n| Self::inside(&out, n)).find(|p| !p.names().iter().any(|name| tops.contains(name.as_str())));
        let Some(inside) = stage else { return Ok(beside) };
        if !out.is_dir() {
            return Ok(beside);
        }
        let empty = std::fs::read_dir(&out).is_ok_and(|mut found| found.next().is_none());
        let staged = inside.journal.symlink_metadata().is_ok() || inside.part.symlink_metadata().is_ok();
        if !(empty || staged || is_mount_point(&out)) {
            return Ok(beside);
        }
        if manifest.shape() == Shape::File {
            return Err(Failure::new(
                FailureKind::Refused,
                format!("{} is a directory and the content is a single file", out.display()),
            )
            .hint("name the file with -o, or the directory with --into"));
        }
        Ok(inside)
    }

    fn beside(out: &Path) -> Self {
        let with = |suffix: &str| {
            let mut name = out.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        Self {
            out: out.to_owned(),
            part: with(".part"),
            journal: with(".part.journal"),
            old: with(".part.old"),
            inside: false,
        }
    }

    fn inside(out: &Path, stage: usize) -> Self {
        let suffix = if stage == 0 { String::new() } else { format!(".{stage}") };
        let with = |name: &str| out.join(format!(".shoal.{name}{suffix}"));
        Self { out: out.to_owned(), part: with("part"), journal: with("journal"), old: with("old"), inside: true }
    }

    fn names(&self) -> [String; 4] {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let new = format!("{}.new", name(&self.journal));
        [name(&self.part), name(&self.journal), name(&self.old), new]
    }

    /// All journals that a fetch to `out` may have, whatever its content.
    pub(super) fn journals(out: &Path) -> Vec<PathBuf> {
        let Ok(out) = resolve(out) else { return Vec::new() };
        let inside = (0..STAGES).map(|n| Self::inside(&out, n).journal);
        std::iter::once(Self::beside(&out).journal).chain(inside).collect()
    }
}

/// The names that a tree has directly below its root, in order.
pub(super) fn top_names(manifest: &Manifest) -> BTreeSet<&str> {
    let mut last = "";
    let tops = manifest.entries().iter().map(|e| e.path.split('/').next().unwrap_or_default());
    // Neighbours mostly share their top: skipping them spares a million look-ups.
    tops.filter(|top| std::mem::replace(&mut last, top) != *top).collect()
}

/// An absolute name whose last component is a name and no link; it needn't exist.
fn resolve(out: &Path) -> io::Result<PathBuf> {
    let out = std::path::absolute(out)?;
    let ends_in_dots = !matches!(out.components().next_back(), Some(std::path::Component::Normal(_)));
    if ends_in_dots || out.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        return out.canonicalize();
    }
    // Without a slash at its end.
    Ok(out.components().collect())
}

fn is_mount_point(dir: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    match (device(dir), device(&dir.join(".."))) {
        // The root of the system has itself as its parent.
        (Some(own), Some(parent)) => own.0 != parent.0 || own == parent,
        _ => false,
    }
}
