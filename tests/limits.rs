//! Every bad input there is, at its limit and one past it, through gRPC: a typed status, a stable reason, a message that
//! says what to do, and a node that stays whole.

use std::collections::HashMap;
use std::time::Duration;

use loci_tests::api::{self, Api, collection, embedding, equal, filter, int, record, text};
use loci_tests::load::{now_millis, reason};
use loci_tests::process::Node;
use loci_wire::v1;
use loci_wire::v1::filter::Expression;
use loci_wire::v1::value::Kind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request, Status};

/// What a request must come to.
enum Expect {
    Fine,
    /// The code, the reason, and a part of the message.
    Refused(Code, &'static str, &'static str),
}

use Expect::{Fine, Refused};

const INVALID: Code = Code::InvalidArgument;

fn invalid(reason: &'static str, message: &'static str) -> Expect {
    Refused(INVALID, reason, message)
}

/// Compares an answer with what it must be.
fn check<R: std::fmt::Debug>(what: &str, answer: Result<R, Status>, expect: Expect) {
    match (answer, expect) {
        (Ok(_), Fine) => {}
        (Ok(reply), Refused(code, ..)) => panic!("{what}: {reply:?} instead of {code:?}"),
        (Err(status), Fine) => panic!("{what}: {status:?}"),
        (Err(status), Refused(code, expected, message)) => {
            assert_eq!(status.code(), code, "{what}: {status:?}");
            assert_eq!(reason(&status).as_deref().unwrap_or_default(), expected, "{what}: {status:?}");
            assert!(status.message().contains(message), "{what}: {:?} lacks {message:?}", status.message());
        }
    }
}

/// A node with collections to be wrong about.
async fn node(data: &tempfile::TempDir) -> (Node, Api) {
    let node = Node::start(data.path()).await;
    let mut api = node.api().await;
    api.create("things", &[("text", 4, v1::Metric::Cosine), ("image", 2, v1::Metric::SquaredL2)]).await;
    api.create("single", &[("only", 4, v1::Metric::Cosine)]).await;
    api.create("plain", &[]).await;
    (node, api)
}

