//! What an engine tells of a content: numbers, and things to be said once.

use std::net::SocketAddr;

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
    /// Part of `uploaded` that an origin had sent before, while some piece wasn't out yet.
    pub repeated: u64,
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
    /// The most complete neighbour: its share of the content, 0 to 1.
    pub best: Option<f64>,
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
