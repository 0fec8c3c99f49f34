//! The two tasks of a connection: one reads, one writes.
//!
//! The reader turns control frames into events, and reads each block's payload from the socket straight into a pooled
//! buffer. The writer takes frames and blocks in order; a block leaves the disk only when its turn has come, so nothing
//! is held in memory for a slow receiver. Both end with the connection, and say so once.

use super::buffers::{Buffer, Pool};
use super::driver::Event;
use super::handshake::Opened;
use super::limiter::Limiter;
use super::send_file::{self, Patience, WRITE_STUCK};
use super::socket;
use crate::store::{ReadError, Source};
use crate::swarm::ConnId;
use bytes::{Buf, BufMut, BytesMut};
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
use tokio_util::task::TaskTracker;

/// Control bytes that may wait for a peer that doesn't read; more ends the connection.
pub const BACKLOG_MAX: usize = 1 << 20;
/// The same for all peers together: beyond it, whoever lets more than [`BACKLOG_FAIR`] wait is ended.
pub const BACKLOG_ALL: usize = 64 << 20;
const BACKLOG_FAIR: usize = 64 << 10;
/// What is read at once where frames are expected, and where a block's header is: most of that is payload.
const AHEAD: usize = 8 << 10;
const AHEAD_IN_BLOCKS: usize = 256;
/// How often a block that arrives slowly is reported, and how much of it must have come: crumbs are no progress.
const PROGRESS: (Duration, usize) = (Duration::from_millis(250), 8 << 10);
/// A block whose payload stops for this long, or takes [`PAYLOAD_SLOW`] in all, ends the connection: it holds a buffer.
const PAYLOAD_STUCK: Duration = Duration::from_secs(30);
const PAYLOAD_SLOW: Duration = Duration::from_secs(120);
/// After this long a buffer is given up if others wait for it and fewer bytes per second come than an honest link has.
const PAYLOAD_YIELDS: (Duration, f64) = (Duration::from_secs(3), 8_192.0);
/// Whose block takes no longer than this is trusted with the buffers of the quick.
const QUICK: Duration = Duration::from_secs(1);
/// Frames that bring nothing (keep-alives, pings, unknown ones that may be skipped) in one second; more are a flood.
const EMPTY_MAX: u32 = 256;
/// What one peer's frames may cost us in one second, in parts of what a cheap one does; then it is read later.
const COSTS_MAX: u32 = 400_000;
/// Peers are told of others at most this often; what comes sooner is ignored. Ours send every 5 s.
const PEX_APART: Duration = Duration::from_secs(4);

/// After so much payload a writer looks at how fast its line is.
const PACE_BYTES: u64 = 2 << 20;

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
    backlog: Arc<Backlog>,
    /// Nothing that comes is of interest any more.
    ended: CancellationToken,
    cancel: CancellationToken,
}

/// Bytes that wait for one peer, counted for all of them, too.
#[derive(Debug)]
struct Backlog {
    own: AtomicUsize,
    all: Arc<AtomicUsize>,
}

impl Backlog {
    /// Adds a frame; false when the peer lets too much wait.
    fn add(&self, size: usize) -> bool {
        let own = self.own.fetch_add(size, Ordering::Relaxed) + size;
        let all = self.all.fetch_add(size, Ordering::Relaxed) + size;
        own <= BACKLOG_MAX && (all <= BACKLOG_ALL || own <= BACKLOG_FAIR)
    }

    fn remove(&self, size: usize) {
        self.own.fetch_sub(size, Ordering::Relaxed);
        self.all.fetch_sub(size, Ordering::Relaxed);
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.all.fetch_sub(*self.own.get_mut(), Ordering::Relaxed);
    }
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
    /// Control bytes that wait for all peers of the engine.
    pub backlog: Arc<AtomicUsize>,
    /// Where tasks are counted, so that the engine's end can wait for theirs.
    pub tasks: TaskTracker,
}

impl Link {
    /// Queues a frame. Returns false when the peer has let too much wait: the connection should end.
    #[must_use]
    pub fn send(&self, message: Message) -> bool {
        let fits = self.backlog.add(approximate_size(&message));
        let _ = self.commands.send(Command::Frame(message));
        fits
    }

    /// Queues a block.
    pub fn send_block(&self, block: Block) {
        let _ = self.commands.send(Command::Block(block));
    }

    /// Sends a last frame and closes, within two seconds. What still comes is thrown away: it must come out of the
    /// socket, as closing over unread bytes would take the farewell with it.
    pub fn end(self, farewell: Message) {
        let _ = self.commands.send(Command::End(farewell));
        self.ended.cancel();
        let cancel = self.cancel;
        tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(2), cancel.cancelled()).await;
            cancel.cancel();
        });
    }
}

