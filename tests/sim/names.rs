//! Names are what peers say of themselves, and each neighbour knows them: who takes another's can't harm it by that.

use crate::siege::{HONEST, Siege, evil};
use shoal_peer::swarm::Input;
use shoal_protocol::message::{Block, GoodbyeReason};
use shoal_protocol::{Message, PeerId};
use std::net::SocketAddr;

/// Above and below the name of the one that is besieged.
const NAMES: [PeerId; 2] = [PeerId([0x01; 16]), PeerId([0xfe; 16])];

#[test]
fn who_comes_from_elsewhere_under_the_name_of_a_neighbour_does_not_cut_it_off() {
    let near = SocketAddr::from(([10, 0, 0, 1], 7171));
    for (name, dialled, honest, other) in NAMES.iter().flat_map(|name| {
        let addresses = [(HONEST, evil(1)), (near, SocketAddr::from(([10, 0, 0, 66], 40_000)))];
        addresses.into_iter().flat_map(|(a, b)| [false, true].map(|dialled| (*name, dialled, a, b)))
    }) {
        let mut siege = Siege::new(true);
        let first = siege.connect_as(name, honest, dialled, false);
        for _ in 0..20 {
            siege.asks(first, 3, 1_000);
            while let Some((conn, block)) = siege.sending.pop() {
                siege.feed(Input::BlockSent { conn, block });
            }
            siege.connect_as(name, other, false, false);
            assert!(siege.stands(first), "{name:?}, dialled: {dialled}, from {other}");
            siege.wait(3);
        }
    }
}

#[test]
fn who_has_the_name_of_another_does_not_keep_it_out() {
    for (name, dialled) in NAMES.iter().flat_map(|name| [false, true].map(|dialled| (*name, dialled))) {
        let mut siege = Siege::new(true);
        let fake = siege.connect_as(name, evil(1), false, false);
        let real = siege.connect_as(name, HONEST, dialled, false);
        assert!(siege.stands(real) && siege.stands(fake), "{name:?}, dialled: {dialled}");
    }
}

#[test]
fn two_addresses_that_the_user_named_are_one_peer() {
    let addresses = [HONEST, "[2001:4860::8]:7171".parse().expect("it is one")];
    for trusted in [true, false] {
        let mut siege = Siege::new(false);
        if trusted {
            siege.feed(Input::Peers(addresses.to_vec()));
        }
        let [first, second] = addresses.map(|addr| siege.connect_as(NAMES[0], addr, true, true));
        // Whom others named may have taken the name.
        assert!(siege.stands(first) && siege.stands(second) != trusted, "trusted: {trusted}");
    }
}

#[test]
fn who_finishes_again_counts_once() {
    let mut siege = Siege::new(true);
    for _ in 0..3 {
        let conn = siege.connect_as(NAMES[0], HONEST, false, false);
        siege.says(conn, Message::Have(vec![(0, 16)]));
        siege.feed(Input::Closed { conn });
    }
    assert_eq!(siege.swarm.finished_peers(), 1);
    let other = siege.connect_as(NAMES[1], HONEST, false, false);
    siege.says(other, Message::Have(vec![(0, 16)]));
    assert_eq!(siege.swarm.finished_peers(), 2);
}

#[test]
fn who_left_with_less_and_comes_again_with_everything_has_finished() {
    let mut siege = Siege::new(true);
    for (has_all, finished) in [(true, 0), (false, 0), (true, 1), (false, 1), (true, 1)] {
        let conn = siege.connect_as(NAMES[0], HONEST, false, has_all);
        siege.feed(Input::Closed { conn });
        assert_eq!(siege.swarm.finished_peers(), finished);
    }
    // Who came with everything, loses a piece and finds it again, has not.
    let mut siege = Siege::new(false);
    let conn = siege.connect_as(NAMES[0], HONEST, true, true);
    siege.says(conn, Message::Unhave(vec![(0, 1)]));
    siege.says(conn, Message::Have(vec![(0, 1)]));
    assert_eq!((siege.swarm.finished_peers(), siege.stands(conn)), (0, true));
}

#[test]
fn one_that_is_connected_twice_holds_one_copy() {
    let mut siege = Siege::new(true);
    for (n, addr) in [HONEST, "[2001:4860::8]:7171".parse().expect("it is one")].into_iter().enumerate() {
        let conn = siege.connect_as(NAMES[0], addr, true, false);
        siege.says(conn, Message::Have(vec![(0, 15)]));
        assert_eq!(siege.open.len(), n + 1, "both stand");
    }
    assert_eq!(siege.swarm.copies(), 15.0 / 16.0);
}

#[test]
fn who_changed_its_address_takes_its_own_place_in_a_private_network() {
    for name in NAMES {
        let mut siege = Siege::new(true);
        let first = siege.connect_as(name, SocketAddr::from(([10, 0, 0, 1], 40_000)), false, false);
        siege.wait(11);
        let again = siege.connect_as(name, SocketAddr::from(([10, 0, 0, 2], 40_000)), false, false);
        assert!(siege.stands(again) && !siege.stands(first), "{name:?}");
    }
}

#[test]
fn who_comes_again_from_where_it_was_takes_its_own_place_at_once() {
    for name in NAMES {
        let mut siege = Siege::new(true);
        let first = siege.connect_as(name, evil(1), false, false);
        let again = siege.connect_as(name, evil(1), false, false);
        assert!(siege.stands(again) && !siege.stands(first), "{name:?}");
        assert_eq!(siege.refused, [(first, GoodbyeReason::Duplicate)]);
    }
}

#[test]
fn rubbish_sent_in_the_name_of_another_bars_who_sent_it_and_not_the_other() {
    let mut siege = Siege::new(false);
    let name = NAMES[0];
    // Somebody else has it all too, and gives nothing: nobody is needed.
    siege.connect(SocketAddr::from(([9, 5, 5, 5], 7171)), true, true);
    for round in 0..2 {
        let fake = siege.connect_as(name, evil(1), false, true);
        assert!(siege.stands(fake), "round {round}: {:?}, {}", siege.refused, siege.swarm.have().count());
        // One piece that is right makes up for much.
        while siege.swarm.have().count() < round + 1 {
            siege.wait_a_moment();
            siege.answers(fake, true);
        }
        while siege.stands(fake) {
            siege.wait_a_moment();
            siege.answers(fake, false);
        }
        siege.wait(61);
    }
    let fake = siege.connect_as(name, evil(1), false, true);
    assert_eq!(siege.refused.last(), Some(&(fake, GoodbyeReason::Barred)));
    let honest = siege.connect_as(name, HONEST, true, true);
    assert!(siege.stands(honest));
    siege.wait_a_moment();
    let asked = siege.said.iter().any(|(c, m)| *c == honest && matches!(m, Message::Request(Block { .. })));
    assert!(asked, "it is asked as anybody is");
}
