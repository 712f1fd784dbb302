//! Clusters of whole nodes in one process, on loopback.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use loci_client::{Client, Record};
use loci_raft::MemberId;
use tokio::net::{TcpListener, TcpStream};

use super::pipe;
use super::transfers::Direction;
use crate::config::Config;
use crate::run::{Node, RunError};

/// Long enough for elections on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(data: &Path, join: &[String]) -> Config {
    Config { join: join.to_vec(), metrics: None, ..Config::local(data) }
}

async fn started(data: &Path, join: &[String]) -> Node {
    let node = Node::start(config(data, join)).await.unwrap();
    tokio::time::timeout(PATIENCE, node.ready()).await.expect("the node becomes ready");
    node
}

fn address(node: &Node) -> String {
    node.local_addr().to_string()
}

async fn client(nodes: &[&Node]) -> Client {
    let builder = nodes.iter().fold(Client::builder(), |builder, node| builder.address(address(node)));
    // A client of one node is to be answered by that one.
    let builder = builder.follow_leader(nodes.len() > 1);
    builder.connections(1).retries(100).timeout(PATIENCE).connect().await.unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn three_voters(client: &Client) {
    until("three members vote", async || {
        let described = client.describe_cluster().await.unwrap();
        let voting = described.members.iter().filter(|member| matches!(member.part.as_str(), "leader" | "voter"));
        voting.filter(|member| member.active).count() == 3
    })
    .await;
}

/// One founds, two join.
async fn three(data: &Path) -> [Node; 3] {
    let first = started(&data.join("1"), &[]).await;
    let join = [address(&first)];
    let second = started(&data.join("2"), &join).await;
    let third = started(&data.join("3"), &join).await;
    three_voters(&client(&[&first]).await).await;
    [first, second, third]
}

async fn put(client: &Client, key: &str, value: &str) {
    let cache = client.collection("default", "cache");
    cache.put(Record::new(key.to_owned()).with_value(value.to_owned())).await.unwrap();
}

async fn get(client: &Client, key: &str) -> Option<String> {
    let record = client.collection("default", "cache").get(key.to_owned()).await.unwrap()?;
    Some(String::from_utf8(record.value?.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_writes_and_every_node_shows_them_to_reads_that_begin_after() {
    let data = tempfile::tempdir().unwrap();
    let nodes = three(data.path()).await;
    let clients = [client(&[&nodes[0]]).await, client(&[&nodes[1]]).await, client(&[&nodes[2]]).await];
    clients[2].collection("default", "cache").ensure(loci_client::Schema::default()).await.unwrap();
    for round in 0..30 {
        let (from, to) = (&clients[round % 3], &clients[(round + 1 + round / 3) % 3]);
        put(from, "key", &round.to_string()).await;
        assert_eq!(get(to, "key").await, Some(round.to_string()));
    }
    // What the cluster knows of itself is no collection of a user's, and cannot be written.
    assert_eq!(clients[0].namespaces().await.unwrap(), ["default"]);
    let reserved = clients[0].collection("_loci", "nodes");
    reserved.put(Record::new("1").with_value("x")).await.unwrap_err();
    assert!(reserved.get("1").await.unwrap().is_some());
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

/// Lets calls through to an address and closes what else opens, as a node does that is of an older version.
async fn older(to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            let to = to.clone();
            tokio::spawn(async move {
                if pipe::is_one(&from).await? {
                    return Ok(());
                }
                let mut to = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await.map(|_| ())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_no_pipes_hears_everything_by_calls() {
    let data = tempfile::tempdir().unwrap();
    let first = started(&data.path().join("1"), &[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = listener.local_addr().unwrap();
    drop(listener);
    let advertise = Some(older(listen.to_string()).await);
    let second = Node::start(Config { listen, advertise, ..config(&data.path().join("2"), &[address(&first)]) });
    let second = second.await.unwrap();
    second.ready().await;
    let through = client(&[&first]).await;
    until("the second is a member", async || through.describe_cluster().await.unwrap().members.len() == 2).await;
    through.collection("default", "cache").ensure(loci_client::Schema::default()).await.unwrap();
    for number in 0..100 {
        put(&through, "key", &number.to_string()).await;
    }
    assert_eq!(get(&client(&[&second]).await, "key").await.as_deref(), Some("99"));
    assert!(!first.links().has_pipe(MemberId(2)) && second.links().has_pipe(MemberId(1)));
    for node in [second, first] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_follower_learns_who_leads_and_asks_there() {
    let data = tempfile::tempdir().unwrap();
    let nodes = three(data.path()).await;
    let through =
        Client::builder().address(address(&nodes[1])).connections(1).timeout(PATIENCE).connect().await.unwrap();
    let cache = through.collection("default", "cache");
    cache.ensure(loci_client::Schema::default()).await.unwrap();
    let leader = through.describe_cluster().await.unwrap().leader.expect("somebody leads");
    let leading = &nodes[leader as usize - 1];
    // One call learns it; those after it has answered go there.
    put(&through, "first", "1").await;
    until("the leader is known", async || through.figures().nodes.contains(&(address(leading), true))).await;
    let before = leading.metrics().answered("put");
    put(&through, "second", "2").await;
    assert_eq!(leading.metrics().answered("put"), before + 1);
    let pipelined = through.pipeline().collection("default", "cache");
    for number in 0..10 {
        pipelined.put(Record::new(format!("{number}"))).await.unwrap();
    }
    assert!(leading.metrics().answered("put") >= before + 10, "the pipeline has moved");
    let known: Vec<String> = through.figures().nodes.into_iter().map(|(address, _)| address).collect();
    assert_eq!(known, [address(&nodes[1]), address(leading)]);
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_and_catches_up_when_it_is_back() {
    let data = tempfile::tempdir().unwrap();
    let [first, second, third] = three(data.path()).await;
    let others = client(&[&second, &third]).await;
    others.collection("default", "cache").ensure(loci_client::Schema::default()).await.unwrap();
    put(&others, "before", "1").await;
    let (address, path) = (first.local_addr(), data.path().join("1"));
    first.shutdown().await.unwrap();
    put(&others, "meanwhile", "2").await;
    assert_eq!(get(&others, "before").await.as_deref(), Some("1"));
    let described = others.describe_cluster().await.unwrap();
    assert!(matches!(described.leader, Some(2 | 3)), "{described:?}");

    let back = Node::start(Config { listen: address, ..config(&path, &[]) }).await.unwrap();
    back.ready().await;
    assert_eq!(get(&client(&[&back]).await, "meanwhile").await.as_deref(), Some("2"));
    three_voters(&others).await;
    let digests = async |node: &Node| {
        let view = node.shard().newest();
        (view.index(), view.digest())
    };
    until("all have the same state", async || {
        let all = [digests(&back).await, digests(&second).await, digests(&third).await];
        all.iter().all(|one| *one == all[0])
    })
    .await;
    for node in [back, second, third] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_told_of_each_other_form_one_cluster() {
    let data = tempfile::tempdir().unwrap();
    // Free ports, which nobody else takes meanwhile if we are lucky.
    let listeners: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    drop(listeners);
    let mut starting = tokio::task::JoinSet::new();
    for (number, at) in addresses.iter().copied().enumerate() {
        // The first is not told its own address, the others are.
        let told = addresses.iter().filter(|other| number > 0 || **other != at);
        let join: Vec<String> = told.map(ToString::to_string).collect();
        let config = Config { listen: at, ..config(&data.path().join(number.to_string()), &join) };
        starting.spawn(async move {
            let node = Node::start(config).await.unwrap();
            node.ready().await;
            node
        });
    }
    let nodes = tokio::time::timeout(PATIENCE, starting.join_all()).await.expect("a cluster is formed");
    let all = client(&nodes.iter().collect::<Vec<_>>()).await;
    three_voters(&all).await;
    let described = all.describe_cluster().await.unwrap();
    let known: BTreeSet<_> = described.members.iter().map(|member| member.address.clone()).collect();
    assert_eq!(known, addresses.iter().map(ToString::to_string).collect());
    for node in nodes {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_missed_more_than_the_log_keeps_gets_a_snapshot() {
    let data = tempfile::tempdir().unwrap();
    let [first, second, third] = three(data.path()).await;
    let others = client(&[&first, &second]).await;
    others.collection("default", "cache").ensure(loci_client::Schema::default()).await.unwrap();
    let (address, path) = (third.local_addr(), data.path().join("3"));
    let missed_from = third.shard().newest().index();
    third.shutdown().await.unwrap();
    // Far more than four files of 4 MiB.
    let value = "x".repeat(1 << 20);
    for number in 0..60 {
        put(&others, &format!("large {}", number % 4), &value).await;
    }
    let back = Node::start(Config { listen: address, ..config(&path, &[]) }).await.unwrap();
    back.ready().await;
    put(&others, "after", "1").await;
    assert_eq!(get(&client(&[&back]).await, "after").await.as_deref(), Some("1"));
    assert!(path.join("shards/1").join(super::snapshot::SNAPSHOT_FILE).exists(), "it was sent a snapshot");
    assert!(back.shard().newest().index() > missed_from);
    let received = back.status().transfers().totals()[&(1, Direction::Received)];
    assert!(received.whole >= 1 && received.bytes > 1 << 20, "{received:?}");
    let sent = |node: &Node| node.status().transfers().totals().get(&(1, Direction::Sent)).map_or(0, |sent| sent.bytes);
    assert!(sent(&first) + sent(&second) >= received.bytes);
    until("it has the same state", async || {
        let (ours, theirs) = (back.shard().newest(), first.shard().newest());
        ours.index() == theirs.index() && ours.digest() == theirs.digest()
    })
    .await;
    // It starts again from what it was sent.
    back.shutdown().await.unwrap();
    let again = Node::start(Config { listen: address, ..config(&path, &[]) }).await.unwrap();
    again.ready().await;
    assert_eq!(get(&client(&[&again]).await, "after").await.as_deref(), Some("1"));
    for node in [again, first, second] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_kept_for_a_member_that_takes_a_snapshot_in_and_says_nothing() {
    let data = tempfile::tempdir().unwrap();
    let [first, second, third] = three(data.path()).await;
    let others = client(&[&first, &second]).await;
    others.collection("default", "cache").ensure(loci_client::Schema::default()).await.unwrap();
    let (address, path) = (third.local_addr(), data.path().join("3"));
    third.shutdown().await.unwrap();
    put(&others, "before", "1").await;
    // As if it had just been sent one.
    for node in [&first, &second] {
        let stand = node.shard().checkpoint().await.unwrap();
        node.shard().fetched_by(MemberId(3)).has_all(stand.index, 30 << 30);
    }
    let value = "x".repeat(1 << 20);
    for number in 0..60 {
        put(&others, &format!("large {}", number % 4), &value).await;
    }
    let back = Node::start(Config { listen: address, ..config(&path, &[]) }).await.unwrap();
    back.ready().await;
    put(&others, "after", "1").await;
    assert_eq!(get(&client(&[&back]).await, "after").await.as_deref(), Some("1"));
    assert!(!back.status().transfers().totals().contains_key(&(1, Direction::Received)), "it needs no other");
    // Once it follows the log, that is kept for it as for everybody.
    for number in 0..60 {
        put(&others, &format!("large {}", number % 4), &value).await;
    }
    let leads = || [&first, &second].into_iter().find(|node| node.shard().status().role == "leader");
    until("the log is short", async || leads().is_some_and(|node| node.status().log().stats().files < 16)).await;
    for node in [back, first, second] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_told_so_and_its_number_is_not_given_again() {
    let data = tempfile::tempdir().unwrap();
    let [first, second, third] = three(data.path()).await;
    let all = client(&[&first, &second]).await;
    all.remove_member(3).await.unwrap();
    let described = all.describe_cluster().await.unwrap();
    assert_eq!(described.members[2].part, "removed");
    all.remove_member(9).await.unwrap_err();
    until("the removed one knows", async || {
        let asked = Client::builder().address(address(&third)).retries(0).connect_lazy().unwrap();
        let answer = asked.collection("default", "cache").get("key").await;
        answer.is_err_and(|error| error.to_string().contains("was removed from the cluster"))
    })
    .await;
    // It says nothing of the cluster, of which it knows no more; whoever knows others too asks those.
    let asked = Client::builder().address(address(&third)).retries(0).connect_lazy().unwrap();
    assert!(asked.describe_cluster().await.is_err_and(|error| error.to_string().contains("was removed")));
    assert!(asked.namespaces().await.is_err_and(|error| error.to_string().contains("was removed")));
    assert!(client(&[&third, &first]).await.describe_cluster().await.unwrap().leader.is_some());
    third.shutdown().await.unwrap();
    let fourth = started(&data.path().join("4"), &[address(&first)]).await;
    until("the new one votes", async || {
        let described = all.describe_cluster().await.unwrap();
        described.members.iter().any(|member| member.member == 4 && member.part == "voter")
    })
    .await;
    // A node that has a cluster of its own, of which there are no others, is not let in where it was not told to be.
    let foreign = started(&data.path().join("5"), &[]).await;
    let (elsewhere, path) = (address(&foreign), data.path().join("5"));
    foreign.shutdown().await.unwrap();
    let refused =
        Node::start(config(&path, &[elsewhere, address(&first)])).await.err().expect("it is of another cluster");
    assert!(refused.to_string().contains("of cluster"), "{refused}");
    for node in [first, second, fourth] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_for_long_gives_its_vote_to_another_and_is_a_member_when_it_is_back() {
    let data = tempfile::tempdir().unwrap();
    let begin = async |number: &str, join: &[String]| {
        let config = config(&data.path().join(number), join);
        let node = Node::start(Config { replace_after: Duration::from_secs(2), ..config }).await.unwrap();
        tokio::time::timeout(PATIENCE, node.ready()).await.expect("the node becomes ready");
        node
    };
    let first = begin("1", &[]).await;
    let join = [address(&first)];
    let (second, third) = (begin("2", &join).await, begin("3", &join).await);
    let all = client(&[&first]).await;
    three_voters(&all).await;
    let fourth = begin("4", &join).await;
    let parts = async |wanted: [&str; 4]| {
        let described = all.describe_cluster().await.unwrap();
        let votes = |part: &str| if part == "leader" { "voter".to_owned() } else { part.to_owned() };
        described.members.iter().map(|member| votes(&member.part)).eq(wanted)
    };
    until("the fourth follows", async || parts(["voter", "voter", "voter", "learner"]).await).await;
    let at = second.local_addr();
    second.shutdown().await.unwrap();
    until("the fourth votes", async || parts(["voter", "learner", "voter", "voter"]).await).await;
    let second = again(at, &data.path().join("2"), &[]).await;
    // It can vote again where somebody is to.
    third.shutdown().await.unwrap();
    until("the second votes", async || parts(["voter", "voter", "learner", "voter"]).await).await;
    for node in [first, second, fourth] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_copies_of_shards_are_given_up_only_when_that_is_said() {
    let data = tempfile::tempdir().unwrap();
    let [first, second, third] = three(data.path()).await;
    let all = client(&[&first, &second]).await;
    all.create_namespace_on("one", 3, 1, true).await.unwrap();
    all.collection("one", "cache").ensure(loci_client::Schema::default()).await.unwrap();
    third.shutdown().await.unwrap();
    until("its copies keep it", async || {
        // It is to drain until it has been silent for a while.
        all.remove_member(3).await.is_err_and(|error| error.reason() == Some("only_copies"))
    })
    .await;
    all.remove_member_and_lose_copies(3).await.unwrap();
    until("it is known that nobody leads them", async || first.status().unled() > 0).await;
    let begun = Instant::now();
    all.drop_namespace("one").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    until("nobody needs them", async || first.status().unled() == 0).await;
    for node in [first, second] {
        node.shutdown().await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Starts a node where one was; something else may have the address for a moment.
async fn start_at(at: std::net::SocketAddr, data: &Path, join: &[String]) -> Node {
    let begun = Instant::now();
    loop {
        match Node::start(Config { listen: at, ..config(data, join) }).await {
            Ok(node) => return node,
            Err(RunError::Listen { .. }) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Starts a node again where it was, and waits until it is ready.
async fn again(at: std::net::SocketAddr, data: &Path, join: &[String]) -> Node {
    let node = start_at(at, data, join).await;
    tokio::time::timeout(PATIENCE, node.ready()).await.expect("the node becomes ready");
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_its_own_address_asks_itself_and_does_not_wait_for_the_answer() {
    let data = tempfile::tempdir().unwrap();
    let [first, second, mut third] = three(data.path()).await;
    let at = third.local_addr();
    // By another of its names, too.
    let itself = format!("localhost:{}", at.port());
    let join = [at.to_string(), itself, address(&first), address(&second)];
    // Longer than an answer that does not come is waited for: unless the machine has much else to do, one of three is faster.
    let mut fastest = PATIENCE;
    for _ in 0..3 {
        third.shutdown().await.unwrap();
        let begun = Instant::now();
        third = start_at(at, &data.path().join("3"), &join).await;
        fastest = fastest.min(begun.elapsed());
    }
    third.ready().await;
    assert!(fastest < super::formation::ANSWER_TIME, "the fastest start took {fastest:?}");
    assert_eq!(third.status().strangers().count(), 0);
    for node in [first, second, third] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_node_at_a_members_address_stops_no_majority_and_is_told_of() {
    let data = tempfile::tempdir().unwrap();
    let nodes = three(data.path()).await;
    let all = client(&nodes.iter().collect::<Vec<_>>()).await;
    all.collection("default", "cache").ensure(loci_client::Schema::default()).await.unwrap();
    put(&all, "key", "1").await;
    let at = nodes.each_ref().map(Node::local_addr);
    let join = at.map(|address| address.to_string());
    for node in nodes {
        node.shutdown().await.unwrap();
    }
    let stray = again(at[0], &data.path().join("stray"), &[]).await;
    let strays = stray.shard().status();
    let paths = [data.path().join("2"), data.path().join("3")];
    let (second, third) = tokio::join!(again(at[1], &paths[0], &join), again(at[2], &paths[1], &join));
    let two = client(&[&second, &third]).await;
    assert_eq!(get(&two, "key").await.as_deref(), Some("1"));
    until("the stray node is told of", async || {
        let described = two.describe_cluster().await.unwrap();
        let told = described.members.iter().find(|member| member.member == 1).map(|member| member.stranger.clone());
        told.is_some_and(|told| told.contains("of cluster")) && second.status().strangers().count() == 1
    })
    .await;
    // It has taken nobody in.
    assert!(stray.shard().members().unwrap().all().eq([loci_raft::MemberId(1)]), "{strays:?}");
    stray.shutdown().await.unwrap();
    // The stray one is refused while they run: it is of several no more than of theirs.
    let refused = Node::start(Config { listen: at[0], ..config(&data.path().join("stray"), &join) }).await;
    let refused = refused.err().expect("it is of another cluster").to_string();
    assert!(refused.contains("of cluster"), "{refused}");
    let first = again(at[0], &data.path().join("1"), &join).await;
    three_voters(&two).await;
    until("it is forgotten", async || second.status().strangers().count() == 0).await;
    for node in [first, second, third] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_where_others_reach_it_and_nowhere_else() {
    let data = tempfile::tempdir().unwrap();
    let [first, second, third] = three(data.path()).await;
    let ask = |at: &str| {
        let request =
            loci_wire::v1::JoinRequest { node: vec![7; 16].into(), address: at.to_owned(), run: vec![7; 16].into() };
        let peer = super::links::stranger(&address(&first)).unwrap();
        async move { { peer }.join(request).await.unwrap_err().message().to_owned() }
    };
    let nobody = ask("127.0.0.1:1").await;
    assert!(nobody.contains("nobody answers at 127.0.0.1:1") && nobody.contains("--advertise"), "{nobody}");
    let taken = ask(&address(&second)).await;
    assert!(taken.contains(&format!("member 2 answers at {}", address(&second))), "{taken}");
    let described = client(&[&first]).await.describe_cluster().await.unwrap();
    assert_eq!(described.members.len(), 3);
    for node in [first, second, third] {
        node.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_member_is_refused_while_the_member_runs_and_a_member_that_moves_is_not() {
    let data = tempfile::tempdir().unwrap();
    let [first, second, third] = three(data.path()).await;
    let all = client(&[&first, &third]).await;
    let (at, path, copied) = (second.local_addr(), data.path().join("2"), data.path().join("copy"));
    second.shutdown().await.unwrap();
    copy(&path, &copied);
    let second = again(at, &path, &[]).await;
    // Told of the others, of all, or of nobody: the book has the address.
    for join in [vec![address(&first)], vec![address(&first), at.to_string()], vec![]] {
        let refused = Node::start(config(&copied, &join)).await.err().expect("it is a copy").to_string();
        assert!(refused.contains(&at.to_string()) && refused.contains("beside its original"), "{refused}");
    }
    // One that cannot reach the member: the leader can.
    let request = loci_wire::v1::JoinRequest {
        node: (0..16).map(|byte| u8::from_str_radix(&second.status().node()[2 * byte..][..2], 16).unwrap()).collect(),
        address: "127.0.0.1:1".into(),
        run: vec![7; 16].into(),
    };
    let refused = super::links::stranger(&address(&first)).unwrap().join(request).await.unwrap_err();
    assert!(refused.message().contains("beside its original"), "{refused}");
    let described = all.describe_cluster().await.unwrap();
    assert_eq!(described.members[1].address, at.to_string());
    // With the member gone, what it leaves is the member, at another address.
    second.shutdown().await.unwrap();
    let moved = data.path().join("moved");
    copy(&path, &moved);
    let moved = started(&moved, &[address(&first), at.to_string()]).await;
    until("the others know where it is", async || {
        let described = all.describe_cluster().await.unwrap();
        described.members[1].address == address(&moved) && described.members[1].active
    })
    .await;
    // Now the original is the copy.
    let refused = Node::start(Config { listen: at, ..config(&path, &[address(&moved)]) }).await;
    let refused = refused.err().expect("the other one is the member").to_string();
    assert!(refused.contains("beside its original"), "{refused}");
    for node in [first, moved, third] {
        node.shutdown().await.unwrap();
    }
}
