//! A stream: entries in the order in which they came, and groups of consumers that read them.
//!
//! ```text
//!   entries   [ 100-0 .. ] [ .. ] [ .. 512-3 ]        last: the id after which the next comes
//!                 ^ front: trimmed                    groups, by name: how far each has read, what it has handed out
//! ```
//!
//! Always:
//! - ids only grow: an entry's is greater than every id there ever was, also of entries that are gone;
//! - a stream without entries is a stream: it still knows its last id and its groups.

mod entries;
mod group;
mod id;
mod packed;
mod pending;

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

pub use entries::{BLOCK_BYTES, BLOCK_ENTRIES, Entries, Entry};
pub use group::{Consumer, Group, Handed};
pub use id::Id;
pub use pending::{Identified, Pending};

use super::{Kind, variant};
use crate::table::allocated;

/// The version of the bytes in a file.
const VERSION: u8 = 1;

/// A stream.
#[derive(Debug, Clone, Default)]
pub struct Stream(Box<Inner>);

#[derive(Debug, Clone, Default)]
struct Inner {
    entries: Entries,
    counts: Counts,
    /// By name. A copy shares those that neither changes.
    groups: Vec<Arc<Group>>,
    /// Of the groups.
    groups_sum: u64,
    groups_bytes: usize,
}

/// What a stream knows of the entries that it ever had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The last id there ever was.
    pub last: Id,
    /// The greatest id that was deleted from the midst of others.
    pub deleted: Id,
    /// How many entries there ever were.
    pub added: u64,
}

/// What happens to what groups know of an entry that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum References {
    /// It stays pending where it is.
    Keep,
    /// It is pending nowhere any more.
    Delete,
    /// It only goes if every group has read and acknowledged it.
    Acknowledged,
}

/// How far a stream is trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until it has so many entries.
    Len(usize),
    /// Until its first entry has at least this id.
    Id(Id),
}

/// How a stream is trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trim {
    /// How far.
    pub until: Until,
    /// Only whole blocks.
    pub roughly: bool,
    /// At most so many entries; zero: as many as needed.
    pub limit: usize,
    /// What happens to what groups know of them.
    pub references: References,
}

impl Stream {
    /// Its entries.
    pub fn entries(&self) -> &Entries {
        &self.0.entries
    }

    /// What it knows of all entries it ever had.
    pub fn counts(&self) -> Counts {
        self.0.counts
    }

    /// Sets that; no entry is beyond the last id.
    pub fn set_counts(&mut self, counts: Counts) {
        self.0.counts = counts;
        self.0.entries.lower(counts.last);
    }

    /// The id that an entry gets that comes now.
    pub fn next_id(&self, now: u64) -> Option<Id> {
        if now > self.0.counts.last.ms { Some(Id { ms: now, seq: 0 }) } else { self.0.counts.last.next() }
    }

    /// Adds an entry. Says no where its id is not greater than every other.
    pub fn push(&mut self, id: Id, fields: &[&[u8]]) -> bool {
        let greater = id > self.0.counts.last;
        if greater {
            self.0.entries.push(id, fields);
            self.0.counts.last = id;
            self.0.counts.added = self.0.counts.added.saturating_add(1);
        }
        greater
    }

    /// Deletes an entry, and says whether it was there.
    pub fn delete(&mut self, id: Id) -> bool {
        let there = self.0.entries.remove(id);
        if there {
            self.0.counts.deleted = self.0.counts.deleted.max(id);
        }
        there
    }

    /// Whether a group has still to read an entry, or to acknowledge it.
    pub fn is_wanted(&self, id: Id) -> bool {
        self.0.groups.iter().any(|group| id > group.last || group.pending().get(id).is_some())
    }

    /// An entry is pending in no group any more. Says whether it was.
    pub fn forget(&mut self, id: Id) -> bool {
        let mut was = false;
        for place in 0..self.0.groups.len() {
            if self.0.groups[place].pending().get(id).is_some() {
                was |= self.edit_at(place, |_, group| group.acknowledge(id));
            }
        }
        was
    }

    /// Removes entries from the front, and says how many.
    pub fn trim(&mut self, trim: Trim) -> usize {
        if trim.references != References::Keep && !self.0.groups.is_empty() {
            return self.trim_one_by_one(trim);
        }
        let mut gone = 0;
        while let Some((count, last)) = self.0.entries.front() {
            if trim.limit != 0 && gone + count > trim.limit {
                break;
            }
            let whole = match trim.until {
                Until::Len(len) => self.0.entries.len() - count >= len,
                Until::Id(id) => last < id,
            };
            if whole {
                self.0.entries.pop_block();
                gone += count;
                continue;
            }
            if !trim.roughly {
                gone += self.0.entries.pop_while(|left, next| match trim.until {
                    Until::Len(len) => left > len,
                    Until::Id(id) => next < id,
                });
            }
            break;
        }
        gone
    }

