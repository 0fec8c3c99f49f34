//! Sockets.

mod dialer;
pub mod http_client;
