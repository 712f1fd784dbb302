//! Sorted sets: members, their scores and ranks, one by one or from the ends.
//!
//! What takes a range is in `sorted_ranges`, what takes several sets in `sorted_merges`.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::super::objects::Sorted;
use super::super::objects::dense::sample;
use super::hashes::{PICKS_BYTES_MAX, PICKS_TOO_LONG, picks};
use super::keys::{cursor, scan_options};
use super::lists::{at_least, count_of_keys, timeout};
use super::{BLOCKING, DENYOOM, Done, FAST, Failure, Keys, READONLY, Run, Spec, WRITE, double, int, is};
use crate::table::glob;

const ONE: Keys = Keys::Range(1, 1, 1);

pub(super) const fn read(
    name: &'static str,
    arity: i32,
    keys: Keys,
    flags: u32,
    run: fn(&Keyspace, &mut Call<'_>) -> Done,
) -> Spec {
    Spec { name, arity, flags: READONLY | flags, keys, run: Run::Read(run) }
}

pub(super) const fn write(
    name: &'static str,
    arity: i32,
    keys: Keys,
    flags: u32,
    run: fn(&mut Keyspace, &mut Call<'_>) -> Done,
) -> Spec {
    Spec { name, arity, flags: WRITE | flags, keys, run: Run::Write(run) }
}

pub(super) const SPECS: &[Spec] = &[
    write("zadd", -4, ONE, DENYOOM | FAST, zadd),
    write("zincrby", 4, ONE, DENYOOM | FAST, zincrby),
    write("zrem", -3, ONE, FAST, zrem),
    read("zcard", 2, ONE, FAST, zcard),
    read("zscore", 3, ONE, FAST, zscore),
    read("zmscore", -3, ONE, FAST, zmscore),
    read("zrank", -3, ONE, FAST, |keyspace, call| zrank(keyspace, call, "zrank", false)),
    read("zrevrank", -3, ONE, FAST, |keyspace, call| zrank(keyspace, call, "zrevrank", true)),
    read("zrandmember", -2, ONE, 0, zrandmember),
    read("zscan", -3, ONE, 0, zscan),
    write("zpopmin", -2, ONE, FAST, |keyspace, call| zpop(keyspace, call, Side::Min)),
    write("zpopmax", -2, ONE, FAST, |keyspace, call| zpop(keyspace, call, Side::Max)),
    write("bzpopmin", -3, Keys::Range(1, -2, 1), BLOCKING | FAST, |keyspace, call| {
        wait_and_pop(keyspace, call, Side::Min)
    }),
    write("bzpopmax", -3, Keys::Range(1, -2, 1), BLOCKING | FAST, |keyspace, call| {
        wait_and_pop(keyspace, call, Side::Max)
    }),
    write("zmpop", -4, Keys::Counted(1, None), 0, |keyspace, call| pop_from_first(keyspace, call, 1)),
    write("bzmpop", -5, Keys::Counted(2, None), BLOCKING, |keyspace, call| pop_from_first(keyspace, call, 2)),
];

/// Where the lowest scores are, or the highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Min,
    Max,
}

/// Tells what was done to a sorted set, and that its key went if nothing is left.
pub(super) fn tell(keyspace: &mut Keyspace, event: &'static str, key: &[u8], left: usize) {
    keyspace.notify(b'z', event, key);
    if left == 0 {
        keyspace.notify(b'g', "del", key);
    }
}

/// When a score is written, from the words of `ZADD`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct When {
    /// Only of new members.
    pub nx: bool,
    /// Only of members that are there.
    pub xx: bool,
    /// Only a higher one.
    pub gt: bool,
    /// Only a lower one.
    pub lt: bool,
    /// The reply counts changes too.
    pub ch: bool,
    /// It is added to the old one.
    pub incr: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Added {
    new: usize,
    changed: usize,
    /// What the last member has now, unless `when` forbade it.
    score: Option<f64>,
}

fn add_one(sorted: &mut Sorted, when: When, score: f64, member: &[u8], added: &mut Added) -> Result<(), Failure> {
    added.score = None;
    let Some(old) = sorted.score(member) else {
        if !when.xx {
            sorted.insert(member, score);
            added.new += 1;
            added.score = Some(score);
        }
        return Ok(());
    };
    if when.nx {
        return Ok(());
    }
    let score = if when.incr { old + score } else { score };
    if score.is_nan() {
        return Err("ERR resulting score is not a number (NaN)".into());
    }
    if (when.gt && score <= old) || (when.lt && score >= old) {
        return Ok(());
    }
    if score != old {
        sorted.insert(member, score);
        added.changed += 1;
    }
    added.score = Some(score);
    Ok(())
}

/// Adds members with their scores, and replies.
pub(super) fn add(keyspace: &mut Keyspace, call: &mut Call<'_>, when: When, pairs: &[(f64, &[u8])]) -> Done {
    let key = call.args[1];
    let there = keyspace.object::<Sorted>(key, call.now)?.is_some();
    let mut added = Added::default();
    if there || !when.xx {
        keyspace.edit_or_new(key, call.at(), |sorted: &mut Sorted| {
            let done = pairs.iter().try_for_each(|(score, member)| add_one(sorted, when, *score, member, &mut added));
            (done, added.new + added.changed > 0)
        })??;
    }
    if added.new + added.changed > 0 {
        keyspace.notify(b'z', if when.incr { "zincr" } else { "zadd" }, key);
    }
    match (when.incr, added.score) {
        (true, Some(score)) => call.out.double(score),
        (true, None) => call.out.null(),
        (false, _) => call.out.count(added.new + if when.ch { added.changed } else { 0 }),
    }
    Ok(())
}

fn zadd(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (mut when, mut place) = (When::default(), 2);
    while let Some(word) = call.args.get(place) {
        match () {
            () if is(word, "nx") => when.nx = true,
            () if is(word, "xx") => when.xx = true,
            () if is(word, "gt") => when.gt = true,
            () if is(word, "lt") => when.lt = true,
            () if is(word, "ch") => when.ch = true,
            () if is(word, "incr") => when.incr = true,
            () => break,
        }
        place += 1;
    }
    let rest = &call.args[place..];
    if rest.is_empty() || !rest.len().is_multiple_of(2) {
        return Err(Failure::Syntax);
    }
    if when.nx && when.xx {
        return Err("ERR XX and NX options at the same time are not compatible".into());
    }
    if (when.nx && (when.gt || when.lt)) || (when.gt && when.lt) {
        return Err("ERR GT, LT, and/or NX options at the same time are not compatible".into());
    }
    if when.incr && rest.len() > 2 {
        return Err("ERR INCR option supports a single increment-element pair".into());
    }
    let pairs = rest.chunks_exact(2).map(|pair| Ok((double(pair[0])?, pair[1])));
    let pairs = pairs.collect::<Result<Vec<_>, Failure>>()?;
    add(keyspace, call, when, &pairs)
}

fn zincrby(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let pair = (double(call.args[2])?, call.args[3]);
    add(keyspace, call, When { incr: true, ..When::default() }, &[pair])
}

fn zrem(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let key = call.args[1];
    let removed = keyspace.edit(key, call.at(), |sorted: &mut Sorted| {
        let removed = call.args[2..].iter().filter(|member| sorted.remove(member).is_some()).count();
        ((removed, sorted.len()), removed > 0)
    })?;
    let (removed, left) = removed.unwrap_or_default();
    if removed > 0 {
        tell(keyspace, "zrem", key, left);
    }
    call.out.count(removed);
    Ok(())
}

fn zcard(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
    call.out.count(sorted.map_or(0, Sorted::len));
    Ok(())
}

fn double_or_null(call: &mut Call<'_>, score: Option<f64>) {
    match score {
        Some(score) => call.out.double(score),
        None => call.out.null(),
    }
}

fn zscore(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
    double_or_null(call, sorted.and_then(|sorted| sorted.score(call.args[2])));
    Ok(())
}

fn zmscore(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
    let members = &call.args[2..];
    call.out.array(members.len());
    members.iter().for_each(|member| double_or_null(call, sorted.and_then(|sorted| sorted.score(member))));
    Ok(())
}

fn zrank(keyspace: &Keyspace, call: &mut Call<'_>, name: &str, reverse: bool) -> Done {
    let with_score = match call.args.get(3) {
        None => false,
        Some(_) if call.args.len() > 4 => {
            return Err(format!("ERR wrong number of arguments for '{name}' command").into());
        }
        Some(word) if is(word, "withscore") => true,
        Some(_) => return Err(Failure::Syntax),
    };
    let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
    let Some((sorted, (rank, score))) = sorted.and_then(|sorted| Some((sorted, sorted.rank(call.args[2])?))) else {
        if with_score {
            call.out.null_array();
        } else {
            call.out.null();
        }
        return Ok(());
    };
    let rank = if reverse { sorted.len() - 1 - rank } else { rank };
    if with_score {
        call.out.array(2);
    }
    call.out.count(rank);
    if with_score {
        call.out.double(score);
    }
    Ok(())
}

fn zrandmember(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let Some(count) = call.args.get(2) else {
        let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
        let chosen = sorted.and_then(|sorted| sorted.get(call.chance().below(sorted.len())));
        call.out.bulk_or_null(chosen.map(|(member, _)| member));
        return Ok(());
    };
    let parsed = int(count)?;
    let with_scores = match call.args[3..] {
        [] => false,
        [word] if is(word, "withscores") => true,
        _ => return Err(Failure::Syntax),
    };
    if with_scores && parsed.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err("ERR value is out of range".into());
    }
    let (count, different) = picks(count)?;
    let Some(sorted) = keyspace.object::<Sorted>(call.args[1], call.now)?.filter(|_| count > 0) else {
        call.out.array(0);
        return Ok(());
    };
    let (len, mut chance) = (sorted.len(), call.chance());
    let count = if different { count.min(len) } else { count };
    if with_scores {
        call.out.pairs(count);
    } else {
        call.out.array(count);
    }
    let mut say = |(member, score): (&[u8], f64)| {
        call.out.bulk(member);
        if with_scores {
            call.out.double(score);
        }
        if different || call.out.len() < PICKS_BYTES_MAX { Ok(()) } else { Err(PICKS_TOO_LONG.into()) }
    };
    if count == len && different {
        return sorted.iter(0..len).try_for_each(say);
    }
    let ranks = if different { sample(&mut chance, len, count) } else { Vec::new() };
    let drawn = (ranks.len()..count).map(|_| chance.below(len));
    ranks.into_iter().chain(drawn).filter_map(|rank| sorted.get(rank)).try_for_each(&mut say)
}

