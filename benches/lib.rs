//! Measurements of the pieces, each against a peer or against what the machine can do, on the same data in the same run.
//!
//! | bench | what | beside it |
//! |---|---|---|
//! | `distance` | every kernel the processor runs, f32 | the scalar one |
//! | `search` | the flat graph, at several efforts, with its recall | hnsw_rs's own search of its own graph; the exact scan |
//! | `log` | append and sync, by batch size | the disk's own write and sync |
//! | `apply` | entries through the store | hashing the same bytes |
//! | `cache` | how often caches of as many bytes find what they are asked for | moka, quick_cache, Redis |
//!
//! `cargo bench -p loci-benches` runs them all, `--bench search` one. The data are those the repository ships.
//!
//! The program `ann` measures searches on whole data sets; `peers/` holds the script that runs it beside the libraries that
//! people compare with, and says where the sets come from.
#![forbid(unsafe_code)]

pub mod caches;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use loci_index::segment::{Row, Rows};

/// The shipped embeddings: 5,000 records and 200 queries of 384 components each, and the queries' nearest rows.
pub struct Glosses {
    /// Row after row.
    pub records: Vec<f32>,
    /// Row after row.
    pub queries: Vec<f32>,
    /// 100 rows for each query, nearest first.
    pub truth: Vec<i32>,
}

/// Components of an embedding.
pub const DIMENSION: usize = 384;
/// Rows of truth for each query.
pub const TRUTH: usize = 100;

impl Glosses {
    /// Reads them from the repository.
    pub fn load() -> Glosses {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/wordnet-5k");
        let floats = |name: &str| numbers(&folder.join(name), f32::from_le_bytes);
        Glosses {
            records: floats("embeddings.npy"),
            queries: floats("queries.npy"),
            truth: numbers(&folder.join("ground_truth.npy"), i32::from_le_bytes),
        }
    }

    /// The embedding of a row.
    pub fn record(&self, row: usize) -> &[f32] {
        &self.records[row * DIMENSION..][..DIMENSION]
    }

    /// All queries with their ten nearest rows.
    pub fn questions(&self) -> impl Iterator<Item = (&[f32], &[i32])> {
        let truth = self.truth.chunks_exact(TRUTH).map(|rows| &rows[..10]);
        self.queries.chunks_exact(DIMENSION).zip(truth)
    }
}

/// Embeddings as a segment wants them: keys are row numbers, so that the order of the file is kept.
pub struct Numbered<'a> {
    dimension: usize,
    floats: &'a [f32],
    keys: Vec<[u8; 4]>,
}

impl<'a> Numbered<'a> {
    /// Of so many components each, row after row.
    pub fn new(dimension: usize, floats: &'a [f32]) -> Numbered<'a> {
        let rows = (floats.len() / dimension) as u32;
        Numbered { dimension, floats, keys: (0..rows).map(u32::to_be_bytes).collect() }
    }
}

impl Rows for Numbered<'_> {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn row(&self, i: usize) -> Row<'_> {
        Row { key: &self.keys[i], begin: 1, deadline: 0, hash: 0, value: None, attributes: &[] }
    }

    fn embedding(&self, i: usize, _field: usize) -> Option<Cow<'_, [f32]>> {
        Some(Cow::Borrowed(&self.floats[i * self.dimension..][..self.dimension]))
    }
}

/// A file of NumPy format 1.0 with 4-byte numbers, whose header is taken for granted: the repository ships it.
fn numbers<T>(path: &Path, number: fn([u8; 4]) -> T) -> Vec<T> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let body = &bytes[10 + header..];
    body.chunks_exact(4).map(|bytes| number(bytes.try_into().expect("four bytes"))).collect()
}
