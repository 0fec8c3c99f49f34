//! Why bytes came for nothing: the causes, counted apart, as each has another cure.

/// Why a block was asked for that is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was asked of a second peer, and one of them was faster.
    Beaten,
    /// It was asked of others when its sender was silent for too long, and came nevertheless.
    Overdue,
    /// An origin chose a piece that we had, or were fetching.
    Assigned,
    /// The piece was found on disk, or the peer said that it hasn't got it any more.
    Needless,
    /// It came after its connection was given up, or without having been asked for.
    Stray,
    /// The bytes were wrong, or came from more peers than was allowed.
    Bad,
}

/// How many causes there are.
pub const CAUSES: usize = 6;

/// Payload bytes received for nothing, by cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waste([u64; CAUSES]);

impl Waste {
    /// So many bytes came for nothing.
    pub fn add(&mut self, cause: Cause, bytes: u64) {
        self.0[cause as usize] += bytes;
    }

    /// In the order of the causes.
    #[must_use]
    pub fn by_cause(&self) -> [u64; CAUSES] {
        self.0
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
