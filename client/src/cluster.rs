//! The cluster: who takes part, who leads, and who is to.

use std::time::Duration;

use futures_util::future::join_all;
use loci_wire::v1;
use loci_wire::v1::admin_client::AdminClient;
use tokio::time::timeout;

use crate::client::within;
use crate::{Client, Error};

/// A cluster, as its leader sees it; as the asked node does, if nobody leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDescription {
    /// 32 hexadecimal digits.
    pub cluster: String,
    /// The member that was asked.
    pub member: u64,
    /// The member that leads; none if none is known.
    pub leader: Option<u64>,
    /// Since how many elections, about.
    pub term: u64,
    /// Everybody who takes part or has.
    pub members: Vec<MemberDescription>,
    /// All shards, the one that holds the catalog first, as the node that answered sees them.
    pub shards: Vec<ShardDescription>,
    /// How many members are to vote in the catalog and in every shard that is on all nodes.
    pub voters: u32,
}

/// How long a node may take to say who leads, where another does not know.
const OTHERS_TIME: Duration = Duration::from_secs(2);

/// How many vote where nodes do not say, which then know of no other number.
const VOTERS: u32 = 3;

/// Where a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardDescription {
    /// Its number; 1 holds the catalog.
    pub shard: u32,
    /// The member that leads it; none if none is known.
    pub leader: Option<u64>,
    /// Since how many elections, about.
    pub term: u64,
    /// The members that vote.
    pub voters: Vec<u64>,
    /// The members that only follow.
    pub learners: Vec<u64>,
    /// The namespaces whose records it holds; the catalog's shard holds those of all that have none of their own.
    pub namespaces: Vec<String>,
    /// How many records it has.
    pub records: u64,
    /// How many members it is to have; 0: one on every node.
    pub replicas: u32,
    /// If it is on some nodes only: the members that are to hold it.
    pub holders: Vec<u64>,
    /// Those that held it, and have not thrown away yet what they had.
    pub leaving: Vec<u64>,
    /// What the member that leads it knows of the others; nothing, if nobody is known to lead.
    pub progress: Vec<MemberProgress>,
}

/// How far a member is in one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberProgress {
    /// Its number.
    pub member: u64,
    /// Whether the shard's leader has heard from it lately.
    pub active: bool,
    /// How many entries the leader has that it has not.
    pub lag: u64,
    /// Whether it is being sent a snapshot.
    pub snapshot: bool,
}

/// A node's part in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its number.
    pub member: u64,
    /// Its node, 32 hexadecimal digits.
    pub node: String,
    /// Where the others reach it.
    pub address: String,
    /// "leader", "voter", "learner", "leaving", "joining" or "removed".
    pub part: String,
    /// Whether the leaders of all shards that it has a part in have heard from it lately, as far as they are known.
    pub active: bool,
    /// How many entries a leader has that it has not, in the shard where these are the most.
    pub lag: u64,
    /// Whether it is being sent a snapshot, of any shard.
    pub snapshot: bool,
    /// How many bytes of it have gone, if the leader is sending it just now.
    pub snapshot_bytes: u64,
    /// Of how many.
    pub snapshot_bytes_total: u64,
    /// What its node had to repair when it last started, for people.
    pub note: String,
    /// It is to have no votes and no leads, if others can have them.
    pub drained: bool,
    /// Who answers at its address instead of it, for people.
    pub stranger: String,
}

