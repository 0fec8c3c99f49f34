//! Hostile requests (C: a malicious client), at a tracker's port, at that of a seed that is its own tracker, and at that
//! of a peer that is none. Whatever comes is answered by what is right or refused, each within one reading.

use crate::run;
use harness::loopback::{Content, Evil, PATIENCE, hello, http};
use shoal_peer::engine::{Engine, EngineConfig};
use shoal_protocol::announce::StopReason;
use shoal_tracker::server::{bind, run as serve};
use shoal_tracker::{DiskConfig, DiskStore, Service, ServiceConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// One request, and the answers that are right; 0 stands for none.
struct Case {
    name: String,
    bytes: Vec<u8>,
    answers: &'static [u16],
}

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: impl Into<String>, answers: &'static [u16], bytes: impl Into<Vec<u8>>) {
        self.0.push(Case { name: name.into(), bytes: bytes.into(), answers });
    }
}

const CLOSE: &str = "host: t\r\nconnection: close\r\n";

fn framing(table: &mut Table, announce: &str) {
    let n = announce.len();
    let post = |headers: &str, body: &str| {
        format!("POST /v1/announce HTTP/1.1\r\n{CLOSE}content-type: application/json\r\n{headers}\r\n{body}")
    };
    table.add("an announce", &[200], post(&format!("content-length: {n}\r\n"), announce));
    for (what, headers) in [
        ("length and chunks", format!("content-length: {n}\r\ntransfer-encoding: chunked\r\n")),
        ("chunks and length", format!("transfer-encoding: chunked\r\ncontent-length: {n}\r\n")),
        ("chunks", "transfer-encoding: chunked\r\n".into()),
        ("chunks twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n".into()),
        ("chunks that are none", "transfer-encoding: identity\r\n".into()),
        ("chunks in capitals", "Transfer-Encoding: CHUNKED\r\n".into()),
        ("chunks with a tab", "transfer-encoding:\tchunked\r\n".into()),
        ("chunks and gzip", "transfer-encoding: gzip, chunked\r\n".into()),
        ("chunks behind a comma", "transfer-encoding: ,chunked\r\n".into()),
        ("a space before the colon", format!("content-length : {n}\r\n")),
        ("a folded header", format!("x: a\r\n b\r\ncontent-length: {n}\r\n")),
        ("two lengths", format!("content-length: {n}\r\ncontent-length: 3\r\n")),
        ("two lengths in one", format!("content-length: {n}, 3\r\n")),
        ("a length with a sign", format!("content-length: +{n}\r\n")),
        ("a negative length", "content-length: -1\r\n".into()),
        ("a hexadecimal length", "content-length: 0x9f\r\n".into()),
        ("a length with a point", format!("content-length: {n}.0\r\n")),
        ("a length in words", "content-length: many\r\n".into()),
        ("an empty length", "content-length: \r\n".into()),
        ("a length beyond 64 bits", "content-length: 18446744073709551616\r\n".into()),
        ("a NUL in a header", format!("x: a\0b\r\ncontent-length: {n}\r\n")),
        ("a header without colon", format!("nonsense\r\ncontent-length: {n}\r\n")),
        ("a header without name", format!(": x\r\ncontent-length: {n}\r\n")),
        ("a carriage return alone", format!("x: a\rb\r\ncontent-length: {n}\r\n")),
        ("two hosts", format!("host: other\r\ncontent-length: {n}\r\n")),
    ] {
        table.add(format!("C7 {what}"), &[400], post(&headers, announce));
    }
    // The same value twice leaves one reading.
    table.add("C7 one length twice", &[200, 400], post(&format!("content-length: {n}\r\n").repeat(2), announce));
    for (what, request) in [
        ("GET with a body", format!("GET /healthz HTTP/1.1\r\n{CLOSE}content-length: 3\r\n\r\nabc")),
        ("HEAD with a body", format!("HEAD /healthz HTTP/1.1\r\n{CLOSE}content-length: 3\r\n\r\nabc")),
        ("GET with chunks", format!("GET /healthz HTTP/1.1\r\n{CLOSE}transfer-encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("no version", "GET /healthz\r\n\r\n".into()),
        ("HTTP/3", format!("GET /healthz HTTP/3.0\r\n{CLOSE}\r\n")),
        ("a space too many", format!("GET  /healthz HTTP/1.1\r\n{CLOSE}\r\n")),
        ("a NUL in the target", format!("GET /heal\0thz HTTP/1.1\r\n{CLOSE}\r\n")),
        ("no target", format!("GET HTTP/1.1\r\n{CLOSE}\r\n")),
        ("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n".into()),
        ("a TLS hello", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n\r\n".into()),
        ("HTTP/2 without asking", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
    ] {
        table.add(format!("C7 {what}"), &[400, 0, 505], request);
    }
    // Bare line ends: whatever is made of them, the connection carries one answer.
    table.add("C7 bare line feeds", &[200, 400], "GET /healthz HTTP/1.1\nhost: t\nconnection: close\n\n");
}

fn sizes(table: &mut Table, announce: &str) {
    let long = |n: usize| "x".repeat(n);
    table.add("C6 a target of 1 MiB", &[414, 431, 400, 0], format!("GET /{} HTTP/1.1\r\n{CLOSE}\r\n", long(1 << 20)));
    table.add(
        "C6 a header of 1 MiB",
        &[431, 400, 0],
        format!("GET /healthz HTTP/1.1\r\n{CLOSE}x: {}\r\n\r\n", long(1 << 20)),
    );
    table.add(
        "C6 a name of 64 KiB",
        &[431, 400, 0],
        format!("GET /healthz HTTP/1.1\r\n{CLOSE}{}: x\r\n\r\n", long(1 << 16)),
    );
    table.add(
        "C6 100,000 headers",
        &[431, 400, 0],
        format!("GET /healthz HTTP/1.1\r\n{CLOSE}{}\r\n", "a: b\r\n".repeat(100_000)),
    );
    table.add("C6 33 headers", &[431], format!("GET /healthz HTTP/1.1\r\n{CLOSE}{}\r\n", "a: b\r\n".repeat(31)));
    table.add("C6 32 headers", &[200], format!("GET /healthz HTTP/1.1\r\n{CLOSE}{}\r\n", "a: b\r\n".repeat(30)));
    let post = |length: u64, body: &str| {
        format!(
            "POST /v1/announce HTTP/1.1\r\n{CLOSE}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    for length in [16_385, 1 << 32, u64::MAX] {
        table.add(format!("C6 an announce of {length} bytes"), &[413, 431], post(length, ""));
    }
    let spaced = format!("{announce}{}", " ".repeat(16_384 - announce.len()));
    table.add("C6 an announce of 16,384 bytes", &[200], post(16_384, &spaced));
    table.add(
        "C6 upgrade",
        &[200],
        "GET /healthz HTTP/1.1\r\nhost: t\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n\r\n",
    );
    table.add(
        "C6 upgrade to HTTP/2",
        &[200],
        format!("GET /healthz HTTP/1.1\r\n{CLOSE}upgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"),
    );
    table.add("C6 CONNECT", &[400, 404, 405], format!("CONNECT 10.0.0.1:22 HTTP/1.1\r\n{CLOSE}\r\n"));
    table.add("C6 TRACE", &[405], format!("TRACE /healthz HTTP/1.1\r\n{CLOSE}\r\n"));
    table.add("C6 OPTIONS", &[404, 405], format!("OPTIONS * HTTP/1.1\r\n{CLOSE}\r\n"));
    table.add("C6 a whole URL", &[200, 400, 404], format!("GET http://10.0.0.1/healthz HTTP/1.1\r\n{CLOSE}\r\n"));
    table.add(
        "C6 expectations",
        &[400, 411, 413, 417, 200],
        post(16_385, "").replace("content-length", "expect: 100-continue\r\ncontent-length"),
    );
}

fn queries(table: &mut Table) {
    let id = "ab".repeat(32);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\n{CLOSE}\r\n");
    for target in [
        format!("/v1/scrape?swarm={id}&swarm"),
        format!("/v1/scrape?swarm={id}&"),
        format!("/v1/scrape?&swarm={id}"),
        format!("/v1/scrape?swarm={id}%00"),
        format!("/v1/scrape?swarm=%61b{}", &id[3..]),
        format!("/v1/scrape?swarm={id}+"),
        format!("/v1/scrape?swarm={id};swarm={id}"),
        format!("/v1/scrape?swarm={}", &id[1..]),
        format!("/v1/scrape?swarm={id}0"),
        format!("/v1/scrape?swarm={}", id.to_uppercase()),
        format!("/v1/scrape?swarm[]={id}"),
        format!("/v1/scrape?info_hash={id}"),
        "/v1/scrape".into(),
        "/v1/scrape?".into(),
        "/v1/scrape?swarm=".into(),
        format!("/v1/scrape?{}", vec![format!("swarm={id}"); 51].join("&")),
        format!("/m/{id}?format=json&format=json"),
        format!("/m/{id}?format=xml"),
        format!("/m/{id}?Format=json"),
        format!("/m/{id}?format=json&x=1"),
        format!("/m/{id}/cvs?first=0&first=0"),
        format!("/m/{id}/cvs?first=0"),
        format!("/m/{id}/cvs?first=-1&count=1"),
        format!("/m/{id}/cvs?first=0&count=4294967296"),
        format!("/m/{id}/cvs?first=0&count=1025"),
        format!("/m/{id}/cvs?first=00&count=1"),
        "/m/".into(),
        "/m/..".into(),
        "/m/../etc/passwd".into(),
        "/m/%2e%2e".into(),
        format!("/m/{id}/"),
        format!("/m/{id}/../cvs"),
        format!("/m//{id}"),
        format!("/m/{id}%00"),
        "/healthz?x=1".into(),
    ] {
        table.add(format!("C12 {target:.90}"), &[400], get(&target));
    }
    for target in ["/", "//", "/v1", "/v1/", "/v2/announce", "/metrics", "/v1/swarms", "/v1/status", "/.git/config"] {
        table.add(format!("C8 {target}"), &[404], get(target));
    }
    table.add("C8 fifty zeros", &[200], get(&format!("/v1/scrape?{}", vec![format!("swarm={id}"); 50].join("&"))));
}

fn announces(table: &mut Table, good: &str) {
    let post = |body: &str, kind: &str| {
        let n = body.len();
        format!("POST /v1/announce HTTP/1.1\r\n{CLOSE}content-type: {kind}\r\ncontent-length: {n}\r\n\r\n{body}")
    };
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", ""] {
        table.add(format!("C9 a form of a web page, as {kind}"), &[415], post(good, kind));
    }
    for (what, from, to) in [
        ("a key twice", "\"port\":7171", "\"port\":7171,\"port\":7172"),
        ("an unknown key", "\"port\":7171", "\"port\":7171,\"ip\":\"10.66.0.1\""),
        ("port 1023", "7171", "1023"),
        ("port 1", "7171", "1"),
        ("port 65536", "7171", "65536"),
        ("port -1", "7171", "-1"),
        ("port 7171.0", "7171", "7171.0"),
        ("port as text", "7171", "\"7171\""),
        ("no port", "\"port\":7171,", ""),
        ("an event of another protocol", "started", "paused"),
        ("an event in capitals", "started", "STARTED"),
        ("negative left", "\"left\":1", "\"left\":-1"),
        ("left beyond 64 bits", "\"left\":1", "\"left\":18446744073709551616"),
        ("a want beyond 16 bits", "\"left\":1", "\"left\":1,\"want\":65536"),
        (
            "five candidates",
            "\"left\":1",
            "\"left\":1,\"candidates\":[\"10.0.0.1:7171\",\"10.0.0.2:7171\",\"10.0.0.3:7171\",\"10.0.0.4:7171\",\"10.0.0.5:7171\"]",
        ),
        ("a candidate with a name", "\"left\":1", "\"left\":1,\"candidates\":[\"victim.example:7171\"]"),
        ("a candidate without port", "\"left\":1", "\"left\":1,\"candidates\":[\"10.0.0.1\"]"),
        ("a zone that climbs", "\"left\":1", "\"left\":1,\"zone\":\"a//b\""),
        ("a zone of 129", "\"left\":1", "\"left\":1,\"zone\":\"ZZZ\""),
        ("a label of 65", "\"left\":1", "\"left\":1,\"label\":\"LLL\""),
        ("a label that paints", "\"left\":1", "\"left\":1,\"label\":\"\\u001b[31m\""),
        ("a label that turns", "\"left\":1", "\"left\":1,\"label\":\"\\u202e\""),
        ("an unknown reason", "\"left\":1", "\"left\":1,\"reason\":\"bored\""),
        ("null for a zone", "\"left\":1", "\"left\":1,\"zone\":null"),
        ("a swarm in capitals", "\"swarm\":\"", "\"swarm\":\"AB"),
        ("nothing", good, ""),
        ("half of it", "}", ""),
        ("more behind it", "}", "}}"),
        ("a list", "{", "[{"),
        ("deep nesting", good, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["),
    ] {
        let body = good.replacen(from, to, 1).replace("ZZZ", &"z".repeat(129)).replace("LLL", &"l".repeat(65));
        assert_ne!(body, good, "{what}");
        table.add(format!("C3 {what}"), &[400], post(&body, "application/json"));
    }
    let candidates =
        "\"left\":1,\"candidates\":[\"127.0.0.1:6379\",\"169.254.169.254:8080\",\"10.0.0.1:22\",\"[::1]:7171\"]";
    // Taken, and handed to nobody.
    table.add(
        "C4 candidates that nobody may dial",
        &[200],
        post(&good.replace("\"left\":1", candidates), "application/json"),
    );
    table.add(
        "C9 another site's page, whose name leads here",
        &[403],
        post(good, "application/json").replace("host: t", "host: evil.example\r\norigin: http://evil.example"),
    );
}

fn cases(content: &Content) -> Vec<Case> {
    let mut table = Table::default();
    let swarm = content.swarm();
    let announce = format!(
        "{{\"swarm\":\"{swarm}\",\"peer\":\"{}\",\"port\":7171,\"event\":\"started\",\"left\":1}}",
        "ab".repeat(16)
    );
    framing(&mut table, &announce);
    sizes(&mut table, &announce);
    queries(&mut table);
    announces(&mut table, &announce);
    table.0
}

/// Plays all of it; `tracks` says whether announces are taken there, `None` that it is all the same.
async fn play(addr: SocketAddr, content: &Content, door: &str, is_tracker: bool) {
    for case in cases(content) {
        let answer = http(addr, &case.bytes).await;
        let (status, head, body) = answer.unwrap_or_default();
        let elsewhere = !is_tracker && case.bytes.starts_with(b"POST") && matches!(status, 404 | 405);
        assert!(case.answers.contains(&status) || elsewhere, "{} at {door}: {status} {head}", case.name);
        assert!(!head.contains("access-control"), "{} at {door}: {head}", case.name);
        // One answer, however it is read; and little of it.
        assert!(!body.windows(9).any(|w| w == b"HTTP/1.1 "), "{} at {door}", case.name);
        if status != 200 && status != 0 {
            assert!(head.len() + body.len() < 1_024, "{} at {door}: {} bytes", case.name, head.len() + body.len());
            let text = String::from_utf8(body).unwrap();
            assert!(!text.chars().any(char::is_control), "{} at {door}: {text:?}", case.name);
        }
    }
    assert_eq!(http(addr, format!("GET /healthz HTTP/1.1\r\n{CLOSE}\r\n")).await.unwrap().0, 200, "{door}");
}

#[test]
fn a_trackers_port() {
    run(async {
        let (content, directory) = (Content::file(30, 1 << 20, 1 << 18), tempfile::tempdir().unwrap());
        let store = Arc::new(DiskStore::open(directory.path(), DiskConfig::default()).unwrap());
        let (listener, stop) = (bind("127.0.0.1:0".parse().unwrap()).unwrap(), CancellationToken::new());
        let addr = listener.local_addr().unwrap();
        let service = Service::new(ServiceConfig::default(), store);
        let server = tokio::spawn(serve(listener, None, service.clone(), stop.clone()));
        play(addr, &content, "a tracker", true).await;
        assert_eq!((service.status().swarms, service.status().peers), (1, 1), "one peer, whatever was said of it");
        stop.cancel();
        server.await.unwrap();
    });
}

#[test]
fn the_port_of_a_seed_that_is_its_own_tracker() {
    run(async {
        let content = Content::file(31, 1 << 20, 1 << 18);
        let engine = Engine::start(EngineConfig { tracker: true, ..EngineConfig::on_loopback() }).await.unwrap();
        let seed = content.seed(&engine, &[]);
        play(engine.local_addr(), &content, "a seed", true).await;
        assert!(Evil::dial(engine.local_addr(), &hello(content.swarm(), 1)).await.is_ok(), "peers still get in");
        seed.stop(StopReason::Done).await;
        engine.shutdown().await;
    });
}

#[test]
fn the_port_of_a_peer_that_is_no_tracker() {
    run(async {
        let content = Content::file(32, 1 << 20, 1 << 18);
        let engine = Engine::start(EngineConfig::on_loopback()).await.unwrap();
        let seed = content.seed(&engine, &[]);
        play(engine.local_addr(), &content, "a peer", false).await;
        assert!(Evil::dial(engine.local_addr(), &hello(content.swarm(), 1)).await.is_ok(), "peers still get in");
        seed.stop(StopReason::Done).await;
        engine.shutdown().await;
    });
}

#[test]
fn ten_thousand_requests_in_a_row_are_answered_in_their_order() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(DiskStore::open(directory.path(), DiskConfig::default()).unwrap());
        let (listener, stop) = (bind("127.0.0.1:0".parse().unwrap()).unwrap(), CancellationToken::new());
        let addr = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, None, Service::new(ServiceConfig::default(), store), stop.clone()));
        let (mut read, mut write) = TcpStream::connect(addr).await.unwrap().into_split();
        let sending = tokio::spawn(async move {
            for n in 0..10_000 {
                let last = if n == 9_999 { "connection: close\r\n" } else { "" };
                let target = if n % 2 == 0 { "/healthz" } else { "/nowhere" };
                write.write_all(format!("GET {target} HTTP/1.1\r\nhost: t\r\n{last}\r\n").as_bytes()).await.unwrap();
            }
            write
        });
        let mut all = Vec::new();
        tokio::time::timeout(PATIENCE, read.read_to_end(&mut all)).await.unwrap().unwrap();
        let _write = sending.await.unwrap();
        let text = String::from_utf8(all).unwrap();
        let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses.len(), 10_000);
        assert!(statuses.chunks(2).all(|pair| pair == ["200", "404"]));
        stop.cancel();
    });
}
