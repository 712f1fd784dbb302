//! Changes of members: who may ask for one, when each step takes effect, and how the removed get to know.
//!
//! ```text
//!  change_members            committed             committed
//!    entry: enter  -- ... --> in force: joint ...... in force: the new voters
//!                             leader: entry: leave -- ... --^
//!                                             leader: empty entry -- committed: farewell to the removed
//! ```
//!
//! Always:
//! - A step takes effect on a member when its entry is handed out as committed, in its place in the log.
//!   After a restart the members are those as of what the store holds, and later steps are taken again.
//! - Whoever leads and finds the members joint proposes to leave, once everything before is applied. That
//!   is a rule about the state, so it survives any change of leaders; the core's automatic leaving hangs
//!   on an event that a new leader may have missed.
//! - A leader proposes a step only when the one before it is committed and applied. So a member that has a
//!   step in its log may take every earlier one for committed, even where a crash cut off the frame that
//!   said so. Otherwise it could, under members that were replaced twice, be elected beside another.
//! - A leader that is no voter any more steps down with the entry that says so.
//! - Whoever is removed stays, without a vote of its own and answering those who ask for one, until a leader
//!   says farewell. Others may not know that the change has ended, and count on it: of two voters one of
//!   which is removed, the other cannot lead without it before it knows. A leader says farewell when an
//!   entry is committed that it appended under the new members: a majority of them has then written down,
//!   together with that entry, that the change is committed.
//! - "You are removed as of entry 9" is true forever for everyone who knows less than entry 9. Where a number
//!   comes again, its node has thrown away all but the votes that it gave: it is a learner, and gives no vote
//!   before it has a snapshot from after its coming.

use std::sync::Arc;

use bytes::Bytes;
use raft::ProgressState;

use super::effects::{ChangeError, MembersChanged, Progress, Proposed, Role};
use super::{ELECTION_TICKS, JOINING_INDEX, Replica, convert};
use crate::entry::{Entry, EntryKind, LogIndex, MemberId, Term};
use crate::members::{MemberChange, Members, Part};
use crate::message::{Message, MessageKind};

/// A learner that lacks more entries than this is not promoted.
const PROMOTE_LAG_MAX: u64 = 1024;
/// Who was heard within so many ticks counts as alive.
const ALIVE_TICKS: u32 = 2 * ELECTION_TICKS;

impl Replica {
    /// Proposes a change of members, any number of parts at once. It takes effect in two steps, each of
    /// them an entry, and has ended when [`Effects::members`](crate::Effects::members) shows members that
    /// are not joint; where it stands is the first of the two.
    ///
    /// Like any proposal it may be lost with its leader. One that would leave too few living voters, or
    /// promote a learner that is not caught up, is refused.
    pub fn change_members(&mut self, changes: &[MemberChange]) -> Result<Proposed, ChangeError> {
        self.flush();
        if self.role() != Role::Leader {
            return Err(ChangeError::NotLeader { leader: self.leader() });
        }
        if self.node.raft.lead_transferee.is_some() {
            return Err(ChangeError::Transferring);
        }
        if !self.node.raft.commit_to_current_term() {
            return Err(ChangeError::TooNew);
        }
        if self.members().joint() || self.node.raft.has_pending_conf() {
            return Err(ChangeError::UnderWay);
        }
        let next = self.members().enter(changes)?;
        for change in changes {
            if let MemberChange::Promote(member) = change {
                self.check_caught_up(*member)?;
            }
        }
        let needed = next.voters().len() / 2 + 1;
        // Who waits for a snapshot acknowledges nothing before it has it, which may take long.
        let progress = |voter: MemberId| self.node.raft.prs().get(voter.0).map(|progress| progress.state);
        let waits = |voter: MemberId| progress(voter) == Some(ProgressState::Snapshot);
        let acknowledges = |voter: &&MemberId| self.silent_ticks_of(**voter) <= ALIVE_TICKS && !waits(**voter);
        let alive = next.voters().iter().filter(acknowledges).count();
        if alive < needed {
            return Err(ChangeError::NoQuorum { alive, needed });
        }
        Ok(self.append_members(&next))
    }

    /// For a leader: where each member stands, in ascending order of members.
    pub fn progress(&self) -> Vec<Progress> {
        if self.role() != Role::Leader {
            return Vec::new();
        }
        let members = self.members();
        let known = |member: MemberId| {
            let progress = self.node.raft.prs().get(member.0)?;
            let sending = progress.state == ProgressState::Snapshot;
            Some(Progress {
                member,
                part: members.part(member),
                leaving: members.joint()
                    && !members.voters().contains(&member)
                    && !members.learners().contains(&member),
                matched: LogIndex(progress.matched),
                snapshot: sending.then_some(LogIndex(progress.pending_snapshot)),
                silent_ticks: self.silent_ticks_of(member),
            })
        };
        members.all().filter_map(known).collect()
    }

    /// The members as of an applied entry that is not forgotten: what a snapshot of the store at that entry
    /// needs beside its data, should it become the beginning of a log.
    pub fn members_at(&self, index: LogIndex) -> Option<Arc<Members>> {
        let shelf = self.node.store();
        (shelf.start() <= index && index <= self.handed).then(|| Arc::clone(shelf.members_at(index)))
    }

    pub(super) fn part(&self) -> Part {
        match self.members().part(self.me) {
            _ if self.told_removed.is_some() => Part::Removed,
            Part::Removed => Part::Leaving,
            part => part,
        }
    }

    /// The members changed to these, which do or do not include this one.
    pub(super) fn members_known(&mut self, index: LogIndex, members: &Members) {
        if members.contains(self.me) && self.told_removed.is_some_and(|told| index >= told) {
            self.told_removed = None;
        }
    }

