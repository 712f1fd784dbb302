//! Real embeddings for tests: the 5,000 that are shipped, and larger sets beside the repository.
//!
//! A set is a folder with `embeddings.npy` and `queries.npy` (f32 or f16) and `records.jsonl`. `LOCI_DATA` names the folder
//! that holds larger ones, `LOCI_SET` the one to use of them. Components come as cosine wants them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::distance::Metric;

/// Embeddings to be searched, and others to search with.
pub(crate) struct RealSet {
    pub name: String,
    pub dimension: usize,
    /// Row after row, each of length 1.
    pub base: Vec<f32>,
    pub queries: Vec<f32>,
    folder: PathBuf,
}

impl RealSet {
    /// The set that is shipped. `None`, and a line that says so: it was left out of this copy.
    pub fn shipped() -> Option<RealSet> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/wordnet-5k");
        if !folder.is_dir() {
            println!("skipped: data/wordnet-5k is not there");
            return None;
        }
        Some(RealSet::load(folder))
    }

    /// The larger one. `None`, and a line that says so: nobody named any.
    pub fn larger() -> Option<RealSet> {
        let name = std::env::var("LOCI_SET").unwrap_or_else(|_| "minilm-60k".into());
        let Some(data) = std::env::var_os("LOCI_DATA") else {
            println!("skipped: set LOCI_DATA to the folder that holds {name}");
            return None;
        };
        // Tests run in their package's folder, people set paths where they are: at the top.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(data).join(name);
        Some(RealSet::load(folder))
    }

    fn load(folder: PathBuf) -> RealSet {
        let (dimension, base) = npy(&folder.join("embeddings.npy"));
        let (_, queries) = npy(&folder.join("queries.npy"));
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        RealSet { name, dimension, base, queries, folder }
    }

    /// How many embeddings there are to be searched.
    pub fn len(&self) -> usize {
        self.base.len() / self.dimension
    }

    /// One of them.
    pub fn get(&self, row: usize) -> &[f32] {
        &self.base[row * self.dimension..][..self.dimension]
    }

    pub fn queries(&self) -> impl Iterator<Item = &[f32]> {
        self.queries.chunks_exact(self.dimension)
    }

    /// The category of each record.
    pub fn categories(&self) -> Vec<String> {
        let records = fs::read_to_string(self.folder.join("records.jsonl")).expect("a set has records.jsonl");
        let category = |line: &str| {
            let (_, rest) = line.split_once("\"category\": \"").unwrap_or_default();
            rest.split('"').next().unwrap_or_default().to_owned()
        };
        records.lines().map(category).collect()
    }
}

/// The columns and the rows of a version 1 .npy file of f32 or f16.
fn npy(path: &Path) -> (usize, Vec<f32>) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let head_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let head = std::str::from_utf8(&bytes[10..10 + head_len]).expect("is text");
    let shape = head.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')'));
    let columns = shape.and_then(|(shape, _)| shape.split(", ").nth(1)).expect("has two dimensions");
    let columns: usize = columns.trim_end_matches(',').parse().expect("is a number");
    let body = &bytes[10 + head_len..];
    let mut floats: Vec<f32> = if head.contains("<f2") {
        let halves = body.as_chunks::<2>().0.iter();
        halves.map(|b| half::f16::from_bits(u16::from_le_bytes(*b)).to_f32()).collect()
    } else {
        assert!(head.contains("<f4"), "{}: {head}", path.display());
        body.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    floats.chunks_exact_mut(columns).for_each(|row| Metric::Cosine.prepare(row).expect("is a good embedding"));
    (columns, floats)
}
