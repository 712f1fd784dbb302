//! What each fault does, and how machines come back.

use loci_index::directory::Fault as DirectoryFault;
use loci_node::shard::Event;
use loci_raft::{FOUNDING_INDEX, MemoryDisk, Role};

use super::clients::{Call, Reply};
use super::faults::Fault;
use super::machine::Process;
use super::member::Seat;
use super::network::Weather;
use super::planted::Planted;
use super::troubles::Trouble;
use super::world::{Happening, World};
use super::{Checked, MILLIS, SECONDS, violation};

impl World<'_> {
    /// Something goes wrong.
    pub(super) fn strike(&mut self) -> Checked {
        if !self.troubled {
            return Ok(());
        }
        let wait = self.chance.below(self.menu.every) + MILLIS;
        self.after(wait, Happening::Fault);
        let (fault, name) = self.menu.choose(&mut self.chance);
        let size = self.machines.len();
        let mut at = self.chance.index(size);
        if matches!(fault, Fault::LeaderPowerCut | Fault::LeaderPause | Fault::IsolateLeader) {
            let shard = self.any_shard();
            at = self.leader(shard).unwrap_or(at);
        }
        self.trace.note(self.now, name, &[at as u64]);
        match fault {
            Fault::PowerCut | Fault::LeaderPowerCut => self.cut_power(at),
            Fault::Blackout => (0..size).for_each(|at| self.cut_power(at)),
            Fault::Kill => {
                if self.machines[at].process.is_some() {
                    self.reached.mark("kills");
                    self.kill(at);
                }
            }
            Fault::Stop => {
                let awake = self.machines[at].is_awake(self.now);
                if let Some(process) = &mut self.machines[at].process
                    && awake
                    && !std::mem::replace(&mut process.stopping, true)
                {
                    for shard in 0..self.shards.len() {
                        self.take(Seat { at, shard }, Event::Stop)?;
                    }
                }
            }
            Fault::Transfer => {
                let shard = self.any_shard();
                let leader = self.leader(shard).filter(|leader| self.machines[*leader].is_awake(self.now));
                if let Some(leader) = leader
                    && leader != at
                {
                    self.reached.mark("leaders asked to hand over");
                    let (reply, _) = tokio::sync::oneshot::channel();
                    self.take(Seat { at: leader, shard }, Event::Transfer { to: self.machines[at].me, reply })?;
                }
            }
            Fault::Pause | Fault::LeaderPause => {
                if self.machines[at].is_awake(self.now) {
                    self.reached.mark("pauses");
                    self.machines[at].paused_until = self.now + self.chance.below(self.menu.paused);
                }
            }
            Fault::Isolate | Fault::IsolateLeader => self.network.split(|member| member == at),
            Fault::Split => {
                let sides: Vec<bool> = (0..size).map(|_| self.chance.percent(50)).collect();
                self.network.split(|member| sides.get(member).is_some_and(|left| *left));
            }
            Fault::OneWay => {
                let to = self.chance.index(size);
                if at != to {
                    self.network.cut(at, to);
                }
            }
            Fault::Heal => self.network.heal(),
            Fault::Bridge => {
                self.reached.mark("bridges between two sides");
                let sides: Vec<bool> = (0..size).map(|_| self.chance.percent(50)).collect();
                self.network.bridge(at, |member| sides.get(member).is_some_and(|left| *left));
            }
            Fault::Swizzle => {
                self.reached.mark("machines cut off one after another");
                for cut in [true, false] {
                    let mut when = if cut { 0 } else { SECONDS };
                    let mut left: Vec<usize> = (0..size).collect();
                    while !left.is_empty() {
                        let at = left.swap_remove(self.chance.index(left.len()));
                        when += self.chance.below(SECONDS);
                        self.after(when, Happening::Links { at, cut });
                    }
                }
            }
            Fault::Reset => {
                let other = self.chance.index(size);
                self.reached.mark("connections reset");
                self.network.reset(at, other, self.now);
            }
            Fault::Change => self.change_members()?,
            Fault::Rot => self.rot_while_running(at),
            Fault::DiskFull => {
                // As often as not that of a leader, who then refuses writes.
                if self.chance.percent(50) {
                    let shard = self.any_shard();
                    at = self.leader(shard).unwrap_or(at);
                }
                let used = self.machines[at].disk.memory.used();
                let left = self.chance.below(3) * self.build.log_file_bytes;
                self.machines[at].disk.set_capacity(Some(used + left));
                let wait = self.chance.below(5 * SECONDS);
                self.after(wait, Happening::Freed { at });
            }
            Fault::ClockJump => {
                let most: i64 = [200, 5_000, 3_600_000][self.chance.index(3)];
                let jump = self.chance.below(2 * most as u64 + 1) as i64 - most;
                self.machines[at].offset_millis = (self.machines[at].offset_millis + jump).clamp(-3_600_000, 3_600_000);
                self.reached.mark("times of day that jumped");
            }
            Fault::SyncFails => {
                if self.machines[at].process.is_some() {
                    self.machines[at].disk.memory.fail_sync(1);
                    self.machines[at].sync_fails = true;
                }
            }
            Fault::SlowDisk => self.machines[at].slow_until = self.now + self.chance.below(4 * SECONDS),
            Fault::JobFails => {
                let shard = self.any_shard();
                let member = &self.machines[at].members[shard];
                if !member.founded {
                    // It has no store yet that could fail.
                    return Ok(());
                }
                let fault = if self.chance.percent(50) { DirectoryFault::Full } else { DirectoryFault::Broken };
                let nth = self.chance.below(4);
                if self.chance.percent(50) {
                    member.place.store.fail_write(nth, fault);
                } else {
                    member.place.store.fail_sync(nth, fault);
                }
            }
        }
        Ok(())
    }

    /// Who leads a shard, as far as anybody says so.
    pub(super) fn leader(&self, shard: usize) -> Option<usize> {
        let leads = |at: &usize| {
            let running = self.machines[*at].running(shard);
            running.is_some_and(|running| running.standing.role == Role::Leader)
        };
        let term = |at: &usize| self.machines[*at].running(shard).map(|running| running.standing.term);
        (0..self.machines.len()).filter(leads).max_by_key(term)
    }

    /// The power of a machine is cut, and comes back.
    pub(super) fn cut_power(&mut self, at: usize) {
        if self.machines[at].process.is_none() {
            return;
        }
        self.reached.mark("power cuts");
        let machine = &mut self.machines[at];
        let calls = machine.process.take().map(Process::into_calls);
        machine.disk.memory.heal();
        machine.disks(|disk| disk.crash(self.chance.next_u64()));
        (machine.sync_fails, machine.paused_until) = (false, 0);
        self.end_transfers(at);
        match self.run.planted {
            Some(Planted::WipedMemberVotes) if self.chance.percent(50) => self.machines[at].wipe(),
            Some(Planted::CutAtAnyBadFrame) => self.cut_log(at),
            _ => {}
        }
        self.break_calls(calls.unwrap_or_default());
        self.start_later(at);
    }

    /// As a recovery would leave the log that finds a bad frame near its end and takes it for a torn tail.
    fn cut_log(&mut self, at: usize) {
        let memory = &self.machines[at].disk.memory;
        let names = loci_raft::Disk::list(memory).unwrap_or_default();
        let Some(name) = names.into_iter().filter(|name| !name.starts_with("spare")).max() else { return };
        let Some(bytes) = memory.bytes(&name) else { return };
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let cut = used.saturating_sub(self.chance.below(2048) as usize);
        if cut > 1024 {
            memory.damage(&name, |bytes| bytes[cut..].fill(0));
        }
    }

    /// A process dies; what it wrote is with the kernel.
    pub(super) fn kill(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let calls = machine.process.take().map(Process::into_calls);
        machine.disk.memory.heal();
        machine.disks(MemoryDisk::kill);
        (machine.sync_fails, machine.paused_until) = (false, 0);
        self.end_transfers(at);
        self.break_calls(calls.unwrap_or_default());
        self.start_later(at);
    }

    /// Those who waited for answers hear that the connection broke.
    pub(super) fn break_calls(&mut self, calls: Vec<Call>) {
        for call in calls {
            self.reply(call.ticket, Reply::Broken);
        }
    }

    /// A machine whose process ended starts another.
    pub(super) fn start_later(&mut self, at: usize) {
        if self.machines[at].refused {
            return;
        }
        let life = self.machines[at].life;
        let wait = self.chance.below(self.menu.down) + MILLIS;
        self.after(wait, Happening::Start { at, life });
    }

    /// A machine starts its process.
    pub(super) fn start(&mut self, at: usize) -> Checked {
        // It was meant to before it was refused.
        if self.machines[at].refused {
            return Ok(());
        }
        let seed = self.chance.next_u64();
        let trouble = self.draw_trouble(at);
        let founders: Vec<_> = self.shards.iter().map(|shard| shard.founders.clone()).collect();
        let build = self.build.clone();
        let machine = &mut self.machines[at];
        // One that finds its disk full does not start.
        machine.disk.set_capacity(None);
        let started = machine.start(&founders, &build, seed, self.now);
        machine.disk.memory.heal();
        machine.members.iter().for_each(|member| member.place.store.heal_reads());
        let recovered = match started {
            Ok(recovered) => recovered,
            Err(error) => return self.start_failed(at, error, trouble),
        };
        if let Some(Trouble::Rotten(rotten)) = &trouble
            && machine.is_needed(rotten)
        {
            return violation(format!("member {} started with {} damaged", machine.me, rotten.name));
        }
        if recovered.cut.is_some() {
            self.reached.mark("torn tails cut");
        }
        if recovered.clean {
            self.reached.mark("logs found closed");
        }
        self.trace.note(self.now, "starts", &[at as u64, self.machines[at].life]);
        for shard in 0..self.shards.len() {
            if let Some(running) = self.machines[at].running(shard)
                && running.driven.owner.store().applied() > FOUNDING_INDEX.0
            {
                self.reached.mark("stores opened at a checkpoint");
            }
            let seat = Seat { at, shard };
            self.observe(seat)?;
            self.wake(seat);
        }
        Ok(())
    }

    /// From now on everything works; pauses run out.
    pub(super) fn heal(&mut self) {
        self.troubled = false;
        self.resting = true;
        self.network.heal();
        self.network.weather = Weather::fair();
        self.streams = self.streams.fair();
        self.habits.lost = 0;
        for at in 0..self.machines.len() {
            let machine = &mut self.machines[at];
            machine.slow_until = 0;
            machine.disk.memory.heal();
            machine.disk.set_capacity(None);
            machine.sync_fails = false;
            for shard in 0..self.shards.len() {
                self.scrub(Seat { at, shard });
            }
            let machine = &self.machines[at];
            if machine.process.is_none() && !machine.refused {
                let life = machine.life;
                self.after(MILLIS, Happening::Start { at, life });
            }
        }
    }
}
