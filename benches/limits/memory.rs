//! The most memory that a seed and a fetch take.

use crate::Bench;
use crate::row::{Goal, Row};
use crate::shoal::{Talking, fetch, seed};
use benches::Result;
use benches::cost::peak_bytes;
use std::fs;
use std::net::TcpStream;

const MIB: f64 = (1 << 20) as f64;
const GOAL: Goal = Goal::AtMost(64.0);
/// Connections that a seed holds besides.
const CONNECTIONS: usize = 50;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, size, is_fetched) in [("2 GiB", 2_u64 << 30, true), ("50 GiB, sparse", 50 << 30, false)] {
        let source = bench.dir.join("source");
        fs::File::create(&source).and_then(|file| file.set_len(size)).map_err(|error| error.to_string())?;
        let (seed, link) = seed(&bench.peer, &bench.dir, &source)?;
        let host = link.split('/').nth(2).unwrap_or_default();
        let idle: Vec<TcpStream> = (0..CONNECTIONS).map_while(|_| TcpStream::connect(host).ok()).collect();
        if is_fetched {
            let out = bench.dir.join("copy");
            let mut fetch = Talking::start(&mut fetch(&bench.peer, &bench.dir, &link, &out))?;
            fetch.wait_for("complete")?;
            let peak = peak_bytes(fetch.process.0.id())? as f64 / MIB;
            rows.push(Row::new(&format!("most memory of a fetch of {name}"), "MiB", GOAL, vec![peak])?);
            fs::remove_file(&out).map_err(|error| error.to_string())?;
        }
        let peak = peak_bytes(seed.process.0.id())? as f64 / MIB;
        rows.push(Row::new(&format!("most memory of a seed of {name}"), "MiB", GOAL, vec![peak])?);
        drop((seed, idle));
    }
    Ok(rows)
}
