//! Bits: strings as rows of bits, and as numbers of few bits.
//!
//! ```text
//!   byte     0        1                    bit 0 is the highest of byte 0
//!            01234567 89...
//! ```

use super::super::call::Call;
use super::super::keyspace::{At, Keyspace, Taken, TakenValue};
use super::strings::{STRING_BYTES_MAX, part, too_long};
use super::{DENYOOM, Done, FAST, Failure, Keys, READONLY, Run, Spec, WRITE, int, is, parse_int};
use crate::table::objects::Text;

const ONE: Keys = Keys::Range(1, 1, 1);
/// Bits beyond this many bytes are no bits of any string.
const OFFSET_BYTES_MAX: i64 = 512 << 20;

const fn read(
    name: &'static str,
    arity: i32,
    keys: Keys,
    flags: u32,
    run: fn(&Keyspace, &mut Call<'_>) -> Done,
) -> Spec {
    Spec { name, arity, flags: READONLY | flags, keys, run: Run::Read(run) }
}

const fn write(
    name: &'static str,
    arity: i32,
    keys: Keys,
    flags: u32,
    run: fn(&mut Keyspace, &mut Call<'_>) -> Done,
) -> Spec {
    Spec { name, arity, flags: WRITE | flags, keys, run: Run::Write(run) }
}

pub(super) const SPECS: &[Spec] = &[
    write("setbit", 4, ONE, DENYOOM, setbit),
    read("getbit", 3, ONE, FAST, getbit),
    read("bitcount", -2, ONE, 0, bitcount),
    read("bitpos", -3, ONE, 0, bitpos),
    write("bitop", -4, Keys::Range(2, -1, 1), DENYOOM, bitop),
    write("bitfield", -2, ONE, DENYOOM, bitfield),
    read("bitfield_ro", -2, ONE, FAST, bitfield_ro),
];

/// Where a bit is; `#n` counts in steps of so many bits, where that is allowed.
fn offset(text: &[u8], step: Option<i64>) -> Result<u64, Failure> {
    let (text, step) = match (text, step) {
        ([b'#', text @ ..], Some(step)) => (text, step),
        (text, _) => (text, 1),
    };
    let offset = parse_int(text).and_then(|offset| offset.checked_mul(step));
    let offset = offset.filter(|offset| *offset >= 0 && offset >> 3 < OFFSET_BYTES_MAX);
    offset.map(|offset| offset as u64).ok_or_else(|| "ERR bit offset is not an integer or out of range".into())
}

/// The byte of a bit that is written.
fn byte_to_write(offset: u64) -> Result<usize, Failure> {
    let byte = (offset >> 3) as usize;
    if byte < STRING_BYTES_MAX { Ok(byte) } else { Err(too_long()) }
}

fn setbit(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, offset) = (call.args[1], offset(call.args[2], None)?);
    let on = match parse_int(call.args[3]) {
        Some(bit @ (0 | 1)) => bit == 1,
        _ => return Err("ERR bit is not an integer or out of range".into()),
    };
    let place = byte_to_write(offset)?;
    let old = keyspace.string(key, call.now)?.and_then(|bytes| bytes.get(place).copied());
    let (byte, mask) = (old.unwrap_or(0), 0x80 >> (offset & 7));
    let was = byte & mask != 0;
    // The string grows also where the bit that is written is zero.
    if old.is_none() || was != on {
        keyspace.edit_text(key, call.at(), |text| text.put(place, &[if on { byte | mask } else { byte & !mask }]))?;
        keyspace.notify(b'$', "setbit", key);
    }
    call.out.flag(was);
    Ok(())
}

fn getbit(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let offset = offset(call.args[2], None)?;
    let bytes = keyspace.string(call.args[1], call.now)?.unwrap_or_default();
    let byte = bytes.get((offset >> 3) as usize).copied().unwrap_or(0);
    call.out.flag(byte & (0x80 >> (offset & 7)) != 0);
    Ok(())
}

/// Whether a range is meant in bits.
fn in_bits(word: Option<&&[u8]>) -> Result<bool, Failure> {
    match word {
        None => Ok(false),
        Some(word) if is(word, "bit") => Ok(true),
        Some(word) if is(word, "byte") => Ok(false),
        Some(_) => Err(Failure::Syntax),
    }
}

/// So many of the bits from one to another, the latter excluded, are set.
fn count(bytes: &[u8], bits: std::ops::Range<usize>) -> usize {
    if bits.is_empty() {
        return 0;
    }
    let (first, last) = (bits.start / 8, (bits.end - 1) / 8);
    let ones = |bytes: &[u8]| {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: u32 = words.iter().map(|word| u64::from_le_bytes(*word).count_ones()).sum();
        (words + rest.iter().map(|byte| byte.count_ones()).sum::<u32>()) as usize
    };
    let before = bytes[first] & !(0xff >> (bits.start % 8));
    let after = bytes[last] & (0x7f >> ((bits.end - 1) % 8));
    ones(&bytes[first..=last]) - (before.count_ones() + after.count_ones()) as usize
}

fn bitcount(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let range = match call.args.len() {
        2 => None,
        4 | 5 => Some((int(call.args[2])?, int(call.args[3])?, in_bits(call.args.get(4))?)),
        _ => return Err(Failure::Syntax),
    };
    let bytes = keyspace.string(call.args[1], call.now)?.unwrap_or_default();
    let bits = match range {
        None => 0..bytes.len() * 8,
        Some((start, end, true)) => part(bytes.len() * 8, start, end),
        Some((start, end, false)) => {
            let range = part(bytes.len(), start, end);
            range.start * 8..range.end * 8
        }
    };
    call.out.count(count(bytes, bits));
    Ok(())
}

/// The first bit of that kind in a range.
fn first(bytes: &[u8], bits: std::ops::Range<usize>, set: bool) -> Option<usize> {
    let mut place = bits.start;
    while place < bits.end {
        let byte = bytes[place / 8];
        let wanted = (if set { byte } else { !byte }) & (0xff >> (place % 8));
        if wanted != 0 {
            let found = place / 8 * 8 + wanted.leading_zeros() as usize;
            return (found < bits.end).then_some(found);
        }
        place = place / 8 * 8 + 8;
        // Whole words without such a bit are stepped over.
        let none = if set { 0 } else { u64::MAX };
        while place + 64 <= bits.end
            && bytes[place / 8..].first_chunk::<8>().is_some_and(|word| u64::from_le_bytes(*word) == none)
        {
            place += 64;
        }
    }
    None
}

fn bitpos(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let args = call.args;
    let set = match int(args[2])? {
        bit @ (0 | 1) => bit == 1,
        _ => return Err("ERR The bit argument must be 1 or 0.".into()),
    };
    if args.len() > 6 {
        return Err(Failure::Syntax);
    }
    let start = args.get(3).map_or(Ok(0), |arg| int(arg))?;
    let by_bit = in_bits(args.get(5))?;
    let end = args.get(4).map(|arg| int(arg)).transpose()?;
    let Some(bytes) = keyspace.string(args[1], call.now)? else {
        call.out.int(if set { -1 } else { 0 });
        return Ok(());
    };
    let unit = if by_bit { 1 } else { 8 };
    let len = (bytes.len() * 8 / unit) as i64;
    let from_end = |at: i64| if at < 0 { (len + at).max(0) } else { at };
    let (start, last) = (from_end(start), end.map_or(len - 1, from_end).min(len - 1));
    if start > last {
        call.out.int(-1);
        return Ok(());
    }
    let bits = start as usize * unit..(last as usize + 1) * unit;
    let found = first(bytes, bits.clone(), set).map(|place| place as i64);
    // Where no end was given, zeros follow the string.
    let beyond = if !set && end.is_none() { bits.end as i64 } else { -1 };
    call.out.int(found.unwrap_or(beyond));
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    And,
    Or,
    Xor,
    Not,
    /// In the first and in none of the others.
    Diff,
    /// In one of the others and not in the first.
    Diff1,
    /// In the first and in one of the others.
    AndOr,
    /// In exactly one.
    One,
}

fn op(word: &[u8]) -> Result<Op, Failure> {
    let ops = [
        ("and", Op::And),
        ("or", Op::Or),
        ("xor", Op::Xor),
        ("not", Op::Not),
        ("diff", Op::Diff),
        ("diff1", Op::Diff1),
        ("andor", Op::AndOr),
        ("one", Op::One),
    ];
    ops.into_iter().find(|(name, _)| is(word, name)).map(|(_, op)| op).ok_or(Failure::Syntax)
}

/// Puts a string to another, byte by byte; the shorter one ends in zeros.
fn combine(all: &mut [u8], more: &[u8], with: impl Fn(u8, u8) -> u8) {
    let (both, rest) = all.split_at_mut(more.len());
    both.iter_mut().zip(more).for_each(|(byte, more)| *byte = with(*byte, *more));
    rest.iter_mut().for_each(|byte| *byte = with(*byte, 0));
}

fn combined(op: Op, strings: &[&[u8]], len: usize) -> Vec<u8> {
    let mut all = vec![0; len];
    let Some((first, others)) = strings.split_first() else { return all };
    let both = |a: u8, b: u8| a & b;
    let either = |a: u8, b: u8| a | b;
    match op {
        Op::And | Op::Or | Op::Xor | Op::Not => {
            all[..first.len()].copy_from_slice(first);
            for other in others {
                match op {
                    Op::And => combine(&mut all, other, both),
                    Op::Or => combine(&mut all, other, either),
                    _ => combine(&mut all, other, |a, b| a ^ b),
                }
            }
            if op == Op::Not {
                all.iter_mut().for_each(|byte| *byte = !*byte);
            }
        }
        Op::Diff | Op::Diff1 | Op::AndOr => {
            others.iter().for_each(|other| combine(&mut all, other, either));
            match op {
                Op::Diff => combine(&mut all, first, |others, first| first & !others),
                Op::Diff1 => combine(&mut all, first, |others, first| others & !first),
                _ => combine(&mut all, first, both),
            }
        }
        Op::One => {
            let mut more = vec![0; len];
            for string in strings {
                for ((one, more), byte) in all.iter_mut().zip(&mut more).zip(*string) {
                    *more |= *one & byte;
                    *one = (*one ^ byte) & !*more;
                }
            }
        }
    }
    all
}

fn bitop(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (op, target, keys) = (op(call.args[1])?, call.args[2], &call.args[3..]);
    if op == Op::Not && keys.len() != 1 {
        return Err("ERR BITOP NOT must be called with a single source key.".into());
    }
    if matches!(op, Op::Diff | Op::Diff1 | Op::AndOr) && keys.len() < 2 {
        let name = String::from_utf8_lossy(call.args[1]).to_ascii_uppercase();
        return Err(format!("ERR BITOP {name} must be called with at least two source keys.").into());
    }
    let mut strings = Vec::with_capacity(keys.len());
    for key in keys {
        strings.push(keyspace.string(key, call.now)?.unwrap_or_default());
    }
    let len = strings.iter().map(|string| string.len()).max().unwrap_or(0);
    if len == 0 {
        if keyspace.remove(target, call.at()) {
            keyspace.notify(b'g', "del", target);
        }
    } else {
        let value = combined(op, &strings, len);
        let value = TakenValue::String(value.into());
        keyspace.put_copy(target, Taken { value, deadline: 0, tags: Vec::new() }, call.at());
        keyspace.notify(b'$', "set", target);
    }
    call.out.count(len);
    Ok(())
}

#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Stay,
    Fail,
}

