//! What goes wrong without being an error, said once; and when a fetch has waited long enough.

use super::output::Output;
use super::progress::percent;
use crate::engine::{Notice, Stats, TrackerState};
use crate::failure::{Failure, FailureKind, escape};
use shoal_protocol::units::{format_duration, format_size};
use std::time::{Duration, Instant};

/// Nobody needs to be told that it takes a moment to find peers.
const LONELY: Duration = Duration::from_secs(3);
/// A tracker's first error may be its restart.
const TRACKER: Duration = Duration::from_secs(5);
/// By then, peers that know of us have dialled us if they can.
const DIALLED: Duration = Duration::from_secs(30);
/// Of so many peers one would have dialled us, were it possible.
const DIALLED_PEERS: u32 = 3;
/// The share of time spent waiting for the disk from which it is the limit.
const DISK: f64 = 0.5;

/// Looks at the numbers and speaks up.
#[derive(Debug)]
pub(super) struct Troubles {
    output: Output,
    name: String,
    port: u16,
    start: Instant,
}

impl Troubles {
    /// Watches a content that is served on this port.
    #[must_use]
    pub(super) fn new(output: &Output, name: &str, port: u16) -> Self {
        Self { output: output.clone(), name: escape(name), port, start: Instant::now() }
    }

    /// What concerns everyone.
    pub(super) fn look(&self, stats: &Stats, uploads: bool) {
        let age = self.start.elapsed();
        let key = |what: &str| format!("{what} {}", self.name);
        if age > TRACKER {
            for tracker in &stats.trackers {
                if let Some(Err(error)) = &tracker.state {
                    let text = format!("tracker {} can't be used: {error}; it is asked again", tracker.url);
                    self.output.warn_once(&key(&tracker.url), &text);
                }
            }
        }
        let known: u32 =
            stats.trackers.iter().filter_map(|t| t.state.as_ref()?.as_ref().ok()).map(|c| c.1).max().unwrap_or(0);
        let unreachable = stats.incoming == 0 && (stats.peers >= DIALLED_PEERS || (stats.peers == 0 && known > 0));
        if uploads && age > DIALLED && unreachable {
            let text = format!(
                "no peer could dial this one: is port {}/tcp open? --advertise names another address",
                self.port
            );
            self.output.warn_once(&key("dial"), &text);
        }
    }

    /// What concerns a fetch.
    pub(super) fn look_at_fetch(&self, stats: &Stats) {
        if stats.done >= stats.total {
            return;
        }
        if stats.disk_bound > DISK {
            self.output.warn_once("disk", "the disk is the limit, not the network");
        }
        if self.start.elapsed() > LONELY {
            if stats.peers == 0 {
                self.output.say_once(
                    "lonely",
                    &format!("waiting for a peer that has {}: {}", self.name, heard(&stats.trackers)),
                );
            } else if stats.pieces_nobody_has > 0 && stats.seeds == 0 && stats.rate_down == 0 {
                let text = format!(
                    "waiting for a seed: {} pieces are held by none of {} peers",
                    stats.pieces_nobody_has, stats.peers
                );
                self.output.say_once("no seed", &text);
            }
        }
    }

    /// An event.
    pub(super) fn notice(&self, notice: &Notice) {
        match notice {
            Notice::BadPiece { peer, piece, barred } => {
                let then = if *barred { "; it is not used for an hour" } else { "" };
                self.output.warn(&format!("{peer} sent bytes of piece {piece} that failed verification{then}"));
            }
            Notice::SourceChanged { path } => {
                let name = if path.is_empty() { &self.name } else { path };
                self.output.warn(&format!("{name} was changed since it was verified; its pieces are no longer served"));
            }
        }
    }
}

/// What the trackers said, in a few words.
fn heard(trackers: &[TrackerState]) -> String {
    if trackers.is_empty() {
        return "no tracker is known".to_owned();
    }
    trackers.iter().map(said).collect::<Vec<_>>().join("; ")
}

