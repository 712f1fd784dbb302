//! Searching the newest records by codes: exactly what comparing with each of them finds.

use super::*;
use crate::record::CollectionId;
use crate::store::JobKind;
use crate::view::{Effort, SearchRequest, SearchScratch};

const DIMENSION: usize = 96;

/// Near one of few centres, so that many are about equally far; some are the same.
fn embedding(random: &mut Random, metric: Metric) -> Vec<f32> {
    let mut centre = Random::new(50 + random.below(5));
    let spread = [0.0, 0.001, 0.1, 1.0][random.below(4) as usize];
    let mut embedding: Vec<f32> = (0..DIMENSION).map(|_| centre.float() + spread * random.float()).collect();
    metric.prepare(&mut embedding).unwrap();
    embedding
}

#[test]
fn what_is_found_among_the_newest_is_what_comparing_with_each_finds() {
    for (seed, metric) in [Metric::Cosine, Metric::Dot, Metric::SquaredL2].into_iter().cycle().take(12).enumerate() {
        let mut random = Random::new(seed as u64);
        // A segment, buffers that a checkpoint has frozen, and one that is written to.
        let mut shard = Shard::new(StoreOptions { buffer_rows_max: 400, graph_rows_min: 1_000_000, ..small() });
        shard.command(Command::CreateNamespace { name: "n".into() });
        let schema = Schema { embeddings: specs(2, DIMENSION as u32, metric), ..Schema::default() };
        let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
        let Outcome::Created { collection } = shard.command(create) else { panic!() };
        let mut checkpoint = None;
        for round in 0..30 {
            let changes = (0..40).map(|_| {
                let key = format!("k{}", random.below(900));
                if random.chance(20) {
                    return delete(collection, &key);
                }
                let fields = (0..2).filter(|_| random.chance(90)).collect::<Vec<u16>>();
                let embeddings = fields.into_iter().map(|field| (field, embedding(&mut random, metric))).collect();
                change(collection, &key, Action::Put(Content { embeddings, ..value("x") }))
            });
            shard.command(write(changes.collect()));
            if round == 8 {
                shard.rest();
            }
            if round == 20 {
                shard.store.request_checkpoint();
                checkpoint = shard.store.next_job();
            }
        }
        assert!(checkpoint.is_some(), "seed {seed}");
        let view = shard.store.view();
        let shown = view.collection_by_id(CollectionId(collection)).unwrap();
        let mut scratch = SearchScratch::new();
        for ask in 0..40 {
            let query = embedding(&mut random, metric);
            let (field, k) = (random.below(2) as u16, 1 + random.below(30) as usize);
            let mut expected = Vec::new();
            let mut add = |record: crate::view::RecordRef<'_>| {
                if let Some(embedding) = record.embedding(field) {
                    expected.push((metric.kernel()(&query, &embedding), record.key().to_vec()));
                }
            };
            shown.each(&mut || true, &mut add).unwrap();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            expected.truncate(k);
            let request = SearchRequest {
                field,
                query: &query,
                k,
                effort: Effort::Exact,
                filter: None,
                max_distance: None,
                now: 0,
            };
            let result = shown.search(&request, &mut scratch, &mut || true).unwrap();
            let found = result.hits.iter().map(|hit| (hit.distance, hit.record.key().to_vec())).collect::<Vec<_>>();
            assert_eq!(found, expected, "seed {seed} ask {ask} {metric:?} k {k}");
        }
    }
}

#[test]
fn what_is_found_by_key_only_is_written_to_segments_less_often() {
    let options = || StoreOptions { buffer_rows_max: 10, buffer_keys_max: 30, ..small() };
    for (schema, rows) in
        [(Schema::default(), 30), (Schema { embeddings: specs(1, 4, Metric::Cosine), ..Schema::default() }, 10)]
    {
        let mut shard = Shard::new(options());
        shard.command(Command::CreateNamespace { name: "n".into() });
        let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
        let Outcome::Created { collection } = shard.command(create) else { panic!() };
        for row in 1..=rows {
            assert!(shard.store.next_job().is_none(), "{row} of {rows}");
            shard.command(write(vec![change(collection, &format!("k{row}"), Action::Put(value("x")))]));
        }
        assert!(shard.store.next_job().is_some_and(|job| job.kind() == JobKind::Checkpoint), "after {rows}");
    }
}
