//! Lists: pushing, popping, moving, and looking for elements.
//!
//! Those that wait are here what they are when there is something, or nothing to wait for: the door tries them, and tries
//! again when a key changes.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::super::objects::{End, List};
use super::{
    BLOCKING, DENYOOM, Done, FAST, Failure, Keys, READONLY, Run, Spec, WRITE, int, is, parse_float, parse_int,
};

const ONE: Keys = Keys::Range(1, 1, 1);
const TWO: Keys = Keys::Range(1, 2, 1);

const fn read(name: &'static str, arity: i32, flags: u32, run: fn(&Keyspace, &mut Call<'_>) -> Done) -> Spec {
    Spec { name, arity, flags: READONLY | flags, keys: ONE, run: Run::Read(run) }
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
    read("llen", 2, FAST, llen),
    read("lindex", 3, 0, lindex),
    read("lrange", 4, 0, lrange),
    read("lpos", -3, 0, lpos),
    write("lpush", -3, ONE, DENYOOM | FAST, |keyspace, call| push(keyspace, call, End::Left)),
    write("rpush", -3, ONE, DENYOOM | FAST, |keyspace, call| push(keyspace, call, End::Right)),
    write("lpushx", -3, ONE, DENYOOM | FAST, |keyspace, call| push_where_there(keyspace, call, End::Left)),
    write("rpushx", -3, ONE, DENYOOM | FAST, |keyspace, call| push_where_there(keyspace, call, End::Right)),
    write("linsert", 5, ONE, DENYOOM, linsert),
    write("lset", 4, ONE, DENYOOM, lset),
    write("lrem", 4, ONE, 0, lrem),
    write("ltrim", 4, ONE, 0, ltrim),
    write("lpop", -2, ONE, FAST, |keyspace, call| pop(keyspace, call, End::Left)),
    write("rpop", -2, ONE, FAST, |keyspace, call| pop(keyspace, call, End::Right)),
    write("lmove", 5, TWO, DENYOOM, lmove),
    write("rpoplpush", 3, TWO, DENYOOM, |keyspace, call| move_one(keyspace, call, End::Right, End::Left)),
    write("lmpop", -4, Keys::Counted(1, None), 0, |keyspace, call| pop_from_first(keyspace, call, 1)),
    write("blpop", -3, Keys::Range(1, -2, 1), BLOCKING, |keyspace, call| wait_and_pop(keyspace, call, End::Left)),
    write("brpop", -3, Keys::Range(1, -2, 1), BLOCKING, |keyspace, call| wait_and_pop(keyspace, call, End::Right)),
    write("blmove", 6, TWO, DENYOOM | BLOCKING, |keyspace, call| {
        let ends = (end_of(call.args[3])?, end_of(call.args[4])?);
        timeout(call.args[5])?;
        move_one(keyspace, call, ends.0, ends.1)
    }),
    write("brpoplpush", 4, TWO, DENYOOM | BLOCKING, |keyspace, call| {
        timeout(call.args[3])?;
        move_one(keyspace, call, End::Right, End::Left)
    }),
    write("blmpop", -5, Keys::Counted(2, None), BLOCKING, |keyspace, call| pop_from_first(keyspace, call, 2)),
];

/// Checks for how long a command may wait, in seconds.
pub(super) fn timeout(text: &[u8]) -> Done {
    let seconds = parse_float(text).ok_or("ERR timeout is not a float or out of range")?;
    if seconds * 1_000.0 >= i64::MAX as f64 {
        return Err("ERR timeout is out of range".into());
    }
    if seconds < 0.0 {
        return Err("ERR timeout is negative".into());
    }
    Ok(())
}

