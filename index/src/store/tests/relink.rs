//! A graph that does not lead to every record: it is noticed, and its segment is linked anew.

use std::ops::Range;

use super::*;
use crate::attributes::{self, Attributes, Value};
use crate::filter::Filter;
use crate::record::CollectionId;
use crate::segment::tests::sign;
use crate::store::JobKind;
use crate::view::{Checked, Effort, SearchRequest, SearchScratch, View, Way};

const NODE_ROWS: u16 = 20;
const LAYER0: u16 = 23;
const UPPER: u16 = 24;
/// Enough for the graph to be walked rather than every row looked at.
const RECORDS: usize = 2_000;
/// One of so many rows is looked at to guess how many a filter takes.
const SAMPLED: usize = RECORDS / crate::plan::SAMPLES as usize;

/// Where a kind's first section is in a segment's bytes, by its front page.
fn section(bytes: &[u8], kind: u16) -> Range<usize> {
    let count = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let entries = (0..count).map(|i| 64 + i * 32);
    let entry =
        entries.into_iter().find(|&at| bytes[at..at + 2] == kind.to_le_bytes()).expect("there is such a section");
    number(entry + 8)..number(entry + 8) + number(entry + 16)
}

/// Takes away every link to a node that only layer 0 knows and whose row is `wanted`: its number is nobody's link any more.
/// Checksums are right. Gives the node's row.
fn hide_a_node(bytes: &mut [u8], wanted: impl Fn(u32) -> bool) -> u32 {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let upper: Vec<u32> = bytes[section(bytes, UPPER)].chunks_exact(4).map(word).collect();
    let rows: Vec<u32> = bytes[section(bytes, NODE_ROWS)].chunks_exact(4).map(word).collect();
    let hidden = |node: &u32| !upper.contains(node) && wanted(rows[*node as usize]);
    let node = (RECORDS as u32 / 2..RECORDS as u32).find(hidden).unwrap();
    let layer0 = section(bytes, LAYER0);
    for link in bytes[layer0].chunks_exact_mut(4).filter(|link| word(link) == node) {
        // To be led to another node instead does no harm.
        link.copy_from_slice(&(node - 1).to_le_bytes());
    }
    sign(bytes);
    rows[node as usize]
}

fn check_all(view: &View, collection: u64) -> Checked {
    let collection = view.collection_by_id(CollectionId(collection)).unwrap();
    let mut all = Checked::default();
    let mut scratch = SearchScratch::new();
    for file in collection.graph_segments() {
        let mut next = Some(0);
        while let Some(row) = next {
            // In stretches, as somebody does who has other things to do.
            let checked = collection.check_found(file, row..row + 333, &mut scratch, &mut || true).unwrap();
            all.checked += checked.checked;
            all.unfound.extend(checked.unfound);
            next = checked.next;
        }
    }
    all
}

fn finds(view: &View, collection: u64, key: &[u8]) -> bool {
    let collection = view.collection_by_id(CollectionId(collection)).unwrap();
    let query = collection.get(key, 0).unwrap().embedding(0).unwrap();
    let request = SearchRequest {
        field: 0,
        query: &query,
        k: 1,
        effort: Effort::default(),
        filter: None,
        max_distance: None,
        now: 0,
    };
    let found = collection.search(&request, &mut SearchScratch::new(), &mut || true).unwrap();
    found.hits[0].record.key() == key
}

/// A store with one segment that has a graph, and its collection.
fn linked(seed: u64) -> (Shard, u64) {
    let mut random = Random::new(seed);
    let mut shard = Shard::new(StoreOptions { buffer_rows_max: 10_000, ..small() });
    let collection = shard.collection("c", 1);
    let puts = (0..RECORDS).map(|i| {
        let embedding = (0..4).map(|_| random.float()).collect();
        let attributes = Attributes::from([("n".into(), Value::Bool(i % SAMPLED == 0))]);
        let attributes = attributes::encode(&attributes).unwrap();
        let content = Content { embeddings: vec![(0, embedding)], attributes, ..Content::default() };
        change(collection, &format!("k{i:04}"), Action::Put(content))
    });
    let puts = puts.collect();
    shard.command(write(puts));
    assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    (shard, collection)
}

