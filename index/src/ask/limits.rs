//! What cannot be asked, and why an ask was not answered.

use super::{
    Ask, DECAY_CANDIDATES_MAX, EXAMPLES_MAX, Example, FUSED_DEPTH_MAX, FUSED_HITS_MAX, FUSED_MAX, GROUP_HITS_MAX,
    HITS_MAX, MMR_CANDIDATES_MAX, Query,
};
use crate::ask::fusion::Fusion;
use crate::distance::EmbeddingError;
use crate::text::QuestionError;
use crate::view::{Cancelled, SearchError};

/// What cannot be asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LimitError {
    /// A number is out of its bounds.
    #[error("{what} is {found}; it must be {min} to {max}")]
    OutOfBounds {
        /// Which.
        what: &'static str,
        /// What it is.
        found: f64,
        /// The least it may be.
        min: f64,
        /// The most it may be.
        max: f64,
    },
    /// Fusions nest too deep.
    #[error("fusions nest deeper than {FUSED_DEPTH_MAX} levels; put the queries of inner ones into the outer one")]
    TooDeep,
    /// A recommendation has nothing to be near to.
    #[error("a recommendation needs at least one positive example")]
    NoPositiveExample,
    /// Two that do not go together.
    #[error("hits are either grouped or chosen by maximal marginal relevance, not both; leave one out")]
    GroupAndMmr,
}

/// Why an ask was not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It cannot be asked.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A search by nearness failed, or was cancelled.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// The words to look for are none.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The collection declares no such text.
    #[error("the collection declares no text number {0}")]
    UnknownText(u16),
    /// The collection has no such sparse embedding.
    #[error("the collection has no sparse embedding number {0}")]
    UnknownSparse(u16),
    /// There is no record to be near to.
    #[error("there is no record {:?} to search near to", String::from_utf8_lossy(.0))]
    UnknownRecord(Vec<u8>),
    /// The record to be near to lacks what is compared.
    #[error("record {:?} has no embedding {name:?}", String::from_utf8_lossy(.key))]
    NoEmbedding {
        /// Its key.
        key: Vec<u8>,
        /// What it lacks.
        name: String,
    },
    /// What was counted of the words elsewhere is not about these words.
    #[error(
        "the words to look for were counted otherwise than they are here; is another version of the program among the nodes?"
    )]
    CountedOtherwise,
    /// The examples of a recommendation cancel out.
    #[error("the examples cannot be put together: {0}")]
    Examples(#[from] EmbeddingError),
}

impl From<Cancelled> for AskError {
    fn from(cancelled: Cancelled) -> AskError {
        AskError::Search(cancelled.into())
    }
}

fn within(what: &'static str, found: impl Into<f64>, min: f64, max: f64) -> Result<(), LimitError> {
    let found = found.into();
    // A number that is none is in no bounds.
    if (min..=max).contains(&found) { Ok(()) } else { Err(LimitError::OutOfBounds { what, found, min, max }) }
}

fn counted(what: &'static str, found: usize, min: usize, max: usize) -> Result<(), LimitError> {
    within(what, found as f64, min as f64, max as f64)
}

impl Example {
    /// The key, if it is a record.
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Example::Key(key) | Example::Found { key, .. } => Some(key),
            Example::Vector(_) => None,
        }
    }
}

impl Ask {
    /// Checks every limit.
    pub fn check(&self) -> Result<(), LimitError> {
        counted("k", self.k, 0, HITS_MAX)?;
        let bounds = [self.within.distance_min, self.within.distance_max, self.within.score_min];
        for bound in bounds.into_iter().flatten() {
            within("a bound of distance or score", bound, f64::NEG_INFINITY, f64::INFINITY)?;
        }
        if let Some(decay) = &self.decay {
            within("the half life in microseconds", decay.half_life as f64, 1.0, f64::INFINITY)?;
            within("the share that age takes", decay.share, 0.0, 1.0)?;
            counted("the number of candidates for decay", decay.candidates, 1, DECAY_CANDIDATES_MAX)?;
        }
        if let Some(mmr) = &self.mmr {
            within("lambda", mmr.lambda, 0.0, 1.0)?;
            counted("the number of candidates to choose from", mmr.candidates, 1, MMR_CANDIDATES_MAX)?;
            counted("k, with maximal marginal relevance,", self.k, 0, MMR_CANDIDATES_MAX)?;
        }
        if let Some(group) = &self.group {
            if self.mmr.is_some() {
                return Err(LimitError::GroupAndMmr);
            }
            counted("the number of hits of a group", group.hits, 1, GROUP_HITS_MAX)?;
            counted("k times the hits of a group", self.k.saturating_mul(group.hits), 0, HITS_MAX)?;
        }
        self.query.check(0)
    }

    /// How many hits a fusion at the top, or a decay, can hand on to groups.
    pub(crate) fn candidates_fused(&self) -> usize {
        match &self.query {
            Query::Fuse { parts, .. } => parts.iter().map(|part| part.limit).sum(),
            _ => 0,
        }
    }
}

