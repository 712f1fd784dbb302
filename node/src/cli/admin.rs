//! `ping`, `namespace`, `collection`, `stats`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use loci_client::{
    Alteration, Codes, Description, Durability, EmbeddingSpec, EvictionPolicy, Index, IndexKind, Language, Metric,
    NodeStats, Schema, Storage, TextSpec,
};
use serde_json::{Value as Json, json};

use super::connect::{Connection, bytes_count, duration};
use super::failure::Failure;
use super::output::{Rows, bytes_size, grouped, print, print_json, time_shown};

#[derive(Debug, Args)]
pub struct PingArgs {
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
pub enum NamespaceCommand {
    /// Make a namespace.
    Create {
        /// Its name.
        name: String,
        /// Spread its records over so many shards by their keys, 1 to 64, which different nodes may lead. Records in different
        /// shards cannot be written together. Without it they are in the shard that holds the catalog. Cannot change later.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        shards: u32,
        /// Keep each of its shards on so many nodes only: 1, 3 or 5. They are spread over the nodes, and move when nodes come, are
        /// drained, or are silent for long. Without it every node has all of them, and that cannot change later. Needs --shards.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        replicas: u32,
        /// Do not fail if it is there already.
        #[arg(long)]
        if_absent: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// List all namespaces.
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Change on how many nodes each shard of a namespace is, of one that was made with --replicas, and wait until all are. Members
    /// come or go one at a time, while it is read and written.
    Replicas {
        /// Its name.
        name: String,
        /// 1, 3 or 5, and not more than there are nodes.
        count: u32,
        /// How long to wait until they are; 0s: not at all.
        #[arg(long, value_parser = duration, default_value = "10m")]
        wait: Duration,
        #[command(flatten)]
        connection: Connection,
    },
    /// Remove a namespace with all its collections and records.
    Drop {
        /// Its name.
        name: String,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Subcommand)]
pub enum CollectionCommand {
    /// Make a collection.
    Create {
        /// Its name.
        name: String,
        /// An embedding: DIMENSION[:METRIC] or NAME:DIMENSION[:METRIC], with cosine, dot or l2. May be given up to 16 times.
        /// With :f16 after it components are kept in half the bytes; with :uncoded it is searched by them alone.
        #[arg(long = "embedding", value_name = "SPEC", value_parser = embedding_spec)]
        embeddings: Vec<EmbeddingSpec>,
        /// Answer filters on this attribute from an index: PATH, or PATH:substring where texts that contain something
        /// are looked for. May be given up to 64 times.
        #[arg(long = "index", value_name = "PATH", value_parser = index_spec)]
        indexes: Vec<Index>,
        /// A sparse embedding's name. May be given up to 16 times.
        #[arg(long, value_name = "NAME")]
        sparse: Vec<String>,
        /// An attribute to be searched by its words: PATH, or PATH:english to reduce words to their stems. May be given up
        /// to 16 times.
        #[arg(long = "text", value_name = "PATH", value_parser = text_spec)]
        texts: Vec<TextSpec>,
        #[command(flatten)]
        rules: Rules,
        /// Do not fail if one with the same embeddings is there already.
        #[arg(long)]
        if_absent: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// List the collections of the namespace.
    List {
        /// Of all namespaces.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show a collection's rules and what it holds.
    Describe {
        /// Its name.
        name: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Change a collection's rules. Embeddings cannot change.
    Alter {
        /// Its name.
        name: String,
        /// Add an index, or change its kind: PATH or PATH:substring. May be given again and again.
        #[arg(long = "add-index", value_name = "PATH", value_parser = index_spec)]
        add_indexes: Vec<Index>,
        /// Remove an index. May be given again and again.
        #[arg(long = "remove-index", value_name = "PATH")]
        remove_indexes: Vec<String>,
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        connection: Connection,
    },
    /// Remove a collection with all its records.
    Drop {
        /// Its name.
        name: String,
        #[command(flatten)]
        connection: Connection,
    },
}

/// The rules of a collection that can change.
#[derive(Debug, Args)]
pub struct Rules {
    /// When a write is answered: once it is synced, or buffered: once it is in the hands of the operating system, which a power
    /// cut takes back for the last tenth of a second. Nodes with others in their cluster sync it all the same.
    #[arg(long)]
    durability: Option<DurabilityName>,
    /// How long replaced and deleted versions are kept: 30s, 12h, 7d. Kept with the collection but not acted on yet.
    #[arg(long, value_parser = duration)]
    retention: Option<Duration>,
    /// The most bytes its typed values, those of clients of Redis, may take: 64MiB, 2GiB; 0: no limit. Then some are evicted.
    #[arg(long, value_name = "BYTES", value_parser = bytes_count)]
    eviction_budget: Option<u64>,
    /// Which of them: s3-fifo, or as Redis calls it: allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, volatile-lfu,
    /// volatile-random, volatile-ttl; noeviction: none, writes are refused; node: as the node that leads is told (`loci serve
    /// --eviction-policy`).
    #[arg(long, value_name = "POLICY", value_parser = policy)]
    eviction_policy: Option<PolicyName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DurabilityName {
    Synced,
    Buffered,
}

/// A policy of a collection's own, or none.
#[derive(Debug, Clone, Copy)]
pub struct PolicyName(Option<EvictionPolicy>);

/// What stands for no policy of a collection's own.
const NODE: &str = "node";

fn policy(text: &str) -> Result<PolicyName, String> {
    if text == NODE {
        return Ok(PolicyName(None));
    }
    let unknown = || {
        let names: Vec<&str> = EvictionPolicy::names().chain([NODE]).collect();
        format!("it is none of {}", names.join(", "))
    };
    EvictionPolicy::named(text).map(|policy| PolicyName(Some(policy))).ok_or_else(unknown)
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum MetricName {
    Cosine,
    Dot,
    L2,
}

impl From<MetricName> for Metric {
    fn from(name: MetricName) -> Metric {
        match name {
            MetricName::Cosine => Metric::Cosine,
            MetricName::Dot => Metric::Dot,
            MetricName::L2 => Metric::SquaredL2,
        }
    }
}

impl From<DurabilityName> for Durability {
    fn from(name: DurabilityName) -> Durability {
        match name {
            DurabilityName::Synced => Durability::Synced,
            DurabilityName::Buffered => Durability::Buffered,
        }
    }
}

fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Cosine => "cosine",
        Metric::Dot => "dot",
        Metric::SquaredL2 => "l2",
    }
}

/// `384`, `384:cosine`, `text:384`, `text:384:cosine`, and any of them with `:f16` or `:uncoded` after it.
fn embedding_spec(text: &str) -> Result<EmbeddingSpec, String> {
    let mut parts: Vec<&str> = text.split(':').collect();
    let (mut storage, mut codes) = (Storage::F32, Codes::Int8);
    while parts.len() > 1 {
        match parts.last() {
            Some(&"f16") => storage = Storage::F16,
            Some(&"uncoded") => codes = Codes::None,
            _ => break,
        }
        parts.pop();
    }
    let metric = match parts.last().map(|name| MetricName::from_str(name, true)) {
        Some(Ok(name)) if parts.len() > 1 => {
            parts.pop();
            name.into()
        }
        _ => Metric::Cosine,
    };
    let (name, dimension) = match parts.as_slice() {
        [dimension] => ("", *dimension),
        [name, dimension] => (*name, *dimension),
        _ => return Err("write DIMENSION[:METRIC] or NAME:DIMENSION[:METRIC], such as text:384:cosine".into()),
    };
    match dimension.parse() {
        Ok(dimension) => Ok(EmbeddingSpec::new(name, dimension, metric).stored_as(storage).with_codes(codes)),
        Err(_) => Err(format!("{dimension:?} is neither a dimension nor one of the metrics cosine, dot and l2")),
    }
}

/// `author.name`, `title:substring`.
fn index_spec(text: &str) -> Result<Index, String> {
    let (path, kind) = match text.rsplit_once(':') {
        Some((path, "value")) => (path, IndexKind::Value),
        Some((path, "substring")) => (path, IndexKind::Substring),
        Some((_, other)) => return Err(format!("{other:?} is no kind of index; there are value and substring")),
        None => (text, IndexKind::Value),
    };
    Ok(Index { path: path.into(), kind })
}

fn index_kind_name(kind: IndexKind) -> &'static str {
    match kind {
        IndexKind::Value => "value",
        IndexKind::Substring => "substring",
    }
}

fn indexes_shown(schema: &Schema) -> String {
    let shown = |index: &Index| match index.kind {
        IndexKind::Value => index.path.clone(),
        IndexKind::Substring => format!("{}:substring", index.path),
    };
    let specs: Vec<String> = schema.indexes.iter().map(shown).collect();
    if specs.is_empty() { "none".into() } else { specs.join(" ") }
}

/// `body`, `body:english`.
fn text_spec(text: &str) -> Result<TextSpec, String> {
    let (path, language) = match text.rsplit_once(':') {
        Some((path, "plain")) => (path, Language::Plain),
        Some((path, "english")) => (path, Language::English),
        Some((_, other)) => return Err(format!("{other:?} is no language; there are plain and english")),
        None => (text, Language::Plain),
    };
    Ok(TextSpec { path: path.into(), language })
}

fn language_name(language: Language) -> &'static str {
    match language {
        Language::Plain => "plain",
        Language::English => "english",
    }
}

fn texts_shown(schema: &Schema) -> String {
    let specs: Vec<String> =
        schema.texts.iter().map(|text| format!("{}:{}", text.path, language_name(text.language))).collect();
    if specs.is_empty() { "none".into() } else { specs.join(" ") }
}

pub async fn ping(args: PingArgs) -> Result<(), Failure> {
    let connection = args.connection;
    let client = connection.client()?;
    let failed = |error| Failure::call(connection.node(), error);
    // The first includes connecting; the second is what calls from now on take.
    client.ping().await.map_err(failed)?;
    let time = client.ping().await.map_err(failed)?;
    if connection.json {
        return print_json(&json!({"address": connection.address, "ready": true, "micros": time.as_micros() as u64}));
    }
    print(format!("{} is ready, {}", connection.address, time_shown(time)))
}

pub async fn namespace(command: NamespaceCommand) -> Result<(), Failure> {
    match command {
        NamespaceCommand::Create { name, shards, replicas, if_absent, connection } => {
            let changed = connection.client()?.create_namespace_on(&name, shards, replicas, if_absent).await;
            let changed = changed.map_err(|error| Failure::call(format!("namespace {name}"), error))?;
            done(&connection, "namespace", &name, if changed.existed { "existed" } else { "created" })
        }
        NamespaceCommand::List { connection } => {
            let found = connection.client()?.describe_namespaces().await;
            let found = found.map_err(|error| Failure::call(connection.node(), error))?;
            if connection.json {
                let names: Vec<&String> = found.iter().map(|found| &found.name).collect();
                let shards: BTreeMap<&String, &Vec<u32>> =
                    found.iter().map(|found| (&found.name, &found.shards)).collect();
                let replicas: BTreeMap<&String, u32> =
                    found.iter().map(|found| (&found.name, found.replicas)).collect();
                return print_json(&json!({ "namespaces": names, "shards": shards, "replicas": replicas }));
            }
            let mut rows = Rows::new(&["namespace", "shards", "replicas"]);
            for namespace in found {
                let shards = namespace.shards.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
                let replicas = namespace.replicas;
                rows.push([
                    namespace.name,
                    if shards.is_empty() { "with the catalog".into() } else { shards },
                    if replicas == 0 { "every node".into() } else { replicas.to_string() },
                ]);
            }
            print(rows.text())
        }
        NamespaceCommand::Replicas { name, count, wait, connection } => {
            super::replicas::replicas(&name, count, wait, connection).await
        }
        NamespaceCommand::Drop { name, connection } => {
            let dropped = connection.client()?.drop_namespace(&name).await;
            dropped.map_err(|error| Failure::call(format!("namespace {name}"), error))?;
            done(&connection, "namespace", &name, "dropped")
        }
    }
}

fn done(connection: &Connection, what: &str, name: &str, outcome: &str) -> Result<(), Failure> {
    if connection.json {
        return print_json(&json!({ what: name, "outcome": outcome }));
    }
    print(format!("{what} {name} {outcome}"))
}

pub async fn collection(command: CollectionCommand) -> Result<(), Failure> {
    match command {
        CollectionCommand::Create { name, embeddings, indexes, sparse, texts, rules, if_absent, connection } => {
            let schema = Schema {
                embeddings,
                sparse,
                texts,
                durability: rules.durability.map_or(Durability::Synced, Durability::from),
                retention: rules.retention.unwrap_or_default(),
                eviction_bytes: rules.eviction_budget.unwrap_or(0),
                eviction_policy: rules.eviction_policy.and_then(|policy| policy.0),
                indexes,
            };
            let collection = connection.collection(&name)?;
            let changed = match if_absent {
                true => collection.ensure(schema).await,
                false => collection.create(schema).await,
            };
            let changed = changed.map_err(|error| Failure::call(format!("collection {name}"), error))?;
            done(&connection, "collection", &name, if changed.existed { "existed" } else { "created" })
        }
        CollectionCommand::List { all, connection } => {
            let namespace = if all { "" } else { connection.namespace.as_str() };
            let collections = connection
                .client()?
                .collections(namespace)
                .await
                .map_err(|error| Failure::call(format!("namespace {namespace}"), error))?;
            if connection.json {
                let collections: Vec<Json> = collections.iter().map(description_json).collect();
                return print_json(&json!({ "collections": collections }));
            }
            let mut rows =
                Rows::new(&["namespace", "collection", "embeddings", ">records", ">bytes", ">segments", "eviction"]);
            for found in collections {
                rows.push([
                    found.namespace.clone(),
                    found.name.clone(),
                    embeddings_shown(&found.schema),
                    grouped(found.stats.records),
                    bytes_size(found.stats.bytes),
                    found.stats.segments.to_string(),
                    eviction_shown(&found.schema),
                ]);
            }
            print(rows.text())
        }
        CollectionCommand::Describe { name, connection } => {
            let found = connection
                .collection(&name)?
                .describe()
                .await
                .map_err(|error| Failure::call(format!("collection {name}"), error))?;
            if connection.json {
                return print_json(&description_json(&found));
            }
            print(description_shown(&found))
        }
        CollectionCommand::Alter { name, add_indexes, remove_indexes, rules, connection } => {
            let alteration = Alteration {
                durability: rules.durability.map(Into::into),
                retention: rules.retention,
                eviction_bytes: rules.eviction_budget,
                eviction_policy: rules.eviction_policy.map(|policy| policy.0),
                add_indexes,
                remove_indexes,
            };
            if alteration == Alteration::default() {
                let message = "nothing to alter: give --durability, --retention, --eviction-budget, --eviction-policy, --add-index \
                               or --remove-index";
                return Err(Failure::usage(message));
            }
            let altered = connection.collection(&name)?.alter(alteration).await;
            altered.map_err(|error| Failure::call(format!("collection {name}"), error))?;
            done(&connection, "collection", &name, "altered")
        }
        CollectionCommand::Drop { name, connection } => {
            let dropped = connection.collection(&name)?.drop_collection().await;
            dropped.map_err(|error| Failure::call(format!("collection {name}"), error))?;
            done(&connection, "collection", &name, "dropped")
        }
    }
}

fn embeddings_shown(schema: &Schema) -> String {
    let specs: Vec<String> = schema
        .embeddings
        .iter()
        .map(|spec| {
            let storage = if spec.storage == Storage::F16 { ":f16" } else { "" };
            let codes = if spec.codes == Codes::None { ":uncoded" } else { "" };
            let rest = format!("{}:{}{storage}{codes}", spec.dimension, metric_name(spec.metric));
            if spec.name.is_empty() { rest } else { format!("{}:{rest}", spec.name) }
        })
        .collect();
    if specs.is_empty() { "none".into() } else { specs.join(" ") }
}

/// From how many bytes on, and by which policy if it has its own.
fn eviction_shown(schema: &Schema) -> String {
    let budget = Some(schema.eviction_bytes).filter(|bytes| *bytes > 0).map(bytes_size);
    let parts: Vec<String> =
        budget.into_iter().chain(schema.eviction_policy.map(|policy| policy.name().to_owned())).collect();
    if parts.is_empty() { "none".into() } else { parts.join(" ") }
}

fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Synced => "synced",
        Durability::Buffered => "buffered",
    }
}

fn description_shown(found: &Description) -> String {
    let (schema, stats) = (&found.schema, &found.stats);
    let mut rows = Rows::new(&["collection", &format!("{}/{}", found.namespace, found.name)]);
    let none_or = |text: String, is_none: bool| if is_none { "none".to_owned() } else { text };
    rows.push(["embeddings".to_owned(), embeddings_shown(schema)]);
    rows.push(["indexes".to_owned(), indexes_shown(schema)]);
    rows.push(["sparse embeddings".to_owned(), none_or(schema.sparse.join(" "), schema.sparse.is_empty())]);
    rows.push(["texts".to_owned(), texts_shown(schema)]);
    rows.push(["durability", durability_name(schema.durability)]);
    rows.push(["retention".to_owned(), none_or(time_shown(schema.retention), schema.retention.is_zero())]);
    rows.push(["eviction budget".to_owned(), none_or(bytes_size(schema.eviction_bytes), schema.eviction_bytes == 0)]);
    rows.push(["eviction policy", schema.eviction_policy.map_or("as the node is told", EvictionPolicy::name)]);
    rows.push(["records".to_owned(), grouped(stats.records)]);
    rows.push(["bytes".to_owned(), bytes_size(stats.bytes)]);
    rows.push(["indexed records".to_owned(), grouped(stats.indexed_records)]);
    rows.push([
        "segments".to_owned(),
        format!("{} ({} with a graph), {}", stats.segments, stats.graph_segments, bytes_size(stats.disk_bytes)),
    ]);
    rows.push([
        "buffer".to_owned(),
        format!("{} records, {}", grouped(stats.buffer_records), bytes_size(stats.buffer_bytes)),
    ]);
    rows.push(["unmerged deletes".to_owned(), grouped(stats.unmerged_deletes)]);
    rows.push(["memory".to_owned(), bytes_size(stats.memory_bytes)]);
    let recall = stats.recall().map(|recall| format!("{recall:.4}, by {} searches", grouped(stats.recall_samples)));
    rows.push(["recall".to_owned(), recall.unwrap_or_else(|| "not known yet".into())]);
    let walked = format!("{} not found, of {}", grouped(stats.walk_unfound), grouped(stats.walk_checked));
    rows.push(["looked for".to_owned(), walked]);
    rows.text()
}

fn description_json(found: &Description) -> Json {
    let stats = &found.stats;
    let embeddings: Vec<Json> = found
        .schema
        .embeddings
        .iter()
        .map(|spec| {
            json!({
                "name": spec.name,
                "dimension": spec.dimension,
                "metric": metric_name(spec.metric),
                "storage": if spec.storage == Storage::F16 { "f16" } else { "f32" },
                "codes": if spec.codes == Codes::None { "none" } else { "int8" },
            })
        })
        .collect();
    let indexes: Vec<Json> = found
        .schema
        .indexes
        .iter()
        .map(|index| json!({"path": index.path, "kind": index_kind_name(index.kind)}))
        .collect();
    let text = |text: &TextSpec| json!({"path": text.path, "language": language_name(text.language)});
    json!({
        "namespace": found.namespace,
        "collection": found.name,
        "embeddings": embeddings,
        "indexes": indexes,
        "sparse": found.schema.sparse,
        "texts": found.schema.texts.iter().map(text).collect::<Vec<_>>(),
        "durability": durability_name(found.schema.durability),
        "retention_millis": found.schema.retention.as_millis() as u64,
        "eviction_bytes": found.schema.eviction_bytes,
        "eviction_policy": found.schema.eviction_policy.map(EvictionPolicy::name),
        "records": stats.records,
        "bytes": stats.bytes,
        "indexed_records": stats.indexed_records,
        "segments": stats.segments,
        "graph_segments": stats.graph_segments,
        "disk_bytes": stats.disk_bytes,
        "buffer_records": stats.buffer_records,
        "buffer_bytes": stats.buffer_bytes,
        "unmerged_deletes": stats.unmerged_deletes,
        "memory_bytes": stats.memory_bytes,
        "recall": stats.recall(),
        "recall_samples": stats.recall_samples,
        "walk_checked": stats.walk_checked,
        "walk_unfound": stats.walk_unfound,
    })
}

pub async fn stats(args: StatsArgs) -> Result<(), Failure> {
    let connection = args.connection;
    let stats = connection.client()?.stats().await.map_err(|error| Failure::call(connection.node(), error))?;
    if connection.json {
        return print_json(&stats_json(&stats));
    }
    let mut node = Rows::new(&["node", &stats.node]);
    node.push(["version", &stats.version]);
    node.push(["uptime".to_owned(), time_shown(stats.uptime)]);
    node.push([
        "memory".to_owned(),
        format!("{} of {}", bytes_size(stats.memory_bytes), bytes_size(stats.memory_budget_bytes)),
    ]);
    node.push([
        "log".to_owned(),
        format!(
            "{} in {} files, synced {} times",
            bytes_size(stats.log_bytes),
            stats.log_files,
            grouped(stats.log_syncs)
        ),
    ]);
    node.push([
        "processor time".to_owned(),
        format!("{}, of which searching {}", time_shown(stats.cpu), time_shown(stats.search_cpu)),
    ]);
    let mut shards = Rows::new(&[
        ">shard",
        "role",
        ">term",
        ">applied",
        ">checkpoint",
        ">records",
        ">collections",
        ">queued",
        "digest",
    ]);
    for shard in &stats.shards {
        shards.push([
            shard.shard.to_string(),
            shard.role.clone(),
            shard.term.to_string(),
            grouped(shard.applied),
            grouped(shard.checkpoint),
            grouped(shard.records),
            grouped(shard.collections),
            grouped(shard.queued),
            hex(&shard.digest).chars().take(16).collect(),
        ]);
    }
    print(format!("{}\n\n{}", node.text(), shards.text()))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stats_json(stats: &NodeStats) -> Json {
    let shards: Vec<Json> = stats
        .shards
        .iter()
        .map(|shard| {
            json!({
                "shard": shard.shard,
                "role": shard.role,
                "term": shard.term,
                "applied": shard.applied,
                "checkpoint": shard.checkpoint,
                "clock_millis": shard.clock_millis,
                "digest": hex(&shard.digest),
                "chain_head": hex(&shard.chain_head),
                "records": shard.records,
                "collections": shard.collections,
                "requests": shard.requests,
                "request_bytes": shard.request_bytes,
                "requests_evicted": shard.requests_evicted,
                "queued": shard.queued,
            })
        })
        .collect();
    json!({
        "version": stats.version,
        "node": stats.node,
        "uptime_millis": stats.uptime.as_millis() as u64,
        "memory_bytes": stats.memory_bytes,
        "memory_budget_bytes": stats.memory_budget_bytes,
        "log_bytes": stats.log_bytes,
        "log_files": stats.log_files,
        "log_syncs": stats.log_syncs,
        "cpu_seconds": stats.cpu.as_secs_f64(),
        "search_cpu_seconds": stats.search_cpu.as_secs_f64(),
        "shards": shards,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_are_written_short_or_long() {
        let spec = |name: &str, dimension, metric| EmbeddingSpec::new(name, dimension, metric);
        for (text, expected) in [
            ("384", spec("", 384, Metric::Cosine)),
            ("384:dot", spec("", 384, Metric::Dot)),
            ("text:384", spec("text", 384, Metric::Cosine)),
            ("text:384:L2", spec("text", 384, Metric::SquaredL2)),
            ("384:f16", spec("", 384, Metric::Cosine).stored_as(Storage::F16)),
            ("384:dot:uncoded", spec("", 384, Metric::Dot).with_codes(Codes::None)),
            ("t:384:l2:f16:uncoded", spec("t", 384, Metric::SquaredL2).stored_as(Storage::F16).with_codes(Codes::None)),
        ] {
            assert_eq!(embedding_spec(text), Ok(expected), "{text}");
        }
        let spec = |path: &str, language| TextSpec { path: path.into(), language };
        assert_eq!(text_spec("doc.body"), Ok(spec("doc.body", Language::Plain)));
        assert_eq!(text_spec("body:english"), Ok(spec("body", Language::English)));
        assert!(text_spec("body:german").is_err());
        for wrong in ["", "text", "text:384:euclid", "a:b:384:dot", "cosine", "text:-1"] {
            assert!(embedding_spec(wrong).is_err(), "{wrong}");
        }
    }
}
