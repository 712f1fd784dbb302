//! What clients ask of typed values: calls of all kinds, drawn by chance.
//!
//! Most calls on a key are of the kind that the key's number stands for, in each run another, so that keys come to hold
//! something of every kind; the others find the wrong one.

use loci_index::command::{Command, Execution, Watched};
use loci_index::table::call::Packed;
use loci_index::table::script::sha1_hex;

use super::tables::{CACHE, Seen, VALUES, Words};
use crate::chance::Chance;
use crate::plain::Script;

/// On how many keys a cache's clients work.
const CACHED_KEYS: u64 = 24;
/// The longest value in the cache.
const CACHED_BYTES_MAX: u64 = 400;
/// Keys on which several calls are made at once, leases, limiters: of each so many.
const FEW: u64 = 3;

/// What a draw goes by.
#[derive(Debug, Clone)]
pub struct Drawn<'a> {
    /// How many keys there are.
    pub keys: u64,
    /// What chooses the kind that each key stands for.
    pub turn: u64,
    /// A text that no other call has.
    pub value: &'a str,
    /// A lease that somebody held lately, and its number.
    pub lease: Option<(Vec<u8>, u64)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    List,
    Hash,
    Set,
    Sorted,
    Stream,
}

use Kind::{Hash, List, Set, Sorted, Stream, Text};

const KINDS: [Kind; 8] = [Text, Stream, Hash, List, Sorted, Text, Set, Stream];

impl Drawn<'_> {
    /// The kind of a call on a key, by the digit at the key's end.
    fn kind(&self, chance: &mut Chance, key: &[u8]) -> Kind {
        let digit = u64::from(key.last().copied().unwrap_or_default());
        let number = if chance.percent(90) { digit.wrapping_add(self.turn) } else { chance.next_u64() };
        KINDS[(number % KINDS.len() as u64) as usize]
    }

    /// The lease that is known, or some other.
    fn lease(&self, chance: &mut Chance) -> (Vec<u8>, Vec<u8>) {
        match &self.lease {
            Some((name, number)) if chance.percent(90) => (name.clone(), number.to_string().into_bytes()),
            _ => (numbered("l", chance.below(FEW)), numbered("", chance.below(1_000))),
        }
    }
}

fn words(words: &[&[u8]]) -> Words {
    words.iter().map(|word| word.to_vec()).collect()
}

fn numbered(prefix: &str, number: u64) -> Vec<u8> {
    format!("{prefix}{number}").into_bytes()
}

fn tag(chance: &mut Chance) -> Vec<u8> {
    numbered("tag", chance.below(3))
}

/// Any call on one of the keys with that prefix. Some set deadlines, or depend on the time otherwise, if they may.
pub fn any_call(chance: &mut Chance, prefix: &str, drawn: &Drawn<'_>, timed: bool) -> Words {
    let key = numbered(prefix, chance.below(drawn.keys));
    if chance.percent(4) {
        return words(&[b"DEL", &key]);
    }
    if timed && chance.percent(25) {
        return timed_call(chance, &key, drawn);
    }
    match drawn.kind(chance, &key) {
        Text => text_call(chance, &key, drawn.value),
        List => list_call(chance, &key, drawn.value),
        Hash => hash_call(chance, &key, drawn.value, timed),
        Set => set_call(chance, &key, drawn.value),
        Sorted => sorted_call(chance, &key),
        Stream => stream_call(chance, &key, drawn.value, timed),
    }
}

