//! Searching some shards for another node: what each leaf finds in them, and nothing made of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use loci_index::view::{self, SearchRequest, SearchResult};
use loci_wire::v1;

use super::super::ask;
use super::super::calls::{Budget, Calls, REPLY_BYTES_MAX, no_part};
use super::super::convert::{self, NAMESPACE_DEFAULT, Parts};
use super::super::explain;
use super::super::home::{Reading, Wanted};
use super::super::status::Failure;
use super::leaves::{Own, check_count, corpus_reply};
use crate::cpu_time::thread_cpu_nanos;

/// What a hit takes besides its record.
const HIT_BYTES: usize = 13;

impl Calls {
    /// What leaves find in the shards that are asked for, all of them here.
    pub async fn find_here(&self, request: v1::FindRequest, deadline: Instant) -> Result<v1::FindReply, Failure> {
        let name = convert::collection_name(request.collection, NAMESPACE_DEFAULT)?;
        check_count(&request.leaves)?;
        let effort = ask::effort(request.ef, request.exact)?;
        let (parts, consistency) = (Parts::from(request.parts), request.consistency.as_ref());
        let reading = Reading::new(&self.cluster, name, Wanted::All, consistency, deadline).await?;
        let (token, lag_millis) = (reading.token(), reading.lag_millis(consistency));
        let (leaves, count, explained) = (request.leaves, request.count, request.explain);
        let (recall, threads) = (Arc::clone(&self.recall), self.search.clone());
        let found = self.search.run(deadline, move |scratch, keep_going| {
            let (collections, now) = (reading.collections()?, reading.now());
            let collection = *collections.first().ok_or_else(no_part)?;
            let all = view::Parts::new(&collections);
            let mut budget = Budget(REPLY_BYTES_MAX);
            let mut places: BTreeMap<&[u8], u32> = BTreeMap::new();
            let (mut records, mut found) = (Vec::new(), Vec::with_capacity(leaves.len()));
            for (number, leaf) in leaves.into_iter().enumerate() {
                let about = |failure: Failure| failure.number(number);
                let own = Own::new(leaf, effort, now, collection.schema()).map_err(about)?;
                let leaf = own.leaf();
                if count {
                    let counted = all.count_words(&leaf, scratch, keep_going);
                    let corpus = counted.map_err(|error| about(error.into()))?.map(corpus_reply);
                    found.push(v1::LeafHits { corpus, ..v1::LeafHits::default() });
                    continue;
                }
                let mut watch = |part: usize, request: &SearchRequest<'_>, result: &SearchResult<'_>| {
                    recall.offer(&reading.parts()[part].view, collection.id(), request, result);
                };
                if explained {
                    scratch.explain(explain::nanos);
                }
                let begun = thread_cpu_nanos();
                let result = all.find(&leaf, scratch, keep_going, &mut watch);
                threads.searched(thread_cpu_nanos().saturating_sub(begun));
                let explanation =
                    explained.then(|| explain::reply(scratch.explanation(), |part| reading.parts()[part].shard.id()));
                let mut hits = v1::LeafHits { explanation, ..v1::LeafHits::default() };
                for hit in result.map_err(|error| about(error.into()))?.hits {
                    let place = match places.get(hit.record.key()) {
                        Some(place) => *place,
                        None => {
                            let record = convert::record_reply(hit.record, collection.schema(), parts);
                            budget.take(&record)?;
                            records.push(record);
                            let place = records.len() as u32 - 1;
                            places.insert(hit.record.key(), place);
                            place
                        }
                    };
                    budget.take_bytes(HIT_BYTES)?;
                    hits.records.push(place);
                    hits.distances.push(hit.distance);
                    hits.scores.extend(hit.score);
                }
                found.push(hits);
            }
            Ok::<_, Failure>((records, found))
        });
        let (records, leaves) = found.await??;
        Ok(v1::FindReply { records, leaves, token, lag_millis })
    }
}
