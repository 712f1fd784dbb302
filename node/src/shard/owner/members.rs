//! Members: who takes part, how far each has come, and what those are given who fell too far behind.
//!
//! ```text
//!   change, transfer -> replica
//!   checkpoint: (index, term, members) of the last one, for a snapshot that is sent elsewhere
//!   install:    jobs end -> the new store takes the place of the old -> the snapshot's message goes to the replica
//!   forget:     what every member has, or what lies too far back
//! ```
//!
//! Always:
//! - the log keeps what a member that is not too far behind still needs, so that a checkpoint alone makes nobody need a
//!   snapshot;
//! - between the old state and the new no reader sees anything else: views are exchanged at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;

use loci_raft::{ELECTION_TICKS, LogIndex, MemberChange, MemberId, Members, Part, Role, Term, TransferError};
use tokio::sync::oneshot;

use super::offers::{Fetch, Offers};
use super::{Fatal, Owner};
use crate::cluster::snapshot::Stand;
use crate::log_thread::{PINNED_FILES, PINNED_FILES_MAX};
use crate::shard::{ChangeError, Fingerprint, Happened, Install, MemberProgress};

/// After so many entries each the state is remembered in a fingerprint,
const FINGERPRINT_EVERY: u64 = 64;
/// the last so many of them.
const FINGERPRINTS: usize = 256;
/// So many times as much is kept while a member is being sent a snapshot, takes it in, or goes on from there, and while this one
/// is out of service.
const SENDING_TIMES: u64 = 16;
/// Who was heard of within so many ticks counts as active.
pub(super) const ACTIVE_TICKS: u32 = 2 * ELECTION_TICKS;

/// What is known of members.
pub(super) struct Known {
    /// Of the last applied entry.
    term: Term,
    /// As of the last applied entry.
    members: Arc<Members>,
    /// What the checkpoint will hold that is under way.
    beginning: Option<Stand>,
    /// What the last checkpoint holds.
    checkpoint: Stand,
    /// Bytes of all entries applied.
    bytes: u64,
    /// Checkpoints, and what `bytes` was then.
    passed: VecDeque<(u64, u64)>,
    waiting_for_checkpoint: Vec<oneshot::Sender<Stand>>,
    waiting_for_change: Vec<(LogIndex, oneshot::Sender<Result<(), ChangeError>>)>,
    installing: Option<(Install, oneshot::Sender<()>)>,
    /// Snapshots that members were told of.
    offers: Offers,
    /// The log has so many files, the oldest for this shard; zero: not too many, or not for this one.
    pins: usize,
    /// It keeps a damaged file for this shard, until a checkpoint holds what had been applied, up to here, when that was said.
    pins_damaged: Option<u64>,
    /// No lease in this term: somebody was told to take over.
    no_lease_in: Option<Term>,
}

impl Known {
    /// What the last checkpoint holds.
    pub fn last(&self) -> &Stand {
        &self.checkpoint
    }

    pub fn new(stand: Stand) -> Known {
        Known {
            term: stand.term,
            members: stand.members.clone(),
            beginning: None,
            checkpoint: stand,
            bytes: 0,
            passed: VecDeque::new(),
            waiting_for_checkpoint: Vec::new(),
            waiting_for_change: Vec::new(),
            installing: None,
            offers: Offers::default(),
            pins: 0,
            pins_damaged: None,
            no_lease_in: None,
        }
    }

    /// Whether a snapshot waits to be installed: no job begins before.
    pub fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// An entry was applied.
    pub fn applied(&mut self, term: Term, bytes: u64) {
        self.term = term;
        self.bytes += bytes;
    }

    /// Whether all that the last checkpoint holds is to leave the log, whoever lacks it. What keeps other shards' entries on the disk
    /// is far back, however little of its own came after it; while much is kept (`long`), only once all shards together have too
    /// much. What is damaged there helps nobody, who is being sent a snapshot least of all.
    fn cuts(&mut self, long: bool) -> bool {
        let pins = std::mem::take(&mut self.pins) >= if long { PINNED_FILES_MAX } else { PINNED_FILES };
        let damaged = self.pins_damaged.take_if(|up_to| self.checkpoint.index.0 >= *up_to).is_some();
        pins || damaged
    }

