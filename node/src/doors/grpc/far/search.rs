//! Searches over shards that are elsewhere: each finds its best hits, and the best of all of them are the answer.
//!
//! That is so where a hit is as good as it is whatever else there is: near an embedding or a record, by a sparse vector. What
//! looks at all hits together (words, whose weights count all records; recommendations, fusions, groups, hits unlike each other, loss
//! of score with age) needs all shards on one node, and is refused unless some node has all of them.

use std::time::Instant;

use bytes::Bytes;
use loci_index::ask::{AskError, HITS_MAX};
use loci_wire::v1;
use loci_wire::v1::pipeline_reply::Reply;
use loci_wire::v1::pipeline_request::Call;
use loci_wire::v1::query::Near;
use tonic::Code;

use super::super::calls::{Calls, HITS_DEFAULT, REPLY_BYTES_MAX, too_large_reply};
use super::super::convert::{self, NAMESPACE_DEFAULT};
use super::super::home::{check_token, find};
use super::super::status::Failure;
use super::{Far, joined, other_reply};

/// Whether the best hits of all shards are among the best hits of each, in the same order.
fn is_plain(request: &v1::SearchRequest) -> bool {
    let plain = |query: &v1::Query| match &query.near {
        Some(Near::Embedding(_) | Near::Key(_) | Near::Sparse(_)) => true,
        // Refused by whoever is asked.
        None => true,
        Some(Near::Text(_) | Near::Recommend(_) | Near::Fuse(_)) => false,
    };
    request.queries.iter().all(plain) && request.group_by.is_none() && request.mmr.is_none() && request.decay.is_none()
}

/// Best first, as within one store.
fn sort_best_first(hits: &mut [v1::Hit]) {
    let key = |hit: &v1::Hit| hit.record.as_ref().map(|record| record.key.clone()).unwrap_or_default();
    hits.sort_by(|a, b| {
        let by_score = b.score.unwrap_or(0.0).total_cmp(&a.score.unwrap_or(0.0));
        by_score.then(a.distance.total_cmp(&b.distance)).then_with(|| key(a).cmp(&key(b)))
    });
}

/// The best hits of one query, of those that each shard found.
fn best(found: Vec<v1::Hits>, k: usize, except: Option<&Bytes>) -> v1::Hits {
    let mut all = v1::Hits::default();
    for hits in found {
        all.hits.extend(hits.hits);
        if let Some(explanation) = hits.explanation {
            let whole = all.explanation.get_or_insert_default();
            whole.steps.extend(explanation.steps);
            whole.total_nanos = whole.total_nanos.max(explanation.total_nanos);
        }
    }
    all.hits.retain(|hit| hit.record.as_ref().map(|record| &record.key) != except || except.is_none());
    sort_best_first(&mut all.hits);
    all.hits.truncate(k);
    all
}

impl Calls {
    /// The nearest records.
    pub async fn search_far(
        &self,
        far: Far,
        mut request: v1::SearchRequest,
        deadline: Instant,
    ) -> Result<v1::SearchReply, Failure> {
        check_token(request.consistency.as_ref(), &far.shards)?;
        if !is_plain(&request) {
            return self.search_on_one(&far, request, deadline).await;
        }
        let k = if request.k == 0 { HITS_DEFAULT } else { request.k as usize };
        let except = self.resolve(&mut request, deadline).await?;
        if except.iter().any(Option::is_some) {
            if k >= HITS_MAX {
                let message = format!("near a record, k is at most {} where shards are on several nodes", HITS_MAX - 1);
                return Err(Failure::invalid("out_of_bounds", message));
            }
            // The record itself is found, too.
            request.k = k as u32 + 1;
        }
        let take = |reply| match reply {
            Reply::Search(reply) => Some(reply),
            _ => None,
        };
        let replies = self.ask_each(&far.shards, deadline, |_| Call::Search(request.clone()), take).await?;
        let (mut tokens, mut lag_millis) = (Vec::new(), 0);
        let mut found: Vec<Vec<v1::Hits>> = request.queries.iter().map(|_| Vec::new()).collect();
        for reply in replies {
            if reply.results.len() != found.len() {
                return Err(other_reply());
            }
            found.iter_mut().zip(reply.results).for_each(|(all, hits)| all.push(hits));
            tokens.push(reply.token);
            lag_millis = reply.lag_millis.max(lag_millis);
        }
        let results: Vec<v1::Hits> =
            found.into_iter().zip(&except).map(|(found, except)| best(found, k, except.as_ref())).collect();
        if results.iter().map(prost::Message::encoded_len).sum::<usize>() > REPLY_BYTES_MAX {
            return Err(too_large_reply());
        }
        Ok(v1::SearchReply { results, token: joined(tokens), lag_millis })
    }

