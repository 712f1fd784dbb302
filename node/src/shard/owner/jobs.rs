//! Checkpoints and merges: when they are due, and what follows once one is done.

use std::time::{Duration, Instant};

use loci_index::store::{Done, JobError, JobKind, Remedy};

use super::Owner;
use crate::shard::{Damage, FoundBy};

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
/// Of what tables take, so much must have been logged since for them to be written while nobody writes.
const TABLES_SHARE_AT_REST: u64 = 16;
/// How often a checkpoint is told of.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A job that failed is tried again after this, also on an idle shard.
const JOB_RETRY: Duration = Duration::from_secs(5);

/// What is known of jobs.
pub(super) struct Work {
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
}

impl Work {
    pub fn new(now: Instant) -> Work {
        Work {
            bytes_since_checkpoint: 0,
            last_applied: now,
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
        }
    }

    /// An entry of so many bytes was applied.
    pub fn applied(&mut self, now: Instant, bytes: u64) {
        self.bytes_since_checkpoint += bytes;
        self.last_applied = now;
        self.resting = false;
    }

    /// The store may have a job that it had not when it was last asked.
    pub fn ask_again(&mut self) {
        self.last_asked = None;
    }

    pub fn checkpoint_runs(&self) -> bool {
        self.checkpoint_running.is_some()
    }

    pub fn checkpoints_fail(&self) -> bool {
        self.checkpoints_fail
    }

    /// A merge ended in a panic.
    pub fn merge_lost(&mut self) {
        self.merge_running = None;
    }

    /// Whether no job runs.
    pub fn rests(&self) -> bool {
        self.checkpoint_running.is_none() && self.merge_running.is_none()
    }
}

impl Owner {
    pub(super) fn start_jobs(&mut self) {
        if self.stopping.is_some()
            || self.known.is_installing()
            || self.work.last_asked.is_some_and(|last| self.now - last < ASK_EVERY)
        {
            return;
        }
        self.work.last_asked = Some(self.now);
        // Tables are written whole, so the log grows by as much before they are, or by a part of it where nobody minds.
        let tables_bytes = self.store.tables_bytes();
        let resting_bytes = REST_BYTES.max(tables_bytes / TABLES_SHARE_AT_REST);
        let rests = self.work.bytes_since_checkpoint >= resting_bytes && (self.now - self.work.last_applied) >= REST;
        let due = rests || self.work.bytes_since_checkpoint >= self.options.checkpoint_bytes.max(tables_bytes);
        if due && self.work.checkpoint_running.is_none() {
            self.work.bytes_since_checkpoint = 0;
            self.store.request_checkpoint();
        }
        if !self.work.resting && (self.now - self.work.last_applied) >= self.work.rest_after {
            self.work.resting = true;
            self.store.rest();
        }
        if self.work.rest_merging && !self.work.rest_given_up && self.store.is_kept_from_merging() {
            self.work.rest_given_up = true;
            self.work.rest_after = (self.work.rest_after * 2).min(REST_MAX);
            self.jobs.cancel_rest();
        }
        if self.work.failed_at.is_some_and(|at| self.now - at >= JOB_RETRY) {
            // The store itself tries again once its clock has moved on, which an idle shard's does not.
            self.work.failed_at = None;
            self.store.request_checkpoint();
        }
        while self.work.checkpoint_running.is_none() || self.work.merge_running.is_none() {
            let Some(job) = self.store.next_job() else { return };
            match job.kind() {
                JobKind::Checkpoint => {
                    self.checkpoint_begins();
                    self.work.checkpoint_running = Some(self.now);
                    self.work.bytes_since_checkpoint = 0;
                }
                JobKind::Merge => {
                    self.work.merge_running = Some(self.now);
                    self.work.rest_merging = job.is_for_rest();
                }
            }
            self.jobs.begin(job);
        }
    }

