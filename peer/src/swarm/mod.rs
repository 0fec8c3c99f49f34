//! The swarm logic: what one peer does in one swarm, without I/O.
//!
//! # Contract
//! [`Swarm::handle`] takes one [`Input`] with the time at which it happened; then [`Swarm::poll`] is drained until it
//! gives `None`; then [`Swarm::next_timeout`] says when [`Input::Timeout`] is due at the latest. Time and randomness are
//! arguments, maps are ordered: the same inputs with the same seed give the same outputs, in the binary and in the
//! simulator. Payload bytes go round this code: it sees piece, offset and length.
//!
//! # What the driver owes
//! - After [`Output::Store`] the bytes go to whoever hashes and writes; when all of a piece are there, one
//!   [`Input::Hashed`] comes back, then after [`Output::Commit`] one [`Input::Committed`].
//! - After [`Output::SendBlock`] exactly one [`Input::BlockSent`] or [`Input::BlockFailed`] comes, unless the connection
//!   is closed. The logic hands out a block only while little is under way on that connection, so full pipes are felt
//!   here, where requests can still be reordered, and not in a socket's buffer.
//! - After [`Output::Close`], and when a connection ends by itself, [`Input::Closed`] comes once.
//!
//! # Mechanisms
//! `state` routes; each other file is one mechanism.
//!
//! What happens: connections come and go (`connections`), peers say what they have (`told`) until they have everything
//! (`finished`), blocks come (`fetching`), whole pieces are right or wrong (`verification`), others ask for blocks
//! (`serving`, each with its `queue`), CVs are fetched (`proofs`).
//!
//! What is decided: what a peer may say ([`session`], all of them in `sessions`), which piece is next ([`picker`]), blocks
//! under way ([`pieces`]), how much to ask for ([`requests`]) at which [`delay`], filling the pipelines (`refill`), handing over
//! what waits in a long queue (`steal`), whose turn it is ([`upload`]) by what each took (`takings`), spreading by an origin
//! ([`spread`]), sparing it ([`spare`]), also while we don't keep up ([`intake`]), chaining values ([`cvs`]), blame
//! ([`blame`]), who is known ([`addresses`]), trackers ([`announcer`]), peer exchange ([`pex`]), thin links between places
//! ([`zones`]), what came for nothing and why ([`waste`]).
//!
//! # Measured
//! `measured.md` beside this file has the alternatives that were tried, with the command for each.

pub mod addresses;
pub mod announcer;
pub mod blame;
mod connections;
pub mod cvs;
pub mod delay;
mod fetching;
mod finished;
mod footprint;
pub mod intake;
mod invariants;
pub mod pex;
pub mod picker;
pub mod pieces;
mod proofs;
mod queue;
pub mod rate;
mod refill;
pub mod requests;
mod serving;
pub mod session;
mod sessions;
pub mod spare;
pub mod spread;
mod state;
mod steal;
mod takings;
pub mod time;
mod told;
pub mod upload;
mod verification;
pub mod waste;
pub mod zones;

pub use state::{Counters, Swarm};
pub use time::Time;

use core::net::{IpAddr, SocketAddr};
use shoal_protocol::announce::{Event, Handout};
use shoal_protocol::message::{Block, GoodbyeReason, Hello};
use shoal_protocol::{Bitfield, Geometry, Hash, Message, PeerId};
use std::sync::Arc;

/// A connection, named by the driver; never used twice in one swarm.
pub type ConnId = u32;
/// A tracker, by its position in the configuration.
pub type TrackerId = usize;

/// What a swarm needs to know from the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pieces.
    pub geometry: Arc<Geometry>,
    /// Roots of the large files, in the order of [`Geometry::large`].
    pub roots: Vec<Hash>,
    /// Our name.
    pub peer: PeerId,
    /// Pieces that are verified and on disk.
    pub have: Bitfield,
    /// CVs that are known, in order of CV number; `None` where not.
    pub cvs: Vec<Option<Hash>>,
    /// This peer brought the content: it gives out pieces of its own choice until each is out once.
    pub origin: bool,
    /// Serve blocks.
    pub upload: bool,
    /// Most connections.
    pub max_peers: usize,
    /// How many trackers there are.
    pub trackers: usize,
    /// Where we are, as [`zones`] understands it; empty: nowhere in particular.
    pub zone: String,
    /// Take private addresses from public sources.
    pub allow_private: bool,
    /// Seed of all randomness.
    pub seed: u64,
}

