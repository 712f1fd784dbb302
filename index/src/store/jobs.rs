//! Checkpoints and merges: the slow work, which runs beside the owner's thread.
//!
//! ```text
//!   owner:   next_job ----> Job          install(Done) ----> forget the log up to A, remove files
//!               |  at entry A              ^
//!               v                          |
//!   anyone:   run: write files, sync, and, for a checkpoint, the MANIFEST last
//! ```
//!
//! **A checkpoint** at entry A freezes all buffers and takes a copy of the small state. What the owner applies meanwhile
//! goes to new buffers, and ends versions at positions after A, which the checkpoint does not look at: so it writes the
//! state as of A exactly. Only a checkpoint makes anything durable besides the log.
//!
//! **A merge** started at entry T leaves out what had ended by T. Ends that come later are noted by the owner and carried
//! over when the new segment is installed. The new segment is part of a state after T, so the manifest names it from the
//! next checkpoint on, and until then the files it replaces stay.
//!
//! What a merge writes gets checksums of its own, so the sources are checked before it may take their place ([`damage`]).
//!
//! A job that fails changes nothing: frozen buffers stay frozen and are part of the next attempt. It is offered again
//! after a second of the log's clock, or when a checkpoint is requested.

mod choice;
mod damage;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use damage::{Remedy, check_file, check_file_twice, named_files};

use super::tables::{self, Saved, WrittenTable};
use super::{Location, Store, StoreOptions, new_buffer};
use crate::buffer::Buffer;
use crate::command::{Codes, Schema, Storage};
use crate::directory::{Directory, DirectoryError};
use crate::distance::Metric;
use crate::graph::GraphOptions;
use crate::manifest::{CollectionFiles, Ends, FileName, MANIFEST_FILE, Manifest, SegmentFiles};
use crate::record::{CollectionId, Position};
use crate::requests::RequestsPicture;
use crate::sealed::Sealed;
use crate::segment::{self, FieldSpec, Row, Rows, Segment, SegmentError, Spec};
use crate::view::{Collection, RecordRef};

/// After a failure a job waits so long, in milliseconds of the log's clock.
const RETRY_MILLIS: u64 = 1_000;

/// Files that were merged away bring about a checkpoint of their own if they take this part of what is in use, and so many
/// bytes. Less than that waits for the next one that is asked for: where few keys are written again and again, each
/// checkpoint makes a small segment that is soon worth merging.
const GARBAGE_SHARE: u64 = 4;
const GARBAGE_BYTES_MIN: u64 = 64 << 20;

/// After so many ended versions it is worth looking for something to merge.
const ENDED_PER_LOOK: u32 = 64;

/// What kind of work a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Makes the state durable outside the log.
    Checkpoint,
    /// Makes one segment of several.
    Merge,
}

/// Slow work, to be run on any thread.
pub struct Job(Task);

enum Task {
    Checkpoint(Box<Checkpoint>),
    Merge(Merge),
}

/// What came of a job; for [`Store::install`].
pub struct Done(Product);

enum Product {
    Checkpoint(Box<Written>),
    Merge(Merged),
    Failed { kind: JobKind, error: JobError, left: Vec<FileName> },
}

/// Why a job came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A file could not be written. Where the disk is full, free space: the job is tried again.
    #[error("{0}")]
    Directory(#[from] DirectoryError),
    /// A segment could not be written or opened.
    #[error("{0}")]
    Segment(#[from] SegmentError),
    /// A file that it was to read is not what was written, and nothing came of it.
    #[error("{error}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        error: SegmentError,
    },
    /// A file that it was to read was read wrong, and right the next time. Nothing came of it.
    #[error("{file} was read wrong, and right the next time: {error}")]
    Misread {
        /// The file.
        file: String,
        /// What was wrong with it.
        error: SegmentError,
    },
    /// The caller's flag was raised.
    #[error("the job was cancelled")]
    Cancelled,
}

/// What installing changed.
#[derive(Debug)]
#[must_use]
pub struct Installed {
    /// What the job was.
    pub kind: JobKind,
    /// The log's entries up to this one are no longer needed: the state holds without them.
    pub forget_up_to: Option<u64>,
    /// Why the job failed, if it did; then nothing changed, and it will be offered again.
    pub error: Option<JobError>,
}

