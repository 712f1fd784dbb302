//! Graphs against the exact scan.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use super::build::{BuildError, Built, Embeddings, Encoded, Mended, build, working_bytes};
use super::search::{CodeBook, Query, Scratch, search, search_coded};
use super::*;
use crate::codes::Codes;
use crate::distance::Metric;
use crate::real_set::RealSet;
use crate::scan::{Finish, Nearest, scan};

/// Embeddings in one array, for one metric.
struct Set {
    metric: Metric,
    dimension: usize,
    floats: Vec<f32>,
}

/// A graph, and the codes that go with it.
struct Linked {
    graph: FlatGraph,
    codes: Option<Encoded>,
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// -1 to 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Roughly normal.
    fn normal(&mut self) -> f32 {
        (0..6).map(|_| self.float()).sum::<f32>() / 1.4
    }
}

impl Set {
    fn new(metric: Metric, dimension: usize, mut floats: Vec<f32>) -> Set {
        for embedding in floats.chunks_exact_mut(dimension) {
            metric.prepare(embedding).expect("is a good embedding");
        }
        Set { metric, dimension, floats }
    }

    /// Clusters one after the other, as a file in source order has them, and `extra` more drawn
    /// from the same clusters for queries.
    fn clustered(metric: Metric, len: usize, extra: usize, seed: u64) -> (Set, Set) {
        const DIMENSION: usize = 24;
        const CLUSTERS: usize = 40;
        let mut chance = Chance(seed);
        let centres: Vec<f32> = (0..CLUSTERS * DIMENSION).map(|_| chance.normal()).collect();
        let mut draw = |cluster: usize| -> Vec<f32> {
            let centre = &centres[cluster * DIMENSION..(cluster + 1) * DIMENSION];
            centre.iter().map(|x| x + 0.35 * chance.normal()).collect()
        };
        let base = (0..len).flat_map(|i| draw(i * CLUSTERS / len)).collect();
        let queries = (0..extra).flat_map(|i| draw(i % CLUSTERS)).collect();
        (Set::new(metric, DIMENSION, base), Set::new(metric, DIMENSION, queries))
    }

    fn len(&self) -> usize {
        self.floats.len() / self.dimension
    }

    fn get(&self, i: usize) -> &[f32] {
        &self.floats[i * self.dimension..(i + 1) * self.dimension]
    }

    fn vectors(&self) -> Vectors<'_> {
        Vectors::new(self.metric, &self.floats, self.dimension, self.dimension)
    }

    fn build_with(&self, options: GraphOptions, coded: bool, seed: Option<&Seed<'_>>) -> (Linked, Mended) {
        let get = |i| Cow::Borrowed(self.get(i));
        let embeddings = Embeddings { metric: self.metric, len: self.len(), get: &get, coded };
        let Built { graph, mended, codes } =
            build(&embeddings, &options, seed, &AtomicBool::new(false)).expect("builds");
        assert_eq!(codes.is_some(), coded && self.len() > 0);
        (Linked { graph: graph.expect("was asked for"), codes }, mended)
    }

    fn build(&self, threads: usize, coded: bool) -> (Linked, Mended) {
        self.build_with(GraphOptions { m: 16, ef_construction: 100, threads }, coded, None)
    }

    fn exact(&self, query: &[f32], k: usize, accept: impl Fn(u32) -> bool) -> Vec<u32> {
        let rows = (0..self.len()).map(|i| (i as u32, self.get(i)));
        let mut nearest = Nearest::new();
        let finish = scan(self.metric.kernel(), query, k, rows, accept, || true, &mut nearest);
        assert_eq!(finish, Finish::Complete);
        nearest.hits().iter().map(|hit| hit.row).collect()
    }

    fn walk(
        &self,
        linked: &Linked,
        query: &Query<'_>,
        accept: impl Fn(u32) -> bool,
        keep_going: impl FnMut() -> bool,
        scratch: &mut Scratch,
    ) -> Finish {
        let shape = linked.graph.shape().expect("is a graph");
        let graph = GraphRef::new(&shape, &linked.graph.layer0, &linked.graph.upper);
        match &linked.codes {
            None => search(graph, self.vectors(), query, accept, keep_going, scratch),
            Some(Encoded { mean, rows, beside }) => {
                let codes = Codes::new(rows, beside, self.dimension);
                let book = CodeBook { codes, metric: self.metric, mean };
                search_coded(graph, &book, self.vectors(), query, accept, keep_going, scratch)
            }
        }
    }

    fn search(
        &self,
        linked: &Linked,
        query: &[f32],
        k: usize,
        ef: usize,
        accept: impl Fn(u32) -> bool,
        scratch: &mut Scratch,
    ) -> Vec<u32> {
        let query = Query { vector: query, k, ef, budget: None, past: false };
        assert_eq!(self.walk(linked, &query, accept, || true, scratch), Finish::Complete);
        assert!(scratch.hits().is_sorted_by_key(|hit| crate::scan::order(hit.distance, hit.row)));
        scratch.hits().iter().map(|hit| hit.row).collect()
    }

    fn recall(&self, graph: &Linked, queries: &Set, ef: usize, accept: impl Fn(u32) -> bool) -> f64 {
        let mut scratch = Scratch::new();
        let (mut found, mut all) = (0, 0);
        for i in 0..queries.len() {
            let query = queries.get(i);
            let exact = self.exact(query, 10, &accept);
            let got = self.search(graph, query, 10, ef, &accept, &mut scratch);
            found += exact.iter().filter(|row| got.contains(row)).count();
            all += exact.len();
        }
        found as f64 / all as f64
    }
}

