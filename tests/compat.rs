//! Data directories that earlier versions made: this program opens each and finds everything in it.
//!
//! | file in `tests/fixtures` | what is in it |
//! |---|---|
//! | `data-v1.tar.gz` | entries, manifest and segments of version 1: a graph, ended versions, answered requests, and a log that goes on after them |
//! | `data-v2.tar.gz` | the same of version 2: codes, f16, embeddings without codes, sparse ones, a text, attribute indexes |
//! | `data-v3.tar.gz` | the same, and typed values of every kind in two databases, with a script that was loaded: manifest 3, entries 4 |
//! | `data-v4.tar.gz` | the same, and leases, tags, records written under leases and conditions on values, and what was dropped by a filter: table files 2, entries 5 and 6 |
//!
//! Each was made by its version of the program, killed while it ran, and is never made again. A new version of the directory
//! gets a file of its own, and `make` goes on to that: `LOCI_MAKE_FIXTURE=data-v5.tar.gz cargo test -p loci-tests --test compat`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use loci_client::{Answer, Condition, Metric, Partition, PutOptions, Record, Schema};
use loci_tests::api::{self, Api};
use loci_tests::chance::Chance;
use loci_tests::process::{Node, PATIENCE, Start};
use loci_tests::resp::Client;
use loci_tests::say;
use loci_wire::v1;
use loci_wire::v1::filter::Expression;
use loci_wire::v1::query::Near;

/// So many records of the present version are in a segment, just enough for a graph, and so many there are in all.
const SEGMENT_RECORDS: usize = 1_040;
const RECORDS: usize = 1_090;
/// The year 2100: no deadline of the fixture passes.
const DEADLINE: u64 = 4_102_444_800_000;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Record number `number` of version 1. Never changes.
fn record_1(number: usize) -> v1::Record {
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

/// Record number `number` of version 2: what it was, and more. Components are coarse, so that the file stays small. Never
/// changes.
fn record_2(number: usize) -> v1::Record {
    let mut record = record_1(number);
    let mut chance = Chance::new(1_000_000 + number as u64);
    let mut embedding = |name, dimension| {
        let components: Vec<f32> = (0..dimension).map(|_| chance.below(256) as f32 / 128.0 - 1.0).collect();
        api::embedding(name, &components)
    };
    record.embeddings = vec![embedding("place", 5), embedding("half", 4), embedding("plain", 4)];
    let (dimensions, weights) = (vec![number as u32 % 20, 100 + number as u32], vec![0.5, 2.0]);
    record.sparse = vec![v1::SparseEmbedding { name: "words".into(), dimensions, weights }];
    record.attributes.insert("title".into(), api::text(&format!("The singing birds of island{}", number % 50)));
    record
}

/// A data directory of some version.
struct Version {
    file: &'static str,
    record: fn(usize) -> v1::Record,
    records: usize,
    /// The embeddings by which each record is the nearest to itself.
    nearest_to_itself: &'static [&'static str],
    /// Whether it has typed values.
    typed: bool,
    /// Whether it has what goes beyond Redis: leases, tags, conditions on them, and a semantic cache.
    beyond: bool,
}

const VERSIONS: [Version; 4] = [
    Version {
        file: "data-v1.tar.gz",
        record: record_1,
        records: 1_300,
        nearest_to_itself: &["place"],
        typed: false,
        beyond: false,
    },
    Version {
        file: "data-v2.tar.gz",
        record: record_2,
        records: RECORDS,
        nearest_to_itself: &["place", "half", "plain"],
        typed: false,
        beyond: false,
    },
    Version {
        file: "data-v3.tar.gz",
        record: record_2,
        records: RECORDS,
        nearest_to_itself: &["place", "half", "plain"],
        typed: true,
        beyond: false,
    },
    Version {
        file: "data-v4.tar.gz",
        record: record_2,
        records: RECORDS,
        nearest_to_itself: &["place", "half", "plain"],
        typed: true,
        beyond: true,
    },
];

