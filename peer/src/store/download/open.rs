//! Decides what a fetch begins with: what is there already, what of it can be trusted, and whether it may be touched.

use super::super::beneath::{Base, Tree, lock};
use super::super::completion::{self, Boot, Lasts};
use super::super::journal::{self, Begin, Identity, Journal, Loaded};
use super::super::platform;
use super::super::verify::{looks_right, verify};
use super::finish::{move_into_place, remove, remove_leftovers};
use super::place::{Place, top_names};
use super::{Download, DownloadOptions, Existing, Opened, State, SyncMode, edited_since, local, part_digest};
use crate::failure::{Failure, FailureKind};
use shoal_protocol::manifest::{Kind, Shape};
use shoal_protocol::{Bitfield, Hash, Manifest};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// What has the final name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Absent,
    Complete,
    Differs,
}

/// The parts of a request that most steps need.
struct Request<'a> {
    manifest: &'a Manifest,
    options: &'a DownloadOptions,
    boot: Boot,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    cancelled: &'a AtomicBool,
}

pub(super) fn open(
    manifest: &Arc<Manifest>,
    out: &Path,
    options: &DownloadOptions,
    boot: Boot,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancelled: &AtomicBool,
    waiting: &dyn Fn(u32),
) -> Result<Opened, Failure> {
    let request = Request { manifest, options, boot, progress, cancelled };
    let mut place = Place::of(out, manifest)?;
    if place.journal.symlink_metadata().is_err() {
        // Nobody is at work here: what needs no writing is answered without.
        match request.target(&place)? {
            Target::Complete => return Ok(Opened::Complete(place.out)),
            Target::Differs if options.existing == Existing::Refuse => return Err(differs(&place)),
            Target::Differs | Target::Absent => {}
        }
    }
    if let Some(parent) = place.out.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Failure::io("can't make", parent, &e))?;
    }
    refuse_folded_names(manifest, &place)?;
    let held = loop {
        let held = journal::acquire(&place.journal, manifest.id(), cancelled, waiting)?;
        // Another process may have finished meanwhile, and the place be another one now.
        let now = Place::of(out, manifest)?;
        if now == place {
            break held;
        }
        if held.metadata().is_ok_and(|m| m.len() == 0) {
            let _ = std::fs::remove_file(&place.journal);
        }
        place = now;
    };
    let result = request.prepare(&place, &held, boot);
    match result {
        Ok(Prepared::Complete) => {
            let _ = std::fs::remove_file(&place.journal);
            Ok(Opened::Complete(place.out))
        }
        Ok(Prepared::Begin { loaded, replace }) => begin(&request, manifest, place, loaded, replace, boot),
        Err(failure) => {
            if held.metadata().is_ok_and(|m| m.len() == 0) {
                // Made by us a moment ago, only to lock the place.
                let _ = std::fs::remove_file(&place.journal);
            }
            Err(failure)
        }
    }
}

#[allow(clippy::large_enum_variant)] // Made once per fetch.
enum Prepared {
    Complete,
    Begin { loaded: Option<Loaded>, replace: bool },
}

