//! Peer exchange: which neighbours to tell a peer about.
//!
//! A fresh connection hears of everybody worth telling, later of changes only, at most every [`PERIOD`]. An address is
//! never told to a peer that is farther away than it reaches: nobody on the internet hears of private addresses, nobody
//! off this host of loopback ones.

use super::{ConnId, Time};
use core::net::SocketAddr;
use shoal_protocol::address::reach;
use shoal_protocol::limits::PEX_PEERS;
use shoal_protocol::message::PexPeer;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time between two tellings on one connection.
pub const PERIOD: Duration = Duration::from_secs(5);

/// What each neighbour was told.
#[derive(Debug, Default)]
pub struct Pex {
    told: BTreeMap<ConnId, (Time, BTreeSet<SocketAddr>)>,
}

impl Pex {
    /// What was told takes so much, roughly.
    pub(super) fn state_bytes(&self) -> usize {
        self.told.values().map(|(_, told)| 64 + told.len() * (size_of::<SocketAddr>() + 8)).sum()
    }

    /// A connection ended.
    pub fn forget(&mut self, conn: ConnId) {
        self.told.remove(&conn);
    }

    /// What to tell this neighbour now, if anything: (added, dropped).
    pub fn update(
        &mut self,
        now: Time,
        conn: ConnId,
        remote: SocketAddr,
        itself: Option<SocketAddr>,
        current: impl Iterator<Item = (SocketAddr, bool)>,
    ) -> Option<(Vec<PexPeer>, Vec<SocketAddr>)> {
        let (next, told) = self.told.entry(conn).or_insert((now, BTreeSet::new()));
        if *next > now {
            return None;
        }
        *next = now + PERIOD;
        let near = reach(remote.ip());
        let current: BTreeMap<SocketAddr, bool> =
            current.filter(|(addr, _)| Some(*addr) != itself && reach(addr.ip()) >= near).collect();
        let fresh = current.iter().filter(|(addr, _)| !told.contains(addr)).take(PEX_PEERS);
        let added: Vec<PexPeer> = fresh.map(|(addr, seed)| PexPeer { addr: *addr, seed: *seed }).collect();
        let dropped: Vec<SocketAddr> =
            told.iter().filter(|addr| !current.contains_key(addr)).take(PEX_PEERS).copied().collect();
        if added.is_empty() && dropped.is_empty() {
            return None;
        }
        told.extend(added.iter().map(|p| p.addr));
        for addr in &dropped {
            told.remove(addr);
        }
        Some((added, dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_once_and_near_addresses_stay_near() {
        let mut pex = Pex::default();
        let a = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let all = [(a("127.0.0.1:2000"), false), (a("10.0.0.2:7171"), true), (a("8.8.8.8:7171"), false)];
        let tell = |pex: &mut Pex, s: u64, remote: &str, list: &[(SocketAddr, bool)]| {
            pex.update(Time(s * 1_000_000), 1, a(remote), Some(a("8.8.8.8:7171")), list.iter().copied())
        };
        let (added, dropped) = tell(&mut pex, 0, "10.0.0.9:5555", &all).unwrap();
        assert_eq!((added.len(), dropped.len()), (1, 0));
        assert_eq!(added[0], PexPeer { addr: a("10.0.0.2:7171"), seed: true });
        assert!(tell(&mut pex, 10, "10.0.0.9:5555", &all).is_none());
        assert_eq!(tell(&mut pex, 20, "10.0.0.9:5555", &[]).unwrap().1, [a("10.0.0.2:7171")]);
        let mut fresh = Pex::default();
        assert!(tell(&mut fresh, 0, "9.9.9.9:5555", &all).is_none());
        assert_eq!(tell(&mut Pex::default(), 0, "127.0.0.1:5555", &all).unwrap().0.len(), 2);
    }
}
