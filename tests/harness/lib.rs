//! A deterministic simulator of whole swarms, for tests and measurements.
//!
//! Real [`Swarm`](shoal_peer::swarm::Swarm)s run on model hosts: uplinks and downlinks with rates, connections with send
//! buffers, latency, disks that take time to hash and commit, a tracker, and faults. Everything follows from one seed;
//! [`Report::trace`] is a hash over all that happened, so two runs can be compared. Payload is modelled as one flag a
//! block, good or bad, and a piece verifies only if all its blocks are good.
//!
//! [`world`] builds and runs, [`queue`] says what is due, [`link`] moves bytes, [`host`] is what one machine does with its swarm's outputs,
//! [`faults`] says what goes wrong and when, [`report`] is what came of it.

pub mod evil;
pub mod faults;
pub mod fuzz;
pub mod host;
pub mod link;
pub mod loopback;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod open_tracker;
pub mod queue;
pub mod report;
pub mod world;

pub use faults::{Fault, When};
pub use report::Report;
pub use world::World;

/// Bytes per second of a rate in Mbit/s.
#[must_use]
pub fn mbit(rate: f64) -> f64 {
    rate * 1e6 / 8.0
}
