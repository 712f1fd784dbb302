//! The view: a picture of the store that no longer changes, and all reads.
//!
//! ```text
//!   View = position + clock + Arc<Structure>
//!                                 |
//!                namespaces, collections: schema, buffers (newest first), segments (newest first)
//! ```
//!
//! A version is visible to a view if it began at or before the view's position and has not ended by then. Buffers and
//! the ends of versions go on changing underneath, but only with later positions, so the picture stands still while the
//! structure is shared: making a view costs the same however much is stored.
//!
//! A collection may lie in several stores, a part in each. [`Parts`] reads several as one; there each part is as its own view
//! shows it, with its own position and clock.
//!
//! Reads take `now` in milliseconds since 1970 and hide what has expired by then, or by the view's own clock if that is
//! later. They hold no lock and await nothing; long ones ask `keep_going` again and again and stop when it says no.

mod ask;
mod check;
mod explain;
mod finish;
mod group;
mod lists;
mod parts;
mod scan;
mod search;
mod select;
mod sparse;
mod stats;
mod text;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use check::Checked;
pub use explain::{Clock, Explanation, Step, Way};
pub use finish::Carried;
pub use parts::Parts;
pub use scan::{Cancelled, ScanPage, ScanRequest};
pub use search::{Effort, Hit, SearchError, SearchRequest, SearchResult, SearchScratch};
pub use select::Covered;
pub use stats::{CollectionStats, SegmentStats, StoreStats};

use crate::buffer::{Buffer, Row};
use crate::command::Schema;
use crate::distance::{Kernel, Metric};
use crate::record::{CollectionId, Position, SPARSE_MAX};
use crate::sealed::Sealed;
use crate::segment::Segment;
use crate::table::Table;

/// What changes only when collections are made, changed or dropped, and when buffers and segments are.
pub(crate) struct Structure {
    /// The ids of each namespace's collections by name.
    pub namespaces: BTreeMap<String, BTreeMap<String, CollectionId>>,
    /// Ascending by id.
    pub collections: Vec<Arc<Collection>>,
    /// The part of the digest that is about the above.
    pub catalog_hash: [u8; 32],
    pub digest_key: [u8; 32],
}

impl Structure {
    pub fn place(&self, id: CollectionId) -> Option<usize> {
        self.collections.binary_search_by_key(&id, |collection| collection.id).ok()
    }
}

/// One collection's rules, buffers and segments.
#[derive(Clone)]
pub(crate) struct Collection {
    pub id: CollectionId,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub schema: Arc<Schema>,
    pub fields: Arc<[Field]>,
    /// Newest first; the first is the one that is written to.
    pub buffers: Vec<Arc<Buffer>>,
    /// Newest first.
    pub segments: Vec<Arc<Sealed>>,
    /// Its typed values, once it had any.
    pub table: Option<Arc<Table>>,
}

/// One named embedding, ready to be compared.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub dimension: usize,
    pub metric: Metric,
    pub kernel: Kernel,
}

/// What is counted for each collection with every entry.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Live {
    /// Records that have not ended.
    pub records: u64,
    /// How many of them have a deadline.
    pub timed: u64,
    /// Their bytes: keys, values, attributes and embeddings.
    pub bytes: u64,
}

/// What is counted for the whole store with every entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub chain_head: [u8; 32],
    pub record_sum: u128,
    pub requests: u64,
    pub request_bytes: u64,
    pub requests_evicted: u64,
    pub memory_bytes: u64,
}

/// A picture of the store that no longer changes.
pub struct View {
    pub(crate) index: u64,
    pub(crate) clock: u64,
    pub(crate) structure: Arc<Structure>,
    /// In the order of the structure's collections.
    pub(crate) live: Box<[Live]>,
    /// The earliest deadline of a record that has not ended.
    pub(crate) due: Option<u64>,
    pub(crate) totals: Totals,
}

/// Where the newest view is found, from any thread.
#[derive(Clone)]
pub struct ViewHandle(pub(crate) Arc<ArcSwap<View>>);

impl ViewHandle {
    /// The newest view.
    pub fn load(&self) -> Arc<View> {
        self.0.load_full()
    }
}

impl View {
    /// The last position it can see.
    pub fn position(&self) -> Position {
        Position::end_of(self.index)
    }

