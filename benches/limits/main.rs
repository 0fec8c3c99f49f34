//! How close Shoal comes to the limits of one machine, a row for each limit: what was measured, beside what, and the goal.
//!
//! `cargo run --release -p benches --bin limits -- --help`; the method is described in `benches/README.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what measurements are for")]

mod announces;
mod complete;
mod create;
mod memory;
mod pair;
mod registry;
mod restart;
mod row;
mod schedule;
mod shoal;
mod tree;

use benches::cost::CongestionControl;
use benches::{Machine, Result};
use clap::Parser;
use row::Row;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures each limit in alternated rounds and prints a table.
#[derive(Debug, Parser)]
#[command(name = "limits", max_term_width = 120)]
struct Args {
    /// The groups of rows to measure; all if none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(GROUPS.map(|group| group.0)))]
    groups: Vec<String>,
    /// Rounds that count
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Where sources and copies lie; memory is meant, so that the disk isn't what is measured
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Set the system's TCP congestion control for the time of the measurement, e.g. cubic (needs root)
    #[arg(long)]
    cc: Option<String>,
    /// JSON Lines on stdout instead of the table
    #[arg(long)]
    json: bool,
    /// Compare with the JSON Lines of an earlier run, and fail when a row became worse by more than its spread
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// What a group needs to know.
struct Bench {
    peer: PathBuf,
    dir: PathBuf,
    rounds: u32,
}

type Group = fn(&Bench) -> Result<Vec<Row>>;

const GROUPS: [(&str, Group); 8] = [
    ("pair", pair::measure),
    ("create", create::measure),
    ("restart", restart::measure),
    ("tree", tree::measure),
    ("complete", complete::measure),
    ("memory", memory::measure),
    ("announces", announces::measure),
    ("registry", registry::measure),
];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let before = args.check.as_deref().map(row::read).transpose()?;
    let dir = tempfile::Builder::new().prefix("shoal-limits-").tempdir_in(&args.dir);
    let dir = dir.map_err(|error| format!("can't write in {}: {error}", args.dir.display()))?;
    let peer = benches::program("peer", "shoal-peer")?;
    let _control = args.cc.as_deref().map(CongestionControl::set).transpose()?;
    let machine = Machine::here();
    eprintln!(
        "machine: {}, {} cores, Linux {}; commit {}; congestion control {}; files in {}",
        machine.processor,
        machine.cores,
        machine.kernel,
        machine.commit,
        CongestionControl::now(),
        args.dir.display()
    );
    if !args.json {
        row::print_head();
    }
    let mut good = true;
    for (name, measure) in GROUPS {
        if !args.groups.is_empty() && !args.groups.iter().any(|wanted| wanted == name) {
            continue;
        }
        // What one group leaves behind is no burden for the next.
        let home = dir.path().join(name);
        std::fs::create_dir(&home).map_err(|error| error.to_string())?;
        let bench = Bench { peer: peer.clone(), dir: home.clone(), rounds: args.rounds };
        match measure(&bench) {
            Ok(rows) => {
                for row in rows {
                    row.print(args.json);
                    good &= before.as_ref().is_none_or(|before| row.is_no_worse(before));
                }
            }
            Err(message) => eprintln!("{name}: {message}"),
        }
        std::fs::remove_dir_all(&home).map_err(|error| error.to_string())?;
    }
    Ok(good)
}
