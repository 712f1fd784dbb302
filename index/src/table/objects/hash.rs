//! Hashes: fields with values, each of which may have a deadline of its own.
//!
//! ```text
//!   small:  field length | value length | deadline, if the first bit says so | field | value     one after the other
//!   large:  Fields, see there
//! ```
//!
//! A small hash is one allocation, looked through from its beginning. It becomes large when it has too many fields or one
//! that is too long, and does not become small again.
//!
//! Always:
//! - a field whose deadline has passed is not seen by whoever says what time it is; it takes room until
//!   [`expire`](Kind::expire) is called;
//! - fields keep their order until one is removed; then, in a large hash, the last comes to its place.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::fields::Fields;
use super::steps::{STEPS_MIN, Step, Steps};
use super::{Kind, variant};
use crate::table::allocated;

/// The most fields of a small hash.
const SMALL_FIELDS_MAX: usize = 512;
/// The longest field or value of a small hash.
const SMALL_BYTES_MAX: usize = 64;
const _: () = assert!(SMALL_BYTES_MAX < TIMED as usize);

/// Set in a field's length if a deadline follows.
const TIMED: u8 = 0x80;
const DEADLINE: usize = 8;

/// Fields with values and deadlines.
#[derive(Debug, Clone)]
pub struct Hash {
    form: Form,
    sum: u64,
    /// Values and deadlines.
    steps: Steps<(Box<[u8]>, u64)>,
}

#[derive(Debug, Clone)]
enum Form {
    Small(Small),
    Large(Box<Fields>),
}

#[derive(Debug, Clone, Default)]
struct Small {
    bytes: Vec<u8>,
    len: u16,
    timed: u16,
    /// Whether any field ever had a deadline.
    was_timed: bool,
}

/// A field, its value and its deadline; zero: none.
type Parts<'h> = (&'h [u8], &'h [u8], u64);

fn sum_of(field: &[u8], value: &[u8], deadline: u64) -> u64 {
    xxh3_64_with_seed(value, xxh3_64_with_seed(field, deadline))
}

fn is_live(deadline: u64, now: u64) -> bool {
    deadline == 0 || deadline > now
}

impl Small {
    /// The entry at a place, and where the next one is.
    fn parts(&self, at: usize) -> Option<(Parts<'_>, usize)> {
        let [field_len, value_len, rest @ ..] = self.bytes.get(at..)? else { return None };
        let (deadline, rest) = if field_len & TIMED == 0 {
            (0, rest)
        } else {
            let (deadline, rest) = rest.split_first_chunk::<DEADLINE>()?;
            (u64::from_le_bytes(*deadline), rest)
        };
        let (field, rest) = rest.split_at_checked(usize::from(field_len & !TIMED))?;
        let (value, rest) = rest.split_at_checked(usize::from(*value_len))?;
        Some(((field, value, deadline), self.bytes.len() - rest.len()))
    }

    fn iter(&self) -> impl Iterator<Item = Parts<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (parts, next) = self.parts(at)?;
            at = next;
            Some(parts)
        })
    }

    /// Where a field's entry begins and ends.
    fn find(&self, field: &[u8]) -> Option<(usize, usize)> {
        let mut at = 0;
        while let Some(((found, ..), next)) = self.parts(at) {
            if found == field {
                return Some((at, next));
            }
            at = next;
        }
        None
    }

    /// Puts an entry in the place of the bytes of another, or of none.
    fn put(&mut self, range: std::ops::Range<usize>, (field, value, deadline): Parts<'_>) {
        let mut entry = [0; 2 + DEADLINE];
        entry[0] = field.len() as u8 | if deadline == 0 { 0 } else { TIMED };
        entry[1] = value.len() as u8;
        entry[2..].copy_from_slice(&deadline.to_le_bytes());
        let head = if deadline == 0 { &entry[..2] } else { &entry[..] };
        let more = (head.len() + field.len() + value.len()).saturating_sub(range.len());
        if self.bytes.capacity() < self.bytes.len() + more {
            // A little ahead, but not double.
            self.bytes.reserve_exact(more + self.bytes.len() / 8);
        }
        self.bytes.splice(range, head.iter().chain(field).chain(value).copied());
    }

    fn cut(&mut self, range: std::ops::Range<usize>) {
        self.bytes.drain(range);
        if self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
    }
}

