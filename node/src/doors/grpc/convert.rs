//! Protobuf into our own types and back: the one place where the two meet, and where input is checked once.

use std::collections::HashMap;

use bytes::Bytes;
pub use loci_index::attributes::path_text;
use loci_index::attributes::{self, Attributes, MapRef, Value, ValueRef};
use loci_index::command::{
    Codes, Content, Durability, EmbeddingSpec, Expect, IndexKind, IndexSpec, Language, ORIGIN_BYTES_MAX, Origin,
    Policy, REQUEST_ID_BYTES_MAX, Schema, SparseSpec, Storage, TextSpec,
};
use loci_index::distance::Metric;
use loci_index::filter::{Filter, Limit, Path, Range};
use loci_index::record::{
    ATTRIBUTES_DEPTH_MAX, DIMENSION_MAX, EMBEDDINGS_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX, VALUE_BYTES_MAX,
};
use loci_index::sparse::SparseVector;
use loci_index::store;
use loci_index::view::RecordRef;
use loci_wire::v1;

use super::status::Failure;

/// The namespace of those who name none.
pub const NAMESPACE_DEFAULT: &str = "default";
/// The principal of those who name none.
pub const PRINCIPAL_DEFAULT: &str = "anonymous";

/// Namespace and collection as a request names them.
pub fn collection_name(name: Option<v1::CollectionName>, namespace_default: &str) -> Result<(String, String), Failure> {
    let name = name.unwrap_or_default();
    let namespace = match name.namespace.as_str() {
        "" => namespace_default.to_owned(),
        _ => name.namespace,
    };
    check_name("namespace", &namespace)?;
    check_name("collection", &name.collection)?;
    Ok((namespace, name.collection))
}

/// The namespace as a request names it.
pub fn namespace_name(name: String) -> Result<String, Failure> {
    let name = if name.is_empty() { NAMESPACE_DEFAULT.to_owned() } else { name };
    check_name("namespace", &name)?;
    Ok(name)
}

fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    store::check_name(name).map_err(|_| {
        let shown: String = name.chars().take(40).collect();
        Failure::invalid(
            "invalid_name",
            format!(
                "{what} name {shown:?} must be 1 to {NAME_BYTES_MAX} letters, digits, '_', '-' or '.', and begin with a letter, a \
                 digit or '_'"
            ),
        )
    })
}

/// Who sends a write and why.
pub fn origin(origin: Option<v1::Origin>) -> Result<Origin, Failure> {
    let origin = origin.unwrap_or_default();
    if origin.request_id.len() > REQUEST_ID_BYTES_MAX {
        return Err(Failure::invalid(
            "invalid_origin",
            format!("request id has {} bytes, more than {REQUEST_ID_BYTES_MAX}", origin.request_id.len()),
        ));
    }
    for (what, text) in [("principal", &origin.principal), ("task", &origin.task), ("trace", &origin.trace)] {
        if text.len() > ORIGIN_BYTES_MAX {
            return Err(Failure::invalid(
                "invalid_origin",
                format!("{what} has {} bytes, more than {ORIGIN_BYTES_MAX}", text.len()),
            ));
        }
    }
    let principal = if origin.principal.is_empty() { PRINCIPAL_DEFAULT.to_owned() } else { origin.principal };
    Ok(Origin { principal, task: origin.task, trace: origin.trace, request_id: origin.request_id.into() })
}

