//! Whole nodes in this process, driven through their shard, their sockets and their files.

use std::path::Path;

use loci_index::command::{
    Action, Change, Command, Content, EmbeddingSpec, Envelope, Origin, Outcome, Refusal, Schema,
};
use loci_index::store::StoreError;
use loci_raft::RestoreError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::identity::DataError;
use crate::shard::{Level, ReadError, WriteError, Written};

async fn start(path: &Path) -> Node {
    let node = Node::start(Config::local(path)).await.unwrap_or_else(|error| panic!("{error}"));
    node.ready().await;
    node
}

async fn refused(config: Config) -> RunError {
    match Node::start(config).await {
        Ok(_) => panic!("the node started"),
        Err(error) => error,
    }
}

async fn write(node: &Node, command: Command) -> Written {
    let envelope = Envelope { origin: Origin::default(), command };
    node.shard().write(envelope, None).await.unwrap()
}

/// A collection with a two-dimensional embedding, and its id.
async fn collection(node: &Node) -> u64 {
    write(node, Command::CreateNamespace { name: "n".into() }).await;
    let embedding = EmbeddingSpec::new("e", 2, 2);
    let schema = Schema { embeddings: vec![embedding], ..Schema::default() };
    let created = write(node, Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema }).await;
    let Outcome::Created { collection } = created.outcome else { panic!("{created:?}") };
    collection
}

fn put(collection: u64, key: &str, content: Content) -> Command {
    let change = Change { collection, key: key.as_bytes().to_vec(), action: Action::Put(content) };
    Command::Write { conditions: vec![], changes: vec![change] }
}

fn value(value: &str) -> Content {
    let embeddings = vec![(0, vec![value.len() as f32, 1.0])];
    Content { value: Some(value.into()), embeddings, ..Content::default() }
}

async fn get(node: &Node, key: &str) -> Option<Vec<u8>> {
    let view = node.shard().view(Level::Latest, None).await.unwrap();
    let collection = view.collection("n", "c").unwrap();
    let record = collection.get(key.as_bytes(), node.shard().now(&view))?;
    record.value().map(<[u8]>::to_vec)
}

