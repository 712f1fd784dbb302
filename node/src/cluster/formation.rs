//! Formation: how a node with an empty data directory comes to a cluster.
//!
//! ```text
//!   no --join                      -> found a cluster of one
//!   --join A,B: somebody is in one -> ask to join it, fetch the state
//!               nobody, all here, all were told the same addresses, mine is the first of them -> found it
//!               otherwise          -> wait
//! ```
//!
//! While it waits a node answers who it is, so that the others can tell that it is there and has no cluster.
//!
//! Always: a cluster is founded by at most one of the nodes that were told the same addresses, and never while one of them
//! cannot be asked, because that one may be in a cluster already.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use loci_raft::MemberId;
use loci_wire::v1;
use loci_wire::v1::peers_server::{Peers, PeersServer};
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

use super::links;
use super::snapshot::{self, Stand};
use super::transfers::Transfers;
use crate::doors::grpc::Failure;
use crate::identity::{ClusterId, Identity, NodeId};
use crate::shards::CATALOG;

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// How long one of them may take to say who it is.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How often it is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug)]
pub enum Formed {
    /// This node is to found a cluster.
    Found,
    /// It has joined one, and has the state.
    Joined {
        /// The cluster.
        cluster: ClusterId,
        /// Which member it is.
        member: u64,
        /// Where the state stands that was fetched.
        stand: Stand,
    },
}

/// A node that looks for its cluster.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// Which node.
    pub node: NodeId,
    /// Where others reach it.
    pub address: String,
    /// Whom to ask.
    pub join: Vec<String>,
}

impl Applicant {
    /// Everybody who was told to form a cluster, this node included, sorted.
    fn everybody(&self) -> BTreeSet<String> {
        self.join.iter().cloned().chain([self.address.clone()]).collect()
    }

    /// Asks until there is a cluster to found or to be in. Answers others on `listener` meanwhile.
    pub async fn form(&self, listener: &TcpListener, store: &Path) -> std::io::Result<Formed> {
        if self.join.iter().all(|address| *address == self.address) {
            return Ok(Formed::Found);
        }
        let incoming =
            TcpIncoming::from(tokio::net::TcpListener::from_std(listener.try_clone()?)?).with_nodelay(Some(true));
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tonic::transport::Server::builder()
            .add_service(PeersServer::new(self.clone()))
            .serve_with_incoming_shutdown(incoming, async {
                let _ = stopped.await;
            });
        let server = tokio::spawn(server);
        let formed = self.ask(store).await;
        drop(stop);
        // Whoever still asks gets an answer from the node itself.
        let _ = tokio::time::timeout(ANSWER_TIME, server).await;
        Ok(formed)
    }

