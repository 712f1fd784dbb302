//! Which rows of a segment a read takes: those that its position can see, that have not expired, and that its filter takes.
//!
//! What the segment's indexes know of the filter is worked out once, when the selection is made; rows that it leaves open
//! are asked one by one.

use std::cell::Cell;

use super::CollectionView;
use crate::attribute_index::{RowSet, Truth};
use crate::filter::Filter;
use crate::plan;
use crate::record::Position;
use crate::sealed::Sealed;

/// The rows of one segment that a read takes.
pub(super) struct Selection<'v, 'f> {
    sealed: &'v Sealed,
    position: Position,
    /// What has a deadline up to then has expired.
    expired: u64,
    /// Whether any record has a deadline at all.
    timed: bool,
    /// Whether none of the segment's versions has ended. None begins after a view that has the segment, so all are visible,
    /// and their begins and ends need not be fetched from memory.
    whole: bool,
    filter: Option<&'f Filter>,
    truth: Option<Truth<'v>>,
    asked: Cell<u32>,
    taken: Cell<u32>,
}

/// How much of a filter indexes answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covered {
    /// There is no filter.
    Unfiltered,
    /// All of it: no attributes are looked at.
    Whole,
    /// Some of it: attributes are looked at only where that leaves it open.
    Part,
    /// Nothing: attributes are looked at wherever it matters.
    Nothing,
}

impl<'v, 'f> Selection<'v, 'f> {
    pub fn new(
        collection: &CollectionView<'v>,
        sealed: &'v Sealed,
        filter: Option<&'f Filter>,
        now: u64,
    ) -> Selection<'v, 'f> {
        Selection {
            sealed,
            position: collection.view.position(),
            expired: now.max(collection.view.clock),
            timed: collection.live.timed != 0,
            whole: sealed.ended() == 0,
            filter,
            truth: filter.and_then(|filter| sealed.segment.truth(filter)),
            asked: Cell::new(0),
            taken: Cell::new(0),
        }
    }

    /// Whether a row is there at all: its version is visible and has not expired.
    pub fn is_alive(&self, row: u32) -> bool {
        let due = || {
            let deadline = self.sealed.segment.deadline(row);
            deadline != 0 && deadline <= self.expired
        };
        (self.whole || self.sealed.visible_at(row, self.position)) && !(self.timed && due())
    }

    /// Whether a row is taken.
    #[inline]
    pub fn takes(&self, row: u32) -> bool {
        self.asked.set(self.asked.get() + 1);
        let takes = match (&self.truth, self.filter) {
            (Some(truth), _) if !truth.may().contains(row) => false,
            _ if !self.is_alive(row) => false,
            (_, None) => true,
            (Some(truth), _) if truth.is_exact() || truth.sure.contains(row) => true,
            (_, Some(filter)) => filter.takes(self.sealed.segment.attributes(row)),
        };
        self.taken.set(self.taken.get() + u32::from(takes));
        takes
    }

    /// How often it was asked about a row, and how often it took it.
    pub fn asked_and_taken(&self) -> (u32, u32) {
        (self.asked.get(), self.taken.get())
    }

    /// The rows that may be taken, from one on.
    pub fn rows_from(&self, from: u32) -> impl Iterator<Item = u32> + use<'_, 'v, 'f> {
        let all = if self.truth.is_none() { from..self.sealed.len() } else { from..from };
        all.chain(self.truth.iter().flat_map(move |truth| truth.may().iter_from(from)))
    }

    /// The rows that are taken.
    pub fn taken_rows(&self) -> impl Iterator<Item = u32> + use<'_, 'v, 'f> {
        let known = self.known_len().is_some();
        self.rows_from(0).filter(move |&row| known || self.takes(row))
    }

    /// How many rows may be taken.
    pub fn may_len(&self) -> u32 {
        self.truth.as_ref().map_or(self.sealed.len(), |truth| truth.may().len())
    }

    pub fn covered(&self) -> Covered {
        match (self.filter, &self.truth) {
            (None, _) => Covered::Unfiltered,
            (_, Some(truth)) if truth.is_exact() => Covered::Whole,
            (_, Some(truth)) if !truth.may().is_all() => Covered::Part,
            _ => Covered::Nothing,
        }
    }

    /// How many rows are taken, if that is known without looking at any.
    pub fn known_len(&self) -> Option<u32> {
        let all_alive = self.whole && !self.timed;
        let rows = match (self.filter, &self.truth) {
            (None, _) => self.sealed.len(),
            (_, Some(truth)) if truth.is_exact() => truth.sure.len(),
            _ => return None,
        };
        all_alive.then_some(rows)
    }

    /// The share of the segment's rows that may be taken, and an estimate of the share that is.
    pub fn shares(&self) -> (f64, f64) {
        let rows = f64::from(self.sealed.len().max(1));
        let alive = 1.0 - f64::from(self.sealed.ended()) / rows;
        let share_of = |set: &RowSet<'_>| f64::from(set.len()) / rows;
        match (self.filter, &self.truth) {
            (None, _) => (1.0, alive),
            (_, Some(truth)) if truth.is_exact() => (share_of(&truth.sure), share_of(&truth.sure) * alive),
            (_, truth) => {
                let may = truth.as_ref().map_or(self.sealed.len(), |truth| truth.may().len());
                let (mut asked, mut taken) = (0, 0);
                let mut ask = |row: u32| {
                    asked += 1;
                    taken += u32::from(self.takes(row));
                };
                match truth.as_ref().filter(|truth| !truth.may().is_all()) {
                    Some(truth) => {
                        truth.may().iter_from(0).step_by((may / plan::SAMPLES).max(1) as usize).for_each(ask)
                    }
                    None => plan::sample(self.sealed.len()).for_each(&mut ask),
                }
                self.asked.set(0);
                self.taken.set(0);
                let may = f64::from(may) / rows;
                (may, may * f64::from(taken) / f64::from(asked.max(1)))
            }
        }
    }
}
