//! What is done when nobody needs the processor: finding out how good search is, and mending it where it is not.
//!
//! ```text
//!   search --one of so many--> queue (bounded; full: dropped and counted) --> recall: the same search, exactly
//!                                                                             |
//!   segments --so many records a second--> walker: each record by its own embedding --unfound--> shard: link anew
//! ```
//!
//! Both share one thread of the lowest priority. It waits while searches wait, rests nine times as long as it worked on an
//! exact search, and drops what it does not get to: a figure is never worth an answer that comes late. Where segments do
//! not fit into memory, an exact search would push out what the others need, so none is run; and where not even the graphs
//! do, the walker rests too.

pub mod recall;
pub mod walker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use loci_index::view::SearchScratch;

use crate::residency::{ResidencyFigures, State};
use crate::search_threads::SearchThreads;
use crate::shard::ShardHandle;
use crate::shards::Shards;
use recall::{Recall, Samples};
use walker::{Walker, WalkerFigures};

/// How much the thread yields to others: the most there is, in steps of `nice`.
const NICENESS: i32 = 19;
/// How often the walker gets its turn; also how long the end of the node may have to wait.
const TURN: Duration = Duration::from_millis(100);
/// How often figures of collections that are gone are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// How long to look away while searches wait.
const LOOK_AWAY: Duration = Duration::from_millis(1);
/// A work that searches kept waiting for so long is given up.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Whether there is nothing better to do: asked again and again by what runs here.
pub(crate) struct Pace {
    search: SearchThreads,
    residency: Arc<ResidencyFigures>,
    stopping: AtomicBool,
}

impl Pace {
    /// Waits while searches wait. No: the node stops, or it took too long.
    fn go_on(&self, waited: &mut Duration) -> bool {
        while self.search.queued() > 0 {
            if self.is_stopping() || *waited >= WAIT_MAX {
                return false;
            }
            std::thread::sleep(LOOK_AWAY);
            *waited += LOOK_AWAY;
        }
        !self.is_stopping()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// The running thread.
pub(crate) struct Idle {
    pace: Arc<Pace>,
    thread: JoinHandle<()>,
}

impl Idle {
    /// Starts the thread.
    pub fn start(
        search: SearchThreads,
        residency: Arc<ResidencyFigures>,
        shards: Shards,
        (recall, samples): (Arc<Recall>, Samples),
        (walk_rate, figures): (u32, Arc<WalkerFigures>),
    ) -> std::io::Result<Idle> {
        let pace = Arc::new(Pace { search, residency, stopping: AtomicBool::new(false) });
        let shared = pace.clone();
        let walkers =
            Walkers { shards: shards.clone(), rate: walk_rate, figures: figures.clone(), all: BTreeMap::new() };
        let thread = std::thread::Builder::new().name("loci-idle".into()).spawn(move || {
            // Of this thread alone on Linux. Without the right to do so it merely competes with the others.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            run(&shared, &recall, &samples, walkers, || {
                let views: Vec<_> = shards.handles().iter().map(ShardHandle::newest).collect();
                let is_there = |id| views.iter().any(|view| view.collection_by_id(id).is_some());
                recall.forget_dropped(is_there);
                figures.forget_dropped(is_there);
            });
        })?;
        Ok(Idle { pace, thread })
    }

    /// Ends the thread; takes a tenth of a second.
    pub fn stop(self) {
        self.pace.stopping.store(true, Ordering::Relaxed);
        // A panic in it was told of, and cost nothing but figures.
        let _ = self.thread.join();
    }
}

/// One walker for each shard, which share the rate.
struct Walkers {
    shards: Shards,
    rate: u32,
    figures: Arc<WalkerFigures>,
    all: BTreeMap<u32, Walker>,
}

impl Walkers {
    fn turn(&mut self, pace: &Pace, scratch: &mut SearchScratch) {
        for shard in self.shards.handles() {
            let new = || Walker::new(shard.clone(), self.figures.clone());
            self.all.entry(shard.id()).or_insert_with(new);
        }
        let rate = f64::from(self.rate) / self.all.len().max(1) as f64;
        for walker in self.all.values_mut() {
            walker.turn(rate, pace, scratch);
        }
    }
}

fn run(pace: &Pace, recall: &Recall, samples: &Samples, mut walkers: Walkers, forget_dropped: impl Fn()) {
    let mut scratch = SearchScratch::new();
    let mut rested = Instant::now();
    let mut forgotten = Instant::now();
    while !pace.is_stopping() {
        let rest = rested.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            if let Some(sample) = samples.wait(TURN) {
                let begun = Instant::now();
                recall.judge(sample, pace, &mut scratch);
                rested = Instant::now() + begun.elapsed() * recall::REST_TIMES;
            }
        } else {
            std::thread::sleep(rest.min(TURN));
        }
        if pace.residency.state() != State::Cold {
            walkers.turn(pace, &mut scratch);
        }
        if forgotten.elapsed() >= FORGET_EVERY {
            forgotten = Instant::now();
            forget_dropped();
        }
    }
}

#[cfg(test)]
mod tests;
