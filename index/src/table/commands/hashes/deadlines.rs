//! When fields end: setting, asking, and what reads or writes fields with it.

use super::super::super::call::Call;
use super::super::super::execute::{ASKED_TOO_MUCH, REPLY_BYTES_MAX};
use super::super::super::keyspace::Keyspace;
use super::super::super::objects::Hash;
use super::super::{Done, Failure, int, is, parse_int};
use super::{hash_of, notify_removed};

/// The latest moment a field can end at: Redis keeps them in 46 bits.
const DEADLINE_MAX: i64 = (1 << 46) - 1;

/// What became of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    Absent = -2,
    NoDeadline = -1,
    Unchanged = 0,
    Changed = 1,
    Removed = 2,
}

const NOT_HERE: &str = "ERR Mandatory argument FIELDS is missing or not at the right position";
const NOT_POSITIVE: &str = "ERR Number of fields must be a positive integer";
const NOT_SO_MANY: &str = "ERR The `numfields` parameter must match the number of arguments";

/// Reads `FIELDS count field ...` at a place, to the end.
fn fields<'c>(call: &Call<'c>, place: usize, not_positive: &'static str) -> Result<&'c [&'c [u8]], Failure> {
    if !call.args.get(place).is_some_and(|word| is(word, "fields")) {
        return Err(NOT_HERE.into());
    }
    let count = call.args.get(place + 1).and_then(|count| parse_int(count));
    let count = count.filter(|count| *count >= 1).ok_or(not_positive)?;
    let fields = &call.args[place + 2..];
    if fields.len() as i64 == count { Ok(fields) } else { Err(NOT_SO_MANY.into()) }
}

/// The moment that a number of seconds or milliseconds means. It may have passed.
fn moment(given: &[u8], unit: i64, absolute: bool, now: u64, name: &str) -> Result<u64, Failure> {
    let given = int(given)?;
    if given < 0 {
        return Err("ERR invalid expire time, must be >= 0".into());
    }
    let millis = given.checked_mul(unit).and_then(|millis| millis.checked_add(if absolute { 0 } else { now as i64 }));
    match millis {
        Some(millis) if millis <= DEADLINE_MAX => Ok(millis as u64),
        _ => Err(format!("ERR invalid expire time in '{name}' command").into()),
    }
}

/// The unit of `EX` and the like, and whether they name a moment rather than a span.
fn unit(word: &[u8]) -> Option<(i64, bool)> {
    match () {
        () if is(word, "ex") => Some((1_000, false)),
        () if is(word, "px") => Some((1, false)),
        () if is(word, "exat") => Some((1_000, true)),
        () if is(word, "pxat") => Some((1, true)),
        () => None,
    }
}

/// Gives a field that is there a deadline; one that has passed removes it.
fn end(hash: &mut Hash, field: &[u8], deadline: u64, now: u64) -> Became {
    if deadline <= now {
        hash.remove(field);
        Became::Removed
    } else {
        hash.set_deadline(field, deadline);
        Became::Changed
    }
}

/// Tells listeners what became of fields.
fn notify(keyspace: &mut Keyspace, call: &Call<'_>, became: &[Became]) {
    if became.contains(&Became::Removed) {
        notify_removed(keyspace, call);
    } else if became.contains(&Became::Changed) {
        keyspace.notify(b'h', "hexpire", call.args[1]);
    }
}

fn changed(became: &[Became]) -> bool {
    became.iter().any(|it| matches!(it, Became::Changed | Became::Removed))
}

fn answer(call: &mut Call<'_>, became: &[Became]) {
    call.out.array(became.len());
    became.iter().for_each(|&it| call.out.int(it as i64));
}

