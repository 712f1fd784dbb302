//! Searching by sparse embeddings: exact, by each segment's index or record by record.

use super::ask::Asking;
use super::lists::Gathering;
use super::scan::ASK_EVERY;
use super::search::Nearest;
use super::{Cancelled, CollectionView, Hit, RecordRef};
use crate::ask::{AskError, Within};
use crate::filter::Filter;
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
        if usize::from(field) >= self.rules().schema.sparse.len() {
            return Err(AskError::UnknownSparse(field));
        }
        let mut gathering = Gathering { filter, within, nearest: Nearest::new(k) };
        for (number, part) in self.parts.iter().enumerate() {
            self.scratch.explaining.enter(number);
            self.find_sparse_in(part, field, query, &mut gathering)?;
        }
        Ok(gathering.nearest.into_hits())
    }

    fn find_sparse_in(
        &mut self,
        part: &CollectionView<'v>,
        field: u16,
        query: &SparseVector,
        gathering: &mut Gathering<'_, 'v>,
    ) -> Result<(), Cancelled> {
        let (shared, position) = (part.collection, part.view.position());
        let (began, mut looked_at) = (self.scratch.explaining.now(), 0usize);
        for (_, row) in shared.buffers.iter().flat_map(|buffer| buffer.visible(position)) {
            looked_at += 1;
            if looked_at.is_multiple_of(ASK_EVERY) {
                self.check_going()?;
            }
            let record = RecordRef::of_row(row);
            if let Some(distance) = record.sparse(field).and_then(|bytes| query.distance(sparse::decode(bytes))) {
                self.cost.distances += 1;
                self.offer(gathering, part, Hit::new(distance, record));
            }
        }
        self.explain_scan(None, looked_at, began, gathering.filter.is_some());
        for sealed in &shared.segments {
            self.check_going()?;
            // Without an index no row has weights for the field: both are written together.
            let Some(index) = sealed.segment.sparse_index(field) else { continue };
            let lists = query.weights().iter().map(|&(dimension, _)| index.find(dimension)).collect();
            self.gather(gathering, part, sealed, lists, |_, record, said| Hit::new(query.distance_of(said), record))?;
        }
        Ok(())
    }
}
