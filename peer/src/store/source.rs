//! Serves what `seed` scanned, and stops at once when a file is no longer what was hashed.
//!
//! Each file's stamp is compared when it is opened and again for every block, which costs one call. Where the hashes
//! come from the cache of an earlier run, each piece is hashed once more before it is first served. Limits: a few hundred
//! open files. No maps: a file that is cut short gives an error, not a signal.

use super::beneath::lock;
use super::hashing::Hasher;
use super::layout::{Span, spans};
use super::lru::Lru;
use super::platform::open_files_budget;
use super::{Extent, ReadError, Scanned, Source, Stamp, no_such_block};
use shoal_protocol::geometry::Piece;
use shoal_protocol::manifest::Shape;
use shoal_protocol::message::Block;
use shoal_protocol::{Bitfield, Hash, Manifest};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Members of packs up to this size are opened for one read and closed again: caching them would push out large files.
const KEEP_OPEN_MIN: u64 = 64 << 10;

/// A scanned path as a source.
#[derive(Debug)]
pub struct SeedSource {
    manifest: Arc<Manifest>,
    root: PathBuf,
    stamps: Vec<Stamp>,
    cvs: Vec<Hash>,
    follow_links: bool,
    files: Mutex<Lru<u32, Arc<File>>>,
    /// Pieces that needn't be hashed before they are served.
    checked: Mutex<Bitfield>,
}

impl SeedSource {
    /// `stamps` has one per entry and `cvs` all of the content, in piece order. If not `trusted`, each piece is hashed
    /// before it is first served. `follow_links` must be what the scan was told.
    #[must_use]
    pub fn new(
        manifest: Arc<Manifest>,
        root: PathBuf,
        stamps: Vec<Stamp>,
        cvs: Vec<Hash>,
        trusted: bool,
        follow_links: bool,
    ) -> Self {
        let pieces = manifest.geometry().pieces();
        let checked = Mutex::new(if trusted { Bitfield::all(pieces) } else { Bitfield::none(pieces) });
        let files = Mutex::new(Lru::new(open_files_budget()));
        Self { manifest, root, stamps, cvs, follow_links, files, checked }
    }

    /// The source of a scan's result, whose manifest may have got its hints since.
    #[must_use]
    pub fn of_scan(scanned: &Scanned, manifest: Arc<Manifest>) -> Self {
        let Scanned { root, stamps, cvs, trusted, follow_links, .. } = scanned;
        Self::new(manifest, root.clone(), stamps.clone(), cvs.clone(), *trusted, *follow_links)
    }

    fn open(&self, entry: u32) -> io::Result<File> {
        let mut path = self.root.clone();
        if self.manifest.shape() == Shape::Tree {
            path.push(self.manifest.entries().get(entry as usize).map_or("", |e| e.path.as_str()));
        }
        // A link in place of the last component is refused; anything else in another place fails its stamp.
        let mut flags = rustix::fs::OFlags::NONBLOCK;
        if !self.follow_links && self.manifest.shape() == Shape::Tree {
            flags |= rustix::fs::OFlags::NOFOLLOW;
        }
        OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
    }

    /// An entry's file, certain to be the one that was hashed.
    fn file(&self, entry: u32) -> Result<Arc<File>, ReadError> {
        let cached = lock(&self.files).get(&entry);
        let file = match cached {
            Some(file) => file,
            None => match self.open(entry) {
                Ok(file) => Arc::new(file),
                Err(error) => return Err(gone_or(entry, error)),
            },
        };
        let found = file.metadata().inspect_err(|_| {
            // It may be another file by now, as on a server that was set up anew.
            lock(&self.files).remove(&entry);
        })?;
        let stamp = Stamp::of(&found);
        if self.stamps.get(entry as usize) != Some(&stamp) {
            lock(&self.files).remove(&entry);
            return Err(ReadError::Changed(entry));
        }
        if stamp.size > KEEP_OPEN_MIN {
            lock(&self.files).insert(entry, file.clone());
        }
        Ok(file)
    }

    fn spans(&self, block: Block) -> Result<Vec<Span>, ReadError> {
        let spans = spans(&self.manifest, block).ok_or_else(no_such_block)?;
        if !lock(&self.checked).has(block.piece) {
            self.check(block.piece)?;
            lock(&self.checked).set(block.piece, true);
        }
        Ok(spans)
    }

    /// Hashes a piece as it is on disk now.
    fn check(&self, piece: u32) -> Result<(), ReadError> {
        let geometry = self.manifest.geometry();
        let mut changed = None;
        let mut hasher = Hasher::new(|entry| match self.file(entry) {
            Ok(file) => file.try_clone(),
            Err(error) => {
                changed = Some(error);
                Err(io::ErrorKind::NotFound.into())
            }
        });
        let result = match geometry.piece(piece) {
            None => Err(no_such_block()),
            Some(Piece::Subtree { entry, offset, length, .. }) => {
                let known = geometry.cv_index(piece).and_then(|at| self.cvs.get(at as usize)).copied();
                hasher.cv(entry, offset, length).map(|cv| (cv.is_none() || cv != known).then_some(entry))
            }
            Some(Piece::Pack { first, count, .. }) => {
                geometry.members_of(first, count).iter().try_fold(None, |bad, &entry| {
                    let root = hasher.root(entry, self.manifest.entries()[entry as usize].size())?;
                    Ok(bad.or((root != Some(self.manifest.root(entry))).then_some(entry)))
                })
            }
        };
        drop(hasher);
        match (result, changed) {
            (_, Some(error)) => Err(error),
            (Err(error), None) => Err(error.into()),
            (Ok(Some(entry)), None) => Err(ReadError::Changed(entry)),
            (Ok(None), None) => Ok(()),
        }
    }
}

/// A file that can't be found where it was is a changed one.
pub(super) fn gone_or(entry: u32, error: io::Error) -> ReadError {
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::ISDIR) => ReadError::Changed(entry),
        _ => ReadError::Io(error),
    }
}

/// Fills `out` from the spans of a block; a file that ends too early has changed.
pub(super) fn read_spans(
    spans: &[Span],
    out: &mut [u8],
    file: impl Fn(u32) -> Result<Arc<File>, ReadError>,
) -> Result<(), ReadError> {
    let mut rest = out;
    for span in spans {
        let (now, later) = rest.split_at_mut_checked(span.length as usize).ok_or_else(no_such_block)?;
        file(span.entry)?.read_exact_at(now, span.offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                ReadError::Changed(span.entry)
            } else {
                ReadError::Io(error)
            }
        })?;
        rest = later;
    }
    if rest.is_empty() { Ok(()) } else { Err(no_such_block().into()) }
}

impl Source for SeedSource {
    fn extents(&self, block: Block) -> Result<Vec<Extent>, ReadError> {
        let extent =
            |span: &Span| Ok(Extent { file: self.file(span.entry)?, offset: span.offset, length: span.length });
        self.spans(block)?.iter().map(extent).collect()
    }

    fn is_open(&self, block: Block) -> bool {
        match self.manifest.geometry().piece(block.piece) {
            Some(Piece::Subtree { entry, .. }) => {
                lock(&self.checked).has(block.piece) && lock(&self.files).get(&entry).is_some()
            }
            _ => false,
        }
    }

    fn read(&self, block: Block, out: &mut [u8]) -> Result<(), ReadError> {
        read_spans(&self.spans(block)?, out, |entry| self.file(entry))
    }
}
