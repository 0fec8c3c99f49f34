//! The blocks that a peer asked us for and that wait, in order, with their bytes: whether an origin has too much to do is asked
//! at every request, so not by looking at each of them.

use shoal_protocol::message::Block;
use std::collections::VecDeque;

/// What waits for one peer.
#[derive(Debug, Default)]
pub struct Queue {
    blocks: VecDeque<Block>,
    bytes: u64,
}

impl Queue {
    /// Asked for last.
    pub fn push(&mut self, block: Block) {
        self.bytes += u64::from(block.length);
        self.blocks.push_back(block);
    }

    /// The next.
    pub fn pop(&mut self) -> Option<Block> {
        let block = self.blocks.pop_front()?;
        self.bytes -= u64::from(block.length);
        Some(block)
    }

    /// The next, left there.
    #[must_use]
    pub fn front(&self) -> Option<Block> {
        self.blocks.front().copied()
    }

    /// Takes out some of them.
    pub fn take(&mut self, which: impl Fn(&Block) -> bool) -> Vec<Block> {
        let (taken, kept) = std::mem::take(&mut self.blocks).into_iter().partition::<Vec<_>, _>(which);
        self.blocks = kept.into();
        self.bytes -= taken.iter().map(|block| u64::from(block.length)).sum::<u64>();
        taken
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Their payload.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of memory.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_the_bytes_of_what_waits() {
        let block = |piece, length| Block { piece, offset: 0, length };
        let mut queue = Queue::default();
        (1..=4).for_each(|n| queue.push(block(n % 2, n * 10)));
        assert_eq!((queue.len(), queue.bytes(), queue.front()), (4, 100, Some(block(1, 10))));
        assert_eq!(queue.pop(), Some(block(1, 10)));
        assert_eq!(queue.take(|b| b.piece == 0), [block(0, 20), block(0, 40)]);
        assert_eq!((queue.len(), queue.bytes()), (1, 30));
        assert_eq!((queue.pop(), queue.pop(), queue.bytes(), queue.is_empty()), (Some(block(1, 30)), None, 0, true));
    }
}