/// What the store knows of its jobs and its files.
#[derive(Default)]
pub(super) struct Work {
    checkpoint_wanted: bool,
    checkpoint_running: bool,
    /// Whether the manifest names other segments than the state has.
    outdated: bool,
    /// The last entry that the manifest holds.
    durable: u64,
    merging: Option<Merging>,
    /// Whether something changed that a merge may be chosen for. Choosing looks at every segment, and the owner asks for
    /// jobs after every entry.
    look: bool,
    /// Nobody writes: what is only worth it then may be merged.
    resting: bool,
    /// Segments whose graphs are to be built anew.
    relink: BTreeSet<u64>,
    /// How many versions in segments have ended since the last look.
    ended: u32,
    failed_at: Option<u64>,
    /// For each segment how many versions had ended, and the number of the file that says which.
    ends: BTreeMap<u64, (u32, u64)>,
    /// The state of the request table that is on disk, and the number of its file.
    requests: Option<(u64, Option<u64>)>,
    /// All files there are.
    files: BTreeSet<FileName>,
    /// Bytes of segments that were merged away and wait for a checkpoint.
    garbage_bytes: u64,
}

struct Merging {
    sources: BTreeSet<u64>,
    file: u64,
    at_rest: bool,
    /// Segment and row of versions that ended meanwhile.
    ended: Vec<(u64, u32)>,
}

struct Checkpoint {
    manifest: Manifest,
    flats: Vec<Flat>,
    /// Segments whose ends are to be written, and the numbers of the files.
    ends: Vec<(Arc<Sealed>, u64)>,
    requests: Option<(u64, RequestsPicture)>,
    tables: Vec<Saved>,
    request_changes: u64,
    garbage_bytes: u64,
    hash_seed: u64,
}

/// The frozen buffers of one collection, to become a segment.
struct Flat {
    id: CollectionId,
    fields: Vec<FieldSpec>,
    schema: Arc<Schema>,
    buffers: Vec<Arc<Buffer>>,
    file: u64,
}

struct Written {
    manifest: Manifest,
    flats: Vec<Flattened>,
    ends: Vec<(u64, u32, u64)>,
    tables: Vec<WrittenTable>,
    request_changes: u64,
    garbage_bytes: u64,
    created: Vec<FileName>,
}

/// The frozen buffers of one collection, and the segment that holds what lived in them.
struct Flattened {
    id: CollectionId,
    buffers: Vec<Arc<Buffer>>,
    sealed: Option<Arc<Sealed>>,
}

struct Merge {
    id: CollectionId,
    fields: Vec<FieldSpec>,
    schema: Arc<Schema>,
    sources: Vec<Arc<Sealed>>,
    /// What had ended by then is left out.
    position: Position,
    file: u64,
    graph: Option<GraphOptions>,
    /// Nothing of the sources' links is kept.
    anew: bool,
    /// Nobody waits for it.
    at_rest: bool,
    hash_seed: u64,
}

struct Merged {
    id: CollectionId,
    sources: Vec<Arc<Sealed>>,
    sealed: Option<Arc<Sealed>>,
    file: u64,
}

/// Records picked from anywhere, as a segment wants them: by key.
struct Picked<'a> {
    records: Vec<RecordRef<'a>>,
    /// Whether links that there are in segments may be taken over.
    links: bool,
}

impl<'a> Picked<'a> {
    fn new(records: impl Iterator<Item = RecordRef<'a>>, links: bool) -> Picked<'a> {
        let mut records: Vec<_> = records.collect();
        // Stable sorting finds the runs that are sorted already, as those from segments are.
        records.sort_by(|a, b| a.key().cmp(b.key()));
        Picked { records, links }
    }
}

impl Rows for Picked<'_> {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn row(&self, i: usize) -> Row<'_> {
        let record = &self.records[i];
        Row {
            key: record.key(),
            begin: record.version(),
            deadline: record.deadline(),
            hash: record.hash(),
            value: record.value(),
            attributes: record.attributes(),
        }
    }

    fn sparse(&self, i: usize, field: u16) -> Option<&[u8]> {
        self.records[i].sparse(field)
    }

    fn embedding(&self, i: usize, field: usize) -> Option<Cow<'_, [f32]>> {
        self.records[i].embedding(u16::try_from(field).ok()?)
    }

    fn origin(&self, i: usize) -> Option<(&Segment, u32)> {
        self.records[i].segment_row().filter(|_| self.links)
    }
}

