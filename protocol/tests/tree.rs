//! The hash tree against BLAKE3 written down slowly from its specification.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use shoal_protocol::Hash;
use shoal_protocol::geometry::Geometry;
use shoal_protocol::tree::{
    CvTree, PieceHasher, batch_len, check_batch, check_content_batch, check_leaf, content_batch_len, leaf_proof_len,
    make_batch, make_content_batch, make_leaf_proof, piece_cv, root_of,
};
use std::ops::Range;

/// BLAKE3 from section 2 of its paper: chunks of 1,024 bytes, a binary tree whose left side is the largest power of two.
mod slow {
    const IV: [u32; 8] =
        [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
    const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
    const START: u32 = 1;
    const END: u32 = 2;
    const PARENT: u32 = 4;
    pub(crate) const ROOT: u32 = 8;

    fn mix(s: &mut [u32; 16], [a, b, c, d]: [usize; 4], x: u32, y: u32) {
        s[a] = s[a].wrapping_add(s[b]).wrapping_add(x);
        s[d] = (s[d] ^ s[a]).rotate_right(16);
        s[c] = s[c].wrapping_add(s[d]);
        s[b] = (s[b] ^ s[c]).rotate_right(12);
        s[a] = s[a].wrapping_add(s[b]).wrapping_add(y);
        s[d] = (s[d] ^ s[a]).rotate_right(8);
        s[c] = s[c].wrapping_add(s[d]);
        s[b] = (s[b] ^ s[c]).rotate_right(7);
    }

    fn compress(cv: [u32; 8], block: &[u8], counter: u64, flags: u32) -> [u32; 8] {
        let mut padded = [0; 64];
        padded[..block.len()].copy_from_slice(block);
        let mut m: [u32; 16] = std::array::from_fn(|i| {
            u32::from_le_bytes([padded[4 * i], padded[4 * i + 1], padded[4 * i + 2], padded[4 * i + 3]])
        });
        let mut s = [0; 16];
        s[..8].copy_from_slice(&cv);
        s[8..12].copy_from_slice(&IV[..4]);
        s[12..].copy_from_slice(&[counter as u32, (counter >> 32) as u32, block.len() as u32, flags]);
        for _ in 0..7 {
            for i in 0..4 {
                mix(&mut s, [i, 4 + i, 8 + i, 12 + i], m[2 * i], m[2 * i + 1]);
            }
            for i in 0..4 {
                mix(&mut s, [i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4], m[8 + 2 * i], m[9 + 2 * i]);
            }
            m = std::array::from_fn(|i| m[PERMUTATION[i]]);
        }
        std::array::from_fn(|i| s[i] ^ s[i + 8])
    }

    fn bytes(words: [u32; 8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.chunks_exact_mut(4).zip(words).for_each(|(b, w)| b.copy_from_slice(&w.to_le_bytes()));
        out
    }

    /// The chaining value of the subtree over `data`, whose first chunk has the number `chunk`.
    pub(crate) fn subtree(data: &[u8], chunk: u64, root: u32) -> [u8; 32] {
        if data.len() <= 1024 {
            let mut cv = IV;
            let blocks: Vec<&[u8]> = if data.is_empty() { vec![data] } else { data.chunks(64).collect() };
            for (i, block) in blocks.iter().enumerate() {
                let last = i + 1 == blocks.len();
                let flags = if i == 0 { START } else { 0 } | if last { END | root } else { 0 };
                cv = compress(cv, block, chunk, flags);
            }
            return bytes(cv);
        }
        let mut left = 1024;
        while left * 2 < data.len() {
            left *= 2;
        }
        let sides = [subtree(&data[..left], chunk, 0), subtree(&data[left..], chunk + left as u64 / 1024, 0)].concat();
        bytes(compress(IV, &sides, 0, PARENT | root))
    }
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i % 251) as u8 ^ (i / 251) as u8).collect()
}

fn slow_cvs(data: &[u8], piece: usize) -> Vec<Hash> {
    data.chunks(piece).zip(0..).map(|(c, i)| slow::subtree(c, i * (piece / 1024) as u64, 0)).collect()
}

/// The batch for `wanted` made from the data: every hash is that of a stretch of the file.
fn slow_batch(data: &[u8], piece: usize, low: usize, wanted: &Range<usize>, root: bool, out: &mut Vec<Hash>) {
    let n = data.len().div_ceil(piece);
    let outside = low + n <= wanted.start || wanted.end <= low;
    if n == 1 || outside {
        assert!(!root);
        out.push(slow::subtree(data, (low * piece / 1024) as u64, 0));
        return;
    }
    let left = n.next_power_of_two() / 2;
    slow_batch(&data[..left * piece], piece, low, wanted, false, out);
    slow_batch(&data[left * piece..], piece, low + left, wanted, false, out);
}

