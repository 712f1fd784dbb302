//! The log thread: owns the log that all shards of the node share, and gives them one sync for whatever they all have.
//!
//! ```text
//!   shard 1 --append--\                                                     /--> Synced to shard 1
//!   shard 2 --append---+--> queue --> everything queued: one write, one sync
//!   shard 3 --append--/                                                     \--> Synced to shard 3
//! ```
//!
//! A shard that comes later begins with [`LogOpener::open`].
//!
//! Before a shard proposes an entry it asks for room ([`LogHandle::reserve`]), which costs two loads while there is some.
//! When there is none it asks this thread to make it, and hears [`Report::Room`] or [`Report::Full`].
//!
//! Always: the first failed write or sync stops the process: what the disk then holds is unknown, and only a restart finds
//! out. A full disk does not: an append that finds no space is tried again until there is some, and what comes after it
//! waits, in order.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use loci_raft::{Append, FileDisk, Log, LogError, LogReader, LogStats, ShardId, ShardState, SyncMark};

use crate::fatal;
use crate::metrics::Latencies;

/// Slower syncs are reported.
const SLOW_SYNC: Duration = Duration::from_millis(100);
/// How long an append that found no space waits before it is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// A log with nothing to do for this long makes the next file ready.
const IDLE: Duration = Duration::from_millis(20);
/// With so many files, the shard that the oldest is kept for is told.
pub const PINNED_FILES: usize = 16;
/// How often it is told.
const PINS_EVERY: Duration = Duration::from_millis(100);
/// What a batch may take besides its entries: hard states, the batch's frame, the change of files.
const SLACK_BYTES: u64 = 8192;

/// What a shard hears of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The append with this mark, and all before it, survive a power cut.
    Synced(SyncMark),
    /// There is room again; ask once more.
    Room,
    /// The log has [`PINNED_FILES`] files or more, and the oldest is there for this shard only.
    Pins,
    /// There is no room, and the disk has none either.
    Full {
        /// What the log needs.
        needed_bytes: u64,
    },
}

/// Tells a shard. Called on the log thread; must not wait.
pub type Listener = Box<dyn Fn(Report) + Send>;

/// What a shard asks of the log. `to` is the shard's number among the listeners.
#[derive(Debug)]
pub enum Request {
    /// Append a batch, and with a mark: sync it and say so.
    Append {
        /// The batch.
        batch: Vec<Append>,
        /// About what it takes.
        bytes: u64,
        /// What to say once it is safe.
        mark: Option<SyncMark>,
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
}

/// A shard that begins to use a log that runs.
pub struct Open {
    shard: ShardId,
    begin: Begin,
    listener: Listener,
    reply: Sender<Answer>,
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

