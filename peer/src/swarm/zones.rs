//! Zones: between places that are joined by a thin link, each piece should cross it about once.
//!
//! A zone is a label such as `dc1/room2/rack7`; two peers are as **near** as the components that they share from the left,
//! four at most. Two without a label are near if they meet in one subnet: our address on the connection and theirs are in
//! one /24, or one IPv6 /64, as the tracker has it. Whoever shares nothing with us is **far**. While there is only one kind
//! of neighbours nothing changes.
//!
//! - A piece is taken from a peer only if nobody who is nearer has it, and only by its **owner** among those who are
//!   nearer: the one whose name, mixed with the number of the piece, is the largest (rendezvous hashing, so all agree
//!   without a word). The others wait for it and take it from each other.
//! - An owner that brings nothing for too long although something of its share is to be had loses it, until it brings
//!   something. Who has fetched all of its share helps the one who has most left, one piece at a time.
//! - When those who are near have plenty that we lack and give it slowly, it is tried now and then whether the others make
//!   it faster ([`super::spare`]). So a label that lies costs a while, not the content.
//! - Uploads to far peers have turns of their own (`serving`), as they are slow without filling our uplink; an origin gives
//!   out its pieces in its own zone, if there are enough to pass them on; far peers are told of pieces in larger batches.
//!
//! Two zones of six with 40 Mbit/s each behind 20 Mbit/s (128 MiB, control frames 50 ms late), in the simulator: without
//! this 1.41 times the bound and 1.40 copies across, with it 1.03 and 1.02; what each part brings stands in [`super`].

use super::session::Session;
use super::spare::Spare;
use super::state::Swarm;
use super::{ConnId, Time};
use core::net::IpAddr;
use shoal_protocol::address::subnet;
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::{Bitfield, PeerId};
use std::collections::BTreeMap;
use std::time::Duration;

/// More shared components than this make no difference.
const DEEPEST: usize = 4;
/// How often shares and supply are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest time that an owner may bring nothing.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
/// And so many times as long as a piece takes us from afar.
const PATIENCE_PIECES: f64 = 4.0;
const PATIENCE_MAX_S: f64 = 60.0;
/// An owner with no more than this left needs no help: who helps doesn't know what is on its way.
const HELP_ABOVE: u32 = 8;
/// What near peers have and we lack is plenty when it takes longer than this.
const PLENTY_S: f64 = 10.0;
/// Blocks asked of all far peers together, beyond what is on its way.
const FAR_BLOCKS: f64 = 2.0;
/// Owners by number: us, and nobody.
const OURS: u8 = 0;
const NOBODY: u8 = u8::MAX;

/// How near two places are: a label and an address each.
#[must_use]
pub fn nearness((ours, local): (&str, IpAddr), (theirs, remote): (&str, IpAddr)) -> u8 {
    if ours.is_empty() && theirs.is_empty() {
        return u8::from(subnet(local) == subnet(remote));
    }
    if ours.is_empty() || theirs.is_empty() {
        return 0;
    }
    ours.split('/').zip(theirs.split('/')).take(DEEPEST).take_while(|(a, b)| a == b).count() as u8
}

/// With more pieces than this, shares aren't settled anew at once.
const SHARED_AT_ONCE: u32 = 4_096;

/// Who brings which pieces from peers of one nearness.
#[derive(Debug, Default)]
struct Shares {
    /// Those who are nearer and take part, after us.
    members: Vec<ConnId>,
    /// The owner of each piece: [`OURS`], or a place in `members` plus one.
    owners: Vec<u8>,
    /// Whom we help.
    helped: Option<u8>,
}

/// What is known of who is where.
#[derive(Debug)]
pub struct Zones {
    /// How many neighbours of each nearness have each piece, from 1 up; empty where nobody is so near.
    holders: [Vec<u16>; DEEPEST],
    /// By nearness from 0 up; empty where nobody is nearer, or nobody so far.
    shares: [Shares; DEEPEST],
    supply: Spare,
    /// Far peers are asked as if they were near.
    open: bool,
    /// There are near peers and far ones.
    mixed: bool,
    /// An origin gives its pieces to near peers only.
    pub(super) keeps_inside: bool,
    /// The most that far peers gave us at a time, in bytes per second.
    fastest: f64,
    looked: Time,
    pieces: u32,
}

