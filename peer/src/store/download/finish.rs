//! Gives a complete content its final name.
//!
//! First what has no bytes is made, then everything is flushed, then the journal says that moving has begun, and then
//! names change: one rename beside the target, or one per top entry where the content is staged inside. A crash in
//! between leaves a journal from which the next run goes on. What is replaced is removed last.

use super::super::beneath::{Base, lock};
use super::super::completion::{self, Lasts};
use super::super::journal::Mark;
use super::super::platform::{self, Replace};
use super::place::{Place, top_names};
use super::{Download, SyncMode, local};
use crate::failure::{Failure, FailureKind};
use rustix::fs::FileType;
use shoal_protocol::Manifest;
use shoal_protocol::manifest::{Kind, Shape};
use std::fs::File;
use std::io;
use std::path::Path;

/// A copy of a smaller file takes no time in which it could be left behind.
const COPIED_MIN: u64 = 64 << 10;

impl Download {
    pub(super) fn finish_all(&self) -> Result<(), Failure> {
        let mut moving = lock(&self.moving);
        if self.is_finished() {
            return Ok(());
        }
        let have = self.have();
        if !have.is_complete() {
            let missing = have.len() - have.count();
            return Err(Failure::new(FailureKind::Incomplete, format!("{missing} pieces are still missing"))
                .hint(format!("what is there is kept in {}", self.place.part.display())));
        }
        let fail = |what: &str, path: &Path, error: &io::Error| {
            Failure::io(what, path, error).hint(format!("everything is kept in {}", self.place.part.display()))
        };
        self.make_the_rest()?;
        let mark = Mark { moving: true, ..Mark::default() };
        self.write_checkpoint(mark).map_err(|e| fail("can't flush", &self.place.part, &e))?;
        let is_tree = self.manifest.shape() == Shape::Tree;
        *moving = true;
        self.tree.rebase(|| {
            move_into_place(&self.manifest, &self.place, self.replace)?;
            Base::open(&self.place.out, is_tree).map_err(|e| fail("can't open", &self.place.out, &e))
        })?;
        if self.options.sync == SyncMode::Auto {
            let dir = if self.place.inside { Some(self.place.out.as_path()) } else { self.place.out.parent() };
            if let Some(dir) = dir {
                File::open(dir).and_then(|d| d.sync_all()).map_err(|e| fail("can't flush", dir, &e))?;
            }
        }
        self.record()?;
        remove_leftovers(&self.place, self.replace);
        if let Some(journal) = lock(&self.journal).take()
            && let Err(error) = journal.remove()
        {
            tracing::warn!("can't remove {}: {error}", self.place.journal.display());
        }
        Ok(())
    }

    /// Empty files, empty directories, links, and executable bits of files that were there before.
    pub(super) fn make_the_rest(&self) -> Result<(), Failure> {
        for entry in self.manifest.entries() {
            let made = match &entry.kind {
                Kind::File { size: 0, executable, .. } => self.tree.create(&entry.path, *executable, &[]),
                Kind::EmptyDirectory => self.tree.make_dir(&entry.path),
                Kind::Link { .. } | Kind::File { .. } => Ok(()),
            };
            made.map_err(|e| Failure::io("can't make", &self.place.part.join(&entry.path), &e))?;
        }
        // After all files, so that nothing is ever written by way of one.
        for (number, entry) in (0..).zip(self.manifest.entries()) {
            let made = match &entry.kind {
                Kind::Link { target } => self.tree.make_link(&entry.path, target),
                Kind::File { executable, size, .. } => self.settle(number, &entry.path, *executable, *size),
                Kind::EmptyDirectory => Ok(()),
            };
            made.map_err(|e| Failure::io("can't finish", &self.place.part.join(&entry.path), &e))?;
        }
        Ok(())
    }

