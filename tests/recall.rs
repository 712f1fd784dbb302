//! Real embeddings through the real program: what the default effort finds, alone and with filters that indexes answer,
//! against the exact answer; and that a restart finds the same without building any graph again.
//!
//! Runs on `minilm-60k`, or the set that `LOCI_SET` names, where `LOCI_DATA` has it; otherwise on the shipped 5,000
//! records. It says which.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use loci_index::distance::Metric;
use loci_tests::api::{self, Api, filter, int};
use loci_tests::data::{self, DataSet};
use loci_tests::process::Node;
use loci_tests::say;
use loci_wire::v1;
use loci_wire::v1::filter::Expression;

const K: usize = 10;
const QUERIES: usize = 200;
/// What the default effort must find of the exact answer, each.
const RECALL_MIN: f64 = 0.95;
const COLLECTION: &str = "memories";

fn data_set() -> DataSet {
    let name = std::env::var("LOCI_SET").unwrap_or_else(|_| "minilm-60k".into());
    let set = data::larger(&name).unwrap_or_else(data::shipped);
    say(&format!("recall is measured on {} ({} records)", set.name, set.records.len()));
    set
}

/// For each record its place in the order of distance from the first one: to filter by what queries are about, or are not.
fn ranks(set: &DataSet) -> Vec<i64> {
    let kernel = Metric::Cosine.kernel();
    let mut order: Vec<(f32, usize)> =
        (0..set.records.len()).map(|number| (kernel(set.embedding(0), set.embedding(number)), number)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut ranks = vec![0; order.len()];
    (0..).zip(order).for_each(|(rank, (_, number))| ranks[number] = rank);
    ranks
}

/// Puts every record, with its number modulo 1,000 and its rank to filter by.
async fn ingest(api: &mut Api, set: &DataSet, ranks: &[i64]) {
    let index = |path: &str| v1::IndexSpec { path: path.into(), ..Default::default() };
    let embedding = v1::EmbeddingSpec {
        name: "text".into(),
        dimension: set.dimension as u32,
        metric: v1::Metric::Cosine as i32,
        ..Default::default()
    };
    let schema =
        v1::Schema { embeddings: vec![embedding], indexes: vec![index("slice"), index("rank")], ..Default::default() };
    let name = api::collection(COLLECTION);
    let create = v1::CreateCollectionRequest { name, schema: Some(schema), ..Default::default() };
    api.admin.create_collection(create).await.unwrap();
    let numbers: Vec<usize> = (0..set.records.len()).collect();
    for page in numbers.chunks(1_000) {
        let record = |&number: &usize| {
            let mut record = set.record(number);
            record.attributes.insert("slice".into(), int(number as i64 % 1_000));
            record.attributes.insert("rank".into(), int(ranks[number]));
            record
        };
        let request = v1::PutRequest {
            collection: api::collection(COLLECTION),
            records: page.iter().map(record).collect(),
            ..Default::default()
        };
        api.records.put(request).await.unwrap();
    }
}

/// The exact nearest among the records that `takes` takes.
fn exact(set: &DataSet, query: usize, takes: impl Fn(usize) -> bool) -> HashSet<String> {
    let kernel = Metric::Cosine.kernel();
    let taken = (0..set.records.len()).filter(|&number| takes(number));
    let mut distances: Vec<(f32, usize)> =
        taken.map(|number| (kernel(set.query(query), set.embedding(number)), number)).collect();
    distances.sort_by(|a, b| a.0.total_cmp(&b.0));
    distances.iter().take(K).map(|&(_, number)| set.records[number].key.clone()).collect()
}

async fn found(api: &mut Api, set: &DataSet, query: usize, filter: Option<v1::Filter>) -> Vec<v1::Hit> {
    let request = v1::SearchRequest { filter, ..api::nearest(COLLECTION, "text", set.query(query), K as u32) };
    let mut reply = api.records.search(request).await.unwrap().into_inner();
    reply.results.remove(0).hits
}

/// Records whose attribute is below this.
fn below(path: &str, end: i64) -> v1::Filter {
    filter(Expression::Range(v1::RangeOf { path: path.into(), below: Some(int(end)), ..Default::default() }))
}

/// That a search explains itself, and that the indexes answered the filter wherever records are in a segment.
async fn check_explained(api: &mut Api, set: &DataSet, filter: v1::Filter) {
    let request = v1::SearchRequest {
        filter: Some(filter),
        explain: true,
        ..api::nearest(COLLECTION, "text", set.query(0), K as u32)
    };
    let reply = api.records.search(request).await.unwrap().into_inner();
    let explanation = reply.results[0].explanation.clone().expect("it was asked for");
    assert!(explanation.steps.iter().any(|step| step.segment.is_some()), "{explanation:?}");
    for step in explanation.steps {
        let expected = if step.segment.is_some() { v1::FilterCover::Whole } else { v1::FilterCover::Nothing };
        assert_eq!(step.cover(), expected, "{step:?}");
        assert!(step.way() != v1::SearchWay::Unspecified && !step.why.is_empty(), "{step:?}");
        assert!(step.find_nanos <= explanation.total_nanos, "{step:?}");
    }
}

/// Which part of the exact answers is found with a filter, over all queries.
async fn recall(api: &mut Api, set: &DataSet, filter: Option<v1::Filter>, takes: impl Fn(usize) -> bool + Copy) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for query in 0..QUERIES {
        // Unfiltered, the set itself brings the exact answer.
        let exact = match filter {
            None => set.nearest[query][..K].iter().map(|&n| set.records[n as usize].key.clone()).collect(),
            Some(_) => exact(set, query, takes),
        };
        let found = found(api, set, query, filter.clone()).await;
        assert_eq!(found.len(), exact.len(), "as many are found as there are");
        let mut last = f32::NEG_INFINITY;
        for hit in &found {
            assert!(hit.distance >= last, "nearest first: {found:?}");
            last = hit.distance;
            let key = String::from_utf8_lossy(&hit.record.as_ref().unwrap().key).into_owned();
            hits += usize::from(exact.contains(&key));
        }
        all += exact.len();
    }
    hits as f64 / all as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_effort_finds_95_of_100_and_a_restart_builds_no_graph_again() {
    let set = data_set();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let mut api = node.api().await;
    let begin = Instant::now();
    let ranks = ranks(&set);
    ingest(&mut api, &set, &ranks).await;
    let searchable = begin.elapsed();
    // Everything is found before anything is indexed: the newest records are compared with exactly.
    let unindexed = recall(&mut api, &set, None, |_| true).await;
    // A stop writes what is in memory to a segment, so a small set is indexed too.
    assert!(node.terminate().success());
    let node = Node::start(folder.path()).await;
    let mut api = node.api().await;
    api.wait_indexed(COLLECTION, Duration::from_secs(600)).await;
    let indexed = begin.elapsed();
    let single = recall(&mut api, &set, None, |_| true).await;
    say(&format!(
        "recall@{K} at the default effort, {QUERIES} queries: {single:.4}; before indexing: {unindexed:.4} (searchable \
         after {searchable:.1?}, indexed after {indexed:.1?})"
    ));
    let mut recalls = vec![("alone".to_owned(), single), ("before indexing".to_owned(), unindexed)];
    for share in [500, 100, 10, 1] {
        let filter = Some(below("slice", share));
        let recall = recall(&mut api, &set, filter, |number| number as i64 % 1_000 < share).await;
        recalls.push((format!("filtered to {share} in 1,000, by chance"), recall));
    }
    for share in [500, 100, 10] {
        let end = set.records.len() as i64 * share / 1_000;
        let near = recall(&mut api, &set, Some(below("rank", end)), |number| ranks[number] < end).await;
        recalls.push((format!("filtered to {share} in 1,000 of one subject"), near));
        let end = set.records.len() as i64 - end;
        let far = filter(Expression::Not(Box::new(below("rank", end))));
        let far = recall(&mut api, &set, Some(far), |number| ranks[number] >= end).await;
        recalls.push((format!("filtered to {share} in 1,000 of other subjects"), far));
    }
    recalls.iter().for_each(|(what, recall)| say(&format!("recall@{K} {what}: {recall:.4}")));
    for (what, recall) in recalls {
        assert!(recall >= RECALL_MIN, "{what}: {recall}");
    }
    check_explained(&mut api, &set, below("slice", 100)).await;
    let answer = found(&mut api, &set, 0, None).await;
    assert!(node.terminate().success());

    let begin = Instant::now();
    let node = Node::start(folder.path()).await;
    let mut api = node.api().await;
    let again = found(&mut api, &set, 0, None).await;
    let cold = begin.elapsed();
    // What is indexed now was so on disk: in this time no graph of this many records can be built.
    let stats = api.stats(COLLECTION).await;
    say(&format!(
        "cold start with {} records: first answer after {cold:.2?}; {} of {} segments have graphs, {} records indexed",
        stats.records, stats.graph_segments, stats.segments, stats.indexed_records
    ));
    assert_eq!(stats.records as usize, set.records.len());
    assert!(stats.indexed_records >= stats.records / 10 * 8, "{stats:?}");
    let keys = |hits: &[v1::Hit]| hits.iter().map(|hit| hit.record.as_ref().unwrap().key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&again), keys(&answer));
    let after = recall(&mut api, &set, None, |_| true).await;
    assert!(after >= RECALL_MIN, "after a restart: {after}");
}
