//! Versions of typed values and leases in the store: what is written under a condition, against a model that says what may be.

use super::*;
use crate::command::{Execution, Found, Reclaim, Refusal, Unmet};
use crate::record::{CollectionId, Position};
use crate::table::call::Packed;
use crate::table::tape::{Item, Items};

fn calls(collection: u64, calls: &[&str], atomic: bool) -> Command {
    let mut packed = Packed::new();
    for line in calls {
        packed.push(0, line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter());
    }
    let execution =
        Execution { collections: vec![collection], calls: packed.into_bytes(), atomic, ..Execution::default() };
    Command::Execute(execution.into())
}

fn items(outcome: &Outcome) -> Vec<Item<'_>> {
    let Outcome::Executed(Some(tape)) = outcome else { panic!("{outcome:?}") };
    Items::new(tape).collect()
}

fn number(outcome: &Outcome) -> Option<u64> {
    match items(outcome)[..] {
        [Item::Int(number)] => Some(number as u64),
        [Item::Null] => None,
        ref other => panic!("{other:?}"),
    }
}

fn version(shard: &Shard, collection: u64, key: &str) -> u64 {
    let view = shard.store.view();
    let table = view.collection_by_id(CollectionId(collection)).unwrap().table().unwrap().clone();
    table.read(|keyspace| keyspace.version(key.as_bytes(), 0)).unwrap_or(0)
}

#[test]
fn what_two_calls_of_one_entry_leave_has_two_versions() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    let mut seen = Vec::new();
    let set = |atomic| envelope(calls(c, &["SET k 1", "VERSION.OF k", "DEL k", "SET k 1", "VERSION.OF k"], atomic));
    for outcome in shard.entry(5, vec![set(false), set(true), set(false)]) {
        let ints = items(&outcome).into_iter().filter_map(|item| match item {
            Item::Int(number) if number > 1 => Some(number),
            _ => None,
        });
        seen.extend(ints);
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    assert_eq!(version(&shard, c, "k"), *seen.last().unwrap() as u64);
}

#[test]
fn a_guard_stops_a_transaction_before_anything_is_done() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    shard.command(calls(c, &["SET a 1"], false));
    let a = version(&shard, c, "a");
    let lease = number(&shard.command(calls(c, &["LEASE.ACQUIRE l me 100000"], false))).unwrap();
    let refused = |number, unmet| Outcome::Refused(Refusal::Unmet { number, unmet });
    let value = |expected| Unmet::Value { key: b"a".into(), expected, found: a };
    let outcome = shard.command(calls(c, &["SET b 1", &format!("VERSION.IF a {}", a + 1)], true));
    assert_eq!(outcome, refused(1, value(a + 1)));
    let outcome = shard.command(calls(c, &["SET b 1", "LEASE.FENCE l 7"], true));
    assert_eq!(outcome, refused(1, Unmet::Lease { name: b"l".into(), given: 7, held: lease }));
    for unclear in ["LEASE.FENCE l", "LEASE.FENCE l x", "version.if a -1", "VERSION.IF"] {
        let outcome = shard.command(calls(c, &["SET b 1", unclear], true));
        assert!(matches!(outcome, Outcome::Refused(Refusal::Unmet { number: 1, unmet: Unmet::Unclear { .. } })));
    }
    assert_eq!(version(&shard, c, "b"), 0);
    // The state before counts, not what the transaction itself does.
    let all = [&*format!("VERSION.IF a {a} b 0"), "SET a 2", &format!("LEASE.FENCE l {lease}"), "SET b 1"];
    let outcome = shard.command(calls(c, &all, true));
    let ok = Item::Status(b"OK");
    assert_eq!(items(&outcome), [ok, ok, ok, ok]);
    // Alone they only answer.
    let outcome = shard.command(calls(c, &["LEASE.FENCE l 7", "SET b 2"], false));
    assert!(matches!(items(&outcome)[..], [Item::Error(_), Item::Status(_)]));
}

#[test]
fn records_are_written_on_conditions_about_typed_values_and_leases() {
    let mut shard = Shard::new(small());
    let (c, other) = (shard.collection("c", 0), shard.collection("d", 0));
    let on = |collection, key, expect| write_if(vec![condition(collection, key, expect)], vec![put(c, "r", "1")]);
    // A collection without typed values has none of any version.
    assert!(matches!(shard.command(on(other, "k", Expect::Value(0))), Outcome::Written { .. }));
    let unmet = |outcome| match outcome {
        Outcome::Refused(Refusal::Unmet { number: 0, unmet }) => unmet,
        other => panic!("{other:?}"),
    };
    let lease = |given, held| Unmet::Lease { name: b"l".into(), given, held };
    assert_eq!(unmet(shard.command(on(other, "l", Expect::Lease(0)))), lease(0, 0));
    shard.command(calls(c, &["SET k 1"], false));
    let found = version(&shard, c, "k");
    assert!(matches!(shard.command(on(c, "k", Expect::Value(found))), Outcome::Written { .. }));
    let value = |expected| Unmet::Value { key: b"k".into(), expected, found };
    assert_eq!(unmet(shard.command(on(c, "k", Expect::Value(found + 1)))), value(found + 1));
    assert_eq!(unmet(shard.command(on(c, "k", Expect::Value(0)))), value(0));
    let first = number(&shard.command(calls(c, &["LEASE.ACQUIRE l me 100"], false))).unwrap();
    assert!(matches!(shard.command(on(c, "l", Expect::Lease(first))), Outcome::Written { .. }));
    assert_eq!(unmet(shard.command(on(c, "l", Expect::Lease(first - 1)))), lease(first - 1, first));
    shard.entry(1_000, vec![]);
    assert_eq!(unmet(shard.command(on(c, "l", Expect::Lease(first)))), lease(first, 0));
    assert_eq!(shard.store.digest(), shard.store.digest_from_records());
    // A record's own conditions say what they said before.
    let outcome = shard.command(on(c, "r", Expect::Absent));
    assert!(
        matches!(outcome, Outcome::Refused(Refusal::ConditionFailed { found: Found::Version(_), .. })),
        "{outcome:?}"
    );
    shard.restart();
}

