//! How a node is to run: checked once, so that no code past this point has to.
//!
//! | option | default | |
//! |---|---|---|
//! | `--config` | none | a file with these options, see [`config_file`](crate::config_file) |
//! | `--data` | (required) | the data directory |
//! | `--listen` | 127.0.0.1:7700 | gRPC |
//! | `--metrics` | 127.0.0.1:7701 | Prometheus, `/live`, `/ready`; or `off` |
//! | `--resp` | off | clients of Redis; or `off` |
//! | `--resp-namespace` | redis | where their databases are |
//! | `--resp-password-file` | none | a file with the password that they need |
//! | `--resp-connections` | 10000 | the most of them at a time |
//! | `--resp-threads` | half of the processors | so many threads serve them |
//! | `--resp-maxmemory-mib` | 0 | what their databases may take together; 0: as much as there is |
//! | `--resp-maxmemory-policy` | none | which of their keys make room then, and over budgets of their own; `noeviction`: writes are refused |
//! | `--resp-durability` | synced | when writes to databases are answered that are made from now on; or `buffered` |
//! | `--resp-cluster` | off | tell them which node leads which keys, as a Redis Cluster does |
//! | `--eviction-policy` | s3-fifo | which keys make room in collections with a budget and without a policy of their own |
//! | `--no-scripts` | no | refuses scripts and functions, at every door |
//! | `--advertise` | as `--listen` | where other nodes reach this one |
//! | `--join` | none | the addresses of other nodes: form or join a cluster at the first start |
//! | `--insecure` | no | allows addresses that other machines reach |
//! | `--memory-mib` | half of the machine's | the budget for buffers, queues, merges, and what is in memory of segments |
//! | `--recall-one-in` | 1000 | one of so many searches is run again, exactly; 0: none |
//! | `--walk-rate` | 100 | so many records a second are searched for by their own embedding; 0: none |
//! | `--graph-threads` | as many as processors | so many threads link graphs, at low priority |
//! | `--snapshot-mib-per-second` | 0: as fast as they can | how fast snapshots leave the node |
//! | `--scrub-mib-per-second` | 8 | how fast files are read to be compared with their checksums; 0: never |
//! | `--replace-after-seconds` | 300 | a node that is silent for so long loses its members of shards that are on some nodes only |
//! | `--log-file-mib` | 64 | size of one file of the log |
//! | `--watch-history-mib` | 10 | what the newest entries changed is kept so long for watchers, a shard; 0: no watches |
//! | `--otlp`, `--trace-sample` | none, 0.01 | where spans go, and of which share of calls |
//! | `--log-format`, `--log-level` | text, info | the lines on stderr |

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use loci_index::command::Durability;
use loci_index::store::check_name;
use loci_index::table::eviction::Policy;
use tracing_subscriber::EnvFilter;

use crate::cluster::{book, placement};
use crate::doors::resp;

/// Where clients connect unless told otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7700";
/// Where metrics are read unless told otherwise.
pub const METRICS_DEFAULT: &str = "127.0.0.1:7701";
const OFF: &str = "off";
const RESP_NAMESPACE_DEFAULT: &str = "redis";
const RESP_CONNECTIONS_DEFAULT: u32 = 10_000;
const RESP_DURABILITY_DEFAULT: &str = "synced";
const EVICTION_POLICY_DEFAULT: &str = "s3-fifo";
const RECALL_ONE_IN_DEFAULT: u32 = 1_000;
const WALK_RATE_DEFAULT: u32 = 100;
const SCRUB_MIB_PER_SECOND_DEFAULT: u64 = 8;
const REPLACE_AFTER_SECONDS_DEFAULT: u64 = placement::REPLACE_AFTER.as_secs();
const REPLACE_AFTER_SECONDS_MAX: u64 = 30 * 24 * 3600;
const LOG_FILE_MIB_DEFAULT: u64 = 64;
const WATCH_HISTORY_MIB_DEFAULT: u64 = 10;
const TRACE_SAMPLE_DEFAULT: f64 = 0.01;
const LOG_FILE_MIB_MAX: u64 = 1024;
const WATCH_HISTORY_MIB_MAX: u64 = 4096;
const MEMORY_MIB_MIN: u64 = 64;
/// Assumed when the machine does not tell what it has.
const MEMORY_BYTES_FALLBACK: u64 = 2 << 30;

