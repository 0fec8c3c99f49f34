//! What a swarm tells about itself: the numbers that people and programs see, and who may relay its manifest.

use super::swarm_io::SwarmIo;
use crate::engine::Stats;
use std::time::{Duration, Instant};

impl SwarmIo {
    pub(super) fn publish(&mut self) {
        let now = self.now();
        let (rate_down, rate_up) = self.swarm.rates(now);
        let starved = self.job.shared.pool.starved_us();
        let elapsed = self.starved.0.elapsed();
        if elapsed > Duration::from_secs(1) {
            let waited = Duration::from_micros(starved - self.starved.1);
            let readers = self.links.len().max(1) as f64;
            self.disk_bound = (waited.as_secs_f64() / elapsed.as_secs_f64() / readers).min(1.0);
            self.starved = (Instant::now(), starved);
        }
        let counters = self.swarm.counters().clone();
        let swarm = &self.swarm;
        let peers = swarm.peers();
        let mut stats = Stats {
            total: self.job.manifest.bytes(),
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
            finished_peers: counters.finished_peers,
            disk_bound: self.disk_bound,
            trackers: self.trackers.clone(),
            pieces_missing: swarm.have().len() - swarm.have().count(),
            ..Stats::default()
        };
        for peer in peers.filter(|p| p.told) {
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
        self.job.stats.send_replace(stats);
        if let Some(content) = self.job.core.content_of(&self.job.swarm_id) {
            content.relays.set(self.swarm.peers().filter(|p| p.told).filter_map(|p| p.dialable));
        }
    }
}
