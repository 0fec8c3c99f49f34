//! `peer demo`: one seed and several fetches as processes of their own on this machine, verified, with the figures.
//!
//! The processes are this program with the flags that anyone would use, so what the demo shows is what users get. They
//! talk over loopback, on ports that the system chooses, and keep everything in one directory that is removed at the end.

use super::args::DemoArgs;
use super::output::Outcome;
use super::progress::{Progress, percent};
use super::{Context, verify};
use crate::engine::Stats;
use crate::failure::{Failure, FailureKind, counted};
use serde::Serialize;
use serde_json::Value;
use shoal_protocol::Manifest;
use shoal_protocol::units::format_size;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Room beside the copies: journals, manifests, rounding to blocks.
const SPARE: u64 = 64 << 20;
/// How long a process may take to end once it was asked to: goodbye takes two seconds at most.
const GOODBYE: Duration = Duration::from_secs(10);
/// Between two looks at the fetches together.
const TICK: Duration = Duration::from_millis(250);
/// How much of what a process said is kept for a report.
const TALK_BYTES: u64 = 64 << 10;

#[derive(Serialize)]
struct DemoResult {
    id: String,
    bytes: u64,
    delivered: u64,
    elapsed_s: f64,
    rate: u64,
    origin_sent: u64,
    origin_copies: f64,
    peers: Vec<Row>,
}

/// What one fetch did.
#[derive(Debug, Clone, Default, Serialize)]
struct Row {
    elapsed_s: f64,
    downloaded: u64,
    from_seeds: u64,
    sent: u64,
    bad_pieces: u64,
}

/// Runs the command.
pub(super) async fn run(args: DemoArgs, context: Context) -> Result<Outcome, Failure> {
    let output = &context.output;
    let path = fs::canonicalize(&args.path).map_err(|error| Failure::io("can't read", &args.path, &error))?;
    let measured = path.clone();
    let size = tokio::task::spawn_blocking(move || size_of(&measured)).await.unwrap_or(0);
    let dir = directory(size, args.peers)?;
    output.say(&format!(
        "demo: {} to {}, each a process of its own, below {} (removed at the end)",
        format_size(size),
        counted(args.peers.into(), "peer"),
        dir.path().display()
    ));
    let mut demo = Demo { context: &context, dir, path, processes: Vec::new() };
    let (manifest, link) = demo.seed().await?;
    let start = Instant::now();
    let rows = demo.fetch(&link, &manifest, args.peers).await?;
    let elapsed = rows.1.duration_since(start).as_secs_f64();
    let origin_sent = demo.end_seed().await?;
    demo.check(&manifest, args.peers).await?;
    let bytes = manifest.bytes();
    let delivered = bytes * u64::from(args.peers);
    let result = DemoResult {
        id: manifest.id().to_string(),
        bytes,
        delivered,
        elapsed_s: elapsed,
        rate: (delivered as f64 / elapsed.max(0.001)) as u64,
        origin_sent,
        origin_copies: if bytes == 0 { 0.0 } else { origin_sent as f64 / bytes as f64 },
        peers: rows.0,
    };
    report(&result, &context);
    Ok(Outcome::new(&result))
}

fn report(result: &DemoResult, context: &Context) {
    let line = |text: String| context.output.data(&text);
    line(format!(
        "delivered  {} to {}, every byte verified",
        format_size(result.delivered),
        counted(result.peers.len() as u64, "peer")
    ));
    line(format!(
        "time       {:.2} s, {}/s together ({:.0} MB/s)",
        result.elapsed_s,
        format_size(result.rate),
        result.rate as f64 / 1e6
    ));
    line(format!("origin     sent {:.2} copies; the peers had the rest from each other", result.origin_copies));
    line("peer    time      rate        from seeds  sent on     bad pieces".to_owned());
    for (number, row) in result.peers.iter().enumerate() {
        let rate = row.downloaded as f64 / row.elapsed_s.max(0.001);
        let seeds = if row.downloaded == 0 { 0 } else { percent(row.from_seeds, row.downloaded) };
        line(format!(
            "{:<7} {:<9} {:<11} {:<11} {:<11} {}",
            number + 1,
            format!("{:.2} s", row.elapsed_s),
            format!("{}/s", format_size(rate as u64)),
            format!("{seeds} %"),
            format_size(row.sent),
            row.bad_pieces
        ));
    }
}

fn size_of(path: &Path) -> u64 {
    walkdir::WalkDir::new(path)
        .into_iter()
        .flatten()
        .filter_map(|e| e.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|m| m.len())
        .sum()
}