    /// The last checkpoint after which more than so many bytes of entries came; zero: there is none.
    fn far_back(&self, bytes: u64) -> u64 {
        let far = self.passed.iter().take_while(|(_, passed)| self.bytes - passed > bytes);
        far.last().map_or(0, |(index, _)| *index)
    }
}

impl Owner {
    pub(super) fn change(&mut self, changes: &[MemberChange], reply: oneshot::Sender<Result<(), ChangeError>>) {
        // A leader that needed nobody may need somebody from the moment that this is committed.
        self.end_lease();
        match self.replica.change_members(changes) {
            Ok(proposed) => self.known.waiting_for_change.push((proposed.index, reply)),
            Err(error) => {
                // Whoever asked may have gone.
                let _ = reply.send(Err(error.into()));
            }
        }
    }

    pub(super) fn transfer(&mut self, to: MemberId, reply: oneshot::Sender<Result<(), ChangeError>>) {
        // Whoever asked may have gone.
        let _ = reply.send(self.hand_over(to).map_err(ChangeError::from));
    }

    pub(super) fn hand_over(&mut self, to: MemberId) -> Result<(), TransferError> {
        self.end_lease();
        // The other may take the word late, however long it was paused; in a later term it is void.
        self.known.no_lease_in = Some(self.replica.standing().term);
        self.replica.transfer(to)
    }

    pub(super) fn may_have_lease(&self) -> bool {
        self.known.no_lease_in != Some(self.replica.standing().term) && self.known.waiting_for_change.is_empty()
    }

    /// The members in force are others, as of the entry that was applied last.
    pub(super) fn members_changed(&mut self, members: Arc<Members>) {
        tracing::info!(
            shard = self.shared.id,
            voters = %listed(members.voters()),
            learners = %listed(members.learners()),
            changing = members.joint(),
            "the members are others now"
        );
        self.others_come &= members.joint() || members.all().count() > 1;
        let mut admitted = self.shared.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.retain(|member, _| members.part(*member) != Part::Removed);
        for member in members.all().filter(|member| self.known.members.part(*member) == Part::Removed) {
            admitted.insert(member, self.store.applied());
        }
        drop(admitted);
        self.known.members = Arc::clone(&members);
        *self.shared.members.lock().unwrap_or_else(PoisonError::into_inner) = Some(members);
        self.end_lease();
    }

    /// Answers those whose change of members has taken effect, or never will.
    pub(super) fn answer_changes(&mut self) {
        let leads = self.replica.standing().role == Role::Leader;
        let applied = LogIndex(self.store.applied());
        for (index, reply) in std::mem::take(&mut self.known.waiting_for_change) {
            if applied >= index && !self.known.members.joint() {
                let _ = reply.send(Ok(()));
            } else if !leads {
                let _ = reply.send(Err(ChangeError::NotLeader));
            } else {
                self.known.waiting_for_change.push((index, reply));
            }
        }
    }

    /// A snapshot of the state as it is now or later will be the next checkpoint; if nothing has changed, the last is it.
    pub(super) fn want_checkpoint(&mut self, reply: oneshot::Sender<Stand>) {
        if self.known.checkpoint.index.0 == self.store.applied() {
            let _ = reply.send(self.known.checkpoint.clone());
            return;
        }
        self.known.waiting_for_checkpoint.push(reply);
        self.store.request_checkpoint();
        self.work.ask_again();
    }

    /// A checkpoint begins: it will hold the state as of the entry that was applied last.
    pub(super) fn checkpoint_begins(&mut self) {
        let index = LogIndex(self.store.applied());
        self.shared.history.save();
        self.known.beginning = Some(Stand { index, term: self.known.term, members: self.known.members.clone() });
    }

    /// A checkpoint holds everything up to this entry.
    pub(super) fn checkpoint_made(&mut self, index: u64) {
        if let Some(stand) = self.known.beginning.take().filter(|stand| stand.index.0 == index) {
            self.known.checkpoint = stand;
        }
        self.known.passed.push_back((index, self.known.bytes));
        for reply in self.known.waiting_for_checkpoint.drain(..) {
            let _ = reply.send(self.known.checkpoint.clone());
        }
        self.forget();
    }

