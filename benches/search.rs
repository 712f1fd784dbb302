//! Searching a segment's graph, beside hnsw_rs searching its own graph with the same parameters, and the exact scan.
//!
//! Recall is printed once for each effort before the times: a time without its recall says nothing.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hnsw_rs::prelude::{DistDot, Hnsw};
use loci_benches::{DIMENSION, Glosses, Numbered};
use loci_index::directory::RamDirectory;
use loci_index::distance::Metric;
use loci_index::graph::GraphOptions;
use loci_index::graph::search::Scratch;
use loci_index::segment::{Effort, FieldSpec, Search, Segment, Spec, write};

const K: usize = 10;

fn segment(glosses: &Glosses, graph: GraphOptions) -> Segment {
    let rows = Numbered::new(DIMENSION, &glosses.records);
    let dimension = DIMENSION as u32;
    let fields = [FieldSpec { name: String::new(), dimension, metric: Metric::Cosine, half: false, coded: true }];
    let spec =
        Spec { collection: 1, sparse: 0, texts: &[], fields: &fields, indexes: &[], graph: Some(graph), hash_seed: 1 };
    let directory = RamDirectory::new();
    write(&directory, "glosses", &spec, &rows, &AtomicBool::new(false)).expect("the shipped data make a segment");
    Segment::open(&directory, "glosses").expect("what was written opens")
}

fn recall(found: impl Iterator<Item = Vec<usize>>, glosses: &Glosses) -> f64 {
    let hits = found
        .zip(glosses.questions())
        .map(|(found, (_, truth))| truth.iter().filter(|&&row| found.contains(&(row as usize))).count());
    hits.sum::<usize>() as f64 / (glosses.questions().count() * K) as f64
}

fn searching(criterion: &mut Criterion) {
    let glosses = Glosses::load();
    let rows = glosses.records.len() / DIMENSION;
    let options = GraphOptions { threads: 2, ..GraphOptions::default() };
    let segment = segment(&glosses, options);

    // The crate's own distance asserts that embeddings are exactly normalised; shrunk a little, they are.
    let shrunk: Vec<Vec<f32>> =
        (0..rows).map(|row| glosses.record(row).iter().map(|x| x * 0.999_99).collect()).collect();
    let peer = Hnsw::<f32, DistDot>::new(options.m, rows, 16, options.ef_construction, DistDot {});
    let numbered: Vec<_> = shrunk.iter().enumerate().map(|(row, embedding)| (embedding, row)).collect();
    peer.parallel_insert(&numbered);

    let mut group = criterion.benchmark_group("search");
    let mut scratch = Scratch::new();
    for ef in [16, 32, 64, 128] {
        let mut ours = |query: &[f32]| {
            let search = Search { field: 0, query, k: K, effort: Effort::Graph { ef, budget: None } };
            let _ = segment.nearest(&search, |_| true, || true, &mut scratch).expect("the query fits");
            scratch.hits().iter().map(|hit| hit.row as usize).collect::<Vec<_>>()
        };
        let theirs = |vector: &[f32]| peer.search(vector, K, ef).iter().map(|hit| hit.d_id).collect::<Vec<_>>();
        let (mine, other) = (
            recall(glosses.questions().map(|(query, _)| ours(query)), &glosses),
            recall(glosses.questions().map(|(query, _)| theirs(query)), &glosses),
        );
        println!("recall@10 at ef {ef}: loci {mine:.4}, hnsw_rs {other:.4}");
        let mut queries = glosses.queries.chunks_exact(DIMENSION).cycle();
        group.bench_function(BenchmarkId::new("loci", ef), |bench| {
            bench.iter(|| black_box(ours(queries.next().expect("it cycles"))));
        });
        let mut queries = glosses.queries.chunks_exact(DIMENSION).cycle();
        group.bench_function(BenchmarkId::new("hnsw_rs", ef), |bench| {
            bench.iter(|| black_box(theirs(queries.next().expect("it cycles"))));
        });
    }
    let mut queries = glosses.queries.chunks_exact(DIMENSION).cycle();
    for (name, effort) in [("exact scan", Effort::Exact), ("scan of codes", Effort::Codes)] {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let query = queries.next().expect("it cycles");
                let search = Search { field: 0, query, k: K, effort };
                let _ = segment.nearest(&search, |_| true, || true, &mut scratch).expect("the query fits");
                black_box(scratch.hits().len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, searching);
criterion_main!(benches);
