//! When to try again: a plain function of what happened, and a budget that keeps retries from becoming the load.
//!
//! Every write carries a request id that all its attempts share, so trying again is safe for writes as for reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

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

/// How many retries and hedges all calls of a client together may make: a share of the calls of about the last ten seconds,
/// and a few besides.
///
/// A bucket that calls and time fill, and that loses what nobody takes with a time constant of [`WINDOW`]: so it never holds
/// much more than the last ten seconds have earned.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Earned by each call.
    share: f64,
    /// Earned in each second.
    floor: f64,
    /// Calls since the bucket was last looked into.
    calls: AtomicU64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

const WINDOW: f64 = 10.0;

impl Budget {
    /// As full as ten seconds without a call make it.
    pub fn new(share: f64, floor: f64, now: Instant) -> Budget {
        let bucket = Bucket { tokens: floor * WINDOW, at: now };
        Budget { share, floor, calls: AtomicU64::new(0), bucket: Mutex::new(bucket) }
    }

    /// A call begins.
    pub fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one, if there is one.
    pub fn spend(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = self.calls.swap(0, Ordering::Relaxed) as f64 * self.share;
        let seconds = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.at = bucket.at.max(now);
        let left = (-seconds / WINDOW).exp();
        // Of what came evenly over so many seconds, so much is left at their end.
        let kept = if seconds > 0.0 { WINDOW * (1.0 - left) / seconds } else { 1.0 };
        bucket.tokens = bucket.tokens * left + (earned + self.floor * seconds) * kept;
        let has = bucket.tokens >= 1.0;
        if has {
            bucket.tokens -= 1.0;
        }
        has
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

    /// How many can be spent at once.
    fn spend_all(budget: &Budget, now: Instant) -> u32 {
        (0..).take_while(|_| budget.spend(now)).count() as u32
    }

    #[test]
    fn in_the_long_run_retries_are_a_share_of_the_calls_and_a_few_a_second() {
        let mut now = Instant::now();
        let budget = Budget::new(0.1, 2.0, now);
        spend_all(&budget, now);
        let mut spent = 0;
        for _ in 0..1_000 {
            (0..10).for_each(|_| budget.call());
            now += Duration::from_millis(100);
            spent += spend_all(&budget, now);
        }
        // 10,000 calls in 100 seconds.
        assert!((1_180..=1_200).contains(&spent), "{spent}");
    }

    #[test]
    fn what_was_not_spent_is_kept_for_about_ten_seconds() {
        let now = Instant::now();
        let budget = Budget::new(0.1, 1.0, now);
        assert_eq!(spend_all(&budget, now), 10, "a new client has what ten seconds give");
        (0..1_000_000).for_each(|_| budget.call());
        let later = now + Duration::from_secs(100);
        let spent = spend_all(&budget, later);
        // 100,000 were earned evenly over a hundred seconds; the last ten of them count.
        assert!((9_900..=10_100).contains(&spent), "{spent}");
        let calm = later + Duration::from_secs(1_000);
        assert!((9..=10).contains(&spend_all(&budget, calm)), "only the floor is left");
    }

    #[test]
    fn with_nothing_to_spend_nothing_is_spent() {
        let now = Instant::now();
        let budget = Budget::new(0.0, 0.0, now);
        (0..100).for_each(|_| budget.call());
        assert!(!budget.spend(now + Duration::from_secs(60)));
    }
}
