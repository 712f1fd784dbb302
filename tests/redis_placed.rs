//! Clients of Redis where each shard of the databases is on some of the nodes only (`--replicas`): every node answers as if it had all
//! of them, also while shards move and nodes die.
//!
//! `LOCI_STEPS=20000` makes a long run of the comparison; `LOCI_SEED` chooses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loci_client::{Client as Native, Error};
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::process::{Node, PATIENCE, Start};
use loci_tests::resp::{Client, text};
use loci_tests::spread::{answer_as_one, check, sorted, words};
use loci_tests::{say, seed, setting};
use loci_wire::resp::Reply;

const SHARDS: u32 = 4;
/// Moves are made one after the other, with pauses.
const MOVES_TAKE: Duration = Duration::from_secs(120);

fn open(node: &Node) -> Client {
    let address = node.resp.as_deref().expect("the node has a door for clients of Redis");
    Client::open(address).expect("the node listens")
}

/// So many nodes, with the databases over `SHARDS` shards, each of them on so many nodes.
async fn start(nodes: usize, replicas: u32, options: &[&str]) -> Cluster {
    let options = [&["--resp", "127.0.0.1:0"], options].concat().into_iter().map(String::from).collect();
    let cluster = Cluster::start(Plan { options, nodes, ..Plan::default() }).await;
    cluster.client().create_namespace_on("redis", SHARDS, replicas, true).await.expect("a namespace is made");
    cluster
}

