//! The door for other nodes: service `loci.v1.Peers`.
//!
//! Always: a call that names another cluster or another member is refused before anything in it is looked at; only `Who` and
//! `Join`, which are asked by those who have no cluster yet, need name none.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_index::command::Entry;
use loci_raft::{MemberChange, MemberId, Message, MessageKind, Part};
use loci_wire::v1;
use loci_wire::v1::changes_server::Changes;
use loci_wire::v1::peers_server::{Peers, PeersServer};
use tokio::time::error::Elapsed;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::hearing::{self, Hearing};
use super::links::{CLUSTER_KEY, OTHER_CLUSTER, OTHER_MEMBER, PEER_BYTES_MAX, TO_KEY};
use super::repair::LEFT;
use super::snapshot;
use super::{Cluster, NotWritten, agreement, arrival, book, sightings};
use crate::doors::grpc::{Calls, Failure, WatchService, WatchStream, deadline, figures_here};
use crate::gate;
use crate::identity::{ClusterId, NodeId};
use crate::metrics::Metrics;
use crate::shard::{ChangeError, Level, Terms};
use crate::shards::{CATALOG, Served};
use crate::status::NodeStatus;
use crate::trace;

/// How often a change of members is tried that has to wait for another.
const CHANGE_RETRY: Duration = Duration::from_millis(100);
/// How often a line of the book is written anew that others change at the same time.
const LINE_ATTEMPTS: usize = 10;
/// How long a node that joins may wait for its place.
const JOIN_TIME: Duration = Duration::from_secs(20);
/// How long the newest book is waited for when a member asks for a state.
const BOOK_TIME: Duration = Duration::from_secs(2);

/// Serves `loci.v1.Peers`.
pub struct Door {
    /// This node's part, of the shard that holds the catalog.
    cluster: Cluster,
    /// What calls on records do.
    calls: Calls,
    /// Where calls are counted.
    metrics: Arc<Metrics>,
    /// How the node is doing.
    status: Arc<NodeStatus>,
    /// How fast snapshots may leave.
    pace: snapshot::Pace,
}

impl Door {
    /// Of a node that is called so; snapshots leave it no faster than that.
    pub fn new(calls: Calls, metrics: Arc<Metrics>, status: Arc<NodeStatus>, pace: snapshot::Pace) -> Door {
        Door { cluster: calls.cluster.clone(), calls, metrics, status, pace }
    }

    /// The service, for a tonic server.
    pub fn service(self: Arc<Self>) -> PeersServer<Door> {
        PeersServer::from_arc(self).max_decoding_message_size(PEER_BYTES_MAX).max_encoding_message_size(PEER_BYTES_MAX)
    }

    /// Whether this node is that member of that cluster.
    pub fn is(&self, cluster: ClusterId, member: MemberId) -> bool {
        let own = self.cluster.identity();
        (cluster, member.0) == (own.cluster, own.member)
    }

    fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let own = self.cluster.identity();
        let (cluster, to) = (text(CLUSTER_KEY), text(TO_KEY));
        if cluster != own.cluster.to_string() {
            let message = format!("this node is of cluster {}, the call is for cluster {cluster:?}", own.cluster);
            return Err(Failure::new(Code::FailedPrecondition, OTHER_CLUSTER, message).into());
        }
        if to != own.member.to_string() {
            let message = format!("this node is member {}, the call is for member {to:?}", own.member);
            return Err(Failure::new(Code::FailedPrecondition, OTHER_MEMBER, message).into());
        }
        Ok(())
    }

    /// Takes messages in that have come together from another node; `here` says that whoever calls may take a turn with them. Whether it
    /// did.
    pub fn receive(&self, messages: &[bytes::Bytes], here: bool) -> bool {
        let messages: Vec<Message> = messages.iter().filter_map(|bytes| self.read(bytes)).collect();
        let Some(first) = messages.first().map(Message::shard) else { return false };
        let is_of_it = |message: &Message| message.shard() == first && message.kind() != MessageKind::Snapshot;
        // Several shards' threads share a sync.
        if here && messages.iter().all(is_of_it) {
            let served = self.cluster.shards().get(first.0);
            return served.is_some_and(|served| served.handle.receive_here(messages));
        }
        for message in messages {
            // A shard that this node does not have yet is told again.
            let Some(served) = self.cluster.shards().get(message.shard().0) else { continue };
            if message.kind() == MessageKind::Snapshot {
                // Its data come first.
                served.receiving.begin(&self.cluster.of(served.handle), message);
            } else {
                served.handle.receive(message);
            }
        }
        false
    }

    /// A message, if it is one for this member.
    fn read(&self, bytes: &bytes::Bytes) -> Option<Message> {
        match Message::decode(bytes) {
            Ok(message) => Some(message).filter(|message| message.to() == self.cluster.me()),
            Err(error) => {
                tracing::warn!(%error, "a message of another node is not believed");
                None
            }
        }
    }

    /// Answers a call on records until its deadline, as a part of its trace.
    async fn answered<Q: prost::Message, R, F: Future<Output = Result<R, Failure>>>(
        &self,
        request: Request<Q>,
        writes: bool,
        answer: impl FnOnce(Q, Instant) -> F,
    ) -> Result<Response<R>, Status> {
        self.check(request.metadata())?;
        let deadline = deadline(request.metadata(), gate::TIMEOUT_DEFAULT);
        let traceparent = trace::given(request.metadata()).map(str::to_owned);
        let request = request.into_inner();
        let _pass = self.calls.enter(&request).map_err(Status::from)?;
        let in_time = pin!(tokio::time::timeout_at(deadline.into(), answer(request, deadline)));
        let ended = |answered: &Result<Result<_, Failure>, Elapsed>| match answered {
            Ok(answered) => answered.as_ref().map_or_else(|failure| failure.code as i32, |_| 0),
            Err(_) => Code::DeadlineExceeded as i32,
        };
        let answered = trace::call("called", traceparent.as_deref(), in_time, ended).await;
        Ok(Response::new(answered.unwrap_or_else(|_| Err(Failure::late(writes)))?))
    }

    /// A shard that another node speaks of. Before there were several, nodes spoke of none, or of the first.
    fn served(&self, shard: u32) -> Result<Served, Failure> {
        let missing = || {
            let message = format!("this node does not have shard {shard} yet; retry");
            Failure::new(Code::Unavailable, "no_such_shard", message)
        };
        self.cluster.shards().get(shard.max(CATALOG)).ok_or_else(missing)
    }

    /// Gives a node its number, and a part in the shard; at the node that leads.
    async fn let_in(&self, request: &v1::JoinRequest, deadline: Instant) -> Result<v1::JoinReply, Failure> {
        let cluster = &self.cluster;
        let unspecified =
            |address: &str| address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
        if let Some(address) = [cluster.address(), &request.address].into_iter().find(|address| unspecified(address)) {
            let message = format!(
                "{address} says nothing about where others reach that node: start it with --advertise HOST:PORT"
            );
            return Err(Failure::new(Code::FailedPrecondition, "no_address", message));
        }
        let node = <[u8; 16]>::try_from(&request.node[..]).map(|id| NodeId(id).to_string());
        let Ok(node) = node else { return Err(Failure::invalid("invalid_node", "a node has an id of 16 bytes")) };
        for envelope in book::making() {
            refused(cluster.write(envelope, deadline).await?)?;
        }
        cluster.enter_book(deadline).await?;
        let member = loop {
            let view = cluster.shard().view(Level::Latest, Some(deadline)).await?;
            let lines = book::read(&view);
            let known = lines.iter().find(|(_, line)| line.node == node);
            let new = || book::Line { node: node.clone(), ..book::Line::default() };
            let line = book::Line {
                address: request.address.clone(),
                removed: false,
                ..known.map_or_else(new, |(_, line)| line.clone())
            };
            let member = match known {
                Some((_, line)) if line.removed => {
                    let message = "this node was removed from the cluster; start it with an empty data directory";
                    return Err(Failure::new(Code::FailedPrecondition, "removed", message));
                }
                Some((member, there)) if *there == line => break *member,
                Some((member, there)) => {
                    if there.address != line.address {
                        arrival::may_move(&there.address, cluster.identity().cluster, request).await?;
                        arrival::is_reached(cluster.me(), request).await?;
                    }
                    *member
                }
                None => {
                    arrival::is_reached(cluster.me(), request).await?;
                    MemberId(lines.last_key_value().map_or(0, |(last, _)| last.0) + 1)
                }
            };
            let Some(envelope) = book::writing(&view, member, &line) else {
                return Err(Failure::new(Code::Unavailable, "starting", "there is no address book yet; retry"));
            };
            if book::is_done(&cluster.write(envelope, deadline).await?.outcome) {
                break member;
            }
            // Another node got this number.
        };
        while cluster.shard().members().is_none_or(|members| members.part(member) == Part::Removed) {
            match cluster.shard().change_members(vec![MemberChange::AddLearner(member)], deadline).await {
                Ok(()) | Err(ChangeError::Busy) => tokio::time::sleep(CHANGE_RETRY).await,
                Err(error) => return Err(error.into()),
            }
        }
        tracing::info!(member = member.0, node, address = request.address, "a node joins the cluster");
        Ok(v1::JoinReply { cluster: cluster.identity().cluster.0.to_vec().into(), member: member.0 })
    }
}