/// A whole number of at least `least`, or this failure.
pub(super) fn at_least(text: &[u8], least: i64, otherwise: &'static str) -> Result<usize, Failure> {
    let number = parse_int(text).filter(|number| *number >= least).ok_or(otherwise)?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

/// A whole number whose negative is one too.
pub(super) fn int_both_ways(text: &[u8]) -> Result<i64, Failure> {
    match int(text)? {
        i64::MIN => Err(format!("ERR value is out of range, value must between {} and {}", -i64::MAX, i64::MAX).into()),
        number => Ok(number),
    }
}

/// How many keys follow.
pub(super) fn count_of_keys(text: &[u8]) -> Result<usize, Failure> {
    at_least(text, 1, "ERR numkeys should be greater than 0")
}

/// The places from `start` to `end`, both included, negative ones counted from the end.
pub(super) fn span(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    let from_end = |at: i64| if at < 0 { at.saturating_add(len as i64) } else { at };
    let (start, end) = (from_end(start).max(0), from_end(end).min(len as i64 - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

fn end_of(word: &[u8]) -> Result<End, Failure> {
    match () {
        () if is(word, "left") => Ok(End::Left),
        () if is(word, "right") => Ok(End::Right),
        () => Err(Failure::Syntax),
    }
}

fn index_of(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i64)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < len)
}

fn pushed(end: End) -> &'static str {
    if end == End::Left { "lpush" } else { "rpush" }
}

fn popped(end: End) -> &'static str {
    if end == End::Left { "lpop" } else { "rpop" }
}

/// Tells what was done to a list, and that its key went if nothing is left.
fn tell(keyspace: &mut Keyspace, event: &'static str, key: &[u8], left: usize) {
    keyspace.notify(b'l', event, key);
    if left == 0 {
        keyspace.notify(b'g', "del", key);
    }
}

fn llen(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let list = keyspace.object::<List>(call.args[1], call.now)?;
    call.out.count(list.map_or(0, List::len));
    Ok(())
}

fn lindex(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let Some(list) = keyspace.object::<List>(call.args[1], call.now)? else {
        call.out.null();
        return Ok(());
    };
    let index = index_of(int(call.args[2])?, list.len());
    call.out.bulk_or_null(index.and_then(|index| list.get(index)));
    Ok(())
}

fn lrange(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let (start, end) = (int(call.args[2])?, int(call.args[3])?);
    let Some(list) = keyspace.object::<List>(call.args[1], call.now)? else {
        call.out.array(0);
        return Ok(());
    };
    let span = span(list.len(), start, end);
    call.out.array(span.len());
    list.iter_from(span.start).take(span.len()).for_each(|element| call.out.bulk(element));
    Ok(())
}

fn lpos(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let (mut rank, mut count, mut steps) = (1, None, 0);
    let mut words = call.args[3..].iter();
    while let Some(word) = words.next() {
        let given = words.next().ok_or(Failure::Syntax)?;
        match () {
            () if is(word, "rank") => {
                rank = int_both_ways(given)?;
                if rank == 0 {
                    return Err(
                        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or \
                                use negative to start from the end of the list"
                            .into(),
                    );
                }
            }
            () if is(word, "count") => count = Some(at_least(given, 0, "ERR COUNT can't be negative")?),
            () if is(word, "maxlen") => steps = at_least(given, 0, "ERR MAXLEN can't be negative")?,
            () => return Err(Failure::Syntax),
        }
    }
    let Some(list) = keyspace.object::<List>(call.args[1], call.now)? else {
        match count {
            Some(_) => call.out.array(0),
            None => call.out.null(),
        }
        return Ok(());
    };
    let steps = if steps == 0 { usize::MAX } else { steps };
    let wanted = match count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let (skipped, len) = ((rank.unsigned_abs() - 1) as usize, list.len());
    let places: Vec<usize> = if rank > 0 {
        let found = list.iter_from(0).take(steps).enumerate().filter(|(_, element)| *element == call.args[2]);
        found.map(|(place, _)| place).skip(skipped).take(wanted).collect()
    } else {
        let found = list.iter_back().take(steps).enumerate().filter(|(_, element)| *element == call.args[2]);
        found.map(|(step, _)| len - 1 - step).skip(skipped).take(wanted).collect()
    };
    match (count, places.first()) {
        (Some(_), _) => {
            call.out.array(places.len());
            places.iter().for_each(|place| call.out.count(*place));
        }
        (None, Some(place)) => call.out.count(*place),
        (None, None) => call.out.null(),
    }
    Ok(())
}

