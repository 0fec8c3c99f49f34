//! Rules about the source.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return out };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with(".git") {
                out.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source is text");
            out.push((path, text));
        }
    }
    out.sort();
    out
}

fn pages(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            out.extend(pages(&path));
        } else if path.extension().is_some_and(|e| e == "md") {
            out.push(path);
        }
    }
    out
}

fn lines_with<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let code = |line: &str| !line.trim_start().starts_with("//");
    text.lines().enumerate().filter(move |(_, line)| code(line) && line.contains(word)).map(|(n, line)| (n + 1, line))
}

/// The logic must give the same outputs for the same inputs: no clock, no runtime, no I/O, no maps whose order differs
/// from run to run.
#[test]
fn the_swarm_logic_has_no_clock_no_io_and_no_unordered_maps() {
    let forbidden = [
        "HashMap",
        "HashSet",
        "Instant",
        "SystemTime",
        "tokio",
        "std::fs",
        "std::io",
        // Addresses are data, and `core` has them without the sockets.
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "getrandom",
        "rand::",
        "thread_local",
        "static mut",
    ];
    let files = sources(&root().join("peer/src/swarm"));
    assert!(files.len() > 10, "the swarm logic has moved");
    for (path, text) in files {
        for word in forbidden {
            if let Some((n, line)) = lines_with(&text, word).next() {
                panic!("{}:{n}: `{word}` in the swarm logic: {line}", path.display());
            }
        }
    }
}

/// What is said on the wire is the same everywhere: addresses are data there, and all else comes as bytes.
#[test]
fn the_protocol_does_no_io() {
    let forbidden = ["std::fs", "std::io", "std::process", "std::env", "std::thread", "Instant", "SystemTime", "tokio"];
    let sockets = ["TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs", "getrandom"];
    let files = sources(&root().join("protocol/src"));
    assert!(files.len() > 10, "the protocol has moved");
    for (path, text) in files {
        for word in forbidden.iter().chain(&sockets) {
            if let Some((n, line)) = lines_with(&text, word).next() {
                panic!("{}:{n}: `{word}` in the protocol: {line}", path.display());
            }
        }
    }
}

#[test]
fn no_file_is_longer_than_800_lines() {
    for (path, text) in sources(&root()) {
        let lines = text.lines().count();
        assert!(lines <= 800, "{} has {lines} lines", path.display());
    }
}

#[test]
fn nothing_is_left_to_do() {
    // Put together, so that this file passes its own test.
    let words = ["todo", "unimplemented"].map(|w| format!("{w}!"));
    for (path, text) in sources(&root()) {
        for word in &words {
            if let Some((n, line)) = lines_with(&text, word).next() {
                panic!("{}:{n}: {line}", path.display());
            }
        }
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages = pages(&root());
    assert!(pages.iter().any(|page| page.ends_with("README.md")));
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("a page is text");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            let path = page.parent().expect("a page lies in a directory").join(target);
            assert!(path.exists(), "{} links to {target}, which isn't there", page.display());
        }
    }
}
