//! The small forms: many strings one after the other in one string.
//!
//! ```text
//!   listpack: bytes (4), elements (2), each { kind and bytes, how long that is, to be read backwards }, 255
//!   ziplist:  bytes (4), last (4), elements (2), each { length of the one before (1 or 5), kind and bytes }, 255
//!   zipmap:   pairs (1), each { length (1 or 5), key, length, unused (1), value, the unused bytes }, 255
//!   intset:   bytes of a number (4), numbers (4), the numbers
//! ```

use std::borrow::Cow;

use super::wire::Reader;
use crate::table::commands::{int_text, parse_int};

type Strings<'p> = Vec<Cow<'p, [u8]>>;

/// The most strings of one node: a string takes more once it is apart than it did, and no Redis packs nearly so many.
const STRINGS_MAX: usize = 1 << 20;
const END: u8 = 255;
/// In the place of a length below 254: four bytes follow.
const LONG: u8 = 254;

fn add<'p>(strings: &mut Strings<'p>, string: Cow<'p, [u8]>) -> Option<()> {
    (strings.len() < STRINGS_MAX).then(|| strings.push(string))
}

fn text<'p>(number: i64) -> Cow<'p, [u8]> {
    Cow::Owned(int_text(number))
}

fn int24([a, b, c]: [u8; 3]) -> i64 {
    i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)
}

/// The strings of a listpack.
pub fn listpack(bytes: &[u8]) -> Option<Strings<'_>> {
    let mut reader = Reader::new(bytes);
    let total = u32::from_le_bytes(reader.array()?) as usize;
    let count = u16::from_le_bytes(reader.array()?);
    if total != bytes.len() {
        return None;
    }
    let mut strings = Vec::new();
    loop {
        let before = reader.rest.len();
        let first = reader.byte()?;
        let string = match first {
            END => break,
            0..=0x7f => text(i64::from(first)),
            0x80..=0xbf => Cow::Borrowed(reader.bytes(usize::from(first & 0x3f))?),
            0xc0..=0xdf => {
                let number = i64::from(first & 0x1f) << 8 | i64::from(reader.byte()?);
                text(if number >= 1 << 12 { number - (1 << 13) } else { number })
            }
            0xe0..=0xef => {
                let len = usize::from(first & 0x0f) << 8 | usize::from(reader.byte()?);
                Cow::Borrowed(reader.bytes(len)?)
            }
            0xf0 => {
                let len = u32::from_le_bytes(reader.array()?) as usize;
                Cow::Borrowed(reader.bytes(len)?)
            }
            0xf1 => text(i16::from_le_bytes(reader.array()?).into()),
            0xf2 => text(int24(reader.array()?)),
            0xf3 => text(i32::from_le_bytes(reader.array()?).into()),
            0xf4 => text(i64::from_le_bytes(reader.array()?)),
            _ => return None,
        };
        let mut back = [0; 5];
        let back = back_length(before - reader.rest.len(), &mut back);
        if reader.bytes(back.len())? != back {
            return None;
        }
        add(&mut strings, string)?;
    }
    let counted = count == u16::MAX || usize::from(count) == strings.len();
    (reader.rest.is_empty() && counted).then_some(strings)
}

/// How long an element is, to be read backwards: seven bits a byte, all but the first marked.
fn back_length(len: usize, bytes: &mut [u8; 5]) -> &[u8] {
    let count = match len {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    };
    for (place, byte) in bytes[..count].iter_mut().rev().enumerate() {
        let mark = if place + 1 == count { 0 } else { 0x80 };
        *byte = (len >> (7 * place)) as u8 & 0x7f | mark;
    }
    &bytes[..count]
}

/// Writes a listpack.
pub struct Listpack {
    bytes: Vec<u8>,
    count: usize,
}

impl Listpack {
    pub fn new() -> Listpack {
        Listpack { bytes: vec![0; 6], count: 0 }
    }

    pub fn string(&mut self, string: &[u8]) {
        match if string.len() <= 20 { parse_int(string) } else { None } {
            Some(number) => self.int(number),
            None => {
                let start = self.bytes.len();
                match string.len() {
                    len @ 0..0x40 => self.bytes.push(0x80 | len as u8),
                    len @ 0x40..0x1000 => self.bytes.extend_from_slice(&[0xe0 | (len >> 8) as u8, len as u8]),
                    len => {
                        self.bytes.push(0xf0);
                        self.bytes.extend_from_slice(&(len as u32).to_le_bytes());
                    }
                }
                self.bytes.extend_from_slice(string);
                self.end(start);
            }
        }
    }

