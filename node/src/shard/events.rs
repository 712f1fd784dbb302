//! Events: what happened to typed values, told to the doors whose clients wait for it.
//!
//! ```text
//!   entry applied --> Store::take_events --> everybody who listens, on the thread that takes the turn
//! ```
//!
//! Nothing is gathered for which nobody listens. Whoever is told must not wait, and must not begin or cease to listen meanwhile.
//! Each hears what any of them asked for.
//!
//! An entry may be half applied when somebody begins to listen, and its events be told to nobody though what is read then does not
//! show it yet. So whoever listens is told when that is over ([`Happened::Begun`]): whatever is read from then on, what changes it is
//! told.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use loci_index::record::CollectionId;
use loci_index::table::{Event, Listening};
use loci_index::view::View;

use super::Event as ShardEvent;

/// What whoever listens is told.
pub enum Happened {
    /// An entry was applied; in the order of its calls.
    Events(Vec<(CollectionId, Event)>),
    /// The state was replaced by another, from a snapshot: anything may have happened.
    Jumped,
    /// From here on all is told that is wanted so.
    Begun(Wants),
}

/// Is told, with a view that shows what happened.
pub type Told = Arc<dyn Fn(&View, &Happened) + Send + Sync>;

/// What of the events somebody wants to hear, beside messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    /// That keys change.
    pub changes: bool,
    /// What has a name.
    pub names: bool,
}

impl Wants {
    /// What either wants.
    pub fn and(self, other: Wants) -> Wants {
        Wants { changes: self.changes || other.changes, names: self.names || other.names }
    }

    /// What both want.
    pub fn common(self, other: Wants) -> Wants {
        Wants { changes: self.changes && other.changes, names: self.names && other.names }
    }

    /// Whether that is all of what another wants.
    pub fn are_all_of(self, other: Wants) -> bool {
        self.and(other) == self
    }
}

/// Who listens to a shard.
#[derive(Default)]
pub(super) struct Listeners {
    /// What the store asks before it gathers anything.
    pub listening: Listening,
    told: Mutex<BTreeMap<u64, Told>>,
    /// Whoever holds it asks for nothing else.
    wanted: Mutex<Wanted>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Wanted {
    by: BTreeMap<u64, Wants>,
    next: u64,
}

/// Somebody listens, until this is dropped.
pub struct Ear {
    number: u64,
    listeners: Arc<Listeners>,
    events: Sender<ShardEvent>,
}

impl Listeners {
    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        let mut wanted = lock(&self.wanted);
        change(&mut wanted);
        let all = wanted.by.values().fold(Wants::default(), |all, wants| all.and(*wants));
        self.listening.to_changes(all.changes);
        self.listening.to_names(all.names);
    }

    /// One more is told, by a shard that these events are for.
    pub fn add(self: &Arc<Listeners>, told: Told, wants: Wants, events: Sender<ShardEvent>) -> Ear {
        let mut number = 0;
        self.change(|wanted| {
            number = wanted.next;
            wanted.next += 1;
            wanted.by.insert(number, wants);
        });
        lock(&self.told).insert(number, told);
        let ear = Ear { number, listeners: self.clone(), events };
        ear.begin();
        ear
    }

    /// Tells whoever listens.
    pub fn tell(&self, view: &View, happened: &Happened) {
        lock(&self.told).values().for_each(|told| told(view, happened));
    }

    /// Tells all that what they want by now is told from here on: all that was applied is in the view.
    pub fn tell_begun(&self, view: &View) {
        let told = lock(&self.told);
        for (number, told) in &*told {
            let wants = lock(&self.wanted).by.get(number).copied();
            // One that is about to be forgotten wants nothing.
            told(view, &Happened::Begun(wants.unwrap_or_default()));
        }
    }
}

impl Ear {
    /// Wants to hear this from now on.
    pub fn wants(&self, wants: Wants) {
        self.listeners.change(|wanted| {
            wanted.by.insert(self.number, wants);
        });
        self.begin();
    }

    /// Has the shard say when it tells all of that.
    fn begin(&self) {
        // One that has ended tells nothing.
        let _ = self.events.send(ShardEvent::Listens);
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.listeners.change(|wanted| {
            wanted.by.remove(&self.number);
        });
        lock(&self.listeners.told).remove(&self.number);
    }
}
