//! Typed values: what clients do with them, and what must be true of what they hear.
//!
//! ```text
//!   collection "values"   k0, k1, ..   no deadline, one key a call: their history must be linearizable, too
//!                         t0, t1, ..   with deadlines that come, are put off and taken away
//!                         m0, m1, ..   several calls at once, under conditions on versions
//!   collection "cache"    c0, c1, ..   less room than they need: some are evicted all the time
//! ```
//!
//! Whatever a member answers is what the plain model of the log's entries says at the same entry; so an evicted key is gone
//! everywhere at the same moment, and one that has expired is seen by nobody whose clock, or the log's, says so.

use loci_index::command::{Command, Execution, Watched};
use loci_index::record::CollectionId;
use loci_index::table::call::Packed;
use loci_index::table::execute::{self, Moment};
use loci_index::table::script::sha1_hex;
use loci_index::table::tape::Tape;
use loci_index::view::View;

use super::member::Seat;
use super::planted::Planted;
use super::world::World;
use super::{Checked, violation};
use crate::chance::Chance;
use crate::plain::{Loaded, Plain, Script, Typed, When};

/// The collection in which nothing is evicted.
pub const VALUES: u64 = 3;
/// The one with hardly any room.
pub const CACHE: u64 = 4;
/// What an empty table takes: more than this, and a few keys, is not to be had in the cache.
const EMPTY_BYTES: u64 = 32 << 10;
/// On how many keys a cache's clients work.
const CACHED_KEYS: u64 = 24;
/// The longest value in the cache.
const CACHED_BYTES_MAX: u64 = 400;

/// The words of one call.
pub type Words = Vec<Vec<u8>>;

/// What somebody saw of a key: its collection, its name, and its version.
pub type Seen = (u64, Vec<u8>, u64);

/// How much the cache may take, drawn for each run.
pub fn room(chance: &mut Chance) -> u64 {
    EMPTY_BYTES + 1_500 + chance.below(5_000)
}

fn words(words: &[&[u8]]) -> Words {
    words.iter().map(|word| word.to_vec()).collect()
}

/// Any call on one of so many keys; `value` is a text that no other call has. Some set deadlines, if they may.
pub fn any_call(chance: &mut Chance, prefix: &str, keys: u64, value: &str, timed: bool) -> Words {
    let key = format!("{prefix}{}", chance.below(keys)).into_bytes();
    let text = format!("v{value}").into_bytes();
    let number = chance.below(100).to_string().into_bytes();
    let field = format!("f{}", chance.below(3)).into_bytes();
    let millis = (chance.below(4_000) + 1).to_string().into_bytes();
    let script = |script: Script, argument: &[u8]| words(&[b"EVAL", script.source().as_bytes(), b"1", &key, argument]);
    let known = |script: Script, argument: &[u8]| {
        words(&[b"EVALSHA", sha1_hex(script.source().as_bytes()).as_bytes(), b"1", &key, argument])
    };
    if timed && chance.percent(40) {
        return match chance.below(8) {
            0..=1 => words(&[b"SET", &key, &text, b"PX", &millis]),
            2 => words(&[b"SET", &key, &text, b"NX", b"PX", &millis]),
            3..=4 => words(&[b"PEXPIRE", &key, &millis]),
            5 => words(&[b"PERSIST", &key]),
            6 => words(&[b"PTTL", &key]),
            _ => known(Script::ALL[chance.index(3)], &number),
        };
    }
    match chance.below(32) {
        0..=3 => words(&[b"SET", &key, &text]),
        4..=6 => words(&[b"SET", &key, &number]),
        7..=8 => words(&[b"SET", &key, &text, b"NX"]),
        9 => words(&[b"SET", &key, &text, b"GET"]),
        10..=14 => words(&[b"INCR", &key]),
        15..=16 => words(&[b"APPEND", &key, &text]),
        17 => words(&[b"DEL", &key]),
        18 => words(&[b"GETDEL", &key]),
        19..=20 => words(&[b"LPUSH", &key, &text]),
        21..=22 => words(&[b"RPUSH", &key, &text, &number]),
        23 => words(&[b"LPOP", &key]),
        24 => words(&[b"RPOP", &key]),
        25..=26 => words(&[b"HSET", &key, &field, &text]),
        27 => words(&[b"HDEL", &key, &field]),
        28 => script(Script::CompareAndDelete, &text),
        29 => script(Script::CompareAndDelete, &number),
        30 => script(Script::Raise, &number),
        _ => script(Script::Push, &text),
    }
}

/// A call that only looks.
pub fn any_look(chance: &mut Chance, key: &[u8]) -> Words {
    let name: &[u8] = match chance.below(12) {
        0 => b"STRLEN",
        1 => b"TYPE",
        2 => b"EXISTS",
        3 => b"LLEN",
        4 => b"HLEN",
        5 => b"PTTL",
        6 => return words(&[b"LRANGE", key, b"0", b"-1"]),
        7 => return words(&[b"HGET", key, b"f0"]),
        _ => b"GET",
    };
    words(&[name, key])
}

