//! The way to the node that answers without a detour: after a few calls none is handed on between nodes, also after another node
//! leads, a shard is elsewhere, or a namespace is made anew with other shards; and old maps make no wrong answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use loci_client::{Client, Collection, Consistency, Record, Schema};
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::say;
use loci_wire::v1;
use loci_wire::v1::records_client::RecordsClient;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

const KEYS: usize = 60;
/// Leads are balanced, and shards moved, one after the other with pauses.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(200);

async fn start(nodes: usize, shards: u32, replicas: u32) -> Cluster {
    let options = ["--metrics", "127.0.0.1:0"].map(str::to_owned).to_vec();
    Cluster::start(Plan { options, shards, replicas, nodes, ..Plan::default() }).await
}

/// How many calls and writes a node has handed on to others.
fn forwarded_by(cluster: &Cluster, number: usize) -> u64 {
    let log = cluster.node(number).log();
    let (_, rest) = log.rsplit_once("metrics=").expect("it says where metrics are");
    let address = rest.split_whitespace().next().expect("an address").trim_matches('"');
    let mut stream = TcpStream::connect(address).expect("metrics are served");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    let counts = page.lines().filter_map(|line| line.strip_prefix("loci_calls_forwarded_total{")?.split_once("} "));
    let counts: Vec<u64> = counts.map(|(_, count)| count.trim().parse().expect("a count")).collect();
    assert_eq!(counts.len(), 2, "{page}");
    counts.iter().sum()
}

/// The same, of all nodes.
fn forwarded(cluster: &Cluster) -> u64 {
    let running = (0..cluster.nodes.len()).filter(|number| cluster.nodes[*number].is_some());
    running.map(|number| forwarded_by(cluster, number)).sum()
}

fn key(number: usize) -> String {
    format!("key{number}")
}

/// Writes and reads every key in each way that is about one shard.
async fn round(notes: &Collection, round: u64, pipelined: &Collection) {
    let text = |round: u64, number: usize| format!("{round} of {number}");
    let stale = notes.clone().with_consistency(Consistency::Stale);
    for number in 0..KEYS {
        let record = |round| Record::new(key(number)).with_value(text(round, number));
        let written = notes.put(record(2 * round)).await.expect("a put is answered");
        let read = notes.get(key(number)).await.expect("a get is answered").expect("it was written");
        assert_eq!(read.text(), Some(&text(2 * round, number)[..]));
        pipelined.batch().put(record(2 * round + 1)).commit().await.expect("a batch is answered");
        let read = pipelined.get(key(number)).await.expect("a get is answered").expect("it was written");
        assert_eq!(read.text(), Some(&text(2 * round + 1, number)[..]));
        let as_new = notes.clone().with_consistency(Consistency::AtLeast(written.token));
        assert!(as_new.get(key(number)).await.expect("a get is answered").is_some());
        stale.get(key(number)).await.expect("a stale get is answered");
        let cache = notes.cache();
        cache.set(format!("{{{}}}v", key(number)), text(round, number)).await.expect("a set is answered");
        assert!(cache.get(format!("{{{}}}v", key(number))).await.expect("a get is answered").is_some());
    }
}

