//! Fuzzing on a stable compiler: inputs that worked are mutated, and whatever makes a decoder answer in a new way is
//! mutated further. What a decoder says of an input stands in for the coverage that an instrumented build would see.
//!
//! Without settings a target runs a fixed number of inputs. `LOCI_FUZZ_SECONDS=60` makes the documented run; it keeps
//! the inputs with new answers in `tests/seeds/TARGET/`, from where every later run starts. An input that makes a decoder
//! panic is kept there too, and the test fails with its name.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::{say, seed, setting};

/// The most inputs that are kept in the repository for one target.
const KEPT_MAX: usize = 40;
/// Larger ones are not.
const KEPT_BYTES_MAX: usize = 8 << 10;
/// No decoder takes this long for inputs as small as these, on any machine: it hangs.
const HANGS: Duration = Duration::from_secs(30);

/// A decoder under test.
pub struct Target<'t> {
    /// Its name: that of its folder of seeds.
    pub name: &'t str,
    /// Inputs that are right.
    pub seeds: Vec<Vec<u8>>,
    /// How many inputs a normal run tries.
    pub inputs: u64,
    /// How new inputs are made.
    pub mutate: Mutate<'t>,
    /// Mends what guards the input, such as a checksum, so that what lies behind the guard is reached.
    pub mend: &'t dyn Fn(&mut Vec<u8>),
    /// Decodes, and uses what it got. Says how it went.
    pub decode: &'t mut dyn FnMut(&[u8]) -> String,
}

/// How an input is made of another.
#[derive(Clone, Copy)]
pub enum Mutate<'t> {
    /// In any way: it can be longer or shorter.
    Anyhow,
    /// Mostly without another length, because places in the file are fixed.
    InPlace,
    /// Mostly so.
    By(&'t dyn Fn(&mut Chance, &mut Vec<u8>)),
}

/// Where the seeds of a target are kept.
pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name)
}

/// The inputs that were kept for a target.
pub fn kept(name: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder(name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be read").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed can be read")).collect()
}

/// Keeps an input for every later run.
pub fn keep(name: &str, input: &[u8]) -> PathBuf {
    let folder = folder(name);
    fs::create_dir_all(&folder).expect("a folder of seeds can be made");
    let hash = blake3::hash(input).to_hex();
    let path = folder.join(&hash.as_str()[..16]);
    fs::write(&path, input).expect("a seed can be written");
    path
}

/// An answer without what differs from input to input.
fn shape(answer: &str) -> String {
    answer.chars().filter(|c| c.is_ascii_alphabetic() || *c == ' ').take(200).collect()
}

const NUMBERS: [u64; 8] = [0, 1, 0x7f, 0x80, 0xffff_ffff, u64::MAX, 1 << 31, i64::MAX as u64];

/// Another input of the same length.
pub fn mutate_in_place(chance: &mut Chance, input: &mut [u8]) {
    for _ in 0..1 + chance.below(3) {
        if input.is_empty() {
            return;
        }
        let at = chance.index(input.len());
        // Most of a file is data; what steers its reading lies at multiples of four.
        let at = if chance.percent(70) { at & !3 } else { at };
        let width = [1, 2, 4, 8][chance.index(4)];
        let number = match chance.below(3) {
            0 => NUMBERS[chance.index(NUMBERS.len())],
            1 => chance.below(300),
            _ => chance.next_u64(),
        };
        input.iter_mut().skip(at).zip(&number.to_le_bytes()[..width]).for_each(|(byte, new)| *byte = *new);
    }
}

/// Another input, made from one or two others.
pub fn mutate(chance: &mut Chance, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + chance.below(6) {
        let len = input.len();
        if len == 0 {
            *input = chance.bytes(8);
            continue;
        }
        let at = chance.index(len);
        match chance.below(9) {
            0 => input[at] ^= 1 << chance.below(8),
            1 => input[at] = chance.next_u64() as u8,
            2 => {
                let number = NUMBERS[chance.index(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][chance.index(4)];
                input.iter_mut().skip(at).zip(&number[..width]).for_each(|(byte, new)| *byte = *new);
            }
            3 => input.truncate(at),
            4 => {
                let bytes = chance.below(16) as usize;
                let new = chance.bytes(bytes);
                input.splice(at..at, new);
            }
            5 => {
                let end = (at + chance.below(32) as usize).min(len);
                input.drain(at..end);
            }
            6 => {
                let end = (at + chance.below(64) as usize).min(len);
                let again = input[at..end].to_vec();
                let place = chance.index(len);
                input.splice(place..place, again);
            }
            7 if !other.is_empty() => {
                let begin = chance.index(other.len());
                let end = (begin + chance.below(128) as usize).min(other.len());
                input.splice(at..at, other[begin..end].iter().copied());
            }
            _ => input[at] = input[at].wrapping_add(if chance.percent(50) { 1 } else { 255 }),
        }
    }
}

/// Runs a target. Panics with the kept input if the decoder did.
pub fn run(target: Target<'_>) {
    let Target { name, seeds, inputs, mutate: way, mend, decode } = target;
    let seconds = setting("LOCI_FUZZ_SECONDS", 0);
    let long = seconds > 0;
    let mut chance = Chance::new(seed());
    let before = kept(name);
    let mut kept_count = before.len();
    let right = seeds.len();
    let mut corpus: Vec<Vec<u8>> = seeds.into_iter().chain(before).collect();
    assert!(!corpus.is_empty(), "{name} has no seeds");
    let mut shapes = BTreeSet::new();
    let mut try_one = |input: &[u8]| -> String {
        let begin = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| decode(input))) {
            Ok(_) if begin.elapsed() > HANGS => panic!("{name} hangs on {}", keep(name, input).display()),
            Ok(answer) => shape(&answer),
            Err(_) => panic!("LOCI_SEED={}: {name} panics on {}", seed(), keep(name, input).display()),
        }
    };
    for input in &corpus {
        shapes.insert(try_one(input));
    }
    let begin = Instant::now();
    let mut tried = 0u64;
    while if long { begin.elapsed().as_secs() < seconds } else { tried < inputs } {
        // What is wrong in one place already is mostly refused for that, whatever else is done to it.
        let begin_right = matches!(way, Mutate::By(_)) && chance.percent(60);
        let mut input = corpus[chance.index(if begin_right { right } else { corpus.len() })].clone();
        let other = corpus[chance.index(corpus.len())].clone();
        match way {
            Mutate::InPlace if chance.percent(90) => mutate_in_place(&mut chance, &mut input),
            Mutate::By(by) if chance.percent(95) => by(&mut chance, &mut input),
            _ => mutate(&mut chance, &mut input, &other),
        }
        if chance.percent(80) {
            mend(&mut input);
        }
        tried += 1;
        if shapes.insert(try_one(&input)) {
            if long && kept_count < KEPT_MAX && input.len() <= KEPT_BYTES_MAX {
                keep(name, &input);
                kept_count += 1;
            }
            corpus.push(input);
        }
    }
    say(&format!(
        "fuzz {name}: {tried} inputs in {:.1?}, {} kinds of answers, 0 panics",
        begin.elapsed(),
        shapes.len()
    ));
}
