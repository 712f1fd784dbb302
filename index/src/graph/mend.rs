//! Mending: after linking, every node is reached, and every node is found by its own embedding.
//!
//! A few nodes in a hundred thousand come out unlinked or crowded out, and of many equal embeddings most do. A walk over
//! layer 0 from the entry gives a tree; whatever the tree does not reach is linked from its nearest node in the tree that
//! has room, or in place of a link that the tree does not need. So the tree only grows, and in the end holds every node.
//!
//! Then every node is searched for by its own embedding. The search begins with the least effort: a larger beam walks
//! through everything that a smaller one does (unless some nodes are equally far), so what that finds is found by every
//! search. It ends where it has come to the node itself, seen whom that is linked with, and nobody is as near: what is
//! still to be seen cannot push it out. What is not found even with the usual effort gets links from what the search did
//! find, and in the last resort becomes an entry. Such links stay, or those who are lost in the same place would take them
//! from each other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::beam::Beam;
use super::build::BuildError;
use super::link::{From, Pairs, UpperLists};
use super::search::{looked_at_again, walk_from};
use super::{EF_DEFAULT, FlatGraph, GraphRef, GraphShape, NO_LINK};
use crate::scan::{Finish, Hit};
use crate::way::Steps;

/// What had to be mended. Large numbers for their graph's size say that something is odd with the embeddings (many equal
/// ones) or with the builder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    /// Nodes that no walk over layer 0 reached.
    pub unreachable: usize,
    /// Nodes that a search for their own embedding did not find.
    pub unfound: usize,
    /// Nodes that are entries because no links made them found.
    pub entries: usize,
}

/// How many links a node that was not found is given at a time.
const LINKS_MORE: usize = 3;
/// Linking and checking again this often, before a node is made an entry.
const ROUNDS: usize = 12;
/// In how many nearest a node has to find itself.
const FOUND_IN: usize = 10;
/// A thread checks so many nodes at a time.
const BATCH: usize = 256;

/// What one thread needs to search. Used again and again, it stops allocating.
struct Hand<P: Pairs> {
    beam: Beam,
    node: P::Prepared,
    hits: Vec<Hit>,
}

impl<P: Pairs> Default for Hand<P> {
    fn default() -> Hand<P> {
        Hand { beam: Beam::default(), node: P::Prepared::default(), hits: Vec::new() }
    }
}

/// A way longer than this is not noted: whoever has it is looked at again whatever has changed.
const WAY_MAX: usize = 24;
/// What mending takes for each node: its way, its parent, and its number among those that are looked for.
pub(super) const NODE_BYTES: usize = 4 * (WAY_MAX + 2);

/// Through which nodes each node was found. A search goes the same way again as long as none of them has other links.
struct Ways {
    /// [`WAY_MAX`] for each node, filled up with `NO_LINK`; nothing but `NO_LINK` if it is longer.
    steps: Vec<AtomicU32>,
}

impl Ways {
    fn new(nodes: u32) -> Ways {
        Ways { steps: (0..nodes as usize * WAY_MAX).map(|_| AtomicU32::new(NO_LINK)).collect() }
    }

    fn note(&self, node: u32, walked: &[u32]) {
        let walked = if walked.len() > WAY_MAX { &[] } else { walked };
        let steps = walked.iter().copied().chain(std::iter::repeat(NO_LINK));
        let places = &self.steps[node as usize * WAY_MAX..][..WAY_MAX];
        places.iter().zip(steps).for_each(|(place, step)| place.store(step, Ordering::Relaxed));
    }

    /// The nodes whose way leads through one of these, or is not known.
    fn through(&self, changed: &BTreeSet<u32>) -> Vec<u32> {
        let (ways, _) = self.steps.as_chunks::<WAY_MAX>();
        let leads = |way: &[AtomicU32; WAY_MAX]| {
            let mut steps = way.iter().map(|step| step.load(Ordering::Relaxed)).take_while(|&step| step != NO_LINK);
            let first = steps.next();
            first.is_none_or(|first| changed.contains(&first) || steps.any(|step| changed.contains(&step)))
        };
        (0..).zip(ways).filter(|(_, way)| leads(way)).map(|(node, _)| node).collect()
    }
}