    /// The same, where groups have a say in it.
    fn trim_one_by_one(&mut self, trim: Trim) -> usize {
        let (mut left, mut ids) = (self.0.entries.len(), Vec::new());
        'blocks: for (count, last, block) in self.0.entries.by_block() {
            if trim.limit != 0 && ids.len() + count > trim.limit {
                break;
            }
            let whole = match trim.until {
                Until::Len(len) => left.saturating_sub(count) >= len,
                Until::Id(id) => last < id,
            };
            if trim.roughly && !whole {
                break;
            }
            for entry in block {
                let goes = match trim.until {
                    Until::Len(len) => left > len,
                    Until::Id(id) => entry.id < id,
                };
                if !goes {
                    break 'blocks;
                }
                if trim.references == References::Delete || !self.is_wanted(entry.id) {
                    ids.push(entry.id);
                    left -= 1;
                }
            }
        }
        for id in &ids {
            self.0.entries.remove(*id);
            if trim.references == References::Delete {
                self.forget(*id);
            }
        }
        ids.len()
    }

    /// The groups, by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Group> {
        self.0.groups.iter().map(|group| &**group)
    }

    fn place(&self, name: &[u8]) -> Result<usize, usize> {
        self.0.groups.binary_search_by(|group| group.name().cmp(name))
    }

    /// The group of that name.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.place(name).ok().map(|place| &*self.0.groups[place])
    }

    /// Adds a group. Says no where there is one of its name.
    pub fn add_group(&mut self, group: Group) -> bool {
        let Err(place) = self.place(group.name()) else { return false };
        self.0.groups_sum = self.0.groups_sum.wrapping_add(group.sum());
        self.0.groups_bytes += group.heap_bytes();
        self.0.groups.insert(place, Arc::new(group));
        true
    }

    /// Removes a group, and says whether it was there.
    pub fn remove_group(&mut self, name: &[u8]) -> bool {
        let Ok(place) = self.place(name) else { return false };
        let group = self.0.groups.remove(place);
        self.0.groups_sum = self.0.groups_sum.wrapping_sub(group.sum());
        self.0.groups_bytes -= group.heap_bytes();
        true
    }

    /// Changes a group, with the entries at hand. None: there is no such group.
    pub fn edit_group<R>(&mut self, name: &[u8], change: impl FnOnce(View<'_>, &mut Group) -> R) -> Option<R> {
        self.place(name).ok().map(|place| self.edit_at(place, change))
    }

    fn edit_at<R>(&mut self, place: usize, change: impl FnOnce(View<'_>, &mut Group) -> R) -> R {
        let Inner { entries, counts, groups, groups_sum, groups_bytes } = &mut *self.0;
        let (sum, bytes) = (groups[place].sum(), groups[place].heap_bytes());
        let group = Arc::make_mut(&mut groups[place]);
        let result = change(View { entries, counts: *counts }, group);
        *groups_sum = groups_sum.wrapping_add(group.sum().wrapping_sub(sum));
        *groups_bytes = *groups_bytes + group.heap_bytes() - bytes;
        result
    }

    /// Its entries, and what it knows of all.
    pub fn view(&self) -> View<'_> {
        View { entries: &self.0.entries, counts: self.0.counts }
    }
}

/// A stream's entries, and what it knows of all it ever had.
#[derive(Debug, Clone, Copy)]
pub struct View<'s> {
    /// The entries.
    pub entries: &'s Entries,
    /// What is known of all.
    pub counts: Counts,
}

