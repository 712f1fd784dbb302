//! A node from its start to its end.
//!
//! ```text
//!   start:    bind the addresses -> lock the data -> new, and told to join: form or join a cluster; otherwise ask who is where
//!             -> open log and store -> threads -> serve, not ready -> as new as the leader said -> ready
//!   shutdown: not ready -> somebody else leads -> no new calls, calls under way end (5 s) -> last checkpoint -> log closed
//!             -> unlocked
//! ```
//!
//! The addresses come first, so that a node that cannot be reached has not touched its data. Sockets have a runtime of
//! their own, which ends with the node: no connection outlives it.

mod error;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use loci_index::graph::GraphOptions;
use loci_index::store::StoreOptions;
use loci_index::table::eviction::Room;
use loci_raft::{
    FOUNDING_INDEX, FileDisk, Log, LogIndex, LogOptions, MemberId, Members, Replica, ReplicaOptions, ShardId,
    ShardState, founding,
};
use loci_wire::v1;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing_subscriber::EnvFilter;

use crate::clock::Clock;
use crate::cluster::arrival::{self, Asker, Met, Twin};
use crate::cluster::formation::{Applicant, Formed};
use crate::cluster::greeter::Greeter;
use crate::cluster::links::Links;
use crate::cluster::snapshot::{self, Receiving};
use crate::cluster::{Cluster, agreement, book, door, mirror, placement, policy, repair};
use crate::config::{Config, LogFormat, ServeArgs};
use crate::doors::grpc;
use crate::doors::resp::{self, Resp};
use crate::gate::Gate;
use crate::hosting::{Care, Host, Hosting, OpenedStore, make_store, open_store};
use crate::identity::{ClusterId, DataDirectory, FOUNDER, Identity, NodeId, RunId, random_bytes};
use crate::idle::Idle;
use crate::idle::recall::Recall;
use crate::idle::walker::WalkerFigures;
use crate::incoming;
use crate::log_thread::{LogFigures, LogThread};
use crate::memory::Budget;
use crate::metrics::{Endpoint, Metrics};
use crate::residency::{Residency, ResidencyFigures};
use crate::scrub::{Scrub, ScrubFigures};
use crate::search_threads::SearchThreads;
use crate::shard::{Beginning, GATHERING, Mailbox, OwnerOptions, Shard, ShardHandle, Siblings};
use crate::shards::{CATALOG, Served, Shards};
use crate::status::{NodeStatus, Parts};
use crate::trace;
use crate::watches::Watches;
pub use error::RunError;

pub use serving::serve;

const SHARD: ShardId = ShardId(CATALOG);
/// How long another member may take to lead in the place of one that stops.
const HAND_OVER_TIME: Duration = Duration::from_secs(2);
/// How long calls under way may take once the node is told to stop.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// A connection on which nothing is heard is asked for a sign of life this often, and closed without one.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls under way on one connection; more wait in the client.
const STREAMS_MAX: u32 = 1024;
/// Bytes that one call, and one connection, may have on their way here unread.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// A checkpoint is due after this many files of the log, within these bounds.
const CHECKPOINT_FILES: u64 = 4;
/// The log keeps about so many of its files for members that are behind.
const KEPT_FILES: u64 = 4;
const CHECKPOINT_BYTES_MIN: u64 = 16 << 20;
const CHECKPOINT_BYTES_MAX: u64 = 256 << 20;
/// After so many tasks a thread looks at its sockets again. Some tasks are short searches.
const TASKS_PER_LOOK: u32 = 8;
/// Twice what a thread has otherwise: what it runs begins some way down.
const IO_STACK_BYTES: usize = 4 << 20;
/// The services whose health is told one by one, besides the node's.
const SERVICES: [&str; 4] = ["loci.v1.Records", "loci.v1.Admin", "loci.v1.Changes", "loci.v1.SemanticCache"];
/// How often it is looked whether the node serves.
const HEALTH_LOOK: Duration = Duration::from_millis(500);
/// Signals this close together are one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
/// The exit code after a second signal, as shells have it for an interrupted program.
const INTERRUPTED: i32 = 130;

