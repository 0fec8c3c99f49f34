//! Scanning, serving what was scanned, and verifying: on real directories.

use super::testing::{GO, bytes_of};
use super::*;
use crate::failure::{Failure, FailureKind};
use shoal_protocol::manifest::{Kind, Shape};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

const P: u64 = 65_536;

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let at = root.join(path);
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(at, bytes).unwrap();
}

fn options() -> ScanOptions {
    ScanOptions { piece_size: Some(P as u32), ..ScanOptions::default() }
}

fn scan_with(root: &Path, options: &ScanOptions) -> Result<Scanned, Failure> {
    scan(root, options, &|_| {}, &GO)
}

/// Scans and tells how many bytes were hashed.
fn scan_counting(root: &Path, options: &ScanOptions) -> (Scanned, u64) {
    let most = AtomicU64::new(0);
    let count = |p: ScanProgress| {
        most.fetch_max(p.done, Ordering::Relaxed);
    };
    (scan(root, options, &count, &GO).unwrap(), most.into_inner())
}

fn paths(scanned: &Scanned) -> Vec<&str> {
    scanned.manifest.entries().iter().map(|e| e.path.as_str()).collect()
}

fn read_piece(source: &dyn Source, manifest: &shoal_protocol::Manifest, piece: u32) -> Result<Vec<u8>, ReadError> {
    let length = manifest.geometry().piece_length(piece);
    let mut out = vec![0; length as usize];
    let block = Block { piece, offset: 0, length };
    source.read(block, &mut out)?;
    let mut whole = Vec::new();
    for extent in source.extents(block)? {
        let mut part = vec![0; extent.length as usize];
        extent.file.read_exact_at(&mut part, extent.offset)?;
        whole.extend(part);
    }
    assert_eq!(whole, out);
    Ok(out)
}

#[test]
fn roots_are_those_of_b3sum_and_order_is_that_of_whole_paths() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let sizes = [0, 1, P - 1, P, P + 1, 2 * P - 1, 2 * P, 2 * P + 1, 3 * P + 1023];
    for (n, size) in sizes.into_iter().enumerate() {
        put(root, &format!("s/{n}"), &bytes_of(n, size));
    }
    put(root, "a/b", b"1");
    put(root, "a.b", b"2");
    std::fs::set_permissions(root.join("a.b"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::fs::create_dir_all(root.join("e/e")).unwrap();
    symlink("../a/b", root.join("s/link")).unwrap();
    let scanned = scan_with(root, &options()).unwrap();
    let expected = ["a.b", "a/b", "e/e", "s/0", "s/1", "s/2", "s/3", "s/4", "s/5", "s/6", "s/7", "s/8", "s/link"];
    assert_eq!(paths(&scanned), expected);
    for entry in scanned.manifest.entries() {
        if let Kind::File { root: hash, size, executable } = &entry.kind {
            let bytes = std::fs::read(root.join(&entry.path)).unwrap();
            assert_eq!((blake3::hash(&bytes).as_bytes(), bytes.len() as u64), (hash, *size), "{}", entry.path);
            assert_eq!(*executable, entry.path == "a.b");
        }
    }
    assert_eq!(scanned.cvs.len(), scanned.manifest.geometry().cvs() as usize);
    let report = verify(&scanned.manifest, root, Some(&scanned.cvs), &|_, _| {}, &GO).unwrap();
    assert!(report.is_good() && report.extra.is_empty(), "{report:?}");
    assert_eq!(report.good_bytes, scanned.manifest.bytes());

    let single = scan_with(&root.join("s/8"), &options()).unwrap();
    assert_eq!((single.manifest.shape(), paths(&single)), (Shape::File, vec![""]));
    assert!(scan_with(&root.join("none"), &options()).is_err());
}

#[test]
fn what_can_not_be_content_stops_with_the_flag_that_decides() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    put(&root, "ok", b"1");
    symlink("/etc/passwd", root.join("leaves")).unwrap();
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"bad\xff")), b"").unwrap();
    std::fs::write(root.join("new\nline"), b"").unwrap();
    let failure = scan_with(&root, &options()).unwrap_err();
    assert_eq!((failure.kind, failure.details.len()), (FailureKind::Local, 4));
    let all = failure.details.join("\n");
    for word in ["--follow-links", "--skip-special", "not UTF-8", "new\\nline"] {
        assert!(all.contains(word), "{word}: {all}");
    }
    std::fs::remove_file(root.join("new\nline")).unwrap();
    std::fs::remove_file(root.join(std::ffi::OsStr::from_bytes(b"bad\xff"))).unwrap();
    let outside = dir.path().join("outside");
    put(&outside, "x/y", b"2");
    symlink(&root, outside.join("loop")).unwrap();
    symlink(&outside, root.join("d")).unwrap();
    let follow = ScanOptions { follow_links: true, skip_special: true, ..options() };
    let failure = scan_with(&root, &follow).unwrap_err();
    assert!(failure.details[0].contains("loop"), "{failure:?}");
    std::fs::remove_file(outside.join("loop")).unwrap();
    let scanned = scan_with(&root, &follow).unwrap();
    assert_eq!(paths(&scanned), ["d/x/y", "leaves", "ok"]);
    assert_eq!(scanned.skipped.len(), 1);
    let manifest = Arc::new(scanned.manifest.clone());
    let source = SeedSource::of_scan(&scanned, manifest.clone());
    assert!(read_piece(&source, &manifest, 0).is_ok());
}

