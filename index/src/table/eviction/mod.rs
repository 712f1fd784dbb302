//! Eviction: which keys make room when a cache has no more.
//!
//! ```text
//!   s3-fifo:   new key --> queues of tokens --> the next victim          queues: a short probation, a main part, ghosts
//!   others:    a few keys drawn by chance   --> the worst of them        as Redis does
//! ```
//!
//! Readers set a byte of use on each entry without a lock of their own; all else is done when keys come and go.
//!
//! What is known here is no part of the state: the member that leads proposes victims, and all members remove those. Entries
//! that are in no queue, because a proposal was lost or the table came from a file, are found again when queues run dry.

pub(super) mod queues;
pub(super) mod duel;
mod ghosts;

use std::sync::Arc;

pub use crate::command::Policy;
use crate::command::Schema;
use crate::table::Table;
use crate::view::{CollectionView, View};

/// Names: as Redis has them but for its own, and short ones.
const POLICIES: [(Policy, &str, &str); 9] = [
    (Policy::S3Fifo, "s3-fifo", "s3-fifo"),
    (Policy::Lru, "allkeys-lru", "lru"),
    (Policy::Lfu, "allkeys-lfu", "lfu"),
    (Policy::Random, "allkeys-random", "random"),
    (Policy::VolatileLru, "volatile-lru", "volatile-lru"),
    (Policy::VolatileLfu, "volatile-lfu", "volatile-lfu"),
    (Policy::VolatileRandom, "volatile-random", "volatile-random"),
    (Policy::VolatileTtl, "volatile-ttl", "ttl"),
    (Policy::None, "noeviction", "none"),
];

impl Policy {
    /// The policy of that name, as clients of Redis say it.
    pub fn named(name: &str) -> Option<Policy> {
        POLICIES.iter().find(|(_, known, _)| known.eq_ignore_ascii_case(name)).map(|(policy, ..)| *policy)
    }

    /// The policy of that name or that short name.
    pub fn called(name: &str) -> Option<Policy> {
        let short = || POLICIES.iter().find(|(.., short)| short.eq_ignore_ascii_case(name)).map(|(policy, ..)| *policy);
        Policy::named(name).or_else(short)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        POLICIES.iter().find(|(policy, ..)| *policy == self).map_or("", |(_, name, _)| name)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        POLICIES.iter().map(|(_, name, _)| *name)
    }

    /// Whether nothing makes room, where so many keys have a deadline.
    pub fn keeps_all(self, timed: usize) -> bool {
        self == Policy::None || (self.is_volatile() && timed == 0)
    }

    /// Whether only keys with a deadline make room.
    pub fn is_volatile(self) -> bool {
        matches!(self, Policy::VolatileLru | Policy::VolatileLfu | Policy::VolatileRandom | Policy::VolatileTtl)
    }
}

/// What makes room, and where, while a member leads. Each member has its own; it is no part of the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// How collections with a budget of their own make room.
    pub policy: Policy,
    /// A namespace with rules of its own.
    pub namespace: Option<NamespaceRoom>,
}

/// What the collections of a namespace may take together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceRoom {
    /// Which.
    pub name: String,
    /// In each of its shards, in bytes; zero: as much as there is.
    pub bytes: u64,
    /// In all of its shards.
    pub all_bytes: u64,
    /// How they make room, over a budget of their own too, unless they say otherwise themselves. None: nobody has said. Then what
    /// they take together makes no room, as with Redis, and over its own budget a collection does as others do.
    pub policy: Option<Policy>,
}

impl Room {
    fn of(&self, namespace: &str) -> Option<&NamespaceRoom> {
        self.namespace.as_ref().filter(|room| room.name == namespace)
    }

    /// How a collection makes room over its own budget: as it says itself, or its namespace, or the node.
    pub fn policy_of(&self, namespace: &str, schema: &Schema) -> Policy {
        let given = schema.eviction_policy.or_else(|| self.of(namespace)?.policy);
        given.unwrap_or(self.policy)
    }