/// After all that was refused the node does what it did before, and holds nothing of it.
async fn still_whole(node: &mut Node, api: &mut Api, records: u64) {
    assert!(api::serving(&node.address).await);
    let count = |api: &mut Api| {
        let mut api = api.clone();
        async move {
            let mut count = 0;
            for name in ["things", "single", "plain"] {
                let request = v1::CountRequest { collection: collection(name), ..Default::default() };
                count += api.records.count(request).await.unwrap().into_inner().count;
            }
            count
        }
    };
    assert_eq!(count(api).await, records);
    let written = put(api, "plain", record(b"after all", b"fine")).await.unwrap();
    assert!(written.version > 0);
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

async fn put(api: &mut Api, name: &str, record: v1::Record) -> Result<v1::WriteReply, Status> {
    let request = v1::PutRequest { collection: collection(name), records: vec![record], ..Default::default() };
    api.records.put(request).await.map(tonic::Response::into_inner)
}

fn with_embedding(name: &str, components: &[f32]) -> v1::Record {
    v1::Record { embeddings: vec![embedding(name, components)], ..record(b"key", b"value") }
}

fn nested_list(levels: usize) -> v1::Value {
    (0..levels).fold(int(1), |value, _| v1::Value { kind: Some(Kind::List(v1::ListValue { values: vec![value] })) })
}

fn with_attribute(value: v1::Value) -> v1::Record {
    v1::Record { attributes: HashMap::from([("name".to_owned(), value)]), ..record(b"key", b"value") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_is_refused_with_its_number_and_its_key() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    let unit = [1.0, 0.0, 0.0, 0.0];
    let odd = v1::Embedding { name: "text".into(), vector: vec![0; 15].into(), components: vec![] };
    let both = v1::Embedding { components: unit.to_vec(), ..embedding("text", &unit) };
    let raw = |embeddings| v1::Record { embeddings, ..record(b"key", b"value") };
    let now = now_millis();
    let table: Vec<(&str, &str, v1::Record, Expect)> = vec![
        ("no key", "plain", record(b"", b""), invalid("invalid_key", "empty")),
        ("the longest key", "plain", record(&[b'k'; 4096], b""), Fine),
        ("a longer key", "plain", record(&[b'k'; 4097], b""), invalid("invalid_key", "4096")),
        ("the largest value", "plain", record(b"large", &vec![1; 16 << 20]), Fine),
        ("a larger value", "plain", record(b"key", &vec![1; (16 << 20) + 1]), invalid("value_too_large", "16777216")),
        ("as many components as there are", "things", with_embedding("text", &unit), Fine),
        ("one too few", "things", with_embedding("text", &unit[..3]), invalid("wrong_dimension", "dimension 4")),
        ("one too many", "things", with_embedding("text", &[1.0; 5]), invalid("wrong_dimension", "5 components")),
        ("none", "things", with_embedding("text", &[]), invalid("wrong_dimension", "0 components")),
        ("NaN", "things", with_embedding("text", &[1.0, f32::NAN, 0.0, 0.0]), invalid("invalid_embedding", "1")),
        ("infinite", "things", with_embedding("image", &[f32::INFINITY, 0.0]), invalid("invalid_embedding", "0")),
        ("-infinite", "things", with_embedding("image", &[0.0, f32::NEG_INFINITY]), invalid("invalid_embedding", "1")),
        ("zero under cosine", "things", with_embedding("text", &[0.0; 4]), invalid("invalid_embedding", "zero")),
        ("minus zero too", "things", with_embedding("text", &[-0.0; 4]), invalid("invalid_embedding", "zero")),
        ("zero under squared L2", "things", with_embedding("image", &[0.0; 2]), Fine),
        ("the largest components", "things", with_embedding("text", &[1e16, -1e16, 1e16, 1e16]), Fine),
        (
            "larger components",
            "things",
            with_embedding("text", &[0.0, 1.01e16, 0.0, 0.0]),
            invalid("invalid_embedding", "component 1"),
        ),
        ("tiny under cosine", "things", with_embedding("text", &[f32::MIN_POSITIVE; 4]), Fine),
        ("an unknown embedding", "things", with_embedding("sound", &unit), invalid("unknown_embedding", "text, image")),
        ("no name where it matters", "things", with_embedding("", &unit), invalid("unknown_embedding", "text, image")),
        ("no name where it does not", "single", with_embedding("", &unit), Fine),
        ("an embedding where there is none", "plain", with_embedding("a", &unit), invalid("unknown_embedding", "no")),
        ("half a component", "things", raw(vec![odd]), invalid("invalid_embedding", "15 bytes")),
        ("both forms", "things", raw(vec![both]), invalid("invalid_embedding", "not both")),
        (
            "one embedding twice",
            "things",
            raw(vec![embedding("text", &unit), embedding("text", &unit)]),
            invalid("duplicate_embedding", "twice"),
        ),
        (
            "a deadline that has passed",
            "plain",
            v1::Record { deadline_millis: now - 1, ..record(b"key", b"") },
            invalid("deadline_passed", "passed"),
        ),
        ("a deadline to come", "plain", v1::Record { deadline_millis: now + 600_000, ..record(b"later", b"") }, Fine),
        (
            "deadline and ttl",
            "plain",
            v1::Record { deadline_millis: now + 600_000, ttl_millis: 1, ..record(b"key", b"") },
            invalid("invalid_deadline", "not both"),
        ),
        ("the longest ttl", "plain", v1::Record { ttl_millis: u64::MAX, ..record(b"forever", b"") }, Fine),
        ("attributes as deep as may be", "plain", with_attribute(nested_list(15)), Fine),
        ("deeper ones", "plain", with_attribute(nested_list(16)), invalid("invalid_attributes", "16 levels")),
        ("far deeper ones", "plain", with_attribute(nested_list(40)), invalid("invalid_attributes", "16 levels")),
        ("large attributes", "plain", with_attribute(text(&"x".repeat((1 << 20) - 64))), Fine),
        (
            "larger attributes",
            "plain",
            with_attribute(text(&"x".repeat(1 << 20))),
            invalid("invalid_attributes", "1048576"),
        ),
        (
            "NaN as an attribute",
            "plain",
            with_attribute(v1::Value { kind: Some(Kind::Float(f64::NAN)) }),
            invalid("invalid_attributes", "NaN"),
        ),
        ("an infinite attribute", "plain", with_attribute(v1::Value { kind: Some(Kind::Float(f64::INFINITY)) }), Fine),
        (
            "an unknown collection",
            "nothing",
            record(b"key", b""),
            Refused(Code::NotFound, "unknown_collection", "create it first"),
        ),
        ("a name that is none", "a b", record(b"key", b""), invalid("invalid_name", "letters")),
        ("no name", "", record(b"key", b""), invalid("invalid_name", "collection")),
    ];
    for (what, name, record, expect) in table {
        check(what, put(&mut api, name, record).await, expect);
    }
    // The bad one is named, and the good ones beside it are not written.
    let request = v1::PutRequest {
        collection: collection("things"),
        records: vec![record(b"good", b""), with_embedding("text", &[1.0])],
        ..Default::default()
    };
    let status = api.records.put(request).await.unwrap_err();
    assert!(status.message().contains("record 1") && status.message().contains("key"), "{status:?}");
    assert_eq!(loci_wire::decode_detail(status.details()).unwrap().number, 1);
    still_whole(&mut node, &mut api, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_too_large_is_refused_and_one_at_the_limit_is_done() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    let records = |count: usize| -> Vec<v1::Record> {
        (0..count).map(|number| record(format!("{number}").as_bytes(), b"")).collect()
    };
    let put = |count| v1::PutRequest { collection: collection("plain"), records: records(count), ..Default::default() };
    let wrong_count = |message| invalid("wrong_count", message);
    check("no record", api.records.put(put(0)).await, wrong_count("1 to 10000"));
    check("10,000 records", api.records.put(put(10_000)).await, Fine);
    check("10,001 records", api.records.put(put(10_001)).await, wrong_count("10001"));
    let get = |count: usize| v1::GetRequest {
        collection: collection("plain"),
        keys: (0..count).map(|number| format!("{number}").into()).collect(),
        ..Default::default()
    };
    check("no key", api.records.get(get(0)).await, wrong_count("keys"));
    check("10,000 keys", api.records.get(get(10_000)).await, Fine);
    check("10,001 keys", api.records.get(get(10_001)).await, wrong_count("keys"));
    let delete = |count: usize| v1::DeleteRequest {
        collection: collection("plain"),
        keys: get(count).keys,
        ..Default::default()
    };
    check("nothing to delete", api.records.delete(delete(0)).await, wrong_count("keys"));
    check("10,001 to delete", api.records.delete(delete(10_001)).await, wrong_count("keys"));
    check("10,000 to delete", api.records.delete(delete(10_000)).await, Fine);
    let both = v1::DeleteRequest { filter: Some(filter(Expression::Constant(true))), ..delete(1) };
    check("keys and a filter", api.records.delete(both).await, invalid("invalid_delete", "not both"));
    let change = v1::Change { collection: collection("plain"), action: Some(v1::change::Action::Delete("a".into())) };
    let batch = |changes| v1::BatchRequest { changes, ..Default::default() };
    check("no change", api.records.batch(batch(vec![])).await, wrong_count("changes"));
    check("10,001 changes", api.records.batch(batch(vec![change.clone(); 10_001])).await, wrong_count("10001"));
    check("10,000 changes", api.records.batch(batch(vec![change.clone(); 10_000])).await, Fine);
    let nothing = v1::Change { collection: collection("plain"), action: None };
    check("a change of nothing", api.records.batch(batch(vec![nothing])).await, invalid("invalid_change", "set put"));
    let elsewhere = v1::CollectionName { namespace: "other".into(), collection: "plain".into() };
    let elsewhere = v1::Change { collection: Some(elsewhere), ..change };
    let foreign = batch(vec![elsewhere]);
    check("two namespaces", api.records.batch(foreign).await, invalid("foreign_namespace", "one namespace"));
    // Five of the largest values are more than a message may be: the transport itself refuses, and the node goes on.
    let large = vec![1u8; 16 << 20];
    let large = (0..5).map(|number| record(format!("{number}").as_bytes(), &large)).collect();
    let large = v1::PutRequest { collection: collection("plain"), records: large, ..Default::default() };
    let status = api.records.put(large).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    still_whole(&mut node, &mut api, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_search_is_refused_and_says_what_to_change() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    let unit = [1.0, 0.0, 0.0, 0.0];
    put(&mut api, "things", with_embedding("text", &unit)).await.unwrap();
    let search = |name: &str, components: &[f32], k| api::nearest("things", name, components, k);
    let by_key = |key: &'static [u8], name: &str| {
        let query = v1::Query { name: name.into(), near: Some(v1::query::Near::Key(key.into())), ..Default::default() };
        v1::SearchRequest { queries: vec![query], ..search("text", &unit, 1) }
    };
    let many = |count| v1::SearchRequest {
        queries: vec![search("text", &unit, 1).queries[0].clone(); count],
        ..search("text", &unit, 1)
    };
    let with = |change: fn(&mut v1::SearchRequest)| {
        let mut request = search("text", &unit, 1);
        change(&mut request);
        request
    };
    let table: Vec<(&str, v1::SearchRequest, Expect)> = vec![
        ("fine", search("text", &unit, 1), Fine),
        ("k of nothing said", search("text", &unit, 0), Fine),
        ("the largest k", search("text", &unit, 10_000), Fine),
        ("a larger k", search("text", &unit, 10_001), invalid("out_of_bounds", "10000")),
        ("the largest ef", with(|request| request.ef = 10_000), Fine),
        ("a larger ef", with(|request| request.ef = 10_001), invalid("out_of_bounds", "ef")),
        ("no query", many(0), invalid("wrong_count", "queries")),
        ("1,000 queries", many(1_000), Fine),
        ("1,001 queries", many(1_001), invalid("wrong_count", "1001")),
        ("wrong dimension", search("text", &[1.0], 1), invalid("wrong_dimension", "dimension 4")),
        ("NaN", search("text", &[f32::NAN, 0.0, 0.0, 0.0], 1), invalid("invalid_embedding", "0")),
        ("zero under cosine", search("text", &[0.0; 4], 1), invalid("invalid_embedding", "zero")),
        ("unknown embedding", search("sound", &unit, 1), invalid("unknown_embedding", "text, image")),
        ("near nothing", with(|request| request.queries[0].near = None), invalid("invalid_query", "neither")),
        ("near a record that is not there", by_key(b"gone", "text"), Refused(Code::NotFound, "unknown_record", "gone")),
        ("near a record", by_key(b"key", "text"), Fine),
        (
            "near a record without that embedding",
            by_key(b"key", "image"),
            Refused(Code::FailedPrecondition, "no_embedding", "image"),
        ),
        (
            "a distance that is none",
            with(|request| request.max_distance = Some(f32::NAN)),
            invalid("invalid_distance", "number"),
        ),
        (
            "an unknown collection",
            v1::SearchRequest { collection: collection("nothing"), ..search("text", &unit, 1) },
            Refused(Code::NotFound, "unknown_collection", "create it first"),
        ),
        (
            "a token of another shard",
            with(|request| {
                let token = v1::Token { shard: 77, index: 1, others: vec![] };
                request.consistency = Some(v1::Consistency { level: Some(v1::consistency::Level::Token(token)) });
            }),
            invalid("foreign_token", "77"),
        ),
    ];
    for (what, request, expect) in table {
        check(what, api.records.search(request).await, expect);
    }
    still_whole(&mut node, &mut api, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_filter_is_refused_on_every_call_that_takes_one() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    let not = |part| filter(Expression::Not(Box::new(part)));
    let nested = |depth| (1..depth).fold(filter(Expression::Constant(true)), |part, _| not(part));
    let listed = |count| filter(Expression::In(v1::InValues { path: "a".into(), values: vec![int(1); count] }));
    let null = v1::Value { kind: Some(Kind::Null(true)) };
    let nan = v1::Value { kind: Some(Kind::Float(f64::NAN)) };
    let two_ends = v1::RangeOf { path: "a".into(), at_least: Some(int(1)), above: Some(int(1)), ..Default::default() };
    let levels = |count: usize| vec!["a"; count].join(".");
    let bad = |message| invalid("invalid_filter", message);
    let table: Vec<(&str, v1::Filter, Expect)> = vec![
        ("32 levels", nested(32), Fine),
        ("33 levels", nested(33), bad("32")),
        ("90 levels", nested(45), bad("32")),
        ("9,999 listed values", listed(9_999), Fine),
        ("10,000 listed values and their list", listed(10_000), bad("10000")),
        ("nothing in it", v1::Filter { expression: None }, bad("no expression")),
        ("no path", equal("", int(1)), bad("path")),
        ("an empty name in the path", equal("a..b", int(1)), bad("path")),
        ("a path that ends in a backslash", equal("a\\", int(1)), bad("backslash")),
        ("a path as deep as attributes", equal(&levels(16), int(1)), Fine),
        ("a deeper path", equal(&levels(17), int(1)), bad("16")),
        ("equal to null", equal("a", null), bad("is_null")),
        ("equal to NaN", equal("a", nan), bad("NaN")),
        ("two low ends", filter(Expression::Range(two_ends)), bad("two low ends")),
    ];
    for (what, filter, expect) in table {
        let refusal = |expect: &Expect| match expect {
            Fine => Fine,
            Refused(code, reason, message) => Refused(*code, reason, message),
        };
        let count =
            v1::CountRequest { collection: collection("things"), filter: Some(filter.clone()), ..Default::default() };
        check(&format!("count: {what}"), api.records.count(count).await, refusal(&expect));
        let scan =
            v1::ScanRequest { collection: collection("things"), filter: Some(filter.clone()), ..Default::default() };
        check(&format!("scan: {what}"), api.records.scan(scan).await, refusal(&expect));
        let search = v1::SearchRequest {
            filter: Some(filter.clone()),
            ..api::nearest("things", "text", &[1.0, 0.0, 0.0, 0.0], 1)
        };
        check(&format!("search: {what}"), api.records.search(search).await, refusal(&expect));
        let delete = v1::DeleteRequest { collection: collection("things"), filter: Some(filter), ..Default::default() };
        check(&format!("delete: {what}"), api.records.delete(delete).await, expect);
    }
    // So deep that the message itself is refused before anyone looks into it.
    let far_deeper =
        v1::CountRequest { collection: collection("things"), filter: Some(nested(200)), ..Default::default() };
    check("far deeper", api.records.count(far_deeper).await, invalid("invalid_message", "recursion limit"));
    still_whole(&mut node, &mut api, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_works_only_where_it_came_from() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    for name in ["plain", "things"] {
        for key in [&b"a1"[..], b"a2", b"a3"] {
            put(&mut api, name, record(key, b"")).await.unwrap();
        }
    }
    let scan = |name: &str| v1::ScanRequest { collection: collection(name), limit: 1, ..Default::default() };
    let page = api.records.scan(scan("plain")).await.unwrap().into_inner();
    assert!(!page.cursor.is_empty());
    let cursor = page.cursor.clone();
    let with = |change: &dyn Fn(&mut v1::ScanRequest)| {
        let mut request = v1::ScanRequest { cursor: cursor.clone(), ..scan("plain") };
        change(&mut request);
        request
    };
    let mut damaged = cursor.to_vec();
    damaged[3] ^= 1;
    let bad = |message| invalid("invalid_cursor", message);
    let table: Vec<(&str, v1::ScanRequest, Expect)> = vec![
        ("as it came", with(&|_| {}), Fine),
        (
            "of another collection",
            with(&|request| request.collection = collection("things")),
            bad("another collection"),
        ),
        ("with another prefix", with(&|request| request.prefix = "a".into()), bad("prefix")),
        ("with another filter", with(&|request| request.filter = Some(equal("a", int(1)))), bad("filter")),
        ("damaged", with(&|request| request.cursor = damaged.clone().into()), bad("not one of ours")),
        ("made up", with(&|request| request.cursor = "hello".into()), bad("not one of ours")),
        ("the most records of a page", with(&|request| request.limit = 10_000), Fine),
        ("more records than a page has", with(&|request| request.limit = 10_001), invalid("out_of_bounds", "10000")),
    ];
    for (what, request, expect) in table {
        check(what, api.records.scan(request).await, expect);
    }
    let drop = v1::DropCollectionRequest { name: collection("plain"), ..Default::default() };
    api.admin.drop_collection(drop).await.unwrap();
    api.create("plain", &[]).await;
    check("of a collection that was dropped", api.records.scan(with(&|_| {})).await, bad("dropped"));
    still_whole(&mut node, &mut api, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_schema_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    let spec = |name: &str, dimension, metric| v1::EmbeddingSpec {
        name: name.into(),
        dimension,
        metric,
        ..Default::default()
    };
    let cosine = v1::Metric::Cosine as i32;
    let many = |count: usize| (0..count).map(|number| spec(&format!("e{number}"), 1, cosine)).collect::<Vec<_>>();
    let long = "n".repeat(128);
    let longer = "n".repeat(129);
    let table: Vec<(&str, &str, Vec<v1::EmbeddingSpec>, Expect)> = vec![
        ("no embedding", "none", vec![], Fine),
        ("16 embeddings", "sixteen", many(16), Fine),
        ("17 embeddings", "x", many(17), invalid("too_many_embeddings", "16")),
        ("the smallest dimension", "small", vec![spec("a", 1, cosine)], Fine),
        ("the largest dimension", "large", vec![spec("a", 16_384, cosine)], Fine),
        ("dimension zero", "x", vec![spec("a", 0, cosine)], invalid("invalid_dimension", "16384")),
        ("a larger dimension", "x", vec![spec("a", 16_385, cosine)], invalid("invalid_dimension", "16385")),
        ("no metric", "x", vec![spec("a", 4, 0)], invalid("invalid_metric", "cosine")),
        ("an unknown metric", "x", vec![spec("a", 4, 9)], invalid("invalid_metric", "cosine")),
        (
            "one name twice",
            "x",
            vec![spec("a", 4, cosine), spec("a", 8, cosine)],
            invalid("duplicate_embedding", "twice"),
        ),
        ("an only embedding without a name", "nameless", vec![spec("", 4, cosine)], Fine),
        (
            "one of two without a name",
            "x",
            vec![spec("", 4, cosine), spec("b", 4, cosine)],
            invalid("invalid_name", "embedding"),
        ),
        ("the longest name", &long, vec![], Fine),
        ("a longer name", &longer, vec![], invalid("invalid_name", "128")),
        ("a name with a slash", "a/b", vec![], invalid("invalid_name", "letters")),
        ("a name with dots and hyphens", "a.b-c_d", vec![], Fine),
        ("a name that begins with a hyphen", "-a", vec![], invalid("invalid_name", "begin with")),
        ("a name that begins with a dot", ".a", vec![], invalid("invalid_name", "begin with")),
        ("a name that is there", "plain", vec![], Refused(Code::AlreadyExists, "already_exists", "plain")),
    ];
    for (what, name, embeddings, expect) in table {
        let request = v1::CreateCollectionRequest {
            name: collection(name),
            schema: Some(v1::Schema { embeddings, ..Default::default() }),
            ..Default::default()
        };
        check(what, api.admin.create_collection(request).await, expect);
    }
    let other = v1::CreateCollectionRequest {
        name: collection("plain"),
        schema: Some(v1::Schema { embeddings: vec![spec("a", 4, cosine)], ..Default::default() }),
        if_absent: true,
        ..Default::default()
    };
    let exists = Refused(Code::AlreadyExists, "other_schema", "other embeddings");
    check("there with other embeddings", api.admin.create_collection(other).await, exists);
    let unknown = v1::CollectionName { namespace: "nowhere".into(), collection: "a".into() };
    let unknown = v1::CreateCollectionRequest { name: Some(unknown), ..Default::default() };
    let missing = Refused(Code::NotFound, "unknown_namespace", "nowhere");
    check("in an unknown namespace", api.admin.create_collection(unknown).await, missing);
    let nothing = v1::AlterCollectionRequest { name: collection("plain"), ..Default::default() };
    let nothing = api.admin.alter_collection(nothing).await;
    check("nothing to alter", nothing, invalid("nothing_to_change", "set durability"));
    let gone = Refused(Code::NotFound, "unknown_collection", "nothing");
    let drop = v1::DropCollectionRequest { name: collection("nothing"), ..Default::default() };
    check("nothing to drop", api.admin.drop_collection(drop).await, gone);
    still_whole(&mut node, &mut api, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_request_ids_are_held_to_their_word() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    let version = put(&mut api, "plain", record(b"there", b"")).await.unwrap().version;
    let condition = |key: &'static [u8], expect| v1::Condition { key: key.into(), expect, ..Default::default() };
    use v1::condition::Expect as Must;
    let failed = |message| Refused(Code::FailedPrecondition, "condition_failed", message);
    let table: Vec<(&str, Vec<v1::Condition>, Expect)> = vec![
        ("absent and is", vec![condition(b"gone", Some(Must::Absent(true)))], Fine),
        ("absent and is not", vec![condition(b"there", Some(Must::Absent(true)))], failed("there")),
        ("present and is not", vec![condition(b"gone", Some(Must::Present(true)))], failed("gone")),
        ("the version it has", vec![condition(b"there", Some(Must::Version(version)))], Fine),
        ("another version", vec![condition(b"there", Some(Must::Version(version + 1)))], failed("condition 0")),
        ("nothing expected", vec![condition(b"there", None)], invalid("invalid_condition", "set absent")),
        ("of an empty key", vec![condition(b"", Some(Must::Present(true)))], invalid("invalid_key", "empty")),
        ("10,000 conditions", vec![condition(b"there", Some(Must::Present(true))); 10_000], Fine),
        (
            "10,001 conditions",
            vec![condition(b"there", Some(Must::Present(true))); 10_001],
            invalid("wrong_count", "10001"),
        ),
    ];
    for (what, conditions, expect) in table {
        let request = v1::PutRequest {
            collection: collection("plain"),
            records: vec![record(b"other", b"")],
            conditions,
            ..Default::default()
        };
        check(what, api.records.put(request).await, expect);
    }
    let of = |origin: v1::Origin, value: &'static [u8]| v1::PutRequest {
        origin: Some(origin),
        collection: collection("plain"),
        records: vec![record(b"other", value)],
        ..Default::default()
    };
    let id = |bytes: usize| v1::Origin { request_id: vec![7; bytes].into(), ..Default::default() };
    let first = api.records.put(of(id(64), b"1")).await.unwrap().into_inner();
    let again = api.records.put(of(id(64), b"1")).await.unwrap().into_inner();
    assert_eq!(first.version, again.version, "a repeated request id gets the first outcome");
    let conflict = Refused(Code::Aborted, "request_conflict", "request id");
    check("the same id with other bytes", api.records.put(of(id(64), b"2")).await, conflict);
    check("a longer id", api.records.put(of(id(65), b"1")).await, invalid("invalid_origin", "64"));
    let principal = |bytes| v1::Origin { principal: "p".repeat(bytes), ..Default::default() };
    check("a long principal", api.records.put(of(principal(256), b"1")).await, Fine);
    check("a longer principal", api.records.put(of(principal(257), b"1")).await, invalid("invalid_origin", "256"));
    let other = v1::Origin { principal: "somebody else".into(), ..id(64) };
    check("another principal's id", api.records.put(of(other, b"3")).await, Fine);
    // A refusal is an outcome too: repeated, it is refused again even if it could succeed by now.
    let insert = |id: &'static [u8]| v1::PutRequest {
        origin: api::origin(id),
        collection: collection("plain"),
        records: vec![record(b"there", b"new")],
        mode: v1::PutMode::Insert as i32,
        ..Default::default()
    };
    check("an insert of what is there", api.records.put(insert(b"insert")).await, failed("there"));
    let delete =
        v1::DeleteRequest { collection: collection("plain"), keys: vec!["there".into()], ..Default::default() };
    api.records.delete(delete).await.unwrap();
    check("the same insert again", api.records.put(insert(b"insert")).await, failed("there"));
    check("a new insert", api.records.put(insert(b"another")).await, Fine);
    still_whole(&mut node, &mut api, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_to_remove_from_many_records_do_not_become_a_huge_write() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    let merge = |records: usize| v1::PutRequest {
        collection: collection("plain"),
        records: (0..records).map(|number| record(format!("key {number}").as_bytes(), b"")).collect(),
        mode: v1::PutMode::Merge as i32,
        remove_attributes: vec!["a".repeat(10 << 10)],
        ..Default::default()
    };
    check("few", api.records.put(merge(100)).await, Fine);
    check("many", api.records.put(merge(10_000)).await, invalid("wrong_count", "split"));
    still_whole(&mut node, &mut api, 100).await;
}

/// The node's answer, or that of the transport's own timer on either side, which runs out at the same moment.
fn is_late(status: &Status) {
    let by_transport = status.code() == Code::Cancelled && status.message() == "Timeout expired";
    assert!(status.code() == Code::DeadlineExceeded || by_transport, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_time_is_up_is_answered_so() {
    let data = tempfile::tempdir().unwrap();
    let (mut node, mut api) = node(&data).await;
    let count = v1::CountRequest { collection: collection("plain"), ..Default::default() };
    let mut request = Request::new(count);
    request.metadata_mut().insert("grpc-timeout", "1n".parse().unwrap());
    is_late(&api.records.count(request).await.unwrap_err());
    let put =
        v1::PutRequest { collection: collection("plain"), records: vec![record(b"late", b"")], ..Default::default() };
    let mut request = Request::new(put);
    request.metadata_mut().insert("grpc-timeout", "1n".parse().unwrap());
    is_late(&api.records.put(request).await.unwrap_err());
    // It was over before the write was begun, so nothing is there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    still_whole(&mut node, &mut api, 0).await;
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_cut_off() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path()).await;
    // The last says that it is another node, and no more.
    let mut silent = Vec::new();
    for said in [&b""[..], b"", b"L"] {
        let mut stream = TcpStream::connect(&node.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        silent.push(stream);
    }
    assert!(api::serving(&node.address).await, "they are in nobody's way");
    for mut stream in silent {
        let heard = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0])).await;
        assert!(matches!(heard.expect("it is cut off"), Ok(0) | Err(_)));
    }
    assert!(api::serving(&node.address).await && !node.log().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_stops_existing_at_its_deadline_and_not_before() {
    let data = tempfile::tempdir().unwrap();
    let (node, mut api) = node(&data).await;
    let begin = now_millis();
    put(&mut api, "plain", v1::Record { ttl_millis: 1_500, ..record(b"brief", b"v") }).await.unwrap();
    let get = v1::GetRequest { collection: collection("plain"), keys: vec!["brief".into()], ..Default::default() };
    let mut seen = false;
    loop {
        let before = now_millis();
        let reply = api.records.get(get.clone()).await.unwrap().into_inner();
        let after = now_millis();
        match &reply.records[0].record {
            Some(record) => {
                seen = true;
                assert!(record.deadline_millis >= begin + 1_500, "{record:?}");
                assert!(before < record.deadline_millis, "{record:?} is served at {before}");
            }
            None => {
                assert!(after >= begin + 1_500, "gone at {after}, put at {begin}");
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen, "it was never there");
    let count = v1::CountRequest { collection: collection("plain"), ..Default::default() };
    assert_eq!(api.records.count(count).await.unwrap().into_inner().count, 0);
    // It leaves the store by itself, and a restart does not bring it back.
    let begin = std::time::Instant::now();
    while api.stats("plain").await.records > 0 {
        assert!(begin.elapsed() < loci_tests::process::PATIENCE, "an expired record is never reclaimed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.kill();
    let node = Node::start(data.path()).await;
    let reply = node.api().await.records.get(get).await.unwrap().into_inner();
    assert_eq!(reply.records[0].record, None);
}
