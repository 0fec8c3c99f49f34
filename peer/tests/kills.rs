//! Seeds and trackers that are killed at random moments and start again where they listened: fetches go on and end right.
//!
//! The same for fetches is in `death`. `SHOAL_KILLS` is how often; the moments are the same in each run.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::{MIB, Running, World, content, host_of, number};
use std::fs;
use std::time::Duration;

/// What was on its way when a process was killed may travel again: a piece here and there, of 64 in all.
const IN_FLIGHT: u64 = 64 << 10;
const SIZE: usize = 4 * MIB;

fn moments() -> Vec<Duration> {
    let kills = std::env::var("SHOAL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    content("moments of kills", kills).into_iter().map(|n| Duration::from_micros(u64::from(n) * 4_000)).collect()
}

/// Ends what has ended, and begins the next one.
fn next_if_done(world: &World, fetch: &mut Running, link: &str, done: &mut u64, downloaded: &mut u64) {
    if !fetch.is_running() {
        *downloaded += number(&fetch.end().ok(), "downloaded");
        world.assert_same("file", "out");
        fs::remove_file(world.path("out")).unwrap();
        *done += 1;
        *fetch = world.fetch(link, "out", &["--max-download", "3M"]);
    }
}

#[test]
fn a_seed_that_is_killed_again_and_again_serves_every_fetch_to_its_end() {
    let world = World::new();
    world.file("file", SIZE);
    let mut seed = world.seed(&["file"], &["--piece-size", "64K"]);
    let (link, address) = (seed.link.clone(), seed.addr());
    let (mut done, mut downloaded) = (0, 0);
    let mut fetch = world.fetch(&link, "out", &["--max-download", "3M"]);
    let moments = moments();
    for moment in &moments {
        std::thread::sleep(*moment);
        seed.running.kill();
        seed = world.seed_at(&address, &["file"], &["--piece-size", "64K"]);
        assert_eq!(seed.link, link);
        next_if_done(&world, &mut fetch, &link, &mut done, &mut downloaded);
    }
    downloaded += number(&fetch.end().ok(), "downloaded");
    world.assert_same("file", "out");
    let again = downloaded - (done + 1) * SIZE as u64;
    eprintln!("{} kills of a seed, {} fetches: {} KiB came twice", moments.len(), done + 1, again / 1024);
    assert!(again <= moments.len() as u64 * IN_FLIGHT, "{again} bytes came twice");
}

#[test]
fn a_tracker_that_is_killed_again_and_again_stops_no_fetch() {
    let world = World::new();
    world.file("file", SIZE);
    let mut tracker = world.tracker();
    let address = host_of(&tracker.url);
    let seed = world.seed(&["file"], &["--tracker", &tracker.url, "--piece-size", "64K"]);
    let (mut done, mut downloaded) = (0, 0);
    let mut fetch = world.fetch(&seed.link, "out", &["--max-download", "3M"]);
    let moments = moments();
    for moment in &moments {
        std::thread::sleep(*moment);
        tracker.kill();
        tracker = world.tracker_at(&address);
        next_if_done(&world, &mut fetch, &seed.link, &mut done, &mut downloaded);
    }
    downloaded += number(&fetch.end().ok(), "downloaded");
    world.assert_same("file", "out");
    eprintln!("{} kills of a tracker, {} fetches", moments.len(), done + 1);
    assert_eq!(downloaded, (done + 1) * SIZE as u64, "a tracker's end costs no byte");
}
