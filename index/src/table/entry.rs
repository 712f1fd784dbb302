//! An entry: a key with its value, behind one thin pointer.
//!
//! ```text
//!   short string:  | version, 7 | heat, 1 | key length, 1 | value length, 2 | (deadline, 6 | noted, 6) | key | value |
//!   long string:   | version, 8 | value length, 4 | key length, 2 | heat, 1 | 1 | (deadline, 8 | noted, 8) | key | value |
//!   object:        | version | deadline | noted | heat | key | object |
//!
//!   pointer:       | mark, 16 bits | address, 45 bits | timed | long | object |
//! ```
//!
//! Most keys of a cache hold short strings, so that a string takes one piece of memory with eleven bytes besides its key, its
//! value and, where it has one, its deadline. It is a place of a [slab](slab) where it is short in all parts: its version is
//! less than 2^56, its times less than 2^48, and it fits into the longest place. What is longer comes from the general
//! allocator. Everything else is an object, which grows and shrinks in place.
//!
//! Addresses have 48 bits where programs do not ask for others, and the lowest three are zero. The bits above are left to whoever
//! holds the entry, for a mark by which it is found.
//!
//! Always: `bytes` is what the entry's allocations take, with the allocator's rounding.

#![expect(unsafe_code, reason = "one thin pointer to a key and its value: half the memory of what the library has")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use super::allocated;
use super::objects::Object;
use super::slab;

/// The longest key in bytes.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

const ADDRESS_BITS: u32 = 48;
/// The lowest bits of the address say what it points to.
const OBJECT: usize = 1;
const LONG: usize = 2;
/// Of a string: it has times.
const TIMED: usize = 4;
const ADDRESS: usize = ((1 << ADDRESS_BITS) - 1) & !(OBJECT | LONG | TIMED);
const MARK: usize = !((1 << ADDRESS_BITS) - 1);

/// What a short string begins with. The version is in pieces, because heat changes while others read it.
#[repr(C, packed)]
struct Short {
    version_low: u32,
    version_middle: u16,
    version_high: u8,
    heat: u8,
    key_len: u8,
    value_len: u16,
}

const SHORT: usize = size_of::<Short>();
const SHORT_VERSION_BITS: u32 = 56;
const SHORT_TIME_BITS: u32 = 48;
const SHORT_TIMES: usize = 2 * SHORT_TIME_BITS as usize / 8;

#[repr(C)]
struct Long {
    version: u64,
    value_len: u32,
    key_len: u16,
    heat: u8,
}

const LONG_HEAD: usize = size_of::<Long>();
const LONG_TIMES: usize = size_of::<Times>();

struct Held {
    version: u64,
    times: Times,
    heat: AtomicU8,
    key: Box<[u8]>,
    object: Object,
}

/// When an entry ends.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// The deadline in milliseconds since 1970; zero: none.
    pub deadline: u64,
    /// When the wheel will look at it; zero: never.
    pub noted: u64,
}

impl Times {
    fn are_short(self) -> bool {
        (self.deadline | self.noted) >> SHORT_TIME_BITS == 0
    }

    fn to_short(self) -> [u8; SHORT_TIMES] {
        let both = u128::from(self.deadline) | u128::from(self.noted) << SHORT_TIME_BITS;
        let mut bytes = [0; SHORT_TIMES];
        bytes.copy_from_slice(&both.to_le_bytes()[..SHORT_TIMES]);
        bytes
    }

    fn from_short(bytes: [u8; SHORT_TIMES]) -> Times {
        let mut both = [0; 16];
        both[..SHORT_TIMES].copy_from_slice(&bytes);
        let both = u128::from_le_bytes(both);
        Times { deadline: both as u64 & ((1 << SHORT_TIME_BITS) - 1), noted: (both >> SHORT_TIME_BITS) as u64 }
    }
}

