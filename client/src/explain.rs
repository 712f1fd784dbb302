//! How a search went.

use std::time::Duration;

use loci_wire::v1;

/// How one query was answered; see [`Search::explain`](crate::Search::explain).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Explanation {
    /// The parts of the collection, in the order in which they were searched: the newest records in memory, then segments.
    pub steps: Vec<Step>,
    /// For all of it; what the steps do not account for is putting their hits together.
    pub total: Duration,
}

/// One part of a collection, as one query searched it.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Which shard it is in.
    pub shard: u32,
    /// The segment's number; none: the newest records, in memory.
    pub segment: Option<u64>,
    /// Versions of records in it.
    pub rows: u64,
    /// How it was searched.
    pub way: Way,
    /// Why it was searched this way, for people.
    pub why: String,
    /// How much of the filter indexes answered.
    pub cover: Cover,
    /// The share of the rows that was expected to be taken, 0 to 1.
    pub estimated_share: f64,
    /// The share that is: of all rows where that is known, else of those that were asked.
    pub actual_share: f64,
    /// How often a row was asked whether it is taken.
    pub asked: u64,
    /// Embeddings compared by their codes.
    pub codes_read: u64,
    /// Embeddings compared in full.
    pub vectors_read: u64,
    /// Nodes of the graph that were walked through.
    pub hops: u64,
    /// Time to work out from the filter which rows may be taken.
    pub filter: Duration,
    /// Time to choose the way.
    pub plan: Duration,
    /// Time to find the nearest.
    pub find: Duration,
}

/// How a part of a collection was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Every row that may be taken was looked at.
    Scan,
    /// The graph was walked.
    Walk,
    /// The graph was walked until that cost more than it was to save, and then the rows were looked at.
    WalkThenScan,
    /// The lists of rows were read that have a word, or a dimension, of the query.
    Lists,
    /// The graph was walked past rows that are not taken, without comparing with those.
    WalkPast,
    /// In a way that this client does not know.
    Other,
}

/// How much of a filter indexes answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// There is no filter.
    Unfiltered,
    /// All of it: no attributes were looked at.
    Whole,
    /// Some of it: attributes were looked at only where that leaves it open.
    Part,
    /// Nothing: attributes were looked at wherever it mattered.
    Nothing,
    /// In a way that this client does not know.
    Other,
}

impl From<v1::Explanation> for Explanation {
    fn from(explanation: v1::Explanation) -> Explanation {
        Explanation {
            steps: explanation.steps.into_iter().map(Step::from).collect(),
            total: Duration::from_nanos(explanation.total_nanos),
        }
    }
}

impl From<v1::SearchStep> for Step {
    fn from(step: v1::SearchStep) -> Step {
        let way = match step.way() {
            v1::SearchWay::Scan => Way::Scan,
            v1::SearchWay::Walk => Way::Walk,
            v1::SearchWay::WalkThenScan => Way::WalkThenScan,
            v1::SearchWay::Lists => Way::Lists,
            v1::SearchWay::WalkPast => Way::WalkPast,
            v1::SearchWay::Unspecified => Way::Other,
        };
        let cover = match step.cover() {
            v1::FilterCover::Unfiltered => Cover::Unfiltered,
            v1::FilterCover::Whole => Cover::Whole,
            v1::FilterCover::Part => Cover::Part,
            v1::FilterCover::Nothing => Cover::Nothing,
            v1::FilterCover::Unspecified => Cover::Other,
        };
        Step {
            shard: step.shard,
            segment: step.segment,
            rows: step.rows,
            way,
            why: step.why,
            cover,
            estimated_share: step.estimated_share,
            actual_share: step.actual_share,
            asked: step.asked,
            codes_read: step.codes_read,
            vectors_read: step.vectors_read,
            hops: step.hops,
            filter: Duration::from_nanos(step.filter_nanos),
            plan: Duration::from_nanos(step.plan_nanos),
            find: Duration::from_nanos(step.find_nanos),
        }
    }
}
