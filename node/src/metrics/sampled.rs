//! Everything that is measured at the moment somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use loci_index::record::CollectionId;
use loci_index::table::Table;
use loci_index::view::CollectionStats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{Latencies, Metrics};
use crate::cpu_time::process_cpu_nanos;
use crate::status::NodeStatus;

/// So many collections, those with the most records, have metrics of their own.
pub const COLLECTIONS_MAX: usize = 100;

const ROLES: [&str; 3] = ["leader", "follower", "candidate"];

#[derive(Debug)]
pub(super) struct Sampled {
    metrics: Arc<Metrics>,
    status: Arc<NodeStatus>,
}

impl Sampled {
    pub fn new(metrics: Arc<Metrics>, status: Arc<NodeStatus>) -> Sampled {
        Sampled { metrics, status }
    }
}

impl Collector for Sampled {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder };
        self.calls(&mut page)?;
        self.shards(&mut page)?;
        self.members(&mut page)?;
        self.snapshots(&mut page)?;
        self.scrub(&mut page)?;
        self.watches(&mut page)?;
        self.semantic(&mut page)?;
        self.collections(&mut page)?;
        self.redis(&mut page)?;
        self.log(&mut page)?;
        self.process(&mut page)
    }
}

impl Sampled {
    fn calls(&self, page: &mut Page<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        let answered = metrics.methods().flat_map(|(method, counts)| {
            counts.codes().map(move |(code, count)| ([("door", "grpc"), ("method", method), ("code", code)], count))
        });
        page.counters("loci_requests", "Calls answered, by method and gRPC status code", answered)?;
        let seconds = metrics.methods().map(|(method, counts)| ([("method", method)], &counts.seconds));
        page.histograms("loci_request_seconds", "How long calls took", seconds)?;
        page.gauge("loci_requests_under_way", "Calls being answered", metrics.calls_under_way())?;
        let forwarded = self.status.forwarded().counts().map(|(what, count)| ([("what", what)], count));
        page.counters("loci_calls_forwarded", "What other nodes were asked to do", forwarded.into_iter())?;
        let search = self.status.search();
        page.gauge("loci_searches_queued", "Works waiting for a search thread", search.queued() as u64)?;
        page.gauge("loci_searches_running", "Works on the search threads", search.running() as u64)?;
        let nanos = search.search_cpu_nanos();
        page.seconds("loci_search_cpu_seconds", "Processor time of finding what searches ask for", nanos)
    }

    fn shards(&self, page: &mut Page<'_>) -> fmt::Result {
        let shards = self.status.shards();
        let rows: Vec<_> = shards
            .iter()
            .map(|shard| {
                let view = shard.newest();
                (shard.id().to_string(), shard.status(), view.stats(), view.clock())
            })
            .collect();
        macro_rules! each {
            ($kind:ident $name:literal $help:literal $row:ident => $value:expr) => {
                page.$kind($name, $help, rows.iter().map(|$row| ([("shard", &*$row.0)], $value)))?;
            };
        }
        each!(gauges "loci_shard_ready" "Whether the shard answers" row => u64::from(row.1.ready));
        each!(gauges "loci_shard_leader" "Whether this node leads the shard" row => u64::from(row.1.role == "leader"));
        each!(gauges "loci_shard_term" "The raft term" row => row.1.term);
        let roles = rows.iter().flat_map(|row| {
            ROLES.iter().map(|role| ([("shard", &*row.0), ("role", role)], u64::from(row.1.role == *role)))
        });
        page.gauges("loci_shard_role", "Whether this is the member's role in the shard", roles)?;
        each!(counters "loci_shard_elections" "Elections that this member began" row => row.1.elections);
        each!(counters "loci_shard_leader_changes" "How often another member led than before" row => row.1.leader_changes);
        each!(gauges "loci_shard_commit_index" "The last entry known to be committed" row => row.1.committed);
        each!(gauges "loci_shard_unapplied_entries" "Entries committed and not yet applied"
            row => row.1.committed.saturating_sub(row.1.applied));
        each!(gauges "loci_shard_applied_index" "The last applied entry" row => row.1.applied);
        each!(gauges "loci_shard_checkpoint_index" "The entry up to which the log is not needed" row => row.1.checkpoint);
        each!(gauges "loci_shard_checkpoint_seconds" "When the last checkpoint since the start ended, unix time; 0: none"
            row => row.1.checkpoint_at_millis / 1000);
        each!(gauges "loci_shard_clock_seconds" "The clock of the last applied entry, unix time" row => row.3 / 1000);
        each!(gauges "loci_shard_queued_writes" "Writes not yet answered" row => row.1.queued);
        each!(gauges "loci_shard_queued_bytes" "Bytes of writes not yet answered" row => row.1.queued_bytes);
        each!(counters "loci_shard_checkpoints" "Checkpoints made" row => row.1.checkpoints);
        each!(counters "loci_shard_merges" "Merges of segments made" row => row.1.merges);
        each!(counters "loci_shard_jobs_failed" "Checkpoints and merges that failed and were tried again" row => row.1.jobs_failed);
        each!(gauges "loci_shard_records" "Records" row => row.2.records);
        each!(gauges "loci_shard_collections" "Collections" row => row.2.collections);
        each!(gauges "loci_shard_remembered_requests" "Requests whose outcome is remembered" row => row.2.requests);
        each!(gauges "loci_shard_remembered_request_bytes" "Bytes they take" row => row.2.request_bytes);
        each!(counters "loci_shard_requests_evicted" "Remembered requests forgotten early" row => row.2.requests_evicted);
        Ok(())
    }

