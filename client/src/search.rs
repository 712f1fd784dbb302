//! The records nearest to a vector, or to a stored record.

use bytes::Bytes;
use loci_wire::v1::{self, pipeline_reply::Reply, pipeline_request::Call};

use crate::collection::unexpected;
use crate::record::vector_bytes;
use crate::{Collection, Error, Explanation, Filter, Parts, Record, Token};

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
    /// How far it is: smaller is nearer, for every metric.
    pub distance: f32,
}

/// The answer to a search of several queries.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The hits of each query in order, nearest first.
    pub queries: Vec<Vec<Hit>>,
    /// The state that was searched.
    pub token: Token,
    /// How each query was answered, with [`Search::explain`]; otherwise empty.
    pub explanations: Vec<Explanation>,
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
        let vector = vector_bytes(&vector.into());
        self.query(v1::query::Near::Embedding(v1::Embedding { vector, ..Default::default() }))
    }

    /// Another query: near the record with this key.
    pub fn near_key(self, key: impl Into<Bytes>) -> Search {
        self.query(v1::query::Near::Key(key.into()))
    }

    fn query(mut self, near: v1::query::Near) -> Search {
        self.request.queries.push(v1::Query { name: String::new(), near: Some(near) });
        self
    }

    /// How many hits, 1 to 10,000; 10 unless set.
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
            query.name.clone_from(&self.name);
        }
        let asked = self.request.queries.len();
        match self.collection.send(Call::Search(self.request)).await? {
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
            }),
            other => Err(unexpected("search", &other)),
        }
    }
}

impl Hit {
    fn from_wire(hit: v1::Hit) -> Result<Hit, Error> {
        let record = hit.record.ok_or_else(|| Error::protocol("a hit without a record"))?;
        Ok(Hit { record: record.try_into()?, distance: hit.distance })
    }
}
