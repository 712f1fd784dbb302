//! Sorting: the elements of a list, a set or a sorted set, by what they are or by what other keys say.
//!
//! ```text
//!   elements --> weights (themselves, or BY pattern) --> order --> LIMIT --> GET patterns --> reply, or STORE as a list
//! ```
//!
//! A pattern names another key for each element: the element stands where the pattern has its first `*`, and what follows
//! `->` is the field of a hash. `#` is the element itself.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::{DENYOOM, Done, Failure, Keys, READONLY, Run, Spec, WRITE, int, is, parse_float, without_blanks};
use crate::table::objects::{End, Hash, List, Set, Sorted};

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "sort", arity: -2, flags: WRITE | DENYOOM, keys: Keys::Found(keys), run: Run::Write(sort) },
    Spec { name: "sort_ro", arity: -2, flags: READONLY, keys: Keys::Range(1, 1, 1), run: Run::Read(sort_ro) },
];

/// The key, and where the result goes.
fn keys(args: &[&[u8]]) -> Vec<usize> {
    let (mut places, mut place) = (vec![1], 2);
    let mut stored = None;
    while place < args.len() {
        match args[place] {
            word if is(word, "store") => {
                stored = Some(place + 1).filter(|place| *place < args.len());
                place += 1;
            }
            word if is(word, "by") || is(word, "get") => place += 1,
            word if is(word, "limit") => place += 2,
            _ => {}
        }
        place += 1;
    }
    places.extend(stored);
    places
}

#[derive(Default)]
struct Options<'a> {
    descending: bool,
    as_text: bool,
    first: i64,
    count: Option<i64>,
    by: Option<&'a [u8]>,
    get: Vec<&'a [u8]>,
    store: Option<&'a [u8]>,
}

fn options<'a>(args: &[&'a [u8]], stores: bool) -> Result<Options<'a>, Failure> {
    let (mut options, mut place) = (Options::default(), 2);
    while place < args.len() {
        let (word, more) = (args[place], args.len() - place - 1);
        match () {
            () if is(word, "asc") => options.descending = false,
            () if is(word, "desc") => options.descending = true,
            () if is(word, "alpha") => options.as_text = true,
            () if is(word, "limit") && more >= 2 => {
                (options.first, options.count) = (int(args[place + 1])?, Some(int(args[place + 2])?));
                place += 2;
            }
            () if stores && is(word, "store") && more >= 1 => {
                options.store = Some(args[place + 1]);
                place += 1;
            }
            () if is(word, "by") && more >= 1 => {
                options.by = Some(args[place + 1]);
                place += 1;
            }
            () if is(word, "get") && more >= 1 => {
                options.get.push(args[place + 1]);
                place += 1;
            }
            () => return Err(Failure::Syntax),
        }
        place += 1;
    }
    Ok(options)
}

type Bytes<'k> = Cow<'k, [u8]>;

/// The elements of a key, in its own order, and whether that is an order that means something.
fn elements<'k>(keyspace: &'k Keyspace, key: &[u8], now: u64) -> Result<(Vec<Bytes<'k>>, bool), Failure> {
    if let Ok(found) = keyspace.object::<List>(key, now) {
        let elements = found.map(|list| list.iter_from(0).map(Cow::Borrowed).collect());
        return Ok((elements.unwrap_or_default(), true));
    }
    if let Ok(found) = keyspace.object::<Sorted>(key, now) {
        let members =
            found.map(|sorted| sorted.iter(0..sorted.len()).map(|(member, _)| Cow::Borrowed(member)).collect());
        return Ok((members.unwrap_or_default(), true));
    }
    let found = keyspace.object::<Set>(key, now)?;
    // Members that are kept as numbers have no bytes to borrow.
    let members = found.map(|set| set.iter().map(|member| Cow::Owned(member.to_vec())).collect());
    Ok((members.unwrap_or_default(), false))
}

/// What a pattern names for an element.
fn named<'k>(keyspace: &'k Keyspace, pattern: &'k [u8], element: &[u8], now: u64) -> Option<Bytes<'k>> {
    if pattern == b"#" {
        return Some(Cow::Owned(element.to_vec()));
    }
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = after.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < after.len());
    let (after, field) = match arrow {
        Some(at) => (&after[..at], Some(&after[at + 2..])),
        None => (after, None),
    };
    let key = [before, element, after].concat();
    match field {
        Some(field) => {
            let hash = keyspace.object::<Hash>(&key, now).ok()??;
            hash.get(field, now).map(|(value, _)| Cow::Borrowed(value))
        }
        None => keyspace.string(&key, now).ok()?.map(Cow::Borrowed),
    }
}

/// What an element counts. Nothing counts 0, and spaces before a number do not matter.
fn number(text: &[u8]) -> Result<f64, Failure> {
    if text.is_empty() {
        return Ok(0.0);
    }
    parse_float(without_blanks(text)).ok_or_else(|| "ERR One or more scores can't be converted into double".into())
}

