//! Tags: what keys depend on, so that all that depends on something can go at once.
//!
//! ```text
//!   key  --find--> [ (tag, place among its keys) .. ]        keys and tags are numbered; a number that is free is used again
//!   tag  --find--> [ (key, place among its tags) .. ]
//! ```
//!
//! It stands beside the keys, so that those without tags take no more room for it.
//!
//! Always: what is said of a key is said of its tags, and the other way round; a key without tags, or a tag without keys, is not
//! there. The sum is a function of which key has which tags alone.

use hashbrown::HashTable;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::allocated;

/// One end of a tie between a key and a tag.
#[derive(Clone, Copy)]
struct Tie {
    /// The number of the other end, and the place there.
    other: u32,
    place: u32,
}

struct Node {
    name: Box<[u8]>,
    ties: Vec<Tie>,
}

/// Things by number and by name.
#[derive(Default)]
struct Nodes {
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    /// Of names and ties.
    bytes: usize,
}

impl Nodes {
    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.by_name.find(hash, |number| *self.nodes[*number as usize].name == *name).copied()
    }

    fn find_or_add(&mut self, hash: u64, name: &[u8], seed: u64) -> u32 {
        if let Some(number) = self.find(hash, name) {
            return number;
        }
        let node = Node { name: name.into(), ties: Vec::new() };
        self.bytes += allocated(name.len());
        let number = match self.free.pop() {
            Some(number) => {
                self.nodes[number as usize] = node;
                number
            }
            None => {
                self.nodes.push(node);
                // Far more than there is memory for.
                u32::try_from(self.nodes.len() - 1).expect("there are fewer than four billion names")
            }
        };
        let nodes = &self.nodes;
        self.by_name.insert_unique(hash, number, |number| xxh3_64_with_seed(&nodes[*number as usize].name, seed));
        number
    }

    fn push(&mut self, number: u32, tie: Tie) -> u32 {
        let ties = &mut self.nodes[number as usize].ties;
        let before = allocated(ties.capacity() * size_of::<Tie>());
        ties.push(tie);
        self.bytes += allocated(ties.capacity() * size_of::<Tie>()) - before;
        (ties.len() - 1) as u32
    }

    /// Removes a tie, and says which one took its place.
    fn remove(&mut self, number: u32, place: u32) -> Option<Tie> {
        let ties = &mut self.nodes[number as usize].ties;
        ties.swap_remove(place as usize);
        ties.get(place as usize).copied()
    }

    fn drop_if_alone(&mut self, number: u32, seed: u64) {
        let node = &mut self.nodes[number as usize];
        if !node.ties.is_empty() {
            return;
        }
        let node = std::mem::replace(node, Node { name: Box::default(), ties: Vec::new() });
        self.bytes -= allocated(node.name.len()) + allocated(node.ties.capacity() * size_of::<Tie>());
        let hash = xxh3_64_with_seed(&node.name, seed);
        if let Ok(found) = self.by_name.find_entry(hash, |known| *known == number) {
            found.remove();
        }
        self.free.push(number);
    }

    fn len(&self) -> usize {
        self.by_name.len()
    }

    fn all_bytes(&self) -> usize {
        let slots = allocated(self.nodes.capacity() * size_of::<Node>());
        self.bytes
            + slots
            + allocated(self.free.capacity() * size_of::<u32>())
            + allocated(self.by_name.allocation_size())
    }
}

/// Which keys have which tags.
pub(super) struct Tags {
    seed: u64,
    keys: Nodes,
    tags: Nodes,
    sum: u128,
}

impl Tags {
    pub fn new(seed: u64) -> Tags {
        Tags { seed, keys: Nodes::default(), tags: Nodes::default(), sum: 0 }
    }

    fn hash(&self, name: &[u8]) -> u64 {
        xxh3_64_with_seed(name, self.seed)
    }

    /// Of one key that has one tag.
    fn sum_of(&self, key: &[u8], tag: &[u8]) -> u128 {
        xxh3_128_with_seed(tag, self.hash(key) ^ 2)
    }

    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// The same, computed anew.
    pub fn sum_anew(&self) -> u128 {
        let ties = self.keys.nodes.iter().flat_map(|node| node.ties.iter().map(move |tie| (&node.name, tie.other)));
        ties.fold(0, |sum, (key, tag)| sum.wrapping_add(self.sum_of(key, &self.tags.nodes[tag as usize].name)))
    }

    pub fn bytes(&self) -> usize {
        self.keys.all_bytes() + self.tags.all_bytes()
    }

    /// How many keys have tags.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The tags of a key, in no order that means anything.
    pub fn of(&self, key: &[u8]) -> impl Iterator<Item = &[u8]> {
        let node = self.keys.find(self.hash(key), key).map(|number| &self.keys.nodes[number as usize]);
        node.into_iter().flat_map(|node| &node.ties).map(|tie| &*self.tags.nodes[tie.other as usize].name)
    }

    /// The keys with a tag, in no order that means anything.
    pub fn keys(&self, tag: &[u8]) -> impl Iterator<Item = &[u8]> {
        let node = self.tags.find(self.hash(tag), tag).map(|number| &self.tags.nodes[number as usize]);
        node.into_iter().flat_map(|node| &node.ties).map(|tie| &*self.keys.nodes[tie.other as usize].name)
    }

    /// Whether a key has a tag.
    pub fn has(&self, key: &[u8], tag: &[u8]) -> bool {
        self.of(key).any(|known| known == tag)
    }

