//! What a tracker's memory holds of a peer, and whether one huge swarm answers as fast as a small one: the tracker's own
//! code in this process, without sockets.

use crate::Bench;
use crate::row::{Goal, Row};
use benches::Result;
use benches::announces::tell;
use benches::cost::resident_bytes;
use harness::open_tracker::open_tracker;
use shoal_protocol::announce::Event;
use shoal_tracker::Service;
use std::time::Instant;

const PEERS: u32 = 1_000_000;
/// Announces that are timed.
const ASKED: u32 = 50_000;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let before = resident_bytes(std::process::id())?;
    let many = filled(PEERS, 1_000)?;
    let per_peer = (resident_bytes(std::process::id())? - before) as f64 / f64::from(PEERS);
    drop(many);
    let (small, huge) = (filled(1_000, 1)?, filled(PEERS, 1)?);
    let mut ratios = Vec::new();
    for _ in 0..bench.rounds {
        let small = timed(&small, 1_000)?;
        ratios.push(timed(&huge, PEERS)? / small);
    }
    Ok(vec![
        Row::new("tracker: memory of a peer, 1,000,000 in 1,000 swarms", "bytes", Goal::AtMost(100.0), vec![per_peer])?,
        // Ten peers in a million don't fit into a processor's caches, so as fast means: within a few cache misses.
        Row::new(
            "tracker: an announce in a swarm of 1,000,000 beside one of 1,000",
            "times",
            Goal::AtMost(1.1),
            ratios,
        )?,
    ])
}

fn filled(peers: u32, swarms: u32) -> Result<Service> {
    let service = open_tracker();
    for peer in 0..peers {
        tell(&service, peer, swarms, Event::Started, 0)?;
    }
    Ok(service)
}

/// Seconds for many announces of peers that are known, all of one swarm.
fn timed(service: &Service, peers: u32) -> Result<f64> {
    let start = Instant::now();
    for n in 0..ASKED {
        tell(service, n.wrapping_mul(7_919) % peers, 1, Event::Progress, 50)?;
    }
    Ok(start.elapsed().as_secs_f64())
}
