//! One of three real nodes starts with a damaged file. A damaged store is fetched from another member, by itself and said
//! aloud; a damaged log is refused, and its node comes back as a new member. One whose file says something else than the
//! others' do, and looks whole, is found by what comes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loci_client::Record;
use loci_tests::chance::Chance;
use loci_tests::cluster::links::Link;
use loci_tests::cluster::load::DIMENSION;
use loci_tests::cluster::{Cluster, Plan, begin, files_below};
use loci_tests::process::PATIENCE;
use loci_tests::{say, seed};

/// Writes so many memories with values of so many bytes, and waits until they are in segments on every node.
async fn furnish(cluster: &Cluster, records: u64, bytes: usize, chance: &mut Chance) {
    let client = cluster.client();
    let memories = client.collection(cluster.namespace(), "memories");
    for page in 0..records / 100 {
        let record = |number: u64| {
            let embedding: Vec<f32> = (0..DIMENSION).map(|_| chance.component()).collect();
            let key = format!("memory {}", page * 100 + number);
            Record::new(key).with_embedding(embedding).with_value(chance.bytes(bytes))
        };
        let page: Vec<Record> = (0..100).map(record).collect();
        memories.put_many(page).await.expect("a page is written");
    }
    // Of records in segments: so that their ends are kept apart.
    for number in 0..20 {
        memories.delete(format!("memory {number}")).await.expect("a record is deleted");
    }
}

/// Stops a node as it is told, so that its last checkpoint holds everything.
fn stop(cluster: &mut Cluster, number: usize) {
    let node = cluster.nodes[number].take().expect("it runs");
    assert!(node.terminate().success());
}

fn flip(file: &Path, chance: &mut Chance) -> u64 {
    let mut bytes = fs::read(file).expect("a file can be read");
    let at = chance.below(bytes.len() as u64);
    bytes[at as usize] ^= 1 << chance.below(8);
    fs::write(file, bytes).expect("a file can be written");
    at
}

