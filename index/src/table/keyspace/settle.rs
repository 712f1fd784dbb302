//! Settling: entries move out of memory in which there are too many free places between them.
//!
//! ```text
//!   changes --> for each, the next few entries in turn: is its page sparse? --> to a fuller one
//! ```
//!
//! Who deletes half of the keys leaves half of each page free, which nobody else can use: then the entries of some pages move
//! to others. It is done by the writer, a little with what it does anyway, and is no change of the table. All tables share the
//! pages: while one changes, the others of its shard are looked through too, a little with each entry of the log.

use super::{Keyspace, STRIPES};
use crate::table::slab;

/// So many entries are looked at for each change.
const FOR_EACH_CHANGE: u64 = 8;
/// And so many at once at the most.
const AT_ONCE_MAX: u64 = 1_024;
/// Of a table that does not change, so many are looked at for each entry of the log.
const IN_PASSING: u64 = 64;

/// How far it is.
#[derive(Default)]
pub(super) struct Settling {
    /// So many changes were followed up.
    changes: u64,
    /// The stripe and the group that are next.
    stripe: usize,
    group: usize,
}

impl Keyspace {
    /// Moves some of what should move.
    pub(super) fn settle(&mut self) {
        // All were looked at more than once after so many changes.
        let followed = self.settling.changes.max(self.changes.saturating_sub(self.len as u64));
        let open = self.changes.saturating_sub(followed);
        if open == 0 || !slab::are_sparse() {
            self.settling.changes = self.changes;
            return;
        }
        let looked = self.look(AT_ONCE_MAX.min(open * FOR_EACH_CHANGE));
        self.settling.changes = followed + looked.div_ceil(FOR_EACH_CHANGE);
    }

    /// The same while others change: what lies here keeps their pages from being free.
    pub(crate) fn settle_in_passing(&mut self) {
        self.look(IN_PASSING);
    }

    /// Looks at so many entries, the next in turn, or at all. Says at how many.
    fn look(&mut self, most: u64) -> u64 {
        let mut looked = 0;
        for _ in 0..STRIPES {
            let stripe = &mut self.stripes[self.settling.stripe];
            while looked < most && self.settling.group < stripe.groups() {
                for entry in stripe.group_mut(self.settling.group) {
                    looked += 1;
                    entry.settle();
                }
                self.settling.group += 1;
            }
            if looked >= most {
                break;
            }
            (self.settling.stripe, self.settling.group) = ((self.settling.stripe + 1) % STRIPES, 0);
        }
        looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::At;
    use crate::table::call::Chance;

    #[test]
    fn what_is_left_of_many_moves_together_and_stays_what_it_is() {
        for seed in 0..6 {
            let (mut chance, mut at) = (Chance::new(seed), At { version: 1, now: 1 });
            let mut keyspace = Keyspace::new(seed);
            // Of lengths that other tests have few of: those would stay where they are.
            let value = vec![7; 989 - seed as usize % 2 * 8];
            let name = |number: usize| format!("key:{number:0>12}").into_bytes();
            let mut other = Keyspace::new(seed);
            for number in 0..8_000 {
                keyspace.set_string(&name(number), &value, 0, at);
                if number % 400 == 0 {
                    other.set_string(&name(number), &value, 0, at);
                }
            }
            let mut left: Vec<usize> = (0..8_000).collect();
            while left.len() > 1_000 {
                let number = left.swap_remove(chance.below(left.len()));
                at.version += 1 << 16;
                keyspace.begin_growth(u64::MAX);
                other.settle_in_passing();
                assert!(keyspace.remove(&name(number), at));
            }
            assert_eq!((keyspace.sum_from_entries(), keyspace.len()), (keyspace.sum(), 1_000));
            assert!(
                left.iter().all(|number| keyspace.string(&name(*number), 1) == Ok(Some(&value[..]))),
                "seed {seed}"
            );
            let place = slab::place_bytes(11 + 16 + value.len());
            let (used, touched) = slab::figures_of(place);
            println!("seed {seed}: {used} places of {place} bytes are given out, {touched} are in memory");
            // It is a little behind while many go at once.
            assert!(touched * 8 <= used * 14, "seed {seed}: {used} of {touched}");
            for number in &left {
                keyspace.begin_growth(u64::MAX);
                other.settle_in_passing();
                keyspace.set_string(&name(*number), &value, 0, at);
            }
            assert_eq!((other.sum_from_entries(), other.len()), (other.sum(), 20));
            let (used, touched) = slab::figures_of(place);
            let most = (used * 4 / 3).max(used + (128 << 10) / place + 1);
            assert!(touched <= most, "seed {seed}: {used} of {touched}");
        }
    }
}
