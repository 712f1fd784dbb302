//! The world: what happens next, and the machines that it happens to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use loci_index::store::{Done, Job, JobKind, checkpoint_files};
use loci_node::cluster::snapshot::Stand;
use loci_node::log_thread::{Report, Request};
use loci_node::shard::Event;
use loci_raft::{Append, Change, LogError, LogIndex, MemberId, Members, Message, Part};

use super::clients::{Call, Client, Habits, Polled, Reply, Ticket};
use super::disk::DyingDirectory;
use super::faults::Menu;
use super::here::{AtLog, End};
use super::histories::Histories;
use super::joiners::MACHINES_MAX;
use super::machine::{Build, Machine};
use super::network::{Network, Weather};
use super::oracle::Oracle;
use super::planted::Planted;
use super::tables;
use super::{Checked, MICROS, MILLIS, NOT_WELL, Nanos, Reached, Run, SECONDS, Summary, Trace, violation};
use crate::chance::Chance;

/// A log is asked for so many bytes more than twice what is needed, as the log's thread does it.
const RESERVED_MORE: u64 = 8192;
/// How long collections may take to be made.
const PREPARED_BY: Nanos = 30 * SECONDS;
/// Once everything works again writes get through within ten of the longest election timeouts.
const HEALED_WITHIN: Nanos = 20 * SECONDS;
/// Members are alike within the time after which a snapshot is offered again whose acknowledgement was lost.
const ALIKE_WITHIN: Nanos = 90 * SECONDS;