impl Default for Hash {
    fn default() -> Hash {
        Hash { form: Form::Small(Small::default()), sum: 0, steps: Steps::default() }
    }
}

impl Hash {
    /// How many fields there are, expired ones too.
    pub(super) fn len(&self) -> usize {
        match &self.form {
            Form::Small(small) => usize::from(small.len),
            Form::Large(fields) => fields.len(),
        }
    }

    /// How many fields have deadlines.
    fn timed(&self) -> usize {
        match &self.form {
            Form::Small(small) => usize::from(small.timed),
            Form::Large(fields) => fields.timed(),
        }
    }

    /// How many fields have expired.
    fn expired(&self, now: u64) -> usize {
        match &self.form {
            Form::Small(small) if small.timed == 0 => 0,
            Form::Small(small) => small.iter().filter(|(.., deadline)| !is_live(*deadline, now)).count(),
            Form::Large(fields) => fields.expired(now).len(),
        }
    }

    /// How many fields there are.
    pub fn live_len(&self, now: u64) -> usize {
        self.len() - self.expired(now)
    }

    /// The value and the deadline of a field.
    pub fn get(&self, field: &[u8], now: u64) -> Option<(&[u8], u64)> {
        let (_, value, deadline) = match &self.form {
            Form::Small(small) => small.parts(small.find(field)?.0)?.0,
            Form::Large(fields) => fields.at(fields.find(field)?),
        };
        is_live(deadline, now).then_some((value, deadline))
    }

