//! A fault at each system call of a small fetch that changes something on the disk: killed there, told of an error of the
//! disk, told that it is full. What is under the final name is always right, and the same command ends it.
//!
//! Needs `strace`. By default a part of the calls is tried, spread over all; `SHOAL_FAULTS=all` takes every one.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::trace::signal_traced;
use common::trace::{CALLS, can_trace, counted, sites};
use common::{Running, World};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A fetch to `out` under strace.
fn traced(world: &World, link: &str, more: &[&str], options: &[&str]) -> Running {
    let mut words = vec!["--json", "--no-config", "fetch", link, "-o", "out", "--listen", "127.0.0.1:0"];
    words.extend(["--seed-for", "0s", "--stall-timeout", "60s"]);
    words.extend(more);
    common::trace::traced(world, options, Path::new(env!("CARGO_BIN_EXE_peer")), &words)
}

fn clean(world: &World) {
    let _ = fs::remove_dir_all(world.path("out"));
    let _ = fs::remove_dir_all(world.path("out.part"));
    let _ = fs::remove_file(world.path("out.part.journal"));
    let _ = fs::remove_dir_all(world.path("state"));
}

/// How often each call is made by a fetch without faults.
fn calls(world: &World, link: &str, more: &[&str]) -> BTreeMap<String, usize> {
    let trace = format!("trace={CALLS}");
    traced(world, link, more, &["-e", &trace, "-o", "trace"]).end().ok();
    world.assert_same("tree", "out");
    let trace = fs::read_to_string(world.path("trace")).unwrap();
    let names = |line: &&str| line.contains("rename") && line.contains("/out\"");
    // The last one that has the name: the first one of a repair takes it away.
    let last = trace.lines().filter(names).count();
    let after: Vec<&str> = trace
        .lines()
        .skip_while({
            let mut left = last;
            move |line| {
                left -= usize::from(names(line));
                left > 0
            }
        })
        .collect();
    let flushed = after.iter().any(|line| line.contains("fsync("));
    assert!(flushed, "the name may not survive a power cut: {after:#?}");
    let out = counted(&world.path("trace"), CALLS);
    clean(world);
    out
}

/// Has a fetch meet a fault at each call, and then runs it again. `prepare` makes what is there before, and `check` looks at
/// what no fault may touch.
#[expect(clippy::print_stderr, reason = "how much was tried")]
fn at_each_call(world: &World, link: &str, more: &[&str], prepare: impl Fn(), check: impl Fn(&str)) {
    prepare();
    let calls = calls(world, link, more);
    let (mut tried, mut stopped) = (0, 0);
    for (call, at) in sites(&calls) {
        for fault in ["signal=SIGKILL", "error=EIO", "error=ENOSPC"] {
            prepare();
            let inject = format!("inject={call}:{fault}:when={at}");
            let trace = format!("trace={call}");
            let first = traced(world, link, more, &["-e", &trace, "-e", &inject, "-o", "/dev/null"]).end();
            let what = format!("{call} {at}, {fault}: {}", first.err);
            tried += 1;
            match (fault, first.code) {
                // Not every call decides: a record that can't be kept, a hint to the disk.
                (_, 0) => world.assert_same("tree", "out"),
                ("signal=SIGKILL", code) => assert!(code == 137 || code == -1, "{code}: {what}"),
                (_, code) => {
                    assert_eq!(code, 6, "{what}");
                    let line = first.err.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
                    assert!(line.len() > 12 && line.len() < 400, "{what}");
                }
            }
            stopped += usize::from(first.code != 0);
            check(&what);
            let again = world.fetch(link, "out", &[&["--seed-for", "0s"], more].concat()).end();
            assert_eq!(again.code, 0, "the second run, after {what}\n{}", again.err);
            world.assert_same("tree", "out");
            check(&what);
            for left in ["out.part", "out.part.journal", "out.part.journal.new"] {
                assert!(!world.path(left).exists(), "{left} is left after {what}");
            }
            clean(world);
        }
    }
    let sites: usize = calls.values().sum();
    eprintln!("{sites} calls of {} kinds, {tried} faults, {stopped} ended the fetch: {calls:?}", calls.len());
    assert!(calls.len() >= 6 && stopped > tried / 2);
}

#[test]
fn a_fault_at_any_call_costs_no_more_than_a_second_run() {
    if !can_trace() {
        return;
    }
    let world = World::new();
    for (n, size) in [700, 0, 5_000, 150_000, 70_000].into_iter().enumerate() {
        world.file(&format!("tree/d{}/f{n}", n % 2), size);
    }
    fs::create_dir(world.path("tree/empty")).unwrap();
    std::os::unix::fs::symlink("d0/f0", world.path("tree/link")).unwrap();
    let seed = world.seed(&["tree"], &["--piece-size", "64K"]);
    let whole = |_: &str| {
        if world.path("out").exists() {
            // Whenever it has its name.
            world.assert_same("tree", "out");
        }
    };
    at_each_call(&world, &seed.link, &[], || {}, whole);
}

#[test]
fn a_fault_at_any_call_of_a_repair_leaves_a_second_name_alone() {
    if !can_trace() {
        return;
    }
    let world = World::new();
    let data = world.file("tree/big", 300_000);
    world.file("tree/small", 700);
    let seed = world.seed(&["tree"], &["--piece-size", "64K"]);
    let mut mine = data.clone();
    mine[100_000] ^= 1;
    mine.extend(b"more");
    let prepare = || {
        fs::create_dir(world.path("out")).unwrap();
        fs::write(world.path("mine"), &mine).unwrap();
        fs::hard_link(world.path("mine"), world.path("out/big")).unwrap();
    };
    let untouched = |what: &str| assert!(fs::read(world.path("mine")).unwrap() == mine, "{what}");
    at_each_call(&world, &seed.link, &["--repair"], prepare, untouched);
}

#[test]
fn an_end_that_is_asked_for_while_all_is_flushed_is_told_as_what_it_is() {
    if !can_trace() {
        return;
    }
    let world = World::new();
    world.file("tree/file", 150_000);
    let seed = world.seed(&["tree"], &[]);
    let slow = ["-e", "trace=syncfs", "-e", "inject=syncfs:delay_enter=2000000", "-o", "/dev/null"];
    let mut fetch = traced(&world, &seed.link, &[], &slow);
    fetch.wait_for_done(150_000);
    signal_traced(&fetch, Signal::INT);
    let done = fetch.end();
    assert!(done.err.contains("done: "), "{}", done.err);
    done.ok();
    world.assert_same("tree", "out");
}
