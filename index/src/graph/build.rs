//! Building a graph: hnsw_rs links the nodes, then we flatten, mend and check what it made.
//!
//! ```text
//!   embeddings --copies, in batches--> hnsw_rs --> flat arrays --> mend --> check --> FlatGraph
//!                                     (own pool)                (unreachable  (every node by
//!                                                                get links)    its own embedding)
//! ```
//!
//! This is the only file that names hnsw_rs, which is good at linking and rough in its manners. So:
//! the distance is ours and never negative or NaN (it asserts that); M is below 256 (it exits the
//! process above, and wraps at 256); the first nodes go in one at a time (those inserted while there
//! is no entry yet get no links); inserting happens on a pool of our own, behind `catch_unwind`;
//! its file loader is never used. Two threads that insert neighbours at the same moment can, in
//! theory, wait for each other's lists for ever, so a batch that makes no progress for a long time is
//! given up together with its threads, and the graph is built again by one thread.
//!
//! A few nodes in a hundred thousand come out unlinked or crowded out, and of many equal
//! embeddings most do. Mending is ours: a walk over layer 0 from the entry gives a tree; whatever
//! the tree does not reach is linked from its nearest node in the tree that has room, or in place
//! of a link that the tree does not need. So the tree only grows, and in the end holds every node.
//!
//! **Dot.** The inner product is no metric: nothing says that a node is near itself, and hnsw_rs
//! wants distances from 0 up. We build for the squared L2 distance after giving each embedding one
//! more component, sqrt(R^2 - |x|^2), where R is the greatest length: all embeddings then have
//! length R. For a query with 0 in that component the squared distance is |q|^2 + R^2 - 2 q.x, so
//! nearest there is the greatest inner product here, and a search by plain `-dot` walks that graph
//! exactly as a search by that distance would. (Bachrach and others, 2014.)

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use hnsw_rs::prelude::{Distance, Hnsw};
use rayon::prelude::*;

use super::search::{Query, Scratch, search};
use super::{EF_DEFAULT, FlatGraph, GraphOptions, GraphRef, NO_LINK, Vectors};
use crate::distance::{Kernel, Metric};
use crate::scan::Hit;

/// What had to be mended. Large numbers for their graph's size say that something is odd with the
/// embeddings (many equal ones) or with the builder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    /// Nodes that no walk over layer 0 reached.
    pub unreachable: usize,
    /// Nodes that a search for their own embedding did not find.
    pub unfound: usize,
    /// Nodes that are entries because no links made them found.
    pub entries: usize,
}

/// Why there is no graph.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The caller's flag was raised.
    #[error("building the graph was cancelled")]
    Cancelled,
    /// The options are outside what a graph can have.
    #[error(
        "graph options m={m}, ef_construction={ef_construction}, threads={threads} are out of range: m 2 to 128, ef_construction m to 10000, threads 1 to 1024"
    )]
    Options {
        /// As asked.
        m: usize,
        /// As asked.
        ef_construction: usize,
        /// As asked.
        threads: usize,
    },
    /// More nodes than a graph numbers.
    #[error("a graph holds at most 2147483647 embeddings, not {0}")]
    TooMany(usize),
    /// An embedding's dimension differs from the first one's.
    #[error("embedding {node} has {got} components, the first one has {expected}")]
    Dimension {
        /// Which.
        node: usize,
        /// Its dimension.
        got: usize,
        /// The first one's.
        expected: usize,
    },
    /// No threads to be had.
    #[error("cannot start {threads} threads to build a graph: {reason}")]
    Threads {
        /// As asked.
        threads: usize,
        /// What the system said.
        reason: String,
    },
    /// The library that links nodes failed, again with a single thread.
    #[error("the graph builder failed twice: {0}")]
    Builder(String),
}

/// Inserted together; between batches the cancellation flag is looked at. Per thread.
const BATCH: usize = 256;
/// These go in one after the other, so that there is something to link to.
const FIRST: usize = 64;
/// A batch takes a second or two; after so many seconds it is stuck.
const STUCK_SECONDS: u32 = 300;
/// hnsw_rs knows 16.
const LAYERS: usize = 16;
/// How many links a node that was not found is given at a time.
const LINKS_MORE: usize = 3;
/// Linking and checking again this often, before a node is made an entry.
const ROUNDS: usize = 6;
/// In how many nearest a node has to find itself.
const FOUND_IN: usize = 10;

