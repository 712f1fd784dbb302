//! The client against a node that misbehaves on purpose: what it retries, with which request id, and what it gives up on.

use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loci_client::{Client, Collection, Error, Ingest, IngestLimits, Record};
use loci_wire::v1::records_server::{Records, RecordsServer};
use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type PutRule = dyn Fn(usize, &v1::PutRequest) -> Result<v1::WriteReply, Status> + Send + Sync;
type PipelineRule = dyn Fn(usize, Vec<v1::PipelineRequest>) -> Vec<v1::PipelineReply> + Send + Sync;

/// Answers puts, scans and pipelines as a test wants; nothing else.
struct Fake {
    put: Box<PutRule>,
    puts: Mutex<Vec<v1::PutRequest>>,
    timeouts: Mutex<Vec<Option<String>>>,
    put_takes: Duration,
    /// How many calls a pipeline collects before it answers, and how; an empty answer breaks the stream.
    pipeline: (usize, Box<PipelineRule>),
    pipelines: Mutex<usize>,
    scans: Mutex<Vec<v1::ScanRequest>>,
}

impl Default for Fake {
    fn default() -> Fake {
        Fake {
            put: Box::new(|_, put| Ok(written(put))),
            puts: Mutex::default(),
            timeouts: Mutex::default(),
            put_takes: Duration::ZERO,
            pipeline: (1, Box::new(|_, _| Vec::new())),
            pipelines: Mutex::default(),
            scans: Mutex::default(),
        }
    }
}

fn written(put: &v1::PutRequest) -> v1::WriteReply {
    v1::WriteReply { version: 7, existed: vec![false; put.records.len()], ..Default::default() }
}

/// The fake as tonic wants it.
#[derive(Clone)]
struct Door(Arc<Fake>);

impl Deref for Door {
    type Target = Fake;

    fn deref(&self) -> &Fake {
        &self.0
    }
}

#[tonic::async_trait]
impl Records for Door {
    type ScanStreamStream = Pin<Box<dyn Stream<Item = Result<v1::ScanReply, Status>> + Send>>;
    type PipelineStream = ReceiverStream<Result<v1::PipelineReply, Status>>;

    async fn put(&self, request: Request<v1::PutRequest>) -> Answer<v1::WriteReply> {
        let timeout = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.timeouts.lock().unwrap().push(timeout);
        let put = request.into_inner();
        let attempt = {
            let mut puts = self.puts.lock().unwrap();
            puts.push(put.clone());
            puts.len()
        };
        tokio::time::sleep(self.put_takes).await;
        (self.put)(attempt, &put).map(Response::new)
    }

