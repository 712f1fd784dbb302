//! Reading entries back while the log's owner writes.
//!
//! ```text
//!    owner -- after each write --> where every entry stands <-- lookup -- LogReader (any thread)
//!                                  (one lock per shard)                      | read + verify
//!                                  the open files          <-----------------+
//! ```
//!
//! A reader may look up a place just before its file is recycled. What it then reads fails its
//! checksum, because that is salted with the file's use; it looks again and finds the entry forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::answers::is_unreadable;
use super::frame::{self, Kind};
use super::summary::Step;
use crate::disk::DiskFile;
use crate::entry::{Entry, EntryKind, LogIndex, ShardId, Term};

/// Reads entries of one shard. Cheap to clone; any number may read while the log is written.
#[derive(Clone)]
pub struct LogReader {
    shard: ShardId,
    index: Arc<RwLock<ShardIndex>>,
    files: Arc<OpenFiles>,
}

/// Why an entry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is before what the log keeps: a snapshot covers it.
    #[error("entry {index} of shard {shard} is forgotten; the log keeps what follows {start}")]
    Forgotten {
        /// The shard.
        shard: ShardId,
        /// The entry asked for.
        index: LogIndex,
        /// The last forgotten entry.
        start: LogIndex,
    },
    /// It is after what has been written.
    #[error("entry {index} of shard {shard} is not in the log, which ends at {last}")]
    Beyond {
        /// The shard.
        shard: ShardId,
        /// The entry asked for.
        index: LogIndex,
        /// The last entry written.
        last: LogIndex,
    },
    /// The disk holds something else than what was written.
    #[error("entry {index} of shard {shard} is damaged in {file} at byte {offset}; restore this member from another")]
    Damaged {
        /// The shard.
        shard: ShardId,
        /// The entry asked for.
        index: LogIndex,
        /// The file.
        file: String,
        /// Where its frame begins.
        offset: u64,
    },
    /// The disk did not answer.
    #[error("reading {file} at byte {offset}")]
    Io {
        /// The file.
        file: String,
        /// Where its frame begins.
        offset: u64,
        /// What the disk said.
        source: io::Error,
    },
}

impl ReadError {
    /// The file that is not what was written, if that is why.
    pub fn damaged_file(&self) -> Option<&str> {
        match self {
            ReadError::Damaged { file, .. } => Some(file),
            ReadError::Io { file, source, .. } => is_unreadable(source).then_some(file),
            ReadError::Forgotten { .. } | ReadError::Beyond { .. } => None,
        }
    }
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub term: Term,
    pub file: u64,
    pub offset: u32,
    pub bytes: u32,
}

/// Where each entry of a shard stands. Entries up to `start` are forgotten; those from there to
/// `base` are known to have been, in files that are gone.
#[derive(Debug)]
pub(super) struct ShardIndex {
    pub start: LogIndex,
    pub base: LogIndex,
    pub places: VecDeque<Place>,
    /// The entries among them that change members, in ascending order.
    pub changes: Vec<LogIndex>,
}

impl ShardIndex {
    /// A log that begins after `start`, of whose entries up to `last` nothing has been seen.
    pub(super) fn new(start: LogIndex, last: LogIndex) -> ShardIndex {
        ShardIndex { start, base: last.next(), places: VecDeque::new(), changes: Vec::new() }
    }

    pub(super) fn last(&self) -> LogIndex {
        LogIndex(self.base.0 + self.places.len() as u64 - 1)
    }

    pub(super) fn get(&self, index: LogIndex) -> Option<Place> {
        let at = index.0.checked_sub(self.base.0)?;
        self.places.get(usize::try_from(at).ok()?).copied()
    }

    /// Follows one step and tells `gone` the file of every entry that it ended.
    pub(super) fn follow(&mut self, step: &Step, place: Option<Place>, mut gone: impl FnMut(u64)) {
        match step {
            Step::Start(index, ..) => {
                self.places.drain(..).for_each(|place| gone(place.file));
                (self.start, self.base) = (*index, index.next());
                self.changes.clear();
            }
            Step::Entry(index, _, kind) => {
                let keep = index.0.saturating_sub(self.base.0).min(self.places.len() as u64);
                self.places.drain(keep as usize..).for_each(|place| gone(place.file));
                if self.places.is_empty() {
                    self.base = *index;
                }
                self.places.extend(place);
                self.changes.truncate(self.changes.partition_point(|change| change < index));
                if *kind == EntryKind::Members {
                    self.changes.push(*index);
                }
            }
            Step::Forget(up_to, _) | Step::Rebase(up_to, ..) => {
                self.start = *up_to;
                self.changes.drain(..self.changes.partition_point(|change| change <= up_to));
                let passed = (up_to.0 + 1).saturating_sub(self.base.0);
                let passed = passed.min(self.places.len() as u64);
                self.places.drain(..passed as usize).for_each(|place| gone(place.file));
                self.base.0 += passed;
                if self.base <= *up_to {
                    self.base = up_to.next();
                }
            }
            Step::HardState(_) | Step::Members(_) => {}
        }
    }

