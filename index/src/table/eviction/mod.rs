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

/// How victims are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// S3-FIFO.
    #[default]
    S3Fifo,
    /// Those that were used least lately.
    Lru,
    /// Those that were used least often.
    Lfu,
    /// Any.
    Random,
    /// Of those with a deadline, those that were used least lately.
    VolatileLru,
    /// Of those with a deadline, those that were used least often.
    VolatileLfu,
    /// Any of those with a deadline.
    VolatileRandom,
    /// Those whose deadline comes first.
    VolatileTtl,
    /// None: writes are refused instead.
    None,
}

/// Names, as Redis has them but for its own.
const POLICIES: [(Policy, &str); 9] = [
    (Policy::S3Fifo, "s3-fifo"),
    (Policy::Lru, "allkeys-lru"),
    (Policy::Lfu, "allkeys-lfu"),
    (Policy::Random, "allkeys-random"),
    (Policy::VolatileLru, "volatile-lru"),
    (Policy::VolatileLfu, "volatile-lfu"),
    (Policy::VolatileRandom, "volatile-random"),
    (Policy::VolatileTtl, "volatile-ttl"),
    (Policy::None, "noeviction"),
];

impl Policy {
    /// The policy of that name.
    pub fn named(name: &str) -> Option<Policy> {
        POLICIES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(policy, _)| *policy)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        POLICIES.iter().find(|(policy, _)| *policy == self).map_or("", |(_, name)| name)
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        POLICIES.iter().map(|(_, name)| *name)
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
    /// In bytes; zero: as much as there is.
    pub bytes: u64,
    /// How they make room, with a budget of their own too. None: nothing is evicted but where a collection has one.
    pub policy: Option<Policy>,
}

impl Room {
    /// Nothing makes room.
    pub fn none() -> Room {
        Room { policy: Policy::None, namespace: None }
    }

    /// How a collection of a namespace makes room that has a budget of its own.
    pub fn policy_of(&self, namespace: &str) -> Policy {
        let own = self.namespace.as_ref().filter(|room| room.name == namespace);
        own.and_then(|room| room.policy).unwrap_or(self.policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        for (policy, name) in POLICIES {
            assert_eq!((Policy::named(&name.to_ascii_uppercase()), policy.name()), (Some(policy), name));
        }
        assert_eq!(Policy::named("best"), None);
    }
}