#[test]
fn the_slow_reference_is_blake3() {
    for size in [0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 5000, 65_536, 70_001] {
        let data = bytes(size);
        assert_eq!(slow::subtree(&data, 0, slow::ROOT), *blake3::hash(&data).as_bytes(), "{size}");
    }
}

#[test]
fn pieces_and_roots_equal_the_reference_around_every_boundary() {
    for piece in [1024_usize, 4096, 65_536] {
        let mut sizes = vec![1, 1023, 1024, 1025];
        for pieces in [1, 2, 3, 4, 5, 7, 8, 9] {
            let near = [-1025, -1024, -1, 0, 1, 1023, 1024, 1025];
            sizes
                .extend(near.map(|d: i64| (pieces * piece) as i64 + d).iter().filter(|n| **n > 0).map(|n| *n as usize));
        }
        for size in sizes {
            let data = bytes(size);
            let cvs = slow_cvs(&data, piece);
            for ((part, i), cv) in data.chunks(piece).zip(0_u64..).zip(&cvs) {
                let offset = i * piece as u64;
                assert_eq!(piece_cv(offset, part).as_ref(), Some(cv), "{piece} {size} {i}");
                let mut hasher = PieceHasher::new(offset);
                part.chunks(1000).for_each(|c| hasher.update(c));
                assert_eq!(hasher.finish().as_ref(), Some(cv));
            }
            let root = if cvs.len() < 2 { None } else { Some(*blake3::hash(&data).as_bytes()) };
            assert_eq!(root_of(&cvs), root, "{piece} {size}");
        }
    }
    // No bytes: no piece, no CV; the root of an empty file is the hash of nothing.
    assert_eq!(piece_cv(0, b""), None);
    assert_eq!(shoal_protocol::manifest::EMPTY_ROOT, *blake3::hash(b"").as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn batches_are_what_the_data_says_and_nothing_else_passes(
        size in 1025..40_000_usize, a in any::<u32>(), b in any::<u32>(), at in any::<prop::sample::Index>(), bit in 0..256_usize
    ) {
        let data = bytes(size);
        let cvs = slow_cvs(&data, 1024);
        let leaves = cvs.len() as u32;
        let root = *blake3::hash(&data).as_bytes();
        let (a, b) = (a % leaves, b % leaves);
        let wanted = a.min(b)..a.max(b) + 1;
        let mut expected = Vec::new();
        slow_batch(&data, 1024, 0, &(wanted.start as usize..wanted.end as usize), true, &mut expected);
        let mut batch = Vec::new();
        make_batch(&cvs, wanted.clone(), &mut batch);
        prop_assert_eq!(&batch, &expected);
        let mut looked_up = Vec::new();
        CvTree::new(cvs.clone()).make_batch(wanted.clone(), &mut looked_up);
        prop_assert_eq!(&looked_up, &expected);
        prop_assert_eq!(batch_len(leaves, wanted.clone()), expected.len());
        let got = check_batch(&root, leaves, wanted.clone(), &batch);
        prop_assert_eq!(got.as_deref(), Some(&cvs[wanted.start as usize..wanted.end as usize]));

        let at = at.index(batch.len());
        let mut bad = batch.clone();
        bad[at][bit / 8] ^= 1 << (bit % 8);
        prop_assert!(check_batch(&root, leaves, wanted.clone(), &bad).is_none());
        let mut bad = batch.clone();
        bad.remove(at);
        prop_assert!(check_batch(&root, leaves, wanted.clone(), &bad).is_none());
        let mut bad = batch.clone();
        bad.insert(at, batch[at]);
        prop_assert!(check_batch(&root, leaves, wanted.clone(), &bad).is_none());
        let mut other = root;
        other[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(check_batch(&other, leaves, wanted.clone(), &batch).is_none());
        // Ranges that can't be.
        prop_assert!(check_batch(&root, leaves, wanted.start..wanted.start, &batch).is_none());
        prop_assert!(check_batch(&root, leaves, wanted.start..leaves + 1, &batch).is_none());
    }

    #[test]
    fn a_leaf_passes_at_its_place_only(size in 1..40_000_usize, leaf in any::<u32>(), claimed in 1..45_u32, bit in any::<u32>()) {
        let data = bytes(size);
        let cvs = slow_cvs(&data, 1024);
        let n = cvs.len() as u32;
        let root = *blake3::hash(&data).as_bytes();
        let leaf = leaf % n;
        let part = data.chunks(1024).nth(leaf as usize).unwrap();
        let at = u64::from(leaf) * 1024;
        let proof = make_leaf_proof(&cvs, leaf);
        prop_assert_eq!(proof.len(), leaf_proof_len(n, leaf));
        prop_assert!(check_leaf(&root, n, leaf, at, part, &proof));
        let mut bad = part.to_vec();
        let bit = bit as usize % (bad.len() * 8);
        bad[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!check_leaf(&root, n, leaf, at, &bad, &proof));
        prop_assert!(!check_leaf(&root, n, leaf, at, &part[1..], &proof));
        // Another number of leaves is caught by the last one, whatever was claimed.
        if claimed != n && leaf + 1 == n {
            prop_assert!(!check_leaf(&root, claimed, claimed - 1, u64::from(claimed - 1) * 1024, part, &proof));
            prop_assert!(!check_leaf(&root, claimed, leaf, at, part, &proof));
        }
    }

    #[test]
    fn content_wide_batches_pass_whole_and_no_other_way(
        files in prop::collection::vec((0..3_usize, 1..5_usize), 0..6), a in any::<u32>(), b in 1..30_u32, at in any::<prop::sample::Index>()
    ) {
        const P: usize = 65_536;
        // Sizes from small to four pieces and a byte; hashing real content would say no more here.
        let sizes: Vec<u64> = files.iter().map(|(kind, n)| match kind { 0 => *n as u64, 1 => (n * P) as u64, _ => (n * P + 1) as u64 }).collect();
        let geometry = Geometry::new(P as u32, (0..).zip(sizes.iter().copied())).unwrap();
        let mut cvs: Vec<Hash> = Vec::new();
        let mut roots = vec![[0; 32]; sizes.len()];
        for file in geometry.large() {
            let own: Vec<Hash> = (0..file.pieces).map(|i| *blake3::hash(&(file.entry, i).0.to_le_bytes().map(|b| b ^ i as u8)).as_bytes()).collect();
            roots[file.entry as usize] = root_of(&own).unwrap();
            cvs.extend(own);
        }
        prop_assert_eq!(cvs.len() as u32, geometry.cvs());
        let first = a % geometry.pieces().max(1);
        let batch = make_content_batch(&geometry, &cvs, first, b);
        prop_assert_eq!(batch.len(), content_batch_len(&geometry, first, b));
        let root = |entry: u32| roots[entry as usize];
        let expected: Vec<Hash> = (first..(first + b).min(geometry.pieces()))
            .filter_map(|piece| geometry.cv_index(piece)).map(|i| cvs[i as usize]).collect();
        let got = check_content_batch(&geometry, root, first, b, &batch);
        prop_assert_eq!(got.as_ref(), Some(&expected));
        if !batch.is_empty() {
            let mut bad = batch.clone();
            bad[at.index(batch.len())][0] ^= 1;
            prop_assert!(check_content_batch(&geometry, root, first, b, &bad).is_none());
            prop_assert!(check_content_batch(&geometry, root, first, b, &batch[1..]).is_none());
            prop_assert!(check_content_batch(&geometry, root, first, b, &[]).is_none());
        }
        let mut longer = batch.clone();
        longer.push([0; 32]);
        prop_assert!(check_content_batch(&geometry, root, first, b, &longer).is_none());
    }
}

#[test]
fn a_kept_tree_answers_as_a_folded_one_for_every_shape() {
    for n in 0..40_u32 {
        let cvs: Vec<Hash> = (0..n).map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect();
        let tree = CvTree::new(cvs.clone());
        assert_eq!(tree.cvs(), cvs);
        for low in 0..=n + 1 {
            for high in low..=n + 2 {
                let (mut kept, mut folded) = (Vec::new(), Vec::new());
                tree.make_batch(low..high, &mut kept);
                make_batch(&cvs, low..high, &mut folded);
                assert_eq!(kept, folded, "{low}..{high} of {n}");
            }
        }
    }
}

#[test]
fn the_longest_answer_fits_its_frame() {
    use shoal_protocol::limits::{CV_BATCH, MANIFEST_BYTES, MANIFEST_PROOF, MANIFEST_SEGMENT, PIECES};
    let leaves = PIECES as u32;
    let mut worst = 0;
    for leaves in [leaves, leaves - 1, leaves / 2 + 1] {
        for first in (0..leaves - CV_BATCH).step_by(4_001).chain([1, leaves / 2 - CV_BATCH / 2, leaves / 2 - 1]) {
            worst = worst.max(batch_len(leaves, first..first + CV_BATCH));
        }
    }
    assert!(worst <= CV_BATCH as usize + 64, "{worst}");
    let segments = MANIFEST_BYTES as u32 / MANIFEST_SEGMENT;
    assert_eq!((0..segments).map(|n| leaf_proof_len(segments, n)).max(), Some(MANIFEST_PROOF));
}