/// A graph whose layer 0 is being mended.
pub(super) struct Draft {
    nodes: u32,
    m: usize,
    flat: FlatGraph,
    /// Of `flat`, which has a new one with each entry.
    shape: GraphShape,
    entries: Vec<u32>,
    /// From whom the walk from the entries first came to a node: itself for an entry, nobody yet if `NO_LINK`. A link to a
    /// node from its parent is never taken away.
    parent: Vec<u32>,
    /// Links, from and to whom, that were given to nodes that were not found. They are never taken away either.
    given: BTreeSet<(u32, u32)>,
}

/// What became of a link that was to be added.
enum Added {
    /// It was there.
    Already,
    /// There was room.
    Free,
    /// The link to this node gave way.
    Instead(u32),
    /// All of this node's links are needed.
    Full,
}

impl Draft {
    /// Puts layer 0 and what is above it together.
    pub fn new(layer0: Vec<u32>, upper: &UpperLists, m: usize) -> Draft {
        let len = layer0.len() / (2 * m);
        let top = upper.top();
        let mut members: Vec<Vec<u32>> = (1..=top).map(|level| upper.members(level).collect()).collect();
        // The entry is the node of the top layer that has most links there, and its place is 0.
        let mut entry = 0;
        if let Some(last) = members.last_mut() {
            let links = |node: u32| upper.links(node, top).count();
            let best = (0..last.len()).max_by_key(|&i| (links(last[i]), last.len() - i));
            last.swap(0, best.unwrap_or(0));
            entry = last[0];
        }
        let mut words = Vec::new();
        let mut places = vec![NO_LINK; len];
        for (level, ids) in (1..).zip(&members) {
            words.push(ids.len() as u32);
            words.extend(ids);
            // In layer 1, what is below is the node itself; above, its place in the layer below.
            words.extend(ids.iter().map(|&id| if level == 1 { id } else { places[id as usize] }));
            places.fill(NO_LINK);
            (0..).zip(ids).for_each(|(place, &id)| places[id as usize] = place);
            for &id in ids {
                let start = words.len();
                let known = upper.links(id, level).map(|link| places[link as usize]).filter(|&place| place != NO_LINK);
                words.extend(known);
                words.resize(start + m, NO_LINK);
            }
        }
        let entries = vec![entry];
        let mut head = vec![len as u32, m as u32, top as u32, entries.len() as u32];
        head.extend(&entries);
        head.extend(words);
        let flat = FlatGraph { layer0, upper: head };
        let shape = flat.shape().expect("a draft is a whole graph");
        Draft { nodes: len as u32, m, flat, shape, entries, parent: vec![NO_LINK; len], given: BTreeSet::new() }
    }

