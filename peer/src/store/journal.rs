//! What a fetch has, kept beside its data: `OUT.part.journal`.
//!
//! ```text
//! header     256 bytes: magic and version, content id, counts, key, boot id, pid, identity of the part, BLAKE3
//! manifest   binary with hints, BLAKE3: the same command goes on though the link's host is gone
//! peers      count, up to 200 addresses of 18 bytes, BLAKE3
//! slots      two checkpoints, written in turn: generation, flags, digest, bitmap, BLAKE3
//! live       for each 8 pieces one byte of bitmap and three bytes that guard it
//! CVs        for each CV its 32 bytes and 8 bytes that guard it
//! ```
//! **Live bits** are written after the data of their piece and never flushed. While the machine runs, the page cache
//! survives a killed process, so with the same boot id they are trusted. After another boot anything may be missing of
//! what wasn't flushed, so only **checkpoints** count, which are written after the data was flushed. A garbled byte
//! anywhere fails its guard and is as if it weren't there: then data is hashed again, never believed. A journal of a
//! newer version is ignored.
//!
//! A journal is made whole under a temporary name, locked, and renamed into place; the file itself is the lock of the
//! place it stands for.

use super::platform;
use crate::failure::{Failure, FailureKind};
use shoal_protocol::address::Reach;
use shoal_protocol::limits::{MANIFEST_BYTES, PIECES};
use shoal_protocol::{Bitfield, ContentId, Hash, Manifest};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MAGIC: [u8; 8] = *b"\x89shoalj\x01";
const HEADER: usize = 256;
const CHECK: usize = 32;
/// Enough to find a swarm again, small enough to rewrite at will.
const PEERS: usize = 200;
const PEER_BYTES: usize = 18;
const PEERS_AREA: usize = 2 + PEERS * PEER_BYTES + CHECK;
const SLOT_HEAD: usize = 8 + 1 + 32;
const CV_BYTES: usize = 40;
/// How often a waiting process looks whether the first one is done.
const WAIT: Duration = Duration::from_millis(50);

const FLAG_MOVING: u8 = 1;
const FLAG_CLEAN: u8 = 2;
const FLAG_SYNCED: u8 = 4;
const FLAG_CHECKING: u8 = 8;

/// Device and inode of the part, so that another file under its name isn't taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Identity {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino() })
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    id: ContentId,
    pieces: u32,
    cvs: u32,
    manifest: u64,
    key: u64,
    boot: [u8; 16],
    pid: u32,
    part: Identity,
    replace: bool,
    giver: Reach,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER] {
        let mut out = Vec::with_capacity(HEADER);
        out.extend(MAGIC);
        out.extend(self.id.0);
        out.extend(self.pieces.to_le_bytes());
        out.extend(self.cvs.to_le_bytes());
        out.extend(self.manifest.to_le_bytes());
        out.extend(self.key.to_le_bytes());
        out.extend(self.boot);
        out.extend(self.pid.to_le_bytes());
        out.extend(self.part.device.to_le_bytes());
        out.extend(self.part.inode.to_le_bytes());
        out.push(self.replace.into());
        out.push(match self.giver {
            Reach::Loopback => 1,
            Reach::Private => 2,
            Reach::Global | Reach::Never => 0,
        });
        out.resize(HEADER - CHECK, 0);
        let check = blake3::hash(&out);
        out.extend(check.as_bytes());
        *out.first_chunk().unwrap_or(&[0; HEADER])
    }

    /// `None` when it is no header, garbled, or of a version that isn't known here.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (body, check) = bytes.get(..HEADER)?.split_at(HEADER - CHECK);
        if blake3::hash(body).as_bytes() != check {
            return None;
        }
        let mut rest = body.strip_prefix(&MAGIC)?;
        let header = Self {
            id: ContentId(take(&mut rest)?),
            pieces: u32::from_le_bytes(take(&mut rest)?),
            cvs: u32::from_le_bytes(take(&mut rest)?),
            manifest: u64::from_le_bytes(take(&mut rest)?),
            key: u64::from_le_bytes(take(&mut rest)?),
            boot: take(&mut rest)?,
            pid: u32::from_le_bytes(take(&mut rest)?),
            part: Identity {
                device: u64::from_le_bytes(take(&mut rest)?),
                inode: u64::from_le_bytes(take(&mut rest)?),
            },
            replace: take::<1>(&mut rest)?[0] != 0,
            giver: match take::<1>(&mut rest)?[0] {
                1 => Reach::Loopback,
                2 => Reach::Private,
                // Nothing said of it, too: then it is trusted least.
                _ => Reach::Global,
            },
        };
        // Whoever can write here can make the check fit as well: all that follows counts with these numbers.
        let limits = header.manifest <= MANIFEST_BYTES as u64 * 2 && u64::from(header.pieces) <= PIECES;
        (limits && header.cvs <= header.pieces).then_some(header)
    }

    fn areas(&self) -> Areas {
        let bitmap = (self.pieces as usize).div_ceil(8);
        let peers = HEADER as u64 + self.manifest + CHECK as u64;
        let slot = (SLOT_HEAD + bitmap + CHECK) as u64;
        let slots = [peers + PEERS_AREA as u64, peers + PEERS_AREA as u64 + slot];
        let live = slots[1] + slot;
        let cvs = live + bitmap as u64 * 4;
        Areas { peers, slots, bitmap, live, cvs, end: cvs + u64::from(self.cvs) * CV_BYTES as u64 }
    }
}

