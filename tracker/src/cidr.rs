//! Address ranges as operators write them: `10.0.0.0/8`, `fd00::/8`, or one address.
//!
//! A range with bits set behind its prefix is refused: it is a typing error more often than not.

use shoal_protocol::address::canonical;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// The text isn't a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address range: write 10.0.0.0/8, fd00::/8 or a single address")]
pub struct BadCidr(String);

impl Cidr {
    /// Whether the range holds this address. An IPv4 address in an IPv6 coat counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (base, width) = bits(self.base);
        let (ip, ip_width) = bits(canonical(ip));
        width == ip_width && (base ^ ip).checked_shr(u32::from(width - self.prefix)).unwrap_or(0) == 0
    }
}

impl Cidr {
    /// Marks the range for this process; see the protocol's function of this name.
    pub(crate) fn take_as_global_in_tests(&self) {
        shoal_protocol::address::take_as_global_in_tests(self.base, self.prefix);
    }
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;
    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let read = || {
            let (base, prefix) = text.split_once('/').map_or((text, None), |(base, prefix)| (base, Some(prefix)));
            let base: IpAddr = base.parse().ok()?;
            let width = bits(base).1;
            let prefix = match prefix {
                None => width,
                Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
                Some(_) => return None,
            };
            let host_bits = u32::from(width.checked_sub(prefix)?);
            let host_mask = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
            (bits(base).0 & host_mask == 0).then_some(Self { base, prefix })
        };
        read().ok_or_else(|| BadCidr(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_their_prefix_says() {
        let holds = |range: &str, ip: &str| range.parse::<Cidr>().unwrap().contains(ip.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("10.0.0.1", "::ffff:10.0.0.1") && !holds("10.0.0.1", "10.0.0.2"));
        assert!(holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fe00::1") && holds("::/0", "2a00::1"));
        for bad in
            ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/+8", "10.0.0.0/", "x/8", "fd00::1/8", "::/129", "1.0.0.0/0"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
