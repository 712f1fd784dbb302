//! The simulation: a whole cluster in one thread, made of the real parts, on made-up machines.
//!
//! ```text
//!   real: the shard's owner, its queue and handle, replica, log with its recovery, store with its jobs, messages' bytes,
//!         how snapshots are sent and received
//!   made up, from one seed: time, the order of events, network, disks, clocks, crashes, what clients want
//!
//!   several shards on the machines' one log each, drawn for each seed
//!
//!   queue of events by virtual time --> machine (take, turn) --> log, jobs, messages, answers --> queue
//!                                            \--> checks after every turn: oracle, chains, digests, terms, reads
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`world`] | what happens next, and a machine's turn |
//! | [`machine`], [`disk`] | disks and clock, and the process that runs on them; disks that break promises |
//! | [`member`], [`shards`] | a machine's part in a shard; what is known of a shard as a whole |
//! | [`logs`], [`here`] | the log's thread; a shard's own thread at the log, and how it ends there |
//! | [`promises`] | what a log must still have when it is opened again |
//! | [`mail`], [`network`] | what members say to each other; what happens to it on its way |
//! | [`transfers`], [`place`] | snapshots on their way, in pieces; where they are received, and take a store's place |
//! | [`faults`], [`strikes`] | which faults, how often; what each does |
//! | [`troubles`], [`repairs`] | damaged and unreadable files; how their machines come back |
//! | [`joiners`] | members that change |
//! | [`clients`], [`calls`] | what is asked for; how calls go and what must be true of their answers |
//! | [`tables`] | typed values: what clients must hear of them |
//! | [`draws`] | and what they ask for |
//! | [`oracle`], [`checks`] | what must be; whether it is |
//! | [`histories`] | what clients were told, for the search for an order of it |
//! | [`planted`] | mistakes made on purpose, to see that they are found |
//! | [`directed`] | runs in which one thing is made to happen |
//!
//! Always:
//! - the same seed gives the same run, event for event; a [`Summary`] has a hash of all of them;
//! - a run has three parts: collections are made; things go wrong for a minute; everything works again, and then a write
//!   must get through and all members must come to the same state.

mod calls;
mod checks;
pub mod clients;
pub mod directed;
mod disk;
pub mod faults;
mod here;
mod histories;
mod joiners;
mod logs;
mod machine;
mod mail;
mod member;
mod place;
mod repairs;
mod transfers;
mod troubles;
mod network;
mod oracle;
pub mod planted;
mod promises;
mod shards;
mod strikes;
mod draws;
pub mod tables;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use planted::Planted;
use world::World;

/// Virtual time since the beginning of the run, in nanoseconds.
pub type Nanos = u64;
const MICROS: Nanos = 1_000;
const MILLIS: Nanos = 1_000_000;
const SECONDS: Nanos = 1_000_000_000;

/// What a violation says that is about progress.
const NOT_WELL: &str = "after everything works again";

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

type Checked<T = ()> = Result<T, Violation>;

fn violation<T>(what: impl Into<String>) -> Checked<T> {
    Err(Violation(what.into()))
}

/// How often rare things happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached(pub BTreeMap<&'static str, u64>);

impl Reached {
    fn mark(&mut self, what: &'static str) {
        self.count(what, 1);
    }

    fn count(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.0.entry(what).or_default() += times;
        }
    }

    /// How often that was reached.
    pub fn times(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Takes in what another run reached.
    pub fn add(&mut self, other: &Reached) {
        for (what, times) in &other.0 {
            self.count(what, *times);
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, times) in &self.0 {
            writeln!(f, "{times:>10}  {what}")?;
        }
        Ok(())
    }
}

/// What a run came to that found nothing wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Of everything that happened, in order.
    pub hash: u64,
    /// Virtual time.
    pub nanos: Nanos,
    /// What was reached.
    pub reached: Reached,
    /// The history was too hard to decide; everything else was checked.
    pub undecided: bool,
}

/// What happened, as one number, and as lines if somebody wants to read them.
struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    fn note(&mut self, now: Nanos, what: &'static str, numbers: &[u64]) {
        let mut hash = self.hash;
        for number in [now, u64::from(crc32fast::hash(what.as_bytes()))].iter().chain(numbers) {
            hash = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        self.hash = hash;
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>14.6} ms {what} {numbers:?}", now as f64 / 1e6));
        }
    }
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Where all chance comes from.
    pub seed: u64,
    /// How long things go wrong, in virtual seconds.
    pub seconds: u64,
    /// What is wrong with the program.
    pub planted: Option<Planted>,
}

impl Run {
    /// A minute of this seed.
    pub fn of(seed: u64) -> Run {
        Run { seed, seconds: 60, planted: None }
    }

    /// Runs it.
    pub fn run(self) -> Result<Summary, Violation> {
        self.run_traced(&mut Trace { hash: self.seed, lines: None })
    }

    /// Runs it again, and says what happened last, for whoever must find out why.
    pub fn explain(self, lines: usize) -> String {
        let mut trace = Trace { hash: self.seed, lines: Some(Vec::new()) };
        let ended = self.run_traced(&mut trace);
        let all = trace.lines.unwrap_or_default();
        let last = &all[all.len().saturating_sub(lines)..];
        format!("{}\n{:?}", last.join("\n"), ended.map(|summary| summary.hash))
    }

    fn run_traced(self, trace: &mut Trace) -> Result<Summary, Violation> {
        inside(|| World::new(self, trace).run())
    }
}

/// Has something happen to a world; a panic of a part is a violation.
fn inside<T>(happens: impl FnOnce() -> Checked<T>) -> Checked<T> {
    // Waits of the shard's handle that have no deadline still ask for a timer. Nothing drives this one, so it never
    // fires: time is virtual.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without threads or sockets");
    let _inside = runtime.enter();
    let ran = catch_unwind(AssertUnwindSafe(happens));
    ran.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().map(|said| said.to_string());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        violation(format!("a part panicked: {said}"))
    })
}
