//! Records come and go, as memories do: after many rounds every live one is still found by its own embedding, and neither
//! disk nor memory has grown with what is gone. And where half is deleted and much of the rest replaced, searches find as
//! much as in a collection that never had anything else: on `minilm-60k`, or the set that `LOCI_SET` names, where `LOCI_DATA`
//! has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use loci_tests::api::{self, Api};
use loci_tests::chance::Chance;
use loci_tests::data::{self, DataSet};
use loci_tests::process::{Node, PATIENCE, Start};
use loci_tests::{say, seed, setting};
use loci_wire::v1;

const RECORDS: usize = 4_000;
const COMING_AND_GOING: usize = 1_000;
/// Half of the live records come and go in each. If nothing of what is gone were given back, it would take more than four times as
/// much as what is live, and the log's files beside it about as much as that: more than is let pass.
const ROUNDS: u64 = 10;
const COLLECTION: &str = "memories";

/// Which embedding of the set each live key has.
type Live = BTreeMap<String, usize>;

async fn put(api: &mut Api, collection: &str, set: &DataSet, records: &[(String, usize)]) {
    for page in records.chunks(500) {
        let record = |(key, number): &(String, usize)| v1::Record { key: key.clone().into(), ..set.record(*number) };
        let request = v1::PutRequest {
            collection: api::collection(collection),
            records: page.iter().map(record).collect(),
            ..Default::default()
        };
        api.records.put(request).await.unwrap();
    }
}

async fn delete(api: &mut Api, keys: &[String]) {
    let request = v1::DeleteRequest {
        collection: api::collection(COLLECTION),
        keys: keys.iter().map(|key| key.clone().into()).collect(),
        ..Default::default()
    };
    let reply = api.records.delete(request).await.unwrap().into_inner();
    assert_eq!(reply.deleted as usize, keys.len());
}

/// Live records that are not among the ten nearest to their own embedding.
async fn unreachable(api: &mut Api, set: &DataSet, live: &Live) -> Vec<String> {
    let mut missing = Vec::new();
    let live: Vec<(&String, &usize)> = live.iter().collect();
    for page in live.chunks(200) {
        let mut request = api::nearest(COLLECTION, "text", &[], 10);
        request.queries = page
            .iter()
            .map(|(_, number)| v1::Query {
                name: "text".into(),
                near: Some(v1::query::Near::Embedding(api::embedding("", set.embedding(**number)))),
                ..Default::default()
            })
            .collect();
        let reply = api.records.search(request).await.unwrap().into_inner();
        for ((key, _), hits) in page.iter().zip(reply.results) {
            assert_eq!(hits.hits.len(), 10);
            if !hits.hits.iter().any(|hit| hit.record.as_ref().unwrap().key == key.as_bytes()) {
                missing.push((*key).clone());
            }
        }
    }
    missing
}

/// Bytes of all files below a folder.
fn disk_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            // A file that went away meanwhile takes nothing.
            other => other.map_or(0, |metadata| metadata.len()),
        })
        .sum()
}