/// An outcome that is not what was wanted is a failure.
fn refused(written: crate::shard::Written) -> Result<(), Failure> {
    match written.outcome {
        outcome if book::is_done(&outcome) => Ok(()),
        loci_index::command::Outcome::Refused(refusal) => Err(refusal.into()),
        outcome => Err(Failure::new(Code::Internal, "unexpected_outcome", format!("{outcome:?}"))),
    }
}

#[tonic::async_trait]
impl Peers for Door {
    async fn deliver(
        &self,
        request: Request<Streaming<v1::DeliverRequest>>,
    ) -> Result<Response<v1::DeliverReply>, Status> {
        self.check(request.metadata())?;
        let mut requests = request.into_inner();
        while let Some(request) = requests.next().await {
            self.receive(&request?.messages, false);
        }
        Ok(Response::new(v1::DeliverReply {}))
    }

    async fn forward(&self, request: Request<v1::ForwardRequest>) -> Result<Response<v1::ForwardReply>, Status> {
        self.check(request.metadata())?;
        let deadline = deadline(request.metadata(), gate::TIMEOUT_DEFAULT);
        let traceparent = trace::given(request.metadata()).map(str::to_owned);
        let request = request.into_inner();
        let wrong = |message: String| Status::from(Failure::invalid("invalid_entry", message));
        let shard = request.shard;
        let entry = Entry::decode(&request.entry).map_err(|error| wrong(error.to_string()))?;
        let mut commands = entry.commands.into_iter();
        let (Some(envelope), None) = (commands.next(), commands.next()) else {
            return Err(wrong("an entry with one command is forwarded".into()));
        };
        // Not forwarded again: two nodes that each believe the other to lead would play ball.
        let shard = self.served(shard)?.handle;
        let terms = Terms { within_room: request.within_room, asked_since: request.asked_since, ..Terms::default() };
        let write = pin!(shard.write_as(envelope, terms, Some(deadline)));
        let ended = |written: &Result<_, _>| if written.is_ok() { 0 } else { Code::Unavailable as i32 };
        let written = trace::call("forwarded", traceparent.as_deref(), write, ended).await.map_err(Failure::from)?;
        Ok(Response::new(v1::ForwardReply { outcome: written.outcome.encode().into(), index: written.index }))
    }

    async fn who(&self, _: Request<v1::WhoRequest>) -> Result<Response<v1::WhoReply>, Status> {
        let own = self.cluster.identity();
        Ok(Response::new(v1::WhoReply {
            cluster: own.cluster.0.to_vec().into(),
            node: own.node.0.to_vec().into(),
            member: own.member,
            address: self.cluster.address().to_owned(),
            forming: Vec::new(),
            run: self.cluster.run().0.to_vec().into(),
        }))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        if request.metadata().contains_key(CLUSTER_KEY) {
            self.check(request.metadata())?;
        }
        let deadline = gate::deadline(None, JOIN_TIME);
        let request = request.into_inner();
        if request.address.is_empty() {
            return Err(Failure::invalid("invalid_node", "a node has an address").into());
        }
        let leader = self.cluster.leader(deadline).await;
        if leader == Some(self.cluster.me()) {
            return Ok(Response::new(self.let_in(&request, deadline).await?));
        }
        let Some(leader) = leader else {
            return Err(Failure::new(Code::Unavailable, "not_leader", "nobody leads the shard just now; retry").into());
        };
        let mut client = self.cluster.links().client(leader)?;
        client.join(request).await
    }

