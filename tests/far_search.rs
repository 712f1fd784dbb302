//! Searches over shards that are on several nodes, none of which has all of them: whatever is asked, at whichever node, the answer is
//! the one of a collection whose records are in one place; and a shard that cannot answer is an error, or is named as missing.
//!
//! `LOCI_QUESTIONS=1000` asks more; `LOCI_SEED` chooses records and questions.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, UNIX_EPOCH};

use loci_client::{
    Client, Collection, Decay, Diversity, Error, Filter, Found, Fusion, Hit, Language, Metric, Parts, PutOptions,
    Query, Recommend, Record, Schema, Search, Value, attribute,
};
use loci_tests::chance::Chance;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::{say, seed, setting};

const RECORDS: u64 = 500;
const SHARDS: u32 = 6;
const WORDS: [&str; 8] = ["lake", "river", "stone", "moss", "heron", "reed", "otter", "the"];
/// Deadlines pass otherwise while the one is asked and the other is not.
const AGE_COUNTED_TO: Duration = Duration::from_secs(20);

fn words(chance: &mut Chance, most: u64) -> String {
    let words: Vec<&str> = (0..1 + chance.below(most)).map(|_| WORDS[chance.index(WORDS.len())]).collect();
    words.join(" ")
}

fn vector(chance: &mut Chance) -> Vec<f32> {
    // Whole numbers, so that many are equally far.
    (0..4).map(|_| chance.below(7) as f32 - 3.0).collect()
}

fn weights(chance: &mut Chance) -> Vec<(u32, f32)> {
    let dimensions: BTreeSet<u32> = (0..1 + chance.below(4)).map(|_| chance.below(20) as u32).collect();
    dimensions.into_iter().map(|dimension| (dimension, 1.0 + chance.below(4) as f32)).collect()
}

/// Some have no embedding, no text, no group or no time.
fn record(chance: &mut Chance, number: u64) -> Record {
    let mut record = Record::new(format!("k{number}")).with_value(format!("value {number}"));
    if chance.percent(90) {
        record = record.with_embedding(vector(chance));
    }
    if chance.percent(80) {
        record = record.with_sparse("terms", weights(chance));
    }
    if chance.percent(80) {
        record = record.with_attribute("body", words(chance, 12));
    }
    record = match chance.below(10) {
        0 => record,
        1 => record.with_attribute("group", vec![Value::from(1_i64)]),
        2..6 => record.with_attribute("group", chance.below(4) as f64),
        _ => record.with_attribute("group", chance.below(60) as i64),
    };
    if chance.percent(90) {
        record = record.with_attribute("seen", Value::Timestamp(chance.below(20_000_000) as i64));
    }
    record
}

fn schema() -> Schema {
    let schema = Schema::default().with_embedding("e", 4, Metric::SquaredL2).with_sparse("terms");
    schema.with_text("body", Language::English).with_index("group")
}

fn filter(chance: &mut Chance) -> Filter {
    match chance.below(3) {
        0 => attribute("group").equals(chance.below(4) as i64),
        1 => attribute("group").at_least(chance.below(40) as i64),
        _ => attribute("seen").at_least(Value::Timestamp(chance.below(15_000_000) as i64)),
    }
}

fn key(chance: &mut Chance) -> String {
    // Few are not there.
    format!("k{}", chance.below(RECORDS + 3))
}

/// Of any form; fusions so deep as they may be.
fn query(chance: &mut Chance, depth: u32) -> Query {
    let query = match chance.below(if depth < 2 { 10 } else { 7 }) {
        0 => Query::near(vector(chance)),
        1 => Query::near_key(key(chance)),
        2 => Query::near_sparse(weights(chance)),
        3 | 4 => Query::text("body", words(chance, 3)),
        5 | 6 => {
            let mut like = Recommend::new();
            for _ in 0..1 + chance.below(3) {
                like = if chance.percent(60) { like.like_key(key(chance)) } else { like.like(vector(chance)) };
            }
            for _ in 0..chance.below(3) {
                like = if chance.percent(60) { like.unlike_key(key(chance)) } else { like.unlike(vector(chance)) };
            }
            if chance.percent(50) { like.by_nearest().into() } else { like.into() }
        }
        _ => {
            let fusion = if chance.percent(50) { Fusion::weighted() } else { Fusion::reciprocal_rank() };
            let parts = (0..1 + chance.below(3)).map(|_| {
                let (limit, weight) = (1 + chance.below(40) as u32, 0.5 + chance.below(3) as f32);
                query(chance, depth + 1).limit(limit).weight(weight)
            });
            parts.fold(fusion, Fusion::and).into()
        }
    };
    if chance.percent(25) { query.filter(filter(chance)) } else { query }
}

