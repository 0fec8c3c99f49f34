//! Crowds that come only to be there (R9, T6): connections that do nothing keep a fetch from its sources and a seed from
//! its fetchers for a moment only.

use crate::siege::{HONEST, MAX, Siege, evil};
use shoal_peer::swarm::{ConnId, Input, Time};
use shoal_protocol::Message;
use shoal_protocol::announce::{Handout, HandoutPeer};
use shoal_protocol::message::Block;
use std::net::SocketAddr;

#[test]
fn a_crowd_that_does_nothing_does_not_keep_a_fetch_from_dialling_who_has_it() {
    let mut siege = Siege::new(false);
    for n in 0..60 {
        siege.connect(evil(n), false, false);
    }
    assert!(siege.open.len() < MAX, "some places are for those whom it chooses itself");
    let peers = vec![HandoutPeer { addrs: vec![HONEST.to_string()], seed: true }];
    let handout = Handout { interval: 30, seeds: 1, leechers: 60, completed: 0, peers };
    siege.feed(Input::Announced { tracker: 0, reached: [9, 1, 1, 1].into(), handout });
    siege.wait(15);
    assert!(siege.dialled.contains(&HONEST), "kept from its source by {} connections", siege.open.len());
    let honest = siege.connect(HONEST, true, true);
    assert!(siege.stands(honest));
}

#[test]
fn a_house_full_of_idle_ones_has_room_for_who_comes() {
    for complete in [false, true] {
        let mut siege = Siege::new(complete);
        let crowd: Vec<ConnId> = (0..60).map(|n| siege.connect(evil(n), false, false)).collect();
        let early = siege.connect(SocketAddr::from(([9, 9, 9, 1], 40_000)), false, !complete);
        assert!(!siege.stands(early), "the house is full");
        siege.wait(11);
        let late = siege.connect(SocketAddr::from(([9, 9, 9, 2], 40_000)), false, !complete);
        assert!(siege.stands(late), "complete: {complete}");
        assert_eq!(crowd.iter().filter(|conn| siege.stands(**conn)).count(), MAX - 1 - usize::from(!complete) * 2);
    }
}

#[test]
fn a_house_full_of_busy_ones_of_one_address_has_room_for_others() {
    // In a private network, too, and where each does something all the time.
    for crowd in [[10, 0, 0, 66], [8, 8, 8, 8]] {
        let mut siege = Siege::new(true);
        let of = |n: u8| SocketAddr::from(([10, 0, 1, n], 40_000));
        let first: Vec<ConnId> = (0..40).map(|n| siege.connect(of(n), false, false)).collect();
        let many: Vec<ConnId> = (0..MAX as u16 + 30)
            .map(|n| {
                let conn = siege.connect(SocketAddr::from((crowd, 40_000 + n)), false, false);
                let block = Block { piece: 0, offset: 0, length: 1_000 };
                siege.feed(Input::Message { conn, message: Message::Request(block) });
                conn
            })
            .collect();
        assert!(first.iter().all(|conn| siege.stands(*conn)), "a crowd pushes nobody out");
        let late: Vec<ConnId> = (100..130).map(|n| siege.connect(of(n), false, false)).collect();
        let [late, many] = [late, many].map(|all| all.iter().filter(|conn| siege.stands(**conn)).count());
        assert_eq!((late, many), (MAX - 41, 1), "{crowd:?}");
        assert!(first.iter().all(|conn| siege.stands(*conn)));
    }
}

#[test]
fn a_house_full_of_one_network_has_room_for_others() {
    let mut siege = Siege::new(true);
    let come = |siege: &mut Siege, network: [u8; 3], hosts: std::ops::Range<u8>| -> Vec<ConnId> {
        let [a, b, c] = network;
        hosts.map(|n| siege.connect(SocketAddr::from(([a, b, c, n], 40_000)), false, false)).collect()
    };
    let many = come(&mut siege, [10, 0, 0], 0..60);
    let standing = |siege: &Siege, all: &[ConnId]| all.iter().filter(|conn| siege.stands(**conn)).count();
    assert_eq!(standing(&siege, &many), MAX);
    let alone: Vec<ConnId> = (0..5).flat_map(|n| come(&mut siege, [9, 9, n], 1..2)).collect();
    assert_eq!((standing(&siege, &alone), standing(&siege, &many)), (5, MAX - 5));
    let second = come(&mut siege, [10, 0, 1], 0..60);
    let halves = (standing(&siege, &second), standing(&siege, &many));
    assert!(halves.0.abs_diff(halves.1) <= 1 && halves.0 + halves.1 == MAX - 5, "{halves:?}");
    assert_eq!(standing(&siege, &alone), 5);
    // A second connection of a host costs nobody else of its network the place.
    let again = come(&mut siege, [10, 0, 1], 0..1);
    assert!(!siege.stands(again[0]));
}

