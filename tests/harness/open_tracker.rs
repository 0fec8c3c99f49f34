//! A tracker's service without sockets that serves every swarm and has no manifest, and repeats itself.

use bytes::Bytes;
use shoal_protocol::{ContentId, Manifest, SwarmId};
use shoal_tracker::{ManifestSource, Part, Service, ServiceConfig};
use std::sync::Arc;

#[derive(Debug)]
struct Open;

impl ManifestSource for Open {
    fn accepts_swarm(&self, _: &SwarmId) -> bool {
        true
    }
    fn manifest(&self, _: &ContentId) -> Option<Arc<Manifest>> {
        None
    }
    fn part(&self, _: &ContentId, _: Part) -> Option<Bytes> {
        None
    }
}

/// Makes one.
#[must_use]
pub fn open_tracker() -> Service {
    Service::new(ServiceConfig { seed: Some(1), ..ServiceConfig::default() }, Arc::new(Open))
}
