//! Writing a segment: one pass over the rows for each section, so that memory is needed for the
//! graph and the slots only, not for the records.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::inverted;
use super::{
    DIMENSION_MAX, ENTRY_BYTES, FIELDS_MAX, FieldMeta, FieldSpec, HEADER_BYTES, Kind, MAGIC, Meta, NO_NODE, NO_SLOT,
    NO_VALUE, PAGE, SegmentError, VERSION, slot_of, stride_of,
};
use crate::attribute_index;
use crate::codes;
use crate::command::{IndexSpec, TextSpec};
use crate::directory::{Directory, NewFile};
use crate::graph::build::{self, BuildError, Built, Embeddings, Mended};
use crate::graph::{GraphOptions, Seed, order};
use crate::segment::Segment;
use crate::way;

/// One row as the writer wants it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The record's key.
    pub key: &'a [u8],
    /// The log index at which this version began.
    pub begin: u64,
    /// Milliseconds since 1970, 0 for none.
    pub deadline: u64,
    /// The keyed hash of the record.
    pub hash: u128,
    /// The value, if it has one.
    pub value: Option<&'a [u8]>,
    /// Encoded attributes; opaque here.
    pub attributes: &'a [u8],
}

/// Where rows come from: in the order of their keys, the versions of one key newest first. They are
/// asked for several times, section by section, and must answer the same each time.
pub trait Rows: Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row, all but its embeddings.
    fn row(&self, i: usize) -> Row<'_>;

    /// A row's sparse embedding by its number, if it has one, as [`crate::sparse::encode`] writes it.
    fn sparse(&self, i: usize, field: u16) -> Option<&[u8]> {
        let _ = (i, field);
        None
    }

    /// A row's embedding for a field, if it has one, prepared for the field's metric.
    fn embedding(&self, i: usize, field: usize) -> Option<Cow<'_, [f32]>>;

    /// The row of a segment that this one is the same as, if it comes from one. The graph of the segment that most rows come
    /// from is built on.
    fn origin(&self, i: usize) -> Option<(&Segment, u32)> {
        let _ = i;
        None
    }
}

/// What a segment is to be.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    /// The collection's number, kept in the file so that a mix-up is noticed.
    pub collection: u64,
    /// The embeddings that rows may have.
    pub fields: &'a [FieldSpec],
    /// The attributes to index.
    pub indexes: &'a [IndexSpec],
    /// How many sparse embeddings rows may have.
    pub sparse: u16,
    /// The texts that are searched by their words.
    pub texts: &'a [TextSpec],
    /// How to build graphs; `None` makes a segment that is searched exactly.
    pub graph: Option<GraphOptions>,
    /// Seeds the hash of keys. Best a number that clients cannot know.
    pub hash_seed: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// How many rows.
    pub rows: u32,
    /// How large the file is.
    pub file_bytes: u64,
    /// For each field, how many embeddings, and what its graph needed.
    pub fields: Vec<(u32, Mended)>,
}

