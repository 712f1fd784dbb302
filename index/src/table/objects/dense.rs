//! Many elements by key, in an order that can be counted through.
//!
//! ```text
//!   index:  hash of a key --> place
//!   entries: | 0 | 1 | 2 | ... | last |        one that goes leaves its place to the last
//! ```
//!
//! Chance picks an element by its place, and a scan goes through the places from the last to the first. An element moves
//! only to a lower place, so that a scan meets every one that is there all the time.
//!
//! Always: an entry is found at the place that the index has for its key; the order of entries depends on what was added
//! and removed alone, never on how the index lies in memory.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::places::place_of;
use crate::table::allocated;
use crate::table::call::Chance;

/// Below so many places nothing is given back.
const SHRINK_MIN: usize = 32;

/// What can be an entry.
pub trait Keyed {
    /// Its key, which does not change.
    fn key(&self) -> &[u8];
    /// What its own allocations take.
    fn heap_bytes(&self) -> usize;
}

impl Keyed for Box<[u8]> {
    fn key(&self) -> &[u8] {
        self
    }

    fn heap_bytes(&self) -> usize {
        allocated(self.len())
    }
}

/// Elements by key.
#[derive(Debug, Clone)]
pub struct Dense<E> {
    entries: Vec<E>,
    index: HashTable<u32>,
    /// What the entries' own allocations take.
    held: usize,
}

impl<E> Default for Dense<E> {
    fn default() -> Dense<E> {
        Dense { entries: Vec::new(), index: HashTable::new(), held: 0 }
    }
}

impl<E: Keyed> Dense<E> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What its allocations take, with those of its entries.
    pub fn heap_bytes(&self) -> usize {
        let entries = allocated(self.entries.capacity() * size_of::<E>());
        entries + allocated(self.index.allocation_size()) + self.held
    }

    /// All, by place.
    pub fn entries(&self) -> &[E] {
        &self.entries
    }

    /// The place of a key.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        self.index.find(place_of(key), |&place| self.entries[place as usize].key() == key).map(|&place| place as usize)
    }

    /// Adds an element whose key is not there, at the end.
    pub fn push(&mut self, entry: E) {
        let place = u32::try_from(self.entries.len()).expect("memory ends before places do");
        let hash = place_of(entry.key());
        self.held += entry.heap_bytes();
        self.entries.push(entry);
        let entries = &self.entries;
        self.index.insert_unique(hash, place, |&place| place_of(entries[place as usize].key()));
    }

    /// Takes an element out; the last takes its place.
    pub fn swap_remove(&mut self, place: usize) -> E {
        let last = self.entries.len() - 1;
        let hash = place_of(self.entries[place].key());
        let found = self.index.find_entry(hash, |&at| at as usize == place);
        found.expect("every entry is in the index").remove();
        if place != last {
            let hash = place_of(self.entries[last].key());
            let moved = self.index.find_mut(hash, |&at| at as usize == last);
            *moved.expect("every entry is in the index") = place as u32;
        }
        let entry = self.entries.swap_remove(place);
        self.held -= entry.heap_bytes();
        if self.entries.capacity() > SHRINK_MIN && self.entries.len() < self.entries.capacity() / 4 {
            let wanted = self.entries.len() * 2;
            self.entries.shrink_to(wanted);
            let entries = &self.entries;
            self.index.shrink_to(wanted, |&place| place_of(entries[place as usize].key()));
        }
        entry
    }

    /// Changes an element, whose key must stay what it is.
    pub fn change<R>(&mut self, place: usize, change: impl FnOnce(&mut E) -> R) -> R {
        let entry = &mut self.entries[place];
        self.held -= entry.heap_bytes();
        let result = change(entry);
        self.held += entry.heap_bytes();
        result
    }

    /// The places of the next step of a scan, in the order of the scan, and the cursor after it; zero begins and ends.
    pub fn scan(&self, cursor: u64, count: usize) -> (impl Iterator<Item = &E>, u64) {
        let len = self.entries.len();
        let from = if cursor == 0 { len } else { len.min(usize::try_from(cursor).unwrap_or(len)) };
        let to = from.saturating_sub(count);
        (self.entries[to..from].iter().rev(), to as u64)
    }

    /// Asserts all that must hold of it.
    #[cfg(test)]
    pub fn check(&self) {
        assert_eq!(self.index.len(), self.entries.len());
        for (place, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.find(entry.key()), Some(place));
        }
        assert_eq!(self.held, self.entries.iter().map(Keyed::heap_bytes).sum::<usize>());
    }
}