/// The elements in the order that was asked for, and cut as was asked for.
fn sorted<'k>(keyspace: &'k Keyspace, key: &[u8], options: &Options<'k>, now: u64) -> Result<Vec<Bytes<'k>>, Failure> {
    let (mut elements, ordered) = elements(keyspace, key, now)?;
    let unsorted = options.by.is_some_and(|by| !by.contains(&b'*'));
    // What is stored of a set has an order, so that it is the same whatever order the set is kept in.
    let for_order = unsorted && !ordered && options.store.is_some();
    if unsorted && !for_order {
        if options.descending && ordered {
            elements.reverse();
        }
    } else {
        let by = options.by.filter(|_| !for_order);
        let turned = |order: Ordering| if options.descending { order.reverse() } else { order };
        if options.as_text || for_order {
            match by {
                None => elements.sort_by(|a, b| turned(a.cmp(b))),
                Some(by) => {
                    let weighed = |element: Bytes<'k>| (named(keyspace, by, &element, now), element);
                    let mut weighed: Vec<_> = elements.into_iter().map(weighed).collect();
                    weighed.sort_by(|(a, _), (b, _)| turned(a.cmp(b)));
                    elements = weighed.into_iter().map(|(_, element)| element).collect();
                }
            }
        } else {
            let mut weighed = Vec::with_capacity(elements.len());
            for element in elements {
                let weight = match by {
                    None => number(&element)?,
                    Some(by) => named(keyspace, by, &element, now).map_or(Ok(0.0), |weight| number(&weight))?,
                };
                weighed.push((weight, element));
            }
            weighed
                .sort_by(|(a, x), (b, y)| turned(a.partial_cmp(b).unwrap_or(Ordering::Equal).then_with(|| x.cmp(y))));
            elements = weighed.into_iter().map(|(_, element)| element).collect();
        }
    }
    let first = usize::try_from(options.first).unwrap_or(0).min(elements.len());
    let count = options.count.and_then(|count| usize::try_from(count).ok()).unwrap_or(elements.len());
    elements.truncate(first.saturating_add(count));
    elements.drain(..first);
    Ok(elements)
}

fn reply(keyspace: &Keyspace, call: &mut Call<'_>, elements: &[Bytes<'_>], get: &[&[u8]]) {
    call.out.array(elements.len() * get.len().max(1));
    for element in elements {
        if get.is_empty() {
            call.out.bulk(element);
        }
        for pattern in get {
            call.out.bulk_or_null(named(keyspace, pattern, element, call.now).as_deref());
        }
    }
}

fn sort_ro(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let options = options(call.args, false)?;
    let elements = sorted(keyspace, call.args[1], &options, call.now)?;
    reply(keyspace, call, &elements, &options.get);
    Ok(())
}

fn sort(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let options = options(call.args, true)?;
    let elements = sorted(keyspace, call.args[1], &options, call.now)?;
    let Some(target) = options.store else {
        reply(keyspace, call, &elements, &options.get);
        return Ok(());
    };
    let mut list = List::default();
    for element in &elements {
        if options.get.is_empty() {
            list.push(End::Right, element);
        }
        for pattern in &options.get {
            list.push(End::Right, &named(keyspace, pattern, element, call.now).unwrap_or_default());
        }
    }
    drop(elements);
    let len = list.len();
    if len > 0 {
        keyspace.put(target, list, 0, call.at());
        keyspace.notify(b'l', "sortstore", target);
    } else if keyspace.remove(target, call.at()) {
        keyspace.notify(b'g', "del", target);
    }
    call.out.count(len);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::table::execute::tests::Trial;

    #[test]
    fn elements_are_sorted_as_they_should() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("RPUSH l 3 1 2 10", "(integer) 4"),
            ("SORT l", r#"["1" "2" "3" "10"]"#),
            ("SORT l ALPHA DESC", r#"["3" "2" "10" "1"]"#),
            ("SORT l LIMIT 1 2", r#"["2" "3"]"#),
            ("SORT l LIMIT 10 2", "[]"),
            ("SORT l LIMIT x 2", "(error) ERR value is not an integer or out of range"),
            ("SORT l BY", "(error) ERR syntax error"),
            ("SET w_1 30", "OK"),
            ("SET w_2 20", "OK"),
            ("SET w_3 10", "OK"),
            ("HSET h_1 f a g 5", "(integer) 2"),
            ("HSET h_2 f b g 4", "(integer) 2"),
            (
                "SORT l BY w_* GET # GET w_* GET h_*->f GET fixed",
                r#"["10" (nil) (nil) (nil) "3" "10" (nil) (nil) "2" "20" "b" (nil) "1" "30" "a" (nil)]"#,
            ),
            ("SORT l BY h_*->f ALPHA DESC", r#"["2" "1" "3" "10"]"#),
            ("SORT l BY nosort DESC LIMIT 0 3", r#"["10" "2" "1"]"#),
            ("SORT l BY w_* STORE d", "(integer) 4"),
            ("LRANGE d 0 -1", r#"["10" "3" "2" "1"]"#),
            ("SORT l BY nosort GET h_*->f STORE d", "(integer) 4"),
            ("LRANGE d 0 -1", r#"["" "a" "b" ""]"#),
            ("SORT nope STORE d", "(integer) 0"),
            ("EXISTS d", "(integer) 0"),
            ("SADD s b c a", "(integer) 3"),
            ("SORT s", "(error) ERR One or more scores can't be converted into double"),
            ("RPUSH n \t7  -1 \n+10", "(integer) 4"),
            ("SORT n", r#"["-1" "" "\t7" "\n+10"]"#),
            ("RPUSH n 7\t", "(integer) 5"),
            ("SORT n", "(error) ERR One or more scores can't be converted into double"),
            ("SORT s ALPHA", r#"["a" "b" "c"]"#),
            ("SORT s BY nosort STORE d", "(integer) 3"),
            ("LRANGE d 0 -1", r#"["a" "b" "c"]"#),
            ("ZADD z 3 a 2 b 1 c", "(integer) 3"),
            ("SORT_RO z BY nosort", r#"["c" "b" "a"]"#),
            ("SORT_RO z ALPHA STORE d", "(error) ERR syntax error"),
            ("SORT w_1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
    }
}
