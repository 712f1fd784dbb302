//! Searching a graph: down the upper layers to a node that is near, then a beam on layer 0.
//!
//! ```text
//!   by embeddings:  descend ---> walk ---------------------------------> nearest k
//!   by codes:       descend ---> walk ---> nearest 2k and a few ---look at the embeddings---> nearest k
//! ```
//!
//! Codes are a quarter of the bytes, and a search waits for memory more than for anything else. What they get wrong is the
//! order of what is about equally near; looking at the embeddings of twice as many puts that right.
//!
//! A node that `accept` refuses (not alive at this view, not matching the filter) is walked through like any other but never
//! found. Where few nodes are accepted that is a long walk; `budget` ends it, and the caller looks at the accepted rows
//! instead.
//!
//! Where some nodes are accepted and most are not, a walk may go *past* those that are not: a node's links are then the
//! accepted nodes it is linked to, and those that the others are linked to (as in ACORN, Patel et al. 2024). Nodes between
//! are looked up but not compared with. Where even so nothing accepted is in sight, the walk takes the links as they are,
//! until something is.

use super::beam::{Beam, Distances, Links, Space};
use super::{GraphRef, Vectors};
use crate::codes::{CodedQuery, Codes};
use crate::distance::Metric;
use crate::scan::{Finish, Hit, Nearest};

/// What to look for, and how hard.
#[derive(Clone, Copy)]
pub struct Query<'q> {
    /// The embedding to be near to, prepared for the metric.
    pub vector: &'q [f32],
    /// How many to find.
    pub k: usize,
    /// How many candidates to keep; at least `k` are.
    pub ef: usize,
    /// How many distances may be computed; `None` is no limit.
    pub budget: Option<usize>,
    /// Whether to go past nodes that are not accepted, to accepted ones behind them, without comparing with those between.
    /// For when some are accepted and most are not, and it is cheap to know which.
    pub past: bool,
}

/// The codes of a graph's embeddings, with what a query needs to be coded too.
#[derive(Clone, Copy)]
pub(crate) struct CodeBook<'a> {
    pub codes: Codes<'a>,
    pub metric: Metric,
    pub mean: &'a [f32],
}

/// How many embeddings are looked at after a walk on codes that is to find `k`.
pub(crate) fn looked_at_again(k: usize) -> usize {
    2 * k + 10
}

/// What a search needs besides the graph. Made once and used for many searches of any graphs, it stops allocating.
#[derive(Default)]
pub struct Scratch {
    nearest: Nearest,
    beam: Beam,
    coded: CodedQuery,
    found: Vec<u32>,
    distances: Vec<f32>,
    sums: Vec<i32>,
    batch: Vec<u32>,
    rows: Vec<(u32, u32)>,
    bits: Vec<u64>,
    codes: usize,
    vectors: usize,
    hops: usize,
}

impl Scratch {
    /// An empty one.
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// The hits of the last search, nearest first.
    pub fn hits(&self) -> &[Hit] {
        self.nearest.hits()
    }

    /// How many distances the last search computed, by codes and by embeddings.
    pub fn distances(&self) -> usize {
        self.codes + self.vectors
    }

    /// How many of them by codes.
    pub fn codes_read(&self) -> usize {
        self.codes
    }

    /// How many of them by embeddings.
    pub fn vectors_read(&self) -> usize {
        self.vectors
    }

    /// How many nodes the last search walked through.
    pub fn hops(&self) -> usize {
        self.hops
    }

    pub(crate) fn nearest(&mut self) -> &mut Nearest {
        &mut self.nearest
    }

    /// A bit for each of so many nodes, none of them set, to be given back after the search.
    pub(crate) fn borrow_bits(&mut self, nodes: usize) -> Vec<u64> {
        let mut bits = std::mem::take(&mut self.bits);
        bits.clear();
        bits.resize(nodes.div_ceil(64), 0);
        bits
    }

    pub(crate) fn give_back_bits(&mut self, bits: Vec<u64>) {
        self.bits = bits;
    }
}

/// The way to the embeddings themselves.
struct ByVector<'a, 'q> {
    vectors: Vectors<'a>,
    query: &'q [f32],
}

impl Space for ByVector<'_, '_> {
    fn distances(&self, nodes: &[u32], into: &mut Distances) {
        self.vectors.distances(self.query, nodes, &mut into.all);
    }
}

/// The way to their codes.
struct ByCode<'a, 'q> {
    codes: Codes<'a>,
    query: &'q CodedQuery,
}

impl Space for ByCode<'_, '_> {
    fn distances(&self, nodes: &[u32], into: &mut Distances) {
        self.codes.distances(self.query, nodes, &mut into.sums, &mut into.all);
    }
}

