//! Leaves of searches on their way to other nodes: as protobuf, and in terms of a collection again.
//!
//! ```text
//!   Query --split--> leaves, each with all filters above it --Peers.Find--> Own --> loci_index::ask::Leaf
//! ```
//!
//! Always: a query is split into the same leaves, in the same order, as [`Ask::leaves`] splits what it means.

use std::borrow::Cow;

use bytes::Bytes;
use loci_index::ask::{Ask, Example, Group, Leaf, Query, Within};
use loci_index::command::Schema;
use loci_index::filter::Filter;
use loci_index::text::Corpus;
use loci_index::view::Effort;
use loci_wire::v1;
use loci_wire::v1::example::Of;
use loci_wire::v1::query::Near;

use super::super::ask::{by_itself, group};
use super::super::convert;
use super::super::status::Failure;
use super::other_reply;

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
    query: Query,
    filter: Option<Filter>,
    k: usize,
    within: Within,
    group: Option<Group>,
    corpus: Option<Corpus>,
}

impl Own {
    /// As another node asks.
    pub fn new(leaf: v1::Leaf, schema: &Schema) -> Result<Own, Failure> {
        let mut query = by_itself(leaf.query.ok_or_else(other_reply)?, schema)?;
        resolve(&mut query, leaf.embeddings, schema)?;
        let filters = leaf.filters.into_iter().map(|filter| convert::filter(Some(filter)));
        let mut filters: Vec<Filter> = filters.filter_map(Result::transpose).collect::<Result<_, Failure>>()?;
        let filter = match filters.len() {
            0 | 1 => filters.pop(),
            _ => Some(Filter::And(filters)),
        };
        Ok(Own {
            query,
            filter,
            k: leaf.k as usize,
            within: Within {
                distance_min: leaf.min_distance,
                distance_max: leaf.max_distance,
                score_min: leaf.min_score,
            },
            group: leaf.group_by.as_ref().map(group).transpose()?,
            corpus: leaf.corpus.map(own_corpus),
        })
    }

    /// To be searched for.
    pub fn leaf(&self, effort: Effort, now: u64) -> Leaf<'_> {
        Leaf {
            query: &self.query,
            filter: self.filter.as_ref().map(Cow::Borrowed),
            k: self.k,
            within: self.within,
            group: self.group.as_ref().map(Cow::Borrowed),
            effort,
            now,
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
