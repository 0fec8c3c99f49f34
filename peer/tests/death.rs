//! Processes that die, stop, or lose their disk, at the worst moments: nothing wrong is ever kept, nothing verified is
//! lost, and the others go on.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod common;

use common::{MIB, Running, World, content, eventually, number, port_of, skipped, text};
use rustix::process::Signal;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Starts fetches that stay until all have it, as people leave them running.
fn fetches(world: &World, link: &str, count: usize, more: &[&str]) -> Vec<Running> {
    (0..count).map(|n| world.fetch(link, &format!("out{n}"), more)).collect()
}

/// Bytes that were asked for or hashed and not yet in the journal when a fetch was killed, at the rate of that test.
const IN_FLIGHT: u64 = 64 << 10;

#[test]
fn the_origin_may_die_once_one_copy_is_out() {
    let world = World::new();
    world.tree("tree", 8 * MIB);
    let seed = world.seed(&["tree"], &["--max-upload", "8M"]);
    let mut swarm = fetches(&world, &seed.link, 4, &["--seed-for", "30s"]);
    // Others hold a copy between them: by the rule that an origin sends each piece once, long before any has it all.
    let told = seed.running.wait("a copy", |r| r["type"] == "progress" && r["copies"].as_f64().unwrap_or(0.0) >= 1.0);
    seed.running.kill();
    for (n, fetch) in swarm.iter_mut().enumerate() {
        fetch.wait("completion", |record| record["type"] == "complete");
        fetch.signal(Signal::INT);
        fetch.end().ok();
        world.assert_same("tree", &format!("out{n}"));
    }
    eprintln!("the origin died after {} bytes", told["sent"]);
}

#[test]
fn the_tracker_may_die_once_all_know_each_other() {
    let world = World::new();
    world.file("file", 8 * MIB);
    let tracker = world.tracker();
    let seed = world.seed(&["file"], &["--tracker", &tracker.url, "--max-upload", "3M"]);
    let swarm = fetches(&world, &seed.link, 3, &["--seed-for", "60s"]);
    for fetch in &swarm {
        fetch.wait_for_done(1);
    }
    let id = seed.id();
    tracker.kill();
    let newcomer = format!("http://127.0.0.1:{}/m/{id}", port_of(swarm[0].pid()));
    world.fetch(&newcomer, "newcomer", &[]).end().ok();
    world.assert_same("file", "newcomer");
    for (n, mut fetch) in swarm.into_iter().enumerate() {
        fetch.wait("completion", |record| record["type"] == "complete");
        fetch.signal(Signal::INT);
        fetch.end().ok();
        world.assert_same("file", &format!("out{n}"));
    }
}

#[test]
fn who_finishes_first_does_not_strand_the_others() {
    let world = World::new();
    world.file("file", 6 * MIB);
    let mut seed = world.seed(&["file"], &["--stop-when", "complete=1"]);
    // The slow one is far from done when the fast one is and the seed leaves.
    let mut slow = world.fetch(&seed.link, "slow", &["--max-download", "1M"]);
    slow.wait_for_done(1);
    let mut fast = world.fetch(&seed.link, "fast", &[]);
    seed.running.end().ok();
    fast.end().ok();
    slow.end().ok();
    world.assert_same("file", "fast");
    world.assert_same("file", "slow");
}

