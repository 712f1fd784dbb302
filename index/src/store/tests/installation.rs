//! Collections whose ids somebody else gave out: they come in any order, more than once, and over what is there.

use super::*;
use crate::command::{Durability, IndexKind, IndexSpec, Installation, Refusal, SparseSpec};
use crate::record::CollectionId;
use crate::store::{COLLECTIONS_MAX, NAMESPACES_MAX};

fn schema() -> Schema {
    Schema { embeddings: specs(1, 4, Metric::SquaredL2), ..Schema::default() }
}

fn install(collection: u64, name: &str, schema: Schema) -> Command {
    let (namespace, name) = ("n".into(), name.into());
    Command::InstallCollection(Installation { collection, namespace, name, schema }.into())
}

fn created(collection: u64) -> Outcome {
    Outcome::Created { collection }
}

fn ids(shard: &Shard) -> Vec<u64> {
    shard.store.view().collections().map(|collection| collection.id().0).collect()
}

#[test]
fn ids_come_in_any_order_and_those_that_the_store_gives_out_stay_above_them() {
    let mut shard = Shard::new(small());
    let mut twin = Shard::new(small());
    let create = |name: &str| Command::CreateCollection { namespace: "n".into(), name: name.into(), schema: schema() };
    let commands = [
        (install(30, "a", schema()), created(30)),
        (install(7, "b", schema()), created(7)),
        (create("c"), created(31)),
        (install(12, "d", schema()), created(12)),
        (create("e"), created(32)),
        (install(CollectionId::MAX.0, "f", schema()), created(CollectionId::MAX.0)),
        (create("g"), created(CollectionId::MAX.0 + 1)),
    ];
    for (command, outcome) in commands {
        assert_eq!(shard.command(command.clone()), outcome, "{command:?}");
        assert_eq!(twin.command(command), outcome);
        let newest = *ids(&shard).last().unwrap();
        shard.command(write(vec![put(7.min(newest), "k", "1"), put(newest, "k", "2")]));
        twin.command(write(vec![put(7.min(newest), "k", "1"), put(newest, "k", "2")]));
        shard.checkpoint();
        shard.restart();
        assert_eq!(shard.store.digest(), twin.store.digest());
        assert_eq!(shard.store.digest(), shard.store.digest_from_records());
    }
    let max = CollectionId::MAX.0;
    assert_eq!(ids(&shard), [7, 12, 30, 31, 32, max, max + 1]);
    assert!(shard.store.view().collection("n", "d").is_some_and(|found| found.id() == CollectionId(12)));
}

#[test]
fn installing_again_changes_only_what_differs() {
    let mut shard = Shard::new(small());
    assert_eq!(shard.command(install(5, "c", schema())), created(5), "the namespace is made");
    shard.command(write(vec![put(5, "k", "1")]));
    let mut wanted = schema();
    for round in 0..3 {
        let before = shard.store.digest();
        assert_eq!(shard.command(install(5, "c", wanted.clone())), Outcome::Unchanged, "round {round}");
        assert_eq!(shard.store.digest(), before);
        wanted.durability = Durability::Buffered;
        wanted.retention_millis += 5;
        wanted.eviction_bytes += 6;
        let path = vec![format!("a{round}")];
        wanted.indexes.push(IndexSpec { path, kind: IndexKind::Value });
        wanted.indexes.reverse();
        assert_eq!(shard.command(install(5, "c", wanted.clone())), Outcome::Done);
        let view = shard.store.view();
        assert_eq!(*view.collection("n", "c").unwrap().schema(), wanted);
        assert!(view.collection("n", "c").unwrap().get(b"k", 0).is_some());
        shard.checkpoint();
        shard.restart();
    }
}

#[test]
fn another_collection_of_that_name_goes() {
    let mut shard = Shard::new(small());
    let old = shard.collection("c", 1);
    shard.command(write(vec![put(old, "k", "1")]));
    shard.checkpoint();
    assert_eq!(shard.command(install(40, "c", schema())), created(40));
    assert_eq!(shard.command(write(vec![put(old, "k", "1")])), Outcome::Refused(Refusal::UnknownCollection(old)));
    assert_eq!(ids(&shard), [40]);
    assert!(shard.store.view().collection("n", "c").unwrap().get(b"k", 0).is_none());
    shard.checkpoint();
    assert_eq!(shard.files(), ["MANIFEST"]);
}

