//! A replica: this node's part in one shard's agreement. Events in, effects out; it does nothing itself.
//!
//! ```text
//!   tick  propose  receive  read  synced  applied        append --> the log's thread --> synced(mark)
//!      +------+-------+------+------+-------+            send ----> other members
//!                     v                                  committed > the store --> applied(index)
//!                  Replica ----- effects() --------->    reads, standing, ...
//! ```
//!
//! Everything proposed before one [`Replica::effects`] goes out as one batch. Several batches may be on
//! their way to the disk at once; the shard's thread may go on while a sync runs.
//!
//! Always:
//! - A message that promises to remember something (a vote, an acknowledgement) is handed out only after
//!   [`Replica::synced`] has said that it is on the disk.
//! - Committed entries come in order, each once, from `applied + 1` of the start on, and are on this
//!   member's disk.
//! - The same events and seed give the same effects. Election timeouts come from the seed.
//! - A member that was just restarted gives no vote for one election timeout, because it has forgotten
//!   that it may have heard a leader a moment ago; whoever counts on that silence (a leader's lease)
//!   can go on doing so.

mod convert;
mod effects;
mod membership;
mod reads;
mod shelf;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_members;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::MessageType;
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::chance::Chance;
use crate::entry::{Append, Change, ENTRY_BYTES_MAX, Entry, EntryKind, LogIndex, MemberId, ShardId, Term};
use crate::log::{LogReader, ShardState};
use crate::members::{Members, Part};
use crate::message::{Message, MessageError, MessageKind};
pub use effects::{
    ChangeError, Committed, Effects, MembersChanged, Progress, ProposeError, Proposed, ReadReady, ReadRefused,
    ReplicaError, RestoreError, Role, SnapshotReceived, Standing, SyncMark, TransferError,
};
use reads::PendingRead;
use shelf::Shelf;

/// A follower that hears nothing for this many ticks, up to twice as many, wants to lead.
pub const ELECTION_TICKS: u32 = 10;
/// A leader speaks up at least this often.
pub const HEARTBEAT_TICKS: u32 = 2;
/// Where a new shard's log begins. Above 0, so that a member who joins later has to be sent a snapshot
/// and cannot start from an empty log that knows no members.
pub const FOUNDING_INDEX: LogIndex = LogIndex(5);
/// The term of that index.
pub const FOUNDING_TERM: Term = Term(5);
/// Where the log of a member begins that joins with nothing: before the founding, so that no leader has
/// the entry after it, and all of them begin with a snapshot.
pub const JOINING_INDEX: LogIndex = LogIndex(1);
const _: () = assert!(JOINING_INDEX.0 < FOUNDING_INDEX.0);
/// Entries are sent in messages of about this size; a larger entry goes alone.
const SEND_BYTES: usize = 1 << 20;
/// Messages on their way to one member.
const SEND_MESSAGES: usize = 128;
/// Committed entries handed out at once.
const COMMITTED_BYTES: u64 = 16 << 20;
/// Proposed and not committed; more is refused until some are.
const UNCOMMITTED_BYTES_MAX: usize = 128 << 20;
const READS_MAX: usize = 1024;
/// What an entry costs in a message beside its data, roughly.
const ENTRY_OVERHEAD: usize = 32;
const _: () = assert!(ENTRY_BYTES_MAX < UNCOMMITTED_BYTES_MAX);

/// How to start a replica.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaOptions {
    /// The shard.
    pub shard: ShardId,
    /// Which member this is.
    pub me: MemberId,
    /// The last entry that the state machine holds durably.
    pub applied: LogIndex,
    /// Decides the election timeouts, and tells this start's reads from those of an earlier start:
    /// it must be another number at every start.
    pub seed: u64,
}

