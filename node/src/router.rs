//! The router: which shard holds a key.
//!
//! ```text
//!   key --CRC16 of its tag--> one of 16,384 slots --evenly, in order--> the shards of its namespace
//! ```
//!
//! Slots and tags are those of Redis Cluster: [`slots`](loci_index::table::slots). So keys with the same tag are in the same shard,
//! and can be written together.

use std::ops::RangeInclusive;

pub use loci_index::table::slots::{SLOTS, slot};
use loci_index::view::View;

use crate::cluster::book;
use crate::shards::CATALOG;

/// The most shards of one namespace.
pub const SHARDS_MAX: u32 = 64;

/// Where the records of a namespace are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Where the catalog is.
    Catalog,
    /// It is just being made with shards of its own, or was dropped a moment ago.
    BeingMade,
    /// In its own shards.
    Route(Route),
}

impl Found {
    /// If they are in its own shards: in which.
    pub fn route(self) -> Option<Route> {
        match self {
            Found::Route(route) => Some(route),
            Found::Catalog | Found::BeingMade => None,
        }
    }
}

/// Which shards hold the records of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// In the order of the slots that they hold.
    shards: Vec<u32>,
    /// The position in the catalog's log that says so.
    version: u64,
}

impl Route {
    /// Of a namespace as a view of the catalog has it.
    pub fn find(catalog: &View, namespace: &str) -> Found {
        match book::namespace(catalog, namespace) {
            None => Found::Catalog,
            Some((line, _)) if !line.made => Found::BeingMade,
            Some((line, version)) => Found::Route(Route { shards: line.shards, version }),
        }
    }

    /// All shards.
    pub fn shards(&self) -> &[u32] {
        &self.shards
    }

    /// The position in the catalog's log at which it became so. Greater than any before, if the namespace is made anew.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The shard that holds a key.
    pub fn shard(&self, key: &[u8]) -> u32 {
        self.shard_of(slot(key))
    }

    /// The shard that holds a slot.
    pub fn shard_of(&self, slot: u16) -> u32 {
        self.shards.get(part(slot, self.shards.len())).copied().unwrap_or(CATALOG)
    }
}

/// Which of so many shards, in their order, holds a slot.
pub fn part(slot: u16, shards: usize) -> usize {
    usize::from(slot) * shards / usize::from(SLOTS)
}

/// The slots that one of so many shards holds; there are not more than [`SHARDS_MAX`], so it holds some.
pub fn slots_of(part: usize, shards: usize) -> RangeInclusive<u16> {
    let first = |part: usize| (part * usize::from(SLOTS)).div_ceil(shards.max(1)) as u16;
    first(part)..=first(part + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_holds_the_slots_that_are_said_to_be_its_own() {
        for shards in 1..=SHARDS_MAX as usize {
            let all: Vec<u16> = (0..shards).flat_map(|at| slots_of(at, shards)).collect();
            assert!(all.into_iter().eq(0..SLOTS), "{shards} shards hold every slot once");
            for at in 0..shards {
                assert!(slots_of(at, shards).all(|slot| part(slot, shards) == at), "{at} of {shards}");
            }
        }
    }

    #[test]
    fn every_shard_holds_an_even_range_of_slots() {
        for count in [1, 2, 3, 5, 64] {
            let route = Route { shards: (2..2 + count).collect(), version: 0 };
            let mut held = vec![0; count as usize];
            for number in 0..20_000 {
                held[route.shard(format!("key{number}").as_bytes()) as usize - 2] += 1;
            }
            let even = 20_000 / count;
            assert!(held.iter().all(|&held| held > even / 2 && held < even * 2), "{held:?}");
        }
    }
}
