//! Links: one to each other node, for what goes there.
//!
//! ```text
//!   shard --message--> pipe -----------------------------------------------------> the other's door
//!              \-----> queue (bounded; full: the message is lost) --> task: opens a pipe, or streams where there is none
//!   writes, snapshots, questions --------------------------------------------------> a connection for calls
//! ```
//!
//! As long as there is no pipe messages queue up. To a node that takes none, as it is of an older version, or is only reached by calls,
//! they go by the call `Deliver`, all that have queued up as one message of its stream; now and then it is asked again. When a pipe or a
//! stream breaks, the shards hear that the member is unreachable, what was queued is dropped, and the task begins again where the book then
//! says that the member is.
//!
//! Always: sending never waits, and nothing that is sent is promised to arrive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use loci_raft::{MESSAGE_BYTES_MAX, MemberId, Message};
use loci_wire::v1;
use loci_wire::v1::peers_client::PeersClient;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::NotWritten;
use super::book;
use super::greeter::STARTING;
use super::pipe::Pipe;
use super::strangers::Strangers;
use crate::doors::grpc::Failure;
use crate::identity::ClusterId;
use crate::shard::WriteError;
use crate::shards::{CATALOG, Shards};
use crate::trace::{self, Step, TRACEPARENT};

/// Which cluster a call is of.
pub const CLUSTER_KEY: &str = "loci-cluster";
/// Which member it is for.
pub const TO_KEY: &str = "loci-to";
/// Why a call is refused that is for a node of another cluster.
pub const OTHER_CLUSTER: &str = "other_cluster";
/// Why one is refused that is for another member.
pub const OTHER_MEMBER: &str = "other_member";
/// Messages that wait for a link. More than raft has on its way to one member.
const QUEUE: usize = 1024;
/// Messages are gathered into one of the stream up to about this size; a larger one goes alone.
const GATHER_BYTES: usize = 1 << 20;
/// The largest message of the stream.
pub const PEER_BYTES_MAX: usize = MESSAGE_BYTES_MAX + GATHER_BYTES + (1 << 16);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing is heard is asked for a sign of life this often, and given up without one.
const KEEPALIVE: Duration = Duration::from_secs(1);
const WINDOW_BYTES: u32 = 16 << 20;
/// A node that takes no pipe, which it may not do yet, is asked again after so long, and as long as calls get there after longer.
const STREAM_TIME_MIN: Duration = Duration::from_secs(1);
const STREAM_TIME_MAX: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A client of another node's `Peers`.
pub type PeerClient = PeersClient<InterceptedService<Channel, Says>>;

/// All links of a node. Cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    cluster: ClusterId,
    runtime: Handle,
    /// Those whose messages they carry.
    shards: Shards,
    links: Mutex<HashMap<MemberId, Link>>,
    strangers: Strangers,
    forwarded: Arc<Forwarded>,
}

/// How much this node had other nodes do.
#[derive(Debug, Default)]
pub struct Forwarded {
    writes: AtomicU64,
    calls: AtomicU64,
}

impl Forwarded {
    /// How many writes, and how many calls, by what was handed on.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        [("write", self.writes.load(Ordering::Relaxed)), ("call", self.calls.load(Ordering::Relaxed))]
    }
}

struct Link {
    queue: mpsc::Sender<Message>,
    pipe: Option<Arc<Pipe>>,
    channel: Option<(String, Channel)>,
}

/// Says on every call which cluster and member it is for.
#[derive(Clone)]
pub struct Says {
    cluster: ClusterId,
    to: MemberId,
}

impl Interceptor for Says {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let cluster =
            MetadataValue::try_from(self.cluster.to_string()).map_err(|_| Status::internal("a cluster's name"))?;
        request.metadata_mut().insert(CLUSTER_KEY, cluster);
        request.metadata_mut().insert(TO_KEY, MetadataValue::from(self.to.0));
        Ok(request)
    }
}

/// How to reach an address.
pub fn endpoint(address: &str) -> Result<Endpoint, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(format!("{address:?} is not an address of a node: {error}")))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

