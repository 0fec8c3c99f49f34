//! What a machine and its users may do to a fetch: start it many times at once (L10), end it by any signal in any phase
//! (L12), give it few descriptors (L7) and small files (L3), or stop it for a while (L9).
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::{MIB, Running, World, closed_port, eventually, number, skipped};
use rustix::process::Signal;
use shoal_tracker::process::hang_up_is_ignored;
use std::path::Path;
use std::time::{Duration, Instant};

fn often(name: &str, few: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

#[test]
fn of_many_fetches_to_one_place_one_does_the_work_and_all_end_well() {
    let starts = often("SHOAL_STARTS", 12);
    let world = World::new();
    world.tree("tree", MIB);
    let seed = world.seed(&["tree"], &["--piece-size", "64K"]);
    let mut fetches: Vec<Running> =
        (0..starts).map(|_| world.fetch(&seed.link, "out", &["--seed-for", "0s"])).collect();
    let (mut changed, mut downloaded) = (0, 0);
    for fetch in &mut fetches {
        let done = fetch.end().ok();
        changed += usize::from(done["changed"] == true);
        downloaded += number(&done, "downloaded");
    }
    world.assert_same("tree", "out");
    let once = number(&world.run(&["show", &seed.link]).ok(), "bytes");
    assert_eq!((changed, downloaded), (1, once), "of {starts}");
}

#[test]
fn what_another_user_left_at_a_place_is_not_gone_on_with() {
    if !rustix::process::geteuid().is_root() {
        skipped("only root can give a file to somebody else");
        return;
    }
    let world = World::new();
    world.file("file", MIB);
    let seed = world.seed(&["file"], &["--piece-size", "64K"]);
    for left in ["out.part.journal", "out.part"] {
        let fetch = world.fetch(&seed.link, "out", &["--max-download", "200K"]);
        fetch.wait_for_done(1);
        fetch.kill();
        let path = world.path(left);
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let done = world.fetch(&seed.link, "out", &["--seed-for", "0s"]).end();
        assert!(done.exits(8).to_string().contains("belongs to another user") && path.exists(), "{left}");
        std::fs::remove_file(&path).unwrap();
    }
    world.fetch(&seed.link, "out", &["--seed-for", "0s"]).end().ok();
    world.assert_same("file", "out");
}

/// What a fetch is doing when the signal comes.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Nobody answers at the link's host.
    Looking,
    /// It knows what it wants, and nobody has it.
    Waiting,
    /// Pieces come.
    Fetching,
    /// It has all and serves.
    Staying,
}

#[test]
fn each_signal_in_each_phase_ends_a_fetch_at_once_and_it_goes_on_later() {
    let world = World::new();
    world.file("file", 6 * MIB);
    let seed = world.seed(&["file"], &["--piece-size", "64K"]);
    // It names nobody who could be asked.
    world.run(&["create", "file", "-o", "m", "--piece-size", "64K"]).ok();
    let dead = format!("http://127.0.0.1:{}/m/{}", closed_port(), seed.id());
    let slow = ["--max-download", "1M"];
    let signals = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 143)];
    // Under `nohup` a fetch minds it no more than we do.
    for (signal, code) in signals.into_iter().filter(|(signal, _)| *signal != Signal::HUP || !hang_up_is_ignored()) {
        for phase in [Phase::Looking, Phase::Waiting, Phase::Fetching, Phase::Staying] {
            let out = format!("out-{}-{phase:?}", signal.as_raw());
            let mut fetch = match phase {
                Phase::Looking => world.fetch(&dead, &out, &[]),
                Phase::Waiting => world.fetch("m", &out, &["--peer", &format!("127.0.0.1:{}", closed_port())]),
                Phase::Fetching => world.fetch(&seed.link, &out, &slow),
                Phase::Staying => world.fetch(&seed.link, &out, &["--seed-for", "forever"]),
            };
            match phase {
                Phase::Looking => fetch.wait_for_talk("waiting for"),
                Phase::Waiting => drop(fetch.wait("progress", |record| record["type"] == "progress")),
                Phase::Fetching => drop(fetch.wait_for_done(1)),
                Phase::Staying => drop(fetch.wait("completion", |record| record["type"] == "complete")),
            }
            let asked = Instant::now();
            fetch.signal(signal);
            let done = fetch.end();
            // Two seconds is the rule; a busy machine gets some more.
            assert!(asked.elapsed() < Duration::from_secs(6), "{signal:?} {phase:?}: {:?}", asked.elapsed());
            let complete = matches!(phase, Phase::Staying);
            assert!(
                done.code == code || (complete && done.code == 0),
                "{signal:?} {phase:?}: {}: {}",
                done.code,
                done.err
            );
            if matches!(phase, Phase::Fetching) {
                let told = done.records.iter().rev().find_map(|record| record["done"].as_u64());
                let kept = told.unwrap_or(0);
                let again = world.fetch(&seed.link, &out, &["--seed-for", "0s"]).end().ok();
                assert!(number(&again, "downloaded") + kept <= 6 * MIB as u64 + MIB as u64 / 8, "{kept}: {again}");
            }
            if matches!(phase, Phase::Fetching | Phase::Staying) {
                world.assert_same("file", &out);
            }
        }
    }
}

