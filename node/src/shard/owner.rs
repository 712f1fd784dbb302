//! The shard's thread: the one owner of its replica and its store.
//!
//! ```text
//!   writes -> waiting -> (batch -> entry -> replica) -> proposed -> (synced, committed) -> store -> answers
//! ```
//!
//! At most [`IN_FLIGHT_MAX`] entries are on their way to the disk: one that is being synced and one that is next. What
//! arrives meanwhile gathers into the entry after them, so the busier the shard, the more commands share a sync.
//!
//! Always: the clock of an entry is never behind that of an entry before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use loci_index::command::{ENTRY_BYTES_MAX, Entry, Outcome};
use loci_index::record::Position;
use loci_index::store::{Done, JobError, JobKind, Store};
use loci_raft::{Append, Change, Committed, LogIndex, ProposeError, Proposed, Replica, Role, Standing};
use tokio::sync::oneshot;

use super::handle::{Phase, Progress, Shared};
use super::jobs::Jobs;
use super::queue::{Permit, Waiting};
use super::{Event, WriteError, Written};
use crate::fatal;
use crate::log_thread::{LogHandle, Report};

/// Entries proposed and not yet applied.
const IN_FLIGHT_MAX: usize = 2;
/// Commands are gathered into an entry up to about this size; a larger one goes alone.
const ENTRY_BYTES_GOAL: usize = 4 << 20;
const _: () = assert!(ENTRY_BYTES_GOAL < ENTRY_BYTES_MAX);
/// The length of the replica's tick.
const TICK: Duration = Duration::from_millis(100);
/// How often a full disk is asked again.
const FULL_RETRY: Duration = Duration::from_millis(200);
/// How often an entry is proposed only to end what has expired, unless more has expired than one entry ends.
const DUE_EVERY: Duration = Duration::from_millis(100);
/// How often everything that the store holds is counted.
const COUNT_EVERY: Duration = Duration::from_millis(500);
/// The least time between checkpoints that are made to free memory.
const RELIEF_EVERY: Duration = Duration::from_secs(2);
/// Writes wait while buffers hold so many times what a checkpoint is due at, and one is running.
const BUFFERS_TIMES_MAX: usize = 4;
/// How often the store is asked for jobs, which looks at all of its collections.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Once a shard has had nothing to do for so long, what it was given lately is sealed too, so that graphs find it and the next
/// start reads little of the log; and its segments are merged further, so that searches have fewer graphs to walk.
const REST: Duration = Duration::from_secs(2);
/// Each time that such a merge has to be given up, because there is something else to merge, twice as long is waited for
/// the next; but no longer than this.
const REST_MAX: Duration = Duration::from_secs(300);
/// Less than this is not worth a segment of its own.
const REST_BYTES: u64 = 1 << 20;
/// How often a checkpoint is told of.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A job that failed is tried again after this, also on an idle shard.
const JOB_RETRY: Duration = Duration::from_secs(5);
/// How long the writes that wait when the node stops may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long the last checkpoint may take. Without it the next start reads more of the log.
const LAST_CHECKPOINT_TIME: Duration = Duration::from_secs(10);
/// What an entry takes in the log besides its data, at most.
const APPEND_BYTES: usize = 128;

/// Numbers that depend on how the node is configured.
#[derive(Debug, Clone)]
pub(crate) struct OwnerOptions {
    /// A checkpoint is made once so many bytes of entries have been applied since the last.
    pub checkpoint_bytes: u64,
    /// The store's `buffers_bytes_max`.
    pub buffers_bytes_max: usize,
    /// The path that a full disk is named by.
    pub log_path: String,
}

pub(super) struct Owner {
    pub shared: Arc<Shared>,
    pub events: Receiver<Event>,
    pub options: OwnerOptions,
    pub replica: Replica,
    pub store: Store,
    pub log: LogHandle,
    pub jobs: Jobs,
    /// Writes that are not logged.
    waiting: VecDeque<Waiting>,
    /// Entries that are logged and not applied.
    proposed: VecDeque<Batch>,
    proposed_clock: u64,
    /// The last entry that the log had at the start: once it is applied, reads show everything that was acknowledged.
    boot_last: u64,
    started: Instant,
    replayed: u64,
    /// The replica has more effects already.
    more: bool,
    room: Room,
    last_tick: Instant,
    last_due: Option<Instant>,
    last_count: Option<Instant>,
    last_relief: Option<Instant>,
    counted: Counted,
    /// Bytes of entries applied since the last checkpoint began.
    bytes_since_checkpoint: u64,
    last_applied: Instant,
    /// The store was told that nobody has written since.
    resting: bool,
    /// After how long it is told.
    rest_after: Duration,
    /// The merge under way is one that nobody waits for, and was told to end.
    rest_merging: bool,
    rest_given_up: bool,
    checkpoint_running: Option<Instant>,
    merge_running: Option<Instant>,
    checkpoints_fail: bool,
    /// When a job last failed and was not yet offered again.
    failed_at: Option<Instant>,
    /// When a checkpoint was last told of.
    last_told: Option<Instant>,
    /// When the store was last asked for jobs.
    last_asked: Option<Instant>,
    stopping: Option<Stopping>,
}

