//! HyperLogLog: about how many different things there were, in a string of at most 12 KB.
//!
//! ```text
//!   0      4          5        8             16
//!   | HYLL | encoding | unused | cardinality | registers
//! ```
//!
//! The string is Redis' own: 16384 registers, dense (six bits each, from the lowest on) or sparse (runs: `00nnnnnn` so many
//! zeros, `01nnnnnn nnnnnnnn` more of them, `1vvvvvnn` one to four of a value up to 32). A register holds the longest row of
//! zeros seen in the hashes that belong to it. The highest bit of the cardinality says that it is out of date; it is never
//! written here, because counting only reads, but it is believed where Redis wrote it.
//!
//! The estimate is Ertl's ("New cardinality estimation algorithms for HyperLogLog sketches", arXiv:1702.01284).

use super::super::call::Call;
use super::super::keyspace::{Keyspace, Taken, TakenValue};
use super::{DENYOOM, Done, FAST, Failure, Keys, READONLY, Run, Spec, WRITE};
use crate::table::objects::Text;

const INDEX_BITS: u32 = 14;
const REGISTERS: usize = 1 << INDEX_BITS;
/// The most that a register may hold.
const VALUE_MAX: usize = 64 - INDEX_BITS as usize + 1;
const HEADER: usize = 16;
const DENSE_BYTES: usize = HEADER + REGISTERS * 6 / 8;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
/// What sparse runs can say.
const SPARSE_VALUE_MAX: u8 = 32;
/// A sparse string that would be longer becomes dense.
const SPARSE_BYTES_MAX: usize = 3000;
/// The byte with the bit that says that the cardinality is out of date.
const STALE_BYTE: usize = 15;
const STALE: u8 = 0x80;
const ALPHA: f64 = 0.721_347_520_444_481_7;

pub(super) const SPECS: &[Spec] = &[
    Spec {
        name: "pfadd",
        arity: -2,
        flags: WRITE | DENYOOM | FAST,
        keys: Keys::Range(1, 1, 1),
        run: Run::Write(pfadd),
    },
    Spec { name: "pfcount", arity: -2, flags: READONLY, keys: Keys::Range(1, -1, 1), run: Run::Read(pfcount) },
    Spec { name: "pfmerge", arity: -2, flags: WRITE | DENYOOM, keys: Keys::Range(1, -1, 1), run: Run::Write(pfmerge) },
];

/// MurmurHash64A.
fn murmur(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(M);
        word = (word ^ (word >> 47)).wrapping_mul(M);
        hash = (hash ^ word).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 47)).wrapping_mul(M);
    hash ^ (hash >> 47)
}

/// The register of an element, and what it asks of it.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur(element, 0xadc8_3b19);
    let rest = (hash >> INDEX_BITS) | (1 << (64 - INDEX_BITS));
    (hash as usize & (REGISTERS - 1), rest.trailing_zeros() as u8 + 1)
}

/// A register among dense ones.
fn register(dense: &[u8], index: usize) -> u8 {
    let (byte, shift) = (index * 6 / 8, index * 6 % 8);
    let two = u16::from(dense[byte]) | u16::from(dense.get(byte + 1).copied().unwrap_or(0)) << 8;
    (two >> shift) as u8 & 0x3f
}

/// The bytes of a register, two at most, once it holds a value.
fn with_register(dense: &[u8], index: usize, value: u8) -> (std::ops::Range<usize>, [u8; 2]) {
    let (byte, shift) = (index * 6 / 8, index * 6 % 8);
    let bytes = byte..(byte + 2).min(dense.len());
    let mut two = [0; 2];
    two[..bytes.len()].copy_from_slice(&dense[bytes.clone()]);
    let both = u16::from_le_bytes(two) & !(0x3f << shift) | u16::from(value) << shift;
    (bytes, both.to_le_bytes())
}

/// Runs of equal registers: where each begins, and its value. The first begins at zero; neighbours differ.
#[derive(Clone)]
struct Runs(Vec<(u16, u8)>);

impl Runs {
    fn new() -> Runs {
        Runs(vec![(0, 0)])
    }

