//! Hash trees: chaining values (CVs) of pieces, and how they fold to a file's root.
//!
//! A large file's pieces are BLAKE3 subtrees of equal, power-of-two size; only the last one is shorter. The tree above
//! them is BLAKE3's own, so the fold of all CVs is what `b3sum` prints for the file. A list too long for one frame
//! comes in batches: the CVs of a range of pieces together with the CVs of the largest subtrees outside the range, all
//! in tree order, from left to right. How many hashes a batch has follows from the geometry alone and is checked before
//! any folding: two CVs sent as the one they merge to would fold to the right root, too.

use crate::geometry::Geometry;
use crate::id::Hash;
use blake3::hazmat::{HasherExt, Mode, max_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use std::ops::Range;

/// Hashes one piece of a large file as its bytes arrive, in order.
///
/// Feed it at least 16 KiB at a time where possible: fewer leave most SIMD lanes idle. It is made anew for each piece,
/// since BLAKE3's `reset` keeps the old offset.
#[derive(Debug)]
pub struct PieceHasher(blake3::Hasher);

impl PieceHasher {
    /// Starts the piece that begins at `offset` in its file, a multiple of the piece size.
    ///
    /// # Panics
    /// Here when the offset is not a multiple of 1,024, later when more bytes come than a piece at that offset can have.
    /// Both come from the geometry, never from the wire.
    #[must_use]
    pub fn new(offset: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        Self(hasher)
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The piece's CV; `None` when no byte was given, as an empty subtree has none.
    #[must_use]
    pub fn finish(&self) -> Option<Hash> {
        if self.0.count() == 0 { None } else { Some(self.0.finalize_non_root()) }
    }
}

/// The CV of a whole piece at `offset` of its file; `None` when there can be no such subtree: no bytes, an offset inside
/// a chunk, or more bytes than a subtree that starts there can have.
#[must_use]
pub fn piece_cv(offset: u64, bytes: &[u8]) -> Option<Hash> {
    if !offset.is_multiple_of(blake3::CHUNK_LEN as u64)
        || max_subtree_len(offset).is_some_and(|most| bytes.len() as u64 > most)
    {
        return None;
    }
    let mut hasher = PieceHasher::new(offset);
    hasher.update(bytes);
    hasher.finish()
}

/// The root of a file from the CVs of all its pieces; `None` for fewer than two, as then the root isn't made of CVs.
#[must_use]
pub fn root_of(cvs: &[Hash]) -> Option<Hash> {
    let (left, right) = cvs.split_at_checked(left_leaves(cvs.len())?)?;
    Some(merge_subtrees_root(&fold(left)?, &fold(right)?, Mode::Hash).into())
}

/// The CV of the subtree above consecutive leaves that start at a multiple of a power of two not below their number.
fn fold(cvs: &[Hash]) -> Option<Hash> {
    match cvs {
        [] => None,
        [one] => Some(*one),
        more => {
            let (left, right) = more.split_at_checked(left_leaves(more.len())?)?;
            Some(merge_subtrees_non_root(&fold(left)?, &fold(right)?, Mode::Hash))
        }
    }
}

/// How many of `n` leaves stand on the left side: the largest power of two below `n`. `None` when there is no parent.
fn left_leaves(n: usize) -> Option<usize> {
    if n < 2 { None } else { Some(1 << (n - 1).ilog2()) }
}

/// How many hashes a batch for `wanted` of `leaves` pieces has: the CVs and the proof.
#[must_use]
pub fn batch_len(leaves: u32, wanted: Range<u32>) -> usize {
    fn count(low: usize, n: usize, wanted: &Range<usize>) -> usize {
        if wanted.end <= low || low + n <= wanted.start {
            return 1;
        }
        if wanted.start <= low && low + n <= wanted.end {
            return n;
        }
        match left_leaves(n) {
            None => 1,
            Some(left) => count(low, left, wanted) + count(low + left, n - left, wanted),
        }
    }
    count(0, leaves as usize, &(wanted.start as usize..wanted.end as usize))
}

/// The batch for `wanted` pieces of a file whose CVs are all known, appended to `out`.
pub fn make_batch(cvs: &[Hash], wanted: Range<u32>, out: &mut Vec<Hash>) {
    fn walk(cvs: &[Hash], low: usize, wanted: &Range<usize>, out: &mut Vec<Hash>) {
        let n = cvs.len();
        if wanted.end <= low || low + n <= wanted.start {
            out.extend(fold(cvs));
            return;
        }
        match left_leaves(n) {
            None => out.extend_from_slice(cvs),
            Some(left) => {
                walk(&cvs[..left], low, wanted, out);
                walk(&cvs[left..], low + left, wanted, out);
            }
        }
    }
    walk(cvs, 0, &(wanted.start as usize..wanted.end as usize), out);
}

/// The CVs of a large file with every subtree above them, for who answers many requests.
///
/// [`make_batch`] folds all that lies outside the range anew: 0.3 s for one piece of a file of four million, which a
/// peer could ask for again and again. This holds twice the memory and answers by lookup.
#[derive(Debug, Clone)]
pub struct CvTree {
    /// `levels[k][i]` is the CV above the leaves `i << k` to `(i + 1) << k`, or to the last one.
    levels: Vec<Vec<Hash>>,
}

impl CvTree {
    /// From the CVs of all pieces of one file.
    #[must_use]
    pub fn new(cvs: Vec<Hash>) -> Self {
        let mut levels = vec![cvs];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            // What has no right neighbour is a subtree of the next level as it is.
            let above = below.chunks(2).map(|pair| match pair {
                [left, right] => merge_subtrees_non_root(left, right, Mode::Hash),
                other => other[0],
            });
            levels.push(above.collect());
        }
        Self { levels }
    }

    /// The CVs of the pieces.
    #[must_use]
    pub fn cvs(&self) -> &[Hash] {
        &self.levels[0]
    }

    /// The same as [`make_batch`] over these CVs.
    pub fn make_batch(&self, wanted: Range<u32>, out: &mut Vec<Hash>) {
        self.walk(0, self.cvs().len(), &(wanted.start as usize..wanted.end as usize), out);
    }

    fn walk(&self, low: usize, n: usize, wanted: &Range<usize>, out: &mut Vec<Hash>) {
        let outside = wanted.end <= low || low + n <= wanted.start;
        match left_leaves(n).filter(|_| !outside) {
            Some(left) => {
                self.walk(low, left, wanted, out);
                self.walk(low + left, n - left, wanted, out);
            }
            None => {
                let level = n.next_power_of_two().ilog2() as usize;
                out.extend(self.levels.get(level).and_then(|level_cvs| level_cvs.get(low >> level)));
            }
        }
    }
}

/// Checks a batch against a file's root and returns the CVs of the wanted pieces, or `None` when it doesn't fold to it.
#[must_use]
pub fn check_batch(root: &Hash, leaves: u32, wanted: Range<u32>, hashes: &[Hash]) -> Option<Vec<Hash>> {
    if wanted.start >= wanted.end || wanted.end > leaves || hashes.len() != batch_len(leaves, wanted.clone()) {
        return None;
    }
    struct Walk<'a> {
        hashes: std::slice::Iter<'a, Hash>,
        wanted: Range<usize>,
        cvs: Vec<Hash>,
    }
    impl Walk<'_> {
        fn fold(&mut self, low: usize, n: usize, is_root: bool) -> Option<Hash> {
            if self.wanted.end <= low || low + n <= self.wanted.start {
                return self.hashes.next().copied();
            }
            match left_leaves(n) {
                None => {
                    let cv = *self.hashes.next()?;
                    self.cvs.push(cv);
                    Some(cv)
                }
                Some(left) => {
                    let l = self.fold(low, left, false)?;
                    let r = self.fold(low + left, n - left, false)?;
                    Some(if is_root {
                        merge_subtrees_root(&l, &r, Mode::Hash).into()
                    } else {
                        merge_subtrees_non_root(&l, &r, Mode::Hash)
                    })
                }
            }
        }
    }
    let range = wanted.start as usize..wanted.end as usize;
    let mut walk = Walk { hashes: hashes.iter(), wanted: range, cvs: Vec::with_capacity(wanted.len()) };
    // A single leaf has no parent, so its CV proves nothing about a root.
    if leaves < 2 || walk.fold(0, leaves as usize, true)? != *root || walk.hashes.next().is_some() {
        return None;
    }
    Some(walk.cvs)
}

