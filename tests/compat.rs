//! Data directories that earlier versions made: this program opens each and finds everything in it.
//!
//! `tests/fixtures/data-v1.tar.gz` was made by version 1 of the data directory, killed while it ran: segments with a graph,
//! ended versions, answered requests, and a log that goes on after them. It is never made again. A new version of the
//! directory gets a file of its own: `LOCI_MAKE_FIXTURE=data-v2.tar.gz cargo test -p loci-tests --test compat`.

use std::path::{Path, PathBuf};
use std::process::Command;

use loci_tests::api::{self, Api};
use loci_tests::chance::Chance;
use loci_tests::process::{PATIENCE, Start};
use loci_tests::say;
use loci_wire::v1;

const FIXTURE: &str = "data-v1.tar.gz";
const SEGMENT_RECORDS: usize = 1_200;
const RECORDS: usize = 1_300;
/// The year 2100: no deadline of the fixture passes.
const DEADLINE: u64 = 4_102_444_800_000;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Record number `number` of the fixture. Never changes.
fn record(number: usize) -> v1::Record {
    let mut chance = Chance::new(number as u64);
    let components: Vec<f32> = (0..8).map(|_| chance.component()).collect();
    let list = v1::ListValue { values: vec![api::int(number as i64), api::text("tag")] };
    let mut record = api::record(format!("key {number}").as_bytes(), format!("value {number}").as_bytes());
    record.attributes = api::attributes([
        ("number", api::int(number as i64)),
        ("half", v1::Value { kind: Some(v1::value::Kind::Float(number as f64 / 2.0)) }),
        ("list", v1::Value { kind: Some(v1::value::Kind::List(list)) }),
    ]);
    record.embeddings = vec![api::embedding("place", &components)];
    record.deadline_millis = if number.is_multiple_of(10) { DEADLINE } else { 0 };
    record
}

/// Every seventh record is deleted again.
fn is_deleted(number: usize) -> bool {
    number.is_multiple_of(7)
}

async fn put(api: &mut Api, numbers: std::ops::Range<usize>) -> u64 {
    let request = v1::PutRequest {
        origin: api::origin(format!("put {}", numbers.start).as_bytes()),
        collection: api::collection("things"),
        records: numbers.map(record).collect(),
        ..Default::default()
    };
    api.records.put(request).await.unwrap().into_inner().version
}

async fn delete(api: &mut Api, numbers: std::ops::Range<usize>) {
    let request = v1::DeleteRequest {
        collection: api::collection("things"),
        keys: numbers.filter(|number| is_deleted(*number)).map(|number| record(number).key).collect(),
        ..Default::default()
    };
    api.records.delete(request).await.unwrap();
}

fn start() -> Start {
    Start::default().with(&["--log-file-mib", "1"])
}

fn tar(words: &[&str]) {
    let status = Command::new("tar").args(words).status().expect("tar runs");
    assert!(status.success(), "tar {words:?}: {status}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths are text")
}

async fn make(file: &Path) {
    assert!(!file.exists(), "{} is there, and is never made again", file.display());
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = start().ready(&data).await;
    let mut api = node.api().await;
    api.create("things", &[("place", 8, v1::Metric::SquaredL2)]).await;
    api.create("cache", &[]).await;
    put(&mut api, 0..SEGMENT_RECORDS).await;
    // A stop writes a segment, and the next run links it.
    assert!(node.terminate().success());
    let node = start().ready(&data).await;
    let mut api = node.api().await;
    api.wait_indexed("things", PATIENCE).await;
    delete(&mut api, 0..SEGMENT_RECORDS / 2).await;
    assert!(node.terminate().success());
    let node = start().ready(&data).await;
    let mut api = node.api().await;
    put(&mut api, SEGMENT_RECORDS..RECORDS).await;
    delete(&mut api, SEGMENT_RECORDS / 2..RECORDS).await;
    let request = v1::PutRequest {
        collection: api::collection("cache"),
        records: vec![api::record(b"answer", b"42")],
        ..Default::default()
    };
    api.records.put(request).await.unwrap();
    node.kill();
    std::fs::create_dir_all(fixtures()).unwrap();
    tar(&["-C", text(folder.path()), "--sort=name", "--owner=0", "--group=0", "-czf", text(file), "data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_version_1_opens_with_everything_in_it() {
    if let Some(name) = std::env::var_os("LOCI_MAKE_FIXTURE") {
        make(&fixtures().join(name)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    tar(&["-C", text(folder.path()), "-xzf", text(&fixtures().join(FIXTURE))]);
    let data = folder.path().join("data");
    let node = start().ready(&data).await;
    let mut api = node.api().await;
    let all = api.all("things").await;
    let expected: Vec<usize> = (0..RECORDS).filter(|number| !is_deleted(*number)).collect();
    assert_eq!(all.len(), expected.len());
    for number in &expected {
        let expected = record(*number);
        let found = all.iter().find(|found| found.key == expected.key);
        let mut found = found.unwrap_or_else(|| panic!("{:?} is not there", expected.key)).clone();
        found.version = 0;
        assert_eq!(found, expected);
    }
    let stats = api.stats("things").await;
    assert!(stats.graph_segments > 0, "the graph of version 1 is read, not built again: {stats:?}");
    for number in expected.iter().step_by(11) {
        let record = record(*number);
        let request = api::nearest("things", "place", &api::components(&record.embeddings[0]), 1);
        let reply = api.records.search(request).await.unwrap().into_inner();
        let hit = reply.results[0].hits[0].record.clone().unwrap();
        assert_eq!(hit.key, record.key, "record {number} is the nearest to itself");
    }
    let cached = api.all("cache").await;
    assert_eq!(cached.len(), 1);
    assert_eq!(cached[0].value.as_deref(), Some(&b"42"[..]));
    // It goes on from there: the next write is newer than all that was, and survives.
    let newest = all.iter().map(|record| record.version).max().unwrap();
    let version = put(&mut api, RECORDS + 1..RECORDS + 2).await;
    assert!(version > newest, "{version} after {newest}");
    node.kill();
    let node = start().ready(&data).await;
    assert_eq!(node.api().await.all("things").await.len(), expected.len() + 1);
    say("compat: a data directory of version 1 opened with everything in it");
}
