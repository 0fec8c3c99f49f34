//! Every bound of the wire and of the manifest, each with its reason.
//!
//! A length that comes from outside is compared with one of these before any memory is reserved for it.

/// Longest manifest in bytes, JSON or binary: a million files with long paths stay below it.
pub const MANIFEST_BYTES: usize = 256 << 20;
/// Most entries in a manifest: more would need gigabytes of memory for metadata alone.
pub const ENTRIES: usize = 1_000_000;
/// Most pieces of one content: bitfields stay at 512 KiB and CV lists at 128 MiB.
pub const PIECES: u64 = 4_194_304;
/// Smallest piece size: below it requests and *have* messages outweigh what they move.
pub const PIECE_SIZE_MIN: u32 = 64 << 10;
/// Largest piece size that the automatic rule picks: a piece can't be forwarded before it is whole.
pub const PIECE_SIZE_AUTO_MAX: u32 = 4 << 20;
/// Largest piece size by hand.
pub const PIECE_SIZE_MAX: u32 = 16 << 20;
/// The automatic rule aims at about this many pieces: `log2(peers) / pieces` of the time goes into filling the pipeline.
pub const PIECES_AIM: u64 = 2_048;
/// Most files in one pack: bounds what verifying one piece costs in file creations.
pub const PACK_MEMBERS: usize = 1_024;
/// Longest path component in bytes: the limit of every common filesystem.
pub const COMPONENT_BYTES: usize = 255;
/// Longest path in bytes: leaves room for the target's own path below the 4,096 of Linux.
pub const PATH_BYTES: usize = 1_024;
/// Deepest path in components: recursion on the receiver's side stays harmless.
pub const PATH_DEPTH: usize = 64;
/// Most trackers, and most web seeds, in the hints.
pub const HINT_URLS: usize = 16;
/// Longest URL anywhere.
pub const URL_BYTES: usize = 2_048;
/// Largest block: the unit of request. Small enough that cancels, turns and memory stay fine-grained, large enough that
/// the 13 bytes of header vanish.
pub const BLOCK_BYTES: u32 = 256 << 10;
/// Longest body of a frame other than a block.
pub const CONTROL_BYTES: usize = 64 << 10;
/// Bits in one bitfield frame: 32 KiB of bits.
pub const BITFIELD_BITS: u32 = 262_144;
/// Ranges in one *have* frame.
pub const HAVE_RANGES: usize = 4_096;
/// Pieces whose CVs one frame may ask for. With two proofs of 22 hashes the answer is 34 KiB.
pub const CV_BATCH: u32 = 1_024;
/// Bytes of manifest in one frame.
pub const MANIFEST_SEGMENT: u32 = 32 << 10;
/// Hashes in the proof of one segment: the depth of the tree above the 8,192 segments of the longest manifest.
pub const MANIFEST_PROOF: usize = 13;
/// Most requests a peer may accept in its queue; a peer advertises its own depth up to this.
pub const QUEUE_DEPTH_MAX: u16 = 1_024;
/// Addresses in one PEX or busy frame.
pub const PEX_PEERS: usize = 50;
/// Longest zone label, e.g. `dc1/room2/rack7`.
pub const ZONE_BYTES: usize = 128;
/// Longest client name in the handshake.
pub const CLIENT_BYTES: usize = 64;
/// Longest explanation in a goodbye frame: what one byte of length can say.
pub const GOODBYE_BYTES: usize = 255;
/// Longest host label in an announce.
pub const LABEL_BYTES: usize = 64;
/// Candidate addresses of one peer in an announce.
pub const CANDIDATES: usize = 4;
/// Lowest port that is ever dialled: below are services that must not be touched on a stranger's word.
pub const PORT_MIN: u16 = 1_024;
/// Longest body of an announce.
pub const ANNOUNCE_BYTES: usize = 16 << 10;
/// Longest answer of a tracker that a peer reads.
pub const HANDOUT_BYTES: usize = 1 << 20;
/// Most peers in one handout, whatever was asked for.
pub const HANDOUT_PEERS: usize = 100;
/// Most ids in one scrape.
pub const SCRAPE_IDS: usize = 50;
/// Shortest and longest interval in seconds that a peer accepts from a tracker.
pub const INTERVAL_S: std::ops::RangeInclusive<u32> = 1..=3_600;
