//! A machine: a disk, a directory and a clock that outlive the process that runs on it, which is the real owner of a shard,
//! started as the program starts it.
//!
//! ```text
//!   disk, directory, clock's rate and offset      stay, as a power cut or a kill leaves them
//!   process: log, replica, store, owner, calls    gone with each crash, made anew from the disk
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use loci_index::directory::{Directory, RamDirectory};
use loci_index::store::{MANIFEST_FILE, Store, StoreOptions, checkpoint_files};
use loci_node::clock::Clock;
use loci_node::cluster::snapshot::Stand;
use loci_node::log_thread::{LogFigures, LogHandle, Request, Safety};
use loci_node::memory::Budget;
use loci_node::shard::{Beginning, Driven, Install, Mailbox, OwnerOptions, ShardHandle};
use loci_raft::{
    Append, Change, Disk, Entry, EntryKind, FOUNDING_INDEX, JOINING_INDEX, Log, LogIndex, LogOptions, MemberId,
    Members, MemoryDisk, Message, Recovered, Replica, ReplicaOptions, ShardId, ShardState, Standing, SyncMark, Term,
    beginning, founding, joining,
};

use super::clients::Call;
use super::disk::SimDisk;
use super::here::AtLog;
use super::planted::Planted;
use super::{MILLIS, Nanos};
use crate::chance::Chance;

/// The one shard.
pub const SHARD: ShardId = ShardId(1);
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
    /// A checkpoint is made after so many bytes of entries.
    pub checkpoint_bytes: u64,
    /// So many bytes of entries are kept for members that are behind; who is further behind needs a snapshot.
    pub kept_bytes: u64,
    /// A buffer of more rows is sealed.
    pub buffer_rows_max: u32,
}

impl Build {
    fn store_options(&self) -> StoreOptions {
        let rows = self.buffer_rows_max;
        StoreOptions { buffer_rows_max: rows, buffer_keys_max: rows, ..StoreOptions::default() }
    }
}

/// Whether the log knows of a snapshot that the store took in.
fn has(state: &ShardState, stand: &Stand) -> bool {
    stand.index <= state.start || state.term_of(stand.index) == Some(stand.term)
}

/// What changes members is not for the store.
fn for_store(entry: &Entry) -> Bytes {
    if entry.kind == EntryKind::Normal { entry.data.clone() } else { Bytes::new() }
}

/// See the module's front page.
pub struct Machine {
    /// Its member.
    pub me: MemberId,
    /// Under its log.
    pub disk: SimDisk,
    /// Under its store.
    pub directory: RamDirectory,
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
    /// The log's entries, as handed to it.
    pub entries: BTreeMap<u64, (Term, Bytes)>,
    /// The last entry that it ever applied.
    pub applied: u64,
    /// Whom it hears from first, if it joins a shard that is there.
    pub joins: Option<Arc<Members>>,
    /// What is wrong with the program.
    planted: Option<Planted>,
    /// Where its store stands by a snapshot that it took in.
    stand: Arc<Mutex<Option<Stand>>>,
    /// Its log and its store are made.
    pub founded: bool,
}

/// A file with a flipped bit.
pub struct Rotten {
    /// Its name.
    pub name: String,
    bytes: Vec<u8>,
    of_log: bool,
}

/// A running process.
pub struct Process {
    /// The shard.
    pub driven: Driven,
    /// What the shard takes for the time.
    pub clock: Arc<Clock>,
    /// How fast the clock runs that it measures with, in millionths, and how long it had run when.
    pace: (u64, u64, Nanos),
    /// Its log.
    pub log: Arc<Mutex<AtLog>>,
    /// What is on its way there.
    pub figures: Arc<LogFigures>,
    /// What the shard asks of the log.
    pub requests: std::sync::mpsc::Receiver<Request>,
    /// The same, in the order in which it is done.
    pub queue: VecDeque<Request>,
    /// It waits for space, and does nothing else.
    pub full: bool,
    /// What to say once the sync that runs is done.
    pub syncing: Option<SyncMark>,
    /// Messages for other members.
    pub outbox: Arc<Mutex<Vec<Message>>>,
    /// Calls of clients that wait.
    pub calls: Vec<Call>,
    /// When the next turn is.
    pub turn_at: Option<Nanos>,
    /// How far its entries were compared with what others applied.
    pub compared: u64,
    /// The last commit index.
    pub committed: u64,
    /// As last seen.
    pub standing: Standing,
    /// Counts its changes.
    pub standings: u64,
    /// It was told to stop.
    pub stopping: bool,
}

