//! Hosts and trackers that come and go.

use crate::{blocky, down, must_complete, small, up};
use harness::{Fault, Report, When, World, mbit};
use shoal_peer::swarm::Time;
use shoal_protocol::prng::Prng;

#[test]
fn once_every_piece_is_out_the_origin_may_die() {
    for seed in 0..50 {
        let world = small(seed).origin(up(), down()).fetchers(5, up(), down());
        let report = world.fault(When::AllOut, 0, Fault::Kill).run();
        must_complete(&report);
    }
}

#[test]
fn the_same_with_pieces_of_many_blocks() {
    for seed in 0..10 {
        let world = blocky(seed).origin(up(), down()).fetchers(4, up(), down());
        let report = world.fault(When::AllOut, 0, Fault::Kill).run();
        must_complete(&report);
    }
}

#[test]
fn an_origin_that_comes_back_to_life_completes_what_was_lost() {
    for seed in 0..10 {
        let world = small(seed).origin(up(), down()).fetchers(4, up(), down());
        let world = world.fault(When::Progress(1, 0.3), 0, Fault::Kill);
        let report = world.fault(When::At(Time(4_000_000)), 0, Fault::Join).run();
        assert!(report.finished[1..].iter().all(Option::is_some), "{report}");
    }
}

#[test]
fn a_dead_tracker_does_not_matter_to_those_who_came_before() {
    for seed in 0..10 {
        let world = small(seed).pieces(128).origin(up(), down()).fetchers(6, up(), down());
        let report = world.fault(When::At(Time(100_000)), 0, Fault::TrackerDies).run();
        must_complete(&report);
    }
}

#[test]
fn a_tracker_that_was_never_there_does_not_matter_to_who_knows_two_others() {
    for seed in 0..5 {
        let mut rng = Prng::new(seed);
        let mut world = small(seed).pieces(128).origin(up(), down()).fetchers(20, up(), down());
        world = world.fault(When::At(Time(0)), 0, Fault::TrackerDies);
        for host in 1..=20 {
            // As from the journal of a run before: two of those who came earlier, whoever they are.
            world = world.knowing(host, &[rng.below(host), rng.below(host)]);
        }
        must_complete(&world.run());
    }
}

/// Forty hosts, and a tracker that loses its memory after so many seconds; a newcomer comes behind that.
fn forgetful_tracker(pieces: u32, at_s: f64) -> Report {
    let world = World::new(4).pieces(pieces).origin(mbit(4.0), down()).fetchers(40, mbit(4.0), down());
    let world = world.late(1, up(), down(), at_s + 40.0);
    let report = world.fault(When::At(Time((at_s * 1e6) as u64)), 0, Fault::TrackerReturns).run();
    must_complete(&report);
    report
}

#[test]
fn a_tracker_that_starts_again_with_nothing_soon_knows_all_who_are_there() {
    // A young swarm comes back within seconds; one that has settled within its interval, about 25 s, which a longer world
    // shows: `SHOAL_LONG=1`.
    let long = std::env::var_os("SHOAL_LONG").map(|_| (3_400, 330.0, 32.0));
    for (pieces, at_s, within_s) in [(600, 30.0, 30.0), (900, 70.0, 30.0)].into_iter().chain(long) {
        let report = forgetful_tracker(pieces, at_s);
        println!("the tracker forgot all after {at_s} s and had them after {:?} s more", report.relisted_s);
        assert!(report.relisted_s.is_some_and(|s| s <= within_s), "{:?}: {report}", report.relisted_s);
    }
}

#[test]
fn a_fifth_of_the_fetchers_may_die() {
    for seed in 0..10 {
        let mut rng = Prng::new(seed);
        let mut world = small(seed).pieces(96).origin(up(), down()).fetchers(10, up(), down());
        for victim in [2, 5] {
            let fraction = 0.1 + 0.8 * rng.below(1000) as f64 / 1000.0;
            world = world.fault(When::Progress(victim, fraction), victim, Fault::Kill);
        }
        must_complete(&world.run());
    }
}

#[test]
fn who_leaves_when_done_leaves_no_hole() {
    for seed in 0..5 {
        let world = small(seed).pieces(96).origin(up(), down()).fetchers(6, up(), down()).leaving_after_s(0.0);
        must_complete(&world.run());
    }
}

#[test]
fn a_full_house_lets_everybody_finish() {
    for seed in 0..5 {
        let world = small(seed).max_peers(4).origin(up(), down()).fetchers(14, up(), down());
        let report = world.run();
        must_complete(&report);
        assert!(report.last() < 13.0, "{report}");
    }
}

#[test]
fn newcomers_do_not_dial_the_same_peer_for_ever() {
    // Both sides hear of each other at once and dial at once.
    let world = small(3).pieces(512).origin(up(), down()).fetchers(3, up(), down()).latency_ms(20.0);
    let report = world.run();
    must_complete(&report);
    assert!(report.most_dials <= 2, "{} dials of one by another: {report}", report.most_dials);
}

#[test]
fn where_newcomers_never_end_those_with_slow_lines_are_not_left_behind() {
    const HOSTS: usize = 60;
    const SLOW: usize = 9;
    const LEAVE: usize = 15;
    for seed in [2, 3, 7, 9] {
        let mut rng = Prng::new(seed ^ 0x5eed);
        let (up, down) = (mbit(100.0), mbit(1000.0));
        let mut world = World::new(seed).pieces(150).piece_size(1 << 20).latency_ms(20.0).slice_kib(256);
        world = world.origin(up, down).fetchers(SLOW, up / 10.0, down / 10.0).fetchers(HOSTS - SLOW, up, down);
        let mut victims: Vec<usize> = (1..=HOSTS).collect();
        rng.shuffle(&mut victims);
        let mut moment = || When::At(Time(rng.below(15_000_000) as u64));
        for victim in victims.into_iter().take(LEAVE) {
            world = world.fault(moment(), victim, Fault::Kill);
        }
        world = world.joiners(LEAVE, up, down);
        for newcomer in HOSTS + 1..=HOSTS + LEAVE {
            world = world.fault(moment(), newcomer, Fault::Join).optional(newcomer);
        }
        let report = world.run();
        must_complete(&report);
        // 1.23 to 1.35; up to 1.7 while turns came one by one as long as any newcomer waited.
        assert!(report.last_staying / report.bound < 1.42, "{report}");
    }
}
