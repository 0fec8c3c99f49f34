//! Announces of made-up peers to a tracker's service, without sockets.

use crate::Result;
use shoal_protocol::announce::{Announce, Event, Handout};
use shoal_protocol::{PeerId, SwarmId};
use shoal_tracker::Service;
use std::net::{IpAddr, Ipv4Addr};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1));

/// Peer number `peer` announces itself; peers are spread evenly over the swarms, a quarter of them as seeds.
///
/// # Errors
/// When the service refuses.
pub fn tell(service: &Service, peer: u32, swarms: u32, event: Event, want: u16) -> Result<Handout> {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&peer.to_le_bytes());
    let mut swarm = [0; 32];
    swarm[..4].copy_from_slice(&(peer % swarms).to_le_bytes());
    let announce = Announce {
        swarm: SwarmId(swarm),
        peer: PeerId(id),
        port: 7171,
        event,
        left: u64::from(peer / swarms % 4) * 1_000,
        downloaded: 0,
        uploaded: 0,
        want,
        candidates: Vec::new(),
        zone: String::new(),
        label: String::new(),
        reason: None,
    };
    let remote = Ipv4Addr::from(0x0a00_0000 + peer).into();
    service.announce(service.now_ms(), &announce, remote, HERE).map_err(|refused| refused.error)
}