impl Job {
    /// What it is.
    pub fn kind(&self) -> JobKind {
        match self.0 {
            Task::Checkpoint(_) => JobKind::Checkpoint,
            Task::Merge(_) => JobKind::Merge,
        }
    }

    /// Whether it is only worth doing while there is nothing else to do.
    pub fn is_for_rest(&self) -> bool {
        matches!(&self.0, Task::Merge(merge) if merge.at_rest)
    }

    /// About how many bytes of memory it will take at its peak, beside what is there already. The frozen buffers that a
    /// checkpoint writes are the store's.
    pub fn working_bytes(&self) -> u64 {
        let of = |rows: usize, fields: &[FieldSpec], schema: &Schema, graph: Option<GraphOptions>| {
            let (indexes, texts, sparse) = (&*schema.indexes, &*schema.texts, schema.sparse.len() as u16);
            let spec = Spec { collection: 0, fields, indexes, sparse, texts, graph, hash_seed: 0 };
            segment::working_bytes(&spec, rows) + (rows * size_of::<RecordRef<'_>>()) as u64
        };
        match &self.0 {
            Task::Checkpoint(checkpoint) => {
                let rows = |flat: &Flat| flat.buffers.iter().map(|buffer| buffer.len() as usize).sum();
                let flats = checkpoint.flats.iter().map(|flat| of(rows(flat), &flat.fields, &flat.schema, None));
                flats.max().unwrap_or(0)
            }
            Task::Merge(merge) => {
                let rows = merge.sources.iter().map(|sealed| sealed.len() as usize).sum();
                of(rows, &merge.fields, &merge.schema, merge.graph)
            }
        }
    }

    /// Does the work. `directory` is the store's. Raising `cancel` ends it early, without effect.
    pub fn run(self, directory: &dyn Directory, cancel: &AtomicBool) -> Done {
        let kind = self.kind();
        let mut created = Vec::new();
        let product = match self.0 {
            Task::Checkpoint(checkpoint) => {
                checkpoint.run(directory, cancel, &mut created).map(|written| Product::Checkpoint(written.into()))
            }
            Task::Merge(merge) => merge.run(directory, cancel, &mut created).map(Product::Merge),
        };
        Done(product.unwrap_or_else(|Stopped { error, manifest_uncertain }| {
            if !manifest_uncertain {
                // What was written is of no use; a full disk can do with the room. What cannot be removed now is
                // removed after the next checkpoint.
                created.retain(|file| directory.remove(&file.to_string()).is_err());
            }
            Product::Failed { kind, error, left: created }
        }))
    }
}

/// Why a job ended early.
struct Stopped {
    error: JobError,
    /// Whether the manifest may have been replaced all the same.
    manifest_uncertain: bool,
}

impl<E: Into<JobError>> From<E> for Stopped {
    fn from(error: E) -> Stopped {
        Stopped { error: error.into(), manifest_uncertain: false }
    }
}

pub(super) fn check(cancel: &AtomicBool) -> Result<(), JobError> {
    if cancel.load(Ordering::Relaxed) { Err(JobError::Cancelled) } else { Ok(()) }
}

fn write_file(directory: &dyn Directory, file: FileName, bytes: &[u8]) -> Result<(), DirectoryError> {
    let mut new = directory.create(&file.to_string())?;
    new.write_all(bytes)?;
    new.finish()
}

/// Writes and opens a segment, or none if there are no records.
fn write_segment(
    directory: &dyn Directory,
    file: u64,
    spec: &Spec<'_>,
    records: &Picked<'_>,
    cancel: &AtomicBool,
) -> Result<Option<Arc<Sealed>>, JobError> {
    if records.is_empty() {
        return Ok(None);
    }
    let name = FileName::Segment(file).to_string();
    segment::write(directory, &name, spec, records, cancel).map_err(|error| match error {
        SegmentError::Cancelled(_) => JobError::Cancelled,
        error => JobError::Segment(error),
    })?;
    Ok(Some(Arc::new(Sealed::new(Segment::open(directory, &name)?, file))))
}

impl Checkpoint {
    fn run(
        self,
        directory: &dyn Directory,
        cancel: &AtomicBool,
        created: &mut Vec<FileName>,
    ) -> Result<Written, Stopped> {
        let Checkpoint { mut manifest, flats, ends, requests, tables, request_changes, garbage_bytes, hash_seed } =
            self;
        let position = Position::end_of(manifest.applied);
        // First, because until they are written whoever changes them has to write them down.
        let written_tables = tables::write(tables, directory, cancel, created)?;
        let mut sealed_flats = Vec::new();
        for Flat { id, fields, schema, buffers, file } in flats {
            check(cancel)?;
            let visible = buffers.iter().flat_map(|buffer| buffer.visible(position));
            let records = Picked::new(visible.map(|(_, row)| RecordRef::of_row(row)), false);
            let sparse = schema.sparse.len() as u16;
            let spec = Spec {
                collection: id.0,
                fields: &fields,
                indexes: &schema.indexes,
                sparse,
                texts: &schema.texts,
                graph: None,
                hash_seed,
            };
            created.push(FileName::Segment(file));
            let sealed = write_segment(directory, file, &spec, &records, cancel)?;
            match &sealed {
                Some(_) => {
                    let collection = manifest.collections.iter_mut().find(|collection| collection.id == id.0);
                    let segment = SegmentFiles { segment: file, ends: None };
                    collection.into_iter().for_each(|collection| collection.segments.insert(0, segment.clone()));
                }
                None => drop(created.pop()),
            }
            drop(records);
            sealed_flats.push(Flattened { id, buffers, sealed });
        }
        let mut written_ends = Vec::new();
        for (sealed, file) in ends {
            check(cancel)?;
            let ended = sealed.ends().filter(|(_, end)| *end <= position);
            let ends: Vec<_> = ended.map(|(row, end)| (row, end.get())).collect();
            written_ends.push((sealed.file, ends.len() as u32, file));
            created.push(FileName::Ends(file));
            write_file(directory, FileName::Ends(file), &Ends { segment: sealed.file, ends }.encode())?;
        }
        if let Some((file, picture)) = requests {
            check(cancel)?;
            created.push(FileName::Requests(file));
            write_file(directory, FileName::Requests(file), &picture.encode())?;
        }
        check(cancel)?;
        // From here on the new manifest may be on the disk, whatever the answer.
        directory
            .replace(MANIFEST_FILE, &manifest.encode())
            .map_err(|error| Stopped { error: error.into(), manifest_uncertain: true })?;
        let created = std::mem::take(created);
        Ok(Written {
            manifest,
            flats: sealed_flats,
            ends: written_ends,
            tables: written_tables,
            request_changes,
            garbage_bytes,
            created,
        })
    }
}

impl Merge {
    fn run(
        self,
        directory: &dyn Directory,
        cancel: &AtomicBool,
        created: &mut Vec<FileName>,
    ) -> Result<Merged, Stopped> {
        let Merge { id, fields, schema, sources, position, file, graph, anew, hash_seed, at_rest: _ } = self;
        check(cancel)?;
        let records = sources.iter().flat_map(|sealed| {
            let live = (0..sealed.len()).filter(|&row| position < sealed.end(row));
            live.map(|row| RecordRef::of_segment(sealed, row))
        });
        let records = Picked::new(records, !anew);
        let sparse = schema.sparse.len() as u16;
        let spec = Spec {
            collection: id.0,
            fields: &fields,
            indexes: &schema.indexes,
            sparse,
            texts: &schema.texts,
            graph,
            hash_seed,
        };
        created.push(FileName::Segment(file));
        let written = write_segment(directory, file, &spec, &records, cancel);
        drop(records);
        let sealed = damage::sound(written, directory, &sources, position, cancel)?;
        Ok(Merged { id, sources, sealed, file })
    }
}

impl Work {
    /// What a store has that was opened from this manifest.
    pub fn opened(manifest: &Manifest, request_changes: u64, ends: BTreeMap<u64, (u32, u64)>) -> Work {
        Work {
            durable: manifest.applied,
            requests: Some((request_changes, manifest.requests)),
            ends,
            files: manifest.files().collect(),
            look: true,
            ..Work::default()
        }
    }

