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
use super::world::World;
use super::{Checked, violation};

/// So many machines are there at most, those that have gone included.
pub const MACHINES_MAX: usize = 8;
/// So many members are there at most at a time.
const MEMBERS_MAX: usize = 5;

impl World<'_> {
    /// Whoever leads is asked for a change of members.
    pub(super) fn change_members(&mut self) -> Checked {
        let Some(leader) = self.leader().filter(|leader| self.machines[*leader].is_awake(self.now)) else {
            return Ok(());
        };
        let Some(members) = self.members_of(leader) else { return Ok(()) };
        let voter = self.one_of(members.voters());
        let learner = self.one_of(members.learners());
        let changes = match (self.chance.below(8), voter, learner) {
            (0..=2, ..) if members.all().count() < MEMBERS_MAX => match self.outsider(&members)? {
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
        for change in &changes {
            if let MemberChange::Remove(member) = change {
                // It may be so even if nobody hears of it.
                self.may_be_gone.insert(*member);
            }
        }
        let numbers: Vec<u64> = changes.iter().map(|change| change.member().0).collect();
        self.trace.note(self.now, "members are to change", &numbers);
        self.reached.mark("changes of members asked for");
        let (reply, _) = tokio::sync::oneshot::channel();
        self.take(leader, Event::Change { changes, reply })
    }

    fn one_of(&mut self, members: &[MemberId]) -> Option<MemberId> {
        (!members.is_empty()).then(|| members[self.chance.index(members.len())])
    }

    /// The members in force as a machine knows them.
    fn members_of(&self, at: usize) -> Option<Arc<Members>> {
        self.machines[at].process.as_ref().map(|process| Arc::clone(process.driven.owner.replica().members()))
    }

    /// A machine that is no member and may become one: one that has asked already, or a new one.
    fn outsider(&mut self, members: &Members) -> Checked<Option<MemberId>> {
        let waits = |machine: &&Machine| {
            machine.joins.is_some() && !members.contains(machine.me) && !self.may_be_gone.contains(&machine.me)
        };
        if let Some(waiting) = self.machines.iter().find(waits) {
            return Ok(Some(waiting.me));
        }
        if self.machines.len() == MACHINES_MAX {
            return Ok(None);
        }
        let me = MemberId(self.machines.len() as u64 + 1);
        let Ok(joins) = Members::with_learners(members.voters().iter().copied(), [me]) else {
            return violation(format!("member {me} cannot be a learner"));
        };
        let rate = 1_000_000 - 45_000 + self.chance.below(90_001);
        let offset = self.chance.below(4_001) as i64 - 2_000;
        let mut machine = Machine::new(me, rate, offset, self.run.planted);
        machine.joins = Some(Arc::new(joins));
        self.machines.push(machine);
        self.reached.mark("machines that asked to join");
        self.start(self.machines.len() - 1)?;
        Ok(Some(me))
    }

    /// The machines of the members in force, as whoever leads knows them; none while they change, or nobody leads.
    pub(super) fn in_force(&self) -> Option<Vec<usize>> {
        let members = self.members_of(self.leader()?).filter(|members| !members.joint())?;
        Some(members.all().map(|member| member.0 as usize - 1).collect())
    }
}
