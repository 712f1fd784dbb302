//! What a whole node knows of its recall, and how it mends a graph that does not lead to every record.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use loci_client::{Client, Collection};
use loci_index::command::{Action, Change, Command, Content};
use loci_index::record::CollectionId;
use loci_index::view::{Effort, SearchRequest, SearchScratch, View};

use crate::config::Config;
use crate::run::Node;
use crate::trial::{self, start, until, write};

const RECORDS: u32 = 3_000;
const DIMENSION: usize = 16;
/// Kinds of sections, as the front page of segments numbers them.
const NODE_ROWS: u16 = 20;
const LAYER0: u16 = 23;
const UPPER: u16 = 24;

fn embedding(number: u32) -> Vec<f32> {
    trial::embedding(number, DIMENSION)
}

/// A node with one collection whose records are all in one segment with a graph.
async fn linked(config: Config) -> (Node, CollectionId) {
    let node = start(config).await;
    let id = trial::create(&node, DIMENSION).await;
    let changes = (0..RECORDS).map(|number| {
        let content = Content { embeddings: vec![(0, embedding(number))], ..Content::default() };
        Change { collection: id.0, key: format!("k{number:05}").into_bytes(), action: Action::Put(content) }
    });
    write(&node, Command::Write { conditions: vec![], changes: changes.collect() }).await;
    // A node that stops writes its buffers to a segment, and the next one links it.
    (node, id)
}

fn graphs(view: &View, id: CollectionId) -> Vec<u64> {
    view.collection_by_id(id).unwrap().graph_segments()
}

/// Starts it again after a stop, and waits for the graph.
async fn restarted(node: Node, config: Config, id: CollectionId) -> Node {
    node.shutdown().await.unwrap();
    let node = start(config).await;
    until("a graph", || graphs(&node.shard().newest(), id).len() == 1).await;
    node
}

async fn client(node: &Node) -> Collection {
    let client = Client::connect(format!("http://{}", node.local_addr())).await.unwrap();
    client.collection("n", "c")
}

fn keys(view: &View, query: &[f32], k: usize, effort: Effort) -> Vec<Vec<u8>> {
    let request = SearchRequest { field: 0, query, k, effort, filter: None, max_distance: None, now: 0 };
    let collection = view.collection("n", "c").unwrap();
    let found = collection.search(&request, &mut SearchScratch::new(), &mut || true).unwrap();
    found.hits.iter().map(|hit| hit.record.key().to_vec()).collect()
}

#[tokio::test]
async fn the_recall_that_is_told_is_the_one_that_is_computed() {
    const QUERIES: u32 = 60;
    const K: usize = 10;
    let directory = tempfile::tempdir().unwrap();
    let config = Config { recall_one_in: 1, walk_rate: 0, ..Config::local(directory.path()) };
    let (node, id) = linked(config.clone()).await;
    let node = restarted(node, config, id).await;
    assert_eq!(node.status().recall().known(id).recall(), None);
    let collection = client(&node).await;
    let (mut found, mut all) = (0, 0);
    let recall = node.status().recall();
    let view = node.shard().newest();
    for number in 0..QUERIES {
        // Little effort, so that not everything is found.
        let query = embedding(1_000_000 + number);
        collection.search(query.clone()).k(K as u32).ef(K as u32).hits().await.unwrap();
        let exact = keys(&view, &query, K, Effort::Exact);
        let got = keys(&view, &query, K, Effort::Ef(K));
        all += exact.len();
        found += exact.iter().filter(|key| got.contains(key)).count();
        // Else some would be dropped: the queue is short, and the thread rests in between.
        until("the search to be run again", || recall.known(id).samples > u64::from(number)).await;
    }
    // An exact search is not sampled.
    collection.search(embedding(1)).exact().hits().await.unwrap();
    let known = recall.known(id);
    assert_eq!(known.samples, u64::from(QUERIES), "{:?}", recall.dropped().collect::<Vec<_>>());
    assert!(found < all, "the test wants searches that miss something");
    assert_eq!((known.found, known.nearest), (found as u64, all as u64));
    node.shutdown().await.unwrap();
}

