//! A bounded pool of block buffers: the engine's whole memory for payload, 16 MiB for those who send at a good pace and as
//! much for those who have yet to show it.
//!
//! A connection takes a buffer when a block's header has come and gives it on with the bytes; it returns when the bytes
//! are hashed and written. When none is left, connections stop reading and TCP slows the senders down. Buffers are
//! handed out last in, first out, so the same few stay warm in the caches.

use crate::aligned::Aligned;
use shoal_protocol::limits::BLOCK_BYTES;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Buffers for the quick: 16 MiB, enough for the bandwidth of memory times the latency of a few thread hops.
pub const BUFFERS: usize = 64;
/// Buffers beside them for senders that have yet to show their pace.
const UNPROVEN: usize = 64;

/// The pool. Clones share it.
#[derive(Debug, Clone)]
pub struct Pool {
    free: Arc<Mutex<Vec<Aligned>>>,
    quick: Arc<Share>,
    unproven: Arc<Share>,
    starved_us: Arc<AtomicU64>,
}

/// Part of the pool for one sort of senders.
#[derive(Debug)]
struct Share {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Share {
    fn new(buffers: usize) -> Arc<Self> {
        Arc::new(Self { permits: Arc::new(Semaphore::new(buffers)), waiting: AtomicUsize::new(0) })
    }
}

/// Somebody waits for a buffer, as long as this lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A buffer of one block; goes back to the pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Option<Aligned>,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool of so many buffers; memory is taken when they are first used.
    #[must_use]
    pub fn new(buffers: usize) -> Self {
        let (quick, unproven) = (Share::new(buffers), Share::new(buffers.min(UNPROVEN)));
        Self { free: Arc::default(), quick, unproven, starved_us: Arc::default() }
    }

    fn share(&self, proven: bool) -> &Share {
        if proven { &self.quick } else { &self.unproven }
    }

    /// Whether others wait for what such a sender holds.
    #[must_use]
    pub fn is_wanted(&self, proven: bool) -> bool {
        self.share(proven).waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits for a buffer. A sender is proven when its last block came at a good pace: all others have a share of their
    /// own, so that headers whose payload never comes can't take the buffers from those who deliver.
    pub async fn take(&self, proven: bool) -> Buffer {
        let share = self.share(proven);
        let permit = match Arc::clone(&share.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let start = Instant::now();
                // The semaphore is never closed, so this can't fail; if it did, waiting for ever is the safe answer.
                let _waiting = Waiting::new(&share.waiting);
                let Ok(permit) = Arc::clone(&share.permits).acquire_owned().await else {
                    return std::future::pending().await;
                };
                let waited = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.starved_us.fetch_add(waited, Ordering::Relaxed);
                permit
            }
        };
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| Aligned::new(BLOCK_BYTES as usize));
        Buffer { bytes: Some(bytes), pool: self.clone(), _permit: permit }
    }

    /// How long connections waited for buffers in all, in microseconds: then the disk is the limit.
    #[must_use]
    pub fn starved_us(&self) -> u64 {
        self.starved_us.load(Ordering::Relaxed)
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_pool_is_bounded_and_buffers_come_back() {
        let pool = Pool::new(2);
        let (a, b) = (pool.take(true).await, pool.take(true).await);
        assert_eq!(a.len(), BLOCK_BYTES as usize);
        let third = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take(true).await.len() }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished() && pool.is_wanted(true) && !pool.is_wanted(false));
        drop(pool.take(false).await);
        drop(a);
        assert_eq!(third.await.unwrap(), BLOCK_BYTES as usize);
        drop(b);
        assert_eq!(pool.free.lock().unwrap().len(), 3);
    }
}
