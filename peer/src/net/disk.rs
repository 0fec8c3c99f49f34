//! The threads that hash and write what arrives.
//!
//! Blocks come while they are still warm, are hashed, and written. All work for one piece goes to one thread, in order,
//! so a piece's hash is fed in order without any lock; pieces spread over the threads. A block out of order (near the
//! end, when two peers serve one piece) makes its piece be hashed once more from what was written. Queues need no limit
//! of their own: every block holds one of the pool's buffers.

use super::buffers::Buffer;
use super::events::{Event, Events};
use crate::aligned::Aligned;
use crate::store::{Download, PieceCheck};
use crate::swarm::{Input, Outcome};
use shoal_protocol::geometry::Piece;
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::message::Block;
use shoal_protocol::{Hash, Manifest};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::runtime::Handle;

/// Threads for one engine: hashing fills a core at 2 GB/s, so a second one helps and more don't.
pub const THREADS: usize = 2;

/// What the threads need to know of a fetch.
#[derive(Debug, Clone)]
pub struct Place {
    /// Tells the fetches of one engine apart.
    pub content: u64,
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Where it is written.
    pub download: Arc<Download>,
    /// Where results go.
    pub events: Events,
}

/// What is to be done.
#[derive(Debug)]
pub enum Job {
    /// Write and hash a block; `last` is the last one missing of its piece.
    Store {
        /// Which.
        block: Block,
        /// Its bytes.
        buffer: Buffer,
        /// All other blocks of the piece were given before.
        last: bool,
    },
    /// Forget what was hashed of a piece.
    Restart(u32),
    /// Write into the journal that a piece is had.
    Commit(u32),
    /// Hash each block of a piece as it lies on disk.
    HashBlocks(u32),
    /// Keep proven CVs.
    KeepCvs(u32, Vec<Hash>),
}

/// The threads. They end when this is dropped.
#[derive(Debug)]
pub struct Disk {
    threads: Vec<Sender<(Arc<Place>, Job)>>,
}

impl Disk {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses threads.
    pub fn start(runtime: &Handle) -> io::Result<Self> {
        let threads = (0..THREADS).map(|n| {
            let (sender, jobs) = channel();
            let runtime = runtime.clone();
            std::thread::Builder::new().name(format!("disk-{n}")).spawn(move || {
                // What a result leads to may start tasks.
                let _runtime = runtime.enter();
                work(&jobs);
            })?;
            Ok(sender)
        });
        Ok(Self { threads: threads.collect::<io::Result<_>>()? })
    }

    /// Hands over a job.
    pub fn give(&self, place: &Arc<Place>, job: Job) {
        let piece = match &job {
            Job::Store { block, .. } => block.piece,
            Job::Restart(piece) | Job::Commit(piece) | Job::HashBlocks(piece) | Job::KeepCvs(piece, _) => *piece,
        };
        // A thread ends only with this sender, so this can't fail.
        let _ = self.threads[piece as usize % self.threads.len()].send((Arc::clone(place), job));
    }
}

/// A piece that is being hashed.
struct Hashing {
    check: PieceCheck,
    /// Where the next byte in order begins.
    next: u32,
    /// A block came out of order: the hash is taken from the disk at the end.
    reread: bool,
}

fn work(jobs: &Receiver<(Arc<Place>, Job)>) {
    let mut under_way: BTreeMap<(u64, u32), Hashing> = BTreeMap::new();
    while let Ok((place, job)) = jobs.recv() {
        let event = match job {
            Job::Store { block, buffer, last } => {
                store(&place, &mut under_way, block, &buffer[..block.length as usize], last)
            }
            Job::Restart(piece) => {
                under_way.remove(&(place.content, piece));
                Ok(None)
            }
            Job::Commit(piece) => {
                place.download.mark_verified(piece).map(|()| Some(Event::Input(Input::Committed { piece })))
            }
            Job::HashBlocks(piece) => {
                hash_blocks(&place, piece).map(|hashes| Some(Event::Input(Input::BlockHashes { piece, hashes })))
            }
            Job::KeepCvs(first, cvs) => place
                .download
                .add_cvs(first, &cvs)
                .map(|pieces| (!pieces.is_empty()).then_some(Event::Input(Input::Found { pieces }))),
        };
        let event = event.unwrap_or_else(|error| Some(Event::DiskFailed { error }));
        if let Some(event) = event {
            // The swarm may have ended already: then nobody needs the result.
            let _ = place.events.tell(event);
        }
    }
}

fn store(
    place: &Place,
    under_way: &mut BTreeMap<(u64, u32), Hashing>,
    block: Block,
    bytes: &[u8],
    last: bool,
) -> io::Result<Option<Event>> {
    let piece = block.piece;
    let hashing = under_way.entry((place.content, piece)).or_insert_with(|| Hashing {
        check: PieceCheck::new(&place.manifest, piece, None),
        next: 0,
        reread: false,
    });
    if block.offset == hashing.next && !hashing.reread {
        hashing.check.update(bytes);
        hashing.next += block.length;
    } else {
        hashing.reread = true;
    }
    place.download.write(block, bytes)?;
    if !last {
        return Ok(None);
    }
    let Some(mut hashing) = under_way.remove(&(place.content, piece)) else { return Ok(None) };
    if hashing.reread {
        hashing.check = PieceCheck::new(&place.manifest, piece, None);
        each_block(place, piece, |bytes| hashing.check.update(bytes))?;
    }
    let outcome = match place.manifest.geometry().piece(piece) {
        Some(Piece::Pack { .. }) => Outcome::Pack(hashing.check.finish()),
        // A hash that nothing has stands for a piece of the wrong length.
        _ => Outcome::Cv(hashing.check.cv().unwrap_or_default()),
    };
    Ok(Some(Event::Input(Input::Hashed { piece, outcome })))
}

fn hash_blocks(place: &Place, piece: u32) -> io::Result<Vec<Hash>> {
    let mut hashes = Vec::new();
    each_block(place, piece, |bytes| hashes.push(*blake3::hash(bytes).as_bytes()))?;
    Ok(hashes)
}

fn each_block(place: &Place, piece: u32, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let total = place.manifest.geometry().piece_length(piece);
    let mut buffer = Aligned::new(BLOCK_BYTES.min(total) as usize);
    for offset in (0..total).step_by(BLOCK_BYTES as usize) {
        let length = (total - offset).min(BLOCK_BYTES);
        place.download.read_unverified(Block { piece, offset, length }, &mut buffer[..length as usize])?;
        take(&buffer[..length as usize]);
    }
    Ok(())
}
