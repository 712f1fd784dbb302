//! A stripe: entries, to be found by the hashes of their keys.
//!
//! ```text
//!   hash:  |  14 bits | which stripe, 10 | where in it, 32                | tag, 8 |
//!                                        | mark, 16    |                    kept in the address of an entry
//!
//!   heads:   | 7 tags, traces |  | 7 tags, traces |  | 7 tags, traces |      eight bytes for each group
//!   places:  [ e e e . . . . ]   [ e e e e e e e ]   [ e e . . . . . ]
//!                                  ^ home, full  --> goes to the next that is not, and leaves a trace
//! ```
//!
//! Seven tags are compared at a time, and heads are so few bytes that they stay near the processor. Where in the stripe an entry
//! belongs is told by its mark, most often by that alone, because an address leaves sixteen bits free: so a stripe grows by an
//! eighth at a time without looking at its keys, and seven of eight places are taken at the most. That is eleven bytes a key
//! where a table that doubles takes ten to twenty.
//!
//! Always:
//! - a group has seven places; one that is alone may have fewer;
//! - of a group, the places that are taken are the first, and a place that is free has the tag zero;
//! - all groups between the one where an entry belongs and the one where it is are full, and have its trace: one of eight, by
//!   its mark. So it is looked for until a group has no such trace, which is most often the first. A group that is not full
//!   has none: what is removed leaves nothing behind;
//! - where entries belong follows their hashes: going from group to group is going by the bits that tell where.

use std::hint::black_box;

use super::allocated;
use super::entry::Entry;
use super::keyspace::STRIPE_SHIFT;

/// Places of a group.
const PLACES: usize = 7;
/// So many of eight places may be taken, over all groups.
const TAKEN_OF_EIGHT: usize = 7;
/// A stripe grows by one of so many groups.
const GROWTH: usize = 8;
/// It halves where only one of so many of the entries is there that could be.
const SPARSE: usize = 4;
/// The 32 bits that tell where, of which the mark is the highest.
const WHERE_SHIFT: u32 = STRIPE_SHIFT - 32;
const MARK_SHIFT: u32 = STRIPE_SHIFT - 16;

/// The lowest bits of all tags, and all their bits. The byte above is for traces.
const LOWEST: u64 = 0x0001_0101_0101_0101;
const TAGS: u64 = LOWEST * 0xff;
const TRACE_SHIFT: u32 = 56;

/// Entries by the hashes of their keys.
pub(super) struct Stripe {
    heads: Box<[u64]>,
    places: Box<[Option<Entry>]>,
    len: usize,
}

fn mark_of(hash: u64) -> u16 {
    (hash >> MARK_SHIFT) as u16
}

/// Never zero.
fn tag_of(hash: u64) -> u64 {
    (hash & 0xff).max(1)
}

/// The trace of an entry with this mark, in a head.
fn trace_of(mark: u16) -> u64 {
    1 << TRACE_SHIFT << (mark % 8)
}

/// Where it belongs, by the 32 bits that tell.
fn home(place: u32, groups: usize) -> usize {
    ((u64::from(place) * groups as u64) >> 32) as usize
}

fn home_of_hash(hash: u64, groups: usize) -> usize {
    home((hash >> WHERE_SHIFT) as u32, groups)
}

/// Where an entry belongs, among so many groups.
fn home_of(entry: &Entry, groups: usize, hash_of: impl FnOnce(&Entry) -> u64) -> usize {
    let low = u32::from(entry.mark()) << 16;
    let first = home(low, groups);
    if first == home(low | 0xffff, groups) { first } else { home_of_hash(hash_of(entry), groups) }
}

/// The highest bits of the tags that are this one. Of those above one that is, others may be among them.
fn tagged(head: u64, tag: u64) -> u64 {
    let other = (head & TAGS) ^ (tag * LOWEST);
    other.wrapping_sub(LOWEST) & !other & LOWEST << 7
}

/// How many places are taken.
fn taken(head: u64) -> usize {
    ((u64::BITS - (head & TAGS).leading_zeros()) as usize).div_ceil(8)
}

fn was_passed(head: u64) -> bool {
    head >> TRACE_SHIFT != 0
}

/// How many entries may be in so many places.
fn room(places: usize) -> usize {
    if places < PLACES { places } else { places * TAKEN_OF_EIGHT / 8 }
}

/// All groups, each once, in the order of their numbers read backwards.
fn scattered(groups: usize) -> impl Iterator<Item = usize> {
    let bits = groups.next_power_of_two().trailing_zeros();
    let numbers = (0..1usize << bits).map(move |number| number.reverse_bits().unbounded_shr(usize::BITS - bits));
    numbers.filter(move |number| *number < groups)
}

