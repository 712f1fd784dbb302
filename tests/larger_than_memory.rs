//! An index four times as large as the memory there is for it: a node in a control group that allows a quarter of the
//! index, with a memory budget of the same size, answers as it did when all of it was in memory, only slower; how much is
//! printed. The kernel kills a node that takes more.
//!
//! `LOCI_CGROUP` names a memory control group that can have children, and turns it on; `LOCI_RECORDS` says how many records
//! of 768 components, `LOCI_TIMES` how many times as large as memory the index is (4).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loci_tests::api::{self, Api};
use loci_tests::chance::Chance;
use loci_tests::process::{Node, Start};
use loci_tests::{say, setting, skip};
use loci_wire::v1;

const DIMENSION: usize = 768;
const INTRINSIC: usize = 24;
const CLUSTERS: usize = 200;
const QUERIES: usize = 300;
const K: u32 = 10;
const COLLECTION: &str = "memories";

/// Embeddings that lie about centres in a space of few dimensions, as those of texts do.
struct Mixture {
    chance: Chance,
    /// From the few dimensions to the many.
    spread: Vec<f32>,
    centres: Vec<f32>,
}

impl Mixture {
    fn new() -> Mixture {
        let mut chance = Chance::new(7);
        let spread = (0..INTRINSIC * DIMENSION).map(|_| chance.component()).collect();
        let centres = (0..CLUSTERS * INTRINSIC).map(|_| chance.component()).collect();
        Mixture { chance, spread, centres }
    }

    fn draw(&mut self) -> Vec<f32> {
        let centre = self.chance.index(CLUSTERS);
        let mut embedding: Vec<f32> = (0..DIMENSION).map(|_| 0.05 * self.chance.component()).collect();
        for i in 0..INTRINSIC {
            let along = self.centres[centre * INTRINSIC + i] + 0.4 * self.chance.component();
            let row = &self.spread[i * DIMENSION..][..DIMENSION];
            embedding.iter_mut().zip(row).for_each(|(x, s)| *x += along * s);
        }
        embedding
    }
}

/// A child of the control group; gone when dropped.
struct Group(PathBuf);

impl Group {
    /// One that allows so many bytes, of either version of control groups.
    fn new(parent: &Path, bytes: u64) -> Result<Group, String> {
        let path = parent.join(format!("loci-test-{}", std::process::id()));
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir(&path).map_err(failed)?;
        let group = Group(path.clone());
        let limit =
            ["memory.max", "memory.limit_in_bytes"].map(|name| path.join(name)).into_iter().find(|f| f.exists());
        let limit = limit.ok_or_else(|| format!("{} has no memory limit", path.display()))?;
        fs::write(limit, bytes.to_string()).map_err(failed)?;
        Ok(group)
    }

    /// The most bytes that were in use at a time, pages of files among them.
    fn peak(&self) -> u64 {
        let names = ["memory.peak", "memory.max_usage_in_bytes"];
        let read = |name: &str| fs::read_to_string(self.0.join(name)).ok()?.trim().parse().ok();
        names.into_iter().find_map(read).unwrap_or(0)
    }

