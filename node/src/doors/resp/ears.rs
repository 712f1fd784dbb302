//! Ears: how the hub hears of the shards of the databases, each of them here or on another node.
//!
//! ```text
//!   here -----> shard --on its thread--> hub
//!   elsewhere -> a node that has it --Peers.Hear--> hub; it ends: another one, and all may have changed meanwhile
//! ```

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use loci_index::record::CollectionId;
use loci_index::view::View;
use loci_raft::MemberId;
use loci_wire::v1;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

use super::hub::Hub;
use crate::cluster::Cluster;
use crate::shard::{self, Level, ShardHandle, Wants};

/// How long a node may take to begin to tell.
const OPEN_TIME: Duration = Duration::from_secs(2);
/// How long it is waited before all that may have a shard are asked again; the longest such wait, after several in vain.
const AGAIN_AFTER: Duration = Duration::from_millis(25);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(1);
/// How long the catalog may take that knows of a new collection.
const CATALOG_TIME: Duration = Duration::from_secs(1);

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
    /// Tells the hub what happens in a shard, as the ear of that number, on this runtime.
    pub fn new(hub: Weak<Hub>, cluster: Cluster, ear: (u32, u64), wants: Wants, runtime: &Handle) -> FarEar {
        let (wants, wanted) = watch::channel(wants);
        let hearing = runtime.spawn(hear(hub, cluster, ear, wanted));
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

async fn hear(hub: Weak<Hub>, cluster: Cluster, ear: (u32, u64), wants: watch::Receiver<Wants>) {
    let (shard, mut pause) = (ear.0, AGAIN_AFTER);
    loop {
        for member in cluster.answering(shard) {
            if hear_of(&hub, &cluster, ear, member, wants.clone()).await {
                // Others have it by now, perhaps.
                pause = AGAIN_AFTER;
                break;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_AFTER_MAX);
        cluster.look_for(shard).await;
    }
}

/// Hears what a member tells of a shard, for as long as it does. Whether it did.
async fn hear_of(
    hub: &Weak<Hub>,
    cluster: &Cluster,
    ear: (u32, u64),
    member: MemberId,
    wants: watch::Receiver<Wants>,
) -> bool {
    let shard = ear.0;
    // The first is what is wanted now.
    let requests =
        WatchStream::new(wants).map(move |Wants { changes, names }| v1::HearRequest { shard, changes, names });
    let opening = tokio::time::timeout(OPEN_TIME, cluster.links().hear(member, requests));
    let Ok(Ok(mut replies)) = opening.await else { return false };
    let mut has_begun = false;
    while let Ok(Some(mut reply)) = replies.message().await {
        let catalog = knowing(cluster, &reply).await;
        let Some(hub) = hub.upgrade() else { return has_begun };
        // What was told by another before may have ended long ago.
        reply.jumped |= !std::mem::replace(&mut has_begun, true);
        hub.take_far(ear, &catalog, reply);
    }
    has_begun
}

/// A catalog that has the collections that are told of: this node may not have heard of them yet.
async fn knowing(cluster: &Cluster, reply: &v1::HearReply) -> Arc<View> {
    let newest = cluster.catalog().newest();
    let mut collections = reply.events.iter().map(|heard| CollectionId(heard.collection));
    let mut last = None;
    let knows = |id: CollectionId| last.replace(id) == Some(id) || newest.collection_by_id(id).is_some();
    if collections.all(knows) {
        return newest;
    }
    let deadline = Instant::now() + CATALOG_TIME;
    // One that was dropped is nowhere.
    cluster.catalog().view(Level::Latest, Some(deadline)).await.unwrap_or(newest)
}
