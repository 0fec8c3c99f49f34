//! Finds out what of a part is right by hashing it: after a power cut, without a journal, or to repair.
//!
//! A pack is judged by the roots in the manifest. A piece of a large file needs its chaining value (CV): where it isn't
//! known, either the whole file is there and its root tells, or the CV is kept until the swarm tells the right ones.

use super::super::beneath::lock;
use super::super::hashing::Hasher;
use super::super::journal::Mark;
use super::super::parallel;
use super::{Download, known_root};
use crate::failure::{Failure, FailureKind};
use shoal_protocol::Hash;
use shoal_protocol::geometry::Piece;
use shoal_protocol::tree::root_of;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

impl Download {
    /// Notes that all was hashed. What nobody could judge has to be hashed again by who goes on from here.
    pub(super) fn checked(&self) -> io::Result<()> {
        let (have, mark) = (self.have(), Mark { checking: self.awaits_cvs(), ..Mark::default() });
        lock(&self.journal).as_mut().map_or(Ok(()), |journal| journal.checkpoint(&have, mark))
    }

    /// Hashes every piece that isn't had and whose place on disk holds anything.
    pub(super) fn rehash(&self, progress: &(dyn Fn(u64, u64) + Sync), cancelled: &AtomicBool) -> Result<(), Failure> {
        let geometry = self.manifest.geometry();
        let have = self.have();
        let todo: Vec<u32> = have.zeros().collect();
        let total: u64 = todo.iter().map(|p| u64::from(geometry.piece_length(*p))).sum();
        let done = AtomicU64::new(0);
        let open = |entry| self.tree.open(self.file(entry)?.0);
        // Pieces that are right, and those whose CV has to be judged.
        let found = parallel::for_each(
            todo.len() as u32,
            cancelled,
            || (Hasher::new(open), Vec::new(), Vec::<(u32, Hash)>::new()),
            |(hasher, good, open), at| {
                let piece = todo[at as usize];
                // What can't be read is not had.
                match self.rehash_piece(hasher, piece) {
                    Ok(Some(None)) => good.push(piece),
                    Ok(Some(Some(cv))) => open.push((piece, cv)),
                    Ok(None) | Err(_) => {}
                }
                let length = u64::from(geometry.piece_length(piece));
                progress(done.fetch_add(length, Ordering::Relaxed) + length, total);
                Ok::<_, Failure>(())
            },
        )?;
        if cancelled.load(Ordering::Relaxed) {
            return Err(Failure::new(FailureKind::Interrupted, "interrupted while checking what is there")
                .hint("everything is kept; run the same command again to go on"));
        }
        let note = |piece| self.mark_verified(piece).map_err(|e| Failure::io("can't write", &self.place.journal, &e));
        let mut open: Vec<(u32, Hash)> = Vec::new();
        for (_, good, found) in found {
            open.extend(found);
            good.into_iter().try_for_each(note)?;
        }
        open.sort_unstable_by_key(|(piece, _)| *piece);
        self.judge(open, note)
    }

    /// `None`: wrong or not there; `Some(None)`: right; `Some(Some(cv))`: there, and this is its CV.
    fn rehash_piece<F: FnMut(u32) -> io::Result<std::fs::File>>(
        &self,
        hasher: &mut Hasher<F>,
        piece: u32,
    ) -> io::Result<Option<Option<Hash>>> {
        let geometry = self.manifest.geometry();
        match geometry.piece(piece) {
            Some(Piece::Subtree { entry, offset, length, .. }) => {
                if !hasher.has_data(entry, offset, length)? {
                    return Ok(None);
                }
                let Some(cv) = hasher.cv(entry, offset, length)? else { return Ok(None) };
                match geometry.cv_index(piece).and_then(|at| self.cv(at)) {
                    Some(known) => Ok((known == cv).then_some(None)),
                    None => Ok(Some(Some(cv))),
                }
            }
            Some(Piece::Pack { first, count, .. }) => {
                for &entry in geometry.members_of(first, count) {
                    let (path, size, _) = self.file(entry)?;
                    if self.tree.look(path)?.stamp.size != size {
                        return Ok(None);
                    }
                    if hasher.root(entry, size)? != Some(self.manifest.root(entry)) {
                        return Ok(None);
                    }
                }
                Ok(Some(None))
            }
            None => Ok(None),
        }
    }

    /// Files all of whose pieces have a CV now are judged by their root; the other CVs wait.
    fn judge(&self, mut open: Vec<(u32, Hash)>, note: impl Fn(u32) -> Result<(), Failure>) -> Result<(), Failure> {
        for file in self.manifest.geometry().large() {
            let start = open.partition_point(|(piece, _)| *piece < file.first_piece);
            let end = open.partition_point(|(piece, _)| *piece < file.first_piece + file.pieces);
            if end - start != file.pieces as usize || known_root(&lock(&self.state), file).is_some() {
                continue;
            }
            let cvs: Vec<Hash> = open[start..end].iter().map(|(_, cv)| *cv).collect();
            if root_of(&cvs) == Some(self.manifest.root(file.entry)) {
                open.drain(start..end);
                self.add_cvs(file.first_cv, &cvs).map_err(|e| Failure::io("can't write", &self.place.journal, &e))?;
                (file.first_piece..file.first_piece + file.pieces).try_for_each(&note)?;
            }
        }
        lock(&self.state).candidates = open;
        Ok(())
    }
}
