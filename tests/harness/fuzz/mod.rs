//! Entry points for bytes of any kind, each with the rules that must hold whatever they are. The same functions are run
//! by coverage-guided fuzzing (`fuzz/`) and, from seeds, by the tier `fuzz` on stable.
#![allow(clippy::panic, clippy::unwrap_used, clippy::missing_panics_doc)] // A broken rule is reported by a panic.

mod disk;
mod frames;
mod links;
mod manifests;
mod session;
mod tracker;

pub use disk::{journal, paths};
pub use frames::frames;
pub use links::link;
pub use manifests::{manifest, structure};
pub use session::session;
pub use tracker::{announce, handout};

use shoal_protocol::prng::Prng;

/// An entry point.
pub type Entry = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const ENTRIES: [(&str, Entry); 9] = [
    ("manifest", manifest),
    ("structure", structure),
    ("frames", frames),
    ("session", session),
    ("announce", announce),
    ("handout", handout),
    ("link", link),
    ("journal", journal),
    ("paths", paths),
];

/// Bytes as a source of choices; it runs dry into zeros.
#[derive(Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// All of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether none are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// Up to so many bytes.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// A number of four bytes.
    pub fn word(&mut self) -> u32 {
        let mut out = [0; 4];
        let head = self.take(4);
        out[..head.len()].copy_from_slice(head);
        u32::from_le_bytes(out)
    }

    /// A number below a limit.
    pub fn below(&mut self, limit: u32) -> u32 {
        if limit <= 256 { u32::from(self.byte()) % limit.max(1) } else { self.word() % limit }
    }

    /// All that is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// splitmix64.
#[derive(Debug, Clone)]
pub struct Numbers(Prng);

impl Numbers {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Prng::new(seed))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0.next()
    }

    /// Between 0 and 1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit.max(1) as u64) as usize
    }
}

/// An input made from others: cut, joined, and with bytes changed to what is mostly on an edge.
#[must_use]
pub fn mutate(numbers: &mut Numbers, corpus: &[Vec<u8>]) -> Vec<u8> {
    const EDGES: [&[u8]; 12] = [
        &[0],
        &[0xff],
        &[0x7f],
        &[0x80],
        &[0xff; 4],
        &[0, 0, 0, 0x80],
        &[0xff, 0xff, 0xff, 0x7f],
        &[0xff; 8],
        b"/",
        b"..",
        b"\"",
        b"{",
    ];
    let Some(base) = corpus.get(numbers.below(corpus.len())) else {
        return (0..numbers.below(200)).map(|_| numbers.draw() as u8).collect();
    };
    let mut out = base.clone();
    for _ in 0..1 + numbers.below(6) {
        let at = numbers.below(out.len() + 1);
        let end = (at + numbers.below(16)).min(out.len());
        match numbers.below(7) {
            0 if at < out.len() => out[at] ^= 1 << numbers.below(8),
            1 if at < out.len() => out[at] = numbers.draw() as u8,
            2 => drop(out.splice(at..at, EDGES[numbers.below(EDGES.len())].iter().copied())),
            3 => drop(out.splice(at..end, EDGES[numbers.below(EDGES.len())].iter().copied())),
            4 => drop(out.drain(at..end)),
            5 => {
                let again = out[at..end].to_vec();
                out.splice(at..at, again);
            }
            _ => {
                let other = &corpus[numbers.below(corpus.len())];
                let from = numbers.below(other.len() + 1);
                let to = (from + numbers.below(64)).min(other.len());
                out.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    out.truncate(64 << 10);
    out
}