fn push(keyspace: &mut Keyspace, call: &mut Call<'_>, end: End) -> Done {
    let key = call.args[1];
    let len = keyspace.edit_or_new(key, call.at(), |list: &mut List| {
        call.args[2..].iter().for_each(|element| list.push(end, element));
        (list.len(), true)
    })?;
    keyspace.notify(b'l', pushed(end), key);
    call.out.count(len);
    Ok(())
}

fn push_where_there(keyspace: &mut Keyspace, call: &mut Call<'_>, end: End) -> Done {
    if keyspace.object::<List>(call.args[1], call.now)?.is_some() {
        return push(keyspace, call, end);
    }
    call.out.int(0);
    Ok(())
}

fn linsert(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let after = match () {
        () if is(call.args[2], "after") => 1,
        () if is(call.args[2], "before") => 0,
        () => return Err(Failure::Syntax),
    };
    let (key, pivot, element) = (call.args[1], call.args[3], call.args[4]);
    let place = match keyspace.object::<List>(key, call.now)? {
        None => {
            call.out.int(0);
            return Ok(());
        }
        Some(list) => list.iter_from(0).position(|found| found == pivot),
    };
    let Some(place) = place else {
        call.out.int(-1);
        return Ok(());
    };
    let len = keyspace.edit(key, call.at(), |list: &mut List| {
        list.insert(place + after, element);
        (list.len(), true)
    })?;
    keyspace.notify(b'l', "linsert", key);
    call.out.count(len.unwrap_or(0));
    Ok(())
}

fn lset(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, element) = (call.args[1], call.args[3]);
    let len = keyspace.object::<List>(key, call.now)?.ok_or("ERR no such key")?.len();
    let index = index_of(int(call.args[2])?, len).ok_or("ERR index out of range")?;
    keyspace.edit(key, call.at(), |list: &mut List| ((), list.set(index, element)))?;
    keyspace.notify(b'l', "lset", key);
    call.out.ok();
    Ok(())
}

fn lrem(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let count = int_both_ways(call.args[2])?;
    let (key, element) = (call.args[1], call.args[3]);
    let end = if count < 0 { End::Right } else { End::Left };
    let most = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let removed = keyspace.edit(key, call.at(), |list: &mut List| {
        let removed = list.remove_equal(element, end, most);
        ((removed, list.len()), removed > 0)
    })?;
    let (removed, left) = removed.unwrap_or_default();
    if removed > 0 {
        tell(keyspace, "lrem", key, left);
    }
    call.out.count(removed);
    Ok(())
}

fn ltrim(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, start, end) = (call.args[1], int(call.args[2])?, int(call.args[3])?);
    let left = keyspace.edit(key, call.at(), |list: &mut List| {
        let before = list.len();
        let kept = span(before, start, end);
        list.drop_from(End::Right, before - kept.end);
        list.drop_from(End::Left, kept.start);
        (list.len(), list.len() < before)
    })?;
    if let Some(left) = left {
        tell(keyspace, "ltrim", key, left);
    }
    call.out.ok();
    Ok(())
}

fn pop(keyspace: &mut Keyspace, call: &mut Call<'_>, end: End) -> Done {
    let key = call.args[1];
    let count = match call.args.len() {
        2 => None,
        3 => Some(at_least(call.args[2], 0, "ERR value is out of range, must be positive")?),
        _ => return Err(format!("ERR wrong number of arguments for '{}' command", popped(end)).into()),
    };
    let Some(len) = keyspace.object::<List>(key, call.now)?.map(List::len) else {
        match count {
            Some(_) => call.out.null_array(),
            None => call.out.null(),
        }
        return Ok(());
    };
    let taken = count.unwrap_or(1).min(len);
    if count.is_some() {
        call.out.array(taken);
    }
    take(keyspace, call, key, end, taken)
}

