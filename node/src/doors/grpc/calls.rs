//! What each call on records does, whichever way it came: a unary call, a stream, or the pipeline.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use loci_index::ask::{HITS_MAX, Within};
use loci_index::command::{
    Action, CHANGES_MAX, Change, Command, Condition, Content, Envelope, Expect, Origin, Outcome,
};
use loci_index::filter::Filter;
use loci_index::record::CollectionId;
use loci_index::view::{self, CollectionView, Effort, SearchRequest, SearchResult, SearchScratch, View};
use loci_wire::v1;
use tonic::Code;

use super::ask;
use super::convert::{self, NAMESPACE_DEFAULT, Parts};
use super::cursor::Cursor;
use super::explain;
use super::status::Failure;
use crate::cluster::{Cluster, book};
use crate::cpu_time::thread_cpu_nanos;
use crate::gate::{Gate, Pass};
use crate::idle::recall::Recall;
use crate::search_threads::SearchThreads;
use crate::shard::{Level, ShardHandle};
use crate::trace;

/// The most keys of one get, and of one delete.
pub const KEYS_MAX: usize = 10_000;
/// The most queries of one search.
pub const QUERIES_MAX: usize = 1_000;
/// The most candidates that a graph search keeps.
pub const EF_MAX: usize = 10_000;
/// The most records of a page.
pub const PAGE_RECORDS_MAX: usize = 10_000;

/// A search that compares with about so many bytes takes 300 us.
const SHORT_BYTES_MAX: u64 = 2 << 20;

const HITS_DEFAULT: usize = 10;
const PAGE_RECORDS_DEFAULT: usize = 1_000;
const PAGE_BYTES_MAX: usize = 16 << 20;
/// What a reply may hold, with room for what surrounds it in its message.
const REPLY_BYTES_MAX: usize = loci_wire::MESSAGE_BYTES_MAX - (1 << 20);
/// A get of more keys than this goes to the search threads, so that it does not hold up other connections.
const KEYS_AT_ONCE: usize = 64;

/// Everything that a call needs.
#[derive(Clone)]
pub struct Calls {
    /// Where records are.
    pub shard: ShardHandle,
    /// Who writes them, if another node leads.
    pub cluster: Cluster,
    /// Where long reads run.
    pub search: SearchThreads,
    /// Where searches are told of, so that some are run again.
    pub recall: Arc<Recall>,
    /// How much may be under way.
    pub gate: Gate,
}

/// How new a read must be, as a shard understands it.
fn level(consistency: Option<v1::Consistency>, shard: u32) -> Result<Level, Failure> {
    use v1::consistency::Level as Wire;
    match consistency.and_then(|consistency| consistency.level) {
        None | Some(Wire::Latest(_)) => Ok(Level::Latest),
        Some(Wire::Stale(_)) => Ok(Level::Stale),
        Some(Wire::Token(token)) if token.shard == shard => Ok(Level::AtLeast(token.index)),
        Some(Wire::Token(token)) => {
            let message = format!("the token is of shard {}, these records are in shard {shard}", token.shard);
            Err(Failure::invalid("foreign_token", message))
        }
    }
}

/// The collection of that name in a view.
pub fn find<'v>(view: &'v View, (namespace, name): &(String, String)) -> Result<CollectionView<'v>, Failure> {
    view.collection(namespace, name).ok_or_else(|| {
        let message = format!("collection {name:?} does not exist in namespace {namespace:?}; create it first");
        Failure::new(Code::NotFound, "unknown_collection", message)
    })
}

/// What the cluster knows about itself is for reading only.
pub fn not_reserved(namespace: &str) -> Result<(), Failure> {
    if namespace == book::NAMESPACE {
        let message = format!("namespace {namespace:?} is the cluster's own: read it, do not write it");
        return Err(Failure::new(Code::PermissionDenied, "reserved_namespace", message));
    }
    Ok(())
}

fn too_large_reply() -> Failure {
    let message = "the reply would be larger than a message may be; ask for fewer records or fewer parts";
    Failure::new(Code::OutOfRange, "reply_too_large", message)
}

fn counted(what: &str, count: usize, max: usize) -> Result<(), Failure> {
    if (1..=max).contains(&count) {
        return Ok(());
    }
    Err(Failure::invalid("wrong_count", format!("a call has 1 to {max} {what}, not {count}; split it")))
}