fn said(tracker: &TrackerState) -> String {
    match &tracker.state {
        None => format!("tracker {} has not answered yet", tracker.url),
        Some(Ok((seeds, leechers))) => format!("tracker {}: {seeds} seeds, {leechers} others", tracker.url),
        Some(Err(error)) => format!("tracker {}: {error}", tracker.url),
    }
}

/// Notices that nothing comes any more.
#[derive(Debug)]
pub(super) struct Stall {
    limit: Duration,
    seen: (u64, u64),
    since: Instant,
    /// Whether any peer or tracker ever answered.
    reached: bool,
}

impl Stall {
    /// Nothing may go without progress for longer than this.
    #[must_use]
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, seen: (0, 0), since: Instant::now(), reached: false }
    }

    /// Whether it has been too long.
    pub(super) fn look(&mut self, stats: &Stats) -> bool {
        self.reached |= stats.peers > 0 || stats.trackers.iter().any(|t| matches!(t.state, Some(Ok(_))));
        if self.seen != (stats.done, stats.downloaded) {
            self.seen = (stats.done, stats.downloaded);
            self.since = Instant::now();
        }
        // Flushing all of it has no progress to show. 0 stands for no limit, as it does for rates.
        let awaits = stats.done < stats.total || stats.total == 0;
        awaits && !self.limit.is_zero() && self.since.elapsed() >= self.limit
    }

    /// Why a fetch gives up, with what it waits for.
    #[must_use]
    pub(super) fn failure(&self, stats: &Stats, timeout: Option<Duration>) -> Failure {
        let kind = if self.reached { FailureKind::Incomplete } else { FailureKind::Unreachable };
        let pieces = stats.pieces_missing;
        let why = if !self.reached {
            "no tracker and no peer could be reached".to_owned()
        } else if stats.pieces_nobody_has > 0 {
            format!("{} of {pieces} missing pieces are held by no peer that can be reached", stats.pieces_nobody_has)
        } else if let Some(timeout) = timeout {
            format!("not complete after {}: {} %", format_duration(timeout), percent(stats.done, stats.total))
        } else {
            format!("nothing came for {}", format_duration(self.limit))
        };
        let mut failure = Failure::new(kind, why);
        for tracker in &stats.trackers {
            failure = failure.detail(said(tracker));
        }
        // Rounded down: only who has all of it has 100 %.
        let best = stats.best.filter(|_| stats.seeds == 0);
        let best = best.map(|share| format!(", the best has {:.1} %", (share * 1_000.0).floor() / 10.0));
        failure.detail(format!(
            "{} peers connected, {} of them seeds{}; {pieces} pieces are missing ({})",
            stats.peers,
            stats.seeds,
            best.unwrap_or_default(),
            format_size(stats.total.saturating_sub(stats.done))
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_ends_with_progress_only() {
        let mut stall = Stall::new(Duration::from_nanos(1));
        std::thread::sleep(Duration::from_millis(1));
        assert!(stall.look(&Stats::default()));
        assert!(!Stall::new(Duration::ZERO).look(&Stats::default()));
        for (done, late) in [(6, true), (7, false)] {
            let stats = Stats { done, total: 7, ..Stats::default() };
            stall.look(&stats);
            std::thread::sleep(Duration::from_millis(1));
            assert_eq!(stall.look(&stats), late, "{done} of 7");
        }
        let mut patient = Stall::new(Duration::from_secs(60));
        assert!(!patient.look(&Stats::default()));
        let failure = patient.failure(&Stats::default(), None);
        assert_eq!(failure.kind, FailureKind::Unreachable);
        let stats = Stats { peers: 1, pieces_nobody_has: 3, pieces_missing: 9, ..Stats::default() };
        patient.look(&stats);
        let failure = patient.failure(&stats, None);
        assert_eq!(failure.kind, FailureKind::Incomplete);
        assert!(failure.message.starts_with("3 of 9"), "{failure}");
        let stats = Stats { best: Some(0.999_9), ..stats };
        let said = patient.failure(&stats, None).details.join(" ");
        assert!(said.contains("the best has 99.9 %"), "{said}");
    }
}