    /// A version is about to end.
    pub fn note_end(&mut self, collection: &Collection, location: Location) {
        self.resting = false;
        let Location::Segment(segment, row) = location else { return };
        self.ended = self.ended.wrapping_add(1);
        if self.ended.is_multiple_of(ENDED_PER_LOOK) {
            self.look = true;
        }
        if let Some(merging) = &mut self.merging
            && let Some(sealed) = collection.segments.get(segment)
            && merging.sources.contains(&sealed.file)
        {
            merging.ended.push((sealed.file, row));
        }
    }

    /// A collection got indexes that its segments may not have.
    pub fn note_indexes(&mut self) {
        self.look = true;
    }

    /// Typed values were changed.
    pub fn note_calls(&mut self) {
        self.resting = false;
    }

    /// A record was written.
    pub fn note_buffer(&mut self, options: &StoreOptions, collection: &Collection, buffered_bytes: usize) {
        self.resting = false;
        let active = collection.buffers.first();
        let rows_max = if is_searched(&collection.schema) { options.buffer_rows_max } else { options.buffer_keys_max };
        let full = active.is_some_and(|buffer| buffer.len() >= rows_max || buffer.bytes() >= options.buffer_bytes_max);
        // While a checkpoint runs, what it writes is counted too, and will soon be gone.
        let all_full = !self.checkpoint_running && buffered_bytes >= options.buffers_bytes_max;
        self.checkpoint_wanted |= full || all_full;
    }
}

/// Whether records are found by more than their keys.
fn is_searched(schema: &Schema) -> bool {
    let Schema { embeddings, sparse, texts, indexes, .. } = schema;
    !(embeddings.is_empty() && sparse.is_empty() && texts.is_empty() && indexes.is_empty())
}

fn field_specs(collection: &Collection) -> Vec<FieldSpec> {
    let specs = collection.schema.embeddings.iter().map(|spec| {
        let metric = Metric::from_code(spec.metric)?;
        let (half, coded) = (spec.storage == Storage::F16, spec.codes == Codes::Int8);
        Some(FieldSpec { name: spec.name.clone(), dimension: spec.dimension, metric, half, coded })
    });
    // A collection is only made with metrics that there are.
    specs.flatten().collect()
}

impl Store {
    /// Asks for a checkpoint: the next job is one, unless nothing changed since the last.
    pub fn request_checkpoint(&mut self) {
        self.work.checkpoint_wanted = true;
        self.work.look = true;
        self.work.failed_at = None;
    }