#[test]
fn who_took_a_block_long_ago_makes_room_and_who_takes_them_now_does_not() {
    let mut siege = Siege::new(true);
    let crowd: Vec<ConnId> = (0..MAX as u8).map(|n| siege.connect(evil(n), false, false)).collect();
    let take = |siege: &mut Siege, conn: ConnId| {
        let block = Block { piece: conn % 16, offset: 0, length: 1_000 };
        siege.feed(Input::Message { conn, message: Message::Request(block) });
        while let Some((conn, block)) = siege.sending.pop() {
            siege.feed(Input::BlockSent { conn, block });
        }
    };
    for conn in &crowd {
        take(&mut siege, *conn);
    }
    siege.wait(50);
    take(&mut siege, crowd[0]);
    siege.wait(11);
    for n in 0..MAX as u8 + 5 {
        siege.connect(SocketAddr::from(([9, n, 9, 2], 40_000)), false, false);
    }
    assert!(siege.stands(crowd[0]), "it took something not long ago");
    assert!(crowd[1..].iter().all(|conn| !siege.stands(*conn)));
}

#[test]
fn a_network_on_the_internet_gets_a_quarter_of_the_places() {
    let mut siege = Siege::new(true);
    for n in 0..25 {
        siege.connect(evil(n), false, false);
    }
    let same: Vec<ConnId> =
        (0..40).map(|n| siege.connect(SocketAddr::from(([8, 8, 8, n], 40_000)), false, false)).collect();
    assert_eq!(same.iter().filter(|conn| siege.stands(**conn)).count(), MAX.div_ceil(4));
    let other = siege.connect(SocketAddr::from(([8, 8, 9, 1], 40_000)), false, false);
    assert!(siege.stands(other));
    // In a private network there may be nobody else.
    let mut siege = Siege::new(true);
    let near: Vec<ConnId> =
        (0..40).map(|n| siege.connect(SocketAddr::from(([10, 0, 0, n], 40_000)), false, false)).collect();
    assert!(near.iter().all(|conn| siege.stands(*conn)));
}

#[test]
fn who_comes_again_under_a_new_name_is_served_after_newcomers() {
    let ask = |siege: &mut Siege, conn: ConnId, piece: u32| {
        let block = Block { piece, offset: 0, length: 1 << 16 };
        siege.feed(Input::Message { conn, message: Message::Request(block) });
    };
    let sent = |siege: &mut Siege| {
        let (conn, block) = siege.sending.remove(0);
        siege.feed(Input::BlockSent { conn, block });
        conn
    };
    let new = SocketAddr::from(([9, 9, 9, 9], 40_000));
    for (old, waits) in [(evil(1), true), (SocketAddr::from(([10, 0, 0, 1], 40_000)), false)] {
        let mut siege = Siege::new(true);
        let greedy = siege.connect(old, false, false);
        for piece in 0..10 {
            ask(&mut siege, greedy, piece);
            assert_eq!(sent(&mut siege), greedy);
        }
        siege.feed(Input::Closed { conn: greedy });
        // All turns are taken by others; then the greedy one asks before somebody who was never here.
        for n in 10..13 {
            let busy = siege.connect(evil(n), false, false);
            ask(&mut siege, busy, 0);
        }
        let again = siege.connect(old, false, false);
        ask(&mut siege, again, 1);
        siege.now = Time(siege.now.0 + 1_000);
        let newcomer = siege.connect(new, false, false);
        ask(&mut siege, newcomer, 2);
        let order: Vec<ConnId> = (0..5).map(|_| sent(&mut siege)).skip(3).collect();
        assert_eq!(order == [newcomer, again], waits, "{order:?}");
    }
}
