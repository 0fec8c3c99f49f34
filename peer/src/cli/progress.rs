//! Progress: a bar on a terminal, a line each 10 s elsewhere, a record each second for programs.

use super::Context;
use super::args::ProgressMode;
use super::output::Output;
use crate::engine::Stats;
use crate::failure::{Failure, FailureKind, escape};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use shoal_protocol::units::{format_duration, format_size};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const PLAIN: Duration = Duration::from_secs(10);
/// Between two records.
const RECORD: Duration = Duration::from_secs(1);
/// Between two looks at what a blocking thread has done.
const TICK: Duration = Duration::from_millis(250);
/// Longest name on a line.
const NAME_CHARS: usize = 28;

/// Shows how one thing comes along.
#[derive(Debug)]
pub(super) struct Progress {
    output: Output,
    name: String,
    bar: Option<ProgressBar>,
    last: Instant,
    shown: bool,
}

#[derive(Serialize)]
struct Record {
    done: u64,
    total: u64,
    rate: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_s: Option<u64>,
    peers: u32,
    from_seeds: u64,
    bad_pieces: u64,
    sent: u64,
    repeated: u64,
    rate_up: u64,
    finished_peers: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    slowest: Option<f64>,
    copies: f64,
}

impl Progress {
    /// Progress of something with this name; shows nothing yet.
    #[must_use]
    pub(super) fn new(output: &Output, name: &str) -> Self {
        let name: String = escape(name).chars().take(NAME_CHARS).collect();
        Self { output: output.clone(), name, bar: None, last: Instant::now(), shown: false }
    }

    /// What is known of a fetch.
    pub(super) fn fetch(&mut self, stats: &Stats) {
        let text = fetch_text(stats);
        if self.output.progress() == ProgressMode::Json {
            self.record(stats);
        } else {
            self.line(stats.done, stats.total, &text);
        }
    }

    /// What is known of a seed.
    pub(super) fn seed(&mut self, stats: &Stats) {
        match self.output.progress() {
            ProgressMode::Json => self.record(stats),
            ProgressMode::Bar => self.draw(None, &seed_text(stats)),
            // A seed that nobody asks for anything has nothing to say.
            ProgressMode::Plain if self.due(PLAIN) && (stats.peers > 0 || stats.rate_up > 0) => {
                self.output.say(&format!("{}  {}", self.name, seed_text(stats)));
            }
            _ => {}
        }
    }

    /// Bytes that were read and hashed.
    pub(super) fn work(&mut self, verb: &str, done: u64, total: u64, rate: u64) {
        if self.output.progress() != ProgressMode::Json {
            self.line(done, total, &format!("{verb} {}", pair(done, total)).add_rate(rate, done, total));
        }
    }

    /// One line now, whatever was asked for: SIGUSR1.
    pub(super) fn insist(&self, stats: &Stats, seed: bool) {
        let text = if seed { seed_text(stats) } else { fetch_text(stats) };
        let percent = if seed { String::new() } else { format!("{} %  ", percent(stats.done, stats.total)) };
        self.insist_on(&format!("{percent}{text}"));
    }

    fn insist_on(&self, text: &str) {
        self.output.insist(&format!("{}  {text}", self.name));
    }

    /// Takes the bar away; without a terminal the last line follows.
    pub(super) fn end_fetch(&mut self, stats: &Stats) {
        if self.output.progress() == ProgressMode::Plain && self.shown {
            self.output.say(&format!("{}  {} %  {}", self.name, percent(stats.done, stats.total), fetch_text(stats)));
        }
        self.end();
    }

    /// Takes the bar away.
    pub(super) fn end(&mut self) {
        if self.bar.take().is_some() {
            self.output.show_bar(None);
        }
    }

    fn record(&mut self, stats: &Stats) {
        if self.due(RECORD) {
            self.output.progress_record(&Record {
                done: stats.done,
                total: stats.total,
                rate: stats.rate_down,
                eta_s: eta(stats.rate_down, stats.done, stats.total).map(|eta| eta.as_secs()),
                peers: stats.peers,
                from_seeds: stats.from_seeds,
                bad_pieces: stats.bad_pieces,
                sent: stats.uploaded,
                repeated: stats.repeated,
                rate_up: stats.rate_up,
                finished_peers: stats.finished_peers,
                slowest: stats.slowest,
                copies: stats.copies,
            });
        }
    }

    fn line(&mut self, done: u64, total: u64, text: &str) {
        match self.output.progress() {
            ProgressMode::Bar => self.draw(Some((done, total)), text),
            ProgressMode::Plain if self.due(PLAIN) => {
                self.output.say(&format!("{}  {} %  {text}", self.name, percent(done, total)));
            }
            _ => {}
        }
    }

    /// Whether it is time again; if so, the time starts anew.
    fn due(&mut self, every: Duration) -> bool {
        let due = self.last.elapsed() >= every;
        if due {
            self.last = Instant::now();
            self.shown = true;
        }
        due
    }