#[test]
fn a_fetch_that_is_killed_again_and_again_fetches_nothing_verified_twice() {
    let kills: u64 = std::env::var("SHOAL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let world = World::new();
    let size = 16 * MIB as u64;
    world.tree("tree", size as usize * 3 / 4);
    let seed = world.seed(&["tree"], &["--piece-size", "64K", "--max-upload", "8M"]);
    let total = number(&world.run(&["show", &seed.link]).ok(), "bytes");
    // Random moments, the same in each run of one `SHOAL_SEED`.
    let moments = std::env::var("SHOAL_SEED").unwrap_or_default();
    let (mut complete, mut lives) = (0, 0);
    for moment in content(&format!("moments{moments}"), kills as usize) {
        let mut fetch = world.fetch(&seed.link, "out", &[]);
        eventually("a journal", || world.path("out.part.journal").exists() || !fetch.is_running());
        std::thread::sleep(Duration::from_micros(u64::from(moment) * 2_400));
        fetch.kill();
        lives += 1;
        if world.path("out").exists() {
            assert!(!world.path("out.part").exists());
            world.assert_same("tree", "out");
            fs::remove_dir_all(world.path("out")).unwrap();
            let _ = fs::remove_file(world.path("out.part.journal"));
            complete += 1;
        }
    }
    let last = world.fetch(&seed.link, "out", &[]).end().ok();
    world.assert_same("tree", "out");
    let sent = number(&seed.stop(), "sent");
    let again = sent.saturating_sub((complete + 1) * total);
    eprintln!("{lives} lives, {complete} complete: {} KiB a kill were sent twice", again / 1024 / kills.max(1));
    assert_eq!(number(&last, "bad_pieces"), 0);
    // What was on its way or not yet a whole piece may travel again; what was verified may not.
    assert!(again <= kills * IN_FLIGHT, "{kills} kills, {complete} complete: {sent} sent for {total} bytes");
}

#[test]
fn a_source_that_stops_answering_hardly_delays_a_fetch() {
    let world = World::new();
    world.file("file", 24 * MIB);
    let seed = world.seed(&["file"], &["--manifest", "m", "--max-upload", "3M"]);
    let peers: Vec<_> = (0..3).map(|_| world.seed(&["file"], &["--max-upload", "3M"])).collect();
    let mut words = vec!["--peer".to_owned(), seed.addr()];
    words.extend(peers.iter().flat_map(|peer| ["--peer".to_owned(), peer.addr()]));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut fetch = world.fetch("m", "out", &words);
    fetch.wait_for_done(4 * MIB as u64);
    peers[0].running.signal(Signal::STOP);
    let stopped = Instant::now();
    let done = fetch.end().ok();
    peers[0].running.signal(Signal::CONT);
    world.assert_same("file", "out");
    // What three of four need for the rest, at most 20 MiB, plus what it takes to notice.
    let (fluid, took) = (20.0 / 9.0, stopped.elapsed().as_secs_f64());
    eprintln!("one of four stopped: {took:.1} s after that, fluid {fluid:.1} s, in all {}", done["elapsed_s"]);
    assert!(took < fluid * 1.3 + 6.0, "{took} s; a stopped source must be given up within its block timeout");
}

#[test]
fn a_signal_ends_a_fetch_in_order_and_it_goes_on_later() {
    let world = World::new();
    world.file("file", 14 * MIB);
    let seed = world.seed(&["file"], &["--max-upload", "3M", "--piece-size", "64K"]);
    let mut kept = 0;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut fetch = world.fetch(&seed.link, "out", &[]);
        fetch.wait_for_done(kept + MIB as u64);
        let asked = Instant::now();
        fetch.signal(signal);
        let done = fetch.end();
        assert!(asked.elapsed() < Duration::from_secs(10));
        assert!(done.err.contains("is kept in out.part; run the same command again"), "{}", done.err);
        done.exits(code);
        kept += MIB as u64;
    }
    let done = world.fetch(&seed.link, "out", &[]).end();
    assert!(done.err.contains("of it was there"), "{}", done.err);
    let result = done.ok();
    assert!(number(&result, "downloaded") <= 14 * MIB as u64 - kept, "{result}");
    world.assert_same("file", "out");
}

#[test]
fn a_second_fetch_to_the_same_place_waits_for_the_first() {
    let world = World::new();
    world.file("file", 6 * MIB);
    let seed = world.seed(&["file"], &["--max-upload", "3M"]);
    let mut first = world.fetch(&seed.link, "out", &[]);
    first.wait_for_done(1);
    let mut second = world.fetch(&seed.link, "out", &[]);
    second.wait_for_talk("is fetching this to the same place");
    assert_eq!(first.end().ok()["changed"], true);
    let second = second.end().ok();
    assert!(second["changed"] == false && second["downloaded"] == 0, "{second}");
    world.assert_same("file", "out");
    // The first one dies: the second takes over what is there.
    let first = world.fetch(&seed.link, "again", &[]);
    first.wait_for_done(1);
    let mut second = world.fetch(&seed.link, "again", &[]);
    second.wait_for_talk("is fetching this to the same place");
    first.kill();
    second.end().ok();
    world.assert_same("file", "again");
}

/// A small file system of its own; `None`, with a line that says so, where this user may not mount one.
struct Mount<'a>(&'a World);

impl<'a> Mount<'a> {
    fn new(world: &'a World, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        Self::mounted(world, &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }

    /// One that says only when it writes back that it is full.
    fn ext4(world: &'a World, size: u64) -> Option<Self> {
        let image = world.path("image");
        fs::File::create(&image).unwrap().set_len(size).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image).output();
        if !made.is_ok_and(|output| output.status.success()) {
            skipped("there is no mkfs.ext4");
            return None;
        }
        Self::mounted(world, &["-t", "ext4", "-o", "loop", image.to_str().unwrap()])
    }

