//! Requests over gRPC that are damaged in every way: a node answers each with what it asks for or with what is wrong with it,
//! and stays whole.
//!
//! `LOCI_FUZZ_SECONDS=60` makes the documented run of a minute.

use std::collections::HashMap;
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes};
use loci_tests::chance::Chance;
use loci_tests::load::reason;
use loci_tests::process::Node;
use loci_tests::{api, fuzz, say, seed, setting};
use loci_wire::v1;
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

/// Sends bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// A method, a right request to it as bytes, and whether other bytes are one at all.
type Call = (&'static str, Vec<u8>, fn(&[u8]) -> bool);

/// Everything that a search can ask, in one request.
fn search_of_every_form(near: &v1::SearchRequest) -> v1::SearchRequest {
    use v1::query::Near;
    let query = |near| v1::Query { near: Some(near), limit: 7, weight: Some(0.5), ..Default::default() };
    let text = query(Near::Text(v1::TextQuery { path: "a".into(), text: "b and c".into() }));
    let sparse = v1::SparseEmbedding { name: "words".into(), dimensions: vec![1, 900], weights: vec![0.5, 2.0] };
    let example = |key: &'static str| v1::Example { of: Some(v1::example::Of::Key(key.into())) };
    let positive =
        vec![v1::Example { of: Some(v1::example::Of::Embedding(api::embedding("", &[0.0, 1.0, 0.0, 0.0]))) }];
    let recommend = v1::Recommendation { positive, negative: vec![example("key")], strategy: 0 };
    let inner = v1::Fusion {
        queries: vec![text.clone(), query(Near::Sparse(sparse))],
        method: Some(v1::fusion::Method::Weighted(v1::Weighted {})),
    };
    let outer = v1::Fusion {
        queries: vec![
            query(Near::Fuse(inner)),
            v1::Query { name: "text".into(), filter: near.filter.clone(), ..query(Near::Recommend(recommend)) },
        ],
        method: Some(v1::fusion::Method::ReciprocalRank(v1::ReciprocalRank { k: Some(3.0) })),
    };
    v1::SearchRequest {
        queries: vec![query(Near::Fuse(outer)), text, near.queries[0].clone()],
        group_by: Some(v1::GroupBy { path: "a".into(), hits: 2 }),
        decay: Some(v1::Decay { path: "when".into(), half_life_millis: 9, share: Some(0.5), ..Default::default() }),
        min_distance: Some(-50.0),
        min_score: Some(0.0),
        ..near.clone()
    }
}

/// A call of every method.
fn requests() -> Vec<Call> {
    let list = v1::ListValue { values: vec![api::int(1), api::text("b")] };
    let mut record = api::record(b"key", b"value");
    record.attributes = api::attributes([
        ("a", api::text("b")),
        ("list", v1::Value { kind: Some(v1::value::Kind::List(list)) }),
        ("when", v1::Value { kind: Some(v1::value::Kind::TimestampMicros(5)) }),
    ]);
    record.embeddings = vec![api::embedding("text", &[0.5, 0.5, 0.0, 0.0])];
    record.sparse =
        vec![v1::SparseEmbedding { name: "words".into(), dimensions: vec![3, 900], weights: vec![0.5, -1.0] }];
    use v1::filter::Expression;
    let range = v1::RangeOf { path: "b".into(), at_least: Some(api::int(1)), ..Default::default() };
    let text = v1::TextOf { path: "a".into(), text: "b".into() };
    let filters = vec![
        api::equal("a", api::text("b")),
        api::filter(Expression::Range(range)),
        api::filter(Expression::Prefix(text)),
        api::filter(Expression::Not(Box::new(api::filter(Expression::Exists("c.d".into()))))),
        api::filter(Expression::In(v1::InValues { path: "a".into(), values: vec![api::int(1), api::text("b")] })),
    ];
    let filter = Some(api::filter(Expression::Or(v1::Filters { filters })));
    let collection = api::collection("things");
    let origin = api::origin(b"request");
    let condition =
        v1::Condition { key: "gone".into(), expect: Some(v1::condition::Expect::Absent(true)), ..Default::default() };
    let put = v1::PutRequest {
        origin: origin.clone(),
        collection: collection.clone(),
        records: vec![record.clone()],
        mode: v1::PutMode::Merge as i32,
        conditions: vec![condition.clone()],
        ..Default::default()
    };
    let change = v1::Change { collection: collection.clone(), action: Some(v1::change::Action::Put(record)) };
    let batch = v1::BatchRequest { changes: vec![change], conditions: vec![], ..Default::default() };
    let get = v1::GetRequest { collection: collection.clone(), keys: vec!["key".into()], ..Default::default() };
    let delete = v1::DeleteRequest { collection: collection.clone(), keys: vec!["gone".into()], ..Default::default() };
    let delete_where =
        v1::DeleteRequest { collection: collection.clone(), filter: filter.clone(), ..Default::default() };
    let scan =
        v1::ScanRequest { collection: collection.clone(), filter: filter.clone(), limit: 5, ..Default::default() };
    let count = v1::CountRequest { collection: collection.clone(), filter: filter.clone(), ..Default::default() };
    let mut search = api::nearest("things", "text", &[1.0, 0.0, 0.0, 0.0], 5);
    search.filter = filter;
    let every_form = search_of_every_form(&search);
    let describe = v1::DescribeCollectionRequest { name: collection.clone() };
    let embedding = v1::EmbeddingSpec { name: "text".into(), dimension: 4, metric: 1, ..Default::default() };
    let create = v1::CreateCollectionRequest {
        name: collection,
        schema: Some(v1::Schema {
            embeddings: vec![embedding],
            indexes: vec![v1::IndexSpec { path: "a.b".into(), kind: v1::IndexKind::Substring as i32 }],
            ..Default::default()
        }),
        if_absent: true,
        ..Default::default()
    };
    vec![
        ("/loci.v1.Records/Put", put.encode_to_vec(), |bytes| v1::PutRequest::decode(bytes).is_ok()),
        ("/loci.v1.Records/Batch", batch.encode_to_vec(), |bytes| v1::BatchRequest::decode(bytes).is_ok()),
        ("/loci.v1.Records/Get", get.encode_to_vec(), |bytes| v1::GetRequest::decode(bytes).is_ok()),
        ("/loci.v1.Records/Delete", delete.encode_to_vec(), |bytes| v1::DeleteRequest::decode(bytes).is_ok()),
        ("/loci.v1.Records/Delete", delete_where.encode_to_vec(), |bytes| v1::DeleteRequest::decode(bytes).is_ok()),
        ("/loci.v1.Records/Scan", scan.encode_to_vec(), |bytes| v1::ScanRequest::decode(bytes).is_ok()),
        ("/loci.v1.Records/Count", count.encode_to_vec(), |bytes| v1::CountRequest::decode(bytes).is_ok()),
        ("/loci.v1.Records/Search", search.encode_to_vec(), |bytes| v1::SearchRequest::decode(bytes).is_ok()),
        ("/loci.v1.Records/Search", every_form.encode_to_vec(), |bytes| v1::SearchRequest::decode(bytes).is_ok()),
        ("/loci.v1.Admin/DescribeCollection", describe.encode_to_vec(), |bytes| {
            v1::DescribeCollectionRequest::decode(bytes).is_ok()
        }),
        ("/loci.v1.Admin/CreateCollection", create.encode_to_vec(), |bytes| {
            v1::CreateCollectionRequest::decode(bytes).is_ok()
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_the_node_panic() {
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::start(data.path()).await;
    let mut api = node.api().await;
    let embedding = v1::EmbeddingSpec {
        name: "text".into(),
        dimension: 4,
        metric: v1::Metric::Cosine as i32,
        ..Default::default()
    };
    let schema = v1::Schema {
        embeddings: vec![embedding],
        sparse: vec![v1::SparseSpec { name: "words".into() }],
        texts: vec![v1::TextSpec { path: "a".into(), language: v1::Language::English as i32 }],
        ..Default::default()
    };
    let name = api::collection("things");
    let create = v1::CreateCollectionRequest { name, schema: Some(schema), ..Default::default() };
    api.admin.create_collection(create).await.unwrap();
    let mut key = api::record(b"key", b"");
    key.embeddings = vec![api::embedding("text", &[0.5, 0.5, 0.0, 0.0])];
    let put = v1::PutRequest { collection: api::collection("things"), records: vec![key], ..Default::default() };
    api.records.put(put).await.unwrap();
    let whole = search_of_every_form(&api::nearest("things", "text", &[1.0, 0.0, 0.0, 0.0], 5));
    api.records.search(whole).await.expect("it is answered as it stands");
    let seed = seed();
    let seconds = setting("LOCI_FUZZ_SECONDS", 0);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let begin = Instant::now();
    let mut chance = Chance::new(seed);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (mut chance, channel) = (chance.fork(), channel.clone());
        tasks.push(tokio::spawn(async move {
            let requests = requests();
            let mut codes: HashMap<Code, u64> = HashMap::new();
            let mut grpc = tonic::client::Grpc::new(channel);
            let mut tried = 0;
            while if seconds > 0 { begin.elapsed().as_secs() < seconds } else { tried < 300 } {
                let (path, whole, decodes) = &requests[chance.index(requests.len())];
                let other = &requests[chance.index(requests.len())].1;
                // Most mutations are no protobuf any more, and say little about what comes after the decoder.
                let mut request;
                loop {
                    request = whole.clone();
                    fuzz::mutate(&mut chance, &mut request, other);
                    if decodes(&request) || chance.percent(2) {
                        break;
                    }
                }
                let sent = Bytes::from(request);
                grpc.ready().await.unwrap_or_else(|error| panic!("LOCI_SEED={seed}: the node is gone: {error}"));
                let reply = grpc.unary(Request::new(sent.clone()), PathAndQuery::from_static(path), Raw).await;
                let code = reply.as_ref().err().map_or(Code::Ok, Status::code);
                tried += 1;
                *codes.entry(code).or_default() += 1;
                let broken = matches!(
                    code,
                    Code::Unknown | Code::Internal | Code::Unavailable | Code::DataLoss | Code::DeadlineExceeded
                );
                assert!(!broken, "LOCI_SEED={seed}: {path} {sent:02x?}: {reply:?}");
            }
            codes
        }));
    }
    let mut codes: HashMap<Code, u64> = HashMap::new();
    for task in tasks {
        for (code, count) in task.await.unwrap() {
            *codes.entry(code).or_default() += count;
        }
    }
    let total: u64 = codes.values().sum();
    say(&format!("fuzz requests: {total} in {:.1?}, {codes:?}, the node runs on", begin.elapsed()));
    assert!(codes.get(&Code::Ok).is_some_and(|fine| *fine > 0), "every mutation was refused: {codes:?}");
    assert!(!node.log().contains("panicked"), "LOCI_SEED={seed}: {}", node.log());
    node.wait_ready().await;
    assert!(node.terminate().success());
    Node::start(data.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_are_refused_with_a_reason_and_what_is_wrong() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path()).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    let mut grpc = tonic::client::Grpc::new(channel.connect().await.unwrap());
    for (path, whole, decodes) in requests() {
        let wrong = [
            ("no field number", vec![0]),
            ("a number without an end", vec![0xff; 12]),
            ("cut off", whole[..whole.len() - 1].to_vec()),
            ("a field of another type", vec![13, 0, 0, 0, 0]),
            ("text that is no UTF-8", [&whole[..], b"\x0a\x04\x0a\x02\xff\xff"].concat()),
        ];
        for (what, bytes) in wrong {
            // Fields that a message does not have are passed over, so not all of this is wrong everywhere.
            if decodes(&bytes) {
                continue;
            }
            grpc.ready().await.unwrap();
            let sent = Request::new(Bytes::from(bytes));
            let status = grpc.unary(sent, PathAndQuery::from_static(path), Raw).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{path}, {what}: {status:?}");
            assert_eq!(reason(&status).as_deref(), Some("invalid_message"), "{path}, {what}: {status:?}");
            assert!(status.message().contains("loci.v1"), "{path}, {what}: {status:?}");
        }
    }
}