    pub fn int(&mut self, number: i64) {
        let start = self.bytes.len();
        match number {
            0..=0x7f => self.bytes.push(number as u8),
            -0x1000..=0xfff => {
                let bits = number as u16 & 0x1fff;
                self.bytes.extend_from_slice(&[0xc0 | (bits >> 8) as u8, bits as u8]);
            }
            _ => {
                let bytes = number.to_le_bytes();
                let (kind, len) = match number {
                    -0x8000..=0x7fff => (0xf1, 2),
                    -0x80_0000..=0x7f_ffff => (0xf2, 3),
                    -0x8000_0000..=0x7fff_ffff => (0xf3, 4),
                    _ => (0xf4, 8),
                };
                self.bytes.push(kind);
                self.bytes.extend_from_slice(&bytes[..len]);
            }
        }
        self.end(start);
    }

    fn end(&mut self, start: usize) {
        let mut back = [0; 5];
        let back = back_length(self.bytes.len() - start, &mut back);
        self.bytes.extend_from_slice(back);
        self.count += 1;
    }

    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.push(END);
        let total = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&total.to_le_bytes());
        self.bytes[4..6].copy_from_slice(&u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes());
        self.bytes
    }
}

/// The strings of a ziplist.
pub fn ziplist(bytes: &[u8]) -> Option<Strings<'_>> {
    let mut reader = Reader::new(bytes);
    let total = u32::from_le_bytes(reader.array()?) as usize;
    let _last: [u8; 4] = reader.array()?;
    let count = u16::from_le_bytes(reader.array()?);
    if total != bytes.len() {
        return None;
    }
    let mut strings = Vec::new();
    loop {
        match reader.byte()? {
            END => break,
            LONG => {
                reader.bytes(4)?;
            }
            _ => {}
        }
        let first = reader.byte()?;
        let string = match first {
            0..=0x3f => Cow::Borrowed(reader.bytes(usize::from(first))?),
            0x40..=0x7f => {
                let len = usize::from(first & 0x3f) << 8 | usize::from(reader.byte()?);
                Cow::Borrowed(reader.bytes(len)?)
            }
            0x80 => {
                let len = u32::from_be_bytes(reader.array()?) as usize;
                Cow::Borrowed(reader.bytes(len)?)
            }
            0xc0 => text(i16::from_le_bytes(reader.array()?).into()),
            0xd0 => text(i32::from_le_bytes(reader.array()?).into()),
            0xe0 => text(i64::from_le_bytes(reader.array()?)),
            0xf0 => text(int24(reader.array()?)),
            0xfe => text(i8::from_le_bytes(reader.array()?).into()),
            0xf1..=0xfd => text(i64::from(first & 0x0f) - 1),
            _ => return None,
        };
        add(&mut strings, string)?;
    }
    let counted = count == u16::MAX || usize::from(count) == strings.len();
    (reader.rest.is_empty() && counted).then_some(strings)
}

/// Keys and values of a zipmap, one after the other.
pub fn zipmap(bytes: &[u8]) -> Option<Strings<'_>> {
    let mut reader = Reader::new(bytes);
    let _count = reader.byte()?;
    let mut strings = Vec::new();
    loop {
        let first = reader.byte()?;
        let length = |reader: &mut Reader<'_>, first: u8| match first {
            LONG => Some(u32::from_le_bytes(reader.array()?) as usize),
            _ => Some(usize::from(first)),
        };
        if first == END {
            break;
        }
        let len = length(&mut reader, first)?;
        add(&mut strings, Cow::Borrowed(reader.bytes(len)?))?;
        let first = reader.byte().filter(|first| *first != END)?;
        let len = length(&mut reader, first)?;
        let unused = usize::from(reader.byte()?);
        add(&mut strings, Cow::Borrowed(reader.bytes(len)?))?;
        reader.bytes(unused)?;
    }
    reader.rest.is_empty().then_some(strings)
}

/// The numbers of an intset, as strings.
pub fn intset(bytes: &[u8]) -> Option<Strings<'_>> {
    let mut reader = Reader::new(bytes);
    let width = u32::from_le_bytes(reader.array()?) as usize;
    let count = u32::from_le_bytes(reader.array()?) as usize;
    if !matches!(width, 2 | 4 | 8) || count > STRINGS_MAX || count.checked_mul(width)? != reader.rest.len() {
        return None;
    }
    let number = |bytes: &[u8]| match width {
        2 => bytes.try_into().ok().map(|bytes| i64::from(i16::from_le_bytes(bytes))),
        4 => bytes.try_into().ok().map(|bytes| i64::from(i32::from_le_bytes(bytes))),
        _ => bytes.try_into().ok().map(i64::from_le_bytes),
    };
    reader.rest.chunks_exact(width).map(|bytes| number(bytes).map(text)).collect()
}
