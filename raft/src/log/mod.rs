//! The log: every change of every shard of this node, in one order, on one disk.
//!
//! ```text
//!   append --> buffer --write--> | file 7 (full) | file 8 (full) | file 9 .....   | spare |
//!                                   ^ forgotten by all shards: becomes the next spare
//! ```
//!
//! Files have a fixed size, were written with zeros once, and are used again under a new number, so
//! that a sync has no metadata to write. How they are laid out stands in [`frame`].
//!
//! Always:
//! - What was appended before a successful [`Log::sync`] survives a power cut, in order.
//! - Only the newest file can end in the middle of a frame: a file is full, synced, and followed by a
//!   synced successor before the successor gets a frame.
//! - Each batch states how far the file was synced before it. At start, bytes that do not verify are a
//!   *torn tail* if they lie beyond every such statement: they are cut, and reported. Anywhere else they
//!   are *damage*: an error that names the file and the offset, never skipped. (The one thing that cannot
//!   be told apart: a last batch that was synced, and then damaged before another batch or a graceful
//!   close stated so. The other members have it, unless one of them was behind: see docs/testing.md.)
//! - The first failed write or sync ends the log's life ([`LogError::Dead`]). What the disk then holds is
//!   unknown, and only opening it again finds out.
//! - A full disk does not: [`LogError::Full`] comes before anything has changed.
//! - A frame never straddles files. One that is larger than a file gets a file of its own size, which is
//!   removed and not used again.

mod answers;
mod check;
mod frame;
mod reader;
mod recover;
mod spares;
mod summary;
mod syncing;
mod verify;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_by_seed;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use answers::{Cut, LogError, LogStats, Recovered, ShardState};
pub use check::{Checked, LogChecker};
use frame::{FRAME_HEAD_BYTES, HEADER_BYTES, Header, Kind, NUMBER_FRAME_BYTES, SECTOR_BYTES};
pub use reader::{LogReader, ReadError};
use reader::{OpenFiles, Place, ShardIndex};
pub use spares::MakingSpare;
use spares::spare_name;
use summary::{Step, Summary};
pub use syncing::Syncing;
pub use verify::{VerifiedFile, VerifiedLog};

use crate::disk::{Disk, DiskFile};
use crate::entry::{Append, Change, ENTRY_BYTES_MAX, EntryKind, LogIndex, ShardId};
use crate::members::Members;

/// Every file keeps room for its last frame, and for those that a graceful close writes.
const TAIL_BYTES: u64 = SECTOR_BYTES + FRAME_HEAD_BYTES as u64 + 2 * NUMBER_FRAME_BYTES;
/// A forgotten file becomes a spare unless there are this many: about as many as one checkpoint frees on a busy node.
const SPARES_KEPT: usize = 4;
const FILE_BYTES_MIN: u64 = 4096;
const FILE_BYTES_MAX: u64 = 1 << 30;
/// A larger buffer is given back after its batch.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// How to open a log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// The size of a file. Existing files keep theirs.
    pub file_bytes: u64,
    /// A number that outsiders cannot guess; new files mix it into their checksums, so that nobody
    /// can plant frames inside an entry's data. The same number is fine for the life of the node.
    pub secret: u32,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { file_bytes: 64 << 20, secret: 0 }
    }
}

/// The log of a node. One thread owns it; [`LogReader`]s read beside it.
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: D,
    options: LogOptions,
    /// Files in use, oldest first. The last one is written.
    files: VecDeque<LiveFile<D::File>>,
    spares: Vec<Spare>,
    spares_made: u64,
    /// Files in use that are not what was written: none of them becomes a spare.
    spoilt: BTreeSet<u64>,
    /// Frames for the last file, from `end` on.
    buffer: Vec<u8>,
    end: u64,
    /// The last file is known to survive up to here.
    durable_end: u64,
    /// Where a close mark ends, if nothing follows it.
    closed_end: Option<u64>,
    shards: BTreeMap<ShardId, Shard>,
    open_files: Arc<OpenFiles>,
    /// Whether a sync beside the log failed. A system tells of such a failure once: another sync at the same time could go
    /// well, though what was written is lost. So they wait for each other.
    failed: Arc<Mutex<bool>>,
    /// Steps in the buffer, for the readers once they are written.
    unpublished: Vec<(ShardId, Step, Option<Place>)>,
    dead: bool,
    syncs: u64,
    bytes_written: u64,
    recycled: u64,
}

