//! The search threads: where work longer than a few hundred microseconds runs, so that no socket waits for it.
//!
//! ```text
//!   door --run(deadline, work)--> queue (bounded; full: overloaded) --> one of as many threads as processors
//!        <------- result ---------------------------------------------'
//!        --run_here------> work that is known to be shorter, right here
//! ```
//!
//! Handing a work to another thread and waking the one that waits costs as much as a short search.
//!
//! Every thread keeps one [`SearchScratch`] and hands it to each work in turn, so that a search allocates nothing that the
//! one before it had. Work is asked to look at `keep_going` again and again: it says no once the deadline has passed or
//! nobody waits any more.
//!
//! Always: a work that panics takes only itself down. Its caller is told, the thread goes on with a fresh scratch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use loci_index::view::SearchScratch;
use tokio::sync::oneshot;

use crate::trace;

/// The most works that may wait for each thread. At a millisecond each, the last of them waits an eighth of a second.
pub const QUEUE_MAX_PER_THREAD: usize = 128;
const RETRY_AFTER_MIN: Duration = Duration::from_millis(5);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// Why a work was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Too many works wait.
    #[error("too many searches are waiting; retry after {} ms", retry_after.as_millis())]
    Overloaded {
        /// When there will probably be room.
        retry_after: Duration,
    },
    /// The deadline passed first.
    #[error("the deadline passed before the search was done")]
    DeadlineExceeded,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// A fault of this program; the node goes on.
    #[error("the search failed by a fault of the program; its log says more")]
    Panicked,
}

const PANICKED: &str = "a search panicked: its caller was told, the node goes on";

type Work = Box<dyn FnOnce(&mut SearchScratch) + Send>;

/// A fixed number of threads that search. Cheap to clone; all clones share the threads.
#[derive(Clone)]
pub struct SearchThreads(Arc<Threads>);

struct Threads {
    /// `None` once the threads are told to end.
    queue: Mutex<Option<Sender<Work>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    count: usize,
    counters: Arc<Counters>,
    /// For works that are done where they came in: as many as there ever were at a time.
    here: Mutex<Vec<SearchScratch>>,
}

#[derive(Default)]
struct Counters {
    running: AtomicUsize,
    /// How long the last work took, in microseconds.
    work_micros: AtomicU64,
    search_cpu_nanos: AtomicU64,
}

impl SearchThreads {
    /// Starts as many threads as there are processors.
    pub fn start() -> std::io::Result<SearchThreads> {
        SearchThreads::with_threads(std::thread::available_parallelism().map_or(2, usize::from))
    }