/// What an entry holds.
#[derive(Clone, Copy)]
pub(super) enum Value<'e> {
    String(&'e [u8]),
    Object(&'e Object),
}

/// A key with its value. Its address with its mark is never zero.
pub(super) struct Entry(NonNull<u8>);

// SAFETY: an entry owns what it points to, and only its heat changes through a shared reference, which is atomic.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

/// Lengths of a string's parts.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Lengths {
    long: bool,
    timed: bool,
    key: usize,
    value: usize,
}

impl Lengths {
    fn of(key: usize, value: usize, version: u64, times: Times) -> Lengths {
        let timed = times != Times::default();
        let short = Lengths { long: false, timed, key, value };
        let fits = key <= usize::from(u8::MAX) && short.all() <= slab::PLACE_BYTES_MAX;
        Lengths { long: !fits || !times.are_short() || version >> SHORT_VERSION_BITS != 0, ..short }
    }

    /// Where the key begins; before it are the times, if it has any.
    fn before_key(self) -> usize {
        match (self.long, self.timed) {
            (false, false) => SHORT,
            (false, true) => SHORT + SHORT_TIMES,
            (true, false) => LONG_HEAD,
            (true, true) => LONG_HEAD + LONG_TIMES,
        }
    }

    fn all(self) -> usize {
        self.before_key() + self.key + self.value
    }

    /// Of a long one.
    fn layout(self) -> Layout {
        // Keys are short and values are bounded, so that this is far from overflowing.
        Layout::from_size_align(self.all(), align_of::<Long>()).expect("an entry fits into memory")
    }

    /// What it takes.
    fn bytes(self) -> usize {
        if self.long { allocated(self.all()) } else { slab::place_bytes(self.all()) }
    }
}

impl Entry {
    /// A key with a string. The key has at most [`KEY_BYTES_MAX`] bytes, the value fewer than 4 GiB.
    pub fn string(key: &[u8], value: &[u8], version: u64, times: Times, heat: u8) -> Entry {
        assert!(key.len() <= KEY_BYTES_MAX && value.len() < u32::MAX as usize, "checked where calls come in");
        let lengths = Lengths::of(key.len(), value.len(), version, times);
        let start = if lengths.long {
            let layout = lengths.layout();
            // SAFETY: the layout is not empty.
            let memory = unsafe { alloc(layout) };
            NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
        } else {
            slab::take(lengths.all())
        };
        let what = if lengths.long { LONG } else { 0 } | if lengths.timed { TIMED } else { 0 };
        let mut entry = Entry::marked(start, what);
        entry.set_lengths(lengths);
        entry.set_version(version);
        entry.set_heat(heat);
        assert!(entry.set_times(times), "there is room for them");
        // SAFETY: the allocation has room for key and value at this place, and is nobody else's.
        unsafe {
            let at = start.add(lengths.before_key());
            std::ptr::copy_nonoverlapping(key.as_ptr(), at.as_ptr(), key.len());
            std::ptr::copy_nonoverlapping(value.as_ptr(), at.add(key.len()).as_ptr(), value.len());
        }
        entry
    }

    /// A key with an object.
    pub fn object(key: &[u8], object: Object, version: u64, times: Times, heat: u8) -> Entry {
        assert!(key.len() <= KEY_BYTES_MAX, "checked where calls come in");
        let held = Box::new(Held { version, times, heat: AtomicU8::new(heat), key: key.into(), object });
        // A box is never null.
        Entry::marked(NonNull::new(Box::into_raw(held).cast()).expect("a box has an address"), OBJECT)
    }

    fn marked(start: NonNull<u8>, what: usize) -> Entry {
        assert!(start.addr().get() & !ADDRESS == 0, "addresses have 48 bits, and are multiples of eight");
        Entry(start.map_addr(|address| address | what))
    }

    /// What whoever holds it wrote there; zero at first.
    pub fn mark(&self) -> u16 {
        (self.0.addr().get() >> ADDRESS_BITS) as u16
    }

