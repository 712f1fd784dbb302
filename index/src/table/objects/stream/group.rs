//! A group of consumers: how far it has read, what it has handed out, and to whom.
//!
//! ```text
//!   pending: id -> consumer (a slot), when it was handed out last, how often
//!   slots:   consumer { name, when it was seen, ids of what it holds }      order: slots by name
//! ```
//!
//! Always: an id is pending in the group if and only if it is pending with exactly one consumer, the one it names.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::pending::{Identified, Pending};
use super::{Id, packed};
use crate::table::allocated;

/// Something that was handed out and not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    /// The entry.
    pub id: Id,
    /// The slot of the consumer that has it.
    pub consumer: u32,
    /// When it was handed out last: milliseconds since 1970.
    pub time: u64,
    /// How often it was.
    pub count: u64,
}

impl Identified for Handed {
    fn id(&self) -> Id {
        self.id
    }
}

/// A member of a group.
#[derive(Debug, Clone)]
pub struct Consumer {
    name: Box<[u8]>,
    hash: u64,
    /// When it asked last.
    pub seen: u64,
    /// When it got something last.
    pub active: Option<u64>,
    pending: Pending<Id>,
}

impl Consumer {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What it has.
    pub fn pending(&self) -> &Pending<Id> {
        &self.pending
    }

    fn heap_bytes(&self) -> usize {
        allocated(size_of::<Consumer>()) + allocated(self.name.len()) + self.pending.heap_bytes()
    }

    fn sum(&self) -> u64 {
        hash(&[self.hash, self.seen, self.active.map_or(0, |active| active.wrapping_add(1))])
    }
}

fn hash<const N: usize>(words: &[u64; N]) -> u64 {
    let mut bytes = [0; 64];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64(&bytes[..N * 8])
}

/// A group.
#[derive(Debug)]
pub struct Group {
    name: Box<[u8]>,
    /// The last entry it handed out.
    pub last: Id,
    /// How many entries it has read of those that ever were, if that is known.
    pub read: Option<u64>,
    pending: Pending<Handed>,
    slots: Vec<Option<Box<Consumer>>>,
    order: Vec<u32>,
    /// Of the hashes of what is pending and of the consumers.
    sum: u64,
    /// What the consumers take.
    bytes: usize,
}

/// A copy has what it needs, and no room to grow.
impl Clone for Group {
    fn clone(&self) -> Group {
        let mut group = Group {
            name: self.name.clone(),
            pending: self.pending.clone(),
            slots: self.slots.clone(),
            order: self.order.clone(),
            ..*self
        };
        group.bytes = group.consumers().map(Consumer::heap_bytes).sum();
        group
    }
}

impl Group {
    /// Without consumers.
    pub fn new(name: &[u8], last: Id, read: Option<u64>) -> Group {
        let (slots, order) = (Vec::new(), Vec::new());
        Group { name: name.into(), last, read, pending: Pending::default(), slots, order, sum: 0, bytes: 0 }
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What is pending.
    pub fn pending(&self) -> &Pending<Handed> {
        &self.pending
    }

    /// What it takes, itself included.
    pub fn heap_bytes(&self) -> usize {
        // One that is shared is counted by each.
        allocated(size_of::<Group>() + 2 * size_of::<usize>())
            + allocated(self.name.len())
            + self.pending.heap_bytes()
            + allocated(self.slots.capacity() * size_of::<Option<Box<Consumer>>>())
            + allocated(self.order.capacity() * size_of::<u32>())
            + self.bytes
    }

    /// A hash of what it holds.
    pub fn sum(&self) -> u64 {
        let read = self.read.map_or(0, |read| read.wrapping_add(1));
        hash(&[xxh3_64(&self.name), self.last.ms, self.last.seq, read, u64::from(self.read.is_some()), self.sum])
    }

    /// The consumers, by name.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = &Consumer> {
        self.order.iter().map(|slot| self.consumer(*slot))
    }

    /// The consumer in a slot, which has one.
    pub fn consumer(&self, slot: u32) -> &Consumer {
        self.slots[slot as usize].as_deref().expect("a slot that is named has a consumer")
    }

    fn place(&self, name: &[u8]) -> Result<usize, usize> {
        self.order.binary_search_by(|slot| self.consumer(*slot).name().cmp(name))
    }

