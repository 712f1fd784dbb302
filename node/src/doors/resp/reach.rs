//! Reach: which nodes clients of a cluster can connect to. Those that nobody reaches are no replicas to read from.
//!
//! ```text
//!   every second: connect to the door of each other node --fails twice in a row--> failed, until it answers again
//! ```
//!
//! Always: only what clients are told of replicas depends on it. Who leads is known from the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use loci_raft::MemberId;
use tokio::net::TcpStream;

use super::Door;
use super::slots::Address;
use crate::cluster::book;

const EVERY: Duration = Duration::from_secs(1);
const CONNECT_TIME: Duration = Duration::from_millis(500);
/// A node that could not be reached so many times in a row counts as failed.
const TIMES: u32 = 2;

/// Tries for as long as the node runs.
pub async fn run(door: Arc<Door>) {
    let mut missed: BTreeMap<MemberId, u32> = BTreeMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let lines = book::read(&door.cluster.catalog().newest());
        let others = lines.iter().filter(|(member, line)| **member != door.cluster.me() && !line.removed);
        let tried = others.map(|(member, line)| async {
            let Address { host, port } = door.address_in(line);
            let connecting = TcpStream::connect((host.as_str(), port));
            (*member, matches!(tokio::time::timeout(CONNECT_TIME, connecting).await, Ok(Ok(_))))
        });
        let before = std::mem::take(&mut missed);
        for (member, reached) in join_all(tried).await {
            if !reached {
                missed.insert(member, before.get(&member).map_or(1, |times| times.saturating_add(1)));
            }
        }
        let failed = missed.iter().filter(|(_, times)| **times >= TIMES).map(|(member, _)| *member).collect();
        door.failed.store(Arc::new(failed));
    }
}