/// A call that is about a key's deadline or its tags, whatever its value is.
fn timed_call(chance: &mut Chance, key: &[u8], drawn: &Drawn<'_>) -> Words {
    let text = format!("v{}", drawn.value).into_bytes();
    let millis = numbered("", chance.below(4_000) + 1);
    let (one, other) = (tag(chance), tag(chance));
    match chance.below(14) {
        0..=1 => words(&[b"SET", key, &text, b"PX", &millis]),
        2 => words(&[b"SET", key, &text, b"NX", b"PX", &millis]),
        3..=4 => words(&[b"PEXPIRE", key, &millis]),
        5 => words(&[b"PERSIST", key]),
        6..=7 => {
            let script = Script::ALL[chance.index(Script::ALL.len())];
            words(&[b"EVALSHA", sha1_hex(script.source().as_bytes()).as_bytes(), b"1", key, &numbered("", 7)])
        }
        8 => words(&[b"SET", key, &text, b"PX", &millis, b"TAGS", b"2", &one, &other]),
        9..=10 => words(&[b"TAG.SET", key, &one, &other]),
        11 => words(&[b"TAG.ADD", key, &one]),
        12 => words(&[b"TAG.REM", key, &one]),
        _ if chance.percent(50) => words(&[b"TAG.DROP", &one]),
        _ => words(&[b"TAG.SET", key]),
    }
}

fn text_call(chance: &mut Chance, key: &[u8], value: &str) -> Words {
    let (text, number) = (format!("v{value}").into_bytes(), numbered("", chance.below(100)));
    let script = |script: Script, argument: &[u8]| words(&[b"EVAL", script.source().as_bytes(), b"1", key, argument]);
    match chance.below(23) {
        0..=3 => words(&[b"SET", key, &text]),
        4..=6 => words(&[b"SET", key, &number]),
        7..=8 => words(&[b"SET", key, &text, b"NX"]),
        9 => words(&[b"SET", key, &text, b"GET"]),
        10..=14 => words(&[b"INCR", key]),
        15..=16 => words(&[b"APPEND", key, &text]),
        17 => words(&[b"GETDEL", key]),
        18 => script(Script::CompareAndDelete, &text),
        19 => script(Script::CompareAndDelete, &number),
        20..=21 => script(Script::Raise, &number),
        _ => script(Script::Push, &text),
    }
}

fn list_call(chance: &mut Chance, key: &[u8], value: &str) -> Words {
    let (text, number) = (format!("v{value}").into_bytes(), numbered("", chance.below(100)));
    match chance.below(7) {
        0..=1 => words(&[b"LPUSH", key, &text]),
        2..=3 => words(&[b"RPUSH", key, &text, &number]),
        4 => words(&[b"LPOP", key]),
        5 => words(&[b"RPOP", key]),
        _ => words(&[b"EVAL", Script::Push.source().as_bytes(), b"1", key, &text]),
    }
}

fn hash_call(chance: &mut Chance, key: &[u8], value: &str, timed: bool) -> Words {
    let (text, field, other) = (format!("v{value}").into_bytes(), chance.below(3), chance.below(2));
    let (field, other) = (numbered("f", field), numbered("f", (field + 1 + other) % 3));
    let (millis, small) = (numbered("", chance.below(3_000) + 1), numbered("", chance.below(100)));
    if timed && chance.percent(60) {
        let condition: &[u8] = [b"NX", b"XX", b"GT", b"LT"][chance.index(4)];
        return match chance.below(10) {
            0..=2 => words(&[b"HPEXPIRE", key, &millis, b"FIELDS", b"2", &field, &other]),
            3..=4 => words(&[b"HPEXPIRE", key, &millis, condition, b"FIELDS", b"2", &field, &other]),
            5 => words(&[b"HPEXPIRE", key, b"0", b"FIELDS", b"1", &field]),
            6 => words(&[b"HPERSIST", key, b"FIELDS", b"2", &field, &other]),
            7 => words(&[b"HGETEX", key, b"PX", &millis, b"FIELDS", b"2", &field, &other]),
            _ => {
                let condition: &[u8] = if chance.percent(70) { b"FNX" } else { b"FXX" };
                words(&[b"HSETEX", key, condition, b"PX", &millis, b"FIELDS", b"2", &field, &text, &other, &small])
            }
        };
    }
    match chance.below(8) {
        0..=2 => words(&[b"HSET", key, &field, &text]),
        3 => words(&[b"HSET", key, &field, &small]),
        4 => words(&[b"HDEL", key, &field]),
        5..=6 => words(&[b"HINCRBY", key, &field, &small]),
        _ => words(&[b"HGETDEL", key, b"FIELDS", b"2", &field, &other]),
    }
}

