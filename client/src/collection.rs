//! One collection: reading and writing its records.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::Either;
use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};

use crate::{Batch, Cache, Client, Error, Filter, Hedge, Parts, Pipeline, Query, Record, Scan, Search, Watch};

/// A collection of a node. Cheap to make and to clone; what it is set to holds for the calls made through it.
///
/// ```no_run
/// # async fn example() -> Result<(), loci_client::Error> {
/// use loci_client::{Client, Record, attribute};
///
/// let client = Client::connect("127.0.0.1:7700").await?;
/// let notes = client.collection("default", "notes");
/// notes.put(Record::new("a").with_value("a text").with_attribute("kind", "memo")).await?;
/// let found = notes.get("a").await?;
/// let memos = notes.count(attribute("kind").equals("memo")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Collection {
    client: Client,
    pipeline: Option<Pipeline>,
    name: v1::CollectionName,
    timeout: Duration,
    parts: Parts,
    consistency: Consistency,
    hedge: Hedge,
}

/// How new a read must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As new as every write answered before the read began.
    #[default]
    Latest,
    /// At least as new as this token.
    AtLeast(Token),
    /// Whatever the node has.
    Stale,
}

/// Where in the logs of shards an answer stands. A read with [`Consistency::AtLeast`] is at least that new.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Token {
    /// The index of an entry, by shard.
    parts: BTreeMap<u32, u64>,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it is in the log.
    pub token: Token,
    /// The version of every record that it wrote.
    pub version: u64,
    /// For each record or change in order: whether the record was there before.
    pub existed: Vec<bool>,
}

/// What a deletion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Where it is in the log.
    pub token: Token,
    /// How many records were there and are gone.
    pub deleted: u64,
    /// With keys, in order: whether the record was there.
    pub existed: Vec<bool>,
}

/// What must hold of a record, a lease or a typed value before a write takes effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition(pub(crate) v1::Condition);

impl Condition {
    /// There is no record with this key.
    pub fn absent(key: impl Into<Bytes>) -> Condition {
        Condition::of(key, v1::condition::Expect::Absent(true))
    }

    /// There is one.
    pub fn present(key: impl Into<Bytes>) -> Condition {
        Condition::of(key, v1::condition::Expect::Present(true))
    }

    /// There is one, of this version.
    pub fn version(key: impl Into<Bytes>, version: u64) -> Condition {
        Condition::of(key, v1::condition::Expect::Version(version))
    }

    /// The lease of this name is held under this number. Otherwise the write fails with [`Error::Fenced`].
    pub fn lease(name: impl Into<Bytes>, number: u64) -> Condition {
        Condition::of(name, v1::condition::Expect::Lease(number))
    }

    /// The typed value under this key has this version; zero: there is none.
    pub fn value_version(key: impl Into<Bytes>, version: u64) -> Condition {
        Condition::of(key, v1::condition::Expect::ValueVersion(version))
    }

    /// The record, the lease or the value is in this collection of the namespace, not in the write's.
    pub fn in_collection(mut self, name: impl Into<String>) -> Condition {
        let collection = self.0.collection.get_or_insert_default();
        collection.collection = name.into();
        self
    }

    fn of(key: impl Into<Bytes>, expect: v1::condition::Expect) -> Condition {
        Condition(v1::Condition { collection: None, key: key.into(), expect: Some(expect) })
    }
}

/// How a [`Collection::put_with`] treats a record that is there, or is not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PutOptions {
    /// Whether it replaces, inserts, updates or merges.
    pub mode: PutMode,
    /// What must hold before.
    pub conditions: Vec<Condition>,
    /// With [`PutMode::Merge`]: attributes at the top level that go.
    pub remove_attributes: Vec<String>,
    /// With [`PutMode::Merge`]: the records lose their deadline.
    pub remove_deadline: bool,
    /// The records may be in several shards of their namespace, each of which writes its own or none of them; other shards may
    /// have written theirs when a call fails. Without it records in several shards are refused. Not with conditions.
    pub spread: bool,
}

/// How a put treats a record that is there, or is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PutMode {
    /// The record is exactly what is put.
    #[default]
    Replace,
    /// As replace, but refused if a record is there.
    Insert,
    /// As replace, but refused if a record is not there.
    Update,
    /// What is given replaces what the record has; the rest stays.
    Merge,
}