/// The rules of a collection to be made.
pub fn schema(schema: Option<v1::Schema>) -> Result<Schema, Failure> {
    let schema = schema.unwrap_or_default();
    if schema.embeddings.len() > EMBEDDINGS_MAX {
        return Err(Failure::invalid(
            "too_many_embeddings",
            format!("a collection has at most {EMBEDDINGS_MAX} embeddings, not {}", schema.embeddings.len()),
        ));
    }
    let alone = schema.embeddings.len() == 1;
    let mut embeddings: Vec<EmbeddingSpec> = Vec::new();
    for embedding in schema.embeddings {
        let name = embedding.name;
        if !(name.is_empty() && alone) {
            check_name("embedding", &name)?;
        }
        if embeddings.iter().any(|other| other.name == name) {
            return Err(Failure::invalid("duplicate_embedding", format!("embedding {name:?} is named twice")));
        }
        if embedding.dimension == 0 || embedding.dimension as usize > DIMENSION_MAX {
            return Err(Failure::invalid(
                "invalid_dimension",
                format!("embedding {name:?} has dimension {}; it must be 1 to {DIMENSION_MAX}", embedding.dimension),
            ));
        }
        let metric = match v1::Metric::try_from(embedding.metric) {
            Ok(v1::Metric::Cosine) => Metric::Cosine,
            Ok(v1::Metric::Dot) => Metric::Dot,
            Ok(v1::Metric::SquaredL2) => Metric::SquaredL2,
            Ok(v1::Metric::Unspecified) | Err(_) => {
                return Err(Failure::invalid(
                    "invalid_metric",
                    format!("embedding {name:?} needs a metric: cosine, dot or squared L2"),
                ));
            }
        };
        let storage = match v1::Storage::try_from(embedding.storage) {
            Ok(v1::Storage::Unspecified | v1::Storage::F32) => Storage::F32,
            Ok(v1::Storage::F16) => Storage::F16,
            Err(_) => {
                let message = format!("embedding {name:?} has a storage that is not known; choose f32 or f16");
                return Err(Failure::invalid("invalid_storage", message));
            }
        };
        let codes = match v1::Codes::try_from(embedding.codes) {
            Ok(v1::Codes::Unspecified | v1::Codes::Int8) => Codes::Int8,
            Ok(v1::Codes::None) => Codes::None,
            Err(_) => {
                let message = format!("embedding {name:?} has codes that are not known; choose int8 or none");
                return Err(Failure::invalid("invalid_codes", message));
            }
        };
        embeddings.push(EmbeddingSpec {
            storage,
            codes,
            ..EmbeddingSpec::new(name, embedding.dimension, metric.code())
        });
    }
    let texts = schema.texts.into_iter().map(|text| {
        let language = match v1::Language::try_from(text.language) {
            Ok(v1::Language::Unspecified | v1::Language::Plain) => Language::Plain,
            Ok(v1::Language::English) => Language::English,
            Err(_) => {
                let message = format!("text {:?} has a language that is not known: {}", text.path, text.language);
                return Err(Failure::invalid("invalid_language", message));
            }
        };
        Ok(TextSpec { path: path(&text.path)?, language })
    });
    let schema = Schema {
        embeddings,
        durability: durability(schema.durability)?.unwrap_or_default(),
        retention_millis: schema.retention_millis,
        eviction_bytes: schema.eviction_bytes,
        eviction_policy: eviction_policy(schema.eviction_policy)?,
        indexes: indexes(schema.indexes)?,
        sparse: schema.sparse.into_iter().map(|sparse| SparseSpec { name: sparse.name }).collect(),
        texts: texts.collect::<Result<_, _>>()?,
    };
    store::check_schema(&schema).map_err(|error| Failure::invalid("invalid_schema", error.to_string()))?;
    Ok(schema)
}

/// The indexes of a collection to be made or changed.
pub fn indexes(indexes: Vec<v1::IndexSpec>) -> Result<Vec<IndexSpec>, Failure> {
    let index = |index: v1::IndexSpec| {
        let kind = match v1::IndexKind::try_from(index.kind) {
            Ok(v1::IndexKind::Unspecified | v1::IndexKind::Value) => IndexKind::Value,
            Ok(v1::IndexKind::Substring) => IndexKind::Substring,
            Err(_) => {
                let message = format!("index {:?} is of kind {}, which is not known", index.path, index.kind);
                return Err(Failure::invalid("invalid_schema", message));
            }
        };
        let path = path(&index.path).map_err(|failure| Failure::invalid("invalid_schema", failure.message))?;
        Ok(IndexSpec { path, kind })
    };
    indexes.into_iter().map(index).collect()
}

/// A durability class; `None` if unspecified.
pub fn durability(durability: i32) -> Result<Option<Durability>, Failure> {
    match v1::Durability::try_from(durability) {
        Ok(v1::Durability::Unspecified) => Ok(None),
        Ok(v1::Durability::Synced) => Ok(Some(Durability::Synced)),
        Ok(v1::Durability::Buffered) => Ok(Some(Durability::Buffered)),
        Err(_) => Err(Failure::invalid("invalid_durability", format!("durability {durability} is not known"))),
    }
}

