//! An evil client for use by hand against a tracker on this machine, with honest peers beside it whose answers are timed:
//!
//! ```sh
//! SHOAL_TEST_GLOBAL=127.32.0.0/11 tracker --listen 127.0.0.1:7070 --rate-limit 50/s
//! cargo run --release -p harness --example evil_client -- 127.0.0.1:7070 --mode flood --connections 80 --addresses 8
//! ```
//!
//! The attack comes from addresses of 127.32.0.0/16 up, the honest announces from 127.64.0.0/24: the tracker above takes
//! the first for strangers on the internet, and would spare them otherwise.
#![expect(clippy::print_stdout, reason = "a program")]

use harness::evil::{Bounds, attack, honest_announces};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("{text}");
            ExitCode::from(2)
        }
    }
}

fn show(what: &str, times: &[Option<u64>]) {
    let mut good: Vec<u64> = times.iter().flatten().copied().collect();
    good.sort_unstable();
    let at = |part: f64| good.get((good.len() as f64 * part) as usize).or(good.last()).map_or(0.0, |t| *t as f64 / 1e3);
    println!(
        "{what}: {} of {} honest announces answered ({:.3} %), p50 {:.2} ms, p99 {:.2} ms, longest {:.1} ms",
        good.len(),
        times.len(),
        100.0 * good.len() as f64 / times.len().max(1) as f64,
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// User and system seconds of a process so far; 0 if there is none.
fn cpu_s(process: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in brackets may hold anything; the two are the 14th and 15th field.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn run() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    let target: SocketAddr = words.next().and_then(|w| w.parse().ok()).ok_or("first ADDR:PORT")?;
    if !target.ip().is_loopback() {
        return Err("only targets on this machine".into());
    }
    let mut bounds = Bounds { connections: 80, count: u64::MAX, time: Duration::from_secs(10), seed: 1, addresses: 8 };
    let (mut mode, mut honest, mut pid) = (None, 200, None);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word}: not a number: {value}"));
        match word.as_str() {
            "--mode" => mode = Some(value.parse()?),
            "--connections" => bounds.connections = number()? as usize,
            "--addresses" => bounds.addresses = number()? as u32,
            "--count" => bounds.count = number()?,
            "--time" => bounds.time = Duration::from_secs(number()?),
            "--seed" => bounds.seed = number()?,
            "--pid" => pid = Some(number()?),
            "--honest" => honest = number()? as u32,
            _ => return Err(format!("{word} is not known")),
        }
    }
    let mode = mode.ok_or("--mode is needed")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        show("quiet", &honest_announces(target, honest, bounds.time.min(Duration::from_secs(5))).await);
        let start = Instant::now();
        let spent = || (cpu_s("self"), pid.map_or(0.0, |pid: u64| cpu_s(&pid.to_string())));
        let before = spent();
        // On a thread of their own: the attackers' own crowd is not what is measured.
        let honest = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
            Ok::<_, String>(runtime.block_on(honest_announces(target, honest, bounds.time)))
        });
        let tally = attack(mode, target, bounds).await;
        let times = honest.join().map_err(|_| "the honest ones ended early")??;
        show("under attack", &times);
        println!(
            "{mode:?}: {} connections, {} answered, {} refused, in {:.1} s",
            tally.connected.load(Ordering::Relaxed),
            tally.good.load(Ordering::Relaxed),
            tally.refused.load(Ordering::Relaxed),
            start.elapsed().as_secs_f64()
        );
        let (after, cores) = (spent(), start.elapsed().as_secs_f64());
        println!(
            "processor: {:.2} of a core here, {:.2} of one in the tracker (see --pid)",
            (after.0 - before.0) / cores,
            (after.1 - before.1) / cores
        );
        Ok(())
    })
}
