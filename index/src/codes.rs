//! Codes: embeddings as one byte a component, for finding what may be near; the embeddings themselves then say what is.
//!
//! ```text
//!   embedding x --minus the mean--> x' --divided by its own scale--> bytes, 128 for zero
//!                                       scale = greatest |component| / 127
//!
//!   one row: `stride` bytes (the dimension rounded up to a cache line)      beside it: bias, scale
//!            | a byte for each component | 128 ... | bias, scale, if there is room |
//! ```
//!
//! Where the rest of a row's last line has room, what is beside the row is in its last bytes too, so that a search reads one
//! line less for each distance. A query's bytes are zero there, and whoever does not know of it is not disturbed.
//!
//! Each embedding has a scale of its own, so that one with an unusual component spoils nobody else's code (on real sets
//! recall@10 is 0.993 by codes alone, 1.0 after looking again at twice as many; one scale for all loses up to 10 %). The
//! mean of all is taken off first: what all embeddings share says nothing about which is nearer, but would use up the
//! few steps that a byte has.
//!
//! With q' = q - mean, coded in the same way, and d the inner product of the two codes times both scales:
//!
//! | metric | distance | bias of x | constant of q |
//! |---|---|---|---|
//! | squared L2 | bias + constant - 2d | x'.x' | q'.q' |
//! | cosine | half of that: embeddings have length 1 | x'.x' / 2 | q'.q' / 2 |
//! | dot | constant - d, where q is coded without taking the mean off | 0 | -(q.mean) |

use crate::distance::{CodeKernels, Metric, code_kernels};

/// Rows begin at multiples of so many bytes.
const LINE: usize = 64;
/// The code of zero.
const ZERO: u8 = 128;
/// The greatest distance of a code from zero.
const STEPS: f32 = 127.0;
/// Added before the fraction is cut off: zero, and a half for rounding.
const ROUNDED: f32 = ZERO as f32 + 0.5;

/// A row's length in bytes.
pub(crate) fn stride_of(dimension: usize) -> usize {
    dimension.next_multiple_of(LINE)
}

/// What a row has beside its bytes: its bias, see the table above, and what one step of a byte stands for.
pub(crate) type Beside = [f32; 2];

/// Whether rows of this dimension have room for what is beside them.
pub(crate) fn has_room(dimension: usize) -> bool {
    stride_of(dimension) - dimension >= size_of::<Beside>()
}

/// Whether rows hold what is beside them. Files of old do not: they have 128 there, which would be a scale below zero.
pub(crate) fn holds_beside(rows: &[u8], beside: &[Beside], dimension: usize) -> bool {
    let first = rows.get(..stride_of(dimension)).zip(beside.first());
    has_room(dimension)
        && first.is_some_and(|(row, beside)| beside_in(row).map(f32::to_bits) == beside.map(f32::to_bits))
}

/// What a row holds in its last bytes.
#[inline]
pub(crate) fn beside_in(row: &[u8]) -> Beside {
    match row.last_chunk() {
        Some(&[a, b, c, d, e, f, g, h]) => [f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h])],
        None => [f32::INFINITY, 0.0],
    }
}

/// The mean of embeddings, taken one after the other.
#[derive(Default)]
pub(crate) struct Mean {
    sums: Vec<f64>,
    count: usize,
}

impl Mean {
    pub fn add(&mut self, embedding: &[f32]) {
        self.sums.resize(embedding.len(), 0.0);
        self.sums.iter_mut().zip(embedding).for_each(|(sum, &x)| *sum += f64::from(x));
        self.count += 1;
    }

    pub fn finish(self) -> Vec<f32> {
        self.sums.into_iter().map(|sum| (sum / self.count.max(1) as f64) as f32).collect()
    }
}

/// Codes one embedding into `row`, which is `stride` bytes long.
pub(crate) fn encode(metric: Metric, mean: &[f32], embedding: &[f32], row: &mut [u8]) -> Beside {
    let centred = || embedding.iter().zip(mean).map(|(&x, &m)| x - m);
    let (mut greatest, mut squares) = (0.0f32, 0.0f64);
    for x in centred() {
        greatest = greatest.max(x.abs());
        squares += f64::from(x) * f64::from(x);
    }
    let steps = if greatest > 0.0 { STEPS / greatest } else { 0.0 };
    row.fill(ZERO);
    for (byte, x) in row.iter_mut().zip(centred()) {
        *byte = (x * steps + ROUNDED) as u8;
    }
    let bias = match metric {
        Metric::SquaredL2 => squares as f32,
        Metric::Cosine => (squares / 2.0) as f32,
        Metric::Dot => 0.0,
    };
    let beside = [bias, greatest / STEPS];
    if has_room(embedding.len())
        && let Some(last) = row.last_chunk_mut::<{ size_of::<Beside>() }>()
    {
        *last = bytemuck::cast(beside.map(f32::to_le_bytes));
    }
    beside
}

/// A query as codes are compared with it. Made once and used for many queries, it stops allocating.
#[derive(Debug, Default)]
pub(crate) struct CodedQuery {
    bytes: Vec<i8>,
    /// 128 times the sum of the bytes: what comes of codes being 128 for zero.
    offset: i32,
    factor: f32,
    constant: f32,
}

