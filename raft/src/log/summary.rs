//! What the log knows of a shard without its entries, and how each change moves it.
//!
//! The same steps are taken when a change is written and when it is read back, so a frame that could
//! not have been written is noticed. Every file opens with the summaries of all shards as of its
//! beginning, which is why older files can go without taking a vote or the members with them.

use std::sync::Arc;

use super::frame;
use crate::entry::{Change, EntryKind, HardState, LogIndex, Term};
use crate::members::Members;

/// The state of a shard's log up to some change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// What the first entry follows: the end of a snapshot, or the last forgotten entry.
    pub start: LogIndex,
    pub start_term: Term,
    pub last: LogIndex,
    pub last_term: Term,
    pub hard_state: HardState,
    /// As of `start`.
    pub members: Arc<Members>,
}

/// A change without the data of its entry.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Start(LogIndex, Term, Arc<Members>),
    Entry(LogIndex, Term, EntryKind),
    HardState(HardState),
    Members(Arc<Members>),
    Forget(LogIndex, Term),
    Rebase(LogIndex, Term, Arc<Members>),
}

impl Step {
    pub(super) fn of(change: &Change) -> Step {
        match change {
            Change::Start { index, term, members } => Step::Start(*index, *term, Arc::clone(members)),
            Change::Entry(entry) => Step::Entry(entry.index, entry.term, entry.kind),
            Change::HardState(state) => Step::HardState(*state),
            Change::Members(members) => Step::Members(Arc::clone(members)),
            Change::Forget { up_to, term } => Step::Forget(*up_to, *term),
            Change::Rebase { up_to, term, members } => Step::Rebase(*up_to, *term, Arc::clone(members)),
        }
    }
}

/// Takes one step; says why not when the step cannot follow what is there.
pub(super) fn follow(summary: &mut Option<Summary>, step: &Step) -> Result<(), &'static str> {
    if let Step::Start(index, term, members) = step {
        if index.0 == 0 || term.0 == 0 {
            return Err("a log starts at an index and a term above 0");
        }
        let hard_state = summary.as_ref().map_or(HardState::default(), |before| before.hard_state);
        *summary = Some(Summary {
            start: *index,
            start_term: *term,
            last: *index,
            last_term: *term,
            hard_state,
            members: Arc::clone(members),
        });
        return Ok(());
    }
    let Some(summary) = summary else {
        return Err("the shard has no start");
    };
    match step {
        Step::Start(..) => {}
        Step::Entry(index, term, _) => {
            if *index <= summary.start {
                return Err("an entry at or before the start of the log");
            }
            if index.0 > summary.last.0 + 1 {
                return Err("an entry that leaves a gap");
            }
            if *term < summary.start_term {
                return Err("an entry of a term before the start of the log");
            }
            summary.last = *index;
            summary.last_term = *term;
        }
        Step::HardState(state) => {
            if state.term < summary.hard_state.term {
                return Err("a hard state of an older term");
            }
            summary.hard_state = *state;
        }
        Step::Members(members) => summary.members = Arc::clone(members),
        Step::Forget(up_to, term) | Step::Rebase(up_to, term, _) => {
            if *up_to > summary.last {
                return Err("forgetting more than there is");
            }
            if *up_to < summary.start {
                return Err("forgetting what is forgotten already");
            }
            summary.start = *up_to;
            summary.start_term = *term;
            if let Step::Rebase(.., members) = step {
                summary.members = Arc::clone(members);
            }
        }
    }
    Ok(())
}

impl Summary {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        frame::encode_position(out, self.start, self.start_term);
        frame::encode_position(out, self.last, self.last_term);
        frame::encode_hard_state(out, &self.hard_state);
        self.members.encode(out);
    }

    pub(super) fn payload_bytes(members: &Members) -> usize {
        32 + frame::HARD_STATE_BYTES + members.encoded_bytes()
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Summary> {
        let (start, start_term, rest) = frame::position(payload)?;
        let (last, last_term, rest) = frame::position(rest)?;
        let (hard_state, members) = rest.split_at_checked(frame::HARD_STATE_BYTES)?;
        (start <= last).then_some(Summary {
            start,
            start_term,
            last,
            last_term,
            hard_state: frame::hard_state(hard_state)?,
            members: Arc::new(Members::decode(members).ok()?),
        })
    }
}
