//! Bringing manifests to trackers, and bringing them again when a tracker lost them.

use crate::net::http_client::{HttpClient, HttpError, Nearest};
use bytes::Bytes;
use shoal_protocol::link::Url;
use shoal_protocol::{ContentId, Hash, Manifest};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// A manifest has 256 MiB at most.
const PUT_TIME: Duration = Duration::from_secs(120);
const HEAD_TIME: Duration = Duration::from_secs(10);
/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Between two looks whether the tracker still has it.
const AGAIN: Duration = Duration::from_secs(60);

/// What became of one attempt.
#[derive(Debug)]
pub(super) struct Published {
    /// Which content, by its position on the command line.
    pub(super) content: usize,
    /// Which tracker.
    pub(super) tracker: Url,
    /// Whether the tracker has the manifest now.
    pub(super) result: Result<(), HttpError>,
}

/// Keeps a manifest at a tracker until dropped.
#[derive(Debug)]
pub(super) struct Publishing(AbortHandle);

impl Drop for Publishing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is brought.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    content: usize,
    id: ContentId,
    manifest: Bytes,
    cvs: Bytes,
}

impl Parcel {
    /// The manifest with its hints, and all CVs, which spare the tracker from asking peers for them.
    #[must_use]
    pub(super) fn new(content: usize, manifest: &Manifest, cvs: &[Hash]) -> Self {
        Self { content, id: manifest.id(), manifest: manifest.to_binary_with_hints().into(), cvs: cvs.concat().into() }
    }
}

/// The link of a content at a server, which may have a path of its own.
#[must_use]
pub(super) fn link(server: &Url, id: ContentId) -> Url {
    if server.content_id() == Some(id) {
        return server.clone();
    }
    server.tracker().below(&format!("/m/{id}"))
}

/// Starts bringing a parcel to a tracker; the first success and every failure before it are told.
#[must_use]
pub(super) fn publish(http: &HttpClient, tracker: &Url, parcel: Parcel, tell: mpsc::Sender<Published>) -> Publishing {
    let (http, tracker) = (http.clone(), tracker.clone());
    let task = tokio::spawn(async move {
        let mut pause = PAUSE.0;
        let mut told = false;
        loop {
            let result = put(&http, &tracker, &parcel).await;
            let good = result.is_ok();
            if !told {
                let message = Published { content: parcel.content, tracker: tracker.clone(), result };
                if tell.send(message).await.is_err() {
                    return;
                }
                told = good;
            }
            if good {
                pause = PAUSE.0;
                until_lost(&http, &tracker, parcel.id).await;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    });
    Publishing(task.abort_handle())
}

async fn put(http: &HttpClient, tracker: &Url, parcel: &Parcel) -> Result<(), HttpError> {
    let to = link(tracker, parcel.id);
    http.put_bytes(&to, parcel.manifest.clone(), PUT_TIME, Nearest::Anything).await?;
    if !parcel.cvs.is_empty() {
        let to = to.below("/cvs");
        http.put_bytes(&to, parcel.cvs.clone(), PUT_TIME, Nearest::Anything).await?;
    }
    Ok(())
}

/// Returns when the tracker says that it doesn't have the manifest. A tracker that is away hasn't lost it yet.
async fn until_lost(http: &HttpClient, tracker: &Url, id: ContentId) {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Err(HttpError::Status { status: 404 | 410, .. }) =
            http.head(&link(tracker, id), HEAD_TIME, Nearest::Anything).await
        {
            return;
        }
    }
}

/// Whether a tracker said no, and will say so again.
#[must_use]
pub(super) fn is_refusal(error: &HttpError) -> bool {
    matches!(error, HttpError::Status { status: 400..=403 | 405 | 409..=428, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_below_their_server() {
        let id = ContentId([1; 32]);
        let url = |text: &str| Url::parse(text).unwrap();
        assert_eq!(link(&url("http://t:7070"), id).to_string(), format!("http://t:7070/m/{id}"));
        assert_eq!(link(&url("https://t/shoal/"), id).to_string(), format!("https://t:443/shoal/m/{id}"));
        let whole = format!("http://t:1/m/{id}");
        assert_eq!(link(&url(&whole), id).to_string(), whole);
    }
}
