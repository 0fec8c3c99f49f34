//! What we ask of a TCP socket, and what works without it.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// Below this round trip the system's congestion control is replaced by CUBIC: BBR paces with timers that cost more CPU than
/// a local network saves, and on one host it moved half of what CUBIC did (1.8 against 3.7 GB/s). It is the round trip of a
/// greeting, which takes longer than the network does where many start at once: with 5 ms some connections of a local swarm
/// stayed with BBR, which gets a tenth of its share of a line that it has in common with CUBIC.
///
/// A socket that once had BBR is paced for ever, whatever it has later: 2 GiB took 1.05 instead of 0.76 s. So every socket
/// begins with CUBIC, and those of longer paths get what the system has when that is known.
const LOCAL_RTT: Duration = Duration::from_millis(25);
/// Unsent bytes in the kernel while a connection is slow: the less, the later a cancel or a *have* has to wait.
pub const LOWAT_SLOW: u32 = 16 << 10;
/// From this many bytes per second a connection is fast.
const FAST_BYTES_PER_S: f64 = 30e6;
/// The same while it is fast: a thirtieth to a fifteenth of a second of it, as each time that the kernel has room again
/// costs a wake-up.
const LOWAT_FAST: (u32, u32) = (1 << 20, 16 << 20);

/// How many unsent bytes suit a line of this speed.
#[must_use]
pub fn lowat(bytes_per_s: f64) -> u32 {
    if bytes_per_s < FAST_BYTES_PER_S {
        return LOWAT_SLOW;
    }
    // In steps of two, so that it is set anew only when the speed has really changed.
    ((bytes_per_s / 30.0) as u32).clamp(LOWAT_FAST.0, LOWAT_FAST.1).next_power_of_two()
}

/// Sets up a fresh connection. All of it is optional: where the system refuses, its defaults serve.
pub fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)));
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(60)));
    set_lowat(stream, LOWAT_SLOW);
}

/// What short paths have.
#[cfg(target_os = "linux")]
const LOCAL: &[u8] = b"cubic";
/// The congestion control that sockets of this system begin with.
#[cfg(target_os = "linux")]
static SYSTEMS: OnceLock<Vec<u8>> = OnceLock::new();

/// Has a socket that is not connected, or all that a listener will accept, begin as those of short paths do.
pub fn begin(socket: &SockRef<'_>) {
    #[cfg(target_os = "linux")]
    if let Ok(name) = socket.tcp_congestion() {
        let _ = SYSTEMS.set(name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
        let _ = socket.set_tcp_congestion(LOCAL);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

/// Dials.
///
/// # Errors
/// What the system says.
pub async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    begin(&SockRef::from(&socket));
    let stream = socket.connect(addr).await?;
    prepare(&stream);
    Ok(stream)
}

/// Chooses the congestion control once the round trip is known; whether another may turn out to be better.
pub fn tune(stream: &TcpStream, rtt: Duration) -> bool {
    if rtt >= LOCAL_RTT {
        as_system(stream);
        return false;
    }
    #[cfg(target_os = "linux")]
    return SYSTEMS.get().is_some_and(|name| name != LOCAL);
    #[cfg(not(target_os = "linux"))]
    false
}

/// Gives a socket the congestion control that the system would have given it.
pub fn as_system(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    if let Some(name) = SYSTEMS.get() {
        let _ = SockRef::from(stream).set_tcp_congestion(name);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// How many unsent bytes the kernel takes before it reports the socket as full.
pub fn set_lowat(stream: &TcpStream, bytes: u32) {
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(bytes);
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, bytes);
}

#[cfg(test)]
mod unsent {
    use super::*;

    #[test]
    fn unsent_bytes_are_few_on_slow_lines_and_no_more_than_a_fifteenth_of_a_second_on_fast_ones() {
        assert_eq!([0.0, 29e6].map(lowat), [LOWAT_SLOW; 2]);
        assert_eq!([30e6, 100e6, 250e6, 1e12].map(lowat), [1 << 20, 4 << 20, 8 << 20, 16 << 20]);
        for speed in (30..20_000).map(|mb| f64::from(mb) * 1e6) {
            assert!(f64::from(lowat(speed)) <= (speed / 15.0).max(f64::from(LOWAT_FAST.0)), "{speed}");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::engine::Listen;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn both_ends_begin_with_cubic_and_a_long_path_gets_what_the_system_has() {
        let systems = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        let control = |socket: &SockRef<'_>| {
            let name = socket.tcp_congestion().unwrap();
            String::from_utf8(name).unwrap().trim_end_matches('\0').to_owned()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = Listen { ip: Some([127, 0, 0, 1].into()), ports: 0..=0 };
        let ours = super::super::listener::bind(&listen).unwrap();
        let dialled = connect(ours.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = ours.accept().await.unwrap();
        assert_eq!([&dialled, &accepted].map(|end| control(&SockRef::from(end))), ["cubic", "cubic"]);
        // CUBIC is what most systems have; a third one tells apart what was set from what was there.
        let set = |socket: &SockRef<'_>| socket.set_tcp_congestion(b"reno").unwrap();
        set(&SockRef::from(&listener));
        begin(&SockRef::from(&listener));
        let _dialled = connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert_eq!(control(&SockRef::from(&accepted)), "cubic", "from its listener");
        set(&SockRef::from(&accepted));
        assert_eq!(tune(&accepted, LOCAL_RTT / 2), systems.trim() != "cubic");
        assert_eq!(control(&SockRef::from(&accepted)), "reno", "a short path keeps what it has");
        assert!(!tune(&accepted, LOCAL_RTT));
        assert_eq!(control(&SockRef::from(&accepted)), systems.trim());
    }
}
