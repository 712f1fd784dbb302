//! How the node is doing: one place that stats, metrics and probes ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use loci_wire::v1;

use crate::cluster::Cluster;
use crate::cluster::links::Forwarded;
use crate::cluster::strangers::Strangers;
use crate::cluster::transfers::Transfers;
use crate::cpu_time::process_cpu_nanos;
use crate::identity::NodeId;
use crate::idle::recall::Recall;
use crate::idle::walker::WalkerFigures;
use crate::log_thread::LogFigures;
use crate::memory::Budget;
use crate::residency::ResidencyFigures;
use crate::scrub::ScrubFigures;
use crate::search_threads::SearchThreads;
use crate::shard::ShardHandle;
use crate::shards::{CATALOG, Shards};
use crate::watches::Watches;

/// Everything that can be asked about a running node.
pub struct NodeStatus {
    node: String,
    started: Instant,
    started_millis: u64,
    shards: Shards,
    log: Arc<LogFigures>,
    budget: Arc<Budget>,
    search: SearchThreads,
    recall: Arc<Recall>,
    walker: Arc<WalkerFigures>,
    residency: Arc<ResidencyFigures>,
    scrub: Arc<ScrubFigures>,
    transfers: Transfers,
    forwarded: Arc<Forwarded>,
    at_start: Vec<ShardHandle>,
    watches: Watches,
    repaired: bool,
    cluster: Cluster,
    draining: AtomicBool,
}

/// What is asked.
pub(crate) struct Parts {
    pub node: NodeId,
    pub started_millis: u64,
    pub shards: Shards,
    pub log: Arc<LogFigures>,
    pub budget: Arc<Budget>,
    pub search: SearchThreads,
    pub recall: Arc<Recall>,
    pub walker: Arc<WalkerFigures>,
    pub residency: Arc<ResidencyFigures>,
    pub scrub: Arc<ScrubFigures>,
    pub transfers: Transfers,
    pub forwarded: Arc<Forwarded>,
    pub watches: Watches,
    pub repaired: bool,
    pub cluster: Cluster,
}

impl NodeStatus {
    /// Of a node that has just started.
    pub(crate) fn new(parts: Parts) -> NodeStatus {
        let Parts { node, started_millis, shards, log, budget, search, recall, walker, residency, .. } = parts;
        let Parts { scrub, transfers, forwarded, watches, repaired, cluster, .. } = parts;
        NodeStatus {
            node: node.to_string(),
            started: Instant::now(),
            started_millis,
            at_start: shards.handles(),
            shards,
            log,
            budget,
            search,
            recall,
            walker,
            residency,
            scrub,
            transfers,
            forwarded,
            watches,
            repaired,
            cluster,
            draining: AtomicBool::new(false),
        }
    }

    /// The node's id, 32 hexadecimal digits.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// When it started: milliseconds since 1970.
    pub fn started_millis(&self) -> u64 {
        self.started_millis
    }

    /// Its shards.
    pub fn shards(&self) -> Vec<ShardHandle> {
        self.shards.handles()
    }

    /// Its log.
    pub fn log(&self) -> &LogFigures {
        &self.log
    }

    /// Its memory.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Its search threads.
    pub fn search(&self) -> &SearchThreads {
        &self.search
    }

    /// What is known of how much is found.
    pub fn recall(&self) -> &Recall {
        &self.recall
    }

    /// What the walker has seen.
    pub fn walker(&self) -> &WalkerFigures {
        &self.walker
    }

    /// Who watches.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// What is in memory of the segments.
    pub fn residency(&self) -> &ResidencyFigures {
        &self.residency
    }

    /// How much this node had other nodes do.
    pub fn forwarded(&self) -> &Forwarded {
        &self.forwarded
    }

    /// What was read to be compared with its checksums.
    pub fn scrub(&self) -> &ScrubFigures {
        &self.scrub
    }

    /// How far snapshots have come.
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// Whether a store was damaged and fetched anew when the node started.
    pub fn repaired(&self) -> bool {
        self.repaired
    }

    /// Who answers at addresses of the cluster and should not.
    pub fn strangers(&self) -> &Strangers {
        self.cluster.links().strangers()
    }

    /// How many shards with records of some namespace nobody leads, as far as this node knows.
    pub fn unled(&self) -> usize {
        self.cluster.unled()
    }

    /// The node is about to stop: new clients should go elsewhere.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the shards that were there at the start have answered, the one that holds the catalog does, each that is out of
    /// service here is answered for by others, and the node is not about to stop. Shards that come later are waited for by those
    /// who make them.
    pub fn is_ready(&self) -> bool {
        let catalog = || self.shards.handle(CATALOG).is_some_and(|catalog| catalog.is_ready());
        let started = self.at_start.iter().all(ShardHandle::has_been_ready);
        let answered = || self.shards.handles().iter().all(ShardHandle::is_answered_for);
        started && !self.draining.load(Ordering::Relaxed) && catalog() && answered()
    }

    /// The answer to `Stats`.
    pub fn reply(&self) -> v1::StatsReply {
        let log = self.log.stats();
        v1::StatsReply {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_millis: self.started.elapsed().as_millis() as u64,
            node: self.node.clone(),
            shards: self.shards().iter().map(shard_stats).collect(),
            log_bytes: log.bytes,
            log_files: log.files as u64,
            log_syncs: log.syncs,
            memory_bytes: self.budget.used(),
            memory_budget_bytes: self.budget.bytes(),
            cpu_nanos: process_cpu_nanos(),
            search_cpu_nanos: self.search.search_cpu_nanos(),
        }
    }
}

fn shard_stats(shard: &ShardHandle) -> v1::ShardStats {
    let view = shard.newest();
    let status = shard.status();
    let stats = view.stats();
    v1::ShardStats {
        shard: status.shard,
        role: status.role.into(),
        term: status.term,
        applied: view.index(),
        checkpoint: status.checkpoint,
        clock_millis: view.clock(),
        digest: stats.digest.to_vec().into(),
        chain_head: stats.chain_head.to_vec().into(),
        records: stats.records,
        collections: stats.collections,
        requests: stats.requests,
        request_bytes: stats.request_bytes,
        requests_evicted: stats.requests_evicted,
        queued: status.queued,
    }
}

impl std::fmt::Debug for NodeStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeStatus({}, {:?})", self.node, self.shards)
    }
}
