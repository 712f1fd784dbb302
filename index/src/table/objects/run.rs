//! A run: elements one after the other in one allocation, walked from either end.
//!
//! ```text
//!   | free | element | element | ... |            element = length, bytes, length again
//! ```
//!
//! A length is one byte; where it does not fit there, the byte is 255 and four bytes stand between it and the element. The
//! free part at the front is what elements left that were taken from there, or what was made for elements to come.
//!
//! Its sum is a polynomial over its elements' hashes: `h[0] + h[1] * B + h[2] * B^2 + ...` modulo 2^64. `B` is odd, and so
//! has an inverse, which is why an element can come and go at either end without a look at the others.

use xxhash_rust::xxh3::xxh3_64;

/// The base of the polynomial; five modulo eight, so that its powers are as many as they can be.
pub(super) const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
/// One divided by it, modulo 2^64.
pub(super) const INVERSE: u64 = inverse(BASE);

const fn inverse(odd: u64) -> u64 {
    // Newton's way: each step doubles the number of bits that are right, from three on.
    let (mut inverse, mut step) = (odd, 0);
    while step < 5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
}

/// What an element counts for in the sum.
pub(super) fn hash_of(element: &[u8]) -> u64 {
    xxh3_64(element)
}

const LONG: u8 = u8::MAX;

/// Elements one after the other.
#[derive(Debug, Clone)]
pub(super) struct Run {
    bytes: Vec<u8>,
    /// Where the first element begins.
    start: u32,
    count: u32,
    sum: u64,
    /// The base to the power of `count`.
    power: u64,
}

impl Default for Run {
    fn default() -> Run {
        Run { bytes: Vec::new(), start: 0, count: 0, sum: 0, power: 1 }
    }
}

/// What an element takes in a run.
pub(super) const fn taken(len: usize) -> usize {
    len + 2 * if len < LONG as usize { 1 } else { 5 }
}

/// The element that begins at `at`: where it ends, and what it is.
fn forward(bytes: &[u8], at: usize) -> (usize, &[u8]) {
    let (from, len) = match bytes[at] {
        LONG => {
            let len = [bytes[at + 1], bytes[at + 2], bytes[at + 3], bytes[at + 4]];
            (at + 5, u32::from_le_bytes(len) as usize)
        }
        len => (at + 1, usize::from(len)),
    };
    (at + taken(len), &bytes[from..from + len])
}

/// The element that ends at `end`: where it begins, and what it is.
fn backward(bytes: &[u8], end: usize) -> (usize, &[u8]) {
    let (to, len) = match bytes[end - 1] {
        LONG => {
            let len = [bytes[end - 5], bytes[end - 4], bytes[end - 3], bytes[end - 2]];
            (end - 5, u32::from_le_bytes(len) as usize)
        }
        len => (end - 1, usize::from(len)),
    };
    (end - taken(len), &bytes[to - len..to])
}

/// Writes an element to a place that has room for exactly it.
fn write(place: &mut [u8], element: &[u8]) {
    let (len, end) = (element.len(), place.len());
    if len < usize::from(LONG) {
        (place[0], place[end - 1]) = (len as u8, len as u8);
        place[1..=len].copy_from_slice(element);
    } else {
        let length = (len as u32).to_le_bytes();
        (place[0], place[end - 1]) = (LONG, LONG);
        place[1..5].copy_from_slice(&length);
        place[end - 5..end - 1].copy_from_slice(&length);
        place[5..5 + len].copy_from_slice(element);
    }
}

impl Run {
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// What its elements take.
    pub fn used(&self) -> usize {
        self.bytes.len() - self.start as usize
    }

    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// [`BASE`] to the power of its length.
    pub fn power(&self) -> u64 {
        self.power
    }

