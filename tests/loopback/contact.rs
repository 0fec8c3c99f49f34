//! Who gets to talk to whom: greetings, doubles, trackers and peer exchange.

use crate::run;
use harness::loopback::{Content, Evil, PATIENCE, complete, engine, fake_tracker, hello, url};
use shoal_peer::engine::{Engine, EngineConfig, TrackerUrl};
use shoal_peer::net::http_client::Nearest;
use shoal_protocol::announce::StopReason;
use shoal_protocol::handshake::{GREETING_BYTES, Greeting};
use shoal_protocol::message::GoodbyeReason;
use shoal_protocol::{Message, PeerId, SwarmId};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn content() -> Content {
    Content::file(40, 2 << 20, 1 << 18)
}

fn reason(message: Option<&Message>) -> Option<GoodbyeReason> {
    match message {
        Some(Message::Goodbye { reason, .. }) => Some(*reason),
        _ => None,
    }
}

#[test]
fn what_can_not_be_spoken_is_answered_as_the_wire_says() {
    run(async {
        let content = content();
        let engine = engine().await;
        let addr = engine.local_addr();
        let seed = content.seed(&engine, &[]);

        let mut unknown = Evil::greet(addr).await.unwrap();
        unknown.send(&Message::Hello(Box::new(hello(SwarmId([9; 32]), 1)))).await.unwrap();
        assert_eq!(reason(unknown.last_words().await.as_ref()), Some(GoodbyeReason::UnknownSwarm));

        let mut features = Evil::greet(addr).await.unwrap();
        let mut strange = hello(content.swarm(), 1);
        strange.features = 1 << 40;
        features.send(&Message::Hello(Box::new(strange))).await.unwrap();
        assert_eq!(reason(features.last_words().await.as_ref()), Some(GoodbyeReason::Protocol));

        for (at, value, answered) in [(8, 2, true), (9, 1, true), (1, 0, false)] {
            let mut greeting = Greeting { random: [1; 16] }.to_bytes();
            greeting[at] = value;
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(&greeting).await.unwrap();
            let mut all = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.unwrap();
            assert_eq!(all.len(), if answered { GREETING_BYTES } else { 0 }, "byte {at}");
        }

        let first = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        let itself = first.hello.as_ref().unwrap().peer;
        let mut mirror = hello(content.swarm(), 1);
        mirror.peer = itself;
        let mut mirror = Evil::dial(addr, &mirror).await.unwrap();
        assert_eq!(reason(mirror.last_words().await.as_ref()), Some(GoodbyeReason::Duplicate));

        // Both dialled by the same side: that one may say which of them ends.
        let mut old = first;
        let mut new = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        for conn in [&mut new, &mut old] {
            assert_eq!(conn.next().await.unwrap(), Message::HaveAll);
        }
        seed.stop(StopReason::Done).await;
        engine.shutdown().await;
    });
}

