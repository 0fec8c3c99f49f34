//! What clients tell a tracker, and what a tracker tells peers.

use super::Choices;
use crate::open_tracker::open_tracker;
use shoal_protocol::address::{Reach, Trust, reach};
use shoal_protocol::announce::zone_nearness;
use shoal_protocol::limits::{ANNOUNCE_BYTES, HANDOUT_PEERS, INTERVAL_S, PORT_MIN};
use shoal_protocol::{Announce, Handout};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Where clients and the tracker may be.
const PLACES: [&str; 8] =
    ["127.0.0.1", "10.0.0.7", "192.168.1.2", "8.8.8.8", "9.9.9.9", "2600::1", "fd00::1", "::ffff:8.8.4.4"];

/// Bodies of announces from clients here and there, one behind the other with a byte between that says where.
pub fn announce(bytes: &[u8]) {
    let service = open_tracker();
    // Where the tracker saw somebody: such an address goes to everybody. Who said of others that they are its own.
    let mut seen = BTreeSet::new();
    let mut said_by: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for (n, part) in bytes.split(|b| *b == b'\n').take(16).enumerate() {
        let mut choices = Choices::new(part);
        let place = |byte: u8| PLACES[byte as usize % PLACES.len()].parse::<IpAddr>().unwrap();
        let (remote, here) = (place(choices.byte()), place(choices.byte()));
        let body = choices.rest();
        if body.len() > ANNOUNCE_BYTES {
            continue;
        }
        let Ok(announce) = serde_json::from_slice::<Announce>(body) else { continue };
        let said = serde_json::to_vec(&announce).unwrap();
        assert_eq!(serde_json::from_slice::<Announce>(&said).ok().as_ref(), Some(&announce), "said again");
        assert!(zone_nearness(&announce.zone, "dc1/room2") <= 2);
        let Ok(handout) = service.announce(n as u64 * 1_000, &announce, remote, here) else {
            continue;
        };
        announce.check().unwrap_or_else(|error| panic!("answered though {error}"));
        seen.insert(remote.to_canonical());
        for candidate in &announce.candidates {
            said_by.entry(candidate.ip().to_canonical()).or_default().insert(remote.to_canonical());
        }
        assert!(handout.peers.len() <= HANDOUT_PEERS && INTERVAL_S.contains(&handout.interval));
        for addr in handout.peers.iter().flat_map(|peer| &peer.addrs) {
            let given: Option<SocketAddr> = addr.parse().ok();
            let Some(given) = given else {
                assert!(addr.strip_prefix(':').is_some_and(|port| port.parse::<u16>().unwrap() >= PORT_MIN), "{addr}");
                continue;
            };
            assert!(given.port() >= PORT_MIN, "{addr}");
            assert!(!matches!(reach(given.ip()), Reach::Never | Reach::Loopback), "{addr}");
            // What is only said goes to who is behind the same address, and if it is private to who is near.
            let ip = given.ip().to_canonical();
            if reach(remote) == Reach::Global && !seen.contains(&ip) {
                let by = said_by.get(&ip);
                assert!(by.is_some_and(|by| by.contains(&remote.to_canonical())), "{addr} to {remote}");
            }
        }
    }
}

/// A tracker's answer, and what of it would be dialled.
pub fn handout(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let reached: IpAddr = PLACES[choices.byte() as usize % PLACES.len()].parse().unwrap();
    let Ok(handout) = serde_json::from_slice::<Handout>(choices.rest()) else { return };
    let handout = handout.clamped();
    assert!(handout.peers.len() <= HANDOUT_PEERS && INTERVAL_S.contains(&handout.interval));
    let trust = Trust { source: reach(reached), allow_private: false };
    for peer in &handout.peers {
        let addrs: Vec<SocketAddr> = peer.resolve(reached).collect();
        assert!(addrs.len() <= 5);
        for addr in addrs.into_iter().filter(|addr| trust.allows(*addr)) {
            assert!(addr.port() >= PORT_MIN && !addr.ip().is_multicast() && !addr.ip().is_unspecified());
            assert!(!addr.ip().to_canonical().is_loopback() || reach(reached) == Reach::Loopback);
            let private = matches!(addr.ip().to_canonical(), IpAddr::V4(ip) if ip.is_private());
            assert!(!private || reach(reached) <= Reach::Private, "{addr} on the word of {reached}");
        }
    }
}