#[test]
fn an_unchanged_path_is_not_hashed_again_and_a_changed_file_alone_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    put(&root, "big", &bytes_of(1, 3 * P + 5));
    put(&root, "m", &bytes_of(2, 2 * P));
    put(&root, "small", b"12345");
    let state = dir.path().join("state");
    let with_cache = ScanOptions { cache: Some(state.clone()), ..options() };
    let total = 5 * P + 10;
    let (first, hashed) = scan_counting(&root, &with_cache);
    assert_eq!((hashed, first.trusted), (total, true));
    // Just written, so their times tell nothing yet.
    assert_eq!(scan_counting(&root, &with_cache).1, total);
    let file = std::fs::read_dir(state.join("seeds")).unwrap().next().unwrap().unwrap().path();
    let later = super::platform::wall_clock_ns() + 10_000_000_000;
    super::cache::store(&file, &first, later);
    let (second, hashed) = scan_counting(&root, &with_cache);
    assert_eq!((hashed, second.trusted), (0, false));
    assert_eq!((second.manifest.id(), &second.cvs), (first.manifest.id(), &first.cvs));
    put(&root, "m", &bytes_of(3, 2 * P));
    let (third, hashed) = scan_counting(&root, &with_cache);
    assert_eq!(hashed, 2 * P);
    assert_eq!(third.manifest.id(), scan_with(&root, &options()).unwrap().manifest.id());
    // A garbled cache is as if it weren't there.
    super::cache::store(&file, &third, later);
    let good = std::fs::read(&file).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        assert!(super::cache::load(&file).is_none());
    }
}

