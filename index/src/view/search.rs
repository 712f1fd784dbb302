//! Finding what is near: each segment by its graph or row by row, the buffers row by row, and the nearest of all.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::explain::{Clock, Explaining, Explanation, Step, Way};
use super::scan::ASK_EVERY;
use super::select::{Covered, Selection};
use super::{Cancelled, CollectionView, Field, RecordRef};
use crate::attributes::ValueRef;
use crate::buffer::Row;
use crate::buffer::codes::{Asked, BLOCK_ROWS, DIMENSION_MIN, Rows};
use crate::command::Codes;
use crate::filter::Filter;
use crate::graph::EF_DEFAULT;
use crate::graph::search::Scratch;
use crate::plan::{self, Plan, Situation};
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
    /// How far, as the metric counts it. Smaller is nearer. Of what was not found by nearness, the negative score.
    pub distance: f32,
    /// How good, where hits are not in the order of a distance. Larger is better.
    pub score: Option<f32>,
    /// What it was grouped by.
    pub group: Option<ValueRef<'v>>,
    /// Which.
    pub record: RecordRef<'v>,
}

impl<'v> Hit<'v> {
    /// One that was found by nearness.
    pub(super) fn new(distance: f32, record: RecordRef<'v>) -> Hit<'v> {
        Hit { distance, score: None, group: None, record }
    }
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
    buffer: Asked,
    pub(super) explaining: Explaining,
}

impl SearchScratch {
    /// An empty one.
    pub fn new() -> SearchScratch {
        SearchScratch::default()
    }

    /// Has the searches from now on explain themselves, until [`SearchScratch::explanation`].
    pub fn explain(&mut self, clock: Clock) {
        self.explaining.start(clock);
    }

    /// How the searches since [`SearchScratch::explain`] went.
    pub fn explanation(&mut self) -> Explanation {
        self.explaining.finish()
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

/// By distance, then by key.
fn nearer(a: &Hit<'_>, b: &Hit<'_>) -> Ordering {
    order(a.distance, 0).cmp(&order(b.distance, 0)).then_with(|| a.record.key().cmp(b.record.key()))
}

impl Ord for Candidate<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        nearer(&self.0, &other.0)
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

/// Keeps the nearest `k`, nearest first, as if they had been found together.
pub(super) fn keep_nearest(hits: &mut Vec<Hit<'_>>, k: usize) {
    hits.sort_unstable_by(nearer);
    hits.truncate(k);
}

/// The nearest `k` so far, the farthest on top.
pub(super) struct Nearest<'v> {
    k: usize,
    heap: BinaryHeap<Candidate<'v>>,
}

impl<'v> Nearest<'v> {
    pub fn new(k: usize) -> Nearest<'v> {
        Nearest { k, heap: BinaryHeap::new() }
    }

    /// Whether it is among the nearest so far.
    pub fn wants(&self, hit: &Hit<'v>) -> bool {
        self.heap.len() < self.k || self.heap.peek().is_some_and(|farthest| Candidate(*hit) < *farthest)
    }

    /// Nearest first.
    pub fn into_hits(self) -> Vec<Hit<'v>> {
        self.heap.into_sorted_vec().into_iter().map(|candidate| candidate.0).collect()
    }

    /// Whether something may be among the nearest that is at least so far.
    fn may_want(&self, least: f32) -> bool {
        // What is no number says nothing.
        let may = |farthest: &Candidate<'v>| least.partial_cmp(&farthest.0.distance) != Some(Ordering::Greater);
        self.heap.len() < self.k || self.heap.peek().is_none_or(may)
    }

