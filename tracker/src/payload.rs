//! Bodies of answers: bytes at hand, or a part of a stored file that is read as the connection takes it.
//!
//! A file's bytes are read in steps of [`STEP`], so an answer of any size holds that much memory. Bytes that count against a
//! budget are given in such steps, too, and copied, so that they are gone with the last: a client may take it very slowly. If the file is gone
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

/// Bytes given at a time.
const STEP: u64 = 256 << 10;

/// A body.
pub(crate) struct Payload {
    source: Source,
    /// What the bytes at hand count against; given back when the last of them is taken.
    permit: Option<OwnedSemaphorePermit>,
}

enum Source {
    Whole(Bytes),
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
            Self::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.len()).finish(),
            Self::File { id, part, left, .. } => f.debug_tuple("File").field(id).field(part).field(left).finish(),
        }
    }
}

impl Payload {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::holding(bytes, None)
    }

    pub(crate) fn holding(bytes: impl Into<Bytes>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { source: Source::Whole(bytes.into()), permit }
    }

    /// The bytes at hand; nothing of a stored file.
    pub(crate) fn into_whole(self) -> Bytes {
        match self.source {
            Source::Whole(bytes) => bytes,
            Source::File { .. } => Bytes::new(),
        }
    }

    pub(crate) fn file(manifests: Arc<dyn ManifestSource>, id: ContentId, part: Part, range: Range<u64>) -> Self {
        Self { source: Source::File { manifests, id, part, left: range, next: None }, permit: None }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let counted = self.permit.is_some();
        match &mut self.source {
            Source::Whole(bytes) => {
                let step = if counted { bytes.len().min(STEP as usize) } else { bytes.len() };
                let step = bytes.split_to(step);
                let step = if counted { Bytes::copy_from_slice(&step) } else { step };
                Poll::Ready(Some(step).filter(|step| !step.is_empty()).map(|step| Ok(Frame::data(step))))
            }
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
            Source::Whole(bytes) => bytes.is_empty(),
            Source::File { left, .. } => left.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.source {
            Source::Whole(bytes) => bytes.len() as u64,
            Source::File { left, .. } => left.end - left.start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn what_counts_against_a_budget_is_given_in_steps_that_hold_nothing_of_it() {
        let budget = Arc::new(Semaphore::new(1));
        let (text, step) = (Bytes::from(vec![7; 3 * STEP as usize + 5]), STEP as usize);
        let permit = budget.clone().acquire_owned().await.unwrap();
        let mut body = Some(Payload::holding(text.clone(), Some(permit)));
        let mut taken = Vec::new();
        // As hyper does it: the body goes as soon as it says that it is at its end.
        while let Some(mut open) = body.take() {
            assert_eq!(budget.available_permits(), 0);
            let polled = Pin::new(&mut open).poll_frame(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(Some(Ok(frame))) = polled else { panic!("{polled:?}") };
            taken.push(frame.into_data().unwrap());
            body = Some(open).filter(|open| !open.is_end_stream());
        }
        assert_eq!(budget.available_permits(), 1);
        assert_eq!(taken.iter().map(Bytes::len).collect::<Vec<_>>(), [step, step, step, 5]);
        assert_eq!(taken.concat(), text);
        assert!(text.is_unique(), "a step holds all of it");
    }
}