impl Calls {
    /// Lets a call in.
    pub fn enter(&self, request: &impl prost::Message) -> Result<Pass, Failure> {
        Ok(self.gate.enter(request.encoded_len())?)
    }

    /// Where a state stands, for a reply.
    pub fn token(&self, index: u64) -> Option<v1::Token> {
        Some(v1::Token { shard: self.shard.id(), index })
    }

    /// Logs a command and waits for its outcome; a refusal is a failure.
    pub async fn log(&self, origin: Origin, command: Command, deadline: Instant) -> Result<(Outcome, u64), Failure> {
        let origin = Origin { trace: trace::for_entry(origin.trace), ..origin };
        let written = self.cluster.write(Envelope { origin, command }, deadline).await?;
        match written.outcome {
            Outcome::Refused(refusal) => Err(refusal.into()),
            outcome => Ok((outcome, written.index)),
        }
    }

    /// The newest view there is, for translating names.
    pub async fn newest(&self, deadline: Instant) -> Result<Arc<View>, Failure> {
        Ok(self.shard.view(Level::Latest, Some(deadline)).await?)
    }

    /// By how much the answer to a read may be behind.
    fn lag_millis(&self, consistency: Option<&v1::Consistency>) -> u64 {
        match consistency.and_then(|consistency| consistency.level.as_ref()) {
            Some(v1::consistency::Level::Stale(_)) => self.shard.lag().as_millis() as u64,
            _ => 0,
        }
    }

    async fn view(&self, consistency: Option<v1::Consistency>, deadline: Instant) -> Result<Arc<View>, Failure> {
        Ok(self.shard.view(level(consistency, self.shard.id())?, Some(deadline)).await?)
    }

    /// Inserts, replaces or merges records.
    pub async fn put(&self, request: v1::PutRequest, deadline: Instant) -> Result<v1::WriteReply, Failure> {
        let mode = v1::PutMode::try_from(request.mode)
            .map_err(|_| Failure::invalid("invalid_mode", format!("put mode {} is not known", request.mode)))?;
        if mode != v1::PutMode::Merge && (!request.remove_attributes.is_empty() || request.remove_deadline) {
            return Err(Failure::invalid("invalid_mode", "only a merge can remove attributes or the deadline"));
        }
        counted("records", request.records.len(), CHANGES_MAX)?;
        // Every record's change names them again: a small message must not become a huge one.
        let named: usize = request.remove_attributes.iter().map(|name| name.len() + size_of::<String>()).sum();
        if named.saturating_mul(request.records.len()) > loci_wire::MESSAGE_BYTES_MAX {
            let message =
                "the attributes to remove, named for each record, are larger than a message may be; split the call";
            return Err(Failure::invalid("wrong_count", message));
        }
        let origin = convert::origin(request.origin)?;
        let name = convert::collection_name(request.collection, NAMESPACE_DEFAULT)?;
        let view = self.newest(deadline).await?;
        let now = self.shard.now(&view);
        let collection = find(&view, &name)?;
        not_reserved(&name.0)?;
        let mut conditions =
            Translation { view: &view, namespace: &name.0, own: Some(collection) }.conditions(request.conditions)?;
        let mut changes = Vec::with_capacity(request.records.len());
        for (number, record) in request.records.into_iter().enumerate() {
            let (key, content) = convert::record(record, collection.schema(), number, now)?;
            let expect = match mode {
                v1::PutMode::Insert => Some(Expect::Absent),
                v1::PutMode::Update => Some(Expect::Present),
                v1::PutMode::Unspecified | v1::PutMode::Replace | v1::PutMode::Merge => None,
            };
            if let Some(expect) = expect {
                conditions.push(Condition { collection: collection.id().0, key: key.clone(), expect });
            }
            let action = match mode {
                v1::PutMode::Merge => merge(content, request.remove_attributes.clone(), request.remove_deadline)?,
                _ => Action::Put(content),
            };
            changes.push(Change { collection: collection.id().0, key, action });
        }
        self.write(origin, conditions, changes, deadline).await
    }