/// Until a round needs no detour; after a few rounds that is so, unless leads change meanwhile.
async fn settles(cluster: &Cluster, client: &Client, rounds: &mut u64, what: &str) {
    let notes = client.collection("wide", "cache");
    let pipelined = client.pipeline().collection("wide", "cache");
    let begun = Instant::now();
    loop {
        let before = forwarded(cluster);
        *rounds += 1;
        round(&notes, *rounds, &pipelined).await;
        let detours = forwarded(cluster) - before;
        say(&format!("{what}: round {rounds} took {detours} detours"));
        if detours == 0 {
            return;
        }
        assert!(begun.elapsed() < SETTLES_WITHIN, "{what}: {detours} detours\n{}", cluster.logs());
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes the namespace anew, and its collection.
async fn again(client: &Client, shards: u32, replicas: u32) {
    client.drop_namespace("wide").await.expect("it is dropped");
    client.create_namespace_on("wide", shards, replicas, true).await.expect("it is made");
    client.collection("wide", "cache").ensure(Schema::default()).await.expect("it is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_where_their_shard_is_led_also_after_the_namespace_is_made_anew() {
    let cluster = start(3, 8, 0).await;
    let client = cluster.client();
    let mut rounds = 0;
    settles(&cluster, &client, &mut rounds, "eight shards").await;
    // Whoever is told nothing goes anywhere, and is answered.
    let aside = cluster.client_of(0).collection("wide", "cache");
    let before = forwarded(&cluster);
    for number in 0..KEYS {
        aside.put(Record::new(key(number)).with_value("aside")).await.expect("a put is answered");
    }
    assert!(forwarded(&cluster) > before, "no node leads all of eight shards");
    for shards in [3, 0, 4, 8] {
        again(&client, shards, 0).await;
        let notes = client.collection("wide", "cache");
        for number in 0..KEYS {
            assert!(notes.get(key(number)).await.expect("a get is answered").is_none(), "it is another namespace");
        }
        settles(&cluster, &client, &mut rounds, &format!("made anew with {shards} shards")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_and_find_the_way_again_when_a_leader_dies_and_shards_move() {
    let mut cluster = start(5, 6, 3).await;
    let client = cluster.client();
    let mut rounds = 0;
    settles(&cluster, &client, &mut rounds, "five nodes").await;
    let described = client.describe_cluster().await.expect("it is described");
    let leader = described.shards.iter().find(|shard| shard.replicas > 0).and_then(|shard| shard.leader);
    let member = described.members.iter().find(|member| Some(member.member) == leader).expect("somebody leads");
    let number = cluster.addresses.iter().position(|address| *address == member.address).expect("it was started");
    cluster.nodes[number].take().expect("it runs").kill();
    settles(&cluster, &client, &mut rounds, "a leader is dead").await;
    cluster.start_again(number).await;
    settles(&cluster, &client, &mut rounds, "it is back").await;
    // Its members move, and with them what is read from any that has a shard.
    let begun = Instant::now();
    while let Err(error) = cluster.client().drain_member(leader.expect("somebody leads")).await {
        assert!(begun.elapsed() < SETTLES_WITHIN, "{error}\n{}", cluster.logs());
    }
    settles(&cluster, &client, &mut rounds, "it is drained").await;
    again(&client, 3, 1).await;
    settles(&cluster, &client, &mut rounds, "made anew with one member for each shard").await;
}

async fn records(address: &str) -> RecordsClient<Channel> {
    RecordsClient::connect(format!("http://{address}")).await.expect("it listens")
}

/// A put of one key, by somebody who believes something.
async fn put(address: &str, key: &str, known: Option<v1::KnownRoute>) -> MetadataMap {
    let collection = v1::CollectionName { namespace: "wide".into(), collection: "cache".into() };
    let record = v1::Record { key: key.to_owned().into(), ..Default::default() };
    let put = v1::PutRequest { collection: Some(collection), records: vec![record], ..Default::default() };
    let mut request = tonic::Request::new(put);
    if let Some(known) = known {
        loci_wire::insert_known(request.metadata_mut(), known);
    }
    records(address).await.put(request).await.expect("whoever is asked answers").metadata().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_says_who_leads_what_and_a_node_tells_whoever_believes_otherwise() {
    let cluster = start(3, 4, 0).await;
    let map = |number: usize| {
        let address = cluster.addresses[number].clone();
        async move {
            let request = v1::RouteRequest { namespace: "wide".into() };
            records(&address).await.route(request).await.expect("it says").into_inner()
        }
    };
    // Leads are given to others for a while at first. Whoever leads the catalog may lead nothing else in the end.
    let begun = Instant::now();
    let map = loop {
        let [one, other] = [map(0).await, map(1).await];
        let leads = one.shards.iter().fold(BTreeMap::new(), |mut leads, shard| {
            *leads.entry(shard.leader).or_insert(0) += 1;
            leads
        });
        if one == other && !leads.contains_key(&0) && leads.values().all(|leads| *leads <= 2) {
            break one;
        }
        assert!(begun.elapsed() < SETTLES_WITHIN, "{one:?}\n{}", cluster.logs());
        tokio::time::sleep(LOOK).await;
    };
    assert!(map.version > 0 && map.shards.len() == 4);
    let leading: BTreeSet<u64> = map.shards.iter().map(|shard| shard.leader).collect();
    let spoken_of: BTreeSet<u64> = map.nodes.iter().map(|node| node.member).collect();
    assert!(spoken_of.is_superset(&leading) && spoken_of.len() == map.nodes.len(), "{map:?}");
    assert_eq!(map.shards.iter().map(|shard| shard.last_slot - shard.first_slot + 1).sum::<u32>(), 16_384);
    let address = |member: u64| map.nodes.iter().find(|node| node.member == member).expect("a node").address.clone();
    for number in 0..20 {
        let key = format!("some{number}");
        let slot = u32::from(loci_wire::slot(key.as_bytes()));
        let shard = map.shards.iter().find(|shard| (shard.first_slot..=shard.last_slot).contains(&slot)).unwrap();
        let leader = address(shard.leader);
        let right = v1::KnownRoute { version: map.version, shard: shard.shard };
        let told = v1::Leader { shard: shard.shard, address: leader.clone(), term: shard.term, version: map.version };
        let old = v1::KnownRoute { version: map.version - 1, ..right };
        let other = v1::KnownRoute { shard: shard.shard + 1, ..right };
        assert_eq!(loci_wire::leader(&put(&leader, &key, Some(right)).await), None, "there is nothing to say");
        assert_eq!(loci_wire::leader(&put(&leader, &key, None).await), None, "nor to who believes nothing");
        for wrong in [old, other] {
            assert_eq!(loci_wire::leader(&put(&leader, &key, Some(wrong)).await).as_ref(), Some(&told), "{wrong:?}");
        }
        let elsewhere = cluster.addresses.iter().find(|address| **address != leader).unwrap();
        for known in [None, Some(right), Some(old), Some(other)] {
            assert_eq!(loci_wire::leader(&put(elsewhere, &key, known).await).as_ref(), Some(&told), "{known:?}");
        }
    }
}