/// A call on a hash whose fields end one by one.
fn call_on_fields(chance: &mut Chance, value: &str) -> Words {
    let key = numbered("h", chance.below(2));
    if chance.percent(5) { words(&[b"DEL", &key]) } else { hash_call(chance, &key, value, true) }
}

fn set_call(chance: &mut Chance, key: &[u8], value: &str) -> Words {
    let (text, member, other) = (format!("v{value}").into_bytes(), chance.below(12), chance.below(12));
    // Numbers and words are kept in other ways.
    let member = numbered(if member % 4 == 0 { "w" } else { "" }, member);
    match chance.below(8) {
        0..=2 => words(&[b"SADD", key, &member, &numbered("", other)]),
        3 => words(&[b"EVAL", Script::Collect.source().as_bytes(), b"1", key, &member]),
        4 => words(&[b"SADD", key, &text]),
        _ => words(&[b"SREM", key, &member, &numbered("", other)]),
    }
}

fn sorted_call(chance: &mut Chance, key: &[u8]) -> Words {
    let (member, other) = (numbered("m", chance.below(8)), numbered("m", chance.below(8)));
    let mut score = || (chance.below(40) as i64 - 10).to_string().into_bytes();
    let (score, more) = (score(), score());
    let condition: &[u8] = [&b"NX"[..], b"XX", b"GT", b"LT"][chance.index(4)];
    match chance.below(16) {
        0..=3 => words(&[b"ZADD", key, &score, &member, &more, &other]),
        4..=5 => words(&[b"ZADD", key, condition, b"CH", &score, &member, &more, &other]),
        6 => words(&[b"ZADD", key, condition, b"INCR", &score, &member]),
        7..=9 => words(&[b"ZINCRBY", key, &score, &member]),
        10..=11 => words(&[b"ZREM", key, &member, &other]),
        12 => words(&[b"ZPOPMIN", key]),
        13 => words(&[b"ZPOPMAX", key, b"2"]),
        14 => words(&[b"ZREMRANGEBYSCORE", key, &score, b"(20"]),
        _ => words(&[b"ZREMRANGEBYSCORE", key, b"-inf", b"0"]),
    }
}

fn stream_call(chance: &mut Chance, key: &[u8], value: &str, timed: bool) -> Words {
    // Nearly always the same group, or hardly any would be there.
    let group = numbered("g", u64::from(chance.percent(15)));
    let consumer = numbered("c", chance.below(2));
    let some = |chance: &mut Chance| format!("9-{}", chance.below(8)).into_bytes();
    let (one, other) = (some(chance), some(chance));
    let idle = numbered("", if timed { chance.below(2_000) } else { 0 });
    match chance.below(24) {
        0..=8 => {
            let id = match chance.below(8) {
                0..=3 if timed => b"*".to_vec(),
                0..=5 => b"9-*".to_vec(),
                6 => numbered("", 5 + chance.below(5)),
                _ => one,
            };
            let last = numbered("", 1 + chance.below(8));
            match chance.percent(50) {
                true => words(&[b"XADD", key, &id, b"f", value.as_bytes()]),
                false => words(&[b"XADD", key, b"MAXLEN", &last, &id, b"f", value.as_bytes(), b"g", b"w"]),
            }
        }
        9 => words(&[b"XDEL", key, &one, &other]),
        10 if chance.percent(50) => words(&[b"XTRIM", key, b"MAXLEN", b"3"]),
        10 => words(&[b"XTRIM", key, b"MINID", &one]),
        11..=13 if chance.percent(85) => {
            let from: &[u8] = if chance.percent(70) { b"0" } else { b"$" };
            let make = chance.percent(80);
            let all: [&[u8]; 6] = [b"XGROUP", b"CREATE", key, &group, from, b"MKSTREAM"];
            words(&all[..if make { 6 } else { 5 }])
        }
        13 if chance.percent(40) => words(&[b"XGROUP", b"DESTROY", key, &group]),
        13 => words(&[b"XGROUP", b"DELCONSUMER", key, &group, &consumer]),
        14..=17 => words(&[b"XREADGROUP", b"GROUP", &group, &consumer, b"COUNT", b"2", b"STREAMS", key, b">"]),
        18 => words(&[b"XREADGROUP", b"GROUP", &group, &consumer, b"STREAMS", key, b">"]),
        19 => words(&[b"XREADGROUP", b"GROUP", &group, &consumer, b"STREAMS", key, b"0"]),
        20..=21 => words(&[b"XACK", key, &group, &one, &other]),
        22 => words(&[b"XCLAIM", key, &group, &consumer, &idle, &one, &other]),
        _ => words(&[b"XAUTOCLAIM", key, &group, &consumer, &idle, b"0", b"COUNT", b"2"]),
    }
}

