//! Strings: whole values, numbers and ranges.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::tags::{give, tags_word};
use super::{
    DENYOOM, Done, FAST, Failure, Keys, READONLY, Run, Spec, WRITE, float, int, int_text, is, parse_float, parse_int,
};

/// The longest string in bytes.
pub const STRING_BYTES_MAX: usize = 16 << 20;
const ONE: Keys = Keys::Range(1, 1, 1);

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
    read("get", 2, ONE, FAST, get),
    read("strlen", 2, ONE, FAST, strlen),
    read("getrange", 4, ONE, 0, getrange),
    read("substr", 4, ONE, 0, getrange),
    read("mget", -2, Keys::Range(1, -1, 1), FAST, mget),
    read("lcs", -3, Keys::Range(1, 2, 1), 0, lcs),
    read("digest", 2, ONE, FAST, digest),
    write("set", -3, ONE, DENYOOM, set),
    write("setnx", 3, ONE, DENYOOM | FAST, setnx),
    write("setex", 4, ONE, DENYOOM, |keyspace, call| set_for(keyspace, call, 1_000)),
    write("psetex", 4, ONE, DENYOOM, |keyspace, call| set_for(keyspace, call, 1)),
    write("getset", 3, ONE, DENYOOM | FAST, getset),
    write("getdel", 2, ONE, FAST, getdel),
    write("getex", -2, ONE, FAST, getex),
    write("mset", -3, Keys::Range(1, -1, 2), DENYOOM, mset),
    write("msetnx", -3, Keys::Range(1, -1, 2), DENYOOM, msetnx),
    write("msetex", -4, Keys::Found(keys_of_msetex), DENYOOM, msetex),
    write("append", 3, ONE, DENYOOM | FAST, append),
    write("setrange", 4, ONE, DENYOOM, setrange),
    write("incr", 2, ONE, DENYOOM | FAST, |keyspace, call| add(keyspace, call, 1)),
    write("decr", 2, ONE, DENYOOM | FAST, |keyspace, call| add(keyspace, call, -1)),
    write("incrby", 3, ONE, DENYOOM | FAST, |keyspace, call| {
        let by = int(call.args[2])?;
        add(keyspace, call, by)
    }),
    write("decrby", 3, ONE, DENYOOM | FAST, |keyspace, call| {
        let by = int(call.args[2])?.checked_neg().ok_or("ERR decrement would overflow")?;
        add(keyspace, call, by)
    }),
    write("incrbyfloat", 3, ONE, DENYOOM | FAST, incrbyfloat),
    write("delex", -2, ONE, FAST, delex),
];

fn get(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let found = keyspace.string(call.args[1], call.now)?;
    call.out.bulk_or_null(found);
    Ok(())
}

fn strlen(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let found = keyspace.string(call.args[1], call.now)?;
    call.out.count(found.map_or(0, <[u8]>::len));
    Ok(())
}

/// The part from `start` to `end`, both included, negative ones counted from the end.
pub(super) fn part(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    let len = len as i64;
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let from_end = |at: i64| if at < 0 { (len + at).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end || len == 0 { 0..0 } else { start as usize..end as usize + 1 }
}

fn getrange(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let (start, end) = (int(call.args[2])?, int(call.args[3])?);
    let found = keyspace.string(call.args[1], call.now)?.unwrap_or_default();
    call.out.bulk(&found[part(found.len(), start, end)]);
    Ok(())
}

fn mget(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    call.out.array(call.args.len() - 1);
    for key in &call.args[1..] {
        call.out.bulk_or_null(keyspace.string(key, call.now).unwrap_or(None));
    }
    Ok(())
}

/// What `IFDEQ` and `DIGEST` compare: xxh3 of the string, in hexadecimal digits.
fn digest_of(value: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(value))
}

fn digest(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let found = keyspace.string(call.args[1], call.now)?.map(digest_of);
    call.out.bulk_or_null(found.as_deref().map(str::as_bytes));
    Ok(())
}

pub(super) fn too_long() -> Failure {
    Failure::from(format!("ERR string exceeds maximum allowed size ({STRING_BYTES_MAX} bytes)"))
}