/// A directory on the first filesystem of the usual ones that has room for all copies.
fn directory(size: u64, peers: u16) -> Result<TempDir, Failure> {
    let need = size.saturating_mul(peers.into()).saturating_add(SPARE);
    let mut refused = Failure::new(FailureKind::Local, format!("{} are needed for {peers} copies", format_size(need)));
    for base in [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")] {
        let Ok(stat) = rustix::fs::statvfs(&base) else { continue };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < need {
            refused = refused.detail(format!("{} has {}", base.display(), format_size(free)));
            continue;
        }
        match tempfile::Builder::new().prefix("shoal-demo-").tempdir_in(&base) {
            Ok(dir) => return Ok(dir),
            Err(error) => refused = refused.detail(format!("{}: {error}", base.display())),
        }
    }
    Err(refused.hint("fewer --peers, or TMPDIR on a larger disk"))
}

struct Demo<'a> {
    context: &'a Context,
    path: PathBuf,
    /// The seed first. They end before their directory is removed, which is why it stands below.
    processes: Vec<Process>,
    dir: TempDir,
}

impl Demo<'_> {
    /// Starts the seed and returns what it serves.
    async fn seed(&mut self) -> Result<(Arc<Manifest>, String), Failure> {
        let file = self.dir.path().join("manifest");
        let flags = ["seed", "--listen", "127.0.0.1:0", "--manifest"].map(OsStr::new);
        let (tell, mut told) = mpsc::channel(64);
        let words = flags.into_iter().chain([file.as_os_str(), OsStr::new("--"), self.path.as_os_str()]);
        self.processes.push(Process::start(0, words, self.dir.path(), tell)?);
        let link = loop {
            let said = tokio::select! {
                said = told.recv() => said,
                stop = self.context.signals.stopped() => return Err(stop.failure()),
            };
            match said {
                Some(Said { record: Some(record), .. }) if record["type"] == "ready" => {
                    break record["link"].as_str().unwrap_or_default().to_owned();
                }
                Some(Said { record: Some(record), .. }) if record["type"] == "result" => {
                    return Err(failed("the seed", &record));
                }
                Some(Said { record: Some(_), .. }) => {}
                Some(Said { record: None, .. }) | None => return Err(self.processes[0].died("the seed")),
            }
        };
        if let Some(seed) = self.processes.first_mut() {
            seed.told = Some(told);
        }
        let bytes = fs::read(&file).map_err(|error| Failure::io("can't read", &file, &error))?;
        Ok((Arc::new(Manifest::parse(&bytes)?), link))
    }

    fn target(&self, number: u16) -> PathBuf {
        self.dir.path().join(format!("peer-{number}")).join("content")
    }

    /// Runs all fetches at once; returns what they did and when the last one had everything.
    async fn fetch(&mut self, link: &str, manifest: &Manifest, peers: u16) -> Result<(Vec<Row>, Instant), Failure> {
        let (tell, mut told) = mpsc::channel(1_024);
        for number in 1..=peers {
            let target = self.target(number);
            let dir = target.parent().unwrap_or(&target);
            fs::create_dir(dir).map_err(|error| Failure::io("can't create", dir, &error))?;
            let flags = ["fetch", link, "--listen", "127.0.0.1:0", "--progress", "json", "--output"].map(OsStr::new);
            let words = flags.into_iter().chain([target.as_os_str()]);
            self.processes.push(Process::start(number, words, self.dir.path(), tell.clone())?);
        }
        drop(tell);
        let count = usize::from(peers);
        let mut progress = Progress::new(&self.context.output, "demo");
        let (mut done, mut rates) = (vec![0_u64; count], vec![0_u64; count]);
        let mut rows = vec![Row::default(); count];
        let mut has_ended = vec![false; count];
        let (mut complete, mut ended, mut last) = (0, 0, Instant::now());
        let mut tick = tokio::time::interval(TICK);
        while ended < count {
            tokio::select! {
                biased;
                stop = self.context.signals.stopped() => return Err(stop.failure()),
                said = told.recv() => {
                    let Some(Said { number, record }) = said else { break };
                    let at = usize::from(number) - 1;
                    let name = format!("peer {number}");
                    let Some(record) = record else {
                        // The end of what a process says comes after its result, too.
                        if has_ended[at] {
                            continue;
                        }
                        return Err(self.processes[at + 1].died(&name));
                    };
                    match record["type"].as_str() {
                        Some("progress") => {
                            done[at] = record["done"].as_u64().unwrap_or(0);
                            rates[at] = record["rate"].as_u64().unwrap_or(0);
                        }
                        Some("complete") => {
                            complete += 1;
                            if complete == count {
                                last = Instant::now();
                            }
                            (done[at], rates[at]) = (manifest.bytes(), 0);
                            rows[at].elapsed_s = record["elapsed_s"].as_f64().unwrap_or(0.0);
                        }
                        Some("result") if record["ok"] == true => {
                            ended += 1;
                            has_ended[at] = true;
                            rows[at] = row(&record);
                        }
                        Some("result") => return Err(failed(&name, &record)),
                        _ => {}
                    }
                }
                _ = tick.tick() => {
                    let stats = Stats {
                        total: manifest.bytes() * u64::from(peers),
                        done: done.iter().sum(),
                        rate_down: rates.iter().sum(),
                        peers: u32::from(peers),
                        ..Stats::default()
                    };
                    progress.fetch(&stats);
                }
            }
        }
        progress.end();
        if ended < count || complete < count {
            return Err(Failure::new(FailureKind::Bug, "a fetch ended without a result"));
        }
        Ok((rows, last))
    }

    /// Ends the seed and returns what it sent.
    async fn end_seed(&mut self) -> Result<u64, Failure> {
        let Some(seed) = self.processes.first_mut() else { return Ok(0) };
        seed.interrupt();
        let Some(mut told) = seed.told.take() else { return Ok(0) };
        let result = async {
            while let Some(Said { record: Some(record), .. }) = told.recv().await {
                if record["type"] == "result" {
                    return Some(record);
                }
            }
            None
        };
        match tokio::time::timeout(GOODBYE, result).await {
            Ok(Some(record)) if record["ok"] == true => Ok(record["sent"].as_u64().unwrap_or(0)),
            Ok(Some(record)) => Err(failed("the seed", &record)),
            _ => Err(seed.died("the seed")),
        }
    }

    /// Reads every copy again and compares it with the manifest.
    async fn check(&self, manifest: &Arc<Manifest>, peers: u16) -> Result<(), Failure> {
        for number in 1..=peers {
            let report = verify::check(manifest, &self.target(number), None, self.context).await?;
            if !report.is_good() {
                let text = format!("what peer {number} has differs from its manifest");
                return Err(Failure::new(FailureKind::Integrity, text));
            }
        }
        Ok(())
    }
}