    /// How often its limit was met: then pages were taken back.
    fn met(&self) -> u64 {
        let counted = fs::read_to_string(self.0.join("memory.failcnt")).ok().and_then(|text| text.trim().parse().ok());
        let events = || {
            let text = fs::read_to_string(self.0.join("memory.events")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok())
        };
        counted.or_else(events).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group whose last process has just ended takes a moment to be empty.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Has the system forget what it keeps of all files below a folder: otherwise they would be in memory already, on somebody
/// else's account.
fn forget(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder of our own") {
        let path = entry.expect("a folder of our own").path();
        if path.is_dir() {
            forget(&path);
        } else if let Ok(file) = fs::File::open(&path) {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("the system takes advice");
        }
    }
}

/// Keys and distances of what is nearest.
type Answer = Vec<(Vec<u8>, f32)>;

/// What every query finds, and the middle and the 99th of a hundred of the times it took.
async fn ask(api: &mut Api, queries: &[Vec<f32>]) -> (Vec<Answer>, Duration, Duration) {
    let (mut answers, mut times) = (Vec::new(), Vec::new());
    for query in queries {
        let begun = Instant::now();
        let reply = api.records.search(api::nearest(COLLECTION, "e", query, K)).await.unwrap().into_inner();
        times.push(begun.elapsed());
        let hits = reply.results.into_iter().next().unwrap().hits.into_iter();
        answers.push(hits.map(|hit| (hit.record.unwrap().key.to_vec(), hit.distance)).collect());
    }
    times.sort_unstable();
    (answers, times[times.len() / 2], times[times.len() * 99 / 100])
}

async fn ingest(api: &mut Api, mixture: &mut Mixture, records: u64) {
    api.create(COLLECTION, &[("e", DIMENSION as u32, v1::Metric::Cosine)]).await;
    for first in (0..records).step_by(1_000) {
        let record = |number: u64| v1::Record {
            embeddings: vec![api::embedding("e", &mixture.draw())],
            ..api::record(format!("k{number:08}").as_bytes(), b"")
        };
        let records = (first..(first + 1_000).min(records)).map(record).collect();
        let request = v1::PutRequest { collection: api::collection(COLLECTION), records, ..Default::default() };
        api.records.put(request).await.unwrap();
    }
    api.wait_indexed(COLLECTION, Duration::from_secs(1_800)).await;
}

#[tokio::test]
async fn an_index_four_times_as_large_as_memory_answers_alike() {
    let Ok(parent) = std::env::var("LOCI_CGROUP") else {
        return skip("an index larger than memory", "LOCI_CGROUP names no memory control group");
    };
    let records = setting("LOCI_RECORDS", 80_000);
    let directory = tempfile::tempdir().unwrap();
    let mut mixture = Mixture::new();
    // No exact searches beside the measured ones.
    let usual = Start::default().with(&["--recall-one-in", "0", "--walk-rate", "0", "--log-file-mib", "64"]);

    let node = usual.clone().ready(directory.path()).await;
    ingest(&mut node.api().await, &mut mixture, records).await;
    node.terminate();
    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|_| mixture.draw()).collect();

    let node = usual.clone().ready(directory.path()).await;
    let mut api = node.api().await;
    let index_bytes = api.stats(COLLECTION).await.disk_bytes;
    ask(&mut api, &queries).await;
    let (expected, hot, hot_99) = ask(&mut api, &queries).await;
    node.terminate();

    let budget = index_bytes / setting("LOCI_TIMES", 4).max(1);
    let group = match Group::new(Path::new(&parent), budget) {
        Ok(group) => group,
        Err(why) => return skip("an index larger than memory", &why),
    };
    forget(directory.path());
    let budget_mib = (budget >> 20).to_string();
    let node: Node = usual.with(&["--memory-mib", &budget_mib]).within(&group.0).ready(directory.path()).await;
    let mut api = node.api().await;
    let (first, ..) = ask(&mut api, &queries).await;
    let (second, cold, cold_99) = ask(&mut api, &queries).await;
    assert!(first == expected && second == expected, "the same answers, wherever they come from");
    assert!(group.met() > 0, "the limit was never met: the test shows nothing");
    assert!(group.peak() <= budget, "{} bytes of {budget}", group.peak());
    let heap_bytes = node.memory_bytes();
    node.terminate();
    say(&format!(
        "{records} records of {DIMENSION} components, index {} MiB, memory {} MiB (heap {} MiB): p50 {hot:.0?} -> {cold:.0?} \
         ({:.1} times), p99 {hot_99:.0?} -> {cold_99:.0?} ({:.1} times)",
        index_bytes >> 20,
        budget >> 20,
        heap_bytes >> 20,
        cold.as_secs_f64() / hot.as_secs_f64(),
        cold_99.as_secs_f64() / hot_99.as_secs_f64(),
    ));
}
