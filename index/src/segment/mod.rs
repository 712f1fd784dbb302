//! The segment: a sealed file of records, found by key and by nearness without being loaded.
//!
//! ```text
//!  0            4096 (or more, if the table is long)                           file_bytes
//!  +--------+--------------+-----------+-----------+---     ---+-------------+
//!  | header | table        | section   | section   |    ...    | section     |
//!  | 64     | 32 x count,  | page-     | each padded with zeros to 4096      |
//!  |        | zeros        | aligned   |           |           |             |
//!  +--------+--------------+-----------+-----------+---     ---+-------------+
//!
//!  header   0        8         12        16           24      28         32          40
//!           | magic  | version | count   | file_bytes | rows  | zero     | hash_seed | collection |
//!           48                56          60          64
//!           | zero            | table crc | header crc |
//!
//!  table    0      2       4       8            16          24       32
//!           | kind | field | crc   | offset     | bytes     | zero   |
//! ```
//!
//! All numbers are little-endian. The header's crc covers its first 60 bytes, the table's crc everything
//! from byte 64 to the first section, a section's crc the section and its padding: crc32 (IEEE) all
//! of them, so every byte of the file is under one. Magic is `LOCISEG` and a zero. The place and the
//! meaning of magic, version and header crc stay the same in every version to come, so that an old
//! program can tell a newer file from a damaged one.
//!
//! Rows are in the order of their keys' bytes; several versions of a key stand together, newest
//! (greatest `begin`) first. A row's number is its place in that order. Sections, with R rows:
//!
//! | kind | name | what it holds |
//! |---|---|---|
//! | 1 | meta | by rkyv: the collection, the fields and their graphs' parameters |
//! | 2, 3 | keys | R + 1 offsets (u64) into the bytes of all keys |
//! | 4 | begins | u64 x R: the log index at which a row began |
//! | 5 | deadlines | u64 x R: milliseconds since 1970, 0 for none |
//! | 6 | hashes | u128 x R: the keyed hash of the record |
//! | 7, 8 | values | R + 1 offsets (u64) into the bytes of all values; the top bit of a row's own offset says that it has no value, which is not the same as an empty one |
//! | 9, 10 | attributes | R + 1 offsets (u64) into the bytes of all encoded attributes |
//! | 11 | slots | u64 x a power of two, at least twice the number of keys: where a key's first row is |
//! | 20 | node rows | per field: u32 x N, the row of each embedding |
//! | 21 | row nodes | per field: u32 x R, the embedding of each row, u32::MAX for none |
//! | 22 | vectors | per field: N embeddings, f32 or f16, each padded with zeros to a multiple of 64 bytes |
//! | 23, 24 | graph | per field that has one: layer 0, and what is above it (see [`crate::graph`]) |
//! | 25, 26, 27 | codes | per field that has them: N codes, what they have beside them (2 f32 x N; a code with room for it holds it too), and the mean (see `crate::codes`) |
//! | 30 | attribute index | per declared index, by its number where a field's would be: see [`crate::attribute_index`] |
//! | 40, 41 | sparse | per sparse embedding: R + 1 offsets (u64) into the bytes of all; the top bit as with values |
//! | 42 | sparse index | per sparse embedding: rows by dimension (see [`crate::sparse`]) |
//! | 50 | text | per text: rows by word (see [`crate::text`]) |
//!
//! A slot is `u64::MAX` if empty, else the upper 32 bits of the key's xxh3 hash (seeded with
//! `hash_seed`) in its upper half and the row in its lower. A key's first slot is its hash modulo the
//! number of slots; taken slots are passed by one at a time.
//!
//! Opening checks everything: the crcs by reading (not through the mapping), the table, the lengths,
//! that offsets ascend and that rows and nodes point at each other. What a caller gets afterwards
//! never panics, whatever the file says.
//!
//! Embeddings that have a graph lie in an order in which those that are linked are often close to each other, which saves
//! a search some misses; without one they are in the order of rows.
//!
//! A section that a reader does not know is ignored, so sections can be added without a new version. Version 1 had no
//! codes, f32 only, and embeddings always in the order of rows; its meta says nothing of storage.

mod check;
mod indexes;
mod inverted;
mod nearest;
mod read;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use check::check;
pub use nearest::{Effort, Search};
pub use read::Segment;
pub(crate) use write::working_bytes;
pub use write::{Row, Rows, Spec, Written, write};

use crate::directory::DirectoryError;
use crate::distance::Metric;
use crate::graph::build::BuildError;

#[cfg(target_endian = "big")]
compile_error!("segments are cast in place, which takes a little-endian machine");

/// The version that is written, and the newest one that can be read.
pub const VERSION: u32 = 2;
/// The most embeddings a record can have.
pub const FIELDS_MAX: usize = 64;
/// The largest dimension an embedding can have.
pub const DIMENSION_MAX: u32 = 16_384;