/// The next more places.
fn more(places: usize) -> usize {
    let groups = places / PLACES;
    match places {
        0 => 2,
        2 => 4,
        4 => PLACES,
        _ => (groups + (groups / GROWTH).max(1)) * PLACES,
    }
}

impl Stripe {
    /// Without entries, and without memory.
    pub fn new() -> Stripe {
        Stripe { heads: Box::new([]), places: Box::new([]), len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// What its allocations take, without those of entries.
    pub fn bytes(&self) -> usize {
        allocated(size_of_val(&*self.heads)) + allocated(size_of_val(&*self.places))
    }

    fn after(&self, group: usize) -> usize {
        if group + 1 == self.heads.len() { 0 } else { group + 1 }
    }

    /// The place of an entry, and its group.
    fn place(&self, hash: u64, mut is: impl FnMut(&Entry) -> bool) -> Option<(usize, usize)> {
        let (tag, trace) = (tag_of(hash), trace_of(mark_of(hash)));
        let mut group = home_of_hash(hash, self.heads.len());
        for _ in 0..self.heads.len() {
            let head = self.heads[group];
            let mut tagged = tagged(head, tag);
            while tagged != 0 {
                let place = group * PLACES + tagged.trailing_zeros() as usize / 8;
                if self.places.get(place).and_then(Option::as_ref).is_some_and(&mut is) {
                    return Some((place, group));
                }
                tagged &= tagged - 1;
            }
            if head & trace == 0 {
                return None;
            }
            group = self.after(group);
        }
        None
    }

    /// Looks where an entry with this hash would be, and nothing else.
    pub fn look_at_head(&self, hash: u64) {
        let head = self.heads.get(home_of_hash(hash, self.heads.len())).copied();
        black_box(head);
    }

    /// The entry that is most likely the one with this hash; nothing of it is looked at.
    pub fn guess(&self, hash: u64) -> Option<&Entry> {
        let group = home_of_hash(hash, self.heads.len());
        let tagged = tagged(*self.heads.get(group)?, tag_of(hash));
        let place = group * PLACES + tagged.trailing_zeros() as usize / 8;
        (tagged != 0).then(|| self.places.get(place))?.and_then(Option::as_ref)
    }

    /// The entry that `is` says yes to, of those with this hash and maybe others.
    pub fn find(&self, hash: u64, is: impl FnMut(&Entry) -> bool) -> Option<&Entry> {
        let (place, _) = self.place(hash, is)?;
        self.places[place].as_ref()
    }

    /// The same, to be changed. [`Entry::replace`] puts another in its place.
    pub fn find_mut(&mut self, hash: u64, is: impl FnMut(&Entry) -> bool) -> Option<&mut Entry> {
        let (place, _) = self.place(hash, is)?;
        self.places[place].as_mut()
    }

    /// Takes in an entry whose key is not there.
    pub fn insert(&mut self, hash: u64, mut entry: Entry, hash_of: impl Fn(&Entry) -> u64) {
        if self.len == room(self.places.len()) {
            self.resize(more(self.places.len()), hash_of);
        }
        entry.set_mark(mark_of(hash));
        self.put(home_of_hash(hash, self.heads.len()), tag_of(hash), entry);
        self.len += 1;
    }

    fn put(&mut self, home: usize, tag: u64, entry: Entry) {
        let mut group = home;
        // Not all are full.
        while taken(self.heads[group]) == PLACES {
            self.heads[group] |= trace_of(entry.mark());
            group = self.after(group);
        }
        self.fill(group, tag, entry);
    }

    /// Puts an entry into a group that is not full.
    fn fill(&mut self, group: usize, tag: u64, entry: Entry) {
        let free = taken(self.heads[group]);
        self.heads[group] |= tag << (free * 8);
        self.places[group * PLACES + free] = Some(entry);
    }

    /// Takes an entry out of its group, with its tag; the last of the group comes into its place.
    fn empty(&mut self, group: usize, place: usize) -> Option<(u64, Entry)> {
        let (first, last) = (group * PLACES, taken(self.heads[group]).checked_sub(1)?);
        let tag_at = |head: u64, at: usize| head >> (at * 8) & 0xff;
        let head = self.heads[group];
        let (tag, tag_of_last) = (tag_at(head, place - first), tag_at(head, last));
        self.places.swap(place, first + last);
        let moved = (tag ^ tag_of_last) << ((place - first) * 8);
        self.heads[group] = (head ^ moved) & !(0xff << (last * 8));
        self.places[first + last].take().map(|entry| (tag, entry))
    }

    /// Has so many places from now on.
    fn resize(&mut self, places: usize, hash_of: impl Fn(&Entry) -> u64) {
        let groups = places.div_ceil(PLACES);
        let heads = std::mem::replace(&mut self.heads, (0..groups).map(|_| 0).collect());
        let places = std::mem::replace(&mut self.places, (0..places).map(|_| None).collect());
        for (number, entry) in places.into_iter().enumerate() {
            let Some(entry) = entry else { continue };
            let tag = heads[number / PLACES] >> (number % PLACES * 8) & 0xff;
            self.put(home_of(&entry, groups, &hash_of), tag, entry);
        }
    }

    /// Removes the entry that `is` says yes to, and gives it back.
    pub fn remove(
        &mut self,
        hash: u64,
        is: impl FnMut(&Entry) -> bool,
        hash_of: impl Fn(&Entry) -> u64,
    ) -> Option<Entry> {
        let (place, mut hole) = self.place(hash, is)?;
        let groups = self.heads.len();
        let (_, removed) = self.empty(hole, place)?;
        self.len -= 1;
        // Of those that went past this group because it was full, one comes back, and leaves a hole where it was.
        let (mut group, mut far, mut may_be) = (hole, 0, was_passed(self.heads[hole]));
        while may_be && far + 1 < groups {
            (group, far) = (self.after(group), far + 1);
            may_be = was_passed(self.heads[group]);
            let first = group * PLACES;
            let went_past = |entry: &Entry| (group + groups - home_of(entry, groups, &hash_of)) % groups >= far;
            // There is more than one group, so that each has all its places.
            let of_group = &self.places[first..first + PLACES];
            let place = of_group.iter().position(|place| place.as_ref().is_some_and(went_past));
            if let Some((tag, entry)) = place.and_then(|place| self.empty(group, first + place)) {
                self.fill(hole, tag, entry);
                (hole, far) = (group, 0);
            }
        }
        // It is not full, so nobody is past it.
        self.heads[hole] &= TAGS;
        match (self.places.len(), self.len) {
            (PLACES, ..=2) => self.resize(4, hash_of),
            (4, ..=1) => self.resize(2, hash_of),
            (places, len) if groups > 1 && len < room(places) / SPARSE => self.resize(groups / 2 * PLACES, hash_of),
            _ => {}
        }
        Some(removed)
    }

    /// All entries, those of groups far from each other one after the other. So a stripe that takes them in, in this order, as
    /// from a checkpoint's file, is filled evenly while it grows; in the order of their hashes all would want its first groups.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.of_groups(scattered(self.heads.len()))
    }

    /// All entries, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.places.iter_mut().flatten()
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.heads.len()
    }

