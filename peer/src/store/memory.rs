//! Content in memory, for tests. Its extents need no disk space that outlives them: they are unlinked temporary files.

use super::layout::spans;
use super::{Extent, ReadError, Source, no_such_block};
use shoal_protocol::Manifest;
use shoal_protocol::message::Block;
use std::io::Write;
use std::sync::Arc;

/// Files in memory.
#[derive(Debug)]
pub struct MemorySource {
    manifest: Arc<Manifest>,
    files: Vec<Vec<u8>>,
}

impl MemorySource {
    /// `files` holds the bytes of each entry of the manifest, empty for what isn't a file.
    #[must_use]
    pub fn new(manifest: Arc<Manifest>, files: Vec<Vec<u8>>) -> Self {
        Self { manifest, files }
    }
}

impl Source for MemorySource {
    fn extents(&self, block: Block) -> Result<Vec<Extent>, ReadError> {
        let mut bytes = vec![0; block.length as usize];
        self.read(block, &mut bytes)?;
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        Ok(vec![Extent { file: Arc::new(file), offset: 0, length: block.length }])
    }

    fn read(&self, block: Block, out: &mut [u8]) -> Result<(), ReadError> {
        if out.len() != block.length as usize {
            return Err(no_such_block().into());
        }
        let mut rest = out;
        for span in spans(&self.manifest, block).ok_or_else(no_such_block)? {
            let (now, later) = rest.split_at_mut(span.length as usize);
            let start = usize::try_from(span.offset).unwrap_or(usize::MAX);
            let part = self.files.get(span.entry as usize).and_then(|f| f.get(start..start + now.len()));
            now.copy_from_slice(part.ok_or(ReadError::Changed(span.entry))?);
            rest = later;
        }
        Ok(())
    }
}
