//! Writes: gathered into entries, proposed, answered.
//!
//! ```text
//!   writes -> inbox -> waiting -> (batch -> entry -> replica) -> proposed -> (synced, committed) -> store -> answers
//! ```
//!
//! A leader whose disk is full has another lead whose disk may not be, so that writes go on; what waits is told that nobody
//! leads just now, and tries again there. Should all disks be full, the lead goes round slowly, and writes are told so.
//!
//! While an entry is on its way, what arrives gathers into the next: so the busier the shard, the more commands share a sync and
//! what else an entry costs. That goes on its way beside the first ([`IN_FLIGHT_MAX`]) only where waiting would cost more: once
//! [`GATHERED_BYTES`] wait, or the first takes longer than [`GATHERING`], because disks or networks are slow.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_index::command::{Command, ENTRY_BYTES_MAX, Entry, Envelope, Origin, Outcome};
use loci_index::record::Position;
use loci_raft::{ProposeError, Proposed, Role};
use tokio::sync::oneshot;

use super::times::Times;
use super::{APPEND_BYTES, Fatal, Owner, Phase, TICK};
use crate::log_thread::Safety;
use crate::shard::inbox::GATHERED_BYTES;
use crate::shard::queue::{self, Permit, Waiting};
use crate::shard::{WriteError, Written, room};
use crate::trace::Spot;

/// Entries proposed that cannot be applied yet.
const IN_FLIGHT_MAX: usize = 2;
/// With more on its way none is proposed early: what is committed counts until it is applied, and there must be room for the largest.
const EARLY_BYTES_MAX: usize = 16 << 20;
/// An entry takes far less on its way where members are near each other and disks quick.
pub const GATHERING: Duration = Duration::from_millis(5);
/// Commands are gathered into an entry up to about this size; a larger one goes alone.
const ENTRY_BYTES_GOAL: usize = 4 << 20;
const _: () = assert!(ENTRY_BYTES_GOAL < ENTRY_BYTES_MAX);
/// Calls on typed values are gathered up to this size: so there are fewer of them in an entry than there are positions, and each
/// has one of its own. One that changes something takes at least sixteen bytes.
const CALL_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(CALL_BYTES_MAX / 16 <= Position::COMMANDS_MAX);
/// How often a full disk is asked again.
const FULL_RETRY: Duration = Duration::from_millis(200);
/// How long the one that it was handed to may take to lead.
const GIVING_WAY: Duration = Duration::from_secs(1);
/// How often an entry is proposed only to end what has expired, unless more has expired than one entry ends.
const DUE_EVERY: Duration = Duration::from_millis(100);
/// Writes wait while buffers hold so many times what a checkpoint is due at, and one is running.
const BUFFERS_TIMES_MAX: usize = 4;

/// Writes wait while so much of tables waits to be written by a checkpoint because it was about to change.
const SPILLED_BYTES_MAX: usize = 256 << 20;

/// One entry on its way.
pub(super) struct Batch {
    pub proposed: Proposed,
    pub waiters: Vec<Waiter>,
    /// When it was proposed.
    pub at: Instant,
    /// What its writes count for in the queue.
    pub bytes: usize,
    pub times: Option<Times>,
    /// What its writers want to be true before they are answered.
    pub safety: Safety,
    /// Who asked for commands on typed values, and under which request id.
    pub requests: Vec<Origin>,
}

/// Who waits for one command's outcome.
pub(super) struct Waiter {
    reply: oneshot::Sender<Result<Written, WriteError>>,
    pub since: Instant,
    permit: Permit,
    pub spot: Option<Spot>,
}

impl Waiter {
    /// The room that the write took is free before the caller hears of it, so that its next write finds it.
    fn answer(self, answer: Result<Written, WriteError>) {
        let Waiter { reply, permit, .. } = self;
        drop(permit);
        // The caller may have gone; what it wrote stays written.
        let _ = reply.send(answer);
    }
}

/// What is known of the room in the log.
#[derive(Default)]
pub(super) struct Room {
    /// An answer is awaited.
    pub asked: bool,
    /// The disk was full the last time it was asked.
    pub full: Option<Full>,
}

#[derive(Clone, Copy)]
pub(super) struct Full {
    pub needed_bytes: u64,
    pub asked_at: Instant,
}

fn call_bytes(command: &Command) -> usize {
    match command {
        Command::Execute(execution) => execution.calls.len(),
        _ => 0,
    }
}

