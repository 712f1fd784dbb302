//! Entries of format version 1, which logs written before version 2 still hold.
//!
//! What is here is how version 1 laid these types out, and never changes: types that are not here have the layout they
//! had then. An entry of version 1 is read once, turned into one of this version in memory, and applied as that; its
//! effects, its request's fingerprint and the hash chain (which is over the bytes in the log) are what they were.

use rkyv::{Archive, Deserialize, Serialize};

use super::{Condition, Durability, Origin};

/// See [`super::Entry`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Entry {
    pub clock: u64,
    pub commands: Vec<Envelope>,
}

/// See [`super::Envelope`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Envelope {
    pub origin: Origin,
    pub command: Command,
}

/// See [`super::Command`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Command {
    CreateNamespace { name: String },
    DropNamespace { name: String },
    CreateCollection { namespace: String, name: String, schema: Schema },
    AlterCollection { collection: u64, change: SchemaChange },
    DropCollection { collection: u64 },
    Write { conditions: Vec<Condition>, changes: Vec<Change> },
}

/// See [`super::Schema`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Schema {
    pub embeddings: Vec<EmbeddingSpec>,
    pub durability: Durability,
    pub retention_millis: u64,
    pub eviction_bytes: u64,
}

/// See [`super::EmbeddingSpec`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingSpec {
    pub name: String,
    pub dimension: u32,
    pub metric: u8,
}

/// See [`super::SchemaChange`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct SchemaChange {
    pub durability: Option<Durability>,
    pub retention_millis: Option<u64>,
    pub eviction_bytes: Option<u64>,
}

/// See [`super::Change`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Change {
    pub collection: u64,
    pub key: Vec<u8>,
    pub action: Action,
}

/// See [`super::Action`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Action {
    Put(Content),
    Merge { content: Content, remove_attributes: Vec<String>, remove_deadline: bool },
    Delete,
    DeleteVersion(u64),
}

/// See [`super::Content`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Content {
    pub value: Option<Vec<u8>>,
    pub attributes: Vec<u8>,
    pub embeddings: Vec<(u16, Vec<f32>)>,
    pub deadline: u64,
    pub ttl: u64,
}

impl From<Entry> for super::Entry {
    fn from(Entry { clock, commands }: Entry) -> super::Entry {
        let envelope = |Envelope { origin, command }| super::Envelope { origin, command: Command::into(command) };
        super::Entry { clock, commands: commands.into_iter().map(envelope).collect() }
    }
}

impl From<Command> for super::Command {
    fn from(command: Command) -> super::Command {
        use super::Command as New;
        match command {
            Command::CreateNamespace { name } => New::CreateNamespace { name },
            Command::DropNamespace { name } => New::DropNamespace { name },
            Command::CreateCollection { namespace, name, schema } => {
                New::CreateCollection { namespace, name, schema: schema.into() }
            }
            Command::AlterCollection { collection, change } => {
                let SchemaChange { durability, retention_millis, eviction_bytes } = change;
                let change = super::SchemaChange { durability, retention_millis, eviction_bytes, ..Default::default() };
                New::AlterCollection { collection, change }
            }
            Command::DropCollection { collection } => New::DropCollection { collection },
            Command::Write { conditions, changes } => {
                New::Write { conditions, changes: changes.into_iter().map(super::Change::from).collect() }
            }
        }
    }
}

impl From<Schema> for super::Schema {
    fn from(schema: Schema) -> super::Schema {
        let Schema { embeddings, durability, retention_millis, eviction_bytes } = schema;
        let embedding = |EmbeddingSpec { name, dimension, metric }| super::EmbeddingSpec::new(name, dimension, metric);
        super::Schema {
            embeddings: embeddings.into_iter().map(embedding).collect(),
            durability,
            retention_millis,
            eviction_bytes,
            ..Default::default()
        }
    }
}

impl From<Change> for super::Change {
    fn from(Change { collection, key, action }: Change) -> super::Change {
        let action = match action {
            Action::Put(content) => super::Action::Put(content.into()),
            Action::Merge { content, remove_attributes, remove_deadline } => {
                super::Action::Merge { content: content.into(), remove_attributes, remove_deadline }
            }
            Action::Delete => super::Action::Delete,
            Action::DeleteVersion(version) => super::Action::DeleteVersion(version),
        };
        super::Change { collection, key, action }
    }
}

impl From<Content> for super::Content {
    fn from(content: Content) -> super::Content {
        let Content { value, attributes, embeddings, deadline, ttl } = content;
        super::Content { value, attributes, embeddings, deadline, ttl, ..Default::default() }
    }
}
