//! Stats: how often each command was called, how long it took, and how it ended.
//!
//! ```text
//!   session: Tally, plain numbers of one batch of requests --take_in, once a batch--> Stats, shared, relaxed counters
//!                                                                               '--> the node's metrics, by group of commands
//! ```
//!
//! What a batch took is shared out evenly among its commands: looking at the clock for each would cost a small one more than
//! it does. INFO and LATENCY HISTOGRAM read from here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::commands;
use super::facts;
use crate::metrics::Redis;

/// Buckets of a histogram of microseconds; each ends at twice what the one before does, the first at one.
const BUCKETS: usize = 32;
/// Over how long it is counted how many commands are called in a second.
const RATE_OVER: Duration = Duration::from_millis(400);
/// The most kinds of errors that are told apart.
const ERRORS_MAX: usize = 128;

/// Of one command.
#[derive(Debug, Default)]
pub struct Stat {
    /// How often it was called.
    pub calls: AtomicU64,
    /// How long that took.
    pub micros: AtomicU64,
    /// How often it was refused before it was carried out.
    pub rejected: AtomicU64,
    /// How often it ended with an error.
    pub failed: AtomicU64,
    histogram: [AtomicU64; BUCKETS],
}

impl Stat {
    /// Where buckets end, in microseconds, and how many calls took no longer; those that add nothing are left out.
    pub fn histogram(&self) -> Vec<(u64, u64)> {
        let mut sum = 0;
        let counts = self.histogram.iter().map(|count| count.load(Ordering::Relaxed));
        let counted = counts.enumerate().filter(|(_, count)| *count > 0);
        counted
            .map(|(place, count)| {
                sum += count;
                (1 << place, sum)
            })
            .collect()
    }
}

/// Of all commands.
#[derive(Debug)]
pub struct Stats {
    /// By their numbers.
    all: Box<[Stat]>,
    errors: Mutex<BTreeMap<Box<str>, u64>>,
    error_replies: AtomicU64,
    /// When it was looked last how many calls there were, and how many.
    looked: Mutex<Option<(Instant, u64)>>,
    /// In a second, between the last two looks.
    rate: AtomicU64,
}

impl Default for Stats {
    fn default() -> Stats {
        let all = (0..commands::count()).map(|_| Stat::default()).collect();
        Stats {
            all,
            errors: Mutex::default(),
            error_replies: AtomicU64::new(0),
            looked: Mutex::default(),
            rate: AtomicU64::new(0),
        }
    }
}

/// Of a command, in one batch.
#[derive(Debug, Default, Clone, Copy)]
struct One {
    number: u16,
    calls: u32,
    failed: u32,
    rejected: u32,
}

/// What one session counted since it told last.
#[derive(Debug, Default)]
pub struct Tally {
    /// The last is the one that was called last.
    counts: Vec<One>,
    /// By their first words.
    errors: Vec<(Box<str>, u64)>,
    error_replies: u64,
    since: Option<Instant>,
}

impl Tally {
    fn one(&mut self, number: u16) -> &mut One {
        let place = match self.counts.iter().rposition(|one| one.number == number) {
            Some(place) => place,
            None => {
                self.counts.push(One { number, ..One::default() });
                self.counts.len() - 1
            }
        };
        &mut self.counts[place]
    }

    /// A request begins: when the first of its batch did.
    pub fn begin(&mut self) -> Instant {
        *self.since.get_or_insert_with(Instant::now)
    }

    /// A command was called.
    pub fn called(&mut self, number: u16) {
        self.one(number).calls += 1;
    }

    /// One was refused.
    pub fn rejected(&mut self, number: u16) {
        self.one(number).rejected += 1;
    }

    /// A reply is an error; of which command, if of one.
    pub fn failed(&mut self, number: Option<u16>, reply: &[u8]) {
        if let Some(number) = number {
            self.one(number).failed += 1;
        }
        self.error_replies += 1;
        let code = reply.get(1..).unwrap_or_default();
        let end = code.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').unwrap_or(code.len());
        let code = String::from_utf8_lossy(&code[..end.min(64)]);
        if let Some((_, count)) = self.errors.iter_mut().find(|(known, _)| **known == *code) {
            *count += 1;
        } else if self.errors.len() < ERRORS_MAX {
            self.errors.push((code.into(), 1));
        }
    }
}