/// How many hashes the answer to a content-wide CV request has.
#[must_use]
pub fn content_batch_len(geometry: &Geometry, first: u32, count: u32) -> usize {
    geometry.large_within(first, count).map(|(file, part)| batch_len(file.pieces, part)).sum()
}

/// The answer to a request for the CVs of pieces `first..first + count`: one batch for each large file in the range.
/// `cvs` are all CVs of the content, in piece order.
#[must_use]
pub fn make_content_batch(geometry: &Geometry, cvs: &[Hash], first: u32, count: u32) -> Vec<Hash> {
    let mut out = Vec::new();
    for (file, part) in geometry.large_within(first, count) {
        if let Some(own) = cvs.get(file.first_cv as usize..(file.first_cv + file.pieces) as usize) {
            make_batch(own, part, &mut out);
        }
    }
    out
}

/// Checks the answer to a CV request: returns the CVs of the range in order, or `None` if anything is wrong.
/// `root` gives the root of an entry.
#[must_use]
pub fn check_content_batch(
    geometry: &Geometry,
    root: impl Fn(u32) -> Hash,
    first: u32,
    count: u32,
    mut hashes: &[Hash],
) -> Option<Vec<Hash>> {
    if hashes.len() != content_batch_len(geometry, first, count) {
        return None;
    }
    let mut out = Vec::with_capacity(hashes.len());
    for (file, part) in geometry.large_within(first, count) {
        let (own, rest) = hashes.split_at_checked(batch_len(file.pieces, part.clone()))?;
        out.extend(check_batch(&root(file.entry), file.pieces, part, own)?);
        hashes = rest;
    }
    Some(out)
}