    /// The log has so many files because of what it keeps for this shard.
    pub(super) fn pins_log(&mut self, files: usize) {
        self.known.pins = files;
        self.forget_soon();
    }

    /// The log keeps a damaged file for this shard.
    pub(super) fn keeps_damaged(&mut self) {
        self.known.pins_damaged.get_or_insert(self.store.applied());
        self.forget_soon();
    }

    /// Lets the log forget all that has been applied, after a checkpoint.
    fn forget_soon(&mut self) {
        if self.store.applied() > self.known.checkpoint.index.0 {
            self.store.request_checkpoint();
            self.work.ask_again();
        } else {
            self.forget();
        }
    }

    /// Lets the log forget what nobody is likely to need any more.
    pub(super) fn forget(&mut self) {
        let known = &mut self.known;
        let checkpoint = known.checkpoint.index.0;
        // Everything before this lies so far back that a snapshot is the shorter way. Who is being sent one needs what comes
        // after it, or would be sent another, and another.
        let progress = self.replica.progress();
        let kept = self.options.kept_bytes;
        let matched = |member| progress.iter().find(|known| known.member == member).map(|known| known.matched);
        let usual = LogIndex(known.far_back(kept));
        known.offers.heard(matched, usual, self.now);
        let sending = progress.iter().any(|known| known.snapshot.is_some()) || known.offers.any_under_way();
        // A state that is fetched for this member is of use as long as its own log goes back there, too.
        let long = sending || self.shared.damages.is_out_of_service();
        let mut far_back = if long { known.far_back(kept * SENDING_TIMES) } else { usual.0 };
        while known.passed.front().is_some_and(|(index, _)| *index <= far_back) {
            known.passed.pop_front();
        }
        let others = self.replica.members().all().any(|member| member != self.replica.me());
        let slowest = match self.replica.standing().role {
            _ if !others => checkpoint,
            Role::Leader => progress.iter().map(|known| known.matched.0).min().unwrap_or(0),
            // Whoever leads next must be able to tell the others what they lack.
            Role::Follower | Role::Candidate => 0,
        };
        if known.cuts(long) {
            far_back = checkpoint;
        }
        let up_to = slowest.max(far_back).min(checkpoint);
        if up_to > self.replica.start().0 {
            self.replica.forget(LogIndex(up_to));
        }
    }

    /// A member needs a snapshot: the last checkpoint will do, because the log keeps everything after it.
    pub(super) fn offer_snapshot(&mut self, to: MemberId) {
        let reaches = self.known.checkpoint.index >= self.replica.unreadable();
        if !reaches || !self.shared.is_for(&self.known.checkpoint, to) {
            // It was let in after that one, or lacks what the log has after it and cannot be read: it is of no use to it. It is
            // asked for again until there is a newer one.
            if self.known.beginning.is_none() {
                self.store.request_checkpoint();
                self.work.ask_again();
            }
            return;
        }
        tracing::info!(shard = self.shared.id, member = to.0, "a member is too far behind and is offered a snapshot");
        self.replica.offer_snapshot(self.known.checkpoint.index);
    }

    /// A snapshot's message is sent: to who asked for it, or to others who lack as much.
    pub(super) fn note_offered(&mut self, to: MemberId) {
        self.known.offers.told(to, self.now);
    }

    /// A member comes for the files of a snapshot, or goes.
    pub(super) fn note_fetch(&mut self, member: MemberId, what: Fetch) {
        if self.known.offers.fetch(member, what, self.now) {
            self.replica.snapshot_sent(member, false);
        }
    }

    /// Tells the replica of snapshots that nobody came for, or of which nothing was heard again.
    pub(super) fn give_up_snapshots(&mut self) {
        for member in self.known.offers.given_up(self.now) {
            self.replica.snapshot_sent(member, false);
        }
    }

    pub(super) fn begin_install(&mut self, install: Install, done: oneshot::Sender<()>) {
        self.jobs.cancel_merges();
        self.known.installing = Some((install, done));
    }