    /// A committed entry changes members. None if it cannot follow those in force.
    pub(super) fn follow_change(&mut self, entry: &Entry) -> Option<MembersChanged> {
        let index = entry.index;
        let before = Arc::clone(self.members());
        let members = self.node.mut_store().change_members(index, &entry.data)?;
        let change = convert::change_to_raft(&before, &members);
        let state = self.node.apply_conf_change(&change).expect("the core takes members that follow those it has");
        debug_assert_eq!(convert::members_from_raft(&state).as_ref(), Ok(&*members));
        self.members_known(index, &members);
        if self.role() == Role::Leader {
            for member in members.all().filter(|member| !before.contains(*member)) {
                self.heard.insert(member, self.ticks);
            }
            self.parting.extend(before.all().filter(|member| !members.contains(*member)));
            self.members_since = self.last_index();
            if members.part(self.me) == Part::Voter && !members.joint() {
                let appended = self.node.raft.append_entry(&mut [raft::eraftpb::Entry::default()]);
                assert!(appended, "the core refuses nothing for its size");
                self.node.raft.bcast_append();
            } else if members.part(self.me) != Part::Voter {
                let term = self.node.raft.term;
                // The core would go on leading, and stop the process when it looks for its own progress.
                self.node.raft.become_follower(term, raft::INVALID_ID);
            }
        }
        Some(MembersChanged { index, members })
    }

    /// The second step of a change, if this leader can take it now.
    pub(super) fn leave_joint(&mut self) {
        let raft = &self.node.raft;
        let may = self.role() == Role::Leader
            && self.members().joint()
            && raft.lead_transferee.is_none()
            && raft.commit_to_current_term()
            && !raft.has_pending_conf();
        if may {
            let next = self.members().leave();
            self.append_members(&next);
        }
    }

    /// Time passes for a member that cannot campaign: without a leader it asks whether it is still one.
    pub(super) fn wait_for_leader(&mut self) {
        self.unheard_ticks = self.unheard_ticks.saturating_add(1);
        if !matches!(self.part(), Part::Learner | Part::Leaving) || self.unheard_ticks < ALIVE_TICKS {
            return;
        }
        if self.leader().is_some() {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
        if self.unheard_ticks.is_multiple_of(ELECTION_TICKS) {
            let others: Vec<MemberId> = self.members().all().filter(|member| *member != self.me).collect();
            for member in others {
                self.say(member, MessageKind::Present);
            }
        }
    }

    /// Somebody who takes no part asks for something.
    pub(super) fn say_farewell(&mut self, to: MemberId) {
        if self.members_are_known() {
            self.say(to, MessageKind::Farewell);
        }
    }

    /// Those who were removed are not needed any more, if that is so.
    pub(super) fn say_farewells(&mut self) {
        if self.role() != Role::Leader {
            self.parting.clear();
        } else if !self.parting.is_empty() && self.members_are_known() {
            for member in std::mem::take(&mut self.parting) {
                self.say(member, MessageKind::Farewell);
            }
        }
    }

    /// This member leads, and a majority has written down that the members in force are.
    fn members_are_known(&self) -> bool {
        self.standing().settled && self.committed_index() > self.members_since && !self.members().joint()
    }

    /// As of this committed entry, others say, this member takes no part. It may know better.
    pub(super) fn hear_farewell(&mut self, index: LogIndex) {
        let news = index > self.handed || self.part() == Part::Leaving;
        if news && !self.joining() && self.role() != Role::Leader {
            self.told_removed = self.told_removed.max(Some(index));
        }
    }

    fn say(&mut self, to: MemberId, kind: MessageKind) {
        self.outbox.push(Message {
            shard: self.shard,
            to,
            from: self.me,
            kind,
            reject: false,
            term: self.term(),
            log_term: Term(0),
            index: self.handed,
            commit: LogIndex(0),
            commit_term: Term(0),
            reject_hint: LogIndex(0),
            context: Bytes::new(),
            entries: Vec::new(),
        });
    }

    /// It still waits for its first snapshot, and its members are only whom to expect it from.
    pub(super) fn joining(&self) -> bool {
        self.start() == JOINING_INDEX
    }

    fn append_members(&mut self, members: &Members) -> Proposed {
        let entry = Entry {
            index: LogIndex(0),
            term: Term(0),
            kind: EntryKind::Members,
            context: Bytes::new(),
            data: members.to_bytes(),
        };
        let raft = &mut self.node.raft;
        // Not by way of a proposal, whose data the core would parse.
        let appended = raft.append_entry(&mut [convert::entry_to_raft(entry)]);
        assert!(appended, "the core refuses nothing for its size");
        raft.pending_conf_index = raft.raft_log.last_index();
        raft.bcast_append();
        Proposed { index: self.last_index(), term: self.term() }
    }

    fn check_caught_up(&self, member: MemberId) -> Result<(), ChangeError> {
        let last = self.last_index();
        let progress = self.node.raft.prs().get(member.0);
        let matched = LogIndex(progress.map_or(0, |progress| progress.matched));
        let caught_up = matched >= self.start() && matched.0 + PROMOTE_LAG_MAX >= last.0;
        if caught_up && self.silent_ticks_of(member) <= ALIVE_TICKS {
            Ok(())
        } else {
            Err(ChangeError::NotCaughtUp { member, matched, last })
        }
    }

    fn silent_ticks_of(&self, member: MemberId) -> u32 {
        if member == self.me {
            return 0;
        }
        let heard = self.heard.get(&member).copied().unwrap_or_default().max(self.leading_since);
        u32::try_from(self.ticks - heard).unwrap_or(u32::MAX)
    }
}