    fn mounted(world: &'a World, words: &[&str]) -> Option<Self> {
        let dir = world.path("disk");
        fs::create_dir(&dir).unwrap();
        let mounted = Command::new("mount").args(words).arg(&dir).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(world));
        }
        skipped("this user may not mount a file system");
        None
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.0.path("disk")).unwrap();
        found.f_bavail * found.f_frsize
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path("disk")).output();
    }
}

/// Fills what is left of a disk, but never more than it had, so that no mistake can fill a large one.
fn fill(disk: &Mount<'_>) -> fs::File {
    let mut ballast = fs::File::create(disk.0.path("disk/ballast")).unwrap();
    let most = disk.free() / 4096 + 1;
    // A file system that writes later takes more than it has room for, until it is asked to write.
    assert!((0..most).any(|_| ballast.write_all(&[1; 4096]).is_err()) || ballast.sync_all().is_err());
    ballast
}

fn a_full_disk(world: &World, disk: &Mount<'_>) {
    // Many files, as room for a file is taken when it is begun.
    for n in 0..32 {
        world.file(&format!("tree/{n}"), MIB / 4);
    }
    let seed = world.seed(&["tree"], &["--max-upload", "2M", "--piece-size", "64K"]);
    let there = fs::read_dir(world.path("disk")).unwrap().count();
    // Too little from the start: refused before anything travels.
    world.file("disk/ballast", disk.free() as usize - 6 * MIB);
    let refused = world.fetch(&seed.link, "disk/out", &[]).end();
    assert!(refused.err.contains("bytes are needed"), "{}", refused.err);
    assert_eq!(refused.exits(6)["retry"], false);
    assert_eq!(fs::read_dir(world.path("disk")).unwrap().count(), there + 1, "nothing is left of it");
    // Enough at the start, and then somebody else takes it.
    fs::remove_file(world.path("disk/ballast")).unwrap();
    let mut fetch = world.fetch(&seed.link, "disk/out", &[]);
    fetch.wait_for_done(MIB as u64);
    let ballast = fill(disk);
    let full = fetch.end();
    assert!(full.err.contains("the disk is full") && full.err.contains("is kept"), "{}", full.err);
    full.exits(6);
    drop(ballast);
    fs::remove_file(world.path("disk/ballast")).unwrap();
    let done = world.fetch(&seed.link, "disk/out", &[]).end().ok();
    assert!(
        number(&done, "downloaded") <= 7 * MIB as u64 + 512 * 1024,
        "what was verified is not fetched again: {done}"
    );
    world.assert_same("tree", "disk/out");
}

#[test]
fn a_full_disk_ends_a_fetch_and_loses_nothing() {
    let world = World::new();
    let Some(disk) = Mount::new(&world, "12m") else { return };
    a_full_disk(&world, &disk);
}

#[test]
fn a_full_disk_that_finds_out_when_it_writes_loses_nothing_either() {
    let world = World::new();
    let Some(disk) = Mount::ext4(&world, 40 << 20) else { return };
    a_full_disk(&world, &disk);
}

#[test]
fn a_mount_point_is_filled_and_served_though_it_has_more_in_it() {
    let world = World::new();
    world.tree("tree", MIB);
    let seed = world.seed(&["tree"], &[]);
    let Some(_disk) = Mount::new(&world, "12m") else { return };
    fs::create_dir(world.path("disk/lost+found")).unwrap();
    let done = world.fetch(&seed.link, "disk", &["--seed-for", "60s", "--background"]).end();
    assert!(world.path("disk/lost+found").is_dir());
    done.ok();
    let port = number(&world.background()[0], "port");
    let link = format!("http://127.0.0.1:{port}/m/{}", seed.id());
    seed.stop();
    world.fetch(&link, "out", &[]).end().ok();
    world.assert_same("tree", "out");
    world.end_background();
}

#[test]
fn a_place_that_can_not_be_written_is_a_local_failure() {
    let world = World::new();
    world.file("file", MIB);
    let seed = world.seed(&["file"], &[]);
    fs::write(world.path("plain"), "no directory").unwrap();
    let done = world.fetch(&seed.link, "plain/out", &[]).end();
    assert!(done.err.lines().count() <= 3, "{}", done.err);
    done.exits(6);
    if rustix::process::geteuid().is_root() {
        let Some(_disk) = Mount::new(&world, "8m") else { return };
        let disk = world.path("disk");
        assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk).status().unwrap().success());
        assert!(world.fetch(&seed.link, "disk/out", &[]).end().exits(6)["message"].as_str().unwrap().contains("disk"));
    } else {
        fs::create_dir(world.path("locked")).unwrap();
        fs::set_permissions(world.path("locked"), fs::Permissions::from_mode(0o555)).unwrap();
        world.fetch(&seed.link, "locked/out", &[]).end().exits(6);
    }
}