/// How long a key shall live, from the words of `SET` and `GETEX`.
pub(super) enum Life {
    Until(u64),
    Keep,
    Forever,
}

/// Reads `EX seconds`, `PX milliseconds`, `EXAT`, `PXAT`, at the place of the word; says whether it was one of these.
pub(super) fn deadline_word(call: &Call<'_>, place: usize, name: &str) -> Result<Option<u64>, Failure> {
    let word = call.args[place];
    let (unit, absolute) = match () {
        () if is(word, "ex") => (1_000, false),
        () if is(word, "px") => (1, false),
        () if is(word, "exat") => (1_000, true),
        () if is(word, "pxat") => (1, true),
        () => return Ok(None),
    };
    let given = call.args.get(place + 1).ok_or(Failure::Syntax)?;
    deadline(int(given)?, unit, absolute, call.now, name).map(Some)
}

/// The deadline that a number of seconds or milliseconds means, which must be positive.
pub(super) fn deadline(given: i64, unit: i64, absolute: bool, now: u64, name: &str) -> Result<u64, Failure> {
    let invalid = || Failure::from(format!("ERR invalid expire time in '{name}' command"));
    if given <= 0 {
        return Err(invalid());
    }
    let millis = given.checked_mul(unit).ok_or_else(invalid)?;
    let millis = if absolute { millis } else { millis.checked_add(now as i64).ok_or_else(invalid)? };
    Ok(millis as u64)
}

