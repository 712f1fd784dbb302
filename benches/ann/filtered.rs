//! Filtered searches through a store, with its planner: half of the records down to one in a thousand, by chance and
//! correlated with the query.
//!
//! | kind | which records the filter takes |
//! |---|---|
//! | random | any, whatever their embedding: `chance < share` |
//! | near | those nearest to the landmark that is nearest to the query |
//! | far | those nearest to the landmark that is farthest from the query: what matches is nowhere near it |
//!
//! Each is measured beside two exact scans: the store's own, which evaluates the filter on every record, and one that was
//! given the list of matching rows and compares with each, which no filter can be faster at.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use loci_index::attributes::{self, Attributes, Value};
use loci_index::command::{
    Action, Change, Command, Content, EmbeddingSpec, Entry, Envelope, IndexKind, IndexSpec, Origin, Outcome, Schema,
};
use loci_index::directory::MmapDirectory;
use loci_index::distance::Metric;
use loci_index::filter::{Filter, Limit, Range};
use loci_index::graph::GraphOptions;
use loci_index::store::{Store, StoreOptions};
use loci_index::view::{CollectionView, Effort, SearchRequest, SearchResult, SearchScratch};
use serde_json::json;

use crate::ladder::{hits, quantile};
use crate::set::{K, Set};
use crate::{Args, progress};

/// So many records that correlated filters are about.
const LANDMARKS: usize = 8;
const SHARES: [f64; 4] = [0.5, 0.1, 0.01, 0.001];
const EFFORT: Effort = Effort::Ef(loci_index::graph::EF_DEFAULT);
/// Records in one entry.
const BATCH: usize = 256;

/// For each row its place in a random order, and in the order of distance from each landmark.
struct Orders {
    chance: Vec<u32>,
    landmarks: Vec<(usize, Vec<u32>)>,
}

