//! A duel: two ways to choose, each on a few stripes; the others do as the one that misses less.
//!
//! ```text
//!   stripes:  first | others .. | second | others .. | first | ..       one of sixteen, one of sixteen, fourteen of sixteen
//! ```
//!
//! Keys lie in stripes by chance, so that all groups see requests of the same kind, and each keeps its share of the keys. A key
//! that comes is one that was missed, or is written for the first time; the latter do so in both groups alike. Nothing has to
//! be known of requests that find their key, which is what makes this cost nothing where keys are read.

/// Stripes of this many belong together: one of the first way, one of the second.
const STRIDE: usize = 16;
/// Where the second way stands among them.
const SECOND_AT: usize = 8;
/// Counts are multiples of this, so that they can fade.
const SCALE: u64 = 256;

/// How many groups of stripes there are: those of the first way, of the second, and the others.
pub(in crate::table) const GROUPS: usize = 3;

/// The group of a stripe.
pub(in crate::table) fn group_of(stripe: usize) -> usize {
    match stripe % STRIDE {
        0 => 0,
        SECOND_AT => 1,
        _ => 2,
    }
}

/// Of how many stripes of [`STRIDE`] a group is.
pub(super) fn weight(group: usize) -> usize {
    if group < 2 { 1 } else { STRIDE - 2 }
}

/// The group that has more than its share of the keys, of those that have any.
pub(in crate::table) fn fullest(keys: [usize; GROUPS]) -> usize {
    (0..GROUPS).max_by_key(|group| keys[*group] * STRIDE / weight(*group)).unwrap_or(GROUPS - 1)
}

/// The part of all that belongs to a group, as its inverse.
pub(super) fn inverse_part(group: usize) -> f64 {
    STRIDE as f64 / weight(group) as f64
}

/// Two ways, and which of them is better just now.
#[derive(Debug, Default)]
pub(in crate::table) struct Duel {
    misses: [u64; 2],
    since: usize,
    second: bool,
}

impl Duel {
    /// A key of a group comes, among so many.
    pub fn miss(&mut self, group: usize, keys: usize) {
        if let Some(misses) = self.misses.get_mut(group) {
            *misses += SCALE;
        }
        self.since += 1;
        if self.since <= keys / 8 {
            return;
        }
        self.since = 0;
        let [first, second] = self.misses;
        // What chance makes of it. Within that it stays as it is.
        let bar = ((first + second) * SCALE).isqrt();
        self.second = if self.second { first + bar >= second } else { second + bar < first };
        self.misses = self.misses.map(|misses| misses - misses / 8);
    }

    /// Whether a group goes the second way.
    pub fn is_second(&self, group: usize) -> bool {
        group == 1 || (group == 2 && self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;

    #[test]
    fn the_others_do_as_the_one_that_misses_less() {
        for seed in 0..50 {
            let (mut duel, mut chance) = (Duel::default(), Chance::new(seed));
            for second_is_better in [false, true, false, true] {
                for _ in 0..200_000 {
                    let group = group_of(chance.below(1_024));
                    let worse = if second_is_better { 0 } else { 1 };
                    // It misses a third less.
                    if group == worse || chance.below(3) > 0 {
                        duel.miss(group, 10_000);
                    }
                }
                assert_eq!(duel.is_second(2), second_is_better, "seed {seed}");
                assert!(!duel.is_second(0) && duel.is_second(1));
            }
        }
    }

    #[test]
    fn the_group_with_more_than_its_share_is_the_fullest() {
        assert_eq!(fullest([64, 64, 900]), 2);
        assert_eq!(fullest([65, 64, 896]), 0);
        assert_eq!(fullest([0, 0, 1]), 2);
        assert_eq!((0..STRIDE).filter(|stripe| group_of(*stripe) == 2).count(), weight(2));
    }
}
