//! The nodes that a client knows: which of them a call goes to, and what is known of each.
//!
//! ```text
//!   write, read at `latest` --> the leader, where one is known and its breaker is closed
//!   anything else ------------> each given address in turn, then those that were learned
//!                               those whose breaker is closed; if there are none, all
//!
//!   keeper (a task): connects to all of them at the start; probes those whose breaker is open, when it is time
//! ```
//!
//! Who leads is learned from replies: a node that does not lead the shard that a call was about says who does and where. A
//! node that was not among the given addresses is learned by that, too; calls go there once it has answered a probe, for what a
//! node advertises cannot be reached from everywhere.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use loci_wire::v1::{self, pipeline_request::Call};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::Error;
use crate::breaker::{Breaker, Verdict};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a connection that died without a word is noticed: after interval and timeout together. Until then everything that
/// wants a leader whose machine has died waits.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Large vectors in many calls at a time would wait for the 64 KiB that HTTP/2 begins with.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Calls that may wait for their turn on a connection.
const CALLS_WAITING_MAX: usize = 4096;
/// How long a node may take to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// More nodes than a cluster has; what a node says beyond that is not believed.
const NODES_MAX: usize = 64;
/// Namespaces whose leaders are remembered.
const NAMESPACES_MAX: usize = 10_000;
/// The namespace of calls that name none.
const NAMESPACE_DEFAULT: &str = "default";

/// One node, with its connections.
#[derive(Debug)]
pub(crate) struct Node {
    address: String,
    channels: Vec<Channel>,
    next: AtomicUsize,
    breaker: Mutex<Breaker>,
    /// Whether there is nothing against the node: then nobody needs the lock.
    calm: AtomicBool,
}

impl Node {
    fn new(address: String, endpoint: &Endpoint, connections: usize, breaker: Breaker) -> Arc<Node> {
        Arc::new(Node {
            address,
            channels: (0..connections).map(|_| endpoint.connect_lazy()).collect(),
            next: AtomicUsize::new(0),
            calm: AtomicBool::new(breaker.is_calm()),
            breaker: Mutex::new(breaker),
        })
    }

    /// One of the connections, in turn.
    pub fn channel(&self) -> Channel {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.channels[turn % self.channels.len()].clone()
    }

    /// Whether calls go there.
    pub fn lets_in(&self) -> bool {
        self.calm.load(Ordering::Relaxed) || self.breaker(|breaker| breaker.lets_in())
    }

    fn breaker<T>(&self, work: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut breaker);
        self.calm.store(breaker.is_calm(), Ordering::Relaxed);
        done
    }
}

/// What a call would like to be answered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish<'c> {
    /// Any node.
    Any,
    /// The one that leads this namespace's shard.
    Leader(&'c str),
}

