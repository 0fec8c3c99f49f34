//! Finding a manifest by its id alone: from peers, and from peers that trackers name.

use super::{Engine, TrackerAt};
use crate::failure::{Failure, FailureKind};
use crate::net::manifest_fetch::ManifestFetchError;
use crate::net::{announce, manifest_fetch};
use shoal_protocol::address::{Trust, reach};
use shoal_protocol::announce::{Announce, Event};
use shoal_protocol::link::Url;
use shoal_protocol::message::Hello;
use shoal_protocol::{ContentId, Manifest, SwarmId};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;

/// Peers that are asked for a manifest at a time, so that one who stalls holds up nobody.
const ASKED_AT_ONCE: usize = 8;
/// Peers that are asked for a manifest in one round.
const ASKED_MAX: usize = 100;

impl Engine {
    /// Gets a manifest by its id alone, from peers and from peers that trackers name; waits until `patience` is over.
    ///
    /// # Errors
    /// When nobody had it in time, or what the id names is no valid manifest: then nobody else has a better one.
    pub async fn find_manifest(
        &self,
        id: ContentId,
        trackers: &[Url],
        peers: &[SocketAddr],
        patience: Option<Duration>,
    ) -> Result<Manifest, Failure> {
        let search = self.search(id, trackers, peers);
        match patience {
            None => search.await,
            Some(limit) => tokio::time::timeout(limit, search).await.unwrap_or_else(|_| {
                let text = format!("nobody who has the manifest of {id} could be reached");
                Err(Failure::new(FailureKind::Unreachable, text))
            }),
        }
    }

    async fn search(&self, id: ContentId, trackers: &[Url], peers: &[SocketAddr]) -> Result<Manifest, Failure> {
        let core = &self.core;
        let swarm = id.open_swarm();
        let hello = Hello { needs_manifest: true, ..core.hello(swarm, false) };
        let mut pause = Duration::from_millis(500);
        loop {
            // Whom the user named comes first; ourselves and what comes twice is left out.
            let mut known: Vec<SocketAddr> = peers.to_vec();
            for url in trackers {
                known.extend(self.ask_for_peers(swarm, url).await);
            }
            let mut seen = BTreeSet::from([core.local]);
            known.retain(|addr| seen.insert(*addr));
            known.truncate(ASKED_MAX);
            let mut left = known.into_iter();
            let mut asking = JoinSet::new();
            loop {
                while asking.len() < ASKED_AT_ONCE
                    && let Some(addr) = left.next()
                {
                    let hello = hello.clone();
                    asking.spawn(async move { (addr, manifest_fetch::fetch(addr, &hello, id).await) });
                }
                match asking.join_next().await {
                    Some(Ok((_, Ok(manifest)))) => return Ok(manifest),
                    // Every byte was proven to be what the id names.
                    Some(Ok((_, Err(ManifestFetchError::Invalid(error))))) => return Err(error.into()),
                    Some(Ok((addr, Err(error)))) => tracing::debug!(%addr, %error, "no manifest from this peer"),
                    Some(Err(_)) => {}
                    None => break,
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Whom a tracker names. Port 0 keeps us out of what others are told: we have nothing to give yet.
    async fn ask_for_peers(&self, swarm: SwarmId, url: &Url) -> Vec<SocketAddr> {
        let core = &self.core;
        let question = Announce {
            swarm,
            peer: core.peer,
            port: 0,
            event: Event::Started,
            left: 1,
            downloaded: 0,
            uploaded: 0,
            want: 20,
            candidates: Vec::new(),
            zone: core.config.zone.clone(),
            label: String::new(),
            reason: None,
        };
        match announce::announce(core, &TrackerAt::Http(url.clone()), &question).await {
            Ok((reached, handout)) => {
                let trust = Trust { source: reach(reached), allow_private: core.config.allow_private };
                let handout = handout.clamped();
                let addrs = handout.peers.iter().flat_map(|peer| peer.resolve(reached));
                addrs.filter(|addr| trust.allows(*addr)).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "the tracker named no peers");
                Vec::new()
            }
        }
    }
}