/// What the data takes once the node has come to rest: on disk, and in memory, mapped segments too.
async fn at_rest(node: &Node, api: &mut Api, data: &Path) -> (u64, u64) {
    let begin = Instant::now();
    let (mut last, mut same) = ((0, 0), 0);
    // A node seals what it has after two seconds without a write.
    while same < 40 && begin.elapsed() < Duration::from_secs(60) {
        let now = (disk_bytes(data), api.stats(COLLECTION).await.disk_bytes);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (last.0, node.memory_bytes() + last.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_rounds_of_churn_everything_live_is_found_and_nothing_has_grown() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let set = data::shipped();
    let folder = tempfile::tempdir().unwrap();
    let start = || Start::default().with(&["--log-file-mib", "1"]);
    let node = start().ready(folder.path()).await;
    let mut api = node.api().await;
    api.create(COLLECTION, &[("text", set.dimension as u32, v1::Metric::Cosine)]).await;
    let key = |number: usize| format!("key {number}");
    let records: Vec<_> = (0..RECORDS).map(|number| (key(number), number)).collect();
    put(&mut api, COLLECTION, &set, &records).await;
    let mut live: Live = records.into_iter().collect();
    let mut keys: Vec<String> = live.keys().cloned().collect();
    chance.shuffle(&mut keys);
    let gone = keys.split_off(RECORDS / 2);
    delete(&mut api, &gone).await;
    live.retain(|key, _| !gone.contains(key));
    // A third of what is left gets another embedding.
    let replaced: Vec<_> = keys[..keys.len() / 3].iter().map(|key| (key.clone(), chance.index(RECORDS))).collect();
    put(&mut api, COLLECTION, &set, &replaced).await;
    live.extend(replaced);
    let rounds = setting("LOCI_ROUNDS", ROUNDS);
    let mut after_first = (0, 0);
    for round in 1..=rounds {
        let mut keys: Vec<String> = live.keys().cloned().collect();
        chance.shuffle(&mut keys);
        keys.truncate(COMING_AND_GOING);
        delete(&mut api, &keys).await;
        let again: Vec<_> = keys.into_iter().map(|key| (key, chance.index(RECORDS))).collect();
        put(&mut api, COLLECTION, &set, &again).await;
        live.extend(again);
        let missing = unreachable(&mut api, &set, &live).await;
        assert!(missing.is_empty(), "LOCI_SEED={seed}, round {round}: not found by their own embedding: {missing:?}");
        if round == 1 {
            // At rest the node seals its buffer and links it: the state that every later round comes back to.
            api.wait_indexed(COLLECTION, PATIENCE).await;
            after_first = at_rest(&node, &mut api, folder.path()).await;
        }
    }
    let after_last = at_rest(&node, &mut api, folder.path()).await;
    let stats = api.stats(COLLECTION).await;
    say(&format!(
        "churn: {} live records, 0 unreachable in {rounds} rounds; disk {} -> {} KiB, memory {} -> {} KiB after the first \
         and the last round; {stats:?}",
        live.len(),
        after_first.0 >> 10,
        after_last.0 >> 10,
        after_first.1 >> 10,
        after_last.1 >> 10,
    ));
    assert_eq!(stats.records as usize, live.len());
    assert!(
        after_last.0 <= 2 * after_first.0,
        "LOCI_SEED={seed}: disk grew from {} to {}",
        after_first.0,
        after_last.0
    );
    assert!(
        after_last.1 <= 2 * after_first.1,
        "LOCI_SEED={seed}: memory grew from {} to {}",
        after_first.1,
        after_last.1
    );
    node.kill();
    let node = start().ready(folder.path()).await;
    let missing = unreachable(&mut node.api().await, &set, &live).await;
    assert!(missing.is_empty(), "LOCI_SEED={seed}: after a restart: {missing:?}");
}

/// Which part of the exact answers is found at the default effort.
async fn recall(api: &mut Api, collection: &str, set: &DataSet) -> f64 {
    let queries = set.queries.len() / set.dimension;
    let mut hits = 0;
    for query in 0..queries {
        let request = api::nearest(collection, "text", set.query(query), 10);
        let mut answers = Vec::new();
        for request in [v1::SearchRequest { exact: true, ..request.clone() }, request] {
            let reply = api.records.search(request).await.unwrap().into_inner();
            let keys = reply.results[0].hits.iter().map(|hit| hit.record.clone().unwrap().key);
            answers.push(keys.collect::<BTreeSet<_>>());
        }
        hits += answers[0].intersection(&answers[1]).count();
    }
    hits as f64 / (10 * queries) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn after_half_is_deleted_and_much_replaced_as_much_is_found_as_in_a_new_collection() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let name = std::env::var("LOCI_SET").unwrap_or_else(|_| "minilm-60k".into());
    let set = data::larger(&name).unwrap_or_else(data::shipped);
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let mut api = node.api().await;
    let key = |number: usize| format!("key {number}");
    // So that each one that is replaced gets an embedding that was not there before.
    let count = set.records.len() * 10 / 13;
    let records: Vec<_> = (0..count).map(|number| (key(number), number)).collect();
    api.create(COLLECTION, &[("text", set.dimension as u32, v1::Metric::Cosine)]).await;
    put(&mut api, COLLECTION, &set, &records).await;
    api.wait_indexed(COLLECTION, PATIENCE).await;

    let mut numbers: Vec<usize> = (0..count).collect();
    chance.shuffle(&mut numbers);
    let (gone, kept) = numbers.split_at(count / 2);
    let mut live: Live = kept.iter().map(|&number| (key(number), number)).collect();
    let replaced: Vec<_> = kept[..count * 3 / 10].iter().map(|&number| key(number)).zip(count..).collect();
    for (gone, replaced) in gone.chunks(500).zip(replaced.chunks(300)) {
        delete(&mut api, &gone.iter().map(|&number| key(number)).collect::<Vec<_>>()).await;
        put(&mut api, COLLECTION, &set, replaced).await;
    }
    live.extend(replaced);
    let missing = unreachable(&mut api, &set, &live).await;
    assert!(missing.is_empty(), "LOCI_SEED={seed}: at work, not found by their own embedding: {missing:?}");
    let at_work = recall(&mut api, COLLECTION, &set).await;
    at_rest(&node, &mut api, folder.path()).await;
    api.wait_indexed(COLLECTION, PATIENCE).await;
    let missing = unreachable(&mut api, &set, &live).await;
    assert!(missing.is_empty(), "LOCI_SEED={seed}: at rest, not found by their own embedding: {missing:?}");
    let turned = recall(&mut api, COLLECTION, &set).await;

    api.create("anew", &[("text", set.dimension as u32, v1::Metric::Cosine)]).await;
    put(&mut api, "anew", &set, &live.clone().into_iter().collect::<Vec<_>>()).await;
    at_rest(&node, &mut api, folder.path()).await;
    api.wait_indexed("anew", PATIENCE).await;
    let anew = recall(&mut api, "anew", &set).await;
    say(&format!(
        "{}: {} of {count} records are left, 0 unreachable; recall@10 {at_work:.4} at work, {turned:.4} at rest, {anew:.4} \
         in a new collection",
        set.name,
        live.len()
    ));
    let stats = api.stats(COLLECTION).await;
    assert!(stats.records as usize == live.len() && stats.graph_segments > 0, "{stats:?}");
    assert!(at_work >= anew - 0.01 && turned >= anew - 0.01, "LOCI_SEED={seed}: {at_work} {turned} {anew}");
}
