//! The entries of one replica as the raft core sees them: the newest in memory, older ones on the disk.
//!
//! ```text
//!    forgotten | read from the log, verified      | in memory: recent ones and all that are not
//!    ----------+                                  | known to be on the disk
//!            start                             recent[0]                      last
//! ```
//!
//! The core stops the process when its storage fails. So a failure is kept here, the core gets an
//! empty answer, and the replica ends with a typed error before anything leaves it.
//!
//! A committed entry that cannot be read for another member is no such failure: the store has or will have what it did, so that
//! member is sent a snapshot from beyond it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, StorageError};

use super::convert;
use crate::entry::{Entry, EntryKind, HardState, LogIndex, MemberId, Term};
use crate::log::{LogReader, ReadError, ShardState};
use crate::members::Members;

/// Entries in memory beyond those that must be there.
const RECENT_BYTES_MAX: usize = 4 << 20;
/// What an entry costs beside its data.
const ENTRY_OVERHEAD: usize = 64;

pub(super) struct Shelf {
    pub(super) hard_state: HardState,
    /// The members as of `start`, and from each committed change of them on that the core knows of.
    history: Vec<(LogIndex, Arc<Members>)>,
    /// The entries after `start` that change members, committed or not.
    changes: Vec<LogIndex>,
    start: LogIndex,
    start_term: Term,
    last: LogIndex,
    /// Each term of the entries after `start`, with the first index that has it.
    terms: Vec<(LogIndex, Term)>,
    /// Contiguous and ending at `last`.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    reader: LogReader,
    failure: RefCell<Option<ReadError>>,
    /// The last committed entry that could not be read for another member; and why, until somebody is told.
    unreadable: Cell<LogIndex>,
    pub(super) unread: RefCell<Option<ReadError>>,
    /// A member too far behind for entries, since last asked.
    pub(super) snapshot_wanted: Cell<Option<MemberId>>,
    /// A snapshot of the state machine that can be sent.
    offered: Option<Offer>,
}

/// A snapshot: how far it reaches, and the members as of there.
struct Offer {
    index: LogIndex,
    term: Term,
    members: Arc<Members>,
}