fn approximate_size(message: &Message) -> usize {
    let size = match message {
        Message::Bitfield { bits, .. } => bits.len(),
        Message::Have(list) | Message::Unhave(list) => list.len() * 8,
        Message::Cvs { hashes, .. } => hashes.len() * 32,
        Message::ManifestSegment { data, proof, .. } => data.len() + proof.len() * 32,
        Message::Busy { peers, .. } => peers.len() * 32,
        Message::Pex { added, dropped } => (added.len() + dropped.len()) * 36,
        _ => 0,
    };
    // What a place in the queue takes.
    size + 128
}

/// Starts the tasks of a connection whose hellos are exchanged.
pub fn start(conn: ConnId, opened: Opened, shared: &Shared, parent: &CancellationToken) -> Link {
    socket::tune(&opened.stream, opened.rtt);
    let cancel = parent.child_token();
    let (commands, queue) = mpsc::unbounded_channel();
    let backlog = Arc::new(Backlog { own: AtomicUsize::new(0), all: Arc::clone(&shared.backlog) });
    let ended = CancellationToken::new();
    let (read, write) = opened.stream.into_split();
    let mut reader = Reader {
        conn,
        stream: read,
        buffer: opened.buffer,
        codec: opened.codec,
        shared: shared.clone(),
        reported: Instant::now(),
        proven: false,
        in_blocks: false,
        pace: Pace::new(),
        pex_after: Instant::now(),
    };
    let writer = Writer {
        conn,
        stream: write,
        shared: shared.clone(),
        queue,
        backlog: Arc::clone(&backlog),
        fast: false,
        sent: (0, Duration::ZERO),
        scratch: BytesMut::new(),
        pack: Vec::new(),
    };
    let (token, stop) = (cancel.clone(), ended.clone());
    let (events, tasks, admission) = (shared.events.clone(), shared.tasks.clone(), opened.admission);
    shared.tasks.spawn(async move {
        // The writer cancels the token at its end, so that either half takes the other with it; after a farewell the
        // other side's end is waited for.
        let writing = tasks.spawn({
            let token = token.clone();
            async move {
                if !matches!(token.run_until_cancelled(writer.run()).await, Some(Ok(Written::Farewell))) {
                    token.cancel();
                }
            }
        });
        let reading = async {
            let result = tokio::select! {
                result = reader.run() => result,
                () = stop.cancelled() => return reader.drain().await,
            };
            if let Err(ReadEnd::Fault(text)) = result
                && reader.shared.events.send(Event::Broke { conn, text }).await.is_ok()
            {
                // The driver ends the connection now, with a farewell.
                reader.drain().await;
            }
        };
        token.run_until_cancelled(reading).await;
        token.cancel();
        let _ = writing.await;
        drop((reader, admission));
        let _ = events.send(Event::Closed { conn }).await;
    });
    Link { commands, backlog, ended, cancel }
}

/// Why reading ended.
enum ReadEnd {
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

impl From<io::ErrorKind> for ReadEnd {
    fn from(_: io::ErrorKind) -> Self {
        Self::Gone
    }
}

/// How many frames came in the current second, by what they cost.
struct Pace {
    second: Instant,
    costs: u32,
    empty: u32,
}

impl Pace {
    fn new() -> Self {
        Self { second: Instant::now(), costs: 0, empty: 0 }
    }

    /// Counts a frame; gives how long to read nothing more.
    fn note(&mut self, message: &Message) -> Option<Duration> {
        self.roll();
        let cost = match message {
            // Each takes a piece of a hash tree.
            Message::CvRequest { .. } => 4_000,
            Message::ManifestRequest { .. } | Message::Pex { .. } => 1_000,
            Message::Have(list) | Message::Unhave(list) => {
                // A range is 8 bytes here and may be millions of pieces to count.
                let pieces = list.iter().map(|(_, count)| u64::from(*count)).sum::<u64>() / 8;
                u32::try_from(pieces).unwrap_or(u32::MAX).saturating_add(10 + list.len() as u32)
            }
            Message::Busy { peers, .. } => 10 + 10 * peers.len() as u32,
            Message::KeepAlive | Message::Ping { .. } | Message::Pong { .. } => {
                self.empty += 1;
                1
            }
            _ => 1,
        };
        self.costs = self.costs.saturating_add(cost);
        (self.costs > COSTS_MAX).then(|| Duration::from_secs(1).saturating_sub(self.second.elapsed()))
    }

    /// Counts frames that were skipped; whether all that say nothing are too many by now.
    fn is_flood(&mut self, skipped: u32) -> bool {
        if skipped > 0 {
            self.roll();
            self.empty = self.empty.saturating_add(skipped);
        }
        self.empty > EMPTY_MAX
    }

    fn roll(&mut self) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
    }
}

