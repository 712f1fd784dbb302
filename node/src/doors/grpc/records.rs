//! The `Records` service: each method hands its request to [`Calls`] with a deadline.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_wire::v1::records_server::Records;
use loci_wire::{About, v1};
use tokio::sync::mpsc;
use tokio::time::error::Elapsed;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::calls::{Calls, Scan};
use super::pipeline;
use super::redirect::Subject;
use super::status::Failure;
use crate::gate;
use crate::metrics::Metrics;
use crate::trace;

/// Two ticks of the runtime's timer.
const EARLIER: Duration = Duration::from_millis(2);

/// Serves `loci.v1.Records`.
#[derive(Clone)]
pub struct RecordsService {
    /// What the calls do.
    pub calls: Calls,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
}

/// Until when a call must be answered that came with this metadata.
///
/// A little earlier than the client says: the transport below keeps the same deadline and answers "cancelled" by itself, where
/// a client should hear "deadline exceeded" and what became of its write.
pub fn deadline(metadata: &MetadataMap, default: Duration) -> Instant {
    let timeout = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(gate::grpc_timeout);
    gate::deadline(timeout.map(|timeout| timeout - EARLIER.min(timeout / 4)), default)
}

/// Runs a call until its deadline, counts it, and has it be part of its trace. Give it pinned: it is copied otherwise.
pub async fn measured<R>(
    metrics: &Metrics,
    method: &'static str,
    writes: bool,
    deadline: Instant,
    traceparent: Option<&str>,
    call: impl Future<Output = Result<R, Failure>>,
) -> Result<R, Failure> {
    let started = Instant::now();
    let _under_way = metrics.under_way();
    let in_time = pin!(tokio::time::timeout_at(deadline.into(), call));
    let ended = |result: &Result<Result<R, Failure>, Elapsed>| match result {
        Ok(result) => result.as_ref().map_or_else(|failure| failure.code as i32, |_| 0),
        Err(_) => Code::DeadlineExceeded as i32,
    };
    let result = match trace::call(method, traceparent, in_time, ended).await {
        Ok(result) => result,
        Err(_) => Err(Failure::late(writes)),
    };
    let code = result.as_ref().map_or_else(|failure| failure.code, |_| Code::Ok);
    metrics.observe(method, code, started.elapsed());
    result
}

/// A call of one request and one reply, of any service.
pub async fn unary<Q: prost::Message, R, F: Future<Output = Result<R, Failure>>>(
    calls: &Calls,
    metrics: &Metrics,
    method: &'static str,
    writes: bool,
    subject: Subject,
    request: Request<Q>,
    call: impl FnOnce(Q, Instant) -> F,
) -> Result<Response<R>, Status> {
    let deadline = deadline(request.metadata(), gate::TIMEOUT_DEFAULT);
    let traceparent = trace::given(request.metadata()).map(str::to_owned);
    let request = request.into_inner();
    let run = pin!(async {
        let _pass = calls.enter(&request)?;
        call(request, deadline).await
    });
    with_leader(calls, &subject, measured(metrics, method, writes, deadline, traceparent.as_deref(), run).await)
}

/// Says beside the answer who leads, if the client may not know: the next call may go there.
pub fn with_leader<R>(calls: &Calls, subject: &Subject, result: Result<R, Failure>) -> Result<Response<R>, Status> {
    let leader = calls.redirect(subject);
    match result {
        Ok(reply) => {
            let mut reply = Response::new(reply);
            if let Some(leader) = leader {
                loci_wire::insert_leader(reply.metadata_mut(), &leader);
            }
            Ok(reply)
        }
        Err(failure) => {
            let mut status = Status::from(failure);
            if let Some(leader) = leader {
                loci_wire::insert_leader(status.metadata_mut(), &leader);
            }
            Err(status)
        }
    }
}

