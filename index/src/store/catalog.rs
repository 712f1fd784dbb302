//! Namespaces, collections and their rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use rkyv::rancor;

use super::{State, Store, new_buffer};
use crate::attributes::path_text;
use crate::command::{
    ArchivedInstallation, ArchivedSchema, ArchivedSchemaChange, EmbeddingSpec, IndexSpec, Outcome, Refusal, Schema,
    SchemaChange,
};
use crate::distance::Metric;
use crate::effects::Fate;
use crate::record::{
    ATTRIBUTES_DEPTH_MAX, CollectionId, DIMENSION_MAX, EMBEDDINGS_MAX, INDEXES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX,
    Position, SPARSE_MAX, TEXTS_MAX,
};
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
    /// More embeddings, sparse vectors, texts or indexes than a collection may have.
    #[error("{count} {what} are more than the {max} that a collection may have")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// Two embeddings or sparse vectors have one name.
    #[error("embedding {0:?} is there twice; give each its own name")]
    Twice(String),
    /// A path that no attribute can have.
    #[error(
        "{0:?} is not the path of an attribute: 1 to {ATTRIBUTES_DEPTH_MAX} names joined by dots, none of them empty, of at \
         most {PATH_BYTES_MAX} bytes together"
    )]
    Path(String),
    /// Two indexes, or two texts, have one path.
    #[error("attribute {path:?} is named twice among the {what}; name it once")]
    PathTwice {
        /// Among what.
        what: &'static str,
        /// The path.
        path: String,
    },
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
    for (what, count, max) in [
        ("embeddings", schema.embeddings.len(), EMBEDDINGS_MAX),
        ("sparse vectors", schema.sparse.len(), SPARSE_MAX),
        ("texts", schema.texts.len(), TEXTS_MAX),
        ("indexes", schema.indexes.len(), INDEXES_MAX),
    ] {
        if count > max {
            return Err(SchemaError::TooMany { what, count, max });
        }
    }
    for (place, EmbeddingSpec { name, dimension, metric, .. }) in schema.embeddings.iter().enumerate() {
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
    for (place, sparse) in schema.sparse.iter().enumerate() {
        check_name(&sparse.name)?;
        let taken = schema.embeddings.iter().any(|other| other.name == sparse.name);
        if taken || schema.sparse[..place].contains(sparse) {
            return Err(SchemaError::Twice(sparse.name.clone()));
        }
    }
    check_paths("texts", schema.texts.iter().map(|text| &*text.path))?;
    check_paths("indexes", schema.indexes.iter().map(|index| &*index.path))
}