/// The file of the only segment.
fn segment_file(folder: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"LOCISEG\0")) {
                found.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn number(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// Where the lines of a segment's table are.
fn lines(bytes: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let count = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    (0..count).map(|i| 64 + i * 32)
}

fn section(bytes: &[u8], kind: u16) -> Range<usize> {
    let line = lines(bytes).find(|&at| bytes[at..at + 2] == kind.to_le_bytes()).expect("there is such a section");
    number(bytes, line + 8)..number(bytes, line + 8) + number(bytes, line + 16)
}

/// Takes away every link to a node that only the lowest layer knows, and puts right checksums over it. Gives its row.
fn hide_a_node(bytes: &mut [u8]) -> u32 {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let upper: Vec<u32> = bytes[section(bytes, UPPER)].chunks_exact(4).map(word).collect();
    let node = (RECORDS / 2..).find(|node| !upper.contains(node)).unwrap();
    let layer0 = section(bytes, LAYER0);
    for link in bytes[layer0].chunks_exact_mut(4).filter(|link| word(link) == node) {
        link.copy_from_slice(&(node - 1).to_le_bytes());
    }
    let mut table_end = bytes.len();
    for line in lines(bytes) {
        let start = number(bytes, line + 8);
        table_end = table_end.min(start);
        let end = (start + number(bytes, line + 16)).next_multiple_of(4096);
        let crc = crc32fast::hash(&bytes[start..end]).to_le_bytes();
        bytes[line + 4..line + 8].copy_from_slice(&crc);
    }
    let crc = crc32fast::hash(&bytes[64..table_end]).to_le_bytes();
    bytes[56..60].copy_from_slice(&crc);
    let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    let rows = section(bytes, NODE_ROWS);
    word(&bytes[rows][4 * node as usize..][..4])
}

#[tokio::test]
async fn a_record_that_no_link_leads_to_is_noticed_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let still = Config { walk_rate: 0, ..Config::local(directory.path()) };
    let (node, id) = linked(still.clone()).await;
    // A second stop, so that the manifest names the linked segment and nothing else is left.
    let node = restarted(node, still.clone(), id).await;
    node.shutdown().await.unwrap();
    let file = segment_file(directory.path());
    let mut bytes = fs::read(&file).unwrap();
    let hidden = hide_a_node(&mut bytes);
    fs::write(&file, bytes).unwrap();
    // Rows are in the order of their keys.
    let key = format!("k{hidden:05}").into_bytes();

    let node = start(still).await;
    let view = node.shard().newest();
    let before = graphs(&view, id);
    assert_ne!(keys(&view, &embedding(hidden), 1, Effort::default()), std::slice::from_ref(&key), "it is hidden");
    drop(view);
    node.shutdown().await.unwrap();

    let node = start(Config { walk_rate: 100_000, ..Config::local(directory.path()) }).await;
    let walker = node.status().walker();
    until("a new graph", || graphs(&node.shard().newest(), id) != before).await;
    let walked = walker.walked(id);
    assert_eq!((walked.unfound, walked.relinks), (1, 1), "{walked:?}");
    let view = node.shard().newest();
    assert_eq!(keys(&view, &embedding(hidden), 1, Effort::default()), [key]);
    // Another round from its beginning to its end finds nothing to complain of.
    let rounds = walker.rounds();
    until("two more rounds", || walker.rounds() >= rounds + 2).await;
    let walked = walker.walked(id);
    assert_eq!((walked.unfound, walked.relinks), (1, 1), "{walked:?}");
    assert!(walked.checked >= u64::from(RECORDS), "{walked:?}");
    node.shutdown().await.unwrap();
}
