//! One connected peer: what it said, what it may say, and what is under way with it.

use super::Time;
use super::queue::Queue;
use super::rate::Meter;
use super::requests::Pipeline;
use super::waste::Cause;
use core::net::SocketAddr;
use shoal_protocol::message::{Block, Hello};
use shoal_protocol::{Bitfield, WireError, ranges};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Blocks that may arrive although they were cancelled, before they count as not asked for.
const CANCELLED_KEPT: usize = 2_048;
/// So often a peer is sent to others by a busy origin, and then served for so long.
const SENT_AWAY_MAX: u32 = 3;
const SERVED_FOR: Duration = Duration::from_secs(30);
/// Blocks that nobody asked for which end a connection.
const UNASKED_MAX: u32 = 8;

/// What was cancelled and may still arrive.
#[derive(Debug)]
struct Cancelled {
    block: Block,
    why: Cause,
    /// In so many blocks.
    blocks: u32,
}

/// Where a peer stands, as seen from here ([`super::zones`]).
#[derive(Debug)]
pub struct Place {
    /// How near it is.
    pub nearness: u8,
    /// What it has counts as being in our zone.
    pub counts: bool,
    /// Last time that it was told of pieces that could wait.
    pub told: Time,
    /// When it last brought a piece that nobody as near had before, or had nothing left of its share to bring.
    pub brought: Time,
}

/// What a peer asks of us, and its turns to get it ([`super::upload`]).
#[derive(Debug)]
pub struct Turn {
    /// What it asked for, in order.
    pub queue: Queue,
    /// Its unanswered requests for any piece.
    pub wants_any: u32,
    /// How often it was sent to others, and since when it isn't any more.
    pub sent_away: (u32, Time),
    /// Blocks handed to its writer, and their bytes.
    pub writing: (u32, u64),
    /// Last time its writer took or finished a block, or since when it waits for a turn.
    pub moved: Time,
    /// The piece that its turn is spent on.
    pub piece: Option<u32>,
    /// The piece of the last block that it got, and how many more of its blocks it may have before others.
    pub last_piece: (u32, u32),
    /// It is served by the turns for far peers.
    pub far: bool,
    /// What we send it.
    pub sent: Meter,
}

/// CVs and segments of the manifest that go either way.
#[derive(Debug, Default)]
pub struct Proofs {
    /// The batch of CVs asked of it.
    pub asked: Option<(u32, Time)>,
    /// A batch that it still owes us although it isn't waited for.
    pub late: Option<u32>,
    /// It could not give CVs, or owes some for too long: it is asked again then.
    pub not_before: Time,
    /// For how many pieces it got CVs.
    pub cvs_given: u32,
    /// How many segments of the manifest it got.
    pub segments_given: u32,
}

impl Turn {
    fn new(now: Time) -> Self {
        Self {
            queue: Queue::default(),
            wants_any: 0,
            sent_away: (0, now),
            writing: (0, 0),
            moved: now,
            piece: None,
            last_piece: (u32::MAX, 0),
            far: false,
            sent: Meter::new(now),
        }
    }

    /// Whether it may be sent to others with what it asks for. Whoever comes again found none, as they may only say that they
    /// have it: then it is served for a while as if we had little to do.
    pub fn may_be_sent_away(&mut self, now: Time) -> bool {
        let (times, since) = &mut self.sent_away;
        if *times >= SENT_AWAY_MAX {
            if now.since(*since) < SERVED_FOR {
                return false;
            }
            *times = 0;
        }
        (*times, *since) = (*times + 1, now);
        true
    }

    /// It asks for a block: from now on it waits, unless it did already.
    pub fn expect(&mut self, now: Time) {
        if self.queue.is_empty() && self.writing.0 == 0 {
            self.moved = now;
        }
    }

    /// Whether the next block that it asks for belongs to the piece that its last turn was spent on. Who asks for more
    /// than the piece's blocks waits like everybody else.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        let (piece, rest) = self.last_piece;
        rest > 0 && self.queue.front().is_some_and(|b| b.piece == piece)
    }
}

/// A connected peer. What every *have* looks at stands first, in one cache line or two: a big swarm consists of those.
#[derive(Debug)]
#[repr(C)]
pub struct Session {
    /// Last time we heard from it.
    pub heard: Time,
    /// `(until, returned)`: it isn't looked at before `until`, unless [`Picker::returned`](super::picker::Picker::returned) has
    /// moved on from `returned`.
    pub rests: (Time, u64),
    /// Until when it is asked for nothing at all: what it rejects at once must not be asked again at once.
    pub hold_until: Time,
    /// What it has.
    pub have: Bitfield,
    /// How many of its pieces we lack.
    pub useful: u32,
    /// It has said what it has.
    pub told: bool,
    /// It is to be closed; nothing more is asked or sent.
    pub closing: bool,
    /// Of how many pieces it said whether it has them, before it had said it of all.
    pub bits_told: u32,
    /// How often it had everything and lost some of it.
    pub falls: u32,
    /// The remote socket address.
    pub remote: SocketAddr,
    /// Where it can be dialled, if it said so.
    pub dialable: Option<SocketAddr>,
    /// Whether it dialled us.
    pub incoming: bool,
    /// When the connection came to be.
    pub since: Time,
    /// What it said at the start.
    pub hello: Box<Hello>,
    /// Where it stands.
    pub place: Place,
    /// What it asks of us and gets.
    pub turn: Turn,
    /// What pieces and manifest are checked by, either way.
    pub proofs: Proofs,
    /// What we asked of it.
    pub pipeline: Pipeline,
    /// It still gives out pieces of its own choice.
    pub assigns: bool,
    /// Pieces that it is not asked for until then: it rejected them or sent them wrong.
    pub refused: BTreeMap<u32, Time>,
    /// One piece at a time, after a bad one.
    pub probation: bool,
    /// A piece that it alone sent was right.
    pub proven: bool,
    /// Until when it told us to ask others.
    pub busy_until: Time,
    /// Pieces that we have and it had before us: it hears of them later.
    pub owed_haves: Vec<u32>,
    /// It had everything when it first told; if it loses a piece and finds it again, it didn't finish.
    pub came_complete: bool,
    /// Last time we sent it anything.
    pub spoke: Time,
    /// Payload bytes that came from it.
    pub delivered: u64,
    /// Payload that had passed in both directions when this was last looked at, and since when it has been as much.
    pub moved: (u64, Time),
    /// It was never let in.
    pub refused_here: bool,
    /// It ended the connection because it doesn't want us: dialling again backs off.
    pub unwelcome: bool,
    cancelled: VecDeque<Cancelled>,
    unasked: u32,
}

