//! What happened to keys, for whoever listens: waiting clients, caches in clients, keyspace notifications, subscribers.
//!
//! Events are no part of the state: they are gathered while an entry is applied, where somebody listens, and handed on in
//! order once it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::effects::{Effects, Fate, Fates};
use crate::record::{CollectionId, Position};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key has another value, or none any more.
    Changed {
        /// The key.
        key: Box<[u8]>,
    },
    /// Something with a name happened to a key (Redis: keyspace notifications).
    Named {
        /// What kind of event it is: the letter that chooses it in `notify-keyspace-events`.
        class: u8,
        /// Its name.
        name: &'static str,
        /// The key.
        key: Box<[u8]>,
    },
    /// A message for subscribers.
    Published {
        /// To whom.
        channel: Box<[u8]>,
        /// What.
        message: Box<[u8]>,
        /// Whether the channel is one of those that belong to a slot.
        sharded: bool,
    },
    /// All keys are gone.
    Flushed,
}

const CHANGES: u8 = 1;
const NAMES: u8 = 2;
const EFFECTS: u8 = 4;

/// What is listened to; shared by those who listen.
#[derive(Debug, Clone, Default)]
pub struct Listening(Arc<AtomicU8>);

impl Listening {
    fn set(&self, bit: u8, on: bool) {
        if on {
            self.0.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether [`Event::Changed`] and [`Event::Flushed`] are wanted.
    pub fn to_changes(&self, on: bool) {
        self.set(CHANGES, on);
    }

    /// Whether [`Event::Named`] is wanted.
    pub fn to_names(&self, on: bool) {
        self.set(NAMES, on);
    }

    /// Whether the effects of entries are wanted: [`crate::store::Store::effects`].
    pub fn to_effects(&self, on: bool) {
        self.set(EFFECTS, on);
    }

    /// Whether they are.
    pub fn has_effects(&self) -> bool {
        self.has(EFFECTS)
    }

    fn has(&self, bit: u8) -> bool {
        self.0.load(Ordering::Relaxed) & bit != 0
    }
}

/// Gathers events.
#[derive(Debug, Default)]
pub struct Events {
    listening: Listening,
    gathered: Vec<Event>,
    fates: Fates,
}

/// How many events there were.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    events: usize,
    fates: usize,
}

impl Events {
    /// For these listeners.
    pub fn new(listening: Listening) -> Events {
        Events { listening, ..Events::default() }
    }

    /// A key changed, and this became of it. That there is one more has a name as well.
    pub fn changed(&mut self, key: &[u8], fate: Fate) {
        if fate == Fate::Made {
            self.named(b'n', "new", key);
        }
        if self.listening.has(CHANGES) {
            self.gathered.push(Event::Changed { key: key.into() });
        }
        if self.listening.has(EFFECTS) {
            self.fates.push(fate, key);
        }
    }

    /// Something with a name happened.
    pub fn named(&mut self, class: u8, name: &'static str, key: &[u8]) {
        if self.listening.has(NAMES) {
            self.gathered.push(Event::Named { class, name, key: key.into() });
        }
    }

    /// All keys are gone.
    pub fn flushed(&mut self) {
        if self.listening.has(CHANGES) {
            self.gathered.push(Event::Flushed);
        }
        if self.listening.has(EFFECTS) {
            self.fates.push(Fate::Cleared, b"");
        }
    }

    /// A message for subscribers.
    pub fn published(&mut self, channel: &[u8], message: &[u8], sharded: bool) {
        self.gathered.push(Event::Published { channel: channel.into(), message: message.into(), sharded });
    }

    /// How many there are.
    pub fn mark(&self) -> Mark {
        Mark { events: self.gathered.len(), fates: self.fates.mark() }
    }

    /// Forgets those after the mark: what they tell was taken back.
    pub fn truncate(&mut self, mark: Mark) {
        self.gathered.truncate(mark.events);
        self.fates.truncate(mark.fates);
    }

    /// Moves what became of keys to the effects of an entry.
    pub(crate) fn drain_fates(&mut self, at: Position, collection: CollectionId, to: &mut Effects) {
        self.fates.drain(at, collection, to);
    }

    /// Takes those that were gathered.
    pub fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.gathered)
    }
}
