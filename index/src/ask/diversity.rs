//! Maximal marginal relevance: hits that are good and unlike each other.
//!
//! ```text
//!   next = the candidate with the greatest
//!          lambda * relevance - (1 - lambda) * (how alike it is to the one chosen before that it is most like)
//! ```
//!
//! The first is the most relevant one; of equals, the earlier candidate. A candidate that cannot be compared with another
//! is not like it at all (0). Relevance and likeness are of one kind where a hit is near an embedding
//! ([`super::similarity`]); scores of other kinds are first brought between 0 (the worst candidate) and 1 (the best).
//!
//! (Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking", 1998.)

/// Chooses `k` of the candidates with these relevances, by their numbers, in the order of choice. `alike` compares two of
/// them. `None` if `keep_going`, asked before each choice, said no.
pub fn choose(
    relevance: &[f64],
    k: usize,
    lambda: f32,
    mut alike: impl FnMut(usize, usize) -> Option<f64>,
    mut keep_going: impl FnMut() -> bool,
) -> Option<Vec<usize>> {
    let lambda = f64::from(lambda);
    let mut chosen: Vec<usize> = Vec::with_capacity(k.min(relevance.len()));
    // How like the most like one of those chosen each is.
    let mut closest = vec![f64::NEG_INFINITY; relevance.len()];
    let mut taken = vec![false; relevance.len()];
    while chosen.len() < k.min(relevance.len()) {
        if !keep_going() {
            return None;
        }
        let worth = |number: usize| match chosen.len() {
            0 => relevance[number],
            _ => lambda * relevance[number] - (1.0 - lambda) * closest[number],
        };
        let left = (0..relevance.len()).filter(|&number| !taken[number]);
        let next = left.reduce(|best, number| if worth(number) > worth(best) { number } else { best })?;
        taken[next] = true;
        chosen.push(next);
        for (number, closest) in closest.iter_mut().enumerate().filter(|(number, _)| !taken[*number]) {
            *closest = closest.max(alike(number, next).unwrap_or(0.0));
        }
    }
    Some(chosen)
}

/// Brings scores between 0 and 1, the worst and the best of them. Where all are equal, they are 1.
pub fn spread(scores: &mut [f64]) {
    let low = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let high = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for score in scores {
        *score = if high > low { (*score - low) / (high - low) } else { 1.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes everything anew for each choice.
    fn model(relevance: &[f64], k: usize, lambda: f32, alike: &[Vec<f64>]) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        for _ in 0..k.min(relevance.len()) {
            let mut best: Option<(f64, usize)> = None;
            for number in (0..relevance.len()).filter(|number| !chosen.contains(number)) {
                let closest = chosen.iter().map(|&other| alike[number][other]).fold(f64::NEG_INFINITY, f64::max);
                let worth = match chosen.is_empty() {
                    true => relevance[number],
                    false => f64::from(lambda) * relevance[number] - (1.0 - f64::from(lambda)) * closest,
                };
                if best.is_none_or(|(other, _)| worth > other) {
                    best = Some((worth, number));
                }
            }
            chosen.extend(best.map(|(_, number)| number));
        }
        chosen
    }

    #[test]
    fn what_is_chosen_is_what_choosing_anew_chooses() {
        let mut state = 11u64;
        let mut chance = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % 1_000) as f64 / 1_000.0
        };
        for round in 0..100 {
            let count = 1 + round % 25;
            let relevance: Vec<f64> = (0..count).map(|_| chance()).collect();
            let values: Vec<Vec<f64>> = (0..count).map(|a| (0..=a).map(|_| chance()).collect()).collect();
            let value = |a: usize, b: usize| values[a.max(b)][a.min(b)];
            let alike: Vec<Vec<f64>> = (0..count).map(|a| (0..count).map(|b| value(a, b)).collect()).collect();
            for lambda in [0.0, 0.3, 0.5, 1.0] {
                let found = choose(&relevance, 10, lambda, |a, b| Some(alike[a][b]), || true);
                assert_eq!(found, Some(model(&relevance, 10, lambda, &alike)), "round {round} lambda {lambda}");
            }
        }
    }

    #[test]
    fn with_lambda_1_the_best_come_in_order() {
        assert_eq!(choose(&[0.1, 0.9, 0.5, 0.9], 3, 1.0, |_, _| Some(1.0), || true), Some(vec![1, 3, 2]));
        assert_eq!(choose(&[], 3, 0.5, |_, _| None, || true), Some(vec![]));
        assert_eq!(choose(&[1.0], 3, 0.5, |_, _| None, || false), None);
    }

    #[test]
    fn a_second_copy_waits_for_what_is_different() {
        let alike = |a: usize, b: usize| Some(if a + b == 1 { 1.0 } else { 0.1 });
        assert_eq!(choose(&[0.9, 0.89, 0.5], 3, 0.5, alike, || true), Some(vec![0, 2, 1]));
    }

    #[test]
    fn scores_are_spread_from_0_to_1() {
        let mut scores = [4.0, 2.0, 3.0];
        spread(&mut scores);
        assert_eq!(scores, [1.0, 0.0, 0.5]);
        let mut equal = [7.0, 7.0];
        spread(&mut equal);
        assert_eq!(equal, [1.0, 1.0]);
    }
}