/// What a policy is called on the way.
const POLICIES: [(Policy, v1::EvictionPolicy); 9] = [
    (Policy::S3Fifo, v1::EvictionPolicy::S3Fifo),
    (Policy::Lru, v1::EvictionPolicy::Lru),
    (Policy::Lfu, v1::EvictionPolicy::Lfu),
    (Policy::Random, v1::EvictionPolicy::Random),
    (Policy::VolatileLru, v1::EvictionPolicy::VolatileLru),
    (Policy::VolatileLfu, v1::EvictionPolicy::VolatileLfu),
    (Policy::VolatileRandom, v1::EvictionPolicy::VolatileRandom),
    (Policy::VolatileTtl, v1::EvictionPolicy::VolatileTtl),
    (Policy::None, v1::EvictionPolicy::None),
];

/// A policy; `None` if unspecified: as the node is told.
pub fn eviction_policy(policy: i32) -> Result<Option<Policy>, Failure> {
    let known = POLICIES.iter().find(|(_, known)| *known as i32 == policy).map(|(policy, _)| *policy);
    if known.is_none() && policy != v1::EvictionPolicy::Unspecified as i32 {
        return Err(Failure::invalid("invalid_policy", format!("eviction policy {policy} is not known")));
    }
    Ok(known)
}

fn policy_reply(policy: Policy) -> v1::EvictionPolicy {
    let known = POLICIES.iter().find(|(known, _)| *known == policy);
    known.map_or(v1::EvictionPolicy::Unspecified, |(_, reply)| *reply)
}

/// A collection's rules, for a reply.
pub fn schema_reply(schema: &Schema) -> v1::Schema {
    let embeddings = schema.embeddings.iter().map(|embedding| v1::EmbeddingSpec {
        name: embedding.name.clone(),
        dimension: embedding.dimension,
        metric: match Metric::from_code(embedding.metric) {
            Some(Metric::Cosine) => v1::Metric::Cosine,
            Some(Metric::Dot) => v1::Metric::Dot,
            Some(Metric::SquaredL2) => v1::Metric::SquaredL2,
            None => v1::Metric::Unspecified,
        } as i32,
        storage: match embedding.storage {
            Storage::F32 => v1::Storage::F32,
            Storage::F16 => v1::Storage::F16,
        } as i32,
        codes: match embedding.codes {
            Codes::Int8 => v1::Codes::Int8,
            Codes::None => v1::Codes::None,
        } as i32,
    });
    let texts = schema.texts.iter().map(|text| v1::TextSpec {
        path: path_text(&text.path),
        language: match text.language {
            Language::Plain => v1::Language::Plain,
            Language::English => v1::Language::English,
        } as i32,
    });
    v1::Schema {
        embeddings: embeddings.collect(),
        durability: match schema.durability {
            Durability::Synced => v1::Durability::Synced,
            Durability::Buffered => v1::Durability::Buffered,
        } as i32,
        retention_millis: schema.retention_millis,
        eviction_bytes: schema.eviction_bytes,
        eviction_policy: schema.eviction_policy.map_or(v1::EvictionPolicy::Unspecified, policy_reply) as i32,
        indexes: schema.indexes.iter().map(index_reply).collect(),
        sparse: schema.sparse.iter().map(|sparse| v1::SparseSpec { name: sparse.name.clone() }).collect(),
        texts: texts.collect(),
    }
}

fn index_reply(index: &IndexSpec) -> v1::IndexSpec {
    let kind = match index.kind {
        IndexKind::Value => v1::IndexKind::Value,
        IndexKind::Substring => v1::IndexKind::Substring,
    };
    v1::IndexSpec { path: attributes::path_text(&index.path), kind: kind as i32 }
}

/// A record's key.
pub fn key(key: Bytes, number: usize) -> Result<Vec<u8>, Failure> {
    match key.len() {
        0 => Err(Failure::invalid("invalid_key", format!("key number {number} is empty")).number(number)),
        len if len > KEY_BYTES_MAX => {
            let message = format!("key number {number} has {len} bytes, more than {KEY_BYTES_MAX}");
            Err(Failure::invalid("invalid_key", message).number(number))
        }
        _ => Ok(key.into()),
    }
}