/// Writes a segment; it is durable when this returns. On an error, or when `cancel` is raised, there
/// is no file.
pub fn write(
    directory: &dyn Directory,
    name: &str,
    spec: &Spec<'_>,
    rows: &dyn Rows,
    cancel: &AtomicBool,
) -> Result<Written, SegmentError> {
    let file = || name.to_string();
    if let Err(what) = check_spec(spec) {
        return Err(SegmentError::Spec { file: file(), what });
    }
    let len = rows.len();
    // The highest numbers mean "none".
    if len >= NO_NODE as usize {
        let what = "there are more than 4294967294 rows";
        return Err(SegmentError::Rows { file: file(), row: len, what });
    }
    let cancelled = |row: usize| row.is_multiple_of(4096) && cancel.load(Ordering::Relaxed);
    let graph_fields = if spec.graph.is_some() { spec.fields.len() } else { 0 };
    let coded_fields = spec.fields.iter().filter(|field| field.coded).count();
    let optional = spec.indexes.len() + inverted::sections(spec.sparse, spec.texts) + 3 * coded_fields;
    let count = 11 + optional + 3 * spec.fields.len() + 2 * graph_fields;
    let table_end = ((HEADER_BYTES + count * ENTRY_BYTES) as u64).next_multiple_of(PAGE);

    let mut out = Sections { file: directory.create(name)?, table: Vec::new(), open: None };
    out.put(&vec![0; table_end as usize])?;

    out.begin(Kind::Meta, 0);
    let meta = rkyv::to_bytes::<rkyv::rancor::Error>(&meta(spec))
        .map_err(|_| SegmentError::Spec { file: file(), what: "the field names are too long" })?;
    out.write(&meta)?;
    out.end()?;

    let mut keys = 0;
    let mut last: Option<(&[u8], u64)> = None;
    out.offsets(Kind::KeyOffsets, 0, len, |i| {
        let row = rows.row(i);
        let wrong = match last {
            Some((key, _)) if key > row.key => Some("keys are not in ascending order"),
            Some((key, begin)) if key == row.key && begin <= row.begin => {
                Some("versions of a key are not newest first")
            }
            _ => None,
        };
        if let Some(what) = wrong {
            return Err(SegmentError::Rows { file: file(), row: i, what });
        }
        if cancelled(i) {
            return Err(SegmentError::Cancelled(file()));
        }
        keys += usize::from(last.is_none_or(|(key, _)| key != row.key));
        last = Some((row.key, row.begin));
        Ok(Some(row.key.len()))
    })?;
    out.bytes(Kind::KeyBytes, 0, len, |i, out| out.write(rows.row(i).key))?;
    out.bytes(Kind::Begins, 0, len, |i, out| out.write(&rows.row(i).begin.to_le_bytes()))?;
    out.bytes(Kind::Deadlines, 0, len, |i, out| out.write(&rows.row(i).deadline.to_le_bytes()))?;
    out.bytes(Kind::Hashes, 0, len, |i, out| out.write(&rows.row(i).hash.to_le_bytes()))?;
    out.offsets(Kind::ValueOffsets, 0, len, |i| Ok(rows.row(i).value.map(<[u8]>::len)))?;
    out.bytes(Kind::ValueBytes, 0, len, |i, out| {
        if cancelled(i) {
            return Err(SegmentError::Cancelled(file()));
        }
        out.write(rows.row(i).value.unwrap_or_default())
    })?;
    out.offsets(Kind::AttributeOffsets, 0, len, |i| Ok(Some(rows.row(i).attributes.len())))?;
    out.bytes(Kind::AttributeBytes, 0, len, |i, out| out.write(rows.row(i).attributes))?;
    let slots = slots(spec.hash_seed, rows, keys);
    out.bytes(Kind::Slots, 0, slots.len(), |i, out| out.write(&slots[i].to_le_bytes()))?;
    drop(slots);
    for (number, index) in (0..).zip(spec.indexes) {
        let attributes_of = |row: u32| rows.row(row as usize).attributes;
        let stop = || cancel.load(Ordering::Relaxed);
        let section = attribute_index::build(index, len as u32, attributes_of, stop);
        out.begin(Kind::AttributeIndex, number);
        out.write(&section.ok_or_else(|| SegmentError::Cancelled(file()))?)?;
        out.end()?;
    }

    inverted::write(&mut out, name, spec, rows, cancel)?;
    let mut fields = Vec::with_capacity(spec.fields.len());
    for (number, field) in spec.fields.iter().enumerate() {
        let mended = write_field(&mut out, number, field, spec, rows, cancel).map_err(|error| match error {
            FieldError::Segment(error) => error,
            FieldError::Cancelled | FieldError::Graph(BuildError::Cancelled) => SegmentError::Cancelled(file()),
            FieldError::Graph(source) => SegmentError::Graph { file: file(), source },
            FieldError::Row(row, what) => SegmentError::Rows { file: file(), row, what },
        })?;
        fields.push(mended);
    }

    let file_bytes = out.file.position();
    // Sections that were expected and did not come, such as codes that do not serve, leave empty ones behind.
    assert!(out.table.len() <= count * ENTRY_BYTES, "the table was given room for its sections");
    while out.table.len() < count * ENTRY_BYTES {
        out.table.extend([0; 8]);
        out.table.extend(file_bytes.to_le_bytes());
        out.table.extend([0; 16]);
    }
    let mut head = vec![0; table_end as usize];
    head[HEADER_BYTES..HEADER_BYTES + out.table.len()].copy_from_slice(&out.table);
    let table_crc = crc32fast::hash(&head[HEADER_BYTES..]);
    head[0..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&(count as u32).to_le_bytes());
    head[16..24].copy_from_slice(&file_bytes.to_le_bytes());
    head[24..28].copy_from_slice(&(len as u32).to_le_bytes());
    head[32..40].copy_from_slice(&spec.hash_seed.to_le_bytes());
    head[40..48].copy_from_slice(&spec.collection.to_le_bytes());
    head[56..60].copy_from_slice(&table_crc.to_le_bytes());
    let header_crc = crc32fast::hash(&head[..60]);
    head[60..64].copy_from_slice(&header_crc.to_le_bytes());
    out.file.rewrite(0, &head)?;
    out.file.finish()?;
    Ok(Written { rows: len as u32, file_bytes, fields })
}