/// A call on two keys.
fn call_on_two(chance: &mut Chance) -> Words {
    let mut key = || numbered("m", chance.below(FEW));
    let (one, two, three) = (key(), key(), key());
    match chance.below(9) {
        0..=1 => words(&[b"RENAME", &one, &two]),
        2..=3 if one != two => words(&[b"COPY", &one, &two]),
        4 => words(&[b"SMOVE", &one, &two, &numbered("", chance.below(12))]),
        5 => words(&[b"SUNIONSTORE", &one, &two, &three]),
        6 => words(&[b"SINTERSTORE", &one, &two, &three]),
        7 => words(&[b"SDIFFSTORE", &one, &two, &three]),
        _ => words(&[b"ZUNIONSTORE", &one, b"2", &two, &three]),
    }
}

/// A call on a lease or a limiter.
fn native_call(chance: &mut Chance, drawn: &Drawn<'_>) -> Words {
    let (lease, holder) = (numbered("l", chance.below(FEW)), numbered("holder", chance.below(3)));
    let (millis, number) = (numbered("", 200 + chance.below(3_000)), chance.below(FEW));
    let (limiter, cost) = (numbered("r", number), numbered("", chance.below(4)));
    let asks_bucket = if number == 2 || chance.percent(10) { chance.percent(50) } else { number == 0 };
    match chance.below(20) {
        0..=5 => words(&[b"LEASE.ACQUIRE", &lease, &holder, &millis]),
        6..=8 => {
            let (name, number) = drawn.lease(chance);
            words(&[b"LEASE.RENEW", &name, &number, &millis])
        }
        9..=10 => {
            let (name, number) = drawn.lease(chance);
            words(&[b"LEASE.RELEASE", &name, &number])
        }
        11 => words(&[b"DEL", &lease]),
        12 => words(&[b"PEXPIRE", &lease, &millis]),
        13 if chance.percent(50) => words(&[b"COPY", &lease, &numbered("l", FEW)]),
        13 => words(&[b"RENAME", &numbered("l", FEW), &lease]),
        14 if chance.percent(50) => words(&[b"DEL", &limiter]),
        14 => words(&[b"TAG.SET", &limiter, &tag(chance)]),
        _ if asks_bucket => words(&[b"RL.BUCKET", &limiter, b"5", &numbered("", 1 + chance.below(4)), &cost]),
        _ => words(&[b"RL.WINDOW", &limiter, b"5", &numbered("", 500 + 500 * chance.below(4)), &cost]),
    }
}

