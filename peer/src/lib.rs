//! Shoal's peer as a library: the engine that seeds and fetches, the store, and the command line on top of them.

mod aligned;
pub mod cli;
pub mod engine;
pub mod failure;
mod names;
pub mod net;
pub mod store;
pub mod swarm;