impl Owner {
    /// Tells everybody who waited for this entry, or for one that it took the place of.
    pub(super) fn answer(&mut self, applied: Proposed, outcomes: Vec<Outcome>) {
        let mut outcomes = outcomes.into_iter();
        while let Some(batch) = self.proposed.pop_front_if(|batch| batch.proposed.index <= applied.index) {
            let ours = batch.proposed == applied;
            for waiter in batch.waiters {
                let answer = match outcomes.next().filter(|_| ours) {
                    Some(outcome) => Ok(Written { outcome, index: applied.index.0 }),
                    None => Err(WriteError::Unconfirmed { shard: self.shared.id }),
                };
                self.shared.queue.answered_after(self.now.saturating_duration_since(waiter.since));
                waiter.answer(answer);
            }
        }
    }

    /// Whether these entries will be committed is not this member's to say any more.
    pub(super) fn give_up_proposed(&mut self) {
        let error = match self.shared.phase() {
            Phase::Stopping => WriteError::Stopping,
            Phase::Starting | Phase::Ready | Phase::Removed => WriteError::Unconfirmed { shard: self.shared.id },
        };
        for waiter in self.proposed.drain(..).flat_map(|batch| batch.waiters) {
            waiter.answer(Err(error.clone()));
        }
    }

    /// Makes an entry of what waits before what has been committed is applied: so the others hear of both at once, and have the
    /// entry on their disks that much sooner. Not where it might have to say what expires or makes room, for what the entries on
    /// their way to the store remove would be named once more.
    pub(super) fn propose_early(&mut self) {
        let standing = self.replica.standing();
        let leads = standing.role == Role::Leader && standing.term == self.standing.term;
        let others = self.replica.members().voters().len() > 1;
        if !leads || !others || self.proposed.is_empty() || self.replica.uncommitted_bytes() > EARLY_BYTES_MAX {
            return;
        }
        let due = self.store.due().is_some_and(|due| due <= self.entry_clock());
        if !due && !self.store.is_limited(&self.options.eviction.load()) {
            self.propose();
        }
    }

    /// What time an entry is of.
    fn entry_clock(&self) -> u64 {
        self.shared.clock.now_millis().max(self.proposed_clock).max(self.store.clock())
    }

    /// Makes an entry of what waits. Whether it did.
    pub(in crate::shard) fn propose(&mut self) -> bool {
        if self.under_way().count() >= IN_FLIGHT_MAX || self.gathers() {
            return false;
        }
        self.take_writes();
        self.propose_waiting()
    }