    async fn scan_stream(&self, request: Request<v1::ScanRequest>) -> Answer<Self::ScanStreamStream> {
        let request = request.into_inner();
        let first = match request.cursor.first() {
            Some(cursor) => *cursor,
            None => b'a',
        };
        self.scans.lock().unwrap().push(request);
        // Three pages in all, and a break after each but the last.
        let page = v1::ScanReply {
            records: vec![v1::Record { key: vec![first].into(), ..Default::default() }],
            cursor: if first < b'c' { vec![first + 1].into() } else { Default::default() },
            ..Default::default()
        };
        let broken = Err(Status::unavailable("stopping"));
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(page), broken]))))
    }

    async fn pipeline(&self, request: Request<Streaming<v1::PipelineRequest>>) -> Answer<Self::PipelineStream> {
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let fake = self.clone();
        tokio::spawn(async move {
            let number = {
                let mut pipelines = fake.pipelines.lock().unwrap();
                *pipelines += 1;
                *pipelines
            };
            let mut collected = Vec::new();
            while let Some(Ok(request)) = requests.next().await {
                collected.push(request);
                if collected.len() < fake.pipeline.0 {
                    continue;
                }
                let replies = (fake.pipeline.1)(number, std::mem::take(&mut collected));
                if replies.is_empty() {
                    return;
                }
                for reply in replies {
                    if sender.send(Ok(reply)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Answer<v1::GetReply> {
        Err(Status::unimplemented("get"))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::DeleteReply> {
        Err(Status::unimplemented("delete"))
    }

    async fn batch(&self, _: Request<v1::BatchRequest>) -> Answer<v1::WriteReply> {
        Err(Status::unimplemented("batch"))
    }

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Answer<v1::ScanReply> {
        Err(Status::unimplemented("scan"))
    }

    async fn count(&self, _: Request<v1::CountRequest>) -> Answer<v1::CountReply> {
        Err(Status::unimplemented("count"))
    }

    async fn route(&self, _: Request<v1::RouteRequest>) -> Answer<v1::RouteReply> {
        Err(Status::unimplemented("route"))
    }

    async fn search(&self, _: Request<v1::SearchRequest>) -> Answer<v1::SearchReply> {
        Err(Status::unimplemented("search"))
    }
}

async fn serve(fake: Fake) -> (Arc<Fake>, Client) {
    let fake = Arc::new(fake);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let server = tonic::transport::Server::builder().add_service(RecordsServer::new(Door(fake.clone())));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let builder = Client::builder().address(address.to_string()).principal("tester").task("t1");
    (fake, builder.connect_lazy().expect("an address"))
}

fn notes(client: &Client) -> Collection {
    client.collection("ns", "notes")
}

fn request_ids(fake: &Fake) -> Vec<Vec<u8>> {
    let puts = fake.puts.lock().unwrap();
    puts.iter().map(|put| put.origin.clone().unwrap_or_default().request_id.to_vec()).collect()
}

#[tokio::test]
async fn a_write_is_repeated_with_its_request_id_until_the_node_can() {
    let put = |attempt, put: &v1::PutRequest| {
        if attempt < 3 { Err(Status::unavailable("starting")) } else { Ok(written(put)) }
    };
    let (fake, client) = serve(Fake { put: Box::new(put), ..Fake::default() }).await;
    let outcome = notes(&client).put(Record::new("k")).await.expect("the third attempt succeeds");
    assert_eq!((outcome.version, outcome.existed), (7, vec![false]));
    let ids = request_ids(&fake);
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| id.len() == 16 && *id == ids[0]), "{ids:?}");
    notes(&client).put(Record::new("k")).await.expect("done");
    assert_ne!(request_ids(&fake)[3], ids[0], "another write has another id");
    let origin = fake.puts.lock().unwrap()[0].origin.clone().expect("an origin");
    assert_eq!((origin.principal.as_str(), origin.task.as_str()), ("tester", "t1"));
}

#[tokio::test]
async fn an_overloaded_node_is_left_alone_for_as_long_as_it_says() {
    let put = |attempt, put: &v1::PutRequest| {
        let detail = v1::ErrorDetail { retry_after_millis: 30, ..Default::default() };
        let details = loci_wire::encode_detail(8, "queue full", &detail);
        let full = Status::with_details(tonic::Code::ResourceExhausted, "queue full", details.into());
        if attempt == 1 { Err(full) } else { Ok(written(put)) }
    };
    let (fake, client) = serve(Fake { put: Box::new(put), ..Fake::default() }).await;
    notes(&client).put(Record::new("k")).await.expect("the second attempt succeeds");
    assert_eq!(fake.puts.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn what_can_never_work_is_sent_once() {
    let detail = v1::ErrorDetail { reason: "wrong_dimension".into(), number: 2, ..Default::default() };
    let put = move |_, _: &v1::PutRequest| {
        let details = loci_wire::encode_detail(3, "dimension 3, not 4", &detail);
        Err(Status::with_details(tonic::Code::InvalidArgument, "dimension 3, not 4", details.into()))
    };
    let (fake, client) = serve(Fake { put: Box::new(put), ..Fake::default() }).await;
    let expected =
        Error::InvalidArgument { message: "dimension 3, not 4".into(), reason: "wrong_dimension".into(), number: 2 };
    assert_eq!(notes(&client).put(Record::new("k")).await, Err(expected));
    assert_eq!(fake.puts.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_ends_with_its_time_and_the_node_is_told_how_long_that_is() {
    let (fake, client) = serve(Fake { put_takes: Duration::from_secs(3600), ..Fake::default() }).await;
    let outcome = notes(&client).with_timeout(Duration::from_millis(100)).put(Record::new("k")).await;
    assert!(matches!(outcome, Err(Error::DeadlineExceeded { .. })), "{outcome:?}");
    let timeouts = fake.timeouts.lock().unwrap();
    assert!(timeouts.first().is_some_and(Option::is_some), "{timeouts:?}");
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let client = Client::builder().address(address.to_string()).retries(1).connect().await;
    assert!(matches!(client, Err(Error::Unavailable { .. })), "{client:?}");
}

/// Says the key that was asked for.
fn echo(request: v1::PipelineRequest) -> v1::PipelineReply {
    let reply = match request.call {
        Some(Call::Get(get)) => Reply::Get(v1::GetReply {
            records: get
                .keys
                .into_iter()
                .map(|key| v1::FoundRecord { record: Some(v1::Record { key, ..Default::default() }) })
                .collect(),
            ..Default::default()
        }),
        Some(Call::Put(put)) => Reply::Write(written(&put)),
        _ => Reply::Error(v1::CallError { code: 12, message: "only get and put".into(), detail: None }),
    };
    v1::PipelineReply { id: request.id, reply: Some(reply), leader: None }
}

#[tokio::test]
async fn answers_in_any_order_reach_their_own_callers() {
    let backwards = |_, requests: Vec<v1::PipelineRequest>| requests.into_iter().rev().map(echo).collect();
    let (_fake, client) = serve(Fake { pipeline: (8, Box::new(backwards)), ..Fake::default() }).await;
    let notes = client.pipeline().collection("ns", "notes");
    let callers: Vec<_> = (0..8)
        .map(|number| {
            let notes = notes.clone();
            tokio::spawn(async move { (number, notes.get(format!("k{number}")).await) })
        })
        .collect();
    for caller in callers {
        let (number, found) = caller.await.expect("no panic");
        let found = found.expect("answered").expect("there");
        assert_eq!(found.key, format!("k{number}"));
    }
}

#[tokio::test]
async fn an_error_on_a_pipeline_is_its_own_calls_only() {
    let (_fake, client) = serve(Fake {
        pipeline: (1, Box::new(|_, requests| requests.into_iter().map(echo).collect())),
        ..Fake::default()
    })
    .await;
    let notes = client.pipeline().collection("ns", "notes");
    let count = notes.count(None).await;
    assert!(matches!(count, Err(Error::Other { .. })), "{count:?}");
    assert!(notes.get("k").await.expect("answered").is_some());
}

#[tokio::test]
async fn a_call_that_is_larger_than_a_message_fails_and_the_others_do_not() {
    let echoes = |_, requests: Vec<v1::PipelineRequest>| requests.into_iter().map(echo).collect();
    let (fake, client) = serve(Fake { pipeline: (1, Box::new(echoes)), ..Fake::default() }).await;
    let notes = client.pipeline().collection("ns", "notes");
    let outcome = notes.put(Record::new("k").with_value(vec![0; loci_wire::MESSAGE_BYTES_MAX])).await;
    assert!(matches!(outcome, Err(Error::TooLarge { .. })), "{outcome:?}");
    assert!(notes.get("k").await.expect("answered").is_some());
    assert_eq!(*fake.pipelines.lock().unwrap(), 1);
}

#[tokio::test]
async fn calls_on_a_broken_pipeline_are_sent_again_with_their_request_ids() {
    let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let noted = seen.clone();
    let breaks_once = move |pipeline, requests: Vec<v1::PipelineRequest>| {
        for request in &requests {
            if let Some(Call::Put(put)) = &request.call {
                noted.lock().unwrap().push(put.origin.clone().unwrap_or_default().request_id.to_vec());
            }
        }
        if pipeline == 1 { Vec::new() } else { requests.into_iter().map(echo).collect() }
    };
    let (fake, client) = serve(Fake { pipeline: (1, Box::new(breaks_once)), ..Fake::default() }).await;
    let outcome = client.pipeline().collection("ns", "notes").put(Record::new("k")).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(*fake.pipelines.lock().unwrap(), 2);
}

#[tokio::test]
async fn a_pipeline_bounds_the_calls_under_way() {
    let (fake, client) = serve(Fake { pipeline: (3, Box::new(|_, _| Vec::new())), ..Fake::default() }).await;
    // The fake answers no two calls, so that a third, for which there is no room, never reaches it.
    let notes = client.pipeline_of(2).collection("ns", "notes").with_timeout(Duration::from_millis(200));
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let notes = notes.clone();
            tokio::spawn(async move { notes.get("k").await })
        })
        .collect();
    for caller in callers {
        let outcome = caller.await.expect("no panic");
        assert!(matches!(outcome, Err(Error::DeadlineExceeded { .. })), "{outcome:?}");
    }
    assert_eq!(*fake.pipelines.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_scan_goes_on_where_a_broken_stream_ended() {
    let (fake, client) = serve(Fake::default()).await;
    let records = notes(&client).scan().collect().await.expect("scanned");
    let keys: Vec<_> = records.into_iter().map(|record| record.key).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    let cursors: Vec<_> = fake.scans.lock().unwrap().iter().map(|scan| scan.cursor.to_vec()).collect();
    assert_eq!(cursors, [b"".to_vec(), b"b".to_vec(), b"c".to_vec()]);
}

/// Refuses every put that has a record of this key, and keeps what it takes in order.
fn refusing(key: &'static str) -> Fake {
    let put = move |_, put: &v1::PutRequest| {
        if put.records.iter().any(|record| record.key == key) {
            return Err(Status::invalid_argument("no such thing"));
        }
        Ok(written(put))
    };
    Fake { put: Box::new(put), ..Fake::default() }
}

#[tokio::test]
async fn ingest_finds_the_record_that_is_refused_and_writes_the_others() {
    let (fake, client) = serve(refusing("k13")).await;
    let limits = IngestLimits { batch_records: 10, in_flight: 3, ..IngestLimits::default() };
    let mut ingest = Ingest::new(notes(&client), limits);
    for number in 0..57 {
        ingest.push(Record::new(format!("k{number}"))).await.expect("pushed");
    }
    ingest.flush().await.expect("flushed");
    assert_eq!((ingest.pushed(), ingest.acknowledged()), (57, 57));
    let refused = ingest.take_refused();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((refused[0].number, refused[0].key.as_ref()), (13, b"k13".as_slice()));
    let puts = fake.puts.lock().unwrap();
    let mut taken: Vec<String> = puts
        .iter()
        .filter(|put| put.records.iter().all(|record| record.key != "k13"))
        .flat_map(|put| put.records.iter().map(|record| String::from_utf8_lossy(&record.key).into_owned()))
        .collect();
    taken.sort();
    let mut expected: Vec<String> = (0..57).filter(|n| *n != 13).map(|number| format!("k{number}")).collect();
    expected.sort();
    assert_eq!(taken, expected);
}

#[tokio::test]
async fn ingest_writes_records_of_one_key_in_their_order() {
    let (fake, client) = serve(Fake { put_takes: Duration::from_millis(5), ..Fake::default() }).await;
    let limits = IngestLimits { batch_records: 1, in_flight: 8, ..IngestLimits::default() };
    let mut ingest = Ingest::new(notes(&client), limits);
    for turn in 0..6 {
        for key in ["a", "b"] {
            ingest.push(Record::new(key).with_value(turn.to_string())).await.expect("pushed");
        }
    }
    ingest.flush().await.expect("flushed");
    let puts = fake.puts.lock().unwrap();
    for key in ["a", "b"] {
        let values: Vec<_> = puts
            .iter()
            .flat_map(|put| &put.records)
            .filter(|record| record.key == key)
            .filter_map(|record| record.value.clone())
            .collect();
        assert_eq!(values, ["0", "1", "2", "3", "4", "5"]);
    }
}

#[tokio::test]
async fn ingest_ends_with_an_error_that_concerns_all_records() {
    let put = |_, _: &v1::PutRequest| Err(Status::not_found("collection \"notes\" does not exist"));
    let (_fake, client) = serve(Fake { put: Box::new(put), ..Fake::default() }).await;
    let mut ingest = Ingest::new(notes(&client), IngestLimits::default());
    ingest.push(Record::new("k")).await.expect("only taken");
    assert!(matches!(ingest.flush().await, Err(Error::NotFound { .. })));
    assert!(matches!(ingest.push(Record::new("l")).await, Err(Error::NotFound { .. })));
    assert_eq!(ingest.acknowledged(), 0);
}
