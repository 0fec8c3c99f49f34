//! The one port of a process: peers and HTTP clients arrive on it and are told apart by their first byte.

use super::core::Core;
use super::doors::{Counted, Doors};
use super::events::Event;
use super::half_open::{HALF_OPEN_MAX, Waiting};
use super::handshake::{self, HANDSHAKE, HandshakeError, Opened};
use super::lobby::{LOBBY_MAX, Lobby};
use super::{manifest_server, socket};
use crate::engine::Listen;
use crate::store::descriptors;
use shoal_protocol::address::canonical_addr;
use shoal_protocol::handshake::MAGIC;
use shoal_protocol::message::GoodbyeReason;
use shoal_protocol::{Message, WireError};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// So many are accepted before those who came are looked at.
const AT_ONCE: usize = 16;

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
    socket::begin(&SockRef::from(&socket));
    socket.bind(&addr.into())?;
    // As many as systems mostly allow: where thousands come at once, who is honest must not lose its first packet.
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the engine is shut down.
pub async fn run(core: Arc<Core>, listener: TcpListener) {
    let files = usize::try_from(descriptors()).unwrap_or(usize::MAX);
    let (back, mut came_back) = mpsc::channel(HALF_OPEN_MAX);
    let entrance = Entrance { doors: Arc::new(Doors::new(core.config.max_peers, files)), core, back };
    let mut lobby = Lobby::new(LOBBY_MAX.min(files / 16));
    let mut at_once = 0_usize;
    loop {
        // Who has spoken already is read before more come: else a crowd of honest ones would push out its own.
        at_once = at_once.wrapping_add(1);
        if at_once.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
        let waits = tokio::select! {
            biased;
            () = entrance.core.cancel.cancelled() => return,
            Some(guest) = came_back.recv() => Some(guest),
            () = until(lobby.next_look()) => lobby.due(Instant::now()).and_then(|guest| entrance.look_again(guest)),
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    entrance.welcome(stream, canonical_addr(remote)).and_then(|guest| entrance.let_in(guest))
                }
                Err(error) => {
                    // Out of descriptors, most likely: a pause lets others end, a loop would only burn.
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    None
                }
            },
        };
        let Some(guest) = waits else { continue };
        let first = lobby.enter(Instant::now(), guest.accepted, guest);
        // Its time is over, unless it has spoken and there is a place.
        drop(first.and_then(|guest| entrance.look_again(guest)));
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Somebody who was accepted.
struct Guest {
    stream: TcpStream,
    remote: SocketAddr,
    counted: Counted,
    accepted: Instant,
}

impl Guest {
    fn spoke(&self) -> bool {
        SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|read| read > 0)
    }

    async fn first_byte(&self) -> io::Result<u8> {
        let mut first = [0];
        if self.stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(first[0])
    }
}

/// What newcomers are let in by.
struct Entrance {
    core: Arc<Core>,
    doors: Arc<Doors>,
    /// Those who lose a place before they spoke.
    back: mpsc::Sender<Guest>,
}

impl Entrance {
    fn welcome(&self, stream: TcpStream, remote: SocketAddr) -> Option<Guest> {
        Some(Guest { counted: self.doors.count(remote.ip())?, stream, remote, accepted: Instant::now() })
    }

    /// Lets in who waited and has spoken; gives back who has to wait on.
    fn look_again(&self, guest: Guest) -> Option<Guest> {
        if guest.spoke() { self.let_in(guest) } else { Some(guest) }
    }

    /// Gives back who has to wait.
    fn let_in(&self, guest: Guest) -> Option<Guest> {
        let Some(place) = self.doors.half_open.enter(Instant::now(), guest.remote.ip(), || guest.spoke()) else {
            return Some(guest);
        };
        let (core, doors, back) = (Arc::clone(&self.core), Arc::clone(&self.doors), self.back.clone());
        self.core.tasks.spawn(async move {
            let (remote, cancel) = (guest.remote, core.cancel.clone());
            let result = cancel.run_until_cancelled(one(&core, &doors, guest, place, back)).await;
            if let Some(Err(error)) = result {
                tracing::debug!(%remote, %error, "an incoming connection came to nothing");
            }
        });
        None
    }
}

