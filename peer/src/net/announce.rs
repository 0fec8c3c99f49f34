//! Announces to one tracker: over HTTP, or straight to the one inside this process.

use super::core::Core;
use super::http_client::HttpError;
use crate::engine::{TrackerAt, TrackerUrl};
use shoal_protocol::announce::{Announce, Handout};
use shoal_protocol::limits::HANDOUT_BYTES;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A tracker that hasn't answered after this is tried again later.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an announce failed.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The network or the server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The answer is no handout.
    #[error("the answer is not a handout: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The tracker in this process refused.
    #[error("{0}")]
    Refused(String),
}

impl AnnounceError {
    /// Seconds to wait at least.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            // Servers that have no room; not all of them say for how long.
            Self::Http(HttpError::Status { status: 429 | 503, retry_after_s, .. }) => retry_after_s.or(Some(30)),
            // Not a tracker, or not for this swarm: asking often doesn't help.
            Self::Http(HttpError::Status { status: 403..=405, .. }) => Some(20),
            _ => None,
        }
    }
}

/// Announces, and returns the address at which the tracker was reached with its answer.
///
/// # Errors
/// See [`AnnounceError`].
pub async fn announce(core: &Core, at: &TrackerAt, announce: &Announce) -> Result<(IpAddr, Handout), AnnounceError> {
    match at {
        TrackerAt::Here => {
            let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let handout = core.announce_here(announce, here).map_err(AnnounceError::Refused)?;
            Ok((here, handout))
        }
        TrackerAt::Http(TrackerUrl { url, nearest }) => {
            let body = serde_json::to_vec(announce)?;
            let url = url.tracker().below("/v1/announce");
            let answer = core.http.post_json(&url, body, HANDOUT_BYTES, TIMEOUT, *nearest).await?;
            Ok((answer.ip, serde_json::from_slice(&answer.body)?))
        }
    }
}