    /// Several changes at once.
    pub async fn batch(&self, request: v1::BatchRequest, deadline: Instant) -> Result<v1::WriteReply, Failure> {
        use v1::change::Action as Wire;
        counted("changes", request.changes.len(), CHANGES_MAX)?;
        let origin = convert::origin(request.origin)?;
        let namespace = convert::namespace_name(request.namespace)?;
        let view = self.newest(deadline).await?;
        let now = self.shard.now(&view);
        let translation = Translation { view: &view, namespace: &namespace, own: None };
        let conditions = translation.conditions(request.conditions)?;
        let mut changes = Vec::with_capacity(request.changes.len());
        for (number, change) in request.changes.into_iter().enumerate() {
            let collection = translation.collection(change.collection).map_err(|failure| failure.number(number))?;
            let (key, action) = match change.action {
                Some(Wire::Put(record)) => {
                    let (key, content) = convert::record(record, collection.schema(), number, now)?;
                    (key, Action::Put(content))
                }
                Some(Wire::Merge(wire)) => {
                    let record = wire.record.unwrap_or_default();
                    let (key, content) = convert::record(record, collection.schema(), number, now)?;
                    (key, merge(content, wire.remove_attributes, wire.remove_deadline)?)
                }
                Some(Wire::Delete(key)) => (convert::key(key, number)?, Action::Delete),
                None => {
                    let message = format!("change {number} does nothing; set put, merge or delete");
                    return Err(Failure::invalid("invalid_change", message).number(number));
                }
            };
            changes.push(Change { collection: collection.id().0, key, action });
        }
        self.write(origin, conditions, changes, deadline).await
    }

    async fn write(
        &self,
        origin: Origin,
        conditions: Vec<Condition>,
        changes: Vec<Change>,
        deadline: Instant,
    ) -> Result<v1::WriteReply, Failure> {
        match self.log(origin, Command::Write { conditions, changes }, deadline).await? {
            (Outcome::Written { version, existed }, index) => {
                Ok(v1::WriteReply { token: self.token(index), version, existed })
            }
            (outcome, _) => Err(unexpected(&outcome)),
        }
    }

    /// Deletes by key or by filter.
    pub async fn delete(&self, request: v1::DeleteRequest, deadline: Instant) -> Result<v1::DeleteReply, Failure> {
        let origin = convert::origin(request.origin)?;
        let name = convert::collection_name(request.collection, NAMESPACE_DEFAULT)?;
        let filter = convert::filter(request.filter)?;
        let view = self.newest(deadline).await?;
        let collection = find(&view, &name)?;
        not_reserved(&name.0)?;
        let id = collection.id();
        match filter {
            Some(_) if !request.keys.is_empty() => {
                Err(Failure::invalid("invalid_delete", "set keys or a filter, not both"))
            }
            Some(_) if !request.conditions.is_empty() => {
                Err(Failure::invalid("invalid_delete", "conditions go with keys, not with a filter"))
            }
            Some(filter) => self.delete_where(origin, Arc::clone(&view), id, filter, deadline).await,
            None => {
                counted("keys", request.keys.len(), KEYS_MAX)?;
                let translation = Translation { view: &view, namespace: &name.0, own: Some(collection) };
                let conditions = translation.conditions(request.conditions)?;
                let keys = request.keys.into_iter().enumerate();
                let changes = keys.map(|(number, key)| {
                    Ok(Change { collection: id.0, key: convert::key(key, number)?, action: Action::Delete })
                });
                let reply = self.write(origin, conditions, changes.collect::<Result<_, Failure>>()?, deadline).await?;
                let deleted = reply.existed.iter().filter(|&&existed| existed).count() as u64;
                Ok(v1::DeleteReply { token: reply.token, deleted, existed: reply.existed })
            }
        }
    }

    /// The keys are found on one view. Each deletion names the version it saw, so a record that changed meanwhile stays.
    async fn delete_where(
        &self,
        origin: Origin,
        view: Arc<View>,
        collection: CollectionId,
        filter: Filter,
        deadline: Instant,
    ) -> Result<v1::DeleteReply, Failure> {
        // Not remembered under the request id: a repetition finds other records, and deletes those that are left.
        let origin = Origin { request_id: Vec::new(), ..origin };
        let filter = Arc::new(filter);
        let mut after: Option<Vec<u8>> = None;
        let (mut deleted, mut index) = (0, view.index());
        loop {
            let (shown, filter, now) = (Arc::clone(&view), Arc::clone(&filter), self.shard.now(&view));
            let found = self.search.run(deadline, move |_, keep_going| {
                let collection = by_id(&shown, collection)?;
                let request = view::ScanRequest {
                    after: after.as_deref(),
                    prefix: None,
                    filter: Some(&filter),
                    limit: CHANGES_MAX,
                    bytes_max: usize::MAX,
                    now,
                };
                let page = collection.scan(&request, keep_going).map_err(|_| Failure::late(false))?;
                let changes = page.records.iter().map(|record| Change {
                    collection: collection.id().0,
                    key: record.key().to_vec(),
                    action: Action::DeleteVersion(record.version()),
                });
                Ok::<_, Failure>((changes.collect::<Vec<_>>(), page.next))
            });
            let (changes, next) = found.await??;
            if !changes.is_empty() {
                let reply = self.write(origin.clone(), vec![], changes, deadline).await?;
                deleted += reply.existed.iter().filter(|&&existed| existed).count() as u64;
                index = reply.token.map_or(index, |token| token.index);
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(v1::DeleteReply { token: self.token(index), deleted, existed: vec![] }),
            }
        }
    }

