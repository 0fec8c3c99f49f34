//! The answer to an announce as JSON, written without building it first: it is most of what a tracker says.
//!
//! Contract: pure; byte for byte what serde makes of the same [`shoal_protocol::Handout`], which a test holds it to.

use crate::handout::{self, Address, Asker};
use crate::registry::Answer;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

/// What comes beside the peers, and the most that an IPv4 peer without candidates takes.
const HEAD_BYTES: usize = 80;
const PEER_BYTES: usize = 48;

/// Makes `out` the answer, and says how many peers are in it.
pub(crate) fn write(out: &mut Vec<u8>, answer: &Answer, asker: &Asker<'_>) -> usize {
    out.clear();
    out.reserve(HEAD_BYTES + PEER_BYTES * answer.peers.len());
    let number = |out: &mut Vec<u8>, name: &str, n| {
        out.extend_from_slice(name.as_bytes());
        decimal(out, n);
    };
    number(out, "{\"interval\":", answer.interval_s);
    number(out, ",\"seeds\":", answer.seeds);
    number(out, ",\"leechers\":", answer.leechers);
    if answer.completed > 0 {
        number(out, ",\"completed\":", answer.completed);
    }
    out.extend_from_slice(b",\"peers\":[");
    let mut count = 0;
    handout::each(&answer.peers, asker, |peer, addrs| {
        out.extend_from_slice(if count == 0 { b"{\"addrs\":[" } else { b",{\"addrs\":[" });
        for (n, addr) in addrs.iter().enumerate() {
            out.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
            address(out, *addr);
            out.push(b'"');
        }
        out.extend_from_slice(if peer.seed { b"],\"seed\":true}" } else { b"]}" });
        count += 1;
    });
    out.extend_from_slice(b"]}");
    count
}

fn address(out: &mut Vec<u8>, addr: Address) {
    match addr {
        Address::TrackersHost(_) => {}
        Address::At(SocketAddr::V4(addr)) => {
            for (n, octet) in addr.ip().octets().into_iter().enumerate() {
                if n > 0 {
                    out.push(b'.');
                }
                decimal(out, octet.into());
            }
        }
        Address::At(SocketAddr::V6(addr)) => {
            // Writing to memory doesn't fail.
            let _ = write!(out, "[{}]", IpAddr::V6(*addr.ip()));
        }
    }
    out.push(b':');
    decimal(out, addr.port().into());
}

pub(crate) fn decimal(out: &mut Vec<u8>, mut n: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cidr::Cidr;
    use crate::handout::Chosen;
    use crate::swarm::Key;
    use shoal_protocol::announce::HandoutPeer;
    use shoal_protocol::prng::Prng;
    use shoal_protocol::{Handout, PeerId};

    #[test]
    fn it_is_what_serde_makes_of_the_handout() {
        let ips = ["10.0.0.1", "8.8.8.8", "127.0.0.1", "2a00::7", "::1", "fd00::1:0:2", "255.255.255.255", "0.0.0.0"];
        let mut rng = Prng::new(4);
        let mut sizes = [0; 3];
        for _ in 0..2_000 {
            let mut ip = || ips[rng.below(ips.len())].parse::<IpAddr>().unwrap();
            let (mine, reached_at) = (ip(), ip());
            let trusted: Vec<Cidr> = if rng.below(2) == 0 { vec!["8.0.0.0/8".parse().unwrap()] } else { Vec::new() };
            let id = PeerId([1; 16]);
            let asker = Asker {
                ip: mine,
                reached_at,
                key: Key::new(mine, 7171, id, &[]),
                id,
                seed: false,
                zone: "",
                trusted: &trusted,
            };
            let mut peer = || {
                let candidates = (0..rng.below(4)).map(|_| (ips[rng.below(ips.len())], rng.next() as u16));
                let candidates = candidates.map(|(ip, port)| SocketAddr::new(ip.parse().unwrap(), port)).collect();
                let ip = ips[rng.below(ips.len())].parse().unwrap();
                Chosen { ip, port: rng.next() as u16, seed: rng.below(2) == 0, candidates, behind: rng.below(2) == 0 }
            };
            let peers: Vec<Chosen> = (0..5).map(|_| peer()).collect();
            let mut number = || (rng.next() >> (32 + rng.below(32))) as u32;
            let (interval_s, seeds, leechers, completed) = (number(), number(), number(), number() % 3);
            let answer = Answer { interval_s, seeds, leechers, completed, peers };
            let handout = answer.handout(&asker);
            let mut bytes = b"what was there".to_vec();
            let count = write(&mut bytes, &answer, &asker);
            assert_eq!(String::from_utf8(bytes.clone()).unwrap(), serde_json::to_string(&handout).unwrap());
            assert_eq!(count, handout.peers.len());
            for HandoutPeer { addrs, .. } in &handout.peers {
                sizes[addrs.len().min(3) - 1] += 1;
            }
            let read: Handout = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(read, handout);
        }
        assert!(sizes.iter().all(|n| *n > 100), "{sizes:?}");
    }
}