/// Waits until a process minds SIGUSR1, which would end it before.
fn wait_for_usr1(pid: u32) {
    eventually("a handler for SIGUSR1", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(mask, 16).unwrap() >> (Signal::USR1.as_raw() - 1) & 1 == 1
    });
}

#[test]
fn a_line_of_progress_may_be_asked_for_while_hashing() {
    let world = World::new();
    std::fs::File::create(world.path("file")).unwrap().set_len(6 << 30).unwrap();
    world.file("next", 1_000);
    let mut seed = world.start(&["seed", "file", "next", "--listen", "127.0.0.1:0", "-qq"]);
    wait_for_usr1(seed.pid());
    seed.signal(Signal::USR1);
    seed.wait_for_talk("file  hashing ");
    seed.wait("the second link", |record| record["type"] == "ready" && record["path"] == "next");
    // What was asked for then is no question to what comes after it.
    seed.signal(Signal::INT);
    let done = seed.end();
    assert_eq!(
        done.err.lines().filter(|line| line.contains("hashing") || line.contains("peers")).count(),
        1,
        "{}",
        done.err
    );
}

#[test]
fn who_is_told_twice_to_leave_says_that_it_did() {
    let world = World::new();
    world.file("file", 6 * MIB);
    let seed = world.seed(&["file"], &["--piece-size", "64K"]);
    let mut at_once = 0;
    for n in 0..20 {
        let mut fetch = world.fetch(&seed.link, &format!("out{n}"), &["--max-download", "1M"]);
        fetch.wait_for_done(1);
        // Both are there when it goes on.
        for signal in [Signal::STOP, Signal::INT, Signal::TERM, Signal::CONT] {
            fetch.signal(signal);
        }
        let done = fetch.end();
        let last = done.records.last().unwrap();
        assert!(last["type"] == "result" && last["exit"] == done.code && [130, 143].contains(&done.code), "{last}");
        // In order it says on stderr what is kept and how to go on.
        at_once += u32::from(!done.err.contains("error:"));
        if at_once == 3 {
            return;
        }
    }
    assert!(at_once > 0, "it always left in order: this shows nothing");
}

#[test]
fn who_is_told_twice_to_leave_does_so_though_nobody_reads_what_it_says() {
    let world = World::new();
    std::fs::create_dir(world.path("tree")).unwrap();
    (0..4_000).for_each(|n| std::fs::write(world.path(&format!("tree/{n:05}")), b"").unwrap());
    world.run(&["create", "tree", "-o", "m"]).ok();
    let mut command = world.peer(&["show", "m", "--files", "--json"]);
    let mut show = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    // A record more doesn't fit, and nobody makes room.
    let pipe = show.stdout.take().unwrap();
    eventually("a full pipe", || rustix::io::ioctl_fionread(&pipe).unwrap() > 60 << 10);
    for signal in [Signal::INT, Signal::TERM] {
        common::signal_pid(show.id().into(), signal);
    }
    let mut code = None;
    eventually("an end", || {
        code = show.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    });
    assert!([Some(Some(130)), Some(Some(143))].contains(&code), "{code:?}");
    drop(pipe);
}