fn row(record: &Value) -> Row {
    let number = |key: &str| record[key].as_u64().unwrap_or(0);
    Row {
        elapsed_s: record["elapsed_s"].as_f64().unwrap_or(0.0),
        downloaded: number("downloaded"),
        from_seeds: number("from_seeds"),
        sent: number("sent"),
        bad_pieces: number("bad_pieces"),
    }
}

/// A process's failure as ours: the same kind, so the same exit code.
fn failed(who: &str, record: &Value) -> Failure {
    use FailureKind as Kind;
    let all =
        [Kind::Usage, Kind::Input, Kind::Unreachable, Kind::Integrity, Kind::Local, Kind::Incomplete, Kind::Refused];
    let kind = all.into_iter().find(|kind| record["kind"] == kind.word()).unwrap_or(Kind::Bug);
    let mut failure = Failure::new(kind, format!("{who}: {}", record["message"].as_str().unwrap_or("no reason given")));
    for line in record["details"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        failure = failure.detail(line);
    }
    failure
}

/// A record of a process; none at its end.
struct Said {
    number: u16,
    record: Option<Value>,
}

/// A process that ends with its owner.
struct Process {
    child: Child,
    talk: PathBuf,
    told: Option<mpsc::Receiver<Said>>,
}

impl Process {
    fn start<'a>(
        number: u16,
        words: impl Iterator<Item = &'a OsStr>,
        dir: &Path,
        tell: mpsc::Sender<Said>,
    ) -> Result<Self, Failure> {
        let started = |error: &std::io::Error| Failure::io("the demo's processes can't be started in", dir, error);
        let talk = dir.join(format!("talk-{number}"));
        let mut command = super::itself().map_err(|error| started(&error))?;
        command.args(["--no-config", "--json"]).args(words);
        // Nothing may be left in the user's state.
        command.env("XDG_STATE_HOME", dir.join("state")).stdin(Stdio::null()).stdout(Stdio::piped());
        let file = fs::File::create(&talk).map_err(|error| started(&error))?;
        let mut child = command.stderr(file).spawn().map_err(|error| started(&error))?;
        let pipe = child.stdout.take();
        std::thread::spawn(move || {
            let lines = pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok);
            for line in lines {
                let record = serde_json::from_str(&line).ok();
                if record.is_some() && tell.blocking_send(Said { number, record }).is_err() {
                    return;
                }
            }
            let _ = tell.blocking_send(Said { number, record: None });
        });
        Ok(Self { child, talk, told: None })
    }

    fn interrupt(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
    }

    /// It ended without a result: what it said last.
    fn died(&mut self, who: &str) -> Failure {
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let mut failure = Failure::new(FailureKind::Bug, format!("{who} ended without a result ({status})"));
        let mut talk = String::new();
        if let Ok(file) = fs::File::open(&self.talk) {
            let _ = file.take(TALK_BYTES).read_to_string(&mut talk);
        }
        for line in talk.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev() {
            failure = failure.detail(line);
        }
        failure
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