#[test]
fn an_answer_for_another_swarm_is_no_connection() {
    run(async {
        let content = content();
        let (engine, dir) = (engine().await, tempfile::tempdir().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fetch = content.fetch(&engine, dir.path(), &[listener.local_addr().unwrap()], &[]);
        let mut evil = Evil::accept(&listener, &hello(SwarmId([3; 32]), 1)).await.unwrap();
        assert_eq!(evil.last_words().await, None);
        assert_eq!(fetch.stats.borrow().peers, 0);
        fetch.stop(StopReason::Done).await;
        engine.shutdown().await;
    });
}

#[test]
fn dialling_oneself_leads_nowhere_and_harms_nothing() {
    run(async {
        let content = content();
        let (a, b, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
        let seed = content.seed(&a, &[]);
        let mut fetch = content.fetch(&b, dir.path(), &[b.local_addr(), a.local_addr(), b.local_addr()], &[]);
        assert!(content.is_at(&complete(&mut fetch).await));
        fetch.stop(StopReason::Done).await;
        seed.stop(StopReason::Done).await;
    });
}

#[test]
fn two_who_dial_each_other_keep_one_connection() {
    run(async {
        let content = content();
        let (a, b) = (engine().await, engine().await);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut x = content.fetch(&a, one.path(), &[b.local_addr()], &[]);
        let mut y = content.fetch(&b, two.path(), &[a.local_addr()], &[]);
        for side in [&mut x, &mut y] {
            let together = side.stats.wait_for(|s| s.peers == 1);
            tokio::time::timeout(PATIENCE, together).await.unwrap().unwrap();
        }
        // A look again when both have had time to end the one that is left.
        for side in [&mut x, &mut y] {
            let parted = side.stats.wait_for(|s| s.peers != 1);
            assert!(tokio::time::timeout(Duration::from_millis(300), parted).await.is_err(), "they parted");
        }
        x.stop(StopReason::Done).await;
        y.stop(StopReason::Done).await;
    });
}

#[test]
fn the_tracker_of_a_seed_brings_fetchers() {
    run(async {
        let content = content();
        let a = Engine::start(EngineConfig { tracker: true, ..EngineConfig::on_loopback() }).await.unwrap();
        let (b, dir) = (engine().await, tempfile::tempdir().unwrap());
        let seed = content.seed(&a, &[]);
        let mut fetch = content.fetch(&b, dir.path(), &[], &[url(a.local_addr())]);
        assert!(content.is_at(&complete(&mut fetch).await));
        fetch.stop(StopReason::Done).await;
        seed.stop(StopReason::Done).await;
    });
}

#[test]
fn a_tracker_that_a_stranger_named_is_not_asked_where_it_turns_out_to_be_near() {
    run(async {
        let (content, b, dir) = (content(), engine().await, tempfile::tempdir().unwrap());
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tracker = TrackerUrl { url: url(near.local_addr().unwrap()), nearest: Nearest::Global };
        let mut fetch = content.fetch_told(&b, dir.path(), &[], vec![tracker]);
        let told = fetch.stats.wait_for(|s| s.trackers.iter().any(|t| matches!(t.state, Some(Err(_)))));
        tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
        // Nobody came.
        assert!(near.into_std().unwrap().accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        fetch.stop(StopReason::Done).await;
    });
}

#[test]
fn hostile_trackers_stop_nobody() {
    run(async {
        let content = content();
        let many: Vec<String> =
            (0..10_000).map(|n| format!(r#"{{"addrs":["10.{}.{}.1:7171"]}}"#, n / 256, n % 256)).collect();
        let answer = |interval: &str, peers: &str| {
            format!(r#"{{"interval":{interval},"seeds":1,"leechers":1,"peers":[{peers}]}}"#).into_bytes()
        };
        let cases = vec![
            answer("0", ""),
            answer("2147483648", r#"{"addrs":["127.0.0.1:22",":1","0.0.0.0:7171","169.254.169.254:7171"]}"#),
            answer("-1", ""),
            answer("30", r#"{"addrs":["nonsense","",":99999"]}"#),
            answer("30", &many[..100].join(",")),
            answer("30", &many.join(",")),
            b"{".to_vec(),
            Vec::new(),
            vec![b' '; (1 << 20) + 1],
            b"[".repeat(100_000),
        ];
        let (count, mut trackers) = (cases.len(), Vec::new());
        for case in cases {
            trackers.push(url(fake_tracker(case).await));
        }
        let (a, b, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
        let seed = content.seed(&a, &[]);
        let mut fetch = content.fetch(&b, dir.path(), &[], &trackers);
        let answered = fetch.stats.wait_for(|s| s.trackers.iter().filter(|t| t.state.is_some()).count() == count);
        let stats = tokio::time::timeout(PATIENCE, answered).await.unwrap().unwrap().clone();
        let bad = stats.trackers.iter().filter(|t| matches!(t.state, Some(Err(_)))).count();
        assert!(bad >= 4, "{:?}", stats.trackers);
        assert_eq!(stats.peers, 0);
        // An honest peer still finds it.
        let other = tempfile::tempdir().unwrap();
        let mut relay = content.fetch(&engine().await, other.path(), &[a.local_addr(), b.local_addr()], &[]);
        assert!(content.is_at(&complete(&mut fetch).await));
        assert!(content.is_at(&complete(&mut relay).await));
        for handle in [fetch, relay, seed] {
            tokio::time::timeout(Duration::from_secs(10), handle.stop(StopReason::Done)).await.unwrap();
        }
    });
}

#[test]
fn a_port_that_nobody_may_dial_is_not_passed_on() {
    run(async {
        let content = content();
        let a = engine().await;
        let seed = content.seed(&a, &[]);
        let mut low = hello(content.swarm(), 1);
        low.port = 22;
        let mut low = Evil::dial(a.local_addr(), &low).await.unwrap();
        low.send(&Message::HaveNone).await.unwrap();
        let mut fine = hello(content.swarm(), 2);
        fine.port = 2_222;
        let mut fine = Evil::dial(a.local_addr(), &fine).await.unwrap();
        fine.send(&Message::HaveNone).await.unwrap();
        assert_eq!(fine.next().await.unwrap(), Message::HaveAll);
        let mut third = hello(content.swarm(), 3);
        third.peer = PeerId([3; 16]);
        let mut third = Evil::dial(a.local_addr(), &third).await.unwrap();
        third.send(&Message::HaveNone).await.unwrap();
        let told = loop {
            if let Message::Pex { added, .. } = third.next().await.unwrap() {
                break added;
            }
        };
        assert!(told.iter().any(|p| p.addr.port() == 2_222) && told.iter().all(|p| p.addr.port() != 22), "{told:?}");
        seed.stop(StopReason::Done).await;
    });
}