    fn draw(&mut self, part: Option<(u64, u64)>, text: &str) {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(8));
            let template =
                if part.is_some() { "{prefix}  {bar:24} {percent:>3} %  {wide_msg}" } else { "{prefix}  {wide_msg}" };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("━╸─"));
            bar.set_prefix(self.name.clone());
            self.output.show_bar(Some(bar.clone()));
            bar
        });
        if let Some((done, total)) = part {
            bar.set_length(total.max(1));
            bar.set_position(if total == 0 { 1 } else { done });
        }
        bar.set_message(text.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs blocking work on its own thread and shows how far it is.
///
/// # Errors
/// What the work returns, or our own bug when it panics.
pub(super) async fn blocking<T: Send + 'static>(
    context: &Context,
    name: &str,
    verb: &str,
    work: impl FnOnce(&(dyn Fn(u64, u64) + Sync)) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let theirs = Arc::clone(&counts);
    let mut task = tokio::task::spawn_blocking(move || {
        work(&|done, total| {
            theirs.0.store(done, Ordering::Relaxed);
            theirs.1.store(total, Ordering::Relaxed);
        })
    });
    let mut progress = Progress::new(&context.output, name);
    let mut signals = context.signals.clone();
    let (start, mut tick) = (Instant::now(), tokio::time::interval(TICK));
    // The first tick is immediate, and most work is done before it would be worth a line.
    tick.tick().await;
    loop {
        tokio::select! {
            result = &mut task => {
                progress.end();
                return result.unwrap_or_else(|error| Err(Failure::new(FailureKind::Bug, format!("{verb} {name}: {error}"))));
            }
            insists = async { tokio::select! { () = signals.usr1() => true, _ = tick.tick() => false } } => {
                let (done, total) = (counts.0.load(Ordering::Relaxed), counts.1.load(Ordering::Relaxed));
                let rate = (done as f64 / start.elapsed().as_secs_f64()) as u64;
                if insists {
                    progress.insist_on(&format!("{verb} {}", pair(done, total)).add_rate(rate, done, total));
                } else if total > 0 {
                    progress.work(verb, done, total, rate);
                }
            }
        }
    }
}

trait AddRate {
    fn add_rate(self, rate: u64, done: u64, total: u64) -> String;
}

impl AddRate for String {
    fn add_rate(mut self, rate: u64, done: u64, total: u64) -> String {
        if rate > 0 {
            self.push_str(&format!("  {}/s", format_size(rate)));
        }
        if let Some(eta) = eta(rate, done, total) {
            self.push_str(&format!(
                "  eta {}",
                format_duration(Duration::from_secs(eta.as_secs().max(1))).replace(".0s", "s")
            ));
        }
        self
    }
}

fn fetch_text(stats: &Stats) -> String {
    let mut text = pair(stats.done, stats.total).add_rate(stats.rate_down, stats.done, stats.total);
    text.push_str(&format!("  peers {}", stats.peers));
    if stats.downloaded > 0 {
        text.push_str(&format!("  from seeds {} %", percent(stats.from_seeds, stats.downloaded)));
    }
    if stats.bad_pieces > 0 {
        text.push_str(&format!("  bad pieces {}", stats.bad_pieces));
    }
    text
}

fn seed_text(stats: &Stats) -> String {
    let mut text = format!(
        "seeding  sent {}  {}/s  peers {}  finished {}",
        format_size(stats.uploaded),
        format_size(stats.rate_up),
        stats.peers,
        stats.finished_peers
    );
    if let Some(slowest) = stats.slowest {
        text.push_str(&format!("  slowest {} %", (slowest * 100.0).floor()));
    }
    if stats.peers > 0 {
        text.push_str(&format!("  copies {:.1}", stats.copies));
    }
    text
}

fn eta(rate: u64, done: u64, total: u64) -> Option<Duration> {
    (rate > 0 && done < total).then(|| Duration::from_secs((total - done).div_ceil(rate)))
}

/// Rounded down, so that 100 means all.
#[must_use]
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 100 } else { (u128::from(part) * 100 / u128::from(whole)) as u64 }
}

/// `3.1/5.0 GiB`: both in the unit of the larger.
fn pair(done: u64, total: u64) -> String {
    let total_text = format_size(total);
    let Some((_, unit)) = total_text.split_once(' ') else { return total_text };
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "PiB" => 50,
        _ => 0,
    };
    let value = done as f64 / (1_u64 << shift) as f64;
    if shift == 0 || value >= 9.95 { format!("{value:.0}/{total_text}") } else { format!("{value:.1}/{total_text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_as_documented() {
        let stats = Stats {
            total: 5 << 30,
            done: (31 << 30) / 10,
            downloaded: 100,
            from_seeds: 6,
            rate_down: 412 << 20,
            peers: 11,
            ..Stats::default()
        };
        assert_eq!(fetch_text(&stats), "3.1/5.0 GiB  412 MiB/s  eta 5s  peers 11  from seeds 6 %");
        assert_eq!(percent(stats.done, stats.total), 61);
        assert_eq!(percent(0, 0), 100);
        let seed = Stats {
            uploaded: 3 << 30,
            peers: 2,
            finished_peers: 1,
            slowest: Some(0.999),
            copies: 1.5,
            ..Stats::default()
        };
        assert_eq!(seed_text(&seed), "seeding  sent 3.0 GiB  0 B/s  peers 2  finished 1  slowest 99 %  copies 1.5");
    }

    #[test]
    fn both_sizes_have_one_unit() {
        assert_eq!(pair(0, 0), "0/0 B");
        assert_eq!(pair(512, 1023), "512/1023 B");
        assert_eq!(pair(1 << 20, 5 << 30), "0.0/5.0 GiB");
        assert_eq!(pair(20 << 20, 300 << 20), "20/300 MiB");
    }
}
