//! The same worlds in the simulator, so that both can be seen side by side: a model whose figures aren't those of real
//! programs on real queues would be of no use for swarms that no machine can run.

use crate::worlds::{World, payload};
use harness::{Fault, When};

/// What control frames wait for behind payload under load, in milliseconds, as measured on lines of 40 Mbit/s.
const CONTROL_MS: f64 = 50.0;
/// One way between two namespaces of a machine, in milliseconds.
const LATENCY_MS: f64 = 0.1;

/// The time over the bound of each figure of a world, in the order of its bounds; `None` where the simulator has no model
/// of what goes wrong there.
pub(crate) fn ratios(world: &World) -> Option<Vec<f64>> {
    if world.loss > 0 {
        return None;
    }
    let piece = shoal_protocol::geometry::auto_piece_size(world.size);
    let mut model = harness::World::new(1)
        .pieces(u32::try_from(world.size / u64::from(piece)).ok()?)
        .piece_size(piece)
        .latency_ms(LATENCY_MS)
        .control_delay_ms(CONTROL_MS)
        .max_peers(50);
    let early = world.peers.len() - world.late;
    let near = early - world.behind.map_or(0, |(count, _)| count);
    let label = |label| if world.labels { label } else { "" };
    if world.behind.is_some() {
        model = model.zone(label("near"), None);
    }
    model = model.origin(payload(world.origin.up), payload(world.origin.down));
    for line in &world.peers[..near] {
        model = model.fetchers(1, payload(line.up), payload(line.down));
    }
    if let Some((_, thin)) = world.behind {
        model = model.zone(label("far"), Some(payload(thin)));
    }
    for line in &world.peers[near..early] {
        model = model.fetchers(1, payload(line.up), payload(line.down));
    }
    for (n, line) in world.peers[early..].iter().enumerate() {
        model = model.joiners(1, payload(line.up), payload(line.down));
        model = model.fault(When::Progress(1, 0.5), early + 1 + n, Fault::Join);
    }
    let report = model.run();
    let seconds = |host: usize| report.finished[host].map_or(f64::NAN, |at| at.0 as f64 / 1e6);
    let figures = world.bounds().into_iter().map(|bound| {
        let last = bound.hosts.iter().map(|host| seconds(*host)).fold(0.0, f64::max);
        last / if world.late > 0 { report.join_bound } else { bound.seconds }
    });
    Some(figures.collect())
}