    pub fn offer(&mut self, hit: Hit<'v>) {
        let new = Candidate(hit);
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
        let mut nearest = Nearest::new(request.k);
        for sealed in &self.collection.segments {
            self.search_segment(request, sealed, scratch, &mut nearest, &mut result, keep_going)?;
        }
        // Last: the more is found already, the fewer of the newest have to be looked at.
        let began = scratch.explaining.now();
        let newest = self.search_buffers(request, &field, &mut scratch.buffer, &mut nearest, keep_going)?;
        result.distances += newest.codes + newest.vectors;
        if scratch.explaining.is_on() && newest.rows > 0 {
            let share = newest.taken as f64 / newest.asked.max(1) as f64;
            scratch.explaining.add(Step {
                part: scratch.explaining.part(),
                segment: None,
                rows: newest.rows as u64,
                way: Way::Scan,
                why: "the newest records are in memory".into(),
                covered: if request.filter.is_some() { Covered::Nothing } else { Covered::Unfiltered },
                estimated: share,
                actual: share,
                asked: newest.asked as u64,
                codes: newest.codes as u64,
                vectors: newest.vectors as u64,
                hops: 0,
                filter_nanos: 0,
                plan_nanos: 0,
                find_nanos: scratch.explaining.now() - began,
            });
        }
        result.hits = nearest.into_hits();
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

    /// Compares with the newest records, exactly: by their codes only those are passed over that cannot be hits.
    fn search_buffers(
        &self,
        request: &SearchRequest<'_>,
        field: &Field,
        query: &mut Asked,
        nearest: &mut Nearest<'v>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Newest, Cancelled> {
        let (position, number) = (self.view.position(), usize::from(request.field));
        let mut newest = Newest::default();
        let compare = |row: &'v Row, newest: &mut Newest, nearest: &mut Nearest<'v>| {
            let Some(embedding) = row.embedding(number) else { return };
            let record = RecordRef::of_row(row);
            newest.asked += 1;
            if self.takes(request.filter, request.now, &record) {
                newest.taken += 1;
                newest.vectors += 1;
                nearest.offer(Hit::new((field.kernel)(request.query, embedding), record));
            }
        };
        let coded = self.schema().embeddings.get(number).is_some_and(|spec| spec.codes == Codes::Int8);
        if !coded || field.dimension < DIMENSION_MIN {
            for (_, row) in self.collection.buffers.iter().flat_map(|buffer| buffer.visible(position)) {
                newest.rows += 1;
                if newest.rows.is_multiple_of(ASK_EVERY) && !keep_going() {
                    return Err(Cancelled);
                }
                compare(row, &mut newest, nearest);
            }
            return Ok(newest);
        }
        query.set(field.metric, request.query);
        for buffer in &self.collection.buffers {
            let all = buffer.by_blocks(position, (field.metric, number, field.dimension), |rows| {
                match rows {
                    Rows::One(row) if position < row.end() => {
                        newest.rows += 1;
                        compare(row, &mut newest, nearest);
                    }
                    Rows::One(_) => {}
                    Rows::Block(rows, block) => {
                        newest.rows += BLOCK_ROWS;
                        newest.codes += BLOCK_ROWS;
                        for (row, &least) in rows.iter().zip(query.at_least(block)) {
                            if nearest.may_want(least)
                                && let Some(row) = row.get().filter(|row| position < row.end())
                            {
                                compare(row, &mut newest, nearest);
                            }
                        }
                    }
                }
                !newest.rows.is_multiple_of(ASK_EVERY) || keep_going()
            });
            if !all {
                return Err(Cancelled);
            }
        }
        Ok(newest)
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
        let field = usize::from(request.field);
        let embedded = sealed.segment.embeddings(field);
        if embedded == 0 {
            return Ok(());
        }
        let began = scratch.explaining.now();
        let selection = Selection::new(self, sealed, request.filter, request.now);
        let filtered = scratch.explaining.now();
        let (may, share) = selection.shares();
        let ef = match request.effort {
            Effort::Ef(ef) => Some(ef.max(request.k)),
            Effort::Exact => None,
        };
        let asked = matches!(selection.covered(), Covered::Part | Covered::Nothing);
        let linked = sealed.segment.has_graph(field);
        let choice = plan::choose(&Situation { embedded, linked, ef, share, may, asked });
        let planned = scratch.explaining.now();

        let mut cost = Cost::default();
        let way = self.search_selected(request, sealed, &selection, choice.plan, scratch, &mut cost, keep_going)?;
        offer_all(sealed, scratch, nearest);
        result.distances += cost.codes + cost.vectors;
        match way {
            Way::Walk | Way::WalkPast => result.walked += 1,
            Way::Scan | Way::WalkThenScan | Way::Lists => result.scanned += 1,
        }
        if scratch.explaining.is_on() {
            let (asked, taken) = selection.asked_and_taken();
            let known = selection.known_len().map(|len| f64::from(len) / f64::from(sealed.len().max(1)));
            let step = Step {
                part: scratch.explaining.part(),
                segment: Some(sealed.file),
                rows: u64::from(sealed.len()),
                way,
                why: choice.why.to_string(),
                covered: selection.covered(),
                estimated: share,
                actual: known.unwrap_or_else(|| match way {
                    // Those that were not asked are not taken.
                    Way::Scan => f64::from(taken) / f64::from(sealed.len().max(1)),
                    Way::Walk | Way::WalkPast | Way::WalkThenScan | Way::Lists => {
                        f64::from(taken) / f64::from(asked.max(1))
                    }
                }),
                asked: u64::from(asked),
                codes: cost.codes as u64,
                vectors: cost.vectors as u64,
                hops: cost.hops as u64,
                filter_nanos: filtered - began,
                plan_nanos: planned - filtered,
                find_nanos: scratch.explaining.now() - planned,
            };
            scratch.explaining.add(step);
        }
        Ok(())
    }

    /// Finds the nearest of a segment's selected rows; they are then in the scratch.
    #[expect(clippy::too_many_arguments, reason = "what one search is about, and what it needs")]
    fn search_selected(
        &self,
        request: &SearchRequest<'_>,
        sealed: &'v Sealed,
        selection: &Selection<'v, '_>,
        plan: Plan,
        scratch: &mut SearchScratch,
        cost: &mut Cost,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Way, SearchError> {
        let field = usize::from(request.field);
        let takes = |row: u32| selection.takes(row);
        let mut search = Search { field, query: request.query, k: request.k, effort: segment::Effort::Exact };
        let mut way = Way::Scan;
        let walk = match plan {
            Plan::Scan => None,
            Plan::Walk { budget } => Some((budget, false)),
            Plan::Past { budget } => Some((budget, true)),
        };
        if let (Some((budget, past)), Effort::Ef(ef)) = (walk, request.effort) {
            search.effort = segment::Effort::Graph { ef, budget: Some(budget) };
            let finish = if past {
                let rows = selection.taken_rows();
                let finish = sealed.segment.nearest_past(&search, rows, &mut *keep_going, &mut scratch.graph)?;
                finish.unwrap_or(Finish::OverBudget)
            } else {
                sealed.segment.nearest(&search, takes, &mut *keep_going, &mut scratch.graph)?
            };
            cost.add(&scratch.graph);
            let found = scratch.graph.hits().len();
            // A walk that comes up short has been everywhere. Where it has not, something kept it from getting there.
            let everywhere = found >= request.k || scratch.graph.hops() >= sealed.segment.embeddings(field) as usize;
            match finish {
                Finish::Stopped => return Err(Cancelled.into()),
                Finish::Complete if everywhere => return Ok(if past { Way::WalkPast } else { Way::Walk }),
                Finish::Complete | Finish::OverBudget => way = Way::WalkThenScan,
            }
        }
        search.effort = match request.effort {
            Effort::Ef(_) if selection.may_len() > FEW_ROWS => segment::Effort::Codes,
            _ => segment::Effort::Exact,
        };
        let finish = match request.filter {
            Some(_) => {
                let rows = selection.rows_from(0);
                sealed.segment.nearest_of(&search, rows, takes, &mut *keep_going, &mut scratch.graph)?
            }
            None => sealed.segment.nearest(&search, takes, &mut *keep_going, &mut scratch.graph)?,
        };
        cost.add(&scratch.graph);
        match finish {
            Finish::Stopped => Err(Cancelled.into()),
            Finish::Complete | Finish::OverBudget => Ok(way),
        }
    }
}

/// What comparing with the newest records has cost.
#[derive(Default)]
struct Newest {
    rows: usize,
    /// How many were asked whether they are taken, and how many are.
    asked: usize,
    taken: usize,
    codes: usize,
    vectors: usize,
}

/// So few rows are compared in full at once: coding the query, and looking again at the nearest, costs more than it saves.
const FEW_ROWS: u32 = 128;

/// What searching one segment has cost.
#[derive(Default)]
struct Cost {
    codes: usize,
    vectors: usize,
    hops: usize,
}

impl Cost {
    /// With what the last search of this scratch has.
    fn add(&mut self, scratch: &Scratch) {
        self.codes += scratch.codes_read();
        self.vectors += scratch.vectors_read();
        self.hops += scratch.hops();
    }
}

fn offer_all<'v>(sealed: &'v Sealed, scratch: &SearchScratch, nearest: &mut Nearest<'v>) {
    for hit in scratch.graph.hits() {
        nearest.offer(Hit::new(hit.distance, RecordRef::of_segment(sealed, hit.row)));
    }
}
