//! Whether a history of calls that ran side by side could have come from one copy that does one call at a time.
//!
//! ```text
//!   history --> parts that have no key in common --> search for an order of each --> report
//!                          |                                 |
//!                        model: what calls mean          explanation of what fits in no order
//! ```
//!
//! The search is Wing's and Gong's with Lowe's two improvements (Testing for linearizability, 2017): calls are put in
//! order just in time, when one of them returns, and a pair of (calls in order, state) is visited once. Parts are
//! checked apart, as Herlihy and Wing proved that one may.
//!
//! Always: a history that is [`Verdict::Linearizable`] has an order that was found; one that is [`Verdict::Violation`]
//! has none, and all were tried; when the work runs out, the answer is [`Verdict::Undecided`], which is neither.

use std::fmt;
use std::hash::Hash;

mod explain;
pub mod history;
pub mod records;
mod search;
pub mod values;
#[cfg(test)]
mod tests;

pub use explain::Explanation;
pub use history::{Call, CallId, End, History, Recorder};

/// How many states the search of one part visits at most, unless said otherwise. Optimized, that is about a second,
/// more where calls join many keys, and some tens of megabytes.
pub const STATES_MAX: u64 = 500_000;

/// What calls mean: how they change a state, and what they may say when they find one.
///
/// Only [`Model::parts`], [`Model::start`] and [`Model::apply`] are needed. The others are promises that spare work;
/// what they promise must hold, or the verdict is worthless.
pub trait Model: Sized {
    /// What clients ask for.
    type Action: fmt::Display;
    /// What they are told.
    type Outcome: fmt::Display;
    /// A call and what it was told, or that this is not known, ready to be applied.
    type Step: Eq + Hash;
    /// All that decides what later calls may be told.
    type State: Clone + Eq + Hash;

    /// Cuts a history into parts that have nothing to do with each other. Calls that failed, and reads whose answer is
    /// not known, belong to no part.
    fn parts(history: &History<Self::Action, Self::Outcome>) -> Vec<Part<Self>>;

    /// The state before the first call.
    fn start(&self) -> Self::State;

    /// The state after the call if it takes effect in this one; `None` if it could not have been told what it was told,
    /// or, if nobody knows what it was told, it changes nothing.
    fn apply(&self, state: &Self::State, step: &Self::Step) -> Option<Self::State>;

    /// Whether a call with a known answer changes nothing wherever it fits: it only looks.
    fn observes(&self, step: &Self::Step) -> bool {
        let _ = step;
        false
    }

    /// Whether, of two calls with known answers, the first comes first in every order.
    fn precedes(&self, first: &Self::Step, second: &Self::Step) -> bool {
        let _ = (first, second);
        false
    }

    /// Whether a call with an unknown answer may have to take effect before `step`: because `step` could not be told
    /// what it was told otherwise, or because it makes a difference later that it would not make if it came after.
    fn enables(&self, unknown: &Self::Step, step: &Self::Step) -> bool {
        let _ = (unknown, step);
        true
    }

    /// Whether a call with an unknown answer may have an effect in this state, or after others with unknown answers.
    fn may_follow(&self, state: &Self::State, unknown: &Self::Step) -> bool {
        let _ = (state, unknown);
        true
    }

    /// Whether, of two calls with unknown answers that mean different things, `one` has the effect of `other` wherever
    /// `other` has one. No two may replace each other.
    fn replaces(&self, one: &Self::Step, other: &Self::Step) -> bool {
        let _ = (one, other);
        false
    }

    /// A state in words, for an explanation.
    fn describe(&self, state: &Self::State) -> String;
}

/// A part of a history, checked on its own.
#[derive(Debug)]
pub struct Part<M: Model> {
    /// What its calls mean.
    pub model: M,
    /// Its calls, by their invocation.
    pub steps: Vec<Span<M::Step>>,
}

/// A step and when it may take effect: events count up through the whole history, those of calls are even.
#[derive(Debug)]
pub struct Span<S> {
    /// Which call it is.
    pub call: CallId,
    /// After this event.
    pub from: u64,
    /// Before this event; `None`: at any time later, or never.
    pub until: Option<u64>,
    /// What it does.
    pub step: S,
}

impl<S> Span<S> {
    /// The span of a call; a call without an answer may take effect for ever.
    pub fn of<A, O>(id: CallId, call: &Call<A, O>, step: S) -> Span<S> {
        let (from, until) = call.events;
        Span { call: id, from: from * 2, until: call.outcome().map(|_| until * 2), step }
    }
}

impl<M: Model> Part<M> {
    /// The whole history as one part: all calls that did not fail.
    pub fn whole(
        model: M,
        history: &History<M::Action, M::Outcome>,
        step: impl Fn(&M::Action, Option<&M::Outcome>) -> M::Step,
    ) -> Part<M> {
        let calls = history.calls().iter().enumerate().filter(|(_, call)| !matches!(call.end, End::Failed));
        let span = |(id, call): (usize, &Call<_, _>)| Span::of(CallId(id), call, step(&call.action, call.outcome()));
        Part { model, steps: calls.map(span).collect() }
    }
}

/// What a check came to.
#[derive(Debug, Clone)]
#[must_use = "a verdict that nobody reads proves nothing"]
pub struct Report {
    /// The answer.
    pub verdict: Verdict,
    /// Parts that were checked.
    pub parts: usize,
    /// Calls that had to be put in order.
    pub calls: usize,
    /// States that were visited, in all parts.
    pub states: u64,
}

/// Whether a history is linearizable.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// There is an order of all calls that explains every answer.
    Linearizable,
    /// There is none.
    Violation(Box<Explanation>),
    /// The work ran out before an order was found or all were tried.
    Undecided {
        /// A call of a part that was not decided.
        call: CallId,
        /// Calls in that part.
        calls: usize,
    },
}

impl Verdict {
    /// Whether an order was found.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Verdict::Linearizable)
    }

    /// Whether it is sure that there is none.
    pub fn is_violation(&self) -> bool {
        matches!(self, Verdict::Violation(_))
    }
}

impl Report {
    /// Panics with the explanation unless the history is linearizable; undecided is not.
    pub fn expect_linearizable(&self, what: &str) {
        match &self.verdict {
            Verdict::Linearizable => {}
            Verdict::Violation(explanation) => panic!("{what} is not linearizable\n{explanation}"),
            Verdict::Undecided { call, calls } => {
                let states = self.states;
                panic!("{what} is undecided after {states} states: the part of call #{} has {calls} calls", call.0)
            }
        }
    }
}

/// Checks a history, visiting at most `states_max` states for each part. One part that fits in no order decides; one
/// that is undecided does not keep others from being checked.
pub fn check<M: Model>(history: &History<M::Action, M::Outcome>, states_max: u64) -> Report {
    let parts = M::parts(history);
    let mut report = Report { verdict: Verdict::Linearizable, parts: parts.len(), calls: 0, states: 0 };
    for part in &parts {
        report.calls += part.steps.len();
        let found = search::search(part, states_max);
        report.states += found.states;
        match found.end {
            search::Ending::Ordered => {}
            search::Ending::Stuck(stuck) => {
                report.verdict = Verdict::Violation(Box::new(explain::explain(history, part, &stuck)));
                break;
            }
            search::Ending::OutOfWork => {
                let call = part.steps.first().map_or(CallId(0), |span| span.call);
                report.verdict = Verdict::Undecided { call, calls: part.steps.len() };
            }
        }
    }
    report
}
