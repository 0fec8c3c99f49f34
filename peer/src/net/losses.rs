//! What the system knows of the packets that a connection lost: whether its line drops them, or is only full.
//!
//! Short paths have CUBIC ([`socket`](super::socket)), which takes each loss for a full line: with 5 of 100 packets lost a
//! transfer took 2.0 to 2.9 times as long as with BBR. On a full line packets wait before they are lost, and there CUBIC has its
//! share beside others. So a connection that sends much again, though its round trip is hardly longer than it ever was,
//! gets the congestion control that the system would have given it.
//!
//! Asked over netlink (`sock_diag(7)`), in bytes as the kernel lays them out, as no `getsockopt` for it is to be had without
//! `unsafe`: one request and one answer, 4 µs for one connection. Where that can't be asked, nothing is known, and nothing changes.

use tokio::net::TcpStream;

/// Fewer packets say little.
const SENT_MIN: u32 = 100;
/// So many of a hundred sent again are a bad line.
const AGAIN_PERCENT: u32 = 3;
/// A round trip that is longer than the shortest by more than this is that of a full line. A burst of ten packets takes 6 ms
/// at 20 Mbit/s, and the queues before lines hold more than 20 ms of them, mostly.
const WAITS_US: u32 = 15_000;

/// What a connection sent since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Packets with payload.
    packets: u32,
    /// How many of them were sent again.
    again: u32,
    /// The round trip of late, and the shortest, in microseconds.
    rtt_us: u32,
    least_rtt_us: u32,
}

impl Sent {
    /// Whether the line drops packets though it isn't full, by what was sent since `before`.
    #[must_use]
    pub(super) fn shows_a_bad_line(&self, before: &Self) -> Option<bool> {
        let (packets, again) = (self.packets.wrapping_sub(before.packets), self.again.wrapping_sub(before.again));
        let is_empty = self.rtt_us.saturating_sub(self.least_rtt_us) <= WAITS_US;
        (packets >= SENT_MIN)
            .then(|| is_empty && u64::from(again) * 100 >= u64::from(packets) * u64::from(AGAIN_PERCENT))
    }
}

/// What this connection sent, if the system says so.
#[must_use]
pub(super) fn sent(stream: &TcpStream) -> Option<Sent> {
    platform::sent(stream)
}

#[cfg(target_os = "linux")]
mod platform {
    use super::Sent;
    use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    use rustix::net::{connect, recv, send, socket_with, sockopt::socket_cookie};
    use std::net::IpAddr;
    use std::os::fd::OwnedFd;
    use std::sync::{Mutex, OnceLock, PoisonError};
    use tokio::net::TcpStream;

    const QUERY: usize = 72;
    /// `SOCK_DIAG_BY_FAMILY`, and that of an answer.
    const BY_FAMILY: u16 = 20;
    const REQUEST: u16 = 1;
    const TCP: u8 = 6;
    const ESTABLISHED: u8 = 1;
    /// `INET_DIAG_INFO`: the attribute with a `tcp_info`.
    const INFO: u16 = 2;
    const HEAD: usize = 16;
    /// Where an answer's attributes begin.
    const ATTRIBUTES: usize = 88;

    struct Netlink {
        socket: OwnedFd,
        number: u32,
    }

    pub(super) fn sent(stream: &TcpStream) -> Option<Sent> {
        static NETLINK: OnceLock<Option<Mutex<Netlink>>> = OnceLock::new();
        let netlink = NETLINK.get_or_init(|| open().ok().map(|socket| Mutex::new(Netlink { socket, number: 0 })));
        let mut netlink = netlink.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        netlink.number = netlink.number.wrapping_add(1);
        let query = query(stream, netlink.number)?;
        send(&netlink.socket, &query, SendFlags::empty()).ok()?;
        let mut answer = [0; 4_096];
        // What an earlier question left unread is passed over.
        for _ in 0..4 {
            let (length, _) = recv(&netlink.socket, &mut answer[..], RecvFlags::empty()).ok()?;
            let answer = &answer[..length.min(answer.len())];
            if u32_at(answer, 8) == Some(netlink.number) {
                return parse(answer);
            }
        }
        None
    }