    fn semantic(&self, page: &mut Page<'_>) -> fmt::Result {
        let found = self.metrics.semantics();
        let found = found.iter().map(|(result, count)| ([("result", *result)], *count));
        page.counters("loci_semantic_gets", "Looks into semantic caches, by what they found", found)
    }

    fn watches(&self, page: &mut Page<'_>) -> fmt::Result {
        let watches = self.status.watches();
        page.gauge("loci_watchers", "Watches under way", watches.watchers())?;
        page.counter("loci_watch_events", "Changes told to watchers", watches.events())?;
        let cuts = watches.cuts();
        let cuts = cuts.iter().map(|(reason, count)| ([("reason", *reason)], *count));
        page.counters("loci_watch_cut_off", "Watches ended because they were too slow", cuts)?;
        let rows: Vec<_> = self.status.shards().iter().map(|shard| (shard.id().to_string(), shard.clone())).collect();
        let each = || rows.iter().map(|(id, shard)| ([("shard", &**id)], shard.history()));
        let bytes = each().map(|(labels, history)| (labels, history.bytes() as u64));
        page.gauges("loci_watch_history_bytes", "What is kept of the newest changes", bytes)?;
        let since = each().map(|(labels, history)| (labels, history.since()));
        page.gauges("loci_watch_history_since", "The entry after which all changes are kept", since)
    }

    /// What the leader knows of the others.
    fn members(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut rows = Vec::new();
        for shard in self.status.shards() {
            let status = shard.status();
            let leader = shard.leader().filter(|_| status.role == "leader");
            let others = shard.progress().into_iter().filter(|known| leader.is_some_and(|own| own != known.member));
            rows.extend(others.map(|known| {
                let lag = status.committed.saturating_sub(known.matched);
                (shard.id().to_string(), known.member.to_string(), lag, known.active)
            }));
        }
        let each = || rows.iter().map(|row| ([("shard", &*row.0), ("member", &*row.1)], row));
        let lags = each().map(|(labels, row)| (labels, row.2));
        page.gauges("loci_shard_member_lag_entries", "At the leader: committed entries that a member has not", lags)?;
        let active = each().map(|(labels, row)| (labels, u64::from(row.3)));
        page.gauges("loci_shard_member_active", "At the leader: whether a member was heard of lately", active)
    }