    /// Gives a key a tag; says whether it had none of that name.
    pub fn add(&mut self, key: &[u8], tag: &[u8]) -> bool {
        if self.has(key, tag) {
            return false;
        }
        self.sum = self.sum.wrapping_add(self.sum_of(key, tag));
        let (key_hash, tag_hash) = (self.hash(key), self.hash(tag));
        let key = self.keys.find_or_add(key_hash, key, self.seed);
        let tag = self.tags.find_or_add(tag_hash, tag, self.seed);
        let place = self.tags.nodes[tag as usize].ties.len() as u32;
        let own = self.keys.push(key, Tie { other: tag, place });
        self.tags.push(tag, Tie { other: key, place: own });
        true
    }

    /// Takes a tag from a key; says whether it had it.
    pub fn remove(&mut self, key: &[u8], tag: &[u8]) -> bool {
        let Some(key) = self.keys.find(self.hash(key), key) else { return false };
        let Some(tag) = self.tags.find(self.hash(tag), tag) else { return false };
        let Some(place) = self.keys.nodes[key as usize].ties.iter().position(|tie| tie.other == tag) else {
            return false;
        };
        self.cut(key, place as u32);
        self.keys.drop_if_alone(key, self.seed);
        true
    }

    /// Takes all tags from a key; says whether it had any.
    pub fn clear(&mut self, key: &[u8]) -> bool {
        let Some(number) = self.keys.find(self.hash(key), key) else { return false };
        for place in (0..self.keys.nodes[number as usize].ties.len() as u32).rev() {
            self.cut(number, place);
        }
        self.keys.drop_if_alone(number, self.seed);
        true
    }

    /// Removes a tie of a key from both its ends.
    fn cut(&mut self, key: u32, place: u32) {
        let tie = self.keys.nodes[key as usize].ties[place as usize];
        let (key_name, tag_name) = (&self.keys.nodes[key as usize].name, &self.tags.nodes[tie.other as usize].name);
        self.sum = self.sum.wrapping_sub(self.sum_of(key_name, tag_name));
        if let Some(moved) = self.keys.remove(key, place) {
            self.tags.nodes[moved.other as usize].ties[moved.place as usize].place = place;
        }
        if let Some(moved) = self.tags.remove(tie.other, tie.place) {
            self.keys.nodes[moved.other as usize].ties[moved.place as usize].place = tie.place;
        }
        self.tags.drop_if_alone(tie.other, self.seed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::table::call::Chance;

    fn check(tags: &Tags, model: &BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>, seed: u64) {
        let mut by_tag: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
        for (key, all) in model {
            let found: Vec<&[u8]> = tags.of(key).collect();
            let set: BTreeSet<&[u8]> = found.iter().copied().collect();
            assert_eq!(set, all.iter().map(|tag| &tag[..]).collect(), "seed {seed}");
            assert_eq!(set.len(), found.len(), "seed {seed}: each once");
            for tag in all {
                by_tag.entry(tag).or_default().insert(key);
            }
        }
        for tag in 0..20u8 {
            let found: BTreeSet<&[u8]> = tags.keys(&[b't', tag]).collect();
            let expected = by_tag.get(&[b't', tag][..]).cloned().unwrap_or_default();
            assert_eq!(found, expected, "seed {seed}");
        }
        assert_eq!(tags.len(), model.values().filter(|all| !all.is_empty()).count(), "seed {seed}");
        assert_eq!(tags.sum(), tags.sum_anew(), "seed {seed}");
        let mut bytes = 0;
        for nodes in [&tags.keys, &tags.tags] {
            let live = nodes.by_name.iter().map(|number| &nodes.nodes[*number as usize]);
            bytes += live
                .map(|node| allocated(node.name.len()) + allocated(node.ties.capacity() * size_of::<Tie>()))
                .sum::<usize>();
        }
        assert_eq!(bytes, tags.keys.bytes + tags.tags.bytes, "seed {seed}");
    }

    #[test]
    fn keys_and_tags_are_what_a_map_of_sets_says() {
        for seed in 0..300 {
            let mut chance = Chance::new(seed);
            let (mut tags, mut model) = (Tags::new(7), BTreeMap::<Vec<u8>, BTreeSet<Vec<u8>>>::new());
            for _ in 0..chance.below(200) {
                let key = vec![b'k', chance.below(12) as u8];
                let tag = vec![b't', chance.below(20) as u8];
                match chance.below(5) {
                    0..3 => {
                        let new = model.entry(key.clone()).or_default().insert(tag.clone());
                        assert_eq!(tags.add(&key, &tag), new, "seed {seed}");
                    }
                    3 => {
                        let had = model.get_mut(&key).is_some_and(|all| all.remove(&tag));
                        assert_eq!(tags.remove(&key, &tag), had, "seed {seed}");
                    }
                    _ => {
                        let had = model.remove(&key).is_some_and(|all| !all.is_empty());
                        assert_eq!(tags.clear(&key), had, "seed {seed}");
                    }
                }
                check(&tags, &model, seed);
            }
            let mut other = Tags::new(7);
            for (key, all) in model.iter().rev() {
                for tag in all.iter().rev() {
                    other.add(key, tag);
                }
            }
            assert_eq!(other.sum(), tags.sum(), "seed {seed}: whatever the order");
            for key in model.keys() {
                tags.clear(key);
            }
            assert_eq!((tags.is_empty(), tags.sum(), tags.keys.bytes + tags.tags.bytes), (true, 0, 0), "seed {seed}");
        }
    }
}