    async fn ask(&self, store: &Path) -> Formed {
        let mut told: Option<Instant> = None;
        loop {
            let mut waits_for = Vec::new();
            let mut same = true;
            for address in self.everybody().into_iter().filter(|address| *address != self.address) {
                match who(&address).await {
                    Ok(reply) if reply.cluster.is_empty() => {
                        same &= reply.forming.iter().eq(&self.everybody());
                        if !same {
                            waits_for.push(format!("{address}, which was told to form one with {:?}", reply.forming));
                        }
                    }
                    Ok(_) => match self.join(&address, store).await {
                        Ok(formed) => return formed,
                        Err(status) => waits_for.push(format!("{address}, which says: {}", status.message())),
                    },
                    Err(status) => waits_for.push(format!("{address}, which does not answer ({})", status.message())),
                }
            }
            let first = self.everybody().first() == Some(&self.address);
            if waits_for.is_empty() && same && first {
                // Two nodes that were given the same address would each found a cluster.
                match who(&self.address).await {
                    Ok(reply) if reply.node[..] == self.node.0 => return Formed::Found,
                    Ok(_) => waits_for.push(format!("{}, where another node answers", self.address)),
                    Err(status) => waits_for.push(format!("{}, its own address ({})", self.address, status.message())),
                }
            }
            if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                told = Some(Instant::now());
                let waits_for =
                    if waits_for.is_empty() { "the first of all addresses".into() } else { waits_for.join("; ") };
                tracing::info!(address = self.address, waits_for, "waiting for a cluster");
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn join(&self, address: &str, store: &Path) -> Result<Formed, Status> {
        let request = v1::JoinRequest { node: self.node.0.to_vec().into(), address: self.address.clone() };
        let mut peer = links::stranger(address)?;
        let reply = peer.join(request).await?.into_inner();
        let cluster =
            <[u8; 16]>::try_from(&reply.cluster[..]).map_err(|_| Status::internal("a cluster without a name"))?;
        let cluster = ClusterId(cluster);
        let from = MemberId(who(address).await?.member);
        let have = snapshot::begun(store).await;
        let request =
            v1::SnapshotRequest { shard: CATALOG, member: reply.member, have, ..v1::SnapshotRequest::default() };
        let parts = links::member_at(address, cluster, from)?.snapshot(request).await?.into_inner();
        let stand = snapshot::fetch(store, parts, (&Transfers::default(), 1, from)).await?;
        Ok(Formed::Joined { cluster, member: reply.member, stand })
    }
}

/// Whether one of these addresses answers for another cluster than this one: then which, and for which. Nobody answers at `me`
/// yet, this node's own, which is not asked: the answer would be waited for in vain.
pub async fn foreign(join: &[String], me: &str, own: &Identity) -> Option<(String, ClusterId)> {
    for address in join.iter().filter(|address| *address != me) {
        // Whoever does not answer says nothing.
        let Ok(reply) = who(address).await else { continue };
        if let Ok(cluster) = <[u8; 16]>::try_from(&reply.cluster[..])
            && cluster != own.cluster.0
        {
            return Some((address.clone(), ClusterId(cluster)));
        }
    }
    None
}

/// Who answers at an address.
pub(super) async fn who(address: &str) -> Result<v1::WhoReply, Status> {
    let mut peer = links::stranger(address)?;
    let mut request = Request::new(v1::WhoRequest {});
    request.set_timeout(ANSWER_TIME);
    Ok(peer.who(request).await?.into_inner())
}

fn not_yet() -> Status {
    Failure::new(Code::Unavailable, "starting", "this node is not in a cluster yet").into()
}

#[tonic::async_trait]
impl Peers for Applicant {
    async fn deliver(&self, _: Request<Streaming<v1::DeliverRequest>>) -> Result<Response<v1::DeliverReply>, Status> {
        Err(not_yet())
    }

    async fn forward(&self, _: Request<v1::ForwardRequest>) -> Result<Response<v1::ForwardReply>, Status> {
        Err(not_yet())
    }

    async fn who(&self, _: Request<v1::WhoRequest>) -> Result<Response<v1::WhoReply>, Status> {
        Ok(Response::new(v1::WhoReply {
            node: self.node.0.to_vec().into(),
            address: self.address.clone(),
            forming: self.everybody().into_iter().collect(),
            ..v1::WhoReply::default()
        }))
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(not_yet())
    }

    async fn compare(&self, _: Request<v1::CompareRequest>) -> Result<Response<v1::CompareReply>, Status> {
        Err(not_yet())
    }

    async fn diverged(&self, _: Request<v1::DivergedRequest>) -> Result<Response<v1::DivergedReply>, Status> {
        Err(not_yet())
    }

    async fn parts(&self, _: Request<v1::PartsRequest>) -> Result<Response<v1::PartsReply>, Status> {
        Err(not_yet())
    }

    async fn call(&self, _: Request<v1::CallRequest>) -> Result<Response<v1::CallReply>, Status> {
        Err(not_yet())
    }

    async fn find(&self, _: Request<v1::FindRequest>) -> Result<Response<v1::FindReply>, Status> {
        Err(not_yet())
    }

    async fn figures(&self, _: Request<v1::FiguresRequest>) -> Result<Response<v1::FiguresReply>, Status> {
        Err(not_yet())
    }

    type TellStream = tokio_stream::Empty<Result<v1::WatchReply, Status>>;

    async fn tell(&self, _: Request<v1::TellRequest>) -> Result<Response<Self::TellStream>, Status> {
        Err(not_yet())
    }

    type SnapshotStream = tokio_stream::Empty<Result<v1::SnapshotPart, Status>>;

    async fn snapshot(&self, _: Request<v1::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(not_yet())
    }
}