    fn snapshots(&self, page: &mut Page<'_>) -> fmt::Result {
        let transfers = self.status.transfers();
        let totals: Vec<_> = transfers
            .totals()
            .into_iter()
            .map(|((shard, way), totals)| (shard.to_string(), way.name(), totals))
            .collect();
        let each = || totals.iter().map(|(shard, way, totals)| ([("shard", &**shard), ("direction", *way)], totals));
        let whole = each().map(|(labels, totals)| (labels, totals.whole));
        page.counters("loci_snapshots", "Snapshots sent to and received from other members, whole", whole)?;
        let bytes = each().map(|(labels, totals)| (labels, totals.bytes));
        page.counters("loci_snapshot_bytes", "Bytes of snapshots sent and received", bytes)?;
        let under_way: Vec<_> = transfers
            .under_way()
            .into_iter()
            .map(|one| (one.shard.to_string(), one.direction.name(), one.member.to_string(), one))
            .collect();
        let each = || {
            let labels = |shard, way, member| [("shard", shard), ("direction", way), ("member", member)];
            under_way.iter().map(move |(shard, way, member, one)| (labels(&**shard, *way, &**member), one))
        };
        let bytes = each().map(|(labels, one)| (labels, one.bytes));
        page.gauges("loci_snapshot_under_way_bytes", "Bytes of a snapshot under way that have gone or come", bytes)?;
        let total = each().map(|(labels, one)| (labels, one.bytes_total));
        page.gauges("loci_snapshot_under_way_total_bytes", "Of how many", total)
    }

    fn scrub(&self, page: &mut Page<'_>) -> fmt::Result {
        let scrub = self.status.scrub();
        page.counter("loci_scrub_bytes", "Bytes read to be compared with their checksums", scrub.bytes())?;
        page.counter("loci_scrub_files", "Files found sound by that", scrub.files())?;
        page.counter("loci_scrub_rounds", "How often all files were read", scrub.rounds())?;
        let shards = self.status.shards();
        let rows: Vec<_> = shards.iter().map(|shard| (shard.id().to_string(), shard)).collect();
        let known = rows.iter().map(|(id, shard)| ([("shard", &**id)], shard.damages().len() as u64));
        page.gauges("loci_scrub_damaged_files", "Damaged files whose records only others have", known)?;
        let found = rows.iter().flat_map(|(id, shard)| {
            shard.damage_counts().map(|(by, count)| ([("shard", &**id), ("found_by", by)], count))
        });
        page.counters("loci_scrub_damage_found", "Damaged files found while the node runs", found)
    }

    fn collections(&self, page: &mut Page<'_>) -> fmt::Result {
        let views: Vec<_> = self.status.shards().iter().map(|shard| shard.newest()).collect();
        // Under the same number in every shard that has it.
        let mut all: BTreeMap<CollectionId, (&str, &str, CollectionStats)> = BTreeMap::new();
        for collection in views.iter().flat_map(|view| view.collections()) {
            let stats = collection.stats();
            match all.get_mut(&collection.id()) {
                Some((_, _, sum)) => sum.add(stats),
                None => drop(all.insert(collection.id(), (collection.namespace(), collection.name(), stats))),
            }
        }
        let mut rows: Vec<_> = all.into_values().collect();
        rows.sort_by_key(|(namespace, name, stats)| (std::cmp::Reverse(stats.records), *namespace, *name));
        rows.truncate(COLLECTIONS_MAX);
        macro_rules! each {
            ($name:literal $help:literal $stats:ident => $value:expr) => {
                page.gauges(
                    $name,
                    $help,
                    rows.iter()
                        .map(|(namespace, name, $stats)| ([("namespace", *namespace), ("collection", *name)], $value)),
                )?;
            };
        }
        each!("loci_collection_records" "Records" stats => stats.records);
        each!("loci_collection_bytes" "Bytes of keys, values, attributes and embeddings" stats => stats.bytes);
        each!("loci_collection_buffer_rows" "Versions in memory" stats => stats.buffer_rows);
        each!("loci_collection_memory_bytes" "Heap bytes" stats => stats.memory_bytes);
        each!("loci_collection_disk_bytes" "Bytes of segments"
            stats => stats.segments.iter().map(|segment| segment.bytes).sum());
        each!("loci_collection_segments" "Segments" stats => stats.segments.len() as u64);
        each!("loci_collection_graph_segments" "Segments with a graph"
            stats => stats.segments.iter().filter(|segment| segment.graph).count() as u64);
        each!("loci_collection_unmerged_deletes" "Versions in segments that have ended and wait for a merge"
            stats => stats.segments.iter().map(|segment| segment.ended).sum());
        let tables: Vec<_> = views
            .iter()
            .flat_map(|view| view.collections())
            .filter_map(|collection| {
                Some((collection.namespace(), collection.name(), table_stats(collection.table()?)))
            })
            .take(COLLECTIONS_MAX)
            .collect();
        for (name, help, value) in TABLES {
            let rows = tables
                .iter()
                .map(|(namespace, name, stats)| ([("namespace", *namespace), ("collection", *name)], value(stats)));
            match name {
                "loci_table_keys" | "loci_table_bytes" => page.gauges(name, help, rows)?,
                _ => page.counters(name, help, rows)?,
            }
        }
        let ids: Vec<_> = rows.iter().map(|(namespace, name, stats)| (*namespace, *name, stats.id)).collect();
        self.quality(page, &ids)
    }