impl Orders {
    fn new(set: &Set) -> Orders {
        let kernel = Metric::Cosine.kernel();
        let rank = |mut keyed: Vec<(f32, u32)>| {
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let mut ranks = vec![0; keyed.len()];
            (0..).zip(keyed).for_each(|(rank, (_, row))| ranks[row as usize] = rank);
            ranks
        };
        let rows = 0..set.len() as u32;
        // A multiplicative hash: by chance for all that the embeddings know.
        let mixed = |row: u32| ((u64::from(row) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32;
        let chance = rank(rows.clone().map(|row| (mixed(row), row)).collect());
        let landmarks = (0..LANDMARKS).map(|i| {
            let landmark = (2 * i + 1) * set.len() / (2 * LANDMARKS);
            let distance = |row: u32| kernel(set.record(landmark), set.record(row as usize));
            (landmark, rank(rows.clone().map(|row| (distance(row), row)).collect()))
        });
        Orders { chance, landmarks: landmarks.collect() }
    }

    /// The landmarks that are nearest to and farthest from a query.
    fn nearest_and_farthest(&self, set: &Set, query: &[f32]) -> (usize, usize) {
        let kernel = Metric::Cosine.kernel();
        let distance = |i: &usize| kernel(query, set.record(self.landmarks[*i].0));
        let by = |a: &usize, b: &usize| distance(a).total_cmp(&distance(b));
        let (nearest, farthest) = ((0..LANDMARKS).min_by(by), (0..LANDMARKS).max_by(by));
        (nearest.unwrap_or(0), farthest.unwrap_or(0))
    }
}

fn below(name: &str, limit: usize) -> Filter {
    let high = Limit { value: Value::Int(limit as i64), inclusive: false };
    Filter::Range(vec![name.to_owned()], Range { low: None, high: Some(high) })
}

/// All records in a store whose segments are sealed and merged.
fn ingest(args: &Args, set: &Set, orders: &Orders, folder: &Path) -> Store {
    let directory = Arc::new(MmapDirectory::open(folder).expect("a folder of our own"));
    let graph = GraphOptions { m: args.m, ef_construction: args.ef_construction, threads: args.threads };
    let options = StoreOptions { graph, ..StoreOptions::default() };
    let mut store = Store::create(directory.clone(), options, [1; 32], 0).expect("an empty folder takes a store");
    let mut index = 0;
    let mut apply = |store: &mut Store, command: Command| {
        index += 1;
        let entry = Entry { clock: index, commands: vec![Envelope { origin: Origin::default(), command }] };
        store.apply(index, &entry.encode()).expect("an entry of our own").remove(0)
    };
    let work = |store: &mut Store| {
        while let Some(job) = store.next_job() {
            let installed = store.install(job.run(&*directory, &AtomicBool::new(false)));
            assert!(installed.error.is_none(), "{installed:?}");
        }
    };
    apply(&mut store, Command::CreateNamespace { name: "bench".into() });
    let metric = Metric::Cosine.code();
    let embeddings = vec![EmbeddingSpec::new("embedding", set.dimension as u32, metric)];
    let names = ["chance".to_owned()].into_iter().chain((0..LANDMARKS).map(|i| format!("near{i}")));
    let indexes = names.map(|name| IndexSpec { path: vec![name], kind: IndexKind::Value }).collect();
    let schema = Schema { embeddings, indexes, ..Schema::default() };
    let create = Command::CreateCollection { namespace: "bench".into(), name: "set".into(), schema };
    let Outcome::Created { collection } = apply(&mut store, create) else { panic!("the collection was not made") };

    let bar = progress("ingesting and merging", Some(set.len() as u64));
    let rows: Vec<usize> = (0..set.len()).collect();
    for rows in rows.chunks(BATCH) {
        let changes = rows.iter().map(|&row| {
            let mut named = Attributes::from([("chance".to_owned(), Value::Int(orders.chance[row].into()))]);
            for (i, (_, ranks)) in orders.landmarks.iter().enumerate() {
                named.insert(format!("near{i}"), Value::Int(ranks[row].into()));
            }
            let attributes = attributes::encode(&named).expect("a few numbers");
            let content = Content { attributes, embeddings: vec![(0, set.record(row).to_vec())], ..Content::default() };
            Change { collection, key: (row as u32).to_be_bytes().to_vec(), action: Action::Put(content) }
        });
        apply(&mut store, Command::Write { conditions: vec![], changes: changes.collect() });
        work(&mut store);
        bar.inc(rows.len() as u64);
    }
    store.request_checkpoint();
    work(&mut store);
    bar.finish_and_clear();
    store
}

/// What one kind of search found and took.
#[derive(Default)]
struct Tally {
    found: usize,
    wanted: usize,
    micros: Vec<f64>,
    distances: usize,
    walked: usize,
    scanned: usize,
}

impl Tally {
    fn recall(&self) -> f64 {
        self.found as f64 / self.wanted.max(1) as f64
    }

    fn qps(&self) -> f64 {
        self.micros.len() as f64 / (self.micros.iter().sum::<f64>() / 1e6)
    }

    fn quantile(&self, p: f64) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, p)
    }

    fn take(&mut self, result: &SearchResult<'_>, truth: &[u32; K], micros: f64) {
        let row = |key: &[u8]| key.try_into().map_or(u32::MAX, u32::from_be_bytes);
        let found: Vec<u32> = result.hits.iter().map(|hit| row(hit.record.key())).collect();
        let there = truth.iter().filter(|row| **row != u32::MAX).count();
        self.wanted += there;
        self.found += hits(&found, truth).min(there);
        self.micros.push(micros);
        self.distances += result.distances;
        self.walked += result.walked;
        self.scanned += result.scanned;
    }
}

struct Bench<'a> {
    collection: CollectionView<'a>,
    scratch: SearchScratch,
}

impl Bench<'_> {
    /// The fastest of two searches, so that the first's cache misses are not taken for the plan's.
    fn search(&mut self, query: &[f32], effort: Effort, filter: Option<&Filter>, truth: &[u32; K], tally: &mut Tally) {
        let request = SearchRequest { field: 0, query, k: K, effort, filter, max_distance: None, now: 0 };
        let mut fastest = f64::INFINITY;
        for _ in 0..2 {
            let begun = Instant::now();
            let result = self.collection.search(&request, &mut self.scratch, &mut || true);
            fastest = fastest.min(begun.elapsed().as_secs_f64() * 1e6);
            drop(result);
        }
        let result = self.collection.search(&request, &mut self.scratch, &mut || true).expect("a search that fits");
        tally.take(&result, truth, fastest);
    }
}

