//! The entry points of `fuzz/` on stable: the committed corpora, then inputs made from them, from seeds.
//!
//! `SHOAL_CASES=1000000` sets the number for each entry point, `SHOAL_SEED` where they start, and `SHOAL_ENTRY=frames`
//! takes one. An input that breaks a rule is shown in hex, with what replays it.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]
#![expect(clippy::print_stderr, reason = "how many there were")]

use harness::fuzz::{ENTRIES, Entry, Numbers, mutate};
use std::panic::catch_unwind;
use std::path::Path;
use std::time::Instant;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn check(name: &str, entry: Entry, what: &str, bytes: &[u8]) {
    assert!(catch_unwind(|| entry(bytes)).is_ok(), "{name}, {what}: {}", hex(bytes));
}

fn run(name: &str, cases: u64) {
    if std::env::var("SHOAL_ENTRY").is_ok_and(|one| one != name) {
        return;
    }
    let (_, entry) = *ENTRIES.iter().find(|(n, _)| *n == name).unwrap();
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    for (n, bytes) in corpus.iter().enumerate() {
        check(name, entry, &format!("corpus {n}"), bytes);
    }
    let (cases, first, start) =
        (number("SHOAL_CASES").unwrap_or(cases), number("SHOAL_SEED").unwrap_or(1), Instant::now());
    for seed in first..first.saturating_add(cases) {
        let bytes = mutate(&mut Numbers::new(seed), &corpus);
        check(name, entry, &format!("SHOAL_SEED={seed} SHOAL_CASES=1"), &bytes);
    }
    eprintln!("{name}: {} and {cases} cases in {:.1} s", corpus.len(), start.elapsed().as_secs_f64());
}

#[test]
fn manifest() {
    run("manifest", 50_000);
}

#[test]
fn structure() {
    run("structure", 20_000);
}

#[test]
fn frames() {
    run("frames", 50_000);
}

#[test]
fn session() {
    run("session", 5_000);
}

#[test]
fn announce() {
    run("announce", 20_000);
}

#[test]
fn handout() {
    run("handout", 50_000);
}

#[test]
fn link() {
    run("link", 50_000);
}

#[test]
fn journal() {
    run("journal", 1_000);
}

#[test]
fn any_byte_of_a_journal_may_be_another() {
    // `SHOAL_ALL=1` takes each in its turn; about so many there are in one.
    let step = if std::env::var_os("SHOAL_ALL").is_some() { 1 } else { 23 };
    for kind in [0x0c_u8, 0x0d, 0x0e] {
        for at in (0..5_000_u32).step_by(step) {
            let bytes = [&[kind, 1][..], &at.to_le_bytes(), &[0, 0xff, 1]].concat();
            check("journal", harness::fuzz::journal, &format!("byte {at}"), &bytes);
        }
    }
}

#[test]
fn paths() {
    run("paths", 5_000);
}

#[test]
fn every_entry_point_has_a_target_of_its_own() {
    for (name, _) in ENTRIES {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fuzz/fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(target).unwrap();
        assert!(text.contains(&format!("harness::fuzz::{name}(bytes)")), "{name}");
    }
}
