//! Hashes: fields with values, and when each field ends.

use super::super::call::Call;
use super::super::glob;
use super::super::keyspace::Keyspace;
use super::super::objects::Hash;
use super::super::objects::dense::sample;
use super::keys::scan_options;
use super::strings::float_sum;
use super::{DENYOOM, Done, FAST, Failure, Keys, READONLY, Run, Spec, WRITE, float, int, is, parse_float, parse_int};

mod deadlines;

const ONE: Keys = Keys::Range(1, 1, 1);

const fn read(name: &'static str, arity: i32, flags: u32, run: fn(&Keyspace, &mut Call<'_>) -> Done) -> Spec {
    Spec { name, arity, flags: READONLY | flags, keys: ONE, run: Run::Read(run) }
}

const fn write(name: &'static str, arity: i32, flags: u32, run: fn(&mut Keyspace, &mut Call<'_>) -> Done) -> Spec {
    Spec { name, arity, flags: WRITE | flags, keys: ONE, run: Run::Write(run) }
}

pub(super) const SPECS: &[Spec] = &[
    write("hset", -4, DENYOOM | FAST, |keyspace, call| hset(keyspace, call, "hset")),
    write("hmset", -4, DENYOOM | FAST, |keyspace, call| hset(keyspace, call, "hmset")),
    write("hsetnx", 4, DENYOOM | FAST, hsetnx),
    read("hget", 3, FAST, hget),
    read("hmget", -3, FAST, hmget),
    read("hgetall", 2, 0, hgetall),
    read("hkeys", 2, 0, |keyspace, call| list(keyspace, call, true)),
    read("hvals", 2, 0, |keyspace, call| list(keyspace, call, false)),
    read("hlen", 2, FAST, hlen),
    read("hexists", 3, FAST, hexists),
    read("hstrlen", 3, FAST, hstrlen),
    write("hdel", -3, FAST, hdel),
    write("hincrby", 4, DENYOOM | FAST, hincrby),
    write("hincrbyfloat", 4, DENYOOM | FAST, hincrbyfloat),
    read("hrandfield", -2, 0, hrandfield),
    read("hscan", -3, 0, hscan),
    write("hexpire", -6, DENYOOM | FAST, |keyspace, call| deadlines::expire(keyspace, call, "hexpire", 1_000, false)),
    write("hpexpire", -6, DENYOOM | FAST, |keyspace, call| deadlines::expire(keyspace, call, "hpexpire", 1, false)),
    write("hexpireat", -6, DENYOOM | FAST, |keyspace, call| {
        deadlines::expire(keyspace, call, "hexpireat", 1_000, true)
    }),
    write("hpexpireat", -6, DENYOOM | FAST, |keyspace, call| deadlines::expire(keyspace, call, "hpexpireat", 1, true)),
    read("httl", -5, FAST, |keyspace, call| deadlines::time(keyspace, call, 1_000, false)),
    read("hpttl", -5, FAST, |keyspace, call| deadlines::time(keyspace, call, 1, false)),
    read("hexpiretime", -5, FAST, |keyspace, call| deadlines::time(keyspace, call, 1_000, true)),
    read("hpexpiretime", -5, FAST, |keyspace, call| deadlines::time(keyspace, call, 1, true)),
    write("hpersist", -5, FAST, deadlines::persist),
    write("hgetdel", -5, FAST, deadlines::getdel),
    write("hgetex", -5, FAST, deadlines::getex),
    write("hsetex", -6, DENYOOM | FAST, deadlines::setex),
];

fn hset(keyspace: &mut Keyspace, call: &mut Call<'_>, name: &str) -> Done {
    if !call.len().is_multiple_of(2) {
        return Err(format!("ERR wrong number of arguments for '{name}' command").into());
    }
    let key = call.args[1];
    let pairs = call.args[2..].chunks_exact(2);
    let created = keyspace.edit_or_new(key, call.at(), |hash: &mut Hash| {
        (pairs.filter(|pair| hash.set(pair[0], pair[1], false)).count(), true)
    })?;
    keyspace.notify(b'h', "hset", key);
    if name == "hset" {
        call.out.count(created);
    } else {
        call.out.ok();
    }
    Ok(())
}

