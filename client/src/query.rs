//! What to find: near something, with some words, or several such questions as one.

use bytes::Bytes;
use loci_wire::v1::{self, query::Near};

use crate::Filter;
use crate::record::{sparse_to_wire, vector_bytes};

/// What the hits of a search are like.
///
/// ```
/// use loci_client::{Fusion, Query, attribute};
///
/// let near = Query::near([0.1, 0.2, 0.3]);
/// let words = Query::text("body", "harbour closed");
/// let both = Fusion::reciprocal_rank().and(near.limit(50)).and(words.limit(50));
/// let recent = Query::from(both).filter(attribute("year").at_least(2024));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Query(pub(crate) v1::Query);

/// Several queries as one: what is good in more of them is better.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Fusion(v1::Fusion);

/// Near some examples and not near others.
///
/// ```
/// use loci_client::{Query, Recommend};
///
/// let like_these = Query::from(Recommend::new().like_key("note-1").like([0.1, 0.2]).unlike_key("note-9"));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Recommend(v1::Recommendation);

impl Query {
    fn new(near: Near) -> Query {
        Query(v1::Query { near: Some(near), ..Default::default() })
    }

    /// Near this vector.
    pub fn near(vector: impl Into<Vec<f32>>) -> Query {
        let vector = vector_bytes(&vector.into());
        Query::new(Near::Embedding(v1::Embedding { vector, ..Default::default() }))
    }

    /// Near the record with this key, which is not among the hits.
    pub fn near_key(key: impl Into<Bytes>) -> Query {
        Query::new(Near::Key(key.into()))
    }

    /// Near this sparse vector: dimensions with their weights.
    pub fn near_sparse(weights: impl IntoIterator<Item = (u32, f32)>) -> Query {
        Query::new(Near::Sparse(sparse_to_wire(String::new(), weights)))
    }

    /// With these words in the text at this path; the path may be empty if the collection declares just one.
    pub fn text(path: impl Into<String>, words: impl Into<String>) -> Query {
        Query::new(Near::Text(v1::TextQuery { path: path.into(), text: words.into() }))
    }

    /// Compares with the embedding, or the sparse one, of this name; needed if the collection has several.
    pub fn embedding(mut self, name: impl Into<String>) -> Query {
        self.0.name = name.into();
        self
    }

    /// Only records that this filter takes, of those that the search's filter takes.
    pub fn filter(mut self, filter: impl Into<Option<Filter>>) -> Query {
        self.0.filter = filter.into().map(Filter::into_wire);
        self
    }

    /// In a fusion: how many of its best hits take part. 100 unless set, or as many as the search is for.
    pub fn limit(mut self, limit: u32) -> Query {
        self.0.limit = limit;
        self
    }

    /// In a fusion: what its hits count beside those of the others; 1 unless set.
    pub fn weight(mut self, weight: f32) -> Query {
        self.0.weight = Some(weight);
        self
    }
}

impl Fusion {
    /// By places: each query adds weight / (60 + rank).
    pub fn reciprocal_rank() -> Fusion {
        Fusion::reciprocal_rank_of(60.0)
    }

    /// By places: each query adds weight / (k + rank).
    pub fn reciprocal_rank_of(k: f32) -> Fusion {
        let method = v1::fusion::Method::ReciprocalRank(v1::ReciprocalRank { k: Some(k) });
        Fusion(v1::Fusion { queries: Vec::new(), method: Some(method) })
    }

    /// By values: each query adds its weight for its best hit, nothing for its worst, and what is in proportion between.
    pub fn weighted() -> Fusion {
        let method = v1::fusion::Method::Weighted(v1::Weighted {});
        Fusion(v1::Fusion { queries: Vec::new(), method: Some(method) })
    }

    /// And this query, which may be a fusion itself.
    pub fn and(mut self, query: impl Into<Query>) -> Fusion {
        self.0.queries.push(query.into().0);
        self
    }
}

impl From<Fusion> for Query {
    fn from(fusion: Fusion) -> Query {
        Query::new(Near::Fuse(fusion.0))
    }
}

impl Recommend {
    /// Without examples yet; at least one to be near to is needed.
    pub fn new() -> Recommend {
        Recommend::default()
    }

    /// A hit is as far as the nearest example to be like, and not nearer to one to be unlike; for examples that have little
    /// to do with each other. Unless set, one vector stands for all examples.
    pub fn by_nearest(mut self) -> Recommend {
        self.0.strategy = v1::RecommendStrategy::Nearest.into();
        self
    }

    /// Near this vector.
    pub fn like(mut self, vector: impl Into<Vec<f32>>) -> Recommend {
        self.0.positive.push(example(vector));
        self
    }

    /// Near the record with this key.
    pub fn like_key(mut self, key: impl Into<Bytes>) -> Recommend {
        self.0.positive.push(v1::Example { of: Some(v1::example::Of::Key(key.into())) });
        self
    }

    /// Not near this vector.
    pub fn unlike(mut self, vector: impl Into<Vec<f32>>) -> Recommend {
        self.0.negative.push(example(vector));
        self
    }

    /// Not near the record with this key.
    pub fn unlike_key(mut self, key: impl Into<Bytes>) -> Recommend {
        self.0.negative.push(v1::Example { of: Some(v1::example::Of::Key(key.into())) });
        self
    }
}

fn example(vector: impl Into<Vec<f32>>) -> v1::Example {
    let vector = vector_bytes(&vector.into());
    v1::Example { of: Some(v1::example::Of::Embedding(v1::Embedding { vector, ..Default::default() })) }
}

impl From<Recommend> for Query {
    fn from(recommend: Recommend) -> Query {
        Query::new(Near::Recommend(recommend.0))
    }
}