/// The proof for one leaf of a list of leaves under a BLAKE3 root: sibling CVs in tree order, without the leaf itself.
/// This is how a manifest is fetched in ranges by its id alone. Empty also where there is no such leaf.
#[must_use]
pub fn make_leaf_proof(cvs: &[Hash], leaf: u32) -> Vec<Hash> {
    let mut out = Vec::new();
    if leaf as usize >= cvs.len() {
        return out;
    }
    make_batch(cvs, leaf..leaf + 1, &mut out);
    // The leaf's own CV is at a place that the shape of the tree tells; the receiver computes it from the data.
    let at = leaf_position(cvs.len(), leaf as usize);
    out.remove(at);
    out
}

/// How many hashes the proof of one leaf has; 0 where there is no such leaf.
#[must_use]
pub fn leaf_proof_len(leaves: u32, leaf: u32) -> usize {
    if leaf < leaves { batch_len(leaves, leaf..leaf + 1) - 1 } else { 0 }
}

/// Checks that `data` is the leaf at `offset` (leaf number `leaf` of `leaves`) under `root`.
#[must_use]
pub fn check_leaf(root: &Hash, leaves: u32, leaf: u32, offset: u64, data: &[u8], proof: &[Hash]) -> bool {
    if leaves == 1 {
        return leaf == 0 && proof.is_empty() && *blake3::hash(data).as_bytes() == *root;
    }
    if leaf >= leaves || proof.len() != leaf_proof_len(leaves, leaf) {
        return false;
    }
    let Some(cv) = piece_cv(offset, data) else { return false };
    let mut hashes = proof.to_vec();
    hashes.insert(leaf_position(leaves as usize, leaf as usize), cv);
    check_batch(root, leaves, leaf..leaf + 1, &hashes).is_some()
}

