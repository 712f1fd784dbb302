//! A search being put together, and its answer.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};

use crate::collection::unexpected;
use crate::{Collection, Error, Explanation, Filter, Parts, Query, Record, Token, Value};

/// A search being put together; see [`Collection::search`].
///
/// ```no_run
/// # async fn example(notes: loci_client::Collection, vector: Vec<f32>) -> Result<(), loci_client::Error> {
/// use loci_client::attribute;
///
/// let hits = notes.search(vector).k(5).filter(attribute("kind").equals("noun")).hits().await?;
/// for hit in hits {
///     println!("{:.3} {:?}", hit.distance, hit.record.text());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a search does nothing until its hits are asked for"]
pub struct Search {
    collection: Collection,
    request: v1::SearchRequest,
    name: String,
}

/// One record found by a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// What was found.
    pub record: Record,
    /// How far it is: smaller is nearer, for every metric. Of what was not found by nearness, the negative score.
    pub distance: f32,
    /// How good it is: larger is better. Only where hits are not in the order of a distance: found by words, fused or
    /// decayed.
    pub score: Option<f32>,
    /// With [`Search::group_by`]: the value that the hits of its group share.
    pub group: Option<Value>,
}

/// How hits are chosen that are good and unlike each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Diversity {
    /// From 0, only unlike each other, to 1, only good.
    pub lambda: f32,
    /// How many of the best hits to choose from, at most 1,000; 0: 100, or four for each hit if that is more.
    pub candidates: u32,
    /// By which embedding hits are like each other; may be empty for the query's, or the only one.
    pub embedding: String,
}

impl Default for Diversity {
    /// Half good, half unlike each other.
    fn default() -> Diversity {
        Diversity { lambda: 0.5, candidates: 0, embedding: String::new() }
    }
}

/// How age takes score away: score * (1 - share + share * 0.5 ^ (age / half life)).
#[derive(Debug, Clone, PartialEq)]
pub struct Decay {
    /// The timestamp that says how old a record is.
    pub path: String,
    /// After so long half is left; at least a millisecond.
    pub half_life: Duration,
    /// Which part of the score age can take away, from 0 to 1.
    pub share: f32,
    /// The moment that age is counted to; none: the node's clock.
    pub now: Option<SystemTime>,
    /// How many of the best hits to look at, at most 10,000; 0: 100, or four for each hit if that is more.
    pub candidates: u32,
}

impl Decay {
    /// All of the score can go, and age is counted to now.
    pub fn new(path: impl Into<String>, half_life: Duration) -> Decay {
        Decay { path: path.into(), half_life, share: 1.0, now: None, candidates: 0 }
    }
}

/// The answer to a search of several queries.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The hits of each query in order, best first.
    pub queries: Vec<Vec<Hit>>,
    /// The state that was searched.
    pub token: Token,
    /// How each query was answered, with [`Search::explain`]; otherwise empty.
    pub explanations: Vec<Explanation>,
    /// The shards that the answer knows nothing of, with [`Search::partial`]. Empty: it is whole.
    pub missing: Vec<MissingShard>,
}

/// A shard that could not be asked.
#[derive(Debug, Clone, PartialEq)]
pub struct MissingShard {
    /// Which.
    pub shard: u32,
    /// Why, by a stable name.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

impl Search {
    pub(crate) fn new(collection: Collection) -> Search {
        Search {
            request: v1::SearchRequest {
                collection: collection.wire_name(),
                parts: collection.wire_parts(),
                consistency: collection.wire_consistency(),
                ..Default::default()
            },
            collection,
            name: String::new(),
        }
    }

    /// Compares with the embedding of this name; needed if the collection has several. Holds for all queries of the call.
    pub fn embedding(mut self, name: impl Into<String>) -> Search {
        self.name = name.into();
        self
    }

    /// Another query: near this vector.
    pub fn near(self, vector: impl Into<Vec<f32>>) -> Search {
        self.query(Query::near(vector))
    }

    /// Another query: near the record with this key.
    pub fn near_key(self, key: impl Into<Bytes>) -> Search {
        self.query(Query::near_key(key))
    }

    /// Another query.
    pub fn query(mut self, query: impl Into<Query>) -> Search {
        self.request.queries.push(query.into().0);
        self
    }

    /// How many hits, or with [`Search::group_by`] how many groups, 1 to 10,000; 10 unless set.
    pub fn k(mut self, k: u32) -> Search {
        self.request.k = k;
        self
    }

    /// Only records that this filter takes.
    pub fn filter(mut self, filter: impl Into<Option<Filter>>) -> Search {
        self.request.filter = filter.into().map(Filter::into_wire);
        self
    }