fn search(collection: &Collection, chance: &mut Chance) -> Search {
    let mut search = collection.search_many().exact().k([1, 3, 20, 600][chance.index(4)]);
    for _ in 0..1 + chance.below(3) {
        search = search.query(query(chance, 0));
    }
    if chance.percent(30) {
        search = search.filter(filter(chance));
    }
    if chance.percent(10) {
        search = search.min_distance(chance.below(30) as f32);
    }
    if chance.percent(10) {
        search = search.max_distance(chance.below(40) as f32);
    }
    if chance.percent(10) {
        search = search.min_score(chance.below(100) as f32 / 100.0);
    }
    if chance.percent(25) {
        let candidates = chance.below(60) as u32;
        let (share, now) = (chance.below(5) as f32 / 4.0, Some(UNIX_EPOCH + AGE_COUNTED_TO));
        let half_life = Duration::from_millis(1 + chance.below(5_000));
        search = search.decay(Decay { share, now, candidates, ..Decay::new("seen", half_life) });
    }
    match chance.below(4) {
        0 => search = search.group_by("group", chance.below(4) as u32),
        1 => {
            let (lambda, candidates) = (chance.below(11) as f32 / 10.0, chance.below(60) as u32);
            search = search.diverse(Diversity { lambda, candidates, embedding: String::new() });
        }
        _ => {}
    }
    if chance.percent(40) {
        let (value, attributes, embeddings) = (chance.percent(50), chance.percent(50), chance.percent(50));
        search = search.parts(Parts { value, attributes, embeddings });
    }
    // Where nothing is missing it changes nothing.
    if chance.percent(30) { search.partial() } else { search }
}

/// What is compared of a hit: all of it, but the version, which is counted in each shard.
fn told(hit: &Hit) -> String {
    let Record { key, value, attributes, embeddings, .. } = &hit.record;
    let bits = |number: f32| format!("{number} {:08x}", number.to_bits());

    let (distance, score) = (bits(hit.distance), hit.score.map(bits));
    format!("{key:?} {distance} {score:?} {:?} {value:?} {attributes:?} {embeddings:?}", hit.group)
}

fn answer(found: Result<Found, Error>) -> Result<Vec<Vec<String>>, String> {
    let found = found.map_err(|error| format!("{error:?}"))?;
    assert_eq!(found.missing, []);
    Ok(found.queries.iter().map(|hits| hits.iter().map(told).collect()).collect())
}

