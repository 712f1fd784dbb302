//! A list: elements in the order they were put in, long or short, quick at both ends.
//!
//! ```text
//!   few elements:  one run
//!   many:          run | run | ... | run        each of about 8 KiB; an element that is longer has one for itself
//! ```
//!
//! An element in the middle is found by passing over runs, from the end that is nearer. What is put in or taken out there
//! changes one run, which is divided when it has grown too long and joined with its neighbour when both are short.
//!
//! A list of many runs keeps steps back, if it is asked to: what was done at its ends or to one element is undone as it was done.
//! Before more than that a copy is made; that takes as long as the change itself.
//!
//! Always: only an empty list has a run without elements.

use std::collections::VecDeque;

use super::run::{BASE, INVERSE, Run, hash_of, taken};
use super::{Kind, variant};
use crate::table::allocated;

/// A run takes no element more once it has so many bytes.
const RUN_BYTES_MAX: usize = 8 << 10;
/// Two neighbours that together have fewer bytes become one.
const JOINED_BYTES: usize = RUN_BYTES_MAX / 2;

/// A list.
#[derive(Debug)]
pub struct List {
    runs: Runs,
    len: usize,
    sum: u64,
    /// The base to the power of `len`.
    power: u64,
    /// What the runs have allocated.
    bytes: usize,
}

#[derive(Debug, Clone)]
enum Runs {
    One(Run),
    Many(VecDeque<Run>, Backs),
}

/// What undoes what was done, if that is kept.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "hardly any list keeps steps")]
struct Backs(Option<Box<Vec<Back>>>);

/// A copy begins anew.
impl Clone for Backs {
    fn clone(&self) -> Backs {
        Backs(None)
    }
}

/// What undoes a change.
#[derive(Debug)]
enum Back {
    Pop(End),
    Push(End, Box<[u8]>),
    Set(usize, Box<[u8]>),
    /// The list as it was.
    Whole(Box<List>),
}

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where the first element is.
    Left,
    /// Where the last is.
    Right,
}

impl Default for List {
    fn default() -> List {
        List { runs: Runs::One(Run::default()), len: 0, sum: 0, power: 1, bytes: 0 }
    }
}

impl Clone for List {
    fn clone(&self) -> List {
        let mut list =
            List { runs: self.runs.clone(), len: self.len, sum: self.sum, power: self.power, bytes: self.bytes };
        // A copy has what it needs, and no room to grow.
        list.count_bytes();
        list
    }
}

impl List {
    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The steps, where more are to be kept: what comes after a copy of all needs none.
    fn backs(&mut self) -> Option<&mut Vec<Back>> {
        match &mut self.runs {
            Runs::One(_) => None,
            Runs::Many(_, backs) => {
                backs.0.as_deref_mut().filter(|backs| !matches!(backs.last(), Some(Back::Whole(_))))
            }
        }
    }

    fn note(&mut self, back: Back) {
        if let Some(backs) = self.backs() {
            backs.push(back);
        }
    }

    /// Before a change that no short step undoes.
    fn note_all(&mut self) {
        if self.backs().is_some() {
            let whole = Box::new(self.clone());
            self.note(Back::Whole(whole));
        }
    }

    /// Keeps steps no longer; those that were, the last first.
    fn take_backs(&mut self) -> impl Iterator<Item = Back> + use<> {
        let backs = match &mut self.runs {
            Runs::One(_) => None,
            Runs::Many(_, backs) => backs.0.take(),
        };
        self.runs.simplify();
        backs.map(|backs| *backs).unwrap_or_default().into_iter().rev()
    }

    fn undo(&mut self, backs: impl Iterator<Item = Back>) {
        for back in backs {
            match back {
                Back::Pop(end) => {
                    self.pop(end, |_| ());
                }
                Back::Push(end, element) => self.push(end, &element),
                Back::Set(index, element) => {
                    self.set(index, &element);
                }
                Back::Whole(whole) => *self = *whole,
            }
        }
    }

