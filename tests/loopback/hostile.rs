//! What an evil peer does to a seed or a fetch over time, and how that ends for it. Single frames that nobody may send
//! are in the corpus tier.

use crate::run;
use harness::loopback::{Content, Evil, PATIENCE, complete, engine, hello};
use shoal_peer::engine::Engine;
use shoal_protocol::announce::StopReason;
use shoal_protocol::message::{Block, GoodbyeReason, Hello, PexPeer, RejectReason};
use shoal_protocol::{Message, PeerId};
use std::future::Future;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

fn content() -> Content {
    Content::file(20, 4 << 20, 1 << 18)
}

async fn with_seed<F: Future<Output = ()>>(attack: impl FnOnce(SocketAddr, Content) -> F) {
    with_seed_of(content(), attack).await;
}

/// A seed, and after the attack an honest fetch from it that must complete.
pub(crate) async fn with_seed_of<F: Future<Output = ()>>(
    content: Content,
    attack: impl FnOnce(SocketAddr, Content) -> F,
) {
    let (a, b, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
    let seed = content.seed(&a, &[]);
    attack(a.local_addr(), content.clone()).await;
    let mut fetch = content.fetch(&b, dir.path(), &[a.local_addr()], &[]);
    assert!(content.is_at(&complete(&mut fetch).await));
    fetch.stop(StopReason::Done).await;
    seed.stop(StopReason::Done).await;
    a.shutdown().await;
    b.shutdown().await;
}

fn reason(message: Option<&Message>) -> Option<GoodbyeReason> {
    match message {
        Some(Message::Goodbye { reason, .. }) => Some(*reason),
        _ => None,
    }
}

#[test]
fn a_few_unasked_blocks_are_forgiven_and_more_are_not() {
    run(with_seed(|addr, content| async move {
        let mut evil = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        evil.send(&Message::HaveNone).await.unwrap();
        let block = Block { piece: 1, offset: 0, length: 100 };
        for _ in 0..8 {
            evil.send_block(block, &[0; 100]).await.unwrap();
        }
        // It still answers.
        let wanted = Block { piece: 2, offset: 0, length: 1_000 };
        evil.send(&Message::Request(wanted)).await.unwrap();
        while evil.next().await.unwrap() != Message::Block(wanted) {}
        evil.send_block(block, &[0; 100]).await.unwrap();
        assert_eq!(reason(evil.last_words().await.as_ref()), Some(GoodbyeReason::Protocol));
    }));
}

#[test]
fn a_flood_of_requests_that_is_never_read_ends() {
    run(with_seed(|addr, content| async move {
        let mut evil = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        evil.send(&Message::HaveNone).await.unwrap();
        let mut out = bytes::BytesMut::new();
        for _ in 0..2_000 {
            Message::Request(Block { piece: 0, offset: 0, length: 1 << 18 }).encode(&mut out);
        }
        let _ = evil.stream.write_all(&out).await;
        // Nothing is read until it must have ended; then its end is found behind what was in the pipe.
        evil.last_words().await;
    }));
}

#[test]
fn a_flood_of_peer_lists_is_read_no_faster_than_it_costs() {
    run(with_seed(|addr, content| async move {
        let mut evil = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        evil.send(&Message::HaveNone).await.unwrap();
        let start = std::time::Instant::now();
        // Most come too early to be looked at; they are as long all the same. A second has room for 400.
        let added: Vec<PexPeer> =
            (1..=50).map(|n| PexPeer { addr: SocketAddr::from(([10, 9, 9, n], 7171)), seed: false }).collect();
        for _ in 0..900 {
            evil.send(&Message::Pex { added: added.clone(), dropped: Vec::new() }).await.unwrap();
        }
        let wanted = Block { piece: 2, offset: 0, length: 1_000 };
        evil.send(&Message::Request(wanted)).await.unwrap();
        while evil.next().await.unwrap() != Message::Block(wanted) {}
        assert!(start.elapsed() > std::time::Duration::from_secs(1), "read within {:?}", start.elapsed());
    }));
}

#[test]
fn manifests_asked_for_without_end_and_never_read_end() {
    run(with_seed(|addr, content| async move {
        let mut evil = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        evil.send(&Message::HaveNone).await.unwrap();
        let mut out = bytes::BytesMut::new();
        for _ in 0..500 {
            Message::ManifestRequest { segment: 0 }.encode(&mut out);
        }
        // The answers that may wait are few, and more questions than that are a fault: it ends while nothing is read.
        let flood = async { while evil.stream.write_all(&out).await.is_ok() {} };
        let ended = tokio::time::timeout(PATIENCE, flood).await;
        assert!(ended.is_ok(), "it goes on being asked");
    }));
}

#[test]
fn rejects_and_cancels_keep_to_the_wire() {
    run(with_seed(|addr, content| async move {
        let mut evil = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        evil.send(&Message::HaveNone).await.unwrap();
        // Pieces of the origin's choice until none is left.
        let mut assigned = std::collections::BTreeSet::new();
        loop {
            evil.send(&Message::RequestAny).await.unwrap();
            let answer = loop {
                let message = evil.next().await.unwrap();
                if matches!(message, Message::Assign { .. } | Message::Reject { .. }) {
                    break message;
                }
            };
            match answer {
                Message::Assign { piece } => assert!(assigned.insert(piece), "{piece} twice"),
                Message::Reject { block, reason } => {
                    assert_eq!((block.piece, reason), (u32::MAX, RejectReason::NothingToAssign));
                    break;
                }
                _ => {}
            }
        }
        assert_eq!(assigned.len(), 16);
        // What was answered already can be cancelled without harm.
        evil.send(&Message::Cancel(Block { piece: 0, offset: 0, length: 0 })).await.unwrap();
        let wanted = Block { piece: 0, offset: 5, length: 7 };
        evil.send(&Message::Request(wanted)).await.unwrap();
        while evil.next().await.unwrap() != Message::Block(wanted) {}
    }));
}

/// Connections that have not said a word.
async fn silent(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut out = Vec::new();
    for _ in 0..count {
        out.push(TcpStream::connect(addr).await.unwrap());
    }
    out
}

#[test]
fn silent_connections_do_not_keep_honest_ones_out() {
    run(with_seed(|addr, content| async move {
        let mut silent = silent(addr, 200).await;
        let start = std::time::Instant::now();
        let evil = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(evil.hello.is_some());
        // The oldest were let go.
        let end = tokio::time::timeout(PATIENCE, silent[0].read(&mut [0])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)));
    }));
}

