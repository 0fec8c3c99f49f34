//! Connections: who is let in, how one ends, and whom to dial.

use super::blame::Suspect;
use super::queue::Queue;
use super::session::Session;
use super::state::{Swarm, TICK};
use super::{ConnId, Connected, Output, Time, TrackerId, zones};
use core::net::{IpAddr, SocketAddr};
use shoal_protocol::address::{Reach, Trust, customer, reach, subnet};
use shoal_protocol::announce::Handout;
use shoal_protocol::limits::BITFIELD_BITS;
use shoal_protocol::message::{GoodbyeReason, Hello};
use shoal_protocol::{Bitfield, Message, WireError};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Dial so many peers ourselves (and fill no more than two thirds of the limit); more may dial us, up to the limit. Well
/// above ln N for any swarm.
const DEGREE: usize = 12;
/// The same while no more than [`FEW`] addresses are known: there *have* cost little, and who isn't a neighbour of most has
/// to wait for what others pass on. In the simulator two zones of 20 behind a thin link took 1.32 instead of 1.42 times
/// the bound; 100 hosts took 1.174 instead of 1.166.
const DEGREE_FEW: usize = 24;
const FEW: usize = 48;
/// After a connection ended, how long until the same address is dialled again.
const REDIAL: Duration = Duration::from_secs(2);
/// A piece that a peer sent wrong is not asked of it again for so long; a fetch whose only source had one bad moment must
/// be able to end.
pub(super) const BAD_FOR: Duration = Duration::from_secs(60);
/// Who dialled us and then moved no payload at all for so long, or none any more, is a stranger and no neighbour: it takes
/// no place from those whom we would dial, and in a full house it makes room. Or a few dozen connections that do nothing but
/// stay would keep a fetch from its sources, and a seed from its fetchers, for ever.
const STRANGER_AFTER: Duration = Duration::from_secs(10);
const IDLE_AFTER: Duration = Duration::from_secs(60);
/// A peer that said nothing for so long, and that took and gave nothing, may have lost a connection that still stands here.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// Another one that it dialled counts as its new one after so long.
const TWIN_AFTER: Duration = Duration::from_secs(3);
/// Places that only those get whom a fetch dials itself: it chose them, the others chose it.
const KEPT_FOR_OURS: usize = 2;
/// Peers that left blocks behind and are remembered for the case that those are bad.
const DEPARTED_MAX: usize = 1_024;

fn is_stranger(session: &Session, now: Time) -> bool {
    let (bytes, since) = session.moved;
    let after = if bytes == 0 { STRANGER_AFTER } else { IDLE_AFTER };
    session.incoming && !session.closing && now.since(since) >= after
}

fn is_silent(session: &Session, now: Time) -> bool {
    now.since(session.heard) >= SILENT_AFTER && now.since(session.moved.1) >= SILENT_AFTER
}

/// Whether one host can have both addresses, as far as its word may be taken for it.
fn may_be_one(a: IpAddr, b: IpAddr) -> bool {
    customer(a) == customer(b) || [a, b].iter().all(|ip| reach(*ip) != Reach::Global)
}

/// What a newcomer means for older connections of the same peer.
struct Twins {
    /// One of them stays, and the newcomer goes.
    stays: Option<ConnId>,
    /// These end for it.
    goes: Vec<ConnId>,
}

