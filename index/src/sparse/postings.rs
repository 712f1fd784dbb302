//! The rows of a segment by the dimensions of their sparse embeddings.
//!
//! ```text
//! 0      4            8       16
//! | rows | dimensions | items |
//!
//! ends         u64 x dimensions    where each dimension's items end
//! dimensions   u32 x dimensions    ascending
//! rows         u32 x items         of each dimension, ascending
//! weights      f32 x items
//! ```
//!
//! Little-endian. Nothing here believes the bytes: what does not fit reads as "no such dimension" or "no more rows".

use std::collections::BTreeMap;

const HEADER_BYTES: usize = 16;

/// Sorts the weights of a segment's rows by dimension.
pub struct Writer {
    count: u32,
    /// Where each dimension's items end.
    ends: BTreeMap<u32, u64>,
    rows: Vec<u32>,
    weights: Vec<f32>,
}

impl Writer {
    /// `rows` says each row that has weights, ascending, and its weights; it is asked twice.
    pub fn new<R, W>(count: u32, rows: impl Fn() -> R) -> Writer
    where
        R: Iterator<Item = (u32, W)>,
        W: Iterator<Item = (u32, f32)>,
    {
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        for (dimension, _) in rows().flat_map(|(_, weights)| weights) {
            *ends.entry(dimension).or_default() += 1;
        }
        let mut next = BTreeMap::new();
        let mut total = 0;
        for (&dimension, end) in &mut ends {
            next.insert(dimension, total as usize);
            total += *end;
            *end = total;
        }
        let (mut row_list, mut weight_list) = (vec![0; total as usize], vec![0.0; total as usize]);
        for (row, weights) in rows() {
            for (dimension, weight) in weights {
                let place = next.get_mut(&dimension).expect("rows answer the same each time");
                row_list[*place] = row;
                weight_list[*place] = weight;
                *place += 1;
            }
        }
        Writer { count, ends, rows: row_list, weights: weight_list }
    }

    /// Hands out the index's bytes, part by part.
    pub fn write<E>(self, mut out: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        out(&self.count.to_le_bytes())?;
        out(&(self.ends.len() as u32).to_le_bytes())?;
        out(&(self.rows.len() as u64).to_le_bytes())?;
        self.ends.values().try_for_each(|end| out(&end.to_le_bytes()))?;
        self.ends.keys().try_for_each(|dimension| out(&dimension.to_le_bytes()))?;
        self.rows.iter().try_for_each(|row| out(&row.to_le_bytes()))?;
        self.weights.iter().try_for_each(|weight| out(&weight.to_le_bytes()))
    }
}

/// An index where it lies in its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Index<'a> {
    count: u32,
    ends: &'a [[u8; 8]],
    dimensions: &'a [[u8; 4]],
    rows: &'a [[u8; 4]],
    weights: &'a [[u8; 4]],
}

/// `count` items of `N` bytes, and what follows them.
fn items<const N: usize>(bytes: &[u8], count: usize) -> Option<(&[[u8; N]], &[u8])> {
    let (items, rest) = bytes.split_at_checked(count.checked_mul(N)?)?;
    Some((items.as_chunks().0, rest))
}

impl<'a> Index<'a> {
    /// The index that `bytes` are, if they are one.
    pub fn open(bytes: &'a [u8]) -> Option<Index<'a>> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let &[a, b, c, d, e, f, g, h, ref count @ ..] = header;
        let dimension_count = u32::from_le_bytes([e, f, g, h]) as usize;
        let item_count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        let (ends, rest) = items(rest, dimension_count)?;
        let (dimensions, rest) = items(rest, dimension_count)?;
        let (rows, rest) = items(rest, item_count)?;
        let (weights, rest) = items(rest, item_count)?;
        let index = Index { count: u32::from_le_bytes([a, b, c, d]), ends, dimensions, rows, weights };
        rest.is_empty().then_some(index)
    }

    /// How many rows it is about.
    pub fn rows(&self) -> u32 {
        self.count
    }

    /// The rows that have this dimension; no rows if none has it.
    pub fn find(&self, dimension: u32) -> Postings<'a> {
        let end = |place: usize| self.ends.get(place).and_then(|end| usize::try_from(u64::from_le_bytes(*end)).ok());
        let found = self.dimensions.binary_search_by_key(&dimension, |bytes| u32::from_le_bytes(*bytes)).ok();
        let range = found.and_then(|place| {
            let start = place.checked_sub(1).map_or(Some(0), end)?;
            Some(start..end(place)?)
        });
        let range = range.unwrap_or_default();
        Postings {
            rows: self.rows.get(range.clone()).unwrap_or_default().iter(),
            weights: self.weights.get(range).unwrap_or_default().iter(),
            count: self.count,
        }
    }
}

/// The rows of a dimension, ascending, each with its weight.
#[derive(Debug, Clone)]
pub struct Postings<'a> {
    rows: std::slice::Iter<'a, [u8; 4]>,
    weights: std::slice::Iter<'a, [u8; 4]>,
    count: u32,
}

impl Iterator for Postings<'_> {
    type Item = (u32, f32);

    fn next(&mut self) -> Option<(u32, f32)> {
        let row = u32::from_le_bytes(*self.rows.next()?);
        let weight = f32::from_le_bytes(*self.weights.next()?);
        (row < self.count).then_some((row, weight))
    }
}
