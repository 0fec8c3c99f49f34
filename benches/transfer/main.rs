//! Moves one file over loopback, from one seed to one or more fetchers, with Shoal's release binary and beside it with
//! what people use today: nginx and curl, with and without a check of the bytes.
//!
//! `cargo run --release -p benches --bin transfer -- --help`; the method is described in `benches/README.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what measurements are for")]

mod floor;
mod report;
mod rivals;
mod shoal;

use clap::Parser;
use report::Run;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use benches::{Result, cost};

/// Times a whole transfer over loopback, Shoal beside its rivals, in alternated rounds.
#[derive(Debug, Parser)]
#[command(name = "transfer", max_term_width = 120)]
struct Args {
    /// Size of the file, e.g. 1GiB
    #[arg(long, default_value = "1GiB", value_parser = shoal_protocol::units::parse_size)]
    size: u64,
    /// How many fetch at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    fetchers: u32,
    /// Rounds that count; one more comes before them and doesn't
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Where source and copies lie; memory is meant, so that the disk isn't what is measured
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Set the system's TCP congestion control for the time of the measurement, e.g. cubic (needs root)
    #[arg(long)]
    cc: Option<String>,
    /// The peer binary [default: built by cargo, or beside this program]
    #[arg(long)]
    peer: Option<PathBuf>,
    /// JSON Lines on stdout instead of the table
    #[arg(long)]
    json: bool,
}

/// The file that is moved.
struct Source {
    path: PathBuf,
    size: u64,
    root: blake3::Hash,
}

/// A way to move the file.
trait System {
    fn name(&self) -> &'static str;
    /// Moves the file once to each target, all at the same time; what it costs ends with the last one.
    fn run(&mut self, source: &Source, targets: &[PathBuf]) -> Result<cost::Cost>;
}

fn main() -> ExitCode {
    benches::ended(measure(&Args::parse()))
}

fn measure(args: &Args) -> Result<()> {
    let room = args.size.saturating_mul(u64::from(args.fetchers) + 1);
    let dir = tempfile::Builder::new().prefix("shoal-transfer-").tempdir_in(&args.dir);
    let dir = dir.map_err(|error| format!("can't write in {}: {error}", args.dir.display()))?;
    let free = rustix::fs::statvfs(dir.path()).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if free < room {
        return Err(format!("{} has {free} of the {room} bytes that source and copies need", args.dir.display()));
    }
    let peer = match &args.peer {
        Some(path) => std::path::absolute(path).map_err(|error| error.to_string())?,
        None => benches::program("peer", "shoal-peer")?,
    };
    let _control = args.cc.as_deref().map(cost::CongestionControl::set).transpose()?;
    report::conditions(args, &peer);
    let source = prepare(dir.path(), args)?;
    let mut systems: Vec<Box<dyn System>> = vec![Box::new(shoal::Shoal::start(&peer, &source, dir.path())?)];
    systems.push(Box::new(floor::Floor::find()?));
    for rival in [rivals::Http::start(&source, dir.path(), false), rivals::Http::start(&source, dir.path(), true)] {
        match rival? {
            Ok(rival) => systems.push(Box::new(rival)),
            Err(skipped) => report::skipped(args, &skipped),
        }
    }
    let targets: Vec<PathBuf> = (0..args.fetchers).map(|n| dir.path().join(format!("copy-{n}"))).collect();
    let mut runs = Vec::new();
    for round in 0..=args.rounds {
        for system in &mut systems {
            let cost = system.run(&source, &targets).map_err(|error| format!("{}: {error}", system.name()))?;
            check(&source, &targets).map_err(|error| format!("{}: {error}", system.name()))?;
            let run = Run { system: system.name(), round, cost, bytes: source.size * targets.len() as u64 };
            report::run(args, &run);
            // The first round finds cold caches and fresh memory.
            if round > 0 {
                runs.push(run);
            }
        }
    }
    report::summary(args, &runs);
    Ok(())
}

/// Writes the source. Before that, all the room that copies will need is written once and given back: the first touch
/// of a page may cost ten times a copy where the host of a virtual machine has to find it.
fn prepare(dir: &Path, args: &Args) -> Result<Source> {
    let path = dir.join("source");
    let mut root = blake3::Hash::from([0; 32]);
    for n in (0..=args.fetchers).rev() {
        let path = if n == 0 { path.clone() } else { dir.join(format!("warm-{n}")) };
        root = write(&path, args.size).map_err(|error| format!("can't write {}: {error}", path.display()))?;
    }
    for n in 1..=args.fetchers {
        fs::remove_file(dir.join(format!("warm-{n}"))).map_err(|error| error.to_string())?;
    }
    Ok(Source { path, size: args.size, root })
}

fn write(path: &Path, size: u64) -> std::io::Result<blake3::Hash> {
    let mut file = fs::File::create(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let now = left.min(buffer.len() as u64) as usize;
        benches::fill(left, &mut buffer[..now]);
        hasher.update(&buffer[..now]);
        file.write_all(&buffer[..now])?;
        left -= now as u64;
    }
    Ok(hasher.finalize())
}

/// A run whose bytes are wrong is no run. The copies are removed, so the next one starts from nothing.
fn check(source: &Source, targets: &[PathBuf]) -> Result<()> {
    for target in targets {
        let mut hasher = blake3::Hasher::new();
        let file = fs::File::open(target).map_err(|error| format!("no copy at {}: {error}", target.display()))?;
        hasher.update_reader(file).map_err(|error| format!("can't read {}: {error}", target.display()))?;
        if hasher.finalize() != source.root {
            return Err(format!("{} differs from the source", target.display()));
        }
        fs::remove_file(target).map_err(|error| format!("can't remove {}: {error}", target.display()))?;
    }
    Ok(())
}
