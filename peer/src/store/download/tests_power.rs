//! A model of power cuts: of what was not flushed, sectors are lost, kept or torn, in any mix. After the next start what is
//! had is right, and what a checkpoint said is had still.
//!
//! `SHOAL_POWER_CUTS=100000` sets their number, `SHOAL_SEED` where they start.

use super::*;
use std::collections::BTreeMap;

/// What a disk writes whole.
const SECTOR: usize = 512;

type Image = BTreeMap<PathBuf, Vec<u8>>;

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// All files of the part and its journal.
fn image(world: &World) -> Image {
    let mut out = Image::new();
    let mut open = vec![world.dir.path().to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else {
                out.insert(entry.clone(), std::fs::read(&entry).unwrap());
            }
        }
    }
    out
}

/// What the disk holds after a cut: of each file some mix of what was flushed and what was written since.
fn cut(world: &World, flushed: &Image, numbers: &mut Numbers) {
    // Nothing came out, all did, data before the journal, the journal before data, or anything.
    let kind = numbers.below(6);
    for (path, new) in image(world) {
        let is_journal = path.extension().is_some_and(|e| e == "journal");
        let empty = Vec::new();
        let old = flushed.get(&path).unwrap_or(&empty);
        let keep = match kind {
            0 => 0,
            1 => 100,
            2 => u64::from(!is_journal) * 100,
            3 => u64::from(is_journal) * 100,
            _ => 1 + numbers.below(99),
        };
        let mut mixed = vec![0; new.len()];
        let sectors = mixed.chunks_mut(SECTOR).enumerate();
        for (n, sector) in sectors {
            let from = n * SECTOR;
            let end = from + sector.len();
            let lost: Vec<u8> = (from..end).map(|at| old.get(at).copied().unwrap_or(0)).collect();
            let kept = numbers.below(100) < keep;
            sector.copy_from_slice(if kept { &new[from..end] } else { &lost });
            if kind == 5 && numbers.below(20) == 0 {
                // Torn, though a disk should not: the front of one and the back of the other.
                let at = numbers.below(sector.len() as u64) as usize;
                sector[..at].copy_from_slice(&new[from..from + at]);
                sector[at..].copy_from_slice(&lost[at..]);
            }
        }
        if mixed != new {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &mixed, 0).unwrap();
        }
    }
}

#[test]
fn after_a_power_cut_what_is_had_is_right_and_what_was_flushed_is_had() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let (cuts, first) = (number("SHOAL_POWER_CUTS").unwrap_or(150), number("SHOAL_SEED").unwrap_or(1));
    let (mut checkpoints, mut kept, mut lost) = (0, 0, 0);
    for seed in first..first + cuts {
        let mut numbers = Numbers(seed);
        let mut world = World::of(&[10, 3 * P + 5, 20, 900, 2 * P]);
        world.options.sync = SyncMode::Auto;
        let download = world.open();
        let pieces = world.manifest.geometry().pieces();
        let (mut flushed, mut had) = (image(&world), Vec::new());
        for _ in 0..numbers.below(14) {
            match numbers.below(5) {
                0 => {
                    download.checkpoint().unwrap();
                    (flushed, had) = (image(&world), download.have().ones().collect());
                    checkpoints += 1;
                }
                // Some of a piece, which is never verified.
                1 => {
                    let piece = numbers.below(pieces.into()) as u32;
                    if !download.have().has(piece) {
                        let bytes = world.piece(piece);
                        let length = bytes.len().min(700);
                        let block = Block { piece, offset: 0, length: length as u32 };
                        download.write(block, &bytes[..length]).unwrap();
                    }
                }
                _ => {
                    let missing: Vec<u32> = download.have().zeros().collect();
                    if let Some(piece) = missing.get(numbers.below(missing.len().max(1) as u64) as usize) {
                        world.take(&download, [*piece]);
                    }
                }
            }
        }
        let before = download.have().count();
        drop(download);
        cut(&world, &flushed, &mut numbers);
        // The records of what is where are no part of this.
        let _ = std::fs::remove_dir_all(&world.options.state_dir);
        let download = match world.try_open(OTHER_BOOT) {
            Ok(Opened::Open(download)) => download,
            other => panic!("seed {seed}: {other:?}"),
        };
        world.check_have(&download);
        for piece in &had {
            assert!(download.have().has(*piece), "seed {seed}: piece {piece} was flushed and is gone");
        }
        kept += download.have().count();
        lost += before.saturating_sub(download.have().count());
        world.take_all(&download);
        world.check_have(&download);
        download.finish().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        world.check_complete();
    }
    eprintln!("{cuts} power cuts, {checkpoints} checkpoints: {kept} pieces kept, {lost} fetched again");
}
