//! The `Changes` service: what changes, from a token on.
//!
//! ```text
//!   history of a shard --read(after)--> one teller a shard: which of it was asked for? --> replies (few) --> client
//!                                          ^ waits for the next entry                       full: the teller waits,
//!                                                                                           then cuts the client off
//! ```
//!
//! Whoever is slow waits at his own place in the history, which everybody shares, so a watcher takes no memory but for the few
//! replies on their way to it. What a change left is looked up when it is told, in the newest view, by the change's
//! position: versions that were replaced are there for a while.
//!
//! Always: an entry's changes are told in order, and a token only once all of them are.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use loci_index::effects::{Effect, EntryEffects, Fate};
use loci_index::filter::Filter;
use loci_index::record::{CollectionId, Position};
use loci_index::table::{Keyspace, Table};
use loci_index::view::{CollectionView, View};
use loci_wire::v1;
use loci_wire::v1::changes_server::Changes;
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::calls::Calls;
use super::convert::{self, Parts};
use super::home::{self, Place, find, place, running};
use super::records::deadline;
use super::status::Failure;
use crate::gate;
use crate::metrics::Metrics;
use crate::shard::{Level, Lost, ShardHandle};
use crate::watches::{CutOff, Watches, Watching};

/// The most collections that one watch names.
pub const COLLECTIONS_MAX: usize = 100;
/// The most keys that one watch names.
pub const KEYS_MAX: usize = 1_000;
/// Replies on their way to one client.
const REPLIES_WAITING: usize = 4;
/// A reply of more bytes is sent.
const REPLY_BYTES: usize = 512 << 10;
/// How long a client may take for a reply when several wait for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// A watcher that is told nothing hears how far the log has come, so that its token does not grow old.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Who has heard of no leader for so long is not the one to watch.
const LAG_MAX: Duration = Duration::from_secs(10);
/// So much of the history is read in one go.
const PIECE_BYTES: usize = 64 << 10;
/// So many changes are looked up before others have their turn.
const EFFECTS_AT_ONCE: u32 = 256;

/// Serves `loci.v1.Changes`.
#[derive(Clone)]
pub struct WatchService {
    /// Where everything is.
    pub calls: Calls,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

/// What is asked for, checked.
struct Asked {
    namespace: String,
    /// Empty: all.
    collections: BTreeSet<String>,
    /// Empty: all.
    keys: BTreeSet<Vec<u8>>,
    prefix: Bytes,
    filter: Option<Filter>,
    parts: Option<Parts>,
    /// Whatever this node knows will do.
    stale: bool,
}

/// Where a shard's part begins.
enum Start {
    /// It runs here.
    Here { shard: ShardHandle, after: u64 },
    /// Another node tells of it.
    There(Box<Relay>),
}

/// Why a watch ends.
enum End {
    /// Nobody hears it any more.
    Gone,
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> End {
        End::Failed(failure)
    }
}

fn too_old(shard: &ShardHandle, after: u64, Lost { since }: Lost) -> Failure {
    let message = format!(
        "what followed entry {after} of shard {} is no longer kept on this node, which goes back to entry {since}: read anew and \
         watch from the token of that read, or ask another node",
        shard.id()
    );
    let mut failure = Failure::new(Code::OutOfRange, "token_too_old", message);
    (failure.detail.number, failure.detail.version) = (shard.id(), since);
    failure
}

fn stopping() -> Failure {
    Failure::new(Code::Unavailable, "stopping", "the node is stopping; go on from the last token on another node")
}

impl Asked {
    fn new(request: v1::WatchRequest) -> Result<Asked, Failure> {
        let v1::WatchRequest { namespace, collections, keys, prefix, filter, parts, stale, .. } = request;
        let namespace = convert::namespace_name(namespace)?;
        for (what, count, max) in [("collections", collections.len(), COLLECTIONS_MAX), ("keys", keys.len(), KEYS_MAX)]
        {
            if count > max {
                let message = format!("a watch names at most {max} {what}, not {count}; leave them out to watch all");
                return Err(Failure::invalid("wrong_count", message));
            }
        }
        let named = collections.into_iter().map(|collection| {
            let name = v1::CollectionName { namespace: String::new(), collection };
            Ok(convert::collection_name(Some(name), &namespace)?.1)
        });
        let collections = named.collect::<Result<_, Failure>>()?;
        let filter = convert::filter(filter)?;
        let keys = keys.into_iter().map(Vec::from).collect();
        let parts = parts.map(|parts| Parts::from(Some(parts)));
        Ok(Asked { namespace, collections, keys, prefix, filter, parts, stale })
    }

