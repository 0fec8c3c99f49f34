//! A tree of many small files, beside tar to tar through a loopback socket.

use crate::Bench;
use crate::row::{Goal, Row};
use crate::shoal::{Talking, fetch, seed};
use benches::Result;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const FILES: u32 = 100_000;
const FILE: usize = 4_096;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let tree = bench.dir.join("tree");
    let mut buffer = vec![0; FILE];
    for n in 0..FILES {
        let dir = tree.join((n / 1_000).to_string());
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        benches::fill(u64::from(n), &mut buffer);
        fs::write(dir.join(n.to_string()), &buffer).map_err(|error| error.to_string())?;
    }
    let (_seed, link) = seed(&bench.peer, &bench.dir, &tree)?;
    let mut ratios = Vec::new();
    for round in 0..=bench.rounds {
        let out = bench.dir.join("copy");
        let start = Instant::now();
        let mut fetch = Talking::start(&mut fetch(&bench.peer, &bench.dir, &link, &out))?;
        fetch.wait_for("complete")?;
        let ours = start.elapsed().as_secs_f64();
        drop(fetch);
        check(&out)?;
        fs::create_dir(&out).map_err(|error| error.to_string())?;
        let start = Instant::now();
        tar(&tree, &out).map_err(|error| format!("tar: {error}"))?;
        let theirs = start.elapsed().as_secs_f64();
        check(&out)?;
        if round > 0 {
            ratios.push(ours / theirs);
        }
    }
    let name = "tree of 100,000 files of 4 KiB, seconds beside tar to tar by a socket";
    Ok(vec![Row::new(name, "times", Goal::AtMost(1.2), ratios)?])
}

/// `tar c` here, a socket, `tar x` there.
fn tar(from: &Path, to: &Path) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let out = TcpStream::connect(listener.local_addr()?)?;
    let (input, _) = listener.accept()?;
    let mut pack = Command::new("tar").arg("-C").arg(from).args(["-c", "."]).stdout(Stdio::piped()).spawn()?;
    let mut unpack = Command::new("tar").arg("-C").arg(to).arg("-x").stdin(Stdio::piped()).spawn()?;
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            if let Some(mut packed) = pack.stdout.take() {
                io::copy(&mut packed, &mut &out)?;
            }
            out.shutdown(Shutdown::Write)
        });
        if let Some(mut unpacked) = unpack.stdin.take() {
            io::copy(&mut &input, &mut unpacked)?;
        }
        sent.join().unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")))
    })?;
    if pack.wait()?.success() && unpack.wait()?.success() { Ok(()) } else { Err(io::Error::other("it failed")) }
}

/// Every file is there with its length; the bytes are Shoal's own business, and tar's.
fn check(out: &Path) -> Result<()> {
    for n in 0..FILES {
        let path = out.join((n / 1_000).to_string()).join(n.to_string());
        if !path.metadata().is_ok_and(|found| found.len() == FILE as u64) {
            return Err(format!("{} is missing", path.display()));
        }
    }
    fs::remove_dir_all(out).map_err(|error| error.to_string())
}
