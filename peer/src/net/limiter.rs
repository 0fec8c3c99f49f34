//! Token buckets for rates: bytes per second over everything that shares one.
//!
//! Time is reserved ahead: each taker moves the time at which the bucket is free again, and sleeps until its own share
//! begins. Who stops waiting gives back what it had reserved. A pause saves up at most [`BURST`], so that a limit holds within a few percent over any second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most that a pause saves up.
const BURST: Duration = Duration::from_millis(50);

/// A shared limit. Clones share it.
#[derive(Debug, Clone)]
pub struct Limiter {
    bytes_per_s: u64,
    free_at: Arc<Mutex<Option<Instant>>>,
}

impl Limiter {
    /// A limit in bytes per second; 0 is none.
    #[must_use]
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, free_at: Arc::default() }
    }

    /// Whether there is a limit at all.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.bytes_per_s > 0
    }

    /// The largest share to take at once: what passes in a hundredth of a second, so that takers alternate.
    #[must_use]
    pub fn share(&self) -> usize {
        if self.is_limited() { (self.bytes_per_s / 100).clamp(1_024, 256 << 10) as usize } else { usize::MAX }
    }

    /// Waits until so many bytes may pass.
    pub async fn acquire(&self, bytes: usize) {
        if let Some(wait) = self.reserve(Instant::now(), bytes) {
            let mut reserved = Reserved { limiter: self, bytes };
            tokio::time::sleep(wait).await;
            reserved.bytes = 0;
        }
    }

    fn cost(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64)
    }

    fn reserve(&self, now: Instant, bytes: usize) -> Option<Duration> {
        if !self.is_limited() {
            return None;
        }
        let cost = self.cost(bytes);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = free_at.map_or(earliest, |at| at.max(earliest));
        *free_at = Some(start + cost);
        start.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }
}

/// What somebody waits for; what isn't taken in the end is there for others.
struct Reserved<'a> {
    limiter: &'a Limiter,
    bytes: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut free_at = self.limiter.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            *free_at = free_at.and_then(|at| at.checked_sub(self.limiter.cost(self.bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_goes_before_its_turn_takes_nothing_with_it() {
        let limiter = Limiter::new(100_000);
        limiter.acquire(50_000).await;
        for _ in 0..20 {
            let gone = tokio::time::timeout(Duration::from_millis(1), limiter.acquire(33_000)).await;
            assert!(gone.is_err());
        }
        let start = Instant::now();
        limiter.acquire(33_000).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[test]
    fn the_limit_holds_within_five_percent_whatever_the_shares() {
        for share in [1_000, 16_384, 100_000] {
            let limiter = Limiter::new(10_000_000);
            let start = Instant::now();
            let mut now = start;
            let mut sent = 0;
            while now.duration_since(start) < Duration::from_secs(2) {
                if let Some(wait) = limiter.reserve(now, share) {
                    now += wait;
                }
                sent += share;
            }
            let rate = sent as f64 / now.duration_since(start).as_secs_f64();
            assert!((9_500_000.0..10_500_000.0).contains(&rate), "{share}: {rate}");
        }
    }

    #[test]
    fn no_limit_never_waits() {
        let limiter = Limiter::new(0);
        assert_eq!(limiter.reserve(Instant::now(), usize::MAX), None);
    }

    #[test]
    fn a_pause_saves_up_no_more_than_the_burst() {
        let limiter = Limiter::new(1_000_000);
        let start = Instant::now();
        limiter.reserve(start, 1);
        let later = start + Duration::from_secs(60);
        assert_eq!(limiter.reserve(later, 50_000), None);
        assert_eq!(limiter.reserve(later, 1), None);
        assert!(limiter.reserve(later, 1).is_some());
    }
}