/// Runs `loci serve` until a signal stops it.
pub fn serve_command(args: ServeArgs) -> Result<(), RunError> {
    let config = Config::from_args(args)?;
    init_tracing(config.log_format, &config.log_level);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            signals.next().await;
            tracing::info!("stopping; a second signal stops at once");
            drop(stop);
            let first = Instant::now();
            // `timeout` and some supervisors send the same signal to the process and to its group.
            while first.elapsed() < SAME_SIGNAL {
                signals.next().await;
            }
            tracing::warn!("a second signal: stopped at once");
            std::process::exit(INTERRUPTED);
        });
        serve(config, async {
            let _ = stopped.await;
        })
        .await
    });
    trace::stop();
    ended
}

/// Lines on standard error from now on. Does nothing if the program already has its own.
pub fn init_tracing(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _ = match format {
        LogFormat::Text => subscriber.with_ansi(ansi).with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).with_current_span(false).try_init(),
    };
}

/// SIGTERM and ctrl-c.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A running node. End it with [`Node::shutdown`]: one that is merely dropped closes its sockets and leaves the rest,
/// the lock on its data included, to the end of the process.
pub struct Node {
    address: SocketAddr,
    sockets: Sockets,
    stop_server: oneshot::Sender<()>,
    server: JoinHandle<()>,
    endpoint: Option<Endpoint>,
    resp: Option<Resp>,
    health: HealthReporter,
    /// Says whether the node serves.
    telling_health: JoinHandle<()>,
    shard: Shard,
    handle: ShardHandle,
    host: Arc<Host>,
    cluster: Cluster,
    log: LogThread,
    search: SearchThreads,
    idle: Idle,
    residency: Residency,
    scrub: Scrub,
    /// Whether it is to stop and start again, because what it has is damaged and others have it.
    again: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    status: Arc<NodeStatus>,
    data: DataDirectory,
}

