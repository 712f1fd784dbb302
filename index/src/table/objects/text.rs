//! A string that is changed in place: what `APPEND`, `SETRANGE` and `SETBIT` make of a string.
//!
//! Its sum is that of its blocks, so that a change costs what it touches and not what the string is long.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Kind, variant};
use crate::table::allocated;

const BLOCK: usize = 256;

/// A string that is changed in place.
#[derive(Debug, Clone, Default)]
pub struct Text {
    bytes: Vec<u8>,
    sum: u64,
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Text {
        let mut text = Text::default();
        text.put(0, bytes);
        text
    }
}

impl Text {
    /// What it says.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds to its end.
    pub fn push(&mut self, more: &[u8]) {
        self.put(self.bytes.len(), more);
    }

    /// Makes it longer, with zeros, if it is shorter than so many bytes.
    pub fn grow(&mut self, len: usize) {
        let old = self.bytes.len();
        if old < len {
            let first = old / BLOCK;
            self.sum = self.sum.wrapping_sub(self.sum_of(first, len));
            self.bytes.resize(len, 0);
            self.sum = self.sum.wrapping_add(self.sum_of(first, len));
        }
    }

    /// Puts bytes at a place; it grows as needed.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        // What lies before the place is filled up first, so that only the blocks of the place change below.
        self.grow(at);
        self.sum = self.sum.wrapping_sub(self.sum_of(at / BLOCK, end));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
        self.sum = self.sum.wrapping_add(self.sum_of(at / BLOCK, end));
    }

    /// The sum of the blocks from the first given one to the one that holds the byte before `end`.
    fn sum_of(&self, first: usize, end: usize) -> u64 {
        let last = end.div_ceil(BLOCK) * BLOCK;
        let bytes = &self.bytes[(first * BLOCK).min(self.bytes.len())..last.min(self.bytes.len())];
        let blocks = (first as u64..).zip(bytes.chunks(BLOCK));
        blocks.fold(0, |sum, (number, block)| sum.wrapping_add(xxh3_64_with_seed(block, number)))
    }
}

impl Kind for Text {
    const NAME: &'static str = "string";
    const TAG: u8 = 1;

    variant!(Text);

    fn encoding(&self) -> &'static str {
        "raw"
    }

    fn heap_bytes(&self) -> usize {
        allocated(self.bytes.capacity())
    }

    /// A string without bytes is a string.
    fn is_empty(&self) -> bool {
        false
    }

    fn sum(&self) -> u64 {
        self.sum
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
    }

    fn decode(bytes: &[u8]) -> Option<Text> {
        Some(Text::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;

    #[test]
    fn it_is_what_a_vector_would_be_and_its_sum_is_that_of_what_it_holds() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let (mut text, mut model) = (Text::default(), Vec::new());
            for _ in 0..30 {
                let bytes: Vec<u8> = (0..chance.below(600)).map(|_| chance.next_u64() as u8).collect();
                let at = chance.below(1_500);
                match chance.below(3) {
                    0 => {
                        text.push(&bytes);
                        model.extend_from_slice(&bytes);
                    }
                    1 => {
                        text.grow(at);
                        model.resize(model.len().max(at), 0);
                    }
                    _ => {
                        text.put(at, &bytes);
                        if !bytes.is_empty() {
                            model.resize(model.len().max(at + bytes.len()), 0);
                            model[at..at + bytes.len()].copy_from_slice(&bytes);
                        }
                    }
                }
                assert_eq!(text.bytes(), model, "seed {seed}");
                assert_eq!(text.sum(), Text::from(&model[..]).sum(), "seed {seed}");
            }
        }
    }
}