/// Measures all kinds and shares; a line of JSON for each.
pub fn measure(args: &Args, set: &Set, folder: &Path) {
    let orders = Orders::new(set);
    let store = ingest(args, set, &orders, folder);
    let view = store.view();
    let collection = view.collection("bench", "set").expect("the collection was made");
    let stats = collection.stats();
    let graphs = stats.segments.iter().filter(|segment| segment.graph).count();
    eprintln!(
        "{}: {} records in {} segments, {graphs} with a graph, and {} in the buffer; {} queries, ef {:?}",
        set.name,
        stats.records,
        stats.segments.len(),
        stats.buffer_rows,
        set.queries().len(),
        EFFORT
    );
    let mut bench = Bench { collection, scratch: SearchScratch::new() };
    let mut unfiltered = Tally::default();
    for (query, truth) in set.queries().zip(&set.truth) {
        bench.search(query, EFFORT, None, truth, &mut unfiltered);
    }
    eprintln!(
        "{:8} {:>7} {:>8} {:>9} {:>8} {:>8} {:>9} {:>7} {:>7} {:>9} {:>9} {:>6}",
        "filter",
        "share",
        "recall",
        "qps",
        "p50 us",
        "p99 us",
        "distances",
        "walked",
        "scanned",
        "scan qps",
        "list qps",
        "goal"
    );
    report(set, "none", 1.0, &unfiltered, &unfiltered, &unfiltered, unfiltered.qps());
    let bar = progress("filtered searches", Some(3 * SHARES.len() as u64));
    for kind in ["random", "near", "far"] {
        for share in SHARES {
            let limit = ((set.len() as f64 * share) as usize).max(1);
            let (mut ours, mut scans, mut lists) = (Tally::default(), Tally::default(), Tally::default());
            let mut asked = Vec::new();
            for query in set.queries() {
                let (nearest, farthest) = orders.nearest_and_farthest(set, query);
                let landmark = if kind == "near" { nearest } else { farthest };
                let (name, ranks) = match kind {
                    "random" => ("chance".to_owned(), &orders.chance),
                    _ => (format!("near{landmark}"), &orders.landmarks[landmark].1),
                };
                let matching: Vec<u32> =
                    (0..).zip(ranks).filter(|(_, rank)| (**rank as usize) < limit).map(|(row, _)| row).collect();
                let begun = Instant::now();
                let truth = set.nearest(query, matching.iter().copied());
                lists.micros.push(begun.elapsed().as_secs_f64() * 1e6);
                asked.push((query, below(&name, limit), truth));
            }
            // Each kind on its own, as the unfiltered searches are: a scan leaves nothing of the graph in the cache.
            for (query, filter, truth) in &asked {
                bench.search(query, EFFORT, Some(filter), truth, &mut ours);
            }
            for (query, filter, truth) in &asked {
                bench.search(query, Effort::Exact, Some(filter), truth, &mut scans);
            }
            bar.suspend(|| report(set, kind, share, &ours, &scans, &lists, unfiltered.qps()));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
}

fn report(set: &Set, kind: &str, share: f64, ours: &Tally, scans: &Tally, lists: &Tally, unfiltered_qps: f64) {
    let count = ours.micros.len() as f64;
    let each = |total: usize| total as f64 / count;
    let row = json!({
        "engine": "loci",
        "set": set.name,
        "filter": kind,
        "share": share,
        "recall": ours.recall(),
        "qps": ours.qps(),
        "p50_us": ours.quantile(0.5),
        "p99_us": ours.quantile(0.99),
        "distances": each(ours.distances),
        "segments_walked": each(ours.walked),
        "segments_scanned": each(ours.scanned),
        "unfiltered_qps": unfiltered_qps,
        "scan_qps": scans.qps(),
        "scan_recall": scans.recall(),
        "list_qps": lists.qps(),
    });
    println!("{row}");
    // Half of what is faster, searching without a filter or an exact scan.
    let goal = ours.qps() >= 0.5 * unfiltered_qps.max(scans.qps()) && ours.recall() >= 0.95;
    eprintln!(
        "{kind:8} {:>6.1}% {:>8.4} {:>9.0} {:>8.1} {:>8.1} {:>9.0} {:>7.2} {:>7.2} {:>9.0} {:>9.0} {:>6}",
        share * 100.0,
        ours.recall(),
        ours.qps(),
        ours.quantile(0.5),
        ours.quantile(0.99),
        each(ours.distances),
        each(ours.walked),
        each(ours.scanned),
        scans.qps(),
        lists.qps(),
        if goal { "met" } else { "missed" },
    );
}
