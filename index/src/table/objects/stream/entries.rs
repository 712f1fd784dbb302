//! The entries of a stream: packed into blocks, in the order of their ids.
//!
//! ```text
//!   blocks:  [ 100-0 .. 107-2 ] [ 107-3 .. 230-0 ] [ 230-1 ..          <- appended to the last
//!               |
//!               '-- names (of the block's first entry), then its entries one after the other:
//!                   length, ms after the block's, seq, how many fields * 2 + whether they have the block's names,
//!                   then names and values, or only values
//! ```
//!
//! A block takes at most [`BLOCK_ENTRIES`] entries and about [`BLOCK_BYTES`] bytes; an entry is found by bisection over the
//! blocks and a walk through one. Entries usually have the same names, which a block then keeps once.
//!
//! A copy shares the blocks until one of the two changes them: a script that adds an entry to a long stream, of which a copy is kept lest
//! it all has to be taken back, copies one block. So what blocks have allocated depends on the copies that there were.
//!
//! Always: blocks are not empty and in order; how they are cut is a function of what was done to them, and is kept in a
//! file, because trimming by whole blocks shows it.

use std::collections::VecDeque;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Id;
use super::packed;
use crate::table::allocated;

/// The most entries that a block ever takes.
pub const BLOCK_ENTRIES: u32 = 100;
/// A block that would have so many bytes with the next entry takes no more, unless it is its first.
pub const BLOCK_BYTES: usize = 4096;

/// Entries, in the order of their ids.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    blocks: VecDeque<Arc<Block>>,
    len: usize,
    /// Of the hashes of all entries.
    sum: u64,
    /// What the blocks take, the array of them apart.
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Block {
    /// The id of the first entry it ever took.
    base: Id,
    /// The id of the last entry it ever took.
    last: Id,
    /// How many entries it has.
    count: u32,
    /// How many it ever took.
    taken: u32,
    sum: u64,
    names: Box<[u8]>,
    bytes: Vec<u8>,
}

/// An entry as it stands in its block.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'e> {
    /// Its id.
    pub id: Id,
    /// How many fields it has.
    pub len: usize,
    /// Names, one after the other, if they are not among the values.
    names: Option<&'e [u8]>,
    values: &'e [u8],
}

impl<'e> Entry<'e> {
    /// Its fields: names and values.
    pub fn fields(&self) -> impl Iterator<Item = (&'e [u8], &'e [u8])> {
        let (mut names, mut values) = (self.names, self.values);
        let mut next = move || {
            let name = match &mut names {
                Some(names) => packed::take_bytes(names)?,
                None => packed::take_bytes(&mut values)?,
            };
            Some((name, packed::take_bytes(&mut values)?))
        };
        (0..self.len).map_while(move |_| next())
    }

    fn hash(&self) -> u64 {
        let fields = self.fields();
        fields.fold(hash_of_id(self.id), |hash, (name, value)| hash_of_field(hash, name, value))
    }
}

fn hash_of_id(id: Id) -> u64 {
    xxh3_64_with_seed(&id.bytes(), 0)
}

fn hash_of_field(hash: u64, name: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64_with_seed(name, hash))
}

/// The head of an entry in a block, and where it ends.
struct Head<'b> {
    ms: u64,
    seq: u64,
    fields: u64,
    values: &'b [u8],
}

/// Takes an entry off the beginning of a block's bytes.
fn take_head<'b>(bytes: &mut &'b [u8]) -> Option<Head<'b>> {
    let mut entry = packed::take_bytes(bytes)?;
    let (ms, seq) = (packed::take(&mut entry)?, packed::take(&mut entry)?);
    Some(Head { ms, seq, fields: packed::take(&mut entry)?, values: entry })
}

impl Block {
    fn new(id: Id, fields: &[&[u8]]) -> Block {
        let mut names = Vec::new();
        fields.chunks_exact(2).for_each(|field| packed::put_bytes(&mut names, field[0]));
        Block { base: id, last: id, count: 0, taken: 0, sum: 0, names: names.into(), bytes: Vec::new() }
    }

    fn heap_bytes(&self) -> usize {
        // Shared blocks are counted by each.
        allocated(size_of::<Block>() + 2 * size_of::<usize>())
            + allocated(self.names.len())
            + allocated(self.bytes.capacity())
    }

    fn has_names(&self, fields: &[&[u8]]) -> bool {
        let mut names = &self.names[..];
        fields.chunks_exact(2).all(|field| packed::take_bytes(&mut names) == Some(field[0])) && names.is_empty()
    }

