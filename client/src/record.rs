//! Records and the values of their attributes, as a program holds them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use loci_wire::v1;

use crate::Error;

/// What users store: a key, and whatever of value, attributes, embeddings and deadline it needs.
///
/// ```
/// use std::time::Duration;
/// use loci_client::Record;
///
/// let record = Record::new("note-17")
///     .with_value("the harbour is closed on Sundays")
///     .with_attribute("source", "harbour office")
///     .with_attribute("year", 2024)
///     .with_embedding([0.1, 0.2, 0.3])
///     .expires_in(Duration::from_secs(3600));
/// assert_eq!(record.text(), Some("the harbour is closed on Sundays"));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// 1 to 4,096 bytes.
    pub key: Bytes,
    /// Absent and empty are different.
    pub value: Option<Bytes>,
    /// To filter by.
    pub attributes: BTreeMap<String, Value>,
    /// By the names that the collection gives them; the name may be empty if it has just one.
    pub embeddings: Vec<Embedding>,
    /// Sparse embeddings, by their names in the same way.
    pub sparse: Vec<SparseEmbedding>,
    /// When it stops existing.
    pub deadline: Option<Deadline>,
    /// Which write made it. Set by the node, ignored on writes.
    pub version: u64,
}

/// One embedding of a record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedding {
    /// Which embedding of the collection; may be empty if it has just one.
    pub name: String,
    /// Its components.
    pub vector: Vec<f32>,
}

/// One sparse embedding of a record: dimensions with their weights; any other dimension weighs nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SparseEmbedding {
    /// Which sparse embedding of the collection; may be empty if it has just one.
    pub name: String,
    /// At most 10,000, each dimension once. What is read is ascending.
    pub weights: Vec<(u32, f32)>,
}

/// When a record stops existing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// At this time. What is read always has this form.
    At(SystemTime),
    /// So long from when the write is ordered, by the node's clock. Whole milliseconds, at least one.
    After(Duration),
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Present, and nothing.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number; not NaN.
    Float(f64),
    /// Text.
    String(String),
    /// Microseconds since 1970-01-01 UTC.
    Timestamp(i64),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
}

/// Which parts of a record a read returns, beside key and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The value.
    pub value: bool,
    /// The attributes.
    pub attributes: bool,
    /// The embeddings.
    pub embeddings: bool,
}

impl Parts {
    /// Only key and version.
    pub const NONE: Parts = Parts { value: false, attributes: false, embeddings: false };
    /// Everything.
    pub const ALL: Parts = Parts { value: true, attributes: true, embeddings: true };
}

impl Default for Parts {
    /// Value and attributes.
    fn default() -> Parts {
        Parts { embeddings: false, ..Parts::ALL }
    }
}

impl Record {
    /// A record that is only a key.
    pub fn new(key: impl Into<Bytes>) -> Record {
        Record { key: key.into(), ..Record::default() }
    }

    /// With this value.
    pub fn with_value(mut self, value: impl Into<Bytes>) -> Record {
        self.value = Some(value.into());
        self
    }

    /// With this attribute, in place of one of the same name.
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<Value>) -> Record {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// With an embedding for a collection that has just one.
    pub fn with_embedding(self, vector: impl Into<Vec<f32>>) -> Record {
        self.with_named_embedding("", vector)
    }

    /// With this embedding.
    pub fn with_named_embedding(mut self, name: impl Into<String>, vector: impl Into<Vec<f32>>) -> Record {
        self.embeddings.push(Embedding { name: name.into(), vector: vector.into() });
        self
    }

    /// With this sparse embedding; its name may be empty if the collection has just one.
    pub fn with_sparse(mut self, name: impl Into<String>, weights: impl IntoIterator<Item = (u32, f32)>) -> Record {
        self.sparse.push(SparseEmbedding { name: name.into(), weights: weights.into_iter().collect() });
        self
    }

    /// That stops existing so long after it is written.
    pub fn expires_in(mut self, after: Duration) -> Record {
        self.deadline = Some(Deadline::After(after));
        self
    }

    /// That stops existing at this time.
    pub fn expires_at(mut self, time: SystemTime) -> Record {
        self.deadline = Some(Deadline::At(time));
        self
    }

    /// The value, if it is text.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.value.as_deref()?).ok()
    }

    /// The attribute at the top level with this name.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        self.attributes.get(name)
    }

    /// The embedding of this name; any, if the name is empty and there is just one.
    pub fn embedding(&self, name: &str) -> Option<&[f32]> {
        let named = self.embeddings.iter().find(|found| found.name == name);
        match (named, self.embeddings.as_slice()) {
            (Some(found), _) => Some(&found.vector),
            (None, [only]) if name.is_empty() => Some(&only.vector),
            _ => None,
        }
    }

    /// About how many bytes it takes in memory and on the wire.
    pub fn bytes_estimate(&self) -> usize {
        let attributes: usize = self.attributes.iter().map(|(name, value)| name.len() + value.bytes_estimate()).sum();
        let embeddings: usize =
            self.embeddings.iter().map(|embedding| embedding.name.len() + 4 * embedding.vector.len() + 8).sum();
        self.key.len() + self.value.as_ref().map_or(0, |value| value.len()) + attributes + embeddings + 16
    }
}

