//! The nouns of replication: who, where in the log, and what an entry is.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::members::Members;

/// The largest entry a log or a message takes: one batch of commands and its surroundings.
pub const ENTRY_BYTES_MAX: usize = 80 << 20;

/// A shard: one group of members that agree on one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

/// The position of an entry in a shard's log. Consecutive; never reused for another committed entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogIndex(pub u64);

/// The reign in which an entry was proposed. Each has at most one leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A node's part in a shard. Never 0, and never given again to a node whose log is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

macro_rules! shown_as_number {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

shown_as_number!(ShardId LogIndex Term MemberId);

impl LogIndex {
    /// The position after this one.
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Data for the state machine; empty when a new leader only marks its term.
    Normal,
    /// One step of a change of members: its data are the members from here on.
    Members,
}

impl EntryKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            EntryKind::Normal => 0,
            // 1 was never written.
            EntryKind::Members => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<EntryKind> {
        Some(match code {
            0 => EntryKind::Normal,
            2 => EntryKind::Members,
            _ => return None,
        })
    }
}

/// One entry of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub index: LogIndex,
    /// The term of the leader that put it there.
    pub term: Term,
    /// What it is for.
    pub kind: EntryKind,
    /// Bytes beside the data; empty in everything written so far.
    pub context: Bytes,
    /// What the state machine gets.
    pub data: Bytes,
}

/// What a member must not forget of its votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term it has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<MemberId>,
    /// What it knew to be committed when this was written; the truth may be further on.
    pub commit: LogIndex,
}

/// One change to a shard's part of the log, on its way to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Whose log it belongs to.
    pub shard: ShardId,
    /// What happens to it.
    pub change: Change,
}

/// What can happen to a shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The shard's log begins anew after a snapshot: at its founding, or when a snapshot was received.
    Start {
        /// The last index that the snapshot covers.
        index: LogIndex,
        /// The term of that index.
        term: Term,
        /// The members as of the snapshot.
        members: Arc<Members>,
    },
    /// An entry; the one at its index, if any, and all after it are gone.
    Entry(Entry),
    /// A newer hard state.
    HardState(HardState),
    /// Other members as of where the log starts.
    Members(Arc<Members>),
    /// Entries up to and including this one are not needed any more; none of them changed members.
    Forget {
        /// The last entry that is not needed.
        up_to: LogIndex,
        /// Its term.
        term: Term,
    },
    /// The same, where members changed among the entries that are not needed.
    Rebase {
        /// The last entry that is not needed.
        up_to: LogIndex,
        /// Its term.
        term: Term,
        /// The members as of it.
        members: Arc<Members>,
    },
}
