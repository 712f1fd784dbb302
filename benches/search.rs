//! Searching the flat graph, beside hnsw_rs searching its own graph with the same parameters, and the exact scan.
//!
//! Recall is printed once for each effort before the times: a time without its recall says nothing.

use std::hint::black_box;
use std::sync::atomic::AtomicBool;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hnsw_rs::prelude::{DistDot, Hnsw};
use loci_benches::{DIMENSION, Glosses};
use loci_index::distance::Metric;
use loci_index::graph::search::{Query, Scratch, search};
use loci_index::graph::{self, FlatVectors, GraphOptions, GraphRef};
use loci_index::scan::{Nearest, scan};

const K: usize = 10;

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
    let kernel = Metric::Cosine.kernel();
    let (graph, _) =
        graph::build::build(Metric::Cosine, rows, &|row| glosses.record(row), &options, &AtomicBool::new(false))
            .expect("the shipped data build a graph");
    let shape = graph.shape().expect("what was built has a shape");
    let flat = GraphRef::new(&shape, &graph.layer0, &graph.upper);
    let vectors = FlatVectors::new(&glosses.records, DIMENSION, DIMENSION);

    // The crate's own distance asserts that embeddings are exactly normalised; shrunk a little, they are.
    let shrunk: Vec<Vec<f32>> =
        (0..rows).map(|row| glosses.record(row).iter().map(|x| x * 0.999_99).collect()).collect();
    let peer = Hnsw::<f32, DistDot>::new(options.m, rows, 16, options.ef_construction, DistDot {});
    let numbered: Vec<_> = shrunk.iter().enumerate().map(|(row, embedding)| (embedding, row)).collect();
    peer.parallel_insert(&numbered);

    let mut group = criterion.benchmark_group("search");
    let mut scratch = Scratch::new();
    for ef in [16, 32, 64, 128] {
        let mut ours = |vector: &[f32]| {
            let query = Query { vector, kernel, k: K, ef, budget: None };
            let _ = search(flat, &vectors, &query, |_| true, || true, &mut scratch);
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
    let mut nearest = Nearest::new();
    let mut queries = glosses.queries.chunks_exact(DIMENSION).cycle();
    group.bench_function("exact scan", |bench| {
        bench.iter(|| {
            let query = queries.next().expect("it cycles");
            let rows = (0..).zip(glosses.records.chunks_exact(DIMENSION));
            let _ = scan(kernel, query, K, rows, |_| true, || true, &mut nearest);
            black_box(nearest.hits().len())
        });
    });
    group.finish();
}

criterion_group!(benches, searching);
criterion_main!(benches);
