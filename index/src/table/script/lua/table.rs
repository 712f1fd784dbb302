//! Tables: an array for the keys 1, 2, 3 and so on, and nodes in chains for all others.
//!
//! Sizes, places and growth follow the published algorithm of Lua 5.1, so that a table is walked in the order that Redis walks
//! it in. A key's place comes from its content, or from the number of the object in its run; never from an address.

use super::heap::Texts;
use super::value::Value;

/// Array parts end here.
const ARRAY_BITS: usize = 26;
/// What a table costs, its elements aside, for the memory budget.
pub const TABLE_BYTES: usize = 64;
pub const SLOT_BYTES: usize = 16;
pub const NODE_BYTES: usize = 40;

#[derive(Clone, Copy, Debug)]
struct Node {
    key: Value,
    value: Value,
    hash: u32,
    /// The next of the chain, plus one; 0 ends it.
    next: u32,
}

const EMPTY: Node = Node { key: Value::Nil, value: Value::Nil, hash: 0, next: 0 };

/// A table of a script.
#[derive(Default, Debug)]
pub struct Table {
    array: Vec<Value>,
    nodes: Vec<Node>,
    /// No node from here on is free.
    last_free: usize,
    pub meta: Option<u32>,
    pub readonly: bool,
}

/// A key and where it belongs.
#[derive(Clone, Copy)]
pub struct Key {
    pub value: Value,
    pub hash: u32,
}

/// Why a value cannot be a key.
pub enum KeyError {
    Nil,
    Nan,
}

impl Key {
    pub fn new(value: Value, texts: &Texts) -> Key {
        let hash = match value {
            Value::Nil => 0,
            Value::Bool(value) => u32::from(value),
            Value::Number(0.0) => 0,
            Value::Number(number) => {
                let bits = number.to_bits();
                (bits as u32).wrapping_add((bits >> 32) as u32)
            }
            Value::Text(text) => texts.hash(text),
            Value::Table(object) | Value::Function(object) | Value::Thread(object) => object.wrapping_mul(8),
            Value::Native(object) => u32::from(object).wrapping_mul(8),
            Value::Null => 0,
        };
        Key { value, hash }
    }
}

fn same(texts: &Texts, node: &Node, key: Key) -> bool {
    match (node.key, key.value) {
        (Value::Text(a), Value::Text(b)) => a == b || (node.hash == key.hash && texts.equal(a, b)),
        (a, b) => a.is(b),
    }
}

/// The index in the array part that a key stands for, from 1.
fn array_index(key: Value) -> Option<usize> {
    match key {
        Value::Number(number) => {
            let index = number as u32;
            (f64::from(index) == number && index >= 1 && index as usize <= 1 << ARRAY_BITS).then_some(index as usize)
        }
        _ => None,
    }
}

fn log2_up(number: usize) -> usize {
    if number <= 1 { 0 } else { (usize::BITS - (number - 1).leading_zeros()) as usize }
}

impl Table {
    pub fn with_sizes(array: usize, hash: usize) -> Table {
        let mut table = Table::default();
        table.array.resize(array, Value::Nil);
        table.set_nodes(hash);
        table
    }

    /// For the memory budget.
    pub fn bytes(&self) -> usize {
        TABLE_BYTES + self.array.len() * SLOT_BYTES + self.nodes.len() * NODE_BYTES
    }

    /// How many places there are to walk through.
    pub fn places(&self) -> usize {
        self.array.len() + self.nodes.len()
    }

    /// Of the array and of the nodes.
    pub fn sizes(&self) -> (usize, usize) {
        (self.array.len(), self.nodes.len())
    }

    fn set_nodes(&mut self, count: usize) {
        let count = if count == 0 { 0 } else { 1 << log2_up(count) };
        self.nodes.clear();
        self.nodes.resize(count, EMPTY);
        self.last_free = count;
    }

    #[inline]
    fn main_place(&self, key: Value, hash: u32) -> usize {
        let size = self.nodes.len();
        match key {
            Value::Text(_) | Value::Bool(_) => hash as usize & (size - 1),
            Value::Number(0.0) => 0,
            _ => hash as usize % ((size - 1) | 1),
        }
    }

