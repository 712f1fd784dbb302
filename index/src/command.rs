//! A change on its way through the log, and its answer.
//!
//! One log entry carries the leader's clock and one or more commands, each with who sent it and why. Its bytes are:
//!
//! ```text
//! 0          4          6          8               16
//! | "lent"   | version  | zero     | length        | rkyv archive of `Entry`, so many bytes
//! ```
//!
//! The archive is read in place when the bytes lie on a multiple of 16, and from one aligned copy when they do not.
//! Whoever hands an entry over has verified its checksum; the archive is bounds-checked on top of that. Version 3 is
//! version 2 with one more command, and only an entry that carries that command has it: so whatever an older program can
//! understand, it reads. Version 4 adds commands on typed values in the same way, version 5 conditions on leases and on typed
//! values, version 6 the removal of records by filter, version 7 the policy by which a collection evicts. Entries of version 1 are read too, slowly ([`v1`]).
//!
//! Always: everything that the outcome depends on is in the entry or in the store. In particular embeddings are already
//! normalised where the metric asks for it, and attributes are in their canonical encoding: no arithmetic that two
//! processors could round differently is left for `apply`.

#![expect(missing_docs, reason = "rkyv derives public types whose fields have no documentation of their own")]

pub(crate) mod v1;

use rkyv::{Archive, Deserialize, Serialize, rancor, util::AlignedVec};

use crate::record::Position;

/// The version of the entry format this program writes, and the newest it reads. It reads all before it, too.
pub const ENTRY_VERSION: u16 = 7;
/// The most bytes of one entry. A batch that is larger is refused before it is logged.
pub const ENTRY_BYTES_MAX: usize = 72 << 20;
/// The longest request id, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// The longest principal, task or trace, in bytes.
pub const ORIGIN_BYTES_MAX: usize = 256;
/// The most changes of one write.
pub const CHANGES_MAX: usize = 10_000;

const MAGIC: &[u8; 4] = b"lent";
const HEADER_BYTES: usize = 16;
/// About as many bytes as a command takes that writes little.
const ENVELOPE_BYTES: usize = 384;
/// Less room than this beyond an entry's end is left where it is.
const SPARE_BYTES_KEPT: usize = 4 << 10;

/// What one log entry carries.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Entry {
    /// The leader's clock when it made the entry: milliseconds since 1970. Never behind the last applied one.
    pub clock: u64,
    /// In the order in which they take effect. May be empty: then the entry only moves the clock.
    pub commands: Vec<Envelope>,
}

/// A command with who sent it and why.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Who, and on whose behalf.
    pub origin: Origin,
    /// What to change.
    pub command: Command,
}

/// Who sent a command, and why.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Origin {
    /// Who acts: an agent, a person, a service.
    pub principal: String,
    /// The task on whose behalf; may be empty.
    pub task: String,
    /// The trace it belongs to (a W3C `traceparent`); may be empty.
    pub trace: String,
    /// Makes a repeated command answer as it did the first time. Empty: the command is not remembered.
    pub request_id: Vec<u8>,
}

/// A change.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Command {
    /// Makes a tenant.
    CreateNamespace {
        /// Its name.
        name: String,
    },
    /// Removes a tenant with all its collections.
    DropNamespace {
        /// Its name.
        name: String,
    },
    /// Makes a collection.
    CreateCollection {
        /// The tenant it belongs to.
        namespace: String,
        /// Its name, unique in the namespace.
        name: String,
        /// Its rules.
        schema: Schema,
    },
    /// Changes those rules of a collection that can change.
    AlterCollection {
        /// Which.
        collection: u64,
        /// The new rules; none of them: unchanged.
        change: SchemaChange,
    },
    /// Removes a collection with all its records.
    DropCollection {
        /// Which.
        collection: u64,
    },
    /// Changes records: all of the changes, in order, or none of them.
    Write {
        /// What must hold before the first change.
        conditions: Vec<Condition>,
        /// The changes.
        changes: Vec<Change>,
    },
    /// Makes the store have exactly this collection, under an id that somebody else gave out.
    InstallCollection(Box<Installation>),
    /// Carries out calls on typed values.
    Execute(Box<Execution>),
    /// Removes typed values that have expired, or that there is no room for.
    Reclaim(Box<Reclaim>),
    /// Removes all records that a filter takes.
    Remove(Box<Removal>),
}

