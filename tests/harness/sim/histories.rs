//! What clients were told, in two histories: of records, and of typed values.

use super::tables::{self, Words};
use super::{Checked, violation};
use crate::linearizable::{self, CallId, History, Verdict, records, values};

/// How many states the check of a history visits at most.
const STATES_MAX: u64 = 2_000_000;

/// What is asked for, in the words of its history.
pub enum Action {
    /// Of records.
    Record(records::Action),
    /// Of a typed value.
    Value(values::Action),
}

/// Which call of which history.
#[derive(Debug, Clone, Copy)]
pub enum Entry {
    /// Of records.
    Record(CallId),
    /// Of typed values.
    Value(CallId),
}

/// What somebody was told.
#[derive(Debug, Clone)]
pub enum Told {
    /// Of records.
    Record(records::Outcome),
    /// Of typed values: the replies.
    Value(values::Outcome),
    /// Of a typed value that was looked at: the reply, and who sees what of it.
    Looked(values::Outcome, tables::Seen),
}

/// See the module's front page.
#[derive(Default)]
pub struct Histories {
    records: History<records::Action, records::Outcome>,
    values: History<values::Action, values::Outcome>,
}

impl Action {
    /// A call on a typed value, if its history must be linearizable.
    pub fn of_call(call: Words) -> Action {
        Action::Value(values::Action(call))
    }
}

impl Histories {
    /// A client is about to send this.
    pub fn invoke(&mut self, client: u64, now: u64, action: Action) -> Entry {
        match action {
            Action::Record(action) => Entry::Record(self.records.invoke(client, now, action)),
            Action::Value(action) => Entry::Value(self.values.invoke(client, now, action)),
        }
    }

    /// It took effect, and this was the answer.
    pub fn ok(&mut self, entry: Entry, now: u64, told: Option<Told>) -> Checked {
        match (entry, told) {
            (Entry::Record(call), Some(Told::Record(outcome))) => self.records.ok(call, now, outcome),
            (Entry::Value(call), Some(Told::Value(outcome) | Told::Looked(outcome, _))) => {
                self.values.ok(call, now, outcome);
            }
            _ => return violation("a call of a history got an answer of another kind"),
        }
        Ok(())
    }

    /// It certainly did not take effect.
    pub fn failed(&mut self, entry: Entry, now: u64) {
        match entry {
            Entry::Record(call) => self.records.failed(call, now),
            Entry::Value(call) => self.values.failed(call, now),
        }
    }

    /// Nobody knows.
    pub fn unknown(&mut self, entry: Entry, now: u64) {
        match entry {
            Entry::Record(call) => self.records.unknown(call, now),
            Entry::Value(call) => self.values.unknown(call, now),
        }
    }

    /// Whether both have an order: how many calls and states that took, and whether it could not be decided.
    pub fn check(&self) -> Checked<([u64; 4], bool)> {
        let records = linearizable::check::<records::Records>(&self.records, STATES_MAX);
        let values = linearizable::check::<values::Values>(&self.values, STATES_MAX);
        let mut undecided = false;
        for (what, report) in [("records", &records), ("typed values", &values)] {
            match &report.verdict {
                Verdict::Linearizable => {}
                Verdict::Undecided { .. } => undecided = true,
                Verdict::Violation(explanation) => {
                    return violation(format!("the history of {what} is not linearizable\n{explanation}"));
                }
            }
        }
        Ok(([records.calls as u64, records.states, values.calls as u64, values.states], undecided))
    }
}