    fn push(&mut self, id: Id, fields: &[&[u8]]) {
        let same = self.has_names(fields);
        let words = || fields.iter().enumerate().filter(|(place, _)| !same || place % 2 == 1).map(|(_, word)| *word);
        let ms = id.ms - self.base.ms;
        let kind = (fields.len() / 2 * 2 + usize::from(same)) as u64;
        let head = packed::len(ms) + packed::len(id.seq) + packed::len(kind);
        let len = head + words().map(|word| packed::len(word.len() as u64) + word.len()).sum::<usize>();
        packed::put(&mut self.bytes, len as u64);
        [ms, id.seq, kind].into_iter().for_each(|number| packed::put(&mut self.bytes, number));
        words().for_each(|word| packed::put_bytes(&mut self.bytes, word));
        let hash = fields.chunks_exact(2).fold(hash_of_id(id), |hash, field| hash_of_field(hash, field[0], field[1]));
        self.sum = self.sum.wrapping_add(hash);
        self.last = id;
        self.count += 1;
        self.taken += 1;
    }

    fn iter(&self) -> Walk<'_> {
        Walk { block: self, rest: &self.bytes }
    }

    /// Removes what lies between two places, one entry or several from the front.
    fn cut(&mut self, range: std::ops::Range<usize>) {
        self.bytes.drain(range);
        if self.bytes.capacity() > 2 * self.bytes.len() + 64 {
            self.bytes.shrink_to_fit();
        }
    }
}

/// Walks through a block.
struct Walk<'b> {
    block: &'b Block,
    rest: &'b [u8],
}

impl<'b> Walk<'b> {
    /// How many bytes lie before what comes next.
    fn at(&self) -> usize {
        self.block.bytes.len() - self.rest.len()
    }
}

impl<'b> Iterator for Walk<'b> {
    type Item = Entry<'b>;

    fn next(&mut self) -> Option<Entry<'b>> {
        let head = take_head(&mut self.rest)?;
        let id = Id { ms: self.block.base.ms + head.ms, seq: head.seq };
        let names = (head.fields & 1 == 1).then_some(&self.block.names[..]);
        Some(Entry { id, len: (head.fields >> 1) as usize, names, values: head.values })
    }
}

impl Entries {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// A hash of them.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// What their allocations take.
    pub fn heap_bytes(&self) -> usize {
        self.bytes + allocated(self.blocks.capacity() * size_of::<Arc<Block>>())
    }

    /// Adds one at the end. Its id is greater than all that ever were; `fields` are names and values in turn.
    pub fn push(&mut self, id: Id, fields: &[&[u8]]) {
        let more: usize = fields.iter().map(|word| word.len()).sum();
        let fits =
            |block: &Block| block.taken < BLOCK_ENTRIES && block.names.len() + block.bytes.len() + more < BLOCK_BYTES;
        match self.blocks.back_mut() {
            Some(block) if fits(block) => self.bytes -= block.heap_bytes(),
            last => {
                if let Some(full) = last {
                    self.bytes -= full.heap_bytes();
                    Arc::make_mut(full).bytes.shrink_to_fit();
                    self.bytes += full.heap_bytes();
                }
                self.blocks.push_back(Arc::new(Block::new(id, fields)));
            }
        }
        let block = Arc::make_mut(self.blocks.back_mut().expect("it was pushed if there was none"));
        let before = block.sum;
        block.push(id, fields);
        self.sum = self.sum.wrapping_add(block.sum.wrapping_sub(before));
        self.bytes += block.heap_bytes();
        self.len += 1;
    }

    /// There will be ids again after this one, which no entry is beyond: those of entries that are gone are forgotten.
    pub fn lower(&mut self, last: Id) {
        if let Some(block) = self.blocks.back_mut() {
            let before = block.heap_bytes();
            let block = Arc::make_mut(block);
            block.last = block.last.min(last);
            self.bytes = self.bytes + block.heap_bytes() - before;
        }
    }

    /// No entry ever came after this one, as far as is known.
    pub fn end(&self) -> Option<Id> {
        self.blocks.back().map(|block| block.last)
    }

    /// The block in which an id would be.
    fn place(&self, id: Id) -> usize {
        self.blocks.partition_point(|block| block.last < id)
    }

