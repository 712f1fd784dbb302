//! After half of the records are deleted and three in ten replaced, searches find what they would find had the rest been
//! written anew, and every record is found.

use std::collections::BTreeMap;

use super::recall::recall;
use super::*;
use crate::real_set::RealSet;
use crate::record::CollectionId;
use crate::view::{Effort, SearchRequest, SearchScratch};

/// Which row of the set each live key has.
type Live = BTreeMap<usize, usize>;

fn shard(set: &RealSet, options: &StoreOptions) -> (Shard, u64) {
    let mut shard = Shard::new(options.clone());
    shard.command(Command::CreateNamespace { name: "n".into() });
    let schema = Schema { embeddings: specs(1, set.dimension as u32, Metric::Cosine), ..Schema::default() };
    let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
    let Outcome::Created { collection } = shard.command(create) else { panic!() };
    (shard, collection)
}

fn key(number: usize) -> String {
    format!("k{number:06}")
}

/// Writes changes a few at a time, with jobs as they come: deletions where there is no row.
fn change_all(shard: &mut Shard, collection: u64, set: &RealSet, changes: &[(usize, Option<usize>)]) {
    for part in changes.chunks(256) {
        let changes = part.iter().map(|&(number, row)| match row {
            None => delete(collection, &key(number)),
            Some(row) => {
                let embeddings = vec![(0, set.get(row).to_vec())];
                change(collection, &key(number), Action::Put(Content { embeddings, ..Content::default() }))
            }
        });
        let changes = changes.collect();
        shard.command(write(changes));
        // The log is not replayed here.
        shard.log.iter_mut().for_each(|(entry, _)| *entry = Vec::new());
        if let Some(job) = shard.store.next_job() {
            let done = shard.run(job);
            assert!(shard.store.install(done).error.is_none());
        }
    }
}

/// How many live records are not within the ten nearest of their own embedding, though ten others are not as near.
fn unreachable(shard: &Shard, collection: u64, set: &RealSet, live: &Live) -> usize {
    let view = shard.store.view();
    let collection = view.collection_by_id(CollectionId(collection)).unwrap();
    let kernel = Metric::Cosine.kernel();
    let mut scratch = SearchScratch::new();
    let mut is_found = |number: usize, query: &[f32]| {
        let effort = Effort::default();
        let request = SearchRequest { field: 0, query, k: 10, effort, filter: None, max_distance: None, now: 0 };
        let hits = collection.search(&request, &mut scratch, &mut || true).unwrap().hits;
        let own = kernel(query, query);
        hits.iter().any(|hit| hit.record.key() == key(number).as_bytes()) || hits.iter().all(|hit| hit.distance <= own)
    };
    live.iter().filter(|&(&number, &row)| !is_found(number, set.get(row))).count()
}

fn check(set: &RealSet, options: &StoreOptions) {
    let (mut turned, collection) = shard(set, options);
    // So that each one that is replaced gets an embedding that was not there before.
    let count = set.len() * 10 / 13;
    let mut numbers: Vec<usize> = (0..count).collect();
    let first: Vec<_> = numbers.iter().map(|&number| (number, Some(number))).collect();
    change_all(&mut turned, collection, set, &first);
    turned.rest();

    let mut random = Random::new(17);
    for end in (1..count).rev() {
        numbers.swap(end, random.below(end as u64 + 1) as usize);
    }
    let (deleted, kept) = numbers.split_at(count / 2);
    let replaced = &kept[..count * 3 / 10];
    let mut live: Live = kept.iter().map(|&number| (number, number)).collect();
    live.extend(replaced.iter().copied().zip(count..));
    let mut changes: Vec<_> = deleted.iter().map(|&number| (number, None)).collect();
    changes.extend(replaced.iter().map(|&number| (number, Some(live[&number]))));
    for end in (1..changes.len()).rev() {
        changes.swap(end, random.below(end as u64 + 1) as usize);
    }
    change_all(&mut turned, collection, set, &changes);

    let at_work = unreachable(&turned, collection, set, &live);
    let recall_at_work = recall(&turned.store.view(), set.queries(), None);
    assert!(turned.checkpoint().iter().all(|installed| installed.error.is_none()));
    let at_rest = unreachable(&turned, collection, set, &live);
    let recall_at_rest = recall(&turned.store.view(), set.queries(), None);

    let (mut fresh, collection) = shard(set, options);
    let all: Vec<_> = live.iter().map(|(&number, &row)| (number, Some(row))).collect();
    change_all(&mut fresh, collection, set, &all);
    assert!(fresh.checkpoint().iter().all(|installed| installed.error.is_none()));
    let recall_fresh = recall(&fresh.store.view(), set.queries(), None);
    let stats = turned.store.view().collection_by_id(CollectionId(collection)).unwrap().stats();
    println!(
        "{}: {} of {count} records are left; unreachable {at_work} at work, {at_rest} at rest; recall@10 {recall_at_work:.4} \
         at work, {recall_at_rest:.4} at rest, {recall_fresh:.4} built anew; {} segments",
        set.name,
        live.len(),
        stats.segments.len()
    );
    assert!(stats.segments.iter().any(|segment| segment.graph), "{stats:?}");
    assert_eq!((at_work, at_rest), (0, 0));
    assert!(recall_at_work >= recall_fresh - 0.01 && recall_at_rest >= recall_fresh - 0.01);
}

#[test]
fn after_half_is_deleted_and_much_replaced_as_much_is_found_as_in_what_is_built_anew() {
    if let Some(set) = RealSet::shipped() {
        // Small buffers, so that there is something to merge.
        check(&set, &StoreOptions { buffer_rows_max: 700, graph_rows_min: 512, ..StoreOptions::default() });
    }
    // `LOCI_DATA` names a folder with a larger set to be tried too.
    if let Some(set) = RealSet::larger() {
        let graph = GraphOptions { threads: 2, ..GraphOptions::default() };
        check(&set, &StoreOptions { graph, ..StoreOptions::default() });
    }
}
