//! A byte of a sealed file changes on the disk while the program runs: of one of three real nodes, which mends itself from another
//! member and serves what was written; of a node by itself, which says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use loci_client::{Client, Collection, Consistency, Metric, Record, Schema, attribute};
use loci_tests::api::serving;
use loci_tests::chance::Chance;
use loci_tests::cluster::load::DIMENSION;
use loci_tests::cluster::{Cluster, Plan, files_below};
use loci_tests::process::{Node, PATIENCE, Start, command};
use loci_tests::{resp, seed, spread};

/// So much is more than a node leaves in memory once nobody writes.
const RECORDS: u64 = 300;
const VALUE_BYTES: usize = 5_000;
const QUICK: [&str; 2] = ["--scrub-mib-per-second", "500"];
const NEVER: [&str; 2] = ["--scrub-mib-per-second", "0"];

type Values = BTreeMap<String, Vec<u8>>;

/// Writes records, and says what is in them.
async fn furnish(memories: &Collection, name: &str, chance: &mut Chance) -> Values {
    let mut values = Values::new();
    for number in 0..RECORDS {
        let key = format!("{name} {number}");
        let value = [format!("{key} is ").into_bytes(), chance.bytes(VALUE_BYTES)].concat();
        values.insert(key, value);
    }
    for page in values.iter().collect::<Vec<_>>().chunks(50) {
        let record = |(key, value): &(&String, &Vec<u8>)| {
            let embedding: Vec<f32> = (0..DIMENSION).map(|_| chance.component()).collect();
            Record::new((*key).clone()).with_embedding(embedding).with_value((*value).clone())
        };
        let page: Vec<Record> = page.iter().map(record).collect();
        memories.put_many(page).await.expect("a page is written");
    }
    values
}

/// A segment below a folder that has a value, and where in it.
fn find(folder: &Path, value: &[u8]) -> Option<(PathBuf, u64)> {
    let is_segment =
        |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"));
    files_below(folder).into_iter().filter(is_segment).find_map(|file| {
        // It may be merged away meanwhile.
        let bytes = fs::read(&file).ok()?;
        let at = bytes.windows(64).position(|window| window == &value[..64])?;
        (!file.to_string_lossy().ends_with(".tmp")).then_some((file, at as u64))
    })
}

