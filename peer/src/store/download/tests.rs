//! What a download promises, each promise as a test on a real directory.

use super::super::completion;
use super::super::journal;
use super::super::testing::{GO, content_of, manifest_of_sizes, piece_bytes, root_of_bytes, snapshot};
use super::super::{Source, piece_check::PieceCheck};
use super::*;
use crate::failure::FailureKind;
use shoal_protocol::address::Reach;
use shoal_protocol::geometry::Piece;
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::manifest::{EMPTY_ROOT, Entry, Hints, Shape};
use shoal_protocol::tree::piece_cv;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const P: u64 = 65_536;
const BOOT: Option<[u8; 16]> = Some([1; 16]);
const OTHER_BOOT: Option<[u8; 16]> = Some([2; 16]);

struct World {
    dir: tempfile::TempDir,
    manifest: Arc<Manifest>,
    content: Vec<Vec<u8>>,
    options: DownloadOptions,
}

impl World {
    fn of(sizes: &[u64]) -> Self {
        Self::with(manifest_of_sizes(sizes, P), content_of(sizes))
    }

    fn single(size: u64) -> Self {
        let content = content_of(&[size]);
        let kind = Kind::File { size, root: root_of_bytes(&content[0]), executable: false };
        let entries = vec![Entry { path: String::new(), kind }];
        Self::with(Manifest::new(Shape::File, P, entries, Hints::default()).unwrap(), content)
    }

    fn with(manifest: Manifest, content: Vec<Vec<u8>>) -> Self {
        // In memory where that can be had: disks flush a journal that is renamed over another one, thousands of times here.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let options = DownloadOptions {
            resume: true,
            // Flushing waits for whatever else writes to this disk; tests of what it is for turn it on.
            sync: SyncMode::None,
            existing: Existing::Refuse,
            giver: Reach::Private,
            state_dir: dir.path().join("state"),
        };
        Self { dir, manifest: Arc::new(manifest), content, options }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn try_open(&self, boot: Option<[u8; 16]>) -> Result<Opened, Failure> {
        open::open(&self.manifest, &self.out(), &self.options, boot, &|_, _| {}, &GO, &|_| {})
    }

    fn open(&self) -> Download {
        self.open_at(BOOT)
    }

    fn open_at(&self, boot: Option<[u8; 16]>) -> Download {
        match self.try_open(boot).unwrap() {
            Opened::Open(download) => download,
            Opened::Complete(path) => panic!("{} is complete", path.display()),
        }
    }

    fn refused(&self) -> FailureKind {
        self.try_open(BOOT).unwrap_err().kind
    }

    fn piece(&self, piece: u32) -> Vec<u8> {
        piece_bytes(&self.manifest, &self.content, piece)
    }

    fn write(&self, download: &Download, piece: u32) {
        let bytes = self.piece(piece);
        // Backwards, as nothing may depend on the order, and in blocks that cut files.
        let mut offsets: Vec<_> = (0..bytes.len()).step_by(20_000.min(BLOCK_BYTES as usize)).collect();
        offsets.reverse();
        for at in offsets {
            let part = &bytes[at..bytes.len().min(at + 20_000)];
            let block = Block { piece, offset: at as u32, length: part.len() as u32 };
            download.write(block, part).unwrap();
            let mut back = vec![0; part.len()];
            download.read_unverified(block, &mut back).unwrap();
            assert_eq!(back, part);
        }
    }

    fn cv(&self, piece: u32) -> Option<Hash> {
        match self.manifest.geometry().piece(piece) {
            Some(Piece::Subtree { offset, .. }) => piece_cv(offset, &self.piece(piece)),
            _ => None,
        }
    }

    /// Of pieces of large files.
    fn cvs(&self, pieces: std::ops::Range<u32>) -> Vec<Hash> {
        pieces.map(|piece| self.cv(piece).unwrap()).collect()
    }