impl Swarm {
    pub(super) fn connected(&mut self, now: Time, connected: Connected) {
        let Connected { conn, local, remote, dialled, hello, rtt_us } = connected;
        let most = self.config.max_peers;
        let ours = if dialled.is_some() || self.have.is_complete() { 0 } else { KEPT_FOR_OURS.min(most / 4) };
        let refuse = if hello.peer == self.config.peer {
            Some((GoodbyeReason::Duplicate, None))
        } else if self.blame.is_barred(now, (hello.peer, customer(remote.ip()))) {
            Some((GoodbyeReason::Barred, None))
        } else {
            let twins = self.twins(now, &hello, remote.ip(), dialled);
            match twins.stays {
                Some(other) => Some((GoodbyeReason::Duplicate, Some(other))),
                // It takes the place of what ends for it.
                None if !twins.goes.is_empty() => {
                    twins.goes.into_iter().for_each(|conn| self.close(conn, GoodbyeReason::Duplicate));
                    None
                }
                None if dialled.is_none() && self.is_crowded(remote.ip()) => Some((GoodbyeReason::TooManyPeers, None)),
                None if self.open_sessions() >= most - ours
                    && !self.make_room(now, dialled.is_none().then_some(remote.ip())) =>
                {
                    Some((GoodbyeReason::TooManyPeers, None))
                }
                None => None,
            }
        };
        let itself = hello.peer == self.config.peer;
        let mut session = Session::new(now, remote, dialled, hello, rtt_us, self.geometry.pieces());
        session.place.nearness = zones::nearness((&self.config.zone, local), (&session.hello.zone, remote.ip()));
        if let Some((reason, other)) = refuse {
            // What was dialled in vain backs off; of another way to a connected peer it is enough to know that it is one.
            match (dialled, session.dialable, other) {
                (_, Some(addr), Some(other)) => self.book.same_as(addr, other, dialled.is_some()),
                (Some(addr), ..) if itself => self.book.failed(now, addr, true, &mut self.rng),
                (Some(addr), ..) => self.book.refused(now, addr, false, &mut self.rng),
                _ => {}
            }
            session.refused_here = true;
            self.turns.note(conn, &session);
            self.sessions.insert(conn, session);
            self.close(conn, reason);
            return;
        }
        self.book.connected(now, session.dialable, conn, dialled.is_some());
        if let Some(record) = self.blame.record(Suspect::of(&session).culprit()) {
            session.probation = true;
            session.proven = record.proven;
            session.refused.extend(record.bad.iter().map(|piece| (*piece, now + BAD_FOR)));
        }
        let needs_manifest = session.hello.needs_manifest;
        self.turns.note(conn, &session);
        self.sessions.insert(conn, session);
        self.zones_changed(now);
        if needs_manifest {
            return;
        }
        self.send_bitfield(now, conn);
        if let Some(spread) = &mut self.spread {
            spread.joined(conn);
        }
        self.tick_due = self.tick_due.min(now + TICK);
    }

    fn open_sessions(&self) -> usize {
        self.turns.standing()
    }

    /// What becomes of other connections of the peer that a newcomer says it is. Both sides come to the same, though each
    /// sees other addresses, and either would rather keep two than lose both:
    ///
    /// - Of two that each side dialled one, both keep the one that the smaller name dialled; either keeps both where it would
    ///   have to send a newcomer away for one that has been silent for long.
    /// - Of two that one side dialled, that side decides, as only it knows whether the older one is still of use: it keeps the
    ///   older one if that leads to another address and does something, and else the newer. The other side waits, but for who
    ///   was silent for long ([`Swarm::part_from_silent_twins`]).
    ///
    /// Whether they are the same two is what they say. Another address on the internet makes another peer. In a private
    /// network hosts have many, but from another one nobody takes the place of a connection that does something: so a name,
    /// which every neighbour knows, is no means to cut others off. A newcomer may always be sent away, as that harms nobody.
    fn twins(&mut self, now: Time, hello: &Hello, remote: IpAddr, we_dialled: Option<SocketAddr>) -> Twins {
        // Both addresses were named by the user, most likely as those of one name.
        let chosen = we_dialled.is_some_and(|addr| self.book.is_trusted(addr));
        let ours = |s: &Session| chosen && !s.incoming && s.dialable.is_some_and(|addr| self.book.is_trusted(addr));
        let is_twin =
            |s: &Session| s.hello.peer == hello.peer && !s.closing && (may_be_one(s.remote.ip(), remote) || ours(s));
        let older: Vec<ConnId> = self.sessions.iter().filter(|(_, s)| is_twin(s)).map(|(conn, _)| *conn).collect();
        let mut twins = Twins { stays: None, goes: Vec::new() };
        for conn in older {
            let Some(session) = self.sessions.get_mut(&conn) else { continue };
            session.note_moved(now);
            let elsewhere = customer(session.remote.ip()) != customer(remote);
            let is_silent = is_silent(session, now);
            // From elsewhere nobody takes the place of one that speaks, and nobody is kept out by one that only speaks.
            let is_shielded = elsewhere && !is_silent;
            let keeps_out = !is_silent && (!elsewhere || now.since(session.moved.1) < STRANGER_AFTER);
            let newer_wins = match (session.incoming, we_dialled.is_some()) {
                // They dialled both, and know better.
                (true, false) => continue,
                (false, true) => !elsewhere || !keeps_out,
                (_, newer_is_ours) => newer_is_ours == (self.config.peer < hello.peer),
            };
            match newer_wins {
                true if is_shielded => {}
                true => twins.goes.push(conn),
                // Who may have lost that one without our knowing is not kept out by it either.
                false if keeps_out => twins.stays = Some(conn),
                false => {}
            }
        }
        twins
    }

