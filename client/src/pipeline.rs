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

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{Client, Collection, Error};

/// How long the node may take to accept a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often calls are let go whose callers no longer wait.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

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
    answer: oneshot::Sender<Result<Reply, Error>>,
    _room: OwnedSemaphorePermit,
}

type UnderWay = HashMap<u64, Submitted>;

struct Submitted {
    answer: oneshot::Sender<Result<Reply, Error>>,
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
            .retrying_errors(timeout, |remaining| {
                let call = call.clone();
                async move { self.submit(call, remaining).await }
            })
            .await
    }

    async fn submit(&self, call: Call, remaining: Duration) -> Result<Reply, Error> {
        let stopped = || Error::Unavailable { message: "the pipeline has stopped".into() };
        let room = self.room.clone().acquire_owned().await;
        let (answer, answered) = oneshot::channel();
        let submission = Submission {
            call,
            timeout_millis: u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1),
            answer,
            _room: room.map_err(|_| stopped())?,
        };
        self.submissions.send(submission).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// Opens a stream for each time that there are calls and none is open, until the last handle is gone.
async fn drive(client: Client, mut submissions: mpsc::Receiver<Submission>, in_flight: usize) {
    while let Some(first) = submissions.recv().await {
        let (requests, receiver) = mpsc::channel(in_flight + 1);
        let mut under_way = UnderWay::new();
        let mut next_id = 1;
        send(first, &requests, &mut under_way, &mut next_id);
        let (address, mut records) = client.records();
        let opened = timeout(OPEN_TIMEOUT, records.pipeline(ReceiverStream::new(receiver))).await;
        let ended = match opened {
            Ok(Ok(replies)) => {
                let replies = replies.into_inner();
                run(&mut submissions, requests, replies, &mut under_way, &mut next_id).await
            }
            Ok(Err(status)) => {
                client.failed(address, &status);
                Error::from_status(&status)
            }
            Err(_) => Error::Unavailable { message: format!("the node accepted no pipeline within {OPEN_TIMEOUT:?}") },
        };
        for (_, call) in under_way {
            // A caller that no longer waits needs no answer, here and below.
            let _ = call.answer.send(Err(ended.clone()));
        }
        // Those that came meanwhile would each wait for a connection attempt of their own.
        while let Ok(waiting) = submissions.try_recv() {
            let _ = waiting.answer.send(Err(ended.clone()));
        }
    }
}

/// Carries calls and replies until the stream ends, and says why it did.
async fn run(
    submissions: &mut mpsc::Receiver<Submission>,
    requests: mpsc::Sender<v1::PipelineRequest>,
    mut replies: Streaming<v1::PipelineReply>,
    under_way: &mut UnderWay,
    next_id: &mut u64,
) -> Error {
    let mut requests = Some(requests);
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            submission = submissions.recv(), if requests.is_some() => match (submission, &requests) {
                (Some(submission), Some(requests)) => send(submission, requests, under_way, next_id),
                // The last handle is gone: tell the node that nothing more comes, and wait for what is under way.
                _ => requests = None,
            },
            reply = replies.message() => match reply {
                Ok(Some(reply)) => {
                    if let Some(call) = under_way.remove(&reply.id) {
                        let _ = call.answer.send(answer(reply.reply));
                    }
                }
                Ok(None) => {
                    return Error::Unavailable { message: "the node ended the pipeline".into() };
                }
                Err(status) => return stream_error(&status),
            },
            _ = sweep.tick() => under_way.retain(|_, call| !call.answer.is_closed()),
        }
    }
}

/// What a broken stream means for the calls on it: whatever the status, none of them is known to have failed for good.
fn stream_error(status: &Status) -> Error {
    match Error::from_status(status) {
        error if error.is_transient() => error,
        error => Error::Unavailable { message: format!("the pipeline broke: {error}") },
    }
}

fn answer(reply: Option<Reply>) -> Result<Reply, Error> {
    match reply {
        Some(Reply::Error(error)) => Err(Error::from_call(error)),
        Some(reply) => Ok(reply),
        None => Err(Error::protocol("a reply without content")),
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
    let request = v1::PipelineRequest { id, timeout_millis: submission.timeout_millis, call: Some(submission.call) };
    match requests.try_send(request) {
        Ok(()) => {
            let submitted = Submitted { answer: submission.answer, _room: submission._room };
            under_way.insert(id, submitted);
        }
        // Full only when callers gave up faster than the connection took their calls.
        Err(_) => {
            let _ = submission.answer.send(Err(Error::Unavailable { message: "the pipeline is stuck".into() }));
        }
    }
}
