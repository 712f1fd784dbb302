//! Sparse embeddings: few dimensions of very many, each with a weight, as SPLADE and BM42 make them.
//!
//! ```text
//!   record:   | dimension u32, weight f32 | ...   dimensions ascending, each once
//!   segment:  dimension -> rows and weights       (see `Index`)
//! ```
//!
//! Two of them are compared by their inner product over the dimensions that both have; the distance is its negative, so
//! that smaller is nearer. Only records that share a dimension with the query are hits. The search is exact. Products are
//! added in f64 in the order of the dimensions, so a record has the same distance wherever it lies.

mod postings;

pub use postings::{Index, Postings, Writer};

/// The most dimensions of one sparse embedding that have a weight.
pub const SPARSE_DIMENSIONS_MAX: usize = 10_000;
/// What one weight takes in a record's bytes.
pub const WEIGHT_BYTES: usize = 8;

/// Why weights are not a sparse embedding.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SparseError {
    /// There is none.
    #[error("a sparse embedding has at least one weight that is not 0")]
    Empty,
    /// There are too many.
    #[error("a sparse embedding has at most {SPARSE_DIMENSIONS_MAX} weights, not {0}; leave out the smallest")]
    TooMany(usize),
    /// A dimension is given twice.
    #[error("dimension {0} of a sparse embedding is given twice")]
    Duplicate(u32),
    /// A weight is infinite or not a number.
    #[error("the weight of dimension {0} of a sparse embedding is not a finite number")]
    NotFinite(u32),
}

/// A sparse embedding, checked: dimensions ascend, weights are finite and not 0.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseVector(Vec<(u32, f32)>);

impl SparseVector {
    /// From weights in any order; those that are 0 are left out.
    pub fn new(mut weights: Vec<(u32, f32)>) -> Result<SparseVector, SparseError> {
        if let Some(&(dimension, _)) = weights.iter().find(|(_, weight)| !weight.is_finite()) {
            return Err(SparseError::NotFinite(dimension));
        }
        weights.retain(|&(_, weight)| weight != 0.0);
        weights.sort_unstable_by_key(|&(dimension, _)| dimension);
        if let Some(pair) = weights.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(SparseError::Duplicate(pair[0].0));
        }
        match weights.len() {
            0 => Err(SparseError::Empty),
            many if many > SPARSE_DIMENSIONS_MAX => Err(SparseError::TooMany(many)),
            _ => Ok(SparseVector(weights)),
        }
    }

    /// Its dimensions, ascending, with their weights.
    pub fn weights(&self) -> &[(u32, f32)] {
        &self.0
    }

    /// The weights themselves.
    pub fn into_weights(self) -> Vec<(u32, f32)> {
        self.0
    }

    /// How far a record is whose weights these are, dimensions ascending; `None` if no dimension is shared.
    pub fn distance(&self, mut others: impl Iterator<Item = (u32, f32)>) -> Option<f32> {
        let mut shared = false;
        let mut sum = 0.0;
        let mut other = others.next();
        for &(dimension, weight) in &self.0 {
            while other.is_some_and(|(at, _)| at < dimension) {
                other = others.next();
            }
            if let Some((_, theirs)) = other.filter(|&(at, _)| at == dimension) {
                shared = true;
                sum += product(weight, theirs);
            }
        }
        shared.then_some(to_distance(sum))
    }

    /// The same, from what a walk over an [`Index`] says of a row: which of the query's weights, and the row's.
    pub fn distance_of(&self, said: &[(usize, f32)]) -> f32 {
        let products = said.iter().filter_map(|&(number, theirs)| Some(product(self.0.get(number)?.1, theirs)));
        to_distance(products.sum())
    }
}

fn product(a: f32, b: f32) -> f64 {
    f64::from(a) * f64::from(b)
}

/// Adding 0 makes no difference but for -0.0, which does not sort where 0 does.
fn to_distance(dot: f64) -> f32 {
    (-dot + 0.0) as f32
}

/// Whether weights are as [`SparseVector::new`] leaves them.
pub fn is_valid(weights: &[(u32, f32)]) -> bool {
    let each = weights.iter().all(|(_, weight)| weight.is_finite() && *weight != 0.0);
    let counted = (1..=SPARSE_DIMENSIONS_MAX).contains(&weights.len());
    counted && each && weights.is_sorted_by(|a, b| a.0 < b.0)
}

/// The bytes that a record's weights are stored as.
pub fn encode(weights: &[(u32, f32)]) -> impl Iterator<Item = [u8; WEIGHT_BYTES]> {
    weights.iter().map(|(dimension, weight)| {
        let mut bytes = [0; WEIGHT_BYTES];
        bytes[..4].copy_from_slice(&dimension.to_le_bytes());
        bytes[4..].copy_from_slice(&weight.to_le_bytes());
        bytes
    })
}