/// One entry on its way.
struct Batch {
    proposed: Proposed,
    waiters: Vec<Waiter>,
}

/// Who waits for one command's outcome.
struct Waiter {
    reply: oneshot::Sender<Result<Written, WriteError>>,
    since: Instant,
    permit: Permit,
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
struct Room {
    /// An answer is awaited.
    asked: bool,
    /// The disk was full the last time it was asked.
    full: Option<Full>,
}

#[derive(Clone, Copy)]
struct Full {
    needed_bytes: u64,
    asked_at: Instant,
}

/// What the store was last said to take.
#[derive(Default)]
struct Counted {
    /// Of this shard in the node's budget.
    charged: u64,
    /// Besides the buffers.
    other_bytes: u64,
}

enum Stopping {
    /// Until everything that waits is answered.
    Draining {
        until: Instant,
    },
    /// Until the last checkpoint is made.
    Checkpointing {
        until: Instant,
    },
    Done,
}

/// What an owner is made of.
pub(super) struct Parts {
    pub shared: Arc<Shared>,
    pub events: Receiver<Event>,
    pub options: OwnerOptions,
    pub replica: Replica,
    pub store: Store,
    pub log: LogHandle,
    pub jobs: Jobs,
}

impl Owner {
    pub fn new(parts: Parts) -> Owner {
        let Parts { shared, events, options, replica, store, log, jobs } = parts;
        let boot_last = replica.last_index().0;
        let proposed_clock = store.clock();
        Owner {
            shared,
            events,
            options,
            replica,
            store,
            log,
            jobs,
            waiting: VecDeque::new(),
            proposed: VecDeque::new(),
            proposed_clock,
            boot_last,
            started: Instant::now(),
            replayed: 0,
            more: false,
            room: Room::default(),
            last_tick: Instant::now(),
            last_due: None,
            last_count: None,
            last_relief: None,
            counted: Counted::default(),
            bytes_since_checkpoint: 0,
            last_applied: Instant::now(),
            resting: false,
            rest_after: REST,
            rest_merging: false,
            rest_given_up: false,
            checkpoint_running: None,
            merge_running: None,
            checkpoints_fail: false,
            failed_at: None,
            last_told: None,
            last_asked: None,
            stopping: None,
        }
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) {
        let standing = self.replica.standing();
        self.publish_standing(standing);
        let checkpoint = self.store.applied();
        self.publish(|progress| progress.checkpoint = checkpoint);
        self.turn();
        while !matches!(self.stopping, Some(Stopping::Done)) {
            let until_tick = TICK.saturating_sub(self.last_tick.elapsed());
            match self.events.recv_timeout(if self.more { Duration::ZERO } else { until_tick }) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
                // The node is gone without a word; so is everybody who could wait.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(event) = self.events.try_recv() {
                self.take(event);
            }
            self.turn();
        }
        self.finish();
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Write(write) => self.waiting.push_back(write),
            Event::Log(Report::Synced(mark)) => self.replica.synced(mark),
            Event::Log(Report::Room) => self.room = Room::default(),
            Event::Log(Report::Full { needed_bytes }) => {
                self.room = Room { asked: false, full: Some(Full { needed_bytes, asked_at: Instant::now() }) };
                self.refuse_waiting(&self.disk_full(needed_bytes));
            }
            Event::JobDone(done) => self.install(done),
            Event::Relink(file) => {
                self.store.request_relink(file);
                self.last_asked = None;
            }
            Event::Stop => self.begin_stopping(),
        }
    }

    /// Everything that may have become possible.
    fn turn(&mut self) {
        if self.last_tick.elapsed() >= TICK {
            self.last_tick = Instant::now();
            self.replica.tick();
        }
        self.settle();
        while self.propose() {
            self.settle();
        }
        self.count();
        self.start_jobs();
        self.go_on_stopping();
    }

    /// Does what the replica says.
    fn settle(&mut self) {
        loop {
            let effects = self.replica.effects().unwrap_or_else(|error| {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                fatal::stop(&format!("shard {}: {error}{}", self.shared.id, source.unwrap_or_default()))
            });
            if !effects.append.is_empty() || effects.sync.is_some() {
                let bytes = effects.append.iter().map(append_bytes).sum();
                self.log.append(effects.append, bytes, effects.sync);
            }
            for committed in effects.committed {
                self.apply(committed);
            }
            if let Some(standing) = effects.standing {
                self.publish_standing(standing);
            }
            // A group of one sends nothing and is asked nothing: no other effect can occur.
            self.more = effects.more;
            // While a long log is read at the start, checkpoints must be begun and taken in: buffers would grow with it.
            if !self.more || self.shared.phase() == Phase::Starting {
                return;
            }
        }
    }

    fn apply(&mut self, committed: Committed) {
        let Committed { index, term, data } = committed;
        let outcomes = self
            .store
            .apply(index.0, &data)
            .unwrap_or_else(|error| fatal::stop(&format!("shard {}: {error}", self.shared.id)));
        self.bytes_since_checkpoint += data.len() as u64;
        self.last_applied = Instant::now();
        self.resting = false;
        self.replica.applied(index);
        self.charge();
        self.shared.applied.send_replace(index.0);
        self.answer(Proposed { index, term }, outcomes);
        if self.shared.phase() == Phase::Starting {
            self.replayed += 1;
            if index.0 >= self.boot_last && self.replica.standing().role == Role::Leader {
                self.become_ready();
            }
        }
    }

    fn become_ready(&self) {
        self.shared.set_phase(Phase::Ready);
        tracing::info!(
            shard = self.shared.id,
            applied = self.store.applied(),
            replayed = self.replayed,
            millis = self.started.elapsed().as_millis() as u64,
            "the shard is ready"
        );
        self.shared.ready.send_replace(true);
    }

    /// Tells everybody who waited for this entry, or for one that it took the place of.
    fn answer(&mut self, applied: Proposed, outcomes: Vec<Outcome>) {
        let mut outcomes = outcomes.into_iter();
        while let Some(batch) = self.proposed.pop_front_if(|batch| batch.proposed.index <= applied.index) {
            let ours = batch.proposed == applied;
            for waiter in batch.waiters {
                let answer = match outcomes.next().filter(|_| ours) {
                    Some(outcome) => Ok(Written { outcome, index: applied.index.0 }),
                    None => Err(WriteError::NotLeader { shard: self.shared.id }),
                };
                self.shared.queue.answered_after(waiter.since.elapsed());
                waiter.answer(answer);
            }
        }
    }

    /// Makes an entry of what waits. Whether it did.
    fn propose(&mut self) -> bool {
        if self.proposed.len() >= IN_FLIGHT_MAX {
            return false;
        }
        let due = self.is_due();
        if self.waiting.is_empty() && !due {
            return false;
        }
        if self.checkpoint_running.is_some()
            && !self.checkpoints_fail
            && self.store.buffered_bytes() > BUFFERS_TIMES_MAX * self.options.buffers_bytes_max
        {
            return false;
        }
        if self.replica.standing().role != Role::Leader {
            let error = WriteError::NotLeader { shard: self.shared.id };
            self.refuse_waiting(&error);
            return false;
        }
        let (count, bytes) = self.next_batch();
        if !self.has_room(bytes) {
            return false;
        }
        let (mut commands, mut waiters) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for Waiting { envelope, permit, since, turn, reply } in self.waiting.drain(..count) {
            if turn.begin() {
                commands.push(envelope);
                waiters.push(Waiter { reply, since, permit });
            }
        }
        if commands.is_empty() && !due {
            return true;
        }
        let clock = self.shared.clock.now_millis().max(self.proposed_clock).max(self.store.clock());
        let entry = Entry { clock, commands }.encode();
        match self.replica.propose(entry) {
            Ok(proposed) => {
                self.proposed_clock = clock;
                self.last_due = Some(Instant::now());
                self.proposed.push_back(Batch { proposed, waiters });
            }
            Err(error) => {
                let answer = self.not_proposed(&error, bytes);
                for waiter in waiters {
                    waiter.answer(Err(answer.clone()));
                }
            }
        }
        true
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
        let (mut count, mut bytes) = (0, APPEND_BYTES);
        for write in self.waiting.iter().take(Position::COMMANDS_MAX - 1) {
            let more = bytes + write.permit.bytes();
            if count > 0 && more > ENTRY_BYTES_GOAL {
                break;
            }
            (count, bytes) = (count + 1, more);
        }
        (count, bytes)
    }

    /// Whether the log has room for so many bytes; if not, it is asked for, or what waits is refused.
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.room.asked {
            return false;
        }
        let full_since = self.room.full.map(|full| (full.needed_bytes, full.asked_at.elapsed()));
        match full_since {
            Some((needed_bytes, since)) if since < FULL_RETRY => {
                let error = self.disk_full(needed_bytes);
                self.refuse_waiting(&error);
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

    fn disk_full(&self, needed_bytes: u64) -> WriteError {
        WriteError::DiskFull { path: self.options.log_path.clone(), needed_bytes }
    }

    fn refuse_waiting(&mut self, error: &WriteError) {
        for Waiting { reply, permit, since, .. } in self.waiting.drain(..) {
            Waiter { reply, permit, since }.answer(Err(error.clone()));
        }
    }

    /// Whether records have expired that only an entry can end.
    fn is_due(&self) -> bool {
        let Some(due) = self.store.due() else { return false };
        if self.shared.phase() != Phase::Ready || !self.proposed.is_empty() {
            return false;
        }
        // More had expired by the last entry than it ended: go on at once.
        let behind = due <= self.store.clock();
        let lately = self.last_due.is_some_and(|last| last.elapsed() < DUE_EVERY);
        (behind || !lately) && due <= self.shared.clock.now_millis()
    }

    /// Tells the node's budget what the store takes.
    fn charge(&mut self) {
        let bytes = self.counted.other_bytes + self.store.buffered_bytes() as u64;
        self.shared.budget.store_changed(self.counted.charged, bytes);
        self.counted.charged = bytes;
    }

    fn count(&mut self) {
        if self.last_count.is_some_and(|last| last.elapsed() < COUNT_EVERY) {
            return;
        }
        self.last_count = Some(Instant::now());
        let stats = self.store.view().stats();
        self.counted.other_bytes = stats.memory_bytes.saturating_sub(stats.buffer_bytes);
        self.charge();
        if self.room.full.is_some() && self.waiting.is_empty() {
            // Nobody asks just now, but when there is space again the figures should say so.
            let _ = self.has_room(APPEND_BYTES);
        }
        let budget = &self.shared.budget;
        let tight = budget.held() > budget.bytes() / 5 * 4 && self.store.buffered_bytes() > (1 << 20);
        let lately = self.last_relief.is_some_and(|last| last.elapsed() < RELIEF_EVERY);
        if tight && !lately && self.checkpoint_running.is_none() {
            self.last_relief = Some(Instant::now());
            self.store.request_checkpoint();
        }
    }

    fn start_jobs(&mut self) {
        if self.stopping.is_some() || self.last_asked.is_some_and(|last| last.elapsed() < ASK_EVERY) {
            return;
        }
        self.last_asked = Some(Instant::now());
        let rests = self.bytes_since_checkpoint >= REST_BYTES && self.last_applied.elapsed() >= REST;
        let due = rests || self.bytes_since_checkpoint >= self.options.checkpoint_bytes;
        if due && self.checkpoint_running.is_none() {
            self.bytes_since_checkpoint = 0;
            self.store.request_checkpoint();
        }
        if !self.resting && self.last_applied.elapsed() >= self.rest_after {
            self.resting = true;
            self.store.rest();
        }
        if self.rest_merging && !self.rest_given_up && self.store.is_kept_from_merging() {
            self.rest_given_up = true;
            self.rest_after = (self.rest_after * 2).min(REST_MAX);
            self.jobs.cancel_rest();
        }
        if self.failed_at.is_some_and(|at| at.elapsed() >= JOB_RETRY) {
            // The store itself tries again once its clock has moved on, which an idle shard's does not.
            self.failed_at = None;
            self.store.request_checkpoint();
        }
        while self.checkpoint_running.is_none() || self.merge_running.is_none() {
            let Some(job) = self.store.next_job() else { return };
            match job.kind() {
                JobKind::Checkpoint => {
                    self.checkpoint_running = Some(Instant::now());
                    self.bytes_since_checkpoint = 0;
                }
                JobKind::Merge => {
                    self.merge_running = Some(Instant::now());
                    self.rest_merging = job.is_for_rest();
                }
            }
            self.jobs.begin(job);
        }
    }

    fn install(&mut self, done: Done) {
        let installed = self.store.install(done);
        self.last_asked = None;
        let begun = match installed.kind {
            JobKind::Checkpoint => self.checkpoint_running.take(),
            JobKind::Merge => self.merge_running.take(),
        };
        let millis = begun.map_or(0, |begun| begun.elapsed().as_millis() as u64);
        let kind = match installed.kind {
            JobKind::Checkpoint => "checkpoint",
            JobKind::Merge => "merge",
        };
        let shard = self.shared.id;
        self.charge();
        if installed.kind == JobKind::Merge && std::mem::take(&mut self.rest_merging) {
            let given_up = std::mem::take(&mut self.rest_given_up);
            match &installed.error {
                Some(JobError::Cancelled) if given_up => return,
                None => self.rest_after = REST,
                Some(_) => {}
            }
        }
        if let Some(error) = installed.error {
            if self.stopping.is_none() {
                tracing::warn!(shard, kind, %error, "a job failed and will be tried again");
            }
            self.checkpoints_fail |= installed.kind == JobKind::Checkpoint;
            self.failed_at = Some(Instant::now());
            self.publish(|progress| progress.jobs_failed += 1);
            return;
        }
        self.checkpoints_fail &= installed.kind != JobKind::Checkpoint;
        let now = self.shared.clock.now_millis();
        match installed.forget_up_to {
            Some(index) => {
                self.replica.forget(LogIndex(index));
                self.publish(|progress| {
                    progress.checkpoint = index;
                    progress.checkpoint_at_millis = now;
                    progress.checkpoints += 1;
                });
                self.tell_of_checkpoint(index, millis);
            }
            None => {
                self.publish(|progress| progress.merges += 1);
                tracing::info!(shard, millis, "merge");
            }
        }
    }

    /// Under load there are several a second: then one line for all of them now and then.
    fn tell_of_checkpoint(&mut self, index: u64, millis: u64) {
        let shard = self.shared.id;
        if self.stopping.is_none() && self.last_told.is_some_and(|last| last.elapsed() < TELL_EVERY) {
            tracing::debug!(shard, index, millis, "checkpoint");
            return;
        }
        self.last_told = Some(Instant::now());
        let checkpoints = self.shared.progress().checkpoints;
        tracing::info!(shard, index, millis, checkpoints, "checkpoint");
    }

    fn begin_stopping(&mut self) {
        if self.stopping.is_none() {
            self.shared.set_phase(Phase::Stopping);
            self.jobs.cancel_merges();
            self.stopping = Some(Stopping::Draining { until: Instant::now() + DRAIN_TIME });
        }
    }

    fn go_on_stopping(&mut self) {
        if let Some(Stopping::Draining { until }) = self.stopping {
            let idle = self.waiting.is_empty() && self.proposed.is_empty();
            if !idle && Instant::now() < until {
                return;
            }
            self.refuse_waiting(&WriteError::Stopping);
            self.store.request_checkpoint();
            self.stopping = Some(Stopping::Checkpointing { until: Instant::now() + LAST_CHECKPOINT_TIME });
        }
        if let Some(Stopping::Checkpointing { until }) = self.stopping {
            let late = Instant::now() >= until;
            if late {
                let shard = self.shared.id;
                tracing::warn!(shard, "the last checkpoint took too long: the next start reads more of the log");
            }
            // One that fails is not tried again: the store waits for its clock to move on first.
            let working = self.checkpoint_running.is_some() || self.merge_running.is_some();
            if late || !(working || self.start_last_checkpoint()) {
                self.stopping = Some(Stopping::Done);
            }
        }
    }

    /// Begins one if anything has changed since the last; whether it did.
    fn start_last_checkpoint(&mut self) -> bool {
        match self.store.next_job() {
            Some(job) if job.kind() == JobKind::Checkpoint => {
                self.checkpoint_running = Some(Instant::now());
                self.jobs.begin(job);
                true
            }
            // A merge is not begun any more.
            _ => false,
        }
    }

    fn finish(mut self) {
        self.shared.set_phase(Phase::Stopping);
        // What the last checkpoint made superfluous.
        self.settle();
        for batch in self.proposed.drain(..) {
            for waiter in batch.waiters {
                waiter.answer(Err(WriteError::Stopping));
            }
        }
        if self.checkpoint_running.is_none() && self.merge_running.is_none() {
            self.jobs.join();
        }
    }

    fn publish(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn publish_standing(&self, standing: Standing) {
        self.publish(|progress| {
            progress.term = standing.term.0;
            progress.role = match standing.role {
                Role::Leader => "leader",
                Role::Follower => "follower",
                Role::Candidate => "candidate",
            };
        });
    }
}

fn append_bytes(append: &Append) -> u64 {
    let data = match &append.change {
        Change::Entry(entry) => entry.data.len() + entry.context.len(),
        _ => 0,
    };
    (data + APPEND_BYTES) as u64
}