impl<'c> Wish<'c> {
    /// Writes and reads at `latest` are answered without a detour where the shard is led.
    pub fn of(call: &'c Call) -> Wish<'c> {
        match call {
            Call::Put(put) => led(&put.collection),
            Call::Delete(delete) => led(&delete.collection),
            Call::Batch(batch) => Wish::Leader(named(&batch.namespace)),
            Call::Get(get) if is_latest(&get.consistency) => led(&get.collection),
            Call::Scan(scan) => Wish::of_scan(scan),
            Call::Count(count) if is_latest(&count.consistency) => led(&count.collection),
            Call::Search(search) if is_latest(&search.consistency) => led(&search.collection),
            Call::Execute(execute) if is_latest(&execute.consistency) => led(&execute.collection),
            Call::Get(_) | Call::Count(_) | Call::Search(_) | Call::Execute(_) => Wish::Any,
        }
    }

    /// As `of` a scan that is a call.
    pub fn of_scan(scan: &'c v1::ScanRequest) -> Wish<'c> {
        if is_latest(&scan.consistency) { led(&scan.collection) } else { Wish::Any }
    }
}

fn led(collection: &Option<v1::CollectionName>) -> Wish<'_> {
    Wish::Leader(named(collection.as_ref().map_or("", |name| &name.namespace)))
}

fn named(namespace: &str) -> &str {
    if namespace.is_empty() { NAMESPACE_DEFAULT } else { namespace }
}

fn is_latest(consistency: &Option<v1::Consistency>) -> bool {
    use v1::consistency::Level;
    matches!(consistency.as_ref().and_then(|consistency| consistency.level.as_ref()), None | Some(Level::Latest(_)))
}

/// Whether any node may answer from whatever it has.
pub(crate) fn is_stale(call: &Call) -> bool {
    use v1::consistency::Level;
    let consistency = match call {
        Call::Get(get) => &get.consistency,
        Call::Scan(scan) => &scan.consistency,
        Call::Count(count) => &count.consistency,
        Call::Search(search) => &search.consistency,
        Call::Execute(execute) => &execute.consistency,
        Call::Put(_) | Call::Delete(_) | Call::Batch(_) => return false,
    };
    matches!(consistency.as_ref().and_then(|consistency| consistency.level.as_ref()), Some(Level::Stale(_)))
}

/// By namespace: who leads which shard of it.
type Leaders = HashMap<String, Vec<(u32, Arc<Node>)>>;

/// All nodes that a client knows.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// The given ones, then those that were learned.
    all: RwLock<Vec<Arc<Node>>>,
    given: usize,
    next: AtomicUsize,
    connections: usize,
    /// Whether what replies say of leaders counts.
    follows: bool,
    leaders: RwLock<Leaders>,
    /// Told when a breaker opens, and when the client is gone.
    wake: Arc<Notify>,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Nodes {
    /// Begins to connect to these addresses; within a runtime.
    pub fn connect(addresses: &[String], connections: usize, follows: bool) -> Result<Arc<Nodes>, Error> {
        let given: Vec<Arc<Node>> = addresses
            .iter()
            .map(|address| {
                let plain = address.strip_prefix("http://").unwrap_or(address);
                Ok(Node::new(plain.to_owned(), &endpoint(address)?, connections, Breaker::new()))
            })
            .collect::<Result<_, Error>>()?;
        let wake = Arc::new(Notify::new());
        let nodes = Arc::new(Nodes {
            given: given.len(),
            all: RwLock::new(given),
            next: AtomicUsize::new(0),
            connections,
            follows,
            leaders: RwLock::default(),
            wake: wake.clone(),
        });
        for node in nodes.all() {
            tokio::spawn(probe(node, wake.clone()));
        }
        tokio::spawn(keep(Arc::downgrade(&nodes), wake));
        Ok(nodes)
    }

    fn all(&self) -> Vec<Arc<Node>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A node for a call; another than `not`, if one is to be had.
    pub fn choose(&self, wish: Wish<'_>, not: Option<&Arc<Node>>) -> Arc<Node> {
        let is_other = |node: &Arc<Node>| not.is_none_or(|not| !Arc::ptr_eq(not, node));
        if let Wish::Leader(namespace) = wish
            && let Some(leader) = self.leader(namespace)
            && leader.lets_in()
            && is_other(&leader)
        {
            return leader;
        }
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let (given, learned) = all.split_at(self.given);
        let in_turn = || (0..given.len()).map(|step| &given[(turn + step) % given.len()]).chain(learned);
        let fit = in_turn().find(|node| node.lets_in() && is_other(node));
        let chosen = fit.or_else(|| in_turn().find(|node| is_other(node)));
        Arc::clone(chosen.unwrap_or(&given[turn % given.len()]))
    }

    /// Who leads a namespace, if that is one node.
    fn leader(&self, namespace: &str) -> Option<Arc<Node>> {
        let leaders = self.leaders.read().unwrap_or_else(PoisonError::into_inner);
        let ((_, first), rest) = leaders.get(namespace)?.split_first()?;
        rest.iter().all(|(_, node)| Arc::ptr_eq(node, first)).then(|| Arc::clone(first))
    }

    /// Takes in what a reply's metadata say of who leads.
    pub fn read(&self, wish: Wish<'_>, metadata: &MetadataMap) {
        if let Some(leader) = loci_wire::leader(metadata) {
            self.hint(wish, &leader);
        }
    }

    /// Takes in who leads the shard that a call was about; says which node that is.
    pub fn hint(&self, wish: Wish<'_>, hint: &v1::Leader) -> Option<Arc<Node>> {
        let namespace = match wish {
            _ if !self.follows => return None,
            Wish::Leader(namespace) => namespace,
            Wish::Any => return self.at(&hint.address),
        };
        let known = |leaders: &Leaders| {
            let (_, node) = leaders.get(namespace)?.iter().find(|(shard, _)| *shard == hint.shard)?;
            (node.address == hint.address).then(|| Arc::clone(node))
        };
        if let Some(node) = known(&self.leaders.read().unwrap_or_else(PoisonError::into_inner)) {
            return Some(node);
        }
        let node = self.at(&hint.address)?;
        let mut leaders = self.leaders.write().unwrap_or_else(PoisonError::into_inner);
        if leaders.len() >= NAMESPACES_MAX && !leaders.contains_key(namespace) {
            leaders.clear();
        }
        let of_namespace = leaders.entry(namespace.to_owned()).or_default();
        of_namespace.retain(|(shard, _)| *shard != hint.shard);
        of_namespace.push((hint.shard, Arc::clone(&node)));
        tracing::debug!(namespace, shard = hint.shard, address = hint.address, "another node leads");
        Some(node)
    }

    /// The node at an address; learned, if it was not known.
    fn at(&self, address: &str) -> Option<Arc<Node>> {
        let find = |all: &[Arc<Node>]| all.iter().find(|node| node.address == address).cloned();
        if let Some(node) = find(&self.all.read().unwrap_or_else(PoisonError::into_inner)) {
            return Some(node);
        }
        let endpoint = endpoint(address).ok()?;
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = find(&all) {
            return Some(node);
        }
        if all.len() >= NODES_MAX {
            return None;
        }
        let node = Node::new(address.to_owned(), &endpoint, self.connections, Breaker::unproven());
        all.push(Arc::clone(&node));
        tokio::spawn(probe(Arc::clone(&node), self.wake.clone()));
        Some(node)
    }

    /// Takes in how a call to a node ended.
    pub fn ended(&self, node: &Node, verdict: Verdict) {
        ended(node, verdict, &self.wake);
    }

    /// The nodes with whether calls go to them.
    pub fn states(&self) -> Vec<(String, bool)> {
        self.all().iter().map(|node| (node.address.clone(), node.lets_in())).collect()
    }
}

fn ended(node: &Node, verdict: Verdict, wake: &Notify) {
    // Nearly every call ends like this.
    if verdict == Verdict::Answered && node.calm.load(Ordering::Relaxed) {
        return;
    }
    let before = node.lets_in();
    node.breaker(|breaker| breaker.ended(verdict, Instant::now(), random_number()));
    match (before, node.lets_in()) {
        (true, false) => tracing::debug!(address = node.address, ?verdict, "the node is left out"),
        (false, true) => tracing::debug!(address = node.address, "the node answers"),
        _ => {}
    }
    if !node.lets_in() {
        wake.notify_one();
    }
}

/// Asks a node on each of its connections whether it is there, which makes those that are not.
async fn probe(node: Arc<Node>, wake: Arc<Notify>) {
    for channel in &node.channels {
        let check = async { HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await };
        let verdict = match timeout(PROBE_TIMEOUT, check).await {
            Ok(Ok(reply)) if reply.get_ref().status() == ServingStatus::Serving => Verdict::Answered,
            // It starts or stops.
            Ok(Ok(_)) => Verdict::Nobody,
            Ok(Err(status)) => Verdict::of(&status),
            Err(_) => Verdict::Nobody,
        };
        if verdict != Verdict::Answered {
            return ended(&node, verdict, &wake);
        }
    }
    ended(&node, Verdict::Answered, &wake);
}

/// Probes whoever is due, for as long as there is a client.
async fn keep(nodes: Weak<Nodes>, wake: Arc<Notify>) {
    loop {
        let Some(known) = nodes.upgrade() else { return };
        let all = known.all();
        drop(known);
        let now = Instant::now();
        for node in &all {
            if !node.lets_in() && node.breaker(|breaker| breaker.probe(now)) {
                tokio::spawn(probe(Arc::clone(node), wake.clone()));
            }
        }
        let next =
            all.iter().filter(|node| !node.lets_in()).filter_map(|node| node.breaker(|breaker| breaker.due())).min();
        drop(all);
        match next {
            Some(next) => tokio::select! {
                () = sleep_until(next) => {}
                () = wake.notified() => {}
            },
            None => wake.notified().await,
        }
    }
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let wrong = |message: String| Error::Address { address: address.to_owned(), message };
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    if !uri.starts_with("http://") {
        return Err(wrong("must begin with http:// or be host:port".into()));
    }
    let endpoint = Endpoint::from_shared(uri).map_err(|error| wrong(error.to_string()))?;
    if endpoint.uri().port().is_none() {
        return Err(wrong("has no port, such as :7700".into()));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE_INTERVAL))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .buffer_size(CALLS_WAITING_MAX))
}

