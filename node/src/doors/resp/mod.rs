//! The door for clients of Redis: RESP2 and RESP3 over TCP.
//!
//! ```text
//!   listener --connection--> connection (bytes) --requests--> session (what they mean)
//!                               ^                     |-- read: the newest view, right here
//!                               |                     |-- pipeline, transactions: one command of the log
//!                               |                     |-- blocking: in the queue of a key
//!                               '----- messages ---- hub <-- events of every applied entry -- shard
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`listener`], [`connection`] | sockets: who may connect, what is read and sent, and how much of it may wait |
//! | [`lanes`] | the threads of the connections; what they write goes to the log together |
//! | [`session`] | one connection's state; a request finds its way |
//! | [`commands`], [`facts`], [`describe`] | commands by name; COMMAND |
//! | [`pipeline`], [`transactions`] | calls on their way to the log; MULTI, EXEC, WATCH |
//! | [`databases`], [`writes`], [`places`], [`far`] | `SELECT`'s databases, each a collection: views, making them; the log; the shards that hold them; those on other nodes |
//! | [`slots`], [`everywhere`], [`reach`] | several shards, and clients of a cluster: where a request goes; what is about all keys; which nodes answer |
//! | [`blocking`], [`pubsub`], [`tracking`], [`hub`], [`ears`] | what waits for others, and how it hears of them |
//! | [`act`], [`client_command`], [`acl_command`], [`server`], [`cluster`] | commands of the door itself |
//! | [`client`], [`acl`], [`acl_log`], [`sha256`], [`settings`] | connections as others see them; users; what CONFIG knows |
//! | [`stats`], [`slow`], [`slow_command`] | what is counted; what took long; SLOWLOG, LATENCY |
//! | [`render`] | a reply as the protocol writes it |
//!
//! Always: a command that reads sees every write that was answered before it was sent, on whatever node; unless the client
//! said `READONLY`. A write that was answered is on the disks of a majority. A connection's memory is bounded.

mod listener;
mod lanes;
mod connection;
mod session;
mod commands;
mod facts;
mod pipeline;
mod transactions;
mod databases;
mod writes;
mod places;
mod far;
mod slots;
mod reach;
mod everywhere;
mod blocking;
mod hub;
mod ears;
mod pubsub;
mod tracking;
mod act;
mod client_command;
mod acl_command;
mod acl_log;
mod server;
mod cluster;
mod describe;
mod client;
mod acl;
mod sha256;
mod settings;
mod slow_command;
mod stats;
mod slow;
mod render;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use loci_index::command::Durability;
use loci_index::table::eviction::{NamespaceRoom, Policy, Room};
use loci_raft::MemberId;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, book};
use crate::doors::grpc::Calls;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::status::NodeStatus;
use acl::Users;
use acl_log::AclLog;
use client::Clients;
use databases::{DATABASES, Databases, Totals};
use hub::Hub;
pub use lanes::Lanes;
use settings::Settings;
use slow::Slow;
use stats::Stats;
use writes::RequestIds;

/// The version of Redis whose ways it has, for clients that ask before they use what is newer.
const SERVER_VERSION: &str = "7.4.0";

/// How often it is looked whether the databases are where they were.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The least time between two looks, while the catalog changes.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// How long it may take to tell the other nodes something.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// How the door is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where the databases are.
    pub namespace: String,
    /// The most connections.
    pub connections_max: usize,
    /// How many threads serve them; at least one.
    pub threads: usize,
    /// What the default user must know.
    pub password: Option<String>,
    /// What the databases may take together; zero: as much as there is.
    pub maxmemory_bytes: u64,
    /// Which keys make room then, and over budgets of their own; none: nobody has said.
    pub maxmemory_policy: Option<Policy>,
    /// When writes are answered, in databases that are made from now on.
    pub durability: Durability,
    /// Clients are told which node leads what, as a Redis Cluster does.
    pub cluster: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            namespace: "redis".into(),
            connections_max: 10_000,
            threads: threads_default(),
            password: None,
            maxmemory_bytes: 0,
            maxmemory_policy: None,
            durability: Durability::default(),
            cluster: false,
        }
    }
}

/// Half of the processors: the others are for the log, the state and whoever searches.
pub fn threads_default() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get() / 2).max(1)
}