/// How many nodes the entries reach on layer 0.
fn reachable(graph: &FlatGraph) -> usize {
    let shape = graph.shape().expect("is a graph");
    let graph = GraphRef::new(&shape, &graph.layer0, &graph.upper);
    let mut seen: BTreeSet<u32> = graph.entries().iter().copied().collect();
    let mut queue: VecDeque<u32> = seen.iter().copied().collect();
    while let Some(node) = queue.pop_front() {
        for link in graph.links(node) {
            assert!(link < shape.nodes(), "a link of {node} leads to {link}");
            if seen.insert(link) {
                queue.push_back(link);
            }
        }
    }
    seen.len()
}

fn check_whole(set: &Set, threads: usize, coded: bool) -> Linked {
    let (graph, mended) = set.build(threads, coded);
    check_found(set, &graph, mended);
    graph
}

/// Every node is reached, and found by its own embedding.
fn check_found(set: &Set, graph: &Linked, mended: Mended) {
    let shape = graph.graph.shape().expect("is a graph");
    assert_eq!(shape.nodes() as usize, set.len());
    assert_eq!(reachable(&graph.graph), set.len(), "{mended:?}");
    // Dot does not promise that an embedding is near itself; there the walk above is the promise.
    if set.metric != Metric::Dot {
        let mut scratch = Scratch::new();
        for i in 0..set.len() {
            let own = (set.metric.kernel())(set.get(i), set.get(i));
            let got = set.search(graph, set.get(i), 10, EF_DEFAULT, |_| true, &mut scratch);
            let tied = scratch.hits().last().is_some_and(|last| last.distance <= own);
            assert!(tied || got.contains(&(i as u32)), "node {i} does not find itself: {mended:?}");
        }
    }
}

fn check_recall(metric: Metric, threads: usize) {
    let (base, queries) = Set::clustered(metric, 4000, 100, 11);
    for coded in [true, false] {
        let graph = check_whole(&base, threads, coded);
        let recall = base.recall(&graph, &queries, EF_DEFAULT, |_| true);
        assert!(recall >= 0.95, "{metric} {threads} threads coded {coded}: recall {recall}");
        let recall = base.recall(&graph, &queries, 512, |_| true);
        assert!(recall >= 0.998, "{metric} {threads} threads coded {coded}: recall {recall} at ef 512");
    }
}

#[test]
fn cosine_graphs_find_what_a_scan_finds() {
    check_recall(Metric::Cosine, 1);
    check_recall(Metric::Cosine, 8);
}

#[test]
fn dot_graphs_find_what_a_scan_finds() {
    check_recall(Metric::Dot, 2);
}

#[test]
fn squared_l2_graphs_find_what_a_scan_finds() {
    check_recall(Metric::SquaredL2, 2);
}