    /// The door for clients of Redis.
    fn redis(&self, page: &mut Page<'_>) -> fmt::Result {
        let redis = self.metrics.redis();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let open = redis.connections.load(Ordering::Relaxed).max(0) as u64;
        page.gauge("loci_redis_connections", "Open connections of clients of Redis", open)?;
        page.counter("loci_redis_connections_accepted", "Connections let in", load(&redis.accepted))?;
        page.counter("loci_redis_connections_rejected", "Connections turned away", load(&redis.rejected))?;
        page.counter("loci_redis_groups", "Commands of the log with light writes", load(&redis.gathered))?;
        page.counter("loci_redis_grouped_batches", "Clients' batches in them", load(&redis.gathered_parts))?;
        let failed = redis.groups().map(|(name, group)| ([("group", name)], load(&group.failed)));
        page.counters("loci_redis_errors", "Commands answered with an error, by group", failed)?;
        let seconds = redis.groups().map(|(name, group)| ([("group", name)], &group.seconds));
        page.histograms("loci_redis_command_seconds", "How long commands took, by group", seconds)
    }

    /// What is known of how much is found.
    fn quality(&self, page: &mut Page<'_>, collections: &[(&str, &str, CollectionId)]) -> fmt::Result {
        let (recall, walker) = (self.status.recall(), self.status.walker());
        let each = || {
            collections.iter().map(|(namespace, name, id)| ([("namespace", *namespace), ("collection", *name)], *id))
        };
        let known = each().filter_map(|(labels, id)| Some((labels, recall.known(id).recall()?)));
        page.ratios("loci_collection_recall", "Share of the nearest that searches found, of the last sampled", known)?;
        let samples = each().map(|(labels, id)| (labels, recall.known(id).samples));
        page.counters("loci_collection_recall_samples", "Searches run again exactly", samples)?;
        let dropped = recall.dropped().map(|(reason, count)| ([("reason", reason)], count));
        page.counters("loci_recall_dropped", "Sampled searches not run again", dropped)?;
        let walked: Vec<_> = each().map(|(labels, id)| (labels, walker.walked(id))).collect();
        let rows = || walked.iter().copied();
        let checked = rows().map(|(labels, walked)| (labels, walked.checked));
        page.counters("loci_collection_walk_checked", "Embeddings searched for by themselves", checked)?;
        let unfound = rows().map(|(labels, walked)| (labels, walked.unfound));
        page.counters("loci_collection_walk_unfound", "Of these, not found", unfound)?;
        let relinks = rows().map(|(labels, walked)| (labels, walked.relinks));
        page.counters("loci_collection_walk_relinks", "Segments linked anew for that", relinks)?;
        page.counter("loci_walk_rounds", "How often all graphs were walked through", walker.rounds())
    }

