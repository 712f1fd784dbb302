//! Typed values: what clients do with them, and what must be true of what they hear.
//!
//! ```text
//!   collection "values"   k0, k1, ..   no deadline, one key a call: their history must be linearizable, too
//!                         t0, t1, ..   with deadlines that come, are put off and taken away
//!                         m0, m1, ..   several calls at once, under conditions on versions, and calls on two keys
//!                         h0, h1       hashes whose fields have deadlines
//!                         l0, l1, ..   leases, by which transactions and writes of records are fenced
//!                         r0, r1, ..   limiters
//!   collection "cache"    c0, c1, ..   less room than they need: some are evicted all the time
//! ```
//!
//! Whatever a member answers is what the plain model of the log's entries says at the same entry; so an evicted key is gone
//! everywhere at the same moment, and one that has expired is seen by nobody whose clock, or the log's, says so.

use loci_index::command::Command;
use loci_index::record::CollectionId;
use loci_index::table::execute::{self, Moment};
use loci_index::table::tape::Tape;
use loci_index::view::View;

use super::member::Seat;
use super::planted::Planted;
use super::world::World;
use super::{Checked, violation};
use crate::chance::Chance;
use crate::plain::{Kept, Loaded, Plain, Typed, When, in_order, key_place};

pub use super::draws::{Drawn, any_call, any_look, any_words, draw, draw_look};

/// The collection in which nothing is evicted.
pub const VALUES: u64 = 3;
/// The one with hardly any room.
pub const CACHE: u64 = 4;
/// What an empty table takes: more than this, and a few keys, is not to be had in the cache.
const EMPTY_BYTES: u64 = 32 << 10;

/// The words of one call.
pub type Words = Vec<Vec<u8>>;

/// What somebody saw of a key.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its collection.
    pub collection: u64,
    /// Its name.
    pub key: Vec<u8>,
    /// Its version; zero: it was not there.
    pub version: u64,
    /// Its number, if it is a lease that is held.
    pub lease: Option<u64>,
}

/// How much the cache may take, drawn for each run.
pub fn room(chance: &mut Chance) -> u64 {
    EMPTY_BYTES + 1_500 + chance.below(5_000)
}

/// The only call of a command, if its history must be linearizable.
pub fn only_call(command: &Command) -> Option<Words> {
    let Command::Execute(execution) = command else { return None };
    let (mut calls, mut args) = (loci_index::table::call::Unpacked::new(&execution.calls), Vec::new());
    calls.next_into(&mut args)?;
    let recorded = execution.collections == [VALUES] && is_recorded(args.get(key_place(&args))?);
    recorded.then(|| args.iter().map(|word| word.to_vec()).collect())
}

/// Whether a key is one of those whose history must be linearizable.
pub fn is_recorded(key: &[u8]) -> bool {
    key.first() == Some(&b'k')
}

