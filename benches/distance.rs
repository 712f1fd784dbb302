//! Every distance kernel that this processor runs, on embeddings that lie in the cache.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use loci_index::distance::{Metric, kernels};
use std::hint::black_box;

fn distance(criterion: &mut Criterion) {
    for metric in [Metric::Cosine, Metric::Dot, Metric::SquaredL2] {
        let mut group = criterion.benchmark_group(format!("distance/{metric}"));
        for dimension in [100, 384, 768, 1536] {
            let a: Vec<f32> = (0..dimension).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..dimension).map(|i| (i as f32 * 0.11).cos()).collect();
            group.throughput(Throughput::Elements(dimension as u64));
            for (name, kernel) in kernels(metric) {
                group.bench_function(BenchmarkId::new(name, dimension), |bench| {
                    bench.iter(|| kernel(black_box(&a), black_box(&b)));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, distance);
criterion_main!(benches);