#[derive(Debug)]
struct LiveFile<F> {
    header: Header,
    file: Arc<F>,
    /// Entries in it that are neither overwritten nor forgotten.
    live: u64,
}

#[derive(Clone, Debug)]
struct Spare {
    name: String,
    bytes: u64,
}

struct Shard {
    summary: Option<Summary>,
    index: Arc<RwLock<ShardIndex>>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.summary.fmt(f)
    }
}

impl std::fmt::Debug for OpenFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenFiles")
    }
}

fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.log")
}

fn failed(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { action, file: file.to_owned(), source }
}

/// The same of a file of the log, whose name is made only where it is needed.
fn failed_in(action: &'static str, sequence: u64) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { action, file: file_name(sequence), source }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl<D: Disk> Log<D> {
    /// Opens the log in a directory, making it if the directory is empty.
    ///
    /// Reads every frame; the time is that of reading the files once.
    pub fn open(disk: D, options: LogOptions) -> Result<(Log<D>, Recovered), LogError> {
        let file_bytes = options.file_bytes.clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
        recover::open(disk, LogOptions { file_bytes, ..options })
    }

    /// Takes a batch: all of it, or none with an error that left everything as it was
    /// ([`LogError::Full`], [`LogError::Misuse`]). Nothing is durable before [`Log::sync`].
    ///
    /// Writes only when a file gets full.
    pub fn append(&mut self, batch: &[Append]) -> Result<(), LogError> {
        self.check_alive()?;
        let drafts = self.rehearse(batch)?;
        self.make_files_for(batch, &drafts)?;
        for append in batch {
            // The batch is half taken: from here on even a full disk is the end.
            let taken = self.put(append);
            self.dead = taken.is_err();
            taken?;
        }
        Ok(())
    }

    /// Hands everything appended to the operating system, in one write; readers see it from now on.
    pub fn write(&mut self) -> Result<(), LogError> {
        self.check_alive()?;
        let written = self.write_buffer();
        self.mortal(written)
    }

    /// Writes what is left to write and makes everything appended survive a power cut. Then files
    /// that all shards have forgotten are freed for use.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_alive()?;
        let synced = self.write_buffer().and_then(|()| self.sync_file()).and_then(|()| self.recycle());
        self.mortal(synced)
    }

    /// Notes that a shard needs no entry up to and including this one. Files that no shard needs
    /// are freed by the next [`Log::sync`]. Where members changed among those entries, only the shard's
    /// replica can do it, which knows whether they are committed.
    pub fn forget(&mut self, shard: ShardId, up_to: LogIndex) -> Result<(), LogError> {
        self.write()?;
        let Some(known) = self.shards.get(&shard) else {
            return Err(LogError::Misuse { shard, what: "the shard has no start" });
        };
        let index = known.index.read().unwrap_or_else(PoisonError::into_inner);
        if up_to <= index.start {
            return Ok(());
        }
        let Some(place) = index.get(up_to) else {
            return Err(LogError::Misuse { shard, what: "forgetting more than there is" });
        };
        if index.changes.first().is_some_and(|change| *change <= up_to) {
            return Err(LogError::Misuse { shard, what: "forgetting a change of members without its replica" });
        }
        drop(index);
        self.append(&[Append { shard, change: Change::Forget { up_to, term: place.term } }])
    }

    /// Bytes of frames that can be appended without asking the disk for space. Frames do not
    /// straddle files, so a batch of frames near this size may still need more.
    pub fn room(&self) -> u64 {
        let overhead = self.opening_bytes() + NUMBER_FRAME_BYTES + TAIL_BYTES;
        let spares: u64 = self.spares.iter().map(|spare| spare.bytes.saturating_sub(overhead)).sum();
        self.room_in_file() + spares
    }

    /// Makes files ahead until there is [`Log::room`] for this many bytes.
    ///
    /// [`LogError::Full`] leaves nothing half made, and the log as usable as it was.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), LogError> {
        self.check_alive()?;
        while self.room() < bytes {
            let made = self.make_spare(self.options.file_bytes);
            self.mortal(made)?;
        }
        Ok(())
    }

    /// Reads a shard's entries; none if the shard has no part in this log.
    pub fn reader(&self, shard: ShardId) -> Option<LogReader> {
        let known = self.shards.get(&shard)?;
        Some(LogReader::new(shard, Arc::clone(&known.index), Arc::clone(&self.open_files)))
    }

    /// A shard's part of the log as written; none if it has none.
    pub fn shard(&self, shard: ShardId) -> Option<ShardState> {
        let known = self.shards.get(&shard)?;
        let summary = known.summary.as_ref()?;
        let index = known.index.read().unwrap_or_else(PoisonError::into_inner);
        Some(ShardState {
            start: summary.start,
            start_term: summary.start_term,
            last: summary.last,
            hard_state: summary.hard_state,
            members: Arc::clone(&summary.members),
            changes: index.changes.clone(),
            terms: index.terms(),
        })
    }

    /// The figures.
    pub fn stats(&self) -> LogStats {
        let mut entries = 0;
        let mut pinned_by = None;
        let oldest = self.files.front().map(|file| file.header.sequence);
        for (shard, known) in &self.shards {
            let index = known.index.read().unwrap_or_else(PoisonError::into_inner);
            entries += index.places.len() as u64;
            if self.files.len() > 1 && index.places.front().map(|place| place.file) == oldest {
                pinned_by = pinned_by.or(Some(*shard));
            }
        }
        LogStats {
            files: self.files.len(),
            spares: self.spares.len(),
            bytes: self.files.iter().map(|file| file.header.bytes).sum::<u64>()
                + self.spares.iter().map(|spare| spare.bytes).sum::<u64>(),
            entries,
            syncs: self.syncs,
            bytes_written: self.bytes_written,
            recycled: self.recycled,
            pinned_by,
        }
    }

    /// Syncs everything and marks the log as closed, so that the next start can tell that nothing is
    /// missing from its end.
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        if self.closed_end == Some(self.end) {
            return Ok(());
        }
        // A mark that was lost with the power has left its padding.
        if self.end + TAIL_BYTES > self.active().header.bytes {
            match self.begin_file(NUMBER_FRAME_BYTES, self.active().header.version) {
                Ok(()) => {}
                Err(LogError::Full { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let salt = self.active().header.salt();
        frame::encode_pad(&mut self.buffer, salt, self.end);
        frame::encode_number(&mut self.buffer, salt, Kind::Close, self.end);
        self.write_buffer()?;
        self.sync_file()
    }

    /// Notes that a file was found not to be what was written: the disk may be bad there, so the file is removed once nobody needs
    /// it, and not used again.
    pub fn spoil(&mut self, sequence: u64) {
        if self.uses(sequence) {
            self.spoilt.insert(sequence);
        }
    }

    /// Whether it needs this file.
    pub fn uses(&self, sequence: u64) -> bool {
        self.files.iter().any(|file| file.header.sequence == sequence)
    }

    /// The disk under the log.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    fn check_alive(&self) -> Result<(), LogError> {
        if self.dead { Err(LogError::Dead) } else { Ok(()) }
    }

    /// The first failure is the last thing the log says; a full disk is no failure.
    fn mortal<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if matches!(&result, Err(error) if !matches!(error, LogError::Full { .. })) {
            self.dead = true;
        }
        result
    }

    fn active(&self) -> &LiveFile<D::File> {
        self.files.back().expect("an open log has a file")
    }

    fn room_in_file(&self) -> u64 {
        // A buffer begins with a mark.
        let mark = if self.buffer.is_empty() { NUMBER_FRAME_BYTES } else { 0 };
        let used = self.end + self.buffer.len() as u64 + mark + TAIL_BYTES;
        self.active().header.bytes.saturating_sub(used)
    }

    /// Checks that a batch can follow what is there; the summaries as they will be after it.
    fn rehearse(&self, batch: &[Append]) -> Result<BTreeMap<ShardId, Option<Summary>>, LogError> {
        let mut drafts: BTreeMap<ShardId, Option<Summary>> = BTreeMap::new();
        for Append { shard, change } in batch {
            let draft =
                drafts.entry(*shard).or_insert_with(|| self.shards.get(shard).and_then(|known| known.summary.clone()));
            let misuse = |what| LogError::Misuse { shard: *shard, what };
            if let Change::Entry(entry) = change
                && entry.context.len() + entry.data.len() > ENTRY_BYTES_MAX
            {
                return Err(misuse("an entry larger than the largest"));
            }
            summary::follow(draft, &Step::of(change)).map_err(misuse)?;
        }
        Ok(drafts)
    }

    /// Makes every file that this batch will need, so that nothing can run out of space halfway.
    fn make_files_for(
        &mut self,
        batch: &[Append],
        drafts: &BTreeMap<ShardId, Option<Summary>>,
    ) -> Result<(), LogError> {
        let mut needs = Vec::new();
        let mut room = self.room_in_file();
        let mut version = self.active().header.version;
        let mut overhead = None;
        for append in batch {
            let frame = change_bytes(&append.change);
            if frame <= room && version >= version_of(&append.change) {
                room -= frame;
                continue;
            }
            version = version.max(version_of(&append.change));
            let overhead = *overhead.get_or_insert_with(|| self.overhead_at_most(batch, drafts));
            let bytes = self.new_file_bytes(overhead + frame);
            needs.push(bytes);
            room = bytes - overhead - frame;
        }
        let mut spares: Vec<u64> = self.spares.iter().map(|spare| spare.bytes).collect();
        for need in needs {
            if let Some(at) = best_fit(spares.iter().copied(), need) {
                spares.swap_remove(at);
            } else {
                let made = self.make_spare(need);
                self.mortal(made)?;
            }
        }
        Ok(())
    }

    /// What a file begun during this batch holds beside the batch's frames, at most.
    fn overhead_at_most(&self, batch: &[Append], drafts: &BTreeMap<ShardId, Option<Summary>>) -> u64 {
        let mut bytes = self.opening_bytes() + NUMBER_FRAME_BYTES + TAIL_BYTES;
        let mut grow = |members: &Members| {
            bytes += frame::frame_bytes(Summary::payload_bytes(members));
        };
        for summary in drafts.values().flatten() {
            grow(&summary.members);
        }
        for append in batch {
            if let Change::Start { members, .. } | Change::Members(members) | Change::Rebase { members, .. } =
                &append.change
            {
                grow(members);
            }
        }
        bytes
    }

    fn new_file_bytes(&self, needed: u64) -> u64 {
        self.options.file_bytes.max(needed.next_multiple_of(4096))
    }

    fn opening_bytes(&self) -> u64 {
        let states = self.shards.values().flat_map(|shard| &shard.summary);
        HEADER_BYTES + states.map(|summary| frame::frame_bytes(Summary::payload_bytes(&summary.members))).sum::<u64>()
    }

    /// Puts one change into the buffer, in a new file if this one has no room.
    fn put(&mut self, append: &Append) -> Result<(), LogError> {
        let Append { shard, change } = append;
        let bytes = change_bytes(change);
        let version = version_of(change);
        if bytes > self.room_in_file() || version > self.active().header.version {
            self.begin_file(bytes, version)?;
        }
        let LiveFile { header, .. } = self.active();
        let (sequence, salt) = (header.sequence, header.salt());
        if self.buffer.is_empty() {
            frame::encode_number(&mut self.buffer, salt, Kind::Mark, self.durable_end);
        }
        let offset = self.end + self.buffer.len() as u64;
        encode_change(&mut self.buffer, salt, *shard, change);
        debug_assert_eq!(self.end + self.buffer.len() as u64 - offset, bytes);
        let place = match change {
            Change::Entry(entry) => {
                Some(Place { term: entry.term, file: sequence, offset: offset as u32, bytes: bytes as u32 })
            }
            _ => None,
        };
        let known = self.shards.entry(*shard).or_insert_with(|| Shard {
            summary: None,
            index: Arc::new(RwLock::new(ShardIndex::new(LogIndex(0), LogIndex(0)))),
        });
        let step = Step::of(change);
        summary::follow(&mut known.summary, &step).map_err(|what| LogError::Misuse { shard: *shard, what })?;
        self.unpublished.push((*shard, step, place));
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let active = self.active();
        let sequence = active.header.sequence;
        active.file.write_all_at(&self.buffer, self.end).map_err(failed_in("writing", sequence))?;
        self.end += self.buffer.len() as u64;
        self.bytes_written += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.closed_end = None;
        self.publish();
        Ok(())
    }

    /// Lets the readers see what has been written.
    fn publish(&mut self) {
        let oldest = self.files.front().map_or(0, |file| file.header.sequence);
        let mut steps = std::mem::take(&mut self.unpublished).into_iter().peekable();
        while let Some((shard, step, place)) = steps.next() {
            let Some(known) = self.shards.get(&shard) else {
                continue;
            };
            let mut index = known.index.write().unwrap_or_else(PoisonError::into_inner);
            let mut next = Some((step, place));
            while let Some((step, place)) = next.take() {
                index.follow(&step, place, |sequence| {
                    if let Some(file) = self.files.get_mut((sequence - oldest) as usize) {
                        file.live -= 1;
                    }
                });
                if let Some(place) = place
                    && let Some(file) = self.files.get_mut((place.file - oldest) as usize)
                {
                    file.live += 1;
                }
                // Steps of one shard mostly come in a row: one lock for all of them.
                next = steps.next_if(|(other, ..)| *other == shard).map(|(_, step, place)| (step, place));
            }
        }
    }

    fn sync_file(&mut self) -> Result<(), LogError> {
        if self.durable_end == self.end {
            return Ok(());
        }
        let active = self.active();
        let sequence = active.header.sequence;
        syncing::sync(&*active.file, &self.failed).map_err(failed_in("syncing", sequence))?;
        self.syncs += 1;
        self.durable_end = self.end;
        Ok(())
    }

    /// Finishes the file in use and begins the next, with room for a frame of this size and of at least
    /// this version.
    fn begin_file(&mut self, frame: u64, version: u32) -> Result<(), LogError> {
        self.write_buffer()?;
        self.sync_file()?;
        let old = self.active();
        let (old_file, old_header, old_end) = (Arc::clone(&old.file), old.header, self.end);
        self.start_file(old_header.sequence + 1, old_end, frame, version.max(old_header.version))?;

        let name = file_name(old_header.sequence);
        let mut end = Vec::new();
        frame::encode_number(&mut end, old_header.salt(), Kind::End, old_header.sequence + 1);
        old_file.write_all_at(&end, old_end).map_err(failed("writing", &name))?;
        syncing::sync(&*old_file, &self.failed).map_err(failed("syncing", &name))?;
        let opening_end = self.active().header.opening_end;
        (self.end, self.durable_end, self.closed_end) = (opening_end, opening_end, None);
        Ok(())
    }

    /// Turns a spare into the file with this number: whole and durable before it has the name.
    fn start_file(&mut self, sequence: u64, previous_end: u64, frame: u64, version: u32) -> Result<(), LogError> {
        let opening_end = self.opening_bytes();
        let needed = self.new_file_bytes(opening_end + NUMBER_FRAME_BYTES + frame + TAIL_BYTES);
        let fit = best_fit(self.spares.iter().map(|spare| spare.bytes), needed);
        let spare = match fit {
            Some(at) => self.spares.swap_remove(at),
            None => {
                self.make_spare(needed)?;
                self.spares.pop().expect("a spare was just made")
            }
        };
        let secret = self.options.secret;
        let header = Header { version, sequence, secret, bytes: spare.bytes, opening_end, previous_end };
        let mut opening = header.encode().to_vec();
        for (shard, known) in &self.shards {
            if let Some(summary) = &known.summary {
                frame::encode(&mut opening, header.salt(), *shard, Kind::State, |out| {
                    summary.encode(out);
                });
            }
        }
        let file = self.disk.open(&spare.name).map_err(failed("opening", &spare.name))?;
        file.write_all_at(&opening, 0).map_err(failed("writing", &spare.name))?;
        file.sync_data().map_err(failed("syncing", &spare.name))?;
        let name = file_name(sequence);
        self.disk.rename(&spare.name, &name).map_err(failed("naming", &name))?;
        self.disk.sync_directory().map_err(failed("syncing the directory of", &name))?;
        let file = Arc::new(file);
        self.open_files.insert(sequence, Arc::clone(&file) as Arc<dyn DiskFile>, header.salt());
        self.files.push_back(LiveFile { header, file, live: 0 });
        Ok(())
    }

    /// Frees the oldest files as long as nobody needs them. Only after a sync: what made them
    /// needless must not be lost before they are.
    fn recycle(&mut self) -> Result<(), LogError> {
        while self.files.len() > 1
            && let Some(oldest) = self.files.front()
            && oldest.live == 0
        {
            let Header { sequence, bytes, .. } = oldest.header;
            let name = file_name(sequence);
            self.open_files.remove(sequence);
            self.files.pop_front();
            let sound = !self.spoilt.remove(&sequence);
            if sound && bytes == self.options.file_bytes && self.spares.len() < SPARES_KEPT {
                self.spares_made += 1;
                let spare = spare_name(self.spares_made);
                self.disk.rename(&name, &spare).map_err(failed("freeing", &name))?;
                self.spares.push(Spare { name: spare, bytes });
                self.recycled += 1;
            } else {
                self.disk.remove(&name).map_err(failed("removing", &name))?;
            }
            self.disk.sync_directory().map_err(failed("syncing the directory of", &name))?;
        }
        Ok(())
    }
}

