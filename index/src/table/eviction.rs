//! Eviction: which keys make room when a cache has no more.
//!
//! ```text
//!            new key                      used meanwhile                 used again: once more round
//!   insert ----------> probation (10 %) ------------------> main (90 %) <---.
//!      |                   | not used                          |------------'
//!      |                   v                                   v not used
//!      |                 evicted, remembered for a while     evicted
//!      '- remembered -> main
//! ```
//!
//! This is S3-FIFO (Yang et al., SOSP 2023): two queues of hashes, and two bits of use on each entry, which readers set
//! without a lock of their own. The other policies look at a few keys drawn by chance, as Redis does, and take the worst.
//!
//! What is known here is no part of the state: the member that leads proposes victims, and all members remove those. Entries
//! that are in no queue, because a proposal was lost or the table came from a file, are found again when queues run dry.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// Of the keys, the part that is on probation.
const PROBATION_SHARE: usize = 10;

/// How victims are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// S3-FIFO.
    #[default]
    S3Fifo,
    /// Those that were used least lately.
    Lru,
    /// Those that were used least often.
    Lfu,
    /// Any.
    Random,
    /// Of those with a deadline, those that were used least lately.
    VolatileLru,
    /// Of those with a deadline, those that were used least often.
    VolatileLfu,
    /// Any of those with a deadline.
    VolatileRandom,
    /// Those whose deadline comes first.
    VolatileTtl,
    /// None: writes are refused instead.
    None,
}

/// Names, as Redis has them but for its own.
const POLICIES: [(Policy, &str); 9] = [
    (Policy::S3Fifo, "s3-fifo"),
    (Policy::Lru, "allkeys-lru"),
    (Policy::Lfu, "allkeys-lfu"),
    (Policy::Random, "allkeys-random"),
    (Policy::VolatileLru, "volatile-lru"),
    (Policy::VolatileLfu, "volatile-lfu"),
    (Policy::VolatileRandom, "volatile-random"),
    (Policy::VolatileTtl, "volatile-ttl"),
    (Policy::None, "noeviction"),
];

impl Policy {
    /// The policy of that name.
    pub fn named(name: &str) -> Option<Policy> {
        POLICIES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(policy, _)| *policy)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        POLICIES.iter().find(|(policy, _)| *policy == self).map_or("", |(_, name)| name)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        POLICIES.iter().map(|(_, name)| *name)
    }

    /// Whether only keys with a deadline make room.
    pub fn is_volatile(self) -> bool {
        matches!(self, Policy::VolatileLru | Policy::VolatileLfu | Policy::VolatileRandom | Policy::VolatileTtl)
    }
}

/// What makes room, and where, while a member leads. Each member has its own; it is no part of the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// How collections with a budget of their own make room.
    pub policy: Policy,
    /// A namespace with rules of its own.
    pub namespace: Option<NamespaceRoom>,
}

/// What the collections of a namespace may take together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceRoom {
    /// Which.
    pub name: String,
    /// In bytes; zero: as much as there is.
    pub bytes: u64,
    /// How they make room, with a budget of their own too. None: nothing is evicted but where a collection has one.
    pub policy: Option<Policy>,
}

impl Room {
    /// Nothing makes room.
    pub fn none() -> Room {
        Room { policy: Policy::None, namespace: None }
    }

    /// How a collection of a namespace makes room that has a budget of its own.
    pub fn policy_of(&self, namespace: &str) -> Policy {
        let own = self.namespace.as_ref().filter(|room| room.name == namespace);
        own.and_then(|room| room.policy).unwrap_or(self.policy)
    }
}

/// What becomes of the key at the head of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is not there any more.
    Gone,
    /// It was used so often since it was looked at.
    Used(u8),
}

/// The queues of S3-FIFO, by hashes of keys.
#[derive(Debug, Default)]
pub(super) struct Queues {
    probation: VecDeque<u64>,
    main: VecDeque<u64>,
    /// Those that were evicted from probation lately, the oldest first.
    remembered: VecDeque<u64>,
    remembered_set: HashTable<u64>,
}

impl Queues {
    /// A key is new.
    pub fn insert(&mut self, hash: u64) {
        if self.remembered_set.find_entry(hash, |other| *other == hash).map(|found| found.remove()).is_ok() {
            self.main.push_back(hash);
        } else {
            self.probation.push_back(hash);
        }
    }

