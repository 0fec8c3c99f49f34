//! Who sent a bad piece, and what follows.
//!
//! One bad piece: the connection ends, that peer is not asked for that piece again and is on probation (one piece in
//! flight, and if it never sent a good one, none while others have what we want). A second, different one: barred for an hour. When blocks of one bad piece came from several peers, nobody is
//! blamed at once: the piece is fetched again from one peer, and whose blocks differ from the good ones is the culprit.
//! The only holder of anything is never barred.
//!
//! A name is what somebody says of itself, and every neighbour knows it: what is held against one counts for that name at
//! that address ([`Culprit`]), or anybody could have anybody else barred by sending rubbish in its name.

use super::Time;
use super::session::Session;
use core::net::{IpAddr, SocketAddr};
use shoal_protocol::address::customer;
use shoal_protocol::{Hash, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const BARRED_FOR: Duration = Duration::from_secs(3_600);
/// Most peers on record: beyond that the oldest are forgotten.
const RECORDS: usize = 4_096;

/// What is held against one peer.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Pieces that it sent wrong.
    pub bad: BTreeSet<u32>,
    /// It sent right ones, too.
    pub proven: bool,
    /// Out until then.
    pub barred_until: Time,
    /// Where it was last reached.
    addr: Option<SocketAddr>,
    /// How many were noted before it was last.
    number: u64,
}

/// A name, and whose address it came from.
pub type Culprit = (PeerId, IpAddr);

/// A bad piece that several peers had a hand in.
#[derive(Debug, Clone)]
pub struct Suspects {
    /// Who sent each block.
    pub senders: Vec<Suspect>,
    /// What each block hashed to; empty until that was found out.
    pub hashes: Vec<Hash>,
}

/// Who sent a block, kept beyond the connection's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suspect {
    /// Its name.
    pub peer: PeerId,
    /// Its address.
    pub addr: SocketAddr,
}

impl Suspect {
    /// The peer behind a connection.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        Self { peer: session.hello.peer, addr: session.dialable.unwrap_or(session.remote) }
    }

    /// Whom this is held against.
    #[must_use]
    pub fn culprit(&self) -> Culprit {
        (self.peer, customer(self.addr.ip()))
    }

    /// Whether this connection is its.
    #[must_use]
    pub fn is(&self, session: &Session) -> bool {
        session.hello.peer == self.peer && Self::of(session).culprit() == self.culprit()
    }
}

/// All that is held against anyone.
#[derive(Debug, Default)]
pub struct Blame {
    records: BTreeMap<Culprit, Record>,
    noted: u64,
    /// Bad pieces with several senders.
    pub open: BTreeMap<u32, Suspects>,
}

impl Blame {
    /// Notes a bad piece; returns whether the peer is barred now. `proven`: it has sent a good one since it came; `needed`:
    /// it is the only holder of something.
    pub fn bad_piece(&mut self, now: Time, who: Suspect, piece: u32, proven: bool, needed: bool) -> bool {
        if self.records.len() >= RECORDS && !self.records.contains_key(&who.culprit()) {
            let oldest = self.records.iter().min_by_key(|(_, record)| record.number).map(|(culprit, _)| *culprit);
            oldest.and_then(|culprit| self.records.remove(&culprit));
        }
        self.noted += 1;
        let record = self.records.entry(who.culprit()).or_default();
        (record.addr, record.number) = (Some(who.addr), self.noted);
        record.bad.insert(piece);
        record.proven |= proven;
        if record.bad.len() >= 2 && !needed {
            record.barred_until = now + BARRED_FOR;
        }
        record.barred_until > now
    }

    /// What is held against a peer.
    #[must_use]
    pub fn record(&self, culprit: Culprit) -> Option<&Record> {
        self.records.get(&culprit)
    }

    /// Whether a peer is out for now.
    #[must_use]
    pub fn is_barred(&self, now: Time, culprit: Culprit) -> bool {
        self.records.get(&culprit).is_some_and(|r| r.barred_until > now)
    }

    /// Whether an address belongs to a peer that is out for now.
    #[must_use]
    pub fn addr_is_barred(&self, now: Time, addr: SocketAddr) -> bool {
        self.records.values().any(|r| r.addr == Some(addr) && r.barred_until > now)
    }

    /// The good blocks of a piece are known: who sent others?
    pub fn find_liars(&mut self, piece: u32, good: &[Hash]) -> Vec<Suspect> {
        let Some(case) = self.open.remove(&piece) else { return Vec::new() };
        let differs = case.senders.iter().zip(&case.hashes).zip(good).filter(|((_, bad), good)| bad != good);
        let mut guilty: Vec<Suspect> = differs.map(|((who, _), _)| *who).collect();
        guilty.sort();
        guilty.dedup();
        guilty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(n: u8) -> Suspect {
        Suspect { peer: PeerId([n; 16]), addr: format!("10.0.0.{n}:7171").parse().unwrap() }
    }

    #[test]
    fn two_different_bad_pieces_bar_for_an_hour_but_never_the_only_holder() {
        let mut blame = Blame::default();
        let now = Time(0);
        assert!(!blame.bad_piece(now, who(1), 5, false, false));
        assert!(!blame.bad_piece(now, who(1), 5, true, false), "the same piece again is one");
        assert!(blame.bad_piece(now, who(1), 6, false, false));
        assert!(blame.addr_is_barred(now, who(1).addr) && blame.is_barred(now, who(1).culprit()));
        assert!(!blame.is_barred(now + Duration::from_secs(3_601), who(1).culprit()));
        assert!(blame.record(who(1).culprit()).is_some_and(|record| record.proven), "what it once did right stays");
        assert!(!blame.bad_piece(now, who(2), 5, false, true) && !blame.bad_piece(now, who(2), 6, false, true));
    }

    #[test]
    fn the_same_name_at_another_address_has_done_nothing() {
        let mut blame = Blame::default();
        let masked = Suspect { peer: who(1).peer, ..who(2) };
        assert!((0..2).map(|piece| blame.bad_piece(Time(0), masked, piece, true, false)).last().unwrap());
        assert!(blame.is_barred(Time(0), masked.culprit()) && blame.addr_is_barred(Time(0), masked.addr));
        assert!(!blame.is_barred(Time(0), who(1).culprit()) && blame.record(who(1).culprit()).is_none());
    }

    #[test]
    fn the_longest_ago_is_forgotten_first() {
        let mut blame = Blame::default();
        let nth = |n: usize| {
            let mut name = [0; 16];
            name[..8].copy_from_slice(&(RECORDS - n.min(RECORDS) + 2 * n).to_be_bytes());
            Suspect { peer: PeerId(name), ..who(1) }
        };
        for n in 0..RECORDS {
            blame.bad_piece(Time(0), nth(n), 0, false, false);
        }
        blame.bad_piece(Time(0), nth(0), 1, false, false);
        blame.bad_piece(Time(0), nth(RECORDS), 0, false, false);
        assert!(blame.record(nth(0).culprit()).is_some() && blame.record(nth(1).culprit()).is_none());
        assert_eq!(blame.records.len(), RECORDS);
    }

    #[test]
    fn the_culprit_is_whoever_sent_other_blocks_than_the_good_ones() {
        let mut blame = Blame::default();
        blame
            .open
            .insert(3, Suspects { senders: vec![who(1), who(2), who(1)], hashes: vec![[1; 32], [2; 32], [3; 32]] });
        assert_eq!(blame.find_liars(3, &[[1; 32], [9; 32], [3; 32]]), [who(2)]);
        assert!(blame.find_liars(3, &[]).is_empty());
    }
}
