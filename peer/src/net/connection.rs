//! The two tasks of a connection: one reads, one writes.
//!
//! The [`Reader`] turns frames into events. The writer takes frames and blocks in order; a block leaves the disk only when
//! its turn has come, so nothing is held in memory for a slow receiver. Both end with the connection, and say so once.

use super::buffers::Pool;
use super::events::{Event, Events, Gone};
use super::handshake::Opened;
use super::limiter::Limiter;
use super::losses::{self, Sent};
use super::reader::{ReadEnd, Reader};
use super::send_file::{self, Patience, WRITE_STUCK};
use super::socket;
use crate::store::{ReadError, Source};
use crate::swarm::{ConnId, Input};
use bytes::{Buf, BytesMut};
use shoal_protocol::Message;
use shoal_protocol::geometry::Piece;
use shoal_protocol::message::Block;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Control bytes that may wait for a peer that doesn't read; more ends the connection.
pub const BACKLOG_MAX: usize = 1 << 20;
/// The same for all peers together: beyond it, whoever lets more than [`BACKLOG_FAIR`] wait is ended.
pub const BACKLOG_ALL: usize = 64 << 20;
const BACKLOG_FAIR: usize = 64 << 10;

/// How often the system is asked what a slow line lost.
const LOSSES_EACH: Duration = Duration::from_millis(250);
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
    /// Where events are told.
    pub events: Events,
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
    let may_change = socket::tune(&opened.stream, opened.rtt);
    let cancel = parent.child_token();
    let (commands, queue) = mpsc::unbounded_channel();
    let backlog = Arc::new(Backlog { own: AtomicUsize::new(0), all: Arc::clone(&shared.backlog) });
    let ended = CancellationToken::new();
    let (read, write) = opened.stream.into_split();
    let mut reader = Reader::new(conn, read, opened.buffer, opened.codec, shared);
    let writer = Writer {
        conn,
        stream: write,
        shared: shared.clone(),
        queue,
        backlog: Arc::clone(&backlog),
        lowat: socket::LOWAT_SLOW,
        sent: (0, Duration::ZERO),
        losses: may_change.then(|| (Instant::now(), Sent::default())),
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
                && events.tell(Event::Broke { conn, text }).is_ok()
            {
                // The driver ends the connection now, with a farewell.
                reader.drain().await;
            }
        };
        token.run_until_cancelled(reading).await;
        token.cancel();
        let _ = writing.await;
        drop((reader, admission));
        let _ = events.tell(Event::Closed { conn });
    });
    Link { commands, backlog, ended, cancel }
}

struct Writer {
    conn: ConnId,
    stream: OwnedWriteHalf,
    shared: Shared,
    queue: mpsc::UnboundedReceiver<Command>,
    backlog: Arc<Backlog>,
    /// What the socket was told of unsent bytes.
    lowat: u32,
    /// Payload since it was last asked whether this line is fast, and how long that took.
    sent: (u64, Duration),
    /// When the system was last asked what got lost, and what it said; as long as that can change anything.
    losses: Option<(Instant, Sent)>,
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
                        let before = self.scratch.len();
                        message.encode(&mut self.scratch);
                        // What others ask for beside blocks, and that is as long.
                        if matches!(message, Message::Cvs { .. } | Message::ManifestSegment { .. }) {
                            let mut left = self.scratch.len() - before;
                            while left > 0 {
                                let share = left.min(self.shared.up.share());
                                self.shared.up.acquire(share).await;
                                left -= share;
                            }
                        }
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
                Event::Input(Input::BlockSent { conn: self.conn, block })
            }
            Err(error) => Event::Unreadable { conn: self.conn, block, error },
        };
        self.shared.events.tell(event).map_err(|Gone| io::ErrorKind::NotConnected.into())
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
        if self.lowat > socket::LOWAT_SLOW {
            Ok(())
        } else {
            send_file::drained(self.stream.as_ref(), &mut patience).await
        }
    }

    /// A fast connection may fill the kernel's buffer; on a slow one, what follows should not wait behind it. An empty
    /// buffer takes a block at once on any line, so many blocks are looked at together.
    fn adapt(&mut self, length: u32, elapsed: Duration) {
        self.look_for_losses();
        let (bytes, time) = &mut self.sent;
        *bytes += u64::from(length);
        *time += elapsed;
        if *bytes < PACE_BYTES {
            return;
        }
        let lowat = socket::lowat(*bytes as f64 / time.as_secs_f64().max(1e-6));
        self.sent = (0, Duration::ZERO);
        if lowat != self.lowat {
            self.lowat = lowat;
            socket::set_lowat(self.stream.as_ref(), lowat);
        }
    }

    /// On a line that drops packets the congestion control of short paths is the wrong one.
    fn look_for_losses(&mut self) {
        let Some((looked, before)) = &mut self.losses else { return };
        if self.lowat > socket::LOWAT_SLOW || looked.elapsed() < LOSSES_EACH {
            return;
        }
        *looked = Instant::now();
        let stream = self.stream.as_ref();
        let Some(now) = losses::sent(stream) else {
            self.losses = None;
            return;
        };
        match now.shows_a_bad_line(before) {
            None => {}
            Some(false) => *before = now,
            Some(true) => {
                tracing::debug!(conn = self.conn, "a line that drops packets");
                socket::as_system(stream);
                self.losses = None;
            }
        }
    }
}

enum Payload {
    Extents(Vec<crate::store::Extent>),
    Bytes(Vec<u8>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lets_too_much_wait_is_found() {
        let all = Arc::new(AtomicUsize::new(0));
        let backlog = || Backlog { own: AtomicUsize::new(0), all: Arc::clone(&all) };
        let one = backlog();
        assert!(one.add(BACKLOG_MAX - 1) && one.add(1));
        assert!(!one.add(1), "more than one may");
        one.remove(2);
        assert!(one.add(1));
        // With all together at their limit, who has little waiting goes on, and who has more doesn't.
        let rest = Backlog { own: AtomicUsize::new(0), all: Arc::clone(&all) };
        rest.add(BACKLOG_ALL - BACKLOG_MAX - BACKLOG_FAIR);
        let (modest, other) = (backlog(), backlog());
        assert!(modest.add(BACKLOG_FAIR));
        assert!(!modest.add(1) && other.add(1));
        drop((one, rest, modest, other));
        assert_eq!(all.load(Ordering::Relaxed), 0, "it goes with who let it wait");
    }
}