fn hsetnx(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, field, now) = (call.args[1], call.args[2], call.now);
    let free = keyspace.edit_or_new(key, call.at(), |hash: &mut Hash| {
        let free = hash.get(field, now).is_none();
        if free {
            hash.set(field, call.args[3], false);
        }
        (free, free)
    })?;
    if free {
        keyspace.notify(b'h', "hset", key);
    }
    call.out.flag(free);
    Ok(())
}

/// The hash of a call's key.
fn hash_of<'k>(keyspace: &'k Keyspace, call: &Call<'_>) -> Result<Option<&'k Hash>, Failure> {
    Ok(keyspace.object(call.args[1], call.now)?)
}

fn value_of<'k>(keyspace: &'k Keyspace, call: &Call<'_>, field: &[u8]) -> Result<Option<&'k [u8]>, Failure> {
    let found = hash_of(keyspace, call)?.and_then(|hash| hash.get(field, call.now));
    Ok(found.map(|(value, _)| value))
}

fn hget(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let found = value_of(keyspace, call, call.args[2])?;
    call.out.bulk_or_null(found);
    Ok(())
}

fn hmget(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let hash = hash_of(keyspace, call)?;
    call.out.array(call.len() - 2);
    for field in &call.args[2..] {
        let found = hash.and_then(|hash| hash.get(field, call.now));
        call.out.bulk_or_null(found.map(|(value, _)| value));
    }
    Ok(())
}

fn hgetall(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let Some(hash) = hash_of(keyspace, call)? else {
        call.out.map(0);
        return Ok(());
    };
    call.out.map(hash.live_len(call.now));
    for (field, value) in hash.iter(call.now) {
        call.out.bulk(field);
        call.out.bulk(value);
    }
    Ok(())
}

fn list(keyspace: &Keyspace, call: &mut Call<'_>, fields: bool) -> Done {
    let Some(hash) = hash_of(keyspace, call)? else {
        call.out.array(0);
        return Ok(());
    };
    call.out.array(hash.live_len(call.now));
    hash.iter(call.now).for_each(|(field, value)| call.out.bulk(if fields { field } else { value }));
    Ok(())
}

fn hlen(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let len = hash_of(keyspace, call)?.map_or(0, |hash| hash.live_len(call.now));
    call.out.count(len);
    Ok(())
}

fn hexists(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let found = value_of(keyspace, call, call.args[2])?.is_some();
    call.out.flag(found);
    Ok(())
}

fn hstrlen(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let len = value_of(keyspace, call, call.args[2])?.map_or(0, <[u8]>::len);
    call.out.count(len);
    Ok(())
}

/// After fields went: says so, and also if the key went with the last.
fn notify_removed(keyspace: &mut Keyspace, call: &Call<'_>) {
    let key = call.args[1];
    keyspace.notify(b'h', "hdel", key);
    if !keyspace.contains(key, call.now) {
        keyspace.notify(b'g', "del", key);
    }
}