impl Shelf {
    pub(super) fn new(state: &ShardState, hard_state: HardState, reader: LogReader) -> Shelf {
        Shelf {
            hard_state,
            history: vec![(state.start, Arc::clone(&state.members))],
            changes: state.changes.clone(),
            start: state.start,
            start_term: state.start_term,
            last: state.last,
            terms: state.terms.clone(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            reader,
            failure: RefCell::new(None),
            unreadable: Cell::new(LogIndex(0)),
            unread: RefCell::new(None),
            snapshot_wanted: Cell::new(None),
            offered: None,
        }
    }

    pub(super) fn start(&self) -> LogIndex {
        self.start
    }

    /// The members in force.
    pub(super) fn members(&self) -> &Arc<Members> {
        let (_, members) = self.history.last().expect("the members as of the start are always known");
        members
    }

    /// The members as of an index that is not forgotten and not beyond what is committed.
    pub(super) fn members_at(&self, index: LogIndex) -> &Arc<Members> {
        let after = self.history.partition_point(|(from, _)| *from <= index);
        let (_, members) = &self.history[after.saturating_sub(1)];
        members
    }

    /// Whether it took part at any time that the log remembers.
    pub(super) fn ever_had(&self, member: MemberId) -> bool {
        self.history.iter().any(|(_, members)| members.contains(member))
    }

    /// A committed entry says which members there are from it on. None if they cannot follow those in
    /// force: then it changes nothing, on every member alike.
    pub(super) fn change_members(&mut self, index: LogIndex, data: &[u8]) -> Option<Arc<Members>> {
        let next = Members::decode(data).ok().filter(|next| self.members().precedes(next)).map(Arc::new)?;
        self.history.push((index, Arc::clone(&next)));
        Some(next)
    }

    /// Follows the changes up to an entry that was applied before this start.
    pub(super) fn replay_changes(&mut self, applied: LogIndex) -> Result<(), ReadError> {
        let count = self.changes.partition_point(|change| *change <= applied);
        for at in 0..count {
            let entry = self.load(self.changes[at])?;
            self.change_members(entry.index, &entry.data);
        }
        Ok(())
    }

    pub(super) fn offer(&mut self, index: LogIndex) {
        if let Some(term) = self.term_of(index) {
            self.offered = Some(Offer { index, term, members: Arc::clone(self.members_at(index)) });
        }
    }

    pub(super) fn take_failure(&self) -> Option<ReadError> {
        self.failure.borrow_mut().take()
    }

    /// Takes new entries; the first replaces the one at its index and all after it.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        debug_assert!(first.index > self.start && first.index <= self.last.next());
        while let Some(back) = self.recent.back().filter(|back| back.index >= first.index) {
            self.recent_bytes -= cost(back);
            self.recent.pop_back();
        }
        while self.terms.last().is_some_and(|(from, _)| *from >= first.index) {
            self.terms.pop();
        }
        self.changes.truncate(self.changes.partition_point(|change| *change < first.index));
        for entry in entries {
            if entry.kind == EntryKind::Members {
                self.changes.push(entry.index);
            }
            if self.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push((entry.index, entry.term));
            }
            self.recent_bytes += cost(entry);
            self.recent.push_back(entry.clone());
            self.last = entry.index;
        }
    }

    /// Lets go of old entries in memory, down to those that may not be on the disk yet.
    pub(super) fn trim(&mut self, persisted: LogIndex) {
        while self.recent_bytes > RECENT_BYTES_MAX
            && let Some(front) = self.recent.front().filter(|front| front.index <= persisted)
        {
            self.recent_bytes -= cost(front);
            self.recent.pop_front();
        }
    }

    /// Forgets entries; the members as of the last of them, if any of them changed members.
    pub(super) fn forget(&mut self, up_to: LogIndex, term: Term) -> Option<Arc<Members>> {
        let changed = self.changes.first().is_some_and(|change| *change <= up_to);
        self.changes.drain(..self.changes.partition_point(|change| *change <= up_to));
        let after = self.history.partition_point(|(from, _)| *from <= up_to);
        self.history.drain(..after.saturating_sub(1));
        let (from, members) = self.history.first_mut().expect("the members as of the start are always known");
        *from = up_to;
        let members = changed.then(|| Arc::clone(members));
        self.start = up_to;
        self.start_term = term;
        while let Some(front) = self.recent.front().filter(|front| front.index <= up_to) {
            self.recent_bytes -= cost(front);
            self.recent.pop_front();
        }
        let passed = self.terms.partition_point(|(from, _)| *from <= up_to);
        if passed > 0 {
            self.terms.drain(..passed - 1);
            // The run in which the new start lies now begins behind it, if it reaches that far.
            let ends = self.terms.get(1).map_or(self.last.next(), |(from, _)| *from);
            if ends <= up_to.next() {
                self.terms.remove(0);
            } else if let Some((from, _)) = self.terms.first_mut() {
                *from = up_to.next();
            }
        }
        members
    }

    /// The log begins anew after a snapshot.
    pub(super) fn restart(&mut self, index: LogIndex, term: Term, members: Arc<Members>) {
        self.recent.clear();
        self.recent_bytes = 0;
        self.terms.clear();
        (self.start, self.start_term, self.last) = (index, term, index);
        self.changes.clear();
        self.history = vec![(index, members)];
        self.offered = None;
    }

    pub(super) fn term_of(&self, index: LogIndex) -> Option<Term> {
        if index == self.start {
            return Some(self.start_term);
        }
        if index < self.start || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|(from, _)| *from <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// An entry from memory or from the disk.
    pub(super) fn load(&self, index: LogIndex) -> Result<Entry, ReadError> {
        if let Some(first) = self.recent.front()
            && let Some(at) = index.0.checked_sub(first.index.0)
            && let Some(entry) = self.recent.get(at as usize)
        {
            return Ok(entry.clone());
        }
        self.reader.read(index)
    }

    /// Entries without their data, for a core that only looks for changes of members.
    fn outlines(&self, low: u64, high: u64) -> Vec<eraftpb::Entry> {
        let outline = |index| {
            let changes = self.changes.binary_search(&LogIndex(index)).is_ok();
            convert::entry_to_raft(Entry {
                index: LogIndex(index),
                term: self.term_of(LogIndex(index)).unwrap_or_default(),
                kind: if changes { EntryKind::Members } else { EntryKind::Normal },
                context: Bytes::new(),
                data: Bytes::new(),
            })
        };
        (low..high).map(outline).collect()
    }

    /// Whether a snapshot will do for the member that was to be sent an entry that could not be read.
    fn is_dispensable(&self, index: LogIndex, error: &ReadError) -> bool {
        matches!(error, ReadError::Damaged { .. } | ReadError::Io { .. }) && index <= self.hard_state.commit
    }

    /// The last entry that members lack for good, as it cannot be read: a snapshot must reach that far.
    pub(super) fn unreadable(&self) -> LogIndex {
        self.unreadable.get()
    }

    /// Entries, or which of them cannot be read.
    fn load_range(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<eraftpb::Entry>, (LogIndex, ReadError)> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let entry = self.load(LogIndex(index)).map_err(|error| (LogIndex(index), error))?;
            bytes += (entry.data.len() + entry.context.len() + ENTRY_OVERHEAD) as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(convert::entry_to_raft(entry));
        }
        Ok(entries)
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + ENTRY_OVERHEAD
}

impl raft::Storage for Shelf {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState {
            hard_state: convert::hard_state_to_raft(&self.hard_state),
            conf_state: convert::members_to_raft(self.members()),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.start.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let Some(bytes_max) = max_size.into() else {
            // The core asks without a limit only to look for changes of members among the entries
            // that are not applied, of which there can be any number after a long absence.
            return Ok(self.outlines(low, high));
        };
        // It was found already: until the log is cut behind it, it is not read again each time.
        let unreadable = self.unreadable.get().0;
        if context.can_async() && (low..high).contains(&unreadable) {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        match self.load_range(low, high, bytes_max) {
            Ok(entries) => Ok(entries),
            // Asked for another member only.
            Err((index, error)) if context.can_async() && self.is_dispensable(index, &error) => {
                self.unreadable.set(self.unreadable.get().max(index));
                self.unread.borrow_mut().get_or_insert(error);
                Err(raft::Error::Store(StorageError::Compacted))
            }
            Err((_, error)) => {
                self.failure.borrow_mut().get_or_insert(error);
                if context.can_async() {
                    Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable))
                } else {
                    Ok(Vec::new())
                }
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_of(LogIndex(index)) {
            Some(term) => Ok(term.0),
            None if index < self.start.0 => Err(raft::Error::Store(StorageError::Compacted)),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        match &self.offered {
            // One that does not know the member would be of no use to it.
            Some(offer)
                if offer.index >= self.start.max(self.unreadable.get())
                    && offer.index.0 >= request_index
                    && offer.members.contains(MemberId(to)) =>
            {
                Ok(convert::snapshot_to_raft(offer.index, offer.term, &offer.members))
            }
            _ => {
                self.snapshot_wanted.set(Some(MemberId(to)));
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