#[test]
fn a_filtered_search_finds_what_a_filtered_scan_finds() {
    let (base, queries) = Set::clustered(Metric::Cosine, 4000, 50, 12);
    let graph = check_whole(&base, 2, true);
    for every in [2, 10, 100] {
        let recall = base.recall(&graph, &queries, EF_DEFAULT, |row| row % every == 1);
        assert!(recall >= 0.98, "one in {every}: recall {recall}");
    }
    // A whole cluster and nothing else, far from most queries.
    let recall = base.recall(&graph, &queries, EF_DEFAULT, |row| row < 100);
    assert!(recall >= 0.98, "one cluster: recall {recall}");
}

#[test]
fn every_single_node_is_found_when_only_it_is_accepted() {
    let (base, queries) = Set::clustered(Metric::SquaredL2, 600, 1, 13);
    let graph = check_whole(&base, 2, true);
    let mut scratch = Scratch::new();
    for i in 0..600 {
        let got = base.search(&graph, queries.get(0), 5, 10, |row| row == i, &mut scratch);
        assert_eq!(got, [i]);
    }
}

#[test]
fn small_graphs_are_exact() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::SquaredL2] {
        let (base, queries) = Set::clustered(metric, 40, 10, 14);
        for len in [0, 1, 2, 3, 10, 33, 34, 40] {
            let base = Set::new(metric, base.dimension, base.floats[..len * base.dimension].to_vec());
            let graph = check_whole(&base, 2, true);
            let recall = |k| {
                let mut scratch = Scratch::new();
                for i in 0..queries.len() {
                    let query = queries.get(i);
                    let got = base.search(&graph, query, k, 64, |_| true, &mut scratch);
                    assert_eq!(got, base.exact(query, k, |_| true), "{metric} {len} nodes");
                }
            };
            recall(1);
            recall(10);
            recall(100);
        }
    }
}

#[test]
fn a_thousand_equal_embeddings_make_a_graph() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::SquaredL2] {
        let set = Set::new(metric, 3, [0.5, -0.25, 1.0].repeat(1000));
        let graph = check_whole(&set, 2, true);
        let mut scratch = Scratch::new();
        let got = set.search(&graph, set.get(0), 1000, 64, |_| true, &mut scratch);
        assert_eq!(got.len(), 1000, "{metric}");
        let got = set.search(&graph, set.get(0), 10, 64, |row| row == 777, &mut scratch);
        assert_eq!(got, [777], "{metric}");
    }
}

#[test]
fn many_copies_do_not_hide_what_is_beside_them() {
    let (base, queries) = Set::clustered(Metric::Cosine, 1000, 50, 15);
    let mut floats = base.floats.clone();
    for _ in 0..500 {
        floats.extend_from_slice(base.get(500));
        floats.extend_from_slice(base.get(17));
    }
    let set = Set::new(Metric::Cosine, base.dimension, floats);
    let graph = check_whole(&set, 2, true);
    let recall = set.recall(&graph, &queries, EF_DEFAULT, |row| row < 1000);
    assert!(recall >= 0.98, "recall {recall}");
}

#[test]
fn zeros_have_a_place_under_dot_and_squared_l2() {
    for metric in [Metric::Dot, Metric::SquaredL2] {
        let (base, _) = Set::clustered(metric, 300, 1, 16);
        let mut floats = base.floats.clone();
        floats.extend([0.0; 24].repeat(100));
        check_whole(&Set::new(metric, 24, floats), 1, true);
    }
}

#[test]
fn a_budget_and_a_caller_end_a_search() {
    let (base, queries) = Set::clustered(Metric::Cosine, 3000, 1, 17);
    for coded in [true, false] {
        let (graph, _) = base.build(2, coded);
        let mut scratch = Scratch::new();
        let mut query = Query { vector: queries.get(0), k: 10, ef: 64, budget: Some(500), past: false };
        let nobody = |_: u32| false;
        let finish = base.walk(&graph, &query, nobody, || true, &mut scratch);
        assert_eq!(finish, Finish::OverBudget);
        assert!((500..600).contains(&scratch.distances()), "{}", scratch.distances());
        query.budget = None;
        let finish = base.walk(&graph, &query, nobody, || true, &mut scratch);
        assert_eq!(finish, Finish::Complete);
        assert!(scratch.hits().is_empty() && scratch.hops() == 3000, "{}", scratch.hops());
        let asked = Cell::new(0);
        let keep_going = || {
            asked.set(asked.get() + 1);
            asked.get() < 3
        };
        let finish = base.walk(&graph, &query, nobody, keep_going, &mut scratch);
        assert_eq!((finish, scratch.hops()), (Finish::Stopped, 3 * 64));
    }
}