// Logs hold it: a command that needs more room than the others did is boxed.
const _: () = assert!(size_of::<ArchivedCommand>() == 80);

/// A collection as it shall be. Its namespace is made where it is missing, and another collection of its name goes,
/// unless that one has a greater id: ids grow, so what is wanted here was dropped before that one was made.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Installation {
    /// Its id, from 1 to [`crate::record::CollectionId::MAX`]. The store gives out only larger ones from then on.
    pub collection: u64,
    /// The tenant it belongs to.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
    /// Its rules.
    pub schema: Schema,
}

/// Calls on the typed values of collections, one after the other: each is carried out, whatever became of the others.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Execution {
    /// The collections that the calls name, by their place here.
    pub collections: Vec<u64>,
    /// What must hold before the first call; otherwise none is carried out.
    pub conditions: Vec<Watched>,
    /// The calls ([`crate::table::call::Packed`]).
    pub calls: Vec<u8>,
    /// Whether readers see either nothing of the calls or all of them.
    pub atomic: bool,
}

/// A key that must not have changed.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Watched {
    /// The place of its collection in [`Execution::collections`].
    pub database: u8,
    /// The key.
    pub key: Vec<u8>,
    /// The position of the call that changed it last; zero: it is not there.
    pub version: u64,
}

/// Typed values that go.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Reclaim {
    /// Their collection.
    pub collection: u64,
    /// Their keys.
    pub keys: Vec<Vec<u8>>,
    /// Whether they go for want of room. Otherwise those go that have expired.
    pub evicted: bool,
}

/// Records that go: all that a filter takes when the command takes effect.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Removal {
    /// Their collection.
    pub collection: u64,
    /// The filter ([`crate::filter::Filter::encode`]).
    pub filter: Vec<u8>,
}

/// The rules of a collection.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Schema {
    /// The embeddings that its records may have. None: a plain cache keyspace.
    pub embeddings: Vec<EmbeddingSpec>,
    /// When a write is answered.
    pub durability: Durability,
    /// Which typed values make room; none: as whoever leads is told. It lies where version 6 had zeros.
    pub eviction_policy: Option<Policy>,
    /// How long ended versions are kept, in milliseconds.
    pub retention_millis: u64,
    /// The most bytes its typed values may take before some make room. Zero: as many as there is memory for.
    pub eviction_bytes: u64,
    /// The sparse vectors that its records may have.
    pub sparse: Vec<SparseSpec>,
    /// The attributes that are found by their words.
    pub texts: Vec<TextSpec>,
    /// The attributes whose filters are answered from an index.
    pub indexes: Vec<IndexSpec>,
}

/// One named embedding of a collection.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingSpec {
    /// Unique in the collection.
    pub name: String,
    /// Components, from 1 to [`crate::record::DIMENSION_MAX`].
    pub dimension: u32,
    /// The metric, as [`crate::distance::Metric`] numbers it.
    pub metric: u8,
    /// How segments keep the full components.
    pub storage: Storage,
    /// What the graph search compares before it looks at the full components.
    pub codes: Codes,
}

impl EmbeddingSpec {
    /// One that is kept and searched in the usual way.
    pub fn new(name: impl Into<String>, dimension: u32, metric: u8) -> EmbeddingSpec {
        let (storage, codes) = (Storage::default(), Codes::default());
        EmbeddingSpec { name: name.into(), dimension, metric, storage, codes }
    }
}

/// How segments keep an embedding's full components.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// As they were given.
    #[default]
    F32,
    /// Rounded to half the bytes.
    F16,
}

/// What the graph search compares before it looks at the full components.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codes {
    /// A byte for each component, with one scale for each embedding.
    #[default]
    Int8,
    /// The full components themselves.
    None,
}

