//! The cluster: how this node and the others find each other, speak, and share the work.
//!
//! ```text
//!   formation   an empty node founds a cluster with others, or asks to join one; greeter: who answers before a node serves
//!   arrival     a node that is of a cluster comes again: not beside its own copy; strangers: who answers where it should not
//!   book        who is where, and which shards there are: ordinary records in namespace `_loci`, so that every member has
//!               them
//!   hint        who leads, told to clients that asked another node
//!   links       messages, writes and snapshots on their way to other nodes; pipe: a connection for messages alone
//!   door        the same on their way in (service `loci.v1.Peers`)
//!   hearing     what happens to typed values, told to nodes that have no part in their shard
//!   snapshot    a shard's files, from one node to another
//!   transfers   how far they have come
//!   repair      a damaged store is fetched from another member; turns: one node at a time stops for it
//!   agreement   whether all members have the same state; whoever has not stops
//!   placement   which nodes have a member of a shard that not every node has; sightings: where such a shard is
//!   policy      which member votes, and leads: decided where the shard is led, carried out by the shard
//!   namespaces  which shards a namespace gets; mirror: how they come to have its collections
//! ```
//!
//! Always:
//! - a node takes part in one cluster, under one member number that no other node ever gets;
//! - messages of another cluster, or for another member, are refused before anything is done with them;
//! - whatever is lost between nodes is asked again by those who need it: links promise nothing.

pub mod agreement;
pub mod arrival;
pub mod book;
pub mod door;
pub mod formation;
pub mod greeter;
pub mod hearing;
pub mod hint;
pub mod links;
pub mod mirror;
mod namespaces;
pub mod pipe;
pub mod placement;
pub mod policy;
pub mod repair;
pub mod sightings;
pub mod snapshot;
pub mod strangers;
pub mod transfers;
mod turns;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_index::command::{Entry, Envelope, Outcome};
use loci_raft::MemberId;
use loci_wire::v1;
use tonic::Status;

use crate::identity::{Identity, RunId};
use crate::shard::{BegunWrite, ShardHandle, Terms, TurnBy, WriteError, Written};
use crate::shards::Shards;
use crate::trace;
use hint::Hints;
use links::Links;
use sightings::Sightings;
use transfers::Transfers;

/// How long a write waits for somebody to lead before it is refused.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// How often it looks.
const LEADER_LOOK: Duration = Duration::from_millis(10);
/// A write that was handed to a node which then no longer leads waits for so many looks, so far apart.
const LOOKS_ELSEWHERE: u32 = 3;
const LOOK_ELSEWHERE: Duration = Duration::from_millis(100);

/// This node's part in its cluster, as far as one shard is concerned.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    shard: ShardHandle,
    /// Of a call that another node asks this one: the shards that it asks for.
    only: Option<Arc<[u32]>>,
    /// On which it writes.
    terms: Terms,
}

struct Shared {
    identity: Identity,
    run: RunId,
    address: String,
    catalog: ShardHandle,
    shards: Shards,
    links: Links,
    hints: Hints,
    transfers: Transfers,
    sightings: Sightings,
    /// How long a node may be silent until others get its members of shards that are on some nodes only.
    replace_after: Duration,
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

impl NotWritten {
    /// Whether nothing was written because the shard is not, or not led, where it was looked for.
    fn is_elsewhere(&self) -> bool {
        match self {
            NotWritten::Here(error) => matches!(error, WriteError::NotLeader { .. }),
            NotWritten::There(status) => {
                let detail = loci_wire::decode_detail(status.details()).unwrap_or_default();
                matches!(detail.reason.as_str(), "not_leader" | "no_such_shard")
            }
        }
    }
}

impl From<WriteError> for NotWritten {
    fn from(error: WriteError) -> NotWritten {
        NotWritten::Here(error)
    }
}

impl Cluster {
    /// Of a node that others reach at `address`, as the process `run`; and of the shard that holds the catalog.
    pub fn new(
        (identity, run, address): (Identity, RunId, String),
        catalog: ShardHandle,
        shards: Shards,
        links: Links,
        replace_after: Duration,
    ) -> Cluster {
        let shard = catalog.clone();
        let (hints, transfers, sightings) = (Hints::default(), Transfers::default(), Sightings::default());
        let gifts = tokio::sync::Mutex::new(Instant::now());
        let shared = Shared {
            identity,
            run,
            address,
            catalog,
            shards,
            links,
            hints,
            transfers,
            sightings,
            replace_after,
            gifts,
        };
        Cluster { shared: Arc::new(shared), shard, only: None, terms: Terms::default() }
    }

    /// The same, of another shard that runs here.
    pub fn of(&self, shard: ShardHandle) -> Cluster {
        Cluster { shared: self.shared.clone(), shard, only: self.only.clone(), terms: self.terms }
    }

    /// The same, for writes that are refused where they would make a collection larger that is over its budget and evicts nothing.
    pub fn within_room(&self) -> Cluster {
        Cluster { terms: Terms { within_room: true, ..self.terms }, ..self.clone() }
    }

