//! Which keys make room: see [`eviction`](crate::table::eviction).

use std::cell::Cell;

use hashbrown::HashTable;

use super::due::NAMED_BYTES_MAX;
use super::{HEAT_MAX, Keyspace, STRIPES, stripe_of};
use crate::table::call::Chance;
use crate::table::entry::{Entry, Value};
use crate::table::eviction::Policy;
use crate::table::eviction::duel::{GROUPS, group_of};
use crate::table::eviction::queues::{Found, Queues, Token};
use crate::table::objects::Object;
use crate::table::stripe::Stripe;

/// One search for victims looks at so many keys in vain, at most: entries wait for it.
const LOOKED_AT_IN_ALL: usize = 1 << 17;
/// How far uses of a key are counted where the least often used goes.
const FREQUENCY_MAX: u8 = 255;
/// There, a frequency is halved after about so many comparisons. A key is in sixteen of them while as many others go as there are.
const HALVED_AFTER: usize = 24;
/// And so many times longer the last of it is kept.
const LAST_FOR: usize = 32;

/// What is left of a frequency once a key was compared with others: of what is not used any more a half after some comparisons,
/// however much time passes. That it was used once is forgotten last, or nothing would tell new keys from old ones.
fn cooled(heat: u8, chance: &mut Chance) -> u8 {
    match heat {
        0 => 0,
        1 => u8::from(chance.below(HALVED_AFTER * LAST_FOR) != 0),
        _ if chance.below(HALVED_AFTER) == 0 => heat / 2,
        _ => heat,
    }
}

pub(super) fn is_lease(entry: &Entry) -> bool {
    matches!(entry.value(), Value::Object(Object::Lease(_)))
}

impl Keyspace {
    /// Keys that should go so that it takes at most `budget` bytes, by this policy; at most `count` of them. They are proposed,
    /// and removed with all members; those that are not are found again later.
    pub fn victims(&mut self, budget: usize, policy: Policy, count: usize, chance: &mut Chance) -> Vec<Box<[u8]>> {
        let mut over = self.memory_bytes().saturating_sub(budget);
        let mut victims = Vec::new();
        if over == 0 || policy.keeps_all(self.timed) {
            return victims;
        }
        self.go_by(policy);
        let (mut requeued, mut keys) = (false, self.keys_of_groups());
        let (mut chosen, mut bytes, mut looked) = (HashTable::<u64>::new(), 0, 0);
        // Of keys with deadlines some are leases, which stay.
        let most = if policy.is_volatile() { self.timed } else { self.len };
        for _ in 0..count.saturating_mul(4) {
            if over == 0 || victims.len() >= count || bytes >= NAMED_BYTES_MAX {
                break;
            }
            if chosen.len() >= most || looked >= LOOKED_AT_IN_ALL {
                break;
            }
            let hash = match policy {
                Policy::S3Fifo => self.next_in_queue(&mut keys),
                _ => self.worst_of_few(policy, chance, &mut looked),
            };
            let Some(hash) = hash else {
                if policy != Policy::S3Fifo {
                    // There may be some elsewhere.
                    continue;
                }
                if std::mem::replace(&mut requeued, true) {
                    break;
                }
                self.requeue();
                continue;
            };
            if chosen.find(hash, |other| *other == hash).is_some() {
                continue;
            }
            chosen.insert_unique(hash, hash, |hash| *hash);
            let like = self.stripes[stripe_of(hash)].like(hash, 0);
            let named = like.filter(|entry| self.hash(entry.key()) == hash);
            // Whoever holds a lease relies on it.
            for entry in named.filter(|entry| !is_lease(entry)) {
                over = over.saturating_sub(entry.bytes());
                bytes += entry.key().len();
                victims.push(entry.key().into());
            }
        }
        victims
    }

    /// Keeps what this policy needs to know, and nothing else.
    fn go_by(&mut self, policy: Policy) {
        let counts = matches!(policy, Policy::Lfu | Policy::VolatileLfu);
        self.heat_max = if counts { FREQUENCY_MAX } else { HEAT_MAX };
        if policy != Policy::S3Fifo {
            self.queues = None;
        } else if self.queues.is_none() {
            self.queues = Some(Box::new(Queues::new(self.len)));
            self.requeue();
        }
    }