/// Something that happens at its time.
pub enum Happening {
    /// A shard has its turn, unless another time was set since.
    Turn { at: usize, life: u64, when: Nanos },
    /// A message arrives.
    Arrives { from: usize, to: usize, bytes: Bytes },
    /// A snapshot arrives, with its message.
    Snapshot { from: usize, to: usize, bytes: Bytes },
    /// The log's sync is done.
    Synced { at: usize, life: u64 },
    /// A job is run.
    Job { at: usize, life: u64, job: Job },
    /// What came of it is told.
    Done { at: usize, life: u64, kind: JobKind, done: Done },
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
    /// Members whose removal was asked for.
    pub(super) may_be_gone: BTreeSet<MemberId>,
    /// Those that found the shard.
    pub(super) members: Arc<Members>,
    pub(super) build: Build,
    pub(super) network: Network,
    pub(super) menu: Menu,
    pub(super) habits: Habits,
    pub(super) clients: Vec<Client>,
    pub(super) histories: Histories,
    pub(super) oracle: Oracle,
    /// Who led in which term.
    pub(super) leaders: BTreeMap<u64, usize>,
    /// The newest index that any answer stood at.
    pub(super) answered: u64,
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
        let size = match run.planted {
            Some(_) => 3,
            None => [1, 3, 3, 3, 3, 3, 3, 5, 5, 5][chance.index(10)],
        };
        let members = Members::voting((1..=size).map(MemberId)).expect("members can be founded");
        let skewed = chance.percent(70);
        let build = Build {
            log_file_bytes: [8, 16, 64][chance.index(3)] << 10,
            checkpoint_bytes: [2, 8, 32, 1024][chance.index(4)] << 10,
            kept_bytes: [2 << 10, 8 << 10, 64 << 10, 1 << 30][chance.index(4)],
            buffer_rows_max: [8, 64, 8192][chance.index(3)],
        };
        let machines = (1..=size).map(|me| {
            // The lease allows clocks to differ by a tenth in how fast they run.
            let rate = if skewed { 1_000_000 - 45_000 + chance.below(90_001) } else { 1_000_000 };
            let offset = if skewed { chance.below(4_001) as i64 - 2_000 } else { 0 };
            Machine::new(MemberId(me), rate, offset, run.planted)
        });
        let machines: Vec<Machine> = machines.collect();
        let weather = Weather::draw(&mut chance);
        let mut menu = match run.planted {
            Some(Planted::ForgetTheVote) => Menu::restless(&mut chance),
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
            menu.full = 5 + chance.below(20);
        }
        World {
            run,
            trace,
            now: 0,
            happened: 0,
            queue: BTreeMap::new(),
            machines,
            may_be_gone: BTreeSet::new(),
            members: Arc::new(members),
            build,
            network: Network::new(MACHINES_MAX, weather),
            menu,
            clients: (0..habits.clients).map(Client::new).collect(),
            habits,
            histories: Histories::default(),
            oracle: Oracle::default(),
            leaders: BTreeMap::new(),
            answered: 0,
            latest_day: 0,
            reached: Reached::default(),
            troubled: false,
            resting: false,
            chance,
        }
    }

    /// Runs it from the beginning to the end.
    pub(super) fn run(mut self) -> Checked<Summary> {
        for at in 0..self.machines.len() {
            self.start(at)?;
        }
        let cache_bytes = tables::room(&mut self.chance);
        self.clients[0].script = Client::preparation(cache_bytes);
        self.at(0, Happening::Client { client: 0 });
        let prepared = self.go_on_until(PREPARED_BY, |world| world.clients[0].is_idle())?;
        if !prepared {
            return violation("collections could not be made in a cluster where nothing is wrong");
        }
        let began = self.now;
        self.troubled = true;
        self.after(self.menu.every, Happening::Fault);
        for client in 0..self.clients.len() {
            self.after(MILLIS, Happening::Client { client });
        }
        self.go_on_until(began + self.run.seconds * SECONDS, |_| false)?;
        self.heal();
        let healed = self.now;
        self.clients[0].script.push(Client::probe());
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

    /// Lets things happen until a time, or until something is so; whether it was.
    fn go_on_until(&mut self, until: Nanos, is_so: impl Fn(&World<'_>) -> bool) -> Checked<bool> {
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
            Happening::Turn { at, .. } | Happening::Synced { at, .. } | Happening::Space { at, .. } => Some(*at),
            Happening::Job { at, .. } => Some(*at),
            Happening::Done { at, .. } | Happening::Request { at, .. } => Some(*at),
            Happening::Arrives { to, .. } | Happening::Snapshot { to, .. } => Some(*to),
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
            Happening::Turn { at, life, when } => {
                if self.lives(at, life) && self.machines[at].process.as_ref().is_some_and(|p| p.turn_at == Some(when)) {
                    self.turn(at)?;
                }
            }
            Happening::Arrives { from, to, bytes } => self.arrives(from, to, &bytes),
            Happening::Snapshot { from, to, bytes } => self.snapshot_arrives(from, to, bytes)?,
            Happening::Synced { at, life } => {
                if self.lives(at, life) {
                    self.synced(at)?;
                }
            }
            Happening::Job { at, life, job } => {
                if self.lives(at, life) {
                    self.run_job(at, job);
                }
            }
            Happening::Done { at, life, kind, done } => {
                if !self.lives(at, life) {
                    return Ok(());
                }
                self.reached.mark(if kind == JobKind::Checkpoint { "checkpoints" } else { "merges" });
                self.take(at, Event::JobDone(done))?;
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
            Happening::Freed { at } => self.machines[at].disk.memory.set_capacity(None),
            Happening::Fault => self.strike()?,
        }
        Ok(())
    }

    /// Tells the owner of something; it has a turn soon.
    pub(super) fn take(&mut self, at: usize, event: Event) -> Checked {
        let machine = &mut self.machines[at];
        machine.set_clock(self.now);
        let Some(process) = &mut machine.process else { return Ok(()) };
        if let Err(fatal) = process.driven.owner.take(event) {
            return violation(format!("member {} stopped: {fatal}", machine.me));
        }
        self.wake(at);
        Ok(())
    }

    /// The owner has a turn soon, because there is something to do.
    pub(super) fn wake(&mut self, at: usize) {
        let wait = match self.chance.below(20) {
            0 => self.chance.below(3 * MILLIS),
            _ => self.chance.below(60 * MICROS),
        };
        self.turn_after(at, wait);
    }

    fn turn_after(&mut self, at: usize, wait: Nanos) {
        let when = self.now + wait;
        let Some(process) = &mut self.machines[at].process else { return };
        if process.turn_at.is_none_or(|set| set > when) {
            process.turn_at = Some(when);
            let life = self.machines[at].life;
            self.at(when, Happening::Turn { at, life, when });
        }
    }

    /// The owner's turn, and everything that follows from it.
    fn turn(&mut self, at: usize) -> Checked {
        let machine = &mut self.machines[at];
        let Some(process) = &mut machine.process else { return Ok(()) };
        process.turn_at = None;
        let mut at_log = process.at_log();
        at_log.busy = process.syncing.is_some() || machine.slow_until > self.now;
        at_log.troubled = self.troubled;
        drop(at_log);
        let mut done = Ok(());
        while let Ok(event) = process.driven.events.try_recv() {
            done = done.and_then(|()| process.driven.owner.take(event));
        }
        if let Err(fatal) = done.and_then(|()| process.driven.owner.turn()) {
            return violation(format!("member {} stopped: {fatal}", machine.me));
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
        self.send(at);
        self.observe(at)?;
        self.begin_jobs(at);
        self.poll_calls(at)?;
        let Some(process) = &self.machines[at].process else { return Ok(()) };
        if process.driven.owner.is_done() {
            return self.end(at);
        }
        let idle = process.real(process.driven.owner.idle_for());
        self.turn_after(at, idle.max(MICROS));
        Ok(())
    }

    fn begin_jobs(&mut self, at: usize) {
        let life = self.machines[at].life;
        let Some(process) = &self.machines[at].process else { return };
        let jobs: Vec<Job> = process.driven.jobs.try_iter().collect();
        for job in jobs {
            let wait = match self.chance.below(4) {
                0 => self.chance.below(800 * MILLIS),
                _ => self.chance.below(20 * MILLIS),
            };
            self.after(wait, Happening::Job { at, life, job });
        }
    }

    fn run_job(&mut self, at: usize, job: Job) {
        let dies = self.troubled && self.chance.percent(self.menu.job_dies);
        let changes = if dies { 1 + self.chance.below(4) } else { u64::MAX };
        let directory = DyingDirectory::new(self.machines[at].directory.clone(), changes);
        let (life, kind) = (self.machines[at].life, job.kind());
        let done = job.run(&directory, &AtomicBool::new(false));
        if directory.is_dead() {
            self.reached.mark("power cuts in the middle of a checkpoint or merge");
            return self.cut_power(at);
        }
        let wait = self.chance.below(5 * MILLIS);
        self.after(wait, Happening::Done { at, life, kind, done });
    }

    /// What the log's thread does with what is queued: one write, and one sync if anybody waits for it.
    fn begin_log(&mut self, at: usize) -> Checked {
        let planted = self.run.planted;
        let machine = &mut self.machines[at];
        let Some(process) = &mut machine.process else { return Ok(()) };
        if process.syncing.is_some() || process.queue.is_empty() || process.full {
            return Ok(());
        }
        let mut last = None;
        let mut done = Ok(());
        let mut reports = Vec::new();
        let mut at_log = process.log.lock().unwrap_or_else(PoisonError::into_inner);
        while done.is_ok()
            && let Some(request) = process.queue.pop_front()
        {
            let taken = match &request {
                Request::Append { batch, .. } if planted == Some(Planted::ForgetTheVote) => {
                    let is_vote = |append: &&Append| matches!(append.change, Change::HardState(_));
                    at_log.log.append(&batch.iter().filter(|append| !is_vote(append)).cloned().collect::<Vec<_>>())
                }
                Request::Append { batch, .. } => at_log.log.append(batch),
                Request::Reserve { bytes, .. } => at_log.log.reserve(2 * bytes + RESERVED_MORE),
                other => return violation(format!("the shard asked for {other:?} of a log without a thread")),
            };
            match (taken, request) {
                (Ok(()), Request::Append { mark, bytes, .. }) => {
                    process.figures.done(bytes);
                    last = mark.or(last);
                }
                (Ok(()), _) => reports.push(Report::Room),
                (Err(LogError::Full { needed, .. }), request) => {
                    reports.push(Report::Full { needed_bytes: needed });
                    // An append waits until there is space, and what comes after it waits, in order.
                    if matches!(request, Request::Append { .. }) {
                        self.reached.mark("appends that waited for space");
                        process.queue.push_front(request);
                        process.full = true;
                        break;
                    }
                }
                (Err(error), _) => done = Err(error),
            }
        }
        process.syncing = last;
        let done = done.and_then(|()| at_log.log.write());
        drop(at_log);
        if let Err(error) = done {
            return self.log_failed(at, &error);
        }
        if process.full {
            let life = machine.life;
            self.after(200 * MILLIS, Happening::Space { at, life });
        }
        for report in reports {
            self.take(at, Event::Log(report))?;
        }
        let machine = &mut self.machines[at];
        if last.is_some() {
            let slow = machine.slow_until > self.now;
            let life = machine.life;
            let wait = match (slow, self.chance.below(50)) {
                (true, _) => self.chance.below(900 * MILLIS),
                (false, 0) => self.chance.below(60 * MILLIS),
                (false, _) => 80 * MICROS + self.chance.below(MILLIS),
            };
            self.after(wait, Happening::Synced { at, life });
        }
        Ok(())
    }

    fn synced(&mut self, at: usize) -> Checked {
        let Some(process) = &mut self.machines[at].process else { return Ok(()) };
        let Some(mark) = process.syncing.take() else { return Ok(()) };
        let lies = self.run.planted == Some(Planted::AcknowledgeBeforeSync) && self.chance.below(20) > 0;
        let synced = if lies { Ok(()) } else { process.at_log().log.sync() };
        if let Err(error) = synced {
            return self.log_failed(at, &error);
        }
        self.trace.note(self.now, "synced", &[at as u64]);
        self.take(at, Event::Log(Report::Synced(mark)))?;
        self.begin_log(at)
    }

    /// The first failure of the log ends the process.
    fn log_failed(&mut self, at: usize, error: &LogError) -> Checked {
        if !std::mem::take(&mut self.machines[at].sync_fails) {
            return violation(format!("the log of member {} failed by itself: {error}", self.machines[at].me));
        }
        self.reached.mark("processes that ended because a sync failed");
        self.kill(at);
        Ok(())
    }

    /// Sends what the shard has for others.
    fn send(&mut self, at: usize) {
        let Some(process) = &self.machines[at].process else { return };
        let messages: Vec<Message> =
            std::mem::take(&mut *process.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        for message in messages {
            let to = message.to().0 as usize - 1;
            if let Some(index) = message.snapshot_index() {
                self.trace.note(self.now, "snapshot", &[at as u64, to as u64, index.0]);
                let wait = self.chance.below(200 * MILLIS);
                self.after(wait, Happening::Snapshot { from: at, to, bytes: Bytes::from(message.encode()) });
                continue;
            }
            let mut bytes = message.encode();
            let delays = self.network.travel(&mut self.chance, at, to);
            if delays.is_empty() || self.machines[to].process.is_none() {
                // A connection that does not work is noticed, sometimes.
                if self.chance.percent(20)
                    && let Some(handle) = self.machines[at].handle()
                {
                    handle.unreachable(message.to());
                    self.wake(at);
                }
            }
            if self.chance.below(10_000) < self.network.weather.damaged {
                let bit = self.chance.below(bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            let bytes = Bytes::from(bytes);
            for delay in delays {
                self.after(delay, Happening::Arrives { from: at, to, bytes: bytes.clone() });
            }
        }
    }

    fn arrives(&mut self, from: usize, to: usize, bytes: &Bytes) {
        if self.network.is_cut(from, to) {
            return;
        }
        self.trace.note(self.now, "arrives", &[from as u64, to as u64, u64::from(crc32fast::hash(bytes))]);
        let Some(handle) = self.machines[to].handle() else { return };
        match Message::decode(bytes) {
            Ok(message) => handle.receive(message),
            Err(_) => return self.reached.mark("damaged messages refused"),
        }
        self.wake(to);
    }

    /// A snapshot's message is handed over with its files, which are fetched until they are here.
    fn snapshot_arrives(&mut self, from: usize, to: usize, bytes: Bytes) -> Checked {
        let reachable = !self.network.is_cut(from, to) && !self.network.is_cut(to, from);
        if !reachable || self.machines[from].process.is_none() || self.machines[to].process.is_none() {
            self.after(300 * MILLIS, Happening::Snapshot { from, to, bytes });
            return Ok(());
        }
        let Ok(message) = Message::decode(&bytes) else { return violation("a snapshot's message is damaged") };
        let source = self.machines[from].directory.clone();
        let Ok((_, applied, _)) = checkpoint_files(&source) else { return Ok(()) };
        // The mistake can be made where there is an entry after the last.
        let off = self.run.planted == Some(Planted::SnapshotOffByOne) && applied < self.oracle.applied();
        let applied = applied + u64::from(off);
        let (index, term) = (LogIndex(applied), self.oracle.term(applied));
        let Some(process) = &self.machines[from].process else { return Ok(()) };
        let (owner, real) = (&process.driven.owner, LogIndex(applied - u64::from(off)));
        let known = owner.replica().members_at(real);
        // What the program would send, where it has it in memory.
        let stand = Some(owner.checkpoint()).filter(|stand| stand.index == real);
        if let (Some(stand), Some(known)) = (stand, &known)
            && stand.members != *known
        {
            return violation(format!("member {from} keeps other members with its checkpoint than its log has"));
        }
        let known = stand.map(|stand| Arc::clone(&stand.members)).or(known);
        // Whoever is no member as of it is not given one.
        let takes_part = |members: &Arc<Members>| members.part(self.machines[to].me) != Part::Removed;
        let Some(members) = known.filter(takes_part) else { return Ok(()) };
        let stand = Stand { index, term, members };
        if let Some(install) = self.machines[to].install(message, stand, &source, &self.build) {
            let (done, _) = tokio::sync::oneshot::channel();
            self.take(to, Event::Install { install: Box::new(install), done })?;
        }
        Ok(())
    }

    /// Polls the calls that wait on a node.
    pub(super) fn poll_calls(&mut self, at: usize) -> Checked {
        let Some(process) = &mut self.machines[at].process else { return Ok(()) };
        let mut answered: Vec<(Call, Polled)> = Vec::new();
        let mut waiting = Vec::new();
        for mut call in std::mem::take(&mut process.calls) {
            match call.poll() {
                Some(polled) => answered.push((call, polled)),
                None => waiting.push(call),
            }
        }
        process.calls = waiting;
        for (call, polled) in answered {
            self.called(at, call, polled)?;
        }
        Ok(())
    }

    /// A process that was told to stop has.
    fn end(&mut self, at: usize) -> Checked {
        let Some(process) = self.machines[at].process.take() else { return Ok(()) };
        process.at_log().troubled = false;
        let super::machine::Process { driven, log, requests, queue, calls, .. } = process;
        if let Err(fatal) = driven.owner.finish() {
            return violation(format!("member {} could not stop: {fatal}", self.machines[at].me));
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
        self.machines[at].disk.memory.kill();
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
