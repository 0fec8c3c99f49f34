//! A fault at each system call of a seed and of a tracker that changes something on the disk, as `faults` has them for a
//! fetch: what they serve afterwards is right, and when they start again all is as it was.
//!
//! Needs `strace`; `SHOAL_FAULTS=all` takes every call.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::trace::{CALLS, can_trace, counted, signal_traced, sites, traced};
use common::{Running, World, host_of, skipped, text};
use rustix::process::Signal;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const FAULTS: [&str; 3] = ["signal=SIGKILL", "error=EIO", "error=ENOSPC"];

/// Waits until it serves or has ended; gives what it said of where.
fn serves(running: &Running, field: &str) -> Option<String> {
    running.wait_or_end(|record| record["type"] == "ready").map(|record| text(&record, field))
}

/// What may come of a fault: served to the end, killed, or a failure of this machine that was told in one line.
fn ended_well(mut running: Running, what: &str) {
    signal_traced(&running, Signal::INT);
    let done = running.end();
    assert!([0, 6, 137, -1].contains(&done.code), "{}: {what}: {}", done.code, done.err);
    if done.code == 6 {
        assert!(done.err.lines().any(|line| line.starts_with("error: ") && line.len() < 400), "{what}: {}", done.err);
    }
}

#[test]
fn a_fault_at_any_call_of_a_seed_changes_nothing_of_what_it_serves() {
    if !can_trace() {
        return;
    }
    let world = World::new();
    world.file("tree/one", 200_000);
    world.file("tree/two", 70);
    let peer = Path::new(env!("CARGO_BIN_EXE_peer"));
    let words = ["--json", "--no-config", "seed", "tree", "--listen", "127.0.0.1:0", "--piece-size", "64K"];
    let clean = || drop(fs::remove_dir_all(world.path("state")));
    let first = traced(&world, &["-e", &format!("trace={CALLS}"), "-o", "trace"], peer, &words);
    let link = serves(&first, "link").unwrap();
    let id = link.rsplit('/').next().unwrap().to_owned();
    ended_well(first, "no fault");
    let calls = counted(&world.path("trace"), CALLS);
    clean();
    let (mut tried, mut served) = (0, 0);
    for (call, at) in sites(&calls) {
        for fault in FAULTS {
            let (inject, trace) = (format!("inject={call}:{fault}:when={at}"), format!("trace={call}"));
            let what = format!("{call} {at}, {fault}");
            let seed = traced(&world, &["-e", &trace, "-e", &inject, "-o", "/dev/null"], peer, &words);
            tried += 1;
            if let Some(link) = serves(&seed, "link") {
                assert!(link.ends_with(&id), "{what}: {link}");
                // It may be killed while it serves; then this is not the fetch to judge.
                let mut fetch = world.fetch(&link, "out", &["--seed-for", "0s", "--timeout", "20s"]);
                if fetch.end().code == 0 {
                    served += 1;
                    world.assert_same("tree", "out");
                }
                let _ = fs::remove_dir_all(world.path("out"));
            }
            ended_well(seed, &what);
            let again = world.seed(&["tree"], &["--piece-size", "64K"]);
            assert_eq!(again.id(), id, "{what}: another content after it");
            world.fetch(&again.link, "out", &["--seed-for", "0s"]).end().ok();
            world.assert_same("tree", "out");
            again.stop();
            let _ = fs::remove_dir_all(world.path("out"));
            clean();
        }
    }
    eprintln!("a seed: {tried} faults, {served} served all the same: {calls:?}");
    assert!(tried > 0);
}

/// One request by hand: its status, 0 if there was no answer, and body.
fn http(url: &str, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(host_of(url))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "{head} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)?;
        let mut out = Vec::new();
        stream.read_to_end(&mut out)?;
        Ok(out)
    };
    let out = exchange().unwrap_or_default();
    let status = out.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok()).unwrap_or(0);
    let at = out.windows(4).position(|w| w == b"\r\n\r\n").map_or(out.len(), |at| at + 4);
    (status, out[at..].to_vec())
}