/// What must hold of a key for a conditional write.
enum If<'a> {
    Always,
    Absent,
    Present,
    Equal(&'a [u8]),
    Different(&'a [u8]),
    DigestEqual(&'a [u8]),
    DigestDifferent(&'a [u8]),
}

impl<'a> If<'a> {
    /// Reads `IFEQ value` and the like at a place.
    fn word(args: &[&'a [u8]], place: usize) -> Result<Option<If<'a>>, Failure> {
        let word = args[place];
        let make: fn(&'a [u8]) -> If<'a> = match () {
            () if is(word, "ifeq") => If::Equal,
            () if is(word, "ifne") => If::Different,
            () if is(word, "ifdeq") => If::DigestEqual,
            () if is(word, "ifdne") => If::DigestDifferent,
            () => return Ok(None),
        };
        let given = args.get(place + 1).copied().ok_or(Failure::Syntax)?;
        if matches!(make(given), If::DigestEqual(_) | If::DigestDifferent(_))
            && !(given.len() == 16 && given.iter().all(u8::is_ascii_hexdigit))
        {
            return Err("ERR must be exactly 16 hexadecimal characters".into());
        }
        Ok(Some(make(given)))
    }

    fn holds(&self, keyspace: &Keyspace, key: &[u8], now: u64) -> Result<bool, Failure> {
        let equal = |found: &str, digest: &[u8]| found.as_bytes().eq_ignore_ascii_case(digest);
        Ok(match self {
            If::Always => true,
            If::Absent => !keyspace.contains(key, now),
            If::Present => keyspace.contains(key, now),
            If::Equal(value) => keyspace.string(key, now)? == Some(value),
            If::Different(value) => keyspace.string(key, now)? != Some(value),
            If::DigestEqual(digest) => keyspace.string(key, now)?.is_some_and(|v| equal(&digest_of(v), digest)),
            If::DigestDifferent(digest) => !keyspace.string(key, now)?.is_some_and(|v| equal(&digest_of(v), digest)),
        })
    }
}

fn set(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, value) = (call.args[1], call.args[2]);
    let (mut life, mut unit, mut condition, mut get) = (None, None::<&[u8]>, If::Always, false);
    let mut tags = None;
    let mut place = 3;
    while place < call.args.len() {
        let word = call.args[place];
        if is(word, "get") {
            get = true;
        } else if is(word, "nx") && matches!(condition, If::Always | If::Absent) {
            // The same word may come twice.
            condition = If::Absent;
        } else if is(word, "xx") && matches!(condition, If::Always | If::Present) {
            condition = If::Present;
        } else if is(word, "keepttl") && matches!(life, None | Some(Life::Keep)) {
            life = Some(Life::Keep);
        } else if unit.is_none_or(|unit| word.eq_ignore_ascii_case(unit))
            && !matches!(life, Some(Life::Keep))
            && let Some(deadline) = deadline_word(call, place, "set")?
        {
            (life, unit) = (Some(Life::Until(deadline)), Some(word));
            place += 1;
        } else if is(word, "tags") && tags.is_none() {
            let (given, words) = tags_word(call.args, place)?;
            tags = Some(given);
            place += words;
        } else if matches!(condition, If::Always)
            && let Some(found) = If::word(call.args, place)?
        {
            condition = found;
            place += 1;
        } else {
            return Err(Failure::Syntax);
        }
        place += 1;
    }
    let holds = condition.holds(keyspace, key, call.now)?;
    if get {
        let old = keyspace.string(key, call.now)?;
        call.out.bulk_or_null(old);
    }
    if !holds {
        if !get {
            call.out.null();
        }
        return Ok(());
    }
    let deadline = match life {
        Some(Life::Until(deadline)) => deadline,
        Some(Life::Keep) => keyspace.deadline(key, call.now).unwrap_or(0),
        Some(Life::Forever) | None => 0,
    };
    match (&life, &tags) {
        // What keeps its deadline keeps its tags.
        (Some(Life::Keep), None) => {
            keyspace.keeping_tags(key, call.at(), |keyspace| store(keyspace, call, key, value, deadline, "set"))
        }
        _ => store(keyspace, call, key, value, deadline, "set"),
    }
    if let Some(tags) = tags {
        give(keyspace, call, key, &tags);
    }
    if matches!(life, Some(Life::Until(_))) {
        notify_deadline(keyspace, call, key, deadline);
    }
    if !get {
        call.out.ok();
    }
    Ok(())
}

/// Sets a string. A deadline that has passed removes the key at once.
pub(super) fn store(
    keyspace: &mut Keyspace,
    call: &Call<'_>,
    key: &[u8],
    value: &[u8],
    deadline: u64,
    event: &'static str,
) {
    if deadline != 0 && deadline <= call.now {
        // It is set, and expires at once.
        keyspace.remove(key, call.at());
    } else {
        keyspace.set_string(key, value, deadline, call.at());
    }
    keyspace.notify(b'$', event, key);
}

/// A key got a deadline with its value; it may have passed already.
fn notify_deadline(keyspace: &mut Keyspace, call: &Call<'_>, key: &[u8], deadline: u64) {
    keyspace.notify(b'g', "expire", key);
    if deadline <= call.now {
        keyspace.notify(b'x', "expired", key);
    }
}

fn setnx(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let free = !keyspace.contains(call.args[1], call.now);
    if free {
        store(keyspace, call, call.args[1], call.args[2], 0, "set");
    }
    call.out.flag(free);
    Ok(())
}

fn set_for(keyspace: &mut Keyspace, call: &mut Call<'_>, unit: i64) -> Done {
    let name = if unit == 1 { "psetex" } else { "setex" };
    let deadline = deadline(int(call.args[2])?, unit, false, call.now, name)?;
    store(keyspace, call, call.args[1], call.args[3], deadline, "set");
    keyspace.notify(b'g', "expire", call.args[1]);
    call.out.ok();
    Ok(())
}

fn getset(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let old = keyspace.string(call.args[1], call.now)?;
    call.out.bulk_or_null(old);
    store(keyspace, call, call.args[1], call.args[2], 0, "set");
    Ok(())
}

fn getdel(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let old = keyspace.string(call.args[1], call.now)?;
    call.out.bulk_or_null(old);
    if keyspace.remove(call.args[1], call.at()) {
        keyspace.notify(b'g', "del", call.args[1]);
    }
    Ok(())
}

fn getex(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (mut life, mut wrong) = (None, None);
    let mut place = 2;
    while place < call.args.len() {
        if life.is_some() {
            return Err(Failure::Syntax);
        }
        if is(call.args[place], "persist") {
            life = Some(Life::Forever);
        } else {
            life = match deadline_word(call, place, "getex") {
                Ok(deadline) => Some(Life::Until(deadline.ok_or(Failure::Syntax)?)),
                Err(Failure::Syntax) => return Err(Failure::Syntax),
                // Told only where there is a value.
                Err(other) => {
                    wrong = Some(other);
                    Some(Life::Keep)
                }
            };
            place += 1;
        }
        place += 1;
    }
    let key = call.args[1];
    let old = keyspace.string(key, call.now)?;
    let found = old.is_some();
    if let Some(wrong) = wrong.filter(|_| found) {
        return Err(wrong);
    }
    call.out.bulk_or_null(old);
    match life {
        Some(Life::Until(deadline)) if found && deadline <= call.now => {
            keyspace.remove(key, call.at());
            keyspace.notify(b'g', "del", key);
        }
        Some(Life::Until(deadline)) if found => {
            keyspace.set_deadline(key, deadline, call.at());
            keyspace.notify(b'g', "expire", key);
        }
        Some(Life::Forever) if found && keyspace.deadline(key, call.now) != Some(0) => {
            keyspace.set_deadline(key, 0, call.at());
            keyspace.notify(b'g', "persist", key);
        }
        _ => {}
    }
    Ok(())
}

type Pair<'a> = (&'a [u8], &'a [u8]);

fn pairs_of<'a>(call: &Call<'a>, name: &str) -> Result<Vec<Pair<'a>>, Failure> {
    if call.args.len().is_multiple_of(2) {
        return Err(format!("ERR wrong number of arguments for '{name}' command").into());
    }
    Ok(call.args[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn mset(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    for (key, value) in pairs_of(call, "mset")? {
        store(keyspace, call, key, value, 0, "set");
    }
    call.out.ok();
    Ok(())
}

fn msetnx(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let pairs = pairs_of(call, "msetnx")?;
    let free = pairs.iter().all(|(key, _)| !keyspace.contains(key, call.now));
    if free {
        pairs.iter().for_each(|(key, value)| store(keyspace, call, key, value, 0, "set"));
    }
    call.out.flag(free);
    Ok(())
}

fn keys_of_msetex(args: &[&[u8]]) -> Vec<usize> {
    let count = args.get(1).and_then(|count| parse_int(count)).and_then(|count| usize::try_from(count).ok());
    let pairs = count.unwrap_or(0).min(args.len() / 2);
    (0..pairs).map(|pair| 2 + 2 * pair).filter(|place| *place < args.len()).collect()
}

/// `MSETEX numkeys key value ... [NX | XX] [EX | PX | EXAT | PXAT time | KEEPTTL]`
fn msetex(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let count = usize::try_from(int(call.args[1])?).ok().filter(|count| *count > 0);
    let count = count.ok_or("ERR invalid numkeys value")?;
    let end = count.checked_mul(2).and_then(|words| words.checked_add(2)).filter(|end| *end <= call.args.len());
    let end = end.ok_or("ERR wrong number of key-value pairs")?;
    let (mut life, mut condition, mut place) = (None, If::Always, end);
    while let Some(word) = call.args.get(place) {
        if is(word, "nx") && matches!(condition, If::Always) {
            condition = If::Absent;
        } else if is(word, "xx") && matches!(condition, If::Always) {
            condition = If::Present;
        } else if is(word, "keepttl") && life.is_none() {
            life = Some(Life::Keep);
        } else if life.is_none()
            && let Some(deadline) = deadline_word(call, place, "msetex")?
        {
            life = Some(Life::Until(deadline));
            place += 1;
        } else {
            return Err(Failure::Syntax);
        }
        place += 1;
    }
    let args = call.args;
    let pairs: Vec<(&[u8], &[u8])> = args[2..end].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    for (key, _) in &pairs {
        if !condition.holds(keyspace, key, call.now)? {
            call.out.int(0);
            return Ok(());
        }
    }
    for (key, value) in pairs {
        let deadline = match life {
            Some(Life::Until(deadline)) => deadline,
            Some(Life::Keep) => keyspace.deadline(key, call.now).unwrap_or(0),
            Some(Life::Forever) | None => 0,
        };
        store(keyspace, call, key, value, deadline, "set");
        if matches!(life, Some(Life::Until(_))) {
            notify_deadline(keyspace, call, key, deadline);
        }
    }
    call.out.int(1);
    Ok(())
}

fn append(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, more) = (call.args[1], call.args[2]);
    let old = keyspace.string(key, call.now)?;
    let len = old.map_or(0, <[u8]>::len) + more.len();
    if len > STRING_BYTES_MAX {
        return Err(too_long());
    }
    if old.is_none() {
        store(keyspace, call, key, more, 0, "append");
    } else {
        keyspace.edit_text(key, call.at(), |text| text.push(more))?;
        keyspace.notify(b'$', "append", key);
    }
    call.out.count(len);
    Ok(())
}

fn setrange(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, offset, bytes) = (call.args[1], int(call.args[2])?, call.args[3]);
    if offset < 0 {
        return Err("ERR offset is out of range".into());
    }
    let len = keyspace.string(key, call.now)?.map_or(0, <[u8]>::len);
    if bytes.is_empty() {
        call.out.count(len);
        return Ok(());
    }
    let end = (offset as usize).checked_add(bytes.len()).filter(|end| *end <= STRING_BYTES_MAX).ok_or_else(too_long)?;
    keyspace.edit_text(key, call.at(), |text| text.put(offset as usize, bytes))?;
    keyspace.notify(b'$', "setrange", key);
    call.out.count(len.max(end));
    Ok(())
}

fn add(keyspace: &mut Keyspace, call: &mut Call<'_>, by: i64) -> Done {
    let key = call.args[1];
    let old = match keyspace.string(key, call.now)? {
        Some(text) => int(text)?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    let deadline = keyspace.deadline(key, call.now).unwrap_or(0);
    let at = call.at();
    keyspace.keeping_tags(key, at, |keyspace| keyspace.set_string(key, &int_text(new), deadline, at));
    keyspace.notify(b'$', "incrby", key);
    call.out.int(new);
    Ok(())
}

/// A number with a fraction as text, as `INCRBYFLOAT` writes it: no exponent, no zeros at the end.
pub(super) fn float_text(number: f64) -> String {
    let text = format!("{number:.17}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    // The shortest digits that mean the same number are what a person expects to see.
    let short = format!("{number}");
    let text = if short.contains('e') { text } else { &short };
    if text == "-0" { "0".into() } else { text.into() }
}

/// The sum of two numbers with fractions as text. It is exact where both are written without an exponent in a few dozen
/// digits, as numbers that people count with are; otherwise it is that of the nearest doubles. None: it is not finite.
pub(super) fn float_sum(a: &[u8], b: &[u8]) -> Option<String> {
    let exact = || {
        let ((a, a_places), (b, b_places)) = (decimal(a)?, decimal(b)?);
        let places = a_places.max(b_places);
        let scaled = |number: i128, from: u32| number.checked_mul(10i128.checked_pow(places - from)?);
        let sum = scaled(a, a_places)?.checked_add(scaled(b, b_places)?)?;
        let digits = format!("{:0width$}", sum.unsigned_abs(), width = places as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places as usize);
        let (fraction, minus) = (fraction.trim_end_matches('0'), if sum < 0 { "-" } else { "" });
        let point = if fraction.is_empty() { "" } else { "." };
        Some(format!("{minus}{whole}{point}{fraction}"))
    };
    let rounded = || {
        let sum = parse_float(a)? + parse_float(b)?;
        sum.is_finite().then(|| float_text(sum))
    };
    exact().or_else(rounded)
}

/// A number's digits and how many of them follow the point, if there are few.
fn decimal(text: &[u8]) -> Option<(i128, u32)> {
    let (minus, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..point], text.get(point + 1..).unwrap_or_default());
    if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 17 {
        return None;
    }
    let number = whole
        .iter()
        .chain(fraction)
        .try_fold(0i128, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i128::from(digit - b'0')))?;
    Some((if minus { -number } else { number }, fraction.len() as u32))
}

fn incrbyfloat(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let key = call.args[1];
    let old = keyspace.string(key, call.now)?.unwrap_or(b"0");
    float(old)?;
    float(call.args[2])?;
    let text = float_sum(old, call.args[2]).ok_or("ERR increment would produce NaN or Infinity")?;
    let deadline = keyspace.deadline(key, call.now).unwrap_or(0);
    let at = call.at();
    keyspace.keeping_tags(key, at, |keyspace| keyspace.set_string(key, text.as_bytes(), deadline, at));
    keyspace.notify(b'$', "incrbyfloat", key);
    call.out.bulk(text.as_bytes());
    Ok(())
}

fn delex(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let condition = match call.args.len() {
        2 => If::Always,
        4 => If::word(call.args, 2)?.ok_or(Failure::Syntax)?,
        _ => return Err("ERR wrong number of arguments for 'delex' command".into()),
    };
    let key = call.args[1];
    let removed = keyspace.contains(key, call.now)
        && condition.holds(keyspace, key, call.now)?
        && keyspace.remove(key, call.at());
    if removed {
        keyspace.notify(b'g', "del", key);
    }
    call.out.flag(removed);
    Ok(())
}

/// The most cells of the table that finds the longest common subsequence.
const LCS_CELLS_MAX: usize = 16 << 20;

fn lcs(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let (mut len_only, mut idx, mut with_len, mut least) = (false, false, false, 0);
    let mut place = 3;
    while place < call.args.len() {
        let word = call.args[place];
        if is(word, "len") {
            len_only = true;
        } else if is(word, "idx") {
            idx = true;
        } else if is(word, "withmatchlen") {
            with_len = true;
        } else if is(word, "minmatchlen") && place + 1 < call.args.len() {
            least = int(call.args[place + 1])?.max(0) as usize;
            place += 1;
        } else {
            return Err(Failure::Syntax);
        }
        place += 1;
    }
    if len_only && idx {
        return Err("ERR If you want both the length and indexes, please just use IDX.".into());
    }
    let wrong = |_| Failure::from("ERR The specified keys must contain string values");
    let a = keyspace.string(call.args[1], call.now).map_err(wrong)?.unwrap_or_default();
    let b = keyspace.string(call.args[2], call.now).map_err(wrong)?.unwrap_or_default();
    let width = b.len() + 1;
    if (a.len() + 1).saturating_mul(width) > LCS_CELLS_MAX {
        return Err("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len".into());
    }
    let mut table = vec![0u32; (a.len() + 1) * width];
    for i in 1..=a.len() {
        for j in 1..width {
            table[i * width + j] = if a[i - 1] == b[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let total = table[a.len() * width + b.len()] as usize;
    if len_only {
        call.out.count(total);
        return Ok(());
    }
    let (mut i, mut j, mut text) = (a.len(), b.len(), Vec::with_capacity(total));
    // Runs of equal bytes, the last first: where each ends in both strings, and how long it is.
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            text.push(a[i - 1]);
            match runs.last_mut() {
                Some((ai, bj, len)) if *ai - *len == i && *bj - *len == j => *len += 1,
                _ => runs.push((i, j, 1)),
            }
            (i, j) = (i - 1, j - 1);
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    if !idx {
        text.reverse();
        call.out.bulk(&text);
        return Ok(());
    }
    runs.retain(|(_, _, len)| *len >= least.max(1));
    call.out.map(2);
    call.out.bulk(b"matches");
    call.out.array(runs.len());
    for (ai, bj, len) in runs {
        call.out.array(if with_len { 3 } else { 2 });
        for end in [ai, bj] {
            call.out.array(2);
            call.out.count(end - len);
            call.out.count(end - 1);
        }
        if with_len {
            call.out.count(len);
        }
    }
    call.out.bulk(b"len");
    call.out.count(total);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_decimals_are_exact() {
        for (a, b, sum) in [
            ("0.1", "0.2", Some("0.3")),
            ("10.50", "0.1", Some("10.6")),
            ("5.0e3", "200", Some("5200")),
            ("-1.5", "1.5", Some("0")),
            ("-0.25", "0", Some("-0.25")),
            ("3", "-5.75", Some("-2.75")),
            ("1e308", "1e308", None),
            ("999999999999999999", "1", Some("1000000000000000000")),
        ] {
            assert_eq!(float_sum(a.as_bytes(), b.as_bytes()).as_deref(), sum, "{a} + {b}");
        }
    }
}
