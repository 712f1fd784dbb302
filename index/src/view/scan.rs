//! Reading a collection in the order of its keys, and counting.
//!
//! Segments are sorted by key, so each is a cursor; what the buffers can see is made a heap for each page. The next record
//! is the smallest key under any cursor or on the heap, whichever part of the collection ([`super::Parts`]) the cursor is in. A page looks at a bounded number of rows, whatever the filter: a page with few
//! records, or none, and a place to go on from is not the end.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::select::Selection;
use super::{CollectionView, Parts, Place, RecordRef};
use crate::buffer::Row;
use crate::filter::Filter;
use crate::sealed::Sealed;

/// The most rows one page looks at.
const EXAMINED_MAX: usize = 100_000;
/// How often a long read asks whether it should go on, in rows.
pub(super) const ASK_EVERY: usize = 1_024;

/// The caller said to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the read was stopped before it was done")]
pub struct Cancelled;

/// Which part of a collection to read.
#[derive(Debug, Clone, Copy)]
pub struct ScanRequest<'a> {
    /// Only keys after this one.
    pub after: Option<&'a [u8]>,
    /// Only keys that begin with this.
    pub prefix: Option<&'a [u8]>,
    /// Only records that this takes.
    pub filter: Option<&'a Filter>,
    /// The most records of a page.
    pub limit: usize,
    /// A page ends with the record that reaches this many bytes of keys, values and attributes.
    pub bytes_max: usize,
    /// Records that have expired by then are left out: milliseconds since 1970.
    pub now: u64,
}

/// A part of a collection.
#[derive(Debug)]
pub struct ScanPage<'v> {
    /// Ascending by key.
    pub records: Vec<RecordRef<'v>>,
    /// Give this as `after` to read on. `None`: there is nothing more.
    pub next: Option<Vec<u8>>,
}

/// A place in one segment, on a row that the read may take, or at its end.
struct Cursor<'v, 'f> {
    sealed: &'v Sealed,
    selection: Selection<'v, 'f>,
    row: u32,
}

/// Where the next record of a page comes from.
#[derive(Clone, Copy)]
enum Source<'p, 'v> {
    /// The segment under the cursor of that number.
    Cursor(usize),
    /// The newest records of that part.
    Newest(&'p CollectionView<'v>),
}

/// A record of a part's buffers. The smallest key is the greatest of them, as a heap wants it.
struct Newest<'p, 'v>(&'v Row, &'p CollectionView<'v>);

impl Ord for Newest<'_, '_> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.key().cmp(self.0.key())
    }
}

impl PartialOrd for Newest<'_, '_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Newest<'_, '_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Newest<'_, '_> {}

impl Cursor<'_, '_> {
    /// Goes on to the next row that may be taken, unless it is on one. Rows that an index rules out cost nothing.
    fn settle(&mut self, examined: &mut usize) {
        let next = self.selection.rows_from(self.row).find(|&row| {
            let alive = self.selection.is_alive(row);
            *examined += usize::from(!alive);
            alive
        });
        self.row = next.unwrap_or(self.sealed.len());
    }
}

