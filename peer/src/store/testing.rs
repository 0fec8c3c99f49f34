//! Small contents for the store's tests.

use shoal_protocol::manifest::{EMPTY_ROOT, Entry, Hints, Kind, Shape};
use shoal_protocol::{Hash, Manifest};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(crate) static GO: AtomicBool = AtomicBool::new(false);

/// The bytes of a file that tests make: different for each file and place.
pub(crate) fn bytes_of(file: usize, size: u64) -> Vec<u8> {
    let mut out = vec![0; size as usize];
    blake3::Hasher::new().update(&file.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub(crate) fn content_of(sizes: &[u64]) -> Vec<Vec<u8>> {
    sizes.iter().enumerate().map(|(file, size)| bytes_of(file, *size)).collect()
}

pub(crate) fn root_of_bytes(bytes: &[u8]) -> Hash {
    if bytes.is_empty() { EMPTY_ROOT } else { *blake3::hash(bytes).as_bytes() }
}

/// A tree of files `d000/f00000` and so on.
pub(crate) fn manifest_of_sizes(sizes: &[u64], piece: u64) -> Manifest {
    let entries = content_of(sizes).into_iter().enumerate().map(|(i, bytes)| Entry {
        path: format!("d{:03}/f{i:05}", i / 100),
        kind: Kind::File { size: bytes.len() as u64, root: root_of_bytes(&bytes), executable: i % 3 == 1 },
    });
    Manifest::new(Shape::Tree, piece, entries.collect(), Hints::default()).unwrap()
}

pub(crate) fn piece_bytes(manifest: &Manifest, content: &[Vec<u8>], piece: u32) -> Vec<u8> {
    let block = super::layout::whole(manifest, piece).unwrap();
    let mut out = vec![0; block.length as usize];
    use super::Source;
    super::MemorySource::new(Arc::new(manifest.clone()), content.to_vec()).read(block, &mut out).unwrap();
    out
}

/// Everything below a path with its bytes: paths, and for links their targets.
pub(crate) fn snapshot(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for found in walkdir::WalkDir::new(path).sort_by_file_name() {
        let found = found.unwrap();
        let name = found.path().strip_prefix(path).unwrap().to_string_lossy().into_owned();
        let kind = found.file_type();
        out.push(if kind.is_file() {
            (name, std::fs::read(found.path()).unwrap())
        } else if kind.is_symlink() {
            (format!("{name} ->"), std::fs::read_link(found.path()).unwrap().to_string_lossy().into_owned().into())
        } else {
            (format!("{name}/"), Vec::new())
        });
    }
    out
}