/// A filter takes one in ten, anywhere or all in one place: walks past the others find what is nearest among those, and
/// compare with fewer than walks through the others do.
#[test]
fn a_walk_past_refused_nodes_finds_the_nearest_of_the_others_sooner() {
    let (base, queries) = Set::clustered(Metric::Cosine, 6000, 40, 23);
    let anywhere = |row: u32| row % 10 == 3;
    let in_one_place = |row: u32| row / 600 == 4;
    for coded in [true, false] {
        let (graph, _) = base.build(2, coded);
        let mut scratch = Scratch::new();
        for (what, accept) in [("anywhere", &anywhere as &dyn Fn(u32) -> bool), ("in one place", &in_one_place)] {
            let (mut found, mut through, mut past) = (0, 0, 0);
            for i in 0..queries.len() {
                let vector = queries.get(i);
                let exact = base.exact(vector, 10, accept);
                base.search(&graph, vector, 10, 64, accept, &mut scratch);
                through += scratch.distances();
                let query = Query { vector, k: 10, ef: 64, budget: None, past: true };
                assert_eq!(base.walk(&graph, &query, accept, || true, &mut scratch), Finish::Complete);
                past += scratch.distances();
                assert!(scratch.hits().iter().all(|hit| accept(hit.row)));
                found += scratch.hits().iter().filter(|hit| exact.contains(&hit.row)).count();
            }
            let recall = found as f64 / (10 * queries.len()) as f64;
            assert!(recall >= 0.95, "{what}, codes {coded}: {recall}");
            assert!(past * 2 < through, "{what}, codes {coded}: {past} distances past, {through} through");
        }
        // Nobody is accepted: everything is walked through, and nothing found.
        let query = Query { vector: queries.get(0), k: 10, ef: 64, budget: None, past: true };
        assert_eq!(base.walk(&graph, &query, |_| false, || true, &mut scratch), Finish::Complete);
        assert!(scratch.hits().is_empty());
        assert_eq!(scratch.hops(), base.len());
    }
}

/// In many dimensions a few nodes are near to everybody, and their few links are what all others want to be found by.
#[test]
fn nodes_that_crowd_each_other_out_are_linked_and_not_made_entries() {
    const DIMENSION: usize = 60;
    let mut chance = Chance(17);
    let floats = (0..3000 * DIMENSION).map(|_| chance.normal()).collect();
    let set = Set::new(Metric::Cosine, DIMENSION, floats);
    let options = GraphOptions { m: 6, ef_construction: 6, threads: 1 };
    for coded in [true, false] {
        let (graph, mended) = set.build_with(options, coded, None);
        check_found(&set, &graph, mended);
        assert!(mended.unfound > 200, "{mended:?}");
        assert_eq!(mended.entries, 0, "{mended:?}");
    }
}

#[test]
fn what_building_takes_is_foretold() {
    let (base, _) = Set::clustered(Metric::Cosine, 4000, 1, 23);
    let options = GraphOptions { m: 16, ef_construction: 100, threads: 1 };
    for coded in [true, false] {
        let (linked, _) = base.build(1, coded);
        let graph = 4 * (linked.graph.layer0.len() + linked.graph.upper.len());
        let codes = linked.codes.map_or(4 * base.floats.len(), |codes| codes.rows.len() + 8 * codes.beside.len());
        // What it ends with, and at its peak as much again for putting all of it into another order.
        let told = working_bytes(base.len(), base.dimension, coded, &options) as usize;
        assert!((graph + codes..3 * (graph + codes)).contains(&told), "{told} told, {graph} + {codes} at the end");
    }
}

#[test]
fn a_search_looks_at_a_small_part_of_a_graph() {
    let (base, queries) = Set::clustered(Metric::Cosine, 4000, 20, 18);
    let (graph, _) = base.build(2, true);
    let mut scratch = Scratch::new();
    for i in 0..queries.len() {
        base.search(&graph, queries.get(i), 10, 64, |_| true, &mut scratch);
        assert!(scratch.distances() < 2000, "{} distances", scratch.distances());
    }
}

