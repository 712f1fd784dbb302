//! What each call on records does, whichever way it came: a unary call, a stream, or the pipeline.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use loci_index::command::{Command, Envelope, Origin, Outcome};
use loci_index::filter::Filter;
use loci_index::view::{self, Effort, SearchRequest, SearchResult, SearchScratch, View};
use loci_wire::v1;
use tonic::Code;

use super::ask;
use super::convert::{self, NAMESPACE_DEFAULT, Parts};
use super::cursor::Cursor;
use super::explain;
use super::home::{Name, Reading, Wanted};
use super::status::Failure;
use crate::cluster::{Cluster, book};
use crate::cpu_time::thread_cpu_nanos;
use crate::gate::{Gate, Pass};
use crate::idle::recall::Recall;
use crate::search_threads::SearchThreads;
use crate::shard::{Level, ReadError, Written};
use crate::trace;
use crate::watches::Watches;

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

/// Hits of a search that does not say how many.
pub const HITS_DEFAULT: usize = 10;
const PAGE_RECORDS_DEFAULT: usize = 1_000;
const PAGE_BYTES_MAX: usize = 16 << 20;
/// What a reply may hold, with room for what surrounds it in its message.
pub const REPLY_BYTES_MAX: usize = loci_wire::MESSAGE_BYTES_MAX - (1 << 20);
/// A get of more keys than this goes to the search threads, so that it does not hold up other connections.
const KEYS_AT_ONCE: usize = 64;

/// Everything that a call needs.
#[derive(Clone)]
pub struct Calls {
    /// Where records are, and who writes them if another node leads.
    pub cluster: Cluster,
    /// Where long reads run.
    pub search: SearchThreads,
    /// Where searches are told of, so that some are run again.
    pub recall: Arc<Recall>,
    /// How much may be under way.
    pub gate: Gate,
    /// Who watches.
    pub watches: Watches,
    /// Whether scripts run that clients bring along.
    pub scripts: bool,
}

/// What the cluster knows about itself is for reading only.
pub fn not_reserved(namespace: &str) -> Result<(), Failure> {
    if namespace == book::NAMESPACE {
        let message = format!("namespace {namespace:?} is the cluster's own: read it, do not write it");
        return Err(Failure::new(Code::PermissionDenied, "reserved_namespace", message));
    }
    Ok(())
}

/// A collection's name, as it travels.
pub fn name_reply((namespace, collection): Name) -> v1::CollectionName {
    v1::CollectionName { namespace, collection }
}

pub fn too_large_reply() -> Failure {
    let message = "the reply would be larger than a message may be; ask for fewer records or fewer parts";
    Failure::new(Code::OutOfRange, "reply_too_large", message)
}

pub fn counted(what: &str, count: usize, max: usize) -> Result<(), Failure> {
    if (1..=max).contains(&count) {
        return Ok(());
    }
    Err(Failure::invalid("wrong_count", format!("a call has 1 to {max} {what}, not {count}; split it")))
}

impl Calls {
    /// Lets a call in; none at a node that was removed, whose catalog is that of back then.
    pub fn enter(&self, request: &impl prost::Message) -> Result<Pass, Failure> {
        if self.cluster.catalog().is_removed() {
            return Err(ReadError::Removed.into());
        }
        Ok(self.gate.enter(request.encoded_len())?)
    }

    /// Has the catalog log a command, and waits for its outcome; a refusal is a failure.
    pub async fn log(&self, origin: Origin, command: Command, deadline: Instant) -> Result<(Outcome, u64), Failure> {
        log(&self.cluster, origin, command, deadline).await
    }

    /// The newest view there is of the catalog.
    pub async fn newest(&self, deadline: Instant) -> Result<Arc<View>, Failure> {
        Ok(self.cluster.catalog().view(Level::Latest, Some(deadline)).await?)
    }

    /// Records by key.
    pub async fn get(&self, mut request: Box<v1::GetRequest>, deadline: Instant) -> Result<v1::GetReply, Failure> {
        counted("keys", request.keys.len(), KEYS_MAX)?;
        let name = convert::collection_name(request.collection.take(), NAMESPACE_DEFAULT)?;
        match Reading::at_once(&self.cluster, &name, &request.keys, request.consistency.as_ref()) {
            Some(reading) if request.keys.len() <= KEYS_AT_ONCE => {
                let (token, lag_millis) = (reading.token(), reading.lag_millis(request.consistency.as_ref()));
                let records = get(&reading, &request.keys, Parts::from(request.parts))?;
                Ok(v1::GetReply { records, token, lag_millis })
            }
            // What waits for anything is many times as large.
            _ => Box::pin(self.get_wherever(name, request, deadline)).await,
        }
    }