impl Node {
    /// Starts a node. When this returns it listens, and will be ready once its log is applied.
    pub async fn start(config: Config) -> Result<Node, RunError> {
        let begun = Instant::now();
        let listener = bind("--listen", config.listen)?;
        let metrics_listener = config.metrics.map(|address| bind("--metrics", address)).transpose()?;
        let resp_listener = config.resp.map(|address| bind("--resp", address)).transpose()?;
        let at = listener.local_addr()?;
        let advertise = config.advertise.clone().unwrap_or_else(|| at.to_string());
        let path = config.data.clone();
        let data = blocking(move || DataDirectory::open(&path)).await??;
        let run = RunId(random_bytes()?);
        let (greeter, formed, asked) = match data.identity() {
            Some(identity) => {
                let greeter = Greeter::start(&listener, who(&identity, run, &advertise))?;
                let asked = Asker::of(&identity, run).look(config.join.iter().cloned().collect());
                (greeter, None, Some(tokio::spawn(asked)))
            }
            None => {
                let node = data.applicant()?;
                let applicant = Applicant { node, run, address: advertise.clone(), join: config.join.clone() };
                let greeter = Greeter::start(&listener, applicant.who())?;
                (greeter, Some((node, applicant.form(&data.shard(SHARD.0)).await)), None)
            }
        };
        let opening = config.clone();
        let opened = blocking(move || open(&opening, data, formed)).await??;
        let foreign = match asked {
            Some(asked) => {
                let asker = Asker::of(&opened.identity, run);
                let mut met = asked.await.map_err(std::io::Error::other)?;
                if let Some(address) = opened.stood.clone().filter(|address| !config.join.contains(address)) {
                    met.extend(asker.look([address].into()).await);
                }
                admit(&config, &opened, met)?
            }
            None => Vec::new(),
        };
        let Opened { data, identity, log, replica, catalog, others, addresses, store_options, options, clock, .. } =
            opened;
        let eviction = options.eviction.clone();
        let OpenedStore { store, directory, opener, repaired, .. } = catalog;
        if let Some(collector) = &config.otlp {
            trace::start(collector, config.trace_sample, &identity.node.to_string())?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("loci-io")
            // Scripts of entries that others sent run there.
            .thread_stack_size(IO_STACK_BYTES)
            .event_interval(TASKS_PER_LOOK)
            .enable_all()
            .build()?;
        let shards = Shards::default();
        let links = Links::new(identity.cluster, shards.clone(), runtime.handle().clone());

        let budget = Arc::new(Budget::new(config.memory_bytes));
        let figures = Arc::new(LogFigures::default());
        let mailbox = Mailbox::new();
        let listeners = vec![(SHARD, mailbox.listener())];
        let (log, mut log_handles, log_opener) = LogThread::start(log, data.log(), figures.clone(), listeners)?;
        let log_handle = log_handles.remove(0);
        let beginning = Beginning {
            id: SHARD.0,
            replica,
            store,
            log: log_handle,
            budget: budget.clone(),
            clock: clock.clone(),
            outbox: Box::new({
                let links = links.clone();
                move |message| links.send(message)
            }),
            options: options.clone(),
            history: Some(data.shard(CATALOG)),
        };
        let shard = Shard::start(mailbox, beginning, directory)?;
        let handle = shard.handle();
        let files = data.shard(CATALOG);
        let receiving = Receiving::new(files.clone(), opener);
        shards.add(Served { handle: handle.clone(), files: files.clone(), receiving });
        let cluster = Cluster::new(
            (identity, run, advertise),
            handle.clone(),
            shards.clone(),
            links.clone(),
            config.replace_after,
        );
        let hosting = Hosting {
            folder: data.shards(),
            store: store_options,
            owner: options,
            budget: budget.clone(),
            clock: clock.clone(),
            links,
            cluster: cluster.clone(),
            runtime: runtime.handle().clone(),
        };
        let log_care = log_opener.care();
        let host = Arc::new(Host::new(hosting, log_opener));
        let starting = host.clone();
        let started = blocking(move || -> Result<Vec<String>, RunError> {
            let mut repaired: Vec<String> = repaired.into_iter().collect();
            for (id, state) in &others {
                repaired.extend(starting.start_known(*id, state, &addresses)?);
            }
            Ok(repaired)
        });
        let repaired = match started.await? {
            Ok(repaired) => repaired.join("; "),
            Err(error) => {
                // Nothing of it is to be left: neither the lock on the data, nor a runtime that may not be dropped here.
                shards.clear();
                drop((handle, cluster, log_care));
                let ended = blocking(move || {
                    host.stop();
                    shard.stop();
                    drop(host);
                    runtime.shutdown_background();
                });
                ended.await?;
                return Err(error);
            }
        };
        let search = SearchThreads::start()?;
        let residency_figures = Arc::new(ResidencyFigures::default());
        let (recall, samples) = Recall::new(config.recall_one_in);
        let walker = Arc::new(WalkerFigures::default());
        let idle = Idle::start(
            search.clone(),
            residency_figures.clone(),
            shards.clone(),
            (recall.clone(), samples),
            (config.walk_rate, walker.clone()),
        )?;
        let residency = Residency::start(shards.clone(), data.path(), budget.clone(), residency_figures.clone())?;
        let scrubbed = Arc::new(ScrubFigures::default());
        let scrub = Scrub::start(config.scrub_bytes_per_second, shards.clone(), log_care, scrubbed.clone())?;
        let metrics = Arc::new(Metrics::new());
        let watches = Watches::default();
        let status = Arc::new(NodeStatus::new(Parts {
            node: identity.node,
            started_millis: clock.now_millis(),
            shards: shards.clone(),
            log: figures.clone(),
            budget,
            search: search.clone(),
            recall: recall.clone(),
            walker,
            residency: residency_figures,
            scrub: scrubbed,
            transfers: cluster.transfers().clone(),
            forwarded: cluster.links().forwarded().clone(),
            watches: watches.clone(),
            repaired: !repaired.is_empty(),
            cluster: cluster.clone(),
        }));

        let gate = Gate::default();
        let calls = grpc::Calls {
            cluster: cluster.clone(),
            search: search.clone(),
            recall,
            gate: gate.clone(),
            watches: watches.clone(),
            scripts: config.scripts,
        };
        let pace = snapshot::Pace::new(config.snapshot_bytes_per_second);
        let peers = door::Door::new(calls.clone(), metrics.clone(), status.clone(), pace);
        let strangers = cluster.links().strangers().clone();
        runtime.spawn(arrival::watch(strangers, Asker::of(&identity, run), foreign));
        drop(greeter);
        let (health, is_not_serving, stop_server, server) = {
            let _inside = runtime.enter();
            start_server(listener, calls.clone(), peers, &metrics, &status)?
        };
        let (start_again, again) = watch::channel(false);
        runtime.spawn(repair::tend(cluster.clone(), data.path().to_owned(), figures.clone(), start_again));
        runtime.spawn(policy::run(cluster.clone()));
        runtime.spawn(agreement::run(cluster.clone(), files));
        runtime.spawn(arrival::keep_address(cluster.clone()));
        runtime.spawn(host.clone().follow_book());
        runtime.spawn(mirror::run(cluster.clone()));
        runtime.spawn(placement::look_after(cluster.clone()));
        runtime.spawn(repair::remember_peers(cluster.clone(), data.path().to_owned()));
        runtime.spawn(repair::note(cluster.clone(), repaired, figures));
        let endpoint = match metrics_listener {
            None => None,
            Some(listener) => {
                let _inside = runtime.enter();
                Some(Endpoint::start(listener, metrics.clone(), status.clone())?)
            }
        };
        let resp = match resp_listener {
            None => None,
            Some(listener) => {
                let (metrics, status) = (metrics.clone(), status.clone());
                let _inside = runtime.enter();
                Some(Resp::start(
                    listener,
                    resp::Parts { calls, metrics, status, eviction },
                    config.resp_options.clone(),
                )?)
            }
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node = %identity.node,
            cluster = %identity.cluster,
            member = identity.member,
            data = %data.path().display(),
            listen = %at,
            metrics = endpoint.as_ref().map(|endpoint| tracing::field::display(endpoint.address())),
            resp = resp.as_ref().map(|resp| tracing::field::display(resp.address())),
            memory_mib = config.memory_bytes >> 20,
            millis = begun.elapsed().as_millis() as u64,
            "started"
        );
        let (all, reporter, watched) = (shards.handles(), health.clone(), status.clone());
        let telling_health = runtime.spawn(async move {
            let _ = is_not_serving.await;
            for shard in &all {
                shard.ready().await;
            }
            let mut told = false;
            loop {
                let serves = watched.is_ready();
                if std::mem::replace(&mut told, serves) != serves {
                    let serving = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
                    set_health(&reporter, serving).await;
                }
                tokio::time::sleep(HEALTH_LOOK).await;
            }
        });
        let sockets = Sockets(Some(runtime));
        Ok(Node {
            address: at,
            sockets,
            stop_server,
            server,
            endpoint,
            resp,
            health,
            telling_health,
            shard,
            handle,
            host,
            cluster,
            log,
            search,
            idle,
            residency,
            scrub,
            again,
            metrics,
            status,
            data,
        })
    }

    /// Where clients connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are read, if anywhere.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(Endpoint::address)
    }

