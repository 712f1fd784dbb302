//! The records that the demo shows: 5,000 WordNet glosses with their embeddings, inside the program.

use std::fs;
use std::io;
use std::path::Path;

use super::super::json::Fields;
use super::super::source::npy::read_int_rows;
use super::super::source::{Position, Source, Spec};
use loci_client::Record;

const RECORDS: &[u8] = include_bytes!("../../../../data/wordnet-5k/records.jsonl");
const EMBEDDINGS: &[u8] = include_bytes!("../../../../data/wordnet-5k/embeddings.npy");
const QUERIES: &[u8] = include_bytes!("../../../../data/wordnet-5k/queries.jsonl");
const QUERY_VECTORS: &[u8] = include_bytes!("../../../../data/wordnet-5k/queries.npy");
const GROUND_TRUTH: &[u8] = include_bytes!("../../../../data/wordnet-5k/ground_truth.npy");

/// Where a data set has its files; the benchmarks read the same layout.
pub const FILES: [&str; 5] = ["records.jsonl", "embeddings.npy", "queries.jsonl", "queries.npy", "ground_truth.npy"];

/// A data set in memory.
#[derive(Debug)]
pub struct DataSet {
    pub records: Vec<Record>,
    pub queries: Vec<Query>,
}

/// A held-out query.
#[derive(Debug, Clone)]
pub struct Query {
    pub text: String,
    pub vector: Vec<f32>,
    /// The nearest records, by their place among the records, best first.
    pub nearest: Vec<usize>,
}

/// Writes the files that the program carries.
pub fn unpack(directory: &Path) -> io::Result<()> {
    let contents = [RECORDS, EMBEDDINGS, QUERIES, QUERY_VECTORS, GROUND_TRUTH];
    for (file, content) in FILES.iter().zip(contents) {
        fs::write(directory.join(file), content)?;
    }
    Ok(())
}

impl DataSet {
    /// Reads a directory with the five files.
    pub fn load(directory: &Path) -> Result<DataSet, String> {
        let path = |file: &str| directory.join(file);
        let said = |file: &str, reason: String| format!("{}: {reason}", path(file).display());
        let read = |file: &'static str, vectors: &str| -> Result<Vec<Record>, String> {
            let spec = Spec {
                path: path(file),
                vectors: Some(path(vectors)),
                fields: Fields::default(),
                embedding: String::new(),
                key_prefix: Some("q".into()),
            };
            let mut source = Source::open(spec, Position::default()).map_err(|error| said(file, error.to_string()))?;
            let mut records = Vec::new();
            while let Some(row) = source.next().map_err(|error| said(file, error.to_string()))? {
                let line = row.line;
                records.push(row.outcome.map_err(|reason| said(file, format!("line {line}: {reason}")))?);
            }
            Ok(records)
        };
        let records = read("records.jsonl", "embeddings.npy")?;
        let truth = path("ground_truth.npy");
        let truth = read_int_rows(&truth).map_err(|error| said("ground_truth.npy", error.to_string()))?;
        let queries = read("queries.jsonl", "queries.npy")?;
        if queries.len() != truth.len() {
            let reason = format!("{} rows for {} queries", truth.len(), queries.len());
            return Err(said("ground_truth.npy", reason));
        }
        let count = records.len();
        let query = |(record, rows): (Record, Vec<i64>)| {
            let nearest: Result<Vec<usize>, _> =
                rows.into_iter().map(|row| usize::try_from(row).ok().filter(|row| *row < count).ok_or(row)).collect();
            Ok(Query {
                text: record.text().unwrap_or_default().to_owned(),
                vector: record.embedding("").unwrap_or_default().to_vec(),
                nearest: nearest
                    .map_err(|row| said("ground_truth.npy", format!("row {row} is not one of {count} records")))?,
            })
        };
        let queries = queries.into_iter().zip(truth).map(query).collect::<Result<_, String>>()?;
        Ok(DataSet { records, queries })
    }

    pub fn dimension(&self) -> u32 {
        self.records.first().and_then(|record| record.embedding("")).map_or(0, |vector| vector.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_set_is_whole() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        unpack(directory.path()).expect("written");
        let data = DataSet::load(directory.path()).expect("whole");
        assert_eq!((data.records.len(), data.queries.len(), data.dimension()), (5000, 200, 384));
        assert!(data.queries.iter().all(|query| query.nearest.len() == 100 && !query.text.is_empty()));
    }
}