/// What must hold of a record.
pub fn expect(condition: &v1::Condition, number: usize) -> Result<Expect, Failure> {
    use v1::condition::Expect as Wire;
    match condition.expect {
        Some(Wire::Absent(_)) => Ok(Expect::Absent),
        Some(Wire::Present(_)) => Ok(Expect::Present),
        Some(Wire::Version(version)) => Ok(Expect::Version(version)),
        Some(Wire::Lease(number)) => Ok(Expect::Lease(number)),
        Some(Wire::ValueVersion(version)) => Ok(Expect::Value(version)),
        None => {
            let message =
                format!("condition {number} expects nothing; set absent, present, version, lease or value_version");
            Err(Failure::invalid("invalid_condition", message).number(number))
        }
    }
}

/// A record as it is to be written: its key, and the rest.
///
/// `now` is only for refusing a deadline that has passed.
pub fn record(record: v1::Record, schema: &Schema, number: usize, now: u64) -> Result<(Vec<u8>, Content), Failure> {
    let key = key(record.key, number)?;
    let named = |failure: Failure| {
        let message = format!("record {number} (key {:?}): {}", String::from_utf8_lossy(&key), failure.message);
        Failure { message, ..failure }.number(number)
    };
    let content = || -> Result<Content, Failure> {
        if let Some(value) = &record.value
            && value.len() > VALUE_BYTES_MAX
        {
            let message = format!("the value has {} bytes, more than {VALUE_BYTES_MAX}", value.len());
            return Err(Failure::invalid("value_too_large", message));
        }
        if record.deadline_millis != 0 && record.ttl_millis != 0 {
            return Err(Failure::invalid("invalid_deadline", "set a deadline or a ttl, not both"));
        }
        if record.deadline_millis != 0 && record.deadline_millis <= now {
            let message = format!("the deadline {} has passed; it is {now} now", record.deadline_millis);
            return Err(Failure::invalid("deadline_passed", message));
        }
        let attributes = own_attributes(record.attributes)?;
        let attributes = attributes::encode(&attributes)
            .map_err(|error| Failure::invalid("invalid_attributes", error.to_string()))?;
        let mut embeddings: Vec<(u16, Vec<f32>)> = Vec::with_capacity(record.embeddings.len());
        for embedding in record.embeddings {
            let field = field(schema, &embedding.name)?;
            if embeddings.iter().any(|&(other, _)| other == field) {
                let message = format!("embedding {:?} is given twice", embedding.name);
                return Err(Failure::invalid("duplicate_embedding", message));
            }
            let mut components = components(embedding, schema, field)?;
            round(&mut components, schema, field)?;
            embeddings.push((field, components));
        }
        embeddings.sort_by_key(|&(field, _)| field);
        let mut sparse: Vec<(u16, Vec<(u32, f32)>)> = Vec::with_capacity(record.sparse.len());
        for given in record.sparse {
            let field = sparse_field(schema, &given.name)?;
            if sparse.iter().any(|&(other, _)| other == field) {
                let message = format!("sparse embedding {:?} is given twice", given.name);
                return Err(Failure::invalid("duplicate_embedding", message));
            }
            sparse.push((field, sparse_vector(given)?.into_weights()));
        }
        sparse.sort_by_key(|&(field, _)| field);
        Ok(Content {
            value: record.value.map(Into::into),
            attributes,
            embeddings,
            deadline: record.deadline_millis,
            ttl: record.ttl_millis,
            sparse,
        })
    };
    let content = content().map_err(named)?;
    Ok((key, content))
}

/// The number of the embedding of that name; the empty name stands for the only one.
pub fn field(schema: &Schema, name: &str) -> Result<u16, Failure> {
    let place = match schema.embeddings.as_slice() {
        [_] if name.is_empty() => Some(0),
        embeddings => embeddings.iter().position(|embedding| embedding.name == name),
    };
    let known = || schema.embeddings.iter().map(|embedding| embedding.name.as_str()).collect::<Vec<_>>().join(", ");
    place.and_then(|place| u16::try_from(place).ok()).ok_or_else(|| {
        let message = match schema.embeddings.len() {
            0 => "the collection has no embeddings".to_owned(),
            _ => format!("the collection has no embedding {name:?}; it has: {}", known()),
        };
        Failure::invalid("unknown_embedding", message)
    })
}