/// The rules of the collection, as the present version makes it.
fn schema() -> v1::Schema {
    let embedding = |name: &str, dimension, storage: v1::Storage, codes: v1::Codes| v1::EmbeddingSpec {
        name: name.into(),
        dimension,
        metric: v1::Metric::SquaredL2 as i32,
        storage: storage as i32,
        codes: codes as i32,
    };
    let index = |path: &str, kind: v1::IndexKind| v1::IndexSpec { path: path.into(), kind: kind as i32 };
    v1::Schema {
        embeddings: vec![
            embedding("place", 5, v1::Storage::F32, v1::Codes::Int8),
            embedding("half", 4, v1::Storage::F16, v1::Codes::Int8),
            embedding("plain", 4, v1::Storage::F32, v1::Codes::None),
        ],
        sparse: vec![v1::SparseSpec { name: "words".into() }],
        texts: vec![v1::TextSpec { path: "title".into(), language: v1::Language::English as i32 }],
        indexes: vec![index("number", v1::IndexKind::Value), index("title", v1::IndexKind::Substring)],
        ..Default::default()
    }
}

/// Every seventh record is deleted again.
fn is_deleted(number: usize) -> bool {
    number.is_multiple_of(7)
}

async fn put(api: &mut Api, record: fn(usize) -> v1::Record, numbers: std::ops::Range<usize>) -> u64 {
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
        keys: numbers.filter(|number| is_deleted(*number)).map(|number| record_1(number).key).collect(),
        ..Default::default()
    };
    api.records.delete(request).await.unwrap();
}

/// Calls that make typed values of every kind, small and large. Never changes.
fn calls() -> Vec<String> {
    let many = |name: &str, each: &dyn Fn(usize) -> String, count: usize| {
        let words = (0..count).map(each).collect::<Vec<_>>().join(" ");
        format!("{name} {words}")
    };
    let mut calls = vec![
        "SET text words".to_string(),
        format!("SET timed words PXAT {DEADLINE}"),
        "SET number 41".into(),
        "INCR number".into(),
        "SET added some".into(),
        "APPEND added -more".into(),
        "SETBIT bits 100 1".into(),
        "RPUSH list a b c".into(),
        many("RPUSH long", &|n| format!("element-{n}"), 1_500),
        "HSET hash f v g w".into(),
        format!("HSET ends f v g w"),
        format!("HPEXPIREAT ends {DEADLINE} FIELDS 1 f"),
        many("HSET large", &|n| format!("field:{n} value:{n}"), 700),
        "SADD numbers 3 1 2".into(),
        many("SADD members", &|n| format!("member:{n}"), 600),
        "ZADD sorted 1 a 2.5 b -3 c".into(),
        many("ZADD ranks", &|n| format!("{n} member:{n}"), 600),
        "XADD stream 1-1 f v".into(),
        "XADD stream 2-5 g w".into(),
        "XGROUP CREATE stream group 0".into(),
        "XREADGROUP GROUP group reader COUNT 1 STREAMS stream >".into(),
        "PFADD things a b c".into(),
        "RL.WINDOW window 5 1000000000000 2".into(),
        "SCRIPT LOAD return{1,2,ARGV[1]}".into(),
    ];
    calls.extend((0..200).map(|number| format!("SET key:{number} value:{number}")));
    calls
}

/// What the values say.
const SAID: &[(&str, &str)] = &[
    ("DBSIZE", "217"),
    ("GET text", "words"),
    ("GET timed", "words"),
    ("PEXPIRETIME timed", "4102444800000"),
    ("GET number", "42"),
    ("GET added", "some-more"),
    ("BITPOS bits 1", "100"),
    ("LRANGE list 0 -1", "[a b c]"),
    ("LLEN long", "1500"),
    ("LINDEX long 700", "element-700"),
    ("HMGET hash f g", "[v w]"),
    ("HPEXPIRETIME ends FIELDS 2 f g", "[4102444800000 -1]"),
    ("HLEN large", "700"),
    ("HGET large field:650", "value:650"),
    ("SMEMBERS numbers", "[1 2 3]"),
    ("SCARD members", "600"),
    ("SISMEMBER members member:599", "1"),
    ("ZRANGE sorted 0 -1 WITHSCORES", "[c -3 a 1 b 2.5]"),
    ("ZRANK ranks member:300", "300"),
    ("XRANGE stream - +", "[[1-1 [f v]] [2-5 [g w]]]"),
    ("XPENDING stream group", "[1 1-1 1-1 [[reader 1]]]"),
    ("PFCOUNT things", "3"),
    ("EXISTS window", "1"),
    ("GET key:199", "value:199"),
    ("EVALSHA 27003291a8aef99c597bb37196f946c24fe39435 0 x", "[1 2 x]"),
];