/// The smallest that is large enough.
fn best_fit(sizes: impl Iterator<Item = u64>, need: u64) -> Option<usize> {
    let fitting = sizes.enumerate().filter(|(_, bytes)| *bytes >= need);
    fitting.min_by_key(|(_, bytes)| *bytes).map(|(at, _)| at)
}

fn change_bytes(change: &Change) -> u64 {
    frame::frame_bytes(match change {
        Change::Start { members, .. } => 16 + members.encoded_bytes(),
        Change::Entry(entry) => frame::entry_payload_bytes(entry),
        Change::HardState(_) => frame::HARD_STATE_BYTES,
        Change::Members(members) => members.encoded_bytes(),
        Change::Forget { .. } => 16,
        Change::Rebase { members, .. } => 16 + members.encoded_bytes(),
    })
}

/// The oldest version of a file that can hold a change.
fn version_of(change: &Change) -> u32 {
    match change {
        Change::Entry(entry) if entry.kind != EntryKind::Normal => 2,
        Change::Rebase { .. } => 2,
        _ => frame::VERSION_FIRST,
    }
}

fn encode_change(out: &mut Vec<u8>, salt: u32, shard: ShardId, change: &Change) {
    match change {
        Change::Start { index, term, members } => {
            frame::encode(out, salt, shard, Kind::Start, |out| {
                frame::encode_position(out, *index, *term);
                members.encode(out);
            });
        }
        Change::Entry(entry) => {
            frame::encode(out, salt, shard, Kind::Entry, |out| frame::encode_entry(out, entry));
        }
        Change::HardState(state) => {
            frame::encode(out, salt, shard, Kind::HardState, |out| {
                frame::encode_hard_state(out, state);
            });
        }
        Change::Members(members) => {
            frame::encode(out, salt, shard, Kind::Members, |out| members.encode(out));
        }
        Change::Forget { up_to, term } => {
            frame::encode(out, salt, shard, Kind::Forget, |out| {
                frame::encode_position(out, *up_to, *term);
            });
        }
        Change::Rebase { up_to, term, members } => {
            frame::encode(out, salt, shard, Kind::Rebase, |out| {
                frame::encode_position(out, *up_to, *term);
                members.encode(out);
            });
        }
    }
}