/// The number of the sparse embedding of that name; the empty name stands for the only one.
pub fn sparse_field(schema: &Schema, name: &str) -> Result<u16, Failure> {
    let place = match schema.sparse.as_slice() {
        [_] if name.is_empty() => Some(0),
        sparse => sparse.iter().position(|sparse| sparse.name == name),
    };
    place.and_then(|place| u16::try_from(place).ok()).ok_or_else(|| {
        let known = schema.sparse.iter().map(|sparse| sparse.name.as_str()).collect::<Vec<_>>().join(", ");
        let message = match schema.sparse.len() {
            0 => "the collection has no sparse embeddings".to_owned(),
            _ => format!("the collection has no sparse embedding {name:?}; it has: {known}"),
        };
        Failure::invalid("unknown_embedding", message)
    })
}

/// A sparse embedding, checked.
pub fn sparse_vector(sparse: v1::SparseEmbedding) -> Result<SparseVector, Failure> {
    let (dimensions, weights) = (sparse.dimensions.len(), sparse.weights.len());
    if dimensions != weights {
        let message =
            format!("a sparse embedding has {dimensions} dimensions but {weights} weights; give one for each");
        return Err(Failure::invalid("invalid_embedding", message));
    }
    SparseVector::new(sparse.dimensions.into_iter().zip(sparse.weights).collect())
        .map_err(|error| Failure::invalid("invalid_embedding", error.to_string()))
}

/// The components of an embedding, checked and made ready for the field's metric.
pub fn components(embedding: v1::Embedding, schema: &Schema, field: u16) -> Result<Vec<f32>, Failure> {
    let Some((spec, metric)) =
        schema.embeddings.get(usize::from(field)).and_then(|spec| Some((spec, Metric::from_code(spec.metric)?)))
    else {
        return Err(Failure::invalid("unknown_embedding", format!("the collection has no embedding number {field}")));
    };
    let mut components = match (embedding.vector.len(), embedding.components.len()) {
        (0, _) => embedding.components,
        (_, 0) if embedding.vector.len().is_multiple_of(4) => embedding
            .vector
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks of four bytes")))
            .collect(),
        (bytes, 0) => {
            let message = format!("the vector has {bytes} bytes, which is not a number of 4-byte floats");
            return Err(Failure::invalid("invalid_embedding", message));
        }
        _ => return Err(Failure::invalid("invalid_embedding", "set vector or components, not both")),
    };
    if components.len() != spec.dimension as usize {
        let message = format!(
            "embedding {:?} has dimension {}, but {} components were given",
            spec.name,
            spec.dimension,
            components.len()
        );
        return Err(Failure::invalid("wrong_dimension", message));
    }
    metric.prepare(&mut components).map_err(|error| Failure::invalid("invalid_embedding", error.to_string()))?;
    Ok(components)
}

/// Rounds the components of a record's embedding to what the collection keeps of them.
fn round(components: &mut [f32], schema: &Schema, field: u16) -> Result<(), Failure> {
    let halved = schema.embeddings.get(usize::from(field)).is_some_and(|spec| spec.storage == Storage::F16);
    if !halved {
        return Ok(());
    }
    for (place, component) in components.iter_mut().enumerate() {
        let rounded = half::f16::from_f32(*component);
        if rounded.is_infinite() {
            let message = format!("component {place} is {component}, which f16 cannot keep: its greatest is 65504");
            return Err(Failure::invalid("invalid_embedding", message));
        }
        *component = rounded.to_f32();
    }
    Ok(())
}

/// Attributes as they are stored.
pub fn own_attributes(map: HashMap<String, v1::Value>) -> Result<Attributes, Failure> {
    map.into_iter().map(|(name, value)| Ok((name, own_value(value, 1)?))).collect()
}

/// A value of a record or a filter.
fn own_value(value: v1::Value, depth: usize) -> Result<Value, Failure> {
    use v1::value::Kind;
    if depth > ATTRIBUTES_DEPTH_MAX {
        return Err(Failure::invalid(
            "invalid_attributes",
            format!("values nest deeper than {ATTRIBUTES_DEPTH_MAX} levels"),
        ));
    }
    Ok(match value.kind {
        None | Some(Kind::Null(_)) => Value::Null,
        Some(Kind::Bool(bool)) => Value::Bool(bool),
        Some(Kind::Int(int)) => Value::Int(int),
        Some(Kind::Float(float)) => Value::Float(float),
        Some(Kind::String(text)) => Value::String(text),
        Some(Kind::TimestampMicros(micros)) => Value::Timestamp(micros),
        Some(Kind::List(list)) => {
            Value::List(list.values.into_iter().map(|value| own_value(value, depth + 1)).collect::<Result<_, _>>()?)
        }
        Some(Kind::Map(map)) => {
            let named = map.values.into_iter().map(|(name, value)| Ok((name, own_value(value, depth + 1)?)));
            Value::Map(named.collect::<Result<_, Failure>>()?)
        }
    })
}

