//! Sends a part of a file on a socket: by `sendfile` on Linux, by reading and writing elsewhere.

use crate::net::limiter::Limiter;
use crate::store::Extent;
use std::io;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A write that makes no progress for this long ends the connection.
pub const WRITE_STUCK: Duration = Duration::from_secs(30);
/// A block that takes a receiver longer than this, at whatever pace, isn't worth a turn.
const BLOCK_STUCK: Duration = Duration::from_secs(120);

/// Sends the extent. The file may be shared: its position is neither used nor moved.
///
/// # Errors
/// When the socket fails, or the file ends early: then what was promised can't be sent any more.
pub async fn send(stream: &TcpStream, extent: &Extent, limiter: &Limiter, patience: &mut Patience) -> io::Result<()> {
    warm(extent).await;
    let mut offset = extent.offset;
    let mut left = extent.length as usize;
    while left > 0 {
        let share = left.min(limiter.share());
        limiter.acquire(share).await;
        let mut now = share;
        while now > 0 {
            patience.writable(stream).await?;
            match platform::send_some(stream, extent, &mut offset, now) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => now -= sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        left -= share;
    }
    Ok(())
}

/// Sends what can be sent at once of bytes that are followed by more: the system may keep them until that comes, so that
/// a header doesn't travel in a packet of its own.
///
/// # Errors
/// `WouldBlock` when the socket takes nothing now, and what else a socket may say.
pub fn send_ahead(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    platform::send_ahead(stream, bytes)
}

/// Waits until the system holds little that it hasn't sent: as much as the socket was told with `set_lowat`. Until then
/// a block that was handed over isn't sent. Where that can't be asked, it doesn't wait.
///
/// # Errors
/// When that takes too long, or the connection ends.
pub async fn drained(stream: &TcpStream, patience: &mut Patience) -> io::Result<()> {
    loop {
        match platform::is_drained(stream) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => patience.writable(stream).await?,
            Err(error) => return Err(error),
        }
    }
}

/// How long a receiver may keep us waiting with one block. Waiting for a rate limit doesn't count: that is us.
#[derive(Debug, Default)]
pub struct Patience {
    waited: Duration,
}

impl Patience {
    /// Waits until the socket takes something.
    ///
    /// # Errors
    /// When it takes nothing for too long, or takes crumbs for longer.
    pub async fn writable(&mut self, stream: &TcpStream) -> io::Result<()> {
        let start = Instant::now();
        tokio::time::timeout(WRITE_STUCK, stream.writable()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.waited += start.elapsed();
        if self.waited > BLOCK_STUCK { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Brings a cold part of a file into the page cache on another thread: `sendfile` would wait for the disk on this one,
/// and with it every connection that the thread serves.
async fn warm(extent: &Extent) {
    if platform::is_cached(extent) {
        return;
    }
    let extent = extent.clone();
    let _ = tokio::task::spawn_blocking(move || platform::read_ahead(&extent)).await;
}

#[cfg(target_os = "linux")]
mod platform {
    use super::{Extent, TcpStream, io};
    use rustix::io::{Errno, ReadWriteFlags};
    use std::io::IoSliceMut;
    use tokio::io::Interest;

    pub(super) fn send_some(stream: &TcpStream, extent: &Extent, offset: &mut u64, most: usize) -> io::Result<usize> {
        stream.try_io(Interest::WRITABLE, || {
            rustix::fs::sendfile(stream, extent.file.as_ref(), Some(offset), most).map_err(io::Error::from)
        })
    }

    pub(super) fn send_ahead(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        use rustix::net::SendFlags;
        stream.try_io(Interest::WRITABLE, || {
            rustix::net::send(stream, bytes, SendFlags::MORE | SendFlags::NOSIGNAL).map_err(io::Error::from)
        })
    }

    /// The runtime knows that a socket is full only when a write failed; this asks the system, which from then on tells
    /// when that changes.
    pub(super) fn is_drained(stream: &TcpStream) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        stream.try_io(Interest::WRITABLE, || {
            let mut sockets = [PollFd::new(stream, PollFlags::OUT)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            // A connection that failed counts as drained: the next write says why.
            if poll(&mut sockets, Some(&now))? > 0 { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        })
    }

    /// Looks at the first and the last byte without waiting; where that can't be asked, memory is assumed.
    pub(super) fn is_cached(extent: &Extent) -> bool {
        let cached = |at: u64| {
            let mut byte = [0];
            let read =
                rustix::io::preadv2(&*extent.file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT);
            !matches!(read, Err(Errno::AGAIN))
        };
        cached(extent.offset) && cached(extent.offset + u64::from(extent.length.max(1)) - 1)
    }

    pub(super) fn read_ahead(extent: &Extent) {
        use std::os::unix::fs::FileExt;
        const AHEAD: u64 = 4 << 20;
        let length = std::num::NonZeroU64::new(AHEAD);
        let _ = rustix::fs::fadvise(&*extent.file, extent.offset, length, rustix::fs::Advice::WillNeed);
        // Reading waits for the pages of this extent; the advice goes on with what follows.
        let mut buffer = vec![0; extent.length as usize];
        let _ = extent.file.read_at(&mut buffer, extent.offset);
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use super::{Extent, TcpStream, io};

    pub(super) fn send_some(stream: &TcpStream, extent: &Extent, offset: &mut u64, most: usize) -> io::Result<usize> {
        let mut buffer = [0; 64 << 10];
        let most = most.min(buffer.len());
        let read = read_at(&extent.file, &mut buffer[..most], *offset)?;
        let sent = stream.try_write(&buffer[..read])?;
        *offset += sent as u64;
        Ok(sent)
    }

    pub(super) fn send_ahead(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        stream.try_write(bytes)
    }

    pub(super) fn is_drained(_: &TcpStream) -> io::Result<()> {
        Ok(())
    }

    #[cfg(unix)]
    fn read_at(file: &std::fs::File, out: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(file, out, at)
    }

    #[cfg(windows)]
    fn read_at(file: &std::fs::File, out: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(file, out, at)
    }

    pub(super) fn is_cached(_: &Extent) -> bool {
        true
    }

    pub(super) fn read_ahead(_: &Extent) {}
}
