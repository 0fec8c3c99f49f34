//! The reading half of a connection: control frames become events, and each block's payload goes from the socket straight
//! into a pooled buffer.

use super::connection::Shared;
use super::events::{Event, Gone};
use super::pace::Pace;
use crate::swarm::{ConnId, Input};
use bytes::{Buf, BufMut, BytesMut};
use shoal_protocol::Message;
use shoal_protocol::codec::Codec;
use shoal_protocol::message::Block;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

/// What is read at once where frames are expected, and where a block's header is: most of that is payload.
const AHEAD: usize = 8 << 10;
const AHEAD_IN_BLOCKS: usize = 256;
/// So many frames of one peer are looked at before others get a turn of this thread.
const FRAMES_AT_ONCE: u32 = 128;
/// How often a block that arrives slowly is reported, and how much of it must have come: crumbs are no progress.
const PROGRESS: (Duration, usize) = (Duration::from_millis(250), 8 << 10);
/// The same where our own limit is what is waited for.
const LIMITED_PROGRESS: Duration = Duration::from_secs(1);
/// A block whose payload stops for this long, or takes [`PAYLOAD_SLOW`] in all, ends the connection: it holds a buffer.
const PAYLOAD_STUCK: Duration = Duration::from_secs(30);
const PAYLOAD_SLOW: Duration = Duration::from_secs(120);
/// After this long a buffer is given up if others wait for it and fewer bytes per second come than an honest link has.
const PAYLOAD_YIELDS: (Duration, f64) = (Duration::from_secs(3), 8_192.0);
/// Whose block takes no longer than this is trusted with the buffers of the quick.
const QUICK: Duration = Duration::from_secs(1);

/// Why reading ended.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// The network, or nobody listens to us any more.
    Gone,
    /// The peer broke the protocol.
    Fault(String),
}

impl From<io::Error> for ReadEnd {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Gone> for ReadEnd {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<io::ErrorKind> for ReadEnd {
    fn from(_: io::ErrorKind) -> Self {
        Self::Gone
    }
}

pub(super) struct Reader {
    conn: ConnId,
    stream: OwnedReadHalf,
    buffer: BytesMut,
    codec: Codec,
    shared: Shared,
    reported: Instant,
    /// Its last block came at a good pace.
    proven: bool,
    pace: Pace,
    /// Something had to be waited for since the last block.
    waited: bool,
}

impl Reader {
    pub(super) fn new(conn: ConnId, stream: OwnedReadHalf, buffer: BytesMut, codec: Codec, shared: &Shared) -> Self {
        Self {
            conn,
            stream,
            buffer,
            codec,
            shared: shared.clone(),
            reported: Instant::now(),
            proven: false,
            pace: Pace::new(),
            waited: true,
        }
    }

