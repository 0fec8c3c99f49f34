//! Who is known in this swarm and when to dial whom.
//!
//! Addresses come from the user, from the journal of an earlier run, and from trackers and peers, who are believed only as
//! far as [`Trust`] allows; a peer that dials us claims one, too. What the user named is dialled before all others whenever it
//! is due. The journal's and the strangers' take turns, as either may be dead to the last. A failed dial of one that was named,
//! kept, or answered us once backs off, from one second to a minute, with jitter; after [`FAILURES_MAX`] it is given up,
//! unless the user named it.
//!
//! Strangers' addresses may be a victim's, named to thousands of us at once. So one at which no peer answered rests for
//! [`REST`], however often it is named; only who is connected to nobody at all tries such ones again sooner. And dials of
//! strangers have a pace: few in a second, and few in a minute as long as none has led to anything; of all, a few at a time.
//!
//! Limits: [`KNOWN_MAX`] addresses beside those that the user named, and [`CLAIMS_MAX`] that one host on the internet claims
//! and at which nobody answered yet. At the limit who is of least use makes room.

use super::{ConnId, Lack, Time};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use shoal_protocol::address::{Reach, Trust, canonical_addr, customer, reach};
use shoal_protocol::prng::Prng;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most addresses kept for one swarm.
pub const KNOWN_MAX: usize = 2_000;
/// Dials under way at once: more would look like a scan and gain nothing.
pub const DIALS_MAX: usize = 16;
const FAILURES_MAX: u32 = 8;
/// Whoever dials us from the internet may say of so many ports that they are its own.
const CLAIMS_MAX: usize = 8;
/// How long a stranger's address that did not answer rests.
const REST: Duration = Duration::from_secs(600);
/// The same for who knows nobody else: a listener restarts, a link comes back; and from the second time on.
const AGAIN: Duration = Duration::from_secs(10);
const REST_ALONE: Duration = Duration::from_secs(30);
/// Dials that may come at once, and how many more in a second: once somebody is connected, and before.
const BURST: f64 = 30.0;
const PER_S: f64 = 30.0;
const PER_S_ALONE: f64 = 0.5;
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// How long a peer that was connected is still told to others.
const RECENT: Duration = Duration::from_secs(600);

/// On whose word an address is known, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The user's.
    Named,
    /// Our own: somebody was there in an earlier run.
    Kept,
    /// Anybody's.
    Heard,
}

#[derive(Debug, Clone)]
struct Known {
    source: Source,
    /// A dial of ours led to a peer there.
    answered: bool,
    /// It said that it has everything.
    seed: bool,
    /// Others say so.
    said_seed: bool,
    failures: u32,
    /// How often in a row there was no way to it.
    no_way: u32,
    next: Time,
    dialing: bool,
    conn: Option<ConnId>,
    last_connected: Option<Time>,
    /// When it last failed.
    failed: Option<Time>,
}

impl Known {
    /// Whether we would only part again. Who is connected to nobody doesn't take others' word for that.
    fn is_useless(&self, we_are_seed: bool, alone: bool) -> bool {
        we_are_seed && (self.seed || (self.said_seed && !alone))
    }

    fn is_idle(&self) -> bool {
        self.conn.is_none() && !self.dialing
    }

    /// Whether it led to a peer, now or in an earlier run.
    fn has_worked(&self) -> bool {
        self.answered || self.source == Source::Kept
    }

    /// Only the word of who dialled us from there speaks for it.
    fn is_claim(&self) -> bool {
        !self.has_worked() && self.source == Source::Heard && self.last_connected.is_some()
    }
}

fn back_off(failures: u32) -> Duration {
    (BACK_OFF_MIN * 2_u32.saturating_pow(failures.saturating_sub(1))).min(BACK_OFF_MAX)
}

/// The addresses of one swarm.
#[derive(Debug)]
pub struct AddressBook {
    known: BTreeMap<SocketAddr, Known>,
    /// The addresses that lead to each connected peer.
    by_conn: BTreeMap<ConnId, Vec<SocketAddr>>,
    dialing: usize,
    /// Nobody is to be dialled before, unless something changes: a look at all addresses would find none. Said for a seed
    /// or for who is none.
    quiet_until: Time,
    quiet_for_seed: bool,
    /// Dials that may be made now, as of a time.
    allowance: (f64, Time),
}

