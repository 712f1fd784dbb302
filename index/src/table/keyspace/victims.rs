//! Which keys make room: see [`eviction`](crate::table::eviction).

use hashbrown::HashTable;

use super::due::NAMED_BYTES_MAX;
use super::{Keyspace, STRIPES, stripe_of};
use crate::table::call::Chance;
use crate::table::entry::{Entry, Value};
use crate::table::eviction::{Fate, Policy, Queues};
use crate::table::objects::Object;

fn is_lease(entry: &Entry) -> bool {
    matches!(entry.value(), Value::Object(Object::Lease(_)))
}

impl Keyspace {
    /// Keys that should go so that it takes at most `budget` bytes, by this policy; at most `count` of them. They are proposed,
    /// and removed with all members; those that are not are found again later.
    pub fn victims(&mut self, budget: usize, policy: Policy, count: usize, chance: &mut Chance) -> Vec<Box<[u8]>> {
        let mut over = self.memory_bytes().saturating_sub(budget);
        let mut victims = Vec::new();
        if over == 0 || policy == Policy::None || (policy.is_volatile() && self.timed == 0) {
            return victims;
        }
        if policy == Policy::S3Fifo && self.queues.is_none() {
            self.requeue();
        }
        let mut requeued = false;
        let (mut chosen, mut bytes) = (HashTable::<u64>::new(), 0);
        for _ in 0..count.saturating_mul(4) {
            if over == 0 || victims.len() >= count.min(self.len) || bytes >= NAMED_BYTES_MAX {
                break;
            }
            let hash = match policy {
                Policy::S3Fifo => self.next_in_queue(),
                _ => self.worst_of_few(policy, chance),
            };
            let Some(hash) = hash else {
                if policy != Policy::S3Fifo || std::mem::replace(&mut requeued, true) {
                    break;
                }
                self.requeue();
                continue;
            };
            if chosen.find(hash, |other| *other == hash).is_some() {
                continue;
            }
            chosen.insert_unique(hash, hash, |hash| *hash);
            let named = self.stripes[stripe_of(hash)].iter_hash(hash).filter(|entry| self.hash(entry.key()) == hash);
            // Whoever holds a lease relies on it.
            for entry in named.filter(|entry| !is_lease(entry)) {
                over = over.saturating_sub(entry.bytes());
                bytes += entry.key().len();
                victims.push(entry.key().into());
            }
        }
        victims
    }

    fn next_in_queue(&mut self) -> Option<u64> {
        let stripes = &self.stripes;
        let find = |hash: u64| stripes[stripe_of(hash)].find(hash, |_| true);
        let look = |hash| find(hash).map_or(Fate::Gone, |entry| Fate::Used(entry.heat()));
        let cool = |hash, heat| find(hash).into_iter().for_each(|entry| entry.set_heat(heat));
        self.queues.as_mut()?.next(look, cool)
    }

    /// Queues all keys anew.
    fn requeue(&mut self) {
        let mut queues = Queues::default();
        for entry in self.stripes.iter().flat_map(HashTable::iter) {
            queues.insert(self.hash(entry.key()));
        }
        self.queues = Some(queues);
    }

    /// The worst of a few keys drawn by chance.
    fn worst_of_few(&self, policy: Policy, chance: &mut Chance) -> Option<u64> {
        const FEW: usize = 16;
        let mut drawn = (0..FEW).map(|_| (chance.below(STRIPES), chance.next_u64()));
        let drawn = drawn.by_ref().filter_map(|(stripe, rank)| {
            let stripe = &self.stripes[stripe];
            let entry = stripe.iter().nth(rank as usize % stripe.len().max(1))?;
            let times = entry.times();
            if policy.is_volatile() && times.deadline == 0 {
                return None;
            }
            let worth = match policy {
                Policy::VolatileTtl => times.deadline,
                Policy::Random | Policy::VolatileRandom => 0,
                Policy::Lfu | Policy::VolatileLfu => u64::from(entry.heat()),
                // What was used lately is warm, and cools down each time it is looked at.
                _ => {
                    let heat = entry.heat();
                    entry.set_heat(heat.saturating_sub(1));
                    u64::from(heat) << 56 | entry.version() >> 8
                }
            };
            Some((worth, self.hash(entry.key())))
        });
        drawn.min().map(|(_, hash)| hash)
    }
}
