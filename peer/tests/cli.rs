//! The real binary: exit codes, what it prints where, and what it refuses.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary with nothing of the surrounding environment that could change what it does.
fn peer(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peer"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_")) {
        command.env_remove(name);
    }
    command.env("XDG_STATE_HOME", dir.join("state")).env("XDG_CONFIG_HOME", dir.join("config"));
    command.env_remove("RUST_LOG").current_dir(dir).stdin(Stdio::null());
    command
}

fn run(dir: &Path, words: &[&str]) -> Output {
    peer(dir).args(words).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Every line of stdout as JSON; the last one must be the result.
fn records(output: &Output) -> Vec<serde_json::Value> {
    let records: Vec<serde_json::Value> = out(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().all(|record| record["v"] == 1 && record["t"].as_str().unwrap().ends_with('Z')));
    assert_eq!(records.last().unwrap()["type"], "result");
    records
}

/// A tree with a big file, an empty one and a name that `b3sum` escapes.
fn tree(dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let files = vec![
        ("back\\slash", b"one".to_vec()),
        ("deep/er/empty", Vec::new()),
        ("large file", (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect()),
    ];
    for (name, data) in &files {
        let path = dir.join("model").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
    files
}

#[test]
fn wrong_words_exit_with_2_and_help_with_0() {
    let dir = tempfile::tempdir().unwrap();
    for words in [
        &["fetch"][..],
        &[],
        &["no-such-command"],
        &["fetch", "x", "--port", "1"],
        &["fetch", "x", "--include", "*"],
        &["fetch", "x", "--overwrite", "--repair"],
        &["fetch", "x", "-o", "a", "--into", "b"],
        &["fetch", "x", "-o", "-"],
        &["fetch", "x", "--id", "12"],
        &["seed"],
        &["seed", "x", "--stop-when", "nonsense"],
        &["seed", "x", "--max-upload", "12X"],
        &["seed", "a", "b", "--name", "c"],
        &["create", "x", "--piece-size", "3M"],
    ] {
        let output = run(dir.path(), words);
        assert_eq!(code(&output), 2, "{words:?}: {}", err(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}");
    }
    for words in [&["--help"][..], &["--version"], &["fetch", "--help"], &["seed", "-h"]] {
        let output = run(dir.path(), words);
        assert_eq!((code(&output), output.stdout.is_empty()), (0, false), "{words:?}");
    }
    assert!(!out(&run(dir.path(), &["--help"])).contains("background-serve"));
    for (words, variable) in [(&["fetch", "--json"][..], "no"), (&["fetch", "--no-such"], "1")] {
        let output = peer(dir.path()).args(words).env("SHOAL_JSON", variable).output().unwrap();
        assert_eq!(code(&output), 2);
        let result = records(&output).pop().unwrap();
        assert!(result["ok"] == false && result["exit"] == 2 && result["kind"] == "usage", "{result}");
    }
    let output = peer(dir.path()).arg("fetch").env("SHOAL_JSON", "off").output().unwrap();
    assert!(output.stdout.is_empty());
}

#[test]
fn what_excludes_each_other_is_an_error_only_where_both_stand_in_one_place() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("peer.toml"), "overwrite = true\n").unwrap();
    // Where nothing is wrong with the words, there is no such manifest: 3.
    for (environment, words, expected) in [
        (&[("SHOAL_INTO", "/d")][..], &["fetch", "none", "-o", "x"][..], 3),
        (&[("SHOAL_OVERWRITE", "false")], &["fetch", "none", "--repair"], 3),
        (&[("SHOAL_OVERWRITE", "1")], &["fetch", "none", "--repair"], 3),
        (&[("SHOAL_OVERWRITE", "1"), ("SHOAL_REPAIR", "1")], &["fetch", "none"], 2),
        (&[("SHOAL_CONFIG", "peer.toml")], &["fetch", "none", "--repair"], 3),
        (&[("SHOAL_CONFIG", "nowhere")], &["fetch", "none", "--no-config"], 3),
        (&[("SHOAL_NO_CONFIG", "1")], &["fetch", "none", "--config", "nowhere"], 6),
        (&[], &["fetch", "none", "--config", "peer.toml", "--no-config"], 2),
    ] {
        let output = peer(dir.path()).args(words).envs(environment.iter().copied()).output().unwrap();
        assert_eq!(code(&output), expected, "{environment:?} {words:?}: {}", err(&output));
    }
}

#[test]
fn a_manifest_is_made_shown_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let files = tree(dir.path());
    let made = run(dir.path(), &["create", "model", "-o", "m", "-t", "http://10.0.0.1:7070"]);
    assert_eq!(code(&made), 0, "{}", err(&made));
    let id = out(&made).trim().to_owned();
    assert_eq!(id.len(), 64);

    let shown = run(dir.path(), &["show", "m", "--files"]);
    assert_eq!(code(&shown), 0);
    let text = out(&shown);
    assert!(text.contains(&id) && text.contains("large file") && text.contains("http://10.0.0.1:7070"), "{text}");
    let shown = records(&run(dir.path(), &["show", "m", "--files", "--json"]));
    assert_eq!(shown.iter().filter(|record| record["type"] == "entry").count(), files.len());
    assert_eq!(shown.last().unwrap()["bytes"], 300_003);

    let sums = out(&run(dir.path(), &["show", "m", "--b3sum"]));
    let line = |(name, data): &(&str, Vec<u8>)| {
        let mark = if name.contains('\\') { "\\" } else { "" };
        format!("{mark}{}  {}\n", blake3::hash(data).to_hex(), name.replace('\\', "\\\\"))
    };
    assert_eq!(sums, files.iter().map(line).collect::<String>());

    let good = run(dir.path(), &["verify", "m"]);
    assert_eq!(code(&good), 0, "{}", err(&good));
    assert!(good.stdout.is_empty());
    let large = dir.path().join("model/large file");
    let mut data = std::fs::read(&large).unwrap();
    data[200_000] ^= 1;
    std::fs::write(&large, data).unwrap();
    let bad = run(dir.path(), &["verify", "m", "model", "--json"]);
    assert_eq!(code(&bad), 5);
    let records = records(&bad);
    assert!(records.iter().any(|record| record["type"] == "bad" && record["path"] == "large file"));
    assert_eq!(records.last().unwrap()["kind"], "integrity");
    assert!(err(&bad).contains("large file: bytes "), "{}", err(&bad));
}

#[test]
fn a_manifest_goes_through_pipes() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let made = run(dir.path(), &["create", "model"]);
    assert_eq!(code(&made), 0);
    std::fs::write(dir.path().join("m"), &made.stdout).unwrap();
    let mut show = peer(dir.path());
    show.args(["show", "-"]).stdin(std::fs::File::open(dir.path().join("m")).unwrap());
    let shown = show.output().unwrap();
    assert_eq!((code(&shown), out(&shown).contains("model")), (0, true));
    assert_eq!(code(&run(dir.path(), &["create", "model", "--json"])), 2);
}

