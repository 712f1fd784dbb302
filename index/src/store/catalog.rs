//! Namespaces, collections and their rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{State, Store, new_buffer};
use crate::command::{
    ArchivedDurability, ArchivedSchema, ArchivedSchemaChange, Durability, EmbeddingSpec, Outcome, Refusal, Schema,
};
use crate::distance::Metric;
use crate::record::{CollectionId, DIMENSION_MAX, EMBEDDINGS_MAX, NAME_BYTES_MAX};
use crate::view::{Collection, Field};

/// The most namespaces of one store.
pub const NAMESPACES_MAX: usize = 1_000;
/// The most collections of one store, of all namespaces together.
pub const COLLECTIONS_MAX: usize = 1_000;

/// Why a name or a schema is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A name has a form that names do not have.
    #[error(
        "{0:?} is not a name: 1 to {NAME_BYTES_MAX} bytes of a-z A-Z 0-9 . _ -, beginning with a letter, a digit or _"
    )]
    Name(String),
    /// More embeddings than a collection may have.
    #[error("{0} embeddings are more than the {EMBEDDINGS_MAX} that a collection may have")]
    TooMany(usize),
    /// Two embeddings have one name.
    #[error("embedding {0:?} is there twice; give each its own name")]
    Twice(String),
    /// A dimension that embeddings cannot have.
    #[error("embedding {name:?} has dimension {dimension}; it must be from 1 to {DIMENSION_MAX}")]
    Dimension {
        /// The embedding's name.
        name: String,
        /// Its dimension.
        dimension: u32,
    },
    /// A metric that there is not.
    #[error("embedding {name:?} has metric number {metric}; there are cosine (1), dot (2) and squared-l2 (3)")]
    Metric {
        /// The embedding's name.
        name: String,
        /// The metric's number.
        metric: u8,
    },
}

/// Whether a namespace, a collection or an embedding may have this name.
pub fn check_name(name: &str) -> Result<(), SchemaError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if starts && name.len() <= NAME_BYTES_MAX && name.bytes().all(fine) {
        Ok(())
    } else {
        Err(SchemaError::Name(name.chars().take(NAME_BYTES_MAX).collect()))
    }
}

/// Whether a collection may have these rules.
pub fn check_schema(schema: &Schema) -> Result<(), SchemaError> {
    if schema.embeddings.len() > EMBEDDINGS_MAX {
        return Err(SchemaError::TooMany(schema.embeddings.len()));
    }
    for (place, EmbeddingSpec { name, dimension, metric }) in schema.embeddings.iter().enumerate() {
        // An only embedding may go without a name.
        if !(name.is_empty() && schema.embeddings.len() == 1) {
            check_name(name)?;
        }
        let (dimension, metric) = (*dimension, *metric);
        if schema.embeddings[..place].iter().any(|other| other.name == *name) {
            return Err(SchemaError::Twice(name.clone()));
        }
        if dimension == 0 || dimension as usize > DIMENSION_MAX {
            return Err(SchemaError::Dimension { name: name.clone(), dimension });
        }
        if Metric::from_code(metric).is_none() {
            return Err(SchemaError::Metric { name: name.clone(), metric });
        }
    }
    Ok(())
}

/// The embeddings, ready to be compared. The schema has been checked.
pub(super) fn fields(schema: &Schema) -> Option<Arc<[Field]>> {
    let field = |spec: &EmbeddingSpec| {
        let metric = Metric::from_code(spec.metric)?;
        Some(Field { dimension: spec.dimension as usize, metric, kernel: metric.kernel() })
    };
    schema.embeddings.iter().map(field).collect()
}

fn own_durability(durability: &ArchivedDurability) -> Durability {
    match durability {
        ArchivedDurability::Synced => Durability::Synced,
        ArchivedDurability::Buffered => Durability::Buffered,
    }
}

fn own_schema(schema: &ArchivedSchema) -> Schema {
    let embeddings = schema.embeddings.iter().map(|spec| EmbeddingSpec {
        name: spec.name.as_str().to_owned(),
        dimension: spec.dimension.to_native(),
        metric: spec.metric,
    });
    Schema {
        embeddings: embeddings.collect(),
        durability: own_durability(&schema.durability),
        retention_millis: schema.retention_millis.to_native(),
        eviction_bytes: schema.eviction_bytes.to_native(),
    }
}

impl Store {
    pub(super) fn create_namespace(&mut self, name: &str) -> Result<Outcome, Refusal> {
        if self.namespaces.contains_key(name) {
            return Err(Refusal::AlreadyExists(name.to_owned()));
        }
        if self.namespaces.len() >= NAMESPACES_MAX {
            return Err(Refusal::TooMany(NAMESPACES_MAX as u32));
        }
        self.namespaces.insert(name.to_owned(), BTreeMap::new());
        self.restructured = true;
        Ok(Outcome::Done)
    }

