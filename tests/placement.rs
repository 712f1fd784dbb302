//! Shards that are on some of the nodes only: every node answers for them, they spread over the nodes, leave one that is drained or
//! dead, come to one that is new, and nothing acknowledged is lost while they move.
//!
//! `LOCI_MOVES=20` makes a long run of the moves; `LOCI_SEED` chooses the load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use loci_client::{
    Client, Collection, Condition, Consistency, Entry, Error, Metric, Partition, PutOptions, Query, Record, Schema,
    ShardDescription, attribute,
};
use loci_tests::chance::Chance;
use loci_tests::cluster::load::Load;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::{say, seed, setting};
use loci_wire::v1;
use loci_wire::v1::peers_client::PeersClient;
use loci_wire::v1::pipeline_request::Call;

const RECORDS: u64 = 400;
const SHARDS: u32 = 4;
const LOOK: Duration = Duration::from_millis(100);
/// Moves are made one after the other, with pauses.
const MOVES_TAKE: Duration = Duration::from_secs(120);

fn record(number: u64) -> Record {
    let mut chance = Chance::new(number);
    let embedding: Vec<f32> = (0..8).map(|_| chance.component()).collect();
    Record::new(format!("k{number}"))
        .with_value(format!("value {number}"))
        .with_attribute("ten", (number % 10) as i64)
        .with_embedding(embedding)
}

fn schema() -> Schema {
    Schema::default().with_embedding("e", 8, Metric::SquaredL2)
}

fn spread() -> PutOptions {
    PutOptions { spread: true, ..PutOptions::default() }
}

