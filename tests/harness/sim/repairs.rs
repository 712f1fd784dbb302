//! How machines come back whose files are damaged, as the documents say that they do.
//!
//! ```text
//!   a store    is fetched from another member: before the process starts, or while it runs, which then starts anew
//!   the log    is refused: the machine is removed, and another with empty disks takes its place under a number of its own
//! ```
//!
//! Always: of the machines that vote in a shard a majority is sound, and so has all that was acknowledged.

use loci_node::shard::Event;
use loci_raft::{MemberChange, MemberId, Part};

use super::member::Seat;
use super::transfers::Purpose;
use super::world::{Happening, World};
use super::{Checked, MILLIS};

/// How often whoever leads is asked to remove a machine that was refused, and to let in another.
const ASK_EVERY: u64 = 500 * MILLIS;

impl World<'_> {
    /// Whether the files of a machine may be damaged: what is in them is then safe with others, in every shard.
    pub(super) fn may_be_damaged(&self, at: usize) -> bool {
        (0..self.shards.len()).all(|shard| {
            let Some(leader) = self.leader(shard) else { return false };
            let Some(members) = self.members_of(Seat { at: leader, shard }).filter(|members| !members.joint()) else {
                return false;
            };
            let is_sound = |member: &&MemberId| {
                let machine = &self.machines[member.0 as usize - 1];
                // One shard's damage keeps a process from all of them.
                let is_damaged = machine.members.iter().any(|member| member.damaged || member.rotten);
                machine.me != self.machines[at].me && !machine.refused && !is_damaged
            };
            let sound = members.voters().iter().filter(is_sound).count();
            members.part(self.machines[at].me) != Part::Removed && 2 * sound > members.voters().len()
        })
    }

    /// A machine asks another for the state of a shard whose store is damaged.
    pub(super) fn mend(&mut self, seat: Seat, life: u64) -> Checked {
        let Seat { at, shard } = seat;
        let machine = &mut self.machines[at];
        if machine.life != life || machine.refused {
            return Ok(());
        }
        if let Some(process) = &mut machine.process {
            let running = &mut process.running[shard];
            running.mends &= running.driven.handle.is_out_of_service();
            if !running.mends || process.stopping {
                // A snapshot has taken its place, or what was fetched is about to.
                return Ok(());
            }
            self.hand_over(seat)?;
        } else if self.has_left(seat) {
            // Nobody gives it the state, and it does not start without: it is replaced as one whose log is damaged.
            self.reached.mark("machines with a damaged store of a shard that they had left");
            self.machines[at].refused = true;
            self.after(ASK_EVERY, Happening::Replace { at, by: None });
            return Ok(());
        }
        let has_it = |other: &usize| {
            let handle = self.machines[*other].handle(shard);
            *other != at && handle.is_some_and(|handle| !handle.is_out_of_service())
        };
        let others: Vec<usize> = (0..self.machines.len()).filter(has_it).collect();
        if others.is_empty() || self.is_fetching(seat) {
            self.after(ASK_EVERY, Happening::Mend { seat, life });
            return Ok(());
        }
        let from = others[self.chance.index(others.len())];
        self.begin_transfer(from, seat, Purpose::Mend);
        Ok(())
    }

    /// Whether a machine takes part in a shard no longer, as whoever leads knows.
    fn has_left(&self, seat: Seat) -> bool {
        let Some(leader) = self.leader(seat.shard) else { return false };
        let members = self.members_of(Seat { at: leader, shard: seat.shard }).filter(|members| !members.joint());
        members.is_some_and(|members| members.part(self.machines[seat.at].me) == Part::Removed)
    }

    /// Whoever leads with a damaged store asks another to lead.
    fn hand_over(&mut self, seat: Seat) -> Checked {
        let me = self.machines[seat.at].me;
        let leads = self.machines[seat.at].handle(seat.shard).is_some_and(|handle| handle.leader() == Some(me));
        let Some(members) = self.members_of(seat).filter(|_| leads) else { return Ok(()) };
        let others: Vec<MemberId> = members.voters().iter().copied().filter(|voter| *voter != me).collect();
        if others.is_empty() {
            return Ok(());
        }
        let to = others[self.chance.index(others.len())];
        let (reply, _) = tokio::sync::oneshot::channel();
        self.take(seat, Event::Transfer { to, reply })
    }

    /// A shard that finds a file of its store damaged while it runs has the state fetched.
    pub(super) fn look_for_damage(&mut self, seat: Seat) {
        let Seat { at, shard } = seat;
        let life = self.machines[at].life;
        let Some(process) = &mut self.machines[at].process else { return };
        let running = &mut process.running[shard];
        if running.driven.handle.is_out_of_service() && !std::mem::replace(&mut running.mends, true) {
            self.reached.mark("shards out of service because of a damaged file");
            self.after(ASK_EVERY, Happening::Mend { seat, life });
        }
    }

    /// What a machine has fetched for a damaged store is there: it starts with it, once it does not run.
    pub(super) fn mended(&mut self, seat: Seat) -> Checked {
        let Seat { at, shard } = seat;
        let machine = &mut self.machines[at];
        machine.members[shard].damaged = true;
        let Some(process) = &mut machine.process else { return self.start(at) };
        if !std::mem::replace(&mut process.stopping, true) {
            for shard in 0..self.shards.len() {
                self.take(Seat { at, shard }, Event::Stop)?;
            }
        }
        Ok(())
    }

    /// A machine whose log was refused is removed from the shards, and one with empty disks takes its place: by whoever leads, one
    /// change after the other.
    pub(super) fn replace(&mut self, at: usize, by: Option<MemberId>) -> Checked {
        let (gone, mut by) = (self.machines[at].me, by);
        let mut done = true;
        for shard in 0..self.shards.len() {
            let leader = self.leader(shard).filter(|leader| self.machines[*leader].is_awake(self.now));
            let seat = leader.map(|at| Seat { at, shard });
            let known = seat.and_then(|seat| Some((seat, self.members_of(seat)?)));
            let Some((seat, members)) = known.filter(|(_, members)| !members.joint()) else {
                done = false;
                continue;
            };
            let change = match (members.part(gone), by) {
                (Part::Removed, None) => {
                    by = self.outsider(shard, &members)?;
                    by.map(MemberChange::AddLearner)
                }
                (Part::Removed, Some(new)) => match members.part(new) {
                    Part::Removed if self.shards[shard].may_be_gone.contains(&new) => None,
                    Part::Removed => Some(MemberChange::AddLearner(new)),
                    Part::Learner => Some(MemberChange::Promote(new)),
                    Part::Voter | Part::Leaving => None,
                },
                _ => {
                    self.shards[shard].may_be_gone.insert(gone);
                    Some(MemberChange::Remove(gone))
                }
            };
            let Some(change) = change else { continue };
            done = false;
            self.trace.note(self.now, "members are to change", &[change.member().0]);
            let (reply, _) = tokio::sync::oneshot::channel();
            self.take(seat, Event::Change { changes: vec![change], reply })?;
        }
        match done {
            true => self.reached.mark("machines with a damaged log that were replaced"),
            false => self.after(ASK_EVERY, Happening::Replace { at, by }),
        }
        Ok(())
    }
}