/// A score as text: the shortest digits that mean it, with an exponent where there would be many zeros.
fn score_text(score: f64) -> String {
    let size = score.abs();
    match () {
        () if score.is_infinite() => if score > 0.0 { "inf" } else { "-inf" }.into(),
        () if size != 0.0 && !(1e-6..1e21).contains(&size) => {
            let text = format!("{score:e}");
            if size < 1.0 { text } else { text.replace('e', "e+") }
        }
        () => format!("{score}"),
    }
}

fn zscan(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    cursor(call.args[2])?;
    let Some(sorted) = keyspace.object::<Sorted>(call.args[1], call.now)? else {
        call.out.array(2);
        call.out.bulk(b"0");
        call.out.array(0);
        return Ok(());
    };
    let options = scan_options(call, 2)?;
    if options.no_values || options.kind.is_some() {
        return Err(Failure::Syntax);
    }
    let mut found = Vec::new();
    let next = sorted.scan(options.cursor, options.count, |member, score| {
        if options.pattern.is_none_or(|pattern| glob::matches(pattern, member)) {
            found.push((member, score));
        }
    });
    call.out.array(2);
    call.out.bulk(next.to_string().as_bytes());
    call.out.array(found.len() * 2);
    for (member, score) in found {
        call.out.bulk(member);
        call.out.bulk(score_text(score).as_bytes());
    }
    Ok(())
}

