//! A sorted set: members with scores, in the order of their scores; members with the same score in that of their bytes.
//!
//! ```text
//!   few, short members:  score, length, member, score, length, member, ...      in order, in one allocation
//!   many:                number -> member, score     in the order they came
//!                        member -> number            by hash
//!                        rank -> score, number       a tree
//! ```
//!
//! Members are numbered without gaps: when one goes, the last takes its number. Whoever walks the numbers from the highest
//! to the lowest, in as many steps as there may be, meets every member that is there all the time, because one that moves
//! goes to a lower number.
//!
//! Always: no score is NaN. The sum tells nothing of the form, the file does: it says what a walk over numbers would meet.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::places::place_of;
use super::ranks::{Ranked, Ranks, RanksIter};
use super::steps::{STEPS_MIN, Step, Steps};
use super::{Kind, variant};
use crate::table::allocated;

/// The most members in one allocation.
const PACKED_MAX: usize = 128;
/// The longest member there.
const PACKED_MEMBER_BYTES: usize = 64;
/// What stands before a member there: its score, and its length in one byte.
const PACKED_HEAD: usize = 9;
const _: () = assert!(PACKED_MEMBER_BYTES <= u8::MAX as usize);

/// A sorted set.
#[derive(Debug, Clone, Default)]
pub struct Sorted {
    form: Form,
    sum: u64,
    steps: Steps<f64>,
}

#[derive(Debug, Clone)]
enum Form {
    Packed(Packed),
    Many(Box<Many>),
}

impl Default for Form {
    fn default() -> Form {
        Form::Packed(Packed::default())
    }
}

#[derive(Debug, Clone, Default)]
struct Packed {
    bytes: Vec<u8>,
    len: usize,
}

#[derive(Debug, Clone, Default)]
struct Many {
    members: Vec<Member>,
    numbers: HashTable<u32>,
    ranks: Ranks,
    /// What the members have allocated.
    member_bytes: usize,
}

#[derive(Debug, Clone)]
struct Member {
    score: f64,
    bytes: Box<[u8]>,
}

/// What a member counts for in the sum.
fn sum_of(member: &[u8], score: f64) -> u64 {
    xxh3_64_with_seed(member, score.to_bits())
}

/// Whether one comes before another.
fn comes_before(score: f64, member: &[u8], other_score: f64, other: &[u8]) -> bool {
    score < other_score || (score == other_score && member < other)
}

impl Packed {
    /// Member and score at an offset, and the next offset.
    fn at(&self, at: usize) -> (&[u8], f64, usize) {
        let mut score = [0; 8];
        score.copy_from_slice(&self.bytes[at..at + 8]);
        let end = at + PACKED_HEAD + usize::from(self.bytes[at + 8]);
        (&self.bytes[at + PACKED_HEAD..end], f64::from_le_bytes(score), end)
    }

    /// The offset and rank of the first one that is not so, or of where one would be added.
    fn offset_after(&self, mut so: impl FnMut(&[u8], f64) -> bool) -> (usize, usize) {
        let (mut at, mut rank) = (0, 0);
        while at < self.bytes.len() {
            let (member, score, next) = self.at(at);
            if !so(member, score) {
                break;
            }
            (at, rank) = (next, rank + 1);
        }
        (at, rank)
    }

    fn find(&self, member: &[u8]) -> Option<(usize, usize)> {
        let (at, rank) = self.offset_after(|other, _| other != member);
        (at < self.bytes.len()).then_some((at, rank))
    }

    fn insert(&mut self, member: &[u8], score: f64) {
        let (at, _) = self.offset_after(|other, other_score| comes_before(other_score, other, score, member));
        let head = score.to_le_bytes().into_iter().chain([member.len() as u8]);
        self.bytes.splice(at..at, head.chain(member.iter().copied()));
        self.len += 1;
    }

    /// Removes so many from an offset on.
    fn remove(&mut self, at: usize, count: usize) {
        let end = (0..count).fold(at, |at, _| self.at(at).2);
        self.bytes.drain(at..end);
        self.len -= count;
        if self.bytes.len() < self.bytes.capacity() / 4 {
            self.bytes.shrink_to(self.bytes.len() * 2);
        }
    }

