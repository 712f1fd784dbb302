//! Age takes score away: what an agent saw lately counts more than what it saw long ago.
//!
//! ```text
//!   left(age) = 1 - share + share * 0.5 ^ (age / half life)
//!   score     = relevance * left(age)      if the relevance is above 0, else the relevance
//! ```
//!
//! The relevance is a hit's score, or, of a hit near an embedding, how alike they are ([`super::similarity`]). A relevance
//! below 0 is left alone: age must not make a bad hit better. A record whose timestamp lies ahead is new; one that has no
//! timestamp loses nothing.

/// What age leaves of a score, from 0 to 1. Age and half life are in the same unit.
pub fn left(age: u64, half_life: u64, share: f32) -> f64 {
    let share = f64::from(share);
    1.0 - share + share * 0.5f64.powf(age as f64 / half_life as f64)
}

/// The score after so much is left.
pub fn score(relevance: f64, left: f64) -> f64 {
    if relevance > 0.0 { relevance * left } else { relevance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_left_after_each_half_life() {
        for (age, share, expected) in
            [(0, 1.0, 1.0), (10, 1.0, 0.5), (20, 1.0, 0.25), (10, 0.5, 0.75), (20, 0.5, 0.625), (10, 0.0, 1.0)]
        {
            assert!((left(age, 10, share) - expected).abs() < 1e-12, "{age} {share}");
        }
        assert!(left(u64::MAX, 1, 1.0) == 0.0);
        assert!((left(5, 10, 1.0) - 0.5f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn age_never_makes_a_hit_better() {
        for relevance in [-2.0, -0.1, 0.0, 0.3, 5.0] {
            let scores: Vec<f64> = (0..50).map(|age| score(relevance, left(age, 7, 1.0))).collect();
            assert!(scores.is_sorted_by(|a, b| a >= b), "{relevance}");
        }
    }
}
