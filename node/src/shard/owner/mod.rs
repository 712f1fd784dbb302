//! The shard's one owner: of its replica, its store, and of what waits for either. Events in, turns taken; it has no thread,
//! no socket and no clock of its own, so that a thread drives it in a node, and a simulation drives a whole cluster of them.
//!
//! ```text
//!   take(event) ---> writes that wait, reads that wait, messages of other members, what the log and the jobs have done
//!   turn() -------> tick -> act: settle: what the replica says goes to log, store, peers -> propose -> ask for reads
//!                        -> jobs
//! ```
//!
//! | room | what it does |
//! |---|---|
//! | [`writes`] | gathers what waits into entries, and answers when they are applied |
//! | [`reads`] | asks how new a read must be, once for all that wait, and keeps the lease |
//! | [`members`] | changes of members, and snapshots for those who fell behind |
//! | [`offers`] | when a snapshot that a member was told of is waited for no longer |
//! | [`jobs`] | checkpoints and merges: when, and what follows from them |
//! | [`stopping`] | the way down |
//! | [`giving_way`] | when the disk is a reason to hand the lead on |
//! | [`times`] | when what happened to an entry, for traces |
//!
//! Always:
//! - the clock of an entry is never behind that of an entry before it: a new leader proposes nothing before it has applied
//!   everything of its predecessors;
//! - the same events at the same times give the same actions.

mod giving_way;
mod jobs;
mod members;
mod offers;
mod reads;
mod stopping;
mod times;
mod writes;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use loci_index::store::Store;
use loci_index::table::eviction;
use loci_raft::{
    Append, Change, Committed, EntryKind, LogIndex, MemberId, Message, MessageError, Part, Proposed, Replica, Role,
    Standing, Term,
};

use super::events::Happened;
use super::handle::{Phase, Progress, Shared};
use super::inbox::Closing;
use super::jobs::Jobs;
use super::queue::Waiting;
use super::room::Siblings;
use super::{Event, Fatal, Outbox};
use crate::cluster::snapshot::Stand;
use crate::log_thread::{LogHandle, Report, Safety};
use crate::shards::CATALOG;
use crate::trace;
use members::Known;
pub use offers::{Fetch, Fetching};
pub(super) use reads::FOREVER;
pub use reads::Reader;
use reads::Reads;
use stopping::Stopping;
pub use writes::GATHERING;
use writes::{Batch, Full, Room};

/// The length of the replica's tick.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Entries are applied up to about so many bytes at a turn, so that jobs and messages have theirs.
const TURN_BYTES: u64 = 16 << 20;
/// How often everything that the store holds is counted.
const COUNT_EVERY: Duration = Duration::from_millis(500);
/// The least time between checkpoints that are made to free memory.
const RELIEF_EVERY: Duration = Duration::from_secs(2);
/// What an entry takes in the log besides its data, at most.
const APPEND_BYTES: usize = 128;

/// Numbers that depend on how the node is configured.
#[derive(Debug, Clone)]
pub struct OwnerOptions {
    /// A checkpoint is made once so many bytes of entries have been applied since the last.
    pub checkpoint_bytes: u64,
    /// The store's `buffers_bytes_max`.
    pub buffers_bytes_max: usize,
    /// So many bytes of entries are kept in the log for members that are behind, or may be once this one leads.
    pub kept_bytes: u64,
    /// The path that a full disk is named by.
    pub log_path: String,
    /// What makes room, and where, while this member leads; it may change.
    pub eviction: Arc<ArcSwap<eviction::Room>>,
    /// What the shards of the node have.
    pub siblings: Siblings,
    /// So many bytes of what the newest entries changed are kept for watchers; zero: none.
    pub history_bytes: usize,
    /// Behind an entry that is on its way writes gather for so long, unless enough of them wait.
    pub gathering: Duration,
}

/// By then, in milliseconds, a leader has removed what has expired.
const RECLAIMED_AFTER: u64 = 60_000;

