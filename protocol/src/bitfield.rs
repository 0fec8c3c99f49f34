//! Which pieces a peer has.

use crate::error::WireError;

/// Pieces in one word.
const WORD: u32 = 64;

/// A set of pieces out of a known number. On the wire: bit 7 of byte 0 is piece 0, spare bits are zero.
///
/// Inside, bit 0 of word 0 is piece 0 and spare bits are zero too: sets are compared 64 pieces at a time.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    words: Box<[u64]>,
    len: u32,
    ones: u32,
}

impl std::fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitfield({} of {})", self.ones, self.len())
    }
}

impl Bitfield {
    /// None of `pieces`.
    #[must_use]
    pub fn none(pieces: u32) -> Self {
        Self { words: vec![0; pieces.div_ceil(WORD) as usize].into(), len: pieces, ones: 0 }
    }

    /// All of `pieces`.
    #[must_use]
    pub fn all(pieces: u32) -> Self {
        let mut words = vec![u64::MAX; pieces.div_ceil(WORD) as usize];
        if let Some(last) = words.last_mut()
            && !pieces.is_multiple_of(WORD)
        {
            *last = (1 << (pieces % WORD)) - 1;
        }
        Self { words: words.into(), len: pieces, ones: pieces }
    }

    /// From bytes as on the wire.
    ///
    /// # Errors
    /// When the number of bytes doesn't fit the number of pieces, or a spare bit is set.
    pub fn from_bytes(pieces: u32, bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() != (pieces as usize).div_ceil(8) {
            return Err(WireError::OutOfRange("length of a bitfield"));
        }
        let spare = (8 - pieces % 8) % 8;
        if bytes.last().is_some_and(|last| last.trailing_zeros() < spare) {
            return Err(WireError::OutOfRange("spare bits of a bitfield"));
        }
        let word = |part: &[u8]| {
            part.iter().enumerate().fold(0, |word, (n, byte)| word | u64::from(byte.reverse_bits()) << (8 * n))
        };
        let words: Box<[u64]> = bytes.chunks(8).map(word).collect();
        let ones = words.iter().map(|w| w.count_ones()).sum();
        Ok(Self { words, len: pieces, ones })
    }

    /// The bytes of the wire, spare bits zero.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.words.iter().flat_map(|w| w.to_le_bytes()).map(u8::reverse_bits);
        bytes.take(self.len.div_ceil(8) as usize).collect()
    }

    /// Number of pieces that could be in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the content has no pieces at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `piece` is in the set; false past the end.
    #[must_use]
    pub fn has(&self, piece: u32) -> bool {
        self.words.get((piece / WORD) as usize).is_some_and(|word| word >> (piece % WORD) & 1 == 1)
    }

    /// Adds or removes a piece; returns whether that changed anything. Past the end nothing changes.
    pub fn set(&mut self, piece: u32, value: bool) -> bool {
        if piece >= self.len || self.has(piece) == value {
            return false;
        }
        self.words[(piece / WORD) as usize] ^= 1 << (piece % WORD);
        if value {
            self.ones += 1;
        } else {
            self.ones -= 1;
        }
        true
    }

    /// Number of pieces in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Number of pieces in the set that `other` lacks.
    #[must_use]
    pub fn count_beyond(&self, other: &Self) -> u32 {
        self.words.iter().zip(&other.words).map(|(ours, theirs)| (ours & !theirs).count_ones()).sum()
    }

    /// Whether the set has all pieces.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ones == self.len()
    }

    /// The pieces in the set, ascending.
    pub fn ones(&self) -> impl Iterator<Item = u32> {
        set_bits(self.words.iter().copied())
    }

    /// The pieces not in the set, ascending.
    pub fn zeros(&self) -> impl Iterator<Item = u32> {
        let len = self.len;
        // What lies past the end comes last and is cut off.
        set_bits(self.words.iter().map(|w| !w)).take_while(move |piece| *piece < len)
    }

    /// The first piece from `from` on, and then from the beginning, for which `which` gives a bit of the words of both sets.
    pub fn search(&self, other: &Self, from: u32, which: impl Fn(u64, u64) -> u64) -> Option<u32> {
        let count = self.words.len();
        let (start, low) = ((from / WORD) as usize, !0 << (from % WORD));
        // The word that it begins in comes twice: first its upper part, then its lower one.
        (0..=count).find_map(|step| {
            let at = (start + step) % count.max(1);
            let (ours, theirs) = (self.words.get(at)?, other.words.get(at)?);
            let part = if step == 0 {
                low
            } else if step == count {
                !low
            } else {
                !0
            };
            let bits = which(*ours, *theirs) & part;
            let piece = at as u32 * WORD + bits.trailing_zeros();
            (bits != 0 && piece < self.len).then_some(piece)
        })
    }

    /// The pieces that are in both sets, ascending.
    pub fn common(&self, other: &Self) -> impl Iterator<Item = u32> {
        set_bits(self.words.iter().zip(&other.words).map(|(ours, theirs)| ours & theirs))
    }
}

