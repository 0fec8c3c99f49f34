//! Manifests in a data directory: `ID.manifest` (binary content part and hints) and `ID.cvs` beside it.
//!
//! Contract: files are written under a temporary name and renamed, so a crash leaves whole files only. What is read is
//! checked against its id again; a damaged file is dropped, and a seed puts it back. Limits: bytes in total, number of
//! manifests, and age without use. When full, the longest unused make room, but never one whose swarm was alive within
//! [`BUSY`], or after a start [`ANNOUNCED_AGAIN`]; so a flood of manifests is refused rather than living ones lost.

use crate::manifests::{ManifestSource, Part, Refused};
use bytes::Bytes;
use shoal_protocol::tree::root_of;
use shoal_protocol::{ContentId, Hash, Manifest, SwarmId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For so long a manifest counts as in use.
pub const BUSY: Duration = Duration::from_secs(600);
/// After a start peers are given so long to announce themselves again, until what they don't need makes room: a settled
/// swarm is told to come within 90 s and a fifth more, and of a very large one some come sooner.
pub const ANNOUNCED_AGAIN: Duration = Duration::from_secs(120);
/// Most manifests: bounds the index to some 20 MiB.
const MAX_COUNT: usize = 100_000;
/// How the names of files begin that are being written.
const UNFINISHED: &str = ".unfinished-";
/// Parsed manifests kept at hand: number, and bytes of their binary form.
const CACHED: usize = 32;
const CACHED_BYTES: u64 = 16 << 20;

/// Limits of the store.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Bytes of all files together.
    pub max_bytes: u64,
    /// How long an unused manifest is kept.
    pub ttl: Duration,
    /// What was used within this time is not removed to make room.
    pub busy: Duration,
    /// Within this time after a start all swarms that are there announce themselves.
    pub announced_again: Duration,
    /// The only contents that are served, where the operator says so.
    pub allow: Option<Vec<ContentId>>,
}

impl Default for DiskConfig {
    fn default() -> Self {
        let ttl = Duration::from_secs(30 * 86_400);
        Self { max_bytes: 4 << 30, ttl, busy: BUSY, announced_again: ANNOUNCED_AGAIN, allow: None }
    }
}

#[derive(Debug)]
struct Held {
    id: ContentId,
    manifest_bytes: u64,
    cvs_bytes: Option<u64>,
    used: Instant,
}