    fn offsets(&self, ranks: std::ops::Range<usize>) -> Vec<usize> {
        let (mut at, mut offsets) = (0, Vec::with_capacity(ranks.len()));
        for rank in 0..ranks.end {
            if rank >= ranks.start {
                offsets.push(at);
            }
            at = self.at(at).2;
        }
        offsets
    }
}

impl Many {
    fn number(&self, member: &[u8]) -> Option<usize> {
        let is = |number: &u32| *self.members[*number as usize].bytes == *member;
        self.numbers.find(place_of(member), is).map(|number| *number as usize)
    }

    /// The rank that a member with this score has or would have.
    fn rank(&self, score: f64, member: &[u8]) -> usize {
        self.ranks.partition(|ranked| {
            ranked.score < score || (ranked.score == score && *self.members[ranked.number as usize].bytes < *member)
        })
    }

    /// Adds a member that is not there.
    fn add(&mut self, member: &[u8], score: f64) {
        let (at, number) = (self.rank(score, member), self.members.len() as u32);
        self.members.push(Member { score, bytes: member.into() });
        self.member_bytes += allocated(member.len());
        let members = &self.members;
        self.numbers.insert_unique(place_of(member), number, |number| place_of(&members[*number as usize].bytes));
        self.ranks.insert(at, Ranked { score, number });
    }

    fn change_score(&mut self, number: usize, score: f64) {
        let Member { score: old, bytes } = &self.members[number];
        let (from, to) = (self.rank(*old, bytes), self.rank(score, bytes));
        self.ranks.remove(from);
        // It was before its new place itself, or it was not.
        self.ranks.insert(if from < to { to - 1 } else { to }, Ranked { score, number: number as u32 });
        self.members[number].score = score;
    }

    /// Removes the member of a rank.
    fn remove_at(&mut self, rank: usize) -> Member {
        let number = self.ranks.remove(rank).number as usize;
        let hash = place_of(&self.members[number].bytes);
        if let Ok(found) = self.numbers.find_entry(hash, |it| *it as usize == number) {
            found.remove();
        }
        let last = self.members.len() - 1;
        if number != last {
            let Member { score, bytes } = &self.members[last];
            let (rank, hash) = (self.rank(*score, bytes), place_of(bytes));
            self.ranks.renumber(rank, number as u32);
            if let Some(moved) = self.numbers.find_mut(hash, |it| *it as usize == last) {
                *moved = number as u32;
            }
        }
        let removed = self.members.swap_remove(number);
        self.member_bytes -= allocated(removed.bytes.len());
        self.shrink();
        removed
    }

    fn shrink(&mut self) {
        let len = self.members.len();
        if len >= PACKED_MAX && len < self.members.capacity() / 4 {
            self.members.shrink_to(len * 2);
            let members = &self.members;
            self.numbers.shrink_to(len * 2, |number| place_of(&members[*number as usize].bytes));
        }
    }
}