    /// Where clients of Redis connect, if anywhere.
    pub fn resp_addr(&self) -> Option<SocketAddr> {
        self.resp.as_ref().map(Resp::address)
    }

    /// What its doors have counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How it is doing.
    pub fn status(&self) -> &Arc<NodeStatus> {
        &self.status
    }

    /// What it says to others.
    #[cfg(test)]
    pub(crate) fn links(&self) -> &Links {
        self.cluster.links()
    }

    /// The shard that holds the catalog, for callers inside this process.
    pub fn shard(&self) -> &ShardHandle {
        &self.handle
    }

    /// Waits until it is to stop and start again, which most never see.
    pub async fn is_to_start_again(&self) {
        let mut again = self.again.clone();
        if again.wait_for(|again| *again).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until clients are served.
    pub async fn ready(&self) {
        for shard in self.cluster.shards().handles() {
            shard.ready().await;
        }
    }

    /// Stops: calls under way get [`DRAIN_TIME`], the state is made durable, the data directory is free again.
    pub async fn shutdown(self) -> Result<(), RunError> {
        let Node {
            sockets,
            stop_server,
            mut server,
            endpoint,
            resp,
            health,
            telling_health,
            shard,
            handle,
            host,
            cluster,
            log,
            search,
            idle: idling,
            residency,
            scrub,
            ..
        } = self;
        let Node { metrics, status, data, .. } = self;
        let begun = Instant::now();
        status.drain();
        status.watches().close();
        // Never after this: what is said last counts.
        telling_health.abort();
        let _ = telling_health.await;
        set_health(&health, ServingStatus::NotServing).await;
        let all = cluster.shards().handles();
        futures_util::future::join_all(all.into_iter().map(|shard| hand_over(cluster.of(shard)))).await;
        if let Some(resp) = &resp {
            resp.close();
        }
        let _ = stop_server.send(());
        // Streams that carry nothing, such as an idle pipeline, need not be waited for.
        let idle = async {
            while metrics.calls_under_way() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Answers that were just given want to be sent.
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        tokio::select! {
            _ = &mut server => {}
            () = idle => {}
            () = tokio::time::sleep(DRAIN_TIME) => {
                tracing::warn!(calls = metrics.calls_under_way(), "calls under way were cut off");
            }
        }
        let lanes = match resp {
            Some(resp) => resp.end().await,
            None => None,
        };
        let path = data.log();
        let closing = tokio::task::spawn_blocking(move || {
            if let Some(lanes) = lanes {
                lanes.stop();
            }
            idling.stop();
            residency.stop();
            scrub.stop();
            host.stop();
            shard.stop();
            cluster.shards().clear();
            drop((handle, cluster, host));
            search.stop();
            let closed = log.close();
            drop(endpoint);
            sockets.close();
            drop(data);
            closed
        });
        let closed = closing.await.map_err(std::io::Error::other)?;
        closed.map_err(|error| RunError::Log { path, error })?;
        tracing::info!(millis = begun.elapsed().as_millis() as u64, "stopped");
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}

/// Has another member lead, so that nobody has to wait for an election when this one is gone.
pub(crate) async fn hand_over(cluster: Cluster) {
    let (shard, me) = (cluster.shard(), cluster.me());
    let (Some(leader), Some(members)) = (shard.leader(), shard.members()) else { return };
    let voters = members.voters();
    if leader != me || voters == [me] {
        return;
    }
    let fit = shard
        .progress()
        .into_iter()
        .filter(|known| known.member != me && known.active && voters.contains(&known.member));
    let Some(next) = fit.max_by_key(|known| known.matched) else { return };
    match shard.transfer(next.member, Instant::now() + HAND_OVER_TIME).await {
        Ok(()) => tracing::info!(shard = shard.id(), member = next.member.0, "another member leads now"),
        Err(error) => {
            tracing::warn!(shard = shard.id(), %error, "no other member took the lead: an election will find one")
        }
    }
}

fn bind(option: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|error| RunError::Listen { option, address, error })
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in [""].into_iter().chain(SERVICES) {
        health.set_service_status(service, status).await;
    }
}

type Server = (HealthReporter, oneshot::Receiver<()>, oneshot::Sender<()>, JoinHandle<()>);

/// Starts answering on a socket; inside the runtime that is to do it.
fn start_server(
    listener: TcpListener,
    calls: grpc::Calls,
    peers: door::Door,
    metrics: &Arc<Metrics>,
    status: &Arc<NodeStatus>,
) -> std::io::Result<Server> {
    let peers = Arc::new(peers);
    let incoming = incoming::start(listener, peers.clone())?;
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(loci_wire::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let grpc::Services { records, cache, admin, changes, semantic } =
        grpc::services(calls, metrics.clone(), status.clone());
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .initial_stream_window_size(Some(STREAM_WINDOW_BYTES))
        .initial_connection_window_size(Some(CONNECTION_WINDOW_BYTES))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(std::io::Error::other)?)
        // What Python's and older tools ask for.
        .add_service(reflection().build_v1alpha().map_err(std::io::Error::other)?)
        .add_service(records)
        .add_service(cache)
        .add_service(admin)
        .add_service(changes)
        .add_service(semantic)
        .add_service(peers.service());
    let (stop, stopped) = oneshot::channel::<()>();
    let (not_serving, is_not_serving) = oneshot::channel::<()>();
    let reporter = health.clone();
    let server = tokio::spawn(async move {
        set_health(&reporter, ServingStatus::NotServing).await;
        // Nobody says that it serves before this: a shard can be ready sooner than this task runs.
        drop(not_serving);
        let stopped = async {
            let _ = stopped.await;
        };
        if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "the server ended");
        }
    });
    Ok((health, is_not_serving, stop, server))
}

