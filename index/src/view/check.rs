//! Whether records can be found: each live record of a segment's graphs, by its own embedding.
//!
//! A graph that was built well leads to all of its nodes, and nothing that happens to a segment later changes that. This is
//! how that is not only believed but known: whoever has time searches for the records that are there, a few at a time.

use std::ops::Range;

use super::{CollectionView, Field};
use crate::graph::EF_DEFAULT;
use crate::sealed::Sealed;
use crate::segment::{self, Search, SegmentError};
use crate::view::SearchScratch;

/// Among so many hits a record must be that is searched for by its own embedding.
const HITS: usize = 10;

/// What came of checking some rows of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The first row that was not looked at; `None`: all were, up to the segment's end.
    pub next: Option<u32>,
    /// How many embeddings were searched for.
    pub checked: u64,
    /// The keys of records that a search for their own embedding did not find.
    pub unfound: Vec<Vec<u8>>,
}

impl CollectionView<'_> {
    /// The numbers of the segments that have a graph, ascending. A segment keeps its number as long as it is there.
    pub fn graph_segments(&self) -> Vec<u64> {
        let linked = |sealed: &Sealed| (0..sealed.segment.fields().len()).any(|field| sealed.segment.has_graph(field));
        let mut files: Vec<u64> =
            self.collection.segments.iter().filter(|sealed| linked(sealed)).map(|sealed| sealed.file).collect();
        files.sort_unstable();
        files
    }

    /// Searches a segment's graphs for the live records among these rows, each by its own embedding.
    ///
    /// A record is found if it is among the ten nearest to its embedding or if ten others are no farther: then it is rightly
    /// not. A segment that is not there (any more) has no rows. Ends early where `keep_going` says no.
    pub fn check_found(
        &self,
        file: u64,
        rows: Range<u32>,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Checked, SegmentError> {
        let mut result = Checked::default();
        let Some(sealed) = self.collection.segments.iter().find(|sealed| sealed.file == file) else {
            return Ok(result);
        };
        let position = self.view.position();
        let end = rows.end.min(sealed.len());
        for row in rows.start..end {
            if !keep_going() {
                result.next = Some(row);
                return Ok(result);
            }
            if !sealed.visible_at(row, position) {
                continue;
            }
            for (number, field) in self.collection.fields.iter().enumerate() {
                if let Some(found) = self.finds_itself(sealed, row, number, field, scratch)? {
                    result.checked += 1;
                    if !found {
                        result.unfound.push(sealed.segment.key(row).to_vec());
                    }
                }
            }
        }
        result.next = (end < sealed.len()).then_some(end);
        Ok(result)
    }

    /// Whether a search for a row's own embedding finds it; `None` if it has none, or there is no graph to find it by.
    fn finds_itself(
        &self,
        sealed: &Sealed,
        row: u32,
        number: usize,
        field: &Field,
        scratch: &mut SearchScratch,
    ) -> Result<Option<bool>, SegmentError> {
        if !sealed.segment.has_graph(number) {
            return Ok(None);
        }
        let Some(query) = sealed.segment.embedding(number, row) else { return Ok(None) };
        let effort = segment::Effort::Graph { ef: EF_DEFAULT, budget: None };
        let search = Search { field: number, query: &query, k: HITS, effort };
        let position = self.view.position();
        let accept = |row| sealed.visible_at(row, position);
        // Asked between rows: one search is short.
        let _ = sealed.segment.nearest(&search, accept, || true, &mut scratch.graph)?;
        let hits = scratch.graph.hits();
        let own = (field.kernel)(&query, &query);
        let crowded = hits.len() >= HITS && hits.iter().all(|hit| hit.distance <= own);
        Ok(Some(crowded || hits.iter().any(|hit| hit.row == row)))
    }
}
