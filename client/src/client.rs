//! The client: connections that all its clones share, and the loop that tries again.
//!
//! ```text
//! Collection --> Call --> unary ----> a connection of the node that the call goes to: see `nodes`
//!                    `--> Pipeline -> one stream, many calls at a time
//! ```
//!
//! A call has one deadline over all its attempts, and each attempt tells the node what is left of it. A write gets its request
//! id before the first attempt, so the node can tell a repetition from a second write.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};
use loci_wire::v1::{admin_client::AdminClient, cache_client::CacheClient, records_client::RecordsClient};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::breaker::Verdict;
use crate::hedge::{Hedge, Recent};
use crate::nodes::{Failed, Node, Nodes, random_number};
use crate::retry::{Budget, Policy};
use crate::silence::{QUIET, gave_up};
use crate::wish::{Wish, is_stale};
use crate::{Collection, Error, Pipeline, Watch};

/// The header that carries a W3C trace context.
const TRACEPARENT: &str = "traceparent";

/// A connection to a node. Cheap to clone: clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    origin: Arc<OriginOf>,
}

#[derive(Debug)]
struct Shared {
    nodes: Arc<Nodes>,
    timeout: Duration,
    policy: Policy,
    budget: Budget,
    recent: Recent,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    retries: AtomicU64,
    refused: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
}

/// What a client has done besides asking once, and what it thinks of its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFigures {
    /// Attempts after the first.
    pub retries: u64,
    /// Retries and hedges that were not made, because the budget was used up.
    pub refused: u64,
    /// Second nodes asked for a hedged read.
    pub hedges: u64,
    /// How many of them answered first.
    pub hedges_won: u64,
    /// Every known node's address, and whether calls go there: not to one that lately did not answer.
    pub nodes: Vec<(String, bool)>,
}

/// What every write of a client says about where it comes from.
#[derive(Debug, Clone, Default)]
struct OriginOf {
    principal: String,
    task: String,
    trace: String,
}

/// Settings of a client; what is not set has a default that suits most.
#[derive(Debug, Clone)]
pub struct Builder {
    addresses: Vec<String>,
    connections: usize,
    timeout: Duration,
    retries: u32,
    retry_share: f64,
    retry_floor: f64,
    follow_leader: bool,
    origin: OriginOf,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            addresses: Vec::new(),
            connections: 2,
            timeout: Duration::from_secs(30),
            retries: 8,
            retry_share: 0.1,
            retry_floor: 30.0,
            follow_leader: true,
            origin: OriginOf::default(),
        }
    }
}

impl Builder {
    /// Another address of a node: `host:port` or `http://host:port`. None: `127.0.0.1:7700`.
    pub fn address(mut self, address: impl Into<String>) -> Builder {
        self.addresses.push(address.into());
        self
    }

    /// How many connections to keep to each address; 2 unless set. More than a few help only with many calls at a time.
    pub fn connections(mut self, connections: usize) -> Builder {
        self.connections = connections.max(1);
        self
    }

    /// How long a call may take with all its attempts; 30 s unless set. Collections can have their own.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout;
        self
    }

    /// How often a call is tried again after a failure that may pass; 8 unless set, which takes about three seconds.
    pub fn retries(mut self, retries: u32) -> Builder {
        self.retries = retries;
        self
    }

    /// How many retries and hedged reads all calls together may make: this share of the calls of the last ten seconds or so;
    /// 0.1 unless set. Attempts that reached nobody are not counted: they are no load.
    pub fn retry_share(mut self, share: f64) -> Builder {
        self.retry_share = share.clamp(0.0, 10.0);
        self
    }

    /// How many retries a second there may be besides that share; 30 unless set. Those of ten seconds may come at once.
    pub fn retry_floor(mut self, per_second: f64) -> Builder {
        self.retry_floor = per_second.clamp(0.0, 1e6);
        self
    }

    /// Whether calls go to the node that leads, or has, what they are about, as far as replies say, at the address that it
    /// advertises; yes unless set. Set it to false where only the given addresses can be reached, through a proxy for example.
    pub fn follow_leader(mut self, follow: bool) -> Builder {
        self.follow_leader = follow;
        self
    }

    /// Who acts, for the log.
    pub fn principal(mut self, principal: impl Into<String>) -> Builder {
        self.origin.principal = principal.into();
        self
    }

    /// On behalf of which task, for the log.
    pub fn task(mut self, task: impl Into<String>) -> Builder {
        self.origin.task = task.into();
        self
    }

    /// Connects, and waits until a node answers that it is ready.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.connect_lazy()?;
        client.ping().await?;
        Ok(client)
    }

    /// Connects in the background, to all addresses. Must be called within a tokio runtime.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let mut addresses = self.addresses;
        if addresses.is_empty() {
            addresses.push("127.0.0.1:7700".into());
        }
        Ok(Client {
            shared: Arc::new(Shared {
                nodes: Nodes::connect(&addresses, self.connections, self.follow_leader)?,
                timeout: self.timeout,
                policy: Policy {
                    retries: self.retries,
                    backoff_first: Duration::from_millis(20),
                    backoff_max: Duration::from_secs(1),
                },
                budget: Budget::new(self.retry_share, self.retry_floor, Instant::now()),
                recent: Recent::default(),
                counts: Counts::default(),
            }),
            origin: Arc::new(self.origin),
        })
    }
}