fn check_paths<'a>(what: &'static str, paths: impl Iterator<Item = &'a [String]> + Clone) -> Result<(), SchemaError> {
    for (place, path) in paths.clone().enumerate() {
        let bytes: usize = path.iter().map(String::len).sum();
        let fine = (1..=ATTRIBUTES_DEPTH_MAX).contains(&path.len()) && bytes <= PATH_BYTES_MAX;
        if !fine || path.iter().any(String::is_empty) {
            return Err(SchemaError::Path(path_text(path).chars().take(PATH_BYTES_MAX).collect()));
        }
        if paths.clone().take(place).any(|other| other == path) {
            return Err(SchemaError::PathTwice { what, path: path_text(path) });
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

/// A command's rules, checked, with the embeddings that they declare.
fn own_schema(schema: &ArchivedSchema) -> Result<(Schema, Arc<[Field]>), Refusal> {
    let schema = rkyv::deserialize::<Schema, rancor::Error>(schema)
        .map_err(|error| Refusal::InvalidSchema(error.to_string()))?;
    check_schema(&schema).map_err(|error| Refusal::InvalidSchema(error.to_string()))?;
    let fields = fields(&schema).ok_or_else(|| Refusal::InvalidSchema("unknown metric".into()))?;
    Ok((schema, fields))
}

/// Whether records that fit one of the schemas fit the other: they differ at most in what can be altered.
fn fit_alike(a: &Schema, b: &Schema) -> bool {
    a.embeddings == b.embeddings && a.sparse == b.sparse && a.texts == b.texts
}

fn altered(schema: &Schema, change: SchemaChange) -> Schema {
    let mut schema = schema.clone();
    schema.durability = change.durability.unwrap_or(schema.durability);
    schema.retention_millis = change.retention_millis.unwrap_or(schema.retention_millis);
    schema.eviction_bytes = change.eviction_bytes.unwrap_or(schema.eviction_bytes);
    schema.eviction_policy = change.eviction_policy.unwrap_or(schema.eviction_policy);
    schema.indexes.retain(|index| !change.remove_indexes.contains(&index.path));
    for IndexSpec { path, kind } in change.add_indexes {
        match schema.indexes.iter_mut().find(|index| index.path == path) {
            Some(index) => index.kind = kind,
            None => schema.indexes.push(IndexSpec { path, kind }),
        }
    }
    schema
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

    pub(super) fn drop_namespace(&mut self, at: Position, name: &str) -> Result<Outcome, Refusal> {
        let Some(collections) = self.namespaces.remove(name) else {
            return Err(Refusal::UnknownNamespace(name.to_owned()));
        };
        self.restructured = true;
        for id in collections.into_values() {
            self.forget_collection(at, id);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn create_collection(
        &mut self,
        namespace: &str,
        name: &str,
        schema: &ArchivedSchema,
    ) -> Result<Outcome, Refusal> {
        let (schema, fields) = own_schema(schema)?;
        let Some(collections) = self.namespaces.get(namespace) else {
            return Err(Refusal::UnknownNamespace(namespace.to_owned()));
        };
        if collections.contains_key(name) {
            return Err(Refusal::AlreadyExists(name.to_owned()));
        }
        if self.collections.len() >= COLLECTIONS_MAX {
            return Err(Refusal::TooMany(COLLECTIONS_MAX as u32));
        }
        Ok(self.add_collection(CollectionId(self.next_collection), namespace, name, schema, fields))
    }

    /// Adds a collection, and its namespace if that is missing. There is none of that id, and none of that name.
    fn add_collection(
        &mut self,
        id: CollectionId,
        namespace: &str,
        name: &str,
        schema: Schema,
        fields: Arc<[Field]>,
    ) -> Outcome {
        self.namespaces.entry(namespace.to_owned()).or_default().insert(name.to_owned(), id);
        self.next_collection = self.next_collection.max(id.0 + 1);
        let state = State::new(Collection {
            id,
            namespace: namespace.into(),
            name: name.into(),
            schema: Arc::new(schema),
            fields,
            buffers: vec![new_buffer()],
            segments: Vec::new(),
            table: None,
        });
        let place = self.collections.partition_point(|other| other.shared.id < id);
        self.collections.insert(place, state);
        self.restructured = true;
        Outcome::Created { collection: id.0 }
    }

    /// Makes the store have exactly this collection, whatever it has of that id or that name.
    pub(super) fn install_collection(
        &mut self,
        at: Position,
        wanted: &ArchivedInstallation,
    ) -> Result<Outcome, Refusal> {
        let (namespace, name, id) = (&*wanted.namespace, &*wanted.name, CollectionId(wanted.collection.to_native()));
        let (schema, fields) = own_schema(&wanted.schema)?;
        if !(1..=CollectionId::MAX.0).contains(&id.0) {
            return Err(Refusal::InvalidSchema(format!("its id {} is not from 1 to {}", id.0, CollectionId::MAX.0)));
        }
        if let Some(place) = self.place(id) {
            let shared = &self.collections[place].shared;
            if (&*shared.namespace, &*shared.name) != (namespace, name) {
                let there = format!("collection {} as {}/{}", id.0, shared.namespace, shared.name);
                return Err(Refusal::AlreadyExists(there));
            }
            if *shared.schema == schema {
                return Ok(Outcome::Unchanged);
            }
            if !fit_alike(&shared.schema, &schema) {
                let why = format!("collection {} has other embeddings, sparse vectors or texts; drop it first", id.0);
                return Err(Refusal::InvalidSchema(why));
            }
            self.reshape(place, |collection| collection.schema = Arc::new(schema));
            self.work.note_indexes();
            return Ok(Outcome::Done);
        }
        if self.namespaces.len() >= NAMESPACES_MAX {
            // Where collections are installed nobody drops a namespace: it has gone with its last collection.
            self.namespaces.retain(|_, collections| !collections.is_empty());
            self.restructured = true;
        }
        let collections = self.namespaces.get(namespace);
        if collections.is_none() && self.namespaces.len() >= NAMESPACES_MAX {
            return Err(Refusal::TooMany(NAMESPACES_MAX as u32));
        }
        let other = collections.and_then(|collections| collections.get(name)).copied();
        if let Some(newer) = other.filter(|other| *other > id) {
            // Ids grow: what is wanted here was dropped before that one was made.
            return Err(Refusal::AlreadyExists(format!("{namespace}/{name} as collection {}", newer.0)));
        }
        if self.collections.len() - usize::from(other.is_some()) >= COLLECTIONS_MAX {
            return Err(Refusal::TooMany(COLLECTIONS_MAX as u32));
        }
        if let Some(other) = other {
            self.forget_collection(at, other);
        }
        Ok(self.add_collection(id, namespace, name, schema, fields))
    }

    pub(super) fn alter_collection(&mut self, id: u64, change: &ArchivedSchemaChange) -> Result<Outcome, Refusal> {
        let place = self.place(CollectionId(id)).ok_or(Refusal::UnknownCollection(id))?;
        let change = rkyv::deserialize::<SchemaChange, rancor::Error>(change)
            .map_err(|error| Refusal::InvalidSchema(error.to_string()))?;
        let schema = altered(&self.collections[place].shared.schema, change);
        check_schema(&schema).map_err(|error| Refusal::InvalidSchema(error.to_string()))?;
        self.reshape(place, |collection| collection.schema = Arc::new(schema));
        self.work.note_indexes();
        Ok(Outcome::Done)
    }

    pub(super) fn drop_collection(&mut self, at: Position, id: u64) -> Result<Outcome, Refusal> {
        let place = self.place(CollectionId(id)).ok_or(Refusal::UnknownCollection(id))?;
        let shared = Arc::clone(&self.collections[place].shared);
        if let Some(collections) = self.namespaces.get_mut(&*shared.namespace) {
            collections.remove(&*shared.name);
        }
        self.forget_collection(at, shared.id);
        Ok(Outcome::Done)
    }

    /// Its buffers go with the last view that shows them, its files after the next checkpoint.
    fn forget_collection(&mut self, at: Position, id: CollectionId) {
        let Some(place) = self.place(id) else { return };
        let state = self.collections.remove(place);
        let name = format!("{}/{}", state.shared.namespace, state.shared.name);
        self.note_effect(at, id, Fate::Dropped, name.as_bytes());
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
    use crate::command::{IndexKind, Language, Policy, SparseSpec, TextSpec};

    fn spec(name: &str, dimension: u32, metric: u8) -> EmbeddingSpec {
        EmbeddingSpec::new(name, dimension, metric)
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
        assert_eq!(check(many), Err(SchemaError::TooMany { what: "embeddings", count: 17, max: 16 }));
    }

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(String::from).collect()
    }

    fn check_indexes(paths: &[Vec<String>]) -> Result<(), SchemaError> {
        let indexes = paths.iter().map(|path| IndexSpec { path: path.clone(), kind: IndexKind::Value });
        let texts = paths.iter().take(TEXTS_MAX).map(|path| TextSpec { path: path.clone(), language: Language::Plain });
        let indexes = Schema { indexes: indexes.collect(), ..Schema::default() };
        let texts = Schema { texts: texts.collect(), ..Schema::default() };
        let checked = check_schema(&indexes);
        if paths.len() <= TEXTS_MAX {
            assert_eq!(check_schema(&texts).is_ok(), checked.is_ok(), "{paths:?}");
        }
        checked
    }

    #[test]
    fn paths_of_indexes_and_texts_are_checked() {
        let many = |count| (0..count).map(|i| path(&format!("a{i}"))).collect::<Vec<_>>();
        assert_eq!(check_indexes(&[path("a"), path("b"), path("a.b")]), Ok(()));
        assert_eq!(check_indexes(&many(INDEXES_MAX)), Ok(()));
        let (what, count, max) = ("indexes", INDEXES_MAX + 1, INDEXES_MAX);
        assert_eq!(check_indexes(&many(count)), Err(SchemaError::TooMany { what, count, max }));
        let twice = SchemaError::PathTwice { what, path: "a.b".into() };
        assert_eq!(check_indexes(&[path("a.b"), path("b"), path("a.b")]), Err(twice));
        assert_eq!(check_indexes(&[path("a..b")]), Err(SchemaError::Path("a..b".into())));
        assert!(check_indexes(&[vec![]]).is_err());
        assert!(check_indexes(&[vec!["a".into(); ATTRIBUTES_DEPTH_MAX + 1]]).is_err());
        assert!(check_indexes(&[vec!["a".repeat(PATH_BYTES_MAX + 1)]]).is_err());
        assert_eq!(check_indexes(&[vec!["a".repeat(PATH_BYTES_MAX)]]), Ok(()));
    }

    #[test]
    fn names_of_sparse_vectors_are_those_of_no_embedding() {
        let check = |names: &[&str]| {
            let sparse = names.iter().map(|&name| SparseSpec { name: name.into() }).collect();
            check_schema(&Schema { embeddings: vec![spec("a", 1, 1)], sparse, ..Schema::default() })
        };
        assert_eq!(check(&["b", "c"]), Ok(()));
        assert_eq!(check(&["a"]), Err(SchemaError::Twice("a".into())));
        assert_eq!(check(&["b", "b"]), Err(SchemaError::Twice("b".into())));
        assert!(check(&[""]).is_err());
        assert!(check(&["b"; SPARSE_MAX + 1]).is_err());
    }

    #[test]
    fn altering_removes_indexes_then_adds_them() {
        let index = |text, kind| IndexSpec { path: path(text), kind };
        let schema = Schema {
            indexes: vec![index("a", IndexKind::Value), index("b", IndexKind::Value)],
            retention_millis: 5,
            ..Schema::default()
        };
        let change = SchemaChange {
            eviction_bytes: Some(7),
            add_indexes: vec![index("b", IndexKind::Substring), index("c.d", IndexKind::Value)],
            remove_indexes: vec![path("a"), path("x")],
            ..SchemaChange::default()
        };
        let expected = Schema {
            indexes: vec![index("b", IndexKind::Substring), index("c.d", IndexKind::Value)],
            retention_millis: 5,
            eviction_bytes: 7,
            ..Schema::default()
        };
        assert_eq!(altered(&schema, change), expected);
        assert_eq!(altered(&expected, SchemaChange::default()), expected);
        let to = |eviction_policy| SchemaChange { eviction_policy, ..SchemaChange::default() };
        let with = altered(&schema, to(Some(Some(Policy::Lru))));
        assert_eq!(
            (with.eviction_policy, altered(&with, to(None)).eviction_policy),
            (Some(Policy::Lru), Some(Policy::Lru))
        );
        assert_eq!(altered(&with, to(Some(None))), schema);
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
