//! The order of keys, in which cursors go through them and from which one is drawn by chance.
//!
//! ```text
//!   cursor, 53 bits:  | stripe, 10 | where in it, 32 | 11 more bits of the hash |
//! ```
//!
//! It depends on the hashes of keys alone, not on how they came to lie where they do: so all members agree on it, and a cursor
//! keeps its meaning however much comes and goes meanwhile. A stripe has its keys in parts in nearly this order, so that only the
//! few keys of a part have to be sorted.

use super::{Keyspace, STRIPE_BITS, STRIPE_SHIFT, STRIPES, is_live};
use crate::table::call::Chance;
use crate::table::entry::Entry;
use crate::table::stripe::Stripe;

/// Cursors stay below what a double holds exactly, because some clients read them as one.
const CURSOR_BITS: u32 = 53;

/// Where a key comes in the order of cursors: by stripe, and by hash in each.
fn turn_of(hash: u64) -> u64 {
    hash.rotate_left(u64::BITS - STRIPE_SHIFT - STRIPE_BITS) >> (u64::BITS - CURSOR_BITS)
}

/// A hash that comes there in this order.
fn hash_at(turn: u64) -> u64 {
    (turn << (u64::BITS - CURSOR_BITS)).rotate_right(u64::BITS - STRIPE_SHIFT - STRIPE_BITS)
}

impl Keyspace {
    /// The entries of a part of a stripe, in order.
    fn in_order<'s>(&self, stripe: &'s Stripe, part: usize) -> Vec<(u64, &'s Entry)> {
        let entries = stripe.part(part, |entry| self.hash(entry.key()));
        let mut turned: Vec<_> = entries.map(|entry| (turn_of(self.hash(entry.key())), entry)).collect();
        turned.sort_unstable_by(|a, b| (a.0, a.1.key()).cmp(&(b.0, b.1.key())));
        turned
    }

    /// At least `count` keys from a cursor on, if there are so many, and the cursor to go on with; zero begins and ends.
    /// A key that is there all the time between the first cursor and the last is seen.
    pub fn scan(&self, cursor: u64, count: usize, now: u64, mut each: impl FnMut(&[u8])) -> u64 {
        let (mut seen, mut last) = (0, None);
        let first = (cursor >> (CURSOR_BITS - STRIPE_BITS)) as usize;
        for number in first..STRIPES {
            let stripe = &self.stripes[number];
            let part = if number == first { stripe.part_of(hash_at(cursor)) } else { 0 };
            for (turn, entry) in (part..stripe.parts()).flat_map(|part| self.in_order(stripe, part)) {
                if turn < cursor {
                    continue;
                }
                if seen >= count && last != Some(turn) {
                    return turn;
                }
                last = Some(turn);
                if is_live(entry, now) {
                    each(entry.key());
                }
                seen += 1;
            }
        }
        0
    }

    /// Some key that has not expired, each as likely as any other; none if there is none, or hardly any.
    pub fn random_key(&self, chance: &mut Chance, now: u64) -> Option<&[u8]> {
        for _ in 0..100 {
            if self.len == 0 {
                return None;
            }
            let entry = self.ranked(chance.below(self.len))?;
            if is_live(entry, now) {
                return Some(entry.key());
            }
        }
        None
    }

    /// The entry that has so many before it.
    fn ranked(&self, rank: usize) -> Option<&Entry> {
        let mut rank = rank;
        for stripe in &self.stripes {
            if rank >= stripe.len() {
                rank -= stripe.len();
                continue;
            }
            for part in 0..stripe.parts() {
                let len = stripe.part(part, |entry| self.hash(entry.key())).count();
                if rank < len {
                    return self.in_order(stripe, part).get(rank).map(|(_, entry)| *entry);
                }
                rank -= len;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::table::At;

    const AT: At = At { version: 1, now: 1 };

    fn filled(keys: &[String], seed: u64) -> Keyspace {
        let mut keyspace = Keyspace::new(seed);
        keys.iter().for_each(|key| keyspace.set_string(key.as_bytes(), b"value", 0, AT));
        keyspace
    }

    #[test]
    fn the_order_is_that_of_hashes_whatever_came_and_went() {
        for seed in 0..30 {
            println!("seed {seed}");
            let mut chance = Chance::new(seed);
            let count = 1 + chance.below(4_000);
            let mut keys: Vec<String> = (0..count).map(|number| format!("key:{number}")).collect();
            let mut keyspace = filled(&keys, seed);
            for number in 0..chance.below(20_000) {
                keyspace.set_string(format!("other:{number}").as_bytes(), b"value", 0, AT);
            }
            let others: Vec<Vec<u8>> = keyspace.keys().filter(|key| key.starts_with(b"other")).map(Vec::from).collect();
            assert!(others.iter().all(|key| keyspace.remove(key, AT)));
            let recount = |stripe: &Stripe| stripe.bytes() + stripe.iter().map(Entry::bytes).sum::<usize>();
            assert_eq!(keyspace.bytes, keyspace.stripes.iter().map(recount).sum::<usize>());
            keys.sort_by_key(|key| (turn_of(keyspace.hash(key.as_bytes())), key.clone()));
            let (mut cursor, mut found) = (0, Vec::<String>::new());
            loop {
                cursor =
                    keyspace.scan(cursor, chance.below(40), 1, |key| found.push(String::from_utf8_lossy(key).into()));
                if cursor == 0 {
                    break;
                }
            }
            assert_eq!(found, keys);
            for (rank, key) in keys.iter().enumerate().take(100) {
                assert_eq!(keyspace.ranked(rank).map(Entry::key), Some(key.as_bytes()));
            }
            assert!(keyspace.ranked(count).is_none());
            assert_eq!(keyspace.scan(u64::MAX, 10, 1, |_| ()), 0);
        }
    }

    #[test]
    fn what_stays_is_seen_while_others_come_and_go() {
        for seed in 0..30 {
            println!("seed {seed}");
            let mut chance = Chance::new(seed);
            let keys: Vec<String> = (0..1 + chance.below(2_000)).map(|number| format!("key:{number}")).collect();
            let mut keyspace = filled(&keys, seed);
            let (mut cursor, mut seen, mut removed) = (0, BTreeSet::new(), 0);
            loop {
                cursor = keyspace.scan(cursor, 1 + chance.below(60), 1, |key| {
                    seen.insert(String::from_utf8_lossy(key).into_owned());
                });
                if cursor == 0 {
                    break;
                }
                if chance.below(20) == 0 {
                    removed = chance.below(100);
                }
                for _ in 0..chance.below(600) {
                    let other = format!("other:{}", chance.below(30_000));
                    if chance.below(100) < removed {
                        keyspace.remove(other.as_bytes(), AT);
                    } else {
                        keyspace.set_string(other.as_bytes(), b"value", 0, AT);
                    }
                }
            }
            assert!(keys.iter().all(|key| seen.contains(key)), "of {} keys", keys.len());
        }
    }
}
