//! Limiters: how much was taken lately, for those who may take only so much.
//!
//! ```text
//!   bucket:  used(t) = what was used when it was written, less what was refilled since; full again when it is zero
//!   window:  [ (when, how much) .. ]   what is older than the window does not count
//! ```
//!
//! A limiter holds what was used, not what is allowed: the latter comes with every call. All is whole numbers and the log's
//! clock, so that every member decides alike.
//!
//! A window is exact as long as it holds few moments. Beyond [`EXACT`] of them, what comes is put to the end of the slot it
//! falls into, 1/[`SLOTS`] of the window long: it then counts for that much longer, never shorter.

use xxhash_rust::xxh3::xxh3_64;

use super::{Kind, variant};
use crate::table::allocated;

/// A token in the smallest units of a bucket.
pub const TOKEN: u128 = 1_000_000;
const EXACT: usize = 128;
const SLOTS: u64 = 128;
const MOMENT_BYTES: usize = 16;

/// How much was taken lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limiter(Inner);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Inner {
    Bucket { used: u128, at: u64 },
    Window { moments: Vec<Moment> },
}

/// So much was taken then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    at: u64,
    cost: u64,
}

/// What a limiter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be taken.
    pub allowed: bool,
    /// How much is left.
    pub remaining: u64,
    /// In how many milliseconds it may be taken; none: never, it is more than there ever is.
    pub retry_after: Option<u64>,
    /// In how many milliseconds everything is there again.
    pub reset_after: u64,
}

/// The rule of a bucket: it holds so many tokens, and so much flows in each millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketRule {
    /// How many tokens it holds.
    pub capacity: u64,
    /// How many [`TOKEN`]ths of a token flow in each millisecond; not zero.
    pub refill: u64,
}

impl BucketRule {
    /// What a bucket says, and what it holds then.
    pub fn ask(&self, bucket: Option<(u128, u64)>, cost: u64, now: u64) -> (Verdict, u128) {
        let refill = u128::from(self.refill);
        let before = bucket
            .map_or(0, |(used, at)| used.saturating_sub(refill.saturating_mul(u128::from(now.saturating_sub(at)))));
        let (capacity, cost) = (u128::from(self.capacity) * TOKEN, u128::from(cost) * TOKEN);
        let allowed = before + cost <= capacity;
        let used = if allowed { before + cost } else { before };
        let millis = |units: u128| u64::try_from(units.div_ceil(refill)).unwrap_or(u64::MAX);
        let retry_after = match () {
            () if allowed => Some(0),
            () if cost > capacity => None,
            () => Some(millis(before + cost - capacity)),
        };
        let remaining = (capacity.saturating_sub(used) / TOKEN) as u64;
        (Verdict { allowed, remaining, retry_after, reset_after: millis(used) }, used)
    }
}

/// The rule of a window: so much in so many milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRule {
    /// How much.
    pub limit: u64,
    /// Of how many milliseconds; not zero.
    pub millis: u64,
}

impl Limiter {
    /// A bucket of which so much was used then.
    pub fn bucket(used: u128, at: u64) -> Limiter {
        Limiter(Inner::Bucket { used, at })
    }

    /// An empty window.
    pub fn window() -> Limiter {
        Limiter(Inner::Window { moments: Vec::new() })
    }

    /// What was used of a bucket, and when that was so. None if it is no bucket.
    pub fn as_bucket(&self) -> Option<(u128, u64)> {
        match self.0 {
            Inner::Bucket { used, at } => Some((used, at)),
            Inner::Window { .. } => None,
        }
    }

    /// Whether it is a window.
    pub fn is_window(&self) -> bool {
        matches!(self.0, Inner::Window { .. })
    }

