//! Sets: members, each once.
//!
//! ```text
//!   numbers:  n | n | n ...              ascending, each in as many bytes as the widest needs
//!   small:    length | member ...        in the order in which they came
//!   large:    Dense, see there
//! ```
//!
//! A set begins as one of numbers and becomes small with the first member that is none; it becomes large when it has too
//! many members or one that is too long, and does not go back.
//!
//! Always: the sum does not depend on how the set is kept; members of a large set keep their order until one is removed,
//! then the last comes to its place.

use std::io::Write;
use std::ops::Deref;

use xxhash_rust::xxh3::xxh3_64;

use super::dense::Dense;
use super::steps::{STEPS_MIN, Step, Steps};
use super::{Kind, variant};
use crate::table::allocated;
use crate::table::commands::parse_int;

mod numbers;

use numbers::Numbers;

/// The most members of a set of numbers.
const NUMBERS_MAX: usize = 512;
/// The most members of a small set.
const SMALL_MAX: usize = 128;
/// The longest member of a small set.
const SMALL_BYTES_MAX: usize = 64;
const _: () = assert!(SMALL_BYTES_MAX <= u8::MAX as usize);

/// Members, each once.
#[derive(Debug, Clone)]
pub struct Set {
    form: Form,
    sum: u64,
    steps: Steps<()>,
}

#[derive(Debug, Clone)]
enum Form {
    Numbers(Numbers),
    Small { bytes: Vec<u8>, len: u16 },
    Large(Box<Dense<Box<[u8]>>>),
}

/// A member, as text.
#[derive(Debug, Clone, Copy)]
pub enum Member<'s> {
    /// Which the set holds as it is.
    Text(&'s [u8]),
    /// Which the set holds as a number: its digits, and how many there are.
    Digits([u8; 20], u8),
}

impl Deref for Member<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Member::Text(text) => text,
            Member::Digits(digits, len) => &digits[..usize::from(*len)],
        }
    }
}

impl From<i64> for Member<'_> {
    fn from(number: i64) -> Self {
        let mut digits = [0; 20];
        let mut rest = &mut digits[..];
        // There is room for the longest number.
        let _ = write!(rest, "{number}");
        let len = 20 - rest.len();
        Member::Digits(digits, len as u8)
    }
}

fn small_members(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&len, after) = rest.split_first()?;
        let (member, after) = after.split_at_checked(usize::from(len))?;
        rest = after;
        Some(member)
    })
}

/// Where a member of a small set begins, with its length.
fn small_find(bytes: &[u8], member: &[u8]) -> Option<usize> {
    let mut at = 0;
    for found in small_members(bytes) {
        if found == member {
            return Some(at);
        }
        at += 1 + found.len();
    }
    None
}

impl Default for Set {
    fn default() -> Set {
        Set { form: Form::Numbers(Numbers::default()), sum: 0, steps: Steps::default() }
    }
}

impl Set {
    /// How many members there are.
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Numbers(numbers) => numbers.len(),
            Form::Small { len, .. } => usize::from(*len),
            Form::Large(dense) => dense.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is a member.
    pub fn contains(&self, member: &[u8]) -> bool {
        match &self.form {
            Form::Numbers(numbers) => parse_int(member).is_some_and(|number| numbers.find(number).is_ok()),
            Form::Small { bytes, .. } => small_find(bytes, member).is_some(),
            Form::Large(dense) => dense.find(member).is_some(),
        }
    }

