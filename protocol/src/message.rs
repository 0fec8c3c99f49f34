//! The frames that peers exchange after the greeting.
//!
//! A frame is a body length (u32, little endian, not counting these five bytes), a type byte and the body. A frame of
//! unknown type ends the connection, unless bit 7 of its type is set: then it is skipped. All integers are little
//! endian. The one frame that isn't decoded whole is the block: its payload follows the header and goes straight from
//! the socket into a buffer of the receiver.

use crate::address::canonical;
use crate::announce::zone_is_valid;
use crate::error::WireError;
use crate::id::{Hash, PeerId, SwarmId};
use crate::limits::{
    BITFIELD_BITS, BLOCK_BYTES, CLIENT_BYTES, CV_BATCH, GOODBYE_BYTES, HAVE_RANGES, MANIFEST_BYTES, MANIFEST_PROOF,
    MANIFEST_SEGMENT, PEX_PEERS, QUEUE_DEPTH_MAX, ZONE_BYTES,
};
use crate::manifest::binary::segments;
use crate::path::is_forbidden;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes before a frame's body.
pub const FRAME_HEADER: usize = 5;
/// Bytes of a block frame before its payload, frame header included.
pub const BLOCK_HEADER: usize = FRAME_HEADER + 8;

/// Part of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// Number of the piece.
    pub piece: u32,
    /// Where the block starts in the piece.
    pub offset: u32,
    /// Bytes in the block.
    pub length: u32,
}

/// What a peer says of itself when a connection begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The swarm that the connection is for.
    pub swarm: SwarmId,
    /// The sender's name for this run.
    pub peer: PeerId,
    /// Feature bits, see [`missing_features`](crate::handshake::missing_features).
    pub features: u64,
    /// Port on which the sender can be dialled; 0 if it can't be.
    pub port: u16,
    /// How many requests the sender accepts in its queue from this connection.
    pub queue_depth: u16,
    /// The sender has no manifest yet and asks for it: no bitfields are exchanged before it has one.
    pub needs_manifest: bool,
    /// The sender gives out pieces of its own choice while some are not out yet (see [`Message::RequestAny`]).
    pub spreads: bool,
    /// The sender never sends blocks.
    pub no_upload: bool,
    /// Where the sender is, e.g. `dc1/room2/rack7`; may be empty.
    pub zone: String,
    /// Name and version of the sender's program.
    pub client: String,
}

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// The sender doesn't have that piece (any more).
    NotHad,
    /// Nothing is left to give out by the sender's choice: ask for named pieces.
    NothingToAssign,
    /// The sender's queue is full, or the request went past the advertised depth.
    QueueFull,
    /// The requester cancelled it.
    Cancelled,
    /// The sender doesn't upload.
    NoUpload,
    /// The sender could not read it just now.
    Failed,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoodbyeReason {
    /// The process ends, as its user wished.
    Leaving,
    /// Both sides have everything.
    NothingToDo,
    /// No room for another connection.
    TooManyPeers,
    /// The swarm is not known here.
    UnknownSwarm,
    /// This is a second connection between the same two peers, or to oneself.
    Duplicate,
    /// The receiver broke the protocol.
    Protocol,
    /// The receiver sent a piece that failed verification.
    BadPiece,
    /// The receiver is barred for now.
    Barred,
    /// Nothing came for too long.
    Idle,
    /// Something went wrong on the sender's machine.
    Trouble,
}