impl Held {
    fn bytes(&self) -> u64 {
        self.manifest_bytes + self.cvs_bytes.unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<SwarmId, Held>,
    bytes: u64,
    cache: VecDeque<Arc<Manifest>>,
}

impl State {
    fn forget(&mut self, swarm: &SwarmId) -> Option<ContentId> {
        let held = self.held.remove(swarm)?;
        self.bytes -= held.bytes();
        self.cache.retain(|m| m.id() != held.id);
        Some(held.id)
    }
}

/// The store.
#[derive(Debug)]
pub struct DiskStore {
    directory: PathBuf,
    config: DiskConfig,
    allowed: Option<HashSet<SwarmId>>,
    state: Mutex<State>,
    /// One writer at a time: room is counted before a file is written.
    writing: Mutex<()>,
}

impl DiskStore {
    /// Opens the directory, makes it where it is missing, and lists what is in it.
    ///
    /// # Errors
    /// When the directory can't be made, read or written.
    pub fn open(directory: &Path, config: DiskConfig) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        // Found out now rather than at the first PUT.
        tempfile::tempfile_in(directory)?;
        let allowed = config.allow.as_ref().map(|ids| ids.iter().map(ContentId::open_swarm).collect());
        let mut state = State::default();
        // Swarms that still are there announce themselves soon; what nobody needs must not keep others out for longer.
        let age = config.busy.saturating_sub(config.announced_again).min(config.ttl / 2);
        let used = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| n.starts_with(UNFINISHED)) {
                // Left by a crash.
                std::fs::remove_file(entry.path())?;
                continue;
            }
            if let Some(id) =
                name.to_str().and_then(|n| n.strip_suffix(".cvs")).filter(|n| n.parse::<ContentId>().is_ok())
                && std::fs::symlink_metadata(directory.join(format!("{id}.manifest")))
                    .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            {
                // Its manifest went just before a crash, and nobody could ask for it.
                std::fs::remove_file(entry.path())?;
                continue;
            }
            let Some(id) = name.to_str().and_then(|n| n.strip_suffix(".manifest")).and_then(|n| n.parse().ok()) else {
                continue;
            };
            let id: ContentId = id;
            let cvs_bytes = std::fs::metadata(directory.join(file_name(&id, Part::Cvs))).ok().map(|m| m.len());
            let held = Held { id, manifest_bytes: entry.metadata()?.len(), cvs_bytes, used };
            state.bytes += held.bytes();
            state.held.insert(id.open_swarm(), held);
        }
        let (state, writing) = (Mutex::new(state), Mutex::new(()));
        Ok(Self { directory: directory.to_owned(), config, allowed, state, writing })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: &ContentId, part: Part) -> PathBuf {
        self.directory.join(file_name(id, part))
    }

    fn delete(&self, id: &ContentId) {
        for part in [Part::Manifest, Part::Cvs] {
            if let Err(error) = std::fs::remove_file(self.path(id, part))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%id, %error, "a stored manifest can't be removed");
            }
        }
    }

    fn make_room(&self, need: u64) -> Result<(), Refused> {
        let full =
            || Refused::later(507, "the tracker's manifest store is full; ask its operator for more --max-data", 600);
        let mut gone = Vec::new();
        let mut result = Ok(());
        let mut state = self.state();
        while state.bytes.saturating_add(need) > self.config.max_bytes || state.held.len() >= MAX_COUNT {
            let unused = state.held.iter().filter(|(_, h)| h.used.elapsed() >= self.config.busy);
            let Some(swarm) = unused.min_by_key(|(_, h)| h.used).map(|(swarm, _)| *swarm) else {
                result = Err(full());
                break;
            };
            gone.extend(state.forget(&swarm));
        }
        // Every announce waits for this lock, and a disk may take its time.
        drop(state);
        gone.iter().for_each(|id| self.delete(id));
        result
    }

    fn write(&self, id: &ContentId, part: Part, chunks: &[&[u8]]) -> Result<(), Refused> {
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
            chunks.iter().try_for_each(|chunk| file.write_all(chunk))?;
            file.as_file().sync_data()?;
            file.persist(self.path(id, part)).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|error| {
            tracing::error!(%id, %error, directory = %self.directory.display(), "a manifest can't be stored");
            Refused::later(507, "the tracker can't write to its data directory; its log says why", 60)
        })
    }

    fn put_manifest(&self, id: &ContentId, bytes: &[u8]) -> Result<bool, Refused> {
        let manifest = Manifest::parse_with_id(bytes, *id)
            .map_err(|error| Refused::new(400, format!("manifest refused: {error}")))?;
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let swarm = id.open_swarm();
        if let Some(held) = self.state().held.get_mut(&swarm) {
            held.used = Instant::now();
            return Ok(false);
        }
        let binary = manifest.to_binary_with_hints();
        let length = binary.len() as u64;
        self.make_room(length)?;
        self.write(id, Part::Manifest, &[&binary])?;
        let mut state = self.state();
        state.bytes += length;
        state.held.insert(swarm, Held { id: *id, manifest_bytes: length, cvs_bytes: None, used: Instant::now() });
        drop(state);
        self.remember(Arc::new(manifest));
        Ok(true)
    }

    fn put_cvs(&self, id: &ContentId, bytes: &[u8]) -> Result<bool, Refused> {
        let Some(manifest) = self.manifest(id) else {
            return Err(Refused::new(404, "put the manifest first: its CVs are checked against it"));
        };
        check_cvs(&manifest, bytes)?;
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let swarm = id.open_swarm();
        if self.state().held.get(&swarm).is_some_and(|h| h.cvs_bytes.is_some()) {
            return Ok(false);
        }
        let length = bytes.len() as u64;
        self.make_room(length)?;
        self.write(id, Part::Cvs, &[bytes])?;
        let mut state = self.state();
        if let Some(held) = state.held.get_mut(&swarm) {
            held.cvs_bytes = Some(length);
            state.bytes += length;
        }
        Ok(true)
    }

    fn remember(&self, manifest: Arc<Manifest>) {
        let size = |m: &Arc<Manifest>| u64::from(m.binary_len());
        if size(&manifest) > CACHED_BYTES {
            return;
        }
        let cache = &mut self.state().cache;
        cache.push_back(manifest);
        while cache.len() > CACHED || cache.iter().map(size).sum::<u64>() > CACHED_BYTES {
            cache.pop_front();
        }
    }
}