    /// The entries of a group, to be changed.
    pub fn group_mut(&mut self, group: usize) -> impl Iterator<Item = &mut Entry> {
        self.places.iter_mut().skip(group * PLACES).take(PLACES).flatten()
    }

    /// The entries of some groups.
    fn of_groups(&self, groups: impl Iterator<Item = usize>) -> impl Iterator<Item = &Entry> {
        groups.flat_map(|group| self.places[group * PLACES..].iter().take(PLACES).map_while(Option::as_ref))
    }

    /// Groups with all entries that belong into one, and others: it, and those after it to one that nobody went past.
    fn from(&self, first: usize) -> impl Iterator<Item = usize> {
        let mut next = (first < self.heads.len()).then_some((first, 0));
        std::iter::from_fn(move || {
            let (group, far) = next?;
            next = (was_passed(self.heads[group]) && far + 1 < self.heads.len()).then(|| (self.after(group), far + 1));
            Some(group)
        })
    }

    /// Entries whose keys have a hash that differs from this one below bit `below` only, and others. That bit is no higher than
    /// what a mark tells.
    pub fn like(&self, hash: u64, below: u32) -> impl Iterator<Item = &Entry> {
        debug_assert!(below <= MARK_SHIFT, "a mark tells more");
        let groups = self.heads.len();
        let (mark, low) = (mark_of(hash), hash >> below << below);
        let (first, last) = (home_of_hash(low, groups), home_of_hash(low | ((1 << below) - 1), groups));
        // Where there is more than one, they follow each other.
        self.of_groups((first..last).chain(self.from(last))).filter(move |entry| entry.mark() == mark)
    }

    /// How many parts there are for [`Stripe::part`].
    pub fn parts(&self) -> usize {
        self.heads.len()
    }