macro_rules! coded {
    ($name:ident { $($variant:ident = $code:literal),* $(,)? }) => {
        impl $name {
            fn code(self) -> u8 {
                match self { $(Self::$variant => $code),* }
            }
            fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}
coded!(RejectReason { NotHad = 0, NothingToAssign = 1, QueueFull = 2, Cancelled = 3, NoUpload = 4, Failed = 5 });
coded!(GoodbyeReason {
    Leaving = 0, NothingToDo = 1, TooManyPeers = 2, UnknownSwarm = 3, Duplicate = 4, Protocol = 5, BadPiece = 6,
    Barred = 7, Idle = 8, Trouble = 9,
});

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First frame in each direction.
    Hello(Box<Hello>),
    /// Nothing; says that the sender is alive.
    KeepAlive,
    /// Part of the sender's bitfield: pieces `first..first + count`, `count` bits, spare bits zero.
    Bitfield {
        /// First piece that the bits speak of.
        first: u32,
        /// How many pieces they speak of.
        count: u32,
        /// The bits.
        bits: Bytes,
    },
    /// The sender has every piece.
    HaveAll,
    /// The sender has no piece.
    HaveNone,
    /// The sender has these pieces now, as (first, count).
    Have(Vec<(u32, u32)>),
    /// The sender no longer has these pieces.
    Unhave(Vec<(u32, u32)>),
    /// Please send this block.
    Request(Block),
    /// Please send any one piece of your choice that is not out yet. Answered by [`Message::Assign`] and all blocks of
    /// that piece, or by a reject.
    RequestAny,
    /// All blocks of this piece follow in order; it answers one [`Message::RequestAny`].
    Assign {
        /// The piece.
        piece: u32,
    },
    /// Header of a block; `length` bytes of payload follow the header on the wire.
    Block(Block),
    /// The block is no longer wanted. A length of 0 with offset 0 means: all blocks of the piece.
    Cancel(Block),
    /// The block won't come. Piece `u32::MAX` answers a [`Message::RequestAny`].
    Reject {
        /// What was asked for.
        block: Block,
        /// Why it won't come.
        reason: RejectReason,
    },
    /// The block won't come from here now: these peers have it.
    Busy {
        /// What was asked for.
        block: Block,
        /// Who has it.
        peers: Vec<SocketAddr>,
    },
    /// Please send the CVs of the large-file pieces among `first..first + count`.
    CvRequest {
        /// First piece.
        first: u32,
        /// How many pieces, large or not.
        count: u32,
    },
    /// The CVs of a range, with proofs; empty hashes where CVs were due means: not to be had here.
    Cvs {
        /// First piece.
        first: u32,
        /// How many pieces.
        count: u32,
        /// One batch for each large file in the range (see [`tree`](crate::tree)).
        hashes: Vec<Hash>,
    },
    /// Please send this segment of the canonical binary manifest.
    ManifestRequest {
        /// Number of the segment of [`MANIFEST_SEGMENT`] bytes.
        segment: u32,
    },
    /// A segment of the manifest with its proof.
    ManifestSegment {
        /// Length of the whole canonical binary manifest; 0 if the sender has none, and then nothing else is sent.
        total: u32,
        /// Number of the segment.
        segment: u32,
        /// Sibling CVs in tree order.
        proof: Vec<Hash>,
        /// The bytes.
        data: Bytes,
    },
    /// Peers of this swarm that the sender is connected to, or no longer.
    Pex {
        /// Newly connected.
        added: Vec<PexPeer>,
        /// No longer connected.
        dropped: Vec<SocketAddr>,
    },
    /// How long does a frame take there and back? Answered at once with a [`Message::Pong`].
    Ping {
        /// Comes back.
        token: u32,
    },
    /// The answer to a [`Message::Ping`].
    Pong {
        /// What the ping said.
        token: u32,
    },
    /// The sender is about to close the connection.
    Goodbye {
        /// Why.
        reason: GoodbyeReason,
        /// For people; may be empty.
        text: String,
    },
}

/// A peer as told by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PexPeer {
    /// Where it can be dialled.
    pub addr: SocketAddr,
    /// Whether it had everything when last heard of.
    pub seed: bool,
}

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const KEEP_ALIVE: u8 = 0x02;
    pub(super) const BITFIELD: u8 = 0x03;
    pub(super) const HAVE_ALL: u8 = 0x04;
    pub(super) const HAVE_NONE: u8 = 0x05;
    pub(super) const HAVE: u8 = 0x06;
    pub(super) const UNHAVE: u8 = 0x07;
    pub(super) const REQUEST: u8 = 0x08;
    pub(super) const REQUEST_ANY: u8 = 0x09;
    pub(super) const ASSIGN: u8 = 0x0a;
    pub(super) const BLOCK: u8 = 0x0b;
    pub(super) const CANCEL: u8 = 0x0c;
    pub(super) const REJECT: u8 = 0x0d;
    pub(super) const BUSY: u8 = 0x0e;
    pub(super) const CV_REQUEST: u8 = 0x0f;
    pub(super) const CVS: u8 = 0x10;
    pub(super) const MANIFEST_REQUEST: u8 = 0x11;
    pub(super) const MANIFEST_SEGMENT: u8 = 0x12;
    pub(super) const PEX: u8 = 0x13;
    pub(super) const GOODBYE: u8 = 0x14;
    pub(super) const PING: u8 = 0x15;
    pub(super) const PONG: u8 = 0x16;
}
/// Bit of the type byte that lets a receiver skip a frame that it doesn't know.
pub const SKIPPABLE: u8 = 0x80;
/// The type byte of a block frame.
pub const BLOCK_KIND: u8 = kind::BLOCK;

