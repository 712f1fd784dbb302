//! The clock: the one place where this program asks what time it is.
//!
//! What an entry's clock says decides which records have expired, on every member alike, so a clock that steps back must
//! not bring an expired record to life again: this one never goes back while the process runs, and whoever makes an
//! entry takes the later of it and the last applied clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 that never go back.
#[derive(Debug, Default)]
pub struct Clock {
    latest: AtomicU64,
}

impl Clock {
    /// A clock that follows the system's.
    pub fn new() -> Clock {
        Clock::default()
    }

    /// Now, never before what an earlier call said.
    pub fn now_millis(&self) -> u64 {
        self.at_least(system_millis())
    }

    fn at_least(&self, now: u64) -> u64 {
        self.latest.fetch_max(now, Ordering::Relaxed).max(now)
    }
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
}