impl Links for GraphRef<'_> {
    #[inline]
    fn each(&self, node: u32, see: impl FnMut(u32)) {
        self.links(node).for_each(see);
    }

    #[inline]
    fn prefetch(&self, node: u32) {
        self.prefetch_links(node);
    }
}

/// Finds the `k` nearest nodes that `accept` agrees to, nearly always; they are then in `scratch.hits()`.
pub fn search(
    graph: GraphRef<'_>,
    vectors: Vectors<'_>,
    query: &Query<'_>,
    accept: impl Fn(u32) -> bool,
    keep_going: impl FnMut() -> bool,
    scratch: &mut Scratch,
) -> Finish {
    let space = ByVector { vectors, query: query.vector };
    let Scratch { beam, nearest, codes, vectors, hops, .. } = scratch;
    let finish = walk(graph, &space, query, &accept, keep_going, beam);
    nearest.reset(query.k);
    beam.found().take(query.k).for_each(|hit| nearest.offer(hit.distance, hit.row));
    nearest.settle(query.k);
    (*codes, *vectors, *hops) = (0, beam.distances, beam.walked.len());
    finish
}

/// The same by codes, and by the embeddings of what they say is nearest.
pub(crate) fn search_coded(
    graph: GraphRef<'_>,
    book: &CodeBook<'_>,
    vectors: Vectors<'_>,
    query: &Query<'_>,
    accept: impl Fn(u32) -> bool,
    keep_going: impl FnMut() -> bool,
    scratch: &mut Scratch,
) -> Finish {
    let Scratch { beam, nearest, coded, found, distances, .. } = scratch;
    coded.set(book.metric, book.mean, query.vector);
    let space = ByCode { codes: book.codes, query: coded };
    let again = looked_at_again(query.k);
    let finish = walk(graph, &space, query, &accept, keep_going, beam);
    found.clear();
    found.extend(beam.found().take(again).map(|hit| hit.row));
    look_again(vectors, query, found, distances, nearest);
    (scratch.codes, scratch.vectors, scratch.hops) = (beam.distances, found.len(), beam.walked.len());
    finish
}

/// The nearest `k` of some nodes, by their embeddings.
fn look_again(vectors: Vectors<'_>, query: &Query<'_>, nodes: &[u32], distances: &mut Vec<f32>, nearest: &mut Nearest) {
    nearest.reset(query.k);
    vectors.distances(query.vector, nodes, distances);
    nodes.iter().zip(distances).for_each(|(&node, distance)| nearest.offer(*distance, node));
    nearest.settle(query.k);
}

/// A comparison of a query with many embeddings, some at a time; by their codes first, if there are.
pub(crate) struct CodeScan<'s, 'a> {
    book: Option<&'s CodeBook<'a>>,
    vectors: Vectors<'a>,
    query: &'s [f32],
    k: usize,
    scratch: &'s mut Scratch,
}

impl<'s, 'a> CodeScan<'s, 'a> {
    pub fn new(
        book: Option<&'s CodeBook<'a>>,
        vectors: Vectors<'a>,
        query: &'s [f32],
        k: usize,
        scratch: &'s mut Scratch,
    ) -> CodeScan<'s, 'a> {
        (scratch.codes, scratch.vectors, scratch.hops) = (0, 0, 0);
        if let Some(book) = book {
            scratch.coded.set(book.metric, book.mean, query);
        }
        scratch.nearest.reset(if book.is_some() { looked_at_again(k) } else { k });
        scratch.rows.clear();
        CodeScan { book, vectors, query, k, scratch }
    }

    /// Compares with some nodes, given with their rows.
    pub fn compare(&mut self, nodes: impl Iterator<Item = (u32, u32)>) {
        let Scratch { nearest, coded, found, distances, sums, batch, rows, codes, vectors, .. } = &mut *self.scratch;
        found.clear();
        batch.clear();
        for (node, row) in nodes {
            found.push(node);
            batch.push(row);
        }
        let Some(book) = self.book else {
            self.vectors.distances(self.query, found, distances);
            *vectors += found.len();
            batch.iter().zip(distances).for_each(|(&row, distance)| nearest.offer(*distance, row));
            return;
        };
        book.codes.distances(coded, found, sums, distances);
        *codes += found.len();
        for ((&node, &row), &distance) in found.iter().zip(&*batch).zip(&*distances) {
            if nearest.wants(distance) {
                // Which node and row it was is looked up at the end: hits know one number only.
                nearest.offer(distance, rows.len() as u32);
                rows.push((node, row));
            }
        }
    }