#[test]
fn marks_of_earlier_searches_are_forgotten() {
    let (base, queries) = Set::clustered(Metric::Cosine, 200, 1, 19);
    let (graph, _) = base.build(1, true);
    let mut scratch = Scratch::new();
    let first = base.search(&graph, queries.get(0), 10, 10, |_| true, &mut scratch);
    for _ in 0..u32::from(u16::MAX) + 10 {
        let again = base.search(&graph, queries.get(0), 10, 10, |_| true, &mut scratch);
        assert_eq!(again, first);
    }
}

#[test]
fn building_stops_when_cancelled_and_refuses_bad_options() {
    let (base, _) = Set::clustered(Metric::Cosine, 100, 1, 20);
    type Get<'v> = dyn Fn(usize) -> Cow<'v, [f32]> + Sync + 'v;
    fn run(get: &Get<'_>, options: GraphOptions, coded: bool, cancel: &AtomicBool) -> Result<(), BuildError> {
        let embeddings = Embeddings { metric: Metric::Cosine, len: 100, get, coded };
        build(&embeddings, &options, None, cancel).map(|_| ())
    }
    let plain = |i: usize| Cow::Borrowed(base.get(i));
    let build = |m, ef_construction, threads, cancelled| {
        run(&plain, GraphOptions { m, ef_construction, threads }, true, &AtomicBool::new(cancelled))
    };
    assert!(matches!(build(16, 100, 1, true), Err(BuildError::Cancelled)));
    assert!(build(16, 100, 1, false).is_ok());
    for (m, ef, threads) in [(1, 100, 1), (129, 200, 1), (16, 15, 1), (16, 10_001, 1), (16, 100, 0)] {
        assert!(matches!(build(m, ef, threads, false), Err(BuildError::Options { .. })));
    }
    let options = GraphOptions { m: 4, ef_construction: 100, threads: 2 };
    for coded in [true, false] {
        let cancel = AtomicBool::new(false);
        let raise = |i: usize| {
            // Raised when everything has been read: before the first is linked.
            if i == 99 {
                cancel.store(true, Ordering::Relaxed);
            }
            plain(i)
        };
        assert!(matches!(run(&raise, options, coded, &cancel), Err(BuildError::Cancelled)));
        let uneven = |i: usize| Cow::Borrowed(&base.get(i)[i / 99..]);
        let refused = run(&uneven, options, coded, &AtomicBool::new(false));
        assert!(matches!(refused, Err(BuildError::Dimension { node: 99, got: 23, expected: 24 })));
    }
}

#[test]
fn a_damaged_graph_is_searched_without_a_panic() {
    let (base, queries) = Set::clustered(Metric::Cosine, 500, 1, 21);
    let (mut linked, _) = base.build(1, true);
    let graph = linked.graph.clone();
    for seed in 0..300 {
        let mut chance = Chance(seed);
        linked.graph = graph.clone();
        let damaged = &mut linked.graph;
        for _ in 0..20 {
            let words = if chance.next().is_multiple_of(2) { &mut damaged.layer0 } else { &mut damaged.upper };
            let at = chance.next() as usize % words.len();
            words[at] = match chance.next() % 3 {
                0 => chance.next() as u32,
                1 => chance.next() as u32 % 600,
                _ => NO_LINK,
            };
        }
        // Where the head still makes sense, the search does what it can, and a merge starts from what there is.
        if let Some(shape) = damaged.shape() {
            let query = Query { vector: queries.get(0), k: 10, ef: 64, budget: None, past: false };
            let mut scratch = Scratch::new();
            let finish = base.walk(&linked, &query, |_| true, || true, &mut scratch);
            assert_eq!(finish, Finish::Complete, "seed {seed}");
            let lent = GraphRef::new(&shape, &linked.graph.layer0, &linked.graph.upper);
            let seed_graph = Seed { graph: lent, new_of: (0..500).collect() };
            let options = GraphOptions { m: 16, ef_construction: 100, threads: 1 };
            let (again, mended) = base.build_with(options, true, Some(&seed_graph));
            check_found(&base, &again, mended);
        }
    }
    for len in 0..graph.upper.len() {
        assert_eq!(GraphShape::read(graph.layer0.len(), &graph.upper[..len]), None, "{len} words");
    }
}