    /// The same, for a write that was asked for before, when the log's clock was not less than this, and may have been carried out.
    pub fn asked_since(&self, clock: u64) -> Cluster {
        Cluster { terms: Terms { asked_since: clock.max(1), ..self.terms }, ..self.clone() }
    }

    /// The same, for writes whose turn is taken so.
    pub fn turn_by(&self, turn: TurnBy) -> Cluster {
        Cluster { terms: Terms { turn, ..self.terms }, ..self.clone() }
    }

    /// The same, for a call that another node asks this one, about these shards.
    pub fn only(&self, shards: &[u32]) -> Cluster {
        Cluster { only: Some(shards.into()), ..self.clone() }
    }

    /// Whether another node asks this one.
    pub fn is_only(&self) -> bool {
        self.only.is_some()
    }

    /// Whether a shard is asked for.
    pub fn is_asked_for(&self, shard: u32) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&shard))
    }

    /// Whether all shards that are asked for are among these. Whoever asks may have read another catalog.
    pub fn asks_within(&self, shards: &[u32]) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().all(|shard| shards.contains(shard)))
    }

    /// Those of these shards that are asked for.
    pub fn among(&self, mut shards: Vec<u32>) -> Vec<u32> {
        shards.retain(|shard| self.is_asked_for(*shard));
        shards
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

    /// Which process this is.
    pub fn run(&self) -> RunId {
        self.shared.run
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

    /// Where shards are that not every node has.
    pub fn sightings(&self) -> &Sightings {
        &self.shared.sightings
    }

    /// How long a node may be silent until others get its members of shards that are on some nodes only.
    pub fn replace_after(&self) -> Duration {
        self.shared.replace_after
    }

    /// When this node last gave a lead away for the sake of balance. Hold it while another is chosen and given.
    pub fn gifts(&self) -> &tokio::sync::Mutex<Instant> {
        &self.shared.gifts
    }

    /// Which member this node is.
    pub fn me(&self) -> MemberId {
        MemberId(self.shared.identity.member)
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

    /// Writes to a shard, which need not run here.
    pub async fn write_in(&self, id: u32, envelope: Envelope, deadline: Instant) -> Result<Written, NotWritten> {
        let until = deadline.min(Instant::now() + LEADER_WAIT);
        loop {
            // A member that is new may not have heard of its leader yet, of whom others know.
            let own = self.held(id).filter(|shard| shard.leader().is_some());
            let leader = || self.leader_of(id).filter(|leader| *leader != self.me());
            let tried = match (own, leader()) {
                (Some(shard), _) => self.of(shard).write(envelope.clone(), deadline).await,
                (None, Some(leader)) => self.hand_on(leader, id, envelope.clone(), deadline).await,
                (None, None) => Err(WriteError::NotLeader { shard: id }.into()),
            };
            // Only what was certainly not written is tried again.
            match tried {
                Err(error) if error.is_elsewhere() && Instant::now() < until => {
                    self.look_for(id).await;
                    tokio::time::sleep(LEADER_LOOK).await;
                }
                other => return other,
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
            return Ok(shard.write_as(envelope, self.terms, Some(deadline)).await?);
        }
        // Far larger than the rest of a write that waits, and often not needed.
        Box::pin(self.hand_on(leader, shard.id(), envelope, deadline)).await
    }

    /// Begins a write to a shard that is led here.
    pub fn begin_write(&self, envelope: Envelope, deadline: Instant) -> Result<BegunWrite, WriteError> {
        self.shard.begin_write(envelope, self.terms, Some(deadline))
    }

    /// Returns once a shard is led by another member than this for a while, of which no answer is to be expected then: whoever hands
    /// its lead over answers at once.
    async fn led_by_another(&self, than: MemberId, shard: u32) {
        let mut looks = 0;
        while looks < LOOKS_ELSEWHERE {
            tokio::time::sleep(LOOK_ELSEWHERE).await;
            let leader = self.leader_of(shard);
            looks = if leader.is_some_and(|leader| leader != than) { looks + 1 } else { 0 };
        }
    }

    /// Has a node write that leads.
    async fn hand_on(
        &self,
        leader: MemberId,
        shard: u32,
        envelope: Envelope,
        deadline: Instant,
    ) -> Result<Written, NotWritten> {
        let entry = Entry { clock: 0, commands: vec![envelope] }.encode();
        // Ends with the answer.
        let step = trace::here().and_then(|spot| spot.begin("forward"));
        let Terms { within_room, asked_since, .. } = self.terms;
        let request = v1::ForwardRequest { shard, entry: entry.into(), within_room, asked_since };
        let forwarded = self.shared.links.forward(leader, request, deadline, step.as_ref());
        let reply = tokio::select! {
            biased;
            reply = forwarded => reply?,
            () = self.led_by_another(leader, shard) => return Err(WriteError::Unconfirmed { shard }.into()),
        };
        drop(step);
        let outcome = Outcome::decode(&reply.outcome).map_err(|error| Box::new(Status::internal(error.to_string())));
        Ok(Written { outcome: outcome.map_err(NotWritten::There)?, index: reply.index })
    }
}
