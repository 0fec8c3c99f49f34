//! Fetches and seeds among evil peers of every mode: what is honest gets through.

use crate::hostile::with_seed_of;
use crate::run;
use harness::evil::{Bounds, PeerMode, Tally, play, play_counted};
use harness::loopback::{Content, PATIENCE, complete, engine};
use shoal_protocol::announce::StopReason;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

const MODES: [PeerMode; 10] = [
    PeerMode::Corrupt(1.0),
    PeerMode::Corrupt(0.1),
    PeerMode::Stall,
    PeerMode::Trickle,
    PeerMode::Short,
    PeerMode::Liar,
    PeerMode::Unasked,
    PeerMode::Greedy,
    PeerMode::Noise,
    PeerMode::Abort,
];

#[test]
fn a_fetch_among_three_of_each_kind_completes() {
    run(async {
        let mut playing = JoinSet::new();
        for (n, mode) in MODES.into_iter().enumerate() {
            playing.spawn(among(mode, n as u64));
        }
        while let Some(played) = playing.join_next().await {
            played.unwrap();
        }
    });
}

/// Both ends of an honest transfer are attacked.
async fn among(mode: PeerMode, seed: u64) {
    let content = Content::file(60, 8 << 20, 1 << 18);
    let (a, b, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
    let seeding = content.seed(&a, &[]);
    let bounds = Bounds { connections: 3, count: 100_000, time: PATIENCE, seed, addresses: 1 };
    let evil = |target| {
        let (content, tally) = (content.clone(), Arc::new(Tally::default()));
        let counted = Arc::clone(&tally);
        let playing = async move { play_counted(mode, target, content.swarm(), Some(&content), bounds, counted).await };
        (tokio::spawn(playing), tally)
    };
    // The seed has them already when the fetch begins.
    let (first, tally) = evil(a.local_addr());
    let connected = async {
        while tally.connected.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.unwrap();
    let mut fetch = content.fetch(&b, dir.path(), &[a.local_addr()], &[]);
    let evil = [first, evil(b.local_addr()).0];
    assert!(content.is_at(&complete(&mut fetch).await), "{mode:?}");
    evil.iter().for_each(tokio::task::JoinHandle::abort);
    fetch.stop(StopReason::Done).await;
    seeding.stop(StopReason::Done).await;
    a.shutdown().await;
    b.shutdown().await;
}

#[test]
fn a_house_full_of_one_host_that_asks_for_all_it_may_lets_others_in() {
    run(async {
        let content = Content::file(62, 8 << 20, 1 << 18);
        let (a, b, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
        let mut seeding = content.seed(&a, &[]);
        // Six times as many as there are places, and more than the port has for all contents.
        let bounds = Bounds { connections: 300, count: u64::MAX, time: PATIENCE, seed: 8, addresses: 1 };
        let (target, swarm) = (a.local_addr(), content.swarm());
        let crowd = tokio::spawn(async move { play(PeerMode::Greedy, target, swarm, None, bounds).await });
        let full = seeding.stats.wait_for(|s| s.peers >= 50);
        tokio::time::timeout(PATIENCE, full).await.unwrap().unwrap();
        let mut fetch = content.fetch(&b, dir.path(), &[a.local_addr()], &[]);
        assert!(content.is_at(&complete(&mut fetch).await));
        assert!(!crowd.is_finished(), "it was there all the time");
        crowd.abort();
        fetch.stop(StopReason::Done).await;
        seeding.stop(StopReason::Done).await;
        a.shutdown().await;
        b.shutdown().await;
    });
}

#[test]
fn random_frames_end_connections_and_nothing_else() {
    run(async {
        let frames: u64 = std::env::var("SHOAL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
        with_seed_of(Content::file(61, 1 << 20, 1 << 16), async |target, content: Content| {
            let bounds =
                Bounds { connections: 16, count: frames, time: Duration::from_secs(7_200), seed: 5, addresses: 1 };
            let tally = play(PeerMode::Noise, target, content.swarm(), None, bounds).await;
            let (sent, connected) = (tally.sent.load(Ordering::Relaxed), tally.connected.load(Ordering::Relaxed));
            eprintln!("{sent} frames over {connected} connections");
            assert!(sent >= frames);
        })
        .await;
    });
}