    fn count_bytes(&mut self) {
        self.bytes = (0..self.runs.len()).map(|run| allocated(self.runs.get(run).capacity())).sum();
    }

    /// Changes one run, and keeps count of its bytes.
    fn change<R>(&mut self, run: usize, change: impl FnOnce(&mut Run) -> R) -> R {
        let run = self.runs.get_mut(run);
        let before = allocated(run.capacity());
        let result = change(run);
        self.bytes = self.bytes + allocated(run.capacity()) - before;
        result
    }

    /// Adds an element at an end.
    pub fn push(&mut self, end: End, element: &[u8]) {
        let last = self.runs.len() - 1;
        let run = if end == End::Left { 0 } else { last };
        let used = self.runs.get(run).used();
        let full = used > 0 && used + taken(element.len()) > RUN_BYTES_MAX;
        if full {
            let runs = self.runs.many();
            match end {
                End::Left => runs.push_front(Run::default()),
                End::Right => runs.push_back(Run::default()),
            }
        }
        let run = if full && end == End::Right { run + 1 } else { run };
        match end {
            End::Left => {
                self.change(run, |run| run.push_front(element));
                self.sum = hash_of(element).wrapping_add(self.sum.wrapping_mul(BASE));
            }
            End::Right => {
                self.change(run, |run| run.push_back(element));
                self.sum = self.sum.wrapping_add(hash_of(element).wrapping_mul(self.power));
            }
        }
        self.len += 1;
        self.power = self.power.wrapping_mul(BASE);
        self.note(Back::Pop(end));
    }

    /// Takes the element at an end, and gives it to `take`.
    pub fn pop<R>(&mut self, end: End, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        if self.len == 0 {
            return None;
        }
        let run = if end == End::Left { 0 } else { self.runs.len() - 1 };
        self.len -= 1;
        self.power = self.power.wrapping_mul(INVERSE);
        let power = self.power;
        let (mut hash, mut was) = (0, self.backs().is_some().then(Box::default));
        let taking = |element: &[u8]| {
            hash = hash_of(element);
            if let Some(was) = &mut was {
                *was = Box::from(element);
            }
            take(element)
        };
        let result = match end {
            End::Left => self.change(run, |run| run.pop_front(taking)),
            End::Right => self.change(run, |run| run.pop_back(taking)),
        };
        self.sum = match end {
            End::Left => self.sum.wrapping_sub(hash).wrapping_mul(INVERSE),
            End::Right => self.sum.wrapping_sub(hash.wrapping_mul(power)),
        };
        if let Some(was) = was {
            self.note(Back::Push(end, was));
        }
        self.drop_empty(end);
        Some(result)
    }

    /// Removes the run at an end if nothing is in it.
    fn drop_empty(&mut self, end: End) {
        let run = if end == End::Left { 0 } else { self.runs.len() - 1 };
        if self.runs.get(run).len() == 0 {
            self.runs.remove(run);
        }
        self.runs.simplify();
    }

    /// Removes so many elements, or all, from an end.
    pub fn drop_from(&mut self, end: End, count: usize) {
        let mut left = count.min(self.len);
        if self.backs().is_some() {
            for _ in 0..left {
                self.pop(end, |_| ());
            }
            return;
        }
        while left > 0 {
            let run = if end == End::Left { 0 } else { self.runs.len() - 1 };
            let whole = self.runs.get(run);
            if whole.len() > left {
                for _ in 0..left {
                    self.pop(end, |_| ());
                }
                return;
            }
            let (len, sum, capacity) = (whole.len(), whole.sum(), whole.capacity());
            let inverse = INVERSE.wrapping_pow(len as u32);
            self.power = self.power.wrapping_mul(inverse);
            self.sum = match end {
                End::Left => self.sum.wrapping_sub(sum).wrapping_mul(inverse),
                End::Right => self.sum.wrapping_sub(sum.wrapping_mul(self.power)),
            };
            self.bytes -= allocated(capacity);
            self.len -= len;
            left -= len;
            self.runs.remove(run);
        }
        self.runs.simplify();
    }

