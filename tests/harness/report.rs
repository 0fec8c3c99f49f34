//! What came of a run.

use shoal_peer::swarm::Time;
use shoal_peer::swarm::waste::CAUSES;
use std::fmt;

/// Microseconds in which payload is summed up: short beside what the smallest world takes.
pub const SENT_SLOT_US: u64 = 20_000;

/// The outcome of one world.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// What the world was.
    pub world: String,
    /// When each host completed; `None` for those that did not, and for those that had all from the start.
    pub finished: Vec<Option<Time>>,
    /// Whether every host that should have completed did.
    pub complete: bool,
    /// Seconds from a host's joining to its completion, for those that completed.
    pub seconds: Vec<f64>,
    /// Seconds from a host's joining to its first verified piece, ascending.
    pub first_piece: Vec<f64>,
    /// Seconds that no schedule can beat.
    pub bound: f64,
    /// The same for each host by its own downlink: infinity for those that had all from the start.
    pub own_bounds: Vec<f64>,
    /// Where hosts joined by a fault: when the last could be complete at best, as seen at that moment.
    pub join_bound: f64,
    /// Copies of the content that left the origins.
    pub origin_copies: f64,
    /// The same in bytes.
    pub origin_bytes: u64,
    /// When each piece had been verified by somebody for the first time.
    pub all_out: Option<Time>,
    /// Copies of the content that the origins sent of blocks that had left one of them before, while some piece was not yet
    /// out.
    pub origin_twice: f64,
    /// Copies that crossed into zones behind thin links, with all that goes with them.
    pub crossed: f64,
    /// Bytes received for nothing, as a fraction of all payload received.
    pub wasted: f64,
    /// The same by cause, in the order of [`shoal_peer::swarm::waste::Cause`].
    pub waste: [f64; CAUSES],
    /// Payload bytes that left all uplinks in each slot of [`SENT_SLOT_US`].
    pub sent: Vec<u64>,
    /// What all uplinks could send in a second, bytes.
    pub uplinks: f64,
    /// How often the one that was dialled most by one other was.
    pub most_dials: u32,
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
    /// Seconds until the last of those was complete who were there from the beginning and were not made to fail.
    pub last_staying: f64,
    /// Bytes of the swarm's state, mean over the hosts when the first one completed: an estimate.
    pub state_bytes: u64,
    /// Seconds that a tracker which started again with nothing took until it listed 95 of 100 of those who were there.
    pub relisted_s: Option<f64>,
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
        let last = self.finished.iter().flatten().max().copied().unwrap_or(Time::NEVER);
        last.0 as f64 / 1e6
    }

    /// The worst ratio of any host's time to its own bound, which knows its own downlink only.
    #[must_use]
    pub fn worst_own_ratio(&self) -> f64 {
        let each = self
            .finished
            .iter()
            .zip(&self.own_bounds)
            .filter_map(|(at, bound)| Some(at.as_ref()?.0 as f64 / 1e6 / bound));
        each.fold(0.0, f64::max)
    }

    /// The time that this fraction of those who completed needed at most, from their joining.
    #[must_use]
    pub fn percentile(&self, fraction: f64) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        at_fraction(&sorted, fraction)
    }

    /// Control frames that each host sent, on average.
    #[must_use]
    pub fn messages_per_peer(&self) -> f64 {
        self.messages as f64 / (self.finished.len() as f64).max(1.0)
    }
}

impl Report {
    /// Which part of all uplinks was used in each tenth of the time until the last completion, in percent.
    #[must_use]
    pub fn use_by_tenth(&self) -> [u32; 10] {
        let tenth = self.last() / 10.0;
        let per_slot = tenth * 1e6 / SENT_SLOT_US as f64;
        std::array::from_fn(|n| {
            let (from, to) = (n as f64 * per_slot, (n + 1) as f64 * per_slot);
            let part = |s: usize| ((s + 1) as f64).min(to) - (s as f64).max(from);
            let bytes =
                (from as usize..=to as usize).map(|s| self.sent.get(s).map_or(0.0, |b| *b as f64 * part(s).max(0.0)));
            (100.0 * bytes.sum::<f64>() / (self.uplinks * tenth)).round() as u32
        })
    }
}

fn at_fraction(sorted: &[f64], fraction: f64) -> f64 {
    let at = ((sorted.len() as f64 * fraction).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: last {:.2} s, bound {:.2} s, ratio {:.3}, of those who stayed {:.3}, each by its own bound {:.3}, p50 {:.2} s, p99 {:.2} s, first piece p50 \
             {:.2} s last {:.2} s, origin copies {:.3} (all out after {:.2} s, {:.4} sent twice before), wasted {:.2} %, {} control frames ({:.0} a peer), {} blocks, {} KiB of \
             state a peer, uplinks used by tenths of the time {:?} %, {} events, {} bad pieces, complete: {} ({} finished), trace {:016x}",
            self.world,
            self.last(),
            self.bound,
            self.ratio(),
            self.last_staying / self.bound,
            self.worst_own_ratio(),
            self.percentile(0.5),
            self.percentile(0.99),
            at_fraction(&self.first_piece, 0.5),
            at_fraction(&self.first_piece, 1.0),
            self.origin_copies,
            self.all_out.map_or(f64::NAN, |at| at.0 as f64 / 1e6),
            self.origin_twice,
            self.wasted * 100.0,
            self.messages,
            self.messages_per_peer(),
            self.blocks,
            self.state_bytes >> 10,
            self.use_by_tenth(),
            self.events,
            self.bad_pieces,
            self.complete,
            self.finished.iter().flatten().count(),
            self.trace,
        )?;
        if self.wasted > 0.0 {
            let percent = self.waste.map(|part| (part * 1e4).round() / 1e2);
            write!(f, ", wasted by cause (beaten, overdue, assigned, needless, stray, bad) {percent:?} %")?;
        }
        if self.crossed > 0.0 {
            write!(f, ", crossed {:.3}", self.crossed)?;
        }
        if self.join_bound > 0.0 {
            write!(f, ", by the bound at the last joining {:.3}", self.last() / self.join_bound)?;
        }
        Ok(())
    }
}
