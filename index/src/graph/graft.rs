//! Starting from a graph that is there: when segments are merged, the largest of their graphs is kept and the rest linked in.
//!
//! ```text
//!   old:  a --- b --- c          b has gone:   a --- c      what a and c get instead of b is chosen from
//!                \    |                         \   /       what they had and what b had, as when linking
//!                 d --'                           d
//! ```
//!
//! A node that is gone is really gone: nothing leads to it or through it any more, and each of its neighbours chooses its
//! links anew from its own and those of the gone one (as FreshDiskANN does, Singh and others, 2021).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::link::{Growing, Pairs, choose};
use super::{GraphRef, NO_LINK};
use crate::scan::{Hit, order};
use crate::way::Steps;

/// A graph of some of the embeddings.
pub struct Seed<'a> {
    /// The graph.
    pub graph: GraphRef<'a>,
    /// The new number of each of its nodes; `u32::MAX` of one that is gone.
    pub new_of: Vec<u32>,
}

impl Seed<'_> {
    fn new_of(&self, node: u32) -> Option<u32> {
        self.new_of.get(node as usize).copied().filter(|&new| new != NO_LINK)
    }
}

/// The highest layer of each node that comes from the seed, by its new number.
pub(super) fn levels_of(seed: &Seed<'_>, nodes: usize) -> Vec<Option<u8>> {
    let mut levels = vec![None; nodes];
    let mut raise = |old: u32, level: u8| {
        let place = seed.new_of(old).and_then(|new| levels.get_mut(new as usize));
        place.into_iter().for_each(|place| *place = Some(level));
    };
    (0..seed.graph.nodes() as u32).for_each(|old| raise(old, 0));
    for (level, layer) in (1u8..).zip(seed.graph.layers()) {
        seed.graph.members(layer).for_each(|old| raise(old, level));
    }
    levels
}

/// A thread takes so many nodes at a time.
const BATCH: usize = 256;
/// A node takes a microsecond, or a few.
const STEPS: u32 = 64;

/// Gives the nodes that come from the seed their links.
///
/// Raising `cancel` ends it early; the graph is then of no use.
pub(super) fn graft<P: Pairs>(growing: &Growing, seed: &Seed<'_>, pairs: &P, threads: usize, cancel: &AtomicBool) {
    let graph = seed.graph;
    let mut entry: Option<u32> = None;
    for new in seed.new_of.iter().copied().filter(|&new| new != NO_LINK) {
        if entry.is_none_or(|entry| growing.level(entry) < growing.level(new)) {
            entry = Some(new);
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut hand = Hand::<P>::default();
        let mut steps = Steps::of(STEPS);
        while !cancel.load(Ordering::Relaxed) {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            if start >= graph.nodes() {
                break;
            }
            for old in start..graph.nodes().min(start + BATCH) {
                let old = old as u32;
                steps.step();
                let Some(new) = seed.new_of(old) else { continue };
                hand.graft(growing, seed, pairs, new, 0, graph.links(old), |gone| graph.links(gone).collect());
            }
        }
    };
    std::thread::scope(|scope| {
        let builder = |i: usize| std::thread::Builder::new().name(format!("loci-graft-{i}"));
        (1..threads).take_while(|&i| builder(i).spawn_scoped(scope, work).is_ok()).count();
        work();
    });
    let mut hand = Hand::<P>::default();
    for (level, layer) in (1..).zip(graph.layers()) {
        let node_at = |place: u32| graph.node_at(layer, place);
        let links_at = |place: u32| graph.upper_links(layer, place).filter_map(node_at);
        // Where a node is in this layer, for those that are gone.
        let places: std::collections::BTreeMap<u32, u32> =
            (0..).zip(graph.members(layer)).map(|(p, old)| (old, p)).collect();
        for (place, old) in (0..).zip(graph.members(layer)) {
            let Some(new) = seed.new_of(old) else { continue };
            let of_gone = |gone: u32| places.get(&gone).map_or(Vec::new(), |&place| links_at(place).collect());
            hand.graft(growing, seed, pairs, new, level, links_at(place), of_gone);
        }
    }
    entry.into_iter().for_each(|entry| growing.raise_entry(entry));
}

/// What one thread needs. Used again and again, it stops allocating.
struct Hand<P: Pairs> {
    node: P::Prepared,
    candidate: P::Prepared,
    kept: Vec<u32>,
    hits: Vec<Hit>,
    chosen: Vec<u32>,
}

impl<P: Pairs> Default for Hand<P> {
    fn default() -> Hand<P> {
        Hand {
            node: P::Prepared::default(),
            candidate: P::Prepared::default(),
            kept: Vec::new(),
            hits: Vec::new(),
            chosen: Vec::new(),
        }
    }
}

impl<P: Pairs> Hand<P> {
    /// Gives `new` the links it had, and, where some of them are gone, a choice of what is left around it.
    #[expect(clippy::too_many_arguments, reason = "one step of a loop, with what it loops over")]
    fn graft(
        &mut self,
        growing: &Growing,
        seed: &Seed<'_>,
        pairs: &P,
        new: u32,
        level: usize,
        links: impl Iterator<Item = u32>,
        of_gone: impl Fn(u32) -> Vec<u32>,
    ) {
        let Hand { node, candidate, kept, hits, chosen } = self;
        kept.clear();
        let mut around: Vec<u32> = Vec::new();
        for link in links {
            match seed.new_of(link) {
                Some(link) => kept.push(link),
                None => around.extend(of_gone(link).into_iter().filter_map(|link| seed.new_of(link))),
            }
        }
        // What is in the file is not trusted: a node may be in a layer that it has no room for here.
        kept.retain(|&link| link != new && level <= growing.level(link));
        if level > growing.level(new) {
            return;
        }
        if around.is_empty() {
            growing.set_links(new, level, kept);
            return;
        }
        around.extend_from_slice(kept);
        around.retain(|&link| link != new && level <= growing.level(link));
        around.sort_unstable();
        around.dedup();
        pairs.prepare(new, node);
        hits.clear();
        hits.extend(around.into_iter().map(|row| Hit { distance: pairs.distance(node, row), row }));
        hits.sort_unstable_by_key(|hit| order(hit.distance, hit.row));
        choose(pairs, hits, growing.room(level), candidate, chosen);
        growing.set_links(new, level, chosen);
    }
}
