//! The tape: replies as plain bytes, of no protocol.
//!
//! ```text
//!   item = tag, then: a number (8 bytes), or a length (4 bytes) and so many bytes, or a count (4 bytes) of what follows
//! ```
//!
//! Whoever answers writes items one after the other; a count says how many items that follow belong to it. Doors read the
//! tape and write it in their protocol; where two protocols shape the same reply differently, the tape says what it is
//! (a map, pairs) rather than how it looks.

/// What can stand on a tape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Item<'t> {
    /// A short word that all went well with, such as `OK`.
    Status(&'t [u8]),
    /// Nothing was done: the kind of failure, a space, and what is wrong.
    Error(&'t [u8]),
    /// A number.
    Int(i64),
    /// Bytes.
    Bulk(&'t [u8]),
    /// Nothing.
    Null,
    /// Nothing, where an array would have been.
    NullArray,
    /// So many items follow.
    Array(usize),
    /// So many keys with their values follow.
    Map(usize),
    /// So many items follow, in no order.
    Set(usize),
    /// So many pairs of items follow: two-element arrays where a protocol can say more, all in one array where it cannot.
    Pairs(usize),
    /// So many pairs of items follow: a map where there are maps, an array of two-element arrays where there are none.
    Entries(usize),
    /// A number with a fraction.
    Double(f64),
    /// The same, where protocol 2 has it with all its decimals: see [`decimals`].
    Decimal(f64),
    /// True or false.
    Bool(bool),
    /// A text for people.
    Verbatim(&'t [u8]),
    /// Digits of a whole number of any size; bytes where a protocol has no such numbers.
    BigNumber(&'t [u8]),
}

/// A number with seventeen decimals, without the zeros at the end: as Redis writes coordinates.
pub fn decimals(number: f64) -> String {
    let text = format!("{number:.17}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// A count that is filled in later.
#[must_use]
#[derive(Debug)]
pub struct Mark(usize);

/// Replies, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tape {
    bytes: Vec<u8>,
    /// It is not to become longer.
    end: usize,
    /// Something had no room.
    full: bool,
}

impl Default for Tape {
    fn default() -> Tape {
        Tape { bytes: Vec::new(), end: usize::MAX, full: false }
    }
}

const STATUS: u8 = 1;
const ERROR: u8 = 2;
const INT: u8 = 3;
const BULK: u8 = 4;
const NULL: u8 = 5;
const NULL_ARRAY: u8 = 6;
const ARRAY: u8 = 7;
const MAP: u8 = 8;
const SET: u8 = 9;
const PAIRS: u8 = 10;
const ENTRIES: u8 = 11;
const DOUBLE: u8 = 12;
const BOOL: u8 = 13;
const VERBATIM: u8 = 14;
const DECIMAL: u8 = 15;
const BIG_NUMBER: u8 = 16;

impl Tape {
    /// An empty one.
    pub fn new() -> Tape {
        Tape::default()
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written, to keep.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes back what was written after it had so many bytes.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// From now on it takes so many bytes; what has no room is left out, and [`Tape::unbound`] tells.
    pub fn bound(&mut self, bytes: usize) {
        (self.end, self.full) = (self.bytes.len().saturating_add(bytes), false);
    }

    /// From now on it takes anything. Whether all since [`Tape::bound`] had room: what stands there is no reply otherwise.
    pub fn unbound(&mut self) -> bool {
        self.end = usize::MAX;
        !std::mem::take(&mut self.full)
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        let has = bytes <= self.end.saturating_sub(self.bytes.len());
        self.full |= !has;
        has
    }

    fn with_bytes(&mut self, tag: u8, bytes: &[u8]) {
        if !self.has_room(bytes.len() + 5) {
            return;
        }
        self.bytes.reserve(bytes.len() + 5);
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    fn with_eight(&mut self, tag: u8, bytes: [u8; 8]) {
        if self.has_room(9) {
            self.bytes.push(tag);
            self.bytes.extend_from_slice(&bytes);
        }
    }

    fn with_count(&mut self, tag: u8, count: usize) -> usize {
        if self.has_room(5) {
            self.bytes.push(tag);
            self.bytes.extend_from_slice(&(count as u32).to_le_bytes());
        }
        self.bytes.len().saturating_sub(4)
    }

    /// A short word.
    pub fn status(&mut self, status: &str) {
        self.with_bytes(STATUS, status.as_bytes());
    }

    /// `OK`.
    pub fn ok(&mut self) {
        self.status("OK");
    }

    /// A failure: its kind in capitals, a space, and what is wrong.
    pub fn error(&mut self, error: &str) {
        self.with_bytes(ERROR, error.as_bytes());
    }

    /// A number.
    pub fn int(&mut self, number: i64) {
        self.with_eight(INT, number.to_le_bytes());
    }

    /// A count.
    pub fn count(&mut self, count: usize) {
        self.int(count as i64);
    }

    /// Yes or no, as one or zero.
    pub fn flag(&mut self, flag: bool) {
        self.int(i64::from(flag));
    }

    /// Bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.with_bytes(BULK, bytes);
    }

    /// Bytes, or nothing.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Nothing.
    pub fn null(&mut self) {
        if self.has_room(1) {
            self.bytes.push(NULL);
        }
    }

    /// Nothing, where an array would have been.
    pub fn null_array(&mut self) {
        self.bytes.push(NULL_ARRAY);
    }

    /// So many items follow.
    pub fn array(&mut self, count: usize) {
        self.with_count(ARRAY, count);
    }

    /// So many keys with their values follow.
    pub fn map(&mut self, count: usize) {
        self.with_count(MAP, count);
    }

    /// So many items follow, in no order.
    pub fn set(&mut self, count: usize) {
        self.with_count(SET, count);
    }

    /// So many pairs follow; see [`Item::Pairs`].
    pub fn pairs(&mut self, count: usize) {
        self.with_count(PAIRS, count);
    }

    /// So many pairs follow; see [`Item::Entries`].
    pub fn entries(&mut self, count: usize) {
        self.with_count(ENTRIES, count);
    }

    /// A number with a fraction.
    pub fn double(&mut self, number: f64) {
        self.with_eight(DOUBLE, number.to_le_bytes());
    }

    /// The same with all its decimals, where a protocol has no such numbers.
    pub fn decimal(&mut self, number: f64) {
        self.with_eight(DECIMAL, number.to_le_bytes());
    }

    /// True or false.
    pub fn bool(&mut self, truth: bool) {
        self.bytes.push(BOOL);
        self.bytes.push(u8::from(truth));
    }

    /// A text for people.
    pub fn verbatim(&mut self, text: &str) {
        self.with_bytes(VERBATIM, text.as_bytes());
    }

    /// Digits of a whole number of any size.
    pub fn big_number(&mut self, digits: &[u8]) {
        self.with_bytes(BIG_NUMBER, digits);
    }

    /// An array whose count is not known yet; [`Tape::close`] says it.
    pub fn open_array(&mut self) -> Mark {
        Mark(self.with_count(ARRAY, 0))
    }

    /// The same of a set.
    pub fn open_set(&mut self) -> Mark {
        Mark(self.with_count(SET, 0))
    }

    /// The same of entries.
    pub fn open_entries(&mut self) -> Mark {
        Mark(self.with_count(ENTRIES, 0))
    }

    /// The same of pairs.
    pub fn open_pairs(&mut self) -> Mark {
        Mark(self.with_count(PAIRS, 0))
    }

    /// Says how many there were.
    pub fn close(&mut self, mark: Mark, count: usize) {
        if let Some(place) = self.bytes.get_mut(mark.0..mark.0 + 4) {
            place.copy_from_slice(&(count as u32).to_le_bytes());
        }
    }

    /// Adds what stands on another tape.
    pub fn append(&mut self, other: &[u8]) {
        if self.has_room(other.len()) {
            self.bytes.extend_from_slice(other);
        }
    }

    /// The items, in order.
    pub fn items(&self) -> Items<'_> {
        Items::new(&self.bytes)
    }
}

/// The items of a tape.
#[derive(Debug, Clone)]
pub struct Items<'t> {
    rest: &'t [u8],
}

impl<'t> Items<'t> {
    /// Of the bytes that [`Tape::bytes`] gave. Bytes that are no tape end early.
    pub fn new(bytes: &'t [u8]) -> Items<'t> {
        Items { rest: bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'t [u8] {
        self.rest
    }

    fn take(&mut self, len: usize) -> Option<&'t [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn eight(&mut self) -> Option<[u8; 8]> {
        self.take(8)?.try_into().ok()
    }

    fn count(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize)
    }

    fn counted(&mut self) -> Option<&'t [u8]> {
        let len = self.count()?;
        self.take(len)
    }

    /// Passes over one whole reply, and gives its bytes.
    pub fn whole(&mut self) -> Option<&'t [u8]> {
        let before = self.rest;
        let mut open = 1usize;
        while open > 0 {
            open -= 1;
            open += match self.next()? {
                Item::Array(n) | Item::Set(n) => n,
                Item::Map(n) | Item::Pairs(n) | Item::Entries(n) => n * 2,
                _ => 0,
            };
        }
        Some(&before[..before.len() - self.rest.len()])
    }
}

impl<'t> Iterator for Items<'t> {
    type Item = Item<'t>;

    fn next(&mut self) -> Option<Item<'t>> {
        Some(match *self.take(1)?.first()? {
            STATUS => Item::Status(self.counted()?),
            ERROR => Item::Error(self.counted()?),
            INT => Item::Int(i64::from_le_bytes(self.eight()?)),
            BULK => Item::Bulk(self.counted()?),
            NULL => Item::Null,
            NULL_ARRAY => Item::NullArray,
            ARRAY => Item::Array(self.count()?),
            MAP => Item::Map(self.count()?),
            SET => Item::Set(self.count()?),
            PAIRS => Item::Pairs(self.count()?),
            ENTRIES => Item::Entries(self.count()?),
            DOUBLE => Item::Double(f64::from_le_bytes(self.eight()?)),
            DECIMAL => Item::Decimal(f64::from_le_bytes(self.eight()?)),
            BOOL => Item::Bool(self.take(1)? != [0]),
            VERBATIM => Item::Verbatim(self.counted()?),
            BIG_NUMBER => Item::BigNumber(self.counted()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut tape = Tape::new();
        tape.ok();
        let mark = tape.open_array();
        tape.int(-5);
        tape.bulk(b"x");
        tape.close(mark, 2);
        tape.map(1);
        tape.bulk(b"k");
        tape.double(1.5);
        tape.null();
        tape.big_number(b"12345678901234567890");
        let items: Vec<_> = tape.items().collect();
        let expected = [
            Item::Status(b"OK"),
            Item::Array(2),
            Item::Int(-5),
            Item::Bulk(b"x"),
            Item::Map(1),
            Item::Bulk(b"k"),
            Item::Double(1.5),
            Item::Null,
            Item::BigNumber(b"12345678901234567890"),
        ];
        assert_eq!(items, expected);
        let mut items = tape.items();
        let wholes: Vec<usize> = std::iter::from_fn(|| items.whole()).map(<[u8]>::len).collect();
        assert_eq!((wholes.len(), wholes.iter().sum::<usize>()), (5, tape.len()));
    }

    #[test]
    fn what_has_no_room_is_left_out_and_told() {
        let write = |tape: &mut Tape| {
            let mark = tape.open_array();
            tape.bulk(b"abc");
            tape.int(1);
            tape.null();
            tape.close(mark, 3);
        };
        let mut whole = Tape::new();
        write(&mut whole);
        for room in 0..whole.len() + 3 {
            let mut tape = Tape::new();
            tape.ok();
            let before = tape.len();
            tape.bound(room);
            write(&mut tape);
            assert!(tape.len() <= before + room);
            assert_eq!(tape.unbound(), room >= whole.len(), "{room}");
            tape.truncate(before);
            write(&mut tape);
            assert_eq!(&tape.bytes()[before..], whole.bytes());
            assert!(tape.unbound());
        }
    }

    #[test]
    fn coordinates_have_the_decimals_that_redis_writes() {
        for (number, text) in [(13.361389338970184, "13.36138933897018433"), (2.0, "2"), (-0.5, "-0.5")] {
            assert_eq!(decimals(number), text);
        }
    }

    #[test]
    fn bytes_that_are_no_tape_end_early() {
        let mut tape = Tape::new();
        tape.array(2);
        tape.bulk(b"abc");
        for len in 0..tape.len() {
            let _ = Items::new(&tape.bytes()[..len]).count();
            assert_eq!(Items::new(&tape.bytes()[..len]).whole(), None);
        }
        assert_eq!(Items::new(&[200, 1, 2]).next(), None);
    }
}