impl<'v> Parts<'_, 'v> {
    /// The next records by key, of all parts together.
    pub fn scan(
        &self,
        request: &ScanRequest<'_>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<ScanPage<'v>, Cancelled> {
        let prefix = request.prefix.unwrap_or_default();
        let is_after = |key: &[u8]| request.after.is_none_or(|after| key > after);
        let mut examined = 0;

        let mut newest = Vec::new();
        for part in self.0 {
            for (_, row) in part.collection.buffers.iter().flat_map(|buffer| buffer.visible(part.view.position())) {
                examined += 1;
                if examined % ASK_EVERY == 0 && !keep_going() {
                    return Err(Cancelled);
                }
                if row.key().starts_with(prefix) && is_after(row.key()) {
                    newest.push(Newest(row, part));
                }
            }
        }
        let mut newest = BinaryHeap::from(newest);

        examined = 0;
        let start = |part: &CollectionView<'v>, sealed: &'v Sealed| {
            let mut row = sealed.segment.lower_bound(request.after.unwrap_or_default().max(prefix));
            while row < sealed.len() && !is_after(sealed.segment.key(row)) {
                row += 1;
            }
            Cursor { sealed, selection: Selection::new(part, sealed, request.filter, request.now), row }
        };
        let mut cursors: Vec<Cursor<'v, '_>> = Vec::new();
        for part in self.0 {
            cursors.extend(part.collection.segments.iter().map(|sealed| start(part, sealed)));
        }

        let mut page = ScanPage { records: Vec::new(), next: None };
        let (mut bytes, mut asked) = (0, 0);
        loop {
            let mut first: Option<(RecordRef<'v>, Source<'_, 'v>)> = None;
            for (number, cursor) in cursors.iter_mut().enumerate() {
                cursor.settle(&mut examined);
                if cursor.row < cursor.sealed.len() {
                    let record = RecordRef(Place::Segment(cursor.sealed, cursor.row));
                    if first.is_none_or(|(first, _)| record.key() < first.key()) {
                        first = Some((record, Source::Cursor(number)));
                    }
                }
            }
            if let Some(&Newest(row, part)) = newest.peek() {
                let record = RecordRef(Place::Buffer(row));
                if first.is_none_or(|(first, _)| record.key() < first.key()) {
                    first = Some((record, Source::Newest(part)));
                }
            }
            let Some((record, source)) = first.filter(|(record, _)| record.key().starts_with(prefix)) else {
                return Ok(page);
            };
            let taken = match source {
                Source::Cursor(cursor) => {
                    let Cursor { selection, row, .. } = &mut cursors[cursor];
                    *row += 1;
                    selection.takes(*row - 1)
                }
                Source::Newest(part) => {
                    newest.pop();
                    part.takes(request.filter, request.now, &record)
                }
            };
            examined += 1;
            if examined - asked >= ASK_EVERY {
                asked = examined;
                if !keep_going() {
                    return Err(Cancelled);
                }
            }
            if taken {
                bytes += record.key().len() + record.value().map_or(0, <[u8]>::len) + record.attributes().len();
                page.records.push(record);
            }
            if page.records.len() >= request.limit || bytes >= request.bytes_max || examined >= EXAMINED_MAX {
                page.next = Some(record.key().to_vec());
                return Ok(page);
            }
        }
    }

    /// How many records there are in all parts, or how many the filter takes.
    pub fn count(
        &self,
        filter: Option<&Filter>,
        now: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<u64, Cancelled> {
        self.0.iter().map(|part| part.count(filter, now, keep_going)).sum()
    }
}

impl<'v> CollectionView<'v> {
    /// The next records by key.
    pub fn scan(
        &self,
        request: &ScanRequest<'_>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<ScanPage<'v>, Cancelled> {
        Parts::new(std::slice::from_ref(self)).scan(request, keep_going)
    }

    /// How many records there are, or how many the filter takes.
    pub fn count(
        &self,
        filter: Option<&Filter>,
        now: u64,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<u64, Cancelled> {
        let none_expired = self.live.timed == 0 || self.view.due.is_none_or(|due| due > now.max(self.view.clock));
        if filter.is_none() && none_expired {
            return Ok(self.live.records);
        }
        let (mut count, mut examined) = (0, 0usize);
        let mut ask = || {
            examined += 1;
            if !examined.is_multiple_of(ASK_EVERY) || keep_going() { Ok(()) } else { Err(Cancelled) }
        };
        let position = self.view.position();
        for (_, row) in self.collection.buffers.iter().flat_map(|buffer| buffer.visible(position)) {
            ask()?;
            count += u64::from(self.takes(filter, now, &RecordRef(Place::Buffer(row))));
        }
        for sealed in &self.collection.segments {
            let selection = Selection::new(self, sealed, filter, now);
            if let Some(known) = selection.known_len() {
                count += u64::from(known);
                continue;
            }
            for row in selection.rows_from(0) {
                ask()?;
                count += u64::from(selection.takes(row));
            }
        }
        Ok(count)
    }

    /// The keys of all records that the filter takes, ascending.
    pub(crate) fn keys_where(&self, filter: &Filter, now: u64) -> Vec<Box<[u8]>> {
        let position = self.view.position();
        let newest = self.collection.buffers.iter().flat_map(|buffer| buffer.visible(position));
        let newest = newest.filter(|(_, row)| self.takes(Some(filter), now, &RecordRef(Place::Buffer(row))));
        let mut keys: Vec<Box<[u8]>> = newest.map(|(_, row)| Box::from(row.key())).collect();
        for sealed in &self.collection.segments {
            let selection = Selection::new(self, sealed, Some(filter), now);
            keys.extend(selection.taken_rows().map(|row| Box::from(sealed.segment.key(row))));
        }
        keys.sort_unstable();
        keys
    }

    /// Whether a record exists by then and the filter takes it.
    pub(super) fn takes(&self, filter: Option<&Filter>, now: u64, record: &RecordRef<'_>) -> bool {
        !self.expired(record.deadline(), now) && filter.is_none_or(|filter| filter.takes(record.attributes()))
    }

    /// Shows every record that the view can see, expired ones too, in no particular order.
    pub(crate) fn each(
        &self,
        keep_going: &mut dyn FnMut() -> bool,
        show: &mut dyn FnMut(RecordRef<'v>),
    ) -> Result<(), Cancelled> {
        let position = self.view.position();
        let mut examined = 0usize;
        let mut ask = || {
            examined += 1;
            if !examined.is_multiple_of(ASK_EVERY) || keep_going() { Ok(()) } else { Err(Cancelled) }
        };
        for buffer in &self.collection.buffers {
            for (_, row) in buffer.visible(position) {
                ask()?;
                show(RecordRef(Place::Buffer(row)));
            }
        }
        for sealed in &self.collection.segments {
            for row in 0..sealed.len() {
                ask()?;
                if sealed.visible_at(row, position) {
                    show(RecordRef(Place::Segment(sealed, row)));
                }
            }
        }
        Ok(())
    }
}
