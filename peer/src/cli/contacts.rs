//! Who may have a content: what the user named, the host of the link, and the hints of the manifest that may be believed.
//!
//! Nobody is looked up before it is known that something is missing, so that a rerun needs neither names nor hosts.

use super::sources::{Search, Spec};
use crate::engine::TrackerUrl;
use crate::net::http_client::Nearest;
use shoal_protocol::Hints;
use shoal_protocol::address::Reach;
use shoal_protocol::link::Url;
use std::net::SocketAddr;
use std::time::Duration;

/// How long names may take to resolve.
const RESOLVE: Duration = Duration::from_secs(2);

/// Whom to ask, each once.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    /// The user's trackers, the link's host, and the hints that may be believed.
    pub(super) trackers: Vec<TrackerUrl>,
    /// Peers to try first.
    pub(super) peers: Vec<SocketAddr>,
}

impl Contacts {
    /// Looks up the names of all of them; those that don't resolve are left out. `giver` is how near who gave the `hints` was.
    pub(super) async fn look_up(spec: &Spec, search: &Search<'_>, hints: &Hints, giver: Reach) -> Self {
        let mut trackers: Vec<TrackerUrl> = search.trackers.iter().map(|url| url.tracker().into()).collect();
        let mut peers = resolve_all(search.peers).await;
        if let Spec::Url(url) = spec
            && url.content_id().is_some()
        {
            trackers.push(url.tracker().into());
            // Behind TLS there is a tracker or a proxy, but no peer.
            if !url.tls {
                peers.extend(resolve(&url.authority()).await);
            }
        }
        for hint in &hints.trackers {
            if let Ok(tracker) = Url::parse(hint)
                && believable(&tracker, giver).await
            {
                trackers.push(TrackerUrl { url: tracker.tracker(), nearest: Nearest::named_by(giver) });
            }
        }
        let mut seen = std::collections::HashSet::new();
        trackers.retain(|tracker| seen.insert(tracker.url.clone()));
        Self { trackers, peers }
    }
}

/// Whether a hinted tracker may be asked: nothing from afar makes us talk to what is near.
async fn believable(tracker: &Url, giver: Reach) -> bool {
    let nearest = Nearest::named_by(giver);
    // Each announce looks its name up again and minds the same rule; this only spares us those that are of no use here.
    let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host(tracker.authority())).await;
    match found {
        Ok(Ok(addrs)) => addrs.map(|addr| addr.ip()).all(|ip| nearest.allows(ip)),
        _ => true,
    }
}

/// Resolves what was given as HOST:PORT.
async fn resolve(host: &str) -> Vec<SocketAddr> {
    match tokio::time::timeout(RESOLVE, tokio::net::lookup_host(host)).await {
        Ok(Ok(addrs)) => addrs.map(shoal_protocol::address::canonical_addr).collect(),
        _ => Vec::new(),
    }
}

/// Resolves each; those that don't resolve are left out.
pub(super) async fn resolve_all(hosts: &[String]) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    for host in hosts {
        out.extend(resolve(host).await);
    }
    out
}
