//! What a swarm tells about itself: the numbers that people and programs see, and who may relay its manifest.

use super::swarm_io::Work;
use crate::engine::{Stats, TrackerState};
use crate::swarm::{Swarm, Time, TrackerId};
use shoal_protocol::PeerId;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Most names of those who gave something that are told apart.
const SOURCES_MAX: usize = 4_096;

/// What is counted beside what the logic counts itself.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) trackers: Vec<TrackerState>,
    /// Connections that others made.
    pub(super) incoming: u32,
    /// Who ever sent payload.
    sources: BTreeSet<PeerId>,
    /// What was there at the beginning.
    resumed: u64,
    /// How long connections had waited for buffers when that was last looked at, and the share of time since.
    starved: (Instant, u64),
    disk_bound: f64,
}

impl Numbers {
    pub(super) fn new(work: &Work, swarm: &Swarm) -> Self {
        Self {
            trackers: work.trackers.iter().map(|t| TrackerState { url: t.name(), state: None }).collect(),
            incoming: 0,
            sources: BTreeSet::new(),
            resumed: swarm.done_bytes(),
            starved: (Instant::now(), work.shared.pool.starved_us()),
            disk_bound: 0.0,
        }
    }

    /// Names cost nothing: they are counted, and not without end.
    pub(super) fn sent_payload(&mut self, peer: PeerId) {
        if self.sources.len() < SOURCES_MAX {
            self.sources.insert(peer);
        }
    }

    pub(super) fn tracker_said(&mut self, tracker: TrackerId, said: Result<(u32, u32), String>) {
        if let Some(slot) = self.trackers.get_mut(tracker) {
            slot.state = Some(said);
        }
    }

    /// Tells all of it. So many connections may wait for buffers.
    pub(super) fn publish(&mut self, work: &Work, swarm: &mut Swarm, now: Time, readers: usize) {
        let (rate_down, rate_up) = swarm.rates(now);
        let starved = work.shared.pool.starved_us();
        let elapsed = self.starved.0.elapsed();
        if elapsed > Duration::from_secs(1) {
            let waited = Duration::from_micros(starved - self.starved.1);
            self.disk_bound = (waited.as_secs_f64() / elapsed.as_secs_f64() / readers.max(1) as f64).min(1.0);
            self.starved = (Instant::now(), starved);
        }
        let counters = swarm.counters();
        let mut stats = Stats {
            total: work.manifest.bytes(),
            done: swarm.done_bytes(),
            resumed: self.resumed,
            downloaded: counters.downloaded,
            from_seeds: counters.from_seeds,
            uploaded: counters.uploaded,
            repeated: counters.repeated,
            wasted: counters.waste.total(),
            bad_pieces: counters.bad_pieces,
            rate_down,
            rate_up,
            incoming: self.incoming,
            sources: self.sources.len() as u32,
            finished_peers: swarm.finished_peers(),
            disk_bound: self.disk_bound,
            trackers: self.trackers.clone(),
            pieces_missing: swarm.have().len() - swarm.have().count(),
            ..Stats::default()
        };
        for peer in swarm.peers().filter(|p| p.told) {
            stats.peers += 1;
            let share = f64::from(peer.have.count()) / f64::from(peer.have.len().max(1));
            stats.best = Some(stats.best.map_or(share, |s| s.max(share)));
            if peer.is_seed() {
                stats.seeds += 1;
            } else {
                stats.leechers += 1;
                stats.slowest = Some(stats.slowest.map_or(share, |s| s.min(share)));
            }
        }
        if swarm.have().is_complete() {
            stats.copies = swarm.copies();
        } else {
            stats.pieces_nobody_has = swarm.pieces_nobody_has();
        }
        work.stats.send_replace(stats);
        if let Some(content) = work.core.content_of(&work.swarm_id) {
            content.relays.set(swarm.peers().filter(|p| p.told).filter_map(|p| p.dialable));
        }
    }
}