/// One member of one shard.
pub struct Replica {
    shard: ShardId,
    me: MemberId,
    node: RawNode<Shelf>,
    /// Proposed since the last effects; they follow the last entry of the core.
    proposals: Vec<Bytes>,
    proposals_bytes: usize,
    /// For a leader: the others are on their way to hearing that everything up to here is committed.
    told_committed: u64,
    /// Batches on their way to the disk, oldest first.
    in_flight: VecDeque<u64>,
    newest_ready: u64,
    /// The ready that wrote the term and the vote that are in force.
    term_ready: u64,
    /// Messages until everything up to a ready is on the disk.
    waiting: VecDeque<(u64, Vec<Message>)>,
    outbox: Vec<Message>,
    forgotten: Vec<Append>,
    /// The last committed entry handed out. The members in force are those as of it.
    handed: LogIndex,
    /// Others said that this member is removed as of this entry.
    told_removed: Option<LogIndex>,
    /// For a leader: who is to hear that it is removed, and where the log ended when members last changed.
    parting: Vec<MemberId>,
    members_since: LogIndex,
    ticks: u64,
    /// For a leader: since when it leads, and when it last heard whom.
    leading_since: u64,
    heard: BTreeMap<MemberId, u64>,
    /// Since the leader was last heard.
    unheard_ticks: u32,
    /// The only voter leads as soon as it can after a start.
    lone_start: bool,
    applied_wanted: LogIndex,
    standing: Standing,
    reads: BTreeMap<u64, PendingRead>,
    reads_asked: u64,
    reads_lost: Vec<u64>,
    early_reads: Vec<Message>,
    /// Tells this start's reads from an earlier start's.
    start_id: u64,
    chance: Chance,
    election_timeout: u32,
    /// When the timeout was drawn.
    timeout_for: (Role, Term),
    /// No votes for so many ticks.
    silent_ticks: u32,
    dead: bool,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("shard", &self.shard)
            .field("me", &self.me)
            .field("standing", &self.standing)
            .field("start", &self.start())
            .field("applied", &self.applied_index())
            .field("committed", &self.committed_index())
            .field("last", &self.last_index())
            .finish_non_exhaustive()
    }
}

/// What every member of a new shard appends to its log and syncs, once, before its replica starts.
///
/// All members of the shard must be founded with the same members.
pub fn founding(shard: ShardId, members: &Arc<Members>) -> Vec<Append> {
    beginning(shard, FOUNDING_INDEX, FOUNDING_TERM, members)
}

/// What a member appends that joins a shard as a learner, with an empty store: `members` are those that it
/// may hear from, and itself as a learner. Its store has applied [`JOINING_INDEX`]; the rest comes from the
/// leader, once that has added the learner, beginning with a snapshot.
pub fn joining(shard: ShardId, members: &Arc<Members>) -> Vec<Append> {
    beginning(shard, JOINING_INDEX, Term(1), members)
}

/// What a member appends whose store holds a snapshot that its log does not: the power failed while
/// the snapshot was received, or the store came from a backup or from another member. `members` are those
/// as of the snapshot.
pub fn beginning(shard: ShardId, index: LogIndex, term: Term, members: &Arc<Members>) -> Vec<Append> {
    vec![Append { shard, change: Change::Start { index, term, members: Arc::clone(members) } }]
}

