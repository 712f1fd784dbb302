//! The nodes that a client knows: which of them a call goes to, and what is known of each.
//!
//! ```text
//!   write, read at `latest` --> who leads its keys' shard, where one is known and its breaker is closed
//!   other reads by key -------> who has that shard, where not all have it: as below
//!   anything else ------------> each given address in turn, then those that were learned
//!                               those whose breaker is closed; if there are none, all
//!
//!   keeper (a task): connects to all of them at the start; probes those whose breaker is open, when it is time
//! ```
//!
//! Who leads what is learned from replies, and from maps ([`routes`](crate::routes)). A
//! node that was not among the given addresses is learned by that, too; calls go there once it has answered a probe, for what a
//! node advertises cannot be reached from everywhere.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use loci_wire::v1::{self, records_client::RecordsClient};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::Error;
use crate::breaker::{Breaker, Verdict};
use crate::routes::{Map, Routes, Spot};
use crate::silence::Heard;
use crate::wish::Wish;

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
/// How long a node may take to say what it knows of a namespace's shards.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(2);

/// One node, with its connections.
#[derive(Debug)]
pub(crate) struct Node {
    address: String,
    channels: Vec<Channel>,
    next: AtomicUsize,
    breaker: Mutex<Breaker>,
    /// Whether there is nothing against the node: then nobody needs the lock.
    calm: AtomicBool,
    /// When something was last heard of it.
    pub heard: Heard,
}

/// A node is only itself.
impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Node {
    fn new(address: String, endpoint: &Endpoint, connections: usize, breaker: Breaker) -> Arc<Node> {
        Arc::new(Node {
            address,
            channels: (0..connections).map(|_| endpoint.connect_lazy()).collect(),
            next: AtomicUsize::new(0),
            calm: AtomicBool::new(breaker.is_calm()),
            breaker: Mutex::new(breaker),
            heard: Heard::new(endpoint.connect_lazy()),
        })
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
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
    routes: Routes<Arc<Node>>,
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
            routes: Routes::default(),
            wake: wake.clone(),
        });
        for node in nodes.all() {
            tokio::spawn(probe(node, wake.clone()));
        }
        tokio::spawn(keep(Arc::downgrade(&nodes), wake));
        Ok(nodes)
    }

    pub fn all(&self) -> Vec<Arc<Node>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A node for a call; another than `not`, if one is to be had.
    pub fn choose(&self, wish: Wish<'_>, not: Option<&Arc<Node>>) -> Arc<Node> {
        self.choose_at(self.spot(wish).as_ref(), wish, not)
    }

    /// The same, for calls that like to go where others went: to `home`, if nobody else answers them better.
    pub fn choose_near(
        &self,
        spot: Option<&Spot<Arc<Node>>>,
        wish: Wish<'_>,
        home: Option<&Arc<Node>>,
        not: Option<&Arc<Node>>,
    ) -> Arc<Node> {
        let fits = |node: &Arc<Node>| node.lets_in() && not.is_none_or(|not| !Arc::ptr_eq(not, node));
        let led = spot.and_then(|spot| spot.leader.as_ref()).is_some_and(|leader| wish.leads() && fits(leader));
        let has = |node: &Arc<Node>| spot.is_none_or(|spot| spot.holders.is_empty() || spot.holders.contains(node));
        match home {
            Some(home) if !led && fits(home) && has(home) => Arc::clone(home),
            _ => self.choose_at(spot, wish, not),
        }
    }

    /// Where a call goes, as far as is known.
    pub fn spot(&self, wish: Wish<'_>) -> Option<Spot<Arc<Node>>> {
        match wish {
            Wish::Any => None,
            Wish::Leader(namespace) => self.routes.spot(namespace, None),
            Wish::LeaderOf(namespace, span) | Wish::HolderOf(namespace, span) => {
                self.routes.spot(namespace, Some(span))
            }
        }
    }

    /// A node for a call that goes there.
    pub fn choose_at(&self, spot: Option<&Spot<Arc<Node>>>, wish: Wish<'_>, not: Option<&Arc<Node>>) -> Arc<Node> {
        let is_other = |node: &Arc<Node>| not.is_none_or(|not| !Arc::ptr_eq(not, node));
        if let Some(leader) = spot.and_then(|spot| spot.leader.as_ref())
            && wish.leads()
            && leader.lets_in()
            && is_other(leader)
        {
            return Arc::clone(leader);
        }
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let (given, learned) = all.split_at(self.given);
        let in_turn = || (0..given.len()).map(|step| &given[(turn + step) % given.len()]).chain(learned);
        let holders = spot.map(|spot| &spot.holders[..]).filter(|holders| !holders.is_empty());
        let holds = |node: &&Arc<Node>| holders.is_some_and(|holders| holders.contains(node));
        let holder = holders.and_then(|_| in_turn().find(|node| holds(node) && node.lets_in() && is_other(node)));
        let fit = holder.or_else(|| in_turn().find(|node| node.lets_in() && is_other(node)));
        let chosen = fit.or_else(|| in_turn().find(|node| is_other(node)));
        Arc::clone(chosen.unwrap_or(&given[turn % given.len()]))
    }

    /// Takes in what a reply's metadata say of who leads.
    pub fn read(self: &Arc<Nodes>, wish: Wish<'_>, node: &Arc<Node>, metadata: &MetadataMap) {
        if let Some(leader) = loci_wire::leader(metadata) {
            self.hint(wish.namespace(), node, &leader);
        }
    }

    /// Takes in who leads the shard that a call was about, as this node says.
    pub fn hint(self: &Arc<Nodes>, namespace: Option<&str>, said_by: &Arc<Node>, hint: &v1::Leader) {
        if !self.follows {
            return;
        }
        let (Some(leader), Some(namespace)) = (self.at(&hint.address), namespace) else { return };
        if self.routes.hint(namespace, hint, leader) && self.routes.asks(namespace, Instant::now()) {
            tracing::debug!(namespace, version = hint.version, "there is a newer map of the shards");
            tokio::spawn(ask(Arc::downgrade(self), namespace.to_owned(), said_by.channel()));
        }
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

    /// Whether calls go to another node, too.
    pub fn has_other(&self, node: &Arc<Node>) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|other| !Arc::ptr_eq(other, node) && other.lets_in())
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