#[test]
fn a_fault_at_any_call_of_a_tracker_loses_nothing_that_it_said_it_has() {
    // `write` is how it fills its files; errors of it would hit the runtime's wakers too, so there it is only killed.
    const WRITE: &str = "write";
    if !can_trace() {
        return;
    }
    let program = World::tracker_program();
    let world = World::new();
    world.file("tree/one", 200_000);
    world.file("tree/two", 70);
    world.run(&["create", "tree", "-o", "m", "--piece-size", "64K"]).ok();
    let manifest = fs::read(world.path("m")).unwrap();
    let id = text(&world.run(&["show", "m"]).ok(), "id");
    let (put, get) = (format!("PUT /m/{id}"), format!("GET /m/{id}"));
    let words = ["--json", "--no-config", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--data", "tracker-data"];
    let clean = || drop(fs::remove_dir_all(world.path("tracker-data")));
    let calls = format!("{CALLS},{WRITE}");
    let first = traced(&world, &["-e", &format!("trace={calls}"), "-o", "trace"], &program, &words);
    let url = serves(&first, "url").unwrap();
    assert_eq!(http(&url, &put, &manifest).0, 201);
    let whole = http(&url, &get, b"").1;
    ended_well(first, "no fault");
    let calls = counted(&world.path("trace"), &calls);
    clean();
    let (mut tried, mut taken) = (0, 0);
    for (call, at) in sites(&calls) {
        for fault in FAULTS.into_iter().filter(|fault| call != WRITE || fault.starts_with("signal")) {
            let (inject, trace) = (format!("inject={call}:{fault}:when={at}"), format!("trace={call}"));
            let what = format!("{call} {at}, {fault}");
            let tracker = traced(&world, &["-e", &trace, "-e", &inject, "-o", "/dev/null"], &program, &words);
            tried += 1;
            let url = serves(&tracker, "url");
            let said = url.as_deref().map_or(0, |url| http(url, &put, &manifest).0);
            assert!([0, 200, 201, 500, 503, 507].contains(&said), "{what}: {said}");
            if let Some(url) = url.filter(|_| said / 100 == 5) {
                // It told of its trouble; what it has is nothing or right.
                let (status, body) = http(&url, &get, b"");
                assert!(status == 404 || status == 0 || body == whole, "{what}: {status}");
            }
            ended_well(tracker, &what);
            let again = world.tracker();
            let (status, body) = http(&again.url, &get, b"");
            assert!(matches!(status, 200 | 404), "{what}: {status} after it");
            assert!(status == 404 || body == whole, "{what}: another manifest after it");
            if said / 100 == 2 {
                taken += 1;
                assert_eq!(status, 200, "{what}: it had taken it");
            }
            assert_eq!(http(&again.url, &put, &manifest).0 / 100, 2, "{what}");
            assert_eq!(http(&again.url, &get, b""), (200, whole.clone()), "{what}");
            again.kill();
            clean();
        }
    }
    eprintln!("a tracker: {tried} faults, {taken} times the manifest was taken all the same: {calls:?}");
    assert!(tried > 0);
}

#[test]
fn a_limit_on_the_size_of_files_refuses_a_manifest_and_does_not_end_a_tracker() {
    if !Command::new("prlimit").arg("--version").output().is_ok_and(|o| o.status.success()) {
        skipped("prlimit is missing");
        return;
    }
    let program = World::tracker_program();
    let world = World::new();
    world.file("tree/one", 200_000);
    world.run(&["create", "tree", "-o", "m", "--piece-size", "64K"]).ok();
    let manifest = fs::read(world.path("m")).unwrap();
    let id = text(&world.run(&["show", "m"]).ok(), "id");
    let (put, get) = (format!("PUT /m/{id}"), format!("GET /m/{id}"));
    let mut words = vec!["--fsize=16", program.to_str().unwrap(), "--json", "--no-config", "--listen", "127.0.0.1:0"];
    words.extend(["--admin-listen", "off", "--data", "tracker-data"]);
    let tracker = Running::of(&mut world.command(Path::new("prlimit"), &words), &words);
    let url = serves(&tracker, "url").unwrap();
    for _ in 0..2 {
        let (status, body) = http(&url, &put, &manifest);
        assert_eq!(status / 100, 5, "{status}: {}", String::from_utf8_lossy(&body));
    }
    assert_eq!(http(&url, &get, b"").0, 404);
    tracker.signal(Signal::INT);
    let mut tracker = tracker;
    assert_eq!(tracker.end().code, 0);
}
