//! Manifests by their id alone, from peers.

use crate::run;
use harness::loopback::{Content, Evil, engine, hello, url};
use shoal_peer::engine::{Engine, EngineConfig};
use shoal_protocol::announce::StopReason;
use shoal_protocol::{ContentId, Message};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Its manifest has many segments.
fn content() -> Content {
    Content::tree(50, &vec![3; 3_000], 1 << 16)
}

#[test]
fn a_manifest_comes_from_a_peer_by_its_id_alone() {
    run(async {
        let content = content();
        assert!(content.manifest.binary_len() > 3 * 32_768);
        let a = Engine::start(EngineConfig { tracker: true, ..EngineConfig::on_loopback() }).await.unwrap();
        let b = engine().await;
        let seed = content.seed(&a, &[]);
        let (id, long) = (content.manifest.id(), Some(Duration::from_secs(20)));
        let found = b.find_manifest(id, &[], &[b.local_addr(), a.local_addr()], long).await.unwrap();
        assert_eq!(found.to_binary(), content.manifest.to_binary());
        let short = Some(Duration::from_millis(300));
        assert!(b.find_manifest(ContentId([1; 32]), &[], &[a.local_addr()], short).await.is_err());
        // The tracker names whoever announced: the seed itself.
        assert!(b.find_manifest(id, &[url(a.local_addr())], &[], long).await.is_ok());
        seed.stop(StopReason::Done).await;
        a.shutdown().await;
        b.shutdown().await;
    });
}

#[test]
fn liars_and_stallers_hold_up_no_manifest() {
    run(async {
        let content = content();
        let (a, b) = (engine().await, engine().await);
        let seed = content.seed(&a, &[]);
        let mut peers = Vec::new();
        // A wrong length, wrong bytes, another segment, none, silence.
        for case in 0..5_u8 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            peers.push(listener.local_addr().unwrap());
            let (swarm, total) = (content.swarm(), content.manifest.binary_len());
            tokio::spawn(async move {
                while let Ok(mut evil) = Evil::accept(&listener, &hello(swarm, case + 1)).await {
                    while let Ok(Message::ManifestRequest { segment }) = evil.next().await {
                        let data = bytes::Bytes::from(vec![7; 32_768]);
                        let (total, segment, data) = match case {
                            0 => (32_768, 0, data),
                            1 => (total, segment, data),
                            2 => (total, segment + 1, data),
                            3 => (0, segment, bytes::Bytes::new()),
                            _ => continue,
                        };
                        let answer = Message::ManifestSegment { total, segment, proof: Vec::new(), data };
                        let _ = evil.send(&answer).await;
                    }
                }
            });
        }
        peers.push(a.local_addr());
        let start = Instant::now();
        let found = b.find_manifest(content.manifest.id(), &[], &peers, Some(Duration::from_secs(20))).await.unwrap();
        assert_eq!(found.id(), content.manifest.id());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        seed.stop(StopReason::Done).await;
    });
}

#[test]
fn who_needs_the_manifest_gets_nothing_else_until_it_says_what_it_has() {
    run(async {
        let content = content();
        let a = engine().await;
        let seed = content.seed(&a, &[]);
        let mut ours = hello(content.swarm(), 1);
        ours.needs_manifest = true;
        let mut evil = Evil::dial(a.local_addr(), &ours).await.unwrap();
        evil.send(&Message::KeepAlive).await.unwrap();
        evil.send(&Message::Pex { added: Vec::new(), dropped: Vec::new() }).await.unwrap();
        for segment in [0, 1, 0] {
            evil.send(&Message::ManifestRequest { segment }).await.unwrap();
            let answer = evil.next().await.unwrap();
            assert!(matches!(answer, Message::ManifestSegment { segment: s, .. } if s == segment), "{answer:?}");
        }
        evil.send(&Message::HaveNone).await.unwrap();
        assert_eq!(evil.next().await.unwrap(), Message::HaveAll);
        seed.stop(StopReason::Done).await;
    });
}