impl Sorted {
    /// How many members there are.
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Packed(packed) => packed.len,
            Form::Many(many) => many.members.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match &self.form {
            Form::Packed(packed) => packed.find(member).map(|(at, _)| packed.at(at).1),
            Form::Many(many) => many.number(member).map(|number| many.members[number].score),
        }
    }

    /// The rank of a member, counted from the lowest score, and its score.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        match &self.form {
            Form::Packed(packed) => packed.find(member).map(|(at, rank)| (rank, packed.at(at).1)),
            Form::Many(many) => {
                let score = many.members[many.number(member)?].score;
                Some((many.rank(score, member), score))
            }
        }
    }

    /// The member of a rank, and its score.
    pub fn get(&self, rank: usize) -> Option<(&[u8], f64)> {
        match &self.form {
            _ if rank >= self.len() => None,
            Form::Packed(_) => self.iter(rank..rank + 1).next(),
            Form::Many(many) => Some(member_of(&many.members, many.ranks.get(rank))),
        }
    }

    fn make_many(&mut self) -> &mut Many {
        if let Form::Packed(packed) = &self.form {
            let mut many = Box::<Many>::default();
            let mut at = 0;
            while at < packed.bytes.len() {
                let (member, score, next) = packed.at(at);
                many.add(member, score);
                at = next;
            }
            self.form = Form::Many(many);
        }
        match &mut self.form {
            Form::Many(many) => many,
            Form::Packed(_) => unreachable!("it was made many above"),
        }
    }

    /// Gives a member a score, and says which it had. The score is not NaN.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        // Zero has two signs, which are equal; only the positive one is kept.
        let score = score + 0.0;
        let old = self.give(member, score);
        if old != Some(score) {
            self.steps.note(member, old);
        }
        old
    }

    fn give(&mut self, member: &[u8], score: f64) -> Option<f64> {
        let (number, old) = match &mut self.form {
            Form::Packed(packed) => match packed.find(member) {
                Some((at, _)) => {
                    let old = packed.at(at).1;
                    if old != score {
                        packed.remove(at, 1);
                        packed.insert(member, score);
                    }
                    (0, Some(old))
                }
                None if packed.len < PACKED_MAX && member.len() <= PACKED_MEMBER_BYTES => {
                    packed.insert(member, score);
                    self.sum = self.sum.wrapping_add(sum_of(member, score));
                    return None;
                }
                None => (0, None),
            },
            Form::Many(many) => match many.number(member) {
                Some(number) => (number, Some(many.members[number].score)),
                None => (0, None),
            },
        };
        match old {
            Some(old) if old == score => return Some(old),
            Some(old) => {
                self.sum = self.sum.wrapping_sub(sum_of(member, old));
                if let Form::Many(many) = &mut self.form {
                    many.change_score(number, score);
                }
            }
            None => self.make_many().add(member, score),
        }
        self.sum = self.sum.wrapping_add(sum_of(member, score));
        old
    }

    /// Removes a member, and says which score it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (rank, score) = self.rank(member)?;
        self.remove_ranks(rank..rank + 1, |_, _| ());
        Some(score)
    }

    /// Removes the members of these ranks, which are there, and names them.
    pub fn remove_ranks(&mut self, ranks: std::ops::Range<usize>, mut each: impl FnMut(&[u8], f64)) {
        let (sum, steps) = (&mut self.sum, &mut self.steps);
        let mut going = |member: &[u8], score: f64| {
            steps.note(member, Some(score));
            *sum = sum.wrapping_sub(sum_of(member, score));
            each(member, score);
        };
        match &mut self.form {
            Form::Packed(packed) => {
                let offsets = packed.offsets(ranks);
                for at in &offsets {
                    let (member, score, _) = packed.at(*at);
                    going(member, score);
                }
                if let Some(first) = offsets.first() {
                    packed.remove(*first, offsets.len());
                }
            }
            Form::Many(many) => {
                for _ in ranks.clone() {
                    let gone = many.remove_at(ranks.start);
                    going(&gone.bytes, gone.score);
                }
            }
        }
    }

    fn back(&mut self, steps: impl Iterator<Item = Step<f64>>) {
        for (member, was) in steps {
            match was {
                Some(score) => self.give(&member, score),
                None => self.remove(&member),
            };
        }
    }

    /// How many members at the beginning have such a score; those after them have none.
    pub fn count_by_score(&self, so: impl Fn(f64) -> bool) -> usize {
        match &self.form {
            Form::Packed(packed) => packed.offset_after(|_, score| so(score)).1,
            Form::Many(many) => many.ranks.partition(|ranked| so(ranked.score)),
        }
    }

    /// How many members at the beginning are so; those after them are not. For sets whose scores are all the same.
    pub fn count_by_member(&self, so: impl Fn(&[u8]) -> bool) -> usize {
        match &self.form {
            Form::Packed(packed) => packed.offset_after(|member, _| so(member)).1,
            Form::Many(many) => many.ranks.partition(|ranked| so(&many.members[ranked.number as usize].bytes)),
        }
    }

    /// The members of these ranks, which are there, with their scores.
    pub fn iter(&self, ranks: std::ops::Range<usize>) -> SortedIter<'_> {
        match &self.form {
            Form::Packed(packed) => SortedIter(Walk::Packed(packed, packed.offsets(ranks).into_iter())),
            Form::Many(many) => SortedIter(Walk::Many(&many.members, many.ranks.iter(ranks))),
        }
    }

    /// About `count` members from a cursor on, and the cursor to go on with; zero begins and ends.
    pub fn scan<'s>(&'s self, cursor: u64, count: usize, mut each: impl FnMut(&'s [u8], f64)) -> u64 {
        match &self.form {
            Form::Packed(_) => {
                self.iter(0..self.len()).for_each(|(member, score)| each(member, score));
                0
            }
            Form::Many(many) => {
                let len = many.members.len();
                let from = if cursor == 0 { len } else { usize::try_from(cursor).unwrap_or(len).min(len) };
                let to = from.saturating_sub(count);
                many.members[to..from].iter().rev().for_each(|member| each(&member.bytes, member.score));
                to as u64
            }
        }
    }
}

