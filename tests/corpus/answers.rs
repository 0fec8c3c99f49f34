//! Hostile trackers (T): whatever they answer, a fetch that knows one honest seed completes, dials nobody whom it must
//! not, and asks no more often than an honest tracker would let it.

use crate::run;
use harness::loopback::{Content, PATIENCE, complete, engine, url};
use shoal_protocol::announce::StopReason;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What is sent to whoever announces.
#[derive(Debug, Clone)]
struct Case {
    name: &'static str,
    /// Sent at once.
    bytes: Vec<u8>,
    /// Sent again and again behind it, as long as somebody listens.
    more: Vec<u8>,
    /// Between two of those.
    pause: Duration,
}

fn whole(name: &'static str, bytes: Vec<u8>) -> Case {
    Case { name, bytes, more: Vec::new(), pause: Duration::ZERO }
}

fn answer(name: &'static str, body: &str) -> Case {
    let n = body.len();
    whole(
        name,
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {n}\r\n\r\n{body}").into(),
    )
}

fn endless(name: &'static str, head: &str, more: &[u8], pause: Duration) -> Case {
    Case { name, bytes: head.as_bytes().to_vec(), more: more.to_vec(), pause }
}

/// `trap` is where nobody may come.
fn cases(trap: SocketAddr) -> Vec<Case> {
    let handout = |interval: &str, peers: &str| {
        format!("{{\"interval\":{interval},\"seeds\":1,\"leechers\":0,\"peers\":[{peers}]}}")
    };
    let fast = Duration::ZERO;
    let redirect = |to: String| {
        whole("T4 redirect", format!("HTTP/1.1 307 x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n").into())
    };
    let peers = |addr: &str, n: usize| vec![format!("{{\"addrs\":[\"{addr}\"]}}"); n].join(",");
    let mut out = vec![
        endless(
            "T4 a body without end",
            "HTTP/1.1 200 OK\r\n\r\n{\"interval\":1,\"peers\":[",
            b"{\"addrs\":[]},",
            fast,
        ),
        endless(
            "T4 chunks without end",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"4\r\n    \r\n",
            fast,
        ),
        endless("T4 headers without end", "HTTP/1.1 200 OK\r\n", b"x: y\r\n", fast),
        endless("T4 a header without end", "HTTP/1.1 200 OK\r\nx: ", b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy", fast),
        endless("T4 continues without end", "", b"HTTP/1.1 100 Continue\r\n\r\n", fast),
        endless(
            "T4 a byte now and then",
            "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n",
            b" ",
            Duration::from_millis(200),
        ),
        endless("T4 silence", "", b"", Duration::from_secs(60)),
        whole("T4 nothing", Vec::new()),
        whole("T4 noise", vec![0xa5; 100_000]),
        whole("T4 a body shorter than said", b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec()),
        whole("T4 a body of 2^63 bytes", b"HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775808\r\n\r\n{".to_vec()),
        whole(
            "T4 a gzip bomb",
            [b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\n\r\n".to_vec(), vec![0x1f; 20]]
                .concat(),
        ),
        whole(
            "T4 an error that paints",
            b"HTTP/1.1 500 x\r\ncontent-length: 22\r\n\r\n{\"error\":\"\\u001b[31m\"}\n".to_vec(),
        ),
        whole(
            "T4 come back never",
            b"HTTP/1.1 429 x\r\nretry-after: 99999999999\r\ncontent-length: 0\r\n\r\n".to_vec(),
        ),
        redirect(format!("http://{trap}/v1/announce")),
        redirect("file:///etc/passwd".into()),
        redirect("/v1/announce".into()),
        redirect("//".into()),
        answer("T4 null", "null"),
        answer("T4 a list", "[]"),
        answer("T4 no JSON", "<html>"),
        answer("T4 deep nesting", &"[".repeat(100_000)),
        answer("T4 a million peers", &handout("1", &peers("10.255.255.1:7171", 30_000))),
        answer("T4 a hundred thousand empty peers", &handout("1", &vec!["{\"addrs\":[]}"; 80_000].join(","))),
        answer(
            "T1 one peer with ten thousand addresses",
            &handout("1", &format!("{{\"addrs\":[{}]}}", vec!["\"127.0.0.1:1\""; 10_000].join(","))),
        ),
        answer(
            "T1 low ports",
            &handout(
                "1",
                &[peers(":22", 1), peers("127.0.0.1:443", 1), peers("127.0.0.1:0", 1), peers("[::1]:1023", 1)]
                    .join(","),
            ),
        ),
        answer(
            "T1 where nobody lives",
            &handout(
                "1",
                &[
                    peers("169.254.169.254:8080", 1),
                    peers("0.0.0.0:7171", 1),
                    peers("255.255.255.255:7171", 1),
                    peers("224.0.0.1:7171", 1),
                    peers("[fe80::1]:7171", 1),
                    peers("[ff02::1]:7171", 1),
                    peers("[::]:7171", 1),
                    peers("[64:ff9b::7f00:1]:7171", 1),
                    peers("[2002:7f00:1::]:7171", 1),
                ]
                .join(","),
            ),
        ),
        answer(
            "T1 names and nonsense",
            &handout(
                "1",
                &[peers("localhost:7171", 1), peers(":99999", 1), peers(":+80", 1), peers("x", 1), peers("", 1)]
                    .join(","),
            ),
        ),
    ];
    for interval in ["0", "1", "4294967295", "4294967296", "9223372036854775808", "-1", "1e9", "0.5", "\"1\"", "null"] {
        out.push(answer("T4 an interval", &handout(interval, "")));
    }
    out
}

/// Answers all who come with this, and counts them.
async fn evil_tracker(case: Case) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(one(stream, case.clone()));
        }
    });
    (addr, asked)
}

