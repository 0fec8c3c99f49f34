//! What a few connections can do to have a seed or an origin serve nobody else (R5, R11).

use crate::siege::{MAX, Siege, evil};
use shoal_peer::swarm::{ConnId, Input, Time};
use shoal_protocol::Message;
use shoal_protocol::message::RejectReason;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const PIECE: u32 = 1 << 16;

fn honest(n: u8) -> SocketAddr {
    SocketAddr::from(([9, n, 9, 9], 7171))
}

#[test]
fn who_asks_for_one_piece_without_end_does_not_keep_its_turn() {
    for length in [1, 1_000, PIECE] {
        let mut siege = Siege::new(true);
        let crowd: Vec<ConnId> = (0..3).map(|n| siege.connect(evil(n), false, false)).collect();
        for _ in 0..8 {
            crowd.iter().for_each(|conn| siege.asks(*conn, 0, length));
        }
        let late = siege.connect(honest(1), false, false);
        siege.asks(late, 5, PIECE);
        // Each takes a block just before it would count as stuck, and asks for it again.
        let mut blocks = 0;
        while siege.sending.iter().all(|(conn, _)| *conn != late) {
            siege.now = Time(siege.now.0 + 200_000);
            for conn in &crowd {
                if let Some(at) = siege.sending.iter().position(|(c, _)| c == conn) {
                    let (conn, block) = siege.sending.remove(at);
                    siege.feed(Input::BlockSent { conn, block });
                    siege.asks(conn, 0, length);
                    blocks += 1;
                }
            }
            siege.feed(Input::Timeout);
            assert!(siege.now < Time(10_000_000), "{blocks} blocks of {length} bytes, and none for who came later");
        }
    }
}

#[test]
fn who_takes_a_crumb_of_each_piece_does_not_take_all_turns_for_long() {
    let mut siege = Siege::new(true);
    let crowd: Vec<ConnId> = (0..6).map(|n| siege.connect(evil(n), false, false)).collect();
    let late = siege.connect(honest(1), false, false);
    siege.says(late, Message::Have(vec![(15, 1)]));
    let (mut next, mut given) = (0, 0);
    let mut ask = |siege: &mut Siege, conn: ConnId| {
        next = (next + 1) % 13;
        siege.asks(conn, next, 1_000);
    };
    crowd.iter().chain([&late]).for_each(|conn| ask(&mut siege, *conn));
    for step in 0..300 {
        siege.now = Time(siege.now.0 + 100_000);
        for (conn, block) in std::mem::take(&mut siege.sending) {
            // A turn of the crowd's lasts as long as it may without being stuck.
            if conn != late && step % 2 == 0 {
                siege.sending.push((conn, block));
                continue;
            }
            siege.feed(Input::BlockSent { conn, block });
            if conn == late {
                given += 1;
                siege.says(late, Message::Have(vec![(block.piece, 1)]));
            }
            ask(&mut siege, conn);
        }
        siege.feed(Input::Timeout);
    }
    // One in three seconds is what whoever starves gets.
    assert!(given > 30, "{given} blocks in 30 seconds");
}

#[test]
fn crumbs_fill_no_writer() {
    let mut siege = Siege::new(true);
    let evil = siege.connect(evil(1), false, false);
    for _ in 0..2_000 {
        siege.asks(evil, 0, 1);
        if !siege.stands(evil) {
            break;
        }
    }
    assert!(siege.sending.len() <= 64, "{} blocks in a writer", siege.sending.len());
}

#[test]
fn nobody_is_sent_to_who_gives_nothing_or_is_none_of_his_business() {
    // One of those who have it gives nothing, one is near the origin, and one is where all may ask.
    let private = SocketAddr::from(([10, 0, 0, 7], 7171));
    for (asker, expected) in
        [(honest(1), vec![honest(3)]), (SocketAddr::from(([10, 0, 0, 8], 7171)), vec![private, honest(3)])]
    {
        let mut siege = Siege::origin();
        for (n, (addr, no_upload)) in [(honest(2), true), (private, false), (honest(3), false)].into_iter().enumerate()
        {
            let conn = siege.connect_with(addr, |hello| (hello.no_upload, hello.port) = (no_upload, 7171));
            siege.says(conn, Message::Have(vec![(9, 1)]));
            assert_eq!(siege.open.len(), n + 1);
        }
        let late = siege.connect(asker, false, false);
        let told = |siege: &Siege| {
            let busy = siege.said.iter().find_map(|(conn, said)| match said {
                Message::Busy { peers, .. } if *conn == late => Some(peers.clone()),
                _ => None,
            });
            busy.map(|peers| peers.into_iter().collect::<BTreeSet<_>>())
        };
        // Others keep it busy: each asks for as much as it may, and one block a second goes out.
        let crowd: Vec<ConnId> = (0..4).map(|n| siege.connect(evil(n), false, false)).collect();
        for _ in 0..100 {
            crowd.iter().for_each(|conn| siege.asks(*conn, 0, PIECE));
        }
        while told(&siege).is_none() {
            siege.now = Time(siege.now.0 + 1_000_000);
            if let Some((conn, block)) = siege.sending.pop() {
                siege.feed(Input::BlockSent { conn, block });
            }
            siege.asks(late, 9, PIECE);
            assert!(siege.now < Time(60_000_000), "it is never sent away");
        }
        assert_eq!(told(&siege), Some(expected.into_iter().collect()));
    }
}

