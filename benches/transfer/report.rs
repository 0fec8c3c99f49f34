//! What is printed: the conditions, each run, and what the runs come to.

use crate::Args;
use crate::rivals::version;
use benches::Machine;
use benches::cost::{CongestionControl, Cost};
use serde_json::json;
use std::path::Path;

/// One transfer by one system.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) system: &'static str,
    /// 0 is the one that doesn't count.
    pub(crate) round: u32,
    pub(crate) cost: Cost,
    /// All copies together.
    pub(crate) bytes: u64,
}

impl Run {
    fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.cost.elapsed_s
    }

    fn cpu_s_per_gib(&self) -> f64 {
        (self.cost.sender_cpu_s + self.cost.receiver_cpu_s) / (self.bytes as f64 / f64::from(1 << 30))
    }
}

/// The filesystem that a path lies on, with its options.
fn filesystem(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_default();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let on = fields.filter(|f| f.len() > 3 && path.starts_with(f[1])).max_by_key(|f| f[1].len());
    on.map_or_else(|| "unknown".to_owned(), |f| format!("{} ({})", f[2], f[3]))
}

/// Says what the figures hold for.
pub(crate) fn conditions(args: &Args, peer: &Path) {
    let machine = Machine::here();
    let control = CongestionControl::now();
    let commit = &machine.commit;
    let versions: Vec<String> = ["nginx", "curl", "b3sum"].into_iter().filter_map(version).collect();
    let shoal = version(&peer.to_string_lossy()).unwrap_or_default();
    let filesystem = filesystem(&args.dir);
    if args.json {
        let record = json!({
            "v": 1, "type": "conditions", "processor": machine.processor, "cores": machine.cores,
            "kernel": machine.kernel, "congestion_control": control, "filesystem": filesystem, "commit": commit,
            "shoal": shoal, "rivals": versions, "size": args.size, "fetchers": args.fetchers, "rounds": args.rounds,
        });
        return println!("{record}");
    }
    println!("machine: {}, {} cores, Linux {}", machine.processor, machine.cores, machine.kernel);
    println!("files:   {} on {filesystem}", args.dir.display());
    println!("network: loopback, TCP congestion control {control} (Shoal sets cubic on its own sockets)");
    println!("systems: {shoal} at {commit}; {}", if versions.is_empty() { "none".into() } else { versions.join(", ") });
    println!("work:    {} bytes to {} at once, {} rounds and one before\n", args.size, args.fetchers, args.rounds);
}

/// Says which rival doesn't take part, and why.
pub(crate) fn skipped(args: &Args, reason: &str) {
    if args.json {
        println!("{}", json!({"v": 1, "type": "skipped", "reason": reason}));
    } else {
        println!("skipped: {reason}");
    }
}

/// Says what one run did.
pub(crate) fn run(args: &Args, run: &Run) {
    let cost = &run.cost;
    if args.json {
        let record = json!({
            "v": 1, "type": "run", "system": run.system, "round": run.round, "counts": run.round > 0,
            "bytes": run.bytes, "elapsed_s": cost.elapsed_s, "exit_s": cost.exit_s, "sender_cpu_s": cost.sender_cpu_s,
            "receiver_cpu_s": cost.receiver_cpu_s, "mb_per_s": run.mb_per_s(), "cpu_s_per_gib": run.cpu_s_per_gib(),
        });
        return println!("{record}");
    }
    let round = if run.round == 0 { "before ".to_owned() } else { format!("round {}", run.round) };
    println!(
        "{round:<9} {:<20} {:>6.2} s (ended {:>5.2} s) {:>6.0} MB/s   CPU {:>5.2} s sending, {:>5.2} s receiving",
        run.system,
        cost.elapsed_s,
        cost.exit_s,
        run.mb_per_s(),
        cost.sender_cpu_s,
        cost.receiver_cpu_s
    );
}

/// Least, middle and most.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
    [values[0], median, values[values.len() - 1]]
}

/// Says what each system's runs come to, and its time beside ours in the same round.
pub(crate) fn summary(args: &Args, runs: &[Run]) {
    let mut systems: Vec<&str> = Vec::new();
    for run in runs {
        if !systems.contains(&run.system) {
            systems.push(run.system);
        }
    }
    if !args.json {
        println!("\n| system | seconds | until all ended | MB/s | CPU-s per GiB | time, Shoal = 1 |");
        println!("|---|---|---|---|---|---|");
    }
    for system in systems {
        let own: Vec<&Run> = runs.iter().filter(|run| run.system == system).collect();
        let shoal = |round| runs.iter().find(|run| run.round == round).map_or(f64::NAN, |run| run.cost.elapsed_s);
        let figure = |of: &dyn Fn(&Run) -> f64| spread(own.iter().map(|run| of(run)).collect());
        let seconds = figure(&|run| run.cost.elapsed_s);
        let ended = figure(&|run| run.cost.exit_s);
        let rate = figure(&Run::mb_per_s);
        let cpu = figure(&Run::cpu_s_per_gib);
        let ratio = figure(&|run| run.cost.elapsed_s / shoal(run.round));
        if args.json {
            let record = json!({
                "v": 1, "type": "summary", "system": system, "rounds": own.len(), "elapsed_s": seconds, "exit_s": ended,
                "mb_per_s": rate, "cpu_s_per_gib": cpu, "time_by_shoal": ratio,
            });
            println!("{record}");
            continue;
        }
        let cell = |[least, median, most]: [f64; 3], digits: usize| {
            format!("{median:.digits$} ({least:.digits$} - {most:.digits$})")
        };
        println!(
            "| {system} | {} | {} | {} | {} | {} |",
            cell(seconds, 2),
            cell(ended, 2),
            cell(rate, 0),
            cell(cpu, 2),
            cell(ratio, 2)
        );
    }
    if !args.json {
        println!("\nEach figure: the median of {} rounds (least - most).", args.rounds);
    }
}