    fn open() -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG))?;
        // Nobody but the kernel is heard.
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(socket)
    }

    /// A `nlmsghdr` and an `inet_diag_req_v2` for exactly this connection.
    fn query(stream: &TcpStream, number: u32) -> Option<[u8; QUERY]> {
        let (local, remote) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        let (from, to) = (local.ip().to_canonical(), remote.ip().to_canonical());
        let cookie = socket_cookie(stream).ok()?;
        let mut query = [0; QUERY];
        let mut put = |at: usize, bytes: &[u8]| query[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(QUERY as u32).to_ne_bytes());
        put(4, &BY_FAMILY.to_ne_bytes());
        put(6, &REQUEST.to_ne_bytes());
        put(8, &number.to_ne_bytes());
        let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        put(16, &[u8::try_from(family.as_raw()).ok()?, TCP, 1 << (INFO - 1)]);
        put(20, &[0xff; 4]);
        put(24, &local.port().to_be_bytes());
        put(26, &remote.port().to_be_bytes());
        for (at, ip) in [(28, from), (44, to)] {
            match ip {
                IpAddr::V4(ip) => put(at, &ip.octets()),
                IpAddr::V6(ip) => put(at, &ip.octets()),
            }
        }
        put(64, &(cookie as u32).to_ne_bytes());
        put(68, &((cookie >> 32) as u32).to_ne_bytes());
        Some(query)
    }

    fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
    }

    fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
    }

    /// The `tcp_info` among the attributes of an `inet_diag_msg`; older kernels know less of it.
    fn parse(answer: &[u8]) -> Option<Sent> {
        if u16_at(answer, 4) != Some(BY_FAMILY) || answer.get(HEAD + 1) != Some(&ESTABLISHED) {
            return None;
        }
        let mut at = ATTRIBUTES;
        loop {
            let (length, kind) = (usize::from(u16_at(answer, at)?), u16_at(answer, at + 2)?);
            if kind == INFO {
                let info = answer.get(at + 4..at + length)?;
                return Some(Sent {
                    packets: u32_at(info, 156)?,
                    again: u32_at(info, 100)?,
                    rtt_us: u32_at(info, 68)?,
                    least_rtt_us: u32_at(info, 148)?,
                });
            }
            at += length.max(4).next_multiple_of(4);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio::net::TcpListener;

        #[tokio::test]
        async fn the_system_tells_what_a_connection_sent() {
            for listen in ["127.0.0.1:0", "[::]:0"] {
                let Ok(listener) = TcpListener::bind(listen).await else { continue };
                let port = listener.local_addr().unwrap().port();
                let mut dialled = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut accepted, _) = listener.accept().await.unwrap();
                let Some(before) = sent(&dialled) else {
                    println!("skipped: this system doesn't tell");
                    return;
                };
                dialled.write_all(&[7; 100_000]).await.unwrap();
                accepted.read_exact(&mut [0; 100_000]).await.unwrap();
                let after = sent(&dialled).unwrap();
                assert!(after.packets > before.packets && after.again == 0, "{before:?} {after:?}");
                assert!(after.least_rtt_us > 0 && after.least_rtt_us < 1_000_000, "{after:?}");
                assert_eq!(sent(&accepted).map(|sent| sent.packets), Some(0), "that one has sent nothing");
            }
        }

        #[test]
        fn what_is_cut_short_tells_nothing() {
            let mut answer = vec![0; ATTRIBUTES + 4 + 160];
            answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
            answer[HEAD + 1] = ESTABLISHED;
            answer[ATTRIBUTES..ATTRIBUTES + 2].copy_from_slice(&164_u16.to_ne_bytes());
            answer[ATTRIBUTES + 2..ATTRIBUTES + 4].copy_from_slice(&INFO.to_ne_bytes());
            answer[ATTRIBUTES + 4 + 156] = 9;
            assert!(parse(&answer).is_some_and(|sent| sent != Sent::default()));
            assert!((0..answer.len()).all(|length| parse(&answer[..length]).is_none()));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    pub(super) fn sent(_: &tokio::net::TcpStream) -> Option<super::Sent> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_bad_where_packets_are_lost_that_did_not_wait() {
        let before = Sent { packets: u32::MAX - 50, again: 7, rtt_us: 400, least_rtt_us: 300 };
        let after = |packets: u32, again, rtt_us| Sent {
            packets: before.packets.wrapping_add(packets),
            again: before.again + again,
            rtt_us,
            ..before
        };
        for (packets, again, rtt_us, bad) in [
            (99, 99, 400, None),
            (100, 3, 15_300, Some(true)),
            (100, 2, 400, Some(false)),
            (10_000, 500, 15_300, Some(true)),
            (10_000, 500, 15_301, Some(false)),
        ] {
            assert_eq!(after(packets, again, rtt_us).shows_a_bad_line(&before), bad, "{packets} {again} {rtt_us}");
        }
    }
}
