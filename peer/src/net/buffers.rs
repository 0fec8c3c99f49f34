//! A bounded pool of block buffers: the engine's whole memory for payload.
//!
//! A connection takes a buffer when a block's header has come and gives it on with the bytes; it returns when the bytes
//! are hashed and written. When none is left, connections stop reading and TCP slows the senders down. Buffers are
//! handed out last in, first out, so the same few stay warm in the caches.

use shoal_protocol::limits::BLOCK_BYTES;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Buffers in an engine: 16 MiB, enough for the bandwidth of memory times the latency of a few thread hops.
pub const BUFFERS: usize = 64;

/// The pool. Clones share it.
#[derive(Debug, Clone)]
pub struct Pool {
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
    permits: Arc<Semaphore>,
    starved_us: Arc<AtomicU64>,
}

/// A buffer of one block; goes back to the pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Option<Box<[u8]>>,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool of so many buffers; memory is taken when they are first used.
    #[must_use]
    pub fn new(buffers: usize) -> Self {
        Self { free: Arc::default(), permits: Arc::new(Semaphore::new(buffers)), starved_us: Arc::default() }
    }

    /// Waits for a buffer.
    pub async fn take(&self) -> Buffer {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let start = Instant::now();
                // The semaphore is never closed, so this can't fail; if it did, waiting for ever is the safe answer.
                let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                    return std::future::pending().await;
                };
                let waited = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.starved_us.fetch_add(waited, Ordering::Relaxed);
                permit
            }
        };
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| vec![0; BLOCK_BYTES as usize].into_boxed_slice());
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
        let (a, b) = (pool.take().await, pool.take().await);
        assert_eq!(a.len(), BLOCK_BYTES as usize);
        let third = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take().await.len() }
        });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(a);
        assert_eq!(third.await.unwrap(), BLOCK_BYTES as usize);
        drop(b);
        assert_eq!(pool.free.lock().unwrap().len(), 2);
    }
}