    /// The entry with that id.
    pub fn get(&self, id: Id) -> Option<Entry<'_>> {
        self.blocks.get(self.place(id))?.iter().take_while(|entry| entry.id <= id).find(|entry| entry.id == id)
    }

    /// The first.
    pub fn first(&self) -> Option<Entry<'_>> {
        self.blocks.front()?.iter().next()
    }

    /// The last.
    pub fn last(&self) -> Option<Entry<'_>> {
        self.blocks.back()?.iter().last()
    }

    /// Those from one id to another, both included.
    pub fn range(&self, from: Id, to: Id) -> impl Iterator<Item = Entry<'_>> {
        let entries = self.blocks.range(self.place(from)..).flat_map(|block| block.iter());
        entries.skip_while(move |entry| entry.id < from).take_while(move |entry| entry.id <= to)
    }

    /// The same, the last first.
    pub fn range_back(&self, from: Id, to: Id) -> impl Iterator<Item = Entry<'_>> {
        let end = (self.place(to) + 1).min(self.blocks.len());
        let blocks = self.blocks.range(..end).rev();
        let entries = blocks.flat_map(|block| block.iter().collect::<Vec<_>>().into_iter().rev());
        entries.skip_while(move |entry| entry.id > to).take_while(move |entry| entry.id >= from)
    }

    /// Removes the one with that id, and says whether it was there.
    pub fn remove(&mut self, id: Id) -> bool {
        let place = self.place(id);
        let Some(block) = self.blocks.get_mut(place) else { return false };
        let mut walk = block.iter();
        let (range, hash) = loop {
            let start = walk.at();
            match walk.next() {
                Some(entry) if entry.id == id => break (start..walk.at(), entry.hash()),
                Some(entry) if entry.id < id => {}
                _ => return false,
            }
        };
        self.bytes -= block.heap_bytes();
        let block = Arc::make_mut(block);
        block.cut(range);
        block.count -= 1;
        block.sum = block.sum.wrapping_sub(hash);
        self.bytes += block.heap_bytes();
        self.sum = self.sum.wrapping_sub(hash);
        self.len -= 1;
        if block.count == 0 {
            self.bytes -= block.heap_bytes();
            self.blocks.remove(place);
        }
        true
    }

    /// How many entries the first block has, and the id of the last one it ever took.
    pub fn front(&self) -> Option<(usize, Id)> {
        self.blocks.front().map(|block| (block.count as usize, block.last))
    }

    /// The same of every block, with its entries.
    pub fn by_block(&self) -> impl Iterator<Item = (usize, Id, impl Iterator<Item = Entry<'_>>)> {
        self.blocks.iter().map(|block| (block.count as usize, block.last, block.iter()))
    }

    /// Removes the first block.
    pub fn pop_block(&mut self) {
        if let Some(block) = self.blocks.pop_front() {
            self.bytes -= block.heap_bytes();
            self.sum = self.sum.wrapping_sub(block.sum);
            self.len -= block.count as usize;
        }
    }

    /// Removes entries from the front of the first block, as long as `goes` says so of how many are left of all and of the
    /// next one's id. Says how many.
    pub fn pop_while(&mut self, mut goes: impl FnMut(usize, Id) -> bool) -> usize {
        let left = self.len;
        let Some(block) = self.blocks.front_mut() else { return 0 };
        let (mut walk, mut end, mut count, mut hashes) = (block.iter(), 0, 0, 0u64);
        while let Some(entry) = walk.next()
            && goes(left - count, entry.id)
        {
            (end, count, hashes) = (walk.at(), count + 1, hashes.wrapping_add(entry.hash()));
        }
        self.bytes -= block.heap_bytes();
        let block = Arc::make_mut(block);
        block.cut(0..end);
        block.count -= count as u32;
        block.sum = block.sum.wrapping_sub(hashes);
        self.bytes += block.heap_bytes();
        self.sum = self.sum.wrapping_sub(hashes);
        self.len -= count;
        if block.count == 0 {
            self.bytes -= block.heap_bytes();
            self.blocks.pop_front();
        }
        count
    }

    /// Their bytes in a file.
    pub fn encode(&self, out: &mut Vec<u8>) {
        packed::put(out, self.blocks.len() as u64);
        for block in &self.blocks {
            out.extend_from_slice(&block.base.bytes());
            out.extend_from_slice(&block.last.bytes());
            packed::put(out, u64::from(block.taken));
            packed::put_bytes(out, &block.names);
            packed::put_bytes(out, &block.bytes);
        }
    }

    /// From those bytes, off the beginning.
    pub fn decode(bytes: &mut &[u8]) -> Option<Entries> {
        let mut entries = Entries::default();
        for _ in 0..packed::take(bytes)? {
            let (base, last) = (Id::from_bytes(packed::take_array(bytes)?), Id::from_bytes(packed::take_array(bytes)?));
            let taken = u32::try_from(packed::take(bytes)?).ok()?;
            let (names, packed) = (packed::take_bytes(bytes)?.into(), packed::take_bytes(bytes)?.to_vec());
            let mut block = Block { base, last, count: 0, taken, sum: 0, names, bytes: packed };
            let after = entries.blocks.back().map(|block| block.last);
            if after.is_some_and(|after| base <= after) || !block.check() || block.count > taken {
                return None;
            }
            entries.len += block.count as usize;
            entries.sum = entries.sum.wrapping_add(block.sum);
            entries.bytes += block.heap_bytes();
            entries.blocks.push_back(Arc::new(block));
        }
        Some(entries)
    }
}