impl Request<'_> {
    fn target(&self, place: &Place) -> Result<Target, Failure> {
        let there = |path: &Path| path.symlink_metadata().is_ok();
        if !there(&place.out) {
            return Ok(Target::Absent);
        }
        let tops = top_names(self.manifest);
        if place.inside && !tops.is_empty() && !tops.iter().any(|top| there(&place.out.join(top))) {
            return Ok(Target::Absent);
        }
        match completion::remembered(self.manifest, &place.out, &self.options.state_dir, self.boot) {
            // Who asks for it to survive a power cut now was not asked for that before.
            Some(Lasts::UntilReboot(_)) if self.options.sync == SyncMode::Auto => self.remember(place),
            Some(_) => {}
            None if self.is_right(place)? => self.remember(place),
            None => return Ok(Target::Differs),
        }
        Ok(Target::Complete)
    }

    fn is_right(&self, place: &Place) -> Result<bool, Failure> {
        Ok(looks_right(self.manifest, &place.out)
            && verify(self.manifest, &place.out, None, self.progress, self.cancelled)?.is_good())
    }

    fn remember(&self, place: &Place) {
        if let Some(stamps) = completion::stamps(self.manifest, &place.out) {
            let flushed = self.options.sync == SyncMode::Auto && platform::flush(&place.out);
            let lasts = if flushed { Lasts::Always } else { Lasts::UntilReboot(self.boot) };
            completion::remember(self.manifest, &place.out, &stamps, &self.options.state_dir, lasts);
        }
    }

    /// With the place locked: reads the old journal and brings the part into a state from which it can go on.
    fn prepare(&self, place: &Place, held: &File, boot: Boot) -> Result<Prepared, Failure> {
        journal::refuse_foreign(&place.part)?;
        let mut loaded = journal::load(held, boot);
        if loaded.is_none() && held.metadata().is_ok_and(|m| m.len() > 0) {
            tracing::warn!("{} can't be used; checking what is there instead", place.journal.display());
        }
        if let Some(other) = loaded.as_ref().filter(|l| l.manifest.id() != self.manifest.id()) {
            if self.options.resume {
                return Err(Failure::new(
                    FailureKind::Refused,
                    format!("{} belongs to another content, {}", place.part.display(), other.manifest.id()),
                )
                .hint("go on with that one, choose another place with -o, or drop it with --no-resume"));
            }
            loaded = None;
        }
        let own_part = |l: &Loaded, path: &Path| {
            Identity::of(path)
                .is_ok_and(|found| found.inode == l.part.inode && (found.device == l.part.device || !l.same_boot))
        };
        if let Some(old) = loaded.as_ref().filter(|l| l.mark.moving && (l.same_boot || l.mark.synced)) {
            let replace = old.replace || self.options.existing != Existing::Refuse;
            if !place.inside && own_part(old, &place.out) {
                // It has its name already; what is under the other one was replaced.
                if replace {
                    remove(&place.part)?;
                }
                remove_leftovers(place, replace);
            } else if own_part(old, &place.part) {
                move_into_place(self.manifest, place, replace)?;
                remove_leftovers(place, replace);
            }
            if self.target(place)? == Target::Complete {
                return Ok(Prepared::Complete);
            }
        }
        let mut replace = loaded.as_ref().is_some_and(|l| l.replace);
        let part_exists = place.part.symlink_metadata().is_ok();
        match self.target(place)? {
            Target::Absent => {}
            Target::Complete => {
                if loaded.as_ref().is_some_and(|l| own_part(l, &place.part)) {
                    remove(&place.part)?;
                }
                return Ok(Prepared::Complete);
            }
            Target::Differs => match self.options.existing {
                Existing::Refuse if replace => {}
                Existing::Refuse => return Err(differs(place)),
                Existing::Overwrite => replace = true,
                Existing::Repair if part_exists && !place.inside => replace = true,
                Existing::Repair => {
                    take_for_repair(self.manifest, place)?;
                    loaded = None;
                    return Ok(Prepared::Begin { loaded, replace });
                }
            },
        }
        if !self.options.resume {
            remove(&place.part)?;
            loaded = None;
        }
        if loaded.as_ref().is_some_and(|l| !own_part(l, &place.part)) {
            if part_exists {
                tracing::warn!("{} is not the one the journal knows; checking it", place.part.display());
            }
            loaded = None;
        }
        Ok(Prepared::Begin { loaded, replace })
    }
}

/// Makes what has the final name the part, whose good pieces are then kept.
fn take_for_repair(manifest: &Manifest, place: &Place) -> Result<(), Failure> {
    let is_tree = manifest.shape() == Shape::Tree;
    if place.out.is_dir() != is_tree {
        return Err(Failure::new(
            FailureKind::Refused,
            format!("{} can't be repaired: a file is no directory", place.out.display()),
        )
        .hint("--overwrite replaces it"));
    }
    let rename = |from: &Path, to: &Path| std::fs::rename(from, to).map_err(|e| Failure::io("can't rename", from, &e));
    if !place.inside {
        return rename(&place.out, &place.part);
    }
    std::fs::create_dir_all(&place.part).map_err(|e| Failure::io("can't make", &place.part, &e))?;
    for top in top_names(manifest) {
        let (from, to) = (place.out.join(top), place.part.join(top));
        if from.symlink_metadata().is_ok() && to.symlink_metadata().is_err() {
            rename(&from, &to)?;
        }
    }
    Ok(())
}

