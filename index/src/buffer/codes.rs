//! Codes of the newest records, so that comparing with each of them reads a quarter of the bytes and finds the same.
//!
//! ```text
//!   rows     [ 64 rows | 64 rows | 64 rows | a few ]
//!   codes    [  block  |  block  |  block  ]          made by whoever first searches a block that is full
//! ```
//!
//! A code stands for an embedding `x'` that is near `x`; how near is measured when the code is made. With `e = |x - x'|` and
//! the same of the query, the inner product of codes is wrong by at most
//!
//! ```text
//!   |x.q - x'.q'|  =  |(x - x').q + x'.(q - q')|  <=  e |q| + (|x| + e) |q - q'|
//! ```
//!
//! A row whose distance by codes, less what that may be wrong by, is more than that of the farthest hit cannot be a hit.
//! All others are compared in full. What rounding adds to both is allowed for, see [`ROUNDING`].
//!
//! Always: what is found is what comparing with every embedding finds.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::{Buffer, Row, run_length, run_of};
use crate::codes::{Beside, CodedQuery, Codes, encode, stride_of};
use crate::distance::Metric;
use crate::record::Position;

/// Rows of a block. Every run has whole blocks.
pub(crate) const BLOCK_ROWS: usize = 64;
const _: () = assert!(super::FIRST_RUN.is_multiple_of(BLOCK_ROWS));
/// Shorter embeddings are compared as they are: a code takes a cache line at least.
pub(crate) const DIMENSION_MIN: usize = 64;
/// A sum of n products of f32 is wrong by at most n times half the distance between 1 and the next number, of the sum of the
/// products' sizes; a distance is made of three such sums, and of a few operations more.
const ROUNDING: f32 = 4.0 * f32::EPSILON;
const ROUNDED_BESIDES: usize = 32;

/// The codes of one embedding of so many rows.
pub(crate) struct Block {
    rows: Box<[u8]>,
    beside: Box<[Beside]>,
    /// For each row, how far its code is from it, and how long it is.
    errors: Box<[[f32; 2]]>,
}

impl Block {
    fn new(metric: Metric, dimension: usize, embeddings: impl Iterator<Item = Option<impl AsRef<[f32]>>>) -> Block {
        let stride = stride_of(dimension);
        let mut block = Block {
            rows: vec![0; BLOCK_ROWS * stride].into(),
            // Of a row without an embedding: nothing is farther.
            beside: vec![[f32::INFINITY, 0.0]; BLOCK_ROWS].into(),
            errors: vec![[0.0; 2]; BLOCK_ROWS].into(),
        };
        let zeros = vec![0.0; dimension];
        let places = block.rows.chunks_mut(stride).zip(&mut block.beside).zip(&mut block.errors);
        for (embedding, ((row, beside), error)) in embeddings.zip(places) {
            if let Some(embedding) = embedding {
                let embedding = embedding.as_ref();
                *beside = encode(metric, &zeros, embedding, row);
                *error = measure(embedding, row, beside[1]);
            }
        }
        block
    }

    fn bytes(&self) -> usize {
        self.rows.len() + size_of_val(&*self.beside) + size_of_val(&*self.errors)
    }
}

/// How far a code is from what it stands for, and how long that is.
fn measure(embedding: &[f32], code: &[u8], scale: f32) -> [f32; 2] {
    let (mut error, mut length) = (0.0f64, 0.0f64);
    for (&x, &byte) in embedding.iter().zip(code) {
        let x = f64::from(x);
        let off = x - f64::from(i32::from(byte) - 128) * f64::from(scale);
        error += off * off;
        length += x * x;
    }
    // Rounded up: a bound must not be too small.
    [error, length].map(|squares| squares.sqrt() as f32 * (1.0 + f32::EPSILON))
}

/// A query to compare codes with. Made once and used for many queries, it stops allocating.
#[derive(Default)]
pub(crate) struct Asked {
    coded: CodedQuery,
    zeros: Vec<f32>,
    code: Vec<u8>,
    sums: Vec<i32>,
    distances: Vec<f32>,
    dimension: usize,
    /// How far the query's code is from it, and how long it is.
    error: [f32; 2],
    /// What an inner product that is wrong by one makes of a distance.
    factor: f32,
}