    /// Of several connections that one peer dialled those end that were silent while another wasn't: it lost them without our
    /// knowing.
    pub(super) fn part_from_silent_twins(&mut self, now: Time) {
        let mut names = BTreeMap::new();
        self.sessions.values_mut().for_each(|s| s.note_moved(now));
        for (conn, s) in self.sessions.iter().filter(|(_, s)| s.incoming && !s.closing && is_silent(s, now)) {
            names.entry(s.hello.peer).or_insert_with(Vec::new).push((*conn, s.remote.ip()));
        }
        let mut dead = Vec::new();
        // Who has just come may be about to go again: its own side knows that it has two.
        let speaks = |s: &Session| s.incoming && !s.closing && now.since(s.since) >= TWIN_AFTER && !is_silent(s, now);
        for (_, s) in self.sessions.iter().filter(|(_, s)| !names.is_empty() && speaks(s)) {
            let twins = names.get(&s.hello.peer).into_iter().flatten();
            dead.extend(twins.filter(|(_, ip)| may_be_one(*ip, s.remote.ip())).map(|(conn, _)| *conn));
        }
        dead.into_iter().for_each(|conn| self.close(conn, GoodbyeReason::Duplicate));
    }

    /// Makes room for a newcomer by ending a connection that is of no use to either side, or for who dialled us one of a
    /// crowd: a house can be full of connections of one host or one network that all seem to do something.
    fn make_room(&mut self, now: Time, dialled_us: Option<IpAddr>) -> bool {
        let complete = self.have.is_complete();
        let idle = self.sessions.iter().find(|(_, s)| complete && s.is_seed() && !s.closing).map(|(c, _)| *c);
        if let Some(conn) = idle {
            self.close(conn, GoodbyeReason::NothingToDo);
            return true;
        }
        self.sessions.values_mut().for_each(|s| s.note_moved(now));
        let strangers = self.sessions.iter().filter(|(_, s)| is_stranger(s, now));
        // The one that has done nothing for the longest time.
        let stranger = strangers.min_by_key(|(_, s)| s.moved.1).map(|(c, _)| *c);
        let conn = stranger.or_else(|| self.one_of_a_crowd(dialled_us?));
        if let Some(conn) = conn {
            self.close(conn, GoodbyeReason::TooManyPeers);
        }
        conn.is_some()
    }