async fn fill(client: &Client, seed: u64) {
    let mut chance = Chance::new(seed);
    let records: Vec<Record> = (0..RECORDS).map(|number| record(&mut chance, number)).collect();
    for namespace in ["default", "wide"] {
        let collection = client.collection(namespace, "c");
        collection.ensure(schema()).await.unwrap();
        let spread = PutOptions { spread: true, ..PutOptions::default() };
        collection.put_with(records.clone(), spread).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_search_over_several_nodes_answers_as_one_in_one_place() {
    let questions = setting("LOCI_QUESTIONS", 150);
    let seed = seed();
    let cluster = Cluster::start(Plan { shards: SHARDS, replicas: 1, nodes: 3, ..Plan::default() }).await;
    fill(&cluster.client(), seed).await;
    let held = cluster.client().describe_cluster().await.unwrap().shards;
    let held: BTreeSet<_> = held.iter().filter(|shard| shard.replicas == 1).flat_map(|shard| &shard.holders).collect();
    assert_eq!(held.len(), 3, "no node has all of them");
    let (mut full, mut refused) = (0, 0);
    for question in 0..questions {
        let at = cluster.client_of(question as usize % 3);
        let ask = |namespace: &str| search(&at.collection(namespace, "c"), &mut Chance::new(seed ^ question << 20));
        let expected = answer(ask("default").found().await);
        let found = answer(ask("wide").found().await);
        assert_eq!(found, expected, "question {question} of LOCI_SEED={seed}: {:?}", ask("wide"));
        full += usize::from(expected.as_ref().is_ok_and(|queries| queries.iter().any(|hits| !hits.is_empty())));
        refused += usize::from(expected.is_err());
    }
    let asked = questions as usize;
    assert!(full > asked / 2 && refused < asked / 2, "the test went past something: {full} {refused} of {asked}");
    say(&format!("{questions} questions answered alike, {full} with hits and {refused} refused"));

    // How it was found is told of every shard.
    let both = Fusion::reciprocal_rank().and(Query::near(vec![0.0; 4])).and(Query::text("body", "heron"));
    let found = cluster.client_of(1).collection("wide", "c").find(both).explain().found().await.unwrap();
    let shards: BTreeSet<u32> = found.explanations[0].steps.iter().map(|step| step.shard).collect();
    assert_eq!(shards.len() as u32, SHARDS, "{:?}", found.explanations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_cannot_answer_fails_a_search_or_is_named() {
    let seed = seed();
    let mut cluster = Cluster::start(Plan { shards: SHARDS, replicas: 1, nodes: 3, ..Plan::default() }).await;
    fill(&cluster.client(), seed).await;
    let at = cluster.client_of(0);
    let wide = at.collection("wide", "c");
    let near = || Query::near(vec![1.0, -1.0, 2.0, 0.0]);
    let keys = |hits: &[Hit]| hits.iter().map(|hit| hit.record.key.to_vec()).collect::<Vec<_>>();
    let all = keys(&wide.find(near()).k(RECORDS as u32).exact().hits().await.unwrap());
    let described = at.describe_cluster().await.unwrap();
    let gone = described.members.iter().find(|member| member.address == cluster.addresses[2]).unwrap().member;
    let lost: Vec<_> = described.shards.iter().filter(|shard| shard.holders == [gone]).collect();
    assert!(!lost.is_empty(), "{described:?}");
    cluster.nodes[2].take().expect("it runs").kill();

    let failed = wide.find(near()).hits().await;
    assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
    let words = || Query::text("body", "otters by the lake");
    let fused = || Fusion::reciprocal_rank().and(near()).and(words());
    let begun = Instant::now();
    let mut searches = 0;
    for (query, groups) in [(near(), 0), (words(), 0), (fused().into(), 0), (near(), 2)] {
        let mut search = wide.find(query).k(RECORDS as u32).exact().partial();
        if groups > 0 {
            search = search.k(20).group_by("group", groups);
        }
        let found = search.found().await.unwrap_or_else(|error| panic!("{error:?}\n{}", cluster.logs()));
        let missing: BTreeSet<u32> = found.missing.iter().map(|missing| missing.shard).collect();
        let expected: BTreeSet<u32> = lost.iter().map(|shard| shard.shard).collect();
        assert_eq!(missing, expected, "{:?}", found.missing);
        assert!(!found.queries[0].is_empty() && found.missing.iter().all(|missing| !missing.reason.is_empty()));
        searches += 1;
        if searches == 1 {
            // What the others have, in the order that it had among all.
            let there = keys(&found.queries[0]);
            let left: Vec<Vec<u8>> = all.iter().filter(|key| there.contains(key)).cloned().collect();
            assert_eq!(there, left);
            assert!(there.len() < all.len(), "the node that was killed had none of {} records", all.len());
            // Near to a record that is away there is nothing to search for; near to one that is there is.
            let away = all.iter().find(|key| !there.contains(key)).expect("it had some").clone();
            let like = Recommend::new().like(vec![1.0, -1.0, 2.0, 0.0]).like_key(away.clone());
            for (query, key) in [(Query::near_key(away.clone()), &away), (like.into(), &away)] {
                let failed = wide.find(query).partial().found().await;
                let Err(Error::Refused { message, reason }) = &failed else { panic!("{failed:?}\n{}", cluster.logs()) };
                let key = String::from_utf8_lossy(key);
                assert!(reason == "example_away" && message.contains(&*key) && message.contains("shard"), "{message}");
                searches += 1;
            }
            let found = wide.find(Query::near_key(there[0].clone())).partial().found().await.expect("it is there");
            assert_eq!(found.missing.len(), expected.len());
            searches += 1;
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?} for {searches} searches without a node", begun.elapsed());

    cluster.start_again(2).await;
    let begun = Instant::now();
    loop {
        match wide.find(near()).k(RECORDS as u32).exact().partial().found().await {
            Ok(found) if found.missing.is_empty() => break assert_eq!(keys(&found.queries[0]), all),
            other => assert!(begun.elapsed() < Duration::from_secs(60), "{other:?}\n{}", cluster.logs()),
        }
    }
}