    pub(super) fn drop_namespace(&mut self, name: &str) -> Result<Outcome, Refusal> {
        let Some(collections) = self.namespaces.remove(name) else {
            return Err(Refusal::UnknownNamespace(name.to_owned()));
        };
        self.restructured = true;
        for id in collections.into_values() {
            self.forget_collection(id);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn create_collection(
        &mut self,
        namespace: &str,
        name: &str,
        schema: &ArchivedSchema,
    ) -> Result<Outcome, Refusal> {
        let schema = own_schema(schema);
        check_schema(&schema).map_err(|error| Refusal::InvalidSchema(error.to_string()))?;
        let fields = fields(&schema).ok_or_else(|| Refusal::InvalidSchema("unknown metric".into()))?;
        let Some(collections) = self.namespaces.get_mut(namespace) else {
            return Err(Refusal::UnknownNamespace(namespace.to_owned()));
        };
        if collections.contains_key(name) {
            return Err(Refusal::AlreadyExists(name.to_owned()));
        }
        if self.collections.len() >= COLLECTIONS_MAX {
            return Err(Refusal::TooMany(COLLECTIONS_MAX as u32));
        }
        let id = CollectionId(self.next_collection);
        self.next_collection += 1;
        collections.insert(name.to_owned(), id);
        // Ids grow, so the new one is the last.
        self.collections.push(State::new(Collection {
            id,
            namespace: namespace.into(),
            name: name.into(),
            schema: Arc::new(schema),
            fields,
            buffers: vec![new_buffer()],
            segments: Vec::new(),
        }));
        self.restructured = true;
        Ok(Outcome::Created { collection: id.0 })
    }

    pub(super) fn alter_collection(&mut self, id: u64, change: &ArchivedSchemaChange) -> Result<Outcome, Refusal> {
        let place = self.place(CollectionId(id)).ok_or(Refusal::UnknownCollection(id))?;
        let mut schema = Schema::clone(&self.collections[place].shared.schema);
        if let Some(durability) = change.durability.as_ref() {
            schema.durability = own_durability(durability);
        }
        if let Some(millis) = change.retention_millis.as_ref() {
            schema.retention_millis = millis.to_native();
        }
        if let Some(bytes) = change.eviction_bytes.as_ref() {
            schema.eviction_bytes = bytes.to_native();
        }
        self.reshape(place, |collection| collection.schema = Arc::new(schema));
        Ok(Outcome::Done)
    }

    pub(super) fn drop_collection(&mut self, id: u64) -> Result<Outcome, Refusal> {
        let place = self.place(CollectionId(id)).ok_or(Refusal::UnknownCollection(id))?;
        let shared = Arc::clone(&self.collections[place].shared);
        if let Some(collections) = self.namespaces.get_mut(&*shared.namespace) {
            collections.remove(&*shared.name);
        }
        self.forget_collection(shared.id);
        Ok(Outcome::Done)
    }

    /// Its buffers go with the last view that shows them, its files after the next checkpoint.
    fn forget_collection(&mut self, id: CollectionId) {
        let Some(place) = self.place(id) else { return };
        let state = self.collections.remove(place);
        if let Some(deadline) = state.first_due() {
            self.due.remove(&(deadline, id));
        }
        if !state.shared.segments.is_empty() {
            self.request_checkpoint();
        }
        self.count_buffered_bytes();
        self.restructured = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, dimension: u32, metric: u8) -> EmbeddingSpec {
        EmbeddingSpec { name: name.into(), dimension, metric }
    }

    fn check(embeddings: Vec<EmbeddingSpec>) -> Result<(), SchemaError> {
        check_schema(&Schema { embeddings, ..Schema::default() })
    }

    #[test]
    fn schemas_are_checked() {
        assert_eq!(check(vec![]), Ok(()));
        assert_eq!(check(vec![spec("", 1, 1)]), Ok(()));
        assert!(check(vec![spec("", 1, 1), spec("b", 1, 1)]).is_err());
        assert_eq!(check(vec![spec("a", 1, 1), spec("b", 16_384, 3)]), Ok(()));
        assert_eq!(check(vec![spec("a", 1, 1), spec("a", 2, 1)]), Err(SchemaError::Twice("a".into())));
        for dimension in [0, 16_385] {
            assert_eq!(
                check(vec![spec("a", dimension, 1)]),
                Err(SchemaError::Dimension { name: "a".into(), dimension })
            );
        }
        for metric in [0, 4] {
            assert_eq!(check(vec![spec("a", 1, metric)]), Err(SchemaError::Metric { name: "a".into(), metric }));
        }
        let many = (0..17).map(|number| spec(&format!("e{number}"), 1, 1)).collect();
        assert_eq!(check(many), Err(SchemaError::TooMany(17)));
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "_x", "default", "Team-1.memories", &"n".repeat(NAME_BYTES_MAX)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".a", "-a", "a b", "a/b", "\u{e9}", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
