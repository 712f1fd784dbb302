//! Finding what is near: each segment by its graph or row by row, the buffers row by row, and the nearest of all.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::scan::ASK_EVERY;
use super::{Cancelled, CollectionView, Field, RecordRef};
use crate::filter::Filter;
use crate::graph::EF_DEFAULT;
use crate::graph::search::Scratch;
use crate::plan::{self, Plan};
use crate::scan::{Finish, order};
use crate::sealed::Sealed;
use crate::segment::{self, Search, SegmentError};

/// How hard to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// By graphs, keeping so many candidates (at least `k` are): more finds more and takes longer.
    Ef(usize),
    /// By comparing with every record.
    Exact,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort::Ef(EF_DEFAULT)
    }
}

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub struct SearchRequest<'a> {
    /// Which embedding, by its number in the schema ([`CollectionView::field`]).
    pub field: u16,
    /// The embedding to be near to, prepared by [`crate::distance::Metric::prepare`].
    pub query: &'a [f32],
    /// How many to find.
    pub k: usize,
    /// How hard to search.
    pub effort: Effort,
    /// Only records that this takes.
    pub filter: Option<&'a Filter>,
    /// Only records at this distance or nearer.
    pub max_distance: Option<f32>,
    /// Records that have expired by then are left out: milliseconds since 1970.
    pub now: u64,
}

/// One record that was found.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'v> {
    /// How far, as the metric counts it. Smaller is nearer.
    pub distance: f32,
    /// Which.
    pub record: RecordRef<'v>,
}

/// What a search found, and what it cost.
#[derive(Debug)]
pub struct SearchResult<'v> {
    /// Nearest first; equally near ones by key. Fewer than asked for only if there are no more.
    pub hits: Vec<Hit<'v>>,
    /// How many distances were computed.
    pub distances: usize,
    /// How many segments were searched by graph.
    pub walked: usize,
    /// How many segments were searched row by row.
    pub scanned: usize,
}

/// What a search needs besides the view. Made once and used for many searches, it stops allocating.
#[derive(Default)]
pub struct SearchScratch {
    pub(super) graph: Scratch,
}

impl SearchScratch {
    /// An empty one.
    pub fn new() -> SearchScratch {
        SearchScratch::default()
    }
}

/// Why a search found nothing.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The caller said to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The collection has no such embedding.
    #[error("collection {collection:?} has no embedding number {field}")]
    UnknownField {
        /// The collection's name.
        collection: String,
        /// The number.
        field: u16,
    },
    /// The query does not fit the embedding.
    #[error("a query of {found} components does not fit embedding {name:?} of dimension {expected}")]
    WrongDimension {
        /// The embedding's name.
        name: String,
        /// Its dimension.
        expected: usize,
        /// The query's dimension.
        found: usize,
    },
    /// A segment cannot be searched.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// A hit that sorts by distance, then by key.
struct Candidate<'v>(Hit<'v>);

impl Candidate<'_> {
    fn rank(&self) -> u64 {
        order(self.0.distance, 0)
    }
}

impl Ord for Candidate<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| self.0.record.key().cmp(other.0.record.key()))
    }
}

impl PartialOrd for Candidate<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate<'_> {}

/// The nearest `k` so far, the farthest on top.
struct Nearest<'v> {
    k: usize,
    heap: BinaryHeap<Candidate<'v>>,
}

impl<'v> Nearest<'v> {
    fn offer(&mut self, distance: f32, record: RecordRef<'v>) {
        let new = Candidate(Hit { distance, record });
        if self.heap.len() < self.k {
            self.heap.push(new);
        } else if let Some(mut farthest) = self.heap.peek_mut()
            && new < *farthest
        {
            *farthest = new;
        }
    }
}

