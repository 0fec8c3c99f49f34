//! The one port of a process: peers and HTTP clients arrive on it and are told apart by their first byte.

use super::core::Core;
use super::events::Event;
use super::handshake::{self, HANDSHAKE, HandshakeError, Opened};
use super::{manifest_server, socket};
use crate::engine::Listen;
use crate::store::descriptors;
use shoal_protocol::address::{Reach, canonical_addr, customer, reach, subnet};
use shoal_protocol::handshake::MAGIC;
use shoal_protocol::message::GoodbyeReason;
use shoal_protocol::{Message, WireError};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// HTTP connections at once. Peers have a budget of their own, so that neither keeps the other out.
const HTTP_MAX: usize = 512;
/// Peers that dialled us at once, over all contents, unless the user wants more for one.
const PEERS_MAX: usize = 200;
/// Places beside [`PEERS_MAX`] for those whose address has fewer than another: of that one the swarm ends a connection, or it
/// is ending one already. A crowd that is told to go, and comes again at once, would else fill all places with connections
/// that are ending.
const PEERS_BESIDE: usize = 64;
/// Connections that have not said what they want: one more, and the oldest goes of the address that has most of them in the
/// network that has most. Fewer where descriptors are few: who says nothing must not keep out who does, nor our own files
/// from being opened.
const HALF_OPEN_MAX: usize = 64;
/// So many are accepted before those who came are looked at.
const AT_ONCE: usize = 16;
/// Who has had so long to speak goes for who comes now.
const SPEAKS_WITHIN: Duration = Duration::from_millis(20);
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
    loop {
        // Who has spoken already is read before more come: else a crowd of honest ones would push out its own.
        at_once = at_once.wrapping_add(1);
        if at_once.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
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
        let Some(counted) = doors.per_address.count(remote.ip()) else { continue };
        let spoke = || SockRef::from(&stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|read| read > 0);
        let Some(waiting) = doors.half_open.enter(Instant::now(), remote.ip(), spoke) else { continue };
        let (tasks, core, doors) = (core.tasks.clone(), Arc::clone(&core), Arc::clone(&doors));
        tasks.spawn(async move {
            let cancel = core.cancel.clone();
            let result = cancel.run_until_cancelled(one(&core, &doors, stream, remote, waiting, counted)).await;
            if let Some(Err(error)) = result {
                tracing::debug!(%remote, %error, "an incoming connection came to nothing");
            }
        });
    }
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

/// Connections that have not said what they want.
#[derive(Debug, Clone)]
struct HalfOpen {
    most: usize,
    waiting: Arc<Mutex<WaitingList>>,
}

#[derive(Debug, Default)]
struct WaitingList {
    next: u64,
    /// In the order in which they came.
    each: VecDeque<Waiter>,
    /// How many of them each network and each address has: counted as they come and go, as a flood brings 30,000 a second.
    networks: HashMap<[u8; 8], usize>,
    addresses: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    from: IpAddr,
    since: Instant,
    /// What ends it.
    token: CancellationToken,
}

struct Waiting {
    all: HalfOpen,
    number: u64,
    token: CancellationToken,
}

impl HalfOpen {
    fn new(most: usize) -> Self {
        Self { most, waiting: Arc::default() }
    }

    /// A place for who came from there. Where there is no room, one of the largest crowd goes. If that one has had less than
    /// [`SPEAKS_WITHIN`], it is a flood, and who is of a crowd that has more than half of the places and has said nothing so
    /// far isn't let in at all, which costs least. (An honest one has spoken by then: while a flood fills the system's queue
    /// it stands there for longer than its first bytes take.)
    fn enter(&self, now: Instant, from: IpAddr, spoke: impl FnOnce() -> bool) -> Option<Waiting> {
        let token = CancellationToken::new();
        let mut list = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = list.next;
        list.enter(Waiter { number, from, since: now, token: token.clone() });
        if list.each.len() > self.most {
            let last = list.each.len() - 1;
            let is_crowd = list.crowd(last).0.is_some_and(|crowd| 2 * crowd > self.most);
            let leaving = list.leaving();
            let floods = now.saturating_duration_since(list.each[leaving].since) < SPEAKS_WITHIN;
            if floods && is_crowd && !spoke() {
                list.remove(last);
                return None;
            }
            if let Some(waiter) = list.remove(leaving) {
                waiter.token.cancel();
            }
        }
        Some(Waiting { all: self.clone(), number, token })
    }
}

