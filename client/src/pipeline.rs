//! Streams that carry the calls of many tasks, answered in any order. What is to come after something else is called once that is
//! answered: calls that are under way together may take different ways, and come in any order.
//!
//! ```text
//! tasks --call--> where it goes --> lane of that node: [ submissions ] --> driver --id, call--> the node
//!   ^                                                                        |  <--id, reply---'
//!   `------------------------------ its own answer --------------------------'
//! ```
//!
//! There is a lane to each node that calls go to: to those that lead what they are about, as far as that is known, and one to
//! which all others go. A lane's driver is one task that owns the stream and the table of calls under way. When the stream breaks
//! it tells all of them so; each then tries again by the client's rules with the same request id, on the stream that the driver
//! opens for the next call. The calls under way are bounded: when there are too many, the next one waits for its turn.

use std::collections::HashMap;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};
use loci_wire::{MESSAGE_BYTES_MAX, PipelineCodec, PipelinedCall, WrittenCall};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{IntoStreamingRequest, Response, Status, Streaming};

use crate::breaker::Verdict;
use crate::nodes::{Failed, Node};
use crate::silence::{QUIET, gave_up};
use crate::wish::{Wish, Wished};
use crate::{Client, Collection, Error};

/// How long the node may take to accept a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// What a message takes besides its call, at the most: a number, a timeout, a map's version and a trace.
const BESIDES_BYTES_MAX: usize = 1 << 10;
/// So many calls that wait are sent before it is looked again whether there are replies.
const SENT_AT_ONCE: usize = 64;
/// How often calls are let go whose callers no longer wait.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Streams for many calls at a time; see [`Client::pipeline`]. Clones share them; they end with the last of them.
///
/// ```no_run
/// # async fn example(client: loci_client::Client) -> Result<(), loci_client::Error> {
/// let notes = client.pipeline().collection("default", "notes");
/// let tasks: Vec<_> = (0..1000)
///     .map(|number| {
///         let notes = notes.clone();
///         tokio::spawn(async move { notes.get(format!("note-{number}")).await })
///     })
///     .collect();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Pipeline {
    client: Client,
    in_flight: usize,
    lanes: Arc<Mutex<Lanes>>,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// There are not more than the client knows nodes.
    all: Vec<(Arc<Node>, mpsc::Sender<Submission>)>,
    /// Where calls go that nobody answers better than others.
    home: Option<Arc<Node>>,
}

#[derive(Debug)]
struct Submission {
    request: PipelinedCall,
    submitted: Submitted,
}

type UnderWay = HashMap<u64, Submitted>;

#[derive(Debug)]
struct Submitted {
    /// Which namespace the call is about, if that makes a difference.
    namespace: Option<Arc<str>>,
    answer: oneshot::Sender<Result<Reply, Failed>>,
    _room: OwnedSemaphorePermit,
}

impl Pipeline {
    /// Calls at a time, unless said otherwise.
    pub const IN_FLIGHT: usize = 1024;

    pub(crate) fn new(client: Client, in_flight: usize) -> Pipeline {
        let in_flight = in_flight.clamp(1, Semaphore::MAX_PERMITS);
        Pipeline { client, in_flight, lanes: Arc::default(), room: Arc::new(Semaphore::new(in_flight)) }
    }

    /// A collection whose calls go through this pipeline.
    pub fn collection(&self, namespace: impl Into<String>, name: impl Into<String>) -> Collection {
        let pipeline = Some(self.clone());
        Collection::new(self.client.clone(), pipeline, namespace.into(), name.into())
    }

    /// The call is written out before the future is made, which holds little therefore.
    pub(crate) fn call(&self, call: Call, timeout: Duration) -> impl Future<Output = Result<Reply, Error>> + Send {
        let wish = Wished::kept(Wish::of(&call));
        let call = WrittenCall::new(&call);
        async move {
            if call.bytes() > MESSAGE_BYTES_MAX - BESIDES_BYTES_MAX {
                let message = format!(
                    "the call has {} bytes, a message at most {MESSAGE_BYTES_MAX}, {BESIDES_BYTES_MAX} of which are not the \
                     call's; split it",
                    call.bytes()
                );
                return Err(Error::TooLarge { message });
            }
            let attempt = |deadline: Instant, not| {
                let remaining = deadline.saturating_duration_since(Instant::now());
                self.submit(call.clone(), &wish, remaining, not)
            };
            self.client.retrying_errors(timeout, attempt).await
        }
    }

