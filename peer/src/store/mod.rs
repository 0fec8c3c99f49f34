//! Content on disk: reading what is complete, writing what is under way, and never calling anything had that isn't.

use shoal_protocol::message::Block;
use std::fs::File;
use std::io;
use std::sync::Arc;

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

/// Verified content that blocks can be read from.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// The file parts that make up a block, for senders that hand file ranges to the system.
    ///
    /// # Errors
    /// When a file is gone, changed or unreadable.
    fn extents(&self, block: Block) -> Result<Vec<Extent>, ReadError>;

    /// Reads a block.
    ///
    /// # Errors
    /// When a file is gone, changed, too short or unreadable.
    fn read(&self, block: Block, out: &mut [u8]) -> Result<(), ReadError>;
}

/// A fetch's place on disk.
#[derive(Debug)]
pub struct Download {}
