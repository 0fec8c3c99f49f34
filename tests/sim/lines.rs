//! Cables that are pulled and put back, for all at once or for one after the other (F14): nobody has to start again, and
//! what it costs beyond the time without a cable is little. `SHOAL_PIECES` is how many MiB travel.

use crate::{down, must_complete, up};
use harness::{Fault, When, World};
use shoal_peer::swarm::Time;
use shoal_protocol::prng::Prng;

/// All hosts, the origin among them.
const HOSTS: usize = 20;
const S: u64 = 1_000_000;

fn pieces() -> u32 {
    std::env::var("SHOAL_PIECES").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

/// Longer than any of these takes.
fn long_s() -> u64 {
    u64::from(pieces()) * 3
}

fn world(seed: u64) -> World {
    let world = World::new(seed).pieces(pieces()).piece_size(1 << 20).until_s(long_s() as f64);
    world.origin(up(), down()).fetchers(HOSTS - 1, up(), down())
}

/// When each host's cable is out: (from, to) in microseconds.
type Cuts = Vec<Vec<(u64, u64)>>;

fn with(mut world: World, cuts: &Cuts) -> World {
    for (host, cuts) in cuts.iter().enumerate() {
        for (from, to) in cuts {
            world = world.fault(When::At(Time(*from)), host, Fault::Unplug);
            world = world.fault(When::At(Time(*to)), host, Fault::Plug);
        }
    }
    world
}

/// The part of the time until `end` that these hosts' cables were in.
fn up_part(cuts: &[Vec<(u64, u64)>], end_s: f64) -> f64 {
    let end = (end_s * S as f64) as u64;
    let out: u64 = cuts.iter().flatten().map(|(from, to)| to.min(&end).saturating_sub(*from.min(&end))).sum();
    1.0 - out as f64 / (end * cuts.len() as u64) as f64
}

/// The time with cables until the last is complete, over what it takes when none is pulled. A copy has to leave the origin,
/// so it is the origin's time that counts, or the mean of all where that is less.
#[expect(clippy::print_stdout, reason = "the figure")]
fn cost(seed: u64, cuts: &Cuts) -> f64 {
    let healthy = world(seed).run();
    must_complete(&healthy);
    let report = with(world(seed), cuts).run();
    must_complete(&report);
    let (origin, all) = (up_part(&cuts[..1], report.last()), up_part(cuts, report.last()));
    let cost = report.last() * origin.min(all) / healthy.last();
    println!(
        "{:.1} s, with the origin's cable {origin:.2} of it, all {all:.2}; healthy {:.1} s: {cost:.2}",
        report.last(),
        healthy.last()
    );
    cost
}

#[test]
fn five_seconds_on_and_five_off_for_all_at_once_cost_little_more_than_the_time_off() {
    for seed in 0..2 {
        let each: Vec<_> = (0..long_s() / 10).map(|n| ((10 * n + 5) * S, (10 * n + 10) * S)).collect();
        let cost = cost(seed, &vec![each; HOSTS]);
        assert!(cost <= 1.3, "{cost}");
    }
}

#[test]
fn a_swizzled_swarm_completes_in_little_more_than_its_time_with_cables() {
    for seed in 0..3 {
        let mut rng = Prng::new(seed ^ 0x0051_1221);
        let mut cuts: Cuts = vec![Vec::new(); HOSTS];
        let mut now = S;
        while now < long_s() * S {
            // Some of the hosts, one after the other; after a while they come back in another order.
            let mut chosen: Vec<usize> = (0..HOSTS).collect();
            rng.shuffle(&mut chosen);
            chosen.truncate(2 + rng.below(HOSTS / 2));
            let mut pause = |longest: u64| rng.below((longest * S) as usize) as u64;
            let mut from = Vec::new();
            for _ in &chosen {
                now += pause(1);
                from.push(now);
            }
            now += pause(8);
            let mut back: Vec<(usize, u64)> = chosen.into_iter().zip(from).collect();
            rng.shuffle(&mut back);
            for (host, from) in back {
                now += rng.below(S as usize) as u64 + 1;
                cuts[host].push((from, now));
            }
            now += rng.below(3 * S as usize) as u64;
        }
        let cost = cost(seed, &cuts);
        // The goal is 1.3. Whoever is clogged near the end is waited for until it is back, up to a dozen seconds, which is
        // a third of this short world and little of a longer one.
        let times = f64::from(pieces()) / 150.0;
        assert!(cost <= 1.25 + 0.35 / times, "{cost}");
    }
}