#[test]
fn what_became_a_lease_after_it_was_chosen_to_make_room_stays() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    shard.command(calls(c, &["SET l 1", "SET other 1"], false));
    let chosen = Reclaim { collection: c, keys: vec![b"l".to_vec(), b"other".to_vec()], evicted: true };
    let lease = shard.command(calls(c, &["DEL l"], false));
    assert_eq!(number(&lease), Some(1));
    let lease = number(&shard.command(calls(c, &["LEASE.ACQUIRE l me 100000"], false))).unwrap();
    shard.command(Command::Reclaim(chosen.into()));
    assert_eq!((version(&shard, c, "l"), version(&shard, c, "other")), (lease, 0));
}

/// What there is to know of the leases of one name.
#[derive(Default)]
struct Model {
    /// The last number that was given, whoever holds it now.
    last: u64,
    /// Who holds it, and until when.
    held: Option<(u64, u64)>,
    /// The largest number under which something was written.
    written: u64,
}

impl Model {
    fn held(&self, now: u64) -> Option<u64> {
        self.held.filter(|(_, until)| *until > now).map(|(holder, _)| holder)
    }
}

/// Holders that pause for longer than their lease lasts and go on as if nothing had been.
fn two_holders_are_never_both_believed(seed: u64) {
    let mut random = Random::new(seed);
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    let mut models: [Model; 2] = Default::default();
    // What each of three workers believes to hold, by lease.
    let mut beliefs = [[0u64; 3]; 2];
    let mut clock = 1_000;
    for step in 0..300 {
        // Mostly a moment, now and then a long pause.
        clock += if random.chance(10) { random.below(2_000) } else { random.below(40) };
        let (which, worker) = (random.below(2) as usize, random.below(3));
        let (name, model, belief) = (["l", "m"][which], &mut models[which], beliefs[which][worker as usize]);
        let held = model.held(clock);
        let is_mine = held.is_some() && belief == model.last;
        let ttl = 1 + random.below(300);
        let mut entry = |command| shard.entry(clock, vec![envelope(command)]).remove(0);
        match random.below(12) {
            0..3 => {
                let line = format!("LEASE.ACQUIRE {name} w{worker} {ttl}");
                let given = number(&entry(calls(c, &[&line], random.chance(50))));
                let may = held.is_none_or(|holder| holder == worker);
                assert_eq!(given.is_some(), may, "seed {seed} step {step}");
                if let Some(given) = given {
                    assert!(given > model.last, "seed {seed} step {step}: {given} after {}", model.last);
                    (model.last, model.held) = (given, Some((worker, clock + ttl)));
                    beliefs[which][worker as usize] = given;
                }
            }
            3 | 4 => {
                let renewed = number(&entry(calls(c, &[&format!("LEASE.RENEW {name} {belief} {ttl}")], false)));
                assert_eq!(renewed == Some(1), is_mine, "seed {seed} step {step}");
                if is_mine {
                    model.held = model.held.map(|(holder, _)| (holder, clock + ttl));
                }
            }
            5 => {
                let released = number(&entry(calls(c, &[&format!("LEASE.RELEASE {name} {belief}")], false)));
                assert_eq!(released == Some(1), is_mine, "seed {seed} step {step}");
                if is_mine {
                    model.held = None;
                }
            }
            6 => {
                let line = ["DEL l m", "FLUSHDB", "UNLINK m l"][random.below(3) as usize];
                entry(calls(c, &[line], false));
                models.iter_mut().for_each(|model| model.held = None);
            }
            7 if random.chance(50) => drop(shard.checkpoint()),
            7 if random.chance(50) => shard.restart(),
            what => {
                let command = match what % 2 {
                    0 => write_if(vec![condition(c, name, Expect::Lease(belief))], vec![put(c, "r", "1")]),
                    _ => calls(c, &[&format!("LEASE.FENCE {name} {belief}"), "INCR n"], true),
                };
                let outcome = entry(command);
                let done = !matches!(outcome, Outcome::Refused(_));
                assert_eq!(done, is_mine, "seed {seed} step {step}: {outcome:?}");
                if done {
                    assert!(belief >= model.written, "seed {seed} step {step}: an older holder wrote after a newer");
                    model.written = belief;
                }
            }
        }
        if random.chance(20) {
            let reclaims = shard.store.reclaims(clock, &Default::default());
            shard.entry(clock, reclaims.into_iter().map(envelope).collect());
        }
    }
    assert_eq!(shard.store.digest(), shard.store.digest_from_records(), "seed {seed}");
    shard.restart();
    assert!(Position::new(1, 0).get() < models[0].last.max(models[1].last));
}

#[test]
fn two_holders_with_pauses_longer_than_a_lease_are_never_both_believed() {
    for seed in 0..200 {
        two_holders_are_never_both_believed(seed);
    }
}