fn begin(
    request: &Request<'_>,
    manifest: &Arc<Manifest>,
    place: Place,
    mut loaded: Option<Loaded>,
    replace: bool,
    boot: Boot,
) -> Result<Opened, Failure> {
    let options = request.options;
    let is_tree = manifest.shape() == Shape::Tree;
    let fail = |what: &str, path: &Path, error: &io::Error| Failure::io(what, path, error);
    let fresh = make_part(&place, is_tree)?;
    let tree = Tree::new(Base::open(&place.part, is_tree).map_err(|e| fail("can't open", &place.part, &e))?);
    check_room(manifest, &tree, &place, fresh)?;
    if let Some(old) = loaded.as_mut()
        && ((old.mark.clean && old.mark.digest != part_digest(manifest, &tree))
            || (old.same_boot && edited_since(manifest, &tree, &place.journal)))
    {
        tracing::warn!("{} was changed since it was left; checking it", place.part.display());
        old.have = Bitfield::none(old.have.len());
        old.durable = Bitfield::none(old.have.len());
        old.doubtful = true;
    }
    let geometry = manifest.geometry();
    let none = Bitfield::none(geometry.pieces());
    let rehash = loaded.as_ref().map_or(!fresh, |l| l.doubtful);
    let (have, durable, cvs, peers) = match loaded {
        Some(l) => (l.have, l.durable, l.cvs, l.peers),
        None => (none.clone(), none, Vec::new(), Vec::new()),
    };
    let mut state = State {
        have,
        cvs: vec![[0; 32]; geometry.cvs() as usize],
        known_cvs: Bitfield::none(geometry.cvs()),
        candidates: Vec::new(),
        peers,
    };
    for (at, cv) in &cvs {
        state.cvs[*at as usize] = *cv;
        state.known_cvs.set(*at, true);
    }
    drop_wrong_cvs(manifest, &mut state);
    let journal = Journal::begin(
        &place.journal,
        &Begin {
            manifest,
            boot,
            part: Identity::of(&place.part).map_err(|e| fail("can't read", &place.part, &e))?,
            replace,
            giver: options.giver,
            have: &state.have,
            durable: &durable,
            cvs: &cvs,
            peers: &state.peers,
            checking: rehash,
            sync: options.sync == SyncMode::Auto,
        },
    )
    .map_err(|e| fail("can't write", &place.journal, &e))?;
    let download = Download {
        manifest: manifest.clone(),
        place,
        options: options.clone(),
        replace,
        boot,
        tree,
        state: Mutex::new(state),
        journal: Mutex::new(Some(journal)),
        moving: Mutex::new(false),
        unsafe_disk: AtomicBool::new(false),
        beat: Mutex::new(Instant::now()),
        finished: OnceLock::new(),
    };
    if rehash {
        download.rehash(request.progress, request.cancelled)?;
        download.checked().map_err(|e| fail("can't write", &download.place.journal, &e))?;
    }
    debug_assert!(lock(&download.state).have.len() == geometry.pieces());
    Ok(Opened::Open(download))
}

/// CVs that are all there and don't fold to their file's root would make good pieces look bad.
fn drop_wrong_cvs(manifest: &Manifest, state: &mut State) {
    for file in manifest.geometry().large() {
        let root: Option<Hash> = super::known_root(state, file);
        if root.is_some_and(|root| root != manifest.root(file.entry)) {
            for at in file.first_cv..file.first_cv + file.pieces {
                state.known_cvs.set(at, false);
            }
        }
    }
}

