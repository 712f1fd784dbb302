//! Keys: whether they are there, what they hold, how long they live, and their names.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::{DENYOOM, Done, FAST, Failure, Keys, NOSCRIPT, READONLY, Run, Spec, WRITE, int, is};
use crate::table::glob;

const ONE: Keys = Keys::Range(1, 1, 1);
const ALL: Keys = Keys::Range(1, -1, 1);
const TWO: Keys = Keys::Range(1, 2, 1);

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
    write("del", -2, ALL, 0, del),
    write("unlink", -2, ALL, FAST, del),
    read("exists", -2, ALL, FAST, exists),
    read("touch", -2, ALL, FAST, touch),
    read("type", 2, ONE, FAST, type_of),
    read("ttl", 2, ONE, FAST, |keyspace, call| time(keyspace, call, false, 1_000)),
    read("pttl", 2, ONE, FAST, |keyspace, call| time(keyspace, call, false, 1)),
    read("expiretime", 2, ONE, FAST, |keyspace, call| time(keyspace, call, true, 1_000)),
    read("pexpiretime", 2, ONE, FAST, |keyspace, call| time(keyspace, call, true, 1)),
    write("expire", -3, ONE, FAST, |keyspace, call| expire(keyspace, call, "expire", 1_000, false)),
    write("pexpire", -3, ONE, FAST, |keyspace, call| expire(keyspace, call, "pexpire", 1, false)),
    write("expireat", -3, ONE, FAST, |keyspace, call| expire(keyspace, call, "expireat", 1_000, true)),
    write("pexpireat", -3, ONE, FAST, |keyspace, call| expire(keyspace, call, "pexpireat", 1, true)),
    write("persist", 2, ONE, FAST, persist),
    write("rename", 3, TWO, 0, rename),
    write("renamenx", 3, TWO, FAST, renamenx),
    write("copy", -3, TWO, DENYOOM, copy),
    read("keys", 2, Keys::None, 0, keys),
    read("scan", -2, Keys::None, 0, scan),
    read("randomkey", 1, Keys::None, 0, randomkey),
    read("dbsize", 1, Keys::None, FAST, dbsize),
    write("flushdb", -1, Keys::None, 0, flush),
    // How a value is kept may differ from member to member, so no script may depend on it.
    read("object", -2, Keys::Range(2, 2, 1), NOSCRIPT, object),
];

fn del(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let mut removed = 0;
    for key in &call.args[1..] {
        if keyspace.remove(key, call.at()) {
            keyspace.notify(b'g', "del", key);
            removed += 1;
        }
    }
    call.out.int(removed);
    Ok(())
}

fn exists(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let there = call.args[1..].iter().filter(|key| keyspace.contains(key, call.now)).count();
    call.out.count(there);
    Ok(())
}

fn touch(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    call.args[1..].iter().for_each(|key| keyspace.warm(key, call.now));
    exists(keyspace, call)
}

fn type_of(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    call.out.status(keyspace.type_of(call.args[1], call.now).unwrap_or("none"));
    Ok(())
}

fn time(keyspace: &Keyspace, call: &mut Call<'_>, absolute: bool, unit: u64) -> Done {
    let time = match keyspace.deadline(call.args[1], call.now) {
        None => -2,
        Some(0) => -1,
        // As Redis rounds: to the nearest second.
        Some(deadline) => {
            let from = if absolute { 0 } else { call.now };
            ((deadline - from + unit / 2) / unit) as i64
        }
    };
    call.out.int(time);
    Ok(())
}

fn expire(keyspace: &mut Keyspace, call: &mut Call<'_>, name: &str, unit: i64, absolute: bool) -> Done {
    let invalid = || Failure::from(format!("ERR invalid expire time in '{name}' command"));
    let millis = int(call.args[2])?.checked_mul(unit).ok_or_else(invalid)?;
    let deadline = if absolute { Some(millis) } else { millis.checked_add(call.now as i64) }.ok_or_else(invalid)?;
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for word in &call.args[3..] {
        match () {
            () if is(word, "nx") => nx = true,
            () if is(word, "xx") => xx = true,
            () if is(word, "gt") => gt = true,
            () if is(word, "lt") => lt = true,
            () => return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(word)).into()),
        }
    }
    if nx && (xx || gt || lt) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if gt && lt {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    let key = call.args[1];
    let Some(old) = keyspace.deadline(key, call.now) else {
        call.out.int(0);
        return Ok(());
    };
    let has = old != 0;
    let later = has && deadline > old as i64;
    let earlier = !has || deadline < old as i64;
    if (nx && has) || (xx && !has) || (gt && !later) || (lt && !earlier) {
        call.out.int(0);
        return Ok(());
    }
    if deadline <= call.now as i64 {
        keyspace.remove(key, call.at());
        keyspace.notify(b'g', "del", key);
    } else {
        keyspace.set_deadline(key, deadline as u64, call.at());
        keyspace.notify(b'g', "expire", key);
    }
    call.out.int(1);
    Ok(())
}

fn persist(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let key = call.args[1];
    let timed = keyspace.deadline(key, call.now).is_some_and(|deadline| deadline != 0);
    if timed {
        keyspace.set_deadline(key, 0, call.at());
        keyspace.notify(b'g', "persist", key);
    }
    call.out.flag(timed);
    Ok(())
}

fn move_key(keyspace: &mut Keyspace, call: &Call<'_>) {
    let (from, to) = (call.args[1], call.args[2]);
    if from == to {
        return;
    }
    if let Some(taken) = keyspace.take(from, call.at()) {
        keyspace.put_back(to, taken, call.at());
        keyspace.notify(b'g', "rename_from", from);
        keyspace.notify(b'g', "rename_to", to);
    }
}

