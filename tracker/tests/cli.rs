//! The real binary: output, signals and exit codes.
#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A running tracker, ended when dropped.
struct Running {
    child: Child,
    first_line: String,
    _data: tempfile::TempDir,
}

impl Running {
    fn start(more: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut args = vec!["--listen", "127.0.0.1:0", "--no-config", "--data", data.path().to_str().unwrap()];
        args.extend(more);
        let mut child = command(&args).spawn().unwrap();
        let mut first_line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first_line).unwrap();
        Self { child, first_line: first_line.trim().to_owned(), _data: data }
    }

    fn signal(&mut self, name: &str) -> i32 {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_bare_start_serves_until_it_is_told_to_stop() {
    for name in ["TERM", "INT"] {
        let mut tracker = Running::start(&["--admin-listen", "off"]);
        let url = tracker.first_line.clone();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        assert_eq!(output(&["health", &url]), (0, "ok\n".into(), String::new()));
        assert_eq!(tracker.signal(name), 0, "the normal end of serving");
        let (code, _, error) = output(&["health", &url]);
        assert!(code == 1 && error.starts_with("error: "), "{code} {error}");
    }
}

#[test]
fn programs_get_json_lines_and_the_operator_gets_lists() {
    let mut tracker = Running::start(&["serve", "--admin-listen", "127.0.0.1:0", "--json"]);
    let ready: serde_json::Value = serde_json::from_str(&tracker.first_line).unwrap();
    assert_eq!((&ready["v"], &ready["type"]), (&1.into(), &"ready".into()));
    let admin = ready["admin"].as_str().unwrap();
    let (code, text, _) = output(&["status", admin]);
    assert!(code == 0 && text.contains("swarms 0"), "{text}");
    let (code, text, _) = output(&["swarms", admin, "--json"]);
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((code, &last["type"], &last["ok"]), (0, &"result".into(), &true.into()));
    for (words, variable) in [(&["--json", "--no-such"][..], "0"), (&["--no-such"], "1")] {
        let output = command(words).env("SHOAL_JSON", variable).output().unwrap();
        let last: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &last["kind"], &last["exit"]), (Some(2), &"usage".into(), &2.into()));
    }
    assert_eq!(output(&["swarms", admin, &"ab".repeat(32)]).0, 8);
    assert_eq!(output(&["status", ready["url"].as_str().unwrap()]).0, 8, "the main port lists nothing");
    assert_eq!(tracker.signal("TERM"), 0);
    let mut rest = String::new();
    tracker.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    let result: serde_json::Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&result["type"], &result["exit"]), (&"result".into(), &0.into()));
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tracker.toml");
    std::fs::write(&path, "max-handout = 7\nquiet = 2\nlog-format = 'json'\n").unwrap();
    let file = path.to_str().unwrap();
    let config = |words: &[&str], environment: &[(&str, &str)]| {
        let output = command(words).envs(environment.iter().copied()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line =
            text.lines().find(|line| line.trim_start_matches("# ").starts_with("max-handout =")).map(str::to_owned);
        (output.status.code(), line.unwrap_or_default())
    };
    let five = ("SHOAL_MAX_HANDOUT", "5");
    for (words, environment, expected) in [
        (&["config"][..], &[][..], "# max-handout = 50"),
        (&["--config", file, "config"], &[], "max-handout = 7"),
        (&["config", "--config", file], &[five], "max-handout = 5"),
        (&["--max-handout", "9", "config"], &[five], "max-handout = 9"),
        (&["config", "--max-handout", "8"], &[five], "max-handout = 8"),
        (&["--max-handout", "9", "config", "--max-handout", "8"], &[five], "max-handout = 8"),
        (&["--no-config", "config"], &[("SHOAL_CONFIG", file)], "# max-handout = 50"),
        (&["--config", file, "config"], &[("SHOAL_NO_CONFIG", "1")], "max-handout = 7"),
        (&["config", "--progress", "none"], &[], "# max-handout = 50"),
    ] {
        assert_eq!(config(words, environment), (Some(0), expected.to_owned()), "{words:?} {environment:?}");
    }
    assert_eq!(config(&["--no-config", "--config", file, "config"], &[]).0, Some(2));
    assert_eq!(config(&["config"], &[("SHOAL_NO_CONFIG", "1"), ("SHOAL_CONFIG", file)]).0, Some(2));
}

