//! What a replica answers: effects for the world, and the reasons why it does not do something.

use std::sync::Arc;

use bytes::Bytes;

use crate::entry::{Append, ENTRY_BYTES_MAX, LogIndex, MemberId, ShardId, Term};
use crate::log::ReadError;
use crate::members::{Members, MembersError, Part};
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
    /// What it is entitled to. [`Part::Removed`] is final: it takes no part in the shard any more, and
    /// what it holds of it can go.
    pub part: Part,
    /// It leads and has committed in its term, so it knows everything that its predecessors committed. Only
    /// then it answers reads and takes changes of members.
    /// (An only voter leads before its term is on the disk; until it is, nothing of it leaves this member.)
    pub settled: bool,
}

/// Other members are in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersChanged {
    /// From this entry, or this snapshot, on.
    pub index: LogIndex,
    /// Who they are; half way through a change they are joint.
    pub members: Arc<Members>,
}

/// Where a member stands, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The member.
    pub member: MemberId,
    /// What it is entitled to.
    pub part: Part,
    /// It is a voter only until the change of members that is under way has ended.
    pub leaving: bool,
    /// Its log agrees with the leader's up to here.
    pub matched: LogIndex,
    /// It is being sent the snapshot that reaches this far, and gets no entries meanwhile.
    pub snapshot: Option<LogIndex>,
    /// Ticks since it was last heard; at most as long as this leader leads.
    pub silent_ticks: u32,
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
    /// Other members are in force, from an entry in `committed` or from the snapshot received on. In the
    /// order of their indexes.
    pub members: Vec<MembersChanged>,
    /// Reads that know how new they must be.
    pub reads: Vec<ReadReady>,
    /// Reads to ask again: leadership moved, and nobody will answer them.
    pub reads_lost: Vec<u64>,
    /// Something about it changed.
    pub standing: Option<Standing>,
    /// A member is so far behind that it needs a snapshot of the store: make one durable, call
    /// [`Replica::offer_snapshot`](crate::Replica::offer_snapshot), and send its data along with the message that follows.
    pub snapshot_wanted: Option<MemberId>,
    /// Why the log could not be read for a member, which is sent a snapshot instead, once there is one from beyond
    /// [`Replica::unreadable`](crate::Replica::unreadable). Let the log [forget](crate::Replica::forget) what is damaged, once a
    /// checkpoint holds it.
    pub unread: Option<ReadError>,
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
    /// An entry that changes members cannot be read.
    #[error("shard {shard} cannot find out who its members are")]
    Log {
        /// The shard.
        shard: ShardId,
        /// Why.
        source: ReadError,
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

/// Why a change of members was not proposed. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Somebody else leads, or nobody.
    #[error("this member does not lead the shard")]
    NotLeader {
        /// Whom to ask.
        leader: Option<MemberId>,
    },
    /// Leadership is being handed over. Ask the next leader.
    #[error("leadership is being handed over; ask the next leader")]
    Transferring,
    /// The leader has not committed in its term. Try again in a moment.
    #[error("the leader is too new to change members; try again")]
    TooNew,
    /// One change at a time. Try again when it has ended.
    #[error("another change of members is under way; try again when it has ended")]
    UnderWay,
    /// There are no such members.
    #[error(transparent)]
    Impossible(#[from] MembersError),
    /// A learner without what the others have would hold them up.
    #[error("member {member} has entries up to {matched} of {last}; let it catch up first")]
    NotCaughtUp {
        /// The learner.
        member: MemberId,
        /// What it is known to have.
        matched: LogIndex,
        /// What there is.
        last: LogIndex,
    },
    /// The shard would stop, maybe for good: too few of the voters that it would have were heard lately.
    #[error("only {alive} of the voters after this change are alive, and it takes {needed}")]
    NoQuorum {
        /// Heard lately, and not waiting for a snapshot.
        alive: usize,
        /// A majority.
        needed: usize,
    },
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
