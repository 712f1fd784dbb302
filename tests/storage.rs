//! How a collection keeps embeddings and what a search compares: every choice finds what is near, gives back what it
//! keeps, and says what it read.

use std::collections::HashSet;

use loci_tests::api::{self, Api};
use loci_tests::data::{self, DataSet};
use loci_tests::process::{Node, PATIENCE};
use loci_wire::v1;

const RECORDS: usize = 2_000;
const QUERIES: usize = 50;
const K: u32 = 10;

async fn create(api: &mut Api, name: &str, spec: v1::EmbeddingSpec) {
    let schema = v1::Schema { embeddings: vec![spec], ..Default::default() };
    let request =
        v1::CreateCollectionRequest { name: api::collection(name), schema: Some(schema), ..Default::default() };
    api.admin.create_collection(request).await.unwrap();
}

async fn keys(api: &mut Api, name: &str, query: &[f32], exact: bool) -> (HashSet<Vec<u8>>, v1::SearchStep) {
    let request = v1::SearchRequest { exact, explain: true, ..api::nearest(name, "text", query, K) };
    let hits = api.records.search(request).await.unwrap().into_inner().results.remove(0);
    let keys = hits.hits.into_iter().map(|hit| hit.record.unwrap().key.to_vec()).collect();
    let steps = hits.explanation.unwrap().steps;
    let step = steps.into_iter().find(|step| step.segment.is_some()).expect("everything is in a segment");
    (keys, step)
}

async fn check(api: &mut Api, set: &DataSet, storage: v1::Storage, codes: v1::Codes) {
    let name = format!("{}-{}", storage.as_str_name(), codes.as_str_name());
    let spec = v1::EmbeddingSpec {
        name: "text".into(),
        dimension: set.dimension as u32,
        metric: v1::Metric::Cosine as i32,
        storage: storage as i32,
        codes: codes as i32,
    };
    create(api, &name, spec.clone()).await;
    let request = v1::PutRequest {
        collection: api::collection(&name),
        records: (0..RECORDS).map(|number| set.record(number)).collect(),
        ..Default::default()
    };
    api.records.put(request).await.unwrap();
    api.wait_indexed(&name, PATIENCE).await;
    let described = v1::DescribeCollectionRequest { name: api::collection(&name) };
    let described = api.admin.describe_collection(described).await.unwrap().into_inner();
    assert_eq!(described.schema.unwrap().embeddings, [spec], "{name}");

    let mut found = 0;
    for query in 0..QUERIES {
        let (near, walked) = keys(api, &name, set.query(query), false).await;
        let (exact, compared) = keys(api, &name, set.query(query), true).await;
        found += near.intersection(&exact).count();
        assert_eq!(walked.codes_read > 0, codes == v1::Codes::Int8, "{name}: {walked:?}");
        assert_eq!((compared.codes_read, compared.vectors_read), (0, RECORDS as u64), "{name}: {compared:?}");
    }
    let recall = found as f64 / (QUERIES * K as usize) as f64;
    assert!(recall >= 0.95, "{name}: recall {recall}");

    let request = v1::GetRequest {
        collection: api::collection(&name),
        keys: vec![set.record(7).key],
        parts: Some(v1::Parts { embeddings: true, ..Default::default() }),
        ..Default::default()
    };
    let record = api.records.get(request).await.unwrap().into_inner().records.remove(0).record.unwrap();
    let kept = api::components(&record.embeddings[0]);
    for (kept, given) in kept.iter().zip(set.embedding(7)) {
        let off = (kept - given).abs();
        if storage == v1::Storage::F16 {
            assert_eq!(*kept, half::f16::from_f32(*kept).to_f32(), "{name}");
            assert!(off <= 1e-3 * given.abs() + 1e-6, "{name}: {kept} for {given}");
        } else {
            assert!(off <= 1e-6, "{name}: {kept} for {given}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_keep_embeddings_finds_what_is_near() {
    let set = data::shipped();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let mut api = node.api().await;
    for storage in [v1::Storage::F32, v1::Storage::F16] {
        for codes in [v1::Codes::Int8, v1::Codes::None] {
            check(&mut api, &set, storage, codes).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_half_precision_cannot_keep_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let mut api = node.api().await;
    let spec = v1::EmbeddingSpec {
        name: "place".into(),
        dimension: 2,
        metric: v1::Metric::SquaredL2 as i32,
        storage: v1::Storage::F16 as i32,
        ..Default::default()
    };
    create(&mut api, "places", spec.clone()).await;
    let put = |components: [f32; 2]| {
        let mut record = api::record(b"a", b"");
        record.embeddings = vec![api::embedding("place", &components)];
        v1::PutRequest { collection: api::collection("places"), records: vec![record], ..Default::default() }
    };
    api.records.put(put([65_504.0, -65_504.0])).await.unwrap();
    let refused = api.records.put(put([0.0, 70_000.0])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("component 1 is 70000, which f16 cannot keep"), "{refused}");
    // A number that no version knows is refused, not guessed.
    for wrong in [v1::EmbeddingSpec { storage: 9, ..spec.clone() }, v1::EmbeddingSpec { codes: 9, ..spec }] {
        let schema = v1::Schema { embeddings: vec![wrong], ..Default::default() };
        let name = api::collection("others");
        let request = v1::CreateCollectionRequest { name, schema: Some(schema), ..Default::default() };
        let refused = api.admin.create_collection(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    }
}