/// One named sparse vector of a collection.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct SparseSpec {
    /// Unique in the collection, among embeddings and sparse vectors together.
    pub name: String,
}

/// An attribute that is found by its words.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct TextSpec {
    /// Where the text is: names from the top of the attributes down.
    pub path: Vec<String>,
    /// How it is taken apart into words.
    pub language: Language,
}

/// How a text is taken apart into words.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// Lower-cased words as they stand.
    #[default]
    Plain,
    /// Lower-cased words by their English stems.
    English,
}

/// An attribute whose filters are answered from an index.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct IndexSpec {
    /// Where the value is: names from the top of the attributes down.
    pub path: Vec<String>,
    /// What the index is good for.
    pub kind: IndexKind,
}

/// What an attribute's index is good for.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IndexKind {
    /// Every filter on the attribute: equality, sets, ranges, prefixes, existence, list elements. Texts that contain
    /// something are found by looking at each different text once.
    #[default]
    Value,
    /// The same, and texts that contain something are found by the three-byte pieces of what is looked for.
    Substring,
}

/// When a write is answered.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Once it is synced to disk on a majority.
    #[default]
    Synced,
    /// Once an only member has written it to its log, synced shortly after; where there are more members, as synced.
    Buffered,
}

/// Which typed values make room where there is no more. How each finds them: [`crate::table::eviction`]. Logs and files number them in
/// this order.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// S3-FIFO.
    #[default]
    S3Fifo,
    /// Those that were used least lately.
    Lru,
    /// Those that were used least often.
    Lfu,
    /// Any.
    Random,
    /// Of those with a deadline, those that were used least lately.
    VolatileLru,
    /// Of those with a deadline, those that were used least often.
    VolatileLfu,
    /// Any of those with a deadline.
    VolatileRandom,
    /// Those whose deadline comes first.
    VolatileTtl,
    /// None: writes are refused instead.
    None,
}

/// What can change in a collection's rules. `None` leaves the rule as it is.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct SchemaChange {
    /// See [`Schema::durability`].
    pub durability: Option<Durability>,
    /// See [`Schema::eviction_policy`]. It lies where version 6 had zeros.
    pub eviction_policy: Option<Option<Policy>>,
    /// See [`Schema::retention_millis`].
    pub retention_millis: Option<u64>,
    /// See [`Schema::eviction_bytes`].
    pub eviction_bytes: Option<u64>,
    /// Indexes that the collection gets, or whose kind changes.
    pub add_indexes: Vec<IndexSpec>,
    /// The paths of indexes that go, before any are added. One that is not there is not missed.
    pub remove_indexes: Vec<Vec<String>>,
}

/// One change of one record.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Change {
    /// The collection.
    pub collection: u64,
    /// The record's key.
    pub key: Vec<u8>,
    /// What becomes of it.
    pub action: Action,
}

/// What becomes of a record.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Action {
    /// The record is exactly this from now on.
    Put(Content),
    /// What is given replaces what the record had, and the rest stays. A record that is not there is made.
    Merge {
        /// What is given. Attributes are merged at the top level. No deadline: the record keeps its own.
        content: Content,
        /// Top-level attributes that go.
        remove_attributes: Vec<String>,
        /// Whether the record loses its deadline.
        remove_deadline: bool,
    },
    /// The record is gone. One that is not there stays gone.
    Delete,
    /// The record is gone if it still has this version; otherwise it stays. This is how a deletion by filter is logged:
    /// the keys were found on one view, and what changed since no longer has to match.
    DeleteVersion(u64),
}

/// What a record holds besides its key.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
pub struct Content {
    /// The value.
    pub value: Option<Vec<u8>>,
    /// Attributes in their canonical encoding ([`crate::attributes`]); empty: none.
    pub attributes: Vec<u8>,
    /// Embeddings by the field's number in the schema, ascending, each normalised if its metric is cosine.
    pub embeddings: Vec<(u16, Vec<f32>)>,
    /// When the record stops existing: milliseconds since 1970. Zero: never, unless `ttl` says otherwise.
    pub deadline: u64,
    /// The same counted from the entry's clock, in milliseconds. Zero: `deadline` holds. Resolved in `apply`, so that a
    /// repeated command has the same bytes and is recognised as the same.
    pub ttl: u64,
    /// Sparse vectors by the field's number among [`Schema::sparse`], ascending: dimensions, ascending, with their weights.
    pub sparse: Vec<(u16, Vec<(u32, f32)>)>,
}