impl Default for AddressBook {
    fn default() -> Self {
        let (known, by_conn, allowance) = (BTreeMap::new(), BTreeMap::new(), (BURST, Time(0)));
        Self { known, by_conn, dialing: 0, quiet_until: Time(0), quiet_for_seed: false, allowance }
    }
}

impl AddressBook {
    /// Notes an address that somebody told us.
    pub fn hear(&mut self, now: Time, addr: SocketAddr, seed: bool, trust: Trust) {
        let addr = canonical_addr(addr);
        if trust.allows(addr) {
            self.add(now, addr, Some(seed), Source::Heard);
        }
    }

    /// Whether the user or the journal named it.
    #[must_use]
    pub fn is_trusted(&self, addr: SocketAddr) -> bool {
        self.known.get(&canonical_addr(addr)).is_some_and(|known| known.source <= Source::Kept)
    }

    /// Notes an address that the user or the journal named.
    pub fn trust(&mut self, now: Time, addr: SocketAddr, source: Source) {
        self.add(now, canonical_addr(addr), None, source);
    }

    fn add(&mut self, now: Time, addr: SocketAddr, said_seed: Option<bool>, source: Source) {
        if let Some(known) = self.known.get_mut(&addr) {
            known.source = known.source.min(source);
            // It may have begun anew: what it said itself holds as long as nobody says otherwise.
            if let Some(seed) = said_seed.filter(|_| known.conn.is_none()) {
                known.said_seed = seed;
                known.seed &= seed;
            }
            return;
        }
        if self.known.len() >= KNOWN_MAX && !self.drop_least_useful() && source != Source::Named {
            return;
        }
        self.quiet_until = Time(0);
        let said_seed = said_seed.unwrap_or(false);
        let fresh = Known {
            source,
            answered: false,
            seed: false,
            said_seed,
            failures: 0,
            no_way: 0,
            next: now,
            dialing: false,
            conn: None,
            last_connected: None,
            failed: None,
        };
        self.known.insert(addr, fresh);
    }

    /// Makes room: of those at which no peer ever answered, the one that failed longest ago goes, then what somebody claimed,
    /// then who was named and not tried; at last who answered, and is gone for the longest time. Not the newest failures: who
    /// goes may be named and dialled again.
    fn drop_least_useful(&mut self) -> bool {
        let use_of = |k: &Known| (k.has_worked(), k.failed.is_none(), !k.is_claim(), k.failed.or(k.last_connected));
        let may_go = self.known.iter().filter(|(_, k)| k.is_idle() && k.source != Source::Named);
        let worst = may_go.min_by_key(|(_, k)| use_of(k)).map(|(addr, _)| *addr);
        worst.is_some_and(|addr| self.known.remove(&addr).is_some())
    }

