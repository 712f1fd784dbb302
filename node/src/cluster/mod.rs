//! The cluster: how this node and the others find each other, speak, and share the work.
//!
//! ```text
//!   formation   an empty node founds a cluster with others, or asks to join one
//!   book        who is where, and which shards there are: ordinary records in namespace `_loci`, so that every member has
//!               them
//!   hint        who leads, told to clients that asked another node
//!   links       messages, writes and snapshots on their way to other nodes
//!   door        the same on their way in (service `loci.v1.Peers`)
//!   snapshot    a shard's files, from one node to another
//!   transfers   how far they have come
//!   repair      a damaged store is fetched from another member
//!   agreement   whether all members have the same state; whoever has not stops
//!   policy      which member votes, and leads: decided where the shard is led, carried out by the shard
//!   namespaces  which shards a namespace gets; mirror: how they come to have its collections
//! ```
//!
//! Always:
//! - a node takes part in one cluster, under one member number that no other node ever gets;
//! - messages of another cluster, or for another member, are refused before anything is done with them;
//! - whatever is lost between nodes is asked again by those who need it: links promise nothing.

pub mod agreement;
pub mod book;
pub mod door;
pub mod formation;
pub mod hint;
pub mod links;
pub mod mirror;
mod namespaces;
pub mod policy;
pub mod repair;
pub mod snapshot;
pub mod transfers;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_index::command::{Entry, Envelope, Outcome};
use loci_raft::MemberId;
use tonic::Status;

use crate::identity::Identity;
use crate::shard::{ShardHandle, WriteError, Written};
use crate::shards::Shards;
use crate::trace;
use hint::Hints;
use links::Links;
use transfers::Transfers;

/// How long a write waits for somebody to lead before it is refused.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// How often it looks.
const LEADER_LOOK: Duration = Duration::from_millis(10);

/// This node's part in its cluster, as far as one shard is concerned.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    shard: ShardHandle,
}

struct Shared {
    identity: Identity,
    address: String,
    catalog: ShardHandle,
    shards: Shards,
    links: Links,
    hints: Hints,
    transfers: Transfers,
    /// When this node last gave a lead away for the sake of balance; held while one is given.
    gifts: tokio::sync::Mutex<Instant>,
}

/// Why a write has no outcome.
#[derive(Debug)]
pub enum NotWritten {
    /// This node says so.
    Here(WriteError),
    /// The node that leads says so, or did not answer.
    There(Box<Status>),
}

impl From<WriteError> for NotWritten {
    fn from(error: WriteError) -> NotWritten {
        NotWritten::Here(error)
    }
}

impl Cluster {
    /// Of a node that others reach at `address`, and of the shard that holds the catalog.
    pub fn new(identity: Identity, address: String, catalog: ShardHandle, shards: Shards, links: Links) -> Cluster {
        let shard = catalog.clone();
        let (hints, transfers) = (Hints::default(), Transfers::default());
        let gifts = tokio::sync::Mutex::new(Instant::now());
        let shared = Shared { identity, address, catalog, shards, links, hints, transfers, gifts };
        Cluster { shared: Arc::new(shared), shard }
    }

    /// The same, of another shard that runs here.
    pub fn of(&self, shard: ShardHandle) -> Cluster {
        Cluster { shared: self.shared.clone(), shard }
    }

    /// The same, of the shard that holds the catalog.
    pub fn of_catalog(&self) -> Cluster {
        self.of(self.shared.catalog.clone())
    }

    /// The shard that holds the catalog.
    pub fn catalog(&self) -> &ShardHandle {
        &self.shared.catalog
    }

    /// All shards that run here.
    pub fn shards(&self) -> &Shards {
        &self.shared.shards
    }

    /// Which node this is.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Where others reach this node.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The shard.
    pub fn shard(&self) -> &ShardHandle {
        &self.shard
    }

    /// The ways to other nodes.
    pub fn links(&self) -> &Links {
        &self.shared.links
    }

    /// How far snapshots have come.
    pub fn transfers(&self) -> &Transfers {
        &self.shared.transfers
    }

    /// When this node last gave a lead away for the sake of balance. Hold it while another is chosen and given.
    pub fn gifts(&self) -> &tokio::sync::Mutex<Instant> {
        &self.shared.gifts
    }

    /// Which member this node is.
    pub fn me(&self) -> MemberId {
        MemberId(self.shared.identity.member)
    }

    /// Who leads the shard, if that is known and another node.
    pub fn leader_elsewhere(&self) -> Option<loci_wire::v1::Leader> {
        self.shared.hints.of(&self.shard, &self.shared.catalog, self.me())
    }

    /// The member that leads; waits a while for one.
    pub async fn leader(&self, deadline: Instant) -> Option<MemberId> {
        let until = deadline.min(Instant::now() + LEADER_WAIT);
        loop {
            match self.shard.leader() {
                None if Instant::now() < until => tokio::time::sleep(LEADER_LOOK).await,
                leader => return leader,
            }
        }
    }

    /// Writes, wherever the shard is led.
    pub async fn write(&self, envelope: Envelope, deadline: Instant) -> Result<Written, NotWritten> {
        let shard = &self.shard;
        let leader = match shard.leader() {
            Some(leader) => leader,
            None => self.leader(deadline).await.ok_or(WriteError::NotLeader { shard: shard.id() })?,
        };
        if leader == self.me() {
            return Ok(shard.write(envelope, Some(deadline)).await?);
        }
        let entry = Entry { clock: 0, commands: vec![envelope] }.encode();
        // Ends with the answer.
        let step = trace::here().and_then(|spot| spot.begin("forward"));
        let forwarding = self.shared.links.forward(leader, shard.id(), entry, deadline, step.as_ref());
        // Far larger than the rest of a write that waits, and often not needed.
        let reply = Box::pin(forwarding).await?;
        drop(step);
        let outcome = Outcome::decode(&reply.outcome).map_err(|error| Box::new(Status::internal(error.to_string())));
        Ok(Written { outcome: outcome.map_err(NotWritten::There)?, index: reply.index })
    }
}
