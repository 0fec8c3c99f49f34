//! Fetching what is there already: the answer comes from a record, for one file and for many.

use crate::Bench;
use crate::row::{Goal, Row};
use crate::shoal::{fetch, seed};
use benches::Result;
use std::fs;
use std::process::Stdio;
use std::time::Instant;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for files in [1_u32, 20_000] {
        let tree = bench.dir.join(format!("tree-{files}"));
        for n in 0..files {
            let dir = tree.join((n / 500).to_string());
            fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
            fs::write(dir.join(n.to_string()), n.to_le_bytes()).map_err(|error| error.to_string())?;
        }
        let (seed, link) = seed(&bench.peer, &bench.dir, &tree)?;
        let out = bench.dir.join(format!("copy-{files}"));
        let run = || {
            let start = Instant::now();
            let mut command = fetch(&bench.peer, &bench.dir, &link, &out);
            // Staying is not asked for, or the network would be needed.
            command.stdout(Stdio::null());
            let status = command.status().map_err(|error| error.to_string())?;
            if status.success() { Ok(start.elapsed().as_secs_f64() * 1e3) } else { Err(format!("ended with {status}")) }
        };
        run()?;
        drop(seed);
        let values = (0..bench.rounds).map(|_| run()).collect::<Result<_>>()?;
        let goal = 50.0 + 0.01 * f64::from(files);
        let name = format!("fetch of what is there already, {files} files, its seed gone");
        rows.push(Row::new(&name, "ms", Goal::AtMost(goal), values)?);
    }
    Ok(rows)
}
