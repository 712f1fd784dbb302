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

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
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
async fn answer(
    calls: &Calls,
    metrics: &Metrics,
    under_way: &AtomicUsize,
    request: v1::PipelineRequest,
) -> v1::PipelineReply {
    let id = request.id;
    let traceparent = (!request.traceparent.is_empty()).then(|| request.traceparent.clone());
    let timeout = match request.timeout_millis {
        0 => None,
        millis => Some(Duration::from_millis(millis.into())),
    };
    let deadline = gate::deadline(timeout, gate::TIMEOUT_DEFAULT);
    let subject = match &request.call {
        Some(Call::Put(put)) => calls.subject(put, request.known),
        Some(Call::Get(get)) => calls.subject(get, request.known),
        Some(Call::Delete(delete)) => calls.subject(delete, request.known),
        Some(Call::Batch(batch)) => calls.subject(batch, request.known),
        Some(Call::Scan(scan)) => calls.subject(scan, request.known),
        Some(Call::Count(count)) => calls.subject(count, request.known),
        Some(Call::Search(search)) => calls.subject(search, request.known),
        Some(Call::Execute(execute)) => calls.subject(&cache::Named(execute), request.known),
        None => Subject::default(),
    };
    let (method, writes) = match &request.call {
        Some(Call::Put(_)) => ("put", true),
        Some(Call::Get(_)) => ("get", false),
        Some(Call::Delete(_)) => ("delete", true),
        Some(Call::Batch(_)) => ("batch", true),
        Some(Call::Scan(_)) => ("scan", false),
        Some(Call::Count(_)) => ("count", false),
        Some(Call::Search(_)) => ("search", false),
        Some(Call::Execute(execute)) => ("execute", cache::writes(execute)),
        None => ("none", false),
    };
    let call = pin!(async {
        let _pass = calls.enter(&request)?;
        Ok(match request.call {
            Some(Call::Put(put)) => Reply::Write(calls.put(put, deadline).await?),
            Some(Call::Get(get)) => Reply::Get(calls.get(get, deadline).await?),
            Some(Call::Delete(delete)) => Reply::Delete(calls.delete(delete, deadline).await?),
            Some(Call::Batch(batch)) => Reply::Write(Box::pin(calls.batch(batch, deadline)).await?),
            Some(Call::Scan(scan)) => Reply::Scan(Box::pin(calls.scan(scan, deadline)).await?),
            Some(Call::Count(count)) => Reply::Count(Box::pin(calls.count(count, deadline)).await?),
            Some(Call::Search(search)) => {
                let alone = under_way.load(Ordering::Relaxed) == 1;
                Reply::Search(Box::pin(calls.search(search, deadline, alone)).await?)
            }
            Some(Call::Execute(execute)) => Reply::Execute(Box::pin(calls.execute(execute, deadline)).await?),
            None => return Err(Failure::invalid("invalid_call", "the request has no call; set put, get, ...")),
        })
    });
    let reply = match measured(metrics, method, writes, deadline, traceparent.as_deref(), call).await {
        Ok(reply) => reply,
        Err(failure) => Reply::Error(failure.into_call_error()),
    };
    v1::PipelineReply { id, reply: Some(reply), leader: calls.redirect(&subject) }
}
