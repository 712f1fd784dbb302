//! The `SemanticCache` service: answers found by the nearness of their questions, as records of an ordinary collection.
//!
//! ```text
//!   put  --> a record: embedding, value, deadline, attributes partition, scope, tags, question
//!   get  --> search, k = 1, filter partition = ..., within threshold + margin --> hit, near miss or miss
//!   drop --> one command for each shard: remove all that a filter takes
//! ```
//!
//! Always: a filter on `partition` decides before any distance counts, so nothing is told across partitions, not even that
//! something is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use loci_index::attributes::Value;
use loci_index::command::{Command, Envelope, Origin, Outcome, Removal};
use loci_index::filter::Filter;
use loci_index::record::KEY_BYTES_MAX;
use loci_wire::v1::semantic_cache_server::SemanticCache;
use loci_wire::{About, v1};
use tonic::{Request, Response, Status};

use super::calls::{Calls, log, not_reserved};
use super::convert::{self, NAMESPACE_DEFAULT};
use super::far::Far;
use super::home::{self, Home, Name, find};
use super::records::unary;
use super::redirect::Subject;
use super::status::Failure;
use super::writes::unexpected;
use crate::metrics::{Metrics, Semantic};
use crate::router::Route;
use crate::shard::Level;
use crate::trace;

const PARTITION: &str = "partition";
const SCOPE: &str = "scope";
const TAGS: &str = "tags";
const QUESTION: &str = "question";

/// The most names of a partition.
pub const NAMES_MAX: usize = 16;
/// The most tags of an entry, and of one call that drops.
pub const TAGS_MAX: usize = 64;
/// The longest name, value of a partition, and tag, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;

/// Serves `loci.v1.SemanticCache`.
#[derive(Clone)]
pub struct SemanticService {
    /// What the calls do.
    pub calls: Calls,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
}

type Pairs = BTreeMap<String, String>;

/// The names and values of a partition, checked, in their order.
fn pairs(partition: HashMap<String, String>) -> Result<Pairs, Failure> {
    if partition.len() > NAMES_MAX {
        let message = format!("a partition has at most {NAMES_MAX} names, not {}", partition.len());
        return Err(Failure::invalid("wrong_count", message));
    }
    for (name, value) in &partition {
        if name.is_empty() || name.contains('.') || name.len() > TEXT_BYTES_MAX || value.len() > TEXT_BYTES_MAX {
            let message = format!(
                "a partition's names have 1 to {TEXT_BYTES_MAX} bytes without dots, its values at most {TEXT_BYTES_MAX} bytes"
            );
            return Err(Failure::invalid("invalid_partition", message));
        }
    }
    Ok(partition.into_iter().collect())
}

/// A partition as one text: `model=a&tenant=b`. Two are equal exactly if their texts are.
fn text_of(pairs: &Pairs) -> String {
    let escaped = |text: &str| text.replace('%', "%25").replace('&', "%26").replace('=', "%3D");
    let parts: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
    parts.join("&")
}

