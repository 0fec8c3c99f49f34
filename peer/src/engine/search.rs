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
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Peers that are asked for a manifest at a time, so that one who stalls holds up nobody.
const ASKED_AT_ONCE: usize = 8;
/// Peers that are asked for a manifest in the first round, and in each that follows.
const ASKED_MAX: usize = 100;
const ASKED_AGAIN_MAX: usize = 20;
/// How long an address rests that did not answer, whoever names it: the first time, twice that the next, and so on. It may
/// be that of a victim, named to thousands of us.
const REST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// Addresses that rest; of more, nobody new is asked.
const RESTING_MAX: usize = 4_096;

/// Whom not to ask, as they did not answer.
#[derive(Debug, Default)]
struct Resting(BTreeMap<SocketAddr, (Duration, Instant)>);

impl Resting {
    fn may_be_asked(&self, now: Instant, addr: SocketAddr) -> bool {
        self.0.get(&addr).map_or(self.0.len() < RESTING_MAX, |(_, until)| *until <= now)
    }

    fn did_not_answer(&mut self, now: Instant, addr: SocketAddr) {
        self.0.retain(|_, (_, until)| now.saturating_duration_since(*until) < REST.1);
        let rest = self.0.get(&addr).map_or(REST.0, |(rest, _)| (*rest * 2).min(REST.1));
        self.0.insert(addr, (rest, now + rest));
    }
}

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
        let (mut pause, mut most) = (Duration::from_millis(500), ASKED_MAX);
        let mut resting = Resting::default();
        loop {
            // Whom the user named comes first; ourselves and what comes twice is left out.
            let mut known: Vec<SocketAddr> = peers.to_vec();
            for url in trackers {
                let named = self.ask_for_peers(swarm, url).await;
                known.extend(named.into_iter().filter(|addr| resting.may_be_asked(Instant::now(), *addr)));
            }
            let mut seen = BTreeSet::from([core.local]);
            known.retain(|addr| seen.insert(*addr));
            known.truncate(std::mem::replace(&mut most, ASKED_AGAIN_MAX + peers.len()));
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
                    Some(Ok((addr, Err(error)))) => {
                        tracing::debug!(%addr, %error, "no manifest from this peer");
                        // Who answered, though it has none yet, may have it soon.
                        if error.is_silence() && !peers.contains(&addr) {
                            resting.did_not_answer(Instant::now(), addr);
                        }
                    }
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
        match announce::announce(core, &TrackerAt::Http(url.clone().into()), &question).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_rests_longer_each_time_and_only_so_many_can() {
        let (start, mut resting) = (Instant::now(), Resting::default());
        let addr = |n: u32| SocketAddr::from((n.to_be_bytes(), 7171));
        let mut asked = Vec::new();
        for second in 0..3_600 {
            let now = start + Duration::from_secs(second);
            if resting.may_be_asked(now, addr(0)) {
                asked.push(second);
                resting.did_not_answer(now, addr(0));
            }
        }
        assert_eq!(asked, [0, 5, 15, 35, 75, 155, 315, 635, 1_235, 1_835, 2_435, 3_035]);
        let end = start + Duration::from_secs(3_600);
        (1..RESTING_MAX as u32).for_each(|n| resting.did_not_answer(end, addr(n)));
        assert!(!resting.may_be_asked(end, addr(u32::MAX)) && !resting.may_be_asked(end, addr(1)));
        assert!(resting.may_be_asked(end + REST.0, addr(1)));
    }
}
