//! Which addresses may be handed out and dialled.

use crate::limits::PORT_MIN;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// This host only.
    Loopback,
    /// A private network: RFC 1918, carrier NAT (RFC 6598), IPv6 unique local.
    Private,
    /// The internet.
    Global,
    /// Never to be dialled on anyone's word: link-local, multicast, unspecified, broadcast, documentation, reserved.
    Never,
}

/// An IPv4 address that came in an IPv6 coat, taken out of it.
#[must_use]
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The same for an address with a port.
#[must_use]
pub fn canonical_addr(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical(addr.ip()), addr.port())
}

static AS_GLOBAL: OnceLock<([u8; 16], u32)> = OnceLock::new();

/// From now on this process takes a private network, such as one of namespaces, for a part of the internet: for tests
/// of what holds for strangers, as real public addresses are nobody's to test with. Once in a process.
pub fn take_as_global_in_tests(base: IpAddr, prefix: u8) {
    let width = if base.is_ipv4() { 96 } else { 0 };
    let _ = AS_GLOBAL.set((in_six(base), (width + u32::from(prefix)).min(128)));
}

fn in_six(ip: IpAddr) -> [u8; 16] {
    match canonical(ip) {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn is_marked(ip: IpAddr) -> bool {
    AS_GLOBAL.get().is_some_and(|(base, prefix)| {
        let difference = u128::from_be_bytes(in_six(ip)) ^ u128::from_be_bytes(*base);
        difference.leading_zeros() >= *prefix
    })
}

/// How far an address reaches.
#[must_use]
pub fn reach(ip: IpAddr) -> Reach {
    if is_marked(ip) {
        return Reach::Global;
    }
    match canonical(ip) {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            match (a, b, c) {
                (127, ..) => Reach::Loopback,
                (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Reach::Private,
                (0 | 224.., ..)
                | (169, 254, _)
                | (192, 0, 0 | 2)
                | (192, 88, 99)
                | (198, 18 | 19, _)
                | (198, 51, 100)
                | (203, 0, 113) => Reach::Never,
                _ => Reach::Global,
            }
        }
        IpAddr::V6(ip) => {
            let [head, second, ..] = ip.segments();
            // Teredo (2001:0::/32) and 6to4 (2002::/16) hold an IPv4 address of whatever reach, hidden from these rules.
            let special = head == 0x2002
                || (head == 0x2001 && (second < 0x200 || second == 0xdb8))
                || (head == 0x3fff && second < 0x1000);
            if ip == Ipv6Addr::LOCALHOST {
                Reach::Loopback
            } else if head & 0xfe00 == 0xfc00 {
                Reach::Private
            } else if head & 0xe000 == 0x2000 && !special {
                Reach::Global
            } else {
                Reach::Never
            }
        }
    }
}

/// What a source of addresses (a tracker, or a peer for PEX) may make us dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// How far the source itself is: what it says may not be nearer than that.
    pub source: Reach,
    /// The user allows private addresses from a public source.
    pub allow_private: bool,
}

impl Trust {
    /// Whether an address from this source may be dialled.
    ///
    /// Loopback only from a source reached over loopback, private networks only from one reached at a private or
    /// loopback address or when the user allows it, and ports below 1024 never.
    #[must_use]
    pub fn allows(&self, addr: SocketAddr) -> bool {
        addr.port() >= PORT_MIN
            && match reach(addr.ip()) {
                Reach::Never => false,
                Reach::Loopback => self.source == Reach::Loopback,
                Reach::Private => self.source <= Reach::Private || self.allow_private,
                Reach::Global => true,
            }
    }
}

/// What stands before an IPv4 network in a [`subnet`]: a /40 of multicast addresses, which no peer has.
const IPV4_SUBNET: [u8; 5] = [0xff; 5];

/// The network that an address is near to when it has no zone, as a key to compare and hash: the eight bytes of an IPv6
/// address's /64, or the three of an IPv4 address's /24 behind a mark that no peer's IPv6 address has, so the two never
/// meet.
#[must_use]
pub fn subnet(ip: IpAddr) -> [u8; 8] {
    match canonical(ip) {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let [m0, m1, m2, m3, m4] = IPV4_SUBNET;
            [m0, m1, m2, m3, m4, a, b, c]
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h, ..] = ip.octets();
            [a, b, c, d, e, f, g, h]
        }
    }
}

