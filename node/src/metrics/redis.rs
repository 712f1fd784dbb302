//! What the door for clients of Redis counts: calls by group of commands, and connections.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::Latencies;

/// The groups of commands.
const GROUPS: [&str; 17] = [
    "bitmap",
    "cluster",
    "connection",
    "generic",
    "geo",
    "hash",
    "hyperloglog",
    "limits",
    "list",
    "pubsub",
    "scripting",
    "server",
    "set",
    "sorted_set",
    "stream",
    "string",
    "transactions",
];

/// See the module's front page.
#[derive(Debug, Default)]
pub struct Redis {
    groups: [Group; GROUPS.len()],
    /// The place of the group of each command, by its number.
    places: OnceLock<Vec<u8>>,
    /// Open connections.
    pub connections: AtomicI64,
    /// Connections there have been.
    pub accepted: AtomicU64,
    /// Connections that were turned away.
    pub rejected: AtomicU64,
    /// Commands of the log that carried light writes of one client or of several.
    pub gathered: AtomicU64,
    /// What was in them: what one client sent at once counts as one.
    pub gathered_parts: AtomicU64,
}

/// One group.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub failed: AtomicU64,
    pub seconds: Latencies,
}

impl Redis {
    /// A connection was opened.
    pub fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// One was closed.
    pub fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Says of which groups commands are, by their numbers.
    pub fn set_groups(&self, groups: &[&str]) {
        let place = |group: &&str| GROUPS.iter().position(|known| known == group).unwrap_or(0) as u8;
        // A second door of the same process has the same commands.
        let _ = self.places.set(groups.iter().map(place).collect());
    }

    /// A command was called so many times, each of which took about so long; so many failed.
    pub fn observe(&self, number: u16, calls: u64, failed: u64, each: Duration) {
        let place = self.places.get().and_then(|places| places.get(usize::from(number)));
        let Some(group) = place.and_then(|place| self.groups.get(usize::from(*place))) else { return };
        if failed > 0 {
            group.failed.fetch_add(failed, Ordering::Relaxed);
        }
        group.seconds.observe_many(each, calls);
    }

    /// The groups that were called.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&'static str, &Group)> {
        GROUPS.into_iter().zip(&self.groups).filter(|(_, group)| group.seconds.count() > 0)
    }
}