impl View<'_> {
    fn first(&self) -> Id {
        self.entries.first().map_or(Id::MIN, |entry| entry.id)
    }

    /// Whether an entry was deleted from the midst of others at that id or after it.
    fn has_gaps(&self, from: Id) -> bool {
        !self.entries.is_empty() && self.counts.deleted != Id::MIN && from <= self.counts.deleted
    }

    /// How many entries there ever were up to an id, if that is known.
    fn rank(&self, id: Id) -> Option<u64> {
        let Counts { last, deleted, added } = self.counts;
        let len = self.entries.len() as u64;
        if added == 0 {
            return Some(0);
        }
        if len == 0 && id <= last {
            return Some(added);
        }
        if (id != Id::MIN && id < deleted) || id > last {
            return None;
        }
        if id == last {
            return Some(added);
        }
        let first = self.first();
        if deleted != Id::MIN && deleted >= first {
            return None;
        }
        match id.cmp(&first) {
            std::cmp::Ordering::Less => Some(added.wrapping_sub(len)),
            std::cmp::Ordering::Equal => Some(added.wrapping_sub(len).wrapping_add(1)),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// How many entries a group has still to read, if that is known.
    pub fn lag(&self, group: &Group) -> Option<i64> {
        let (len, added) = (self.entries.len() as u64, self.counts.added);
        if added == 0 || len == 0 {
            return Some(0);
        }
        if group.last < self.first() && self.counts.deleted < self.first() {
            return Some(len as i64);
        }
        match group.read {
            Some(read) if !self.has_gaps(group.last) => Some(added.wrapping_sub(read) as i64),
            _ => self.rank(group.last).map(|read| added.wrapping_sub(read) as i64),
        }
    }

    /// A group has read an entry, which comes after all it had read.
    pub fn advance(&self, group: &mut Group, id: Id) {
        match group.read {
            Some(read) if !self.has_gaps(group.last) => group.read = Some(read.saturating_add(1)),
            _ if self.counts.added != 0 => group.read = self.rank(id),
            _ => {}
        }
        group.last = id;
    }
}

impl Kind for Stream {
    const NAME: &'static str = "stream";
    const TAG: u8 = 20;

    variant!(Stream);

    fn encoding(&self) -> &'static str {
        "stream"
    }

    fn heap_bytes(&self) -> usize {
        let inner = &*self.0;
        allocated(size_of::<Inner>())
            + inner.entries.heap_bytes()
            + allocated(inner.groups.capacity() * size_of::<Arc<Group>>())
            + inner.groups_bytes
    }

    /// A stream without entries is a stream.
    fn is_empty(&self) -> bool {
        false
    }

    fn sum(&self) -> u64 {
        let Counts { last, deleted, added } = self.0.counts;
        let words = [self.0.entries.sum(), last.ms, last.seq, deleted.ms, deleted.seq, added, self.0.groups_sum];
        let mut bytes = [0; 56];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        xxh3_64(&bytes)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.0.counts.last.bytes());
        out.extend_from_slice(&self.0.counts.deleted.bytes());
        packed::put(out, self.0.counts.added);
        self.0.entries.encode(out);
        packed::put(out, self.0.groups.len() as u64);
        self.0.groups.iter().for_each(|group| group.encode(out));
    }

    fn decode(bytes: &[u8]) -> Option<Stream> {
        let (&version, mut rest) = bytes.split_first()?;
        let bytes = &mut rest;
        if version != VERSION {
            return None;
        }
        let last = Id::from_bytes(packed::take_array(bytes)?);
        let deleted = Id::from_bytes(packed::take_array(bytes)?);
        let counts = Counts { last, deleted, added: packed::take(bytes)? };
        let entries = Entries::decode(bytes)?;
        if entries.end().is_some_and(|end| end > last) {
            return None;
        }
        let mut stream = Stream(Box::new(Inner { entries, counts, ..Inner::default() }));
        for _ in 0..packed::take(bytes)? {
            let group = Group::decode(bytes)?;
            if stream.0.groups.last().is_some_and(|last| last.name() >= group.name()) {
                return None;
            }
            stream.add_group(group);
        }
        bytes.is_empty().then_some(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;

    fn check(stream: &Stream, what: &str) {
        let inner = &*stream.0;
        let mut bytes = allocated(size_of::<Inner>()) + inner.entries.heap_bytes();
        bytes += allocated(inner.groups.capacity() * size_of::<Arc<Group>>());
        let mut sum = 0u64;
        for group in &inner.groups {
            let (off, group_bytes) = group.recount();
            assert_eq!(off, 0, "{what}");
            bytes += group_bytes;
            sum = sum.wrapping_add(group.sum());
        }
        assert_eq!((stream.heap_bytes(), inner.groups_sum), (bytes, sum), "{what}");
        let ids: Vec<Id> = stream.entries().range(Id::MIN, Id::MAX).map(|entry| entry.id).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| stream.entries().get(*id).is_some()), "{what}");
        let mut file = Vec::new();
        stream.encode(&mut file);
        let again = Stream::decode(&file).expect(what);
        assert_eq!(again.sum(), stream.sum(), "{what}");
        let mut file_again = Vec::new();
        again.encode(&mut file_again);
        assert!(file == file_again, "{what}");
    }

    #[test]
    fn its_accounts_are_right_whatever_happens() {
        for seed in 0..1_500 {
            let mut chance = Chance::new(seed);
            let mut stream = Stream::default();
            let names: [&[u8]; 4] = [b"a", b"b", b"c", b""];
            let mut copy = (stream.clone(), stream.sum());
            for step in 0..if seed % 30 == 0 { 1_500 } else { 60 } {
                let what = format!("seed {seed} step {step}");
                let id = Id { ms: 1 + chance.below(20) as u64, seq: 0 };
                let name = names[chance.below(4)];
                let member = names[chance.below(4)];
                let group = names[chance.below(4)];
                match chance.below(10) {
                    0 => {
                        stream.delete(id);
                    }
                    1 => {
                        stream.add_group(Group::new(name, id, id.ms.is_multiple_of(2).then_some(id.ms)));
                    }
                    2 if chance.below(4) == 0 => {
                        stream.remove_group(name);
                    }
                    3 | 4 => {
                        stream.edit_group(group, |_, group| {
                            let (consumer, _) = group.find_or_add(member, id.ms);
                            group.hand(Handed { id, consumer, time: id.seq, count: 1 });
                        });
                    }
                    5 => {
                        stream.edit_group(group, |_, group| group.acknowledge(id));
                    }
                    6 if chance.below(3) == 0 => {
                        stream.edit_group(group, |_, group| group.remove(member));
                    }
                    7 if chance.below(3) == 0 => {
                        let references = [References::Keep, References::Delete, References::Acknowledged];
                        let references = references[chance.below(3)];
                        let until = if chance.below(2) == 0 { Until::Len(chance.below(15)) } else { Until::Id(id) };
                        let before = stream.entries().len();
                        let gone = stream.trim(Trim { until, roughly: false, limit: 0, references });
                        assert_eq!(before - gone, stream.entries().len(), "{what}");
                        match until {
                            Until::Len(len) if references != References::Acknowledged => {
                                assert_eq!(stream.entries().len(), before.min(len), "{what}");
                            }
                            Until::Id(id) if references != References::Acknowledged => {
                                assert!(stream.entries().first().is_none_or(|entry| entry.id >= id), "{what}");
                            }
                            _ => {}
                        }
                    }
                    8 => {
                        stream.forget(id);
                    }
                    9 if chance.below(3) == 0 => {
                        let last = stream.entries().last().map_or(Id::MIN, |entry| entry.id);
                        let counts = Counts { last, deleted: Id::MIN, ..stream.counts() };
                        stream.set_counts(counts);
                    }
                    _ => {
                        let id = stream.next_id(id.ms).expect("far from the end");
                        stream.push(id, &[b"f", name]);
                    }
                }
                check(&stream, &what);
                if chance.below(20) == 0 {
                    copy = (stream.clone(), stream.sum());
                }
            }
            // What it shares with the stream has not changed.
            assert_eq!(copy.0.sum(), copy.1, "seed {seed}");
            check(&copy.0, &format!("seed {seed}: copy"));
        }
    }

    #[test]
    fn a_copy_shares_the_groups_that_neither_changes() {
        let mut stream = Stream::default();
        for name in [b"a", b"b", b"c"] {
            stream.add_group(Group::new(name, Id::MIN, None));
        }
        let copy = stream.clone();
        stream.edit_group(b"b", |_, group| group.last = Id { ms: 5, seq: 0 });
        let shared = stream.0.groups.iter().zip(&copy.0.groups).map(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(copy.group(b"b").map(|group| group.last), Some(Id::MIN));
    }

    #[test]
    fn ids_of_entries_that_are_gone_may_come_again_if_that_is_asked_for() {
        let mut stream = Stream::default();
        let id = |ms| Id { ms, seq: 0 };
        (1..=u64::from(BLOCK_ENTRIES)).for_each(|ms| assert!(stream.push(id(ms * 10), &[b"f", b"v"])));
        let last = u64::from(BLOCK_ENTRIES) * 10;
        assert!(stream.delete(id(last)));
        stream.set_counts(Counts { last: id(last - 10), deleted: Id::MIN, ..stream.counts() });
        for ms in last - 9..last + 9 {
            assert!(stream.push(id(ms), &[b"f", b"v"]));
            assert!(stream.entries().get(id(ms)).is_some(), "{ms}");
        }
        check(&stream, "after all");
    }

    #[test]
    fn damaged_bytes_are_refused_or_mean_a_stream() {
        let mut stream = Stream::default();
        for ms in 1..6 {
            stream.push(Id { ms, seq: 0 }, &[b"name", b"value"]);
        }
        stream.add_group(Group::new(b"group", Id { ms: 2, seq: 0 }, Some(2)));
        stream.edit_group(b"group", |_, group| {
            let (consumer, _) = group.find_or_add(b"alice", 7);
            group.hand(Handed { id: Id { ms: 2, seq: 0 }, consumer, time: 7, count: 1 });
        });
        let mut bytes = Vec::new();
        stream.encode(&mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Some(found) = Stream::decode(&damaged) {
                check(&found, &format!("bit {bit}"));
            }
        }
        (0..bytes.len()).for_each(|len| assert!(Stream::decode(&bytes[..len]).is_none(), "cut at {len}"));
    }
}
