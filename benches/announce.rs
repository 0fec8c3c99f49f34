//! What an announce costs the tracker without its sockets, on one core: `cargo bench -p benches --bench announce`.

use benches::measure;
use shoal_protocol::announce::{Announce, Event};
use shoal_protocol::{ContentId, Manifest, PeerId, SwarmId};
use shoal_tracker::{ManifestSource, Part, Service, ServiceConfig};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// As in the comparisons of trackers that the README tells of.
const SWARMS: u32 = 1_000;
const PEERS: u32 = 20_000;
const WANT: u16 = 50;

/// Knows every swarm and no manifest.
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

fn announce(peer: u32, event: Event) -> (Announce, IpAddr) {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&peer.to_le_bytes());
    let mut swarm = [0; 32];
    swarm[..4].copy_from_slice(&(peer % SWARMS).to_le_bytes());
    let announce = Announce {
        swarm: SwarmId(swarm),
        peer: PeerId(id),
        port: 7171,
        event,
        left: u64::from(peer / SWARMS % 4) * 1_000,
        downloaded: 0,
        uploaded: 0,
        want: WANT,
        candidates: Vec::new(),
        zone: String::new(),
        label: String::new(),
        reason: None,
    };
    (announce, Ipv4Addr::from(0x0a00_0000 + peer).into())
}

fn main() {
    let service = Service::new(ServiceConfig { seed: Some(1), ..ServiceConfig::default() }, Arc::new(Any));
    let here = IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1));
    let tell = |peer, event| {
        let (announce, remote) = announce(peer, event);
        service.announce(service.now_ms(), &announce, remote, here)
    };
    for peer in 0..PEERS {
        assert!(tell(peer, Event::Started).is_ok());
    }
    let mut peer = 0;
    measure("announce: 20,000 peers, 1,000 swarms", "announces", 1.0, || {
        peer = (peer + 7_919) % PEERS;
        tell(peer, Event::Progress)
    });
}