/// A client of the node at an address that says it is this member of this cluster.
pub fn member_at(address: &str, cluster: ClusterId, to: MemberId) -> Result<PeerClient, Status> {
    let says = Says { cluster, to };
    Ok(PeersClient::with_interceptor(endpoint(address)?.connect_lazy(), says).max_decoding_message_size(PEER_BYTES_MAX))
}

/// A client of the node at an address of which nothing more is known.
pub fn stranger(address: &str) -> Result<PeersClient<Channel>, Status> {
    Ok(PeersClient::new(endpoint(address)?.connect_lazy()))
}

impl Links {
    /// Of a node of this cluster, for its shards. Tasks run on `runtime`. Before there is a catalog nothing is sent.
    pub fn new(cluster: ClusterId, shards: Shards, runtime: Handle) -> Links {
        let (links, strangers) = (Mutex::default(), Strangers::default());
        Links(Arc::new(Shared { cluster, runtime, shards, links, strangers, forwarded: Arc::default() }))
    }

    /// How much this node had other nodes do.
    pub fn forwarded(&self) -> &Arc<Forwarded> {
        &self.0.forwarded
    }

    /// Who answers at addresses where a member should.
    pub fn strangers(&self) -> &Strangers {
        &self.0.strangers
    }

    fn unreachable(&self, member: MemberId) {
        self.0.shards.handles().iter().for_each(|shard| shard.unreachable(member));
    }

