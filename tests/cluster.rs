//! Three nodes as processes of their own, under load: the one that leads is killed again and again. Every acknowledged write
//! is there, every read is as new as it must be (the history of all clients is linearizable), all members end in the same
//! state, and it is told how long clients saw nothing. And what clients see with the settings that they have unless somebody sets
//! them: of nodes that are restarted one after another, and of one that hangs.
//!
//! `LOCI_KILLS=200` makes the documented long run of it; `LOCI_SEED` chooses the load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loci_client::{CacheReply, Client, Error, Record};
use loci_tests::chance::Chance;
use loci_tests::cluster::load::Load;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::{say, seed, setting, skip};

/// How long each round lasts, at least.
const ROUND: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_costs_no_acknowledged_write_and_no_stale_read() {
    let kills = setting("LOCI_KILLS", 5);
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan::default()).await;
    let (mut gaps, mut made) = (Vec::new(), 0);
    for round in 0..kills {
        let load = Load::begin(&cluster, round, &mut chance);
        tokio::time::sleep(Duration::from_millis(300 + chance.below(400))).await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].take().expect("it runs").kill();
        tokio::time::sleep(ROUND).await;
        cluster.start_again(leader).await;
        tokio::time::sleep(Duration::from_millis(chance.below(500))).await;
        let report = load.end(&format!("round {round} of LOCI_SEED={seed}")).await;
        gaps.push(report.longest);
        made += report.calls;
    }
    cluster.same_state().await;
    gaps.sort();
    say(&format!(
        "{kills} leaders killed under {made} calls; nothing succeeded for {:?} at the middle, {:?} at the worst",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    ));
}

/// A client that knows all nodes, `first` at first, and otherwise what it comes with.
fn usual_client(cluster: &Cluster, first: usize) -> Client {
    let count = cluster.addresses.len();
    let in_turn = (0..count).map(|step| &cluster.addresses[(first + step) % count]);
    in_turn.fold(Client::builder(), |builder, address| builder.address(address)).connect_lazy().expect("addresses")
}

/// Writes, reads, counts and searches until it is told to stop: how many calls it made, those that failed, and the longest.
async fn ask_on(
    client: Client,
    namespace: &'static str,
    number: usize,
    stop: Arc<AtomicBool>,
) -> (usize, Vec<Error>, Duration) {
    let (cache, memories) = (client.collection(namespace, "cache"), client.collection(namespace, "memories"));
    let (mut made, mut failed, mut longest) = (0, Vec::new(), Duration::ZERO);
    let (counter, mut counted) = (format!("counter.{number}"), 0);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let key = format!("{number}.{}", made % 50);
        let answer = match made % 5 {
            0 => cache.put(Record::new(key).with_value("x")).await.map(drop),
            1 => cache.get(key).await.map(drop),
            2 => memories.put(Record::new(key).with_embedding(vec![made as f32; 8])).await.map(drop),
            3 => cache.cache().call(["INCR".to_owned(), counter.clone()]).await.map(|reply| {
                counted += 1;
                assert_eq!(reply, CacheReply::Int(counted), "{counter} is counted once for each call");
            }),
            _ => memories.search(vec![made as f32; 8]).k(3).hits().await.map(drop),
        };
        made += 1;
        longest = longest.max(begun.elapsed());
        failed.extend(answer.err());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (made, failed, longest)
}

/// Stops one node after another, and starts it again, while clients ask: what they saw, in words. No call may fail.
async fn roll(cluster: &mut Cluster) -> String {
    let stop = Arc::new(AtomicBool::new(false));
    let ask = |number| ask_on(usual_client(cluster, number % 3), cluster.namespace(), number, stop.clone());
    let asking: Vec<_> = (0..4).map(|number| tokio::spawn(ask(number))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut down = Vec::new();
    for number in 0..3 {
        let node = cluster.nodes[number].take().expect("it runs");
        let begun = Instant::now();
        let ended = tokio::task::spawn_blocking(move || node.terminate()).await.expect("it ends");
        assert!(ended.success(), "{ended}");
        cluster.start_again(number).await;
        down.push(begun.elapsed());
        // As people do before they go on to the next one.
        cluster.wait_voters(3).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut made, mut failed, mut longest) = (0, Vec::new(), Duration::ZERO);
    for caller in asking {
        let (calls, errors, slowest) = caller.await.expect("a caller does not panic");
        made += calls;
        failed.extend(errors);
        longest = longest.max(slowest);
    }
    assert!(failed.is_empty(), "{} of {made} calls failed: {failed:?}\n{}", failed.len(), cluster.logs());
    cluster.same_state().await;
    format!("down for {down:?}: {made} calls, 0 failed, the longest {longest:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_call_of_clients_with_their_usual_settings() {
    let mut cluster = Cluster::start(Plan::default()).await;
    let seen = roll(&mut cluster).await;
    say(&format!("three nodes restarted one after another, {seen}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_fails_no_call_of_clients_with_their_usual_settings() {
    let Some(old) = std::env::var_os("LOCI_OLD") else {
        return skip(
            "a_rolling_upgrade_fails_no_call_of_clients_with_their_usual_settings",
            "LOCI_OLD names no program of an earlier version",
        );
    };
    for shards in [0, 3] {
        let mut cluster = Cluster::start(Plan { program: Some(old.clone().into()), shards, ..Plan::default() }).await;
        cluster.upgrade();
        let seen = roll(&mut cluster).await;
        say(&format!("three nodes with {} shards, upgraded one after another, {seen}", shards + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_given_up_long_before_its_connections_break() {
    let cluster = Cluster::start(Plan::default()).await;
    let leader = cluster.leader().await;
    let client = usual_client(&cluster, leader);
    let cache = client.collection("default", "cache");
    cache.put(Record::new("key").with_value("1")).await.expect("it is written");
    cache.get("key").await.expect("it is read");
    cluster.node(leader).send_stop();
    let (mut took, begun) = (Vec::new(), Instant::now());
    cache.put(Record::new("key").with_value("2")).await.expect("it is written elsewhere");
    took.push(begun.elapsed());
    // Whoever comes anew, as each command of the command line does, and knows the one that hangs first.
    for call in 0..2 {
        let (begun, client) = (Instant::now(), usual_client(&cluster, leader));
        let cache = client.collection("default", "cache");
        if call == 0 {
            let found = cache.get("key").await.expect("it is read elsewhere").expect("it is there");
            assert_eq!(found.value.as_deref(), Some(&b"2"[..]));
        } else {
            cache.put(Record::new("key").with_value("3")).await.expect("it is written elsewhere");
        }
        took.push(begun.elapsed());
    }
    let after = Instant::now();
    cache.get("key").await.expect("it is read elsewhere");
    took.push(after.elapsed());
    cluster.node(leader).send_go_on();
    say(&format!(
        "the leader hangs: a put {:?}, a new client's get {:?} and put {:?}, a get after it {:?}",
        took[0], took[1], took[2], took[3]
    ));
}