    /// Reads until the other side ends.
    pub(super) async fn run(&mut self) -> Result<(), ReadEnd> {
        loop {
            // Whether the last frame was a block, so that the next one most likely is one, too.
            let (mut in_blocks, mut frames) = (false, 0_u32);
            while let Some(message) = self.frame()? {
                if let Some(rest) = self.pace.note(&message) {
                    tokio::time::sleep(rest).await;
                }
                in_blocks = matches!(message, Message::Block(_));
                // Thousands lie in what was read; others have a word to say, too.
                frames += 1;
                if frames.is_multiple_of(FRAMES_AT_ONCE) {
                    tokio::task::yield_now().await;
                }
                let message = match message {
                    Message::Block(block) => {
                        self.payload(block).await?;
                        continue;
                    }
                    Message::Pex { .. } if !self.pace.may_tell_peers(Instant::now()) => Message::KeepAlive,
                    message => message,
                };
                self.shared.events.tell(Event::Input(Input::Message { conn: self.conn, message }))?;
            }
            // Payload that is read together with its header is copied once more, so little is read where one follows.
            let most = if in_blocks { AHEAD_IN_BLOCKS } else { AHEAD };
            self.buffer.reserve(most);
            let mut room = (&mut self.buffer).limit(most);
            if noting_waits(&mut self.waited, self.stream.read_buf(&mut room)).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Takes the next frame out of what was read.
    fn frame(&mut self) -> Result<Option<Message>, ReadEnd> {
        let next = self.codec.next(&mut self.buffer).map_err(|error| ReadEnd::Fault(error.to_string()))?;
        if self.pace.is_flood(self.codec.take_skipped()) {
            return Err(ReadEnd::Fault("too many frames that say nothing".into()));
        }
        Ok(next)
    }

    /// Reads to the end without looking.
    pub(super) async fn drain(&mut self) {
        self.buffer.clear();
        self.buffer.reserve(16 << 10);
        while self.stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0) {
            self.buffer.clear();
        }
    }

    /// Reads a block's payload, what came with the header first, and tells it.
    async fn payload(&mut self, block: Block) -> Result<(), ReadEnd> {
        let mut buffer = self.shared.pool.take(self.proven).await;
        let length = block.length as usize;
        let early = self.buffer.len().min(length);
        buffer[..early].copy_from_slice(&self.buffer[..early]);
        self.buffer.advance(early);
        // It came without having been waited for, and counts all the same: it may be a quarter of a small block.
        self.reported = Instant::now();
        let mut let_in = 0;
        while let_in < early {
            let_in += self.may_read(early - let_in).await?;
        }
        let (mut at, mut told, mut waited) = (early, early, Duration::ZERO);
        while at < length {
            let end = at + self.may_read(length - at).await?;
            while at < end {
                let read = self.read_some(&mut buffer[at..end], at, &mut waited).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                at += read;
                if at < length && at - told >= PROGRESS.1 && self.reported.elapsed() > PROGRESS.0 {
                    (self.reported, told) = (Instant::now(), at);
                    self.shared.events.tell(Event::Input(Input::BlockProgress { conn: self.conn }))?;
                }
            }
        }
        self.proven = waited < QUICK;
        let was_there = !std::mem::take(&mut self.waited);
        self.shared.events.tell(Event::Block { conn: self.conn, block, buffer, was_there })?;
        Ok(())
    }

    /// Waits until our limit lets a part of so many bytes in, and says how large a part. Meanwhile the sender waits for us, and
    /// is not to be taken for one that is silent.
    async fn may_read(&mut self, bytes: usize) -> Result<usize, ReadEnd> {
        let down = &self.shared.down;
        let share = bytes.min(down.share());
        down.acquire(share).await;
        if down.is_limited() && self.reported.elapsed() > LIMITED_PROGRESS {
            self.reported = Instant::now();
            self.shared.events.tell(Event::Input(Input::BlockProgress { conn: self.conn }))?;
        }
        Ok(share)
    }

    /// Reads what is there of a payload, and keeps count of the time that its sender takes. A slow one may go on as long
    /// as nobody else needs the buffer.
    async fn read_some(&mut self, out: &mut [u8], got: usize, waited: &mut Duration) -> io::Result<usize> {
        let start = Instant::now();
        loop {
            let read = tokio::time::timeout(Duration::from_secs(1), self.stream.read(out));
            let read = noting_waits(&mut self.waited, read).await;
            let total = *waited + start.elapsed();
            let stands = if read.is_err() { start.elapsed() } else { Duration::ZERO };
            if is_too_slow(got, total, stands, || self.shared.pool.is_wanted(self.proven)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Ok(read) = read {
                *waited = total;
                return read;
            }
        }
    }
}

/// Whether who sent so much of a payload in this time, and nothing for the last of it, has had its buffer for long enough.
fn is_too_slow(got: usize, total: Duration, stands: Duration, is_wanted: impl FnOnce() -> bool) -> bool {
    let crawls = total > PAYLOAD_YIELDS.0 && (got as f64) < total.as_secs_f64() * PAYLOAD_YIELDS.1;
    (crawls && is_wanted()) || total > PAYLOAD_SLOW || stands > PAYLOAD_STUCK
}

/// Awaits, and sets `waited` if that was not done at once.
async fn noting_waits<F: Future>(waited: &mut bool, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let poll = future.as_mut().poll(context);
        *waited |= poll.is_pending();
        poll
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_sender_keeps_its_buffer_as_long_as_nobody_needs_it() {
        for (got, total_s, stands_s, wanted, ends) in [
            (0, 2, 2, true, false),
            (0, 4, 4, false, false),
            (0, 4, 4, true, true),
            (30_000, 4, 0, true, true),
            (40_000, 4, 0, true, false),
            (40_000, 4, 0, false, false),
            (200_000, 31, 29, false, false),
            (200_000, 31, 31, false, true),
            (200_000, 119, 1, false, false),
            (200_000, 121, 1, false, true),
        ] {
            let (total, stands) = (Duration::from_secs(total_s), Duration::from_secs(stands_s));
            assert_eq!(
                is_too_slow(got, total, stands, || wanted),
                ends,
                "{got} in {total_s} s, {stands_s} s ago, {wanted}"
            );
        }
    }
}
