//! Arrival: what a node that is of a cluster asks before it takes part again, and sees to while it does.
//!
//! ```text
//!   start: every address of --join, and the one that the book has for this node --Who--> who answers there?
//!     nobody, or a node of this cluster    -> fine
//!     this process itself                  -> fine: the way to oneself
//!     this node, as another process        -> refused: two with one memory of what was promised would be one member
//!     a node of another cluster            -> refused, if this one has never been with others: one of the two is meant.
//!                                             Otherwise told aloud, and left alone: a stray node stops no majority
//!   later: the book has another address    -> this node has moved: the others are told; or another process has taken its place,
//!                                             which is told aloud
//! ```
//!
//! Who joins, or has moved, is asked at the address that it gives, by the member that leads: others have to reach it there.
//!
//! A process has a name of its own, made at its start: a node and its copy share everything else. Where a node moves, the leader
//! asks at the old address too, because it may reach what the copy cannot.
//!
//! Always: nothing is asked twice at one address, nobody is waited for longer than one answer may take, and whoever does not
//! answer is no reason not to start.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use loci_raft::MemberId;
use loci_wire::v1;
use tonic::Code;

use super::strangers::Strangers;
use super::{Cluster, book, formation};
use crate::doors::grpc::Failure;
use crate::fatal;
use crate::identity::{ClusterId, Identity, NodeId, RunId};

/// How often the book is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long another node may take to write down where this one is.
const TELL_TIME: Duration = Duration::from_secs(5);
/// How often those are asked again who are of another cluster.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How often it is told that another process has this node's place.
const SHOUT_EVERY: Duration = Duration::from_secs(30);
/// The reason why a node is not let in whose place another process has.
const TWIN: &str = "twin";

/// Who answers at an address, and should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// A node of another cluster.
    Foreign(ClusterId),
    /// The node that asks, as another process.
    Twin,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Its cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The process.
    pub run: RunId,
}

impl Asker {
    /// This process, of a node.
    pub fn of(identity: &Identity, run: RunId) -> Asker {
        Asker { cluster: identity.cluster, node: identity.node, run }
    }

    /// Who answers at an address, if it is somebody who should not.
    async fn at(&self, address: &str) -> Option<Met> {
        // Whoever does not answer says nothing.
        self.judge(&formation::who(address).await.ok()?)
    }

    fn judge(&self, reply: &v1::WhoReply) -> Option<Met> {
        if reply.node[..] == self.node.0 {
            // An older program's process has no name; this one has.
            return (reply.run[..] != self.run.0).then_some(Met::Twin);
        }
        let cluster = ClusterId(reply.cluster[..].try_into().ok()?);
        (cluster != self.cluster).then_some(Met::Foreign(cluster))
    }