/// Where the parts begin.
#[derive(Debug, Clone, Copy)]
struct Areas {
    peers: u64,
    slots: [u64; 2],
    bitmap: usize,
    live: u64,
    cvs: u64,
    end: u64,
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// A byte of the live bitmap with its guard, which depends on its place and on the journal. No bits: all zero, so that
/// what was never written reads as none.
fn guarded(key: u64, at: usize, byte: u8) -> [u8; 4] {
    if byte == 0 {
        return [0; 4];
    }
    // splitmix64: against accidents, not against people, who could as well write the data.
    let mut x = key ^ ((at as u64) << 8 | u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    let [a, b, c, ..] = x.to_le_bytes();
    // Never all zero, so that a guard that was lost is noticed.
    [byte, a | 1, b, c]
}

fn cv_guard(key: u64, at: u32, cv: &Hash) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.to_le_bytes()).update(&at.to_le_bytes()).update(cv);
    *hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 8])
}

/// What a checkpoint says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mark {
    /// Everything is verified, and moving it to its final names has begun.
    pub(crate) moving: bool,
    /// Written at a clean stop; then `digest` tells whether the data was touched since.
    pub(crate) clean: bool,
    /// The data was flushed before.
    pub(crate) synced: bool,
    /// Hashing of what is on disk has begun and not ended, or found what nobody could judge so far: there may be more than is
    /// marked.
    pub(crate) checking: bool,
    /// Digest of the stamps of the large files.
    pub(crate) digest: Hash,
}

struct Slot {
    generation: u64,
    mark: Mark,
    bitmap: Vec<u8>,
}

fn slot_bytes(key: u64, generation: u64, mark: &Mark, bitmap: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT_HEAD + bitmap.len() + CHECK);
    out.extend(generation.to_le_bytes());
    let flag = |on, bit| if on { bit } else { 0 };
    let stages = flag(mark.moving, FLAG_MOVING) | flag(mark.checking, FLAG_CHECKING);
    out.push(stages | flag(mark.clean, FLAG_CLEAN) | flag(mark.synced, FLAG_SYNCED));
    out.extend(mark.digest);
    out.extend(bitmap);
    let check = slot_check(key, &out);
    out.extend(check);
    out
}

fn slot_check(key: u64, body: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.to_le_bytes()).update(body);
    hasher.finalize().into()
}

fn parse_slot(key: u64, bytes: &[u8]) -> Option<Slot> {
    let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK)?)?;
    if slot_check(key, body) != check {
        return None;
    }
    let mut rest = body;
    let generation = u64::from_le_bytes(take(&mut rest)?);
    let flags = take::<1>(&mut rest)?[0];
    let digest = take(&mut rest)?;
    let mark = Mark {
        moving: flags & FLAG_MOVING != 0,
        clean: flags & FLAG_CLEAN != 0,
        synced: flags & FLAG_SYNCED != 0,
        checking: flags & FLAG_CHECKING != 0,
        digest,
    };
    (generation > 0).then(|| Slot { generation, mark, bitmap: rest.to_vec() })
}

