//! Hostile manifests by every door of the real binary: exit 3, one clear line, nothing written anywhere.
//!
//! The table is that of the corpus tier in `tests/`, which runs all of it inside one process. Here a few of each row
//! start a process for each door; `SHOAL_CORPUS=all` takes every one.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;
#[path = "../../tests/corpus/manifests.rs"]
mod manifests;

use bytes::BytesMut;
use common::{World, closed_port, server};
use manifests::{Case, cases};
use shoal_protocol::codec::Codec;
use shoal_protocol::handshake::{GREETING_BYTES, Greeting};
use shoal_protocol::message::Hello;
use shoal_protocol::{Manifest, Message, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};

/// Of each row the first, the middle and the last, in both spellings; or all.
fn chosen() -> Vec<Case> {
    let all = cases();
    if std::env::var("SHOAL_CORPUS").is_ok_and(|v| v == "all") {
        return all;
    }
    let mut rows: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in all {
        let row = case.name.split(' ').next().unwrap_or_default().to_owned();
        let binary = case.bytes.first() == Some(&0x89);
        rows.entry(format!("{row} {binary} {}", case.good)).or_default().push(case);
    }
    let some = |row: Vec<Case>| [0, row.len() / 2, row.len() - 1].map(|at| row[at].clone());
    rows.into_values().flat_map(some).filter(|case| case.bytes.len() < 1 << 20).collect()
}

/// Everything below a directory but the state of the program itself.
fn everything(world: &World) -> BTreeSet<String> {
    let list = common::listing(&world.path("."));
    let shown = list.into_iter().map(|(path, node)| format!("{} {node:?}", path.display()));
    shown.filter(|line| !line.starts_with("state")).collect()
}

/// How deep below the world the program runs, so that ways up end inside it.
const BELOW: &str = "a/b/c/d";

fn peer(world: &World, words: &[&str], stdin: &[u8]) -> Output {
    let mut command = world.peer(&["--json", "--no-config"]);
    command.args(words).current_dir(world.path(BELOW));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may have seen enough before all is written.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn check(case: &Case, door: &str, output: &Output, code: i32) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{} by {door}: {err}", case.name);
    let line = err.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(line.len() > 12 && line.len() < 400, "{} by {door}: {err}", case.name);
    assert!(!err.chars().any(|c| c.is_control() && c != '\n'), "{} by {door}: {err:?}", case.name);
    assert!(!err.contains("panicked"), "{} by {door}: {err}", case.name);
    let last: serde_json::Value =
        serde_json::from_slice(output.stdout.split(|b| *b == b'\n').rfind(|l| !l.is_empty()).unwrap()).unwrap();
    assert_eq!(last["exit"], code, "{} by {door}", case.name);
}

/// A peer that gives out this manifest, proof and all, by the hash of its bytes. One segment only.
fn evil_holder(bytes: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move |mut stream: TcpStream, bytes: &[u8]| -> std::io::Result<()> {
        stream.read_exact(&mut [0; GREETING_BYTES])?;
        stream.write_all(&Greeting { random: [3; 16] }.to_bytes())?;
        let (mut codec, mut buffer, mut chunk) = (Codec::default(), BytesMut::new(), [0; 4096]);
        loop {
            let mut answer = BytesMut::new();
            match codec.next(&mut buffer).map_err(std::io::Error::other)? {
                Some(Message::Hello(theirs)) => {
                    let ours = Hello { peer: PeerId([9; 16]), needs_manifest: false, ..*theirs };
                    Message::Hello(Box::new(ours)).encode(&mut answer);
                }
                Some(Message::ManifestRequest { segment }) => {
                    let (total, data) = (bytes.len() as u32, bytes.to_vec().into());
                    Message::ManifestSegment { total, segment, proof: Vec::new(), data }.encode(&mut answer);
                }
                Some(_) => {}
                None => {
                    let read = stream.read(&mut chunk)?;
                    if read == 0 {
                        return Ok(());
                    }
                    buffer.extend_from_slice(&chunk[..read]);
                }
            }
            stream.write_all(&answer)?;
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream, &bytes);
        }
    });
    port
}

#[test]
fn every_door_refuses_what_is_no_manifest_and_writes_nothing() {
    let world = World::new();
    std::fs::create_dir_all(world.path(BELOW)).unwrap();
    world.file(&format!("{BELOW}/there/x"), 10);
    let mut tried = 0;
    for case in chosen() {
        let hash = blake3::hash(&case.bytes);
        let id = Manifest::parse(&case.bytes).map_or_else(|_| hash.to_string(), |good| good.id().to_string());
        std::fs::write(world.path(&format!("{BELOW}/bad")), &case.bytes).unwrap();
        let before = everything(&world);
        let port = server("200 OK", case.bytes.clone());
        let (url, link) = (format!("http://127.0.0.1:{port}/x"), format!("http://127.0.0.1:{port}/m/{id}"));
        let out = ["--into", "there", "--listen", "127.0.0.1:0", "--timeout", "20s"];
        let fetch = |what: &str, more: &[&str]| [&["fetch", what][..], &out, more].concat().join("\n");
        let dead = format!("http://127.0.0.1:{}/m/{hash}", closed_port());
        let holder = format!("127.0.0.1:{}", evil_holder(case.bytes.clone()));
        let mut doors = vec![
            ("a file", fetch("bad", &[])),
            ("stdin", fetch("-", &[])),
            ("a URL", fetch(&url, &[])),
            ("a link", fetch(&link, &[])),
            ("show", "show\nbad".into()),
            ("show of a link", format!("show\n{link}")),
            ("verify", "verify\nbad\nthere".into()),
            ("a dry run", fetch("bad", &["--dry-run"])),
        ];
        if (1..32_768).contains(&case.bytes.len()) {
            doors.push(("a peer", fetch(&dead, &["--peer", &holder])));
        }
        for (door, words) in doors {
            if case.good && !door.starts_with("show") {
                // Nobody has its content; that it is read is all there is to see.
                continue;
            }
            let words: Vec<&str> = words.split('\n').collect();
            let output = peer(&world, &words, &case.bytes);
            tried += 1;
            if case.good {
                assert_eq!(output.status.code(), Some(0), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
                let talk = [&output.stdout[..], &output.stderr].concat();
                assert!(!talk.iter().any(|b| b.is_ascii_control() && *b != b'\n'), "{}", case.name);
            } else {
                // A wrong id inside is what was asked for by nobody; bytes that miss it failed verification.
                let wrong_id = case.name.contains("a wrong id");
                check(&case, door, &output, if wrong_id { 5 } else { 3 });
            }
        }
        assert_eq!(everything(&world), before, "{}", case.name);
    }
    assert!(!Path::new("/tmp/shoal-corpus-escape").exists());
    eprintln!("{tried} processes");
    assert!(tried > 200);
}

/// A new command that takes a manifest must get its place among the doors above.
#[test]
fn no_door_is_forgotten() {
    let world = World::new();
    let help = |words: &[&str]| String::from_utf8(world.peer(words).output().unwrap().stdout).unwrap();
    let list = help(&["-h"]);
    let list = list.split_once("Commands:\n").unwrap().1.lines().take_while(|line| line.starts_with("  "));
    let takes_one = |command: &&str| {
        let help = help(&[command, "--help"]);
        help.lines().any(|line| line.starts_with("Usage:") && line.contains("LINK"))
    };
    let found: Vec<String> = list
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .filter(takes_one)
        .map(str::to_owned)
        .collect();
    assert_eq!(found, ["fetch", "show", "verify"]);
}
