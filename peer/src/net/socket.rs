//! What we ask of a TCP socket, and what works without it.

use socket2::{SockRef, TcpKeepalive};
use std::time::Duration;
use tokio::net::TcpStream;

/// Below this round trip the default congestion control is replaced: BBR paces with timers that cost more CPU than a
/// local network saves, and on one host it moved half of what CUBIC did (1.8 against 3.7 GB/s). It is the round trip of a
/// greeting, which takes longer than the network does where many start at once: with 5 ms some connections of a local swarm
/// stayed with BBR, which gets a tenth of its share of a line that it has in common with CUBIC.
const LOCAL_RTT: Duration = Duration::from_millis(25);
/// Unsent bytes in the kernel while a connection is slow: the less, the later a cancel or a *have* has to wait.
pub const LOWAT_SLOW: u32 = 16 << 10;
/// The same while it is fast: fewer wake-ups.
pub const LOWAT_FAST: u32 = 1 << 20;
/// From this many bytes per second a connection is fast.
pub const FAST_BYTES_PER_S: f64 = 30e6;

/// Sets up a fresh connection. All of it is optional: where the system refuses, its defaults serve.
pub fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)));
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(60)));
    set_lowat(stream, LOWAT_SLOW);
}

/// Chooses the congestion control once the round trip is known.
pub fn tune(stream: &TcpStream, rtt: Duration) {
    #[cfg(target_os = "linux")]
    if rtt < LOCAL_RTT {
        let _ = SockRef::from(stream).set_tcp_congestion(b"cubic");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, rtt, LOCAL_RTT);
}

/// How many unsent bytes the kernel takes before it reports the socket as full.
pub fn set_lowat(stream: &TcpStream, bytes: u32) {
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(bytes);
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, bytes);
}