fn cached_call(chance: &mut Chance, value: &str) -> Words {
    let key = numbered("c", chance.below(CACHED_KEYS));
    let long = vec![b'a' + chance.below(26) as u8; chance.below(CACHED_BYTES_MAX) as usize];
    let millis = numbered("", chance.below(3_000) + 1);
    let (tag, field) = (tag(chance), numbered("f", chance.below(3)));
    match chance.below(26) {
        0..=7 => words(&[b"SET", &key, &long]),
        8..=10 => words(&[b"SET", &key, &long, b"PX", &millis]),
        11..=12 => words(&[b"APPEND", &key, &long]),
        13..=14 => words(&[b"RPUSH", &key, &long, value.as_bytes()]),
        15 => words(&[b"HSET", &key, &field, &long]),
        16 => words(&[b"DEL", &key]),
        17 if chance.percent(20) => words(&[b"FLUSHDB"]),
        17 => words(&[b"HPEXPIRE", &key, &millis, b"FIELDS", b"1", &field]),
        18 => words(&[b"SADD", &key, &long, value.as_bytes()]),
        19 => words(&[b"ZADD", &key, b"1", &long, b"2", value.as_bytes()]),
        20 => words(&[b"XADD", &key, b"MAXLEN", b"4", b"*", b"f", &long]),
        21 => words(&[b"SET", &key, &long, b"TAGS", b"1", &tag]),
        22 => words(&[b"TAG.ADD", &key, &tag]),
        23 if chance.percent(30) => words(&[b"TAG.DROP", &tag]),
        24 => words(&[b"LEASE.ACQUIRE", &key, &numbered("holder", chance.below(2)), &millis]),
        _ => words(&[b"PEXPIRE", &key, &millis]),
    }
}

/// A call that demands something of a lease or a version, which may not be so.
fn guard(chance: &mut Chance, drawn: &Drawn<'_>, seen: Option<&Seen>) -> Option<Words> {
    match seen {
        Some(seen) if seen.collection == VALUES && chance.percent(30) => {
            Some(words(&[b"VERSION.IF", &seen.key, &numbered("", seen.version)]))
        }
        _ => {
            let (name, number) = drawn.lease(chance);
            chance.percent(50).then(|| words(&[b"LEASE.FENCE", &name, &number]))
        }
    }
}

/// Any call of those that clients draw.
pub fn any_words(chance: &mut Chance, drawn: &Drawn<'_>) -> Words {
    match chance.below(12) {
        0..=3 => any_call(chance, "k", drawn, false),
        4..=6 => any_call(chance, "t", drawn, true),
        7..=8 => native_call(chance, drawn),
        9 if chance.percent(50) => cached_call(chance, drawn.value),
        9 => call_on_fields(chance, drawn.value),
        10 => call_on_two(chance),
        _ => any_call(chance, "m", &Drawn { keys: FEW, ..drawn.clone() }, true),
    }
}

/// A call that only looks.
pub fn any_look(chance: &mut Chance, key: &[u8], drawn: &Drawn<'_>) -> Words {
    if chance.percent(15) {
        let name: &[u8] = [&b"TYPE"[..], b"EXISTS", b"PTTL", b"TAG.OF"][chance.index(4)];
        return words(&[name, key]);
    }
    if key.starts_with(b"l") {
        let (name, number) = drawn.lease(chance);
        return match chance.percent(75) {
            true => words(&[b"LEASE.GET", key]),
            false => words(&[b"LEASE.FENCE", &name, &number]),
        };
    }
    let timed = !key.starts_with(b"k");
    let kind = if key.starts_with(b"h") { Hash } else { drawn.kind(chance, key) };
    let looks: &[&[&[u8]]] = match kind {
        Text => &[&[b"GET", b"."], &[b"GET", b"."], &[b"GET", b"."], &[b"STRLEN", b"."]],
        List => &[&[b"LLEN", b"."], &[b"LRANGE", b".", b"0", b"-1"]],
        Hash => &[
            &[b"HLEN", b"."],
            &[b"HGET", b".", b"f0"],
            &[b"HGETALL", b"."],
            &[b"HPTTL", b".", b"FIELDS", b"2", b"f0", b"f1"],
            &[b"HPEXPIRETIME", b".", b"FIELDS", b"1", b"f2"],
        ],
        Set => &[&[b"SCARD", b"."], &[b"SISMEMBER", b".", b"5"], &[b"SMEMBERS", b"."]],
        Sorted => &[
            &[b"ZCARD", b"."],
            &[b"ZSCORE", b".", b"m1"],
            &[b"ZRANK", b".", b"m2"],
            &[b"ZCOUNT", b".", b"(0", b"12"],
            &[b"ZRANGE", b".", b"0", b"-1", b"WITHSCORES"],
        ],
        Stream if timed && chance.percent(40) => &[&[b"XPENDING", b".", b"g0", b"-", b"+", b"1000"]],
        Stream => &[
            &[b"XLEN", b"."],
            &[b"XRANGE", b".", b"-", b"+"],
            &[b"XREAD", b"STREAMS", b".", b"9-2"],
            &[b"XPENDING", b".", b"g0"],
        ],
    };
    let look = looks[chance.index(looks.len())];
    look.iter().map(|word| if *word == b"." { key.to_vec() } else { word.to_vec() }).collect()
}