impl Block {
    /// Whether it is what a block should be, after it was read from a file; counts its entries.
    fn check(&mut self) -> bool {
        let mut names = (0, &self.names[..]);
        while !names.1.is_empty() {
            if packed::take_bytes(&mut names.1).is_none() {
                return false;
            }
            names.0 += 1;
        }
        let (mut rest, mut before) = (&self.bytes[..], None);
        let (mut count, mut sum) = (0u32, 0u64);
        while !rest.is_empty() {
            let Some(head) = take_head(&mut rest) else { return false };
            let Some(ms) = self.base.ms.checked_add(head.ms) else { return false };
            let id = Id { ms, seq: head.seq };
            let same = head.fields & 1 == 1;
            let Ok(len) = usize::try_from(head.fields >> 1) else { return false };
            let entry = Entry { id, len, names: same.then_some(&self.names), values: head.values };
            let (mut values, mut words) = (head.values, 0);
            while !values.is_empty() {
                if packed::take_bytes(&mut values).is_none() {
                    return false;
                }
                words += 1;
            }
            let whole = if same { len == names.0 && words == len } else { len.checked_mul(2) == Some(words) };
            if !whole || id < self.base || id > self.last || before.is_some_and(|before| id <= before) {
                return false;
            }
            before = Some(id);
            sum = sum.wrapping_add(entry.hash());
            count += 1;
        }
        (self.count, self.sum) = (count, sum);
        count > 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::table::call::Chance;

    impl Entries {
        fn recount(&self) -> usize {
            let blocks = self.blocks.iter().map(|block| block.heap_bytes());
            blocks.sum::<usize>() + allocated(self.blocks.capacity() * size_of::<Arc<Block>>())
        }
    }

    type Model = BTreeMap<Id, Vec<Vec<u8>>>;

    fn owned(entry: Entry<'_>) -> (Id, Vec<Vec<u8>>) {
        (entry.id, entry.fields().flat_map(|(name, value)| [name.to_vec(), value.to_vec()]).collect())
    }

    fn check(entries: &Entries, model: &Model, chance: &mut Chance, what: &str) {
        let all: Vec<_> = model.iter().map(|(id, fields)| (*id, fields.clone())).collect();
        assert_eq!(entries.range(Id::MIN, Id::MAX).map(owned).collect::<Vec<_>>(), all, "{what}");
        let back: Vec<_> = entries.range_back(Id::MIN, Id::MAX).map(owned).collect();
        assert!(back.iter().rev().eq(all.iter()), "{what}");
        assert_eq!(entries.len(), all.len(), "{what}");
        assert_eq!(entries.heap_bytes(), entries.recount(), "{what}");
        let sum = all.iter().fold(0u64, |sum, (id, fields)| {
            let fields =
                fields.chunks(2).fold(hash_of_id(*id), |hash, field| hash_of_field(hash, &field[0], &field[1]));
            sum.wrapping_add(fields)
        });
        assert_eq!(entries.sum(), sum, "{what}");
        let mut some = || Id { ms: chance.below(60) as u64, seq: chance.below(5) as u64 };
        let (from, to) = (some(), some());
        let range = |(id, _): &&(Id, Vec<Vec<u8>>)| *id >= from && *id <= to;
        assert!(entries.range(from, to).map(owned).eq(all.iter().filter(range).cloned()), "{what}");
        assert!(entries.range_back(from, to).map(owned).eq(all.iter().rev().filter(range).cloned()), "{what}");
        assert_eq!(entries.get(from).map(owned), model.get(&from).map(|fields| (from, fields.clone())), "{what}");
        assert_eq!(entries.first().map(|entry| entry.id), all.first().map(|(id, _)| *id), "{what}");
        assert_eq!(entries.last().map(|entry| entry.id), all.last().map(|(id, _)| *id), "{what}");
        let mut bytes = Vec::new();
        entries.encode(&mut bytes);
        let again = Entries::decode(&mut &bytes[..]).expect(what);
        assert!(again.range(Id::MIN, Id::MAX).map(owned).eq(all), "{what}");
        assert_eq!((again.sum(), again.heap_bytes()), (entries.sum(), again.recount()), "{what}");
        let cuts = |entries: &Entries| entries.blocks.iter().map(|block| (block.base, block.taken)).collect::<Vec<_>>();
        assert_eq!(cuts(&again), cuts(entries), "{what}");
    }

    #[test]
    fn they_are_what_a_map_would_be() {
        for seed in 0..1_500 {
            let mut chance = Chance::new(seed);
            let (mut entries, mut model) = (Entries::default(), Model::new());
            let mut kept = (Entries::default(), Model::new());
            let mut last = Id::MIN;
            let steps = if seed % 50 == 0 { 400 } else { 30 };
            for step in 0..steps {
                let what = format!("seed {seed} step {step}");
                match chance.below(8) {
                    0 if !model.is_empty() => {
                        let id = *model.keys().nth(chance.below(model.len())).expect("one of them");
                        assert!(entries.remove(id), "{what}");
                        model.remove(&id);
                    }
                    1 => {
                        let id = Id { ms: chance.below(60) as u64, seq: chance.below(5) as u64 };
                        assert_eq!(entries.remove(id), model.remove(&id).is_some(), "{what}");
                    }
                    2 if chance.below(4) == 0 => {
                        let count = entries.front().map_or(0, |(count, _)| count);
                        entries.pop_block();
                        (0..count).for_each(|_| drop(model.pop_first()));
                    }
                    3 => {
                        let (keep, min) = (chance.below(50), Id { ms: chance.below(40) as u64, seq: 0 });
                        let gone = entries.pop_while(|left, id| left > keep && id < min);
                        for _ in 0..gone {
                            let (id, _) = model.pop_first().expect("it was there");
                            assert!(id < min && model.len() >= keep, "{what}");
                        }
                    }
                    _ => {
                        last = if chance.below(3) == 0 {
                            Id { ms: last.ms + 1 + chance.below(3) as u64, seq: chance.below(3) as u64 }
                        } else {
                            Id { ms: last.ms, seq: last.seq + 1 }
                        };
                        let word = |chance: &mut Chance| {
                            let len = if chance.below(30) == 0 { 3_000 } else { chance.below(20) };
                            vec![b'a' + chance.below(26) as u8; len]
                        };
                        let fields: Vec<Vec<u8>> = match chance.below(3) {
                            0 => (0..2 * (1 + chance.below(3))).map(|_| word(&mut chance)).collect(),
                            _ => vec![b"name".to_vec(), word(&mut chance), b"other".to_vec(), word(&mut chance)],
                        };
                        entries.push(last, &fields.iter().map(|word| &word[..]).collect::<Vec<_>>());
                        model.insert(last, fields);
                    }
                }
                if steps == 30 || step % 20 == 0 {
                    check(&entries, &model, &mut chance, &what);
                    check(&kept.0, &kept.1, &mut chance, &format!("{what}, a copy"));
                }
                if chance.below(10) == 0 {
                    kept = (entries.clone(), model.clone());
                }
            }
        }
    }

    #[test]
    fn a_copy_shares_what_neither_changes() {
        let mut entries = Entries::default();
        (1..=950).for_each(|seq| entries.push(Id { ms: 5, seq }, &[b"name", b"value"]));
        let copy = entries.clone();
        entries.push(Id { ms: 6, seq: 0 }, &[b"name", b"value"]);
        assert!(entries.remove(Id { ms: 5, seq: 250 }));
        let shared = copy.blocks.iter().filter(|block| entries.blocks.iter().any(|other| Arc::ptr_eq(block, other)));
        assert_eq!((shared.count(), copy.blocks()), (8, 10));
        assert_eq!((copy.len(), copy.recount()), (950, copy.heap_bytes()));
        assert_eq!((entries.len(), entries.recount()), (950, entries.heap_bytes()));
    }

    #[test]
    fn damaged_bytes_are_refused_or_mean_entries() {
        let mut entries = Entries::default();
        for seq in 1..20u8 {
            let fields: [&[u8]; 4] = [b"name", &[seq; 3], b"n", b"v"];
            entries.push(Id { ms: 5, seq: u64::from(seq) }, &fields[..2 + 2 * usize::from(seq % 2)]);
        }
        let mut bytes = Vec::new();
        entries.encode(&mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Some(found) = Entries::decode(&mut &damaged[..]) {
                let fields = found.range(Id::MIN, Id::MAX).filter(|entry| entry.fields().count() == entry.len);
                assert_eq!(fields.count(), found.len());
            }
        }
        for len in 0..bytes.len() {
            assert!(Entries::decode(&mut &bytes[..len]).is_none(), "cut at {len}");
        }
    }
}
