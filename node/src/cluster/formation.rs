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
use std::path::Path;
use std::time::{Duration, Instant};

use loci_raft::MemberId;
use loci_wire::v1;
use tonic::{Request, Status};

use super::links;
use super::snapshot::{self, Stand};
use super::transfers::Transfers;
use crate::identity::{ClusterId, NodeId, RunId};
use crate::shards::CATALOG;

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// How long one of them may take to say who it is.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(2);
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
    /// Which process.
    pub run: RunId,
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

    /// What it answers those who ask who it is, until it has a cluster.
    pub fn who(&self) -> v1::WhoReply {
        v1::WhoReply {
            node: self.node.0.to_vec().into(),
            address: self.address.clone(),
            forming: self.everybody().into_iter().collect(),
            run: self.run.0.to_vec().into(),
            ..v1::WhoReply::default()
        }
    }

    /// Asks until there is a cluster to found or to be in. Others get an answer meanwhile, see [`super::greeter`].
    pub async fn form(&self, store: &Path) -> Formed {
        if self.join.iter().all(|address| *address == self.address) { Formed::Found } else { self.ask(store).await }
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
                    Ok(reply) if reply.run[..] == self.run.0 => return Formed::Found,
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
        let (node, run) = (self.node.0.to_vec().into(), self.run.0.to_vec().into());
        let request = v1::JoinRequest { node, address: self.address.clone(), run };
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

/// Who answers at an address.
pub(super) async fn who(address: &str) -> Result<v1::WhoReply, Status> {
    let mut peer = links::stranger(address)?;
    let mut request = Request::new(v1::WhoRequest {});
    request.set_timeout(ANSWER_TIME);
    Ok(peer.who(request).await?.into_inner())
}