#[test]
fn a_signal_gets_a_line_of_status_and_a_closing_terminal_may_not_matter() {
    let data = tempfile::tempdir().unwrap();
    let words =
        ["--listen", "127.0.0.1:0", "--admin-listen", "off", "--no-config", "--data", data.path().to_str().unwrap()];
    let mut nohup = Command::new("nohup");
    nohup.arg(env!("CARGO_BIN_EXE_tracker")).args(words).env_clear();
    let mut child = nohup.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let send =
        |name: &str| assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    send("-HUP");
    send("-USR1");
    // Where it says nothing it ends all the same, and the test with it.
    let (id, (over, is_over)) = (child.id().to_string(), std::sync::mpsc::channel());
    let guard = std::thread::spawn(move || {
        if is_over.recv_timeout(std::time::Duration::from_secs(30)).is_err() {
            let _ = Command::new("kill").args(["-9", &id]).status();
        }
    });
    let status = stderr.by_ref().lines().map_while(Result::ok).find(|line| line.contains("swarms 0"));
    assert!(status.is_some(), "it ended, or said nothing");
    send("-TERM");
    let code = child.wait().unwrap().code();
    let _ = over.send(());
    guard.join().unwrap();
    assert_eq!(code, Some(0));
}

#[test]
fn a_home_that_is_no_directory_has_no_configuration() {
    let output = command(&["config"]).env("HOME", "/dev/null").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn failures_have_their_exit_codes() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let tracker = Running::start(&["--admin-listen", "off"]);
    let taken = tracker.first_line.strip_prefix("http://").unwrap();
    let data = directory.path().to_str().unwrap();
    let (unknown, no_ids, plain) = (file("a.toml", "port = 1\n"), file("ids", "xyz\n"), file("plain", ""));
    let below_file = format!("{plain}/data");
    for (args, expected) in [
        (vec!["--port", "1"], 2),
        (vec!["nonsense"], 2),
        (vec!["--no-config", "--max-data", "many"], 2),
        (vec!["--no-config", "--max-handout", "101"], 2),
        (vec!["--no-config", "--admin-listen", "x"], 2),
        (vec!["--config", &unknown], 2),
        (vec!["--config", "/nonexistent.toml"], 6),
        (vec!["--no-config", "--data", data, "--allow", &no_ids], 3),
        (vec!["--no-config", "--data", &below_file], 6),
        (vec!["--no-config", "--data", data, "--admin-listen", "off", "--listen", taken], 6),
        (vec!["status", "http://127.0.0.1:1"], 4),
        (vec!["status", "ftp://x"], 2),
    ] {
        let (code, stdout, stderr) = output(&args);
        assert_eq!(code, expected, "{args:?}: {stderr}");
        assert!(stdout.is_empty() && stderr.starts_with("error: "), "{args:?}: {stdout} {stderr}");
    }
}

#[test]
fn the_configuration_is_printed_as_a_file_that_can_be_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut with_variable = command(&["config", "--no-config", "--max-handout", "7"]);
    let got = with_variable.env("SHOAL_PEER_TTL", "9s").env("SHOAL_TRUST_ADVERTISED", "10.0.0.0/8,fd00::/8");
    let text = String::from_utf8(got.output().unwrap().stdout).unwrap();
    for line in ["max-handout = 7", "peer-ttl = \"9000ms\"", "trust-advertised = [\"10.0.0.0/8\", \"fd00::/8\"]"] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let path = directory.path().join("tracker.toml");
    std::fs::write(&path, &text).unwrap();
    assert_eq!(output(&["config", "--config", path.to_str().unwrap()]).1, text);
    let switches = command(&["config"]).env("SHOAL_NO_CONFIG", "1").env("SHOAL_JSON", "yes").output().unwrap();
    assert!(switches.status.success() && switches.stdout.starts_with(b"{"));
    let (code, text, _) = output(&["--help"]);
    assert!(code == 0 && text.contains("--admin-listen"));
}