impl Replica {
    /// Starts from what the log and the store hold.
    ///
    /// `state` is the shard's part of the log, from opening it or from
    /// [`Log::shard`](crate::Log::shard); it must be synced. The only voter of a shard leads it at once.
    pub fn restore(options: ReplicaOptions, state: &ShardState, reader: LogReader) -> Result<Replica, RestoreError> {
        let ReplicaOptions { shard, me, applied, seed } = options;
        let ShardState { start, last, .. } = *state;
        if applied < start {
            return Err(RestoreError::StoreBehind { shard, applied, start });
        }
        if applied > last {
            return Err(RestoreError::LogBehind { shard, applied, last });
        }
        let mut hard_state = state.hard_state;
        if hard_state.commit > last {
            return Err(RestoreError::CommitMissing { shard, commit: hard_state.commit, last });
        }
        // It is written lazily, the store may know better.
        hard_state.commit = hard_state.commit.max(applied);
        let newest_term = state.terms.last().map_or(state.start_term, |(_, term)| *term);
        if hard_state.term < newest_term {
            hard_state.term = newest_term;
            hard_state.vote = None;
        }
        // Proposed only after the one before it was committed, see `membership`.
        if let [.., committed, _] = state.changes[..] {
            hard_state.commit = hard_state.commit.max(committed);
        }
        // Not after a snapshot, which an old member may have been sent.
        let fresh = start == FOUNDING_INDEX && last == start && hard_state.vote.is_none();
        let mut shelf = Shelf::new(state, hard_state, reader);
        shelf.replay_changes(applied).map_err(|source| RestoreError::Log { shard, source })?;
        let part = match shelf.members().part(me) {
            Part::Removed if shelf.ever_had(me) => Part::Leaving,
            Part::Removed => return Err(RestoreError::NotAMember { shard, me }),
            part => part,
        };
        let lone = shelf.members().only_voter(me);
        let config = raft::Config {
            id: me.0,
            election_tick: ELECTION_TICKS as usize,
            heartbeat_tick: HEARTBEAT_TICKS as usize,
            applied: applied.0,
            max_size_per_msg: SEND_BYTES as u64,
            max_inflight_msgs: SEND_MESSAGES,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // Ours is checked in `propose`; this one only has to count.
            max_uncommitted_size: u64::MAX / 2,
            max_committed_size_per_ready: COMMITTED_BYTES,
            // `tell_committed` does that.
            skip_bcast_commit: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let core = |error: raft::Error| RestoreError::Core { shard, what: error.to_string() };
        let node = RawNode::new(&config, shelf, &logger).map_err(core)?;
        let mut chance = Chance::new(seed);
        let start_id = chance.next();
        let mut replica = Replica {
            shard,
            me,
            node,
            proposals: Vec::new(),
            proposals_bytes: 0,
            told_committed: 0,
            in_flight: VecDeque::new(),
            newest_ready: 0,
            term_ready: 0,
            waiting: VecDeque::new(),
            outbox: Vec::new(),
            forgotten: Vec::new(),
            handed: applied,
            told_removed: None,
            parting: Vec::new(),
            members_since: LogIndex(0),
            ticks: 0,
            leading_since: 0,
            heard: BTreeMap::new(),
            unheard_ticks: 0,
            lone_start: lone,
            applied_wanted: applied,
            standing: Standing { role: Role::Follower, term: hard_state.term, leader: None, part, settled: false },
            reads: BTreeMap::new(),
            reads_asked: 0,
            reads_lost: Vec::new(),
            early_reads: Vec::new(),
            start_id,
            chance,
            election_timeout: 0,
            timeout_for: (Role::Follower, hard_state.term),
            silent_ticks: if fresh { 0 } else { ELECTION_TICKS },
            dead: false,
        };
        replica.draw_timeout();
        if lone {
            replica.node.campaign().map_err(core)?;
        }
        Ok(replica)
    }

    /// Time passes: one tick, commonly 100 ms.
    pub fn tick(&mut self) {
        self.flush();
        self.ticks += 1;
        self.silent_ticks = self.silent_ticks.saturating_sub(1);
        if self.role() != Role::Leader {
            self.wait_for_leader();
            self.retry_reads();
            if self.part() == Part::Removed || !self.may_campaign() {
                return;
            }
        }
        let now = (self.role(), self.term());
        if now != self.timeout_for {
            self.timeout_for = now;
            self.draw_timeout();
        }
        // The core draws its own from a clock-seeded source whenever its state changes.
        self.node.raft.set_randomized_election_timeout(self.election_timeout as usize);
        let elections = self.role() != Role::Leader;
        if self.node.tick() && elections {
            self.draw_timeout();
        }
        if self.role() == Role::Leader {
            self.retry_reads();
        }
    }

    /// Proposes an entry. It is appended with everything else proposed before the next effects.
    pub fn propose(&mut self, data: impl Into<Bytes>) -> Result<Proposed, ProposeError> {
        let data = data.into();
        if data.is_empty() {
            return Err(ProposeError::Empty);
        }
        if data.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge(data.len()));
        }
        if self.role() != Role::Leader {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        let uncommitted = self.uncommitted_bytes();
        let full = uncommitted > 0 && uncommitted + data.len() > UNCOMMITTED_BYTES_MAX;
        if full || self.hands_over() {
            return Err(ProposeError::Busy { uncommitted });
        }
        self.proposals_bytes += data.len();
        self.proposals.push(data);
        let index = self.node.raft.raft_log.last_index() + self.proposals.len() as u64;
        Ok(Proposed { index: LogIndex(index), term: self.term() })
    }

