//! Real processes move real files: what arrives is what was sent, wherever it goes and however it is asked for.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::{MIB, Running, World, closed_port, eventually, host_of, number, port_of, server, text};
use rustix::process::Signal;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_file_and_a_tree_arrive_whole_over_ipv4_and_ipv6() {
    let world = World::new();
    world.file("file.bin", 3 * MIB + 17);
    world.tree("tree", 2 * MIB);
    for (n, (seed, fetch)) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0"), ("[::]:0", "[::]:0")]
            .iter()
            .enumerate()
    {
        let seed = world.seed_at(seed, &["file.bin", "tree"], &[]);
        for (link, name) in seed.links.iter().zip(["file.bin", "tree"]) {
            // A seed on all addresses prints one of a network; here only loopback is certain.
            let port = link.rsplit('/').nth(2).unwrap().rsplit(':').next().unwrap();
            let host = if fetch.starts_with('[') { "[::1]" } else { "127.0.0.1" };
            let id = link.rsplit('/').next().unwrap();
            let link = format!("http://{host}:{port}/m/{id}");
            let out = format!("out{n}-{name}");
            let done = world.run(&["fetch", &link, "-o", &out, "--listen", fetch]).ok();
            assert!(done["changed"] == true && text(&done, "id") == id);
            world.assert_same(name, &out);
        }
    }
}

#[test]
fn sizes_at_every_edge_arrive_whole() {
    let world = World::new();
    let piece = 64 << 10;
    let sizes = [0, 1, 1023, 1025, piece - 1, piece, piece + 1, 2 * piece - 1, 2 * piece, 4 * piece + 1];
    let names: Vec<String> = sizes.iter().map(|size| format!("f{size}")).collect();
    for (name, size) in names.iter().zip(sizes) {
        world.file(name, size);
        world.file(&format!("tree/{name}"), size);
    }
    fs::create_dir_all(world.path("hollow/a/b")).unwrap();
    fs::create_dir(world.path("bare")).unwrap();
    let mut paths: Vec<&str> = names.iter().map(String::as_str).collect();
    paths.extend(["tree", "hollow", "bare"]);
    let seed = world.seed(&paths, &["--piece-size", "64K"]);
    let mut fetches: Vec<Running> = Vec::new();
    for (path, link) in paths.iter().zip(&seed.links) {
        fetches.push(world.fetch(link, &format!("out-{path}"), &[]));
    }
    for (path, mut fetch) in paths.iter().zip(fetches) {
        fetch.end().ok();
        world.assert_same(path, &format!("out-{path}"));
    }
}

#[test]
fn eight_fetches_at_once_share_the_work() {
    let world = World::new();
    world.tree("tree", 12 * MIB);
    let tracker = world.tracker();
    let seed = world.seed(&["tree"], &["--tracker", &tracker.url]);
    assert!(seed.link.starts_with(&tracker.url), "{} {}", seed.link, tracker.url);
    let fetches: Vec<Running> = (0..8).map(|n| world.fetch(&seed.link, &format!("out{n}"), &[])).collect();
    let mut bytes = 0;
    for (n, mut fetch) in fetches.into_iter().enumerate() {
        bytes = number(&fetch.end().ok(), "bytes");
        world.assert_same("tree", &format!("out{n}"));
    }
    let result = seed.stop();
    let copies = number(&result, "sent") as f64 / bytes as f64;
    eprintln!("eight fetches: the origin sent {copies:.2} copies");
    assert!(copies < 4.0, "the origin sent {copies:.2} copies to eight fetches");
    drop(tracker);
}

