//! `namespace replicas`: says on how many nodes each shard of a namespace is to be, and waits until it is.

use std::time::{Duration, Instant};

use loci_client::ShardDescription;
use serde_json::json;

use super::connect::Connection;
use super::failure::Failure;
use super::output::{print, print_json};

const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Says so, and waits for so long.
pub async fn replicas(name: &str, count: u32, wait: Duration, connection: Connection) -> Result<(), Failure> {
    let client = connection.client()?;
    let failed = |error| Failure::call(format!("namespace {name}"), error);
    client.set_replicas(name, count).await.map_err(failed)?;
    let until = Instant::now() + wait;
    let mut told = String::new();
    loop {
        match client.describe_cluster().await {
            Ok(described) => {
                let own: Vec<&ShardDescription> =
                    described.shards.iter().filter(|shard| shard.namespaces.iter().any(|has| has == name)).collect();
                let done = own.iter().filter(|shard| is_done(shard, count)).count();
                if done == own.len() && done > 0 {
                    return match connection.json {
                        true => print_json(&json!({"namespace": name, "replicas": count, "shards": done})),
                        false if own.iter().any(|shard| shard.replicas > count) => print(format!(
                            "namespace {name} has {count} members of each of its shards; those have more that are also of a namespace \
                             which wants more"
                        )),
                        false => print(format!("namespace {name} has {count} members of each of its shards")),
                    };
                }
                let line = format!("{done} of {} shards have their {count} members", own.len());
                if told != line && !wait.is_zero() {
                    eprintln!("{line}");
                    told = line;
                }
            }
            // Whoever leads may change while members do.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(failed(error)),
        }
        if wait.is_zero() {
            return print(format!("namespace {name} is to have {count} members of each of its shards"));
        }
        if Instant::now() >= until {
            return Err(Failure::refused(format!(
                "{told} after {} s; they come one after the other, and `loci cluster status` shows how far they are",
                wait.as_secs()
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether a shard has the members that it is to have, and nobody else. One that another namespace has records in may have more.
fn is_done(shard: &ShardDescription, count: u32) -> bool {
    shard.replicas >= count
        && shard.voters.len() == shard.replicas as usize
        && shard.voters == shard.holders
        && shard.learners.is_empty()
        && shard.leaving.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_when_all_vote_that_are_to_and_nobody_else_has_anything() {
        let shard = |replicas, holders: &[u64], voters: &[u64], leaving: &[u64]| ShardDescription {
            shard: 2,
            leader: Some(1),
            term: 1,
            voters: voters.to_vec(),
            learners: vec![],
            namespaces: vec!["wide".into()],
            records: 0,
            replicas,
            holders: holders.to_vec(),
            leaving: leaving.to_vec(),
            progress: vec![],
        };
        let three = [1, 2, 3];
        assert!(is_done(&shard(3, &three, &three, &[]), 3));
        assert!(!is_done(&shard(3, &three, &three, &[4]), 3), "one has not thrown away what it had");
        assert!(!is_done(&shard(3, &three, &[1, 2, 3, 4, 5], &[]), 3));
        assert!(!is_done(&shard(3, &three, &three, &[]), 5), "it was not told yet");
        assert!(is_done(&shard(5, &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5], &[]), 3), "another namespace wants more");
    }
}
