//! The connections of one swarm, by the numbers that its logic knows them by.

use super::connection::{self, Link, Shared};
use super::handshake::Opened;
use crate::swarm::ConnId;
use shoal_protocol::message::{Block, GoodbyeReason};
use shoal_protocol::{Message, PeerId};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Those that may be written to.
    open: BTreeMap<ConnId, Link>,
    /// Who is behind each that isn't closed.
    names: BTreeMap<ConnId, PeerId>,
    next: ConnId,
}

impl Links {
    /// Starts one whose hellos are exchanged.
    pub(super) fn start(&mut self, opened: Opened, shared: &Shared, cancel: &CancellationToken) -> ConnId {
        let (conn, peer) = (self.next, opened.hello.peer);
        self.next += 1;
        self.open.insert(conn, connection::start(conn, opened, shared, cancel));
        self.names.insert(conn, peer);
        conn
    }

    pub(super) fn name(&self, conn: ConnId) -> Option<PeerId> {
        self.names.get(&conn).copied()
    }

    /// How many may be written to.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether the last one has ended.
    pub(super) fn are_gone(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn send(&mut self, conn: ConnId, message: Message) {
        if self.open.get(&conn).is_some_and(|link| !link.send(message)) {
            self.fault(conn, "you do not read");
        }
    }

    pub(super) fn send_block(&self, conn: ConnId, block: Block) {
        if let Some(link) = self.open.get(&conn) {
            link.send_block(block);
        }
    }

    /// Ends a connection over what its peer did; the logic hears of it when it is closed.
    pub(super) fn fault(&mut self, conn: ConnId, text: &str) {
        self.end(conn, GoodbyeReason::Protocol, text);
    }

    /// Says goodbye.
    pub(super) fn end(&mut self, conn: ConnId, reason: GoodbyeReason, text: &str) {
        if let Some(link) = self.open.remove(&conn) {
            tracing::debug!(conn, ?reason, text, "closing");
            link.end(Message::Goodbye { reason, text: text.into() });
        }
    }

    /// Says goodbye to all.
    pub(super) fn leave(&mut self) {
        for (_, link) in std::mem::take(&mut self.open) {
            link.end(Message::Goodbye { reason: GoodbyeReason::Leaving, text: String::new() });
        }
    }

    /// One has ended.
    pub(super) fn closed(&mut self, conn: ConnId) {
        self.open.remove(&conn);
        self.names.remove(&conn);
    }
}