/// Takes so many elements, which are there, and writes them on the tape.
fn take(keyspace: &mut Keyspace, call: &mut Call<'_>, key: &[u8], end: End, count: usize) -> Done {
    if count == 0 {
        return Ok(());
    }
    let left = keyspace.edit(key, call.at(), |list: &mut List| {
        for _ in 0..count {
            list.pop(end, |element| call.out.bulk(element));
        }
        (list.len(), true)
    })?;
    tell(keyspace, popped(end), key, left.unwrap_or(0));
    Ok(())
}

fn lmove(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (from, to) = (end_of(call.args[3])?, end_of(call.args[4])?);
    move_one(keyspace, call, from, to)
}

/// From one end of the first key's list to one end of the second's.
fn move_one(keyspace: &mut Keyspace, call: &mut Call<'_>, from: End, to: End) -> Done {
    let (source, target) = (call.args[1], call.args[2]);
    if keyspace.object::<List>(source, call.now)?.is_none() {
        call.out.null();
        return Ok(());
    }
    keyspace.object::<List>(target, call.now)?;
    if source == target {
        // Its key must not go in between.
        keyspace.edit(source, call.at(), |list: &mut List| {
            if let Some(element) = list.pop(from, <[u8]>::to_vec) {
                list.push(to, &element);
                call.out.bulk(&element);
            }
            ((), true)
        })?;
        keyspace.notify(b'l', pushed(to), target);
        keyspace.notify(b'l', popped(from), source);
        return Ok(());
    }
    let popping = |list: &mut List| ((list.pop(from, <[u8]>::to_vec), list.len()), true);
    if let Some((Some(element), left)) = keyspace.edit(source, call.at(), popping)? {
        keyspace.edit_or_new(target, call.at(), |list: &mut List| (list.push(to, &element), true))?;
        keyspace.notify(b'l', pushed(to), target);
        tell(keyspace, popped(from), source, left);
        call.out.bulk(&element);
    }
    Ok(())
}

fn wait_and_pop(keyspace: &mut Keyspace, call: &mut Call<'_>, end: End) -> Done {
    let (last, keys) = call.args[1..].split_last().ok_or(Failure::Syntax)?;
    timeout(last)?;
    for key in keys {
        if keyspace.object::<List>(key, call.now)?.is_some() {
            call.out.array(2);
            call.out.bulk(key);
            return take(keyspace, call, key, end, 1);
        }
    }
    call.out.null_array();
    Ok(())
}

