//! What the log says of itself: what opening found, its figures, and why it could not.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::frame;
use crate::entry::{HardState, LogIndex, ShardId, Term};
use crate::members::Members;

/// What opening a log found.
#[derive(Debug)]
pub struct Recovered {
    /// Every shard that has a part in the log.
    pub shards: BTreeMap<ShardId, ShardState>,
    /// Whether the log was closed, and did not just end.
    pub clean: bool,
    /// What was cut from the end because nobody had been told that it is safe.
    pub cut: Option<Cut>,
    /// Files read.
    pub files: usize,
    /// Bytes of frames read.
    pub bytes: u64,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub file: String,
    /// Where its valid part ends.
    pub offset: u64,
    /// How many bytes that were not zero lay beyond.
    pub bytes: u64,
}

/// A shard's part of the log, without the data of its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// What the first entry follows: the end of a snapshot, or the last forgotten entry.
    pub start: LogIndex,
    /// The term of `start`.
    pub start_term: Term,
    /// The last entry, or `start` if there is none.
    pub last: LogIndex,
    /// The newest hard state.
    pub hard_state: HardState,
    /// The members as of `start`.
    pub members: Arc<Members>,
    /// The entries after `start` that change them, committed or not, in ascending order.
    pub changes: Vec<LogIndex>,
    /// Each term of the entries after `start`, with the first index that has it.
    pub terms: Vec<(LogIndex, Term)>,
}

impl ShardState {
    /// The term of an entry, or of `start`; none for others.
    pub fn term_of(&self, index: LogIndex) -> Option<Term> {
        if index == self.start {
            return Some(self.start_term);
        }
        if index < self.start || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|(from, _)| *from <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }
}

/// Figures of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Files in use.
    pub files: usize,
    /// Files ready for use.
    pub spares: usize,
    /// Bytes of both on the disk.
    pub bytes: u64,
    /// Entries that can be read.
    pub entries: u64,
    /// Syncs of frames since the log was opened.
    pub syncs: u64,
    /// Bytes of frames written since the log was opened.
    pub bytes_written: u64,
    /// Files used again since the log was opened.
    pub recycled: u64,
    /// The shard whose entries keep the oldest file, if other files wait behind it.
    pub pinned_by: Option<ShardId>,
}

/// Why the log could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A write or sync failed earlier. Stop the process; the next start finds out what is on the disk.
    #[error("the log died of an earlier error; restart to find out what is on the disk")]
    Dead,
    /// No space for another file. Nothing has changed; try again when space has been freed.
    #[error("the disk is full: the log needs {needed} bytes more; free some space")]
    Full {
        /// The bytes of the file that did not fit.
        needed: u64,
        /// What the disk said.
        source: io::Error,
    },
    /// The disk failed.
    #[error("{action} {file}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: String,
        /// What the disk said.
        source: io::Error,
    },
    /// A file that is not the log's. Nothing was changed.
    #[error("{file} does not belong to a log; move it away")]
    Foreign {
        /// Its name.
        file: String,
    },
    /// A newer program wrote the log. The files are fine; this program is too old.
    #[error("{file} has log format {version}, newer than {supported}; use a newer program", supported = frame::VERSION)]
    NewerVersion {
        /// The file.
        file: String,
        /// Its version.
        version: u32,
    },
    /// The disk holds something else than what was synced. Nothing was changed.
    #[error("{file} is damaged at byte {offset}: {what}; restore this member from another")]
    Damaged {
        /// The file.
        file: String,
        /// The offset of the first byte that cannot be believed.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A file that must be there is not.
    #[error("{file} is missing; restore this member from another")]
    Missing {
        /// Its name.
        file: String,
    },
    /// Entries that must be there are not.
    #[error("entries {first} to {last} of shard {shard} are missing; restore this member from another")]
    MissingEntries {
        /// The shard.
        shard: ShardId,
        /// The first of them.
        first: LogIndex,
        /// The last of them.
        last: LogIndex,
    },
    /// A change that cannot follow what is in the log. Nothing has changed.
    #[error("shard {shard} cannot take this change: {what}")]
    Misuse {
        /// The shard.
        shard: ShardId,
        /// What is wrong with the change.
        what: &'static str,
    },
}

impl LogError {
    /// Whether a file of a log that is open is not what was written: nobody puts a file of another there meanwhile.
    pub fn is_damage(&self) -> bool {
        match self {
            LogError::Damaged { .. } | LogError::Foreign { .. } | LogError::NewerVersion { .. } => true,
            LogError::Io { source, .. } => is_unreadable(source),
            _ => false,
        }
    }
}

/// Whether a disk cannot read a block (`EIO`).
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(5)
}