    /// Whether it is handing the lead to another: until it has, or gives up, nothing can be proposed.
    pub fn hands_over(&self) -> bool {
        self.role() == Role::Leader && self.node.raft.lead_transferee.is_some()
    }

    /// Takes a message from another member, if it is one that can be believed.
    ///
    /// A snapshot message must be held back until the snapshot's data has arrived.
    pub fn receive(&mut self, message: Message) -> Result<(), MessageError> {
        self.flush();
        if message.shard != self.shard || message.to != self.me {
            return Err(MessageError::Misdirected { shard: message.shard, to: message.to });
        }
        let from = message.from;
        if self.node.raft.prs().get(from.0).is_some() {
            self.heard.insert(from, self.ticks);
        } else {
            self.check_stranger(&message)?;
        }
        match message.kind {
            MessageKind::Farewell => self.hear_farewell(message.index),
            MessageKind::Append | MessageKind::Heartbeat | MessageKind::Snapshot if message.term >= self.term() => {
                self.unheard_ticks = 0;
            }
            _ => {}
        }
        if !self.is_of_use(&message)? || message.kind == MessageKind::ReadIndex && self.keep_early_read(&message) {
            return Ok(());
        }
        let refused = |_| MessageError::Invalid { from, what: "the core refuses it" };
        convert::message_to_raft(message).map_or(Ok(()), |message| self.node.step(message).map_err(refused))
    }

    /// Everything up to this mark is on the disk, synced.
    pub fn synced(&mut self, mark: SyncMark) {
        self.flush();
        while self.in_flight.front().is_some_and(|number| *number <= mark.0) {
            self.in_flight.pop_front();
        }
        let persisted = match self.in_flight.front() {
            Some(number) => number - 1,
            None => self.newest_ready,
        };
        if persisted == 0 {
            return;
        }
        self.node.on_persist_ready(persisted);
        while let Some((_, messages)) = self.waiting.pop_front_if(|(number, _)| *number <= persisted) {
            self.outbox.extend(messages);
        }
        let persisted = LogIndex(self.node.raft.raft_log.persisted);
        self.node.mut_store().trim(persisted);
        self.advance_applied();
    }