/// Walks members from either end.
pub struct SortedIter<'s>(Walk<'s>);

enum Walk<'s> {
    Packed(&'s Packed, std::vec::IntoIter<usize>),
    Many(&'s [Member], RanksIter<'s>),
}

impl<'s> Iterator for SortedIter<'s> {
    type Item = (&'s [u8], f64);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Walk::Packed(packed, offsets) => offsets.next().map(|at| member_at(packed, at)),
            Walk::Many(members, ranks) => ranks.next().map(|ranked| member_of(members, ranked)),
        }
    }
}

impl DoubleEndedIterator for SortedIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Walk::Packed(packed, offsets) => offsets.next_back().map(|at| member_at(packed, at)),
            Walk::Many(members, ranks) => ranks.next_back().map(|ranked| member_of(members, ranked)),
        }
    }
}

fn member_at(packed: &Packed, at: usize) -> (&[u8], f64) {
    let (member, score, _) = packed.at(at);
    (member, score)
}

fn member_of(members: &[Member], ranked: Ranked) -> (&[u8], f64) {
    (&members[ranked.number as usize].bytes, ranked.score)
}

impl Kind for Sorted {
    const NAME: &'static str = "zset";
    const TAG: u8 = 4;

    variant!(Sorted);

    fn begin_steps(&mut self) -> bool {
        let many = matches!(self.form, Form::Many(_)) && self.len() >= STEPS_MIN;
        if many {
            self.steps.begin();
        }
        many
    }

    fn step_back(&mut self) {
        let steps = self.steps.take();
        self.back(steps);
    }

    fn end_steps(&mut self) {
        drop(self.steps.take());
    }

    fn before_steps(&mut self) -> Sorted {
        let (steps, mut was) = (self.steps.take(), self.clone());
        was.back(steps);
        was
    }