/// How a popped member with its score stands in the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As the next two of an array.
    Flat,
    /// As one of some pairs.
    Pairs,
    /// As an array of two.
    Nested,
}

/// Takes at most so many members from a side; what is before them on the tape says how many there are.
fn take(keyspace: &mut Keyspace, call: &mut Call<'_>, key: &[u8], side: Side, count: usize, shape: Shape) -> Done {
    let left = keyspace.edit(key, call.at(), |sorted: &mut Sorted| {
        let len = sorted.len();
        let mut taken = Vec::with_capacity(count.min(len));
        let ranks = if side == Side::Min { 0..count.min(len) } else { len - count.min(len)..len };
        sorted.remove_ranks(ranks, |member, score| taken.push((Box::<[u8]>::from(member), score)));
        if side == Side::Max {
            taken.reverse();
        }
        match shape {
            Shape::Flat => {}
            Shape::Pairs => call.out.pairs(taken.len()),
            Shape::Nested => call.out.array(taken.len()),
        }
        for (member, score) in &taken {
            if shape == Shape::Nested {
                call.out.array(2);
            }
            call.out.bulk(member);
            call.out.double(*score);
        }
        (sorted.len(), true)
    })?;
    let event = if side == Side::Min { "zpopmin" } else { "zpopmax" };
    tell(keyspace, event, key, left.unwrap_or(0));
    Ok(())
}

