//! The walk that searches, and that building links with: a beam of the nearest nodes seen so far.
//!
//! ```text
//!   pool, nearest first:   [ * * * . * . . | . . ]      * walked through     at most `ef` accepted ones,
//!                                  ^ next                . not yet            and whatever lies between them
//! ```
//!
//! The nearest node that was not walked through is taken, its links are looked up, and those that are nearer than the
//! last of the pool go in. When all have been walked through, the pool holds what was found.
//!
//! A node that is not accepted is walked through like any other but does not count: the pool ends at the `ef`-th
//! accepted one. So the walk goes on until `ef` accepted nodes are known that are all nearer than anything left to look
//! at, or nothing is left: fewer than asked for means that there are no more.
//!
//! Always: a larger `ef` walks through everything that a smaller one does, in the same order, before it goes on (as long
//! as no distances are equal).

use crate::scan::{Finish, Hit, order, unorder};

/// Where links lead. What it does not know has no links.
pub(super) trait Links {
    /// Shows the links of a node on the layer that is walked.
    fn each(&self, node: u32, see: impl FnMut(u32));

    /// Says that they will be wanted soon.
    fn prefetch(&self, node: u32);
}

/// How far nodes are from what is looked for.
pub(super) trait Space {
    /// The distances to some nodes.
    fn distances(&self, nodes: &[u32], into: &mut Distances);
}

/// Where distances are put. Used again and again, it stops allocating.
#[derive(Default)]
pub(super) struct Distances {
    pub all: Vec<f32>,
    /// For whoever sums up whole numbers first.
    pub sums: Vec<i32>,
}

/// `keep_going` is asked once for so many nodes walked through.
const HOPS_PER_QUESTION: usize = 64;

/// Node numbers of the pool leave room for two marks.
pub(super) const NODES_MAX: usize = 1 << 30;
const WALKED: u64 = 1;
const ACCEPTED: u64 = 2;

/// Made once and used for many walks over any graphs, it stops allocating.
#[derive(Default)]
pub(super) struct Beam {
    /// Distance, node and marks, ascending.
    pool: Vec<u64>,
    /// How many of the pool are accepted.
    accepted: usize,
    ef: usize,
    /// The distance of the last, once there are enough.
    limit: f32,
    /// None before this one is left to walk through.
    next: usize,
    /// A walk ends when it has walked through this node and nothing else is as near. So it goes for all walks to come.
    pub sought: Option<u32>,
    /// The nodes that were walked through, in order.
    pub walked: Vec<u32>,
    fresh: Vec<u32>,
    numbers: Vec<u32>,
    measured: Distances,
    visited: Visited,
    pub distances: usize,
}

/// Which nodes this walk has seen.
#[derive(Default)]
struct Visited {
    words: Vec<u64>,
    /// The words that are not zero.
    touched: Vec<u32>,
}

impl Visited {
    fn reset(&mut self, nodes: usize) {
        for word in self.touched.drain(..) {
            if let Some(word) = self.words.get_mut(word as usize) {
                *word = 0;
            }
        }
        if self.words.len() * 64 < nodes {
            self.words.resize(nodes.div_ceil(64), 0);
        }
    }

