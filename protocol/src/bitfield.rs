//! Which pieces a peer has.

use crate::error::WireError;
use bitvec::prelude::{BitVec, Msb0};

/// A set of pieces out of a known number. On the wire: bit 7 of byte 0 is piece 0, spare bits are zero.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    bits: BitVec<u8, Msb0>,
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
        Self { bits: BitVec::repeat(false, pieces as usize), ones: 0 }
    }

    /// All of `pieces`.
    #[must_use]
    pub fn all(pieces: u32) -> Self {
        Self { bits: BitVec::repeat(true, pieces as usize), ones: pieces }
    }

    /// From bytes as on the wire.
    ///
    /// # Errors
    /// When the number of bytes doesn't fit the number of pieces, or a spare bit is set.
    pub fn from_bytes(pieces: u32, bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() != (pieces as usize).div_ceil(8) {
            return Err(WireError::OutOfRange("length of a bitfield"));
        }
        let mut bits: BitVec<u8, Msb0> = BitVec::from_slice(bytes);
        if bits[pieces as usize..].any() {
            return Err(WireError::OutOfRange("spare bits of a bitfield"));
        }
        bits.truncate(pieces as usize);
        let ones = bits.count_ones() as u32;
        Ok(Self { bits, ones })
    }

    /// The bytes of the wire, spare bits zero.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bits = self.bits.clone();
        bits.set_uninitialized(false);
        bits.into_vec()
    }

    /// Number of pieces that could be in the set.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.bits.len() as u32
    }

    /// Whether the content has no pieces at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    /// Whether `piece` is in the set; false past the end.
    #[must_use]
    pub fn has(&self, piece: u32) -> bool {
        self.bits.get(piece as usize).is_some_and(|b| *b)
    }

    /// Adds or removes a piece; returns whether that changed anything. Past the end nothing changes.
    pub fn set(&mut self, piece: u32, value: bool) -> bool {
        match self.bits.get_mut(piece as usize) {
            Some(mut bit) if *bit != value => {
                *bit = value;
                if value {
                    self.ones += 1;
                } else {
                    self.ones -= 1;
                }
                true
            }
            _ => false,
        }
    }

    /// Number of pieces in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Whether the set has all pieces.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ones == self.len()
    }

    /// The pieces in the set, ascending.
    pub fn ones(&self) -> impl Iterator<Item = u32> {
        self.bits.iter_ones().map(|i| i as u32)
    }

    /// The pieces not in the set, ascending.
    pub fn zeros(&self) -> impl Iterator<Item = u32> {
        self.bits.iter_zeros().map(|i| i as u32)
    }

    /// Whether `self` has a piece that `other` lacks.
    #[must_use]
    pub fn has_more_than(&self, other: &Self) -> bool {
        self.ones > other.ones || self.ones().any(|p| !other.has(p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        fn it_behaves_like_a_set(pieces in 1..300_u32, changes in prop::collection::vec((0..320_u32, any::<bool>()), 0..200)) {
            let mut field = Bitfield::none(pieces);
            let mut set = std::collections::BTreeSet::new();
            for (piece, value) in changes {
                let changed = if piece >= pieces { false } else if value { set.insert(piece) } else { set.remove(&piece) };
                prop_assert_eq!(field.set(piece, value), changed);
            }
            prop_assert_eq!(field.count() as usize, set.len());
            prop_assert!(field.ones().eq(set.iter().copied()));
            prop_assert_eq!(Bitfield::from_bytes(pieces, &field.to_bytes()).unwrap(), field);
        }
    }
}
