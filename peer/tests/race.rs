//! Somebody on the same machine swaps directories for links while a fetch writes: nothing outside is touched.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::{MIB, World, listing};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[test]
fn links_swapped_in_while_a_fetch_writes_lead_nowhere() {
    let seconds: u64 = std::env::var("SHOAL_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let world = World::new();
    world.tree("tree", 2 * MIB);
    // What the links lead to has the very names that the content has, so that a write through one would land.
    world.tree("outside", MIB / 2);
    let before = listing(&world.path("outside"));
    let seed = world.seed(&["tree"], &["--piece-size", "64K"]);
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = Arc::new(AtomicU64::new(0));
    let racers: Vec<_> = ["large", "small", "bin"]
        .into_iter()
        .map(|name| {
            let (link, inside) = (world.path(&format!("link-{name}")), world.path("out.part").join(name));
            std::os::unix::fs::symlink(world.path("outside").join(name), &link).unwrap();
            let (stop, swaps) = (Arc::clone(&stop), Arc::clone(&swaps));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if renameat_with(CWD, &link, CWD, &inside, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    } else {
                        // Not there, or just renamed to its final name.
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let (start, mut fetches, mut whole) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(seconds) || fetches < 3 {
        let done = world.fetch(&seed.link, "out", &["--timeout", "20s"]).end();
        fetches += 1;
        assert!([0, 5, 6, 7, 8].contains(&done.code), "{}: {}", done.code, done.err);
        whole += u64::from(done.code == 0);
        assert_eq!(listing(&world.path("outside")), before, "after {fetches} fetches");
        for name in ["out", "out.part"] {
            let _ = fs::remove_dir_all(world.path(name));
        }
        for name in ["large", "small", "bin"] {
            // A racer may have been left with the directory in hand, and the link gone with the part.
            let link = world.path(&format!("link-{name}"));
            if !link.is_symlink() {
                let _ = fs::remove_dir_all(&link);
                let _ = std::os::unix::fs::symlink(world.path("outside").join(name), &link);
            }
        }
        let _ = fs::remove_file(world.path("out.part.journal"));
    }
    stop.store(true, Ordering::Relaxed);
    for racer in racers {
        racer.join().unwrap();
    }
    let swaps = swaps.load(Ordering::Relaxed);
    eprintln!("{fetches} fetches, {whole} whole, {swaps} swaps");
    assert!(swaps > 10, "nothing was swapped");
}
