//! Leaves of searches on their way to other nodes: as protobuf, and in terms of a collection again.
//!
//! ```text
//!   Query --split--> leaves, each with all filters above it --Peers.Find--> Own --> loci_index::ask::Leaf
//! ```
//!
//! Always: a query is split into the same leaves, in the same order, as [`Ask::leaves`] splits what it means. What comes from another
//! node keeps to the limits of what is asked here, or is refused: it may be of another version.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use loci_index::ask::{Ask, AskError, Example, FUSED_DEPTH_MAX, FUSED_MAX, Leaf, Query, Within};
use loci_index::command::Schema;
use loci_index::filter::Filter;
use loci_index::text::Corpus;
use loci_index::view::Effort;
use loci_wire::v1;
use loci_wire::v1::example::Of;
use loci_wire::v1::query::Near;

use super::super::ask::{by_itself, group};
use super::super::calls::{QUERIES_MAX, counted};
use super::super::convert;
use super::super::status::Failure;
use super::other_reply;

/// The most leaves that all queries of a request have.
const LEAVES_MAX: usize = QUERIES_MAX * FUSED_MAX.pow(FUSED_DEPTH_MAX as u32);
/// The most filters above a leaf: of the request, of each fusion, its own, and the groups that come first.
const FILTERS_MAX: usize = FUSED_DEPTH_MAX + 3;

/// Checks how many leaves another node asks for.
pub fn check_count(leaves: &[v1::Leaf]) -> Result<(), Failure> {
    counted("leaves", leaves.len(), LEAVES_MAX)
}

/// The leaves of one query of a request; `ask` is what it means, and keeps to its limits.
pub fn split(request: &v1::SearchRequest, query: &v1::Query, ask: &Ask) -> Vec<v1::Leaf> {
    let mut queries = Vec::new();
    let filters: Vec<v1::Filter> = request.filter.iter().cloned().collect();
    add(query, &filters, &mut queries);
    let leaves = ask.leaves();
    assert_eq!(queries.len(), leaves.len(), "a query has the leaves of what it means");
    let leaf = |((query, filters), leaf): ((v1::Query, Vec<v1::Filter>), &Leaf<'_>)| v1::Leaf {
        query: Some(query),
        filters,
        k: u32::try_from(leaf.k).unwrap_or(u32::MAX),
        min_distance: leaf.within.distance_min,
        max_distance: leaf.within.distance_max,
        min_score: leaf.within.score_min,
        group_by: request.group_by.clone().filter(|_| leaf.group.is_some()),
        embeddings: Vec::new(),
        corpus: None,
    };
    queries.into_iter().zip(&leaves).map(leaf).collect()
}

fn add(query: &v1::Query, above: &[v1::Filter], queries: &mut Vec<(v1::Query, Vec<v1::Filter>)>) {
    let filters: Vec<v1::Filter> = above.iter().chain(&query.filter).cloned().collect();
    match &query.near {
        Some(Near::Fuse(fusion)) => fusion.queries.iter().for_each(|query| add(query, &filters, queries)),
        _ => queries.push((v1::Query { filter: None, ..query.clone() }, filters)),
    }
}