impl RecordsService {
    async fn unary<Q: prost::Message + About, R, F: Future<Output = Result<R, Failure>>>(
        &self,
        method: &'static str,
        writes: bool,
        request: Request<Q>,
        call: impl FnOnce(Q, Instant) -> F,
    ) -> Result<Response<R>, Status> {
        let subject = self.calls.subject(request.get_ref(), loci_wire::known(request.metadata()));
        unary(&self.calls, &self.metrics, method, writes, subject, request, call).await
    }
}

#[tonic::async_trait]
impl Records for RecordsService {
    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteReply>, Status> {
        self.unary("put", true, request, |request, deadline| self.calls.put(Box::new(request), deadline)).await
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetReply>, Status> {
        self.unary("get", false, request, |request, deadline| self.calls.get(Box::new(request), deadline)).await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteReply>, Status> {
        self.unary("delete", true, request, |request, deadline| self.calls.delete(request, deadline)).await
    }

    async fn batch(&self, request: Request<v1::BatchRequest>) -> Result<Response<v1::WriteReply>, Status> {
        self.unary("batch", true, request, |request, deadline| self.calls.batch(request, deadline)).await
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<v1::ScanReply>, Status> {
        self.unary("scan", false, request, |request, deadline| self.calls.scan(request, deadline)).await
    }

    async fn count(&self, request: Request<v1::CountRequest>) -> Result<Response<v1::CountReply>, Status> {
        self.unary("count", false, request, |request, deadline| self.calls.count(request, deadline)).await
    }

    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchReply>, Status> {
        self.unary("search", false, request, |request, deadline| self.calls.search(request, deadline, true)).await
    }

    type ScanStreamStream = ReceiverStream<Result<v1::ScanReply, Status>>;

    /// All pages are of one view, however long the client takes to read them; where shards are on other nodes, each is of its own.
    async fn scan_stream(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStreamStream>, Status> {
        let deadline = deadline(request.metadata(), gate::TIMEOUT_MAX);
        let traceparent = trace::given(request.metadata()).map(str::to_owned);
        let subject = self.calls.subject(request.get_ref(), loci_wire::known(request.metadata()));
        let request = request.into_inner();
        let pass = self.calls.enter(&request)?;
        let far = self.calls.scans_far(&request)?.then(|| request.clone());
        let reading = match far {
            None => Some(self.calls.reading_of_scan(&request, deadline).await?),
            Some(_) => None,
        };
        let mut scan = Scan::new(request)?;
        // One page under way and one waiting: a client that reads slowly makes the scan wait.
        let (pages, stream) = mpsc::channel(1);
        let (calls, metrics) = (self.calls.clone(), Arc::clone(&self.metrics));
        tokio::spawn(async move {
            let whole = async {
                loop {
                    let page = match (&reading, &far) {
                        (Some(reading), _) => calls.page(reading.clone(), &scan, deadline).await?,
                        (None, far) => {
                            let request = far.clone().unwrap_or_default();
                            calls.scan(v1::ScanRequest { cursor: scan.cursor.clone(), ..request }, deadline).await?
                        }
                    };
                    let cursor = page.cursor.clone();
                    if pages.send(Ok(page)).await.is_err() || cursor.is_empty() {
                        return Ok(());
                    }
                    scan.cursor = cursor;
                }
            };
            if let Err(failure) =
                measured(&metrics, "scan_stream", false, deadline, traceparent.as_deref(), whole).await
            {
                // A client that has gone does not need to know why.
                let _ = pages.send(Err(failure.into())).await;
            }
            drop(pass);
        });
        with_leader(&self.calls, &subject, Ok(ReceiverStream::new(stream)))
    }

    async fn route(&self, request: Request<v1::RouteRequest>) -> Result<Response<v1::RouteReply>, Status> {
        let route = |request, _| async { self.calls.route(request) };
        unary(&self.calls, &self.metrics, "route", false, Subject::default(), request, route).await
    }

    type PipelineStream = ReceiverStream<Result<v1::PipelineReply, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<v1::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let (replies, stream) = mpsc::channel(pipeline::REPLIES_WAITING);
        tokio::spawn(pipeline::run(self.calls.clone(), Arc::clone(&self.metrics), request.into_inner(), replies));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
