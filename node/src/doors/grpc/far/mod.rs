//! Calls on records that are not all on this node: each shard is asked where it is, and the answers are put together.
//!
//! ```text
//!   call --> shards of its keys, or all --> all here: as ever
//!                  |
//!                  '--> each of them: here, or its leader's node, or another that has it --Peers.Call--> the same call, for
//!                       that shard only --> answers --> one answer
//! ```
//!
//! A node that is asked for a shard answers for that shard, or says that it does not have it; it never asks others again. Then
//! those that the book names are asked where it is, and whoever has it is asked anew, for a few seconds.
//!
//! Always: a write is sent a second time only if the first was certainly not carried out. An answer is whole: if one shard
//! cannot be asked, the call fails; but for a search that allows otherwise, and then says what is missing.

mod find;
mod leaves;
mod look;
mod search;
mod writes;

pub use writes::pick;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use loci_raft::MemberId;
use loci_wire::v1;
use loci_wire::v1::pipeline_reply::Reply;
use loci_wire::v1::pipeline_request::Call;
use tonic::Code;

use super::calls::{Calls, REPLY_BYTES_MAX, Scan, too_large_reply};
use super::convert::{self, NAMESPACE_DEFAULT};
use super::cursor::Cursor;
use super::home::{self, Name, check_token, find};
use super::status::Failure;
use crate::cluster::links::never_connected;
use crate::router::{Found, Route};
use crate::shard::{ReadError, WriteError};

/// How long it is looked for a node that has a shard.
const LOOK_TIME: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many shards a read asks at a time.
const ASKED_AT_ONCE: usize = 8;
/// The most that the answers of all shards take before they are put together.
const ANSWERS_BYTES_MAX: usize = 4 * REPLY_BYTES_MAX;

/// A node of an older version does not know what it is asked.
const OLDER_NODE: &str = "older_node";
/// A shard is out of service on a node, and nobody else has it just now.
const DAMAGED_SHARD: &str = "shard_damaged";
const NO_SUCH_SHARD: &str = "no_such_shard";

/// An answer on its way.
pub type Answer = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;

/// What some shards are asked.
#[derive(Clone)]
enum Question {
    Call(Box<Call>),
    Find(v1::FindRequest),
    Look(v1::LookRequest),
}

/// What they say.
enum Said {
    Reply(Reply),
    Found(v1::FindReply),
    Looked(v1::LookReply),
}

impl Said {
    fn bytes(&self) -> usize {
        match self {
            Said::Reply(reply) => reply.encoded_len(),
            Said::Found(reply) => prost::Message::encoded_len(reply),
            Said::Looked(reply) => prost::Message::encoded_len(reply),
        }
    }
}

/// How long somebody waits for an answer.
#[derive(Clone, Copy)]
struct Patience {
    /// For a node that has the shard.
    look: Duration,
    /// For all.
    deadline: Instant,
}

impl Patience {
    fn until(deadline: Instant) -> Patience {
        Patience { look: LOOK_TIME, deadline }
    }
}

/// The shards that a call is about.
pub struct Far {
    /// Of its namespace.
    pub route: Route,
    /// Which of them, in the order of their slots.
    pub shards: Vec<u32>,
}

/// Whether another node may do better.
fn is_elsewhere(failure: &Failure) -> bool {
    // A write that finds the shard out of service has proposed nothing.
    let reason = failure.detail.reason.as_str();
    matches!(reason, NO_SUCH_SHARD | "not_leader" | "starting" | "removed" | DAMAGED_SHARD | OLDER_NODE)
}

/// Another kind of answer than the call has.
pub fn other_reply() -> Failure {
    Failure::new(
        Code::Internal,
        "other_reply",
        "another node answered with the reply of another call; please report this",
    )
}

fn older_node(member: MemberId, address: &str) -> Failure {
    let message = format!(
        "member {member}, the node at {address}, runs an older version that cannot answer this for other nodes, and no other node \
         has the shard: upgrade it, then retry"
    );
    Failure::new(Code::Unavailable, OLDER_NODE, message)
}

impl Calls {
    /// The same, for some shards only: of a call that came from another node.
    pub fn only(&self, shards: &[u32]) -> Calls {
        Calls { cluster: self.cluster.only(shards), ..self.clone() }
    }

    /// Which shards a call is about, if they are not all here. `wanted` is none where the call cannot be: that is said elsewhere.
    pub fn far(&self, namespace: &str, wanted: impl FnOnce(&Route) -> Option<Vec<u32>>) -> Option<Far> {
        if self.cluster.is_only() {
            return None;
        }
        let Found::Route(route) = Route::find(&self.cluster.catalog().newest(), namespace) else { return None };
        let shards = wanted(&route)?;
        let here = |shard: &u32| self.cluster.answers(*shard);
        (!shards.iter().all(here)).then_some(Far { route, shards })
    }

