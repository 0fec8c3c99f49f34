//! What an engine is told: where to listen, how much to use, whom to announce to.

use crate::net::http_client::Nearest;
use shoal_protocol::link::Url;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

/// Where to listen: at this address, on the first free port of the range.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `None`: all addresses, IPv6 and IPv4 on one socket, or IPv4 alone where there is no IPv6.
    pub ip: Option<IpAddr>,
    /// Ports to try in order; `0..=0` lets the system choose.
    pub ports: RangeInclusive<u16>,
}

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Addresses for others besides those that trackers see.
    pub advertise: Vec<SocketAddr>,
    /// Zone label, e.g. `dc1/room2/rack7`; may be empty.
    pub zone: String,
    /// Host label in announces; may be empty.
    pub label: String,
    /// Bytes per second over all contents; 0 = no limit.
    pub max_upload: u64,
    /// Bytes per second over all contents; 0 = no limit.
    pub max_download: u64,
    /// Connections per content.
    pub max_peers: usize,
    /// Serve blocks at all.
    pub upload: bool,
    /// Take private addresses from a public tracker.
    pub allow_private: bool,
    /// Answer announces for the contents of this engine on its own port.
    pub tracker: bool,
}

impl EngineConfig {
    /// An engine for this host alone: any free port on loopback, no zone and no limits of rate.
    #[must_use]
    pub fn on_loopback() -> Self {
        Self {
            listen: Listen { ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), ports: 0..=0 },
            advertise: Vec::new(),
            zone: String::new(),
            label: String::new(),
            max_upload: 0,
            max_download: 0,
            max_peers: 50,
            upload: true,
            allow_private: false,
            tracker: false,
        }
    }
}

/// A tracker that is reached over HTTP.
#[derive(Debug, Clone)]
pub struct TrackerUrl {
    /// Where it is.
    pub url: Url,
    /// How near it may turn out to be, each time that its name is looked up: it may be a stranger's.
    pub nearest: Nearest,
}

impl From<Url> for TrackerUrl {
    /// One that the user named.
    fn from(url: Url) -> Self {
        Self { url, nearest: Nearest::Anything }
    }
}

/// A tracker as a content uses it.
#[derive(Debug, Clone)]
pub enum TrackerAt {
    /// The one in this process.
    Here,
    /// One that is reached over HTTP.
    Http(TrackerUrl),
}

impl TrackerAt {
    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Here => "this process".into(),
            Self::Http(tracker) => tracker.url.name(),
        }
    }
}
