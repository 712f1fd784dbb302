//! Deleting and adding again and again: everything that lives is found, and what is dead takes no room.

use std::collections::BTreeMap;

use super::*;
use crate::record::CollectionId;
use crate::store::JobKind;
use crate::view::{Effort, SearchRequest, SearchScratch};

const DIMENSION: usize = 64;

/// A point near one of 40 centres.
fn clustered(random: &mut Random) -> Vec<f32> {
    let mut centre = Random::new(1_000 + random.below(40));
    let mut embedding: Vec<f32> = (0..DIMENSION).map(|_| centre.float() + 0.3 * random.float()).collect();
    Metric::Cosine.prepare(&mut embedding).unwrap();
    embedding
}

struct Churn {
    shard: Shard,
    collection: u64,
    random: Random,
    live: BTreeMap<u64, Vec<f32>>,
}

impl Churn {
    fn write(&mut self, changes: Vec<Change>) {
        for part in changes.chunks(50) {
            self.shard.command(write(part.to_vec()));
            // Jobs as they come, one at a time, as a busy node would have it.
            if let Some(job) = self.shard.store.next_job() {
                let done = self.shard.run(job);
                assert!(self.shard.store.install(done).error.is_none());
            }
        }
    }

    fn put(&mut self, keys: Vec<u64>) {
        let mut changes = Vec::new();
        for key in keys {
            let embedding = clustered(&mut self.random);
            let content = Content { embeddings: vec![(0, embedding.clone())], ..value("some text that is kept") };
            changes.push(change(self.collection, &format!("k{key}"), Action::Put(content)));
            self.live.insert(key, embedding);
        }
        self.write(changes);
    }

    fn delete(&mut self, keys: &[u64]) {
        let changes = keys.iter().map(|key| delete(self.collection, &format!("k{key}"))).collect();
        keys.iter().for_each(|key| drop(self.live.remove(key)));
        self.write(changes);
    }

    /// How many live records are not within the ten nearest of their own embedding.
    fn unreachable(&self) -> usize {
        let view = self.shard.store.view();
        let collection = view.collection_by_id(CollectionId(self.collection)).unwrap();
        let mut scratch = SearchScratch::new();
        let is_found = |(key, embedding): (&u64, &Vec<f32>), scratch: &mut SearchScratch| {
            let request = SearchRequest {
                field: 0,
                query: embedding,
                k: 10,
                effort: Effort::default(),
                filter: None,
                max_distance: None,
                now: 0,
            };
            let result = collection.search(&request, scratch, &mut || true).unwrap();
            result.hits.iter().any(|hit| hit.record.key() == format!("k{key}").as_bytes())
        };
        self.live.iter().filter(|record| !is_found(*record, &mut scratch)).count()
    }

    /// Bytes on disk and in memory once there is nothing left to do.
    fn sizes(&mut self) -> (usize, u64) {
        assert!(self.shard.checkpoint().iter().all(|installed| installed.error.is_none()));
        let stats = self.shard.store.view().stats();
        assert_eq!(stats.records, self.live.len() as u64);
        assert!(stats.segments <= 8, "{stats:?}");
        // Searches touch all of the mapped segments, so they count as memory too.
        (self.shard.disk_bytes(), stats.memory_bytes + stats.disk_bytes)
    }
}

#[test]
fn after_much_churn_everything_is_found_and_takes_no_more_room() {
    let graph = GraphOptions { ef_construction: 100, ..GraphOptions::default() };
    let options = StoreOptions { buffer_rows_max: 512, graph_rows_min: 512, graph, ..StoreOptions::default() };
    let mut shard = Shard::new(options);
    shard.command(Command::CreateNamespace { name: "n".into() });
    let schema = Schema { embeddings: specs(1, DIMENSION as u32, Metric::Cosine), ..Schema::default() };
    let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
    let Outcome::Created { collection } = shard.command(create) else { panic!() };
    let mut churn = Churn { shard, collection, random: Random::new(9), live: BTreeMap::new() };

    churn.put((0..4_000).collect());
    churn.delete(&(0..4_000).filter(|key| key % 2 == 0).collect::<Vec<_>>());
    churn.put((0..4_000).filter(|key| key % 6 == 1).collect());
    let mut first = None;
    for round in 0..20 {
        let start = churn.random.below(3_000);
        let keys: Vec<u64> = (start..start + 1_000).collect();
        churn.delete(&keys);
        churn.put(keys);
        if matches!(round, 0 | 7 | 19) {
            assert_eq!(churn.unreachable(), 0, "round {round}, at work");
            let sizes = churn.sizes();
            assert_eq!(churn.unreachable(), 0, "round {round}, at rest");
            let live = churn.live.len();
            let (first_live, (disk, memory)) = *first.get_or_insert((live, sizes));
            // There may be more records now than after the first round; the room is for those that live.
            let allowed = |bytes: f64| 2.0 * bytes * (live as f64 / first_live as f64).max(1.0);
            assert!((sizes.0 as f64) <= allowed(disk as f64), "disk {sizes:?} after {first:?}");
            assert!((sizes.1 as f64) <= allowed(memory as f64), "memory {sizes:?} after {first:?}");
        }
    }
    let stats = churn.shard.store.view().collection_by_id(CollectionId(collection)).unwrap().stats();
    assert!(stats.segments.iter().any(|segment| segment.graph), "{stats:?}");
    churn.shard.restart();
    assert_eq!(churn.unreachable(), 0, "after a restart");
    assert_eq!(churn.shard.store.digest(), churn.shard.store.digest_from_records());
}

/// A checkpoint writes all remembered requests, and its small segment is soon merged: neither may bring about the next one.
#[test]
fn few_keys_written_again_and_again_make_few_checkpoints() {
    const KEYS: u64 = 10_000;
    const WRITES: u64 = 300_000;
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    let mut random = Random::new(7);
    let text = "v".repeat(100);
    let (mut checkpoints, mut merges) = (0, 0);
    for _ in 0..WRITES / 100 {
        let changes = (0..100).map(|_| put(collection, &format!("k{}", random.below(KEYS)), &text)).collect();
        shard.command(write(changes));
        // Jobs as they come, one at a time, as a busy node would have it.
        if let Some(job) = shard.store.next_job() {
            let done = shard.run(job);
            match shard.store.install(done).kind {
                JobKind::Checkpoint => checkpoints += 1,
                JobKind::Merge => merges += 1,
            }
        }
    }
    let (disk_bytes, live_bytes) = (shard.disk_bytes(), KEYS as usize * 110);
    assert!((1..=3).contains(&checkpoints), "{checkpoints} checkpoints, {merges} merges");
    assert!(disk_bytes < live_bytes + (80 << 20), "{disk_bytes} bytes on the disk");
}
