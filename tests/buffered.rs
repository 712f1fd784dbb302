//! Buffered writes: answered before they are synced, and synced soon after; on a node by itself only.
//!
//! `LOCI_CUTS=100` makes the documented long run; `LOCI_SEED` chooses when the power is cut.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loci_client::{Client, Collection, Durability, Record, Schema};
use loci_tests::chance::Chance;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::process::{Node, Start};
use loci_tests::{disks, resp, say, seed, setting, skip};
use tokio::task::JoinHandle;

const WRITERS: u64 = 4;
const VALUE_BYTES: usize = 4_000;
/// Of one key that is written again and again: the log grows, and a checkpoint is made soon.
const BIG_BYTES: usize = 400_000;
/// What was answered longer ago than this when the power was cut is there: a tenth of a second, and a slow disk.
const MARGIN: Duration = Duration::from_millis(1_000);

fn client(node: &Node) -> Client {
    Client::builder().address(&node.address).connect_lazy().expect("an address")
}

async fn make(client: &Client, name: &str, durability: Durability) -> Collection {
    let collection = client.collection("default", name);
    collection.ensure(Schema { durability, ..Schema::default() }).await.expect("it can be made");
    collection
}

async fn syncs(node: &Node) -> u64 {
    // The figures of the log are those of a moment ago.
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.api().await.node_stats().await.log_syncs
}

/// How often the log is synced for so many puts, one after the other.
async fn syncs_of(node: &Node, collection: &Collection, puts: u32) -> u64 {
    let before = syncs(node).await;
    for number in 0..puts {
        collection.put(Record::new(format!("{number}")).with_value("v")).await.expect("it is written");
    }
    syncs(node).await - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_by_itself_syncs_buffered_writes_later_and_a_cluster_does_not() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path()).await;
    let client = client(&node);
    let synced = make(&client, "synced", Durability::Synced).await;
    let buffered = make(&client, "buffered", Durability::Buffered).await;
    let begun = Instant::now();
    let few = syncs_of(&node, &buffered, 400).await;
    let most = begun.elapsed().as_millis() as u64 / 100 + 5;
    assert!(few <= most, "{few} syncs for 400 buffered writes, and {most} were enough");
    let many = syncs_of(&node, &synced, 100).await;
    assert!(many >= 100, "{many} syncs for 100 writes");
    // What was written last is synced, too, though nothing follows it.
    let before = syncs(&node).await;
    buffered.put(Record::new("last")).await.unwrap();
    let patience = Instant::now();
    while syncs(&node).await == before {
        assert!(patience.elapsed() < Duration::from_secs(5), "the last write is never synced");
    }
    node.kill();

    let cluster = Cluster::start(Plan::default()).await;
    let leader = cluster.leader().await;
    let collection = make(&cluster.client(), "buffered", Durability::Buffered).await;
    let many = syncs_of(cluster.node(leader), &collection, 100).await;
    assert!(many >= 100, "{many} syncs for 100 writes that three nodes have");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_disk_and_who_takes_a_lease_hears_of_it_once_it_is_synced() {
    const CALLS: u64 = 50;
    let data = tempfile::tempdir().unwrap();
    let node =
        Start::default().with(&["--resp", "127.0.0.1:0", "--resp-durability", "buffered"]).ready(data.path()).await;
    let mut redis = node.resp.as_deref().and_then(resp::Client::open).expect("the door is open");
    assert_eq!(redis.line("SET k v"), "OK");
    let (before, begun) = (syncs(&node).await, Instant::now());
    for _ in 0..CALLS {
        assert_eq!(redis.line("SET k v"), "OK");
    }
    let few = syncs(&node).await - before;
    let most = begun.elapsed().as_millis() as u64 / 100 + 2;
    assert!(few <= most, "{few} syncs for {CALLS} buffered writes, and {most} were enough");
    for line in ["WAITAOF 1 0 0", "LEASE.ACQUIRE lease me 100000"] {
        let before = syncs(&node).await;
        for _ in 0..CALLS {
            assert_eq!(redis.line("SET k v"), "OK");
            redis.call(line);
        }
        let many = syncs(&node).await - before;
        assert!(many >= CALLS, "{line}: {many} syncs for {CALLS} calls");
    }
    node.kill();
}

