//! Who is known in this swarm and when to dial whom.
//!
//! Addresses come from the user and the journal (trusted), from trackers and from peers (believed only as far as
//! [`Trust`] allows). A failed dial backs off, from one second to a minute, with jitter; after [`FAILURES_MAX`] a
//! stranger's address is forgotten, as is the oldest when [`KNOWN_MAX`] is passed.

use super::prng::Prng;
use super::{ConnId, Time};
use shoal_protocol::address::{Trust, canonical_addr};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Most addresses kept for one swarm.
pub const KNOWN_MAX: usize = 2_000;
/// Dials under way at once: more would look like a scan and gain nothing.
pub const DIALS_MAX: usize = 16;
const FAILURES_MAX: u32 = 8;
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// How long a peer that was connected is still told to others.
const RECENT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
struct Known {
    trusted: bool,
    seed: bool,
    failures: u32,
    next: Time,
    dialing: bool,
    conn: Option<ConnId>,
    last_connected: Option<Time>,
}

/// The addresses of one swarm.
#[derive(Debug, Default)]
pub struct AddressBook {
    known: BTreeMap<SocketAddr, Known>,
    /// The addresses that lead to each connected peer.
    by_conn: BTreeMap<ConnId, Vec<SocketAddr>>,
    dialing: usize,
    /// Nobody is to be dialled before, unless something changes: a look at all addresses would find none. Said for a seed
    /// or for who is none.
    quiet_until: Time,
    quiet_for_seed: bool,
}

impl AddressBook {
    /// Notes an address that somebody told us.
    pub fn hear(&mut self, now: Time, addr: SocketAddr, seed: bool, trust: Trust) {
        let addr = canonical_addr(addr);
        if trust.allows(addr) {
            self.add(now, addr, seed, false);
        }
    }

    /// Notes an address that the user or the journal named.
    pub fn trust(&mut self, now: Time, addr: SocketAddr) {
        self.add(now, canonical_addr(addr), false, true);
    }

    fn add(&mut self, now: Time, addr: SocketAddr, seed: bool, trusted: bool) {
        if let Some(known) = self.known.get_mut(&addr) {
            known.trusted |= trusted;
            known.seed |= seed;
            return;
        }
        if self.known.len() >= KNOWN_MAX {
            self.drop_least_useful();
        }
        self.quiet_until = Time(0);
        let fresh = Known { trusted, seed, failures: 0, next: now, dialing: false, conn: None, last_connected: None };
        self.known.insert(addr, fresh);
    }

    /// Makes room: of the strangers that never answered, the one that failed most goes.
    fn drop_least_useful(&mut self) {
        let idle = |k: &Known| !k.trusted && !k.dialing && k.conn.is_none() && k.last_connected.is_none();
        let worst = self.known.iter().filter(|(_, k)| idle(k)).max_by_key(|(_, k)| k.failures).map(|(addr, _)| *addr);
        if let Some(addr) = worst {
            self.known.remove(&addr);
        }
    }

    /// A connection to or from this address is up.
    pub fn connected(&mut self, now: Time, addr: SocketAddr, conn: ConnId) {
        self.add(now, addr, false, false);
        if let Some(known) = self.known.get_mut(&addr) {
            if std::mem::take(&mut known.dialing) {
                self.dialing -= 1;
            }
            known.failures = 0;
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

    /// A dial failed.
    pub fn failed(&mut self, now: Time, addr: SocketAddr, forget: bool, rng: &mut Prng) {
        let Some(known) = self.known.get_mut(&addr) else { return };
        if std::mem::take(&mut known.dialing) {
            self.dialing -= 1;
        }
        known.failures += 1;
        if forget {
            known.failures = FAILURES_MAX;
        }
        // What the user named may be something else today and a peer tomorrow: it is only left in peace for longer.
        if known.failures >= FAILURES_MAX && !known.trusted {
            self.known.remove(&addr);
            return;
        }
        self.quiet_until = Time(0);
        let wait = (BACK_OFF_MIN * 2_u32.saturating_pow(known.failures - 1)).min(BACK_OFF_MAX);
        known.next = now + wait.mul_f64(rng.jitter(0.2));
    }

    /// A connection ended; its addresses may be dialled again after a while.
    pub fn closed(&mut self, now: Time, conn: ConnId, wait: Duration) {
        for addr in self.by_conn.remove(&conn).unwrap_or_default() {
            if let Some(known) = self.known.get_mut(&addr).filter(|k| k.conn == Some(conn)) {
                known.conn = None;
                known.last_connected = Some(now);
                known.next = now + wait;
                self.quiet_until = Time(0);
            }
        }
    }

    /// The peer at this address is connected already, or is now, by this connection.
    pub fn same_as(&mut self, addr: SocketAddr, conn: ConnId) {
        if let Some(known) = self.known.get_mut(&addr) {
            if std::mem::take(&mut known.dialing) {
                self.dialing -= 1;
            }
            known.failures = 0;
            known.conn = Some(conn);
            self.by_conn.entry(conn).or_default().push(addr);
        }
    }

    /// Whom to dial now, at most `room` of them. A seed has no use for seeds.
    pub fn dials(&mut self, now: Time, room: usize, we_are_seed: bool, rng: &mut Prng) -> Vec<SocketAddr> {
        let room = room.min(DIALS_MAX.saturating_sub(self.dialing));
        if room == 0 || (now < self.quiet_until && self.quiet_for_seed == we_are_seed) {
            return Vec::new();
        }
        let due = |k: &Known| k.conn.is_none() && !k.dialing && k.next <= now && !(we_are_seed && k.seed);
        let mut list: Vec<SocketAddr> = self.known.iter().filter(|(_, k)| due(k)).map(|(a, _)| *a).collect();
        rng.shuffle(&mut list);
        list.sort_by_key(|addr| {
            let known = &self.known[addr];
            (known.failures, !known.trusted)
        });
        list.truncate(room);
        if list.is_empty() {
            self.quiet_until = self.next_due(we_are_seed).unwrap_or(Time::NEVER);
            self.quiet_for_seed = we_are_seed;
        }
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
        let waits = |k: &&Known| k.conn.is_none() && !k.dialing && !(we_are_seed && k.seed);
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

    /// Addresses worth keeping for the next run: those that worked.
    pub fn worth_keeping(&self) -> impl Iterator<Item = SocketAddr> {
        self.known.iter().filter(|(_, k)| k.last_connected.is_some()).map(|(a, _)| *a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::address::Reach;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], n))
    }
    const NEAR: Trust = Trust { source: Reach::Private, allow_private: false };

    #[test]
    fn a_failure_backs_off_and_a_stranger_is_forgotten_at_last() {
        let mut rng = Prng::new(1);
        let mut book = AddressBook::default();
        book.hear(Time(0), addr(2000), false, NEAR);
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
    fn trusted_addresses_are_never_given_up() {
        let mut rng = Prng::new(1);
        let mut book = AddressBook::default();
        book.trust(Time(0), addr(80));
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
        assert!(book.dials(Time(0), 9, true, &mut rng).is_empty());
        assert_eq!(book.dials(Time(0), 9, false, &mut rng), [addr(2000)]);
    }
}
