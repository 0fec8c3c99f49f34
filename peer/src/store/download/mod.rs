//! A fetch's place on disk: takes blocks in any order, keeps what is verified through crashes, and puts the complete
//! content under its final name.
//!
//! What is under the final name is complete, always. Unverified bytes may lie in the part; a piece counts as had only
//! once [`Download::mark_verified`] noted it in the journal, after its data. When the disk is full a write fails and
//! everything verified stays. After a failed flush the journal falls back to the last checkpoint and the download can't be
//! finished by this process, as what was written since may be lost though it still reads back well.
//!
//! All methods may be called from many threads. Memory: the bitfield, 32 bytes per known chaining value, and after the
//! end 40 bytes per entry.

mod finish;
mod open;
mod place;
mod rehash;
#[cfg(test)]
mod tests;

use super::beneath::{Tree, lock};
use super::completion::Boot;
use super::journal::{Journal, Mark};
use super::layout::{Span, spans};
use super::source::{gone_or, read_spans};
use super::{Extent, ReadError, Source, Stamp, no_such_block, platform};
use crate::failure::{Failure, FailureKind};
use place::Place;
use shoal_protocol::address::Reach;
use shoal_protocol::geometry::Piece;
use shoal_protocol::manifest::Kind;
use shoal_protocol::message::Block;
use shoal_protocol::tree::root_of;
use shoal_protocol::{Bitfield, Hash, Manifest};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Members of packs up to this size are not kept open after reading: they would push out large files.
const KEEP_OPEN_MIN: u64 = 64 << 10;
/// Large files whose stamps tell whether a part was touched after a clean stop: bounds the time that stopping takes.
const DIGEST_FILES: usize = 10_000;
/// Between two touches of the journal while data is written.
const BEAT: Duration = Duration::from_millis(100);
/// How much later than its journal the part of a killed fetch may have been written to by that fetch: a beat, and what a
/// busy machine puts between a touch and a write. Anything later was an edit.
const LATE_NS: i64 = 500_000_000;

/// When data is flushed to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// At checkpoints and before the content gets its final name: that survives a power cut.
    Auto,
    /// Never; after a power cut everything is checked anew.
    None,
}

/// What to do with something else under the final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Refuse,
    /// Replace it, once the new content is complete.
    Overwrite,
    /// Keep its good pieces and fetch the rest.
    Repair,
}

/// How to open a download.
#[derive(Debug, Clone)]
pub struct DownloadOptions {
    /// Go on from what is there; otherwise start from zero.
    pub resume: bool,
    /// When to flush.
    pub sync: SyncMode,
    /// What to do with something else under the final name.
    pub existing: Existing,
    /// How near who gave the manifest was, for when it is taken from the journal.
    pub giver: Reach,
    /// Where completion records go if the target's filesystem can't keep them.
    pub state_dir: PathBuf,
}

/// What opening found.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Made once per fetch.
pub enum Opened {
    /// The content is there already, at this path.
    Complete(PathBuf),
    /// There is something to do.
    Open(Download),
}

/// A fetch's place on disk.
#[derive(Debug)]
pub struct Download {
    manifest: Arc<Manifest>,
    place: Place,
    options: DownloadOptions,
    /// What has the final name is to be replaced.
    replace: bool,
    boot: Boot,
    tree: Tree,
    state: Mutex<State>,
    /// `None` once the content is under its final name.
    journal: Mutex<Option<Journal>>,
    /// Whoever writes a checkpoint or moves things holds this; true once moving has begun, which no later checkpoint
    /// may unsay.
    moving: Mutex<bool>,
    /// A flush failed.
    unsafe_disk: AtomicBool,
    /// When the journal was last told that data is being written.
    beat: Mutex<Instant>,
    /// Stamps of all entries, taken when the content got its final name.
    finished: OnceLock<Vec<Stamp>>,
}

