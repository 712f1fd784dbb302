//! Attribute indexes through the store: declared early, late and not at all, they change what reads cost and nothing else.

use super::*;
use crate::attributes::{self, Attributes, Value};
use crate::command::{IndexKind, IndexSpec, SchemaChange};
use crate::filter::{Filter, Limit, Range};
use crate::record::CollectionId;
use crate::segment::tests::sign;
use crate::view::{Covered, Effort, Explanation, ScanRequest, SearchRequest, SearchScratch, View, Way};

const RECORDS: i64 = 3_000;

fn index(path: &str) -> IndexSpec {
    IndexSpec { path: vec![path.into()], kind: IndexKind::Value }
}

fn key(number: i64) -> String {
    format!("k{number:05}")
}

/// A collection with one embedding, and the indexes that are declared from the start.
fn shard(indexes: Vec<IndexSpec>) -> (Shard, u64) {
    let mut shard = Shard::new(StoreOptions { buffer_rows_max: 1 << 20, ..StoreOptions::default() });
    shard.command(Command::CreateNamespace { name: "n".into() });
    let schema = Schema { embeddings: specs(1, 4, Metric::SquaredL2), indexes, ..Schema::default() };
    let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
    let Outcome::Created { collection } = shard.command(create) else { panic!() };
    let mut random = Random::new(3);
    for numbers in (0..RECORDS).collect::<Vec<_>>().chunks(500) {
        let put = |&number: &i64| {
            let attributes =
                Attributes::from([("n".to_owned(), Value::Int(number)), ("ten".to_owned(), Value::Int(number % 10))]);
            let content = Content {
                attributes: attributes::encode(&attributes).unwrap(),
                embeddings: vec![(0, (0..4).map(|_| random.float()).collect())],
                ..Content::default()
            };
            change(collection, &key(number), Action::Put(content))
        };
        shard.command(write(numbers.iter().map(put).collect()));
    }
    (shard, collection)
}

fn below(path: &str, end: i64) -> Filter {
    let high = Some(Limit { value: Value::Int(end), inclusive: false });
    Filter::Range(vec![path.into()], Range { low: None, high })
}

/// A clock that says how often it was asked.
fn tick() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TICKS: AtomicU64 = AtomicU64::new(0);
    TICKS.fetch_add(1, Ordering::Relaxed)
}

/// The keys of the nearest, and how they were found.
fn search(view: &View, id: u64, effort: Effort, filter: &Filter) -> (Vec<String>, Explanation) {
    let mut scratch = SearchScratch::new();
    scratch.explain(tick);
    let request =
        SearchRequest { field: 0, query: &[0.1; 4], k: 10, effort, filter: Some(filter), max_distance: None, now: 0 };
    let collection = view.collection_by_id(CollectionId(id)).unwrap();
    let result = collection.search(&request, &mut scratch, &mut || true).unwrap();
    let explanation = scratch.explanation();
    let said: u64 = explanation.steps.iter().map(|step| step.codes + step.vectors).sum();
    assert_eq!(said, result.distances as u64, "{explanation:?}");
    let keys = result.hits.iter().map(|hit| String::from_utf8(hit.record.key().to_vec()).unwrap());
    (keys.collect(), explanation)
}

fn count(view: &View, id: u64, filter: &Filter) -> u64 {
    view.collection_by_id(CollectionId(id)).unwrap().count(Some(filter), 0, &mut || true).unwrap()
}

/// How much of a filter the indexes of the only segment answer.
fn covered(view: &View, id: u64, filter: &Filter) -> Covered {
    let (_, explanation) = search(view, id, Effort::Exact, filter);
    let [step] = &explanation.steps[..] else { panic!("{explanation:?}") };
    step.covered
}

#[test]
fn an_index_that_is_declared_later_is_built_for_what_is_there() {
    let (mut shard, c) = shard(vec![]);
    shard.checkpoint();
    let filter = below("n", 100);
    let view = shard.store.view();
    assert_eq!(covered(&view, c, &filter), Covered::Nothing);
    let before = search(&view, c, Effort::Exact, &filter).0;
    assert_eq!(count(&view, c, &filter), 100);

    let change = SchemaChange { add_indexes: vec![index("n"), index("missing")], ..SchemaChange::default() };
    shard.command(Command::AlterCollection { collection: c, change });
    assert!(shard.rest().iter().all(|installed| installed.error.is_none()));
    let view = shard.store.view();
    assert_eq!(covered(&view, c, &filter), Covered::Whole);
    assert_eq!(search(&view, c, Effort::Exact, &filter).0, before);
    assert_eq!(count(&view, c, &filter), 100);
    assert_eq!(covered(&view, c, &below("missing", 3)), Covered::Whole);
    assert_eq!(shard.store.next_job().map(|job| job.kind()), None, "once is enough");

    shard.checkpoint();
    shard.restart();
    assert_eq!(covered(&shard.store.view(), c, &filter), Covered::Whole);
}