/// Builds a graph of the first part of a set, takes some of it away, and adds the rest.
fn check_grafted(metric: Metric, coded: bool, gone: impl Fn(u32) -> bool, seed: u64) {
    let (all, queries) = Set::clustered(metric, 4000, 100, seed);
    let first = Set::new(metric, all.dimension, all.floats[..2500 * all.dimension].to_vec());
    let (old, _) = first.build(2, coded);
    let kept: Vec<u32> = (0..4000).filter(|&i| i >= 2500 || !gone(i)).collect();
    let mut new_of = vec![NO_LINK; 2500];
    (0..).zip(&kept).filter(|&(_, &i)| i < 2500).for_each(|(new, &i)| new_of[i as usize] = new);
    let floats = kept.iter().flat_map(|&i| all.get(i as usize)).copied().collect();
    let set = Set::new(metric, all.dimension, floats);
    let shape = old.graph.shape().expect("is a graph");
    let graph = GraphRef::new(&shape, &old.graph.layer0, &old.graph.upper);
    let options = GraphOptions { m: 16, ef_construction: 100, threads: 2 };
    let (grafted, mended) = set.build_with(options, coded, Some(&Seed { graph, new_of }));
    check_found(&set, &grafted, mended);
    let (anew, _) = set.build(2, coded);
    for ef in [EF_DEFAULT, 128] {
        let (got, fresh) = (set.recall(&grafted, &queries, ef, |_| true), set.recall(&anew, &queries, ef, |_| true));
        assert!(got >= fresh - 0.01, "{metric} coded {coded} ef {ef}: recall {got}, built anew {fresh}");
    }
}

#[test]
fn a_graph_that_grew_from_another_is_as_good_as_one_built_anew() {
    check_grafted(Metric::Cosine, true, |_| false, 31);
    check_grafted(Metric::Cosine, true, |i| i % 2 == 0, 32);
    check_grafted(Metric::SquaredL2, false, |i| i % 3 == 0, 33);
    check_grafted(Metric::Dot, true, |i| i % 3 == 0, 34);
    // Whole clusters are gone.
    check_grafted(Metric::Cosine, true, |i| i < 1200, 35);
}

/// A real set's embeddings, and its queries.
fn sets(real: &RealSet) -> (Set, Set) {
    let set = |floats: &[f32]| Set::new(Metric::Cosine, real.dimension, floats.to_vec());
    (set(&real.base), set(&real.queries))
}

/// Whatever the number of threads, and in the order of the file, in which neighbours often follow each other and threads are
/// in each other's way. `LOCI_DATA` names a folder with a larger set to be tried too.
#[test]
fn real_embeddings_in_file_order_are_found() {
    for real in [RealSet::shipped(), RealSet::larger()].into_iter().flatten() {
        let (base, queries) = sets(&real);
        for threads in [1, 2, 8] {
            let (graph, mended) = base.build(threads, true);
            check_found(&base, &graph, mended);
            let [usual, high] = [EF_DEFAULT, 512].map(|ef| base.recall(&graph, &queries, ef, |_| true));
            println!(
                "{}, {threads} threads: 0 unreachable, recall@10 {usual:.4} at ef {EF_DEFAULT}, {high:.4} at ef 512; {mended:?}",
                real.name
            );
            assert!(usual >= 0.97 && high >= 0.998, "{}, {threads} threads: {usual}, {high} at ef 512", real.name);
        }
    }
}

