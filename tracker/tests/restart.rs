//! A tracker that starts again empty under a swarm that knows nothing of it (C13), on a clock of its own.
#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use shoal_protocol::Announce;
use shoal_tracker::{DiskConfig, DiskStore, Service, ServiceConfig};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

const PEERS: u32 = 5_000;
const SECOND: u64 = 1_000;

fn service(seed: u64, directory: &tempfile::TempDir) -> Service {
    let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
    Service::new(ServiceConfig { seed: Some(seed), ..ServiceConfig::default() }, Arc::new(store))
}

/// Peer `n`, which has been there for long; gives its interval in seconds and how many peers it was told.
fn announce(service: &Service, now_ms: u64, swarms: u32, n: u32) -> (u64, usize) {
    let text = format!(
        r#"{{"swarm":"{:064x}","peer":"{n:032x}","port":7171,"event":"progress","left":{},"want":50}}"#,
        n % swarms,
        n / swarms % 4
    );
    let announce: Announce = serde_json::from_str(&text).unwrap();
    let (from, here) = (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), IpAddr::from([10, 255, 0, 1]));
    let handout = service.announce(now_ms, &announce, from, here).unwrap();
    (handout.interval.into(), handout.peers.len())
}

/// Announces that fall due before `end`; gives what each peer was told last, and how many came in each second.
fn play(
    service: &Service,
    due: &mut BinaryHeap<Reverse<(u64, u32)>>,
    end: u64,
    swarms: u32,
) -> (HashMap<u32, (u64, usize)>, BTreeMap<u64, u32>) {
    let (mut told, mut per_second) = (HashMap::new(), BTreeMap::new());
    while let Some(Reverse((now_ms, n))) = due.pop() {
        if now_ms >= end {
            due.push(Reverse((now_ms, n)));
            break;
        }
        let (interval_s, peers) = announce(service, now_ms, swarms, n);
        told.insert(n, (interval_s, peers));
        *per_second.entry(now_ms / SECOND).or_default() += 1;
        due.push(Reverse((now_ms + interval_s * SECOND, n)));
    }
    (told, per_second)
}

#[test]
fn after_a_restart_lists_are_full_within_half_a_minute_and_nobody_comes_in_a_herd() {
    let directory = tempfile::tempdir().unwrap();
    for swarms in [1, 25, 250] {
        let mut due = (0..PEERS).map(|n| Reverse((u64::from(n) * 10, n))).collect();
        let restart = 300 * SECOND;
        let (before, _) = play(&service(1, &directory), &mut due, restart, swarms);
        let interval = before.values().map(|told| told.0).max().unwrap() * SECOND;
        assert!((20..=30).contains(&(interval / SECOND)), "{interval}");
        let new = service(2, &directory);
        let (_, first) = play(&new, &mut due, restart + interval, swarms);
        assert!(new.status().peers * 100 >= PEERS as usize * 95, "{swarms}: {} are known again", new.status().peers);
        let (after, second) = play(&new, &mut due, restart + 2 * interval, swarms);
        let full = after.iter().filter(|(n, told)| told.1 * 100 >= before[n].1 * 95).count();
        assert!(after.len() > PEERS as usize / 2, "{swarms}: {}", after.len());
        assert!(full * 100 >= after.len() * 95, "{swarms}: {full} lists of {} are full", after.len());
        let most = first.values().chain(second.values()).max().copied().unwrap();
        assert!(most < PEERS / 10, "{swarms}: {most} announces in one second");
    }
}
