//! Where the HTTP service gets manifests from: an interface with two implementations, the tracker's data directory
//! ([`crate::disk::DiskStore`]) and a peer's own contents.
//!
//! Contract: the methods may block on a disk, so the service calls them on blocking threads. What comes out was checked
//! before: a manifest has the id it is asked by, and chaining values fold to its roots.

use bytes::Bytes;
use shoal_protocol::{ContentId, Manifest, SwarmId};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// An answer that isn't what was asked for: an HTTP status and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do.
    pub error: String,
    /// When to try again.
    pub retry_after_s: Option<u32>,
}

impl Refused {
    /// A refusal that trying again doesn't change.
    #[must_use]
    pub fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), retry_after_s: None }
    }

    /// Whether the connection ends after it: where a body may not have been read, what follows can't be told from it.
    #[must_use]
    pub fn closes(&self) -> bool {
        matches!(self.status, 400 | 403 | 408 | 411 | 413 | 415 | 431)
    }

    /// A refusal for now.
    #[must_use]
    pub fn later(status: u16, error: impl Into<String>, after_s: u32) -> Self {
        Self { retry_after_s: Some(after_s), ..Self::new(status, error) }
    }
}

/// Which of the two files of a content is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The canonical binary content part with the hints behind it.
    Manifest,
    /// The chaining values of all pieces of large files, 32 bytes each, in piece order.
    Cvs,
}

/// A source of manifests.
pub trait ManifestSource: Send + Sync + 'static {
    /// Whether announces for this swarm are taken. A tracker inside a seed knows its own swarms only.
    fn accepts_swarm(&self, swarm: &SwarmId) -> bool;

    /// Whether there is a manifest for this swarm: then it is more than an announce of anybody's.
    fn knows(&self, swarm: &SwarmId) -> bool {
        let _ = swarm;
        false
    }

    /// The manifest with its hints.
    fn manifest(&self, id: &ContentId) -> Option<Arc<Manifest>>;

    /// A whole part; `None` when there is no such manifest or its CVs aren't known.
    fn part(&self, id: &ContentId, part: Part) -> Option<Bytes>;

    /// The length of a part in bytes.
    fn part_len(&self, id: &ContentId, part: Part) -> Option<u64> {
        self.part(id, part).map(|bytes| bytes.len() as u64)
    }

    /// Some bytes of a part; shorter or `None` when they are gone meanwhile.
    fn read(&self, id: &ContentId, part: Part, range: Range<u64>) -> Option<Bytes> {
        let bytes = self.part(id, part)?;
        let end = usize::try_from(range.end).ok()?.min(bytes.len());
        let start = usize::try_from(range.start).ok()?.min(end);
        Some(bytes.slice(start..end))
    }

    /// Whether a manifest or its CVs may be put, asked before the body is read.
    ///
    /// # Errors
    /// Why not.
    fn accepts_put(&self, id: &ContentId) -> Result<(), Refused> {
        let _ = id;
        Err(Refused::new(403, "this peer gives out its own manifests only; put manifests to a tracker"))
    }

    /// Takes a manifest or its CVs. Says whether it is new; what is there already stays as it is, its hints too.
    ///
    /// # Errors
    /// When the bytes are wrong, or there is no room.
    fn put(&self, id: &ContentId, part: Part, bytes: &[u8]) -> Result<bool, Refused> {
        let _ = (part, bytes);
        self.accepts_put(id).map(|()| false)
    }

    /// Another place, as a URL, where an asker gets a big manifest.
    fn redirect(&self, id: &ContentId, asker: IpAddr) -> Option<String> {
        let _ = (id, asker);
        None
    }

    /// Notes that a swarm is alive, so that its manifest is kept.
    fn touch(&self, swarm: &SwarmId) {
        let _ = swarm;
    }

    /// Drops what nobody has used for long. Called every few seconds.
    fn sweep(&self) {}

    /// Number of manifests.
    fn count(&self) -> usize {
        0
    }
}
