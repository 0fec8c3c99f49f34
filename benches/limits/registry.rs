//! What a tracker's memory holds of a peer, and whether one huge swarm answers as fast as a small one: the tracker's own
//! code in this process, without sockets.

use crate::Bench;
use crate::row::{Goal, Row};
use benches::Result;
use benches::cost::resident_bytes;
use shoal_protocol::announce::{Announce, Event};
use shoal_protocol::{ContentId, Manifest, PeerId, SwarmId};
use shoal_tracker::{ManifestSource, Part, Service, ServiceConfig};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

const PEERS: u32 = 1_000_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1));
/// Announces that are timed.
const ASKED: u32 = 50_000;

/// Knows every swarm and no manifest.
#[derive(Debug)]
struct Any;

impl ManifestSource for Any {
    fn accepts_swarm(&self, _: &SwarmId) -> bool {
        true
    }
    fn manifest(&self, _: &ContentId) -> Option<Arc<Manifest>> {
        None
    }
    fn part(&self, _: &ContentId, _: Part) -> Option<bytes::Bytes> {
        None
    }
}

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let before = resident_bytes(std::process::id())?;
    let many = filled(PEERS, 1_000)?;
    let per_peer = (resident_bytes(std::process::id())? - before) as f64 / f64::from(PEERS);
    drop(many);
    let (small, huge) = (filled(1_000, 1)?, filled(PEERS, 1)?);
    let mut ratios = Vec::new();
    for _ in 0..bench.rounds {
        let small = timed(&small, 1_000, 1)?;
        ratios.push(timed(&huge, PEERS, 1)? / small);
    }
    Ok(vec![
        Row::new("tracker: memory of a peer, 1,000,000 in 1,000 swarms", "bytes", Goal::AtMost(100.0), vec![per_peer])?,
        // Ten peers in a million don't fit into a processor's caches, so as fast means: within a few cache misses.
        Row::new(
            "tracker: an announce in a swarm of 1,000,000 beside one of 1,000",
            "times",
            Goal::AtMost(2.0),
            ratios,
        )?,
    ])
}

fn filled(peers: u32, swarms: u32) -> Result<Service> {
    let service = Service::new(ServiceConfig { seed: Some(1), ..ServiceConfig::default() }, Arc::new(Any));
    for peer in 0..peers {
        tell(&service, peer, swarms, Event::Started, 0)?;
    }
    Ok(service)
}

/// Seconds for many announces of peers that are known.
fn timed(service: &Service, peers: u32, swarms: u32) -> Result<f64> {
    let start = Instant::now();
    for n in 0..ASKED {
        tell(service, n.wrapping_mul(7_919) % peers, swarms, Event::Progress, 50)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn tell(service: &Service, peer: u32, swarms: u32, event: Event, want: u16) -> Result<()> {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&peer.to_le_bytes());
    let mut swarm = [0; 32];
    swarm[..4].copy_from_slice(&(peer % swarms).to_le_bytes());
    let announce = Announce {
        swarm: SwarmId(swarm),
        peer: PeerId(id),
        port: 7171,
        event,
        left: u64::from(peer % 7) * 1_000,
        downloaded: 0,
        uploaded: 0,
        want,
        candidates: Vec::new(),
        zone: String::new(),
        label: String::new(),
        reason: None,
    };
    let remote = Ipv4Addr::from(0x0a00_0000 + peer).into();
    let answer = service.announce(service.now_ms(), &announce, remote, HERE);
    answer.map(|_| ()).map_err(|refused| refused.error)
}