    /// The node with this key, and how many were looked at.
    #[inline]
    fn find(&self, texts: &Texts, key: Key) -> (Option<usize>, u32) {
        if self.nodes.is_empty() {
            return (None, 0);
        }
        let mut at = self.main_place(key.value, key.hash);
        let mut looks = 1;
        loop {
            let node = &self.nodes[at];
            if same(texts, node, key) {
                return (Some(at), looks);
            }
            if node.next == 0 {
                return (None, looks);
            }
            at = node.next as usize - 1;
            looks += 1;
        }
    }

    /// The value of a key, and how many places were looked at.
    #[inline]
    pub fn get(&self, texts: &Texts, key: Value) -> (Value, u32) {
        if let Value::Number(number) = key {
            let index = number as usize;
            if index.wrapping_sub(1) < self.array.len() && index as f64 == number {
                return (self.array[index - 1], 0);
            }
        }
        if matches!(key, Value::Nil) {
            return (Value::Nil, 0);
        }
        let (found, looks) = self.find(texts, Key::new(key, texts));
        (found.map_or(Value::Nil, |at| self.nodes[at].value), looks)
    }

    pub fn get_index(&self, texts: &Texts, index: usize) -> Value {
        match self.array.get(index.wrapping_sub(1)) {
            Some(value) => *value,
            None => self.get(texts, Value::Number(index as f64)).0,
        }
    }

    /// Sets a key whose place exists, and says whether it did, and how many places were looked at.
    #[inline]
    pub fn replace(&mut self, texts: &Texts, key: Value, value: Value) -> (bool, u32) {
        if let Value::Number(number) = key {
            let index = number as usize;
            if index.wrapping_sub(1) < self.array.len() && index as f64 == number {
                self.array[index - 1] = value;
                return (true, 0);
            }
        }
        let (found, looks) = self.find(texts, Key::new(key, texts));
        if let Some(at) = found {
            self.nodes[at].value = value;
        }
        (found.is_some(), looks)
    }

    pub fn check(key: Value) -> Result<(), KeyError> {
        match key {
            Value::Nil => Err(KeyError::Nil),
            Value::Number(number) if number.is_nan() => Err(KeyError::Nan),
            _ => Ok(()),
        }
    }

    /// Sets a key that has passed [`Table::check`]. Gives what it cost, in places moved or looked at.
    pub fn set(&mut self, texts: &Texts, key: Value, value: Value) -> u32 {
        let (done, looks) = self.replace(texts, key, value);
        if done || matches!(value, Value::Nil) {
            return looks;
        }
        looks + self.insert(texts, Key::new(key, texts), value)
    }

    fn free_place(&mut self) -> Option<usize> {
        while self.last_free > 0 {
            self.last_free -= 1;
            if matches!(self.nodes[self.last_free].key, Value::Nil) {
                return Some(self.last_free);
            }
        }
        None
    }

    /// A key that is not there yet.
    fn insert(&mut self, texts: &Texts, key: Key, value: Value) -> u32 {
        if self.nodes.is_empty() {
            return self.grow(texts, key, value);
        }
        let mut place = self.main_place(key.value, key.hash);
        let mut cost = 1;
        if !matches!(self.nodes[place].value, Value::Nil) {
            let before = self.last_free;
            let Some(free) = self.free_place() else {
                return self.grow(texts, key, value);
            };
            cost += (before - free) as u32;
            let taken = self.nodes[place];
            let mut other = self.main_place(taken.key, taken.hash);
            if other == place {
                // The one that is there is at home: the new one goes to the free place.
                self.nodes[free].next = taken.next;
                self.nodes[place].next = free as u32 + 1;
                place = free;
            } else {
                while self.nodes[other].next as usize != place + 1 {
                    other = self.nodes[other].next as usize - 1;
                    cost += 1;
                }
                self.nodes[other].next = free as u32 + 1;
                self.nodes[free] = taken;
                self.nodes[place].next = 0;
            }
        }
        let node = &mut self.nodes[place];
        node.key = key.value;
        node.hash = key.hash;
        node.value = value;
        cost
    }

