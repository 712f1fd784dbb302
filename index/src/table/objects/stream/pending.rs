//! What is pending: things by id, in blocks.
//!
//! ```text
//!   [ 1-0 1-1 4-0 ] [ 4-1 .. ] [ .. 9-9 ]       found by bisection, first over the blocks, then in one
//! ```
//!
//! Most come at the end and go near the front, which costs what they are; elsewhere a block is moved within, and cut in
//! two when it is full.

use std::collections::VecDeque;

use super::Id;
use crate::table::allocated;

/// How many a block holds at most.
const BLOCK: usize = 64;

/// Has an id.
pub trait Identified: Clone {
    /// It.
    fn id(&self) -> Id;
}

impl Identified for Id {
    fn id(&self) -> Id {
        *self
    }
}

/// Things by id, one of each.
#[derive(Debug)]
pub struct Pending<T> {
    blocks: VecDeque<Vec<T>>,
    len: usize,
    bytes: usize,
}

impl<T> Default for Pending<T> {
    fn default() -> Pending<T> {
        Pending { blocks: VecDeque::new(), len: 0, bytes: 0 }
    }
}

/// A copy has what it needs, and no room to grow.
impl<T: Identified + Clone> Clone for Pending<T> {
    fn clone(&self) -> Pending<T> {
        let blocks = self.blocks.clone();
        Pending { bytes: blocks.iter().map(Pending::bytes_of).sum(), blocks, len: self.len }
    }
}

impl<T: Identified> Pending<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What their allocations take.
    pub fn heap_bytes(&self) -> usize {
        self.bytes + allocated(self.blocks.capacity() * size_of::<Vec<T>>())
    }

    fn bytes_of(block: &Vec<T>) -> usize {
        allocated(block.capacity() * size_of::<T>())
    }

    /// The block in which an id would be, and the place in it.
    fn place(&self, id: Id) -> (usize, usize) {
        let block = self.blocks.partition_point(|block| block.last().is_some_and(|last| last.id() < id));
        let place = self.blocks.get(block).map_or(0, |block| block.partition_point(|it| it.id() < id));
        (block, place)
    }

    /// The one with that id.
    pub fn get(&self, id: Id) -> Option<&T> {
        let (block, place) = self.place(id);
        self.blocks.get(block)?.get(place).filter(|it| it.id() == id)
    }

    /// The same, to change it; its id stays.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let (block, place) = self.place(id);
        self.blocks.get_mut(block)?.get_mut(place).filter(|it| it.id() == id)
    }

    /// Adds one. One with its id that is there already stays, and this is not added.
    pub fn insert(&mut self, it: T) -> bool {
        let (mut block, mut place) = self.place(it.id());
        if block == self.blocks.len() {
            match self.blocks.back() {
                Some(last) if last.len() < BLOCK => (block, place) = (block - 1, last.len()),
                _ => self.blocks.push_back(Vec::new()),
            }
        } else if self.blocks[block][place].id() == it.id() {
            return false;
        }
        if self.blocks[block].len() == BLOCK {
            self.bytes -= Self::bytes_of(&self.blocks[block]);
            let upper = self.blocks[block].split_off(BLOCK / 2);
            self.bytes += Self::bytes_of(&self.blocks[block]) + Self::bytes_of(&upper);
            self.blocks.insert(block + 1, upper);
            if place > BLOCK / 2 {
                (block, place) = (block + 1, place - BLOCK / 2);
            }
        }
        self.bytes -= Self::bytes_of(&self.blocks[block]);
        self.blocks[block].insert(place, it);
        self.bytes += Self::bytes_of(&self.blocks[block]);
        self.len += 1;
        true
    }

    /// Removes the one with that id.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        let (block, place) = self.place(id);
        self.blocks.get(block)?.get(place).filter(|it| it.id() == id)?;
        let it = self.blocks[block].remove(place);
        if self.blocks[block].is_empty() {
            self.bytes -= Self::bytes_of(&self.blocks[block]);
            self.blocks.remove(block);
        }
        self.len -= 1;
        Some(it)
    }

    /// Those from an id on.
    pub fn from(&self, id: Id) -> impl Iterator<Item = &T> {
        let (block, place) = self.place(id);
        self.blocks.range(block..).flatten().skip(place)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.blocks.iter().flatten()
    }

    /// The first.
    pub fn first(&self) -> Option<&T> {
        self.blocks.front()?.first()
    }

    /// The last.
    pub fn last(&self) -> Option<&T> {
        self.blocks.back()?.last()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::table::call::Chance;

    #[test]
    fn they_are_what_a_set_would_be() {
        for seed in 0..1_000 {
            let mut chance = Chance::new(seed);
            let (mut pending, mut model) = (Pending::default(), BTreeSet::new());
            let width = 1 + chance.below(600);
            for step in 0..600 {
                let what = format!("seed {seed} step {step}");
                let id = Id { ms: chance.below(width) as u64, seq: 0 };
                match chance.below(5) {
                    0 => assert_eq!(pending.remove(id), model.take(&id), "{what}"),
                    1 if chance.below(3) == 0 => {
                        let first = model.pop_first();
                        assert_eq!(pending.first().copied(), first, "{what}");
                        assert_eq!(pending.remove(first.unwrap_or_default()), first, "{what}");
                    }
                    2 => {
                        let last = Id { ms: 1_000 + step, seq: 0 };
                        assert!(pending.insert(last) && model.insert(last), "{what}");
                    }
                    _ => assert_eq!(pending.insert(id), model.insert(id), "{what}"),
                }
                if step % 50 == 0 {
                    assert!(pending.iter().eq(model.iter()) && pending.from(id).eq(model.range(id..)), "{what}");
                    assert_eq!(pending.get(id), model.get(&id), "{what}");
                    assert_eq!((pending.len(), pending.last()), (model.len(), model.last()), "{what}");
                    let bytes: usize = pending.blocks.iter().map(|block| allocated(block.capacity() * 16)).sum();
                    let array = allocated(pending.blocks.capacity() * size_of::<Vec<Id>>());
                    assert_eq!(pending.heap_bytes(), bytes + array, "{what}");
                }
            }
        }
    }
}