#[derive(Clone, Copy)]
enum Act {
    Get,
    Set(i64),
    Add(i64),
}

/// A number of few bits, and what is done with it.
#[derive(Clone, Copy)]
struct Field {
    offset: u64,
    bits: u32,
    signed: bool,
    overflow: Overflow,
    act: Act,
}

impl Field {
    fn last_bit(&self) -> u64 {
        self.offset + u64::from(self.bits) - 1
    }

    /// The nine bytes it lies within at most, from the highest bit on.
    fn window(&self, bytes: &[u8]) -> u128 {
        let mut window = [0; 16];
        let rest = bytes.get((self.offset >> 3) as usize..).unwrap_or_default();
        let len = rest.len().min(9);
        window[..len].copy_from_slice(&rest[..len]);
        u128::from_be_bytes(window)
    }

    fn shift(&self) -> u32 {
        128 - self.bits - (self.offset & 7) as u32
    }

    fn mask(&self) -> u128 {
        (1 << self.bits) - 1
    }

    fn get(&self, bytes: &[u8]) -> i128 {
        let value = (self.window(bytes) >> self.shift()) & self.mask();
        let negative = self.signed && value >> (self.bits - 1) == 1;
        if negative { value as i128 - (1 << self.bits) } else { value as i128 }
    }

