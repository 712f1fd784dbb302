//! A namespace whose records are spread over several shards: it answers as one whose records are all in one place, what is
//! written together has to be in one shard, nodes that die or come take their parts, and nothing acknowledged is lost.
//!
//! `LOCI_KILLS=50` makes a long run of the kills; `LOCI_SEED` chooses the load.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use loci_client::{
    Client, Collection, Condition, Consistency, Error, Fusion, Language, Metric, PutOptions, Query, Record, Schema,
    Token, attribute,
};
use loci_tests::chance::Chance;
use loci_tests::cluster::load::Load;
use loci_tests::cluster::{Cluster, Plan, begin};
use loci_tests::process::{Node, PATIENCE, Start};
use loci_tests::{say, seed, setting};

const RECORDS: u64 = 600;
const SHARDS: u32 = 4;

/// How long each round lasts, at least.
const ROUND: Duration = Duration::from_millis(2_500);

async fn start(data: &Path) -> (Node, Client) {
    start_with(data, Start::default()).await
}

async fn start_with(data: &Path, start: Start) -> (Node, Client) {
    let node = begin(data.to_owned(), start).await;
    let client = Client::builder().address(&node.address).connect_lazy().expect("an address");
    (node, client)
}

fn record(number: u64) -> Record {
    let mut chance = Chance::new(number);
    let embedding: Vec<f32> = (0..8).map(|_| chance.component()).collect();
    let words = ["lake", "river", "stone", "moss", "heron"];
    let text: Vec<&str> = (0..4).map(|_| words[chance.index(words.len())]).collect();
    Record::new(format!("k{number}"))
        .with_value(format!("value {number}"))
        .with_attribute("ten", (number % 10) as i64)
        .with_attribute("text", text.join(" "))
        .with_embedding(embedding)
}

fn schema() -> Schema {
    Schema::default().with_embedding("e", 8, Metric::SquaredL2).with_text("text", Language::English)
}

/// Hits by key, with what they are ordered by.
async fn hits(collection: &Collection, query: Query) -> Vec<(String, i64)> {
    let found = collection.find(query).k(20).exact().hits().await.expect("a search is answered");
    let key = |record: &Record| String::from_utf8_lossy(&record.key).into_owned();
    // Sums in another order round otherwise.
    found.iter().map(|hit| (key(&hit.record), (f64::from(hit.distance) * 1e4).round() as i64)).collect()
}

async fn scanned(collection: &Collection) -> Vec<String> {
    let mut keys = Vec::new();
    let mut pages = collection.scan().page_records(37);
    while let Some(page) = pages.next_page().await.expect("a page") {
        keys.extend(page.records.iter().map(|record| String::from_utf8_lossy(&record.key).into_owned()));
    }
    keys
}

