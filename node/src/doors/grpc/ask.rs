//! What a search asks, from protobuf: names become numbers, and what is not said becomes what it is by default.

use std::sync::Arc;

use bytes::Bytes;
use loci_index::ask::fusion::{Fusion, RECIPROCAL_K};
use loci_index::ask::recommend::Strategy;
use loci_index::ask::{
    Ask, DECAY_CANDIDATES_MAX, Decay, Example, FUSED_DEPTH_MAX, Group, HITS_MAX, MMR_CANDIDATES_MAX, Mmr, Part, Query,
    Within,
};
use loci_index::command::Schema;
use loci_index::filter::Filter;
use loci_index::view::Effort;
use loci_wire::v1::{self, query::Near};

use super::calls::{EF_MAX, HITS_DEFAULT, within};
use super::convert;
use super::status::Failure;

/// Fewer candidates than this are no choice.
const CANDIDATES_MIN: usize = 100;
/// How many candidates there are for each hit, unless the request says.
const CANDIDATES_PER_HIT: usize = 4;
const LAMBDA_DEFAULT: f32 = 0.5;

/// What holds for all queries of a request.
pub struct Common {
    /// How many hits, or groups.
    pub k: usize,
    /// How hard to search.
    pub effort: Effort,
    /// Only records that this takes.
    pub filter: Option<Arc<Filter>>,
    /// Which hits are good enough.
    pub within: Within,
    /// At most so many per value.
    pub group_by: Option<v1::GroupBy>,
    /// Not all alike.
    pub mmr: Option<v1::Mmr>,
    /// Loses score with age.
    pub decay: Option<v1::Decay>,
    /// Milliseconds since 1970.
    pub now: u64,
}

impl Common {
    /// What a request says of all its queries, but for the time, which is 0.
    pub fn new(request: &v1::SearchRequest) -> Result<Common, Failure> {
        for (what, bound) in [
            ("greatest distance", request.max_distance),
            ("least distance", request.min_distance),
            ("least score", request.min_score),
        ] {
            if bound.is_some_and(f32::is_nan) {
                return Err(Failure::invalid("invalid_distance", format!("the {what} is not a number")));
            }
        }
        Ok(Common {
            k: within("k", request.k, HITS_DEFAULT, HITS_MAX)?,
            effort: effort(request.ef, request.exact)?,
            filter: convert::filter(request.filter.clone())?.map(Arc::new),
            within: Within {
                distance_min: request.min_distance,
                distance_max: request.max_distance,
                score_min: request.min_score,
            },
            group_by: request.group_by.clone(),
            mmr: request.mmr.clone(),
            decay: request.decay.clone(),
            now: 0,
        })
    }

    /// One query, with all that holds for it, in terms of a collection.
    pub fn ask(&self, query: v1::Query, schema: &Schema) -> Result<Ask, Failure> {
        let own = convert::filter(query.filter.clone())?;
        let filter = match (&self.filter, own) {
            (Some(common), Some(own)) => Some(Arc::new(Filter::And(vec![Filter::clone(common), own]))),
            (common, own) => own.map(Arc::new).or_else(|| common.clone()),
        };
        let query = self.query(query, schema, 0)?;
        Ok(Ask {
            k: self.k,
            effort: self.effort,
            filter,
            within: self.within,
            decay: self.decay.as_ref().map(|decay| self.decay(decay)).transpose()?,
            mmr: self.mmr.as_ref().map(|mmr| self.mmr(mmr, &query, schema)).transpose()?,
            group: self.group_by.as_ref().map(group).transpose()?,
            now: self.now,
            query,
        })
    }

    fn query(&self, query: v1::Query, schema: &Schema, depth: usize) -> Result<Query, Failure> {
        match query.near {
            // What is deeper is refused by its depth, whatever it says.
            Some(Near::Fuse(_)) if depth > FUSED_DEPTH_MAX => {
                Ok(Query::Fuse { fusion: Fusion::Weighted, parts: Vec::new() })
            }
            Some(Near::Fuse(fusion)) => self.fusion(fusion, schema, depth),
            _ => by_itself(query, schema),
        }
    }

    fn fusion(&self, fusion: v1::Fusion, schema: &Schema, depth: usize) -> Result<Query, Failure> {
        use v1::fusion::Method;
        let method = match fusion.method {
            Some(Method::ReciprocalRank(v1::ReciprocalRank { k })) => {
                Fusion::ReciprocalRank { k: k.unwrap_or(RECIPROCAL_K) }
            }
            Some(Method::Weighted(_)) => Fusion::Weighted,
            None => Fusion::ReciprocalRank { k: RECIPROCAL_K },
        };
        let parts = fusion.queries.into_iter().map(|mut query| {
            let limit = match query.limit {
                0 => self.k.clamp(CANDIDATES_MIN, HITS_MAX),
                limit => limit as usize,
            };
            let (weight, filter) = (query.weight.unwrap_or(1.0), convert::filter(query.filter.take())?);
            Ok(Part { query: self.query(query, schema, depth + 1)?, filter, limit, weight })
        });
        Ok(Query::Fuse { fusion: method, parts: parts.collect::<Result<_, Failure>>()? })
    }

    fn candidates(&self, given: u32, max: usize) -> usize {
        match given as usize {
            0 => self.k.saturating_mul(CANDIDATES_PER_HIT).max(CANDIDATES_MIN).min(max),
            given => given,
        }
    }

