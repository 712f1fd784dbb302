//! Watching through the real program: every change once and in order, from any token, through the death of leaders, restarts and
//! slow readers; and what is said when a token is too old.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loci_client::{
    Client, Collection, Error, Parts, PutMode, PutOptions, Record, Schema, Token, Watch, WatchEvent, WatchKind,
    attribute,
};
use loci_tests::chance::Chance;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::process::{Node, PATIENCE, Start, program};
use loci_tests::{say, seed, setting};
use loci_wire::v1;
use loci_wire::v1::changes_client::ChangesClient;
use tonic::Code;

async fn start(data: &std::path::Path, options: &[&str]) -> (Node, Client) {
    let node = Start::default().with(options).ready(data).await;
    let client = Client::builder().address(&node.address).connect_lazy().expect("an address");
    (node, client)
}

async fn next(watch: &mut Watch) -> WatchEvent {
    match tokio::time::timeout(PATIENCE, watch.next()).await {
        Ok(event) => event.expect("a watch goes on"),
        Err(_) => panic!("nothing is told within {PATIENCE:?} after {}", watch.token()),
    }
}

/// The next so many, and nothing more for a moment.
async fn just(watch: &mut Watch, count: usize) -> Vec<WatchEvent> {
    let mut events = Vec::with_capacity(count);
    for _ in 0..count {
        events.push(next(watch).await);
    }
    let more = tokio::time::timeout(Duration::from_millis(30), watch.next()).await;
    assert!(more.is_err(), "more than {count} were told: {more:?}");
    events
}

fn seen(event: &WatchEvent) -> (String, WatchKind) {
    (format!("{}/{}", event.collection, String::from_utf8_lossy(&event.key)), event.kind)
}

/// Says a line to the door for clients of Redis, and waits for the answer.
fn redis(stream: &mut TcpStream, line: &str) {
    stream.write_all(format!("{line}\r\n").as_bytes()).expect("the node reads");
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).expect("the node answers");
    assert!(read > 0 && answer[0] != b'-', "{line}: {}", String::from_utf8_lossy(&answer[..read]));
}

