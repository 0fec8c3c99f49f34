//! What Shoal's peers and trackers say to each other.
//!
//! This crate holds the words and the rules of the wire and nothing else: ids, manifests, geometry, hash trees,
//! bitfields, frames and their codec, announce types, limits, and errors sorted by who is to blame. It does no I/O,
//! reads no clock and draws no random numbers, so the same code runs in the binaries, in the simulator and in a fuzzer.
//!
//! `WIRE.md` beside this crate, here as [`wire`], describes the same things for someone who writes a peer in another
//! language.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod address;
pub mod announce;
pub mod bitfield;
pub mod codec;
pub mod error;
pub mod geometry;
pub mod handshake;
pub mod id;
pub mod limits;
pub mod link;
pub mod manifest;
pub mod message;
pub mod path;
pub mod prng;
pub mod ranges;
pub mod tree;
pub mod units;
#[doc = include_str!("../WIRE.md")]
pub mod wire {}

pub use announce::{Announce, Event, Handout, Scrape};
pub use bitfield::Bitfield;
pub use error::{Blame, ManifestError, WireError};
pub use geometry::{Geometry, Piece};
pub use id::{ContentId, Hash, PeerId, SwarmId};
pub use manifest::{Entry, Hints, Kind, Manifest};
pub use message::Message;