impl Client {
    /// Who takes part in the cluster, and how they are doing: as a node sees it that knows who leads, if any of those that the
    /// client knows does. One that is cut off from the others tells what it saw last.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, Error> {
        let mut reply = self
            .admin(|mut admin, remaining| async move {
                let request = within(v1::DescribeClusterRequest {}, remaining);
                admin.describe_cluster(request).await
            })
            .await?;
        if reply.leader == 0 {
            let others = self.nodes().all().into_iter().map(|node| async move {
                let mut admin =
                    AdminClient::new(node.channel()).max_decoding_message_size(loci_wire::MESSAGE_BYTES_MAX);
                let asked = admin.describe_cluster(within(v1::DescribeClusterRequest {}, OTHERS_TIME));
                timeout(OTHERS_TIME, asked).await.ok()?.ok()
            });
            let others = join_all(others).await.into_iter().flatten().map(tonic::Response::into_inner);
            let same = others.filter(|other| other.cluster == reply.cluster && other.leader != 0);
            reply = same.max_by_key(|other| other.term).unwrap_or(reply);
        }
        Ok(ClusterDescription {
            cluster: reply.cluster,
            member: reply.member,
            leader: (reply.leader != 0).then_some(reply.leader),
            term: reply.term,
            members: reply.members.into_iter().map(MemberDescription::from).collect(),
            shards: reply.shards.into_iter().map(ShardDescription::from).collect(),
            voters: if reply.voters == 0 { VOTERS } else { reply.voters },
        })
    }

    /// Hands the lead of the shard that holds the catalog to another member, and waits until it has it.
    pub async fn transfer_leader(&self, member: u64) -> Result<(), Error> {
        self.transfer_leader_of(1, member).await
    }

    /// Hands the lead of a shard to another member, and waits until it has it.
    pub async fn transfer_leader_of(&self, shard: u32, member: u64) -> Result<(), Error> {
        self.admin(|mut admin, remaining| async move {
            let request = within(v1::TransferLeaderRequest { member, shard }, remaining);
            admin.transfer_leader(request).await
        })
        .await
        .map(drop)
    }

    /// Takes a member's votes and leads away in all shards, and waits until others have them.
    pub async fn drain_member(&self, member: u64) -> Result<(), Error> {
        self.set_drained(member, false).await
    }

    /// Lets a member that was drained have votes and leads again.
    pub async fn undrain_member(&self, member: u64) -> Result<(), Error> {
        self.set_drained(member, true).await
    }

    async fn set_drained(&self, member: u64, undo: bool) -> Result<(), Error> {
        self.admin(|mut admin, remaining| async move {
            let request = within(v1::DrainMemberRequest { member, undo }, remaining);
            admin.drain_member(request).await
        })
        .await
        .map(drop)
    }

    /// Says how many members are to vote in the catalog and in every shard that is on all nodes: 3, or 5, which survive any two
    /// nodes. They come to do so as soon as there are as many that have caught up.
    pub async fn set_voters(&self, voters: u32) -> Result<(), Error> {
        self.admin(|mut admin, remaining| async move {
            let request = within(v1::SetVotersRequest { voters }, remaining);
            admin.set_voters(request).await
        })
        .await
        .map(drop)
    }

    /// Ends a member's part. Its node can come back only as a new one, with an empty data directory. Refused (`only_copies`)
    /// where it has the only copies of shards.
    pub async fn remove_member(&self, member: u64) -> Result<(), Error> {
        self.remove(member, false).await
    }

    /// The same also where that loses the records of which it has the only copies.
    pub async fn remove_member_and_lose_copies(&self, member: u64) -> Result<(), Error> {
        self.remove(member, true).await
    }

    async fn remove(&self, member: u64, lose_copies: bool) -> Result<(), Error> {
        self.admin(|mut admin, remaining| async move {
            let request = within(v1::RemoveMemberRequest { member, lose_copies }, remaining);
            admin.remove_member(request).await
        })
        .await
        .map(drop)
    }
}

impl From<v1::Member> for MemberDescription {
    fn from(member: v1::Member) -> MemberDescription {
        let v1::Member {
            member,
            node,
            address,
            part,
            active,
            lag,
            snapshot,
            snapshot_bytes,
            snapshot_bytes_total,
            note,
            drained,
            stranger,
        } = member;
        MemberDescription {
            member,
            node,
            address,
            part,
            active,
            lag,
            snapshot,
            snapshot_bytes,
            snapshot_bytes_total,
            note,
            drained,
            stranger,
        }
    }
}

impl From<v1::ShardPlace> for ShardDescription {
    fn from(place: v1::ShardPlace) -> ShardDescription {
        let v1::ShardPlace { shard, leader, term, voters, learners, namespaces, records, .. } = place;
        let v1::ShardPlace { replicas, holders, leaving, progress, .. } = place;
        let leader = (leader != 0).then_some(leader);
        let progress = progress.into_iter().map(|known| {
            let v1::MemberProgress { member, active, lag, snapshot } = known;
            MemberProgress { member, active, lag, snapshot }
        });
        let progress = progress.collect();
        ShardDescription {
            shard,
            leader,
            term,
            voters,
            learners,
            namespaces,
            records,
            replicas,
            holders,
            leaving,
            progress,
        }
    }
}