    /// How a collection makes room where those of its namespace take too much together.
    pub fn policy_together(&self, namespace: &str, schema: &Schema) -> Policy {
        let given = schema.eviction_policy.or_else(|| self.of(namespace)?.policy);
        given.unwrap_or(Policy::None)
    }

    /// Whether a collection is over its own budget and nothing in it may make room: what makes it larger is refused then.
    pub fn is_over_budget(&self, collection: &CollectionView<'_>) -> bool {
        let (schema, budget) = (collection.schema(), collection.schema().eviction_bytes);
        let Some(table) = collection.table().filter(|_| budget > 0) else { return false };
        let (bytes, timed) = table.read(|keyspace| (keyspace.memory_bytes() as u64, keyspace.timed()));
        bytes > budget && self.policy_of(collection.namespace(), schema).keeps_all(timed)
    }

    /// Whether the collections of a namespace take more together than they may, in one shard, and nothing in any of them may make
    /// room.
    pub fn is_over_together(&self, view: &View, namespace: &str) -> bool {
        let Some(most) = self.of(namespace).map(|own| own.bytes).filter(|bytes| *bytes > 0) else { return false };
        let (mut bytes, mut stays) = (0, true);
        for collection in view.collections().filter(|collection| collection.namespace() == namespace) {
            let Some(table) = collection.table() else { continue };
            let (taken, keys, timed) =
                table.read(|keyspace| (keyspace.memory_bytes() as u64, keyspace.len(), keyspace.timed()));
            bytes += taken;
            stays &= keys == 0 || self.policy_together(namespace, collection.schema()).keeps_all(timed);
        }
        bytes > most && stays
    }

    /// The same, in all these shards of the namespace: each makes room by itself, so one that has more than its share may have what
    /// others do not need.
    pub fn is_over_in_all(&self, views: &[Arc<View>], namespace: &str) -> bool {
        let Some(most) = self.of(namespace).map(|own| own.all_bytes).filter(|bytes| *bytes > 0) else { return false };
        let of_namespace = |view: &View| -> u64 {
            let tables = view.collections().filter(|collection| collection.namespace() == namespace);
            let bytes = |table: &Arc<Table>| table.read(|keyspace| keyspace.memory_bytes() as u64);
            tables.filter_map(|collection| collection.table().map(bytes)).sum()
        };
        views.iter().map(|view| of_namespace(view)).sum::<u64>() > most
            && views.iter().any(|view| self.is_over_together(view, namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        for (policy, name, short) in POLICIES {
            assert_eq!((Policy::named(&name.to_ascii_uppercase()), policy.name()), (Some(policy), name));
            assert_eq!((Policy::called(name), Policy::called(short)), (Some(policy), Some(policy)));
        }
        assert_eq!((Policy::named("best"), Policy::named("lru"), Policy::called("best")), (None, None, None));
    }

    #[test]
    fn a_collection_has_the_last_word_then_its_namespace_then_the_node() {
        let namespace = |policy| Some(NamespaceRoom { name: "n".into(), bytes: 1, all_bytes: 1, policy });
        let schema = |eviction_policy| Schema { eviction_policy, ..Schema::default() };
        let (lru, lfu, none) = (Some(Policy::Lru), Some(Policy::Lfu), Some(Policy::None));
        // What the collection says, what its namespace, then what holds over its budget, and over what they may take together.
        for (own, given, over, together) in [
            (None, None, Policy::Random, Policy::None),
            (None, lru, Policy::Lru, Policy::Lru),
            (None, none, Policy::None, Policy::None),
            (lfu, None, Policy::Lfu, Policy::Lfu),
            (lfu, none, Policy::Lfu, Policy::Lfu),
            (none, lru, Policy::None, Policy::None),
        ] {
            let room = Room { policy: Policy::Random, namespace: namespace(given) };
            let found = (room.policy_of("n", &schema(own)), room.policy_together("n", &schema(own)));
            assert_eq!(found, (over, together), "{own:?} {given:?}");
            let elsewhere = own.unwrap_or(Policy::Random);
            assert_eq!(room.policy_of("m", &schema(own)), elsewhere, "{own:?} in another namespace");
        }
    }
}
