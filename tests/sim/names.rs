//! Names are what peers say of themselves, and each neighbour knows them: who takes another's can't harm it by that.

use crate::siege::{HONEST, Siege, evil};
use shoal_peer::swarm::Input;
use shoal_protocol::announce::{Handout, HandoutPeer};
use shoal_protocol::message::{Block, GoodbyeReason};
use shoal_protocol::{Message, PeerId};
use std::collections::BTreeSet;
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
fn who_says_something_is_not_silent_though_it_gets_nothing() {
    for name in NAMES {
        let mut siege = Siege::new(false);
        let first = siege.connect_as(name, SocketAddr::from(([10, 0, 0, 1], 7171)), true, false);
        for _ in 0..12 {
            siege.says(first, Message::KeepAlive);
            siege.wait(1);
        }
        siege.connect_as(name, SocketAddr::from(([10, 0, 0, 66], 40_000)), false, false);
        siege.wait(5);
        assert!(siege.stands(first), "{name:?}");
    }
}

#[test]
fn who_only_speaks_under_the_name_of_another_keeps_it_out_nowhere() {
    let [near, real] = [66, 1].map(|host| SocketAddr::from(([10, 0, 0, host], 7171)));
    for (name, dialled) in NAMES.iter().flat_map(|name| [false, true].map(|dialled| (*name, dialled))) {
        let mut siege = Siege::new(false);
        let fake = siege.connect_as(name, near, true, false);
        for _ in 0..12 {
            siege.says(fake, Message::KeepAlive);
            siege.wait(1);
        }
        let conn = siege.connect_as(name, real, dialled, false);
        assert!(siege.stands(conn), "{name:?}, dialled: {dialled}");
    }
}