impl CodedQuery {
    /// Codes a query that was prepared for the metric.
    pub fn set(&mut self, metric: Metric, mean: &[f32], query: &[f32]) {
        let shift = if metric == Metric::Dot { 0.0 } else { 1.0 };
        let centred = || query.iter().zip(mean).map(|(&x, &m)| x - shift * m);
        let (mut greatest, mut squares, mut product) = (0.0f32, 0.0f64, 0.0f64);
        for (x, &m) in centred().zip(mean) {
            greatest = greatest.max(x.abs());
            squares += f64::from(x) * f64::from(x);
            product += f64::from(x) * f64::from(m);
        }
        let steps = if greatest > 0.0 { STEPS / greatest } else { 0.0 };
        let scale = greatest / STEPS;
        self.bytes.clear();
        self.bytes.extend(centred().map(|x| ((x * steps + ROUNDED) as u8 ^ ZERO) as i8));
        self.bytes.resize(stride_of(query.len()), 0);
        self.offset = i32::from(ZERO) * self.bytes.iter().map(|&byte| i32::from(byte)).sum::<i32>();
        (self.factor, self.constant) = match metric {
            Metric::SquaredL2 => (-2.0 * scale, squares as f32),
            Metric::Cosine => (-scale, (squares / 2.0) as f32),
            Metric::Dot => (-scale, -product as f32),
        };
    }

    /// How far a row is, whose bytes and the query's give this sum.
    #[inline]
    fn distance(&self, sum: i32, beside: Option<Beside>) -> f32 {
        match beside {
            Some([bias, scale]) => self.constant + bias + self.factor * scale * (sum - self.offset) as f32,
            None => f32::INFINITY,
        }
    }
}

/// The codes of many embeddings, lent for a search.
#[derive(Clone, Copy)]
pub(crate) struct Codes<'a> {
    rows: &'a [u8],
    beside: &'a [Beside],
    stride: usize,
    /// Whether the rows hold what is beside them.
    inside: bool,
    kernels: CodeKernels,
}

impl<'a> Codes<'a> {
    /// Rows of embeddings of this dimension, one after the other.
    pub fn new(rows: &'a [u8], beside: &'a [Beside], dimension: usize) -> Codes<'a> {
        Codes { rows, beside, stride: stride_of(dimension), inside: false, kernels: code_kernels() }
    }

    /// The same of rows that hold what is beside them, if they do: see [`holds_beside`].
    pub fn inside(self, inside: bool) -> Codes<'a> {
        Codes { inside, ..self }
    }

    /// How far some rows are from the query, nearly; a row that is not there is farther than everything. `sums` is for the
    /// sums in between.
    pub fn distances(&self, query: &CodedQuery, rows: &[u32], sums: &mut Vec<i32>, into: &mut Vec<f32>) {
        (self.kernels.many)(self.rows, self.stride, rows, &query.bytes, sums);
        into.clear();
        let sums = rows.iter().zip(sums);
        if self.inside {
            into.extend(sums.map(|(&row, sum)| {
                let start = row as usize * self.stride;
                query.distance(*sum, self.rows.get(start..start + self.stride).map(beside_in))
            }));
        } else {
            into.extend(sums.map(|(&row, sum)| query.distance(*sum, self.beside.get(row as usize).copied())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift, mapped to -1..1.
    fn random(state: &mut u64) -> f32 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    #[test]
    fn rows_that_hold_what_is_beside_them_are_as_far_as_others() {
        const ROWS: usize = 9;
        for (seed, dimension) in (1u64..).zip(1..=300) {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut draw = || -> Vec<f32> { (0..dimension).map(|_| random(&mut state)).collect() };
            let (mean, query) = (draw(), draw());
            let stride = stride_of(dimension);
            for metric in [Metric::SquaredL2, Metric::Cosine, Metric::Dot] {
                let (mut rows, mut beside) = (vec![0; ROWS * stride], Vec::new());
                for row in rows.chunks_mut(stride) {
                    beside.push(encode(metric, &mean, &draw(), row));
                }
                let inside = holds_beside(&rows, &beside, dimension);
                assert_eq!(inside, has_room(dimension), "dimension {dimension}");
                let mut coded = CodedQuery::default();
                coded.set(metric, &mean, &query);
                let wanted = [3, 0, 8, 9, u32::MAX];
                let (mut sums, mut apart, mut within) = (Vec::new(), Vec::new(), Vec::new());
                let codes = Codes::new(&rows, &beside, dimension);
                codes.distances(&coded, &wanted, &mut sums, &mut apart);
                codes.inside(inside).distances(&coded, &wanted, &mut sums, &mut within);
                assert_eq!(apart, within, "seed {seed}, dimension {dimension}, {metric:?}");
                assert_eq!(apart[3..], [f32::INFINITY; 2]);
                // As they were written before: the rest of a line is 128, and the same is found.
                rows.chunks_mut(stride).for_each(|row| row[dimension..].fill(ZERO));
                assert!(!holds_beside(&rows, &beside, dimension));
                Codes::new(&rows, &beside, dimension).distances(&coded, &wanted, &mut sums, &mut within);
                assert_eq!(apart, within, "seed {seed}, dimension {dimension}, {metric:?}");
            }
        }
    }

    #[test]
    fn nothing_holds_nothing() {
        assert!(!holds_beside(&[], &[], 100));
        assert!(!holds_beside(&[0; 127], &[[0.0; 2]], 100));
        assert_eq!(beside_in(&[1; 7]), [f32::INFINITY, 0.0]);
    }
}