    /// Asks for a segment's graphs to be built anew, because they do not lead to every record; a segment that is merged
    /// away first has its records linked by that. Nothing of the old links is kept.
    pub fn request_relink(&mut self, file: u64) {
        self.work.relink.insert(file);
        self.work.look = true;
    }

    /// Says that nobody has written for a while: until somebody does, segments are merged further than is worth it under
    /// way, so that searches have fewer graphs to walk. Says nothing about when that is.
    pub fn rest(&mut self) {
        self.work.resting = true;
        self.work.look = true;
    }

    /// The next slow work to do, if any. At most one checkpoint and one merge are out at a time; each must come back
    /// through [`Store::install`].
    pub fn next_job(&mut self) -> Option<Job> {
        if self.work.failed_at.is_some_and(|at| self.clock < at.saturating_add(RETRY_MILLIS)) {
            return None;
        }
        if let Some(checkpoint) = self.next_checkpoint() {
            return Some(Job(Task::Checkpoint(checkpoint.into())));
        }
        if self.work.merging.is_some() || !self.work.look {
            return None;
        }
        if let Some(merge) = self.next_merge() {
            return Some(Job(Task::Merge(merge)));
        }
        self.work.look = false;
        // Merging has come to rest: what it replaced can go, if that is worth the syncs.
        let segments = self.collections.iter().flat_map(|state| &state.shared.segments);
        let bytes: u64 = segments.map(|sealed| sealed.segment.file_bytes()).sum();
        let worth = (bytes / GARBAGE_SHARE).max(GARBAGE_BYTES_MIN).min(self.options.garbage_bytes_max);
        self.work.checkpoint_wanted |= self.work.garbage_bytes >= worth;
        Some(Job(Task::Checkpoint(self.next_checkpoint()?.into())))
    }