/// Asks the metrics endpoint and gives the status line and the rest.
async fn http(node: &Node, request: &str) -> (String, String) {
    let mut socket = tokio::net::TcpStream::connect(node.metrics_addr().unwrap()).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).await.unwrap();
    let (status, rest) = reply.split_once("\r\n").unwrap();
    (status.into(), rest.into())
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart_with_the_same_digest() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let id = collection(&node).await;
    for key in 0..300 {
        write(&node, put(id, &key.to_string(), value(&format!("v{key}")))).await;
    }
    let before = node.shard().newest().stats();
    let identity = node.status().node().to_owned();
    node.shutdown().await.unwrap();

    let node = start(directory.path()).await;
    assert_eq!(node.status().node(), identity);
    let after = node.shard().newest().stats();
    assert_eq!((after.records, after.digest), (300, before.digest));
    assert_eq!(get(&node, "299").await.as_deref(), Some(&b"v299"[..]));
    // A node that stops makes a checkpoint, so that nothing but its own first entry had to be read again.
    assert_eq!(node.shard().status().checkpoint, before.applied);
    write(&node, put(id, "299", value("new"))).await;
    assert_eq!(get(&node, "299").await.as_deref(), Some(&b"new"[..]));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_of_the_log_goes_while_the_node_runs_so_that_it_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let config =
        || Config { log_file_bytes: 64 << 10, scrub_bytes_per_second: 1 << 30, ..Config::local(directory.path()) };
    let node = Node::start(config()).await.unwrap();
    node.ready().await;
    let id = collection(&node).await;
    for key in 0..60 {
        write(&node, put(id, &key.to_string(), value(&"v".repeat(5_000 + key)))).await;
    }
    let files = || {
        let names = std::fs::read_dir(directory.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = names.filter(|path| !path.to_string_lossy().contains("spare")).collect();
        names.sort();
        names
    };
    let damaged = files()[1].clone();
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[3_000] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    let log = node.status().log();
    let begun = Instant::now();
    while log.damage_found() == 0 || !log.damaged().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?} is still there", log.damaged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!damaged.exists(), "it is used no longer under that name");
    write(&node, put(id, "60", value("later"))).await;
    assert_eq!(log.damage_found(), 1);
    node.shutdown().await.unwrap();

    let node = Node::start(config()).await.unwrap();
    node.ready().await;
    assert_eq!(get(&node, "1").await.map(|value| value.len()), Some(5_001));
    assert_eq!(get(&node, "60").await.as_deref(), Some(&b"later"[..]));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_write_by_many_callers_is_seen_by_each_as_soon_as_it_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let node = Arc::new(start(directory.path()).await);
    let id = collection(&node).await;
    let mut callers = Vec::new();
    for caller in 0..32 {
        let node = node.clone();
        callers.push(tokio::spawn(async move {
            for round in 0..20 {
                let (key, text) = (format!("k{caller}"), format!("r{round}"));
                let written = write(&node, put(id, &key, value(&text))).await;
                assert!(matches!(written.outcome, Outcome::Written { .. }), "{written:?}");
                assert_eq!(get(&node, &key).await.unwrap(), text.as_bytes());
                let view = node.shard().view(Level::AtLeast(written.index), None).await.unwrap();
                assert!(view.index() >= written.index);
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let status = node.shard().status();
    assert_eq!((status.role, status.ready, status.queued), ("leader", true, 0));
    Arc::into_inner(node).unwrap().shutdown().await.unwrap();
}

#[tokio::test]
async fn a_refusal_by_the_store_reaches_the_caller_and_a_repeated_request_its_first_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let id = collection(&node).await;
    let unknown = write(&node, put(id + 7, "a", value("1"))).await;
    assert_eq!(unknown.outcome, Outcome::Refused(Refusal::UnknownCollection(id + 7)));
    let origin = Origin { request_id: b"once".to_vec(), ..Origin::default() };
    let envelope = Envelope { origin, command: put(id, "a", value("1")) };
    let first = node.shard().write(envelope.clone(), None).await.unwrap();
    let second = node.shard().write(envelope, None).await.unwrap();
    assert_eq!(first.outcome, second.outcome);
    assert!(second.index > first.index);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_expired_record_is_ended_although_nobody_writes() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let id = collection(&node).await;
    let now = node.shard().now(&node.shard().newest());
    write(&node, put(id, "soon", Content { deadline: now + 50, ..value("1") })).await;
    write(&node, put(id, "later", Content { deadline: now + 3_600_000, ..value("1") })).await;
    while node.shard().newest().stats().records != 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(get(&node, "later").await.is_some());
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_token_from_the_future_is_waited_for_until_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let applied = node.shard().newest().index();
    let deadline = Instant::now() + Duration::from_millis(20);
    let late = node.shard().view(Level::AtLeast(applied + 1), Some(deadline)).await;
    assert_eq!(late.err(), Some(ReadError::DeadlineExceeded { applied }));
    let waiting = node.shard().view(Level::AtLeast(applied + 1), None);
    let (view, _) = tokio::join!(waiting, write(&node, Command::CreateNamespace { name: "x".into() }));
    assert_eq!(view.unwrap().index(), applied + 1);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_second_node_on_the_same_data_is_refused_and_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let error = refused(Config::local(directory.path())).await;
    assert!(matches!(error, RunError::Data(DataError::InUse { pid: Some(_), .. })), "{error}");
    collection(&node).await;
    node.shutdown().await.unwrap();
    start(directory.path()).await.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_taken_address_is_named_and_the_data_is_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = directory.path().join("never-made");
    let config = Config { listen: taken.local_addr().unwrap(), ..Config::local(&path) };
    let error = refused(config).await.to_string();
    assert!(error.contains("--listen") && error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn parts_that_do_not_belong_together_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    start(&one).await.shutdown().await.unwrap();
    let node = start(&two).await;
    let id = collection(&node).await;
    for key in 0..20 {
        write(&node, put(id, &key.to_string(), value("v"))).await;
    }
    node.shutdown().await.unwrap();

    // The newer store over the older log.
    std::fs::rename(one.join("shards"), directory.path().join("aside")).unwrap();
    std::fs::rename(two.join("shards"), one.join("shards")).unwrap();
    let error = refused(Config::local(&one)).await;
    assert!(matches!(error, RunError::Mismatch { error: RestoreError::LogBehind { .. }, .. }), "{error}");
    // No log at all.
    for file in std::fs::read_dir(one.join("log")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let error = refused(Config::local(&one)).await;
    assert!(matches!(error, RunError::NotInLog { .. }), "{error}");
    // No store at all.
    std::fs::remove_file(one.join("shards/1/MANIFEST")).unwrap();
    let error = refused(Config::local(&one)).await;
    assert!(matches!(error, RunError::Store { error: StoreError::Missing, .. }), "{error}");
}

#[tokio::test]
async fn a_stopping_node_takes_no_more_writes() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let shard = node.shard().clone();
    node.shutdown().await.unwrap();
    let envelope = Envelope { origin: Origin::default(), command: Command::CreateNamespace { name: "late".into() } };
    assert_eq!(shard.write(envelope, None).await, Err(WriteError::Stopping));
    assert!(!shard.is_ready());
}

#[tokio::test]
async fn a_write_larger_than_a_file_of_the_log_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let id = collection(&node).await;
    let large = Content { value: Some(vec![7; 6 << 20]), ..Content::default() };
    write(&node, put(id, "large", large)).await;
    node.shutdown().await.unwrap();
    let node = start(directory.path()).await;
    assert_eq!(get(&node, "large").await.unwrap(), vec![7; 6 << 20]);
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn probes_and_metrics_answer_and_every_metric_is_documented() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let id = collection(&node).await;
    write(&node, put(id, "a", value("1"))).await;
    node.metrics.observe("put", tonic::Code::Ok, Duration::from_millis(1));
    assert_eq!(http(&node, "GET /live").await.0, "HTTP/1.1 200 OK");
    assert_eq!(http(&node, "GET /ready").await.0, "HTTP/1.1 200 OK");
    assert_eq!(http(&node, "GET /").await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(http(&node, "POST /metrics").await.0, "HTTP/1.1 405 Method Not Allowed");
    let (status, text) = http(&node, "GET /metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    for line in [
        "loci_requests_total{door=\"grpc\",method=\"put\",code=\"OK\"} 1",
        "loci_request_seconds_bucket{le=\"+Inf\",method=\"put\"} 1",
        "loci_shard_records{shard=\"1\"} 1",
        "loci_shard_role{shard=\"1\",role=\"leader\"} 1",
        "loci_shard_role{shard=\"1\",role=\"follower\"} 0",
        "loci_shard_unapplied_entries{shard=\"1\"} 0",
        "loci_collection_records{namespace=\"n\",collection=\"c\"} 1",
        "loci_collection_buffer_rows{namespace=\"n\",collection=\"c\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let sent: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let page = include_str!("../../../docs/metrics.md");
    let documented: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(sent, documented, "what is sent and what docs/metrics.md says");
    node.status.drain();
    assert_eq!(http(&node, "GET /ready").await.0, "HTTP/1.1 503 Service Unavailable");
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_carries_nothing_ends_with_the_node() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", node.local_addr())).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    node.shutdown().await.unwrap();
    // First what happened, and NOT_SERVING (2) as the last thing; then nothing, or a broken connection.
    let mut last = None;
    while let Ok(Some(reply)) = watch.message().await {
        last = Some(reply.status);
    }
    assert_eq!(last, Some(2));
}

#[tokio::test]
async fn health_is_told_for_the_node_and_for_each_service() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path()).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", node.local_addr())).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    for service in ["", "loci.v1.Records", "loci.v1.Admin"] {
        let mut watch = client.watch(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        // 1 is SERVING, in tonic-health as in the protocol.
        while watch.message().await.unwrap().unwrap().status != 1 {}
    }
    let unknown = client.check(HealthCheckRequest { service: "other".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    node.shutdown().await.unwrap();
}
