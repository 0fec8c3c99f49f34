//! The operator's port: lists of swarms and peers, counters, health. On loopback by default.
//!
//! Contract: reads only. Addresses of peers are personal data, so a web page must not reach this through a name that it
//! points at loopback: the `Host` header must be this port's own address or a loopback name. Lists are cut at
//! [`ROWS`] rows.

use crate::http::{json, ok, refusal, serve};
use crate::manifests::Refused;
use crate::patience::{Pace, Paced};
use crate::payload::Payload;
use crate::service::{Service, Status};
use hyper::body::{Body as _, Incoming};
use hyper::{Method, Request, Response, header};
use serde::Serialize;
use shoal_protocol::SwarmId;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Most rows in a list.
pub(crate) const ROWS: usize = 10_000;

#[derive(Serialize)]
struct Rows<T> {
    total: usize,
    rows: Vec<T>,
}

impl Service {
    /// Serves one connection of the operator's port.
    pub async fn serve_admin<IO>(&self, io: IO, local: SocketAddr, shutdown: CancellationToken)
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let handle = |request: Request<Incoming>| async move {
            self.admin(&request, local.ip()).unwrap_or_else(|refused| {
                let allow = (refused.status == 405).then_some("GET");
                refusal(&refused, allow)
            })
        };
        let Some(place) = self.inner.admin_doors.enter(IpAddr::from([127, 0, 0, 1])).map(Arc::new) else { return };
        let timeouts = &self.inner.config.timeouts;
        let (pace, answer_step) = (Pace::new(), timeouts.answer_step);
        let io = Paced { ahead: Vec::new(), io, pace, place: Arc::clone(&place), answer_step };
        serve(io, timeouts, &place, shutdown, handle).await;
    }

    fn admin(&self, request: &Request<Incoming>, local: IpAddr) -> Result<Response<Payload>, Refused> {
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        if !host_is_own(host, local) {
            return Err(Refused::new(403, "this port answers only to its own address as Host"));
        }
        if request.method() != Method::GET {
            return Err(Refused::new(405, "this port is for reading"));
        }
        if !request.body().is_end_stream() || request.uri().query().is_some() {
            return Err(Refused::new(400, "no body and no parameters are expected"));
        }
        match request.uri().path() {
            "/healthz" => Ok(ok("text/plain", "ok\n")),
            "/metrics" => Ok(ok("text/plain; version=0.0.4", metrics(&self.status()))),
            "/v1/status" => Ok(json(&self.status())),
            "/v1/swarms" => Ok(json(&Rows { total: self.status().swarms, rows: self.registry().swarms(ROWS) })),
            path => {
                let id = path.strip_prefix("/v1/swarms/").ok_or_else(|| Refused::new(404, "no such path"))?;
                let id: SwarmId = id.parse().map_err(|error| Refused::new(400, format!("in the path: {error}")))?;
                let rows = self.registry().peers(&id, ROWS).ok_or_else(|| Refused::new(404, "no such swarm"))?;
                let counts = self.registry().scrape(&id);
                Ok(json(&Rows { total: (counts.seeds + counts.leechers) as usize, rows }))
            }
        }
    }
}

fn host_is_own(host: &str, local: IpAddr) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.to_canonical() == local.to_canonical(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

fn metrics(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = write!(out, "# HELP shoal_{name} {help}\n# TYPE shoal_{name} {kind}\nshoal_{name} {value}\n");
    };
    line("swarms", "gauge", "Swarms now.", status.swarms as u64);
    line("peers", "gauge", "Peers now, in all swarms.", status.peers as u64);
    line("manifests", "gauge", "Manifests stored.", status.manifests as u64);
    line("requests_total", "counter", "Requests on the main port.", status.requests);
    line("announces_total", "counter", "Announces answered.", status.announces);
    line("peers_handed_out_total", "counter", "Peers in all handouts.", status.peers_handed_out);
    line("refused_total", "counter", "Requests answered with an error.", status.refused);
    line("rate_limited_total", "counter", "Requests that came too fast.", status.rate_limited);
    line("uptime_seconds", "gauge", "Seconds since the start.", status.uptime_s);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_pass() {
        let local = "10.0.0.5".parse().unwrap();
        for good in ["127.0.0.1:7071", "localhost:7071", "[::1]:7071", "10.0.0.5", "LOCALHOST"] {
            assert!(host_is_own(good, local), "{good}");
        }
        for bad in ["", "evil.example:7071", "10.0.0.6:7071", "127.0.0.1.evil.example", "[evil]:1"] {
            assert!(!host_is_own(bad, local), "{bad}");
        }
    }
}
