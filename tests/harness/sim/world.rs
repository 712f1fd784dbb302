//! The world: what happens next, and the machines that it happens to.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use loci_index::store::{Done, Job, JobKind};
use loci_index::view::View;
use loci_node::log_thread::Request;
use loci_node::shard::{Event, GATHERING};
use loci_raft::{LogError, MemberId, Members, MemoryDisk};

use super::clients::{Call, Client, Habits, Polled, Reply, Ticket};
use super::disk::DyingDirectory;
use super::faults::Menu;
use super::here::{AtLog, End};
use super::joiners::MACHINES_MAX;
use super::machine::{Build, Machine};
use super::member::{Running, Seat};
use super::network::{Network, Weather};
use super::planted::Planted;
use super::shards::{SHARDS_MAX, Shard};
use super::tables;
use super::transfers::{Step, Streams, Transfer};
use super::{Checked, MICROS, MILLIS, NOT_WELL, Nanos, Reached, Run, SECONDS, Summary, Trace, violation};
use crate::chance::Chance;

/// How long collections may take to be made.
pub(super) const PREPARED_BY: Nanos = 30 * SECONDS;
/// Once everything works again writes get through within ten of the longest election timeouts.
const HEALED_WITHIN: Nanos = 20 * SECONDS;
/// Members are alike within the time after which a snapshot is offered again whose acknowledgement was lost.
pub(super) const ALIKE_WITHIN: Nanos = 90 * SECONDS;

/// Something that happens at its time.
pub enum Happening {
    /// A shard has its turn, unless another time was set since.
    Turn { seat: Seat, life: u64, when: Nanos },
    /// A message arrives.
    Arrives { from: usize, to: usize, bytes: Bytes, sent: Nanos },
    /// Something happens on a snapshot's stream.
    Transfer { number: u64, step: Step },
    /// A machine asks another for the state of a shard whose store is damaged.
    Mend { seat: Seat, life: u64 },
    /// A shard's files are compared with their checksums.
    Scrub { seat: Seat },
    /// A machine that was refused is removed, and another takes its place.
    Replace { at: usize, by: Option<MemberId> },
    /// A machine loses its power, unless it has already.
    PowerCut { at: usize, life: u64 },
    /// The log's sync is done.
    Synced { at: usize, life: u64 },
    /// A job is run.
    Job { seat: Seat, life: u64, job: Job },
    /// What came of it is told.
    Done { seat: Seat, life: u64, kind: JobKind, done: Done },
    /// A machine starts its process.
    Start { at: usize, life: u64 },
    /// A client does something.
    Client { client: usize },
    /// A request reaches a node.
    Request { at: usize, call: Ticket },
    /// An answer reaches a client.
    Answer { ticket: Ticket, reply: Reply },
    /// A client asks again.
    Again { ticket: Ticket },
    /// A client has waited long enough for an answer.
    Late { ticket: Ticket },
    /// A log that had no space tries again.
    Space { at: usize, life: u64 },
    /// There is space again.
    Freed { at: usize },
    /// A machine is cut off, or comes back.
    Links { at: usize, cut: bool },
    /// Something goes wrong.
    Fault,
}

/// See the module's front page.
pub struct World<'t> {
    pub(super) run: Run,
    pub(super) trace: &'t mut Trace,
    pub(super) chance: Chance,
    pub(super) now: Nanos,
    happened: u64,
    queue: BTreeMap<(Nanos, u64), Happening>,
    pub(super) machines: Vec<Machine>,
    pub(super) shards: Vec<Shard>,
    pub(super) build: Build,
    pub(super) network: Network,
    pub(super) menu: Menu,
    pub(super) habits: Habits,
    pub(super) clients: Vec<Client>,
    pub(super) streams: Streams,
    /// Snapshots on their way, by number.
    pub(super) transfers: BTreeMap<u64, Transfer>,
    pub(super) transfers_begun: u64,
    /// Planted: the view of the last search.
    pub(super) earlier: Option<Arc<View>>,
    /// The latest time of day that any machine had.
    pub(super) latest_day: u64,
    pub(super) reached: Reached,
    /// Things go wrong.
    pub(super) troubled: bool,
    /// Clients begin nothing new.
    pub(super) resting: bool,
}