    /// All members, in order.
    pub fn iter(&self) -> impl Iterator<Item = Member<'_>> {
        let (numbers, small, large) = match &self.form {
            Form::Numbers(numbers) => (Some(numbers.iter().map(Member::from)), None, None),
            Form::Small { bytes, .. } => (None, Some(small_members(bytes).map(Member::Text)), None),
            Form::Large(dense) => (None, None, Some(dense.entries().iter().map(|member| Member::Text(member)))),
        };
        let small = numbers.into_iter().flatten().chain(small.into_iter().flatten());
        small.chain(large.into_iter().flatten())
    }

    /// The members as an array, for chance to choose from.
    pub fn choice(&self) -> Choice<'_> {
        match &self.form {
            Form::Large(dense) => Choice::Large(dense),
            _ => Choice::Few(self.iter().collect()),
        }
    }

    /// The next step of a scan: members, and the cursor to go on with; zero begins and ends.
    pub fn scan(&self, cursor: u64, count: usize, mut each: impl FnMut(&[u8])) -> u64 {
        match &self.form {
            Form::Large(dense) => {
                let (step, next) = dense.scan(cursor, count);
                step.for_each(|member| each(member));
                next
            }
            _ => {
                self.iter().for_each(|member| each(&member));
                0
            }
        }
    }

    /// So many members are about to be added, this one first: a set that will be large becomes it at once.
    pub fn expect(&mut self, first: &[u8], count: usize) {
        let most = match &self.form {
            Form::Numbers(numbers) if numbers.len() > 0 || parse_int(first).is_some() => NUMBERS_MAX,
            _ => SMALL_MAX,
        };
        if count > most {
            self.enlarge();
        }
    }

    /// Adds a member, and says whether it is new.
    pub fn add(&mut self, member: &[u8]) -> bool {
        let added = match &mut self.form {
            Form::Numbers(numbers) => match parse_int(member) {
                Some(number) => match numbers.find(number) {
                    Ok(_) => false,
                    Err(_) if numbers.len() == NUMBERS_MAX => {
                        self.enlarge();
                        return self.add(member);
                    }
                    Err(place) => {
                        numbers.insert(place, number);
                        true
                    }
                },
                None => {
                    if numbers.len() < SMALL_MAX && member.len() <= SMALL_BYTES_MAX {
                        self.spell_out();
                    } else {
                        self.enlarge();
                    }
                    return self.add(member);
                }
            },
            Form::Small { bytes, len } => {
                if small_find(bytes, member).is_some() {
                    false
                } else if usize::from(*len) == SMALL_MAX || member.len() > SMALL_BYTES_MAX {
                    self.enlarge();
                    return self.add(member);
                } else {
                    push_small(bytes, member);
                    *len += 1;
                    true
                }
            }
            Form::Large(dense) => {
                let new = dense.find(member).is_none();
                if new {
                    dense.push(member.into());
                }
                new
            }
        };
        if added {
            self.steps.note(member, None);
            self.sum = self.sum.wrapping_add(xxh3_64(member));
        }
        added
    }

    /// Removes a member, and says whether it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        let removed = match &mut self.form {
            Form::Numbers(numbers) => match parse_int(member).map(|number| numbers.find(number)) {
                Some(Ok(place)) => {
                    numbers.remove(place);
                    true
                }
                _ => false,
            },
            Form::Small { bytes, len } => match small_find(bytes, member) {
                Some(at) => {
                    bytes.drain(at..at + 1 + member.len());
                    if bytes.len() < bytes.capacity() / 2 {
                        bytes.shrink_to_fit();
                    }
                    *len -= 1;
                    true
                }
                None => false,
            },
            Form::Large(dense) => match dense.find(member) {
                Some(place) => {
                    dense.swap_remove(place);
                    true
                }
                None => false,
            },
        };
        if removed {
            self.steps.note(member, Some(()));
            self.sum = self.sum.wrapping_sub(xxh3_64(member));
        }
        removed
    }

    fn back(&mut self, steps: impl Iterator<Item = Step<()>>) {
        for (member, was) in steps {
            match was {
                Some(()) => self.add(&member),
                None => self.remove(&member),
            };
        }
    }

    /// Numbers become members of a small set.
    fn spell_out(&mut self) {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for member in self.iter() {
            push_small(&mut bytes, &member);
            len += 1;
        }
        self.form = Form::Small { bytes, len };
    }

    fn enlarge(&mut self) {
        if !matches!(self.form, Form::Large(_)) {
            let mut dense = Dense::default();
            self.iter().for_each(|member| dense.push(Box::from(&*member)));
            self.form = Form::Large(Box::new(dense));
        }
    }
}

fn push_small(bytes: &mut Vec<u8>, member: &[u8]) {
    let more = 1 + member.len();
    if bytes.capacity() < bytes.len() + more {
        // A little ahead, but not double.
        bytes.reserve_exact(more + bytes.len() / 8);
    }
    bytes.push(member.len() as u8);
    bytes.extend_from_slice(member);
}

/// The members of a set as an array.
pub enum Choice<'s> {
    /// Of a large set.
    Large(&'s Dense<Box<[u8]>>),
    /// Of another.
    Few(Vec<Member<'s>>),
}

impl<'s> Choice<'s> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Choice::Large(dense) => dense.len(),
            Choice::Few(members) => members.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One by its place.
    pub fn at(&self, place: usize) -> Member<'s> {
        match self {
            Choice::Large(dense) => Member::Text(&dense.entries()[place]),
            Choice::Few(members) => members[place],
        }
    }
}

const FILE_NUMBERS: u8 = 0;
const FILE_SMALL: u8 = 1;
const FILE_LARGE: u8 = 2;

impl Kind for Set {
    const NAME: &'static str = "set";
    const TAG: u8 = 11;

    variant!(Set);

    fn begin_steps(&mut self) -> bool {
        let many = matches!(self.form, Form::Large(_)) && self.len() >= STEPS_MIN;
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

    fn before_steps(&mut self) -> Set {
        let (steps, mut was) = (self.steps.take(), self.clone());
        was.back(steps);
        was
    }

    fn encoding(&self) -> &'static str {
        match &self.form {
            Form::Numbers(_) => "intset",
            Form::Small { .. } => "listpack",
            Form::Large(_) => "hashtable",
        }
    }

    fn heap_bytes(&self) -> usize {
        match &self.form {
            Form::Numbers(numbers) => numbers.heap_bytes(),
            Form::Small { bytes, .. } => allocated(bytes.capacity()),
            Form::Large(dense) => allocated(size_of::<Dense<Box<[u8]>>>()) + dense.heap_bytes(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn sum(&self) -> u64 {
        self.sum
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match &self.form {
            Form::Numbers(_) => FILE_NUMBERS,
            Form::Small { .. } => FILE_SMALL,
            Form::Large(_) => FILE_LARGE,
        });
        for member in self.iter() {
            out.extend_from_slice(&(member.len() as u32).to_le_bytes());
            out.extend_from_slice(&member);
        }
    }

    fn decode(bytes: &[u8]) -> Option<Set> {
        let (&form, mut rest) = bytes.split_first()?;
        let mut set = Set::default();
        match form {
            FILE_NUMBERS => {}
            FILE_SMALL => set.spell_out(),
            FILE_LARGE => set.enlarge(),
            _ => return None,
        }
        while !rest.is_empty() {
            let (len, after) = rest.split_first_chunk()?;
            let (member, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            if !set.add(member) {
                return None;
            }
            rest = after;
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests;
