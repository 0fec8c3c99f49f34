//! Where a download meets limits: of the content, of the disk, of names.

use super::*;
use std::io::Write as _;

#[test]
fn blocks_that_do_not_exist_or_are_not_had_are_refused() {
    let world = World::of(&[2 * P, 7]);
    let download = world.open();
    let block = |piece, offset, length| Block { piece, offset, length };
    assert!(download.write(block(9, 0, 1), &[0]).is_err());
    assert!(download.write(block(0, 0, 2), &[0]).is_err());
    assert!(download.read(block(0, 0, 1), &mut [0]).is_err());
    assert!(download.extents(block(0, 0, 1)).is_err());
    assert_eq!(download.finish().unwrap_err().kind, FailureKind::Incomplete);
    world.take(&download, [0]);
    // A late block of a piece that is had changes nothing.
    download.write(block(0, 0, 3), b"bad").unwrap();
    world.check_have(&download);
    assert_eq!(download.extents(block(0, 10, 20)).unwrap().len(), 1);
    download.mark_lost(0).unwrap();
    drop(download);
    assert_eq!(world.open().have().count(), 0);
}

#[test]
fn more_than_is_free_is_refused_before_anything_is_written() {
    let kind = Kind::File { size: 1 << 43, root: [7; 32], executable: false };
    let entries = vec![Entry { path: "huge".into(), kind }];
    let world = World::with(Manifest::new(Shape::Tree, 16 << 20, entries, Hints::default()).unwrap(), vec![]);
    let failure = world.try_open(BOOT).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Local);
    assert!(failure.message.contains("8796093022208 bytes are needed"), "{failure}");
    assert_eq!(snapshot(world.dir.path()).len(), 1, "nothing is left behind");
}

#[test]
fn a_directory_is_no_place_for_a_single_file() {
    let world = World::single(5);
    std::fs::create_dir(world.out()).unwrap();
    assert_eq!(world.refused(), FailureKind::Refused);
    let world = World::of(&[5]);
    std::fs::write(world.out(), b"file").unwrap();
    assert_eq!(world.refused(), FailureKind::Refused);
}

#[test]
fn names_that_differ_only_in_case_are_found() {
    let names = |paths: &[&str]| {
        let entry = |p: &&str| Entry { path: (*p).into(), kind: Kind::EmptyDirectory };
        let entries = paths.iter().map(entry).collect();
        let manifest = Manifest::new(Shape::Tree, P, entries, Hints::default()).unwrap();
        open::clashing_names(&manifest).map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    assert_eq!(names(&["A/x", "b", "c"]), None);
    assert_eq!(names(&["A/x", "a/y"]), Some(("A".into(), "a".into())));
    assert_eq!(names(&["Dir/X", "Dir/sub/a", "Dir/x"]), Some(("Dir/X".into(), "Dir/x".into())));
    assert_eq!(names(&["d/É", "d/é"]), Some(("d/É".into(), "d/é".into())));
}

#[test]
fn checking_that_was_interrupted_begins_anew() {
    let mut world = World::of(&[3 * P, 7]);
    let download = world.open();
    world.take_all(&download);
    download.finish().unwrap();
    drop(download);
    std::fs::write(world.out().join("d000/f00001"), b"spoilt!").unwrap();
    world.options.existing = Existing::Repair;
    let stop = AtomicBool::new(false);
    // Looking at what is under the name comes first; the flag is set once that is renamed.
    let part = world.dir.path().join("out.part");
    let progress = |_, _| stop.store(part.exists(), Ordering::Relaxed);
    let result = open::open(&world.manifest, &world.out(), &world.options, BOOT, &progress, &stop, &|_| {});
    assert_eq!(result.unwrap_err().kind, FailureKind::Interrupted);
    assert_eq!(world.open().have().zeros().collect::<Vec<_>>(), [3]);
}

/// A small filesystem of its own, where this user may make one.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&path).stderr(std::process::Stdio::null());
        mount.status().is_ok_and(|s| s.success()).then_some(Self(path))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_mount_point_is_filled_and_a_full_disk_keeps_what_is_verified() {
    let world = World::of(&[3 * P, 3 * P, 7, 90]);
    let Some(_mounted) = Mounted::at(world.out()) else {
        // Past the test runner, which hides what passing tests print.
        let _ = writeln!(std::io::stderr().lock(), "skipped: only root can mount a small disk");
        return;
    };
    std::fs::write(world.out().join("lost+found"), b"not ours").unwrap();
    let download = world.open();
    assert!(download.part_path().starts_with(world.out()));
    world.take(&download, [0, 1]);
    let filler = world.out().join("filler");
    let _ = std::fs::write(&filler, vec![1; 2 << 20]);
    let bytes = world.piece(4);
    let error = download.write(Block { piece: 4, offset: 0, length: bytes.len() as u32 }, &bytes).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    world.check_have(&download);
    drop(download);
    let failure = world.try_open(BOOT).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Local);
    std::fs::remove_file(&filler).unwrap();
    let download = world.open();
    assert_eq!(download.have().count(), 2);
    world.take_all(&download);
    download.finish().unwrap();
    world.check_complete();
    assert_eq!(std::fs::read(world.out().join("lost+found")).unwrap(), b"not ours");
}

#[test]
fn ten_thousand_small_files_arrive() {
    let sizes: Vec<u64> = (0..10_000).map(|n| n % 900).collect();
    let world = World::of(&sizes);
    let download = world.open();
    let geometry = world.manifest.geometry();
    for piece in 0..geometry.pieces() {
        let Some(Piece::Pack { first, count, .. }) = geometry.piece(piece) else { panic!() };
        let members = geometry.members_of(first, count);
        let bytes: Vec<u8> = members.iter().flat_map(|m| world.content[*m as usize].iter().copied()).collect();
        download.write(Block { piece, offset: 0, length: bytes.len() as u32 }, &bytes).unwrap();
        download.mark_verified(piece).unwrap();
    }
    download.finish().unwrap();
    world.check_complete();
}

#[test]
fn the_lock_is_of_the_file_that_has_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let world = World::of(&[1]);
    let held = journal::acquire(&path, world.manifest.id(), &GO, &|_| {}).unwrap();
    let stop = AtomicBool::new(true);
    assert_eq!(
        journal::acquire(&path, world.manifest.id(), &stop, &|_| {}).unwrap_err().kind,
        FailureKind::Interrupted
    );
    std::fs::remove_file(&path).unwrap();
    assert!(journal::acquire(&path, world.manifest.id(), &GO, &|_| {}).is_ok());
    drop(held);
}
