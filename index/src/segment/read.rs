//! Reading a segment: everything is checked when it opens, and cast where it lies.
//!
//! Nothing here is unsafe: a cast that does not fit is an empty slice, an offset that leads out of
//! its section is an empty item. Neither occurs in a file that opened.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::AnyBitPattern;

use super::indexes::Indexes;
use super::inverted::Inverted;
use super::{
    DIMENSION_MAX, ENTRY_BYTES, FIELDS_MAX, FieldMeta, FieldSpec, HEADER_BYTES, Kind, MAGIC, META_BYTES_MAX, Meta,
    Meta1, NO_NODE, NO_SLOT, NO_VALUE, PAGE, SegmentError, VERSION, slot_of, stride_of,
};
use crate::codes::{self, Codes};
use crate::directory::{Directory, Mapped, Named, Readable};
use crate::distance::Metric;
use crate::graph::search::CodeBook;
use crate::graph::{GraphRef, GraphShape, Vectors};
use crate::way;

/// Reading and checking so much takes about fifty microseconds.
const GIVING_WAY_BYTES: usize = 256 << 10;

/// An open segment. It stays readable after its file was removed.
pub struct Segment {
    name: String,
    mapped: Arc<Mapped>,
    rows: u32,
    hash_seed: u64,
    collection: u64,
    specs: Vec<FieldSpec>,
    pub(super) fields: Vec<Field>,
    key_offsets: Range<usize>,
    key_bytes: Range<usize>,
    begins: Range<usize>,
    deadlines: Range<usize>,
    hashes: Range<usize>,
    value_offsets: Range<usize>,
    value_bytes: Range<usize>,
    attribute_offsets: Range<usize>,
    attribute_bytes: Range<usize>,
    slots: Range<usize>,
    indexes: Indexes,
    pub(super) inverted: Inverted,
}

pub(super) struct Field {
    pub dimension: usize,
    stride: usize,
    metric: Metric,
    half: bool,
    pub nodes: u32,
    pub node_rows: Range<usize>,
    row_nodes: Range<usize>,
    vectors: Range<usize>,
    graph: Option<Graph>,
    codes: Option<CodeRanges>,
}

struct CodeRanges {
    rows: Range<usize>,
    beside: Range<usize>,
    /// Whether the rows hold what is beside them too.
    inside: bool,
    mean: Range<usize>,
}

struct Graph {
    shape: GraphShape,
    layer0: Range<usize>,
    upper: Range<usize>,
}

