//! The scrub: everything that a node keeps of its shards is read again and again, and compared with its checksums.
//!
//! ```text
//!   round: each shard --> files that its manifest names, segments that it has --> sound? --no--> looked at once more
//!            |                                                                                       |
//!            v                                                                                       '--> the shard is told
//!          the log --> files that are full --> sound? --no--> looked at once more --> the shards need them no longer, and they go
//!            |
//!            '--> rest, nine times as long as that took (a second at least, an hour at most)
//! ```
//!
//! A disk may give back other bytes than it was given, months later, of a file that nobody reads. Segments are checked when they are
//! opened; a node that runs for long would serve what it does not notice. What is found is dealt with by the shard
//! ([`crate::shard::Damage`]) and by [`repair`](crate::cluster::repair).
//!
//! One thread of the lowest priority reads no faster than it was told to, and leaves in memory what it found there and nothing else; of
//! the log's files nothing, so that the second reading is one of the disk.
//!
//! A node that starts reads all files of its log, and does not start where one of them is damaged, because it could have forgotten
//! what it promised. While it runs it knows, and each file of the log begins with all promises: so a damaged one needs only to go,
//! before the next start. What stands in it is in the shards' checkpoints, or soon will be; who lacks it is sent a snapshot.
//!
//! Always: what is damaged was found so twice, of two readings; and what counts as damaged no longer was right in two.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use loci_index::directory::{DirectoryError, MmapDirectory};
use loci_index::store::{MANIFEST_FILE, StoreError, check_file, named_files};
use loci_raft::{Checked, LogChecker};

use crate::log_thread::{LogCare, tell_gone};
use crate::shard::{Damage, FoundBy};
use crate::shards::{Served, Shards};

/// How much the thread yields to others: the most there is, in steps of `nice`.
const NICENESS: i32 = 19;
/// After a round it rests so many times as long as the round took,
const REST_TIMES: u32 = 9;
/// at least
const REST_MIN: Duration = Duration::from_secs(1);
/// and at most so long.
const REST_MAX: Duration = Duration::from_secs(3_600);
/// What looks damaged is looked at again after this: files come and go.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often shards are asked to need a damaged file of the log no longer,
const LET_GO_EVERY: Duration = Duration::from_secs(1);
/// and how often it is told that it is still there.
const TELL_EVERY: Duration = Duration::from_secs(600);

/// What the scrub tells.
#[derive(Debug, Default)]
pub struct ScrubFigures {
    bytes: AtomicU64,
    files: AtomicU64,
    rounds: AtomicU64,
}

impl ScrubFigures {
    /// Bytes read.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Files that were found sound.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// How often everything was read.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

/// The running thread.
pub(crate) struct Scrub {
    stopping: Arc<AtomicBool>,
    /// None: nothing is read.
    thread: Option<JoinHandle<()>>,
}

impl Scrub {
    /// Starts it; with no bytes a second it does nothing.
    pub fn start(
        bytes_per_second: u64,
        shards: Shards,
        log: LogCare,
        figures: Arc<ScrubFigures>,
    ) -> std::io::Result<Scrub> {
        let stopping = Arc::new(AtomicBool::new(false));
        if bytes_per_second == 0 {
            return Ok(Scrub { stopping, thread: None });
        }
        let now = Instant::now();
        let stops = stopping.clone();
        let mut reader =
            Reader { shards, log, figures, bytes_per_second, next: now, told: None, let_go_at: now, stopping: stops };
        let thread = std::thread::Builder::new().name("loci-scrub".into()).spawn(move || {
            // Of this thread alone on Linux. Without the right to do so it merely competes with the others.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            while !reader.is_stopping() {
                let begun = Instant::now();
                reader.round();
                let rest = (begun.elapsed() * REST_TIMES).clamp(REST_MIN, REST_MAX);
                reader.wait_until(Instant::now() + rest);
            }
        })?;
        Ok(Scrub { stopping, thread: Some(thread) })
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread {
            thread.thread().unpark();
            // A panic in it was told of; damage is found at the next start then.
            let _ = thread.join();
        }
    }
}

struct Reader {
    shards: Shards,
    log: LogCare,
    figures: Arc<ScrubFigures>,
    bytes_per_second: u64,
    /// When the next part may be read.
    next: Instant,
    /// While a file of the log is damaged: when that was last told.
    told: Option<Instant>,
    /// When the shards are asked again to need it no longer.
    let_go_at: Instant,
    stopping: Arc<AtomicBool>,
}