async fn one(
    core: &Arc<Core>,
    doors: &Doors,
    guest: Guest,
    place: Waiting,
    back: mpsc::Sender<Guest>,
) -> Result<(), HandshakeError> {
    let local = guest.stream.local_addr()?;
    let first = tokio::select! {
        biased;
        () = place.token.cancelled() => {
            // Where so many come back it is one of those that say nothing.
            let _ = back.try_send(guest);
            return Ok(());
        }
        first = tokio::time::timeout(HANDSHAKE, guest.first_byte()) => first.map_err(|_| HandshakeError::Timeout)??,
    };
    place.spoke();
    let Guest { stream, remote, counted, .. } = guest;
    let opening = async {
        if first != MAGIC[0] {
            // How long its path is isn't known.
            socket::as_system(&stream);
            return Ok(Arrival::Http(stream));
        }
        socket::prepare(&stream);
        handshake::accept(stream).await.map(|opened| Arrival::Peer(Box::new(opened)))
    };
    let arrival = tokio::select! {
        arrival = opening => arrival?,
        // It had its time, and newer ones came.
        () = place.token.cancelled() => return Ok(()),
    };
    drop(place);
    match arrival {
        Arrival::Http(stream) => {
            core.serve_http(stream, remote, canonical_addr(local)).await;
            Ok(())
        }
        Arrival::Peer(opened) => peer(core, doors, *opened, remote, counted).await,
    }
}

async fn refuse(opened: Opened) -> Result<(), HandshakeError> {
    handshake::refuse(opened.stream, GoodbyeReason::TooManyPeers).await;
    Ok(())
}

enum Arrival {
    Http(TcpStream),
    Peer(Box<Opened>),
}

async fn peer(
    core: &Arc<Core>,
    doors: &Doors,
    mut opened: Opened,
    remote: SocketAddr,
    counted: Counted,
) -> Result<(), HandshakeError> {
    let Some(content) = core.content_of(&opened.hello.swarm) else {
        handshake::refuse(opened.stream, GoodbyeReason::UnknownSwarm).await;
        return Err(WireError::Unexpected("a swarm that is not known here").into());
    };
    let hello = Message::Hello(Box::new(core.hello(opened.hello.swarm, content.origin)));
    let answer = async |opened: &mut Opened| {
        let sent = tokio::time::timeout(HANDSHAKE, handshake::send(&mut opened.stream, &hello)).await;
        sent.map_err(|_| HandshakeError::Timeout)?.map_err(HandshakeError::from)
    };
    if opened.hello.needs_manifest {
        let Some((place, _newcomer)) = doors.newcomer(remote.ip()) else { return refuse(opened).await };
        answer(&mut opened).await?;
        let told = tokio::select! {
            told = manifest_server::serve(&mut opened, &content.bytes, core.upload_limit(), || place.renew(Instant::now())) => told?,
            // It was in the middle of it, perhaps: no word would be understood.
            () = place.token.cancelled() => return Ok(()),
        };
        if told.is_none() {
            return Ok(());
        }
        // It has the manifest and says which pieces it has: from here on it is a peer as all others are.
        opened.early = told;
        opened.hello.needs_manifest = false;
        opened.admission = doors.peer(remote.ip(), counted);
    } else {
        opened.admission = doors.peer(remote.ip(), counted);
        if opened.admission.is_some() {
            answer(&mut opened).await?;
        }
    }
    if opened.admission.is_none() {
        return refuse(opened).await;
    }
    let _ = content.events.tell(Event::Incoming(Box::new(opened), remote));
    Ok(())
}