    /// The last applied entry it can see.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The log's clock then: milliseconds since 1970.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// The earliest deadline of a record that has not been ended, if one has a deadline.
    pub fn due(&self) -> Option<u64> {
        self.due
    }

    /// The names of all namespaces, sorted.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.structure.namespaces.keys().map(String::as_str)
    }

    /// Whether there is such a namespace.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.structure.namespaces.contains_key(name)
    }

    /// All collections, ascending by id: in the order in which they were made, wherever that was.
    pub fn collections(&self) -> impl Iterator<Item = CollectionView<'_>> {
        (0..self.structure.collections.len()).filter_map(|place| self.at(place))
    }

    /// The collection of that name.
    pub fn collection(&self, namespace: &str, name: &str) -> Option<CollectionView<'_>> {
        self.collection_by_id(*self.structure.namespaces.get(namespace)?.get(name)?)
    }

    /// The collection with that id.
    pub fn collection_by_id(&self, id: CollectionId) -> Option<CollectionView<'_>> {
        self.at(self.structure.place(id)?)
    }

    /// All segments, with their numbers. A segment keeps its number as long as it is there.
    pub fn segments(&self) -> impl Iterator<Item = (u64, &Segment)> {
        let collections = self.structure.collections.iter();
        collections.flat_map(|collection| &collection.segments).map(|sealed| (sealed.file, &sealed.segment))
    }

    fn at(&self, place: usize) -> Option<CollectionView<'_>> {
        let collection = self.structure.collections.get(place)?;
        Some(CollectionView { collection, live: *self.live.get(place)?, view: self })
    }
}

/// One collection of a view.
#[derive(Clone, Copy)]
pub struct CollectionView<'v> {
    collection: &'v Collection,
    live: Live,
    view: &'v View,
}

impl<'v> CollectionView<'v> {
    /// Its id.
    pub fn id(&self) -> CollectionId {
        self.collection.id
    }

    /// The namespace it belongs to.
    pub fn namespace(&self) -> &'v str {
        &self.collection.namespace
    }

    /// Its name.
    pub fn name(&self) -> &'v str {
        &self.collection.name
    }

    /// Its rules.
    pub fn schema(&self) -> &'v Schema {
        &self.collection.schema
    }

    /// Its typed values, if it ever had any. They are not a picture: they are at least as new as the view, and go on.
    pub fn table(&self) -> Option<&'v Arc<Table>> {
        self.collection.table.as_ref()
    }

    /// The number of the sparse embedding of that name.
    pub fn sparse_field(&self, name: &str) -> Option<u16> {
        u16::try_from(self.schema().sparse.iter().position(|sparse| sparse.name == name)?).ok()
    }

    /// The number of the embedding of that name.
    pub fn field(&self, name: &str) -> Option<u16> {
        let place = self.schema().embeddings.iter().position(|embedding| embedding.name == name)?;
        u16::try_from(place).ok()
    }

    /// The record with that key.
    pub fn get(&self, key: &[u8], now: u64) -> Option<RecordRef<'v>> {
        let position = self.view.position();
        let in_buffer = |buffer: &'v Arc<Buffer>| Some(RecordRef(Place::Buffer(buffer.find(key, position)?.1)));
        let in_segment = |sealed: &'v Arc<Sealed>| Some(RecordRef(Place::Segment(sealed, sealed.find(key, position)?)));
        let record = self.collection.buffers.iter().find_map(in_buffer);
        let record = record.or_else(|| self.collection.segments.iter().find_map(in_segment))?;
        (!self.expired(record.deadline(), now)).then_some(record)
    }

    /// The version of a record that was there at a position, expired or not, replaced since or not. None also where that
    /// version was replaced and is no longer kept.
    pub fn version_at(&self, key: &[u8], position: Position) -> Option<RecordRef<'v>> {
        let in_buffer = |buffer: &'v Arc<Buffer>| Some(RecordRef(Place::Buffer(buffer.find(key, position)?.1)));
        let in_segment = |sealed: &'v Arc<Sealed>| Some(RecordRef(Place::Segment(sealed, sealed.find(key, position)?)));
        let found = self.collection.buffers.iter().find_map(in_buffer);
        found.or_else(|| self.collection.segments.iter().find_map(in_segment))
    }

    /// Whether a record with this deadline no longer exists.
    fn expired(&self, deadline: u64, now: u64) -> bool {
        deadline != 0 && deadline <= now.max(self.view.clock)
    }
}

