//! Runs Shoal's programs as anyone would, without what the user set for real work.

use benches::Result;
use benches::cost::Running;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

/// A command of the peer, with its state in `home`.
pub(crate) fn peer(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_")) {
        command.env_remove(name);
    }
    command.env("XDG_STATE_HOME", home.join("state")).args(["--no-config", "--json", "--progress", "none"]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// A process and what it says, record by record.
pub(crate) struct Talking {
    pub(crate) process: Running,
    said: BufReader<ChildStdout>,
}

impl Talking {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdout(Stdio::piped()).spawn();
        let mut process = Running(child.map_err(|error| format!("{}: {error}", command.get_program().display()))?);
        let said = BufReader::new(process.0.stdout.take().ok_or("a process without an output")?);
        Ok(Self { process, said })
    }

    /// Waits for a record of this type.
    pub(crate) fn wait_for(&mut self, kind: &str) -> Result<Value> {
        loop {
            let mut line = String::new();
            if self.said.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
                return Err(format!("it ended before it said \"{kind}\""));
            }
            let record: Value = serde_json::from_str(&line).map_err(|error| format!("it said {line}: {error}"))?;
            if record["type"] == kind {
                return Ok(record);
            }
            if record["type"] == "result" && record["exit"] != 0 {
                return Err(format!("it failed: {record}"));
            }
        }
    }
}

/// A seed of a path, and its link.
pub(crate) fn seed(program: &Path, home: &Path, path: &Path) -> Result<(Talking, String)> {
    let mut command = peer(program, home);
    let mut seed = Talking::start(command.args(["seed", "--listen", "127.0.0.1:0"]).arg(path))?;
    let link = seed.wait_for("ready")?["link"].as_str().unwrap_or_default().to_owned();
    Ok((seed, link))
}

/// A fetch that doesn't stay when it is done.
pub(crate) fn fetch(program: &Path, home: &Path, what: &str, out: &Path) -> Command {
    let mut command = peer(program, home);
    command.args(["fetch", "--listen", "127.0.0.1:0", "--seed-for", "0s", what, "-o"]).arg(out);
    command
}