    /// Whether a key is one of those.
    fn is_about(&self, key: &[u8]) -> bool {
        key.starts_with(&self.prefix) && (self.keys.is_empty() || self.keys.contains(key))
    }

    /// Whether everything is there that is named.
    fn exists(&self, catalog: &View) -> Result<(), Failure> {
        if !catalog.has_namespace(&self.namespace) {
            let message = format!("namespace {:?} does not exist; create it first", self.namespace);
            return Err(Failure::new(Code::NotFound, "unknown_namespace", message));
        }
        for name in &self.collections {
            find(catalog, &(self.namespace.clone(), name.clone()))?;
        }
        Ok(())
    }
}

impl Calls {
    /// Where a watch begins in each shard.
    async fn begin_watch(
        &self,
        asked: &Asked,
        request: &v1::WatchRequest,
        from: Option<v1::Token>,
        deadline: Instant,
    ) -> Result<Vec<Start>, Failure> {
        let stale = asked.stale;
        let mut shards = None;
        for again in [false, true] {
            let (found, catalog) = match place(&self.cluster, &asked.namespace, None, again, deadline).await {
                Ok(Place::Shards(route, catalog)) => (route.shards().to_vec(), catalog),
                Ok(Place::Catalog(view)) => (vec![self.cluster.catalog().id()], view),
                // Nobody leads the catalog: whoever takes what there is can do without.
                Err(_) if stale && !self.cluster.is_only() => {
                    (vec![self.cluster.catalog().id()], self.cluster.catalog().newest())
                }
                Err(failure) => return Err(failure),
            };
            match asked.exists(&catalog) {
                Err(failure) if again => return Err(failure),
                Err(_) => {}
                Ok(()) => {
                    shards = Some(found);
                    break;
                }
            }
        }
        let shards = self.cluster.among(shards.unwrap_or_default());
        let parts = || from.iter().flat_map(|token| [token].into_iter().chain(&token.others));
        let missing: Vec<u32> =
            shards.iter().copied().filter(|shard| !parts().any(|part| part.shard == *shard)).collect();
        if from.is_some() && !missing.is_empty() {
            let named: Vec<u32> = parts().map(|part| part.shard).collect();
            let message = format!(
                "what is watched is in shards {shards:?}, and the token says where to begin in {named:?} only: give the places of \
                 all of them, as a read of the whole collection or a watch has them"
            );
            return Err(Failure::invalid("foreign_token", message));
        }
        let starts = shards.iter().map(|&id| {
            let from = parts().find(|part| part.shard == id).map(|part| part.index);
            async move {
                let here = self.cluster.answers(id);
                if !here && !self.cluster.is_only() {
                    return Ok(Start::There(Box::new(self.begin_relay(id, request, from, deadline).await?)));
                }
                let shard = running(&self.cluster, id)?;
                if !shard.history().is_kept() {
                    let message = "this node keeps no history for watches: it runs with --watch-history-mib 0";
                    return Err(Failure::new(Code::FailedPrecondition, "watch_off", message));
                }
                let level = match from {
                    Some(index) => Level::AtLeast(index),
                    None if stale => Level::Stale,
                    None => Level::Latest,
                };
                let view = shard.view(level, Some(deadline)).await?;
                let after = from.unwrap_or(view.index());
                shard.history().read(after, 0).map_err(|lost| too_old(&shard, after, lost))?;
                Ok::<_, Failure>(Start::Here { shard, after })
            }
        });
        try_join_all(starts).await
    }