/// The records that a leaf is to be near to, in their order.
pub fn keys(leaf: &v1::Leaf) -> Vec<Bytes> {
    match leaf.query.as_ref().and_then(|query| query.near.as_ref()) {
        Some(Near::Key(key)) => vec![key.clone()],
        Some(Near::Recommend(recommendation)) => {
            let examples = recommendation.positive.iter().chain(&recommendation.negative);
            let key = |example: &v1::Example| match &example.of {
                Some(Of::Key(key)) => Some(key.clone()),
                _ => None,
            };
            examples.filter_map(key).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a leaf is by words.
pub fn is_by_words(leaf: &v1::Leaf) -> bool {
    matches!(leaf.query.as_ref().and_then(|query| query.near.as_ref()), Some(Near::Text(_)))
}

/// What was counted, for another node.
pub fn corpus_reply(corpus: Corpus) -> v1::Corpus {
    v1::Corpus { texts: corpus.texts, length: corpus.length, with_word: corpus.with_word }
}

/// What another node has counted.
pub fn own_corpus(corpus: v1::Corpus) -> Corpus {
    Corpus { texts: corpus.texts, length: corpus.length, with_word: corpus.with_word }
}

/// A leaf in terms of a collection.
pub struct Own {
    /// The same as something to ask: it has the same limits.
    ask: Ask,
    corpus: Option<Corpus>,
}

impl Own {
    /// As another node asks.
    pub fn new(leaf: v1::Leaf, effort: Effort, now: u64, schema: &Schema) -> Result<Own, Failure> {
        let mut query = by_itself(leaf.query.ok_or_else(other_reply)?, schema)?;
        if leaf.filters.len() > FILTERS_MAX {
            let message = format!("a leaf has {} filters; the most is {FILTERS_MAX}", leaf.filters.len());
            return Err(Failure::invalid("out_of_bounds", message));
        }
        resolve(&mut query, leaf.embeddings, schema)?;
        let filters = leaf.filters.into_iter().map(|filter| convert::filter(Some(filter)));
        let mut filters: Vec<Filter> = filters.filter_map(Result::transpose).collect::<Result<_, Failure>>()?;
        let filter = match filters.len() {
            0 | 1 => filters.pop(),
            _ => Some(Filter::And(filters)),
        };
        let ask = Ask {
            query,
            k: leaf.k as usize,
            effort,
            filter: filter.map(Arc::new),
            within: Within {
                distance_min: leaf.min_distance,
                distance_max: leaf.max_distance,
                score_min: leaf.min_score,
            },
            decay: None,
            mmr: None,
            group: leaf.group_by.as_ref().map(group).transpose()?,
            now,
        };
        ask.check().map_err(AskError::from)?;
        Ok(Own { ask, corpus: leaf.corpus.map(own_corpus) })
    }

    /// To be searched for.
    pub fn leaf(&self) -> Leaf<'_> {
        let Ask { query, k, effort, filter, within, group, now, .. } = &self.ask;
        Leaf {
            query,
            filter: filter.as_deref().map(Cow::Borrowed),
            k: *k,
            within: *within,
            group: group.as_ref().map(Cow::Borrowed),
            effort: *effort,
            now: *now,
            corpus: self.corpus.clone(),
        }
    }
}

/// Gives the records that a query names the embeddings that came along.
fn resolve(query: &mut Query, embeddings: Vec<v1::Embedding>, schema: &Schema) -> Result<(), Failure> {
    let (field, examples): (u16, Vec<&mut Example>) = match query {
        Query::Near { field, example } => (*field, vec![example]),
        Query::Recommend { field, positive, negative, .. } => (*field, positive.iter_mut().chain(negative).collect()),
        Query::Sparse { .. } | Query::Text { .. } | Query::Fuse { .. } => return Ok(()),
    };
    let dimension = schema.embeddings.get(usize::from(field)).map_or(0, |spec| spec.dimension as usize);
    let mut embeddings = embeddings.into_iter();
    for example in examples {
        if let Example::Key(key) = example {
            let vector = embeddings.next().and_then(|embedding| as_compared(&embedding.vector, dimension));
            let vector = vector.filter(|vector| vector.iter().all(|component| component.is_finite()));
            let wrong = || Failure::invalid("wrong_dimension", "an embedding that came along is of another collection");
            *example = Example::Found { key: std::mem::take(key), vector: vector.ok_or_else(wrong)? };
        }
    }
    Ok(())
}

/// The components of a stored embedding as replies have it, if there are so many: ready to be compared.
pub fn as_compared(vector: &[u8], dimension: usize) -> Option<Vec<f32>> {
    let component = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of four bytes"));
    (vector.len() == dimension * 4).then(|| vector.chunks_exact(4).map(component).collect())
}

#[cfg(test)]
mod tests {
    use loci_index::ask::{EXAMPLES_MAX, GROUP_HITS_MAX, HITS_MAX};
    use loci_index::command::EmbeddingSpec;

    use super::*;

    fn near(near: Near) -> v1::Leaf {
        v1::Leaf { query: Some(v1::Query { near: Some(near), ..Default::default() }), k: 10, ..Default::default() }
    }

    fn vector(components: [f32; 2]) -> v1::Embedding {
        let vector: Vec<u8> = components.into_iter().flat_map(f32::to_le_bytes).collect();
        v1::Embedding { vector: vector.into(), ..Default::default() }
    }

    #[test]
    fn a_leaf_keeps_to_the_limits_of_what_is_asked_here() {
        let schema = Schema { embeddings: vec![EmbeddingSpec::new("e", 2, 1)], ..Schema::default() };
        let plain = || near(Near::Embedding(vector([1.0, 0.0])));
        let recommend = |count: usize| {
            let example = v1::Example { of: Some(Of::Embedding(vector([1.0, 0.0]))) };
            near(Near::Recommend(v1::Recommendation { positive: vec![example; count], ..Default::default() }))
        };
        let key = |embedding| v1::Leaf { embeddings: vec![embedding], ..near(Near::Key("k".into())) };
        let group = |hits| Some(v1::GroupBy { path: "a".into(), hits });
        let own = |leaf| Own::new(leaf, Effort::Exact, 0, &schema).map(|_| ()).map_err(|failure| failure.detail.reason);
        let filter = || v1::Filter { expression: Some(v1::filter::Expression::Exists("a".into())) };
        let refused = |reason: &str| Err(reason.to_owned());
        for (number, (leaf, expected)) in [
            (v1::Leaf { k: HITS_MAX as u32, ..plain() }, Ok(())),
            (v1::Leaf { k: HITS_MAX as u32 + 1, ..plain() }, refused("out_of_bounds")),
            (v1::Leaf { k: u32::MAX, ..plain() }, refused("out_of_bounds")),
            (v1::Leaf { max_distance: Some(f32::NAN), ..plain() }, refused("out_of_bounds")),
            (v1::Leaf { group_by: group(GROUP_HITS_MAX as u32), ..plain() }, Ok(())),
            (v1::Leaf { group_by: group(GROUP_HITS_MAX as u32 + 1), ..plain() }, refused("out_of_bounds")),
            (v1::Leaf { k: HITS_MAX as u32, group_by: group(2), ..plain() }, refused("out_of_bounds")),
            (v1::Leaf { filters: vec![filter(); FILTERS_MAX], ..plain() }, Ok(())),
            (v1::Leaf { filters: vec![filter(); FILTERS_MAX + 1], ..plain() }, refused("out_of_bounds")),
            (recommend(EXAMPLES_MAX), Ok(())),
            (recommend(EXAMPLES_MAX + 1), refused("out_of_bounds")),
            (key(vector([1.0, 2.0])), Ok(())),
            (key(vector([1.0, f32::INFINITY])), refused("wrong_dimension")),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(own(leaf), expected, "{number}");
        }
        assert!(check_count(&[]).is_err() && check_count(&vec![v1::Leaf::default(); 2]).is_ok());
        assert_eq!(LEAVES_MAX, 256_000);
    }
}
