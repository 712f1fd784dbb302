//! Linking: nodes go into a graph one after the other, on several threads at once (HNSW, algorithms 1 and 4).
//!
//! ```text
//!   a node:  find its nearest on every layer (beam of ef_construction)
//!            then, from layer 0 up:  choose its links  -->  write them  -->  link back from each of them
//! ```
//!
//! **A node is seen on a layer only when it is whole there and below.** Nothing is linked before all layers were searched,
//! its own links are written before anybody links back to it, and layer 0 comes first. The other way round another thread
//! would meet a node that leads nowhere, link to nothing but it, and have that link overwritten: in embeddings that come
//! in source order, neighbours are inserted at the same moment, and some of them could never be found again.
//!
//! For the same reason nodes go in scattered: each is followed by one that is far from it in the order of rows.
//!
//! Lists are arrays of atomics. Whoever changes one holds its node's lock, and never two locks; readers hold none and may see
//! a list half changed, which costs them a link.
//!
//! **Which links** (algorithm 4): of the nearest, in order, those that are nearer to the node than to any link chosen before.
//! They lead away in different directions.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use super::beam::{Beam, Distances, Links, Space};
use super::{GraphOptions, NO_LINK};
use crate::directory::huge;
use crate::distance::prefetch;
use crate::scan::{Hit, order};
use crate::way::Steps;

/// How far nodes are from each other.
pub(super) trait Pairs: Sync {
    /// One node, made ready to be compared with others.
    type Prepared: Default + Send;

    /// Makes a node ready.
    fn prepare(&self, node: u32, into: &mut Self::Prepared);

    /// The distance of another node from it.
    fn distance(&self, from: &Self::Prepared, node: u32) -> f32;

    /// Whether two nodes are copies of each other.
    fn same(&self, a: u32, b: u32) -> bool;

    /// The distances of some others from it.
    fn distances(&self, from: &Self::Prepared, nodes: &[u32], into: &mut Distances);
}

/// Everything as far as it is from one node.
pub(super) struct From<'a, P: Pairs> {
    pub pairs: &'a P,
    pub node: &'a P::Prepared,
}

impl<P: Pairs> Space for From<'_, P> {
    fn distances(&self, nodes: &[u32], into: &mut Distances) {
        self.pairs.distances(self.node, nodes, into);
    }
}

/// These go in one after the other, so that there is something to link to.
const FIRST: usize = 64;
/// A thread takes so many nodes at a time; between them it looks at the cancellation flag.
const BATCH: usize = 32;
/// More layers than this are of no use.
const LEVELS_MAX: u32 = 15;
const LOCKS: usize = 1 << 10;

/// A graph that grows.
pub(super) struct Growing {
    m: usize,
    ef_construction: usize,
    /// The highest layer of each node.
    levels: Vec<u8>,
    layer0: Vec<AtomicU32>,
    /// Where a node's links above layer 0 begin, layer after layer.
    upper_at: Vec<u32>,
    upper: Vec<AtomicU32>,
    entry: RwLock<Option<u32>>,
    locks: Vec<Mutex<()>>,
}

/// One layer of it.
struct Layer<'g> {
    graph: &'g Growing,
    level: usize,
}

impl Links for Layer<'_> {
    #[inline]
    fn each(&self, node: u32, mut see: impl FnMut(u32)) {
        for link in self.graph.list(node, self.level) {
            match link.load(Ordering::Relaxed) {
                NO_LINK => break,
                link => see(link),
            }
        }
    }

    #[inline]
    fn prefetch(&self, node: u32) {
        prefetch(self.graph.list(node, self.level));
    }
}

/// What one thread needs besides. Used again and again, it stops allocating.
struct Hand<P: Pairs> {
    beam: Beam,
    node: P::Prepared,
    /// The candidates of each layer, from 0 up.
    found: Vec<Vec<Hit>>,
    chosen: Vec<u32>,
    back: Back<P>,
}

/// What linking back needs.
struct Back<P: Pairs> {
    base: P::Prepared,
    candidate: P::Prepared,
    links: Vec<u32>,
    distances: Distances,
    hits: Vec<Hit>,
    chosen: Vec<u32>,
}

impl<P: Pairs> Hand<P> {
    fn new() -> Hand<P> {
        Hand {
            beam: Beam::default(),
            node: P::Prepared::default(),
            found: Vec::new(),
            chosen: Vec::new(),
            back: Back {
                base: P::Prepared::default(),
                candidate: P::Prepared::default(),
                links: Vec::new(),
                distances: Distances::default(),
                hits: Vec::new(),
                chosen: Vec::new(),
            },
        }
    }
}

/// The layer that chance gives a node: one in `m` is above layer 0, one in `m` of those above layer 1.
fn level_of(node: u32, m: usize) -> u8 {
    let mut x = u64::from(node).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    let mut level = 0;
    while level < LEVELS_MAX && x.is_multiple_of(m as u64) {
        x /= m as u64;
        level += 1;
    }
    level as u8
}