async fn wait<T>(what: &str, log: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a record lies in a segment, and changes a byte in the middle of its value. Gives the segment's name.
async fn rot(folder: &Path, value: &[u8], log: impl Fn() -> String) -> String {
    let (file, at) = wait("a segment", log, || find(folder, value)).await;
    flip(&file, at + VALUE_BYTES as u64 / 2);
    file.file_name().expect("it has a name").to_string_lossy().into_owned()
}

async fn wait_log(node: &Node, text: &str) {
    wait(text, || node.log(), || node.log().contains(text).then_some(())).await;
}

/// Whether a node has these values, once it answers.
async fn has(collection: &Collection, values: &Values, log: impl Fn() -> String) {
    for (key, value) in values {
        let begun = Instant::now();
        let found = loop {
            match collection.get(key.clone()).await {
                Ok(found) => break found,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{key}: {error}\n{}", log()),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(found.and_then(|record| record.value).is_some_and(|found| found == value), "{key} is not what it was");
    }
}

fn verify(data: &Path) -> Output {
    command(&["verify", "--data", data.to_str().expect("a path")]).output().expect("it runs")
}

/// A follower, or whoever leads, of the shard that has the records finds a damaged segment and mends itself.
async fn mends_itself(shards: u32, leader: bool, options: [&str; 2], by: &str) {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let plan = Plan { shards, options: options.map(str::to_owned).to_vec(), ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let leads = cluster.leader().await;
    let number = if leader { leads } else { (leads + 1) % 3 };
    let node = cluster.node(number);
    let memories = cluster.client().collection(cluster.namespace(), "memories");
    let mut values = furnish(&memories, "early", &mut chance).await;
    // The first shard after the catalog's is a namespace's own.
    let shard = if shards == 0 { 1 } else { 2 };
    let folder = cluster.data(number).join("shards").join(shard.to_string());
    let name = rot(&folder, &values[&format!("early {}", chance.below(RECORDS))], || node.log()).await;
    // Something else to merge it with.
    values.extend(furnish(&memories, "late", &mut chance).await);
    wait_log(node, "a file is damaged: the shard is out of service here").await;
    wait_log(node, "starting again, with what was fetched from another member").await;
    wait_log(node, "takes its place").await;
    let log = node.log();
    for said in [&*name, "damaged at byte", &format!("\"{by}\"")] {
        assert!(log.contains(said), "LOCI_SEED={seed}: {said} is not said: {log}");
    }
    let here = cluster.client_of(number).collection(cluster.namespace(), "memories");
    has(&here.clone().with_consistency(Consistency::Stale), &values, || node.log()).await;
    has(&memories, &values, || cluster.logs()).await;
    cluster.wait_voters(3).await;
    cluster.same_state().await;
    let begun = Instant::now();
    loop {
        let described = cluster.client().describe_cluster().await.expect("some node answers");
        let member = described.members.into_iter().find(|member| member.address == cluster.advertised(number));
        let note = member.map(|member| member.note).unwrap_or_default();
        if note.contains(&name) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "LOCI_SEED={seed}: the note is {note:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for other in 0..3 {
        let verified = verify(&cluster.data(other));
        assert!(verified.status.success(), "LOCI_SEED={seed}: node {other}: {verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_finds_damage_by_the_scrub_and_mends_itself() {
    mends_itself(0, false, QUICK, "scrub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_finds_damage_by_the_scrub_and_mends_itself() {
    mends_itself(0, true, QUICK, "scrub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_makes_no_damage_permanent() {
    mends_itself(0, false, NEVER, "merge").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespaces_own_shard_is_mended_too() {
    mends_itself(1, false, QUICK, "scrub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_not_sent_to_another_member() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let options = NEVER.map(str::to_owned).to_vec();
    let mut cluster = Cluster::start(Plan { options, ..Plan::default() }).await;
    let memories = cluster.client().collection("default", "memories");
    let values = furnish(&memories, "early", &mut chance).await;
    // One that joins asks the nodes in the order of their addresses.
    let first = (0..3).min_by_key(|number| cluster.advertised(*number).to_owned()).expect("a node");
    let folder = cluster.data(first).join("shards/1");
    let name = rot(&folder, &values["early 7"], || cluster.node(first).log()).await;
    let number = cluster.add().await;
    let log = cluster.node(first).log();
    assert!(log.contains(&name) && log.contains("\"snapshot\""), "LOCI_SEED={seed}: {log}");
    let there = cluster.client_of(number).collection("default", "memories");
    has(&there.with_consistency(Consistency::Stale), &values, || cluster.logs()).await;
    wait_log(cluster.node(first), "takes its place").await;
    let here = cluster.client_of(first).collection("default", "memories");
    has(&here.with_consistency(Consistency::Stale), &values, || cluster.logs()).await;
    cluster.same_state().await;
}

/// As long as a member is away whoever is damaged does not stop: others answer for it, and it says that it serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_stays_ready_and_asks_others_while_a_namespaces_shard_is_out_of_service() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let redis = ["--resp", "127.0.0.1:0", "--resp-namespace", "wide"];
    let options = [&QUICK[..], &redis].concat().into_iter().map(str::to_owned).collect();
    let cluster = Cluster::start(Plan { shards: 1, options, ..Plan::default() }).await;
    let leads = cluster.leader().await;
    let (number, away) = ((leads + 1) % 3, (leads + 2) % 3);
    let node = cluster.node(number);
    let open = |node: &Node| resp::Client::open(node.resp.as_deref().expect("a door")).expect("it listens");
    let (mut redis, mut hears, mut waits) = (open(node), open(node), open(node));
    spread::check(&mut redis, &[("SET before 1", "OK"), ("GET before", "1")]);
    assert!(hears.send(&[vec!["SUBSCRIBE", "channel"]]) && waits.send(&[vec!["BLPOP", "list", "0"]]));
    let memories = cluster.client().collection("wide", "memories");
    let values = furnish(&memories, "early", &mut chance).await;
    rot(&cluster.data(number).join("shards/2"), &values["early 7"], || node.log()).await;
    cluster.node(away).send_stop();
    wait_log(node, "a file is damaged: the shard is out of service here").await;
    let here = cluster.client_of(number).collection("wide", "memories");
    has(&here, &values, || node.log()).await;
    has(&here.with_consistency(Consistency::Stale), &values, || node.log()).await;
    // Clients of Redis notice nothing either, also those who wait, or listen.
    let there = &mut open(cluster.node(leads));
    spread::check(
        &mut redis,
        &[("GET before", "1"), ("INCR before", "2"), ("GET before", "2"), ("WATCH before", "OK"), ("MULTI", "OK")],
    );
    spread::check(&mut redis, &[("GET before", "QUEUED"), ("EXEC", "[2]"), ("DBSIZE", "1")]);
    assert_eq!(there.line("RPUSH list x"), "1");
    assert_eq!(resp::text(&waits.reply().expect("it is woken")), "[list x]");
    assert_eq!(resp::text(&hears.reply().expect("a reply")), "[subscribe channel 1]");
    there.call("PUBLISH channel heard");
    assert_eq!(resp::text(&hears.reply().expect("a message")), "[message channel heard]");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(serving(&node.address).await, "LOCI_SEED={seed}: {}", node.log());
    assert!(!node.log().contains("starting again"), "LOCI_SEED={seed}: it waits for the one that is away");
    cluster.node(away).send_go_on();
    wait_log(node, "takes its place").await;
    cluster.wait_voters(3).await;
    cluster.same_state().await;
}

/// Whoever leads a shard when it goes out of service takes writes to it as ever, and has others find what a filter means.
#[tokio::test(flavor = "multi_thread")]
async fn no_write_fails_because_its_shard_goes_out_of_service() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let plan = Plan { shards: 1, options: QUICK.map(str::to_owned).to_vec(), ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let memories = cluster.client().collection("wide", "memories");
    let values = furnish(&memories, "early", &mut chance).await;
    let described = cluster.client().describe_cluster().await.expect("some node answers");
    let leader = described.shards.iter().find(|shard| shard.shard == 2).and_then(|shard| shard.leader);
    let leader = described.members.iter().find(|member| Some(member.member) == leader).expect("somebody leads it");
    let number = (0..3).find(|at| cluster.advertised(*at) == leader.address).expect("it is one of them");
    let node = cluster.node(number);
    rot(&cluster.data(number).join("shards/2"), &values["early 7"], || node.log()).await;
    let here = cluster.client_of(number).collection("wide", "memories");
    let begun = Instant::now();
    for number in 0.. {
        let record = Record::new(format!("while {number}")).with_value(b"it rots".to_vec());
        let mut written = here.put(record).await.map(|_| ());
        if written.is_ok() && number % 20 == 0 {
            written = here.delete_where(attribute("nothing").equals("like it")).await.map(|_| ());
        }
        if let Err(error) = written {
            // A moment without a leader is another matter, and so is a node that stops, to start again.
            let (said, log) = (format!("{error:?}"), node.log());
            assert!(!said.contains("damaged"), "LOCI_SEED={seed}: write {number}: {said}\n{log}");
            if log.contains("was fetched") {
                break;
            }
            assert!(error.is_transient(), "LOCI_SEED={seed}: write {number}: {said}\n{log}");
        }
        if node.log().contains("takes its place") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "LOCI_SEED={seed}: it is not noticed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    wait_log(node, "takes its place").await;
    cluster.wait_voters(3).await;
    cluster.same_state().await;
}

/// Without the catalog a node has nothing to say, and says so; others have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_catalog_is_out_of_service_is_not_ready_until_it_is_mended() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let cluster = Cluster::start(Plan { options: QUICK.map(str::to_owned).to_vec(), ..Plan::default() }).await;
    let leads = cluster.leader().await;
    let (number, away) = ((leads + 1) % 3, (leads + 2) % 3);
    let node = cluster.node(number);
    let memories = cluster.client().collection("default", "memories");
    let values = furnish(&memories, "early", &mut chance).await;
    rot(&cluster.data(number).join("shards/1"), &values["early 7"], || node.log()).await;
    cluster.node(away).send_stop();
    wait_log(node, "a file is damaged: the shard is out of service here").await;
    let begun = Instant::now();
    while serving(&node.address).await {
        assert!(begun.elapsed() < PATIENCE, "LOCI_SEED={seed}: it serves without a catalog: {}", node.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Whoever asked it asks the one that is left.
    has(&memories, &values, || cluster.logs()).await;
    cluster.node(away).send_go_on();
    wait_log(node, "takes its place").await;
    wait("ready", || node.log(), || node.log().matches("the shard is ready").nth(1).map(|_| ())).await;
    while !serving(&node.address).await {
        assert!(begun.elapsed() < PATIENCE, "LOCI_SEED={seed}: {}", node.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One with damage that nobody can mend would not start again. It waits with everything else until that is gone, and keeps nothing
/// meanwhile that would be old then.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_not_stop_while_there_is_damage_that_nobody_can_mend() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let plan = Plan { shards: 1, replicas: 1, options: QUICK.map(str::to_owned).to_vec(), ..Plan::default() };
    let cluster = Cluster::start(plan).await;
    let client = cluster.client();
    let alone = client.collection("wide", "memories");
    let values = furnish(&alone, "early", &mut chance).await;
    let holder = || {
        let folder = |number: usize| cluster.data(number).join("shards/2");
        (0..3).find(|number| folder(*number).exists() && find(&folder(*number), &values["early 7"]).is_some())
    };
    let number = wait("a segment", || cluster.logs(), holder).await;
    let (node, shards) = (cluster.node(number), cluster.data(number).join("shards"));
    rot(&shards.join("2"), &values["early 7"], || node.log()).await;
    wait_log(node, "there is no other member that has what was in it").await;
    client.ensure_namespace("default").await.expect("there is a namespace");
    let shared = client.collection("default", "memories");
    let schema = Schema::default().with_embedding("text", DIMENSION, Metric::SquaredL2);
    shared.ensure(schema).await.expect("a collection is made");
    let values = furnish(&shared, "late", &mut chance).await;
    rot(&shards.join("1"), &values["late 7"], || node.log()).await;
    wait_log(node, "a file is damaged: the shard is out of service here").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let log = node.log();
    assert!(!log.contains("starting again") && !log.contains("was fetched"), "LOCI_SEED={seed}: {log}");
    assert!(!shards.join("1/DAMAGED").exists() && !shards.join("1.incoming").exists(), "LOCI_SEED={seed}");
    client.drop_namespace("wide").await.expect("it can be dropped");
    wait_log(node, "takes its place").await;
    has(&shared, &values, || cluster.logs()).await;
    cluster.wait_voters(3).await;
}

/// When a line of a log was written that has this text, of those behind another.
fn written(log: &str, text: &str, behind: Option<&str>) -> Option<String> {
    let lines = log.lines().skip_while(|line| behind.is_some_and(|behind| !line.starts_with(behind)));
    lines.into_iter().find(|line| line.contains(text))?.split_whitespace().next().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_damaged_nodes_are_not_away_at_once() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let cluster = Cluster::start(Plan { options: QUICK.map(str::to_owned).to_vec(), ..Plan::default() }).await;
    let memories = cluster.client().collection("default", "memories");
    let values = furnish(&memories, "early", &mut chance).await;
    let leads = cluster.leader().await;
    let damaged = [(leads + 1) % 3, (leads + 2) % 3];
    for number in damaged {
        let node = cluster.node(number);
        rot(&cluster.data(number).join("shards/1"), &values["early 7"], || node.log()).await;
    }
    let mut away = Vec::new();
    for number in damaged {
        let node = cluster.node(number);
        wait_log(node, "takes its place").await;
        // The times of a log can be compared as they are.
        let back = || {
            let log = node.log();
            let went = written(&log, "starting again", None)?;
            let back = written(&log, "the shard is ready", Some(&went))?;
            Some((went, back))
        };
        away.push(wait("ready again", || node.log(), back).await);
    }
    away.sort();
    assert!(away[0].1 < away[1].0, "LOCI_SEED={seed}: {away:?}");
    has(&memories, &values, || cluster.logs()).await;
    cluster.wait_voters(3).await;
    cluster.same_state().await;
}

/// What a member lacks cannot be read from the leader's log any more: it has a snapshot instead, and the leader goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_read_its_log_for_a_member_sends_it_a_snapshot() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan { options: NEVER.map(str::to_owned).to_vec(), ..Plan::default() }).await;
    let leads = cluster.leader().await;
    let away = (leads + 1) % 3;
    let memories = cluster.client().collection("default", "memories");
    let mut values = furnish(&memories, "before", &mut chance).await;
    cluster.nodes[away].take().expect("it runs").kill();
    values.extend(furnish(&memories, "early", &mut chance).await);
    // More than a leader has of its log in memory.
    for name in ["late", "later", "latest"] {
        values.extend(furnish(&memories, name, &mut chance).await);
    }
    let early = &values[&format!("early {}", chance.below(RECORDS))];
    let in_log = files_below(&cluster.data(leads).join("log")).into_iter().find_map(|file| {
        let bytes = fs::read(&file).ok()?;
        Some((file, bytes.windows(64).position(|window| window == &early[..64])? as u64))
    });
    let (file, at) = in_log.expect("the log has it");
    flip(&file, at + 64);
    cluster.start_again(away).await;
    wait_log(cluster.node(leads), "the log cannot be read for a member, which is to have a snapshot").await;
    cluster.wait_voters(3).await;
    cluster.same_state().await;
    assert_eq!(cluster.leader().await, leads, "LOCI_SEED={seed}: it went on leading\n{}", cluster.logs());
    let there = cluster.client_of(away).collection("default", "memories").with_consistency(Consistency::Stale);
    has(&there, &values, || cluster.logs()).await;
    // What is damaged goes, or it would not start again.
    let gone = || !fs::read(&file).is_ok_and(|bytes| bytes.windows(64).any(|window| window == &early[..64]));
    wait("the damaged file to go", || cluster.node(leads).log(), || gone().then_some(())).await;
    assert!(cluster.node(leads).log().contains("is damaged in"), "LOCI_SEED={seed}");
    wait_log(cluster.node(leads), "the damaged file of the log is gone").await;
    assert!(cluster.nodes[leads].take().expect("it runs").terminate().success());
    cluster.start_again(leads).await;
    cluster.wait_voters(3).await;
    cluster.same_state().await;
}

fn metric(address: &str, line: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_by_itself_says_so_merges_nothing_of_it_and_serves_the_rest() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let data = tempfile::tempdir().unwrap();
    let metrics =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string();
    let node = Start::default().with(&QUICK).with(&["--metrics", &metrics]).ready(data.path()).await;
    let client = Client::connect(format!("http://{}", node.address)).await.expect("it answers");
    client.create_namespace_on("default", 0, 0, true).await.expect("a namespace is made");
    let memories = client.collection("default", "memories");
    let schema = Schema::default().with_embedding("text", DIMENSION, Metric::SquaredL2);
    memories.ensure(schema).await.expect("a collection is made");
    let mut values = furnish(&memories, "early", &mut chance).await;
    let name = rot(&data.path().join("shards/1"), &values["early 7"], || node.log()).await;
    wait_log(&node, "there is no other member that has what was in it").await;
    let log = node.log();
    assert!(log.contains(&name) && log.contains("damaged at byte"), "LOCI_SEED={seed}: {log}");
    assert_eq!(metric(&metrics, "loci_scrub_damaged_files{shard=\"1\"}"), Some(1));
    assert_eq!(metric(&metrics, "loci_scrub_damage_found_total{shard=\"1\",found_by=\"scrub\"}"), Some(1));
    values.extend(furnish(&memories, "late", &mut chance).await);
    values.remove("early 7");
    has(&memories, &values, || node.log()).await;
    let rounds = || metric(&metrics, "loci_scrub_rounds_total").unwrap_or(0);
    let before = rounds();
    wait("three rounds", || node.log(), || (rounds() >= before + 3).then_some(())).await;
    assert!(data.path().join("shards/1").join(&name).exists(), "it is merged with nothing");
    assert_eq!(
        metric(&metrics, "loci_scrub_damage_found_total{shard=\"1\",found_by=\"scrub\"}"),
        Some(1),
        "found once"
    );
    let verified = verify(data.path());
    let said = [verified.stdout, verified.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!verified.status.success() && said.contains("damaged at byte"), "LOCI_SEED={seed}: {said}");
    // A file that memory has is written anew.
    let manifest = data.path().join("shards/1/MANIFEST");
    let opened = File::options().write(true).open(&manifest).expect("there is a manifest");
    opened.write_all_at(b"rotten", 100).expect("it can be changed");
    wait_log(&node, "is written anew").await;
    let sound = || fs::read(&manifest).is_ok_and(|bytes| !bytes.windows(6).any(|window| window == b"rotten"));
    wait("a new manifest", || node.log(), || sound().then_some(())).await;
    assert!(node.terminate().success());
    let ended = Node::refused(data.path(), &[]);
    assert!(ended.log.contains(&name) && ended.log.contains("damaged at byte"), "LOCI_SEED={seed}: {}", ended.log);
}

/// What `loci verify` finds in a data directory that nobody uses, in which it changes nothing, and whether all is well.
fn verified(data: &Path) -> (serde_json::Value, bool) {
    let all = || files_below(data).into_iter().map(|file| (file.clone(), fs::read(file).expect("it can be read")));
    let before: BTreeMap<_, _> = all().collect();
    let found = command(&["verify", "--json", "--data", data.to_str().expect("a path")]).output().expect("it runs");
    let table = verify(data);
    assert_eq!(table.status.success(), found.status.success());
    assert!(before == all().collect(), "it changes nothing");
    let json: serde_json::Value = serde_json::from_slice(&found.stdout).expect("JSON");
    for file in json["log"].as_array().expect("the log's files") {
        let line = format!("{} ", file["file"].as_str().expect("a name"));
        assert!(String::from_utf8_lossy(&table.stdout).contains(&line), "{table:?}");
    }
    (json, found.status.success())
}

fn flip(file: &Path, at: u64) {
    let opened = File::options().read(true).write(true).open(file).expect("it can be opened");
    let mut byte = [0];
    opened.read_exact_at(&mut byte, at).expect("it is in there");
    opened.write_all_at(&[byte[0] ^ 4], at).expect("it can be changed");
}

/// The log is read as a node that starts reads it: what that would refuse is named, and where; what it would cut is told.
#[tokio::test(flavor = "multi_thread")]
async fn verify_reads_the_log_and_says_what_a_start_would_say() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let start = || Start::default().with(&NEVER).with(&["--log-file-mib", "1"]);
    let node = start().ready(data).await;
    let client = Client::connect(format!("http://{}", node.address)).await.expect("it answers");
    client.create_namespace_on("default", 0, 0, true).await.expect("a namespace is made");
    let memories = client.collection("default", "memories");
    let schema = Schema::default().with_embedding("text", DIMENSION, Metric::SquaredL2);
    memories.ensure(schema).await.expect("a collection is made");
    furnish(&memories, "early", &mut chance).await;
    for number in 0..20 {
        memories.put(Record::new(format!("small {number}")).with_value(b"it is".to_vec())).await.expect("written");
    }
    assert!(verify(data).status.success(), "LOCI_SEED={seed}: while it runs");
    node.kill();
    let (sound, well) = verified(data);
    let log = sound["log"].as_array().expect("the log's files");
    assert!(well && log.len() >= 2, "LOCI_SEED={seed}: {sound}");
    assert!(log.iter().all(|file| file["damaged"].is_null() && file["frames"].as_u64() > Some(5)), "{sound}");
    let path = |file: &serde_json::Value| data.join("log").join(file["file"].as_str().expect("a name"));
    let (oldest, newest) = (log.first().expect("a file"), log.last().expect("a file"));

    // Full, and in use but before what is known to be synced.
    for (place, file) in [(0, oldest), (log.len() - 1, newest)] {
        let at = file["bytes"].as_u64().expect("a number") / 2;
        flip(&path(file), at);
        let (found, well) = verified(data);
        let said = found["log"][place]["damaged"].as_str().unwrap_or_default();
        let name = file["file"].as_str().expect("a name");
        assert!(!well && said.starts_with(&format!("{name} is damaged at byte ")), "LOCI_SEED={seed}: {found}");
        let offset = found["log"][place]["bytes"].as_u64().expect("a number");
        assert!(offset <= at && said.contains(&format!("byte {offset}:")), "LOCI_SEED={seed}: {at}: {found}");
        let others = found["log"].as_array().expect("files").iter().enumerate().filter(|(other, _)| *other != place);
        assert!(others.into_iter().all(|(_, other)| other["damaged"].is_null()), "LOCI_SEED={seed}: {found}");
        let refused = Node::refused(data, &[]);
        assert!(refused.log.contains(said), "LOCI_SEED={seed}: {said}: {}", refused.log);
        flip(&path(file), at);
    }

    let end = newest["bytes"].as_u64().expect("a number");
    let opened = File::options().write(true).open(path(newest)).expect("it can be opened");
    opened.write_all_at(b"half a frame", end).expect("it can be written");
    let (torn, well) = verified(data);
    let cut = &torn["log"][log.len() - 1]["cut"];
    assert!(well && cut["offset"] == end && cut["bytes"].as_u64() >= Some(12), "LOCI_SEED={seed}: {torn}");
    let old_log =
        BTreeMap::from_iter(files_below(&data.join("log")).into_iter().map(|f| (f.clone(), fs::read(f).unwrap())));

    let node = start().ready(data).await;
    assert!(node.log().contains("the log was not closed"), "LOCI_SEED={seed}: {}", node.log());
    let client = Client::connect(format!("http://{}", node.address)).await.expect("it answers");
    furnish(&client.collection("default", "memories"), "late", &mut chance).await;
    assert!(node.terminate().success());
    let (closed, well) = verified(data);
    let last = closed["log"].as_array().and_then(|files| files.last()).expect("a file");
    assert!(well && last["cut"].is_null(), "LOCI_SEED={seed}: {closed}");

    // A log that is older than its stores.
    fs::remove_dir_all(data.join("log")).expect("it can be removed");
    fs::create_dir(data.join("log")).expect("it can be made");
    old_log.iter().for_each(|(file, bytes)| fs::write(file, bytes).expect("it can be written"));
    let (older, well) = verified(data);
    assert!(!well && older["shards"].to_string().contains("but the log ends at"), "LOCI_SEED={seed}: {older}");
    old_log.keys().for_each(|file| fs::remove_file(file).expect("it can be removed"));
    let (none, well) = verified(data);
    assert!(
        !well && none["shards"].to_string().contains("the log holds nothing of shard 1"),
        "LOCI_SEED={seed}: {none}"
    );
    fs::remove_dir(data.join("log")).expect("it can be removed");
    let (none, well) = verified(data);
    assert!(!well && none["shards"].as_array().is_some_and(|shards| !shards.is_empty()), "LOCI_SEED={seed}: {none}");
}