#[test]
fn a_filter_is_covered_as_far_as_its_parts_are() {
    let (mut shard, c) = shard(vec![index("n")]);
    shard.checkpoint();
    let view = shard.store.view();
    let both = Filter::And(vec![below("n", 500), below("ten", 3)]);
    let either = Filter::Or(vec![below("n", 500), below("ten", 3)]);
    for (filter, expected, records) in
        [(both, Covered::Part, 150), (either, Covered::Nothing, 1_250), (below("ten", 3), Covered::Nothing, 900)]
    {
        assert_eq!(covered(&view, c, &filter), expected, "{filter:?}");
        assert_eq!(count(&view, c, &filter), records, "{filter:?}");
    }
}

#[test]
fn a_search_says_what_it_chose_and_what_that_cost() {
    let (mut shard, c) = shard(vec![index("n")]);
    let few = below("n", 30);
    let in_memory = search(&shard.store.view(), c, Effort::default(), &few).1;
    let [step] = &in_memory.steps[..] else { panic!("{in_memory:?}") };
    assert_eq!((step.segment, step.way, step.rows, step.vectors), (None, Way::Scan, RECORDS as u64, 30));

    shard.checkpoint();
    let view = shard.store.view();
    let (keys, explanation) = search(&view, c, Effort::default(), &few);
    let [step] = &explanation.steps[..] else { panic!("{explanation:?}") };
    assert!(step.segment.is_some());
    assert_eq!(
        (step.way, step.asked, step.vectors, step.hops),
        (Way::Scan, 30, 30, 0),
        "only what is taken is looked at"
    );
    assert_eq!((step.estimated, step.actual), (0.01, 0.01));
    assert!(step.why.starts_with("looking at the rows costs 45, walking the graph "), "{}", step.why);
    assert!(step.filter_nanos > 0 && step.plan_nanos > 0 && step.find_nanos > 0);
    assert!(explanation.total_nanos >= step.filter_nanos + step.plan_nanos + step.find_nanos);
    assert_eq!(keys, search(&view, c, Effort::Exact, &few).0);

    let most = Filter::Not(Box::new(few.clone()));
    let (_, explanation) = search(&view, c, Effort::default(), &most);
    let [step] = &explanation.steps[..] else { panic!("{explanation:?}") };
    assert_eq!((step.way, step.covered, step.actual), (Way::Walk, Covered::Whole, 0.99));
    assert!(step.hops > 0);
    let (_, explanation) = search(&view, c, Effort::Exact, &most);
    assert_eq!(explanation.steps[0].why, "exact search was asked for");
}

#[test]
fn deleted_records_are_not_counted_whatever_the_index_says() {
    let (mut shard, c) = shard(vec![index("ten")]);
    shard.checkpoint();
    let filter = below("ten", 5);
    let old = shard.store.view();
    let changes = (0..RECORDS).filter(|number| number % 100 < 30).map(|number| delete(c, &key(number)));
    shard.command(write(changes.collect()));
    let view = shard.store.view();
    assert_eq!((count(&view, c, &filter), count(&old, c, &filter)), (1_050, 1_500));
    let (keys, _) = search(&view, c, Effort::default(), &filter);
    assert!(keys.len() == 10 && keys.iter().all(|key| key[4..].parse::<i64>().unwrap() >= 30), "{keys:?}");
    let request =
        ScanRequest { after: None, prefix: None, filter: Some(&filter), limit: 9_999, bytes_max: 1 << 30, now: 0 };
    let page = view.collection_by_id(CollectionId(c)).unwrap().scan(&request, &mut || true).unwrap();
    assert_eq!((page.records.len(), page.next), (1_050, None));
}

/// Where each section of a kind is in a segment's bytes.
fn sections(bytes: &[u8], kind: u16) -> Vec<std::ops::Range<usize>> {
    let count = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let entries = (0..count).map(|i| 64 + i * 32).filter(|&at| bytes[at..at + 2] == kind.to_le_bytes());
    entries.map(|entry| number(entry + 8)..number(entry + 8) + number(entry + 16)).collect()
}

