//! A soak: a tracker and a seed as processes, with fetches that come, end and are killed, and floods of every kind, for as
//! long as it is told. What both hold (descriptors, threads, memory) is printed all along; at the end, when all is quiet
//! again, it fails if descriptors are more than at the beginning, if threads are more than after the first tenth, or if a
//! fetch failed.
//!
//! ```sh
//! cargo build --release && cargo run --release -p harness --example soak -- --time 600
//! ```
#![expect(clippy::print_stdout, reason = "a program")]

use harness::evil::{Bounds, ClientMode, PeerMode, attack, play};
use harness::netns::{Process, same, write_content};
use shoal_protocol::ContentId;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, String>;

/// A fetch that takes longer than this under all floods hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// One kind of flood after the other.
const FLOOD: Duration = Duration::from_secs(5);
const FLOOD_CONNECTIONS: usize = 24;
/// Frames or requests of one flood, so that other work on the machine goes on.
const FLOOD_COUNT: u64 = 50_000;
const FETCHERS: u64 = 3;
const CONTENT: u64 = 6 << 20;
/// Descriptors and threads that a moment can show on top: what is just closing, an announce under way.
const FEW: u64 = 6;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            println!("{text}");
            ExitCode::from(2)
        }
    }
}

/// What a process holds.
#[derive(Clone, Copy)]
struct Held {
    descriptors: u64,
    threads: u64,
    rss_kib: u64,
}

impl Held {
    fn of(pid: u32) -> Result<Self> {
        let wrong = |error: std::io::Error| format!("process {pid}: {error}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(wrong)?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_err(wrong)?.count() as u64;
        Ok(Self { descriptors, threads: field("Threads:"), rss_kib: field("VmRSS:") })
    }
}

/// Waits for the first record that has a field.
fn record(dir: &Path, name: &str, process: &mut Process, field: &str) -> Result<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = fs::read_to_string(dir.join(format!("{name}.out"))).unwrap_or_default();
        let records = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        if let Some(found) = records.into_iter().find_map(|record| record[field].as_str().map(str::to_owned)) {
            return Ok(found);
        }
        if process.ended() || Instant::now() > end {
            return Err(format!("{name} is not ready: {}", process.status()));
        }
        sleep(Duration::from_millis(10));
    }
}

#[derive(Default)]
struct Counts {
    complete: AtomicU64,
    killed: AtomicU64,
    failed: AtomicU64,
}

