//! The handle: what the doors hold of a shard. Cheap to clone, usable from any thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use loci_index::command::Envelope;
use loci_index::store::Store;
use loci_index::view::{View, ViewHandle};
use loci_raft::{MemberChange, MemberId, Members, Part};
use tokio::sync::{oneshot, watch};

use super::damage::Damages;
use super::events::{Ear, Listeners, Told, Wants};
use super::history::History;
use super::inbox::Inbox;
use super::owner::FOREVER;
use super::queue::{self, Queue, Turn, Waiting};
use super::seat::Seat;
use super::{
    ChangeError, Event, Fingerprint, Install, Level, MemberProgress, ReadError, ShardStatus, Terms, WriteError, Written,
};
use crate::clock::Clock;
use crate::cluster::snapshot::Stand;
use crate::memory::Budget;
use crate::shards::CATALOG;
use crate::trace;

/// The longest that a read waits for its token when it has no deadline of its own.
const TOKEN_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether this member was removed.
const REMOVED_LOOK: Duration = Duration::from_millis(500);
/// The longest that a read waits for a leader to say how new it must be, and to be as new: twice the time of an election.
/// Another node may know, and whoever asked has time left to ask there.
const LATEST_WAIT_MAX: Duration = Duration::from_secs(2);

/// Where there is no memory for it, a write is not even looked at whether it was carried out before while so much waits.
pub(super) const SHORT_BYTES_MAX: usize = 32 << 20;

/// Where a shard is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Entries that the log had at the start are not all applied.
    Starting = 0,
    /// Reads and writes are answered.
    Ready = 1,
    /// Nothing is accepted any more.
    Stopping = 2,
    /// This member takes part no longer.
    Removed = 3,
}

/// What the owner tells about itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub role: &'static str,
    pub term: u64,
    pub checkpoint: u64,
    /// The log begins after this entry.
    pub log_start: u64,
    /// When the last checkpoint was finished, by the node's clock; zero: none since the start.
    pub checkpoint_at_millis: u64,
    pub checkpoints: u64,
    pub merges: u64,
    pub jobs_failed: u64,
    /// Elections that this member began.
    pub elections: u64,
    /// How often it heard of another leader than the last.
    pub leader_changes: u64,
    /// Of all members, while this one leads.
    pub members: Vec<MemberProgress>,
}

/// What the owner and the handles share.
pub(super) struct Shared {
    pub id: u32,
    /// Which member this is.
    pub me: MemberId,
    pub events: Sender<Event>,
    /// Where the owner is.
    pub seat: Seat,
    /// Writes on their way to the thread.
    pub inbox: Inbox,
    pub queue: Arc<Queue>,
    pub view: ViewHandle,
    /// The last entry whose view is published.
    pub applied: watch::Sender<u64>,
    /// Whether everything that the log had at the start is applied.
    pub ready: watch::Sender<bool>,
    pub phase: AtomicU8,
    /// The member that leads, as far as is known; zero: none.
    pub leader: AtomicU64,
    /// The same, or who led before while nobody does.
    pub last_leader: AtomicU64,
    /// At which entry each member was let in that came since this node was started.
    pub admitted: Mutex<BTreeMap<MemberId, u64>>,
    /// Until when this member answers reads without asking, in microseconds of its clock; zero: it must ask.
    pub lease: AtomicU64,
    /// Whether a read was answered by the lease since it was last extended.
    pub lease_used: AtomicBool,
    /// When the view was last known to be as new as the leader's, in microseconds of the clock.
    pub fresh: AtomicU64,
    /// Who takes part, once that is known.
    pub members: Mutex<Option<Arc<Members>>>,
    /// Of the state after every so many entries, the last of them.
    pub fingerprints: Mutex<VecDeque<Fingerprint>>,
    /// The last entry that another member may know to be committed; the lease does not answer reads of an older view.
    pub committed: AtomicU64,
    pub progress: Mutex<Progress>,
    /// What is not what was written.
    pub damages: Damages,
    /// Who hears what happens to typed values.
    pub listeners: Arc<Listeners>,
    /// What the newest entries changed.
    pub history: History,
    pub budget: Arc<Budget>,
    pub clock: Arc<Clock>,
}

