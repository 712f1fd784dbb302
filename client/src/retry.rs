//! When to try again: a plain function of what happened, and a budget that keeps retries from becoming the load.
//!
//! Every write carries a request id that all its attempts share, so trying again is safe for writes as for reads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::Error;

/// How often and how patiently to try again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    /// At most so many attempts after the first.
    pub retries: u32,
    pub backoff_first: Duration,
    pub backoff_max: Duration,
}

impl Policy {
    /// How long to wait before the next attempt, or none: give up. `failed` attempts have failed so far, the last with
    /// `error`; `remaining` is left of the call's time. `random` is any number, for the jitter.
    pub fn pause(&self, error: &Error, failed: u32, remaining: Duration, random: u32) -> Option<Duration> {
        if !error.is_transient() || failed > self.retries {
            return None;
        }
        let doubled = self.backoff_first.saturating_mul(1 << (failed.saturating_sub(1)).min(20));
        let ceiling = doubled.min(self.backoff_max);
        // Between half of it and all of it, so that many clients do not come back together.
        let jittered = ceiling / 2 + ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0);
        let asked = match error {
            Error::Overloaded { retry_after: Some(after), .. } => *after,
            _ => Duration::ZERO,
        };
        Some(jittered.max(asked)).filter(|&pause| pause < remaining)
    }
}

/// Retries a client may make: each takes one away, ten successes give one back.
#[derive(Debug)]
pub(crate) struct Budget {
    tenths: AtomicU32,
    tenths_max: u32,
}

impl Budget {
    pub fn new(retries: u32) -> Budget {
        let tenths_max = retries.saturating_mul(10);
        Budget { tenths: AtomicU32::new(tenths_max), tenths_max }
    }

    pub fn spend(&self) -> bool {
        self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tenths| tenths.checked_sub(10)).is_ok()
    }

    pub fn earn(&self) {
        // Full is the usual case, and needs no write to shared memory.
        if self.tenths.load(Ordering::Relaxed) < self.tenths_max {
            self.tenths.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { retries: 4, backoff_first: Duration::from_millis(20), backoff_max: Duration::from_millis(100) };
    const LONG: Duration = Duration::from_secs(60);

    fn unavailable() -> Error {
        Error::Unavailable { message: "starting".into() }
    }

    #[test]
    fn pauses_double_up_to_the_most() {
        let pauses: Vec<_> = (1..=4)
            .filter_map(|failed| POLICY.pause(&unavailable(), failed, LONG, u32::MAX))
            .map(|pause| pause.as_millis())
            .collect();
        assert_eq!(pauses, [20, 40, 80, 100]);
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        let pause = POLICY.pause(&unavailable(), 1, LONG, 0);
        assert_eq!(pause, Some(Duration::from_millis(10)));
    }

    #[test]
    fn after_the_last_retry_the_error_is_returned() {
        assert_eq!(POLICY.pause(&unavailable(), 5, LONG, 0), None);
    }

    #[test]
    fn a_pause_that_outlasts_the_call_is_not_begun() {
        let remaining = Duration::from_millis(9);
        assert_eq!(POLICY.pause(&unavailable(), 1, remaining, 0), None);
    }

    #[test]
    fn errors_that_would_repeat_are_not_retried() {
        let error = Error::NotFound { message: "no collection".into(), reason: String::new() };
        assert_eq!(POLICY.pause(&error, 1, LONG, 0), None);
    }

    #[test]
    fn the_node_says_how_long_to_stay_away() {
        let error = Error::Overloaded { message: "queue full".into(), retry_after: Some(Duration::from_millis(700)) };
        let pause = POLICY.pause(&error, 1, LONG, 0);
        assert_eq!(pause, Some(Duration::from_millis(700)));
    }

    #[test]
    fn an_empty_budget_refills_with_successes() {
        let budget = Budget::new(2);
        assert!(budget.spend() && budget.spend());
        assert!(!budget.spend());
        for _ in 0..10 {
            budget.earn();
        }
        assert!(budget.spend());
        assert!(!budget.spend());
    }
}
