//! Room: whether a write is refused because it would make something larger that is over its budget and evicts nothing, or because
//! there was no room to remember whether it was carried out when it was asked for before.
//!
//! ```text
//!   write --asked before? its first outcome is due--> logged
//!     '--> its collection over its budget, in this shard? all of its namespace over theirs, in all shards? --> refused
//! ```
//!
//! It is for the member that leads to say, by what its node was told: it is the one that would have to make the room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use loci_index::command::{Command, Origin};
use loci_index::record::CollectionId;
use loci_index::store::Store;
use loci_index::table::eviction;
use loci_index::view::{View, ViewHandle};

use super::queue::{Waiting, only_calls_that_free};
use super::{TurnBy, WriteError};

/// On which terms a write is made: what it may be refused for before it is logged, and by whom it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// It would make a collection larger that is over its budget and evicts nothing; unless its request was carried out before.
    pub within_room: bool,
    /// It was asked for before, when the log's clock was not less than this, in milliseconds, and may have been carried out then,
    /// which is known no more. Zero: it was not asked for before.
    pub asked_since: u64,
    /// Who takes the turn for it.
    pub turn: TurnBy,
}

/// What the shards of a node have, as everybody sees it. Clones are the same.
#[derive(Clone, Default)]
pub struct Siblings(Arc<Mutex<BTreeMap<u32, ViewHandle>>>);

impl Siblings {
    /// One more shard, or the same anew.
    pub(super) fn add(&self, shard: u32, views: ViewHandle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, views);
    }

    /// One less.
    pub(super) fn remove(&self, shard: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }

    fn views(&self) -> Vec<Arc<View>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(ViewHandle::load).collect()
    }
}

impl std::fmt::Debug for Siblings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_tuple("Siblings").field(&known.keys().collect::<Vec<_>>()).finish()
    }
}

/// Why a write is refused by its terms, if it is. `under_way`: whether a request is being carried out.
pub(super) fn refusal(
    write: &Waiting,
    store: &Store,
    rules: &eviction::Room,
    siblings: &Siblings,
    under_way: impl Fn(&Origin) -> bool,
) -> Option<WriteError> {
    let origin = &write.envelope.origin;
    let was_asked = || {
        !origin.request_id.is_empty()
            && (store.has_answered(&origin.principal, &origin.request_id) || under_way(origin))
    };
    let Terms { within_room, asked_since, .. } = write.terms;
    if asked_since > 0 && store.may_have_forgotten(asked_since) && !was_asked() {
        return Some(WriteError::Forgotten);
    }
    let Command::Execute(execution) = &write.envelope.command else { return None };
    if !within_room {
        return None;
    }
    let view = store.view();
    let is_full = |id: &u64| {
        let collection = view.collection_by_id(CollectionId(*id))?;
        let namespace = collection.namespace();
        let together = || {
            // Most have room in their own shard, and then need not be counted in all.
            rules.is_over_together(&view, namespace) && rules.is_over_in_all(&siblings.views(), namespace)
        };
        (rules.is_over_budget(&collection) || together())
            .then(|| WriteError::NoRoom { namespace: namespace.to_owned(), collection: collection.name().to_owned() })
    };
    let refusal = execution.collections.iter().find_map(is_full)?;
    if only_calls_that_free(&execution.calls) {
        return None;
    }
    (!was_asked()).then_some(refusal)
}