impl WaitingList {
    fn enter(&mut self, waiter: Waiter) {
        self.next += 1;
        *self.networks.entry(subnet(waiter.from)).or_default() += 1;
        *self.addresses.entry(waiter.from).or_default() += 1;
        self.each.push_back(waiter);
    }

    /// How many come from the network and from the address of one.
    fn crowd(&self, at: usize) -> (Option<&usize>, Option<&usize>) {
        let from = self.each[at].from;
        (self.networks.get(&subnet(from)), self.addresses.get(&from))
    }

    /// The oldest of the largest crowd.
    fn leaving(&self) -> usize {
        (0..self.each.len()).min_by_key(|at| Reverse(self.crowd(*at))).unwrap_or(0)
    }

    fn remove(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.each.remove(at)?;
        one_less(&mut self.networks, subnet(waiter.from));
        one_less(&mut self.addresses, waiter.from);
        Some(waiter)
    }
}

fn one_less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut list = self.all.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(at) = list.each.binary_search_by_key(&self.number, |w| w.number) {
            list.remove(at);
        }
    }
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
        let doors = |peers| Doors {
            http: Arc::new(Semaphore::new(1)),
            peers: Arc::new(Semaphore::new(peers)),
            beside: Arc::new(Semaphore::new(2)),
            half_open: HalfOpen::new(1),
            per_address: PerAddress::new(PER_ADDRESS_MAX),
            peers_per_address: PerAddress::new(PEERS_PER_ADDRESS_MAX),
        };
        let [mob, honest]: [IpAddr; 2] = ["10.0.0.66".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        let doors = doors(3);
        let mut held: Vec<_> = (0..9).filter_map(|_| doors.place(mob)).collect();
        assert_eq!(held.len(), 3, "one crowd gets no place beside");
        held.extend((0..9).filter_map(|_| doors.place(honest)));
        assert_eq!(held.len(), 5, "others do, as long as they are fewer");
        drop(held);
        assert!(doors.peers_per_address.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn one_half_open_connection_too_many_costs_the_oldest_of_the_largest_crowd() {
        let all = HalfOpen::new(HALF_OPEN_MAX);
        let gone =
            |held: &[Waiting]| -> Vec<usize> { (0..held.len()).filter(|at| held[*at].token.is_cancelled()).collect() };
        let now = Instant::now();
        let enter = |ip: IpAddr| all.enter(now, ip, || true).unwrap();
        let [honest, mob] = [[9, 9, 9, 9], [11, 0, 0, 0]].map(IpAddr::from);
        let mut held = vec![enter(honest)];
        held.extend((1..HALF_OPEN_MAX).map(|n| enter(IpAddr::from([11, 0, 0, n as u8]))));
        assert!(gone(&held).is_empty());
        for n in 1..1_000 {
            held.push(enter(IpAddr::from([11, 0, 0, ((n - 1) % (HALF_OPEN_MAX - 1) + 1) as u8])));
            assert_eq!(gone(&held), (1..=n).collect::<Vec<_>>());
        }
        // Who is of that crowd and says nothing isn't even let in; others are.
        assert!(all.enter(now, mob, || false).is_none() && gone(&held).len() == 999);
        drop(all.enter(now, IpAddr::from([13, 0, 0, 1]), || false).unwrap());
        assert_eq!(gone(&held).len(), 1_000);
        // Nor is anybody kept out who comes when those who are there have had their time.
        let later = now + SPEAKS_WITHIN;
        let late = [200, 201].map(|n| all.enter(later, IpAddr::from([11, 0, 0, n]), || false).unwrap());
        assert_eq!((gone(&held).len(), gone(&late).len()), (1_001, 0));
        drop(late);
        // Nor does one address of a network cost another one there its place.
        let neighbour = enter(IpAddr::from([11, 0, 0, 77]));
        held.extend((0..HALF_OPEN_MAX).map(|_| enter(mob)));
        assert!(!neighbour.token.is_cancelled() && !held[0].token.is_cancelled());
        drop(neighbour);
        // Where nobody is a crowd it is the oldest.
        let alone = |n: usize| all.enter(now, IpAddr::from([12, 0, n as u8, 1]), || false).unwrap();
        let mut others: Vec<_> = (2..HALF_OPEN_MAX).map(alone).collect();
        assert!(!held[0].token.is_cancelled());
        others.extend((0..2).map(alone));
        assert!(held[0].token.is_cancelled() && gone(&others).is_empty());
        drop((held, others));
        let left = all.waiting.lock().unwrap();
        assert!(left.each.is_empty() && left.networks.is_empty() && left.addresses.is_empty());
    }
}
