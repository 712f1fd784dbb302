//! Several lists of hits become one.
//!
//! ```text
//!   reciprocal rank:  score = sum of weight / (k + rank)              rank 1 is the best of a list
//!   weighted:         score = sum of weight * (value - worst) / (best - worst)
//! ```
//!
//! over the lists that a hit is in; one that it is not in adds nothing. Reciprocal rank looks at places only, so lists whose
//! values have nothing to do with each other can be put together. Weighted looks at values: each list's best hit counts 1,
//! its worst 0, and those between in proportion; where all are equally good, each counts 1. The value of a hit is its score,
//! or, where there is none, its negative distance.

use std::collections::BTreeMap;

/// What `k` of reciprocal rank is unless said otherwise.
pub const RECIPROCAL_K: f32 = 60.0;

/// How lists of hits become one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fusion {
    /// By their places.
    ReciprocalRank {
        /// The larger, the less the first places stand out. At least 0.
        k: f32,
    },
    /// By their values.
    Weighted,
}

/// Puts lists together, each with its weight and its items with their values, best first. What comes is in order: by score,
/// then by item.
pub fn fuse<T: Ord + Copy>(fusion: Fusion, lists: &[(f32, Vec<(T, f32)>)]) -> Vec<(T, f32)> {
    let mut scores: BTreeMap<T, f64> = BTreeMap::new();
    for (weight, list) in lists {
        let weight = f64::from(*weight);
        let best = list.first().map_or(0.0, |&(_, value)| f64::from(value));
        let spread = best - list.last().map_or(0.0, |&(_, value)| f64::from(value));
        for (rank, &(item, value)) in (1..).zip(list) {
            *scores.entry(item).or_default() += weight
                * match fusion {
                    Fusion::ReciprocalRank { k } => 1.0 / (f64::from(k) + f64::from(rank)),
                    Fusion::Weighted if spread > 0.0 => 1.0 - (best - f64::from(value)) / spread,
                    Fusion::Weighted => 1.0,
                };
        }
    }
    let mut fused: Vec<(T, f32)> = scores.into_iter().map(|(item, score)| (item, score as f32)).collect();
    // Stable, so what is equally good stays in the order of the items.
    fused.sort_by(|a, b| b.1.total_cmp(&a.1));
    fused
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks every list about every item.
    fn model(fusion: Fusion, lists: &[(f32, Vec<(u32, f32)>)]) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> = Vec::new();
        for item in 0..100 {
            let mut score = None;
            for (weight, list) in lists {
                let Some(place) = list.iter().position(|&(other, _)| other == item) else { continue };
                let values: Vec<f64> = list.iter().map(|&(_, value)| f64::from(value)).collect();
                let (low, high) = (values.iter().copied().fold(f64::MAX, f64::min), values[0]);
                let part = match fusion {
                    Fusion::ReciprocalRank { k } => 1.0 / (f64::from(k) + place as f64 + 1.0),
                    Fusion::Weighted if high > low => (values[place] - low) / (high - low),
                    Fusion::Weighted => 1.0,
                };
                *score.get_or_insert(0.0) += f64::from(*weight) * part;
            }
            all.extend(score.map(|score| (item, score as f32)));
        }
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }

    #[test]
    fn scores_are_those_of_the_formulas() {
        let mut state = 7u64;
        let mut below = |end: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % end
        };
        for round in 0..200 {
            let lists: Vec<(f32, Vec<(u32, f32)>)> = (0..1 + below(4))
                .map(|_| {
                    let mut items: Vec<u32> = (0..100).filter(|_| below(4) == 0).collect();
                    items.sort_by_key(|item| item.wrapping_mul(2_654_435_761) ^ round);
                    let mut values: Vec<f32> = items.iter().map(|_| below(50) as f32 / 8.0).collect();
                    values.sort_by(|a, b| b.total_cmp(a));
                    (below(8) as f32 / 4.0, items.into_iter().zip(values).collect())
                })
                .collect();
            for fusion in [Fusion::ReciprocalRank { k: RECIPROCAL_K }, Fusion::Weighted] {
                let (found, expected) = (fuse(fusion, &lists), model(fusion, &lists));
                assert_eq!(found.len(), expected.len());
                for (number, (a, b)) in found.iter().zip(&expected).enumerate() {
                    assert!((a.1 - b.1).abs() < 1e-5, "round {round} place {number}: {a:?} {b:?}");
                    assert!(number == 0 || found[number - 1].1 >= a.1, "round {round} place {number}");
                }
            }
        }
    }

    #[test]
    fn equally_good_items_come_in_their_order() {
        let lists = [(1.0, vec![(7, 3.0), (2, 2.0)]), (1.0, vec![(2, 9.0), (7, 1.0)])];
        let scores = fuse(Fusion::ReciprocalRank { k: 60.0 }, &lists);
        assert_eq!(scores.iter().map(|(item, _)| *item).collect::<Vec<_>>(), [2, 7]);
        assert_eq!(scores[0].1, scores[1].1);
        assert_eq!(fuse::<u32>(Fusion::Weighted, &[(1.0, vec![])]), []);
    }

    #[test]
    fn lists_of_equal_values_count_fully() {
        let lists = [(2.0, vec![(1, 0.5)]), (1.0, vec![(1, 4.0), (3, 4.0)])];
        assert_eq!(fuse(Fusion::Weighted, &lists), [(1, 3.0), (3, 1.0)]);
    }
}
