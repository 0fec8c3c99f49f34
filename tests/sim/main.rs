//! Whole swarms on the model network, each test named by the rule that it shows.
//!
//! A failing test prints the seed and the world. Worlds are issue-sized only where a number is claimed; all others are
//! small and look at every swarm's invariants after every event.

mod cancel;
mod churn;
mod eclipse;
mod hostile;
mod lines;
mod mob;
mod names;
mod proofs;
mod siege;
mod speed;
mod stalls;
mod starving;
mod zones;

use harness::{Report, World, mbit};

/// A small world whose every step is checked: 40/400 Mbit/s, 1 ms.
fn small(seed: u64) -> World {
    World::new(seed).pieces(48).checked().until_s(300.0)
}

/// Pieces of more than one block, so that a piece can come from several.
fn blocky(seed: u64) -> World {
    World::new(seed).pieces(24).piece_size(1 << 20).checked().until_s(600.0)
}

fn up() -> f64 {
    mbit(40.0)
}

fn down() -> f64 {
    mbit(400.0)
}

/// Everybody who could completed, and nobody honest was blamed for anything.
fn must_complete(report: &Report) {
    assert!(report.complete, "not everybody completed: {report}");
    assert_eq!(report.protocol_errors, 0, "somebody was taken for a breaker of the protocol: {report}");
}