/// What the door needs of its node.
pub struct Parts {
    /// What calls on records do, wherever these are.
    pub calls: Calls,
    /// What the doors count.
    pub metrics: Arc<Metrics>,
    /// How the node is doing.
    pub status: Arc<NodeStatus>,
    /// What makes room in tables while this node leads.
    pub eviction: Arc<ArcSwap<Room>>,
}

/// What is counted.
#[derive(Default)]
struct Figures {
    input_bytes: AtomicU64,
    output_bytes: AtomicU64,
    rejected: AtomicU64,
    /// The most memory of the node's budget that was in use when it was looked.
    peak_bytes: AtomicU64,
    connections_max: AtomicUsize,
    /// Seconds after which a client that says nothing is closed; zero: never.
    timeout: AtomicU64,
    /// Whether writes may have to be refused for want of memory before the node has none left.
    limits_memory: AtomicBool,
    /// For each database, when it was looked whether it has room, and in the lowest bit whether it had none.
    full: [AtomicU64; DATABASES],
}

impl Figures {
    fn reset(&self) {
        for figure in [&self.input_bytes, &self.output_bytes, &self.rejected] {
            figure.store(0, Ordering::Relaxed);
        }
    }
}

/// Until when clients wait, and whether only those who write do.
type Pause = Option<(Instant, bool)>;

/// What all connections share.
struct Door {
    /// The members whose doors nobody can connect to, as far as this node has tried.
    failed: ArcSwap<BTreeSet<MemberId>>,
    calls: Calls,
    cluster: Cluster,
    /// Of tasks that no connection waits for.
    runtime: Handle,
    gate: Gate,
    metrics: Arc<Metrics>,
    status: Arc<NodeStatus>,
    databases: Arc<Databases>,
    /// Databases are made one at a time.
    making: tokio::sync::Mutex<()>,
    /// They are looked for by one at a time.
    finding: Mutex<()>,
    hub: Arc<Hub>,
    clients: Clients,
    users: Users,
    acl_log: AclLog,
    settings: Settings,
    figures: Figures,
    stats: Stats,
    /// What had become of keys at the last CONFIG RESETSTAT.
    forgotten: Mutex<Totals>,
    slow: Slow,
    eviction: Arc<ArcSwap<Room>>,
    request_ids: RequestIds,
    scripts: bool,
    started: Instant,
    address: SocketAddr,
    paused: watch::Sender<Pause>,
    is_paused: AtomicBool,
    /// How many more large values may be read at once.
    large_reads: Semaphore,
}

/// So many large values are read at once.
const LARGE_READS_MAX: usize = 4;

impl Door {
    fn new(parts: Parts, options: Options, address: SocketAddr) -> Door {
        let Parts { calls, metrics, status, eviction } = parts;
        let (cluster, gate, scripts) = (calls.cluster.clone(), calls.gate.clone(), calls.scripts);
        let databases = Arc::new(Databases::new(options.namespace.clone(), options.durability, options.cluster));
        let settings = Settings::default();
        settings.put("port", address.port().to_string());
        settings.put("bind", address.ip().to_string());
        settings.put("maxclients", options.connections_max.to_string());
        let maxmemory = match options.maxmemory_bytes {
            0 => status.budget().bytes(),
            bytes => bytes,
        };
        settings.put("maxmemory", maxmemory.to_string());
        if let Some(policy) = options.maxmemory_policy {
            settings.put("maxmemory-policy", policy.name().into());
        }
        if options.durability == Durability::Buffered {
            settings.put("appendfsync", "everysec".into());
        }
        if options.cluster {
            settings.put("cluster-enabled", "yes".into());
        }
        let (bytes, policy) = (options.maxmemory_bytes, options.maxmemory_policy);
        let own = NamespaceRoom { name: options.namespace, bytes, all_bytes: bytes, policy };
        eviction.store(Arc::new(Room { namespace: Some(own), ..(**eviction.load()).clone() }));
        let request_ids = RequestIds::of(cluster.run());
        let figures = Figures::default();
        figures.connections_max.store(options.connections_max, Ordering::Relaxed);
        // Until it was looked.
        figures.limits_memory.store(true, Ordering::Relaxed);
        Door {
            failed: ArcSwap::default(),
            calls,
            cluster,
            runtime: Handle::current(),
            gate,
            metrics,
            status,
            hub: Arc::new(Hub::new(databases.clone())),
            databases,
            making: tokio::sync::Mutex::default(),
            finding: Mutex::default(),
            clients: Clients::default(),
            users: Users::new(options.password.as_deref()),
            acl_log: AclLog::default(),
            settings,
            figures,
            stats: Stats::default(),
            forgotten: Mutex::default(),
            slow: Slow::default(),
            eviction,
            request_ids,
            scripts,
            started: Instant::now(),
            address,
            paused: watch::Sender::new(None),
            is_paused: AtomicBool::new(false),
            large_reads: Semaphore::new(LARGE_READS_MAX),
        }
    }