    fn decay(&self, decay: &v1::Decay) -> Result<Decay, Failure> {
        let now = self.now.saturating_mul(1_000);
        Ok(Decay {
            path: attribute(&decay.path, "decay")?,
            half_life: decay.half_life_millis.saturating_mul(1_000),
            share: decay.share.unwrap_or(1.0),
            now: decay.now_micros.unwrap_or(i64::try_from(now).unwrap_or(i64::MAX)),
            candidates: self.candidates(decay.candidates, DECAY_CANDIDATES_MAX),
        })
    }

    fn mmr(&self, mmr: &v1::Mmr, query: &Query, schema: &Schema) -> Result<Mmr, Failure> {
        let field = match query {
            Query::Near { field, .. } | Query::Recommend { field, .. } if mmr.name.is_empty() => *field,
            _ => convert::field(schema, &mmr.name)?,
        };
        let candidates = self.candidates(mmr.candidates, MMR_CANDIDATES_MAX);
        Ok(Mmr { lambda: mmr.lambda.unwrap_or(LAMBDA_DEFAULT), candidates, field })
    }
}

/// How hard to search.
pub fn effort(ef: u32, exact: bool) -> Result<Effort, Failure> {
    Ok(match within("ef", ef, 0, EF_MAX)? {
        _ if exact => Effort::Exact,
        0 => Effort::default(),
        ef => Effort::Ef(ef),
    })
}

/// A query that fuses nothing.
pub fn by_itself(query: v1::Query, schema: &Schema) -> Result<Query, Failure> {
    let name = query.name;
    match query.near {
        Some(Near::Embedding(embedding)) => {
            let field = convert::field(schema, &name)?;
            Ok(Query::Near { field, example: Example::Vector(convert::components(embedding, schema, field)?) })
        }
        Some(Near::Key(key)) => {
            Ok(Query::Near { field: convert::field(schema, &name)?, example: Example::Key(key.into()) })
        }
        Some(Near::Sparse(sparse)) => {
            let name = if name.is_empty() { &sparse.name } else { &name };
            let field = convert::sparse_field(schema, name)?;
            Ok(Query::Sparse { field, vector: convert::sparse_vector(sparse)? })
        }
        Some(Near::Text(text)) => Ok(Query::Text { text: text_number(schema, &text.path)?, question: text.text }),
        Some(Near::Recommend(recommendation)) => {
            let field = convert::field(schema, &name)?;
            let own = |examples: Vec<v1::Example>| -> Result<Vec<Example>, Failure> {
                examples.into_iter().map(|example| own_example(example, schema, field)).collect()
            };
            let (positive, negative) = (own(recommendation.positive)?, own(recommendation.negative)?);
            let strategy = match v1::RecommendStrategy::try_from(recommendation.strategy) {
                Ok(v1::RecommendStrategy::Unspecified | v1::RecommendStrategy::Mean) => Strategy::Mean,
                Ok(v1::RecommendStrategy::Nearest) => Strategy::Nearest,
                Err(_) => {
                    let message = format!("recommend strategy {} is not known", recommendation.strategy);
                    return Err(Failure::invalid("invalid_query", message));
                }
            };
            Ok(Query::Recommend { field, positive, negative, strategy })
        }
        Some(Near::Fuse(_)) => {
            Err(Failure::invalid("invalid_query", "a fusion is several queries, where one is wanted"))
        }
        None => Err(Failure::invalid(
            "invalid_query",
            "the query has neither an embedding nor a key, sparse, text, recommend or fuse; set one",
        )),
    }
}

/// At most so many hits of a group.
pub fn group(group: &v1::GroupBy) -> Result<Group, Failure> {
    Ok(Group { path: attribute(&group.path, "group_by")?, hits: group.hits.max(1) as usize })
}

fn attribute(path: &str, what: &str) -> Result<Vec<String>, Failure> {
    let names = convert::path(path)?;
    if names.iter().any(String::is_empty) {
        let message = format!("{what} has an empty path or name in {path:?}; name an attribute such as \"source\"");
        return Err(Failure::invalid("invalid_path", message));
    }
    Ok(names)
}

fn own_example(example: v1::Example, schema: &Schema, field: u16) -> Result<Example, Failure> {
    use v1::example::Of;
    match example.of {
        Some(Of::Key(key)) => Ok(Example::Key(Bytes::into(key))),
        Some(Of::Embedding(embedding)) => Ok(Example::Vector(convert::components(embedding, schema, field)?)),
        None => Err(Failure::invalid("invalid_query", "an example is neither a key nor an embedding")),
    }
}

/// The number of the text at a path; the empty path stands for the only one.
fn text_number(schema: &Schema, path: &str) -> Result<u16, Failure> {
    let place = match schema.texts.as_slice() {
        [_] if path.is_empty() => Some(0),
        texts => {
            let names = convert::path(path)?;
            texts.iter().position(|text| text.path == names)
        }
    };
    place.and_then(|place| u16::try_from(place).ok()).ok_or_else(|| {
        let known: Vec<String> = schema.texts.iter().map(|text| convert::path_text(&text.path)).collect();
        let message = match known.len() {
            0 => "the collection declares no texts; create it with those that are to be searched by words".to_owned(),
            _ => format!("the collection declares no text {path:?}; it declares: {}", known.join(", ")),
        };
        Failure::invalid("unknown_text", message)
    })
}
