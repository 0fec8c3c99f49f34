//! How soon a seed serves again, and a fetch asks again, after a restart.

use crate::Bench;
use crate::row::{Goal, Row};
use crate::shoal::{Talking, fetch, peer, seed};
use benches::Result;
use benches::cost::Running;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

const SEED: u64 = 50 << 30;
const FETCH: u64 = 20 << 30;
const GOAL: Goal = Goal::AtMost(200.0);
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// More bytes in one direction than a handshake has: payload flows.
const PAYLOAD: u64 = 64 << 10;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let source = bench.dir.join("source");
    let sparse = |size| fs::File::create(&source).and_then(|file| file.set_len(size)).map_err(|e| e.to_string());
    sparse(SEED)?;
    // The first start hashes everything.
    drop(seed(&bench.peer, &bench.dir, &source)?);
    let mut served = Vec::new();
    for _ in 0..bench.rounds {
        let start = Instant::now();
        let (seed, link) = seed(&bench.peer, &bench.dir, &source)?;
        get(&link)?;
        served.push(start.elapsed().as_secs_f64() * 1e3);
        drop(seed);
    }
    sparse(FETCH)?;
    let asked = resume(bench, &source)?;
    Ok(vec![
        Row::new("restart of a seed of 50 GiB, until it has answered", "ms", GOAL, served)?,
        Row::new("resume of a fetch of 20 GiB, until payload flows", "ms", GOAL, asked)?,
    ])
}

/// Asks a seed for its manifest.
fn get(link: &str) -> Result<()> {
    let (host, path) = link.trim_start_matches("http://").split_once('/').ok_or("no link")?;
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..answer.len().min(16)]).into_owned())
    };
    let answer = ask().map_err(|error| format!("the seed doesn't answer: {error}"))?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("the seed answers {answer}")) }
}

/// Starts a fetch again and again, each time until payload has come, and kills it.
fn resume(bench: &Bench, source: &std::path::Path) -> Result<Vec<f64>> {
    let manifest = bench.dir.join("manifest");
    let mut create = peer(&bench.peer, &bench.dir);
    let status = create.args(["create", "-o"]).arg(&manifest).arg(source).stdout(Stdio::null()).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err("no manifest could be made".to_owned());
    }
    let (_seed, link) = seed(&bench.peer, &bench.dir, source)?;
    let host = link.split('/').nth(2).and_then(|host| host.parse().ok()).ok_or("a link without an address")?;
    let (flows, when) = channel();
    let relay = relay(host, flows).map_err(|error| error.to_string())?;
    let mut values = Vec::new();
    for round in 0..=bench.rounds {
        while when.try_recv().is_ok() {}
        let start = Instant::now();
        let out = bench.dir.join("copy");
        let mut command = fetch(&bench.peer, &bench.dir, &manifest.to_string_lossy(), &out);
        command.args(["--max-download", "64MiB", "--peer", &relay.to_string()]);
        let mut fetch: Running = Talking::start(&mut command)?.process;
        let asked: Instant = when.recv_timeout(PATIENCE).map_err(|_| "no payload flows")?;
        // A round without anything on disk isn't a resume; then some time to have something to go on from.
        if round > 0 {
            values.push(asked.duration_since(start).as_secs_f64() * 1e3);
        } else {
            std::thread::sleep(Duration::from_secs(2));
        }
        fetch.0.kill().and_then(|()| fetch.0.wait()).map_err(|error| error.to_string())?;
    }
    Ok(values)
}

/// Passes connections on to a peer and tells when a connection's payload begins to come.
fn relay(to: SocketAddr, flows: Sender<Instant>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let here = listener.local_addr()?;
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(to) else { continue };
            let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
            let flows = flows.clone();
            std::thread::spawn(move || pass(near, far, |_| ()));
            std::thread::spawn(move || {
                let mut told = false;
                pass(far_too, near_too, |total| {
                    if !told && total > PAYLOAD {
                        told = true;
                        let _ = flows.send(Instant::now());
                    }
                });
            });
        }
    });
    Ok(here)
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(u64)) {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        total += read as u64;
        note(total);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