    fn decode(mut bytes: &[u8]) -> Option<Runs> {
        let (mut runs, mut at) = (Vec::new(), 0);
        while let Some((&first, rest)) = bytes.split_first() {
            let (value, len);
            (value, len, bytes) = match first >> 6 {
                0 => (0, usize::from(first & 0x3f) + 1, rest),
                1 => {
                    let (&second, rest) = rest.split_first()?;
                    (0, (usize::from(first & 0x3f) << 8 | usize::from(second)) + 1, rest)
                }
                _ => ((first >> 2 & 0x1f) + 1, usize::from(first & 3) + 1, rest),
            };
            if runs.last().is_none_or(|(_, before)| *before != value) {
                runs.push((at as u16, value));
            }
            at += len;
            if at > REGISTERS {
                return None;
            }
        }
        (at == REGISTERS).then_some(Runs(runs))
    }

    fn iter(&self) -> impl Iterator<Item = (std::ops::Range<usize>, u8)> {
        let ends = self.0.iter().skip(1).map(|(start, _)| usize::from(*start)).chain([REGISTERS]);
        self.0.iter().zip(ends).map(|((start, value), end)| (usize::from(*start)..end, *value))
    }

    /// Raises a register, and says whether it was lower.
    fn raise(&mut self, index: usize, value: u8) -> bool {
        let runs = &mut self.0;
        let run = runs.partition_point(|(start, _)| usize::from(*start) <= index) - 1;
        let (start, old) = (usize::from(runs[run].0), runs[run].1);
        if old >= value {
            return false;
        }
        let end = runs.get(run + 1).map_or(REGISTERS, |(start, _)| usize::from(*start));
        let mut new = [(0, 0); 3];
        let mut count = 0;
        let parts = [(start, old, start < index), (index, value, true), (index + 1, old, index + 1 < end)];
        for (start, value, _) in parts.into_iter().filter(|(_, _, there)| *there) {
            new[count] = (start as u16, value);
            count += 1;
        }
        runs.splice(run..=run, new[..count].iter().copied());
        // Neighbours that are equal now are one.
        let mut place = run.saturating_sub(1);
        while place + 1 < runs.len() && place <= run + 3 {
            if runs[place].1 == runs[place + 1].1 {
                runs.remove(place + 1);
            } else {
                place += 1;
            }
        }
        true
    }

    /// As a string, sparse where that is possible and short.
    fn encode(&self, dense: bool) -> Vec<u8> {
        let mut out = header(SPARSE);
        for (range, value) in self.iter() {
            let mut len = range.len();
            if dense || value > SPARSE_VALUE_MAX || out.len() > HEADER + SPARSE_BYTES_MAX {
                return self.encode_dense();
            }
            while value != 0 && len > 0 {
                let some = len.min(4);
                out.push(0x80 | (value - 1) << 2 | (some - 1) as u8);
                len -= some;
            }
            match len {
                0 => {}
                1..=64 => out.push(len as u8 - 1),
                _ => out.extend_from_slice(&[0x40 | ((len - 1) >> 8) as u8, (len - 1) as u8]),
            }
        }
        if out.len() > HEADER + SPARSE_BYTES_MAX { self.encode_dense() } else { out }
    }

    fn encode_dense(&self) -> Vec<u8> {
        let mut out = header(DENSE);
        out.resize(DENSE_BYTES, 0);
        for (range, value) in self.iter().filter(|(_, value)| *value != 0) {
            for index in range {
                let (bytes, two) = with_register(&out[HEADER..], index, value);
                out[HEADER..][bytes.clone()].copy_from_slice(&two[..bytes.len()]);
            }
        }
        out
    }
}

fn header(encoding: u8) -> Vec<u8> {
    let mut out = b"HYLL".to_vec();
    out.resize(HEADER, 0);
    out[4] = encoding;
    out[STALE_BYTE] = STALE;
    out
}

/// The registers of a string.
enum Sketch<'b> {
    Dense(&'b [u8]),
    Sparse(Runs),
}

