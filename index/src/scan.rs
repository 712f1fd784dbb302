//! The exact way to find what is near: look at every record.
//!
//! It is what searches the buffer, small segments and very selective filters, and what the graph is
//! tested against. Cost: one distance for each accepted row.
//!
//! Always: hits come nearest first, equal distances by row, so the same rows give the same hits in
//! any order of looking.

use std::collections::BinaryHeap;

use crate::distance::Kernel;

/// One search result and how far it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// How far, as the metric counts it. Smaller is nearer.
    pub distance: f32,
    /// Which row, or, of a graph, which node.
    pub row: u32,
}

/// How a search came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Finish {
    /// It looked as far as it was asked to.
    Complete,
    /// It would have had to compare more embeddings than its budget; what it found may miss nearer ones.
    OverBudget,
    /// `keep_going` said no; what it found may miss nearer ones.
    Stopped,
}

/// `keep_going` is asked once for so many rows.
const ROWS_PER_QUESTION: usize = 256;

/// Finds the `k` nearest of `rows` that `accept` agrees to and leaves them in `into`, nearest first.
/// A row that is shown twice is found twice.
pub fn scan<'v>(
    kernel: Kernel,
    query: &[f32],
    k: usize,
    rows: impl IntoIterator<Item = (u32, &'v [f32])>,
    accept: impl Fn(u32) -> bool,
    mut keep_going: impl FnMut() -> bool,
    into: &mut Nearest,
) -> Finish {
    into.reset(k);
    for (i, (row, embedding)) in rows.into_iter().enumerate() {
        if i % ROWS_PER_QUESTION == ROWS_PER_QUESTION - 1 && !keep_going() {
            into.settle(k);
            return Finish::Stopped;
        }
        if accept(row) {
            into.offer(kernel(query, embedding), row);
        }
    }
    into.settle(k);
    Finish::Complete
}

/// Keeps the nearest few of many. Made once and used for many searches, it stops allocating.
#[derive(Debug, Default)]
pub struct Nearest {
    keep: usize,
    /// The farthest on top.
    heap: BinaryHeap<u64>,
    hits: Vec<Hit>,
}

impl Nearest {
    /// One that has found nothing.
    pub fn new() -> Nearest {
        Nearest::default()
    }

    /// The hits of the last search, nearest first.
    pub fn hits(&self) -> &[Hit] {
        &self.hits
    }

    pub(crate) fn reset(&mut self, keep: usize) {
        self.keep = keep;
        self.heap.clear();
        self.hits.clear();
    }

    /// Whether something at this distance would be kept.
    pub(crate) fn wants(&self, distance: f32) -> bool {
        self.heap.len() < self.keep || self.heap.peek().is_some_and(|&worst| order(distance, 0) >> 32 <= worst >> 32)
    }

    /// Keeps it if it is among the nearest.
    pub(crate) fn offer(&mut self, distance: f32, row: u32) {
        let new = order(distance, row);
        if self.heap.len() < self.keep {
            self.heap.push(new);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && new < *worst
        {
            *worst = new;
        }
    }

    /// Ends a search: the nearest `k` become the hits.
    pub(crate) fn settle(&mut self, k: usize) {
        while self.heap.len() > k {
            self.heap.pop();
        }
        self.hits.clear();
        self.hits.extend(self.heap.drain().map(unorder));
        self.hits.sort_unstable_by_key(|hit| order(hit.distance, hit.row));
    }

    /// Gives each hit the row that `row_of` says; hits it knows none for are left out.
    pub(crate) fn translate(&mut self, row_of: impl Fn(u32) -> Option<u32>) {
        self.hits.retain_mut(|hit| match row_of(hit.row) {
            Some(row) => {
                hit.row = row;
                true
            }
            None => false,
        });
        self.hits.sort_unstable_by_key(|hit| order(hit.distance, hit.row));
    }
}

/// A distance and a row as one number that sorts by distance, then by row. Distances compare as
/// numbers do, and NaN is beyond every other.
pub(crate) fn order(distance: f32, row: u32) -> u64 {
    const SIGN: u32 = 1 << 31;
    let bits = if distance.is_nan() { f32::NAN.to_bits() & !SIGN } else { distance.to_bits() };
    // Positive floats sort as their bits do, above all negative ones, which sort the other way round.
    let sorted = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    u64::from(sorted) << 32 | u64::from(row)
}

/// The distance and the row of an `order`.
pub(crate) fn unorder(ordered: u64) -> Hit {
    const SIGN: u32 = 1 << 31;
    let sorted = (ordered >> 32) as u32;
    let bits = if sorted & SIGN == 0 { !sorted } else { sorted & !SIGN };
    Hit { distance: f32::from_bits(bits), row: ordered as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::Metric;

    #[test]
    fn distances_sort_as_numbers_do() {
        let sorted = [
            f32::NEG_INFINITY,
            -2.5,
            -f32::MIN_POSITIVE,
            -0.0,
            0.0,
            f32::MIN_POSITIVE,
            1.0,
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
        ];
        for pair in sorted.windows(2) {
            assert!(order(pair[0], u32::MAX) < order(pair[1], 0), "{pair:?}");
        }
        for x in &sorted[..9] {
            let hit = unorder(order(*x, 7));
            assert_eq!((hit.distance.to_bits(), hit.row), (x.to_bits(), 7));
        }
        assert!(order(-f32::NAN, 0) > order(f32::INFINITY, u32::MAX));
    }

    /// Rows of one component, whose distance to the query 0 is its square.
    fn check(values: &[f32], k: usize, expected: &[u32]) {
        let mut nearest = Nearest::new();
        let rows = values.iter().enumerate().map(|(i, v)| (i as u32, std::slice::from_ref(v)));
        let kernel = Metric::SquaredL2.kernel();
        let finish = scan(kernel, &[0.0], k, rows, |row| row != 3, || true, &mut nearest);
        assert_eq!(finish, Finish::Complete);
        let rows: Vec<u32> = nearest.hits().iter().map(|hit| hit.row).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_nearest_come_first_and_equal_ones_by_row() {
        check(&[3.0, 1.0, 2.0, 0.0, 1.0, 9.0], 3, &[1, 4, 2]);
        check(&[3.0, 1.0], 5, &[1, 0]);
        check(&[1.0; 8], 4, &[0, 1, 2, 4]);
        check(&[1.0; 8], 0, &[]);
        check(&[], 4, &[]);
    }

    #[test]
    fn a_scan_stops_when_told() {
        let values = vec![1.0f32; 10_000];
        let rows = values.iter().enumerate().map(|(i, v)| (i as u32, std::slice::from_ref(v)));
        let mut asked = 0;
        let keep_going = || {
            asked += 1;
            asked < 3
        };
        let mut nearest = Nearest::new();
        let kernel = Metric::SquaredL2.kernel();
        let finish = scan(kernel, &[0.0], 10_000, rows, |_| true, keep_going, &mut nearest);
        assert_eq!(finish, Finish::Stopped);
        assert_eq!(nearest.hits().len(), 3 * ROWS_PER_QUESTION - 1);
    }
}
