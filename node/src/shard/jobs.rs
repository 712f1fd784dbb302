//! The slow work of a store, on threads of its own: checkpoints on one, merges on another, and on a third those merges
//! that are only worth it while nobody writes.
//!
//! A merge builds graphs and may take minutes; checkpoints must not wait for it, because buffers and the log grow until
//! one is done. The merging thread runs at lower priority, the third at the lowest: nobody waits for what it does.
//!
//! Before a checkpoint is written the log is synced, lest it end before the state that it is to go on from: an only member
//! applies what is only written.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use loci_index::directory::{Directory, Named};
use loci_index::store::{Job, JobKind, StoreError, check_file_twice};

use super::{Damage, Event, FoundBy};
use crate::fatal;
use crate::log_thread::Syncer;
use crate::memory::Budget;

/// How much the merging thread yields to others, in steps of `nice`.
const MERGE_NICENESS: i32 = 10;
/// How much the thread that merges at rest does: the most there is.
const REST_NICENESS: i32 = 19;

/// The threads of one store's jobs.
pub(super) struct Jobs {
    checkpoints: Worker,
    merges: Worker,
    /// Merges too, of the kind that nobody waits for.
    rests: Worker,
}

/// One thread with its queue.
struct Worker {
    queue: Sender<Job>,
    /// Raised to end its job early, without effect.
    cancel: Arc<AtomicBool>,
    /// None: whoever holds the other end of the queue runs the jobs.
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(
        name: &str,
        niceness: i32,
        directory: &Arc<dyn Directory>,
        events: &Sender<Event>,
        budget: &Arc<Budget>,
        syncer: Option<Syncer>,
    ) -> std::io::Result<Worker> {
        let (queue, jobs) = channel();
        let cancel = Arc::new(AtomicBool::new(false));
        let (directory, events, cancelled) = (directory.clone(), events.clone(), cancel.clone());
        let budget = budget.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            if niceness > 0 {
                // Of this thread alone on Linux. Without the right to do so it merely competes with searches.
                let _ = rustix::process::setpriority_process(None, niceness);
            }
            run(&jobs, &*directory, &events, &budget, &cancelled, syncer.as_ref());
        })?;
        Ok(Worker { queue, cancel, thread: Some(thread) })
    }
}

impl Jobs {
    /// Starts them. What comes of each job is sent as an event.
    pub fn start(
        directory: &Arc<dyn Directory>,
        events: &Sender<Event>,
        budget: &Arc<Budget>,
        syncer: Option<Syncer>,
    ) -> std::io::Result<Jobs> {
        Ok(Jobs {
            checkpoints: Worker::start("loci-checkpoint", 0, directory, events, budget, syncer)?,
            merges: Worker::start("loci-merge", MERGE_NICENESS, directory, events, budget, None)?,
            rests: Worker::start("loci-rest", REST_NICENESS, directory, events, budget, None)?,
        })
    }

    /// Without threads: whoever holds the queue runs the jobs.
    pub fn driven() -> (Jobs, Receiver<Job>) {
        let (jobs, queue) = channel();
        let worker = || Worker { queue: jobs.clone(), cancel: Arc::default(), thread: None };
        (Jobs { checkpoints: worker(), merges: worker(), rests: worker() }, queue)
    }

    /// Hands a job to its thread.
    pub fn begin(&self, job: Job) {
        let worker = match job.kind() {
            JobKind::Checkpoint => &self.checkpoints,
            JobKind::Merge if job.is_for_rest() => {
                self.rests.cancel.store(false, Ordering::Relaxed);
                &self.rests
            }
            JobKind::Merge => &self.merges,
        };
        // The threads end only after this value.
        let _ = worker.queue.send(job);
    }

    /// Ends a running merge early, without effect.
    pub fn cancel_merges(&self) {
        self.merges.cancel.store(true, Ordering::Relaxed);
        self.cancel_rest();
    }

    /// Ends a running merge early that nobody waits for; the next may run.
    pub fn cancel_rest(&self) {
        self.rests.cancel.store(true, Ordering::Relaxed);
    }

    /// Merges may run again.
    pub fn allow_merges(&self) {
        self.merges.cancel.store(false, Ordering::Relaxed);
    }

    /// Waits until the threads have ended.
    pub fn join(self) {
        let Jobs { checkpoints, merges, rests } = self;
        let threads = [checkpoints, merges, rests].map(|Worker { queue, thread, .. }| {
            drop(queue);
            thread
        });
        for thread in threads.into_iter().flatten() {
            // Panics are dealt with inside.
            let _ = thread.join();
        }
    }
}

fn run(
    queue: &Receiver<Job>,
    directory: &dyn Directory,
    events: &Sender<Event>,
    budget: &Budget,
    cancel: &AtomicBool,
    syncer: Option<&Syncer>,
) {
    for job in queue {
        syncer.map(Syncer::sync);
        let (kind, sources) = (job.kind(), job.sources());
        let _working = budget.work(job.working_bytes());
        match catch_unwind(AssertUnwindSafe(|| job.run(directory, cancel))) {
            // The owner may be gone, and then nobody needs it.
            Ok(done) => drop(events.send(Event::JobDone(done))),
            // The store waits for this merge forever and begins no other: slower, but whole.
            Err(_) if kind == JobKind::Merge => {
                tracing::error!("a merge panicked: segments are not merged any more until the next start");
                // What it read may not have been what was written.
                for file in sources {
                    let checked = check_file_twice(&Named { directory, name: &file }, &mut |_| true, |_| ());
                    if let Some(error) = checked.err().filter(StoreError::is_damage) {
                        let damage = Damage { file, what: error.to_string(), by: FoundBy::Merge };
                        drop(events.send(Event::DamageFound(damage)));
                    }
                }
                drop(events.send(Event::MergeLost));
            }
            Err(_) => fatal::stop("a checkpoint panicked: the log could not be shortened any more"),
        }
    }
}