    pub fn set_mark(&mut self, mark: u16) {
        let marked = self.0.as_ptr().map_addr(|given| given & !MARK | usize::from(mark) << ADDRESS_BITS);
        self.0 = NonNull::new(marked).expect("the address is not zero");
    }

    /// Becomes another, which has the same key and gets the same mark.
    pub fn replace(&mut self, other: Entry) {
        let mark = self.mark();
        *self = other;
        self.set_mark(mark);
    }

    fn is(&self, what: usize) -> bool {
        self.0.addr().get() & what != 0
    }

    /// Where its allocation begins.
    fn start(&self) -> *mut u8 {
        self.0.as_ptr().map_addr(|given| given & ADDRESS)
    }

    fn held(&self) -> Option<&Held> {
        // SAFETY: an address with this bit set came from a box of `Held`, which lives as long as the entry.
        self.is(OBJECT).then(|| unsafe { &*self.start().cast::<Held>() })
    }

    fn held_mut(&mut self) -> Option<&mut Held> {
        // SAFETY: as above, and the entry is borrowed for changing.
        self.is(OBJECT).then(|| unsafe { &mut *self.start().cast::<Held>() })
    }

    /// Of a string.
    fn lengths(&self) -> Lengths {
        debug_assert!(!self.is(OBJECT));
        let (long, timed) = (self.is(LONG), self.is(TIMED));
        // SAFETY: it is a string, whose allocation begins with the head that the bits tell of. Lengths only change while the
        // entry is borrowed for changing.
        let (key, value) = unsafe {
            if long {
                let head = self.start().cast::<Long>();
                (usize::from((*head).key_len), (*head).value_len as usize)
            } else {
                let head = self.start().cast::<Short>();
                (usize::from((*head).key_len), usize::from((*head).value_len))
            }
        };
        Lengths { long, timed, key, value }
    }

    /// Of a string. They are those of its allocation, or others that take a place of the same size.
    fn set_lengths(&mut self, lengths: Lengths) {
        // SAFETY: it is a string, whose allocation begins with the head that the bits tell of, and it is borrowed for changing.
        unsafe {
            if lengths.long {
                let head = self.start().cast::<Long>();
                (*head).key_len = lengths.key as u16;
                (*head).value_len = lengths.value as u32;
            } else {
                let head = self.start().cast::<Short>();
                (*head).key_len = lengths.key as u8;
                (*head).value_len = lengths.value as u16;
            }
        }
    }

    /// Key and value together, of a string.
    fn text(&self) -> (usize, &[u8]) {
        let lengths = self.lengths();
        let (from, len) = (lengths.before_key(), lengths.key + lengths.value);
        // SAFETY: so many bytes were written there when the entry was made or overwritten.
        (lengths.key, unsafe { std::slice::from_raw_parts(self.start().add(from), len) })
    }

    pub fn key(&self) -> &[u8] {
        if let Some(held) = self.held() {
            return &held.key;
        }
        let (key_len, text) = self.text();
        &text[..key_len]
    }