    /// What a sync has just released, ahead of the next effects: others wait for it, while what was committed is applied here.
    pub fn released(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.outbox)
    }

    /// The store has applied everything up to this entry (in memory is enough).
    pub fn applied(&mut self, index: LogIndex) {
        self.flush();
        self.applied_wanted = self.applied_wanted.max(index);
        self.advance_applied();
    }

    /// The store holds everything up to this entry durably, and nobody here needs it in the log.
    /// Members that do are sent a snapshot. Goes out with the next effects; does not need a sync.
    pub fn forget(&mut self, up_to: LogIndex) {
        self.flush();
        let up_to = up_to.min(self.applied_index());
        if matches!(self.part(), Part::Leaving | Part::Removed) {
            // After a restart it would not know any more that it ever was a member, and could not be restored: nor could what
            // the node still does in other shards, which may need its word.
            return;
        }
        let shelf = self.node.mut_store();
        if up_to <= shelf.start() {
            return;
        }
        let Some(term) = shelf.term_of(up_to) else {
            return;
        };
        let change = match shelf.forget(up_to, term) {
            Some(members) => Change::Rebase { up_to, term, members },
            None => Change::Forget { up_to, term },
        };
        self.forgotten.push(Append { shard: self.shard, change });
    }

    /// A snapshot of the store as of this applied entry is at hand, for members that fell behind. Messages
    /// with the one offered before may still come out. Members that the snapshot does not know are not
    /// sent it; for them [`Effects::snapshot_wanted`] asks for a newer one.
    pub fn offer_snapshot(&mut self, index: LogIndex) {
        if index <= self.handed {
            self.node.mut_store().offer(index);
        }
    }

    /// Whether the data of a snapshot reached a member. Until then it gets no entries.
    pub fn snapshot_sent(&mut self, to: MemberId, arrived: bool) {
        self.flush();
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(to.0, status);
    }

    /// A message could not be sent: the member is asked where it stands before more is sent.
    pub fn unreachable(&mut self, member: MemberId) {
        self.flush();
        self.node.report_unreachable(member.0);
    }

    /// Hands leadership to another voter, as soon as its log is complete. Proposals are refused until
    /// it leads or an election timeout has passed. **Give up any lease before calling this.**
    pub fn transfer(&mut self, to: MemberId) -> Result<(), TransferError> {
        self.flush();
        if self.role() != Role::Leader {
            return Err(TransferError::NotLeader { leader: self.leader() });
        }
        if to == self.me || !self.members().voters().contains(&to) {
            return Err(TransferError::Unfit(to));
        }
        self.node.transfer_leader(to.0);
        Ok(())
    }

    /// What the world must do now. Call it after every turn, and again while [`Effects::more`].
    pub fn effects(&mut self) -> Result<Effects, ReplicaError> {
        self.flush();
        self.tell_committed();
        let effects = if self.dead { Err(ReplicaError::Dead) } else { Ok(self.collect()) };
        // Something may have failed that the core cannot be told about.
        if let Some(failure) = self.node.store().take_failure() {
            self.dead = true;
            return Err(failure.into());
        }
        effects
    }

    /// What it is as of now.
    pub fn standing(&self) -> Standing {
        let role = self.role();
        let settled = role == Role::Leader && self.node.raft.commit_to_current_term();
        Standing { role, term: self.term(), leader: self.leader(), part: self.part(), settled }
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Which member this is.
    pub fn me(&self) -> MemberId {
        self.me
    }

    /// The members in force: those as of the last entry that was handed out as committed.
    pub fn members(&self) -> &Arc<Members> {
        self.node.store().members()
    }

    /// What the first entry of the log follows.
    pub fn start(&self) -> LogIndex {
        self.node.store().start()
    }

    /// The last entry that could not be read for another member: it is of use only to be sent snapshots from there on.
    pub fn unreadable(&self) -> LogIndex {
        self.node.store().unreadable()
    }

    /// The term of an entry that is not forgotten, or of the last that is.
    pub fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.node.store().term_of(index)
    }

    /// The last entry, on disk or on its way there.
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.last_index())
    }

    /// The last entry known to be committed.
    pub fn committed_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.committed)
    }

    /// The last entry that is handed out as committed by the next effects, if not by earlier ones: it is on this member's disk, too.
    pub fn appliable_index(&self) -> LogIndex {
        let log = &self.node.raft.raft_log;
        LogIndex(log.committed.min(log.persisted))
    }

    /// The last entry that the store is known to have applied.
    pub fn applied_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.applied)
    }

    /// Bytes proposed here that are not committed.
    pub fn uncommitted_bytes(&self) -> usize {
        self.node.raft.uncommitted_size() + self.proposals_bytes
    }

    fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    fn term(&self) -> Term {
        Term(self.node.raft.term)
    }

    fn leader(&self) -> Option<MemberId> {
        let leader = self.node.raft.leader_id;
        (leader != 0).then_some(MemberId(leader))
    }

    /// What of a sender that takes no part here, as far as this member knows, goes on. It may be a leader or
    /// a candidate that came later than what this member knows, or one that does not know that it is removed.
    fn check_stranger(&mut self, message: &Message) -> Result<(), MessageError> {
        let from = message.from;
        match message.kind {
            MessageKind::RequestVote | MessageKind::RequestPreVote | MessageKind::Present => self.say_farewell(from),
            MessageKind::Append
            | MessageKind::Heartbeat
            | MessageKind::Snapshot
            | MessageKind::TimeoutNow
            | MessageKind::Farewell => {}
            MessageKind::ReadIndexResponse if self.leader() == Some(from) => {}
            _ => {
                if message.kind == MessageKind::ReadIndex {
                    self.say_farewell(from);
                }
                return Err(MessageError::Stranger { shard: self.shard, from });
            }
        }
        Ok(())
    }

    /// Nothing is on its way to the disk. The core's own count can be ahead of it, when an entry is
    /// replaced and comes back.
    fn all_persisted(&self) -> bool {
        let log = &self.node.raft.raft_log;
        self.in_flight.is_empty() && log.persisted == log.last_index()
    }

    /// The core stops the process when it campaigns before this.
    fn may_campaign(&self) -> bool {
        let raft = &self.node.raft;
        // A lone candidate leads at once, and must have everything on disk by then. (Asked of the core: it
        // takes the members of a snapshot before they are handed out.)
        let lone = raft.prs().conf().voters().ids().iter().all(|voter| voter == self.me.0) && !self.all_persisted();
        // A snapshot is on its way to the disk: it looks for changes of members in entries from before.
        let restoring = raft.snap().is_some() || raft.raft_log.applied < self.start().0;
        !lone && !restoring
    }

    fn draw_timeout(&mut self) {
        self.election_timeout = ELECTION_TICKS + self.chance.below(u64::from(ELECTION_TICKS)) as u32;
    }

    /// Gives the core what was proposed. Until then nothing may change who leads or what is last.
    fn flush(&mut self) {
        let mut proposals = std::mem::take(&mut self.proposals).into_iter().peekable();
        self.proposals_bytes = 0;
        while proposals.peek().is_some() {
            let mut entries = Vec::new();
            let mut bytes = 0;
            while let Some(data) =
                proposals.next_if(|data| bytes == 0 || bytes + data.len() + ENTRY_OVERHEAD <= SEND_BYTES)
            {
                bytes += data.len() + ENTRY_OVERHEAD;
                entries.push(raft::eraftpb::Entry { data, ..raft::eraftpb::Entry::default() });
            }
            let message = raft::eraftpb::Message {
                msg_type: MessageType::MsgPropose,
                from: self.me.0,
                entries: entries.into(),
                ..raft::eraftpb::Message::default()
            };
            self.node.raft.step(message).expect("propose refuses whatever the core would");
            // Goes along with the entries.
            self.told_committed = self.node.raft.raft_log.committed;
        }
    }

    /// What is committed is told with the entries that follow, if there are any by now: that takes a message less.
    fn tell_committed(&mut self) {
        let committed = self.node.raft.raft_log.committed;
        if self.role() == Role::Leader && committed > self.told_committed {
            self.told_committed = committed;
            self.node.raft.bcast_append();
        }
    }

    /// Whether a message is worth giving to the core; an error if the core must not see it.
    fn is_of_use(&self, message: &Message) -> Result<bool, MessageError> {
        let last = self.last_index();
        let from = message.from;
        match message.kind {
            MessageKind::Heartbeat => {
                if message.term >= self.term() && message.commit > last {
                    let (shard, commit) = (self.shard, message.commit);
                    return Err(MessageError::LostLog { shard, commit, last });
                }
                Ok(true)
            }
            MessageKind::AppendResponse => {
                if self.role() == Role::Leader && message.term == self.term() && message.index > last {
                    let what = "an acknowledgement of what was never sent";
                    return Err(MessageError::Invalid { from, what });
                }
                Ok(true)
            }
            // Only a leader answers them; a follower would pass them on, maybe in circles.
            MessageKind::ReadIndex => Ok(self.role() == Role::Leader),
            // Who has thrown away what it acknowledged in an earlier life cannot tell whose log is new enough, before it has a
            // snapshot that is newer than its end.
            MessageKind::RequestVote | MessageKind::RequestPreVote => Ok(self.silent_ticks == 0 && !self.joining()),
            // A request leaves after everything is on disk, so an answer cannot come before.
            MessageKind::RequestVoteResponse | MessageKind::RequestPreVoteResponse => {
                Ok(self.role() != Role::Candidate || self.all_persisted())
            }
            MessageKind::TimeoutNow => Ok(self.part() != Part::Removed && self.may_campaign()),
            MessageKind::Farewell | MessageKind::Present => Ok(false),
            MessageKind::Append
            | MessageKind::Snapshot
            | MessageKind::HeartbeatResponse
            | MessageKind::ReadIndexResponse => Ok(true),
        }
    }

    fn advance_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        let possible = log.committed.min(log.persisted).min(self.applied_wanted.0);
        if possible > log.applied {
            self.node.advance_apply_to(possible);
        }
        if self.lone_start && self.role() != Role::Leader && self.members().only_voter(self.me) && self.may_campaign() {
            // The core refuses as long as it has yet to be told of a change of members.
            let _ = self.node.campaign();
        }
    }

    fn collect(&mut self) -> Effects {
        self.leave_joint();
        self.say_farewells();
        self.take_early_reads();
        let mut effects = Effects { append: std::mem::take(&mut self.forgotten), ..Effects::default() };
        if self.node.has_ready() {
            self.take_ready(&mut effects);
        }
        // What waited for the disk was decided before.
        let mut send = std::mem::take(&mut self.outbox);
        send.append(&mut effects.send);
        effects.send = send;
        let standing = self.standing();
        let before = std::mem::replace(&mut self.standing, standing);
        if standing != before {
            effects.standing = Some(standing);
        }
        let led = |standing: Standing| (standing.role, standing.term, standing.leader);
        if led(standing) != led(before) {
            self.leading_since = self.ticks;
            self.lone_start &= standing.role != Role::Leader;
            let lost = std::mem::take(&mut self.reads);
            self.reads_lost.extend(lost.into_values().map(|read| read.context));
        }
        effects.reads_lost = std::mem::take(&mut self.reads_lost);
        effects.snapshot_wanted = self.node.store().snapshot_wanted.take();
        effects.unread = self.node.store().unread.take();
        effects.more = self.node.has_ready();
        effects
    }

    fn take_ready(&mut self, effects: &mut Effects) {
        let shard = self.shard;
        let mut ready = self.node.ready();
        let number = ready.number();
        for state in ready.take_read_states() {
            if let Some(read) = self.answered(&state.request_ctx) {
                effects.reads.push(ReadReady { context: read.context, index: LogIndex(state.index) });
            }
        }
        if !ready.snapshot().is_empty()
            && let Ok((index, term, members)) = convert::snapshot_from_raft(ready.snapshot())
        {
            self.node.mut_store().restart(index, term, Arc::clone(&members));
            // The store holds the snapshot before the log begins behind it.
            self.applied_wanted = self.applied_wanted.max(index);
            self.handed = index;
            self.members_known(index, &members);
            effects.members.push(MembersChanged { index, members: Arc::clone(&members) });
            let change = Change::Start { index, term, members: Arc::clone(&members) };
            effects.append.push(Append { shard, change });
            effects.snapshot_received = Some(SnapshotReceived { index, term, members });
        }
        let entries: Vec<Entry> = ready.take_entries().into_iter().map(convert::entry_from_raft).collect();
        let shelf = self.node.mut_store();
        shelf.append(&entries);
        effects.append.extend(entries.into_iter().map(|entry| Append { shard, change: Change::Entry(entry) }));
        if let Some(state) = ready.hs() {
            let before = std::mem::replace(&mut shelf.hard_state, convert::hard_state_from_raft(state));
            if (before.term, before.vote) != (shelf.hard_state.term, shelf.hard_state.vote) {
                self.term_ready = number;
            }
        }
        // A commit index alone is not worth a write: it goes along with the next entries or vote.
        if ready.must_sync() {
            let change = Change::HardState(shelf.hard_state);
            effects.append.push(Append { shard, change });
            effects.sync = Some(SyncMark(number));
            self.in_flight.push_back(number);
        }
        let mut promises: Vec<Message> = messages(shard, ready.take_messages()).collect();
        // Who needs only its own vote leads before that is on the disk. Should it be lost, the same member
        // would lead the same term again, with other entries: none may have left it.
        let in_doubt = self.in_flight.front().is_some_and(|first| *first <= self.term_ready);
        if !in_doubt {
            effects.send.append(&mut promises);
        }
        promises.extend(messages(shard, ready.take_persisted_messages()));
        let committed: Vec<Entry> = ready.take_committed_entries().into_iter().map(convert::entry_from_raft).collect();
        self.node.advance_append_async(ready);
        self.newest_ready = number;
        if self.in_flight.is_empty() {
            self.node.on_persist_ready(number);
            effects.send.extend(promises);
        } else if !promises.is_empty() {
            self.waiting.push_back((number, promises));
        }
        for entry in committed {
            self.handed = entry.index;
            if entry.kind == EntryKind::Members {
                effects.members.extend(self.follow_change(&entry));
            }
            // What changes members is not for the store.
            let data = if entry.kind == EntryKind::Normal { entry.data } else { Bytes::new() };
            effects.committed.push(Committed { index: entry.index, term: entry.term, data });
        }
    }
}

fn messages(shard: ShardId, messages: Vec<raft::eraftpb::Message>) -> impl Iterator<Item = Message> {
    messages.into_iter().filter_map(move |message| convert::message_from_raft(shard, message))
}
