//! The wheel: which keys have to be looked at when.
//!
//! ```text
//!   time, in steps ---> hashes of keys that may have expired by then
//! ```
//!
//! A key is noted once, at the step after its deadline. A deadline that is put off is not noted again: when its step comes,
//! the key is found to live still and is noted for its new deadline. So there is about one note for each key that has a
//! deadline, however often it is written. The wheel is no part of the state: it says where to look, not what is so.

use std::collections::BTreeMap;

use super::allocated;

/// How long a step is, in powers of two of milliseconds.
const STEP_BITS: u32 = 8;

/// About what the tree takes for a step.
const STEP_BYTES: usize = 64;

/// Which keys have to be looked at when.
#[derive(Debug, Default)]
pub(super) struct Wheel {
    steps: BTreeMap<u64, Vec<u64>>,
    notes: usize,
    /// What the hashes have allocated: of a step with many, up to twice what they take.
    held: usize,
}

impl Wheel {
    /// The step at whose end a deadline has passed.
    pub fn step_of(deadline: u64) -> u64 {
        (deadline >> STEP_BITS) + 1
    }

    /// Notes a key by its hash, and says for which step.
    pub fn note(&mut self, hash: u64, deadline: u64) -> u64 {
        let step = Wheel::step_of(deadline);
        let hashes = self.steps.entry(step).or_default();
        let before = allocated_by(hashes);
        hashes.push(hash);
        self.held += allocated_by(hashes) - before;
        self.notes += 1;
        step
    }

    /// When the next keys have to be looked at: milliseconds since 1970.
    pub fn next(&self) -> Option<u64> {
        self.steps.first_key_value().map(|(step, _)| step << STEP_BITS)
    }

    /// Takes the hash of one key that has to be looked at by now, with the step for which it was noted.
    pub fn pop(&mut self, now: u64) -> Option<(u64, u64)> {
        loop {
            let mut first = self.steps.first_entry()?;
            let step = *first.key();
            if step << STEP_BITS > now {
                return None;
            }
            if let Some(hash) = first.get_mut().pop() {
                self.notes -= 1;
                return Some((hash, step));
            }
            self.held -= allocated_by(&first.remove());
        }
    }

    /// How many notes there are.
    pub fn notes(&self) -> usize {
        self.notes
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Wheel::default();
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.held + self.steps.len() * STEP_BYTES
    }
}

fn allocated_by(hashes: &Vec<u64>) -> usize {
    allocated(hashes.capacity() * size_of::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_up_once_and_not_before_their_deadline_has_passed() {
        let mut wheel = Wheel::default();
        let deadlines = [1_000u64, 5, 1_001, 70_000, 999_999];
        for deadline in deadlines {
            wheel.note(deadline, deadline);
        }
        let mut seen = Vec::new();
        for now in (0..2_000_000).step_by(100) {
            while let Some((hash, _)) = wheel.pop(now) {
                assert!(hash <= now && now < hash + 512 + 100, "{hash} at {now}");
                seen.push(hash);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [5, 1_000, 1_001, 70_000, 999_999]);
        assert_eq!((wheel.next(), wheel.notes, wheel.bytes()), (None, 0, 0));
    }
}