#[test]
fn what_cannot_be_installed_changes_nothing_and_says_why() {
    let mut shard = Shard::new(small());
    shard.command(install(5, "c", schema()));
    shard.command(install(6, "d", schema()));
    let other = Schema { sparse: vec![SparseSpec { name: "s".into() }], ..schema() };
    let wrong = Schema { embeddings: specs(1, 0, Metric::Dot), ..schema() };
    let before = shard.store.digest();
    for (command, expected) in [
        (install(5, "c", other), "collection 5 has other embeddings, sparse vectors or texts; drop it first"),
        (install(5, "d", schema()), "\"collection 5 as n/c\" already exists"),
        (install(0, "e", schema()), "its id 0 is not from 1 to"),
        (install(u64::MAX, "e", schema()), "is not from 1 to"),
        (install(7, "c", wrong), "dimension 0"),
    ] {
        let Outcome::Refused(refusal) = shard.command(command) else { panic!("not refused: {expected}") };
        assert!(refusal.to_string().contains(expected), "{refusal}");
        assert_eq!(shard.store.digest(), before);
    }
}

#[test]
fn there_are_no_more_than_there_may_be_and_one_may_take_anothers_place() {
    let mut shard = Shard::new(small());
    let many = (1..=COLLECTIONS_MAX as u64).map(|id| envelope(install(id, &format!("c{id}"), Schema::default())));
    shard.entry(0, many.collect());
    let last = COLLECTIONS_MAX as u64 + 1;
    let too_many = Outcome::Refused(Refusal::TooMany(COLLECTIONS_MAX as u32));
    assert_eq!(shard.command(install(last, "new", Schema::default())), too_many);
    assert_eq!(shard.command(install(last, "c9", Schema::default())), created(last));

    let mut shard = Shard::new(small());
    let many = (0..NAMESPACES_MAX).flat_map(|i| {
        let (namespace, schema) = (format!("n{i}"), Schema::default());
        let collection = Command::CreateCollection { namespace: namespace.clone(), name: "c".into(), schema };
        [envelope(Command::CreateNamespace { name: namespace }), envelope(collection)]
    });
    shard.entry(0, many.collect());
    let new = NAMESPACES_MAX as u64 + 1;
    let too_many = Outcome::Refused(Refusal::TooMany(NAMESPACES_MAX as u32));
    assert_eq!(shard.command(install(new, "c", Schema::default())), too_many);
    // A namespace without collections is no more in the way.
    shard.command(Command::DropCollection { collection: 7 });
    assert_eq!(shard.command(install(new, "c", Schema::default())), created(new));
    assert_eq!(shard.store.view().namespaces().count(), NAMESPACES_MAX);
}

#[test]
fn work_that_began_on_a_collection_is_not_for_one_of_its_id_that_came_later() {
    for at_checkpoint in [true, false] {
        let mut shard = Shard::new(small());
        shard.command(install(5, "c", schema()));
        let changes = |from: u64| (from..from + 20).map(|i| put(5, &format!("k{i}"), "old")).collect();
        for round in 0..4 {
            shard.command(write(changes(round * 20)));
            shard.store.request_checkpoint();
            let job = shard.store.next_job().unwrap();
            if round < 3 || !at_checkpoint {
                let done = shard.run(job);
                assert!(shard.store.install(done).error.is_none());
                continue;
            }
            replace_while(&mut shard, job);
        }
        if !at_checkpoint {
            let job = shard.store.next_job().expect("four small segments are worth merging");
            assert_eq!(job.kind(), super::super::JobKind::Merge);
            replace_while(&mut shard, job);
        }
    }

    fn replace_while(shard: &mut Shard, job: Job) {
        shard.command(Command::DropCollection { collection: 5 });
        assert_eq!(shard.command(install(5, "c", schema())), created(5));
        shard.command(write(vec![put(5, "k3", "new")]));
        let done = shard.run(job);
        assert!(shard.store.install(done).error.is_none());
        for round in 0..2 {
            let view = shard.store.view();
            let collection = view.collection("n", "c").unwrap();
            assert_eq!(collection.count(None, 0, &mut || true), Ok(1), "round {round}");
            assert!(collection.get(b"k4", 0).is_none());
            assert_eq!(collection.get(b"k3", 0).unwrap().value(), Some(&b"new"[..]));
            assert_eq!(shard.store.digest(), shard.store.digest_from_records());
            shard.restart();
            shard.checkpoint();
            assert_eq!(shard.files().len(), 2, "{:?}", shard.files());
        }
    }
}