/// Where the leaf's own CV stands in a batch for it alone: after one hash for each time the walk goes right.
fn leaf_position(leaves: usize, leaf: usize) -> usize {
    let (mut low, mut n, mut position) = (0, leaves, 0);
    while let Some(left) = left_leaves(n) {
        if leaf < low + left {
            n = left;
        } else {
            low += left;
            n -= left;
            position += 1;
        }
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
    }

    fn cvs_of(data: &[u8], piece: usize) -> Vec<Hash> {
        data.chunks(piece).zip(0..).map(|(c, i)| piece_cv(i * piece as u64, c).unwrap()).collect()
    }

    /// BLAKE3 of a file by the library's own code; `tests/tree.rs` has a reference by the definition.
    fn reference_root(data: &[u8]) -> Hash {
        *blake3::hash(data).as_bytes()
    }

    #[test]
    fn roots_equal_blake3_around_every_boundary() {
        const P: usize = 4096;
        let mut sizes: Vec<usize> =
            (2..40).flat_map(|n| [n * P - 1, n * P, n * P + 1, n * P + 1023, n * P + 1025]).collect();
        sizes.extend([P + 1, P + 1023, P + 1024, P + 1025, 2 * P - 1, 257 * P, 257 * P + 1]);
        for size in sizes {
            let data = bytes(size);
            assert_eq!(root_of(&cvs_of(&data, P)), Some(reference_root(&data)), "{size}");
        }
    }

    #[test]
    fn real_piece_sizes_give_b3sum_roots() {
        for piece in [65_536, 131_072, 1 << 20] {
            for size in
                [piece + 1, 2 * piece - 1, 2 * piece, 2 * piece + 1, 3 * piece, 5 * piece + 1023, 7 * piece - 1024]
            {
                let data = bytes(size);
                assert_eq!(root_of(&cvs_of(&data, piece)), Some(reference_root(&data)), "{piece} {size}");
            }
        }
    }

    #[test]
    fn fewer_than_two_cvs_have_no_root() {
        assert_eq!(root_of(&[]), None);
        assert_eq!(root_of(&[[0; 32]]), None);
        assert_eq!(piece_cv(0, b""), None);
    }

    #[test]
    fn what_can_be_no_subtree_has_no_cv_and_no_proof() {
        assert_eq!(piece_cv(1, b"x"), None);
        assert_eq!(piece_cv(1024, &bytes(1025)), None);
        assert!(piece_cv(1024, &bytes(1024)).is_some());
        assert!(piece_cv(0, &bytes(5000)).is_some());
        let cvs = cvs_of(&bytes(4 * 1024), 1024);
        for leaf in [4, 5, u32::MAX] {
            assert!(make_leaf_proof(&cvs, leaf).is_empty() && leaf_proof_len(4, leaf) == 0);
            assert!(!check_leaf(&root_of(&cvs).unwrap(), 4, leaf, u64::from(leaf) * 1024, b"x", &[]));
        }
        assert!(make_leaf_proof(&[], 0).is_empty() && leaf_proof_len(0, 0) == 0);
        assert!(!check_leaf(&[0; 32], 0, 0, 0, b"", &[]));
        assert!(!check_leaf(&[0; 32], 4, 1, 1024, &bytes(1025), &cvs[..2]));
        assert!(!check_leaf(&[0; 32], 4, 1, 1000, &bytes(9), &cvs[..2]));
    }

    #[test]
    fn a_merged_pair_in_place_of_two_cvs_is_refused() {
        let cvs = cvs_of(&bytes(4 * 1024), 1024);
        let root = root_of(&cvs).unwrap();
        let merged = [fold(&cvs[..2]).unwrap(), fold(&cvs[2..]).unwrap()];
        assert!(check_batch(&root, 4, 0..4, &cvs).is_some());
        assert!(check_batch(&root, 4, 0..4, &merged).is_none());
        // For a claimed length of two leaves it folds: which is why the length comes from the manifest.
        assert!(check_batch(&root, 2, 0..2, &merged).is_some());
    }

    #[test]
    fn leaves_prove_themselves_and_the_last_one_proves_the_length() {
        for n in 1..40_u32 {
            let data = bytes(n as usize * 1024 - 100);
            let cvs = cvs_of(&data, 1024);
            let root = reference_root(&data);
            for (leaf, part) in (0..n).zip(data.chunks(1024)) {
                let proof = if n == 1 { vec![] } else { make_leaf_proof(&cvs, leaf) };
                let at = u64::from(leaf) * 1024;
                assert!(check_leaf(&root, n, leaf, at, part, &proof), "{leaf} of {n}");
                let mut wrong = part.to_vec();
                wrong[0] ^= 1;
                assert!(!check_leaf(&root, n, leaf, at, &wrong, &proof));
                if leaf + 1 == n {
                    assert!(!check_leaf(&root, n + 1, leaf, at, part, &proof), "length not proven: {n}");
                    assert!(n == 1 || !check_leaf(&root, n, leaf, at, &part[..part.len() - 1], &proof));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_range_of_cvs_proves_itself_and_no_flipped_bit_passes(
            leaves in 2..200_u32, a in 0..200_u32, b in 0..200_u32, flip in any::<prop::sample::Index>(), bit in 0..256_usize
        ) {
            let cvs: Vec<Hash> = (0..leaves).map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
            let root = root_of(&cvs).unwrap();
            let (low, high) = (a.min(b) % leaves, (a.max(b) % leaves) + 1);
            prop_assume!(low < high);
            let mut batch = Vec::new();
            make_batch(&cvs, low..high, &mut batch);
            prop_assert_eq!(batch.len(), batch_len(leaves, low..high));
            prop_assert_eq!(check_batch(&root, leaves, low..high, &batch).unwrap(), &cvs[low as usize..high as usize]);
            let at = flip.index(batch.len());
            batch[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(check_batch(&root, leaves, low..high, &batch).is_none());
        }
    }
}
