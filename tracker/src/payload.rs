//! Bodies of answers: bytes at hand, or a part of a stored file that is read as the connection takes it.
//!
//! A file's bytes are read in steps of [`STEP`], so an answer of any size holds that much memory. If the file is gone
//! meanwhile the body ends with an error, and so the connection: the client sees that the answer was cut short.

use crate::manifests::{ManifestSource, Part};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use shoal_protocol::ContentId;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

/// Bytes read from a file at a time.
const STEP: u64 = 256 << 10;

/// A body.
#[derive(Debug)]
pub(crate) struct Payload {
    source: Source,
    /// Given back when the body is sent or dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

enum Source {
    Whole(Option<Bytes>),
    File {
        manifests: Arc<dyn ManifestSource>,
        id: ContentId,
        part: Part,
        left: Range<u64>,
        next: Option<JoinHandle<Option<Bytes>>>,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.as_ref().map(Bytes::len)).finish(),
            Self::File { id, part, left, .. } => f.debug_tuple("File").field(id).field(part).field(left).finish(),
        }
    }
}

impl Payload {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::holding(bytes, None)
    }

    pub(crate) fn holding(bytes: impl Into<Bytes>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { source: Source::Whole(Some(bytes.into()).filter(|b| !b.is_empty())), _permit: permit }
    }

    /// The bytes at hand; nothing of a stored file.
    pub(crate) fn into_whole(self) -> Bytes {
        match self.source {
            Source::Whole(bytes) => bytes.unwrap_or_default(),
            Source::File { .. } => Bytes::new(),
        }
    }

    pub(crate) fn file(manifests: Arc<dyn ManifestSource>, id: ContentId, part: Part, range: Range<u64>) -> Self {
        Self { source: Source::File { manifests, id, part, left: range, next: None }, _permit: None }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.source {
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Source::File { manifests, id, part, left, next } => {
                if left.is_empty() {
                    return Poll::Ready(None);
                }
                let range = left.start..left.end.min(left.start + STEP);
                let length = range.end - range.start;
                let task = next.get_or_insert_with(|| {
                    let (manifests, id, part) = (manifests.clone(), *id, *part);
                    tokio::task::spawn_blocking(move || manifests.read(&id, part, range))
                });
                let read = std::task::ready!(Pin::new(task).poll(cx));
                *next = None;
                match read {
                    Ok(Some(bytes)) if bytes.len() as u64 == length => {
                        left.start += length;
                        Poll::Ready(Some(Ok(Frame::data(bytes))))
                    }
                    _ => Poll::Ready(Some(Err(io::Error::other("the stored file ended early")))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_none(),
            Source::File { left, .. } => left.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.source {
            Source::Whole(bytes) => bytes.as_ref().map_or(0, |b| b.len() as u64),
            Source::File { left, .. } => left.end - left.start,
        })
    }
}