    fn port(&self) -> u16 {
        self.address.port()
    }

    fn pause(&self, until: Instant, writes_only: bool) {
        self.paused.send_modify(|pause| {
            let later = pause.filter(|(known, _)| *known > Instant::now());
            *pause = Some(later.map_or((until, writes_only), |(known, only)| (known.max(until), only && writes_only)));
        });
        self.is_paused.store(true, Ordering::Relaxed);
    }

    fn unpause(&self) {
        self.is_paused.store(false, Ordering::Relaxed);
        self.paused.send_replace(None);
    }

    /// Whether a command must wait.
    fn pauses(&self, writes: bool) -> bool {
        self.is_paused.load(Ordering::Relaxed) && self.paused_until(writes).is_some()
    }

    fn paused_until(&self, writes: bool) -> Option<Instant> {
        let pause = *self.paused.borrow();
        pause.filter(|(until, writes_only)| *until > Instant::now() && (writes || !writes_only)).map(|(until, _)| until)
    }

    async fn pause_is_over(&self, writes: bool) {
        let mut changes = self.paused.subscribe();
        while let Some(until) = self.paused_until(writes) {
            // Over in time, or earlier.
            let _ = tokio::time::timeout_at(until.into(), changes.changed()).await;
        }
    }
}

/// The running door.
pub struct Resp {
    door: Arc<Door>,
    accepting: JoinHandle<()>,
    lanes: Arc<Lanes>,
    looking: JoinHandle<()>,
    reaching: Option<JoinHandle<()>>,
}

/// Looks now and then whether the databases are where they were, and tells the other nodes where clients connect here.
async fn look(door: Arc<Door>) {
    let mut changes = door.cluster.catalog().applied();
    loop {
        changes.mark_unchanged();
        door.look_again();
        door.memory_used();
        door.stats.look(Instant::now());
        if let Some(line) = book::find(&door.cluster.catalog().newest(), door.cluster.me())
            && line.resp != door.port()
            && let Err(failure) = door.cluster.write_resp(door.port(), Instant::now() + LOOK_TIME).await
        {
            tracing::debug!(
                error = failure.message,
                "where clients of Redis connect could not be written into the book"
            );
        }
        // The namespace may get shards at any moment, and whoever subscribed is to hear of what is said there from the first on.
        let _ = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

impl Resp {
    /// Answers on this socket; inside the runtime that is to do it.
    pub fn start(listener: std::net::TcpListener, parts: Parts, options: Options) -> std::io::Result<Resp> {
        let threads = options.threads;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let door = Arc::new(Door::new(parts, options, listener.local_addr()?));
        server::first_notify(&door);
        door.metrics.redis().set_groups(&stats::groups());
        let lanes = Arc::new(Lanes::start(threads, &door)?);
        let accepting = tokio::spawn(listener::run(listener, door.clone(), lanes.clone()));
        let looking = tokio::spawn(look(door.clone()));
        let reaching = door.databases.is_cluster().then(|| tokio::spawn(reach::run(door.clone())));
        Ok(Resp { door, accepting, lanes, looking, reaching })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.address
    }

    /// Lets nobody in any more.
    pub fn close(&self) {
        self.accepting.abort();
    }

    /// Ends all connections, and lets go of the shards. The threads are to be ended by [`Lanes::stop`].
    pub async fn end(self) -> Option<Lanes> {
        self.accepting.abort();
        self.looking.abort();
        if let Some(reaching) = self.reaching {
            reaching.abort();
            let _ = reaching.await;
        }
        // The one holds the lanes, the other shards.
        let _ = self.accepting.await;
        let _ = self.looking.await;
        self.door.clients.all().iter().for_each(|client| client.kill());
        self.door.hub.detach();
        self.door.databases.forget();
        Arc::into_inner(self.lanes)
    }
}