    fn take(&self, download: &Download, pieces: impl IntoIterator<Item = u32>) {
        for piece in pieces {
            self.write(download, piece);
            if let Some(at) = self.manifest.geometry().cv_index(piece) {
                download.add_cvs(at, &[self.cv(piece).unwrap()]).unwrap();
            }
            download.mark_verified(piece).unwrap();
        }
    }

    fn take_all(&self, download: &Download) {
        let missing: Vec<u32> = download.have().zeros().collect();
        self.take(download, missing);
    }

    /// What is had is right, whatever happened before.
    fn check_have(&self, download: &Download) {
        for piece in download.have().ones() {
            let mut bytes = vec![0; self.manifest.geometry().piece_length(piece) as usize];
            let block = Block { piece, offset: 0, length: bytes.len() as u32 };
            download.read(block, &mut bytes).unwrap();
            let mut check = PieceCheck::new(&self.manifest, piece, self.cv(piece));
            check.update(&bytes);
            assert!(check.finish(), "piece {piece} is had and wrong");
        }
    }

    fn check_complete(&self) {
        for (entry, bytes) in self.manifest.entries().iter().zip(&self.content) {
            let path = if entry.path.is_empty() { self.out() } else { self.out().join(&entry.path) };
            let Kind::File { executable, .. } = entry.kind else { continue };
            assert_eq!(&std::fs::read(&path).unwrap(), bytes, "{}", entry.path);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o100 != 0, executable);
        }
        for left in ["out.part", "out.part.journal", "out.part.old", "out/.shoal.part", "out/.shoal.journal"] {
            assert!(self.dir.path().join(left).symlink_metadata().is_err(), "{left} is left");
        }
        assert!(matches!(self.try_open(BOOT).unwrap(), Opened::Complete(_)));
    }
}

#[test]
fn sizes_around_every_boundary_arrive() {
    for size in [0, 1, P - 1, P, P + 1, 2 * P - 1, 2 * P, 2 * P + 1, 3 * P + 1023] {
        for world in [World::single(size), World::of(&[size]), World::of(&[3, size, 5, P, size])] {
            let download = world.open();
            world.take_all(&download);
            world.check_have(&download);
            assert_eq!(download.finish().unwrap(), world.out());
            assert_eq!(download.finish().unwrap(), world.out());
            world.check_have(&download);
            world.check_complete();
        }
    }
}

#[test]
fn a_killed_fetch_goes_on_with_exactly_what_was_marked() {
    let world = World::of(&[10, 3 * P, 40_000, 40_000, 5]);
    for _ in 0..2 {
        drop(world.open());
    }
    let download = world.open();
    let order = [3, 0, 4];
    for piece in order {
        world.take(&download, [piece]);
        world.write(&download, 1);
    }
    let before = download.have();
    let (cvs, known) = download.cvs();
    download.remember_peers(&["10.0.0.1:7171".parse().unwrap(), "[::1]:7172".parse().unwrap()]);
    drop(download);
    let (manifest, giver) = read_journal_manifest(&world.out()).unwrap();
    assert_eq!((manifest.id(), giver), (world.manifest.id(), Reach::Private));
    let download = world.open();
    assert_eq!(download.have(), before);
    assert_eq!(download.cvs(), (cvs, known));
    assert_eq!(download.known_peers().len(), 2);
    world.check_have(&download);
    world.take_all(&download);
    download.finish().unwrap();
    world.check_complete();
}