/// A read that a client draws: its collection, and the call.
pub fn draw_look(chance: &mut Chance, drawn: &Drawn<'_>) -> (u64, Words) {
    let (collection, key) = match chance.below(20) {
        0..=7 => (VALUES, numbered("k", chance.below(drawn.keys))),
        8 => (VALUES, numbered("h", chance.below(2))),
        9..=11 => (VALUES, numbered("t", chance.below(drawn.keys))),
        12..=13 => (VALUES, numbered("m", chance.below(FEW))),
        14..=15 => (VALUES, numbered("l", chance.below(FEW))),
        16 => (VALUES, numbered("r", chance.below(FEW))),
        17 => {
            let name: &[u8] = if chance.percent(70) { b"TAG.KEYS" } else { b"TAG.COUNT" };
            let collection = if chance.percent(70) { VALUES } else { CACHE };
            return (collection, words(&[name, &tag(chance), &tag(chance)]));
        }
        _ => (CACHE, numbered("c", chance.below(CACHED_KEYS))),
    };
    (collection, any_look(chance, &key, drawn))
}

fn command(collections: Vec<u64>, calls: &[(u8, Words)], conditions: Vec<Watched>, atomic: bool) -> Command {
    let mut packed = Packed::new();
    for (database, call) in calls {
        packed.push(*database, call.iter().map(Vec::as_slice));
    }
    Command::Execute(Box::new(Execution { collections, conditions, calls: packed.into_bytes(), atomic }))
}

/// A write that a client draws. `seen` is a key whose version it knows.
pub fn draw(chance: &mut Chance, drawn: &Drawn<'_>, seen: Option<&Seen>) -> Command {
    let alone = |collection, call| command(vec![collection], &[(0, call)], vec![], false);
    match chance.below(20) {
        0..=7 => alone(VALUES, any_call(chance, "k", drawn, false)),
        8..=10 => alone(VALUES, any_call(chance, "t", drawn, true)),
        11 => alone(VALUES, call_on_fields(chance, drawn.value)),
        12..=15 => alone(CACHE, cached_call(chance, drawn.value)),
        16..=17 => alone(VALUES, native_call(chance, drawn)),
        _ => {
            let mut calls: Vec<(u8, Words)> = Vec::new();
            for number in 0..1 + chance.below(4) {
                let value = format!("{}.{number}", drawn.value);
                let drawn = Drawn { keys: FEW, value: &value, ..drawn.clone() };
                calls.push(match chance.below(12) {
                    0..=2 => (1, cached_call(chance, &value)),
                    3..=4 => (0, call_on_two(chance)),
                    5 => (0, native_call(chance, &drawn)),
                    _ => (0, any_call(chance, "m", &drawn, true)),
                });
            }
            if chance.percent(30)
                && let Some(guard) = guard(chance, drawn, seen)
            {
                calls.insert(chance.index(calls.len() + 1), (0, guard));
            }
            let watch = |seen: &Seen| Watched {
                database: u8::from(seen.collection == CACHE),
                key: seen.key.clone(),
                version: seen.version,
            };
            let conditions = seen.filter(|_| chance.percent(40)).map(watch);
            command(vec![VALUES, CACHE], &calls, conditions.into_iter().collect(), chance.percent(60))
        }
    }
}
