//! The store: the only writer of one shard's state, owned by one thread.
//!
//! ```text
//!   apply(index, entry) ---> buffers (active first, then frozen ones) ---> view, published after each entry
//!                                  |  checkpoint: freeze, write flat segments, ends, requests, then the MANIFEST
//!                                  v
//!                              segments ---> merge: few large segments with graphs, without what has ended
//! ```
//!
//! [`Store::apply`] is a function of the state and the entry alone: no clock, no chance, no thread. What is slow is a
//! [`Job`]: the owner takes it from [`Store::next_job`], runs it on any thread, and brings what came of it back to
//! [`Store::install`]. Jobs change where records lie, never what they are: two stores that applied the same entries
//! answer alike and have the same digest, whichever jobs they ran.
//!
//! Always:
//! - the last manifest and the log's entries after its `applied` give exactly this state;
//! - a key has at most one version that has not ended, and it is in one buffer or one segment;
//! - a file that the last manifest names is not removed.

mod ahead;
mod apply;
mod catalog;
mod digest;
mod jobs;
mod open;
mod tables;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use crate::manifest::{MANIFEST_FILE, MANIFEST_VERSION};
pub use crate::requests::{REQUEST_AGE_MAX_MILLIS, REQUEST_BYTES_MAX};
pub use apply::{ApplyError, DUE_PER_ENTRY_MAX};
pub use catalog::{COLLECTIONS_MAX, NAMESPACES_MAX, SchemaError, check_name, check_schema};
pub use jobs::{Done, Installed, Job, JobError, JobKind, Remedy, check_file, check_file_twice, named_files};
pub use open::{StoreError, checkpoint_files};

use crate::buffer::{Buffer, Row};
use crate::command::{Command, Durability};
use crate::directory::Directory;
use crate::effects::Effects;
use crate::graph::GraphOptions;
use crate::record::{CollectionId, Position};
use crate::requests::{Asked, Requests};
use crate::table::call::Unpacked;
use crate::table::scripting::Scripts;
use crate::table::{Event, Listening};
use crate::view::{Collection, Live, RecordRef, Structure, Totals, View, ViewHandle};

/// What two deployments, or a test, may want different. None of it changes any outcome.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// A buffer of more rows is written to a segment: they are searched one by one.
    pub buffer_rows_max: u32,
    /// The same of a collection whose records are found by key only.
    pub buffer_keys_max: u32,
    /// A buffer of more bytes is written to a segment.
    pub buffer_bytes_max: usize,
    /// All buffers are written to segments when they take more bytes together.
    pub buffers_bytes_max: usize,
    /// A segment with fewer embeddings is searched one by one, which is as fast and exact.
    pub graph_rows_min: u32,
    /// How graphs are built.
    pub graph: GraphOptions,
    /// What merged segments replace stays on the disk until a checkpoint. So many bytes bring one about at once; a quarter
    /// of what is in use does so when merging has come to rest.
    pub garbage_bytes_max: u64,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            buffer_rows_max: 8_192,
            buffer_keys_max: 262_144,
            buffer_bytes_max: 32 << 20,
            buffers_bytes_max: 64 << 20,
            graph_rows_min: 1_024,
            graph: GraphOptions::default(),
            garbage_bytes_max: 256 << 20,
        }
    }
}

/// The state of one shard.
pub struct Store {
    directory: Arc<dyn Directory>,
    options: StoreOptions,
    digest_key: [u8; 32],
    applied: u64,
    clock: u64,
    chain_head: [u8; 32],
    namespaces: BTreeMap<String, BTreeMap<String, CollectionId>>,
    /// Ascending by id.
    collections: Vec<State>,
    /// The earliest deadline of each collection that has one.
    due: Due,
    requests: Requests,
    /// What scripts there are, and what else calls on typed values need.
    scripts: Scripts,
    /// How many calls of the entry being applied were carried out.
    calls: usize,
    listening: Listening,
    events: Vec<(CollectionId, Event)>,
    effects: Effects,
    next_collection: u64,
    next_file: u64,
    /// What all buffers take, near enough.
    buffered_bytes: usize,
    structure: Arc<Structure>,
    /// Whether the structure is behind the collections.
    restructured: bool,
    views: ViewHandle,
    work: jobs::Work,
}