/// Builds the graph of `len` embeddings. It takes as long as it takes (one to two milliseconds of a core
/// for each embedding) and, for Dot, needs a copy of the embeddings beside hnsw_rs's own.
pub fn build<'v>(
    metric: Metric,
    len: usize,
    embedding: &(dyn Fn(usize) -> &'v [f32] + Sync),
    options: &GraphOptions,
    cancel: &AtomicBool,
) -> Result<(FlatGraph, Mended), BuildError> {
    let GraphOptions { m, ef_construction, threads } = *options;
    if !(2..=128).contains(&m) || !(m..=10_000).contains(&ef_construction) || !(1..=1024).contains(&threads) {
        return Err(BuildError::Options { m, ef_construction, threads });
    }
    if len > i32::MAX as usize {
        return Err(BuildError::TooMany(len));
    }
    let expected = if len == 0 { 0 } else { embedding(0).len() };
    if let Some(node) = (0..len).find(|&node| embedding(node).len() != expected) {
        return Err(BuildError::Dimension { node, got: embedding(node).len(), expected });
    }
    if len <= 2 * m + 1 {
        // There is room for everybody to be linked with everybody.
        return Ok((complete(len, m), Mended::default()));
    }
    let pool = new_pool(threads)?;
    let lifted = (metric == Metric::Dot).then(|| Lifted::new(len, expected, embedding));
    let lifted_or_plain = |i: usize| -> &[f32] {
        match &lifted {
            Some(lifted) => lifted.get(i),
            None => embedding(i),
        }
    };
    let metric = if lifted.is_some() { Metric::SquaredL2 } else { metric };
    let space = Space { kernel: metric.kernel(), embedding: &lifted_or_plain };
    let (pool, layers) = match link(&space, len, options, pool, cancel) {
        Err(BuildError::Builder(reason)) => {
            tracing::warn!(%reason, "building a graph again with a single thread");
            let options = GraphOptions { threads: 1, ..*options };
            link(&space, len, &options, new_pool(1)?, cancel)?
        }
        other => other?,
    };
    let mut graph = Draft::new(layers, len, m);
    let mut mended = Mended::default();
    let mut scratch = Scratch::new();
    mended.unreachable = graph.reach_all(&space, &mut scratch, cancel)?;
    graph.find_all(&space, &pool, &mut mended, &mut scratch, cancel)?;
    Ok((graph.finish(), mended))
}

fn new_pool(threads: usize) -> Result<rayon::ThreadPool, BuildError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("graph-{i}"))
        .build()
        .map_err(|e| BuildError::Threads { threads, reason: e.to_string() })
}

fn check(cancel: &AtomicBool) -> Result<(), BuildError> {
    if cancel.load(Ordering::Relaxed) { Err(BuildError::Cancelled) } else { Ok(()) }
}

/// Where the graph is built: the embeddings, or for Dot the lifted ones.
struct Space<'a, 'v> {
    kernel: Kernel,
    embedding: &'a (dyn Fn(usize) -> &'v [f32] + Sync),
}

impl Vectors for Space<'_, '_> {
    fn vector(&self, node: u32) -> Option<&[f32]> {
        Some((self.embedding)(node as usize))
    }
}

/// Embeddings with the component that gives all of them the same length.
struct Lifted {
    floats: Vec<f32>,
    dimension: usize,
}

impl Lifted {
    fn new<'v>(len: usize, dimension: usize, embedding: &dyn Fn(usize) -> &'v [f32]) -> Lifted {
        let squares = |i: usize| -> f64 { embedding(i).iter().map(|&x| f64::from(x) * f64::from(x)).sum() };
        let greatest = (0..len).map(squares).fold(0.0, f64::max);
        let mut floats = Vec::with_capacity(len * (dimension + 1));
        for i in 0..len {
            floats.extend_from_slice(embedding(i));
            floats.push((greatest - squares(i)).max(0.0).sqrt() as f32);
        }
        Lifted { floats, dimension: dimension + 1 }
    }

    fn get(&self, i: usize) -> &[f32] {
        &self.floats[i * self.dimension..(i + 1) * self.dimension]
    }
}

