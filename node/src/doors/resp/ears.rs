//! Ears: how the hub hears of the shards of the databases, each of them here or on another node.
//!
//! ```text
//!   here -----> shard --on its thread--> hub
//!   elsewhere -> a node that has it --Peers.Hear--> hub; it ends: another one, and all may have changed meanwhile
//! ```

use std::sync::Weak;
use std::time::Duration;

use loci_raft::MemberId;
use loci_wire::v1;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

use super::hub::Hub;
use crate::cluster::Cluster;
use crate::shard::{self, ShardHandle, Wants};

/// How long a node may take to begin to tell.
const OPEN_TIME: Duration = Duration::from_secs(2);
/// How long it is waited before all that may have a shard are asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Hears of one shard, until it is dropped.
pub enum Ear {
    /// Of one that is here.
    Here(ShardHandle, shard::Ear),
    /// Of one that another node has.
    Far(FarEar),
}

/// Hears of a shard that another node has.
pub struct FarEar {
    wants: watch::Sender<Wants>,
    hearing: JoinHandle<()>,
}

impl Drop for FarEar {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

impl FarEar {
    /// Tells the hub what happens in a shard, on this runtime.
    pub fn new(hub: Weak<Hub>, cluster: Cluster, shard: u32, wants: Wants, runtime: &Handle) -> FarEar {
        let (wants, wanted) = watch::channel(wants);
        let hearing = runtime.spawn(hear(hub, cluster, shard, wanted));
        FarEar { wants, hearing }
    }
}

impl Ear {
    /// Wants to hear this from now on.
    pub fn wants(&self, wants: Wants) {
        match self {
            Ear::Here(_, ear) => ear.wants(wants),
            Ear::Far(far) => drop(far.wants.send_replace(wants)),
        }
    }

    /// Whether it is of a shard that is here, if it is to be, or of one that is not.
    pub fn is_of(&self, here: Option<&ShardHandle>) -> bool {
        match (self, here) {
            (Ear::Here(known, _), Some(_)) => !known.is_removed(),
            (Ear::Far(_), None) => true,
            _ => false,
        }
    }
}

async fn hear(hub: Weak<Hub>, cluster: Cluster, shard: u32, wants: watch::Receiver<Wants>) {
    loop {
        for member in cluster.answering(shard) {
            hear_of(&hub, &cluster, (shard, member), wants.clone()).await;
        }
        cluster.look_for(shard).await;
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Hears what a member tells of a shard, for as long as it does.
async fn hear_of(hub: &Weak<Hub>, cluster: &Cluster, (shard, member): (u32, MemberId), wants: watch::Receiver<Wants>) {
    // The first is what is wanted now.
    let requests =
        WatchStream::new(wants).map(move |Wants { changes, names }| v1::HearRequest { shard, changes, names });
    let Ok(Ok(mut replies)) = tokio::time::timeout(OPEN_TIME, cluster.links().hear(member, requests)).await else {
        return;
    };
    let mut is_first = true;
    while let Ok(Some(mut reply)) = replies.message().await {
        let Some(hub) = hub.upgrade() else { return };
        // What was told by another before may have ended long ago.
        reply.jumped |= std::mem::take(&mut is_first);
        hub.take_far(shard, &cluster.catalog().newest(), reply);
    }
}
