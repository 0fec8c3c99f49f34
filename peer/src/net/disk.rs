//! Writes what arrives: at once where that takes no longer than a copy, otherwise on threads.
//!
//! A block of a large file comes with its hash, which was taken where it was received. Another thread that wrote it would
//! fetch it from that core's cache (0.15 against 0.06 CPU-seconds per GiB), so it is written where it is while the system
//! takes it like a copy in memory. What isn't that quick goes to threads: packs, which are made of many files and are
//! hashed here, member by member; the first block of a file, which opens it; and all, for a while, after a write that the
//! system kept waiting. All work for one file goes to one lane, in order; files and packs spread over the lanes. Queues
//! need no limit of their own: every block holds one of the pool's buffers.

use super::buffers::Buffer;
use super::driver::Event;
use crate::store::{BlockCvs, Download, PieceCheck};
use crate::swarm::Outcome;
use shoal_protocol::geometry::Piece;
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::message::Block;
use shoal_protocol::{Hash, Manifest};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Threads for one engine: making many small files fills a core, so a second one helps and more don't.
pub const THREADS: usize = 2;
/// A write of a block takes the system 0.1 ms; one that takes this long has waited for a disk or for a busy machine.
const SLOW: Duration = Duration::from_millis(20);
/// For so many times as long as it took, writing is left to the threads: whose turn it was loses one part in a hundred.
const SLOW_REST: u32 = 100;

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
    pub events: mpsc::Sender<Event>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Job {
    /// Write a block, and hash it if it lies in a pack; `last` is the last one missing of its piece.
    Store {
        /// Which.
        block: Block,
        /// Its bytes.
        buffer: Buffer,
        /// What they hash to, where that stands for itself.
        cv: Option<Hash>,
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

/// The lanes. Their threads end when this is dropped.
#[derive(Debug)]
pub struct Disk {
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    queue: Sender<(Arc<Place>, Job)>,
    work: Arc<Work>,
}

/// What a lane's thread shares with those who do a job themselves.
#[derive(Debug, Default)]
struct Work {
    state: Mutex<State>,
    /// Jobs that the thread has yet to end.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    under_way: BTreeMap<(u64, u32), Hashing>,
    /// Until then the thread does all.
    slow_until: Option<Instant>,
}

impl Disk {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses threads.
    pub fn start() -> io::Result<Self> {
        let lanes = (0..THREADS).map(|n| {
            let (queue, jobs) = channel();
            let work = Arc::new(Work::default());
            let own = Arc::clone(&work);
            std::thread::Builder::new().name(format!("disk-{n}")).spawn(move || run(&own, &jobs))?;
            Ok(Lane { queue, work })
        });
        Ok(Self { lanes: lanes.collect::<io::Result<_>>()? })
    }

    /// Does a job now, and gives what came of it, or hands it over; then that goes to the place's events. Jobs of one
    /// piece are given by one task at a time, and are done in that order.
    #[must_use]
    pub fn give(&self, place: &Arc<Place>, job: Job) -> Option<Event> {
        let piece = match &job {
            Job::Store { block, .. } => block.piece,
            Job::Restart(piece) | Job::Commit(piece) | Job::HashBlocks(piece) | Job::KeepCvs(piece, _) => *piece,
        };
        let file = match place.manifest.geometry().piece(piece) {
            Some(Piece::Subtree { entry, .. }) => entry,
            _ => piece,
        };
        let lane = &self.lanes[file as usize % self.lanes.len()];
        let is_quick = matches!(job, Job::Store { .. } | Job::Restart(_) | Job::Commit(_));
        if is_quick
            && lane.work.waiting.load(Ordering::Acquire) == 0
            && place.download.is_open_for(piece)
            && let Ok(mut state) = lane.work.state.try_lock()
            && state.slow_until.is_none_or(|until| until < Instant::now())
        {
            return state.timed(place, job);
        }
        lane.work.waiting.fetch_add(1, Ordering::Relaxed);
        // A thread ends only with this sender, so this can't fail.
        let _ = lane.queue.send((Arc::clone(place), job));
        None
    }
}

/// A piece that is being hashed.
#[derive(Debug)]
enum Hashing {
    /// Of a large file.
    Blocks(BlockCvs),
    /// Of small files.
    Pack {
        check: PieceCheck,
        /// Where the next byte in order begins.
        next: u32,
        /// A block came out of order: the hash is taken from the disk at the end.
        reread: bool,
    },
}

impl Hashing {
    fn new(place: &Place, piece: u32) -> Self {
        match place.manifest.geometry().piece(piece) {
            Some(Piece::Pack { .. }) => {
                Self::Pack { check: PieceCheck::new(&place.manifest, piece, None), next: 0, reread: false }
            }
            _ => Self::Blocks(BlockCvs::new(&place.manifest, piece)),
        }
    }
}

fn run(work: &Work, jobs: &Receiver<(Arc<Place>, Job)>) {
    while let Ok((place, job)) = jobs.recv() {
        let event = work.state().job(&place, job);
        work.waiting.fetch_sub(1, Ordering::Release);
        if let Some(event) = event {
            // The driver may be gone already: then nobody needs the result.
            let _ = place.events.blocking_send(event);
        }
    }
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// As [`job`](Self::job), where others wait for the thread that does it.
    fn timed(&mut self, place: &Place, job: Job) -> Option<Event> {
        let start = Instant::now();
        let event = self.job(place, job);
        let took = start.elapsed();
        self.slow_until = (took > SLOW).then(|| start + took * SLOW_REST);
        event
    }

    fn job(&mut self, place: &Place, job: Job) -> Option<Event> {
        let event = match job {
            Job::Store { block, buffer, cv, last } => {
                self.store(place, block, &buffer[..block.length as usize], cv, last)
            }
            Job::Restart(piece) => {
                self.under_way.remove(&(place.content, piece));
                Ok(None)
            }
            Job::Commit(piece) => place.download.mark_verified(piece).map(|()| Some(Event::Committed { piece })),
            Job::HashBlocks(piece) => {
                hash_blocks(place, piece).map(|hashes| Some(Event::BlockHashes { piece, hashes }))
            }
            Job::KeepCvs(first, cvs) => place
                .download
                .add_cvs(first, &cvs)
                .map(|pieces| (!pieces.is_empty()).then_some(Event::Found { pieces })),
        };
        event.unwrap_or_else(|error| Some(Event::DiskFailed { error }))
    }

    fn store(
        &mut self,
        place: &Place,
        block: Block,
        bytes: &[u8],
        cv: Option<Hash>,
        last: bool,
    ) -> io::Result<Option<Event>> {
        let key = (place.content, block.piece);
        match self.under_way.entry(key).or_insert_with(|| Hashing::new(place, block.piece)) {
            Hashing::Blocks(cvs) => cvs.put(block, cv),
            Hashing::Pack { check, next, reread } if block.offset == *next && !*reread => {
                check.update(bytes);
                *next += block.length;
            }
            Hashing::Pack { reread, .. } => *reread = true,
        }
        place.download.write(block, bytes)?;
        if !last {
            return Ok(None);
        }
        let outcome = match self.under_way.remove(&key) {
            None => return Ok(None),
            // A hash that nothing has stands for a piece of the wrong length.
            Some(Hashing::Blocks(cvs)) => Outcome::Cv(cvs.fold().unwrap_or_default()),
            Some(Hashing::Pack { check, reread: false, .. }) => Outcome::Pack(check.finish()),
            Some(Hashing::Pack { reread: true, .. }) => {
                let mut check = PieceCheck::new(&place.manifest, block.piece, None);
                each_block(place, block.piece, |bytes| check.update(bytes))?;
                Outcome::Pack(check.finish())
            }
        };
        Ok(Some(Event::Hashed { piece: block.piece, outcome }))
    }
}

fn hash_blocks(place: &Place, piece: u32) -> io::Result<Vec<Hash>> {
    let mut hashes = Vec::new();
    each_block(place, piece, |bytes| hashes.push(*blake3::hash(bytes).as_bytes()))?;
    Ok(hashes)
}

fn each_block(place: &Place, piece: u32, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let total = place.manifest.geometry().piece_length(piece);
    let mut buffer = vec![0; BLOCK_BYTES.min(total) as usize];
    for offset in (0..total).step_by(BLOCK_BYTES as usize) {
        let length = (total - offset).min(BLOCK_BYTES);
        place.download.read_unverified(Block { piece, offset, length }, &mut buffer[..length as usize])?;
        take(&buffer[..length as usize]);
    }
    Ok(())
}