    /// How many candidates the search keeps: more finds more and takes longer.
    pub fn ef(mut self, ef: u32) -> Search {
        self.request.ef = ef;
        self
    }

    /// Compares with every record, which always finds the nearest.
    pub fn exact(mut self) -> Search {
        self.request.exact = true;
        self
    }

    /// Only hits at most this far.
    pub fn max_distance(mut self, distance: f32) -> Search {
        self.request.max_distance = Some(distance);
        self
    }

    /// Only hits at least this far.
    pub fn min_distance(mut self, distance: f32) -> Search {
        self.request.min_distance = Some(distance);
        self
    }

    /// Only hits of at least this score. Hits without a score are not asked.
    pub fn min_score(mut self, score: f32) -> Search {
        self.request.min_score = Some(score);
        self
    }

    /// At most so many hits for each value of this attribute; the groups in the order of their best hits.
    pub fn group_by(mut self, path: impl Into<String>, hits: u32) -> Search {
        self.request.group_by = Some(v1::GroupBy { path: path.into(), hits });
        self
    }

    /// Hits that are good and unlike each other, by maximal marginal relevance.
    pub fn diverse(mut self, diversity: Diversity) -> Search {
        let Diversity { lambda, candidates, embedding } = diversity;
        self.request.mmr = Some(v1::Mmr { lambda: Some(lambda), candidates, name: embedding });
        self
    }

    /// Older records lose score.
    pub fn decay(mut self, decay: Decay) -> Search {
        let Decay { path, half_life, share, now, candidates } = decay;
        let now_micros = now.map(|now| match Value::from(now) {
            Value::Timestamp(micros) => micros,
            _ => 0,
        });
        let half_life_millis = u64::try_from(half_life.as_millis()).unwrap_or(u64::MAX);
        self.request.decay = Some(v1::Decay { path, half_life_millis, share: Some(share), now_micros, candidates });
        self
    }

    /// Which parts of the records to return.
    pub fn parts(mut self, parts: Parts) -> Search {
        self.request.parts = Some(parts.into());
        self
    }

    /// Has the node say how each query was answered, in [`Found::explanations`].
    pub fn explain(mut self) -> Search {
        self.request.explain = true;
        self
    }

    /// Where some of the collection's shards cannot be asked, answers of the others; [`Found::missing`] says which could not.
    /// Without it such a search fails.
    pub fn partial(mut self) -> Search {
        self.request.partial = true;
        self
    }

    /// Searches, for the hits of the only query.
    pub async fn hits(self) -> Result<Vec<Hit>, Error> {
        let mut found = self.found().await?;
        match found.queries.len() {
            1 => Ok(found.queries.remove(0)),
            queries => Err(Error::protocol(format!("hits of {queries} queries, not one"))),
        }
    }

    /// Searches, for the hits of all queries.
    pub async fn found(mut self) -> Result<Found, Error> {
        for query in &mut self.request.queries {
            name(query, &self.name);
        }
        let asked = self.request.queries.len();
        match self.collection.send(Call::Search(Box::new(self.request))).await? {
            Reply::Search(mut reply) if reply.results.len() == asked => Ok(Found {
                explanations: reply
                    .results
                    .iter_mut()
                    .filter_map(|result| result.explanation.take().map(Explanation::from))
                    .collect(),
                queries: reply
                    .results
                    .into_iter()
                    .map(|result| result.hits.into_iter().map(Hit::from_wire).collect())
                    .collect::<Result<_, _>>()?,
                token: Token::from_wire(reply.token),
                missing: reply.missing.into_iter().map(MissingShard::from_wire).collect(),
            }),
            other => Err(unexpected("search", &other)),
        }
    }
}

/// Queries that name no embedding are about this one.
fn name(query: &mut v1::Query, embedding: &str) {
    match &mut query.near {
        Some(v1::query::Near::Fuse(fusion)) => fusion.queries.iter_mut().for_each(|query| name(query, embedding)),
        // These are not about embeddings of that kind.
        Some(v1::query::Near::Text(_) | v1::query::Near::Sparse(_)) => {}
        _ if query.name.is_empty() => query.name = embedding.to_owned(),
        _ => {}
    }
}

impl MissingShard {
    fn from_wire(missing: v1::MissingShard) -> MissingShard {
        let error = missing.error.unwrap_or_default();
        let reason = error.detail.map(|detail| detail.reason).unwrap_or_default();
        MissingShard { shard: missing.shard, reason, message: error.message }
    }
}

impl Hit {
    fn from_wire(hit: v1::Hit) -> Result<Hit, Error> {
        let record = hit.record.ok_or_else(|| Error::protocol("a hit without a record"))?;
        let group = hit.group.map(Value::from);
        Ok(Hit { record: record.try_into()?, distance: hit.distance, score: hit.score, group })
    }
}