pub(super) fn expire(keyspace: &mut Keyspace, call: &mut Call<'_>, name: &str, unit: i64, absolute: bool) -> Done {
    hash_of(keyspace, call)?;
    let (key, now) = (call.args[1], call.now);
    let deadline = moment(call.args[2], unit, absolute, now, name)?;
    let condition = call.args[3].to_ascii_lowercase();
    let condition = Some(&condition[..]).filter(|word| matches!(*word, b"nx" | b"xx" | b"gt" | b"lt"));
    let place = if condition.is_some() { 4 } else { 3 };
    let fields = fields(call, place, "ERR Parameter `numFields` should be greater than 0")?;
    let one = |hash: &mut Hash, field: &[u8]| {
        let Some((_, old)) = hash.get(field, now) else { return Became::Absent };
        let holds = match condition {
            Some(b"nx") => old == 0,
            Some(b"xx") => old != 0,
            Some(b"gt") => old != 0 && deadline > old,
            Some(b"lt") => old == 0 || deadline < old,
            _ => true,
        };
        if holds { end(hash, field, deadline, now) } else { Became::Unchanged }
    };
    let became = keyspace.edit(key, call.at(), |hash: &mut Hash| {
        let became: Vec<Became> = fields.iter().map(|field| one(hash, field)).collect();
        let changed = changed(&became);
        (became, changed)
    })?;
    let became = became.unwrap_or_else(|| vec![Became::Absent; fields.len()]);
    notify(keyspace, call, &became);
    answer(call, &became);
    Ok(())
}

pub(super) fn time(keyspace: &Keyspace, call: &mut Call<'_>, unit: u64, absolute: bool) -> Done {
    let hash = hash_of(keyspace, call)?;
    let fields = fields(call, 2, NOT_POSITIVE)?;
    call.out.array(fields.len());
    for field in fields {
        let time = match hash.and_then(|hash| hash.get(field, call.now)) {
            None => Became::Absent as i64,
            Some((_, 0)) => Became::NoDeadline as i64,
            Some((_, deadline)) => {
                let left = if absolute { deadline } else { deadline - call.now };
                left.div_ceil(unit) as i64
            }
        };
        call.out.int(time);
    }
    Ok(())
}

pub(super) fn persist(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    hash_of(keyspace, call)?;
    let (key, now) = (call.args[1], call.now);
    let fields = fields(call, 2, NOT_POSITIVE)?;
    let one = |hash: &mut Hash, field: &[u8]| match hash.get(field, now) {
        None => Became::Absent,
        Some((_, 0)) => Became::NoDeadline,
        Some(_) => {
            hash.set_deadline(field, 0);
            Became::Changed
        }
    };
    let became = keyspace.edit(key, call.at(), |hash: &mut Hash| {
        let became: Vec<Became> = fields.iter().map(|field| one(hash, field)).collect();
        let changed = changed(&became);
        (became, changed)
    })?;
    let became = became.unwrap_or_else(|| vec![Became::Absent; fields.len()]);
    if changed(&became) {
        keyspace.notify(b'h', "hpersist", key);
    }
    answer(call, &became);
    Ok(())
}

pub(super) fn getdel(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    hash_of(keyspace, call)?;
    let fields = fields(call, 2, NOT_POSITIVE)?;
    call.out.array(fields.len());
    let (key, now, at) = (call.args[1], call.now, call.at());
    let removed = keyspace.edit(key, at, |hash: &mut Hash| {
        let mut removed = 0;
        for field in fields {
            call.out.bulk_or_null(hash.get(field, now).map(|(value, _)| value));
            removed += usize::from(hash.remove(field));
        }
        (removed, removed > 0)
    })?;
    match removed {
        None => fields.iter().for_each(|_| call.out.null()),
        Some(0) => {}
        Some(_) => notify_removed(keyspace, call),
    }
    Ok(())
}