impl Session {
    /// A fresh connection.
    #[must_use]
    pub fn new(
        now: Time,
        remote: SocketAddr,
        dialled: Option<SocketAddr>,
        hello: Hello,
        rtt_us: u64,
        pieces: u32,
    ) -> Self {
        let dialable = match (dialled, hello.port) {
            (Some(addr), _) => Some(addr),
            (None, 0) => None,
            (None, port) => Some(SocketAddr::new(remote.ip(), port)),
        };
        Self {
            remote,
            dialable,
            incoming: dialled.is_none(),
            since: now,
            assigns: hello.spreads,
            hello: Box::new(hello),
            place: Place { nearness: 0, counts: false, told: now, brought: now },
            turn: Turn::new(now),
            proofs: Proofs::default(),
            have: Bitfield::none(pieces),
            told: false,
            useful: 0,
            bits_told: 0,
            pipeline: Pipeline::new(now, rtt_us),
            refused: BTreeMap::new(),
            probation: false,
            proven: false,
            busy_until: Time(0),
            hold_until: Time(0),
            rests: (Time(0), 0),
            owed_haves: Vec::new(),
            heard: now,
            spoke: now,
            delivered: 0,
            moved: (0, now),
            falls: 0,
            refused_here: false,
            unwelcome: false,
            came_complete: false,
            closing: false,
            cancelled: VecDeque::new(),
            unasked: 0,
        }
    }

    /// Looks whether payload has passed since the last look.
    pub fn note_moved(&mut self, now: Time) {
        let bytes = self.delivered + self.turn.sent.total();
        if bytes != self.moved.0 {
            self.moved = (bytes, now);
        }
    }

    /// Whether the peer has everything.
    #[must_use]
    pub fn is_seed(&self) -> bool {
        self.told && self.have.is_complete()
    }

    /// Whether the peer can be asked for a piece at all.
    #[must_use]
    pub fn can_give(&self, now: Time, piece: u32) -> bool {
        self.have.has(piece) && self.refused.get(&piece).is_none_or(|until| *until <= now)
    }

    /// Whether it has something for us and shows no sign of keeping it.
    #[must_use]
    pub fn may_give(&self, now: Time) -> bool {
        let open = !self.closing && !self.hello.no_upload;
        open && self.useful > 0 && self.busy_until <= now && !self.pipeline.snubbed
    }

    /// Whether a piece that it gives us by its own choice is taken.
    #[must_use]
    pub fn may_send(&self, now: Time, piece: u32) -> bool {
        self.refused.get(&piece).is_none_or(|until| *until <= now)
    }

    /// Notes a cancelled block, which may still arrive; length 0 stands for every block of its piece.
    pub fn expect_cancelled(&mut self, block: Block, why: Cause, blocks: u32) {
        if self.cancelled.len() == CANCELLED_KEPT {
            self.cancelled.pop_front();
        }
        self.cancelled.push_back(Cancelled { block, why, blocks });
    }

    /// A cancelled block has its answer: why it was cancelled. A cancel of a whole piece has none.
    pub fn take_cancelled(&mut self, block: Block) -> Option<Cause> {
        let at = self.cancelled.iter().position(|cancelled| cancelled.block == block)?;
        self.cancelled.remove(at).map(|cancelled| cancelled.why)
    }

    /// The same for one of the blocks of a piece that was cancelled as a whole: each of them comes once at most.
    fn take_of_cancelled_piece(&mut self, piece: u32) -> Option<Cause> {
        let at = self.cancelled.iter().position(|c| c.block.length == 0 && c.block.piece == piece)?;
        let cancelled = self.cancelled.get_mut(at)?;
        cancelled.blocks = cancelled.blocks.saturating_sub(1);
        if cancelled.blocks > 0 {
            Some(cancelled.why)
        } else {
            self.cancelled.remove(at).map(|cancelled| cancelled.why)
        }
    }

    /// A block arrived that is not in the pipeline: why it was cancelled, if it had been asked for once.
    ///
    /// # Errors
    /// When too many came that nobody asked for.
    pub fn unexpected(&mut self, block: Block) -> Result<Option<Cause>, WireError> {
        if let Some(why) = self.take_cancelled(block).or_else(|| self.take_of_cancelled_piece(block.piece)) {
            return Ok(Some(why));
        }
        self.unasked += 1;
        if self.unasked > UNASKED_MAX { Err(WireError::Unexpected("blocks that nobody asked for")) } else { Ok(None) }
    }

    /// Checks ranges of pieces from the wire.
    ///
    /// # Errors
    /// When a range is empty or leaves the content.
    pub fn check_ranges(&self, list: &[(u32, u32)]) -> Result<(), WireError> {
        if ranges::are_within(list, self.have.len()) { Ok(()) } else { Err(WireError::OutOfRange("pieces")) }
    }
}
