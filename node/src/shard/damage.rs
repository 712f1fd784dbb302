//! Damage: files of a shard's store that are not what was written, found while it runs.
//!
//! ```text
//!   merge, scrub, a snapshot that is to be sent --> owner --> the store: nothing reads it to write it elsewhere,
//!                                                     |                  or memory has it and it is written anew
//!                                                     '--> known here: told, counted
//!                                                            |-- there are other members: no reads here any more
//!                                                            |     until `cluster::repair` has fetched the state
//!                                                            '-- there are none: reads go on, it is told again and again
//! ```
//!
//! Whoever finds it has read it twice. What is right again later, twice too, is what was written after all: then it is read here
//! as before.
//!
//! Always: what is damaged is told once when it is found, whoever finds it again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Event;
use super::handle::ShardHandle;
use crate::shards::CATALOG;

/// Who noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// A merge, before what it wrote took the place of what it read.
    Merge,
    /// The scrub, which reads everything now and then.
    Scrub,
    /// Whoever sends a snapshot to another member.
    Snapshot,
}

impl FoundBy {
    /// All of them.
    pub const ALL: [FoundBy; 3] = [FoundBy::Merge, FoundBy::Scrub, FoundBy::Snapshot];

    /// As the metric's label has it.
    pub fn name(self) -> &'static str {
        match self {
            FoundBy::Merge => "merge",
            FoundBy::Scrub => "scrub",
            FoundBy::Snapshot => "snapshot",
        }
    }
}

/// A file that is not what was written.
#[derive(Debug, Clone)]
pub struct Damage {
    /// Its name.
    pub file: String,
    /// What is wrong with it, and where.
    pub what: String,
    /// Who noticed.
    pub by: FoundBy,
}

/// What is known of one shard.
#[derive(Default)]
pub(super) struct Damages {
    /// The files whose records have to come from elsewhere, and what is wrong with them.
    known: Mutex<BTreeMap<String, String>>,
    found: [AtomicU64; FoundBy::ALL.len()],
    out_of_service: AtomicBool,
}

impl Damages {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self, by: FoundBy) {
        self.found[by as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it is known of a file.
    pub fn has(&self, file: &str) -> bool {
        self.known().contains_key(file)
    }

    /// Keeps in mind that the records of a file have to come from elsewhere; from others, if there are any.
    pub fn note(&self, file: String, what: String, others: bool) {
        self.known().insert(file, what);
        self.out_of_service.store(others, Ordering::Release);
    }

    /// The file is not there any more.
    pub fn forget(&self, file: &str) {
        let mut known = self.known();
        known.remove(file);
        if known.is_empty() {
            self.out_of_service.store(false, Ordering::Release);
        }
    }

    /// All files are others now.
    pub fn clear(&self) {
        self.known().clear();
        self.out_of_service.store(false, Ordering::Release);
    }

    /// Whether nothing is read here, because others have what is damaged.
    pub fn is_out_of_service(&self) -> bool {
        self.out_of_service.load(Ordering::Acquire)
    }
}

impl ShardHandle {
    /// Says that a file of the store is not what was written.
    pub fn damage_found(&self, damage: Damage) {
        // A shard that has ended finds out at its next start.
        let _ = self.0.events.send(Event::DamageFound(damage));
    }

    /// Whether a file of the store is known not to be what was written.
    pub fn is_damaged(&self, file: &str) -> bool {
        self.0.damages.has(file)
    }

    /// Says that a file that was found damaged is what was written after all.
    pub fn damage_refuted(&self, file: &str) {
        // A shard that has ended reads it at its next start.
        let _ = self.0.events.send(Event::DamageRefuted(file.to_owned()));
    }

    /// Whether another member is to answer in its place, because of such a file.
    pub fn is_out_of_service(&self) -> bool {
        self.0.damages.is_out_of_service()
    }

    /// Whether a node can answer calls for it: from here, or by asking others, which it can for every shard but the catalog's.
    pub fn is_answered_for(&self) -> bool {
        let shared = &*self.0;
        let others = || self.members().is_some_and(|members| members.votes_another(shared.me));
        !self.is_out_of_service() || (shared.id != CATALOG && others())
    }

    /// The files whose records have to come from elsewhere, and what is wrong with them.
    pub fn damages(&self) -> Vec<(String, String)> {
        self.0.damages.known().iter().map(|(file, what)| (file.clone(), what.clone())).collect()
    }

    /// Says that a damaged file is not there any more.
    pub fn damage_gone(&self, file: &str) {
        self.0.damages.forget(file);
    }

    /// How often damage was found, by whom.
    pub fn damage_counts(&self) -> [(&'static str, u64); FoundBy::ALL.len()] {
        FoundBy::ALL.map(|by| (by.name(), self.0.damages.found[by as usize].load(Ordering::Relaxed)))
    }
}
