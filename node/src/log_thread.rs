//! The log thread: owns the log that all shards of the node share, and gives them one sync for whatever they all have.
//!
//! ```text
//!   shard 1 --append--\                                                     /--> Synced to shard 1
//!   shard 2 --append---+--> queue --> everything queued: one write, one sync
//!   shard 3 --append--/                                                     \--> Synced to shard 3
//! ```
//!
//! What is not large ([`HERE_BYTES_MAX`]) is appended and synced right where it is asked for, if nobody else is at the log, the disk
//! has been quick lately, and the shard does not lead others, who would miss its word while the disk stalls: no thread has to
//! wake another, twice, for a sync that takes 90 us. Where several shards write, the others queue meanwhile and have the next sync
//! together.
//!
//! What needs no more than to be in the hands of the operating system ([`Safety::Written`]) is written at once, and synced
//! [`SYNC_WITHIN`] later by a second thread, beside whatever is written meanwhile.
//!
//! A third thread makes the next file ready as soon as the last one that was is used: zeros are written for as long as thousands of
//! appends take, and beside them. What it has made it hands over without the log, for which whoever needs the file may be waiting.
//!
//! A shard that comes later begins with [`LogOpener::open`].
//!
//! What is damaged in a file that is full ([`LogCare`]) matters at the next start, which reads all files that are in use; so the
//! shards for which it is kept are asked to need it no longer ([`Report::Damaged`]), and with that it goes.
//!
//! Before a shard proposes an entry it asks for room ([`LogHandle::reserve`]), which costs two loads while there is some.
//! When there is none it asks this thread to make it, and hears [`Report::Room`] or [`Report::Full`].
//!
//! Always: what a shard appends is appended in the order in which it said so. The first failed write or sync stops the
//! process: what the disk then holds is unknown, and only a restart finds out. A full disk does not: an append that finds no
//! space is tried again until there is some, and what comes after it waits, in order.

mod spares;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use loci_raft::{Append, FileDisk, Log, LogChecker, LogError, LogReader, LogStats, ShardId, ShardState, SyncMark};

use crate::fatal;
use crate::metrics::Latencies;
use spares::{MadeSpare, SpareIs, make_spares};

/// Slower syncs are reported.
const SLOW_SYNC: Duration = Duration::from_millis(100);
/// What takes more is for the thread: the shard has other things to do while it is synced.
const HERE_BYTES_MAX: u64 = 256 << 10;
/// After a sync that took longer the thread does them all (in tests none does: a busy disk is not what they are about),
const QUICK_SYNC: Duration = if cfg!(test) { Duration::MAX } else { Duration::from_millis(3) };
/// for so long.
const AFTER_SLOW: Duration = Duration::from_millis(100);
/// How long an append that found no space waits before it is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// A log with nothing to do for this long tells its figures.
const IDLE: Duration = Duration::from_millis(20);
/// What was only written is synced so much later.
pub const SYNC_WITHIN: Duration = Duration::from_millis(100);
/// What takes more is written by the thread.
const WRITTEN_HERE_BYTES_MAX: u64 = 1 << 20;
/// With so many files, the shard that the oldest is kept for is told.
pub const PINNED_FILES: usize = 16;
/// With so many, it no longer counts that a member is being sent a snapshot which needs what is there: more than one shard alone
/// keeps for that.
pub const PINNED_FILES_MAX: usize = 6 * PINNED_FILES;
/// How often it is told.
const PINS_EVERY: Duration = Duration::from_millis(100);
/// What a batch may take besides its entries: hard states, the batch's frame, the change of files.
const SLACK_BYTES: u64 = 8192;

/// The room that so many bytes of entries need. A frame that does not fit into what is left of a file leaves that much unused:
/// hence twice.
fn room_for(bytes: u64) -> u64 {
    2 * bytes + SLACK_BYTES
}

/// What a shard hears of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The append with this mark, and all before it, survive a power cut; those that asked for no more, the end of the process.
    Synced(SyncMark),
    /// There is room again; ask once more.
    Room,
    /// The log has so many files, [`PINNED_FILES`] or more, and the oldest is there for this shard.
    Pins {
        /// How many.
        files: usize,
    },
    /// A file is damaged that is there for this shard: what is in it, and before it, should be forgotten.
    Damaged,
    /// There is no room, and the disk has none either.
    Full {
        /// What the log needs.
        needed_bytes: u64,
    },
}

