//! Three nodes, or more, as processes of their own: started together, each on its own disk if a test needs that, with links between
//! them that can be cut.
//!
//! ```text
//!   load (clients: gets, puts, conditions, deletions, searches) --> any node
//!   nodes, each behind a proxy if links are to fail: links
//! ```

pub mod links;
pub mod load;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loci_client::{Client, Metric, Schema, ShardStats};

use crate::process::{Node, PATIENCE, Start};
use links::Links;

/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// How to start one.
#[derive(Default)]
pub struct Plan {
    /// Further options of each node.
    pub options: Vec<String>,
    /// Where the data of some nodes lie; the others have temporary folders.
    pub data: Vec<(usize, PathBuf)>,
    /// Whether a proxy is before each node.
    pub links: bool,
    /// Over how many shards the load's records are spread; 0: they are where the catalog is.
    pub shards: u32,
    /// On how many nodes each of those shards is; 0: on all.
    pub replicas: u32,
    /// How many nodes there are at first; fewer than three: three.
    pub nodes: usize,
    /// The program of another version.
    pub program: Option<PathBuf>,
}

/// A cluster.
pub struct Cluster {
    data: tempfile::TempDir,
    plan: Plan,
    /// Where each node listens.
    pub addresses: Vec<String>,
    /// What is between them, if it can fail.
    pub links: Option<Links>,
    /// Those that run.
    pub nodes: Vec<Option<Node>>,
}

impl Cluster {
    /// Starts one, and waits until three vote.
    pub async fn start(plan: Plan) -> Cluster {
        let count = plan.nodes.max(3);
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let address =
            |listener: &TcpListener| listener.local_addr().expect("a bound listener has an address").to_string();
        let addresses: Vec<String> = listeners.iter().map(address).collect();
        drop(listeners);
        let links = if plan.links { Some(Links::before(&addresses).await) } else { None };
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut cluster = Cluster { data, plan, addresses, links, nodes: Vec::new() };
        // All at once, as a supervisor would: none can be ready before the others are there.
        let starting: Vec<_> =
            (0..count).map(|number| tokio::spawn(begin(cluster.data(number), cluster.start_of(number)))).collect();
        for node in starting {
            cluster.nodes.push(Some(node.await.expect("a node starts")));
        }
        cluster.wait_voters(3).await;
        let client = cluster.client();
        let namespace = cluster.namespace();
        let (shards, replicas) = (cluster.plan.shards, cluster.plan.replicas);
        client.create_namespace_on(namespace, shards, replicas, true).await.expect("a namespace is made");
        client.collection(namespace, "cache").ensure(Schema::default()).await.expect("a collection is made");
        let schema = Schema::default().with_embedding("text", load::DIMENSION, Metric::SquaredL2);
        client.collection(namespace, "memories").ensure(schema).await.expect("a collection is made");
        cluster
    }