pub(crate) fn random_number() -> u32 {
    getrandom::u32().expect("the operating system has random numbers")
}

/// How an attempt failed.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub error: Error,
    /// Whether a node was reached: otherwise another attempt is nobody's load.
    pub reached: bool,
}

impl Failed {
    pub fn of(status: &Status) -> Failed {
        let reached = Verdict::of(status) != Verdict::Nobody;
        Failed { error: Error::from_status(status), reached }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, reached: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Arc<Nodes> {
        // Nobody listens there, and nobody is asked: the tests end first.
        let addresses: Vec<String> = (1..=count).map(|port| format!("127.0.0.1:{port}")).collect();
        Nodes::connect(&addresses, 2, true).unwrap()
    }

    fn chosen(nodes: &Nodes, wish: Wish<'_>, count: usize) -> Vec<String> {
        let port = |node: Arc<Node>| node.address.rsplit(':').next().unwrap().to_owned();
        (0..count).map(|_| port(nodes.choose(wish, None))).collect()
    }

    fn at(nodes: &Nodes, number: usize) -> Arc<Node> {
        Arc::clone(&nodes.all()[number])
    }

    fn leader(shard: u32, port: u16) -> v1::Leader {
        v1::Leader { shard, address: format!("127.0.0.1:{port}") }
    }

    #[tokio::test]
    async fn addresses_need_host_and_port() {
        for good in ["127.0.0.1:7700", "http://localhost:7700", "http://[::1]:7700"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", "https://localhost:7700", "http://", "a b:1"] {
            let error = endpoint(bad).expect_err(bad);
            assert!(matches!(error, Error::Address { .. }), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn nodes_take_turns_and_one_whose_breaker_is_open_is_left_out() {
        let nodes = nodes(3);
        assert_eq!(chosen(&nodes, Wish::Any, 4), ["1", "2", "3", "1"]);
        nodes.ended(&at(&nodes, 1), Verdict::Nobody);
        assert_eq!(chosen(&nodes, Wish::Any, 3), ["3", "3", "1"]);
        nodes.ended(&at(&nodes, 1), Verdict::Answered);
        assert!(chosen(&nodes, Wish::Any, 3).contains(&"2".to_owned()));
    }

    #[tokio::test]
    async fn with_nobody_anywhere_all_are_tried() {
        let nodes = nodes(2);
        nodes.ended(&at(&nodes, 0), Verdict::Nobody);
        nodes.ended(&at(&nodes, 1), Verdict::Nobody);
        assert_eq!(chosen(&nodes, Wish::Any, 4), ["1", "2", "1", "2"]);
    }

    #[tokio::test]
    async fn what_wants_the_leader_goes_to_it_while_its_breaker_is_closed() {
        let nodes = nodes(3);
        let wish = Wish::Leader("default");
        nodes.hint(wish, &leader(1, 2));
        assert_eq!(chosen(&nodes, wish, 3), ["2", "2", "2"]);
        assert_eq!(chosen(&nodes, Wish::Leader("other"), 3), ["1", "2", "3"]);
        assert_eq!(nodes.choose(wish, Some(&at(&nodes, 1))).address, "127.0.0.1:1", "another was asked for");
        nodes.ended(&at(&nodes, 1), Verdict::Nobody);
        assert!(!chosen(&nodes, wish, 6).contains(&"2".to_owned()));
        nodes.hint(wish, &leader(1, 3));
        assert_eq!(chosen(&nodes, wish, 3), ["3", "3", "3"]);
    }

    #[tokio::test]
    async fn a_namespace_whose_shards_are_led_by_several_nodes_has_no_leader() {
        let nodes = nodes(2);
        let wish = Wish::Leader("default");
        nodes.hint(wish, &leader(1, 1));
        nodes.hint(wish, &leader(2, 2));
        assert_eq!(chosen(&nodes, wish, 4), ["1", "2", "1", "2"]);
        nodes.hint(wish, &leader(1, 2));
        assert_eq!(chosen(&nodes, wish, 3), ["2", "2", "2"]);
    }

    #[tokio::test]
    async fn a_leader_that_was_not_given_is_learned_and_stands_in_when_the_given_ones_are_gone() {
        let nodes = nodes(1);
        let wish = Wish::Leader("default");
        nodes.hint(wish, &leader(1, 9));
        assert_eq!(chosen(&nodes, wish, 2), ["1", "1"], "nobody knows yet whether it is reached");
        nodes.ended(&at(&nodes, 1), Verdict::Answered);
        assert_eq!(chosen(&nodes, wish, 2), ["9", "9"]);
        assert_eq!(chosen(&nodes, Wish::Any, 2), ["1", "1"], "others go where the user said");
        nodes.ended(&at(&nodes, 0), Verdict::Nobody);
        assert_eq!(chosen(&nodes, Wish::Any, 2), ["9", "9"]);
        for port in 1000..2000 {
            nodes.hint(wish, &leader(port.into(), port));
        }
        assert_eq!(nodes.all().len(), NODES_MAX);
    }

    #[tokio::test]
    async fn whoever_does_not_follow_asks_only_the_given_ones() {
        let nodes = Nodes::connect(&["127.0.0.1:1".to_owned()], 1, false).unwrap();
        let wish = Wish::Leader("default");
        assert!(nodes.hint(wish, &leader(1, 9)).is_none());
        assert_eq!(chosen(&nodes, wish, 2), ["1", "1"]);
        assert_eq!(nodes.all().len(), 1);
    }

    #[test]
    fn writes_and_latest_reads_want_the_leader() {
        use v1::consistency::Level;
        let name = |namespace: &str| Some(v1::CollectionName { namespace: namespace.into(), collection: "c".into() });
        let at = |level| Some(v1::Consistency { level: Some(level) });
        let put = Call::Put(v1::PutRequest { collection: name("n"), ..Default::default() });
        assert_eq!(Wish::of(&put), Wish::Leader("n"));
        let latest = v1::GetRequest { collection: name(""), ..Default::default() };
        assert_eq!(Wish::of(&Call::Get(latest.clone())), Wish::Leader("default"));
        for level in [Level::Stale(true), Level::Token(v1::Token::default())] {
            let get = Call::Get(v1::GetRequest { consistency: at(level.clone()), ..latest.clone() });
            assert_eq!(is_stale(&get), matches!(level, Level::Stale(_)));
            assert_eq!(Wish::of(&get), Wish::Any);
        }
    }
}