#[test]
fn another_boot_trusts_checkpoints_and_hashes_the_rest() {
    let mut world = World::of(&[10, 4 * P, 40_000, 40_000, 5]);
    world.options.sync = SyncMode::Auto;
    let download = world.open();
    world.take(&download, [1, 2]);
    download.checkpoint().unwrap();
    world.take(&download, [0, 3]);
    drop(download);
    // The power cut took what came after the checkpoint.
    let file = File::options().write(true).open(world.dir.path().join("out.part/d000/f00001")).unwrap();
    file.write_all_at(&[0xaa; 100], 2 * P).unwrap();
    std::fs::write(world.dir.path().join("out.part/d000/f00000"), b"").unwrap();
    let download = world.open_at(OTHER_BOOT);
    let have: Vec<u32> = download.have().ones().collect();
    assert_eq!(have, [1, 2], "0 and 3 were damaged");
    world.check_have(&download);
    world.take(&download, [0]);
    drop(download);
    let download = world.open_at(Some([3; 16]));
    assert!(download.have().has(0), "it is found by hashing");
    world.take_all(&download);
    download.finish().unwrap();
    world.check_complete();
}

#[test]
fn a_clean_stop_notices_a_part_that_was_touched() {
    let world = World::of(&[3 * P, 7]);
    let download = world.open();
    world.take_all(&download);
    download.save();
    drop(download);
    let download = world.open();
    assert!(download.have().is_complete());
    download.save();
    drop(download);
    let path = world.dir.path().join("out.part/d000/f00000");
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"edited", P + 5).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    drop(file);
    let download = world.open();
    assert_eq!(download.have().zeros().collect::<Vec<_>>(), [1]);
    world.check_have(&download);
}

#[test]
fn a_part_that_was_edited_after_a_kill_is_checked() {
    let world = World::of(&[3 * P, 7]);
    for (name, bad) in [("f00000", 1), ("f00001", 3)] {
        let download = world.open();
        world.take_all(&download);
        drop(download);
        let path = world.dir.path().join("out.part/d000").join(name);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"edited", if bad == 1 { P + 5 } else { 0 }).unwrap();
        file.set_modified(std::time::SystemTime::now() + Duration::from_secs(1)).unwrap();
        drop(file);
        let download = world.open();
        assert_eq!(download.have().zeros().collect::<Vec<_>>(), [bad], "{name}");
        world.check_have(&download);
    }
}

#[test]
fn a_slow_write_of_its_own_is_no_edit() {
    let world = World::of(&[3 * P]);
    let download = world.open();
    world.take(&download, [0]);
    // Far from the last note in the journal, but told of by the beat.
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    let journal = world.dir.path().join("out.part.journal");
    File::options().write(true).open(&journal).unwrap().set_modified(old).unwrap();
    std::thread::sleep(BEAT);
    let block = Block { piece: 1, offset: 0, length: 1_024 };
    download.write(block, &world.piece(1)[..1_024]).unwrap();
    drop(download);
    // A byte that nobody wrote shows whether the part was read again.
    let path = world.dir.path().join("out.part/d000/f00000");
    let file = File::options().write(true).open(&path).unwrap();
    let mtime = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"edited", 5).unwrap();
    file.set_modified(mtime).unwrap();
    drop(file);
    assert!(world.open().have().has(0), "nothing is hashed again");
}

#[test]
fn no_flipped_byte_of_the_journal_makes_anything_had_that_is_not() {
    let mut world = World::of(&[10, 2 * P + 5, 20]);
    world.options.sync = SyncMode::Auto;
    let download = world.open();
    world.take(&download, [0, 2]);
    download.checkpoint().unwrap();
    world.write(&download, 3);
    drop(download);
    world.options.sync = SyncMode::None;
    let journal = world.dir.path().join("out.part.journal");
    let good = std::fs::read(&journal).unwrap();
    for at in 0..good.len() {
        for boot in [BOOT, OTHER_BOOT] {
            let mut bad = good.clone();
            bad[at] ^= if at % 2 == 0 { 0x40 } else { 0xff };
            std::fs::write(&journal, &bad).unwrap();
            let download = world.open_at(boot);
            world.check_have(&download);
            let (cvs, known) = download.cvs();
            for piece in 0..3 {
                if let Some(cv) = world.manifest.geometry().cv_index(piece).filter(|cv| known.has(*cv)) {
                    assert_eq!(Some(cvs[cv as usize]), world.cv(piece), "a wrong CV, byte {at}");
                }
            }
        }
    }
    // A journal cut short anywhere, and one of a later version.
    for length in (0..good.len()).step_by(37) {
        std::fs::write(&journal, &good[..length]).unwrap();
        world.check_have(&world.open());
    }
}

