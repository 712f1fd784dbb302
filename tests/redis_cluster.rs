//! Clients of Redis where the databases are spread over several shards: a node answers as if all were in one place, or says that it
//! cannot; and in the cluster mode every node says who leads what, also after one of them died.
//!
//! `LOCI_STEPS=20000` makes a long run of the comparison; `LOCI_SEED` chooses it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loci_client::Client as Native;
use loci_tests::chance::Chance;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::process::{Node, PATIENCE, Start};
use loci_tests::resp::{Client, text};
use loci_tests::spread::{answer_as_one, check, sorted, words};
use loci_tests::{say, seed, setting};
use loci_wire::resp::Reply;

const SHARDS: u32 = 4;

const CROSSSLOT: &str = "-CROSSSLOT Keys in request don't hash to the same slot";

fn open(node: &Node) -> Client {
    let address = node.resp.as_deref().expect("the node has a door for clients of Redis");
    Client::open(address).expect("the node listens")
}

/// A node whose databases are spread over several shards, if any.
async fn start(data: &Path, shards: u32, options: &[&str]) -> Node {
    let node = Start::default().with(&["--resp", "127.0.0.1:0"]).with(options).ready(data).await;
    let client = Native::builder().address(&node.address).connect_lazy().expect("an address");
    client.ensure_namespace_with("redis", shards).await.expect("a namespace is made");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn several_shards_answer_as_one() {
    let (seed, steps) = (seed(), setting("LOCI_STEPS", 1_500));
    let (one, wide) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, wide) = (start(one.path(), 0, &[]).await, start(wide.path(), SHARDS, &[]).await);
    answer_as_one(&mut open(&one), &mut [open(&wide)], seed, steps);
    say(&format!("{steps} calls on {SHARDS} shards as on one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_several_slots_are_refused_and_all_else_has_its_answer() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), SHARDS, &[]).await;
    let mut client = open(&node);
    let swap = "-ERR SWAPDB is not there where databases are spread over several shards";
    let elsewhere = "ERR Script attempted to access keys that do not hash to the same slot";
    check(
        &mut client,
        &[
            ("MSET foo 1 bar 2", CROSSSLOT),
            ("MGET foo bar", CROSSSLOT),
            ("DEL foo bar", CROSSSLOT),
            ("RENAME foo bar", CROSSSLOT),
            ("BLPOP foo bar 1", CROSSSLOT),
            ("WATCH foo bar", CROSSSLOT),
            ("EVAL return(1) 2 foo bar", CROSSSLOT),
            ("SORT foo BY w*", CROSSSLOT),
            ("SWAPDB 0 1", swap),
            ("SET foo 1", "OK"),
            ("EVAL return(7) 0", "7"),
            ("EVAL return(redis.call('GET',KEYS[1])) 1 foo", "1"),
            ("SET {foo}2 x", "OK"),
            ("EVAL return(redis.call('GET','{foo}2')) 1 foo", "x"),
            // Transactions: each call by itself is fine, all of them together are not.
            ("MULTI", "OK"),
            ("SET foo 2", "QUEUED"),
            ("SET bar 2", "QUEUED"),
            ("EXEC", CROSSSLOT),
            ("GET foo", "1"),
            ("MULTI", "OK"),
            ("MGET foo bar", CROSSSLOT),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
            ("MULTI", "OK"),
            ("DBSIZE", "-ERR 'dbsize' is about all shards of the databases: not inside a transaction"),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
            ("WATCH bar", "OK"),
            ("MULTI", "OK"),
            ("SET foo 2", "QUEUED"),
            ("EXEC", CROSSSLOT),
            ("WATCH foo", "OK"),
            ("MULTI", "OK"),
            ("INCR foo", "QUEUED"),
            ("PING", "QUEUED"),
            ("EVAL return(redis.call('INCR',KEYS[1])) 1 foo", "QUEUED"),
            ("PUBLISH c m", "QUEUED"),
            ("EXEC", "[2 PONG 3 0]"),
            ("MOVE foo 1", "1"),
            ("SELECT 1", "OK"),
            ("GET foo", "3"),
            ("COPY foo a{foo} DB 0", "1"),
            ("DBSIZE", "1"),
            ("SELECT 0", "OK"),
            ("DBSIZE", "2"),
            ("WAIT 0 0", "0"),
            ("SCRIPT WITHIN any EVAL x 0", "-ERR unknown subcommand 'WITHIN'. Try SCRIPT HELP."),
            ("SCAN 0 COUNT", "-ERR syntax error"),
            ("SCAN x", "-ERR invalid cursor"),
            ("SCAN 7", "-ERR invalid cursor"),
        ],
    );
    for script in
        ["return(redis.call('SET','bar','1'))", "return(redis.call('DBSIZE'))", "return(redis.call('KEYS','*'))"]
    {
        let said = client.line(&format!("EVAL {script} 1 foo"));
        assert!(said.contains(elsewhere), "{said}");
    }
    assert_eq!(client.line("EXISTS bar"), "0");
    // Scripts and functions that are loaded are everywhere.
    let sha = client.line("SCRIPT LOAD return(KEYS[1])");
    for key in 0..20 {
        assert_eq!(client.line(&format!("EVALSHA {sha} 1 k{key}")), format!("k{key}"));
    }
    assert_eq!(client.line(&format!("SCRIPT EXISTS {sha} x")), "[1 0]");
    let library = "#!lua name=lib\nredis.register_function('put',function(k,a)return(redis.call('SET',k[1],a[1]))end)";
    assert!(client.send(&[vec!["FUNCTION", "LOAD", library]]));
    assert_eq!(text(&client.reply().unwrap()), "lib");
    for key in 0..20 {
        assert_eq!(client.line(&format!("FCALL put 1 k{key} {key}")), "OK");
    }
    check(&mut client, &[("DBSIZE", "22"), ("FLUSHALL", "OK"), ("DBSIZE", "0"), ("SELECT 1", "OK"), ("DBSIZE", "0")]);
    assert_eq!(client.line("FUNCTION DELETE lib"), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_or_listens_hears_of_all_shards() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), SHARDS, &[]).await;
    let (mut client, mut hearer, mut keeper) = (open(&node), open(&node), open(&node));
    assert_eq!(client.line("CONFIG SET notify-keyspace-events K$"), "OK");
    hearer.call("HELLO 3");
    keeper.call("HELLO 3");
    hearer.call("PSUBSCRIBE *");
    assert_eq!(keeper.line("CLIENT TRACKING ON"), "OK");
    for number in 0..20 {
        keeper.call(&format!("GET k{number}"));
    }
    for number in 0..20 {
        assert_eq!(client.line(&format!("PUBLISH c{number} m")), "1");
        assert_eq!(client.line(&format!("SET k{number} v")), "OK");
        let heard = [0, 1].map(|_| format!("{:?}", hearer.reply().expect("a message")));
        assert!(heard[0].contains("Push") && heard[1].contains("Push"), "{heard:?}");
        let told = format!("{:?}", keeper.reply().expect("an invalidation"));
        assert!(told.contains("Push"), "{told}");
    }
    // Waiting in every shard, and woken by it.
    for number in 0..8 {
        let mut waiting = open(&node);
        assert!(waiting.send(&[words(&format!("BLPOP q{number} 0"))]));
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(client.line(&format!("RPUSH q{number} x")), "1");
        assert_eq!(text(&waiting.reply().unwrap()), format!("[q{number} x]"));
    }
    // A watched key changes in its shard.
    for number in 0..8 {
        let mut other = open(&node);
        assert_eq!(other.line(&format!("WATCH k{number}")), "OK");
        assert_eq!(client.line(&format!("SET k{number} w")), "OK");
        check(&mut other, &[("MULTI", "OK"), (&format!("SET k{number} lost"), "QUEUED"), ("EXEC", "nothing")]);
        assert_eq!(client.line(&format!("GET k{number}")), "w");
    }
}

/// A client that goes where it is sent.
struct Routed {
    /// The addresses of all nodes that it has heard of, and its connections.
    connections: HashMap<String, Client>,
    addresses: BTreeSet<String>,
    /// Where it asks first.
    first: String,
    moved: usize,
}

impl Routed {
    fn new(cluster: &Cluster) -> Routed {
        let nodes = cluster.nodes.iter().flatten();
        let addresses: BTreeSet<String> = nodes.filter_map(|node| node.resp.clone()).collect();
        let first = addresses.first().cloned().expect("a node");
        Routed { connections: HashMap::new(), addresses, first, moved: 0 }
    }

    fn at(&mut self, address: &str, line: &str) -> Option<String> {
        if !self.connections.contains_key(address) {
            self.connections.insert(address.to_owned(), Client::open(address)?);
        }
        let client = self.connections.get_mut(address)?;
        let reply = client.send(&[words(line)]).then(|| client.reply()).flatten();
        if reply.is_none() {
            self.connections.remove(address);
        }
        Some(text(&reply?))
    }

    /// The reply of whoever leads the line's slot. None: it is not known whether it was done.
    fn call(&mut self, line: &str) -> Option<String> {
        let (begin, mut address) = (Instant::now(), self.first.clone());
        loop {
            assert!(begin.elapsed() < PATIENCE, "{line}: nobody answers");
            let Some(reply) = self.at(&address, line) else {
                // It may have been done; whoever asks another begins anew.
                address = self.another(&address);
                if line.starts_with("GET") {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                self.first = address;
                return None;
            };
            match reply.split(' ').collect::<Vec<_>>()[..] {
                ["-MOVED", _, to] => {
                    self.moved += 1;
                    assert!(self.addresses.contains(to), "{line}: sent to {to}, which is none of {:?}", self.addresses);
                    if to == address || self.moved.is_multiple_of(50) {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    address = to.to_owned();
                }
                ["-CLUSTERDOWN" | "-TRYAGAIN", ..] => std::thread::sleep(Duration::from_millis(20)),
                ["-UNCONFIRMED", ..] => return None,
                _ => return Some(reply),
            }
        }
    }

    fn another(&self, address: &str) -> String {
        let others: Vec<&String> = self.addresses.iter().filter(|other| *other != address).collect();
        let place = self.addresses.iter().position(|known| known == address).unwrap_or(0);
        others[place % others.len()].clone()
    }
}

/// Who leads which slots, as a node tells: first slot, last slot, address of the master.
fn slots(client: &mut Client) -> Vec<(i64, i64, String)> {
    let Reply::Array(ranges) = client.call("CLUSTER SLOTS") else { panic!("ranges") };
    let range = |range: &Reply| {
        let Reply::Array(parts) = range else { panic!("a range: {range:?}") };
        let (Reply::Int(first), Reply::Int(last), Reply::Array(master)) = (&parts[0], &parts[1], &parts[2]) else {
            panic!("a range: {range:?}")
        };
        (*first, *last, format!("{}:{}", text(&master[0]), text(&master[1])))
    };
    ranges.iter().map(range).collect()
}

async fn scripts_over_grpc_keep_to_their_slot(cluster: &Cluster) {
    let cache = cluster.client().collection("redis", "db0").cache();
    let mut client = open(cluster.node(0));
    // It is made by the first write.
    check(&mut client, &[("SET foo 1", "OK"), ("DEL foo", "1")]);
    for number in 0..8 {
        let script = format!("return redis.call('set', 'k{number}', '1')");
        let done = cache.commands().command(["EVAL".to_owned(), script, "1".into(), "foo".into()]).execute().await;
        let refused = done.map(|executed| format!("{executed:?}")).unwrap_or_else(|error| error.to_string());
        assert!(refused.contains("do not hash to the same slot"), "{refused}");
    }
    let own = "return redis.call('set', '{foo}1', '1')";
    cache.commands().command(["EVAL", own, "1", "foo"]).execute().await.expect("it is in the same slot");
    for several in [&["SORT", "foo", "BY", "w*"][..], &["EVAL", "return 1", "2", "foo", "bar"]] {
        let error =
            cache.commands().command(several.iter().map(|word| (*word).to_owned())).execute().await.unwrap_err();
        assert!(error.to_string().contains("slot") || error.to_string().contains("shard"), "{error}");
    }
    check(&mut client, &[("KEYS *", "[{foo}1]"), ("GET {foo}1", "1"), ("DEL {foo}1", "1"), ("DBSIZE", "0")]);
}

/// Three nodes with doors for clients of Redis, and the databases over so many shards.
async fn three(shards: u32, options: &[&str]) -> Cluster {
    let options = [&["--resp", "127.0.0.1:0"], options].concat().into_iter().map(String::from).collect();
    let cluster = Cluster::start(Plan { options, ..Plan::default() }).await;
    cluster.client().ensure_namespace_with("redis", shards).await.expect("a namespace is made");
    cluster
}

/// Waits until every node says that all slots are led, each by a node that runs, and says by how many of them.
fn wait_for_slots(cluster: &Cluster) -> usize {
    let running: BTreeSet<String> = cluster.nodes.iter().flatten().filter_map(|node| node.resp.clone()).collect();
    let begin = Instant::now();
    loop {
        let told: Vec<_> = cluster.nodes.iter().flatten().map(|node| slots(&mut open(node))).collect();
        let whole = |ranges: &Vec<(i64, i64, String)>| {
            let slots: i64 = ranges.iter().map(|(first, last, _)| last - first + 1).sum();
            slots == 16_384 && ranges.iter().all(|(.., master)| running.contains(master))
        };
        if told.iter().all(whole) && told.windows(2).all(|pair| pair[0] == pair[1]) {
            return told[0].iter().map(|(.., master)| master).collect::<BTreeSet<_>>().len();
        }
        assert!(begin.elapsed() < PATIENCE, "the nodes do not agree: {told:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_answers_for_all_shards_and_goes_on_without_one() {
    let mut cluster = three(SHARDS, &[]).await;
    scripts_over_grpc_keep_to_their_slot(&cluster).await;
    let mut clients: Vec<Client> = (0..3).map(|number| open(cluster.node(number))).collect();
    for number in 0..60 {
        let (writer, reader) = (number % 3, (number / 3) % 3);
        assert_eq!(clients[writer].line(&format!("SET k{number} {number}")), "OK");
        assert_eq!(clients[reader].line(&format!("GET k{number}")), number.to_string());
    }
    for client in &mut clients {
        assert_eq!(client.line("DBSIZE"), "60");
        assert_eq!(sorted(&client.call("KEYS *")).len(), 60);
        assert_eq!(slots(client).len(), 1, "without the cluster mode one node is said to own all slots");
    }
    let killed = cluster.leader().await;
    let rest: Vec<usize> = (0..3).filter(|number| *number != killed).collect();
    cluster.nodes[killed].take().expect("it ran").kill();
    // What goes to a shard whose leader was not killed is answered, the others wait for a new one.
    for number in 0..60 {
        let length = number.to_string().len() + 1;
        assert_eq!(clients[rest[number % 2]].line(&format!("APPEND k{number} x")), length.to_string());
    }
    let begin = Instant::now();
    for number in 0..60 {
        loop {
            let reply = clients[rest[(number + 1) % 2]].line(&format!("GET k{number}"));
            if !reply.starts_with("-TRYAGAIN") {
                assert_eq!(reply, format!("{number}x"));
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "nobody leads");
        }
    }
    cluster.start_again(killed).await;
    let mut client = open(cluster.node(killed));
    assert_eq!(client.line("DBSIZE"), "60");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_to_a_leader_that_dies_is_carried_out_once() {
    const COUNTERS: u64 = 6;
    let mut cluster = three(0, &[]).await;
    let mut leader = cluster.leader().await;
    for death in 0..3 {
        let rest: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
        let over = Arc::new(AtomicBool::new(false));
        let counting = (0..8).map(|number| {
            let (mut client, over) = (open(cluster.node(rest[number % 2])), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut told = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    // Several at a time, of which each is told apart.
                    let calls = (0..COUNTERS).map(|counter| vec!["INCR".to_owned(), format!("{death}:{counter}")]);
                    assert!(client.send(&calls.collect::<Vec<_>>()));
                    told.extend((0..COUNTERS).map(|counter| (counter, client.reply().expect("a reply"))));
                }
                told
            })
        });
        let counting: Vec<_> = counting.collect();
        std::thread::sleep(Duration::from_millis(300));
        cluster.nodes[leader].take().expect("it ran").kill();
        if death == 1 {
            // It is believed to lead while it does not yet answer.
            cluster.start_again(leader).await;
        }
        std::thread::sleep(Duration::from_secs(3));
        over.store(true, Ordering::Relaxed);
        let told: Vec<_> = counting.into_iter().flat_map(|counting| counting.join().expect("it counted")).collect();
        for counter in 0..COUNTERS {
            let of_counter = told.iter().filter(|(of, _)| *of == counter).map(|(_, reply)| text(reply));
            let mut numbers: Vec<u64> = of_counter
                .map(|reply| reply.parse().unwrap_or_else(|_| panic!("{reply}\n{}", cluster.logs())))
                .collect();
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "some were counted twice, or not at all");
            let last = open(cluster.node(rest[0])).line(&format!("GET {death}:{counter}"));
            assert_eq!(last, numbers.len().to_string());
        }
        if death != 1 {
            cluster.start_again(leader).await;
        }
        leader = cluster.leader().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_shard_sends_clients_to_its_leader() {
    let cluster = three(0, &["--resp-cluster"]).await;
    assert_eq!(wait_for_slots(&cluster), 1);
    let leader = cluster.leader().await;
    let to = cluster.node(leader).resp.clone().expect("it has a door");
    for number in 0..3 {
        let mut client = open(cluster.node(number));
        let (set, moved) = ("SET foo 1", format!("-MOVED 12182 {to}"));
        assert!(client.line("INFO cluster").contains("cluster_enabled:1"));
        assert!(client.line("CLUSTER INFO").contains("cluster_state:ok"));
        let hello = client.line("HELLO");
        assert!(hello.contains("mode cluster"), "{hello}");
        check(
            &mut client,
            &[
                ("SELECT 0", "OK"),
                ("SELECT 1", "-ERR SELECT is not allowed in cluster mode"),
                ("SWAPDB 0 1", "-ERR SWAPDB is not allowed in cluster mode"),
                ("MOVE foo 1", "-ERR MOVE is not allowed in cluster mode"),
                ("COPY foo {foo}1 DB 1", "-ERR Copying to another database is not allowed in cluster mode"),
                ("MSET foo 1 bar 2", CROSSSLOT),
                ("ASKING", "OK"),
                ("PUBLISH c m", "0"),
            ],
        );
        if number == leader {
            check(&mut client, &[(set, "OK"), ("GET foo", "1"), ("FLUSHALL", "OK"), (set, "OK"), ("DBSIZE", "1")]);
            assert!(client.line("ROLE").starts_with("[master"));
        } else {
            let abort = "-EXECABORT Transaction discarded because of previous errors.";
            check(&mut client, &[(set, &moved), ("GET foo", &moved), ("WATCH foo", &moved), ("BLPOP foo 1", &moved)]);
            check(&mut client, &[("MULTI", "OK"), (set, &moved), ("EXEC", abort)]);
            check(&mut client, &[("FLUSHALL", "-READONLY You can't write against a read only replica.")]);
            check(&mut client, &[("SCRIPT LOAD return", "63143b6f8007b98c53ca2149822777b3566f9241")]);
            check(&mut client, &[("READONLY", "OK"), (set, &moved), ("READWRITE", "OK"), ("GET foo", &moved)]);
            assert_eq!(client.line("READONLY"), "OK");
            assert!(["1", "nothing"].contains(&&*client.line("GET foo")), "a read is answered here");
            for read in ["EVAL_RO return 1 foo", "MEMORY USAGE foo"] {
                assert!(!client.line(read).starts_with('-'), "{read}");
            }
            assert!(client.line("ROLE").starts_with("[slave"));
        }
        let nodes = client.line("CLUSTER NODES");
        assert_eq!(nodes.matches(" master ").count() + nodes.matches(",master ").count(), 1, "{nodes}");
        assert_eq!(nodes.matches("slave ").count(), 2, "{nodes}");
        let line_of = |kind: &str| nodes.lines().find(|line| line.contains(kind)).expect("there is one");
        let (master, replica) = (&line_of("master ")[..40], &line_of("slave ")[..40]);
        let replicas = client.line(&format!("CLUSTER REPLICAS {master}"));
        assert_eq!(replicas.matches(&format!("slave {master}")).count(), 2, "{replicas}");
        check(
            &mut client,
            &[
                (&*format!("CLUSTER REPLICAS {replica}"), "-ERR The specified node is not a master"),
                ("CLUSTER SLAVES x", "-ERR Unknown node x"),
            ],
        );
        let shards = client.line("CLUSTER SHARDS");
        assert_eq!((shards.matches("master").count(), shards.matches("replica ").count()), (1, 2), "{shards}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_several_shards_tells_who_leads_them_also_after_a_kill() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = three(SHARDS, &["--resp-cluster"]).await;
    let masters = wait_for_slots(&cluster);
    let mut client = Routed::new(&cluster);
    // What was answered is there, once; what was not may be.
    let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut count = |client: &mut Routed, chance: &mut Chance, times: u64| {
        for _ in 0..times {
            let key = format!("n{}", chance.below(50));
            let (least, most) = counts.entry(key.clone()).or_default();
            *most += 1;
            if client.call(&format!("INCR {key}")).is_some() {
                *least += 1;
            }
        }
    };
    count(&mut client, &mut chance, 300);
    assert!(client.moved > 0 || masters == 1, "not all keys are led by one node");
    // Every node answers for what it leads, so that their sizes add up.
    let addresses: Vec<String> = client.addresses.iter().cloned().collect();
    let sizes = |client: &mut Routed| -> u64 {
        addresses.iter().filter_map(|at| client.at(at, "DBSIZE")).map(|size| size.parse::<u64>().unwrap()).sum()
    };
    if masters == 3 {
        let all: BTreeSet<String> = (0..50).map(|number| format!("n{number}")).collect();
        let there =
            all.iter().filter(|key| client.call(&format!("GET {key}")).is_some_and(|it| it != "nothing")).count();
        assert_eq!(sizes(&mut client), there as u64);
    }
    for round in 0..setting("LOCI_KILLS", 2) {
        let killed = chance.index(3);
        cluster.nodes[killed].take().expect("it ran").kill();
        for node in cluster.nodes.iter().flatten() {
            let told: usize = slots(&mut open(node)).iter().map(|(first, last, _)| (last - first + 1) as usize).sum();
            assert_eq!(told, 16_384, "clients take a map with holes for broken");
        }
        count(&mut client, &mut chance, 200);
        let begin = Instant::now();
        while !cluster.nodes.iter().flatten().all(|node| open(node).line("CLUSTER NODES").contains(",fail")) {
            assert!(begin.elapsed() < PATIENCE, "a dead node is said to answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        cluster.start_again(killed).await;
        // It may have another port now.
        client.addresses.extend(cluster.node(killed).resp.clone());
        wait_for_slots(&cluster);
        client.addresses = cluster.nodes.iter().flatten().filter_map(|node| node.resp.clone()).collect();
        client.first = client.addresses.first().cloned().expect("a node");
        count(&mut client, &mut chance, 100);
        say(&format!("round {round}: node {killed} was killed, {} redirections so far", client.moved));
    }
    for (key, (least, most)) in &counts {
        let there: u64 = client.call(&format!("GET {key}")).expect("a reply").parse().unwrap_or(0);
        let told = format!("{key} is {there}, between {least} and {most} was said, LOCI_SEED={seed}");
        assert!((*least..=*most).contains(&there), "{told}\n{}", cluster.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_heard_of_no_leader_tells_no_map_with_holes() {
    let mut cluster = three(SHARDS, &["--resp-cluster"]).await;
    wait_for_slots(&cluster);
    for number in 0..3 {
        cluster.nodes[number].take().expect("it ran").kill();
    }
    // Alone it never becomes ready, but its door is open.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address").to_string();
    drop(listener);
    let (mut start, data) = (cluster.start_of(0), cluster.data(0));
    let option = start.options.iter().position(|option| option == "--resp").expect("it has a door");
    start.options[option + 1] = address.clone();
    let first = std::thread::spawn(move || start.listen(&data).expect("it listens"));
    let begin = Instant::now();
    let mut client = loop {
        match Client::open(&address) {
            Some(client) => break client,
            None => assert!(begin.elapsed() < PATIENCE, "nobody listens at {address}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    for asked in ["CLUSTER SLOTS", "CLUSTER SHARDS"] {
        let told = client.line(asked);
        assert!(told.contains("CLUSTERDOWN"), "{asked}: {told}");
    }
    assert!(client.line("CLUSTER INFO").contains("cluster_state:fail"));
    // With a second one there is a leader: whichever comes first, no map or one without holes.
    let (start, data) = (cluster.start_of(1), cluster.data(1));
    let second = std::thread::spawn(move || start.listen(&data).expect("it listens"));
    let begin = Instant::now();
    let mut refused = 0;
    while let Reply::Error(error) = client.call("CLUSTER SLOTS") {
        assert!(error.starts_with(b"CLUSTERDOWN") && begin.elapsed() < PATIENCE, "{}", error.escape_ascii());
        refused += 1;
    }
    say(&format!("{refused} more times there was no map"));
    let told: i64 = slots(&mut client).iter().map(|(first, last, _)| last - first + 1).sum();
    assert_eq!(told, 16_384);
    for (number, node) in [first, second].into_iter().enumerate() {
        cluster.nodes[number] = Some(node.join().expect("it became ready"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_after_databases_were_made_anew_is_seen_by_whoever_knew_the_old_ones() {
    let cluster = three(2, &[]).await;
    let mut clients: Vec<Client> = (0..3).map(|number| open(cluster.node(number))).collect();
    for shards in [2, 4] {
        assert_eq!(clients[0].line("SET foo old"), "OK");
        for client in &mut clients {
            assert_eq!(client.line("GET foo"), "old");
            assert_eq!(client.line("WATCH foo"), "OK");
            assert_eq!(client.line("UNWATCH"), "OK");
        }
        cluster.client().drop_namespace("redis").await.expect("it is dropped");
        cluster.client().ensure_namespace_with("redis", shards).await.expect("it is made");
        check(&mut clients[0], &[("SET foo new", "OK"), ("RPUSH l 1 2", "2")]);
        for client in &mut clients[1..] {
            assert_eq!(client.line("GET foo"), "new", "{shards} shards");
            assert!(client.line("BLPOP l 5").contains('l'), "{shards} shards");
        }
    }
}