fn zpop(keyspace: &mut Keyspace, call: &mut Call<'_>, side: Side) -> Done {
    let count = match call.args[2..] {
        [] => None,
        [count] => Some(at_least(count, 0, "ERR value is out of range, must be positive")?),
        _ => return Err(Failure::Syntax),
    };
    let key = call.args[1];
    if keyspace.object::<Sorted>(key, call.now)?.is_none() || count == Some(0) {
        call.out.array(0);
        return Ok(());
    }
    match count {
        None => {
            call.out.array(2);
            take(keyspace, call, key, side, 1, Shape::Flat)
        }
        Some(count) => take(keyspace, call, key, side, count, Shape::Pairs),
    }
}

fn wait_and_pop(keyspace: &mut Keyspace, call: &mut Call<'_>, side: Side) -> Done {
    let (last, keys) = call.args[1..].split_last().ok_or(Failure::Syntax)?;
    timeout(last)?;
    for key in keys {
        if keyspace.object::<Sorted>(key, call.now)?.is_some() {
            call.out.array(3);
            call.out.bulk(key);
            return take(keyspace, call, key, side, 1, Shape::Flat);
        }
    }
    call.out.null_array();
    Ok(())
}

/// From the first sorted set there is: the keys stand after their number, which is at `place`, and then the side and how
/// many at most. Whoever waits said before the number for how long.
fn pop_from_first(keyspace: &mut Keyspace, call: &mut Call<'_>, place: usize) -> Done {
    let count = count_of_keys(call.args[place])?;
    let keys = call.args[place + 1..].get(..count).ok_or(Failure::Syntax)?;
    let (word, options) = call.args[place + 1 + count..].split_first().ok_or(Failure::Syntax)?;
    let side = match () {
        () if is(word, "min") => Side::Min,
        () if is(word, "max") => Side::Max,
        () => return Err(Failure::Syntax),
    };
    let most = match options {
        [] => 1,
        [word, most] if is(word, "count") => at_least(most, 1, "ERR count should be greater than 0")?,
        _ => return Err(Failure::Syntax),
    };
    if place == 2 {
        timeout(call.args[1])?;
    }
    for key in keys {
        if keyspace.object::<Sorted>(key, call.now)?.is_some() {
            call.out.array(2);
            call.out.bulk(key);
            return take(keyspace, call, key, side, most, Shape::Nested);
        }
    }
    call.out.null_array();
    Ok(())
}