    /// Records by key.
    pub async fn get(&self, request: v1::GetRequest, deadline: Instant) -> Result<v1::GetReply, Failure> {
        counted("keys", request.keys.len(), KEYS_MAX)?;
        let name = convert::collection_name(request.collection, NAMESPACE_DEFAULT)?;
        let parts = Parts::from(request.parts);
        let lag_millis = self.lag_millis(request.consistency.as_ref());
        let view = self.view(request.consistency, deadline).await?;
        let now = self.shard.now(&view);
        let index = view.index();
        let keys = request.keys;
        let records = if keys.len() <= KEYS_AT_ONCE {
            get(&view, &name, &keys, parts, now)?
        } else {
            self.search.run(deadline, move |_, _| get(&view, &name, &keys, parts, now)).await??
        };
        Ok(v1::GetReply { records, token: self.token(index), lag_millis })
    }

    /// One page.
    pub async fn scan(&self, request: v1::ScanRequest, deadline: Instant) -> Result<v1::ScanReply, Failure> {
        let view = self.view(request.consistency, deadline).await?;
        self.page(view, &Scan::new(request)?, deadline).await
    }

    /// A view for a whole stream of pages.
    pub async fn scan_view(&self, request: &v1::ScanRequest, deadline: Instant) -> Result<Arc<View>, Failure> {
        self.view(request.consistency, deadline).await
    }

    /// One page of a view.
    pub async fn page(&self, view: Arc<View>, scan: &Scan, deadline: Instant) -> Result<v1::ScanReply, Failure> {
        let (scan, now) = (scan.clone(), self.shard.now(&view));
        let token = self.token(view.index());
        let page = self.search.run(deadline, move |_, keep_going| {
            let collection = find(&view, &scan.name)?;
            let cursor = Cursor::new(collection.id(), &scan.prefix, scan.filter.as_deref());
            let after = cursor.decode(&scan.cursor)?;
            let request = view::ScanRequest {
                after: after.as_deref(),
                prefix: Some(&scan.prefix),
                filter: scan.filter.as_deref(),
                limit: scan.limit,
                bytes_max: PAGE_BYTES_MAX,
                now,
            };
            let page = collection.scan(&request, keep_going).map_err(|_| Failure::late(false))?;
            let mut budget = Budget(REPLY_BYTES_MAX);
            let mut records = Vec::with_capacity(page.records.len());
            // A page ends early rather than fail: what embeddings add is not counted by the scan.
            let mut next = page.next;
            for record in &page.records {
                let reply = convert::record_reply(*record, collection.schema(), scan.parts);
                if budget.take(&reply).is_err() {
                    let last: Option<&v1::Record> = records.last();
                    next = Some(last.ok_or_else(too_large_reply)?.key.to_vec());
                    break;
                }
                records.push(reply);
            }
            let cursor = next.map_or_else(Bytes::new, |next| cursor.encode(&next).into());
            Ok::<_, Failure>(v1::ScanReply { records, cursor, token })
        });
        page.await?
    }

    /// How many records there are.
    pub async fn count(&self, request: v1::CountRequest, deadline: Instant) -> Result<v1::CountReply, Failure> {
        let name = convert::collection_name(request.collection, NAMESPACE_DEFAULT)?;
        let filter = convert::filter(request.filter)?;
        let view = self.view(request.consistency, deadline).await?;
        let (token, now) = (self.token(view.index()), self.shard.now(&view));
        let count = self.search.run(deadline, move |_, keep_going| {
            find(&view, &name)?.count(filter.as_ref(), now, keep_going).map_err(|_| Failure::late(false))
        });
        Ok(v1::CountReply { count: count.await??, token })
    }

