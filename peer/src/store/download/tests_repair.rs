//! What is there already is kept where it is right, whatever it is: too long, somebody else's too, or written over meanwhile.

use super::*;

#[test]
fn what_is_written_over_is_not_found_by_what_was_hashed_before() {
    let world = World::single(3 * P);
    let download = world.open();
    world.write(&download, 0);
    world.write(&download, 1);
    drop(download);
    std::fs::remove_file(world.dir.path().join("out.part.journal")).unwrap();
    let download = world.open();
    assert!(download.awaits_cvs());
    // Any byte will do, and whoever sent it: a piece may be begun before its CV is known.
    let block = Block { piece: 0, offset: 7, length: 1 };
    download.write(block, &[!world.piece(0)[7]]).unwrap();
    assert_eq!(download.add_cvs(0, &world.cvs(0..3)).unwrap(), [1]);
    world.check_have(&download);
    // What was found is not written over.
    let block = Block { piece: 1, ..block };
    download.write(block, &[!world.piece(1)[7]]).unwrap();
    world.check_have(&download);
    world.take_all(&download);
    download.finish().unwrap();
    world.check_complete();
}

#[test]
fn a_file_that_is_too_long_is_cut() {
    for linked in [false, true] {
        let mut world = World::single(3 * P);
        let download = world.open();
        world.take_all(&download);
        download.finish().unwrap();
        let other = world.dir.path().join("other");
        if linked {
            std::fs::hard_link(world.out(), &other).unwrap();
        }
        File::options().write(true).open(world.out()).unwrap().write_all_at(b"more", 3 * P).unwrap();
        assert_eq!(world.refused(), FailureKind::Refused);
        world.options.existing = Existing::Repair;
        let download = world.open();
        assert!(download.have().is_complete(), "all of it is there");
        download.finish().unwrap();
        world.check_complete();
        if linked {
            assert_eq!(other.metadata().unwrap().len(), 3 * P + 4, "it is somebody else's");
        }
    }
    // While it is fetched.
    let world = World::single(3 * P);
    let download = world.open();
    world.take_all(&download);
    let part = File::options().write(true).open(world.dir.path().join("out.part")).unwrap();
    part.write_all_at(b"more", 3 * P).unwrap();
    download.finish().unwrap();
    world.check_complete();
}

#[test]
fn two_who_write_to_a_file_of_somebody_else_make_one_file_of_it() {
    const SIZE: u64 = 64 * P;
    for linked in [true, false] {
        for _ in 0..20 {
            let mut world = World::of(&[SIZE]);
            world.options.existing = Existing::Repair;
            let (file, other) = (world.out().join("d000/f00000"), world.dir.path().join("other"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            let mut bad = world.content[0].clone();
            bad[7] ^= 1;
            bad[P as usize + 7] ^= 1;
            std::fs::write(&other, &bad).unwrap();
            if linked {
                std::fs::hard_link(&other, &file).unwrap();
            } else {
                std::os::unix::fs::symlink(&other, &file).unwrap();
            }
            let download = world.open();
            download.add_cvs(0, &world.cvs(0..64)).unwrap();
            let missing: Vec<u32> = download.have().zeros().collect();
            assert_eq!(missing.len(), if linked { 2 } else { 64 });
            let barrier = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for half in [0, 1] {
                    let (world, download, barrier, missing) = (&world, &download, &barrier, &missing);
                    scope.spawn(move || {
                        barrier.wait();
                        for piece in missing.iter().filter(|piece| **piece % 2 == half) {
                            let bytes = world.piece(*piece);
                            let block = Block { piece: *piece, offset: 0, length: bytes.len() as u32 };
                            download.write(block, &bytes).unwrap();
                            download.mark_verified(*piece).unwrap();
                        }
                    });
                }
            });
            download.finish().unwrap();
            world.check_complete();
            assert!(std::fs::read(&other).unwrap() == bad, "what has another name is somebody else's");
        }
    }
}

#[test]
fn a_copy_that_does_not_fit_takes_nothing_with_it() {
    let mut world = World::of(&[3 * P, 7]);
    world.options.existing = Existing::Repair;
    let (file, other) = (world.out().join("d000/f00000"), world.dir.path().join("other"));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut bad = world.content[0].clone();
    bad[7] ^= 1;
    std::fs::write(&other, &bad).unwrap();
    std::fs::hard_link(&other, &file).unwrap();
    let download = world.open();
    assert_eq!(download.add_cvs(0, &world.cvs(0..3)).unwrap(), [1, 2]);
    // A directory can't be written over, so the copy fails.
    let name = format!(".shoal-own\u{1}{}", &blake3::hash(b"f00000").to_hex()[..16]);
    let in_the_way = world.dir.path().join("out.part/d000").join(name);
    std::fs::create_dir(&in_the_way).unwrap();
    let block = Block { piece: 0, offset: 0, length: 1 };
    download.write(block, &world.piece(0)[..1]).unwrap_err();
    world.check_have(&download);
    download.save();
    drop(download);
    std::fs::remove_dir(&in_the_way).unwrap();
    // As a kill would have left it.
    std::fs::write(&in_the_way, b"half").unwrap();
    std::fs::remove_file(&other).unwrap();
    let download = world.open();
    assert!(download.have().has(1) && download.have().has(2));
    world.check_have(&download);
    world.take_all(&download);
    download.finish().unwrap();
    world.check_complete();
    assert_eq!(std::fs::read_dir(world.out().join("d000")).unwrap().count(), 2, "a copy is left");
}

#[test]
fn two_fetches_beside_each_other_copy_what_is_their_own() {
    for _ in 0..10 {
        let mut worlds = [World::single(16 * P), World::single(16 * P)];
        let (first, rest) = worlds.split_at_mut(1);
        let dir = first[0].dir.path().to_owned();
        let outs = [dir.join("out"), dir.join("second")];
        let mut downloads = Vec::new();
        for (world, out) in [&mut first[0], &mut rest[0]].into_iter().zip(&outs) {
            let mut bad = world.content[0].clone();
            bad[7] ^= 1;
            std::fs::write(out, &bad).unwrap();
            std::fs::hard_link(out, out.with_extension("other")).unwrap();
            world.options.existing = Existing::Repair;
            let opened = open::open(&world.manifest, out, &world.options, BOOT, &|_, _| {}, &GO, &|_| {}).unwrap();
            let Opened::Open(download) = opened else { panic!("it is complete") };
            download.add_cvs(0, &world.cvs(0..16)).unwrap();
            downloads.push(download);
        }
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for (world, download) in worlds.iter().zip(&downloads) {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    world.take_all(download);
                    download.finish().unwrap();
                });
            }
        });
        for (world, out) in worlds.iter().zip(&outs) {
            assert!(std::fs::read(out).unwrap() == world.content[0]);
        }
    }
}

#[test]
fn a_file_that_is_too_long_is_served_before_it_is_cut() {
    let mut world = World::of(&[3 * P, 7]);
    let download = world.open();
    world.take_all(&download);
    download.finish().unwrap();
    let file = world.out().join("d000/f00000");
    File::options().write(true).open(&file).unwrap().write_all_at(b"more", 3 * P).unwrap();
    std::fs::write(world.out().join("d000/f00001"), b"other..").unwrap();
    world.options.existing = Existing::Repair;
    let download = world.open();
    world.check_have(&download);
    assert_eq!(download.have().count(), 3, "all but the small file");
}