type Due = BTreeSet<(u64, CollectionId)>;
type Deadlines = BTreeSet<(u64, Box<[u8]>)>;

/// What the owner keeps of a collection besides what readers see.
struct State {
    shared: Arc<Collection>,
    live: Live,
    /// The sum of the live records' hashes.
    sum: u128,
    /// Of the live records that have one, with their keys.
    deadlines: Deadlines,
    table: tables::TableState,
}

/// Where a version lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Location {
    Buffer(usize, u32),
    Segment(usize, u32),
}

/// A version that has not ended, as much as is needed to end it.
#[derive(Clone, Copy)]
struct Old {
    location: Location,
    deadline: u64,
    version: u64,
    hash: u128,
    bytes: u64,
}

impl State {
    fn new(shared: Collection) -> State {
        State {
            shared: Arc::new(shared),
            live: Live::default(),
            sum: 0,
            deadlines: BTreeSet::new(),
            table: tables::TableState::default(),
        }
    }

    /// The version of a key that has not ended, expired or not.
    fn find(&self, key: &[u8]) -> Option<Old> {
        let shared = &*self.shared;
        let buffers = shared.buffers.iter().enumerate();
        let found = buffers.map(|(b, buffer)| buffer.find_live(key).map(|(row, _)| Location::Buffer(b, row)));
        let found = found.flatten().next().or_else(|| {
            let segments = shared.segments.iter().enumerate();
            segments.filter_map(|(s, sealed)| Some(Location::Segment(s, sealed.find_live(key)?))).next()
        })?;
        let record = self.record(found)?;
        Some(Old {
            location: found,
            deadline: record.deadline(),
            version: record.version(),
            hash: record.hash(),
            bytes: record.bytes(&shared.fields),
        })
    }

    fn record(&self, location: Location) -> Option<RecordRef<'_>> {
        match location {
            Location::Buffer(b, row) => Some(RecordRef::of_row(self.shared.buffers.get(b)?.row(row)?)),
            Location::Segment(s, row) => Some(RecordRef::of_segment(self.shared.segments.get(s)?, row)),
        }
    }

    fn first_due(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Changes the deadlines, and keeps the earliest of them among those of all collections.
    fn set_deadline(&mut self, due: &mut Due, change: impl FnOnce(&mut Deadlines) -> bool) {
        let before = self.first_due();
        let changed = change(&mut self.deadlines);
        debug_assert!(changed, "a deadline is added once and removed once");
        let after = self.first_due();
        if before != after {
            let id = self.shared.id;
            before.map(|deadline| due.remove(&(deadline, id)));
            after.map(|deadline| due.insert((deadline, id)));
        }
    }

    fn insert(&mut self, row: Row, buffered_bytes: &mut usize, due: &mut Due) {
        let Some(buffer) = self.shared.buffers.first() else { return };
        let before = buffer.bytes();
        let (deadline, hash) = (row.deadline, row.hash);
        let key = (deadline != 0).then(|| Box::from(row.key()));
        let bytes = RecordRef::of_row(&row).bytes(&self.shared.fields);
        buffer.push(row);
        *buffered_bytes += buffer.bytes() - before;
        self.live.records += 1;
        self.live.bytes += bytes;
        self.sum = self.sum.wrapping_add(hash);
        if let Some(key) = key {
            self.live.timed += 1;
            self.set_deadline(due, |deadlines| deadlines.insert((deadline, key)));
        }
    }

    fn end(&mut self, key: &[u8], old: Old, at: Position, due: &mut Due) {
        match old.location {
            Location::Buffer(b, row) => {
                if let Some(row) = self.shared.buffers.get(b).and_then(|buffer| buffer.row(row)) {
                    row.set_end(at);
                }
            }
            Location::Segment(s, row) => {
                if let Some(sealed) = self.shared.segments.get(s) {
                    sealed.set_end(row, at);
                }
            }
        }
        self.live.records -= 1;
        // What a record takes is what its segment says: one that lies may say more than was counted when it was written.
        self.live.bytes = self.live.bytes.saturating_sub(old.bytes);
        self.sum = self.sum.wrapping_sub(old.hash);
        if old.deadline != 0 {
            self.live.timed -= 1;
            self.set_deadline(due, |deadlines| deadlines.remove(&(old.deadline, Box::from(key))));
        }
    }
}

