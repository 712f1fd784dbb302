//! What a replica answers: effects for the world, and the reasons why it does not do something.

use std::sync::Arc;

use bytes::Bytes;

use crate::entry::{Append, ENTRY_BYTES_MAX, LogIndex, MemberId, ShardId, Term};
use crate::log::ReadError;
use crate::members::Members;
use crate::message::Message;

/// What a member is for the others at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Proposes.
    Leader,
    /// Follows.
    Follower,
    /// Asks for votes.
    Candidate,
}

/// Role, term and leader as this member sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it is.
    pub role: Role,
    /// The newest term it knows.
    pub term: Term,
    /// Whom to ask for writes; none while nobody leads.
    pub leader: Option<MemberId>,
}

/// A batch on its way to the disk. Return it with [`Replica::synced`](crate::Replica::synced).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncMark(pub(super) u64);

/// Where a proposal will stand if it is committed: when the entry at this index has this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
}

/// An entry that a majority has on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// What was proposed; empty where a new leader only marked its term.
    pub data: Bytes,
}

/// A read that may be answered as soon as the store has applied `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// As given to [`Replica::read`](crate::Replica::read).
    pub context: u64,
    /// How far the store must be.
    pub index: LogIndex,
}

/// The log has begun anew after a snapshot that the leader sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReceived {
    /// The last index that the snapshot covers.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The members as of the snapshot.
    pub members: Arc<Members>,
}

/// What the world must do.
#[derive(Debug, Default)]
pub struct Effects {
    /// For the log, in this order, and before what later effects append.
    pub append: Vec<Append>,
    /// Sync the log after appending, then call [`Replica::synced`](crate::Replica::synced).
    pub sync: Option<SyncMark>,
    /// For other members, at once. May be lost, doubled or late; never changed.
    pub send: Vec<Message>,
    /// For the store, in this order.
    pub committed: Vec<Committed>,
    /// Reads that know how new they must be.
    pub reads: Vec<ReadReady>,
    /// Reads to ask again: leadership moved, and nobody will answer them.
    pub reads_lost: Vec<u64>,
    /// Role, term or leader changed.
    pub standing: Option<Standing>,
    /// A member is so far behind that it needs a snapshot of the store: make one durable, call
    /// [`Replica::offer_snapshot`](crate::Replica::offer_snapshot), and send its data along with the message that follows.
    pub snapshot_wanted: Option<MemberId>,
    /// A snapshot message took effect: the store must hold this snapshot, durably, before `append` is
    /// handed to the log.
    pub snapshot_received: Option<SnapshotReceived>,
    /// There is more already: call [`Replica::effects`](crate::Replica::effects) again.
    pub more: bool,
}

/// Why a replica cannot start from what is on the disk.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The members on disk do not include this one.
    #[error("member {me} takes no part in shard {shard}")]
    NotAMember {
        /// The shard.
        shard: ShardId,
        /// This member.
        me: MemberId,
    },
    /// Entries that the store needs are forgotten: the store is older than it was.
    #[error(
        "shard {shard}: the store holds entries up to {applied}, but the log only keeps those after {start}; \
         restore this member from another"
    )]
    StoreBehind {
        /// The shard.
        shard: ShardId,
        /// What the store holds.
        applied: LogIndex,
        /// What the log's first entry follows.
        start: LogIndex,
    },
    /// The store holds entries that the log does not: the log is older than it was, unless a snapshot
    /// was being received, in which case [`beginning`](crate::beginning) at the snapshot repairs it.
    #[error(
        "shard {shard}: the store holds entries up to {applied}, but the log ends at {last}; \
         restore this member from another"
    )]
    LogBehind {
        /// The shard.
        shard: ShardId,
        /// What the store holds.
        applied: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// Entries that were known to be committed are not in the log.
    #[error(
        "shard {shard}: entry {commit} was committed, but the log ends at {last}; restore this member from another"
    )]
    CommitMissing {
        /// The shard.
        shard: ShardId,
        /// What was committed.
        commit: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// The raft core refuses.
    #[error("shard {shard} cannot start: {what}")]
    Core {
        /// The shard.
        shard: ShardId,
        /// What it says.
        what: String,
    },
}

/// Why a replica is at its end. Nothing of what it decided since has left it.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// An entry that it needs cannot be read.
    #[error("the replica cannot go on without its log")]
    Log(#[from] ReadError),
    /// It ended earlier.
    #[error("the replica has ended; restart the node")]
    Dead,
}

/// Why a proposal was not taken. It is nowhere, and can be proposed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Somebody else leads, or nobody.
    #[error("this member does not lead the shard")]
    NotLeader {
        /// Whom to ask.
        leader: Option<MemberId>,
    },
    /// Too much is waiting to be committed, or leadership is being handed over.
    #[error("{uncommitted} bytes wait to be committed; try again later")]
    Busy {
        /// How much is waiting.
        uncommitted: usize,
    },
    /// Larger than any entry.
    #[error("a proposal of {0} bytes is larger than {ENTRY_BYTES_MAX}")]
    TooLarge(usize),
    /// Empty entries mark the terms of leaders.
    #[error("a proposal cannot be empty")]
    Empty,
}

/// Why a read was not taken. Ask again a little later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadRefused {
    /// This member leads, but has not committed an entry of its term, and so does not know yet what
    /// its predecessors committed.
    #[error("the leader is too new to answer reads")]
    NotReady,
    /// Nobody leads, as far as this member knows.
    #[error("nobody leads the shard")]
    NoLeader,
    /// Too many reads wait. One read index is enough for any number of reads that wait together.
    #[error("{0} reads wait already")]
    Busy(usize),
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This member does not lead.
    #[error("this member does not lead the shard")]
    NotLeader {
        /// Whom to ask.
        leader: Option<MemberId>,
    },
    /// The other is no voter, or is this member itself.
    #[error("member {0} cannot be handed the shard")]
    Unfit(MemberId),
}
