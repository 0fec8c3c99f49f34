//! Sockets and threads: everything between the swarm logic and the outside.
//!
//! Reading order: [`listener`] takes connections and tells peers from HTTP clients, [`handshake`] opens them,
//! [`connection`] reads and writes, [`driver`] owns one swarm and does what its logic says, [`disk`] hashes and writes.

pub mod announce;
pub mod buffers;
pub mod connection;
pub mod core;
mod dialer;
pub mod disk;
pub mod driver;
pub mod handshake;
pub mod http_client;
pub mod interfaces;
pub mod limiter;
pub mod listener;
pub mod manifest_fetch;
pub mod manifest_server;
pub mod relays;
pub mod send_file;
pub mod socket;