    /// Sends a message, or loses it.
    pub fn send(&self, message: Message) {
        let to = message.to();
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(to).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            self.0.runtime.spawn(run(self.clone(), to, waiting));
            Link { queue, pipe: None, channel: None }
        });
        let shard = message.shard();
        let is_sent = match link.pipe.clone() {
            Some(pipe) => {
                drop(links);
                pipe.send(message)
            }
            None => {
                let is_queued = link.queue.try_send(message).is_ok();
                drop(links);
                is_queued
            }
        };
        if !is_sent && let Some(shard) = self.0.shards.handle(shard.0) {
            shard.unreachable(to);
        }
    }

    /// Whether messages go there by a pipe.
    #[cfg(test)]
    pub fn has_pipe(&self, to: MemberId) -> bool {
        let links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&to).is_some_and(|link| link.pipe.is_some())
    }

    /// From now on messages go there by this pipe, those first that have queued up.
    fn change_pipe(&self, to: MemberId, pipe: Option<Arc<Pipe>>, waiting: &mut mpsc::Receiver<Message>) {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        // There is room for as many in it, and if it breaks at once all shards hear of it.
        while let (Some(pipe), Ok(message)) = (&pipe, waiting.try_recv()) {
            pipe.send(message);
        }
        if let Some(link) = links.get_mut(&to) {
            link.pipe = pipe;
        }
    }

    /// Somebody who is not this member answered where it should be.
    fn met(&self, member: MemberId, said: &Failure) {
        let Some(catalog) = self.0.shards.handle(CATALOG) else { return };
        let lines = book::read(&catalog.newest());
        let Some(line) = lines.get(&member).filter(|line| !line.removed) else { return };
        // One that came in the place of another, which is not removed yet, is no stranger.
        let came_after = lines.iter().any(|(other, l)| *other != member && !l.removed && l.address == line.address);
        if !came_after {
            self.strangers().meet(&line.address, &format!("not member {member}; it says: {}", said.message));
        }
    }

    /// A client of a member's node.
    pub fn client(&self, member: MemberId) -> Result<PeerClient, Status> {
        let address = self.address(member)?;
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let known = links.get(&member).and_then(|link| link.channel.clone()).filter(|(at, _)| *at == address);
        let channel = match known {
            Some((_, channel)) => channel,
            None => {
                let channel = self.connect(&address)?;
                if let Some(link) = links.get_mut(&member) {
                    link.channel = Some((address, channel.clone()));
                }
                channel
            }
        };
        Ok(self.speaking(member, channel))
    }

    /// The same on a connection of its own, for a stream: what its reader is slow to take must hold nothing else up.
    fn client_apart(&self, member: MemberId) -> Result<PeerClient, Status> {
        Ok(self.speaking(member, self.connect(&self.address(member)?)?))
    }

    /// Where a member's node is.
    fn address(&self, member: MemberId) -> Result<String, Status> {
        let catalog = self.0.shards.handle(CATALOG).ok_or_else(|| Status::unavailable("the node is starting"))?;
        // Also of one that is removed: it must get to know.
        book::find(&catalog.newest(), member)
            .map(|line| line.address)
            .ok_or_else(|| Status::unavailable(format!("nothing is known of member {member}")))
    }

    fn connect(&self, address: &str) -> Result<Channel, Status> {
        let _inside = self.0.runtime.enter();
        Ok(endpoint(address)?.connect_lazy())
    }

    fn speaking(&self, to: MemberId, channel: Channel) -> PeerClient {
        PeersClient::with_interceptor(channel, Says { cluster: self.0.cluster, to })
            .max_decoding_message_size(PEER_BYTES_MAX)
            .max_encoding_message_size(PEER_BYTES_MAX)
    }

    /// Has a member's node answer a call for some of its shards.
    pub async fn call(
        &self,
        to: MemberId,
        request: v1::CallRequest,
        deadline: Instant,
    ) -> Result<v1::CallReply, Status> {
        self.0.forwarded.calls.fetch_add(1, Ordering::Relaxed);
        let (request, _step) = traced(request, deadline);
        Ok(self.client(to)?.call(request).await?.into_inner())
    }

    /// Has a member's node search some of its shards.
    pub async fn find(
        &self,
        to: MemberId,
        request: v1::FindRequest,
        deadline: Instant,
    ) -> Result<v1::FindReply, Status> {
        self.0.forwarded.calls.fetch_add(1, Ordering::Relaxed);
        let (request, _step) = traced(request, deadline);
        Ok(self.client(to)?.find(request).await?.into_inner())
    }

    /// Has a member's node read typed values of one of its shards.
    pub async fn look(
        &self,
        to: MemberId,
        request: v1::LookRequest,
        deadline: Instant,
    ) -> Result<v1::LookReply, Status> {
        self.0.forwarded.calls.fetch_add(1, Ordering::Relaxed);
        let (request, _step) = traced(request, deadline);
        Ok(self.client(to)?.look(request).await?.into_inner())
    }

    /// Has a member's node tell what happens to typed values in one of its shards.
    pub async fn hear(
        &self,
        to: MemberId,
        requests: impl Stream<Item = v1::HearRequest> + Send + 'static,
    ) -> Result<Streaming<v1::HearReply>, Status> {
        Ok(self.client_apart(to)?.hear(requests).await?.into_inner())
    }

    /// Has a member's node tell of what changes in some of its shards.
    pub async fn tell(&self, to: MemberId, request: v1::TellRequest) -> Result<Streaming<v1::WatchReply>, Status> {
        Ok(self.client_apart(to)?.tell(request).await?.into_inner())
    }

    /// Asks a member's node for figures of collections.
    pub async fn figures(
        &self,
        to: MemberId,
        request: v1::FiguresRequest,
        deadline: Instant,
    ) -> Result<v1::FiguresReply, Status> {
        let mut request = Request::new(request);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        Ok(self.client(to)?.figures(request).await?.into_inner())
    }

    /// Has a member's node write an entry's command.
    pub async fn forward(
        &self,
        to: MemberId,
        request: v1::ForwardRequest,
        deadline: Instant,
        step: Option<&Step>,
    ) -> Result<v1::ForwardReply, NotWritten> {
        self.0.forwarded.writes.fetch_add(1, Ordering::Relaxed);
        let there = |status: Status| NotWritten::There(Box::new(status));
        let mut client = self.client(to).map_err(there)?;
        let shard = request.shard;
        let mut request = Request::new(request);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        if let Some(traceparent) = step.and_then(|step| MetadataValue::try_from(step.spot().traceparent()).ok()) {
            request.metadata_mut().insert(TRACEPARENT, traceparent);
        }
        match client.forward(request).await {
            Ok(reply) => Ok(reply.into_inner()),
            // Nothing was sent: another will lead soon.
            Err(status) if never_connected(&status) => Err(WriteError::NotLeader { shard }.into()),
            // Said by the transport, not by the node: nobody knows what became of it.
            Err(status) if status.details().is_empty() => Err(WriteError::Unconfirmed { shard }.into()),
            Err(status) => Err(there(status)),
        }
    }
}

