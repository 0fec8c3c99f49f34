//! Watches a connection's pace from outside HTTP: what comes too slowly is ended.
//!
//! hyper's own header timeout runs between requests as well, so it can't tell an idle connection (which may wait long)
//! from a half-sent head (which may not). Here the first byte after an idle time starts the short one.

use crate::doors::Place;
use crate::service::Timeouts;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const FRESH: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
const IDLE: u8 = 3;

/// What a connection is doing, and since when.
#[derive(Debug)]
pub(crate) struct Pace {
    start: Instant,
    phase: AtomicU8,
    since_ms: AtomicU64,
    /// Bytes of an answer that went out since that counted as progress.
    sent: AtomicU64,
    /// Bytes of an answer that are still to go out.
    owed: AtomicU64,
}

impl Pace {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            phase: AtomicU8::new(FRESH),
            since_ms: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            owed: AtomicU64::new(0),
        })
    }

    fn enter(&self, phase: u8) -> u64 {
        self.phase.store(phase, Ordering::Relaxed);
        self.progress()
    }

    fn progress(&self) -> u64 {
        let now_ms = self.start.elapsed().as_millis() as u64;
        self.since_ms.store(now_ms, Ordering::Relaxed);
        now_ms
    }

    /// A request's head is read.
    pub(crate) fn busy(&self) {
        self.enter(BUSY);
    }

    /// Part of a request came. The clock of a head runs from its first byte, the first one's from the connection.
    pub(crate) fn head(&self) {
        match self.phase.load(Ordering::Relaxed) {
            HEAD => {}
            FRESH => self.phase.store(HEAD, Ordering::Relaxed),
            _ => {
                self.enter(HEAD);
            }
        }
    }

    /// Whether nothing was ever asked: then nothing is lost by closing.
    pub(crate) fn fresh(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == FRESH
    }

    /// Its answer is made. Says how old the connection is, in milliseconds.
    pub(crate) fn idle(&self) -> u64 {
        self.enter(IDLE)
    }

    /// Its answer has so many bytes.
    pub(crate) fn owe(&self, bytes: u64) {
        self.owed.store(bytes, Ordering::Relaxed);
    }

    /// Some went out; says whether these were the last.
    fn paid(&self, bytes: u64) -> bool {
        let owed = self.owed.load(Ordering::Relaxed);
        self.owed.store(owed.saturating_sub(bytes), Ordering::Relaxed);
        owed > 0 && bytes >= owed
    }

    /// Returns when the connection took longer than it may.
    pub(crate) async fn expired(&self, timeouts: &Timeouts) {
        loop {
            let limit = match self.phase.load(Ordering::Relaxed) {
                FRESH | HEAD => timeouts.head,
                _ => timeouts.idle,
            };
            let deadline = self.start + Duration::from_millis(self.since_ms.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= deadline {
                return;
            }
            // A phase with a shorter limit may begin meanwhile, so no sleep is longer than the shortest.
            let nap = deadline.min(Instant::now() + timeouts.head.min(timeouts.idle));
            tokio::time::sleep_until(nap.into()).await;
        }
    }
}

/// A transport that notes its progress.
#[derive(Debug)]
pub(crate) struct Paced<IO> {
    /// What was read already.
    pub(crate) ahead: Vec<u8>,
    pub(crate) io: IO,
    pub(crate) pace: Arc<Pace>,
    pub(crate) place: Arc<Place>,
    /// Who takes less of an answer than this within [`Timeouts::idle`] is too slow.
    pub(crate) answer_step: u64,
}

impl<IO: Read + Unpin> Read for Paced<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let done = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = &done {
            match self.pace.phase.load(Ordering::Relaxed) {
                BUSY => {
                    self.pace.progress();
                }
                _ => self.pace.head(),
            }
        }
        done
    }
}

impl<IO: Write + Unpin> Write for Paced<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(&done);
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(&done);
        done
    }
}

impl<IO> Paced<IO> {
    fn wrote(&self, done: &Poll<io::Result<usize>>) {
        let Poll::Ready(Ok(bytes)) = done else { return };
        if self.pace.paid(*bytes as u64) {
            self.place.idle();
        }
        let sent = self.pace.sent.fetch_add(*bytes as u64, Ordering::Relaxed) + *bytes as u64;
        // A head that comes slowly is not helped by an answer that goes out meanwhile.
        if sent >= self.answer_step && self.pace.phase.load(Ordering::Relaxed) != HEAD {
            self.pace.sent.store(0, Ordering::Relaxed);
            self.pace.progress();
            self.place.took();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::Doors;

    #[test]
    fn an_answer_that_is_taken_in_crumbs_makes_no_progress() {
        let pace = Pace { start: Instant::now() - Duration::from_secs(60), ..Arc::into_inner(Pace::new()).unwrap() };
        const STEP: u64 = 64 << 10;
        let place = Arc::new(Doors::new(1, 1, Duration::from_secs(3)).enter("10.0.0.1".parse().unwrap()).unwrap());
        let paced = Paced { ahead: Vec::new(), io: (), pace: Arc::new(pace), place, answer_step: STEP };
        paced.pace.phase.store(IDLE, Ordering::Relaxed);
        let at = || paced.pace.since_ms.load(Ordering::Relaxed);
        for _ in 0..(STEP - 1) {
            paced.wrote(&Poll::Ready(Ok(1)));
        }
        paced.wrote(&Poll::Pending);
        assert_eq!(at(), 0);
        paced.wrote(&Poll::Ready(Ok(1)));
        assert!(at() >= 60_000);
    }
}