/// `count` different numbers below `bound`, which is not less, each choice as likely as any other.
pub fn sample(chance: &mut Chance, bound: usize, count: usize) -> Vec<usize> {
    if count * 3 > bound {
        let mut all: Vec<usize> = (0..bound).collect();
        for place in 0..count {
            all.swap(place, place + chance.below(bound - place));
        }
        all.truncate(count);
        return all;
    }
    let (mut chosen, mut seen) = (Vec::with_capacity(count), HashTable::with_capacity(count));
    let hash = |number: &usize| xxh3_64(&number.to_le_bytes());
    while chosen.len() < count {
        let number = chance.below(bound);
        if seen.find(hash(&number), |&other| other == number).is_none() {
            seen.insert_unique(hash(&number), number, hash);
            chosen.push(number);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_what_a_set_would_be() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let (mut dense, mut model) = (Dense::<Box<[u8]>>::default(), BTreeSet::new());
            let keys = 1 + chance.below(300);
            for step in 0..600 {
                let key: Box<[u8]> = chance.below(keys).to_string().into_bytes().into();
                // First it mostly grows, then it mostly shrinks.
                let grow = chance.below(10) < if step < 300 { 8 } else { 2 };
                match dense.find(&key) {
                    Some(place) if !grow => {
                        assert_eq!(dense.swap_remove(place), key, "seed {seed}");
                        model.remove(&key);
                    }
                    None if grow => {
                        dense.push(key.clone());
                        model.insert(key);
                    }
                    found => assert_eq!(found.is_some(), model.contains(&key), "seed {seed}"),
                }
                if step % 50 == 0 {
                    dense.check();
                }
            }
            dense.check();
            assert!(dense.entries().iter().cloned().collect::<BTreeSet<_>>() == model, "seed {seed}");
        }
    }

    #[test]
    fn a_scan_meets_all_that_are_there_all_the_time() {
        for seed in 0..500 {
            let mut chance = Chance::new(seed);
            let mut dense = Dense::<Box<[u8]>>::default();
            let name = |number: usize| -> Box<[u8]> { number.to_string().into_bytes().into() };
            let total = 1 + chance.below(200);
            (0..total).for_each(|number| dense.push(name(number)));
            // Every third is never touched.
            let (mut met, mut cursor) = (BTreeSet::new(), 0);
            loop {
                let (step, next) = dense.scan(cursor, 1 + chance.below(7));
                met.extend(step.cloned());
                cursor = next;
                if cursor == 0 {
                    break;
                }
                for _ in 0..chance.below(6) {
                    let number = chance.below(total);
                    match dense.find(&name(number)) {
                        Some(place) if !number.is_multiple_of(3) => drop(dense.swap_remove(place)),
                        None => dense.push(name(number)),
                        Some(_) => {}
                    }
                }
            }
            assert!((0..total).step_by(3).all(|number| met.contains(&name(number))), "seed {seed}");
        }
    }

    #[test]
    fn a_sample_has_different_numbers_and_all_are_likely() {
        for (bound, count) in [(1, 1), (10, 3), (10, 4), (10, 10), (1_000, 300), (1_000, 999)] {
            let mut chance = Chance::new(bound as u64);
            let chosen = sample(&mut chance, bound, count);
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), count);
            assert!(chosen.iter().all(|&number| number < bound));
        }
        let (mut chance, mut hits) = (Chance::new(1), [0; 9]);
        for round in 0..9_000 {
            sample(&mut chance, 9, 1 + round % 5).into_iter().for_each(|number| hits[number] += 1);
        }
        assert!(hits.iter().all(|hits| (2_700..3_300).contains(hits)), "{hits:?}");
    }
}
