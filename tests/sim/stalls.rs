//! Peers that are slow, stop, or can't.

use crate::{blocky, down, must_complete, small, up};
use harness::{Fault, When, mbit};
use shoal_protocol::message::RejectReason;

#[test]
fn pieces_of_a_stalled_source_come_from_others() {
    for seed in 0..10 {
        let world = || blocky(seed).pieces(40).seeds(4, up(), down()).fetchers(1, up(), mbit(1000.0));
        let healthy = world().run();
        must_complete(&healthy);
        let report = world().fault(When::Progress(4, 0.5), 1, Fault::Stall).run();
        must_complete(&report);
        // Half of the work is done by three instead of four; a piece takes 0.2 s.
        println!("{:.2} s, healthy {:.2} s", report.last(), healthy.last());
        let expected = healthy.last() * (0.5 + 0.5 * 4.0 / 3.0);
        assert!(report.last() < expected + 2.0, "{} s, healthy {} s: {report}", report.last(), healthy.last());
    }
}

#[test]
fn a_stalled_source_that_comes_back_is_used_again() {
    let world = blocky(1).pieces(200).seeds(2, mbit(40.0), down()).fetchers(1, up(), mbit(1000.0));
    let second = |s: u64| When::At(shoal_peer::swarm::Time(s * 1_000_000));
    let report = world.fault(second(3), 0, Fault::Stall).fault(second(6), 0, Fault::Resume).run();
    assert!(report.finished[2].is_some(), "{report}");
    // 200 MiB at 80 Mbit/s, less three seconds and the time to notice.
    assert!(report.last() < 21.0 + 1.5 + 4.0, "{report}");
}

#[test]
fn a_slow_peer_does_not_hold_up_the_end() {
    for seed in 0..10 {
        let world = blocky(seed).pieces(40).seeds(3, up(), down()).seeds(1, mbit(1.0), down());
        let report = world.fetchers(1, up(), mbit(1000.0)).run();
        must_complete(&report);
        // 40 MiB at 120 Mbit/s; the slow one still owes a block of two seconds.
        assert!(report.last() < 2.8 + 2.5 && report.wasted < 0.05, "{report}");
    }
}

#[test]
fn a_slow_fetcher_does_not_hold_up_the_others() {
    for seed in 0..5 {
        let world = small(seed).pieces(256).origin(up(), down()).fetchers(5, up(), down());
        let report = world.fetchers(1, mbit(2.0), mbit(4.0)).run();
        must_complete(&report);
        let mut others: Vec<f64> = report.seconds.clone();
        others.pop();
        let last = others.into_iter().fold(0.0, f64::max);
        // 16 MiB at 40 Mbit/s take 3.4 s.
        assert!(last < 3.4 * 1.5, "{last}: {report}");
    }
}

#[test]
fn a_peer_that_rejects_everything_is_left_alone() {
    use RejectReason::{Cancelled, Failed, NoUpload, NotHad, NothingToAssign, QueueFull};
    for reason in [NotHad, QueueFull, Cancelled, NoUpload, Failed, NothingToAssign] {
        let world = small(9).pieces(128).seeds(2, up(), down()).fetchers(1, up(), down());
        let report = world.fault(When::At(shoal_peer::swarm::Time(0)), 0, Fault::Reject(reason)).run();
        must_complete(&report);
        assert!(report.last() < 2.5 && report.messages < 3_000, "{reason:?}: {report}");
    }
}

#[test]
fn a_lone_peer_that_rejects_everything_is_not_asked_without_end() {
    use RejectReason::{Cancelled, Failed, NoUpload, NotHad, QueueFull};
    for reason in [NotHad, QueueFull, Cancelled, NoUpload, Failed] {
        let world = small(9).seeds(1, up(), down()).fetchers(1, up(), down()).until_s(20.0);
        let report = world.fault(When::At(shoal_peer::swarm::Time(0)), 0, Fault::Reject(reason)).run();
        assert!(!report.complete && report.messages < 2_000, "{reason:?}: {report}");
    }
}

#[test]
fn a_peer_that_claims_all_and_can_read_nothing_costs_little() {
    for seed in 0..5 {
        let world = small(seed).pieces(128).seeds(3, up(), down()).fetchers(2, up(), down());
        let report = world.fault(When::At(shoal_peer::swarm::Time(0)), 1, Fault::CanNotRead).run();
        must_complete(&report);
        assert!(report.last() < 1.5, "{report}");
    }
}

#[test]
fn what_a_fetcher_lost_is_fetched_again() {
    for seed in 0..5 {
        let world = small(seed).origin(up(), down()).fetchers(3, up(), down());
        let report = world.fault(When::Progress(2, 0.6), 2, Fault::Lose(0, 20)).run();
        must_complete(&report);
    }
}

#[test]
fn what_a_seed_lost_is_asked_of_others() {
    for seed in 0..5 {
        let world = small(seed).seeds(2, up(), down()).fetchers(3, up(), down());
        let report = world.fault(When::Progress(3, 0.3), 0, Fault::Lose(10, 30)).run();
        must_complete(&report);
    }
}

#[test]
fn what_is_found_on_disk_is_fetched_no_more() {
    for seed in 0..5 {
        let world = blocky(seed).seeds(2, up(), down()).fetchers(1, up(), down());
        // Some of these are had, some under way, some not begun.
        let report = world.fault(When::Progress(2, 0.3), 2, Fault::Find(0, 16)).run();
        must_complete(&report);
        // 24 pieces of four blocks in all, of which 16 pieces were found when some had been asked for.
        assert!(report.blocks < 80, "{report}");
    }
}
