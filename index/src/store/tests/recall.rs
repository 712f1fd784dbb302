//! How much of what is nearest is found in real data, with and without filters.

use super::*;
use crate::attributes::{self, Attributes, Value};
use crate::command::{IndexKind, IndexSpec};
use crate::filter::{Filter, Limit, Range};
use crate::real_set::RealSet;
use crate::view::{Effort, SearchRequest, SearchResult, SearchScratch, View};

/// Embeddings with what to filter them by.
struct Set {
    real: RealSet,
    categories: Vec<String>,
}

impl Set {
    fn new(real: RealSet) -> Set {
        Set { categories: real.categories(), real }
    }
}

/// All records of the set, ingested with jobs as they come, and merged to rest.
fn ingest(set: &Set, options: StoreOptions, indexes: Vec<IndexSpec>) -> Shard {
    let mut shard = Shard::new(options);
    shard.command(Command::CreateNamespace { name: "n".into() });
    let embeddings = specs(1, set.real.dimension as u32, Metric::Cosine);
    let schema = Schema { embeddings, indexes, ..Schema::default() };
    let ranks = ranks(set);
    let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
    let Outcome::Created { collection } = shard.command(create) else { panic!() };
    let rows: Vec<usize> = (0..set.real.len()).collect();
    for rows in rows.chunks(256) {
        let changes = rows.iter().map(|&row| {
            let attributes = Attributes::from([
                ("category".to_owned(), Value::String(set.categories[row].clone())),
                ("mod".to_owned(), Value::Int((row % 1_000) as i64)),
                ("rank".to_owned(), Value::Int(ranks[row])),
            ]);
            let content = Content {
                attributes: attributes::encode(&attributes).unwrap(),
                embeddings: vec![(0, set.real.get(row).to_vec())],
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
    let mut order: Vec<usize> = (0..set.real.len()).collect();
    let distance = |row: usize| kernel(set.real.get(0), set.real.get(row));
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
        let value = Value::Int((set.real.len() as f64 * share) as i64);
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
pub(super) fn recall<'q>(view: &View, queries: impl Iterator<Item = &'q [f32]>, filter: Option<&Filter>) -> f64 {
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
    let Some(set) = RealSet::shipped().map(Set::new) else { return };
    for indexes in [vec![], indexes()] {
        let options = StoreOptions { buffer_rows_max: 1_500, ..StoreOptions::default() };
        let mut shard = ingest(&set, options, indexes.clone());
        assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
        let view = shard.store.view();
        let stats = view.collection("n", "c").unwrap().stats();
        assert!(stats.segments.iter().any(|segment| segment.graph), "{stats:?}");
        for (name, filter) in filters(&set, "noun.plant") {
            let recall = recall(&view, set.real.queries(), filter.as_ref());
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
        println!("skipped: set LOCI_MEASURE=1 and LOCI_DATA to a folder of sets");
        return;
    }
    let set = Set::new(RealSet::larger().expect("it is in LOCI_DATA"));
    let start = std::time::Instant::now();
    let graph = GraphOptions { threads: 2, ..GraphOptions::default() };
    let shard = ingest(&set, StoreOptions { graph, ..StoreOptions::default() }, indexes());
    let seconds = start.elapsed().as_secs_f64();
    println!("{} records applied and indexed in {seconds:.1} s, {} bytes", set.real.len(), shard.disk_bytes());
    let view = shard.store.view();
    println!("{:#?}", view.collection("n", "c").unwrap().stats());
    let mut scratch = SearchScratch::new();
    for (name, filter) in filters(&set, "noun.artifact") {
        let filter = filter.as_ref();
        let recall = recall(&view, set.real.queries().take(200), filter);
        let mut times = Vec::new();
        let (mut distances, mut walked, mut scanned) = (0, 0, 0);
        for query in set.real.queries() {
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