#[test]
fn what_was_begun_inside_a_directory_is_gone_on_with_when_the_host_of_its_link_is_gone() {
    let world = World::new();
    world.tree("tree", 6 * MIB);
    let seed = world.seed(&["tree"], &["--piece-size", "64K"]);
    for place in ["here", "here/tree"] {
        std::fs::create_dir(world.path(place)).unwrap();
    }
    let link = seed.link.clone();
    let fetch = |more: &[&str]| {
        let words = [&["fetch", &link, "--into", "here", "--listen", "127.0.0.1:0"], more].concat();
        world.start(&words)
    };
    let begun = fetch(&["--max-download", "1M"]);
    begun.wait_for_done(MIB as u64);
    begun.kill();
    assert!(world.path("here/tree/.shoal.journal").exists());
    seed.stop();
    let late = fetch(&["--timeout", "3s"]).end();
    assert!(late.err.contains("going on from what here/tree knows"), "{}", late.err);
    late.exits(4);
}

/// A fetch or seed behind `prlimit`.
fn limited(world: &World, limit: &str, words: &[&str]) -> Running {
    let mut all = vec![limit, env!("CARGO_BIN_EXE_peer"), "--json", "--no-config"];
    all.extend(words);
    Running::of(&mut world.command(Path::new("prlimit"), &all), &all)
}

fn has_prlimit() -> bool {
    let found = std::process::Command::new("prlimit").arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        skipped("prlimit is missing");
    }
    found
}

#[test]
fn few_descriptors_mean_fewer_peers_and_no_end() {
    if !has_prlimit() {
        return;
    }
    let world = World::new();
    world.tree("tree", 4 * MIB);
    let seed = limited(&world, "--nofile=64", &["seed", "tree", "--listen", "127.0.0.1:0"]);
    let link = common::text(&seed.wait("a link", |record| record["type"] == "ready"), "link");
    // More who say nothing than it has descriptors for.
    let addr = common::host_of(&link);
    let silent: Vec<_> = (0..100).filter_map(|_| std::net::TcpStream::connect(&addr).ok()).collect();
    let words = ["fetch", &link, "-o", "out", "--listen", "127.0.0.1:0", "--seed-for", "0s"];
    limited(&world, "--nofile=64", &words).end().ok();
    world.assert_same("tree", "out");
    drop(silent);
    eventually("descriptors are given back", || {
        std::fs::read_dir(format!("/proc/{}/fd", seed.pid())).is_ok_and(|dir| dir.count() < 40)
    });
}

#[test]
fn a_limit_on_the_size_of_files_is_a_failure_of_the_machine_and_not_a_crash() {
    if !has_prlimit() {
        return;
    }
    let world = World::new();
    world.file("file", 4 * MIB);
    let seed = world.seed(&["file"], &["--piece-size", "64K"]);
    let words = ["fetch", &seed.link, "-o", "out", "--listen", "127.0.0.1:0", "--seed-for", "0s"];
    let done = limited(&world, "--fsize=1048576", &words).end();
    assert!(done.err.lines().any(|line| line.starts_with("error: ")), "{}", done.err);
    done.exits(6);
    assert!(!world.path("out").exists());
    world.fetch(&seed.link, "out", &["--seed-for", "0s"]).end().ok();
    world.assert_same("file", "out");
}

#[test]
fn a_fetch_that_was_stopped_for_a_while_goes_on() {
    let world = World::new();
    world.file("file", 8 * MIB);
    let seed = world.seed(&["file"], &["--piece-size", "64K", "--max-upload", "3M"]);
    let mut fetch = world.fetch(&seed.link, "out", &["--seed-for", "0s"]);
    fetch.wait_for_done(MIB as u64);
    fetch.signal(Signal::STOP);
    // Long enough for the seed to find that nothing is read; `SHOAL_SECONDS=60` is what a suspended machine is.
    std::thread::sleep(Duration::from_secs(often("SHOAL_SECONDS", 4) as u64));
    fetch.signal(Signal::CONT);
    let done = fetch.end().ok();
    world.assert_same("file", "out");
    assert!(number(&done, "downloaded") <= 8 * MIB as u64 + MIB as u64, "{done}");
    assert_eq!(number(&done, "bad_pieces"), 0);
}