impl Segment {
    /// Opens a segment after checking every byte of it; the cost is reading the file once.
    pub fn open(directory: &dyn Directory, name: &str) -> Result<Segment, SegmentError> {
        let file = Named { directory, name };
        let opening = Opening::of(&file)?;
        let head = opening.head()?;
        let table = opening.table(&head)?;
        let mapped = directory.open(name)?;
        if mapped.len() as u64 != opening.file_bytes {
            return Err(opening.corrupt(16, "the file has changed its length"));
        }
        let meta = opening.meta(&head, &table)?;
        if meta.collection != head.collection {
            return Err(opening.corrupt(40, "header and meta name different collections"));
        }
        opening.assemble(head, &table, meta, mapped)
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How large the file is.
    pub fn file_bytes(&self) -> u64 {
        self.mapped.len() as u64
    }

    /// The collection whose records these are.
    pub fn collection(&self) -> u64 {
        self.collection
    }

    /// How many rows there are.
    pub fn len(&self) -> u32 {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The embeddings that rows may have.
    pub fn fields(&self) -> &[FieldSpec] {
        &self.specs
    }

    /// A row's key; empty for a row that is not there.
    pub fn key(&self, row: u32) -> &[u8] {
        self.item(&self.key_offsets, &self.key_bytes, row).unwrap_or_default()
    }

    /// The log index at which a row began.
    pub fn begin(&self, row: u32) -> u64 {
        self.cast::<u64>(&self.begins).get(row as usize).copied().unwrap_or(0)
    }

    /// The moment a row's record stops to exist, in milliseconds since 1970; 0 for none.
    pub fn deadline(&self, row: u32) -> u64 {
        self.cast::<u64>(&self.deadlines).get(row as usize).copied().unwrap_or(0)
    }

    /// The keyed hash of a row's record.
    pub fn hash(&self, row: u32) -> u128 {
        let (hashes, _) = self.part(&self.hashes).as_chunks::<16>();
        hashes.get(row as usize).map_or(0, |bytes| u128::from_le_bytes(*bytes))
    }

    /// A row's value, if it has one.
    pub fn value(&self, row: u32) -> Option<&[u8]> {
        self.item(&self.value_offsets, &self.value_bytes, row)
    }

    /// A row's encoded attributes.
    pub fn attributes(&self, row: u32) -> &[u8] {
        self.item(&self.attribute_offsets, &self.attribute_bytes, row).unwrap_or_default()
    }

    /// All versions of a key, newest first; empty if there are none.
    pub fn find(&self, key: &[u8]) -> Range<u32> {
        let slots = self.cast::<u64>(&self.slots);
        let (mut at, tag) = slot_of(key, self.hash_seed, slots.len());
        for _ in 0..slots.len() {
            let Some(&slot) = slots.get(at) else { break };
            if slot == NO_SLOT {
                break;
            }
            let first = slot as u32;
            if slot & !u64::from(u32::MAX) == tag && self.key(first) == key {
                let others = (first + 1..self.rows).find(|&row| self.key(row) != key);
                return first..others.unwrap_or(self.rows);
            }
            at = (at + 1) & (slots.len() - 1);
        }
        0..0
    }

    /// The first place that a look for the key looks at, whatever is in it.
    pub(crate) fn look(&self, key: &[u8]) -> u64 {
        let slots = self.cast::<u64>(&self.slots);
        slots.get(slot_of(key, self.hash_seed, slots.len()).0).copied().unwrap_or(NO_SLOT)
    }

    /// The first row whose key is not before `key`; `len()` if there is none.
    pub fn lower_bound(&self, key: &[u8]) -> u32 {
        let (mut low, mut high) = (0, self.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// A row's embedding for a field, if it has one, as the metric prepared it. Lent where it lies, unless it is kept as f16.
    pub fn embedding(&self, field: usize, row: u32) -> Option<Cow<'_, [f32]>> {
        let node = self.node(field, row)?;
        let field = self.fields.get(field)?;
        let start = node as usize * field.stride;
        let range = start..start + field.dimension;
        if field.half {
            let halves = self.cast::<u16>(&field.vectors).get(range)?;
            Some(halves.iter().map(|&bits| half::f16::from_bits(bits).to_f32()).collect())
        } else {
            self.cast::<f32>(&field.vectors).get(range).map(Cow::Borrowed)
        }
    }

    /// The node of a row's embedding.
    pub(crate) fn node(&self, field: usize, row: u32) -> Option<u32> {
        let nodes = self.cast::<u32>(&self.fields.get(field)?.row_nodes);
        nodes.get(row as usize).copied().filter(|&node| node != NO_NODE)
    }

    /// A field's graph.
    pub(crate) fn graph(&self, field: usize) -> Option<GraphRef<'_>> {
        let graph = self.fields.get(field)?.graph.as_ref()?;
        Some(GraphRef::new(&graph.shape, self.cast::<u32>(&graph.layer0), self.cast::<u32>(&graph.upper)))
    }

    /// Whether a field has a graph with room for so many links.
    pub(crate) fn links_like(&self, field: usize, m: usize) -> bool {
        self.graph(field).is_some_and(|graph| graph.m() == m)
    }

    /// Whether a field's embeddings have codes for the search to walk on.
    pub fn has_codes(&self, field: usize) -> bool {
        self.fields.get(field).is_some_and(|field| field.codes.is_some())
    }

    pub(super) fn vectors<'s>(&'s self, field: &Field) -> Vectors<'s> {
        let (metric, stride, dimension) = (field.metric, field.stride, field.dimension);
        if field.half {
            Vectors::halves(metric, self.cast::<u16>(&field.vectors), stride, dimension)
        } else {
            Vectors::new(metric, self.cast::<f32>(&field.vectors), stride, dimension)
        }
    }