    /// All fields with their values, in order.
    pub fn iter(&self, now: u64) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.all().filter(move |(.., deadline)| is_live(*deadline, now)).map(|(field, value, _)| (field, value))
    }

    /// All fields with their values and deadlines, those that have expired too; zero: none.
    pub fn with_deadlines(&self) -> impl Iterator<Item = (&[u8], &[u8], u64)> {
        self.all()
    }

    fn all(&self) -> impl Iterator<Item = Parts<'_>> {
        let (small, large) = match &self.form {
            Form::Small(small) => (Some(small.iter()), None),
            Form::Large(fields) => (None, Some((0..fields.len()).map(|place| fields.at(place)))),
        };
        small.into_iter().flatten().chain(large.into_iter().flatten())
    }

    /// The fields as an array, for chance to choose from.
    pub fn choice(&self, now: u64) -> Choice<'_> {
        match &self.form {
            Form::Large(fields) if !fields.has_expired(now) => Choice::All(AllOf(fields)),
            _ => Choice::Some(self.iter(now).collect()),
        }
    }

    /// The next step of a scan: fields with values, and the cursor to go on with; zero begins and ends.
    pub fn scan<'h>(&'h self, cursor: u64, count: usize, now: u64, mut each: impl FnMut(&'h [u8], &'h [u8])) -> u64 {
        match &self.form {
            Form::Small(_) => {
                self.iter(now).for_each(|(field, value)| each(field, value));
                0
            }
            Form::Large(fields) => {
                let (step, next) = fields.scan(cursor, count);
                let step = step.filter(|(.., deadline)| is_live(*deadline, now));
                step.for_each(|(field, value, _)| each(field, value));
                next
            }
        }
    }

    /// Sets a field, and says whether it is new. It loses its deadline unless that is to be kept.
    pub fn set(&mut self, field: &[u8], value: &[u8], keep_deadline: bool) -> bool {
        if field.len().max(value.len()) > SMALL_BYTES_MAX {
            self.enlarge();
        }
        self.note(field);
        let mut kept = 0;
        let new = match &mut self.form {
            Form::Small(small) => match small.find(field) {
                Some((from, to)) => {
                    if let Some(((_, old, deadline), _)) = small.parts(from) {
                        self.sum = self.sum.wrapping_sub(sum_of(field, old, deadline));
                        kept = if keep_deadline { deadline } else { 0 };
                        small.timed -= u16::from(deadline != 0 && kept == 0);
                    }
                    small.put(from..to, (field, value, kept));
                    false
                }
                None if usize::from(small.len) < SMALL_FIELDS_MAX => {
                    let end = small.bytes.len();
                    small.put(end..end, (field, value, 0));
                    small.len += 1;
                    true
                }
                None => {
                    self.enlarge();
                    return self.set(field, value, keep_deadline);
                }
            },
            Form::Large(fields) => match fields.find(field) {
                Some(place) => {
                    let (_, old, deadline) = fields.at(place);
                    self.sum = self.sum.wrapping_sub(sum_of(field, old, deadline));
                    fields.set_value(place, value);
                    kept = if keep_deadline { deadline } else { 0 };
                    fields.set_deadline(place, kept);
                    false
                }
                None => {
                    fields.push(field, value);
                    true
                }
            },
        };
        self.sum = self.sum.wrapping_add(sum_of(field, value, kept));
        new
    }

    /// Gives a field a deadline; zero: none. Says whether the field is there.
    pub fn set_deadline(&mut self, field: &[u8], deadline: u64) -> bool {
        self.note(field);
        match &mut self.form {
            Form::Small(small) => {
                let Some((from, to)) = small.find(field) else { return false };
                let Some(((_, value, old), _)) = small.parts(from) else { return false };
                // So short that a copy costs nothing.
                let value: Box<[u8]> = value.into();
                self.sum = self.sum.wrapping_sub(sum_of(field, &value, old));
                self.sum = self.sum.wrapping_add(sum_of(field, &value, deadline));
                small.timed = small.timed + u16::from(deadline != 0) - u16::from(old != 0);
                small.was_timed |= deadline != 0;
                small.put(from..to, (field, &value, deadline));
            }
            Form::Large(fields) => {
                let Some(place) = fields.find(field) else { return false };
                let (_, value, old) = fields.at(place);
                self.sum = self.sum.wrapping_sub(sum_of(field, value, old));
                self.sum = self.sum.wrapping_add(sum_of(field, value, deadline));
                fields.set_deadline(place, deadline);
            }
        }
        true
    }

    /// Removes a field, and says whether it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        self.note(field);
        match &mut self.form {
            Form::Small(small) => {
                let Some((from, to)) = small.find(field) else { return false };
                if let Some(((_, value, deadline), _)) = small.parts(from) {
                    self.sum = self.sum.wrapping_sub(sum_of(field, value, deadline));
                    small.timed -= u16::from(deadline != 0);
                }
                small.len -= 1;
                small.cut(from..to);
            }
            Form::Large(fields) => {
                let Some(place) = fields.find(field) else { return false };
                let (_, value, deadline) = fields.at(place);
                self.sum = self.sum.wrapping_sub(sum_of(field, value, deadline));
                fields.remove(place);
            }
        }
        true
    }

    /// Before a field changes.
    fn note(&mut self, field: &[u8]) {
        if let Form::Large(fields) = &self.form
            && self.steps.are_kept()
        {
            let was =
                fields.find(field).map(|place| fields.at(place)).map(|(_, value, deadline)| (value.into(), deadline));
            self.steps.note(field, was);
        }
    }

    fn back(&mut self, steps: impl Iterator<Item = Step<(Box<[u8]>, u64)>>) {
        for (field, was) in steps {
            match was {
                Some((value, deadline)) => {
                    self.set(&field, &value, false);
                    self.set_deadline(&field, deadline);
                }
                None => {
                    self.remove(&field);
                }
            }
        }
    }

    fn enlarge(&mut self) {
        if let Form::Small(small) = &self.form {
            let mut fields = Fields::default();
            for (place, (field, value, deadline)) in small.iter().enumerate() {
                fields.push(field, value);
                fields.set_deadline(place, deadline);
            }
            self.form = Form::Large(Box::new(fields));
        }
    }
}

/// All fields of a large hash.
pub struct AllOf<'h>(&'h Fields);

/// The fields of a hash as an array.
pub enum Choice<'h> {
    /// All that there are.
    All(AllOf<'h>),
    /// These.
    Some(Vec<(&'h [u8], &'h [u8])>),
}