impl Client {
    /// Connects to a node at `host:port` or `http://host:port`, and waits until it answers that it is ready.
    pub async fn connect(address: impl Into<String>) -> Result<Client, Error> {
        Client::builder().address(address).connect().await
    }

    /// To connect with other settings than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same connections, for writes of another task.
    pub fn with_task(&self, task: impl Into<String>) -> Client {
        self.with_origin(|origin| origin.task = task.into())
    }

    /// The same connections, for writes of another principal.
    pub fn with_principal(&self, principal: impl Into<String>) -> Client {
        self.with_origin(|origin| origin.principal = principal.into())
    }

    /// The same connections, for calls that are part of the trace with this W3C traceparent, which every call carries and every
    /// write keeps in the log.
    pub fn with_trace(&self, traceparent: impl Into<String>) -> Client {
        self.with_origin(|origin| origin.trace = traceparent.into())
    }

    fn with_origin(&self, change: impl FnOnce(&mut OriginOf)) -> Client {
        let mut origin = OriginOf::clone(&self.origin);
        change(&mut origin);
        Client { shared: self.shared.clone(), origin: Arc::new(origin) }
    }

    /// A collection, whose calls each are a call of their own. Nothing is sent.
    pub fn collection(&self, namespace: impl Into<String>, name: impl Into<String>) -> Collection {
        Collection::new(self.clone(), None, namespace.into(), name.into())
    }

    /// What changes in a namespace, in the order of the log: in all of its collections, or in those that are named then
    /// ([`Watch::collection`]).
    pub fn watch(&self, namespace: impl Into<String>) -> Watch {
        Watch::new(self.clone(), namespace.into(), Vec::new(), self.timeout())
    }