fn hdel(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let removed = keyspace.edit(call.args[1], call.at(), |hash: &mut Hash| {
        let removed = call.args[2..].iter().filter(|field| hash.remove(field)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        notify_removed(keyspace, call);
    }
    call.out.count(removed);
    Ok(())
}

fn hincrby(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, field, by) = (call.args[1], call.args[2], int(call.args[3])?);
    let old = match value_of(keyspace, call, field)? {
        Some(text) => parse_int(text).ok_or("ERR hash value is not an integer")?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
    let text = new.to_string();
    keyspace.edit_or_new(key, call.at(), |hash: &mut Hash| (hash.set(field, text.as_bytes(), true), true))?;
    keyspace.notify(b'h', "hincrby", key);
    call.out.int(new);
    Ok(())
}

fn hincrbyfloat(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, field, by) = (call.args[1], call.args[2], float(call.args[3])?);
    if !by.is_finite() {
        return Err("ERR value is NaN or Infinity".into());
    }
    let old = value_of(keyspace, call, field)?.unwrap_or(b"0");
    parse_float(old).ok_or("ERR hash value is not a float")?;
    let text = float_sum(old, call.args[3]).ok_or("ERR increment would produce NaN or Infinity")?;
    keyspace.edit_or_new(key, call.at(), |hash: &mut Hash| (hash.set(field, text.as_bytes(), true), true))?;
    keyspace.notify(b'h', "hincrbyfloat", key);
    call.out.bulk(text.as_bytes());
    Ok(())
}

/// How much a reply may hold if the same elements may come again.
pub(super) const PICKS_BYTES_MAX: usize = 256 << 20;
pub(super) const PICKS_TOO_LONG: &str = "ERR the reply would be too long";
/// So many elements may be picked if the same may come again.
pub(super) const PICKS_MAX: usize = 16 << 20;

/// The count of `HRANDFIELD`, `SRANDMEMBER` and the like: how many, and whether they must be different.
pub(super) fn picks(count: &[u8]) -> Result<(usize, bool), Failure> {
    let count = int(count)?;
    if count == i64::MIN {
        let text = format!("ERR value is out of range, value must between {} and {}", -i64::MAX, i64::MAX);
        return Err(text.into());
    }
    if count >= 0 {
        return Ok((count as usize, true));
    }
    let count = count.unsigned_abs() as usize;
    if count > PICKS_MAX { Err("ERR value is out of range".into()) } else { Ok((count, false)) }
}

fn hrandfield(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let mut chance = call.chance();
    if call.len() == 2 {
        let choice = hash_of(keyspace, call)?.map(|hash| hash.choice(call.now)).filter(|choice| !choice.is_empty());
        let field = choice.map(|choice| choice.at(chance.below(choice.len())).0);
        call.out.bulk_or_null(field);
        return Ok(());
    }
    let parsed = parse_int(call.args[2]).ok_or(Failure::NotInteger)?;
    let with_values = match call.args.get(3) {
        None => false,
        Some(word) if call.len() == 4 && is(word, "withvalues") => true,
        Some(_) => return Err(Failure::Syntax),
    };
    if with_values && parsed.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err("ERR value is out of range".into());
    }
    let (count, different) = picks(call.args[2])?;
    let choice = hash_of(keyspace, call)?.map(|hash| hash.choice(call.now)).filter(|choice| !choice.is_empty());
    let Some(choice) = choice.filter(|_| count > 0) else {
        call.out.array(0);
        return Ok(());
    };
    let len = choice.len();
    let count = if different { count.min(len) } else { count };
    if with_values {
        call.out.pairs(count);
    } else {
        call.out.array(count);
    }
    let mut say = |place| {
        let (field, value) = choice.at(place);
        call.out.bulk(field);
        if with_values {
            call.out.bulk(value);
        }
        if different || call.out.len() < PICKS_BYTES_MAX { Ok(()) } else { Err(PICKS_TOO_LONG.into()) }
    };
    if !different {
        (0..count).try_for_each(|_| say(chance.below(len)))
    } else if count == len {
        (0..len).try_for_each(say)
    } else {
        sample(&mut chance, len, count).into_iter().try_for_each(say)
    }
}

fn hscan(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    super::keys::cursor(call.args[2])?;
    let Some(hash) = hash_of(keyspace, call)? else {
        call.out.array(2);
        call.out.bulk(b"0");
        call.out.array(0);
        return Ok(());
    };
    let options = scan_options(call, 2)?;
    if options.kind.is_some() {
        return Err(Failure::Syntax);
    }
    let mut found = Vec::new();
    let next = hash.scan(options.cursor, options.count, call.now, |field, value| {
        if options.pattern.is_none_or(|pattern| glob::matches(pattern, field)) {
            found.push(field);
            if !options.no_values {
                found.push(value);
            }
        }
    });
    call.out.array(2);
    call.out.bulk(next.to_string().as_bytes());
    call.out.array(found.len());
    found.iter().for_each(|part| call.out.bulk(part));
    Ok(())
}

#[cfg(test)]
mod tests;