/// The longest body that a frame type may have; `None` if the type is unknown.
#[must_use]
pub fn longest_body(kind: u8) -> Option<usize> {
    Some(match kind {
        kind::HELLO => 32 + 16 + 8 + 2 + 2 + 1 + 1 + ZONE_BYTES + 1 + CLIENT_BYTES,
        kind::KEEP_ALIVE | kind::HAVE_ALL | kind::HAVE_NONE | kind::REQUEST_ANY => 0,
        kind::BITFIELD => 8 + BITFIELD_BITS as usize / 8,
        kind::HAVE | kind::UNHAVE => HAVE_RANGES * 8,
        kind::REQUEST | kind::CANCEL => 12,
        kind::ASSIGN | kind::MANIFEST_REQUEST | kind::PING | kind::PONG => 4,
        kind::BLOCK => 8 + BLOCK_BYTES as usize,
        kind::REJECT => 13,
        kind::BUSY => 13 + PEX_PEERS * 19,
        kind::CV_REQUEST => 8,
        kind::CVS => 8 + 32 * (CV_BATCH as usize + 64),
        kind::MANIFEST_SEGMENT => 9 + 32 * MANIFEST_PROOF + MANIFEST_SEGMENT as usize,
        kind::PEX => 2 + PEX_PEERS * (20 + 19),
        kind::GOODBYE => 2 + GOODBYE_BYTES,
        _ => return None,
    })
}