    pub(super) fn code_book<'s>(&'s self, field: &Field) -> Option<CodeBook<'s>> {
        let ranges = field.codes.as_ref()?;
        let (rows, beside) = (self.part(&ranges.rows), self.cast(&ranges.beside));
        let codes = Codes::new(rows, beside, field.dimension).inside(ranges.inside);
        Some(CodeBook { codes, metric: field.metric, mean: self.cast::<f32>(&ranges.mean) })
    }

    /// How many rows have an embedding for a field.
    pub fn embeddings(&self, field: usize) -> u32 {
        self.fields.get(field).map_or(0, |field| field.nodes)
    }

    /// Whether a field's embeddings are linked in a graph.
    pub fn has_graph(&self, field: usize) -> bool {
        self.fields.get(field).is_some_and(|field| field.graph.is_some())
    }

    /// Reads all of it into memory now, as far as it fits.
    pub fn keep_hot(&self) {
        self.mapped.advise_normal(0..self.mapped.len());
        self.mapped.populate(0..self.mapped.len());
    }

    /// Reads what searches walk on into memory now. The rest, of which a search reads a few rows, is cold.
    pub fn keep_walk_hot(&self) {
        self.keep_cold();
        for range in self.walked() {
            self.mapped.advise_normal(range.clone());
            self.mapped.populate(range);
        }
    }

    /// Says that this segment is larger than the memory there is for it: a miss then reads one page
    /// and evicts nothing else.
    pub fn keep_cold(&self) {
        self.mapped.advise_random(0..self.mapped.len());
    }

    /// How many bytes of it searches walk on.
    pub fn walked_bytes(&self) -> u64 {
        self.walked().map(|range| range.len() as u64).sum()
    }

    /// Gives the memory of about so many bytes back to the system, from a place in the file on; what searches walk on
    /// stays if `keep_walk`. Gives the place to go on from, `None` at the end of the file.
    pub fn shed(&self, from: u64, bytes: u64, keep_walk: bool) -> Option<u64> {
        let len = self.mapped.len();
        let start = usize::try_from(from).unwrap_or(len).min(len);
        let end = start.saturating_add(usize::try_from(bytes).unwrap_or(len)).min(len);
        let mut kept: Vec<Range<usize>> = if keep_walk { self.walked().collect() } else { Vec::new() };
        kept.sort_unstable_by_key(|range| range.start);
        let mut at = start;
        for range in kept {
            self.mapped.page_out(at..range.start.clamp(at, end));
            at = at.max(range.end).min(end);
        }
        self.mapped.page_out(at..end);
        (end < len).then_some(end as u64)
    }

    /// Where the graphs are and what is compared on the way through them.
    fn walked(&self) -> impl Iterator<Item = Range<usize>> {
        self.fields.iter().flat_map(|field| {
            let graph = field.graph.iter().flat_map(|graph| [graph.layer0.clone(), graph.upper.clone()]);
            let codes = field.codes.iter().flat_map(|codes| [codes.rows.clone(), codes.beside.clone()]);
            let vectors = field.codes.is_none().then(|| field.vectors.clone());
            graph.chain(codes).chain(vectors).chain([field.node_rows.clone()])
        })
    }

    pub(super) fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    pub(super) fn part(&self, range: &Range<usize>) -> &[u8] {
        self.mapped.get(range.clone()).unwrap_or_default()
    }

    pub(super) fn cast<T: AnyBitPattern>(&self, range: &Range<usize>) -> &[T] {
        bytemuck::try_cast_slice(self.part(range)).unwrap_or_default()
    }

    /// Whether offsets divide `bytes` into one part for each row.
    pub(super) fn check_offsets(
        &self,
        opening: &Opening<'_>,
        offsets: &Range<usize>,
        bytes: &Range<usize>,
    ) -> Result<(), SegmentError> {
        let mut all = self.cast::<u64>(offsets).iter().map(|offset| offset & !NO_VALUE);
        let whole =
            all.clone().next() == Some(0) && all.clone().is_sorted() && all.next_back() == Some(bytes.len() as u64);
        if whole { Ok(()) } else { Err(opening.corrupt(offsets.start as u64, "offsets do not ascend")) }
    }

    /// The part of `bytes` between a row's offset and the next one's.
    pub(super) fn item(&self, offsets: &Range<usize>, bytes: &Range<usize>, row: u32) -> Option<&[u8]> {
        let offsets = self.cast::<u64>(offsets);
        let start = *offsets.get(row as usize)?;
        let end = *offsets.get(row as usize + 1)? & !NO_VALUE;
        if start & NO_VALUE != 0 {
            return None;
        }
        self.part(bytes).get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({}, {} rows)", self.name, self.rows)
    }
}

