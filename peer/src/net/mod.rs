//! Sockets and threads: everything between the swarm logic and the outside.
//!
//! Reading order: [`listener`] takes connections (as far as there are `doors`; those that say nothing: `half_open`, `lobby`) and tells peers from HTTP clients,
//! [`handshake`] opens them, [`connection`] reads and writes, [`driver`] is the lock and the clock of one swarm, [`swarm_io`]
//! does what its logic says, [`disk`] hashes and writes.

pub mod announce;
pub mod buffers;
pub mod connection;
pub mod core;
mod dialer;
pub mod disk;
pub mod doors;
pub mod driver;
pub mod events;
mod half_open;
pub mod handshake;
pub mod http_client;
pub mod interfaces;
pub(crate) mod limited;
pub mod limiter;
mod links;
pub mod listener;
mod lobby;
mod losses;
pub mod manifest_fetch;
pub mod manifest_server;
mod numbers;
mod pace;
mod reader;
pub mod relays;
pub mod send_file;
pub mod socket;
pub mod swarm_io;
