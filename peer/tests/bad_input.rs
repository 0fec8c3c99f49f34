//! What can't be used, whatever the door it comes in by: a stable exit code, one clear line, and nothing on the disk.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::{Done, MIB, World, closed_port, content, eventually, server, text};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Manifests that are malformed or hostile, each with what is wrong.
fn bad_manifests(world: &World) -> Vec<(String, Vec<u8>)> {
    world.tree("tree", MIB);
    world.run(&["create", "tree", "-o", "good.json"]).ok();
    let good = fs::read_to_string(world.path("good.json")).unwrap();
    let tool = r#""bin/tool""#;
    assert!(good.contains(tool), "{good}");
    let mut out: Vec<(String, Vec<u8>)> = vec![
        ("nothing".into(), Vec::new()),
        ("noise".into(), content("noise", 5_000)),
        ("zeros".into(), vec![0; 5_000]),
        ("a web page".into(), b"<html>not found</html>".to_vec()),
        ("an empty object".into(), b"{}".to_vec()),
        ("a number".into(), b"1".to_vec()),
        ("deep nesting".into(), b"[".repeat(200_000)),
        ("half of one".into(), good.as_bytes()[..good.len() / 2].to_vec()),
        ("one and more".into(), format!("{good}{good}").into_bytes()),
        ("magic of the binary form".into(), b"\x89shoalm\x01\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        (
            "text that is not UTF-8".into(),
            good.replace("tool", "t\u{1}").into_bytes().iter().map(|b| if *b == 1 { 0xff } else { *b }).collect(),
        ),
    ];
    for path in [
        "../tool",
        "/tool",
        "bin/../../tool",
        "bin//tool",
        "./tool",
        "",
        "bin/",
        "..",
        "bin\\u0000tool",
        "bin\\u001btool",
        "bin\\u202etool",
    ] {
        out.push((format!("the path {path}"), good.replace(tool, &format!("\"{path}\"")).into_bytes()));
    }
    out.push(("a name twice".into(), good.replace(r#""small/00""#, r#""small/01""#).into_bytes()));
    out.push(("an unknown key".into(), good.replacen('{', r#"{"surprise":1,"#, 1).into_bytes()));
    out.push((
        "another version".into(),
        good.replacen(r#""shoal":1"#, r#""shoal":9"#, 1).replacen(r#""shoal": 1"#, r#""shoal": 9"#, 1).into_bytes(),
    ));
    for (_, bytes) in &out {
        assert_ne!(bytes, good.as_bytes(), "every one is spoilt");
    }
    out
}

/// One line says what is wrong; hints and details may follow.
fn is_clear(done: &Done) {
    let first = done.err.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(first.len() > 12 && first.len() < 400, "{}: {}", done.words, done.err);
    assert!(!done.err.chars().any(|c| c.is_control() && c != '\n'), "{:?}", done.err);
    assert!(!done.err.contains("os error 14"), "{}", done.err);
}

/// Answers the requests in turn, each with what is given; the last answer again and again.
fn answers(answers: Vec<Vec<u8>>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (n, mut stream) in listener.incoming().flatten().enumerate() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&answers[n.min(answers.len() - 1)]);
        }
    });
    port
}

#[test]
fn a_peer_that_answers_for_the_host_of_a_link_with_rubbish_ends_no_fetch() {
    let world = World::new();
    world.file("file", MIB);
    let seed = world.seed(&["file"], &[]);
    for (n, (status, rubbish)) in [("200 OK", "{}"), ("403 Forbidden", ""), ("410 Gone", "")].into_iter().enumerate() {
        let liar = server(status, rubbish.into());
        let to = |port: &str| {
            let head = "HTTP/1.1 307 Temporary Redirect\r\ncontent-length: 0\r\nconnection: close\r\n";
            format!("{head}location: http://127.0.0.1:{port}/m/{}\r\n\r\n", seed.id()).into_bytes()
        };
        // Sent to the liar first; who asks again is sent to the seed.
        let host = answers(vec![to(&liar.to_string()), to(seed.addr().rsplit(':').next().unwrap())]);
        let link = format!("http://127.0.0.1:{host}/m/{}", seed.id());
        let out = format!("out-{n}");
        world.fetch(&link, &out, &["--peer", &seed.addr(), "--seed-for", "0s"]).end().ok();
        world.assert_same("file", &out);
    }
}

#[test]
fn a_manifest_that_is_none_exits_with_3_by_every_door() {
    let world = World::new();
    for (what, bytes) in bad_manifests(&world) {
        fs::write(world.path("bad"), &bytes).unwrap();
        let url = format!("http://127.0.0.1:{}/some.manifest", server("200 OK", bytes));
        for door in ["bad", &url] {
            let done = world.fetch(door, "out", &[]).end();
            is_clear(&done);
            assert_eq!(done.code, 3, "{what}: {}", done.err);
            assert_eq!(done.result()["retry"], false);
        }
    }
    for name in ["out", "out.part", "out.part.journal"] {
        assert!(!world.path(name).exists());
    }
    // One of them names ../tool: beside what is fetched, or beside all of it.
    assert!(!world.path("tool").exists() && !world.path("../tool").exists());
}

#[test]
fn another_content_than_the_link_names_exits_with_5() {
    let world = World::new();
    world.file("file", 1_000);
    world.run(&["create", "file", "-o", "m"]).ok();
    let port = server("200 OK", fs::read(world.path("m")).unwrap());
    let link = format!("http://127.0.0.1:{port}/m/{}", "ab".repeat(32));
    let done = world.fetch(&link, "out", &[]).end();
    is_clear(&done);
    done.exits(5);
    let free = format!("http://127.0.0.1:{port}/free");
    world.fetch(&free, "out", &["--id", &"cd".repeat(32)]).end().exits(5);
    assert!(!world.path("out.part").exists());
}

#[test]
fn links_that_can_not_be_used_exit_with_3_at_once() {
    let world = World::new();
    let id = "ab".repeat(32);
    for link in [
        format!("http://127.0.0.1:1/m/{id}#key"),
        "ftp://127.0.0.1/x".to_owned(),
        "http://".to_owned(),
        "http://user:secret@127.0.0.1/x".to_owned(),
        "missing-file".to_owned(),
        ".".to_owned(),
    ] {
        let done = world.fetch(&link, "out", &[]).end();
        is_clear(&done);
        assert_eq!(done.code, 3, "{link}: {}", done.err);
        assert!(!done.err.contains("secret"), "{}", done.err);
    }
}

#[test]
fn a_server_that_refuses_or_knows_nothing_is_told_apart() {
    let world = World::new();
    let id = "ab".repeat(32);
    for (status, code) in
        [("403 Forbidden", 8), ("410 Gone", 3), ("500 Internal Server Error", 7), ("404 Not Found", 7)]
    {
        let link = format!("http://127.0.0.1:{}/m/{id}", server(status, b"no".to_vec()));
        let done = world.fetch(&link, "out", &["--timeout", "1s"]).end();
        is_clear(&done);
        assert_eq!(done.code, code, "{status}: {}", done.err);
    }
}

#[test]
fn nobody_there_exits_with_4_and_nobody_who_has_it_with_7() {
    let world = World::new();
    world.file("file", MIB);
    world.run(&["create", "file", "-o", "m"]).ok();
    let link = format!("http://127.0.0.1:{}/m/{}", closed_port(), "ab".repeat(32));
    let nobody = format!("127.0.0.1:{}", closed_port());
    for words in [[link.as_str(), "--timeout", "1s"], [&link, "--stall-timeout", "1s"]] {
        let done = world.fetch(words[0], "out", &[words[1], words[2], "--peer", &nobody]).end();
        is_clear(&done);
        assert_eq!(done.exits(4)["retry"], true);
    }
    let done = world.fetch("m", "out", &["--peer", &nobody, "--stall-timeout", "1s"]).end();
    is_clear(&done);
    assert_eq!(done.exits(4)["retry"], true);
    // A tracker that answers, and a content that nobody ever announced.
    let tracker = world.tracker();
    for limit in ["--stall-timeout", "--timeout"] {
        let done = world.fetch("m", "out", &["--tracker", &tracker.url, limit, "2s"]).end();
        is_clear(&done);
        assert!(done.err.contains("0 seeds"), "{}", done.err);
        done.exits(7);
    }
    let link = format!("{}/m/{}", tracker.url.trim_end_matches('/'), "ab".repeat(32));
    world.fetch(&link, "out", &["--timeout", "1s"]).end().exits(7);
}

#[test]
fn a_seed_of_what_can_not_be_content_says_what_to_do() {
    let world = World::new();
    for words in [&["seed", "missing"][..], &["seed", "/dev/null"]] {
        let done = world.run(&[words, &["--listen", "127.0.0.1:0"]].concat());
        is_clear(&done);
        done.exits(6);
    }
    world.file("tree/file", 10);
    std::os::unix::fs::symlink("/etc/hostname", world.path("tree/outside")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.path("tree/socket")).unwrap();
    let done = world.run(&["seed", "tree", "--listen", "127.0.0.1:0"]);
    assert!(done.err.contains("outside") && done.err.contains("--follow-links"), "{}", done.err);
    done.exits(6);
    // Told to leave things out, it says which.
    fs::remove_file(world.path("tree/outside")).unwrap();
    let seed = world.seed(&["tree"], &["--skip-special"]);
    seed.running.wait_for_talk("socket");
}

#[test]
fn one_tracker_that_refuses_again_and_again_is_not_all_of_them() {
    let world = World::new();
    world.file("file", 1_000);
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
    let (bad, later) = (refusing.local_addr().unwrap(), format!("127.0.0.1:{}", closed_port()));
    let trackers = [format!("http://{bad}"), format!("http://{later}")];
    let seed = world.start(&["seed", "file", "--listen", "127.0.0.1:0", "-t", &trackers[0], "-t", &trackers[1]]);
    let refused = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&refused);
    std::thread::spawn(move || {
        for mut stream in refusing.incoming().flatten() {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.extend(byte);
            }
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            count.fetch_add(u32::from(head.starts_with(b"PUT")), Ordering::Relaxed);
        }
    });
    // As many as there are trackers, and one more.
    eventually("three refusals", || refused.load(Ordering::Relaxed) >= 3);
    let tracker = world.tracker_at(&later);
    let ready = seed.wait("a link", |record| record["type"] == "ready");
    assert!(text(&ready, "link").starts_with(&tracker.url), "{ready}");
}