    fn take(&self, stats: LogStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// A shard's way to the log thread.
pub struct LogHandle {
    requests: Sender<Request>,
    figures: Arc<LogFigures>,
    to: usize,
}

impl LogHandle {
    /// For the only shard of a log without a thread: whoever holds the queue does what it asks for. The figures say that
    /// there is room for anything.
    pub fn driven() -> (LogHandle, Receiver<Request>) {
        let (requests, queue) = unbounded();
        let figures = LogFigures { room: AtomicU64::new(u64::MAX), ..LogFigures::default() };
        (LogHandle { requests, figures: Arc::new(figures), to: 0 }, queue)
    }

    /// Appends a batch. With a mark it is synced, and the shard hears of it once it is safe. `bytes` is about what the
    /// batch takes.
    pub fn append(&self, batch: Vec<Append>, bytes: u64, mark: Option<SyncMark>) {
        self.figures.outstanding.fetch_add(bytes, Ordering::AcqRel);
        self.send(Request::Append { batch, bytes, mark, to: self.to });
    }

    /// Whether an entry of so many bytes has room beside what is on its way.
    pub fn has_room(&self, bytes: u64) -> bool {
        let outstanding = self.figures.outstanding.load(Ordering::Acquire);
        // A frame that does not fit into what is left of a file leaves that much unused: hence twice.
        self.figures.room.load(Ordering::Acquire) >= 2 * (outstanding + bytes) + SLACK_BYTES
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

/// A way to let further shards use a running log. The thread ends only after it is gone.
#[derive(Clone)]
pub struct LogOpener {
    requests: Sender<Request>,
    figures: Arc<LogFigures>,
}

impl LogOpener {
    /// Has the log begin with what `begin` says for a shard, synced, and gives it its part. None: the log has nothing of the
    /// shard. Waits for the log thread.
    pub fn open(&self, shard: ShardId, listener: Listener, begin: Begin) -> Result<Option<OpenedShard>, LogError> {
        let (reply, answer) = bounded(1);
        let open = Open { shard, begin, listener, reply };
        self.requests.send(Request::Open(open)).map_err(|_| LogError::Dead)?;
        let opened = answer.recv().map_err(|_| LogError::Dead)??;
        Ok(opened.map(|(state, reader, to)| {
            let handle = LogHandle { requests: self.requests.clone(), figures: self.figures.clone(), to };
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
        let (requests, queue) = unbounded();
        let opener = LogOpener { requests: requests.clone(), figures: figures.clone() };
        let handles = (0..listeners.len())
            .map(|to| LogHandle { requests: requests.clone(), figures: figures.clone(), to })
            .collect();
        let now = Instant::now();
        let mut owner = Owner { log, path, figures: figures.clone(), listeners, reported: now, told_pins: now };
        owner.publish();
        let thread = std::thread::Builder::new().name("loci-log".into()).spawn(move || {
            fatal::guard("log", || owner.run(&queue));
            owner.log.close()
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
}

impl Owner {
    fn run(&mut self, queue: &Receiver<Request>) {
        let mut synced = Vec::new();
        let mut prepared = false;
        loop {
            let first = if prepared {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(IDLE)
            };
            match first {
                Ok(request) => self.take(request, &mut synced),
                Err(RecvTimeoutError::Timeout) => {
                    prepared = true;
                    match self.log.prepare() {
                        Ok(()) => self.set_full(false),
                        // Nothing needs the space yet; whoever does will say so.
                        Err(LogError::Full { .. }) => {}
                        Err(error) => self.die(&error),
                    }
                    self.publish();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for request in queue.try_iter() {
                self.take(request, &mut synced);
            }
            if synced.is_empty() {
                // Nobody waits for this to be safe; the next sync covers it.
                if let Err(error) = self.log.write() {
                    self.die(&error);
                }
            } else {
                self.sync(&mut synced);
            }
            prepared = false;
        }
    }

    fn take(&mut self, request: Request, synced: &mut Vec<(usize, SyncMark)>) {
        match request {
            Request::Append { batch, bytes, mark, to } => {
                self.append(&batch);
                self.publish_room();
                self.figures.outstanding.fetch_sub(bytes, Ordering::AcqRel);
                let Some(mark) = mark else { return };
                match synced.iter_mut().find(|(shard, _)| *shard == to) {
                    Some((_, last)) => *last = mark,
                    None => synced.push((to, mark)),
                }
            }
            Request::Reserve { bytes, to } => {
                let wanted = 2 * (self.figures.outstanding.load(Ordering::Acquire) + bytes) + SLACK_BYTES;
                // A sync frees the files that all shards have forgotten.
                let reserved = self.log.sync().and_then(|()| self.log.reserve(wanted));
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
            Request::Open(Open { shard, begin, listener, reply }) => {
                let opened = self.open(shard, begin, listener);
                // Whoever asked may be gone.
                let _ = reply.send(opened);
            }
        }
    }

    fn open(&mut self, shard: ShardId, begin: Begin, listener: Listener) -> Answer {
        let batch = begin(self.log.shard(shard));
        if !batch.is_empty() {
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

    /// Appends, however long the disk has no space: the shard has already acted on this batch.
    fn append(&mut self, batch: &[Append]) {
        loop {
            match self.log.append(batch) {
                Ok(()) => return,
                Err(LogError::Full { needed, .. }) => {
                    self.set_full(true);
                    for (_, listener) in &self.listeners {
                        listener(Report::Full { needed_bytes: needed });
                    }
                    std::thread::sleep(RETRY_EVERY);
                }
                Err(error) => self.die(&error),
            }
        }
    }

    fn sync(&mut self, synced: &mut Vec<(usize, SyncMark)>) {
        let begun = Instant::now();
        if let Err(error) = self.log.sync() {
            self.die(&error);
        }
        let took = begun.elapsed();
        self.figures.sync_seconds.observe(took);
        if took > SLOW_SYNC {
            tracing::warn!(millis = took.as_millis() as u64, "the disk was slow to sync the log");
        }
        for (to, number) in synced.drain(..) {
            self.listeners[to].1(Report::Synced(number));
        }
        self.publish_room();
        if self.reported.elapsed() > IDLE {
            self.publish();
        }
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
        if stats.files >= PINNED_FILES
            && let Some((_, listener)) = self.listeners.iter().find(|(shard, _)| stats.pinned_by == Some(*shard))
            && self.told_pins.elapsed() >= PINS_EVERY
        {
            self.told_pins = self.reported;
            listener(Report::Pins);
        }
    }

    fn die(&self, error: &LogError) -> ! {
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        fatal::stop(&format!("the log in {} failed: {error}{source}", self.path.display()))
    }
}