fn rename(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    if !keyspace.contains(call.args[1], call.now) {
        return Err("ERR no such key".into());
    }
    move_key(keyspace, call);
    call.out.ok();
    Ok(())
}

fn renamenx(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    if !keyspace.contains(call.args[1], call.now) {
        return Err("ERR no such key".into());
    }
    let free = !keyspace.contains(call.args[2], call.now);
    if free {
        move_key(keyspace, call);
    }
    call.out.flag(free);
    Ok(())
}

/// Within one database; the door refuses what goes from one to another, or does it there.
fn copy(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let mut replace = false;
    for word in &call.args[3..] {
        if !is(word, "replace") {
            return Err(Failure::Syntax);
        }
        replace = true;
    }
    let (from, to) = (call.args[1], call.args[2]);
    if from == to {
        return Err("ERR source and destination objects are the same".into());
    }
    let free = replace || !keyspace.contains(to, call.now);
    let copied = match keyspace.copy_of(from, call.now).filter(|_| free) {
        Some(taken) => {
            keyspace.put_copy(to, taken, call.at());
            keyspace.notify(b'g', "copy_to", to);
            true
        }
        None => false,
    };
    call.out.flag(copied);
    Ok(())
}

fn keys(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let mark = call.out.open_array();
    let mut count = 0;
    for part in 0..Keyspace::PARTS {
        for key in keyspace.keys_of_part(part, call.now).filter(|key| glob::matches(call.args[1], key)) {
            call.out.bulk(key);
            count += 1;
        }
    }
    call.out.close(mark, count);
    Ok(())
}

/// What `SCAN` and its like were asked for.
pub(super) struct ScanOptions<'a> {
    pub cursor: u64,
    pub count: usize,
    pub pattern: Option<&'a [u8]>,
    pub kind: Option<&'a [u8]>,
    pub no_values: bool,
}

/// Reads a cursor. One below zero is behind all there is.
pub(super) fn cursor(text: &[u8]) -> Result<u64, Failure> {
    let parse = |digits: &[u8]| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    let cursor = match text {
        [b'-', digits @ ..] if digits.first().is_some_and(u8::is_ascii_digit) => {
            parse(digits).map(|below: u64| if below == 0 { 0 } else { u64::MAX })
        }
        digits => parse(digits),
    };
    cursor.ok_or("ERR invalid cursor".into())
}

/// Reads a cursor at `place`, and the options that follow it.
pub(super) fn scan_options<'a>(call: &Call<'a>, place: usize) -> Result<ScanOptions<'a>, Failure> {
    let cursor = cursor(call.args[place])?;
    let mut options = ScanOptions { cursor, count: 10, pattern: None, kind: None, no_values: false };
    let mut words = call.args[place + 1..].iter();
    while let Some(word) = words.next() {
        if is(word, "novalues") {
            options.no_values = true;
            continue;
        }
        let given = words.next().copied().ok_or(Failure::Syntax)?;
        if is(word, "count") {
            let count = int(given)?;
            if count < 1 {
                return Err(Failure::Syntax);
            }
            options.count = count as usize;
        } else if is(word, "match") {
            options.pattern = Some(given);
        } else if is(word, "type") {
            options.kind = Some(given);
        } else {
            return Err(Failure::Syntax);
        }
    }
    Ok(options)
}

fn scan(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let options = scan_options(call, 1)?;
    if options.no_values {
        return Err(Failure::Syntax);
    }
    let mut found = Vec::new();
    let fits = |key: &[u8]| {
        options.pattern.is_none_or(|pattern| glob::matches(pattern, key))
            && options.kind.is_none_or(|kind| keyspace.type_of(key, call.now).is_some_and(|it| is(kind, it)))
    };
    let next = keyspace.scan(options.cursor, options.count, call.now, |key| {
        if fits(key) {
            found.push(Box::<[u8]>::from(key));
        }
    });
    call.out.array(2);
    call.out.bulk(next.to_string().as_bytes());
    call.out.array(found.len());
    found.iter().for_each(|key| call.out.bulk(key));
    Ok(())
}

fn randomkey(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    call.out.bulk_or_null(keyspace.random_key(&mut call.chance(), call.now));
    Ok(())
}

fn dbsize(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    call.out.count(keyspace.len());
    Ok(())
}

fn flush(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    match call.args.get(1) {
        Some(word) if !(is(word, "sync") || is(word, "async")) || call.args.len() > 2 => return Err(Failure::Syntax),
        _ => {}
    }
    keyspace.clear();
    call.out.ok();
    Ok(())
}

fn object(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let what = call.args[1];
    if is(what, "help") && call.args.len() == 2 {
        let help = [
            "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "ENCODING <key>",
            "FREQ <key>",
            "IDLETIME <key>",
            "REFCOUNT <key>",
        ];
        call.out.array(help.len());
        help.iter().for_each(|line| call.out.status(line));
        return Ok(());
    }
    let known = ["encoding", "freq", "idletime", "refcount"].iter().any(|word| is(what, word));
    if !known || call.args.len() != 3 {
        let what = String::from_utf8_lossy(what);
        return Err(
            format!("ERR unknown subcommand or wrong number of arguments for '{what}'. Try OBJECT HELP.").into()
        );
    }
    let key = call.args[2];
    if !keyspace.contains(key, call.now) {
        call.out.null();
        return Ok(());
    }
    match () {
        () if is(what, "encoding") => {
            let encoding = keyspace.encoding(key, call.now).unwrap_or("raw");
            call.out.bulk(encoding.as_bytes());
        }
        () if is(what, "freq") => {
            return Err(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
                        switching between policies at runtime LRU and LFU data will take some time to adjust."
                    .into(),
            );
        }
        () if is(what, "idletime") => call.out.int(0),
        () => call.out.int(1),
    }
    Ok(())
}
