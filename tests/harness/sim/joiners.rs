//! Members that change while things go wrong: machines join as learners, get a vote, lose it, and go for good.
//!
//! ```text
//!   founding members ---------------------> voters <--> learners --> gone, and never back under that number
//!   new machine, empty disks --> asks to join ----------^
//! ```

use std::sync::Arc;

use loci_node::shard::Event;
use loci_raft::{MemberChange, MemberId, Members};

use super::machine::Machine;
use super::member::Seat;
use super::planted::Planted;
use super::world::World;
use super::{Checked, violation};

/// So many machines are there at most, those that have gone included.
pub const MACHINES_MAX: usize = 8;
/// So many members are there at most at a time.
const MEMBERS_MAX: usize = 5;

impl World<'_> {
    /// Whoever leads is asked for a change of members.
    pub(super) fn change_members(&mut self) -> Checked {
        let shard = self.any_shard();
        let Some(leader) = self.leader(shard).filter(|leader| self.machines[*leader].is_awake(self.now)) else {
            return Ok(());
        };
        let seat = Seat { at: leader, shard };
        let Some(members) = self.members_of(seat) else { return Ok(()) };
        // Nobody removes another voter while one is away for good.
        let waits = |machine: &Machine| {
            machine.members[shard].believes.is_some() || (machine.refused && members.contains(machine.me))
        };
        if self.machines.iter().any(waits) {
            return Ok(());
        }
        if self.run.planted == Some(Planted::ChangeInOneStep) && members.learners().len() == 2 {
            self.change_in_one_step(seat, &members);
            return Ok(());
        }
        let voter = self.one_of(members.voters());
        let learner = self.one_of(members.learners());
        let learners_only = matches!(self.run.planted, Some(Planted::ChangeInOneStep | Planted::LearnersVoteCounts));
        let kind = if learners_only { 0 } else { self.chance.below(8) };
        let changes = match (kind, voter, learner) {
            (0..=2, ..) if members.all().count() < MEMBERS_MAX => match self.outsider(shard, &members)? {
                Some(new) => vec![MemberChange::AddLearner(new)],
                None => return Ok(()),
            },
            (3..=4, _, Some(learner)) => vec![MemberChange::Promote(learner)],
            (5, Some(voter), Some(learner)) => vec![MemberChange::Promote(learner), MemberChange::Remove(voter)],
            (6, _, Some(learner)) => vec![MemberChange::Remove(learner)],
            (6, Some(voter), None) if members.voters().len() > 1 => vec![MemberChange::Remove(voter)],
            (7, Some(voter), _) if members.voters().len() > 1 => vec![MemberChange::Demote(voter)],
            _ => return Ok(()),
        };
        // Nor while files are damaged, noticed or not: fewer voters might be too few that are sound.
        let is_damaged = |machine: &Machine| machine.members.iter().any(|member| member.damaged || member.rotten);
        let fewer = |change: &MemberChange| {
            matches!(change, MemberChange::Remove(_) | MemberChange::Demote(_))
                && members.voters().contains(&change.member())
        };
        if changes.iter().any(fewer) && self.machines.iter().any(is_damaged) {
            return Ok(());
        }
        for change in &changes {
            if let MemberChange::Remove(member) = change {
                // It may be so even if nobody hears of it.
                self.shards[shard].may_be_gone.insert(*member);
            }
        }
        let numbers: Vec<u64> = changes.iter().map(|change| change.member().0).collect();
        self.trace.note(self.now, "members are to change", &numbers);
        self.reached.mark("changes of members asked for");
        let (reply, _) = tokio::sync::oneshot::channel();
        self.take(seat, Event::Change { changes, reply })
    }

    /// One voter stays, and learners take the place of the others: all of them believe so once they start again, soon.
    fn change_in_one_step(&mut self, seat: Seat, members: &Members) {
        let Seat { at: leader, shard } = seat;
        let Some(stays) = self.one_of(members.voters()) else { return };
        let voters: Vec<MemberId> = members.learners().iter().copied().chain([stays]).collect();
        let Ok(next) = Members::voting(voters.iter().copied()) else { return };
        let next = Arc::new(next);
        for voter in voters {
            let at = voter.0 as usize - 1;
            self.machines[at].members[shard].believes = Some(Arc::clone(&next));
            self.kill(at);
        }
        self.trace.note(self.now, "members change in one step", &[leader as u64, stays.0]);
        self.reached.mark("changes in one step");
    }

    fn one_of(&mut self, members: &[MemberId]) -> Option<MemberId> {
        (!members.is_empty()).then(|| members[self.chance.index(members.len())])
    }

    /// The members in force as a machine knows them.
    pub(super) fn members_of(&self, seat: Seat) -> Option<Arc<Members>> {
        let running = self.machines[seat.at].running(seat.shard)?;
        Some(Arc::clone(running.driven.owner.replica().members()))
    }

    /// A machine that is no member and may become one: one that has asked already, or a new one.
    pub(super) fn outsider(&mut self, shard: usize, members: &Members) -> Checked<Option<MemberId>> {
        let gone = &self.shards[shard].may_be_gone;
        let waits = |machine: &&Machine| {
            let asks = machine.members[shard].joins.is_some() && !machine.refused;
            asks && !members.contains(machine.me) && !gone.contains(&machine.me)
        };
        if let Some(waiting) = self.machines.iter().find(waits) {
            return Ok(Some(waiting.me));
        }
        if self.machines.len() == MACHINES_MAX {
            return Ok(None);
        }
        let me = MemberId(self.machines.len() as u64 + 1);
        let rate = 1_000_000 - 45_000 + self.chance.below(90_001);
        let offset = self.chance.below(4_001) as i64 - 2_000;
        let mut machine = Machine::new(me, self.shards.len(), rate, offset, self.run.planted);
        for (other, member) in machine.members.iter_mut().enumerate() {
            // It asks to join all of them. Of the other shards it knows whom somebody knew to be in force.
            let voters = match self.leader(other) {
                _ if other == shard => members.voters().to_vec(),
                Some(at) => {
                    self.members_of(Seat { at, shard: other }).map_or(Vec::new(), |known| known.voters().to_vec())
                }
                None => self.shards[other].founders.voters().to_vec(),
            };
            let Ok(joins) = Members::with_learners(voters, [me]) else {
                return violation(format!("member {me} cannot be a learner"));
            };
            member.joins = Some(Arc::new(joins));
        }
        self.machines.push(machine);
        self.reached.mark("machines that asked to join");
        self.start(self.machines.len() - 1)?;
        Ok(Some(me))
    }

    /// The machines of the members in force, as whoever leads knows them; none while they change, or nobody leads.
    pub(super) fn in_force(&self, shard: usize) -> Option<Vec<usize>> {
        let members = self.members_of(Seat { at: self.leader(shard)?, shard }).filter(|members| !members.joint())?;
        Some(members.all().map(|member| member.0 as usize - 1).collect())
    }
}