#[test]
fn who_dials_in_a_crowd_of_honest_ones_is_answered() {
    run(with_seed(|addr, content| async move {
        // All are accepted before the first of them says a word.
        let crowd = silent(addr, 300).await;
        let mut tasks = JoinSet::new();
        for (n, stream) in crowd.into_iter().enumerate() {
            let hello = hello(content.swarm(), n as u8);
            tasks.spawn(async move {
                let mut evil = Evil::greet_over(stream).await?;
                evil.send(&Message::Hello(Box::new(hello))).await?;
                // The house has fewer places; who gets none is told so.
                Ok::<_, std::io::Error>(matches!(evil.next().await?, Message::Hello(_) | Message::Goodbye { .. }))
            });
        }
        let answers = tokio::time::timeout(PATIENCE, tasks.join_all()).await.unwrap();
        let closed: Vec<_> = answers.iter().filter(|answer| !matches!(answer, Ok(true))).collect();
        assert!(closed.is_empty(), "{} closed: {:?}", closed.len(), closed.first());
    }));
}

#[test]
fn who_only_wants_manifests_keeps_no_peer_out() {
    run(with_seed(|addr, content| async move {
        let mut held = Vec::new();
        for n in 0..300_u32 {
            let mut peer = [9; 16];
            peer[..4].copy_from_slice(&n.to_le_bytes());
            let hello = Hello { peer: PeerId(peer), needs_manifest: true, ..hello(content.swarm(), 1) };
            held.extend(Evil::dial(addr, &hello).await.ok());
        }
        assert!((64..300).contains(&held.len()), "{} have a place", held.len());
        let honest = Evil::dial(addr, &hello(content.swarm(), 1)).await.unwrap();
        assert!(honest.hello.is_some());
    }));
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    run(with_seed(|addr, content| async move {
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        for n in 0..100_u8 {
            match n % 4 {
                0 => drop(TcpStream::connect(addr).await.unwrap()),
                1 => drop(Evil::greet(addr).await.unwrap()),
                2 => drop(Evil::dial(addr, &hello(content.swarm(), n)).await.unwrap()),
                _ => {
                    let mut evil = Evil::dial(addr, &hello(content.swarm(), n)).await.unwrap();
                    evil.send(&Message::HaveNone).await.unwrap();
                    evil.send(&Message::Request(Block { piece: 0, offset: 0, length: 1 << 18 })).await.unwrap();
                }
            }
        }
        let gone = async {
            while tasks() > before {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, gone).await.is_ok(), "{} tasks, {before} before", tasks());
    }));
}

#[test]
fn who_lies_about_cvs_is_dropped_and_another_is_asked() {
    run(async {
        let content = content();
        let (honest, c, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
        let mut fetch = content.fetch(&c, dir.path(), &[], &[]);
        let mut evil = Evil::dial(c.local_addr(), &hello(content.swarm(), 1)).await.unwrap();
        evil.send(&Message::HaveAll).await.unwrap();
        loop {
            if let Message::CvRequest { first, count } = evil.next().await.unwrap() {
                let hashes = vec![[5; 32]; content.cvs.len()];
                evil.send(&Message::Cvs { first, count, hashes }).await.unwrap();
                break;
            }
        }
        assert_eq!(reason(evil.last_words().await.as_ref()), Some(GoodbyeReason::Protocol));
        let seed = content.seed(&honest, &[]);
        let other = tempfile::tempdir().unwrap();
        let between: Engine = engine().await;
        let mut relay = content.fetch(&between, other.path(), &[honest.local_addr(), c.local_addr()], &[]);
        assert!(content.is_at(&complete(&mut fetch).await));
        assert!(content.is_at(&complete(&mut relay).await));
        for handle in [fetch, relay, seed] {
            handle.stop(StopReason::Done).await;
        }
    });
}