    fn put(&self, text: &mut Text, value: i128) {
        let (shift, mask) = (self.shift(), self.mask());
        let window = (self.window(text.bytes()) & !(mask << shift)) | ((value as u128 & mask) << shift);
        let len = ((self.offset & 7) as usize + self.bits as usize).div_ceil(8);
        text.put((self.offset >> 3) as usize, &window.to_be_bytes()[..len]);
    }

    /// A value as it fits; none where it does not and is not to be made to.
    fn fit(&self, value: i128) -> Option<i128> {
        let (min, max) =
            if self.signed { (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) } else { (0, (1 << self.bits) - 1) };
        if (min..=max).contains(&value) {
            return Some(value);
        }
        match self.overflow {
            Overflow::Fail => None,
            Overflow::Stay => Some(value.clamp(min, max)),
            Overflow::Wrap => Some((value - min).rem_euclid(1 << self.bits) + min),
        }
    }

    /// What it is to become, and what is answered.
    fn act(&self, old: i128) -> Option<(i128, i128)> {
        match self.act {
            Act::Get => Some((old, old)),
            // A negative number for a field without a sign is a very large one.
            Act::Set(value) if !self.signed => self.fit(i128::from(value as u64)).map(|new| (new, old)),
            Act::Set(value) => self.fit(i128::from(value)).map(|new| (new, old)),
            Act::Add(by) => self.fit(old + i128::from(by)).map(|new| (new, new)),
        }
    }
}