impl<'b> Sketch<'b> {
    fn new(bytes: &'b [u8]) -> Result<Sketch<'b>, Failure> {
        let invalid = || Failure::from("WRONGTYPE Key is not a valid HyperLogLog string value.");
        let damaged = || Failure::from("INVALIDOBJ Corrupted HLL object detected");
        let (header, registers) = bytes.split_first_chunk::<HEADER>().ok_or_else(invalid)?;
        match header[4] {
            _ if header[..4] != *b"HYLL" => Err(invalid()),
            DENSE if bytes.len() == DENSE_BYTES => Ok(Sketch::Dense(registers)),
            SPARSE => Runs::decode(registers).map(Sketch::Sparse).ok_or_else(damaged),
            _ => Err(invalid()),
        }
    }

    /// Raises registers to its own.
    fn raise(&self, registers: &mut [u8]) {
        match self {
            Sketch::Dense(dense) => {
                registers.iter_mut().enumerate().for_each(|(index, it)| *it = (*it).max(register(dense, index)));
            }
            Sketch::Sparse(runs) => {
                for (range, value) in runs.iter() {
                    registers[range].iter_mut().for_each(|it| *it = (*it).max(value));
                }
            }
        }
    }

    /// How many registers hold each value.
    fn histogram(&self) -> [usize; 64] {
        let mut histogram = [0; 64];
        match self {
            Sketch::Dense(dense) => {
                (0..REGISTERS).for_each(|index| histogram[usize::from(register(dense, index))] += 1);
            }
            Sketch::Sparse(runs) => runs.iter().for_each(|(range, value)| histogram[usize::from(value)] += range.len()),
        }
        histogram
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        let before = z;
        x *= x;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        let before = z;
        x = x.sqrt();
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// About how many elements made these registers.
fn estimate(histogram: &[usize; 64]) -> u64 {
    let m = REGISTERS as f64;
    let mut z = m * tau((m - histogram[VALUE_MAX] as f64) / m);
    for value in (1..VALUE_MAX).rev() {
        z = (z + histogram[value] as f64) * 0.5;
    }
    z += m * sigma(histogram[0] as f64 / m);
    (ALPHA * m * m / z).round() as u64
}

fn pfadd(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, elements) = (call.args[1], &call.args[2..]);
    let found = keyspace.string(key, call.now)?;
    let mut runs = match found.map(Sketch::new).transpose()? {
        None => Runs::new(),
        Some(Sketch::Sparse(runs)) => runs,
        Some(Sketch::Dense(dense)) => {
            let places = elements.iter().map(|element| place(element));
            let raised: Vec<_> = places.filter(|(index, value)| register(dense, *index) < *value).collect();
            if !raised.is_empty() {
                keyspace.edit_text(key, call.at(), |text| raise_dense(text, &raised))?;
                keyspace.notify(b'$', "pfadd", key);
            }
            call.out.flag(!raised.is_empty());
            return Ok(());
        }
    };
    let mut changed = found.is_none();
    for element in elements {
        let (index, value) = place(element);
        changed |= runs.raise(index, value);
    }
    if changed {
        let deadline = keyspace.deadline(key, call.now).unwrap_or(0);
        let at = call.at();
        keyspace.keeping_tags(key, at, |keyspace| keyspace.set_string(key, &runs.encode(false), deadline, at));
        keyspace.notify(b'$', "pfadd", key);
    }
    call.out.flag(changed);
    Ok(())
}

fn raise_dense(text: &mut Text, raised: &[(usize, u8)]) {
    for (index, value) in raised {
        let dense = &text.bytes()[HEADER..];
        // Elements may share a register.
        if register(dense, *index) < *value {
            let (bytes, two) = with_register(dense, *index, *value);
            text.put(HEADER + bytes.start, &two[..bytes.len()]);
        }
    }
    let stale = text.bytes()[STALE_BYTE] | STALE;
    text.put(STALE_BYTE, &[stale]);
}

fn pfcount(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    if let [_, key] = call.args {
        let Some(bytes) = keyspace.string(key, call.now)? else {
            call.out.int(0);
            return Ok(());
        };
        let sketch = Sketch::new(bytes)?;
        let known = bytes.get(8..HEADER).and_then(|bytes| bytes.first_chunk()).copied().map(u64::from_le_bytes);
        let count = match known {
            Some(count) if count >> 63 == 0 => count,
            _ => estimate(&sketch.histogram()),
        };
        call.out.int(count as i64);
        return Ok(());
    }
    let mut registers = vec![0; REGISTERS];
    for key in &call.args[1..] {
        if let Some(bytes) = keyspace.string(key, call.now)? {
            Sketch::new(bytes)?.raise(&mut registers);
        }
    }
    let mut histogram = [0; 64];
    registers.iter().for_each(|value| histogram[usize::from(*value)] += 1);
    call.out.int(estimate(&histogram) as i64);
    Ok(())
}

fn pfmerge(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (mut registers, mut dense) = (vec![0; REGISTERS], false);
    for key in &call.args[1..] {
        if let Some(bytes) = keyspace.string(key, call.now)? {
            let sketch = Sketch::new(bytes)?;
            dense |= matches!(sketch, Sketch::Dense(_));
            sketch.raise(&mut registers);
        }
    }
    let mut runs = Vec::new();
    for (index, value) in registers.into_iter().enumerate() {
        if runs.last().is_none_or(|(_, before)| *before != value) {
            runs.push((index as u16, value));
        }
    }
    let key = call.args[1];
    let deadline = keyspace.deadline(key, call.now).unwrap_or(0);
    let value = TakenValue::String(Runs(runs).encode(dense).into());
    let at = call.at();
    keyspace.keeping_tags(key, at, |keyspace| {
        keyspace.put_copy(key, Taken { value, deadline, tags: Vec::new() }, at);
    });
    keyspace.notify(b'$', "pfadd", key);
    call.out.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;
    use crate::table::execute::tests::Trial;

    #[test]
    fn sketches_answer_as_they_should() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("PFADD a x y z", "(integer) 1"),
            ("PFADD a x", "(integer) 0"),
            ("PFADD b", "(integer) 1"),
            ("PFCOUNT a", "(integer) 3"),
            ("PFCOUNT a b nope", "(integer) 3"),
            ("PFADD b z w", "(integer) 1"),
            ("PFCOUNT a b", "(integer) 4"),
            ("PFMERGE c a b", "OK"),
            ("PFCOUNT c", "(integer) 4"),
            ("STRLEN c", "(integer) 29"),
            ("TYPE c", "string"),
            ("PFCOUNT nope", "(integer) 0"),
            ("SET s text", "OK"),
            ("PFADD s x", "(error) WRONGTYPE Key is not a valid HyperLogLog string value."),
            ("PFCOUNT a s", "(error) WRONGTYPE Key is not a valid HyperLogLog string value."),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
    }

    /// What Redis answers to the same elements, and how long its string then is.
    #[test]
    fn estimates_are_those_of_redis() {
        let (mut trial, mut done) = (Trial::new(), 0);
        for (many, estimate, bytes) in [
            (1, 1, 21),
            (10, 10, 48),
            (100, 100, 287),
            (1_000, 1_001, 1_923),
            (3_000, 3_004, 12_304),
            (10_000, 9_987, 12_304),
            (100_000, 99_565, 12_304),
        ] {
            let elements: Vec<String> = (done..many).map(|number| number.to_string()).collect();
            let words = elements.iter().map(|element| element.as_bytes());
            trial.call(&[&b"PFADD"[..], b"h"].into_iter().chain(words).collect::<Vec<_>>());
            done = many;
            assert_eq!(trial.line("PFCOUNT h"), format!("(integer) {estimate}"), "of {many}");
            assert_eq!(trial.line("STRLEN h"), format!("(integer) {bytes}"), "of {many}");
        }
    }

    #[test]
    fn runs_hold_what_registers_would() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let (mut runs, mut model) = (Runs::new(), vec![0u8; REGISTERS]);
            let near = 1 + chance.below(REGISTERS);
            for _ in 0..chance.below(700) {
                let (index, value) = (chance.below(near), 1 + chance.below(if seed % 2 == 0 { 4 } else { 51 }) as u8);
                assert_eq!(runs.raise(index, value), model[index] < value, "seed {seed}");
                model[index] = model[index].max(value);
            }
            assert!(runs.0.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1), "seed {seed}");
            for dense in [false, true] {
                let bytes = runs.encode(dense);
                let sketch = Sketch::new(&bytes).expect("it was just made");
                let mut found = vec![0; REGISTERS];
                sketch.raise(&mut found);
                assert!(found == model, "seed {seed}");
                let mut histogram = [0; 64];
                model.iter().for_each(|value| histogram[usize::from(*value)] += 1);
                assert_eq!(sketch.histogram(), histogram, "seed {seed}");
            }
        }
    }

    #[test]
    fn strings_that_are_no_sketch_are_refused() {
        let mut runs = Runs::new();
        for index in 0..200 {
            runs.raise(index * 7, 3);
        }
        let whole = runs.encode(false);
        for len in 0..whole.len() {
            assert!(Sketch::new(&whole[..len]).is_err(), "cut at {len}");
        }
        assert!(Sketch::new(&[&whole[..], &[0]].concat()).is_err());
        let dense = runs.encode(true);
        assert!(Sketch::new(&dense[1..]).is_err() && Sketch::new(&[&dense[..], &[0]].concat()).is_err());
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(sketch) = Sketch::new(&damaged) {
                assert_eq!(sketch.histogram().iter().sum::<usize>(), REGISTERS);
            }
        }
    }
}
