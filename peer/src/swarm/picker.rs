//! Which piece to start next: the rarest that a peer has and we lack.
//!
//! The pieces that we lack and have not started stand in one array, sorted by how many connected leechers have them; a
//! count that changes by one moves its piece to the edge of its bucket by one swap, so every change is O(1). Seeds are
//! counted apart, as they change nothing in the order. Within a bucket the walk starts at a random place, so that peers
//! which see the same counts choose differently.

use shoal_protocol::Bitfield;
use shoal_protocol::prng::Prng;

const NOT_LISTED: u32 = u32::MAX;
/// With fewer candidates than this all of them are compared.
const FEW: usize = 32;

/// Availability and order of pieces.
#[derive(Debug)]
pub struct Picker {
    /// How many leechers among our connections have each piece.
    counts: Vec<u16>,
    /// Pieces that may be started, ascending by count.
    order: Vec<u32>,
    /// The same pieces as a set.
    listed: Bitfield,
    /// Where each piece stands in `order`.
    position: Vec<u32>,
    /// `edges[c]`: where the bucket of count `c` begins; buckets past the end are empty.
    edges: Vec<u32>,
    seeds: u32,
    returned: u64,
}

impl Picker {
    /// All pieces not in `have` may be started.
    #[must_use]
    pub fn new(have: &Bitfield, rng: &mut Prng) -> Self {
        let mut order: Vec<u32> = have.zeros().collect();
        rng.shuffle(&mut order);
        let mut position = vec![NOT_LISTED; have.len() as usize];
        for (at, piece) in order.iter().enumerate() {
            position[*piece as usize] = at as u32;
        }
        let mut listed = Bitfield::none(have.len());
        for piece in &order {
            listed.set(*piece, true);
        }
        Self { counts: vec![0; have.len() as usize], order, listed, position, edges: vec![0], seeds: 0, returned: 0 }
    }

    /// How many pieces may be started.
    #[must_use]
    pub fn startable(&self) -> usize {
        self.order.len()
    }

    /// Whether a piece may be started.
    #[must_use]
    pub fn is_listed(&self, piece: u32) -> bool {
        self.position[piece as usize] != NOT_LISTED
    }

    /// Whether there is a piece to start that no connected leecher has.
    #[must_use]
    pub fn some_with_seeds_only(&self) -> bool {
        self.order.first().is_some_and(|p| self.counts[*p as usize] == 0)
    }

    /// How many times a piece was put back.
    #[must_use]
    pub fn returned(&self) -> u64 {
        self.returned
    }

    /// How many connected peers have a piece, seeds included.
    #[must_use]
    pub fn availability(&self, piece: u32) -> u32 {
        u32::from(self.counts[piece as usize]) + self.seeds
    }

    /// How many connected leechers have a piece.
    #[must_use]
    pub fn leechers_with(&self, piece: u32) -> u32 {
        self.counts[piece as usize].into()
    }

    /// A seed came or went.
    pub fn count_seed(&mut self, came: bool) {
        self.seeds = if came { self.seeds + 1 } else { self.seeds.saturating_sub(1) };
    }

    /// One more leecher has a piece.
    pub fn increment(&mut self, piece: u32) {
        let count = self.counts[piece as usize];
        let Some(next) = count.checked_add(1) else { return };
        self.counts[piece as usize] = next;
        if self.position[piece as usize] == NOT_LISTED {
            return;
        }
        // Move to the end of its bucket, then let the next bucket begin one earlier.
        let end = self.bucket_end(count);
        self.swap(self.position[piece as usize], end - 1);
        self.edge_mut(next, end);
        self.edges[next as usize] -= 1;
    }

    /// One leecher less has a piece.
    pub fn decrement(&mut self, piece: u32) {
        let count = self.counts[piece as usize];
        let Some(less) = count.checked_sub(1) else { return };
        self.counts[piece as usize] = less;
        if self.position[piece as usize] == NOT_LISTED {
            return;
        }
        let start = self.edges[count as usize];
        self.swap(self.position[piece as usize], start);
        self.edges[count as usize] += 1;
    }

    /// Takes a piece out: it was started, or is had.
    pub fn remove(&mut self, piece: u32) {
        let at = self.position[piece as usize];
        if at == NOT_LISTED {
            return;
        }
        // Bubble to the end of the array through the last place of each bucket.
        let mut at = at;
        for count in self.counts[piece as usize]..self.edges.len() as u16 {
            let last = self.bucket_end(count) - 1;
            self.swap(at, last);
            at = last;
            if let Some(edge) = self.edges.get_mut(usize::from(count) + 1) {
                *edge -= 1;
            }
        }
        debug_assert_eq!(at as usize, self.order.len() - 1);
        self.order.pop();
        self.listed.set(piece, false);
        self.position[piece as usize] = NOT_LISTED;
    }

    /// Puts a piece back: what was started of it is lost.
    pub fn insert(&mut self, piece: u32) {
        if self.position[piece as usize] != NOT_LISTED {
            return;
        }
        let count = self.counts[piece as usize];
        self.edge_mut(count, self.order.len() as u32);
        self.order.push(piece);
        self.listed.set(piece, true);
        self.returned += 1;
        self.position[piece as usize] = self.order.len() as u32 - 1;
        let mut at = self.order.len() as u32 - 1;
        for above in (usize::from(count) + 1..self.edges.len()).rev() {
            let first = self.edges[above];
            self.swap(at, first);
            at = first;
            self.edges[above] += 1;
        }
    }

