//! The table of manifests, through the doors that can be had in this process. Each test is one door.

use crate::manifests::{Case, cases};
use crate::run;
use harness::fuzz::{Numbers, mutate};
use harness::loopback::{Evil, PATIENCE, engine, hello, http};
use shoal_peer::failure::FailureKind;
use shoal_protocol::limits::MANIFEST_SEGMENT;
use shoal_protocol::manifest::binary::segment_cvs;
use shoal_protocol::tree::make_leaf_proof;
use shoal_protocol::{ContentId, Manifest, ManifestError, Message};
use shoal_tracker::server::{bind, run as serve};
use shoal_tracker::{DiskConfig, DiskStore, Service, ServiceConfig};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The id under which an attacker would offer it: of a manifest that is one its own, else the hash of its bytes.
fn id(case: &Case) -> ContentId {
    Manifest::parse(&case.bytes).map_or_else(|_| ContentId(blake3::hash(&case.bytes).into()), |good| good.id())
}

/// One line that a terminal can bear.
fn is_clear(case: &Case, text: &str) {
    assert!(text.len() > 8 && text.len() < 400 && !text.chars().any(char::is_control), "{}: {text:?}", case.name);
}

#[test]
fn the_table_has_many_rows_and_both_kinds() {
    let cases = cases();
    let good = cases.iter().filter(|case| case.good).count();
    eprintln!("{} manifests, {good} of them harmless", cases.len());
    assert!(cases.len() > 3_000 && good > 300);
}

#[test]
fn a_file_stdin_or_any_url() {
    for case in cases() {
        match Manifest::parse(&case.bytes) {
            Ok(_) => assert!(case.good, "{} passed", case.name),
            Err(error) => {
                assert!(!case.good, "{}: {error}", case.name);
                is_clear(&case, &error.to_string());
            }
        }
    }
}

#[test]
fn a_link_with_its_id() {
    for case in cases() {
        let passed = Manifest::parse_with_id(&case.bytes, id(&case));
        assert_eq!(passed.is_ok(), case.good, "{}", case.name);
        let other = Manifest::parse_with_id(&case.bytes, ContentId([1; 32])).unwrap_err();
        assert_eq!(matches!(other, ManifestError::WrongId { .. }), case.good || case.name.contains("a wrong id"));
    }
}

