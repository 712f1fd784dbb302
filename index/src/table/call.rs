//! A call: a command's name with its arguments, alone or packed one after the other for the log.
//!
//! ```text
//!   call = database (1 byte), count (4 bytes), then each argument: length (4 bytes), bytes
//! ```

use super::keyspace::At;
use super::tape::Tape;

/// The most arguments of one call, its name among them.
pub const ARGUMENTS_MAX: usize = 1 << 20;

/// Packs calls.
#[derive(Debug, Default, Clone)]
pub struct Packed {
    bytes: Vec<u8>,
    calls: u32,
}

impl Packed {
    /// Without calls.
    pub fn new() -> Packed {
        Packed::default()
    }

    /// Adds a call on the database of that number among those of the execution.
    pub fn push<'a>(&mut self, database: u8, args: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.bytes.push(database);
        self.bytes.extend_from_slice(&(args.len() as u32).to_le_bytes());
        for arg in args {
            self.bytes.extend_from_slice(&(arg.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(arg);
        }
        self.calls += 1;
    }

    /// Makes room for so many more bytes of calls.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Adds what others have, after what is here.
    pub fn append(&mut self, others: &Packed) {
        self.bytes.extend_from_slice(&others.bytes);
        self.calls += others.calls;
    }

    /// Without the first so many calls, which take so many bytes.
    pub fn cut_off(&mut self, bytes: usize, calls: u32) {
        self.bytes.drain(..bytes);
        self.calls -= calls;
    }

    /// Without calls again, in the same memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.calls = 0;
    }

    /// How many there are.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// How many bytes they take.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.calls == 0
    }

    /// The packed calls.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Unpacks calls.
#[derive(Clone)]
pub struct Unpacked<'p> {
    rest: &'p [u8],
}

impl<'p> Unpacked<'p> {
    /// Of the bytes that [`Packed::into_bytes`] gave. Bytes that are no calls end early.
    pub fn new(bytes: &'p [u8]) -> Unpacked<'p> {
        Unpacked { rest: bytes }
    }

    /// What was not unpacked yet.
    pub fn rest(&self) -> &'p [u8] {
        self.rest
    }

    fn number(&mut self) -> Option<usize> {
        let (number, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*number) as usize)
    }

    /// The next call: its database, and its arguments in `args`. None when there are no more.
    pub fn next_into(&mut self, args: &mut Vec<&'p [u8]>) -> Option<u8> {
        args.clear();
        let (&database, rest) = self.rest.split_first()?;
        self.rest = rest;
        let count = self.number()?;
        for _ in 0..count {
            let len = self.number()?;
            let (arg, rest) = self.rest.split_at_checked(len)?;
            self.rest = rest;
            args.push(arg);
        }
        (count > 0).then_some(database)
    }
}

/// A call while it is carried out.
pub struct Call<'c> {
    /// The command's name first.
    pub args: &'c [&'c [u8]],
    /// Now, by the log's clock for whoever writes: milliseconds since 1970.
    pub now: u64,
    /// The position in the log; for reads that of the view.
    pub version: u64,
    /// Which call of its command it is, for what is drawn by chance.
    pub number: u32,
    /// Where the reply goes.
    pub out: &'c mut Tape,
}

/// A source of chance that is the same on every member: splitmix64.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }
}

impl<'c> Call<'c> {
    /// When and where it writes.
    pub fn at(&self) -> At {
        At { version: self.version, now: self.now }
    }

    /// Chance for this call.
    pub fn chance(&self) -> Chance {
        Chance::new(self.version.rotate_left(20) ^ u64::from(self.number))
    }

    /// How many arguments there are, the name among them.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Whether there is not even a name.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_calls_are_unpacked_and_damage_ends_them() {
        let mut packed = Packed::new();
        packed.push(3, [&b"SET"[..], b"k", b""].into_iter());
        packed.push(0, [&b"PING"[..]].into_iter());
        assert_eq!(packed.calls(), 2);
        let bytes = packed.into_bytes();
        let (mut unpacked, mut args) = (Unpacked::new(&bytes), Vec::new());
        assert_eq!(unpacked.next_into(&mut args), Some(3));
        assert_eq!(args, [&b"SET"[..], b"k", b""]);
        assert_eq!(unpacked.next_into(&mut args), Some(0));
        assert_eq!(args, [&b"PING"[..]]);
        assert_eq!(unpacked.next_into(&mut args), None);
        for len in 0..bytes.len() {
            let (mut unpacked, mut calls) = (Unpacked::new(&bytes[..len]), 0);
            while unpacked.next_into(&mut args).is_some() {
                calls += 1;
            }
            assert!(calls < 2, "cut at {len}");
        }
    }
}