    /// Of those who dialled us one whose address has two more than the newcomer's, or whose network has two more and its
    /// address one: so each network gets as much as any other, and in it each host. The one of the largest crowd that gave us
    /// least, and of these the newest.
    fn one_of_a_crowd(&self, newcomer: IpAddr) -> Option<ConnId> {
        let theirs = || self.sessions.iter().filter(|(_, s)| s.incoming && !s.closing);
        let (mut networks, mut hosts) = (BTreeMap::<[u8; 8], usize>::new(), BTreeMap::<IpAddr, usize>::new());
        for (_, session) in theirs() {
            *networks.entry(subnet(session.remote.ip())).or_default() += 1;
            *hosts.entry(customer(session.remote.ip())).or_default() += 1;
        }
        let crowd = |ip| {
            let counts = (networks.get(&subnet(ip)), hosts.get(&customer(ip)));
            (counts.0.copied().unwrap_or(0), counts.1.copied().unwrap_or(0))
        };
        let own = crowd(newcomer);
        theirs()
            .map(|(conn, s)| (crowd(s.remote.ip()), Reverse(s.delivered), *conn))
            .filter(|((network, host), ..)| *host > own.1 + 1 || (*network > own.0 + 1 && *host > own.1))
            .max()
            .map(|(.., conn)| conn)
    }

    /// Whether a quarter of the places is taken by those who dialled us from one network on the internet, in a house that
    /// is half full. Private networks are spared: there, whole swarms are in one.
    fn is_crowded(&self, remote: IpAddr) -> bool {
        let most = self.config.max_peers;
        if reach(remote) != Reach::Global || self.open_sessions() * 2 < most {
            return false;
        }
        let network = subnet(remote);
        let same = |s: &&Session| s.incoming && !s.closing && subnet(s.remote.ip()) == network;
        self.sessions.values().filter(same).count() * 4 >= most
    }

    pub(super) fn send_bitfield(&mut self, now: Time, conn: ConnId) {
        if self.have.is_complete() {
            self.send(now, conn, Message::HaveAll);
        } else if self.have.count() == 0 {
            self.send(now, conn, Message::HaveNone);
        } else {
            let bytes = self.have.to_bytes();
            let step = BITFIELD_BITS as usize / 8;
            for (n, part) in bytes.chunks(step).enumerate() {
                let first = n as u32 * BITFIELD_BITS;
                let count = (self.have.len() - first).min(BITFIELD_BITS);
                self.send(now, conn, Message::Bitfield { first, count, bits: part.to_vec().into() });
            }
        }
    }

