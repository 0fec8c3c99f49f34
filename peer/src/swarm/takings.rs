//! What peers took from us, beside what they say they have.
//!
//! Contract: the least complete asker is served first, so it pays to seem less complete than one is: to say nothing of
//! pieces that came, or to come again under a new name. Who took more from us than it says it has **hides** it, and waits
//! until nobody else waits, but for one of them now and then ([`super::upload`]). Time is given to verify and to tell: what was taken less than [`LATE`] ago doesn't count, nor
//! do a few pieces that are under way.
//!
//! A name costs nothing, so what connections that ended took is remembered by address, for [`REMEMBERED`], and counts for
//! who comes from there next, until it says that it has as much or that time is over. Private networks are spared, as many
//! share an address there; behind a shared address on the internet a newcomer may have to wait for its turn while a source is busy. At most
//! [`GONE_MAX`] addresses are remembered, those longest from which most was taken.

use super::Time;
use core::net::IpAddr;
use shoal_protocol::address::{Reach, customer, reach};
use std::collections::BTreeMap;
use std::time::Duration;

/// Until a peer has told what it has got.
const LATE: Duration = Duration::from_secs(5);
/// How long an address is remembered after the last byte that went there.
const REMEMBERED: Duration = Duration::from_secs(600);
const GONE_MAX: usize = 1_024;
/// Pieces that may be under way, and the part of all that may have come twice.
const UNDER_WAY: u64 = 4;
const TWICE: u64 = 8;

/// What one connection took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    bytes: u64,
    /// As much when it was last looked at, and the time before.
    marks: [u64; 2],
    marked: Time,
    last: Time,
    /// What others took at its address before it came, and when the last of it.
    before: (u64, Time),
}

impl Taken {
    /// It got so many bytes.
    pub(super) fn add(&mut self, now: Time, bytes: u32) {
        if now.since(self.marked) >= LATE {
            let past = if now.since(self.last) >= LATE { self.bytes } else { self.marks[0] };
            (self.marks, self.marked) = ([self.bytes, past], now);
        }
        self.bytes += u64::from(bytes);
        self.last = now;
    }

    /// What others took long ago is forgotten.
    pub(super) fn fade(&mut self, now: Time) {
        if now.since(self.before.1) >= REMEMBERED {
            self.before.0 = 0;
        }
    }

    /// Whether it must have more than so many pieces.
    pub(super) fn is_hidden(&self, pieces: u32, piece_bytes: u32) -> bool {
        let pieces = u64::from(pieces);
        self.before.0 + self.marks[1] > (pieces + pieces / TWICE + UNDER_WAY) * u64::from(piece_bytes)
    }
}

/// What was taken by those who are gone.
#[derive(Debug, Default)]
pub(super) struct Takings {
    gone: BTreeMap<IpAddr, (u64, Time)>,
}

/// Who it is that may be known again by its address.
fn known(ip: IpAddr) -> Option<IpAddr> {
    (reach(ip) == Reach::Global).then(|| customer(ip))
}

impl Takings {
    /// A connection from this address begins.
    pub(super) fn joined(&mut self, now: Time, ip: IpAddr) -> Taken {
        self.gone.retain(|_, (_, last)| now.since(*last) < REMEMBERED);
        let before = known(ip).and_then(|ip| self.gone.get(&ip)).copied();
        let before = before.unwrap_or((0, now));
        Taken { before, marked: now, last: now, ..Taken::default() }
    }

    /// It has ended.
    pub(super) fn left(&mut self, ip: IpAddr, taken: &Taken) {
        let Some(ip) = known(ip).filter(|_| taken.bytes > 0) else { return };
        let (bytes, last) = self.gone.entry(ip).or_default();
        (*bytes, *last) = (*bytes + taken.bytes, taken.last.max(*last));
        if self.gone.len() > GONE_MAX {
            let least = self.gone.iter().min_by_key(|(_, gone)| **gone).map(|(ip, _)| *ip);
            least.and_then(|ip| self.gone.remove(&ip));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u32 = 1 << 20;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn after(s: u64) -> Time {
        Time(s * 1_000_000)
    }

    #[test]
    fn who_takes_and_says_nothing_is_found_and_who_tells_late_is_not() {
        for (tells_after_s, hides) in [(5, false), (60, true)] {
            let mut taken = Takings::default().joined(after(0), ip("10.0.0.1"));
            let mut found = false;
            for s in 1..600_u32 {
                taken.add(after(s.into()), PIECE);
                found |= taken.is_hidden(s.saturating_sub(tells_after_s), PIECE);
            }
            assert_eq!(found, hides, "{tells_after_s}");
        }
        // However much came at once: it has had no time to tell.
        let mut taken = Takings::default().joined(after(0), ip("10.0.0.1"));
        for _ in 0..1_000 {
            taken.add(after(100), PIECE);
        }
        assert!(!taken.is_hidden(0, PIECE));
        taken.add(after(101), 1);
        assert!(!taken.is_hidden(0, PIECE));
        taken.add(after(121), 1);
        assert!(taken.is_hidden(0, PIECE) && !taken.is_hidden(1_000, PIECE));
    }

    #[test]
    fn a_new_name_at_an_old_address_is_no_newcomer_until_it_has_as_much() {
        for (first, second, known) in [
            ("9.1.1.1", "9.1.1.1", true),
            ("9.1.1.1", "::ffff:9.1.1.1", true),
            ("9.1.1.1", "9.1.1.2", false),
            ("2a00:1:2:3::1", "2a00:1:2:3:4::5", true),
            ("2a00:1:2:3::1", "2a00:1:2:4::1", false),
            ("10.0.0.1", "10.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", false),
        ] {
            let mut takings = Takings::default();
            let mut taken = takings.joined(after(0), ip(first));
            for _ in 0..20 {
                taken.add(after(1), PIECE);
            }
            takings.left(ip(first), &taken);
            let again = takings.joined(after(2), ip(second));
            assert_eq!(again.is_hidden(0, PIECE), known, "{first} {second}");
            assert!(!again.is_hidden(20, PIECE));
            let mut stays = again;
            stays.fade(after(600));
            assert_eq!(stays.is_hidden(0, PIECE), known);
            stays.fade(after(601));
            assert!(!stays.is_hidden(0, PIECE), "it may have waited all that time");
            // Names add up.
            takings.left(ip(second), &taken);
            assert_eq!(takings.joined(after(500), ip(first)).is_hidden(20, PIECE), known);
            assert!(!takings.joined(after(602), ip(first)).is_hidden(0, PIECE), "forgotten");
        }
    }

    #[test]
    fn those_who_took_most_are_remembered_within_bounds() {
        let mut takings = Takings::default();
        for n in 0..3 * GONE_MAX as u32 {
            let ip = IpAddr::from((0x0900_0000 + n).to_be_bytes());
            let mut taken = takings.joined(after(0), ip);
            takings.left(ip, &taken);
            assert!(!takings.gone.contains_key(&ip), "it took nothing");
            taken.add(after(0), n + 1);
            takings.left(ip, &taken);
            assert!(takings.gone.len() <= GONE_MAX);
        }
        assert!(takings.gone.values().all(|(bytes, _)| *bytes > 2 * GONE_MAX as u64));
    }
}