/// The numbers of the bits that are set, ascending.
fn set_bits(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u32> {
    (0..).step_by(WORD as usize).zip(words).flat_map(|(first, word)| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let bit = (rest != 0).then(|| rest.trailing_zeros())?;
            rest &= rest - 1;
            Some(first + bit)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_search_finds_what_a_look_at_each_finds(len in 1_u32..200, seed in any::<[u64; 8]>(), from in 0_u32..200) {
            let (mut ours, mut theirs) = (Bitfield::none(len), Bitfield::none(len));
            for piece in 0..len {
                ours.set(piece, seed[piece as usize / 64] >> (piece % 64) & 1 == 1);
                theirs.set(piece, seed[4 + piece as usize / 64] >> (piece % 64) & 1 == 1);
            }
            let from = from % len;
            let round = || (from..len).chain(0..from);
            prop_assert_eq!(
                ours.search(&theirs, from, |a, b| !a & !b),
                round().find(|p| !ours.has(*p) && !theirs.has(*p))
            );
            prop_assert_eq!(ours.search(&theirs, from, |a, b| a & !b), round().find(|p| ours.has(*p) && !theirs.has(*p)));
        }
    }

    #[test]
    fn wrong_lengths_and_spare_bits_are_refused() {
        assert!(Bitfield::from_bytes(9, &[0xff]).is_err());
        assert!(Bitfield::from_bytes(9, &[0xff, 0x80, 0]).is_err());
        assert!(Bitfield::from_bytes(9, &[0xff, 0x40]).is_err());
        assert!(Bitfield::from_bytes(9, &[0xff, 0x80]).unwrap().is_complete());
        assert!(Bitfield::from_bytes(0, &[]).unwrap().is_complete());
    }

    proptest! {
        #[test]
        fn two_are_compared_piece_by_piece(a in prop::collection::vec(any::<bool>(), 0..300), b: u64) {
            let len = a.len() as u32;
            let (mut ours, mut theirs) = (Bitfield::none(len), Bitfield::all(len));
            for (piece, had) in (0..).zip(&a) {
                ours.set(piece, *had);
                theirs.set(piece, b >> (piece % 61) & 1 == 1);
            }
            let beyond = (0..len).filter(|p| ours.has(*p) && !theirs.has(*p)).count() as u32;
            prop_assert_eq!(ours.count_beyond(&theirs), beyond);
            prop_assert!(ours.common(&theirs).eq((0..len).filter(|p| ours.has(*p) && theirs.has(*p))));
        }

        #[test]
        fn it_behaves_like_a_set(pieces in 1..300_u32, changes in prop::collection::vec((0..320_u32, any::<bool>()), 0..200)) {
            let mut field = Bitfield::none(pieces);
            let mut set = std::collections::BTreeSet::new();
            for (piece, value) in changes {
                let changed = if piece >= pieces { false } else if value { set.insert(piece) } else { set.remove(&piece) };
                prop_assert_eq!(field.set(piece, value), changed);
            }
            prop_assert_eq!(field.count() as usize, set.len());
            prop_assert!(field.ones().eq(set.iter().copied()));
            prop_assert!(field.zeros().eq((0..pieces).filter(|p| !set.contains(p))));
            let mut bytes = vec![0_u8; pieces.div_ceil(8) as usize];
            set.iter().for_each(|p| bytes[(p / 8) as usize] |= 0x80 >> (p % 8));
            prop_assert_eq!(field.to_bytes(), bytes);
            prop_assert_eq!(field.is_complete(), set.len() == pieces as usize);
            prop_assert_eq!(Bitfield::from_bytes(pieces, &field.to_bytes()).unwrap(), field);
        }
    }
}
