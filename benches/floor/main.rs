//! The least that a transfer can cost: per copy one thread that sends a file with sendfile(2), and one that receives,
//! hashes and writes it. No protocol, no pieces, no second source, nothing to resume: what a real program spends above
//! this is the price of those. Nothing of Shoal is in it.
//!
//! `floor SOURCE TARGET...` moves SOURCE to every TARGET over loopback at the same time and prints each copy's BLAKE3.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a program is for")]

use rustix::net::sockopt::set_tcp_congestion;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

/// What is received before it is hashed and written: it fits into a core's second cache.
const BUFFER: usize = 1 << 20;
const PAGE: usize = 4_096;

fn main() -> ExitCode {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), targets) = (paths.next(), paths.collect::<Vec<_>>()) else {
        eprintln!("usage: floor SOURCE TARGET...");
        return ExitCode::from(2);
    };
    match run(&source, &targets) {
        Ok(roots) => {
            for (root, target) in roots.iter().zip(&targets) {
                println!("{root}  {}", target.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(source: &Path, targets: &[PathBuf]) -> io::Result<Vec<blake3::Hash>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let mut receivers = Vec::new();
        for target in targets {
            // Connecting takes no thread on the other side, so this can't wait for itself.
            let stream = TcpStream::connect(address)?;
            let (peer, _) = listener.accept()?;
            scope.spawn(move || send(source, &peer).unwrap_or_else(|error| eprintln!("sending: {error}")));
            receivers.push(scope.spawn(move || receive(stream, target)));
        }
        let join = |receiver: thread::ScopedJoinHandle<'_, io::Result<blake3::Hash>>| {
            receiver.join().unwrap_or_else(|_| Err(io::Error::other("a receiver panicked")))
        };
        receivers.into_iter().map(join).collect()
    })
}

fn send(source: &Path, stream: &TcpStream) -> io::Result<()> {
    set_tcp_congestion(stream, "cubic")?;
    let file = File::open(source)?;
    let (mut at, end) = (0, file.metadata()?.len());
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        if rustix::fs::sendfile(stream, &file, Some(&mut at), most)? == 0 {
            return Err(io::Error::other("the file became shorter"));
        }
    }
    Ok(())
}

fn receive(mut stream: TcpStream, target: &Path) -> io::Result<blake3::Hash> {
    set_tcp_congestion(&stream, "cubic")?;
    let file = File::create(target)?;
    let mut hasher = blake3::Hasher::new();
    // From the beginning of a page: copies between pages that lie alike are the quicker ones.
    let mut memory = vec![0; BUFFER + PAGE];
    let start = memory.as_ptr().align_offset(PAGE);
    let buffer = &mut memory[start..start + BUFFER];
    let mut at = 0;
    loop {
        let mut filled = 0;
        while filled < BUFFER {
            match stream.read(&mut buffer[filled..])? {
                0 => break,
                more => filled += more,
            }
        }
        hasher.update(&buffer[..filled]);
        file.write_all_at(&buffer[..filled], at)?;
        at += filled as u64;
        if filled < BUFFER {
            return Ok(hasher.finalize());
        }
    }
}