    /// Where the load's records are.
    pub fn namespace(&self) -> &'static str {
        if self.plan.shards == 0 { "default" } else { "wide" }
    }

    /// Where a node's data are.
    pub fn data(&self, number: usize) -> PathBuf {
        let given = self.plan.data.iter().find(|(of, _)| *of == number);
        given.map_or_else(|| self.data.path().join(number.to_string()), |(_, path)| path.clone())
    }

    /// What the others know a node by.
    pub fn advertised(&self, number: usize) -> &str {
        match &self.links {
            Some(links) => &links.advertised()[number],
            None => &self.addresses[number],
        }
    }

    /// How a node is started.
    pub fn start_of(&self, number: usize) -> Start {
        // All of them, the own one among them, as users do.
        let all: Vec<&str> = (0..self.addresses.len()).map(|at| self.advertised(at)).collect();
        let (listen, join) = (&self.addresses[number], all.join(","));
        let start = Start::default().with(&["--listen", listen, "--advertise", self.advertised(number)]);
        let start = start.with(&["--join", &join, "--log-file-mib", "1"]);
        let start = start.with(&self.plan.options.iter().map(String::as_str).collect::<Vec<_>>());
        Start { program: self.plan.program.clone(), ..start }
    }

    /// Whoever is started from now on is of the present version.
    pub fn upgrade(&mut self) {
        self.plan.program = None;
    }

    /// Starts a node that ended.
    pub async fn start_again(&mut self, number: usize) {
        self.nodes[number] = Some(begin(self.data(number), self.start_of(number)).await);
    }

    /// Starts one more, and says its number.
    pub async fn add(&mut self) -> usize {
        assert!(self.links.is_none(), "links are before the first nodes only");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        self.addresses.push(listener.local_addr().expect("a bound listener has an address").to_string());
        drop(listener);
        let number = self.addresses.len() - 1;
        self.nodes.push(Some(begin(self.data(number), self.start_of(number)).await));
        number
    }

    /// A node that runs.
    pub fn node(&self, number: usize) -> &Node {
        self.nodes[number].as_ref().expect("it runs")
    }

    /// A client that knows all nodes and does not give up soon.
    pub fn client(&self) -> Client {
        let builder = self.addresses.iter().fold(Client::builder(), |builder, address| builder.address(address));
        builder
            .connections(1)
            .retries(40)
            .retry_floor(1_000.0)
            .timeout(Duration::from_secs(20))
            .connect_lazy()
            .expect("addresses")
    }

    /// A client of one node only.
    pub fn client_of(&self, number: usize) -> Client {
        let builder = Client::builder().address(&self.addresses[number]).connections(1).retries(0);
        builder.follow_leader(false).timeout(Duration::from_secs(20)).connect_lazy().expect("an address")
    }

    /// The last lines that each node that runs wrote to standard error.
    pub fn logs(&self) -> String {
        let last = |node: &Node| {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        let log = |(number, node): (usize, &Option<Node>)| {
            let text = node.as_ref().map_or_else(|| "it does not run".into(), last);
            format!("--- node {number}, member of {}:\n{text}", self.addresses[number])
        };
        self.nodes.iter().enumerate().map(log).collect::<Vec<_>>().join("\n")
    }

    /// Waits until so many vote and are heard of.
    pub async fn wait_voters(&self, wanted: usize) {
        let client = self.client();
        let begun = Instant::now();
        loop {
            let described = client.describe_cluster().await;
            let votes = |part: &str| matches!(part, "leader" | "voter");
            let voters = described
                .iter()
                .flat_map(|described| &described.members)
                .filter(|member| votes(&member.part) && member.active)
                .count();
            if voters == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{wanted} members do not vote within {PATIENCE:?}: {described:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Which node leads, of those that run.
    pub async fn leader(&self) -> usize {
        self.leader_but(None).await
    }

    /// The same, once it is another than this.
    pub async fn leader_but(&self, not: Option<usize>) -> usize {
        let begun = Instant::now();
        loop {
            for asked in (0..self.addresses.len()).filter(|at| Some(*at) != not && self.nodes[*at].is_some()) {
                let Ok(described) = self.client_of(asked).describe_cluster().await else { continue };
                let leader = described.members.iter().find(|member| Some(member.member) == described.leader);
                let number = leader
                    .and_then(|leader| (0..self.addresses.len()).find(|at| self.advertised(*at) == leader.address));
                if let Some(number) = number.filter(|number| self.nodes[*number].is_some() && Some(*number) != not) {
                    return number;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "nobody leads within {PATIENCE:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until all members have come to the same state.
    pub async fn same_state(&self) {
        let begun = Instant::now();
        loop {
            let mut states = Vec::new();
            for number in 0..self.addresses.len() {
                let stats = self.client_of(number).stats().await;
                let state = |shard: ShardStats| (shard.shard, shard.applied, shard.digest, shard.chain_head);
                states.push(stats.map(|stats| stats.shards.into_iter().map(state).collect::<Vec<_>>()));
            }
            if states.iter().all(|state| state.is_ok() && *state == states[0]) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the members differ: {states:?}");
            tokio::time::sleep(2 * LOOK).await;
        }
    }
}

/// Starting waits for a line of the program's, on a thread that may wait.
pub async fn begin(data: PathBuf, start: Start) -> Node {
    let started = tokio::task::spawn_blocking(move || start.listen(&data)).await.expect("starting does not panic");
    let mut node = started.unwrap_or_else(|ended| panic!("the node did not start: {ended:?}"));
    node.wait_ready().await;
    node
}

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
