//! The two tasks of a connection: one reads, one writes.
//!
//! The reader turns control frames into events, and reads each block's payload from the socket straight into a pooled
//! buffer. The writer takes frames and blocks in order; a block leaves the disk only when its turn has come, so nothing
//! is held in memory for a slow receiver. Both end with the connection, and say so once.

use super::buffers::{Buffer, Pool};
use super::driver::Event;
use super::handshake::Opened;
use super::limiter::Limiter;
use super::{send_file, socket};
use crate::store::{ReadError, Source};
use crate::swarm::ConnId;
use bytes::{Buf, BytesMut};
use shoal_protocol::Message;
use shoal_protocol::codec::Codec;
use shoal_protocol::geometry::Piece;
use shoal_protocol::message::Block;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Control bytes that may wait for a peer that doesn't read; more ends the connection.
pub const BACKLOG_MAX: usize = 1 << 20;
/// A write that makes no progress for this long ends the connection.
const WRITE_STUCK: Duration = Duration::from_secs(30);
/// How often a block that arrives slowly is reported.
const PROGRESS: Duration = Duration::from_millis(250);
/// A block whose payload stops for this long ends the connection: it holds a buffer.
const PAYLOAD_STUCK: Duration = Duration::from_secs(30);

/// What a writer is given.
#[derive(Debug)]
enum Command {
    Frame(Message),
    Block(Block),
    /// The frame is the last one.
    End(Message),
}

/// The driver's end of a connection.
#[derive(Debug)]
pub struct Link {
    commands: mpsc::UnboundedSender<Command>,
    backlog: Arc<AtomicUsize>,
    cancel: CancellationToken,
}

/// What all connections of a content share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Where events go.
    pub events: mpsc::Sender<Event>,
    /// Where payload is read from.
    pub source: Arc<dyn Source>,
    /// Block buffers.
    pub pool: Pool,
    /// Limit of what is sent.
    pub up: Limiter,
    /// Limit of what is received.
    pub down: Limiter,
    /// The pieces, to tell packs from parts of large files.
    pub geometry: Arc<shoal_protocol::Geometry>,
}

impl Link {
    /// Queues a frame. Returns false when the peer has let too much wait: the connection should end.
    #[must_use]
    pub fn send(&self, message: Message) -> bool {
        let size = approximate_size(&message);
        let waiting = self.backlog.fetch_add(size, Ordering::Relaxed) + size;
        let _ = self.commands.send(Command::Frame(message));
        waiting <= BACKLOG_MAX
    }

    /// Queues a block.
    pub fn send_block(&self, block: Block) {
        let _ = self.commands.send(Command::Block(block));
    }

    /// Sends a last frame and closes, within two seconds.
    pub fn end(self, farewell: Message) {
        let _ = self.commands.send(Command::End(farewell));
        let cancel = self.cancel;
        tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(2), cancel.cancelled()).await;
            cancel.cancel();
        });
    }
}

fn approximate_size(message: &Message) -> usize {
    match message {
        Message::Bitfield { bits, .. } => bits.len(),
        Message::Have(list) | Message::Unhave(list) => list.len() * 8,
        Message::Cvs { hashes, .. } => hashes.len() * 32,
        Message::ManifestSegment { data, proof, .. } => data.len() + proof.len() * 32,
        _ => 32,
    }
}

/// Starts the tasks of a connection whose hellos are exchanged.
pub fn start(conn: ConnId, opened: Opened, shared: &Shared, parent: &CancellationToken) -> Link {
    socket::tune(&opened.stream, opened.rtt);
    let cancel = parent.child_token();
    let (commands, queue) = mpsc::unbounded_channel();
    let backlog = Arc::new(AtomicUsize::new(0));
    let (read, write) = opened.stream.into_split();
    let reader = Reader {
        conn,
        stream: read,
        buffer: opened.buffer,
        codec: opened.codec,
        shared: shared.clone(),
        reported: Instant::now(),
    };
    let writer = Writer {
        conn,
        stream: write,
        shared: shared.clone(),
        queue,
        backlog: Arc::clone(&backlog),
        fast: false,
        scratch: BytesMut::new(),
        pack: Vec::new(),
    };
    let token = cancel.clone();
    let events = shared.events.clone();
    tokio::spawn(async move {
        // The writer cancels the token at its end, so that either half takes the other with it.
        let writing = tokio::spawn({
            let token = token.clone();
            async move {
                token.run_until_cancelled(writer.run()).await;
                token.cancel();
            }
        });
        token.run_until_cancelled(reader.run()).await;
        token.cancel();
        let _ = writing.await;
        let _ = events.send(Event::Closed { conn }).await;
    });
    Link { commands, backlog, cancel }
}

struct Reader {
    conn: ConnId,
    stream: OwnedReadHalf,
    buffer: BytesMut,
    codec: Codec,
    shared: Shared,
    reported: Instant,
}

