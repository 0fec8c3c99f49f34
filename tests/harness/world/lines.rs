//! Cables that are pulled and put back: hosts go on, and what was under way comes later.

use super::{Event, World};

impl World {
    /// Whether nothing passes between two hosts.
    pub(super) fn is_cut(&self, one: usize, other: usize) -> bool {
        let out = |host: usize| self.hosts.get(host).is_some_and(|h| h.unplugged);
        out(one) || out(other)
    }

    /// For which host's cable an event has to wait.
    pub(super) fn cut_off(&self, event: &Event) -> Option<usize> {
        let lane = match event {
            Event::UplinkFree(host) => return Some(*host as usize).filter(|h| self.hosts[*h].unplugged),
            Event::Crossed { lane, .. }
            | Event::Deliver { lane, .. }
            | Event::Frame { lane, .. }
            | Event::Have { lane, .. } => *lane as usize,
            _ => return None,
        };
        let (from, to) = (self.lanes[lane].from(), self.lanes[lane].to());
        [from, to].into_iter().find(|host| self.hosts[*host].unplugged)
    }

    /// A host reacts again, or its cable is in: what waited happens, in its order.
    pub(super) fn thaw(&mut self, host: usize) {
        let (thawed, frozen): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.frozen).into_iter().partition(|(h, _)| *h == host);
        self.frozen = frozen;
        for (_, event) in thawed {
            self.after(0, event);
        }
        self.start_uplink(host);
    }
}