    pub fn value(&self) -> Value<'_> {
        if let Some(held) = self.held() {
            return Value::Object(&held.object);
        }
        let (key_len, text) = self.text();
        Value::String(&text[key_len..])
    }

    pub fn object_mut(&mut self) -> Option<&mut Object> {
        Some(&mut self.held_mut()?.object)
    }

    /// Puts a string in the place of the one there is, where that takes as much. Says no where that is not so.
    pub fn overwrite(&mut self, value: &[u8]) -> bool {
        if self.is(OBJECT) {
            return false;
        }
        let old = self.lengths();
        let new = Lengths { value: value.len(), ..old };
        if new != old {
            let fits = !new.long && new.all() <= slab::PLACE_BYTES_MAX && new.bytes() == old.bytes();
            if !fits {
                return false;
            }
            self.set_lengths(new);
        }
        // SAFETY: the allocation has room for the value after the key, and the entry is borrowed for changing.
        unsafe {
            let at = self.start().add(new.before_key() + new.key);
            std::ptr::copy_nonoverlapping(value.as_ptr(), at, value.len());
        }
        true
    }

    pub fn version(&self) -> u64 {
        if let Some(held) = self.held() {
            return held.version;
        }
        // SAFETY: it is a string, whose allocation begins with the head that the bit tells of. Its heat is not read.
        unsafe {
            if self.is(LONG) {
                return (*self.start().cast::<Long>()).version;
            }
            let head = self.start().cast::<Short>();
            let (low, middle, high) = ((*head).version_low, (*head).version_middle, (*head).version_high);
            u64::from(low) | u64::from(middle) << 32 | u64::from(high) << 48
        }
    }

    pub fn set_version(&mut self, version: u64) {
        if let Some(held) = self.held_mut() {
            held.version = version;
            return;
        }
        // SAFETY: it is a string, whose allocation begins with the head that the bit tells of, and it is borrowed for changing.
        unsafe {
            if self.is(LONG) {
                (*self.start().cast::<Long>()).version = version;
                return;
            }
            if version >> SHORT_VERSION_BITS == 0 {
                let head = self.start().cast::<Short>();
                (*head).version_low = version as u32;
                (*head).version_middle = (version >> 32) as u16;
                (*head).version_high = (version >> 48) as u8;
                return;
            }
        }
        self.become_anew(version);
    }

    /// A string in memory of its own once more, with this version.
    fn become_anew(&mut self, version: u64) {
        let (key_len, text) = self.text();
        let (key, value) = text.split_at(key_len);
        let anew = Entry::string(key, value, version, self.times(), self.heat());
        self.replace(anew);
    }

    pub fn times(&self) -> Times {
        if let Some(held) = self.held() {
            return held.times;
        }
        if !self.is(TIMED) {
            return Times::default();
        }
        // SAFETY: a string with this bit has its times after its head, as many bytes as are read.
        unsafe {
            if self.is(LONG) {
                return self.start().add(LONG_HEAD).cast::<Times>().read();
            }
            Times::from_short(self.start().add(SHORT).cast::<[u8; SHORT_TIMES]>().read())
        }
    }

    /// Sets the times where there is room for them. Says no where there is none: then the entry is to be made anew.
    pub fn set_times(&mut self, times: Times) -> bool {
        if let Some(held) = self.held_mut() {
            held.times = times;
            return true;
        }
        if !self.is(TIMED) {
            return times == Times::default();
        }
        let long = self.is(LONG);
        if !long && !times.are_short() {
            return false;
        }
        // SAFETY: a string with this bit has its times after its head, as many bytes as are written, and it is borrowed for
        // changing.
        unsafe {
            if long {
                self.start().add(LONG_HEAD).cast::<Times>().write(times);
            } else {
                self.start().add(SHORT).cast::<[u8; SHORT_TIMES]>().write(times.to_short());
            }
        }
        true
    }

    fn heat_cell(&self) -> &AtomicU8 {
        if let Some(held) = self.held() {
            return &held.heat;
        }
        let at = if self.is(LONG) { std::mem::offset_of!(Long, heat) } else { std::mem::offset_of!(Short, heat) };
        // SAFETY: it is a string, with its heat there in the head that the bit tells of, where nothing else reads or writes it.
        unsafe { AtomicU8::from_ptr(self.start().add(at)) }
    }

    /// How much it was used lately, as far as readers said so.
    pub fn heat(&self) -> u8 {
        self.heat_cell().load(Ordering::Relaxed)
    }

    pub fn set_heat(&self, heat: u8) {
        self.heat_cell().store(heat, Ordering::Relaxed);
    }

    /// What its allocations take.
    pub fn bytes(&self) -> usize {
        match self.held() {
            Some(held) => allocated(size_of::<Held>()) + allocated(held.key.len()) + held.object.heap_bytes(),
            None => self.lengths().bytes(),
        }
    }

    /// Moves to another place if there is too much room around this one; says whether it did. Nothing else of it changes.
    pub fn settle(&mut self) -> bool {
        if self.is(OBJECT | LONG) {
            return false;
        }
        // SAFETY: it is a short string, which is in a place.
        let sparse = unsafe { slab::is_sparse(NonNull::new_unchecked(self.start())) };
        if sparse {
            let bytes = self.lengths().all();
            let to = slab::take(bytes);
            let what = if self.is(TIMED) { TIMED } else { 0 };
            // SAFETY: both places have room for so many bytes, all of which were written in the one, and are not the same.
            unsafe { std::ptr::copy_nonoverlapping(self.start(), to.as_ptr(), bytes) };
            self.replace(Entry::marked(to, what));
        }
        sparse
    }

    /// Takes the object out, if it is one.
    pub fn into_object(self) -> Option<Object> {
        if !self.is(OBJECT) {
            return None;
        }
        let start = self.start();
        std::mem::forget(self);
        // SAFETY: the address came from a box, and nobody frees it now that the entry was forgotten.
        let held = unsafe { Box::from_raw(start.cast::<Held>()) };
        Some(held.object)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let start = self.start();
        if self.is(OBJECT) {
            // SAFETY: the address came from a box, and the entry owned it.
            drop(unsafe { Box::from_raw(start.cast::<Held>()) });
            return;
        }
        let lengths = self.lengths();
        // SAFETY: it came from there, with these lengths or, in a slab, others that take as much, and the entry owned it.
        unsafe {
            if lengths.long {
                dealloc(start, lengths.layout());
            } else {
                slab::give_back(NonNull::new_unchecked(start), lengths.all());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::Chance;
    use super::super::objects::Text;
    use super::*;

    #[test]
    fn a_string_keeps_what_it_was_given() {
        for (key, value) in [(&b""[..], &b""[..]), (b"k", b""), (b"key", b"value"), (&[7; 65_535], &[9; 100_000])] {
            for times in [Times::default(), Times { deadline: 5, noted: 6 }] {
                let mut entry = Entry::string(key, value, 77, times, 3);
                assert_eq!((entry.key(), entry.version(), entry.times(), entry.heat()), (key, 77, times, 3));
                assert!(matches!(entry.value(), Value::String(found) if found == value));
                entry.set_mark(0xbeef);
                let other = vec![1; value.len()];
                assert!(entry.overwrite(&other) && !entry.overwrite(&[&other[..], b"12345678"].concat()));
                entry.set_version(78);
                entry.set_heat(9);
                assert_eq!((entry.key(), entry.version(), entry.heat()), (key, 78, 9));
                assert!(matches!(entry.value(), Value::String(found) if found == other));
                let later = Times { deadline: 8, noted: 7 };
                assert_eq!(entry.set_times(later), times != Times::default());
                assert_eq!(entry.times() == later, times != Times::default());
                assert_eq!((entry.key(), entry.mark()), (key, 0xbeef));
                entry.replace(Entry::string(key, b"longer than before", 79, times, 0));
                assert_eq!((entry.mark(), entry.version()), (0xbeef, 79));
            }
        }
    }

    /// Everything about a string that can be asked.
    type Asked = (Vec<u8>, Vec<u8>, u64, Times, u8, u16);

    fn asked(entry: &Entry) -> Asked {
        let Value::String(value) = entry.value() else { panic!("a string") };
        (entry.key().into(), value.into(), entry.version(), entry.times(), entry.heat(), entry.mark())
    }

    #[test]
    fn a_string_is_what_was_made_of_it_whatever_its_form() {
        for seed in 0..3_000 {
            let mut chance = Chance::new(seed);
            let some = |chance: &mut Chance, lengths: &[usize]| {
                let most = lengths[chance.below(lengths.len())];
                let len = if chance.below(3) == 0 { most } else { chance.below(most + 1) };
                (0..len).map(|_| chance.next_u64() as u8).collect::<Vec<u8>>()
            };
            let number = |chance: &mut Chance| {
                let bits = [0, 1, 47, 48, 49, 55, 56, 57, 64][chance.below(9)];
                if bits == 0 { 0 } else { chance.next_u64() >> (64 - bits) }
            };
            let times = |chance: &mut Chance| match chance.below(2) {
                0 => Times::default(),
                _ => Times { deadline: number(chance), noted: number(chance) },
            };
            let (key, value) = (some(&mut chance, &[20, 255, 256, 3_000]), some(&mut chance, &[100, 1_000, 1_100]));
            let mut model: Asked = (key, value, number(&mut chance), times(&mut chance), chance.below(256) as u8, 0);
            let mut entry = Entry::string(&model.0, &model.1, model.2, model.3, model.4);
            for round in 0..20 {
                assert_eq!(asked(&entry), model, "seed {seed}, round {round}");
                let lengths = Lengths::of(model.0.len(), model.1.len(), model.2, model.3);
                assert!(entry.bytes() >= lengths.all() && entry.bytes() >= lengths.bytes(), "seed {seed}");
                match chance.below(7) {
                    0 => {
                        let value = match chance.below(3) {
                            0 => some(&mut chance, &[100, 1_000, 1_100]),
                            more => [&model.1[..], &b"1234"[..more]].concat(),
                        };
                        if entry.overwrite(&value) {
                            model.1 = value;
                        } else {
                            assert_ne!(value.len(), model.1.len(), "seed {seed}");
                        }
                    }
                    1 => {
                        model.2 = number(&mut chance);
                        entry.set_version(model.2);
                    }
                    2 => {
                        let times = times(&mut chance);
                        if entry.set_times(times) {
                            model.3 = times;
                        } else {
                            assert!(model.3 == Times::default() || !times.are_short(), "seed {seed}");
                        }
                    }
                    3 => {
                        model.4 = chance.below(256) as u8;
                        entry.set_heat(model.4);
                    }
                    4 => {
                        model.5 = chance.below(1 << 16) as u16;
                        entry.set_mark(model.5);
                    }
                    5 => {
                        model.1 = some(&mut chance, &[100, 1_000, 1_100]);
                        entry.replace(Entry::string(&model.0, &model.1, model.2, model.3, model.4));
                    }
                    _ => drop(entry.settle()),
                }
            }
        }
    }

    #[test]
    fn most_strings_have_eleven_bytes_besides() {
        let bytes =
            |key: usize, value: usize, times| Entry::string(&vec![1; key], &vec![2; value], 1 << 40, times, 0).bytes();
        let times = Times { deadline: 1_800_000_000_000, noted: 1_800_000_000_000 };
        assert_eq!((bytes(16, 100, Times::default()), bytes(16, 100, times)), (128, 144));
        assert_eq!((bytes(10, 19, Times::default()), bytes(5, 0, Times::default())), (40, 16));
        assert_eq!((bytes(13, 1_000, Times::default()), bytes(14, 1_000, Times::default())), (1_024, 1_040));
    }

    #[test]
    fn an_object_is_changed_in_place_and_taken_out() {
        let mut entry = Entry::object(b"key", Object::Text(Text::from(&b"abc"[..])), 1, Times::default(), 0);
        assert!(entry.set_times(Times { deadline: 1, noted: 1 }) && !entry.overwrite(b"abc"));
        entry.set_version(2);
        entry.set_mark(u16::MAX);
        assert_eq!(entry.mark(), u16::MAX);
        if let Some(Object::Text(text)) = entry.object_mut() {
            text.push(b"d");
        }
        assert_eq!((entry.key(), entry.version(), entry.times().deadline), (&b"key"[..], 2, 1));
        drop(Entry::object(b"other", Object::Text(Text::from(&b"abc"[..])), 1, Times::default(), 0));
        assert!(matches!(entry.into_object(), Some(Object::Text(text)) if text.bytes() == b"abcd"));
        assert!(Entry::string(b"k", b"v", 1, Times::default(), 0).into_object().is_none());
    }
}
