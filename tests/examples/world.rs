//! Plays one world and prints what came of it: `cargo run -p harness --example world -- --fetchers 8 --up 40 --down 400`.
//!
//! Rates are in Mbit/s, times in seconds unless the name says otherwise:
//! - `--fetchers N --pieces P --piece-kib K --up U --down D`: who wants what, over which links;
//! - `--origins 1 --origin-up U --seeders 0`: who has it;
//! - `--latency-ms 1 --control-ms 50 --slice-kib 64 --max-peers 64`: the network's model;
//! - `--up-max V`: the fetchers' uplinks are spread evenly from `--up` to V;
//! - `--ups A,B,C`: one more fetcher for each of these uplinks;
//! - `--slow F --slow-factor 10`: this fraction of the fetchers has links so much slower;
//! - `--slow-down D1`: one more fetcher has this downlink;
//! - `--churn F --churn-for S`: this fraction of the fetchers dies each minute, for so long, and as many newcomers come;
//! - `--late N --late-at 0.5`: so many join when the first fetcher has this fraction;
//! - `--waves W`: fetchers come W at a time, each wave when the last has finished; `--leave-after S`;
//! - `--origin-dies`: as soon as each piece was verified by a survivor;
//! - `--far N --thin V`: so many more fetchers stand behind a link of V, and everybody says where it is; with `--subnets`
//!   nobody says it, and those of a place have a subnet in common;
//! - `--seed 1 --seeds 1`: the first seed, and how many worlds; `--quiet`: only the summary of all.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use harness::{Fault, When, World, mbit};
use shoal_peer::swarm::Time;
use shoal_protocol::prng::Prng;

struct Args(Vec<String>);

impl Args {
    fn number(&self, name: &str, default: f64) -> f64 {
        let at = self.0.iter().position(|a| a == name);
        at.and_then(|at| self.0.get(at + 1)).and_then(|v| v.parse().ok()).unwrap_or(default)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|a| a == name)
    }
}

fn build(args: &Args, seed: u64) -> World {
    let (up, down) = (args.number("--up", 40.0), args.number("--down", 400.0));
    let mut rng = Prng::new(seed ^ 0x5eed);
    let mut world = World::new(seed)
        .pieces(args.number("--pieces", 2048.0) as u32)
        .piece_size(args.number("--piece-kib", 64.0) as u32 * 1024)
        .latency_ms(args.number("--latency-ms", 1.0))
        .control_delay_ms(args.number("--control-ms", 50.0))
        .slice_kib(args.number("--slice-kib", 64.0) as u64)
        .max_peers(args.number("--max-peers", 64.0) as usize)
        .until_s(args.number("--until", 36_000.0));
    let far = args.number("--far", 0.0) as usize;
    let label = |label| if args.has("--subnets") { "" } else { label };
    if far > 0 {
        world = world.zone(label("near"), None);
    }
    let origins = args.number("--origins", 1.0) as usize;
    for _ in 0..origins {
        world = world.origin(mbit(args.number("--origin-up", up)), mbit(down));
    }
    let seeders = args.number("--seeders", 0.0) as usize;
    world = world.seeds(seeders, mbit(up), mbit(down));
    let fetchers = args.number("--fetchers", 8.0) as usize;
    let first = origins + seeders;
    let waves = args.number("--waves", 0.0) as usize;
    if waves > 0 {
        world = world.waves(fetchers, waves, mbit(up), mbit(down));
    } else {
        let up_max = args.number("--up-max", up);
        let slow = (fetchers as f64 * args.number("--slow", 0.0)) as usize;
        let factor = args.number("--slow-factor", 10.0);
        for n in 0..fetchers {
            let rate = up + (up_max - up) * n as f64 / (fetchers.max(2) - 1) as f64;
            let by = if n < slow { factor } else { 1.0 };
            world = world.fetchers(1, mbit(rate / by), mbit(down / by));
        }
    }
    let mut hosts = first + fetchers;
    let ups = args.0.iter().position(|a| a == "--ups").and_then(|at| args.0.get(at + 1));
    for rate in ups.iter().flat_map(|list| list.split(',')).filter_map(|rate| rate.parse().ok()) {
        world = world.fetchers(1, mbit(rate), mbit(down));
        hosts += 1;
    }
    if args.has("--slow-down") {
        world = world.fetchers(1, mbit(up), mbit(args.number("--slow-down", 20.0)));
        hosts += 1;
    }
    if far > 0 {
        world = world.zone(label("far"), Some(mbit(args.number("--thin", 20.0)))).fetchers(far, mbit(up), mbit(down));
        hosts += far;
    }
    let leaves = args.number("--leave-after", f64::INFINITY);
    if leaves.is_finite() {
        world = world.leaving_after_s(leaves);
    }
    let late = args.number("--late", 0.0) as usize;
    world = world.joiners(late, mbit(up), mbit(down));
    for n in 0..late {
        world = world.fault(When::Progress(first, args.number("--late-at", 0.5)), hosts + n, Fault::Join);
    }
    hosts += late;
    // Who dies is drawn among the fetchers; newcomers come at other moments of the same time and stay.
    let span = args.number("--churn-for", 180.0);
    let deaths = (fetchers as f64 * args.number("--churn", 0.0) * span / 60.0) as usize;
    let mut victims: Vec<usize> = (first..first + fetchers).collect();
    rng.shuffle(&mut victims);
    for victim in victims.into_iter().take(deaths) {
        let at = rng.below((span * 1e6) as usize) as u64;
        world = world.fault(When::At(Time(at)), victim, Fault::Kill);
    }
    if deaths > 0 {
        world = world.joiners(deaths, mbit(up), mbit(down));
    }
    for n in 0..deaths {
        let at = rng.below((span * 1e6) as usize) as u64;
        world = world.fault(When::At(Time(at)), hosts + n, Fault::Join).optional(hosts + n);
    }
    if args.has("--origin-dies") {
        world = world.fault(When::AllOut, 0, Fault::Kill);
    }
    world
}

/// Seconds that this thread has computed, where the system counts them, as other work on the machine is not what a world
/// costs; elsewhere seconds since some moment.
fn cpu_s() -> f64 {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let counted = std::fs::read_to_string("/proc/self/schedstat").ok();
    let ns: Option<f64> = counted.and_then(|text| text.split(' ').next()?.parse().ok());
    ns.map_or_else(|| BEGAN.get_or_init(std::time::Instant::now).elapsed().as_secs_f64(), |ns| ns / 1e9)
}

fn main() {
    let args = Args(std::env::args().skip(1).collect());
    let (first, seeds) = (args.number("--seed", 1.0) as u64, args.number("--seeds", 1.0) as u64);
    let mut failed = Vec::new();
    let (mut ratios, mut copies, mut waste) = (Vec::new(), 0.0_f64, 0.0_f64);
    for seed in first..first + seeds {
        let began = cpu_s();
        let report = build(&args, seed).run();
        ratios.push(report.ratio());
        copies = copies.max(report.origin_copies);
        waste = waste.max(report.wasted);
        if !report.complete {
            failed.push(seed);
        }
        if !args.has("--quiet") || !report.complete {
            println!("{report}; {:.1} s of computing", cpu_s() - began);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{seeds} worlds: ratio median {:.3}, worst {:.3}; most origin copies {copies:.3}; most wasted {:.2} %; seeds of worlds \
         that did not complete: {failed:?}",
        ratios[ratios.len() / 2],
        ratios[ratios.len() - 1],
        waste * 100.0,
    );
}
