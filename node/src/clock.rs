//! The clock: the one place where this program asks what time it is.
//!
//! What an entry's clock says decides which records have expired, on every member alike, so a clock that steps back must
//! not bring an expired record to life again: this one never goes back while the process runs, and whoever makes an
//! entry takes the later of it and the last applied clock.
//!
//! There are two times. The one of the day, which can jump, is for records; the one that only measures, which cannot, is
//! for timeouts and leases. A simulation sets both by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 that never go back, and time that only measures.
#[derive(Debug)]
pub struct Clock {
    begun: Instant,
    /// Since the machine was started.
    begun_boot: Duration,
    by_hand: Option<ByHand>,
    latest: AtomicU64,
}

#[derive(Debug)]
struct ByHand {
    since_begun_nanos: AtomicU64,
    millis: AtomicU64,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    /// A clock that follows the system's.
    pub fn new() -> Clock {
        Clock { begun: Instant::now(), begun_boot: boot_time(), by_hand: None, latest: AtomicU64::new(0) }
    }

    /// A clock that stands still until it is [set](Clock::set). Its time of day begins at `millis`.
    pub fn by_hand(millis: u64) -> Clock {
        let by_hand = ByHand { since_begun_nanos: AtomicU64::new(0), millis: AtomicU64::new(millis) };
        Clock { by_hand: Some(by_hand), ..Clock::new() }
    }

    /// Sets a clock made [by hand](Clock::by_hand): how long it has run, and the time of day. Others ignore it.
    pub fn set(&self, since_begun: Duration, millis: u64) {
        if let Some(by_hand) = &self.by_hand {
            by_hand.since_begun_nanos.fetch_max(since_begun.as_nanos() as u64, Ordering::Relaxed);
            by_hand.millis.store(millis, Ordering::Relaxed);
        }
    }

    /// Now, never before what an earlier call said.
    pub fn now_millis(&self) -> u64 {
        self.at_least(
            self.by_hand.as_ref().map_or_else(system_millis, |by_hand| by_hand.millis.load(Ordering::Relaxed)),
        )
    }

    /// Now, for measuring.
    pub fn instant(&self) -> Instant {
        match &self.by_hand {
            None => self.begun + boot_time().saturating_sub(self.begun_boot),
            Some(by_hand) => self.begun + Duration::from_nanos(by_hand.since_begun_nanos.load(Ordering::Relaxed)),
        }
    }

    /// How long after this clock began an instant is, in microseconds; for keeping instants in atomics.
    pub fn micros_of(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.begun).as_micros() as u64
    }

    fn at_least(&self, now: u64) -> u64 {
        self.latest.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// Time that also passes while the machine sleeps, which a lease must not sleep through.
#[cfg(target_os = "linux")]
fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Time that only measures; elsewhere the standard library's is the best there is.
#[cfg(not(target_os = "linux"))]
fn boot_time() -> Duration {
    static BEGUN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    BEGUN.elapsed()
}

fn system_millis() -> u64 {
    // A system clock before 1970 is as good as none: then time stands still.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_follow_the_system_back() {
        let clock = Clock::new();
        let now = clock.now_millis();
        assert!(now > 1_600_000_000_000);
        assert_eq!(clock.at_least(now + 5_000), now + 5_000);
        assert!(clock.now_millis() >= now + 5_000);
        assert_eq!(clock.at_least(3), now + 5_000);
    }

    #[test]
    fn a_clock_set_by_hand_stands_still_between() {
        let clock = Clock::by_hand(1_000);
        let begun = clock.instant();
        assert_eq!((clock.now_millis(), clock.instant()), (1_000, begun));
        clock.set(Duration::from_millis(7), 900);
        assert_eq!(clock.instant() - begun, Duration::from_millis(7));
        assert_eq!(clock.micros_of(clock.instant()), 7_000);
        assert_eq!(clock.now_millis(), 1_000, "the time of day does not go back");
        clock.set(Duration::from_millis(3), 2_000);
        assert_eq!(clock.instant() - begun, Duration::from_millis(7), "nor does the other");
        assert_eq!(clock.now_millis(), 2_000);
    }
}
