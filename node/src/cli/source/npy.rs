//! `.npy` files, a row at a time.
//!
//! ```text
//! 0        6        8            10 or 12
//! | magic  | version| header_len | header: {'descr': '<f4', 'fortran_order': False, 'shape': (rows, columns), } | rows
//! ```
//!
//! Little-endian floats of 2, 4 or 8 bytes, and whole numbers of 4 or 8 bytes for [`read_int_rows`]; rows first.
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use half::f16;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longer ones are damage: an honest header is about a hundred bytes.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// As many components as an embedding may have.
const COLUMNS_MAX: u64 = 16_384;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    #[error("not a .npy file: it does not begin with \\x93NUMPY")]
    NotNpy,
    #[error("npy version {0} is not known: 1, 2 and 3 are")]
    UnknownVersion(u8),
    #[error("damaged header: {0}")]
    Header(String),
    #[error("type {found} where {wanted} is wanted: convert with numpy's astype")]
    Type { found: String, wanted: &'static str },
    #[error("fortran_order is set: save numpy.ascontiguousarray(array)")]
    Columns,
    #[error("shape {0} where (rows, 1 to 16384) is wanted")]
    Shape(String),
    #[error("cut off: {rows} rows of {row_bytes} bytes are {wanted} bytes, the file has {found}")]
    CutOff { rows: u64, row_bytes: u64, wanted: u64, found: u64 },
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F16,
    F32,
    F64,
    I32,
    I64,
}

impl Kind {
    fn bytes(self) -> u64 {
        match self {
            Kind::F16 => 2,
            Kind::F32 | Kind::I32 => 4,
            Kind::F64 | Kind::I64 => 8,
        }
    }
}

#[derive(Debug)]
struct Header {
    kind: Kind,
    rows: u64,
    columns: u64,
}

/// A file of vectors, read from the front.
#[derive(Debug)]
pub struct NpyReader {
    input: BufReader<File>,
    header: Header,
    data_offset: u64,
    next: u64,
    row: Vec<u8>,
}

impl NpyReader {
    /// Reads the header, and checks that all rows are there.
    pub fn open(path: &Path) -> Result<NpyReader, NpyError> {
        let reader = NpyReader::open_any(path)?;
        if matches!(reader.header.kind, Kind::I32 | Kind::I64) {
            return Err(NpyError::Type { found: "whole numbers".into(), wanted: "'<f2', '<f4' or '<f8'" });
        }
        Ok(reader)
    }

    fn open_any(path: &Path) -> Result<NpyReader, NpyError> {
        let file = File::open(path)?;
        let found = file.metadata()?.len();
        let mut input = BufReader::with_capacity(1 << 20, file);
        let text = header_text(&mut input)?;
        let header = parse_header(&text)?;
        let data_offset = input.stream_position()?;
        let row_bytes = header.columns * header.kind.bytes();
        let wanted = header.rows.checked_mul(row_bytes).and_then(|bytes| bytes.checked_add(data_offset));
        match wanted {
            Some(wanted) if wanted <= found => {}
            wanted => {
                let wanted = wanted.unwrap_or(u64::MAX);
                return Err(NpyError::CutOff { rows: header.rows, row_bytes, wanted, found });
            }
        }
        Ok(NpyReader { input, row: vec![0; row_bytes as usize], header, data_offset, next: 0 })
    }

    pub fn rows(&self) -> u64 {
        self.header.rows
    }

    /// Goes on with this row.
    pub fn seek(&mut self, row: u64) -> Result<(), NpyError> {
        let row = row.min(self.header.rows);
        self.input.seek(SeekFrom::Start(self.data_offset + row * self.row.len() as u64))?;
        self.next = row;
        Ok(())
    }

    /// The next row; none: that was the last.
    pub fn next_row(&mut self) -> Result<Option<Vec<f32>>, NpyError> {
        if !self.load()? {
            return Ok(None);
        }
        Ok(Some(match self.header.kind {
            Kind::F16 => self.row.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            Kind::F32 => self.row.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Kind::F64 => self.row.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
            Kind::I32 | Kind::I64 => Vec::new(),
        }))
    }

    fn load(&mut self) -> Result<bool, NpyError> {
        if self.next == self.header.rows {
            return Ok(false);
        }
        self.input.read_exact(&mut self.row)?;
        self.next += 1;
        Ok(true)
    }
}

/// All rows of a file of whole numbers, such as a ground truth.
pub fn read_int_rows(path: &Path) -> Result<Vec<Vec<i64>>, NpyError> {
    let mut reader = NpyReader::open_any(path)?;
    let mut rows = Vec::new();
    while reader.load()? {
        rows.push(match reader.header.kind {
            Kind::I32 => reader.row.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
            Kind::I64 => reader.row.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
            kind => return Err(NpyError::Type { found: format!("{kind:?}"), wanted: "'<i4' or '<i8'" }),
        });
    }
    Ok(rows)
}

