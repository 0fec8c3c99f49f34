//! The one port of a process: peers and HTTP clients arrive on it and are told apart by their first byte.

use super::core::Core;
use super::events::Event;
use super::half_open::{HALF_OPEN_MAX, HalfOpen, SPEAKS_WITHIN, Waiting, one_less};
use super::handshake::{self, HANDSHAKE, HandshakeError, Opened};
use super::{manifest_server, socket};
use crate::engine::Listen;
use crate::store::descriptors;
use shoal_protocol::address::{Reach, canonical_addr, customer, reach};
use shoal_protocol::handshake::MAGIC;
use shoal_protocol::message::GoodbyeReason;
use shoal_protocol::{Message, WireError};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// HTTP connections at once. Peers have a budget of their own, so that neither keeps the other out.
const HTTP_MAX: usize = 512;
/// Peers that dialled us at once, over all contents, unless the user wants more for one.
const PEERS_MAX: usize = 200;
/// Places beside [`PEERS_MAX`] for those whose address has fewer than another: of that one the swarm ends a connection, or it
/// is ending one already. A crowd that is told to go, and comes again at once, would else fill all places with connections
/// that are ending.
const PEERS_BESIDE: usize = 64;
/// So many who came in a flood and have yet to speak are kept for a moment: they cost a descriptor, and no task.
const LOBBY_MAX: usize = 256;
/// How long each of them is kept at most.
const LOBBY_STAY: Duration = Duration::from_secs(1);
/// So many are accepted before those who came are looked at.
const AT_ONCE: usize = 16;
/// Connections from one address on the internet; private networks and this host are spared, as many share one there.
const PER_ADDRESS_MAX: usize = 16;
/// Peers among them.
const PEERS_PER_ADDRESS_MAX: usize = 4;

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
    let doors = Arc::new(Doors {
        http: Arc::new(Semaphore::new(HTTP_MAX.min(files / 4))),
        peers: Arc::new(Semaphore::new(PEERS_MAX.max(core.config.max_peers).min(files / 2))),
        beside: Arc::new(Semaphore::new(PEERS_BESIDE.min(files / 8))),
        half_open: HalfOpen::new(HALF_OPEN_MAX.min(files / 8).max(1)),
        per_address: PerAddress::new(PER_ADDRESS_MAX),
        peers_per_address: PerAddress::new(PEERS_PER_ADDRESS_MAX),
    });
    let mut at_once = 0_usize;
    let mut lobby: VecDeque<Guest> = VecDeque::new();
    loop {
        // Who has spoken already is read before more come: else a crowd of honest ones would push out its own.
        at_once = at_once.wrapping_add(1);
        if at_once.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
        let next_look = lobby.front().map(|guest| guest.look_at);
        let accepted = tokio::select! {
            biased;
            () = core.cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
            () = until(next_look) => {
                let silent = lobby.pop_front().and_then(|guest| look_again(&core, &doors, guest));
                let stays = silent.filter(|guest| guest.since.elapsed() < LOBBY_STAY);
                lobby.extend(stays.map(|guest| Guest { look_at: Instant::now() + SPEAKS_WITHIN, ..guest }));
                continue;
            }
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
        let Some(counted) = doors.per_address.count(remote.ip()) else { continue };
        let since = Instant::now();
        let guest = Guest { stream, remote, counted, since, look_at: since + SPEAKS_WITHIN };
        match doors.half_open.enter(guest.since, remote.ip(), || guest.spoke()) {
            Some(waiting) => let_in(&core, &doors, guest, waiting),
            None => lobby.push_back(guest),
        }
        if lobby.len() > LOBBY_MAX.min(files / 16) {
            drop(lobby.pop_front().and_then(|guest| look_again(&core, &doors, guest)));
        }
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
    since: Instant,
    /// Where it is in the lobby: when to see whether it has spoken.
    look_at: Instant,
}

impl Guest {
    fn spoke(&self) -> bool {
        SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|read| read > 0)
    }
}

fn let_in(core: &Arc<Core>, doors: &Arc<Doors>, guest: Guest, waiting: Waiting) {
    let (tasks, core, doors) = (core.tasks.clone(), Arc::clone(core), Arc::clone(doors));
    tasks.spawn(async move {
        let Guest { stream, remote, counted, .. } = guest;
        let cancel = core.cancel.clone();
        let result = cancel.run_until_cancelled(one(&core, &doors, stream, remote, waiting, counted)).await;
        if let Some(Err(error)) = result {
            tracing::debug!(%remote, %error, "an incoming connection came to nothing");
        }
    });
}

/// Who came in a flood is let in if it has spoken meanwhile; gives back who has not.
fn look_again(core: &Arc<Core>, doors: &Arc<Doors>, guest: Guest) -> Option<Guest> {
    if !guest.spoke() {
        return Some(guest);
    }
    if let Some(waiting) = doors.half_open.enter(Instant::now(), guest.remote.ip(), || true) {
        let_in(core, doors, guest, waiting);
    }
    None
}

/// What bounds the connections that others make.
struct Doors {
    http: Arc<Semaphore>,
    peers: Arc<Semaphore>,
    beside: Arc<Semaphore>,
    half_open: HalfOpen,
    per_address: PerAddress,
    peers_per_address: PerAddress,
}