async fn one(mut stream: TcpStream, case: Case) {
    let mut request = vec![0; 32 << 10];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(&case.bytes).await;
    // Bounded: an attack that somebody bears for 64 MiB has succeeded.
    let mut left = 64 << 20;
    while !(case.more.is_empty() && case.pause.is_zero()) && left > 0 {
        if stream.write_all(&case.more).await.is_err() {
            return;
        }
        left -= case.more.len().max(1);
        tokio::time::sleep(case.pause).await;
    }
    let _ = stream.shutdown().await;
    while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
}

#[test]
fn a_fetch_that_announces_to_it() {
    run(async {
        let content = Content::file(40, 1 << 20, 1 << 18);
        let honest = engine().await;
        let seed = content.seed(&honest, &[]);
        let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (source, trap_addr) = (honest.local_addr(), trap.local_addr().unwrap());
        let mut playing = JoinSet::new();
        for case in cases(trap_addr) {
            let content = content.clone();
            playing.spawn(async move {
                let name = case.name;
                let (engine, dir) = (engine().await, tempfile::tempdir().unwrap());
                let (tracker, asked) = evil_tracker(case).await;
                let mut fetch = content.fetch(&engine, dir.path(), &[source], &[url(tracker)]);
                assert!(content.is_at(&complete(&mut fetch).await), "{name}");
                let told = fetch.stats.wait_for(|stats| stats.trackers.iter().any(|t| t.state.is_some()));
                // An answer that never comes is given up in its time; nobody waits for it here.
                let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
                let asked = asked.load(Ordering::Relaxed);
                assert!((1..=4).contains(&asked), "{name}: asked {asked} times");
                fetch.stop(StopReason::Done).await;
                engine.shutdown().await;
            });
        }
        let playing = async {
            while let Some(played) = playing.join_next().await {
                played.unwrap();
            }
        };
        tokio::select! {
            () = playing => {}
            came = trap.accept() => panic!("somebody followed a redirect: {came:?}"),
        }
        seed.stop(StopReason::Done).await;
        honest.shutdown().await;
    });
}

#[test]
fn who_looks_for_a_manifest_with_its_help() {
    run(async {
        let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut looking = JoinSet::new();
        for case in cases(trap.local_addr().unwrap()) {
            looking.spawn(async move {
                let (engine, name) = (engine().await, case.name);
                let (tracker, asked) = evil_tracker(case).await;
                let (id, trackers) = (shoal_protocol::ContentId([3; 32]), [url(tracker)]);
                let found = engine.find_manifest(id, &trackers, &[], Some(Duration::from_millis(500)));
                assert!(tokio::time::timeout(PATIENCE, found).await.unwrap().is_err(), "{name}");
                assert!(asked.load(Ordering::Relaxed) > 0, "{name}: it was never asked");
                engine.shutdown().await;
            });
        }
        while let Some(looked) = looking.join_next().await {
            looked.unwrap();
        }
        let came = tokio::time::timeout(Duration::ZERO, trap.accept()).await;
        assert!(came.is_err(), "somebody followed a redirect");
    });
}
