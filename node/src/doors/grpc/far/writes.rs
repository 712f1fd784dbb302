//! Writes to shards that are elsewhere: each shard's share goes to the node that leads it, as a call of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use loci_wire::v1;
use loci_wire::v1::pipeline_reply::Reply;
use loci_wire::v1::pipeline_request::Call;

use super::super::cache::done_but_too_large;
use super::super::calls::{Calls, no_part, too_large_reply};
use super::super::status::Failure;
use super::{ANSWERS_BYTES_MAX, ASKED_AT_ONCE, Far, joined, other_reply};
use crate::router::Route;

/// The numbers in a call of what goes to each shard.
fn numbers<'k>(route: &Route, keys: impl Iterator<Item = &'k [u8]>) -> BTreeMap<u32, Vec<usize>> {
    let mut shares: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (number, key) in keys.enumerate() {
        shares.entry(route.shard(key)).or_default().push(number);
    }
    shares
}

/// Those with these numbers.
pub fn pick<T: Clone>(all: &[T], numbers: &[usize]) -> Vec<T> {
    numbers.iter().filter_map(|number| all.get(*number).cloned()).collect()
}

/// A failure tells the number in the whole call.
pub fn blame(failure: Failure, numbers: &[usize]) -> Failure {
    match numbers.get(failure.detail.number as usize) {
        Some(number) => failure.number(*number),
        None => failure,
    }
}

impl Calls {
    /// Has the only shard of a call answer it.
    pub async fn write_far(&self, far: &Far, call: Call, deadline: Instant) -> Result<Reply, Failure> {
        let shard = far.shards.first().ok_or_else(no_part)?;
        self.ask(&[*shard], call, true, deadline).await
    }

    /// Gives each shard its share, side by side, and waits for all of them. What they say is bounded together: of writes that are done by
    /// then it is lost.
    pub async fn share_far(
        &self,
        shares: &BTreeMap<u32, Vec<usize>>,
        writes: bool,
        deadline: Instant,
        call: impl Fn(&[usize]) -> Call,
    ) -> Result<Vec<Reply>, Failure> {
        let bytes = &AtomicUsize::new(0);
        let asked: Vec<_> = shares
            .iter()
            .map(|(shard, numbers)| {
                let call = call(numbers);
                async move {
                    let reply = self.ask(&[*shard], call, writes, deadline).await;
                    let reply = reply.map_err(|failure| blame(failure, numbers))?;
                    match bytes.fetch_add(reply.encoded_len(), Ordering::Relaxed) + reply.encoded_len() {
                        bytes if bytes > ANSWERS_BYTES_MAX && writes => Err(done_but_too_large()),
                        bytes if bytes > ANSWERS_BYTES_MAX => Err(too_large_reply()),
                        _ => Ok(reply),
                    }
                }
            })
            .collect();
        if writes {
            return join_all(asked).await.into_iter().collect();
        }
        futures_util::stream::iter(asked).buffered(ASKED_AT_ONCE).try_collect().await
    }

    /// Inserts, replaces or merges records.
    pub async fn put_far(
        &self,
        far: Far,
        request: Box<v1::PutRequest>,
        deadline: Instant,
    ) -> Result<v1::WriteReply, Failure> {
        if far.shards.len() == 1 {
            return match self.write_far(&far, Call::Put(request), deadline).await? {
                Reply::Write(reply) => Ok(reply),
                _ => Err(other_reply()),
            };
        }
        let shares = numbers(&far.route, request.records.iter().map(|record| &record.key[..]));
        let call = |numbers: &[usize]| {
            let records = pick(&request.records, numbers);
            let v1::PutRequest { origin, collection, mode, remove_attributes, remove_deadline, spread, .. } = &*request;
            Call::Put(Box::new(v1::PutRequest {
                origin: origin.clone(),
                collection: collection.clone(),
                records,
                mode: *mode,
                conditions: Vec::new(),
                remove_attributes: remove_attributes.clone(),
                remove_deadline: *remove_deadline,
                spread: *spread,
            }))
        };
        let mut existed = vec![false; request.records.len()];
        let mut tokens = Vec::new();
        let replies = self.share_far(&shares, true, deadline, call).await?;
        for (numbers, reply) in shares.values().zip(replies) {
            let Reply::Write(reply) = reply else { return Err(other_reply()) };
            numbers.iter().zip(reply.existed).for_each(|(number, there)| existed[*number] = there);
            tokens.push(reply.token);
        }
        Ok(v1::WriteReply { token: joined(tokens), version: 0, existed })
    }

    /// Deletes by key or by filter.
    pub async fn delete_far(
        &self,
        far: Far,
        request: v1::DeleteRequest,
        deadline: Instant,
    ) -> Result<v1::DeleteReply, Failure> {
        let own = |reply| match reply {
            Reply::Delete(reply) => Ok::<v1::DeleteReply, Failure>(reply),
            _ => Err(other_reply()),
        };
        if far.shards.len() == 1 {
            return own(self.write_far(&far, Call::Delete(Box::new(request)), deadline).await?);
        }
        let mut tokens = Vec::new();
        if request.keys.is_empty() {
            let mut deleted = 0;
            for shard in &far.shards {
                let reply = own(self.ask(&[*shard], Call::Delete(Box::new(request.clone())), true, deadline).await?)?;
                deleted += reply.deleted;
                tokens.push(reply.token);
            }
            return Ok(v1::DeleteReply { token: joined(tokens), deleted, existed: Vec::new() });
        }
        let shares = numbers(&far.route, request.keys.iter().map(|key| &key[..]));
        let call = |numbers: &[usize]| {
            let (origin, collection, keys) =
                (request.origin.clone(), request.collection.clone(), pick(&request.keys, numbers));
            let spread = request.spread;
            Call::Delete(Box::new(v1::DeleteRequest {
                origin,
                collection,
                keys,
                filter: None,
                conditions: Vec::new(),
                spread,
            }))
        };
        let mut existed = vec![false; request.keys.len()];
        let replies = self.share_far(&shares, true, deadline, call).await?;
        for (numbers, reply) in shares.values().zip(replies) {
            let reply = own(reply)?;
            numbers.iter().zip(reply.existed).for_each(|(number, there)| existed[*number] = there);
            tokens.push(reply.token);
        }
        let deleted = existed.iter().filter(|&&existed| existed).count() as u64;
        Ok(v1::DeleteReply { token: joined(tokens), deleted, existed })
    }
}