impl Doors {
    /// A place for a peer from this address, if there is one.
    fn place(&self, ip: IpAddr) -> Option<(OwnedSemaphorePermit, Counted)> {
        let counted = self.peers_per_address.count(ip)?;
        let place = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let beside = || if self.peers_per_address.is_largest(ip) { None } else { place(&self.beside) };
        Some((place(&self.peers).or_else(beside)?, counted))
    }
}

/// An incoming peer's place; dropping it makes room for another.
#[derive(Debug)]
pub struct Admission {
    _permit: OwnedSemaphorePermit,
    _counted: [Counted; 2],
}

async fn one(
    core: &Arc<Core>,
    doors: &Doors,
    stream: TcpStream,
    remote: SocketAddr,
    waiting: Waiting,
    counted: Counted,
) -> Result<(), HandshakeError> {
    let local = stream.local_addr()?;
    let opening = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if first[0] != MAGIC[0] {
            // How long its path is isn't known.
            socket::as_system(&stream);
            return Ok(Arrival::Http(stream));
        }
        socket::prepare(&stream);
        handshake::accept(stream).await.map(|opened| Arrival::Peer(Box::new(opened)))
    };
    let arrival = tokio::select! {
        arrival = tokio::time::timeout(HANDSHAKE, opening) => arrival.map_err(|_| HandshakeError::Timeout)??,
        // Newer ones came, and this one has said nothing yet.
        () = waiting.token.cancelled() => return Ok(()),
    };
    drop(waiting);
    match arrival {
        Arrival::Http(stream) => {
            let Ok(_permit) = Arc::clone(&doors.http).try_acquire_owned() else { return Ok(()) };
            core.serve_http(stream, remote, canonical_addr(local)).await;
            Ok(())
        }
        Arrival::Peer(opened) => peer(core, doors, *opened, remote, counted).await,
    }
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
    let Some((permit, as_peer)) = doors.place(remote.ip()) else {
        handshake::refuse(opened.stream, GoodbyeReason::TooManyPeers).await;
        return Ok(());
    };
    opened.admission = Some(Admission { _permit: permit, _counted: [counted, as_peer] });
    let hello = core.hello(opened.hello.swarm, content.origin);
    let hello = Message::Hello(Box::new(hello));
    let sent = tokio::time::timeout(HANDSHAKE, handshake::send(&mut opened.stream, &hello)).await;
    sent.map_err(|_| HandshakeError::Timeout)??;
    if opened.hello.needs_manifest {
        let told = manifest_server::serve(&mut opened, &content.bytes, core.upload_limit()).await?;
        if told.is_none() {
            return Ok(());
        }
        // It has the manifest and says which pieces it has: from here on it is a peer as all others are.
        opened.early = told;
        opened.hello.needs_manifest = false;
    }
    let _ = content.events.tell(Event::Incoming(Box::new(opened), remote));
    Ok(())
}

/// How many connections each address has.
#[derive(Debug, Clone)]
struct PerAddress {
    most: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

#[derive(Debug)]
struct Counted(PerAddress, IpAddr);

impl PerAddress {
    fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    fn count(&self, ip: IpAddr) -> Option<Counted> {
        let spared = matches!(reach(ip), Reach::Loopback | Reach::Private);
        let key = customer(ip);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        if *count >= self.most && !spared {
            return None;
        }
        *count += 1;
        Some(Counted(self.clone(), key))
    }

    /// Whether no address has more.
    fn is_largest(&self, ip: IpAddr) -> bool {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&customer(ip)) >= counts.values().max()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        one_less(&mut self.0.counts.lock().unwrap_or_else(PoisonError::into_inner), self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_on_the_internet_has_few_places_and_private_networks_are_spared() {
        let doors = PerAddress::new(2);
        let far: IpAddr = "8.8.8.8".parse().unwrap();
        let held: Vec<Counted> = (0..2).filter_map(|_| doors.count(far)).collect();
        assert_eq!(held.len(), 2);
        assert!(doors.count(far).is_none());
        assert!(doors.count("8.8.4.4".parse().unwrap()).is_some());
        // An IPv6 host has its whole /64.
        let six: Vec<_> = (1..4).map(|n| doors.count(format!("2600::{n}").parse().unwrap())).collect();
        assert!(six[0].is_some() && six[1].is_some() && six[2].is_none());
        let near: Vec<_> = (0..9).map(|_| doors.count("10.0.0.1".parse().unwrap())).collect();
        assert!(near.iter().all(Option::is_some));
        drop(held);
        assert!(doors.count(far).is_some());
    }

    #[test]
    fn full_places_have_some_beside_them_for_who_is_no_crowd() {
        let doors = Doors {
            http: Arc::new(Semaphore::new(1)),
            peers: Arc::new(Semaphore::new(3)),
            beside: Arc::new(Semaphore::new(2)),
            half_open: HalfOpen::new(1),
            per_address: PerAddress::new(PER_ADDRESS_MAX),
            peers_per_address: PerAddress::new(PEERS_PER_ADDRESS_MAX),
        };
        let [mob, honest]: [IpAddr; 2] = ["10.0.0.66".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        let mut held: Vec<_> = (0..9).filter_map(|_| doors.place(mob)).collect();
        assert_eq!(held.len(), 3, "one crowd gets no place beside");
        held.extend((0..9).filter_map(|_| doors.place(honest)));
        assert_eq!(held.len(), 5, "others do, as long as they are fewer");
        drop(held);
        assert!(doors.peers_per_address.counts.lock().unwrap().is_empty());
    }
}