/// What must hold before a write takes effect.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Condition {
    /// The collection.
    pub collection: u64,
    /// The record's key.
    pub key: Vec<u8>,
    /// What must hold of it.
    pub expect: Expect,
}

/// What must hold of a record.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no such record.
    Absent,
    /// There is one.
    Present,
    /// There is one and it has this version.
    Version(u64),
    /// It is not about a record: the lease of this name is held under this number.
    Lease(u64),
    /// It is not about a record: the typed value under this key has this version; zero: there is none.
    Value(u64),
}

impl ArchivedExpect {
    /// The first version of entries that could say it.
    fn version(&self) -> u16 {
        match self {
            ArchivedExpect::Lease(_) | ArchivedExpect::Value(_) => 5,
            _ => 2,
        }
    }
}

/// What became of a command. The same on every member.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A namespace was made or removed, or a collection changed or removed.
    Done,
    /// A collection was made.
    Created {
        /// Its id.
        collection: u64,
    },
    /// The changes took effect.
    Written {
        /// The version that every record written by this command has.
        version: u64,
        /// One for each change: whether the record was there before it; for the deletion of a version, whether that
        /// version was there, and so was deleted.
        existed: Vec<bool>,
    },
    /// Nothing changed.
    Refused(Refusal),
    /// What was wanted is there already.
    Unchanged,
    /// The calls were carried out: their replies, one after the other ([`crate::table::tape`]). None: a watched key changed.
    Executed(Option<Vec<u8>>),
    /// So many records were removed.
    Removed(u64),
}

// Files of answered requests hold it: what needs more room than the others did is boxed.
const _: () = assert!(size_of::<ArchivedOutcome>() == 40);

/// Why a command changed nothing.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A condition does not hold.
    #[error("condition {number} does not hold: key {key:?} {found}", key = String::from_utf8_lossy(key))]
    ConditionFailed {
        /// Which condition, counted from 0.
        number: u32,
        /// The record's key.
        key: Vec<u8>,
        /// What the record is instead.
        found: Found,
    },
    /// The namespace does not exist.
    #[error("namespace {0:?} does not exist; create it first")]
    UnknownNamespace(String),
    /// The collection does not exist (any more).
    #[error("collection {0} does not exist (any more); describe it by name to get its current id")]
    UnknownCollection(u64),
    /// A namespace or collection of this name, or a collection of this id, is already there.
    #[error("{0:?} already exists")]
    AlreadyExists(String),
    /// An embedding does not fit the collection's rules.
    #[error(
        "change {change} has embedding {field} of dimension {dimension}, which collection {collection} does not have"
    )]
    WrongEmbedding {
        /// Which change, counted from 0.
        change: u32,
        /// The collection.
        collection: u64,
        /// The embedding's number.
        field: u16,
        /// Its dimension.
        dimension: u32,
    },
    /// The merged attributes would be larger than a record may have.
    #[error("change {change} would make the attributes larger than a record may have")]
    AttributesTooLarge {
        /// Which change, counted from 0.
        change: u32,
    },
    /// The same principal used this request id for another command.
    #[error("this request id was used for another command; use a new one")]
    RequestConflict,
    /// A collection cannot have these rules; whoever made the entry did not check them.
    #[error("the collection cannot have these rules: {0}")]
    InvalidSchema(String),
    /// There are as many namespaces or collections as there may be.
    #[error("there are already {0}, the most there may be")]
    TooMany(u32),
    /// A condition on a lease or a typed value does not hold.
    #[error("condition {number} does not hold: {unmet}")]
    Unmet {
        /// Which condition, or which call, counted from 0.
        number: u32,
        /// What is otherwise.
        #[rkyv(with = rkyv::with::AsBox)]
        unmet: Unmet,
    },
    /// What is to be removed is said by no filter; whoever made the entry did not check it.
    #[error("the filter cannot be read")]
    InvalidFilter,
}

