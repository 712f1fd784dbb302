//! How much of what is nearest is found in real data, with and without filters.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::attributes::{self, Attributes, Value};
use crate::command::{IndexKind, IndexSpec};
use crate::filter::{Filter, Limit, Range};
use crate::view::{Effort, SearchRequest, SearchResult, SearchScratch, View};

/// Embeddings with what to filter them by.
struct Set {
    dimension: usize,
    base: Vec<Vec<f32>>,
    categories: Vec<String>,
    queries: Vec<Vec<f32>>,
}

/// The shipped set, or another of the same layout in the folder that `LOCI_DATA` names.
fn real(name: &str) -> Option<Set> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../data").into();
    let places: [PathBuf; 2] = [std::env::var("LOCI_DATA").unwrap_or_default().into(), shipped];
    let place = places.into_iter().map(|place| place.join(name)).find(|place| place.join("embeddings.npy").exists())?;
    let (dimension, base) = npy(place.join("embeddings.npy"));
    let (_, queries) = npy(place.join("queries.npy"));
    let records = fs::read_to_string(place.join("records.jsonl")).ok()?;
    let category = |line: &str| {
        let (_, rest) = line.split_once("\"category\": \"").unwrap_or_default();
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    Some(Set { dimension, base, categories: records.lines().map(category).collect(), queries })
}

/// A table of f32 or f16, with length 1 in each row.
fn npy(path: PathBuf) -> (usize, Vec<Vec<f32>>) {
    let bytes = fs::read(path).unwrap();
    let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..header_end]);
    let (_, shape) = header.split_once(", ").and_then(|_| header.split_once("'shape': (")).unwrap();
    let dimension: usize = shape.split([',', ')']).nth(1).unwrap().trim().parse().unwrap();
    let body = &bytes[header_end..];
    let floats: Vec<f32> = if header.contains("<f4") {
        body.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    } else {
        body.chunks_exact(2).map(|b| half(u16::from_le_bytes([b[0], b[1]]))).collect()
    };
    let mut rows: Vec<Vec<f32>> = floats.chunks_exact(dimension).map(<[f32]>::to_vec).collect();
    rows.iter_mut().for_each(|row| Metric::Cosine.prepare(row).unwrap());
    (dimension, rows)
}

/// An f16 as f32; ours are all finite.
fn half(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    if bits & 0x8000 == 0 { scaled } else { -scaled }
}

/// All records of the set, ingested with jobs as they come, and merged to rest.
fn ingest(set: &Set, options: StoreOptions, indexes: Vec<IndexSpec>) -> Shard {
    let mut shard = Shard::new(options);
    shard.command(Command::CreateNamespace { name: "n".into() });
    let embeddings = specs(1, set.dimension as u32, Metric::Cosine);
    let schema = Schema { embeddings, indexes, ..Schema::default() };
    let ranks = ranks(set);
    let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
    let Outcome::Created { collection } = shard.command(create) else { panic!() };
    let rows: Vec<usize> = (0..set.base.len()).collect();
    for rows in rows.chunks(256) {
        let changes = rows.iter().map(|&row| {
            let attributes = Attributes::from([
                ("category".to_owned(), Value::String(set.categories[row].clone())),
                ("mod".to_owned(), Value::Int((row % 1_000) as i64)),
                ("rank".to_owned(), Value::Int(ranks[row])),
            ]);
            let content = Content {
                attributes: attributes::encode(&attributes).unwrap(),
                embeddings: vec![(0, set.base[row].clone())],
                ..Content::default()
            };
            change(collection, &format!("k{row:06}"), Action::Put(content))
        });
        shard.command(write(changes.collect()));
        // The log is not replayed here.
        shard.log.iter_mut().for_each(|(entry, _)| *entry = Vec::new());
        if let Some(job) = shard.store.next_job() {
            let done = shard.run(job);
            assert!(shard.store.install(done).error.is_none());
        }
    }
    assert!(shard.rest().iter().all(|installed| installed.error.is_none()));
    shard
}

/// For each record its place in the order of distance from the first one: to filter by what the query is about, or is not.
fn ranks(set: &Set) -> Vec<i64> {
    let kernel = Metric::Cosine.kernel();
    let mut order: Vec<usize> = (0..set.base.len()).collect();
    let distance = |row: usize| kernel(&set.base[0], &set.base[row]);
    order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    let mut ranks = vec![0; order.len()];
    (0..).zip(order).for_each(|(rank, row)| ranks[row] = rank);
    ranks
}