/// 0 to `len`, each followed by one far away: steps of the golden section.
fn scattered(len: usize) -> impl Fn(usize) -> usize + Sync {
    let mut step = ((len as f64 * 0.618_033_988_749_895) as usize).max(1);
    while gcd(step, len) > 1 {
        step += 1;
    }
    move |i| (i as u128 * step as u128 % len.max(1) as u128) as usize
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Growing {
    /// A graph of so many nodes, none of which is linked yet. `given` says the layer of those that come from another graph.
    pub fn new(nodes: usize, options: &GraphOptions, given: impl Fn(u32) -> Option<u8>) -> Growing {
        let m = options.m;
        let atomics = |len: usize| {
            let mut links = huge::room_for(len);
            links.extend((0..len).map(|_| AtomicU32::new(NO_LINK)));
            links
        };
        let levels: Vec<u8> = (0..nodes as u32).map(|node| given(node).unwrap_or_else(|| level_of(node, m))).collect();
        let mut next = 0u32;
        let upper_at = levels.iter().map(|&level| {
            let at = next;
            next += u32::from(level) * m as u32;
            at
        });
        let upper_at = upper_at.collect();
        Growing {
            m,
            ef_construction: options.ef_construction,
            levels,
            layer0: atomics(nodes * 2 * m),
            upper_at,
            upper: atomics(next as usize),
            entry: RwLock::new(None),
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
        }
    }

    pub fn nodes(&self) -> usize {
        self.levels.len()
    }

    pub fn level(&self, node: u32) -> usize {
        usize::from(self.levels[node as usize])
    }

    fn list(&self, node: u32, level: usize) -> &[AtomicU32] {
        if level == 0 {
            let start = node as usize * 2 * self.m;
            &self.layer0[start..start + 2 * self.m]
        } else {
            let start = self.upper_at[node as usize] as usize + (level - 1) * self.m;
            &self.upper[start..start + self.m]
        }
    }

    /// A node's links on a layer.
    pub fn links(&self, node: u32, level: usize) -> impl Iterator<Item = u32> {
        let links = self.list(node, level).iter().map(|link| link.load(Ordering::Relaxed));
        links.take_while(|&link| link != NO_LINK)
    }

    /// Gives a node exactly these links; what finds no room is left out.
    pub fn set_links(&self, node: u32, level: usize, links: &[u32]) {
        let places = self.list(node, level);
        let filled = links.iter().copied().chain(std::iter::repeat(NO_LINK));
        places.iter().zip(filled).for_each(|(place, link)| place.store(link, Ordering::Relaxed));
    }

    /// The node that the way down begins at.
    pub fn entry(&self) -> Option<u32> {
        *self.entry.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the way down begin at this node if that is higher up than where it begins now.
    pub fn raise_entry(&self, node: u32) {
        let mut entry = self.entry.write().unwrap_or_else(PoisonError::into_inner);
        if entry.is_none_or(|old| self.level(old) < self.level(node)) {
            *entry = Some(node);
        }
    }

    /// Layer 0 as one array.
    pub fn into_layers(self) -> (Vec<u32>, UpperLists) {
        let layer0 = self.layer0.into_iter().map(AtomicU32::into_inner).collect();
        let upper = self.upper.into_iter().map(AtomicU32::into_inner).collect();
        (layer0, UpperLists { m: self.m, levels: self.levels, at: self.upper_at, links: upper })
    }

    /// Links the nodes that are not `linked` yet, on so many threads. Whether it came to the end.
    pub fn link_all<P: Pairs>(
        &self,
        pairs: &P,
        linked: impl Fn(u32) -> bool + Sync,
        threads: usize,
        cancel: &AtomicBool,
    ) -> bool {
        let nodes = self.nodes();
        let place = scattered(nodes);
        let mut hand = Hand::new();
        let mut first = 0;
        let mut alone = if self.entry().is_some() { 0 } else { FIRST };
        while first < nodes && alone > 0 {
            let node = place(first) as u32;
            if !linked(node) {
                self.insert(pairs, node, &mut hand);
                alone -= 1;
            }
            first += 1;
        }
        let next = AtomicUsize::new(first);
        let work = |hand: &mut Hand<P>| {
            let mut steps = Steps::of_distances((self.ef_construction * self.m).min(nodes));
            while !cancel.load(Ordering::Relaxed) {
                let start = next.fetch_add(BATCH, Ordering::Relaxed);
                if start >= nodes {
                    break;
                }
                for i in start..nodes.min(start + BATCH) {
                    let node = place(i) as u32;
                    if !linked(node) {
                        self.insert(pairs, node, hand);
                        steps.step();
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            // Where the system gives no more threads, those that there are do all the work.
            let builder = |i: usize| std::thread::Builder::new().name(format!("loci-link-{i}"));
            for i in 1..threads {
                let started = builder(i).spawn_scoped(scope, || work(&mut Hand::new()));
                if started.is_err() {
                    break;
                }
            }
            work(&mut hand);
        });
        !cancel.load(Ordering::Relaxed)
    }

    fn insert<P: Pairs>(&self, pairs: &P, node: u32, hand: &mut Hand<P>) {
        let Hand { beam, node: prepared, found, chosen, back } = hand;
        pairs.prepare(node, prepared);
        let own = self.level(node);
        let Some(entry) = self.entry() else {
            self.raise_entry(node);
            return;
        };
        let space = From { pairs, node: prepared };
        let top = self.level(entry);
        beam.reset(self.nodes(), 1);
        let mut near = beam.measure_one(&space, entry);
        for level in (own + 1..=top).rev() {
            while let Some((nearer, _)) =
                beam.nearest_of(&space, self.links(near.row, level).map(|link| (link, 0)), near.distance)
            {
                near = nearer;
            }
        }
        let mut near = near.row;
        found.resize_with(own + 1, Vec::new);
        for level in (0..=own).rev() {
            let hits = &mut found[level];
            hits.clear();
            if level > top {
                continue;
            }
            beam.reset(self.nodes(), self.ef_construction);
            beam.avoid(node);
            beam.start(&space, near, &|_| true);
            // It has no budget and nobody stops it.
            let _ = beam.walk(&Layer { graph: self, level }, &space, usize::MAX, &|_| true, &mut || true);
            hits.extend(beam.found());
            near = hits.first().map_or(near, |hit| hit.row);
        }
        for (level, hits) in found.iter().enumerate().take(own.min(top) + 1) {
            choose(pairs, hits, self.room(level), &mut back.candidate, chosen);
            self.set_links(node, level, chosen);
            for &link in &*chosen {
                self.link_back(pairs, link, level, node, back);
            }
        }
        if own > top {
            self.raise_entry(node);
        }
    }

    /// How many links a node can have on a layer.
    pub fn room(&self, level: usize) -> usize {
        if level == 0 { 2 * self.m } else { self.m }
    }

    /// Links `node` from `base`; where there is no room, `base` chooses its links anew.
    fn link_back<P: Pairs>(&self, pairs: &P, base: u32, level: usize, node: u32, back: &mut Back<P>) {
        let _held = self.locks[base as usize % LOCKS].lock().unwrap_or_else(PoisonError::into_inner);
        let places = self.list(base, level);
        for place in places {
            match place.load(Ordering::Relaxed) {
                NO_LINK => return place.store(node, Ordering::Relaxed),
                link if link == node => return,
                _ => {}
            }
        }
        let Back { base: prepared, candidate, links, distances, hits, chosen } = back;
        pairs.prepare(base, prepared);
        links.clear();
        links.extend(self.links(base, level).chain([node]));
        pairs.distances(prepared, links, distances);
        hits.clear();
        hits.extend(links.iter().zip(&distances.all).map(|(&row, &distance)| Hit { distance, row }));
        hits.sort_unstable_by_key(|hit| order(hit.distance, hit.row));
        choose(pairs, hits, self.room(level), candidate, chosen);
        self.set_links(base, level, chosen);
    }
}

/// Of the candidates, nearest first, the links that a node should have, at most `room`. Copies of one embedding, which are
/// as near to the node as to each other, get at most half of them: else they would link to nothing but copies.
pub(super) fn choose<P: Pairs>(
    pairs: &P,
    candidates: &[Hit],
    room: usize,
    candidate: &mut P::Prepared,
    chosen: &mut Vec<u32>,
) {
    chosen.clear();
    let mut ties = 0;
    for hit in candidates {
        if chosen.len() == room {
            break;
        }
        pairs.prepare(hit.row, candidate);
        let mut tied = false;
        let apart = chosen.iter().all(|&link| {
            let distance = pairs.distance(candidate, link);
            tied |= distance == hit.distance;
            distance >= hit.distance
        });
        if apart && (!tied || ties < room / 2) {
            ties += usize::from(tied);
            chosen.push(hit.row);
        }
    }
}

/// The links above layer 0, by node.
pub(super) struct UpperLists {
    m: usize,
    levels: Vec<u8>,
    at: Vec<u32>,
    links: Vec<u32>,
}

impl UpperLists {
    /// The highest layer of all.
    pub fn top(&self) -> usize {
        self.levels.iter().copied().max().map_or(0, usize::from)
    }

    /// The nodes of a layer, ascending.
    pub fn members(&self, level: usize) -> impl Iterator<Item = u32> {
        (0..).zip(&self.levels).filter(move |&(_, &own)| usize::from(own) >= level).map(|(node, _)| node)
    }

    /// A node's links on a layer from 1 up that it is on.
    pub fn links(&self, node: u32, level: usize) -> impl Iterator<Item = u32> {
        let start = self.at[node as usize] as usize + (level - 1) * self.m;
        self.links[start..start + self.m].iter().copied().take_while(|&link| link != NO_LINK)
    }
}