const MAGIC: [u8; 8] = *b"LOCISEG\0";
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
/// Sections begin at multiples of this, which is a page of memory.
const PAGE: u64 = 4096;
/// Each embedding begins at a multiple of so many f32: a cache line.
const LINE_FLOATS: usize = 16;
/// Or, where they are f16, of so many of them.
const LINE_HALVES: usize = 32;
/// An empty slot, and no node.
const NO_SLOT: u64 = u64::MAX;
const NO_NODE: u32 = u32::MAX;
/// The mark of an offset whose row has no value.
const NO_VALUE: u64 = 1 << 63;
/// Meta is a few bytes for each field.
const META_BYTES_MAX: u64 = 1 << 20;

/// One embedding that records of a collection may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldSpec {
    /// Its name.
    pub name: String,
    /// How many components it has.
    pub dimension: u32,
    /// How two of them are compared.
    pub metric: Metric,
    /// Whether components are kept as f16. Writers have rounded them so already: nothing is lost here.
    pub half: bool,
    /// Whether there are codes for the search to walk on, as far as they serve.
    pub coded: bool,
}

/// The meta section.
#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Meta {
    collection: u64,
    fields: Vec<FieldMeta>,
}

#[derive(Debug, Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct FieldMeta {
    name: String,
    dimension: u32,
    metric: u8,
    /// 0 and 0 where there is no graph.
    m: u32,
    ef_construction: u32,
    half: bool,
    coded: bool,
}

/// The meta section of version 1.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Meta1 {
    collection: u64,
    fields: Vec<FieldMeta1>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct FieldMeta1 {
    name: String,
    dimension: u32,
    metric: u8,
    m: u32,
    ef_construction: u32,
}

impl From<Meta1> for Meta {
    fn from(meta: Meta1) -> Meta {
        let fields = meta.fields.into_iter().map(|field| {
            let FieldMeta1 { name, dimension, metric, m, ef_construction } = field;
            FieldMeta { name, dimension, metric, m, ef_construction, half: false, coded: false }
        });
        Meta { collection: meta.collection, fields: fields.collect() }
    }
}

/// What a section is, by the numbers of the front page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
enum Kind {
    Meta = 1,
    KeyOffsets = 2,
    KeyBytes = 3,
    Begins = 4,
    Deadlines = 5,
    Hashes = 6,
    ValueOffsets = 7,
    ValueBytes = 8,
    AttributeOffsets = 9,
    AttributeBytes = 10,
    Slots = 11,
    NodeRows = 20,
    RowNodes = 21,
    Vectors = 22,
    Layer0 = 23,
    Upper = 24,
    Codes = 25,
    Beside = 26,
    Mean = 27,
    AttributeIndex = 30,
    SparseOffsets = 40,
    SparseBytes = 41,
    SparseIndex = 42,
    Text = 50,
}

/// Where a key's slots begin, and the half of its hash that a slot keeps.
fn slot_of(key: &[u8], seed: u64, slots: usize) -> (usize, u64) {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(key, seed);
    // The number of slots is a power of two.
    ((hash as usize) & (slots.max(1) - 1), hash & !u64::from(u32::MAX))
}

/// An embedding's distance from the next, in components.
fn stride_of(dimension: u32, half: bool) -> usize {
    (dimension as usize).next_multiple_of(if half { LINE_HALVES } else { LINE_FLOATS })
}

/// Why a segment could not be written, opened or searched.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The directory failed; where the disk is full, free space and try again.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The graph could not be built.
    #[error("segment {file}: {source}")]
    Graph {
        /// The file.
        file: String,
        /// Why.
        source: BuildError,
    },
    /// The caller's flag was raised.
    #[error("writing segment {0} was cancelled")]
    Cancelled(String),
    /// It does not begin like a segment.
    #[error("file {0} is not a segment: it does not begin with LOCISEG")]
    NotASegment(String),
    /// A newer program wrote it. The file is fine; this program is too old.
    #[error("segment {file} has version {version}, newer than {VERSION}: use the program that wrote it")]
    UnknownVersion {
        /// The file.
        file: String,
        /// Its version.
        version: u32,
    },
    /// It was whole once and is damaged now. Take it out of service and get its records from
    /// another member.
    #[error("segment {file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where the damaged part begins.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// What the caller wants to write is not a segment.
    #[error("segment {file} cannot be written: {what} (row {row})")]
    Rows {
        /// The file.
        file: String,
        /// The first row that is wrong.
        row: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The fields are not what a segment can have.
    #[error("segment {file} cannot be written: {what}")]
    Spec {
        /// The file.
        file: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A query for a field that is not there, or of another dimension.
    #[error("a query of {got} components does not fit field {field} of segment {file}")]
    Query {
        /// The file.
        file: String,
        /// Which field, counted from 0.
        field: usize,
        /// The query's dimension.
        got: usize,
    },
}
