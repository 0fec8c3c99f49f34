//! Shoal as anyone would run it: `peer seed` once, `peer fetch` for each copy.

use crate::{Result, Source, System};
use benches::cost::{Cost, Running, Whole, count, run};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

/// Part of the record that a fetch prints once everything is verified, flushed and under its final name. After that it
/// may stay a while to serve others.
const COMPLETE: &str = r#""type":"complete""#;

/// A seed that serves the source.
pub(crate) struct Shoal {
    program: PathBuf,
    state: PathBuf,
    link: String,
    seed: Running,
    /// Kept open: the seed says more at its end.
    _told: BufReader<ChildStdout>,
}

impl Shoal {
    pub(crate) fn start(program: &Path, source: &Source, dir: &Path) -> Result<Self> {
        let state = dir.join("state");
        let mut command = command(program, &state);
        command.args(["seed", "--listen", "127.0.0.1:0"]).arg(&source.path);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut seed = Running(child.map_err(|error| format!("{}: {error}", program.display()))?);
        let mut told = BufReader::new(seed.0.stdout.take().ok_or("the seed has no output")?);
        let link = loop {
            let mut line = String::new();
            if told.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
                return Err("the seed ended before it served".to_owned());
            }
            let record: Value =
                serde_json::from_str(&line).map_err(|error| format!("the seed said {line}: {error}"))?;
            if let Some(link) = record["link"].as_str() {
                break link.to_owned();
            }
        };
        Ok(Self { program: program.to_owned(), state, link, seed, _told: told })
    }
}

/// Without what the user set for real work.
fn command(program: &Path, state: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_")) {
        command.env_remove(name);
    }
    command.env("XDG_STATE_HOME", state).args(["--no-config", "--json", "--progress", "none"]);
    command
}

impl System for Shoal {
    fn name(&self) -> &'static str {
        "shoal"
    }

    fn run(&mut self, _: &Source, targets: &[PathBuf]) -> Result<Cost> {
        let fetch = |target: &PathBuf| {
            let mut command = command(&self.program, &self.state);
            command.args(["fetch", "--listen", "127.0.0.1:0", &self.link, "--output"]).arg(target);
            command
        };
        count(&[self.seed.0.id()], || run(targets.iter().map(fetch), Whole::Said(COMPLETE)))
    }
}
