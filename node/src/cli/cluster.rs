//! `cluster`: who takes part, who leads, and who is to.

use std::time::Duration;

use clap::Subcommand;
use loci_client::{ClusterDescription, Error, MemberDescription, ShardDescription};
use serde_json::{Value as Json, json};

use super::cluster_add::add;
use super::cluster_voters::voters;
use super::connect::{Connection, duration};
use super::failure::Failure;
use super::output::{Rows, grouped, print, print_json};
use crate::cluster::book::VOTERS;

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show members and shards: who leads, who votes, how far behind each is.
    Status {
        #[command(flatten)]
        connection: Connection,
    },
    /// Say how a new node joins, and wait until one has: until it holds everything and votes, or, where enough others vote, follows
    /// to take the place of one that is lost.
    Add {
        /// Where the new node will listen, host:port. Then only one at this address counts.
        #[arg(value_name = "NEW_ADDRESS")]
        node: Option<String>,
        /// How long to wait for it; 0s: only say how.
        #[arg(long, value_parser = duration, default_value = "10m")]
        wait: Duration,
        #[command(flatten)]
        connection: Connection,
    },
    /// Hand the lead to another member, as before maintenance of the node that has it.
    Transfer {
        /// The member's number.
        member: u64,
        /// Of which shard; 1 holds the catalog.
        #[arg(long, default_value_t = 1)]
        shard: u32,
        #[command(flatten)]
        connection: Connection,
    },
    /// Say how many members vote in the catalog and in every shard that is on all nodes, or set it: 3, and the cluster survives
    /// the loss of any one node; 5, and of any two at once, but every write waits for three disks. Waits until as many do.
    Voters {
        /// How many are to vote, 3 or 5.
        count: Option<u32>,
        /// How long to wait until they do; 0s: not at all.
        #[arg(long, value_parser = duration, default_value = "1m")]
        wait: Duration,
        #[command(flatten)]
        connection: Connection,
    },
    /// Take a member's votes and leads away in all shards, and wait until others have them: before its node is stopped for long, or
    /// removed. It keeps what it holds, and follows; but shards that are on some nodes only (namespace create --replicas) go to others with
    /// all that is in them, one after the other. Needs another node that can vote in its place.
    Drain {
        /// The member's number.
        member: u64,
        /// Let it have votes and leads again.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Drain a member, and then end its part: what another node that has joined takes over is never without enough votes.
    Replace {
        /// The member's number.
        member: u64,
        #[command(flatten)]
        connection: Connection,
    },
    /// End a member's part, of a node that is gone for good or is to go. It can come back only as a new node, with an empty
    /// data directory.
    Remove {
        /// The member's number.
        member: u64,
        /// Also if it is dead and has the only copies of shards: their records are lost then, for good.
        #[arg(long)]
        lose_copies: bool,
        #[command(flatten)]
        connection: Connection,
    },
}

pub async fn cluster(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status { connection } => {
            let described = connection.client()?.describe_cluster().await;
            let described = described.map_err(|error| Failure::call(connection.node(), error))?;
            if connection.json {
                return print_json(&cluster_json(&described));
            }
            print(table(&described))
        }
        ClusterCommand::Add { node, wait, connection } => add(node, wait, connection).await,
        ClusterCommand::Voters { count, wait, connection } => voters(count, wait, connection).await,
        ClusterCommand::Transfer { member, shard, connection } => {
            let done = connection.client()?.transfer_leader_of(shard, member).await;
            done.map_err(|error| Failure::call(format!("member {member}"), error))?;
            if connection.json {
                print_json(&json!({"leader": member, "shard": shard}))
            } else {
                print(format!("member {member} leads shard {shard}"))
            }
        }
        ClusterCommand::Drain { member, undo, connection } => {
            let client = connection.client()?;
            let done = if undo { client.undrain_member(member).await } else { client.drain_member(member).await };
            done.map_err(|error| Failure::call(format!("member {member}"), error))?;
            if connection.json {
                print_json(&json!({"member": member, "drained": !undo}))
            } else if undo {
                print(format!("member {member} may vote and lead again"))
            } else {
                print(format!("member {member} has no votes and no leads"))
            }
        }
        ClusterCommand::Replace { member, connection } => {
            let client = connection.client()?;
            let failed = |error| Failure::call(format!("member {member}"), error);
            let described = client.describe_cluster().await.map_err(failed)?;
            let was_drained = described.members.iter().any(|known| known.member == member && known.drained);
            match client.drain_member(member).await {
                // What came to nothing is taken back, so that the member is as it was.
                Err(Error::Refused { reason, message, .. }) if reason == "nobody_else" => {
                    if !was_drained {
                        client.undrain_member(member).await.map_err(failed)?;
                    }
                    let why = format!("member {member} is as it was, and not replaced: {message}");
                    return Err(Failure::refused(why));
                }
                drained => drained.map_err(failed)?,
            }
            client.remove_member(member).await.map_err(failed)?;
            if connection.json {
                print_json(&json!({"removed": member}))
            } else {
                print(format!("others have its votes and leads, and member {member} takes part no longer"))
            }
        }
        ClusterCommand::Remove { member, lose_copies, connection } => {
            let client = connection.client()?;
            let done = match lose_copies {
                true => client.remove_member_and_lose_copies(member).await,
                false => client.remove_member(member).await,
            };
            done.map_err(|error| Failure::call(format!("member {member}"), error))?;
            if connection.json {
                print_json(&json!({"removed": member}))
            } else {
                print(format!("member {member} takes part no longer"))
            }
        }
    }
}