    /// Puts embeddings in the place of records that are to be searched near to, which may be in any shard. Says which those were.
    async fn resolve(&self, request: &mut v1::SearchRequest, deadline: Instant) -> Result<Vec<Option<Bytes>>, Failure> {
        let key = |query: &v1::Query| match &query.near {
            Some(Near::Key(key)) => Some(key.clone()),
            _ => None,
        };
        let except: Vec<Option<Bytes>> = request.queries.iter().map(key).collect();
        let keys: Vec<Bytes> = except.iter().flatten().cloned().collect();
        if keys.is_empty() {
            return Ok(except);
        }
        let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
        let view = self.cluster.catalog().newest();
        let collection = find(&view, &name)?;
        let get = v1::GetRequest {
            collection: request.collection.clone(),
            keys,
            parts: Some(v1::Parts { value: false, attributes: false, embeddings: true }),
            consistency: request.consistency.clone(),
        };
        let Reply::Get(found) = self.clone().answer(Call::Get(get), false, deadline).await? else {
            return Err(other_reply());
        };
        let mut records = found.records.into_iter();
        for (number, query) in request.queries.iter_mut().enumerate() {
            let Some(key) = key(&*query) else { continue };
            let unknown = || Failure::from(AskError::UnknownRecord(key.to_vec())).number(number);
            let record = records.next().and_then(|found| found.record).ok_or_else(unknown)?;
            let field = convert::field(collection.schema(), &query.name).map_err(|failure| failure.number(number))?;
            let spec = collection.schema().embeddings.get(usize::from(field));
            let name = spec.map(|spec| spec.name.clone()).unwrap_or_default();
            let embedding = record.embeddings.into_iter().find(|embedding| embedding.name == name);
            let none = || Failure::from(AskError::NoEmbedding { key: key.to_vec(), name: name.clone() }).number(number);
            query.near = Some(Near::Embedding(embedding.ok_or_else(none)?));
        }
        Ok(except)
    }

    /// A search that needs all shards on one node.
    async fn search_on_one(
        &self,
        far: &Far,
        request: v1::SearchRequest,
        deadline: Instant,
    ) -> Result<v1::SearchReply, Failure> {
        if self.next_asked(&far.shards, &[]).is_none() {
            let message = "the collection's shards are on several nodes, and no node has all of them: there a query is near an \
                           embedding or a record, or by a sparse embedding, and what looks at all hits together (text, recommend, fuse, \
                           group_by, mmr, decay) needs a namespace with one shard, or with a member of each on every node";
            return Err(Failure::new(Code::Unimplemented, "several_nodes", message));
        }
        match self.ask(&far.shards, Call::Search(request), false, deadline).await? {
            Reply::Search(reply) => Ok(reply),
            _ => Err(other_reply()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(key: &'static str, distance: f32, score: Option<f32>) -> v1::Hit {
        let record = Some(v1::Record { key: Bytes::from_static(key.as_bytes()), ..v1::Record::default() });
        v1::Hit { record, distance, score, group: None }
    }

    fn keys(hits: v1::Hits) -> Vec<String> {
        let key = |hit: v1::Hit| String::from_utf8_lossy(&hit.record.unwrap_or_default().key).into_owned();
        hits.hits.into_iter().map(key).collect()
    }

    #[test]
    fn the_best_of_all_shards_come_first_and_equals_by_key() {
        let hits = |hits: Vec<v1::Hit>| v1::Hits { hits, explanation: None };
        let found = vec![
            hits(vec![hit("d", 0.1, None), hit("a", 0.3, None)]),
            hits(vec![hit("c", 0.2, None), hit("b", 0.2, None), hit("e", 0.9, None)]),
        ];
        assert_eq!(keys(best(found.clone(), 4, None)), ["d", "b", "c", "a"]);
        assert_eq!(keys(best(found, 4, Some(&Bytes::from_static(b"d")))), ["b", "c", "a", "e"]);
        let scored = vec![hits(vec![hit("x", -2.0, Some(2.0))]), hits(vec![hit("y", -5.0, Some(5.0))])];
        assert_eq!(keys(best(scored, 9, None)), ["y", "x"]);
    }
}
