//! The one port of a process: peers and HTTP clients arrive on it and are told apart by their first byte.

use super::driver::Event;
use super::handshake::{self, HANDSHAKE};
use super::{manifest_server, socket};
use crate::engine::{Core, Listen};
use shoal_protocol::address::{Reach, canonical_addr, reach};
use shoal_protocol::handshake::MAGIC;
use shoal_protocol::message::GoodbyeReason;
use shoal_protocol::{Message, WireError};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections of all kinds at once.
const CONNECTIONS_MAX: usize = 512;
/// Connections whose handshake isn't done.
const HALF_OPEN_MAX: usize = 64;
/// Connections from one address on the internet; private networks and this host are spared, as many share one there.
const PER_ADDRESS_MAX: usize = 8;

/// Binds the first free port.
///
/// # Errors
/// When none of the range can be had.
pub fn bind(listen: &Listen) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in listen.ports.clone() {
        let attempts = match listen.ip {
            Some(ip) => vec![ip],
            None => vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        };
        for ip in attempts {
            match bind_one(SocketAddr::new(ip, port)) {
                Ok(listener) => return Ok(listener),
                Err(error) => {
                    let taken = error.kind() == io::ErrorKind::AddrInUse;
                    last = error;
                    // A taken port on [::] is taken; no IPv6 at all means trying IPv4.
                    if taken {
                        break;
                    }
                }
            }
        }
    }
    Err(last)
}

fn bind_one(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the engine is shut down.
pub async fn run(core: Arc<Core>, listener: TcpListener) {
    let all = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let half_open = Arc::new(Semaphore::new(HALF_OPEN_MAX));
    let per_address = PerAddress::default();
    loop {
        let accepted = tokio::select! {
            () = core.cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: a pause lets others end, a loop would only burn.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let remote = canonical_addr(remote);
        let Ok(permit) = Arc::clone(&all).try_acquire_owned() else { continue };
        let Some(counted) = per_address.count(remote.ip()) else { continue };
        let (core, half_open) = (Arc::clone(&core), Arc::clone(&half_open));
        tokio::spawn(async move {
            if let Err(error) = one(&core, stream, remote, &half_open).await {
                tracing::debug!(%remote, %error, "an incoming connection came to nothing");
            }
            drop((permit, counted));
        });
    }
}

async fn one(
    core: &Arc<Core>,
    stream: TcpStream,
    remote: SocketAddr,
    half_open: &Semaphore,
) -> Result<(), handshake::HandshakeError> {
    let local = stream.local_addr()?;
    let mut first = [0];
    {
        let _permit = half_open.acquire().await.map_err(io::Error::other)?;
        let peeked = tokio::time::timeout(HANDSHAKE, stream.peek(&mut first)).await;
        if peeked.map_err(|_| handshake::HandshakeError::Timeout)?? == 0 {
            return Ok(());
        }
        if first[0] == MAGIC[0] {
            return peer(core, stream, remote).await;
        }
    }
    core.serve_http(stream, remote, canonical_addr(local)).await;
    Ok(())
}

async fn peer(core: &Arc<Core>, stream: TcpStream, remote: SocketAddr) -> Result<(), handshake::HandshakeError> {
    socket::prepare(&stream);
    let mut opened = handshake::accept(stream).await?;
    let Some(content) = core.content_of(&opened.hello.swarm) else {
        handshake::refuse(opened.stream, GoodbyeReason::UnknownSwarm).await;
        return Err(WireError::Unexpected("a swarm that is not known here").into());
    };
    let hello = core.hello(opened.hello.swarm, content.origin);
    handshake::send(&mut opened.stream, &Message::Hello(Box::new(hello))).await?;
    if opened.hello.needs_manifest {
        let bytes = Arc::clone(&content.bytes);
        tokio::spawn(async move { manifest_server::serve(opened, &bytes).await });
        return Ok(());
    }
    let _ = content.events.send(Event::Incoming(Box::new(opened), remote)).await;
    Ok(())
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct PerAddress(Arc<Mutex<HashMap<[u8; 8], usize>>>);

struct Counted(PerAddress, Option<[u8; 8]>);

impl PerAddress {
    fn count(&self, ip: IpAddr) -> Option<Counted> {
        if matches!(reach(ip), Reach::Loopback | Reach::Private) {
            return Some(Counted(self.clone(), None));
        }
        let key = match ip {
            IpAddr::V4(ip) => {
                let mut key = [0xff; 8];
                key[..4].copy_from_slice(&ip.octets());
                key
            }
            IpAddr::V6(_) => shoal_protocol::address::subnet(ip),
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        if *count >= PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Counted(self.clone(), Some(key)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(key) = self.1 else { return };
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }
}
