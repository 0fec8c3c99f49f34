//! How fast pieces are verified on one core: `cargo bench -p benches --bench hash`.

use benches::{fill, measure};
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::tree::{PieceHasher, piece_cv};

fn main() {
    let mut bytes = vec![0; 4 << 20];
    fill(1, &mut bytes);
    for (name, size) in [("64 KiB", 64 << 10), ("1 MiB", 1 << 20), ("4 MiB", 4 << 20)] {
        let piece = &bytes[..size];
        measure(&format!("hash: piece of {name}, whole"), "B", size as f64, || piece_cv(size as u64, piece));
    }
    measure("hash: piece of 4 MiB, by block", "B", bytes.len() as f64, || {
        let mut hasher = PieceHasher::new(bytes.len() as u64);
        bytes.chunks(BLOCK_BYTES as usize).for_each(|block| hasher.update(block));
        hasher.finish()
    });
}