    /// Its elements from one place on, the first to the last.
    pub fn iter_from(&self, index: usize) -> RunIter<'_> {
        RunIter { bytes: &self.bytes, at: self.place(index), end: self.bytes.len() }
    }

    /// Where an element begins; for the length of the run, where one would.
    fn place(&self, index: usize) -> usize {
        if index < self.len() / 2 {
            (0..index).fold(self.start as usize, |at, _| forward(&self.bytes, at).0)
        } else {
            (index..self.len()).fold(self.bytes.len(), |end, _| backward(&self.bytes, end).0)
        }
    }

    pub fn get(&self, index: usize) -> &[u8] {
        forward(&self.bytes, self.place(index)).1
    }

    pub fn push_back(&mut self, element: &[u8]) {
        let at = self.bytes.len();
        self.bytes.resize(at + taken(element.len()), 0);
        write(&mut self.bytes[at..], element);
        self.sum = self.sum.wrapping_add(hash_of(element).wrapping_mul(self.power));
        self.came();
    }

    pub fn push_front(&mut self, element: &[u8]) {
        let need = taken(element.len());
        if (self.start as usize) < need {
            // As much again as there is, so that pushing costs a constant on the average.
            let gap = need + self.used() / 2;
            let mut moved = Vec::with_capacity(gap + self.used());
            moved.resize(gap, 0);
            moved.extend_from_slice(&self.bytes[self.start as usize..]);
            (self.bytes, self.start) = (moved, gap as u32);
        }
        let end = self.start as usize;
        write(&mut self.bytes[end - need..end], element);
        self.start -= need as u32;
        self.sum = hash_of(element).wrapping_add(self.sum.wrapping_mul(BASE));
        self.came();
    }

    fn came(&mut self) {
        self.count += 1;
        self.power = self.power.wrapping_mul(BASE);
    }

    fn went(&mut self) {
        self.count -= 1;
        self.power = self.power.wrapping_mul(INVERSE);
        if self.count == 0 {
            *self = Run::default();
        } else if self.capacity() > 64 && self.used() < self.capacity() / 4 {
            self.shrink();
        }
    }

    /// Gives back most of what it has no need of.
    fn shrink(&mut self) {
        let mut moved = Vec::with_capacity(self.used() * 2);
        moved.extend_from_slice(&self.bytes[self.start as usize..]);
        (self.bytes, self.start) = (moved, 0);
    }

    /// Takes the last element, which is there.
    pub fn pop_back<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> R {
        let (at, element) = backward(&self.bytes, self.bytes.len());
        let last = hash_of(element).wrapping_mul(self.power.wrapping_mul(INVERSE));
        let taken = take(element);
        self.sum = self.sum.wrapping_sub(last);
        self.bytes.truncate(at);
        self.went();
        taken
    }

    /// Takes the first element, which is there.
    pub fn pop_front<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> R {
        let (end, element) = forward(&self.bytes, self.start as usize);
        let first = hash_of(element);
        let taken = take(element);
        self.sum = self.sum.wrapping_sub(first).wrapping_mul(INVERSE);
        self.start = end as u32;
        self.went();
        taken
    }

    /// Puts an element before the one that is at this place.
    pub fn insert(&mut self, index: usize, element: &[u8]) {
        if index == self.len() {
            return self.push_back(element);
        }
        let at = self.place(index);
        let need = taken(element.len());
        self.bytes.splice(at..at, std::iter::repeat_n(0, need));
        write(&mut self.bytes[at..at + need], element);
        self.count += 1;
        self.add_up();
    }

    /// Puts an element in the place of another.
    pub fn set(&mut self, index: usize, element: &[u8]) {
        let at = self.place(index);
        let (end, _) = forward(&self.bytes, at);
        let need = taken(element.len());
        if end - at != need {
            self.bytes.splice(at..end, std::iter::repeat_n(0, need));
        }
        write(&mut self.bytes[at..at + need], element);
        self.add_up();
    }

    /// Removes elements that are equal to one: not the first `skipped` of them, and at most `most` after those. Says how
    /// many there were to remove.
    pub fn remove_equal(&mut self, element: &[u8], mut skipped: usize, most: usize) -> usize {
        let (mut from, mut to, mut removed) = (self.start as usize, self.start as usize, 0);
        while from < self.bytes.len() {
            let (end, found) = forward(&self.bytes, from);
            let equal = removed < most && found == element;
            if equal && skipped == 0 {
                removed += 1;
            } else {
                skipped -= usize::from(equal);
                self.bytes.copy_within(from..end, to);
                to += end - from;
            }
            from = end;
        }
        if removed > 0 {
            self.bytes.truncate(to);
            self.count -= removed as u32;
            if self.capacity() > 64 && self.used() < self.capacity() / 4 {
                self.shrink();
            }
            self.add_up();
        }
        removed
    }

    /// How many elements are equal to one.
    pub fn count_equal(&self, element: &[u8]) -> usize {
        self.iter_from(0).filter(|found| *found == element).count()
    }

    /// Takes about the second half of its bytes, at least one element, with at least one left here. There are two or more.
    pub fn split(&mut self) -> Run {
        let half = self.start as usize + self.used() / 2;
        let (mut at, mut kept) = (forward(&self.bytes, self.start as usize).0, 1);
        while at < half && kept + 1 < self.count {
            at = forward(&self.bytes, at).0;
            kept += 1;
        }
        let mut second = Run { bytes: self.bytes[at..].to_vec(), count: self.count - kept, ..Run::default() };
        self.bytes.truncate(at);
        self.count = kept;
        self.shrink();
        self.add_up();
        second.add_up();
        second
    }

    /// Adds the elements of another to its end.
    pub fn append(&mut self, other: &Run) {
        self.bytes.extend_from_slice(&other.bytes[other.start as usize..]);
        self.sum = self.sum.wrapping_add(other.sum.wrapping_mul(self.power));
        self.count += other.count;
        self.power = self.power.wrapping_mul(other.power);
    }

    /// Computes the sum anew, after a change within.
    fn add_up(&mut self) {
        let (mut sum, mut power) = (0u64, 1u64);
        for element in self.iter_from(0) {
            sum = sum.wrapping_add(hash_of(element).wrapping_mul(power));
            power = power.wrapping_mul(BASE);
        }
        (self.sum, self.power) = (sum, power);
    }
}

/// Walks a run from either end.
#[derive(Debug, Clone)]
pub(super) struct RunIter<'r> {
    bytes: &'r [u8],
    at: usize,
    end: usize,
}

impl<'r> Iterator for RunIter<'r> {
    type Item = &'r [u8];

    fn next(&mut self) -> Option<&'r [u8]> {
        if self.at == self.end {
            return None;
        }
        let (end, element) = forward(self.bytes, self.at);
        self.at = end;
        Some(element)
    }
}

impl DoubleEndedIterator for RunIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.at == self.end {
            return None;
        }
        let (at, element) = backward(self.bytes, self.end);
        self.end = at;
        Some(element)
    }
}