    async fn compare(&self, request: Request<v1::CompareRequest>) -> Result<Response<v1::CompareReply>, Status> {
        self.check(request.metadata())?;
        let request = request.into_inner();
        let known = self.served(request.shard)?.handle.fingerprint(Some(request.index));
        Ok(Response::new(v1::CompareReply { fingerprint: known.as_ref().map(agreement::to_wire) }))
    }

    async fn call(&self, request: Request<v1::CallRequest>) -> Result<Response<v1::CallReply>, Status> {
        let answer = |request: v1::CallRequest, deadline| async move {
            let none = || Failure::invalid("invalid_call", "there is no call");
            let call = request.call.and_then(|call| call.call).ok_or_else(none)?;
            let reply = self.calls.only(&request.shards).answer(call, false, deadline).await?;
            let reply = v1::PipelineReply { reply: Some(reply), ..v1::PipelineReply::default() };
            Ok(v1::CallReply { reply: Some(reply) })
        };
        self.answered(request, true, answer).await
    }

    async fn find(&self, request: Request<v1::FindRequest>) -> Result<Response<v1::FindReply>, Status> {
        let answer = |request: v1::FindRequest, deadline| async move {
            let calls = self.calls.only(&request.shards);
            calls.find_here(request, deadline).await
        };
        self.answered(request, false, answer).await
    }

    type TellStream = WatchStream;

    async fn tell(&self, request: Request<v1::TellRequest>) -> Result<Response<Self::TellStream>, Status> {
        self.check(request.metadata())?;
        let (metadata, extensions, request) = request.into_parts();
        for shard in &request.shards {
            self.served(*shard)?;
        }
        let watch = request.watch.ok_or_else(|| Failure::invalid("invalid_call", "there is no watch"))?;
        let (calls, metrics) = (self.calls.only(&request.shards), self.metrics.clone());
        WatchService { calls, metrics }.watch(Request::from_parts(metadata, extensions, watch)).await
    }

    async fn look(&self, request: Request<v1::LookRequest>) -> Result<Response<v1::LookReply>, Status> {
        let answer = |request: v1::LookRequest, deadline| async move {
            let calls = self.calls.only(&[request.shard]);
            calls.look(request, deadline).await
        };
        self.answered(request, false, answer).await
    }

    type HearStream = Hearing;

    async fn hear(&self, request: Request<Streaming<v1::HearRequest>>) -> Result<Response<Self::HearStream>, Status> {
        self.check(request.metadata())?;
        let mut requests = request.into_inner();
        let first =
            requests.message().await?.ok_or_else(|| Failure::invalid("invalid_call", "nothing is asked for"))?;
        let shard = self.served(first.shard)?.handle;
        let watches = self.calls.watches.clone();
        Ok(Response::new(hearing::tell(self.cluster.clone(), &shard, &first, requests, watches)))
    }

    async fn figures(&self, request: Request<v1::FiguresRequest>) -> Result<Response<v1::FiguresReply>, Status> {
        self.check(request.metadata())?;
        let v1::FiguresRequest { shards, collections } = request.into_inner();
        for shard in &shards {
            self.served(*shard)?;
        }
        let collections = figures_here(&self.cluster, &self.status, &shards, &collections);
        Ok(Response::new(v1::FiguresReply { collections }))
    }

    async fn parts(&self, request: Request<v1::PartsRequest>) -> Result<Response<v1::PartsReply>, Status> {
        self.check(request.metadata())?;
        let parts = self.cluster.shards().handles().iter().map(sightings::part).collect();
        Ok(Response::new(v1::PartsReply { parts }))
    }