/// See the module's front page.
pub struct Owner {
    shared: Arc<Shared>,
    options: OwnerOptions,
    replica: Replica,
    store: Store,
    log: LogHandle,
    jobs: Jobs,
    outbox: Outbox,
    /// When this turn, or the taking of this event, began.
    now: Instant,
    /// Writes that are not logged.
    waiting: VecDeque<Waiting>,
    /// Room for those that come.
    spare: Vec<Waiting>,
    _inbox: Closing,
    /// Entries that are logged and not applied.
    proposed: VecDeque<Batch>,
    late: Vec<times::Late>,
    proposed_clock: u64,
    /// The last vote that went to the log.
    voted: Option<(Term, Option<MemberId>)>,
    /// An entry that changes members went to the log while this was the only one: others may be sent all that follows it.
    others_come: bool,
    /// The last entry evicted something, or what makes room was changed since: the next one is due.
    evicts: bool,
    /// What made room at the last entry.
    evicted_by: Arc<eviction::Room>,
    standing: Standing,
    heard_leader: Option<Instant>,
    /// Who led last, as far as this member knows.
    last_leader: Option<MemberId>,
    /// Whether this member leads and has applied everything that earlier leaders proposed.
    may_propose: bool,
    reads: Reads,
    known: Known,
    started: Instant,
    replayed: u64,
    /// The replica has more effects already.
    more: bool,
    /// Somebody began to listen, and is to be told when all is told that was asked for.
    is_listened: bool,
    room: Room,
    disk: giving_way::Disk,
    last_tick: Instant,
    last_due: Option<Instant>,
    last_count: Option<Instant>,
    last_relief: Option<Instant>,
    counted: Counted,
    work: jobs::Work,
    stopping: Option<Stopping>,
}

/// What the store was last said to take.
#[derive(Default)]
struct Counted {
    /// Of this shard in the node's budget.
    charged: u64,
    /// Besides the buffers.
    other_bytes: u64,
}

/// What an owner is made of.
pub(super) struct Parts {
    pub shared: Arc<Shared>,
    pub options: OwnerOptions,
    pub replica: Replica,
    pub store: Store,
    pub log: LogHandle,
    pub jobs: Jobs,
    pub outbox: Outbox,
}