/// The distance as hnsw_rs wants it: never below zero, never NaN.
struct NonNegative(Kernel);

impl Distance<f32> for NonNegative {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        let distance = (self.0)(a, b);
        if distance.is_nan() { f32::MAX } else { distance.clamp(0.0, f32::MAX) }
    }
}

/// Each node's links, layer by layer up to its own.
type Layers = Vec<Vec<Vec<u32>>>;

/// Has hnsw_rs link the nodes. Gives the pool back, unless its threads are stuck.
fn link(
    space: &Space<'_, '_>,
    len: usize,
    options: &GraphOptions,
    pool: rayon::ThreadPool,
    cancel: &AtomicBool,
) -> Result<(rayon::ThreadPool, Layers), BuildError> {
    let distance = NonNegative(space.kernel);
    let hnsw: Hnsw<'static, f32, NonNegative> = Hnsw::new(options.m, len, LAYERS, options.ef_construction, distance);
    let hnsw = Arc::new(hnsw);
    let mut next = 0;
    while next < len {
        check(cancel)?;
        let alone = next < FIRST;
        let end = len.min(if alone { FIRST } else { next + BATCH * options.threads });
        let batch: Vec<(Vec<f32>, usize)> = (next..end).map(|i| ((space.embedding)(i).to_vec(), i)).collect();
        let target = Arc::clone(&hnsw);
        run(&pool, move || {
            let insert = |(embedding, i): &(Vec<f32>, usize)| target.insert((embedding, *i));
            if alone { batch.iter().for_each(insert) } else { batch.par_iter().for_each(insert) }
        })?;
        next = end;
    }
    let layers = run(&pool, move || {
        // hnsw_rs takes its structure apart in parallel, so that belongs on the pool as well.
        let layers = flatten(&hnsw, len);
        drop(hnsw);
        layers
    })?;
    Ok((pool, layers))
}