impl Shared {
    /// See [`ShardHandle::is_for`].
    pub fn is_for(&self, stand: &Stand, member: MemberId) -> bool {
        let admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let since = admitted.get(&member).copied().unwrap_or(0);
        stand.members.part(member) != Part::Removed && stand.index.0 >= since
    }

    /// Of a shard that starts, as member `me`.
    pub fn new(
        id: u32,
        me: MemberId,
        events: Sender<Event>,
        store: &Store,
        budget: Arc<Budget>,
        clock: Arc<Clock>,
        history: History,
    ) -> Shared {
        let listeners = Arc::new(Listeners::default());
        listeners.listening.to_effects(history.is_kept());
        Shared {
            id,
            me,
            events,
            seat: Seat::default(),
            inbox: Inbox::default(),
            queue: Queue::new(budget.clone()),
            view: store.views(),
            applied: watch::Sender::new(store.applied()),
            ready: watch::Sender::new(false),
            phase: AtomicU8::new(Phase::Starting as u8),
            leader: AtomicU64::new(0),
            last_leader: AtomicU64::new(0),
            admitted: Mutex::default(),
            lease: AtomicU64::new(0),
            lease_used: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            members: Mutex::default(),
            fingerprints: Mutex::default(),
            progress: Mutex::default(),
            damages: Damages::default(),
            listeners,
            history,
            budget,
            clock,
        }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            2 => Phase::Stopping,
            _ => Phase::Removed,
        }
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Whether this member leads and needs nobody's agreement.
    pub fn leads_alone(&self) -> bool {
        self.lease.load(Ordering::Acquire) == FOREVER
    }

    /// Whether nobody else can have answered a write, or a read, by now that is newer than the view.
    fn holds_lease(&self) -> bool {
        match self.lease.load(Ordering::Acquire) {
            0 => false,
            FOREVER => true,
            until => {
                // A majority of others may have committed, applied and shown what this member's own disk does not hold yet.
                let newest = self.view.load().index() >= self.committed.load(Ordering::Acquire);
                let holds = newest && self.clock.micros_of(self.clock.instant()) < until;
                if holds && !self.lease_used.load(Ordering::Relaxed) {
                    self.lease_used.store(true, Ordering::Relaxed);
                }
                holds
            }
        }
    }

    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One shard, as the doors see it.
#[derive(Clone)]
pub struct ShardHandle(pub(super) Arc<Shared>);

impl ShardHandle {
    /// Which shard.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Logs the command and waits until it is applied and its view is published.
    ///
    /// Dropping the future abandons the write if it is not yet on its way to the disk.
    pub async fn write(&self, envelope: Envelope, deadline: Option<Instant>) -> Result<Written, WriteError> {
        self.write_as(envelope, Terms::default(), deadline).await
    }

    /// The same, on terms.
    pub async fn write_as(
        &self,
        envelope: Envelope,
        terms: Terms,
        deadline: Option<Instant>,
    ) -> Result<Written, WriteError> {
        self.begin_write(envelope, terms, deadline)?.written().await
    }

    /// Has the command wait for its turn, behind those that came before.
    pub fn begin_write(
        &self,
        envelope: Envelope,
        terms: Terms,
        deadline: Option<Instant>,
    ) -> Result<BegunWrite, WriteError> {
        let shared = &*self.0;
        match shared.phase() {
            Phase::Starting => return Err(WriteError::NotReady),
            Phase::Ready => {}
            Phase::Stopping => return Err(WriteError::Stopping),
            Phase::Removed => return Err(WriteError::Removed),
        }
        let since = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= since) {
            return Err(WriteError::Expired);
        }
        let bytes = queue::envelope_bytes(&envelope);
        if bytes > queue::WRITE_BYTES_MAX {
            return Err(WriteError::TooLarge { bytes, max: queue::WRITE_BYTES_MAX });
        }
        let (used_bytes, budget_bytes) = (shared.budget.held(), shared.budget.bytes());
        let is_short = used_bytes + bytes as u64 > budget_bytes && !queue::only_frees(&envelope.command);
        let short = is_short.then_some(WriteError::MemoryFull { used_bytes, budget_bytes });
        if let Some(error) = &short
            && (envelope.origin.request_id.is_empty() || shared.queue.bytes() + bytes > SHORT_BYTES_MAX)
        {
            return Err(error.clone());
        }
        let permit = shared.queue.admit(bytes).map_err(|retry_after| WriteError::Overloaded { retry_after })?;