/// A value for a reply.
pub fn value_reply(value: ValueRef<'_>) -> v1::Value {
    use v1::value::Kind;
    v1::Value {
        kind: Some(match value {
            ValueRef::Null => Kind::Null(true),
            ValueRef::Bool(bool) => Kind::Bool(bool),
            ValueRef::Int(int) => Kind::Int(int),
            ValueRef::Float(float) => Kind::Float(float),
            ValueRef::String(text) => Kind::String(text.into()),
            ValueRef::Timestamp(micros) => Kind::TimestampMicros(micros),
            ValueRef::List(list) => Kind::List(v1::ListValue { values: list.iter().map(value_reply).collect() }),
            ValueRef::Map(map) => Kind::Map(v1::MapValue { values: map_reply(map) }),
        }),
    }
}

fn map_reply(map: MapRef<'_>) -> HashMap<String, v1::Value> {
    map.iter().map(|(name, value)| (name.into(), value_reply(value))).collect()
}

/// Which parts of a record a reply has.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// The value.
    pub value: bool,
    /// The attributes.
    pub attributes: bool,
    /// The embeddings.
    pub embeddings: bool,
}

impl From<Option<v1::Parts>> for Parts {
    fn from(parts: Option<v1::Parts>) -> Parts {
        match parts {
            None => Parts { value: true, attributes: true, embeddings: false },
            Some(v1::Parts { value, attributes, embeddings }) => Parts { value, attributes, embeddings },
        }
    }
}

/// A record for a reply.
pub fn record_reply(record: RecordRef<'_>, schema: &Schema, parts: Parts) -> v1::Record {
    let value = if parts.value { record.value().map(Bytes::copy_from_slice) } else { None };
    // Decoding them is most of what a reply costs.
    let attributes = if parts.attributes { attributes::map(record.attributes()) } else { None };
    let attributes = attributes.map_or_else(HashMap::new, map_reply);
    let (mut embeddings, mut sparse) = (Vec::new(), Vec::new());
    if parts.embeddings {
        for (field, spec) in (0..).zip(&schema.embeddings) {
            if let Some(components) = record.embedding(field) {
                let mut vector = Vec::with_capacity(components.len() * 4);
                components.iter().for_each(|component| vector.extend_from_slice(&component.to_le_bytes()));
                embeddings.push(v1::Embedding { name: spec.name.clone(), vector: vector.into(), components: vec![] });
            }
        }
        for (field, spec) in (0..).zip(&schema.sparse) {
            if let Some(bytes) = record.sparse(field) {
                let (dimensions, weights) = loci_index::sparse::decode(bytes).unzip();
                sparse.push(v1::SparseEmbedding { name: spec.name.clone(), dimensions, weights });
            }
        }
    }
    v1::Record {
        key: Bytes::copy_from_slice(record.key()),
        value,
        attributes,
        embeddings,
        deadline_millis: record.deadline(),
        ttl_millis: 0,
        version: record.version(),
        sparse,
    }
}

/// A filter, within its limits. `None`: every record.
pub fn filter(filter: Option<v1::Filter>) -> Result<Option<Filter>, Failure> {
    let Some(filter) = filter else { return Ok(None) };
    let filter = own_filter(filter)?;
    filter.check().map_err(|error| Failure::invalid("invalid_filter", error.to_string()))?;
    Ok(Some(filter))
}

