//! What there is, in numbers.

use super::{CollectionView, View};
use crate::command::Codes;
use crate::manifest::FileName;
use crate::plan;
use crate::record::CollectionId;

/// One collection in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionStats {
    /// Its id.
    pub id: CollectionId,
    /// The namespace it belongs to.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Records that have not ended; those that have expired and were not ended yet are among them.
    pub records: u64,
    /// How many of them have a deadline.
    pub timed: u64,
    /// The bytes of their keys, values, attributes and embeddings.
    pub bytes: u64,
    /// Rows in memory that are searched one by one, ended ones too.
    pub buffer_rows: u64,
    /// What these take.
    pub buffer_bytes: u64,
    /// Versions that have ended and still take room.
    pub ended: u64,
    /// Memory besides mapped files.
    pub memory_bytes: u64,
    /// Bytes of its segments' files.
    pub disk_bytes: u64,
    /// Newest first.
    pub segments: Vec<SegmentStats>,
}

impl CollectionStats {
    /// Counts what another store has of the same collection too.
    pub fn add(&mut self, other: CollectionStats) {
        self.records += other.records;
        self.timed += other.timed;
        self.bytes += other.bytes;
        self.buffer_rows += other.buffer_rows;
        self.buffer_bytes += other.buffer_bytes;
        self.ended += other.ended;
        self.memory_bytes += other.memory_bytes;
        self.disk_bytes += other.disk_bytes;
        self.segments.extend(other.segments);
    }
}

/// One segment in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentStats {
    /// Its file.
    pub file: String,
    /// Rows, ended ones too.
    pub rows: u64,
    /// How many of them have ended.
    pub ended: u64,
    /// Of the file.
    pub bytes: u64,
    /// Whether it is searched by graph.
    pub graph: bool,
}

/// The whole store in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStats {
    /// The last applied entry.
    pub applied: u64,
    /// The log's clock: milliseconds since 1970.
    pub clock: u64,
    /// The head of the hash chain over all applied entries.
    pub chain_head: [u8; 32],
    /// The same on every member that applied the same entries.
    pub digest: [u8; 32],
    /// How many namespaces there are.
    pub namespaces: u64,
    /// How many collections there are.
    pub collections: u64,
    /// Records of all collections.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all buffers.
    pub buffer_bytes: u64,
    /// How many segments there are.
    pub segments: u64,
    /// Versions that have ended and still take room.
    pub ended: u64,
    /// Answered requests that are remembered.
    pub requests: u64,
    /// What these take.
    pub request_bytes: u64,
    /// How many were forgotten early for want of room.
    pub requests_evicted: u64,
    /// Memory besides mapped files.
    pub memory_bytes: u64,
    /// Bytes of all segments' files.
    pub disk_bytes: u64,
}

impl CollectionView<'_> {
    /// It in numbers. Cheap: nothing is read.
    pub fn stats(&self) -> CollectionStats {
        let mut stats = CollectionStats {
            id: self.id(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            records: self.live.records,
            timed: self.live.timed,
            bytes: self.live.bytes,
            buffer_rows: 0,
            buffer_bytes: 0,
            ended: 0,
            memory_bytes: 0,
            disk_bytes: 0,
            segments: Vec::new(),
        };
        for buffer in &self.collection.buffers {
            stats.buffer_rows += u64::from(buffer.len());
            stats.buffer_bytes += buffer.bytes() as u64;
            stats.memory_bytes += (buffer.words_bytes() + buffer.codes_bytes()) as u64;
        }
        stats.memory_bytes += stats.buffer_bytes;
        if let Some(table) = self.table() {
            stats.memory_bytes += table.read(|keyspace| keyspace.memory_bytes()) as u64;
        }
        let mut rows = stats.buffer_rows;
        for sealed in &self.collection.segments {
            let fields = 0..sealed.segment.fields().len();
            let segment = SegmentStats {
                file: FileName::Segment(sealed.file).to_string(),
                rows: u64::from(sealed.len()),
                ended: u64::from(sealed.ended()),
                bytes: sealed.segment.file_bytes(),
                graph: fields.into_iter().any(|field| sealed.segment.has_graph(field)),
            };
            rows += segment.rows;
            stats.memory_bytes += sealed.memory_bytes() as u64;
            stats.disk_bytes += segment.bytes;
            stats.segments.push(segment);
        }
        // The store may have gone on since this view: then there are more rows than the view's records.
        stats.ended = rows.saturating_sub(stats.records);
        stats
    }

    /// About how many bytes of embeddings and codes a search without a filter reads that keeps so many candidates, if it
    /// looks for the embedding that takes most.
    pub fn search_bytes(&self, candidates: usize) -> u64 {
        let widest = self.collection.fields.iter().map(|field| field.dimension as u64).max().unwrap_or(0);
        // Of codes that are made first, and of embeddings that are looked at besides, there are about as many.
        let buffers = self.collection.buffers.iter().map(|buffer| u64::from(buffer.len()) * widest * 2);
        let segments = self.collection.segments.iter().map(|sealed| {
            let fields = (0..sealed.segment.fields().len()).zip(&self.collection.schema.embeddings);
            let each = fields.map(|(field, spec)| {
                let rows = u64::from(sealed.segment.embeddings(field));
                let walked = (candidates as u64).saturating_mul(plan::WALK_FACTOR as u64);
                let compared = if sealed.segment.has_graph(field) { rows.min(walked) } else { rows };
                compared * u64::from(spec.dimension) * if spec.codes == Codes::Int8 { 1 } else { 4 }
            });
            each.max().unwrap_or(0)
        });
        buffers.chain(segments).sum()
    }
}

impl View {
    /// The head of the hash chain over all entries applied so far.
    pub fn chain_head(&self) -> [u8; 32] {
        self.totals.chain_head
    }

    /// The same on every member that applied the same entries.
    pub fn digest(&self) -> [u8; 32] {
        crate::store::digest_of(&self.structure, self.totals.record_sum)
    }

    /// The whole store in numbers.
    pub fn stats(&self) -> StoreStats {
        let mut stats = StoreStats {
            applied: self.index,
            clock: self.clock,
            chain_head: self.chain_head(),
            digest: self.digest(),
            namespaces: self.structure.namespaces.len() as u64,
            collections: self.structure.collections.len() as u64,
            records: 0,
            bytes: 0,
            buffer_bytes: 0,
            segments: 0,
            ended: 0,
            requests: self.totals.requests,
            request_bytes: self.totals.request_bytes,
            requests_evicted: self.totals.requests_evicted,
            memory_bytes: self.totals.memory_bytes,
            disk_bytes: 0,
        };
        for collection in self.collections() {
            let collection = collection.stats();
            stats.records += collection.records;
            stats.bytes += collection.bytes;
            stats.buffer_bytes += collection.buffer_bytes;
            stats.segments += collection.segments.len() as u64;
            stats.ended += collection.ended;
            stats.memory_bytes += collection.memory_bytes;
            stats.disk_bytes += collection.disk_bytes;
        }
        stats
    }
}