pub(super) fn getex(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    hash_of(keyspace, call)?;
    let (key, now, at) = (call.args[1], call.now, call.at());
    let persist = is(call.args[2], "persist");
    let (deadline, place) = match unit(call.args[2]) {
        Some((unit, absolute)) => (Some(moment(call.args[3], unit, absolute, now, "hgetex")?), 4),
        None if persist => (None, 3),
        None => (None, 2),
    };
    let fields = fields(call, place, NOT_POSITIVE)?;
    // A field may be named again and again.
    let bytes =
        |hash: &Hash| fields.iter().filter_map(|field| hash.get(field, now)).map(|(value, _)| value.len()).sum();
    if hash_of(keyspace, call)?.map_or(0, bytes) > REPLY_BYTES_MAX {
        return Err(ASKED_TOO_MUCH.into());
    }
    call.out.array(fields.len());
    let became = keyspace.edit(key, at, |hash: &mut Hash| {
        let mut became = Vec::new();
        for field in fields {
            let found = hash.get(field, now);
            call.out.bulk_or_null(found.map(|(value, _)| value));
            let timed = found.is_some_and(|(_, deadline)| deadline != 0);
            match deadline {
                Some(deadline) if found.is_some() => became.push(end(hash, field, deadline, now)),
                None if persist && timed => {
                    hash.set_deadline(field, 0);
                    became.push(Became::Changed);
                }
                _ => {}
            }
        }
        let changed = changed(&became);
        (became, changed)
    })?;
    match became {
        None => fields.iter().for_each(|_| call.out.null()),
        Some(became) if persist => {
            if changed(&became) {
                keyspace.notify(b'h', "hpersist", key);
            }
        }
        Some(became) => notify(keyspace, call, &became),
    }
    Ok(())
}

/// What `HSETEX` was asked for.
#[derive(Default)]
struct SetOptions<'c> {
    /// Only if all fields are there, or none is.
    all_there: Option<bool>,
    deadline: Option<u64>,
    keep: bool,
    pairs: &'c [&'c [u8]],
}

fn set_options<'c>(call: &Call<'c>) -> Result<SetOptions<'c>, Failure> {
    let arity = || Failure::from("ERR wrong number of arguments for 'hsetex' command");
    let twice = || Failure::from("ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified");
    let mut options = SetOptions::default();
    let mut place = 2;
    while place < call.len() {
        let word = call.args[place];
        let life_given = options.deadline.is_some() || options.keep;
        if is(word, "fields") {
            let pairs = call.args.get(place + 2..).filter(|pairs| pairs.len() >= 2).ok_or_else(arity)?;
            let count = parse_int(call.args[place + 1]).filter(|count| (1..=i64::from(i32::MAX)).contains(count));
            let count = count.ok_or("ERR invalid number of fields")?;
            if !pairs.len().is_multiple_of(2) || pairs.len() as i64 != count * 2 {
                return Err(arity());
            }
            options.pairs = pairs;
            return Ok(options);
        } else if let Some((unit, absolute)) = unit(word) {
            if life_given {
                return Err(twice());
            }
            place += 1;
            let given = call.args.get(place).ok_or("ERR missing expire time")?;
            options.deadline = Some(moment(given, unit, absolute, call.now, "hsetex")?);
        } else if is(word, "keepttl") {
            if life_given {
                return Err(twice());
            }
            options.keep = true;
        } else if is(word, "fxx") || is(word, "fnx") {
            if options.all_there.is_some() {
                return Err("ERR Only one of FXX or FNX arguments can be specified".into());
            }
            options.all_there = Some(is(word, "fxx"));
        } else {
            return Err(format!("ERR unknown argument: {}", String::from_utf8_lossy(word)).into());
        }
        place += 1;
    }
    Err(arity())
}

pub(super) fn setex(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let options = set_options(call)?;
    let (key, now) = (call.args[1], call.now);
    let hash = hash_of(keyspace, call)?;
    if let Some(all) = options.all_there {
        let is_there = |pair: &[&[u8]]| hash.is_some_and(|hash| hash.get(pair[0], now).is_some());
        if !options.pairs.chunks_exact(2).all(|pair| is_there(pair) == all) {
            call.out.int(0);
            return Ok(());
        }
    }
    let became = keyspace.edit_or_new(key, call.at(), |hash: &mut Hash| {
        let mut became = Vec::new();
        for pair in options.pairs.chunks_exact(2) {
            hash.set(pair[0], pair[1], options.keep);
            if let Some(deadline) = options.deadline {
                became.push(end(hash, pair[0], deadline, now));
            }
        }
        (became, true)
    })?;
    keyspace.notify(b'h', "hset", key);
    notify(keyspace, call, &became);
    call.out.int(1);
    Ok(())
}