#[test]
fn a_seed_stops_serving_what_is_no_longer_what_was_hashed() {
    let change: [fn(&Path); 4] = [
        |p| std::fs::File::options().append(true).open(p).unwrap().write_all(b"more").unwrap(),
        |p| std::fs::File::options().write(true).open(p).unwrap().set_len(P).unwrap(),
        |p| std::fs::remove_file(p).unwrap(),
        |p| {
            let bytes = std::fs::read(p).unwrap();
            std::fs::remove_file(p).unwrap();
            std::fs::write(p, bytes).unwrap();
        },
    ];
    for (n, change) in change.into_iter().enumerate() {
        for open_before in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path();
            put(root, "a", &bytes_of(1, 3 * P));
            put(root, "b", &bytes_of(2, 77));
            let scanned = scan_with(root, &options()).unwrap();
            let manifest = Arc::new(scanned.manifest.clone());
            let source = SeedSource::of_scan(&scanned, manifest.clone());
            if open_before {
                assert_eq!(read_piece(&source, &manifest, 1).unwrap(), bytes_of(1, 3 * P)[P as usize..][..P as usize]);
            }
            change(&root.join("a"));
            let result = read_piece(&source, &manifest, 1);
            // An open file that was removed from its directory is still what was hashed, unless its stamp moved.
            assert!(matches!(result, Err(ReadError::Changed(0))), "{n} {open_before} {result:?}");
            assert_eq!(read_piece(&source, &manifest, 3).unwrap(), bytes_of(2, 77));
            assert!(source.read(Block { piece: 4, offset: 0, length: 1 }, &mut [0]).is_err());
        }
    }
}

#[test]
fn hashes_from_a_cache_are_checked_before_the_first_byte_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    put(root, "a", &bytes_of(1, 3 * P));
    put(root, "b", &bytes_of(2, 77));
    let scanned = scan_with(root, &options()).unwrap();
    // Rot that leaves no trace in the stamps: here by taking them after it.
    let file = std::fs::File::options().write(true).open(root.join("a")).unwrap();
    file.write_all_at(b"rot", 2 * P + 9).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    let stamps = vec![Stamp::of(&root.join("a").metadata().unwrap()), Stamp::of(&root.join("b").metadata().unwrap())];
    let manifest = Arc::new(scanned.manifest.clone());
    let source = SeedSource::new(manifest.clone(), scanned.root.clone(), stamps, scanned.cvs.clone(), false, false);
    for piece in [0, 1, 3] {
        assert!(read_piece(&source, &manifest, piece).is_ok());
    }
    assert!(matches!(read_piece(&source, &manifest, 2), Err(ReadError::Changed(0))));
}

#[test]
fn verify_names_what_is_wrong_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (path, size) in [("big", 4 * P), ("gone", 5), ("short", 2 * P + 9), ("small", 50), ("x", 1)] {
        put(root, path, &bytes_of(path.len(), size));
    }
    symlink("x", root.join("link")).unwrap();
    let scanned = scan_with(root, &options()).unwrap();
    let edit = |path: &str, at| {
        std::fs::File::options().write(true).open(root.join(path)).unwrap().write_all_at(b"\0bad", at).unwrap();
    };
    edit("big", P + 3);
    edit("big", 2 * P + 3);
    edit("small", 7);
    std::fs::remove_file(root.join("gone")).unwrap();
    std::fs::File::options().write(true).open(root.join("short")).unwrap().set_len(2 * P).unwrap();
    std::fs::set_permissions(root.join("x"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::remove_file(root.join("link")).unwrap();
    symlink("small", root.join("link")).unwrap();
    put(root, "more/1", b"");
    let report = verify(&scanned.manifest, root, Some(&scanned.cvs), &|_, _| {}, &GO).unwrap();
    let bad: Vec<_> = report.bad.iter().map(|b| (b.path.as_str(), b.ranges.clone(), b.size)).collect();
    let one = |range: std::ops::Range<u64>| vec![range];
    assert_eq!(
        bad,
        [("big", one(P..3 * P), None), ("short", one(2 * P..2 * P + 9), Some(2 * P)), ("small", one(0..50), None)]
    );
    assert_eq!((report.missing, report.wrong_mode), (vec!["gone".to_owned()], vec!["x".to_owned()]));
    assert_eq!((report.wrong_link, report.extra), (vec!["link".to_owned()], vec!["more".to_owned()]));
    let report = verify(&scanned.manifest, root, None, &|_, _| {}, &GO).unwrap();
    assert_eq!(report.bad[0].ranges, one(0..4 * P), "without CVs only the whole file can be judged");
    assert!(!report.is_good());
}
