//! What came of a run.

use shoal_peer::swarm::Time;
use shoal_peer::swarm::time;
use std::fmt;

/// The outcome of one world.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What the world was.
    pub world: String,
    /// When each host completed; `None` for those that did not, and for those that had all from the start.
    pub finished: Vec<Option<Time>>,
    /// Whether every host that should have completed did.
    pub complete: bool,
    /// Seconds from a host's joining to its completion, for those that completed.
    pub seconds: Vec<f64>,
    /// Seconds that no schedule can beat.
    pub bound: f64,
    /// Copies of the content that left the origins.
    pub origin_copies: f64,
    /// Bytes received for nothing, as a fraction of all payload received.
    pub wasted: f64,
    /// Control frames sent.
    pub messages: u64,
    /// Blocks sent.
    pub blocks: u64,
    /// Events simulated.
    pub events: u64,
    /// Pieces that failed verification, all hosts together.
    pub bad_pieces: u64,
    /// Who was found out by whom: (host, by host, barred).
    pub convicted: Vec<(usize, usize, bool)>,
    /// Connections that were ended because one side broke the protocol.
    pub protocol_errors: u64,
    /// When the last event happened.
    pub ended: Time,
    /// Hash over all that happened.
    pub trace: u64,
}

impl Report {
    /// Time of the last completion over the bound.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.last() / self.bound
    }

    /// When the last host completed, in seconds since the beginning.
    #[must_use]
    pub fn last(&self) -> f64 {
        let last = self.finished.iter().flatten().max().copied().unwrap_or(time::Time::NEVER);
        last.0 as f64 / 1e6
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: last {:.2} s, bound {:.2} s, ratio {:.3}, origin copies {:.3}, wasted {:.2} %, {} control frames, \
             {} blocks, {} events, {} bad pieces, complete: {}, trace {:016x}",
            self.world,
            self.last(),
            self.bound,
            self.ratio(),
            self.origin_copies,
            self.wasted * 100.0,
            self.messages,
            self.blocks,
            self.events,
            self.bad_pieces,
            self.complete,
            self.trace,
        )
    }
}