#[test]
fn a_part_without_a_journal_is_hashed() {
    let world = World::of(&[10, 3 * P, 20, 2 * P + 1]);
    let download = world.open();
    world.take_all(&download);
    drop(download);
    std::fs::remove_file(world.dir.path().join("out.part.journal")).unwrap();
    let path = world.dir.path().join("out.part/d000/f00003");
    File::options().write(true).open(path).unwrap().write_all_at(b"x", 3).unwrap();
    let download = world.open();
    let have: Vec<u32> = download.have().ones().collect();
    // The file whose CVs nobody knows is only judged as a whole, until the swarm tells them.
    assert_eq!(have, [0, 1, 2, 3]);
    // A stop before the swarm told them, with or without a last word, leaves nothing to be fetched again.
    download.save();
    drop(download);
    drop(world.open());
    let download = world.open();
    assert_eq!(download.add_cvs(3, &world.cvs(4..7)).unwrap(), [5, 6]);
    world.check_have(&download);
    world.take_all(&download);
    download.finish().unwrap();
    world.check_complete();
}

#[test]
fn no_resume_and_a_foreign_part_start_from_zero() {
    let mut world = World::of(&[3 * P, 7]);
    let download = world.open();
    world.take_all(&download);
    drop(download);
    world.options.resume = false;
    assert_eq!(world.open().have().count(), 0);
    world.options.resume = true;
    // Another directory under the part's name isn't trusted.
    let download = world.open();
    world.take_all(&download);
    drop(download);
    let part = world.dir.path().join("out.part");
    std::fs::rename(&part, world.dir.path().join("away")).unwrap();
    std::fs::create_dir(&part).unwrap();
    assert_eq!(world.open().have().count(), 0);
}

#[test]
fn another_content_under_way_is_refused() {
    let world = World::of(&[3 * P, 7]);
    let download = world.open();
    let mut other = World::of(&[100]);
    other.dir = tempfile::tempdir().unwrap();
    let refused = |resume| {
        let options = DownloadOptions { resume, ..world.options.clone() };
        open::open(&other.manifest, &world.out(), &options, BOOT, &|_, _| {}, &GO, &|_| {})
    };
    assert_eq!(refused(true).unwrap_err().kind, FailureKind::Refused);
    assert_eq!(refused(false).unwrap_err().kind, FailureKind::Refused, "while it runs");
    drop(download);
    assert_eq!(refused(true).unwrap_err().kind, FailureKind::Refused);
    assert!(matches!(refused(false), Ok(Opened::Open(_))));
}

#[test]
fn a_second_fetch_waits_and_gets_the_result_of_the_first() {
    let world = World::of(&[3 * P, 7]);
    let download = world.open();
    world.take_all(&download);
    std::thread::scope(|scope| {
        let (told, tell) = std::sync::mpsc::channel();
        let (world, out) = (&world, world.out());
        let second = scope.spawn(move || {
            let waiting = |pid| told.send(pid).unwrap();
            open::open(&world.manifest, &out, &world.options, BOOT, &|_, _| {}, &GO, &waiting).unwrap()
        });
        assert_eq!(tell.recv().unwrap(), std::process::id());
        download.finish().unwrap();
        assert!(matches!(second.join().unwrap(), Opened::Complete(_)));
    });
    world.check_complete();
}

