//! The client against several nodes that misbehave on purpose: which of them it asks, and how often.

use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loci_client::{Builder, Client, Collection, Consistency, Error, Hedge, Record};
use loci_wire::v1::changes_server::{Changes, ChangesServer};
use loci_wire::v1::records_server::{Records, RecordsServer};
use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;

/// What a node does with puts and gets, besides counting them.
#[derive(Debug, Clone, Default)]
enum Mood {
    #[default]
    Answers,
    /// Nothing comes back.
    Hangs,
    /// It says that this can be tried again.
    Fails(&'static str),
    /// It has too much to do.
    Overloaded,
    /// The next call stops the whole node, for longer than any test takes; a stream, after its first reply.
    Freezes,
}

/// Nothing else of a node that is [served apart](apart) goes on.
fn freeze() {
    std::thread::sleep(Duration::from_secs(120));
}

#[derive(Default)]
struct Fake {
    mood: Mutex<Mood>,
    /// Who leads, if it is another.
    leader: Mutex<Option<String>>,
    /// What it says instead, of shards.
    told: Mutex<Option<v1::Leader>>,
    /// What it answers who asks for the map.
    map: Mutex<Option<v1::RouteReply>>,
    maps: AtomicUsize,
    /// What clients believed.
    known: Mutex<Vec<Option<v1::KnownRoute>>>,
    puts: AtomicUsize,
    gets: AtomicUsize,
    piped: AtomicUsize,
    /// What each call said about its time, in microseconds.
    timeouts: Mutex<Vec<u64>>,
    traces: Mutex<Vec<Option<String>>>,
    /// Told when a call is no longer wanted.
    cancelled: Arc<Notify>,
}

struct Cancelled(Arc<Notify>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Fake {
    fn hint(&self) -> Option<v1::Leader> {
        if let Some(told) = self.told.lock().unwrap().clone() {
            return Some(told);
        }
        let address = self.leader.lock().unwrap().clone()?;
        Some(v1::Leader { shard: 1, address, term: 1, version: 1 })
    }

    async fn answer<Q, R>(&self, request: Request<Q>, reply: R) -> Answer<R> {
        let header = |name: &str| Some(request.metadata().get(name)?.to_str().ok()?.to_owned());
        if let Some(timeout) = header("grpc-timeout") {
            let (digits, unit) = timeout.split_at(timeout.len() - 1);
            let scale = match unit {
                "n" => 1.0 / 1e3,
                "u" => 1.0,
                "m" => 1e3,
                _ => 1e6,
            };
            self.timeouts.lock().unwrap().push((digits.parse::<f64>().unwrap() * scale) as u64);
        }
        self.traces.lock().unwrap().push(header("traceparent"));
        self.known.lock().unwrap().push(loci_wire::known(request.metadata()));
        let mood = self.mood.lock().unwrap().clone();
        let detail = |reason: &str, millis| {
            let code = if millis == 0 { Code::Unavailable } else { Code::ResourceExhausted };
            let detail = v1::ErrorDetail { reason: reason.into(), retry_after_millis: millis, ..Default::default() };
            Status::with_details(code, reason, loci_wire::encode_detail(code as i32, reason, &detail).into())
        };
        let mut answer = match mood {
            Mood::Answers => Ok(Response::new(reply)),
            Mood::Fails(reason) => Err(detail(reason, 0)),
            Mood::Overloaded => Err(detail("overloaded", 1)),
            Mood::Freezes => {
                freeze();
                Err(detail("stopping", 0))
            }
            Mood::Hangs => {
                let _cancelled = Cancelled(self.cancelled.clone());
                pending().await
            }
        };
        if let Some(leader) = self.hint() {
            let metadata = match &mut answer {
                Ok(reply) => reply.metadata_mut(),
                Err(status) => status.metadata_mut(),
            };
            loci_wire::insert_leader(metadata, &leader);
        }
        answer
    }
}

#[derive(Clone)]
struct Door(Arc<Fake>);

type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Fake {
    /// Replies of a stream, after which nothing comes of a node that freezes, and the end of others.
    fn told<T: Send + 'static>(self: Arc<Fake>, replies: Vec<T>) -> Told<T> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for reply in replies {
                let _ = sender.send(Ok(reply)).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                if matches!(*self.mood.lock().unwrap(), Mood::Freezes) {
                    freeze();
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

#[tonic::async_trait]
impl Changes for Door {
    type WatchStream = Told<v1::WatchReply>;

    /// Tells where the watch begins, and of one change.
    async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let token = |index| Some(v1::Token { shard: 1, index, others: Vec::new() });
        let mut event = v1::WatchEvent { index: 7, key: "k".into(), ..Default::default() };
        event.set_kind(v1::WatchKind::Created);
        let replies = [(Vec::new(), 6), (vec![event], 7)];
        let replies = replies.map(|(events, index)| v1::WatchReply { events, token: token(index), shard: 1 });
        Ok(Response::new(self.0.clone().told(replies.into())))
    }
}

#[tonic::async_trait]
impl Records for Door {
    type ScanStreamStream = Pin<Box<dyn Stream<Item = Result<v1::ScanReply, Status>> + Send>>;
    type PipelineStream = ReceiverStream<Result<v1::PipelineReply, Status>>;

    async fn put(&self, request: Request<v1::PutRequest>) -> Answer<v1::WriteReply> {
        self.0.puts.fetch_add(1, Ordering::Relaxed);
        self.0.answer(request, v1::WriteReply::default()).await
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetReply> {
        self.0.gets.fetch_add(1, Ordering::Relaxed);
        let records = request.get_ref().keys.iter().map(|_| v1::FoundRecord::default()).collect();
        self.0.answer(request, v1::GetReply { records, ..Default::default() }).await
    }

    async fn pipeline(&self, request: Request<Streaming<v1::PipelineRequest>>) -> Answer<Self::PipelineStream> {
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let fake = self.0.clone();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                fake.piped.fetch_add(1, Ordering::Relaxed);
                fake.known.lock().unwrap().push(request.known);
                assert!(matches!(request.call, Some(Call::Put(_))));
                let reply = match *fake.mood.lock().unwrap() {
                    Mood::Fails(reason) => {
                        let detail = Some(v1::ErrorDetail { reason: reason.into(), ..Default::default() });
                        Reply::Error(v1::CallError { code: Code::Unavailable as i32, message: reason.into(), detail })
                    }
                    Mood::Freezes => {
                        freeze();
                        return;
                    }
                    _ => Reply::Write(v1::WriteReply::default()),
                };
                let reply = Some(reply);
                let reply = v1::PipelineReply { id: request.id, reply, leader: fake.hint() };
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    /// Two pages of one record each.
    async fn scan_stream(&self, request: Request<v1::ScanRequest>) -> Answer<Self::ScanStreamStream> {
        let page = |key: &'static str, cursor: &'static str| v1::ScanReply {
            records: vec![v1::Record { key: key.into(), ..Default::default() }],
            cursor: cursor.into(),
            ..Default::default()
        };
        let pages =
            if request.get_ref().cursor.is_empty() { vec![page("a", "b"), page("b", "")] } else { vec![page("b", "")] };
        Ok(Response::new(self.0.clone().told(pages)))
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
        self.0.maps.fetch_add(1, Ordering::Relaxed);
        let map = self.0.map.lock().unwrap().clone();
        map.map(Response::new).ok_or_else(|| Status::unimplemented("route"))
    }

    async fn search(&self, _: Request<v1::SearchRequest>) -> Answer<v1::SearchReply> {
        Err(Status::unimplemented("search"))
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
}

fn serve(listener: TcpListener) -> Arc<Fake> {
    let fake = Arc::new(Fake::default());
    tokio::spawn(serving(listener, fake.clone()));
    fake
}

async fn serving(listener: TcpListener, fake: Arc<Fake>) {
    let server = tonic::transport::Server::builder()
        .add_service(RecordsServer::new(Door(fake.clone())))
        .add_service(ChangesServer::new(Door(fake)));
    server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("it serves");
}

/// A node on a thread of its own, so that all of it can stop.
async fn apart(listener: TcpListener) -> Arc<Fake> {
    let fake = Arc::new(Fake::default());
    let (served, listener) = (fake.clone(), listener.into_std().expect("a listener"));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            serving(TcpListener::from_std(listener).expect("a listener"), served).await;
        });
    });
    fake
}

/// Two nodes, of which the first stops with the next call, or a stream's first reply; and a client that calls it first and has less
/// time than it takes a connection to be given up.
async fn one_that_freezes() -> ([Arc<Fake>; 2], Client) {
    let (first, at_first) = listen().await;
    let (second, at_second) = listen().await;
    let nodes = [apart(first).await, serve(second)];
    let builder = Client::builder().address(&at_first).address(&at_second).connections(1);
    let client = builder.timeout(Duration::from_millis(3_500)).connect_lazy().unwrap();
    *nodes[0].mood.lock().unwrap() = Mood::Freezes;
    (nodes, client)
}

/// Two nodes, and a client that is given both addresses.
async fn two() -> ([Arc<Fake>; 2], [String; 2], Builder) {
    let (first, at_first) = listen().await;
    let (second, at_second) = listen().await;
    let builder = Client::builder().address(&at_first).address(&at_second).connections(1);
    ([serve(first), serve(second)], [at_first, at_second], builder)
}

fn notes(client: &Client) -> Collection {
    client.collection("ns", "notes")
}

fn stale(client: &Client) -> Collection {
    notes(client).with_consistency(Consistency::Stale)
}

async fn put(client: &Client) {
    notes(client).put(Record::new("k")).await.expect("written");
}

fn puts(nodes: &[Arc<Fake>]) -> Vec<usize> {
    nodes.iter().map(|node| node.puts.load(Ordering::Relaxed)).collect()
}

fn gets(nodes: &[Arc<Fake>]) -> Vec<usize> {
    nodes.iter().map(|node| node.gets.load(Ordering::Relaxed)).collect()
}

#[tokio::test]
async fn writes_and_latest_reads_go_to_whom_replies_say_leads_and_stale_reads_to_everybody() {
    let (nodes, addresses, builder) = two().await;
    *nodes[0].leader.lock().unwrap() = Some(addresses[1].clone());
    let client = builder.connect_lazy().unwrap();
    put(&client).await;
    assert_eq!(puts(&nodes), [1, 0], "nobody has said anything yet");
    for _ in 0..4 {
        put(&client).await;
        notes(&client).get("k").await.unwrap();
    }
    assert_eq!((puts(&nodes), gets(&nodes)), (vec![1, 4], vec![0, 4]));
    for _ in 0..4 {
        stale(&client).get("k").await.unwrap();
    }
    assert_eq!(gets(&nodes), [2, 6]);
    // The lead changes.
    *nodes[0].leader.lock().unwrap() = None;
    *nodes[1].leader.lock().unwrap() = Some(addresses[0].clone());
    for _ in 0..4 {
        put(&client).await;
    }
    assert_eq!(puts(&nodes), [4, 5]);
}

/// Two shards, each led by one of two nodes.
fn halves(version: u64, addresses: &[String; 2]) -> v1::RouteReply {
    let half = |at: u32| v1::RouteShard {
        shard: 5 + at,
        first_slot: at * 8_192,
        last_slot: at * 8_192 + 8_191,
        leader: u64::from(at) + 1,
        term: 1,
        holders: Vec::new(),
    };
    let node = |at: usize| v1::RouteNode { member: at as u64 + 1, address: addresses[at].clone() };
    v1::RouteReply { version, shards: vec![half(0), half(1)], nodes: vec![node(0), node(1)] }
}

#[tokio::test]
async fn the_map_is_asked_for_once_and_then_calls_go_where_their_key_is() {
    let (nodes, addresses, builder) = two().await;
    // "hello" is in the first half of the slots, "foo" in the second.
    let told = v1::Leader { shard: 6, address: addresses[1].clone(), term: 1, version: 80 };
    *nodes[0].told.lock().unwrap() = Some(told.clone());
    for node in &nodes {
        // Nonsense at first.
        *node.map.lock().unwrap() = Some(v1::RouteReply { version: 80, ..Default::default() });
    }
    let client = builder.connect_lazy().unwrap();
    let write = async |key: &'static str| notes(&client).put(Record::new(key)).await.expect("written");
    while nodes[0].maps.load(Ordering::Relaxed) < 2 {
        write("foo").await;
    }
    assert!(puts(&nodes).iter().all(|puts| *puts > 1), "without a map they take turns: {:?}", puts(&nodes));
    for node in &nodes {
        *node.map.lock().unwrap() = Some(halves(80, &addresses));
    }
    let asked = nodes[0].maps.load(Ordering::Relaxed);
    while nodes[0].maps.load(Ordering::Relaxed) == asked {
        write("foo").await;
    }
    // It is on its way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (before, asked) = (puts(&nodes), asked + 1);
    for _ in 0..4 {
        write("hello").await;
        write("foo").await;
        write("foo").await;
    }
    assert_eq!(puts(&nodes), [before[0] + 4, before[1] + 8]);
    let pipelined = client.pipeline().collection("ns", "notes");
    for _ in 0..4 {
        pipelined.put(Record::new("hello")).await.expect("written");
        pipelined.put(Record::new("foo")).await.expect("written");
    }
    for (at, node) in nodes.iter().enumerate() {
        assert_eq!(node.piped.load(Ordering::Relaxed), 4);
        let known = node.known.lock().unwrap().last().copied().flatten();
        assert_eq!(known, Some(v1::KnownRoute { version: 80, shard: 5 + at as u32 }));
    }
    assert_eq!(nodes[0].maps.load(Ordering::Relaxed), asked, "what is known is not asked for");
    // A newer one, by which the shards have changed places.
    let [one, other] = addresses.clone();
    *nodes[0].map.lock().unwrap() = Some(halves(90, &[other, one]));
    *nodes[0].told.lock().unwrap() = Some(v1::Leader { shard: 5, term: 2, version: 90, ..told });
    write("hello").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = puts(&nodes);
    for _ in 0..4 {
        write("hello").await;
    }
    assert_eq!(puts(&nodes), [before[0], before[1] + 4]);
}

#[tokio::test]
async fn a_failed_write_is_tried_again_where_the_status_says_that_the_leader_is() {
    let (nodes, addresses, _) = two().await;
    *nodes[0].mood.lock().unwrap() = Mood::Fails("not_leader");
    *nodes[0].leader.lock().unwrap() = Some(addresses[1].clone());
    // The second address is learned, and asked once it has answered a probe.
    let client = Client::builder().address(&addresses[0]).retries(100).connect_lazy().unwrap();
    put(&client).await;
    assert_eq!(puts(&nodes)[1], 1);
    assert!(puts(&nodes)[0] >= 1);
    let known: Vec<String> = client.figures().nodes.into_iter().map(|(address, _)| address).collect();
    assert_eq!(known, addresses);
}

#[tokio::test]
async fn a_dead_leader_costs_no_call() {
    let (nodes, addresses, _) = two().await;
    let (gone, at_gone) = listen().await;
    drop(gone);
    *nodes[0].leader.lock().unwrap() = Some(at_gone);
    let client = Client::builder().address(&addresses[0]).retry_floor(0.0).retry_share(0.0).connect_lazy().unwrap();
    for _ in 0..5 {
        put(&client).await;
    }
    assert_eq!(client.figures().refused, 0, "whoever reaches nobody takes nothing out of the budget");
}

#[tokio::test]
async fn a_node_that_stops_is_left_out_at_once() {
    let (nodes, _, builder) = two().await;
    *nodes[0].mood.lock().unwrap() = Mood::Fails("stopping");
    let client = builder.connect_lazy().unwrap();
    for _ in 0..10 {
        put(&client).await;
    }
    let [stopping, other] = puts(&nodes)[..] else { unreachable!() };
    assert!(stopping >= 1 && other == 10, "{stopping} and {other}");
    assert_eq!(client.figures().retries, stopping as u64);
}

#[tokio::test]
async fn retries_end_with_the_budget() {
    let (nodes, _, builder) = two().await;
    for node in &nodes {
        *node.mood.lock().unwrap() = Mood::Overloaded;
    }
    // A third of a retry a second, and ten seconds' worth of them to begin with.
    let client = builder.retries(100).retry_share(0.0).retry_floor(0.3).connect_lazy().unwrap();
    let refused = notes(&client).put(Record::new("k")).await;
    assert!(matches!(refused, Err(Error::Overloaded { .. })), "{refused:?}");
    assert_eq!(puts(&nodes).iter().sum::<usize>(), 4, "one attempt and three retries");
    let figures = client.figures();
    assert_eq!((figures.retries, figures.refused), (3, 1));
}

#[tokio::test]
async fn each_attempt_says_what_is_left_of_the_calls_time() {
    let (nodes, _, builder) = two().await;
    for node in &nodes {
        *node.mood.lock().unwrap() = Mood::Fails("not_leader");
    }
    let client = builder.retries(3).connect_lazy().unwrap();
    let traced = client.with_trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let failed = notes(&traced).with_timeout(Duration::from_secs(60)).put(Record::new("k")).await;
    assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
    let mut timeouts: Vec<u64> = nodes.iter().flat_map(|node| node.timeouts.lock().unwrap().clone()).collect();
    timeouts.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(timeouts.len(), 4);
    assert!(timeouts[0] <= 60_000_000, "{timeouts:?}");
    // Between two attempts there is a pause of at least half of 20 ms.
    assert!(timeouts.is_sorted_by(|longer, shorter| *longer >= shorter + 10_000), "{timeouts:?}");
    let traces: Vec<_> = nodes.iter().flat_map(|node| node.traces.lock().unwrap().clone()).collect();
    assert!(traces.iter().all(|trace| trace.as_deref().is_some_and(|trace| trace.contains("0af7651916cd43dd"))));
}

#[tokio::test]
async fn a_stale_read_that_takes_long_is_answered_by_another_node_and_the_first_is_told() {
    let (nodes, _, builder) = two().await;
    *nodes[0].mood.lock().unwrap() = Mood::Hangs;
    let client = builder.connect_lazy().unwrap();
    let hedged = stale(&client).with_hedge(Hedge::After(Duration::from_millis(1)));
    hedged.get("k").await.expect("the second node answers");
    let figures = client.figures();
    assert_eq!((figures.hedges, figures.hedges_won, figures.retries), (1, 1, 0));
    assert_eq!(gets(&nodes), [1, 1]);
    nodes[0].cancelled.notified().await;
}

#[tokio::test]
async fn a_read_that_is_not_stale_is_not_hedged() {
    let (nodes, _, builder) = two().await;
    *nodes[0].mood.lock().unwrap() = Mood::Hangs;
    let client = builder.connect_lazy().unwrap();
    let latest = notes(&client).with_hedge(Hedge::After(Duration::ZERO)).with_timeout(Duration::from_millis(500));
    let late = latest.get("k").await;
    assert!(matches!(late, Err(Error::DeadlineExceeded { .. })), "{late:?}");
    assert_eq!(gets(&nodes), [1, 0]);
}

#[tokio::test]
async fn hedges_come_out_of_the_budget() {
    let (nodes, _, builder) = two().await;
    *nodes[0].mood.lock().unwrap() = Mood::Hangs;
    let client = builder.retry_share(0.0).retry_floor(0.0).connect_lazy().unwrap();
    let hedged = stale(&client).with_hedge(Hedge::After(Duration::ZERO)).with_timeout(Duration::from_millis(500));
    let late = hedged.get("k").await;
    assert!(matches!(late, Err(Error::DeadlineExceeded { .. })), "{late:?}");
    let figures = client.figures();
    assert_eq!((figures.hedges, figures.refused), (0, 1));
}

#[tokio::test]
async fn a_node_that_comes_back_is_found_without_a_call() {
    let (first, at_first) = listen().await;
    let (second, at_second) = listen().await;
    drop(second);
    let _first = serve(first);
    let client = Client::builder().address(&at_first).address(&at_second).connect_lazy().unwrap();
    let until = async |expected: bool| {
        while client.figures().nodes[1].1 != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // It is connected to without a call, too.
    until(false).await;
    let _second = serve(TcpListener::bind(&at_second).await.expect("still free"));
    until(true).await;
}

#[tokio::test]
async fn a_pipeline_moves_to_the_leader_and_loses_no_call() {
    let (nodes, addresses, builder) = two().await;
    *nodes[0].leader.lock().unwrap() = Some(addresses[1].clone());
    let client = builder.connect_lazy().unwrap();
    let notes = client.pipeline().collection("ns", "notes");
    for _ in 0..5 {
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let notes = notes.clone();
                tokio::spawn(async move { notes.put(Record::new("k")).await })
            })
            .collect();
        for call in calls {
            call.await.unwrap().expect("written");
        }
    }
    let piped: Vec<usize> = nodes.iter().map(|node| node.piped.load(Ordering::Relaxed)).collect();
    assert_eq!(piped.iter().sum::<usize>(), 50, "{piped:?}");
    assert!((1..=10).contains(&piped[0]), "{piped:?}");
    assert_eq!(client.figures().retries, 0);
}

#[tokio::test]
async fn a_pipeline_does_not_stay_with_a_leader_that_answers_and_cannot() {
    let (nodes, addresses, builder) = two().await;
    // Cut off from its peers, it leads nobody any more, and the other has not heard of another yet.
    for node in &nodes {
        *node.leader.lock().unwrap() = Some(addresses[1].clone());
    }
    let client = builder.connect_lazy().unwrap();
    let notes = client.pipeline().collection("ns", "notes");
    notes.put(Record::new("k")).await.expect("written");
    *nodes[1].mood.lock().unwrap() = Mood::Fails("not_leader");
    for _ in 0..5 {
        notes.put(Record::new("k")).await.expect("the other node finds who leads");
    }
    let piped: Vec<usize> = nodes.iter().map(|node| node.piped.load(Ordering::Relaxed)).collect();
    assert_eq!((piped, client.figures().retries), (vec![6, 5], 5));
}

#[tokio::test]
async fn calls_on_a_pipeline_to_a_node_that_hangs_are_made_elsewhere() {
    let (nodes, client) = one_that_freezes().await;
    let notes = client.pipeline().collection("ns", "notes");
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let notes = notes.clone();
            tokio::spawn(async move { notes.put(Record::new("k")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().expect("written by the other node");
    }
    assert_eq!(nodes[1].piped.load(Ordering::Relaxed), 10);
}

#[tokio::test]
async fn a_scan_and_a_watch_go_on_elsewhere_when_their_node_hangs() {
    let (_nodes, client) = one_that_freezes().await;
    let mut scan = notes(&client).scan();
    let mut keys = Vec::new();
    while let Some(record) = scan.next().await.expect("a page of the other node") {
        keys.push(record.key);
    }
    assert_eq!(keys, ["a", "b"]);
    let (_nodes, client) = one_that_freezes().await;
    let mut watch = notes(&client).watch();
    assert_eq!(watch.begin().await.expect("it begins").parts().collect::<Vec<_>>(), [(1, 6)]);
    let next = tokio::time::timeout(client.timeout(), watch.next()).await.expect("before the connection is given up");
    assert_eq!(next.expect("told by the other node").index, 7);
}
