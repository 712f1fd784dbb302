//! What is found by lists of rows, of words or of dimensions: walking those of one segment, and saying how that went.

use std::sync::Arc;

use super::ask::Asking;
use super::explain::{Step, Way};
use super::scan::ASK_EVERY;
use super::search::Nearest;
use super::select::{Covered, Selection};
use super::{Cancelled, CollectionView, Hit, RecordRef};
use crate::ask::Within;
use crate::filter::Filter;
use crate::inverted::walk;
use crate::sealed::Sealed;

/// What a query takes, and where its best hits gather.
pub(super) struct Gathering<'f, 'v> {
    pub filter: Option<&'f Filter>,
    pub within: Within,
    pub nearest: Nearest<'v>,
}

impl<'v> Asking<'_, 'v> {
    /// Offers the rows of a segment's lists; `of` makes a hit of what the lists say of a row.
    pub(super) fn gather<T: Copy, L: Iterator<Item = (u32, T)>>(
        &mut self,
        gathering: &mut Gathering<'_, 'v>,
        part: &CollectionView<'v>,
        sealed: &'v Arc<Sealed>,
        lists: Vec<L>,
        of: impl Fn(u32, RecordRef<'v>, &[(usize, T)]) -> Hit<'v>,
    ) -> Result<(), Cancelled> {
        let Gathering { filter, within, nearest } = gathering;
        let began = self.scratch.explaining.now();
        let selection = Selection::new(part, sealed, *filter, self.leaf.now);
        let filtered = self.scratch.explaining.now();
        let mut rows = 0usize;
        let whole = walk(lists, |row, said| {
            rows += 1;
            let hit = of(row, RecordRef::of_segment(sealed, row), said);
            // The filter last: it costs the most.
            if within.takes(hit.distance, hit.score) && nearest.wants(&hit) && selection.takes(row) {
                nearest.offer(hit);
            }
            !rows.is_multiple_of(ASK_EVERY) || (self.keep_going)()
        });
        if !whole {
            return Err(Cancelled);
        }
        self.cost.scanned += 1;
        if self.scratch.explaining.is_on() {
            let (asked, taken) = selection.asked_and_taken();
            let step = Step {
                part: self.scratch.explaining.part(),
                segment: Some(sealed.file),
                rows: u64::from(sealed.len()),
                way: Way::Lists,
                why: format!("{rows} rows share a word or a dimension with the query"),
                covered: selection.covered(),
                estimated: rows as f64 / f64::from(sealed.len().max(1)),
                actual: f64::from(taken) / f64::from(asked.max(1)),
                asked: u64::from(asked),
                codes: 0,
                vectors: 0,
                hops: 0,
                filter_nanos: filtered - began,
                plan_nanos: 0,
                find_nanos: self.scratch.explaining.now() - filtered,
            };
            self.scratch.explaining.add(step);
        }
        Ok(())
    }

    /// Says how records were looked at one by one since `began`: those in memory, or those of a segment without an index.
    pub(super) fn explain_scan(&mut self, segment: Option<&Sealed>, looked_at: usize, began: u64, filtered: bool) {
        if !self.scratch.explaining.is_on() {
            return;
        }
        let why = match segment {
            None => "the newest records are in memory",
            Some(_) => "its index is of words that another version of this program makes",
        };
        let step = Step {
            part: self.scratch.explaining.part(),
            segment: segment.map(|sealed| sealed.file),
            rows: looked_at as u64,
            way: Way::Scan,
            why: why.into(),
            covered: if filtered { Covered::Nothing } else { Covered::Unfiltered },
            estimated: 1.0,
            actual: 1.0,
            asked: 0,
            codes: 0,
            vectors: 0,
            hops: 0,
            filter_nanos: 0,
            plan_nanos: 0,
            find_nanos: self.scratch.explaining.now() - began,
        };
        self.scratch.explaining.add(step);
    }

    /// Offers a record of a part that was looked at by itself.
    pub(super) fn offer(&self, gathering: &mut Gathering<'_, 'v>, part: &CollectionView<'v>, hit: Hit<'v>) {
        let Gathering { filter, within, nearest } = gathering;
        // The filter last: it costs the most.
        let takes = within.takes(hit.distance, hit.score)
            && nearest.wants(&hit)
            && !part.expired(hit.record.deadline(), self.leaf.now)
            && filter.is_none_or(|filter| filter.takes(hit.record.attributes()));
        if takes {
            nearest.offer(hit);
        }
    }
}
