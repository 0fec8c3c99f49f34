//! Peers that send wrong bytes: found, and nobody else blamed.

use crate::{blocky, down, must_complete, small, up};
use harness::{Fault, Report, When, World, mbit};
use shoal_peer::swarm::Time;
use shoal_protocol::message::RejectReason;

fn start() -> When {
    When::At(Time(0))
}

fn only_guilty(report: &Report, guilty: &[usize]) {
    for (who, by, _) in &report.convicted {
        assert!(guilty.contains(who), "host {by} blamed {who}: {report}");
    }
}

#[test]
fn one_of_four_that_corrupts_a_tenth_is_barred_and_nobody_else() {
    let mut barred = 0;
    for seed in 0..10 {
        // Long enough for the liar to come back after its first bad piece.
        let world = World::new(seed).pieces(1500).seeds(4, up(), down()).fetchers(2, up(), mbit(1000.0));
        let report = world.fault(start(), 2, Fault::Corrupt(0.1)).run();
        must_complete(&report);
        only_guilty(&report, &[2]);
        println!("{report}");
        barred += usize::from(report.convicted.iter().any(|(_, _, barred)| *barred));
    }
    assert!(barred >= 8, "barred in {barred} of 10 worlds");
}

#[test]
fn where_a_piece_came_from_several_the_culprit_is_found() {
    let mut found = 0;
    for seed in 0..20 {
        // A slow liar: its blocks are stolen near the end, so pieces have several senders.
        let world = blocky(seed).seeds(3, up(), down()).seeds(1, mbit(3.0), down());
        let report = world.fetchers(1, up(), mbit(1000.0)).fault(start(), 3, Fault::Corrupt(1.0)).run();
        must_complete(&report);
        only_guilty(&report, &[3]);
        found += usize::from(!report.convicted.is_empty());
    }
    assert!(found >= 10, "found in {found} of 20 worlds");
}

#[test]
fn a_lying_fetcher_does_not_poison_the_swarm() {
    for seed in 0..10 {
        let world = small(seed).pieces(96).origin(up(), down()).fetchers(6, up(), down());
        let report = world.fault(start(), 3, Fault::Corrupt(0.5)).run();
        must_complete(&report);
        only_guilty(&report, &[3]);
    }
}

#[test]
fn the_only_source_is_not_barred_for_its_bad_pieces() {
    for seed in 0..3 {
        let world = small(seed).origin(up(), down()).fetchers(2, up(), down()).until_s(200.0);
        let world = world.fault(start(), 0, Fault::Corrupt(0.1));
        // It repents, and what was wrong comes right in the end.
        let report = world.fault(When::At(Time(5_000_000)), 0, Fault::Corrupt(0.0)).run();
        must_complete(&report);
        assert!(report.convicted.iter().all(|(_, _, barred)| !barred), "{report} {:?}", report.convicted);
    }
}

#[test]
fn three_who_only_take_leave_the_others_their_share() {
    for seed in 0..3 {
        let world = || World::new(seed).pieces(600).origin(mbit(100.0), down()).fetchers(8, mbit(100.0), mbit(1000.0));
        let fair = world().run();
        must_complete(&fair);
        let mut hogs = world();
        for hog in 6..=8 {
            hogs = hogs.fault(start(), hog, Fault::Reject(RejectReason::NoUpload));
        }
        let report = hogs.run();
        must_complete(&report);
        // The five get at least 70 of a hundred of the rate that they have among eight who give.
        let last =
            |report: &Report| report.finished[1..=5].iter().flatten().max().map_or(f64::MAX, |at| at.0 as f64 / 1e6);
        println!("{:.2} s, {:.2} s when all give", last(&report), last(&fair));
        assert!(last(&report) <= last(&fair) / 0.7, "{report}");
    }
}

#[test]
fn two_liars_among_six_change_nothing() {
    for seed in 0..6 {
        let world = blocky(seed).origin(up(), down()).seeds(2, up(), down()).fetchers(4, up(), down());
        let world = world.fault(start(), 1, Fault::Corrupt(0.3)).fault(start(), 2, Fault::Corrupt(0.3));
        let report = world.run();
        must_complete(&report);
        only_guilty(&report, &[1, 2]);
    }
}

#[test]
fn a_crowd_that_hides_what_it_has_gains_nothing_by_it() {
    let last = |report: &Report| report.finished[1..=5].iter().flatten().max().map_or(f64::MAX, |at| at.0 as f64 / 1e6);
    let with_crowd = |vice: Fault| {
        let mut world = World::new(1).pieces(1200).origin(mbit(100.0), down()).fetchers(29, mbit(100.0), mbit(1000.0));
        for taker in 6..=29 {
            world = world.fault(start(), taker, vice);
        }
        let report = world.until_s(2_000.0).run();
        assert!(report.finished[1..=5].iter().all(Option::is_some), "{report}");
        last(&report)
    };
    // Either gives nothing; the one that says what it has is as complete as it is.
    let (hides, tells) = (with_crowd(Fault::Hide), with_crowd(Fault::Reject(RejectReason::NoUpload)));
    println!("{hides:.1} s beside 24 that hide what they have, {tells:.1} s beside 24 that tell");
    assert!(hides <= tells, "{hides} {tells}");
}
