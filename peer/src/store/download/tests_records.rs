//! When a record is believed, and when the bytes are looked at again.

use super::*;

#[test]
fn bytes_that_nobody_flushed_are_looked_at_after_the_next_boot() {
    for sync in [SyncMode::None, SyncMode::Auto] {
        let mut world = World::of(&[2 * P, 7]);
        world.options.sync = sync;
        let download = world.open();
        world.take_all(&download);
        download.finish().unwrap();
        let hashed = |boot| {
            let hashed = std::sync::atomic::AtomicBool::new(false);
            let note = |_, _| hashed.store(true, Ordering::Relaxed);
            let opened = open::open(&world.manifest, &world.out(), &world.options, boot, &note, &GO, &|_| {}).unwrap();
            assert!(matches!(opened, Opened::Complete(_)));
            hashed.into_inner()
        };
        assert!(!hashed(BOOT), "{sync:?}");
        assert_eq!(hashed(OTHER_BOOT), sync == SyncMode::None);
        assert!(!hashed(OTHER_BOOT), "once is enough");
        assert_eq!(hashed(None), sync == SyncMode::None, "where it isn't known when the machine began");
    }
    // Who wants it safe afterwards gets that, too.
    let mut world = World::of(&[2 * P, 7]);
    let download = world.open();
    world.take_all(&download);
    download.finish().unwrap();
    world.options.sync = SyncMode::Auto;
    assert!(matches!(world.try_open(BOOT).unwrap(), Opened::Complete(_)));
    let remembered = completion::remembered(&world.manifest, &world.out(), &world.options.state_dir, OTHER_BOOT);
    assert_eq!(remembered, Some(completion::Lasts::Always));
}

#[test]
fn a_file_that_came_long_ago_gets_a_record_that_fits() {
    let mut world = World::single(2 * P);
    let download = world.open();
    world.take_all(&download);
    download.finish().unwrap();
    let at = |boot| completion::remembered(&world.manifest, &world.out(), &world.options.state_dir, boot);
    // Longer than a record and its file may differ.
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(at(OTHER_BOOT), None);
    world.options.sync = SyncMode::Auto;
    assert!(matches!(world.try_open(BOOT).unwrap(), Opened::Complete(_)));
    let at = |boot| completion::remembered(&world.manifest, &world.out(), &world.options.state_dir, boot);
    assert_eq!(at(OTHER_BOOT), Some(completion::Lasts::Always));
}

#[test]
fn an_edited_copied_or_touched_result_is_not_taken_for_complete_by_its_record() {
    let world = World::of(&[2 * P, 7]);
    let download = world.open();
    world.take_all(&download);
    download.finish().unwrap();
    let remembered = || completion::remembered(&world.manifest, &world.out(), &world.options.state_dir, BOOT).is_some();
    assert!(remembered());
    // Who doesn't have this user's secret can't praise bytes: the same record is worth nothing beside another one.
    let key = world.options.state_dir.join("complete.key");
    let secret = std::fs::read(&key).unwrap();
    for forged in [&[0; 32][..], &[]] {
        std::fs::write(&key, forged).unwrap();
        assert!(!remembered());
    }
    std::fs::write(&key, secret).unwrap();
    assert!(remembered());
    let file = world.out().join("d000/f00001");
    let stamp = file.metadata().unwrap().modified().unwrap();
    std::fs::write(&file, b"changed").unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(stamp).unwrap();
    assert!(!remembered());
    let block = Block { piece: world.manifest.geometry().pieces() - 1, offset: 0, length: 7 };
    assert!(matches!(download.read(block, &mut [0; 7]), Err(ReadError::Changed(1))));
    assert_eq!(world.refused(), FailureKind::Refused);
    std::fs::write(&file, &world.content[1]).unwrap();
    assert!(!remembered());
    world.check_complete();
    assert!(remembered(), "checking the bytes renews the record");
}
