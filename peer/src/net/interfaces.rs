//! At which addresses others may reach this machine: for the links that are printed.
//!
//! Linux lists its addresses under `/proc/net`; elsewhere, and to know the best one, a UDP socket is pointed at a far
//! address, which sends nothing and tells which of our own addresses the system would use.

use crate::engine::Listen;
use shoal_protocol::address::{Reach, canonical, reach};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Addresses that reach a listener here, the best first; loopback alone when there is nothing else.
#[must_use]
pub fn reachable(listen: &Listen) -> Vec<IpAddr> {
    if let Some(ip) = listen.ip
        && !ip.is_unspecified()
    {
        return vec![ip];
    }
    let v6 = listen.ip.is_none_or(|ip| ip.is_ipv6());
    let mut found: Vec<IpAddr> = preferred(v6);
    found.extend(of_fib_trie(&std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default()).map(IpAddr::V4));
    if v6 {
        found.extend(of_if_inet6(&std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default()).map(IpAddr::V6));
    }
    choose(found)
}

/// This machine's own addresses that others may be able to dial, and at which there is a listener.
#[must_use]
pub fn addresses(listen: &Listen) -> Vec<IpAddr> {
    let found = reachable(listen);
    found.into_iter().filter(|ip| reach(*ip) != Reach::Loopback).collect()
}

/// Each address once, without those that nobody else can dial. IPv4 comes first: links with it are easier to read out.
fn choose(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = Vec::new();
    for ip in found.into_iter().map(canonical) {
        if matches!(reach(ip), Reach::Private | Reach::Global) && !out.contains(&ip) {
            out.push(ip);
        }
    }
    out.sort_by_key(IpAddr::is_ipv6);
    if out.is_empty() {
        out.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    out
}

/// The addresses that the system uses for far destinations.
fn preferred(v6: bool) -> Vec<IpAddr> {
    let ask = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|addr: SocketAddr| addr.ip())
    };
    let mut out = Vec::from_iter(ask("0.0.0.0:0", "192.0.2.1:9"));
    if v6 {
        out.extend(ask("[::]:0", "[2001:db8::1]:9"));
    }
    out
}

/// Own IPv4 addresses: each `/32 host LOCAL` line belongs to the address on the line before.
fn of_fib_trie(text: &str) -> impl Iterator<Item = Ipv4Addr> {
    let lines = text.lines();
    lines.clone().zip(lines.skip(1)).filter_map(|(line, next)| {
        let address = line.trim().strip_prefix("|-- ")?;
        if next.contains("/32 host LOCAL") { address.parse().ok() } else { None }
    })
}

/// Own IPv6 addresses of global scope.
fn of_if_inet6(text: &str) -> impl Iterator<Item = Ipv6Addr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        if words.nth(2)? == "00" { Some(Ipv6Addr::from(address)) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_read_from_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.2.0\n        /24 link UNICAST\n     |-- 10.1.2.3\n        \
                    /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n";
        let got: Vec<_> = of_fib_trie(trie).collect();
        assert_eq!(got, [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::LOCALHOST]);
        let table =
            "fe800000000000000000000000000001 02 40 20 80 eth0\nfd000000000000000000000000000005 02 40 00 80 eth0\n";
        assert_eq!(of_if_inet6(table).collect::<Vec<_>>(), ["fd00::5".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn loopback_is_named_only_when_alone() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(choose(vec![ip("127.0.0.1"), ip("fe80::1")]), [ip("127.0.0.1")]);
        assert_eq!(
            choose(vec![ip("fd00::1"), ip("10.0.0.1"), ip("127.0.0.1"), ip("10.0.0.1")]),
            [ip("10.0.0.1"), ip("fd00::1")]
        );
        let only = Listen { ip: Some(ip("127.0.0.1")), ports: 0..=0 };
        assert_eq!(reachable(&only), [ip("127.0.0.1")]);
        assert!(addresses(&only).is_empty());
        let one = Listen { ip: Some(ip("10.0.0.7")), ports: 0..=0 };
        assert_eq!(addresses(&one), [ip("10.0.0.7")]);
        let four = Listen { ip: Some(ip("0.0.0.0")), ports: 0..=0 };
        assert!(addresses(&four).iter().all(IpAddr::is_ipv4));
    }
}
