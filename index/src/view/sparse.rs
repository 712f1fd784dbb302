//! Searching by sparse embeddings: exact, by each segment's index or record by record.

use super::ask::Asking;
use super::scan::ASK_EVERY;
use super::search::Nearest;
use super::select::Selection;
use super::{Cancelled, Hit, RecordRef};
use crate::ask::{AskError, Within};
use crate::filter::Filter;
use crate::inverted::walk;
use crate::sparse::{self, SparseVector};

impl<'v> Asking<'_, 'v> {
    pub(super) fn find_sparse(
        &mut self,
        field: u16,
        query: &SparseVector,
        filter: Option<&Filter>,
        k: usize,
        within: Within,
    ) -> Result<Vec<Hit<'v>>, AskError> {
        let shared = self.collection.collection;
        if usize::from(field) >= shared.schema.sparse.len() {
            return Err(AskError::UnknownSparse(field));
        }
        let position = self.collection.view.position();
        let mut nearest = Nearest::new(k);
        let rows = shared.buffers.iter().flat_map(|buffer| buffer.visible(position));
        for (count, (_, row)) in rows.enumerate() {
            if count % ASK_EVERY == ASK_EVERY - 1 {
                self.check_going()?;
            }
            let record = RecordRef::of_row(row);
            if let Some(distance) = record.sparse(field).and_then(|bytes| query.distance(sparse::decode(bytes))) {
                self.cost.distances += 1;
                self.offer(&mut nearest, Hit::new(distance, record), filter, &within);
            }
        }
        for sealed in &shared.segments {
            self.check_going()?;
            // Without an index no row has weights for the field: both are written together.
            let Some(index) = sealed.segment.sparse_index(field) else { continue };
            self.cost.scanned += 1;
            let began = self.scratch.explaining.now();
            let selection = Selection::new(&self.collection, sealed, filter, self.ask.now);
            let selected = self.scratch.explaining.now();
            let lists = query.weights().iter().map(|&(dimension, _)| index.find(dimension)).collect();
            let mut looked_at = 0usize;
            let whole = walk(lists, |row, said| {
                looked_at += 1;
                self.cost.distances += 1;
                let hit = Hit::new(query.distance_of(said), RecordRef::of_segment(sealed, row));
                self.offer_selected(&mut nearest, hit, &selection, row, &within);
                !looked_at.is_multiple_of(ASK_EVERY) || (self.keep_going)()
            });
            if !whole {
                return Err(Cancelled.into());
            }
            self.explain_lists(sealed, &selection, looked_at, [began, selected]);
        }
        Ok(nearest.into_hits())
    }
}
