//! Namespaces, collections, and how the node is doing.

use std::time::Duration;

use bytes::Bytes;
use loci_wire::v1;

use crate::client::within;
use crate::{Client, Collection, Error, Token};

/// How far apart two embeddings are. Smaller is nearer, for every metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// 1 - cos(a, b), from 0 to 2. Embeddings are stored and returned with length 1.
    Cosine,
    /// -(a . b): the negative inner product.
    Dot,
    /// |a - b|^2, not the root of it.
    SquaredL2,
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// Once it is synced to disk on a majority of the members.
    #[default]
    Synced,
    /// Where a node is by itself: once it is in the hands of the operating system; a power cut may take the last tenth of a second.
    /// Where several nodes have it: as synced.
    Buffered,
}

/// Which typed values of a collection make room where there is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EvictionPolicy {
    /// S3-FIFO: what is used while it is on probation stays, what is looked at once goes first.
    S3Fifo,
    /// Those that were used least lately.
    Lru,
    /// Those that were used least often.
    Lfu,
    /// Any.
    Random,
    /// Of those with a deadline, those that were used least lately.
    VolatileLru,
    /// Of those with a deadline, those that were used least often.
    VolatileLfu,
    /// Any of those with a deadline.
    VolatileRandom,
    /// Those whose deadline comes first.
    VolatileTtl,
    /// None: what would make the collection larger is refused instead.
    NoEviction,
}

/// Policies, their names, short ones, and what they are called on the way.
const POLICIES: [(EvictionPolicy, &str, &str, v1::EvictionPolicy); 9] = [
    (EvictionPolicy::S3Fifo, "s3-fifo", "s3-fifo", v1::EvictionPolicy::S3Fifo),
    (EvictionPolicy::Lru, "allkeys-lru", "lru", v1::EvictionPolicy::Lru),
    (EvictionPolicy::Lfu, "allkeys-lfu", "lfu", v1::EvictionPolicy::Lfu),
    (EvictionPolicy::Random, "allkeys-random", "random", v1::EvictionPolicy::Random),
    (EvictionPolicy::VolatileLru, "volatile-lru", "volatile-lru", v1::EvictionPolicy::VolatileLru),
    (EvictionPolicy::VolatileLfu, "volatile-lfu", "volatile-lfu", v1::EvictionPolicy::VolatileLfu),
    (EvictionPolicy::VolatileRandom, "volatile-random", "volatile-random", v1::EvictionPolicy::VolatileRandom),
    (EvictionPolicy::VolatileTtl, "volatile-ttl", "ttl", v1::EvictionPolicy::VolatileTtl),
    (EvictionPolicy::NoEviction, "noeviction", "none", v1::EvictionPolicy::None),
];

impl EvictionPolicy {
    /// The policy of that name, as Redis has them (`allkeys-lru`), or short (`lru`).
    pub fn named(name: &str) -> Option<EvictionPolicy> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        POLICIES.iter().find(|(_, long, short, _)| is(long) || is(short)).map(|(policy, ..)| *policy)
    }

    /// Its name, as Redis has them but for its own.
    pub fn name(self) -> &'static str {
        POLICIES.iter().find(|(policy, ..)| *policy == self).map_or("", |(_, name, ..)| name)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        POLICIES.iter().map(|(_, name, ..)| *name)
    }
}

/// One embedding of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingSpec {
    /// Unique in the collection; may be empty if it is the only one.
    pub name: String,
    /// Components, 1 to 16,384.
    pub dimension: u32,
    /// How far apart two of them are.
    pub metric: Metric,
    /// How their components are kept.
    pub storage: Storage,
    /// What a search compares on its way to what is near.
    pub codes: Codes,
}

/// How the components of an embedding are kept on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Storage {
    /// As they were given.
    #[default]
    F32,
    /// Rounded to half precision, in half the bytes.
    F16,
}

/// What a search compares on its way to what is near; what it returns is measured on the kept components.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Codes {
    /// One byte a component.
    #[default]
    Int8,
    /// The kept components.
    None,
}

