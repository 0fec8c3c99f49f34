//! HTTP on the peer's port.

use crate::run;
use harness::loopback::{Content, Evil, hello, http};
use shoal_peer::engine::{Engine, EngineConfig};
use shoal_protocol::Manifest;
use shoal_protocol::announce::StopReason;
use std::net::SocketAddr;
use std::time::Instant;

async fn get(addr: SocketAddr, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
    http(addr, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")).await.unwrap()
}

#[test]
fn the_peers_port_gives_out_manifest_and_cvs_and_takes_announces() {
    run(async {
        let content = Content::file(30, 3 << 20, 1 << 18);
        let engine = Engine::start(EngineConfig { tracker: true, ..EngineConfig::on_loopback() }).await.unwrap();
        let addr = engine.local_addr();
        let seed = content.seed(&engine, &[]);
        let id = content.manifest.id();

        assert_eq!(get(addr, "/healthz", "").await.0, 200);
        let (status, _, json) = get(addr, &format!("/m/{id}"), "").await;
        assert_eq!((status, Manifest::parse_with_id(&json, id).is_ok()), (200, true));
        let accept = "accept: application/vnd.shoal.manifest\r\n";
        let (status, head, binary) = get(addr, &format!("/m/{id}"), accept).await;
        assert_eq!((status, Manifest::parse_with_id(&binary, id).is_ok()), (200, true));
        assert!(head.contains("shoal-content-length: "), "{head}");
        let range = format!("{accept}range: bytes=3-9\r\n");
        let (status, _, part) = get(addr, &format!("/m/{id}"), &range).await;
        assert_eq!((status, &part[..]), (206, &binary[3..10]));
        let (status, _, cvs) = get(addr, &format!("/m/{id}/cvs"), "").await;
        assert_eq!((status, cvs), (200, content.cvs.concat()));
        let (status, _, part) = get(addr, &format!("/m/{id}/cvs"), "range: bytes=32-63\r\n").await;
        assert_eq!((status, &part[..]), (206, &content.cvs[1][..]));
        assert_eq!(get(addr, &format!("/m/{}", "0".repeat(64)), "").await.0, 404);

        let body = format!(
            r#"{{"swarm":"{}","peer":"{}","port":7171,"event":"started","left":1}}"#,
            content.swarm(),
            "ab".repeat(16)
        );
        let post = |body: &str| {
            format!(
                "POST /v1/announce HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let (status, _, answer) = http(addr, &post(&body)).await.unwrap();
        assert_eq!(status, 200);
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer["interval"].as_u64().is_some_and(|s| s > 0), "{answer}");
        let foreign = body.replace(&content.swarm().to_string(), &"1".repeat(64));
        assert_eq!(http(addr, &post(&foreign)).await.unwrap().0, 404);
        assert_eq!(http(addr, &post("{}")).await.unwrap().0, 400);
        let put = format!("PUT /m/{id} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx");
        assert_eq!(http(addr, &put).await.unwrap().0, 403);

        for garbage in ["\r\n\r\n", "GET\r\n\r\n", "\0\0\0\0\r\n\r\n", "SSH-2.0-x\r\n\r\n"] {
            // An error or nothing, but an end.
            let ends = http(addr, garbage).await.map_err(|error| error.kind());
            assert_ne!(ends.err(), Some(std::io::ErrorKind::TimedOut), "{garbage:?}");
        }
        // Peers still get in.
        assert!(Evil::dial(addr, &hello(content.swarm(), 1)).await.is_ok());
        seed.stop(StopReason::Done).await;
        engine.shutdown().await;
    });
}

#[test]
fn what_is_given_out_over_http_counts_against_the_limit() {
    run(async {
        let content = Content::tree(31, &vec![1; 4_000], 1 << 16);
        let limited = EngineConfig { max_upload: 400_000, ..EngineConfig::on_loopback() };
        let engine = Engine::start(limited).await.unwrap();
        let seed = content.seed(&engine, &[]);
        let path = format!("/m/{}", content.manifest.id());
        let start = Instant::now();
        let (status, _, json) = get(engine.local_addr(), &path, "").await;
        assert_eq!((status, json.len() > 400_000), (200, true), "{}", json.len());
        // A twentieth of a second may be saved up.
        let least = json.len() as f64 / 400_000.0 - 0.1;
        assert!(start.elapsed().as_secs_f64() > least, "{} bytes in {:?}", json.len(), start.elapsed());
        seed.stop(StopReason::Done).await;
        engine.shutdown().await;
    });
}