    /// How many keys are queued, those that are gone too.
    pub fn len(&self) -> usize {
        self.probation.len() + self.main.len()
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        (self.probation.capacity() + self.main.capacity() + self.remembered.capacity()) * 8
            + self.remembered_set.allocation_size()
    }

    fn remember(&mut self, hash: u64) {
        if self.remembered_set.find(hash, |other| *other == hash).is_none() {
            self.remembered_set.insert_unique(hash, hash, |hash| *hash);
            self.remembered.push_back(hash);
        }
        while self.remembered.len() > self.main.len().max(1_024) {
            if let Some(oldest) = self.remembered.pop_front()
                && let Ok(found) = self.remembered_set.find_entry(oldest, |other| *other == oldest)
            {
                found.remove();
            }
        }
    }

    /// The next victim. `look` says what became of a key; `cool` sets how much it counts as used. None: the queues are empty.
    pub fn next(&mut self, look: impl Fn(u64) -> Fate, cool: impl Fn(u64, u8)) -> Option<u64> {
        loop {
            let of_probation = self.probation.len() >= (self.len() / PROBATION_SHARE).max(1) || self.main.is_empty();
            if of_probation && let Some(hash) = self.probation.pop_front() {
                match look(hash) {
                    Fate::Gone => {}
                    Fate::Used(0 | 1) => {
                        self.remember(hash);
                        return Some(hash);
                    }
                    Fate::Used(_) => {
                        cool(hash, 0);
                        self.main.push_back(hash);
                    }
                }
                continue;
            }
            let hash = self.main.pop_front()?;
            match look(hash) {
                Fate::Gone => {}
                Fate::Used(0) => return Some(hash),
                Fate::Used(used) => {
                    cool(hash, used - 1);
                    self.main.push_back(hash);
                }
            }
        }
    }

    /// Forgets keys that are gone, or queued twice because they went and came again, once there are many.
    pub fn tidy(&mut self, keys: usize, there: impl Fn(u64) -> bool) {
        if self.len() <= keys * 2 + 4_096 {
            return;
        }
        let mut seen = HashTable::with_capacity(keys);
        let mut keep = |hash: &u64| {
            let new = there(*hash) && seen.find(*hash, |other| other == hash).is_none();
            if new {
                seen.insert_unique(*hash, *hash, |hash| *hash);
            }
            new
        };
        self.main.retain(&mut keep);
        self.probation.retain(&mut keep);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::table::call::Chance;

    /// A cache of so many keys, all alike.
    struct Cache {
        room: usize,
        used: RefCell<BTreeMap<u64, u8>>,
        queues: Queues,
    }

    impl Cache {
        fn get(&mut self, key: u64) -> bool {
            if let Some(used) = self.used.borrow_mut().get_mut(&key) {
                *used = (*used + 1).min(3);
                return true;
            }
            while self.used.borrow().len() >= self.room {
                let look = |hash| self.used.borrow().get(&hash).map_or(Fate::Gone, |used| Fate::Used(*used));
                let cool = |hash, used| {
                    self.used.borrow_mut().insert(hash, used);
                };
                let victim = self.queues.next(look, cool).expect("there are keys");
                self.used.borrow_mut().remove(&victim);
            }
            self.used.borrow_mut().insert(key, 0);
            self.queues.insert(key);
            false
        }
    }

    #[test]
    fn keys_that_are_used_outlive_a_scan() {
        let mut cache = Cache { room: 1_000, used: RefCell::default(), queues: Queues::default() };
        let mut chance = Chance::new(1);
        let mut hits = 0;
        for round in 0..200_000u64 {
            // Nine of ten look at a few hundred keys; the tenth at one that nobody looks at again.
            if round % 10 == 0 {
                cache.get(1 << 40 | round);
            } else {
                hits += usize::from(cache.get(chance.below(800) as u64));
            }
        }
        assert!(hits > 175_000, "{hits} of 180000");
        assert!(cache.queues.len() <= 1_001 && cache.queues.remembered.len() <= 1_024 + 1);
    }

    #[test]
    fn names_are_understood() {
        for (policy, name) in POLICIES {
            assert_eq!((Policy::named(&name.to_ascii_uppercase()), policy.name()), (Some(policy), name));
        }
        assert_eq!(Policy::named("best"), None);
    }
}