impl Asked {
    /// Codes a query that was prepared for the metric.
    pub fn set(&mut self, metric: Metric, query: &[f32]) {
        self.dimension = query.len();
        self.zeros.clear();
        self.zeros.resize(query.len(), 0.0);
        self.code.clear();
        self.code.resize(stride_of(query.len()), 0);
        let [_, scale] = encode(metric, &self.zeros, query, &mut self.code);
        self.error = measure(query, &self.code, scale);
        self.coded.set(metric, &self.zeros, query);
        self.factor = if metric == Metric::SquaredL2 { 2.0 } else { 1.0 };
    }

    /// For each row of a block, what its distance is at least.
    pub fn at_least(&mut self, block: &Block) -> &[f32] {
        const ALL: [u32; BLOCK_ROWS] = {
            let mut all = [0; BLOCK_ROWS];
            let mut row = 0;
            while row < BLOCK_ROWS {
                all[row] = row as u32;
                row += 1;
            }
            all
        };
        let codes = Codes::new(&block.rows, &block.beside, self.dimension);
        codes.distances(&self.coded, &ALL, &mut self.sums, &mut self.distances);
        let [query_error, query_length] = self.error;
        let rounding = ROUNDING * (self.dimension + ROUNDED_BESIDES) as f32;
        for (distance, [error, length]) in self.distances.iter_mut().zip(&block.errors) {
            let product = error * query_length + (length + error) * query_error;
            let rounded = rounding * ((length + error) * (length + error) + query_length * query_length);
            *distance -= self.factor * product + rounded;
        }
        &self.distances
    }
}

/// The rows of a full block, all of them written.
type BlockRows<'b> = &'b [OnceLock<Row>];

/// The rows of a buffer, as a search by an embedding comes to them.
pub(crate) enum Rows<'b> {
    /// So many rows that a view can see, but for those that have ended, and their codes.
    Block(BlockRows<'b>, &'b Block),
    /// One row, which may have ended.
    One(&'b Row),
}

impl Buffer {
    /// Shows all rows that began by then: as blocks with codes of one embedding, as far as there are full ones, and those after
    /// one by one. `show` says whether to go on.
    pub fn by_blocks<'b>(
        &'b self,
        position: Position,
        (metric, field, dimension): (Metric, usize, usize),
        mut show: impl FnMut(Rows<'b>) -> bool,
    ) -> bool {
        let rows = self.len() as usize;
        let mut first = 0;
        while first + BLOCK_ROWS <= rows {
            let Some((block_rows, place)) = self.block_rows(first) else { break };
            // Rows are in the order of their begin.
            if block_rows.last().and_then(OnceLock::get).is_none_or(|row| row.begin > position) {
                break;
            }
            let block = self.block(place, block_rows, (metric, field, dimension));
            if !show(Rows::Block(block_rows, block)) {
                return false;
            }
            first += BLOCK_ROWS;
        }
        let rest = (first..rows).map_while(|row| self.row(row as u32)).take_while(|row| row.begin <= position);
        for row in rest {
            if !show(Rows::One(row)) {
                return false;
            }
        }
        true
    }

    /// The rows of the block that begins there, its run, and its number in that.
    fn block_rows(&self, first: usize) -> Option<(BlockRows<'_>, (usize, usize))> {
        let (run, place) = run_of(u32::try_from(first).ok()?);
        let rows = self.runs[run].get()?.get(place..place + BLOCK_ROWS)?;
        Some((rows, (run, place / BLOCK_ROWS)))
    }