fn header_text(input: &mut impl Read) -> Result<String, NpyError> {
    let mut start = [0; 8];
    let cut = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => NpyError::Header("the file ends in it".into()),
        _ => NpyError::Io(error),
    };
    input.read_exact(&mut start).map_err(|_| NpyError::NotNpy)?;
    if &start[..6] != MAGIC {
        return Err(NpyError::NotNpy);
    }
    let length = match start[6] {
        1 => {
            let mut length = [0; 2];
            input.read_exact(&mut length).map_err(cut)?;
            usize::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            input.read_exact(&mut length).map_err(cut)?;
            u32::from_le_bytes(length) as usize
        }
        version => return Err(NpyError::UnknownVersion(version)),
    };
    if length > HEADER_BYTES_MAX {
        return Err(NpyError::Header(format!("{length} bytes long")));
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text).map_err(cut)?;
    String::from_utf8(text).map_err(|_| NpyError::Header("not text".into()))
}

fn parse_header(text: &str) -> Result<Header, NpyError> {
    let field = |name: &str| {
        let after = text.split_once(&format!("'{name}':")).map(|(_, after)| after.trim_start());
        after.ok_or_else(|| NpyError::Header(format!("no '{name}'")))
    };
    let descr = field("descr")?.split('\'').nth(1).unwrap_or_default();
    let kind = match descr {
        "<f2" => Kind::F16,
        "<f4" => Kind::F32,
        "<f8" => Kind::F64,
        "<i4" => Kind::I32,
        "<i8" => Kind::I64,
        other => return Err(NpyError::Type { found: format!("'{other}'"), wanted: "'<f2', '<f4' or '<f8'" }),
    };
    if !field("fortran_order")?.starts_with("False") {
        return Err(NpyError::Columns);
    }
    let shape = field("shape")?;
    let Some((shape, _)) = shape.strip_prefix('(').and_then(|shape| shape.split_once(')')) else {
        return Err(NpyError::Header("no shape".into()));
    };
    let sizes: Result<Vec<u64>, _> =
        shape.split(',').map(str::trim).filter(|size| !size.is_empty()).map(str::parse).collect();
    match sizes.as_deref() {
        Ok(&[rows, columns]) if (1..=COLUMNS_MAX).contains(&columns) => Ok(Header { kind, rows, columns }),
        _ => Err(NpyError::Shape(format!("({shape})"))),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<f32>>, NpyError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("written");
        let mut reader = NpyReader::open(file.path())?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            rows.push(row);
        }
        Ok(rows)
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn floats_of_all_widths_are_read() {
        let expected = vec![vec![1.5, -2.0], vec![0.0, 4.0]];
        let values = [1.5_f32, -2.0, 0.0, 4.0];
        let halves: Vec<u8> = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        let doubles: Vec<u8> = values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
        for (descr, data) in [("<f4", floats(&values)), ("<f2", halves), ("<f8", doubles)] {
            assert_eq!(read(&npy(descr, "(2, 2)", &data)).expect(descr), expected);
        }
    }

    #[test]
    fn reading_goes_on_at_any_row() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), npy("<f4", "(3, 1)", &floats(&[1.0, 2.0, 3.0]))).expect("written");
        let mut reader = NpyReader::open(file.path()).expect("whole");
        reader.seek(2).expect("in the file");
        assert_eq!(reader.next_row().expect("whole"), Some(vec![3.0]));
        assert_eq!(reader.next_row().expect("whole"), None);
    }

    #[test]
    fn every_cut_is_an_error() {
        let whole = npy("<f4", "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0]));
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn what_is_not_ours_is_named() {
        let data = floats(&[1.0, 2.0]);
        for (bytes, part) in [
            (b"PK\x03\x04 zip file".to_vec(), "not a .npy file"),
            (npy("<f4", "(2,)", &data), "shape (2,)"),
            (npy("<f4", "(2, 99999)", &data), "shape"),
            (npy("<f4", "(99999999999999999999, 2)", &data), "shape"),
            (npy("<f4", "(18446744073709551615, 2)", &data), "cut off"),
            (npy(">f4", "(1, 2)", &data), "'>f4'"),
            (npy("|O", "(1, 2)", &data), "'|O'"),
            (npy("<i4", "(1, 2)", &data), "whole numbers"),
        ] {
            let message = read(&bytes).expect_err(part).to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn no_flipped_bit_makes_it_panic() {
        let whole = npy("<f4", "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0]));
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = read(&bytes);
        }
    }
}