    fn next_checkpoint(&mut self) -> Option<Checkpoint> {
        let garbage = self.work.garbage_bytes >= self.options.garbage_bytes_max;
        if self.work.checkpoint_running || !(self.work.checkpoint_wanted || garbage) {
            return None;
        }
        self.work.checkpoint_wanted = false;
        if self.applied == self.work.durable && !self.work.outdated {
            return None;
        }
        self.work.checkpoint_running = true;
        self.work.outdated = false;
        Some(self.start_checkpoint())
    }

    fn start_checkpoint(&mut self) -> Checkpoint {
        let (mut flats, mut ends, mut collections) = (Vec::new(), Vec::new(), Vec::new());
        let mut tables = Vec::new();
        for place in 0..self.collections.len() {
            if self.collections[place].shared.buffers.first().is_some_and(|buffer| buffer.len() > 0) {
                self.reshape(place, |collection| collection.buffers.insert(0, new_buffer()));
            }
            let shared = Arc::clone(&self.collections[place].shared);
            if let Some(frozen @ [_, ..]) = shared.buffers.get(1..) {
                let (id, fields, buffers) = (shared.id, field_specs(&shared), frozen.to_vec());
                let schema = Arc::clone(&shared.schema);
                flats.push(Flat { id, fields, schema, buffers, file: self.next_file() });
            }
            let mut segments = Vec::new();
            for sealed in &shared.segments {
                let written = self.work.ends.get(&sealed.file);
                let ends = match (sealed.ended(), written) {
                    (0, _) => None,
                    (ended, Some(&(count, file))) if count == ended => Some(file),
                    _ => {
                        let file = self.next_file();
                        ends.push((Arc::clone(sealed), file));
                        Some(file)
                    }
                };
                segments.push(SegmentFiles { segment: sealed.file, ends });
            }
            let (table, saved) = self.save_table(place);
            tables.extend(saved);
            let state = &self.collections[place];
            collections.push(CollectionFiles {
                table,
                id: shared.id.0,
                namespace: shared.namespace.to_string(),
                name: shared.name.to_string(),
                schema: shared.schema.as_ref().clone(),
                records: state.live.records,
                bytes: state.live.bytes,
                sum: state.sum,
                segments,
            });
        }
        let request_changes = self.requests.changes();
        let unchanged = self.work.requests.filter(|(changes, _)| *changes == request_changes);
        let mut requests = None;
        let request_file = match unchanged {
            Some((_, file)) => file,
            None if self.requests.len() == 0 => None,
            None => {
                let file = self.next_file();
                requests = Some((file, self.requests.picture()));
                Some(file)
            }
        };
        let manifest = Manifest {
            digest_key: self.digest_key,
            applied: self.applied,
            clock: self.clock,
            chain_head: self.chain_head,
            next_collection: self.next_collection,
            next_file: self.next_file,
            requests: request_file,
            requests_evicted: self.requests.evicted(),
            namespaces: self.namespaces.keys().cloned().collect(),
            collections,
            scripts: self.scripts.sources(),
        };
        if self.restructured {
            self.publish();
        }
        let garbage_bytes = self.work.garbage_bytes;
        let hash_seed = self.hash_seed();
        Checkpoint { manifest, flats, ends, requests, tables, request_changes, garbage_bytes, hash_seed }
    }