fn cached_call(chance: &mut Chance, value: &str) -> Words {
    let key = format!("c{}", chance.below(CACHED_KEYS)).into_bytes();
    let long = vec![b'a' + chance.below(26) as u8; chance.below(CACHED_BYTES_MAX) as usize];
    let millis = (chance.below(3_000) + 1).to_string().into_bytes();
    match chance.below(20) {
        0..=8 => words(&[b"SET", &key, &long]),
        9..=11 => words(&[b"SET", &key, &long, b"PX", &millis]),
        12..=13 => words(&[b"APPEND", &key, &long]),
        14..=15 => words(&[b"RPUSH", &key, &long, value.as_bytes()]),
        16 => words(&[b"HSET", &key, value.as_bytes(), &long]),
        17 => words(&[b"DEL", &key]),
        18 if chance.percent(20) => words(&[b"FLUSHDB"]),
        _ => words(&[b"PEXPIRE", &key, &millis]),
    }
}

fn command(collections: Vec<u64>, calls: &[(u8, Words)], conditions: Vec<Watched>, atomic: bool) -> Command {
    let mut packed = Packed::new();
    for (database, call) in calls {
        packed.push(*database, call.iter().map(Vec::as_slice));
    }
    Command::Execute(Box::new(Execution { collections, conditions, calls: packed.into_bytes(), atomic }))
}

/// A write that a client draws. `seen` is a key whose version it knows.
pub fn draw(chance: &mut Chance, keys: u64, value: &str, seen: Option<&Seen>) -> Command {
    match chance.below(10) {
        0..=4 => command(vec![VALUES], &[(0, any_call(chance, "k", keys, value, false))], vec![], false),
        5..=6 => command(vec![VALUES], &[(0, any_call(chance, "t", keys, value, true))], vec![], false),
        7..=8 => command(vec![CACHE], &[(0, cached_call(chance, value))], vec![], false),
        _ => {
            let count = 1 + chance.below(4);
            let call = |number: u64, chance: &mut Chance| match chance.below(4) {
                0 => (1, cached_call(chance, value)),
                _ => (0, any_call(chance, "m", 3, &format!("{value}.{number}"), true)),
            };
            let calls: Vec<_> = (0..count).map(|number| call(number, chance)).collect();
            let watch = |(collection, key, version): &Seen| Watched {
                database: u8::from(*collection == CACHE),
                key: key.clone(),
                version: *version,
            };
            let conditions = seen.filter(|_| chance.percent(60)).map(watch);
            command(vec![VALUES, CACHE], &calls, conditions.into_iter().collect(), chance.percent(60))
        }
    }
}

/// A read that a client draws: its collection, its key, and the call.
pub fn draw_look(chance: &mut Chance, keys: u64) -> (u64, Words) {
    let (collection, key) = match chance.below(8) {
        0..=3 => (VALUES, format!("k{}", chance.below(keys))),
        4..=5 => (VALUES, format!("t{}", chance.below(keys))),
        6 => (VALUES, format!("m{}", chance.below(3))),
        _ => (CACHE, format!("c{}", chance.below(CACHED_KEYS))),
    };
    (collection, any_look(chance, key.as_bytes()))
}

/// The only call of a command, if its history must be linearizable.
pub fn only_call(command: &Command) -> Option<Words> {
    let Command::Execute(execution) = command else { return None };
    let (mut calls, mut args) = (loci_index::table::call::Unpacked::new(&execution.calls), Vec::new());
    calls.next_into(&mut args)?;
    let recorded = execution.collections == [VALUES] && is_recorded(args.get(1 + 2 * usize::from(args[0] == b"EVAL"))?);
    recorded.then(|| words(&args))
}

/// Whether a key is one of those whose history must be linearizable.
pub fn is_recorded(key: &[u8]) -> bool {
    key.first() == Some(&b'k')
}

