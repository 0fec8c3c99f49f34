//! Who sent a bad piece, and what follows.
//!
//! One bad piece: the connection ends, that peer is not asked for that piece again and is on probation (one piece in
//! flight, and if it never sent a good one, none while others have what we want). A second, different one: barred for an hour. When blocks of one bad piece came from several peers, nobody is
//! blamed at once: the piece is fetched again from one peer, and whose blocks differ from the good ones is the culprit.
//! The only holder of anything is never barred.

use super::Time;
use core::net::SocketAddr;
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
}

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
    pub fn of(session: &super::session::Session) -> Self {
        Self { peer: session.hello.peer, addr: session.dialable.unwrap_or(session.remote) }
    }
}

/// All that is held against anyone.
#[derive(Debug, Default)]
pub struct Blame {
    records: BTreeMap<PeerId, Record>,
    by_addr: BTreeMap<SocketAddr, PeerId>,
    /// Bad pieces with several senders.
    pub open: BTreeMap<u32, Suspects>,
}

impl Blame {
    /// Notes a bad piece; returns whether the peer is barred now. `proven`: it has sent a good one since it came; `needed`:
    /// it is the only holder of something.
    pub fn bad_piece(&mut self, now: Time, who: Suspect, piece: u32, proven: bool, needed: bool) -> bool {
        if self.records.len() >= RECORDS && !self.records.contains_key(&who.peer) {
            self.records.pop_first();
        }
        self.by_addr.insert(who.addr, who.peer);
        if self.by_addr.len() > RECORDS {
            self.by_addr.pop_first();
        }
        let record = self.records.entry(who.peer).or_default();
        record.bad.insert(piece);
        record.proven |= proven;
        if record.bad.len() >= 2 && !needed {
            record.barred_until = now + BARRED_FOR;
        }
        record.barred_until > now
    }

    /// What is held against a peer.
    #[must_use]
    pub fn record(&self, peer: PeerId) -> Option<&Record> {
        self.records.get(&peer)
    }

    /// Whether a peer is out for now.
    #[must_use]
    pub fn is_barred(&self, now: Time, peer: PeerId) -> bool {
        self.records.get(&peer).is_some_and(|r| r.barred_until > now)
    }

    /// Whether an address belongs to a peer that is out for now.
    #[must_use]
    pub fn addr_is_barred(&self, now: Time, addr: SocketAddr) -> bool {
        self.by_addr.get(&addr).is_some_and(|peer| self.is_barred(now, *peer))
    }

    /// The good blocks of a piece are known: who sent others?
    pub fn convict(&mut self, piece: u32, good: &[Hash]) -> Vec<Suspect> {
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
        assert!(blame.addr_is_barred(now, who(1).addr) && blame.is_barred(now, who(1).peer));
        assert!(!blame.is_barred(now + Duration::from_secs(3_601), who(1).peer));
        assert!(blame.record(who(1).peer).is_some_and(|record| record.proven), "what it once did right stays");
        assert!(!blame.bad_piece(now, who(2), 5, false, true) && !blame.bad_piece(now, who(2), 6, false, true));
    }

    #[test]
    fn the_culprit_is_whoever_sent_other_blocks_than_the_good_ones() {
        let mut blame = Blame::default();
        blame
            .open
            .insert(3, Suspects { senders: vec![who(1), who(2), who(1)], hashes: vec![[1; 32], [2; 32], [3; 32]] });
        assert_eq!(blame.convict(3, &[[1; 32], [9; 32], [3; 32]]), [who(2)]);
        assert!(blame.convict(3, &[]).is_empty());
    }
}