    fn keys_of_groups(&self) -> [usize; GROUPS] {
        let mut keys = [0; GROUPS];
        self.stripes.iter().enumerate().for_each(|(stripe, entries)| keys[group_of(stripe)] += entries.len());
        keys
    }

    fn entry_of(&self, token: Token) -> Option<(u64, &Entry)> {
        let like = self.stripes[token.stripe()].like(token.least_hash(), Token::SHIFT);
        let mut hashed = like.map(|entry| (self.hash(entry.key()), entry));
        hashed.find(|(hash, _)| Token::of(*hash) == token)
    }

    fn next_in_queue(&mut self, keys: &mut [usize; GROUPS]) -> Option<u64> {
        let mut queues = self.queues.take()?;
        let look = |token| match self.entry_of(token) {
            Some((hash, entry)) => Found::Used { hash, used: entry.heat().min(HEAT_MAX) },
            None => Found::Gone,
        };
        let cool = |token, heat| self.entry_of(token).into_iter().for_each(|(_, entry)| entry.set_heat(heat));
        let next = queues.next(keys, look, cool);
        self.queues = Some(queues);
        next.and_then(|token| self.entry_of(token)).map(|(hash, _)| hash)
    }

    /// Queues all keys anew.
    fn requeue(&mut self) {
        let Some(mut queues) = self.queues.take() else { return };
        queues.empty();
        self.stripes.iter().flat_map(Stripe::iter).for_each(|entry| queues.queue(self.hash(entry.key())));
        self.queues = Some(queues);
    }

    /// A key is new.
    pub(super) fn queue(&mut self, hash: u64) {
        let Some(mut queues) = self.queues.take() else { return };
        let heat = queues.insert(hash, self.len);
        if heat > 0 {
            let like = self.stripes[stripe_of(hash)].like(hash, 0);
            let named = like.filter(|entry| self.hash(entry.key()) == hash);
            named.for_each(|entry| entry.set_heat(heat));
        }
        queues.tidy(self.len, |token| self.entry_of(token).is_some());
        self.queues = Some(queues);
    }