    /// The slot of a consumer.
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.place(name).ok().map(|place| self.order[place])
    }

    /// The slot of a consumer, and whether it was made.
    pub fn find_or_add(&mut self, name: &[u8], now: u64) -> (u32, bool) {
        let place = match self.place(name) {
            Ok(place) => return (self.order[place], false),
            Err(place) => place,
        };
        let consumer = Consumer {
            name: name.into(),
            hash: xxh3_64_with_seed(name, 1),
            seen: now,
            active: None,
            pending: Pending::default(),
        };
        self.sum = self.sum.wrapping_add(consumer.sum());
        self.bytes += consumer.heap_bytes();
        // Slots are only free after consumers were deleted, which few ever are.
        let free = if self.order.len() < self.slots.len() { self.slots.iter().position(Option::is_none) } else { None };
        let slot = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(Box::new(consumer));
        self.order.insert(place, slot as u32);
        (slot as u32, true)
    }

    /// Changes a consumer.
    pub fn edit<R>(&mut self, slot: u32, change: impl FnOnce(&mut Consumer) -> R) -> R {
        let consumer = self.slots[slot as usize].as_deref_mut().expect("a slot that is named has a consumer");
        let (sum, bytes) = (consumer.sum(), consumer.heap_bytes());
        let result = change(consumer);
        self.sum = self.sum.wrapping_add(consumer.sum().wrapping_sub(sum));
        self.bytes = self.bytes + consumer.heap_bytes() - bytes;
        result
    }

    fn hash_of(&self, handed: &Handed) -> u64 {
        let consumer = self.consumer(handed.consumer).hash;
        hash(&[handed.id.ms, handed.id.seq, consumer, handed.time, handed.count])
    }

    /// An entry is with a consumer from now on, whoever had it.
    pub fn hand(&mut self, handed: Handed) {
        let sum = self.hash_of(&handed);
        let before = self.pending.get_mut(handed.id).map(|found| std::mem::replace(found, handed));
        match before {
            Some(before) => {
                self.sum = self.sum.wrapping_sub(self.hash_of(&before));
                if before.consumer != handed.consumer {
                    self.edit(before.consumer, |consumer| consumer.pending.remove(before.id));
                    self.edit(handed.consumer, |consumer| consumer.pending.insert(handed.id));
                }
            }
            None => {
                self.pending.insert(handed);
                self.edit(handed.consumer, |consumer| consumer.pending.insert(handed.id));
            }
        }
        self.sum = self.sum.wrapping_add(sum);
    }

    /// An entry is not pending any more. Says whether it was.
    pub fn acknowledge(&mut self, id: Id) -> bool {
        let Some(before) = self.pending.remove(id) else { return false };
        self.sum = self.sum.wrapping_sub(self.hash_of(&before));
        self.edit(before.consumer, |consumer| consumer.pending.remove(id));
        true
    }

    /// Removes a consumer with all that it has. Says how much that was; none: there is no such consumer.
    pub fn remove(&mut self, name: &[u8]) -> Option<usize> {
        let place = self.place(name).ok()?;
        let slot = self.order[place];
        let ids: Vec<Id> = self.consumer(slot).pending.iter().copied().collect();
        for id in &ids {
            self.acknowledge(*id);
        }
        self.order.remove(place);
        let consumer = self.slots[slot as usize].take()?;
        self.sum = self.sum.wrapping_sub(consumer.sum());
        self.bytes -= consumer.heap_bytes();
        Some(ids.len())
    }

    /// Its bytes in a file.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        packed::put_bytes(out, &self.name);
        out.extend_from_slice(&self.last.bytes());
        out.push(u8::from(self.read.is_some()));
        packed::put(out, self.read.unwrap_or(0));
        packed::put(out, self.order.len() as u64);
        // Slots are numbered anew, by name.
        let mut numbers = vec![0; self.slots.len()];
        for (number, slot) in self.order.iter().enumerate() {
            numbers[*slot as usize] = number as u64;
            let consumer = self.consumer(*slot);
            packed::put_bytes(out, &consumer.name);
            packed::put(out, consumer.seen);
            out.push(u8::from(consumer.active.is_some()));
            packed::put(out, consumer.active.unwrap_or(0));
        }
        packed::put(out, self.pending.len() as u64);
        for handed in self.pending.iter() {
            out.extend_from_slice(&handed.id.bytes());
            packed::put(out, numbers[handed.consumer as usize]);
            packed::put(out, handed.time);
            packed::put(out, handed.count);
        }
    }

    /// From those bytes, off the beginning.
    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Group> {
        let name = packed::take_bytes(bytes)?;
        let last = Id::from_bytes(packed::take_array(bytes)?);
        let known = packed::take_array::<1>(bytes)? == [1];
        let read = packed::take(bytes)?;
        let mut group = Group::new(name, last, known.then_some(read));
        for number in 0..packed::take(bytes)? {
            let (name, seen) = (packed::take_bytes(bytes)?, packed::take(bytes)?);
            let known = packed::take_array::<1>(bytes)? == [1];
            let active = packed::take(bytes)?;
            // Names in order, so that the slot is the number.
            let (slot, new) = group.find_or_add(name, seen);
            if !new || u64::from(slot) != number || group.order.last() != Some(&slot) {
                return None;
            }
            group.edit(slot, |consumer| consumer.active = known.then_some(active));
        }
        for _ in 0..packed::take(bytes)? {
            let id = Id::from_bytes(packed::take_array(bytes)?);
            let (consumer, time, count) = (packed::take(bytes)?, packed::take(bytes)?, packed::take(bytes)?);
            let consumer = u32::try_from(consumer).ok().filter(|slot| (*slot as usize) < group.order.len())?;
            if group.pending.last().is_some_and(|last| last.id >= id) {
                return None;
            }
            group.hand(Handed { id, consumer, time, count });
        }
        Some(group)
    }
}

#[cfg(test)]
impl Group {
    /// The sum and the bytes, counted anew.
    pub(super) fn recount(&self) -> (u64, usize) {
        let bytes: usize = self.consumers().map(Consumer::heap_bytes).sum();
        let sum = self.consumers().fold(0u64, |sum, consumer| sum.wrapping_add(consumer.sum()));
        let sum = self.pending.iter().fold(sum, |sum, handed| sum.wrapping_add(self.hash_of(handed)));
        assert_eq!(self.pending.len(), self.consumers().map(|consumer| consumer.pending.len()).sum::<usize>());
        for handed in self.pending.iter() {
            assert!(self.consumer(handed.consumer).pending.get(handed.id).is_some());
        }
        (sum.wrapping_sub(self.sum), bytes + self.heap_bytes() - self.bytes)
    }
}