/// What a node that is of a cluster answers those who ask who it is.
fn who(identity: &Identity, run: RunId, address: &str) -> v1::WhoReply {
    v1::WhoReply {
        cluster: identity.cluster.0.to_vec().into(),
        node: identity.node.0.to_vec().into(),
        member: identity.member,
        address: address.to_owned(),
        forming: Vec::new(),
        run: run.0.to_vec().into(),
    }
}

/// Whether a node may take part again, after who answered where it and the others may be: then where nodes of other clusters are.
fn admit(config: &Config, opened: &Opened, met: Vec<(String, Met)>) -> Result<Vec<(String, ClusterId)>, RunError> {
    let path = || config.data.clone();
    let mut foreign = Vec::new();
    for (address, met) in met {
        match met {
            Met::Twin => return Err(RunError::Twin { path: path(), twin: Twin { address } }),
            Met::Foreign(other) if opened.is_alone => {
                return Err(RunError::OtherCluster { path: path(), own: opened.identity.cluster, address, other });
            }
            Met::Foreign(other) => foreign.push((address, other)),
        }
    }
    Ok(foreign)
}

/// Everything of a node that is on its disk.
struct Opened {
    data: DataDirectory,
    identity: Identity,
    log: Log<FileDisk>,
    replica: Replica,
    catalog: OpenedStore,
    /// The other shards that the log knows.
    others: Vec<(u32, ShardState)>,
    /// Where other nodes may be.
    addresses: Vec<String>,
    /// Where the address book has this node, as far as its checkpoint goes.
    stood: Option<String>,
    /// It has never been with others.
    is_alone: bool,
    store_options: StoreOptions,
    options: OwnerOptions,
    clock: Arc<Clock>,
}

