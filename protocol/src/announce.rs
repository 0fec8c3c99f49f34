//! What peers tell a tracker, and what it answers. Both are JSON over HTTP.

use crate::error::WireError;
use crate::id::{PeerId, SwarmId};
use crate::limits::{CANDIDATES, HANDOUT_PEERS, INTERVAL_S, LABEL_BYTES, ZONE_BYTES};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Why an announce is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The peer has just come.
    Started,
    /// It is still there.
    Progress,
    /// It has everything now; sent once.
    Completed,
    /// It leaves.
    Stopped,
}

/// Why a peer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// It has what it wanted and served as long as it was asked to.
    Done,
    /// Its user stopped it.
    Interrupted,
    /// Its disk is full.
    DiskFull,
    /// It gave up waiting.
    TimedOut,
    /// Another error.
    Failed,
}

/// Body of `POST /v1/announce`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announce {
    /// The swarm.
    pub swarm: SwarmId,
    /// The peer's name for this run.
    pub peer: PeerId,
    /// Port on which it can be dialled at the address that the tracker sees; 0 if it can't be dialled.
    pub port: u16,
    /// Why this announce is sent.
    pub event: Event,
    /// Bytes that it still lacks; 0 makes it a seed.
    pub left: u64,
    /// Bytes of payload that it received so far.
    #[serde(default)]
    pub downloaded: u64,
    /// Bytes of payload that it sent so far.
    #[serde(default)]
    pub uploaded: u64,
    /// How many peers it would like to hear of.
    #[serde(default = "default_want")]
    pub want: u16,
    /// Other addresses at which it may be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<SocketAddr>,
    /// Where it is, e.g. `dc1/room2/rack7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// A name for people, e.g. the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// With [`Event::Stopped`]: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<StopReason>,
}

fn default_want() -> u16 {
    50
}

impl Announce {
    /// Checks the lengths and characters of what was parsed.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn check(&self) -> Result<(), WireError> {
        if self.candidates.len() > CANDIDATES {
            return Err(WireError::OutOfRange("candidates"));
        }
        if self.port != 0 && self.port < crate::limits::PORT_MIN {
            return Err(WireError::OutOfRange("port"));
        }
        if !zone_is_valid(&self.zone) {
            return Err(WireError::OutOfRange("zone"));
        }
        if self.label.len() > LABEL_BYTES || self.label.chars().any(crate::path::is_forbidden) {
            return Err(WireError::OutOfRange("label"));
        }
        Ok(())
    }
}

/// Whether a zone label is acceptable: components of letters, digits, `-`, `_` and `.` with `/` between them, or empty.
#[must_use]
pub fn zone_is_valid(zone: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    zone.is_empty() || (zone.len() <= ZONE_BYTES && zone.split('/').all(|c| !c.is_empty() && c.bytes().all(plain)))
}

/// How many leading components two zone paths share.
#[must_use]
pub fn zone_nearness(a: &str, b: &str) -> usize {
    if a.is_empty() || b.is_empty() {
        return 0;
    }
    a.split('/').zip(b.split('/')).take_while(|(x, y)| x == y).count()
}

/// One peer in a handout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoutPeer {
    /// Where it may be reached, best first. `:PORT` without a host means: the host at which you reached this tracker.
    pub addrs: Vec<String>,
    /// Whether it has everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub seed: bool,
}

impl HandoutPeer {
    /// The addresses, with `:PORT` filled in by the tracker's own address. What can't be read is left out.
    pub fn resolve(&self, tracker: std::net::IpAddr) -> impl Iterator<Item = SocketAddr> {
        self.addrs.iter().take(CANDIDATES + 1).filter_map(move |text| match text.strip_prefix(':') {
            Some(port) if port.bytes().all(|c| c.is_ascii_digit()) => {
                Some(SocketAddr::new(crate::address::canonical(tracker), port.parse().ok()?))
            }
            Some(_) => None,
            None => text.parse().ok().map(crate::address::canonical_addr),
        })
    }
}

/// Answer to an announce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handout {
    /// Seconds until the next announce is due.
    pub interval: u32,
    /// Peers that have everything, by the tracker's count.
    pub seeds: u32,
    /// Peers that still lack something.
    pub leechers: u32,
    /// How often a peer completed, since the tracker knows the swarm; from a tracker that doesn't say it 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub completed: u32,
    /// Some of them; never the asker, and no seeds for a seed.
    pub peers: Vec<HandoutPeer>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Handout {
    /// Makes a hostile answer harmless: the interval and the number of peers are brought within the limits.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.interval = self.interval.clamp(*INTERVAL_S.start(), *INTERVAL_S.end());
        self.peers.truncate(HANDOUT_PEERS);
        self
    }
}

/// What a tracker tells of one swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmCounts {
    /// The swarm.
    pub swarm: SwarmId,
    /// Peers that have everything.
    pub seeds: u32,
    /// Peers that lack something.
    pub leechers: u32,
    /// How often a peer completed, since the tracker started.
    pub completed: u64,
}

/// Answer to `GET /v1/scrape?swarm=ID&swarm=ID…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrape {
    /// One row for each id asked for, in the order asked; zeros where the swarm isn't known.
    pub swarms: Vec<SwarmCounts>,
}

/// Body of every error answer of a tracker or of a peer's HTTP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong, for people.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_share_their_leading_components() {
        assert_eq!(zone_nearness("dc1/room2/rack7", "dc1/room2/rack8"), 2);
        assert_eq!(zone_nearness("dc1", "dc10"), 0);
        assert_eq!(zone_nearness("", ""), 0);
        for bad in ["/", "a/", "a//b", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert!(!zone_is_valid(bad), "{bad:?}");
        }
        assert!(zone_is_valid("") && zone_is_valid("dc1/r_2/k-7.a") && zone_is_valid(&"x".repeat(128)));
    }

    #[test]
    fn announces_are_strict() {
        let good = format!(
            r#"{{"swarm":"{}","peer":"{}","port":7171,"event":"started","left":1}}"#,
            "ab".repeat(32),
            "cd".repeat(16)
        );
        let announce: Announce = serde_json::from_str(&good).unwrap();
        assert_eq!((announce.want, announce.check()), (50, Ok(())));
        assert!(serde_json::from_str::<Announce>(&good.replace("\"left\":1", "\"left\":1,\"x\":1")).is_err());
        assert!(serde_json::from_str::<Announce>(&good.replace("\"left\":1", "\"left\":1,\"left\":1")).is_err());
        assert!(serde_json::from_str::<Announce>(&good.replace("\"left\":1", "\"left\":-1")).is_err());
        assert!(Announce { port: 80, ..announce.clone() }.check().is_err());
        assert!(Announce { label: "a\u{1b}".into(), ..announce }.check().is_err());
    }

    #[test]
    fn a_port_alone_means_the_trackers_host() {
        let peer = HandoutPeer {
            addrs: vec![":7171".into(), ":+7171".into(), "10.0.0.1:7172".into(), "nonsense".into()],
            seed: true,
        };
        let got: Vec<_> = peer.resolve("192.168.0.9".parse().unwrap()).map(|a| a.to_string()).collect();
        assert_eq!(got, ["192.168.0.9:7171", "10.0.0.1:7172"]);
    }
}
