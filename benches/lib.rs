//! What the measurements share: a stopwatch, numbers that repeat, and one way to print.
//!
//! Method, machine and how to read the output: `README.md` beside this file.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what measurements are for")]

pub mod announces;
pub mod cost;

use serde_json::json;
use shoal_protocol::prng::Prng;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// What goes wrong is said and ends the measurement.
pub type Result<T> = std::result::Result<T, String>;

/// Before anything is counted: caches, page tables, the processor's clock.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long one sample runs at least, so that the clock's grain doesn't matter.
const SAMPLE: Duration = Duration::from_millis(100);
/// Odd, so that the median is a sample.
const SAMPLES: usize = 11;

/// How a measurement ends: what went wrong is said.
#[must_use]
pub fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` again and again and prints how many units it does in a second: one JSON line on stdout, and a line for
/// people on stderr. `units` is what one call of `work` does.
pub fn measure<T>(name: &str, unit: &str, units: f64, mut work: impl FnMut() -> T) {
    let mut calls_for = |least: Duration| {
        let start = Instant::now();
        let mut calls = 0_u32;
        while calls == 0 || start.elapsed() < least {
            std::hint::black_box(work());
            calls += 1;
        }
        f64::from(calls) * units / start.elapsed().as_secs_f64()
    };
    calls_for(WARM_UP);
    let mut rates: Vec<f64> = (0..SAMPLES).map(|_| calls_for(SAMPLE)).collect();
    rates.sort_by(f64::total_cmp);
    let (least, median, most) = (rates[0], rates[SAMPLES / 2], rates[SAMPLES - 1]);
    let record = json!({
        "v": 1, "type": "bench", "name": name, "unit": format!("{unit}/s"),
        "median": round(median), "least": round(least), "most": round(most), "samples": SAMPLES,
    });
    println!("{record}");
    eprintln!(
        "{name:<36} {:>9}{unit}/s   ({} to {})",
        human(median),
        human(least).trim_start(),
        human(most).trim_start()
    );
}

/// Three digits are more than a measurement on a shared machine carries; the rest would only make diffs.
fn round(value: f64) -> f64 {
    // By way of text: multiplying by a power of ten would leave digits of its own.
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A number with a unit prefix.
#[must_use]
pub fn human(value: f64) -> String {
    let (scaled, prefix) = match value {
        v if v >= 1e9 => (v / 1e9, " G"),
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, " "),
    };
    format!("{scaled:.2}{prefix}")
}

/// Fills with bytes that don't compress and are the same each time.
pub fn fill(seed: u64, out: &mut [u8]) {
    let mut numbers = Prng::new(seed);
    for chunk in out.chunks_mut(8) {
        chunk.copy_from_slice(&numbers.next().to_le_bytes()[..chunk.len()]);
    }
}

/// A program of this workspace, built in the release profile now or found beside this one.
///
/// # Errors
/// When it is neither.
pub fn program(name: &str, package: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = here.with_file_name(name);
    // Under `cargo run` the program may be missing or old, as cargo builds only what it runs.
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--release", "--locked", "-p", package, "--bin", name]);
        let status = build.status().map_err(|error| format!("can't run cargo: {error}"))?;
        if !status.success() {
            return Err(format!("{name} doesn't build"));
        }
    }
    if path.is_file() { Ok(path) } else { Err(format!("no {name} at {}", path.display())) }
}

/// The first line that a program says, or that it is unknown.
#[must_use]
pub fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// What the figures were measured on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Name of the processor.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// What was measured: the commit that the sources are at.
    pub commit: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned());
        Self {
            processor: model.trim_start_matches(['\t', ' ', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            commit: first_line("git", &["describe", "--always", "--dirty"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!((round(123_456.0), round(0.012_345_6)), (123_500.0, 0.012_35));
        assert_eq!((human(1_234_000.0), human(2.0)), ("1.23 M".to_owned(), "2.00 ".to_owned()));
    }

    #[test]
    fn filling_repeats_and_does_not_compress_to_one_value() {
        let (mut a, mut b) = ([0; 100], [0; 100]);
        fill(1, &mut a);
        fill(1, &mut b);
        assert_eq!(a, b);
        fill(2, &mut b);
        assert_ne!(a, b);
    }
}
