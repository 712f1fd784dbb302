//! Three nodes as processes of their own, under load: the one that leads is killed again and again. Every acknowledged write
//! is there, every read is as new as it must be (the history of all clients is linearizable), all members end in the same
//! state, and it is told how long clients saw nothing.
//!
//! `LOCI_KILLS=200` makes the documented long run of it; `LOCI_SEED` chooses the load.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loci_client::{Client, Condition, Error, PutOptions, Record, Schema};
use loci_tests::chance::Chance;
use loci_tests::linearizable::records::{Action, Expect, Outcome, Records};
use loci_tests::linearizable::{Recorder, STATES_MAX, check};
use loci_tests::process::{Node, PATIENCE, Start};
use loci_tests::{say, seed, setting};

const CLIENTS: u64 = 6;
const KEYS: u64 = 4;
/// How long each round lasts, at least.
const ROUND: Duration = Duration::from_millis(2_500);

struct Cluster {
    data: tempfile::TempDir,
    addresses: Vec<String>,
    nodes: Vec<Option<Node>>,
}

impl Cluster {
    async fn start() -> Cluster {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let address =
            |listener: &TcpListener| listener.local_addr().expect("a bound listener has an address").to_string();
        let addresses = listeners.iter().map(address).collect();
        drop(listeners);
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut cluster = Cluster { data, addresses, nodes: Vec::new() };
        // All at once, as a supervisor would: none can be ready before the others are there.
        let starting: Vec<_> =
            (0..3).map(|number| tokio::spawn(begin(cluster.at(number), cluster.start_of(number)))).collect();
        for node in starting {
            cluster.nodes.push(Some(node.await.expect("a node starts")));
        }
        let client = cluster.client();
        let begun = Instant::now();
        while voters(&client).await != 3 {
            assert!(begun.elapsed() < PATIENCE, "three members do not vote within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster
    }

    fn at(&self, number: usize) -> PathBuf {
        self.data.path().join(number.to_string())
    }

    fn start_of(&self, number: usize) -> Start {
        let others: Vec<&str> =
            self.addresses.iter().map(String::as_str).filter(|at| *at != self.addresses[number]).collect();
        let join = others.join(",");
        Start::default().with(&["--listen", &self.addresses[number], "--join", &join, "--log-file-mib", "1"])
    }

    fn client(&self) -> Client {
        let builder = self.addresses.iter().fold(Client::builder(), |builder, address| builder.address(address));
        builder
            .connections(1)
            .retries(40)
            .retry_budget(100_000)
            .timeout(Duration::from_secs(20))
            .connect_lazy()
            .expect("addresses")
    }

    async fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let described = self.client().describe_cluster().await.expect("some node answers");
            let leader = described.members.iter().find(|member| Some(member.member) == described.leader);
            let number = leader.and_then(|leader| self.addresses.iter().position(|address| *address == leader.address));
            if let Some(number) = number.filter(|number| self.nodes[*number].is_some()) {
                return number;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody leads within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Starting waits for a line of the program's, on a thread that may wait.
async fn begin(data: PathBuf, start: Start) -> Node {
    let started = tokio::task::spawn_blocking(move || start.listen(&data)).await.expect("starting does not panic");
    let mut node = started.unwrap_or_else(|ended| panic!("the node did not start: {ended:?}"));
    node.wait_ready().await;
    node
}

async fn voters(client: &Client) -> usize {
    let described = client.describe_cluster().await.expect("some node answers");
    described
        .members
        .iter()
        .filter(|member| matches!(member.part.as_str(), "leader" | "voter") && member.active)
        .count()
}

type Calls = Recorder<Action, Outcome>;

/// One client: one call at a time, until told to stop. Says the longest time in which none of its calls succeeded.
async fn drive(
    client: Client,
    (round, number): (u64, u64),
    mut chance: Chance,
    calls: Arc<Calls>,
    stop: Arc<AtomicBool>,
) -> Duration {
    let cache = client.collection("default", "cache");
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    let mut known = vec![None; KEYS as usize];
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let at = chance.index(KEYS as usize);
        // Every history begins with nothing there.
        let key = format!("round {round}, key {at}");
        written += 1;
        let value = format!("{number}.{written}");
        let record = || Record::new(key.clone()).with_value(value.clone());
        let (id, outcome) = match (chance.below(100), known[at]) {
            (0..45, _) => {
                let id = calls.invoke(number, Action::get(&key));
                let found = cache.get(key.clone()).await;
                (
                    id,
                    found.map(|found| match found {
                        None => (Outcome::absent(), None),
                        Some(record) => {
                            let text =
                                String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
                            (Outcome::record(&text, record.version), Some(record.version))
                        }
                    }),
                )
            }
            (45..60, Some(version)) => {
                let id = calls.invoke(number, Action::put_if_version(&key, version, &value));
                let conditions = vec![Condition::version(key.clone(), version)];
                let options = PutOptions { conditions, ..PutOptions::default() };
                let written = cache.put_with([record()], options).await;
                (id, written.map(|written| (Outcome::written(written.version), Some(written.version))))
            }
            (60..70, _) => {
                let id = calls.invoke(number, Action::delete(&key));
                (id, cache.delete(key.clone()).await.map(|existed| (Outcome::deleted(existed), None)))
            }
            _ => {
                let id = calls.invoke(number, Action::put(&key, &value));
                (
                    id,
                    cache.put(record()).await.map(|written| (Outcome::written(written.version), Some(written.version))),
                )
            }
        };
        match outcome {
            Ok((outcome, version)) => {
                calls.ok(id, outcome);
                known[at] = version;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Err(Error::ConditionFailed { version, .. }) => {
                let found = version.map_or(Expect::Absent, Expect::Version);
                calls.ok(id, Outcome::refused(found));
                known[at] = version;
                last = Instant::now();
            }
            Err(_) => calls.unknown(id),
        }
        tokio::time::sleep(Duration::from_millis(chance.below(20))).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_costs_no_acknowledged_write_and_no_stale_read() {
    let kills = setting("LOCI_KILLS", 5);
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start().await;
    cluster.client().collection("default", "cache").ensure(Schema::default()).await.expect("a collection is made");
    let (mut gaps, mut made) = (Vec::new(), 0);
    for round in 0..kills {
        let calls = Arc::new(Calls::new());
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let parts = (cluster.client(), chance.fork(), calls.clone(), stop.clone());
                tokio::spawn(drive(parts.0, (round, number), parts.1, parts.2, parts.3))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300 + chance.below(400))).await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].take().expect("it runs").kill();
        tokio::time::sleep(ROUND).await;
        cluster.nodes[leader] = Some(begin(cluster.at(leader), cluster.start_of(leader)).await);
        tokio::time::sleep(Duration::from_millis(chance.below(500))).await;
        stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for client in clients {
            longest = longest.max(client.await.expect("a client does not panic"));
        }
        gaps.push(longest);
        let history = calls.snapshot();
        made += history.calls().len();
        let report = check::<Records>(&history, STATES_MAX);
        report.expect_linearizable(&format!("round {round} of LOCI_SEED={seed}"));
    }
    same_state(&cluster).await;
    gaps.sort();
    say(&format!(
        "{kills} leaders killed under {made} calls of {CLIENTS} clients; nothing succeeded for {:?} at the middle, {:?} at the \
         worst",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    ));
}

/// All members come to the same state.
async fn same_state(cluster: &Cluster) {
    let begun = Instant::now();
    loop {
        let mut states = Vec::new();
        for address in &cluster.addresses {
            let client = Client::builder().address(address).connect_lazy().expect("an address");
            let shard = client.stats().await.expect("every node answers").shards.remove(0);
            states.push((shard.applied, shard.digest, shard.chain_head));
        }
        if states.iter().all(|state| *state == states[0]) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the members differ: {states:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
