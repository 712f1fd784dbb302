//! An entry: a key with its value, behind one thin pointer.
//!
//! ```text
//!   string:  | version | value length | key length | flags | heat | (deadline | noted) | key | value |   one allocation
//!   object:  | version | deadline | noted | heat | key | object |                                        the lowest bit is set
//!
//!   pointer: | mark, 16 bits | address, 48 bits |
//! ```
//!
//! Most keys of a cache hold short strings, so that a string takes one allocation with sixteen bytes besides its key, its
//! value and, where it has one, its deadline. Everything else is an object, which grows and shrinks in place.
//!
//! Addresses have 48 bits where programs do not ask for others. The bits above are left to whoever holds the entry, for a mark
//! by which it is found.
//!
//! Always: `bytes` is what the entry's allocations take, with the allocator's rounding.

#![expect(unsafe_code, reason = "one thin pointer to a key and its value: half the memory of what the library has")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use super::allocated;
use super::objects::Object;

/// The longest key in bytes.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

const TIMED: u8 = 1;
const HEAD: usize = size_of::<Head>();
const TIMES: usize = 16;
const ADDRESS_BITS: u32 = 48;
/// The lowest bit of the address says what it points to.
const OBJECT: usize = 1;
const ADDRESS: usize = (1 << ADDRESS_BITS) - 1 - OBJECT;
const MARK: usize = !((1 << ADDRESS_BITS) - 1);

#[repr(C)]
struct Head {
    version: u64,
    value_len: u32,
    key_len: u16,
    flags: u8,
    heat: AtomicU8,
}

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

fn layout(key_len: usize, value_len: usize, timed: bool) -> Layout {
    let bytes = HEAD + if timed { TIMES } else { 0 } + key_len + value_len;
    // Keys are short and values are bounded, so that this is far from overflowing.
    Layout::from_size_align(bytes, align_of::<Head>()).expect("an entry fits into memory")
}

impl Entry {
    /// A key with a string. The key has at most [`KEY_BYTES_MAX`] bytes, the value fewer than 4 GiB.
    pub fn string(key: &[u8], value: &[u8], version: u64, times: Times, heat: u8) -> Entry {
        assert!(key.len() <= KEY_BYTES_MAX && value.len() < u32::MAX as usize, "checked where calls come in");
        let timed = times != Times::default();
        let layout = layout(key.len(), value.len(), timed);
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(memory) else { handle_alloc_error(layout) };
        assert!(start.addr().get() & !ADDRESS == 0, "addresses have 48 bits");
        let head = Head {
            version,
            value_len: value.len() as u32,
            key_len: key.len() as u16,
            flags: if timed { TIMED } else { 0 },
            heat: AtomicU8::new(heat),
        };
        // SAFETY: the allocation has room for all that is written, in this order, and is aligned for `Head`, which is no
        // less aligned than `Times`.
        unsafe {
            start.cast::<Head>().write(head);
            let mut at = start.add(HEAD);
            if timed {
                at.cast::<Times>().write(times);
                at = at.add(TIMES);
            }
            std::ptr::copy_nonoverlapping(key.as_ptr(), at.as_ptr(), key.len());
            std::ptr::copy_nonoverlapping(value.as_ptr(), at.add(key.len()).as_ptr(), value.len());
        }
        Entry(start)
    }

