//! Chaining values: which are known, which batch to ask for next, and what to answer.
//!
//! CVs come in batches of [`CV_BATCH`] pieces, aligned, each proven against the roots of its files. A batch that doesn't
//! fold is its sender's fault: the answer proves or disproves itself.

use shoal_protocol::limits::CV_BATCH;
use shoal_protocol::tree::CvTree;
use shoal_protocol::{Geometry, Hash, tree};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The CVs of a content.
#[derive(Debug)]
pub struct CvBook {
    geometry: Arc<Geometry>,
    roots: Vec<Hash>,
    cvs: Vec<Option<Hash>>,
    /// First pieces of the batches that aren't known.
    missing: BTreeSet<u32>,
    /// The trees of files that somebody asked for, by the number of the file's first CV.
    trees: BTreeMap<u32, CvTree>,
}

impl CvBook {
    /// Starts with what is known.
    #[must_use]
    pub fn new(geometry: Arc<Geometry>, roots: Vec<Hash>, cvs: Vec<Option<Hash>>) -> Self {
        let mut book = Self { geometry, roots, cvs, missing: BTreeSet::new(), trees: BTreeMap::new() };
        for first in (0..book.geometry.pieces()).step_by(CV_BATCH as usize) {
            if !book.range_is_known(first, book.batch_len(first)) {
                book.missing.insert(first);
            }
        }
        book
    }

    /// How many pieces the batch that begins there has.
    #[must_use]
    pub fn batch_len(&self, first: u32) -> u32 {
        (self.geometry.pieces() - first).min(CV_BATCH)
    }

    fn range_is_known(&self, first: u32, count: u32) -> bool {
        self.geometry.large_within(first, count).all(|(file, part)| {
            let (low, high) = (file.first_cv + part.start, file.first_cv + part.end);
            self.cvs[low as usize..high as usize].iter().all(Option::is_some)
        })
    }

    /// The CV that a piece must have, if it is known.
    #[must_use]
    pub fn of_piece(&self, piece: u32) -> Option<Hash> {
        self.cvs[self.geometry.cv_index(piece)? as usize]
    }

    /// Whether a piece needs a CV that isn't known.
    #[must_use]
    pub fn lacks(&self, piece: u32) -> bool {
        self.geometry.cv_index(piece).is_some_and(|at| self.cvs[at as usize].is_none())
    }

    /// Whether everything needed to check any piece is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// A batch to ask for, as (first, count), that is not among those asked elsewhere.
    #[must_use]
    pub fn next_missing(&self, asked: &BTreeSet<u32>) -> Option<(u32, u32)> {
        let first = *self.missing.iter().find(|b| !asked.contains(b))?;
        Some((first, self.batch_len(first)))
    }

    /// Takes an answer; gives the new CVs as (number of the first, CVs), or nothing if they don't fold to the roots.
    pub fn learn(&mut self, first: u32, count: u32, hashes: &[Hash]) -> Option<Vec<(u32, Vec<Hash>)>> {
        let roots = &self.roots;
        let large = self.geometry.large();
        let root = |entry: u32| {
            let at = large.partition_point(|f| f.entry < entry);
            roots.get(at).copied().unwrap_or_default()
        };
        let found = tree::check_content_batch(&self.geometry, root, first, count, hashes)?;
        let mut runs = Vec::new();
        let mut rest = found.as_slice();
        for (file, part) in self.geometry.large_within(first, count) {
            let (own, more) = rest.split_at(part.len());
            rest = more;
            let low = file.first_cv + part.start;
            for (slot, cv) in self.cvs[low as usize..].iter_mut().zip(own) {
                *slot = Some(*cv);
            }
            runs.push((low, own.to_vec()));
        }
        self.missing.remove(&first);
        Some(runs)
    }

    /// The answer to a request; no hashes when something that it needs isn't known here.
    #[must_use]
    pub fn answer(&mut self, first: u32, count: u32) -> Vec<Hash> {
        let mut out = Vec::new();
        for (file, part) in self.geometry.large_within(first, count) {
            let range = file.cvs();
            let own = || self.cvs[range].iter().copied().collect::<Option<Vec<Hash>>>();
            let tree = match self.trees.entry(file.first_cv) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => match own() {
                    Some(cvs) => place.insert(CvTree::new(cvs)),
                    None => return Vec::new(),
                },
            };
            tree.make_batch(part, &mut out);
        }
        out
    }

    /// How many hashes an answer for this range must have.
    #[must_use]
    pub fn answer_len(&self, first: u32, count: u32) -> usize {
        tree::content_batch_len(&self.geometry, first, count)
    }
}