/// A connection that is ready.
#[derive(Debug, Clone)]
pub struct Connected {
    /// Its name.
    pub conn: ConnId,
    /// Our address on it.
    pub local: IpAddr,
    /// The remote socket address.
    pub remote: SocketAddr,
    /// What we dialled; `None` if the peer dialled us.
    pub dialled: Option<SocketAddr>,
    /// What the peer said.
    pub hello: Hello,
    /// Round trip measured during the greeting, in microseconds.
    pub rtt_us: u64,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A connection is ready: greetings and hellos were exchanged.
    Connected(Connected),
    /// Dialling did not lead to a connection.
    DialFailed {
        /// What was dialled.
        addr: SocketAddr,
        /// Trying again makes no sense: it is ourselves, or speaks another protocol.
        forget: bool,
    },
    /// Nobody was dialled.
    NotDialled {
        /// Who should have been.
        addr: SocketAddr,
        /// What was lacking here.
        lack: Lack,
    },
    /// Dialling led to a peer that has no room for us now.
    DialRefused {
        /// What was dialled.
        addr: SocketAddr,
    },
    /// A connection ended, whoever ended it.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// A control frame.
    Message {
        /// From whom.
        conn: ConnId,
        /// What.
        message: Message,
    },
    /// A block's payload is whole in a buffer that the driver holds.
    BlockArrived {
        /// From whom.
        conn: ConnId,
        /// Which.
        block: Block,
        /// All of it lay in the socket before it was read: nothing had to be waited for.
        was_there: bool,
    },
    /// Payload of a block that is still arriving: shows that the peer is alive and at which rate.
    BlockProgress {
        /// From whom.
        conn: ConnId,
    },
    /// All bytes of a piece were written; this is what they hash to.
    Hashed {
        /// Which piece.
        piece: u32,
        /// What it is.
        outcome: Outcome,
    },
    /// The journal says that the piece is had.
    Committed {
        /// Which piece.
        piece: u32,
    },
    /// Pieces that were on disk already turned out to be right, and are in the journal.
    Found {
        /// Which.
        pieces: Vec<u32>,
    },
    /// Hashes of the single blocks of a piece as they lie on disk, asked for by [`Output::HashBlocks`].
    BlockHashes {
        /// Which piece.
        piece: u32,
        /// One for each block.
        hashes: Vec<Hash>,
    },
    /// A block was handed to the system whole.
    BlockSent {
        /// To whom.
        conn: ConnId,
        /// Which.
        block: Block,
    },
    /// A block could not be read.
    BlockFailed {
        /// To whom it should have gone.
        conn: ConnId,
        /// Which.
        block: Block,
    },
    /// Pieces that we had are no longer what was verified.
    Lost {
        /// Which.
        pieces: Vec<u32>,
    },
    /// A tracker answered.
    Announced {
        /// Which tracker.
        tracker: TrackerId,
        /// The address at which it was reached.
        reached: IpAddr,
        /// What it said.
        handout: Handout,
    },
    /// A tracker did not answer, or refused.
    AnnounceFailed {
        /// Which tracker.
        tracker: TrackerId,
        /// Seconds to wait, if it said so.
        retry_after_s: Option<u32>,
    },
    /// Addresses that are trusted.
    Peers {
        /// The user named them.
        named: Vec<SocketAddr>,
        /// The journal remembered them.
        kept: Vec<SocketAddr>,
    },
    /// The time named by `next_timeout` has come.
    Timeout,
}

/// What this machine lacked to dial somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Descriptors or memory.
    Means,
    /// A way to that address, as far as is known here: the network is down, or has none of that family, or a router said so.
    Route,
}

/// What the bytes of a piece are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A subtree with this CV.
    Cv(Hash),
    /// A pack, and whether every member has its root.
    Pack(bool),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send a control frame.
    Send {
        /// To whom.
        conn: ConnId,
        /// What.
        message: Message,
    },
    /// Send a block.
    SendBlock {
        /// To whom.
        conn: ConnId,
        /// Which.
        block: Block,
    },
    /// Send a segment of the manifest.
    SendManifest {
        /// To whom.
        conn: ConnId,
        /// Which segment.
        segment: u32,
    },
    /// The block that just arrived is wanted: write and hash it.
    Store {
        /// Which.
        block: Block,
        /// It was the last one missing of its piece.
        last: bool,
    },
    /// The block that just arrived is of no use.
    Discard,
    /// Throw away what was hashed of a piece: it will come again from its first block.
    Restart {
        /// Which piece.
        piece: u32,
    },
    /// The piece is right: write it into the journal.
    Commit {
        /// Which piece.
        piece: u32,
    },
    /// Hash each block of a piece as it lies on disk.
    HashBlocks {
        /// Which piece.
        piece: u32,
    },
    /// These CVs were proven; keep them.
    KeepCvs {
        /// Number of the first one.
        first: u32,
        /// The CVs.
        cvs: Vec<Hash>,
    },
    /// End a connection, saying why.
    Close {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: GoodbyeReason,
    },
    /// Try to connect.
    Dial {
        /// Where to.
        addr: SocketAddr,
    },
    /// Announce to a tracker.
    Announce {
        /// Which.
        tracker: TrackerId,
        /// What for.
        event: Event,
        /// How many peers are wished for.
        want: u16,
    },
    /// A peer sent bytes that failed verification.
    BadPiece {
        /// Who.
        peer: SocketAddr,
        /// Which piece.
        piece: u32,
        /// Out for an hour.
        barred: bool,
    },
    /// Everything is had. Comes once.
    Complete,
}

/// How many requests we accept in one peer's queue: 64 MiB of blocks, indexes only, no data held.
pub const QUEUE_DEPTH: u16 = 256;
