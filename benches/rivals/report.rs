//! What is printed: the conditions, each run, and one table.

use crate::systems::System;
use crate::{Args, control};
use benches::Machine;
use serde_json::json;
use std::collections::BTreeMap;

/// A time and what it is measured by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) of: &'static str,
    pub(crate) seconds: f64,
    pub(crate) bound: f64,
}

/// What one transfer came to.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) world: &'static str,
    pub(crate) goal: f64,
    pub(crate) system: &'static str,
    pub(crate) round: u32,
    pub(crate) figures: Vec<Figure>,
    /// When the first one was done.
    pub(crate) first: f64,
    /// What the origin's line carried, without headers, in copies.
    pub(crate) origin_copies: f64,
    /// What crossed the thin link, likewise.
    pub(crate) crossed: Option<f64>,
    /// Payload received for nothing, by what was needed.
    pub(crate) wasted: Option<f64>,
    /// What the origin sent again while some piece wasn't out, in copies.
    pub(crate) repeated: Option<f64>,
}

/// Says what the figures hold for.
pub(crate) fn conditions(args: &Args, systems: &[Box<dyn System>]) {
    let machine = Machine::here();
    let versions: Vec<String> = systems.iter().map(|system| system.version()).collect();
    if args.json {
        let record = json!({
            "v": 1, "type": "conditions", "processor": machine.processor, "cores": machine.cores,
            "kernel": machine.kernel, "commit": machine.commit, "congestion_control": control(args), "systems": versions, "rounds": args.rounds,
        });
        println!("{record}");
    }
    let Machine { processor, cores, kernel, commit } = &machine;
    eprintln!("machine: {processor}, {cores} cores, Linux {kernel}; commit {commit}");
    eprintln!(
        "network: namespaces, tbf; TCP congestion control {} (Shoal chooses its own on short paths)",
        control(args)
    );
    eprintln!("systems: {}\n", versions.join(", "));
}

/// Says what doesn't take part, and why.
pub(crate) fn skipped(args: &Args, reason: &str) {
    if args.json {
        println!("{}", json!({"v": 1, "type": "skipped", "reason": reason}));
    }
    eprintln!("skipped: {reason}");
}

/// Says what one run did.
pub(crate) fn run(args: &Args, run: &Run) {
    for figure in &run.figures {
        let Figure { of, seconds, bound } = *figure;
        if args.json {
            let record = json!({
                "v": 1, "type": "run", "world": run.world, "system": run.system, "round": run.round, "of": of,
                "seconds": seconds, "bound_s": bound, "ratio": seconds / bound, "goal": run.goal, "first_s": run.first,
                "origin_copies": run.origin_copies, "crossed_copies": run.crossed, "wasted": run.wasted,
                "repeated_copies": run.repeated,
            });
            println!("{record}");
        }
        eprintln!(
            "{:<12} {:<11} round {} {of:<9} {seconds:>7.2} s, bound {bound:>6.2} s, ratio {:.3}; origin {:.2} copies",
            run.world,
            run.system,
            run.round,
            seconds / bound,
            run.origin_copies
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// Says in one table what all runs come to.
pub(crate) fn summary(args: &Args, runs: &[Run], models: &BTreeMap<&str, Vec<f64>>) {
    let mut table = String::from(
        "\n| world | system | whose | seconds | bound | ratio (least - most) | simulated | goal \
         | origin sent | twice early | crossed | wasted |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for run in runs {
        if !keys.contains(&(run.world, run.system)) {
            keys.push((run.world, run.system));
        }
    }
    for (world, system) in keys {
        let own: Vec<&Run> = runs.iter().filter(|run| (run.world, run.system) == (world, system)).collect();
        for (n, figure) in own[0].figures.iter().enumerate() {
            let of = |value: fn(&Figure) -> f64| own.iter().map(move |run| value(&run.figures[n]));
            let ratio = |figure: &Figure| figure.seconds / figure.bound;
            let number = |value: Option<f64>, unit: &str, scale: f64| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{:.2}{unit}", value * scale))
            };
            let model = models.get(world).filter(|_| system == "shoal").and_then(|ratios| ratios.get(n));
            let line = format!(
                "| {world} | {system} | {} | {:.2} | {:.2} | {:.3} ({:.3} - {:.3}) | {} | {:.2} | {} | {} | {} | {} |\n",
                figure.of,
                median(of(|figure| figure.seconds)).unwrap_or(f64::NAN),
                median(of(|figure| figure.bound)).unwrap_or(f64::NAN),
                median(of(ratio)).unwrap_or(f64::NAN),
                of(ratio).fold(f64::INFINITY, f64::min),
                of(ratio).fold(0.0, f64::max),
                model.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
                own[0].goal,
                number(median(own.iter().map(|run| run.origin_copies)), "", 1.0),
                number(median(own.iter().filter_map(|run| run.repeated)), " %", 100.0),
                number(median(own.iter().filter_map(|run| run.crossed)), "", 1.0),
                number(median(own.iter().filter_map(|run| run.wasted)), " %", 100.0),
            );
            table.push_str(&line);
        }
    }
    if args.json {
        eprint!("{table}");
    } else {
        print!("{table}");
    }
}
