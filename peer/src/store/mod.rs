//! Content on disk: reading what is complete, writing what is under way, and never calling anything had that isn't.
//!
//! Everything here blocks; callers with an event loop run it on other threads. One file is one mechanism:
//! - [`scan`](fn@scan) turns a path into a manifest, `cache` lets the next scan skip what has not changed;
//! - [`SeedSource`] serves a scanned path, [`Download`] is a fetch's place on disk and serves it too, [`MemorySource`]
//!   is for tests: all three are a [`Source`];
//! - `layout` says which files a block lies in, [`PieceCheck`] verifies a piece while it arrives, `parallel` and
//!   `hashing` read and hash many files at the pace of the machine;
//! - `beneath` opens files below a root without ever following a link, `journal` keeps what a fetch has,
//!   `completion` remembers that a place is complete, [`verify`](fn@verify) checks one.

use shoal_protocol::message::Block;
use std::fs::File;
use std::io;
use std::sync::Arc;

mod beneath;
mod cache;
mod completion;
mod download;
mod hashing;
mod journal;
mod layout;
mod lru;
mod memory;
mod parallel;
mod piece_check;
mod platform;
mod scan;
mod source;
mod stamp;
mod verify;
mod walk;

pub use completion::{Recorded, make_lasting, recorded};
pub use download::{
    Download, DownloadOptions, Existing, Opened, SyncMode, missing_bytes, read_journal_manifest, unfinished,
};
pub use layout::{Span, spans};
pub use memory::MemorySource;
pub use piece_check::PieceCheck;
pub use platform::default_state_dir;
pub(crate) use platform::{descriptors, private_dir};
pub use scan::{ScanOptions, ScanProgress, Scanned, scan};
pub use source::SeedSource;
pub use stamp::Stamp;
pub use verify::{BadFile, Report, verify};
pub use walk::Skipped;

/// A part of a file that holds a part of a block.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The open file.
    pub file: Arc<File>,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

/// Why bytes can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is no longer what was verified; the entry names it.
    #[error("entry {0} was changed since it was verified")]
    Changed(u32),
    /// The machine.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ReadError {
    /// Whether the machine lacks something for a while, and the bytes are as good as before: they are read when they are asked
    /// for again.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        let Self::Io(error) = self else { return false };
        matches!(
            Errno::from_io_error(error),
            Some(
                Errno::MFILE
                    | Errno::NFILE
                    | Errno::NOMEM
                    | Errno::AGAIN
                    | Errno::INTR
                    | Errno::BUSY
                    | Errno::TIMEDOUT
                    | Errno::STALE
            )
        )
    }
}

/// Verified content that blocks can be read from.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// The file parts that make up a block, for senders that hand file ranges to the system.
    ///
    /// Each extent keeps its file open, and a block of a pack may lie in a thousand files: for packs
    /// [`read`](Self::read) is the cheaper way.
    ///
    /// # Errors
    /// When a file is gone, changed or unreadable.
    fn extents(&self, block: Block) -> Result<Vec<Extent>, ReadError>;

    /// Whether [`extents`](Self::extents) of this block would neither open nor hash anything, and so may be asked for
    /// where nobody should wait for a disk.
    fn is_open(&self, _: Block) -> bool {
        false
    }

    /// Reads a block.
    ///
    /// # Errors
    /// When a file is gone, changed, too short or unreadable.
    fn read(&self, block: Block, out: &mut [u8]) -> Result<(), ReadError>;
}

/// The error for a block that the content doesn't have.
fn no_such_block() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the content has no such block")
}

#[cfg(test)]
mod scan_tests;
#[cfg(test)]
pub(crate) mod testing;
