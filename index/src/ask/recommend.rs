//! Near some, and not near others: by one vector that stands for all examples, or by the nearest of them.
//!
//! ```text
//!   by the mean, the hits are those nearest to
//!     with negative examples:  mean(positive) + (mean(positive) - mean(negative))
//!     without:                 mean(positive)
//! ```
//!
//! The components are those that are stored: of length 1 under cosine, so that each example counts alike. What comes is
//! prepared for the metric by the caller.
//!
//! By the nearest, a record is as far as the nearest positive example; one that is nearer to a negative example than to every
//! positive one is no hit. That suits examples that have little to do with each other.

/// How several examples work together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// By one vector that stands for all of them.
    #[default]
    Mean,
    /// By the nearest of them.
    Nearest,
}

/// The vector to be near to. `None` without a positive example.
pub fn target(positive: &[&[f32]], negative: &[&[f32]]) -> Option<Vec<f32>> {
    let liked = mean(positive)?;
    Some(match mean(negative) {
        None => liked.into_iter().map(|component| component as f32).collect(),
        Some(disliked) => liked.into_iter().zip(disliked).map(|(a, b)| (a + (a - b)) as f32).collect(),
    })
}

fn mean(examples: &[&[f32]]) -> Option<Vec<f64>> {
    let mut sum = vec![0.0; examples.first()?.len()];
    for example in examples {
        for (sum, component) in sum.iter_mut().zip(*example) {
            *sum += f64::from(*component);
        }
    }
    Some(sum.into_iter().map(|sum: f64| sum / examples.len() as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_lies_beyond_the_positive_mean_away_from_the_negative() {
        assert_eq!(target(&[], &[&[1.0]]), None);
        assert_eq!(target(&[&[1.0, 3.0]], &[]), Some(vec![1.0, 3.0]));
        assert_eq!(target(&[&[1.0, 3.0], &[3.0, 3.0]], &[]), Some(vec![2.0, 3.0]));
        assert_eq!(target(&[&[1.0, 3.0], &[3.0, 3.0]], &[&[0.0, 4.0]]), Some(vec![4.0, 2.0]));
    }
}
