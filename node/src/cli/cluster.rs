//! `cluster`: who takes part, who leads, and who is to.

use clap::Subcommand;
use loci_client::{ClusterDescription, MemberDescription};
use serde_json::{Value as Json, json};

use super::connect::Connection;
use super::failure::Failure;
use super::output::{Rows, grouped, print, print_json};

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the members: who leads, who votes, how far behind each is.
    Status {
        #[command(flatten)]
        connection: Connection,
    },
    /// Hand the lead to another member, as before maintenance of the node that has it.
    Transfer {
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
        ClusterCommand::Transfer { member, connection } => {
            let done = connection.client()?.transfer_leader(member).await;
            done.map_err(|error| Failure::call(format!("member {member}"), error))?;
            if connection.json {
                print_json(&json!({"leader": member}))
            } else {
                print(format!("member {member} leads"))
            }
        }
        ClusterCommand::Remove { member, connection } => {
            let done = connection.client()?.remove_member(member).await;
            done.map_err(|error| Failure::call(format!("member {member}"), error))?;
            if connection.json {
                print_json(&json!({"removed": member}))
            } else {
                print(format!("member {member} takes part no longer"))
            }
        }
    }
}

fn table(described: &ClusterDescription) -> String {
    let mut members = Rows::new(&[">member", "part", "address", "health", ">lag", "node"]);
    for member in &described.members {
        let shown = if member.part == "removed" { String::new() } else { grouped(member.lag) };
        members.push([
            member.member.to_string(),
            member.part.clone(),
            member.address.clone(),
            health(described, member),
            shown,
            member.node.chars().take(8).collect(),
        ]);
    }
    let leader = match described.leader {
        Some(leader) => format!("member {leader} leads in term {}", described.term),
        None => "nobody leads: no majority of the voters can be reached from here".into(),
    };
    let noted = described.members.iter().filter(|member| !member.note.is_empty());
    let notes: String = noted.map(|member| format!("\nmember {} {}", member.member, member.note)).collect();
    let (cluster, asked) = (&described.cluster, described.member);
    format!("cluster {cluster}, asked of member {asked}; {leader}\n\n{}{notes}", members.text())
}

/// In a word. Only a leader knows of the others.
fn health(described: &ClusterDescription, member: &MemberDescription) -> String {
    let (bytes, total) = (member.snapshot_bytes, member.snapshot_bytes_total);
    let health = match member.part.as_str() {
        "removed" => "",
        // Also one that joins, and has no part yet.
        _ if total > 0 => {
            let mib = |bytes: u64| grouped(bytes.div_ceil(1 << 20));
            return format!("receives a snapshot: {} of {} MiB", mib(bytes), mib(total));
        }
        _ if member.snapshot => "receives a snapshot",
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
            "snapshot_bytes": member.snapshot_bytes,
            "snapshot_bytes_total": member.snapshot_bytes_total,
            "note": member.note,
        })
    });
    json!({
        "cluster": described.cluster,
        "member": described.member,
        "leader": described.leader,
        "term": described.term,
        "members": members.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        };
        let described = ClusterDescription {
            cluster: "cd".repeat(16),
            member: 2,
            leader: Some(1),
            term: 9,
            members: vec![member(1, "leader", true), member(2, "voter", true), member(3, "voter", false)],
        };
        let table = table(&described);
        assert!(table.contains("member 1 leads in term 9"), "{table}");
        let silent = table.lines().find(|line| line.contains("127.0.0.1:7703")).unwrap();
        assert!(table.contains("receives a snapshot: 5 of 12 MiB"), "{table}");
        assert!(silent.contains("silent") && silent.contains('7'), "{table}");
        assert!(table.contains("member 2 repaired: a file"), "{table}");
    }
}
