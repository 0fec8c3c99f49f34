//! One seed to one fetch and to four, over loopback, beside nginx and curl and beside the floor: the `transfer` program's
//! runs, compared round by round.

use crate::Bench;
use crate::row::{Goal, Row};
use benches::{Result, program};
use serde_json::Value;
use std::process::{Command, Stdio};

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let one = runs(bench, "2GiB", 1)?;
    let wall = |run: &Value| run["elapsed_s"].as_f64();
    let cpu = |run: &Value| run["cpu_s_per_gib"].as_f64();
    let mut rows = Vec::new();
    for (name, beside, goal) in [
        ("one fetch, seconds beside nginx and curl", "nginx, curl", 0.9),
        ("one fetch, seconds beside nginx, curl, b3sum", "nginx, curl, b3sum", 0.7),
        ("one fetch, seconds beside the floor", "floor", 1.1),
    ] {
        rows.extend(Row::new(name, "times", Goal::AtMost(goal), ratios(&one, beside, wall)));
    }
    let of_one = ratios(&one, "floor", cpu);
    rows.push(Row::new("one fetch, CPU per GiB beside the floor", "times", Goal::AtMost(1.1), of_one)?);
    let four = runs(bench, "1GiB", 4)?;
    let of_four = ratios(&four, "floor", cpu);
    rows.push(Row::new("four fetches at once, CPU per GiB beside the floor", "times", Goal::AtMost(1.1), of_four)?);
    Ok(rows)
}

/// Each round's figure of Shoal by that of another system in the same round.
fn ratios(runs: &[Value], beside: &str, figure: impl Fn(&Value) -> Option<f64>) -> Vec<f64> {
    let of = |system: &str, round: &Value| {
        let run = runs.iter().find(|run| run["system"] == system && run["round"] == *round)?;
        figure(run)
    };
    let rounds = runs.iter().filter(|run| run["system"] == "shoal").map(|run| &run["round"]);
    rounds.filter_map(|round| Some(of("shoal", round)? / of(beside, round)?)).collect()
}

fn runs(bench: &Bench, size: &str, fetchers: u32) -> Result<Vec<Value>> {
    let mut command = Command::new(program("transfer", "benches")?);
    command.arg("--json").arg("--dir").arg(&bench.dir).arg("--peer").arg(&bench.peer).args(["--size", size]);
    command.args(["--fetchers", &fetchers.to_string(), "--rounds", &bench.rounds.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("transfer: {error}"))?;
    if !output.status.success() {
        return Err("the transfers failed".to_owned());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let records: serde_json::Result<Vec<Value>> = said.lines().map(serde_json::from_str).collect();
    let records = records.map_err(|error| error.to_string())?;
    Ok(records.into_iter().filter(|record| record["type"] == "run" && record["counts"] == true).collect())
}