impl<'h> Choice<'h> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Choice::All(AllOf(fields)) => fields.len(),
            Choice::Some(fields) => fields.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One by its place.
    pub fn at(&self, place: usize) -> (&'h [u8], &'h [u8]) {
        match self {
            Choice::All(AllOf(fields)) => {
                let (field, value, _) = fields.at(place);
                (field, value)
            }
            Choice::Some(fields) => fields[place],
        }
    }
}

const FILE_SMALL: u8 = 0;
const FILE_SMALL_TIMED: u8 = 1;
const FILE_LARGE: u8 = 2;
const FILE_HEAD: usize = 4 + 4 + DEADLINE;

impl Kind for Hash {
    const NAME: &'static str = "hash";
    const TAG: u8 = 10;

    variant!(Hash);

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

    fn before_steps(&mut self) -> Hash {
        let (steps, mut was) = (self.steps.take(), self.clone());
        was.back(steps);
        was
    }

    fn encoding(&self) -> &'static str {
        match &self.form {
            Form::Small(small) if small.was_timed => "listpackex",
            Form::Small(_) => "listpack",
            Form::Large(_) => "hashtable",
        }
    }

    fn heap_bytes(&self) -> usize {
        match &self.form {
            Form::Small(small) => allocated(small.bytes.capacity()),
            Form::Large(fields) => allocated(size_of::<Fields>()) + fields.heap_bytes(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn sum(&self) -> u64 {
        self.sum
    }

    fn first_deadline(&self) -> u64 {
        match &self.form {
            Form::Small(small) if small.timed == 0 => 0,
            Form::Small(small) => {
                small.iter().map(|(.., deadline)| deadline).filter(|&deadline| deadline != 0).min().unwrap_or(0)
            }
            Form::Large(fields) => fields.first_deadline(),
        }
    }

    fn is_live(&self, now: u64) -> bool {
        if self.timed() < self.len() || self.is_empty() {
            return true;
        }
        match &self.form {
            Form::Small(small) => small.iter().any(|(.., deadline)| is_live(deadline, now)),
            Form::Large(fields) => fields.latest() > now && self.live_len(now) > 0,
        }
    }

    fn expire(&mut self, now: u64) -> bool {
        let expired: Vec<Box<[u8]>> = match &self.form {
            Form::Small(small) => {
                let expired = small.iter().filter(|(.., deadline)| !is_live(*deadline, now));
                expired.map(|(field, ..)| field.into()).collect()
            }
            Form::Large(fields) => {
                // Always in the same order, which is not that of the timers: the fields that stay move.
                let mut places = fields.expired(now);
                places.sort_unstable();
                places.into_iter().map(|place| fields.at(place).0.into()).collect()
            }
        };
        // Whatever is named here is there.
        expired.iter().filter(|field| self.remove(field)).count() > 0
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match &self.form {
            Form::Small(small) if small.was_timed => FILE_SMALL_TIMED,
            Form::Small(_) => FILE_SMALL,
            Form::Large(_) => FILE_LARGE,
        });
        for (field, value, deadline) in self.all() {
            out.extend_from_slice(&(field.len() as u32).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(&deadline.to_le_bytes());
            out.extend_from_slice(field);
            out.extend_from_slice(value);
        }
    }

    fn decode(bytes: &[u8]) -> Option<Hash> {
        let (&form, mut rest) = bytes.split_first()?;
        let mut hash = Hash::default();
        match &mut hash.form {
            Form::Small(small) => small.was_timed = form == FILE_SMALL_TIMED,
            Form::Large(_) => {}
        }
        match form {
            FILE_SMALL | FILE_SMALL_TIMED => {}
            FILE_LARGE => hash.enlarge(),
            _ => return None,
        }
        while !rest.is_empty() {
            let (head, after) = rest.split_first_chunk::<FILE_HEAD>()?;
            let len = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
            let deadline = u64::from_le_bytes(head[8..].try_into().ok()?);
            let (field, after) = after.split_at_checked(len(0))?;
            let (value, after) = after.split_at_checked(len(4))?;
            if !hash.set(field, value, false) {
                return None;
            }
            if deadline != 0 {
                hash.set_deadline(field, deadline);
            }
            rest = after;
        }
        Some(hash)
    }
}

#[cfg(test)]
mod tests;