/// What must be true of an append before the shard hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safety {
    /// It survives a power cut.
    Synced,
    /// It survives the end of the process, and a power cut [`SYNC_WITHIN`] later.
    Written,
}

/// Tells a shard. Called on the log thread; must not wait.
pub type Listener = Box<dyn Fn(Report) + Send>;

/// What a shard asks of the log. `to` is the shard's number among the listeners.
#[derive(Debug)]
pub enum Request {
    /// Append a batch, and with a mark: make it safe and say so.
    Append {
        /// The batch.
        batch: Vec<Append>,
        /// About what it takes.
        bytes: u64,
        /// What to say once it is safe.
        mark: Option<SyncMark>,
        /// How safe.
        safety: Safety,
        /// To whom.
        to: usize,
    },
    /// Make room for an entry.
    Reserve {
        /// Of so many bytes.
        bytes: u64,
        /// Who wants to know.
        to: usize,
    },
    /// A shard begins to use the log.
    Open(Open),
    /// These files are damaged: the shards for which they are kept are to need them no longer, and then they are removed.
    LetGo(BTreeSet<u64>),
    /// The log was used, and will have figures to tell once it has nothing to do.
    Used,
}

/// A shard that begins to use a log that runs.
pub struct Open {
    shard: ShardId,
    begin: Begin,
    listener: Listener,
    reply: SyncSender<Answer>,
}

/// What the log has of a shard, and the number of its listener.
type Answer = Result<Option<(ShardState, LogReader, usize)>, LogError>;

/// What a shard's log is to begin with, given what there is of it already.
pub type Begin = Box<dyn FnOnce(Option<ShardState>) -> Vec<Append> + Send>;

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Open(shard {})", self.shard)
    }
}

/// A shard's part of a running log.
pub struct OpenedShard {
    /// What it holds.
    pub state: ShardState,
    /// To read it.
    pub reader: LogReader,
    /// To write it.
    pub handle: LogHandle,
}

/// Figures of the log, as of a moment ago.
#[derive(Debug, Default)]
pub struct LogFigures {
    stats: Mutex<LogStats>,
    /// How long syncs took.
    pub sync_seconds: Latencies,
    /// Bytes that can be appended without asking the disk.
    room: AtomicU64,
    /// Bytes on their way that `room` does not know of yet.
    outstanding: AtomicU64,
    /// Whether an append or reservation last found no space.
    full: AtomicBool,
    /// Files that are not what was written, and are still in use.
    damaged: Mutex<BTreeSet<u64>>,
    /// How many were found so.
    damage_found: AtomicU64,
    /// For whom they were kept when the shards were last asked to need them no longer.
    damaged_for: Mutex<Vec<ShardId>>,
    /// Whether the shards are about to be asked.
    letting_go: AtomicBool,
}

