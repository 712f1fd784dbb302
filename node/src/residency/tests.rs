//! What is kept, and a node whose index is four times its budget.

use loci_index::command::{Action, Change, Command, Content};
use loci_index::record::CollectionId;
use loci_index::view::{Effort, SearchRequest, SearchScratch};

use super::*;
use crate::config::Config;
use crate::run::Node;
use crate::trial::{self, start, until, write};

const RECORDS: u32 = 6_000;
const DIMENSION: usize = 64;
const VALUE_BYTES: usize = 2_000;

#[test]
fn what_is_kept_depends_on_what_fits() {
    for (mapped, walked, room, expected) in [
        (0, 0, 0, State::Hot),
        (100, 50, 100, State::Hot),
        (1_001, 750, 1_000, State::Walk),
        (1_001, 751, 1_000, State::Cold),
        (1_001, 0, 0, State::Walk),
    ] {
        assert_eq!(choose(mapped, walked, room), expected, "{mapped} {walked} {room}");
    }
}

#[test]
fn only_files_below_the_folder_are_counted() {
    let smaps = "7f00-7f10 r--s 00000000 08:01 12  /data/shards/1/7.segment\nSize: 8 kB\nRss:                8 kB\n\
                 7f10-7f20 r--s 00000000 08:01 13  /data/shards/1/6.segment (deleted)\nRss:    4 kB\n\
                 7f20-7f30 r--s 00000000 08:01 14  /data/shards-of-others/6.segment\nRss:    100 kB\n\
                 7f30-7f40 rw-p 00000000 00:00 0\nRss:    1000 kB\n";
    assert_eq!(resident_in(smaps, "/data/shards"), 12 << 10);
    assert_eq!(resident_in("", "/data"), 0);
}

fn embedding(number: u32) -> Vec<f32> {
    trial::embedding(number, DIMENSION)
}

async fn ingest(node: &Node) {
    let CollectionId(collection) = trial::create(node, DIMENSION).await;
    let numbers: Vec<u32> = (0..RECORDS).collect();
    for numbers in numbers.chunks(1_000) {
        let changes = numbers.iter().map(|number| {
            let value = Some(vec![*number as u8; VALUE_BYTES]);
            let content = Content { value, embeddings: vec![(0, embedding(*number))], ..Content::default() };
            Change { collection, key: format!("k{number:05}").into_bytes(), action: Action::Put(content) }
        });
        write(node, Command::Write { conditions: vec![], changes: changes.collect() }).await;
    }
}

/// Keys, distances and the values' first bytes of what is nearest: each search touches graph, embeddings and values.
fn found(view: &View, query: &[f32], effort: Effort) -> Vec<(Vec<u8>, f32, u8)> {
    let request = SearchRequest { field: 0, query, k: 10, effort, filter: None, max_distance: None, now: 0 };
    let collection = view.collection("n", "c").unwrap();
    let result = collection.search(&request, &mut SearchScratch::new(), &mut || true).unwrap();
    let hits = result.hits.iter();
    hits.map(|hit| (hit.record.key().to_vec(), hit.distance, hit.record.value().unwrap()[VALUE_BYTES - 1])).collect()
}

fn answers(view: &View) -> Vec<Vec<(Vec<u8>, f32, u8)>> {
    let queries = (0..100).map(|number| embedding(1_000_000 + number));
    queries.flat_map(|query| [found(view, &query, Effort::default()), found(view, &query, Effort::Exact)]).collect()
}

#[tokio::test]
async fn a_node_whose_index_is_four_times_its_budget_answers_alike_and_stays_within_it() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { recall_one_in: 0, walk_rate: 0, ..Config::local(directory.path()) };
    let node = start(config.clone()).await;
    ingest(&node).await;
    node.shutdown().await.unwrap();
    let node = start(config.clone()).await;
    let figures = node.status().residency();
    until("one segment with a graph", || {
        let stats = node.shard().newest().collection("n", "c").unwrap().stats();
        stats.segments.len() == 1 && stats.segments[0].graph
    })
    .await;
    until("all of it in memory", || figures.resident_bytes() >= figures.mapped_bytes()).await;
    assert_eq!(figures.state(), State::Hot);
    let expected = answers(&node.shard().newest());
    let index_bytes = figures.mapped_bytes();
    node.shutdown().await.unwrap();

    let small = Config { memory_bytes: index_bytes / 4, ..config };
    let node = start(small).await;
    let (figures, budget) = (node.status().residency(), node.status().budget());
    until("the budget to be noticed", || figures.state() != State::Hot).await;
    for round in 0..3 {
        assert_eq!(answers(&node.shard().newest()), expected, "round {round}");
        let folder = directory.path().canonicalize().unwrap();
        let within = || resident_bytes(&folder) + budget.used() <= budget.bytes();
        until("the process to be within its budget", within).await;
    }
    node.shutdown().await.unwrap();
}