impl Store {
    /// The last applied entry.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The log's clock: that of the last applied entry, in milliseconds since 1970.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// The head of the hash chain over all applied entries.
    pub fn chain_head(&self) -> [u8; 32] {
        self.chain_head
    }

    /// The same on every member that applied the same entries and was created with the same key.
    pub fn digest(&self) -> [u8; 32] {
        digest::whole(&self.structure, self.record_sum())
    }

    /// The key of the digest, for whoever checks it by their own arithmetic. No client may learn it.
    pub fn digest_key(&self) -> [u8; 32] {
        self.digest_key
    }

    fn record_sum(&self) -> u128 {
        self.collections.iter().fold(0, |sum, state| sum.wrapping_add(state.sum).wrapping_add(state.table.sum))
    }

    /// The digest computed anew from all records, to check the one that is kept. Takes as long as reading everything.
    pub fn digest_from_records(&self) -> [u8; 32] {
        let view = self.views.load();
        let mut sum = 0u128;
        for collection in view.collections() {
            let (id, fields) = (collection.id().0, collection.schema().embeddings.len());
            let add = &mut |record: RecordRef<'_>| {
                sum = sum.wrapping_add(digest::of_record(&self.digest_key, id, fields, &record));
            };
            // It only stops when told to.
            let _ = collection.each(&mut || true, add);
            sum = sum.wrapping_add(collection.table().map_or(0, |table| table.read(|keys| keys.sum_from_entries())));
        }
        digest::whole(&self.structure, sum)
    }

    /// The earliest deadline of a record that has not been ended. Once it has passed, an entry should be proposed, which
    /// may be empty of commands: only entries move the store's clock. It should carry what [`Store::reclaims`] says.
    pub fn due(&self) -> Option<u64> {
        let records = self.due.first().map(|(deadline, _)| *deadline);
        [records, self.tables_due()].into_iter().flatten().min()
    }

    /// Whether all that a command writes to is [`Durability::Buffered`], and nobody relies on more: numbers of leases must never
    /// come twice.
    pub fn is_buffered(&self, command: &Command) -> bool {
        let is_buffered = |id: u64| {
            self.place(CollectionId(id))
                .is_some_and(|place| self.collections[place].shared.schema.durability == Durability::Buffered)
        };
        match command {
            Command::Write { changes, .. } => changes.iter().all(|change| is_buffered(change.collection)),
            Command::Execute(execution) => {
                execution.collections.iter().all(|id| is_buffered(*id)) && !takes_leases(&execution.calls)
            }
            Command::Remove(removal) => is_buffered(removal.collection),
            _ => false,
        }
    }

    /// Whether a request was answered, and how is still known.
    pub fn has_answered(&self, principal: &str, request_id: &[u8]) -> bool {
        self.requests.find(&Asked::new(principal, request_id)).is_some()
    }

    /// Whether a request that was answered at this clock or later may be known no more, for want of room.
    pub fn may_have_forgotten(&self, clock: u64) -> bool {
        self.requests.may_have_left(clock)
    }

    /// Where readers find the newest view.
    pub fn views(&self) -> ViewHandle {
        self.views.clone()
    }

    /// Shows its views from now on where another store showed its own: readers of a handle see the state change as a whole.
    pub fn show_in(&mut self, views: ViewHandle) {
        views.0.store(self.views.load());
        self.views = views;
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.views.load()
    }

    /// What all buffers take in memory. Far more than [`StoreOptions::buffers_bytes_max`] means that checkpoints do not
    /// keep up, or fail: then the owner should take no more writes.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    fn place(&self, id: CollectionId) -> Option<usize> {
        self.collections.binary_search_by_key(&id, |state| state.shared.id).ok()
    }

    /// Whether a command on typed values would find them free: nobody is reading much of them just now.
    pub fn is_at_hand(&self, command: &Command) -> bool {
        let is_free = |id: &u64| {
            let place = self.place(CollectionId(*id));
            let table = place.and_then(|place| self.collections[place].shared.table.as_ref());
            table.is_none_or(|table| table.is_free())
        };
        matches!(command, Command::Execute(execution) if execution.collections.iter().all(is_free))
    }

    /// Changes what readers see of a collection from the next view on.
    fn reshape(&mut self, place: usize, change: impl FnOnce(&mut Collection)) {
        let mut collection = Collection::clone(&self.collections[place].shared);
        change(&mut collection);
        self.collections[place].shared = Arc::new(collection);
        self.restructured = true;
    }

    fn next_file(&mut self) -> u64 {
        let file = self.next_file;
        self.next_file += 1;
        file
    }

    fn count_buffered_bytes(&mut self) {
        let buffers = self.collections.iter().flat_map(|state| &state.shared.buffers);
        self.buffered_bytes = buffers.map(|buffer| buffer.bytes()).sum();
    }

    fn structure(&self) -> Structure {
        let schemas = self.collections.iter().map(|state| {
            let Collection { id, namespace, name, schema, .. } = &*state.shared;
            (id.0, &**namespace, &**name, &**schema)
        });
        let namespaces = self.namespaces.keys().map(String::as_str);
        Structure {
            namespaces: self.namespaces.clone(),
            collections: self.collections.iter().map(|state| Arc::clone(&state.shared)).collect(),
            catalog_hash: digest::catalog(namespaces, schemas, self.next_collection),
            digest_key: self.digest_key,
        }
    }

    fn make_view(&self) -> View {
        let deadline_bytes = self.collections.iter().map(|state| state.deadlines.len() as u64 * 64).sum::<u64>();
        View {
            index: self.applied,
            clock: self.clock,
            structure: Arc::clone(&self.structure),
            live: self.collections.iter().map(|state| state.live).collect(),
            due: self.due.first().map(|(deadline, _)| *deadline),
            totals: Totals {
                chain_head: self.chain_head,
                record_sum: self.record_sum(),
                requests: self.requests.len() as u64,
                request_bytes: self.requests.bytes() as u64,
                requests_evicted: self.requests.evicted(),
                memory_bytes: self.requests.bytes() as u64 + deadline_bytes,
            },
        }
    }

    /// The state as the commands of an entry see it that come after this position.
    fn view_within(&mut self, at: Position) -> View {
        if self.restructured {
            // It is made once more when the entry is applied.
            self.structure = Arc::new(self.structure());
        }
        View { index: at.index(), ..self.make_view() }
    }

    /// Shows readers the state as it is now.
    fn publish(&mut self) {
        if self.restructured {
            self.structure = Arc::new(self.structure());
            self.restructured = false;
        }
        self.views.0.store(Arc::new(self.make_view()));
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store(applied {}, {} collections)", self.applied, self.collections.len())
    }
}

/// A handle whose first view is empty; `publish` fills it.
fn empty_views(structure: &Arc<Structure>) -> ViewHandle {
    let totals = Totals {
        chain_head: [0; 32],
        record_sum: 0,
        requests: 0,
        request_bytes: 0,
        requests_evicted: 0,
        memory_bytes: 0,
    };
    let structure = Arc::clone(structure);
    let view = View { index: 0, clock: 0, structure, live: Box::default(), due: None, totals };
    ViewHandle(Arc::new(ArcSwap::from_pointee(view)))
}

/// The digest of a view.
pub(crate) fn digest_of(structure: &Structure, record_sum: u128) -> [u8; 32] {
    digest::whole(structure, record_sum)
}

/// An empty buffer, ready to be shared.
fn new_buffer() -> Arc<Buffer> {
    Arc::new(Buffer::new())
}

/// Whether any call is about leases. Scripts do not take any.
fn takes_leases(calls: &[u8]) -> bool {
    let (mut calls, mut args) = (Unpacked::new(calls), Vec::new());
    while calls.next_into(&mut args).is_some() {
        let name = args.first().and_then(|name| name.get(..6)).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"lease.") {
            return true;
        }
    }
    false
}
