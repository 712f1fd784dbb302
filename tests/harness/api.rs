//! The native API as the tests speak it: the generated messages and nothing in between, so that what is sent is what
//! the test says.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use loci_wire::MESSAGE_BYTES_MAX;
use loci_wire::v1;
use loci_wire::v1::admin_client::AdminClient;
use loci_wire::v1::records_client::RecordsClient;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Connections to one node.
#[derive(Clone, Debug)]
pub struct Api {
    /// Records.
    pub records: RecordsClient<Channel>,
    /// Collections, and how the node is doing.
    pub admin: AdminClient<Channel>,
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address makes a URI")
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
}

/// Whether the node's health service says that it serves.
pub async fn serving(address: &str) -> bool {
    let Ok(channel) = endpoint(address).timeout(Duration::from_secs(5)).connect().await else {
        return false;
    };
    let reply = HealthClient::new(channel).check(HealthCheckRequest { service: String::new() }).await;
    reply.is_ok_and(|reply| reply.into_inner().status == ServingStatus::Serving as i32)
}

impl Api {
    /// Connects to a node that is there.
    pub async fn connect(address: &str) -> Api {
        let channel = endpoint(address).connect().await.unwrap_or_else(|error| panic!("{address}: {error}"));
        Api {
            // The reply may be as large as a message; a request larger than that is for the node to refuse.
            records: RecordsClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(2 * MESSAGE_BYTES_MAX),
            admin: AdminClient::new(channel),
        }
    }

    /// Makes a collection in the default namespace, or finds it there.
    pub async fn create(&mut self, name: &str, embeddings: &[(&str, u32, v1::Metric)]) {
        let embeddings = embeddings.iter().map(|&(name, dimension, metric)| v1::EmbeddingSpec {
            name: name.into(),
            dimension,
            metric: metric as i32,
            ..Default::default()
        });
        let schema = v1::Schema { embeddings: embeddings.collect(), ..Default::default() };
        let request = v1::CreateCollectionRequest {
            name: collection(name),
            schema: Some(schema),
            if_absent: true,
            ..Default::default()
        };
        self.admin.create_collection(request).await.unwrap_or_else(|status| panic!("create {name}: {status:?}"));
    }

    /// What the node counts for one collection.
    pub async fn stats(&mut self, name: &str) -> v1::CollectionStats {
        let request = v1::DescribeCollectionRequest { name: collection(name) };
        let reply = self.admin.describe_collection(request).await;
        let reply = reply.unwrap_or_else(|status| panic!("describe {name}: {status:?}"));
        reply.into_inner().stats.expect("a description has counts")
    }

    /// How the node and its shards are doing.
    pub async fn node_stats(&mut self) -> v1::StatsReply {
        let reply = self.admin.stats(v1::StatsRequest {}).await;
        reply.unwrap_or_else(|status| panic!("stats: {status:?}")).into_inner()
    }

    /// All records of a collection, with all their parts.
    pub async fn all(&mut self, name: &str) -> Vec<v1::Record> {
        let parts = v1::Parts { value: true, attributes: true, embeddings: true };
        let mut request = v1::ScanRequest { collection: collection(name), parts: Some(parts), ..Default::default() };
        let mut records = Vec::new();
        loop {
            let reply = self.records.scan(request.clone()).await;
            let reply = reply.unwrap_or_else(|status| panic!("scan {name}: {status:?}")).into_inner();
            records.extend(reply.records);
            if reply.cursor.is_empty() {
                return records;
            }
            request.cursor = reply.cursor;
        }
    }

    /// Waits until most records of a collection are in segments with graphs; the newest may stay in the buffer.
    pub async fn wait_indexed(&mut self, name: &str, patience: Duration) {
        let begin = std::time::Instant::now();
        loop {
            let stats = self.stats(name).await;
            if stats.indexed_records >= stats.records / 10 * 8 {
                return;
            }
            assert!(begin.elapsed() < patience, "{name} is not indexed after {patience:?}: {stats:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A collection of the default namespace.
pub fn collection(name: &str) -> Option<v1::CollectionName> {
    Some(v1::CollectionName { namespace: String::new(), collection: name.into() })
}

/// With this request id.
pub fn origin(request_id: &[u8]) -> Option<v1::Origin> {
    Some(v1::Origin { request_id: Bytes::copy_from_slice(request_id), ..Default::default() })
}

/// An embedding, as bytes.
pub fn embedding(name: &str, components: &[f32]) -> v1::Embedding {
    let vector: Vec<u8> = components.iter().flat_map(|component| component.to_le_bytes()).collect();
    v1::Embedding { name: name.into(), vector: vector.into(), components: vec![] }
}

/// The components of an embedding that came back.
pub fn components(embedding: &v1::Embedding) -> Vec<f32> {
    let component = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    embedding.vector.chunks_exact(4).map(component).collect()
}

/// A text attribute.
pub fn text(text: &str) -> v1::Value {
    v1::Value { kind: Some(v1::value::Kind::String(text.into())) }
}

/// A whole number as an attribute.
pub fn int(int: i64) -> v1::Value {
    v1::Value { kind: Some(v1::value::Kind::Int(int)) }
}

/// A record with a key and a value.
pub fn record(key: &[u8], value: &[u8]) -> v1::Record {
    v1::Record { key: Bytes::copy_from_slice(key), value: Some(Bytes::copy_from_slice(value)), ..Default::default() }
}

/// Attributes by name.
pub fn attributes<const N: usize>(named: [(&str, v1::Value); N]) -> HashMap<String, v1::Value> {
    named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A filter from its expression.
pub fn filter(expression: v1::filter::Expression) -> v1::Filter {
    v1::Filter { expression: Some(expression) }
}

/// Records whose attribute equals this.
pub fn equal(path: &str, value: v1::Value) -> v1::Filter {
    filter(v1::filter::Expression::Equal(v1::Comparison { path: path.into(), value: Some(value) }))
}

/// A search for the `k` nearest to one embedding.
pub fn nearest(name: &str, embedding_name: &str, components: &[f32], k: u32) -> v1::SearchRequest {
    let query = v1::Query {
        name: embedding_name.into(),
        near: Some(v1::query::Near::Embedding(embedding("", components))),
        ..Default::default()
    };
    let parts = v1::Parts { value: false, attributes: false, embeddings: false };
    v1::SearchRequest {
        collection: collection(name),
        queries: vec![query],
        k,
        parts: Some(parts),
        ..Default::default()
    }
}