impl EmbeddingSpec {
    /// One that is kept and searched in the usual way.
    pub fn new(name: impl Into<String>, dimension: u32, metric: Metric) -> EmbeddingSpec {
        let (storage, codes) = (Storage::default(), Codes::default());
        EmbeddingSpec { name: name.into(), dimension, metric, storage, codes }
    }

    /// With its components kept in another way.
    pub fn stored_as(self, storage: Storage) -> EmbeddingSpec {
        EmbeddingSpec { storage, ..self }
    }

    /// With other codes for the search, or none.
    pub fn with_codes(self, codes: Codes) -> EmbeddingSpec {
        EmbeddingSpec { codes, ..self }
    }
}

/// An attribute whose filters are answered from an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Names from the top of the attributes down, joined by dots, as in a filter.
    pub path: String,
    /// What it is good for.
    pub kind: IndexKind,
}

/// What an attribute's index is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum IndexKind {
    /// Every filter: equality, sets, ranges, prefixes, existence, list elements.
    #[default]
    Value,
    /// The same, and texts that contain something are found fast among many or long ones.
    Substring,
}

/// An attribute that can be searched by its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextSpec {
    /// Names from the top down, joined by dots.
    pub path: String,
    /// How it is taken apart into words.
    pub language: Language,
}

/// How a text is taken apart into words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Language {
    /// Words in lower case.
    #[default]
    Plain,
    /// The same, reduced to their English stems: "searching" and "searches" are "search".
    English,
}

/// The rules of a collection.
///
/// ```
/// use loci_client::{Metric, Schema};
///
/// let cache = Schema::default();
/// let notes = Schema::default().with_embedding("text", 384, Metric::Cosine).with_index("author.name");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// At most 16; none: a plain cache keyspace.
    pub embeddings: Vec<EmbeddingSpec>,
    /// The names of its sparse embeddings; at most 16.
    pub sparse: Vec<String>,
    /// The texts that can be searched by their words; at most 16.
    pub texts: Vec<TextSpec>,
    /// When a write is answered.
    pub durability: Durability,
    /// How long replaced and deleted versions are kept. Not enforced yet.
    pub retention: Duration,
    /// The most bytes that its typed values may take in each shard until some make room; 0: as many as there is memory for.
    pub eviction_bytes: u64,
    /// Which of them make room; none: as the node that leads is told (`loci serve --eviction-policy`).
    pub eviction_policy: Option<EvictionPolicy>,
    /// The attributes whose filters are answered from an index; at most 64.
    pub indexes: Vec<Index>,
}

/// What can change of a collection's rules; what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alteration {
    /// When a write is answered.
    pub durability: Option<Durability>,
    /// How long replaced and deleted versions are kept.
    pub retention: Option<Duration>,
    /// The most bytes that its typed values may take.
    pub eviction_bytes: Option<u64>,
    /// Which of them make room; `Some(None)`: as the node that leads is told.
    pub eviction_policy: Option<Option<EvictionPolicy>>,
    /// Indexes that it gets, or whose kind changes. What is stored already is indexed in the background.
    pub add_indexes: Vec<Index>,
    /// The paths of indexes that go, before any are added.
    pub remove_indexes: Vec<String>,
}

/// Where the records of a namespace are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceDescription {
    /// Its name.
    pub name: String,
    /// The shards of its own that hold its records, in the order of the slots that they hold; none: they are with the catalog.
    pub shards: Vec<u32>,
    /// On how many nodes each of them is to be; zero: on every node.
    pub replicas: u32,
}

/// A collection, its rules, and what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The name of its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its rules.
    pub schema: Schema,
    /// What it holds.
    pub stats: CollectionStats,
}