    /// The run that has the element at a place, and its place there. The place is at most the length, and then after the
    /// last element of the last run.
    fn find(&self, index: usize) -> (usize, usize) {
        let runs = self.runs.len();
        if index <= self.len / 2 {
            let mut before = 0;
            for run in 0..runs {
                let len = self.runs.get(run).len();
                if index < before + len {
                    return (run, index - before);
                }
                before += len;
            }
        } else {
            let mut before = self.len;
            for run in (0..runs).rev() {
                before -= self.runs.get(run).len();
                if index >= before {
                    return (run, index - before);
                }
            }
        }
        (runs - 1, self.runs.get(runs - 1).len())
    }

    /// The element at a place.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if index >= self.len {
            return None;
        }
        let (run, index) = self.find(index);
        Some(self.runs.get(run).get(index))
    }

    /// The elements from a place on.
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        let (run, index) = self.find(index.min(self.len));
        let rest = (run + 1..self.runs.len()).flat_map(|run| self.runs.get(run).iter_from(0));
        self.runs.get(run).iter_from(index).chain(rest)
    }

    /// The elements from the last to the first.
    pub fn iter_back(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.runs.len()).rev().flat_map(|run| self.runs.get(run).iter_from(0).rev())
    }

    /// Puts an element in the place of another. Says no where there is none.
    pub fn set(&mut self, index: usize, element: &[u8]) -> bool {
        if index >= self.len {
            return false;
        }
        let (run, within) = self.find(index);
        if self.backs().is_some() {
            let was = Box::from(self.runs.get(run).get(within));
            self.note(Back::Set(index, was));
        }
        let old = hash_of(self.runs.get(run).get(within));
        self.change(run, |run| run.set(within, element));
        let power = power_of(index);
        self.sum = self.sum.wrapping_add(hash_of(element).wrapping_sub(old).wrapping_mul(power));
        self.divide(run);
        true
    }

    /// Puts an element before the one at a place, or at the end.
    pub fn insert(&mut self, index: usize, element: &[u8]) {
        if index == 0 || index >= self.len {
            return self.push(if index == 0 { End::Left } else { End::Right }, element);
        }
        self.note_all();
        let (run, within) = self.find(index);
        self.change(run, |run| run.insert(within, element));
        self.divide(run);
        self.add_up();
    }

    /// Divides a run that has become too long.
    fn divide(&mut self, run: usize) {
        let mut run = run;
        // A long element between others leaves it alone after two steps.
        for _ in 0..2 {
            let it = self.runs.get(run);
            if it.used() <= RUN_BYTES_MAX || it.len() < 2 {
                return;
            }
            let second = self.change(run, Run::split);
            self.bytes += allocated(second.capacity());
            self.runs.many().insert(run + 1, second);
            if self.runs.get(run).used() <= RUN_BYTES_MAX {
                run += 1;
            }
        }
    }

    /// Removes elements that are equal to one, at most so many, from one end on. Says how many there were.
    pub fn remove_equal(&mut self, element: &[u8], from: End, most: usize) -> usize {
        self.note_all();
        let (runs, mut left) = (self.runs.len(), most);
        for step in 0..runs {
            if left == 0 {
                break;
            }
            let run = if from == End::Left { step } else { runs - 1 - step };
            let skipped = match from {
                End::Left => 0,
                End::Right => self.runs.get(run).count_equal(element).saturating_sub(left),
            };
            left -= self.change(run, |run| run.remove_equal(element, skipped, left));
        }
        if left < most {
            self.join();
            self.add_up();
        }
        most - left
    }

    /// Removes empty runs and joins short ones.
    fn join(&mut self) {
        if let Runs::Many(runs, _) = &mut self.runs {
            let mut joined: VecDeque<Run> = VecDeque::with_capacity(runs.len());
            for run in runs.drain(..).filter(|run| run.len() > 0) {
                match joined.back_mut() {
                    Some(last) if last.used() + run.used() <= JOINED_BYTES => last.append(&run),
                    _ => joined.push_back(run),
                }
            }
            if joined.is_empty() {
                joined.push_back(Run::default());
            }
            *runs = joined;
            self.count_bytes();
            self.runs.simplify();
        }
    }

    /// Computes length and sum anew from those of the runs.
    fn add_up(&mut self) {
        let (mut len, mut sum, mut power) = (0, 0u64, 1u64);
        for run in 0..self.runs.len() {
            let run = self.runs.get(run);
            len += run.len();
            sum = sum.wrapping_add(run.sum().wrapping_mul(power));
            power = power.wrapping_mul(run.power());
        }
        (self.len, self.sum, self.power) = (len, sum, power);
    }
}

