//! The front of a connection, which answers ordinary announces before hyper: it must be told from hyper by its cost only.
#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use shoal_protocol::Handout;
use shoal_tracker::server::{bind, run};
use shoal_tracker::service::Timeouts;
use shoal_tracker::{DiskConfig, DiskStore, Service, ServiceConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Much longer than anything here takes, as the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    addr: SocketAddr,
    service: Service,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl World {
    fn new(config: ServiceConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        let (listener, stop) = (bind("127.0.0.1:0".parse().unwrap()).unwrap(), CancellationToken::new());
        let addr = listener.local_addr().unwrap();
        let service = Service::new(config, Arc::new(store));
        tokio::spawn(run(listener, None, service.clone(), stop.clone()));
        Self { addr, service, stop, _directory: directory }
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn body(peer: u32, event: &str) -> String {
    let swarm = "ab".repeat(32);
    format!(r#"{{"swarm":"{swarm}","peer":"{peer:032x}","port":{},"event":"{event}","left":1}}"#, 7_000 + peer)
}

fn post(more: &str, body: &str) -> String {
    let n = body.len();
    format!(
        "POST /v1/announce HTTP/1.1\r\nhost: t\r\n{more}content-type: application/json\r\ncontent-length: {n}\r\n\r\n{body}"
    )
}

/// The next answer: its status, its header lines in order without the date, and its body.
async fn answer(stream: &mut TcpStream) -> Option<(u16, Vec<String>, Vec<u8>)> {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let text = String::from_utf8(head).unwrap().to_lowercase();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let lines = text.lines().skip(1).filter(|line| !line.is_empty());
        let length = lines.clone().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        assert!(text.contains("\r\ndate: "), "{text}");
        let mut lines: Vec<String> = lines.filter(|line| !line.starts_with("date: ")).map(str::to_owned).collect();
        lines.sort();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        Some((status, lines, body))
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()
}

/// Nothing more comes.
async fn is_over(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    rest.is_empty()
}

#[tokio::test]
async fn the_front_and_hyper_say_the_same() {
    let world = World::new(ServiceConfig { seed: Some(1), ..ServiceConfig::default() });
    let good = body(1, "started");
    for body in [
        good.clone(),
        good.replace("7001", "80"),
        good.replace("7001", "70001"),
        good.replace("started", "paused"),
        good.replace(r#""left""#, r#""left":1,"left""#),
        format!("{good}{good}"),
        good[..40].to_owned(),
        String::new(),
    ] {
        let mut seen = Vec::new();
        // A header that the front doesn't know makes it hyper's.
        for more in ["", "x-odd: 1\r\n"] {
            let mut stream = world.dial().await;
            stream.write_all(post(more, &body).as_bytes()).await.unwrap();
            let got = answer(&mut stream).await.unwrap();
            if got.0 == 400 {
                assert!(got.1.contains(&"connection: close".to_owned()) && is_over(&mut stream).await);
            }
            // Intervals are spread.
            seen.push((got.0, got.1, if got.0 == 200 { Vec::new() } else { got.2 }));
        }
        assert_eq!(seen[0], seen[1], "{body}");
    }
    assert_eq!(world.service.status().peers, 1);
}

#[tokio::test]
async fn announces_in_a_row_and_in_pieces_are_answered_in_their_order_and_hyper_goes_on_where_the_front_ends() {
    let world = World::new(ServiceConfig::default());
    let mut stream = world.dial().await;
    let mut text: String = (0..50).map(|peer| post("", &body(peer, "started"))).collect();
    text.push_str("GET /nowhere HTTP/1.1\r\nhost: t\r\n\r\n");
    text.push_str(&post("", &body(60, "started")));
    text.push_str(&post("connection: close\r\n", &body(61, "started")));
    let (mut read, mut write) = stream.split();
    // Cut where no boundary is.
    let sending = async {
        for part in text.as_bytes().chunks(97) {
            write.write_all(part).await.unwrap();
            write.flush().await.unwrap();
        }
    };
    let mut got = Vec::new();
    let reading = async { tokio::time::timeout(PATIENCE, read.read_to_end(&mut got)).await.unwrap().unwrap() };
    tokio::join!(sending, reading);
    let got = String::from_utf8(got).unwrap();
    let answers: Vec<&str> = got.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 53);
    for (n, answer) in answers.iter().enumerate() {
        if n == 50 {
            assert!(answer.starts_with("404"), "{answer}");
            continue;
        }
        let (head, json) = answer.split_once("\r\n\r\n").unwrap();
        let handout: Handout = serde_json::from_str(json).unwrap();
        let known = if n > 50 { n - 1 } else { n };
        assert!(head.starts_with("200") && handout.peers.len() == known.min(50), "{n}: {answer}");
    }
    assert_eq!(world.service.status().peers, 52);
}

#[tokio::test]
async fn the_last_announce_of_a_connection_ends_it() {
    let world = World::new(ServiceConfig::default());
    let mut stream = world.dial().await;
    stream.write_all(post("connection: close\r\n", &body(1, "started")).as_bytes()).await.unwrap();
    let (status, head, _) = answer(&mut stream).await.unwrap();
    assert!(status == 200 && head.contains(&"connection: close".to_owned()), "{head:?}");
    assert!(is_over(&mut stream).await);
}

#[tokio::test]
async fn half_an_announce_ends_by_the_time_of_a_head_and_none_is_entered() {
    let timeouts = Timeouts { head: Duration::from_millis(100), ..Timeouts::default() };
    let world = World::new(ServiceConfig { timeouts, ..ServiceConfig::default() });
    let text = post("", &body(1, "started"));
    let mut streams = Vec::new();
    for cut in (0..text.len()).step_by(29) {
        let mut stream = world.dial().await;
        stream.write_all(&text.as_bytes()[..cut]).await.unwrap();
        // After a whole announce as well.
        let mut used = world.dial().await;
        used.write_all(post("", &body(2, "started")).as_bytes()).await.unwrap();
        assert_eq!(answer(&mut used).await.unwrap().0, 200);
        if cut > 0 {
            used.write_all(&text.as_bytes()[..cut]).await.unwrap();
            streams.push(used);
        }
        streams.push(stream);
    }
    for stream in &mut streams {
        assert!(is_over(stream).await);
    }
    assert_eq!(world.service.status().peers, 1);
}

#[tokio::test]
async fn what_is_no_http_is_refused_at_once() {
    let world = World::new(ServiceConfig::default());
    for (bytes, expected) in
        [(b"\x16\x03\x01\x02\x00".to_vec(), 400), (b"shoal".to_vec(), 400), (vec![b'A'; 9 << 10], 431)]
    {
        let mut stream = world.dial().await;
        stream.write_all(&bytes).await.unwrap();
        let (status, head, _) = answer(&mut stream).await.unwrap();
        assert_eq!(status, expected);
        assert!(head.contains(&"connection: close".to_owned()) && is_over(&mut stream).await);
    }
}

#[tokio::test]
async fn who_asks_too_fast_is_refused_slowly_and_finds_the_door_shut() {
    for more in ["", "x-odd: 1\r\n"] {
        let config = ServiceConfig { rate_limit: 1, spare_private: false, ..ServiceConfig::default() };
        let world = World::new(config);
        let mut stream = world.dial().await;
        let from = tokio::time::Instant::now();
        stream.write_all(post(more, &body(1, "started")).repeat(3).as_bytes()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(answer(&mut stream).await.unwrap().0, 200);
        }
        // The allowance is spent.
        assert!(is_over(&mut world.dial().await).await);
        let (status, head, _) = answer(&mut stream).await.unwrap();
        assert_eq!(status, 429, "{head:?}");
        assert!(head.contains(&"retry-after: 1".to_owned()));
        assert!(from.elapsed() >= Duration::from_millis(250), "refusals have no hurry");
        assert_eq!(world.service.status().rate_limited, 2);
    }
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_whatever_its_name_leads_to() {
    let world = World::new(ServiceConfig::default());
    let id = "ab".repeat(32);
    let put = format!(
        "PUT /m/{id} HTTP/1.1\r\nhost: evil.example\r\norigin: http://evil.example\r\ncontent-length: 1\r\n\r\nx"
    );
    let announce =
        post("origin: http://evil.example\r\n", &body(1, "started")).replace("host: t", "host: evil.example");
    for text in [put, announce] {
        let mut stream = world.dial().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let (status, head, _) = answer(&mut stream).await.unwrap();
        assert_eq!(status, 403);
        assert!(!head.iter().any(|line| line.starts_with("access-control")));
    }
    assert_eq!(world.service.status().peers, 0);
}