    fn hash_seed(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.digest_key;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Takes in what came of a job.
    pub fn install(&mut self, done: Done) -> Installed {
        self.work.look = true;
        match done.0 {
            Product::Checkpoint(written) => {
                let forget_up_to = Some(self.install_checkpoint(*written));
                Installed { kind: JobKind::Checkpoint, forget_up_to, error: None }
            }
            Product::Merge(merged) => {
                self.install_merge(merged);
                Installed { kind: JobKind::Merge, forget_up_to: None, error: None }
            }
            Product::Failed { kind, error, left } => {
                match kind {
                    JobKind::Checkpoint => {
                        self.work.checkpoint_running = false;
                        self.work.checkpoint_wanted = true;
                        self.work.outdated = true;
                    }
                    JobKind::Merge => self.work.merging = None,
                }
                self.work.files.extend(left);
                if let JobError::Damaged { file, .. } = &error {
                    self.note_damage(file);
                }
                // Whoever cancels a job wants something else done now, such as the last checkpoint of a stop.
                // What is damaged is not read again.
                if !matches!(error, JobError::Cancelled | JobError::Damaged { .. }) {
                    self.work.failed_at = Some(self.clock);
                }
                Installed { kind, forget_up_to: None, error: Some(error) }
            }
        }
    }

    fn install_checkpoint(&mut self, written: Written) -> u64 {
        let Written { manifest, flats, ends, tables, request_changes, garbage_bytes, created } = written;
        self.tables_written(tables);
        let position = Position::end_of(manifest.applied);
        for Flattened { id, buffers, sealed } in flats {
            // Dropped meanwhile, even if it is there anew: its file goes below.
            let is_frozen = |buffer: &Arc<Buffer>| buffers.iter().any(|frozen| Arc::ptr_eq(frozen, buffer));
            let has_them = |place: &usize| self.collections[*place].shared.buffers.iter().any(is_frozen);
            let Some(place) = self.place(id).filter(has_them) else { continue };
            if let Some(sealed) = &sealed {
                for (_, row) in buffers.iter().flat_map(|buffer| buffer.rows()) {
                    if row.begin <= position && position < row.end() && row.end() != Position::NEVER {
                        carry(sealed, row.key(), row.begin.get(), row.end());
                    }
                }
            }
            self.reshape(place, |collection| {
                collection.buffers.retain(|buffer| !is_frozen(buffer));
                collection.segments.splice(0..0, sealed);
            });
        }
        self.count_buffered_bytes();
        self.work.checkpoint_running = false;
        self.work.durable = manifest.applied;
        self.work.requests = Some((request_changes, manifest.requests));
        self.work.garbage_bytes -= garbage_bytes;
        self.work.files.extend(created);
        for (segment, count, file) in ends {
            self.work.ends.insert(segment, (count, file));
        }
        self.publish();
        self.remove_leftovers(&manifest);
        manifest.applied
    }

    /// Removes the files that neither the manifest nor the state needs.
    fn remove_leftovers(&mut self, manifest: &Manifest) {
        let mut needed: BTreeSet<FileName> = manifest.files().collect();
        let segments = self.collections.iter().flat_map(|state| &state.shared.segments);
        needed.extend(segments.map(|sealed| FileName::Segment(sealed.file)));
        needed.extend(self.work.merging.iter().map(|merging| FileName::Segment(merging.file)));
        self.work.ends.retain(|segment, _| needed.contains(&FileName::Segment(*segment)));
        let directory = &self.directory;
        self.work.files.retain(|file| {
            needed.contains(file)
                || match directory.remove(&file.to_string()) {
                    Ok(()) | Err(DirectoryError::Missing(_)) => false,
                    Err(error) => {
                        tracing::warn!(%file, %error, "a file that is no longer needed stays for now");
                        true
                    }
                }
        });
    }

    fn install_merge(&mut self, merged: Merged) {
        let Merged { id, sources, sealed, file } = merged;
        let ended = self.work.merging.take().map(|merging| merging.ended).unwrap_or_default();
        if sealed.is_some() {
            self.work.files.insert(FileName::Segment(file));
        }
        self.work.outdated = true;
        let is_source = |sealed: &Arc<Sealed>| sources.iter().any(|source| source.file == sealed.file);
        let has_them = |place: &usize| self.collections[*place].shared.segments.iter().any(is_source);
        let Some(place) = self.place(id).filter(has_them) else {
            // Dropped meanwhile, even if it is there anew: all of it is garbage.
            self.work.checkpoint_wanted = true;
            return;
        };
        if let Some(sealed) = &sealed {
            for (segment, row) in ended {
                if let Some(source) = sources.iter().find(|source| source.file == segment) {
                    let (key, begin) = (source.segment.key(row), source.segment.begin(row));
                    carry(sealed, key, begin, source.end(row));
                }
            }
        }
        self.work.garbage_bytes += sources.iter().map(|source| source.segment.file_bytes()).sum::<u64>();
        self.reshape(place, |collection| {
            let newest = collection.segments.iter().position(is_source).unwrap_or(0);
            collection.segments.retain(|sealed| !is_source(sealed));
            collection.segments.splice(newest..newest, sealed);
        });
        self.publish();
    }
}

/// A version that was moved to `sealed` has ended meanwhile.
fn carry(sealed: &Sealed, key: &[u8], begin: u64, end: Position) {
    let row = sealed.segment.find(key).find(|&row| sealed.segment.begin(row) == begin);
    if let Some(row) = row {
        sealed.set_end(row, end);
    }
}
