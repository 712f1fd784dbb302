//! `.fvecs` files: for each row its dimension (i32), then so many f32, all little-endian.
//! <http://corpus-texmex.irisa.fr/>

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use super::{Position, Row, SourceError, Spec};

const DIMENSION_MAX: u32 = 16_384;

#[derive(Debug)]
pub struct Fvecs {
    input: BufReader<File>,
    bytes: u64,
    position: Position,
    spec: Spec,
}

impl Fvecs {
    pub fn open(spec: Spec, from: Position) -> Result<Fvecs, SourceError> {
        let file = File::open(&spec.path)?;
        let bytes = file.metadata()?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        input.seek(SeekFrom::Start(from.bytes))?;
        Ok(Fvecs { input, bytes, position: from, spec })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn next(&mut self) -> Result<Option<Row>, SourceError> {
        let row = self.position.rows;
        let wrong = |reason: String| SourceError::Fvecs { row, reason };
        let remaining = self.bytes.saturating_sub(self.position.bytes);
        if remaining == 0 {
            return Ok(None);
        }
        let mut dimension = [0; 4];
        if remaining < 4 {
            return Err(wrong("the file ends in its dimension".into()));
        }
        self.input.read_exact(&mut dimension)?;
        // Where the next row begins is not known once a dimension is wrong.
        let dimension = u32::from_le_bytes(dimension);
        if dimension == 0 || dimension > DIMENSION_MAX {
            return Err(wrong(format!("dimension {dimension} is not from 1 to {DIMENSION_MAX}")));
        }
        let length = u64::from(dimension) * 4;
        if remaining < 4 + length {
            return Err(wrong(format!("the file ends in its {dimension} components")));
        }
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes)?;
        let vector = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        self.position = Position { rows: row + 1, bytes: self.position.bytes + 4 + length };
        Ok(Some(self.spec.row_of_vector(vector, self.position)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_resumes, read_from, spec, write};
    use super::*;

    fn fvecs(rows: &[&[f32]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for row in rows {
            bytes.extend((row.len() as u32).to_le_bytes());
            bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn rows_come_back() {
        let (_directory, path) = write("v.fvecs", &fvecs(&[&[1.0, 2.0], &[3.0, 4.0]]));
        let (rows, end) = read_from(spec(&path), Position::default());
        assert!(end.is_ok());
        let vectors: Vec<_> = rows.iter().filter_map(|row| row.outcome.as_ref().ok()?.embedding("")).collect();
        assert_eq!(vectors, [[1.0, 2.0], [3.0, 4.0]]);
        check_resumes(&spec(&path));
    }

    #[test]
    fn every_cut_within_a_row_is_an_error() {
        let whole = fvecs(&[&[1.0, 2.0], &[3.0, 4.0]]);
        for length in 0..whole.len() {
            let (_directory, path) = write("v.fvecs", &whole[..length]);
            let (rows, end) = read_from(spec(&path), Position::default());
            assert_eq!(end.is_ok(), length % 12 == 0, "{length} bytes");
            assert_eq!(rows.len(), length / 12);
        }
    }

    #[test]
    fn a_wild_dimension_allocates_nothing() {
        let (_directory, path) = write("v.fvecs", &u32::MAX.to_le_bytes());
        let (_, end) = read_from(spec(&path), Position::default());
        assert!(end.expect_err("no dimension").to_string().contains("row 0: dimension 4294967295"));
    }
}