impl Collection {
    pub(crate) fn new(client: Client, pipeline: Option<Pipeline>, namespace: String, name: String) -> Collection {
        Collection {
            timeout: client.timeout(),
            client,
            pipeline,
            name: v1::CollectionName { namespace, collection: name },
            parts: Parts::default(),
            consistency: Consistency::default(),
            hedge: Hedge::default(),
        }
    }

    /// The collection's name.
    pub fn name(&self) -> &str {
        &self.name.collection
    }

    /// The name of its namespace.
    pub fn namespace(&self) -> &str {
        &self.name.namespace
    }

    /// The same collection, with another time for each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Collection {
        self.timeout = timeout;
        self
    }

    /// The same collection, reading these parts of records.
    pub fn with_parts(mut self, parts: Parts) -> Collection {
        self.parts = parts;
        self
    }

    /// The same collection, reading as new as this.
    pub fn with_consistency(mut self, consistency: Consistency) -> Collection {
        self.consistency = consistency;
        self
    }

    /// The same collection, whose reads at [`Consistency::Stale`] ask a second node when the first takes long. Has no effect on
    /// other reads, nor on a pipeline.
    pub fn with_hedge(mut self, hedge: Hedge) -> Collection {
        self.hedge = hedge;
        self
    }

    /// Inserts or replaces a record.
    pub fn put(&self, record: Record) -> impl Future<Output = Result<Written, Error>> + Send {
        self.put_wire(vec![record.into()], PutOptions::default())
    }

    /// Inserts or replaces up to 10,000 records: all or none.
    pub async fn put_many(&self, records: impl IntoIterator<Item = Record>) -> Result<Written, Error> {
        self.put_with(records, PutOptions::default()).await
    }

    /// Inserts a record, or fails with [`Error::ConditionFailed`] if there is one.
    pub fn insert(&self, record: Record) -> impl Future<Output = Result<Written, Error>> + Send {
        self.put_wire(vec![record.into()], PutOptions { mode: PutMode::Insert, ..PutOptions::default() })
    }

    /// Replaces what the record gives of the record that is there, and leaves the rest; inserts it if there is none.
    pub fn merge(&self, record: Record) -> impl Future<Output = Result<Written, Error>> + Send {
        self.put_wire(vec![record.into()], PutOptions { mode: PutMode::Merge, ..PutOptions::default() })
    }

    /// Writes up to 10,000 records as the options say: all or none.
    pub async fn put_with(
        &self,
        records: impl IntoIterator<Item = Record>,
        options: PutOptions,
    ) -> Result<Written, Error> {
        let records = records.into_iter().map(Into::into).collect();
        self.put_wire(records, options).await
    }

    pub(crate) fn put_wire(
        &self,
        records: Vec<v1::Record>,
        options: PutOptions,
    ) -> impl Future<Output = Result<Written, Error>> + Send {
        let mode = match options.mode {
            PutMode::Replace => v1::PutMode::Replace,
            PutMode::Insert => v1::PutMode::Insert,
            PutMode::Update => v1::PutMode::Update,
            PutMode::Merge => v1::PutMode::Merge,
        };
        let call = Call::Put(Box::new(v1::PutRequest {
            origin: self.client.origin(),
            collection: self.wire_name(),
            records,
            mode: mode.into(),
            conditions: self.conditions(options.conditions),
            remove_attributes: options.remove_attributes,
            remove_deadline: options.remove_deadline,
            spread: options.spread,
        }));
        self.write(call)
    }

    /// The record with this key.
    pub fn get(&self, key: impl Into<Bytes>) -> impl Future<Output = Result<Option<Record>, Error>> + Send {
        self.send_get(vec![key.into()]).map(|reply| {
            let found = reply?.records.pop().and_then(|found| found.record);
            found.map(Record::try_from).transpose()
        })
    }

    /// The records with these keys, in order; at most 10,000.
    pub async fn get_many<K: Into<Bytes>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Record>>, Error> {
        let reply = self.send_get(keys.into_iter().map(Into::into).collect()).await?;
        reply.records.into_iter().map(|found| found.record.map(Record::try_from).transpose()).collect()
    }

    /// The reply has as many records as keys were asked for.
    fn send_get(&self, keys: Vec<Bytes>) -> impl Future<Output = Result<v1::GetReply, Error>> + Send {
        let asked = keys.len();
        let sent = self.send(Call::Get(Box::new(v1::GetRequest {
            collection: self.wire_name(),
            keys,
            parts: self.wire_parts(),
            consistency: self.wire_consistency(),
        })));
        sent.map(move |reply| match reply? {
            Reply::Get(reply) if reply.records.len() == asked => Ok(reply),
            other => Err(unexpected("get", &other)),
        })
    }

    /// Deletes the record with this key; says whether there was one.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Error> {
        Ok(self.delete_many([key.into()]).await?.deleted > 0)
    }

    /// Deletes the records with these keys; at most 10,000. In a namespace with several shards each of them deletes its own.
    pub async fn delete_many<K: Into<Bytes>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Deleted, Error> {
        let keys = keys.into_iter().map(Into::into).collect();
        self.delete_wire(v1::DeleteRequest { keys, spread: true, ..Default::default() }).await
    }

    /// Deletes the records with these keys if the conditions hold.
    pub async fn delete_if<K: Into<Bytes>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        conditions: impl IntoIterator<Item = Condition>,
    ) -> Result<Deleted, Error> {
        self.delete_wire(v1::DeleteRequest {
            keys: keys.into_iter().map(Into::into).collect(),
            conditions: self.conditions(conditions),
            ..Default::default()
        })
        .await
    }

    /// Deletes every record that the filter takes. Others can see some of it done.
    pub async fn delete_where(&self, filter: Filter) -> Result<Deleted, Error> {
        self.delete_wire(v1::DeleteRequest { filter: Some(filter.0), ..Default::default() }).await
    }

    async fn delete_wire(&self, request: v1::DeleteRequest) -> Result<Deleted, Error> {
        let call = Call::Delete(Box::new(v1::DeleteRequest {
            origin: self.client.origin(),
            collection: self.wire_name(),
            ..request
        }));
        match self.send(call).await? {
            Reply::Delete(reply) => {
                Ok(Deleted { token: Token::from_wire(reply.token), deleted: reply.deleted, existed: reply.existed })
            }
            other => Err(unexpected("delete", &other)),
        }
    }

    /// Changes that happen together or not at all, here and in other collections of the namespace.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// The collection's typed values, which lie beside its records. Reads are as new as this collection's are.
    pub fn cache(&self) -> Cache {
        Cache::new(self.clone())
    }

    /// How many records the filter takes; none: how many there are.
    pub async fn count(&self, filter: impl Into<Option<Filter>>) -> Result<u64, Error> {
        let call = Call::Count(Box::new(v1::CountRequest {
            collection: self.wire_name(),
            filter: filter.into().map(Filter::into_wire),
            consistency: self.wire_consistency(),
        }));
        match self.send(call).await? {
            Reply::Count(reply) => Ok(reply.count),
            other => Err(unexpected("count", &other)),
        }
    }

    /// Records in the order of their keys.
    pub fn scan(&self) -> Scan {
        Scan::new(self.clone())
    }

    /// What changes in it, in the order of the log: see [`Watch`]. Not through a pipeline.
    pub fn watch(&self) -> Watch {
        let v1::CollectionName { namespace, collection } = self.name.clone();
        Watch::new(self.client.clone(), namespace, vec![collection], self.timeout)
    }

    /// The records nearest to a vector.
    pub fn search(&self, vector: impl Into<Vec<f32>>) -> Search {
        Search::new(self.clone()).near(vector)
    }

    /// The records nearest to the one with this key, which is not among them.
    pub fn search_like(&self, key: impl Into<Bytes>) -> Search {
        Search::new(self.clone()).near_key(key)
    }

    /// The records with these words in the text at this path; the path may be empty if the collection declares just one.
    pub fn search_text(&self, path: impl Into<String>, words: impl Into<String>) -> Search {
        Search::new(self.clone()).query(Query::text(path, words))
    }

    /// What a query of any form finds.
    pub fn find(&self, query: impl Into<Query>) -> Search {
        Search::new(self.clone()).query(query)
    }

    /// Several searches in one call: add queries with [`Search::query`], [`Search::near`] and [`Search::near_key`].
    pub fn search_many(&self) -> Search {
        Search::new(self.clone())
    }

    /// What awaits the answer has nothing of the call itself, which is large, and would be carried along by all who await it.
    pub(crate) fn send(&self, call: Call) -> impl Future<Output = Result<Reply, Error>> + Send {
        match &self.pipeline {
            Some(pipeline) => Either::Left(pipeline.call(call, self.timeout)),
            None => Either::Right(Box::pin(self.client.call(call, self.timeout, self.hedge))),
        }
    }

    pub(crate) fn write(&self, call: Call) -> impl Future<Output = Result<Written, Error>> + Send {
        self.send(call).map(|reply| match reply? {
            Reply::Write(reply) => {
                Ok(Written { token: Token::from_wire(reply.token), version: reply.version, existed: reply.existed })
            }
            other => Err(unexpected("write", &other)),
        })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn is_pipelined(&self) -> bool {
        self.pipeline.is_some()
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn wire_name(&self) -> Option<v1::CollectionName> {
        Some(self.name.clone())
    }

    pub(crate) fn wire_parts(&self) -> Option<v1::Parts> {
        Some(self.parts.into())
    }

    pub(crate) fn wire_consistency(&self) -> Option<v1::Consistency> {
        Some(self.consistency.to_wire())
    }

    /// A condition that names another collection means one of this namespace.
    pub(crate) fn conditions(&self, conditions: impl IntoIterator<Item = Condition>) -> Vec<v1::Condition> {
        conditions
            .into_iter()
            .map(|Condition(mut condition)| {
                let named = condition.collection.get_or_insert_with(|| self.name.clone());
                if named.namespace.is_empty() {
                    named.namespace.clone_from(&self.name.namespace);
                }
                condition
            })
            .collect()
    }
}

impl Consistency {
    pub(crate) fn to_wire(&self) -> v1::Consistency {
        use v1::consistency::Level;
        let level = match self {
            Consistency::Latest => Level::Latest(true),
            Consistency::Stale => Level::Stale(true),
            Consistency::AtLeast(token) => Level::Token(token.to_wire()),
        };
        v1::Consistency { level: Some(level) }
    }
}

impl Token {
    /// The index of an entry for each shard that it speaks of, ascending by shard.
    pub fn parts(&self) -> impl Iterator<Item = (u32, u64)> {
        self.parts.iter().map(|(shard, index)| (*shard, *index))
    }

    /// Makes it at least as new as another, in every shard that either speaks of.
    pub fn join(&mut self, other: &Token) {
        for (shard, index) in other.parts() {
            let own = self.parts.entry(shard).or_default();
            *own = index.max(*own);
        }
    }

    pub(crate) fn from_wire(token: Option<v1::Token>) -> Token {
        let all = token.into_iter().flat_map(|token| {
            let others = token.others.into_iter().map(|other| (other.shard, other.index));
            [(token.shard, token.index)].into_iter().chain(others)
        });
        Token { parts: all.collect() }
    }

    pub(crate) fn to_wire(&self) -> v1::Token {
        let mut all = self.parts().map(|(shard, index)| v1::Token { shard, index, others: Vec::new() });
        let first = all.next().unwrap_or_default();
        v1::Token { others: all.collect(), ..first }
    }
}

/// `SHARD:INDEX`, with commas between those of several shards.
impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (shard, index)) in self.parts().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{shard}:{index}")?;
        }
        Ok(())
    }
}

/// As it is displayed.
impl std::str::FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Token, String> {
        let part = |part: &str| {
            let (shard, index) = part.split_once(':')?;
            Some((shard.parse().ok()?, index.parse().ok()?))
        };
        let parts = text.split(',').map(|text| part(text.trim())).collect::<Option<_>>();
        Ok(Token { parts: parts.ok_or_else(|| format!("{text:?} is not a token such as 1:4711"))? })
    }
}

pub(crate) fn unexpected(call: &str, reply: &Reply) -> Error {
    let kind = match reply {
        Reply::Write(_) => "write",
        Reply::Get(_) => "get",
        Reply::Delete(_) => "delete",
        Reply::Scan(_) => "scan",
        Reply::Count(_) => "count",
        Reply::Search(_) => "search",
        Reply::Execute(_) => "execution",
        Reply::Error(_) => "error",
    };
    Error::protocol(format!("a {kind} reply that does not fit a {call}"))
}