    /// Streams that carry many calls at a time, one to each node that they go to, which is cheaper for many small calls.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::new(self.clone(), Pipeline::IN_FLIGHT)
    }

    /// As [`pipeline`](Client::pipeline), with room for so many calls at a time.
    pub fn pipeline_of(&self, in_flight: usize) -> Pipeline {
        Pipeline::new(self.clone(), in_flight)
    }

    /// Asks a node whether it is ready, and says how long the answer took.
    pub async fn ping(&self) -> Result<Duration, Error> {
        self.retrying(self.shared.timeout, Wish::Any, |channel, remaining| async move {
            let begun = Instant::now();
            let request = within(HealthCheckRequest::default(), remaining);
            let reply = HealthClient::new(channel).check(request).await?;
            match reply.get_ref().status() {
                tonic_health::pb::health_check_response::ServingStatus::Serving => Ok(reply.map(|_| begun.elapsed())),
                other => Err(Status::unavailable(format!("the node is not ready: it says {}", other.as_str_name()))),
            }
        })
        .await
    }

    /// What it has done besides asking once, and what it thinks of its nodes.
    pub fn figures(&self) -> ClientFigures {
        let Counts { retries, refused, hedges, hedges_won } = &self.shared.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ClientFigures {
            retries: read(retries),
            refused: read(refused),
            hedges: read(hedges),
            hedges_won: read(hedges_won),
            nodes: self.shared.nodes.states(),
        }
    }

    /// How long a call may take unless it says otherwise.
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// A new request id with what this client says about itself.
    pub(crate) fn origin(&self) -> Option<v1::Origin> {
        Some(v1::Origin {
            request_id: request_id(),
            principal: self.origin.principal.clone(),
            task: self.origin.task.clone(),
            trace: self.origin.trace.clone(),
        })
    }

    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.shared.nodes
    }

    pub(crate) async fn call(&self, call: Call, timeout: Duration, hedge: Hedge) -> Result<Reply, Error> {
        if !is_stale(&call) {
            let wish = Wish::of(&call);
            return self
                // What waits for an answer is large, and would be carried from one to the next by whoever awaits it.
                .retrying_errors(timeout, |deadline, not| Box::pin(self.attempt(&call, wish, deadline, not)))
                .await;
        }
        self.retrying_errors(timeout, |deadline, not| {
            let call = call.clone();
            Box::pin(self.stale(call, deadline, hedge, not))
        })
        .await
    }

    /// One attempt at a call that one node answers.
    async fn attempt(
        &self,
        call: &Call,
        wish: Wish<'_>,
        deadline: Instant,
        not: Option<Arc<Node>>,
    ) -> Result<Reply, (Failed, Option<Arc<Node>>)> {
        let spot = self.shared.nodes.spot(wish);
        let node = self.shared.nodes.choose_at(spot.as_ref(), wish, not.as_ref());
        // Large, and carried along three times without that.
        let made = Box::pin(self.once(&node, call.clone(), deadline, spot.and_then(|spot| spot.known)));
        self.asked(&node, wish, deadline, made).await.map_err(|failed| (failed, Some(node)))
    }

    /// One attempt at a read that any node can answer: at one of them, and at another if that takes long.
    async fn stale(
        &self,
        call: Call,
        deadline: Instant,
        hedge: Hedge,
        not: Option<Arc<Node>>,
    ) -> Result<Reply, (Failed, Option<Arc<Node>>)> {
        let shared = &*self.shared;
        let begun = Instant::now();
        let wish = Wish::of(&call);
        let spot = shared.nodes.spot(wish);
        let known = spot.as_ref().and_then(|spot| spot.known);
        let ask = |node: &Arc<Node>| {
            let node = Arc::clone(node);
            let made = Box::pin(self.once(&node, call.clone(), deadline, known));
            async move {
                match self.asked(&node, wish, deadline, made).await {
                    Ok(reply) => Ok(reply),
                    Err(failed) => Err((failed, Some(node))),
                }
            }
        };
        let node = shared.nodes.choose_at(spot.as_ref(), wish, not.as_ref());
        let mut first = std::pin::pin!(ask(&node));
        let delay = shared.recent.delay(hedge, &call);
        let answer = 'answer: {
            let Some(delay) = delay else { break 'answer first.await };
            tokio::select! {
                biased;
                answer = &mut first => break 'answer answer,
                () = sleep(delay) => {}
            }
            let other = shared.nodes.choose_at(spot.as_ref(), wish, Some(&node));
            if Arc::ptr_eq(&node, &other) || !other.lets_in() {
                break 'answer first.await;
            }
            if !shared.budget.spend(Instant::now()) {
                shared.counts.refused.fetch_add(1, Ordering::Relaxed);
                break 'answer first.await;
            }
            shared.counts.hedges.fetch_add(1, Ordering::Relaxed);
            let mut second = std::pin::pin!(ask(&other));
            // What fails for good would fail at the other node, too.
            let may_pass = |(failed, _): &(Failed, _)| failed.error.is_transient();
            tokio::select! {
                biased;
                answer = &mut first => match answer {
                    Err(failed) if may_pass(&failed) => second.await,
                    answer => answer,
                },
                answer = &mut second => match answer {
                    Err(failed) if may_pass(&failed) => first.await,
                    answer => {
                        shared.counts.hedges_won.fetch_add(1, Ordering::Relaxed);
                        answer
                    }
                },
            }
        };
        if answer.is_ok() {
            shared.recent.add(&call, begun.elapsed());
        }
        answer
    }

    pub(crate) async fn admin<T, F, Fut>(&self, attempt: F) -> Result<T, Error>
    where
        F: Fn(AdminClient<Channel>, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.retrying(self.shared.timeout, Wish::Any, |channel, remaining| {
            let admin = AdminClient::new(channel)
                .max_decoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(loci_wire::MESSAGE_BYTES_MAX);
            attempt(admin, remaining)
        })
        .await
    }

    pub(crate) async fn retrying<T, F, Fut>(&self, timeout: Duration, wish: Wish<'_>, attempt: F) -> Result<T, Error>
    where
        F: Fn(Channel, Duration) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.retrying_errors(timeout, |deadline, not| {
            let node = self.shared.nodes.choose(wish, not.as_ref());
            let made = attempt(node.channel(), deadline.saturating_duration_since(Instant::now()));
            async move { self.asked(&node, wish, deadline, made).await.map_err(|failed| (failed, Some(node))) }
        })
        .await
    }

    /// Waits for what a node answers, and takes in what that says of the nodes.
    async fn asked<T>(
        &self,
        node: &Arc<Node>,
        wish: Wish<'_>,
        deadline: Instant,
        made: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failed> {
        let nodes = &self.shared.nodes;
        match self.unless_silent(node, QUIET, timeout_at(deadline, made)).await? {
            Ok(Ok(reply)) => {
                nodes.ended(node, Verdict::Answered);
                nodes.read(wish, node, reply.metadata());
                Ok(reply.into_inner())
            }
            Ok(Err(status)) => {
                nodes.ended(node, Verdict::of(&status));
                nodes.read(wish, node, status.metadata());
                Err(Failed::of(&status))
            }
            Err(_) => {
                nodes.ended(node, Verdict::Slow);
                Err(late().into())
            }
        }
    }

    /// Waits for something that a node is to say, unless nothing is heard of it any more.
    pub(crate) async fn unless_silent<T>(
        &self,
        node: &Arc<Node>,
        quiet: Duration,
        said: impl Future<Output = T>,
    ) -> Result<T, Failed> {
        self.unless_silent_since(node, quiet, Instant::now(), said).await
    }

    /// The same, where something has been waited for since a moment.
    pub(crate) async fn unless_silent_since<T>(
        &self,
        node: &Arc<Node>,
        quiet: Duration,
        since: Instant,
        said: impl Future<Output = T>,
    ) -> Result<T, Failed> {
        tokio::select! {
            biased;
            said = said => Ok(said),
            () = self.silence(node, quiet, since) => Err(gave_up(node)),
        }
    }

    /// Returns once nothing is heard of a node any more, and another is to be asked.
    pub(crate) async fn silence(&self, node: &Arc<Node>, quiet: Duration, since: Instant) {
        match self.shared.policy.retries {
            // Who would not try again waits.
            0 => std::future::pending().await,
            _ => self.shared.nodes.silence(node, quiet, since).await,
        }
    }

    /// Tries until an attempt succeeds, fails for good, or the time or the retries are used up. An attempt is told until when it
    /// may take, and which node not to ask again if there is another.
    pub(crate) async fn retrying_errors<T, F, Fut>(&self, timeout: Duration, attempt: F) -> Result<T, Error>
    where
        F: Fn(Instant, Option<Arc<Node>>) -> Fut,
        Fut: Future<Output = Result<T, (Failed, Option<Arc<Node>>)>>,
    {
        let shared = &*self.shared;
        let begun = Instant::now();
        // A timeout that the clock cannot count to is none.
        let deadline = begun.checked_add(timeout).unwrap_or_else(|| begun + Duration::from_secs(1 << 30));
        shared.budget.call();
        let (mut failed, mut not, mut before) = (0, None, None);
        loop {
            let (Failed { error, reached }, node) = match timeout_at(deadline, attempt(deadline, not.take())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => (late().into(), None),
            };
            let error = error.after(before.as_ref());
            failed += 1;
            let remaining = deadline.saturating_duration_since(Instant::now());
            let Some(pause) = shared.policy.pause(&error, failed, remaining, random_number()) else {
                return Err(error);
            };
            // Who reached nobody was no load, and is none at another node.
            if reached && !shared.budget.spend(Instant::now()) {
                shared.counts.refused.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
            shared.counts.retries.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, failed, ?pause, "trying again");
            sleep(pause).await;
            // One who has too much to do is asked again, as it said; and others are not asked in vain forever.
            not = node.filter(|_| failed % 2 == 1 && !matches!(error, Error::Overloaded { .. }));
            before = Some(error);
        }
    }

    /// Makes a call at a node, once; it is told by which map it was chosen.
    fn once(
        &self,
        node: &Node,
        call: Call,
        deadline: Instant,
        known: Option<v1::KnownRoute>,
    ) -> impl Future<Output = Result<Response<Reply>, Status>> + use<> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        once(node.channel(), call, Told { remaining, trace: self.traceparent(), known })
    }

    /// A request that tells the node how long the caller will wait, and which trace it is part of.
    pub(crate) fn request<T>(&self, message: T, remaining: Duration) -> tonic::Request<T> {
        Told { remaining, trace: self.traceparent(), known: None }.with(message)
    }

    pub(crate) fn trace(&self) -> &str {
        &self.origin.trace
    }

    fn traceparent(&self) -> Option<AsciiMetadataValue> {
        let trace = &self.origin.trace;
        if trace.is_empty() { None } else { AsciiMetadataValue::try_from(trace.as_str()).ok() }
    }
}