    fn log(&self, page: &mut Page<'_>) -> fmt::Result {
        let figures = self.status.log();
        let stats = figures.stats();
        page.counter("loci_log_syncs", "Syncs of the log", stats.syncs)?;
        page.counter("loci_log_written_bytes", "Bytes appended to the log", stats.bytes_written)?;
        let sync_seconds = [([("disk", "log")], &figures.sync_seconds)];
        page.histograms(
            "loci_log_sync_seconds",
            "How long writing and syncing a batch took",
            sync_seconds.into_iter(),
        )?;
        page.gauge("loci_log_bytes", "Bytes of the log's files", stats.bytes)?;
        page.gauge("loci_log_files", "Files of the log in use", stats.files as u64)?;
        page.gauge("loci_log_spare_files", "Files of the log ready for use", stats.spares as u64)?;
        let damaged = figures.damaged().len() as u64;
        page.gauge("loci_log_damaged_files", "Files of the log that are damaged and still needed", damaged)?;
        page.counter("loci_log_damage_found", "Files of the log found damaged while it ran", figures.damage_found())?;
        page.gauge("loci_log_full", "Whether the disk under the log is full", u64::from(figures.is_full()))
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let budget = self.status.budget();
        page.gauge(
            "loci_memory_bytes",
            "Heap bytes of stores, queues, and running checkpoints and merges",
            budget.used(),
        )?;
        page.gauge("loci_memory_budget_bytes", "How many there may be", budget.bytes())?;
        let repaired = u64::from(self.status.repaired());
        page.gauge("loci_store_repaired", "Whether a damaged store was fetched anew at the start", repaired)?;
        let unled = self.status.unled() as u64;
        page.gauge("loci_shards_unled", "Shards that nobody leads, as far as this node knows", unled)?;
        let strangers = self.status.strangers().count() as u64;
        page.gauge("loci_strangers", "Addresses of the cluster at which somebody else answers", strangers)?;
        let residency = self.status.residency();
        page.gauge("loci_mapped_bytes", "Bytes of all segments", residency.mapped_bytes())?;
        page.gauge("loci_mapped_resident_bytes", "How many of them are in memory", residency.resident_bytes())?;
        let kept = residency.state() as u64;
        page.gauge("loci_mapped_state", "Kept in memory of segments: 0 all, 1 what searches walk on, 2 nothing", kept)?;
        let build = [("version", env!("CARGO_PKG_VERSION")), ("node", self.status.node())];
        page.gauges("loci_build_info", "Always 1: the version and the node's id are in the labels", [(build, 1)])?;
        page.gauge(
            "process_start_time_seconds",
            "When the process started, unix time",
            self.status.started_millis() / 1000,
        )?;
        page.seconds("process_cpu_seconds", "Processor time of the process", process_cpu_nanos())?;
        if let Some(bytes) = resident_bytes() {
            page.gauge("process_resident_memory_bytes", "Memory of the process, mapped files included", bytes)?;
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // Reading them opens one.
            page.gauge("process_open_fds", "Open file descriptors", files.count().saturating_sub(1) as u64)?;
        }
        Ok(())
    }
}

/// The typed values of a collection: keys, bytes, hits, misses, evicted and expired keys.
struct TableStats([u64; 6]);

type OfTable = fn(&TableStats) -> u64;

const TABLES: [(&str, &str, OfTable); 6] = [
    ("loci_table_keys", "Keys with typed values", |stats| stats.0[0]),
    ("loci_table_bytes", "Bytes of memory that they take", |stats| stats.0[1]),
    ("loci_table_hits", "Keys that reads looked for and found", |stats| stats.0[2]),
    ("loci_table_misses", "Keys that reads looked for and did not find", |stats| stats.0[3]),
    ("loci_table_evicted_keys", "Keys that made room for others", |stats| stats.0[4]),
    ("loci_table_expired_keys", "Keys that expired", |stats| stats.0[5]),
];

fn table_stats(table: &Table) -> TableStats {
    let lookups = table.lookups();
    table.read(|keyspace| {
        let (keys, bytes) = (keyspace.len() as u64, keyspace.memory_bytes() as u64);
        TableStats([keys, bytes, lookups.hits, lookups.misses, keyspace.evicted(), keyspace.expired()])
    })
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    resident.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Where metrics are written down, one after the other.
struct Page<'e> {
    encoder: DescriptorEncoder<'e>,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
    }

    /// A counter of seconds, given in nanoseconds.
    fn seconds(&mut self, name: &str, help: &str, nanos: u64) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, f64, u64>(&(nanos as f64 / 1e9), None)
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'static str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    fn ratios<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'static str, &'l str); N], f64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        mut rows: impl Iterator<Item = ([(&'static str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        rows.try_for_each(|(labels, value)| {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)
        })
    }

    fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        mut rows: impl Iterator<Item = ([(&'static str, &'l str); N], &'l Latencies)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        rows.try_for_each(|(labels, latencies)| latencies.encode(metric.encode_family(&labels)?))
    }
}