impl<'t> World<'t> {
    /// A world in which nothing has happened yet.
    pub(super) fn new(run: Run, trace: &'t mut Trace) -> World<'t> {
        let mut chance = Chance::new(run.seed);
        // Apart from all else, so that a run with one shard is what it always was.
        let mut others = Chance::new(run.seed ^ 0x7368_6172_6473);
        let shards = match run.planted {
            Some(planted) => planted.shards(),
            None => [1, 1, 2, 2, SHARDS_MAX][others.index(5)],
        };
        let gathers = Chance::new(run.seed ^ 0x6761_7468_6572).percent(50);
        let size = match run.planted {
            Some(_) => 3,
            None => [1, 3, 3, 3, 3, 3, 3, 5, 5, 5][chance.index(10)],
        };
        let members = Arc::new(Members::voting((1..=size).map(MemberId)).expect("members can be founded"));
        let skewed = chance.percent(70);
        let build = Build {
            pinned_files: [3, 6, 16][others.index(3)],
            log_file_bytes: [8, 16, 64][chance.index(3)] << 10,
            checkpoint_bytes: [2, 8, 32, 1024][chance.index(4)] << 10,
            kept_bytes: [2 << 10, 8 << 10, 64 << 10, 1 << 30][chance.index(4)],
            buffer_rows_max: [8, 64, 8192][chance.index(3)],
            gathering: if gathers { GATHERING } else { Duration::ZERO },
        };
        let machines = (1..=size).map(|me| {
            // The lease allows clocks to differ by a tenth in how fast they run.
            let rate = if skewed { 1_000_000 - 45_000 + chance.below(90_001) } else { 1_000_000 };
            let offset = if skewed { chance.below(4_001) as i64 - 2_000 } else { 0 };
            Machine::new(MemberId(me), shards, rate, offset, run.planted)
        });
        let machines: Vec<Machine> = machines.collect();
        let mut weather = Weather::draw(&mut chance);
        let mut menu = match run.planted {
            Some(planted) if planted.needs_unrest() => Menu::restless(&mut chance),
            _ => Menu::draw(&mut chance),
        };
        let mut habits = Habits::draw(&mut chance);
        if run.planted == Some(Planted::RepeatWithoutId) {
            (habits.ids, habits.lost) = (100, 30);
        }
        // Last, so that a mistake made on purpose meets what it always met.
        if run.planted.is_none() && chance.percent(60) {
            menu.changes = 10 + chance.below(40);
        }
        if run.planted.is_none() && chance.percent(50) {
            menu.full = 20 + chance.below(80);
        }
        // What is drawn from elsewhere does not change what else a seed draws.
        let mut links = Chance::new(run.seed ^ 0x006c_696e_6b73);
        if run.planted.is_none() && links.percent(50) {
            menu.links = 5 + links.below(40);
        }
        if run.planted.is_none() && links.percent(15) {
            weather.lost = 1_500 + links.below(1_501);
        }
        let mut rot = Chance::new(run.seed ^ 0x0072_6f74);
        if run.planted.is_none() && rot.percent(30) {
            (menu.rot, menu.unreadable) = (10 + rot.below(30), [0, 10, 30][rot.index(3)]);
            menu.rots = rot.below(30);
        }
        if let Some(planted) = run.planted {
            menu.rot = 0;
            (menu.changes, menu.full) = planted.changes_and_full_disks();
        }
        World {
            run,
            trace,
            now: 0,
            happened: 0,
            queue: BTreeMap::new(),
            machines,
            shards: (0..shards).map(|_| Shard::new(Arc::clone(&members))).collect(),
            build,
            network: Network::new(MACHINES_MAX, weather),
            menu,
            streams: Streams::draw(&mut Chance::new(run.seed ^ 0x7374_7265_616d)),
            transfers: BTreeMap::new(),
            transfers_begun: 0,
            earlier: None,
            clients: (0..habits.clients).map(|client| Client::new(client, shards)).collect(),
            habits,
            latest_day: 0,
            reached: Reached::default(),
            troubled: false,
            resting: false,
            chance,
        }
    }

    /// Runs it from the beginning to the end.
    pub(super) fn run(mut self) -> Checked<Summary> {
        self.prepare()?;
        let began = self.now;
        self.troubled = true;
        self.after(self.menu.every, Happening::Fault);
        for client in 0..self.clients.len() {
            self.after(MILLIS, Happening::Client { client });
        }
        self.go_on_until(began + self.run.seconds * SECONDS, |_| false)?;
        self.heal();
        let healed = self.now;
        for shard in 0..self.shards.len() {
            self.clients[0].script.push((shard, Client::probe()));
        }
        self.after(MILLIS, Happening::Client { client: 0 });
        let written = self.go_on_until(healed + HEALED_WITHIN, |world| world.clients.iter().all(Client::is_idle))?;
        let alike = written && self.go_on_until(healed + ALIKE_WITHIN, |world| world.all_alike())?;
        if !alike {
            let seconds = if written { ALIKE_WITHIN } else { HEALED_WITHIN } / SECONDS;
            return violation(format!("{seconds} s {NOT_WELL}: {}", self.describe()));
        }
        self.reached
            .count("members that took long to be like the others", u64::from(self.now > healed + HEALED_WITHIN));
        let undecided = self.check_end()?;
        let hash = self.trace.hash;
        Ok(Summary { hash, nanos: self.now, reached: self.reached, undecided })
    }

    /// Starts all machines, and has a client make the collections that all use.
    pub(super) fn prepare(&mut self) -> Checked {
        for at in 0..self.machines.len() {
            self.start(at)?;
        }
        for shard in 0..self.shards.len() {
            let cache_bytes = tables::room(&mut self.chance);
            let commands = Client::preparation(cache_bytes);
            self.clients[0].script.extend(commands.into_iter().map(|command| (shard, command)));
        }
        self.reached.count("runs with several shards", u64::from(self.shards.len() > 1));
        self.at(0, Happening::Client { client: 0 });
        match self.go_on_until(PREPARED_BY, |world| world.clients[0].is_idle())? {
            true => Ok(()),
            false => violation("collections could not be made in a cluster where nothing is wrong"),
        }
    }

    /// Lets things happen until a time, or until something is so; whether it was.
    pub(super) fn go_on_until(&mut self, until: Nanos, is_so: impl Fn(&World<'_>) -> bool) -> Checked<bool> {
        while let Some(first) = self.queue.first_entry() {
            if first.key().0 > until {
                break;
            }
            let ((when, _), happening) = first.remove_entry();
            self.now = self.now.max(when);
            self.happen(happening)?;
            if is_so(self) {
                return Ok(true);
            }
        }
        self.now = self.now.max(until);
        Ok(false)
    }

    /// At a time, something will happen.
    pub(super) fn at(&mut self, when: Nanos, happening: Happening) {
        self.happened += 1;
        self.queue.insert((when, self.happened), happening);
    }

    /// After a while, something will happen.
    pub(super) fn after(&mut self, wait: Nanos, happening: Happening) {
        self.at(self.now + wait, happening);
    }

    /// The process of that life, if it still runs.
    fn lives(&self, at: usize, life: u64) -> bool {
        self.machines[at].process.is_some() && self.machines[at].life == life
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        let on = match &happening {
            Happening::Turn { seat, .. } | Happening::Job { seat, .. } | Happening::Done { seat, .. } => Some(seat.at),
            Happening::Synced { at, .. } | Happening::Space { at, .. } | Happening::Request { at, .. } => Some(*at),
            Happening::Arrives { to, .. } => Some(*to),
            Happening::Transfer { number, step } => self.acts(*number, *step),
            _ => None,
        };
        if let Some(at) = on {
            let until = self.machines[at].paused_until;
            if until > self.now {
                // Its kernel goes on: what comes for the process waits for it.
                self.at(until, happening);
                return Ok(());
            }
            self.machines[at].set_clock(self.now);
            self.latest_day = self.latest_day.max(self.machines[at].day_millis(self.now));
        }
        match happening {
            Happening::Turn { seat, life, when } => {
                let running = self.machines[seat.at].running(seat.shard);
                if running.is_some_and(|running| running.turn_at == Some(when)) && self.lives(seat.at, life) {
                    self.turn(seat)?;
                }
            }
            Happening::Arrives { from, to, sent, .. } if self.network.is_reset(from, to, sent) => {}
            Happening::Arrives { from, to, bytes, .. } => self.arrives(from, to, &bytes),
            Happening::Transfer { number, step } => self.transfer(number, step)?,
            Happening::Mend { seat, life } => self.mend(seat, life)?,
            Happening::Scrub { seat } => self.scrub(seat),
            Happening::Replace { at, by } => self.replace(at, by)?,
            Happening::PowerCut { at, life } => {
                if self.troubled && self.lives(at, life) {
                    self.reached.mark("power cuts soon after a snapshot had come");
                    self.cut_power(at);
                }
            }
            Happening::Synced { at, life } => {
                if self.lives(at, life) {
                    self.synced(at)?;
                }
            }
            Happening::Job { seat, life, job } => {
                if self.lives(seat.at, life) {
                    self.run_job(seat, job);
                }
            }
            Happening::Done { seat, life, kind, done } => {
                if !self.lives(seat.at, life) {
                    return Ok(());
                }
                self.reached.mark(if kind == JobKind::Checkpoint { "checkpoints" } else { "merges" });
                self.take(seat, Event::JobDone(done))?;
            }
            Happening::Start { at, life } => {
                if self.machines[at].process.is_none() && self.machines[at].life == life {
                    self.start(at)?;
                }
            }
            Happening::Client { client } => self.client(client),
            Happening::Request { at, call } => self.request(at, call)?,
            Happening::Answer { ticket, reply } => self.answer(ticket, reply)?,
            Happening::Again { ticket } => self.again(ticket),
            Happening::Late { ticket } => self.late(ticket),
            Happening::Space { at, life } => {
                if self.lives(at, life) {
                    self.machines[at].process.as_mut().into_iter().for_each(|process| process.full = false);
                    self.begin_log(at)?;
                }
            }
            // What has healed stays so.
            Happening::Links { .. } if !self.troubled => {}
            Happening::Links { at, cut: true } => self.network.split(|member| member == at),
            Happening::Links { at, cut: false } => self.network.join(at),
            Happening::Freed { at } => self.machines[at].disk.set_capacity(None),
            Happening::Fault => self.strike()?,
        }
        Ok(())
    }

    /// Tells an owner of something; it has a turn soon.
    pub(super) fn take(&mut self, seat: Seat, event: Event) -> Checked {
        let machine = &mut self.machines[seat.at];
        machine.set_clock(self.now);
        let Some(process) = &mut machine.process else { return Ok(()) };
        if let Err(fatal) = process.running[seat.shard].driven.owner.take(event) {
            return violation(format!("member {} stopped: {fatal}", machine.me));
        }
        self.wake(seat);
        Ok(())
    }

    /// The owner has a turn soon, because there is something to do.
    pub(super) fn wake(&mut self, seat: Seat) {
        let wait = match self.chance.below(20) {
            0 => self.chance.below(3 * MILLIS),
            _ => self.chance.below(60 * MICROS),
        };
        self.turn_after(seat, wait);
    }

    fn turn_after(&mut self, seat: Seat, wait: Nanos) {
        let when = self.now + wait;
        let Some(process) = &mut self.machines[seat.at].process else { return };
        let running = &mut process.running[seat.shard];
        if running.turn_at.is_none_or(|set| set > when) && !running.driven.owner.is_done() {
            running.turn_at = Some(when);
            let life = self.machines[seat.at].life;
            self.at(when, Happening::Turn { seat, life, when });
        }
    }

    /// An owner's turn, and everything that follows from it.
    fn turn(&mut self, seat: Seat) -> Checked {
        let Seat { at, shard } = seat;
        let machine = &mut self.machines[at];
        let Some(process) = &mut machine.process else { return Ok(()) };
        let mut at_log = process.log.lock().unwrap_or_else(PoisonError::into_inner);
        at_log.busy = !process.syncing.is_empty() || machine.slow_until > self.now;
        at_log.troubled = self.troubled;
        drop(at_log);
        let Running { driven, turn_at, .. } = &mut process.running[shard];
        *turn_at = None;
        let mut done = Ok(());
        while let Ok(event) = driven.events.try_recv() {
            done = done.and_then(|()| driven.owner.take(event));
        }
        if let Err(fatal) = done.and_then(|()| driven.owner.turn()) {
            return violation(format!("member {} stopped: {fatal}", machine.me));
        }
        if driven.owner.replica().hands_over() && driven.handle.status().queued > 0 {
            self.reached.mark("turns at which writes waited for a lead that is handed over");
        }
        if driven.owner.gives_way() {
            self.reached.mark("leads handed on because of a disk");
        }
        let mut at_log = process.at_log();
        let (end, [here, before, after]) = (at_log.end.take(), std::mem::take(&mut at_log.counts));
        drop(at_log);
        let replaced = machine.take_requests();
        self.reached.count("entries replaced by another leader's", replaced);
        self.reached.count("appends that a shard's own thread synced", here);
        self.reached.count("processes that ended between such an append and its sync", before);
        self.reached.count("processes that ended after such a sync, before anybody heard of it", after);
        match end {
            None => {}
            Some(End::Power) => {
                self.cut_power(at);
                return Ok(());
            }
            Some(End::Kill) => {
                self.kill(at);
                return Ok(());
            }
            Some(End::Failed(error)) => return self.log_failed(at, &error),
        }
        self.begin_log(at)?;
        self.send(seat);
        self.observe(seat)?;
        self.begin_jobs(seat);
        self.poll_calls(seat)?;
        self.poll_transfers(seat)?;
        self.look_for_damage(seat);
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        if process.running.iter().all(|running| running.driven.owner.is_done()) {
            return self.end(at);
        }
        let idle = process.real(process.running[shard].driven.owner.idle_for());
        self.turn_after(seat, idle.max(MICROS));
        Ok(())
    }

    fn begin_jobs(&mut self, seat: Seat) {
        let life = self.machines[seat.at].life;
        let Some(running) = self.machines[seat.at].running(seat.shard) else { return };
        let jobs: Vec<Job> = running.driven.jobs.try_iter().collect();
        for job in jobs {
            let wait = match self.chance.below(4) {
                0 => self.chance.below(800 * MILLIS),
                _ => self.chance.below(20 * MILLIS),
            };
            self.after(wait, Happening::Job { seat, life, job });
        }
    }

    fn run_job(&mut self, seat: Seat, job: Job) {
        let dies = self.troubled && self.chance.percent(self.menu.job_dies);
        let changes = if dies { 1 + self.chance.below(4) } else { u64::MAX };
        let machine = &self.machines[seat.at];
        let directory = DyingDirectory::new(machine.members[seat.shard].place.store.clone(), changes);
        let (life, kind) = (machine.life, job.kind());
        let done = job.run(&directory, &AtomicBool::new(false));
        if directory.is_dead() {
            self.reached.mark("power cuts in the middle of a checkpoint or merge");
            return self.cut_power(seat.at);
        }
        let wait = self.chance.below(5 * MILLIS);
        self.after(wait, Happening::Done { seat, life, kind, done });
    }

    /// Polls the calls that wait on a node.
    pub(super) fn poll_calls(&mut self, seat: Seat) -> Checked {
        let Some(process) = &mut self.machines[seat.at].process else { return Ok(()) };
        let calls = &mut process.running[seat.shard].calls;
        let mut answered: Vec<(Call, Polled)> = Vec::new();
        let mut waiting = Vec::new();
        for mut call in std::mem::take(calls) {
            match call.poll() {
                Some(polled) => answered.push((call, polled)),
                None => waiting.push(call),
            }
        }
        *calls = waiting;
        for (call, polled) in answered {
            self.called(seat, call, polled)?;
        }
        Ok(())
    }

    /// A process that was told to stop has.
    fn end(&mut self, at: usize) -> Checked {
        let Some(process) = self.machines[at].process.take() else { return Ok(()) };
        process.at_log().troubled = false;
        let super::machine::Process { running, log, requests, queue, .. } = process;
        let mut calls = Vec::new();
        for running in running {
            calls.extend(running.calls);
            if let Err(fatal) = running.driven.owner.finish() {
                return violation(format!("member {} could not stop: {fatal}", self.machines[at].me));
            }
        }
        let log = Arc::try_unwrap(log).map(|at_log| at_log.into_inner().unwrap_or_else(PoisonError::into_inner));
        let Ok(AtLog { mut log, end, .. }) = log else {
            return violation("a shard that has ended is still at the log");
        };
        let mut done = match end {
            Some(End::Failed(error)) => Err(error),
            _ => Ok(()),
        };
        for request in queue.into_iter().chain(requests.try_iter()) {
            if let Request::Append { batch, .. } = request {
                done = done.and_then(|()| log.append(&batch));
            }
        }
        let closed = done.and_then(|()| log.close());
        let failing = std::mem::take(&mut self.machines[at].sync_fails);
        self.machines[at].disk.memory.heal();
        self.machines[at].disks(MemoryDisk::kill);
        self.end_transfers(at);
        self.break_calls(calls);
        self.reached.mark("processes that stopped as they were told");
        // It is killed then: nobody heard of what found no space.
        let full = matches!(closed, Err(LogError::Full { .. }));
        if full {
            self.reached.mark("processes that were told to stop while their disk was full");
        }
        if let Err(error) = closed
            && !failing
            && !full
        {
            return violation(format!("the log of member {} could not be closed: {error}", self.machines[at].me));
        }
        self.start_later(at);
        Ok(())
    }
}