/// The options of `loci serve`, as typed.
#[derive(clap::Args, Debug, Clone)]
pub struct ServeArgs {
    /// A TOML file with a key for every option, of the same name: memory-mib = 4096. What is typed wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory of this node. Made if it is missing; one process at a time uses it.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address for clients (gRPC). Port 0 takes a free one; standard output says which.
    #[arg(long, value_name = "IP:PORT", default_value = LISTEN_DEFAULT)]
    pub listen: String,
    /// Where other nodes of the cluster reach this one, if that is not what it listens on: a container's or host's name.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Other nodes of the cluster, as they advertise themselves. At its first start a node that one of them answers joins
    /// their cluster; nodes that are all new and were all told the same addresses form one. Later starts need it no more.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub join: Vec<String>,
    /// Address for Prometheus (/metrics) and probes (/live, /ready), or "off".
    #[arg(long, value_name = "IP:PORT|off", default_value = METRICS_DEFAULT)]
    pub metrics: String,
    /// Address for clients of Redis (RESP), such as 127.0.0.1:6379, or "off".
    #[arg(long, value_name = "IP:PORT|off", default_value = OFF)]
    pub resp: String,
    /// The namespace that holds the databases of Redis' clients, each a collection: db0 to db15.
    #[arg(long, value_name = "NAME", default_value = RESP_NAMESPACE_DEFAULT)]
    pub resp_namespace: String,
    /// A file whose first line is the password that clients of Redis must give. Without one only programs on this machine may
    /// connect.
    #[arg(long, value_name = "FILE")]
    pub resp_password_file: Option<PathBuf>,
    /// The most connections of Redis' clients.
    #[arg(long, value_name = "CONNECTIONS", default_value_t = RESP_CONNECTIONS_DEFAULT)]
    pub resp_connections: u32,
    /// So many threads serve the connections of Redis' clients. [default: half as many as there are processors]
    #[arg(long, value_name = "THREADS")]
    pub resp_threads: Option<u32>,
    /// The most memory that the databases of Redis' clients may take together, in MiB. When it is used up, the next option says
    /// what happens. 0: as much as there is.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub resp_maxmemory_mib: u64,
    /// Which keys make room then, and in databases over an eviction budget of their own: s3-fifo, or as Redis calls it: allkeys-lru,
    /// allkeys-lfu, allkeys-random, volatile-lru, volatile-lfu, volatile-random, volatile-ttl; noeviction: none, writes are refused.
    /// Unless it is given, a budget of their own goes by --eviction-policy, and writes that all databases together have no room for
    /// are refused. Databases with a policy of their own (`loci collection alter --eviction-policy`) go by that.
    #[arg(long, value_name = "POLICY")]
    pub resp_maxmemory_policy: Option<String>,
    /// When writes to databases that are made from now on are answered: synced, or buffered: once they are in the hands of the
    /// operating system, which a power cut takes back for the last tenth of a second. Nodes with others in their cluster sync
    /// them all the same. `loci collection alter --durability` changes it later.
    #[arg(long, value_name = "WHEN", default_value = RESP_DURABILITY_DEFAULT)]
    pub resp_durability: String,
    /// Tell clients of Redis which node leads which keys (MOVED, CLUSTER SLOTS), as a Redis Cluster does, for clients of one. On all
    /// nodes or on none.
    #[arg(long)]
    pub resp_cluster: bool,
    /// Which typed values make room in collections that have an eviction budget of their own, and no policy; the same names, or lru,
    /// lfu, random, ttl, none.
    #[arg(long, value_name = "POLICY", default_value = EVICTION_POLICY_DEFAULT)]
    pub eviction_policy: String,
    /// Refuse to run scripts and functions, and to take new ones in: EVAL, FCALL, SCRIPT LOAD, FUNCTION LOAD and their like, from
    /// clients of Redis and by gRPC. On all nodes or on none.
    #[arg(long)]
    pub no_scripts: bool,
    /// Allow addresses that other machines can reach, although nothing is encrypted and nobody is asked who they are.
    #[arg(long)]
    pub insecure: bool,
    /// Memory for buffers, tables and queues, in MiB. When it is used up, writes other than deletions are refused. What they
    /// leave is for segments: those that do not fit are read from the disk as they are needed.
    /// [default: half of what the machine or container has]
    #[arg(long, value_name = "MIB")]
    pub memory_mib: Option<u64>,
    /// One of so many searches is run again, exactly and when there is nothing better to do, to know what share of the
    /// nearest records is found (metric loci_collection_recall). 0: none.
    #[arg(long, value_name = "SEARCHES", default_value_t = RECALL_ONE_IN_DEFAULT)]
    pub recall_one_in: u32,
    /// So many records a second are searched for by their own embedding, and linked anew if they are not found. 0: none.
    #[arg(long, value_name = "RECORDS", default_value_t = WALK_RATE_DEFAULT)]
    pub walk_rate: u32,
    /// So many threads link graphs in the background, at low priority. [default: as many as there are processors]
    #[arg(long, value_name = "THREADS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub graph_threads: Option<u32>,
    /// Snapshots for members that join or fell far behind leave this node no faster than this, all together. 0: as fast as they
    /// can.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub snapshot_mib_per_second: u64,
    /// All files of the node's shards are read again and again, no faster than this, and compared with their checksums; 8 MiB a
    /// second are 675 GiB a day. 0: never while the node runs.
    #[arg(long, value_name = "MIB", default_value_t = SCRUB_MIB_PER_SECOND_DEFAULT)]
    pub scrub_mib_per_second: u64,
    /// A node that does not answer for so long loses its votes, and its members of shards that are on some nodes only (`loci namespace create
    /// --replicas`): other nodes get them, if there are any. The same on every node.
    #[arg(long, value_name = "SECONDS", default_value_t = REPLACE_AFTER_SECONDS_DEFAULT)]
    pub replace_after_seconds: u64,
    /// Size of one file of the log, in MiB. Smaller ones suit small disks.
    #[arg(long, value_name = "MIB", default_value_t = LOG_FILE_MIB_DEFAULT)]
    pub log_file_mib: u64,
    /// So much of what the newest entries changed is kept for watches, in MiB for each shard: how far back one can go on. A
    /// change takes 2 bytes and its key, an entry 12 more. 0: nothing can be watched.
    #[arg(long, value_name = "MIB", default_value_t = WATCH_HISTORY_MIB_DEFAULT)]
    pub watch_history_mib: u64,
    /// Where spans go: a collector that speaks OTLP over gRPC, such as the OpenTelemetry Collector, Jaeger or Tempo. Without one
    /// nothing is traced.
    #[arg(long, value_name = "http://HOST:PORT")]
    pub otlp: Option<String>,
    /// The share of calls that are traced for which the caller has not decided, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = TRACE_SAMPLE_DEFAULT)]
    pub trace_sample: f64,
    /// Form of the lines on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Which lines: error, warn, info, debug or trace; or by module, as in "info,loci_node=debug".
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// The form of the lines on standard error.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How a node is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Where clients connect; port 0: any free one.
    pub listen: SocketAddr,
    /// Where other nodes reach this one; none: where it listens.
    pub advertise: Option<String>,
    /// Whom to form or join a cluster with at the first start.
    pub join: Vec<String>,
    /// Where metrics are read, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Where clients of Redis connect, if anywhere; port 0: any free one.
    pub resp: Option<SocketAddr>,
    /// How that door is to be.
    pub resp_options: resp::Options,
    /// How collections with a budget of their own make room.
    pub eviction_policy: Policy,
    /// Whether scripts and functions run that clients bring along.
    pub scripts: bool,
    /// The memory budget.
    pub memory_bytes: u64,
    /// One of so many searches is run again, exactly; zero: none.
    pub recall_one_in: u32,
    /// So many records a second are searched for by their own embedding; zero: none.
    pub walk_rate: u32,
    /// So many threads link graphs.
    pub graph_threads: usize,
    /// So many bytes of snapshots leave in a second; none: as many as can.
    pub snapshot_bytes_per_second: Option<u64>,
    /// So many bytes of files are compared with their checksums in a second; zero: none.
    pub scrub_bytes_per_second: u64,
    /// How long a node may be silent until others get its members of shards that are on some nodes only.
    pub replace_after: Duration,
    /// The size of one file of the log.
    pub log_file_bytes: u64,
    /// So many bytes of what the newest entries changed are kept for watches, for each shard.
    pub watch_history_bytes: usize,
    /// Where spans go, if anywhere.
    pub otlp: Option<String>,
    /// The share of calls that are traced for which the caller has not decided.
    pub trace_sample: f64,
    /// The form of the lines on standard error.
    pub log_format: LogFormat,
    /// Which lines: a filter that has been checked.
    pub log_level: String,
}