/// What one customer of the internet has: an IPv4 address, or the /64 of an IPv6 address.
#[must_use]
pub fn customer(ip: IpAddr) -> IpAddr {
    match canonical(ip) {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_told_at_its_edges() {
        let cases: &[(&str, Reach)] = &[
            ("127.0.0.1", Reach::Loopback),
            ("127.255.255.255", Reach::Loopback),
            ("126.255.255.255", Reach::Global),
            ("10.0.0.0", Reach::Private),
            ("11.0.0.0", Reach::Global),
            ("172.15.255.255", Reach::Global),
            ("172.16.0.0", Reach::Private),
            ("172.31.255.255", Reach::Private),
            ("172.32.0.0", Reach::Global),
            ("192.168.0.1", Reach::Private),
            ("100.64.0.0", Reach::Private),
            ("100.128.0.0", Reach::Global),
            ("169.254.169.254", Reach::Never),
            ("0.0.0.0", Reach::Never),
            ("224.0.0.1", Reach::Never),
            ("255.255.255.255", Reach::Never),
            ("8.8.8.8", Reach::Global),
            ("::1", Reach::Loopback),
            ("::", Reach::Never),
            ("fe80::1", Reach::Never),
            ("fd00::1", Reach::Private),
            ("ff02::1", Reach::Never),
            ("2a00::1", Reach::Global),
            ("2001:db8::1", Reach::Never),
            ("2001::1", Reach::Never),
            ("2001:1ff::1", Reach::Never),
            ("2001:200::1", Reach::Global),
            ("2002:7f00:1::", Reach::Never),
            ("2002:a00:1::1", Reach::Never),
            ("64:ff9b::7f00:1", Reach::Never),
            ("3fff::1", Reach::Never),
            ("192.88.99.1", Reach::Never),
            ("::ffff:10.0.0.1", Reach::Private),
            ("::ffff:127.0.0.1", Reach::Loopback),
        ];
        for (ip, expected) in cases {
            assert_eq!(reach(ip.parse().unwrap()), *expected, "{ip}");
        }
    }

    #[test]
    fn a_private_network_can_be_marked_for_tests() {
        let reach = |ip: &str| reach(ip.parse().unwrap());
        // A range that no other test of this crate looks at, as the mark is the process's.
        assert_eq!(reach("10.66.1.1"), Reach::Private);
        take_as_global_in_tests("10.66.0.0".parse().unwrap(), 16);
        for ip in ["10.66.0.0", "10.66.255.255", "::ffff:10.66.1.1"] {
            assert_eq!(reach(ip), Reach::Global, "{ip}");
        }
        for ip in ["10.65.255.255", "10.67.0.0", "fd00::10.66.0.1"] {
            assert_eq!(reach(ip), Reach::Private, "{ip}");
        }
        take_as_global_in_tests("127.0.0.0".parse().unwrap(), 8);
        assert_eq!(reach("127.0.0.1"), Reach::Loopback, "once");
    }

    #[test]
    fn subnets_of_the_two_families_never_meet() {
        let key = |ip: &str| subnet(ip.parse().unwrap());
        assert_eq!(key("10.1.2.3"), key("10.1.2.250"));
        assert_eq!(key("10.1.2.3"), key("::ffff:10.1.2.3"));
        assert_ne!(key("10.1.2.3"), key("10.1.3.3"));
        assert_eq!(key("2a00:1:2:3::1"), key("2a00:1:2:3:ffff::"));
        assert_ne!(key("2a00:1:2:3::1"), key("2a00:1:2:4::1"));
        // The same leading bytes, with zeros behind them, in both families.
        assert_ne!(key("32.1.2.3"), key("2001:200::1"));
        for ip in ["0.0.0.0", "10.0.0.1", "255.255.255.255"] {
            let v6 = std::net::Ipv6Addr::from(u128::from(u64::from_be_bytes(key(ip))) << 64);
            assert_eq!(reach(v6.into()), Reach::Never, "{ip}");
        }
    }

    #[test]
    fn a_far_source_can_not_point_at_near_addresses() {
        let far = Trust { source: Reach::Global, allow_private: false };
        let near = Trust { source: Reach::Private, allow_private: false };
        let here = Trust { source: Reach::Loopback, allow_private: false };
        let addr = |a: &str| a.parse().unwrap();
        for trust in [far, near, here] {
            assert!(trust.allows(addr("8.8.8.8:7171")));
            assert!(!trust.allows(addr("8.8.8.8:1023")));
            assert!(trust.allows(addr("8.8.8.8:1024")));
            assert!(!trust.allows(addr("169.254.169.254:8080")));
        }
        assert!(
            !far.allows(addr("10.0.0.1:7171"))
                && near.allows(addr("10.0.0.1:7171"))
                && here.allows(addr("10.0.0.1:7171"))
        );
        assert!(
            !far.allows(addr("127.0.0.1:7171"))
                && !near.allows(addr("127.0.0.1:7171"))
                && here.allows(addr("[::1]:7171"))
        );
        assert!(Trust { source: Reach::Global, allow_private: true }.allows(addr("10.0.0.1:7171")));
    }
}