impl Query {
    fn check(&self, depth: usize) -> Result<(), LimitError> {
        match self {
            Query::Near { .. } | Query::Sparse { .. } | Query::Text { .. } => Ok(()),
            Query::Recommend { positive, negative, .. } => {
                if positive.is_empty() {
                    return Err(LimitError::NoPositiveExample);
                }
                counted("the number of positive examples", positive.len(), 1, EXAMPLES_MAX)?;
                counted("the number of negative examples", negative.len(), 0, EXAMPLES_MAX)
            }
            Query::Fuse { fusion, parts } => {
                if depth >= FUSED_DEPTH_MAX {
                    return Err(LimitError::TooDeep);
                }
                counted("the number of fused queries", parts.len(), 1, FUSED_MAX)?;
                if let Fusion::ReciprocalRank { k } = fusion {
                    within("k of reciprocal rank", *k, 0.0, 1e9)?;
                }
                for part in parts {
                    counted("the limit of a fused query", part.limit, 1, FUSED_HITS_MAX)?;
                    within("the weight of a fused query", part.weight, 0.0, 1e9)?;
                    part.query.check(depth + 1)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::recommend::Strategy;
    use crate::ask::{Decay, Group, Mmr, Part, Within};
    use crate::view::Effort;

    fn near() -> Query {
        Query::Near { field: 0, example: Example::Key(b"k".to_vec()) }
    }

    fn ask(query: Query) -> Ask {
        let within = Within::default();
        Ask { query, k: 10, effort: Effort::Exact, filter: None, within, decay: None, mmr: None, group: None, now: 0 }
    }

    fn fuse(count: usize, query: impl Fn() -> Query) -> Query {
        let part = || Part { query: query(), filter: None, limit: 10, weight: 1.0 };
        Query::Fuse { fusion: Fusion::Weighted, parts: (0..count).map(|_| part()).collect() }
    }

    fn refused(ask: Ask) -> bool {
        ask.check().is_err()
    }

    #[test]
    fn limits_hold_exactly() {
        assert!(!refused(Ask { k: HITS_MAX, ..ask(near()) }) && refused(Ask { k: HITS_MAX + 1, ..ask(near()) }));
        for (count, expected) in [(0, true), (1, false), (FUSED_MAX, false), (FUSED_MAX + 1, true)] {
            assert_eq!(refused(ask(fuse(count, near))), expected, "{count} queries");
        }
        assert!(!refused(ask(fuse(2, || fuse(2, near)))));
        assert_eq!(ask(fuse(1, || fuse(1, || fuse(1, near)))).check(), Err(LimitError::TooDeep));
        let recommend = |positive: usize, negative: usize| {
            let examples = |count: usize| vec![Example::Key(b"k".to_vec()); count];
            let (positive, negative) = (examples(positive), examples(negative));
            ask(Query::Recommend { field: 0, positive, negative, strategy: Strategy::Mean })
        };
        assert_eq!(recommend(0, 1).check(), Err(LimitError::NoPositiveExample));
        assert!(!refused(recommend(EXAMPLES_MAX, EXAMPLES_MAX)));
        assert!(refused(recommend(EXAMPLES_MAX + 1, 0)) && refused(recommend(1, EXAMPLES_MAX + 1)));
        let group = |k, hits| Ask { k, group: Some(Group { path: vec!["a".into()], hits }), ..ask(near()) };
        assert!(!refused(group(100, GROUP_HITS_MAX)) && refused(group(101, GROUP_HITS_MAX)));
        assert!(refused(group(1, 0)) && refused(group(1, GROUP_HITS_MAX + 1)));
        let mmr = |k, lambda, candidates| Ask { k, mmr: Some(Mmr { lambda, candidates, field: 0 }), ..ask(near()) };
        assert!(!refused(mmr(MMR_CANDIDATES_MAX, 1.0, MMR_CANDIDATES_MAX)));
        for wrong in [mmr(10, -0.1, 10), mmr(10, 1.1, 10), mmr(10, f32::NAN, 10), mmr(10, 0.5, 0), mmr(1_001, 0.5, 10)]
        {
            assert!(refused(wrong));
        }
        let both = Ask { group: group(1, 1).group, ..mmr(1, 0.5, 10) };
        assert_eq!(both.check(), Err(LimitError::GroupAndMmr));
        let decay = |half_life, share, candidates| {
            let path = vec!["at".into()];
            Ask { decay: Some(Decay { path, half_life, share, now: 0, candidates }), ..ask(near()) }
        };
        assert!(!refused(decay(1, 1.0, DECAY_CANDIDATES_MAX)));
        for wrong in [decay(0, 1.0, 10), decay(1, 1.5, 10), decay(1, f32::NAN, 10), decay(1, 1.0, 10_001)] {
            assert!(refused(wrong));
        }
        for within in [
            Within { distance_max: Some(f32::NAN), ..Within::default() },
            Within { score_min: Some(f32::NAN), ..Within::default() },
        ] {
            assert!(refused(Ask { within, ..ask(near()) }));
        }
    }
}
