//! Lookups: how many keys readers found, and how many they did not.
//!
//! ```text
//!   Keyspace::find (any thread) --> two plain numbers of that thread --> take: whoever made it read adds them where they belong
//! ```
//!
//! A shared counter in the keyspace would be written to by every reader of every key; two numbers of the thread cost nothing.
//! They are no part of the state. Whoever takes them does so in the same breath as the read, before it waits for anything.

use std::cell::Cell;

/// What was looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lookups {
    /// It was there.
    pub hits: u64,
    /// It was not.
    pub misses: u64,
}

impl std::ops::AddAssign for Lookups {
    fn add_assign(&mut self, other: Lookups) {
        self.hits += other.hits;
        self.misses += other.misses;
    }
}

thread_local! {
    static LOOKUPS: Cell<Lookups> = const { Cell::new(Lookups { hits: 0, misses: 0 }) };
}

/// A key was looked for.
#[inline]
pub(super) fn note(found: bool) {
    LOOKUPS.with(|lookups| {
        let Lookups { hits, misses } = lookups.get();
        lookups.set(if found { Lookups { hits: hits + 1, misses } } else { Lookups { hits, misses: misses + 1 } });
    });
}

/// What this thread looked for since this was asked last.
#[inline]
pub fn take() -> Lookups {
    LOOKUPS.with(Cell::take)
}