/// Asks a node for the map of a namespace. Whoever cannot be asked is no loss: the next reply says again that there is one.
async fn ask(nodes: Weak<Nodes>, namespace: String, channel: Channel) {
    let request = v1::RouteRequest { namespace: namespace.clone() };
    let answer = timeout(ROUTE_TIMEOUT, async { RecordsClient::new(channel).route(request).await }).await;
    let (Ok(Ok(reply)), Some(nodes)) = (answer, nodes.upgrade()) else { return };
    match Map::read(reply.get_ref(), |address| nodes.at(address)) {
        Some(map) => nodes.routes.learn(&namespace, map),
        None => tracing::debug!(namespace, "a node's map of the shards is not believed"),
    }
}

fn ended(node: &Node, verdict: Verdict, wake: &Notify) {
    if verdict == Verdict::Answered {
        node.heard.note();
    }
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
    if endpoint.uri().port().is_none_or(|port| port.as_u16() == 0) {
        return Err(wrong("has no port from 1 to 65535, such as :7700".into()));
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
        v1::Leader { shard, address: format!("127.0.0.1:{port}"), term: 1, version: 1 }
    }

    fn hint(nodes: &Arc<Nodes>, namespace: &str, leader: &v1::Leader) {
        nodes.hint(Some(namespace), &at(nodes, 0), leader);
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
        hint(&nodes, "default", &leader(1, 2));
        assert_eq!(chosen(&nodes, wish, 3), ["2", "2", "2"]);
        assert_eq!(chosen(&nodes, Wish::Leader("other"), 3), ["1", "2", "3"]);
        assert_eq!(nodes.choose(wish, Some(&at(&nodes, 1))).address, "127.0.0.1:1", "another was asked for");
        nodes.ended(&at(&nodes, 1), Verdict::Nobody);
        assert!(!chosen(&nodes, wish, 6).contains(&"2".to_owned()));
        hint(&nodes, "default", &leader(1, 3));
        assert_eq!(chosen(&nodes, wish, 3), ["3", "3", "3"]);
    }

    #[tokio::test]
    async fn what_is_about_one_shard_goes_where_that_is_and_what_is_about_several_to_whom_leads_them_all() {
        let nodes = nodes(4);
        let shard = |shard: u32, slots: (u32, u32), leader| v1::RouteShard {
            shard,
            first_slot: slots.0,
            last_slot: slots.1,
            leader,
            term: 1,
            holders: vec![leader, 2],
        };
        let reply = v1::RouteReply {
            version: 80,
            shards: vec![shard(5, (0, 99), 1), shard(6, (100, 16_383), 3)],
            nodes: (1..4).map(|member| v1::RouteNode { member, address: format!("127.0.0.1:{member}") }).collect(),
        };
        nodes.routes.learn("wide", Map::read(&reply, |address| nodes.at(address)).unwrap());
        assert_eq!(chosen(&nodes, Wish::LeaderOf("wide", (7, 99)), 2), ["1", "1"]);
        assert_eq!(chosen(&nodes, Wish::LeaderOf("wide", (100, 100)), 2), ["3", "3"]);
        let known = nodes.spot(Wish::HolderOf("wide", (100, 100))).unwrap().known;
        assert_eq!(known, Some(v1::KnownRoute { version: 80, shard: 6 }));
        for several in [Wish::LeaderOf("wide", (99, 100)), Wish::Leader("wide")] {
            let mut all = chosen(&nodes, several, 4);
            all.sort();
            assert_eq!(all, ["1", "2", "3", "4"]);
        }
        let mut holders = chosen(&nodes, Wish::HolderOf("wide", (100, 100)), 8);
        holders.sort();
        holders.dedup();
        assert_eq!(holders, ["2", "3"]);
        // What others went to is gone to, if it has the shard.
        let near = |wish, home: usize| {
            nodes.choose_near(nodes.spot(wish).as_ref(), wish, Some(&at(&nodes, home)), None).address.clone()
        };
        assert_eq!(near(Wish::HolderOf("wide", (0, 0)), 1), "127.0.0.1:2");
        assert_ne!(near(Wish::HolderOf("wide", (0, 0)), 3), "127.0.0.1:4");
        assert_eq!(near(Wish::LeaderOf("wide", (0, 0)), 1), "127.0.0.1:1");
        assert_eq!(near(Wish::Leader("wide"), 3), "127.0.0.1:4");
        // But not where a call has just failed.
        let other = |wish, home: usize, not: usize| {
            let (home, not) = (at(&nodes, home), at(&nodes, not));
            nodes.choose_near(nodes.spot(wish).as_ref(), wish, Some(&home), Some(&not)).address.clone()
        };
        assert_eq!(other(Wish::LeaderOf("wide", (0, 0)), 1, 0), "127.0.0.1:2");
        assert_ne!(other(Wish::Leader("wide"), 3, 3), "127.0.0.1:4");
        // While the leader does not answer, others that have the shard are asked, and if there are none, anybody.
        nodes.ended(&at(&nodes, 2), Verdict::Nobody);
        assert_eq!(chosen(&nodes, Wish::LeaderOf("wide", (100, 100)), 2), ["2", "2"]);
        nodes.ended(&at(&nodes, 1), Verdict::Nobody);
        let mut rest = chosen(&nodes, Wish::LeaderOf("wide", (100, 100)), 4);
        rest.sort();
        rest.dedup();
        assert_eq!(rest, ["1", "4"]);
    }

    #[tokio::test]
    async fn a_leader_that_was_not_given_is_learned_and_stands_in_when_the_given_ones_are_gone() {
        let nodes = nodes(1);
        let wish = Wish::Leader("default");
        hint(&nodes, "default", &leader(1, 9));
        assert_eq!(chosen(&nodes, wish, 2), ["1", "1"], "nobody knows yet whether it is reached");
        nodes.ended(&at(&nodes, 1), Verdict::Answered);
        assert_eq!(chosen(&nodes, wish, 2), ["9", "9"]);
        assert_eq!(chosen(&nodes, Wish::Any, 2), ["1", "1"], "others go where the user said");
        nodes.ended(&at(&nodes, 0), Verdict::Nobody);
        assert_eq!(chosen(&nodes, Wish::Any, 2), ["9", "9"]);
        for port in 1000..2000 {
            hint(&nodes, "default", &leader(port.into(), port));
        }
        assert_eq!(nodes.all().len(), NODES_MAX);
    }

    #[tokio::test]
    async fn whoever_does_not_follow_asks_only_the_given_ones() {
        let nodes = Nodes::connect(&["127.0.0.1:1".to_owned()], 1, false).unwrap();
        let wish = Wish::Leader("default");
        hint(&nodes, "default", &leader(1, 9));
        assert_eq!(chosen(&nodes, wish, 2), ["1", "1"]);
        assert_eq!(nodes.all().len(), 1);
    }
}