impl Value {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    fn bytes_estimate(&self) -> usize {
        8 + match self {
            Value::String(text) => text.len(),
            Value::List(values) => values.iter().map(Value::bytes_estimate).sum(),
            Value::Map(values) => values.iter().map(|(name, value)| name.len() + value.bytes_estimate()).sum(),
            _ => 0,
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Value {
                Value::$variant(value.into())
            }
        }
    )*};
}

value_from! {
    bool => Bool, i8 => Int, i16 => Int, i32 => Int, i64 => Int, u8 => Int, u16 => Int, u32 => Int, f32 => Float,
    f64 => Float, &str => String, String => String, BTreeMap<String, Value> => Map,
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Value {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>, const N: usize> From<[T; N]> for Value {
    fn from(values: [T; N]) -> Value {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl From<SystemTime> for Value {
    /// To the microsecond. Times that an i64 cannot count become the nearest it can.
    fn from(time: SystemTime) -> Value {
        Value::Timestamp(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        })
    }
}

impl From<Value> for v1::Value {
    fn from(value: Value) -> v1::Value {
        use v1::value::Kind;
        let kind = match value {
            Value::Null => Kind::Null(true),
            Value::Bool(value) => Kind::Bool(value),
            Value::Int(value) => Kind::Int(value),
            Value::Float(value) => Kind::Float(value),
            Value::String(value) => Kind::String(value),
            Value::Timestamp(micros) => Kind::TimestampMicros(micros),
            Value::List(values) => Kind::List(v1::ListValue { values: values.into_iter().map(Into::into).collect() }),
            Value::Map(values) => Kind::Map(v1::MapValue { values: attributes_to_wire(values) }),
        };
        v1::Value { kind: Some(kind) }
    }
}

impl From<v1::Value> for Value {
    fn from(value: v1::Value) -> Value {
        use v1::value::Kind;
        match value.kind {
            None | Some(Kind::Null(_)) => Value::Null,
            Some(Kind::Bool(value)) => Value::Bool(value),
            Some(Kind::Int(value)) => Value::Int(value),
            Some(Kind::Float(value)) => Value::Float(value),
            Some(Kind::String(value)) => Value::String(value),
            Some(Kind::TimestampMicros(micros)) => Value::Timestamp(micros),
            Some(Kind::List(list)) => Value::List(list.values.into_iter().map(Into::into).collect()),
            Some(Kind::Map(map)) => Value::Map(attributes_from_wire(map.values)),
        }
    }
}

fn attributes_to_wire(values: BTreeMap<String, Value>) -> HashMap<String, v1::Value> {
    values.into_iter().map(|(name, value)| (name, value.into())).collect()
}

fn attributes_from_wire(values: HashMap<String, v1::Value>) -> BTreeMap<String, Value> {
    values.into_iter().map(|(name, value)| (name, value.into())).collect()
}

impl From<Parts> for v1::Parts {
    fn from(parts: Parts) -> v1::Parts {
        v1::Parts { value: parts.value, attributes: parts.attributes, embeddings: parts.embeddings }
    }
}

/// The form of an embedding that is cheap on the wire.
pub(crate) fn vector_bytes(vector: &[f32]) -> Bytes {
    let mut bytes = Vec::with_capacity(4 * vector.len());
    for component in vector {
        bytes.extend_from_slice(&component.to_le_bytes());
    }
    bytes.into()
}

impl From<Embedding> for v1::Embedding {
    fn from(embedding: Embedding) -> v1::Embedding {
        v1::Embedding { name: embedding.name, vector: vector_bytes(&embedding.vector), components: Vec::new() }
    }
}

impl From<v1::Embedding> for Embedding {
    fn from(embedding: v1::Embedding) -> Embedding {
        let vector = if embedding.components.is_empty() {
            let (quads, _) = embedding.vector.as_chunks::<4>();
            quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect()
        } else {
            embedding.components
        };
        Embedding { name: embedding.name, vector }
    }
}

/// A sparse embedding as the wire has it.
pub(crate) fn sparse_to_wire(name: String, weights: impl IntoIterator<Item = (u32, f32)>) -> v1::SparseEmbedding {
    let (dimensions, weights) = weights.into_iter().unzip();
    v1::SparseEmbedding { name, dimensions, weights }
}

impl From<v1::SparseEmbedding> for SparseEmbedding {
    fn from(sparse: v1::SparseEmbedding) -> SparseEmbedding {
        let weights = sparse.dimensions.into_iter().zip(sparse.weights).collect();
        SparseEmbedding { name: sparse.name, weights }
    }
}

impl From<Record> for v1::Record {
    fn from(record: Record) -> v1::Record {
        let (deadline_millis, ttl_millis) = match record.deadline {
            None => (0, 0),
            // The node refuses a deadline in the past; one before 1970 must not become "never".
            Some(Deadline::At(time)) => (time.duration_since(UNIX_EPOCH).map_or(1, millis).max(1), 0),
            Some(Deadline::After(after)) => (0, millis(after).max(1)),
        };
        v1::Record {
            key: record.key,
            value: record.value,
            attributes: attributes_to_wire(record.attributes),
            embeddings: record.embeddings.into_iter().map(Into::into).collect(),
            deadline_millis,
            ttl_millis,
            version: 0,
            sparse: record.sparse.into_iter().map(|sparse| sparse_to_wire(sparse.name, sparse.weights)).collect(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl TryFrom<v1::Record> for Record {
    type Error = Error;

    fn try_from(record: v1::Record) -> Result<Record, Error> {
        let deadline = match record.deadline_millis {
            0 => None,
            millis => Some(Deadline::At(
                UNIX_EPOCH
                    .checked_add(Duration::from_millis(millis))
                    .ok_or_else(|| Error::protocol(format!("a deadline of {millis} ms")))?,
            )),
        };
        Ok(Record {
            key: record.key,
            value: record.value,
            attributes: attributes_from_wire(record.attributes),
            embeddings: record.embeddings.into_iter().map(Into::into).collect(),
            sparse: record.sparse.into_iter().map(Into::into).collect(),
            deadline,
            version: record.version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_from_the_wire_as_it_was() {
        let record = Record::new("k")
            .with_value("")
            .with_attribute("null", None::<i64>)
            .with_attribute("int", -7)
            .with_attribute("float", 0.5)
            .with_attribute("list", ["a", "b"])
            .with_attribute("map", BTreeMap::from([("x".to_owned(), Value::Bool(true))]))
            .with_attribute("time", UNIX_EPOCH + Duration::from_micros(5))
            .with_named_embedding("text", [1.5, -2.0])
            .with_sparse("words", [(3, 0.5), (70_000, -1.0)])
            .expires_at(UNIX_EPOCH + Duration::from_millis(1234));
        let wire = v1::Record::from(record.clone());
        assert_eq!(Record::try_from(wire).as_ref(), Ok(&record));
    }

    #[test]
    fn absent_and_empty_values_differ() {
        assert_eq!(v1::Record::from(Record::new("k")).value, None);
        let empty = v1::Record::from(Record::new("k").with_value(""));
        assert_eq!(empty.value, Some(Bytes::new()));
    }

    #[test]
    fn a_deadline_before_1970_does_not_become_never() {
        let record = Record::new("k").expires_at(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(v1::Record::from(record).deadline_millis, 1);
    }

    #[test]
    fn the_only_embedding_needs_no_name() {
        let record = Record::new("k").with_named_embedding("text", [1.0]);
        assert_eq!(record.embedding(""), Some(&[1.0][..]));
        assert_eq!(record.embedding("image"), None);
    }
}