/// What a collection holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectionStats {
    /// Records that have not been replaced or deleted.
    pub records: u64,
    /// Of their keys, values, attributes and embeddings.
    pub bytes: u64,
    /// Versions in memory.
    pub buffer_records: u64,
    /// The bytes these take.
    pub buffer_bytes: u64,
    /// Sealed files.
    pub segments: u32,
    /// How many of them have a graph.
    pub graph_segments: u32,
    /// Versions in segments that have ended and wait for a merge.
    pub unmerged_deletes: u64,
    /// Of the segments' files.
    pub disk_bytes: u64,
    /// On the heap.
    pub memory_bytes: u64,
    /// Records in segments with a graph: at `records` everything is indexed.
    pub indexed_records: u64,
    /// Searches that the node has run again exactly since its start.
    pub recall_samples: u64,
    /// How many hits the last of them should have had.
    pub recall_nearest: u64,
    /// How many of these they had.
    pub recall_found: u64,
    /// Embeddings that the node has searched for by themselves since its start.
    pub walk_checked: u64,
    /// How many of these were not found.
    pub walk_unfound: u64,
}

impl CollectionStats {
    /// The share of the nearest records that searches found lately, from 0 to 1; `None` if nothing is known yet.
    pub fn recall(&self) -> Option<f64> {
        (self.recall_nearest > 0).then(|| self.recall_found as f64 / self.recall_nearest as f64)
    }
}

/// How a node is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStats {
    /// Of the program.
    pub version: String,
    /// Since it started.
    pub uptime: Duration,
    /// Which node it is.
    pub node: String,
    /// Its shards.
    pub shards: Vec<ShardStats>,
    /// Of the log's files.
    pub log_bytes: u64,
    /// How many these are.
    pub log_files: u64,
    /// How often the log was synced.
    pub log_syncs: u64,
    /// Heap bytes that the node accounts for.
    pub memory_bytes: u64,
    /// How many it may take.
    pub memory_budget_bytes: u64,
    /// Processor time of the process since its start.
    pub cpu: Duration,
    /// How much of it searches took to find their hits.
    pub search_cpu: Duration,
}

/// How one shard of a node is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStats {
    /// Its number.
    pub shard: u32,
    /// `leader`, `follower` or `candidate`.
    pub role: String,
    /// The Raft term.
    pub term: u64,
    /// The last entry that is applied.
    pub applied: u64,
    /// Up to which the log is no longer needed.
    pub checkpoint: u64,
    /// The clock of the last applied entry, in milliseconds since 1970.
    pub clock_millis: u64,
    /// Digest of all records and the catalog.
    pub digest: Bytes,
    /// Head of the hash chain over the applied entries.
    pub chain_head: Bytes,
    /// Records of all collections.
    pub records: u64,
    /// Collections.
    pub collections: u64,
    /// Remembered requests.
    pub requests: u64,
    /// The bytes they take.
    pub request_bytes: u64,
    /// How many were forgotten early.
    pub requests_evicted: u64,
    /// Writes waiting to be logged.
    pub queued: u64,
}

/// What a change of namespaces or collections did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where it is in the log.
    pub token: Token,
    /// It was there already, and nothing changed.
    pub existed: bool,
}

impl Schema {
    /// With another embedding.
    pub fn with_embedding(mut self, name: impl Into<String>, dimension: u32, metric: Metric) -> Schema {
        self.embeddings.push(EmbeddingSpec::new(name, dimension, metric));
        self
    }

    /// With another embedding, kept or searched in a way of its own.
    pub fn with_embedding_spec(mut self, spec: EmbeddingSpec) -> Schema {
        self.embeddings.push(spec);
        self
    }

    /// With the most bytes that its typed values may take, and which of them make room then; none: as the node is told.
    pub fn with_eviction(mut self, bytes: u64, policy: Option<EvictionPolicy>) -> Schema {
        (self.eviction_bytes, self.eviction_policy) = (bytes, policy);
        self
    }

    /// With an index for filters on this attribute, such as `source` or `author.name`.
    pub fn with_index(mut self, path: impl Into<String>) -> Schema {
        self.indexes.push(Index { path: path.into(), kind: IndexKind::Value });
        self
    }

