//! Events: what happened to typed values, told to the doors whose clients wait for it.
//!
//! ```text
//!   entry applied --> Store::take_events --> everybody who listens, on the thread that takes the turn
//! ```
//!
//! Nothing is gathered for which nobody listens. Whoever is told must not wait, and must not ask to listen meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use loci_index::record::CollectionId;
use loci_index::table::{Event, Listening};
use loci_index::view::View;

/// What whoever listens is told.
pub enum Happened {
    /// An entry was applied; in the order of its calls.
    Events(Vec<(CollectionId, Event)>),
    /// The state was replaced by another, from a snapshot: anything may have happened.
    Jumped,
}

/// Is told, with a view that shows what happened.
pub type Told = Arc<dyn Fn(&View, Happened) + Send + Sync>;

/// Who listens to a shard.
#[derive(Default)]
pub(super) struct Listeners {
    /// What the store asks before it gathers anything.
    pub listening: Listening,
    told: Mutex<Option<Told>>,
}

impl Listeners {
    fn told(&self) -> MutexGuard<'_, Option<Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is told.
    pub fn set(&self, told: Option<Told>) {
        *self.told() = told;
    }

    /// Tells whoever listens.
    pub fn tell(&self, view: &View, happened: Happened) {
        let told = self.told().clone();
        if let Some(told) = told {
            told(view, happened);
        }
    }
}
