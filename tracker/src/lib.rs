//! Shoal's tracker as a library: who is in which swarm, and the manifests of what they share.
//!
//! Reading order: [`swarm`] with its `lookup` and [`registry`] hold the peers, [`handout`] and [`interval`] are the policy,
//! [`limiter`], `doors` and [`routes`] guard the door; none of these does I/O. [`manifests`] is the interface to stored
//! manifests, [`disk`] the tracker's own. [`Service`] puts them together. `http` speaks HTTP for it, `front` and `quick` do so
//! for ordinary announces, which `answer` writes, `admin` for the operator; `patience` and `payload` bound what slow clients
//! hold. [`server`] owns sockets, [`cli`] is the command with its `signals`, and `ask` what it asks a tracker that runs. A peer
//! embeds [`Service`] on its own port.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod admin;
mod answer;
mod ask;
pub mod cidr;
pub mod cli;
mod client;
pub mod config;
pub mod disk;
mod doors;
mod front;
pub mod handout;
mod http;
pub mod interval;
pub mod limiter;
mod lookup;
pub mod manifests;
mod output;
mod patience;
mod payload;
pub mod process;
mod quick;
pub mod registry;
pub mod routes;
pub mod server;
pub mod service;
mod signals;
pub mod swarm;

pub use disk::{DiskConfig, DiskStore};
pub use manifests::{ManifestSource, Part, Refused};
pub use service::{Service, ServiceConfig, Timeouts};
