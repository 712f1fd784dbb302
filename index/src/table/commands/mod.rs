//! The commands: what each does, and what is known of each.
//!
//! ```text
//!   name --find--> Spec { arity, flags, keys, run: Read | Write | Door }
//! ```
//!
//! A command that reads sees the keyspace; one that writes changes it. Both see the same [`Call`] and answer on its tape.
//! Commands of the door are about a connection, or about more than one keyspace; they are listed so that whoever asks
//! learns of them, and carried out there.
//!
//! A family of commands is a module with a table of its specs. Names and replies are those of Redis 8.

mod bits;
mod dumps;
mod geo;
mod hashes;
mod hyperloglog;
mod keys;
mod leases;
mod limits;
mod messages;
mod scripts;
mod lists;
mod sets;
mod stream_claims;
mod stream_groups;
mod stream_info;
mod streams;
mod sort;
mod sorted;
mod sorted_merges;
mod sorted_ranges;
mod strings;
mod tags;
mod versions;

use std::borrow::Cow;
use std::sync::LazyLock;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

pub use scripts::{OF_DOORS, OF_SCRIPTS, SCRIPTS_OFF, brings_code, is_of_doors, is_of_scripts};
pub use streams::settle_read;

use super::call::Call;
use super::keyspace::{Keyspace, WrongType};

/// What is known of a command.
#[derive(Debug)]
pub struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// How many arguments, the name among them; negative: at least so many.
    pub arity: i32,
    /// What it is like.
    pub flags: u32,
    /// Where its keys are.
    pub keys: Keys,
    /// What it does.
    pub run: Run,
}

/// It changes something.
pub const WRITE: u32 = 1;
/// It only reads.
pub const READONLY: u32 = 2;
/// It may make the data larger: refused where there is no room.
pub const DENYOOM: u32 = 4;
/// It takes constant or logarithmic time.
pub const FAST: u32 = 8;
/// It may wait.
pub const BLOCKING: u32 = 16;
/// Not allowed in scripts.
pub const NOSCRIPT: u32 = 32;
/// About the server, not the data.
pub const ADMIN: u32 = 64;
/// Allowed before authentication.
pub const NOAUTH: u32 = 128;
/// About subscriptions.
pub const PUBSUB: u32 = 256;

/// In a transaction it is asked before anything is done, and may stop it.
pub const GUARD: u32 = 512;

/// Where a command's keys are among its arguments.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    /// It has none.
    None,
    /// From the first to the last (negative: counted from the end), every so many.
    Range(i32, i32, i32),
    /// The argument at this place says how many, and they follow it; the destination, if any, is at the other place.
    Counted(usize, Option<usize>),
    /// Found by looking.
    Found(fn(&[&[u8]]) -> Vec<usize>),
}

/// What carries a command out.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// Reads a keyspace.
    Read(fn(&Keyspace, &mut Call<'_>) -> Result<(), Failure>),
    /// Changes a keyspace.
    Write(fn(&mut Keyspace, &mut Call<'_>) -> Result<(), Failure>),
    /// Is about scripts.
    Script,
    /// Exchanges two keyspaces.
    Swap,
    /// The door does it.
    Door,
}

/// Why a call did nothing. What was written on its tape is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The key holds another kind of value.
    WrongType,
    /// The arguments make no sense together.
    Syntax,
    /// An argument is no whole number, or too large.
    NotInteger,
    /// An argument is no number.
    NotFloat,
    /// With its kind and what is wrong, as Redis says it.
    Text(Cow<'static, str>),
}

impl From<WrongType> for Failure {
    fn from(_: WrongType) -> Failure {
        Failure::WrongType
    }
}

impl From<&'static str> for Failure {
    fn from(text: &'static str) -> Failure {
        Failure::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure::Text(Cow::Owned(text))
    }
}

impl Failure {
    /// As it is said: the kind in capitals, and what is wrong.
    pub fn text(&self) -> &str {
        match self {
            Failure::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            Failure::Syntax => "ERR syntax error",
            Failure::NotInteger => "ERR value is not an integer or out of range",
            Failure::NotFloat => "ERR value is not a valid float",
            Failure::Text(text) => text,
        }
    }
}

/// What a command gives back: its reply is on the tape.
pub type Done = Result<(), Failure>;

/// The families.
const FAMILIES: &[&[Spec]] = &[
    strings::SPECS,
    keys::SPECS,
    hashes::SPECS,
    sets::SPECS,
    streams::SPECS,
    stream_groups::SPECS,
    stream_claims::SPECS,
    stream_info::SPECS,
    bits::SPECS,
    hyperloglog::SPECS,
    limits::SPECS,
    dumps::SPECS,
    scripts::SPECS,
    messages::SPECS,
    lists::SPECS,
    sorted::SPECS,
    sorted_ranges::SPECS,
    sorted_merges::SPECS,
    geo::SPECS,
    sort::SPECS,
    versions::SPECS,
    leases::SPECS,
    tags::SPECS,
];

static BY_NAME: LazyLock<HashTable<&'static Spec>> = LazyLock::new(|| {
    let mut table = HashTable::new();
    for spec in all() {
        let of = |spec: &&Spec| xxh3_64(spec.name.as_bytes());
        table.insert_unique(of(&spec), spec, of);
    }
    table
});

/// The longest name of a command.
const NAME_MAX: usize = 32;

/// All commands.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// The command of that name, in whatever case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0; NAME_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    BY_NAME.find(xxh3_64(lower), |spec| spec.name.as_bytes() == lower).copied()
}

/// Whether a call may make the data larger: such are refused where there is no room.
pub fn needs_room(spec: &Spec, args: &[&[u8]]) -> bool {
    let frees =
        || args.get(1).is_some_and(|part| ["destroy", "delconsumer", "setid"].iter().any(|name| is(part, name)));
    spec.is(DENYOOM) && !(spec.name == "xgroup" && frees())
}