fn check_tags(tags: &[String], least: usize) -> Result<(), Failure> {
    if !(least..=TAGS_MAX).contains(&tags.len()) {
        let message = format!("{least} to {TAGS_MAX} tags are allowed, not {}", tags.len());
        return Err(Failure::invalid("wrong_count", message));
    }
    if tags.iter().any(|tag| tag.is_empty() || tag.len() > TEXT_BYTES_MAX) {
        return Err(Failure::invalid("invalid_tag", format!("a tag has 1 to {TEXT_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn text(text: impl Into<String>) -> v1::Value {
    v1::Value { kind: Some(v1::value::Kind::String(text.into())) }
}

/// What partitions have in common.
fn in_scope(pairs: &Pairs) -> Vec<Filter> {
    let is = |(name, value): (&String, &String)| {
        Filter::Equal(vec![SCOPE.into(), name.clone()], Value::String(value.clone()))
    };
    pairs.iter().map(is).collect()
}

/// The key of an entry that was given none: the same for the same question in the same partition.
fn key_of(partition: &str, embedding: &v1::Embedding) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(partition.len() as u64).to_le_bytes());
    hasher.update(partition.as_bytes());
    hasher.update(&embedding.vector);
    for component in &embedding.components {
        hasher.update(&component.to_le_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned().into()
}

/// Before a key that was given stand 32 digits of the partition and a slash.
const KEY_GIVEN_BYTES_MAX: usize = KEY_BYTES_MAX - 33;

/// The key of an entry that was given one: no other partition's, whatever is given there.
fn key_in(partition: &str, key: &[u8]) -> Bytes {
    let hash = blake3::hash(partition.as_bytes()).to_hex();
    [&hash.as_bytes()[..32], b"/", key].concat().into()
}

impl Calls {
    async fn semantic_put(
        &self,
        request: v1::SemanticPutRequest,
        deadline: Instant,
    ) -> Result<v1::SemanticPutReply, Failure> {
        let v1::SemanticPutRequest { origin, collection, partition, embedding, value, question, tags, ttl_millis, key } =
            request;
        let pairs = pairs(partition)?;
        check_tags(&tags, 0)?;
        let partition = text_of(&pairs);
        let embedding = embedding.ok_or_else(no_embedding)?;
        if key.len() > KEY_GIVEN_BYTES_MAX {
            let message = format!("a key has at most {KEY_GIVEN_BYTES_MAX} bytes here, not {}", key.len());
            return Err(Failure::invalid("invalid_key", message));
        }
        let key = if key.is_empty() { key_of(&partition, &embedding) } else { key_in(&partition, &key) };
        let scope = pairs.into_iter().map(|(name, value)| (name, text(value))).collect();
        let tags = v1::ListValue { values: tags.into_iter().map(text).collect() };
        let mut attributes = HashMap::from([
            (PARTITION.to_owned(), text(partition)),
            (SCOPE.to_owned(), v1::Value { kind: Some(v1::value::Kind::Map(v1::MapValue { values: scope })) }),
            (TAGS.to_owned(), v1::Value { kind: Some(v1::value::Kind::List(tags)) }),
        ]);
        if !question.is_empty() {
            attributes.insert(QUESTION.to_owned(), text(question));
        }
        let record = v1::Record {
            key: key.clone(),
            value: Some(value),
            attributes,
            embeddings: vec![embedding],
            ttl_millis,
            ..Default::default()
        };
        let put = v1::PutRequest { origin, collection, records: vec![record], ..Default::default() };
        let written = self.put(Box::new(put), deadline).await?;
        let replaced = written.existed.first().copied().unwrap_or_default();
        Ok(v1::SemanticPutReply { token: written.token, key, replaced })
    }

    async fn semantic_get(
        &self,
        request: v1::SemanticGetRequest,
        deadline: Instant,
    ) -> Result<v1::SemanticGetReply, Failure> {
        let v1::SemanticGetRequest { collection, partition, embedding, threshold, margin, exact, consistency } =
            request;
        if !threshold.is_finite() || !margin.is_finite() || margin < 0.0 {
            let message = "threshold and margin are finite numbers, and the margin is not below 0";
            return Err(Failure::invalid("invalid_distance", message));
        }
        let partition = text_of(&pairs(partition)?);
        let equal = v1::Comparison { path: PARTITION.into(), value: Some(text(partition)) };
        let near = v1::query::Near::Embedding(embedding.ok_or_else(no_embedding)?);
        let search = v1::SearchRequest {
            collection,
            queries: vec![v1::Query { near: Some(near), ..Default::default() }],
            k: 1,
            filter: Some(v1::Filter { expression: Some(v1::filter::Expression::Equal(equal)) }),
            max_distance: Some(threshold + margin),
            exact,
            parts: Some(v1::Parts { value: true, attributes: true, embeddings: false }),
            consistency,
            ..Default::default()
        };
        let found = self.search(search, deadline, true).await?;
        let mut reply = v1::SemanticGetReply { token: found.token, lag_millis: found.lag_millis, ..Default::default() };
        reply.set_result(v1::SemanticResult::Miss);
        let hit = found.results.into_iter().flat_map(|hits| hits.hits).next();
        if let Some(v1::Hit { record: Some(record), distance, .. }) = hit {
            let is_hit = distance <= threshold;
            reply.set_result(if is_hit { v1::SemanticResult::Hit } else { v1::SemanticResult::NearMiss });
            let v1::Record { key, value, mut attributes, deadline_millis, .. } = record;
            reply.value = value.filter(|_| is_hit).unwrap_or_default();
            (reply.distance, reply.key, reply.deadline_millis) = (distance, key, deadline_millis);
            reply.question = attributes.remove(QUESTION).and_then(into_text).unwrap_or_default();
            if let Some(v1::Value { kind: Some(v1::value::Kind::List(tags)) }) = attributes.remove(TAGS) {
                reply.tags = tags.values.into_iter().filter_map(into_text).collect();
            }
        }
        Ok(reply)
    }

    async fn semantic_drop(
        &self,
        origin: Option<v1::Origin>,
        collection: Option<v1::CollectionName>,
        filter: Filter,
        deadline: Instant,
    ) -> Result<v1::SemanticDropReply, Failure> {
        let name = convert::collection_name(collection, NAMESPACE_DEFAULT)?;
        let (dropped, token) = self.remove_where(origin, &name, &filter, deadline).await?;
        Ok(v1::SemanticDropReply { token, dropped })
    }

    /// Removes all that a filter takes, in one command for each shard.
    pub async fn remove_where(
        &self,
        origin: Option<v1::Origin>,
        name: &Name,
        filter: &Filter,
        deadline: Instant,
    ) -> Result<(u64, Option<v1::Token>), Failure> {
        not_reserved(&name.0)?;
        let origin = convert::origin(origin)?;
        let too_large = || Failure::invalid("invalid_filter", "a value of the filter is larger than attributes may be");
        let filter = filter.encode().ok_or_else(too_large)?;
        if let Some(far) = self.far_from_all(name) {
            return self.remove_far(&far, origin, name, filter, deadline).await;
        }
        let wanted = |route: &Route| Ok(route.shards().to_vec());
        let (_, homes) = Home::all(&self.cluster, &name.0, std::slice::from_ref(name), wanted, deadline).await?;
        let (mut removed, mut tokens) = (0, Vec::new());
        for home in homes {
            let removal = Removal { collection: find(&home.view, name)?.id().0, filter: filter.clone() };
            match log(&home.cluster, origin.clone(), Command::Remove(removal.into()), deadline).await? {
                (Outcome::Removed(records), index) => {
                    removed += records;
                    tokens.push((home.cluster.shard().id(), index));
                }
                (outcome, _) => return Err(unexpected(&outcome)),
            }
        }
        Ok((removed, home::token(tokens)))
    }

    /// The same, where not all shards are here.
    async fn remove_far(
        &self,
        far: &Far,
        origin: Origin,
        name: &Name,
        filter: Vec<u8>,
        deadline: Instant,
    ) -> Result<(u64, Option<v1::Token>), Failure> {
        let view = self.cluster.catalog().view(Level::Latest, Some(deadline)).await?;
        let collection = find(&view, name)?.id().0;
        let origin = Origin { trace: trace::for_entry(origin.trace), ..origin };
        let (mut removed, mut tokens) = (0, Vec::new());
        for shard in &far.shards {
            let removal = Removal { collection, filter: filter.clone() };
            let envelope = Envelope { origin: origin.clone(), command: Command::Remove(removal.into()) };
            let written = self.cluster.write_in(*shard, envelope, deadline).await?;
            match written.outcome {
                Outcome::Removed(records) => removed += records,
                Outcome::Refused(refusal) => return Err(refusal.into()),
                outcome => return Err(unexpected(&outcome)),
            }
            tokens.push((*shard, written.index));
        }
        Ok((removed, home::token(tokens)))
    }
}

fn into_text(value: v1::Value) -> Option<String> {
    match value.kind {
        Some(v1::value::Kind::String(text)) => Some(text),
        _ => None,
    }
}

fn no_embedding() -> Failure {
    Failure::invalid("invalid_embedding", "give the question's embedding")
}

fn subject(calls: &Calls, request: &Request<impl About>) -> Subject {
    calls.subject(request.get_ref(), loci_wire::known(request.metadata()))
}

#[tonic::async_trait]
impl SemanticCache for SemanticService {
    async fn put(&self, request: Request<v1::SemanticPutRequest>) -> Result<Response<v1::SemanticPutReply>, Status> {
        let call = |request, deadline| self.calls.semantic_put(request, deadline);
        let subject = subject(&self.calls, &request);
        unary(&self.calls, &self.metrics, "semantic_put", true, subject, request, call).await
    }

    async fn get(&self, request: Request<v1::SemanticGetRequest>) -> Result<Response<v1::SemanticGetReply>, Status> {
        let call = |request, deadline| async move {
            let reply = self.calls.semantic_get(request, deadline).await?;
            self.metrics.semantic(match reply.result() {
                v1::SemanticResult::Hit => Semantic::Hit,
                v1::SemanticResult::NearMiss => Semantic::NearMiss,
                _ => Semantic::Miss,
            });
            Ok(reply)
        };
        let subject = subject(&self.calls, &request);
        unary(&self.calls, &self.metrics, "semantic_get", false, subject, request, call).await
    }

    async fn drop_tagged(
        &self,
        request: Request<v1::SemanticDropTaggedRequest>,
    ) -> Result<Response<v1::SemanticDropReply>, Status> {
        let call = |request: v1::SemanticDropTaggedRequest, deadline| async move {
            let v1::SemanticDropTaggedRequest { origin, collection, tags, partition } = request;
            check_tags(&tags, 1)?;
            let tagged = |tag| Filter::HasElement(vec![TAGS.into()], Value::String(tag));
            let mut all = in_scope(&pairs(partition)?);
            all.push(Filter::Or(tags.into_iter().map(tagged).collect()));
            self.calls.semantic_drop(origin, collection, Filter::And(all), deadline).await
        };
        let subject = subject(&self.calls, &request);
        unary(&self.calls, &self.metrics, "semantic_drop", true, subject, request, call).await
    }

    async fn drop_partition(
        &self,
        request: Request<v1::SemanticDropPartitionRequest>,
    ) -> Result<Response<v1::SemanticDropReply>, Status> {
        let call = |request: v1::SemanticDropPartitionRequest, deadline| async move {
            let v1::SemanticDropPartitionRequest { origin, collection, partition } = request;
            // Only what is an entry of a cache.
            let mut all = vec![Filter::Exists(vec![PARTITION.into()])];
            all.extend(in_scope(&pairs(partition)?));
            self.calls.semantic_drop(origin, collection, Filter::And(all), deadline).await
        };
        let subject = subject(&self.calls, &request);
        unary(&self.calls, &self.metrics, "semantic_drop", true, subject, request, call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> String {
        text_of(&pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn partitions_are_equal_exactly_if_their_texts_are() {
        assert_eq!(of(&[("tenant", "acme"), ("model", "m1")]), "model=m1&tenant=acme");
        assert_eq!(of(&[]), "");
        let all = [
            of(&[("a", "b&c=d")]),
            of(&[("a", "b"), ("c", "d")]),
            of(&[("a", "b%26c=d")]),
            of(&[("a=b", "c")]),
            of(&[("a", "=bc")]),
            of(&[("a", "")]),
            of(&[]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other != one), "{one}");
        }
    }

    #[test]
    fn the_same_question_has_the_same_key_in_its_partition_only() {
        let embedding = |first: f32| v1::Embedding { components: vec![first, 2.0], ..Default::default() };
        let as_bytes = [1.0f32, 2.0].iter().flat_map(|component| component.to_le_bytes()).collect::<Vec<_>>();
        let same = v1::Embedding { vector: as_bytes.into(), ..Default::default() };
        assert_eq!(key_of("p", &embedding(1.0)), key_of("p", &same));
        assert_ne!(key_of("p", &embedding(1.0)), key_of("q", &embedding(1.0)));
        assert_ne!(key_of("p", &embedding(1.0)), key_of("p", &embedding(3.0)));
        assert_eq!(key_of("p", &embedding(1.0)).len(), 32);
    }

    #[test]
    fn the_same_key_in_two_partitions_is_two() {
        assert_ne!(key_in("p", b"k"), key_in("q", b"k"));
        assert_eq!(key_in("p", b"k"), key_in("p", b"k"));
        assert!(key_in("p", b"k").ends_with(b"/k"));
        assert_eq!(key_in("", b"").len(), 33);
    }
}
