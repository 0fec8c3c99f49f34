//! Fifty peers of which many are evil in the same way, all from the beginning, and say that they have everything.
//!
//! `SHOAL_PIECES` is how many MiB the content has: what is wasted on a liar is the same for any size, so the rules here are
//! in bytes, and a large content is only needed for the figure in percent.

use crate::{down, must_complete, up};
use harness::{Fault, Report, When, World};
use shoal_peer::swarm::Time;
use shoal_peer::swarm::waste::Cause;
use shoal_protocol::message::RejectReason;

/// All who are there beside the origin.
const PEERS: usize = 50;
/// The bad bytes that each honest host may receive: two of a hundred of 1 GiB. One bad piece a liar is 15 MiB; two, as when
/// it is given a second chance at once, are too many.
const WASTED_MAX_MIB: f64 = 20.48;
/// After the hellos, before the first piece.
const EARLY: Time = Time(100_000);

fn pieces(few: u32) -> u32 {
    std::env::var("SHOAL_PIECES").ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

/// Host 0 brings the content, those from 1 to `evil` are evil, the others fetch.
fn mob(seed: u64, pieces: u32, evil: usize, fault: Fault) -> Report {
    let world = World::new(seed).pieces(pieces).piece_size(1 << 20).slice_kib(256).until_s(36_000.0);
    let mut world = world.origin(up(), down()).seeds(evil, up(), down()).fetchers(PEERS - evil, up(), down());
    for host in 1..=evil {
        world = world.fault(When::At(EARLY), host, fault);
    }
    world.run()
}

/// The same with nobody but the origin and the honest.
fn peace(seed: u64, pieces: u32, evil: usize) -> Report {
    let world = World::new(seed).pieces(pieces).piece_size(1 << 20).slice_kib(256).until_s(36_000.0);
    world.origin(up(), down()).fetchers(PEERS - evil, up(), down()).run()
}

fn only_evil_are_blamed(report: &Report, evil: usize) {
    must_complete(report);
    for (who, by, _) in &report.convicted {
        assert!((1..=evil).contains(who), "host {by} blamed {who}: {report}");
    }
}

#[test]
fn fifteen_of_fifty_that_corrupt_everything_cost_each_two_hundredths_of_a_gib() {
    let pieces = pieces(128);
    for seed in 0..2 {
        let report = mob(seed, pieces, 15, Fault::Corrupt(1.0));
        only_evil_are_blamed(&report, 15);
        let wasted = report.waste[Cause::Bad as usize] * f64::from(pieces);
        let longer = report.last() / peace(seed, pieces, 15).last();
        println!("bad {wasted:.1} MiB a host, wasted in all {:.2} %, {longer:.2} times as long", report.wasted * 100.0);
        assert!(wasted <= WASTED_MAX_MIB, "{wasted} MiB: {report}");
    }
}

#[test]
fn forty_five_of_fifty_that_corrupt_everything_change_nothing() {
    for seed in 0..2 {
        only_evil_are_blamed(&mob(seed, pieces(64), 45, Fault::Corrupt(1.0)), 45);
    }
}

#[test]
fn fifteen_of_fifty_that_give_nothing_delay_the_others_little() {
    let pieces = pieces(256);
    let healthy = peace(0, pieces, 15).last();
    for fault in [Fault::Stall, Fault::Reject(RejectReason::NotHad), Fault::Withhold] {
        let report = mob(0, pieces, 15, fault);
        only_evil_are_blamed(&report, 15);
        println!("{fault:?}: {:.2} s, {healthy:.2} s without", report.last());
        assert!(report.last() <= 1.25 * healthy, "{healthy} s without them: {report}");
    }
}

#[test]
fn thirty_of_fifty_that_give_nothing_cost_the_others_less_than_twice_their_time() {
    let pieces = pieces(128);
    let healthy = peace(0, pieces, 30).last();
    for fault in [Fault::Stall, Fault::Reject(RejectReason::NotHad), Fault::Withhold] {
        let report = mob(0, pieces, 30, fault);
        only_evil_are_blamed(&report, 30);
        println!("{fault:?}, 30 of 50: {:.2} s, {healthy:.2} s without", report.last());
        assert!(report.last() <= 2.0 * healthy, "{healthy} s without them: {report}");
    }
}