    /// What a window says, without anything being taken. A bucket says what an empty window says.
    pub fn ask(&self, rule: WindowRule, cost: u64, now: u64) -> Verdict {
        let moments: &[Moment] = match &self.0 {
            Inner::Window { moments } => moments,
            Inner::Bucket { .. } => &[],
        };
        let counts = |moment: &&Moment| moment.at.saturating_add(rule.millis) > now;
        let used: u64 = moments.iter().filter(counts).fold(0, |used, moment| used.saturating_add(moment.cost));
        let allowed = used.checked_add(cost).is_some_and(|used| used <= rule.limit);
        let until = |moment: &Moment| moment.at.saturating_add(rule.millis).saturating_sub(now);
        let mut reset_after = moments.iter().rev().find(counts).map_or(0, until);
        let mut retry_after = Some(0);
        let mut left = used;
        if allowed {
            left = used + cost;
            if cost > 0 {
                reset_after = reset_after.max(rule.millis);
            }
        } else {
            // It may be taken once enough of what was taken has left the window.
            let mut more = used;
            retry_after = moments.iter().filter(counts).find_map(|moment| {
                more -= moment.cost.min(more);
                more.checked_add(cost).filter(|sum| *sum <= rule.limit).map(|_| until(moment))
            });
        }
        Verdict { allowed, remaining: rule.limit.saturating_sub(left), retry_after, reset_after }
    }

    /// Takes so much from a window, and says when everything has left it.
    pub fn take(&mut self, rule: WindowRule, cost: u64, now: u64) -> u64 {
        let Inner::Window { moments } = &mut self.0 else { return now };
        let gone = moments.partition_point(|moment| moment.at.saturating_add(rule.millis) <= now);
        moments.drain(..gone);
        let slot = (rule.millis / SLOTS).max(1);
        let at = if moments.len() < EXACT { now } else { now.div_ceil(slot).saturating_mul(slot) };
        let last = match moments.last_mut() {
            Some(last) if last.at >= at => {
                last.cost = last.cost.saturating_add(cost);
                last.at
            }
            _ => {
                moments.push(Moment { at, cost });
                at
            }
        };
        last.saturating_add(rule.millis)
    }
}

impl Kind for Limiter {
    const NAME: &'static str = "limiter";
    const TAG: u8 = 21;

    variant!(Limiter);

