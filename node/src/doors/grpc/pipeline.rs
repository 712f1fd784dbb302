//! The pipeline: many calls on one stream, answered in whatever order they end.
//!
//! ```text
//!   requests --> begun in the order they came (so two writes of one client reach the log in that order)
//!                  |  at most CALLS_UNDER_WAY of them, then reading waits
//!   replies  <-----'  as they end; a client that does not read them makes the reading wait too
//! ```
//!
//! One task drives the whole stream, so a call costs no task of its own. So nothing may be done in it that takes long while
//! another call waits for its turn: all requests that are there are begun before any is gone on with, and only a search
//! that is alone then is done on the spot. A call that begins is copied to where it waits: what is rare and large in it is boxed, and
//! what runs is pinned where it stands, so that puts, gets and deletes are small.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use loci_wire::v1;
use loci_wire::v1::pipeline_reply::Reply;
use loci_wire::v1::pipeline_request::Call;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::cache;
use super::calls::Calls;
use super::records::measured;
use super::redirect::Subject;
use super::status::Failure;
use crate::gate;
use crate::metrics::Metrics;

/// The most calls under way on one stream.
pub const CALLS_UNDER_WAY: usize = 1_024;
/// Replies that wait for the client to read.
pub const REPLIES_WAITING: usize = 64;

/// Answers the calls of one stream until the client ends it or goes.
pub async fn run(
    calls: Calls,
    metrics: Arc<Metrics>,
    mut requests: Streaming<v1::PipelineRequest>,
    replies: mpsc::Sender<Result<v1::PipelineReply, Status>>,
) {
    // Declared first, so that it outlives the calls that look at it.
    let count = AtomicUsize::new(0);
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        count.store(under_way.len(), Ordering::Relaxed);
        tokio::select! {
            biased;
            request = requests.next(), if open && under_way.len() < CALLS_UNDER_WAY => match request {
                Some(Ok(request)) => under_way.push(answer(&calls, &metrics, &count, request)),
                // The stream broke: nobody reads the replies any more.
                Some(Err(_)) => return,
                None => open = false,
            },
            Some(reply) = under_way.next(), if !under_way.is_empty() => {
                if replies.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// `under_way`: how many calls are, this one too, when it is gone on with.
fn answer<'c>(
    calls: &'c Calls,
    metrics: &'c Metrics,
    under_way: &'c AtomicUsize,
    request: v1::PipelineRequest,
) -> impl Future<Output = v1::PipelineReply> + Send + 'c {
    let v1::PipelineRequest { id, timeout_millis, call, known, traceparent } = request;
    let timeout = match timeout_millis {
        0 => None,
        millis => Some(Duration::from_millis(millis.into())),
    };
    let deadline = gate::deadline(timeout, gate::TIMEOUT_DEFAULT);
    let begun = |subject| Answering { calls, metrics, id, subject, deadline, traceparent };
    /// How one kind of call is answered.
    macro_rules! answered {
        ($method:literal, $writes:expr, $about:expr, $request:ident, $reply:ident, $answer:expr) => {{
            let (begun, writes) = (begun(calls.subject($about, known)), $writes);
            begun.with($method, writes, move || async move {
                let _pass = calls.enter(&*$request)?;
                Ok(Reply::$reply($answer.await?))
            })
        }};
    }
    let rare: Pin<Box<dyn Future<Output = v1::PipelineReply> + Send + 'c>> = match call {
        Some(Call::Put(put)) => {
            return Either::Left(answered!("put", true, &*put, put, Write, calls.put(put, deadline)));
        }
        Some(Call::Get(get)) => {
            let answered = answered!("get", false, &*get, get, Get, calls.get(get, deadline));
            return Either::Right(Either::Left(answered));
        }
        Some(Call::Delete(delete)) => {
            Box::pin(answered!("delete", true, &*delete, delete, Delete, calls.delete(*delete, deadline)))
        }
        Some(Call::Batch(batch)) => {
            Box::pin(answered!("batch", true, &*batch, batch, Write, calls.batch(*batch, deadline)))
        }
        Some(Call::Scan(scan)) => Box::pin(answered!("scan", false, &*scan, scan, Scan, calls.scan(*scan, deadline))),
        Some(Call::Count(count)) => {
            Box::pin(answered!("count", false, &*count, count, Count, calls.count(*count, deadline)))
        }
        Some(Call::Search(search)) => Box::pin(answered!("search", false, &*search, search, Search, {
            let alone = under_way.load(Ordering::Relaxed) == 1;
            calls.search(*search, deadline, alone)
        })),
        Some(Call::Execute(execute)) => {
            let (writes, about) = (cache::writes(&execute), cache::Named(&execute));
            Box::pin(answered!("execute", writes, &about, execute, Execute, calls.execute(*execute, deadline)))
        }
        None => Box::pin(begun(Subject::default()).with("none", false, || async {
            Err(Failure::invalid("invalid_call", "the request has no call; set put, get, ..."))
        })),
    };
    Either::Right(Either::Right(rare))
}

/// A call that has begun.
struct Answering<'c> {
    calls: &'c Calls,
    metrics: &'c Metrics,
    id: u64,
    subject: Subject,
    deadline: Instant,
    traceparent: String,
}

impl Answering<'_> {
    /// `call` makes what answers, which is large, where it is to be.
    async fn with<F: Future<Output = Result<Reply, Failure>>>(
        self,
        method: &'static str,
        writes: bool,
        call: impl FnOnce() -> F,
    ) -> v1::PipelineReply {
        let Answering { calls, metrics, id, subject, deadline, traceparent } = self;
        let call = pin!(call());
        let traceparent = (!traceparent.is_empty()).then_some(traceparent.as_str());
        let reply = match measured(metrics, method, writes, deadline, traceparent, call).await {
            Ok(reply) => reply,
            Err(failure) => Reply::Error(failure.into_call_error()),
        };
        v1::PipelineReply { id, reply: Some(reply), leader: calls.redirect(&subject) }
    }
}