impl World<'_> {
    /// What a member says of a key must be what the oracle says at the view's entry. The reply, and the key's version.
    pub(super) fn check_look(&mut self, seat: Seat, view: &View, id: u64, call: &Words) -> Checked<(Vec<u8>, u64)> {
        let (machine, index) = (&self.machines[seat.at], view.index());
        let (me, day, latest_day) = (machine.me, machine.day_millis(self.now), self.latest_day);
        let Some(handle) = machine.handle(seat.shard) else {
            return violation("an answer came from a machine that is down");
        };
        let now = handle.now(view);
        let asked_at = match self.run.planted {
            Some(Planted::ReadByOwnClock) => day,
            Some(Planted::ShowExpired) => 0,
            _ => now,
        };
        let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
        let key = args[1];
        let moment = Moment { now: asked_at, version: index, number: 0 };
        let mut found = (Tape::new(), None);
        if let Some(table) = view.collection_by_id(CollectionId(id)).and_then(|collection| collection.table().cloned())
        {
            let spec = execute::find(&args).expect("clients send what is there");
            table.read(|keyspace| {
                execute::read(keyspace, spec, &args, moment, &mut found.0);
                found.1 = keyspace.version(key, asked_at);
            });
        } else {
            Plain::default().call(&mut Loaded::new(), &args, When { now, version: index }, &mut found.0);
        }
        let mut plain = self.shards[seat.shard].oracle.typed(id, key, index);
        let mut expected = Tape::new();
        plain.call(&mut Loaded::new(), &args, When { now, version: index }, &mut expected);
        let kept = plain.live(key, now);
        if found.0 != expected || found.1 != kept.map(|kept| kept.version) {
            return violation(format!(
                "member {me} at entry {index} says {:?} of {}, version {:?}, not {:?}, {kept:?}",
                told(found.0.bytes()),
                shown(call),
                found.1,
                told(expected.bytes())
            ));
        }
        match kept {
            Some(kept) if kept.deadline != 0 && kept.deadline <= day => {
                return violation(format!("member {me} shows a key that expired at {}, at {day}", kept.deadline));
            }
            Some(kept) if kept.deadline != 0 => self.reached.mark("typed values seen that will expire"),
            Some(_) => {}
            None => {
                let gone = plain.keys().get(key).map(|kept| kept.deadline);
                if gone.is_some_and(|deadline| deadline > latest_day) {
                    return violation(format!("member {me} does not show a key that expires at {gone:?}, at {day}"));
                }
                if gone.is_some() {
                    self.reached.mark("typed values seen to have expired");
                }
            }
        }
        Ok((found.0.into_bytes(), found.1.unwrap_or(0)))
    }

    /// At the end: every key that a member has, the oracle has.
    pub(super) fn check_tables(&self, shard: usize, members: &[usize]) -> Checked {
        let oracle = &self.shards[shard].oracle;
        let index = oracle.applied();
        for machine in members.iter().map(|at| &self.machines[*at]) {
            let me = machine.me;
            let Some(handle) = machine.handle(shard) else { return violation(format!("member {me} is down")) };
            let view = handle.newest();
            let now = handle.now(&view);
            for id in [VALUES, CACHE] {
                let expected = oracle.all_typed(id, index);
                let expected: Vec<_> = expected.keys().iter().filter(|(_, kept)| kept.is_live(now)).collect();
                let mut keys: Vec<Vec<u8>> = Vec::new();
                let Some(table) = view.collection_by_id(CollectionId(id)).and_then(|found| found.table().cloned())
                else {
                    if expected.is_empty() {
                        continue;
                    }
                    return violation(format!("at the end member {me} has no table {id}"));
                };
                let checked = table.read(|keyspace| {
                    keys.extend(keyspace.keys().filter(|key| keyspace.contains(key, now)).map(<[u8]>::to_vec));
                    if keyspace.sum() != keyspace.sum_from_entries() {
                        return violation(format!(
                            "at the end member {me} has another sum than its keys in table {id}"
                        ));
                    }
                    for (key, kept) in &expected {
                        let its = keyspace.version(key, now).zip(keyspace.deadline(key, now));
                        let call = match &kept.value {
                            Typed::Text(_) => words(&[b"GET", key]),
                            Typed::List(_) => words(&[b"LRANGE", key, b"0", b"-1"]),
                            Typed::Hash(_) => words(&[b"HGET", key, b"f0"]),
                        };
                        let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
                        let (mut found, mut wanted) = (Tape::new(), Tape::new());
                        let spec = execute::find(&args).expect("they are there");
                        execute::read(keyspace, spec, &args, Moment { now, version: index, number: 0 }, &mut found);
                        let mut plain = Plain::of([((*key).clone(), (*kept).clone())].into());
                        plain.call(&mut Loaded::new(), &args, When { now, version: index }, &mut wanted);
                        if its != Some((kept.version, kept.deadline)) || found != wanted {
                            let (key, found) = (String::from_utf8_lossy(key), told(found.bytes()));
                            return violation(format!(
                                "at the end member {me} has {its:?} for {key}, {found}, not {kept:?}"
                            ));
                        }
                    }
                    Ok(())
                });
                checked?;
                keys.sort_unstable();
                if !keys.iter().eq(expected.iter().map(|(key, _)| *key)) {
                    return violation(format!("at the end member {me} has {} keys in table {id}", keys.len()));
                }
            }
        }
        Ok(())
    }
}

/// A call in words.
pub fn shown(call: &Words) -> String {
    let words: Vec<_> = call.iter().map(|word| String::from_utf8_lossy(&word[..word.len().min(40)])).collect();
    words.join(" ")
}

/// A reply in words.
pub fn told(tape: &[u8]) -> String {
    use loci_index::table::tape::{Item, Items};
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    let items = Items::new(tape).map(|item| match item {
        Item::Status(bytes) | Item::Error(bytes) => text(bytes),
        Item::Bulk(bytes) => format!("{:?}", text(bytes)),
        Item::Int(number) => number.to_string(),
        Item::Null => "nothing".into(),
        other => format!("{other:?}"),
    });
    items.collect::<Vec<_>>().join(" ")
}
