//! Why a history has no order, for whoever has to find the reason: the end of a longest order, what does not fit behind
//! it, and when each of these calls ran.

use std::fmt;

use super::search::Stuck;
use super::{CallId, History, Model, Part};

/// Calls of the order that are shown: those before are seldom the reason.
const ORDERED_SHOWN: usize = 10;
/// Calls without an answer that are shown.
const UNANSWERED_SHOWN: usize = 6;

/// Where no order of a part's calls goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// An order that goes as far as any: all calls that returned before [`Explanation::stuck`], and others as needed.
    pub prefix: Vec<CallId>,
    /// The call that returned next and fits behind no such order.
    pub stuck: CallId,
    /// Calls with an answer that ran at that time and are not in the order either.
    pub beside: Vec<CallId>,
    text: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One line of the picture.
struct Line {
    mark: String,
    step: usize,
}

pub(super) fn explain<M: Model>(
    history: &History<M::Action, M::Outcome>,
    part: &Part<M>,
    stuck: &Stuck,
) -> Explanation {
    let steps = &part.steps;
    let ends = steps[stuck.call].until.expect("only a call that returns must fit");
    let mut is_ordered = vec![false; steps.len()];
    stuck.prefix.iter().for_each(|step| is_ordered[*step] = true);
    let open = |step: &usize| steps[*step].from < ends && !is_ordered[*step] && *step != stuck.call;
    let (beside, unanswered): (Vec<usize>, Vec<usize>) =
        (0..steps.len()).filter(open).partition(|step| steps[*step].until.is_some());

    let skipped = stuck.prefix.len().saturating_sub(ORDERED_SHOWN);
    let mut lines: Vec<Line> = Vec::new();
    let shown = stuck.prefix.iter().enumerate().skip(skipped);
    lines.extend(shown.map(|(place, step)| Line { mark: format!("{}.", place + 1), step: *step }));
    lines.push(Line { mark: "does not fit".into(), step: stuck.call });
    lines.extend(beside.iter().map(|step| Line { mark: "beside it".into(), step: *step }));
    let unanswered_skipped = unanswered.len().saturating_sub(UNANSWERED_SHOWN);
    let shown = unanswered.iter().skip(unanswered_skipped);
    lines.extend(shown.map(|step| Line { mark: "no answer".into(), step: *step }));

    let name = |step: usize| CallId(steps[step].call.0);
    let call = |step: usize| {
        let call = history.call(name(step));
        let outcome = match (call.outcome(), steps[step].until) {
            (Some(outcome), _) => outcome.to_string(),
            (None, Some(_)) => "no answer, but a later one shows it".into(),
            (None, None) => "no answer".into(),
        };
        let times = if call.ended_at == u64::MAX { "..".into() } else { format!("..{}", call.ended_at) };
        format!("#{} [{}{times}] {} -> {outcome}", name(step).0, call.invoked_at, call.action)
    };

    let mut text = format!("no order has a place for this call of client {}:\n", history.call(name(stuck.call)).client);
    text += &format!("  {}\n", call(stuck.call));
    text += "calls in one of the longest orders, and then those that have no place in it:\n";
    if skipped > 0 {
        text += &format!("  ({skipped} before)\n");
    }
    let chart = chart(&lines.iter().map(|line| (steps[line.step].from, steps[line.step].until)).collect::<Vec<_>>());
    for (line, bar) in lines.iter().zip(chart) {
        let client = history.call(name(line.step)).client;
        text += &format!("  {:>12} client {client:<3} {bar}  {}\n", line.mark, call(line.step));
    }
    if unanswered_skipped > 0 {
        text += &format!("  ({unanswered_skipped} more without an answer)\n");
    }
    text += "the state then, in this order or another as long:\n";
    stuck.states.iter().for_each(|state| text += &format!("  {state}\n"));
    Explanation {
        prefix: stuck.prefix.iter().map(|step| name(*step)).collect(),
        stuck: name(stuck.call),
        beside: beside.into_iter().map(name).collect(),
        text,
    }
}

/// A bar for each pair of events, all to the same scale: events that concern none of them take no room.
fn chart(spans: &[(u64, Option<u64>)]) -> Vec<String> {
    let mut events: Vec<u64> = spans.iter().flat_map(|(from, until)| [Some(*from), *until]).flatten().collect();
    events.sort_unstable();
    events.dedup();
    let column = |event: u64| events.partition_point(|other| *other < event) * 2;
    let width = events.len() * 2;
    let bar = |&(from, until): &(u64, Option<u64>)| {
        let from = column(from);
        let until = until.map(column);
        let sign = |at: usize| match at {
            _ if at < from => ' ',
            _ if at == from || Some(at) == until => '|',
            _ if until.is_none() && at + 1 == width => '>',
            _ if until.is_none_or(|until| at < until) => '-',
            _ => ' ',
        };
        (0..width).map(sign).collect()
    };
    spans.iter().map(bar).collect()
}