#[test]
fn bad_input_exits_with_3_and_a_wrong_id_with_5() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let manifest = run(dir.path(), &["create", "model"]).stdout;
    std::fs::write(dir.path().join("good"), &manifest).unwrap();
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("text", b"hello"),
        ("json", b"{}"),
        ("future", br#"{"shoal":2,"kind":"file"}"#),
        ("cut", &manifest[..manifest.len() / 2]),
        ("binary", b"\x89shoalm\x01\xff"),
    ] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        for words in [&["show", name][..], &["verify", name], &["fetch", name]] {
            let output = run(dir.path(), words);
            assert_eq!(code(&output), 3, "{words:?}: {}", err(&output));
            assert!(err(&output).starts_with("error: ") && output.stdout.is_empty(), "{words:?}");
        }
    }
    assert_eq!(code(&run(dir.path(), &["show", "not-there"])), 3);
    let output = run(dir.path(), &["fetch", "good", "--id", &"0".repeat(64)]);
    assert_eq!(code(&output), 5, "{}", err(&output));
    let link = format!("http://127.0.0.1:9/m/{}#key", "ab".repeat(32));
    let output = run(dir.path(), &["fetch", &link]);
    assert_eq!(code(&output), 3);
    assert!(err(&output).contains("private swarms"), "{}", err(&output));
}