/// What is otherwise than a condition on a lease or a typed value has it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    /// The lease is not held under that number.
    Lease {
        /// The lease's name.
        name: Vec<u8>,
        /// The number that was given.
        given: u64,
        /// The number under which it is held; zero: it is not held.
        held: u64,
    },
    /// The value has another version.
    Value {
        /// The value's key.
        key: Vec<u8>,
        /// The version that was expected; zero: none.
        expected: u64,
        /// The version that it has; zero: there is none.
        found: u64,
    },
    /// It cannot be told what was to hold.
    Unclear {
        /// What is wrong.
        text: String,
    },
}

impl Unmet {
    /// The kind of failure, as clients of Redis are told.
    pub fn kind(&self) -> &'static str {
        match self {
            Unmet::Lease { .. } => "FENCED",
            Unmet::Value { .. } => "CONFLICT",
            Unmet::Unclear { .. } => "ERR",
        }
    }
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unmet::Lease { name, given, held: 0 } => {
                write!(f, "lease {:?} is not held, number {given} no longer counts", String::from_utf8_lossy(name))
            }
            Unmet::Lease { name, given, held } => {
                write!(f, "lease {:?} is held under number {held}, not {given}", String::from_utf8_lossy(name))
            }
            Unmet::Value { key, expected, found } => {
                let key = String::from_utf8_lossy(key);
                match (found, expected) {
                    (0, _) => write!(f, "key {key:?} is absent, version {expected} was expected"),
                    (_, 0) => write!(f, "key {key:?} has version {found}, none was expected"),
                    _ => write!(f, "key {key:?} has version {found}, version {expected} was expected"),
                }
            }
            Unmet::Unclear { text } => f.write_str(text),
        }
    }
}

/// What a condition found.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No record.
    Absent,
    /// A record of this version.
    Version(u64),
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Found::Absent => f.write_str("is absent"),
            Found::Version(version) => write!(f, "has version {version}"),
        }
    }
}

impl Outcome {
    /// Its bytes between two members.
    pub fn encode(&self) -> Vec<u8> {
        rkyv::to_bytes::<rancor::Error>(self).expect("serializing into memory does not fail").into_vec()
    }

    /// The outcome that another member wrote.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, EntryError> {
        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(bytes);
        rkyv::from_bytes::<Outcome, rancor::Error>(&aligned).map_err(|error| EntryError::Damaged(error.to_string()))
    }
}

/// Why bytes are not an entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntryError {
    /// Not made by this program, or damaged.
    #[error("log entry is damaged: {0}")]
    Damaged(String),
    /// A newer program wrote it.
    #[error("log entry has version {0}, newer than {ENTRY_VERSION}: this program is too old")]
    UnknownVersion(u16),
}

impl Entry {
    /// The first version that could say it.
    fn version(&self) -> u16 {
        let version = |envelope: &Envelope| match &envelope.command {
            Command::Write { conditions, .. } => {
                let newer = |condition: &Condition| matches!(condition.expect, Expect::Lease(_) | Expect::Value(_));
                if conditions.iter().any(newer) { 5 } else { 2 }
            }
            Command::CreateCollection { schema, .. } if schema.eviction_policy.is_some() => 7,
            Command::AlterCollection { change, .. } if change.eviction_policy.is_some() => 7,
            Command::InstallCollection(wanted) if wanted.schema.eviction_policy.is_some() => 7,
            Command::Remove(_) => 6,
            Command::Execute(_) | Command::Reclaim(_) => 4,
            Command::InstallCollection(_) => 3,
            _ => 2,
        };
        self.commands.iter().map(version).max().unwrap_or(2)
    }

