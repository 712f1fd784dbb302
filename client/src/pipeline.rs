//! One stream that carries the calls of many tasks, answered in any order.
//!
//! ```text
//! tasks --call--> [ submissions ] --> driver --id, call--> the node
//!   ^                                    |  <--id, reply---'
//!   `------------- its own answer -------'
//! ```
//!
//! The driver is one task that owns the stream and the table of calls under way. When the stream breaks it tells all of
//! them so; each then tries again by the client's rules with the same request id, on the stream that the driver opens for
//! the next call. The calls under way are bounded: when there are too many, the next one waits for its turn.
//!
//! Replies say when another node leads. Once all that they say agree, the driver sends nothing more on the stream, waits for
//! what is under way, and opens the next stream there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::breaker::Verdict;
use crate::client::records;
use crate::nodes::{Failed, Node, Wish};
use crate::{Client, Collection, Error};

/// How long the node may take to accept a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often calls are let go whose callers no longer wait.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Two nodes that each believe the other to lead must not make the pipeline go to and fro.
const MOVE_INTERVAL: Duration = Duration::from_secs(1);

/// A stream for many calls at a time; see [`Client::pipeline`]. Clones share the stream; it ends with the last of them.
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
    submissions: mpsc::Sender<Submission>,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Submission {
    call: Call,
    timeout_millis: u32,
    traceparent: String,
    answer: oneshot::Sender<Result<Reply, Failed>>,
    _room: OwnedSemaphorePermit,
}

type UnderWay = HashMap<u64, Submitted>;

struct Submitted {
    answer: oneshot::Sender<Result<Reply, Failed>>,
    _room: OwnedSemaphorePermit,
}

impl Pipeline {
    /// Calls at a time, unless said otherwise.
    pub const IN_FLIGHT: usize = 1024;

    pub(crate) fn new(client: Client, in_flight: usize) -> Pipeline {
        let in_flight = in_flight.clamp(1, Semaphore::MAX_PERMITS);
        // There are never more submissions than permits, so sending one does not wait.
        let (submissions, receiver) = mpsc::channel(in_flight);
        tokio::spawn(drive(client.clone(), receiver, in_flight));
        Pipeline { client, submissions, room: Arc::new(Semaphore::new(in_flight)) }
    }

    /// A collection whose calls go through this pipeline.
    pub fn collection(&self, namespace: impl Into<String>, name: impl Into<String>) -> Collection {
        let pipeline = Some(self.clone());
        Collection::new(self.client.clone(), pipeline, namespace.into(), name.into())
    }

    pub(crate) async fn call(&self, call: Call, timeout: Duration) -> Result<Reply, Error> {
        self.client
            .retrying_errors(timeout, |deadline, _| {
                let call = call.clone();
                async move {
                    let remaining = deadline.saturating_duration_since(Instant::now());
                    self.submit(call, remaining).await.map_err(|failed| (failed, None))
                }
            })
            .await
    }

    async fn submit(&self, call: Call, remaining: Duration) -> Result<Reply, Failed> {
        let stopped = || Failed::from(Error::Unavailable { message: "the pipeline has stopped".into() });
        let room = self.room.clone().acquire_owned().await;
        let (answer, answered) = oneshot::channel();
        let submission = Submission {
            call,
            traceparent: self.client.trace().to_owned(),
            timeout_millis: u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1),
            answer,
            _room: room.map_err(|_| stopped())?,
        };
        self.submissions.send(submission).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// Where a pipeline goes.
#[derive(Default)]
struct Course {
    /// Who leads which shard, as replies said.
    leaders: HashMap<u32, Arc<Node>>,
    moved: Option<Instant>,
}

impl Course {
    /// Who leads everything that replies were about.
    fn leader(&self) -> Option<&Arc<Node>> {
        let mut leaders = self.leaders.values();
        let first = leaders.next()?;
        leaders.all(|node| Arc::ptr_eq(node, first)).then_some(first).filter(|node| node.lets_in())
    }