impl Zones {
    /// Nobody is near.
    #[must_use]
    pub fn new(now: Time, pieces: u32) -> Self {
        Self {
            holders: Default::default(),
            shares: Default::default(),
            supply: Spare::new(now, false),
            open: false,
            mixed: false,
            keeps_inside: false,
            fastest: 0.0,
            looked: now,
            pieces,
        }
    }

    /// A neighbour has a piece, or no longer.
    pub fn count(&mut self, nearness: u8, piece: u32, has: bool) {
        let Some(level) = usize::from(nearness).checked_sub(1) else { return };
        let Some(holders) = self.holders.get_mut(level) else { return };
        if holders.is_empty() {
            holders.resize(self.pieces as usize, 0);
        }
        let count = &mut holders[piece as usize];
        *count = if has { count.saturating_add(1) } else { count.saturating_sub(1) };
    }

    /// Whether a neighbour nearer than this has a piece.
    #[must_use]
    pub fn is_held_nearer(&self, nearness: u8, piece: u32) -> bool {
        let nearer = self.holders.get(usize::from(nearness)..).unwrap_or_default();
        nearer.iter().any(|holders| holders.get(piece as usize).is_some_and(|count| *count > 0))
    }

    /// Whether we may ask a neighbour of this nearness for a piece. `idle`: nothing is asked of any that far.
    #[must_use]
    pub fn allow(&self, nearness: u8, piece: u32, idle: bool) -> bool {
        let Some(shares) = self.shares.get(usize::from(nearness)) else { return true };
        let Some(owner) = shares.owners.get(piece as usize) else { return true };
        if self.open {
            return true;
        }
        let ours = *owner == OURS || (idle && shares.helped == Some(*owner));
        ours && !self.is_held_nearer(nearness, piece)
    }

    /// Whether there are near peers and far ones.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.mixed
    }

    /// How many neighbours of a nearness have a piece.
    pub(super) fn holders(&self, nearness: u8, piece: u32) -> u16 {
        let holders = usize::from(nearness).checked_sub(1).and_then(|level| self.holders.get(level));
        holders.and_then(|holders| holders.get(piece as usize)).copied().unwrap_or(0)
    }

    pub(super) fn state_bytes(&self) -> usize {
        let shares = self.shares.iter().map(|s| s.owners.len() + s.members.len() * size_of::<ConnId>());
        self.holders.iter().map(|h| h.len() * 2).sum::<usize>() + shares.sum::<usize>()
    }
}