/// Prints build time, recall and cost on the large set; takes minutes. `LOCI_MEASURE=1 cargo test
/// --release -p loci-index measure -- --nocapture`.
#[test]
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock; nothing is decided by it")]
fn measure_the_large_real_set() {
    if std::env::var_os("LOCI_MEASURE").is_none() {
        println!("skipped: set LOCI_MEASURE=1 and LOCI_DATA to the folder that holds minilm-60k");
        return;
    }
    let real = RealSet::larger().expect("it is in LOCI_DATA");
    let ((base, queries), dimension) = (sets(&real), real.dimension);
    let options = GraphOptions { threads: 2, ..GraphOptions::default() };
    let start = std::time::Instant::now();
    let (graph, mended) = base.build_with(options, true, None);
    println!("{} x {dimension}: built in {:.1?}, {mended:?}", base.len(), start.elapsed());
    let flat = &graph.graph;
    assert_eq!(reachable(flat), base.len());
    let bytes = 4 * (flat.layer0.len() + flat.upper.len());
    println!("{:.1} bytes a node", bytes as f64 / base.len() as f64);
    let exact: Vec<Vec<u32>> = (0..queries.len()).map(|i| base.exact(queries.get(i), 10, |_| true)).collect();
    let mut scratch = Scratch::new();
    for ef in [10, 16, 24, 32, 64, 128, 256, 512] {
        let (mut found, mut distances) = (0, 0);
        let start = std::time::Instant::now();
        for (i, exact) in exact.iter().enumerate() {
            let got = base.search(&graph, queries.get(i), 10, ef, |_| true, &mut scratch);
            found += exact.iter().filter(|row| got.contains(row)).count();
            distances += scratch.distances();
        }
        let micros = start.elapsed().as_micros() as f64 / queries.len() as f64;
        let recall = found as f64 / (10 * queries.len()) as f64;
        let distances = distances / queries.len();
        println!("ef {ef:3}: recall {recall:.4}, {micros:.1} us, {distances} distances a query");
    }
}

/// One component is so much larger than all others that a byte cannot tell these apart.
#[test]
fn embeddings_that_codes_do_not_serve_are_searched_without_them() {
    let (base, queries) = Set::clustered(Metric::SquaredL2, 3000, 30, 41);
    let stretched = |set: &Set| {
        let mut floats = set.floats.clone();
        let mut chance = Chance(42);
        floats
            .chunks_exact_mut(set.dimension)
            .for_each(|x| x[0] = if chance.next().is_multiple_of(2) { 1e4 } else { -1e4 });
        Set::new(set.metric, set.dimension, floats)
    };
    let (base, queries) = (stretched(&base), stretched(&queries));
    let get = |i| Cow::Borrowed(base.get(i));
    let embeddings = Embeddings { metric: base.metric, len: base.len(), get: &get, coded: true };
    let options = GraphOptions { m: 16, ef_construction: 100, threads: 2 };
    let Built { graph, codes, mended } = build(&embeddings, &options, None, &AtomicBool::new(false)).expect("builds");
    assert!(codes.is_none(), "codes serve after all");
    let linked = Linked { graph: graph.expect("was asked for"), codes };
    check_found(&base, &linked, mended);
    let recall = base.recall(&linked, &queries, EF_DEFAULT, |_| true);
    assert!(recall >= 0.95, "recall {recall}");
}

/// hnsw_rs as the oracle: at the same parameters our graph finds as much, by codes and without.
#[test]
fn our_graph_finds_as_much_as_that_of_hnsw_rs() {
    use hnsw_rs::prelude::{DistDot, Hnsw};
    let Some(real) = RealSet::shipped() else { return };
    let (_, queries) = sets(&real);
    let base = Set::new(Metric::Cosine, real.dimension, real.base[..2_500 * real.dimension].to_vec());
    let oracle = Hnsw::<f32, DistDot>::new(16, base.len(), 16, 100, DistDot {});
    // Its distance asserts that embeddings are exactly normalised; shrunk a little, they are.
    let shrunk = |x: &[f32]| x.iter().map(|x| x * 0.999_99).collect::<Vec<f32>>();
    (0..base.len()).for_each(|i| oracle.insert((&shrunk(base.get(i)), i)));
    let (mut found, mut all) = (0, 0);
    for i in 0..queries.len() {
        let exact = base.exact(queries.get(i), 10, |_| true);
        let hits = oracle.search(&shrunk(queries.get(i)), 10, EF_DEFAULT);
        found += hits.iter().filter(|hit| exact.contains(&(hit.d_id as u32))).count();
        all += exact.len();
    }
    let theirs = found as f64 / all as f64;
    for coded in [true, false] {
        let (graph, _) = base.build(2, coded);
        let ours = base.recall(&graph, &queries, EF_DEFAULT, |_| true);
        assert!(ours >= theirs - 0.01, "coded {coded}: recall {ours}, hnsw_rs {theirs}");
    }
}