/// A call with its deadline, as a step of the trace that it is part of: the step lasts as long as what comes with it.
fn traced<R>(request: R, deadline: Instant) -> (Request<R>, Option<Step>) {
    let mut request = Request::new(request);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let step = trace::here().and_then(|spot| spot.begin("call"));
    if let Some(traceparent) = step.as_ref().and_then(|step| MetadataValue::try_from(step.spot().traceparent()).ok()) {
        request.metadata_mut().insert(TRACEPARENT, traceparent);
    }
    (request, step)
}

/// Whether a call failed because there was no connection to send it on.
pub fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

async fn run(links: Links, to: MemberId, mut waiting: mpsc::Receiver<Message>) {
    let mut pause = PAUSE_MIN;
    let mut stream_time = STREAM_TIME_MIN;
    loop {
        let begun = Instant::now();
        let Err(error) = carry(&links, to, &mut waiting, &mut stream_time).await else { continue };
        links.unreachable(to);
        tracing::debug!(member = to.0, %error, "the link broke");
        let said = Failure::from_status(&error);
        match said.detail.reason.as_str() {
            OTHER_CLUSTER | OTHER_MEMBER => links.met(to, &said),
            // It is there in a moment.
            STARTING => pause = PAUSE_MIN / 2,
            _ => {}
        }
        pause = if begun.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::time::sleep(pause).await;
        // Raft says again what matters.
        while waiting.try_recv().is_ok() {}
    }
}

/// Carries messages until what carries them breaks; fine where there might be something better by now.
async fn carry(
    links: &Links,
    to: MemberId,
    waiting: &mut mpsc::Receiver<Message>,
    stream_time: &mut Duration,
) -> Result<(), Status> {
    let pipe = match Pipe::open(&links.address(to)?, links.0.cluster, to).await {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::debug!(member = to.0, %error, "no pipe opens");
            // What is in its way need not be in that of a call.
            let streamed = stream(links, to, waiting, *stream_time).await;
            *stream_time = if streamed.is_ok() { (*stream_time * 2).min(STREAM_TIME_MAX) } else { STREAM_TIME_MIN };
            return streamed;
        }
    };
    *stream_time = STREAM_TIME_MIN;
    links.change_pipe(to, Some(pipe.clone()), waiting);
    let error = pipe.drive().await;
    links.change_pipe(to, None, waiting);
    Err(Status::unavailable(error.to_string()))
}

/// Sends by a call for a while, or until it breaks.
async fn stream(
    links: &Links,
    to: MemberId,
    waiting: &mut mpsc::Receiver<Message>,
    time: Duration,
) -> Result<(), Status> {
    let mut client = links.client(to)?;
    let (requests, stream) = mpsc::channel(4);
    let mut call = std::pin::pin!(client.deliver(ReceiverStream::new(stream)));
    let until = tokio::time::Instant::now() + time;
    let ended =
        |ended: Result<_, Status>| ended.err().unwrap_or_else(|| Status::unavailable("the other end closed it"));
    let mut gathered = Vec::new();
    loop {
        let first = tokio::select! {
            first = waiting.recv() => first,
            broke = &mut call => return Err(ended(broke)),
            () = tokio::time::sleep_until(until) => None,
        };
        let Some(first) = first else {
            // What is on its way arrives before what comes after.
            drop(requests);
            return call.await.map(|_| ());
        };
        let mut bytes = first.bytes();
        gathered.push(Bytes::from(first.encode()));
        while bytes < GATHER_BYTES
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.bytes();
            gathered.push(Bytes::from(next.encode()));
        }
        let request = v1::DeliverRequest { messages: std::mem::take(&mut gathered) };
        tokio::select! {
            sent = requests.send(request) => sent.map_err(|_| Status::unavailable("the stream is closed"))?,
            broke = &mut call => return Err(ended(broke)),
        }
    }
}