    /// With an index for filters on this attribute, those for texts that contain something among them.
    pub fn with_substring_index(mut self, path: impl Into<String>) -> Schema {
        self.indexes.push(Index { path: path.into(), kind: IndexKind::Substring });
        self
    }

    /// With another sparse embedding.
    pub fn with_sparse(mut self, name: impl Into<String>) -> Schema {
        self.sparse.push(name.into());
        self
    }

    /// With another attribute that can be searched by its words.
    pub fn with_text(mut self, path: impl Into<String>, language: Language) -> Schema {
        self.texts.push(TextSpec { path: path.into(), language });
        self
    }
}

impl Client {
    /// Makes a namespace, or fails with [`Error::AlreadyExists`].
    pub async fn create_namespace(&self, name: impl Into<String>) -> Result<Changed, Error> {
        self.make_namespace(name.into(), (0, 0), false).await
    }

    /// Makes a namespace whose records are spread over so many shards, 1 to 64.
    pub async fn create_namespace_with(&self, name: impl Into<String>, shards: u32) -> Result<Changed, Error> {
        self.make_namespace(name.into(), (shards, 0), false).await
    }

    /// Makes a namespace whose records are spread over so many shards, each of which has so many members: 1, 3 or 5, on as many
    /// nodes. With `if_absent` one that is there already will do.
    pub async fn create_namespace_on(
        &self,
        name: impl Into<String>,
        shards: u32,
        replicas: u32,
        if_absent: bool,
    ) -> Result<Changed, Error> {
        self.make_namespace(name.into(), (shards, replicas), if_absent).await
    }

    /// Says how many members each shard of a namespace is to have, 1, 3 or 5, of one that was made with such a number. They come or
    /// go one at a time; [`Client::describe_cluster`] says how far that is.
    pub async fn set_replicas(&self, name: impl Into<String>, replicas: u32) -> Result<(), Error> {
        let request = v1::SetReplicasRequest { name: name.into(), replicas };
        self.admin(|mut admin, remaining| {
            let request = within(request.clone(), remaining);
            async move { admin.set_replicas(request).await }
        })
        .await
        .map(drop)
    }

    /// Makes a namespace if it is not there.
    pub async fn ensure_namespace(&self, name: impl Into<String>) -> Result<Changed, Error> {
        self.make_namespace(name.into(), (0, 0), true).await
    }

    /// Makes a namespace with so many shards if it is not there; one with other shards is an error.
    pub async fn ensure_namespace_with(&self, name: impl Into<String>, shards: u32) -> Result<Changed, Error> {
        self.make_namespace(name.into(), (shards, 0), true).await
    }

    async fn make_namespace(
        &self,
        name: String,
        (shards, replicas): (u32, u32),
        if_absent: bool,
    ) -> Result<Changed, Error> {
        let request = v1::CreateNamespaceRequest { origin: self.origin(), name, if_absent, shards, replicas };
        let reply = self
            .admin(|mut admin, remaining| {
                let request = within(request.clone(), remaining);
                async move { admin.create_namespace(request).await }
            })
            .await?;
        Ok(reply.into())
    }

    /// The names of all namespaces.
    pub async fn namespaces(&self) -> Result<Vec<String>, Error> {
        let reply = self
            .admin(|mut admin, remaining| async move {
                let request = within(v1::ListNamespacesRequest {}, remaining);
                admin.list_namespaces(request).await
            })
            .await?;
        Ok(reply.names)
    }

    /// All namespaces, with the shards of those that have some of their own, in the order of the slots that they hold.
    pub async fn namespaces_with_shards(&self) -> Result<Vec<(String, Vec<u32>)>, Error> {
        let described = self.describe_namespaces().await?;
        Ok(described.into_iter().map(|namespace| (namespace.name, namespace.shards)).collect())
    }