/// So many vote where nobody has said anything else.
const USUAL: u32 = VOTERS[0];

fn table(described: &ClusterDescription) -> String {
    let mut members = Rows::new(&[">member", "part", "address", "health", ">lag", "node"]);
    let (removed, there): (Vec<_>, Vec<_>) = described.members.iter().partition(|member| member.part == "removed");
    for member in &there {
        members.push([
            member.member.to_string(),
            if member.drained { format!("{}, drained", member.part) } else { member.part.clone() },
            member.address.clone(),
            health(described, member),
            grouped(member.lag),
            member.node.chars().take(8).collect(),
        ]);
    }
    let leader = match described.leader {
        Some(leader) => format!("member {leader} leads in term {}", described.term),
        None => "nobody leads: no majority of the voters can be reached from here".into(),
    };
    let noted = there.iter().filter(|member| !member.note.is_empty());
    let notes: String = noted.map(|member| format!("\nmember {} {}", member.member, member.note)).collect();
    let strangers = there.iter().filter(|member| !member.stranger.is_empty());
    let strangers: String = strangers
        .map(|member| format!("\nat {}, where member {} should be: {}", member.address, member.member, member.stranger))
        .collect();
    let (cluster, asked) = (&described.cluster, described.member);
    let voters = match described.voters {
        USUAL => String::new(),
        voters => format!("; {voters} members are to vote"),
    };
    let members = members.text();
    let gone = match removed.len() {
        0 => String::new(),
        1 => "\n1 more was removed (--json shows it)".into(),
        count => format!("\n{count} more were removed (--json shows them)"),
    };
    let mut text =
        format!("cluster {cluster}, asked of member {asked}; {leader}{voters}\n\n{members}{gone}{notes}{strangers}");
    if described.shards.len() > 1 {
        text += "\n\n";
        text += &shards_table(&described.shards);
    }
    text
}

fn shards_table(shards: &[ShardDescription]) -> String {
    let list = |members: &[u64]| members.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let mut rows =
        Rows::new(&[">shard", "leader", ">term", "voters", "learners", "moves", "behind", ">records", "namespaces"]);
    for shard in shards {
        rows.push([
            shard.shard.to_string(),
            shard.leader.map_or("nobody".into(), |leader| format!("member {leader}")),
            shard.term.to_string(),
            list(&shard.voters),
            list(&shard.learners),
            moves(shard),
            behind(shard),
            grouped(shard.records),
            if shard.shard == 1 { "the catalog, all others".into() } else { shard.namespaces.join(" ") },
        ]);
    }
    rows.text()
}

/// Who has not all of a shard yet, and how many entries are missing.
fn behind(shard: &ShardDescription) -> String {
    let lags = shard.progress.iter().filter_map(|known| match known {
        _ if known.snapshot => Some(format!("{} receives a snapshot", known.member)),
        _ if !known.active => Some(format!("{} silent", known.member)),
        _ if known.lag > 0 => Some(format!("{} by {}", known.member, grouped(known.lag))),
        _ => None,
    });
    lags.collect::<Vec<_>>().join(", ")
}

/// Who is to get a shard, and who is to have it no longer; of one that is on some nodes only.
fn moves(shard: &ShardDescription) -> String {
    let votes_missing = |member: &&u64| !shard.voters.contains(member);
    let to = shard.holders.iter().filter(votes_missing).map(|member| format!("+{member}"));
    let from = shard.voters.iter().chain(&shard.learners).filter(|member| !shard.holders.contains(member));
    let mut from: Vec<u64> = from.copied().chain(shard.leaving.iter().copied()).collect();
    from.sort_unstable();
    from.dedup();
    match shard.replicas {
        0 => String::new(),
        _ => to.chain(from.into_iter().map(|member| format!("-{member}"))).collect::<Vec<_>>().join(" "),
    }
}