impl Stats {
    /// Takes in what a session counted.
    pub fn take_in(&self, tally: &mut Tally, now: Instant, metrics: &Redis) {
        let took = tally.since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let calls: u64 = tally.counts.iter().map(|one| u64::from(one.calls)).sum();
        let each = took / u32::try_from(calls.max(1)).unwrap_or(u32::MAX);
        let micros = u64::try_from(each.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.saturating_sub(1).leading_zeros()) as usize * usize::from(micros > 1);
        for One { number, calls, failed, rejected } in tally.counts.drain(..) {
            let Some(stat) = self.all.get(usize::from(number)) else { continue };
            for (to, count) in [(&stat.failed, failed), (&stat.rejected, rejected)] {
                if count > 0 {
                    to.fetch_add(count.into(), Ordering::Relaxed);
                }
            }
            if calls > 0 {
                stat.calls.fetch_add(calls.into(), Ordering::Relaxed);
                stat.micros.fetch_add(micros * u64::from(calls), Ordering::Relaxed);
                stat.histogram[bucket.min(BUCKETS - 1)].fetch_add(calls.into(), Ordering::Relaxed);
                metrics.observe(number, calls.into(), failed.into(), each);
            }
        }
        if tally.error_replies > 0 {
            self.error_replies.fetch_add(std::mem::take(&mut tally.error_replies), Ordering::Relaxed);
            let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
            for (error, count) in tally.errors.drain(..) {
                if errors.len() < ERRORS_MAX || errors.contains_key(&error) {
                    *errors.entry(error).or_insert(0) += count;
                }
            }
        }
    }

    /// How many commands were called.
    pub fn calls(&self) -> u64 {
        self.all.iter().map(|stat| stat.calls.load(Ordering::Relaxed)).sum()
    }

    /// Looks how many there were since the last look, if that is a moment ago.
    pub fn look(&self, now: Instant) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let since = looked.map_or(RATE_OVER, |(at, _)| now.saturating_duration_since(at));
        if since < RATE_OVER {
            return;
        }
        let calls = self.calls();
        if let Some((_, before)) = looked.replace((now, calls)) {
            let rate = u128::from(calls.saturating_sub(before)) * 1_000_000 / since.as_micros().max(1);
            self.rate.store(u64::try_from(rate).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// How many are called in a second, as it was lately.
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// How many replies were errors.
    pub fn error_replies(&self) -> u64 {
        self.error_replies.load(Ordering::Relaxed)
    }

    /// Errors by their first words.
    pub fn errors(&self) -> Vec<(Box<str>, u64)> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.iter().map(|(code, count)| (code.clone(), *count)).collect()
    }

    /// Commands that were called or refused, by name.
    pub fn used(&self) -> Vec<(&'static str, &Stat)> {
        let every = commands::every().into_iter();
        let every = every.map(|command| (command.spec.name, &self.all[usize::from(command.number)]));
        let counts = |stat: &Stat| stat.calls.load(Ordering::Relaxed) + stat.rejected.load(Ordering::Relaxed);
        every.filter(|(_, stat)| counts(stat) > 0).collect()
    }

    /// Of one command.
    #[cfg(test)]
    pub fn of(&self, number: u16) -> &Stat {
        &self.all[usize::from(number)]
    }

    /// Begins anew.
    pub fn reset(&self) {
        for stat in &self.all {
            let plain = [&stat.calls, &stat.micros, &stat.rejected, &stat.failed];
            plain.into_iter().chain(&stat.histogram).for_each(|count| count.store(0, Ordering::Relaxed));
        }
        self.error_replies.store(0, Ordering::Relaxed);
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The groups of commands by their numbers, for the metrics.
pub fn groups() -> Vec<&'static str> {
    let mut groups = vec!["limits"; commands::count()];
    for command in commands::every() {
        groups[usize::from(command.number)] = facts::group(command.spec.name);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_shared_out_among_its_commands() {
        let (stats, metrics, mut tally) = (Stats::default(), Redis::default(), Tally::default());
        let number = |name: &[u8]| commands::find(name).unwrap().number;
        let since = tally.begin();
        (0..3).for_each(|_| tally.called(number(b"get")));
        tally.called(number(b"set"));
        tally.failed(Some(number(b"get")), b"-WRONGTYPE Operation against\r\n");
        tally.rejected(number(b"config"));
        stats.take_in(&mut tally, since + Duration::from_micros(400), &metrics);
        let get = stats.of(number(b"get"));
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!((load(&get.calls), load(&get.micros), load(&get.failed)), (3, 300, 1));
        assert_eq!(get.histogram(), [(128, 3)]);
        assert_eq!((stats.calls(), stats.error_replies()), (4, 1));
        assert_eq!(stats.errors(), [("WRONGTYPE".into(), 1)]);
        (0..1_000).for_each(|_| tally.failed(None, b"-WRONGTYPE Operation against\r\n"));
        stats.take_in(&mut tally, since, &metrics);
        assert_eq!((stats.error_replies(), stats.errors()), (1_001, vec![("WRONGTYPE".into(), 1_001)]));
        let used: Vec<_> = stats.used().into_iter().map(|(name, _)| name).collect();
        assert_eq!(used, ["config", "get", "set"]);
        stats.look(since);
        assert_eq!(stats.rate(), 0, "nothing to compare with");
        (0..600).for_each(|_| tally.called(number(b"get")));
        stats.take_in(&mut tally, since, &metrics);
        stats.look(since + Duration::from_millis(399));
        assert_eq!(stats.rate(), 0, "too early");
        stats.look(since + Duration::from_millis(500));
        assert_eq!(stats.rate(), 1_200);
        stats.reset();
        stats.look(since + Duration::from_secs(2));
        assert_eq!(stats.rate(), 0);
        assert_eq!((stats.calls(), stats.used().len(), stats.errors().len()), (0, 0, 0));
    }
}
