//! Searching a graph: a beam of the `ef` nearest nodes seen so far.
//!
//! A node that `accept` refuses (not alive at this view, not matching the filter) is walked through
//! like any other but never found. So the walk goes on until `ef` *accepted* nodes are known that
//! are all nearer than anything left to look at, or nothing is left: fewer hits than asked means
//! there are no more. Where few nodes are accepted that is a long walk; `budget` ends it, and the
//! caller scans the accepted rows instead.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{GraphRef, Vectors};
use crate::distance::{Kernel, prefetch};
use crate::scan::{Finish, Hit, Nearest, order, unorder};

/// What to look for, and how hard.
#[derive(Clone, Copy)]
pub struct Query<'q> {
    /// The embedding to be near to, prepared for the metric.
    pub vector: &'q [f32],
    /// The metric's kernel.
    pub kernel: Kernel,
    /// How many to find.
    pub k: usize,
    /// How many candidates to keep; at least `k` are.
    pub ef: usize,
    /// How many distances may be computed; `None` is no limit.
    pub budget: Option<usize>,
}

/// `keep_going` is asked once for so many nodes walked through.
const HOPS_PER_QUESTION: usize = 64;

/// What a search needs besides the graph. Made once and used for many searches of any graphs, it
/// stops allocating.
#[derive(Default)]
pub struct Scratch {
    nearest: Nearest,
    candidates: BinaryHeap<Reverse<u64>>,
    fresh: Vec<u32>,
    visited: Visited,
    distances: usize,
    hops: usize,
}

/// Which nodes this search has seen: those marked with its number.
#[derive(Default)]
struct Visited {
    marks: Vec<u16>,
    search: u16,
}

impl Visited {
    fn reset(&mut self, nodes: usize) {
        if self.marks.len() < nodes {
            self.marks.resize(nodes, 0);
        }
        self.search = self.search.wrapping_add(1);
        if self.search == 0 {
            // The numbers have been used up; marks of 65,535 searches ago would be taken for ours.
            self.marks.fill(0);
            self.search = 1;
        }
    }

    /// Marks a node; whether it is one and was not marked before.
    #[inline]
    fn insert(&mut self, node: u32) -> bool {
        match self.marks.get_mut(node as usize) {
            Some(mark) if *mark != self.search => {
                *mark = self.search;
                true
            }
            _ => false,
        }
    }
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

    /// How many distances the last search computed.
    pub fn distances(&self) -> usize {
        self.distances
    }

    /// How many nodes the last search walked through.
    pub fn hops(&self) -> usize {
        self.hops
    }

    pub(crate) fn nearest(&mut self) -> &mut Nearest {
        &mut self.nearest
    }

    /// Says what a search that did not use a graph has cost.
    pub(crate) fn count(&mut self, distances: usize, hops: usize) {
        self.distances = distances;
        self.hops = hops;
    }
}

/// Finds the `k` nearest nodes that `accept` agrees to, nearly always; they are then in
/// `scratch.hits()`.
pub fn search(
    graph: GraphRef<'_>,
    vectors: &impl Vectors,
    query: &Query<'_>,
    accept: impl Fn(u32) -> bool,
    mut keep_going: impl FnMut() -> bool,
    scratch: &mut Scratch,
) -> Finish {
    let Scratch { nearest, candidates, fresh, visited, distances, hops } = scratch;
    let ef = query.ef.max(query.k).max(1);
    let budget = query.budget.unwrap_or(usize::MAX);
    nearest.reset(ef);
    candidates.clear();
    visited.reset(graph.shape.nodes as usize);
    *distances = 0;
    *hops = 0;

    let descended = descend(graph, vectors, query, distances);
    for node in descended.into_iter().chain(graph.entries().iter().copied()) {
        if visited.insert(node)
            && let Some(vector) = vectors.vector(node)
        {
            *distances += 1;
            let distance = (query.kernel)(query.vector, vector);
            candidates.push(Reverse(order(distance, node)));
            if accept(node) {
                nearest.offer(distance, node);
            }
        }
    }
    let mut finish = Finish::Complete;
    while let Some(Reverse(candidate)) = candidates.pop() {
        let candidate = unorder(candidate);
        if nearest.is_past(candidate.distance) {
            break;
        }
        *hops += 1;
        if hops.is_multiple_of(HOPS_PER_QUESTION) && !keep_going() {
            finish = Finish::Stopped;
            break;
        }
        if *distances >= budget {
            finish = Finish::OverBudget;
            break;
        }
        fresh.clear();
        for link in graph.links(candidate.row) {
            if visited.insert(link) {
                fresh.push(link);
                // The first few cross the memory bus while the links are still being read.
                if fresh.len() <= AHEAD
                    && let Some(vector) = vectors.vector(link)
                {
                    prefetch(vector);
                }
            }
        }
        for (i, &node) in fresh.iter().enumerate() {
            if let Some(&later) = fresh.get(i + AHEAD)
                && let Some(vector) = vectors.vector(later)
            {
                prefetch(vector);
            }
            let Some(vector) = vectors.vector(node) else {
                continue;
            };
            let distance = (query.kernel)(query.vector, vector);
            *distances += 1;
            if nearest.wants(distance) {
                candidates.push(Reverse(order(distance, node)));
                if accept(node) {
                    nearest.offer(distance, node);
                }
            }
        }
    }
    nearest.settle(query.k);
    finish
}

/// So many embeddings are on their way while one is compared.
const AHEAD: usize = 3;

/// Walks greedily down the upper layers to a node of layer 0 that is near.
fn descend(graph: GraphRef<'_>, vectors: &impl Vectors, query: &Query<'_>, distances: &mut usize) -> Option<u32> {
    let mut place = 0;
    let mut node = *graph.entries().first()?;
    let mut best = (query.kernel)(query.vector, vectors.vector(node)?);
    *distances += 1;
    for layer in graph.shape.layers.iter().rev() {
        loop {
            let from = place;
            for link in graph.upper_links(layer, from) {
                let Some(next) = graph.node_at(layer, link) else {
                    continue;
                };
                let Some(vector) = vectors.vector(next) else {
                    continue;
                };
                let distance = (query.kernel)(query.vector, vector);
                *distances += 1;
                if distance < best {
                    (best, place, node) = (distance, link, next);
                }
            }
            if place == from {
                break;
            }
        }
        place = graph.below(layer, place)?;
    }
    Some(node)
}