impl Message {
    /// The type byte.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::KeepAlive => kind::KEEP_ALIVE,
            Self::Bitfield { .. } => kind::BITFIELD,
            Self::HaveAll => kind::HAVE_ALL,
            Self::HaveNone => kind::HAVE_NONE,
            Self::Have(_) => kind::HAVE,
            Self::Unhave(_) => kind::UNHAVE,
            Self::Request(_) => kind::REQUEST,
            Self::RequestAny => kind::REQUEST_ANY,
            Self::Assign { .. } => kind::ASSIGN,
            Self::Block(_) => kind::BLOCK,
            Self::Cancel(_) => kind::CANCEL,
            Self::Reject { .. } => kind::REJECT,
            Self::Busy { .. } => kind::BUSY,
            Self::CvRequest { .. } => kind::CV_REQUEST,
            Self::Cvs { .. } => kind::CVS,
            Self::ManifestRequest { .. } => kind::MANIFEST_REQUEST,
            Self::ManifestSegment { .. } => kind::MANIFEST_SEGMENT,
            Self::Pex { .. } => kind::PEX,
            Self::Goodbye { .. } => kind::GOODBYE,
            Self::Ping { .. } => kind::PING,
            Self::Pong { .. } => kind::PONG,
        }
    }

    /// Appends the frame. Of a block only the header is written; its length counts the payload that must follow.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32_le(0);
        out.put_u8(self.kind());
        let mut payload = 0;
        match self {
            Self::Hello(hello) => {
                out.put_slice(&hello.swarm.0);
                out.put_slice(&hello.peer.0);
                out.put_u64_le(hello.features);
                out.put_u16_le(hello.port);
                out.put_u16_le(hello.queue_depth);
                let flags = [hello.needs_manifest, hello.spreads, hello.no_upload];
                out.put_u8(flags.iter().rev().fold(0, |byte, flag| byte << 1 | u8::from(*flag)));
                put_text(out, &hello.zone, ZONE_BYTES);
                put_text(out, &hello.client, CLIENT_BYTES);
            }
            Self::KeepAlive | Self::HaveAll | Self::HaveNone | Self::RequestAny => {}
            Self::Bitfield { first, count, bits } => {
                out.put_u32_le(*first);
                out.put_u32_le(*count);
                out.put_slice(bits);
            }
            Self::Have(ranges) | Self::Unhave(ranges) => {
                for (first, count) in ranges {
                    out.put_u32_le(*first);
                    out.put_u32_le(*count);
                }
            }
            Self::Request(block) | Self::Cancel(block) => put_block(out, block),
            Self::Assign { piece } => out.put_u32_le(*piece),
            Self::Block(block) => {
                out.put_u32_le(block.piece);
                out.put_u32_le(block.offset);
                payload = block.length as usize;
            }
            Self::Reject { block, reason } => {
                put_block(out, block);
                out.put_u8(reason.code());
            }
            Self::Busy { block, peers } => {
                put_block(out, block);
                put_addrs(out, peers);
            }
            Self::CvRequest { first, count } => {
                out.put_u32_le(*first);
                out.put_u32_le(*count);
            }
            Self::Cvs { first, count, hashes } => {
                out.put_u32_le(*first);
                out.put_u32_le(*count);
                hashes.iter().for_each(|h| out.put_slice(h));
            }
            Self::ManifestRequest { segment } => out.put_u32_le(*segment),
            Self::Ping { token } | Self::Pong { token } => out.put_u32_le(*token),
            Self::ManifestSegment { total, segment, proof, data } => {
                out.put_u32_le(*total);
                out.put_u32_le(*segment);
                out.put_u8(proof.len() as u8);
                proof.iter().for_each(|h| out.put_slice(h));
                out.put_slice(data);
            }
            Self::Pex { added, dropped } => {
                let added = &added[..added.len().min(PEX_PEERS)];
                out.put_u8(added.len() as u8);
                for peer in added {
                    put_addr(out, &peer.addr);
                    out.put_u8(peer.seed.into());
                }
                put_addrs(out, dropped);
            }
            Self::Goodbye { reason, text } => {
                out.put_u8(reason.code());
                put_text(out, text, GOODBYE_BYTES);
            }
        }
        let body = out.len() - start - FRAME_HEADER + payload;
        debug_assert!(Some(body) <= longest_body(self.kind()), "our own frame is too long: {self:?}");
        out[start..start + 4].copy_from_slice(&(body as u32).to_le_bytes());
    }

    /// Reads the body of a frame whose length was checked; for a block that is the first 8 bytes, without its payload.
    pub(crate) fn decode(kind: u8, mut body: Bytes, length: u32) -> Result<Self, WireError> {
        let b = &mut body;
        let message = Self::decode_fields(kind, b, length).ok_or(WireError::Malformed(kind))?;
        if b.has_remaining() { Err(WireError::Malformed(kind)) } else { Ok(message) }
    }

    fn decode_fields(kind: u8, b: &mut Bytes, length: u32) -> Option<Self> {
        Some(match kind {
            kind::HELLO => {
                let swarm = SwarmId(take(b)?);
                let peer = PeerId(take(b)?);
                let features = b.try_get_u64_le().ok()?;
                let port = b.try_get_u16_le().ok()?;
                let queue_depth = b.try_get_u16_le().ok()?;
                let flags = b.try_get_u8().ok()?;
                let zone = take_text(b, ZONE_BYTES).filter(|zone| zone_is_valid(zone))?;
                let client = take_text(b, CLIENT_BYTES)?;
                if flags > 7 || queue_depth > QUEUE_DEPTH_MAX || queue_depth == 0 {
                    return None;
                }
                let flag = |n: u8| flags >> n & 1 == 1;
                let (needs_manifest, spreads, no_upload) = (flag(0), flag(1), flag(2));
                Self::Hello(Box::new(Hello {
                    swarm,
                    peer,
                    features,
                    port,
                    queue_depth,
                    needs_manifest,
                    spreads,
                    no_upload,
                    zone,
                    client,
                }))
            }
            kind::KEEP_ALIVE => Self::KeepAlive,
            kind::HAVE_ALL => Self::HaveAll,
            kind::HAVE_NONE => Self::HaveNone,
            kind::REQUEST_ANY => Self::RequestAny,
            kind::BITFIELD => {
                let (first, count) = take_range(b, BITFIELD_BITS)?;
                if b.len() != (count as usize).div_ceil(8) {
                    return None;
                }
                let bits = b.split_to(b.len());
                let spare = (8 - count % 8) % 8;
                if bits.last().is_some_and(|last| last & ((1 << spare) - 1) as u8 != 0) {
                    return None;
                }
                Self::Bitfield { first, count, bits }
            }
            kind::HAVE => Self::Have(take_ranges(b)?),
            kind::UNHAVE => Self::Unhave(take_ranges(b)?),
            kind::REQUEST => Self::Request(take_block(b).filter(|r| (1..=BLOCK_BYTES).contains(&r.length))?),
            kind::ASSIGN => Self::Assign { piece: b.try_get_u32_le().ok()? },
            kind::BLOCK => {
                let piece = b.try_get_u32_le().ok()?;
                let offset = b.try_get_u32_le().ok()?;
                let length = length.checked_sub(8).filter(|n| *n > 0)?;
                Self::Block(Block { piece, offset, length })
            }
            kind::CANCEL => Self::Cancel(take_block(b)?),
            kind::REJECT => {
                let block = take_block(b)?;
                Self::Reject { block, reason: RejectReason::from_code(b.try_get_u8().ok()?)? }
            }
            kind::BUSY => {
                let block = take_block(b)?;
                let count = usize::from(b.try_get_u8().ok()?);
                if count > PEX_PEERS {
                    return None;
                }
                Self::Busy { block, peers: (0..count).map(|_| take_addr(b)).collect::<Option<_>>()? }
            }
            kind::CV_REQUEST => {
                let (first, count) = take_range(b, CV_BATCH)?;
                Self::CvRequest { first, count }
            }
            kind::CVS => {
                let (first, count) = take_range(b, CV_BATCH)?;
                if !b.len().is_multiple_of(32) {
                    return None;
                }
                let hashes = (0..b.len() / 32).map(|_| take(b)).collect::<Option<_>>()?;
                Self::Cvs { first, count, hashes }
            }
            kind::MANIFEST_REQUEST => Self::ManifestRequest { segment: b.try_get_u32_le().ok()? },
            kind::PING => Self::Ping { token: b.try_get_u32_le().ok()? },
            kind::PONG => Self::Pong { token: b.try_get_u32_le().ok()? },
            kind::MANIFEST_SEGMENT => {
                let total = b.try_get_u32_le().ok()?;
                let segment = b.try_get_u32_le().ok()?;
                let hashes = usize::from(b.try_get_u8().ok()?);
                if hashes > MANIFEST_PROOF || total as usize > MANIFEST_BYTES {
                    return None;
                }
                let proof: Vec<Hash> = (0..hashes).map(|_| take(b)).collect::<Option<_>>()?;
                // Every segment but the last is full, and who has no manifest has nothing to prove.
                let due = match total {
                    0 if proof.is_empty() => 0,
                    0 => return None,
                    _ if segment >= segments(total) => return None,
                    _ => (total - segment * MANIFEST_SEGMENT).min(MANIFEST_SEGMENT),
                };
                if b.len() != due as usize {
                    return None;
                }
                Self::ManifestSegment { total, segment, proof, data: b.split_to(b.len()) }
            }
            kind::PEX => {
                let added = usize::from(b.try_get_u8().ok()?);
                if added > PEX_PEERS {
                    return None;
                }
                let added = (0..added).map(|_| {
                    let addr = take_addr(b)?;
                    let flags = b.try_get_u8().ok().filter(|f| *f < 2)?;
                    Some(PexPeer { addr, seed: flags == 1 })
                });
                let added = added.collect::<Option<_>>()?;
                let dropped = usize::from(b.try_get_u8().ok()?);
                if dropped > PEX_PEERS {
                    return None;
                }
                Self::Pex { added, dropped: (0..dropped).map(|_| take_addr(b)).collect::<Option<_>>()? }
            }
            kind::GOODBYE => {
                let reason = GoodbyeReason::from_code(b.try_get_u8().ok()?)?;
                Self::Goodbye { reason, text: take_text(b, GOODBYE_BYTES)? }
            }
            _ => return None,
        })
    }
}

