//! What has expired: which keys the leader names, so that every member removes them at the same entry.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Keyspace, Wheel, first_of_parts, stripe_of};
use crate::table::entry::{Entry, Times};

/// How long a key that was named as expired may take to be removed before it is named again.
const AGAIN_MILLIS: u64 = 10_000;
/// So many notes of the wheel are looked at in one go.
const POPS_MAX: usize = 1 << 16;
/// The keys that are named in one go take about so many bytes at most.
pub(super) const NAMED_BYTES_MAX: usize = 128 << 10;

impl Keyspace {
    /// When [`Keyspace::due`] should be asked next: milliseconds since 1970.
    pub fn next_due(&self) -> Option<u64> {
        self.wheel.next()
    }

    /// Keys that have expired by `now`, or have parts that have, at most `count`, which should be given to
    /// [`Keyspace::remove_expired`]. One that is still there after [`AGAIN_MILLIS`] is named again.
    pub fn due(&mut self, now: u64, count: usize) -> Vec<Box<[u8]>> {
        let mut due = Vec::new();
        let (seed, mut bytes) = (self.seed, 0);
        for _ in 0..POPS_MAX {
            if due.len() >= count || bytes >= NAMED_BYTES_MAX {
                break;
            }
            let Some((hash, step)) = self.wheel.pop(now) else { break };
            // More than one key may have this hash; each was noted by itself.
            let named = |entry: &Entry| entry.times().noted == step && xxh3_64_with_seed(entry.key(), seed) == hash;
            let Some(entry) = self.stripes[stripe_of(hash)].find_mut(hash, named) else { continue };
            let times = entry.times();
            let deadlines = [times.deadline, first_of_parts(entry)];
            let Some(deadline) = deadlines.into_iter().filter(|&deadline| deadline != 0).min() else {
                entry.set_times(Times { noted: 0, ..times });
                continue;
            };
            let next = if deadline <= now {
                due.push(entry.key().into());
                bytes += entry.key().len();
                now + AGAIN_MILLIS
            } else {
                deadline
            };
            entry.set_times(Times { noted: Wheel::step_of(next), ..times });
            self.wheel.note(hash, next);
        }
        due
    }

    /// Removes keys that have expired by now; whoever found them may have been wrong.
    pub fn remove_expired<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>, now: u64) -> usize {
        let removed = keys.filter(|key| self.expire(self.hash(key), key, now)).count();
        self.settle();
        removed
    }
}