/// Makes the part if there is none; says whether it is new.
fn make_part(place: &Place, is_tree: bool) -> Result<bool, Failure> {
    match place.part.symlink_metadata() {
        Ok(found) if (is_tree && found.is_dir()) || (!is_tree && found.is_file()) => return Ok(false),
        Ok(_) => {
            return Err(Failure::new(FailureKind::Refused, format!("{} is in the way", place.part.display()))
                .hint("remove it, or start from zero with --no-resume"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io("can't read", &place.part, &error)),
    }
    let made = if is_tree {
        std::fs::create_dir(&place.part)
    } else {
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(&place.part).map(drop)
    };
    made.map_err(|e| Failure::io("can't make", &place.part, &e))?;
    Ok(true)
}

/// Refuses to begin what can't end: bytes and files that are needed, against what is free.
fn check_room(manifest: &Manifest, tree: &Tree, place: &Place, fresh: bool) -> Result<(), Failure> {
    /// What small files round up to on common filesystems.
    const UNIT: u64 = 4096;
    let (mut bytes, mut files) = (0_u64, 0_u64);
    for entry in manifest.entries() {
        let there = if fresh { None } else { tree.look(&entry.path).ok() };
        files += u64::from(there.is_none());
        if let Kind::File { size, .. } = entry.kind {
            let rounded = size.div_ceil(UNIT).saturating_mul(UNIT);
            bytes = bytes.saturating_add(rounded.saturating_sub(there.map_or(0, |found| found.allocated)));
        }
    }
    let (free_bytes, free_files) =
        platform::free_space(tree.root()).map_err(|e| Failure::io("can't look at", &place.part, &e))?;
    let hint = "make room and run the same command again; what is there is kept";
    if bytes > free_bytes {
        let message =
            format!("not enough space for {}: {bytes} bytes are needed, {free_bytes} are free", place.out.display());
        return Err(give_up(place, fresh, local(message).hint(hint)));
    }
    if let Some(free) = free_files.filter(|free| *free < files) {
        let message = format!("not enough inodes for {}: {files} are needed, {free} are free", place.out.display());
        return Err(give_up(place, fresh, local(message).hint(hint)));
    }
    Ok(())
}

/// Leaves nothing behind of a fetch that never began.
fn give_up(place: &Place, fresh: bool, failure: Failure) -> Failure {
    if fresh {
        let _ = remove(&place.part);
        let _ = std::fs::remove_file(&place.journal);
    }
    failure
}

fn differs(place: &Place) -> Failure {
    Failure::new(FailureKind::Refused, format!("{} exists and is something else", place.out.display()))
        .hint("--repair keeps what is good of it, --overwrite replaces it, -o chooses another place")
}

/// Two names of the content that are one where case doesn't count.
pub(super) fn clashing_names(manifest: &Manifest) -> Option<(&str, &str)> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    let mut last = "";
    for entry in manifest.entries() {
        let path = entry.path.as_str();
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        // Directories that the entry before had too are seen already.
        let shared = path.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
        for end in ends.filter(|end| *end >= shared) {
            let name = &path[..end];
            match seen.entry(name.to_lowercase()) {
                std::collections::hash_map::Entry::Occupied(other) if *other.get() != name => {
                    return Some((other.get(), name));
                }
                std::collections::hash_map::Entry::Occupied(_) => {}
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(name);
                }
            }
        }
        last = path;
    }
    None
}

fn refuse_folded_names(manifest: &Manifest, place: &Place) -> Result<(), Failure> {
    let Some((one, other)) = clashing_names(manifest) else { return Ok(()) };
    let dir = if place.inside { Some(place.out.as_path()) } else { place.out.parent() };
    let folds = dir.is_some_and(|dir| {
        let probe = tempfile::Builder::new().prefix(".shoal-Case").suffix("X").tempfile_in(dir);
        probe.is_ok_and(|probe| {
            let name = probe.path().file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            dir.join(name).symlink_metadata().is_ok()
        })
    });
    if !folds {
        return Ok(());
    }
    let message = format!("'{one}' and '{other}' are one name at {}, where case doesn't count", place.out.display());
    Err(Failure::new(FailureKind::Input, message).hint("fetch to a filesystem that tells upper from lower case"))
}