impl Reader {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Has damaged files of the log go meanwhile, and if nothing is left to wait for, too.
    fn wait_until(&mut self, moment: Instant) {
        while !self.is_stopping() {
            if self.told.is_some() && Instant::now() >= self.let_go_at {
                self.let_go();
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(if self.told.is_some() { left.min(LET_GO_EVERY) } else { left });
        }
    }

    /// Waits until so many bytes more may be read. No: the node stops.
    fn may_read(&mut self, bytes: u64) -> bool {
        self.wait_until(self.next);
        self.next =
            self.next.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.figures.bytes.fetch_add(bytes, Ordering::Relaxed);
        !self.is_stopping()
    }

    fn round(&mut self) {
        for served in self.shards.all() {
            for name in files(&served).into_iter().flatten() {
                self.look_at(&served, &name);
                if self.is_stopping() {
                    return;
                }
            }
            // Merged away, or taken in anew.
            for (file, _) in served.handle.damages() {
                if files(&served).is_some_and(|needed| !needed.contains(&file)) {
                    served.handle.damage_gone(&file);
                }
            }
        }
        for sequence in self.log.checker().full() {
            self.look_at_log(sequence);
            if self.is_stopping() {
                return;
            }
        }
        self.figures.rounds.fetch_add(1, Ordering::Relaxed);
    }

    fn look_at_log(&mut self, sequence: u64) {
        let checker = self.log.checker().clone();
        let first = match checker.check(sequence, &mut |bytes| self.may_read(bytes)) {
            Ok(Checked::Sound) => {
                self.figures.files.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(_) => return,
            Err(error) => error,
        };
        self.wait_until(Instant::now() + AGAIN_AFTER);
        let file = LogChecker::name(sequence);
        match checker.check(sequence, &mut |bytes| self.may_read(bytes)) {
            Ok(Checked::Sound) => {
                tracing::warn!(file, error = %first, "a file of the log was read wrong, and right the next time")
            }
            Ok(_) => {}
            Err(error) if error.is_damage() => {
                tracing::error!(
                    file,
                    %error,
                    "a file of the log is damaged: what is in it goes into the shards' checkpoints, and then it goes; until \
                     then this node would not start again: look at the disk"
                );
                self.log.damage_found(sequence);
                self.told.get_or_insert_with(Instant::now);
                self.let_go();
            }
            Err(error) => tracing::warn!(file, %error, "a file of the log could not be checked"),
        }
    }

    /// Has damaged files of the log go, as soon as nobody needs what stands there.
    fn let_go(&mut self) {
        self.let_go_at = Instant::now() + LET_GO_EVERY;
        let (gone, kept_for) = self.log.let_go();
        gone.into_iter().for_each(tell_gone);
        let Some(kept_for) = kept_for else {
            self.told = None;
            return;
        };
        if self.told.is_some_and(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::error!(
                shards = ?kept_for,
                "a damaged file of the log is still needed, because no checkpoint has what is in it: this node would not \
                 start again"
            );
        }
    }

    fn look_at(&mut self, served: &Served, name: &str) {
        let first = match self.check(served, name) {
            Ok(()) if served.handle.is_damaged(name) => return self.doubt_damage(served, name),
            Ok(()) => return,
            Err(error) => error,
        };
        self.wait_until(Instant::now() + AGAIN_AFTER);
        let is_needed = || files(served).is_some_and(|needed| needed.contains(name));
        if self.is_stopping() || !is_needed() {
            return;
        }
        let shard = served.handle.id();
        match self.check(served, name) {
            Ok(()) => {
                tracing::warn!(shard, file = name, error = %first, "a file was read wrong, and right the next time")
            }
            Err(error) if error.is_damage() && is_needed() => {
                let damage = Damage { file: name.to_owned(), what: error.to_string(), by: FoundBy::Scrub };
                served.handle.damage_found(damage);
            }
            Err(error) => tracing::warn!(shard, file = name, %error, "a file could not be checked"),
        }
    }

    /// A file that counts as damaged was read right.
    fn doubt_damage(&mut self, served: &Served, name: &str) {
        self.wait_until(Instant::now() + AGAIN_AFTER);
        if self.check(served, name).is_ok() && !self.is_stopping() {
            served.handle.damage_refuted(name);
        }
    }

    /// Well, or the node stops.
    fn check(&mut self, served: &Served, name: &str) -> Result<(), StoreError> {
        let file = MmapDirectory::used(&served.files).open_to_check(name)?;
        if check_file(&file, &mut |bytes| self.may_read(bytes))? {
            self.figures.files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The files that a shard needs, as far as its manifest can be read; none: it has just ended, or is just taking in another state.
fn files(served: &Served) -> Option<BTreeSet<String>> {
    let directory = MmapDirectory::used(&served.files);
    let named = match named_files(&directory) {
        Ok(named) => named,
        // It is looked at like any other file.
        Err(error) if !is_missing(&error) => vec![MANIFEST_FILE.to_owned()],
        Err(_) => return None,
    };
    let view = served.handle.newest();
    let segments = view.segments().map(|(_, segment)| segment.name().to_owned());
    Some(named.into_iter().chain(segments).collect())
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::Missing | StoreError::Directory(DirectoryError::Missing(_)))
}