/// Opens what a locked data directory holds, or fills a new one: then `formed` says which node it is, and how it came to its
/// cluster.
fn open(config: &Config, mut data: DataDirectory, formed: Option<(NodeId, Formed)>) -> Result<Opened, RunError> {
    let begun = Instant::now();
    let clock = Arc::new(Clock::new());
    let log_path = data.log();
    let log_failed = |error| RunError::Log { path: log_path.clone(), error };
    let disk = FileDisk::open(&log_path).map_err(|error| RunError::Disk { path: log_path.clone(), error })?;
    loci_index::table::objects::keep_secret(u64::from_le_bytes(random_bytes()?));
    let secret = u32::from_le_bytes(random_bytes()?);
    let log_options = LogOptions { file_bytes: config.log_file_bytes, secret };
    let (mut log, recovered) = Log::open(disk, log_options).map_err(log_failed)?;

    let buffers_bytes_max = StoreOptions::default().buffers_bytes_max.min((config.memory_bytes / 8) as usize);
    let graph = GraphOptions { threads: config.graph_threads, ..GraphOptions::default() };
    let store_options = StoreOptions { buffers_bytes_max, graph, ..StoreOptions::default() };
    let path = data.shard(CATALOG);
    let mut addresses = repair::remembered(data.path());
    addresses.extend(config.join.iter().cloned());
    let remembers_others = !repair::remembered(data.path()).is_empty();
    let addresses: Vec<String> = addresses.into_iter().collect();
    let catalog = match &formed {
        Some((_, Formed::Found)) => {
            let members = Arc::new(Members::voting([MemberId(FOUNDER)]).expect("one member can vote"));
            log.append(&founding(SHARD, &members)).and_then(|()| log.sync()).map_err(log_failed)?;
            make_store(&path, &store_options, random_bytes()?, FOUNDING_INDEX)?
        }
        Some((_, Formed::Joined { .. })) => open_store(&path, &store_options, None)?,
        None => {
            let (identity, state) = (data.identity(), log.shard(SHARD));
            let known = identity.as_ref().zip(state.as_ref());
            let care = known.map(|(identity, state)| Care { identity, shard: CATALOG, state, addresses: &addresses });
            open_store(&path, &store_options, care)?
        }
    };
    let behind = catalog.catching_up(SHARD)(log.shard(SHARD).as_ref());
    if !behind.is_empty() {
        log.append(&behind).and_then(|()| log.sync()).map_err(log_failed)?;
    }
    let identity = match (data.identity(), formed) {
        (Some(identity), _) => identity,
        (None, formed) => {
            let created_millis = clock.now_millis();
            let identity = match formed {
                Some((node, Formed::Joined { cluster, member, .. })) => {
                    Identity { node, created_millis, cluster, member }
                }
                Some((node, Formed::Found)) => {
                    Identity { node, created_millis, cluster: ClusterId(random_bytes()?), member: FOUNDER }
                }
                None => unreachable!("a directory without an identity is filled by a node that was formed"),
            };
            data.complete(identity)?;
            let (node, cluster, member) = (identity.node, identity.cluster, identity.member);
            tracing::info!(%node, %cluster, member, data = %config.data.display(), "made a new data directory");
            identity
        }
    };

    let not_in_log = || RunError::NotInLog { path: config.data.clone(), shard: SHARD.0 };
    let state = log.shard(SHARD).ok_or_else(not_in_log)?;
    let reader = log.reader(SHARD).ok_or_else(not_in_log)?;
    let applied = LogIndex(catalog.store.applied());
    let me = MemberId(identity.member);
    let replica_options = ReplicaOptions { shard: SHARD, me, applied, seed: u64::from_le_bytes(random_bytes()?) };
    let replica = Replica::restore(replica_options, &state, reader)
        .map_err(|error| RunError::Mismatch { path: config.data.clone(), error })?;
    if let Some(cut) = &recovered.cut {
        let (file, offset) = (&cut.file, cut.offset);
        tracing::info!(file, offset, "the log was not closed: it ends here, what lies beyond was never acknowledged");
    }
    tracing::info!(
        clean = recovered.clean,
        files = recovered.files,
        log_bytes = recovered.bytes,
        checkpoint = applied.0,
        last = state.last.0,
        millis = begun.elapsed().as_millis() as u64,
        "opened the data"
    );
    let checkpoint_bytes = (CHECKPOINT_FILES * config.log_file_bytes).clamp(CHECKPOINT_BYTES_MIN, CHECKPOINT_BYTES_MAX);
    let options = OwnerOptions {
        checkpoint_bytes,
        buffers_bytes_max,
        kept_bytes: KEPT_FILES * config.log_file_bytes,
        log_path: log_path.display().to_string(),
        eviction: Arc::new(ArcSwap::from_pointee(Room { policy: config.eviction_policy, namespace: None })),
        siblings: Siblings::default(),
        history_bytes: config.watch_history_bytes,
        gathering: GATHERING,
    };
    let stood = book::find(&catalog.store.view(), me).map(|line| line.address);
    let is_alone = !remembers_others && !repair::has_others(&state, me);
    let others = recovered.shards.keys().filter(|shard| **shard != SHARD);
    let others = others.filter_map(|shard| Some((shard.0, log.shard(*shard)?))).collect();
    Ok(Opened {
        data,
        identity,
        log,
        replica,
        catalog,
        others,
        addresses,
        stood,
        is_alone,
        store_options,
        options,
        clock,
    })
}

/// A runtime that may be dropped anywhere.
struct Sockets(Option<Runtime>);

impl Sockets {
    /// Ends every task; waits a moment for those that are running.
    fn close(mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

mod serving;
#[cfg(test)]
mod tests;
