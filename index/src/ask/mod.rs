//! What can be asked of a collection besides "what is nearest to this vector", and how answers are put together.
//!
//! ```text
//!   Ask
//!    |-- Query        near | sparse | text | recommend | fuse (queries of their own, each with filter and limit)
//!    |-- within       distances and scores that a hit may have
//!    |-- decay        older records lose score                     applied to a set of candidates
//!    `-- group, or mmr   at most so many per value; or not all alike   applied last
//! ```
//!
//! A hit has a *distance* (smaller is nearer), and where the answer was put together otherwise, by words, by fusion or by
//! age, a *score* (larger is better), by which the hits are then in order. What is equally good is in the order of the keys,
//! so that the same records give the same answer wherever they lie.
//!
//! Here is only what can be said without records; [`crate::view`] asks and finds. It searches for an ask's [leaves](Leaf), and makes the
//! answer of what it found for them.

pub mod decay;
pub mod diversity;
pub mod fusion;
mod leaf;
mod limits;
pub mod recommend;

pub use leaf::Leaf;
pub(crate) use leaf::both;
pub use limits::{AskError, LimitError};

use std::sync::Arc;

use crate::distance::Metric;
use crate::filter::{Filter, Path};
use crate::sparse::SparseVector;
use crate::view::Effort;

/// The most hits of one answer.
pub const HITS_MAX: usize = 10_000;
/// The most hits of one group.
pub const GROUP_HITS_MAX: usize = 100;
/// The most queries that one fusion puts together.
pub const FUSED_MAX: usize = 16;
/// How deep fusions may nest: a fusion of fusions of queries.
pub const FUSED_DEPTH_MAX: usize = 2;
/// The most hits of one fused query.
pub const FUSED_HITS_MAX: usize = 10_000;
/// The most examples of one recommendation, of each kind.
pub const EXAMPLES_MAX: usize = 100;
/// The most candidates that decay looks at.
pub const DECAY_CANDIDATES_MAX: usize = 10_000;
/// The most candidates that maximal marginal relevance chooses from.
pub const MMR_CANDIDATES_MAX: usize = 1_000;

/// What to find, and what to make of it.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What hits are like.
    pub query: Query,
    /// How many hits, or, with groups, how many groups.
    pub k: usize,
    /// How hard to search by nearness.
    pub effort: Effort,
    /// Only records that this takes.
    pub filter: Option<Arc<Filter>>,
    /// Which hits are good enough.
    pub within: Within,
    /// Loses score with age.
    pub decay: Option<Decay>,
    /// Not all alike. Not with `group`.
    pub mmr: Option<Mmr>,
    /// At most so many per value.
    pub group: Option<Group>,
    /// Records that have expired by then are left out: milliseconds since 1970.
    pub now: u64,
}

/// What hits are like.
#[derive(Debug, Clone)]
pub enum Query {
    /// Near an embedding, by the field's number.
    Near {
        /// Which embedding.
        field: u16,
        /// Near what. A record is not among its own hits.
        example: Example,
    },
    /// Near a sparse embedding, by its number.
    Sparse {
        /// Which sparse embedding.
        field: u16,
        /// Near what.
        vector: SparseVector,
    },
    /// With these words, in the text of that number.
    Text {
        /// Which of the texts that the collection declares.
        text: u16,
        /// The words.
        question: String,
    },
    /// Near some and not near others. None of the examples is among the hits.
    Recommend {
        /// Which embedding.
        field: u16,
        /// At least one.
        positive: Vec<Example>,
        /// May be none.
        negative: Vec<Example>,
        /// How the examples work together.
        strategy: recommend::Strategy,
    },
    /// What several queries find, put together.
    Fuse {
        /// How.
        fusion: fusion::Fusion,
        /// The queries.
        parts: Vec<Part>,
    },
}

/// One of several queries that are put together.
#[derive(Debug, Clone)]
pub struct Part {
    /// What its hits are like.
    pub query: Query,
    /// Only records that this takes, of those that the whole takes.
    pub filter: Option<Filter>,
    /// How many of its best hits take part.
    pub limit: usize,
    /// What its hits count, beside those of the other parts.
    pub weight: f32,
}

/// Something to be near to.
#[derive(Debug, Clone)]
pub enum Example {
    /// The record with this key.
    Key(Vec<u8>),
    /// An embedding, prepared for the field's metric.
    Vector(Vec<f32>),
    /// The record with this key, whose embedding is known.
    Found {
        /// Its key.
        key: Vec<u8>,
        /// Its embedding, as it is compared.
        vector: Vec<f32>,
    },
}

/// Which hits are good enough. A bound that is not set lets all pass.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Within {
    /// At this distance or farther.
    pub distance_min: Option<f32>,
    /// At this distance or nearer.
    pub distance_max: Option<f32>,
    /// Of this score or better. A hit without a score is not asked.
    pub score_min: Option<f32>,
}

/// Makes records lose score as they grow old; see [`decay`].
#[derive(Debug, Clone, PartialEq)]
pub struct Decay {
    /// The timestamp that says how old a record is.
    pub path: Path,
    /// After so many microseconds half is left.
    pub half_life: u64,
    /// Which part of the score age can take away: 0 is none, 1 all.
    pub share: f32,
    /// The moment that age is counted to: microseconds since 1970.
    pub now: i64,
    /// How many of the best hits are looked at.
    pub candidates: usize,
}

/// Chooses hits that are good and unlike each other; see [`diversity`].
#[derive(Debug, Clone, PartialEq)]
pub struct Mmr {
    /// What counts: 1 only how good a hit is, 0 only how unlike the ones before.
    pub lambda: f32,
    /// How many of the best hits are chosen from.
    pub candidates: usize,
    /// The embedding by which hits are alike.
    pub field: u16,
}

/// At most so many hits for each value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Which attribute. Records without a single value there are in no group, and are left out.
    pub path: Path,
    /// The most hits of one group.
    pub hits: usize,
}

/// How alike two embeddings at that distance are: larger is more alike.
///
/// Cosine: the cosine, from -1 to 1. Dot: the inner product. Squared L2: 1 / (1 + distance), from 0 to 1.
pub fn similarity(metric: Metric, distance: f32) -> f64 {
    let distance = f64::from(distance);
    match metric {
        Metric::Cosine => 1.0 - distance,
        Metric::Dot => -distance,
        Metric::SquaredL2 => 1.0 / (1.0 + distance),
    }
}
