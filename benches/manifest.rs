//! How fast the manifest of a big tree is written and checked: `cargo bench -p benches --bench manifest`.

use benches::measure;
use shoal_protocol::geometry::auto_piece_size;
use shoal_protocol::manifest::{Entry, Hints, Kind, Manifest, Shape};

/// Files in the tree.
const FILES: u32 = 100_000;

fn main() {
    let entries: Vec<Entry> = (0..FILES)
        .map(|n| {
            let root = *blake3::hash(&n.to_le_bytes()).as_bytes();
            let kind = Kind::File { size: 1_000 + u64::from(n), root, executable: n % 10 == 0 };
            Entry { path: format!("share/part-{:03}/file-{n:06}.bin", n / 1_000), kind }
        })
        .collect();
    let total = entries.iter().map(Entry::size).sum();
    let piece_size = auto_piece_size(total).into();
    let made = |entries| Manifest::new(Shape::Tree, piece_size, entries, Hints::default());
    let Ok(manifest) = made(entries.clone()) else { unreachable!("the paths are plain and sorted") };
    let files = f64::from(FILES);
    let (json, binary) = (manifest.to_json(), manifest.to_binary());
    measure("manifest: make", "files", files, || made(entries.clone()).is_ok());
    measure("manifest: write binary", "files", files, || manifest.to_binary());
    measure("manifest: read binary", "files", files, || Manifest::parse(&binary).is_ok());
    measure("manifest: write JSON", "files", files, || manifest.to_json());
    measure("manifest: read JSON", "files", files, || Manifest::parse(json.as_bytes()).is_ok());
}