/// So long a lease of the fixtures lasts: longer than they do.
const LEASE_MILLIS: u64 = 1_000_000_000_000;

/// Calls that version 4 has besides. Never changes.
fn calls_beyond() -> Vec<String> {
    let calls = [
        "SET page words TAGS 2 users:42 posts:7",
        "HSET profile f v",
        "TAG.SET profile users:42",
        "SET dropped words TAGS 1 old",
        "TAG.DROP old",
    ];
    let mut calls: Vec<String> = calls.map(String::from).into();
    calls.push(format!("LEASE.ACQUIRE nightly worker {LEASE_MILLIS}"));
    calls
}

/// What they left.
const SAID_BEYOND: &[(&str, &str)] = &[
    ("DBSIZE", "220"),
    ("GET page", "words"),
    ("TAG.OF page", "[posts:7 users:42]"),
    ("TAG.KEYS users:42", "[page profile]"),
    ("TAG.COUNT old posts:7", "1"),
    ("TYPE nightly", "lease"),
    ("LEASE.ACQUIRE nightly other 10", "nothing"),
    ("LEASE.FENCE nightly 1", "-FENCED"),
];

fn start() -> Start {
    Start::default().with(&["--log-file-mib", "1"])
}

/// With a door for clients of Redis.
fn start_with_door() -> Start {
    start().with(&["--resp", "127.0.0.1:0"])
}

fn redis(node: &Node, database: u64) -> Client {
    let mut client = node.resp.as_deref().and_then(Client::open).expect("the door is open");
    assert_eq!(client.line(&format!("SELECT {database}")), "OK");
    client
}

fn make_typed(node: &Node, database: u64, calls: &[String]) {
    let mut client = redis(node, database);
    for call in calls {
        let reply = client.line(call);
        assert!(!reply.starts_with('-'), "{call}: {reply}");
    }
}

/// Typed values are what they were, and go on from there.
fn check_typed(file: &str, beyond: bool, node: &Node) {
    for database in [0, 3] {
        let mut client = redis(node, database);
        let said = if beyond { [&SAID[1..], SAID_BEYOND].concat() } else { SAID.to_vec() };
        for (call, reply) in said {
            let found = client.line(call);
            let fits = found == reply || reply.starts_with('-') && found.starts_with(reply);
            assert!(fits, "{file}, database {database}: {call}: {found}, not {reply}");
        }
        if beyond {
            let lease = client.line("LEASE.GET nightly");
            let words: Vec<&str> = lease.split(' ').collect();
            let ["[holder", "worker", "number", number, ..] = words[..] else { panic!("{file}: {lease}") };
            assert_eq!(client.line(&format!("LEASE.FENCE nightly {number}")), "OK", "{file}");
        }
        for (call, reply) in [("INCR number", "43"), ("RPUSH list d", "4"), ("DECR number", "42"), ("RPOP list", "d")] {
            assert_eq!(client.line(call), reply, "{file}, database {database}: {call}");
        }
    }
}

fn tar(words: &[&str]) {
    let status = Command::new("tar").args(words).status().expect("tar runs");
    assert!(status.success(), "tar {words:?}: {status}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths are text")
}

async fn native(node: &Node) -> loci_client::Client {
    loci_client::Client::connect(&node.address).await.expect("it answers")
}

/// Writes on conditions of leases and of values, and drops by a filter.
async fn make_beyond(node: &Node) {
    let client = native(node).await;
    for name in ["values", "notes"] {
        client.collection("default", name).ensure(Schema::default()).await.expect("a collection is made");
    }
    let (values, notes) = (client.collection("default", "values").cache(), client.collection("default", "notes"));
    let lease = values.acquire("nightly", "worker", Duration::from_millis(LEASE_MILLIS)).await.expect("it answers");
    let plan = values.set_if_version("plan", 0, "draft").await.expect("it is not there");
    let lease = lease.expect("it is free").condition();
    for (key, condition) in [("fenced", lease), ("guarded", Condition::value_version("plan", plan))] {
        let options = PutOptions { conditions: vec![condition.in_collection("values")], ..PutOptions::default() };
        notes.put_with([Record::new(key).with_value("written")], options).await.expect("it holds");
    }
    let answers = client.semantic_cache("default", "answers");
    answers.ensure(2, Metric::Cosine).await.expect("a collection is made");
    for (place, answer, tag) in [([1.0, 0.0], "stays", "new"), ([0.0, 1.0], "goes", "old")] {
        let entry = loci_client::Entry::new(place, answer).with_tag(tag);
        answers.put(&Partition::new(), entry).await.expect("it is kept");
    }
    assert_eq!(answers.drop_tagged(["old"]).await.expect("it is dropped").entries, 1);
}