#[test]
fn who_is_sent_something_is_not_silent_whatever_a_namesake_says() {
    let near = [1, 66].map(|host| SocketAddr::from(([10, 0, 0, host], 40_000)));
    for name in NAMES {
        let mut siege = Siege::new(true);
        let first = siege.connect_as(name, near[0], false, false);
        for _ in 0..10 {
            siege.asks(first, 3, 1_000);
        }
        let fake = siege.connect_as(name, near[1], false, false);
        // It takes one small block in five seconds, and has nothing to say.
        for second in 0..45 {
            if second % 5 == 0
                && let Some(at) = siege.sending.iter().position(|(conn, _)| *conn == first)
            {
                let (conn, block) = siege.sending.remove(at);
                siege.feed(Input::BlockSent { conn, block });
            }
            siege.says(fake, Message::KeepAlive);
            siege.wait(1);
            assert!(siege.stands(first), "{name:?}: cut off after {second} s");
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
            siege.feed(Input::Peers { named: addresses.to_vec(), kept: Vec::new() });
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
fn who_got_the_manifest_on_its_connection_hears_what_we_have() {
    let mut siege = Siege::origin();
    let conn = siege.connect_with(HONEST, |hello| hello.needs_manifest = true);
    let told = |siege: &Siege| siege.said.iter().any(|(c, m)| *c == conn && *m == Message::HaveAll);
    siege.wait(1);
    assert!(!told(&siege), "it can't make anything of that");
    siege.says(conn, Message::HaveNone);
    assert!(told(&siege) && siege.stands(conn));
    siege.says(conn, Message::RequestAny);
    assert!(
        siege.said.iter().any(|(c, m)| *c == conn && matches!(m, Message::Assign { .. })),
        "it is served like any other"
    );
}

#[test]
fn who_changed_its_address_takes_its_own_place_in_a_private_network() {
    for name in NAMES {
        let mut siege = Siege::new(true);
        let first = siege.connect_as(name, SocketAddr::from(([10, 0, 0, 1], 40_000)), false, false);
        siege.wait(11);
        let again = siege.connect_as(name, SocketAddr::from(([10, 0, 0, 2], 40_000)), false, false);
        assert!(siege.stands(again) && siege.stands(first), "{name:?}: whether it stays isn't known");
        siege.wait(4);
        assert!(siege.stands(again) && !siege.stands(first), "{name:?}");
    }
}

#[test]
fn who_comes_again_from_where_it_was_takes_its_own_place_once_that_is_silent() {
    for name in NAMES {
        let mut siege = Siege::new(true);
        let first = siege.connect_as(name, evil(1), false, false);
        let again = siege.connect_as(name, evil(1), false, false);
        for second in 0..12 {
            // It may have ended the first one, and then that says nothing any more; or it is about to end the second.
            assert!(siege.stands(again) && (siege.stands(first) || second > 9), "{name:?}, {second} s");
            siege.says(again, Message::KeepAlive);
            siege.wait(1);
        }
        assert_eq!(siege.refused, [(first, GoodbyeReason::Duplicate)]);
        siege.wait(11);
        let third = siege.connect_as(name, evil(1), false, false);
        siege.wait(4);
        assert!(siege.stands(third) && !siege.stands(again), "{name:?}: it was silent already");
    }
}

#[test]
fn two_connections_of_two_peers_never_end_both_whatever_either_sees_of_them() {
    /// Which of two connections end at one side: it meets `order` one after the other, dialled some of them itself, and may see
    /// two addresses.
    fn ends(other: PeerId, order: [usize; 2], dialled: [bool; 2], two_addresses: bool, silent: bool) -> Vec<usize> {
        let mut siege = Siege::new(false);
        let conns = order.map(|which| {
            if silent && !siege.open.is_empty() {
                siege.wait(11);
            }
            let host = if two_addresses { which as u8 + 1 } else { 1 };
            siege.connect_as(other, SocketAddr::from(([10, 0, 0, host], 7171)), dialled[which], false)
        });
        let ended = |which: &usize| !siege.stands(conns[order.iter().position(|w| w == which).unwrap_or(0)]);
        (0..2).filter(ended).collect()
    }
    let mut cases = 0;
    for bits in 0..128_u32 {
        let [smaller, a_sees_two, b_sees_two, a_turned, b_turned, at_a_silent, at_b_silent] =
            [0, 1, 2, 3, 4, 5, 6].map(|bit| bits >> bit & 1 == 1);
        let order = |turned: bool| if turned { [1, 0] } else { [0, 1] };
        for dialled in [[true, true], [false, false], [true, false]] {
            if dialled[0] == dialled[1] && a_turned != b_turned {
                // Who dials both begins with the one that the other meets first.
                continue;
            }
            let at_a = ends(NAMES[usize::from(smaller)], order(a_turned), dialled, a_sees_two, at_a_silent);
            let at_b =
                ends(NAMES[usize::from(!smaller)], order(b_turned), dialled.map(|ours| !ours), b_sees_two, at_b_silent);
            let ended: BTreeSet<usize> = at_a.into_iter().chain(at_b).collect();
            let case = (dialled, smaller, a_sees_two, b_sees_two, a_turned, b_turned, at_a_silent, at_b_silent);
            assert!(ended.len() < 2, "both end: {case:?}");
            assert!(
                ended.len() == 1
                    || (dialled[0] != dialled[1] && (at_a_silent || at_b_silent || (a_sees_two && b_sees_two))),
                "both stand: {case:?}"
            );
            cases += 1;
        }
    }
    assert_eq!(cases, 256);
}

#[test]
fn who_lost_both_connections_of_a_peer_is_alone() {
    for name in NAMES {
        let mut siege = Siege::new(false);
        let conns = [true, false].map(|dialled| siege.connect_as(name, evil(1), dialled, false));
        assert_eq!(siege.open.len(), 1, "each dialled one");
        for conn in conns.into_iter().filter(|conn| siege.stands(*conn)).collect::<Vec<_>>() {
            siege.open.remove(&conn);
            siege.feed(Input::Closed { conn });
        }
        let stranger = evil(9);
        let peers = vec![HandoutPeer { addrs: vec![stranger.to_string()], seed: true }];
        let handout = Handout { interval: 30, seeds: 1, leechers: 1, completed: 0, peers };
        siege.feed(Input::Announced { tracker: 0, reached: HONEST.ip(), handout });
        let mut dials = 0;
        for _ in 0..35 {
            siege.wait(1);
            for addr in std::mem::take(&mut siege.dialled) {
                dials += u32::from(addr == stranger);
                siege.feed(Input::DialFailed { addr, forget: false });
            }
        }
        assert!(dials >= 2, "a stranger that doesn't answer is dialled again soon only by who is alone: {dials}");
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
