//! Lengths and strings.
//!
//! ```text
//!   00aaaaaa                 a length below 64          11000000  a string: one byte, a number
//!   01aaaaaa b               below 16384                11000001  two bytes       11000010  four bytes
//!   10000000 bbbb, 10000001  four and eight bytes       11000011  compressed: length, length of the whole, bytes
//! ```

use std::borrow::Cow;

use crate::table::commands::{int_text, parse_int};

/// What the strings of one payload may take together once they are no longer compressed.
pub const EXPANDED_BYTES_MAX: usize = 64 << 20;

/// Reads a payload.
pub struct Reader<'p> {
    pub rest: &'p [u8],
    /// What compressed strings may still take.
    expand: usize,
}

enum Length {
    Of(u64),
    Encoded(u8),
}

impl<'p> Reader<'p> {
    pub fn new(bytes: &'p [u8]) -> Reader<'p> {
        Reader { rest: bytes, expand: EXPANDED_BYTES_MAX }
    }

    pub fn bytes(&mut self, count: usize) -> Option<&'p [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn length(&mut self) -> Option<Length> {
        let first = self.byte()?;
        Some(match (first >> 6, first) {
            (0, _) => Length::Of(u64::from(first)),
            (1, _) => Length::Of(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            (2, 0x80) => Length::Of(u64::from(u32::from_be_bytes(self.array()?))),
            (2, 0x81) => Length::Of(u64::from_be_bytes(self.array()?)),
            (3, _) => Length::Encoded(first & 0x3f),
            _ => return None,
        })
    }

    /// A number of things.
    pub fn number(&mut self) -> Option<u64> {
        match self.length()? {
            Length::Of(number) => Some(number),
            Length::Encoded(_) => None,
        }
    }

    /// Eight bytes, the lowest first.
    pub fn eight(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn string(&mut self) -> Option<Cow<'p, [u8]>> {
        let text = |number: i64| Some(Cow::Owned(int_text(number)));
        match self.length()? {
            Length::Of(len) => self.bytes(usize::try_from(len).ok()?).map(Cow::Borrowed),
            Length::Encoded(0) => text(self.array().map(i8::from_le_bytes)?.into()),
            Length::Encoded(1) => text(self.array().map(i16::from_le_bytes)?.into()),
            Length::Encoded(2) => text(self.array().map(i32::from_le_bytes)?.into()),
            Length::Encoded(3) => {
                let (packed, whole) = (self.number()?, self.number()?);
                let whole = usize::try_from(whole).ok()?;
                self.expand = self.expand.checked_sub(whole)?;
                expand(self.bytes(usize::try_from(packed).ok()?)?, whole).map(Cow::Owned)
            }
            Length::Encoded(_) => None,
        }
    }
}

/// LZF: runs of bytes, and copies of what was written up to 8 KiB before.
fn expand(packed: &[u8], whole: usize) -> Option<Vec<u8>> {
    // What is packed grows at most so much.
    if whole > packed.len().saturating_mul(264) {
        return None;
    }
    let mut out = Vec::with_capacity(whole);
    let mut rest = packed;
    let next = |rest: &mut &[u8]| {
        let (byte, left) = rest.split_first()?;
        *rest = left;
        Some(usize::from(*byte))
    };
    while let Some(control) = next(&mut rest) {
        if control < 32 {
            let (run, left) = rest.split_at_checked(control + 1)?;
            out.extend_from_slice(run);
            rest = left;
        } else {
            let mut len = control >> 5;
            if len == 7 {
                len += next(&mut rest)?;
            }
            let back = ((control & 31) << 8 | next(&mut rest)?) + 1;
            let start = out.len().checked_sub(back)?;
            for at in start..start + len + 2 {
                out.push(out[at]);
            }
        }
        if out.len() > whole {
            return None;
        }
    }
    (out.len() == whole).then_some(out)
}

/// Writes a number of things.
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    match number {
        0..64 => out.push(number as u8),
        64..16_384 => out.extend_from_slice(&[0x40 | (number >> 8) as u8, number as u8]),
        _ => match u32::try_from(number) {
            Ok(number) => {
                out.push(0x80);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&number.to_be_bytes());
            }
        },
    }
}

/// Writes a string, as a number where it is one.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let number = if bytes.len() <= 11 { parse_int(bytes).and_then(|number| i32::try_from(number).ok()) } else { None };
    let Some(number) = number else {
        put_number(out, bytes.len() as u64);
        return out.extend_from_slice(bytes);
    };
    if let Ok(number) = i8::try_from(number) {
        out.extend_from_slice(&[0xc0, number as u8]);
    } else if let Ok(number) = i16::try_from(number) {
        out.push(0xc1);
        out.extend_from_slice(&number.to_le_bytes());
    } else {
        out.push(0xc2);
        out.extend_from_slice(&number.to_le_bytes());
    }
}