#[test]
fn something_else_under_the_name_is_refused_replaced_or_repaired() {
    for single in [true, false] {
        let mut world = if single { World::single(3 * P) } else { World::of(&[3 * P, 7, 9]) };
        let file = if single { world.out() } else { world.out().join("d000/f00000") };
        let spoil = |world: &World| {
            let download = world.open();
            world.take_all(&download);
            download.finish().unwrap();
            drop(download);
            File::options().write(true).open(&file).unwrap().write_all_at(b"spoilt", P + 7).unwrap();
        };
        spoil(&world);
        let before = snapshot(&world.out());
        assert_eq!(world.refused(), FailureKind::Refused);
        assert!(world.dir.path().join("out.part.journal").symlink_metadata().is_err());

        world.options.existing = Existing::Overwrite;
        let download = world.open();
        assert_eq!(download.have().count(), 0);
        world.take(&download, [0]);
        assert_eq!(snapshot(&world.out()), before, "the old one stays until the new one is complete");
        world.take_all(&download);
        download.finish().unwrap();
        drop(download);
        world.check_complete();

        world.options.existing = Existing::Refuse;
        std::fs::remove_file(&file).unwrap();
        assert_eq!(single, matches!(world.try_open(BOOT), Ok(Opened::Open(_))));
        let _ = std::fs::remove_dir_all(world.dir.path().join("out.part"));
        let _ = std::fs::remove_dir_all(world.out());
        let _ = std::fs::remove_file(world.dir.path().join("out.part"));
        let _ = std::fs::remove_file(world.dir.path().join("out.part.journal"));
        spoil(&world);
        world.options.existing = Existing::Repair;
        let download = world.open();
        let cvs: Vec<Hash> = (0..3).map(|p| world.cv(p).unwrap()).collect();
        download.add_cvs(0, &cvs).unwrap();
        assert_eq!(download.have().zeros().collect::<Vec<_>>(), [1]);
        world.take_all(&download);
        download.finish().unwrap();
        world.check_complete();
    }
}

#[test]
fn repairing_a_hard_linked_file_leaves_its_other_name_alone() {
    let mut world = World::single(2 * P);
    let mut bytes = world.content[0].clone();
    bytes[5] ^= 1;
    std::fs::write(world.out(), &bytes).unwrap();
    let other = world.dir.path().join("other");
    std::fs::hard_link(world.out(), &other).unwrap();
    world.options.existing = Existing::Repair;
    let download = world.open();
    world.take_all(&download);
    download.finish().unwrap();
    world.check_complete();
    assert_eq!(std::fs::read(&other).unwrap(), bytes);
}

#[test]
fn what_gets_the_name_meanwhile_is_not_replaced() {
    let world = World::single(2 * P);
    let download = world.open();
    world.take_all(&download);
    std::fs::write(world.out(), b"mine").unwrap();
    assert_eq!(download.finish().unwrap_err().kind, FailureKind::Refused);
    assert_eq!(std::fs::read(world.out()).unwrap(), b"mine");
    drop(download);
    assert_eq!(world.refused(), FailureKind::Refused);
    std::fs::remove_file(world.out()).unwrap();
    // All was had, so nothing is left to do but the renaming.
    assert!(matches!(world.try_open(BOOT).unwrap(), Opened::Complete(_)));
    world.check_complete();
}

#[test]
fn planted_links_lead_nowhere() {
    let world = World::of(&[3 * P, 7, 0]);
    let outside = world.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f00000"), b"canary").unwrap();
    let before = snapshot(&outside);
    let download = world.open();
    let part = world.dir.path().join("out.part");
    std::os::unix::fs::symlink(&outside, part.join("d000")).unwrap();
    let bytes = world.piece(0);
    let block = Block { piece: 0, offset: 0, length: bytes.len() as u32 };
    assert!(download.write(block, &bytes).is_err());
    assert_eq!(snapshot(&outside), before);
    std::fs::remove_file(part.join("d000")).unwrap();
    std::fs::create_dir(part.join("d000")).unwrap();
    for name in ["f00000", "f00001", "f00002"] {
        std::os::unix::fs::symlink(outside.join("f00000"), part.join("d000").join(name)).unwrap();
    }
    world.take_all(&download);
    download.finish().unwrap();
    world.check_complete();
    assert_eq!(snapshot(&outside), before);
}

