//! Whether a node is asked: a circuit breaker, as a plain function of what happened and when.
//!
//! ```text
//!   closed ----nobody there, or SLOW_MAX calls in a row without an answer----> open, for a while
//!     ^                                                                         | the while is over
//!     |------------------------- it answers -------------------------- half-open: one probe
//!                                                                               | no answer
//!                                                                               '--> open, for twice as long
//! ```
//!
//! Calls go to nodes whose breaker is closed; probes are made in the background, so no call has to find out. Only with nobody
//! left do calls go to the others too, and one that is answered closes the breaker as a probe would.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

/// How long a node is left out for the first time, and at the most.
pub(crate) const OPEN_FIRST: Duration = Duration::from_millis(100);
pub(crate) const OPEN_MAX: Duration = Duration::from_secs(5);
/// So many calls in a row without an answer in their time are as bad as nobody there. One slow call is not the node's fault.
const SLOW_MAX: u32 = 5;

/// What the end of a call says about the node that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It works, whatever it thinks of the call.
    Answered,
    /// Nobody answers there, or somebody who says that no call will be answered.
    Nobody,
    /// No answer in the time that the call had.
    Slow,
}

impl Verdict {
    /// What a call's status says.
    pub fn of(status: &Status) -> Verdict {
        let code = status.code();
        if status.details().is_empty() {
            if matches!(code, Code::Cancelled | Code::DeadlineExceeded) && status.message().contains("Timeout expired")
            {
                return Verdict::Slow;
            }
            // A node says why; a connection that breaks, or is never made, does not.
            let broken = matches!(code, Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled);
            if broken && std::error::Error::source(status).is_some() {
                return Verdict::Nobody;
            }
        }
        if code != Code::Unavailable {
            return Verdict::Answered;
        }
        let detail = loci_wire::decode_detail(status.details()).unwrap_or_default();
        // Of the others, such as "not_leader", the cluster is the reason and not the node; or it is one shard of the node, as
        // with "shard_damaged": whoever tries again asks another, and the node is asked for what it has. With "damaged" it has
        // no catalog, and without that nothing.
        match detail.reason.as_str() {
            "starting" | "stopping" | "removed" | "damaged" => Verdict::Nobody,
            _ => Verdict::Answered,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen,
}

/// Of one node.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Calls in a row that got no answer in their time.
    slow: u32,
    /// Times in a row that it opened.
    opened: u32,
}

impl Breaker {
    pub const fn new() -> Breaker {
        Breaker { state: State::Closed, slow: 0, opened: 0 }
    }

    /// Of a node that others named, and that may not be reached from here: no call goes there before a probe was answered.
    pub const fn unproven() -> Breaker {
        Breaker { state: State::HalfOpen, slow: 0, opened: 0 }
    }

    /// Whether calls go to the node.
    pub fn lets_in(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether there is nothing against it.
    pub fn is_calm(&self) -> bool {
        self.state == State::Closed && self.slow == 0
    }

    /// When it is to be probed, if it is.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed | State::HalfOpen => None,
        }
    }