    pub(super) fn send(&mut self, now: Time, conn: ConnId, message: Message) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.spoke = now;
            self.out.push_back(Output::Send { conn, message });
        }
    }

    pub(super) fn close(&mut self, conn: ConnId, reason: GoodbyeReason) {
        if let Some(session) = self.sessions.get_mut(&conn)
            && !session.closing
        {
            session.closing = true;
            session.turn.queue = Queue::default();
            session.turn.wants_any = 0;
            self.turns.note(conn, session);
            self.out.push_back(Output::Close { conn, reason });
        }
        self.let_go(conn);
    }

    pub(super) fn misbehaved(&mut self, conn: ConnId, error: &WireError) {
        debug_assert_ne!(error.blame(), shoal_protocol::Blame::Caller);
        self.close(conn, GoodbyeReason::Protocol);
    }

    /// What a connection owes us or is on goes to others.
    fn let_go(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        session.pipeline.asks = 0;
        session.pipeline.late_asks = 0;
        for asked in session.pipeline.take_all() {
            self.recall_is_over(&asked);
            self.give_back(conn, asked.block);
        }
        self.release_piece(conn);
    }

    pub(super) fn closed(&mut self, now: Time, conn: ConnId) {
        self.let_go(conn);
        let Some(session) = self.sessions.remove(&conn) else { return };
        self.turns.forget(conn);
        if session.told {
            self.uncount(&session);
            self.uncount_zone(&session);
        }
        self.zones_changed(now);
        if let Some(mut spread) = self.spread.take() {
            let picker = &self.picker;
            // Once somebody has everything, all of it is out, even if that one and its neighbours leave: who finished a
            // fetch mostly serves on, though not to a seed. So it is while somebody is here who had everything at once.
            let seeds = || self.sessions.values().any(Session::is_seed);
            let all_out = self.finished.any_met() || seeds();
            let have = &self.have;
            // Who has only begun to say what it has was never counted.
            let told = if session.told { &session.have } else { &Bitfield::none(0) };
            // What we lost ourselves stays out, too: it can't be given again.
            spread.left(conn, told, |p| all_out || !have.has(p) || picker.leechers_with(p) > 0);
            self.spread = Some(spread);
        }
        self.pex.forget(conn);
        let again = self.sessions.iter().find(|(_, s)| {
            s.hello.peer == session.hello.peer && !s.closing && may_be_one(s.remote.ip(), session.remote.ip())
        });
        let again = again.map(|(conn, _)| *conn);
        let is_unwelcome = again.is_none() && session.unwelcome && !session.refused_here;
        let wait = if is_unwelcome || again.is_some() { REDIAL } else { REDIAL.mul_f64(self.rng.jitter(0.5)) };
        // All addresses that led to it, those included at which we met it once more.
        let mut addrs = self.book.closed(now, conn, wait);
        addrs.extend(session.dialable.filter(|addr| !addrs.contains(addr)));
        if let Some(other) = again {
            let answered = |addr| !session.incoming && session.dialable == Some(addr);
            addrs.iter().for_each(|addr| self.book.same_as(*addr, other, answered(*addr)));
        } else if let Some(addr) = session.dialable.filter(|_| is_unwelcome) {
            self.book.refused(now, addr, false, &mut self.rng);
        }
        if self.pieces.is_sender(conn) {
            self.departed.insert(conn, Suspect::of(&session));
            if self.departed.len() > DEPARTED_MAX {
                self.departed.pop_first();
            }
        }
        self.refill_all(now);
        self.serve(now);
    }

    /// Takes a peer's pieces out of the counts.
    pub(super) fn uncount(&mut self, session: &Session) {
        if session.have.is_complete() {
            self.picker.count_seed(false);
        } else {
            for piece in session.have.ones() {
                self.picker.decrement(piece);
            }
        }
    }

    pub(super) fn announced(&mut self, now: Time, tracker: TrackerId, reached: IpAddr, handout: &Handout) {
        self.announcer.answered(now, tracker, handout.interval, &mut self.rng);
        self.spare.counted(handout.seeds);
        self.finished.told(tracker, handout.completed);
        let trust = Trust { source: reach(reached), allow_private: self.config.allow_private };
        for peer in &handout.peers {
            for addr in peer.resolve(reached) {
                self.book.hear(now, addr, peer.seed, trust);
            }
        }
        self.dial(now);
    }

    pub(super) fn dial(&mut self, now: Time) {
        let degree = if self.book.count() <= FEW { DEGREE_FEW } else { DEGREE };
        let degree = degree.min((self.config.max_peers * 2).div_ceil(3));
        let mut neighbours = self.open_sessions();
        if neighbours >= degree {
            self.sessions.values_mut().for_each(|s| s.note_moved(now));
            neighbours -= self.sessions.values().filter(|s| is_stranger(s, now)).count();
        }
        let room = degree.saturating_sub(neighbours + self.book.dialing());
        for addr in self.book.dials(now, room, self.have.is_complete(), &mut self.rng) {
            if self.blame.addr_is_barred(now, addr) {
                self.book.refused(now, addr, false, &mut self.rng);
            } else {
                self.out.push_back(Output::Dial { addr });
            }
        }
    }

    pub(super) fn tell_peers(&mut self, now: Time, conn: ConnId) {
        let Some(session) = self.sessions.get(&conn) else { return };
        let seed = session.is_seed();
        let current = self.book.tellable(now).filter(|(_, is_seed)| !(seed && *is_seed));
        if let Some((added, dropped)) = self.pex.update(now, conn, session.remote, session.dialable, current) {
            self.send(now, conn, Message::Pex { added, dropped });
        }
    }
}