    /// The worst of a few keys drawn by chance.
    fn worst_of_few(&self, policy: Policy, chance: &mut Chance, looked: &mut usize) -> Option<u64> {
        const SPOTS: usize = 8;
        const FEW_AT_EACH: usize = 2;
        // Where few keys have deadlines, it is looked for them so far.
        const LOOKED_AT_MAX: usize = 4_096;
        let spots: [(usize, u64); SPOTS] = std::array::from_fn(|_| (chance.below(STRIPES), chance.next_u64()));
        // Keys lie by their hashes: those beside each other are as good as drawn one by one.
        let seen = Cell::new(0);
        let drawn = spots.into_iter().flat_map(|(first, rank)| {
            let seen = &seen;
            let stripes = (0..STRIPES).map(move |number| &self.stripes[(first + number) % STRIPES]);
            // Those that came first lie first, so that each stripe is gone round from anywhere.
            let near = stripes.flat_map(move |stripe| {
                let rank = rank as usize % stripe.len().max(1);
                stripe.iter().skip(rank).chain(stripe.iter().take(rank))
            });
            let near = near.take(LOOKED_AT_MAX);
            let fit = near.filter(move |entry| {
                let fits = !policy.is_volatile() || entry.times().deadline != 0;
                seen.set(seen.get() + usize::from(!fits));
                fits
            });
            fit.take(FEW_AT_EACH)
        });
        let worths = drawn.map(|entry| {
            let worth = match policy {
                Policy::VolatileTtl => entry.times().deadline,
                Policy::Random | Policy::VolatileRandom => 0,
                Policy::Lfu | Policy::VolatileLfu => {
                    let heat = entry.heat();
                    entry.set_heat(cooled(heat, chance));
                    u64::from(heat)
                }
                // What was used lately is warm, and cools down each time it is looked at.
                _ => {
                    let heat = entry.heat().min(HEAT_MAX);
                    entry.set_heat(heat.saturating_sub(1));
                    u64::from(heat) << 56 | entry.version() >> 8
                }
            };
            (worth, self.hash(entry.key()))
        });
        let worst = worths.min().map(|(_, hash)| hash);
        *looked += seen.get();
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::At;
    use crate::table::objects::Lease;

    #[test]
    fn what_was_hot_long_ago_goes_before_what_is_warm_now() {
        for policy in [Policy::Lfu, Policy::VolatileLfu] {
            let (mut keyspace, mut at, mut chance) = (Keyspace::new(7), At { version: 1, now: 1 }, Chance::new(1));
            let mut number = 0;
            let mut put = |keyspace: &mut Keyspace, name: &str| {
                at.version += 1;
                keyspace.set_string(name.as_bytes(), b"value", 1_000_000, at);
            };
            let hot = |keyspace: &Keyspace| {
                (0..100).filter(|key| keyspace.contains(format!("hot:{key}").as_bytes(), 1)).count()
            };
            let warm = |keyspace: &Keyspace| {
                (0..100).filter(|key| keyspace.contains(format!("warm:{key}").as_bytes(), 1)).count()
            };
            (0..100).for_each(|key| put(&mut keyspace, &format!("hot:{key}")));
            for key in 0..1_000 {
                put(&mut keyspace, &format!("first:{key}"));
            }
            let budget = keyspace.memory_bytes();
            let mut churn = |keyspace: &mut Keyspace, chance: &mut Chance| {
                for _ in 0..50 {
                    number += 1;
                    put(keyspace, &format!("new:{number}"));
                }
                for victim in keyspace.victims(budget, policy, 64, chance) {
                    keyspace.remove(&victim, At { version: 1, now: 1 });
                }
            };
            churn(&mut keyspace, &mut chance);
            for _ in 0..1_000 {
                (0..100).for_each(|key| keyspace.warm(format!("hot:{key}").as_bytes(), 1));
            }
            for _ in 0..40 {
                churn(&mut keyspace, &mut chance);
            }
            let (left, keys) = (hot(&keyspace), keyspace.len());
            assert!(
                left >= 90,
                "{policy:?}: {left} of what was used a thousand times are left after a while, of {keys} keys"
            );
            for round in 0..2_500 {
                if round % 10 == 0 {
                    for key in 0..100 {
                        let name = format!("warm:{key}");
                        if !keyspace.contains(name.as_bytes(), 1) {
                            keyspace.set_string(name.as_bytes(), b"value", 1_000_000, At { version: 1, now: 1 });
                        }
                        (0..3).for_each(|_| keyspace.warm(name.as_bytes(), 1));
                    }
                }
                churn(&mut keyspace, &mut chance);
            }
            let (hot, warm) = (hot(&keyspace), warm(&keyspace));
            assert!(hot <= 40 && warm >= 80, "{policy:?}: {hot} of what was hot long ago, {warm} of what is warm now");
        }
    }

    #[test]
    fn the_few_that_have_deadlines_are_found_among_many() {
        for policy in [Policy::VolatileTtl, Policy::VolatileRandom, Policy::VolatileLfu] {
            let (mut keyspace, at) = (Keyspace::new(7), At { version: 1, now: 1 });
            for number in 0..20_000u32 {
                let deadline = if number % 1_000 == 0 { 1_000_000 } else { 0 };
                keyspace.set_string(format!("key:{number}").as_bytes(), b"value", deadline, at);
            }
            let mut chance = Chance::new(1);
            for _ in 0..50 {
                for key in keyspace.victims(1, policy, 1_024, &mut chance) {
                    assert_ne!(keyspace.deadline(&key, 1), Some(0), "one without a deadline");
                    keyspace.remove(&key, at);
                }
            }
            assert_eq!((keyspace.timed(), keyspace.len()), (0, 19_980));
            // A lease has a deadline, and stays: it is not looked for again and again.
            keyspace.put(b"lease", Lease::new(7, b"me"), 1_000_000, at);
            let (mut looked, found) = (0, keyspace.worst_of_few(policy, &mut chance, &mut 0));
            assert!(keyspace.victims(1, policy, 1_024, &mut chance).is_empty());
            keyspace.remove(b"lease", at);
            assert_eq!((found.is_some(), keyspace.worst_of_few(policy, &mut chance, &mut looked)), (true, None));
            assert!((4_096..LOOKED_AT_IN_ALL).contains(&looked), "{looked}");
        }
    }
}
