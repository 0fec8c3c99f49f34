//! How many requests an address may send: GCRA, one number for each address.
//!
//! Contract: pure; time is an argument. IPv6 counts by /64. Loopback and private networks are spared unless the
//! operator says otherwise, as many peers share a host or a NAT there. Memory is bounded: when a shard of the table is
//! full of addresses that are active, further ones share one allowance until some have calmed down.

use shoal_protocol::address::{Reach, customer, reach};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

const SHARDS: usize = 16;
/// Addresses remembered in each shard: about 16 MiB in total.
const PER_SHARD: usize = 32_768;
/// Seconds' worth of requests that may come at once.
const BURST_S: u64 = 2;

#[derive(Debug, Default)]
struct Shard {
    /// Theoretical arrival time in microseconds by hashed address.
    arrivals: HashMap<u64, u64>,
    /// Shared by those who don't fit.
    overflow: u64,
    cleaned_us: u64,
}

/// The limit and the state of every address.
#[derive(Debug)]
pub struct Limiter {
    /// Microseconds that one request costs; 0 means no limit.
    cost_us: u64,
    spare_private: bool,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

impl Limiter {
    /// A limiter for so many requests a second; 0 means no limit.
    #[must_use]
    pub fn new(per_s: u32, spare_private: bool) -> Self {
        let cost_us = if per_s == 0 { 0 } else { (1_000_000 / u64::from(per_s)).max(1) };
        Self { cost_us, spare_private, shards: Default::default(), hasher: RandomState::new() }
    }

    fn key(&self, ip: IpAddr) -> u64 {
        self.hasher.hash_one(customer(ip))
    }

    fn allowed_us(&self) -> u64 {
        (BURST_S * 1_000_000).max(self.cost_us)
    }

    /// Whether a request would pass now; nothing is counted. An address that isn't remembered would.
    #[must_use]
    pub fn would_pass(&self, now_ms: u64, ip: IpAddr) -> bool {
        if self.cost_us == 0 || (self.spare_private && reach(ip) <= Reach::Private) {
            return true;
        }
        let key = self.key(ip);
        let now_us = now_ms.saturating_mul(1000);
        let shard = self.shards[key as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = shard.arrivals.get(&key).map_or(0, |arrival| arrival.saturating_sub(now_us));
        ahead + self.cost_us <= self.allowed_us()
    }

    /// Lets a request pass or says after how many seconds to try again.
    ///
    /// # Errors
    /// The seconds to wait.
    pub fn check(&self, now_ms: u64, ip: IpAddr) -> Result<(), u32> {
        if self.cost_us == 0 || (self.spare_private && reach(ip) <= Reach::Private) {
            return Ok(());
        }
        let key = self.key(ip);
        let now_us = now_ms.saturating_mul(1000);
        let mut shard = self.shards[key as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        if shard.arrivals.len() >= PER_SHARD && shard.cleaned_us + 1_000_000 <= now_us {
            shard.cleaned_us = now_us;
            shard.arrivals.retain(|_, arrival| *arrival > now_us);
        }
        let room = shard.arrivals.len() < PER_SHARD || shard.arrivals.contains_key(&key);
        let Shard { arrivals, overflow, .. } = &mut *shard;
        let arrival = if room { arrivals.entry(key).or_default() } else { overflow };
        let next = (*arrival).max(now_us) + self.cost_us;
        let ahead = next - now_us;
        let allowed = self.allowed_us();
        if ahead > allowed {
            return Err(u32::try_from((ahead - allowed).div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1));
        }
        *arrival = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(limiter: &Limiter, now_ms: u64, ip: &str, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.check(now_ms, ip.parse().unwrap()).is_ok()).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let limiter = Limiter::new(10, true);
        assert_eq!(passed(&limiter, 0, "8.8.8.8", 100), 20);
        assert_eq!(limiter.check(0, "8.8.8.8".parse().unwrap()), Err(1));
        assert!(!limiter.would_pass(99, "8.8.8.8".parse().unwrap()), "its door is shut until one would pass");
        assert!(limiter.would_pass(100, "8.8.8.8".parse().unwrap()));
        assert!(limiter.would_pass(0, "8.8.8.9".parse().unwrap()));
        assert_eq!(passed(&limiter, 1000, "8.8.8.8", 100), 10);
        assert_eq!(passed(&limiter, 1000, "8.8.8.9", 100), 20, "others are not touched");
        assert_eq!(passed(&limiter, 1_000_000, "8.8.8.8", 100), 20, "a rest is worth one burst, not more");
    }

    #[test]
    fn an_ipv6_customer_is_one_address_and_near_ones_are_spared() {
        let limiter = Limiter::new(1, true);
        assert_eq!(passed(&limiter, 0, "2a00::1", 9) + passed(&limiter, 0, "2a00::2", 9), 2);
        assert_eq!(passed(&limiter, 0, "10.0.0.1", 99) + passed(&limiter, 0, "127.0.0.1", 99), 198);
        assert_eq!(passed(&Limiter::new(1, false), 0, "10.0.0.1", 99), 2);
        assert_eq!(passed(&Limiter::new(0, false), 0, "8.8.8.8", 99), 99);
    }

    #[test]
    fn memory_stays_bounded_and_calm_addresses_make_room() {
        let limiter = Limiter::new(1, true);
        let flood = |now_ms, base: u32| {
            (0..700_000_u32).filter(|n| limiter.check(now_ms, IpAddr::from((base + n).to_be_bytes())).is_ok()).count()
        };
        let held = || limiter.shards.iter().map(|s| s.lock().unwrap().arrivals.len()).sum::<usize>();
        flood(0, 0x0b00_0000);
        assert_eq!(held(), SHARDS * PER_SHARD);
        assert!(flood(10_000, 0x2b00_0000) > SHARDS * PER_SHARD);
        assert_eq!(held(), SHARDS * PER_SHARD);
    }
}
