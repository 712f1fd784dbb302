//! Hedged reads: a second node is asked when the first takes longer than most reads do, and the first answer counts.
//!
//! ```text
//!   first node  ----------------------------------- ... (dropped)
//!                |<-- delay -->|
//!   second node                ---------> answer
//! ```
//!
//! Only reads at `stale` are hedged: any node can answer them, and asking twice changes nothing. Every second question is
//! taken out of the budget that retries come out of, so hedging never becomes the load.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use loci_wire::v1::pipeline_request::Call;

/// When a second node is asked for a read at [`Consistency::Stale`](crate::Consistency::Stale).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hedge {
    /// Never.
    #[default]
    Off,
    /// After this long without an answer.
    After(Duration),
    /// After as long as 95 of the last 100 reads of its kind took at the most; not before there were enough to tell.
    Recent,
}

/// So many reads are remembered of each kind, and so many are needed to tell.
const REMEMBERED: usize = 128;
const ENOUGH: u64 = 32;
/// No read is hedged sooner: below this, waking up costs more than it saves.
const DELAY_MIN: Duration = Duration::from_micros(500);

/// How long the last reads took.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    kinds: [Mutex<Kind>; 4],
}

#[derive(Debug)]
struct Kind {
    micros: [u32; REMEMBERED],
    count: u64,
    p95: u32,
}

impl Default for Kind {
    fn default() -> Kind {
        Kind { micros: [0; REMEMBERED], count: 0, p95: 0 }
    }
}

impl Kind {
    fn add(&mut self, micros: u32) {
        self.micros[(self.count % REMEMBERED as u64) as usize] = micros;
        self.count += 1;
        // Not with every one of them: it changes slowly.
        if self.count.is_multiple_of(ENOUGH) {
            let known = &self.micros[..REMEMBERED.min(self.count as usize)];
            let mut sorted = [u32::MAX; REMEMBERED];
            sorted[..known.len()].copy_from_slice(known);
            sorted.sort_unstable();
            self.p95 = sorted[known.len() * 95 / 100];
        }
    }
}

/// Which reads are alike.
fn kind(call: &Call) -> Option<usize> {
    match call {
        Call::Get(_) => Some(0),
        Call::Count(_) => Some(1),
        Call::Scan(_) => Some(2),
        Call::Search(_) => Some(3),
        Call::Put(_) | Call::Delete(_) | Call::Batch(_) | Call::Execute(_) => None,
    }
}

impl Recent {
    /// Takes in how long one took.
    pub fn add(&self, call: &Call, took: Duration) {
        if let Some(kind) = kind(call) {
            let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
            self.kinds[kind].lock().unwrap_or_else(PoisonError::into_inner).add(micros);
        }
    }

    /// When a second node is to be asked, if one is.
    pub fn delay(&self, hedge: Hedge, call: &Call) -> Option<Duration> {
        match hedge {
            Hedge::Off => None,
            Hedge::After(delay) => kind(call).map(|_| delay),
            Hedge::Recent => {
                let kind = self.kinds[kind(call)?].lock().unwrap_or_else(PoisonError::into_inner);
                let known = kind.count >= ENOUGH;
                known.then(|| Duration::from_micros(kind.p95.into()).max(DELAY_MIN))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_what_nineteen_of_twenty_take_at_the_most() {
        let recent = Recent::default();
        let get = Call::Get(Box::default());
        for number in 0..100_u64 {
            assert_eq!(recent.delay(Hedge::Recent, &get).is_some(), number >= ENOUGH, "{number}");
            recent.add(&get, Duration::from_millis(1 + number % 20));
        }
        let delay = recent.delay(Hedge::Recent, &get).unwrap();
        assert!((Duration::from_millis(19)..=Duration::from_millis(20)).contains(&delay), "{delay:?}");
        // What was slow long ago is forgotten.
        (0..2 * REMEMBERED).for_each(|_| recent.add(&get, Duration::from_millis(2)));
        assert_eq!(recent.delay(Hedge::Recent, &get), Some(Duration::from_millis(2)));
        let search = Call::Search(Box::default());
        assert_eq!(recent.delay(Hedge::Recent, &search), None, "of searches nothing is known");
    }

    #[test]
    fn writes_are_not_hedged() {
        let put = Call::Put(Box::default());
        assert_eq!(Recent::default().delay(Hedge::After(Duration::ZERO), &put), None);
    }
}
