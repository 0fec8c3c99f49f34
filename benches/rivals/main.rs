//! Whole swarms in network namespaces, Shoal beside its rivals, measured by the time that nothing can beat.
//!
//! `cargo run --release -p benches --bin rivals -- --help`; the method is described in `benches/README.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what measurements are for")]

mod report;
mod simulated;
mod systems;
mod worlds;

use clap::Parser;
use harness::netns::{self, Family, Net, PAYLOAD, Process, Result};
use report::{Figure, Run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use systems::{Progress, Scene, System};
use worlds::{Bound, World, payload};

/// What takes longer from the origin alone is computed, in seconds.
const COMPUTED: f64 = 60.0;

/// Times swarms on shaped lines in network namespaces of this machine (needs root), in alternated rounds.
#[derive(Debug, Parser)]
#[command(name = "rivals", max_term_width = 120)]
struct Args {
    /// Which worlds, by name [default: all]
    #[arg(long, value_delimiter = ',')]
    worlds: Vec<String>,
    /// Which systems: shoal, http, aria2, libtorrent, rqbit
    #[arg(long, value_delimiter = ',', default_value = "shoal,http,aria2,libtorrent,rqbit")]
    systems: Vec<String>,
    /// How often each runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Another size of the content, e.g. 32MiB [default: the world's]
    #[arg(long, value_parser = shoal_protocol::units::parse_size)]
    size: Option<u64>,
    /// The hosts' TCP congestion control, e.g. cubic [default: the machine's]
    #[arg(long)]
    cc: Option<String>,
    /// The peer binary [default: built by cargo, or beside this program]
    #[arg(long)]
    peer: Option<PathBuf>,
    /// A system that needs longer than so many times the bound is given up
    #[arg(long, default_value_t = 12.0)]
    patience: f64,
    /// Where content and copies lie; memory is meant, so that the disk isn't what is measured
    #[arg(long, default_value_os_t = netns::memory())]
    dir: PathBuf,
    /// JSON Lines on stdout; the table goes to stderr
    #[arg(long)]
    json: bool,
    /// Say which worlds there are, and their bounds
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    benches::ended(measure(&Args::parse()))
}

fn measure(args: &Args) -> Result<()> {
    let worlds = chosen(args)?;
    if args.list {
        for world in &worlds {
            let bounds: Vec<String> = world.bounds().iter().map(|b| format!("{} {:.2} s", b.of, b.seconds)).collect();
            println!("{:<12} {} ({})", world.name, world.about, bounds.join(", "));
        }
        return Ok(());
    }
    if let Some(reason) = netns::lacking(&["nft", "sysctl"]) {
        println!("skipped: {reason}");
        return Ok(());
    }
    let systems = installed(args)?;
    report::conditions(args, &systems);
    let mut runs = Vec::new();
    for world in &worlds {
        for round in 1..=args.rounds {
            for system in &systems {
                if world.late > 0 && system.name() != "shoal" {
                    continue;
                }
                let run = match computed(world, system.as_ref(), round) {
                    // It would be the same in each round.
                    Some(_) if round > 1 => continue,
                    Some(run) => Ok(run),
                    None => transfer(args, world, system.as_ref(), round),
                };
                match run {
                    Ok(run) => {
                        report::run(args, &run);
                        runs.push(run);
                    }
                    // What Shoal can't do is an error, what a rival can't is a finding.
                    Err(error) if system.name() == "shoal" => return Err(format!("shoal in {}: {error}", world.name)),
                    Err(error) => report::skipped(args, &format!("{} in {}: {error}", system.name(), world.name)),
                }
            }
        }
        for system in &systems {
            if world.late > 0 && system.name() != "shoal" {
                report::skipped(args, &format!("{} in {}: it doesn't tell its progress", system.name(), world.name));
            }
        }
    }
    let models: BTreeMap<&str, Vec<f64>> =
        worlds.iter().filter_map(|world| Some((world.name, simulated::ratios(world)?))).collect();
    report::summary(args, &runs, &models);
    Ok(())
}

fn chosen(args: &Args) -> Result<Vec<World>> {
    let mut all = worlds::all();
    if let Some(name) = args.worlds.iter().find(|name| all.iter().all(|world| world.name != **name)) {
        return Err(format!("there is no world {name:?}; --list names them"));
    }
    all.retain(|world| args.worlds.is_empty() || args.worlds.iter().any(|name| name == world.name));
    for world in &mut all {
        world.size = args.size.unwrap_or(world.size);
    }
    Ok(all)
}

fn installed(args: &Args) -> Result<Vec<Box<dyn System>>> {
    let mut out: Vec<Box<dyn System>> = Vec::new();
    for name in &args.systems {
        let found: Option<Box<dyn System>> = match name.as_str() {
            "shoal" => {
                let program = args
                    .peer
                    .as_ref()
                    .map_or_else(netns::peer, |path| std::path::absolute(path).map_err(|error| error.to_string()))?;
                Some(Box::new(systems::Shoal(program)))
            }
            "http" => systems::Http::find().map(|system| Box::new(system) as _),
            "aria2" => systems::Aria2::find().map(|system| Box::new(system) as _),
            "rqbit" => systems::Rqbit::find().map(|system| Box::new(system) as _),
            "libtorrent" => systems::Libtorrent::find().map(|system| Box::new(system) as _),
            other => return Err(format!("there is no system {other:?}")),
        };
        match found {
            Some(system) => out.push(system),
            None => report::skipped(args, &format!("{name}: not installed")),
        }
    }
    Ok(out)
}

/// What a system takes that gets everything from the origin, where waiting for it would be a waste: its copies pass the
/// origin's line, and those for hosts behind a thin link pass that, too.
fn computed(world: &World, system: &dyn System, round: u32) -> Option<Run> {
    let (size, count) = (world.size as f64, world.peers.len());
    let mut seconds = count as f64 * size / payload(world.origin.up);
    if let Some((far, thin)) = world.behind {
        seconds = seconds.max(far as f64 * size / payload(thin));
    }
    if system.shares() || seconds < COMPUTED {
        return None;
    }
    let figures = world.bounds().into_iter().map(|bound| Figure { of: bound.of, seconds, bound: bound.seconds });
    Some(Run {
        world: world.name,
        goal: world.goal,
        system: "http (computed)",
        round,
        figures: figures.collect(),
        first: seconds,
        origin_copies: count as f64,
        crossed: world.behind.map(|(far, _)| far as f64),
        wasted: None,
        repeated: None,
    })
}

/// One transfer by one system in one world, on a net of its own.
fn transfer(args: &Args, world: &World, system: &dyn System, round: u32) -> Result<Run> {
    let dir = tempfile::Builder::new().prefix("shoal-rivals-").tempdir_in(&args.dir);
    let dir = dir.map_err(|error| format!("can't write in {}: {error}", args.dir.display()))?;
    let source = dir.path().join("source");
    let content = source.join("content");
    std::fs::create_dir(&source).map_err(|error| error.to_string())?;
    netns::write_content(&content, round.into(), world.size).map_err(|error| error.to_string())?;
    let net = build(args, world)?;
    let far = net.hosts() - world.behind.map_or(0, |(count, _)| count);
    let scene = Scene { net: &net, dir: dir.path(), content: &content, far, labels: world.labels };
    let (_served, link) = system.serve(&scene)?;
    let before = (net.sent(0)?, if world.behind.is_some() { net.crossed(1)? } else { 0 });
    let (seconds, joined) = watch(args, world, system, &scene, &link)?;
    let copies = |bytes: u64| bytes as f64 * PAYLOAD / world.size as f64;
    let origin_copies = copies(net.sent(0)? - before.0);
    let crossed = world.behind.map(|_| net.crossed(1)).transpose()?.map(|bytes| copies(bytes - before.1));
    for host in 1..net.hosts() {
        if !netns::same(&content, &system.copy(&scene, host)).map_err(|error| error.to_string())? {
            return Err(format!("host {host} has other bytes"));
        }
    }
    let all = (world.size * world.peers.len() as u64) as f64;
    let figures = joined.map_or_else(|| world.bounds(), |bound| vec![bound]).into_iter().map(|bound| Figure {
        of: bound.of,
        seconds: bound.hosts.iter().map(|host| seconds[host - 1]).fold(0.0, f64::max),
        bound: bound.seconds,
    });
    Ok(Run {
        world: world.name,
        goal: world.goal,
        system: system.name(),
        round,
        figures: figures.collect(),
        first: seconds.iter().copied().fold(f64::INFINITY, f64::min),
        origin_copies,
        crossed,
        wasted: system.received(&scene).map(|bytes| bytes as f64 / all - 1.0),
        repeated: system.repeated(&scene).map(|bytes| bytes as f64 / world.size as f64),
    })
}

fn build(args: &Args, world: &World) -> Result<Net> {
    let mut lines = vec![world.origin];
    lines.extend(&world.peers);
    let net = match world.behind {
        Some((count, thin)) => {
            let (near, far) = lines.split_at(lines.len() - count);
            Net::zones(&[near, far], thin, Family::V4)?
        }
        None => Net::star(&lines, Family::V4)?,
    };
    if world.loss > 0 {
        (0..net.hosts()).try_for_each(|host| net.lose(host, world.loss))?;
    }
    if let Some(name) = &args.cc {
        net.control(name)?;
    }
    Ok(net)
}

/// Starts all fetches and waits until they are done: each one's seconds from the start of the first, and for those who
/// joined late the bound that followed from what was there then.
fn watch(
    args: &Args,
    world: &World,
    system: &dyn System,
    scene: &Scene<'_>,
    link: &str,
) -> Result<(Vec<f64>, Option<Bound>)> {
    let count = world.peers.len();
    let patience = args.patience * world.bounds().iter().map(|bound| bound.seconds).fold(5.0, f64::max);
    let start = Instant::now();
    let mut fetches: Vec<Process> =
        (1..=count - world.late).map(|host| system.fetch(scene, host, link)).collect::<Result<_>>()?;
    let mut seconds = vec![f64::NAN; count];
    let mut seen: Vec<Option<(Progress, Instant)>> = vec![None; count + 1];
    let (mut joined, mut asked) = (None, start);
    while seconds.iter().any(|seconds| seconds.is_nan()) {
        for host in 1..=fetches.len() {
            let ended = seconds[host - 1].is_nan() && fetches[host - 1].ended();
            if seconds[host - 1].is_nan() && system.marker(scene, host).exists() {
                seconds[host - 1] = start.elapsed().as_secs_f64();
            } else if ended {
                return Err(format!("host {host} ended before it had everything: {}", fetches[host - 1].status()));
            }
        }
        if fetches.len() < count && seconds[..fetches.len()].iter().all(|seconds| !seconds.is_nan()) {
            return Err("the early ones were done before the others joined".to_owned());
        }
        if start.elapsed().as_secs_f64() > patience {
            return Err(format!("not done after {patience:.0} s"));
        }
        if fetches.len() < count && asked.elapsed() > Duration::from_millis(50) {
            asked = Instant::now();
            if let Some((done, sent)) = half(world, system, scene, &mut seen) {
                joined = Some(bound_of_late(world, start.elapsed().as_secs_f64(), &done, sent));
                for host in fetches.len() + 1..=count {
                    fetches.push(system.fetch(scene, host, link)?);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    Ok((seconds, joined))
}

/// What the early ones have and what the origin has sent, once the early ones have half of it on average. What they
/// tell each second is carried on at the rate that they tell.
fn half(
    world: &World,
    system: &dyn System,
    scene: &Scene<'_>,
    seen: &mut [Option<(Progress, Instant)>],
) -> Option<(Vec<f64>, f64)> {
    let early = world.peers.len() - world.late;
    for (host, seen) in seen.iter_mut().enumerate().take(early + 1) {
        if let Some(progress) = system.progress(scene, host)
            && seen.is_none_or(|(last, _)| last != progress)
        {
            *seen = Some((progress, Instant::now()));
        }
    }
    let size = world.size as f64;
    let now = |seen: &Option<(Progress, Instant)>| {
        let (last, at) = (*seen)?;
        let age = at.elapsed().as_secs_f64();
        Some(((last.done + last.rate * age).min(size), last.sent + last.rate_up * age))
    };
    let done: Vec<f64> = seen[1..=early].iter().map(|seen| Some(now(seen)?.0)).collect::<Option<_>>()?;
    let sent = now(&seen[0])?.1;
    (done.iter().sum::<f64>() >= early as f64 * size / 2.0).then_some((done, sent))
}

fn bound_of_late(world: &World, t_join: f64, done: &[f64], sent: f64) -> Bound {
    let size = world.size as f64;
    let missing = |host: usize| size - done.get(host).copied().unwrap_or(0.0);
    let ups = payload(world.origin.up) + world.peers.iter().map(|line| payload(line.up)).sum::<f64>();
    let all = (0..world.peers.len()).map(missing).sum::<f64>() / ups;
    let own = world.peers.iter().enumerate().map(|(host, line)| missing(host) / payload(line.down));
    let rest = own.fold(all.max((size - sent).max(0.0) / payload(world.origin.up)), f64::max);
    Bound { of: "last", hosts: (1..=world.peers.len()).collect(), seconds: t_join + rest }
}

/// The congestion control that programs on the hosts get if they don't choose.
fn control(args: &Args) -> String {
    let path = Path::new("/proc/sys/net/ipv4/tcp_congestion_control");
    let system = || std::fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    args.cc.clone().unwrap_or_else(system)
}