fn power_of(index: usize) -> u64 {
    // Powers of an odd base come round after 2^62.
    let (mut power, mut square, mut left) = (1u64, BASE, index as u64);
    while left > 0 {
        if left & 1 == 1 {
            power = power.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        left >>= 1;
    }
    power
}

impl Runs {
    fn len(&self) -> usize {
        match self {
            Runs::One(_) => 1,
            Runs::Many(runs, _) => runs.len(),
        }
    }

    fn get(&self, run: usize) -> &Run {
        match self {
            Runs::One(one) => one,
            Runs::Many(runs, _) => &runs[run],
        }
    }

    fn get_mut(&mut self, run: usize) -> &mut Run {
        match self {
            Runs::One(one) => one,
            Runs::Many(runs, _) => &mut runs[run],
        }
    }

    fn many(&mut self) -> &mut VecDeque<Run> {
        if let Runs::One(one) = self {
            *self = Runs::Many(VecDeque::from([std::mem::take(one)]), Backs::default());
        }
        match self {
            Runs::Many(runs, _) => runs,
            Runs::One(_) => unreachable!("it was made many above"),
        }
    }

    /// Removes a run; the only one becomes an empty one.
    fn remove(&mut self, run: usize) {
        match self {
            Runs::One(one) => *one = Run::default(),
            Runs::Many(runs, _) if runs.len() == 1 => runs[0] = Run::default(),
            Runs::Many(runs, _) => {
                runs.remove(run);
                if runs.capacity() > 16 && runs.len() < runs.capacity() / 4 {
                    runs.shrink_to(runs.len() * 2);
                }
            }
        }
    }

    /// One run, once that has room enough; not while steps are kept.
    fn simplify(&mut self) {
        if let Runs::Many(runs, Backs(None)) = self
            && runs.len() == 1
            && runs[0].used() <= JOINED_BYTES
        {
            *self = Runs::One(std::mem::take(&mut runs[0]));
        }
    }
}

impl Kind for List {
    const NAME: &'static str = "list";
    const TAG: u8 = 2;

    variant!(List);

    fn begin_steps(&mut self) -> bool {
        match &mut self.runs {
            Runs::One(_) => false,
            Runs::Many(_, backs) => {
                backs.0 = Some(Box::default());
                true
            }
        }
    }

    fn step_back(&mut self) {
        let backs = self.take_backs();
        self.undo(backs);
    }

    fn end_steps(&mut self) {
        drop(self.take_backs());
    }

    fn before_steps(&mut self) -> List {
        let (mut was, backs) = (self.clone(), self.take_backs());
        was.undo(backs);
        was
    }

    fn encoding(&self) -> &'static str {
        match self.runs {
            Runs::One(_) => "listpack",
            Runs::Many(..) => "quicklist",
        }
    }

    fn heap_bytes(&self) -> usize {
        match &self.runs {
            Runs::One(_) => self.bytes,
            Runs::Many(runs, _) => self.bytes + allocated(runs.capacity() * size_of::<Run>()),
        }
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn sum(&self) -> u64 {
        self.sum
    }

    /// Each element with its length before it.
    fn encode(&self, out: &mut Vec<u8>) {
        for element in self.iter_from(0) {
            out.extend_from_slice(&(element.len() as u32).to_le_bytes());
            out.extend_from_slice(element);
        }
    }

    fn decode(mut bytes: &[u8]) -> Option<List> {
        let mut list = List::default();
        while !bytes.is_empty() {
            let (len, rest) = bytes.split_first_chunk()?;
            let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            list.push(End::Right, element);
            bytes = rest;
        }
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;

    fn check(list: &List, model: &VecDeque<Vec<u8>>, what: &str) {
        assert_eq!(list.len(), model.len(), "{what}");
        assert!(list.iter_from(0).eq(model.iter()), "{what}");
        assert!(list.iter_back().eq(model.iter().rev()), "{what}: backward");
        let mut bytes = Vec::new();
        list.encode(&mut bytes);
        let copy = List::decode(&bytes).expect("what was encoded");
        assert!(copy.iter_from(0).eq(model.iter()), "{what}: decoded");
        assert_eq!(list.sum(), copy.sum(), "{what}: sum");
        for list in [list, &list.clone()] {
            let runs: Vec<&Run> = (0..list.runs.len()).map(|run| list.runs.get(run)).collect();
            let counted: usize = runs.iter().map(|run| allocated(run.capacity())).sum();
            let deque = match &list.runs {
                Runs::One(_) => 0,
                Runs::Many(runs, _) => allocated(runs.capacity() * size_of::<Run>()),
            };
            assert_eq!(list.heap_bytes(), counted + deque, "{what}: bytes");
            assert!(runs.iter().all(|run| run.len() > 0 || model.is_empty()), "{what}: empty run");
            assert!(runs.iter().all(|run| run.len() == 1 || run.used() <= RUN_BYTES_MAX), "{what}: long run");
        }
    }

    fn element(chance: &mut Chance, long: usize) -> Vec<u8> {
        let len = match chance.below(20) {
            0 => chance.below(long),
            1 => 250 + chance.below(10),
            _ => chance.below(4),
        };
        let byte = b'a' + chance.below(3) as u8;
        vec![byte; len]
    }

    fn step(chance: &mut Chance, list: &mut List, model: &mut VecDeque<Vec<u8>>, long: usize, shrinking: bool) {
        let end = if chance.below(2) == 0 { End::Left } else { End::Right };
        let index = chance.below(model.len() + 1);
        match chance.below(if shrinking { 12 } else { 8 }) {
            0..=2 => {
                let element = element(chance, long);
                list.push(end, &element);
                match end {
                    End::Left => model.push_front(element),
                    End::Right => model.push_back(element),
                }
            }
            3 | 4 => {
                let element = element(chance, long);
                list.insert(index, &element);
                model.insert(index, element);
            }
            5 => {
                let element = element(chance, long);
                assert_eq!(list.set(index, &element), index < model.len());
                if let Some(place) = model.get_mut(index) {
                    *place = element;
                }
            }
            6 => assert_eq!(list.get(index), model.get(index).map(Vec::as_slice)),
            7 => assert!(list.iter_from(index).eq(model.range(index..))),
            8 => {
                let count = chance.below(model.len() / 4 + 2);
                list.drop_from(end, count);
                for _ in 0..count {
                    if end == End::Left {
                        model.pop_front()
                    } else {
                        model.pop_back()
                    };
                }
            }
            9 => {
                let (element, most) = (element(chance, long), 1 + chance.below(5));
                let mut found: Vec<usize> = (0..model.len()).filter(|place| model[*place] == element).collect();
                if end == End::Right {
                    found.reverse();
                }
                found.truncate(most);
                assert_eq!(list.remove_equal(&element, end, most), found.len());
                found.sort_unstable();
                found.iter().rev().for_each(|place| drop(model.remove(*place)));
            }
            _ => {
                let popped = list.pop(end, <[u8]>::to_vec);
                assert_eq!(popped, if end == End::Left { model.pop_front() } else { model.pop_back() });
            }
        }
    }

    #[test]
    fn it_is_what_a_deque_would_be() {
        for seed in 0..1_500 {
            let mut chance = Chance::new(seed);
            let (mut list, mut model) = (List::default(), VecDeque::new());
            let long = [300, 3_000, 20_000][chance.below(3)];
            let steps = chance.below(300);
            for number in 0..steps {
                let shrinking = number * 2 > steps;
                step(&mut chance, &mut list, &mut model, long, shrinking);
                if number % 16 == 0 {
                    check(&list, &model, &format!("seed {seed}, step {number}"));
                }
            }
            check(&list, &model, &format!("seed {seed}"));
            while list.pop(End::Right, |_| ()).is_some() {}
            assert_eq!((list.sum(), list.heap_bytes()), (0, 0), "seed {seed}: empty");
        }
    }

    #[test]
    fn it_goes_back_to_what_it_was() {
        for seed in 0..400 {
            let mut chance = Chance::new(seed);
            let (mut list, mut model) = (List::default(), VecDeque::new());
            let long = [300, 3_000, 20_000][chance.below(3)];
            // Long enough to be of many runs.
            for _ in 0..2_000 {
                step(&mut chance, &mut list, &mut model, long, false);
            }
            let (before, sum) = (model.clone(), list.sum());
            assert!(list.begin_steps(), "seed {seed}");
            // Now and then all of it goes.
            let steps = chance.below(if seed % 8 == 0 { 60 } else { 20 });
            for _ in 0..steps {
                step(&mut chance, &mut list, &mut model, long, true);
            }
            if seed % 16 == 0 {
                list.drop_from(End::Left, usize::MAX);
                model.clear();
            }
            match seed % 3 {
                0 => {
                    list.end_steps();
                    check(&list, &model, &format!("seed {seed}: kept"));
                }
                1 => {
                    list.step_back();
                    assert_eq!(list.sum(), sum, "seed {seed}");
                    check(&list, &before, &format!("seed {seed}: back"));
                }
                _ => {
                    check(&list.before_steps(), &before, &format!("seed {seed}: before"));
                    check(&list, &model, &format!("seed {seed}: after"));
                }
            }
        }
    }

    #[test]
    fn it_is_copied_once_for_all_steps() {
        let mut list = List::default();
        (0..20_000u32).for_each(|number| list.push(End::Right, &number.to_le_bytes()));
        let sum = list.sum();
        assert!(list.begin_steps());
        list.set(7, b"seven");
        for number in 0..500u32 {
            list.remove_equal(&number.to_le_bytes(), End::Left, 1);
            list.insert(3, b"three");
            list.set(9, b"nine");
            list.pop(End::Right, |_| ());
        }
        let Runs::Many(_, Backs(Some(backs))) = &list.runs else { panic!("it keeps steps") };
        assert_eq!(backs.len(), 2);
        list.step_back();
        assert_eq!((list.sum(), list.len()), (sum, 20_000));
    }

    #[test]
    fn a_long_one_becomes_short_again() {
        let mut list = List::default();
        for number in 0..100_000u32 {
            list.push(if number % 2 == 0 { End::Left } else { End::Right }, number.to_string().as_bytes());
        }
        assert_eq!(list.encoding(), "quicklist");
        assert_eq!(list.get(50_000), Some(&b"1"[..]));
        list.drop_from(End::Left, 49_990);
        list.drop_from(End::Right, 49_990);
        assert_eq!((list.encoding(), list.len()), ("listpack", 20));
        assert!(list.heap_bytes() < 1_000, "{}", list.heap_bytes());
    }

    #[test]
    fn damage_is_noticed() {
        let mut list = List::default();
        list.push(End::Left, b"one");
        list.push(End::Left, b"two");
        let mut bytes = Vec::new();
        list.encode(&mut bytes);
        for len in (1..bytes.len()).filter(|len| *len != 7) {
            assert!(List::decode(&bytes[..len]).is_none(), "cut at {len}");
        }
    }
}
