//! A connection whose bytes count against the limit of what is sent: HTTP on a peer's port, whose manifests and CVs may be as
//! long as a content.
//!
//! Whoever waits for the limit has its turn, so a crowd of such connections would leave payload little of it. Together they
//! are [`TAKERS`] of those who wait, however many they are; payload has three.

use super::limiter::Limiter;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

/// So many of them wait for the limit at a time.
pub(crate) const TAKERS: usize = 2;

/// The connection. Nothing is asked of the limit before something is to be written.
pub(crate) struct Limited<IO> {
    io: IO,
    limiter: Limiter,
    takers: Arc<Semaphore>,
    /// Bytes that may be written now.
    allowed: usize,
    waiting: Option<Pin<Box<dyn Future<Output = usize> + Send>>>,
}

impl<IO> Limited<IO> {
    /// `takers` is what all of them share.
    pub(crate) fn new(io: IO, limiter: Limiter, takers: Arc<Semaphore>) -> Self {
        Self { io, limiter, takers, allowed: 0, waiting: None }
    }

    /// How many of so many bytes may be written.
    fn poll_allowed(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        if self.allowed == 0 {
            let waiting = self.waiting.get_or_insert_with(|| {
                let (limiter, share) = (self.limiter.clone(), wanted.min(self.limiter.share()));
                let takers = Arc::clone(&self.takers);
                Box::pin(async move {
                    if limiter.is_limited() {
                        // It is never closed.
                        let _turn = takers.acquire_owned().await;
                        limiter.acquire(share).await;
                    }
                    share
                })
            });
            self.allowed = ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        Poll::Ready(self.allowed.min(wanted))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Limited<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Limited<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let most = ready!(self.poll_allowed(cx, bytes.len()));
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[..most]));
        if let Ok(written) = &written {
            self.allowed -= written.min(&most);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn what_is_written_counts_and_arrives_whole() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let limiter = Limiter::new(1_000_000);
        let start = Instant::now();
        let sending = tokio::spawn({
            let (bytes, mut near) = (bytes.clone(), Limited::new(near, limiter, Arc::new(Semaphore::new(1))));
            async move {
                near.write_all(&bytes).await.unwrap();
                near.shutdown().await.unwrap();
            }
        });
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.unwrap();
        sending.await.unwrap();
        assert!(came == bytes);
        assert!(start.elapsed() > Duration::from_millis(240), "{:?}", start.elapsed());
        let (near, mut far) = tokio::io::duplex(1 << 20);
        // Where there is no limit nobody waits, whatever others do.
        let mut free = Limited::new(near, Limiter::new(0), Arc::new(Semaphore::new(0)));
        free.write_all(&bytes).await.unwrap();
        free.shutdown().await.unwrap();
        assert_eq!(far.read_to_end(&mut came).await.unwrap(), bytes.len());
    }

    #[tokio::test]
    async fn a_crowd_of_them_leaves_payload_its_turns() {
        let (limiter, takers) = (Limiter::new(1_000_000), Arc::new(Semaphore::new(TAKERS)));
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let mut near = Limited::new(near, limiter.clone(), Arc::clone(&takers));
            crowd.spawn(async move { while near.write_all(&[0; 60_000]).await.is_ok() {} });
            crowd.spawn(async move { while far.read(&mut [0; 60_000]).await.is_ok() {} });
        }
        let (start, mut payload) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(1) {
            limiter.acquire(limiter.share()).await;
            payload += limiter.share();
        }
        // One of three who wait; with all hundred of them waiting it would be one of a hundred.
        assert!(payload > 200_000, "{payload} of 1,000,000");
    }
}