/// What an old journal says.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) manifest: Manifest,
    pub(crate) part: Identity,
    /// It was written since this machine started.
    pub(crate) same_boot: bool,
    /// The user asked for what is under the final name to be replaced.
    pub(crate) replace: bool,
    /// How near who gave the manifest was: its hints may name what is as near.
    pub(crate) giver: Reach,
    /// Pieces to be trusted, if the part is still the one it was.
    pub(crate) have: Bitfield,
    /// Pieces whose data was flushed.
    pub(crate) durable: Bitfield,
    /// There may be more than `have`: worth hashing what is there.
    pub(crate) doubtful: bool,
    pub(crate) mark: Mark,
    pub(crate) cvs: Vec<(u32, Hash)>,
    pub(crate) peers: Vec<SocketAddr>,
}

/// Reads an open journal. `None` if there is nothing in it that can be trusted.
pub(crate) fn load(file: &File, boot: Option<[u8; 16]>) -> Option<Loaded> {
    let mut head = [0; HEADER];
    file.read_exact_at(&mut head, 0).ok()?;
    let header = Header::parse(&head)?;
    let areas = header.areas();
    if file.metadata().ok()?.len() < areas.end {
        return None;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(areas.end).ok()?);
    let mut from = ReadAt { file, at: 0 };
    Read::take(&mut from, areas.end).read_to_end(&mut bytes).ok()?;
    let part = |from: u64, to: u64| bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?);

    let (body, check) = part(HEADER as u64, areas.peers)?.split_at(header.manifest as usize);
    if blake3::hash(body).as_bytes() != check {
        return None;
    }
    let manifest = Manifest::parse_with_id(body, header.id).ok()?;
    if manifest.geometry().pieces() != header.pieces || manifest.geometry().cvs() != header.cvs {
        return None;
    }

    let slot_len = (SLOT_HEAD + areas.bitmap + CHECK) as u64;
    let mut slots: Vec<Slot> =
        areas.slots.iter().filter_map(|at| parse_slot(header.key, part(*at, at + slot_len)?)).collect();
    slots.sort_by_key(|slot| slot.generation);
    let field = |bitmap: &[u8]| Bitfield::from_bytes(header.pieces, bitmap).ok();
    let none = Bitfield::none(header.pieces);
    let durable = slots.iter().rfind(|s| s.mark.synced).and_then(|s| field(&s.bitmap)).unwrap_or_else(|| none.clone());
    let mark = slots.last().map(|s| s.mark).unwrap_or_default();

    let mut garbled = false;
    let live: Vec<u8> = part(areas.live, areas.cvs)?
        .as_chunks::<4>()
        .0
        .iter()
        .enumerate()
        .map(|(at, group)| {
            let good = guarded(header.key, at, group[0]) == *group;
            garbled |= !good;
            if good { group[0] } else { 0 }
        })
        .collect();
    let same_boot = boot == Some(header.boot);
    let have = if same_boot { field(&live).unwrap_or(none) } else { durable.clone() };

    let cvs = (0..)
        .zip(part(areas.cvs, areas.end)?.as_chunks::<CV_BYTES>().0)
        .filter_map(|(at, record)| {
            let (cv, guard) = record.split_first_chunk::<32>()?;
            (*guard == cv_guard(header.key, at, cv)).then_some((at, *cv))
        })
        .collect();
    Some(Loaded {
        doubtful: garbled || !same_boot || mark.checking || slots.is_empty(),
        manifest,
        part: header.part,
        same_boot,
        replace: header.replace,
        giver: header.giver,
        have,
        durable,
        mark,
        cvs,
        peers: parse_peers(part(areas.peers, areas.slots[0])?).unwrap_or_default(),
    })
}