    /// The nearest `k` are then in `scratch.hits()`, by their rows.
    pub fn finish(self) {
        let Scratch { nearest, found, distances, batch, rows, vectors, .. } = self.scratch;
        if self.book.is_some() {
            nearest.settle(looked_at_again(self.k));
            let known = nearest.hits().iter().filter_map(|hit| rows.get(hit.row as usize));
            found.clear();
            batch.clear();
            for &(node, row) in known {
                found.push(node);
                batch.push(row);
            }
            self.vectors.distances(self.query, found, distances);
            *vectors += found.len();
            nearest.reset(self.k);
            batch.iter().zip(distances).for_each(|(&row, distance)| nearest.offer(*distance, row));
        }
        nearest.settle(self.k);
    }
}

fn walk(
    graph: GraphRef<'_>,
    space: &impl Space,
    query: &Query<'_>,
    accept: &impl Fn(u32) -> bool,
    keep_going: impl FnMut() -> bool,
    beam: &mut Beam,
) -> Finish {
    let (budget, ef) = (query.budget.unwrap_or(usize::MAX), query.ef.max(query.k));
    if query.past {
        let links = Past { graph, accept };
        walk_along(graph, &links, space, budget, ef, accept, keep_going, beam)
    } else {
        walk_along(graph, &graph, space, budget, ef, accept, keep_going, beam)
    }
}

/// Links that lead past nodes that are not accepted.
struct Past<'a, A> {
    graph: GraphRef<'a>,
    accept: &'a A,
}

impl<A: Fn(u32) -> bool> Links for Past<'_, A> {
    fn each(&self, node: u32, mut see: impl FnMut(u32)) {
        let (mut shown, mut others, mut refused) = (0, [0; OTHERS_MAX], 0);
        for link in self.graph.links(node) {
            if (self.accept)(link) {
                shown += 1;
                see(link);
            } else if let Some(place) = others.get_mut(refused) {
                *place = link;
                refused += 1;
            }
        }
        // The nearest come first, and so many are enough to go on with.
        let enough = PAST_LINKS * self.graph.m();
        let others = &others[..refused];
        others.iter().take(AHEAD).for_each(|&other| self.graph.prefetch_links(other));
        for (number, &other) in others.iter().enumerate() {
            if shown >= enough {
                return;
            }
            if let Some(&later) = others.get(number + AHEAD) {
                self.graph.prefetch_links(later);
            }
            for behind in self.graph.links(other).filter(|&behind| (self.accept)(behind)) {
                shown += 1;
                see(behind);
            }
        }
        if shown == 0 {
            self.graph.links(node).for_each(see);
        }
    }

    fn prefetch(&self, node: u32) {
        self.graph.prefetch_links(node);
    }
}

/// How many accepted nodes a walk past others is shown from each, in multiples of M.
const PAST_LINKS: usize = 4;
/// No node has more links: M is at most 128.
const OTHERS_MAX: usize = 256;
/// The links of so many nodes are on their way while those of one are read.
const AHEAD: usize = 2;

/// A whole walk: down the upper layers, then over layer 0 from there and from all entries.
pub(super) fn walk_from(
    graph: GraphRef<'_>,
    space: &impl Space,
    budget: usize,
    ef: usize,
    accept: &impl Fn(u32) -> bool,
    keep_going: impl FnMut() -> bool,
    beam: &mut Beam,
) -> Finish {
    walk_along(graph, &graph, space, budget, ef, accept, keep_going, beam)
}

#[expect(clippy::too_many_arguments, reason = "what a walk is over, what it is for, and what it needs")]
fn walk_along(
    graph: GraphRef<'_>,
    links: &impl Links,
    space: &impl Space,
    budget: usize,
    ef: usize,
    accept: &impl Fn(u32) -> bool,
    mut keep_going: impl FnMut() -> bool,
    beam: &mut Beam,
) -> Finish {
    beam.reset(graph.nodes(), ef);
    let descended = descend(graph, space, beam);
    for node in descended.into_iter().chain(graph.entries().iter().copied()) {
        beam.start(space, node, accept);
    }
    beam.walk(links, space, budget, accept, &mut keep_going)
}

/// Walks greedily down the upper layers to a node of layer 0 that is near.
fn descend(graph: GraphRef<'_>, space: &impl Space, beam: &mut Beam) -> Option<u32> {
    let mut place = 0;
    let entry = *graph.entries().first()?;
    let mut near = beam.measure_one(space, entry);
    for layer in graph.layers().rev() {
        loop {
            let from = place;
            let links = graph.upper_links(layer, from).filter_map(|link| Some((graph.node_at(layer, link)?, link)));
            if let Some((nearer, link)) = beam.nearest_of(space, links, near.distance) {
                (near, place) = (nearer, link);
            }
            if place == from {
                break;
            }
        }
        place = graph.below(layer, place)?;
    }
    Some(near.row)
}