impl Process {
    /// The log, for as long as nobody else uses it.
    pub fn at_log(&self) -> MutexGuard<'_, AtLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// A machine with empty disks.
    pub fn new(me: MemberId, rate: u64, offset_millis: i64, planted: Option<Planted>) -> Machine {
        let forgets_names = planted == Some(Planted::ForgetTheNames);
        Machine {
            me,
            disk: SimDisk { memory: MemoryDisk::new(), forgets_names },
            directory: RamDirectory::new(),
            rate,
            offset_millis,
            life: 0,
            process: None,
            paused_until: 0,
            slow_until: 0,
            sync_fails: false,
            entries: BTreeMap::new(),
            applied: FOUNDING_INDEX.0,
            joins: None,
            planted,
            stand: Arc::default(),
            founded: false,
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

    /// The shard's handle, while the process runs.
    pub fn handle(&self) -> Option<&ShardHandle> {
        self.process.as_ref().map(|process| &process.driven.handle)
    }

    /// Whether the process runs and is not stopped by a signal.
    pub fn is_awake(&self, now: Nanos) -> bool {
        self.process.is_some() && self.paused_until <= now
    }

    /// The disks are as they were when it was bought.
    pub fn wipe(&mut self) {
        self.disk.memory = MemoryDisk::new();
        self.directory = RamDirectory::new();
        self.founded = false;
    }

    /// Flips a bit of a file: of the store's, or of a file of the log that is full and so was synced to its end.
    pub fn rot(&mut self, chance: &mut Chance) -> Option<Rotten> {
        let of_log = chance.percent(50);
        if of_log {
            let names = Disk::list(&self.disk.memory).unwrap_or_default();
            let mut names: Vec<String> = names.into_iter().filter(|name| !name.starts_with("spare")).collect();
            names.sort_unstable();
            names.pop();
            let name = names.get(chance.below(names.len() as u64 + 1) as usize)?.clone();
            let bytes = self.disk.memory.bytes(&name)?;
            self.disk.memory.flip(&name, chance.below(bytes.len() as u64 * 8));
            return Some(Rotten { name, bytes, of_log });
        }
        let names = self.directory.list().ok()?;
        let name = names.get(chance.below(names.len() as u64 + 1) as usize)?.clone();
        let bytes = self.directory.bytes(&name)?;
        self.directory.flip(&name, chance.index(bytes.len() * 8));
        Some(Rotten { name, bytes, of_log })
    }

    /// Puts the file back as it was.
    pub fn mend(&mut self, rotten: Rotten) {
        if rotten.of_log {
            self.disk.memory.damage(&rotten.name, |bytes| *bytes = rotten.bytes.clone());
        } else {
            self.directory.put(&rotten.name, &rotten.bytes);
        }
    }

    /// Whether every bit of a file matters: the store's do, if the store did not remove the file as left over; what stands
    /// behind the end of a log's file does not.
    pub fn is_needed(&self, rotten: &Rotten) -> bool {
        !rotten.of_log && self.directory.bytes(&rotten.name).is_some()
    }

    /// Starts a process from what is on the disks, as the program does; says what recovery found.
    pub fn start(&mut self, members: &Arc<Members>, build: &Build, seed: u64, now: Nanos) -> Result<Recovered, String> {
        let log_options = LogOptions { file_bytes: build.log_file_bytes, secret: SECRET };
        let failed = |error: loci_raft::LogError| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            format!("the log: {error}{source}")
        };
        let (mut log, recovered) = Log::open(self.disk.clone(), log_options).map_err(failed)?;
        self.falsify_checkpoint(&log, now);
        let directory: Arc<dyn Directory> = Arc::new(self.directory.clone());
        let store_options = build.store_options();
        let buffers_bytes_max = store_options.buffers_bytes_max;
        let store = if self.founded {
            Store::open(directory, store_options)
        } else {
            let (first, applied) = match &self.joins {
                Some(joins) => (joining(SHARD, joins), JOINING_INDEX),
                None => (founding(SHARD, members), FOUNDING_INDEX),
            };
            log.append(&first).and_then(|()| log.sync()).map_err(failed)?;
            Store::create(directory, store_options, DIGEST_KEY, applied.0)
        };
        let store = store.map_err(|error| format!("the store: {error}"))?;
        self.founded = true;
        // Its power failed when its store had taken a snapshot in and its log had not.
        if let Some(stand) = self.stand()
            && stand.index.0 == store.applied()
            && !log.shard(SHARD).is_some_and(|state| has(&state, &stand))
        {
            log.append(&beginning(SHARD, stand.index, stand.term, &stand.members))
                .and_then(|()| log.sync())
                .map_err(failed)?;
        }
        let (state, reader) = log.shard(SHARD).zip(log.reader(SHARD)).ok_or("the log holds nothing of the shard")?;
        let applied = LogIndex(store.applied());
        for index in state.start.0 + 1..=state.last.0 {
            let entry = reader.read(LogIndex(index)).map_err(|error| format!("entry {index}: {error}"))?;
            self.entries.insert(index, (entry.term, for_store(&entry)));
        }
        let options = ReplicaOptions { shard: SHARD, me: self.me, applied, seed };
        let replica = Replica::restore(options, &state, reader).map_err(|error| error.to_string())?;

        let clock = Arc::new(Clock::by_hand(self.day_millis(now)));
        let chance = Chance::new(seed ^ u64::from(SECRET));
        let log = Arc::new(Mutex::new(AtLog::new(log, chance, self.planted)));
        let here = log.clone();
        let at_log = move |batch: &[Append], safety: Safety| {
            here.lock().unwrap_or_else(PoisonError::into_inner).append_here(batch, safety)
        };
        let (log_handle, requests, figures) = LogHandle::driven(Box::new(at_log));
        let outbox: Arc<Mutex<Vec<Message>>> = Arc::default();
        let sent = outbox.clone();
        let (compared, committed, standing) = (store.applied(), replica.committed_index().0, replica.standing());
        let beginning = Beginning {
            id: SHARD.0,
            replica,
            store,
            log: log_handle,
            budget: Arc::new(Budget::new(1 << 30)),
            clock: clock.clone(),
            outbox: Box::new(move |message| sent.lock().unwrap_or_else(PoisonError::into_inner).push(message)),
            options: OwnerOptions {
                checkpoint_bytes: build.checkpoint_bytes,
                buffers_bytes_max,
                kept_bytes: build.kept_bytes,
                log_path: "the log".into(),
                eviction: Default::default(),
                history_bytes: 1 << 20,
            },
            history: None,
        };
        self.life += 1;
        self.process = Some(Process {
            driven: Driven::new(Mailbox::new(), beginning),
            clock,
            pace: (self.rate, 0, now),
            log,
            figures,
            requests,
            queue: VecDeque::new(),
            full: false,
            syncing: None,
            outbox,
            calls: Vec::new(),
            turn_at: None,
            compared,
            committed,
            standing,
            standings: 0,
            stopping: false,
        });
        Ok(recovered)
    }

    /// Makes the mistakes that are made when a process starts.
    fn falsify_checkpoint(&self, log: &Log<SimDisk>, now: Nanos) {
        let Ok((mut manifest, applied, _)) = checkpoint_files(&self.directory) else { return };
        let falsified = match self.planted {
            Some(Planted::ApplyTwice) if log.shard(SHARD).is_some_and(|state| state.start.0 < applied) => {
                (applied - 1, None)
            }
            Some(Planted::OwnClockForTheLogs) => (applied, Some(self.day_millis(now))),
            _ => return,
        };
        Planted::falsify(&mut manifest, applied, falsified);
        self.directory.put(MANIFEST_FILE, &manifest);
    }

    /// Where its store stands by the last snapshot that it took in.
    pub fn stand(&self) -> Option<Stand> {
        self.stand.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in a copy of another machine's last checkpoint, once it is asked to.
    pub fn install(&self, message: Message, stand: Stand, source: &RamDirectory, build: &Build) -> Option<Install> {
        let (mut manifest, applied, names) = checkpoint_files(source).ok()?;
        match self.planted {
            Some(Planted::SnapshotOffByOne) => Planted::falsify(&mut manifest, applied, (stand.index.0, None)),
            _ if applied != stand.index.0 => return None,
            _ => {}
        }
        let files: Vec<(String, Vec<u8>)> =
            names.into_iter().map(|name| source.bytes(&name).map(|bytes| (name, bytes))).collect::<Option<_>>()?;
        let (target, options) = (self.directory.clone(), build.store_options());
        let (known, stands) = (self.stand.clone(), stand.clone());
        let open = Box::new(move || {
            for (name, bytes) in &files {
                target.put(name, bytes);
            }
            target.put(MANIFEST_FILE, &manifest);
            *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(stands);
            Store::open(Arc::new(target), options).map_err(|error| error.to_string())
        });
        Some(Install { message, stand, open })
    }

    /// Takes in what the shard did at the log, and what it asks of it. How many entries took the place of others.
    pub fn take_requests(&mut self) -> u64 {
        let mut replaced = 0;
        let entries = &mut self.entries;
        let mut note = |batch: &[Append]| {
            for append in batch {
                if let Change::Entry(entry) = &append.change {
                    let new = (entry.term, for_store(entry));
                    let old = entries.insert(entry.index.0, new);
                    replaced += u64::from(old.is_some_and(|(term, _)| term != entry.term));
                }
            }
        };
        let Some(process) = &mut self.process else { return 0 };
        // It does nothing itself as long as something that it asked for is not done.
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