/// Fetches again and again; a third of them are killed at some moment.
fn churn(number: u64, peer: &Path, dir: &Path, link: &str, stop: &AtomicBool, counts: &Counts) -> Result<()> {
    let mut numbers = harness::fuzz::Numbers::new(number);
    let name = format!("fetch{number}");
    let (out, content) = (dir.join(&name).with_extension("copy"), dir.join("content"));
    while !stop.load(Ordering::Relaxed) {
        let mut command = Command::new(peer);
        command.env("XDG_STATE_HOME", dir.join("state")).args(["--no-config", "--json", "fetch", link, "-o"]);
        command.arg(&out).args(["--listen", "127.0.0.1:0", "--seed-for", "0s"]);
        let mut fetch = Process::start(command, dir, &name)?;
        let start = Instant::now();
        let dies = (numbers.draw().is_multiple_of(3)).then(|| Duration::from_millis(numbers.draw() % 1_000));
        while !fetch.ended() && start.elapsed() < dies.unwrap_or(PATIENCE) {
            sleep(Duration::from_millis(5));
        }
        let ended = fetch.ended();
        let status = fetch.status();
        drop(fetch);
        let right = out.exists() && same(&out, &content).map_err(|e| e.to_string())?;
        // What died goes on with the next one, unless it had just completed.
        if right || out.exists() || dies.is_none() {
            let journal = dir.join(format!("{name}.copy.part.journal"));
            for path in [out.clone(), journal, dir.join(format!("{name}.copy.part"))] {
                let _ = fs::remove_file(path);
            }
        }
        match (right, dies.is_some()) {
            (true, _) => counts.complete.fetch_add(1, Ordering::Relaxed),
            (false, true) if !ended && !out.exists() => counts.killed.fetch_add(1, Ordering::Relaxed),
            (false, _) => {
                println!("a fetch failed after {:.1} s: {status}", start.elapsed().as_secs_f64());
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
    Ok(())
}

/// One flood after the other, of the seed and of the tracker at once.
fn floods(seed: SocketAddr, tracker: SocketAddr, id: ContentId, stop: &AtomicBool) -> Result<u64> {
    const PEERS: [PeerMode; 6] = {
        use PeerMode::{Abort, Greedy, Liar, Noise, Silent, Unasked};
        [Noise, Greedy, Silent, Abort, Unasked, Liar]
    };
    const CLIENTS: [ClientMode; 6] = {
        use ClientMode::{Flood, LargeHead, Poison, SlowBody, SlowHead, Swarms};
        [Flood, SlowHead, Swarms, SlowBody, LargeHead, Poison]
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let at = count as usize % PEERS.len();
        let bounds =
            Bounds { connections: FLOOD_CONNECTIONS, count: FLOOD_COUNT, time: FLOOD, seed: count, addresses: 64 };
        runtime.block_on(async {
            tokio::join!(
                play(PEERS[at], seed, id.open_swarm(), None, bounds),
                attack(CLIENTS[at], tracker, bounds),
                // A flood that has spent its count is followed by the next in its turn.
                tokio::time::sleep(FLOOD),
            )
        });
        count += 1;
    }
    Ok(count)
}

fn show(start: Instant, held: &[Held; 2], counts: &Counts) {
    let [tracker, seed] = held;
    let text =
        |held: &Held| format!("{} descriptors, {} threads, {} KiB", held.descriptors, held.threads, held.rss_kib);
    println!(
        "{:5.0} s: tracker {}; seed {}; {} fetches complete, {} killed, {} failed",
        start.elapsed().as_secs_f64(),
        text(tracker),
        text(seed),
        counts.complete.load(Ordering::Relaxed),
        counts.killed.load(Ordering::Relaxed),
        counts.failed.load(Ordering::Relaxed),
    );
}

fn run() -> Result<bool> {
    let mut time = Duration::from_secs(600);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next().and_then(|value| value.parse().ok());
        match (word.as_str(), number) {
            ("--time", Some(seconds)) => time = Duration::from_secs(seconds),
            _ => return Err("only --time SECONDS".into()),
        }
    }
    let here = std::env::current_exe().map_err(|e| e.to_string())?;
    let programs = here.ancestors().nth(2).unwrap_or(Path::new(".")).to_owned();
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let dir: PathBuf = dir.path().to_owned();
    write_content(&dir.join("content"), 1, CONTENT).map_err(|e| e.to_string())?;

    let mut command = Command::new(programs.join("tracker"));
    command.env("SHOAL_TEST_GLOBAL", "127.32.0.0/11").args(["--json", "--no-config", "--listen", "127.0.0.1:0"]);
    command.args(["--admin-listen", "off", "--data"]).arg(dir.join("data"));
    let mut tracker = Process::start(command, &dir, "tracker")?;
    let url = record(&dir, "tracker", &mut tracker, "url")?;
    // A seed doesn't say where it listens when its link is the tracker's, so it gets a port that was free just now.
    let serves = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let serves = serves.map_err(|e| e.to_string())?;
    let mut command = Command::new(programs.join("peer"));
    command.env("XDG_STATE_HOME", dir.join("state")).args(["--no-config", "--json", "seed"]).arg(dir.join("content"));
    command.args(["--listen", &serves.to_string(), "--tracker", &url, "--max-upload", "20M", "--piece-size", "64K"]);
    let mut seed = Process::start(command, &dir, "seed")?;
    let link = record(&dir, "seed", &mut seed, "link")?;
    let id: ContentId = link.rsplit('/').next().and_then(|id| id.parse().ok()).ok_or("a link without an id")?;
    let address = url.trim_start_matches("http://").trim_end_matches('/').parse().map_err(|_| url.clone())?;

    let look = || Ok::<_, String>([Held::of(tracker.id())?, Held::of(seed.id())?]);
    let (stop, counts, start) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()), Instant::now());
    let begin = look()?;
    show(start, &begin, &counts);
    let mut workers = Vec::new();
    for number in 0..FETCHERS {
        let (peer, dir, link) = (programs.join("peer"), dir.clone(), link.clone());
        let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
        workers.push(std::thread::spawn(move || churn(number, &peer, &dir, &link, &stop, &counts)));
    }
    let flooding = Arc::clone(&stop);
    let flood = std::thread::spawn(move || floods(serves, address, id, &flooding));
    // The first tenth fills what is kept on purpose: pools, tables, threads that wait for work.
    let (mut warm, mut next) = (None, Instant::now());
    while start.elapsed() < time {
        sleep(Duration::from_millis(200));
        if warm.is_none() && start.elapsed() > time / 10 {
            warm = Some(look()?);
        }
        if Instant::now() > next {
            show(start, &look()?, &counts);
            next += time / 20;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().map_err(|_| "a fetcher panicked")??;
    }
    let floods = flood.join().map_err(|_| "the flood panicked")??;
    let warm = warm.ok_or("too short")?;
    // Until what was closed is seen to be, or it never is.
    let end = Instant::now() + PATIENCE;
    let settled = |held: &[Held; 2]| {
        (0..2).all(|n| held[n].descriptors <= begin[n].descriptors + FEW && held[n].threads <= warm[n].threads + FEW)
    };
    let mut held = look()?;
    while !settled(&held) && Instant::now() < end {
        sleep(Duration::from_millis(500));
        held = look()?;
    }
    show(start, &held, &counts);
    println!(
        "{floods} floods; at the tenth: {:?} KiB, at the end: {:?} KiB",
        warm.map(|h| h.rss_kib),
        held.map(|h| h.rss_kib)
    );
    Ok(settled(&held) && counts.failed.load(Ordering::Relaxed) == 0)
}
