//! Merging while nobody writes.

use super::*;
use crate::view::StoreStats;

const DIMENSION: u32 = 4;

/// A store that has a few segments with graphs.
struct Rest {
    shard: Shard,
    collection: u64,
    random: Random,
}

impl Rest {
    fn new() -> Rest {
        let mut shard = Shard::new(small());
        let collection = shard.collection("c", 1);
        Rest { shard, collection, random: Random::new(5) }
    }

    /// Writes so many records, and seals and links them as a node does that is never at rest.
    fn write(&mut self, keys: std::ops::Range<u64>) {
        let changes = keys.map(|key| {
            let embedding = (0..DIMENSION).map(|_| self.random.float()).collect();
            let content = Content { embeddings: vec![(0, embedding)], ..value("x") };
            change(self.collection, &format!("k{key}"), Action::Put(content))
        });
        self.shard.command(write(changes.collect()));
        self.settle();
    }

    fn settle(&mut self) {
        assert!(self.shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    }

    fn stats(&self) -> StoreStats {
        self.shard.store.view().stats()
    }
}

#[test]
fn while_nobody_writes_segments_become_one() {
    let mut rest = Rest::new();
    rest.write(0..300);
    rest.write(300..500);
    rest.write(500..600);
    let before = rest.stats();
    assert_eq!(before.segments, 3, "without rest they are left alone");
    rest.shard.store.rest();
    rest.settle();
    let after = rest.stats();
    assert_eq!((after.segments, after.records), (1, 600));
    assert_eq!(after.digest, before.digest, "where records lie is nothing that members need to agree on");
    // Rest goes on, and there is nothing left to do.
    rest.shard.store.rest();
    assert!(rest.shard.rest().is_empty());
}

#[test]
fn a_write_ends_the_rest() {
    for changes in [|c| vec![put(c, "new", "x")], |c| vec![delete(c, "k7")]] {
        let mut rest = Rest::new();
        rest.write(0..300);
        rest.write(300..500);
        rest.shard.store.rest();
        rest.shard.command(write(changes(rest.collection)));
        rest.settle();
        assert!(rest.stats().segments >= 2);
    }
}

#[test]
fn few_new_records_do_not_have_a_large_segment_written_again() {
    let mut rest = Rest::new();
    rest.write(0..1_600);
    rest.write(1_600..1_700);
    rest.shard.store.rest();
    rest.settle();
    assert_eq!(rest.stats().segments, 2);
    rest.write(1_700..1_800);
    rest.shard.store.rest();
    rest.settle();
    assert_eq!(rest.stats().segments, 1, "two hundred are an eighth of what there was");
}

#[test]
fn a_merge_for_rest_is_told_that_another_waits_and_can_be_given_up() {
    let mut rest = Rest::new();
    rest.write(0..300);
    rest.write(300..500);
    rest.shard.store.rest();
    let merge = rest.shard.store.next_job().unwrap();
    assert!(merge.is_for_rest() && !rest.shard.store.is_kept_from_merging());
    let changes = (0..100).map(|key| {
        let content = Content { embeddings: vec![(0, vec![key as f32; DIMENSION as usize])], ..value("x") };
        change(rest.collection, &format!("new{key}"), Action::Put(content))
    });
    rest.shard.command(write(changes.collect()));
    rest.shard.store.request_checkpoint();
    let checkpoint = rest.shard.store.next_job().unwrap();
    let done = rest.shard.run(checkpoint);
    assert!(rest.shard.store.install(done).error.is_none());
    assert!(rest.shard.store.next_job().is_none(), "one merge at a time");
    assert!(rest.shard.store.is_kept_from_merging());
    let done = merge.run(&rest.shard.directory, &AtomicBool::new(true));
    let installed = rest.shard.store.install(done);
    assert!(matches!(installed.error, Some(crate::store::JobError::Cancelled)), "{installed:?}");
    assert!(!rest.shard.store.is_kept_from_merging());
    let next = rest.shard.store.next_job().unwrap();
    assert!(next.kind() == crate::store::JobKind::Merge && !next.is_for_rest());
    let done = rest.shard.run(next);
    assert!(rest.shard.store.install(done).error.is_none());
    rest.settle();
    assert_eq!(rest.stats().records, 600);
}

#[test]
fn a_graph_saves_a_search_most_of_the_bytes() {
    let mut rest = Rest::new();
    let bytes = |rest: &Rest, candidates| {
        let view = rest.shard.store.view();
        view.collection_by_id(crate::record::CollectionId(rest.collection)).unwrap().search_bytes(candidates)
    };
    let changes = (0..2_000).map(|key| {
        let content = Content { embeddings: vec![(0, vec![key as f32; DIMENSION as usize])], ..value("x") };
        change(rest.collection, &format!("k{key}"), Action::Put(content))
    });
    rest.shard.command(write(changes.collect()));
    assert_eq!(bytes(&rest, 10), 2_000 * 4 * 2, "codes of all in memory, and some embeddings");
    rest.settle();
    assert_eq!(bytes(&rest, 10), 160 * 4, "the codes that a walk comes to");
    assert_eq!(bytes(&rest, usize::MAX), 2_000 * 4);
}