    /// The part with the entries whose keys have such a hash.
    pub fn part_of(&self, hash: u64) -> usize {
        home_of_hash(hash, self.heads.len())
    }

    /// The entries of a part. Hashes of a part are less than those of the next, as far as the bits that tell where go.
    pub fn part(&self, part: usize, hash_of: impl Fn(&Entry) -> u64) -> impl Iterator<Item = &Entry> {
        let groups = self.heads.len();
        self.of_groups(self.from(part)).filter(move |entry| home_of(entry, groups, &hash_of) == part)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::call::Chance;
    use super::super::entry::Times;
    use super::*;

    /// What hashes are like: spread well, of one stripe as they are, alike where their places are told, or hardly different.
    const KINDS: [fn(u64) -> u64; 4] = [
        |spread| spread,
        |spread| spread & 0xffff_ffff_ff00_0000,
        |spread| spread & 0xff | 0x1234_5678_9abc_de00,
        |spread| (spread & 7) << 37,
    ];

    fn hash_by(kind: usize) -> impl Fn(&Entry) -> u64 + Copy {
        move |entry| {
            let number = u64::from_le_bytes(entry.key().try_into().expect("keys are numbers"));
            KINDS[kind](Chance::new(number).next_u64())
        }
    }

    fn entry(number: u64, version: u64) -> Entry {
        Entry::string(&number.to_le_bytes(), b"", version, Times::default(), 0)
    }

    /// A stripe beside a map.
    struct Both {
        stripe: Stripe,
        model: BTreeMap<u64, u64>,
        kind: usize,
    }

    impl Both {
        fn new(kind: usize) -> Both {
            Both { stripe: Stripe::new(), model: BTreeMap::new(), kind }
        }

        fn hash(&self, number: u64) -> u64 {
            hash_by(self.kind)(&entry(number, 0))
        }

        fn change(&mut self, number: u64, version: u64, remove: bool) {
            let (hash, key) = (self.hash(number), number.to_le_bytes());
            let was = self.stripe.find(hash, |entry| entry.key() == key).map(Entry::version);
            assert_eq!(was, self.model.get(&number).copied());
            if remove {
                let removed = self.stripe.remove(hash, |entry| entry.key() == key, hash_by(self.kind));
                assert_eq!(removed.map(|entry| (entry.key() == key, entry.version())), was.map(|was| (true, was)));
                self.model.remove(&number);
                return;
            }
            match self.stripe.find_mut(hash, |entry| entry.key() == key) {
                Some(found) if version.is_multiple_of(2) => found.replace(entry(number, version)),
                Some(found) => found.set_version(version),
                None => self.stripe.insert(hash, entry(number, version), hash_by(self.kind)),
            }
            self.model.insert(number, version);
        }

        fn check(&mut self) {
            let number_of = |entry: &Entry| u64::from_le_bytes(entry.key().try_into().expect("keys are numbers"));
            let (groups, hash_of) = (self.stripe.heads.len(), hash_by(self.kind));
            let room = room(self.stripe.places.len());
            let fits = (room / SPARSE..=room).contains(&self.stripe.len) || groups <= 1;
            assert!(fits, "{} of {room}", self.stripe.len);
            for (group, head) in self.stripe.heads.iter().enumerate() {
                let places: Vec<_> = self.stripe.places[group * PLACES..].iter().take(PLACES).collect();
                assert!(places.is_sorted_by_key(|place| place.is_none()), "a free place before one that is taken");
                assert_eq!(taken(*head), places.iter().copied().flatten().count());
                assert!(taken(*head) == PLACES || !was_passed(*head), "a trace where there is room");
                for (place, entry) in places.into_iter().flatten().enumerate() {
                    let hash = hash_of(entry);
                    assert_eq!((entry.mark(), head >> (place * 8) & 0xff), (mark_of(hash), tag_of(hash)));
                    let mut home = home_of_hash(hash, groups);
                    assert_eq!(home_of(entry, groups, hash_of), home);
                    while home != group {
                        let between = self.stripe.heads[home];
                        assert!(taken(between) == PLACES, "it could be nearer");
                        assert!(between & trace_of(entry.mark()) != 0, "it left no trace");
                        home = self.stripe.after(home);
                    }
                }
            }
            let all: BTreeMap<u64, u64> = self.stripe.iter().map(|entry| (number_of(entry), entry.version())).collect();
            assert_eq!((all, self.stripe.len()), (self.model.clone(), self.model.len()));
            assert_eq!(self.stripe.iter_mut().count(), self.model.len());
            // Parts have all, once each, one after the other.
            let parts =
                (0..self.stripe.parts()).flat_map(|part| self.stripe.part(part, hash_of).map(move |e| (part, e)));
            let mut parts: Vec<_> = parts.map(|(part, entry)| (hash_of(entry) << 24 >> 32, part)).collect();
            assert_eq!(parts.len(), self.model.len());
            parts.sort_unstable();
            assert!(parts.is_sorted_by_key(|(_, part)| *part));
            // Those that are alike are found by what is alike of them.
            for number in self.model.keys().take(40) {
                let hash = self.hash(*number);
                assert!(self.stripe.part(self.stripe.part_of(hash), hash_of).any(|entry| number_of(entry) == *number));
                for below in [0, 9, MARK_SHIFT] {
                    let alike = |entry: &&Entry| hash_of(entry) >> below == hash >> below;
                    let mut found: Vec<u64> = self.stripe.like(hash, below).filter(alike).map(number_of).collect();
                    let mut like: Vec<u64> = self.stripe.iter().filter(alike).map(number_of).collect();
                    found.sort_unstable();
                    like.sort_unstable();
                    assert_eq!(found, like, "{number}, below {below}");
                }
            }
        }
    }

    #[test]
    fn a_stripe_is_a_map_however_its_keys_are_spread() {
        for seed in 0..400u64 {
            let mut chance = Chance::new(seed);
            let mut both = Both::new(seed as usize % KINDS.len());
            let (keys, rounds) = (1 + chance.below(600), 1 + chance.below(3_000));
            println!("seed {seed}: {keys} keys, {rounds} rounds");
            let mut removes = chance.below(10);
            for round in 0..rounds as u64 {
                if chance.below(300) == 0 {
                    removes = chance.below(10);
                }
                both.change(chance.below(keys) as u64, round, chance.below(10) < removes);
                if chance.below(200) == 0 {
                    both.check();
                }
            }
            both.check();
        }
    }

    #[test]
    fn a_large_stripe_is_one_too() {
        for seed in 0..3u64 {
            println!("seed {seed}");
            let (mut chance, mut both) = (Chance::new(seed), Both::new((seed % 2) as usize));
            for number in 0..12_000u64 {
                both.change(number, 1, false);
                if number % 1_000 == 0 {
                    both.check();
                }
            }
            for round in 0..20_000u64 {
                both.change(chance.below(14_000) as u64, round, chance.below(10) < 7);
            }
            both.check();
        }
    }

    #[test]
    fn one_that_takes_in_another_in_its_order_stays_quick() {
        let mut both = Both::new(0);
        for number in 0..30_000u64 {
            both.change(number, 1, false);
            if !number.is_multiple_of(2_999) && number > 40 {
                continue;
            }
            let (mut copy, mut seen) = (Stripe::new(), 0);
            for from in both.stripe.iter() {
                let hash = hash_by(0)(from);
                copy.insert(hash, entry(u64::from_le_bytes(from.key().try_into().expect("a number")), 1), hash_by(0));
                seen += 1;
                if seen % 1_000 == 0 || copy.len == both.stripe.len {
                    let groups = copy.heads.len();
                    let far = |(group, entry)| (group + groups - home_of(entry, groups, hash_by(0))) % groups;
                    let placed =
                        (0..groups).flat_map(|group| copy.of_groups(group..group + 1).map(move |e| (group, e)));
                    let (all, most) = placed.map(far).fold((0, 0), |(all, most), far| (all + far, most.max(far)));
                    assert!(
                        all <= copy.len && most < 200,
                        "{seen} of {number}: {all} groups in all, {most} at the most"
                    );
                }
            }
            assert_eq!((seen, copy.len), (both.model.len(), both.model.len()));
        }
    }

    #[test]
    fn nearly_every_guess_is_right() {
        let mut stripe = Stripe::new();
        assert!(stripe.guess(7).is_none());
        let hash_of = hash_by(0);
        for number in 0..10_000 {
            let entry = entry(number, 0);
            stripe.insert(hash_of(&entry), entry, hash_of);
        }
        let is_right = |number: &u64| {
            let key = number.to_le_bytes();
            stripe.guess(hash_of(&entry(*number, 0))).is_some_and(|entry| entry.key() == key)
        };
        let right = (0..10_000).filter(is_right).count();
        assert!(right > 8_000, "{right}");
    }

    #[test]
    fn all_alike_it_is_slow_and_ends() {
        let mut both = Both::new(2);
        (0..3_000).for_each(|number| both.change(number, 1, false));
        both.check();
        (0..3_000).for_each(|number| both.change(number, 1, true));
        both.check();
    }
}