fn late() -> Error {
    Error::DeadlineExceeded { message: "no answer within the time of the call".into() }
}

pub(crate) fn records(channel: Channel) -> RecordsClient<Channel> {
    RecordsClient::new(channel)
        .max_decoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
}

/// What a node is told beside a request.
struct Told {
    /// How long the caller will wait.
    remaining: Duration,
    /// Of which trace it is part.
    trace: Option<AsciiMetadataValue>,
    /// By which map the node was chosen.
    known: Option<v1::KnownRoute>,
}

impl Told {
    fn with<T>(self, message: T) -> tonic::Request<T> {
        let mut request = within(message, self.remaining);
        if let Some(trace) = self.trace {
            request.metadata_mut().insert(TRACEPARENT, trace);
        }
        if let Some(known) = self.known {
            loci_wire::insert_known(request.metadata_mut(), known);
        }
        request
    }
}

async fn once(channel: Channel, call: Call, told: Told) -> Result<Response<Reply>, Status> {
    let mut records = records(channel.clone());
    Ok(match call {
        Call::Put(put) => records.put(told.with(*put)).await?.map(Reply::Write),
        Call::Get(get) => records.get(told.with(*get)).await?.map(Reply::Get),
        Call::Delete(delete) => records.delete(told.with(*delete)).await?.map(Reply::Delete),
        Call::Batch(batch) => records.batch(told.with(*batch)).await?.map(Reply::Write),
        Call::Scan(scan) => records.scan(told.with(*scan)).await?.map(Reply::Scan),
        Call::Count(count) => records.count(told.with(*count)).await?.map(Reply::Count),
        Call::Search(search) => records.search(told.with(*search)).await?.map(Reply::Search),
        Call::Execute(execute) => {
            let mut cache = CacheClient::new(channel)
                .max_decoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(loci_wire::MESSAGE_BYTES_MAX);
            cache.execute(told.with(*execute)).await?.map(Reply::Execute)
        }
    })
}

/// A request that tells the node how long the caller will wait.
pub(crate) fn within<T>(message: T, remaining: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(remaining);
    request
}

/// 16 random bytes. Of the operating system each time: a copied or resumed process must not give its other self's ids again.
fn request_id() -> Bytes {
    let mut id = [0; 16];
    getrandom::fill(&mut id).expect("the operating system has random numbers");
    Bytes::copy_from_slice(&id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ() {
        assert_ne!(request_id(), request_id());
    }

    #[tokio::test]
    async fn what_awaits_a_call_is_small() {
        let client = Client::builder().address("127.0.0.1:1").connect_lazy().unwrap();
        let notes = client.collection("default", "notes");
        let sizes = [size_of_val(&notes.put(crate::Record::new("key"))), size_of_val(&notes.get("key"))];
        assert!(sizes.iter().all(|size| *size < 3 << 10), "{sizes:?}");
    }
}