        let turn = Turn::new();
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { envelope, terms, permit, since, turn: turn.clone(), spot: trace::here(), reply };
        if let Some(error) = short {
            // Whether it was carried out before is for the owner to say.
            let write = Box::new(waiting);
            shared.events.send(Event::Short { write, error }).map_err(|_| WriteError::Stopping)?;
        } else if shared.inbox.put(waiting).map_err(|_| WriteError::Stopping)? && !self.take_turn(terms.turn) {
            shared.events.send(Event::Writes).map_err(|_| WriteError::Stopping)?;
        }
        Ok(BegunWrite { answer, turn: AbandonOnDrop(turn), deadline })
    }

    /// A view as new as every write answered before, if that is known without asking anybody.
    pub fn view_at_once(&self) -> Option<Arc<View>> {
        if self.is_out_of_service() {
            return None;
        }
        self.view_for_writes_at_once()
    }

    /// The same, as [`Self::view_for_writes`].
    pub fn view_for_writes_at_once(&self) -> Option<Arc<View>> {
        (self.0.phase() == Phase::Ready && self.0.holds_lease()).then(|| self.0.view.load())
    }

    /// A view as new as asked.
    pub async fn view(&self, level: Level, deadline: Option<Instant>) -> Result<Arc<View>, ReadError> {
        self.looked_at(level, deadline, false).await
    }

    /// A view as new as every write answered before, for a write that only looks which collections there are: also of a shard that
    /// is out of service, which takes writes as ever.
    pub async fn view_for_writes(&self, deadline: Option<Instant>) -> Result<Arc<View>, ReadError> {
        self.looked_at(Level::Latest, deadline, true).await
    }

    async fn looked_at(
        &self,
        level: Level,
        deadline: Option<Instant>,
        damaged_too: bool,
    ) -> Result<Arc<View>, ReadError> {
        let Some(spot) = trace::here() else { return self.new_enough(level, deadline, damaged_too).await };
        let from = Instant::now();
        let view = self.new_enough(level, deadline, damaged_too).await;
        let index = view.as_ref().map_or(0, |view| view.index());
        spot.step("view", from, Instant::now(), [("loci.index", index), ("loci.shard", self.id().into())]);
        view
    }

    async fn new_enough(
        &self,
        level: Level,
        deadline: Option<Instant>,
        damaged_too: bool,
    ) -> Result<Arc<View>, ReadError> {
        let shared = &*self.0;
        match shared.phase() {
            Phase::Starting => return Err(ReadError::NotReady),
            // A node that stops answers the calls that it had begun.
            Phase::Ready | Phase::Stopping => {}
            Phase::Removed => return Err(ReadError::Removed),
        }
        if !damaged_too && shared.damages.is_out_of_service() {
            return Err(ReadError::Damaged { shard: shared.id });
        }
        match level {
            Level::Stale => {}
            Level::AtLeast(wanted) => self.wait_for(wanted, deadline).await?,
            Level::Latest if shared.holds_lease() => {}
            Level::Latest => self.wait_for_latest(deadline).await?,
        }
        Ok(shared.view.load())
    }

