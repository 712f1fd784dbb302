//! A machine: a disk and a clock that outlive the process that runs on it, and its part in each shard. All of them share the
//! disk and the log, as in the program.
//!
//! ```text
//!   disk, clock's rate and offset, members' directories    stay, as a power cut or a kill leaves them
//!   process: log, and for each shard what runs of it       gone with each crash, made anew from the disk
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use loci_index::store::StoreOptions;
use loci_node::clock::Clock;
use loci_node::log_thread::{Here, LogFigures, LogHandle, Request, Safety};
use loci_node::shard::ShardHandle;
use loci_raft::{Append, Change, LogOptions, MemberId, Members, MemoryDisk, Recovered, SyncMark};

use super::clients::Call;
use super::disk::SimDisk;
use super::here::AtLog;
use super::member::{Member, Running, StartError};
use super::planted::Planted;
use super::promises::{Promises, PromisingLog};
use super::{MILLIS, Nanos};
use crate::chance::Chance;

/// The time of day at which every run begins.
const DAY_BEGINS_MILLIS: u64 = 1_800_000_000_000;
/// The key of all digests.
pub const DIGEST_KEY: [u8; 32] = [7; 32];
const SECRET: u32 = 0x6c6f_6369;

/// What is drawn for all machines of a run.
#[derive(Debug, Clone)]
pub struct Build {
    /// The size of the log's files.
    pub log_file_bytes: u64,
    /// With so many files, the shard that the oldest is kept for is told.
    pub pinned_files: usize,
    /// A checkpoint is made after so many bytes of entries.
    pub checkpoint_bytes: u64,
    /// So many bytes of entries are kept for members that are behind; who is further behind needs a snapshot.
    pub kept_bytes: u64,
    /// A buffer of more rows is sealed.
    pub buffer_rows_max: u32,
    /// Behind an entry that is on its way writes gather for so long.
    pub gathering: Duration,
}

impl Build {
    /// For a store.
    pub fn store_options(&self) -> StoreOptions {
        let rows = self.buffer_rows_max;
        StoreOptions { buffer_rows_max: rows, buffer_keys_max: rows, ..StoreOptions::default() }
    }
}

/// See the module's front page.
pub struct Machine {
    /// The number of its members.
    pub me: MemberId,
    /// Under its log.
    pub disk: SimDisk,
    /// What that has promised.
    promises: Promises,
    /// Its part in each shard.
    pub members: Vec<Member>,
    /// How fast its clock runs, in millionths.
    pub rate: u64,
    /// What its time of day is off by.
    pub offset_millis: i64,
    /// Counts processes.
    pub life: u64,
    /// The process that runs, if one does.
    pub process: Option<Process>,
    /// Stopped by a signal until then.
    pub paused_until: Nanos,
    /// Syncs take long until then.
    pub slow_until: Nanos,
    /// A sync was told to fail.
    pub sync_fails: bool,
    /// Its log is damaged: what it promised is unknown, and it never starts again.
    pub refused: bool,
    /// What is wrong with the program.
    planted: Option<Planted>,
}

/// A file that is not what was written.
pub struct Rotten {
    /// Its name.
    pub name: String,
    /// What was in it.
    pub bytes: Vec<u8>,
    /// What is in it.
    pub damaged: Vec<u8>,
    /// The shard whose store's it is; none: the log's.
    pub store_of: Option<usize>,
}

/// A running process.
pub struct Process {
    /// What runs of each shard.
    pub running: Vec<Running>,
    /// What the shards take for the time.
    pub clock: Arc<Clock>,
    /// How fast the clock runs that it measures with, in millionths, and how long it had run when.
    pace: (u64, u64, Nanos),
    /// Its log.
    pub log: Arc<Mutex<AtLog>>,
    /// What is on its way there.
    pub figures: Arc<LogFigures>,
    /// What the shards ask of the log.
    pub requests: std::sync::mpsc::Receiver<Request>,
    /// The same, in the order in which it is done.
    pub queue: VecDeque<Request>,
    /// It waits for space, and does nothing else.
    pub full: bool,
    /// What to say, and to which shard, once the sync that runs is done; nothing: none runs.
    pub syncing: Vec<(usize, SyncMark)>,
    /// When a shard was last told that it pins the log.
    pub told_pins: Nanos,
    /// It was told to stop.
    pub stopping: bool,
}

impl Process {
    /// The log, for as long as nobody else uses it.
    pub fn at_log(&self) -> MutexGuard<'_, AtLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls that wait, for whoever must tell their callers that it has ended.
    pub fn into_calls(self) -> Vec<Call> {
        self.running.into_iter().flat_map(|running| running.calls).collect()
    }

    fn run_nanos(&self, now: Nanos) -> u64 {
        let (rate, run, since) = self.pace;
        run + (u128::from(now - since) * u128::from(rate) / 1_000_000) as u64
    }

    /// From now on its clock runs at this rate.
    pub fn set_pace(&mut self, rate: u64, now: Nanos) {
        if self.pace.0 != rate {
            self.pace = (rate, self.run_nanos(now), now);
        }
    }