    /// Entries that should be there and are not: the first and the last of them.
    pub(super) fn missing(&self) -> Option<(LogIndex, LogIndex)> {
        (self.start.next() < self.base).then(|| (self.start.next(), LogIndex(self.base.0 - 1)))
    }

    /// Each term with the first index it has here.
    pub(super) fn terms(&self) -> Vec<(LogIndex, Term)> {
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for (at, place) in self.places.iter().enumerate() {
            if terms.last().is_none_or(|(_, term)| *term != place.term) {
                terms.push((LogIndex(self.base.0 + at as u64), place.term));
            }
        }
        terms
    }
}

/// The files that readers may need, by sequence number.
#[derive(Default)]
pub(super) struct OpenFiles {
    files: RwLock<BTreeMap<u64, ReadFile>>,
}

#[derive(Clone)]
struct ReadFile {
    file: Arc<dyn DiskFile>,
    salt: u32,
}

impl OpenFiles {
    pub(super) fn insert(&self, sequence: u64, file: Arc<dyn DiskFile>, salt: u32) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(sequence, ReadFile { file, salt });
    }

    pub(super) fn remove(&self, sequence: u64) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&sequence);
    }

    /// The numbers of all of them, ascending.
    pub(super) fn sequences(&self) -> Vec<u64> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    pub(super) fn file(&self, sequence: u64) -> Option<Arc<dyn DiskFile>> {
        self.get(sequence).map(|found| found.file)
    }

    fn get(&self, sequence: u64) -> Option<ReadFile> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&sequence).cloned()
    }
}

impl LogReader {
    pub(super) fn new(shard: ShardId, index: Arc<RwLock<ShardIndex>>, files: Arc<OpenFiles>) -> LogReader {
        LogReader { shard, index, files }
    }

    /// The last forgotten entry: what the log keeps follows it.
    pub fn start(&self) -> LogIndex {
        self.index.read().unwrap_or_else(PoisonError::into_inner).start
    }

    /// The last entry written.
    pub fn last(&self) -> LogIndex {
        self.index.read().unwrap_or_else(PoisonError::into_inner).last()
    }

    /// The term of an entry, from memory; none if it is not in the log.
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        let places = self.index.read().unwrap_or_else(PoisonError::into_inner);
        places.get(index).map(|place| place.term)
    }

    /// Reads one entry from the disk and verifies it. Its data shares the buffer it was read into.
    pub fn read(&self, index: LogIndex) -> Result<Entry, ReadError> {
        let (mut place, mut doubted) = (self.place(index)?, false);
        loop {
            match self.read_place(index, place) {
                Ok(entry) => return Ok(entry),
                // Moved meanwhile, or forgotten: only a place that is still right can be damaged, and was read wrong twice.
                Err(error) => match self.place(index)? {
                    now if now == place && doubted => return Err(error),
                    now => {
                        (place, doubted) = (now, now == place);
                        self.drop_cached(place);
                    }
                },
            }
        }
    }

    /// Has the next reading be one of the disk.
    fn drop_cached(&self, place: Place) {
        if let Some(ReadFile { file, .. }) = self.files.get(place.file) {
            file.drop_cached(place.offset.into(), place.bytes.into());
        }
    }

    fn place(&self, index: LogIndex) -> Result<Place, ReadError> {
        let places = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let shard = self.shard;
        places.get(index).ok_or_else(|| {
            if index <= places.start {
                ReadError::Forgotten { shard, index, start: places.start }
            } else {
                ReadError::Beyond { shard, index, last: places.last() }
            }
        })
    }

    fn read_place(&self, index: LogIndex, place: Place) -> Result<Entry, ReadError> {
        let offset = u64::from(place.offset);
        let damaged = || ReadError::Damaged { shard: self.shard, index, file: super::file_name(place.file), offset };
        let ReadFile { file, salt } = self.files.get(place.file).ok_or_else(damaged)?;
        let mut bytes = vec![0; place.bytes as usize];
        let read = file.read_at(&mut bytes, offset).map_err(|source| ReadError::Io {
            file: super::file_name(place.file),
            offset,
            source,
        })?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        let frame = frame::decode(&bytes, salt).ok_or_else(damaged)?;
        if frame.kind != Kind::Entry || frame.shard != self.shard {
            return Err(damaged());
        }
        let entry = frame::entry(&bytes, frame.payload).ok_or_else(damaged)?;
        if entry.index != index || entry.term != place.term {
            return Err(damaged());
        }
        Ok(entry)
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader")
            .field("shard", &self.shard)
            .field("start", &self.start())
            .field("last", &self.last())
            .finish_non_exhaustive()
    }
}