/// The weights that stored bytes are; what is left over at the end is none.
pub fn decode(bytes: &[u8]) -> impl Iterator<Item = (u32, f32)> + Clone {
    let (weights, _) = bytes.as_chunks::<WEIGHT_BYTES>();
    weights.iter().map(|&[a, b, c, d, e, f, g, h]| (u32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h])))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::inverted;

    fn vectors(seed: u64, count: usize, dimensions: u64) -> Vec<SparseVector> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |end: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % end
        };
        let mut vector = || {
            let weights: BTreeMap<u32, f32> =
                (0..1 + below(20)).map(|_| (below(dimensions) as u32, (below(2_000) as f32 - 999.5) / 100.0)).collect();
            SparseVector::new(weights.into_iter().collect()).unwrap()
        };
        (0..count).map(|_| vector()).collect()
    }

    fn encoded(vectors: &[Option<SparseVector>]) -> Vec<u8> {
        let rows = (0..).zip(vectors).filter_map(|(row, vector)| Some((row, vector.as_ref()?.weights())));
        let mut bytes = Vec::new();
        let rows = || rows.clone().map(|(row, weights)| (row, weights.iter().copied()));
        let written: Result<(), ()> = Writer::new(vectors.len() as u32, rows).write(|part| {
            bytes.extend_from_slice(part);
            Ok(())
        });
        assert_eq!(written, Ok(()));
        bytes
    }

    /// The inner product by looking every dimension up.
    fn model(a: &SparseVector, b: &SparseVector) -> Option<f32> {
        let b: BTreeMap<u32, f32> = b.weights().iter().copied().collect();
        let shared: Vec<f64> =
            a.weights().iter().filter_map(|(at, w)| Some(f64::from(*w) * f64::from(*b.get(at)?))).collect();
        (!shared.is_empty()).then(|| (0.0 - shared.iter().sum::<f64>()) as f32)
    }

    #[test]
    fn the_index_finds_what_comparing_with_every_row_finds() {
        for seed in 1..=20 {
            let mut rows: Vec<Option<SparseVector>> = vectors(seed, 300, 60).into_iter().map(Some).collect();
            rows.iter_mut().step_by(7).for_each(|row| *row = None);
            let bytes = encoded(&rows);
            let index = Index::open(&bytes).unwrap();
            assert_eq!(index.rows(), 300);
            for query in vectors(seed + 100, 10, 70) {
                let mut found = vec![None; rows.len()];
                let lists = query.weights().iter().map(|&(dimension, _)| index.find(dimension)).collect();
                inverted::walk(lists, |row, said| {
                    found[row as usize] = Some(query.distance_of(said));
                    true
                });
                for (row, vector) in rows.iter().enumerate() {
                    let expected = vector.as_ref().and_then(|vector| model(&query, vector));
                    let compared = vector.as_ref().and_then(|vector| query.distance(vector.weights().iter().copied()));
                    assert_eq!((found[row], compared), (expected, expected), "seed {seed} row {row}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_sparse_embedding_is_refused() {
        let new = |weights: &[(u32, f32)]| SparseVector::new(weights.to_vec());
        assert_eq!(new(&[(9, 1.0), (2, -1.0), (5, 0.0)]).unwrap().weights(), [(2, -1.0), (9, 1.0)]);
        assert!(is_valid(&[(2, -1.0), (9, 1.0)]));
        for wrong in [&[(9, 1.0), (2, -1.0)][..], &[(2, 1.0), (2, 1.0)], &[], &[(1, 0.0)], &[(1, f32::NAN)]] {
            assert!(!is_valid(wrong), "{wrong:?}");
        }
        assert_eq!(new(&[]), Err(SparseError::Empty));
        assert_eq!(new(&[(1, 0.0)]), Err(SparseError::Empty));
        assert_eq!(new(&[(1, 1.0), (1, 2.0)]), Err(SparseError::Duplicate(1)));
        for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(new(&[(1, 1.0), (3, weight)]), Err(SparseError::NotFinite(3)));
        }
        let many = |count: u32| SparseVector::new((0..count).map(|dimension| (dimension, 1.0)).collect());
        assert!(many(SPARSE_DIMENSIONS_MAX as u32).is_ok());
        assert_eq!(many(SPARSE_DIMENSIONS_MAX as u32 + 1), Err(SparseError::TooMany(SPARSE_DIMENSIONS_MAX + 1)));
    }

    #[test]
    fn a_records_bytes_bring_its_weights_back() {
        let weights = [(0, 1.5), (7, -2.0), (u32::MAX, 1e-30)];
        let bytes: Vec<u8> = encode(&weights).flatten().collect();
        assert_eq!(decode(&bytes).collect::<Vec<_>>(), weights);
        assert_eq!(decode(&bytes[..bytes.len() - 1]).count(), 2);
    }

    #[test]
    fn flipped_bits_and_missing_ends_never_panic() {
        let bytes = encoded(&vectors(5, 6, 8).into_iter().map(Some).collect::<Vec<_>>());
        let read = |bytes: &[u8]| {
            let Some(index) = Index::open(bytes) else { return };
            (0..9).for_each(|dimension| assert!(index.find(dimension).all(|(row, _)| row < index.rows())));
        };
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            read(&damaged);
        }
        (0..bytes.len()).for_each(|len| read(&bytes[..len]));
    }

    #[test]
    fn version_1_never_changes() {
        let vector = |weights: &[(u32, f32)]| Some(SparseVector::new(weights.to_vec()).unwrap());
        let bytes = encoded(&[vector(&[(3, 1.0)]), None, vector(&[(3, 2.0), (8, -1.0)])]);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "03000000 02000000 0300000000000000 0200000000000000 0300000000000000 03000000 08000000 \
                      00000000 02000000 02000000 0000803f 00000040 000080bf";
        assert_eq!(hex, golden.replace(' ', ""));
    }
}
