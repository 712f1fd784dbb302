//! Files of records, whatever their format: a sequence of rows, each a record or the reason why it is none.
//!
//! ```text
//! Spec --open at a position--> Source --next--> Row, Row, ... , end
//! ```
//!
//! A row that is no record does not end a file; damage after which the next row cannot be found does. Memory is bounded by
//! one row (of Parquet: by one batch of one row group), however large the file is.

mod fvecs;
mod jsonl;
pub mod npy;
mod parquet;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use loci_client::{Embedding, Record};

use super::json::Fields;

/// How much of a row a dead letter quotes.
const EXCERPT_BYTES: usize = 300;

/// What to read and how.
#[derive(Debug, Clone)]
pub struct Spec {
    pub path: PathBuf,
    /// A `.npy` file whose row i is the embedding of line i.
    pub vectors: Option<PathBuf>,
    pub fields: Fields,
    /// The name of the embedding in the collection.
    pub embedding: String,
    /// Rows without a key have this and their number as one.
    pub key_prefix: Option<String>,
}

/// Where a row begins: how many rows stand before it, and how many bytes where that can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub rows: u64,
    pub bytes: u64,
}

/// How much there is to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Rows(u64),
    Bytes(u64),
}

/// One row of a file.
#[derive(Debug)]
pub struct Row {
    /// Which, counted from 1: the line, where there are lines.
    pub line: u64,
    /// Where the next one begins.
    pub after: Position,
    pub outcome: Result<Record, String>,
    /// Its beginning, as it stands in the file.
    pub excerpt: String,
}