    /// Has a node tell that has a shard which is not here.
    async fn begin_relay(
        &self,
        id: u32,
        request: &v1::WatchRequest,
        from: Option<u64>,
        deadline: Instant,
    ) -> Result<Relay, Failure> {
        if self.cluster.leader_of(id).is_none() {
            self.cluster.look_for(id).await;
        }
        let from = from.map(|index| v1::Token { shard: id, index, others: Vec::new() });
        let watch = v1::WatchRequest { from, ..request.clone() };
        let message = format!("nobody says that he has shard {id}; retry");
        let mut last = Failure::new(Code::Unavailable, "no_such_shard", message);
        for member in self.cluster.answering(id) {
            let request = v1::TellRequest { shards: vec![id], watch: Some(watch.clone()) };
            let begun = async {
                let mut stream = self.cluster.links().tell(member, request).await?;
                // Says where it begins.
                let first = stream.message().await?;
                Ok::<_, Status>((first.and_then(|reply| reply.token), stream))
            };
            match timeout(deadline.saturating_duration_since(Instant::now()), begun).await {
                Ok(Ok((Some(token), stream))) => return Ok(Relay { shard: id, after: token.index, stream }),
                Ok(Ok((None, _))) => {}
                Ok(Err(status)) if status.code() == Code::Unavailable => last = Failure::from_status(&status),
                Ok(Err(status)) => return Err(Failure::from_status(&status)),
                Err(_) => break,
            }
        }
        Err(last)
    }
}

/// Hands on what another node tells of a shard.
struct Relay {
    shard: u32,
    after: u64,
    stream: Streaming<v1::WatchReply>,
}

impl Relay {
    async fn run(mut self, replies: mpsc::Sender<v1::WatchReply>, watches: Watches) -> Result<(), End> {
        loop {
            match self.stream.message().await {
                Ok(Some(reply)) => {
                    let events = reply.events.len();
                    send(&replies, reply, &watches).await?;
                    watches.sent(events);
                }
                Ok(None) => return Err(gone(self.shard, "its stream ended").into()),
                Err(status) if status.details().is_empty() => return Err(gone(self.shard, status.message()).into()),
                Err(status) => return Err(Failure::from_status(&status).into()),
            }
        }
    }
}

fn gone(shard: u32, why: &str) -> Failure {
    let message = format!("the node that told of shard {shard} tells no more: {why}; go on from the last token");
    Failure::new(Code::Unavailable, "no_such_shard", message)
}

/// Sends a reply, if it is taken in time.
async fn send(replies: &mpsc::Sender<v1::WatchReply>, reply: v1::WatchReply, watches: &Watches) -> Result<(), End> {
    match timeout(PATIENCE, replies.send(reply)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => {
            watches.cut_off(CutOff::Slow);
            let message = format!(
                "replies were not taken for {} seconds: go on from the last token, and read faster or watch less",
                PATIENCE.as_secs()
            );
            Err(Failure::new(Code::ResourceExhausted, "slow_watcher", message).retry_after(gate::RETRY_AFTER).into())
        }
    }
}

/// Tells what changes in one shard.
struct Teller {
    asked: Arc<Asked>,
    shard: ShardHandle,
    applied: watch::Receiver<u64>,
    /// Everything up to here was told.
    after: u64,
    /// What those collections are called that are watched; none: it is not.
    names: HashMap<CollectionId, Option<Arc<str>>>,
    pending: v1::WatchReply,
    pending_bytes: usize,
    /// The last token that was sent, and when.
    sent: (u64, Instant),
    /// When it was last looked whether this is the place to watch.
    looked: Instant,
    replies: mpsc::Sender<v1::WatchReply>,
    watches: Watches,
}

impl Teller {
    async fn run(mut self) -> Result<(), End> {
        loop {
            self.applied.borrow_and_update();
            let piece = self.shard.history().read(self.after, PIECE_BYTES).map_err(|lost| {
                self.watches.cut_off(CutOff::Behind);
                too_old(&self.shard, self.after, lost)
            })?;
            if piece.up_to == self.after {
                self.wait().await?;
                continue;
            }
            let mut rest = &piece.bytes[..];
            while let Ok(entry) = EntryEffects::take(&mut rest) {
                self.tell(entry).await?;
            }
            self.after = piece.up_to;
            if !self.pending.events.is_empty() {
                self.flush().await?;
            }
            // Whoever is far behind never waits, and others want to be told too.
            if Instant::now() >= self.next_look() {
                self.look().await?;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Until there is more.
    async fn wait(&mut self) -> Result<(), End> {
        let look = self.next_look();
        tokio::select! {
            changed = self.applied.changed() => changed.map_err(|_| stopping())?,
            () = sleep_until(look.into()) => {}
        }
        // What is not watched may be written all the time.
        if Instant::now() >= look { self.look().await } else { Ok(()) }
    }

    fn next_look(&self) -> Instant {
        let (_, at) = self.sent;
        self.looked.max(at) + PROGRESS_EVERY
    }

    /// Whether this is still the place to watch. Says how far the log has come, if nothing was told lately.
    async fn look(&mut self) -> Result<(), End> {
        self.looked = Instant::now();
        if self.shard.is_removed() {
            let message = "this node was removed from the cluster: go on from the last token on another";
            return Err(Failure::new(Code::Unavailable, "removed", message).into());
        }
        if self.shard.is_stopping() {
            return Err(stopping().into());
        }
        let lag = self.shard.lag();
        if lag > LAG_MAX && !self.asked.stale {
            let message = format!(
                "this node has heard of no leader of shard {} for {} s, and others may know more: go on from the last token on one",
                self.shard.id(),
                lag.as_secs()
            );
            return Err(Failure::new(Code::Unavailable, "no_leader", message).into());
        }
        if self.sent.0 < self.after { self.flush().await } else { Ok(()) }
    }

    async fn tell(&mut self, entry: EntryEffects<'_>) -> Result<(), End> {
        let view = self.shard.newest();
        for (number, effect) in (0..).zip(entry.iter()) {
            if let Some(event) = self.event(&view, &entry, number, &effect) {
                self.pending_bytes += event.encoded_len() + 8;
                self.pending.events.push(event);
                if self.pending_bytes >= REPLY_BYTES {
                    self.flush().await?;
                }
            }
            if number % EFFECTS_AT_ONCE == EFFECTS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.after = entry.index;
        Ok(())
    }

    /// Sends what is pending.
    async fn flush(&mut self) -> Result<(), End> {
        let mut reply = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let events = reply.events.len();
        reply.shard = self.shard.id();
        reply.token = home::token([(self.shard.id(), self.after)]);
        send(&self.replies, reply, &self.watches).await?;
        self.watches.sent(events);
        self.sent = (self.after, Instant::now());
        Ok(())
    }

    /// What a collection is called, if it is watched.
    fn name(&mut self, view: &View, effect: &Effect<'_>) -> Option<Arc<str>> {
        let asked = &*self.asked;
        let name = self.names.entry(effect.collection).or_insert_with(|| {
            let dropped = || std::str::from_utf8(effect.key).ok()?.split_once('/');
            let found = match view.collection_by_id(effect.collection) {
                Some(found) => Some((found.namespace(), found.name())),
                // Of one that has gone only that is told.
                None if effect.fate == Fate::Dropped => dropped(),
                None => None,
            };
            let (namespace, name) = found?;
            let is_it =
                namespace == asked.namespace && (asked.collections.is_empty() || asked.collections.contains(name));
            is_it.then(|| Arc::from(name))
        });
        let name = name.clone();
        // It may have been looked up before it was known to be dropped, or because of that.
        // One that is dropped is not heard of again.
        let unknown = name.is_none() && view.collection_by_id(effect.collection).is_none();
        if unknown || effect.fate == Fate::Dropped {
            self.names.remove(&effect.collection);
        }
        name
    }

    /// What is told of an effect, if it is asked for.
    fn event(
        &mut self,
        view: &View,
        entry: &EntryEffects<'_>,
        number: u32,
        effect: &Effect<'_>,
    ) -> Option<v1::WatchEvent> {
        let is_whole = matches!(effect.fate, Fate::Cleared | Fate::Dropped);
        if !is_whole && !self.asked.is_about(effect.key) {
            return None;
        }
        let name = self.name(view, effect)?;
        let asked = &*self.asked;
        let mut kind = match effect.fate {
            Fate::Made => v1::WatchKind::Created,
            Fate::Replaced => v1::WatchKind::Replaced,
            Fate::Deleted => v1::WatchKind::Deleted,
            Fate::Expired => v1::WatchKind::Expired,
            Fate::Evicted => v1::WatchKind::Evicted,
            Fate::Cleared => v1::WatchKind::Cleared,
            Fate::Dropped => v1::WatchKind::Dropped,
        };
        let found = view.collection_by_id(effect.collection);
        if let Some(filter) = &asked.filter
            && effect.fate != Fate::Dropped
        {
            if effect.typed {
                return None;
            }
            kind = filtered(filter, found, effect, kind)?;
        }
        let mut event = v1::WatchEvent {
            collection: name.to_string(),
            key: if is_whole { Bytes::new() } else { Bytes::copy_from_slice(effect.key) },
            index: entry.index,
            number,
            clock_millis: entry.clock,
            version: effect.position.get(),
            ..Default::default()
        };
        event.set_kind(kind);
        if let (true, Some(parts), Some(found)) = (effect.fate.is_there(), asked.parts, found) {
            if effect.typed {
                let read = found.table().and_then(|table| typed(table, effect, parts, view.clock()));
                (event.record, event.r#type) = read.map_or((None, String::new()), |(r, t)| (Some(r), t.into()));
            } else if kind != v1::WatchKind::Left {
                let left = version(found, effect.key, effect.position);
                event.record = left.map(|record| convert::record_reply(record, found.schema(), parts));
            }
        }
        Some(event)
    }
}

/// The version that was written at a position.
fn version<'v>(
    collection: CollectionView<'v>,
    key: &[u8],
    position: Position,
) -> Option<loci_index::view::RecordRef<'v>> {
    collection.version_at(key, position).filter(|record| record.version() == position.get())
}

/// What is told of a record's change with a filter. What is not known may be so: better one event too many than one too few.
fn filtered(
    filter: &Filter,
    found: Option<CollectionView<'_>>,
    effect: &Effect<'_>,
    kind: v1::WatchKind,
) -> Option<v1::WatchKind> {
    let takes =
        |record: Option<loci_index::view::RecordRef<'_>>| record.map(|record| filter.takes(record.attributes()));
    let after = || takes(found.and_then(|found| version(found, effect.key, effect.position)));
    let before = || takes(found.and_then(|found| found.version_at(effect.key, effect.position.before())));
    match effect.fate {
        Fate::Made => (after() != Some(false)).then_some(kind),
        Fate::Replaced if after() != Some(false) => Some(kind),
        Fate::Replaced => (before() != Some(false)).then_some(v1::WatchKind::Left),
        _ => (before() != Some(false)).then_some(kind),
    }
}

/// A typed value that has not been replaced since.
fn typed(table: &Table, effect: &Effect<'_>, parts: Parts, now: u64) -> Option<(v1::Record, &'static str)> {
    table.read(|keyspace: &Keyspace| {
        let key = effect.key;
        let kind = keyspace.type_of(key, now)?;
        if keyspace.version(key, now)? != effect.position.get() {
            return None;
        }
        let string = if parts.value { keyspace.string(key, now).ok().flatten() } else { None };
        let record = v1::Record {
            key: Bytes::copy_from_slice(key),
            value: string.map(Bytes::copy_from_slice),
            deadline_millis: keyspace.deadline(key, now)?,
            version: effect.position.get(),
            ..Default::default()
        };
        Some((record, kind))
    })
}

/// Replies, and then why there are no more.
#[derive(Debug)]
pub struct WatchStream {
    replies: mpsc::Receiver<v1::WatchReply>,
    end: Option<oneshot::Receiver<Status>>,
}

impl Stream for WatchStream {
    type Item = Result<v1::WatchReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(reply) = ready!(self.replies.poll_recv(context)) {
            return Poll::Ready(Some(Ok(reply)));
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let status = ready!(Pin::new(end).poll(context));
        self.end = None;
        Poll::Ready(Some(Err(status.unwrap_or_else(|_| stopping().into()))))
    }
}

/// Tells until there is a reason to end.
async fn tell(
    tellers: Vec<Teller>,
    relays: Vec<Relay>,
    watches: Watches,
    replies: mpsc::Sender<v1::WatchReply>,
) -> End {
    // Says where it begins, in all shards: a client that loses its connection early must not begin anew in some of them.
    let here = tellers.iter().map(|teller| (teller.shard.id(), teller.after));
    let there = relays.iter().map(|relay| (relay.shard, relay.after));
    let begin = v1::WatchReply { token: home::token(here.chain(there)), ..Default::default() };
    if replies.send(begin).await.is_err() {
        return End::Gone;
    }
    let relayed = relays.into_iter().map(|relay| relay.run(replies.clone(), watches.clone()));
    let all = async { tokio::try_join!(try_join_all(tellers.into_iter().map(Teller::run)), try_join_all(relayed)) };
    tokio::select! {
        ended = all => match ended {
            Err(end) => end,
            // Every watch is of at least one shard, and goes on until it fails.
            Ok(_) => End::Gone,
        },
        () = replies.closed() => End::Gone,
        () = watches.closed() => stopping().into(),
    }
}

#[tonic::async_trait]
impl Changes for WatchService {
    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<WatchStream>, Status> {
        let begun = Instant::now();
        let until = deadline(request.metadata(), gate::TIMEOUT_DEFAULT).min(begun + gate::TIMEOUT_DEFAULT);
        let mut request = request.into_inner();
        let from = request.from.take();
        let started = async {
            let _pass = self.calls.enter(&request)?;
            let asked = Asked::new(request.clone())?;
            let starts = self.calls.begin_watch(&asked, &request, from, until).await?;
            let watching = self.calls.watches.begin().ok_or_else(|| {
                let message = "there are as many watches on this node as there may be";
                Failure::new(Code::ResourceExhausted, "overloaded", message).retry_after(gate::RETRY_AFTER)
            })?;
            Ok::<_, Failure>((asked, starts, watching))
        };
        let (asked, starts, watching): (Asked, Vec<Start>, Watching) = match started.await {
            Ok(started) => started,
            Err(failure) => {
                self.metrics.observe("watch", failure.code, begun.elapsed());
                return Err(failure.into());
            }
        };
        let (sender, replies) = mpsc::channel(REPLIES_WAITING);
        let (say_end, end) = oneshot::channel();
        let asked = Arc::new(asked);
        let watches = self.calls.watches.clone();
        let teller = |(shard, after): (ShardHandle, u64)| Teller {
            asked: Arc::clone(&asked),
            applied: shard.applied(),
            shard,
            after,
            names: HashMap::new(),
            pending: v1::WatchReply::default(),
            pending_bytes: 0,
            sent: (after, Instant::now()),
            looked: Instant::now(),
            replies: sender.clone(),
            watches: watches.clone(),
        };
        let (mut tellers, mut relays) = (Vec::new(), Vec::new());
        for start in starts {
            match start {
                Start::Here { shard, after } => tellers.push(teller((shard, after))),
                Start::There(relay) => relays.push(*relay),
            }
        }
        let metrics = Arc::clone(&self.metrics);
        tokio::spawn(async move {
            let code = match tell(tellers, relays, watches, sender).await {
                End::Gone => Code::Ok,
                End::Failed(failure) => {
                    let code = failure.code;
                    // Nobody may be left to hear it.
                    let _ = say_end.send(failure.into());
                    code
                }
            };
            metrics.observe("watch", code, begun.elapsed());
            drop(watching);
        });
        Ok(Response::new(WatchStream { replies, end: Some(end) }))
    }
}
