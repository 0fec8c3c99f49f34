//! Fetches that come in waves, and stay in the background: the origin's share doesn't grow with their number.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::{MIB, Running, World, number};

/// What each wave has must serve the next: nearly all that the origin sends beyond one copy falls to the first wave. The goal
/// is 2.0; on two busy cores 1.1 to 2.06 were seen in 40 runs (one above 2.0), and the bound leaves room for worse moments.
const COPIES_MAX: f64 = 2.5;

#[test]
fn twenty_fetches_in_waves_cost_the_origin_few_copies() {
    const WAVES: usize = 4;
    const WAVE: usize = 5;
    let world = World::new();
    world.file("file", 60 * MIB);
    let seed = world.seed(&["file"], &[]);
    for wave in 0..WAVES {
        let fetches: Vec<Running> = (0..WAVE)
            .map(|n| {
                let more = ["--seed-for", "10m", "--background", "--sync", "none"];
                world.fetch(&seed.link, &format!("out{}", wave * WAVE + n), &more)
            })
            .collect();
        let ends: Vec<serde_json::Value> = fetches.into_iter().map(|mut fetch| fetch.end().ok()).collect();
        let from = |field: &str| ends.iter().map(|end| number(end, field)).sum::<u64>() / MIB as u64;
        let told = seed.running.records().iter().rev().find_map(|record| record["sent"].as_u64());
        let (down, up) = (from("downloaded"), from("sent"));
        eprintln!("wave {wave}: {down} MiB down, {up} up; the origin last said {} MiB", told.unwrap_or(0) / MIB as u64);
    }
    for n in 0..WAVES * WAVE {
        world.assert_same("file", &format!("out{n}"));
    }
    assert_eq!(world.background().len(), WAVES * WAVE);
    let copies = number(&seed.stop(), "sent") as f64 / (60 * MIB) as f64;
    eprintln!("{} fetches in waves of {WAVE}: the origin sent {copies:.2} copies", WAVES * WAVE);
    world.end_background();
    assert!(copies <= COPIES_MAX, "the origin sent {copies:.2} copies");
}
