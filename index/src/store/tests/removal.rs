//! Removal by filter: exactly what the filter takes when the command takes effect is gone, whatever jobs ran before.

use std::collections::BTreeMap;

use super::*;
use crate::attributes::{Attributes, Value, encode};
use crate::command::{IndexKind, IndexSpec, Refusal, Removal};
use crate::effects::{EntryEffects, Fate};
use crate::filter::{Filter, Limit, Range};
use crate::record::CollectionId;
use crate::table::Listening;
use crate::table::call::Chance;

fn content(chance: &mut Chance, clock: u64) -> (Attributes, Content) {
    let tags = (0..chance.below(3)).map(|_| Value::String(format!("t{}", chance.below(4)))).collect();
    let attributes =
        Attributes::from([("tags".into(), Value::List(tags)), ("n".into(), Value::Int(chance.below(6) as i64))]);
    let mut content = value("v");
    content.attributes = encode(&attributes).unwrap();
    if chance.below(5) == 0 {
        content.deadline = clock + 1 + chance.below(500) as u64;
    }
    (attributes, content)
}

fn filter(chance: &mut Chance) -> Filter {
    let tag = Filter::HasElement(vec!["tags".into()], Value::String(format!("t{}", chance.below(4))));
    let end = |value| Some(Limit { value: Value::Int(value), inclusive: true });
    let number = chance.below(6) as i64;
    match chance.below(4) {
        0 => Filter::And(vec![tag, Filter::Equal(vec!["n".into()], Value::Int(number))]),
        1 => Filter::Range(vec!["n".into()], Range { low: end(number), high: end(number + 1) }),
        _ => tag,
    }
}

fn removal(collection: u64, filter: &Filter) -> Command {
    Command::Remove(Removal { collection, filter: filter.encode().unwrap() }.into())
}

#[test]
fn what_the_filter_takes_is_gone_and_nothing_else() {
    let seeds = std::env::var("LOCI_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(120);
    for seed in 0..seeds {
        let mut chance = Chance::new(seed);
        let mut shard = Shard::new(small());
        let listening = Listening::default();
        listening.to_effects(true);
        shard.store.listen(listening);
        shard.command(Command::CreateNamespace { name: "n".into() });
        let index = |path: &str| IndexSpec { path: vec![path.into()], kind: IndexKind::Value };
        let indexes = ["tags", "n"].into_iter().filter(|_| chance.below(2) == 0).map(index).collect();
        let schema = Schema { indexes, ..Schema::default() };
        let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
        let Outcome::Created { collection } = shard.command(create) else { panic!("it can be made") };
        let mut model: BTreeMap<Vec<u8>, (Attributes, u64)> = BTreeMap::new();
        let mut clock = 1_000_000;
        for _ in 0..chance.below(120) {
            clock += chance.below(100) as u64;
            model.retain(|_, (_, deadline)| *deadline == 0 || *deadline > clock);
            let (mut commands, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..1 + chance.below(4) {
                if chance.below(6) == 0 {
                    let filter = filter(&mut chance);
                    let before = model.len();
                    model.retain(|_, (attributes, _)| !filter.takes(&encode(attributes).unwrap()));
                    expected.push(Some((before - model.len()) as u64));
                    commands.push(removal(collection, &filter));
                } else {
                    let mut changes = Vec::new();
                    for _ in 0..1 + chance.below(8) {
                        let key = format!("k{}", chance.below(60));
                        let (attributes, content) = content(&mut chance, clock);
                        model.insert(key.clone().into(), (attributes, content.deadline));
                        changes.push(change(collection, &key, Action::Put(content)));
                    }
                    expected.push(None);
                    commands.push(write(changes));
                }
            }
            let outcomes = shard.entry(clock, commands.into_iter().map(envelope).collect());
            let mut removed = 0;
            for (outcome, expected) in outcomes.iter().zip(&expected) {
                if let Some(expected) = expected {
                    assert_eq!(*outcome, Outcome::Removed(*expected), "seed {seed}");
                    removed += expected;
                }
            }
            let mut bytes = Vec::new();
            shard.store.effects().encode(shard.store.applied(), clock, &mut bytes);
            let entry = EntryEffects::take(&mut &bytes[..]).unwrap();
            let deleted = entry.iter().filter(|effect| effect.fate == Fate::Deleted).count() as u64;
            assert_eq!(deleted, removed, "seed {seed}");
            let view = shard.store.view();
            let found = view.collection_by_id(CollectionId(collection)).unwrap();
            let keys = found.keys_where(&Filter::Constant(true), clock);
            let expected: Vec<Box<[u8]>> = model.keys().map(|key| Box::from(&key[..])).collect();
            assert_eq!(keys, expected, "seed {seed}");
            assert_eq!(shard.store.digest(), shard.store.digest_from_records(), "seed {seed}");
            match chance.below(12) {
                0 => drop(shard.checkpoint()),
                1 => drop(shard.rest()),
                _ => {}
            }
        }
        let before = shard.store.digest();
        shard.restart();
        assert_eq!(shard.store.digest(), before, "seed {seed}");
    }
}

#[test]
fn what_is_no_filter_and_no_collection_removes_nothing() {
    let mut shard = Shard::new(small());
    let collection = shard.collection("c", 0);
    shard.command(write(vec![put(collection, "a", "1")]));
    let wrong = Command::Remove(Removal { collection, filter: vec![99] }.into());
    assert_eq!(shard.command(wrong), Outcome::Refused(Refusal::InvalidFilter));
    let unknown = removal(77, &Filter::Constant(true));
    assert_eq!(shard.command(unknown), Outcome::Refused(Refusal::UnknownCollection(77)));
    let all = removal(collection, &Filter::Constant(true));
    let again = shard.entry(1, vec![request(b"id", all.clone()), request(b"id", all.clone()), request(b"other", all)]);
    assert_eq!(again, [Outcome::Removed(1), Outcome::Removed(1), Outcome::Removed(0)]);
}