    /// The same, of a call on a collection that is about all its shards.
    pub fn far_from_all(&self, name: &Name) -> Option<Far> {
        self.far(&name.0, |route| Some(route.shards().to_vec()))
    }

    /// All shards of a collection's namespace, if it has several: to be asked one by one, wherever they are.
    pub fn shard_by_shard(&self, name: &Name) -> Option<Far> {
        if self.cluster.is_only() {
            return None;
        }
        let route = Route::find(&self.cluster.catalog().newest(), &name.0).route()?;
        let shards = route.shards().to_vec();
        (shards.len() > 1).then_some(Far { route, shards })
    }

    /// What a call is answered, whichever it is.
    pub fn answer(self, call: Call, alone: bool, deadline: Instant) -> Answer {
        Box::pin(async move {
            Ok(match call {
                Call::Put(put) => Reply::Write(self.put(put, deadline).await?),
                Call::Get(get) => Reply::Get(self.get(get, deadline).await?),
                Call::Delete(delete) => Reply::Delete(self.delete(*delete, deadline).await?),
                Call::Batch(batch) => Reply::Write(self.batch(*batch, deadline).await?),
                Call::Scan(scan) => Reply::Scan(self.scan(*scan, deadline).await?),
                Call::Count(count) => Reply::Count(self.count(*count, deadline).await?),
                Call::Search(search) => Reply::Search(self.search(*search, deadline, alone).await?),
                Call::Execute(execute) => Reply::Execute(self.execute(*execute, deadline).await?),
            })
        })
    }

    /// Asks for some shards, here or wherever all of them are.
    async fn ask(&self, shards: &[u32], call: Call, writes: bool, deadline: Instant) -> Result<Reply, Failure> {
        match self.ask_for(shards, &Question::Call(Box::new(call)), writes, Patience::until(deadline)).await? {
            Said::Reply(reply) => Ok(reply),
            _ => Err(other_reply()),
        }
    }