    /// The codes of a full block; made now if nobody has looked at it yet.
    fn block(
        &self,
        (run, number): (usize, usize),
        rows: BlockRows<'_>,
        (metric, field, dimension): (Metric, usize, usize),
    ) -> &Block {
        let fields = rows.first().and_then(|row| row.get()).map_or(0, |row| row.embeddings().len()).max(field + 1);
        let blocks = self.codes[run].get_or_init(|| {
            let count = run_length(run) / BLOCK_ROWS * fields;
            (0..count).map(|_| OnceLock::new()).collect()
        });
        // All rows of a collection have as many fields, so there is this place.
        blocks[number * fields + field].get_or_init(|| {
            let embeddings = rows.iter().map(|row| row.get().and_then(|row| row.embedding(field)));
            let block = Block::new(metric, dimension, embeddings);
            self.codes_bytes.fetch_add(block.bytes(), Ordering::Relaxed);
            block
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::RowContent;

    struct Random(u64);

    impl Random {
        fn float(&mut self) -> f32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        }
    }

    fn row(index: u64, embedding: Option<Vec<f32>>) -> Row {
        let embeddings = Box::new([None, embedding.map(Vec::into_boxed_slice)]);
        let content = RowContent { embeddings, ..RowContent::default() };
        Row::new(Position::new(index, 0), &index.to_le_bytes(), content, 0)
    }

    /// Embeddings that are hard on codes: one large component, all alike, very long, very short, nothing but zeros.
    fn embedding(random: &mut Random, dimension: usize, kind: u64) -> Vec<f32> {
        let size = [1.0, 1e-18, 1e15, 1.0, 1.0, 0.0][kind as usize % 6];
        let mut all: Vec<f32> = (0..dimension).map(|_| random.float() * size).collect();
        match kind % 6 {
            3 => all[0] = 1e4,
            4 => all.iter_mut().for_each(|x| *x = 3.0 + *x * 1e-4),
            _ => {}
        }
        all
    }

    #[test]
    fn no_row_is_nearer_than_its_codes_say_at_least() {
        for (seed, metric) in [Metric::Cosine, Metric::Dot, Metric::SquaredL2].into_iter().cycle().take(30).enumerate()
        {
            let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed as u64);
            let dimension = [64, 65, 384, 1_000][seed % 4];
            let prepared = |mut embedding: Vec<f32>| metric.prepare(&mut embedding).is_ok().then_some(embedding);
            let rows: Vec<Option<Vec<f32>>> =
                (0..64).map(|kind| prepared(embedding(&mut random, dimension, kind))).collect();
            let block = Block::new(metric, dimension, rows.iter().map(Option::as_ref));
            let mut asked = Asked::default();
            for kind in 0..6 {
                let Some(query) = prepared(embedding(&mut random, dimension, kind)) else { continue };
                asked.set(metric, &query);
                for (number, (&least, row)) in asked.at_least(&block).iter().zip(&rows).enumerate() {
                    match row {
                        Some(row) => {
                            let distance = metric.kernel()(&query, row);
                            assert!(least <= distance, "seed {seed} row {number} kind {kind}: {least} > {distance}");
                        }
                        None => assert_eq!(least, f32::INFINITY),
                    }
                }
            }
        }
    }

    #[test]
    fn codes_tell_most_rows_apart() {
        let mut random = Random(7);
        let rows: Vec<Vec<f32>> = (0..64).map(|_| embedding(&mut random, 384, 0)).collect();
        let block = Block::new(Metric::SquaredL2, 384, rows.iter().map(Some));
        let mut asked = Asked::default();
        asked.set(Metric::SquaredL2, &rows[5]);
        let near = asked.at_least(&block).iter().filter(|&&least| least <= 1.0).count();
        assert_eq!(near, 1);
    }

    #[test]
    fn every_row_of_a_view_is_shown_once_in_its_order() {
        let buffer = Buffer::new();
        for index in 1..=1_000 {
            buffer.push(row(index, (index % 3 > 0).then(|| vec![index as f32; 64])));
        }
        for at in [0, 1, 63, 64, 65, 128, 191, 192, 193, 640, 999, 1_000, 2_000] {
            let (mut shown, mut blocks) = (Vec::new(), 0);
            let all = buffer.by_blocks(Position::end_of(at), (Metric::Dot, 1, 64), |rows| {
                match rows {
                    Rows::Block(rows, _) => {
                        blocks += 1;
                        shown.extend(rows.iter().map(|row| row.get().unwrap().begin));
                    }
                    Rows::One(row) => shown.push(row.begin),
                }
                true
            });
            assert!(all);
            let expected: Vec<Position> = (1..=at.min(1_000)).map(|index| Position::new(index, 0)).collect();
            assert_eq!(shown, expected);
            assert_eq!(blocks, at.min(1_000) as usize / BLOCK_ROWS);
        }
        let made = buffer.codes_bytes();
        assert!(made >= 15 * 64 * 64, "{made}");
        assert!(!buffer.by_blocks(Position::end_of(1_000), (Metric::Dot, 1, 64), |_| false));
        assert_eq!(buffer.codes_bytes(), made, "codes are made once");
    }
}