struct ReadAt<'a> {
    file: &'a File,
    at: u64,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(out, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

fn peers_bytes(peers: &[SocketAddr]) -> Vec<u8> {
    let peers = &peers[..peers.len().min(PEERS)];
    let mut out = Vec::with_capacity(PEERS_AREA);
    out.extend((peers.len() as u16).to_le_bytes());
    for peer in peers {
        let ip = match peer.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out.extend(ip.octets());
        out.extend(peer.port().to_le_bytes());
    }
    out.resize(PEERS_AREA - CHECK, 0);
    let check = blake3::hash(&out);
    out.extend(check.as_bytes());
    out
}

fn parse_peers(bytes: &[u8]) -> Option<Vec<SocketAddr>> {
    let (body, check) = bytes.split_at_checked(PEERS_AREA - CHECK)?;
    if blake3::hash(body).as_bytes() != check {
        return None;
    }
    let mut rest = body;
    let count = u16::from_le_bytes(take(&mut rest)?);
    let peer = |bytes: &[u8; PEER_BYTES]| {
        let mut rest = &bytes[..];
        let ip = Ipv6Addr::from(take::<16>(&mut rest)?).to_canonical();
        Some(SocketAddr::new(ip, u16::from_le_bytes(take(&mut rest)?)))
    };
    rest.as_chunks().0.iter().take(count.into()).map(peer).collect()
}

/// Opens and locks the journal at `path`, waiting for another process that fetches the same content there.
///
/// # Errors
/// When another content is under way there, or the place can't be written.
pub(crate) fn acquire(
    path: &Path,
    id: ContentId,
    cancelled: &AtomicBool,
    waiting: &dyn Fn(u32),
) -> Result<File, Failure> {
    let mut told = false;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32)
            .open(path)
            .map_err(|e| Failure::io("can't open", path, &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut head = [0; HEADER];
                let header = file.read_exact_at(&mut head, 0).ok().and_then(|()| Header::parse(&head));
                if let Some(other) = header.filter(|h| h.id != id) {
                    return Err(Failure::new(
                        FailureKind::Refused,
                        format!("another content is being fetched to this place by process {}", other.pid),
                    )
                    .hint("wait for it, or choose another place with -o"));
                }
                if !told && let Some(header) = header {
                    waiting(header.pid);
                    told = true;
                }
                if cancelled.load(Ordering::Relaxed) {
                    return Err(Failure::new(FailureKind::Interrupted, "interrupted while waiting for another fetch"));
                }
                std::thread::sleep(WAIT);
                continue;
            }
            // Some network filesystems know no locks. Two fetches at once then do the same work twice, not more.
            Err(TryLockError::Error(error)) => tracing::warn!("{}: can't lock: {error}", path.display()),
        }
        // The one before us may have replaced or removed the file while we waited: then the lock is of no use.
        let named = Identity::of(path).ok();
        let own = file.metadata().map(|m| Identity { device: m.dev(), inode: m.ino() }).ok();
        if named.is_some() && named == own {
            refuse_foreign(path)?;
            return Ok(file);
        }
    }
}

/// In a directory for many anybody may have left a journal that says what isn't so, or a part that is changed once it was
/// checked.
///
/// # Errors
/// When what has this name is another user's.
pub(crate) fn refuse_foreign(path: &Path) -> Result<(), Failure> {
    match platform::is_foreign(path) {
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::io("can't look at", path, &error)),
        Ok(true) => Err(Failure::new(
            FailureKind::Refused,
            format!("{} belongs to another user, who may change it at any time", path.display()),
        )
        .hint("have it removed, or choose another place with -o")),
    }
}

/// Opens a journal only to look at it; what isn't a file, such as a pipe that nobody writes into, holds up nobody.
pub(crate) fn open_to_look(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// What a new journal begins with.
#[derive(Debug)]
pub(crate) struct Begin<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) boot: Option<[u8; 16]>,
    pub(crate) part: Identity,
    pub(crate) replace: bool,
    pub(crate) giver: Reach,
    pub(crate) have: &'a Bitfield,
    pub(crate) durable: &'a Bitfield,
    pub(crate) cvs: &'a [(u32, Hash)],
    pub(crate) peers: &'a [SocketAddr],
    /// What is on disk is going to be hashed.
    pub(crate) checking: bool,
    /// Whether an old checkpoint must survive a power cut in this moment.
    pub(crate) sync: bool,
}

/// The journal of a fetch that is under way. Whoever has it has the place.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    key: u64,
    areas: Areas,
    live: Vec<u8>,
    durable: Vec<u8>,
    generation: u64,
}

