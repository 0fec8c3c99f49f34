//! Making a manifest, beside b3sum over the same bytes in the page cache.

use crate::Bench;
use crate::row::{Goal, Row};
use crate::shoal::peer;
use benches::{Result, fill};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const LARGE: usize = 2 << 30;
const FILES: usize = 5_000;
const FILE: usize = 400 << 10;

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let large = bench.dir.join("large");
    write_large(&large).map_err(|error| format!("can't write {}: {error}", large.display()))?;
    let mut rows =
        vec![beside_b3sum(bench, "create of 2 GiB, seconds beside b3sum", &large, std::slice::from_ref(&large))?];
    fs::remove_file(&large).map_err(|error| error.to_string())?;
    let tree = bench.dir.join("tree");
    let files = write_tree(&tree).map_err(|error| format!("can't write {}: {error}", tree.display()))?;
    rows.push(beside_b3sum(bench, "create of 5,000 files of 400 KiB, seconds beside b3sum", &tree, &files)?);
    Ok(rows)
}

fn write_large(path: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(path)?;
    let mut buffer = vec![0; 1 << 20];
    for n in 0..LARGE >> 20 {
        fill(n as u64, &mut buffer);
        file.write_all(&buffer)?;
    }
    Ok(())
}

fn write_tree(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut buffer = vec![0; FILE];
    (0..FILES)
        .map(|n| {
            let dir = root.join(format!("{:03}", n / 100));
            fs::create_dir_all(&dir)?;
            fill(n as u64, &mut buffer);
            let path = dir.join(n.to_string());
            fs::write(&path, &buffer)?;
            Ok(path)
        })
        .collect()
}

fn beside_b3sum(bench: &Bench, name: &str, path: &Path, files: &[PathBuf]) -> Result<Row> {
    let mut ratios = Vec::new();
    for round in 0..=bench.rounds {
        // What an earlier round remembered of the hashes would make this one free.
        let _ = fs::remove_dir_all(bench.dir.join("state"));
        let mut create = peer(&bench.peer, &bench.dir);
        let ours = timed(create.args(["create", "-o"]).arg(bench.dir.join("manifest")).arg(path))?;
        fs::remove_file(bench.dir.join("manifest")).map_err(|error| error.to_string())?;
        let theirs = timed(Command::new("b3sum").args(files))?;
        if round > 0 {
            ratios.push(ours / theirs);
        }
    }
    Row::new(name, "times", Goal::AtMost(1.05), ratios)
}

/// Seconds until a command ends well.
fn timed(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if status.success() { Ok(start.elapsed().as_secs_f64()) } else { Err(format!("{command:?} ended with {status}")) }
}
