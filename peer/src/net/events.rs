//! What happens to a swarm, and where it is told.

use super::announce::AnnounceError;
use super::buffers::Buffer;
use super::driver::Driver;
use super::handshake::{HandshakeError, Opened};
use crate::failure::Failure;
use crate::store::ReadError;
use crate::swarm::{ConnId, Input, TrackerId};
use shoal_protocol::announce::{Handout, StopReason};
use shoal_protocol::message::Block;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Weak;
use tokio::sync::oneshot;

/// Where the events of one swarm are told. It doesn't keep the swarm alive.
#[derive(Debug, Clone)]
pub struct Events(pub(super) Weak<Driver>);

/// The swarm has ended: nobody needs to know.
#[derive(Debug)]
pub struct Gone;

impl Events {
    /// Tells an event. The swarm's logic runs here and now, on the thread that tells.
    ///
    /// # Errors
    /// When the swarm has ended.
    pub fn tell(&self, event: Event) -> Result<(), Gone> {
        self.0.upgrade().ok_or(Gone)?.tell(event);
        Ok(())
    }

    /// Does what a panic in the logic would do.
    #[cfg(test)]
    pub(crate) fn panic_inside(&self) {
        self.0.upgrade().unwrap().panic_inside();
    }
}

/// What happens to a swarm.
#[derive(Debug)]
pub enum Event {
    /// Somebody dialled us and named this swarm.
    Incoming(Box<Opened>, SocketAddr),
    /// A dial of ours led to a connection, or didn't.
    Dialled(SocketAddr, Result<Box<Opened>, HandshakeError>),
    /// What the logic should know as it is.
    Input(Input),
    /// A whole block.
    Block {
        /// From whom.
        conn: ConnId,
        /// Which.
        block: Block,
        /// Its bytes.
        buffer: Buffer,
        /// All of it lay in the socket before it was read.
        was_there: bool,
    },
    /// A block can't be read.
    Unreadable {
        /// For whom.
        conn: ConnId,
        /// Which.
        block: Block,
        /// Why.
        error: ReadError,
    },
    /// A peer sent what isn't the protocol; its connection waits for a farewell.
    Broke {
        /// Which.
        conn: ConnId,
        /// What is wrong.
        text: String,
    },
    /// A connection ended.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// The disk doesn't do what it should.
    DiskFailed {
        /// Why.
        error: std::io::Error,
    },
    /// A tracker answered, or didn't.
    Announced(TrackerId, Result<(IpAddr, Handout), AnnounceError>),
    /// The content is under its final name, or can't be brought there.
    Finished(Result<PathBuf, Failure>),
    /// Stop, and say when done.
    Stop(StopReason, oneshot::Sender<()>),
}