/// A reverse proxy that gives out what is at `to` below `/shoal`.
fn proxy(to: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&to).unwrap();
            let ways = [(client.try_clone().unwrap(), server.try_clone().unwrap(), true), (server, client, false)];
            for (mut from, mut to, is_request) in ways {
                std::thread::spawn(move || {
                    let mut chunk = vec![0; 64 << 10];
                    while let Some(read) = from.read(&mut chunk).ok().filter(|read| *read > 0) {
                        let mut bytes = chunk[..read].to_vec();
                        let below = b" /shoal/";
                        match bytes.windows(below.len()).position(|w| w == below).filter(|_| is_request) {
                            Some(at) => drop(bytes.splice(at..at + below.len(), *b" /")),
                            None if is_request && bytes.windows(4).any(|w| w == b"HTTP") => return,
                            None => {}
                        }
                        if to.write_all(&bytes).is_err() {
                            return;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    port
}

#[test]
fn a_tracker_may_lie_below_a_path() {
    let world = World::new();
    world.file("file", MIB);
    let tracker = world.tracker();
    let below = format!("http://127.0.0.1:{}/shoal", proxy(host_of(&tracker.url)));
    let seed = world.seed(&["file"], &["--tracker", &below]);
    assert!(seed.link.starts_with(&format!("{below}/m/")), "{}", seed.link);
    // Nothing but an announce below that path tells it where the seed is.
    world.fetch(&seed.link, "out", &["--seed-for", "0s"]).end().ok();
    world.assert_same("file", "out");
    let plan = world.fetch(&seed.link, "other", &["--dry-run"]).end().ok();
    assert_eq!(number(&plan, "seeds"), 1, "{plan}");
}

#[test]
fn the_place_is_what_was_asked_for() {
    let world = World::new();
    world.tree("tree", MIB);
    let seed = world.seed(&["tree"], &["--manifest", "m"]);
    world.run(&["fetch", &seed.link, "--into", "in/to", "--listen", "127.0.0.1:0"]).ok();
    world.assert_same("tree", "in/to/tree");
    // An empty directory is filled, and stays the directory that it was.
    fs::create_dir(world.path("empty")).unwrap();
    let before = std::os::unix::fs::MetadataExt::ino(&fs::metadata(world.path("empty")).unwrap());
    world.fetch(&seed.link, "empty", &[]).end().ok();
    world.assert_same("tree", "empty");
    assert_eq!(before, std::os::unix::fs::MetadataExt::ino(&fs::metadata(world.path("empty")).unwrap()));
    // A manifest on stdin, and the path on stdout.
    let mut command = world.peer(&["fetch", "-", "-o", "stdin", "--peer", &seed.addr(), "--listen", "127.0.0.1:0"]);
    let done = Running::of(command.stdin(fs::File::open(world.path("m")).unwrap()), &["fetch", "-"]).end();
    assert_eq!((done.code, done.out.as_slice()), (0, &b"stdin\n"[..]), "{}", done.err);
    world.assert_same("tree", "stdin");
}

#[test]
fn a_manifest_file_and_one_peer_are_enough() {
    let world = World::new();
    world.file("file", 2 * MIB);
    world.run(&["create", "file", "-o", "m"]).ok();
    // No tracker at all: this one listens to a tracker that is dead and has nothing else.
    let dead = format!("http://127.0.0.1:{}", closed_port());
    let seed = world.start(&["seed", "file", "--listen", "127.0.0.1:0", "--tracker", &dead]);
    let peer = format!("127.0.0.1:{}", port_of(seed.pid()));
    world.fetch("m", "out", &["--peer", &peer]).end().ok();
    world.assert_same("file", "out");
}

#[test]
fn a_fetching_peer_gives_the_link_to_newcomers() {
    let world = World::new();
    world.file("file", 6 * MIB);
    let seed = world.seed(&["file"], &["--max-upload", "2M"]);
    let first = world.fetch(&seed.link, "one", &["--seed-for", "60s", "--no-resume"]);
    first.wait_for_done(1);
    let link = format!("http://127.0.0.1:{}/m/{}", port_of(first.pid()), seed.id());
    world.fetch(&link, "two", &[]).end().ok();
    world.assert_same("file", "two");
}

#[test]
fn who_may_not_upload_sends_nothing() {
    let world = World::new();
    world.file("file", 4 * MIB);
    let seed = world.seed(&["file"], &["--max-upload", "4M"]);
    let mut quiet = world.fetch(&seed.link, "one", &["--no-upload"]);
    let mut other = world.fetch(&seed.link, "two", &[]);
    assert_eq!(number(&quiet.end().ok(), "sent"), 0);
    other.end().ok();
    world.assert_same("file", "one");
    world.assert_same("file", "two");
}

#[test]
fn a_complete_target_is_answered_without_any_network() {
    let world = World::new();
    world.tree("tree", MIB);
    let seed = world.seed(&["tree"], &["--manifest", "m"]);
    world.fetch(&seed.link, "out", &[]).end().ok();
    seed.stop();
    // Port 1 of the range is taken by this test: a fetch that opened its port would fail.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    for more in [&[][..], &["--seed-for", "0s"], &["--seed-for", "1h", "--no-upload"]] {
        let done = world.run(&[&["fetch", "m", "-o", "out", "--listen", &listen], more].concat()).ok();
        assert!(done["changed"] == false && done["downloaded"] == 0, "{done}");
    }
}

#[test]
fn a_complete_target_needs_nobody_but_its_link() {
    let world = World::new();
    world.tree("tree", MIB);
    world.file("file", MIB);
    for name in ["tree", "file"] {
        let seed = world.seed(&[name], &[]);
        let link = seed.link.clone();
        // Not flushed, which a later one makes up for.
        world.fetch(&link, "out", &["--sync", "none"]).end().ok();
        world.run(&["fetch", &link, "--into", "dir", "--seed-for", "0s"]).ok();
        let plan = world.fetch(&link, "out", &["--dry-run"]).end().ok();
        assert_eq!(number(&plan, "to_fetch"), 0, "{plan}");
        if name == "tree" {
            // While its server is there, it says what the link means.
            fs::rename(world.path("dir/tree"), world.path("dir/mine")).unwrap();
            let words = ["fetch", &link, "--into", "dir", "--seed-for", "0s", "--listen", "127.0.0.1:0"];
            assert_eq!(world.run(&words).ok()["path"], "dir/tree");
            fs::remove_dir_all(world.path("dir/mine")).unwrap();
        }
        seed.stop();
        let done = world.run(&["fetch", &link, "-o", "out"]);
        assert!(done.err.contains("already complete") && !done.err.contains("waiting"), "{}", done.err);
        let done = done.ok();
        assert!(done["changed"] == false && done["path"] == "out", "{done}");
        let done = world.run(&["fetch", &link, "--into", "dir"]).ok();
        assert_eq!(done["path"], format!("dir/{name}"), "{done}");
        // Under a name of one's own it may not be what the link means; its server is asked once, but not waited for.
        if name == "tree" {
            fs::rename(world.path("dir/tree"), world.path("dir/own")).unwrap();
            assert_eq!(world.run(&["fetch", &link, "--into", "dir"]).ok()["path"], "dir/own");
            // Whoever is at the address now has no say.
            let other = link.replace(&host_of(&link), &format!("127.0.0.1:{}", server("403 Forbidden", Vec::new())));
            assert_eq!(world.run(&["fetch", &other, "--into", "dir"]).ok()["path"], "dir/own");
        }
        // What was edited since is another matter.
        let edited = if name == "tree" { "out/new" } else { "out" };
        fs::write(world.path(edited), "edited").unwrap();
        world.run(&["fetch", &link, "-o", "out", "--timeout", "300ms"]).exits(4);
        let _ = fs::remove_dir_all(world.path("out"));
    }
}

#[test]
fn what_differs_is_refused_replaced_or_repaired_as_asked() {
    let world = World::new();
    let data = world.file("file", 4 * MIB);
    let seed = world.seed(&["file"], &["--manifest", "m"]);
    world.fetch(&seed.link, "out", &[]).end().ok();
    let mut edited = data.clone();
    edited[3 * MIB] ^= 1;
    fs::write(world.path("out"), &edited).unwrap();
    let refused = world.fetch("m", "out", &["--peer", &seed.addr()]).end();
    assert!(refused.err.contains("--repair") && refused.err.contains("--overwrite"), "{}", refused.err);
    assert_eq!(refused.exits(8)["kind"], "refused");
    assert_eq!(fs::read(world.path("out")).unwrap(), edited, "a refusal touches nothing");
    let repaired = world.fetch(&seed.link, "out", &["--repair"]).end().ok();
    world.assert_same("file", "out");
    assert!(number(&repaired, "downloaded") < 4 * MIB as u64 / 2, "only bad pieces travel: {repaired}");
    fs::write(world.path("out"), &edited).unwrap();
    let bad = world.run(&["verify", &seed.link, "out"]);
    let range = bad.records.iter().find(|record| record["type"] == "bad").unwrap();
    let (start, end) = (number(range, "start"), number(range, "end"));
    assert!(end - start == 64 << 10 && (start..end).contains(&(3 * MIB as u64)), "the piece and no more: {range}");
    bad.exits(5);
    world.fetch(&seed.link, "out", &["--overwrite"]).end().ok();
    world.assert_same("file", "out");
    // A copy holds the right bytes and is found complete by reading them.
    fs::copy(world.path("out"), world.path("copy")).unwrap();
    assert_eq!(world.fetch(&seed.link, "copy", &[]).end().ok()["changed"], false);
    assert_eq!(world.run(&["verify", &seed.link, "copy"]).code, 0);
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let world = World::new();
    world.file("file", MIB);
    let seed = world.seed(&["file"], &[]);
    let plan = world.fetch(&seed.link, "out", &["--dry-run"]).end().ok();
    assert_eq!((number(&plan, "bytes"), plan["exists"] == false), (MIB as u64, true));
    assert_eq!((number(&plan, "seeds"), number(&plan, "peers_reachable")), (1, 1), "{plan}");
    assert!(
        !world.path("out").exists() && !world.path("out.part").exists() && !world.path("out.part.journal").exists()
    );
}

#[test]
fn rate_limits_hold() {
    let world = World::new();
    world.file("file", 24 * MIB);
    for (limit_seed, limit_fetch) in [("8M", "0"), ("0", "8M")] {
        let seed = world.seed(&["file"], &["--max-upload", limit_seed]);
        let out = format!("out{limit_seed}");
        let done = world.fetch(&seed.link, &out, &["--max-download", limit_fetch]).end().ok();
        let inside = done["elapsed_s"].as_f64().unwrap();
        // Too slow may be the machine's fault, too fast can't be.
        assert!(inside > 3.0 * 0.93, "24 MiB at 8 MiB/s took {inside} s with {limit_seed} and {limit_fetch}");
        eprintln!("24 MiB at 8 MiB/s took {inside} s");
        assert!(inside < 6.0, "24 MiB at 8 MiB/s took {inside} s");
    }
}

#[test]
fn a_seed_ends_when_its_condition_is_met() {
    let world = World::new();
    world.file("file", 3 * MIB);
    for condition in ["complete=2", "copies=2", "uploaded=3M", "idle=3s"] {
        let mut seed = world.seed(&["file"], &["--stop-when", condition, "--timeout", "50s"]);
        let name = condition.replace('=', "");
        let mut fetches: Vec<Running> =
            (0..2).map(|n| world.fetch(&seed.link, &format!("{name}{n}"), &["--seed-for", "60s"])).collect();
        let result = seed.running.end().ok();
        let row = &result["contents"][0];
        match condition {
            "complete=2" => assert_eq!(row["finished_peers"], 2, "{row}"),
            "copies=2" => assert!(row["copies"].as_f64().unwrap() >= 2.0, "{row}"),
            "uploaded=3M" => assert!(number(row, "sent") >= 3 * MIB as u64, "{row}"),
            _ => assert!(number(row, "sent") >= 3 * MIB as u64, "it didn't wait for who was fetching: {row}"),
        }
        for fetch in &mut fetches {
            fetch.wait("completion", |record| record["type"] == "complete");
            fetch.signal(Signal::INT);
            fetch.end().ok();
        }
    }
    let mut seed = world.seed(&["file"], &["--stop-when", "complete=1", "--timeout", "1s"]);
    assert_eq!(seed.running.end().exits(7)["kind"], "incomplete");
}

#[test]
fn a_seed_with_few_places_knows_of_those_whom_it_never_met() {
    let world = World::new();
    world.file("file", MIB);
    let options = ["--max-peers", "1", "--stop-when", "complete=5", "--timeout", "50s"];
    let mut seed = world.seed(&["file"], &options);
    let fetches: Vec<Running> =
        (0..5).map(|n| world.fetch(&seed.link, &format!("out{n}"), &["--seed-for", "60s"])).collect();
    let result = seed.running.end().ok();
    assert_eq!(result["contents"][0]["finished_peers"], 5, "{result}");
    for fetch in &fetches {
        fetch.signal(Signal::INT);
    }
    fetches.into_iter().for_each(|mut fetch| drop(fetch.end().ok()));
}

#[test]
fn a_fetch_gives_up_when_told_and_says_what_is_missing() {
    let world = World::new();
    world.file("file", 8 * MIB);
    let seed = world.seed(&["file"], &["--max-upload", "500K"]);
    let late = world.fetch(&seed.link, "late", &["--timeout", "3s"]).end();
    assert!(late.err.contains("pieces are missing") && late.err.contains("run the same command again"), "{}", late.err);
    assert_eq!(late.exits(7)["retry"], true);
    assert!(world.path("late.part").exists() && !world.path("late").exists());
    // Stopped, not closed: nothing comes any more, and nobody says why.
    let fetch = world.fetch(&seed.link, "stalled", &["--stall-timeout", "3s"]);
    fetch.wait_for_done(1);
    seed.running.signal(Signal::STOP);
    let mut fetch = fetch;
    let stalled = fetch.end();
    seed.running.signal(Signal::CONT);
    assert!(stalled.err.contains("pieces are missing"), "{}", stalled.err);
    stalled.exits(7);
}

#[test]
fn a_background_process_serves_on_and_ends() {
    let world = World::new();
    world.tree("tree", MIB);
    let seed = world.seed(&["tree"], &[]);
    let start = Instant::now();
    // What is set for the one is not for the other: its first word is waited for.
    let words = ["fetch", &seed.link, "-o", "out", "--listen", "127.0.0.1:0", "--seed-for", "8s", "--background"];
    let done = Running::of(world.peer(&words).env("SHOAL_JSON", "1"), &words).end();
    let listed = world.background();
    done.ok();
    assert_eq!(listed.len(), 1);
    let port = number(&listed[0], "port");
    seed.stop();
    let link = format!("http://127.0.0.1:{port}/m/{}", text(&listed[0], "id"));
    world.fetch(&link, "later", &[]).end().ok();
    world.assert_same("tree", "later");
    eventually("the background process ends by itself", || world.background().is_empty());
    assert!(start.elapsed() >= Duration::from_secs(8));
}

#[test]
fn a_background_process_outlives_who_reads_what_its_fetch_says() {
    let world = World::new();
    world.file("file", MIB);
    let seed = world.seed(&["file"], &[]);
    let words = ["fetch", &seed.link, "-o", "out", "--listen", "127.0.0.1:0", "--seed-for", "60s", "--background"];
    let mut child = world.peer(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(world.background().len(), 1);
    world.end_background();
}

#[test]
fn a_host_that_says_nothing_keeps_nobody_from_asking_others() {
    let world = World::new();
    world.file("file", MIB);
    let seed = world.seed(&["file"], &[]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = format!("http://{}/m/{}", silent.local_addr().unwrap(), seed.id());
    world.fetch(&link, "out", &["--peer", &seed.addr(), "--timeout", "20s", "--seed-for", "0s"]).end().ok();
    world.assert_same("file", "out");
}

#[test]
fn a_complete_target_is_served_when_asked() {
    let world = World::new();
    world.tree("tree", MIB);
    let seed = world.seed(&["tree"], &[]);
    world.fetch(&seed.link, "out", &[]).end().ok();
    let again = world.fetch(&seed.link, "out", &["--seed-for", "60s"]);
    again.wait("completion", |record| record["type"] == "complete");
    let link = format!("http://127.0.0.1:{}/m/{}", port_of(again.pid()), seed.id());
    seed.stop();
    world.fetch(&link, "newcomer", &[]).end().ok();
    world.assert_same("tree", "newcomer");
}

#[test]
fn a_closed_stdout_ends_a_fetch_quietly() {
    let world = World::new();
    world.file("file", MIB);
    let seed = world.seed(&["file"], &["--max-upload", "400K"]);
    // Its path is all that a fetch has to say there; the other one tells of each step.
    for (out, more, code) in [("out", &[][..], 0), ("other", &["--json", "--progress", "json"], 143)] {
        let mut command = world.peer(&["fetch", &seed.link, "-o", out, "--listen", "127.0.0.1:0"]);
        let mut child = command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!talk.contains("error") && !talk.contains("panicked"), "{talk}");
        assert_eq!((output.status.code(), world.path(out).exists()), (Some(code), code == 0), "{talk}");
    }
    world.assert_same("file", "out");
}
