//! A keyspace as a whole: emptied, exchanged with another, and what became of its keys.

use super::Keyspace;
use crate::table::eviction::queues::Queues;
use crate::table::stripe::Stripe;

impl Keyspace {
    /// How many keys expired since this member began.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// How many keys were evicted since this member began.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// A key was evicted.
    pub(crate) fn note_evicted(&mut self) {
        self.evicted += 1;
    }

    /// Writes down what a checkpoint under way has still to see.
    fn spill_all(&self) {
        let Some(saving) = &self.saving else { return };
        for (stripe, entries) in self.stripes.iter().enumerate() {
            if saving.is_wanted(stripe) {
                saving.spill(stripe, entries.iter(), self.tags.as_deref());
            }
        }
    }

    /// Exchanges the keys of two keyspaces with the same seed. Who listens, what is counted and what is written down stays
    /// where it was.
    pub(crate) fn swap(one: &mut Keyspace, other: &mut Keyspace) {
        debug_assert!(one.seed == other.seed && one.journal.is_none() && other.journal.is_none());
        one.spill_all();
        other.spill_all();
        // Greater than what either counted, so that neither takes the other's file for its own.
        let changes = one.changes.max(other.changes) + 1;
        std::mem::swap(one, other);
        std::mem::swap(&mut one.events, &mut other.events);
        std::mem::swap(&mut one.saving, &mut other.saving);
        std::mem::swap(&mut one.grown, &mut other.grown);
        std::mem::swap(&mut one.expired, &mut other.expired);
        std::mem::swap(&mut one.evicted, &mut other.evicted);
        for keyspace in [one, other] {
            keyspace.changes = changes;
            keyspace.events.flushed();
        }
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.changes += 1;
        self.spill_all();
        if self.journal.is_some() {
            let keys: Vec<Box<[u8]>> = self.keys().map(Box::from).collect();
            for key in &keys {
                let hash = self.hash(key);
                self.touch(hash, key);
                self.note_going(hash, key);
            }
        }
        self.stripes.iter_mut().for_each(|stripe| *stripe = Stripe::new());
        (self.len, self.timed, self.bytes, self.sum) = (0, 0, 0, 0);
        self.tags = None;
        self.wheel.clear();
        self.queues = self.queues.take().map(|_| Box::new(Queues::new(0)));
        self.events.flushed();
    }
}