    async fn diverged(&self, request: Request<v1::DivergedRequest>) -> Result<Response<v1::DivergedReply>, Status> {
        self.check(request.metadata())?;
        let request = request.into_inner();
        let served = self.served(request.shard)?;
        let right = request.fingerprint.and_then(agreement::from_wire);
        let right = right.ok_or_else(|| Status::invalid_argument("a fingerprint is missing"))?;
        // What it has itself decides, not what it is told to have.
        match served.handle.fingerprint(Some(right.index)) {
            Some(own) if own != right => agreement::stop(&served.files, &own, &right),
            _ => Ok(Response::new(v1::DivergedReply {})),
        }
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<v1::SnapshotPart, Status>> + Send>>;

    async fn snapshot(&self, request: Request<v1::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        self.check(request.metadata())?;
        let request = request.into_inner();
        let served = self.served(request.shard)?;
        if !request.damage.is_empty() {
            let (shard, member, damage) = (request.shard, MemberId(request.member), &request.damage);
            tracing::warn!(shard, member = member.0, damage, "a member with a damaged store asks for it");
            // It waits until it gets the state: for ever, if nobody may give it any.
            if served.handle.members().is_some_and(|members| members.part(member) == Part::Removed) {
                let view = self.cluster.catalog().view(Level::Latest, Some(Instant::now() + BOOK_TIME)).await;
                if view.is_ok_and(|view| book::has_left(&view, shard, member)) {
                    let message = format!("member {} takes no part in shard {shard} any more", member.0);
                    return Err(Failure::new(Code::FailedPrecondition, LEFT, message).into());
                }
            }
        }
        let cluster = self.cluster.of(served.handle);
        let stream = snapshot::serve(cluster, served.files, self.pace.clone(), request).await?;
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Cluster {
    /// Marks a member as removed, for good.
    pub async fn mark_removed(&self, member: MemberId, deadline: Instant) -> Result<(), Failure> {
        self.write_line(member, deadline, |line| line.removed = true).await
    }

    /// Says that a member is to have no votes and no leads, or that it may have some again.
    pub async fn mark_drained(&self, member: MemberId, drained: bool, deadline: Instant) -> Result<(), Failure> {
        self.write_line(member, deadline, |line| line.drained = drained).await
    }

    /// Says that a member has not been heard of for long, or that it is there again.
    pub async fn mark_absent(&self, member: MemberId, absent: bool, deadline: Instant) -> Result<(), Failure> {
        self.write_line(member, deadline, |line| line.absent = absent).await
    }

    /// Sees to it that the book says where this node is, if there is a book.
    pub async fn enter_book(&self, deadline: Instant) -> Result<(), Failure> {
        self.write_line(self.me(), deadline, |line| line.address = self.address().to_owned()).await
    }

    /// Sees to it that the book says what this node repaired, if there is a book.
    pub async fn write_note(&self, note: &str, deadline: Instant) -> Result<(), Failure> {
        self.write_line(self.me(), deadline, |line| line.note = note.to_owned()).await
    }

    /// Sees to it that the book says where clients of Redis connect here.
    pub async fn write_resp(&self, port: u16, deadline: Instant) -> Result<(), Failure> {
        self.write_line(self.me(), deadline, |line| line.resp = port).await
    }

    /// The line of this node, if the book had none yet.
    pub fn own_line(&self) -> book::Line {
        let (node, address) = (self.identity().node.to_string(), self.address().to_owned());
        book::Line { node, address, ..book::Line::default() }
    }

    /// Changes a member's line, if it has one or is this one, and there is a book.
    async fn write_line(
        &self,
        member: MemberId,
        deadline: Instant,
        change: impl Fn(&mut book::Line),
    ) -> Result<(), Failure> {
        for _ in 0..LINE_ATTEMPTS {
            let view = self.catalog().view(Level::Latest, Some(deadline)).await?;
            let there = book::find(&view, member);
            let Some(mut line) = there.clone().or_else(|| (member == self.me()).then(|| self.own_line())) else {
                return Ok(());
            };
            change(&mut line);
            if there.as_ref() == Some(&line) {
                return Ok(());
            }
            let Some(envelope) = book::writing(&view, member, &line) else { return Ok(()) };
            if book::is_done(&self.of_catalog().write(envelope, deadline).await?.outcome) {
                return Ok(());
            }
            // Somebody else changed it meanwhile.
        }
        Err(Failure::new(Code::Aborted, "conflict", format!("others change the line of member {member}; retry")))
    }
}

impl From<NotWritten> for Failure {
    fn from(error: NotWritten) -> Failure {
        match error {
            NotWritten::Here(error) => error.into(),
            NotWritten::There(status) => Failure::from_status(&status),
        }
    }
}