/// Text with its length in one byte. It is made to fit, not trusted: an explanation may quote what came from a file or
/// from another peer, and the other side ends the connection over a text that is too long or could fool a terminal.
fn put_text(out: &mut BytesMut, text: &str, longest: usize) {
    let at = out.len();
    out.put_u8(0);
    for c in text.chars().map(|c| if is_forbidden(c) { ' ' } else { c }) {
        let length = out.len() - at - 1;
        if length + c.len_utf8() > longest {
            break;
        }
        out.put_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        out[at] = (length + c.len_utf8()) as u8;
    }
}

fn put_block(out: &mut BytesMut, block: &Block) {
    out.put_u32_le(block.piece);
    out.put_u32_le(block.offset);
    out.put_u32_le(block.length);
}

/// At most [`PEX_PEERS`] addresses with their number: what is beyond is a hint that nobody misses.
fn put_addrs(out: &mut BytesMut, addrs: &[SocketAddr]) {
    let addrs = &addrs[..addrs.len().min(PEX_PEERS)];
    out.put_u8(addrs.len() as u8);
    addrs.iter().for_each(|addr| put_addr(out, addr));
}

/// An IPv4 address that a dual-stack socket gave in an IPv6 coat is sent as what it is: an address has one spelling.
fn put_addr(out: &mut BytesMut, addr: &SocketAddr) {
    match canonical(addr.ip()) {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16_le(addr.port());
}

fn take<const N: usize>(b: &mut Bytes) -> Option<[u8; N]> {
    let mut out = [0; N];
    b.try_copy_to_slice(&mut out).ok()?;
    Some(out)
}

fn take_text(b: &mut Bytes, longest: usize) -> Option<String> {
    let length = usize::from(b.try_get_u8().ok()?);
    if length > longest || length > b.len() {
        return None;
    }
    let text = String::from_utf8(b.split_to(length).to_vec()).ok()?;
    if text.chars().any(is_forbidden) { None } else { Some(text) }
}

fn take_block(b: &mut Bytes) -> Option<Block> {
    Some(Block { piece: b.try_get_u32_le().ok()?, offset: b.try_get_u32_le().ok()?, length: b.try_get_u32_le().ok()? })
}

fn take_ranges(b: &mut Bytes) -> Option<Vec<(u32, u32)>> {
    if b.is_empty() || !b.len().is_multiple_of(8) {
        return None;
    }
    (0..b.len() / 8).map(|_| take_range(b, u32::MAX)).collect()
}

/// A range as (first, count): never empty, never past what a piece number can be.
fn take_range(b: &mut Bytes, longest: u32) -> Option<(u32, u32)> {
    let first = b.try_get_u32_le().ok()?;
    let count = b.try_get_u32_le().ok()?;
    first.checked_add(count)?;
    (1..=longest).contains(&count).then_some((first, count))
}

fn take_addr(b: &mut Bytes) -> Option<SocketAddr> {
    let ip = match b.try_get_u8().ok()? {
        4 => IpAddr::V4(Ipv4Addr::from(take::<4>(b)?)),
        6 => IpAddr::V6(Ipv6Addr::from(take::<16>(b)?)),
        _ => return None,
    };
    let addr = SocketAddr::new(ip, b.try_get_u16_le().ok()?);
    Some(addr).filter(|addr| canonical(addr.ip()) == ip)
}