/// Not deeper than protobuf messages may nest, which the decoder has checked.
fn own_filter(filter: v1::Filter) -> Result<Filter, Failure> {
    use v1::filter::Expression;
    let all = |filters: v1::Filters| filters.filters.into_iter().map(own_filter).collect::<Result<Vec<_>, _>>();
    let Some(expression) = filter.expression else {
        return Err(Failure::invalid(
            "invalid_filter",
            "the filter (or a part of it) has no expression; leave it out or set one",
        ));
    };
    Ok(match expression {
        Expression::And(filters) => Filter::And(all(filters)?),
        Expression::Or(filters) => Filter::Or(all(filters)?),
        Expression::Not(filter) => Filter::Not(Box::new(own_filter(*filter)?)),
        Expression::IsTrue(filter) => Filter::IsTrue(Box::new(own_filter(*filter)?)),
        Expression::Equal(equal) => Filter::Equal(path(&equal.path)?, operand(equal.value, &equal.path)?),
        Expression::NotEqual(equal) => {
            Filter::Not(Box::new(Filter::Equal(path(&equal.path)?, operand(equal.value, &equal.path)?)))
        }
        Expression::In(list) => {
            let values = list.values.into_iter().map(|value| operand(Some(value), &list.path));
            Filter::In(path(&list.path)?, values.collect::<Result<_, _>>()?)
        }
        Expression::Range(range) => own_range(range)?,
        Expression::Exists(at) => Filter::Exists(path(&at)?),
        Expression::IsNull(at) => Filter::IsNull(path(&at)?),
        Expression::Prefix(text) => Filter::Prefix(path(&text.path)?, text.text),
        Expression::HasElement(element) => {
            Filter::HasElement(path(&element.path)?, operand(element.value, &element.path)?)
        }
        Expression::HasText(text) => Filter::HasText(path(&text.path)?, text.text),
        Expression::Constant(known) => Filter::Constant(known),
    })
}

fn own_range(range: v1::RangeOf) -> Result<Filter, Failure> {
    let end = |inclusive: Option<v1::Value>, exclusive: Option<v1::Value>, which: &str| match (inclusive, exclusive) {
        (None, None) => Ok(None),
        (Some(value), None) => Ok(Some(Limit { value: operand(Some(value), &range.path)?, inclusive: true })),
        (None, Some(value)) => Ok(Some(Limit { value: operand(Some(value), &range.path)?, inclusive: false })),
        (Some(_), Some(_)) => {
            let message = format!("the range of {:?} has two {which} ends; set one", range.path);
            Err(Failure::invalid("invalid_filter", message))
        }
    };
    let low = end(range.at_least, range.above, "low")?;
    let high = end(range.at_most, range.below, "high")?;
    Ok(Filter::Range(path(&range.path)?, Range { low, high }))
}

fn operand(value: Option<v1::Value>, path: &str) -> Result<Value, Failure> {
    match own_value(value.unwrap_or_default(), 1)? {
        Value::Null => {
            let message = format!("nothing is equal to null; to ask whether {path:?} is null, use is_null");
            Err(Failure::invalid("invalid_filter", message))
        }
        Value::Float(float) if float.is_nan() => {
            Err(Failure::invalid("invalid_filter", format!("{path:?} is compared with NaN, which nothing is equal to")))
        }
        value => Ok(value),
    }
}

/// Names joined by dots; a backslash makes the next character part of the name.
pub fn path(text: &str) -> Result<Path, Failure> {
    let mut names = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, names.last_mut()) {
            ('.', _) => names.push(String::new()),
            ('\\', Some(name)) => match characters.next() {
                Some(escaped) => name.push(escaped),
                None => return Err(Failure::invalid("invalid_filter", format!("path {text:?} ends in a backslash"))),
            },
            (_, Some(name)) => name.push(character),
            (_, None) => {}
        }
    }
    if names.len() > ATTRIBUTES_DEPTH_MAX {
        let message = format!("path {text:?} is longer than {ATTRIBUTES_DEPTH_MAX} names");
        return Err(Failure::invalid("invalid_filter", message));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_dots_that_are_not_escaped() {
        assert_eq!(path("a.b").unwrap(), ["a", "b"]);
        assert_eq!(path(r"a\.b.c\\").unwrap(), ["a.b", r"c\"]);
        assert!(path(r"a\").is_err());
        assert_eq!(path("").unwrap(), [""]);
    }

    #[test]
    fn names_are_plain() {
        for name in ["a", "A-1_b.c", &"x".repeat(NAME_BYTES_MAX)] {
            assert!(check_name("collection", name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a/b", "-a", ".a", "\u{e9}", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name("collection", name).is_err(), "{name}");
        }
    }
}
