//! Why a node does not run, and what to do about it.

use std::net::SocketAddr;
use std::path::PathBuf;

use loci_index::directory::DirectoryError;
use loci_index::store::StoreError;
use loci_raft::{LogError, RestoreError};

use crate::cluster::arrival::Twin;
use crate::config::ConfigError;
use crate::identity::{ClusterId, DataError};
use crate::shards::CATALOG;
use crate::trace::TraceError;

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The options are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An address cannot be had.
    #[error("{option}: cannot listen on {address}: {error}; another node may be running there: choose another port")]
    Listen {
        /// Which option.
        option: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The log cannot be opened.
    #[error("log in {path}: {error}{}{}", source(error), advice(error))]
    Log {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        error: LogError,
    },
    /// The log's directory cannot be used.
    #[error("log in {path}: {error}")]
    Disk {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The log knows nothing of the shard.
    #[error(
        "the log holds nothing of shard {shard} in {path}: it is not this node's log; restore the data directory from a copy"
    )]
    NotInLog {
        /// Where the data are.
        path: PathBuf,
        /// Of what.
        shard: u32,
    },
    /// What the address book says of a shard makes no sense.
    #[error("shard {shard}: the address book (namespace _loci, collection shards) is damaged: {what}")]
    Book {
        /// Which.
        shard: u32,
        /// What is wrong.
        what: String,
    },
    /// The data are of another cluster than the nodes that were named.
    #[error(
        "{path} is of cluster {own}, but {address} of cluster {other}: give the right --data or the right --join, or an empty \
         directory to join cluster {other}"
    )]
    OtherCluster {
        /// The data directory.
        path: PathBuf,
        /// Its cluster.
        own: ClusterId,
        /// Who was named.
        address: String,
        /// That one's cluster.
        other: ClusterId,
    },
    /// The data are a copy of those of a node that runs.
    #[error("{path}: {twin}")]
    Twin {
        /// The data directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        twin: Twin,
    },
    /// Other members found that the store is not what theirs are.
    #[error(
        "store in {path}: {why}; remove this member from the cluster, and start its node with an empty data directory"
    )]
    Diverged {
        /// Where it is.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The store cannot be opened.
    #[error("store in {path}: {error}")]
    Store {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        error: StoreError,
    },
    /// The store is damaged, and nobody is known who has another.
    #[error(
        "store in {path}: {error}; to fetch it from another node of the cluster, give the address of one: --join HOST:PORT"
    )]
    NobodyToAsk {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        error: StoreError,
    },
    /// The store is damaged, and nobody gives this node another: it has no part in the shard any more.
    #[error("store in {path}: it is damaged, and this node has left shard {shard}: {why}{}", if *shard == CATALOG { REMOVED } else { "" })]
    Left {
        /// Where it is.
        path: PathBuf,
        /// Which.
        shard: u32,
        /// Who says so.
        why: String,
    },
    /// The store's directory cannot be used.
    #[error("store in {path}: {error}")]
    Directory {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        error: DirectoryError,
    },
    /// Log and store do not fit each other.
    #[error("{path}: {error}")]
    Mismatch {
        /// The data directory.
        path: PathBuf,
        /// How they do not.
        error: RestoreError,
    },
    /// Spans cannot be exported.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// No thread, or no runtime.
    #[error("cannot start threads: {0}; raise the limit of processes or threads")]
    Threads(#[from] std::io::Error),
}

/// What helps a node that was removed from its cluster.
const REMOVED: &str =
    "; the node was removed from the cluster: start it with an empty data directory and --join, as a new member";

impl RunError {
    /// For the process: 2 if other options are needed, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, RunError::Config(_)) { 2 } else { 1 }
    }
}

fn source(error: &LogError) -> String {
    std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default()
}

/// A member that may have forgotten what it promised must not vote again under its number: see [`repair`].
fn advice(error: &LogError) -> &'static str {
    match error {
        LogError::Damaged { .. } | LogError::Missing { .. } | LogError::MissingEntries { .. } => {
            "; what this member has promised the others is in there: of several nodes, remove it with `loci cluster remove MEMBER` and \
             start it with an empty data directory and --join, as a new member"
        }
        _ => "",
    }
}