fn fields(args: &[&[u8]]) -> Result<Vec<Field>, Failure> {
    let invalid = || {
        let text = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        Failure::from(text)
    };
    let (mut fields, mut overflow, mut place) = (Vec::new(), Overflow::Wrap, 2);
    while place < args.len() {
        let (word, more) = (args[place], args.len() - place - 1);
        if is(word, "overflow") && more >= 1 {
            overflow = match args[place + 1] {
                word if is(word, "wrap") => Overflow::Wrap,
                word if is(word, "sat") => Overflow::Stay,
                word if is(word, "fail") => Overflow::Fail,
                _ => return Err("ERR Invalid OVERFLOW type specified".into()),
            };
            place += 2;
            continue;
        }
        let takes = if is(word, "get") { 2 } else { 3 };
        if !(is(word, "get") || is(word, "set") || is(word, "incrby")) || more < takes {
            return Err(Failure::Syntax);
        }
        let (signed, bits) = match args[place + 1] {
            [b'i', bits @ ..] => (true, parse_int(bits).filter(|bits| (1..=64).contains(bits))),
            [b'u', bits @ ..] => (false, parse_int(bits).filter(|bits| (1..=63).contains(bits))),
            _ => (false, None),
        };
        let bits = bits.ok_or_else(invalid)?;
        let offset = offset(args[place + 2], Some(bits))?;
        let act = match takes {
            2 => Act::Get,
            _ if is(word, "set") => Act::Set(int(args[place + 3])?),
            _ => Act::Add(int(args[place + 3])?),
        };
        fields.push(Field { offset, bits: bits as u32, signed, overflow, act });
        place += takes + 1;
    }
    Ok(fields)
}