    /// Takes in who leads a shard; whether the pipeline is to leave `node` for it.
    fn leaves(&mut self, shard: u32, leader: Arc<Node>, node: &Arc<Node>) -> bool {
        self.leaders.insert(shard, leader);
        let elsewhere = self.leader().is_some_and(|leader| !Arc::ptr_eq(leader, node));
        let leaves = elsewhere && self.moved.is_none_or(|moved| moved.elapsed() >= MOVE_INTERVAL);
        if leaves {
            self.moved = Some(Instant::now());
        }
        leaves
    }
}

/// Why a stream ended.
enum Ended {
    /// As it was to, because another node leads.
    Left,
    Broke(Failed),
}

/// Opens a stream for each time that there are calls and none is open, until the last handle is gone.
async fn drive(client: Client, mut submissions: mpsc::Receiver<Submission>, in_flight: usize) {
    let mut course = Course::default();
    while let Some(first) = submissions.recv().await {
        let node = match course.leader() {
            Some(leader) => Arc::clone(leader),
            None => client.nodes().choose(Wish::of(&first.call), None),
        };
        let (requests, receiver) = mpsc::channel(in_flight + 1);
        let mut under_way = UnderWay::new();
        let mut next_id = 1;
        send(first, &requests, &mut under_way, &mut next_id);
        let mut stub = records(node.channel());
        let opened = timeout(OPEN_TIMEOUT, stub.pipeline(ReceiverStream::new(receiver))).await;
        let ended = match opened {
            Ok(Ok(replies)) => {
                client.nodes().ended(&node, Verdict::Answered);
                let stream = Stream { client: &client, node: &node, requests: Some(requests) };
                stream.run(&mut submissions, replies.into_inner(), &mut under_way, &mut next_id, &mut course).await
            }
            Ok(Err(status)) => {
                client.nodes().ended(&node, Verdict::of(&status));
                Ended::Broke(Failed::of(&status))
            }
            Err(_) => {
                client.nodes().ended(&node, Verdict::Nobody);
                let message = format!("the node accepted no pipeline within {OPEN_TIMEOUT:?}");
                Ended::Broke(Failed { error: Error::Unavailable { message }, reached: false })
            }
        };
        let failed = match ended {
            Ended::Left if under_way.is_empty() => continue,
            Ended::Left => Error::Unavailable { message: "the node ended the pipeline".into() }.into(),
            Ended::Broke(failed) => failed,
        };
        for (_, call) in under_way {
            // A caller that no longer waits needs no answer, here and below.
            let _ = call.answer.send(Err(failed.clone()));
        }
        // Those that came meanwhile would each wait for a connection attempt of their own.
        while let Ok(waiting) = submissions.try_recv() {
            let _ = waiting.answer.send(Err(failed.clone()));
        }
    }
}

/// An open stream.
struct Stream<'c> {
    client: &'c Client,
    node: &'c Arc<Node>,
    /// None: nothing more is sent on it.
    requests: Option<mpsc::Sender<v1::PipelineRequest>>,
}

impl Stream<'_> {
    /// Carries calls and replies until the stream ends, and says why it did.
    async fn run(
        mut self,
        submissions: &mut mpsc::Receiver<Submission>,
        mut replies: Streaming<v1::PipelineReply>,
        under_way: &mut UnderWay,
        next_id: &mut u64,
        course: &mut Course,
    ) -> Ended {
        let nodes = self.client.nodes();
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leaving = false;
        loop {
            tokio::select! {
                submission = submissions.recv(), if self.requests.is_some() => match (submission, &self.requests) {
                    (Some(submission), Some(requests)) => send(submission, requests, under_way, next_id),
                    // The last handle is gone: tell the node that nothing more comes, and wait for what is under way.
                    _ => self.requests = None,
                },
                reply = replies.message() => match reply {
                    Ok(Some(v1::PipelineReply { id, reply, leader })) => {
                        nodes.ended(self.node, Verdict::Answered);
                        if let Some(call) = under_way.remove(&id) {
                            let _ = call.answer.send(answer(reply));
                        }
                        if let Some(hint) = leader
                            && let Some(leader) = nodes.hint(Wish::Any, &hint)
                            && course.leaves(hint.shard, leader, self.node)
                        {
                            (self.requests, leaving) = (None, true);
                        }
                    }
                    Ok(None) if leaving => return Ended::Left,
                    Ok(None) => {
                        return Ended::Broke(Error::Unavailable { message: "the node ended the pipeline".into() }.into());
                    }
                    Err(status) => {
                        nodes.ended(self.node, Verdict::of(&status));
                        return Ended::Broke(broken(&status));
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

fn send(
    submission: Submission,
    requests: &mpsc::Sender<v1::PipelineRequest>,
    under_way: &mut UnderWay,
    next_id: &mut u64,
) {
    if submission.answer.is_closed() {
        return;
    }
    let id = *next_id;
    *next_id += 1;
    let request = v1::PipelineRequest {
        id,
        timeout_millis: submission.timeout_millis,
        call: Some(submission.call),
        traceparent: submission.traceparent,
    };
    match requests.try_send(request) {
        Ok(()) => {
            let submitted = Submitted { answer: submission.answer, _room: submission._room };
            under_way.insert(id, submitted);
        }
        // Full only when callers gave up faster than the connection took their calls.
        Err(_) => {
            let _ = submission.answer.send(Err(Error::Unavailable { message: "the pipeline is stuck".into() }.into()));
        }
    }
}