impl Owner {
    pub(super) fn new(parts: Parts) -> Owner {
        let Parts { shared, options, replica, mut store, log, jobs, outbox } = parts;
        store.listen(shared.listeners.listening.clone());
        let proposed_clock = store.clock();
        let evicted_by = options.eviction.load_full();
        let now = shared.clock.instant();
        // What the store holds is committed, so it is what the log has there.
        let index = LogIndex(store.applied());
        let term = replica.term_of(index).unwrap_or(replica.standing().term);
        let members = Arc::clone(replica.members());
        *shared.members.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&members));
        let known = Known::new(Stand { index, term, members });
        let standing = replica.standing();
        let owner = Owner {
            _inbox: Closing(Arc::clone(&shared)),
            shared,
            options,
            replica,
            store,
            log,
            jobs,
            outbox,
            now,
            waiting: VecDeque::new(),
            spare: Vec::new(),
            proposed: VecDeque::new(),
            late: Vec::new(),
            proposed_clock,
            voted: None,
            others_come: false,
            evicts: false,
            evicted_by,
            standing,
            heard_leader: None,
            last_leader: standing.leader,
            may_propose: false,
            reads: Reads::default(),
            known,
            started: now,
            replayed: 0,
            more: true,
            is_listened: false,
            room: Room::default(),
            disk: giving_way::Disk::default(),
            last_tick: now,
            last_due: None,
            last_count: None,
            last_relief: None,
            counted: Counted::default(),
            work: jobs::Work::new(now),
            stopping: None,
        };
        owner.publish_standing(standing);
        let checkpoint = owner.store.applied();
        owner.publish(|progress| progress.checkpoint = checkpoint);
        owner
    }

    /// How long nothing needs to be done unless an event comes.
    pub fn idle_for(&self) -> Duration {
        if self.more {
            return Duration::ZERO;
        }
        let now = self.shared.clock.instant();
        let tick = TICK.saturating_sub(now - self.last_tick);
        // As of the turn, which has gone by it: if time has passed since, it has another look at once.
        let left = self.gathering_left().map(|left| left.saturating_sub(now.saturating_duration_since(self.now)));
        left.map_or(tick, |left| tick.min(left))
    }

    /// Whether it has stopped: [`Owner::finish`] is what is left.
    pub fn is_done(&self) -> bool {
        matches!(self.stopping, Some(Stopping::Done))
    }

    /// The replica, to look at.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Whether it has just handed its lead on because of its disk, to look at.
    pub fn gives_way(&self) -> bool {
        self.disk.gave_way() == Some(self.now)
    }

    /// What its last checkpoint holds, to look at.
    pub fn checkpoint(&self) -> &Stand {
        self.known.last()
    }

    /// The store, to look at.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes an event in. A [turn](Owner::turn) must follow.
    pub fn take(&mut self, event: Event) -> Result<(), Fatal> {
        self.now = self.shared.clock.instant();
        match event {
            // The turn takes them, if anything can come of it.
            Event::Writes => {}
            Event::Short { write, error } => self.refuse_new([*write], &error),
            Event::Read(reader) => self.reads.wait(reader),
            Event::Peer(message) => {
                self.shared.seat.message_taken();
                self.receive(message)?;
            }
            Event::Unreachable(member) => self.replica.unreachable(member),
            Event::Log(Report::Synced(mark)) => {
                self.disk.synced(mark, self.now);
                self.note_synced(mark);
                self.replica.synced(mark);
            }
            Event::Log(Report::Pins { files }) => self.pins_log(files),
            Event::Log(Report::Damaged) => self.keeps_damaged(),
            Event::Log(Report::Room) => self.room = Room::default(),
            Event::Log(Report::Full { needed_bytes }) => {
                self.room = Room { asked: false, full: Some(Full { needed_bytes, asked_at: self.now }) };
                self.refuse_full(needed_bytes);
            }
            Event::JobDone(done) => self.install(done),
            Event::MergeLost => self.work.merge_lost(),
            Event::DamageFound(damage) => self.damage_found(damage),
            Event::DamageRefuted(file) => self.damage_refuted(&file),
            Event::Change { changes, reply } => self.change(&changes, reply),
            Event::Transfer { to, reply } => self.transfer(to, reply),
            Event::Checkpoint(reply) => self.want_checkpoint(reply),
            Event::Fetch { member, what } => self.note_fetch(member, what),
            Event::Install { install, done } => self.begin_install(*install, done),
            Event::Relink(file) => {
                self.store.request_relink(file);
                self.work.ask_again();
            }
            Event::Listens => self.is_listened = true,
            Event::Stop => self.begin_stopping(),
        }
        Ok(())
    }

    /// Takes a message of another member in, as a turn follows at once.
    pub(super) fn hear(&mut self, message: Message) -> Result<(), Fatal> {
        self.now = self.shared.clock.instant();
        self.receive(message)
    }

    /// Everything that may have become possible.
    pub fn turn(&mut self) -> Result<(), Fatal> {
        self.now = self.shared.clock.instant();
        if self.now - self.last_tick >= TICK {
            self.last_tick = self.now;
            self.replica.tick();
            self.give_way_if_slow();
        }
        self.act()?;
        self.count();
        self.start_jobs();
        self.go_on_stopping();
        Ok(())
    }

    /// What somebody may wait for, of the time that was last looked at. What comes only with time is left for a
    /// [turn](Owner::turn).
    pub(super) fn act(&mut self) -> Result<(), Fatal> {
        self.install_snapshot()?;
        self.propose_early();
        self.settle()?;
        while self.propose() {
            self.settle()?;
        }
        if self.ask_for_reads() {
            self.settle()?;
        }
        self.answer_changes();
        self.tell_freshness();
        if std::mem::take(&mut self.is_listened) {
            self.shared.listeners.tell_begun(&self.shared.view.load());
        }
        Ok(())
    }

    /// Whether there is nothing to do before the next event, or tick.
    pub(super) fn may_rest(&self) -> bool {
        !self.more && self.stopping.is_none() && self.gathering_left().is_none()
    }

    fn receive(&mut self, message: Message) -> Result<(), Fatal> {
        if Some(message.from()) == self.standing.leader {
            self.heard_leader = Some(self.now);
        }
        match self.replica.receive(message) {
            Ok(()) => Ok(()),
            Err(error @ MessageError::LostLog { .. }) => Err(Fatal(error.to_string())),
            Err(error) => {
                // It was lost, as messages may be.
                tracing::debug!(shard = self.shared.id, %error, "a message is not believed");
                Ok(())
            }
        }
    }

    /// Does what the replica says.
    fn settle(&mut self) -> Result<(), Fatal> {
        let mut bytes = 0;
        loop {
            let effects = self.replica.effects().map_err(|error| {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                Fatal(format!("shard {}: {error}{}", self.shared.id, source.unwrap_or_default()))
            })?;
            // Before any message says so: whoever hears of it may show it.
            self.shared.committed.store(self.replica.committed_index().0, Ordering::Release);
            // What must not be said before it is safe here comes later, once it is: others write while this member does.
            effects.send.into_iter().for_each(|message| self.say(message));
            let mut synced = false;
            if !effects.append.is_empty() || effects.sync.is_some() {
                let bytes = effects.append.iter().map(append_bytes).sum();
                if let Some(mark) = effects.sync {
                    self.disk.appended(mark, self.now);
                    self.note_append(mark);
                }
                let leads_others =
                    self.replica.standing().role == Role::Leader && self.replica.members().voters().len() > 1;
                let safety = self.safety_of(&effects.append);
                synced = self.log.append(effects.append, bytes, effects.sync, safety, !leads_others);
            }
            if let Some(mark) = effects.sync.filter(|_| synced) {
                self.now = self.shared.clock.instant();
                self.disk.synced(mark, self.now);
                self.note_synced(mark);
                self.replica.synced(mark);
                if effects.standing.is_none() {
                    // Before what was committed is applied: others wait for it.
                    self.replica.released().into_iter().for_each(|message| self.say(message));
                }
            }
            if let Some(standing) = effects.standing {
                self.stand(standing);
            }
            for committed in effects.committed {
                bytes += committed.data.len() as u64;
                self.apply(committed)?;
            }
            if let Some(changed) = effects.members.into_iter().next_back() {
                self.members_changed(changed.members);
            }
            if let Some(error) = effects.unread {
                tracing::error!(shard = self.shared.id, %error, "the log cannot be read for a member, which is to have a snapshot");
                if let Some(file) = error.damaged_file() {
                    self.log.damage_found(file);
                }
            }
            if let Some(member) = effects.snapshot_wanted {
                self.offer_snapshot(member);
            }
            for read in effects.reads {
                self.read_confirmed(read.context, read.index.0);
            }
            self.reads.lost(effects.reads_lost);
            self.answer_reads();
            self.more = effects.more || synced;
            // While a long log is read, checkpoints must be begun and taken in: buffers would grow with it.
            if !self.more || bytes > TURN_BYTES {
                return Ok(());
            }
        }
    }

    fn say(&mut self, message: Message) {
        if message.snapshot_index().is_some() {
            self.note_offered(message.to());
        }
        (self.outbox)(message);
    }

    /// How safe an append must be before it counts as done. Nobody but an only member may go on with what a power cut can
    /// still take: others would have it, and vote for whoever has not.
    fn safety_of(&mut self, appends: &[Append]) -> Safety {
        let alone = self.replica.members().all().eq([self.replica.me()]) && !self.others_come;
        let mut safety = if alone { Safety::Written } else { Safety::Synced };
        for append in appends {
            let will_do = match &append.change {
                Change::Entry(entry) => {
                    self.others_come |= entry.kind == EntryKind::Members;
                    let is_it =
                        |batch: &Batch| (batch.proposed.index, batch.proposed.term) == (entry.index, entry.term);
                    self.proposed.iter().any(|batch| is_it(batch) && batch.safety == Safety::Written)
                }
                Change::HardState(state) => {
                    self.voted.replace((state.term, state.vote)) == Some((state.term, state.vote))
                }
                _ => false,
            };
            if !will_do {
                safety = Safety::Synced;
            }
        }
        safety
    }

    fn apply(&mut self, committed: Committed) -> Result<(), Fatal> {
        let Committed { index, term, data } = committed;
        if index.0 <= self.store.applied() {
            // A snapshot held it already.
            self.replica.applied(index);
            self.answer(Proposed { index, term }, Vec::new());
            return Ok(());
        }
        let begun = trace::is_on().then(Instant::now);
        self.known.applied(term, data.len() as u64);
        let outcomes =
            self.store.apply(index.0, &data).map_err(|error| Fatal(format!("shard {}: {error}", self.shared.id)))?;
        self.shared.history.push(index.0, self.store.clock(), self.store.effects());
        self.tell_events();
        self.work.applied(self.now, data.len() as u64);
        self.replica.applied(index);
        self.charge();
        self.remember_fingerprint();
        self.shared.applied.send_replace(index.0);
        let standing = self.replica.standing();
        self.may_propose |= standing.role == Role::Leader && term == standing.term;
        self.note_applied(Proposed { index, term }, &data, begun);
        self.answer(Proposed { index, term }, outcomes);
        if self.shared.phase() == Phase::Starting {
            self.replayed += 1;
        }
        Ok(())
    }

    /// Before anybody is answered: whoever hears of a change and reads finds it.
    fn tell_events(&mut self) {
        let events = self.store.take_events();
        if !events.is_empty() {
            self.shared.listeners.tell(&self.shared.view.load(), &Happened::Events(events));
        }
    }

    /// Since when the view may be older than the leader's: a leader says with everything how far the log is committed.
    fn tell_freshness(&self) {
        let shared = &*self.shared;
        let fresh = match self.standing.role {
            Role::Leader => Some(self.now),
            _ if self.store.applied() >= self.replica.committed_index().0 => self.heard_leader,
            _ => None,
        };
        if let Some(fresh) = fresh {
            shared.fresh.store(shared.clock.micros_of(fresh), Ordering::Relaxed);
        }
    }

    /// Role, term, leader or part changed.
    fn stand(&mut self, standing: Standing) {
        let before = std::mem::replace(&mut self.standing, standing);
        let began = standing.role == Role::Candidate && (before.role, before.term) != (standing.role, standing.term);
        let changed = standing.leader.is_some() && standing.leader != self.last_leader;
        if began || changed {
            let is_change = changed && self.last_leader.is_some();
            self.last_leader = standing.leader.or(self.last_leader);
            self.publish(|progress| {
                progress.elections += u64::from(began);
                progress.leader_changes += u64::from(is_change);
            });
        }
        if standing.part == Part::Removed && before.part != Part::Removed {
            if self.shared.id == CATALOG {
                tracing::error!(
                    shard = self.shared.id,
                    "this member was removed from the cluster: its node can take part again only with an empty data directory"
                );
            } else {
                tracing::info!(shard = self.shared.id, "this node takes part in the shard no longer");
            }
            self.shared.set_phase(Phase::Removed);
        }
        if (before.role, before.term, before.leader) == (standing.role, standing.term, standing.leader) {
            return;
        }
        self.may_propose = false;
        self.end_lease();
        if standing.role != Role::Leader {
            self.give_up_proposed();
        }
        self.publish_standing(standing);
        // What this member knows of the others is of its time as a leader.
        self.publish_progress();
    }

    fn become_ready(&self) {
        self.shared.set_phase(Phase::Ready);
        tracing::info!(
            shard = self.shared.id,
            applied = self.store.applied(),
            replayed = self.replayed,
            millis = (self.now - self.started).as_millis() as u64,
            "the shard is ready"
        );
        self.shared.ready.send_replace(true);
    }

    /// Tells the node's budget what the store takes.
    fn charge(&mut self) {
        let bytes = self.counted.other_bytes + self.store.buffered_bytes() as u64;
        self.shared.budget.store_changed(self.counted.charged, bytes);
        self.counted.charged = bytes;
    }

    fn count(&mut self) {
        if self.last_count.is_some_and(|last| self.now - last < COUNT_EVERY) {
            return;
        }
        self.last_count = Some(self.now);
        self.publish_progress();
        self.give_up_snapshots();
        self.forget();
        if self.standing.role != Role::Leader {
            // The leader has long had these removed; this member only has to forget when to look at them.
            self.store.expiries(self.store.clock().saturating_sub(RECLAIMED_AFTER));
        }
        let stats = self.store.view().stats();
        let history_bytes = self.shared.history.bytes() as u64;
        self.counted.other_bytes = stats.memory_bytes.saturating_sub(stats.buffer_bytes) + history_bytes;
        self.charge();
        if self.room.full.is_some() && self.waiting.is_empty() {
            // Nobody asks just now, but when there is space again the figures should say so.
            let _ = self.has_room(APPEND_BYTES);
        }
        let budget = &self.shared.budget;
        let tight = budget.held() > budget.bytes() / 5 * 4 && self.store.buffered_bytes() > (1 << 20);
        let lately = self.last_relief.is_some_and(|last| self.now - last < RELIEF_EVERY);
        if tight && !lately && !self.work.checkpoint_runs() {
            self.last_relief = Some(self.now);
            self.store.request_checkpoint();
        }
    }

    /// Ends what is left once [`Owner::is_done`], or when nobody can send events any more.
    pub fn finish(mut self) -> Result<(), Fatal> {
        self.options.siblings.remove(self.shared.id);
        self.shared.set_phase(Phase::Stopping);
        // What the last checkpoint made superfluous.
        self.settle()?;
        self.give_up_proposed();
        if !self.shared.leads_alone() {
            self.end_lease();
        }
        if self.work.rests() {
            self.jobs.join();
        }
        self.shared.history.settle();
        Ok(())
    }

    fn publish(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn publish_standing(&self, standing: Standing) {
        self.shared.leader.store(standing.leader.map_or(0, |leader| leader.0), Ordering::Release);
        if let Some(leader) = standing.leader {
            self.shared.last_leader.store(leader.0, Ordering::Release);
        }
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