fn bitfield_ro(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let fields = fields(call.args)?;
    if fields.iter().any(|field| !matches!(field.act, Act::Get)) {
        keyspace.string(call.args[1], call.now)?;
        return Err("ERR BITFIELD_RO only supports the GET subcommand".into());
    }
    let bytes = keyspace.string(call.args[1], call.now)?.unwrap_or_default();
    call.out.array(fields.len());
    fields.iter().for_each(|field| call.out.int(field.get(bytes) as i64));
    Ok(())
}

fn bitfield(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, fields) = (call.args[1], fields(call.args)?);
    let written = fields.iter().filter(|field| !matches!(field.act, Act::Get)).map(Field::last_bit).max();
    let Some(last) = written else { return bitfield_ro(keyspace, call) };
    let len = byte_to_write(last)? + 1;
    let before = keyspace.string(key, call.now)?.map_or(0, <[u8]>::len);
    let out = &mut *call.out;
    out.array(fields.len());
    let at = At { version: call.version, now: call.now };
    let changes = keyspace.edit_text(key, at, |text| {
        text.grow(len);
        let mut changes = 0;
        for field in &fields {
            let old = field.get(text.bytes());
            let Some((new, answer)) = field.act(old) else {
                out.null();
                continue;
            };
            out.int(answer as i64);
            if new != old {
                field.put(text, new);
            }
            changes += usize::from(!matches!(field.act, Act::Get) && (new != old || before < len));
        }
        changes
    })?;
    if changes > 0 {
        keyspace.notify(b'$', "setbit", key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;
    use crate::table::execute::tests::Trial;

    #[test]
    fn bits_answer_as_they_should() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("SETBIT b 7 1", "(integer) 0"),
            ("SETBIT b 7 0", "(integer) 1"),
            ("SETBIT b 20 1", "(integer) 0"),
            ("GETBIT b 20", "(integer) 1"),
            ("GETBIT b 4000", "(integer) 0"),
            ("SETBIT b 4294967296 1", "(error) ERR bit offset is not an integer or out of range"),
            ("SETBIT b 134217728 1", "(error) ERR string exceeds maximum allowed size (16777216 bytes)"),
            ("SETBIT b 0 2", "(error) ERR bit is not an integer or out of range"),
            ("STRLEN b", "(integer) 3"),
            ("BITCOUNT b", "(integer) 1"),
            ("BITCOUNT b 2 -1", "(integer) 1"),
            ("BITCOUNT b 19 20 BIT", "(integer) 1"),
            ("BITCOUNT b 0", "(error) ERR syntax error"),
            ("BITPOS b 1", "(integer) 20"),
            ("BITPOS b 0", "(integer) 0"),
            ("BITPOS b 1 0 1", "(integer) -1"),
            ("BITPOS b 0 5", "(integer) -1"),
            ("BITPOS nope 0", "(integer) 0"),
            ("BITPOS nope 1", "(integer) -1"),
            ("SET f fff", "OK"),
            ("BITPOS f 0 2 2", "(integer) 16"),
            ("BITOP AND d f b", "(integer) 3"),
            ("BITOP NOT d f", "(integer) 3"),
            ("BITOP NOT d f b", "(error) ERR BITOP NOT must be called with a single source key."),
            ("BITOP DIFF d f", "(error) ERR BITOP DIFF must be called with at least two source keys."),
            ("SET x a", "OK"),
            ("SET y c", "OK"),
            ("SET z e", "OK"),
            ("BITOP ONE d x y z", "(integer) 1"),
            ("BITOP DIFF d x y z", "(integer) 1"),
            ("BITOP DIFF1 d x y z", "(integer) 1"),
            ("BITOP ANDOR d y x z", "(integer) 1"),
            ("GET d", r#""a""#),
            ("BITOP OR d nope", "(integer) 0"),
            ("EXISTS d", "(integer) 0"),
            (
                "BITFIELD n SET i8 #0 -100 SET u4 12 9 GET u4 12 GET i8 0",
                "[(integer) 0 (integer) 0 (integer) 9 (integer) -100]",
            ),
            (
                "BITFIELD n INCRBY i8 0 -100 OVERFLOW SAT INCRBY i8 0 -1000 OVERFLOW FAIL INCRBY i8 0 -1",
                "[(integer) 56 (integer) -128 (nil)]",
            ),
            (
                "BITFIELD n GET u64 0",
                "(error) ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
            ),
            ("BITFIELD_RO n GET i8 0", "[(integer) -128]"),
            ("BITFIELD_RO n SET i8 0 1", "(error) ERR BITFIELD_RO only supports the GET subcommand"),
            ("BITFIELD n", "[]"),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
    }

    fn bit(bytes: &[u8], place: usize) -> bool {
        bytes.get(place / 8).is_some_and(|byte| byte & (0x80 >> (place % 8)) != 0)
    }

    #[test]
    fn bits_are_counted_found_and_combined_as_one_by_one() {
        for seed in 0..3_000 {
            let mut chance = Chance::new(seed);
            let mut string = || -> Vec<u8> {
                let common = [0, 0xff, chance.next_u64() as u8][chance.below(3)];
                (0..chance.below(40))
                    .map(|_| if chance.below(9) == 0 { chance.next_u64() as u8 } else { common })
                    .collect()
            };
            let strings = [string(), string(), string()];
            let bytes = &strings[0];
            let start = chance.below(bytes.len() * 8 + 1);
            let range = start..start + chance.below(bytes.len() * 8 + 1 - start);
            let ones = range.clone().filter(|place| bit(bytes, *place)).count();
            assert_eq!(count(bytes, range.clone()), ones, "seed {seed}");
            for set in [false, true] {
                let found = range.clone().find(|place| bit(bytes, *place) == set);
                assert_eq!(first(bytes, range.clone(), set), found, "seed {seed}");
            }
            let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
            let len = strings.iter().map(|string| string.len()).max().unwrap_or(0);
            for op in [Op::And, Op::Or, Op::Xor, Op::Diff, Op::Diff1, Op::AndOr, Op::One] {
                let all = combined(op, &strings, len);
                for place in 0..len * 8 {
                    let [a, b, c] = [0, 1, 2].map(|string| bit(strings[string], place));
                    let wanted = match op {
                        Op::And => a && b && c,
                        Op::Or => a || b || c,
                        Op::Xor => a ^ b ^ c,
                        Op::Not => !a,
                        Op::Diff => a && !(b || c),
                        Op::Diff1 => !a && (b || c),
                        Op::AndOr => a && (b || c),
                        Op::One => usize::from(a) + usize::from(b) + usize::from(c) == 1,
                    };
                    assert_eq!(bit(&all, place), wanted, "seed {seed} bit {place}");
                }
            }
        }
    }

    #[test]
    fn a_field_is_the_number_its_bits_say_and_touches_no_others() {
        for seed in 0..5_000 {
            let mut chance = Chance::new(seed);
            let bytes: Vec<u8> = (0..20).map(|_| chance.next_u64() as u8).collect();
            let signed = chance.below(2) == 0;
            let bits = 1 + chance.below(if signed { 64 } else { 63 }) as u32;
            let field =
                Field { offset: chance.below(80) as u64, bits, signed, overflow: Overflow::Wrap, act: Act::Get };
            let places = field.offset as usize..field.offset as usize + bits as usize;
            let spelled = places.clone().fold(0i128, |value, place| value * 2 + i128::from(bit(&bytes, place)));
            let negative = signed && bit(&bytes, places.start);
            let value = if negative { spelled - (1 << bits) } else { spelled };
            assert_eq!(field.get(&bytes), value, "seed {seed}");
            let mut text = Text::from(&bytes[..]);
            let new = field.fit(i128::from(chance.next_u64() as i64)).expect("it wraps");
            field.put(&mut text, new);
            assert_eq!(field.get(text.bytes()), new, "seed {seed}");
            let untouched = (0..160).filter(|place| !places.contains(place));
            untouched.for_each(|place| assert_eq!(bit(text.bytes(), place), bit(&bytes, place), "seed {seed}"));
        }
    }
}