/// The place of a peer for a piece: the largest owns it.
fn place(peer: &PeerId, piece: u32) -> u64 {
    let name = u128::from_le_bytes(peer.0);
    let halves = (name as u64).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ (name >> 64) as u64;
    let mixed = (halves ^ halves >> 31 ^ u64::from(piece)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 32
}

impl Session {
    /// Whether what it has counts as being in the zone. An origin that still gives out pieces of its own choice doesn't:
    /// what it gave to others first comes sooner from them. Nor does who gives nothing.
    fn is_holder(&self) -> bool {
        self.told && !self.hello.no_upload && !(self.hello.spreads && self.assigns)
    }

    /// Whether it may bring pieces to those who are near.
    fn may_bring(&self) -> bool {
        self.told && !self.closing && !self.hello.no_upload && !self.have.is_complete()
    }
}

impl Swarm {
    /// A neighbour begins to count as a holder of what it has, if it does.
    pub(super) fn count_zone(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.place.nearness > 0 && !session.place.counts && session.is_holder() {
            session.place.counts = true;
            session.have.ones().for_each(|piece| self.zones.count(session.place.nearness, piece, true));
        }
    }

    /// A neighbour no longer counts.
    pub(super) fn uncount_zone(&mut self, session: &Session) {
        if session.place.counts {
            session.have.ones().for_each(|piece| self.zones.count(session.place.nearness, piece, false));
        }
    }

    /// Settles by which turns each neighbour is served, and whether an origin keeps its pieces in its zone: where there are
    /// too few to pass them on, it doesn't.
    pub(super) fn sort_turns(&mut self) {
        let leechers = self.sessions.values().filter(|s| s.told && !s.closing && !s.have.is_complete());
        let (near, all) = leechers.fold((0, 0), |(near, all), s| (near + usize::from(s.place.nearness > 0), all + 1));
        let own_turns = self.zones.mixed && near > 0;
        self.zones.keeps_inside = own_turns && near * 4 >= all;
        let changed = |s: &Session| s.turn.far != (own_turns && s.place.nearness == 0);
        let changed: Vec<ConnId> = self.sessions.iter().filter(|(_, s)| changed(s)).map(|(conn, _)| *conn).collect();
        for conn in changed {
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.turn.far = !session.turn.far;
            }
            self.note_turn(conn);
        }
    }

    /// Somebody came or went.
    pub(super) fn zones_changed(&mut self, now: Time) {
        let open = || self.sessions.values().filter(|s| !s.closing);
        self.zones.mixed = open().any(|s| s.place.nearness > 0) && open().any(|s| s.place.nearness == 0);
        let lowest = open().map(|s| s.place.nearness).min();
        let highest = open().map(|s| s.place.nearness).max();
        self.sort_turns();
        if lowest == highest || self.told_complete {
            self.zones.shares = Default::default();
            self.zones.open = false;
            return;
        }
        // That looks at each piece for each member. Of a large content it is done once a second, whoever comes and goes.
        let first = self.zones.shares.iter().all(|s| s.owners.is_empty());
        if first || self.geometry.pieces() <= SHARED_AT_ONCE {
            self.share_out(now);
        }
    }

    /// Settles who brings which pieces.
    fn share_out(&mut self, now: Time) {
        let patience = self.patience_with_owners(now);
        for level in 0..DEEPEST {
            let so_far = self.sessions.values().any(|s| usize::from(s.place.nearness) == level && !s.closing);
            let nearer = || self.sessions.iter().filter(|(_, s)| usize::from(s.place.nearness) > level);
            if !so_far || nearer().next().is_none() {
                self.zones.shares[level] = Shares::default();
                continue;
            }
            let able = nearer().filter(|(_, s)| s.may_bring() && now.since(s.place.brought) <= patience);
            let members: Vec<ConnId> = able.map(|(conn, _)| *conn).take(usize::from(NOBODY) - 1).collect();
            let shares = &mut self.zones.shares[level];
            if shares.members == members && !shares.owners.is_empty() {
                continue;
            }
            let names: Vec<PeerId> = std::iter::once(self.config.peer)
                .chain(members.iter().filter_map(|conn| self.sessions.get(conn)).map(|s| s.hello.peer))
                .collect();
            let owner = |piece| {
                let places = names.iter().map(|peer| place(peer, piece)).zip(0_u8..);
                places.max().map_or(OURS, |(_, number)| number)
            };
            shares.owners = (0..self.geometry.pieces()).map(owner).collect();
            shares.members = members;
            shares.helped = None;
        }
    }

    /// How long an owner may bring nothing: by what a piece takes us when it is quick. By the present rate it would be long
    /// just when nothing comes.
    fn patience_with_owners(&mut self, now: Time) -> Duration {
        let far = self.sessions.values().filter(|s| s.place.nearness == 0);
        let rate: f64 = far.map(|s| s.pipeline.rate(now)).sum();
        self.zones.fastest = self.zones.fastest.max(rate);
        let piece = f64::from(self.geometry.piece_size());
        let patience = (PATIENCE_PIECES * piece / self.zones.fastest.max(1.0)).min(PATIENCE_MAX_S);
        Duration::from_secs_f64(patience).max(PATIENCE_MIN)
    }

    /// Looks at what everybody's share is, and whether those who are near give enough.
    pub(super) fn look_at_zones(&mut self, now: Time) {
        let shared = self.zones.shares.iter().any(|s| !s.owners.is_empty());
        if self.told_complete || !shared || now.since(self.zones.looked) < LOOK {
            return;
        }
        self.zones.looked = now;
        let lacking: Vec<u32> = self.have.zeros().filter(|p| self.picker.availability(*p) > 0).collect();
        let mut owing: BTreeMap<ConnId, bool> = BTreeMap::new();
        for level in 0..DEEPEST {
            let shares = &self.zones.shares[level];
            if shares.owners.is_empty() {
                continue;
            }
            let mut due = vec![0_u32; shares.members.len() + 1];
            for piece in lacking.iter().filter(|p| !self.zones.is_held_nearer(level as u8, **p)) {
                due[usize::from(shares.owners[*piece as usize])] += 1;
            }
            for (conn, due) in shares.members.iter().zip(&due[1..]) {
                *owing.entry(*conn).or_default() |= *due > 0;
            }
            let most = (1_u8..).zip(&due[1..]).max_by_key(|(_, due)| **due).filter(|(_, due)| **due > HELP_ABOVE);
            let helped = if due[usize::from(OURS)] == 0 { most.map(|(number, _)| number) } else { None };
            self.zones.shares[level].helped = helped;
        }
        for (conn, owes) in owing {
            if let Some(session) = self.sessions.get_mut(&conn).filter(|_| !owes) {
                session.place.brought = now;
            }
        }
        let near = lacking.iter().filter(|p| self.zones.is_held_nearer(0, **p)).count() as f64;
        let rate = self.total_down.rate(now);
        let plenty = near * f64::from(self.geometry.piece_size()) > rate * PLENTY_S;
        self.zones.open = plenty && !self.zones.supply.update(now, 2, rate, 0.0);
        self.share_out(now);
    }

    /// Whether as much is asked of all far peers together as their link to us takes. Each of them may be at the end of the
    /// same one: twenty times twenty connections with a piece each would be minutes of it.
    pub(super) fn far_is_full(&self, now: Time) -> bool {
        let far = || self.sessions.values().filter(|s| s.place.nearness == 0);
        let asked: u64 = far().map(|s| s.pipeline.bytes).sum();
        let product: f64 = far().map(|s| s.pipeline.product(now)).sum();
        let block = self.geometry.piece_size().min(BLOCK_BYTES);
        asked as f64 >= product + FAR_BLOCKS * f64::from(block)
    }

    /// Whether nothing is asked of anybody who is so far.
    pub(super) fn nothing_asked_from(&self, nearness: u8) -> bool {
        self.sessions.values().all(|s| s.place.nearness > nearness || s.pipeline.asked.is_empty())
    }

    /// Checks the counts of holders.
    ///
    /// # Errors
    /// Says which is wrong.
    pub(super) fn check_zones(&self) -> Result<(), String> {
        for nearness in 1..=DEEPEST as u8 {
            let inside: Vec<&Bitfield> = self
                .sessions
                .values()
                .filter(|s| s.place.counts && s.place.nearness == nearness)
                .map(|s| &s.have)
                .collect();
            for piece in 0..self.geometry.pieces() {
                let real = inside.iter().filter(|have| have.has(piece)).count();
                let counted = usize::from(self.zones.holders(nearness, piece));
                if real != counted {
                    return Err(format!("piece {piece}: {counted} holders at {nearness} counted, {real} are"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearness_is_what_labels_share_from_the_left() {
        for (ours, theirs, near) in [
            ("", "a", 0),
            ("a", "a", 1),
            ("a", "b", 0),
            ("a/b", "a/b", 2),
            ("a/b", "a/c", 1),
            ("a", "a/c", 1),
            ("ab", "a", 0),
            ("b/a", "c/a", 0),
            ("a/b/c/d/e", "a/b/c/d/e", 4),
        ] {
            let here = IpAddr::from([10, 0, 0, 1]);
            assert_eq!(nearness((ours, here), (theirs, here)), near, "{ours} {theirs}");
        }
    }

    #[test]
    fn without_a_label_the_subnet_counts() {
        for (local, remote, near) in [
            ("10.1.2.3", "10.1.2.250", 1),
            ("10.1.2.3", "10.1.3.3", 0),
            ("127.0.0.1", "127.0.0.1", 1),
            ("fd00:0:0:1::1", "fd00:0:0:1:ffff::", 1),
            ("fd00:0:0:1::1", "fd00:0:0:2::1", 0),
            ("::ffff:10.1.2.3", "10.1.2.4", 1),
        ] {
            let place = |ip: &str| ("", ip.parse().unwrap());
            assert_eq!(nearness(place(local), place(remote)), near, "{local} {remote}");
        }
    }

    #[test]
    fn shares_are_even_and_change_little_when_somebody_leaves() {
        let names: Vec<PeerId> = (1..=6_u8).map(|n| PeerId([n; 16])).collect();
        let owner = |names: &[PeerId], piece| names.iter().copied().max_by_key(|peer| place(peer, piece)).unwrap();
        for peer in &names {
            let share = (0..6_000).filter(|piece| owner(&names, *piece) == *peer).count();
            assert!((850..1_150).contains(&share), "{share}");
        }
        for piece in 0..6_000 {
            let before = owner(&names, piece);
            assert!(before == names[5] || before == owner(&names[..5], piece));
        }
    }
}