struct Reader {
    conn: ConnId,
    stream: OwnedReadHalf,
    buffer: BytesMut,
    codec: Codec,
    shared: Shared,
    reported: Instant,
    /// Its last block came at a good pace.
    proven: bool,
    /// The last frame was a block, so the next one most likely is one, too.
    in_blocks: bool,
    pace: Pace,
    pex_after: Instant,
}

impl Reader {
    async fn run(&mut self) -> Result<(), ReadEnd> {
        loop {
            loop {
                let next = self.codec.next(&mut self.buffer).map_err(|error| ReadEnd::Fault(error.to_string()))?;
                if self.pace.is_flood(self.codec.take_skipped()) {
                    return Err(ReadEnd::Fault("too many frames that say nothing".into()));
                }
                let Some(mut message) = next else { break };
                if let Some(pause) = self.pace.note(&message) {
                    tokio::time::sleep(pause).await;
                }
                if let Message::Pex { .. } = message {
                    if Instant::now() < self.pex_after {
                        message = Message::KeepAlive;
                    } else {
                        self.pex_after = Instant::now() + PEX_APART;
                    }
                }
                self.in_blocks = matches!(message, Message::Block(_));
                let event = match message {
                    Message::Block(block) => {
                        let buffer = self.payload(block).await?;
                        Event::Block { conn: self.conn, block, buffer }
                    }
                    message => Event::Message { conn: self.conn, message },
                };
                self.shared.events.send(event).await.map_err(|_| ReadEnd::Gone)?;
            }
            // Payload that is read together with its header is copied once more, so little is read where one follows.
            let most = if self.in_blocks { AHEAD_IN_BLOCKS } else { AHEAD };
            self.in_blocks = false;
            self.buffer.reserve(most);
            if self.stream.read_buf(&mut (&mut self.buffer).limit(most)).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Reads to the end without looking.
    async fn drain(&mut self) {
        self.buffer.clear();
        self.buffer.reserve(16 << 10);
        while self.stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0) {
            self.buffer.clear();
        }
    }

    /// Reads a block's payload: what came with the header first, then straight from the socket.
    async fn payload(&mut self, block: Block) -> Result<Buffer, ReadEnd> {
        let mut buffer = self.shared.pool.take(self.proven).await;
        let length = block.length as usize;
        let early = self.buffer.len().min(length);
        buffer[..early].copy_from_slice(&self.buffer[..early]);
        self.buffer.advance(early);
        // It came without having been waited for, and counts all the same: it may be a quarter of a small block.
        self.shared.down.acquire(early).await;
        let (mut at, mut told, mut waited) = (early, early, Duration::ZERO);
        self.reported = Instant::now();
        while at < length {
            let share = (length - at).min(self.shared.down.share());
            self.shared.down.acquire(share).await;
            let end = at + share;
            while at < end {
                let read = self.read_some(&mut buffer[at..end], at, &mut waited).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                at += read;
                if at < length && at - told >= PROGRESS.1 && self.reported.elapsed() > PROGRESS.0 {
                    (self.reported, told) = (Instant::now(), at);
                    let event = Event::Progress { conn: self.conn };
                    self.shared.events.send(event).await.map_err(|_| ReadEnd::Gone)?;
                }
            }
        }
        self.proven = waited < QUICK;
        Ok(buffer)
    }

    /// Reads what is there of a payload, and keeps count of the time that its sender takes. A slow one may go on as long
    /// as nobody else needs the buffer.
    async fn read_some(&mut self, out: &mut [u8], got: usize, waited: &mut Duration) -> io::Result<usize> {
        let start = Instant::now();
        loop {
            let read = tokio::time::timeout(Duration::from_secs(1), self.stream.read(out)).await;
            let total = *waited + start.elapsed();
            let crawls = total > PAYLOAD_YIELDS.0 && (got as f64) < total.as_secs_f64() * PAYLOAD_YIELDS.1;
            let yields = crawls && self.shared.pool.is_wanted(self.proven);
            if yields || total > PAYLOAD_SLOW || (read.is_err() && start.elapsed() > PAYLOAD_STUCK) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Ok(read) = read {
                *waited = total;
                return read;
            }
        }
    }
}

struct Writer {
    conn: ConnId,
    stream: OwnedWriteHalf,
    shared: Shared,
    queue: mpsc::UnboundedReceiver<Command>,
    backlog: Arc<Backlog>,
    fast: bool,
    /// Payload since it was last asked whether this line is fast, and how long that took.
    sent: (u64, Duration),
    scratch: BytesMut,
    /// Where blocks of packs are read to; one block at most, and none before the first.
    pack: Vec<u8>,
}

/// How writing ended.
enum Written {
    /// Nobody will give us anything any more.
    All,
    /// The last frame is out.
    Farewell,
}

impl Writer {
    async fn run(mut self) -> io::Result<Written> {
        while let Some(command) = self.queue.recv().await {
            let mut command = Some(command);
            // Frames that wait leave together; what precedes a block leaves with its header.
            while let Some(now) = command.take() {
                match now {
                    Command::Frame(message) => {
                        self.backlog.remove(approximate_size(&message));
                        message.encode(&mut self.scratch);
                    }
                    Command::Block(block) => self.block(block).await?,
                    Command::End(message) => {
                        message.encode(&mut self.scratch);
                        self.flush().await?;
                        self.stream.shutdown().await?;
                        return Ok(Written::Farewell);
                    }
                }
                if self.scratch.len() < 64 << 10 {
                    command = self.queue.try_recv().ok();
                }
            }
            self.flush().await?;
        }
        Ok(Written::All)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.scratch.is_empty() {
            let write = self.stream.write_all(&self.scratch);
            tokio::time::timeout(WRITE_STUCK, write).await.map_err(|_| io::ErrorKind::TimedOut)??;
            self.scratch.clear();
        }
        Ok(())
    }

