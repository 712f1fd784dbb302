//! Metrics: what a node tells Prometheus about itself.
//!
//! ```text
//!   doors --under_way(), observe()--> counters and histograms, no locks
//!   GET /metrics --> sampled: asks shards, log, memory and process at that moment, keeps nothing
//! ```
//!
//! Every metric stands in docs/metrics.md; a test compares. Labels have few values: methods, status codes, shards, and
//! the [`COLLECTIONS_MAX`] collections with the most records.

mod endpoint;
mod latencies;
mod redis;
mod sampled;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tonic::Code;

pub use endpoint::Endpoint;
pub use latencies::Latencies;
pub use redis::Redis;
pub use sampled::COLLECTIONS_MAX;

use crate::status::NodeStatus;

/// The methods that are counted apart; others are counted as the last.
const METHODS: [&str; 24] = [
    "put",
    "get",
    "delete",
    "batch",
    "scan",
    "scan_stream",
    "count",
    "search",
    "watch",
    "route",
    "execute",
    "semantic_put",
    "semantic_get",
    "semantic_drop",
    "create_namespace",
    "list_namespaces",
    "drop_namespace",
    "create_collection",
    "describe_collection",
    "list_collections",
    "alter_collection",
    "drop_collection",
    "stats",
    "other",
];
const CODES: usize = 17;

/// What the doors count.
#[derive(Debug, Default)]
pub struct Metrics {
    under_way: AtomicI64,
    redis: Redis,
    methods: [Method; METHODS.len()],
    semantic: [AtomicU64; SEMANTIC.len()],
}

/// What a look into a semantic cache found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Semantic {
    /// An answer.
    Hit,
    /// A question that is nearly near enough.
    NearMiss,
    /// Nothing near.
    Miss,
}

const SEMANTIC: [&str; 3] = ["hit", "near_miss", "miss"];

#[derive(Debug, Default)]
struct Method {
    codes: [AtomicU64; CODES],
    seconds: Latencies,
}

/// A call that is under way until this is dropped.
#[derive(Debug)]
pub struct UnderWay<'m>(&'m AtomicI64);

/// The same, for whoever cannot borrow.
pub struct UnderWayOwned(Arc<Metrics>);

impl Drop for UnderWayOwned {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// What the door for clients of Redis counts.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Counts a call as under way.
    pub fn under_way_owned(self: &Arc<Metrics>) -> UnderWayOwned {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWayOwned(Arc::clone(self))
    }

    /// A call begins; it ends when this is dropped.
    pub fn under_way(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(&self.under_way)
    }

    /// How many calls are under way.
    pub fn calls_under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }

    /// Counts an answered call.
    pub fn observe(&self, method: &str, code: Code, took: Duration) {
        let place = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        let Method { codes, seconds } = &self.methods[place];
        if let Some(count) = codes.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        seconds.observe(took);
    }

    /// Counts what a look into a semantic cache found.
    pub fn semantic(&self, found: Semantic) {
        self.semantic[found as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often each was found.
    fn semantics(&self) -> [(&'static str, u64); SEMANTIC.len()] {
        std::array::from_fn(|at| (SEMANTIC[at], self.semantic[at].load(Ordering::Relaxed)))
    }

    /// How many calls of a method were answered.
    pub fn answered(&self, method: &str) -> u64 {
        self.methods().find(|(known, _)| *known == method).map_or(0, |(_, counts)| counts.seconds.count())
    }

    fn methods(&self) -> impl Iterator<Item = (&'static str, &Method)> {
        METHODS.into_iter().zip(&self.methods).filter(|(_, method)| method.seconds.count() > 0)
    }
}

impl Method {
    fn codes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.codes.iter().map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().filter(|(_, count)| *count > 0).map(|(code, count)| (code_name(code as i32), count))
    }
}

/// As the gRPC protocol writes it.
fn code_name(code: i32) -> &'static str {
    match Code::from(code) {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// All metrics as text, in the OpenMetrics format.
pub fn render(metrics: &Arc<Metrics>, status: &Arc<NodeStatus>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sampled::Sampled::new(metrics.clone(), status.clone())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a string does not fail");
    text
}
