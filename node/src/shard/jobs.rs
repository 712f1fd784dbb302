//! The slow work of a store, on threads of its own: checkpoints on one, merges on another.
//!
//! A merge builds graphs and may take minutes; checkpoints must not wait for it, because buffers and the log grow until
//! one is done. The merging thread runs at lower priority.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use loci_index::directory::Directory;
use loci_index::store::{Job, JobKind};

use super::Event;
use crate::fatal;

/// How much the merging thread yields to others, in steps of `nice`.
const MERGE_NICENESS: i32 = 10;

/// The threads of one store's jobs.
pub(super) struct Jobs {
    checkpoints: Sender<Job>,
    merges: Sender<Job>,
    cancel_merges: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Jobs {
    /// Starts them. What comes of each job is sent as an event.
    pub fn start(directory: Arc<dyn Directory>, events: Sender<Event>) -> std::io::Result<Jobs> {
        let cancel_merges = Arc::new(AtomicBool::new(false));
        let (checkpoints, checkpoint_queue) = unbounded();
        let (merges, merge_queue) = unbounded();
        let checkpoint_thread = {
            let (directory, events) = (directory.clone(), events.clone());
            std::thread::Builder::new()
                .name("loci-checkpoint".into())
                .spawn(move || run(&checkpoint_queue, &*directory, &events, &AtomicBool::new(false)))?
        };
        let merge_thread = {
            let cancel = cancel_merges.clone();
            std::thread::Builder::new().name("loci-merge".into()).spawn(move || {
                // Of this thread alone on Linux. Without the right to do so merges merely compete with searches.
                let _ = rustix::process::setpriority_process(None, MERGE_NICENESS);
                run(&merge_queue, &*directory, &events, &cancel);
            })?
        };
        Ok(Jobs { checkpoints, merges, cancel_merges, threads: vec![checkpoint_thread, merge_thread] })
    }

    /// Hands a job to its thread.
    pub fn begin(&self, job: Job) {
        let queue = match job.kind() {
            JobKind::Checkpoint => &self.checkpoints,
            JobKind::Merge => &self.merges,
        };
        // The threads end only after this value.
        let _ = queue.send(job);
    }

    /// Ends a running merge early, without effect.
    pub fn cancel_merges(&self) {
        self.cancel_merges.store(true, Ordering::Relaxed);
    }

    /// Waits until the threads have ended.
    pub fn join(self) {
        let Jobs { checkpoints, merges, threads, .. } = self;
        drop((checkpoints, merges));
        for thread in threads {
            // Panics are dealt with inside.
            let _ = thread.join();
        }
    }
}

fn run(queue: &Receiver<Job>, directory: &dyn Directory, events: &Sender<Event>, cancel: &AtomicBool) {
    for job in queue {
        let kind = job.kind();
        match catch_unwind(AssertUnwindSafe(|| job.run(directory, cancel))) {
            // The owner may be gone, and then nobody needs it.
            Ok(done) => drop(events.send(Event::JobDone(done))),
            // The store waits for this merge forever and begins no other: slower, but whole.
            Err(_) if kind == JobKind::Merge => {
                tracing::error!("a merge panicked: segments are not merged any more until the next start");
            }
            Err(_) => fatal::stop("a checkpoint panicked: the log could not be shortened any more"),
        }
    }
}
