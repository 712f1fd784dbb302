//! Ghosts: what is remembered of keys that went lately, in two bytes each.
//!
//! ```text
//!   hash --> bucket: | newest | .. | oldest |      each 13 bits of the hash, 2 of use, 1 for where it stood
//! ```
//!
//! A bucket forgets its oldest when it is full. One of a thousand keys that never were here is taken for one that was, which
//! costs nothing but a better place than it deserves.

use crate::table::allocated;

const SLOTS: usize = 8;
const USED_SHIFT: u32 = 1;
const PRINT_SHIFT: u32 = 3;
/// The most that is remembered of a key's use.
pub(super) const USED_MAX: u8 = 3;

/// What is remembered of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ghost {
    /// It was past probation.
    pub main: bool,
    /// How much it was used, at most [`USED_MAX`].
    pub used: u8,
}

/// Keys that went lately.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    buckets: Vec<[u16; SLOTS]>,
    /// How many there are that were on probation, and past it.
    count: [usize; 2],
}

/// Its bucket and its mark in there, which is never zero.
fn place(hash: u64, buckets: usize) -> (usize, u16) {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bucket = ((mixed >> 32) * buckets as u64) >> 32;
    let print = (mixed as u16) >> PRINT_SHIFT;
    (bucket as usize, print.max(1))
}

fn ghost(slot: u16) -> Ghost {
    Ghost { main: slot & 1 == 1, used: (slot >> USED_SHIFT) as u8 & USED_MAX }
}

impl Ghosts {
    /// Room for about so many.
    pub fn new(keys: usize) -> Ghosts {
        Ghosts { buckets: vec![[0; SLOTS]; keys.div_ceil(SLOTS)], count: [0; 2] }
    }

    /// How many there are that were on probation, and past it.
    pub fn count(&self) -> [usize; 2] {
        self.count
    }

    /// A key goes.
    pub fn remember(&mut self, hash: u64, ghost_of: Ghost) {
        let (bucket, print) = place(hash, self.buckets.len());
        let Some(slots) = self.buckets.get_mut(bucket) else { return };
        let known = slots.iter().position(|slot| slot >> PRINT_SHIFT == print);
        let last = known.unwrap_or(SLOTS - 1);
        if slots[last] != 0 {
            self.count[usize::from(ghost(slots[last]).main)] -= 1;
        }
        slots.copy_within(..last, 1);
        let used = u16::from(ghost_of.used.min(USED_MAX));
        slots[0] = print << PRINT_SHIFT | used << USED_SHIFT | u16::from(ghost_of.main);
        self.count[usize::from(ghost_of.main)] += 1;
    }

    /// A key comes: what was remembered of it, which then is forgotten.
    pub fn take(&mut self, hash: u64) -> Option<Ghost> {
        let (bucket, print) = place(hash, self.buckets.len());
        let slots = self.buckets.get_mut(bucket)?;
        let at = slots.iter().position(|slot| slot >> PRINT_SHIFT == print)?;
        let found = ghost(slots[at]);
        slots.copy_within(at + 1.., at);
        slots[SLOTS - 1] = 0;
        self.count[usize::from(found.main)] -= 1;
        Some(found)
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        allocated(self.buckets.capacity() * size_of::<[u16; SLOTS]>())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::table::call::Chance;

    #[test]
    fn a_bucket_forgets_its_oldest() {
        for seed in 0..200 {
            let (mut chance, mut ghosts, mut model) = (Chance::new(seed), Ghosts::new(SLOTS), VecDeque::new());
            for step in 0..400 {
                let hash = Chance::new(chance.below(20) as u64).next_u64();
                let known = model.iter().position(|(known, _)| *known == hash);
                if chance.below(3) == 0 {
                    let expected = known.and_then(|at| model.remove(at)).map(|(_, ghost)| ghost);
                    assert_eq!(ghosts.take(hash), expected, "seed {seed}, step {step}");
                } else {
                    known.map(|at| model.remove(at));
                    let ghost = Ghost { main: chance.below(2) == 1, used: chance.below(4) as u8 };
                    model.push_front((hash, ghost));
                    model.truncate(SLOTS);
                    ghosts.remember(hash, ghost);
                }
                let main = model.iter().filter(|(_, ghost)| ghost.main).count();
                assert_eq!(ghosts.count(), [model.len() - main, main], "seed {seed}, step {step}");
            }
        }
    }

    #[test]
    fn most_of_those_that_went_lately_are_known_and_few_others() {
        let mut ghosts = Ghosts::new(10_000);
        let hash = |number: u64| Chance::new(number).next_u64();
        (0..50_000).for_each(|number| ghosts.remember(hash(number), Ghost { main: false, used: 1 }));
        let others = (100_000..200_000).filter(|number| ghosts.take(hash(*number)).is_some()).count();
        assert!(others < 200, "{others}");
        let lately = (45_000..50_000).filter(|number| ghosts.take(hash(*number)).is_some()).count();
        assert!(lately > 4_700, "{lately}");
        assert_eq!(Ghosts::new(0).take(7), None);
    }
}