    async fn wait_for_latest(&self, deadline: Option<Instant>) -> Result<(), ReadError> {
        let (reader, answer) = oneshot::channel();
        self.0.events.send(Event::Read(reader)).map_err(|_| ReadError::Stopping)?;
        let longest = Instant::now() + LATEST_WAIT_MAX;
        let until = deadline.map_or(longest, |deadline| deadline.min(longest));
        match tokio::time::timeout_at(until.into(), answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopping),
            Err(_) => Err(ReadError::Unconfirmed { shard: self.id() }),
        }
    }

    /// The member that leads, as far as this one knows.
    pub fn leader(&self) -> Option<MemberId> {
        match self.0.leader.load(Ordering::Acquire) {
            0 => None,
            leader => Some(MemberId(leader)),
        }
    }

    /// Whether a checkpoint is of use to a member: it was let in before that. One that had a part in the shard, left it and came
    /// again must not go back behind its leaving.
    pub fn is_for(&self, stand: &Stand, member: MemberId) -> bool {
        self.0.is_for(stand, member)
    }

    /// The member that leads, or led before if nobody does just now.
    pub fn last_leader(&self) -> Option<MemberId> {
        match self.0.last_leader.load(Ordering::Acquire) {
            0 => None,
            leader => Some(MemberId(leader)),
        }
    }

    /// How long ago the newest view was as new as the leader's, as far as this member knows; zero while it leads.
    pub fn lag(&self) -> Duration {
        if self.leader() == Some(self.0.me) {
            return Duration::ZERO;
        }
        let clock = &self.0.clock;
        Duration::from_micros(clock.micros_of(clock.instant()).saturating_sub(self.0.fresh.load(Ordering::Relaxed)))
    }

    /// Who takes part, as of the last applied entry.
    pub fn members(&self) -> Option<Arc<Members>> {
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the state was after an entry, if that is remembered; of the last that is, without one.
    pub fn fingerprint(&self, index: Option<u64>) -> Option<Fingerprint> {
        let fingerprints = self.0.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
        match index {
            None => fingerprints.back().copied(),
            Some(index) => fingerprints.iter().find(|known| known.index == index).copied(),
        }
    }

    /// What this member knows of the others while it leads; a moment old.
    pub fn progress(&self) -> Vec<MemberProgress> {
        self.0.progress().members
    }

    /// Changes who takes part, and waits until it is so.
    pub async fn change_members(&self, changes: Vec<MemberChange>, deadline: Instant) -> Result<(), ChangeError> {
        self.asked(deadline, |reply| Event::Change { changes, reply }).await
    }

    /// Asks another member to lead, and waits until this one no longer does.
    pub async fn transfer(&self, to: MemberId, deadline: Instant) -> Result<(), ChangeError> {
        self.asked(deadline, |reply| Event::Transfer { to, reply }).await?;
        while self.leader() != Some(to) {
            if Instant::now() >= deadline {
                return Err(ChangeError::DeadlineExceeded);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn asked(
        &self,
        deadline: Instant,
        event: impl FnOnce(oneshot::Sender<Result<(), ChangeError>>) -> Event,
    ) -> Result<(), ChangeError> {
        let (reply, answer) = oneshot::channel();
        self.0.events.send(event(reply)).map_err(|_| ChangeError::Stopping)?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(answer) => answer.unwrap_or(Err(ChangeError::Stopping)),
            Err(_) => Err(ChangeError::DeadlineExceeded),
        }
    }

    /// A checkpoint that holds the state as it is now or later, on the disk.
    pub async fn checkpoint(&self) -> Result<Stand, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.0.events.send(Event::Checkpoint(reply)).map_err(|_| ReadError::Stopping)?;
        answer.await.map_err(|_| ReadError::Stopping)
    }

    /// Has a snapshot taken in, and waits until it is.
    pub async fn install(&self, install: Install) {
        let (done, taken_in) = oneshot::channel();
        if self.0.events.send(Event::Install { install: Box::new(install), done }).is_ok() {
            // A shard that ends takes nothing in.
            let _ = taken_in.await;
        }
    }

    /// Tells the shard that messages to a member do not get there.
    pub fn unreachable(&self, member: MemberId) {
        let _ = self.0.events.send(Event::Unreachable(member));
    }

    /// The newest view there is, also while the shard is starting: for figures.
    pub fn newest(&self) -> Arc<View> {
        self.0.view.load()
    }

    /// Tells somebody what happens to typed values, from now until the ear is dropped.
    pub fn listen(&self, told: Told, wants: Wants) -> Ear {
        self.0.listeners.add(told, wants, self.0.events.clone())
    }

    /// What the newest entries changed.
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// The last applied entry, and its changes: once it is told, history and view have it.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.0.applied.subscribe()
    }

    /// Has a segment's graphs built anew, as soon as its merging thread is free.
    pub fn relink(&self, file: u64) {
        // A shard that has ended needs no graphs.
        let _ = self.0.events.send(Event::Relink(file));
    }

    /// The time by which expiry is decided for a reader of this view: this node's clock, never behind the view's.
    pub fn now(&self, view: &View) -> u64 {
        self.0.clock.now_millis().max(view.clock())
    }

    /// How the shard is doing.
    pub fn status(&self) -> ShardStatus {
        let Progress {
            role,
            term,
            checkpoint,
            log_start,
            checkpoint_at_millis,
            checkpoints,
            merges,
            jobs_failed,
            elections,
            leader_changes,
            ..
        } = self.0.progress();
        // Before the view: what is applied was committed before.
        let committed = self.0.committed.load(Ordering::Acquire);
        let view = self.0.view.load();
        ShardStatus {
            shard: self.0.id,
            ready: self.is_ready(),
            role,
            term,
            applied: view.index(),
            committed: committed.max(view.index()),
            elections,
            leader_changes,
            checkpoint,
            log_start,
            checkpoint_at_millis,
            checkpoints,
            merges,
            jobs_failed,
            queued: self.0.queue.len() as u64,
            queued_bytes: self.0.queue.bytes() as u64,
        }
    }

    /// Whether everything that the log had at the start is applied and the shard is not stopping.
    pub fn is_ready(&self) -> bool {
        self.0.phase() == Phase::Ready
    }

    /// Waits until the shard answers for the first time, or this node has no part in it any more.
    pub async fn ready(&self) {
        let mut ready = self.0.ready.subscribe();
        loop {
            tokio::select! {
                // The sender lives as long as this handle.
                _ = ready.wait_for(|ready| *ready) => return,
                () = tokio::time::sleep(REMOVED_LOOK) => {
                    if self.has_ended() {
                        return;
                    }
                }
            }
        }
    }

    /// Whether this node has no part in it any more, which of the catalog's shard means that it has none in the cluster.
    fn has_ended(&self) -> bool {
        self.id() != CATALOG && matches!(self.0.phase(), Phase::Stopping | Phase::Removed)
    }

    /// Whether everything that the log had at the start was applied at some time, or need not be any more.
    pub fn has_been_ready(&self) -> bool {
        *self.0.ready.borrow() || self.has_ended()
    }

    /// Whether this member takes part no longer.
    pub fn is_removed(&self) -> bool {
        self.0.phase() == Phase::Removed
    }

    /// Whether nothing is accepted any more.
    pub fn is_stopping(&self) -> bool {
        self.0.phase() == Phase::Stopping
    }

    async fn wait_for(&self, wanted: u64, deadline: Option<Instant>) -> Result<(), ReadError> {
        let mut applied = self.0.applied.subscribe();
        if *applied.borrow_and_update() >= wanted {
            return Ok(());
        }
        let longest = Instant::now() + TOKEN_WAIT_MAX;
        let until = deadline.map_or(longest, |deadline| deadline.min(longest));
        let reached = tokio::time::timeout_at(until.into(), applied.wait_for(|&applied| applied >= wanted)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopping),
            Err(_) => {
                let applied = *self.0.applied.borrow();
                if until == longest {
                    Err(ReadError::Behind { wanted, applied })
                } else {
                    Err(ReadError::DeadlineExceeded { applied })
                }
            }
        }
    }
}

/// A write that waits for its turn or is on its way. Dropping it abandons the write if it is not yet on its way to the disk.
pub struct BegunWrite {
    answer: oneshot::Receiver<Result<Written, WriteError>>,
    turn: AbandonOnDrop,
    deadline: Option<Instant>,
}

impl BegunWrite {
    /// Waits until it is applied and its view is published.
    pub async fn written(self) -> Result<Written, WriteError> {
        let BegunWrite { answer, turn, deadline } = self;
        let answer = match deadline {
            None => answer.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), answer).await {
                Ok(answer) => answer,
                Err(_) if turn.0.abandon() => return Err(WriteError::Expired),
                Err(_) => return Err(WriteError::DeadlineExceeded),
            },
        };
        // The owner drops a reply unanswered only when it ends.
        answer.unwrap_or(Err(WriteError::Stopping))
    }
}

/// Abandons a write when the caller stops waiting for it.
struct AbandonOnDrop(Turn);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
