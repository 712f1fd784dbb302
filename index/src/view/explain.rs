//! How a search went: for each piece of a collection what was chosen and why, and what it cost.
//!
//! A search explains itself into its scratch if that was asked for. Time comes from the caller: a function that says how
//! many nanoseconds have passed since some moment.

use super::select::Covered;

/// Nanoseconds since any fixed moment.
pub type Clock = fn() -> u64;

/// One piece of a collection, as one query searched it: a segment, or the newest records.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Which of the collection's parts that was, counted from 0 ([`super::Parts`]).
    pub part: usize,
    /// The number of the segment; none: the buffers, in memory.
    pub segment: Option<u64>,
    /// How many versions of records there are in it.
    pub rows: u64,
    /// How it was searched.
    pub way: Way,
    /// Why it was searched that way.
    pub why: String,
    /// How much of the filter indexes answer.
    pub covered: Covered,
    /// The share of the rows that was expected to be taken.
    pub estimated: f64,
    /// The share that is: of all rows where that is known, else of those that were asked.
    pub actual: f64,
    /// How often a row was asked whether it is taken.
    pub asked: u64,
    /// Embeddings compared by their codes.
    pub codes: u64,
    /// Embeddings compared in full.
    pub vectors: u64,
    /// Nodes of the graph that were walked through.
    pub hops: u64,
    /// Time to work out from the filter which rows may be taken.
    pub filter_nanos: u64,
    /// Time to choose the way.
    pub plan_nanos: u64,
    /// Time to find the nearest.
    pub find_nanos: u64,
}

/// How a piece was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Every row that may be taken was looked at.
    Scan,
    /// The graph was walked.
    Walk,
    /// The graph was walked past rows that are not taken, without comparing with those.
    WalkPast,
    /// The graph was walked until that cost more than it was to save, and then the rows were looked at.
    WalkThenScan,
    /// The lists of rows were read that have a word, or a dimension, of the query.
    Lists,
}

/// What a search writes down while it goes.
#[derive(Default)]
pub(super) struct Explaining {
    clock: Option<Clock>,
    steps: Vec<Step>,
    start: u64,
    part: usize,
}

/// How a whole search went.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Explanation {
    /// Its pieces, in the order in which they were searched.
    pub steps: Vec<Step>,
    /// Time for all of it.
    pub total_nanos: u64,
}

impl Explaining {
    pub fn start(&mut self, clock: Clock) {
        *self = Explaining { clock: Some(clock), steps: Vec::new(), start: clock(), part: 0 };
    }

    pub fn finish(&mut self) -> Explanation {
        let end = self.now();
        let Explaining { steps, start, .. } = std::mem::take(self);
        Explanation { steps, total_nanos: end.saturating_sub(start) }
    }

    pub fn is_on(&self) -> bool {
        self.clock.is_some()
    }

    /// From now on that part of the collection is searched.
    pub fn enter(&mut self, part: usize) {
        self.part = part;
    }

    /// The part that is searched.
    pub fn part(&self) -> usize {
        self.part
    }

    /// The time, if anybody wants to know.
    pub fn now(&self) -> u64 {
        self.clock.map_or(0, |clock| clock())
    }

    pub fn add(&mut self, step: Step) {
        self.steps.push(step);
    }
}