/// What is expected of a random write, told by what the node answered.
async fn random_write(chance: &mut Chance, collection: &Collection, expected: &mut Vec<(String, WatchKind)>) {
    let mut records = BTreeMap::new();
    for _ in 0..1 + chance.below(4) {
        let key = format!("k{}", chance.below(12));
        let record = Record::new(key.clone()).with_value(format!("{}", chance.below(1_000)));
        records.insert(key, record.with_attribute("even", chance.below(2) == 0));
    }
    let keys: Vec<String> = records.keys().cloned().collect();
    let mut expect = |keys: &[String], existed: &[bool], there: bool| {
        for (key, existed) in keys.iter().zip(existed) {
            let kind = match (there, existed) {
                (true, false) => WatchKind::Created,
                (true, true) => WatchKind::Replaced,
                (false, true) => WatchKind::Deleted,
                (false, false) => continue,
            };
            expected.push((format!("{}/{key}", collection.name()), kind));
        }
    };
    if chance.below(3) == 0 {
        let deleted = collection.delete_many(keys.clone()).await.unwrap();
        expect(&keys, &deleted.existed, false);
    } else {
        let mode = if chance.below(2) == 0 { PutMode::Replace } else { PutMode::Merge };
        let options = PutOptions { mode, ..PutOptions::default() };
        let written = collection.put_with(records.into_values(), options).await.unwrap();
        expect(&keys, &written.existed, true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_once_in_order_and_again_from_any_token() {
    let (seed, data) = (seed(), tempfile::tempdir().unwrap());
    let mut chance = Chance::new(seed);
    let (node, client) = start(data.path(), &["--resp", "127.0.0.1:0"]).await;
    let collections = ["a", "b"].map(|name| client.collection("redis", name));
    client.create_namespace("redis").await.unwrap();
    for collection in &collections {
        collection.create(Schema::default()).await.unwrap();
    }
    let mut stream = TcpStream::connect(node.resp.as_ref().expect("it answers clients of Redis")).unwrap();
    // Its collection is made by this.
    redis(&mut stream, "SET first 1");

    let mut all = client.watch("redis").with_parts(Parts::default());
    let mut one = collections[0].watch();
    let mut prefixed = client.watch("redis").prefix("k1");
    let mut keyed = client.watch("redis").key("k3").key("s1");
    let begin = all.begin().await.unwrap();
    for watch in [&mut one, &mut prefixed, &mut keyed] {
        watch.begin().await.unwrap();
    }
    let mut expected = Vec::new();
    let mut strings = BTreeSet::new();
    for _ in 0..150 {
        match chance.below(6) {
            0 => {
                let key = format!("s{}", chance.below(4));
                redis(&mut stream, &format!("SET {key} {}", chance.below(100)));
                let kind = if strings.insert(key.clone()) { WatchKind::Created } else { WatchKind::Replaced };
                expected.push((format!("db0/{key}"), kind));
            }
            1 => {
                let key = format!("s{}", chance.below(4));
                redis(&mut stream, &format!("DEL {key}"));
                if strings.remove(&key) {
                    expected.push((format!("db0/{key}"), WatchKind::Deleted));
                }
            }
            _ => {
                let collection = &collections[chance.index(2)];
                random_write(&mut chance, collection, &mut expected).await;
            }
        }
    }
    let events = just(&mut all, expected.len()).await;
    let told: Vec<_> = events.iter().map(seen).collect();
    assert_eq!(told, expected, "LOCI_SEED={seed}");
    let places: Vec<(u64, u32)> = events.iter().map(|event| (event.index, event.number)).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "LOCI_SEED={seed}: {places:?}");
    for event in &events {
        let is_there = matches!(event.kind, WatchKind::Created | WatchKind::Replaced);
        match &event.record {
            Some(record) => assert_eq!((&record.key, record.version, is_there), (&event.key, event.version, true)),
            // Of typed values the newest is kept.
            None => assert!(!is_there || event.collection == "db0", "LOCI_SEED={seed}: {event:?}"),
        }
    }
    for (watch, takes) in [
        (&mut one, (|at: &str| at.starts_with("a/")) as fn(&str) -> bool),
        (&mut prefixed, |at| at.split_once('/').is_some_and(|(_, key)| key.starts_with("k1"))),
        (&mut keyed, |at| at.ends_with("/k3") || at.ends_with("/s1")),
    ] {
        let expected: Vec<_> = told.iter().filter(|(at, _)| takes(at)).cloned().collect();
        let events = just(watch, expected.len()).await;
        assert_eq!(events.iter().map(seen).collect::<Vec<_>>(), expected, "LOCI_SEED={seed}");
    }

    // From each token on, what came after it: of this run, and once the node was killed and has read its log again.
    let check = async |client: &Client| {
        for at in (0..=events.len()).step_by(7) {
            let token = match at.checked_sub(1) {
                None => begin.clone(),
                Some(last) => format!("1:{}", events[last].index).parse().unwrap(),
            };
            let from = token.parts().next().map_or(0, |(_, index)| index);
            let expected: Vec<_> = events.iter().filter(|event| event.index > from).collect();
            let mut watch = client.watch("redis").from(token);
            let again = just(&mut watch, expected.len()).await;
            let same = again.iter().zip(&expected).all(|(a, b)| (seen(a), a.version) == (seen(b), b.version));
            assert!(same, "LOCI_SEED={seed}: from {from}: {again:?}");
        }
    };
    check(&client).await;
    node.kill();
    let (_node, client) = start(data.path(), &["--resp", "127.0.0.1:0"]).await;
    check(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_tells_what_it_takes_and_what_leaves() {
    let data = tempfile::tempdir().unwrap();
    let (_node, client) = start(data.path(), &[]).await;
    let notes = client.collection("default", "notes");
    notes.ensure(Schema::default()).await.unwrap();
    let mut watch = notes.watch().filter(attribute("open").equals(true)).with_parts(Parts::default());
    watch.begin().await.unwrap();
    let put = async |key: &str, open: bool| notes.put(Record::new(key.to_owned()).with_attribute("open", open)).await;
    put("a", false).await.unwrap();
    put("b", true).await.unwrap();
    put("a", true).await.unwrap();
    put("b", false).await.unwrap();
    put("b", false).await.unwrap();
    notes.delete("b").await.unwrap();
    notes.delete("a").await.unwrap();
    let ttl = Duration::from_millis(1);
    notes.put(Record::new("c").with_attribute("open", true).expires_in(ttl)).await.unwrap();
    notes.put(Record::new("d").with_attribute("open", false).expires_in(ttl)).await.unwrap();
    let events = just(&mut watch, 6).await;
    let told: Vec<_> =
        events.iter().map(|event| (String::from_utf8_lossy(&event.key).into_owned(), event.kind)).collect();
    let expected = [
        ("b", WatchKind::Created),
        ("a", WatchKind::Replaced),
        ("b", WatchKind::Left),
        ("a", WatchKind::Deleted),
        ("c", WatchKind::Created),
        ("c", WatchKind::Expired),
    ];
    assert_eq!(told, expected.map(|(key, kind)| (key.to_owned(), kind)));
    // What expires is ended within a tenth of a second or so.
    let more = tokio::time::timeout(Duration::from_millis(500), watch.next()).await;
    assert!(more.is_err(), "{more:?}");
    notes.drop_collection().await.unwrap();
    assert_eq!(next(&mut watch).await.kind, WatchKind::Dropped);
}

/// What many writers do while leaders die, and what a watcher must have heard of it.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<(String, u64)>>>,
}

impl Writers {
    fn begin(cluster: &Cluster, chance: &mut Chance) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..4).map(|number| {
            let (collection, stop) = (cluster.client().collection("default", "cache"), stop.clone());
            let mut chance = chance.fork();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("{number}-{}", chance.below(30));
                    if let Ok(written) = collection.put(Record::new(key.clone()).with_value("v")).await {
                        acknowledged.push((key, written.version));
                    }
                }
                acknowledged
            })
        });
        Writers { tasks: tasks.collect(), stop }
    }

    async fn end(self) -> BTreeSet<(String, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeSet::new();
        for task in self.tasks {
            all.extend(task.await.expect("a writer ends"));
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_die_make_watchers_miss_nothing_and_hear_nothing_twice() {
    let (seed, kills) = (seed(), setting("LOCI_KILLS", 3));
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan::default()).await;
    let cache = cluster.client().collection("default", "cache");
    let stop = Arc::new(AtomicBool::new(false));
    let mut watchers = Vec::new();
    for _ in 0..3 {
        let mut watch = cluster.client().collection("default", "cache").watch();
        watch.begin().await.unwrap();
        let stop = stop.clone();
        watchers.push(tokio::spawn(async move {
            let mut events = Vec::new();
            let mut quiet = 0;
            while quiet < 20 {
                match tokio::time::timeout(Duration::from_millis(100), watch.next()).await {
                    Ok(event) => {
                        events.push(event.expect("it goes on by itself"));
                        quiet = 0;
                    }
                    Err(_) => quiet += u64::from(stop.load(Ordering::Relaxed)),
                }
            }
            events
        }));
    }
    let writers = Writers::begin(&cluster, &mut chance);
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(300 + chance.below(500))).await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].take().expect("it runs").kill();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        cluster.start_again(leader).await;
    }
    let acknowledged = writers.end().await;
    stop.store(true, Ordering::Relaxed);
    let mut first: Option<Vec<WatchEvent>> = None;
    for watcher in watchers {
        let events = watcher.await.expect("a watcher ends");
        let places: Vec<(u64, u32)> = events.iter().map(|event| (event.index, event.number)).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "LOCI_SEED={seed}: told twice, or out of order");
        let told: BTreeSet<(String, u64)> =
            events.iter().map(|event| (String::from_utf8_lossy(&event.key).into_owned(), event.version)).collect();
        assert_eq!(told.len(), events.len());
        let missed: Vec<_> = acknowledged.difference(&told).collect();
        assert!(missed.is_empty(), "LOCI_SEED={seed}: not told of {missed:?}");
        let newest: BTreeMap<String, u64> =
            events.iter().map(|event| (String::from_utf8_lossy(&event.key).into_owned(), event.version)).collect();
        for record in cache.scan().collect().await.unwrap() {
            let key = String::from_utf8_lossy(&record.key).into_owned();
            assert_eq!(newest.get(&key), Some(&record.version), "LOCI_SEED={seed}: {key}");
        }
        match &first {
            Some(first) => assert_eq!(events, *first, "LOCI_SEED={seed}: all are told the same"),
            None => first = Some(events),
        }
    }
    say(&format!("{kills} leaders killed, {} writes acknowledged, all told", acknowledged.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_several_shards_goes_on_in_each_of_them() {
    let data = tempfile::tempdir().unwrap();
    let (node, client) = start(data.path(), &[]).await;
    client.create_namespace_with("wide", 4).await.unwrap();
    let wide = client.collection("wide", "c");
    wide.create(Schema::default()).await.unwrap();
    let mut watch = wide.watch();
    watch.begin().await.unwrap();
    let spread = PutOptions { spread: true, ..PutOptions::default() };
    for round in 0..20 {
        let records = (0..20).map(|number| Record::new(format!("{round}-{number}")));
        wide.put_with(records, spread.clone()).await.unwrap();
    }
    let (mut keys, mut last) = (BTreeSet::new(), BTreeMap::new());
    for taken in 0..400 {
        if taken == 150 {
            let token = watch.token();
            assert_eq!(token.parts().count(), 4);
        }
        let event = next(&mut watch).await;
        assert!(keys.insert(event.key.clone()), "{:?} is told twice", event.key);
        let before = last.insert(event.shard, (event.index, event.number));
        assert!(before.is_none_or(|before| before < (event.index, event.number)));
    }
    assert_eq!(last.len(), 4);
    let token = watch.token();
    drop(watch);
    assert!(node.terminate().success());
    let (_node, client) = start(data.path(), &[]).await;
    let wide = client.collection("wide", "c");
    let mut watch = wide.watch().from(token);
    wide.put_with((0..20).map(|number| Record::new(format!("0-{number}"))), spread).await.unwrap();
    let events = just(&mut watch, 20).await;
    assert!(events.iter().all(|event| event.kind == WatchKind::Replaced));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_cut_off_and_goes_on_where_it_was() {
    let data = tempfile::tempdir().unwrap();
    let (node, client) = start(data.path(), &[]).await;
    let large = client.collection("default", "large");
    large.ensure(Schema::default()).await.unwrap();
    let mut changes = ChangesClient::connect(format!("http://{}", node.address)).await.unwrap();
    let request = v1::WatchRequest {
        collections: vec!["large".into()],
        parts: Some(v1::Parts { value: true, ..Default::default() }),
        ..Default::default()
    };
    let mut stream = changes.watch(request.clone()).await.unwrap().into_inner();
    const COUNT: usize = 400;
    for number in 0..COUNT {
        large.put(Record::new(format!("{number:04}")).with_value(vec![b'x'; 100_000])).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(7)).await;
    let (mut keys, mut token) = (Vec::new(), None);
    let status = loop {
        match stream.message().await {
            Ok(Some(reply)) => {
                keys.extend(reply.events.into_iter().map(|event| event.key));
                token = reply.token;
            }
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    let detail = loci_wire::decode_detail(status.details()).unwrap();
    assert_eq!((status.code(), &*detail.reason), (Code::ResourceExhausted, "slow_watcher"), "{status:?}");
    assert!(keys.len() < COUNT, "it was cut off before the end");
    let mut stream = changes.watch(v1::WatchRequest { from: token, ..request }).await.unwrap().into_inner();
    while keys.len() < COUNT {
        let reply = stream.message().await.unwrap().unwrap();
        keys.extend(reply.events.into_iter().map(|event| event.key));
    }
    let expected: Vec<_> = (0..COUNT).map(|number| format!("{number:04}")).collect();
    assert_eq!(keys, expected);
    // A client of ours goes on by itself.
    let mut watch = large.watch().with_parts(Parts::ALL);
    watch.begin().await.unwrap();
    for number in 0..COUNT {
        large.put(Record::new(format!("{number:04}")).with_value(vec![b'y'; 100_000])).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(7)).await;
    for key in expected {
        assert_eq!(next(&mut watch).await.key, key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_too_old_is_refused_with_the_oldest_that_is_not() {
    let data = tempfile::tempdir().unwrap();
    let (node, client) = start(data.path(), &["--watch-history-mib", "1"]).await;
    let notes = client.collection("default", "notes");
    notes.ensure(Schema::default()).await.unwrap();
    let first = notes.put(Record::new("first")).await.unwrap().token;
    for round in 0..40 {
        let records = (0..20).map(|number| Record::new(format!("{round}-{number}-{}", "k".repeat(3_000))));
        notes.put_many(records).await.unwrap();
    }
    let mut watch = notes.watch().from(first);
    let oldest = match watch.next().await {
        Err(Error::TooOld { oldest, message }) => {
            assert!(message.contains("no longer kept"), "{message}");
            oldest
        }
        other => panic!("{other:?}"),
    };
    let mut watch = notes.watch().from(oldest.clone());
    let event = next(&mut watch).await;
    assert!(event.index > oldest.parts().next().unwrap().1);
    // A token of nobody's future.
    let far: Token = "1:1000000".parse().unwrap();
    let mut watch = notes.watch().from(far);
    let begun = Instant::now();
    let error = tokio::time::timeout(PATIENCE, watch.next()).await.expect("it is answered").unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. } | Error::DeadlineExceeded { .. }), "{error:?}");
    assert!(begun.elapsed() < PATIENCE);
    let error = client.watch("nowhere").begin().await.unwrap_err();
    assert_eq!(error.reason(), Some("unknown_namespace"));
    let error = client.collection("default", "nothing").watch().begin().await.unwrap_err();
    assert_eq!(error.reason(), Some("unknown_collection"));
    assert!(node.terminate().success());

    let (_node, client) = start(data.path(), &["--watch-history-mib", "0"]).await;
    let error = client.collection("default", "notes").watch().begin().await.unwrap_err();
    assert_eq!(error.reason(), Some("watch_off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_a_line_for_each_change() {
    let data = tempfile::tempdir().unwrap();
    let (node, client) = start(data.path(), &[]).await;
    let notes = client.collection("default", "notes");
    notes.ensure(Schema::default()).await.unwrap();
    let token = notes.put(Record::new("n0")).await.unwrap().token.to_string();
    notes.put(Record::new("n1").with_value("hello")).await.unwrap();
    notes.put(Record::new("other")).await.unwrap();
    notes.delete("n1").await.unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(program());
        command.args(["watch", "default", "notes", "--prefix", "n", "--from", &token, "--count", "2", "--values"]);
        let output = command.args(more).env("LOCI_ADDRESS", &node.address).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = run(&[]);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().skip(2).collect()).collect();
    assert_eq!(lines, [vec!["created", "notes/n1", "hello"], vec!["deleted", "notes/n1"]]);
    let json: Vec<serde_json::Value> =
        run(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&json[0]["kind"], &json[0]["record"]["value"]), (&"created".into(), &"hello".into()));
    assert_eq!((&json[1]["kind"], &json[1]["key"]), (&"deleted".into(), &"n1".into()));
}