/// A tracker over a directory.
async fn tracker(directory: &Path) -> (SocketAddr, CancellationToken) {
    let store = DiskStore::open(directory, DiskConfig { max_bytes: 1 << 30, ..DiskConfig::default() }).unwrap();
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (addr, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(serve(listener, None, Service::new(ServiceConfig::default(), Arc::new(store)), stop.clone()));
    (addr, stop)
}

fn names(directory: &Path) -> Vec<String> {
    let mut out: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    out.sort();
    out
}

#[test]
fn put_to_a_tracker() {
    run(async {
        let world = tempfile::tempdir().unwrap();
        let directory = world.path().join("a/b/data");
        let (addr, stop) = tracker(&directory).await;
        let mut stored = std::collections::BTreeSet::new();
        for case in cases() {
            let id = id(&case);
            let head = format!(
                "PUT /m/{id} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                case.bytes.len()
            );
            let (status, _, body) = http(addr, [head.as_bytes(), &case.bytes].concat()).await.unwrap();
            if case.good {
                assert_eq!(status, if stored.insert(format!("{id}.manifest")) { 201 } else { 200 }, "{}", case.name);
            } else {
                assert_eq!(status, 400, "{}: {}", case.name, String::from_utf8_lossy(&body));
                let text = serde_json::from_slice::<serde_json::Value>(&body).unwrap()["error"].to_string();
                is_clear(&case, &text);
            }
        }
        stop.cancel();
        assert_eq!(names(&directory), stored.into_iter().collect::<Vec<_>>(), "nothing but what was good");
        assert_eq!((names(world.path()), names(&world.path().join("a"))), (vec!["a".into()], vec!["b".into()]));
    });
}

/// One request after the other on a connection, and a new connection where the server ended it.
struct Kept {
    addr: SocketAddr,
    stream: Option<BufStream<TcpStream>>,
}

impl Kept {
    /// The status and the body of the answer.
    async fn put(&mut self, id: ContentId, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(BufStream::new(TcpStream::connect(self.addr).await?)),
        };
        let head = format!("PUT /m/{id} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        stream.flush().await?;
        let (mut status, mut length, mut closes) = (0, 0, false);
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 2 {
            let lower = line.trim().to_ascii_lowercase();
            if let Some(rest) = lower.strip_prefix("http/1.1 ") {
                status = rest.get(..3).and_then(|n| n.parse().ok()).unwrap_or(0);
            }
            if let Some(rest) = lower.strip_prefix("content-length: ") {
                length = rest.parse().unwrap_or(0);
            }
            closes |= lower == "connection: close";
            line.clear();
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if closes {
            self.stream = None;
        }
        Ok((status, body))
    }
}

/// `SHOAL_CASES` is how many.
#[test]
fn mutated_manifests_put_to_a_live_tracker() {
    run(async {
        let many: u64 = std::env::var("SHOAL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000);
        let corpus: Vec<Vec<u8>> =
            cases().into_iter().map(|case| case.bytes).filter(|bytes| bytes.len() <= 4 << 10).collect();
        let directory = tempfile::tempdir().unwrap();
        let (addr, stop) = tracker(directory.path()).await;
        let mut kept = Kept { addr, stream: None };
        let mut numbers = Numbers::new(0xf4);
        let mut good = std::collections::BTreeSet::new();
        for n in 0..many {
            let bytes = mutate(&mut numbers, &corpus);
            let parsed = Manifest::parse(&bytes);
            let id = parsed.as_ref().map_or_else(|_| ContentId(blake3::hash(&bytes).into()), Manifest::id);
            let (status, body) = kept.put(id, &bytes).await.unwrap_or_else(|error| panic!("manifest {n}: {error}"));
            match status {
                200 | 201 => assert!(parsed.is_ok() && good.insert(id) == (status == 201), "manifest {n}: {bytes:?}"),
                400 => assert!(parsed.is_err(), "manifest {n}: {}: {bytes:?}", String::from_utf8_lossy(&body)),
                other => panic!("manifest {n}: {other} {}", String::from_utf8_lossy(&body)),
            }
        }
        eprintln!("{many} manifests, {} different good ones", good.len());
        assert!(many < 1_000 || good.len() > many as usize / 1_000, "hardly any was good");
        let honest = cases().into_iter().find_map(|case| Manifest::parse(&case.bytes).ok()).unwrap();
        let (status, _) = kept.put(honest.id(), &honest.to_binary()).await.unwrap();
        assert!(matches!(status, 200 | 201), "{status}");
        stop.cancel();
        assert_eq!(names(directory.path()).len(), good.union(&[honest.id()].into()).count());
    });
}

#[test]
fn the_data_directory_of_a_tracker() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        // Each bad one once; the very large ones would only take time.
        let bad: Vec<Case> = cases().into_iter().filter(|case| !case.good && case.bytes.len() < 1 << 20).collect();
        for case in &bad {
            std::fs::write(directory.path().join(format!("{}.manifest", id(case))), &case.bytes).unwrap();
        }
        let (addr, stop) = tracker(directory.path()).await;
        for case in &bad {
            let get = format!("GET /m/{} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", id(case));
            assert_eq!(http(addr, get).await.unwrap().0, 404, "{}", case.name);
        }
        stop.cancel();
        assert!(names(directory.path()).is_empty(), "what is damaged goes");
    });
}

/// Answers everyone who asks for a manifest with the segments of what is set, each with its proof.
async fn evil_holder() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&bytes);
    tokio::spawn(async move {
        loop {
            let bytes = Arc::clone(&shared);
            let Ok(mut evil) = Evil::accept_any(&listener, |theirs| hello(theirs.swarm, 9)).await else { continue };
            tokio::spawn(async move {
                let bytes = bytes.lock().unwrap().clone();
                let cvs = segment_cvs(&bytes);
                while let Ok(Message::ManifestRequest { segment }) = evil.next().await {
                    let from = segment as usize * MANIFEST_SEGMENT as usize;
                    let Some(data) = bytes.get(from..bytes.len().min(from + MANIFEST_SEGMENT as usize)) else { return };
                    let proof = make_leaf_proof(&cvs, segment);
                    let answer = Message::ManifestSegment {
                        total: bytes.len() as u32,
                        segment,
                        proof,
                        data: data.to_vec().into(),
                    };
                    let _ = evil.send(&answer).await;
                }
            });
        }
    });
    (addr, bytes)
}

#[test]
fn a_peer_that_sends_it_segment_by_segment() {
    run(async {
        let engine = engine().await;
        let (addr, bytes) = evil_holder().await;
        let mut tried = 0;
        for case in cases() {
            // The wire has the canonical form without hints, of at least a byte; its id is the hash of its bytes.
            let id = ContentId(blake3::hash(&case.bytes).into());
            let passes = Manifest::parse_with_id(&case.bytes, id).is_ok();
            assert!(case.good || !passes, "{}", case.name);
            if case.bytes.is_empty() || case.bytes.len() > 2 << 20 {
                continue;
            }
            tried += 1;
            bytes.lock().unwrap().clone_from(&case.bytes);
            match engine.find_manifest(id, &[], &[addr], Some(PATIENCE)).await {
                Ok(manifest) => assert!(passes && manifest.id() == id, "{}", case.name),
                Err(failure) => {
                    assert!(!passes, "{}: {failure:?}", case.name);
                    assert_eq!(failure.kind, FailureKind::Input, "{}: {failure:?}", case.name);
                    is_clear(&case, &failure.message);
                }
            }
        }
        assert!(tried > 3_000);
        engine.shutdown().await;
    });
}
