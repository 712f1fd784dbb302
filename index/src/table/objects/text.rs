//! A string that is changed in place: what `APPEND`, `SETRANGE` and `SETBIT` make of a string.
//!
//! Its sum is that of its blocks, so that a change costs what it touches and not what the string is long. The same holds for the
//! steps back that it keeps, if it is asked to, until they hold as much as the string did: then a copy of it is made.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Kind, variant};
use crate::table::allocated;

const BLOCK: usize = 256;

/// With fewer bytes a copy is made.
const STEPS_BYTES_MIN: usize = 4 << 10;

/// A string that is changed in place.
#[derive(Debug, Default)]
pub struct Text {
    bytes: Vec<u8>,
    sum: u64,
    steps: Option<Box<Backs>>,
}

/// What undoes what was done.
#[derive(Debug, Default)]
struct Backs {
    backs: Vec<Back>,
    /// What they take.
    held: usize,
    /// Before they take so many bytes, a copy is made.
    most: usize,
}

/// What undoes a change: bytes go back to their place, and what is beyond a length goes.
#[derive(Debug)]
struct Back {
    at: usize,
    was: Box<[u8]>,
    len: usize,
}

/// A copy begins anew.
impl Clone for Text {
    fn clone(&self) -> Text {
        Text { bytes: self.bytes.clone(), sum: self.sum, steps: None }
    }
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
            self.note(old, old);
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
        self.note(at, end);
        self.sum = self.sum.wrapping_sub(self.sum_of(at / BLOCK, end));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
        self.sum = self.sum.wrapping_add(self.sum_of(at / BLOCK, end));
    }

    /// Before bytes change, and the length perhaps.
    fn note(&mut self, at: usize, end: usize) {
        let (bytes, Some(steps)) = (&self.bytes, &mut self.steps) else { return };
        let len = bytes.len();
        let changed = at..end.min(len);
        // A copy needs no steps after it.
        if steps.held >= steps.most {
            return;
        }
        let noted = if steps.held + size_of::<Back>() + changed.len() < steps.most { changed } else { 0..len };
        steps.held += size_of::<Back>() + noted.len();
        steps.backs.push(Back { at: noted.start, was: bytes[noted].into(), len });
    }

    fn undo(&mut self, steps: Option<Box<Backs>>) {
        for Back { at, was, len } in steps.into_iter().flat_map(|steps| steps.backs.into_iter().rev()) {
            self.put(at, &was);
            self.sum = self.sum.wrapping_sub(self.sum_of(len / BLOCK, self.bytes.len()));
            self.bytes.truncate(len);
            self.sum = self.sum.wrapping_add(self.sum_of(len / BLOCK, len));
        }
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

    fn begin_steps(&mut self) -> bool {
        let keeps = self.bytes.len() >= STEPS_BYTES_MIN;
        self.steps = keeps.then(|| Box::new(Backs { most: self.bytes.len(), ..Backs::default() }));
        keeps
    }

    fn step_back(&mut self) {
        let steps = self.steps.take();
        self.undo(steps);
    }

    fn end_steps(&mut self) {
        self.steps = None;
    }

    fn before_steps(&mut self) -> Text {
        let (mut was, steps) = (self.clone(), self.steps.take());
        was.undo(steps);
        was
    }

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

    #[test]
    fn it_goes_back_to_what_it_was_and_the_steps_take_no_more_than_it_does_twice() {
        for seed in 0..400 {
            let mut chance = Chance::new(seed);
            let before: Vec<u8> = (0..4_096 + chance.below(600)).map(|_| chance.next_u64() as u8).collect();
            let mut text = Text::from(&before[..]);
            assert!(text.begin_steps(), "seed {seed}");
            for _ in 0..chance.below(40) {
                let bytes: Vec<u8> = (0..chance.below(600)).map(|_| chance.next_u64() as u8).collect();
                match chance.below(4) {
                    0 => text.push(&bytes),
                    1 => text.grow(chance.below(9_000)),
                    2 => text.put(chance.below(9_000), &bytes),
                    _ => text.put(chance.below(before.len()), &bytes),
                }
                let backs = text.steps.iter().flat_map(|steps| &steps.backs);
                let held: usize = backs.map(|back| size_of::<Back>() + back.was.len()).sum();
                assert!(held <= before.len() + text.bytes().len() + size_of::<Back>(), "seed {seed}: {held}");
            }
            let now = text.bytes().to_vec();
            let was = if seed % 2 == 0 {
                text.step_back();
                text
            } else {
                let was = text.before_steps();
                assert_eq!(text.bytes(), now, "seed {seed}");
                was
            };
            assert_eq!(was.bytes(), before, "seed {seed}");
            assert_eq!(was.sum(), Text::from(&before[..]).sum(), "seed {seed}");
        }
    }
}
