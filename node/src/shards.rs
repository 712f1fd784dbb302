//! The shards that run on this node. The first holds the catalog; others are there once somebody wanted them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use crate::cluster::snapshot::Receiving;
use crate::shard::ShardHandle;

/// The shard that holds the catalog, the address book, and the records of namespaces without shards of their own.
pub const CATALOG: u32 = loci_wire::CATALOG;

/// One of them.
#[derive(Clone)]
pub struct Served {
    /// For those who write and read.
    pub handle: ShardHandle,
    /// Where its files are.
    pub files: PathBuf,
    /// Where snapshots go that other nodes have for it.
    pub receiving: Receiving,
}

/// All of them, by number. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shards(Arc<RwLock<BTreeMap<u32, Served>>>);

impl Shards {
    /// One more.
    pub fn add(&self, served: Served) {
        let id = served.handle.id();
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, served);
    }

    /// One less. What it had in here ends with whoever still works with it.
    pub fn remove(&self, id: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Whoever asks later finds none.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The one with that number, if it runs here.
    pub fn get(&self, id: u32) -> Option<Served> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The same, for those who write and read.
    pub fn handle(&self, id: u32) -> Option<ShardHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(|served| served.handle.clone())
    }

    /// All, with where their files are.
    pub fn all(&self) -> Vec<Served> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// All, ascending by number.
    pub fn handles(&self) -> Vec<ShardHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().map(|served| served.handle.clone()).collect()
    }
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<u32> = self.handles().iter().map(ShardHandle::id).collect();
        write!(f, "Shards({ids:?})")
    }
}