/// A port at which nobody listens.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_link_that_nobody_serves_exits_with_4_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let link = format!("http://127.0.0.1:{}/m/{}", closed_port(), "ab".repeat(32));
    let start = Instant::now();
    let output = run(dir.path(), &["fetch", &link, "--timeout", "1s", "--json"]);
    assert_eq!(code(&output), 4, "{}", err(&output));
    assert!(start.elapsed() < Duration::from_secs(10));
    let result = records(&output).pop().unwrap();
    assert!(result["kind"] == "unreachable" && result["retry"] == true, "{result}");
    assert!(err(&output).contains("waiting for 127.0.0.1:"), "{}", err(&output));
}

/// Answers every request with the same bytes.
fn server(body: Vec<u8>) -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    port
}

#[test]
fn a_link_is_held_to_its_id() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let manifest = run(dir.path(), &["create", "model"]).stdout;
    let id = records(&run(dir.path(), &["create", "model", "-o", "m", "--json"])).pop().unwrap()["id"].clone();
    let port = server(manifest);
    let good = run(dir.path(), &["show", &format!("http://127.0.0.1:{port}/m/{}", id.as_str().unwrap())]);
    assert_eq!(code(&good), 0, "{}", err(&good));
    let free = run(dir.path(), &["show", &format!("http://127.0.0.1:{port}/any.manifest")]);
    assert_eq!(code(&free), 0);
    let other = run(dir.path(), &["show", &format!("http://127.0.0.1:{port}/m/{}", "ab".repeat(32))]);
    assert_eq!(code(&other), 5);
    let junk = run(dir.path(), &["show", &format!("http://127.0.0.1:{}/x", server(b"<html>".to_vec()))]);
    assert_eq!(code(&junk), 3);
}

#[cfg(unix)]
#[test]
fn a_closed_stdout_is_quiet() {
    use std::os::unix::process::ExitStatusExt as _;
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    std::fs::write(dir.path().join("m"), run(dir.path(), &["create", "model"]).stdout).unwrap();
    let mut show = peer(dir.path());
    let mut child = show.args(["show", "m", "--files"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), None);
    assert_eq!(err(&output), "");
}

#[test]
fn what_comes_from_outside_is_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["show", "no\u{1b}[31mfile"]);
    assert_eq!(code(&output), 3);
    assert!(!err(&output).contains('\u{1b}') && err(&output).contains("\\u{1b}"), "{:?}", err(&output));
}

#[test]
fn the_configuration_file_is_read_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config/shoal");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("peer.toml"), "tipo = 1\n").unwrap();
    let output = run(dir.path(), &["show", "x"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("peer.toml: 'tipo'"), "{}", err(&output));
    assert_eq!(code(&run(dir.path(), &["--no-config", "show", "x"])), 3);
    std::fs::write(config.join("peer.toml"), "json = true\n").unwrap();
    assert_eq!(records(&run(dir.path(), &["show", "x"])).len(), 1);
    let output = peer(dir.path()).args(["show", "x"]).env("SHOAL_JSON", "false").output().unwrap();
    assert!(output.stdout.is_empty(), "the environment beats the file");
    assert_eq!(code(&run(dir.path(), &["show", "x", "--config", "missing.toml"])), 6);
}

#[cfg(unix)]
#[test]
fn a_host_that_says_nothing_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let link = format!("http://{}/m/{}", silent.local_addr().unwrap(), "ab".repeat(32));
    let mut child = peer(dir.path()).args(["fetch", &link]).stderr(Stdio::null()).spawn().unwrap();
    let _accepted = silent.accept().unwrap();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let asked = std::time::Instant::now();
    let output = run(dir.path(), &["fetch", &link, "--timeout", "1s"]);
    assert_eq!(code(&output), 4, "{}", err(&output));
    // It would wait for half a minute when nobody says otherwise.
    assert!(asked.elapsed() < std::time::Duration::from_secs(12), "{:?}", asked.elapsed());
}

#[cfg(unix)]
#[test]
fn a_signal_while_waiting_is_told_by_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, expected) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let link = format!("http://127.0.0.1:{}/m/{}", closed_port(), "ab".repeat(32));
        let mut child = peer(dir.path()).args(["fetch", &link]).stderr(Stdio::piped()).spawn().unwrap();
        // It says whom it waits for only after its signal handlers stand.
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        std::io::BufRead::read_line(&mut stderr, &mut String::new()).unwrap();
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(expected));
    }
}
