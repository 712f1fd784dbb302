//! The scrub: everything that a node keeps of its shards is read again and again, and compared with its checksums.
//!
//! ```text
//!   round: each shard --> files that its manifest names, segments that it has --> sound? --no--> looked at once more
//!            |                                                                                       |
//!            '--> rest, nine times as long as that took (a second at least, an hour at most)         '--> the shard is told
//! ```
//!
//! A disk may give back other bytes than it was given, months later, of a file that nobody reads. Segments are checked when they are
//! opened; a node that runs for long would serve what it does not notice. What is found is dealt with by the shard
//! ([`crate::shard::Damage`]) and by [`repair`](crate::cluster::repair).
//!
//! One thread of the lowest priority reads no faster than it was told to, and leaves in memory what it found there and nothing else.
//! The files of the log are not read: those that still matter are read at the start, and by members that are behind.
//!
//! Always: what is damaged was found so twice, of two readings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use loci_index::directory::{DirectoryError, MmapDirectory};
use loci_index::store::{MANIFEST_FILE, StoreError, check_file, named_files};

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
    pub fn start(bytes_per_second: u64, shards: Shards, figures: Arc<ScrubFigures>) -> std::io::Result<Scrub> {
        let stopping = Arc::new(AtomicBool::new(false));
        if bytes_per_second == 0 {
            return Ok(Scrub { stopping, thread: None });
        }
        let now = Instant::now();
        let mut reader = Reader { shards, figures, bytes_per_second, next: now, stopping: stopping.clone() };
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
    figures: Arc<ScrubFigures>,
    bytes_per_second: u64,
    /// When the next part may be read.
    next: Instant,
    stopping: Arc<AtomicBool>,
}

impl Reader {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn wait_until(&self, moment: Instant) {
        while !self.is_stopping() {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
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
        self.figures.rounds.fetch_add(1, Ordering::Relaxed);
    }

    fn look_at(&mut self, served: &Served, name: &str) {
        let Err(first) = self.check(served, name) else { return };
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