#[test]
fn damage_to_an_index_is_noticed_and_one_of_a_later_version_counts_as_not_there() {
    let (mut shard, c) = shard(vec![index("n"), index("ten")]);
    shard.checkpoint();
    let name = shard.files().into_iter().find(|file| file.starts_with("segment-")).unwrap();
    let whole = shard.directory.bytes(&name).unwrap();
    let indexes = sections(&whole, 30);
    assert_eq!(indexes.len(), 2);
    let mut random = Random::new(8);
    for section in &indexes {
        for _ in 0..200 {
            let mut damaged = whole.clone();
            let at = section.start + random.below(section.len() as u64) as usize;
            damaged[at] ^= 1 << random.below(8);
            shard.directory.put(&name, &damaged);
            let opened = Store::open(Arc::new(shard.directory.clone()), shard.options.clone());
            assert!(matches!(opened, Err(super::super::StoreError::Segment(_))), "byte {at}");
        }
    }
    let mut newer = whole.clone();
    newer[indexes[0].start] = 2;
    sign(&mut newer);
    shard.directory.put(&name, &newer);
    shard.restart();
    let view = shard.store.view();
    assert_eq!(covered(&view, c, &below("n", 100)), Covered::Nothing);
    assert_eq!(covered(&view, c, &below("ten", 1)), Covered::Whole);
    assert_eq!(count(&view, c, &below("n", 100)), 100);
    // It is built anew, as one that was declared later would be.
    shard.rest();
    assert_eq!(covered(&shard.store.view(), c, &below("n", 100)), Covered::Whole);
}

/// The file is whole and its checksums are right, and yet two indexes stand in for each other. Answers are then wrong; what
/// matters is that there are some.
#[test]
fn an_index_that_says_what_records_are_not_does_not_keep_a_grouped_search_for_ever() {
    use crate::ask::{Ask, Example, Group, Query, Within};
    let mut shard = Shard::new(StoreOptions { buffer_rows_max: 1 << 20, ..StoreOptions::default() });
    shard.command(Command::CreateNamespace { name: "n".into() });
    let indexes = vec![index("aa"), index("bb")];
    let schema = Schema { embeddings: specs(1, 4, Metric::SquaredL2), indexes, ..Schema::default() };
    shard.command(Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema });
    let mut random = Random::new(21);
    let puts = (0..RECORDS).map(|number| {
        let attributes =
            Attributes::from([("aa".into(), Value::Int(number % 10)), ("bb".into(), Value::Int(number / 300))]);
        let attributes = attributes::encode(&attributes).unwrap();
        let embeddings = vec![(0, (0..4).map(|_| random.float()).collect())];
        change(1, &key(number), Action::Put(Content { attributes, embeddings, ..Content::default() }))
    });
    let puts = puts.collect();
    shard.command(write(puts));
    shard.checkpoint();
    let name = shard.files().into_iter().find(|file| file.starts_with("segment-")).unwrap();
    let mut bytes = shard.directory.bytes(&name).unwrap();
    for section in sections(&bytes, 30) {
        let path = bytes[section.clone()].windows(2).position(|two| two == b"aa" || two == b"bb").unwrap();
        let path = section.start + path..section.start + path + 2;
        let other = if bytes[path.start] == b'a' { *b"bb" } else { *b"aa" };
        bytes[path].copy_from_slice(&other);
    }
    sign(&mut bytes);
    shard.directory.put(&name, &bytes);
    shard.restart();
    let view = shard.store.view();
    let ask = Ask {
        query: Query::Near { field: 0, example: Example::Vector(vec![0.1; 4]) },
        k: 1,
        effort: Effort::Exact,
        filter: None,
        within: Within::default(),
        decay: None,
        mmr: None,
        group: Some(Group { path: vec!["bb".into()], hits: 50 }),
        now: 0,
    };
    let mut asked = 0;
    let answer = view.collection("n", "c").unwrap().ask(&ask, &mut SearchScratch::new(), &mut || {
        asked += 1;
        asked < 100_000
    });
    let hits = answer.expect("it comes to an end").hits;
    let groups: std::collections::BTreeSet<String> = hits.iter().map(|hit| format!("{:?}", hit.group)).collect();
    assert_eq!(groups.len(), 1, "one group was asked for");
}