/// The CVs of each large file must fold to its root, and none may be left over.
fn check_cvs(manifest: &Manifest, bytes: &[u8]) -> Result<(), Refused> {
    let geometry = manifest.geometry();
    if bytes.len() as u64 != u64::from(geometry.cvs()) * 32 {
        let text =
            format!("{} bytes of CVs came, the manifest asks for {} CVs of 32 bytes", bytes.len(), geometry.cvs());
        return Err(Refused::new(400, text));
    }
    let (cvs, _) = bytes.as_chunks::<32>();
    for file in geometry.large() {
        let own: &[Hash] = &cvs[file.cvs()];
        if root_of(own) != Some(manifest.root(file.entry)) {
            return Err(Refused::new(400, format!("the CVs of entry {} don't fold to its root", file.entry)));
        }
    }
    Ok(())
}

fn file_name(id: &ContentId, part: Part) -> String {
    match part {
        Part::Manifest => format!("{id}.manifest"),
        Part::Cvs => format!("{id}.cvs"),
    }
}

impl ManifestSource for DiskStore {
    fn accepts_swarm(&self, swarm: &SwarmId) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(swarm))
    }

    fn knows(&self, swarm: &SwarmId) -> bool {
        self.accepts_swarm(swarm) && self.state().held.contains_key(swarm)
    }

    fn manifest(&self, id: &ContentId) -> Option<Arc<Manifest>> {
        let swarm = id.open_swarm();
        if !self.accepts_swarm(&swarm) {
            return None;
        }
        {
            let mut state = self.state();
            state.held.get_mut(&swarm)?.used = Instant::now();
            if let Some(manifest) = state.cache.iter().find(|m| m.id() == *id) {
                return Some(manifest.clone());
            }
        }
        let bytes = match std::fs::read(self.path(id, Part::Manifest)) {
            Ok(bytes) => bytes,
            // Such as too many open files: the file is not to blame.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%id, %error, "a stored manifest can't be read");
                return None;
            }
            Err(_) => Vec::new(),
        };
        match Manifest::parse_with_id(&bytes, *id) {
            Ok(manifest) => {
                let manifest = Arc::new(manifest);
                self.remember(manifest.clone());
                Some(manifest)
            }
            Err(error) => {
                tracing::warn!(%id, %error, "a stored manifest is damaged and is dropped; a seed will put it again");
                self.state().forget(&swarm);
                self.delete(id);
                None
            }
        }
    }

    fn part(&self, id: &ContentId, part: Part) -> Option<Bytes> {
        let length = self.part_len(id, part)?;
        self.read(id, part, 0..length).filter(|bytes| bytes.len() as u64 == length)
    }

    fn part_len(&self, id: &ContentId, part: Part) -> Option<u64> {
        let swarm = id.open_swarm();
        if !self.accepts_swarm(&swarm) {
            return None;
        }
        let mut state = self.state();
        let held = state.held.get_mut(&swarm)?;
        held.used = Instant::now();
        match part {
            Part::Manifest => Some(held.manifest_bytes),
            Part::Cvs => held.cvs_bytes,
        }
    }

    fn read(&self, id: &ContentId, part: Part, range: Range<u64>) -> Option<Bytes> {
        if !self.accepts_swarm(&id.open_swarm()) {
            return None;
        }
        let mut file = File::open(self.path(id, part)).ok()?;
        file.seek(SeekFrom::Start(range.start)).ok()?;
        let mut out = Vec::new();
        file.take(range.end.saturating_sub(range.start)).read_to_end(&mut out).ok()?;
        Some(out.into())
    }

    fn accepts_put(&self, id: &ContentId) -> Result<(), Refused> {
        if self.accepts_swarm(&id.open_swarm()) {
            Ok(())
        } else {
            Err(Refused::new(403, "this tracker serves only the ids that its operator listed"))
        }
    }

    fn put(&self, id: &ContentId, part: Part, bytes: &[u8]) -> Result<bool, Refused> {
        self.accepts_put(id)?;
        match part {
            Part::Manifest => self.put_manifest(id, bytes),
            Part::Cvs => self.put_cvs(id, bytes),
        }
    }

    fn redirect(&self, _id: &ContentId, _asker: IpAddr) -> Option<String> {
        None
    }

    fn touch(&self, swarm: &SwarmId) {
        if let Some(held) = self.state().held.get_mut(swarm) {
            held.used = Instant::now();
        }
    }

    fn sweep(&self) {
        let mut state = self.state();
        let ttl = self.config.ttl;
        let over: Vec<SwarmId> =
            state.held.iter().filter(|(_, h)| h.used.elapsed() > ttl).map(|(s, _)| *s).take(100).collect();
        let ids: Vec<ContentId> = over.iter().filter_map(|swarm| state.forget(swarm)).collect();
        drop(state);
        ids.iter().for_each(|id| self.delete(id));
    }

    fn count(&self) -> usize {
        self.state().held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistryConfig;
    use crate::service::{Service, ServiceConfig};
    use shoal_protocol::manifest::Shape;
    use shoal_protocol::{Entry, Hints, Kind};

    fn manifest(name: &str, size: u64, root: Hash) -> Manifest {
        let entries = vec![Entry { path: String::new(), kind: Kind::File { size, root, executable: false } }];
        let hints = Hints { name: Some(name.into()), ..Hints::default() };
        Manifest::new(Shape::File, 65_536, entries, hints).unwrap()
    }

    #[test]
    fn the_first_writers_hints_stay_and_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        let (first, second) = (manifest("first", 5, [1; 32]), manifest("second", 5, [1; 32]));
        let id = first.id();
        assert_eq!(store.put(&id, Part::Manifest, first.to_json().as_bytes()), Ok(true));
        assert_eq!(store.put(&id, Part::Manifest, &second.to_binary_with_hints()), Ok(false));
        assert_eq!(store.put(&second.id(), Part::Manifest, b"{}").unwrap_err().status, 400);
        drop(store);
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        assert_eq!(store.manifest(&id).unwrap().hints().name.as_deref(), Some("first"));
        assert_eq!(store.part(&id, Part::Manifest).unwrap(), first.to_binary_with_hints());
        assert_eq!(store.read(&id, Part::Manifest, 1..6).unwrap(), b"shoal"[..]);
        assert_eq!((store.count(), store.part_len(&id, Part::Cvs)), (1, None));
    }

    #[test]
    fn cvs_are_taken_only_when_they_fold_to_the_roots() {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        let cvs = [[1; 32], [2; 32], [3; 32]];
        let manifest = manifest("x", 3 * 65_536, root_of(&cvs).unwrap());
        let id = manifest.id();
        assert_eq!(store.put(&id, Part::Cvs, cvs.as_flattened()).unwrap_err().status, 404);
        store.put(&id, Part::Manifest, &manifest.to_binary()).unwrap();
        assert_eq!(store.put(&id, Part::Cvs, &cvs.as_flattened()[..64]).unwrap_err().status, 400);
        assert_eq!(store.put(&id, Part::Cvs, &[9; 96]).unwrap_err().status, 400);
        assert_eq!(store.put(&id, Part::Cvs, cvs.as_flattened()), Ok(true));
        assert_eq!(store.put(&id, Part::Cvs, cvs.as_flattened()), Ok(false));
        assert_eq!(store.part(&id, Part::Cvs).unwrap(), cvs.as_flattened());
        // A crash took the manifest and left them.
        let left = directory.path().join(file_name(&ContentId([7; 32]), Part::Cvs));
        std::fs::write(&left, [1; 32]).unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        assert!(!left.exists());
        assert_eq!(store.part(&id, Part::Cvs).unwrap(), cvs.as_flattened());
    }

    #[test]
    fn a_full_store_refuses_rather_than_loses_what_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let first = manifest("a", 5, [1; 32]);
        let length = first.to_binary_with_hints().len() as u64;
        for (max_bytes, fits) in [(length * 2 - 1, false), (length * 2, true)] {
            let directory = directory.path().join(fits.to_string());
            let config = DiskConfig { max_bytes, ..DiskConfig::default() };
            let store = DiskStore::open(&directory, config).unwrap();
            store.put(&first.id(), Part::Manifest, &first.to_binary_with_hints()).unwrap();
            let second = manifest("b", 5, [2; 32]);
            let put = store.put(&second.id(), Part::Manifest, &second.to_binary_with_hints());
            assert_eq!(put.map_err(|e| e.status), if fits { Ok(true) } else { Err(507) });
            assert_eq!(store.count(), if fits { 2 } else { 1 });
        }
    }

    #[test]
    fn unused_manifests_end_and_damaged_ones_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let config = DiskConfig { ttl: Duration::ZERO, ..DiskConfig::default() };
        let store = DiskStore::open(directory.path(), config).unwrap();
        let first = manifest("a", 5, [1; 32]);
        store.put(&first.id(), Part::Manifest, &first.to_binary()).unwrap();
        store.sweep();
        assert_eq!((store.count(), std::fs::read_dir(directory.path()).unwrap().count()), (0, 0));
        std::fs::write(directory.path().join(file_name(&first.id(), Part::Manifest)), b"damaged").unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        assert_eq!(store.count(), 1);
        assert!(store.manifest(&first.id()).is_none());
        assert_eq!((store.count(), std::fs::read_dir(directory.path()).unwrap().count()), (0, 0));
    }

    #[test]
    fn after_a_start_what_nobody_needs_keeps_others_out_for_two_minutes_and_not_ten() {
        let directory = tempfile::tempdir().unwrap();
        let first = manifest("a", 5, [1; 32]);
        let put = |store: &DiskStore| store.put(&first.id(), Part::Manifest, &first.to_binary());
        assert_eq!(put(&DiskStore::open(directory.path(), DiskConfig::default()).unwrap()), Ok(true));
        let second = manifest("b", 5, [2; 32]);
        let bytes = first.to_binary_with_hints().len() as u64;
        let config = |again_s, ttl| DiskConfig {
            max_bytes: bytes,
            announced_again: Duration::from_secs(again_s),
            ttl: Duration::from_secs(ttl),
            ..DiskConfig::default()
        };
        // Two minutes are not over, and then none have to pass; but nothing ends sooner than it may by its age.
        for (again_s, ttl, expected) in [(120, 86_400, Err(507)), (0, 600, Err(507)), (0, 86_400, Ok(true))] {
            let store = DiskStore::open(directory.path(), config(again_s, ttl)).unwrap();
            store.sweep();
            assert_eq!(store.count(), 1);
            let put = store.put(&second.id(), Part::Manifest, &second.to_binary()).map_err(|e| e.status);
            assert_eq!(put, expected, "{again_s} {ttl}");
        }
    }

    #[test]
    fn an_operators_list_closes_the_tracker_to_other_ids() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, other) = (manifest("a", 5, [1; 32]), manifest("b", 5, [2; 32]));
        let config = DiskConfig { allow: Some(vec![ours.id()]), ..DiskConfig::default() };
        let store = DiskStore::open(directory.path(), config).unwrap();
        assert!(store.accepts_swarm(&ours.id().open_swarm()) && !store.accepts_swarm(&other.id().open_swarm()));
        assert_eq!(store.put(&other.id(), Part::Manifest, &other.to_binary()).unwrap_err().status, 403);
        assert_eq!(store.put(&ours.id(), Part::Manifest, &ours.to_binary()), Ok(true));
        // Also of what it has from before.
        let config = DiskConfig { allow: Some(vec![other.id()]), ..DiskConfig::default() };
        let store = DiskStore::open(directory.path(), config).unwrap();
        let id = ours.id();
        assert!(store.manifest(&id).is_none() && store.part_len(&id, Part::Manifest).is_none());
        assert!(store.read(&id, Part::Manifest, 0..9).is_none() && !store.knows(&id.open_swarm()));
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        assert!(store.manifest(&id).is_some() && store.knows(&id.open_swarm()), "and loses nothing of it");
    }

    /// One announces from an address of its own; gives how many others it is told of.
    fn announce(service: &Service, swarm: SwarmId, peer: u8) -> Result<usize, Refused> {
        let text = format!(
            r#"{{"swarm":"{swarm}","peer":"{}","port":7171,"event":"started","left":1}}"#,
            format!("{peer:02x}").repeat(16)
        );
        let announce: shoal_protocol::Announce = serde_json::from_str(&text).unwrap();
        let from = std::net::IpAddr::from([9, 9, 9, peer]);
        service.announce(0, &announce, from, [9, 9, 8, 8].into()).map(|handout| handout.peers.len())
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room_once_it_is_not_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let all: Vec<Manifest> = (0..3).map(|n| manifest(&n.to_string(), 5, [n; 32])).collect();
        let max_bytes = 2 * all[0].to_binary_with_hints().len() as u64;
        let config = DiskConfig { max_bytes, busy: Duration::ZERO, ..DiskConfig::default() };
        let store = Arc::new(DiskStore::open(directory.path(), config).unwrap());
        let put = |at: usize| store.put(&all[at].id(), Part::Manifest, &all[at].to_binary_with_hints());
        assert_eq!((put(0), put(1)), (Ok(true), Ok(true)));
        // A swarm of the first one is alive.
        let service = Service::new(ServiceConfig::default(), Arc::clone(&store) as Arc<dyn ManifestSource>);
        announce(&service, all[0].id().open_swarm(), 1).unwrap();
        assert_eq!(put(2), Ok(true));
        let held: Vec<bool> = all.iter().map(|manifest| store.manifest(&manifest.id()).is_some()).collect();
        assert_eq!(held, [true, false, true]);
    }

    #[test]
    fn swarms_of_what_was_put_are_not_driven_out_by_those_of_which_nobody_knows_anything() {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        let real = manifest("real", 5, [1; 32]);
        store.put(&real.id(), Part::Manifest, &real.to_binary()).unwrap();
        let registry = RegistryConfig { max_swarms: 8, ..RegistryConfig::default() };
        let service = Service::new(ServiceConfig { registry, ..ServiceConfig::default() }, Arc::new(store));
        announce(&service, real.id().open_swarm(), 1).unwrap();
        for n in 0..100 {
            let _ = announce(&service, ContentId([n; 32]).open_swarm(), 2 + n);
        }
        assert_eq!(announce(&service, real.id().open_swarm(), 200).unwrap(), 1, "the first one is forgotten");
    }
}