impl<'v> CollectionView<'v> {
    /// The records whose embeddings are nearest to the query.
    pub fn search(
        &self,
        request: &SearchRequest<'_>,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<SearchResult<'v>, SearchError> {
        let field = self.field_for(request)?;
        let mut result = SearchResult { hits: Vec::new(), distances: 0, walked: 0, scanned: 0 };
        if request.k == 0 {
            return Ok(result);
        }
        let mut nearest = Nearest { k: request.k, heap: BinaryHeap::new() };
        self.search_buffers(request, &field, &mut nearest, &mut result, keep_going)?;
        for sealed in &self.collection.segments {
            self.search_segment(request, sealed, scratch, &mut nearest, &mut result, keep_going)?;
        }
        result.hits = nearest.heap.into_sorted_vec().into_iter().map(|candidate| candidate.0).collect();
        if let Some(max) = request.max_distance {
            // Not `>`: a distance that is no number is not within any.
            result.hits.retain(|hit| hit.distance <= max);
        }
        Ok(result)
    }

    fn field_for(&self, request: &SearchRequest<'_>) -> Result<Field, SearchError> {
        let Some(field) = self.collection.fields.get(usize::from(request.field)) else {
            return Err(SearchError::UnknownField { collection: self.name().to_owned(), field: request.field });
        };
        if field.dimension != request.query.len() {
            let name = self.schema().embeddings.get(usize::from(request.field)).map(|spec| spec.name.clone());
            return Err(SearchError::WrongDimension {
                name: name.unwrap_or_default(),
                expected: field.dimension,
                found: request.query.len(),
            });
        }
        Ok(*field)
    }

    fn takes(&self, request: &SearchRequest<'_>, record: &RecordRef<'_>) -> bool {
        !self.expired(record.deadline(), request.now)
            && request.filter.is_none_or(|filter| filter.takes(record.attributes()))
    }

    fn search_buffers(
        &self,
        request: &SearchRequest<'_>,
        field: &Field,
        nearest: &mut Nearest<'v>,
        result: &mut SearchResult<'v>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<(), Cancelled> {
        let position = self.view.position();
        let mut looked_at = 0usize;
        for (_, row) in self.collection.buffers.iter().flat_map(|buffer| buffer.visible(position)) {
            looked_at += 1;
            if looked_at.is_multiple_of(ASK_EVERY) && !keep_going() {
                return Err(Cancelled);
            }
            let record = RecordRef::of_row(row);
            if let Some(embedding) = row.embedding(usize::from(request.field))
                && self.takes(request, &record)
            {
                result.distances += 1;
                nearest.offer((field.kernel)(request.query, embedding), record);
            }
        }
        Ok(())
    }

    fn search_segment(
        &self,
        request: &SearchRequest<'_>,
        sealed: &'v Sealed,
        scratch: &mut SearchScratch,
        nearest: &mut Nearest<'v>,
        result: &mut SearchResult<'v>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<(), SearchError> {
        let position = self.view.position();
        let field = usize::from(request.field);
        let accept =
            |row: u32| sealed.visible_at(row, position) && self.takes(request, &RecordRef::of_segment(sealed, row));
        let embedded = sealed.segment.embeddings(field);
        if embedded == 0 {
            return Ok(());
        }
        let plan = match request.effort {
            Effort::Ef(ef) if sealed.segment.has_graph(field) => {
                let share = match request.filter {
                    Some(_) => {
                        let (taken, looked_at) = plan::sample(sealed.len())
                            .fold((0, 0), |(taken, all), row| (taken + u32::from(accept(row)), all + 1));
                        f64::from(taken) / f64::from(looked_at.max(1))
                    }
                    None => 1.0 - f64::from(sealed.ended()) / f64::from(sealed.len().max(1)),
                };
                plan::choose(embedded, share, request.filter.is_some(), ef.max(request.k))
            }
            _ => Plan::Scan,
        };
        let mut search = Search { field, query: request.query, k: request.k, effort: segment::Effort::Exact };
        if let (Plan::Walk { budget }, Effort::Ef(ef)) = (plan, request.effort) {
            search.effort = segment::Effort::Graph { ef, budget: Some(budget) };
            let finish = sealed.segment.nearest(&search, accept, &mut *keep_going, &mut scratch.graph)?;
            result.distances += scratch.graph.distances();
            let found = scratch.graph.hits().len();
            // A walk that comes up short has been everywhere. Where it has not, something kept it from getting there.
            let everywhere = found >= request.k || scratch.graph.distances() >= embedded as usize;
            match finish {
                Finish::Stopped => return Err(Cancelled.into()),
                Finish::Complete if everywhere => {
                    result.walked += 1;
                    offer_all(sealed, scratch, nearest);
                    return Ok(());
                }
                Finish::Complete | Finish::OverBudget => search.effort = segment::Effort::Exact,
            }
        }
        let finish = sealed.segment.nearest(&search, accept, &mut *keep_going, &mut scratch.graph)?;
        result.distances += scratch.graph.distances();
        result.scanned += 1;
        if finish == Finish::Stopped {
            return Err(Cancelled.into());
        }
        offer_all(sealed, scratch, nearest);
        Ok(())
    }
}

fn offer_all<'v>(sealed: &'v Sealed, scratch: &SearchScratch, nearest: &mut Nearest<'v>) {
    for hit in scratch.graph.hits() {
        nearest.offer(hit.distance, RecordRef::of_segment(sealed, hit.row));
    }
}
