//! Giving way: how work that takes long lets shorter work through that waits for the same processor.
//!
//! ```text
//!   a search waits:   [ merge ........ until the next tick of the system's clock, 4 ms ........ ][search]
//!   with steps:       [ merge 100 us ][search][ merge ...
//! ```
//!
//! A thread of low priority is given its share in one piece, which ends only with a tick; a search that comes meanwhile waits
//! for it. So whoever works for long says again and again that others may go first. Where nobody waits, that costs a fraction
//! of a microsecond.
//!
//! Always: this changes when something is done, never what.

/// Lets others go first that wait for this processor. To be called about every hundred microseconds.
pub fn give() {
    std::thread::yield_now();
}

/// Comparing with so many others takes about a hundred microseconds, where what is compared is large.
const DISTANCES: usize = 4_096;

/// Gives way after every so many steps of a loop. Small steps count little: each time that it gives way, a thread goes to the end
/// of the line, which takes long where many wait.
#[derive(Debug)]
pub struct Steps {
    every: u32,
    left: u32,
}

impl Steps {
    /// After every so many.
    pub fn of(every: u32) -> Steps {
        Steps { every, left: every }
    }

    /// After every few, if each compares with about so many others.
    pub fn of_distances(each: usize) -> Steps {
        Steps::of((DISTANCES / each.clamp(1, DISTANCES)) as u32)
    }

    /// Counts a step.
    #[inline]
    pub fn step(&mut self) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.left = self.every;
            give();
        }
    }
}