    /// A key with an object.
    pub fn object(key: &[u8], object: Object, version: u64, times: Times, heat: u8) -> Entry {
        assert!(key.len() <= KEY_BYTES_MAX, "checked where calls come in");
        let held = Box::new(Held { version, times, heat: AtomicU8::new(heat), key: key.into(), object });
        const { assert!(align_of::<Held>() >= 2, "the lowest bit of its address is free") };
        let start = Box::into_raw(held).cast::<u8>();
        assert!(start.addr() & !ADDRESS == 0, "addresses have 48 bits");
        let start = start.map_addr(|address| address | OBJECT);
        // A box is never null.
        Entry(NonNull::new(start).expect("a box has an address"))
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

    fn is_object(&self) -> bool {
        self.0.addr().get() & OBJECT != 0
    }

    /// Where its allocation begins.
    fn start(&self) -> *mut u8 {
        self.0.as_ptr().map_addr(|given| given & ADDRESS)
    }

    fn held(&self) -> Option<&Held> {
        // SAFETY: an address with the lowest bit set came from a box of `Held`, which lives as long as the entry.
        self.is_object().then(|| unsafe { &*self.start().cast::<Held>() })
    }

    fn held_mut(&mut self) -> Option<&mut Held> {
        // SAFETY: as above, and the entry is borrowed for changing.
        self.is_object().then(|| unsafe { &mut *self.start().cast::<Held>() })
    }

    fn head(&self) -> &Head {
        debug_assert!(!self.is_object());
        // SAFETY: only called for strings, whose allocation begins with a head.
        unsafe { &*self.start().cast::<Head>() }
    }

    /// Key and value together, of a string.
    fn text(&self) -> (usize, &[u8]) {
        let head = self.head();
        let at = HEAD + if head.flags & TIMED != 0 { TIMES } else { 0 };
        let key_len = usize::from(head.key_len);
        // SAFETY: so many bytes were written there when the entry was made, and the lengths never change.
        let text = unsafe { std::slice::from_raw_parts(self.start().add(at), key_len + head.value_len as usize) };
        (key_len, text)
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

    /// Puts a string of the same length in the place of the one there is. Says no where that is not so.
    pub fn overwrite(&mut self, value: &[u8]) -> bool {
        if self.is_object() || self.head().value_len as usize != value.len() {
            return false;
        }
        let (key_len, text) = self.text();
        let at = text[key_len..].as_ptr().addr() - self.start().addr();
        // SAFETY: the value's bytes lie there, as many as are written, and the entry is borrowed for changing.
        unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), self.start().add(at), value.len()) };
        true
    }

    pub fn version(&self) -> u64 {
        self.held().map_or_else(|| self.head().version, |held| held.version)
    }

    pub fn set_version(&mut self, version: u64) {
        match self.held_mut() {
            Some(held) => held.version = version,
            // SAFETY: it is a string, whose allocation begins with a head, and the entry is borrowed for changing.
            None => unsafe { &mut *self.start().cast::<Head>() }.version = version,
        }
    }

    pub fn times(&self) -> Times {
        if let Some(held) = self.held() {
            return held.times;
        }
        if self.head().flags & TIMED == 0 {
            return Times::default();
        }
        // SAFETY: a string with this flag has its times after the head.
        unsafe { self.start().add(HEAD).cast::<Times>().read() }
    }

    /// Sets the times where there is room for them. Says no where there is none: then the entry is to be made anew.
    pub fn set_times(&mut self, times: Times) -> bool {
        if let Some(held) = self.held_mut() {
            held.times = times;
            return true;
        }
        if self.head().flags & TIMED == 0 {
            return times == Times::default();
        }
        // SAFETY: a string with this flag has its times after the head, and the entry is borrowed for changing.
        unsafe { self.start().add(HEAD).cast::<Times>().write(times) };
        true
    }

    fn heat_cell(&self) -> &AtomicU8 {
        self.held().map_or_else(|| &self.head().heat, |held| &held.heat)
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
            None => allocated(self.size()),
        }
    }

    fn size(&self) -> usize {
        let head = self.head();
        layout(usize::from(head.key_len), head.value_len as usize, head.flags & TIMED != 0).size()
    }

    /// Takes the object out, if it is one.
    pub fn into_object(self) -> Option<Object> {
        if !self.is_object() {
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
        if self.is_object() {
            // SAFETY: the address came from a box, and the entry owned it.
            drop(unsafe { Box::from_raw(start.cast::<Held>()) });
            return;
        }
        let layout = Layout::from_size_align(self.size(), align_of::<Head>()).expect("it was made with this layout");
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(start, layout) };
    }
}

#[cfg(test)]
mod tests {
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
                assert!(entry.overwrite(&other) && !entry.overwrite(&[&other[..], b"x"].concat()));
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