impl World<'_> {
    /// What a member says of a key must be what the oracle says at the view's entry. The reply, and what is seen.
    pub(super) fn check_look(&mut self, seat: Seat, view: &View, id: u64, call: &Words) -> Checked<(Vec<u8>, Seen)> {
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
        let key = args[key_place(&args)];
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
        let oracle = &self.shards[seat.shard].oracle;
        let of_all = matches!(args[0], b"TAG.KEYS" | b"TAG.COUNT");
        let mut plain = if of_all { oracle.all_typed(id, index) } else { oracle.typed(id, key, index) };
        let mut expected = Tape::new();
        plain.call(&mut Loaded::new(), &args, When { now, version: index }, &mut expected);
        let (found, its_version) = (in_order(found.0.bytes()), found.1);
        let kept = plain.live(key, now);
        if found != in_order(expected.bytes()) || its_version != kept.map(|kept| kept.version) {
            return violation(format!(
                "member {me} at entry {index} says {:?} of {}, version {its_version:?}, not {:?}, {kept:?}",
                told(&found),
                shown(call),
                told(&in_order(expected.bytes()))
            ));
        }
        match kept {
            Some(kept) => {
                let fields = || kept.fields().into_iter().flatten().filter(|deadline| *deadline != 0);
                let shown = fields().chain([kept.deadline]).filter(|deadline| *deadline > now);
                if let Some(deadline) = shown.min().filter(|deadline| *deadline <= day) {
                    return violation(format!("member {me} shows a value that expired at {deadline}, at {day}"));
                }
                let gone = fields().filter(|deadline| *deadline <= now).max();
                if gone.is_some_and(|deadline| deadline > latest_day) {
                    return violation(format!("member {me} does not show a field that expires at {gone:?}, at {day}"));
                }
                for (what, happened) in [
                    ("typed values seen that will expire", kept.deadline != 0),
                    ("fields seen that will expire", fields().any(|deadline| deadline > now)),
                    ("fields seen to have expired", gone.is_some()),
                    ("tags seen", !kept.tags.is_empty()),
                ] {
                    if happened {
                        self.reached.mark(what);
                    }
                }
                self.reached.mark(seen_as(&kept.value));
            }
            None => {
                let gone = plain.keys().get(key).map(|kept| kept.went(now));
                if gone.is_some_and(|deadline| deadline > latest_day) {
                    return violation(format!("member {me} does not show a key that expires at {gone:?}, at {day}"));
                }
                if gone.is_some() {
                    self.reached.mark("typed values seen to have expired");
                }
            }
        }
        let (version, lease) = (its_version.unwrap_or(0), plain.held(key, now));
        Ok((found, Seen { collection: id, key: key.to_vec(), version, lease }))
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
                        if its != Some((kept.version, kept.deadline)) {
                            let key = String::from_utf8_lossy(key);
                            return violation(format!("at the end member {me} has {its:?} for {key}, not {kept:?}"));
                        }
                        for call in looks_at_all(key, kept) {
                            let args: Vec<&[u8]> = call.iter().map(Vec::as_slice).collect();
                            let (mut found, mut wanted) = (Tape::new(), Tape::new());
                            let spec = execute::find(&args).expect("they are there");
                            execute::read(keyspace, spec, &args, Moment { now, version: index, number: 0 }, &mut found);
                            let mut plain = Plain::of([((*key).clone(), (*kept).clone())].into());
                            plain.call(&mut Loaded::new(), &args, When { now, version: index }, &mut wanted);
                            if in_order(found.bytes()) != in_order(wanted.bytes()) {
                                let (call, found) = (shown(&call), told(found.bytes()));
                                return violation(format!(
                                    "at the end member {me} says {found} of {call}, not {kept:?}"
                                ));
                            }
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

/// The calls that show all of a value.
fn looks_at_all(key: &[u8], kept: &Kept) -> Vec<Words> {
    let words = |words: &[&[u8]]| -> Words { words.iter().map(|word| word.to_vec()).collect() };
    let mut looks = match &kept.value {
        Typed::Text(_) => vec![words(&[b"GET", key])],
        Typed::List(_) => vec![words(&[b"LRANGE", key, b"0", b"-1"])],
        Typed::Hash(hash) => {
            let count = hash.len().to_string();
            let mut ends = words(&[b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()]);
            ends.extend(hash.keys().cloned());
            vec![words(&[b"HGETALL", key]), ends]
        }
        Typed::Set(_) => vec![words(&[b"SMEMBERS", key])],
        Typed::Sorted(_) => vec![words(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"])],
        Typed::Stream(stream) => {
            let pending = |group: &Vec<u8>| words(&[b"XPENDING", key, group, b"-", b"+", b"1000000"]);
            let all = words(&[b"XRANGE", key, b"-", b"+"]);
            [all].into_iter().chain(stream.groups.keys().map(pending)).collect()
        }
        Typed::Lease(..) => vec![words(&[b"LEASE.GET", key])],
        Typed::Limiter(_) => vec![words(&[b"TYPE", key])],
    };
    looks.push(words(&[b"TAG.OF", key]));
    looks
}

/// What is counted when such a value is seen.
fn seen_as(value: &Typed) -> &'static str {
    match value {
        Typed::Text(_) => "strings seen",
        Typed::List(_) => "lists seen",
        Typed::Hash(_) => "hashes seen",
        Typed::Set(_) => "sets seen",
        Typed::Sorted(_) => "sorted sets seen",
        Typed::Stream(stream) if stream.groups.values().any(|group| !group.pending.is_empty()) => {
            "streams with something pending seen"
        }
        Typed::Stream(_) => "streams seen",
        Typed::Lease(..) => "leases seen",
        Typed::Limiter(_) => "limiters seen",
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