    /// All namespaces, with where their records are.
    pub async fn describe_namespaces(&self) -> Result<Vec<NamespaceDescription>, Error> {
        let reply = self
            .admin(|mut admin, remaining| async move {
                let request = within(v1::ListNamespacesRequest {}, remaining);
                admin.list_namespaces(request).await
            })
            .await?;
        let described = |namespace: v1::NamespaceDescription| NamespaceDescription {
            name: namespace.name,
            shards: namespace.shards,
            replicas: namespace.replicas,
        };
        Ok(reply.namespaces.into_iter().map(described).collect())
    }

    /// Removes a namespace with all its collections and records.
    pub async fn drop_namespace(&self, name: impl Into<String>) -> Result<Changed, Error> {
        let request = v1::DropNamespaceRequest { origin: self.origin(), name: name.into() };
        let reply = self
            .admin(|mut admin, remaining| {
                let request = within(request.clone(), remaining);
                async move { admin.drop_namespace(request).await }
            })
            .await?;
        Ok(reply.into())
    }

    /// The collections of a namespace; empty: of all.
    pub async fn collections(&self, namespace: impl Into<String>) -> Result<Vec<Description>, Error> {
        let request = v1::ListCollectionsRequest { namespace: namespace.into() };
        let reply = self
            .admin(|mut admin, remaining| {
                let request = within(request.clone(), remaining);
                async move { admin.list_collections(request).await }
            })
            .await?;
        reply.collections.into_iter().map(TryInto::try_into).collect()
    }

    /// How the node is doing.
    pub async fn stats(&self) -> Result<NodeStats, Error> {
        let reply = self
            .admin(|mut admin, remaining| async move {
                let request = within(v1::StatsRequest {}, remaining);
                admin.stats(request).await
            })
            .await?;
        Ok(reply.into())
    }
}

impl Collection {
    /// Makes the collection, or fails with [`Error::AlreadyExists`].
    pub async fn create(&self, schema: Schema) -> Result<Changed, Error> {
        self.make(schema, false).await
    }

    /// Makes the collection if it is not there; fails if one with other embeddings is.
    pub async fn ensure(&self, schema: Schema) -> Result<Changed, Error> {
        self.make(schema, true).await
    }

    async fn make(&self, schema: Schema, if_absent: bool) -> Result<Changed, Error> {
        let request = v1::CreateCollectionRequest {
            origin: self.client().origin(),
            name: self.wire_name(),
            schema: Some(schema.into()),
            if_absent,
        };
        let reply = self
            .client()
            .admin(|mut admin, remaining| {
                let request = within(request.clone(), remaining);
                async move { admin.create_collection(request).await }
            })
            .await?;
        Ok(reply.into())
    }

    /// Its rules and what it holds.
    pub async fn describe(&self) -> Result<Description, Error> {
        let request = v1::DescribeCollectionRequest { name: self.wire_name() };
        self.client()
            .admin(|mut admin, remaining| {
                let request = within(request.clone(), remaining);
                async move { admin.describe_collection(request).await }
            })
            .await?
            .try_into()
    }

    /// Changes its rules.
    pub async fn alter(&self, alteration: Alteration) -> Result<Changed, Error> {
        let durability = match alteration.durability {
            None => v1::Durability::Unspecified,
            Some(durability) => durability.into(),
        };
        let request = v1::AlterCollectionRequest {
            origin: self.client().origin(),
            name: self.wire_name(),
            durability: durability.into(),
            retention_millis: alteration.retention.map(millis),
            eviction_bytes: alteration.eviction_bytes,
            eviction_policy: alteration.eviction_policy.map(policy_number),
            add_indexes: alteration.add_indexes.into_iter().map(Index::into).collect(),
            remove_indexes: alteration.remove_indexes,
        };
        let reply = self
            .client()
            .admin(|mut admin, remaining| {
                let request = within(request.clone(), remaining);
                async move { admin.alter_collection(request).await }
            })
            .await?;
        Ok(reply.into())
    }