/// Runs something on the pool and waits, but not for ever.
fn run<T: Send + 'static>(
    pool: &rayon::ThreadPool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BuildError> {
    let (done, result) = sync_channel(1);
    pool.spawn(move || {
        let worked = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_string()
        });
        // If nobody waits any more, the result is not wanted.
        let _ = done.send(worked);
    });
    for _ in 0..STUCK_SECONDS {
        match result.recv_timeout(Duration::from_secs(1)) {
            Ok(worked) => return worked.map_err(BuildError::Builder),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Err(BuildError::Builder(format!("no progress for {STUCK_SECONDS} s")))
}

fn flatten(hnsw: &Hnsw<'static, f32, NonNegative>, len: usize) -> Layers {
    let points = hnsw.get_point_indexation();
    let mut layers: Layers = vec![Vec::new(); len];
    for layer in 0..=hnsw.get_max_level_observed() {
        for point in points.get_layer_iterator(layer.into()) {
            // Lists above a node's own layer are notes that hnsw_rs makes while descending.
            let own = point.get_neighborhood_id().into_iter().take(usize::from(layer) + 1);
            let lists = own.enumerate().map(|(l, list)| {
                let there = list.into_iter().filter(|n| usize::from(n.p_id.0) >= l);
                there.map(|n| n.d_id as u32).collect()
            });
            if let Some(place) = layers.get_mut(point.get_origin_id()) {
                *place = lists.collect();
            }
        }
    }
    layers
}

fn complete(len: usize, m: usize) -> FlatGraph {
    let len = len as u32;
    let mut layer0 = vec![NO_LINK; len as usize * 2 * m];
    for (node, links) in (0..len).zip(layer0.chunks_exact_mut(2 * m)) {
        let others = (0..len).filter(|&other| other != node);
        links.iter_mut().zip(others).for_each(|(link, other)| *link = other);
    }
    let mut upper = vec![len, m as u32, 0, u32::from(len > 0)];
    upper.extend((len > 0).then_some(0));
    FlatGraph { layer0, upper }
}

/// A graph whose layer 0 is being mended.
struct Draft {
    nodes: u32,
    m: usize,
    flat: FlatGraph,
    entries: Vec<u32>,
    /// From whom the walk from the entries first came to a node: itself for an entry, nobody yet if
    /// `NO_LINK`. A link to a node from its parent is never taken away.
    parent: Vec<u32>,
}

impl Draft {
    fn new(layers: Layers, len: usize, m: usize) -> Draft {
        let nodes = len as u32;
        let mut layer0 = vec![NO_LINK; len * 2 * m];
        let fill = |links: &mut [u32], node: u32, list: &[u32]| {
            let mut used = 0;
            for &link in list {
                if link != node && link < nodes && !links[..used].contains(&link) && used < links.len() {
                    links[used] = link;
                    used += 1;
                }
            }
        };
        for (node, links) in (0..nodes).zip(layer0.chunks_exact_mut(2 * m)) {
            fill(links, node, layers[node as usize].first().map_or(&[], Vec::as_slice));
        }
        let top = layers.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1);
        let mut members: Vec<Vec<u32>> =
            (1..=top).map(|l| (0..nodes).filter(|&n| layers[n as usize].len() > l).collect()).collect();
        // The entry is the node of the top layer that has most links there, and its place is 0.
        let mut entry = 0;
        if let Some(last) = members.last_mut() {
            let links = |n: &u32| layers[*n as usize].last().map_or(0, Vec::len);
            let best = (0..last.len()).max_by_key(|&i| (links(&last[i]), last.len() - i));
            last.swap(0, best.unwrap_or(0));
            entry = last[0];
        }
        let mut upper = Vec::new();
        let mut places_below: Option<Vec<u32>> = None;
        for (l, ids) in members.iter().enumerate() {
            let mut places = vec![NO_LINK; len];
            (0..).zip(ids).for_each(|(place, &id)| places[id as usize] = place);
            upper.push(ids.len() as u32);
            upper.extend(ids);
            upper.extend(ids.iter().map(|&id| places_below.as_ref().map_or(id, |p| p[id as usize])));
            for &id in ids {
                let mut links = vec![NO_LINK; m];
                let list: Vec<u32> =
                    layers[id as usize][l + 1].iter().filter_map(|&link| places.get(link as usize).copied()).collect();
                fill(&mut links, places[id as usize], &list);
                upper.extend(links);
            }
            places_below = Some(places);
        }
        let mut draft = Draft {
            nodes,
            m,
            flat: FlatGraph { layer0, upper: Vec::new() },
            entries: vec![entry],
            parent: vec![NO_LINK; len],
        };
        draft.flat.upper = draft.head(top);
        draft.flat.upper.extend(upper);
        draft
    }

    fn head(&self, layers: usize) -> Vec<u32> {
        let mut head = vec![self.nodes, self.m as u32, layers as u32, self.entries.len() as u32];
        head.extend(&self.entries);
        head
    }

    /// Puts another entry into the head.
    fn add_entry(&mut self, node: u32) {
        let at = 4 + self.entries.len();
        self.entries.push(node);
        self.flat.upper.insert(at, node);
        self.flat.upper[3] = self.entries.len() as u32;
        self.parent[node as usize] = node;
    }

    fn links_mut(&mut self, node: u32) -> &mut [u32] {
        let width = 2 * self.m;
        &mut self.flat.layer0[node as usize * width..(node as usize + 1) * width]
    }

    fn links(&self, node: u32) -> &[u32] {
        let width = 2 * self.m;
        &self.flat.layer0[node as usize * width..(node as usize + 1) * width]
    }

    fn search(&self, space: &Space<'_, '_>, node: u32, k: usize, ef: usize, scratch: &mut Scratch) {
        let shape = self.flat.shape().expect("a draft is a whole graph");
        let graph = GraphRef::new(&shape, &self.flat.layer0, &self.flat.upper);
        let vector = (space.embedding)(node as usize);
        let query = Query { vector, kernel: space.kernel, k, ef, budget: None };
        // It has no budget and nobody stops it.
        let _ = search(graph, space, &query, |_| true, || true, scratch);
    }

    /// Walks on from nodes that are in the tree, and takes in all that can be reached from them.
    fn grow(&mut self, from: impl IntoIterator<Item = u32>) {
        let mut queue: VecDeque<u32> = from.into_iter().collect();
        while let Some(node) = queue.pop_front() {
            let width = 2 * self.m;
            for i in 0..width {
                let link = self.flat.layer0[node as usize * width + i];
                if link == NO_LINK {
                    break;
                }
                if self.parent[link as usize] == NO_LINK {
                    self.parent[link as usize] = node;
                    queue.push_back(link);
                }
            }
        }
    }

    /// Links `target` from `source`, where there is room or where a link is not the tree's. Which
    /// node lost its link, if one had to.
    fn add_link(&mut self, source: u32, target: u32) -> Added {
        let parent = std::mem::take(&mut self.parent);
        let links = self.links_mut(source);
        let added = if links.contains(&target) {
            Added::Already
        } else if let Some(free) = links.iter_mut().find(|link| **link == NO_LINK) {
            *free = target;
            Added::Free
        } else if let Some(spare) =
            // hnsw_rs sorts by distance: the last are the farthest.
            links.iter_mut().rev().find(|link| parent[**link as usize] != source)
        {
            *spare = target;
            Added::Instead
        } else {
            Added::Full
        };
        self.parent = parent;
        added
    }

    /// Makes every node reachable. Says how many were not.
    fn reach_all(
        &mut self,
        space: &Space<'_, '_>,
        scratch: &mut Scratch,
        cancel: &AtomicBool,
    ) -> Result<usize, BuildError> {
        for entry in self.entries.clone() {
            self.parent[entry as usize] = entry;
        }
        self.grow(self.entries.clone());
        let mut unreachable = 0;
        // The node linked last has room for more. Where hundreds are equal, the search for one of
        // them always comes to the same few, whose links are all taken.
        let mut last: Option<u32> = None;
        for node in 0..self.nodes {
            if self.parent[node as usize] != NO_LINK {
                continue;
            }
            check(cancel)?;
            unreachable += 1;
            let embedding = (space.embedding)(node as usize);
            self.search(space, node, EF_DEFAULT, EF_DEFAULT, scratch);
            let mut near: Vec<Hit> = scratch.hits().to_vec();
            near.extend(last.map(|row| {
                let distance = (space.kernel)(embedding, (space.embedding)(row as usize));
                Hit { distance, row }
            }));
            near.retain(|hit| hit.row != node);
            near.sort_by(|a, b| a.distance.total_cmp(&b.distance));
            let free = |hit: &&Hit| self.links(hit.row).contains(&NO_LINK);
            let with_room = near.iter().find(free).map(|hit| hit.row);
            let mut sources = with_room.into_iter().chain(near.iter().map(|hit| hit.row));
            let source = sources.find(|&s| !matches!(self.add_link(s, node), Added::Full));
            match source {
                Some(source) => self.parent[node as usize] = source,
                None => self.add_entry(node),
            }
            // It may have come without links of its own.
            for hit in near.iter().take(self.m) {
                if self.links(node).contains(&NO_LINK) {
                    self.add_link(node, hit.row);
                }
            }
            self.grow([node]);
            last = Some(node);
        }
        Ok(unreachable)
    }

    /// Makes every node be found by its own embedding.
    fn find_all(
        &mut self,
        space: &Space<'_, '_>,
        pool: &rayon::ThreadPool,
        mended: &mut Mended,
        scratch: &mut Scratch,
        cancel: &AtomicBool,
    ) -> Result<(), BuildError> {
        let all: Vec<u32> = (0..self.nodes).collect();
        let mut lost = self.unfound(space, pool, &all, cancel)?;
        mended.unfound = lost.len();
        for _ in 0..ROUNDS {
            if lost.is_empty() {
                return Ok(());
            }
            let mut instead = false;
            for &node in &lost {
                check(cancel)?;
                self.search(space, node, EF_DEFAULT, EF_DEFAULT, scratch);
                let mut more = LINKS_MORE;
                for hit in scratch.hits() {
                    match self.add_link(hit.row, node) {
                        Added::Free => more -= 1,
                        Added::Instead => {
                            more -= 1;
                            instead = true;
                        }
                        Added::Already | Added::Full => {}
                    }
                    if more == 0 {
                        break;
                    }
                }
            }
            // A link that gave way may have been how somebody else was found.
            let again = if instead { &all } else { &lost };
            lost = self.unfound(space, pool, again, cancel)?;
        }
        for node in lost {
            self.add_entry(node);
            mended.entries += 1;
        }
        Ok(())
    }

    /// Which of these nodes a search for their own embedding does not find.
    fn unfound(
        &self,
        space: &Space<'_, '_>,
        pool: &rayon::ThreadPool,
        nodes: &[u32],
        cancel: &AtomicBool,
    ) -> Result<Vec<u32>, BuildError> {
        let lost = pool.install(|| {
            nodes
                .par_chunks(256)
                .map_init(Scratch::new, |scratch, part| {
                    if cancel.load(Ordering::Relaxed) {
                        return Vec::new();
                    }
                    let lost = |&node: &u32| {
                        self.search(space, node, FOUND_IN, EF_DEFAULT, scratch);
                        let own = (space.embedding)(node as usize);
                        let own = (space.kernel)(own, own);
                        let hits = scratch.hits();
                        let tied = hits.last().is_some_and(|last| last.distance <= own);
                        !tied && hits.iter().all(|hit| hit.row != node)
                    };
                    part.iter().copied().filter(lost).collect()
                })
                .flatten()
                .collect()
        });
        check(cancel)?;
        Ok(lost)
    }
}