    fn settle(&self, entry: u32, path: &str, executable: bool, size: u64) -> io::Result<()> {
        let mut found = self.tree.look(path)?;
        if found.kind == FileType::RegularFile && found.stamp.size > size {
            // All that belongs to it is right, as after `--repair` of a file that something was appended to.
            self.tree.writable(entry, path, executable, size)?.set_len(size)?;
            found = self.tree.look(path)?;
        }
        if found.kind != FileType::RegularFile || found.stamp.size != size {
            return Err(io::Error::other("it was changed while the rest was fetched"));
        }
        if size >= COPIED_MIN
            && let Err(error) = self.tree.clear_copy(path)
        {
            tracing::debug!("a copy may be left beside {path}: {error}");
        }
        let right = found.mode_is(executable) && !found.has_special_mode();
        if right { Ok(()) } else { self.tree.set_executable(path, &found, executable) }
    }

    /// Takes the stamps of everything under its final name, and writes the completion record.
    fn record(&self) -> Result<(), Failure> {
        let take = || {
            let look = |entry: &shoal_protocol::manifest::Entry| self.tree.look(&entry.path).map(|found| found.stamp);
            self.manifest.entries().iter().map(look).collect::<io::Result<Vec<_>>>()
        };
        let fail = |e: io::Error| Failure::io("can't read", &self.place.out, &e);
        let mut stamps = take().map_err(fail)?;
        let lasts = match self.options.sync {
            SyncMode::Auto => Lasts::Always,
            SyncMode::None => Lasts::UntilReboot(self.boot),
        };
        completion::remember(&self.manifest, &self.place.out, &stamps, &self.options.state_dir, lasts);
        if self.manifest.shape() == Shape::File {
            // The record changed one of its times.
            stamps = take().map_err(fail)?;
        }
        let _ = self.finished.set(stamps);
        Ok(())
    }
}

/// The renaming itself. Begins anew wherever a crash left it.
pub(super) fn move_into_place(manifest: &Manifest, place: &Place, replace: bool) -> Result<(), Failure> {
    if !place.inside {
        return move_one(&place.part, &place.out, &place.old, replace, true);
    }
    for top in top_names(manifest) {
        let (from, to) = (place.part.join(top), place.out.join(top));
        if from.symlink_metadata().is_err() && to.symlink_metadata().is_ok() {
            continue;
        }
        if replace && to.symlink_metadata().is_ok() {
            std::fs::create_dir_all(&place.old).map_err(|e| Failure::io("can't make", &place.old, &e))?;
        }
        // Never swapped: after a crash it couldn't be told whether a pair was swapped already.
        move_one(&from, &to, &place.old.join(top), replace, false)?;
    }
    Ok(())
}

fn move_one(from: &Path, to: &Path, old: &Path, replace: bool, swap: bool) -> Result<(), Failure> {
    let fail =
        |e: &io::Error| Failure::io("can't rename to", to, e).hint(format!("everything is kept in {}", from.display()));
    let exists = || {
        Failure::new(FailureKind::Refused, format!("{} exists meanwhile and is something else", to.display()))
            .hint(format!("the complete content is in {}; --overwrite replaces what is there", from.display()))
    };
    match platform::rename(from, to, Replace::Never) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !replace => return Err(exists()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            if to.symlink_metadata().is_err() {
                return std::fs::rename(from, to).map_err(|e| fail(&e));
            }
            if !replace {
                return Err(exists());
            }
        }
        Err(error) => return Err(fail(&error)),
    }
    // The old one goes out of the way only in the same step, or one rename before, and is put back if that fails.
    let swapped =
        if swap { platform::rename(from, to, Replace::Exchange) } else { Err(io::ErrorKind::Unsupported.into()) };
    match swapped {
        Ok(()) => std::fs::rename(from, old).map_err(|e| fail(&e)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            std::fs::rename(to, old).map_err(|e| fail(&e))?;
            std::fs::rename(from, to).map_err(|e| {
                let _ = std::fs::rename(old, to);
                fail(&e)
            })
        }
        Err(error) => Err(fail(&error)),
    }
}

/// Removes what was replaced and the emptied staging directory.
pub(super) fn remove_leftovers(place: &Place, replaced: bool) {
    if replaced {
        let _ = remove(&place.old);
    }
    if place.inside {
        // Only if it is empty: a name of the user's own might have strayed into it.
        let _ = std::fs::remove_dir(&place.part);
    }
}

/// Removes a file or a directory with all that is in it; links are removed, not followed.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|e| local(format!("can't remove {}: {e}", path.display())))
}
