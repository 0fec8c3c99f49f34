//! Who else gives out a big manifest: connected peers have it, so that many fetchers don't pull many copies from one host.
//!
//! An asker is sent on only while others are being served already, and never to an address of its own host, which might
//! be itself, or to one that is nearer to us than the asker is. Whoever lies there is found out by the id, and the asker
//! comes back.

use shoal_protocol::address::{canonical, reach};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// With so many answers under way, others are sent on.
const UNDER_WAY: usize = 2;
/// An answer of which nothing was read for this long is forgotten: its asker may be gone.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// Who asks for less than this takes nothing that others should give instead.
const LITTLE: u64 = 64 << 10;

/// The peers of one content that can be asked instead of us.
#[derive(Debug, Default)]
pub struct Relays(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    peers: VecDeque<SocketAddr>,
    /// When something of each answer under way was last read, longest ago first.
    answers: VecDeque<Instant>,
}

impl Relays {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These peers are connected and can be dialled.
    pub fn set(&self, peers: impl Iterator<Item = SocketAddr>) {
        let peers: Vec<SocketAddr> = peers.collect();
        self.with(|state| {
            // Those that are still there keep their order, so that each has its turn.
            state.peers.retain(|peer| peers.contains(peer));
            for peer in peers {
                if !state.peers.contains(&peer) {
                    state.peers.push_back(peer);
                }
            }
        });
    }

    /// Part of the manifest is sent: the first part begins an answer, the last one ends it.
    pub fn note_read(&self, now: Instant, range: &Range<u64>, length: u64) {
        self.with(|state| {
            // To which of them it belongs isn't known: to the one that waits for longest.
            if range.start > 0 {
                state.answers.pop_front();
            }
            if range.end < length && (range.start > 0 || range.end >= LITTLE) {
                state.answers.push_back(now);
            }
        });
    }

    /// Whom this asker should ask, if not us.
    pub fn choose(&self, now: Instant, asker: IpAddr) -> Option<SocketAddr> {
        self.with(|state| {
            state.answers.retain(|read| now.duration_since(*read) < FORGOTTEN);
            if state.answers.len() < UNDER_WAY {
                return None;
            }
            let fits = |peer: &SocketAddr| canonical(peer.ip()) != asker && reach(peer.ip()) >= reach(asker);
            let at = state.peers.iter().position(fits)?;
            let peer = state.peers.remove(at)?;
            state.peers.push_back(peer);
            Some(peer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 256 << 10;
    const LENGTH: u64 = 3 * STEP;

    #[test]
    fn askers_are_sent_on_in_turns_while_others_are_served_and_never_to_themselves() {
        let relays = Relays::default();
        let now = Instant::now();
        let (ip, addr) = (|t: &str| t.parse::<IpAddr>().unwrap(), |t: &str| t.parse::<SocketAddr>().unwrap());
        let list = ["10.0.0.1:7171", "10.0.0.2:7171", "8.8.8.8:7171"].map(addr);
        relays.set(list.into_iter());
        assert_eq!(relays.choose(now, ip("10.0.0.9")), None);
        relays.note_read(now, &(0..STEP), LENGTH);
        assert_eq!(relays.choose(now, ip("10.0.0.9")), None);
        relays.note_read(now, &(0..STEP), LENGTH);
        let chosen: Vec<_> = (0..4).filter_map(|_| relays.choose(now, ip("10.0.0.9"))).collect();
        assert_eq!(chosen, [list[0], list[1], list[2], list[0]]);
        relays.set(list.into_iter().take(2));
        assert_eq!(relays.choose(now, ip("10.0.0.1")), Some(list[1]));
        assert_eq!(relays.choose(now, ip("9.9.9.9")), None, "what is near is not told to who is far");
        relays.note_read(now, &(2 * STEP..LENGTH), LENGTH);
        assert_eq!(relays.choose(now, ip("10.0.0.9")), None);
        relays.note_read(now, &(0..STEP), LENGTH);
        // One of them goes on, slowly; who wants a byte counts for nothing.
        let later = now + FORGOTTEN / 2;
        relays.note_read(later, &(STEP..2 * STEP), LENGTH);
        relays.note_read(later, &(0..1), LENGTH);
        assert!(relays.choose(now + FORGOTTEN - Duration::from_millis(1), ip("10.0.0.9")).is_some());
        assert_eq!(relays.choose(now + FORGOTTEN, ip("10.0.0.9")), None, "one is left");
        relays.note_read(later, &(0..STEP), LENGTH);
        assert!(relays.choose(now + FORGOTTEN, ip("10.0.0.9")).is_some());
    }
}
