//! Records in the order of their keys, a page at a time.
//!
//! A scan of a client reads pages from one open stream, and when the connection breaks goes on in a new stream where the
//! last page ended. A scan of a pipeline asks for each page.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::breaker::Verdict;
use crate::client::records;
use crate::collection::unexpected;
use crate::nodes::{Failed, Node};
use crate::silence::QUIET;
use crate::wish::Wish;
use crate::{Collection, Error, Filter, Record};

/// Records that a stream holds ready for its reader.
const RECORDS_AHEAD: usize = 256;

/// A scan under way; see [`Collection::scan`].
///
/// ```no_run
/// # async fn example(notes: loci_client::Collection) -> Result<(), loci_client::Error> {
/// let mut scan = notes.scan().prefix("2024/");
/// while let Some(record) = scan.next().await? {
///     println!("{:?}", record.key);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a scan does nothing until records are taken from it"]
pub struct Scan {
    collection: Collection,
    request: v1::ScanRequest,
    stream: Option<(Arc<Node>, Streaming<v1::ScanReply>)>,
    ready: VecDeque<Record>,
    at_end: bool,
}

/// Some records of a scan, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where to go on, with [`Scan::cursor`]; none: this was the last page.
    pub cursor: Option<Bytes>,
}

impl Scan {
    pub(crate) fn new(collection: Collection) -> Scan {
        Scan {
            request: v1::ScanRequest {
                collection: collection.wire_name(),
                parts: collection.wire_parts(),
                consistency: collection.wire_consistency(),
                ..Default::default()
            },
            collection,
            stream: None,
            ready: VecDeque::new(),
            at_end: false,
        }
    }

    /// Only keys that begin with this.
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> Scan {
        self.request.prefix = prefix.into();
        self
    }

    /// Only records that this filter takes.
    pub fn filter(mut self, filter: impl Into<Option<Filter>>) -> Scan {
        self.request.filter = filter.into().map(Filter::into_wire);
        self
    }

    /// Records per page, at most 10,000; 1,000 unless set.
    pub fn page_records(mut self, records: u32) -> Scan {
        self.request.limit = records;
        self
    }

    /// Goes on where a page of the same collection, prefix and filter ended.
    pub fn cursor(mut self, cursor: impl Into<Bytes>) -> Scan {
        self.request.cursor = cursor.into();
        self
    }

    /// The next record; none: that was the last.
    pub async fn next(&mut self) -> Result<Option<Record>, Error> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            match self.next_page().await? {
                Some(page) => self.ready = page.records.into(),
                None => return Ok(None),
            }
        }
    }

    /// The next page, which can be empty without being the last; none: that was the last.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        if self.at_end {
            return Ok(None);
        }
        let reply =
            if self.collection.is_pipelined() { self.page_of_call().await? } else { self.page_of_stream().await? };
        self.at_end = reply.cursor.is_empty();
        self.request.cursor = reply.cursor.clone();
        Ok(Some(Page {
            records: reply.records.into_iter().map(Record::try_from).collect::<Result<_, _>>()?,
            cursor: Some(reply.cursor).filter(|cursor| !cursor.is_empty()),
        }))
    }

    async fn page_of_call(&mut self) -> Result<v1::ScanReply, Error> {
        match self.collection.send(Call::Scan(Box::new(self.request.clone()))).await? {
            Reply::Scan(page) => Ok(page),
            other => Err(unexpected("scan", &other)),
        }
    }

    /// A stream that ends before the last page, or breaks, is opened again once; from then on the calls' own retries
    /// decide.
    async fn page_of_stream(&mut self) -> Result<v1::ScanReply, Error> {
        let Some((node, stream)) = &mut self.stream else {
            return self.open().await;
        };
        let client = self.collection.client();
        let next = tokio::time::timeout(self.collection.call_timeout(), stream.message());
        match client.unless_silent(node, QUIET, next).await {
            Ok(Ok(Ok(Some(page)))) => {
                client.nodes().ended(node, Verdict::Answered);
                Ok(page)
            }
            // It ended, or nothing is heard of the node any more.
            Ok(Ok(Ok(None))) | Err(_) => self.open().await,
            Ok(Ok(Err(status))) => {
                let error = Error::from_status(&status);
                // The stream as a whole has a deadline, which a slow reader of a large collection outlives.
                if error.is_transient() || matches!(error, Error::DeadlineExceeded { .. }) {
                    self.open().await
                } else {
                    Err(error)
                }
            }
            Ok(Err(_)) => {
                Err(Error::DeadlineExceeded { message: format!("no page within {:?}", self.collection.call_timeout()) })
            }
        }
    }

    /// Opens a stream where the last page ended, and reads its first page.
    async fn open(&mut self) -> Result<v1::ScanReply, Error> {
        self.stream = None;
        let client = self.collection.client();
        let timeout = self.collection.call_timeout();
        let (node, page, stream) = client
            .retrying_errors(timeout, |deadline, not| {
                let wish = Wish::of_scan(&self.request);
                let node = client.nodes().choose(wish, not.as_ref());
                let remaining = deadline.saturating_duration_since(Instant::now());
                let request = client.request(self.request.clone(), remaining);
                async move {
                    let opened = async {
                        let reply = records(node.channel()).scan_stream(request).await?;
                        client.nodes().read(wish, &node, reply.metadata());
                        let mut stream = reply.into_inner();
                        Ok::<_, tonic::Status>((stream.message().await?, stream))
                    };
                    match client.unless_silent(&node, QUIET, opened).await {
                        Err(failed) => Err((failed, Some(node))),
                        Ok(Ok((Some(page), stream))) => {
                            client.nodes().ended(&node, Verdict::Answered);
                            Ok((node, page, stream))
                        }
                        Ok(Ok((None, _))) => Err((Error::protocol("a scan without a page").into(), Some(node))),
                        Ok(Err(status)) => {
                            client.nodes().ended(&node, Verdict::of(&status));
                            Err((Failed::of(&status), Some(node)))
                        }
                    }
                }
            })
            .await?;
        self.stream = Some((node, stream));
        Ok(page)
    }

    /// All records. Keep it to collections that fit into memory.
    pub async fn collect(mut self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        while let Some(record) = self.next().await? {
            records.push(record);
        }
        Ok(records)
    }

    /// The records as a stream, read a little ahead. Dropping it ends the scan.
    pub fn into_stream(mut self) -> impl Stream<Item = Result<Record, Error>> + Send + 'static {
        let (sender, receiver) = tokio::sync::mpsc::channel(RECORDS_AHEAD);
        tokio::spawn(async move {
            while let Some(next) = self.next().await.transpose() {
                let failed = next.is_err();
                if sender.send(next).await.is_err() || failed {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver)
    }
}