impl Spec {
    /// Whether it may have so many arguments, its name among them.
    pub fn takes(&self, arguments: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { arguments >= wanted } else { arguments == wanted }
    }

    /// Whether it has that flag.
    pub fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The places of its keys among the arguments.
    pub fn key_places(&self, args: &[&[u8]]) -> Vec<usize> {
        match self.keys {
            Keys::None => Vec::new(),
            Keys::Range(first, last, step) => {
                let last = if last < 0 { args.len() as i32 + last } else { last };
                (first..=last).step_by(step.max(1) as usize).map(|place| place as usize).collect()
            }
            Keys::Counted(place, destination) => {
                let count = args.get(place).and_then(|arg| parse_int(arg)).unwrap_or(0).max(0) as usize;
                let keys = place + 1..(place + 1).saturating_add(count).min(args.len());
                destination.into_iter().chain(keys).collect()
            }
            Keys::Found(find) => find(args),
        }
    }
}

/// A whole number, written as Redis writes them: no sign but a minus, no leading zeros, no spaces.
pub fn parse_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 19 || (digits[0] == b'0' && (digits.len() > 1 || negative)) {
        return None;
    }
    let mut number = 0i128;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + i128::from(digit - b'0');
    }
    i64::try_from(if negative { -number } else { number }).ok()
}

/// The same, or the usual failure.
pub fn int(text: &[u8]) -> Result<i64, Failure> {
    parse_int(text).ok_or(Failure::NotInteger)
}

/// A number with a fraction, as C's `strtod` reads it: `inf` and `infinity` in any case, an exponent, not `nan`.
pub fn parse_float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() || text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        return None;
    }
    let number: f64 = text.parse().ok().or_else(|| parse_hex(text))?;
    // What is too large for a number is none, unless it says so.
    let fits = number.is_finite() || text.contains(['i', 'I']);
    (fits && !number.is_nan()).then_some(number)
}

/// The same of what is kept as a double: what is too near to zero for one is none either.
pub fn parse_double(text: &[u8]) -> Option<f64> {
    let number = parse_float(text)?;
    let is_hex = text.iter().any(|byte| matches!(byte, b'x' | b'X'));
    let exponent = |byte: &u8| if is_hex { matches!(byte, b'p' | b'P') } else { matches!(byte, b'e' | b'E') };
    let says_zero = || {
        !text
            .iter()
            .take_while(|byte| !exponent(byte))
            .any(|byte| matches!(byte, b'1'..=b'9' | b'a'..=b'f' | b'A'..=b'F'))
    };
    (number != 0.0 || says_zero()).then_some(number)
}

/// A number as C writes it in base 16, which Redis takes as well: `0x10`, `-0x1.8p3`.
fn parse_hex(text: &str) -> Option<f64> {
    let (negative, rest) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let [b'0', b'x' | b'X', digits @ ..] = rest else { return None };
    let end = digits.iter().position(|byte| matches!(byte, b'p' | b'P')).unwrap_or(digits.len());
    let (digits, exponent) = (&digits[..end], digits.get(end + 1..));
    let mut exponent = match exponent {
        Some(exponent) => std::str::from_utf8(exponent).ok()?.parse::<i32>().ok()?.clamp(-10_000, 10_000),
        None => 0,
    };
    let (mut value, mut seen, mut point) = (0.0f64, 0, false);
    for byte in digits {
        if *byte == b'.' && !point {
            point = true;
            continue;
        }
        value = value * 16.0 + f64::from(char::from(*byte).to_digit(16)?);
        exponent -= if point { 4 } else { 0 };
        seen += 1;
    }
    let value = libm::ldexp(value, exponent);
    (seen > 0 && seen <= 256).then_some(if negative { -value } else { value })
}

/// A number without the spaces before it, for the places where Redis does not mind them.
pub fn without_blanks(text: &[u8]) -> &[u8] {
    let blank = |byte: &&u8| matches!(byte, b' ' | b'\t'..=b'\r');
    &text[text.iter().take_while(blank).count()..]
}

/// The same, or the usual failure.
pub fn float(text: &[u8]) -> Result<f64, Failure> {
    parse_float(text).ok_or(Failure::NotFloat)
}

/// A double, or the usual failure.
pub fn double(text: &[u8]) -> Result<f64, Failure> {
    parse_double(text).ok_or(Failure::NotFloat)
}

/// Whether an argument is this word, in whatever case.
pub fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// A whole number as text.
pub fn int_text(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (text, number) in [
            ("1.5", Some(1.5)),
            (".5", Some(0.5)),
            ("+7", Some(7.0)),
            ("-INF", Some(f64::NEG_INFINITY)),
            ("0x10", Some(16.0)),
            ("-0X1.8p3", Some(-12.0)),
            ("0x.4", Some(0.25)),
            ("0x1p-2", Some(0.25)),
            ("0x", None),
            ("0x.", None),
            ("0xg", None),
            ("0x1p", None),
            ("0x1p99999", None),
            ("1e400", None),
            ("nan", None),
            (" 1", None),
            ("1 ", None),
            ("", None),
        ] {
            assert_eq!(parse_float(text.as_bytes()), number, "{text:?}");
        }
        for (text, number) in [
            ("1e-310", Some(1e-310)),
            ("1e-400", None),
            ("-0.001e-400", None),
            ("0x1p-2000", None),
            ("0e-400", Some(0.0)),
            ("0x0p5", Some(0.0)),
            ("-0.0", Some(0.0)),
            ("inf", Some(f64::INFINITY)),
        ] {
            assert_eq!(parse_double(text.as_bytes()), number, "{text:?}");
        }
    }
}
