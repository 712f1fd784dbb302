//! What calls on one typed value mean: they do what the plain model does, and say what it says.
//!
//! Each key is a part of its own. Nothing here expires and nothing is evicted: keys that do are not in such a history.

use std::collections::BTreeMap;
use std::fmt;

use loci_index::table::tape::Tape;

use super::{End, History, Model, Part, Span};
use crate::plain::{Kept, Loaded, Plain, Typed, When, in_order, is_look, key_place};
use crate::sim::tables::{self, Words};

/// A call with its words. The second is the key, or, of a script, the fourth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action(pub Words);

impl Action {
    fn key(&self) -> &[u8] {
        &self.0[key_place(&self.0)]
    }

    /// Whether it changes nothing, whatever it finds.
    fn looks(&self) -> bool {
        is_look(&self.0)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&tables::shown(&self.0))
    }
}

/// A reply, as it stands on a tape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome(pub Vec<u8>);

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&tables::told(&self.0))
    }
}

/// A call and what it was told, if that is known.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Step {
    words: Words,
    told: Option<Vec<u8>>,
    looks: bool,
}

/// A check of histories of one key each, for [`super::check`].
#[derive(Debug)]
pub struct Values;

/// Times and versions are no part of what is checked.
const WHEN: When = When { now: 1, version: 1 };

impl Model for Values {
    type Action = Action;
    type Outcome = Outcome;
    type Step = Step;
    type State = Option<Typed>;

    fn parts(history: &History<Action, Outcome>) -> Vec<Part<Values>> {
        let mut parts: BTreeMap<&[u8], Part<Values>> = BTreeMap::new();
        for (number, call) in history.calls().iter().enumerate() {
            let looks = call.action.looks();
            let told = call.outcome().map(|outcome| outcome.0.clone());
            if matches!(call.end, End::Failed) || looks && told.is_none() {
                continue;
            }
            let step = Step { words: call.action.0.clone(), told, looks };
            let part = parts.entry(call.action.key()).or_insert(Part { model: Values, steps: Vec::new() });
            part.steps.push(Span::of(super::CallId(number), call, step));
        }
        parts.into_values().collect()
    }

    fn start(&self) -> Option<Typed> {
        None
    }

    fn apply(&self, state: &Option<Typed>, step: &Step) -> Option<Option<Typed>> {
        let args: Vec<&[u8]> = step.words.iter().map(Vec::as_slice).collect();
        // Some replies name it.
        let key = args[key_place(&args)].to_vec();
        let kept = state.clone().map(|value| (key.clone(), Kept::of(value, 1)));
        let mut plain = Plain::of(kept.into_iter().collect());
        let mut out = Tape::new();
        plain.call(&mut Loaded::new(), &args, WHEN, &mut out);
        let after = plain.live(&key, WHEN.now).map(|kept| kept.value.clone());
        match &step.told {
            Some(told) => (in_order(out.bytes()) == *told).then_some(after),
            None => (after != *state).then_some(after),
        }
    }

    fn observes(&self, step: &Step) -> bool {
        step.looks
    }

    fn describe(&self, state: &Option<Typed>) -> String {
        match state {
            None => "nothing".into(),
            Some(Typed::Text(text)) => format!("{:?}", String::from_utf8_lossy(text)),
            Some(other) => format!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{STATES_MAX, check};
    use super::*;

    fn action(line: &str) -> Action {
        Action(line.split(' ').map(|word| word.as_bytes().to_vec()).collect())
    }

    fn int(number: i64) -> Outcome {
        let mut tape = Tape::new();
        tape.int(number);
        Outcome(tape.into_bytes())
    }

    #[test]
    fn two_that_count_hear_different_numbers() {
        for (second, fits) in [(2, true), (1, false)] {
            let mut history = History::new();
            let one = history.invoke(0, 0, action("INCR k"));
            let other = history.invoke(1, 0, action("INCR k"));
            history.ok(one, 1, int(1));
            history.ok(other, 1, int(second));
            assert_eq!(check::<Values>(&history, STATES_MAX).verdict.is_linearizable(), fits);
        }
    }

    #[test]
    fn a_call_without_an_answer_may_have_taken_effect_or_not_but_not_twice() {
        for (number, fits) in [(1, true), (2, true), (3, false)] {
            let mut history = History::new();
            let lost = history.invoke(0, 0, action("INCR k"));
            history.unknown(lost, 1);
            let then = history.invoke(0, 2, action("INCR k"));
            history.ok(then, 3, int(number));
            assert_eq!(check::<Values>(&history, STATES_MAX).verdict.is_linearizable(), fits, "{number}");
        }
    }

    #[test]
    fn what_was_answered_is_seen_by_whoever_asks_later() {
        let mut history = History::new();
        let pushed = history.invoke(0, 0, action("RPUSH k a b"));
        history.ok(pushed, 1, int(2));
        let seen = history.invoke(1, 2, action("LLEN k"));
        history.ok(seen, 3, int(0));
        assert!(check::<Values>(&history, STATES_MAX).verdict.is_violation());
    }
}