    fn graph(&self) -> GraphRef<'_> {
        GraphRef::new(&self.shape, &self.flat.layer0, &self.flat.upper)
    }

    pub fn finish(self) -> FlatGraph {
        self.flat
    }

    /// Puts another entry into the head.
    fn add_entry(&mut self, node: u32) {
        let at = 4 + self.entries.len();
        self.entries.push(node);
        self.flat.upper.insert(at, node);
        self.flat.upper[3] = self.entries.len() as u32;
        self.shape = self.flat.shape().expect("a draft is a whole graph");
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

    /// The nearest nodes of a node, itself among them if it is found; in `hand.hits`.
    fn search<P: Pairs>(&self, pairs: &P, node: u32, ef: usize, hand: &mut Hand<P>) {
        self.search_with(self.graph(), pairs, node, ef, hand);
    }

    fn search_with<P: Pairs>(&self, graph: GraphRef<'_>, pairs: &P, node: u32, ef: usize, hand: &mut Hand<P>) {
        pairs.prepare(node, &mut hand.node);
        let space = From { pairs, node: &hand.node };
        // It has no budget and nobody stops it.
        let _: Finish = walk_from(graph, &space, usize::MAX, ef, &|_| true, || true, &mut hand.beam);
        hand.hits.clear();
        hand.hits.extend(hand.beam.found());
    }

    /// Walks on from nodes that are in the tree, and takes in all that can be reached from them.
    fn grow(&mut self, from: impl IntoIterator<Item = u32>) {
        let mut queue: VecDeque<u32> = from.into_iter().collect();
        let width = 2 * self.m;
        while let Some(node) = queue.pop_front() {
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

    /// Links `target` from `source`, where there is room, or in place of the farthest link that is not needed.
    fn add_link<P: Pairs>(&mut self, pairs: &P, source: u32, target: u32) -> Added {
        let links = self.links(source);
        if links.contains(&target) {
            return Added::Already;
        }
        if let Some(free) = links.iter().position(|&link| link == NO_LINK) {
            self.links_mut(source)[free] = target;
            return Added::Free;
        }
        let mut prepared = P::Prepared::default();
        pairs.prepare(source, &mut prepared);
        let needed = |link: u32| self.parent[link as usize] == source || self.given.contains(&(source, link));
        let spare = (0..links.len()).filter(|&i| !needed(links[i]));
        let distance = |i: &usize| pairs.distance(&prepared, links[*i]);
        let Some(farthest) = spare.max_by(|a, b| distance(a).total_cmp(&distance(b))) else { return Added::Full };
        Added::Instead(std::mem::replace(&mut self.links_mut(source)[farthest], target))
    }

    /// Makes every node reachable. Says how many were not.
    pub fn reach_all<P: Pairs>(&mut self, pairs: &P, cancel: &AtomicBool) -> Result<usize, BuildError> {
        for entry in self.entries.clone() {
            self.parent[entry as usize] = entry;
        }
        self.grow(self.entries.clone());
        let mut hand = Hand::default();
        let mut unreachable = 0;
        // The node linked last has room for more. Where hundreds are equal, the search for one of them always comes to
        // the same few, whose links are all taken.
        let mut last: Option<u32> = None;
        for node in 0..self.nodes {
            if self.parent[node as usize] != NO_LINK {
                continue;
            }
            super::build::check(cancel)?;
            unreachable += 1;
            self.search(pairs, node, EF_DEFAULT, &mut hand);
            let mut near = std::mem::take(&mut hand.hits);
            near.extend(last.map(|row| Hit { distance: pairs.distance(&hand.node, row), row }));
            // The way down may have led to where the tree does not reach.
            near.retain(|hit| hit.row != node && self.parent[hit.row as usize] != NO_LINK);
            near.sort_by(|a, b| a.distance.total_cmp(&b.distance));
            let free = |hit: &&Hit| self.links(hit.row).contains(&NO_LINK);
            let with_room = near.iter().find(free).map(|hit| hit.row);
            let mut sources = with_room.into_iter().chain(near.iter().map(|hit| hit.row));
            let source = sources.find(|&source| !matches!(self.add_link(pairs, source, node), Added::Full));
            match source {
                Some(source) => self.parent[node as usize] = source,
                None => self.add_entry(node),
            }
            // It may have come without links of its own.
            for hit in near.iter().take(self.m) {
                if self.links(node).contains(&NO_LINK) {
                    self.add_link(pairs, node, hit.row);
                }
            }
            self.grow([node]);
            last = Some(node);
        }
        Ok(unreachable)
    }

    /// Makes every node be found by its own embedding.
    pub fn find_all<P: Pairs>(
        &mut self,
        pairs: &P,
        threads: usize,
        mended: &mut Mended,
        cancel: &AtomicBool,
    ) -> Result<(), BuildError> {
        let all: Vec<u32> = (0..self.nodes).collect();
        let ways = Ways::new(self.nodes);
        let mut lost = self.unfound(pairs, threads, &all, &ways, cancel)?;
        mended.unfound = lost.len();
        // Nodes with other links than when somebody's way was last looked at.
        let mut changed = BTreeSet::new();
        let mut rounds = 0;
        while rounds < ROUNDS && !(lost.is_empty() && changed.is_empty()) {
            if lost.is_empty() {
                let suspects = ways.through(&changed);
                changed.clear();
                lost = self.unfound(pairs, threads, &suspects, &ways, cancel)?;
                continue;
            }
            let mut suspects = self.give_links(pairs, &lost, &mut changed, cancel)?;
            suspects.extend(lost);
            suspects.sort_unstable();
            suspects.dedup();
            lost = self.unfound(pairs, threads, &suspects, &ways, cancel)?;
            rounds += 1;
        }
        if !changed.is_empty() {
            lost.extend(self.unfound(pairs, threads, &ways.through(&changed), &ways, cancel)?);
            lost.sort_unstable();
            lost.dedup();
        }
        // Where many are equally far, another beginning can lead another way, so look again; in the end all are entries.
        while !lost.is_empty() {
            for node in lost {
                self.add_entry(node);
                mended.entries += 1;
            }
            lost = self.unfound(pairs, threads, &all, &ways, cancel)?;
            lost.retain(|node| !self.entries.contains(node));
        }
        Ok(())
    }

    /// Gives nodes links from what searches for them find; from whom, is noted in `changed`. Says whose links gave way.
    fn give_links<P: Pairs>(
        &mut self,
        pairs: &P,
        lost: &[u32],
        changed: &mut BTreeSet<u32>,
        cancel: &AtomicBool,
    ) -> Result<Vec<u32>, BuildError> {
        let (mut hand, mut gave_way) = (Hand::default(), Vec::new());
        for &node in lost {
            super::build::check(cancel)?;
            self.search(pairs, node, EF_DEFAULT, &mut hand);
            let mut more = LINKS_MORE;
            for hit in hand.hits.iter().filter(|hit| hit.row != node) {
                match self.add_link(pairs, hit.row, node) {
                    Added::Already | Added::Full => continue,
                    Added::Free => {}
                    Added::Instead(other) => gave_way.push(other),
                }
                self.given.insert((hit.row, node));
                changed.insert(hit.row);
                more -= 1;
                if more == 0 {
                    break;
                }
            }
        }
        Ok(gave_way)
    }

    /// Which of these nodes a search for their own embedding does not find. The ways to the others are noted.
    fn unfound<P: Pairs>(
        &self,
        pairs: &P,
        threads: usize,
        nodes: &[u32],
        ways: &Ways,
        cancel: &AtomicBool,
    ) -> Result<Vec<u32>, BuildError> {
        let graph = self.graph();
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut hand, mut lost) = (Hand::default(), Vec::new());
            let mut steps = Steps::of_distances(FOUND_IN * self.m);
            while !cancel.load(Ordering::Relaxed) {
                let start = next.fetch_add(BATCH, Ordering::Relaxed);
                let Some(part) = nodes.get(start..nodes.len().min(start + BATCH)) else { break };
                if part.is_empty() {
                    break;
                }
                for &node in part {
                    hand.beam.sought = Some(node);
                    let found = [FOUND_IN, EF_DEFAULT].into_iter().any(|ef| {
                        self.search_with(graph, pairs, node, ef, &mut hand);
                        let seen = &hand.hits[..hand.hits.len().min(looked_at_again(FOUND_IN))];
                        // Where some are equally far, a larger beam may go another way.
                        if ef < EF_DEFAULT && seen.windows(2).any(|pair| pair[0].distance == pair[1].distance) {
                            return false;
                        }
                        // Of many copies, any will do.
                        let copies = || seen.iter().filter(|hit| pairs.same(hit.row, node)).count();
                        seen.iter().any(|hit| hit.row == node) || copies() >= FOUND_IN
                    });
                    if !found {
                        lost.push(node);
                    }
                    ways.note(node, &hand.beam.walked);
                    steps.step();
                }
            }
            lost
        };
        let mut lost = std::thread::scope(|scope| {
            let builder = |i: usize| std::thread::Builder::new().name(format!("loci-find-{i}"));
            let helpers: Vec<_> = (1..threads).filter_map(|i| builder(i).spawn_scoped(scope, work).ok()).collect();
            let mut lost = work();
            for helper in helpers {
                // A panic goes on to whoever runs the job.
                lost.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            lost
        });
        super::build::check(cancel)?;
        lost.sort_unstable();
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_found_through_a_changed_node_is_looked_at_again() {
        let long: Vec<u32> = (0..=WAY_MAX as u32).collect();
        let walked: [&[u32]; 5] = [&[1, 2], &[2, 3, 4], &long[..WAY_MAX], &long, &[]];
        let ways = Ways::new(5);
        (0..).zip(walked).for_each(|(node, walked)| ways.note(node, walked));
        // 3 went too long a way, and 4 none: what they would meet is not known.
        for (changed, again) in [(99, vec![3, 4]), (1, vec![0, 2, 3, 4]), (4, vec![1, 2, 3, 4]), (23, vec![2, 3, 4])] {
            assert_eq!(ways.through(&BTreeSet::from([changed])), again, "{changed}");
        }
        ways.note(0, &[7]);
        assert_eq!(ways.through(&BTreeSet::from([1])), [2, 3, 4]);
    }
}