#[test]
fn a_record_that_its_graph_does_not_lead_to_is_noticed_and_linked_anew() {
    let (mut shard, collection) = linked(11);
    let whole = check_all(&shard.store.view(), collection);
    assert_eq!(whole, Checked { next: None, checked: RECORDS as u64, unfound: vec![] });

    let name = shard.store.view().collection("n", "c").unwrap().stats().segments[0].file.clone();
    let mut bytes = shard.directory.bytes(&name).unwrap();
    let row = hide_a_node(&mut bytes, |_| true);
    shard.directory.put(&name, &bytes);
    shard.restart();
    // Rows are in the order of their keys.
    let key = format!("k{row:04}").into_bytes();
    let damaged = check_all(&shard.store.view(), collection);
    assert_eq!(damaged.unfound, std::slice::from_ref(&key), "only the one that was hidden, of {}", damaged.checked);
    assert!(!finds(&shard.store.view(), collection, &key));

    let file = shard.store.view().collection("n", "c").unwrap().graph_segments()[0];
    shard.store.request_relink(file);
    let job = shard.store.next_job().expect("the segment is linked anew");
    assert_eq!(job.kind(), JobKind::Merge);
    let done = shard.run(job);
    assert!(shard.store.install(done).error.is_none());
    let view = shard.store.view();
    assert!(!view.collection("n", "c").unwrap().graph_segments().contains(&file));
    assert_eq!(check_all(&view, collection).unfound, [] as [Vec<u8>; 0]);
    assert!(finds(&view, collection, &key));
    // What was there before is not there after the next checkpoint and a restart either.
    assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    shard.restart();
    assert!(finds(&shard.store.view(), collection, &key));
}

/// A filter that takes just the rows that are looked at to guess how many it takes: they seem to be all, so the graph is walked,
/// and the walk finds fewer than are asked for. One of them no link leads to.
#[test]
fn a_walk_that_comes_up_short_without_having_been_everywhere_is_not_the_answer() {
    let (mut shard, collection) = linked(14);
    let name = shard.store.view().collection("n", "c").unwrap().stats().segments[0].file.clone();
    let mut bytes = shard.directory.bytes(&name).unwrap();
    hide_a_node(&mut bytes, |row| (row as usize).is_multiple_of(SAMPLED));
    shard.directory.put(&name, &bytes);
    shard.restart();
    let view = shard.store.view();
    let collection = view.collection_by_id(CollectionId(collection)).unwrap();
    let filter = Filter::Equal(vec!["n".into()], Value::Bool(true));
    let taken = RECORDS.div_ceil(SAMPLED);
    let request = SearchRequest {
        field: 0,
        query: &[0.0; 4],
        k: taken + 6,
        effort: Effort::default(),
        filter: Some(&filter),
        max_distance: None,
        now: 0,
    };
    let mut scratch = SearchScratch::new();
    scratch.explain(|| 0);
    let found = collection.search(&request, &mut scratch, &mut || true).unwrap();
    let way = scratch.explanation().steps[0].way;
    assert_eq!((found.hits.len(), way), (taken, Way::WalkThenScan));
}

#[test]
fn asking_to_link_what_is_gone_does_nothing() {
    let (mut shard, _) = linked(12);
    let digest = shard.store.digest();
    shard.store.request_relink(12_345);
    assert!(shard.store.next_job().is_none());
    assert_eq!(shard.store.digest(), digest);
}

#[test]
fn records_that_have_ended_are_not_looked_for() {
    let (mut shard, collection) = linked(13);
    let ended = (0..40).map(|i| change(collection, &format!("k{:04}", i * 7), Action::Delete)).collect();
    shard.command(write(ended));
    let checked = check_all(&shard.store.view(), collection);
    assert_eq!(checked, Checked { next: None, checked: RECORDS as u64 - 40, unfound: vec![] });
}