/// Why a file cannot be read, or not further.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("format not known by the name: .jsonl, .ndjson, .npy, .fvecs and .parquet are")]
    UnknownFormat,
    #[error("--vectors goes with JSONL files only")]
    VectorsBeside,
    #[error("{}: {error}", path.display())]
    Vectors { path: PathBuf, error: npy::NpyError },
    #[error("line {line} has no row: {} ends after {rows}", vectors.display())]
    FewVectors { line: u64, vectors: PathBuf, rows: u64 },
    #[error("it ends after {lines} lines, but {} has {rows} rows", vectors.display())]
    ManyVectors { lines: u64, vectors: PathBuf, rows: u64 },
    #[error(transparent)]
    Npy(#[from] npy::NpyError),
    #[error("row {row}: {reason}")]
    Fvecs { row: u64, reason: String },
    #[error("damaged or not supported Parquet: {0}")]
    Parquet(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// An open file.
#[derive(Debug)]
pub enum Source {
    Jsonl(jsonl::Jsonl),
    Npy { reader: npy::NpyReader, spec: Spec, next: u64 },
    Fvecs(fvecs::Fvecs),
    Parquet(parquet::Parquet),
}

impl Source {
    /// Opens a file, to be read from a position that an earlier reading has reached.
    pub fn open(spec: Spec, from: Position) -> Result<Source, SourceError> {
        let format = format_of(&spec.path);
        if spec.vectors.is_some() && format != "jsonl" {
            return Err(SourceError::VectorsBeside);
        }
        Ok(match format.as_str() {
            "jsonl" => Source::Jsonl(jsonl::Jsonl::open(spec, from)?),
            "npy" => {
                let mut reader = npy::NpyReader::open(&spec.path)?;
                reader.seek(from.rows)?;
                Source::Npy { reader, spec, next: from.rows }
            }
            "fvecs" => Source::Fvecs(fvecs::Fvecs::open(spec, from)?),
            "parquet" => Source::Parquet(parquet::Parquet::open(spec, from)?),
            _ => return Err(SourceError::UnknownFormat),
        })
    }

    /// The next row; none: that was the last.
    pub fn next(&mut self) -> Result<Option<Row>, SourceError> {
        match self {
            Source::Jsonl(jsonl) => jsonl.next(),
            Source::Npy { reader, spec, next } => {
                let Some(vector) = reader.next_row()? else {
                    return Ok(None);
                };
                *next += 1;
                Ok(Some(spec.row_of_vector(vector, Position { rows: *next, bytes: 0 })))
            }
            Source::Fvecs(fvecs) => fvecs.next(),
            Source::Parquet(parquet) => parquet.next(),
        }
    }

    /// How much there is to read, from the beginning of the file.
    pub fn size(&self) -> Size {
        match self {
            Source::Jsonl(jsonl) => Size::Bytes(jsonl.bytes()),
            Source::Npy { reader, .. } => Size::Rows(reader.rows()),
            Source::Fvecs(fvecs) => Size::Bytes(fvecs.bytes()),
            Source::Parquet(parquet) => Size::Rows(parquet.rows()),
        }
    }
}

fn format_of(path: &Path) -> String {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" => "jsonl".into(),
        other => other.into(),
    }
}

impl Spec {
    fn row_of_vector(&self, vector: Vec<f32>, after: Position) -> Row {
        let excerpt = format!("{:?}", vector.get(..8).unwrap_or(&vector));
        let mut record = Record::default();
        record.embeddings.push(Embedding { name: String::new(), vector });
        Row { line: after.rows, after, outcome: self.finished(record, after.rows - 1), excerpt }
    }

    /// Gives a record of row `row` what only the options say: its key if it has none, and the embedding's name.
    fn finished(&self, mut record: Record, row: u64) -> Result<Record, String> {
        for embedding in &mut record.embeddings {
            if embedding.name.is_empty() {
                embedding.name.clone_from(&self.embedding);
            }
        }
        if record.key.is_empty() {
            record.key = match &self.key_prefix {
                Some(prefix) => Bytes::from(format!("{prefix}{row}")),
                None => {
                    let field = &self.fields.key;
                    return Err(format!("no {field:?} (--key-field names another, --key-prefix numbers the rows)"));
                }
            };
        }
        Ok(record)
    }
}

/// The beginning of a row, as text.
fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..EXCERPT_BYTES).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn spec(path: &Path) -> Spec {
        Spec {
            path: path.into(),
            vectors: None,
            fields: Fields::default(),
            embedding: String::new(),
            key_prefix: Some("r".into()),
        }
    }

    /// Everything of a file, and how it ended.
    pub fn read_from(spec: Spec, from: Position) -> (Vec<Row>, Result<(), SourceError>) {
        let mut rows = Vec::new();
        let mut source = match Source::open(spec, from) {
            Ok(source) => source,
            Err(error) => return (rows, Err(error)),
        };
        loop {
            match source.next() {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => return (rows, Ok(())),
                Err(error) => return (rows, Err(error)),
            }
        }
    }

    pub fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        (directory, path)
    }

    /// Reading from where any row ended gives the rows after it, and never other ones.
    pub fn check_resumes(spec: &Spec) {
        let (all, end) = read_from(spec.clone(), Position::default());
        assert!(end.is_ok(), "{end:?}");
        assert!(all.len() > 1);
        for (number, row) in all.iter().enumerate() {
            let (rest, end) = read_from(spec.clone(), row.after);
            assert!(end.is_ok(), "{end:?}");
            let shown = |rows: &[Row]| format!("{rows:?}");
            assert_eq!(shown(&rest), shown(&all[number + 1..]));
        }
    }

    #[test]
    fn a_npy_file_alone_has_its_row_numbers_as_keys() {
        let data: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let (_directory, path) = write("v.npy", &npy::tests::npy("<f4", "(3, 1)", &data));
        let (rows, end) = read_from(spec(&path), Position::default());
        assert!(end.is_ok());
        let keys: Vec<_> = rows.iter().map(|row| row.outcome.as_ref().map(|record| record.key.clone())).collect();
        assert_eq!(keys, [Ok("r0".into()), Ok("r1".into()), Ok("r2".into())]);
        check_resumes(&spec(&path));
    }

    #[test]
    fn files_of_other_formats_are_refused_by_name() {
        let (_directory, path) = write("data.csv", b"a,b");
        let (_, end) = read_from(spec(&path), Position::default());
        assert!(matches!(end, Err(SourceError::UnknownFormat)));
    }
}