/// What became of a link that was to be added.
enum Added {
    /// It was there.
    Already,
    /// There was room.
    Free,
    /// Another link gave way.
    Instead,
    /// The tree needs all of this node's links.
    Full,
}

impl Draft {
    fn finish(self) -> FlatGraph {
        self.flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_builder_is_an_error() {
        let pool = new_pool(2).expect("starts");
        let failed = run(&pool, || assert_eq!(1, 2, "the reason"));
        assert!(matches!(failed, Err(BuildError::Builder(text)) if text.contains("the reason")));
        assert_eq!(run(&pool, || 7).expect("the pool works on"), 7);
    }

    #[test]
    fn the_distance_given_to_the_builder_is_a_number_from_zero_up() {
        let distance = |value: f32| {
            let kernel: Kernel = |a, _| a[0];
            NonNegative(kernel).eval(&[value], &[])
        };
        assert_eq!(distance(2.5), 2.5);
        assert_eq!(distance(-1e-7), 0.0);
        assert_eq!(distance(f32::NAN), f32::MAX);
        assert_eq!(distance(f32::INFINITY), f32::MAX);
    }

    /// Mends islands on a line: each node is linked with others of its island only, and `full`
    /// leaves no room for further links.
    fn check_islands(islands: u32, size: u32, m: usize, full: bool) {
        let (len, width) = ((islands * size) as usize, 2 * m as u32);
        let degree = if full { width } else { width / 2 };
        let layers: Layers = (0..islands * size)
            .map(|node| {
                let (first, own) = (node / size * size, node % size);
                vec![(1..=degree).map(|i| first + (own + i) % size).collect()]
            })
            .collect();
        let floats: Vec<[f32; 2]> = (0..len).map(|i| [i as f32, 1.0]).collect();
        let embedding = |i: usize| -> &[f32] { &floats[i] };
        let space = Space { kernel: Metric::SquaredL2.kernel(), embedding: &embedding };
        let mut draft = Draft::new(layers, len, m);
        let never = AtomicBool::new(false);
        let mended = draft.reach_all(&space, &mut Scratch::new(), &never).expect("is not cancelled");
        assert_eq!(mended, islands as usize - 1, "one link brings an island");
        let mut walked = Draft { parent: vec![NO_LINK; len], ..draft };
        walked.parent[walked.entries[0] as usize] = walked.entries[0];
        walked.grow([walked.entries[0]]);
        assert_eq!(walked.entries.len(), 1);
        assert!(!walked.parent.contains(&NO_LINK));
    }

    #[test]
    fn islands_are_joined_where_there_is_room() {
        check_islands(2, 20, 4, false);
        check_islands(30, 20, 4, false);
    }

    #[test]
    fn islands_are_joined_where_links_must_give_way() {
        check_islands(2, 20, 4, true);
        check_islands(30, 20, 4, true);
    }
}