    fn encoding(&self) -> &'static str {
        match self.form {
            Form::Packed(_) => "listpack",
            Form::Many(_) => "skiplist",
        }
    }

    fn heap_bytes(&self) -> usize {
        match &self.form {
            Form::Packed(packed) => allocated(packed.bytes.capacity()),
            Form::Many(many) => {
                allocated(size_of::<Many>())
                    + allocated(many.members.capacity() * size_of::<Member>())
                    + allocated(many.numbers.allocation_size())
                    + many.ranks.heap_bytes()
                    + many.member_bytes
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn sum(&self) -> u64 {
        self.sum
    }

    /// One byte for the form; then score, length and bytes of each member: by rank of few, by number of many.
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(matches!(self.form, Form::Many(_))));
        let mut put = |member: &[u8], score: f64| {
            out.extend_from_slice(&score.to_le_bytes());
            out.extend_from_slice(&(member.len() as u32).to_le_bytes());
            out.extend_from_slice(member);
        };
        match &self.form {
            Form::Packed(_) => self.iter(0..self.len()).for_each(|(member, score)| put(member, score)),
            Form::Many(many) => many.members.iter().for_each(|member| put(&member.bytes, member.score)),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Sorted> {
        let (form, mut rest) = bytes.split_first()?;
        let mut sorted = Sorted::default();
        if *form == 1 {
            sorted.make_many();
        } else if *form != 0 {
            return None;
        }
        while !rest.is_empty() {
            let (score, after) = rest.split_first_chunk()?;
            let (len, after) = after.split_first_chunk()?;
            let (member, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            let score = f64::from_le_bytes(*score);
            if score.is_nan() || sorted.score(member).is_some() {
                return None;
            }
            sorted.insert(member, score);
            rest = after;
        }
        Some(sorted)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::table::call::Chance;

    type Model = BTreeMap<Vec<u8>, f64>;

    fn in_order(model: &Model) -> Vec<(&[u8], f64)> {
        let mut order: Vec<(&[u8], f64)> = model.iter().map(|(member, score)| (&member[..], *score)).collect();
        order.sort_by(|a, b| a.1.partial_cmp(&b.1).expect("no NaN").then(a.0.cmp(b.0)));
        order
    }

    fn recounted(sorted: &Sorted) -> usize {
        match &sorted.form {
            Form::Packed(packed) => allocated(packed.bytes.capacity()),
            Form::Many(many) => {
                let members: usize = many.members.iter().map(|member| allocated(member.bytes.len())).sum();
                allocated(size_of::<Many>())
                    + allocated(many.members.capacity() * size_of::<Member>())
                    + allocated(many.numbers.allocation_size())
                    + many.ranks.heap_bytes()
                    + members
            }
        }
    }

    fn check(sorted: &Sorted, model: &Model, what: &str) {
        let order = in_order(model);
        let len = order.len();
        assert_eq!(sorted.len(), len, "{what}");
        assert!(sorted.iter(0..len).eq(order.iter().copied()), "{what}");
        assert!(sorted.iter(0..len).rev().eq(order.iter().rev().copied()), "{what}: backward");
        assert!(sorted.iter(len / 3..len / 2).eq(order[len / 3..len / 2].iter().copied()), "{what}: part");
        let mut bytes = Vec::new();
        sorted.encode(&mut bytes);
        let copy = Sorted::decode(&bytes).expect("what was encoded");
        assert!(copy.iter(0..len).eq(order.iter().copied()), "{what}: decoded");
        assert_eq!((copy.sum(), copy.encoding()), (sorted.sum(), sorted.encoding()), "{what}: decoded");
        let mut again = Vec::new();
        copy.encode(&mut again);
        assert!(bytes == again, "{what}: encoded again");
        let mut other = Sorted::default();
        for (member, score) in model {
            other.insert(member, *score);
        }
        assert_eq!(other.sum(), sorted.sum(), "{what}: put in in another order");
        for (rank, (member, score)) in order.iter().enumerate().step_by(1 + len / 50) {
            assert_eq!(sorted.rank(member), Some((rank, *score)), "{what}");
            assert_eq!(sorted.score(member), Some(*score), "{what}");
            assert_eq!(sorted.get(rank), Some((*member, *score)), "{what}");
            let below = order.iter().filter(|(_, other)| other < score).count();
            assert_eq!(sorted.count_by_score(|other| other < *score), below, "{what}");
        }
        assert_eq!(sorted.get(len), None, "{what}");
        let mut seen = Vec::new();
        let mut cursor = 0;
        loop {
            cursor = sorted.scan(cursor, 7, |member, score| seen.push((member.to_vec(), score)));
            if cursor == 0 {
                break;
            }
        }
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(seen.iter().map(|(member, score)| (member, score)).eq(model.iter()), "{what}: scanned");
        assert_eq!(sorted.heap_bytes(), recounted(sorted), "{what}: bytes");
        assert_eq!(sorted.clone().heap_bytes(), recounted(&sorted.clone()), "{what}: bytes of a copy");
    }

    fn score(chance: &mut Chance) -> f64 {
        match chance.below(12) {
            0 => f64::INFINITY,
            1 => f64::NEG_INFINITY,
            2 => 0.0,
            3 => f64::from(chance.next_u64() as i32) / 1_000.0,
            _ => chance.below(5) as f64 - 2.0,
        }
    }

    #[test]
    fn it_is_what_a_map_would_be() {
        for seed in 0..600 {
            let mut chance = Chance::new(seed);
            let (mut sorted, mut model) = (Sorted::default(), Model::new());
            let names = [10, 100, 1_000, 100_000][chance.below(4)];
            let long = chance.below(3) == 0;
            let steps = chance.below(if seed % 20 == 0 { 8_000 } else { 700 });
            for number in 0..steps {
                let mut member = format!("m{}", chance.below(names)).into_bytes();
                if long && chance.below(50) == 0 {
                    member.resize(chance.below(200), b'l');
                }
                let shrinking = number * 3 > steps * 2;
                match chance.below(if shrinking { 12 } else { 6 }) {
                    0 => assert_eq!(sorted.remove(&member), model.remove(&member), "seed {seed}"),
                    1..=5 => {
                        let score = score(&mut chance);
                        assert_eq!(sorted.insert(&member, score), model.insert(member, score), "seed {seed}");
                    }
                    _ => {
                        let from = chance.below(model.len() + 1);
                        let to = from + chance.below((model.len() - from).min(5) + 1);
                        let going: Vec<(Vec<u8>, f64)> = in_order(&model)[from..to]
                            .iter()
                            .map(|(member, score)| (member.to_vec(), *score))
                            .collect();
                        let mut gone = Vec::new();
                        sorted.remove_ranks(from..to, |member, score| gone.push((member.to_vec(), score)));
                        assert_eq!(gone, going, "seed {seed}");
                        for (member, _) in &gone {
                            model.remove(member);
                        }
                    }
                }
                if number % 200 == 0 {
                    check(&sorted, &model, &format!("seed {seed}, step {number}"));
                }
            }
            check(&sorted, &model, &format!("seed {seed}"));
            sorted.remove_ranks(0..sorted.len(), |_, _| ());
            assert_eq!(sorted.sum(), 0, "seed {seed}: empty");
        }
    }

    #[test]
    fn a_scan_sees_what_is_there_all_the_time() {
        for seed in 0..300 {
            let mut chance = Chance::new(seed);
            let mut sorted = Sorted::default();
            for number in 0..400 {
                sorted.insert(format!("stays{number}").as_bytes(), score(&mut chance));
                sorted.insert(format!("goes{number}").as_bytes(), score(&mut chance));
            }
            let (mut seen, mut cursor) = (std::collections::BTreeSet::new(), 0);
            loop {
                cursor = sorted.scan(cursor, 1 + chance.below(30), |member, _| {
                    seen.insert(member.to_vec());
                });
                if cursor == 0 {
                    break;
                }
                for _ in 0..chance.below(30) {
                    sorted.remove(format!("goes{}", chance.below(800)).as_bytes());
                    sorted.insert(format!("goes{}", chance.below(800)).as_bytes(), score(&mut chance));
                    sorted.insert(format!("stays{}", chance.below(400)).as_bytes(), score(&mut chance));
                }
            }
            let stayed = seen.iter().filter(|member| member.starts_with(b"stays")).count();
            assert_eq!(stayed, 400, "seed {seed}");
        }
    }

    #[test]
    fn damage_is_noticed() {
        let mut bytes = vec![0];
        for member in [b"a", b"a"] {
            bytes.extend_from_slice(&1.0f64.to_le_bytes());
            bytes.extend_from_slice(&1u32.to_le_bytes());
            bytes.extend_from_slice(member);
        }
        assert!(Sorted::decode(&bytes).is_none(), "a member twice");
        bytes.truncate(14);
        assert!(Sorted::decode(&bytes).is_some());
        (0..14)
            .filter(|len| *len != 1)
            .for_each(|len| assert!(Sorted::decode(&bytes[..len]).is_none(), "cut at {len}"));
        bytes[1..9].copy_from_slice(&f64::NAN.to_le_bytes());
        assert!(Sorted::decode(&bytes).is_none(), "no number");
    }
}
