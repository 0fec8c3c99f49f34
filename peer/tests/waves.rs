//! Fetches that come in waves, and stay in the background: the origin's share doesn't grow with their number.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::{MIB, Running, World, number};

#[test]
fn twenty_fetches_in_waves_cost_the_origin_two_copies() {
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
        for mut fetch in fetches {
            fetch.end().ok();
        }
    }
    for n in 0..WAVES * WAVE {
        world.assert_same("file", &format!("out{n}"));
    }
    assert_eq!(world.background().len(), WAVES * WAVE);
    let copies = number(&seed.stop(), "sent") as f64 / (60 * MIB) as f64;
    eprintln!("{} fetches in waves of {WAVE}: the origin sent {copies:.2} copies", WAVES * WAVE);
    world.end_background();
    assert!(copies <= 2.0, "the origin sent {copies:.2} copies");
}