    /// The nearest records.
    ///
    /// `alone`: nothing else is held up if the search is done right here.
    pub async fn search(
        &self,
        request: v1::SearchRequest,
        deadline: Instant,
        alone: bool,
    ) -> Result<v1::SearchReply, Failure> {
        let name = convert::collection_name(request.collection, NAMESPACE_DEFAULT)?;
        counted("queries", request.queries.len(), QUERIES_MAX)?;
        let k = within("k", request.k, HITS_DEFAULT, HITS_MAX)?;
        let effort = match within("ef", request.ef, 0, EF_MAX)? {
            _ if request.exact => Effort::Exact,
            0 => Effort::default(),
            ef => Effort::Ef(ef),
        };
        for (what, bound) in [
            ("greatest distance", request.max_distance),
            ("least distance", request.min_distance),
            ("least score", request.min_score),
        ] {
            if bound.is_some_and(f32::is_nan) {
                return Err(Failure::invalid("invalid_distance", format!("the {what} is not a number")));
            }
        }
        let within = Within {
            distance_min: request.min_distance,
            distance_max: request.max_distance,
            score_min: request.min_score,
        };
        let filter = convert::filter(request.filter)?.map(Arc::new);
        let parts = Parts::from(request.parts);
        let lag_millis = self.lag_millis(request.consistency.as_ref());
        let view = self.view(request.consistency, deadline).await?;
        let (token, now) = (self.token(view.index()), self.shard.now(&view));
        let v1::SearchRequest { queries, group_by, mmr, decay, explain: explained, .. } = request;
        let common = ask::Common { k, effort, filter, within, group_by, mmr, decay, now };
        let is_short = alone && is_short(&view, &name, &queries, &common);
        let (recall, threads) = (Arc::clone(&self.recall), self.search.clone());
        let work = move |scratch: &mut SearchScratch, keep_going: &mut dyn FnMut() -> bool| {
            let collection = find(&view, &name)?;
            let mut budget = Budget(REPLY_BYTES_MAX);
            let mut results = Vec::with_capacity(queries.len());
            for (number, query) in queries.into_iter().enumerate() {
                let ask = common.ask(query, collection.schema()).map_err(|failure| failure.number(number))?;
                let mut watch = |request: &SearchRequest<'_>, result: &SearchResult<'_>| {
                    recall.offer(&view, collection.id(), request, result);
                };
                if explained {
                    scratch.explain(explain::nanos);
                }
                let begun = thread_cpu_nanos();
                let found = collection.ask_watched(&ask, scratch, keep_going, &mut watch);
                threads.searched(thread_cpu_nanos().saturating_sub(begun));
                let explanation = explained.then(|| explain::reply(scratch.explanation()));
                let found = found.map_err(|error| Failure::from(error).number(number))?;
                let hits = found.hits.iter().map(|hit| {
                    let record = convert::record_reply(hit.record, collection.schema(), parts);
                    budget.take(&record)?;
                    let group = hit.group.map(convert::value_reply);
                    Ok(v1::Hit { record: Some(record), distance: hit.distance, score: hit.score, group })
                });
                results.push(v1::Hits { hits: hits.collect::<Result<_, Failure>>()?, explanation });
            }
            Ok::<_, Failure>(results)
        };
        let found = match is_short {
            true => self.search.run_here(deadline, work),
            false => self.search.run(deadline, work).await,
        };
        Ok(v1::SearchReply { results: found??, token, lag_millis })
    }
}

/// Whether a search takes no longer than a few hundred microseconds.
fn is_short(view: &View, (namespace, name): &(String, String), queries: &[v1::Query], common: &ask::Common) -> bool {
    let is_plain = |query: &v1::Query| {
        let near = matches!(query.near, Some(v1::query::Near::Embedding(_) | v1::query::Near::Key(_)));
        near && query.filter.is_none()
    };
    let Effort::Ef(ef) = common.effort else { return false };
    matches!(queries, [query] if is_plain(query))
        && common.filter.is_none()
        && common.group_by.is_none()
        && common.mmr.is_none()
        && common.decay.is_none()
        && view
            .collection(namespace, name)
            .is_some_and(|collection| collection.search_bytes(ef.max(common.k)) <= SHORT_BYTES_MAX)
}