    /// Whether the caller is to make the one probe.
    pub fn probe(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|until| until <= now);
        if is_due {
            self.state = State::HalfOpen;
        }
        is_due
    }

    /// Takes in how a call or probe ended. `random` is any number, for the jitter.
    pub fn ended(&mut self, verdict: Verdict, now: Instant, random: u32) {
        match (verdict, self.state) {
            (Verdict::Answered, _) => *self = Breaker::new(),
            // Calls that were under way when it opened say nothing new.
            (_, State::Open { .. }) => {}
            (Verdict::Slow, State::Closed) if self.slow + 1 < SLOW_MAX => self.slow += 1,
            (Verdict::Nobody | Verdict::Slow, State::Closed | State::HalfOpen) => {
                let doubled = OPEN_FIRST.saturating_mul(1 << self.opened.min(16)).min(OPEN_MAX);
                // Between half of it and all of it, so that many clients do not come back together.
                let share = 0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0;
                self.state = State::Open { until: now + doubled.mul_f64(share) };
                self.opened += 1;
                self.slow = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An open breaker's way from `now` to its next probe, which nobody answers.
    fn fails_again(breaker: &mut Breaker, now: &mut Instant) -> Duration {
        let until = breaker.due().expect("it is open");
        let waited = until - *now;
        assert!(!breaker.probe(until - Duration::from_nanos(1)), "too early");
        assert!(breaker.probe(until) && !breaker.probe(until), "one probe");
        assert!(!breaker.lets_in());
        *now = until;
        breaker.ended(Verdict::Nobody, *now, u32::MAX);
        waited
    }

    #[test]
    fn it_opens_for_longer_each_time_up_to_the_most_and_closes_with_an_answer() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new();
        assert!(breaker.lets_in());
        breaker.ended(Verdict::Nobody, now, u32::MAX);
        assert!(!breaker.lets_in());
        let waits: Vec<u128> = (0..8).map(|_| fails_again(&mut breaker, &mut now).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        breaker.ended(Verdict::Answered, now, 0);
        assert!(breaker.lets_in() && breaker.is_calm() && breaker.due().is_none());
        breaker.ended(Verdict::Nobody, now, u32::MAX);
        assert_eq!(breaker.due(), Some(now + OPEN_FIRST), "it begins anew");
    }

    #[test]
    fn an_unproven_node_gets_no_call_before_it_has_answered() {
        let now = Instant::now();
        let mut breaker = Breaker::unproven();
        assert!(!breaker.lets_in() && !breaker.is_calm() && breaker.due().is_none(), "its probe is under way");
        breaker.ended(Verdict::Nobody, now, u32::MAX);
        assert_eq!(breaker.due(), Some(now + OPEN_FIRST));
        let mut breaker = Breaker::unproven();
        breaker.ended(Verdict::Answered, now, 0);
        assert!(breaker.lets_in());
    }

    #[test]
    fn jitter_takes_away_at_most_half() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        breaker.ended(Verdict::Nobody, now, 0);
        assert_eq!(breaker.due(), Some(now + OPEN_FIRST / 2));
    }

    #[test]
    fn many_slow_calls_in_a_row_open_it_and_an_answer_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..3 {
            for _ in 1..SLOW_MAX {
                breaker.ended(Verdict::Slow, now, 0);
            }
            assert!(breaker.lets_in() && !breaker.is_calm());
            breaker.ended(Verdict::Answered, now, 0);
        }
        for _ in 0..SLOW_MAX {
            breaker.ended(Verdict::Slow, now, 0);
        }
        assert!(!breaker.lets_in());
    }

    #[test]
    fn calls_that_break_together_open_it_once() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..50 {
            breaker.ended(Verdict::Nobody, now, u32::MAX);
        }
        assert_eq!(breaker.due(), Some(now + OPEN_FIRST));
    }

    #[test]
    fn what_a_node_says_of_itself_and_what_it_says_of_the_cluster_are_told_apart() {
        let said = |code: Code, reason: &str| {
            let detail = loci_wire::v1::ErrorDetail { reason: reason.into(), ..Default::default() };
            let details = loci_wire::encode_detail(code as i32, "because", &detail);
            Verdict::of(&Status::with_details(code, "because", details.into()))
        };
        assert_eq!(said(Code::Unavailable, "stopping"), Verdict::Nobody);
        assert_eq!(said(Code::Unavailable, "not_leader"), Verdict::Answered);
        assert_eq!(said(Code::Unavailable, "damaged"), Verdict::Nobody);
        assert_eq!(said(Code::Unavailable, "shard_damaged"), Verdict::Answered);
        assert_eq!(said(Code::NotFound, "unknown_collection"), Verdict::Answered);
        assert_eq!(said(Code::DeadlineExceeded, "deadline_exceeded"), Verdict::Answered);
        assert_eq!(Verdict::of(&Status::cancelled("Timeout expired")), Verdict::Slow);
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(Verdict::of(&Status::from_error(Box::new(refused))), Verdict::Nobody);
    }
}
