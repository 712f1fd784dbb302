//! `cluster voters`: says how many members vote, or how many are to, and waits until they do.

use std::time::{Duration, Instant};

use loci_client::{ClusterDescription, ShardDescription};
use serde_json::json;

use super::connect::Connection;
use super::failure::Failure;
use super::output::{print, print_json};

const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Says how many members are to vote, if a number is given, and waits so long until as many do.
pub async fn voters(count: Option<u32>, wait: Duration, connection: Connection) -> Result<(), Failure> {
    let client = connection.client()?;
    let failed = |error| Failure::call(connection.node(), error);
    if let Some(count) = count {
        client.set_voters(count).await.map_err(failed)?;
    }
    let until = Instant::now() + wait;
    loop {
        let described = match client.describe_cluster().await {
            Ok(described) => described,
            // Whoever leads may change while members do.
            Err(error) if error.is_transient() && Instant::now() < until => {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        // Whoever answers may not have heard of it yet.
        let heard = count.is_none_or(|count| count == described.voters);
        let waits = count.is_some() && !(heard && (is_done(&described) || too_few(&described)));
        if !waits {
            return match connection.json {
                true => print_json(&json!({"voters": described.voters, "voting": voting(&described)})),
                false => print(said(&described)),
            };
        }
        if Instant::now() >= until {
            return Err(Failure::refused(format!(
                "{}. They come to as soon as there are as many that are heard of, not drained, and have caught up; `loci cluster \
                 status` shows it",
                said(&described)
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The shards that every node has.
fn everywhere(described: &ClusterDescription) -> impl Iterator<Item = &ShardDescription> {
    described.shards.iter().filter(|shard| shard.replicas == 0)
}

/// How many vote in each of them; in the one with the fewest.
fn voting(described: &ClusterDescription) -> usize {
    everywhere(described).map(|shard| shard.voters.len()).min().unwrap_or(0)
}

fn is_done(described: &ClusterDescription) -> bool {
    everywhere(described).all(|shard| shard.voters.len() == described.voters as usize)
}

fn nodes(described: &ClusterDescription) -> usize {
    described.members.iter().filter(|member| member.part != "removed").count()
}

/// Whether as many cannot vote before others join.
fn too_few(described: &ClusterDescription) -> bool {
    nodes(described) < described.voters as usize
}

fn said(described: &ClusterDescription) -> String {
    let (wanted, now, nodes) = (described.voters, voting(described), nodes(described));
    match now {
        _ if is_done(described) => format!("{now} members vote in the catalog and in every shard that is on all nodes"),
        _ if too_few(described) => {
            format!(
                "{wanted} members are to vote, and will once as many nodes have joined: {now} vote, of {nodes} nodes"
            )
        }
        _ => format!(
            "{wanted} members are to vote in the catalog and in every shard that is on all nodes, and {now} do yet"
        ),
    }
}

#[cfg(test)]
mod tests {
    use loci_client::MemberDescription;

    use super::*;

    #[test]
    fn it_says_how_many_vote_where_every_node_has_a_part() {
        let shard = |shard, replicas, voters: &[u64]| ShardDescription {
            shard,
            leader: Some(1),
            term: 1,
            voters: voters.to_vec(),
            learners: vec![],
            namespaces: vec![],
            records: 0,
            replicas,
            holders: vec![],
            leaving: vec![],
            progress: vec![],
        };
        let member = |member: u64| MemberDescription {
            member,
            node: String::new(),
            address: String::new(),
            part: "voter".into(),
            active: true,
            lag: 0,
            snapshot: false,
            snapshot_bytes: 0,
            snapshot_bytes_total: 0,
            note: String::new(),
            drained: false,
            stranger: String::new(),
        };
        let with = |nodes: u64, voters: u32, second: &[u64]| ClusterDescription {
            cluster: String::new(),
            member: 1,
            leader: Some(1),
            term: 1,
            members: (1..=nodes).map(member).collect(),
            shards: vec![shard(1, 0, &[1, 2, 3, 4, 5][..nodes as usize]), shard(2, 0, second), shard(3, 1, &[4])],
            voters,
        };
        assert!(is_done(&with(5, 5, &[1, 2, 3, 4, 5])));
        let half = with(5, 5, &[1, 2, 3]);
        assert!(!is_done(&half) && !too_few(&half));
        assert_eq!(voting(&half), 3, "a shard with one member on some node does not count");
        assert!(said(&half).ends_with("and 3 do yet"), "{}", said(&half));
        let few = with(3, 5, &[1, 2, 3]);
        assert!(too_few(&few) && said(&few).ends_with("3 vote, of 3 nodes"), "{}", said(&few));
    }
}