    async fn submit(
        &self,
        call: WrittenCall,
        wish: &Wished<Arc<str>>,
        remaining: Duration,
        not: Option<Arc<Node>>,
    ) -> Result<Reply, (Failed, Option<Arc<Node>>)> {
        let stopped = || (Failed::from(Error::Unavailable { message: "the pipeline has stopped".into() }), None);
        let room = self.room.clone().acquire_owned().await;
        let (answer, answered) = oneshot::channel();
        let node = {
            let (node, lane, known) = self.lane(wish.wish(), not.as_ref());
            let submission = Submission {
                submitted: Submitted {
                    namespace: wish.clone().namespace(),
                    answer,
                    _room: room.map_err(|_| stopped())?,
                },
                request: PipelinedCall {
                    id: 0,
                    timeout_millis: u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1),
                    call,
                    known,
                    traceparent: self.client.trace().to_owned(),
                },
            };
            lane.try_send(submission).map_err(|_| stopped())?;
            node
        };
        answered.await.map_err(|_| stopped())?.map_err(|failed| (failed, Some(node)))
    }

    /// The node that a call goes to, another than `not` if one is to be had, its lane, and by what that was decided.
    fn lane(
        &self,
        wish: Wish<'_>,
        not: Option<&Arc<Node>>,
    ) -> (Arc<Node>, mpsc::Sender<Submission>, Option<v1::KnownRoute>) {
        let nodes = self.client.nodes();
        let spot = nodes.spot(wish);
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes.choose_near(spot.as_ref(), wish, lanes.home.as_ref(), not);
        if lanes.home.as_ref().is_none_or(|home| !home.lets_in()) {
            lanes.home = Some(Arc::clone(&node));
        }
        let known = spot.and_then(|spot| spot.known);
        if let Some((_, lane)) = lanes.all.iter().find(|(to, _)| Arc::ptr_eq(to, &node)) {
            return (node, lane.clone(), known);
        }
        // There are never more submissions than permits, so sending one does not wait.
        let (lane, receiver) = mpsc::channel(self.in_flight);
        tokio::spawn(drive(self.client.clone(), Arc::clone(&node), receiver, self.in_flight));
        lanes.all.push((Arc::clone(&node), lane.clone()));
        (node, lane, known)
    }
}

/// Opens a stream for each time that there are calls and none is open, until the last handle is gone.
async fn drive(client: Client, node: Arc<Node>, mut submissions: mpsc::Receiver<Submission>, in_flight: usize) {
    while let Some(first) = submissions.recv().await {
        let (requests, receiver) = mpsc::channel(in_flight + 1);
        let mut under_way = UnderWay::new();
        let mut next_id = 1;
        send(first, &requests, &mut under_way, &mut next_id);
        let opening = timeout(OPEN_TIMEOUT, open(node.channel(), receiver));
        let failed = match client.unless_silent(&node, QUIET, opening).await {
            Err(failed) => failed,
            Ok(Ok(Ok(replies))) => {
                client.nodes().ended(&node, Verdict::Answered);
                let stream = Stream { client: &client, node: &node, requests: Some(requests) };
                stream.run(&mut submissions, replies.into_inner(), &mut under_way, &mut next_id).await
            }
            Ok(Ok(Err(status))) => {
                client.nodes().ended(&node, Verdict::of(&status));
                Failed::of(&status)
            }
            Ok(Err(_)) => {
                client.nodes().ended(&node, Verdict::Nobody);
                let message = format!("the node accepted no pipeline within {OPEN_TIMEOUT:?}");
                Failed { error: Error::Unavailable { message }, reached: false }
            }
        };
        for (_, call) in under_way {
            // A caller that no longer waits needs no answer, here and below.
            let _ = call.answer.send(Err(failed.clone()));
        }
        // Those that came meanwhile would each wait for a connection attempt of their own.
        while let Ok(waiting) = submissions.try_recv() {
            let _ = waiting.submitted.answer.send(Err(failed.clone()));
        }
    }
}