    /// Marks a node; whether it was not marked before.
    #[inline]
    fn insert(&mut self, node: u32) -> bool {
        let Some(word) = self.words.get_mut(node as usize / 64) else { return false };
        if *word == 0 {
            self.touched.push(node / 64);
        }
        let bit = 1 << (node % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

fn entry(distance: f32, node: u32, accepted: bool) -> u64 {
    let marks = if accepted { ACCEPTED } else { 0 };
    (order(distance, 0) | u64::from(node) << 2) | marks
}

fn hit_of(entry: u64) -> Hit {
    Hit { distance: unorder(entry).distance, row: (entry as u32) >> 2 }
}

impl Beam {
    /// Forgets the walk before, for a graph of so many nodes.
    pub fn reset(&mut self, nodes: usize, ef: usize) {
        self.pool.clear();
        self.walked.clear();
        self.visited.reset(nodes);
        self.ef = ef.max(1);
        (self.accepted, self.next, self.distances) = (0, 0, 0);
    }

    /// Begins at a node as well; one that was seen already does not count twice.
    pub fn start(&mut self, space: &impl Space, node: u32, accept: &impl Fn(u32) -> bool) {
        if self.visited.insert(node) {
            let hit = self.measure_one(space, node);
            self.offer(hit.distance, node, accept);
        }
    }

    /// How far one node is.
    pub fn measure_one(&mut self, space: &impl Space, node: u32) -> Hit {
        self.distances += 1;
        space.distances(&[node], &mut self.measured);
        Hit { distance: self.measured.all.first().copied().unwrap_or(f32::INFINITY), row: node }
    }

    /// The nearest of some nodes, each given with a number of the caller's, if it is nearer than `best`.
    pub fn nearest_of(
        &mut self,
        space: &impl Space,
        nodes: impl Iterator<Item = (u32, u32)>,
        best: f32,
    ) -> Option<(Hit, u32)> {
        self.fresh.clear();
        self.numbers.clear();
        for (node, number) in nodes {
            self.fresh.push(node);
            self.numbers.push(number);
        }
        space.distances(&self.fresh, &mut self.measured);
        self.distances += self.fresh.len();
        let all = self.fresh.iter().zip(&self.measured.all).zip(&self.numbers);
        let all = all.map(|((&row, &distance), &number)| (Hit { distance, row }, number));
        all.min_by(|(a, _), (b, _)| a.distance.total_cmp(&b.distance)).filter(|(hit, _)| hit.distance < best)
    }

    /// Marks a node as seen, so that the walk does not come to it.
    pub fn avoid(&mut self, node: u32) {
        self.visited.insert(node);
    }

    /// What was accepted, nearest first.
    pub fn found(&self) -> impl Iterator<Item = Hit> {
        self.pool.iter().filter(|&&entry| entry & ACCEPTED != 0).map(|&entry| hit_of(entry))
    }

    /// Whether something at this distance is worth following: of many equally far, no more than are kept, so that a
    /// thousand copies of one embedding do not make a search walk a thousand nodes.
    #[inline]
    fn wants(&self, distance: f32) -> bool {
        self.accepted < self.ef || distance < self.limit
    }

    /// Puts a node in if it is wanted. Whether it is now the next to be walked through.
    #[inline]
    fn offer(&mut self, distance: f32, node: u32, accept: &impl Fn(u32) -> bool) -> bool {
        if !self.wants(distance) {
            return false;
        }
        let accepted = accept(node);
        let new = entry(distance, node, accepted);
        let place = self.pool.partition_point(|&entry| entry < new);
        self.pool.insert(place, new);
        let first = place <= self.next;
        self.next = self.next.min(place);
        if accepted {
            self.accepted += 1;
            if self.accepted >= self.ef {
                self.shorten();
            }
        }
        first
    }

    /// Whether a node is nearer than all others that are known.
    fn is_alone_in_front(&self, node: u32) -> bool {
        let mut first = self.pool.iter().map(|&entry| hit_of(entry));
        let front = first.next().filter(|front| front.row == node);
        front.is_some_and(|front| first.next().is_none_or(|second| front.distance < second.distance))
    }

    /// Ends the pool at the `ef`-th accepted one.
    fn shorten(&mut self) {
        while let Some(last) = self.pool.pop_if(|last| *last & ACCEPTED == 0 || self.accepted > self.ef) {
            if last & ACCEPTED != 0 {
                self.accepted -= 1;
            }
        }
        self.limit = self.pool.last().map_or(f32::INFINITY, |&last| hit_of(last).distance);
    }

    /// Walks until nothing nearer is linked.
    pub fn walk(
        &mut self,
        links: &impl Links,
        space: &impl Space,
        budget: usize,
        accept: &impl Fn(u32) -> bool,
        keep_going: &mut impl FnMut() -> bool,
    ) -> Finish {
        loop {
            while self.pool.get(self.next).is_some_and(|entry| entry & WALKED != 0) {
                self.next += 1;
            }
            let Some(entry) = self.pool.get_mut(self.next) else { return Finish::Complete };
            *entry |= WALKED;
            let node = hit_of(*entry).row;
            if let Some(&entry) = self.pool.get(self.next + 1) {
                links.prefetch(hit_of(entry).row);
            }
            self.walked.push(node);
            if self.walked.len().is_multiple_of(HOPS_PER_QUESTION) && !keep_going() {
                return Finish::Stopped;
            }
            if self.distances >= budget {
                return Finish::OverBudget;
            }
            let (fresh, visited) = (&mut self.fresh, &mut self.visited);
            fresh.clear();
            links.each(node, |link| {
                if visited.insert(link) {
                    fresh.push(link);
                }
            });
            let mut measured = std::mem::take(&mut self.measured);
            let fresh = std::mem::take(&mut self.fresh);
            space.distances(&fresh, &mut measured);
            self.distances += fresh.len();
            for (&node, &distance) in fresh.iter().zip(&measured.all) {
                if self.offer(distance, node, accept) {
                    links.prefetch(node);
                }
            }
            (self.measured, self.fresh) = (measured, fresh);
            if self.sought == Some(node) && self.is_alone_in_front(node) {
                return Finish::Complete;
            }
        }
    }
}
