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
        let mut named = search.peers.to_vec();
        if let Spec::Url(url) = spec
            && url.content_id().is_some()
        {
            trackers.push(url.tracker().into());
            // Behind TLS there is a tracker or a proxy, but no peer.
            if !url.tls {
                named.push(url.authority());
            }
        }
        // All names at once: one that nobody answers for holds up nobody but itself.
        let (peers, hinted) = tokio::join!(resolve_all(&named), believed(hints, giver));
        trackers.extend(hinted);
        let mut seen = std::collections::HashSet::new();
        trackers.retain(|tracker| seen.insert(tracker.url.clone()));
        Self { trackers, peers }
    }
}

/// The hinted trackers that may be asked, one at each host.
async fn believed(hints: &Hints, giver: Reach) -> Vec<TrackerUrl> {
    let mut hosts = std::collections::HashSet::new();
    let hinted = hints.trackers.iter().filter_map(|hint| Url::parse(hint).ok());
    let urls: Vec<Url> = hinted.map(|url| plain(&url)).filter(|url| hosts.insert(url.authority())).collect();
    let looks: Vec<_> =
        urls.iter().cloned().map(|url| tokio::spawn(async move { believable(&url, giver).await })).collect();
    let mut out = Vec::new();
    for (url, look) in urls.into_iter().zip(looks) {
        if look.await.unwrap_or(false) {
            out.push(TrackerUrl { url, nearest: Nearest::named_by(giver) });
        }
    }
    out
}

/// A tracker that a stranger names: below a path that looks like one, or below none, as thousands will post to it.
fn plain(url: &Url) -> Url {
    const LONGEST: usize = 64;
    let tracker = url.tracker();
    let is_plain = |part: &str| {
        !part.starts_with('.') && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
    };
    let is_path = tracker.path.len() <= LONGEST && tracker.path.split('/').all(is_plain);
    if is_path { tracker } else { tracker.with_path("/") }
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
    let looks: Vec<_> = hosts.iter().cloned().map(|host| tokio::spawn(async move { resolve(&host).await })).collect();
    let mut out = Vec::new();
    for look in looks {
        out.extend(look.await.unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_says_where_a_tracker_is_and_little_more() {
        for (hint, tracker) in [
            ("http://t:1", "http://t:1"),
            ("http://t:1/shoal/", "http://t:1/shoal"),
            ("http://t:1/a/b_c-9?x=1", "http://t:1/a/b_c-9"),
            ("http://t:1/report.php/x", "http://t:1"),
            ("http://t:1/../x", "http://t:1"),
            ("http://t:1/a%2fb", "http://t:1"),
            ("http://t:1/a;b", "http://t:1"),
        ] {
            assert_eq!(plain(&Url::parse(hint).unwrap()).name(), tracker, "{hint}");
        }
        let long = format!("http://t:1/{}", "a".repeat(64));
        assert_eq!(plain(&Url::parse(&long).unwrap()).name(), "http://t:1");
    }

    #[tokio::test]
    async fn hints_are_asked_for_one_tracker_at_each_host() {
        let trackers = ["http://9.9.9.9/a", "http://9.9.9.9/b", "http://9.9.9.8", "http://10.0.0.1", "nonsense"];
        let hints = Hints { trackers: trackers.map(str::to_owned).to_vec(), ..Hints::default() };
        let found: Vec<String> = believed(&hints, Reach::Global).await.iter().map(|t| t.url.name()).collect();
        assert_eq!(found, ["http://9.9.9.9:80/a", "http://9.9.9.8:80"]);
    }
}
