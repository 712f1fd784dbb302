//! The router: which shard holds a key.
//!
//! ```text
//!   key --CRC16 of its tag--> one of 16,384 slots --evenly, in order--> the shards of its namespace
//! ```
//!
//! Slots and tags are those of Redis Cluster (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>): of
//! a key with `{...}` in it, with something between the first `{` and the first `}` after it, only that is hashed. So keys with
//! the same tag are in the same shard, and can be written together.

use loci_index::view::View;

use crate::cluster::book;
use crate::shards::CATALOG;

/// The number of slots.
pub const SLOTS: u16 = 16_384;
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
}

impl Route {
    /// Of a namespace as a view of the catalog has it.
    pub fn find(catalog: &View, namespace: &str) -> Found {
        match book::namespace(catalog, namespace) {
            None => Found::Catalog,
            Some((line, _)) if !line.made => Found::BeingMade,
            Some((line, _)) => Found::Route(Route { shards: line.shards }),
        }
    }

    /// All shards.
    pub fn shards(&self) -> &[u32] {
        &self.shards
    }

    /// The shard that holds a key.
    pub fn shard(&self, key: &[u8]) -> u32 {
        let place = usize::from(slot(key)) * self.shards.len() / usize::from(SLOTS);
        self.shards.get(place).copied().unwrap_or(CATALOG)
    }
}

/// A key's slot.
pub fn slot(key: &[u8]) -> u16 {
    crc16(tag(key)) % SLOTS
}

/// The part of a key that is hashed.
fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let after = &key[open + 1..];
    match after.iter().position(|&byte| byte == b'}') {
        Some(close) if close > 0 => &after[..close],
        _ => key,
    }
}

/// CRC-16/XMODEM: polynomial 0x1021, from 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| crc << 8 ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the check value in the specification");
        // As `CLUSTER KEYSLOT` of redis-server 7.0 says.
        for (key, expected) in [("foo", 12_182), ("bar", 5_061), ("hello", 866), ("", 0)] {
            assert_eq!(slot(key.as_bytes()), expected, "{key:?}");
        }
    }

    #[test]
    fn only_a_tag_that_is_not_empty_is_hashed_alone() {
        for (key, expected) in [
            ("{user1000}.following", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{bar", "foo{bar"),
            ("}{a}", "a"),
        ] {
            assert_eq!(tag(key.as_bytes()), expected.as_bytes(), "{key:?}");
        }
    }

    #[test]
    fn every_shard_holds_an_even_range_of_slots() {
        for count in [1, 2, 3, 5, 64] {
            let route = Route { shards: (2..2 + count).collect() };
            let mut held = vec![0; count as usize];
            for number in 0..20_000 {
                held[route.shard(format!("key{number}").as_bytes()) as usize - 2] += 1;
            }
            let even = 20_000 / count;
            assert!(held.iter().all(|&held| held > even / 2 && held < even * 2), "{held:?}");
        }
    }
}
