//! Sets: members, some of them by chance, and what several sets make together.

use super::super::call::Call;
use super::super::glob;
use super::super::keyspace::Keyspace;
use super::super::objects::Set;
use super::super::objects::dense::sample;
use super::hashes::{PICKS_BYTES_MAX, PICKS_TOO_LONG, picks};
use super::keys::{cursor, scan_options};
use super::{DENYOOM, Done, FAST, Failure, Keys, READONLY, Run, Spec, WRITE, is, parse_int};

const ONE: Keys = Keys::Range(1, 1, 1);
const TWO: Keys = Keys::Range(1, 2, 1);
const ALL: Keys = Keys::Range(1, -1, 1);

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
    write("sadd", -3, ONE, DENYOOM | FAST, sadd),
    write("srem", -3, ONE, FAST, srem),
    read("smembers", 2, ONE, 0, smembers),
    read("sismember", 3, ONE, FAST, sismember),
    read("smismember", -3, ONE, FAST, smismember),
    read("scard", 2, ONE, FAST, scard),
    write("spop", -2, ONE, FAST, spop),
    read("srandmember", -2, ONE, 0, srandmember),
    write("smove", 4, TWO, FAST, smove),
    read("sscan", -3, ONE, 0, sscan),
    read("sinter", -2, ALL, 0, |keyspace, call| {
        let found = sets_of(keyspace, &call.args[1..], call.now)?;
        let mark = call.out.open_set();
        let mut count = 0;
        inter(found, |member| {
            call.out.bulk(member);
            count += 1;
            true
        });
        call.out.close(mark, count);
        Ok(())
    }),
    read("sintercard", -3, Keys::Counted(1, None), 0, sintercard),
    read("sunion", -2, ALL, 0, |keyspace, call| answer(call, &union(sets_of(keyspace, &call.args[1..], call.now)?))),
    read("sdiff", -2, ALL, 0, |keyspace, call| answer(call, &diff(sets_of(keyspace, &call.args[1..], call.now)?))),
    write("sinterstore", -3, ALL, DENYOOM, |keyspace, call| {
        let mut result = Set::default();
        inter(sets_of(keyspace, &call.args[2..], call.now)?, |member| {
            result.add(member);
            true
        });
        store(keyspace, call, result, "sinterstore")
    }),
    write("sunionstore", -3, ALL, DENYOOM, |keyspace, call| {
        let result = union(sets_of(keyspace, &call.args[2..], call.now)?);
        store(keyspace, call, result, "sunionstore")
    }),
    write("sdiffstore", -3, ALL, DENYOOM, |keyspace, call| {
        let result = diff(sets_of(keyspace, &call.args[2..], call.now)?);
        store(keyspace, call, result, "sdiffstore")
    }),
];

/// The set of a call's key.
fn set_of<'k>(keyspace: &'k Keyspace, call: &Call<'_>) -> Result<Option<&'k Set>, Failure> {
    Ok(keyspace.object(call.args[1], call.now)?)
}

fn sadd(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, members) = (call.args[1], &call.args[2..]);
    let added = keyspace.edit_or_new(key, call.at(), |set: &mut Set| {
        set.expect(members[0], members.len());
        let added = members.iter().filter(|member| set.add(member)).count();
        (added, added > 0)
    })?;
    if added > 0 {
        keyspace.notify(b's', "sadd", key);
    }
    call.out.count(added);
    Ok(())
}

/// After members went: says so, and also if the key went with the last.
fn notify_removed(keyspace: &mut Keyspace, call: &Call<'_>, name: &'static str) {
    let key = call.args[1];
    keyspace.notify(b's', name, key);
    if !keyspace.contains(key, call.now) {
        keyspace.notify(b'g', "del", key);
    }
}