fn every_kind() -> World {
    let files: Vec<Vec<u8>> = content_of(&[5, 2 * P, 0, 9]);
    let file = |path: &str, at: usize, executable| Entry {
        path: path.into(),
        kind: Kind::File { size: files[at].len() as u64, root: root_of_bytes(&files[at]), executable },
    };
    let entries = vec![
        file(".shoal.part", 0, true),
        file("a/big", 1, false),
        Entry { path: "a/empty".into(), kind: Kind::EmptyDirectory },
        Entry { path: "a/link".into(), kind: Kind::Link { target: "../nothing".into() } },
        file("none", 2, true),
        file("z", 3, false),
    ];
    assert_eq!(root_of_bytes(&files[2]), EMPTY_ROOT);
    let manifest = Manifest::new(Shape::Tree, P, entries, Hints::default()).unwrap();
    let content = vec![files[0].clone(), files[1].clone(), vec![], vec![], files[2].clone(), files[3].clone()];
    World::with(manifest, content)
}

#[test]
fn an_empty_directory_is_filled_and_stays_the_same_directory() {
    let world = every_kind();
    std::fs::create_dir(world.out()).unwrap();
    let inode = world.out().metadata().unwrap().ino();
    let download = world.open();
    world.take(&download, [0]);
    drop(download);
    assert!(read_journal_manifest(&world.out()).is_some());
    let download = world.open();
    assert_eq!(download.have().count(), 1);
    world.take_all(&download);
    download.finish().unwrap();
    world.check_have(&download);
    assert_eq!(world.out().metadata().unwrap().ino(), inode);
    let names: Vec<String> = snapshot(&world.out()).into_iter().map(|found| found.0).collect();
    assert_eq!(names, ["/", ".shoal.part", "a/", "a/big", "a/empty/", "a/link ->", "none", "z"]);
    assert!(matches!(world.try_open(BOOT).unwrap(), Opened::Complete(_)));
}

#[test]
fn a_crash_while_moving_goes_on_from_wherever_it_was() {
    for moved in 0..5 {
        let mut world = every_kind();
        world.options.sync = SyncMode::Auto;
        std::fs::create_dir(world.out()).unwrap();
        let download = world.open();
        world.take_all(&download);
        download.make_rest_for_test();
        for name in [".shoal.part", "a", "none", "z"].iter().take(moved) {
            std::fs::rename(download.part_path().join(name), world.out().join(name)).unwrap();
        }
        drop(download);
        assert!(matches!(world.try_open(OTHER_BOOT).unwrap(), Opened::Complete(_)), "{moved}");
        assert_eq!(snapshot(&world.out()).len(), 8);
    }
}

#[test]
fn a_crash_after_the_swap_does_not_swap_back() {
    let mut world = World::of(&[2 * P, 7]);
    std::fs::create_dir(world.out()).unwrap();
    std::fs::write(world.out().join("old"), b"old").unwrap();
    world.options.existing = Existing::Overwrite;
    let download = world.open();
    world.take_all(&download);
    download.make_rest_for_test();
    platform::rename(download.part_path(), &world.out(), platform::Replace::Exchange).unwrap();
    drop(download);
    world.options.existing = Existing::Refuse;
    assert!(matches!(world.try_open(BOOT).unwrap(), Opened::Complete(_)));
    world.check_complete();
    assert!(!world.out().join("old").exists());
}

impl Download {
    /// Everything that `finish` does before it renames.
    fn make_rest_for_test(&self) {
        self.make_the_rest().unwrap();
        self.write_checkpoint(Mark { moving: true, ..Mark::default() }).unwrap();
    }
}

#[path = "tests_limits.rs"]
mod limits;
#[path = "tests_power.rs"]
mod power;
#[path = "tests_records.rs"]
mod records;
#[path = "tests_repair.rs"]
mod repair;