/// What that left.
async fn check_beyond(file: &str, node: &Node) {
    let client = native(node).await;
    let (values, notes) = (client.collection("default", "values").cache(), client.collection("default", "notes"));
    let other = values.acquire("nightly", "other", Duration::from_secs(1)).await;
    assert_eq!(other.expect("it answers"), None, "{file}: the lease is held");
    assert_eq!(values.get("plan").await.expect("it is read").as_deref(), Some(&b"draft"[..]), "{file}");
    for key in ["fenced", "guarded"] {
        let record = notes.get(key).await.expect("it is read").unwrap_or_else(|| panic!("{file}: no {key}"));
        assert_eq!(record.value.as_deref(), Some(&b"written"[..]), "{file}");
    }
    let answers = client.semantic_cache("default", "answers").threshold(0.1);
    let stays = answers.get(&Partition::new(), [1.0, 0.0]).await.expect("it is searched");
    assert_eq!(stays.hit().as_ref().and_then(|hit| hit.text()), Some("stays"), "{file}");
    let goes = answers.get(&Partition::new(), [0.0, 1.0]).await.expect("it is searched");
    assert_eq!(goes, Answer::Miss, "{file}");
}

async fn make(file: &Path) {
    assert!(!file.exists(), "{} is there, and is never made again", file.display());
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = start().ready(&data).await;
    let mut api = node.api().await;
    let name = api::collection("things");
    let create = v1::CreateCollectionRequest { name, schema: Some(schema()), ..Default::default() };
    api.admin.create_collection(create).await.unwrap();
    api.create("cache", &[]).await;
    put(&mut api, record_2, 0..SEGMENT_RECORDS).await;
    // A stop writes a segment, and the next run links it.
    assert!(node.terminate().success());
    let node = start_with_door().ready(&data).await;
    let mut api = node.api().await;
    api.wait_indexed("things", PATIENCE).await;
    // One database is in a file of its own when this run ends, of the other a part is still in the log.
    let calls = [calls(), calls_beyond()].concat();
    make_typed(&node, 3, &calls);
    make_typed(&node, 0, &calls[..calls.len() / 2]);
    delete(&mut api, 0..SEGMENT_RECORDS / 2).await;
    assert!(node.terminate().success());
    let node = start_with_door().ready(&data).await;
    make_typed(&node, 0, &calls[calls.len() / 2..]);
    let mut api = node.api().await;
    put(&mut api, record_2, SEGMENT_RECORDS..RECORDS).await;
    delete(&mut api, SEGMENT_RECORDS / 2..RECORDS).await;
    let request = v1::PutRequest {
        collection: api::collection("cache"),
        records: vec![api::record(b"answer", b"42")],
        ..Default::default()
    };
    api.records.put(request).await.unwrap();
    make_beyond(&node).await;
    node.kill();
    std::fs::create_dir_all(fixtures()).unwrap();
    tar(&["-C", text(folder.path()), "--sort=name", "--owner=0", "--group=0", "-czf", text(file), "data"]);
}

/// The keys that a search finds, best first.
async fn found(api: &mut Api, request: v1::SearchRequest) -> Vec<Vec<u8>> {
    let reply = api.records.search(request).await.unwrap().into_inner();
    reply.results[0].hits.iter().map(|hit| hit.record.clone().unwrap().key.to_vec()).collect()
}