    /// How long something takes in real time that takes so long by its clock, rounded up.
    pub fn real(&self, local: Duration) -> Nanos {
        (local.as_nanos() * 1_000_000).div_ceil(u128::from(self.pace.0)) as Nanos
    }
}

impl Machine {
    /// A machine with empty disks, for so many shards.
    pub fn new(me: MemberId, shards: usize, rate: u64, offset_millis: i64, planted: Option<Planted>) -> Machine {
        Machine {
            me,
            disk: SimDisk::new(planted),
            promises: Promises::default(),
            members: (0..shards).map(|shard| Member::new(shard, me, planted)).collect(),
            rate,
            offset_millis,
            life: 0,
            process: None,
            paused_until: 0,
            slow_until: 0,
            sync_fails: false,
            refused: false,
            planted,
        }
    }

    /// Its time of day.
    pub fn day_millis(&self, now: Nanos) -> u64 {
        let run = (u128::from(now) * u128::from(self.rate) / 1_000_000 / u128::from(MILLIS)) as u64;
        (DAY_BEGINS_MILLIS + run).saturating_add_signed(self.offset_millis)
    }

    /// The process's clock shows the time.
    pub fn set_clock(&self, now: Nanos) {
        if let Some(process) = &self.process {
            process.clock.set(Duration::from_nanos(process.run_nanos(now)), self.day_millis(now));
        }
    }

    /// What runs of a shard, while the process does.
    pub fn running(&self, shard: usize) -> Option<&Running> {
        self.process.as_ref().map(|process| &process.running[shard])
    }

    /// A shard's handle, while the process runs.
    pub fn handle(&self, shard: usize) -> Option<&ShardHandle> {
        self.running(shard).map(|running| &running.driven.handle)
    }

    /// Whether the process runs and is not stopped by a signal.
    pub fn is_awake(&self, now: Nanos) -> bool {
        self.process.is_some() && self.paused_until <= now
    }

    /// Does something to the disks under what a power cut can take.
    pub fn disks(&self, mut each: impl FnMut(&MemoryDisk)) {
        each(&self.disk.memory);
        self.members.iter().for_each(|member| each(&member.place.incoming));
    }

    /// The disks are as they were when it was bought.
    pub fn wipe(&mut self) {
        (self.disk, self.promises) = (SimDisk::new(self.planted), Promises::default());
        self.members.iter_mut().for_each(Member::wipe);
    }

    /// Starts a process from what is on the disks, as the program does; says what recovery found.
    pub fn start(
        &mut self,
        founders: &[Arc<Members>],
        build: &Build,
        seed: u64,
        now: Nanos,
    ) -> Result<Recovered, StartError> {
        let log_options = LogOptions { file_bytes: build.log_file_bytes, secret: SECRET };
        let (mut log, recovered) =
            PromisingLog::open(self.disk.clone(), log_options, self.promises.clone(), self.planted)?;
        let day_millis = self.day_millis(now);
        let mut opened = Vec::new();
        for ((number, member), founders) in (0..).zip(&mut self.members).zip(founders) {
            opened.push(member.open(&mut log, founders, build, seed.wrapping_add(number), day_millis)?);
        }
        let clock = Arc::new(Clock::by_hand(day_millis));
        let chance = Chance::new(seed ^ u64::from(SECRET));
        let log = Arc::new(Mutex::new(AtLog::new(log, chance, self.planted)));
        let here = || -> Here {
            let here = log.clone();
            Box::new(move |batch: &[Append], safety: Safety| {
                here.lock().unwrap_or_else(PoisonError::into_inner).append_here(batch, safety)
            })
        };
        let (handles, requests, figures) = LogHandle::driven(self.members.iter().map(|_| here()).collect());
        let shards = self.members.iter().zip(opened).zip(handles);
        let running =
            shards.map(|((member, opened), handle)| Running::new(member.id, opened, handle, clock.clone(), build));
        let running = running.collect();
        self.life += 1;
        self.process = Some(Process {
            running,
            clock,
            pace: (self.rate, 0, now),
            log,
            figures,
            requests,
            queue: VecDeque::new(),
            full: false,
            syncing: Vec::new(),
            told_pins: now,
            stopping: false,
        });
        Ok(recovered)
    }

    /// Takes in what the shards did at the log, and what they ask of it. How many entries took the place of others.
    pub fn take_requests(&mut self) -> u64 {
        let mut replaced = 0;
        let members = &mut self.members;
        let mut note = |batch: &[Append]| {
            for Append { shard, change } in batch {
                if let Change::Entry(entry) = change {
                    replaced += u64::from(members[shard.0 as usize - 1].logged(entry));
                }
            }
        };
        let Some(process) = &mut self.process else { return 0 };
        // None of them does anything itself as long as something that any of them asked for is not done.
        note(&std::mem::take(&mut process.at_log().appended));
        for request in process.requests.try_iter() {
            if let Request::Append { batch, .. } = &request {
                note(batch);
            }
            process.queue.push_back(request);
        }
        replaced
    }
}
