//! Resolves a name, checks its addresses against what may be dialled, and dials: one step, so that the address that was
//! checked is the one that is used.

use hyper::Uri;
use hyper_util::rt::TokioIo;
use shoal_protocol::address::{Reach, reach};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long dialling may take, over all addresses of a name.
const CONNECT: Duration = Duration::from_secs(10);
/// What one address of several gets at least before the next is tried.
const CONNECT_ONE: Duration = Duration::from_secs(2);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;
/// How near an address may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearest {
    /// The user wrote the URL: anything.
    Anything,
    /// Named by someone in a private network.
    Private,
    /// Named by someone on the internet.
    Global,
}

impl Nearest {
    /// What a host that is so near may point at.
    #[must_use]
    pub fn named_by(source: Reach) -> Self {
        match source {
            Reach::Loopback => Self::Anything,
            Reach::Private => Self::Private,
            Reach::Global | Reach::Never => Self::Global,
        }
    }

    /// What is left of it where who is only so near sends on: never more than before.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Global, _) | (_, Self::Global) => Self::Global,
            (Self::Private, _) | (_, Self::Private) => Self::Private,
            _ => Self::Anything,
        }
    }

    /// Whether an address may be dialled.
    #[must_use]
    pub fn allows(self, ip: IpAddr) -> bool {
        match self {
            Self::Anything => true,
            Self::Private => matches!(reach(ip), Reach::Private | Reach::Global),
            Self::Global => reach(ip) == Reach::Global,
        }
    }
}

/// An address that policy forbids, told from what the system refuses.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Blocked(pub(super) String);

/// Resolves, checks and dials.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) nearest: Nearest,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower_service::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let nearest = self.nearest;
        Box::pin(async move {
            let limit =
                || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", CONNECT.as_secs()));
            let stream = tokio::time::timeout(CONNECT, dial(&uri, nearest)).await.map_err(|_| limit())??;
            Ok(TokioIo::new(stream))
        })
    }
}

async fn dial(uri: &Uri, nearest: Nearest) -> Result<TcpStream, BoxError> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("the name {host} can't be resolved: {error}")))?
        .take(ADDRESSES)
        .collect();
    let addrs: Vec<SocketAddr> = found.iter().copied().filter(|addr| nearest.allows(addr.ip())).collect();
    let Some(last) = addrs.last().copied() else {
        let what = found.first().map_or_else(|| host.to_owned(), |addr| format!("{host} ({})", addr.ip()));
        return Err(Box::new(Blocked(what)));
    };
    let mut error = io::Error::new(io::ErrorKind::NotFound, "no address");
    for addr in addrs {
        // The last one may use all the time that is left.
        let limit = if addr == last { CONNECT } else { CONNECT_ONE };
        match tokio::time::timeout(limit, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(e)) => error = e,
            Err(_) => error = io::Error::new(io::ErrorKind::TimedOut, "no answer to the attempt to connect"),
        }
    }
    Err(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_host_can_not_point_near() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let far = Nearest::named_by(Reach::Global);
        assert!(far.allows(ip("1.1.1.1")) && !far.allows(ip("10.0.0.1")) && !far.allows(ip("127.0.0.1")));
        assert!(!far.allows(ip("169.254.169.254")));
        let near = Nearest::named_by(Reach::Private);
        assert!(near.allows(ip("10.0.0.2")) && !near.allows(ip("::1")));
        assert!(Nearest::Anything.allows(ip("127.0.0.1")));
    }
}