impl Journal {
    /// Writes a new journal and puts it in the place of the one at `path`, which the caller has locked.
    pub(crate) fn begin(path: &Path, begin: &Begin<'_>) -> io::Result<Self> {
        let manifest = begin.manifest.to_binary_with_hints();
        let mut key = [0; 8];
        getrandom::fill(&mut key).map_err(|_| io::Error::other("no random numbers"))?;
        let mut boot = begin.boot.unwrap_or_default();
        if begin.boot.is_none() {
            getrandom::fill(&mut boot).map_err(|_| io::Error::other("no random numbers"))?;
        }
        let header = Header {
            id: begin.manifest.id(),
            pieces: begin.manifest.geometry().pieces(),
            cvs: begin.manifest.geometry().cvs(),
            manifest: manifest.len() as u64,
            key: u64::from_le_bytes(key),
            boot,
            pid: std::process::id(),
            part: begin.part,
            replace: begin.replace,
            giver: begin.giver,
        };
        let areas = header.areas();
        let (live, durable) = (begin.have.to_bytes(), begin.durable.to_bytes());
        let mark = Mark { synced: true, checking: begin.checking, ..Mark::default() };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&manifest);
        bytes.extend(blake3::hash(&manifest).as_bytes());
        bytes.extend(peers_bytes(begin.peers));
        bytes.extend(slot_bytes(header.key, 1, &mark, &durable));
        bytes.resize(areas.live as usize, 0);
        bytes.extend(live.iter().enumerate().flat_map(|(at, byte)| guarded(header.key, at, *byte)));

        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let _ = std::fs::remove_file(&new);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&new)?;
        // Nobody else opens this name; where locks don't work, we were told when the old one was locked.
        let _ = file.try_lock();
        file.write_all_at(&bytes, 0)?;
        file.set_len(areas.end)?;
        let out = Self { file, path: path.to_owned(), key: header.key, areas, live, durable, generation: 1 };
        for (at, cv) in begin.cvs {
            out.put_cvs(*at, std::slice::from_ref(cv))?;
        }
        if begin.sync && begin.durable.count() > 0 {
            out.file.sync_data()?;
        }
        std::fs::rename(&new, path)?;
        Ok(out)
    }

    /// Notes whether a piece is had; its data must have been written before.
    pub(crate) fn set(&mut self, piece: u32, had: bool) -> io::Result<()> {
        let at = piece as usize / 8;
        let bit = 0x80 >> (piece % 8);
        let Some(byte) = self.live.get_mut(at) else { return Ok(()) };
        if had {
            *byte |= bit;
        } else {
            *byte &= !bit;
        }
        self.file.write_all_at(&guarded(self.key, at, *byte), self.areas.live + at as u64 * 4)
    }

    pub(crate) fn put_cvs(&self, first: u32, cvs: &[Hash]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(cvs.len() * CV_BYTES);
        for (at, cv) in (first..).zip(cvs) {
            bytes.extend_from_slice(cv);
            bytes.extend(cv_guard(self.key, at, cv));
        }
        self.file.write_all_at(&bytes, self.areas.cvs + u64::from(first) * CV_BYTES as u64)
    }

    /// Says that data is about to be written now: what is changed much later than this was changed by somebody else.
    /// The time is the filesystem's own, as another machine's clock may differ.
    pub(crate) fn beat(&self) {
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        if let Err(error) = rustix::fs::futimens(&self.file, &times) {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }

    pub(crate) fn put_peers(&self, peers: &[SocketAddr]) -> io::Result<()> {
        self.file.write_all_at(&peers_bytes(peers), self.areas.peers)
    }

    /// Writes a checkpoint over the older of the two. If `mark` says synced, the data of `have` must have been flushed.
    pub(crate) fn checkpoint(&mut self, have: &Bitfield, mark: Mark) -> io::Result<()> {
        let bitmap = have.to_bytes();
        let generation = self.generation + 1;
        let bytes = slot_bytes(self.key, generation, &mark, &bitmap);
        self.file.write_all_at(&bytes, self.areas.slots[((generation + 1) % 2) as usize])?;
        if mark.synced {
            self.file.sync_data()?;
            self.durable = bitmap;
        }
        self.generation = generation;
        Ok(())
    }

    /// After a failed flush: what came since the last checkpoint may be lost though reading it back still works.
    pub(crate) fn back_to_checkpoint(&mut self) -> io::Result<()> {
        self.live.clone_from(&self.durable);
        let bytes: Vec<u8> = self.live.iter().enumerate().flat_map(|(at, byte)| guarded(self.key, at, *byte)).collect();
        self.file.write_all_at(&bytes, self.areas.live)
    }

    /// Ends the journal: the content is under its final name.
    pub(crate) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}
