//! An evil peer for use by hand, against a peer on this machine or in a network of one's own:
//!
//! ```sh
//! cargo run --release -p harness --example evil_peer -- 127.0.0.1:7171 SWARM --mode noise --count 1000000 --time 60
//! ```
//!
//! SWARM is the 64 digits of a content id. `--file FILE --piece-size N` is the content that `corrupt=N%` serves; its
//! other modes need none. It refuses targets that are not on this machine or in a private network.
#![expect(clippy::print_stdout, reason = "a program")]

use harness::evil::{Bounds, PeerMode, play};
use harness::loopback::Content;
use shoal_protocol::ContentId;
use shoal_protocol::address::{Reach, reach};
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

fn run() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    let target: SocketAddr = words.next().and_then(|w| w.parse().ok()).ok_or("first ADDR:PORT")?;
    if reach(target.ip()) > Reach::Private {
        return Err("only targets on this machine or in a private network".into());
    }
    let id: ContentId = words.next().and_then(|w| w.parse().ok()).ok_or("then the content id")?;
    let mut bounds = Bounds { connections: 4, count: 100_000, time: Duration::from_secs(30), seed: 1, addresses: 200 };
    let (mut mode, mut file, mut piece) = (PeerMode::Noise, None, 1 << 18);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word}: not a number: {value}"));
        match word.as_str() {
            "--mode" => mode = value.parse()?,
            "--connections" => bounds.connections = number()? as usize,
            "--addresses" => bounds.addresses = number()? as u32,
            "--count" => bounds.count = number()?,
            "--time" => bounds.time = Duration::from_secs(number()?),
            "--seed" => bounds.seed = number()?,
            "--piece-size" => piece = number()? as u32,
            "--file" => file = Some(std::fs::read(&value).map_err(|e| format!("{value}: {e}"))?),
            _ => return Err(format!("{word} is not known")),
        }
    }
    let content = file.map(|bytes| Content::of_bytes(bytes, piece));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let start = Instant::now();
    let tally = runtime.block_on(play(mode, target, id.open_swarm(), content.as_ref(), bounds));
    println!(
        "{mode:?}: {} connections, {} frames, {} spoilt, in {:.1} s",
        tally.connected.load(Ordering::Relaxed),
        tally.sent.load(Ordering::Relaxed).min(bounds.count),
        tally.refused.load(Ordering::Relaxed),
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