    fn grow(&mut self, texts: &Texts, key: Key, value: Value) -> u32 {
        let mut counts = [0_usize; ARRAY_BITS + 1];
        // Slice `bit` holds the indexes above half of 1 << bit.
        let mut in_array = 0;
        for (index, slot) in (1..).zip(&self.array) {
            if !matches!(slot, Value::Nil) {
                counts[log2_up(index)] += 1;
                in_array += 1;
            }
        }
        let mut total = in_array;
        let mut numbers = in_array;
        for node in self.nodes.iter().rev() {
            if !matches!(node.value, Value::Nil) {
                if let Some(index) = array_index(node.key) {
                    counts[log2_up(index)] += 1;
                    numbers += 1;
                }
                total += 1;
            }
        }
        if let Some(index) = array_index(key.value) {
            counts[log2_up(index)] += 1;
            numbers += 1;
        }
        total += 1;
        let (mut size, mut used) = (0, 0);
        let mut sum = 0;
        for (bit, count) in counts.iter().enumerate() {
            let whole = 1 << bit;
            if whole / 2 >= numbers {
                break;
            }
            if *count > 0 {
                sum += count;
                if sum > whole / 2 {
                    (size, used) = (whole, sum);
                }
            }
            if sum == numbers {
                break;
            }
        }
        let moved = self.places() as u32;
        self.resize(texts, size, total - used);
        moved + 1 + self.set(texts, key.value, value)
    }

    pub fn resize(&mut self, texts: &Texts, array: usize, hash: usize) {
        let nodes = std::mem::take(&mut self.nodes);
        self.set_nodes(hash);
        let beyond = if array < self.array.len() { self.array.split_off(array) } else { Vec::new() };
        self.array.shrink_to(array);
        self.array.resize(array, Value::Nil);
        for (index, value) in (array + 1..).zip(beyond) {
            if !matches!(value, Value::Nil) {
                self.set(texts, Value::Number(index as f64), value);
            }
        }
        for node in nodes.into_iter().rev() {
            if !matches!(node.value, Value::Nil) {
                let key = Key { value: node.key, hash: node.hash };
                let (done, _) = self.replace(texts, key.value, node.value);
                if !done {
                    self.insert(texts, key, node.value);
                }
            }
        }
    }

    /// Whether a new key finds a place without growth.
    pub fn has_room(&self, texts: &Texts, key: Value) -> bool {
        if self.nodes.is_empty() {
            return false;
        }
        let place = self.main_place(key, Key::new(key, texts).hash);
        matches!(self.nodes[place].value, Value::Nil)
            || self.nodes[..self.last_free].iter().any(|node| matches!(node.key, Value::Nil))
    }

    /// A border: an index with a value whose successor has none.
    pub fn len(&self, texts: &Texts) -> usize {
        let is_nil = |index: usize| matches!(self.get_index(texts, index), Value::Nil);
        let between = |mut low: usize, mut high: usize| {
            while high - low > 1 {
                let middle = low.midpoint(high);
                if is_nil(middle) {
                    high = middle;
                } else {
                    low = middle;
                }
            }
            low
        };
        let size = self.array.len();
        if size > 0 && matches!(self.array[size - 1], Value::Nil) {
            return between(0, size);
        }
        if self.nodes.is_empty() {
            return size;
        }
        let (mut low, mut high) = (size, size + 1);
        while !is_nil(high) {
            low = high;
            high *= 2;
            if high > 1 << 31 {
                return low;
            }
        }
        between(low, high)
    }

    /// The place after `key` in the walk; nothing if the key is not in the table. And what finding it cost.
    pub fn place_after(&self, texts: &Texts, key: Value) -> Option<usize> {
        match key {
            Value::Nil => Some(0),
            Value::Number(number) if array_index(key).is_some_and(|index| index <= self.array.len()) => {
                Some(number as usize)
            }
            _ => self.find(texts, Key::new(key, texts)).0.map(|at| self.array.len() + at + 1),
        }
    }

    /// The first pair at `place` or behind it, and its place.
    pub fn pair_from(&self, mut place: usize) -> Option<(usize, Value, Value)> {
        while place < self.array.len() {
            if !matches!(self.array[place], Value::Nil) {
                return Some((place, Value::Number((place + 1) as f64), self.array[place]));
            }
            place += 1;
        }
        loop {
            let node = self.nodes.get(place - self.array.len())?;
            if !matches!(node.value, Value::Nil) {
                return Some((place, node.key, node.value));
            }
            place += 1;
        }
    }

    /// Every key and value, of removed pairs the key alone: it still tells a walk where it was.
    pub fn every(&self) -> impl Iterator<Item = Value> + '_ {
        self.array.iter().copied().chain(self.nodes.iter().flat_map(|node| [node.key, node.value]))
    }
}