/// Waits until `cluster status` names this file as repaired by the node, or nothing.
async fn wait_note(cluster: &Cluster, number: usize, file: Option<&str>) {
    let begun = Instant::now();
    loop {
        let described = cluster.client().describe_cluster().await.expect("some node answers");
        let member = described.members.into_iter().find(|member| member.address == cluster.advertised(number));
        let note = member.map(|member| member.note).unwrap_or_default();
        if file.map_or(note.is_empty(), |file| note.contains(file)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the note is {note:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_file_of_a_store_is_fetched_from_another_member() {
    fetches_what_is_damaged(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_file_of_a_namespaces_own_shard_is_fetched_from_another_member() {
    fetches_what_is_damaged(1).await;
}

/// Of the catalog's shard, or of the only one of a namespace with a shard of its own.
async fn fetches_what_is_damaged(shards: u32) {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan { shards, ..Plan::default() }).await;
    let folder = cluster.data(2).join(if shards == 0 { "shards/1" } else { "shards/2" });
    furnish(&cluster, 1_000, 200, &mut chance).await;
    let begun = Instant::now();
    while !cluster.data(2).join("PEERS").exists() {
        assert!(begun.elapsed() < PATIENCE, "the addresses of the others are not written down");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop(&mut cluster, 2);
    cluster.start_again(2).await;
    furnish(&cluster, 200, 200, &mut chance).await;
    stop(&mut cluster, 2);
    let mut healed = Vec::new();
    let kinds: Vec<String> = {
        let name = |file: &PathBuf| file.file_name().expect("it has a name").to_string_lossy().into_owned();
        let mut kinds: Vec<String> = files_below(&folder).iter().map(name).collect();
        kinds.retain(|name| fs::metadata(folder.join(name)).is_ok_and(|file| file.len() > 0));
        // One of each kind.
        kinds.dedup_by_key(|name| name.split('-').next().expect("a name").to_owned());
        kinds
    };
    for (round, kind) in kinds.iter().enumerate() {
        let prefix = kind.split('-').next().expect("a name").to_owned();
        let of_kind = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
        let Some(file) = files_below(&folder).into_iter().find(of_kind) else { continue };
        let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
        // The others go on; without --join it knows whom to ask from what it remembers.
        let at = if round % 3 == 2 {
            fs::remove_file(&file).map(|()| 0).expect("it is there")
        } else {
            flip(&file, &mut chance)
        };
        let cache = cluster.client().collection(cluster.namespace(), "cache");
        cache.put(Record::new(name.clone())).await.expect("two write");
        let mut start = cluster.start_of(2);
        let join = start.options.iter().position(|option| option == "--join").expect("it is given");
        start.options.drain(join..join + 2);
        cluster.nodes[2] = Some(begin(cluster.data(2), start).await);
        let log = cluster.node(2).log();
        let context = format!("LOCI_SEED={seed}: {name} at {at}\n{log}");
        // What the store does not need any more is removed before it could be read.
        if log.contains("the store is damaged") {
            assert!(log.contains(&name) && log.contains("takes its place"), "{context}");
            wait_note(&cluster, 2, Some(&name)).await;
            healed.push(prefix);
        }
        cluster.same_state().await;
        let damaged = folder.with_extension("damaged");
        assert!(!damaged.exists(), "{context}");
        stop(&mut cluster, 2);
    }
    for needed in ["MANIFEST", "segment"] {
        assert!(healed.iter().any(|kind| kind == needed), "LOCI_SEED={seed}: {needed} was not healed: {healed:?}");
    }
    cluster.start_again(2).await;
    wait_note(&cluster, 2, None).await;
    cluster.same_state().await;
    // Nobody is asked on a single node: `faults.rs` has what it says.
    say(&format!("healed: {healed:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_breaks_off_is_gone_on_with() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let options = vec!["--snapshot-mib-per-second".into(), "2".into()];
    let mut cluster = Cluster::start(Plan { links: true, options, ..Plan::default() }).await;
    furnish(&cluster, 1_000, 10_000, &mut chance).await;
    stop(&mut cluster, 2);
    let manifest = cluster.data(2).join("shards/1/MANIFEST");
    flip(&manifest, &mut chance);
    let starting = tokio::spawn(begin(cluster.data(2), cluster.start_of(2)));
    // Ten megabytes take five seconds.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let links = cluster.links.as_ref().expect("there are proxies");
    links.between(&[2], &[0, 1], Link { cut: true, delay: Duration::ZERO });
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    links.heal();
    cluster.nodes[2] = Some(starting.await.expect("it starts"));
    let log = cluster.node(2).log();
    assert!(log.contains("going on with a snapshot that broke off"), "LOCI_SEED={seed}: {log}");
    cluster.same_state().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_damaged_log_is_refused_and_comes_back_as_a_new_one() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan::default()).await;
    furnish(&cluster, 300, 5_000, &mut chance).await;
    cluster.nodes[2].take().expect("it runs").kill();
    // Of files of the log that are full, all was synced: damage there can be nothing else.
    let logs = files_below(&cluster.data(2).join("log"));
    let full: Vec<&PathBuf> = logs.iter().filter(|file| !file.to_string_lossy().contains("spare")).collect();
    assert!(full.len() > 1, "the log has one file");
    let mut bytes = fs::read(full[0]).expect("a file can be read");
    // In the middle of a record's value: what pads a batch to its sector says nothing, and may say anything.
    let is_value = |bytes: &[u8]| bytes.iter().filter(|byte| **byte != 0).count() > 1_000;
    let value = bytes.windows(1_024).position(is_value).expect("values are in the log");
    bytes[value + 512] ^= 1;
    fs::write(full[0], bytes).expect("a file can be written");
    let ended = cluster.start_of(2).listen(&cluster.data(2)).err().expect("a damaged log is refused");
    let name = full[0].file_name().expect("it has a name").to_string_lossy().into_owned();
    for said in [name.as_str(), "damaged at byte", "cluster remove"] {
        assert!(ended.log.contains(said), "LOCI_SEED={seed}: {said:?} is not said: {}", ended.log);
    }
    let described = cluster.client().describe_cluster().await.expect("some node answers");
    let member = described.members.iter().find(|member| member.address == cluster.advertised(2)).expect("it is known");
    let number = member.member;
    cluster.client().remove_member(number).await.expect("it is removed");
    fs::remove_dir_all(cluster.data(2)).expect("its directory can be emptied");
    cluster.start_again(2).await;
    cluster.wait_voters(3).await;
    let described = cluster.client().describe_cluster().await.expect("some node answers");
    let back =
        described.members.iter().find(|member| member.address == cluster.advertised(2) && member.part != "removed");
    assert!(back.is_some_and(|back| back.member > number), "LOCI_SEED={seed}: {described:?}");
    cluster.same_state().await;
}

/// Mends the checksums of a small framed file: magic, version, zero, body length, body crc, header crc, body.
fn mend_framed(bytes: &mut [u8]) {
    let (header, body) = bytes.split_at_mut(32);
    header[24..28].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_state_is_not_that_of_the_others_stops_and_does_not_start_again() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan::default()).await;
    furnish(&cluster, 300, 100, &mut chance).await;
    cluster.same_state().await;
    let stats = cluster.client_of(2).stats().await.expect("it answers");
    stop(&mut cluster, 2);
    // Another past, with every checksum right. Where it stands in the file it stands once.
    let manifest = cluster.data(2).join("shards/1/MANIFEST");
    let mut bytes = fs::read(&manifest).expect("a file can be read");
    let head = &stats.shards[0].chain_head[..];
    let at = bytes.windows(head.len()).position(|window| window == head).expect("the head of the chain is in it");
    bytes[at + chance.index(head.len())] ^= 1 << chance.below(8);
    mend_framed(&mut bytes);
    fs::write(&manifest, bytes).expect("a file can be written");
    cluster.start_again(2).await;
    let client = cluster.client();
    let cache = client.collection("default", "cache");
    let node = cluster.nodes[2].as_mut().expect("it runs");
    let begun = Instant::now();
    // Members compare what they have after every so many entries.
    let mut written = 0;
    let ended = loop {
        cache.put(Record::new(format!("{}", written % 10))).await.expect("two write");
        written += 1;
        if let Some(status) = node.has_ended() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "LOCI_SEED={seed}: it goes on\n{}", node.log());
    };
    let log = node.log();
    assert_eq!(ended.code(), Some(3), "LOCI_SEED={seed}: {log}");
    assert!(log.contains("the same records, but the chain of its entries"), "LOCI_SEED={seed}: {log}");
    cluster.nodes[2] = None;
    let refused = cluster.start_of(2).listen(&cluster.data(2)).err().expect("it does not start again");
    assert!(refused.log.contains("remove this member from the cluster"), "{}", refused.log);
    cache.put(Record::new("after")).await.expect("two write");
    say(&format!("a member with another past was stopped after {written} writes"));
}
