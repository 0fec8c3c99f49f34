//! Sockets: binds them, accepts connections, and ends gracefully.
//!
//! Contract: listeners and the signal to stop are passed in, so that a test can start a whole server. An accept that
//! fails for want of file descriptors is followed by a pause instead of a spin. On shutdown requests at hand are
//! answered for [`GRACE`] at most.

use crate::service::Service;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long requests at hand may take after the signal to stop.
pub const GRACE: Duration = Duration::from_secs(2);
/// Waiting connections that the system holds for us in a flash crowd.
const BACKLOG: i32 = 4_096;
/// Newcomers that are let in before those who are in get their turn.
const NEWCOMERS: usize = 16;
/// Where all places are taken, each newcomer costs another its place: so many may come in, and then there is a pause.
/// Those who are sent away come back at once, and would else keep the processor busy with nothing but that.
const CROWDED_NEWCOMERS: usize = 4;
const CROWDED_PAUSE: Duration = Duration::from_millis(1);
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Manifests end after days, so they are looked at less often than peers.
const MANIFEST_SWEEP_TICKS: u64 = 10;

/// Binds a listener. The IPv6 wildcard takes IPv4 as well, and becomes the IPv4 wildcard on a host without IPv6.
///
/// # Errors
/// When the address can't be bound. Must be called within a tokio runtime.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let open = |addr: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    match open(addr) {
        Err(error) if addr.is_ipv6() && addr.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port())))
        }
        result => result,
    }
}

/// Serves until `shutdown` is cancelled and what was under way is answered.
pub async fn run(listener: TcpListener, admin: Option<TcpListener>, service: Service, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    tasks.spawn(sweep(service.clone(), shutdown.clone()));
    if let Some(admin) = admin {
        let (service, stop) = (service.clone(), shutdown.clone());
        let inner = TaskTracker::new();
        tasks.spawn(async move {
            let tracked = inner.clone();
            accept(
                &admin,
                &stop,
                || false,
                |stream, _, local| {
                    let (service, stop) = (service.clone(), stop.clone());
                    tracked.spawn(async move { service.serve_admin(TokioIo::new(stream), local, stop).await });
                },
            )
            .await;
            drop(admin);
            inner.close();
            inner.wait().await;
        });
    }
    work(listener, &service, &shutdown, &tasks).await;
}

/// Accepts and serves beside [`run`], on a runtime of its own: a thread for each core, without a word between them, takes
/// 13 % less of the processor for an announce (10.7 µs of a core, not 12.4) than one runtime of as many threads, which
/// wake each other.
pub async fn help(listener: TcpListener, service: Service, shutdown: CancellationToken) {
    work(listener, &service, &shutdown, &TaskTracker::new()).await;
}

/// Until `shutdown` is cancelled and all is answered.
async fn work(listener: TcpListener, service: &Service, shutdown: &CancellationToken, tasks: &TaskTracker) {
    let crowded = || service.inner.doors.are_full();
    accept(&listener, shutdown, crowded, |stream, remote, local| {
        let (service, stop) = (service.clone(), shutdown.clone());
        tasks.spawn(async move { service.serve_connection(TokioIo::new(stream), remote, local, stop).await });
    })
    .await;
    drop(listener);
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::info!("some requests were not answered within {} s and are dropped", GRACE.as_secs());
    }
}

async fn accept(
    listener: &TcpListener,
    shutdown: &CancellationToken,
    crowded: impl Fn() -> bool,
    mut serve: impl FnMut(TcpStream, SocketAddr, SocketAddr),
) {
    let mut came = 0_usize;
    loop {
        came += 1;
        if came.is_multiple_of(CROWDED_NEWCOMERS) && crowded() {
            tokio::time::sleep(CROWDED_PAUSE).await;
        } else if came.is_multiple_of(NEWCOMERS) {
            tokio::task::yield_now().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted.and_then(|(stream, remote)| {
            // Answers are small: waiting to fill a packet would only delay them.
            stream.set_nodelay(true)?;
            let local = stream.local_addr()?;
            Ok((stream, remote, local))
        }) {
            Ok((stream, remote, local)) => serve(stream, remote, local),
            Err(error) => {
                if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    continue;
                }
                tracing::warn!(%error, "a connection can't be accepted; is the limit of open files reached?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn sweep(service: Service, shutdown: CancellationToken) {
    let mut ticks = 0_u64;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => return,
        }
        service.sweep(service.now_ms());
        ticks += 1;
        if !ticks.is_multiple_of(MANIFEST_SWEEP_TICKS) {
            continue;
        }
        let manifests = service.inner.manifests.clone();
        let _ = tokio::task::spawn_blocking(move || manifests.sweep()).await;
    }
}