/// A seed whose file changes under it says so, serves the rest, and leaves the fetch without those pieces.
///
/// Returns what the fetch said on stderr.
fn change_under_a_seed(change: impl Fn(&Path)) -> String {
    let world = World::new();
    world.file("tree/one", 4 * MIB);
    world.file("tree/two", 2 * MIB);
    let seed = world.seed(&["tree"], &["--max-upload", "1M"]);
    let mut fetch = world.fetch(&seed.link, "out", &["--timeout", "6s"]);
    fetch.wait_for_done(1);
    change(&world.path("tree/one"));
    seed.running.wait_for_talk("one was changed since it was verified");
    let done = fetch.end();
    let said = done.err.clone();
    let result = done.exits(7);
    assert!(text(&result, "message").contains("held by no peer"), "{result}");
    // The other file is still served, and the seed is well.
    assert!(number(&seed.stop(), "sent") > 0);
    assert!(!world.path("out").exists());
    said
}

#[test]
fn a_seed_of_which_nothing_is_left_ends() {
    let world = World::new();
    world.file("file", 2 * MIB);
    let mut seed = world.start(&["seed", "file", "--listen", "127.0.0.1:0"]);
    let ready = seed.wait("a link", |record| record["type"] == "ready");
    fs::remove_file(world.path("file")).unwrap();
    let mut fetch = world.fetch(&text(&ready, "link"), "out", &["--stall-timeout", "60s"]);
    let result = seed.end().exits(6);
    assert!(text(&result, "message").contains("nothing is left to serve of file"), "{result}");
    fetch.signal(Signal::INT);
    fetch.end();
}

#[test]
fn a_file_that_is_cut_short_while_it_is_seeded_harms_nobody() {
    let said = change_under_a_seed(|path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap());
    assert!(!said.contains("failed verification"), "{said}");
}

#[test]
fn a_file_that_is_removed_while_it_is_seeded_harms_nobody() {
    let said = change_under_a_seed(|path| fs::remove_file(path).unwrap());
    assert!(!said.contains("failed verification"), "{said}");
}

#[test]
fn a_file_that_is_edited_while_it_is_seeded_harms_nobody() {
    let said = change_under_a_seed(|path| {
        let mut file = fs::File::options().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(3 * MIB as u64)).unwrap();
        file.write_all(&[7; MIB]).unwrap();
    });
    // What sendfile has queued refers to the pages of the file, so an edit still reaches what is under way. That ends
    // the connection once; by the next one the seed has seen the change.
    assert!(said.matches("failed verification").count() <= 1, "{said}");
}

#[test]
fn a_seed_that_starts_again_tells_an_edited_file_from_a_kept_one() {
    let world = World::new();
    world.file("file", 4 * MIB);
    let stamp = fs::metadata(world.path("file")).unwrap().modified().unwrap();
    let first = world.seed(&["file"], &[]);
    let link = first.link.clone();
    first.stop();
    let second = world.seed(&["file"], &[]);
    assert_eq!(second.id(), link.rsplit('/').next().unwrap());
    world.fetch(&second.link, "out", &[]).end().ok();
    world.assert_same("file", "out");
    second.stop();
    let mut data = fs::read(world.path("file")).unwrap();
    data[0] ^= 1;
    fs::write(world.path("file"), &data).unwrap();
    fs::File::options().write(true).open(world.path("file")).unwrap().set_modified(stamp).unwrap();
    let third = world.seed(&["file"], &[]);
    assert_ne!(third.id(), link.rsplit('/').next().unwrap(), "an edited file is another content, whatever its time");
    world.fetch(&third.link, "other", &[]).end().ok();
    world.assert_same("file", "other");
}

#[test]
fn a_disk_without_room_for_more_files_ends_a_fetch_and_loses_nothing() {
    let world = World::new();
    for n in 0..100 {
        world.file(&format!("tree/{n}"), 1_000 + n);
    }
    let seed = world.seed(&["tree"], &[]);
    let Some(_disk) = Mount::new(&world, "12m,nr_inodes=50") else { return };
    let refused = world.fetch(&seed.link, "disk/out", &[]).end();
    assert!(refused.err.lines().any(|line| line.starts_with("error: ")), "{}", refused.err);
    refused.exits(6);
    assert!(!world.path("disk/out").exists());
    let more = Command::new("mount").args(["-o", "remount,nr_inodes=1000"]).arg(world.path("disk")).status();
    assert!(more.unwrap().success());
    world.fetch(&seed.link, "disk/out", &[]).end().ok();
    world.assert_same("tree", "disk/out");
}