#[derive(Debug)]
struct State {
    have: Bitfield,
    cvs: Vec<Hash>,
    known_cvs: Bitfield,
    /// CVs of data that was found on disk while nobody could say whether it is right, by piece. Nothing was written there
    /// since.
    candidates: Vec<(u32, Hash)>,
    peers: Vec<SocketAddr>,
}

impl Download {
    /// Opens the place of a fetch, goes on from what is there, and locks it. Waits for another process that fetches the
    /// same content to the same place, of which `waiting` is told once with its process id.
    ///
    /// `progress` gets bytes checked and bytes to check where existing data must be hashed.
    ///
    /// # Errors
    /// Refused when something else is there or under way, local when there is no room or no permission.
    #[allow(clippy::needless_pass_by_value)] // The download keeps it.
    pub fn open(
        manifest: Arc<Manifest>,
        out: &Path,
        options: &DownloadOptions,
        progress: &(dyn Fn(u64, u64) + Sync),
        cancelled: &AtomicBool,
        waiting: &dyn Fn(u32),
    ) -> Result<Opened, Failure> {
        open::open(&manifest, out, options, platform::boot_id(), progress, cancelled, waiting)
    }

    /// What is fetched.
    #[must_use]
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Where the content will be, or is once finished.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.out
    }

    /// Where the data is until then, for telling people what is kept.
    #[must_use]
    pub fn part_path(&self) -> &Path {
        &self.place.part
    }

    /// The verified pieces.
    #[must_use]
    pub fn have(&self) -> Bitfield {
        lock(&self.state).have.clone()
    }

    /// Writes a block that may not be verified yet. One of a verified piece is left out: it is there already.
    ///
    /// # Errors
    /// When the machine can't write it. Nothing verified is lost by that.
    pub fn write(&self, block: Block, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() != block.length as usize {
            return Err(no_such_block());
        }
        let spans = spans(&self.manifest, block).ok_or_else(no_such_block)?;
        {
            let mut state = lock(&self.state);
            if state.have.has(block.piece) {
                return Ok(());
            }
            // What was hashed there is no more. Piece and CV are judged under the same lock, so nothing comes in between.
            if let Ok(at) = state.candidates.binary_search_by_key(&block.piece, |(piece, _)| *piece) {
                state.candidates.remove(at);
            }
        }
        self.beat();
        let mut rest = bytes;
        for span in spans {
            let (now, later) = rest.split_at_checked(span.length as usize).ok_or_else(no_such_block)?;
            rest = later;
            let (path, size, executable) = self.file(span.entry)?;
            if u64::from(span.length) == size {
                self.tree.create(path, executable, now)?;
            } else {
                self.tree.writable(span.entry, path, executable, size)?.write_all_at(now, span.offset)?;
            }
        }
        Ok(())
    }

    fn beat(&self) {
        {
            let mut last = lock(&self.beat);
            if last.elapsed() < BEAT {
                return;
            }
            *last = Instant::now();
        }
        if let Some(journal) = lock(&self.journal).as_ref() {
            journal.beat();
        }
    }

    /// Reads back what was written, for hashing blocks that came out of order. It may be anything.
    ///
    /// # Errors
    /// When the machine can't read it, or it was never written.
    pub fn read_unverified(&self, block: Block, out: &mut [u8]) -> io::Result<()> {
        let spans = spans(&self.manifest, block).ok_or_else(no_such_block)?;
        read_spans(&spans, out, |entry| Ok(self.open_readable(entry)?)).map_err(|error| match error {
            ReadError::Io(error) => error,
            ReadError::Changed(_) => io::ErrorKind::UnexpectedEof.into(),
        })
    }

    /// Notes that a piece, all of whose data was written before, has been verified.
    ///
    /// # Errors
    /// When the journal can't be written; the piece counts as had in this process all the same.
    pub fn mark_verified(&self, piece: u32) -> io::Result<()> {
        if !lock(&self.state).have.set(piece, true) {
            return Ok(());
        }
        lock(&self.journal).as_mut().map_or(Ok(()), |journal| journal.set(piece, true))
    }

    /// Takes a piece back that turned out not to be what was verified.
    ///
    /// # Errors
    /// When the journal can't be written.
    pub fn mark_lost(&self, piece: u32) -> io::Result<()> {
        if !lock(&self.state).have.set(piece, false) {
            return Ok(());
        }
        lock(&self.journal).as_mut().map_or(Ok(()), |journal| journal.set(piece, false))
    }

    /// All CVs of the content in piece order, and which of them are known; the others are zero.
    #[must_use]
    pub fn cvs(&self) -> (Vec<Hash>, Bitfield) {
        let state = lock(&self.state);
        (state.cvs.clone(), state.known_cvs.clone())
    }

    /// The same, once all are known.
    #[must_use]
    pub fn all_cvs(&self) -> Option<Vec<Hash>> {
        let state = lock(&self.state);
        state.known_cvs.is_complete().then(|| state.cvs.clone())
    }

    /// One CV by its number in the content, if known.
    #[must_use]
    pub fn cv(&self, cv: u32) -> Option<Hash> {
        let state = lock(&self.state);
        if state.known_cvs.has(cv) { state.cvs.get(cv as usize).copied() } else { None }
    }

    /// Whether data lies on disk that only CVs can tell to be right.
    #[must_use]
    pub fn awaits_cvs(&self) -> bool {
        !lock(&self.state).candidates.is_empty()
    }

    /// Takes CVs that were checked against their file's root. Returns the pieces that are thereby verified: their data
    /// was on disk and only nobody could tell whether it is right.
    ///
    /// # Errors
    /// When the journal can't be written; the CVs are known in this process all the same.
    pub fn add_cvs(&self, first_cv: u32, cvs: &[Hash]) -> io::Result<Vec<u32>> {
        let verified = {
            let mut state = lock(&self.state);
            for (at, cv) in (first_cv..).zip(cvs) {
                if let Some(place) = state.cvs.get_mut(at as usize) {
                    *place = *cv;
                    state.known_cvs.set(at, true);
                }
            }
            let State { have, candidates, cvs, known_cvs, .. } = &mut *state;
            let mut verified = Vec::new();
            candidates.retain(|(piece, cv)| {
                let Some(at) = self.manifest.geometry().cv_index(*piece).filter(|at| known_cvs.has(*at)) else {
                    return true;
                };
                if cvs.get(at as usize) == Some(cv) && have.set(*piece, true) {
                    verified.push(*piece);
                }
                false
            });
            verified
        };
        if let Some(journal) = lock(&self.journal).as_mut() {
            journal.put_cvs(first_cv, cvs)?;
            verified.iter().try_for_each(|piece| journal.set(*piece, true))?;
        }
        Ok(verified)
    }

    /// Keeps addresses for the next run: the first 200.
    pub fn remember_peers(&self, peers: &[SocketAddr]) {
        lock(&self.state).peers = peers.to_vec();
        if let Some(journal) = lock(&self.journal).as_mut()
            && let Err(error) = journal.put_peers(peers)
        {
            tracing::debug!("can't keep peers in the journal: {error}");
        }
    }

    /// The addresses that were kept.
    #[must_use]
    pub fn known_peers(&self) -> Vec<SocketAddr> {
        lock(&self.state).peers.clone()
    }

    /// Flushes the data and notes what is safe from a power cut. Slow; to be called every few seconds, not on the way
    /// of any block. Does nothing without syncing.
    ///
    /// # Errors
    /// When the disk can't keep what it was given: then nothing more should be fetched to it.
    pub fn checkpoint(&self) -> io::Result<()> {
        if self.options.sync == SyncMode::None || self.is_finished() {
            return Ok(());
        }
        let moving = lock(&self.moving);
        if *moving { Ok(()) } else { self.write_checkpoint(Mark::default()) }
    }

    /// A clean stop: a checkpoint that also tells whether the part was touched in between.
    pub fn save(&self) {
        if self.is_finished() {
            return;
        }
        let moving = lock(&self.moving);
        if *moving {
            return;
        }
        let mark = Mark { clean: true, digest: self.part_digest(), ..Mark::default() };
        if let Err(error) = self.write_checkpoint(mark) {
            tracing::warn!("{}: can't save: {error}", self.place.part.display());
        }
    }

    /// Everything is verified: makes what has no bytes, flushes, gives the content its final name and removes the
    /// journal. It can be read through this object as before. Calling it again changes nothing.
    ///
    /// # Errors
    /// When pieces are missing, the machine fails, or something has got the final name meanwhile. All is kept.
    pub fn finish(&self) -> Result<PathBuf, Failure> {
        self.finish_all()?;
        Ok(self.place.out.clone())
    }

    /// Whether it has its final name.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished.get().is_some()
    }

    fn write_checkpoint(&self, mark: Mark) -> io::Result<()> {
        if self.unsafe_disk.load(Ordering::Relaxed) {
            return Err(io::Error::other("an earlier flush failed"));
        }
        // What is had now was written before now, so the flush below covers it.
        let have = self.have();
        let synced = self.options.sync == SyncMode::Auto;
        if synced && let Err(error) = self.flush_data() {
            // The kernel reports a lost write once and then forgets it: a second flush would succeed and mean nothing.
            self.unsafe_disk.store(true, Ordering::Relaxed);
            if let Some(journal) = lock(&self.journal).as_mut() {
                journal.back_to_checkpoint()?;
            }
            return Err(error);
        }
        match lock(&self.journal).as_mut() {
            Some(journal) => journal.checkpoint(&have, Mark { synced, checking: self.awaits_cvs(), ..mark }),
            None => Ok(()),
        }
    }

    fn flush_data(&self) -> io::Result<()> {
        if platform::sync_filesystem(self.tree.root())? {
            return Ok(());
        }
        for entry in self.manifest.entries().iter().filter(|e| matches!(e.kind, Kind::File { .. })) {
            match self.tree.open(&entry.path) {
                Ok(file) => file.sync_data()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says whether anybody touched the large files of the part.
    fn part_digest(&self) -> Hash {
        part_digest(&self.manifest, &self.tree)
    }

    /// Path, size and executable bit of a file.
    fn file(&self, entry: u32) -> io::Result<(&str, u64, bool)> {
        match self.manifest.entries().get(entry as usize) {
            Some(found) => match &found.kind {
                Kind::File { size, executable, .. } => Ok((&found.path, *size, *executable)),
                _ => Err(no_such_block()),
            },
            None => Err(no_such_block()),
        }
    }

    fn open_readable(&self, entry: u32) -> io::Result<Arc<File>> {
        let (path, size, _) = self.file(entry)?;
        if size > KEEP_OPEN_MIN { self.tree.readable(entry, path) } else { self.tree.open(path).map(Arc::new) }
    }

    /// A file that holds verified data. While it is being fetched it must not become shorter; after that it keeps everything.
    fn verified_file(&self, entry: u32) -> Result<Arc<File>, ReadError> {
        let file = self.open_readable(entry).map_err(|error| gone_or(entry, error))?;
        let found = file.metadata().inspect_err(|_| {
            // It may be another file by now, as on a server that was set up anew.
            self.tree.forget(entry);
        })?;
        let unchanged = match self.finished.get() {
            Some(stamps) => stamps.get(entry as usize) == Some(&Stamp::of(&found)),
            // What is behind its end is cut when all of it is there.
            None => found.len() >= self.file(entry)?.1,
        };
        if unchanged {
            return Ok(file);
        }
        self.tree.forget(entry);
        Err(ReadError::Changed(entry))
    }

    fn verified_spans(&self, block: Block) -> Result<Vec<Span>, ReadError> {
        if !lock(&self.state).have.has(block.piece) {
            return Err(no_such_block().into());
        }
        Ok(spans(&self.manifest, block).ok_or_else(no_such_block)?)
    }
}

impl Source for Download {
    fn extents(&self, block: Block) -> Result<Vec<Extent>, ReadError> {
        let extent = |span: &Span| {
            Ok(Extent { file: self.verified_file(span.entry)?, offset: span.offset, length: span.length })
        };
        self.verified_spans(block)?.iter().map(extent).collect()
    }

    fn is_open(&self, block: Block) -> bool {
        match self.manifest.geometry().piece(block.piece) {
            Some(Piece::Subtree { entry, .. }) => self.tree.is_open(entry),
            _ => false,
        }
    }

    fn read(&self, block: Block, out: &mut [u8]) -> Result<(), ReadError> {
        read_spans(&self.verified_spans(block)?, out, |entry| self.verified_file(entry))
    }
}

fn part_digest(manifest: &Manifest, tree: &Tree) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for file in manifest.geometry().large().iter().take(DIGEST_FILES) {
        let path = manifest.entries().get(file.entry as usize).map_or("", |e| e.path.as_str());
        let mut stamp = tree.look(path).map(|found| found.stamp).unwrap_or_default();
        // A backup or another name for the file changes this one only, and no byte.
        stamp.ctime_ns = 0;
        hasher.update(&stamp.to_bytes());
    }
    hasher.finalize().into()
}

/// Whether a file of the part was written to after the fetch that its journal tells of had ended.
fn edited_since(manifest: &Manifest, tree: &Tree, journal: &Path) -> bool {
    let Ok(last) = journal.symlink_metadata().map(|found| Stamp::of(&found).mtime_ns) else { return true };
    let files = manifest.entries().iter().filter(|entry| matches!(entry.kind, Kind::File { .. }));
    let mut times = files.filter_map(|entry| Some(tree.look(&entry.path).ok()?.stamp.mtime_ns));
    times.any(|mtime| mtime.saturating_sub(last) > LATE_NS)
}

/// The manifest that an unfinished fetch to `out` left behind, so that it can go on though the host of its link is gone, and
/// how near its giver was.
#[must_use]
pub fn read_journal_manifest(out: &Path) -> Option<(Manifest, Reach)> {
    place::Place::journals(out).iter().find_map(|path| {
        let loaded = super::journal::load(&super::journal::open_to_look(path).ok()?, None)?;
        Some((loaded.manifest, loaded.giver))
    })
}

/// Whether a fetch to `out` left something of its own beside it or inside.
#[must_use]
pub fn unfinished(out: &Path) -> bool {
    place::Place::journals(out).iter().any(|path| path.symlink_metadata().is_ok())
}

/// Bytes that a fetch to `out` would still ask for, as far as records and journals tell without reading content.
#[must_use]
pub fn missing_bytes(manifest: &Manifest, out: &Path, state_dir: &Path) -> u64 {
    let have = place::Place::journals(out).iter().find_map(|path| {
        let loaded = super::journal::load(&super::journal::open_to_look(path).ok()?, super::platform::boot_id())?;
        (loaded.manifest.id() == manifest.id()).then_some(loaded.have)
    });
    match have {
        Some(have) => have.zeros().map(|piece| u64::from(manifest.geometry().piece_length(piece))).sum(),
        None if super::completion::remembered(manifest, out, state_dir, super::platform::boot_id()).is_some() => 0,
        None => manifest.bytes(),
    }
}

/// A local failure with what is kept.
fn local(message: String) -> Failure {
    Failure::new(FailureKind::Local, message)
}

/// The root that a large file's CVs fold to, if all are known.
fn known_root(state: &State, file: &shoal_protocol::geometry::Large) -> Option<Hash> {
    let range = file.first_cv..file.first_cv + file.pieces;
    if !range.clone().all(|at| state.known_cvs.has(at)) {
        return None;
    }
    root_of(state.cvs.get(range.start as usize..range.end as usize)?)
}