impl Reader {
    async fn run(mut self) -> io::Result<()> {
        loop {
            while let Some(message) = self.codec.next(&mut self.buffer).map_err(io::Error::other)? {
                let event = match message {
                    Message::Block(block) => {
                        let buffer = self.payload(block).await?;
                        Event::Block { conn: self.conn, block, buffer }
                    }
                    message => Event::Message { conn: self.conn, message },
                };
                self.shared.events.send(event).await.map_err(io::Error::other)?;
            }
            self.buffer.reserve(8 << 10);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Reads a block's payload: what came with the header first, then straight from the socket.
    async fn payload(&mut self, block: Block) -> io::Result<Buffer> {
        let mut buffer = self.shared.pool.take().await;
        let length = block.length as usize;
        let early = self.buffer.len().min(length);
        buffer[..early].copy_from_slice(&self.buffer[..early]);
        self.buffer.advance(early);
        // It came without having been waited for, and counts all the same: it may be a quarter of a small block.
        self.shared.down.acquire(early).await;
        let mut at = early;
        while at < length {
            let share = (length - at).min(self.shared.down.share());
            self.shared.down.acquire(share).await;
            let end = at + share;
            while at < end {
                let read = self.stream.read(&mut buffer[at..end]);
                let read = tokio::time::timeout(PAYLOAD_STUCK, read).await.map_err(|_| io::ErrorKind::TimedOut)??;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                at += read;
            }
            if at < length && self.reported.elapsed() > PROGRESS {
                self.reported = Instant::now();
                let event = Event::Progress { conn: self.conn };
                self.shared.events.send(event).await.map_err(io::Error::other)?;
            }
        }
        self.reported = Instant::now();
        Ok(buffer)
    }
}

struct Writer {
    conn: ConnId,
    stream: OwnedWriteHalf,
    shared: Shared,
    queue: mpsc::UnboundedReceiver<Command>,
    backlog: Arc<AtomicUsize>,
    fast: bool,
    scratch: BytesMut,
    /// Where blocks of packs are read to; one block at most, and none before the first.
    pack: Vec<u8>,
}

impl Writer {
    async fn run(mut self) -> io::Result<()> {
        while let Some(command) = self.queue.recv().await {
            let mut command = Some(command);
            // Frames that wait leave together; what precedes a block leaves with its header.
            while let Some(now) = command.take() {
                match now {
                    Command::Frame(message) => {
                        self.backlog.fetch_sub(approximate_size(&message), Ordering::Relaxed);
                        message.encode(&mut self.scratch);
                    }
                    Command::Block(block) => self.block(block).await?,
                    Command::End(message) => {
                        message.encode(&mut self.scratch);
                        self.flush().await?;
                        return self.stream.shutdown().await;
                    }
                }
                if self.scratch.len() < 64 << 10 {
                    command = self.queue.try_recv().ok();
                }
            }
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.scratch.is_empty() {
            let write = self.stream.write_all(&self.scratch);
            tokio::time::timeout(WRITE_STUCK, write).await.map_err(|_| io::ErrorKind::TimedOut)??;
            self.scratch.clear();
        }
        Ok(())
    }

    async fn block(&mut self, block: Block) -> io::Result<()> {
        let started = Instant::now();
        let event = match self.prepare(block).await {
            Ok(payload) => {
                Message::Block(block).encode(&mut self.scratch);
                self.flush().await?;
                let patience = WRITE_STUCK.max(self.patience(block));
                tokio::time::timeout(patience, self.payload(payload)).await.map_err(|_| io::ErrorKind::TimedOut)??;
                self.adapt(block, started.elapsed());
                Event::Sent { conn: self.conn, block }
            }
            Err(error) => Event::Unreadable { conn: self.conn, block, error },
        };
        self.shared.events.send(event).await.map_err(io::Error::other)
    }

    /// A rate limit makes a block slow without anybody being stuck.
    fn patience(&self, block: Block) -> Duration {
        if self.shared.up.is_limited() {
            Duration::from_secs(60 + u64::from(block.length) / 1024)
        } else {
            Duration::ZERO
        }
    }

    async fn prepare(&mut self, block: Block) -> Result<Payload, ReadError> {
        // A block of a pack may lie in a thousand files: it is read, not sent from each of them. That takes a while, in
        // which this thread serves others.
        if let Some(Piece::Pack { .. }) = self.shared.geometry.piece(block.piece) {
            let source = Arc::clone(&self.shared.source);
            let mut bytes = std::mem::take(&mut self.pack);
            let read = tokio::task::spawn_blocking(move || {
                bytes.resize(block.length as usize, 0);
                source.read(block, &mut bytes).map(|()| Payload::Bytes(bytes))
            });
            return read.await.map_err(|error| ReadError::Io(io::Error::other(error)))?;
        }
        Ok(Payload::Extents(self.shared.source.extents(block)?))
    }

    async fn payload(&mut self, payload: Payload) -> io::Result<()> {
        match payload {
            Payload::Extents(extents) => {
                for extent in &extents {
                    send_file::send(self.stream.as_ref(), extent, &self.shared.up).await?;
                }
            }
            Payload::Bytes(bytes) => {
                for share in bytes.chunks(self.shared.up.share().min(bytes.len().max(1))) {
                    self.shared.up.acquire(share.len()).await;
                    self.stream.write_all(share).await?;
                }
                self.pack = bytes;
            }
        }
        Ok(())
    }

    /// A fast connection may fill the kernel's buffer; on a slow one, what follows should not wait behind it.
    fn adapt(&mut self, block: Block, elapsed: Duration) {
        let fast = f64::from(block.length) / elapsed.as_secs_f64().max(1e-6) > socket::FAST_BYTES_PER_S;
        if fast != self.fast {
            self.fast = fast;
            socket::set_lowat(self.stream.as_ref(), if fast { socket::LOWAT_FAST } else { socket::LOWAT_SLOW });
        }
    }
}

enum Payload {
    Extents(Vec<crate::store::Extent>),
    Bytes(Vec<u8>),
}