/// As the generated `RecordsClient::pipeline`, with our codec.
async fn open(
    channel: Channel,
    requests: mpsc::Receiver<PipelinedCall>,
) -> Result<Response<Streaming<v1::PipelineReply>>, Status> {
    let mut stub = tonic::client::Grpc::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    stub.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::from_static("/loci.v1.Records/Pipeline");
    stub.streaming(ReceiverStream::new(requests).into_streaming_request(), path, PipelineCodec).await
}

/// An open stream.
struct Stream<'c> {
    client: &'c Client,
    node: &'c Arc<Node>,
    /// None: nothing more is sent on it.
    requests: Option<mpsc::Sender<PipelinedCall>>,
}

impl Stream<'_> {
    /// Carries calls and replies until the stream ends, and says why it did.
    async fn run(
        mut self,
        submissions: &mut mpsc::Receiver<Submission>,
        mut replies: Streaming<v1::PipelineReply>,
        under_way: &mut UnderWay,
        next_id: &mut u64,
    ) -> Failed {
        let nodes = self.client.nodes();
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Of the node, while something is due from it.
        let mut silence: Option<Pin<Box<_>>> = None;
        loop {
            match under_way.is_empty() {
                true => silence = None,
                false if silence.is_none() => {
                    silence = Some(Box::pin(self.client.silence(self.node, QUIET, Instant::now())))
                }
                false => {}
            }
            let silent = async {
                match &mut silence {
                    Some(silence) => silence.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = silent => return gave_up(self.node),
                submission = submissions.recv(), if self.requests.is_some() => match (submission, &self.requests) {
                    (Some(submission), Some(requests)) => {
                        send(submission, requests, under_way, next_id);
                        for _ in 1..SENT_AT_ONCE {
                            let Ok(submission) = submissions.try_recv() else { break };
                            send(submission, requests, under_way, next_id);
                        }
                    }
                    // The last handle is gone: tell the node that nothing more comes, and wait for what is under way.
                    _ => self.requests = None,
                },
                reply = replies.message() => match reply {
                    Ok(Some(v1::PipelineReply { id, reply, leader })) => {
                        nodes.ended(self.node, Verdict::Answered);
                        let Some(call) = under_way.remove(&id) else { continue };
                        if let Some(hint) = leader {
                            nodes.hint(call.namespace.as_deref(), self.node, &hint);
                        }
                        let _ = call.answer.send(answer(reply));
                    }
                    Ok(None) => {
                        return Error::Unavailable { message: "the node ended the pipeline".into() }.into();
                    }
                    Err(status) => {
                        nodes.ended(self.node, Verdict::of(&status));
                        return broken(&status);
                    }
                },
                _ = sweep.tick() => under_way.retain(|_, call| !call.answer.is_closed()),
            }
        }
    }
}

/// What a broken stream means for the calls on it: whatever the status, none of them is known to have failed for good.
fn broken(status: &Status) -> Failed {
    let Failed { error, reached } = Failed::of(status);
    let error = match error {
        error if error.is_transient() => error,
        error => Error::Unavailable { message: format!("the pipeline broke: {error}") },
    };
    Failed { error, reached }
}

fn answer(reply: Option<Reply>) -> Result<Reply, Failed> {
    match reply {
        Some(Reply::Error(error)) => Err(Error::from_call(error).into()),
        Some(reply) => Ok(reply),
        None => Err(Error::protocol("a reply without content").into()),
    }
}

fn send(submission: Submission, requests: &mpsc::Sender<PipelinedCall>, under_way: &mut UnderWay, next_id: &mut u64) {
    let Submission { mut request, submitted } = submission;
    if submitted.answer.is_closed() {
        return;
    }
    let id = *next_id;
    *next_id += 1;
    request.id = id;
    match requests.try_send(request) {
        Ok(()) => drop(under_way.insert(id, submitted)),
        // Full only when callers gave up faster than the connection took their calls.
        Err(_) => {
            let _ = submitted.answer.send(Err(Error::Unavailable { message: "the pipeline is stuck".into() }.into()));
        }
    }
}