async fn hits(collection: &Collection, query: Query) -> Vec<(String, i64)> {
    let found = collection.find(query).k(15).exact().hits().await.expect("a search is answered");
    let key = |record: &Record| String::from_utf8_lossy(&record.key).into_owned();
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

/// What is in shards on some nodes answers as what is in one place, whichever node is asked.
async fn same(one: &Collection, wide: &Collection, what: &str) {
    let keys = scanned(one).await;
    assert_eq!(keys, scanned(wide).await, "{what}");
    for ten in [0, 3, 12] {
        let filter = attribute("ten").equals(ten);
        assert_eq!(one.count(filter.clone()).await.unwrap(), wide.count(filter).await.unwrap(), "{what}");
    }
    let asked: Vec<String> = (0..RECORDS).step_by(7).map(|number| format!("k{number}")).collect();
    let values =
        |found: Vec<Option<Record>>| found.into_iter().map(|record| record.and_then(|r| r.value)).collect::<Vec<_>>();
    let (a, b) = (one.get_many(asked.clone()).await.unwrap(), wide.get_many(asked).await.unwrap());
    assert_eq!(values(a), values(b), "{what}");
    for number in [1, 30, 77] {
        let vector: Vec<f32> = (0..8).map(|at| ((number + at) as f32).sin()).collect();
        for query in [Query::near(vector.clone()), Query::near_key(keys[number].clone())] {
            assert_eq!(hits(one, query.clone()).await, hits(wide, query).await, "{what}");
        }
    }
}

async fn shards(client: &Client) -> Vec<ShardDescription> {
    let described = client.describe_cluster().await.expect("a node describes its cluster");
    described.shards.into_iter().filter(|shard| shard.replicas > 0).collect()
}

/// How many members each node has, as far as shards say who votes.
fn members(shards: &[ShardDescription]) -> BTreeMap<u64, usize> {
    let mut members = BTreeMap::new();
    for member in shards.iter().flat_map(|shard| &shard.voters) {
        *members.entry(*member).or_default() += 1;
    }
    members
}

/// Waits until all members are where they are to be, and that is so.
async fn settled(cluster: &Cluster, what: &str, wanted: impl Fn(&[ShardDescription]) -> bool) -> Vec<ShardDescription> {
    let client = cluster.client();
    let begun = Instant::now();
    loop {
        let shards = shards(&client).await;
        let rest = |shard: &ShardDescription| {
            shard.leader.is_some()
                && shard.learners.is_empty()
                && shard.leaving.is_empty()
                && shard.voters == shard.holders
        };
        if !shards.is_empty() && shards.iter().all(rest) && wanted(&shards) {
            return shards;
        }
        assert!(begun.elapsed() < MOVES_TAKE, "{what}: {shards:?}\n{}", cluster.logs());
        tokio::time::sleep(LOOK).await;
    }
}

/// Which shards a node has files of.
fn files(cluster: &Cluster, number: usize) -> BTreeSet<u32> {
    let folder = cluster.data(number).join("shards");
    let names = std::fs::read_dir(folder).expect("the shards are there").filter_map(|entry| {
        let name = entry.expect("a folder can be read").file_name();
        name.to_string_lossy().split('.').next()?.parse::<u32>().ok()
    });
    names.filter(|shard| *shard > 1).collect()
}

/// The number of a member's node.
async fn node_of(cluster: &Cluster, member: u64) -> usize {
    let described = cluster.client().describe_cluster().await.unwrap();
    let address =
        described.members.iter().find(|known| known.member == member).expect("it is a member").address.clone();
    cluster.addresses.iter().position(|known| *known == address).expect("it was started here")
}

/// Drains a member, which may take longer than a call.
async fn drain(cluster: &Cluster, member: u64) {
    let begun = Instant::now();
    while let Err(error) = cluster.client().drain_member(member).await {
        assert!(begun.elapsed() < MOVES_TAKE, "{error}\n{}", cluster.logs());
    }
}

/// A client of one node that does not mind an election.
fn patient(cluster: &Cluster, number: usize) -> Client {
    let builder = Client::builder().address(&cluster.addresses[number]).connections(1).retries(40).retry_floor(1_000.0);
    builder.follow_leader(false).timeout(Duration::from_secs(20)).connect_lazy().expect("an address")
}

/// Five nodes at a time are enough for one machine.
static FIVE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn fill(client: &Client) {
    for collection in [client.collection("default", "c"), client.collection("wide", "c")] {
        collection.ensure(schema()).await.unwrap();
        collection.put_with((0..RECORDS).map(record), spread()).await.unwrap();
    }
}

fn even(shards: &[ShardDescription], nodes: usize) -> bool {
    let members = members(shards);
    let (least, most) = (members.values().min().copied().unwrap_or(0), members.values().max().copied().unwrap_or(0));
    members.len() == nodes && most - least <= 1
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_on_some_nodes_answer_at_every_node_and_move_where_they_are_to_be() {
    let _alone = FIVE.lock().await;
    let mut cluster = Cluster::start(Plan { shards: SHARDS, replicas: 3, nodes: 4, ..Plan::default() }).await;
    let client = cluster.client();
    let found = settled(&cluster, "they are spread", |shards| shards.len() as u32 == SHARDS && even(shards, 4)).await;
    assert!(found.iter().all(|shard| shard.voters.len() == 3), "{found:?}");
    fill(&client).await;
    for number in 0..4 {
        let member = cluster.client_of(number).describe_cluster().await.unwrap().member;
        let held: BTreeSet<u32> =
            found.iter().filter(|shard| shard.holders.contains(&member)).map(|shard| shard.shard).collect();
        assert_eq!(files(&cluster, number), held, "of node {number}");
        let at = cluster.client_of(number);
        let (one, wide) = (at.collection("default", "c"), at.collection("wide", "c"));
        same(&one, &wide, &format!("at node {number}")).await;
        assert_eq!(wide.describe().await.unwrap().stats.records, RECORDS, "at node {number}");
        // Written here, and seen everywhere at once; also with a token, and where nobody waits.
        let key = format!("from {number}");
        let written = wide.put(Record::new(key.clone()).with_value("v").with_embedding(vec![9.0; 8])).await.unwrap();
        for other in 0..4 {
            let there = cluster.client_of(other).collection("wide", "c");
            assert!(there.get(key.clone()).await.unwrap().is_some(), "written at {number}, read at {other}");
            let as_new = there.clone().with_consistency(Consistency::AtLeast(written.token.clone()));
            assert!(as_new.get(key.clone()).await.unwrap().is_some());
            there.with_consistency(Consistency::Stale).get(key.clone()).await.unwrap();
        }
        wide.batch().delete(key.clone()).commit().await.unwrap();
        assert!(wide.get(key.clone()).await.unwrap().is_none());
        let absent = PutOptions { conditions: vec![Condition::absent(key.clone())], ..PutOptions::default() };
        wide.put_with([Record::new(key.clone()).with_value("v")], absent.clone()).await.unwrap();
        let again = wide.put_with([Record::new(key.clone()).with_value("v")], absent).await;
        assert!(matches!(again, Err(Error::ConditionFailed { .. })), "{again:?}");
        let gone = wide.delete_many([key]).await.unwrap();
        assert_eq!(gone.deleted, 1);
    }
    for collection in ["default", "wide"] {
        let gone = client.collection(collection, "c").delete_where(attribute("ten").equals(4)).await.unwrap();
        assert_eq!(gone.deleted, RECORDS / 10);
    }

    // One is emptied, and gets its members back.
    let drained = found[0].leader.unwrap();
    let number = node_of(&cluster, drained).await;
    drain(&cluster, drained).await;
    let now = settled(&cluster, "one is drained", |shards| even(shards, 3)).await;
    assert!(now.iter().all(|shard| !shard.holders.contains(&drained)), "{now:?}");
    assert_eq!(files(&cluster, number), BTreeSet::new(), "they are gone from the disk");
    let at = cluster.client_of(number);
    same(&at.collection("default", "c"), &at.collection("wide", "c"), "at the drained node").await;
    client.undrain_member(drained).await.unwrap();
    settled(&cluster, "it has members again", |shards| even(shards, 4)).await;
    assert_eq!(files(&cluster, number).len(), 3);

    // One more gets some.
    let fifth = cluster.add().await;
    settled(&cluster, "the new node has members", |shards| even(shards, 5)).await;
    let at = cluster.client_of(fifth);
    same(&at.collection("default", "c"), &at.collection("wide", "c"), "at the new node").await;

    // All are there after a start of all.
    for number in 0..cluster.nodes.len() {
        assert!(cluster.nodes[number].take().expect("it runs").terminate().success());
        cluster.start_again(number).await;
    }
    settled(&cluster, "after restarts", |shards| even(shards, 5)).await;
    let at = cluster.client_of(number);
    same(&at.collection("default", "c"), &at.collection("wide", "c"), "after restarts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_nodes_members_are_replaced_and_it_comes_back_with_none_of_what_it_had() {
    let options = vec!["--replace-after-seconds".to_owned(), "3".to_owned()];
    let mut cluster = Cluster::start(Plan { shards: 3, replicas: 3, nodes: 4, options, ..Plan::default() }).await;
    let client = cluster.client();
    fill(&client).await;
    let found = settled(&cluster, "they are spread", |_| true).await;
    let dead = found[1].leader.unwrap();
    let number = node_of(&cluster, dead).await;
    cluster.nodes[number].take().expect("it runs").kill();
    let begun = Instant::now();
    loop {
        let shards = shards(&client).await;
        let replaced = |shard: &ShardDescription| shard.voters.len() == 3 && !shard.voters.contains(&dead);
        if shards.len() == 3 && shards.iter().all(replaced) {
            break;
        }
        assert!(begun.elapsed() < MOVES_TAKE, "{shards:?}\n{}", cluster.logs());
        tokio::time::sleep(LOOK).await;
    }
    same(&client.collection("default", "c"), &client.collection("wide", "c"), "without the dead").await;
    client.collection("wide", "c").put_with((0..50).map(record), spread()).await.unwrap();
    // One of the stores that it has nothing to do with any more is damaged besides: it waits for nobody to give it another.
    let manifest = cluster.data(number).join("shards").join(found[1].shard.to_string()).join("MANIFEST");
    assert!(manifest.exists(), "{}", manifest.display());
    std::fs::write(&manifest, "damaged").unwrap();
    cluster.start_again(number).await;
    assert!(cluster.node(number).log().contains("a shard is not started"), "{}", cluster.logs());
    settled(&cluster, "it is back", |shards| even(shards, 4)).await;
    let at = cluster.client_of(number);
    same(&at.collection("default", "c"), &at.collection("wide", "c"), "at the one that was dead").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_comes_to_have_other_members_under_load_and_loses_nothing() {
    let _alone = FIVE.lock().await;
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan { shards: SHARDS, replicas: 3, nodes: 4, ..Plan::default() }).await;
    let client = cluster.client();
    // Has its records in two of the same shards, and wants no more members than it was made with.
    client.create_namespace_on("beside", 2, 3, false).await.unwrap();
    client.create_namespace_with("everywhere", 2).await.unwrap();
    fill(&client).await;
    settled(&cluster, "they are spread", |shards| even(shards, 4)).await;
    let listed = client.describe_namespaces().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|found| (&*found.name, found.shards.len(), found.replicas)).collect();
    for expected in [("beside", 2, 3), ("default", 0, 0), ("everywhere", 2, 0), ("wide", SHARDS as usize, 3)] {
        assert!(listed.contains(&expected), "{listed:?}");
    }
    for (namespace, replicas, reason) in
        [("wide", 5, "too_few_nodes"), ("default", 3, "on_all_nodes"), ("everywhere", 3, "on_all_nodes")]
    {
        let refused = client.set_replicas(namespace, replicas).await.unwrap_err();
        assert_eq!(refused.reason(), Some(reason), "{namespace} {replicas}: {refused}");
    }
    let wrong = client.set_replicas("wide", 4).await;
    assert!(matches!(wrong, Err(Error::InvalidArgument { .. })), "{wrong:?}");
    assert!(matches!(client.set_replicas("none", 3).await, Err(Error::NotFound { .. })));
    cluster.add().await;
    let of = |shards: &[ShardDescription], namespace: &str| -> Vec<usize> {
        let own = shards.iter().filter(|shard| shard.namespaces.iter().any(|has| has == namespace));
        own.map(|shard| shard.voters.len()).collect()
    };
    for (round, (replicas, dies)) in [(5, false), (3, true), (5, true)].into_iter().enumerate() {
        let what = format!("round {round} of LOCI_SEED={seed}: {replicas} members");
        let load = Load::begin(&cluster, round as u64, &mut chance);
        cluster.client_of(chance.index(5)).set_replicas("wide", replicas).await.unwrap();
        if dies {
            // Somebody is away for a while in the middle of it.
            tokio::time::sleep(Duration::from_millis(chance.below(3_000))).await;
            let number = chance.index(5);
            cluster.nodes[number].take().expect("it runs").kill();
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            cluster.start_again(number).await;
        }
        let wanted = replicas as usize;
        settled(&cluster, &what, |shards| of(shards, "wide") == [wanted; SHARDS as usize] && even(shards, 5)).await;
        load.end(&format!("{what}\n{}", cluster.logs())).await;
        let at = patient(&cluster, chance.index(5));
        same(&at.collection("default", "c"), &at.collection("wide", "c"), &what).await;
    }
    // The most that a namespace wants of a shard is what it has.
    client.set_replicas("wide", 1).await.unwrap();
    let found = settled(&cluster, "one member, or three", |shards| {
        let mut wide = of(shards, "wide");
        wide.sort_unstable();
        wide == [1, 1, 3, 3] && of(shards, "beside") == [3, 3]
    });
    found.await;
    client.drop_namespace("beside").await.unwrap();
    settled(&cluster, "one member", |shards| of(shards, "wide") == [1; SHARDS as usize]).await;
    let again = client.create_namespace_on("wide", SHARDS, 1, true).await.unwrap();
    assert!(again.existed);
    let at = patient(&cluster, 2);
    same(&at.collection("default", "c"), &at.collection("wide", "c"), "with one member of each shard").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_says_why() {
    let cluster = Cluster::start(Plan::default()).await;
    let client = cluster.client();
    for (shards, replicas) in [(2, 2), (2, 7), (0, 3)] {
        let refused = client.create_namespace_on("no", shards, replicas, false).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{shards} {replicas}: {refused:?}");
    }
    client.create_namespace_on("single", 3, 1, false).await.unwrap();
    client.create_namespace_on("single", 3, 1, true).await.unwrap();
    let other = client.create_namespace_on("single", 3, 3, true).await;
    assert!(matches!(other, Err(Error::AlreadyExists { .. })), "{other:?}");
    let single = client.collection("single", "c");
    single.create(schema().with_text("text", loci_client::Language::English)).await.unwrap();
    single.put_with((0..60).map(record), spread()).await.unwrap();
    let found = shards(&client).await;
    assert_eq!(members(&found).values().copied().collect::<Vec<_>>(), [1, 1, 1], "{found:?}");
    let words = single.find(Query::text("text", "heron")).hits().await;
    assert_eq!(words.expect("words are counted over shards on three nodes"), []);
    let holder = found[0].holders[0];
    let removed = client.remove_member(if holder == 1 { found[1].holders[0] } else { holder }).await;
    let message = removed.expect_err("its records would be lost").to_string();
    assert!(message.contains("drain"), "{message}");
    // Asked by a node that has read another catalog: nothing is acknowledged that is not written, and nothing is left out.
    client.collection("default", "plain").create(Schema::default()).await.unwrap();
    for (namespace, name) in [("single", "c"), ("default", "plain")] {
        let of = Some(v1::CollectionName { namespace: namespace.into(), collection: name.into() });
        let record = v1::Record { key: "k1".into(), ..v1::Record::default() };
        let put = v1::PutRequest { collection: of.clone(), records: vec![record], ..v1::PutRequest::default() };
        let count = v1::CountRequest { collection: of, ..v1::CountRequest::default() };
        for call in [Call::Put(Box::new(put)), Call::Count(Box::new(count))] {
            let status = ask_as_a_node(&cluster, call, &[77]).await.expect_err("no such shard is its own");
            let message = status.message();
            assert!(message.contains("other shards"), "{namespace}: {message}");
        }
    }
}

/// Asks the first node for these shards, as another node does.
async fn ask_as_a_node(cluster: &Cluster, call: Call, shards: &[u32]) -> Result<v1::CallReply, tonic::Status> {
    let described = cluster.client_of(0).describe_cluster().await.unwrap();
    let mut peer = PeersClient::connect(format!("http://{}", cluster.addresses[0])).await.unwrap();
    let call = v1::PipelineRequest { call: Some(call), ..v1::PipelineRequest::default() };
    let mut request = tonic::Request::new(v1::CallRequest { shards: shards.to_vec(), call: Some(call) });
    request.metadata_mut().insert("loci-cluster", described.cluster.parse().unwrap());
    request.metadata_mut().insert("loci-to", described.member.to_string().parse().unwrap());
    request.set_timeout(Duration::from_secs(10));
    peer.call(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_values_watches_and_the_semantic_cache_work_at_every_node() {
    let cluster = Cluster::start(Plan { shards: 5, replicas: 1, nodes: 3, ..Plan::default() }).await;
    let client = cluster.client();
    client.collection("wide", "c").ensure(Schema::default()).await.unwrap();
    client.semantic_cache("wide", "answers").ensure(2, Metric::Cosine).await.unwrap();
    // Whoever is asked, all that is written anywhere is told.
    let mut watches = Vec::new();
    for number in 0..3 {
        let mut watch = cluster.client_of(number).collection("wide", "c").watch();
        watch.begin().await.unwrap();
        watches.push(watch);
    }
    for number in 0..3 {
        let at = cluster.client_of(number);
        let cache = at.collection("wide", "c").cache();
        for key in 0..12 {
            cache.increment(format!("n{key}"), 1).await.unwrap();
        }
        let many =
            (0..12).fold(cache.commands(), |commands, key| commands.command(["GET".to_owned(), format!("n{key}")]));
        let replies = many.execute().await.unwrap().replies;
        let expected = (number + 1).to_string();
        assert!(replies.iter().all(|reply| reply.bytes().is_some_and(|bytes| bytes == expected)), "{replies:?}");
        assert_eq!(cache.call(["DBSIZE"]).await.unwrap().int(), Some(12));
        let several = cache.commands().command(["INCR", "n1"]).command(["INCR", "n2"]).command(["INCR", "n3"]);
        let refused = several.command(["INCR", "n4"]).atomic().execute().await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");

        let answers = at.semantic_cache("wide", "answers").threshold(0.01);
        let partition = Partition::new().with("at", number.to_string());
        for angle in 0..8 {
            let (sin, cos) = (angle as f32).sin_cos();
            answers.put(&partition, Entry::new(vec![cos, sin], format!("a{angle}")).with_tag("all")).await.unwrap();
        }
        let (sin, cos) = 5_f32.sin_cos();
        let hit = answers.get(&partition, vec![cos, sin]).await.unwrap().hit().expect("it is there");
        assert_eq!(&hit.value[..], b"a5");
    }
    let dropped = cluster.client_of(1).semantic_cache("wide", "answers").drop_tagged(["all"]).await.unwrap();
    assert_eq!(dropped.entries, 24);
    for (number, mut watch) in watches.into_iter().enumerate() {
        let mut told: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for _ in 0..36 {
            let event = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
            let event = event.unwrap_or_else(|_| panic!("at node {number}: {told:?}")).unwrap();
            *told.entry(event.key.to_vec()).or_default() += 1;
        }
        assert!(told.len() == 12 && told.values().all(|times| *times == 3), "at node {number}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_die_while_members_move_cost_no_acknowledged_write() {
    let moves = setting("LOCI_MOVES", 3);
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan { shards: 3, replicas: 3, nodes: 4, ..Plan::default() }).await;
    settled(&cluster, "they are spread", |_| true).await;
    let (mut gaps, mut made) = (Vec::new(), 0);
    for round in 0..moves {
        let load = Load::begin(&cluster, round, &mut chance);
        let shards = shards(&cluster.client()).await;
        let leaders: Vec<u64> = shards.iter().filter_map(|shard| shard.leader).collect();
        let drained = leaders[chance.index(leaders.len())];
        let client = cluster.client();
        let draining = tokio::spawn(async move { client.drain_member(drained).await });
        tokio::time::sleep(Duration::from_millis(300 + chance.below(2_500))).await;
        // Whoever leads some shard now, the one that is drained or another.
        let leaders: Vec<u64> = self::shards(&cluster.client()).await.iter().filter_map(|shard| shard.leader).collect();
        let killed = leaders.get(chance.index(leaders.len().max(1))).copied().unwrap_or(drained);
        let number = node_of(&cluster, killed).await;
        cluster.nodes[number].take().expect("it runs").kill();
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.start_again(number).await;
        // It may have been asked of the one that died, or take longer than the call.
        let _ = draining.await.expect("draining does not panic");
        cluster.client().undrain_member(drained).await.unwrap();
        let report = load.end(&format!("round {round} of LOCI_SEED={seed}\n{}", cluster.logs())).await;
        gaps.push(report.longest);
        made += report.calls;
    }
    settled(&cluster, "all have come to rest", |shards| even(shards, 4)).await;
    gaps.sort();
    say(&format!(
        "{moves} nodes killed while members moved under {made} calls; nothing succeeded for {:?} at the worst",
        gaps[gaps.len() - 1]
    ));
}