#[test]
fn who_says_to_have_it_all_does_not_have_an_origin_send_everybody_away() {
    let mut siege = Siege::origin();
    // Each piece is said to be with two others, and what is asked for takes a minute.
    let liars: Vec<ConnId> = (0..3).map(|n| siege.connect(evil(n), false, false)).collect();
    for (n, liar) in (0_u32..).zip(&liars) {
        let all_but_one = [(0, n), (n + 1, 15 - n)].into_iter().filter(|(_, count)| *count > 0).collect();
        siege.says(*liar, Message::Have(all_but_one));
    }
    for _ in 0..200 {
        liars.iter().for_each(|liar| siege.asks(*liar, 0, PIECE));
    }
    let step = |siege: &mut Siege| {
        siege.now = Time(siege.now.0 + 100_000);
        if let Some(at) = siege.sending.iter().position(|(conn, _)| liars.contains(conn)) {
            let (conn, block) = siege.sending.remove(at);
            siege.feed(Input::BlockSent { conn, block });
        }
        siege.feed(Input::Timeout);
    };
    (0..20).for_each(|_| step(&mut siege));
    let late = siege.connect(honest(1), false, false);
    let (mut asked, mut away) = (0, 0);
    while siege.sending.iter().all(|(conn, _)| *conn != late) {
        if asked == away {
            siege.asks(late, 9, PIECE);
            asked += 1;
        }
        away = siege.said.iter().filter(|(c, m)| *c == late && matches!(m, Message::Busy { .. })).count();
        step(&mut siege);
        assert!(siege.now < Time(20_000_000), "sent away {away} times and never served");
    }
    assert!(away > 0, "it was never busy: this shows nothing");
    // From then on it is served as others are.
    for piece in 0..9 {
        siege.asks(late, piece, PIECE);
        step(&mut siege);
    }
    assert_eq!(siege.said.iter().filter(|(c, m)| *c == late && matches!(m, Message::Busy { .. })).count(), away);
}

#[test]
fn who_says_to_have_it_all_does_not_end_what_an_origin_gives_out() {
    let mut siege = Siege::origin();
    siege.connect(evil(1), false, true);
    let late = siege.connect(honest(1), false, false);
    let mut assigned = Vec::new();
    for _ in 0..20 {
        siege.says(late, Message::RequestAny);
        while let Some((conn, block)) = siege.sending.pop() {
            siege.feed(Input::BlockSent { conn, block });
        }
        for (conn, message) in std::mem::take(&mut siege.said) {
            if conn != late {
                continue;
            }
            match message {
                Message::Assign { piece } => assigned.push(piece),
                Message::Reject { reason, .. } => assert_eq!(reason, RejectReason::NothingToAssign),
                other => assert!(matches!(other, Message::HaveAll), "{other:?}"),
            }
        }
    }
    assigned.sort_unstable();
    assert_eq!(assigned, (0..16).collect::<Vec<_>>(), "each once, as if the other weren't there");
    assert!(siege.open.len() < MAX);
}

#[test]
fn who_has_all_and_loses_it_again_and_again_is_sent_away() {
    let mut siege = Siege::new(false);
    let evil = siege.connect(evil(1), true, true);
    let times = (0..100).take_while(|_| {
        siege.says(evil, Message::Unhave(vec![(0, 1)]));
        siege.says(evil, Message::Have(vec![(0, 1)]));
        siege.stands(evil)
    });
    // As often as somebody's disk may fail it.
    assert_eq!(times.count(), 8);
}

#[test]
fn who_asks_for_what_it_got_again_and_again_is_sent_away() {
    let again: [(Message, usize); 2] =
        [(Message::CvRequest { first: 0, count: 16 }, 2 + 1_024), (Message::ManifestRequest { segment: 0 }, 64)];
    for (message, most) in again {
        let mut siege = Siege::new(true);
        let evil = siege.connect(evil(1), false, false);
        let times = (0..5_000).take_while(|_| {
            siege.says(evil, message.clone());
            siege.stands(evil)
        });
        assert_eq!(times.count(), most, "{message:?}");
    }
}