/// Writes one key after the other; when each was answered.
fn write(collection: Collection, writer: String, stop: Arc<AtomicBool>) -> JoinHandle<Vec<Instant>> {
    tokio::spawn(async move {
        let mut answered = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let record = Record::new(format!("{writer}-{}", answered.len())).with_value(vec![1; VALUE_BYTES]);
            match tokio::time::timeout(Duration::from_secs(1), collection.put(record)).await {
                Ok(Ok(_)) => answered.push(Instant::now()),
                _ => break,
            }
        }
        answered
    })
}

/// How many keys of a writer are there; none is missing before the last.
async fn found(collection: &Collection, writer: &str) -> usize {
    let records = collection.scan().prefix(format!("{writer}-")).collect().await.expect("the node answers");
    let number = |record: &Record| {
        let key = std::str::from_utf8(&record.key).expect("a text");
        key.split_once('-').and_then(|(_, number)| number.parse::<usize>().ok()).expect("a number")
    };
    let mut numbers: Vec<_> = records.iter().map(number).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..numbers.len()), "{writer}: one is missing, and a later one is there");
    numbers.len()
}

/// Until one has just been made.
async fn new_checkpoint(node: &Node, collection: &Collection) {
    let big = collection.clone();
    let growing =
        tokio::spawn(async move { while big.put(Record::new("big").with_value(vec![2; BIG_BYTES])).await.is_ok() {} });
    let mut api = node.api().await;
    let mut last = None;
    loop {
        let stats = api.node_stats().await;
        let checkpoint = stats.shards.first().map(|shard| shard.checkpoint);
        if checkpoint != *last.get_or_insert(checkpoint) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    growing.abort();
}

async fn start(data: &Path) -> (Node, Collection) {
    // Small files of the log: checkpoints are made while writes come in.
    let node = Start::default().with(&["--log-file-mib", "1"]).ready(data).await;
    let collection = client(&node).collection("default", "buffered");
    (node, collection)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_the_last_moment_and_nothing_before_it_and_a_kill_nothing() {
    let name = "a_power_cut_takes_the_last_moment_and_nothing_before_it_and_a_kill_nothing";
    let (seed, cuts) = (seed(), setting("LOCI_CUTS", 3));
    let disk = match disks::Disk::image(512) {
        Ok(disk) => disk,
        Err(why) => return skip(name, &why),
    };
    let data = disk.path().join("data");
    let mut chance = Chance::new(seed);
    let (mut written, mut lost) = (0, 0);
    for cut in 0..cuts {
        let what = format!("LOCI_SEED={seed}, cut {cut}");
        let (node, collection) = start(&data).await;
        make(&client(&node), "buffered", Durability::Buffered).await;
        let stop = Arc::new(AtomicBool::new(false));
        let name = |writer: u64| format!("{cut}.{writer}");
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| write(collection.clone(), name(writer), Arc::clone(&stop))).collect();
        tokio::time::sleep(Duration::from_millis(1_200 + chance.below(300))).await;
        let kill = cut % 3 == 2;
        if cut % 3 == 1 {
            new_checkpoint(&node, &collection).await;
        }
        let at = Instant::now();
        if !kill {
            disk.cut();
        }
        node.send_kill();
        stop.store(true, Ordering::Relaxed);
        node.kill();
        let mut answered = Vec::new();
        for writer in writers {
            answered.push(writer.await.expect("a writer does not panic"));
        }
        if !kill {
            disk.restore();
        }
        let (node, collection) = start(&data).await;
        for (writer, answered) in (0..).zip(answered) {
            let there = found(&collection, &name(writer)).await;
            let safe = answered.iter().filter(|answered| kill || **answered + MARGIN < at).count();
            assert!(there >= safe, "{what}: {there} keys of writer {writer} are there, and {safe} were safe");
            written += answered.len();
            lost += answered.len().saturating_sub(there);
        }
        node.kill();
    }
    say(&format!("{cuts} power cuts and kills: {written} buffered writes answered, {lost} of the last moments lost"));
}