    /// The rarest piece among those of `have` that may be started and that `wanted` accepts. With `random`, any such piece
    /// instead: the first pieces of a newcomer should be soon had, not rare.
    ///
    /// A peer with many such pieces has one of them near the start of the order; one with few has them counted out. So
    /// a choice costs one look at each word of the set, and few looks besides.
    pub fn pick(
        &self,
        rng: &mut Prng,
        random: bool,
        have: &Bitfield,
        mut wanted: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let mut few = [0; FEW];
        let mut found = 0;
        for piece in self.listed.common(have).take(FEW) {
            few[found] = piece;
            found += 1;
        }
        if found < FEW {
            let few = &mut few[..found];
            let start = rng.below(found);
            few.rotate_left(start);
            let rarest = |p: &u32| if random { 0 } else { self.counts[*p as usize] };
            return few.iter().copied().filter(|p| wanted(*p)).min_by_key(rarest);
        }
        let mut wanted = |piece| have.has(piece) && wanted(piece);
        let total = self.order.len();
        let mut scan = |from: usize, to: usize| {
            let width = to - from;
            let start = rng.below(width);
            (0..width).map(|i| self.order[from + (start + i) % width]).find(|p| wanted(*p))
        };
        if random {
            return scan(0, total);
        }
        for (count, from) in self.edges.iter().enumerate() {
            let (from, to) = (*from as usize, self.bucket_end(count as u16) as usize);
            if from < to
                && let Some(piece) = scan(from, to)
            {
                return Some(piece);
            }
        }
        None
    }

    fn bucket_end(&self, count: u16) -> u32 {
        self.edges.get(usize::from(count) + 1).copied().unwrap_or(self.order.len() as u32)
    }

    /// Makes sure that the bucket of `count` exists; missing ones begin at `end`.
    fn edge_mut(&mut self, count: u16, end: u32) {
        while self.edges.len() <= usize::from(count) {
            self.edges.push(end.max(self.order.len() as u32));
        }
    }

    fn swap(&mut self, a: u32, b: u32) {
        self.order.swap(a as usize, b as usize);
        self.position[self.order[a as usize] as usize] = a;
        self.position[self.order[b as usize] as usize] = b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(picker: &Picker, listed: &std::collections::BTreeSet<u32>) {
        let order: std::collections::BTreeSet<u32> = picker.order.iter().copied().collect();
        assert_eq!(&order, listed);
        assert_eq!(picker.order.len(), listed.len());
        assert!(picker.listed.ones().eq(listed.iter().copied()));
        for (at, piece) in picker.order.iter().enumerate() {
            assert_eq!(picker.position[*piece as usize] as usize, at);
            let count = picker.counts[*piece as usize];
            assert!(picker.edges[usize::from(count)] as usize <= at && at < picker.bucket_end(count) as usize);
        }
        assert!(picker.edges.windows(2).all(|w| w[0] <= w[1]));
    }

    const PIECES: u32 = 80;

    #[derive(Debug, Clone)]
    enum Step {
        More(u32),
        Less(u32),
        Remove(u32),
        Insert(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..PIECES).prop_map(Step::More),
            3 => (0..PIECES).prop_map(Step::Less),
            1 => (0..PIECES).prop_map(Step::Remove),
            1 => (0..PIECES).prop_map(Step::Insert),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn the_rarest_comes_first_whatever_happened(steps in steps(), seed: u64, density in 1..9_usize) {
            let mut rng = Prng::new(seed);
            let mut picker = Picker::new(&Bitfield::none(PIECES), &mut rng);
            let mut listed: std::collections::BTreeSet<u32> = (0..PIECES).collect();
            let mut counts = [0_u32; PIECES as usize];
            // From peers with few pieces to those with nearly all.
            let mut has = Bitfield::none(PIECES);
            (0..PIECES).for_each(|p| _ = has.set(p, rng.below(9) < density));
            for step in steps {
                match step {
                    Step::More(p) => { picker.increment(p); counts[p as usize] += 1; }
                    Step::Less(p) => { picker.decrement(p); counts[p as usize] = counts[p as usize].saturating_sub(1); }
                    Step::Remove(p) => { picker.remove(p); listed.remove(&p); }
                    Step::Insert(p) => { picker.insert(p); listed.insert(p); }
                }
                check(&picker, &listed);
                for odd in [false, true] {
                    let wanted = |p: &u32| !odd || p % 2 == 1;
                    let best = listed.iter().filter(|p| has.has(**p) && wanted(p)).map(|p| counts[*p as usize]).min();
                    let picked = picker.pick(&mut rng, false, &has, |p| wanted(&p));
                    prop_assert_eq!(picked.map(|p| counts[p as usize]), best);
                    prop_assert!(picked.is_none_or(|p| has.has(p) && wanted(&p) && listed.contains(&p)));
                    let any = picker.pick(&mut rng, true, &has, |p| wanted(&p));
                    prop_assert_eq!(any.is_some(), best.is_some());
                    prop_assert!(any.is_none_or(|p| has.has(p) && wanted(&p) && listed.contains(&p)));
                }
            }
        }
    }

    #[test]
    fn equal_peers_choose_differently() {
        let picks: std::collections::BTreeSet<_> = (0..50)
            .map(|seed| {
                let mut rng = Prng::new(seed);
                Picker::new(&Bitfield::none(1000), &mut rng).pick(&mut rng, false, &Bitfield::all(1000), |_| true)
            })
            .collect();
        assert!(picks.len() > 40);
    }
}