/// Why options are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not an address.
    #[error("{option}: {value:?} is not an address: give IP:PORT, such as {LISTEN_DEFAULT}")]
    NotAnAddress {
        /// Which option.
        option: &'static str,
        /// What was typed.
        value: String,
    },
    /// Not the address of another node.
    #[error("{option}: {value:?} is not an address of a node: give HOST:PORT, such as loci-0.loci:7700")]
    NotAHost {
        /// Which option.
        option: &'static str,
        /// What was typed.
        value: String,
    },
    /// Nobody else can reach an address that stands for all of a machine's.
    #[error("--listen {0} says nothing about where other nodes reach this one: add --advertise HOST:PORT")]
    NoAdvertise(SocketAddr),
    /// Other machines could connect.
    #[error(
        "{option}: other machines can reach {address}, where nothing is encrypted and nobody is asked who they are: \
         use a loopback address such as 127.0.0.1:{}, or add --insecure if the network itself is private", address.port()
    )]
    Exposed {
        /// Which option.
        option: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Clients and metrics at one address.
    #[error("--listen and --metrics are both {0}: give them different ports, or --metrics off")]
    SameAddress(SocketAddr),
    /// Two doors at one address.
    #[error("--resp and {other} are both {address}: give them different ports, or --resp off")]
    SameRespAddress {
        /// The other door.
        other: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// Writes are answered at no such time.
    #[error("--resp-durability: {0:?} is neither synced nor buffered")]
    NotADurability(String),
    /// There is no such policy.
    #[error("{option}: {value:?} is none of {}", Policy::names().collect::<Vec<_>>().join(", "))]
    NotAPolicy {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
    },
    /// Not a namespace for users.
    #[error("--resp-namespace: {0:?} is no name of a namespace, or is the cluster's own")]
    NotANamespace(String),
    /// No password in its file.
    #[error("--resp-password-file: {}: {reason}", path.display())]
    NoPassword {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A number out of its range.
    #[error("{option}: {value} is not from {min} to {max}")]
    OutOfRange {
        /// Which option.
        option: &'static str,
        /// What was typed.
        value: u64,
        /// The least there may be.
        min: u64,
        /// The most there may be.
        max: u64,
    },
    /// Not a collector's address.
    #[error("--otlp: {0:?} is not the address of a collector: give http://HOST:PORT, such as http://127.0.0.1:4317")]
    NotACollector(String),
    /// Not a share.
    #[error("--trace-sample: {0} is not from 0 to 1")]
    NotAShare(String),
    /// Not a level or filter.
    #[error("--log-level: {value:?} is neither a level (error, warn, info, debug, trace) nor a filter: {reason}")]
    NotALevel {
        /// What was typed.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An empty path.
    #[error("--data: give the path of a directory")]
    NoData,
}

impl Config {
    /// Checks everything once.
    pub fn from_args(args: ServeArgs) -> Result<Config, ConfigError> {
        if args.data.as_os_str().is_empty() {
            return Err(ConfigError::NoData);
        }
        let listen = address("--listen", &args.listen, args.insecure)?;
        for (option, value) in args
            .advertise
            .iter()
            .map(|value| ("--advertise", value))
            .chain(args.join.iter().map(|value| ("--join", value)))
        {
            if !is_host_and_port(value) {
                return Err(ConfigError::NotAHost { option, value: value.clone() });
            }
        }
        if args.advertise.is_none() && listen.ip().is_unspecified() && !args.join.is_empty() {
            return Err(ConfigError::NoAdvertise(listen));
        }
        let metrics = match args.metrics.as_str() {
            OFF => None,
            metrics => Some(address("--metrics", metrics, args.insecure)?),
        };
        if metrics == Some(listen) && listen.port() != 0 {
            return Err(ConfigError::SameAddress(listen));
        }
        let resp = match args.resp.as_str() {
            OFF => None,
            resp => Some(address("--resp", resp, args.insecure)?),
        };
        for (other, address) in [("--listen", Some(listen)), ("--metrics", metrics)] {
            if let (Some(resp), Some(address)) = (resp, address)
                && resp == address
                && resp.port() != 0
            {
                return Err(ConfigError::SameRespAddress { other, address });
            }
        }
        if check_name(&args.resp_namespace).is_err() || args.resp_namespace == book::NAMESPACE {
            return Err(ConfigError::NotANamespace(args.resp_namespace));
        }
        let connections = in_range("--resp-connections", args.resp_connections.into(), 1, 1 << 20)?;
        let password = args.resp_password_file.map(|path| password_in(&path)).transpose()?;
        let threads = match args.resp_threads {
            Some(threads) => in_range("--resp-threads", threads.into(), 1, 1024)? as usize,
            None => resp::threads_default(),
        };
        let eviction_policy = policy("--eviction-policy", &args.eviction_policy)?;
        let given = args.resp_maxmemory_policy.as_deref();
        let maxmemory_policy = given.map(|given| policy("--resp-maxmemory-policy", given)).transpose()?;
        let resp_options = resp::Options {
            namespace: args.resp_namespace,
            connections_max: connections as usize,
            threads,
            password,
            maxmemory_bytes: in_range("--resp-maxmemory-mib", args.resp_maxmemory_mib, 0, u64::MAX >> 20)? << 20,
            maxmemory_policy,
            durability: durability(&args.resp_durability)?,
            cluster: args.resp_cluster,
        };
        let memory_bytes = match args.memory_mib {
            Some(mib) => in_range("--memory-mib", mib, MEMORY_MIB_MIN, u64::MAX >> 20)? << 20,
            None => (machine_memory().unwrap_or(2 * MEMORY_BYTES_FALLBACK) / 2).max(MEMORY_MIB_MIN << 20),
        };
        let pace = in_range("--snapshot-mib-per-second", args.snapshot_mib_per_second, 0, u64::MAX >> 20)?;
        let snapshot_bytes_per_second = (pace > 0).then_some(pace << 20);
        let scrub = in_range("--scrub-mib-per-second", args.scrub_mib_per_second, 0, u64::MAX >> 20)?;
        let silent = in_range("--replace-after-seconds", args.replace_after_seconds, 1, REPLACE_AFTER_SECONDS_MAX)?;
        let replace_after = Duration::from_secs(silent);
        let watch_history_bytes =
            (in_range("--watch-history-mib", args.watch_history_mib, 0, WATCH_HISTORY_MIB_MAX)? << 20) as usize;
        let log_file_bytes = in_range("--log-file-mib", args.log_file_mib, 1, LOG_FILE_MIB_MAX)? << 20;
        if let Some(collector) = &args.otlp
            && !collector.strip_prefix("http://").is_some_and(is_host_and_port)
        {
            return Err(ConfigError::NotACollector(collector.clone()));
        }
        if !(0.0..=1.0).contains(&args.trace_sample) {
            return Err(ConfigError::NotAShare(args.trace_sample.to_string()));
        }
        if let Err(error) = EnvFilter::try_new(&args.log_level) {
            return Err(ConfigError::NotALevel { value: args.log_level, reason: error.to_string() });
        }
        Ok(Config {
            data: args.data,
            listen,
            advertise: args.advertise,
            join: args.join,
            metrics,
            resp,
            resp_options,
            eviction_policy,
            scripts: !args.no_scripts,
            memory_bytes,
            recall_one_in: args.recall_one_in,
            walk_rate: args.walk_rate,
            graph_threads: args.graph_threads.map_or_else(processors, |threads| threads as usize),
            snapshot_bytes_per_second,
            scrub_bytes_per_second: scrub << 20,
            replace_after,
            log_file_bytes,
            watch_history_bytes,
            otlp: args.otlp,
            trace_sample: args.trace_sample,
            log_format: args.log_format,
            log_level: args.log_level,
        })
    }

    /// For a node inside another program: free loopback ports, small log files, otherwise the defaults.
    pub fn local(data: impl Into<PathBuf>) -> Config {
        Config {
            data: data.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: None,
            join: Vec::new(),
            metrics: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            resp: None,
            resp_options: resp::Options::default(),
            eviction_policy: Policy::default(),
            scripts: true,
            memory_bytes: machine_memory().unwrap_or(2 * MEMORY_BYTES_FALLBACK) / 2,
            recall_one_in: RECALL_ONE_IN_DEFAULT,
            walk_rate: WALK_RATE_DEFAULT,
            graph_threads: processors(),
            snapshot_bytes_per_second: None,
            scrub_bytes_per_second: SCRUB_MIB_PER_SECOND_DEFAULT << 20,
            replace_after: placement::REPLACE_AFTER,
            log_file_bytes: 4 << 20,
            watch_history_bytes: (WATCH_HISTORY_MIB_DEFAULT as usize) << 20,
            otlp: None,
            trace_sample: TRACE_SAMPLE_DEFAULT,
            log_format: LogFormat::Text,
            log_level: "info".into(),
        }
    }
}

/// The first line of a file.
fn password_in(path: &Path) -> Result<String, ConfigError> {
    let failed = |reason: String| ConfigError::NoPassword { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(failed("its first line is empty: it is to be the password".into())),
    }
}

fn address(option: &'static str, value: &str, insecure: bool) -> Result<SocketAddr, ConfigError> {
    let literal = match value.strip_prefix("localhost:") {
        Some(port) => &format!("127.0.0.1:{port}"),
        None => value,
    };
    let Ok(address) = literal.parse::<SocketAddr>() else {
        return Err(ConfigError::NotAnAddress { option, value: value.into() });
    };
    if address.ip().is_loopback() || insecure { Ok(address) } else { Err(ConfigError::Exposed { option, address }) }
}

/// Whether other nodes could be reached there.
pub(crate) fn is_host_and_port(value: &str) -> bool {
    let Some((host, port)) = value.rsplit_once(':') else { return false };
    if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return false;
    }
    let named = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    !host.is_empty() && host.chars().all(named) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn policy(option: &'static str, value: &str) -> Result<Policy, ConfigError> {
    Policy::called(value).ok_or_else(|| ConfigError::NotAPolicy { option, value: value.into() })
}

fn durability(value: &str) -> Result<Durability, ConfigError> {
    match value {
        "synced" => Ok(Durability::Synced),
        "buffered" => Ok(Durability::Buffered),
        _ => Err(ConfigError::NotADurability(value.into())),
    }
}

fn in_range(option: &'static str, value: u64, min: u64, max: u64) -> Result<u64, ConfigError> {
    if (min..=max).contains(&value) { Ok(value) } else { Err(ConfigError::OutOfRange { option, value, min, max }) }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The memory of the machine, or what the container may use of it if that is less.
fn machine_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    Some(limit.map_or(total, |limit| limit.min(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> ServeArgs {
        ServeArgs {
            config: None,
            data: "data".into(),
            listen: LISTEN_DEFAULT.into(),
            advertise: None,
            join: Vec::new(),
            metrics: METRICS_DEFAULT.into(),
            resp: OFF.into(),
            resp_namespace: RESP_NAMESPACE_DEFAULT.into(),
            resp_password_file: None,
            resp_connections: RESP_CONNECTIONS_DEFAULT,
            resp_threads: None,
            resp_maxmemory_mib: 0,
            resp_maxmemory_policy: None,
            resp_durability: RESP_DURABILITY_DEFAULT.into(),
            resp_cluster: false,
            eviction_policy: EVICTION_POLICY_DEFAULT.into(),
            no_scripts: false,
            insecure: false,
            memory_mib: Some(512),
            recall_one_in: RECALL_ONE_IN_DEFAULT,
            walk_rate: WALK_RATE_DEFAULT,
            graph_threads: None,
            snapshot_mib_per_second: 0,
            scrub_mib_per_second: SCRUB_MIB_PER_SECOND_DEFAULT,
            replace_after_seconds: REPLACE_AFTER_SECONDS_DEFAULT,
            log_file_mib: LOG_FILE_MIB_DEFAULT,
            watch_history_mib: WATCH_HISTORY_MIB_DEFAULT,
            otlp: None,
            trace_sample: TRACE_SAMPLE_DEFAULT,
            log_format: LogFormat::Text,
            log_level: "info".into(),
        }
    }

    #[test]
    fn the_defaults_are_a_node_that_only_this_machine_reaches() {
        let config = Config::from_args(args()).unwrap();
        assert!(config.listen.ip().is_loopback() && config.listen.port() == 7700);
        assert_eq!(config.metrics, Some("127.0.0.1:7701".parse().unwrap()));
        assert_eq!(config.memory_bytes, 512 << 20);
        assert_eq!(config.log_file_bytes, 64 << 20);
        let config = Config::from_args(ServeArgs { memory_mib: None, ..args() }).unwrap();
        assert!(config.memory_bytes >= MEMORY_MIB_MIN << 20);
    }

    #[test]
    fn every_refused_option_is_named_with_what_to_do() {
        type Change = fn(&mut ServeArgs);
        let table: &[(Change, &str)] = &[
            (|args| args.data = "".into(), "--data: give the path"),
            (|args| args.listen = "7700".into(), "--listen: \"7700\" is not an address"),
            (|args| args.listen = "example.org:7700".into(), "--listen: \"example.org:7700\" is not"),
            (|args| args.listen = "0.0.0.0:7700".into(), "--listen: other machines can reach 0.0.0.0:7700"),
            (|args| args.listen = "[::]:7700".into(), "or add --insecure"),
            (|args| args.metrics = "10.0.0.1:9".into(), "--metrics: other machines"),
            (|args| args.metrics = "on".into(), "--metrics: \"on\" is not an address"),
            (|args| args.metrics = args.listen.clone(), "both 127.0.0.1:7700"),
            (|args| args.resp = "6379".into(), "--resp: \"6379\" is not an address"),
            (|args| args.resp = "0.0.0.0:6379".into(), "--resp: other machines"),
            (|args| args.resp = args.listen.clone(), "--resp and --listen are both 127.0.0.1:7700"),
            (|args| args.resp = args.metrics.clone(), "--resp and --metrics are both 127.0.0.1:7701"),
            (|args| args.resp_namespace = "_loci".into(), "--resp-namespace: \"_loci\""),
            (|args| args.resp_namespace = "a/b".into(), "--resp-namespace: \"a/b\""),
            (|args| args.resp_connections = 0, "--resp-connections: 0 is not from 1"),
            (|args| args.resp_threads = Some(0), "--resp-threads: 0 is not from 1"),
            (
                |args| args.eviction_policy = "best".into(),
                "--eviction-policy: \"best\" is none of s3-fifo, allkeys-lru",
            ),
            (|args| args.resp_maxmemory_policy = Some("best".into()), "--resp-maxmemory-policy: \"best\" is none of"),
            (|args| args.resp_durability = "always".into(), "--resp-durability: \"always\" is neither"),
            (
                |args| args.resp_password_file = Some("/nonexistent".into()),
                "--resp-password-file: /nonexistent: No such file",
            ),
            (|args| args.memory_mib = Some(1), "--memory-mib: 1 is not from 64"),
            (|args| args.memory_mib = Some(u64::MAX), "--memory-mib"),
            (|args| args.log_file_mib = 0, "--log-file-mib: 0 is not from 1 to 1024"),
            (|args| args.log_file_mib = 4096, "--log-file-mib: 4096"),
            (
                |args| args.otlp = Some("127.0.0.1:4317".into()),
                "--otlp: \"127.0.0.1:4317\" is not the address of a collector",
            ),
            (|args| args.otlp = Some("https://collector:4317".into()), "--otlp"),
            (|args| args.trace_sample = 1.5, "--trace-sample: 1.5 is not from 0 to 1"),
            (|args| args.trace_sample = f64::NAN, "--trace-sample"),
            (|args| args.log_level = "loci=loud".into(), "--log-level: \"loci=loud\""),
        ];
        for (change, expected) in table {
            let mut args = args();
            change(&mut args);
            let message = Config::from_args(args).unwrap_err().to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_taken() {
        let table: &[fn(&mut ServeArgs)] = &[
            |args| args.listen = "localhost:7700".into(),
            |args| args.listen = "[::1]:7700".into(),
            |args| args.listen = "127.0.0.1:0".into(),
            |args| args.metrics = OFF.into(),
            |args| args.resp = "127.0.0.1:6379".into(),
            |args| (args.listen, args.metrics) = ("127.0.0.1:0".into(), "127.0.0.1:0".into()),
            |args| (args.listen, args.insecure) = ("0.0.0.0:7700".into(), true),
            |args| args.log_level = "warn,loci_node=debug".into(),
            |args| (args.otlp, args.trace_sample) = (Some("http://collector.example.org:4317".into()), 1.0),
        ];
        for (row, change) in table.iter().enumerate() {
            let mut args = args();
            change(&mut args);
            Config::from_args(args).unwrap_or_else(|error| panic!("row {row}: {error}"));
        }
    }
}