    /// As [`flush`](Self::flush), but what goes out may wait for the payload that follows, and leave with it.
    async fn flush_before_payload(&mut self) -> io::Result<()> {
        let mut patience = Patience::default();
        while !self.scratch.is_empty() {
            patience.writable(self.stream.as_ref()).await?;
            match send_file::send_ahead(self.stream.as_ref(), &self.scratch) {
                Ok(sent) => self.scratch.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn block(&mut self, block: Block) -> io::Result<()> {
        let event = match self.prepare(block).await {
            Ok(payload) => {
                let started = Instant::now();
                Message::Block(block).encode(&mut self.scratch);
                self.flush_before_payload().await?;
                self.payload(payload).await?;
                self.adapt(block.length, started.elapsed());
                Event::Sent { conn: self.conn, block }
            }
            Err(error) => Event::Unreadable { conn: self.conn, block, error },
        };
        self.shared.events.send(event).await.map_err(io::Error::other)
    }

    /// Opens what a block lies in. For the first block of a piece that may mean hashing all of it, and a block of a pack
    /// may lie in a thousand files: that happens on another thread, as this one serves other connections, too.
    async fn prepare(&mut self, block: Block) -> Result<Payload, ReadError> {
        let source = Arc::clone(&self.shared.source);
        let is_pack = matches!(self.shared.geometry.piece(block.piece), Some(Piece::Pack { .. }));
        if !is_pack && source.is_open(block) {
            return Ok(Payload::Extents(source.extents(block)?));
        }
        let mut bytes = std::mem::take(&mut self.pack);
        let open = tokio::task::spawn_blocking(move || {
            if !is_pack {
                return Ok(Payload::Extents(source.extents(block)?));
            }
            bytes.resize(block.length as usize, 0);
            source.read(block, &mut bytes)?;
            Ok(Payload::Bytes(bytes))
        });
        open.await.unwrap_or_else(|error| Err(ReadError::Io(io::Error::other(error))))
    }

    async fn payload(&mut self, payload: Payload) -> io::Result<()> {
        let mut patience = Patience::default();
        let stream = self.stream.as_ref();
        match payload {
            Payload::Extents(extents) => {
                for extent in &extents {
                    send_file::send(stream, extent, &self.shared.up, &mut patience).await?;
                }
            }
            Payload::Bytes(bytes) => {
                for share in bytes.chunks(self.shared.up.share().min(bytes.len().max(1))) {
                    self.shared.up.acquire(share.len()).await;
                    let mut rest = share;
                    while !rest.is_empty() {
                        patience.writable(stream).await?;
                        match stream.try_write(rest) {
                            Ok(sent) => rest = &rest[sent..],
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                self.pack = bytes;
            }
        }
        // On a slow line a block that the system has taken is far from sent. While turns passed on at that moment, the
        // uplink of 5 Mbit/s of a host with 12 peers had a second of payload before each of its requests.
        if self.fast { Ok(()) } else { send_file::drained(self.stream.as_ref(), &mut patience).await }
    }

    /// A fast connection may fill the kernel's buffer; on a slow one, what follows should not wait behind it. An empty
    /// buffer takes a block at once on any line, so many blocks are looked at together.
    fn adapt(&mut self, length: u32, elapsed: Duration) {
        let (bytes, time) = &mut self.sent;
        *bytes += u64::from(length);
        *time += elapsed;
        if *bytes < PACE_BYTES {
            return;
        }
        let fast = *bytes as f64 / time.as_secs_f64().max(1e-6) > socket::FAST_BYTES_PER_S;
        self.sent = (0, Duration::ZERO);
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
