//! The tracker over real sockets: what it answers, and what it refuses.
#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use shoal_protocol::manifest::Shape;
use shoal_protocol::tree::{check_content_batch, root_of};
use shoal_protocol::{ContentId, Entry, Handout, Hints, Kind, Manifest, Scrape};
use shoal_tracker::server::{bind, run};
use shoal_tracker::service::Timeouts;
use shoal_tracker::{DiskConfig, DiskStore, Service, ServiceConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct World {
    addr: SocketAddr,
    admin: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl World {
    fn new(config: ServiceConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let (main, admin_listener) = (bind(any).unwrap(), bind(any).unwrap());
        let (addr, admin) = (main.local_addr().unwrap(), admin_listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let service = Service::new(config, Arc::new(store));
        let server = tokio::spawn(run(main, Some(admin_listener), service, stop.clone()));
        Self { addr, admin, stop, server, _directory: directory }
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(3), self.server).await.unwrap().unwrap();
        assert!(TcpStream::connect(self.addr).await.is_err(), "the port is free again");
    }

    async fn get(&self, target: &str) -> Answer {
        ask(self.addr, &format!("GET {target} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"), b"").await
    }

    async fn put(&self, target: &str, body: &[u8]) -> Answer {
        let head =
            format!("PUT {target} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        ask(self.addr, &head, body).await
    }

    async fn announce(&self, peer: u8, port: u16, event: &str, left: u64) -> Handout {
        let body = announce(peer, port, event, left);
        let head = format!(
            "POST /v1/announce HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = ask(self.addr, &head, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }
}

fn announce(peer: u8, port: u16, event: &str, left: u64) -> String {
    let (swarm, peer) = ("ab".repeat(32), format!("{peer:02x}").repeat(16));
    format!(r#"{{"swarm":"{swarm}","peer":"{peer}","port":{port},"event":"{event}","left":{left}}}"#)
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends bytes and reads until the server closes. Sending may fail half-way: the server may have answered already.
async fn ask(addr: SocketAddr, head: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
    let mut out = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut out)).await;
    assert!(read.is_ok(), "the connection stays open after: {head:?}");
    let at = out.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer to {head:?}: {out:?}"));
    let head = String::from_utf8(out[..at].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: out[at + 4..].to_vec() }
}

/// Three pieces in one large file, and a small file beside it.
fn content() -> (Manifest, Vec<[u8; 32]>) {
    let cvs = vec![[1; 32], [2; 32], [3; 32]];
    let file = |path: &str, size, root| Entry { path: path.into(), kind: Kind::File { size, root, executable: false } };
    let entries = vec![file("large", 3 * 65_536, root_of(&cvs).unwrap()), file("small", 9, [7; 32])];
    let hints = Hints { name: Some("first".into()), ..Hints::default() };
    (Manifest::new(Shape::Tree, 65_536, entries, hints).unwrap(), cvs)
}

#[tokio::test]
async fn peers_find_each_other() {
    let world = World::new(ServiceConfig::default());
    let first = world.announce(1, 7171, "started", 0).await;
    assert_eq!((first.seeds, first.leechers, first.peers.len()), (1, 0, 0));
    assert!((1..=5).contains(&first.interval));
    let second = world.announce(2, 7172, "started", 10).await;
    assert_eq!((second.seeds, second.leechers), (1, 1));
    assert_eq!((second.peers[0].addrs.as_slice(), second.peers[0].seed), (&[":7171".to_owned()][..], true));
    world.announce(2, 7172, "completed", 0).await;
    assert!(world.announce(1, 7171, "progress", 0).await.peers.is_empty(), "no seeds for a seed");
    let scrape = world.get(&format!("/v1/scrape?swarm={}&swarm={}", "ab".repeat(32), "00".repeat(32))).await;
    let scrape: Scrape = serde_json::from_slice(&scrape.body).unwrap();
    let rows: Vec<_> = scrape.swarms.iter().map(|r| (r.seeds, r.leechers, r.completed)).collect();
    assert_eq!(rows, [(2, 0, 1), (0, 0, 0)]);
    world.announce(1, 7171, "stopped", 0).await;
    assert_eq!(world.announce(3, 7173, "started", 1).await.peers.len(), 1);
    world.end().await;
}

#[tokio::test]
async fn manifests_go_in_and_out_in_both_forms() {
    let world = World::new(ServiceConfig::default());
    let (manifest, cvs) = content();
    let (id, binary) = (manifest.id(), manifest.to_binary_with_hints());
    let path = format!("/m/{id}");
    assert_eq!(world.get(&path).await.status, 404);
    assert_eq!(world.put(&path, manifest.to_json().as_bytes()).await.status, 201);
    assert_eq!(world.put(&path, &manifest.to_binary()).await.status, 200, "again, without the hints");
    let json = world.get(&path).await;
    assert_eq!((json.status, json.header("content-type")), (200, Some("application/json")));
    let back = Manifest::parse_with_id(&json.body, id).unwrap();
    assert_eq!(back.hints().name.as_deref(), Some("first"), "the first writer's hints stay");
    let got = world.get(&format!("{path}?format=binary")).await;
    assert_eq!(got.body, binary);
    assert_eq!(got.header("shoal-content-length"), Some(manifest.binary_len().to_string().as_str()));
    let head = "accept: application/vnd.shoal.manifest\r\nrange: bytes=1-5\r\nconnection: close\r\n\r\n";
    let part = ask(world.addr, &format!("GET {path} HTTP/1.1\r\nhost: t\r\n{head}"), b"").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"shoal"[..]));
    assert_eq!(part.header("content-range"), Some(format!("bytes 1-5/{}", binary.len()).as_str()));
    let beyond = head.replace("1-5", "9999999-");
    assert_eq!(ask(world.addr, &format!("GET {path} HTTP/1.1\r\nhost: t\r\n{beyond}"), b"").await.status, 416);
    let head = ask(world.addr, &format!("HEAD {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"), b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(json.body.len().to_string().as_str()));

    let cvs_path = format!("{path}/cvs");
    assert_eq!(world.get(&cvs_path).await.status, 404);
    assert_eq!(world.put(&cvs_path, &[9; 96]).await.status, 400);
    assert_eq!(world.put(&cvs_path, cvs.as_flattened()).await.status, 201);
    assert_eq!(world.get(&cvs_path).await.body, cvs.as_flattened());
    let batch = world.get(&format!("{cvs_path}?first=1&count=2")).await;
    let hashes = batch.body.as_chunks::<32>().0;
    let proven = check_content_batch(manifest.geometry(), |e| manifest.root(e), 1, 2, hashes).unwrap();
    assert_eq!(proven, cvs[1..]);
    assert_eq!(world.get(&format!("{cvs_path}?first=3&count=9")).await.status, 416);
    let other = ContentId([1; 32]);
    assert_eq!(world.put(&format!("/m/{other}"), &binary).await.status, 400, "another id than the content's");
    assert_eq!(world.put(&format!("/m/{other}/cvs"), &[0; 32]).await.status, 404);
    world.end().await;
}

#[tokio::test]
async fn bad_requests_get_the_right_status_and_nothing_stays_open() {
    let world = World::new(ServiceConfig::default());
    let id = "ab".repeat(32);
    let body = announce(1, 7171, "started", 1);
    let post = |extra: &str, body: &str| {
        let close = "connection: close\r\n";
        format!("POST /v1/announce HTTP/1.1\r\nhost: t\r\n{close}{extra}\r\n{body}")
    };
    let json = "content-type: application/json\r\n";
    let n = body.len();
    let long = "x".repeat(17 << 10);
    for (request, status) in [
        (post(&format!("{json}content-length: {n}\r\n"), &body), 200),
        (post(&format!("content-type: application/json; charset=utf-8\r\ncontent-length: {n}\r\n"), &body), 200),
        (post(&format!("content-length: {n}\r\n"), &body), 415),
        (post(&format!("content-type: text/plain\r\ncontent-length: {n}\r\n"), &body), 415),
        (post(json, ""), 411),
        (post(&format!("{json}content-length: {}\r\n", long.len()), &long), 413),
        (post(&format!("{json}content-length: 2\r\n"), "{}"), 400),
        (post(&format!("{json}transfer-encoding: chunked\r\n"), "0\r\n\r\n"), 400),
        (post(&format!("{json}transfer-encoding: chunked\r\ncontent-length: {n}\r\n"), &body), 400),
        (post(&format!("{json}content-length: {n}\r\ntransfer-encoding: chunked\r\n"), &body), 400),
        (post(&format!("{json}content-length: {n}\r\ncontent-length: 3\r\n"), &body), 400),
        (post(&format!("{json}content-length: +{n}\r\n"), &body), 400),
        (post(&format!("{json}content-length: {n}\r\n"), &body.replace("7171", "1023")), 400),
        ("GET /healthz HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".into(), 200),
        ("GET /healthz HTTP/1.1\r\nhost: t\r\ncontent-length: 3\r\n\r\nabc".into(), 400),
        ("GET /v1/announce HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".into(), 405),
        (format!("DELETE /m/{id} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"), 405),
        (format!("PUT /m/{id} HTTP/1.1\r\nhost: t\r\ncontent-length: 268435457\r\n\r\n"), 413),
        (format!("PUT /m/{id} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"), 411),
        ("GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".into(), 404),
        ("GET /v1/swarms HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".into(), 404),
        ("nonsense\r\n\r\n".into(), 400),
        (format!("GET /{long} HTTP/1.1\r\nhost: t\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nhost: t\r\n{}\r\n", "a: b\r\n".repeat(40)), 431),
    ] {
        let answer = ask(world.addr, &request, b"").await;
        let shown = &request[..request.len().min(120)];
        if status == 414 {
            assert!(matches!(answer.status, 414 | 431), "{} for {shown}", answer.status);
        } else {
            assert_eq!(answer.status, status, "{shown}\n{}", answer.text());
        }
        if answer.status == 405 {
            assert!(answer.header("allow").is_some());
        }
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    world.end().await;
}

#[tokio::test]
async fn slow_heads_slow_bodies_and_idle_connections_end() {
    let (short, long) = (Duration::from_millis(200), Duration::from_millis(600));
    let timeouts = Timeouts { head: short, body: short, idle: long, ..Timeouts::default() };
    let world = World::new(ServiceConfig { timeouts, ..ServiceConfig::default() });
    let keep = "GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n";
    let post = "POST /v1/announce HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{";
    for (sent, at_least, at_most) in [
        (String::new(), short, 3 * short),
        ("GET /hea".into(), short, 3 * short),
        (post.into(), short, 2 * long),
        (keep.into(), long, 2 * long),
        (format!("{keep}GET /hea"), short, 2 * long),
    ] {
        let mut stream = TcpStream::connect(world.addr).await.unwrap();
        let start = Instant::now();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut out = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(6), stream.read_to_end(&mut out)).await.unwrap();
        let took = start.elapsed();
        // A busy machine may be late, but never early.
        assert!(took >= at_least && took < at_most + Duration::from_secs(2), "{sent:?}: {took:?}");
    }
    // A byte now and then is no progress.
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    let put = format!("PUT /m/{} HTTP/1.1\r\nhost: t\r\ncontent-length: 50\r\n\r\n", "ab".repeat(32));
    stream.write_all(put.as_bytes()).await.unwrap();
    let mut sent = 0;
    while sent < 50 && stream.write_all(b" ").await.is_ok() {
        sent += 1;
        if tokio::time::timeout(short / 4, stream.read_u8()).await.is_ok() {
            break;
        }
    }
    assert!(sent < 40, "{sent} bytes came, one by one");
    world.end().await;
}

#[tokio::test]
async fn who_takes_nothing_of_a_long_answer_makes_room_and_who_takes_it_does_not() {
    let timeouts = Timeouts { answer_step: 4 << 10, ..Timeouts::default() };
    let world = World::new(ServiceConfig { max_connections: 1, timeouts, ..ServiceConfig::default() });
    let file =
        |n: u32| Entry { path: format!("f{n:06}"), kind: Kind::File { size: 1, root: [7; 32], executable: false } };
    let manifest = Manifest::new(Shape::Tree, 65_536, (0..150_000).map(file).collect(), Hints::default()).unwrap();
    let link = format!("/m/{}", manifest.id());
    assert_eq!(world.put(&link, &manifest.to_binary()).await.status, 201);
    let take = async |parts: u32, pause: Duration| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let mut stream = socket.connect(world.addr).await.unwrap();
        stream.write_all(format!("GET {link} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes()).await.unwrap();
        let mut part = vec![0; 100 << 10];
        for _ in 0..parts {
            stream.read_exact(&mut part).await.unwrap();
            tokio::time::sleep(pause).await;
        }
        stream
    };
    let is_let_in = async || {
        let mut stream = TcpStream::connect(world.addr).await.unwrap();
        let mut out = Vec::new();
        let head = b"GET /healthz HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(head).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut out)).await;
        out.starts_with(b"HTTP/1.1 200")
    };
    let well = take(36, Duration::from_millis(100)).await;
    assert!(!is_let_in().await, "who takes it well stays");
    drop(well);
    // No more of it, for longer than one may.
    let slow = take(4, Duration::from_millis(1)).await;
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    assert!(is_let_in().await, "who takes nothing keeps others out");
    drop(slow);
    world.end().await;
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_floods_are_slowed() {
    let config = ServiceConfig { rate_limit: 1, spare_private: false, ..ServiceConfig::default() };
    let world = World::new(config);
    let one = format!("GET /v1/scrape?swarm={} HTTP/1.1\r\nhost: t\r\n\r\n", "ab".repeat(32));
    let last = "GET /healthz HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    stream.write_all(format!("{}{last}", one.repeat(6)).as_bytes()).await.unwrap();
    let mut out = String::new();
    stream.read_to_string(&mut out).await.unwrap();
    let count = |text: &str| out.matches(text).count();
    assert_eq!(count("HTTP/1.1 "), 7);
    // Two may come at once, and a refusal takes a quarter of a second: in a second one more passes.
    assert!(count("429 Too Many") >= 2 && count("200 OK") >= 3, "{out}");
    assert_eq!(count("429 Too Many"), count("retry-after: 1"), "{out}");
    world.end().await;
}

#[tokio::test]
async fn the_operators_port_lists_and_knows_its_name() {
    let world = World::new(ServiceConfig::default());
    world.announce(1, 7171, "started", 0).await;
    let ask = async |path: &str, host: &str| {
        ask(world.admin, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"), b"").await
    };
    let id = "ab".repeat(32);
    let swarms = ask("/v1/swarms", "127.0.0.1:1").await;
    assert!(swarms.status == 200 && swarms.text().contains(&id), "{}", swarms.text());
    assert!(ask(&format!("/v1/swarms/{id}"), "localhost").await.text().contains("\"port\":7171"));
    assert!(ask("/metrics", "localhost").await.text().contains("\nshoal_peers 1\n"));
    assert_eq!(ask("/healthz", "localhost").await.status, 200);
    assert_eq!(ask("/v1/swarms", "evil.example").await.status, 403);
    assert_eq!(ask(&format!("/v1/swarms/{}", "00".repeat(32)), "localhost").await.status, 404);
    world.end().await;
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_does_not_wait_for_the_idle() {
    let world = World::new(ServiceConfig::default());
    let body = announce(1, 7171, "started", 0);
    let head = "POST /v1/announce HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n";
    let (first, second) = body.split_at(20);
    let mut stream = TcpStream::connect(world.addr).await.unwrap();
    // The 100 tells that the request has been taken on.
    let head = format!("{head}expect: 100-continue\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut continued = [0; 25];
    stream.read_exact(&mut continued).await.unwrap();
    assert_eq!(&continued, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(first.as_bytes()).await.unwrap();
    let _idle = TcpStream::connect(world.addr).await.unwrap();
    world.stop.cancel();
    stream.write_all(second.as_bytes()).await.unwrap();
    let mut out = String::new();
    stream.read_to_string(&mut out).await.unwrap();
    assert!(out.starts_with("HTTP/1.1 200"), "{out}");
    world.end().await;
}

#[tokio::test]
async fn connections_that_ask_nothing_keep_nobody_out() {
    let world = World::new(ServiceConfig { max_connections: 8, ..ServiceConfig::default() });
    let mut hostile = Vec::new();
    for n in 0..60_u8 {
        let mut stream = TcpStream::connect(world.addr).await.unwrap();
        let part: &[u8] =
            [&b""[..], b"G", b"GET /healthz HTTP/1.1\r\nhost: t\r\n", b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n"]
                [n as usize % 4];
        let _ = stream.write_all(part).await;
        hostile.push(stream);
        assert_eq!(world.announce(n, 7171, "started", 1).await.leechers, 1, "one address and port is one peer");
    }
    // All but a few of them were let go.
    let mut ended = 0;
    for stream in &mut hostile {
        let mut out = Vec::new();
        let read = tokio::time::timeout(Duration::from_millis(20), stream.read_to_end(&mut out)).await;
        ended += usize::from(read.is_ok());
    }
    assert!(ended >= 50, "{ended}");
    world.end().await;
}

#[tokio::test]
async fn a_client_can_not_speak_for_its_proxy() {
    let near = vec!["127.0.0.0/8".parse().unwrap()];
    let config = ServiceConfig { trust_forwarded: near, rate_limit: 1, ..ServiceConfig::default() };
    let world = World::new(config);
    let ask = async |headers: &str| {
        let id = "ab".repeat(32);
        let head = format!("GET /v1/scrape?swarm={id} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{headers}\r\n");
        ask(world.addr, &head, b"").await.status
    };
    // A new address each time, in a line of its own before the one that the proxy adds: it counts for nothing.
    let mut refused = 0;
    for n in 0..20 {
        let forged = format!("x-forwarded-for: 9.9.9.{n}\r\nx-forwarded-for: 8.8.8.8\r\n");
        refused += usize::from(ask(&forged).await == 429);
    }
    assert!(refused >= 15, "{refused}");
    assert_eq!(ask("x-forwarded-for: 8.8.8.8, 9.9.9.9\r\n").await, 200, "the last hop");
    world.end().await;
}

#[tokio::test]
async fn who_announces_a_long_body_takes_no_memory_from_others() {
    let world = World::new(ServiceConfig::default());
    let (manifest, _) = content();
    let mut hostile = Vec::new();
    for n in 0..8 {
        let mut stream = TcpStream::connect(world.addr).await.unwrap();
        let head = format!(
            "PUT /m/{} HTTP/1.1\r\nhost: t\r\ncontent-length: 268435456\r\n\r\n",
            format!("{n:02x}").repeat(32)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[0x89; 1000]).await.unwrap();
        hostile.push(stream);
    }
    // A manifest that needs memory, too: past a MiB.
    let entries = (0..30_000).map(|n| Entry { path: format!("{n:05}/{}", "x".repeat(60)), kind: Kind::EmptyDirectory });
    let large = Manifest::new(Shape::Tree, 65_536, entries.collect(), Hints::default()).unwrap();
    for manifest in [manifest, large] {
        assert_eq!(world.put(&format!("/m/{}", manifest.id()), &manifest.to_binary()).await.status, 201);
    }
    world.stop.cancel();
    drop(hostile);
    world.end().await;
}
