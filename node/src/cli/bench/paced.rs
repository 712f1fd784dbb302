//! Calls at a steady rate, and what came of them in each stretch of time: what a change of the cluster costs those who go on.
//!
//! ```text
//!   caller c of C makes calls c, c + C, c + 2C, ..;  call k is due at k / rate
//!   its time counts from when it was due, if the caller was late for it, and else from when it was made
//! ```
//!
//! So a second in which nothing is answered is seen by every call that was due in it, and not by one for each caller.

use std::future::Future;
use std::time::{Duration, Instant};

use loci_client::Error;
use tokio::task::JoinSet;

use super::{Driven, Measured};

/// How fast, for how long, and how it is told.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    /// All of them together.
    pub callers: u32,
    /// Calls a second, all together.
    pub rate: u32,
    /// For how long.
    pub time: Duration,
    /// The stretches.
    pub every: Duration,
}

impl Steady {
    /// When a call is due, after the beginning.
    fn due(&self, call: u64) -> Duration {
        Duration::from_nanos((u128::from(call) * 1_000_000_000 / u128::from(self.rate)) as u64)
    }

    fn stretches(&self) -> usize {
        self.time.as_nanos().div_ceil(self.every.as_nanos().max(1)) as usize
    }

    /// No call of any of so many kinds in any stretch.
    fn nothing<const N: usize>(&self) -> Vec<[Driven; N]> {
        (0..self.stretches()).map(|_| std::array::from_fn(|_| Driven::default())).collect()
    }

    fn stretch(&self, due: Duration) -> usize {
        ((due.as_nanos() / self.every.as_nanos().max(1)) as usize).min(self.stretches() - 1)
    }
}

/// Makes the calls. `call` gets the caller and its how-manieth call it is, and says of which of the named kinds it was.
pub async fn steady<F, Fut, const N: usize>(steady: Steady, kinds: [&'static str; N], call: F) -> Vec<Measured>
where
    F: Fn(u32, u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = (usize, Result<(), Error>)> + Send,
{
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..steady.callers {
        let call = call.clone();
        tasks.spawn(async move {
            let mut found = steady.nothing::<N>();
            for turn in 0.. {
                let due = steady.due(u64::from(caller) + turn * u64::from(steady.callers));
                if due >= steady.time {
                    break;
                }
                let early = due.saturating_sub(begun.elapsed());
                let from = match early.is_zero() {
                    true => begun + due,
                    false => {
                        tokio::time::sleep(early).await;
                        // The timer is not as exact as the calls are fast.
                        Instant::now()
                    }
                };
                let (kind, outcome) = call(caller, turn).await;
                let driven = &mut found[steady.stretch(due)][kind];
                match outcome {
                    Ok(()) => driven.latencies.add(from.elapsed()),
                    Err(error) => {
                        driven.errors += 1;
                        driven.first_error.get_or_insert(error);
                    }
                }
            }
            found
        });
    }
    let mut all = steady.nothing::<N>();
    while let Some(done) = tasks.join_next().await {
        let found = done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        for (sum, part) in all.iter_mut().flatten().zip(found.into_iter().flatten()) {
            sum.latencies.merge(part.latencies);
            sum.errors += part.errors;
            sum.first_error = sum.first_error.take().or(part.first_error);
        }
    }
    let stretch = |(number, found): (usize, [Driven; N])| {
        let from = steady.every * number as u32;
        kinds.into_iter().zip(found).map(move |(kind, driven)| {
            let driven = Driven { callers: steady.callers, took: steady.every.min(steady.time - from), ..driven };
            Measured::of(format!("{kind}, from {:.1} s", from.as_secs_f64()), driven)
        })
    };
    all.into_iter().enumerate().flat_map(stretch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_made_at_the_rate_and_counted_where_they_were_due() {
        let (time, every) = (Duration::from_millis(300), Duration::from_millis(100));
        let plan = Steady { callers: 2, rate: 1_000, time, every };
        assert_eq!((plan.due(50), plan.stretch(Duration::from_millis(199))), (Duration::from_millis(50), 1));
        let measured = steady(plan, ["get", "put"], move |_, turn| async move {
            if turn == 60 {
                // All that is due meanwhile waits too.
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            let outcome = if turn == 149 { Err(Error::Unavailable { message: "no".into() }) } else { Ok(()) };
            ((turn % 2) as usize, outcome)
        })
        .await;
        let names: Vec<&str> = measured.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names[..3], ["get, from 0.0 s", "put, from 0.0 s", "get, from 0.1 s"]);
        let calls: usize = measured.iter().map(|one| one.driven.latencies.count()).sum();
        assert_eq!((calls, measured[5].driven.errors), (298, 2), "at the rate, and the last put of each failed");
        let [p75] = measured[2].driven.latencies.percentiles([75.0]);
        assert!(p75 >= Duration::from_millis(5), "two fifths of them waited: {p75:?}");
    }
}
