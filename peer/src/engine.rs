//! The engine: many contents on one listening port, with one budget for rate, memory and connections.
//!
//! A command is a thin client of it.

use crate::failure::Failure;
use crate::store::{Download, Source};
use shoal_protocol::announce::StopReason;
use shoal_protocol::link::Url;
use shoal_protocol::{ContentId, Hash, Manifest};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

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

/// What a content is doing, as numbers. Updated at least four times a second while something changes.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Payload bytes of the whole content.
    pub total: u64,
    /// Verified payload bytes.
    pub done: u64,
    /// Verified bytes that were there when this process began.
    pub resumed: u64,
    /// Payload received, bytes.
    pub downloaded: u64,
    /// Part of `downloaded` that came from peers which were complete when they sent it.
    pub from_seeds: u64,
    /// Payload sent, bytes.
    pub uploaded: u64,
    /// Payload received that was of no use (duplicates, failed pieces).
    pub wasted: u64,
    /// Pieces that failed verification.
    pub bad_pieces: u64,
    /// Receiving, bytes per second, over the last seconds.
    pub rate_down: u64,
    /// Sending, bytes per second, over the last seconds.
    pub rate_up: u64,
    /// Connected peers.
    pub peers: u32,
    /// Connected peers that have everything.
    pub seeds: u32,
    /// Connected peers that still lack something.
    pub leechers: u32,
    /// Peers from which at least one payload byte came.
    pub sources: u32,
    /// Peers that dialled us.
    pub incoming: u32,
    /// Peers seen to become complete since this process began (a seed's view).
    pub finished_peers: u32,
    /// Whole copies that others hold, by their bitfields (a seed's view).
    pub copies: f64,
    /// The least complete neighbour: its share of the content, 0 to 1 (a seed's view).
    pub slowest: Option<f64>,
    /// Pieces that no connected peer has and that we lack.
    pub pieces_nobody_has: u32,
    /// Pieces that we lack.
    pub pieces_missing: u32,
    /// Where a fetch waits for its disk instead of the network: share of the last seconds, 0 to 1.
    pub disk_bound: f64,
    /// What each tracker last said, for people.
    pub trackers: Vec<TrackerState>,
}

/// One tracker as seen by a content.
#[derive(Debug, Clone)]
pub struct TrackerState {
    /// Its base URL.
    pub url: String,
    /// `Ok((seeds, leechers))` or the last error.
    pub state: Option<Result<(u32, u32), String>>,
}

/// Something a person or a log may want to know once.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A peer sent bytes that failed verification; `barred` if it won't be used for now.
    BadPiece {
        /// Who.
        peer: SocketAddr,
        /// Which piece.
        piece: u32,
        /// Whether it is out for an hour.
        barred: bool,
    },
    /// A local file that we serve is no longer what it was; its pieces are taken back.
    SourceChanged {
        /// Which file, relative to the content's root.
        path: String,
    },
}

/// A content in an engine. Dropping it doesn't stop it; [`Handle::stop`] does.
#[derive(Debug)]
pub struct Handle {
    /// Numbers.
    pub stats: watch::Receiver<Stats>,
    /// Events.
    pub notices: mpsc::Receiver<Notice>,
}

impl Handle {
    /// Waits until a fetch has everything verified, flushed and under its final name, or fails for good.
    /// Bad peers, dead trackers and missing pieces are no failures: then this waits.
    ///
    /// # Errors
    /// Local trouble, such as a full disk.
    pub async fn complete(&mut self) -> Result<std::path::PathBuf, Failure> {
        std::future::pending().await
    }

    /// Stops this content: saves state, announces the end (two seconds at most), closes its connections.
    pub async fn stop(self, reason: StopReason) {
        let _ = reason;
    }
}

/// A seed's content.
#[derive(Debug)]
pub struct Seeding {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Where its bytes are.
    pub source: Arc<dyn Source>,
    /// All CVs in piece order.
    pub cvs: Vec<Hash>,
    /// Trackers to announce to.
    pub trackers: Vec<Url>,
}

/// A fetch.
#[derive(Debug)]
pub struct Fetching {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Where it goes, opened and locked.
    pub download: Arc<Download>,
    /// Trackers to announce to.
    pub trackers: Vec<Url>,
    /// Peers to try first.
    pub peers: Vec<SocketAddr>,
}

/// The engine.
#[derive(Debug, Clone)]
pub struct Engine {}

impl Engine {
    /// Opens the port and starts accepting.
    ///
    /// # Errors
    /// When no port of the range can be had.
    pub async fn start(config: EngineConfig) -> Result<Self, Failure> {
        let _ = config;
        Ok(Self {})
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 0))
    }

    /// Serves a content.
    #[must_use]
    pub fn seed(&self, content: Seeding) -> Handle {
        let _ = content;
        unimplemented!()
    }

    /// Fetches a content and serves what it has of it.
    #[must_use]
    pub fn fetch(&self, content: Fetching) -> Handle {
        let _ = content;
        unimplemented!()
    }

    /// Gets a manifest by its id alone, from peers and from peers that trackers name; waits until `patience` is over.
    ///
    /// # Errors
    /// When nobody had it in time.
    pub async fn find_manifest(
        &self,
        id: ContentId,
        trackers: &[Url],
        peers: &[SocketAddr],
        patience: Option<Duration>,
    ) -> Result<Manifest, Failure> {
        let _ = (id, trackers, peers, patience);
        std::future::pending().await
    }

    /// Closes the port and every connection. Contents must have been stopped before.
    pub async fn shutdown(self) {}
}