    /// The same of what was taken from the inbox.
    fn propose_waiting(&mut self) -> bool {
        let due = self.is_due();
        if self.waiting.is_empty() && !due {
            return false;
        }
        if self.work.checkpoint_runs()
            && !self.work.checkpoints_fail()
            && self.store.buffered_bytes() > BUFFERS_TIMES_MAX * self.options.buffers_bytes_max
        {
            return false;
        }
        if self.work.checkpoint_runs()
            && !self.work.checkpoints_fail()
            && self.store.spilled_bytes() > SPILLED_BYTES_MAX
        {
            return false;
        }
        if self.replica.standing().role != Role::Leader {
            let error = WriteError::NotLeader { shard: self.shared.id };
            self.refuse_waiting(&error);
            return false;
        }
        // What waits is told in a moment whom to ask, or is proposed after all.
        if !self.may_propose || self.replica.hands_over() {
            return false;
        }
        let (count, bytes) = self.next_batch();
        let clock = self.entry_clock();
        // Last, because nobody waits for what becomes of them. Where there is no room for them, they are named again later.
        self.evicted_by = self.options.eviction.load_full();
        let reclaims = self.store.reclaims(clock, &self.evicted_by);
        self.evicts = reclaims.iter().any(|command| matches!(command, Command::Reclaim(reclaim) if reclaim.evicted));
        let envelope = |command| Envelope { origin: Origin::default(), command };
        let reclaims: Vec<_> = reclaims.into_iter().map(envelope).collect();
        let bytes = bytes + reclaims.iter().map(queue::envelope_bytes).sum::<usize>();
        if !self.has_room(bytes) {
            return false;
        }
        let (mut commands, mut waiters) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let Some(write) = self.waiting.pop_front() else { break };
            let refusal = self.no_room(&write);
            let Waiting { envelope, permit, since, turn, spot, reply, .. } = write;
            if let Some(refusal) = refusal {
                Waiter { reply, permit, since, spot }.answer(Err(refusal));
            } else if turn.begin() {
                commands.push(envelope);
                waiters.push(Waiter { reply, since, permit, spot });
            }
        }
        if commands.is_empty() && reclaims.is_empty() && !due {
            return true;
        }
        let buffered = commands.iter().all(|envelope| self.store.is_buffered(&envelope.command));
        let safety = if buffered { Safety::Written } else { Safety::Synced };
        commands.extend(reclaims);
        let entry = Entry { clock, commands };
        let encoded = entry.encode();
        match self.replica.propose(encoded) {
            Ok(proposed) => {
                self.proposed_clock = clock;
                self.last_due = Some(self.now);
                let times = Times::begin(&waiters, self.now);
                let origins = entry.commands.into_iter().map(|envelope| envelope.origin);
                let requests = origins.filter(|origin| !origin.request_id.is_empty()).collect();
                let (at, bytes) = (self.now, waiters.iter().map(|waiter| waiter.permit.bytes()).sum());
                self.proposed.push_back(Batch { proposed, waiters, at, bytes, times, safety, requests });
            }
            Err(error) => {
                let answer = self.not_proposed(&error, bytes);
                for waiter in waiters {
                    waiter.answer(Err(answer.clone()));
                }
                // What has expired can wait; whatever keeps it from being proposed does not pass during this turn.
                return !self.waiting.is_empty();
            }
        }
        true
    }

    /// What has been proposed and cannot be applied yet.
    fn under_way(&self) -> impl Iterator<Item = &Batch> {
        let appliable = self.replica.appliable_index();
        self.proposed.iter().filter(move |batch| batch.proposed.index > appliable)
    }

    /// Whether what comes gathers yet, as an entry is on its way.
    fn gathers(&self) -> bool {
        self.gathering_left().is_some() && self.waiting_bytes() < GATHERED_BYTES
    }

    /// How long, as of this turn, what waits may gather at most; none, if nothing gathers, or its time was up.
    pub(super) fn gathering_left(&self) -> Option<Duration> {
        let first = self.under_way().next()?;
        let left = self.options.gathering.saturating_sub(self.now.saturating_duration_since(first.at));
        (self.waiting_bytes() > 0 && !left.is_zero()).then_some(left)
    }

    /// What waits, here or in the inbox.
    fn waiting_bytes(&self) -> usize {
        let proposed: usize = self.proposed.iter().map(|batch| batch.bytes).sum();
        self.shared.queue.bytes().saturating_sub(proposed)
    }

    fn no_room(&self, write: &Waiting) -> Option<WriteError> {
        let is_it =
            |one: &Origin, other: &Origin| (&one.principal, &one.request_id) == (&other.principal, &other.request_id);
        let under_way =
            |origin: &Origin| self.proposed.iter().flat_map(|batch| &batch.requests).any(|other| is_it(origin, other));
        room::refusal(write, &self.store, &self.evicted_by, &self.options.siblings, under_way)
    }

    fn not_proposed(&self, error: &ProposeError, bytes: usize) -> WriteError {
        match error {
            ProposeError::NotLeader { .. } => WriteError::NotLeader { shard: self.shared.id },
            ProposeError::Busy { .. } => WriteError::Overloaded { retry_after: TICK },
            ProposeError::TooLarge(_) => WriteError::TooLarge { bytes, max: ENTRY_BYTES_MAX },
            ProposeError::Empty => unreachable!("an entry has a header"),
        }
    }

    /// How many of the waiting writes fit into one entry, and how many bytes they take at most.
    fn next_batch(&self) -> (usize, usize) {
        let (mut count, mut bytes, mut calls) = (0, APPEND_BYTES, 0);
        for write in self.waiting.iter().take(Position::COMMANDS_MAX - 1) {
            let more = bytes + write.permit.bytes();
            calls += call_bytes(&write.envelope.command);
            if count > 0 && (more > ENTRY_BYTES_GOAL || calls > CALL_BYTES_MAX) {
                break;
            }
            (count, bytes) = (count + 1, more);
        }
        (count, bytes)
    }

    /// Whether the log has room for so many bytes; if not, it is asked for, or what waits is refused.
    pub(super) fn has_room(&mut self, bytes: usize) -> bool {
        if self.room.asked {
            return false;
        }
        let full_since = self.room.full.map(|full| (full.needed_bytes, self.now - full.asked_at));
        match full_since {
            Some((needed_bytes, since)) if since < FULL_RETRY => {
                self.refuse_full(needed_bytes);
                false
            }
            None if self.log.has_room(bytes as u64) => true,
            _ => {
                self.room.asked = true;
                self.log.reserve(bytes as u64);
                false
            }
        }
    }

    /// There is no room for what waits: somebody else is to have it, or it is refused.
    pub(super) fn refuse_full(&mut self, needed_bytes: u64) {
        self.give_way_as_full();
        let giving_way = self.disk.gave_way().is_some_and(|at| self.now - at < GIVING_WAY);
        if giving_way {
            return self.refuse_waiting(&WriteError::NotLeader { shard: self.shared.id });
        }
        self.take_writes();
        let writes = std::mem::take(&mut self.waiting);
        self.refuse_new(writes, &WriteError::DiskFull { path: self.options.log_path.clone(), needed_bytes });
    }

    /// Answers writes without an entry: those that were asked for before as then, all others so.
    pub(super) fn refuse_new(&self, writes: impl IntoIterator<Item = Waiting>, error: &WriteError) {
        let requests = self.proposed.iter().flat_map(|batch| &batch.requests);
        let under_way: HashSet<_> = requests.map(|origin| (&*origin.principal, &*origin.request_id)).collect();
        for Waiting { envelope, permit, since, turn, spot, reply, .. } in writes {
            if !turn.begin() {
                continue;
            }
            let answer = match under_way.contains(&(&*envelope.origin.principal, &*envelope.origin.request_id)) {
                true => Err(WriteError::Unconfirmed { shard: self.shared.id }),
                false => {
                    let index = self.store.applied();
                    let first = self.store.answered(envelope).map(|outcome| Written { outcome, index });
                    first.ok_or_else(|| error.clone())
                }
            };
            Waiter { reply, permit, since, spot }.answer(answer);
        }
    }

    /// Does one write that has just come, if there is nothing else to do, and unless that is allowed, nothing to wait for. Whether
    /// there was not, and is not. It is what whoever brought it does: so neither what others bring meanwhile, nor what has expired.
    pub(in crate::shard) fn do_one_write(&mut self, may_wait: bool) -> Result<bool, Fatal> {
        if self.more || !self.proposed.is_empty() || self.stopping.is_some() || !self.shared.leads_alone() {
            return Ok(false);
        }
        self.now = self.shared.clock.instant();
        self.take_writes();
        let is_quick = |write: &Waiting| {
            let command = &write.envelope.command;
            (may_wait || self.store.is_buffered(command) && !self.others_come) && self.store.is_at_hand(command)
        };
        if self.waiting.len() != 1 || !self.waiting.front().is_some_and(is_quick) || self.is_due() {
            return Ok(false);
        }
        self.propose_waiting();
        self.settle()?;
        self.tell_freshness();
        Ok(self.may_rest() && self.waiting.is_empty() && !self.is_due())
    }

    /// Takes over the writes that have come. While they are to gather they stay where they are.
    fn take_writes(&mut self) {
        self.shared.inbox.take(&mut self.spare, &mut self.waiting);
    }

    pub(super) fn refuse_waiting(&mut self, error: &WriteError) {
        self.take_writes();
        for Waiting { reply, permit, since, .. } in self.waiting.drain(..) {
            Waiter { reply, permit, since, spot: None }.answer(Err(error.clone()));
        }
    }

    /// Whether records have expired that only an entry can end, or more may have to make room.
    fn is_due(&self) -> bool {
        let room_changed = || !Arc::ptr_eq(&self.evicted_by, &self.options.eviction.load());
        if (self.evicts || room_changed()) && self.shared.phase() == Phase::Ready && self.proposed.is_empty() {
            return true;
        }
        let Some(due) = self.store.due() else { return false };
        if self.shared.phase() != Phase::Ready || !self.proposed.is_empty() {
            return false;
        }
        // More had expired by the last entry than it ended: go on at once.
        let behind = due <= self.store.clock();
        let lately = self.last_due.is_some_and(|last| self.now - last < DUE_EVERY);
        (behind || !lately) && due <= self.shared.clock.now_millis()
    }
}