/// Both answer alike, whatever they are asked.
async fn same(one: &Collection, wide: &Collection) {
    let keys = scanned(one).await;
    assert_eq!(keys, scanned(wide).await);
    for ten in [0, 3, 12] {
        let filter = attribute("ten").equals(ten);
        assert_eq!(one.count(filter.clone()).await.unwrap(), wide.count(filter).await.unwrap());
    }
    let asked: Vec<String> = (0..RECORDS).step_by(7).map(|number| format!("k{number}")).collect();
    let values =
        |found: Vec<Option<Record>>| found.into_iter().map(|record| record.and_then(|r| r.value)).collect::<Vec<_>>();
    let (a, b) = (one.get_many(asked.clone()).await.unwrap(), wide.get_many(asked).await.unwrap());
    assert_eq!(values(a), values(b));
    for number in [1, 30, 77] {
        let vector: Vec<f32> = (0..8).map(|at| ((number + at) as f32).sin()).collect();
        for query in [
            Query::near(vector.clone()),
            Query::near_key(keys[number].clone()),
            Query::text("text", "herons by the river"),
            Fusion::reciprocal_rank().and(Query::near(vector)).and(Query::text("text", "stone")).into(),
        ] {
            assert_eq!(hits(one, query.clone()).await, hits(wide, query).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_in_several_shards_answer_as_those_in_one() {
    let data = tempfile::tempdir().unwrap();
    let (node, client) = start(data.path()).await;
    client.create_namespace_with("wide", SHARDS).await.unwrap();
    let (one, wide) = (client.collection("default", "c"), client.collection("wide", "c"));
    for collection in [&one, &wide] {
        collection.create(schema()).await.unwrap();
        let spread = PutOptions { spread: true, ..PutOptions::default() };
        collection.put_with((0..RECORDS).map(record), spread).await.unwrap();
    }
    same(&one, &wide).await;
    let places = client.describe_cluster().await.unwrap().shards;
    assert_eq!(places.len() as u32, SHARDS + 1);
    assert!(places[1..].iter().all(|place| place.records > RECORDS / 10), "{places:?}");

    for collection in [&one, &wide] {
        let gone = collection.delete_where(attribute("ten").equals(4)).await.unwrap();
        assert_eq!(gone.deleted, RECORDS / 10);
        let gone = collection.delete_many((0..20).map(|number| format!("k{number}"))).await.unwrap();
        assert_eq!((gone.deleted, gone.existed[3], gone.existed[4]), (18, true, false));
    }
    same(&one, &wide).await;

    assert!(node.terminate().success());
    let (_node, client) = start(data.path()).await;
    same(&client.collection("default", "c"), &client.collection("wide", "c")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_together_is_in_one_shard() {
    let data = tempfile::tempdir().unwrap();
    let (_node, client) = start(data.path()).await;
    client.create_namespace_with("wide", SHARDS).await.unwrap();
    let wide = client.collection("wide", "c");
    wide.create(Schema::default()).await.unwrap();
    let records = || (0..50).map(|number| Record::new(format!("k{number}")).with_value("v"));
    let refused = wide.put_with(records(), PutOptions::default()).await;
    let Err(Error::InvalidArgument { message, .. }) = &refused else { panic!("{refused:?}") };
    assert!(message.contains("different shards") && message.contains("{tag}"), "{message}");
    assert_eq!(wide.count(None).await.unwrap(), 0, "nothing was written");

    let tagged = (0..50).map(|number| Record::new(format!("{{team}}{number}")).with_value("v"));
    let written = wide.put_with(tagged, PutOptions::default()).await.unwrap();
    assert_eq!(written.token.parts().count(), 1);
    let spread = PutOptions { spread: true, ..PutOptions::default() };
    let written = wide.put_with(records(), spread).await.unwrap();
    assert_eq!((written.existed.len(), written.token.parts().count() as u32), (50, SHARDS));
    assert_eq!(wide.count(None).await.unwrap(), 100);

    let batch = |gone: &'static str, put: &'static str| wide.batch().delete(gone).put(Record::new(put).with_value("w"));
    batch("{team}1", "{team}2").commit().await.unwrap();
    assert!(matches!(batch("k1", "k2").commit().await, Err(Error::InvalidArgument { .. })));
    assert!(wide.get("{team}1").await.unwrap().is_none());
    let options =
        |key: &str| PutOptions { conditions: vec![Condition::absent(key.to_owned())], ..PutOptions::default() };
    wide.put_with([Record::new("{team}3").with_value("x")], options("{team}1")).await.unwrap();
    let mut elsewhere = 0;
    for number in 0..10 {
        let refused = wide.put_with([Record::new("{team}3").with_value("x")], options(&format!("k{number}"))).await;
        elsewhere += u32::from(matches!(refused, Err(Error::InvalidArgument { .. })));
    }
    assert!(elsewhere > 0, "a condition on a key in another shard is refused");

    // A token of one write, and of several together.
    let mut token = Token::default();
    for number in 0..8 {
        token.join(&wide.put(Record::new(format!("t{number}")).with_value("v")).await.unwrap().token);
    }
    let as_new = wide.clone().with_consistency(Consistency::AtLeast(token));
    for number in 0..8 {
        assert!(as_new.get(format!("t{number}")).await.unwrap().is_some());
    }
    let foreign = wide.clone().with_consistency(Consistency::AtLeast(Token::default()));
    assert!(matches!(foreign.get("t1").await, Err(Error::InvalidArgument { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_with_shards_come_and_go() {
    let data = tempfile::tempdir().unwrap();
    let (_node, client) = start(data.path()).await;
    client.create_namespace_with("wide", SHARDS).await.unwrap();
    client.ensure_namespace_with("wide", SHARDS).await.unwrap();
    let other = client.ensure_namespace_with("wide", 2).await;
    assert!(matches!(other, Err(Error::AlreadyExists { .. })), "{other:?}");
    let many = client.create_namespace_with("many", 65).await;
    assert!(matches!(many, Err(Error::InvalidArgument { .. })), "{many:?}");
    client.create_namespace_with("second", 2).await.unwrap();
    let shards: Vec<_> = client.namespaces_with_shards().await.unwrap();
    let of = |name: &str| shards.iter().find(|(found, _)| found == name).unwrap().1.clone();
    assert_eq!(of("wide"), [2, 3, 4, 5]);
    assert!(of("second").iter().all(|shard| of("wide").contains(shard)), "shards are shared: {shards:?}");

    for round in 0..3 {
        let (wide, second) = (client.collection("wide", "c"), client.collection("second", "c"));
        for collection in [&wide, &second] {
            collection.create(Schema::default()).await.unwrap();
            let spread = PutOptions { spread: true, ..PutOptions::default() };
            let records = (0..40).map(|number| Record::new(format!("k{number}")).with_value("v"));
            collection.put_with(records, spread).await.unwrap();
            assert_eq!(collection.count(None).await.unwrap(), 40, "round {round}");
        }
        wide.drop_collection().await.unwrap();
        assert!(matches!(wide.get("k1").await, Err(Error::NotFound { .. })));
        wide.create(Schema::default()).await.unwrap();
        assert_eq!(wide.count(None).await.unwrap(), 0, "what was dropped is gone");
        assert_eq!(second.count(None).await.unwrap(), 40);
        client.drop_namespace("second").await.unwrap();
        client.drop_namespace("wide").await.unwrap();
        // The second time around it has its records elsewhere.
        client.create_namespace_with("wide", if round == 0 { 0 } else { SHARDS }).await.unwrap();
        client.create_namespace_with("second", 3).await.unwrap();
    }
}

/// Whoever is told that his namespace was made has it as he asked for it, whoever else makes or drops it at the same time; and
/// what is left in the end works.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_many_make_and_drop_at_once_is_whole_or_not_there() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let data = tempfile::tempdir().unwrap();
    let (_node, client) = start(data.path()).await;
    client.create_namespace_with("first", 3).await.unwrap();
    let visitors: Vec<_> = (0..4)
        .map(|number| {
            let (client, mut chance) = (client.clone(), chance.fork());
            tokio::spawn(async move {
                for round in 0..12 {
                    let shards = [0, 2, 3][chance.index(3)];
                    let made = client.create_namespace_with("busy", shards).await.is_ok();
                    let busy = client.collection("busy", format!("c{number}"));
                    if made && busy.create(Schema::default()).await.is_ok() {
                        let key = format!("{number}, {round}");
                        let written = busy.put(Record::new(key.clone()).with_value("v")).await.is_ok();
                        // Gone with the namespace, or there.
                        match busy.get(key).await {
                            Ok(found) => assert!(!written || found.is_some(), "an acknowledged record is gone"),
                            Err(Error::NotFound { .. } | Error::Unavailable { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    let _ = client.drop_namespace("busy").await;
                }
            })
        })
        .collect();
    for visitor in visitors {
        visitor.await.unwrap_or_else(|error| panic!("LOCI_SEED={seed}: {error}"));
    }
    let _ = client.drop_namespace("busy").await;
    client.create_namespace_with("busy", 2).await.unwrap();
    let busy = client.collection("busy", "c");
    busy.create(Schema::default()).await.unwrap();
    busy.put_with((0..50).map(record_plain), PutOptions { spread: true, ..PutOptions::default() }).await.unwrap();
    assert_eq!(busy.count(None).await.unwrap(), 50);
}

fn record_plain(number: u64) -> Record {
    Record::new(format!("k{number}")).with_value("v")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_shard_keeps_its_node_from_starting_and_is_named() {
    let data = tempfile::tempdir().unwrap();
    let (node, client) = start(data.path()).await;
    client.create_namespace_with("wide", 2).await.unwrap();
    client.collection("wide", "c").create(Schema::default()).await.unwrap();
    assert!(node.terminate().success());
    let manifest = data.path().join("shards/3/MANIFEST");
    let mut bytes = std::fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&manifest, bytes).unwrap();
    let at = data.path().to_owned();
    let ended = tokio::task::spawn_blocking(move || Node::refused(&at, &[])).await.unwrap();
    assert!(ended.log.contains("shards/3") && !ended.log.contains("panicked"), "{}", ended.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_come_later_take_part_in_every_shard() {
    let data = tempfile::tempdir().unwrap();
    let at = |name: &str| data.path().join(name);
    let (first, client) = start(&at("1")).await;
    client.create_namespace_with("wide", SHARDS).await.unwrap();
    let wide = client.collection("wide", "c");
    wide.create(schema()).await.unwrap();
    let spread = PutOptions { spread: true, ..PutOptions::default() };
    wide.put_with((0..RECORDS).map(record), spread).await.unwrap();

    let join = || Start::default().with(&["--join", &first.address]);
    let (second, _) = start_with(&at("2"), join()).await;
    let (_third, at_third) = start_with(&at("3"), join()).await;
    let begun = Instant::now();
    loop {
        let shards = at_third.describe_cluster().await.unwrap().shards;
        if shards.len() as u32 == SHARDS + 1 && shards.iter().all(|shard| shard.voters == [1, 2, 3]) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "not all vote in every shard: {shards:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let both =
        Client::builder().address(&second.address).address(first.address.clone()).retries(40).connect_lazy().unwrap();
    assert_eq!(both.collection("wide", "c").count(None).await.unwrap(), RECORDS);
    let hasty = Client::builder().address(&second.address).timeout(Duration::from_secs(2)).connect_lazy().unwrap();
    let error = hasty.drain_member(2).await.expect_err("nobody else could vote");
    assert!(error.to_string().contains("nobody else could have it"), "{error}");
    both.undrain_member(2).await.unwrap();
    let (_fourth, _) = start_with(&at("4"), join()).await;
    both.drain_member(1).await.unwrap();
    let shards = at_third.describe_cluster().await.unwrap().shards;
    assert!(shards.iter().all(|shard| shard.leader != Some(1)), "{shards:?}");
    both.remove_member(1).await.unwrap();
    first.kill();
    let wide = both.collection("wide", "c");
    let keys = (0..RECORDS).map(|number| format!("k{number}"));
    let found = wide.get_many(keys).await.unwrap();
    assert!(found.iter().all(Option::is_some), "what was written before they came is theirs");
    wide.put_with((0..9).map(record), PutOptions { spread: true, ..PutOptions::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_die_cost_no_acknowledged_write_in_any_shard() {
    let kills = setting("LOCI_KILLS", 3);
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan { shards: SHARDS, ..Plan::default() }).await;
    let (mut gaps, mut made) = (Vec::new(), 0);
    for round in 0..kills {
        let load = Load::begin(&cluster, round, &mut chance);
        tokio::time::sleep(Duration::from_millis(300 + chance.below(400))).await;
        let node = chance.index(3);
        cluster.nodes[node].take().expect("it runs").kill();
        tokio::time::sleep(ROUND).await;
        cluster.start_again(node).await;
        tokio::time::sleep(Duration::from_millis(chance.below(500))).await;
        let report = load.end(&format!("round {round} of LOCI_SEED={seed}\n{}", cluster.logs())).await;
        gaps.push(report.longest);
        made += report.calls;
    }
    cluster.same_state().await;
    let begun = Instant::now();
    loop {
        let shards = cluster.client().describe_cluster().await.unwrap().shards;
        assert_eq!(shards.len() as u32, SHARDS + 1);
        let leaders: BTreeSet<_> = shards.iter().filter_map(|shard| shard.leader).collect();
        if leaders.len() == 3 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "some node leads nothing: {shards:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    gaps.sort();
    say(&format!(
        "{kills} nodes killed under {made} calls over {SHARDS} shards; nothing succeeded for {:?} at the middle, {:?} at the \
         worst",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    ));
}