    /// Its bytes in the log.
    pub fn encode(&self) -> Vec<u8> {
        // Most commands are small ones, but for calls that are carried out together.
        let calls = self.commands.iter().map(|envelope| match &envelope.command {
            Command::Execute(execution) => execution.calls.len(),
            _ => 0,
        });
        let some = ENVELOPE_BYTES * self.commands.len() + calls.sum::<usize>();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + some);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.version().to_le_bytes());
        bytes.extend_from_slice(&[0; HEADER_BYTES - 6]);
        // The archive aligns its parts by where they lie in all of it, and the header is as long as its strictest alignment.
        let mut bytes = rkyv::api::high::to_bytes_in::<_, rancor::Error>(self, bytes)
            .expect("serializing into memory does not fail");
        let length = (bytes.len() - HEADER_BYTES) as u64;
        bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        // Newest entries are kept: of one that is large, room that it grew beyond need is given back.
        if bytes.capacity() - bytes.len() > SPARE_BYTES_KEPT {
            bytes.shrink_to_fit();
        }
        bytes
    }

    /// An entry of its own, read from its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
        Entry::access(bytes, rkyv::deserialize::<Entry, rancor::Error>)?
            .map_err(|error| EntryError::Damaged(error.to_string()))
    }

    /// Reads an entry in place: `read` sees the archive for as long as it runs.
    ///
    /// An entry of version 1 is first turned into one of the newest, which takes a copy of it.
    pub fn access<R>(bytes: &[u8], read: impl FnOnce(&ArchivedEntry) -> R) -> Result<R, EntryError> {
        let (header, archive) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or_else(|| EntryError::Damaged("shorter than its header".into()))?;
        if header[..4] != *MAGIC {
            return Err(EntryError::Damaged("it does not begin as one".into()));
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version == 0 || version > ENTRY_VERSION {
            return Err(EntryError::UnknownVersion(version));
        }
        if header[6..8] != [0; 2] {
            return Err(EntryError::Damaged("its header has unknown flags".into()));
        }
        if header[8..] != (archive.len() as u64).to_le_bytes() {
            return Err(EntryError::Damaged("it has not the length that its header says".into()));
        }
        let mut copy = AlignedVec::<16>::new();
        let aligned = if archive.as_ptr().addr().is_multiple_of(16) {
            archive
        } else {
            copy.extend_from_slice(archive);
            copy.as_slice()
        };
        let damaged = |error: rancor::Error| EntryError::Damaged(error.to_string());
        let converted;
        let archive = match version {
            1 => {
                let old = rkyv::from_bytes::<v1::Entry, rancor::Error>(aligned).map_err(damaged)?;
                converted = rkyv::to_bytes::<rancor::Error>(&Entry::from(old)).map_err(damaged)?;
                converted.as_slice()
            }
            _ => aligned,
        };
        let entry = rkyv::access::<ArchivedEntry, rancor::Error>(archive).map_err(damaged)?;
        if entry.commands.len() >= Position::COMMANDS_MAX {
            return Err(EntryError::Damaged(format!("it has {} commands", entry.commands.len())));
        }
        let least = |envelope: &ArchivedEnvelope| match &envelope.command {
            ArchivedCommand::Write { conditions, .. } => {
                conditions.iter().map(|condition| condition.expect.version()).max().unwrap_or(2)
            }
            ArchivedCommand::CreateCollection { schema, .. } if schema.eviction_policy.is_some() => 7,
            ArchivedCommand::AlterCollection { change, .. } if change.eviction_policy.is_some() => 7,
            ArchivedCommand::InstallCollection(wanted) if wanted.schema.eviction_policy.is_some() => 7,
            ArchivedCommand::Remove(_) => 6,
            ArchivedCommand::Execute(_) | ArchivedCommand::Reclaim(_) => 4,
            ArchivedCommand::InstallCollection(_) => 3,
            _ => 2,
        };
        if entry.commands.iter().map(least).max().unwrap_or(2) != version.max(2) {
            return Err(EntryError::Damaged(format!("its commands are not those of version {version}")));
        }
        Ok(read(entry))
    }
}

#[cfg(test)]
pub(crate) mod tests;