/// A client of each node, once it answers for all slots.
fn clients(cluster: &Cluster) -> Vec<Client> {
    let begun = Instant::now();
    let nodes = cluster.nodes.iter().flatten();
    nodes
        .map(|node| {
            let mut client = open(node);
            for number in 0..20 {
                while client.line(&format!("SET k{number} v")) != "OK" {
                    assert!(begun.elapsed() < PATIENCE, "{}", cluster.logs());
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            assert_eq!(client.line("FLUSHALL"), "OK");
            client
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_on_other_nodes_answer_as_one() {
    let (seed, steps) = (seed(), setting("LOCI_STEPS", 3_000));
    let data = tempfile::tempdir().unwrap();
    let one = Start::default().with(&["--resp", "127.0.0.1:0"]).ready(data.path()).await;
    let cluster = start(4, 1, &[]).await;
    answer_as_one(&mut open(&one), &mut clients(&cluster), seed, steps);
    say(&format!("{steps} calls at four nodes, each with one of four shards, as at one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_knows_of_keys_elsewhere_is_so() {
    let cluster = start(4, 1, &[]).await;
    let mut clients = clients(&cluster);
    // Each node has a shard, and so each of these is elsewhere for three of four.
    for (number, client) in clients.iter_mut().enumerate() {
        check(client, &[("FLUSHALL", "OK"), ("SELECT 0", "OK")]);
        for tag in 0..8 {
            let key = format!("{{t{tag}.{number}}}");
            for (line, expected) in [
                (format!("SET {key} 5 EX 1000"), "OK"),
                (format!("GET {key}"), "5"),
                (format!("COPY {key} {key}c DB 3"), "1"),
                (format!("MOVE {key} 3"), "1"),
                (format!("EXISTS {key}"), "0"),
                ("SELECT 3".into(), "OK"),
                (format!("MGET {key} {key}c {key}none"), "[5 5 nothing]"),
                (format!("TTL {key}c"), "1000"),
                (format!("TYPE {key}"), "string"),
                (format!("OBJECT ENCODING {key}"), "int"),
                (format!("GET {key}c"), "5"),
                (format!("INCRBY {key} 2"), "7"),
                (format!("LPUSH {key} x"), "-WRONGTYPE Operation against a key holding the wrong kind of value"),
                (format!("EVAL return{{redis.call('GET',KEYS[1]),redis.call('STRLEN',KEYS[1])}} 1 {key}"), "[7 1]"),
                (format!("WATCH {key}"), "OK"),
                ("MULTI".into(), "OK"),
                (format!("GET {key}"), "QUEUED"),
                (format!("DEL {key} {key}c"), "QUEUED"),
                ("EXEC".into(), "[7 2]"),
                (format!("XADD {key} 1-1 f v"), "1-1"),
                (format!("XREAD BLOCK 20 STREAMS {key} $"), "nothing"),
                (format!("XREAD STREAMS {key} 0"), &*format!("[[{key} [[1-1 [f v]]]]]")),
                (format!("XGROUP CREATE {key} g 0"), "OK"),
                (format!("XREADGROUP GROUP g c STREAMS {key} >"), &*format!("[[{key} [[1-1 [f v]]]]]")),
                (format!("XACK {key} g 1-1"), "1"),
                (format!("DEL {key}"), "1"),
                ("SELECT 0".into(), "OK"),
            ] {
                assert_eq!(client.line(&line), expected, "{line}");
            }
            let used = client.call(&format!("MEMORY USAGE {key}"));
            assert_eq!(used, Reply::Null);
            check(client, &[(&format!("SET {key} v"), "OK")]);
            assert!(matches!(client.call(&format!("MEMORY USAGE {key}")), Reply::Int(20..)));
        }
        let info = client.line("INFO keyspace");
        assert!(info.contains("db0:keys=8,expires=0"), "{info}");
        assert_eq!(sorted(&client.call("KEYS *")).len(), 8);
        let drawn: std::collections::BTreeSet<String> = (0..60).map(|_| client.line("RANDOMKEY")).collect();
        assert!(drawn.len() > 4, "{drawn:?}");
        // What is drawn by chance is another each time, also elsewhere.
        for tag in 0..4 {
            client.call(&format!("SADD {{s{tag}}} a b c d e f g h"));
            let drawn: std::collections::BTreeSet<String> =
                (0..60).map(|_| client.line(&format!("SRANDMEMBER {{s{tag}}}"))).collect();
            assert!(drawn.len() > 4, "{drawn:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_or_listens_hears_of_shards_elsewhere() {
    let cluster = start(4, 1, &[]).await;
    let mut clients = clients(&cluster);
    let mut at = |number: usize, line: &str| clients[number].line(line);
    for node in 0..4 {
        assert_eq!(at(node, "CONFIG SET notify-keyspace-events K$"), "OK");
        let (mut hearer, mut keeper) = (open(cluster.node(node)), open(cluster.node(node)));
        hearer.call("HELLO 3");
        keeper.call("HELLO 3");
        hearer.call("PSUBSCRIBE *");
        assert_eq!(keeper.line("CLIENT TRACKING ON"), "OK");
        for number in 0..12 {
            keeper.call(&format!("GET k{node}.{number}"));
        }
        // From another node, too, in all shards.
        for number in 0..12 {
            let other = (node + number) % 4;
            at(other, &format!("PUBLISH c{number} m{number}"));
            let heard = format!("{:?}", hearer.reply().expect("a message"));
            assert!(heard.contains("Push"), "{heard}");
            assert_eq!(at(other, &format!("SET k{node}.{number} v")), "OK");
            let heard = format!("{:?}", hearer.reply().expect("an event"));
            assert!(heard.contains("Push"), "{heard}");
            let told = format!("{:?}", keeper.reply().expect("an invalidation"));
            assert!(told.contains("Push"), "{told}");
        }
        assert_eq!(at(node, "CONFIG SET notify-keyspace-events "), "OK");
        for number in 0..12 {
            let mut waiting = open(cluster.node(node));
            assert!(waiting.send(&[words(&format!("BLPOP q{node}.{number} 0"))]));
            if number % 2 == 0 {
                std::thread::sleep(Duration::from_millis(30));
            }
            assert_eq!(at((node + number) % 4, &format!("RPUSH q{node}.{number} x")), "1");
            assert_eq!(text(&waiting.reply().unwrap()), format!("[q{node}.{number} x]"));
        }
        // A watched key changes elsewhere.
        for number in 0..8 {
            let mut other = open(cluster.node(node));
            assert_eq!(other.line(&format!("WATCH k{number}")), "OK");
            assert_eq!(at((node + 1) % 4, &format!("SET k{number} w{node}")), "OK");
            check(&mut other, &[("MULTI", "OK"), (&format!("SET k{number} lost"), "QUEUED"), ("EXEC", "nothing")]);
            assert_eq!(other.line(&format!("GET k{number}")), format!("w{node}"));
        }
    }
}

/// What each of some clients counts, without a reply that is lost: so many counters, until it is over.
fn count(client: Client, over: &Arc<AtomicBool>, counters: u64) -> std::thread::JoinHandle<Vec<(u64, String)>> {
    let (mut client, over) = (client, over.clone());
    std::thread::spawn(move || {
        let mut told = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let calls = (0..counters).map(|counter| vec!["INCR".to_owned(), format!("counter{counter}")]);
            assert!(client.send(&calls.collect::<Vec<_>>()));
            told.extend((0..counters).map(|counter| (counter, text(&client.reply().expect("a reply")))));
        }
        told
    })
}

/// Nothing was counted twice, and nothing that was answered is missing.
fn counted_once(told: &[(u64, String)], counters: u64, client: &mut Client, logs: &str) {
    for counter in 0..counters {
        let of_counter = told.iter().filter(|(of, _)| *of == counter).map(|(_, reply)| reply);
        let mut numbers: Vec<u64> =
            of_counter.map(|reply| reply.parse().unwrap_or_else(|_| panic!("{reply}\n{logs}"))).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "some were counted twice, or not at all\n{logs}");
        assert_eq!(client.line(&format!("GET counter{counter}")), numbers.len().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_die_and_clients_of_the_others_hear_of_nothing_but_a_pause() {
    const COUNTERS: u64 = 8;
    let mut cluster = start(4, 3, &[]).await;
    for death in 0..3usize {
        let dies = death;
        let rest: Vec<usize> = (0..4).filter(|number| *number != dies).collect();
        let mut all = clients(&cluster);
        let over = Arc::new(AtomicBool::new(false));
        let counting: Vec<_> =
            (0..6).map(|number| count(open(cluster.node(rest[number % 3])), &over, COUNTERS)).collect();
        let waiting: Vec<Client> = rest
            .iter()
            .flat_map(|node| (0..6).map(move |number| (*node, number)))
            .map(|(node, number)| {
                let mut waiting = open(cluster.node(node));
                assert!(waiting.send(&[words(&format!("BLPOP {death}q{node}.{number} 0"))]));
                waiting
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        cluster.nodes[dies].take().expect("it ran").kill();
        std::thread::sleep(Duration::from_secs(3));
        for (at, node) in rest.iter().enumerate() {
            for number in 0..6 {
                let line = format!("RPUSH {death}q{node}.{number} x");
                assert_eq!(all[rest[(at + 1) % 3]].line(&line), "1");
            }
        }
        for mut waiting in waiting {
            let served = text(&waiting.reply().expect("it is woken"));
            assert!(served.ends_with(" x]"), "{served}");
        }
        over.store(true, Ordering::Relaxed);
        let told: Vec<_> = counting.into_iter().flat_map(|counting| counting.join().expect("it counted")).collect();
        counted_once(&told, COUNTERS, &mut all[rest[0]], &cluster.logs());
        cluster.start_again(dies).await;
    }
}

/// What came together is looked at together, and what only reads is not logged, wherever it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_reads_is_not_logged() {
    let cluster = start(4, 1, &[]).await;
    let mut clients = clients(&cluster);
    let keys: Vec<String> = (0..64).map(|number| format!("k{number}")).collect();
    let large = "x".repeat(2 << 20);
    let mut calls: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, "v"]).collect();
    calls.push(vec!["SET", "large", &large]);
    assert!(clients[0].send(&calls));
    calls.iter().for_each(|_| assert_eq!(text(&clients[0].reply().expect("a reply")), "OK"));
    let applied = || async {
        let mut applied = std::collections::BTreeMap::new();
        for number in 0..4 {
            let stats = cluster.client_of(number).stats().await.expect("the node answers");
            applied.extend(stats.shards.into_iter().filter(|shard| shard.shard > 1).map(|s| (s.shard, s.applied)));
        }
        applied
    };
    // Something else may be logged meanwhile, once.
    for round in 0.. {
        let before = applied().await;
        assert_eq!(before.len(), SHARDS as usize);
        for client in &mut clients {
            let calls: Vec<Vec<&str>> = keys.iter().map(|key| vec!["GET", key]).collect();
            assert!(client.send(&calls));
            calls.iter().for_each(|_| assert_eq!(text(&client.reply().expect("a reply")), "v"));
            // More than goes into one message.
            let calls: Vec<Vec<&str>> = (0..40).map(|_| vec!["GET", "large"]).collect();
            assert!(client.send(&calls));
            calls.iter().for_each(|_| assert_eq!(text(&client.reply().expect("a reply")).len(), large.len()));
        }
        let after = applied().await;
        if after == before {
            return;
        }
        assert!(round < 4, "{before:?} {after:?}");
    }
}

/// Empties a node of shards, however long that takes on a busy machine.
async fn drain(cluster: &Cluster, native: &Native, member: u64) {
    let begun = Instant::now();
    // It says so if there is more to wait for.
    while let Err(error) = native.drain_member(member).await {
        let waits = matches!(error, Error::DeadlineExceeded { .. });
        assert!(waits && begun.elapsed() < MOVES_TAKE, "{error}\n{}", cluster.logs());
    }
    loop {
        let described = native.describe_cluster().await.expect("a node describes its cluster");
        let mut placed = described.shards.iter().filter(|shard| shard.replicas > 0);
        if placed.all(|shard| !shard.voters.contains(&member) && shard.leader.is_some()) {
            return;
        }
        assert!(begun.elapsed() < MOVES_TAKE, "{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_told_each_message_once_while_shards_move() {
    let cluster = start(4, 1, &[]).await;
    let mut clients = clients(&cluster);
    let native = cluster.client();
    let over = Arc::new(AtomicBool::new(false));
    let hearing: Vec<_> = (0..4)
        .map(|number| {
            let mut hears = open(cluster.node(number));
            assert!(hears.send(&[vec!["SUBSCRIBE", "a", "b", "c", "d", "e", "f"]]));
            (0..6).for_each(|_| drop(hears.reply().expect("a reply")));
            std::thread::spawn(move || {
                let mut heard: Vec<(String, u64)> = Vec::new();
                loop {
                    let message = text(&hears.reply().expect("a message"));
                    let words: Vec<&str> = message.trim_matches(['[', ']']).split(' ').collect();
                    if words[2] == "end" {
                        return heard;
                    }
                    heard.push((words[1].to_owned(), words[2].parse().expect("a number")));
                }
            })
        })
        .collect();
    let publishing = {
        let (over, mut client) = (over.clone(), open(cluster.node(3)));
        std::thread::spawn(move || {
            let mut number = 0u64;
            while !over.load(Ordering::Relaxed) {
                for channel in ["a", "b", "c", "d", "e", "f"] {
                    let said = client.line(&format!("PUBLISH {channel} {number}"));
                    assert!(said.parse::<u64>().is_ok(), "{said}");
                }
                number += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            number
        })
    };
    for number in [0, 1] {
        let members = native.describe_cluster().await.expect("a node describes its cluster").members;
        let member =
            members.iter().find(|member| member.address == cluster.addresses[number]).expect("it is there").member;
        drain(&cluster, &native, member).await;
        native.undrain_member(member).await.expect("it is filled");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    over.store(true, Ordering::Relaxed);
    let published = publishing.join().expect("it published");
    tokio::time::sleep(Duration::from_millis(500)).await;
    clients[3].call("PUBLISH a end");
    for (number, hearing) in hearing.into_iter().enumerate() {
        let heard = hearing.join().expect("it heard");
        let mut lost = 0;
        for channel in ["a", "b", "c", "d", "e", "f"] {
            let of: Vec<u64> = heard.iter().filter(|(of, _)| of == channel).map(|(_, number)| *number).collect();
            assert!(of.windows(2).all(|pair| pair[0] < pair[1]), "some came twice, or too late, to node {number}");
            lost += published - of.len() as u64;
        }
        say(&format!("node {number}: {lost} of {} messages lost while shards moved", 6 * published));
        assert!(lost * 20 < 6 * published, "{lost} of {} messages were lost\n{}", 6 * published, cluster.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_move_under_clients_that_do_not_notice() {
    const COUNTERS: u64 = 8;
    let cluster = start(4, 1, &[]).await;
    let mut all = clients(&cluster);
    let over = Arc::new(AtomicBool::new(false));
    let counting: Vec<_> = (0..4).map(|number| count(open(cluster.node(number)), &over, COUNTERS)).collect();
    let native = cluster.client();
    // Each node in turn is emptied, and filled again.
    for number in [0, 2] {
        let member = native.describe_cluster().await.expect("a node describes its cluster").members;
        let member =
            member.iter().find(|member| member.address == cluster.addresses[number]).expect("it is there").member;
        drain(&cluster, &native, member).await;
        let mut waiting = open(cluster.node(number));
        assert!(waiting.send(&[words("BLPOP queue 0")]));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(all[(number + 1) % 4].line("RPUSH queue x"), "1");
        assert_eq!(text(&waiting.reply().expect("it is woken")), "[queue x]");
        native.undrain_member(member).await.expect("it is filled");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    over.store(true, Ordering::Relaxed);
    let told: Vec<_> = counting.into_iter().flat_map(|counting| counting.join().expect("it counted")).collect();
    counted_once(&told, COUNTERS, &mut all[0], &cluster.logs());
    say(&format!("{} counted while shards moved", told.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_cluster_are_sent_to_who_leads_also_by_who_has_nothing() {
    let cluster = start(4, 1, &["--resp-cluster"]).await;
    let addresses: Vec<String> = (0..4).map(|number| cluster.node(number).resp.clone().expect("a door")).collect();
    let begun = Instant::now();
    let mut all: Vec<Client> = (0..4).map(|number| open(cluster.node(number))).collect();
    // Until all have heard of all.
    let mut masters = std::collections::BTreeSet::new();
    while masters.len() < SHARDS as usize {
        assert!(begun.elapsed() < PATIENCE, "{masters:?}\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Reply::Array(ranges) = all[0].call("CLUSTER SLOTS") else { continue };
        masters = ranges
            .iter()
            .filter_map(|range| match range {
                Reply::Array(parts) => parts.get(2).map(text),
                _ => None,
            })
            .collect();
    }
    for number in 0..40 {
        for (at, client) in all.iter_mut().enumerate() {
            let mut said = client.line(&format!("SET k{number} {at}"));
            if let Some(moved) = said.strip_prefix("-MOVED ") {
                let to = moved.split(' ').nth(1).expect("an address").to_owned();
                assert_ne!(to, addresses[at]);
                let mut there = Client::open(&to).expect("it listens");
                said = there.line(&format!("SET k{number} {at}"));
            }
            assert_eq!(said, "OK", "k{number} at {at}");
        }
    }
    // A replica of all, as far as clients are told, answers for all.
    for client in &mut all {
        assert_eq!(client.line("READONLY"), "OK");
        let slot = client.line("CLUSTER KEYSLOT k7");
        check(client, &[(&format!("CLUSTER COUNTKEYSINSLOT {slot}"), "1")]);
        check(client, &[(&format!("CLUSTER GETKEYSINSLOT {slot} 5"), "[k7]")]);
        for number in 0..40 {
            assert_eq!(client.line(&format!("GET k{number}")), "3");
        }
    }
}