async fn check(version: &Version) {
    let Version { file, record, records, nearest_to_itself, typed, beyond } = *version;
    let folder = tempfile::tempdir().unwrap();
    tar(&["-C", text(folder.path()), "-xzf", text(&fixtures().join(file))]);
    let data = folder.path().join("data");
    let node = start_with_door().ready(&data).await;
    if typed {
        check_typed(file, beyond, &node);
    }
    if beyond {
        check_beyond(file, &node).await;
    }
    let mut api = node.api().await;
    let all = api.all("things").await;
    let expected: Vec<usize> = (0..records).filter(|number| !is_deleted(*number)).collect();
    assert_eq!(all.len(), expected.len());
    for number in &expected {
        let expected = record(*number);
        let found = all.iter().find(|found| found.key == expected.key);
        let mut found = found.unwrap_or_else(|| panic!("{:?} is not there", expected.key)).clone();
        found.version = 0;
        assert_eq!(found, expected, "{file}");
    }
    let stats = api.stats("things").await;
    assert!(stats.graph_segments > 0, "the graphs of {file} are read, not built again: {stats:?}");
    for number in expected.iter().step_by(11) {
        let record = record(*number);
        for embedding in record.embeddings.iter().filter(|embedding| nearest_to_itself.contains(&&*embedding.name)) {
            let request = api::nearest("things", &embedding.name, &api::components(embedding), 1);
            assert_eq!(found(&mut api, request).await, [&*record.key], "{file}: {}", embedding.name);
        }
    }
    let cached = api.all("cache").await;
    assert_eq!(cached.len(), 1);
    assert_eq!(cached[0].value.as_deref(), Some(&b"42"[..]));
    if file != VERSIONS[0].file {
        check_indexes(&mut api, &expected).await;
    }
    // It goes on from there: the next write is newer than all that was, and survives.
    let newest = all.iter().map(|record| record.version).max().unwrap();
    let version = put(&mut api, record, records + 1..records + 2).await;
    assert!(version > newest, "{version} after {newest}");
    node.kill();
    let node = start_with_door().ready(&data).await;
    assert_eq!(node.api().await.all("things").await.len(), expected.len() + 1);
    if typed {
        check_typed(file, beyond, &node);
    }
    if beyond {
        check_beyond(file, &node).await;
    }
    say(&format!("compat: {file} opened with everything in it"));
}

/// What version 2 has besides: words, sparse embeddings, and indexes that answer filters.
async fn check_indexes(api: &mut Api, expected: &[usize]) {
    let query = |near| v1::SearchRequest {
        queries: vec![v1::Query { near: Some(near), ..Default::default() }],
        ..api::nearest("things", "", &[], 100)
    };
    let keys = |of: &dyn Fn(usize) -> bool| -> BTreeSet<Vec<u8>> {
        expected.iter().filter(|number| of(**number)).map(|number| record_1(*number).key.to_vec()).collect()
    };
    let words = v1::TextQuery { path: "title".into(), text: "sings island17".into() };
    let hits = found(api, query(Near::Text(words))).await;
    let of_17 = keys(&|number| number % 50 == 17);
    assert_eq!(hits[..of_17.len()].iter().cloned().collect::<BTreeSet<_>>(), of_17, "the best have both words");
    for number in expected.iter().step_by(97) {
        let weights =
            v1::SparseEmbedding { name: "words".into(), dimensions: vec![100 + *number as u32], weights: vec![1.0] };
        assert_eq!(found(api, query(Near::Sparse(weights))).await, [&*record_1(*number).key]);
    }
    let range = v1::RangeOf { path: "number".into(), below: Some(api::int(500)), ..Default::default() };
    let part = v1::TextOf { path: "title".into(), text: "island3".into() };
    type Takes = fn(usize) -> bool;
    let cases: [(Expression, Takes); 2] = [
        (Expression::Range(range), |number| number < 500),
        (Expression::HasText(part), |number| number % 50 == 3 || (30..40).contains(&(number % 50))),
    ];
    for (expression, takes) in cases {
        let filter = Some(api::filter(expression));
        let count =
            v1::CountRequest { collection: api::collection("things"), filter: filter.clone(), ..Default::default() };
        let counted = api.records.count(count).await.unwrap().into_inner().count;
        assert_eq!(counted as usize, keys(&takes).len(), "{filter:?}");
        let near = api::nearest("things", "plain", &[0.0; 4], 10);
        let request = v1::SearchRequest { filter, explain: true, ..near };
        let reply = api.records.search(request).await.unwrap().into_inner();
        let steps = reply.results[0].explanation.clone().unwrap().steps;
        let mut sealed = steps.iter().filter(|step| step.segment.is_some()).peekable();
        assert!(sealed.peek().is_some(), "{steps:?}");
        assert!(sealed.all(|step| step.cover() == v1::FilterCover::Whole), "the indexes are read: {steps:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_every_version_opens_with_everything_in_it() {
    if let Some(name) = std::env::var_os("LOCI_MAKE_FIXTURE") {
        make(&fixtures().join(name)).await;
    }
    for version in &VERSIONS {
        check(version).await;
    }
}
