//! JSON, one record a line, with its embedding inside or in a `.npy` file beside it.
//!
//! Empty lines are no records and no errors; beside a `.npy` file they count as lines, since row i belongs to line i.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};

use super::npy::NpyReader;
use super::{Position, Row, SourceError, Spec, excerpt};
use crate::cli::json::record_from_json;

/// As much as a record can have: its value of 16 MiB, in an escaped form, its attributes and embeddings.
const LINE_BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
pub struct Jsonl {
    input: BufReader<File>,
    bytes: u64,
    vectors: Option<NpyReader>,
    position: Position,
    line: Vec<u8>,
    spec: Spec,
}

impl Jsonl {
    pub fn open(spec: Spec, from: Position) -> Result<Jsonl, SourceError> {
        let file = File::open(&spec.path)?;
        let bytes = file.metadata()?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        input.seek(SeekFrom::Start(from.bytes))?;
        let vectors = match &spec.vectors {
            None => None,
            Some(path) => {
                let wrong = |error| SourceError::Vectors { path: path.clone(), error };
                let mut reader = NpyReader::open(path).map_err(wrong)?;
                reader.seek(from.rows).map_err(wrong)?;
                Some(reader)
            }
        };
        Ok(Jsonl { input, bytes, vectors, position: from, line: Vec::new(), spec })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn next(&mut self) -> Result<Option<Row>, SourceError> {
        loop {
            let (read, is_whole) = read_line(&mut self.input, &mut self.line, LINE_BYTES_MAX)?;
            if read == 0 {
                return self.at_end();
            }
            let row = self.position.rows;
            self.position = Position { rows: row + 1, bytes: self.position.bytes + read };
            let is_empty = self.line.trim_ascii().is_empty();
            let vector = match (&mut self.vectors, &self.spec.vectors) {
                (Some(vectors), Some(path)) => {
                    let next = vectors.next_row();
                    let next = next.map_err(|error| SourceError::Vectors { path: path.clone(), error })?;
                    if next.is_none() && !is_empty {
                        return Err(SourceError::FewVectors {
                            line: row + 1,
                            vectors: path.clone(),
                            rows: vectors.rows(),
                        });
                    }
                    next
                }
                _ => None,
            };
            if is_empty {
                continue;
            }
            return Ok(Some(Row {
                line: row + 1,
                after: self.position,
                outcome: if is_whole { self.record(row, vector) } else { Err(too_long()) },
                excerpt: excerpt(&self.line),
            }));
        }
    }

    fn record(&self, row: u64, vector: Option<Vec<f32>>) -> Result<loci_client::Record, String> {
        let json = serde_json::from_slice(&self.line).map_err(|error| format!("not JSON: {error}"))?;
        let mut record = record_from_json(json, &self.spec.fields)?;
        if let Some(vector) = vector {
            let name = self.spec.embedding.clone();
            record.embeddings.retain(|embedding| !embedding.name.is_empty() && embedding.name != name);
            record.embeddings.push(loci_client::Embedding { name, vector });
        }
        self.spec.finished(record, row)
    }

    fn at_end(&self) -> Result<Option<Row>, SourceError> {
        match (&self.vectors, &self.spec.vectors) {
            (Some(vectors), Some(path)) if vectors.rows() > self.position.rows => {
                Err(SourceError::ManyVectors { lines: self.position.rows, vectors: path.clone(), rows: vectors.rows() })
            }
            _ => Ok(None),
        }
    }
}

fn too_long() -> String {
    format!("longer than {} MiB", LINE_BYTES_MAX >> 20)
}

/// Reads a line without its end into `line`, of a longer one only the beginning. Returns how many bytes it had, and whether
/// it is whole.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, bytes_max: usize) -> io::Result<(u64, bool)> {
    line.clear();
    let mut read = 0;
    let mut is_whole = true;
    loop {
        let available = match input.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = available.iter().position(|byte| *byte == b'\n');
        let content = &available[..end.unwrap_or(available.len())];
        let room = bytes_max - line.len();
        is_whole &= content.len() <= room;
        line.extend_from_slice(&content[..content.len().min(room)]);
        let taken = end.map_or(available.len(), |end| end + 1);
        let at_end = taken == 0;
        input.consume(taken);
        read += taken as u64;
        if at_end || end.is_some() {
            return Ok((read, is_whole));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::npy::tests::npy;
    use super::super::tests::{check_resumes, read_from, spec, write};
    use super::*;

    fn floats(count: usize) -> Vec<u8> {
        (0..count).flat_map(|value| (value as f32).to_le_bytes()).collect()
    }

    #[test]
    fn bad_lines_are_rows_too_and_empty_ones_are_none() {
        let text = b"{\"key\":\"a\"}\n\n{\"key\": tru\n\xff\xfe\n[1]\n{\"text\":\"no key\"}\n{\"key\":\"b\"}";
        let (_directory, path) = write("r.jsonl", text);
        let (rows, end) = read_from(spec(&path), Position::default());
        assert!(end.is_ok());
        let lines: Vec<_> = rows.iter().map(|row| (row.line, row.outcome.is_ok())).collect();
        assert_eq!(lines, [(1, true), (3, false), (4, false), (5, false), (6, true), (7, true)]);
        assert_eq!(rows[4].outcome.as_ref().map(|record| record.key.clone()), Ok("r5".into()));
        check_resumes(&spec(&path));
    }

    #[test]
    fn row_i_of_the_vectors_belongs_to_line_i() {
        let (directory, path) = write("r.jsonl", b"{\"key\":\"a\"}\n\n{\"key\":\"b\"}\n\n");
        let vectors = directory.path().join("v.npy");
        std::fs::write(&vectors, npy("<f4", "(3, 1)", &floats(3))).expect("written");
        let spec = Spec { vectors: Some(vectors), embedding: "text".into(), ..spec(&path) };
        let (rows, end) = read_from(spec.clone(), Position::default());
        assert!(end.is_ok(), "{end:?}");
        let found: Vec<_> =
            rows.iter().map(|row| row.outcome.as_ref().ok().and_then(|record| record.embedding("text"))).collect();
        assert_eq!(found, [Some(&[0.0][..]), Some(&[2.0][..])]);
        check_resumes(&spec);
    }

    #[test]
    fn lines_and_vectors_must_be_as_many() {
        for (lines, part) in [(2, "it ends after 2 lines"), (4, "line 4 has no row")] {
            let (directory, path) = write("r.jsonl", "{\"key\":\"a\"}\n".repeat(lines).as_bytes());
            let vectors = directory.path().join("v.npy");
            std::fs::write(&vectors, npy("<f4", "(3, 1)", &floats(3))).expect("written");
            let (_, end) = read_from(Spec { vectors: Some(vectors), ..spec(&path) }, Position::default());
            let message = end.expect_err(part).to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_without_being_held() {
        let mut input = io::Cursor::new(b"123456789\nabc\n".to_vec());
        let mut line = Vec::new();
        assert_eq!(read_line(&mut input, &mut line, 4).expect("read"), (10, false));
        assert_eq!(line, b"1234");
        assert_eq!(read_line(&mut input, &mut line, 4).expect("read"), (4, true));
        assert_eq!(line, b"abc");
        assert_eq!(read_line(&mut input, &mut line, 4).expect("read"), (0, true));
    }

    #[test]
    fn no_cut_makes_it_panic() {
        let text = "{\"key\":\"a\",\"embedding\":[1,2e0],\"attributes\":{\"x\":[null,\"\u{e9}\"]}}\n".repeat(2);
        for length in 0..text.len() {
            let (_directory, path) = write("r.jsonl", &text.as_bytes()[..length]);
            let (rows, end) = read_from(spec(&path), Position::default());
            assert!(end.is_ok() && rows.len() <= 2);
        }
    }
}