/// From the first list there is: the keys stand after their number, which is at `place`, and then the end and how many at
/// most. Whoever waits said before the number for how long.
fn pop_from_first(keyspace: &mut Keyspace, call: &mut Call<'_>, place: usize) -> Done {
    let count = count_of_keys(call.args[place])?;
    let keys = call.args[place + 1..].get(..count).ok_or(Failure::Syntax)?;
    let (word, options) = call.args[place + 1 + count..].split_first().ok_or(Failure::Syntax)?;
    let end = end_of(word)?;
    let most = match options {
        [] => 1,
        [word, most] if is(word, "count") => at_least(most, 1, "ERR count should be greater than 0")?,
        _ => return Err(Failure::Syntax),
    };
    if place == 2 {
        timeout(call.args[1])?;
    }
    for key in keys {
        if let Some(list) = keyspace.object::<List>(key, call.now)? {
            let taken = list.len().min(most);
            call.out.array(2);
            call.out.bulk(key);
            call.out.array(taken);
            return take(keyspace, call, key, end, taken);
        }
    }
    call.out.null_array();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::table::execute::tests::Trial;

    fn check(lines: &[(&str, &str)]) {
        let mut trial = Trial::new();
        for (line, reply) in lines {
            assert_eq!(trial.line(line), *reply, "{line}");
        }
    }

    #[test]
    fn both_ends_give_and_take() {
        check(&[
            ("RPUSH l a b c", "(integer) 3"),
            ("LPUSH l 1 2", "(integer) 5"),
            ("LRANGE l 0 -1", "[\"2\" \"1\" \"a\" \"b\" \"c\"]"),
            ("LRANGE l -2 100", "[\"b\" \"c\"]"),
            ("LRANGE l 3 1", "[]"),
            ("LPOP l", "\"2\""),
            ("RPOP l 2", "[\"c\" \"b\"]"),
            ("LPOP l 0", "[]"),
            ("LPOP nope", "(nil)"),
            ("LPOP nope 2", "(nil)"),
            ("LPOP l -1", "(error) ERR value is out of range, must be positive"),
            ("LPOP l 1 1", "(error) ERR wrong number of arguments for 'lpop' command"),
            ("LPUSHX nope a", "(integer) 0"),
            ("LPUSHX l 0", "(integer) 3"),
            ("LMPOP 2 nope l RIGHT COUNT 9", "[\"l\" [\"a\" \"1\" \"0\"]]"),
            ("EXISTS l", "(integer) 0"),
            ("LMPOP 1 l LEFT", "(nil)"),
            ("LMPOP 0 l LEFT", "(error) ERR numkeys should be greater than 0"),
            ("LMPOP 2 l LEFT", "(error) ERR syntax error"),
            ("SET s x", "OK"),
            ("RPUSH s x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ]);
    }

    #[test]
    fn elements_are_found_changed_and_removed_within() {
        check(&[
            ("RPUSH l a b c a b c a", "(integer) 7"),
            ("LPOS l a", "(integer) 0"),
            ("LPOS l a RANK -1", "(integer) 6"),
            ("LPOS l a RANK 2 COUNT 0", "[(integer) 3 (integer) 6]"),
            ("LPOS l c COUNT 1 MAXLEN 2", "[]"),
            ("LPOS nope a COUNT 1", "[]"),
            (
                "LPOS l a RANK -9223372036854775808",
                "(error) ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
            ),
            ("LINSERT l BEFORE b x", "(integer) 8"),
            ("LINSERT l AFTER nope x", "(integer) -1"),
            ("LINSERT nope AFTER a x", "(integer) 0"),
            ("LSET l -1 z", "OK"),
            ("LSET l 8 z", "(error) ERR index out of range"),
            ("LSET nope 0 z", "(error) ERR no such key"),
            ("LINDEX l 1", "\"x\""),
            ("LINDEX l -9", "(nil)"),
            ("LINDEX nope bad", "(nil)"),
            ("LREM l -1 b", "(integer) 1"),
            ("LRANGE l 0 -1", "[\"a\" \"x\" \"b\" \"c\" \"a\" \"c\" \"z\"]"),
            ("LREM l 0 c", "(integer) 2"),
            ("LTRIM l 1 -2", "OK"),
            ("LRANGE l 0 -1", "[\"x\" \"b\" \"a\"]"),
            ("OBJECT ENCODING l", "\"listpack\""),
            ("LTRIM l 5 9", "OK"),
            ("TYPE l", "none"),
        ]);
    }

    #[test]
    fn elements_move_and_waiting_ends_at_once_where_there_is_something() {
        check(&[
            ("RPUSH a 1 2 3", "(integer) 3"),
            ("LMOVE a b RIGHT LEFT", "\"3\""),
            ("RPOPLPUSH a a", "\"2\""),
            ("LRANGE a 0 -1", "[\"2\" \"1\"]"),
            ("RPUSH one x", "(integer) 1"),
            ("LMOVE one one LEFT RIGHT", "\"x\""),
            ("LMOVE nope a LEFT RIGHT", "(nil)"),
            ("LMOVE a b UP RIGHT", "(error) ERR syntax error"),
            ("BLMOVE a b LEFT LEFT 0", "\"2\""),
            ("BRPOPLPUSH a b 0.5", "\"1\""),
            ("BLPOP a b 0", "[\"b\" \"1\"]"),
            ("BRPOP a 1", "(nil)"),
            ("BRPOP a x", "(error) ERR timeout is not a float or out of range"),
            ("BRPOP a -1", "(error) ERR timeout is negative"),
            ("BLMPOP 1 2 a b RIGHT COUNT 5", "[\"b\" [\"3\" \"2\"]]"),
        ]);
    }
}