fn srem(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let removed = keyspace.edit(call.args[1], call.at(), |set: &mut Set| {
        let removed = call.args[2..].iter().filter(|member| set.remove(member)).count();
        (removed, removed > 0)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        notify_removed(keyspace, call, "srem");
    }
    call.out.count(removed);
    Ok(())
}

fn answer(call: &mut Call<'_>, set: &Set) -> Done {
    call.out.set(set.len());
    set.iter().for_each(|member| call.out.bulk(&member));
    Ok(())
}

fn smembers(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    match set_of(keyspace, call)? {
        Some(set) => answer(call, set),
        None => {
            call.out.set(0);
            Ok(())
        }
    }
}

fn sismember(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let found = set_of(keyspace, call)?.is_some_and(|set| set.contains(call.args[2]));
    call.out.flag(found);
    Ok(())
}

fn smismember(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let set = set_of(keyspace, call)?;
    call.out.array(call.len() - 2);
    for member in &call.args[2..] {
        call.out.flag(set.is_some_and(|set| set.contains(member)));
    }
    Ok(())
}

fn scard(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let len = set_of(keyspace, call)?.map_or(0, Set::len);
    call.out.count(len);
    Ok(())
}

fn spop(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let count = match call.args.get(2) {
        Some(_) if call.len() > 3 => return Err(Failure::Syntax),
        count => count,
    };
    let wanted = count.map_or(Some(1), |count| parse_int(count)).and_then(|count| usize::try_from(count).ok());
    let wanted = wanted.ok_or("ERR value is out of range, must be positive")?;
    let mut chance = call.chance();
    let popped = keyspace.edit(call.args[1], call.at(), |set: &mut Set| {
        let choice = set.choice();
        let places =
            if wanted < choice.len() { sample(&mut chance, choice.len(), wanted) } else { (0..choice.len()).collect() };
        let popped: Vec<Box<[u8]>> = places.into_iter().map(|place| Box::from(&*choice.at(place))).collect();
        let removed = popped.iter().filter(|member| set.remove(member)).count();
        (popped, removed > 0)
    })?;
    let popped = popped.unwrap_or_default();
    if count.is_some() {
        call.out.set(popped.len());
        popped.iter().for_each(|member| call.out.bulk(member));
    } else {
        call.out.bulk_or_null(popped.first().map(|member| &**member));
    }
    if !popped.is_empty() {
        notify_removed(keyspace, call, "spop");
    }
    Ok(())
}

fn srandmember(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let count = match call.args.get(2) {
        Some(_) if call.len() > 3 => return Err(Failure::Syntax),
        Some(count) => Some(picks(count)?),
        None => None,
    };
    let mut chance = call.chance();
    let choice = set_of(keyspace, call)?.map(Set::choice);
    let Some((count, different)) = count else {
        let member = choice.map(|choice| choice.at(chance.below(choice.len())));
        call.out.bulk_or_null(member.as_deref());
        return Ok(());
    };
    let Some(choice) = choice.filter(|_| count > 0) else {
        call.out.array(0);
        return Ok(());
    };
    let len = choice.len();
    let count = if different { count.min(len) } else { count };
    call.out.array(count);
    let mut say = |place| {
        call.out.bulk(&choice.at(place));
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

fn smove(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (from, to, member) = (call.args[1], call.args[2], call.args[3]);
    let Some(set) = set_of(keyspace, call)? else {
        // A source that is not there is answered before the other key is looked at.
        call.out.int(0);
        return Ok(());
    };
    let found = set.contains(member);
    keyspace.object::<Set>(to, call.now)?;
    call.out.flag(found);
    if !found || from == to {
        return Ok(());
    }
    keyspace.edit(from, call.at(), |set: &mut Set| (set.remove(member), true))?;
    notify_removed(keyspace, call, "srem");
    let added = keyspace.edit_or_new(to, call.at(), |set: &mut Set| {
        let added = set.add(member);
        (added, added)
    })?;
    if added {
        keyspace.notify(b's', "sadd", to);
    }
    Ok(())
}

fn sscan(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    cursor(call.args[2])?;
    let Some(set) = set_of(keyspace, call)? else {
        call.out.array(2);
        call.out.bulk(b"0");
        call.out.array(0);
        return Ok(());
    };
    let options = scan_options(call, 2)?;
    if options.kind.is_some() {
        return Err(Failure::Syntax);
    }
    if options.no_values {
        return Err("ERR NOVALUES option can only be used in HSCAN".into());
    }
    let (mut found, mut ends) = (Vec::new(), Vec::new());
    let next = set.scan(options.cursor, options.count, |member| {
        if options.pattern.is_none_or(|pattern| glob::matches(pattern, member)) {
            found.extend_from_slice(member);
            ends.push(found.len());
        }
    });
    call.out.array(2);
    call.out.bulk(next.to_string().as_bytes());
    call.out.array(ends.len());
    let mut start = 0;
    for end in ends {
        call.out.bulk(&found[start..end]);
        start = end;
    }
    Ok(())
}

/// The sets of keys; none where there is no key.
fn sets_of<'k>(keyspace: &'k Keyspace, keys: &[&[u8]], now: u64) -> Result<Vec<Option<&'k Set>>, Failure> {
    keys.iter().map(|key| Ok(keyspace.object(key, now)?)).collect()
}

/// The members that are in all sets, until `each` says that it has had enough.
fn inter(sets: Vec<Option<&Set>>, mut each: impl FnMut(&[u8]) -> bool) {
    let Some(mut sets) = sets.into_iter().collect::<Option<Vec<&Set>>>() else { return };
    sets.sort_by_key(|set| set.len());
    let Some((least, others)) = sets.split_first() else { return };
    for member in least.iter() {
        if others.iter().all(|set| set.contains(&member)) && !each(&member) {
            return;
        }
    }
}

fn union(sets: Vec<Option<&Set>>) -> Set {
    let mut result = Set::default();
    for member in sets.into_iter().flatten().flat_map(Set::iter) {
        result.add(&member);
    }
    result
}

fn diff(sets: Vec<Option<&Set>>) -> Set {
    let mut result = Set::default();
    let Some((&Some(first), others)) = sets.split_first() else { return result };
    let others: Vec<&Set> = others.iter().copied().flatten().collect();
    let total: usize = others.iter().map(|set| set.len()).sum();
    // To ask every other set for each member, or to take the members of every other set out: whichever is less.
    if first.len().saturating_mul(others.len()) <= total.saturating_add(first.len()).saturating_mul(2) {
        let left = first.iter().filter(|member| !others.iter().any(|set| set.contains(member)));
        for member in left {
            result.add(&member);
        }
        return result;
    }
    result = first.clone();
    for member in others.into_iter().flat_map(Set::iter) {
        result.remove(&member);
    }
    result
}

/// Gives the destination a set as its value. One without members removes it.
fn store(keyspace: &mut Keyspace, call: &mut Call<'_>, set: Set, name: &'static str) -> Done {
    let key = call.args[1];
    call.out.count(set.len());
    if set.is_empty() {
        if keyspace.remove(key, call.at()) {
            keyspace.notify(b'g', "del", key);
        }
    } else {
        keyspace.put(key, set, 0, call.at());
        keyspace.notify(b's', name, key);
    }
    Ok(())
}

fn sintercard(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let count = parse_int(call.args[1]).filter(|count| *count >= 1).ok_or("ERR numkeys should be greater than 0")?;
    if count > call.len() as i64 - 2 {
        return Err("ERR Number of keys can't be greater than number of args".into());
    }
    let (keys, mut words) = call.args[2..].split_at(count as usize);
    let mut limit = 0;
    while let [word, rest @ ..] = words {
        let given = rest.first().filter(|_| is(word, "limit")).ok_or(Failure::Syntax)?;
        limit = parse_int(given).filter(|limit| *limit >= 0).ok_or("ERR LIMIT can't be negative")?;
        words = &rest[1..];
    }
    let mut found = 0;
    inter(sets_of(keyspace, keys, call.now)?, |_| {
        found += 1;
        found != limit
    });
    call.out.int(found);
    Ok(())
}

#[cfg(test)]
mod tests;
