//! The fields of a hash that is not small, with their deadlines.
//!
//! ```text
//!   entries: field | value | place among the timers
//!   timers:  a heap by deadline, each with the place of its field
//! ```
//!
//! Always: a field with a deadline has one timer, and both know each other; the first timer has the earliest deadline.

use super::dense::{Dense, Keyed};
use crate::table::allocated;

/// Stands in the place of a timer where there is none.
const UNTIMED: u32 = u32::MAX;

/// A field with its value, in one allocation.
#[derive(Debug, Clone)]
struct Field {
    text: Box<[u8]>,
    split: u32,
    timer: u32,
}

impl Field {
    fn new(field: &[u8], value: &[u8], timer: u32) -> Field {
        let split = u32::try_from(field.len()).expect("checked where calls come in");
        Field { text: [field, value].concat().into(), split, timer }
    }

    fn value(&self) -> &[u8] {
        &self.text[self.split as usize..]
    }
}

impl Keyed for Field {
    fn key(&self) -> &[u8] {
        &self.text[..self.split as usize]
    }

    fn heap_bytes(&self) -> usize {
        allocated(self.text.len())
    }
}

#[derive(Debug, Clone, Copy)]
struct Timer {
    deadline: u64,
    place: u32,
}

/// Fields with values and deadlines.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    dense: Dense<Field>,
    timers: Vec<Timer>,
    /// No deadline is later.
    latest: u64,
}

impl Fields {
    pub fn len(&self) -> usize {
        self.dense.len()
    }

    pub fn heap_bytes(&self) -> usize {
        self.dense.heap_bytes() + allocated(self.timers.capacity() * size_of::<Timer>())
    }

    pub fn find(&self, field: &[u8]) -> Option<usize> {
        self.dense.find(field)
    }

    /// Field, value and deadline at a place.
    pub fn at(&self, place: usize) -> (&[u8], &[u8], u64) {
        self.parts(&self.dense.entries()[place])
    }

    fn parts<'f>(&'f self, entry: &'f Field) -> (&'f [u8], &'f [u8], u64) {
        let deadline = self.timers.get(entry.timer as usize).map_or(0, |timer| timer.deadline);
        (entry.key(), entry.value(), deadline)
    }

    /// The next step of a scan; see [`Dense::scan`].
    pub fn scan(&self, cursor: u64, count: usize) -> (impl Iterator<Item = (&[u8], &[u8], u64)>, u64) {
        let (step, next) = self.dense.scan(cursor, count);
        (step.map(|entry| self.parts(entry)), next)
    }

    /// Adds a field that is not there, without a deadline.
    pub fn push(&mut self, field: &[u8], value: &[u8]) {
        self.dense.push(Field::new(field, value, UNTIMED));
    }

    pub fn set_value(&mut self, place: usize, value: &[u8]) {
        self.dense.change(place, |entry| {
            if entry.value().len() == value.len() {
                entry.text[entry.split as usize..].copy_from_slice(value);
            } else {
                *entry = Field::new(entry.key(), value, entry.timer);
            }
        });
    }

    /// Gives a field a deadline, or takes it; zero: none.
    pub fn set_deadline(&mut self, place: usize, deadline: u64) {
        let timer = self.dense.entries()[place].timer;
        match (timer, deadline) {
            (UNTIMED, 0) => {}
            (timer, 0) => self.drop_timer(timer as usize),
            (UNTIMED, deadline) => {
                let at = self.timers.len();
                self.timers.push(Timer { deadline, place: place as u32 });
                self.dense.change(place, |entry| entry.timer = at as u32);
                self.rise(at);
                self.latest = self.latest.max(deadline);
            }
            (timer, deadline) => {
                let at = timer as usize;
                self.timers[at].deadline = deadline;
                let at = self.rise(at);
                self.sink(at);
                self.latest = self.latest.max(deadline);
            }
        }
    }

    pub fn remove(&mut self, place: usize) {
        self.set_deadline(place, 0);
        drop(self.dense.swap_remove(place));
        // The last field has its place now.
        if let Some(moved) = self.dense.entries().get(place)
            && let Some(timer) = self.timers.get_mut(moved.timer as usize)
        {
            timer.place = place as u32;
        }
    }

    fn drop_timer(&mut self, at: usize) {
        let dropped = self.timers.swap_remove(at);
        self.dense.change(dropped.place as usize, |entry| entry.timer = UNTIMED);
        if at < self.timers.len() {
            self.tell(at);
            let at = self.rise(at);
            self.sink(at);
        }
        if self.timers.is_empty() {
            self.timers = Vec::new();
            self.latest = 0;
        } else if self.timers.capacity() > 32 && self.timers.len() < self.timers.capacity() / 4 {
            self.timers.shrink_to(self.timers.len() * 2);
        }
    }

    /// A field learns where its timer is.
    fn tell(&mut self, at: usize) {
        let place = self.timers[at].place as usize;
        self.dense.change(place, |entry| entry.timer = at as u32);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.timers.swap(a, b);
        self.tell(a);
        self.tell(b);
    }

    fn rise(&mut self, mut at: usize) -> usize {
        while at > 0 && self.timers[at].deadline < self.timers[(at - 1) / 2].deadline {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        at
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = (2 * at + 1..2 * at + 3).filter(|&child| child < self.timers.len());
            let Some(least) = children.min_by_key(|&child| self.timers[child].deadline) else { return };
            if self.timers[at].deadline <= self.timers[least].deadline {
                return;
            }
            self.swap(at, least);
            at = least;
        }
    }

    /// How many fields have deadlines.
    pub fn timed(&self) -> usize {
        self.timers.len()
    }

    /// The earliest deadline; zero: none.
    pub fn first_deadline(&self) -> u64 {
        self.timers.first().map_or(0, |timer| timer.deadline)
    }

    /// No deadline is later than this.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// Whether a deadline has passed.
    pub fn has_expired(&self, now: u64) -> bool {
        self.timers.first().is_some_and(|timer| timer.deadline <= now)
    }

    /// The places of fields whose deadline has passed, in no order. Looks at few others.
    pub fn expired(&self, now: u64) -> Vec<usize> {
        let (mut places, mut open) = (Vec::new(), vec![0]);
        while let Some(at) = open.pop() {
            if let Some(timer) = self.timers.get(at)
                && timer.deadline <= now
            {
                places.push(timer.place as usize);
                open.extend([2 * at + 1, 2 * at + 2]);
            }
        }
        places
    }

    #[cfg(test)]
    pub fn check(&self) {
        self.dense.check();
        for (at, timer) in self.timers.iter().enumerate() {
            assert_eq!(self.dense.entries()[timer.place as usize].timer as usize, at);
            assert!(self.timers[at.saturating_sub(1) / 2].deadline <= timer.deadline);
            assert!(timer.deadline <= self.latest);
        }
        let timed = self.dense.entries().iter().filter(|entry| entry.timer != UNTIMED).count();
        assert_eq!(timed, self.timers.len());
    }
}