/// About how many bytes of memory [`write`] takes at its peak for so many rows, if each has all embeddings.
pub(crate) fn working_bytes(spec: &Spec<'_>, rows: usize) -> u64 {
    let of_field = |field: &FieldSpec| match &spec.graph {
        Some(options) => build::working_bytes(rows, field.dimension as usize, field.coded, options),
        None if field.coded => (rows * codes::stride_of(field.dimension as usize)) as u64,
        None => 0,
    };
    // Fields are written one after the other, each with the rows of its nodes and the nodes of all rows.
    let largest = spec.fields.iter().map(of_field).max().unwrap_or(0);
    largest + (rows * 2 * size_of::<u32>()) as u64
}

fn check_spec(spec: &Spec<'_>) -> Result<(), &'static str> {
    if spec.fields.len() > FIELDS_MAX {
        return Err("a record has at most 64 embeddings");
    }
    if spec.fields.iter().any(|f| f.dimension == 0 || f.dimension > DIMENSION_MAX) {
        return Err("an embedding has 1 to 16384 components");
    }
    Ok(())
}

fn meta(spec: &Spec<'_>) -> Meta {
    let fields = spec.fields.iter().map(|field| FieldMeta {
        name: field.name.clone(),
        dimension: field.dimension,
        metric: field.metric.code(),
        m: spec.graph.map_or(0, |graph| graph.m as u32),
        ef_construction: spec.graph.map_or(0, |graph| graph.ef_construction as u32),
        half: field.half,
        coded: field.coded,
    });
    Meta { collection: spec.collection, fields: fields.collect() }
}

/// The slots of all keys, each with its key's first row.
fn slots(seed: u64, rows: &dyn Rows, keys: usize) -> Vec<u64> {
    let count = (2 * keys).next_power_of_two();
    let mut slots = vec![NO_SLOT; count];
    let mut last: Option<&[u8]> = None;
    for i in 0..rows.len() {
        let key = rows.row(i).key;
        if last == Some(key) {
            continue;
        }
        last = Some(key);
        let (mut at, tag) = slot_of(key, seed, count);
        // At most half of them are taken, so an empty one comes.
        while slots[at] != NO_SLOT {
            at = (at + 1) & (count - 1);
        }
        slots[at] = tag | i as u64;
    }
    slots
}

enum FieldError {
    Segment(SegmentError),
    Graph(BuildError),
    Row(usize, &'static str),
    Cancelled,
}

impl From<SegmentError> for FieldError {
    fn from(error: SegmentError) -> FieldError {
        FieldError::Segment(error)
    }
}

fn write_field(
    out: &mut Sections,
    number: usize,
    field: &FieldSpec,
    spec: &Spec<'_>,
    rows: &dyn Rows,
    cancel: &AtomicBool,
) -> Result<(u32, Mended), FieldError> {
    let mut node_rows: Vec<u32> = Vec::new();
    for i in 0..rows.len() {
        if i.is_multiple_of(4096) && cancel.load(Ordering::Relaxed) {
            return Err(FieldError::Cancelled);
        }
        let Some(embedding) = rows.embedding(i, number) else {
            continue;
        };
        if embedding.len() != field.dimension as usize {
            return Err(FieldError::Row(i, "an embedding has not its field's dimension"));
        }
        node_rows.push(i as u32);
    }
    let number_u16 = number as u16;
    let nodes = node_rows.len();
    let embedding = |row: u32| rows.embedding(row as usize, number).expect("rows answer the same each time");
    let Built { mut graph, mended, mut codes } = {
        let get = |node: usize| embedding(node_rows[node]);
        let embeddings = Embeddings { metric: field.metric, len: nodes, get: &get, coded: field.coded };
        match &spec.graph {
            Some(options) => {
                let seed = seed(number, options, rows, &node_rows);
                build::build(&embeddings, options, seed.as_ref(), cancel)
            }
            None => build::without_graph(&embeddings, cancel),
        }
        .map_err(FieldError::Graph)?
    };
    if let Some(graph) = &mut graph {
        let order = order::of(graph);
        order::arrange(graph, &order);
        node_rows = order.iter().map(|&node| node_rows[node as usize]).collect();
        codes.iter_mut().for_each(|codes| codes.arrange(&order));
    }
    out.bytes(Kind::NodeRows, number_u16, nodes, |i, out| out.write(&node_rows[i].to_le_bytes()))?;
    let mut row_nodes = vec![NO_NODE; rows.len()];
    (0..).zip(&node_rows).for_each(|(node, &row)| row_nodes[row as usize] = node);
    out.bytes(Kind::RowNodes, number_u16, rows.len(), |i, out| out.write(&row_nodes[i].to_le_bytes()))?;
    drop(row_nodes);
    let padding = stride_of(field.dimension, field.half) - field.dimension as usize;
    let padding = vec![0u8; padding * if field.half { 2 } else { 4 }];
    let mut halves: Vec<u16> = Vec::new();
    out.bytes(Kind::Vectors, number_u16, nodes, |i, out| {
        let embedding = embedding(node_rows[i]);
        // The machine is little-endian (see mod.rs), so the components are in the file's order already.
        if field.half {
            halves.clear();
            halves.extend(embedding.iter().map(|&x| half::f16::from_f32(x).to_bits()));
            out.write(bytemuck::cast_slice(&halves))?;
        } else {
            out.write(bytemuck::cast_slice(&embedding))?;
        }
        out.write(&padding)
    })?;
    if let Some(codes) = &codes {
        out.whole(Kind::Codes, number_u16, &codes.rows)?;
        out.whole(Kind::Beside, number_u16, bytemuck::cast_slice(&codes.beside))?;
        out.whole(Kind::Mean, number_u16, bytemuck::cast_slice(&codes.mean))?;
    }
    if let Some(graph) = &graph {
        out.whole(Kind::Layer0, number_u16, bytemuck::cast_slice(&graph.layer0))?;
        out.whole(Kind::Upper, number_u16, bytemuck::cast_slice(&graph.upper))?;
    }
    Ok((nodes as u32, mended))
}

/// A graph is built anew rather than on one that has less than one in so many of its nodes.
const SEED_SHARE: usize = 4;

/// The graph of the segment that most rows come from, if that is worth building on.
fn seed<'r>(number: usize, options: &GraphOptions, rows: &'r dyn Rows, node_rows: &[u32]) -> Option<Seed<'r>> {
    let origin = |node: usize| rows.origin(node_rows[node] as usize);
    let mut counts: Vec<(&Segment, usize)> = Vec::new();
    for (segment, _) in (0..node_rows.len()).filter_map(origin) {
        match counts.iter_mut().find(|(known, _)| std::ptr::eq(*known, segment)) {
            Some((_, count)) => *count += 1,
            None => counts.push((segment, 1)),
        }
    }
    let linked = counts.into_iter().filter(|(segment, _)| segment.links_like(number, options.m));
    let (largest, count) = linked.max_by_key(|&(_, count)| count)?;
    let old_nodes = largest.embeddings(number) as usize;
    // Of a graph most of whose nodes are gone, little is left.
    if count * SEED_SHARE < node_rows.len() || count * 2 < old_nodes {
        return None;
    }
    let mut new_of = vec![u32::MAX; old_nodes];
    for node in 0..node_rows.len() {
        if let Some((segment, row)) = origin(node)
            && std::ptr::eq(segment, largest)
            && let Some(old) = largest.node(number, row)
        {
            new_of[old as usize] = node as u32;
        }
    }
    Some(Seed { graph: largest.graph(number)?, new_of })
}

