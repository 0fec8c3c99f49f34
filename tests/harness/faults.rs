//! What goes wrong, and when.

use shoal_peer::swarm::Time;
use shoal_protocol::message::RejectReason;

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// At this time.
    At(Time),
    /// As soon as each piece is verified by at least one living host that isn't an origin.
    AllOut,
    /// As soon as this host has this fraction of the pieces.
    Progress(usize, f64),
}

/// What happens to a host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Its process ends; connections break at once.
    Kill,
    /// It stops reacting and sending, and its connections stay open.
    Stall,
    /// It reacts again.
    Resume,
    /// It comes, if it had not yet.
    Join,
    /// This fraction of its pieces goes out wrong, the same ones each time.
    Corrupt(f64),
    /// It answers each request with this reject.
    Reject(RejectReason),
    /// It takes each request and sends nothing; a block that is taken back it lets go at once. So it never looks dead.
    Withhold,
    /// It says that it has nothing, whatever it gets.
    Hide,
    /// A disk read of any block fails.
    CanNotRead,
    /// It finds these pieces changed: (first, count).
    Lose(u32, u32),
    /// It finds out that these pieces lie on its disk already: (first, count).
    Find(u32, u32),
    /// The tracker dies (the host doesn't matter).
    TrackerDies,
    /// The tracker starts, or starts again, and knows nobody (the host doesn't matter).
    TrackerReturns,
    /// Its cable is out: it goes on, and nothing comes to it or from it. What was under way arrives later, as TCP sees to.
    Unplug,
    /// Its cable is in again.
    Plug,
}