    /// Takes the received state in the place of its own, once no job works on that.
    pub(super) fn install_snapshot(&mut self) -> Result<(), Fatal> {
        if !self.work.rests() {
            return Ok(());
        }
        let Some((install, done)) = self.known.installing.take() else { return Ok(()) };
        let Install { message, stand, open } = install;
        self.jobs.allow_merges();
        let newer = stand.index.0 > self.store.applied();
        if newer {
            let failed = |error| Fatal(format!("shard {}: a snapshot cannot be taken in: {error}", self.shared.id));
            let mut store = open().map_err(failed)?;
            if store.applied() != stand.index.0 {
                // It was damaged, and the files are what they were: so is the state in memory.
                let _ = done.send(());
                return Ok(());
            }
            store.show_in(self.shared.view.clone());
            store.listen(self.shared.listeners.listening.clone());
            self.store = store;
            self.shared.damages.clear();
            self.known.checkpoint = stand.clone();
            self.known.beginning = None;
            self.known.term = stand.term;
            self.known.passed.clear();
            self.members_changed(Arc::clone(&stand.members));
            self.work.ask_again();
            self.charge();
            let (checkpoint, now) = (self.store.applied(), self.shared.clock.now_millis());
            self.publish(|progress| (progress.checkpoint, progress.checkpoint_at_millis) = (checkpoint, now));
            self.shared.history.jump(checkpoint);
            self.shared.applied.send_replace(checkpoint);
            self.shared.listeners.tell(&self.shared.view.load(), &Happened::Jumped);
            tracing::info!(shard = self.shared.id, index = checkpoint, "a snapshot was taken in");
        }
        let _ = done.send(());
        for reply in std::mem::take(&mut self.known.waiting_for_checkpoint) {
            self.want_checkpoint(reply);
        }
        let held = self.store.applied();
        match message.snapshot_index() {
            // From somebody who was behind the leader: it is said again.
            Some(index) if index.0 > held => Ok(()),
            // The log goes on where the store does, not where the message was.
            Some(_) if newer => self.receive(message.for_snapshot(stand.index, stand.term, &stand.members)),
            _ => self.receive(message),
        }
    }

    /// Now and then, at the same entries on every member.
    pub(super) fn remember_fingerprint(&self) {
        let index = self.store.applied();
        if !index.is_multiple_of(FINGERPRINT_EVERY) {
            return;
        }
        let known = Fingerprint { index, digest: self.store.digest(), chain_head: self.store.chain_head() };
        let mut fingerprints = self.shared.fingerprints.lock().unwrap_or_else(PoisonError::into_inner);
        if fingerprints.len() == FINGERPRINTS {
            fingerprints.pop_front();
        }
        fingerprints.push_back(known);
    }

    /// What the leader knows of the others, for everybody.
    pub(super) fn publish_progress(&self) {
        let progress = self.replica.progress().into_iter().map(|known| MemberProgress {
            member: known.member,
            matched: known.matched.0,
            active: known.silent_ticks <= ACTIVE_TICKS,
            snapshot: known.snapshot.is_some(),
        });
        let progress = progress.collect();
        let log_start = self.replica.start().0;
        self.publish(|published| (published.members, published.log_start) = (progress, log_start));
    }
}

fn listed(members: &[MemberId]) -> String {
    members.iter().map(MemberId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(index: u64) -> Known {
        let members = Arc::new(Members::voting([MemberId(1), MemberId(2)]).unwrap());
        Known::new(Stand { index: LogIndex(index), term: Term(3), members })
    }

    #[test]
    fn a_long_log_is_cut_for_other_shards_later_while_much_is_kept() {
        let mut known = known(100);
        for (files, long, cuts) in [
            (0, false, false),
            (PINNED_FILES, false, true),
            (PINNED_FILES, true, false),
            (PINNED_FILES_MAX - 1, true, false),
            (PINNED_FILES_MAX, true, true),
        ] {
            known.pins = files;
            assert_eq!(known.cuts(long), cuts, "{files} files, long: {long}");
            assert!(!known.cuts(long), "once, each time that it is told");
        }
    }

    #[test]
    fn what_is_damaged_is_remembered_until_a_checkpoint_holds_it() {
        let mut known = known(100);
        known.pins_damaged = Some(150);
        for _ in 0..3 {
            assert!(!known.cuts(true), "that would leave it there");
        }
        known.checkpoint.index = LogIndex(150);
        assert!(known.cuts(true));
        assert!(!known.cuts(true));
    }
}