    fn with_threads(count: usize) -> std::io::Result<SearchThreads> {
        let (sender, receiver) = bounded::<Work>(count * QUEUE_MAX_PER_THREAD);
        let counters = Arc::new(Counters::default());
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let (receiver, counters) = (receiver.clone(), counters.clone());
            let thread = std::thread::Builder::new().name(format!("loci-search-{number}"));
            threads.push(thread.spawn(move || serve(&receiver, &counters))?);
        }
        let queue = Mutex::new(Some(sender));
        let (threads, here) = (Mutex::new(threads), Mutex::default());
        Ok(SearchThreads(Arc::new(Threads { queue, threads, count, counters, here })))
    }

    /// Runs work on one of the threads and waits for its result, until the deadline at the longest.
    ///
    /// `work` gets the thread's scratch and a question whether to go on. Dropping the future makes the answer no.
    pub async fn run<R, F>(&self, deadline: Instant, work: F) -> Result<R, RunError>
    where
        R: Send + 'static,
        F: FnOnce(&mut SearchScratch, &mut dyn FnMut() -> bool) -> R + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let traced = trace::here().map(|spot| (spot, Instant::now()));
        let work = Box::new(move |scratch: &mut SearchScratch| {
            if reply.is_closed() || Instant::now() >= deadline {
                return;
            }
            let mut keep_going = || !reply.is_closed() && Instant::now() < deadline;
            let traced = traced.map(|(spot, queued)| {
                let begun = Instant::now();
                spot.step("search queue", queued, begun, []);
                (spot, begun)
            });
            let result = work(scratch, &mut keep_going);
            if let Some((spot, begun)) = traced {
                spot.step("search", begun, Instant::now(), []);
            }
            // Nobody waiting is no error.
            let _ = reply.send(result);
        });
        self.enqueue(work)?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) if Instant::now() >= deadline => Err(RunError::DeadlineExceeded),
            Ok(Err(_)) => Err(RunError::Panicked),
            Err(_) => Err(RunError::DeadlineExceeded),
        }
    }

    /// Does a work right here, which the caller knows to take no longer than a few hundred microseconds.
    pub fn run_here<R>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&mut SearchScratch, &mut dyn FnMut() -> bool) -> R,
    ) -> Result<R, RunError> {
        if self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Err(RunError::Stopping);
        }
        let mut scratch = self.0.here.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        self.0.counters.running.fetch_add(1, Ordering::Relaxed);
        let mut keep_going = || Instant::now() < deadline;
        let traced = trace::here().map(|spot| (spot, Instant::now()));
        let result = catch_unwind(AssertUnwindSafe(|| work(&mut scratch, &mut keep_going)));
        if let Some((spot, begun)) = traced {
            spot.step("search", begun, Instant::now(), []);
        }
        self.0.counters.running.fetch_sub(1, Ordering::Relaxed);
        if result.is_err() {
            tracing::error!("{PANICKED}");
            scratch = SearchScratch::default();
        }
        self.0.here.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        result.map_err(|_| RunError::Panicked)
    }

    /// Tells how much processor time it took to find what one search asks for.
    pub fn searched(&self, cpu_nanos: u64) {
        self.0.counters.search_cpu_nanos.fetch_add(cpu_nanos, Ordering::Relaxed);
    }

    /// What all searches together took.
    pub fn search_cpu_nanos(&self) -> u64 {
        self.0.counters.search_cpu_nanos.load(Ordering::Relaxed)
    }

    /// Works that wait.
    pub fn queued(&self) -> usize {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Sender::len)
    }

    /// Works being done.
    pub fn running(&self) -> usize {
        self.0.counters.running.load(Ordering::Relaxed)
    }

    /// Takes no more work, finishes what is there, and ends the threads.
    pub fn stop(&self) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A search thread does not panic: what it runs is caught.
            let _ = thread.join();
        }
    }

    fn enqueue(&self, work: Work) -> Result<(), RunError> {
        let queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = queue.as_ref().ok_or(RunError::Stopping)?;
        match sender.try_send(work) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                let each = self.0.counters.work_micros.load(Ordering::Relaxed);
                let ahead = (sender.len() / self.0.count) as u64;
                let retry_after = Duration::from_micros(each * ahead).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
                Err(RunError::Overloaded { retry_after })
            }
            Err(TrySendError::Disconnected(_)) => Err(RunError::Stopping),
        }
    }
}