fn by_id(view: &View, id: CollectionId) -> Result<CollectionView<'_>, Failure> {
    view.collection_by_id(id).ok_or_else(|| loci_index::command::Refusal::UnknownCollection(id.0).into())
}

fn unexpected(outcome: &Outcome) -> Failure {
    Failure::new(Code::Internal, "unexpected_outcome", format!("the command ended in {outcome:?}; please report this"))
}

fn within(what: &str, given: u32, default: usize, max: usize) -> Result<usize, Failure> {
    match given as usize {
        0 => Ok(default),
        given if given <= max => Ok(given),
        given => Err(Failure::invalid("out_of_bounds", format!("{what} is {given}; the most is {max}"))),
    }
}

fn merge(content: Content, remove_attributes: Vec<String>, remove_deadline: bool) -> Result<Action, Failure> {
    if remove_deadline && (content.deadline != 0 || content.ttl != 0) {
        return Err(Failure::invalid("invalid_deadline", "give a new deadline or remove it, not both"));
    }
    Ok(Action::Merge { content, remove_attributes, remove_deadline })
}

fn get(
    view: &View,
    name: &(String, String),
    keys: &[Bytes],
    parts: Parts,
    now: u64,
) -> Result<Vec<v1::FoundRecord>, Failure> {
    let collection = find(view, name)?;
    let mut budget = Budget(REPLY_BYTES_MAX);
    let found = keys.iter().map(|key| {
        let Some(record) = collection.get(key, now) else { return Ok(v1::FoundRecord { record: None }) };
        let record = convert::record_reply(record, collection.schema(), parts);
        budget.take(&record)?;
        Ok(v1::FoundRecord { record: Some(record) })
    });
    found.collect()
}

/// What a reply may still hold, in bytes.
struct Budget(usize);

impl Budget {
    fn take(&mut self, record: &v1::Record) -> Result<(), Failure> {
        // A few bytes more for the message around the record.
        let bytes = prost::Message::encoded_len(record) + 16;
        self.0 = self.0.checked_sub(bytes).ok_or_else(too_large_reply)?;
        Ok(())
    }
}

/// What a write's names mean in one view.
struct Translation<'v> {
    view: &'v View,
    /// Of names that do not say one.
    namespace: &'v str,
    /// Of conditions that do not name one.
    own: Option<CollectionView<'v>>,
}

impl<'v> Translation<'v> {
    fn collection(&self, name: Option<v1::CollectionName>) -> Result<CollectionView<'v>, Failure> {
        match (name, self.own) {
            (None, Some(own)) => Ok(own),
            (name, _) => {
                let name = convert::collection_name(name, self.namespace)?;
                if name.0 != self.namespace {
                    let message =
                        format!("a write stays in one namespace, {:?}; {:?} is another", self.namespace, name.0);
                    return Err(Failure::invalid("foreign_namespace", message));
                }
                find(self.view, &name)
            }
        }
    }

    fn conditions(&self, conditions: Vec<v1::Condition>) -> Result<Vec<Condition>, Failure> {
        if conditions.len() > CHANGES_MAX {
            let message = format!("a call has at most {CHANGES_MAX} conditions, not {}; split it", conditions.len());
            return Err(Failure::invalid("wrong_count", message));
        }
        let translated = conditions.into_iter().enumerate().map(|(number, condition)| {
            let expect = convert::expect(&condition, number)?;
            let collection = self.collection(condition.collection).map_err(|failure| failure.number(number))?;
            Ok(Condition { collection: collection.id().0, key: convert::key(condition.key, number)?, expect })
        });
        translated.collect()
    }
}

/// A scan, checked.
#[derive(Clone)]
pub struct Scan {
    name: (String, String),
    prefix: Bytes,
    filter: Option<Arc<Filter>>,
    limit: usize,
    parts: Parts,
    /// Where the next page begins.
    pub cursor: Bytes,
}

impl Scan {
    /// Checks everything but the cursor, which needs the collection.
    pub fn new(request: v1::ScanRequest) -> Result<Scan, Failure> {
        Ok(Scan {
            name: convert::collection_name(request.collection, NAMESPACE_DEFAULT)?,
            prefix: request.prefix,
            filter: convert::filter(request.filter)?.map(Arc::new),
            limit: within("limit", request.limit, PAGE_RECORDS_DEFAULT, PAGE_RECORDS_MAX)?,
            parts: Parts::from(request.parts),
            cursor: request.cursor,
        })
    }
}
