//! Where a member's store lies, and what is received beside it to take its place.
//!
//! ```text
//!   incoming: a disk that loses what was not synced    --settle-->    store: a directory whose files are durable once named
//! ```
//!
//! A process that ends in the middle of settling leaves what the next start finishes, so here it is done at once.

use std::sync::Arc;

use loci_index::directory::{Directory, RamDirectory};
use loci_index::store::{StoreError, checkpoint_files};
use loci_node::cluster::snapshot::coming::stand_in;
use loci_node::cluster::snapshot::{SNAPSHOT_FILE, Stand, is_better};
use loci_raft::{Disk, MemoryDisk};

/// See the module's front page. Clones are the same place.
#[derive(Clone)]
pub struct Place {
    /// Under the store.
    pub store: RamDirectory,
    /// What of a snapshot has come.
    pub incoming: MemoryDisk,
}

impl Place {
    /// An empty one.
    pub fn new() -> Place {
        Place { store: RamDirectory::new(), incoming: MemoryDisk::new() }
    }

    /// Where the store stands by the last snapshot that it took in; none if it never did.
    pub fn stand(&self) -> Result<Option<Stand>, StoreError> {
        let Some(bytes) = self.store.bytes(SNAPSHOT_FILE) else { return Ok(None) };
        let what = || "its checksum is wrong".to_owned();
        let damaged = || StoreError::Damaged { file: SNAPSHOT_FILE.to_owned(), offset: 0, what: what() };
        Stand::decode(&bytes).map(Some).ok_or_else(damaged)
    }

    /// Where the state stands that has come whole, if one has.
    pub fn received(&self) -> Option<Stand> {
        stand_in(&self.incoming).ok().flatten()
    }

    /// The entry up to which the store holds the state, if there is one.
    fn checkpoint(&self) -> Option<u64> {
        checkpoint_files(&self.store).ok().map(|(_, applied, _)| applied)
    }

    /// Puts what has come in the place of the store, if it has come whole and is better. Whether it was.
    pub fn settle(&self) -> bool {
        let new = RamDirectory::new();
        let names = if self.received().is_some() { self.incoming.list().unwrap_or_default() } else { Vec::new() };
        for name in &names {
            new.put(name, &self.incoming.bytes(name).unwrap_or_default());
        }
        let better = !names.is_empty() && is_better(Ok(Arc::new(new.clone())), self.checkpoint());
        if better {
            self.clear_store();
            for name in &names {
                self.store.put(name, &new.bytes(name).unwrap_or_default());
            }
        }
        self.drop_received();
        better
    }

    /// Of the store nothing is left.
    pub fn clear_store(&self) {
        for name in self.store.list().unwrap_or_default() {
            // It was there.
            let _ = self.store.remove(&name);
        }
    }

    /// Throws away what has come.
    pub fn drop_received(&self) {
        for name in self.incoming.list().unwrap_or_default() {
            // It was there.
            let _ = self.incoming.remove(&name);
        }
        // It does not fail here.
        let _ = self.incoming.sync_directory();
    }
}