fn serve(queue: &Receiver<Work>, counters: &Counters) {
    let mut scratch = SearchScratch::default();
    for work in queue {
        counters.running.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| work(&mut scratch))).is_err() {
            tracing::error!("{PANICKED}");
            scratch = SearchScratch::default();
        }
        counters.work_micros.store(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        counters.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Occupies the only thread until the sender is dropped.
    async fn occupy(threads: &SearchThreads) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let work = threads.clone();
        tokio::spawn(async move {
            work.run(later(), move |_, _| {
                begun.send(()).unwrap();
                let _ = released.recv();
            })
            .await
        });
        begins.await.unwrap();
        release
    }

    #[tokio::test]
    async fn the_result_of_a_work_reaches_its_caller() {
        let threads = SearchThreads::start().unwrap();
        assert_eq!(threads.run(later(), |_, keep_going| (keep_going(), 7)).await, Ok((true, 7)));
        threads.stop();
        assert_eq!(threads.run(later(), |_, _| 7).await, Err(RunError::Stopping));
    }

    #[tokio::test]
    async fn a_work_that_panics_takes_only_itself_down() {
        let threads = SearchThreads::with_threads(1).unwrap();
        let panics = threads.run(later(), |_, _| -> u8 { panic!("this panic is part of the test") });
        assert_eq!(panics.await, Err(RunError::Panicked));
        assert_eq!(threads.run(later(), |_, _| 7).await, Ok(7));
        threads.stop();
        assert_eq!(threads.running(), 0);
    }

    #[tokio::test]
    async fn a_short_work_is_done_where_it_came_in() {
        let here = std::thread::current().id();
        let threads = SearchThreads::with_threads(1).unwrap();
        assert_ne!(threads.run(later(), |_, _| std::thread::current().id()).await, Ok(here));
        assert_eq!(threads.run_here(later(), |_, _| std::thread::current().id()), Ok(here));
        assert_eq!(threads.run_here(Instant::now(), |_, keep_going| keep_going()), Ok(false));
        let panics = threads.run_here(later(), |_, _| -> u8 { panic!("this panic is part of the test") });
        assert_eq!(panics, Err(RunError::Panicked));
        // One inside another has a scratch of its own.
        let inner = threads.clone();
        assert_eq!(threads.run_here(later(), |_, _| inner.run_here(later(), |_, _| 7)), Ok(Ok(7)));
        // Once its thread has ended too, which answers a caller before it counts a work as done.
        threads.stop();
        assert_eq!(threads.running(), 0);
        assert_eq!(threads.run_here(later(), |_, _| 7), Err(RunError::Stopping));
    }

    #[tokio::test]
    async fn a_full_queue_answers_at_once() {
        let threads = SearchThreads::with_threads(1).unwrap();
        let release = occupy(&threads).await;
        let mut waiting = Vec::new();
        for number in 0..QUEUE_MAX_PER_THREAD {
            let threads = threads.clone();
            waiting.push(tokio::spawn(async move { threads.run(later(), move |_, _| number).await }));
        }
        while threads.queued() < QUEUE_MAX_PER_THREAD {
            tokio::task::yield_now().await;
        }
        let refused = threads.run(later(), |_, _| ()).await.unwrap_err();
        assert!(matches!(refused, RunError::Overloaded { retry_after } if retry_after >= RETRY_AFTER_MIN));
        drop(release);
        for (number, waiting) in waiting.into_iter().enumerate() {
            assert_eq!(waiting.await.unwrap(), Ok(number));
        }
    }

    #[tokio::test]
    async fn work_whose_deadline_has_passed_is_not_begun() {
        let threads = SearchThreads::with_threads(1).unwrap();
        let release = occupy(&threads).await;
        let (begun, begins) = mpsc::channel();
        let soon = Instant::now() + Duration::from_millis(5);
        let late = threads.run(soon, move |_, _| begun.send(()).unwrap());
        assert_eq!(late.await, Err(RunError::DeadlineExceeded));
        drop(release);
        threads.stop();
        assert!(begins.recv().is_err());
    }

    #[tokio::test]
    async fn work_stops_when_nobody_waits_any_more() {
        let threads = SearchThreads::with_threads(1).unwrap();
        let (begun, begins) = oneshot::channel();
        let (ended, ends) = oneshot::channel();
        let work = threads.clone();
        let caller = tokio::spawn(async move {
            work.run(later(), move |_, keep_going| {
                begun.send(()).unwrap();
                while keep_going() {
                    std::thread::yield_now();
                }
                ended.send(()).unwrap();
            })
            .await
        });
        begins.await.unwrap();
        caller.abort();
        ends.await.unwrap();
    }
}