    /// Everybody who answers at these addresses and should not.
    pub async fn look(self, addresses: BTreeSet<String>) -> Vec<(String, Met)> {
        let asked = addresses.into_iter().map(|address| async move {
            let met = self.at(&address).await;
            met.map(|met| (address, met))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// As people are told.
fn of_cluster(cluster: ClusterId) -> String {
    format!("a node of cluster {cluster}")
}

/// Keeps an eye on addresses at which nodes of other clusters answered when this one started.
pub async fn watch(strangers: Strangers, asker: Asker, found: Vec<(String, ClusterId)>) {
    for (address, cluster) in &found {
        strangers.meet(address, &of_cluster(*cluster));
    }
    let addresses: BTreeSet<String> = found.into_iter().map(|(address, _)| address).collect();
    while !addresses.is_empty() {
        tokio::time::sleep(ASK_EVERY).await;
        for (address, met) in asker.look(addresses.clone()).await {
            if let Met::Foreign(cluster) = met {
                strangers.meet(&address, &of_cluster(cluster));
            }
        }
    }
}

/// Whether a node that says that it is elsewhere now may: not while another process of it answers where the book has it.
pub async fn may_move(from: &str, cluster: ClusterId, request: &v1::JoinRequest) -> Result<(), Failure> {
    let (Ok(node), Ok(run)) = (request.node[..].try_into().map(NodeId), request.run[..].try_into().map(RunId)) else {
        // An older program does not say which process it is.
        return Ok(());
    };
    match (Asker { cluster, node, run }).at(from).await {
        Some(Met::Twin) => Err(Failure::new(Code::FailedPrecondition, TWIN, said(from))),
        _ => Ok(()),
    }
}

/// Whether others reach a node where it says that they do: a member that nobody reaches hears nothing, and would count as one.
pub async fn is_reached(me: MemberId, request: &v1::JoinRequest) -> Result<(), Failure> {
    let address = &request.address;
    let wrong = |reason: &'static str, what: String| {
        let message = format!(
            "{what}, where this node says that others reach it, as member {me} sees it: see to --advertise (and --listen), names and \
             firewalls"
        );
        Err(Failure::new(Code::Unavailable, reason, message))
    };
    match formation::who(address).await {
        Ok(reply) if reply.node == request.node => Ok(()),
        Ok(reply) if reply.member > 0 => {
            wrong("somebody_else", format!("member {} answers at {address}", reply.member))
        }
        Ok(_) => wrong("somebody_else", format!("another node answers at {address}")),
        Err(status) => wrong("unreachable", format!("nobody answers at {address} ({})", status.message())),
    }
}

/// What is wrong, and what to do.
fn said(address: &str) -> String {
    format!(
        "a process with the same data answers at {address}: a copy of a data directory cannot run beside its original, because \
         both would be one member, and what was acknowledged could be lost; stop one of the two for good, and start a further node \
         with an empty directory and --join"
    )
}

/// What keeps a copy from taking part.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", said(address))]
pub struct Twin {
    /// Where the other one is.
    pub address: String,
}

/// For as long as the node runs: sees to it that the book has its address, after it has moved, and that nobody takes its place
/// unseen.
pub async fn keep_address(cluster: Cluster) {
    let asker = Asker::of(cluster.identity(), cluster.run());
    // The book had this process's address: it did not come as a copy.
    let mut settled = false;
    let mut shouted: Option<Instant> = None;
    loop {
        match book::find(&cluster.catalog().newest(), cluster.me()) {
            // The first node that joins sees to it that its founder is in the book.
            None => {}
            Some(line) if line.removed => {}
            Some(line) if line.address == cluster.address() => settled = true,
            Some(line) if asker.at(&line.address).await == Some(Met::Twin) => {
                // Which of the two is the copy nobody knows. The one that was here first goes on.
                if !settled {
                    fatal::stop(&said(&line.address));
                }
                if shouted.is_none_or(|at| at.elapsed() > SHOUT_EVERY) {
                    shouted = Some(Instant::now());
                    tracing::error!(
                        address = line.address,
                        "another process is this member now: {}",
                        said(&line.address)
                    );
                }
            }
            Some(_) => tell_address(&cluster).await,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Tells the others where this node is, which may have another address than when it was last here. Until they know, a leader
/// among them cannot reach it.
async fn tell_address(cluster: &Cluster) {
    let lines = book::read(&cluster.catalog().newest());
    let others = lines.iter().filter(|(member, line)| **member != cluster.me() && !line.removed);
    let mut told = false;
    for (member, _) in others {
        let request = v1::JoinRequest {
            node: cluster.identity().node.0.to_vec().into(),
            address: cluster.address().to_owned(),
            run: cluster.run().0.to_vec().into(),
        };
        // As a member speaks to a member: a node of another cluster that answers there must not take this one in.
        let asked = async { cluster.links().client(*member)?.join(request).await };
        match tokio::time::timeout(TELL_TIME, asked).await {
            Ok(Ok(_)) => told = true,
            Ok(Err(status)) if Failure::from_status(&status).detail.reason == TWIN => fatal::stop(status.message()),
            _ => {}
        }
    }
    if !told && let Err(failure) = cluster.enter_book(Instant::now() + TELL_TIME).await {
        tracing::debug!(error = failure.message, "nobody could be told where this node is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_itself_its_copy_its_cluster_and_others() {
        let asker = Asker { cluster: ClusterId([1; 16]), node: NodeId([2; 16]), run: RunId([3; 16]) };
        let judged = |cluster: &[u8], node: u8, run: &[u8]| {
            let (cluster, run) = (cluster.to_vec().into(), run.to_vec().into());
            asker.judge(&v1::WhoReply { cluster, node: vec![node; 16].into(), run, ..v1::WhoReply::default() })
        };
        assert_eq!(judged(&[1; 16], 2, &[3; 16]), None, "itself");
        assert_eq!(judged(&[1; 16], 2, &[4; 16]), Some(Met::Twin));
        assert_eq!(judged(&[1; 16], 2, &[]), Some(Met::Twin), "an older program with the same data");
        assert_eq!(judged(&[1; 16], 5, &[4; 16]), None, "another member");
        assert_eq!(judged(&[], 5, &[4; 16]), None, "one that is in no cluster yet");
        assert_eq!(judged(&[9; 16], 5, &[4; 16]), Some(Met::Foreign(ClusterId([9; 16]))));
        assert_eq!(judged(&[9; 3], 5, &[4; 16]), None, "nonsense");
    }
}
