//! What clients did and what they were told, in the order in which it happened.
//!
//! ```text
//!   invoke --> ok       it took effect once, between the two, and said this
//!          --> failed   it certainly did not and never will
//!          --> unknown  it takes effect at any moment after the invocation, or never
//! ```
//!
//! A call that is never ended counts as unknown.
//!
//! Always: the order of appending is the order that counts; times are for whoever reads an explanation. An invocation is
//! to be appended before the call is sent, and its end after the answer has arrived.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// A call of a history: its place in the order of invocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub usize);

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End<O> {
    /// With an answer, which may be a refusal.
    Ok(O),
    /// Without effect, now and later.
    Failed,
    /// Nobody knows, or not yet.
    Unknown,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<A, O> {
    /// Who called.
    pub client: u64,
    /// What was asked for.
    pub action: A,
    /// When, by the clock of whoever recorded it.
    pub invoked_at: u64,
    /// When it ended, by the same clock; as good as never if it has not.
    pub ended_at: u64,
    /// How.
    pub end: End<O>,
    /// The places of invocation and end among all events; what has no end has the last place there is.
    pub(super) events: (u64, u64),
}

impl<A, O> Call<A, O> {
    /// What it was told, if it was told anything.
    pub fn outcome(&self) -> Option<&O> {
        match &self.end {
            End::Ok(outcome) => Some(outcome),
            End::Failed | End::Unknown => None,
        }
    }
}

/// Calls, appended as they happen.
#[derive(Debug, Clone)]
pub struct History<A, O> {
    calls: Vec<Call<A, O>>,
    events: u64,
}

impl<A, O> Default for History<A, O> {
    fn default() -> History<A, O> {
        History { calls: Vec::new(), events: 0 }
    }
}

impl<A, O> History<A, O> {
    /// No calls.
    pub fn new() -> History<A, O> {
        History::default()
    }

    /// A history from calls that were collected apart, by one clock: client, invoked at, ended at, action, end. What
    /// happened at the same time counts as side by side.
    pub fn from_times(calls: impl IntoIterator<Item = (u64, u64, u64, A, End<O>)>) -> History<A, O> {
        let mut calls: Vec<_> = calls.into_iter().collect();
        calls.sort_by_key(|(_, invoked_at, ..)| *invoked_at);
        let mut ends: Vec<(u64, usize)> = (0..).zip(&calls).map(|(number, call)| (call.2, number)).collect();
        ends.sort_unstable();
        let mut ends = ends.into_iter().peekable();
        let mut history = History::new();
        let mut answers = BTreeMap::new();
        for (number, (client, invoked_at, ended_at, action, end)) in calls.into_iter().enumerate() {
            assert!(invoked_at <= ended_at, "call {number} ended at {ended_at}, before it began at {invoked_at}");
            while let Some((at, ended)) = ends.next_if(|(at, _)| *at < invoked_at) {
                history.end(CallId(ended), at, answers.remove(&ended).expect("it began before it ended"));
            }
            history.invoke(client, invoked_at, action);
            answers.insert(number, end);
        }
        for (at, ended) in ends {
            history.end(CallId(ended), at, answers.remove(&ended).expect("each call ends once"));
        }
        history
    }

    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// A client is about to send this.
    pub fn invoke(&mut self, client: u64, now: u64, action: A) -> CallId {
        let events = (self.event(), u64::MAX);
        let id = CallId(self.calls.len());
        self.calls.push(Call { client, action, invoked_at: now, ended_at: u64::MAX, end: End::Unknown, events });
        id
    }

    /// It took effect, and this was the answer.
    pub fn ok(&mut self, id: CallId, now: u64, outcome: O) {
        self.end(id, now, End::Ok(outcome));
    }

    /// It certainly did not take effect and never will: it was not even sent, or the server promised so. A refusal that
    /// says something about the state is an answer instead.
    pub fn failed(&mut self, id: CallId, now: u64) {
        self.end(id, now, End::Failed);
    }

    /// Nobody knows whether it took effect or still will: a timeout, a lost connection.
    pub fn unknown(&mut self, id: CallId, now: u64) {
        self.end(id, now, End::Unknown);
    }

    fn end(&mut self, id: CallId, now: u64, end: End<O>) {
        let event = self.event();
        let call = &mut self.calls[id.0];
        assert!(call.ended_at == u64::MAX, "call {} ended twice", id.0);
        call.ended_at = now;
        if let End::Ok(_) = end {
            call.events.1 = event;
        }
        call.end = end;
    }

    /// All calls by their id.
    pub fn calls(&self) -> &[Call<A, O>] {
        &self.calls
    }

    /// One of them.
    pub fn call(&self, id: CallId) -> &Call<A, O> {
        &self.calls[id.0]
    }
}

/// A history that many threads append to, with microseconds since its beginning as times.
#[derive(Debug)]
pub struct Recorder<A, O> {
    history: Arc<Mutex<History<A, O>>>,
    began: Instant,
}

impl<A, O> Clone for Recorder<A, O> {
    fn clone(&self) -> Recorder<A, O> {
        Recorder { history: self.history.clone(), began: self.began }
    }
}

impl<A, O> Default for Recorder<A, O> {
    fn default() -> Recorder<A, O> {
        Recorder { history: Arc::default(), began: Instant::now() }
    }
}

impl<A, O> Recorder<A, O> {
    /// Nothing recorded.
    pub fn new() -> Recorder<A, O> {
        Recorder::default()
    }

    /// The history and the time, which is read under the lock so that it never goes back.
    fn lock(&self) -> (MutexGuard<'_, History<A, O>>, u64) {
        let history = self.history.lock().expect("nobody panics while recording");
        (history, self.began.elapsed().as_micros() as u64)
    }

    /// See [`History::invoke`].
    pub fn invoke(&self, client: u64, action: A) -> CallId {
        let (mut history, now) = self.lock();
        history.invoke(client, now, action)
    }

    /// See [`History::ok`].
    pub fn ok(&self, id: CallId, outcome: O) {
        let (mut history, now) = self.lock();
        history.ok(id, now, outcome);
    }

    /// See [`History::failed`].
    pub fn failed(&self, id: CallId) {
        let (mut history, now) = self.lock();
        history.failed(id, now);
    }

    /// See [`History::unknown`].
    pub fn unknown(&self, id: CallId) {
        let (mut history, now) = self.lock();
        history.unknown(id, now);
    }

    /// What was recorded until now; calls under way count as unknown.
    pub fn snapshot(&self) -> History<A, O>
    where
        A: Clone,
        O: Clone,
    {
        self.lock().0.clone()
    }
}
