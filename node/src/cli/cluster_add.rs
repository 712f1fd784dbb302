//! `cluster add`: says how a new node joins, and waits until it has.
//!
//! A node joins by itself, with `loci serve --join`: what is left to do is to say with which addresses, and to watch.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use loci_client::{ClusterDescription, MemberDescription};
use serde_json::json;

use super::connect::Connection;
use super::failure::Failure;
use super::output::{grouped, print, print_json};
use crate::config::is_host_and_port;

const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Elsewhere than on a terminal a line is printed so often, if anything is different.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// A learner that lacks no more entries than this has caught up: others write meanwhile.
const LAG_MAX: u64 = 1_000;

/// How far a newcomer is.
#[derive(Debug, PartialEq)]
enum Stage {
    /// Not there yet, or not done.
    Waits(String),
    /// It is a member, and will stay what it is.
    Done(String),
}

/// Says how a node joins, and waits so long until one has, at this address if one is given.
pub async fn add(address: Option<String>, wait: Duration, connection: Connection) -> Result<(), Failure> {
    if let Some(address) = address.as_deref().filter(|address| !is_host_and_port(address)) {
        return Err(Failure::usage(format!("{address:?} is no address: give HOST:PORT, as others reach the new node")));
    }
    let client = connection.client()?;
    let failed = |error| Failure::call(connection.node(), error);
    let described = client.describe_cluster().await.map_err(failed)?;
    let known: BTreeSet<u64> = described.members.iter().map(|member| member.member).collect();
    let others: Vec<&str> =
        described.members.iter().filter(|member| member.part != "removed").map(|m| &*m.address).collect();
    if let Some(taken) =
        described.members.iter().find(|it| it.part != "removed" && Some(&it.address) == address.as_ref())
    {
        return Err(Failure::refused(format!("{} is member {} already", taken.address, taken.member)));
    }
    let listen = address.as_deref().unwrap_or("ADDRESS");
    let local = |address: &str| address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    let insecure = if address.as_deref().or(others.first().copied()).is_none_or(local) { "" } else { " --insecure" };
    eprintln!(
        "on the new machine, with an empty data directory:\n\n    loci serve --data DIR --listen {listen}{insecure} --join {}\n",
        others.join(",")
    );
    if wait.is_zero() {
        return Ok(());
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    let (until, mut told) = (Instant::now() + wait, (Instant::now(), String::new()));
    loop {
        let stage = match client.describe_cluster().await {
            Ok(described) => stage(&described, &known, address.as_deref()),
            // Whoever leads may change while members do.
            Err(error) if error.is_transient() => (None, Stage::Waits(format!("the cluster does not answer: {error}"))),
            Err(error) => return Err(failed(error)),
        };
        match stage {
            (Some(member), Stage::Done(what)) => {
                bar.finish_and_clear();
                return match connection.json {
                    true => print_json(&json!({"member": member, "state": what})),
                    false => print(format!("member {member} {what}")),
                };
            }
            (member, Stage::Waits(what) | Stage::Done(what)) => {
                let line = member.map_or(what.clone(), |member| format!("member {member} {what}"));
                if !std::io::stderr().is_terminal() && told.1 != line && told.0.elapsed() >= TELL_EVERY {
                    eprintln!("{line}");
                    told = (Instant::now(), line.clone());
                }
                bar.set_message(line);
            }
        }
        if Instant::now() >= until {
            bar.finish_and_clear();
            let seconds = wait.as_secs();
            return Err(Failure::refused(format!(
                "no node has joined within {seconds} s; it still can: `loci cluster status` shows it then"
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How far the newest member is that was not there before.
fn stage(described: &ClusterDescription, known: &BTreeSet<u64>, address: Option<&str>) -> (Option<u64>, Stage) {
    let is_new = |member: &&MemberDescription| {
        !known.contains(&member.member) && member.part != "removed" && address.is_none_or(|at| at == member.address)
    };
    let Some(new) = described.members.iter().rev().find(is_new) else {
        return (None, Stage::Waits("waiting for the new node".into()));
    };
    let votes = |member: &&MemberDescription| matches!(member.part.as_str(), "leader" | "voter");
    let voters = described.members.iter().filter(votes).count();
    let all = described.members.iter().filter(|member| member.part != "removed").count();
    let wanted = described.voters as usize;
    let stage = match new.part.as_str() {
        "leader" | "voter" => Stage::Done("votes".into()),
        _ if new.snapshot_bytes_total > 0 => {
            let percent = new.snapshot_bytes * 100 / new.snapshot_bytes_total;
            Stage::Waits(format!("receives a snapshot: {percent} %"))
        }
        _ if new.snapshot => Stage::Waits("receives a snapshot".into()),
        "learner" if new.active && new.lag <= LAG_MAX && voters >= wanted => {
            Stage::Done(format!("follows; {voters} others vote, and it takes the place of one that is lost"))
        }
        "learner" if new.active && new.lag <= LAG_MAX && all < wanted => {
            Stage::Done(format!("follows, and votes once there are {wanted} nodes"))
        }
        "learner" if new.lag > LAG_MAX => Stage::Waits(format!("is {} entries behind", grouped(new.lag))),
        "learner" => Stage::Waits("has caught up".into()),
        _ => Stage::Waits("joins".into()),
    };
    (Some(new.member), stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(member: u64, part: &str, lag: u64) -> MemberDescription {
        MemberDescription {
            member,
            node: "ab".repeat(16),
            address: format!("127.0.0.1:770{member}"),
            part: part.into(),
            active: true,
            lag,
            snapshot: false,
            snapshot_bytes: 0,
            snapshot_bytes_total: 0,
            note: String::new(),
            drained: false,
            stranger: String::new(),
        }
    }

    #[test]
    fn a_newcomer_is_done_once_it_votes_or_nobody_needs_its_vote() {
        let known = BTreeSet::from([1, 2, 3]);
        let with = |others: usize, new: Vec<MemberDescription>| {
            let old = (1..=others as u64).map(|number| member(number, if number == 1 { "leader" } else { "voter" }, 0));
            let members = old.chain(new).collect();
            ClusterDescription {
                cluster: "c".into(),
                member: 1,
                leader: Some(1),
                term: 1,
                members,
                shards: vec![],
                voters: 3,
            }
        };
        let stage = |others, new| stage(&with(others, new), &known, None);
        assert_eq!(stage(3, vec![]), (None, Stage::Waits("waiting for the new node".into())));
        assert_eq!(stage(2, vec![member(4, "voter", 0)]), (Some(4), Stage::Done("votes".into())));
        assert_eq!(stage(2, vec![member(4, "learner", 0)]).1, Stage::Waits("has caught up".into()));
        let second = Stage::Done("follows, and votes once there are 3 nodes".into());
        assert_eq!(stage(1, vec![member(4, "learner", 0)]).1, second);
        assert_eq!(stage(3, vec![member(4, "learner", 5_000)]).1, Stage::Waits("is 5,000 entries behind".into()));
        assert!(matches!(stage(3, vec![member(4, "learner", 5)]).1, Stage::Done(_)));
        let sent = MemberDescription { snapshot_bytes: 5, snapshot_bytes_total: 20, ..member(4, "joining", 9) };
        assert_eq!(stage(3, vec![sent]).1, Stage::Waits("receives a snapshot: 25 %".into()));
        let five = |others, new| super::stage(&ClusterDescription { voters: 5, ..with(others, new) }, &known, None).1;
        assert_eq!(
            five(3, vec![member(4, "learner", 0)]),
            Stage::Done("follows, and votes once there are 5 nodes".into()),
            "where five are to vote"
        );
        let both = vec![member(4, "learner", 0), member(5, "learner", 0)];
        assert_eq!(five(3, both), Stage::Waits("has caught up".into()), "both vote in a moment");
        // One that was removed before it came is not it.
        assert_eq!(stage(3, vec![member(4, "removed", 0)]).0, None);
    }

    #[test]
    fn only_the_address_that_is_waited_for_counts() {
        let members = vec![member(1, "leader", 0), member(2, "voter", 0), member(3, "voter", 0)];
        let described = ClusterDescription {
            cluster: "c".into(),
            member: 1,
            leader: Some(1),
            term: 1,
            members,
            shards: vec![],
            voters: 3,
        };
        let known = BTreeSet::from([1]);
        assert_eq!(stage(&described, &known, Some("127.0.0.1:7702")).0, Some(2));
        assert_eq!(stage(&described, &known, Some("127.0.0.1:7709")).0, None);
    }
}
