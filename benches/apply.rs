//! Entries through the store: puts of small cached values, the same as callers send them, each with a request id, and of glosses
//! with embeddings.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use loci_benches::{DIMENSION, Glosses};
use loci_index::command::{Action, Change, Command, Content, EmbeddingSpec, Entry, Envelope, Origin, Outcome, Schema};
use loci_index::directory::RamDirectory;
use loci_index::distance::Metric;
use loci_index::store::{Store, StoreOptions};

const BATCH: usize = 256;

/// More than are remembered at a time.
const REQUESTS: usize = 250_000;
const KEYS: usize = 10_000;

/// Of commands with their request ids.
fn entry(clock: u64, commands: Vec<(Vec<u8>, Command)>) -> Vec<u8> {
    let origin = |request_id| Origin { request_id, principal: "someone".into(), ..Origin::default() };
    let commands = commands.into_iter().map(|(id, command)| Envelope { origin: origin(id), command });
    Entry { clock, commands: commands.collect() }.encode()
}

fn apply(criterion: &mut Criterion) {
    let glosses = Glosses::load();
    let rows = glosses.records.len() / DIMENSION;
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (embedded, has_ids) in [(false, false), (false, true), (true, false)] {
        let directory = Arc::new(RamDirectory::new());
        let mut store = Store::create(directory.clone(), StoreOptions::default(), [7; 32], 0).expect("memory has room");
        let spec = EmbeddingSpec::new("", DIMENSION as u32, Metric::Cosine.code());
        let schema = Schema { embeddings: if embedded { vec![spec] } else { vec![] }, ..Schema::default() };
        let namespace = String::from("n");
        let found = entry(
            1,
            vec![
                (vec![], Command::CreateNamespace { name: namespace.clone() }),
                (vec![], Command::CreateCollection { namespace, name: "c".into(), schema }),
            ],
        );
        let outcomes = store.apply(1, &found).expect("it is the first entry");
        let Some(Outcome::Created { collection }) = outcomes.last() else { panic!("{outcomes:?}") };
        let (mut index, mut row) = (1, 0);
        let name = match (embedded, has_ids) {
            (true, _) => "embedded",
            (false, false) => "cached 100 bytes",
            (false, true) => "cached 100 bytes, with ids",
        };
        // An id must not come again while it is remembered.
        let entries = if has_ids { REQUESTS.div_ceil(BATCH) } else { 1 };
        let made: Vec<_> = (0..entries)
            .map(|_| {
                let commands = (0..BATCH).map(|_| {
                    row += 1;
                    let content = Content {
                        value: Some(vec![7; 100]),
                        embeddings: if embedded { vec![(0, glosses.record(row % rows).to_vec())] } else { vec![] },
                        ..Content::default()
                    };
                    let key = format!("key:{}", row % KEYS).into_bytes();
                    let change = Change { collection: *collection, key, action: Action::Put(content) };
                    let id = if has_ids { (row as u128).to_le_bytes().to_vec() } else { vec![] };
                    (id, Command::Write { conditions: vec![], changes: vec![change] })
                });
                entry(2, commands.collect())
            })
            .collect();
        group.bench_function(BenchmarkId::new(name, BATCH), |bench| {
            bench.iter(|| {
                index += 1;
                let made = &made[index as usize % made.len()];
                black_box(store.apply(index, made).expect("it is the next entry"));
                // The buffer is sealed as the node would, or it would fill the memory.
                while let Some(job) = store.next_job() {
                    let done = job.run(&*directory, &std::sync::atomic::AtomicBool::new(false));
                    assert!(store.install(done).error.is_none(), "memory has room");
                }
            });
        });
        group.bench_function(BenchmarkId::new(format!("{name}, only hashed"), BATCH), |bench| {
            bench.iter(|| black_box(blake3::hash(&made[0])));
        });
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