/// A segment that is being checked.
pub(super) struct Opening<'a> {
    file: &'a dyn Readable,
    file_bytes: u64,
}

pub(super) struct Head {
    version: u32,
    section_count: u32,
    rows: u32,
    hash_seed: u64,
    collection: u64,
    table_crc: u32,
}

/// A line of the table whose section has not been looked at yet.
pub(super) struct Line {
    kind: u16,
    field: u16,
    /// Where the section and its padding are, and what is in there together.
    pub start: u64,
    pub end: u64,
    pub crc: u32,
    /// How many bytes are the section's.
    bytes: u64,
}

/// A line of the table. Kinds that are not known stay in it.
pub(super) struct Entry {
    kind: u16,
    field: u16,
    range: Range<usize>,
}

impl Entry {
    pub(super) fn is(&self, kind: Kind, field: u16) -> bool {
        self.kind == kind as u16 && self.field == field
    }
}

/// More sections than this no version 1 program writes.
const SECTIONS_MAX: u32 = 1024;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    part.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
    part.map_or(0, u64::from_le_bytes)
}

impl Opening<'_> {
    pub(super) fn of(file: &dyn Readable) -> Result<Opening<'_>, SegmentError> {
        Ok(Opening { file, file_bytes: file.bytes()? })
    }

    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> SegmentError {
        SegmentError::Corrupt { file: self.file.name().to_string(), offset, what }
    }

    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>, SegmentError> {
        let mut bytes = Vec::new();
        self.file.read_range(range, &mut |part| bytes.extend_from_slice(part))?;
        Ok(bytes)
    }

    /// The crc is believed first, then the version, then the rest.
    pub(super) fn head(&self) -> Result<Head, SegmentError> {
        let head = self.bytes(0..self.file_bytes.min(HEADER_BYTES as u64))?;
        if !head.starts_with(&MAGIC) {
            return Err(SegmentError::NotASegment(self.file.name().to_string()));
        }
        if head.len() < HEADER_BYTES || crc32fast::hash(&head[..60]) != u32_at(&head, 60) {
            return Err(self.corrupt(0, "the header's checksum is wrong"));
        }
        let version = u32_at(&head, 8);
        if version > VERSION {
            return Err(SegmentError::UnknownVersion { file: self.file.name().to_string(), version });
        }
        if version == 0 {
            return Err(self.corrupt(8, "there never was such a version"));
        }
        if u64_at(&head, 16) != self.file_bytes {
            return Err(self.corrupt(16, "the file has not the length that its header says"));
        }
        Ok(Head {
            version,
            section_count: u32_at(&head, 12),
            rows: u32_at(&head, 24),
            hash_seed: u64_at(&head, 32),
            collection: u64_at(&head, 40),
            table_crc: u32_at(&head, 56),
        })
    }

    /// The lines of the table. Their sections fill the file without gaps, so every byte is under a checksum.
    pub(super) fn lines(&self, head: &Head) -> Result<Vec<Line>, SegmentError> {
        let table_at = HEADER_BYTES as u64;
        if head.section_count > SECTIONS_MAX {
            return Err(self.corrupt(12, "there are too many sections"));
        }
        let used = head.section_count as usize * ENTRY_BYTES;
        let mut next = (table_at + used as u64).next_multiple_of(PAGE);
        if next > self.file_bytes {
            return Err(self.corrupt(table_at, "the table is cut off"));
        }
        let table = self.bytes(table_at..next)?;
        if crc32fast::hash(&table) != head.table_crc {
            return Err(self.corrupt(table_at, "the table's checksum is wrong"));
        }
        let mut lines = Vec::new();
        for entry in table[..used].chunks_exact(ENTRY_BYTES) {
            let kinds = u32_at(entry, 0);
            let (crc, start, bytes) = (u32_at(entry, 4), u64_at(entry, 8), u64_at(entry, 16));
            let end = start.checked_add(bytes).filter(|end| *end <= self.file_bytes);
            let Some(end) = end.filter(|_| start == next) else {
                return Err(self.corrupt(table_at, "a section is not where it should be"));
            };
            next = end.next_multiple_of(PAGE);
            if next > self.file_bytes {
                return Err(self.corrupt(start, "the last section is cut off"));
            }
            lines.push(Line { kind: kinds as u16, field: (kinds >> 16) as u16, start, end: next, crc, bytes });
        }
        if next != self.file_bytes {
            return Err(self.corrupt(next, "there is something after the last section"));
        }
        Ok(lines)
    }

    /// The table, after the checksums of all sections.
    fn table(&self, head: &Head) -> Result<Vec<Entry>, SegmentError> {
        let mut entries = Vec::new();
        for Line { kind, field, start, end, crc, bytes } in self.lines(head)? {
            let mut hasher = crc32fast::Hasher::new();
            self.file.read_range(start..end, &mut |part| {
                hasher.update(part);
                // Small parts are read at once.
                if part.len() >= GIVING_WAY_BYTES {
                    way::give();
                }
            })?;
            if hasher.finalize() != crc {
                return Err(self.corrupt(start, "a section's checksum is wrong"));
            }
            let (Ok(first), Ok(last)) = (usize::try_from(start), usize::try_from(start + bytes)) else {
                return Err(self.corrupt(start, "the file is too large for this machine"));
            };
            entries.push(Entry { kind, field, range: first..last });
        }
        Ok(entries)
    }

    fn meta(&self, head: &Head, table: &[Entry]) -> Result<Meta, SegmentError> {
        let range = self.section(table, Kind::Meta, 0)?;
        let (start, end) = (range.start as u64, range.end as u64);
        if end - start > META_BYTES_MAX {
            return Err(self.corrupt(start, "the meta section is too long"));
        }
        let bytes = self.bytes(start..end)?;
        let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(&bytes);
        let meta = match head.version {
            1 => rkyv::from_bytes::<Meta1, rkyv::rancor::Error>(&aligned).map(Meta::from),
            _ => rkyv::from_bytes::<Meta, rkyv::rancor::Error>(&aligned),
        };
        let meta = meta.map_err(|_| self.corrupt(start, "the meta section makes no sense"))?;
        if meta.fields.len() > FIELDS_MAX {
            return Err(self.corrupt(start, "there are too many fields"));
        }
        Ok(meta)
    }

    pub(super) fn section(&self, table: &[Entry], kind: Kind, field: u16) -> Result<Range<usize>, SegmentError> {
        let entry = table.iter().find(|entry| entry.is(kind, field));
        match entry {
            Some(entry) => Ok(entry.range.clone()),
            None => Err(self.corrupt(HEADER_BYTES as u64, "a section is missing")),
        }
    }

    /// A section of exactly `count` items of `size` bytes.
    pub(super) fn exactly(
        &self,
        table: &[Entry],
        kind: Kind,
        field: u16,
        count: usize,
        size: usize,
    ) -> Result<Range<usize>, SegmentError> {
        let range = self.section(table, kind, field)?;
        if count.checked_mul(size) != Some(range.len()) {
            return Err(self.corrupt(range.start as u64, "a section has the wrong length"));
        }
        Ok(range)
    }

    fn assemble(&self, head: Head, table: &[Entry], meta: Meta, mapped: Arc<Mapped>) -> Result<Segment, SegmentError> {
        let rows = head.rows as usize;
        let each = |kind, size| self.exactly(table, kind, 0, rows, size);
        let offsets = |kind| self.exactly(table, kind, 0, rows + 1, 8);
        let bytes = |kind| self.section(table, kind, 0);
        let mut segment = Segment {
            name: self.file.name().to_string(),
            rows: head.rows,
            hash_seed: head.hash_seed,
            collection: head.collection,
            specs: Vec::new(),
            fields: Vec::new(),
            key_offsets: offsets(Kind::KeyOffsets)?,
            key_bytes: bytes(Kind::KeyBytes)?,
            begins: each(Kind::Begins, 8)?,
            deadlines: each(Kind::Deadlines, 8)?,
            hashes: each(Kind::Hashes, 16)?,
            value_offsets: offsets(Kind::ValueOffsets)?,
            value_bytes: bytes(Kind::ValueBytes)?,
            attribute_offsets: offsets(Kind::AttributeOffsets)?,
            attribute_bytes: bytes(Kind::AttributeBytes)?,
            slots: bytes(Kind::Slots)?,
            indexes: Indexes::default(),
            inverted: Inverted::default(),
            mapped,
        };
        let indexes = table.iter().filter(|entry| entry.kind == Kind::AttributeIndex as u16);
        segment.indexes =
            Indexes::open(indexes.map(|entry| (entry.range.clone(), segment.part(&entry.range))), head.rows);
        let slots = segment.slots.len() / 8;
        if !segment.slots.len().is_multiple_of(8) || !slots.is_power_of_two() {
            return Err(self.corrupt(segment.slots.start as u64, "the slots are miscounted"));
        }
        for (offsets, bytes) in [
            (&segment.key_offsets, &segment.key_bytes),
            (&segment.value_offsets, &segment.value_bytes),
            (&segment.attribute_offsets, &segment.attribute_bytes),
        ] {
            segment.check_offsets(self, offsets, bytes)?;
        }
        segment.inverted = self.inverted(table, &segment)?;
        for (number, field) in (0..).zip(meta.fields) {
            let Some(metric) = Metric::from_code(field.metric) else {
                return Err(self.corrupt(HEADER_BYTES as u64, "a metric is not known"));
            };
            let open = self.field(&segment, table, number, &field, metric)?;
            let FieldMeta { name, dimension, half, coded, .. } = field;
            segment.specs.push(FieldSpec { name, dimension, metric, half, coded });
            segment.fields.push(open);
        }
        Ok(segment)
    }

    fn field(
        &self,
        segment: &Segment,
        table: &[Entry],
        number: u16,
        meta: &FieldMeta,
        metric: Metric,
    ) -> Result<Field, SegmentError> {
        if meta.dimension == 0 || meta.dimension > DIMENSION_MAX {
            return Err(self.corrupt(HEADER_BYTES as u64, "a dimension is out of range"));
        }
        let stride = stride_of(meta.dimension, meta.half);
        let rows = segment.rows as usize;
        let node_rows = self.section(table, Kind::NodeRows, number)?;
        let row_nodes = self.exactly(table, Kind::RowNodes, number, rows, 4)?;
        let nodes = node_rows.len() / 4;
        let vectors = self.exactly(table, Kind::Vectors, number, nodes, stride * if meta.half { 2 } else { 4 })?;
        // Each node's row names it, and nobody else has a node.
        let named = segment.cast::<u32>(&row_nodes);
        let rows_of = segment.cast::<u32>(&node_rows);
        if !(0u32..).zip(rows_of).all(|(node, &row)| named.get(row as usize) == Some(&node)) {
            let what = "rows and embeddings do not name each other";
            return Err(self.corrupt(row_nodes.start as u64, what));
        }
        if named.iter().filter(|&&node| node != NO_NODE).count() != nodes || rows_of.len() != nodes {
            return Err(self.corrupt(node_rows.start as u64, "some embeddings have no row"));
        }
        let codes = if table.iter().any(|entry| (entry.kind, entry.field) == (Kind::Codes as u16, number)) {
            let dimension = meta.dimension as usize;
            let rows = self.exactly(table, Kind::Codes, number, nodes, codes::stride_of(dimension))?;
            let beside = self.exactly(table, Kind::Beside, number, nodes, size_of::<codes::Beside>())?;
            Some(CodeRanges {
                inside: codes::holds_beside(segment.part(&rows), segment.cast(&beside), dimension),
                rows,
                beside,
                mean: self.exactly(table, Kind::Mean, number, dimension, size_of::<f32>())?,
            })
        } else {
            None
        };
        let graph = if meta.m == 0 {
            None
        } else {
            let layer0 = self.section(table, Kind::Layer0, number)?;
            let upper = self.section(table, Kind::Upper, number)?;
            let links = segment.cast::<u32>(&layer0).len();
            let shape = GraphShape::read(links, segment.cast::<u32>(&upper))
                .filter(|shape| shape.nodes() as usize == nodes)
                .ok_or_else(|| self.corrupt(upper.start as u64, "the graph makes no sense"))?;
            Some(Graph { shape, layer0, upper })
        };
        Ok(Field {
            dimension: meta.dimension as usize,
            stride,
            metric,
            half: meta.half,
            codes,
            nodes: nodes as u32,
            node_rows,
            row_nodes,
            vectors,
            graph,
        })
    }
}