fn filters(set: &Set, category: &str) -> Vec<(String, Option<Filter>)> {
    let random = |below: i64| {
        let values = (0..below).map(Value::Int).collect();
        Some(Filter::In(vec!["mod".into()], values))
    };
    let near = |share: f64| {
        let value = Value::Int((set.base.len() as f64 * share) as i64);
        let high = Some(Limit { value, inclusive: false });
        Filter::Range(vec!["rank".into()], Range { low: None, high })
    };
    let far = |share: f64| Some(Filter::Not(Box::new(near(1.0 - share))));
    let of_category = Filter::Equal(vec!["category".into()], Value::String(category.into()));
    vec![
        ("none".into(), None),
        ("half, by chance".into(), random(500)),
        ("10 %, by chance".into(), random(100)),
        ("3 %, by chance".into(), random(30)),
        ("1 %, by chance".into(), random(10)),
        ("0.1 %, by chance".into(), random(1)),
        (category.into(), Some(of_category)),
        ("half, in one place".into(), Some(near(0.5))),
        ("half, elsewhere".into(), far(0.5)),
        ("10 %, in one place".into(), Some(near(0.1))),
        ("10 %, elsewhere".into(), far(0.1)),
        ("1 %, in one place".into(), Some(near(0.01))),
        ("1 %, elsewhere".into(), far(0.01)),
    ]
}

fn indexes() -> Vec<IndexSpec> {
    ["mod", "category", "rank"].map(|path| IndexSpec { path: vec![path.into()], kind: IndexKind::Value }).into()
}

fn search<'v>(
    view: &'v View,
    query: &[f32],
    effort: Effort,
    filter: Option<&Filter>,
    scratch: &mut SearchScratch,
) -> SearchResult<'v> {
    let request = SearchRequest { field: 0, query, k: 10, effort, filter, max_distance: None, now: 0 };
    view.collection("n", "c").unwrap().search(&request, scratch, &mut || true).unwrap()
}

/// The share of what is found of the ten nearest, at the default effort.
fn recall(view: &View, queries: &[Vec<f32>], filter: Option<&Filter>) -> f64 {
    let mut scratch = SearchScratch::new();
    let (mut found, mut all) = (0, 0);
    for query in queries {
        let exact = search(view, query, Effort::Exact, filter, &mut scratch);
        let got = search(view, query, Effort::default(), filter, &mut scratch);
        assert_eq!(got.hits.len(), exact.hits.len());
        let is_found = |key: &[u8]| got.hits.iter().any(|hit| hit.record.key() == key);
        found += exact.hits.iter().filter(|hit| is_found(hit.record.key())).count();
        all += exact.hits.len();
    }
    f64::from(found as u32) / f64::from(all as u32)
}

#[test]
fn nearly_all_that_is_nearest_is_found_in_real_data_whatever_the_filter() {
    let Some(set) = real("wordnet-5k") else {
        println!("skipped: no wordnet-5k in the folder that LOCI_DATA names");
        return;
    };
    for indexes in [vec![], indexes()] {
        let options = StoreOptions { buffer_rows_max: 1_500, ..StoreOptions::default() };
        let mut shard = ingest(&set, options, indexes.clone());
        assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
        let view = shard.store.view();
        let stats = view.collection("n", "c").unwrap().stats();
        assert!(stats.segments.iter().any(|segment| segment.graph), "{stats:?}");
        for (name, filter) in filters(&set, "noun.plant") {
            let recall = recall(&view, &set.queries, filter.as_ref());
            assert!(recall >= 0.95, "{name}: {recall}, indexes {indexes:?}");
        }
    }
}

/// Prints recall, times and costs on the large set; takes minutes. `LOCI_MEASURE=1 LOCI_DATA=... cargo test --release -p
/// loci-index measure_searches -- --nocapture`.
#[test]
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock; nothing is decided by it")]
fn measure_searches_of_the_large_real_set() {
    if std::env::var_os("LOCI_MEASURE").is_none() {
        println!("skipped: set LOCI_MEASURE=1 and LOCI_DATA to the folder that holds minilm-60k");
        return;
    }
    let set = real("minilm-60k").expect("minilm-60k is in LOCI_DATA");
    let start = std::time::Instant::now();
    let graph = GraphOptions { threads: 2, ..GraphOptions::default() };
    let shard = ingest(&set, StoreOptions { graph, ..StoreOptions::default() }, indexes());
    let seconds = start.elapsed().as_secs_f64();
    println!("{} records applied and indexed in {seconds:.1} s, {} bytes", set.base.len(), shard.disk_bytes());
    let view = shard.store.view();
    println!("{:#?}", view.collection("n", "c").unwrap().stats());
    let mut scratch = SearchScratch::new();
    for (name, filter) in filters(&set, "noun.artifact") {
        let filter = filter.as_ref();
        let recall = recall(&view, &set.queries[..200], filter);
        let mut times = Vec::new();
        let (mut distances, mut walked, mut scanned) = (0, 0, 0);
        for query in &set.queries {
            let start = std::time::Instant::now();
            let result = search(&view, query, Effort::default(), filter, &mut scratch);
            times.push(start.elapsed().as_secs_f64() * 1e6);
            distances += result.distances;
            walked += result.walked;
            scanned += result.scanned;
        }
        times.sort_by(f64::total_cmp);
        let count = times.len();
        println!(
            "{name:16} recall {recall:.4}, p50 {:.0} us, p99 {:.0} us, {} distances, {walked} walked, {scanned} scanned",
            times[count / 2],
            times[count * 99 / 100],
            distances / count
        );
    }
}