/// Writes sections one after the other and notes them in the table.
pub(super) struct Sections {
    file: Box<dyn NewFile>,
    table: Vec<u8>,
    open: Option<Open>,
}

struct Open {
    kind: Kind,
    field: u16,
    offset: u64,
    crc: crc32fast::Hasher,
    /// Small writes are gathered here, for the sake of the crc.
    gathered: Vec<u8>,
}

const GATHER_BYTES: usize = 1 << 16;

impl Sections {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        Ok(self.file.write_all(bytes)?)
    }

    pub(super) fn begin(&mut self, kind: Kind, field: u16) {
        let (crc, gathered) = (crc32fast::Hasher::new(), Vec::with_capacity(GATHER_BYTES));
        self.open = Some(Open { kind, field, offset: self.file.position(), crc, gathered });
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        let open = self.open.as_mut().expect("a section was begun");
        if open.gathered.len() + bytes.len() > GATHER_BYTES {
            open.crc.update(&open.gathered);
            self.file.write_all(&open.gathered)?;
            open.gathered.clear();
            way::give();
        }
        if bytes.len() >= GATHER_BYTES {
            for bytes in bytes.chunks(GATHER_BYTES) {
                open.crc.update(bytes);
                self.file.write_all(bytes)?;
                way::give();
            }
        } else {
            open.gathered.extend_from_slice(bytes);
        }
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), SegmentError> {
        let mut open = self.open.take().expect("a section was begun");
        let end = self.file.position() + open.gathered.len() as u64;
        let padding = (end.next_multiple_of(PAGE) - end) as usize;
        open.gathered.resize(open.gathered.len() + padding, 0);
        open.crc.update(&open.gathered);
        self.file.write_all(&open.gathered)?;
        self.table.extend((open.kind as u16).to_le_bytes());
        self.table.extend(open.field.to_le_bytes());
        self.table.extend(open.crc.finalize().to_le_bytes());
        self.table.extend(open.offset.to_le_bytes());
        self.table.extend((end - open.offset).to_le_bytes());
        self.table.extend([0; 8]);
        Ok(())
    }

    /// A whole section that is at hand.
    fn whole(&mut self, kind: Kind, field: u16, bytes: &[u8]) -> Result<(), SegmentError> {
        self.begin(kind, field);
        self.write(bytes)?;
        self.end()
    }

    /// A whole section: `each` writes one of `count` items.
    pub(super) fn bytes(
        &mut self,
        kind: Kind,
        field: u16,
        count: usize,
        mut each: impl FnMut(usize, &mut Sections) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        self.begin(kind, field);
        for i in 0..count {
            each(i, self)?;
        }
        self.end()
    }

    /// A section of offsets into bytes whose lengths `length` says; `None` is marked as not there.
    pub(super) fn offsets(
        &mut self,
        kind: Kind,
        field: u16,
        rows: usize,
        mut length: impl FnMut(usize) -> Result<Option<usize>, SegmentError>,
    ) -> Result<(), SegmentError> {
        self.begin(kind, field);
        let mut offset = 0u64;
        for i in 0..rows {
            let length = length(i)?;
            let mark = if length.is_none() { NO_VALUE } else { 0 };
            self.write(&(offset | mark).to_le_bytes())?;
            offset += length.unwrap_or(0) as u64;
        }
        self.write(&offset.to_le_bytes())?;
        self.end()
    }
}