    async fn get_wherever(
        &self,
        name: Name,
        request: Box<v1::GetRequest>,
        deadline: Instant,
    ) -> Result<v1::GetReply, Failure> {
        if let Some(far) = self.far(&name.0, |route| Some(Wanted::Keys(&request.keys).shards(route))) {
            let collection = Some(name_reply(name));
            return self.get_far(far, v1::GetRequest { collection, ..*request }, deadline).await;
        }
        let v1::GetRequest { keys, parts, consistency, .. } = *request;
        let (parts, consistency) = (Parts::from(parts), consistency.as_ref());
        let reading = Reading::new(&self.cluster, name, Wanted::Keys(&keys), consistency, deadline).await?;
        let (token, lag_millis) = (reading.token(), reading.lag_millis(consistency));
        let records = if keys.len() <= KEYS_AT_ONCE {
            get(&reading, &keys, parts)?
        } else {
            self.search.run(deadline, move |_, _| get(&reading, &keys, parts)).await??
        };
        Ok(v1::GetReply { records, token, lag_millis })
    }

    /// One page.
    pub async fn scan(&self, request: v1::ScanRequest, deadline: Instant) -> Result<v1::ScanReply, Failure> {
        let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
        if let Some(far) = self.far_from_all(&name) {
            return Box::pin(self.scan_far(far, request, deadline)).await;
        }
        let reading = self.reading_of_scan(&request, deadline).await?;
        self.page(reading, &Scan::new(request)?, deadline).await
    }

    /// Whether some of what is scanned is on other nodes.
    pub fn scans_far(&self, request: &v1::ScanRequest) -> Result<bool, Failure> {
        let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
        Ok(self.far_from_all(&name).is_some())
    }

    /// What a whole stream of pages is read from.
    pub async fn reading_of_scan(&self, request: &v1::ScanRequest, deadline: Instant) -> Result<Reading, Failure> {
        let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
        Reading::new(&self.cluster, name, Wanted::All, request.consistency.as_ref(), deadline).await
    }