    fn encoding(&self) -> &'static str {
        match self.0 {
            Inner::Bucket { .. } => "bucket",
            Inner::Window { .. } => "window",
        }
    }

    fn heap_bytes(&self) -> usize {
        match &self.0 {
            Inner::Bucket { .. } => 0,
            Inner::Window { moments } => allocated(moments.capacity() * size_of::<Moment>()),
        }
    }

    fn is_empty(&self) -> bool {
        match &self.0 {
            Inner::Bucket { used, .. } => *used == 0,
            Inner::Window { moments } => moments.is_empty(),
        }
    }

    /// There are few moments, so that their hash is made anew.
    fn sum(&self) -> u64 {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        xxh3_64(&bytes)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Inner::Bucket { used, at } => {
                out.push(1);
                out.extend_from_slice(&used.to_le_bytes());
                out.extend_from_slice(&at.to_le_bytes());
            }
            Inner::Window { moments } => {
                out.push(2);
                for moment in moments {
                    out.extend_from_slice(&moment.at.to_le_bytes());
                    out.extend_from_slice(&moment.cost.to_le_bytes());
                }
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Limiter> {
        let (kind, rest) = bytes.split_first()?;
        let number = |bytes: &[u8]| bytes.first_chunk().copied().map(u64::from_le_bytes);
        match kind {
            1 => {
                let (used, rest) = rest.split_first_chunk()?;
                let at = <[u8; 8]>::try_from(rest).ok()?;
                Some(Limiter::bucket(u128::from_le_bytes(*used), u64::from_le_bytes(at)))
            }
            2 if rest.len().is_multiple_of(MOMENT_BYTES) => {
                let mut moments = Vec::<Moment>::new();
                for bytes in rest.chunks_exact(MOMENT_BYTES) {
                    let moment = Moment { at: number(bytes)?, cost: number(&bytes[8..])? };
                    if moments.last().is_some_and(|last| last.at >= moment.at) {
                        return None;
                    }
                    moments.push(moment);
                }
                Some(Limiter(Inner::Window { moments }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;

    #[test]
    fn a_bucket_lets_through_what_flows_in_and_what_it_held() {
        for seed in 0..500 {
            let mut chance = Chance::new(seed);
            let rule = BucketRule { capacity: 1 + chance.below(20) as u64, refill: 1 + chance.below(5_000) as u64 };
            let (mut now, mut bucket, mut taken) = (1_000u64, None, 0u128);
            for step in 0..300 {
                let what = format!("seed {seed} step {step}");
                now += chance.below(300) as u64;
                let cost = chance.below(4) as u64;
                let (verdict, used) = rule.ask(bucket, cost, now);
                let flown = u128::from(now - 1_000) * u128::from(rule.refill);
                if verdict.allowed {
                    taken += u128::from(cost) * TOKEN;
                    bucket = Some((used, now));
                }
                assert!(taken <= u128::from(rule.capacity) * TOKEN + flown, "{what}");
                assert!(verdict.remaining <= rule.capacity, "{what}");
                match verdict.retry_after {
                    Some(0) => assert!(verdict.allowed, "{what}"),
                    None => assert!(cost > rule.capacity, "{what}"),
                    Some(after) => {
                        assert!(rule.ask(bucket, cost, now + after).0.allowed, "{what}");
                        assert!(!rule.ask(bucket, cost, now + after - 1).0.allowed, "{what}");
                    }
                }
                assert_eq!(rule.ask(bucket, 0, now + verdict.reset_after).1, 0, "{what}");
            }
        }
    }

    #[test]
    fn a_window_never_lets_through_more_than_its_limit_and_is_exact_while_it_is_small() {
        for seed in 0..500 {
            let mut chance = Chance::new(seed);
            let small = seed % 2 == 0;
            let limit = if small { 1 + chance.below(60) as u64 } else { 1_000 };
            let rule = WindowRule { limit, millis: 1 + chance.below(5_000) as u64 };
            let (mut now, mut window, mut model) = (1_000u64, Limiter::window(), Vec::<(u64, u64)>::new());
            for step in 0..600 {
                let what = format!("seed {seed} step {step}");
                now += chance.below(if small { 100 } else { 8 }) as u64;
                let cost = chance.below(4) as u64;
                let verdict = window.ask(rule, cost, now);
                let used: u64 = model.iter().filter(|(at, _)| at + rule.millis > now).map(|(_, cost)| cost).sum();
                if small {
                    assert_eq!(verdict.allowed, used + cost <= rule.limit, "{what}");
                    assert_eq!(verdict.remaining, rule.limit - used - if verdict.allowed { cost } else { 0 }, "{what}");
                }
                if verdict.allowed && cost > 0 {
                    assert!(used + cost <= rule.limit, "{what}");
                    let end = window.take(rule, cost, now);
                    assert!(end >= now + verdict.reset_after, "{what}");
                    model.push((now, cost));
                }
                if let Some(after @ 1..) = verdict.retry_after {
                    assert!(window.ask(rule, cost, now + after).allowed, "{what}");
                    assert!(!window.ask(rule, cost, now + after - 1).allowed, "{what}");
                }
                let Inner::Window { moments } = &window.0 else { unreachable!("it is a window") };
                assert!(moments.len() <= EXACT + SLOTS as usize * 2 + 2, "{what}: {}", moments.len());
                let mut bytes = Vec::new();
                window.encode(&mut bytes);
                assert_eq!(Limiter::decode(&bytes).as_ref(), Some(&window), "{what}");
            }
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let mut window = Limiter::window();
        for at in 0..3 {
            window.take(WindowRule { limit: 9, millis: 99 }, 1, at);
        }
        for limiter in [Limiter::bucket(5, 6), window] {
            let mut bytes = Vec::new();
            limiter.encode(&mut bytes);
            (0..bytes.len()).for_each(|len| assert_ne!(Limiter::decode(&bytes[..len]).as_ref(), Some(&limiter)));
        }
        assert_eq!(Limiter::decode(&[3]), None);
    }
}