    /// Removes the collection with all its records.
    pub async fn drop_collection(&self) -> Result<Changed, Error> {
        let request = v1::DropCollectionRequest { origin: self.client().origin(), name: self.wire_name() };
        let reply = self
            .client()
            .admin(|mut admin, remaining| {
                let request = within(request.clone(), remaining);
                async move { admin.drop_collection(request).await }
            })
            .await?;
        Ok(reply.into())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<v1::AdminReply> for Changed {
    fn from(reply: v1::AdminReply) -> Changed {
        Changed { token: Token::from_wire(reply.token), existed: reply.existed }
    }
}

impl From<Metric> for v1::Metric {
    fn from(metric: Metric) -> v1::Metric {
        match metric {
            Metric::Cosine => v1::Metric::Cosine,
            Metric::Dot => v1::Metric::Dot,
            Metric::SquaredL2 => v1::Metric::SquaredL2,
        }
    }
}

impl From<Durability> for v1::Durability {
    fn from(durability: Durability) -> v1::Durability {
        match durability {
            Durability::Synced => v1::Durability::Synced,
            Durability::Buffered => v1::Durability::Buffered,
        }
    }
}

fn policy_number(policy: Option<EvictionPolicy>) -> i32 {
    let known = POLICIES.iter().find(|(known, ..)| Some(*known) == policy);
    known.map_or(v1::EvictionPolicy::Unspecified, |(.., wire)| *wire).into()
}

impl From<Index> for v1::IndexSpec {
    fn from(index: Index) -> v1::IndexSpec {
        let kind = match index.kind {
            IndexKind::Value => v1::IndexKind::Value,
            IndexKind::Substring => v1::IndexKind::Substring,
        };
        v1::IndexSpec { path: index.path, kind: kind.into() }
    }
}

impl From<v1::IndexSpec> for Index {
    fn from(index: v1::IndexSpec) -> Index {
        let kind = match index.kind() {
            v1::IndexKind::Value | v1::IndexKind::Unspecified => IndexKind::Value,
            v1::IndexKind::Substring => IndexKind::Substring,
        };
        Index { path: index.path, kind }
    }
}

impl From<Schema> for v1::Schema {
    fn from(schema: Schema) -> v1::Schema {
        v1::Schema {
            embeddings: schema
                .embeddings
                .into_iter()
                .map(|spec| v1::EmbeddingSpec {
                    name: spec.name,
                    dimension: spec.dimension,
                    metric: v1::Metric::from(spec.metric).into(),
                    storage: match spec.storage {
                        Storage::F32 => v1::Storage::F32,
                        Storage::F16 => v1::Storage::F16,
                    }
                    .into(),
                    codes: match spec.codes {
                        Codes::Int8 => v1::Codes::Int8,
                        Codes::None => v1::Codes::None,
                    }
                    .into(),
                })
                .collect(),
            durability: v1::Durability::from(schema.durability).into(),
            retention_millis: millis(schema.retention),
            eviction_bytes: schema.eviction_bytes,
            eviction_policy: policy_number(schema.eviction_policy),
            indexes: schema.indexes.into_iter().map(Index::into).collect(),
            sparse: schema.sparse.into_iter().map(|name| v1::SparseSpec { name }).collect(),
            texts: schema.texts.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<TextSpec> for v1::TextSpec {
    fn from(spec: TextSpec) -> v1::TextSpec {
        let language = match spec.language {
            Language::Plain => v1::Language::Plain,
            Language::English => v1::Language::English,
        };
        v1::TextSpec { path: spec.path, language: language.into() }
    }
}

impl From<v1::TextSpec> for TextSpec {
    fn from(spec: v1::TextSpec) -> TextSpec {
        let language = match spec.language() {
            v1::Language::English => Language::English,
            v1::Language::Plain | v1::Language::Unspecified => Language::Plain,
        };
        TextSpec { path: spec.path, language }
    }
}

impl TryFrom<v1::Schema> for Schema {
    type Error = Error;

    fn try_from(schema: v1::Schema) -> Result<Schema, Error> {
        let durability = match schema.durability() {
            v1::Durability::Buffered => Durability::Buffered,
            v1::Durability::Synced | v1::Durability::Unspecified => Durability::Synced,
        };
        let known = schema.eviction_policy();
        let eviction_policy = POLICIES.iter().find(|(.., wire)| *wire == known).map(|(policy, ..)| *policy);
        let embedding = |spec: v1::EmbeddingSpec| {
            let metric = match spec.metric() {
                v1::Metric::Cosine => Metric::Cosine,
                v1::Metric::Dot => Metric::Dot,
                v1::Metric::SquaredL2 => Metric::SquaredL2,
                v1::Metric::Unspecified => {
                    let message = format!("embedding {:?} has no metric", spec.name);
                    return Err(Error::protocol(message));
                }
            };
            let storage = match spec.storage() {
                v1::Storage::F16 => Storage::F16,
                v1::Storage::F32 | v1::Storage::Unspecified => Storage::F32,
            };
            let codes = match spec.codes() {
                v1::Codes::None => Codes::None,
                v1::Codes::Int8 | v1::Codes::Unspecified => Codes::Int8,
            };
            Ok(EmbeddingSpec { name: spec.name, dimension: spec.dimension, metric, storage, codes })
        };
        Ok(Schema {
            durability,
            retention: Duration::from_millis(schema.retention_millis),
            eviction_bytes: schema.eviction_bytes,
            eviction_policy,
            indexes: schema.indexes.into_iter().map(Index::from).collect(),
            sparse: schema.sparse.into_iter().map(|sparse| sparse.name).collect(),
            texts: schema.texts.into_iter().map(Into::into).collect(),
            embeddings: schema.embeddings.into_iter().map(embedding).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<v1::DescribeCollectionReply> for Description {
    type Error = Error;

    fn try_from(reply: v1::DescribeCollectionReply) -> Result<Description, Error> {
        let name = reply.name.unwrap_or_default();
        let stats = reply.stats.unwrap_or_default();
        Ok(Description {
            namespace: name.namespace,
            name: name.collection,
            schema: reply.schema.unwrap_or_default().try_into()?,
            stats: CollectionStats {
                records: stats.records,
                bytes: stats.bytes,
                buffer_records: stats.buffer_records,
                buffer_bytes: stats.buffer_bytes,
                segments: stats.segments,
                graph_segments: stats.graph_segments,
                unmerged_deletes: stats.unmerged_deletes,
                disk_bytes: stats.disk_bytes,
                memory_bytes: stats.memory_bytes,
                indexed_records: stats.indexed_records,
                recall_samples: stats.recall_samples,
                recall_nearest: stats.recall_nearest,
                recall_found: stats.recall_found,
                walk_checked: stats.walk_checked,
                walk_unfound: stats.walk_unfound,
            },
        })
    }
}

impl From<v1::StatsReply> for NodeStats {
    fn from(reply: v1::StatsReply) -> NodeStats {
        NodeStats {
            version: reply.version,
            uptime: Duration::from_millis(reply.uptime_millis),
            node: reply.node,
            shards: reply.shards.into_iter().map(ShardStats::from).collect(),
            log_bytes: reply.log_bytes,
            log_files: reply.log_files,
            log_syncs: reply.log_syncs,
            memory_bytes: reply.memory_bytes,
            memory_budget_bytes: reply.memory_budget_bytes,
            cpu: Duration::from_nanos(reply.cpu_nanos),
            search_cpu: Duration::from_nanos(reply.search_cpu_nanos),
        }
    }
}

impl From<v1::ShardStats> for ShardStats {
    fn from(stats: v1::ShardStats) -> ShardStats {
        ShardStats {
            shard: stats.shard,
            role: stats.role,
            term: stats.term,
            applied: stats.applied,
            checkpoint: stats.checkpoint,
            clock_millis: stats.clock_millis,
            digest: stats.digest,
            chain_head: stats.chain_head,
            records: stats.records,
            collections: stats.collections,
            requests: stats.requests,
            request_bytes: stats.request_bytes,
            requests_evicted: stats.requests_evicted,
            queued: stats.queued,
        }
    }
}