/// In a word. Only a leader knows of the others.
fn health(described: &ClusterDescription, member: &MemberDescription) -> String {
    let (bytes, total) = (member.snapshot_bytes, member.snapshot_bytes_total);
    let health = match member.part.as_str() {
        // Also one that joins, and has no part yet.
        _ if total > 0 => {
            let mib = |bytes: u64| grouped(bytes.div_ceil(1 << 20));
            return format!("receives a snapshot: {} of {} MiB", mib(bytes), mib(total));
        }
        _ if member.snapshot => "receives a snapshot",
        _ if !member.active && !member.stranger.is_empty() => "somebody else is there",
        _ if member.active => "ok",
        _ if described.leader.is_none() => "unknown",
        _ => "silent",
    };
    health.to_owned()
}

fn cluster_json(described: &ClusterDescription) -> Json {
    let members = described.members.iter().map(|member| {
        json!({
            "member": member.member,
            "node": member.node,
            "address": member.address,
            "part": member.part,
            "active": member.active,
            "lag": member.lag,
            "snapshot": member.snapshot,
            "drained": member.drained,
            "snapshot_bytes": member.snapshot_bytes,
            "snapshot_bytes_total": member.snapshot_bytes_total,
            "note": member.note,
            "stranger": member.stranger,
        })
    });
    json!({
        "cluster": described.cluster,
        "member": described.member,
        "leader": described.leader,
        "term": described.term,
        "voters": described.voters,
        "members": members.collect::<Vec<_>>(),
        "shards": described.shards.iter().map(shard_json).collect::<Vec<_>>(),
    })
}

fn shard_json(shard: &ShardDescription) -> Json {
    json!({
        "shard": shard.shard,
        "leader": shard.leader,
        "term": shard.term,
        "voters": shard.voters,
        "learners": shard.learners,
        "namespaces": shard.namespaces,
        "records": shard.records,
        "replicas": shard.replicas,
        "holders": shard.holders,
        "leaving": shard.leaving,
        "progress": shard.progress.iter().map(|known| json!({
            "member": known.member,
            "active": known.active,
            "lag": known.lag,
            "snapshot": known.snapshot,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use loci_client::MemberProgress;

    use super::*;

    fn shard_of(shard: u32, leader: Option<u64>) -> ShardDescription {
        let (voters, namespaces) = (vec![1, 2, 3], vec!["wide".into()]);
        let (replicas, holders, leaving) = (3, vec![1, 2, 4], vec![3]);
        let learners = vec![];
        let known = |member, active, lag| MemberProgress { member, active, lag, snapshot: false };
        let progress = vec![known(1, true, 0), known(2, true, 1_204), known(3, false, 9)];
        ShardDescription {
            shard,
            leader,
            term: 4,
            voters,
            learners,
            namespaces,
            records: 5,
            replicas,
            holders,
            leaving,
            progress,
        }
    }

    #[test]
    fn the_table_says_who_leads_and_who_is_silent() {
        let member = |member, part: &str, active| MemberDescription {
            member,
            node: "ab".repeat(16),
            address: format!("127.0.0.1:770{member}"),
            part: part.into(),
            active,
            lag: 7,
            snapshot: false,
            snapshot_bytes: if member == 2 { 5 << 20 } else { 0 },
            snapshot_bytes_total: if member == 2 { 12 << 20 } else { 0 },
            note: if member == 2 { "repaired: a file".into() } else { String::new() },
            drained: false,
            stranger: if member == 3 { "a node of cluster ef".into() } else { String::new() },
        };
        let described = ClusterDescription {
            cluster: "cd".repeat(16),
            member: 2,
            leader: Some(1),
            term: 9,
            members: vec![member(1, "leader", true), member(2, "voter", true), member(3, "voter", false)],
            shards: [(1, Some(1)), (2, None)].map(|(shard, leader)| shard_of(shard, leader)).into(),
            voters: 5,
        };
        let table = table(&described);
        assert!(table.contains("+4 -3") && table.contains("2 by 1,204"), "{table}");
        assert!(table.contains("nobody") && table.contains("wide"), "{table}");
        assert!(table.contains("member 1 leads in term 9; 5 members are to vote"), "{table}");
        let silent = table.lines().find(|line| line.contains("127.0.0.1:7703")).unwrap();
        assert!(table.contains("receives a snapshot: 5 of 12 MiB"), "{table}");
        assert!(silent.contains("somebody else is there") && silent.contains('7'), "{table}");
        assert!(table.contains("where member 3 should be: a node of cluster ef"), "{table}");
        assert!(table.contains("member 2 repaired: a file"), "{table}");
    }
}