impl LogFigures {
    /// Files, bytes, syncs.
    pub fn stats(&self) -> LogStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the disk was full when the log last needed space.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The files of it that are not what was written, and that it still needs.
    pub fn damaged(&self) -> Vec<String> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.iter().map(|sequence| LogChecker::name(*sequence)).collect()
    }

    /// How many files were found not to be what was written.
    pub fn damage_found(&self) -> u64 {
        self.damage_found.load(Ordering::Relaxed)
    }

    /// A file is not what was written. Whether that is new.
    fn note_damage(&self, sequence: u64) -> bool {
        let is_new = self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(sequence);
        self.damage_found.fetch_add(u64::from(is_new), Ordering::Relaxed);
        is_new
    }

    /// So many bytes that were on their way have been appended.
    pub fn done(&self, bytes: u64) {
        self.outstanding.fetch_sub(bytes, Ordering::AcqRel);
    }

    fn take(&self, stats: LogStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// Appends a batch on the spot and makes it safe, or says no: what a shard's owner does at the log, where there is no log thread.
pub type Here = Box<dyn Fn(&[Append], Safety) -> bool + Send>;

/// Who appends what is appended where the shard's turn is taken.
enum Place {
    Owner(Arc<Mutex<Owner>>),
    Driven(Here),
}

/// A shard's way to the log thread.
pub struct LogHandle {
    place: Place,
    requests: Sender<Request>,
    figures: Arc<LogFigures>,
    to: usize,
}

impl LogHandle {
    /// For the shards of a log without a thread, numbered as they come: whoever holds the queue does what they ask for, and
    /// says so by [`LogFigures::done`]; what a shard's owner is to do itself, its `here` does. The figures say that there
    /// is room for anything.
    pub fn driven(shards: Vec<Here>) -> (Vec<LogHandle>, Receiver<Request>, Arc<LogFigures>) {
        let (requests, queue) = channel();
        let figures = Arc::new(LogFigures { room: AtomicU64::new(u64::MAX), ..LogFigures::default() });
        let handle = |(to, here)| LogHandle {
            place: Place::Driven(here),
            requests: requests.clone(),
            figures: figures.clone(),
            to,
        };
        let handles = shards.into_iter().enumerate().map(handle).collect();
        (handles, queue, figures)
    }

    /// Appends a batch. With a mark it is made safe: the shard hears of it once it is, unless it is when this returns, which
    /// it then says. `bytes` is about what the batch takes.
    ///
    /// `may_wait` says that nothing else is to be done by whoever calls until it is safe: others wait for a leader's word.
    pub fn append(
        &self,
        batch: Vec<Append>,
        bytes: u64,
        mark: Option<SyncMark>,
        safety: Safety,
        may_wait: bool,
    ) -> bool {
        let bytes_max = match safety {
            Safety::Synced => HERE_BYTES_MAX,
            Safety::Written => WRITTEN_HERE_BYTES_MAX,
        };
        if may_wait && mark.is_some() && bytes <= bytes_max && self.append_here(&batch, bytes, safety) {
            return true;
        }
        self.figures.outstanding.fetch_add(bytes, Ordering::AcqRel);
        self.send(Request::Append { batch, bytes, mark, safety, to: self.to });
        false
    }

    /// The file with this name was found not to be what was written: the shards are asked to need it no longer, once.
    pub fn damage_found(&self, file: &str) {
        if let Some(sequence) = LogChecker::number(file).filter(|sequence| self.figures.note_damage(*sequence)) {
            self.send(Request::LetGo(BTreeSet::from([sequence])));
        }
    }

    /// Appends where the turn is taken, and syncs or writes; says no where that cannot be done at once.
    fn append_here(&self, batch: &[Append], bytes: u64, safety: Safety) -> bool {
        // What was asked before must be done before.
        if self.figures.outstanding.load(Ordering::Acquire) > 0 {
            return false;
        }
        let owner = match &self.place {
            Place::Owner(owner) => owner,
            Place::Driven(here) => return here(batch, safety),
        };
        let Ok(mut owner) = owner.try_lock() else { return false };
        let slow = || owner.slow_until.is_some_and(|until| Instant::now() < until);
        if (safety == Safety::Synced && slow()) || !owner.append_now(batch, bytes) {
            return false;
        }
        owner.publish_room();
        match safety {
            Safety::Synced => owner.sync(&mut Vec::new()),
            Safety::Written => owner.write(),
        }
        if std::mem::take(&mut owner.has_told) {
            self.send(Request::Used);
        }
        true
    }

    /// A way to sync what was appended and only written, from elsewhere; none where there is no thread.
    pub fn syncer(&self) -> Option<Syncer> {
        match &self.place {
            Place::Owner(owner) => Some(Syncer(Arc::downgrade(owner))),
            Place::Driven(_) => None,
        }
    }

    /// Whether an entry of so many bytes has room beside what is on its way.
    pub fn has_room(&self, bytes: u64) -> bool {
        let outstanding = self.figures.outstanding.load(Ordering::Acquire);
        self.figures.room.load(Ordering::Acquire) >= room_for(outstanding + bytes)
    }

    /// Asks for room; `Room` or `Full` is the answer.
    pub fn reserve(&self, bytes: u64) {
        self.send(Request::Reserve { bytes, to: self.to });
    }

    fn send(&self, request: Request) {
        // The thread ends only after every handle is gone, or with the process.
        let _ = self.requests.send(request);
    }
}

/// Syncs what was only written, beside the log.
#[derive(Clone)]
pub struct Syncer(Weak<Mutex<Owner>>);

impl Syncer {
    /// Syncs what was written by now; it says no once the log is closed, which syncs it.
    pub fn sync(&self) -> bool {
        let Some(owner) = self.0.upgrade() else { return false };
        let mut locked = lock(&owner);
        locked.written_since = None;
        let syncing = match locked.log.begin_sync() {
            Ok(Some(syncing)) => syncing,
            Ok(None) => return true,
            Err(error) => locked.die(&error),
        };
        drop(locked);
        let begun = Instant::now();
        let synced = syncing.run();
        let mut locked = lock(&owner);
        if let Err(error) = locked.log.end_sync(&syncing, synced) {
            locked.die(&error);
        }
        locked.note_sync(begun);
        locked.publish();
        true
    }

    /// Syncs a while after each first write, until the log is closed.
    fn run(&self, written: &Receiver<()>) {
        while written.recv().is_ok() {
            std::thread::sleep(SYNC_WITHIN);
            if !self.sync() {
                return;
            }
        }
    }
}

/// Says that a damaged file, of which it was said that it is, has gone.
pub fn tell_gone(sequence: u64) {
    let file = LogChecker::name(sequence);
    tracing::warn!(file, "the damaged file of the log is gone, and nobody needs what was in it");
}

/// Looks after the full files of a running log.
#[derive(Clone)]
pub struct LogCare {
    requests: Sender<Request>,
    checker: LogChecker,
    figures: Arc<LogFigures>,
}

impl LogCare {
    /// Checks them.
    pub fn checker(&self) -> &LogChecker {
        &self.checker
    }

    /// A file is not what was written, of two readings.
    pub fn damage_found(&self, sequence: u64) {
        self.figures.note_damage(sequence);
    }

    /// Has the log thread ask the shards for which damaged files are kept to need them no longer; to be called until there are none.
    /// Those that are gone, and if others are not: for whom they were kept when it last did. Waits for nobody, and holds up nobody:
    /// whoever calls may be of the lowest priority.
    pub fn let_go(&self) -> (Vec<u64>, Option<Vec<ShardId>>) {
        let mut damaged = self.figures.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<u64> = damaged.iter().copied().filter(|sequence| !self.checker.is_full(*sequence)).collect();
        damaged.retain(|sequence| !gone.contains(sequence));
        if damaged.is_empty() {
            return (gone, None);
        }
        if !self.figures.letting_go.swap(true, Ordering::AcqRel) {
            // The thread ends only after this is gone, or with the process.
            let _ = self.requests.send(Request::LetGo(damaged.clone()));
        }
        drop(damaged);
        let kept_for = self.figures.damaged_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (gone, Some(kept_for))
    }
}

/// A way to let further shards use a running log. The thread ends only after it is gone.
#[derive(Clone)]
pub struct LogOpener {
    owner: Arc<Mutex<Owner>>,
    requests: Sender<Request>,
    figures: Arc<LogFigures>,
}

impl LogOpener {
    /// A way to look after its full files. The thread ends only after it is gone, too.
    pub fn care(&self) -> LogCare {
        let checker = lock(&self.owner).log.checker();
        LogCare { requests: self.requests.clone(), checker, figures: self.figures.clone() }
    }

    /// Has the log begin with what `begin` says for a shard, synced, and gives it its part. None: the log has nothing of the
    /// shard. Waits for the log thread.
    pub fn open(&self, shard: ShardId, listener: Listener, begin: Begin) -> Result<Option<OpenedShard>, LogError> {
        let (reply, answer) = sync_channel(1);
        let open = Open { shard, begin, listener, reply };
        self.requests.send(Request::Open(open)).map_err(|_| LogError::Dead)?;
        let opened = answer.recv().map_err(|_| LogError::Dead)??;
        Ok(opened.map(|(state, reader, to)| {
            let place = Place::Owner(self.owner.clone());
            let handle = LogHandle { place, requests: self.requests.clone(), figures: self.figures.clone(), to };
            OpenedShard { state, reader, handle }
        }))
    }
}

/// The running thread.
pub struct LogThread {
    thread: JoinHandle<Result<(), LogError>>,
    figures: Arc<LogFigures>,
}

impl LogThread {
    /// Starts the thread, for these shards at first; the handles come back in the same order.
    pub fn start(
        log: Log<FileDisk>,
        path: PathBuf,
        figures: Arc<LogFigures>,
        listeners: Vec<(ShardId, Listener)>,
    ) -> std::io::Result<(LogThread, Vec<LogHandle>, LogOpener)> {
        let (requests, queue) = channel();
        let (written, first_writes) = channel();
        let (wanted_spares, wanted) = channel();
        let (made, made_spares) = channel();
        let count = listeners.len();
        let spares = (wanted_spares, made_spares);
        let mut owner = Owner::new(log, path, Arc::clone(&figures), listeners, written, spares);
        owner.want_spare();
        owner.publish();
        let owner = Arc::new(Mutex::new(owner));
        let opener = LogOpener { owner: owner.clone(), requests: requests.clone(), figures: figures.clone() };
        let handles = (0..count)
            .map(|to| LogHandle {
                place: Place::Owner(owner.clone()),
                requests: requests.clone(),
                figures: figures.clone(),
                to,
            })
            .collect();
        let syncer = Syncer(Arc::downgrade(&owner));
        std::thread::Builder::new()
            .name("loci-sync".into())
            .spawn(move || fatal::guard("sync", || syncer.run(&first_writes)))?;
        let sparing = Arc::downgrade(&owner);
        std::thread::Builder::new()
            .name("loci-spare".into())
            .spawn(move || fatal::guard("spare", || make_spares(&sparing, &wanted, &made)))?;
        let thread = std::thread::Builder::new().name("loci-log".into()).spawn(move || {
            fatal::guard("log", || run(&owner, &queue));
            close(owner)
        })?;
        drop(requests);
        Ok((LogThread { thread, figures }, handles, opener))
    }

    /// Figures of the log.
    pub fn figures(&self) -> &Arc<LogFigures> {
        &self.figures
    }

    /// Waits until every handle is gone and what they sent is synced, and marks the log as closed.
    pub fn close(self) -> Result<(), LogError> {
        self.thread.join().unwrap_or(Err(LogError::Dead))
    }
}

struct Owner {
    log: Log<FileDisk>,
    path: PathBuf,
    figures: Arc<LogFigures>,
    listeners: Vec<(ShardId, Listener)>,
    reported: Instant,
    /// When a shard was last told that it pins the log.
    told_pins: Instant,
    /// The figures are told, and the thread sleeps until somebody asks for something.
    has_told: bool,
    last_used: Instant,
    /// Since when something is written and not synced.
    written_since: Option<Instant>,
    /// Who is told of the first write after a sync.
    written: Sender<()>,
    spare: SpareIs,
    /// There was no space for one.
    no_spare_until: Instant,
    /// For how long, the next time.
    no_spare_for: Duration,
    /// Who is told that one is wanted.
    wanted_spares: Sender<()>,
    /// Those that were made, or could not be.
    made_spares: Receiver<MadeSpare>,
    /// What was taken must be synced before anybody hears of it.
    must_sync: bool,
    /// The disk was slow: until then syncs are for the thread.
    slow_until: Option<Instant>,
}

/// A panic of whoever held it has stopped the process.
fn lock(owner: &Mutex<Owner>) -> MutexGuard<'_, Owner> {
    owner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks the log as closed. All senders are gone, and who held one lets go of the log any moment.
fn close(mut owner: Arc<Mutex<Owner>>) -> Result<(), LogError> {
    loop {
        match Arc::try_unwrap(owner) {
            Ok(owner) => return owner.into_inner().unwrap_or_else(PoisonError::into_inner).log.close(),
            Err(still) => owner = still,
        }
        std::thread::yield_now();
    }
}

/// Does what is asked, until nobody can ask any more.
fn run(owner: &Mutex<Owner>, queue: &Receiver<Request>) {
    let mut safe = Vec::new();
    let mut has_told = false;
    loop {
        let first =
            if has_told { queue.recv().map_err(|_| RecvTimeoutError::Disconnected) } else { queue.recv_timeout(IDLE) };
        let mut owner = lock(owner);
        match first {
            Ok(request) => owner.take(request, &mut safe),
            Err(RecvTimeoutError::Timeout) => {
                has_told = owner.rest();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for request in queue.try_iter() {
            owner.take(request, &mut safe);
        }
        if std::mem::take(&mut owner.must_sync) {
            owner.sync(&mut safe);
        } else {
            owner.write();
            owner.tell(&mut safe);
        }
        (has_told, owner.has_told) = (false, false);
    }
}

impl Owner {
    fn new(
        log: Log<FileDisk>,
        path: PathBuf,
        figures: Arc<LogFigures>,
        listeners: Vec<(ShardId, Listener)>,
        written: Sender<()>,
        (wanted_spares, made_spares): (Sender<()>, Receiver<MadeSpare>),
    ) -> Owner {
        let now = Instant::now();
        Owner {
            log,
            path,
            figures,
            listeners,
            reported: now,
            told_pins: now,
            has_told: false,
            last_used: now,
            written_since: None,
            written,
            spare: SpareIs::Left,
            no_spare_until: now,
            no_spare_for: RETRY_EVERY,
            wanted_spares,
            made_spares,
            must_sync: false,
            slow_until: None,
        }
    }

    /// Tells the figures, as nobody has asked for anything for a while. Whether nothing is left to do.
    fn rest(&mut self) -> bool {
        if self.last_used.elapsed() < IDLE {
            return false;
        }
        self.has_told = true;
        self.want_spare();
        self.publish();
        true
    }

    fn take(&mut self, request: Request, safe: &mut Vec<(usize, SyncMark)>) {
        match request {
            Request::Append { batch, bytes, mark, safety, to } => {
                self.append(&batch, bytes, safe);
                self.publish_room();
                self.figures.done(bytes);
                let Some(mark) = mark else { return };
                self.must_sync |= safety == Safety::Synced;
                match safe.iter_mut().find(|(shard, _)| *shard == to) {
                    Some((_, last)) => *last = mark,
                    None => safe.push((to, mark)),
                }
            }
            Request::Reserve { bytes, to } => {
                let wanted = room_for(self.figures.outstanding.load(Ordering::Acquire) + bytes);
                // A sync frees the files that all shards have forgotten.
                self.written_since = None;
                let reserved = self.log.sync().and_then(|()| {
                    self.await_spare(wanted);
                    self.log.reserve(wanted)
                });
                let report = match reserved {
                    Ok(()) => {
                        self.set_full(false);
                        Report::Room
                    }
                    Err(LogError::Full { needed, .. }) => {
                        self.set_full(true);
                        Report::Full { needed_bytes: needed }
                    }
                    Err(error) => self.die(&error),
                };
                self.publish_room();
                self.listeners[to].1(report);
            }
            Request::Used => {}
            Request::LetGo(damaged) => self.let_go(&damaged),
            Request::Open(Open { shard, begin, listener, reply }) => {
                let opened = self.open(shard, begin, listener);
                // Whoever asked may be gone.
                let _ = reply.send(opened);
            }
        }
    }

    fn let_go(&mut self, damaged: &BTreeSet<u64>) {
        self.figures.letting_go.store(false, Ordering::Release);
        damaged.iter().for_each(|sequence| self.log.spoil(*sequence));
        let kept_for = damaged.last().map(|newest| self.log.kept_for(*newest)).unwrap_or_default();
        for (_, listener) in self.listeners.iter().filter(|(shard, _)| kept_for.contains(shard)) {
            listener(Report::Damaged);
        }
        // With a sync files go that nobody needs.
        self.must_sync |= kept_for.is_empty();
        // Whoever holds that may be of the lowest priority. It is said again.
        if let Ok(mut known) = self.figures.damaged_for.try_lock() {
            *known = kept_for;
        }
    }

    fn open(&mut self, shard: ShardId, begin: Begin, listener: Listener) -> Answer {
        let batch = begin(self.log.shard(shard));
        if !batch.is_empty() {
            self.await_spare(room_for(0));
            match self.log.append(&batch).and_then(|()| self.log.sync()) {
                Ok(()) => {}
                Err(full @ LogError::Full { .. }) => return Err(full),
                Err(error) => self.die(&error),
            }
            self.publish_room();
        }
        let (Some(state), Some(reader)) = (self.log.shard(shard), self.log.reader(shard)) else { return Ok(None) };
        // One that was opened and then could not be started is opened again.
        let to = self.listeners.iter().position(|(known, _)| *known == shard).unwrap_or(self.listeners.len());
        match self.listeners.get_mut(to) {
            Some(known) => known.1 = listener,
            None => self.listeners.push((shard, listener)),
        }
        Ok(Some((state, reader, to)))
    }

    /// Appends if there is space.
    fn append_now(&mut self, batch: &[Append], bytes: u64) -> bool {
        // Zeros are written, or waited for, by the thread.
        if self.lacks_room(room_for(bytes)) {
            return false;
        }
        match self.log.append(batch) {
            Ok(()) => {
                self.want_spare();
                true
            }
            Err(LogError::Full { .. }) => false,
            Err(error) => self.die(&error),
        }
    }

    /// Appends, however long the disk has no space: the shard has already acted on this batch. What was taken before it is
    /// synced meanwhile, which may free files, and told.
    fn append(&mut self, batch: &[Append], bytes: u64, safe: &mut Vec<(usize, SyncMark)>) {
        loop {
            self.await_spare(room_for(bytes));
            match self.log.append(batch) {
                Ok(()) => return self.want_spare(),
                Err(LogError::Full { needed, .. }) => {
                    self.set_full(true);
                    self.sync(safe);
                    for (_, listener) in &self.listeners {
                        listener(Report::Full { needed_bytes: needed });
                    }
                    std::thread::sleep(RETRY_EVERY);
                }
                Err(error) => self.die(&error),
            }
        }
    }

    /// Hands what was appended to the operating system, to be synced soon.
    fn write(&mut self) {
        if let Err(error) = self.log.write() {
            self.die(&error);
        }
        self.last_used = Instant::now();
        if self.written_since.is_none() {
            self.written_since = Some(self.last_used);
            // The thread ends only with the log, or the process.
            let _ = self.written.send(());
        }
    }

    fn tell(&self, safe: &mut Vec<(usize, SyncMark)>) {
        for (to, number) in safe.drain(..) {
            self.listeners[to].1(Report::Synced(number));
        }
    }

    fn sync(&mut self, safe: &mut Vec<(usize, SyncMark)>) {
        let begun = Instant::now();
        self.written_since = None;
        if let Err(error) = self.log.sync() {
            self.die(&error);
        }
        if self.note_sync(begun) > QUICK_SYNC {
            self.slow_until = Some(self.last_used + AFTER_SLOW);
        }
        self.tell(safe);
        self.publish_room();
        if self.reported.elapsed() > IDLE {
            self.publish();
        }
    }

    fn note_sync(&mut self, begun: Instant) -> Duration {
        self.last_used = Instant::now();
        let took = self.last_used - begun;
        self.figures.sync_seconds.observe(took);
        if took > SLOW_SYNC {
            tracing::warn!(millis = took.as_millis() as u64, "the disk was slow to sync the log");
        }
        took
    }

    fn set_full(&self, full: bool) {
        if self.figures.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!(log = %self.path.display(), "the disk is full: writes are refused until there is space");
            } else {
                tracing::info!(log = %self.path.display(), "the disk has space again: writes go on");
            }
        }
    }

    fn publish_room(&self) {
        self.figures.room.store(self.log.room(), Ordering::Release);
    }

    fn publish(&mut self) {
        self.publish_room();
        let stats = self.log.stats();
        self.figures.take(stats);
        self.reported = Instant::now();
        // Whoever holds that may be of the lowest priority. There is another time.
        if let Ok(mut damaged) = self.figures.damaged.try_lock() {
            damaged.retain(|sequence| {
                let is_used = self.log.uses(*sequence);
                if !is_used {
                    tell_gone(*sequence);
                }
                is_used
            });
        }
        if stats.files >= PINNED_FILES
            && let Some((_, listener)) = self.listeners.iter().find(|(shard, _)| stats.pinned_by == Some(*shard))
            && self.told_pins.elapsed() >= PINS_EVERY
        {
            self.told_pins = self.reported;
            listener(Report::Pins { files: stats.files });
        }
    }

    fn die(&self, error: &LogError) -> ! {
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        fatal::stop(&format!("the log in {} failed: {error}{source}", self.path.display()))
    }
}

#[cfg(test)]
mod tests;