    pub(super) fn install(&mut self, done: Done) {
        let installed = self.store.install(done);
        self.work.last_asked = None;
        let begun = match installed.kind {
            JobKind::Checkpoint => self.work.checkpoint_running.take(),
            JobKind::Merge => self.work.merge_running.take(),
        };
        let millis = begun.map_or(0, |begun| (self.now - begun).as_millis() as u64);
        let kind = match installed.kind {
            JobKind::Checkpoint => "checkpoint",
            JobKind::Merge => "merge",
        };
        let shard = self.shared.id;
        self.charge();
        if installed.kind == JobKind::Merge && std::mem::take(&mut self.work.rest_merging) {
            let given_up = std::mem::take(&mut self.work.rest_given_up);
            match &installed.error {
                Some(JobError::Cancelled) if given_up => return,
                None => self.work.rest_after = REST,
                Some(_) => {}
            }
        }
        if let Some(JobError::Damaged { file, error }) = installed.error {
            self.damage_found(Damage { file, what: error.to_string(), by: FoundBy::Merge });
            self.publish(|progress| progress.jobs_failed += 1);
            return;
        }
        if let Some(error) = installed.error {
            if self.stopping.is_none() {
                tracing::warn!(shard, kind, %error, "a job failed and will be tried again");
            }
            self.work.checkpoints_fail |= installed.kind == JobKind::Checkpoint;
            self.work.failed_at = Some(self.now);
            self.publish(|progress| progress.jobs_failed += 1);
            return;
        }
        self.work.checkpoints_fail &= installed.kind != JobKind::Checkpoint;
        let now = self.shared.clock.now_millis();
        match installed.forget_up_to {
            Some(index) => {
                self.checkpoint_made(index);
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

    /// A file is not what was written: see [`crate::shard::Damage`].
    pub(super) fn damage_found(&mut self, Damage { file, what, by }: Damage) {
        let (shard, damages) = (self.shared.id, &self.shared.damages);
        if damages.has(&file) {
            return;
        }
        match self.store.note_damage(&file) {
            Remedy::NotNeeded => {}
            Remedy::Renewed => {
                damages.count(by);
                tracing::error!(
                    shard,
                    file,
                    what,
                    by = by.name(),
                    "a file is damaged, and is written anew: look at the disk"
                );
                self.work.ask_again();
            }
            Remedy::Elsewhere => {
                damages.count(by);
                // A learner may have nothing yet.
                let others = self.replica.members().votes_another(self.replica.me());
                let done = if others {
                    "a file is damaged: the shard is out of service here, until its state is fetched from another member"
                } else {
                    "a file is damaged, and there is no other member that has what was in it: what is read from it may be \
                     wrong, nothing of it is merged, and the node will not start with it again; read what you need, and \
                     restore it from a copy"
                };
                tracing::error!(shard, file, what, by = by.name(), "{done}");
                damages.note(file, what, others);
            }
        }
    }

    /// A file that was found damaged is what was written after all.
    pub(super) fn damage_refuted(&mut self, file: &str) {
        let (shard, damages) = (self.shared.id, &self.shared.damages);
        if damages.has(file) {
            self.store.note_sound(file);
            damages.forget(file);
            self.work.ask_again();
            tracing::warn!(
                shard,
                file,
                "a file that was found damaged is read right again: look at the disk, and at the memory"
            );
        }
    }

    /// Under load there are several a second: then one line for all of them now and then.
    fn tell_of_checkpoint(&mut self, index: u64, millis: u64) {
        let shard = self.shared.id;
        if self.stopping.is_none() && self.work.last_told.is_some_and(|last| self.now - last < TELL_EVERY) {
            tracing::debug!(shard, index, millis, "checkpoint");
            return;
        }
        self.work.last_told = Some(self.now);
        let checkpoints = self.shared.progress().checkpoints;
        tracing::info!(shard, index, millis, checkpoints, "checkpoint");
    }

    /// Begins a checkpoint if anything has changed since the last; whether it did.
    pub(super) fn start_last_checkpoint(&mut self) -> bool {
        match self.store.next_job() {
            Some(job) if job.kind() == JobKind::Checkpoint => {
                self.checkpoint_begins();
                self.work.checkpoint_running = Some(self.now);
                self.jobs.begin(job);
                true
            }
            // A merge is not begun any more.
            _ => false,
        }
    }
}