    /// At which ports the host of this address claimed to be and now is not, the longest ago first.
    fn claims_of(&self, addr: SocketAddr) -> Vec<SocketAddr> {
        let host = customer(addr.ip());
        let last = match host {
            IpAddr::V4(_) => addr.ip(),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) | u128::from(u64::MAX))),
        };
        let (first, last) = (SocketAddr::new(host, 0), SocketAddr::new(last, u16::MAX));
        let claims = self.known.range(first..=last).filter(|(_, k)| k.is_claim() && k.is_idle());
        let mut claims: Vec<_> = claims.map(|(addr, k)| (k.last_connected, *addr)).collect();
        claims.sort_unstable();
        claims.into_iter().map(|(_, addr)| addr).collect()
    }

    /// A connection is up: one that we dialled at this address, or one of a peer that says it can be dialled there.
    pub fn connected(&mut self, now: Time, addr: Option<SocketAddr>, conn: ConnId, dialled: bool) {
        self.by_conn.entry(conn).or_default();
        let Some(addr) = addr else { return };
        if !dialled && reach(addr.ip()) == Reach::Global && !self.known.contains_key(&addr) {
            // The newest ones stay: of hosts behind one address the one that is here now matters.
            let claims = self.claims_of(addr);
            for old in claims.iter().take((claims.len() + 1).saturating_sub(CLAIMS_MAX)) {
                self.known.remove(old);
            }
        }
        self.add(now, addr, None, Source::Heard);
        if let Some(known) = self.known.get_mut(&addr) {
            if std::mem::take(&mut known.dialing) {
                self.dialing -= 1;
            }
            (known.failures, known.no_way) = (0, 0);
            known.answered |= dialled;
            known.conn = Some(conn);
            known.last_connected = Some(now);
            self.by_conn.entry(conn).or_default().push(addr);
        }
    }

    /// What a peer is changed.
    pub fn note_seed(&mut self, addr: SocketAddr) {
        if let Some(known) = self.known.get_mut(&addr) {
            known.seed = true;
        }
    }

    /// A dial led to no peer.
    pub fn failed(&mut self, now: Time, addr: SocketAddr, forget: bool, rng: &mut Prng) {
        let Some(known) = self.known.get_mut(&addr) else { return };
        known.failed = Some(now);
        if known.source == Source::Named || known.has_worked() {
            self.refused(now, addr, forget, rng);
            return;
        }
        if std::mem::take(&mut known.dialing) {
            self.dialing -= 1;
        }
        known.failures = (known.failures + if forget { 2 } else { 1 }).min(FAILURES_MAX);
        known.next = now + REST.mul_f64(rng.jitter(0.2));
        self.quiet_until = Time(0);
    }

    /// A dial wasn't made, or found no way. For want of means that says nothing of who is there. Where there is no way a
    /// stranger's address rests like any other that leads nowhere, as it may be of a family that this machine doesn't have;
    /// what ever worked backs off and is not given up, as there may be no network at all.
    pub fn not_dialled(&mut self, now: Time, addr: SocketAddr, lack: Lack, rng: &mut Prng) {
        let Some(known) = self.known.get_mut(&addr) else { return };
        if lack == Lack::Route && known.source == Source::Heard && !known.has_worked() {
            self.failed(now, addr, false, rng);
            return;
        }
        if std::mem::take(&mut known.dialing) {
            self.dialing -= 1;
        }
        let wait = match lack {
            Lack::Means => AGAIN,
            // It may be the other side's network as well: it is tried less and less. That it was there doesn't count less for it.
            Lack::Route => {
                known.no_way = (known.no_way + 1).min(FAILURES_MAX);
                back_off(known.no_way)
            }
        };
        known.next = now + wait.mul_f64(rng.jitter(0.2));
        // Who is alone counts from here.
        known.failed = known.failed.map(|_| now).or(Some(now).filter(|_| lack == Lack::Route));
        self.quiet_until = Time(0);
    }

    /// A peer is there, and has no room for us; or one that we knew is gone.
    pub fn refused(&mut self, now: Time, addr: SocketAddr, forget: bool, rng: &mut Prng) {
        let Some(known) = self.known.get_mut(&addr) else { return };
        if std::mem::take(&mut known.dialing) {
            self.dialing -= 1;
        }
        known.failures += 1;
        known.no_way = 0;
        if forget {
            known.failures = FAILURES_MAX;
        }
        // What the user named may be something else today and a peer tomorrow: it is only left in peace for longer.
        if known.failures >= FAILURES_MAX && known.source != Source::Named {
            self.known.remove(&addr);
            return;
        }
        self.quiet_until = Time(0);
        known.next = now + back_off(known.failures).mul_f64(rng.jitter(0.2));
    }

    /// A connection ended; its addresses, which are given back, may be dialled again after a while.
    pub fn closed(&mut self, now: Time, conn: ConnId, wait: Duration) -> Vec<SocketAddr> {
        let mut addrs = self.by_conn.remove(&conn).unwrap_or_default();
        addrs.retain(|addr| {
            let known = self.known.get_mut(addr).filter(|k| k.conn == Some(conn));
            known.is_some_and(|known| {
                known.conn = None;
                known.last_connected = Some(now);
                known.next = now + wait;
                true
            })
        });
        self.quiet_until = Time(0);
        addrs
    }

    /// The peer at this address is connected already, or is now, by this connection; `answered`: our dial has shown it.
    pub fn same_as(&mut self, addr: SocketAddr, conn: ConnId, answered: bool) {
        if let Some(known) = self.known.get_mut(&addr) {
            if std::mem::take(&mut known.dialing) {
                self.dialing -= 1;
            }
            (known.failures, known.no_way) = (0, 0);
            known.answered |= answered;
            known.conn = Some(conn);
            let known_as = self.by_conn.entry(conn).or_default();
            // Whoever dials us again and again under the name of this one says nothing new.
            if !known_as.contains(&addr) {
                known_as.push(addr);
            }
        }
    }

    /// Whom to dial now, at most `room` of them. A seed has no use for seeds.
    pub fn dials(&mut self, now: Time, room: usize, we_are_seed: bool, rng: &mut Prng) -> Vec<SocketAddr> {
        let alone = self.by_conn.is_empty();
        let (left, since) = self.allowance;
        let pace = if alone { PER_S_ALONE } else { PER_S };
        self.allowance = ((left + now.since(since).as_secs_f64() * pace).min(BURST), now);
        let room = room.min(DIALS_MAX.saturating_sub(self.dialing));
        if room == 0 || (now < self.quiet_until && self.quiet_for_seed == we_are_seed) {
            return Vec::new();
        }
        let rest = |k: &Known| if k.failures.max(k.no_way) > 1 { REST_ALONE } else { AGAIN };
        let rested = |k: &Known| alone && k.failed.is_some_and(|at| now.since(at) >= rest(k));
        let due = |k: &Known| k.is_idle() && (k.next <= now || rested(k)) && !k.is_useless(we_are_seed, alone);
        let [mut named, mut kept, mut heard] = [Source::Named, Source::Kept, Source::Heard].map(|source| {
            let of_it = self.known.iter().filter(|(_, k)| k.source == source && due(k));
            let mut list: Vec<SocketAddr> = of_it.map(|(addr, _)| *addr).collect();
            rng.shuffle(&mut list);
            // Who answered once before whom nobody but others ever heard of.
            list.sort_by_key(|addr| (self.known[addr].failures, !self.known[addr].answered));
            list
        });
        if named.is_empty() && kept.is_empty() && heard.is_empty() {
            let due = self.next_due(we_are_seed).unwrap_or(Time::NEVER);
            self.quiet_until = if alone { due.min(now + AGAIN) } else { due };
            self.quiet_for_seed = we_are_seed;
        }
        heard.truncate(self.allowance.0 as usize);
        named.truncate(room);
        let room = room - named.len();
        // Half of each, as long as there are both.
        let half = if kept.is_empty() { room } else { (room + rng.below(2)) / 2 };
        heard.truncate(half.max(room.saturating_sub(kept.len())));
        kept.truncate(room - heard.len());
        self.allowance.0 -= heard.len() as f64;
        let list = [named, kept, heard].concat();
        for addr in &list {
            if let Some(known) = self.known.get_mut(addr) {
                known.dialing = true;
                self.dialing += 1;
            }
        }
        list
    }

    /// How many addresses are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Dials under way.
    #[must_use]
    pub fn dialing(&self) -> usize {
        self.dialing
    }

    /// When the next address may be dialled, if any waits for its time.
    #[must_use]
    pub fn next_due(&self, we_are_seed: bool) -> Option<Time> {
        let waits = |k: &&Known| k.is_idle() && !k.is_useless(we_are_seed, self.by_conn.is_empty());
        self.known.values().filter(waits).map(|k| k.next).min()
    }

    /// Peers worth telling others about: connected, or complete and connected not long ago.
    pub fn tellable(&self, now: Time) -> impl Iterator<Item = (SocketAddr, bool)> {
        let recent = move |k: &Known| k.seed && k.last_connected.is_some_and(|t| now.since(t) < RECENT);
        self.known.iter().filter(move |(_, k)| k.conn.is_some() || recent(k)).map(|(a, k)| (*a, k.seed))
    }

    /// What the addresses take, roughly.
    pub(super) fn state_bytes(&self) -> usize {
        self.known.len() * (size_of::<SocketAddr>() + size_of::<Known>() + 16)
    }

    /// Addresses worth keeping for the next run: those that worked, the latest first, then those that who dialled us claims.
    pub fn worth_keeping(&self, most: usize) -> Vec<SocketAddr> {
        let worth = self.known.iter().filter(|(_, k)| k.has_worked() || k.last_connected.is_some());
        let last = |k: &Known| (k.conn.is_some(), k.last_connected);
        let mut worth: Vec<_> = worth.map(|(addr, k)| (Reverse((k.has_worked(), last(k))), *addr)).collect();
        worth.sort_unstable();
        worth.into_iter().take(most).map(|(_, addr)| addr).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], n))
    }
    const NEAR: Trust = Trust { source: Reach::Private, allow_private: false };

    /// Dials what is due and lets each dial fail, for some time; gives the times in seconds.
    fn dialled(book: &mut AddressBook, who: SocketAddr, named_each_s: u64, until_s: u64) -> Vec<u64> {
        let (mut rng, mut out) = (Prng::new(7), Vec::new());
        for s in 0..until_s {
            let now = Time(s * 1_000_000);
            if s % named_each_s == 0 {
                book.hear(now, who, false, NEAR);
            }
            for addr in book.dials(now, 9, false, &mut rng) {
                if addr == who {
                    out.push(s);
                }
                book.failed(now, addr, false, &mut rng);
            }
        }
        out
    }

    #[test]
    fn a_victim_that_is_named_again_and_again_is_left_in_peace() {
        let mut book = AddressBook::default();
        book.connected(Time(0), Some(addr(1500)), 1, true);
        let times = dialled(&mut book, addr(2000), 3, 1_200);
        assert!(times.len() <= 3 && times[0] == 0 && times[1] > 450, "{times:?}");
        // Alone in the world one tries more, but no more than each half minute.
        let times = dialled(&mut AddressBook::default(), addr(2000), 3, 1_200);
        assert!(times.len() > 20 && times.len() <= 42, "{times:?}");
    }

    #[test]
    fn dials_have_a_pace_that_is_slow_until_somebody_answers() {
        let mut rng = Prng::new(1);
        let dials_in = |s: u64, connected: bool, rng: &mut Prng| {
            let mut book = AddressBook::default();
            if connected {
                book.connected(Time(0), Some(addr(1500)), 1, true);
            }
            for port in 2000..3900 {
                book.hear(Time(0), addr(port), false, NEAR);
            }
            let mut count = 0;
            for ms in 0..s * 100 {
                let now = Time(ms * 10_000);
                for addr in book.dials(now, 99, false, rng) {
                    count += 1;
                    book.failed(now, addr, true, rng);
                }
            }
            count
        };
        assert!((55..=61).contains(&dials_in(60, false, &mut rng)));
        assert!((300..=330).contains(&dials_in(10, true, &mut rng)));
    }

    /// When each address was dialled, in seconds, if a dial fails after three.
    fn times_of_dials(book: &mut AddressBook, until_s: u64) -> BTreeMap<SocketAddr, Vec<f64>> {
        let (mut rng, mut out) = (Prng::new(7), BTreeMap::<_, Vec<f64>>::new());
        let mut under_way = Vec::<(Time, SocketAddr)>::new();
        for tenth in 0..until_s * 10 {
            let now = Time(tenth * 100_000);
            for (_, addr) in under_way.extract_if(.., |(end, _)| *end <= now) {
                book.failed(now, addr, false, &mut rng);
            }
            for addr in book.dials(now, 24, false, &mut rng) {
                out.entry(addr).or_default().push(tenth as f64 / 10.0);
                under_way.push((now + Duration::from_secs(3), addr));
            }
        }
        out
    }

    #[test]
    fn what_the_user_named_comes_first_and_neither_journal_nor_strangers_hold_up_the_other() {
        let (named, heard) = (SocketAddr::from(([10, 0, 0, 2], 7171)), SocketAddr::from(([10, 0, 0, 3], 7171)));
        let mut book = AddressBook::default();
        (2_000..2_200).for_each(|port| book.trust(Time(0), addr(port), Source::Kept));
        book.trust(Time(0), named, Source::Named);
        book.hear(Time(0), heard, false, NEAR);
        let times = times_of_dials(&mut book, 20);
        assert!(times[&named][0] < 0.1 && times[&heard][0] < 1.0, "{:?}, {:?}", times[&named], times[&heard]);
        // It failed and is due again: before a thousand of whom nobody knows whether they are.
        let mut book = AddressBook::default();
        book.trust(Time(0), named, Source::Named);
        (2_000..3_000).for_each(|port| book.hear(Time(0), addr(port), false, NEAR));
        (3_000..3_005).for_each(|port| book.trust(Time(0), addr(port), Source::Kept));
        let times = times_of_dials(&mut book, 60);
        let waits: Vec<f64> = times[&named].windows(2).map(|pair| pair[1] - pair[0]).collect();
        // Three seconds until it failed, its back-off, and until a place among the dials is free.
        let most = |n: usize| 3.0 + f64::from(1 << n) * 1.2 + 3.0;
        assert!(waits.len() >= 3 && waits.iter().enumerate().all(|(n, wait)| *wait <= most(n)), "{waits:?}");
        assert!((3_000..3_005).all(|port| times[&addr(port)].len() > 2), "the journal's have no pace but their own");
    }

    #[test]
    fn claims_of_those_who_dial_us_are_few_and_make_room() {
        let (evil, heard) = (|port| SocketAddr::from(([9, 9, 9, 9], port)), SocketAddr::from(([8, 8, 8, 8], 7171)));
        let mut book = AddressBook::default();
        for n in 0..3_000 {
            book.connected(Time(n), Some(evil(2_000 + n as u16)), n as ConnId, false);
            book.closed(Time(n), n as ConnId, Duration::ZERO);
        }
        assert_eq!(book.count(), CLAIMS_MAX);
        let far = Trust { source: Reach::Global, allow_private: false };
        book.hear(Time(0), heard, false, far);
        assert!(book.dials(Time(4_000), DIALS_MAX, false, &mut Prng::new(1)).contains(&heard));
        // One after the other in one office: whoever is here now is one to tell of.
        for n in 0..20_u16 {
            let one = SocketAddr::new(IpAddr::from([0x2a00, 1, 2, 3, 0, 0, 0, n]), 7171);
            book.connected(Time(5_000), Some(one), 7, false);
            assert!(book.tellable(Time(5_000)).any(|(told, _)| told == one), "{one}");
            book.closed(Time(5_000 + u64::from(n)), 7, Duration::ZERO);
        }
        // Of hosts near us any number may have been here.
        for n in 0..3_000 {
            book.connected(Time(9_000 + n), Some(addr(2_000 + n as u16)), n as ConnId, n < 3);
            book.closed(Time(9_000 + n), n as ConnId, Duration::ZERO);
        }
        assert_eq!(book.count(), KNOWN_MAX);
        let kept = book.worth_keeping(10);
        assert_eq!(kept[..4], [addr(2_002), addr(2_001), addr(2_000), addr(4_999)], "who answered, then the latest");
    }

    #[test]
    fn what_this_machine_could_not_dial_is_no_failure_of_who_is_there() {
        let (mut book, mut rng) = (AddressBook::default(), Prng::new(1));
        book.connected(Time(0), None, 1, false);
        book.hear(Time(0), addr(2_000), false, NEAR);
        for round in 0..20_u64 {
            let now = Time(round * 13_000_000);
            assert_eq!(book.dials(now, 9, false, &mut rng), [addr(2_000)], "{round}");
            book.not_dialled(now, addr(2_000), Lack::Means, &mut rng);
            assert!(book.dials(now, 9, false, &mut rng).is_empty());
        }
    }

    #[test]
    fn without_a_network_nothing_that_ever_worked_is_given_up() {
        let (mut book, mut rng) = (AddressBook::default(), Prng::new(1));
        book.trust(Time(0), addr(2_000), Source::Kept);
        book.connected(Time(0), Some(addr(2_001)), 1, true);
        book.closed(Time(0), 1, Duration::ZERO);
        book.hear(Time(0), addr(2_002), false, NEAR);
        let mut dials = BTreeMap::<_, u32>::new();
        for round in 0..50_u64 {
            let now = Time(round * 13_000_000);
            for addr in book.dials(now, 9, false, &mut rng) {
                *dials.entry(addr).or_default() += 1;
                book.not_dialled(now, addr, Lack::Route, &mut rng);
            }
        }
        // When it is back, one failure more is one failure.
        book.failed(Time(700_000_000), addr(2_000), false, &mut rng);
        book.refused(Time(700_000_000), addr(2_001), false, &mut rng);
        assert_eq!(book.worth_keeping(9), [addr(2_001), addr(2_000)]);
        assert!(dials.values().all(|dials| (9..40).contains(dials)), "{dials:?}");
        // Who is alone tries it each half minute, whether it had failed before the network went or not.
        for has_failed in [false, true] {
            let mut book = AddressBook::default();
            book.trust(Time(0), addr(2_000), Source::Named);
            if has_failed {
                assert_eq!(book.dials(Time(0), 9, false, &mut rng).len(), 1);
                book.failed(Time(0), addr(2_000), false, &mut rng);
            }
            let mut count = 0;
            for half in 0..600_u64 {
                let now = Time(20_000_000 + half * 500_000);
                for addr in book.dials(now, 9, false, &mut rng) {
                    count += 1;
                    book.not_dialled(now, addr, Lack::Route, &mut rng);
                }
            }
            assert!((10..20).contains(&count), "{count} in five minutes");
        }
    }

    #[test]
    fn a_failure_backs_off_and_one_that_was_a_peer_is_forgotten_at_last() {
        let mut rng = Prng::new(1);
        let mut book = AddressBook::default();
        book.hear(Time(0), addr(2000), false, NEAR);
        book.connected(Time(0), Some(addr(2000)), 1, true);
        book.closed(Time(0), 1, Duration::ZERO);
        let mut now = Time(0);
        for round in 0..FAILURES_MAX {
            assert_eq!(book.dials(now, 9, false, &mut rng), [addr(2000)], "{round}");
            assert!(book.dials(now, 9, false, &mut rng).is_empty(), "one dial at a time");
            book.failed(now, addr(2000), false, &mut rng);
            assert!(book.dials(now, 9, false, &mut rng).is_empty(), "not at once again");
            now = now + Duration::from_secs(100);
        }
        assert!(book.next_due(false).is_none());
    }

    #[test]
    fn who_is_said_to_be_a_seed_is_dialled_by_a_seed_that_is_alone_and_who_says_so_itself_is_not() {
        let (mut rng, mut book, now) = (Prng::new(1), AddressBook::default(), Time(0));
        book.hear(now, addr(8_000), true, NEAR);
        book.connected(now, Some(addr(8_001)), 7, true);
        assert!(book.dials(now, 9, true, &mut rng).is_empty(), "others are there");
        book.note_seed(addr(8_001));
        let later = Time(60_000_000);
        book.closed(now, 7, Duration::ZERO);
        assert_eq!(book.dials(later, 9, true, &mut rng), [addr(8_000)]);
        book.hear(later, addr(8_001), false, NEAR);
        assert_eq!(book.dials(Time(120_000_000), 9, true, &mut rng), [addr(8_001)], "it may have begun anew");
    }

    #[test]
    fn trusted_addresses_are_never_given_up() {
        let mut rng = Prng::new(1);
        let mut book = AddressBook::default();
        book.trust(Time(0), addr(80), Source::Named);
        for round in 0..50_u64 {
            let now = Time(round * 100_000_000);
            assert_eq!(book.dials(now, 9, false, &mut rng).len(), 1);
            book.failed(now, addr(80), false, &mut rng);
        }
    }

    #[test]
    fn the_book_and_the_dials_are_bounded() {
        let mut rng = Prng::new(1);
        let mut book = AddressBook::default();
        for port in 1024..5000 {
            book.hear(Time(0), addr(port), false, NEAR);
        }
        assert_eq!(book.known.len(), KNOWN_MAX);
        book.hear(Time(0), addr(60_000), false, NEAR);
        assert!(book.known.contains_key(&addr(60_000)), "a full book still takes newcomers");
        assert_eq!(book.known.len(), KNOWN_MAX);
        assert_eq!(book.dials(Time(0), 100, false, &mut rng).len(), DIALS_MAX);
        assert_eq!(book.dials(Time(0), 100, false, &mut rng).len(), 0);
    }

    #[test]
    fn seeds_do_not_dial_seeds_and_strangers_can_not_point_at_loopback() {
        let mut rng = Prng::new(1);
        let mut book = AddressBook::default();
        book.hear(Time(0), addr(2000), true, NEAR);
        book.hear(Time(0), "127.0.0.1:2000".parse().unwrap(), false, NEAR);
        book.connected(Time(0), Some(addr(2001)), 1, true);
        assert!(book.dials(Time(0), 9, true, &mut rng).is_empty());
        assert_eq!(book.dials(Time(0), 9, false, &mut rng), [addr(2000)]);
    }

    #[test]
    fn who_comes_again_and_again_takes_no_memory() {
        let mut book = AddressBook::default();
        book.connected(Time(0), Some(addr(2000)), 1, true);
        book.hear(Time(0), addr(2001), false, NEAR);
        for _ in 0..1_000 {
            book.same_as(addr(2000), 1, false);
            book.same_as(addr(2001), 1, true);
        }
        assert_eq!(book.by_conn[&1], [addr(2000), addr(2001)]);
        book.closed(Time(1), 1, Duration::ZERO);
        assert!(book.known.values().all(|known| known.conn.is_none()));
    }
}