    /// One page.
    pub async fn page(&self, reading: Reading, scan: &Scan, deadline: Instant) -> Result<v1::ScanReply, Failure> {
        let (scan, token) = (scan.clone(), reading.token());
        let page = self.search.run(deadline, move |_, keep_going| {
            let collections = reading.collections()?;
            let collection = *collections.first().ok_or_else(no_part)?;
            let cursor = Cursor::new(collection.id(), &scan.prefix, scan.filter.as_deref());
            let after = cursor.decode(&scan.cursor)?;
            let request = view::ScanRequest {
                after: after.as_deref(),
                prefix: Some(&scan.prefix),
                filter: scan.filter.as_deref(),
                limit: scan.limit,
                bytes_max: PAGE_BYTES_MAX,
                now: reading.now(),
            };
            let page = view::Parts::new(&collections).scan(&request, keep_going).map_err(|_| Failure::late(false))?;
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
        let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
        if let Some(far) = self.far_from_all(&name) {
            return Box::pin(self.count_far(far, request, deadline)).await;
        }
        let filter = convert::filter(request.filter)?;
        let consistency = request.consistency.as_ref();
        let reading = Reading::new(&self.cluster, name, Wanted::All, consistency, deadline).await?;
        let token = reading.token();
        let count = self.search.run(deadline, move |_, keep_going| {
            let (collections, now) = (reading.collections()?, reading.now());
            view::Parts::new(&collections).count(filter.as_ref(), now, keep_going).map_err(|_| Failure::late(false))
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
        let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
        counted("queries", request.queries.len(), QUERIES_MAX)?;
        let apart = if request.partial { self.shard_by_shard(&name) } else { None };
        if let Some(far) = apart.or_else(|| self.far_from_all(&name)) {
            return Box::pin(self.search_far(far, name, request, deadline)).await;
        }
        let common = ask::Common::new(&request)?;
        let parts = Parts::from(request.parts);
        let consistency = request.consistency.as_ref();
        let reading = Reading::new(&self.cluster, name, Wanted::All, consistency, deadline).await?;
        let (token, lag_millis) = (reading.token(), reading.lag_millis(consistency));
        let common = ask::Common { now: reading.now(), ..common };
        let v1::SearchRequest { queries, explain: explained, .. } = request;
        let is_short = alone && is_short(&reading, &queries, &common);
        let (recall, threads) = (Arc::clone(&self.recall), self.search.clone());
        let work = move |scratch: &mut SearchScratch, keep_going: &mut dyn FnMut() -> bool| {
            let collections = reading.collections()?;
            let collection = *collections.first().ok_or_else(no_part)?;
            let mut budget = Budget(REPLY_BYTES_MAX);
            let mut results = Vec::with_capacity(queries.len());
            for (number, query) in queries.into_iter().enumerate() {
                let ask = common.ask(query, collection.schema()).map_err(|failure| failure.number(number))?;
                let mut watch = |part: usize, request: &SearchRequest<'_>, result: &SearchResult<'_>| {
                    recall.offer(&reading.parts()[part].view, collection.id(), request, result);
                };
                if explained {
                    scratch.explain(explain::nanos);
                }
                let begun = thread_cpu_nanos();
                let found = view::Parts::new(&collections).ask_watched(&ask, scratch, keep_going, &mut watch);
                threads.searched(thread_cpu_nanos().saturating_sub(begun));
                let explanation =
                    explained.then(|| explain::reply(scratch.explanation(), |part| reading.parts()[part].shard.id()));
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
        Ok(v1::SearchReply { results: found??, token, lag_millis, missing: Vec::new() })
    }
}

/// Whether a search takes no longer than a few hundred microseconds.
fn is_short(reading: &Reading, queries: &[v1::Query], common: &ask::Common) -> bool {
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
        && reading.collections().is_ok_and(|collections| {
            let bytes = collections.iter().map(|collection| collection.search_bytes(ef.max(common.k)));
            bytes.sum::<u64>() <= SHORT_BYTES_MAX
        })
}

/// A number that a request gives: not more than `max`, and if it gives none, `default`.
pub fn within(what: &str, given: u32, default: usize, max: usize) -> Result<usize, Failure> {
    match given as usize {
        0 => Ok(default),
        given if given <= max => Ok(given),
        given => Err(Failure::invalid("out_of_bounds", format!("{what} is {given}; the most is {max}"))),
    }
}

fn get(reading: &Reading, keys: &[Bytes], parts: Parts) -> Result<Vec<v1::FoundRecord>, Failure> {
    let (collections, now) = (reading.collections()?, reading.now());
    let mut budget = Budget(REPLY_BYTES_MAX);
    let found = keys.iter().map(|key| {
        let collection = collections.get(reading.part(key)).ok_or_else(no_part)?;
        let Some(record) = collection.get(key, now) else { return Ok(v1::FoundRecord { record: None }) };
        let record = convert::record_reply(record, collection.schema(), parts);
        budget.take(&record)?;
        Ok(v1::FoundRecord { record: Some(record) })
    });
    found.collect()
}

/// A namespace has at least one shard.
pub fn no_part() -> Failure {
    Failure::new(Code::Internal, "no_shard", "the namespace has no shard; please report this")
}

/// Has a shard log a command, and waits for its outcome; a refusal is a failure.
pub async fn log(
    cluster: &Cluster,
    origin: Origin,
    command: Command,
    deadline: Instant,
) -> Result<(Outcome, u64), Failure> {
    not_refused(cluster.write(envelope(origin, command), deadline).await?)
}

/// A command of the call here.
pub fn envelope(origin: Origin, command: Command) -> Envelope {
    Envelope { origin: Origin { trace: trace::for_entry(origin.trace), ..origin }, command }
}

/// What became of a command, and where it is in the log.
pub fn not_refused(written: Written) -> Result<(Outcome, u64), Failure> {
    match written.outcome {
        Outcome::Refused(refusal) => Err(refusal.into()),
        outcome => Ok((outcome, written.index)),
    }
}

/// What a reply may still hold, in bytes.
pub struct Budget(pub usize);

impl Budget {
    /// Takes the room for one record.
    pub fn take(&mut self, record: &v1::Record) -> Result<(), Failure> {
        // A few bytes more for the message around the record.
        self.take_bytes(prost::Message::encoded_len(record) + 16)
    }

    /// Takes room for anything.
    pub fn take_bytes(&mut self, bytes: usize) -> Result<(), Failure> {
        self.0 = self.0.checked_sub(bytes).ok_or_else(too_large_reply)?;
        Ok(())
    }
}

/// A scan, checked.
#[derive(Clone)]
pub struct Scan {
    prefix: Bytes,
    filter: Option<Arc<Filter>>,
    /// Records of a page.
    pub limit: usize,
    parts: Parts,
    /// Where the next page begins.
    pub cursor: Bytes,
}

impl Scan {
    /// Checks everything but the cursor, which needs the collection.
    pub fn new(request: v1::ScanRequest) -> Result<Scan, Failure> {
        Ok(Scan {
            prefix: request.prefix,
            filter: convert::filter(request.filter)?.map(Arc::new),
            limit: within("limit", request.limit, PAGE_RECORDS_DEFAULT, PAGE_RECORDS_MAX)?,
            parts: Parts::from(request.parts),
            cursor: request.cursor,
        })
    }
}