/// A record where it lies. Lives as long as the view it was found in.
#[derive(Clone, Copy)]
pub struct RecordRef<'v>(Place<'v>);

#[derive(Clone, Copy)]
enum Place<'v> {
    Buffer(&'v Row),
    Segment(&'v Sealed, u32),
}

impl<'v> RecordRef<'v> {
    pub(crate) fn of_row(row: &'v Row) -> RecordRef<'v> {
        RecordRef(Place::Buffer(row))
    }

    pub(crate) fn of_segment(sealed: &'v Sealed, row: u32) -> RecordRef<'v> {
        RecordRef(Place::Segment(sealed, row))
    }

    /// Its key.
    pub fn key(&self) -> &'v [u8] {
        match self.0 {
            Place::Buffer(row) => row.key(),
            Place::Segment(sealed, row) => sealed.segment.key(row),
        }
    }

    /// Its value.
    pub fn value(&self) -> Option<&'v [u8]> {
        match self.0 {
            Place::Buffer(row) => row.value(),
            Place::Segment(sealed, row) => sealed.segment.value(row),
        }
    }

    /// Its encoded attributes ([`crate::attributes`]).
    pub fn attributes(&self) -> &'v [u8] {
        match self.0 {
            Place::Buffer(row) => row.attributes(),
            Place::Segment(sealed, row) => sealed.segment.attributes(row),
        }
    }

    /// Its embedding by the field's number, as it is compared (length 1 under cosine).
    pub fn embedding(&self, field: u16) -> Option<Cow<'v, [f32]>> {
        match self.0 {
            Place::Buffer(row) => row.embedding(usize::from(field)).map(Cow::Borrowed),
            Place::Segment(sealed, row) => sealed.segment.embedding(usize::from(field), row),
        }
    }

    /// Its sparse embedding by the number in the schema, as [`crate::sparse::decode`] reads it.
    pub fn sparse(&self, field: u16) -> Option<&'v [u8]> {
        match self.0 {
            Place::Buffer(row) => row.sparse().get(usize::from(field))?.as_deref(),
            Place::Segment(sealed, row) => sealed.segment.sparse(field, row),
        }
    }

    /// Whether it has an embedding of that number.
    pub fn has_embedding(&self, field: u16) -> bool {
        match self.0 {
            Place::Buffer(row) => row.embedding(usize::from(field)).is_some(),
            Place::Segment(sealed, row) => sealed.segment.node(usize::from(field), row).is_some(),
        }
    }

    /// The position of the command that wrote it, as [`Position::get`] gives it.
    pub fn version(&self) -> u64 {
        match self.0 {
            Place::Buffer(row) => row.begin.get(),
            Place::Segment(sealed, row) => sealed.segment.begin(row),
        }
    }

    /// When it stops existing: milliseconds since 1970. Zero: never.
    pub fn deadline(&self) -> u64 {
        match self.0 {
            Place::Buffer(row) => row.deadline,
            Place::Segment(sealed, row) => sealed.segment.deadline(row),
        }
    }

    /// Where it lies in a segment, if it does.
    pub(crate) fn segment_row(&self) -> Option<(&'v Segment, u32)> {
        match self.0 {
            Place::Buffer(_) => None,
            Place::Segment(sealed, row) => Some((&sealed.segment, row)),
        }
    }

    pub(crate) fn hash(&self) -> u128 {
        match self.0 {
            Place::Buffer(row) => row.hash,
            Place::Segment(sealed, row) => sealed.segment.hash(row),
        }
    }

    /// The bytes of its key, value, attributes and embeddings.
    pub(crate) fn bytes(&self, fields: &[Field]) -> u64 {
        if let Place::Buffer(row) = self.0 {
            return row.content_bytes() as u64;
        }
        let embeddings = (0..).zip(fields).filter(|&(field, _)| self.has_embedding(field));
        let embeddings = embeddings.map(|(_, field)| field.dimension * 4).sum::<usize>();
        let sparse = (0..SPARSE_MAX as u16).filter_map(|field| self.sparse(field)).map(<[u8]>::len).sum::<usize>();
        let value = self.value().map_or(0, <[u8]>::len);
        (self.key().len() + value + self.attributes().len() + embeddings + sparse) as u64
    }
}

impl std::fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record {:?} version {}", String::from_utf8_lossy(self.key()), self.version())
    }
}
