//! A data set from a folder of NumPy files, ready to be compared by cosine.

use std::fs;
use std::path::Path;

use half::f16;
use loci_index::distance::Metric;

/// How many neighbours recall is about.
pub const K: usize = 10;

/// Records, queries, and which records are nearest to each query.
pub struct Set {
    /// The folder's name.
    pub name: String,
    /// Components of an embedding.
    pub dimension: usize,
    /// Row after row, each of length 1.
    pub base: Vec<f32>,
    /// Row after row, each of length 1.
    pub queries: Vec<f32>,
    /// The nearest [`K`] rows of each query, nearest first.
    pub truth: Vec<[u32; K]>,
}

impl Set {
    /// Reads at most so many records and queries; 0: all. If not all records, their truth is computed.
    pub fn load(folder: &Path, records: usize, queries: usize) -> Result<Set, String> {
        let table = |names: &[&str]| {
            let path = names.iter().map(|name| folder.join(name)).find(|path| path.exists());
            let path = path.ok_or_else(|| format!("none of {} is there", names.join(", ")))?;
            let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            Table::read(&bytes).ok_or_else(|| format!("{}: not a table of f16, f32 or i32", path.display()))
        };
        let (mut base, mut asked) = (table(&["base.npy", "embeddings.npy"])?, table(&["queries.npy"])?);
        let truth = table(&["gt.npy", "ground_truth.npy"])?;
        if base.width != asked.width || truth.rows() != asked.rows() || truth.width < K {
            return Err("the files do not belong together".into());
        }
        let all = records == 0 || records >= base.rows();
        base.keep(records);
        asked.keep(queries);
        let dimension = base.width;
        for row in base.values.chunks_exact_mut(dimension).chain(asked.values.chunks_exact_mut(dimension)) {
            Metric::Cosine.prepare(row).map_err(|error| error.to_string())?;
        }
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut set = Set { name, dimension, base: base.values, queries: asked.values, truth: Vec::new() };
        set.truth = if all {
            let first = |row: &[f32]| std::array::from_fn(|i| row[i] as u32);
            truth.values.chunks_exact(truth.width).take(set.queries().count()).map(first).collect()
        } else {
            set.queries().map(|query| set.nearest(query, 0..set.len() as u32)).collect()
        };
        Ok(set)
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.base.len() / self.dimension
    }

    /// The embedding of a row.
    pub fn record(&self, row: usize) -> &[f32] {
        &self.base[row * self.dimension..][..self.dimension]
    }

    /// The queries.
    pub fn queries(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.queries.chunks_exact(self.dimension)
    }

    /// The nearest of some rows, by comparing with each; `u32::MAX` where there are too few.
    pub fn nearest(&self, query: &[f32], rows: impl Iterator<Item = u32>) -> [u32; K] {
        let kernel = Metric::Cosine.kernel();
        let mut best = [(f32::INFINITY, u32::MAX); K];
        for row in rows {
            let distance = kernel(query, self.record(row as usize));
            if distance < best[K - 1].0 {
                let place = best.partition_point(|kept| kept.0 <= distance);
                best[place..].rotate_right(1);
                best[place] = (distance, row);
            }
        }
        best.map(|(_, row)| row)
    }
}

/// A table of numbers, all of them as f32, which holds row numbers up to 16,777,216 exactly.
struct Table {
    width: usize,
    values: Vec<f32>,
}

impl Table {
    /// A file of NumPy format 1.0 or 2.0 in row order.
    fn read(bytes: &[u8]) -> Option<Table> {
        let rest = bytes.strip_prefix(b"\x93NUMPY")?;
        let (header, body) = match rest.first()? {
            1 => rest.get(4..)?.split_at_checked(usize::from(u16::from_le_bytes([rest[2], rest[3]])))?,
            _ => rest.get(6..)?.split_at_checked(u32::from_le_bytes([rest[2], rest[3], rest[4], rest[5]]) as usize)?,
        };
        let header = std::str::from_utf8(header).ok()?;
        let shape = header.split_once("'shape': (")?.1.split_once(')')?.0;
        let width = shape.split(',').nth(1)?.trim().parse().ok().filter(|width| *width > 0)?;
        if header.contains("'fortran_order': True") {
            return None;
        }
        let (words, halves) = (body.as_chunks::<4>().0, body.as_chunks::<2>().0);
        let values = if header.contains("<f4") {
            words.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        } else if header.contains("<f2") {
            halves.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
        } else if header.contains("<i4") {
            words.iter().map(|bytes| i32::from_le_bytes(*bytes) as f32).collect()
        } else {
            return None;
        };
        Some(Table { width, values })
    }

    fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    fn keep(&mut self, rows: usize) {
        if rows > 0 {
            self.values.truncate(rows * self.width);
        }
    }
}