    async fn ask_for(
        &self,
        shards: &[u32],
        question: &Question,
        writes: bool,
        patience: Patience,
    ) -> Result<Said, Failure> {
        let until = patience.deadline.min(Instant::now() + patience.look);
        let mut refused: Vec<MemberId> = Vec::new();
        // Why the one refused that is too old, and how many of those who refused are.
        let (mut older, mut old) = (None, 0);
        let mut damaged_here = false;
        loop {
            // One that is out of service, and still leads, takes writes as ever.
            let leads = |shard: &u32| {
                let own = self.cluster.held(*shard).filter(|shard| shard.is_ready());
                own.is_some_and(|shard| shard.leader() == Some(self.cluster.me()))
            };
            let here = |shard: &u32| self.cluster.answers(*shard) || (writes && !damaged_here && leads(shard));
            let tried = if shards.iter().all(here) {
                let tried = self.ask_here(shards, question.clone(), patience.deadline).await;
                // A write that has to read first, what a filter finds, is for others.
                damaged_here = tried.as_ref().is_err_and(|failure| failure.detail.reason == DAMAGED_SHARD);
                tried
            } else {
                match self.next_asked(shards, &refused) {
                    Some(member) => {
                        let tried = self.ask_member(member, shards, question.clone(), writes, patience.deadline).await;
                        refused.push(member);
                        tried
                    }
                    // As long as nobody else has the shards, this is why.
                    None if old == refused.len() && older.is_some() => {
                        return older.map_or_else(|| Err(other_reply()), Err);
                    }
                    None => {
                        refused.clear();
                        old = 0;
                        let message = format!("no node is known that has shards {shards:?}; retry");
                        Err(Failure::new(Code::Unavailable, NO_SUCH_SHARD, message))
                    }
                }
            };
            match tried {
                Err(failure) if Instant::now() < until => {
                    let again = is_elsewhere(&failure) || (!writes && failure.code == Code::Unavailable);
                    if !again {
                        return Err(failure);
                    }
                    if failure.detail.reason == OLDER_NODE {
                        older = Some(failure);
                        old += 1;
                    }
                    for shard in shards {
                        self.cluster.look_for(*shard).await;
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                other => return other.map_err(|failure| self.or_damaged(shards, failure)),
            }
        }
    }

    /// Why nobody has some shards: the one that is here is out of service, if so.
    fn or_damaged(&self, shards: &[u32], failure: Failure) -> Failure {
        let is_damaged = |shard: &&u32| self.cluster.held(**shard).is_some_and(|shard| shard.is_out_of_service());
        match shards.iter().find(is_damaged) {
            Some(shard) if failure.detail.reason == NO_SUCH_SHARD => ReadError::Damaged { shard: *shard }.into(),
            _ => failure,
        }
    }

    async fn ask_here(&self, shards: &[u32], question: Question, deadline: Instant) -> Result<Said, Failure> {
        let calls = self.only(shards);
        match question {
            Question::Call(call) => Ok(Said::Reply(calls.answer(*call, false, deadline).await?)),
            Question::Find(find) => Ok(Said::Found(Box::pin(calls.find_here(find, deadline)).await?)),
            Question::Look(look) => Ok(Said::Looked(Box::pin(calls.look(look, deadline)).await?)),
        }
    }

    /// Who is asked next for all of these shards.
    fn next_asked(&self, shards: &[u32], refused: &[MemberId]) -> Option<MemberId> {
        let (first, rest) = shards.split_first()?;
        let others: Vec<Vec<MemberId>> = rest.iter().map(|shard| self.cluster.answering(*shard)).collect();
        let has_all = |member: &MemberId| others.iter().all(|members| members.contains(member));
        self.cluster.answering(*first).into_iter().find(|member| has_all(member) && !refused.contains(member))
    }

    async fn ask_member(
        &self,
        member: MemberId,
        shards: &[u32],
        question: Question,
        writes: bool,
        deadline: Instant,
    ) -> Result<Said, Failure> {
        let links = self.cluster.links();
        let said = match question {
            Question::Call(call) => {
                let call = v1::PipelineRequest { call: Some(*call), ..v1::PipelineRequest::default() };
                let request = v1::CallRequest { shards: shards.to_vec(), call: Some(call) };
                let reply = links.call(member, request, deadline).await;
                reply.map(|reply| reply.reply.and_then(|reply| reply.reply).map(Said::Reply))
            }
            Question::Find(find) => {
                let request = v1::FindRequest { shards: shards.to_vec(), ..find };
                links.find(member, request, deadline).await.map(|reply| Some(Said::Found(reply)))
            }
            Question::Look(look) => links.look(member, look, deadline).await.map(|reply| Some(Said::Looked(reply))),
        };
        match said {
            Ok(said) => said.ok_or_else(other_reply),
            Err(status) if !status.details().is_empty() => Err(Failure::from_status(&status)),
            // It was not even looked at.
            Err(status) if status.code() == Code::Unimplemented => {
                let address = self.cluster.address_of(&self.cluster.catalog().newest(), member);
                Err(older_node(member, address.as_deref().unwrap_or("an unknown address")))
            }
            // Said by the transport, not by the node.
            Err(status) if !writes || never_connected(&status) => {
                let message = format!("member {member} does not answer: {}; retry", status.message());
                Err(Failure::new(Code::Unavailable, NO_SUCH_SHARD, message))
            }
            Err(_) => Err(WriteError::Unconfirmed { shard: shards.first().copied().unwrap_or_default() }.into()),
        }
    }

    /// Asks each shard, some side by side. What they say is bounded together.
    async fn ask_each<R>(
        &self,
        shards: &[u32],
        deadline: Instant,
        call: impl Fn(u32) -> Call,
        take: impl Fn(Reply) -> Option<R>,
    ) -> Result<Vec<R>, Failure> {
        let said =
            self.ask_all(shards, Patience::until(deadline), |shard| Question::Call(Box::new(call(shard))), |_| false);
        let taken = said.await?.into_iter().map(|said| match said? {
            Said::Reply(reply) => take(reply).ok_or_else(other_reply),
            _ => Err(other_reply()),
        });
        taken.collect()
    }

    /// The same, where some failures are forgiven: they stand where the answer would.
    async fn ask_all(
        &self,
        shards: &[u32],
        patience: Patience,
        question: impl Fn(u32) -> Question,
        forgives: impl Fn(&Failure) -> bool,
    ) -> Result<Vec<Result<Said, Failure>>, Failure> {
        let asked: Vec<_> = shards
            .iter()
            .map(|shard| {
                let question = question(*shard);
                async move { self.ask_for(&[*shard], &question, false, patience).await }
            })
            .collect();
        let mut answers = futures_util::stream::iter(asked).buffered(ASKED_AT_ONCE);
        let (mut taken, mut bytes) = (Vec::with_capacity(shards.len()), 0);
        while let Some(said) = answers.next().await {
            match &said {
                Ok(said) => bytes += said.bytes(),
                Err(failure) if forgives(failure) => {}
                Err(failure) => return Err(failure.clone()),
            }
            if bytes > ANSWERS_BYTES_MAX {
                return Err(too_large_reply());
            }
            taken.push(said);
        }
        Ok(taken)
    }

    /// Records by key.
    pub async fn get_far(&self, far: Far, request: v1::GetRequest, deadline: Instant) -> Result<v1::GetReply, Failure> {
        let v1::GetRequest { collection, keys, parts, consistency } = request;
        check_token(consistency.as_ref(), &far.shards)?;
        let count = keys.len();
        let numbers = |shard: u32| {
            let of = |(_, key): &(usize, &Bytes)| far.route.shard(key) == shard;
            keys.iter().enumerate().filter(of).map(|(number, _)| number).collect::<Vec<usize>>()
        };
        let call = |shard: u32| {
            let keys = numbers(shard).into_iter().map(|number| keys[number].clone()).collect();
            let (collection, consistency) = (collection.clone(), consistency.clone());
            Call::Get(Box::new(v1::GetRequest { collection, keys, parts, consistency }))
        };
        let take = |reply| match reply {
            Reply::Get(reply) => Some(reply),
            _ => None,
        };
        let replies = self.ask_each(&far.shards, deadline, call, take).await?;
        let mut records = vec![v1::FoundRecord::default(); count];
        let (mut tokens, mut lag_millis, mut bytes) = (Vec::new(), 0, 0);
        for (shard, reply) in far.shards.iter().zip(replies) {
            for (number, record) in numbers(*shard).into_iter().zip(reply.records) {
                bytes += prost::Message::encoded_len(&record) + 16;
                records[number] = record;
            }
            tokens.push(reply.token);
            lag_millis = reply.lag_millis.max(lag_millis);
        }
        if bytes > REPLY_BYTES_MAX {
            return Err(too_large_reply());
        }
        Ok(v1::GetReply { records, token: joined(tokens), lag_millis })
    }

    /// How many records there are.
    pub async fn count_far(
        &self,
        far: Far,
        request: v1::CountRequest,
        deadline: Instant,
    ) -> Result<v1::CountReply, Failure> {
        check_token(request.consistency.as_ref(), &far.shards)?;
        let take = |reply| match reply {
            Reply::Count(reply) => Some(reply),
            _ => None,
        };
        let replies = self.ask_each(&far.shards, deadline, |_| Call::Count(Box::new(request.clone())), take).await?;
        let count = replies.iter().map(|reply| reply.count).sum();
        Ok(v1::CountReply { count, token: joined(replies.into_iter().map(|reply| reply.token)) })
    }

    /// One page of all shards' records.
    pub async fn scan_far(
        &self,
        far: Far,
        request: v1::ScanRequest,
        deadline: Instant,
    ) -> Result<v1::ScanReply, Failure> {
        check_token(request.consistency.as_ref(), &far.shards)?;
        let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
        let scan = Scan::new(request.clone())?;
        let view = self.cluster.catalog().newest();
        let filter = convert::filter(request.filter.clone())?;
        let cursor = Cursor::new(find(&view, &name)?.id(), &request.prefix, filter.as_ref());
        let take = |reply| match reply {
            Reply::Scan(reply) => Some(reply),
            _ => None,
        };
        let replies = self.ask_each(&far.shards, deadline, |_| Call::Scan(Box::new(request.clone())), take).await?;
        // What lies behind the end of a page that is not the last may be in that shard, too.
        let mut horizon: Option<Vec<u8>> = None;
        let mut records = Vec::new();
        let mut tokens = Vec::new();
        for reply in replies {
            if let Some(after) = cursor.decode(&reply.cursor)?
                && horizon.as_ref().is_none_or(|known| after < *known)
            {
                horizon = Some(after);
            }
            records.extend(reply.records);
            tokens.push(reply.token);
        }
        records.sort_by(|a, b| a.key.cmp(&b.key));
        let mut next = horizon;
        if let Some(horizon) = &next {
            records.retain(|record| record.key[..] <= horizon[..]);
        }
        let mut bytes = 0;
        let fits = |record: &&v1::Record| {
            bytes += prost::Message::encoded_len(*record) + 16;
            bytes <= REPLY_BYTES_MAX
        };
        let taken = records.iter().take(scan.limit).take_while(fits).count();
        if taken < records.len() {
            records.truncate(taken);
            next = Some(records.last().ok_or_else(too_large_reply)?.key.to_vec());
        }
        let cursor = next.map_or_else(Bytes::new, |next| cursor.encode(&next).into());
        Ok(v1::ScanReply { records, cursor, token: joined(tokens) })
    }
}

/// Where several answers stand, as one token.
pub fn joined(tokens: impl IntoIterator<Item = Option<v1::Token>>) -> Option<v1::Token> {
    let parts = tokens.into_iter().flatten().flat_map(|token| {
        let own = (token.shard, token.index);
        std::iter::once(own).chain(token.others.into_iter().map(|other| (other.shard, other.index)))
    });
    home::token(parts)
}
