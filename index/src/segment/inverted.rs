//! A segment's sparse embeddings and texts: sections that are only there where the collection has such.
//!
//! A record's sparse embedding is kept as it was given, to be returned and merged, and once more by dimension, to be
//! searched. Of a text there is only the index: the text itself is among the attributes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::read::{Entry, Opening, Segment};
use super::write::{Rows, Sections, Spec};
use super::{Kind, SegmentError};
use crate::command::{Language, TextSpec};
use crate::record::{SPARSE_MAX, TEXTS_MAX};
use crate::sparse;
use crate::text::{self, Words};

/// Where the sections are.
#[derive(Default)]
pub(super) struct Inverted {
    /// By the sparse embedding's number.
    sparse: Vec<Option<Sparse>>,
    /// By the text's number.
    texts: Vec<Option<Range<usize>>>,
}

struct Sparse {
    offsets: Range<usize>,
    bytes: Range<usize>,
    index: Range<usize>,
}

/// How many sections so many sparse embeddings and texts take.
pub(super) fn sections(sparse: u16, texts: &[TextSpec]) -> usize {
    3 * usize::from(sparse) + texts.len()
}

fn check(cancel: &AtomicBool, row: usize, name: &str) -> Result<(), SegmentError> {
    match row.is_multiple_of(4096) && cancel.load(Ordering::Relaxed) {
        true => Err(SegmentError::Cancelled(name.to_owned())),
        false => Ok(()),
    }
}

/// Writes the sections of all sparse embeddings and texts.
pub(super) fn write(
    out: &mut Sections,
    name: &str,
    spec: &Spec<'_>,
    rows: &dyn Rows,
    cancel: &AtomicBool,
) -> Result<(), SegmentError> {
    for field in 0..spec.sparse {
        out.offsets(Kind::SparseOffsets, field, rows.len(), |i| {
            check(cancel, i, name)?;
            Ok(rows.sparse(i, field).map(<[u8]>::len))
        })?;
        out.bytes(Kind::SparseBytes, field, rows.len(), |i, out| out.write(rows.sparse(i, field).unwrap_or_default()))?;
        check(cancel, 0, name)?;
        let weights =
            || (0..).zip(0..rows.len()).filter_map(|(row, i)| Some((row, sparse::decode(rows.sparse(i, field)?))));
        let index = sparse::Writer::new(rows.len() as u32, weights);
        out.begin(Kind::SparseIndex, field);
        index.write(|part| out.write(part))?;
        out.end()?;
    }
    for (number, text) in (0..).zip(spec.texts) {
        let mut index = text::Writer::new(text.language, spec.hash_seed);
        for i in 0..rows.len() {
            check(cancel, i, name)?;
            index.push(&Words::of_attribute(rows.row(i).attributes, &text.path, text.language));
        }
        out.begin(Kind::Text, number);
        index.write(|part| out.write(part))?;
        out.end()?;
    }
    Ok(())
}

impl Opening<'_> {
    /// Finds the sections and checks what a caller relies on.
    pub(super) fn inverted(&self, table: &[Entry], segment: &Segment) -> Result<Inverted, SegmentError> {
        let there = |kind: Kind, field: u16| table.iter().any(|entry| entry.is(kind, field));
        let mut inverted = Inverted::default();
        for field in 0..SPARSE_MAX as u16 {
            if !there(Kind::SparseOffsets, field) {
                inverted.sparse.push(None);
                continue;
            }
            let offsets = self.exactly(table, Kind::SparseOffsets, field, segment.len() as usize + 1, 8)?;
            let bytes = self.section(table, Kind::SparseBytes, field)?;
            let index = self.section(table, Kind::SparseIndex, field)?;
            segment.check_offsets(self, &offsets, &bytes)?;
            if sparse::Index::open(segment.part(&index)).is_none_or(|index| index.rows() != segment.len()) {
                return Err(self.corrupt(index.start as u64, "an index of sparse embeddings makes no sense"));
            }
            inverted.sparse.push(Some(Sparse { offsets, bytes, index }));
        }
        for number in 0..TEXTS_MAX as u16 {
            let range = there(Kind::Text, number).then(|| self.section(table, Kind::Text, number)).transpose()?;
            inverted.texts.push(range);
        }
        Ok(inverted)
    }
}

impl Segment {
    /// A row's sparse embedding, if it has one, as [`sparse::decode`] reads it.
    pub fn sparse(&self, field: u16, row: u32) -> Option<&[u8]> {
        let Sparse { offsets, bytes, .. } = self.inverted.sparse.get(usize::from(field))?.as_ref()?;
        self.item(offsets, bytes, row)
    }

    /// The rows by the dimensions of their sparse embeddings, if there are any.
    pub fn sparse_index(&self, field: u16) -> Option<sparse::Index<'_>> {
        let Sparse { index, .. } = self.inverted.sparse.get(usize::from(field))?.as_ref()?;
        sparse::Index::open(self.part(index))
    }

    /// The rows by the words of a text, if there is an index of words as this program makes them.
    pub fn text_index(&self, number: u16, language: Language) -> Option<text::Index<'_>> {
        let range = self.inverted.texts.get(usize::from(number))?.as_ref()?;
        text::Index::open(self.part(range), language).filter(|index| index.rows() == self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sign;
    use super::super::{Row, VERSION, write};
    use super::*;
    use crate::attributes::{Attributes, Value, encode};
    use crate::directory::RamDirectory;
    use crate::inverted::walk;

    /// Each row's key, weights and attributes.
    struct Table(Vec<(String, Option<Vec<u8>>, Vec<u8>)>);

    impl Rows for Table {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn row(&self, i: usize) -> Row<'_> {
            let (key, _, attributes) = &self.0[i];
            Row { key: key.as_bytes(), begin: 1, deadline: 0, hash: 0, value: None, attributes }
        }

        fn sparse(&self, i: usize, field: u16) -> Option<&[u8]> {
            self.0[i].1.as_deref().filter(|_| field == 1)
        }

        fn embedding(&self, _: usize, _: usize) -> Option<std::borrow::Cow<'_, [f32]>> {
            None
        }
    }

    fn table(rows: u32) -> Table {
        let row = |i: u32| {
            let weights = [(i % 5, 1.0), (5 + i, 2.0)];
            let text = Value::String(format!("common w{} w{}", i % 3, i));
            let attributes = encode(&Attributes::from([("t".into(), text)])).unwrap();
            let weights = (!i.is_multiple_of(4)).then(|| sparse::encode(&weights).flatten().collect());
            (format!("k{i:03}"), weights, if i % 3 == 2 { vec![] } else { attributes })
        };
        Table((0..rows).map(row).collect())
    }

    fn texts() -> [TextSpec; 1] {
        [TextSpec { path: vec!["t".into()], language: Language::Plain }]
    }

    fn seal(table: &Table) -> (RamDirectory, Segment) {
        let directory = RamDirectory::new();
        let spec =
            Spec { collection: 7, fields: &[], indexes: &[], sparse: 2, texts: &texts(), graph: None, hash_seed: 9 };
        write(&directory, "a", &spec, table, &AtomicBool::new(false)).unwrap();
        let segment = Segment::open(&directory, "a").unwrap();
        (directory, segment)
    }

    #[test]
    fn what_was_put_in_comes_back_and_is_found() {
        for rows in [0, 1, 7, 300] {
            let table = table(rows);
            let (_, segment) = seal(&table);
            for (row, (_, weights, _)) in (0..).zip(&table.0) {
                assert_eq!((segment.sparse(1, row), segment.sparse(0, row)), (weights.as_deref(), None));
            }
            assert_eq!((segment.sparse(1, rows), segment.sparse(2, 0)), (None, None));
            assert!(segment.sparse_index(2).is_none() && segment.text_index(1, Language::Plain).is_none());
            assert!(segment.text_index(0, Language::English).is_none(), "it has other words");
            let index = segment.sparse_index(1).unwrap();
            let expected = (0..rows).filter(|row| row % 4 != 0 && row % 5 == 2);
            assert_eq!(index.find(2).map(|(row, _)| row).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            let index = segment.text_index(0, Language::Plain).unwrap();
            let expected: Vec<u32> = (0..rows).filter(|row| row % 3 == 1).collect();
            assert_eq!(index.find("w1").map(|(row, _)| row).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (directory, segment) = seal(&table(6));
        let mut bytes = directory.bytes("a").unwrap();
        drop(segment);
        for at in 0..bytes.len() {
            let bit = at % 8;
            bytes[at] ^= 1 << bit;
            directory.put("b", &bytes);
            assert!(Segment::open(&directory, "b").is_err(), "byte {at} bit {bit}");
            bytes[at] ^= 1 << bit;
        }
    }

    #[test]
    fn nonsense_under_right_checksums_opens_or_not_but_never_panics() {
        let (directory, segment) = seal(&table(9));
        let whole = directory.bytes("a").unwrap();
        drop(segment);
        let mut state = 5u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let (mut refused, mut walked) = (0, 0);
        for _ in 0..5_000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + next() % 3 {
                // Pages after the eleventh section are ours.
                let page = 9 + next() % (bytes.len() / 4096 - 9);
                bytes[page * 4096 + next() % 160] = [0, 1, 0x7f, 0xff, next() as u8][next() % 5];
            }
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            sign(&mut bytes);
            directory.put("b", &bytes);
            let Ok(segment) = Segment::open(&directory, "b") else {
                refused += 1;
                continue;
            };
            let rows = segment.len();
            for field in 0..3 {
                (0..=rows).for_each(|row| walked += segment.sparse(field, row).map_or(0, <[u8]>::len));
                if let Some(index) = segment.sparse_index(field) {
                    let whole = walk((0..20).map(|at| index.find(at)).collect(), |row, said| {
                        walked += said.len();
                        row < rows
                    });
                    assert!(whole, "a row is not there");
                }
            }
            if let Some(index) = segment.text_index(0, Language::Plain) {
                let words = ["common", "w0", "w1", "w7", ""];
                let whole = walk(words.map(|word| index.find(word)).into(), |row, said| {
                    walked += said.len();
                    row < rows
                });
                assert!(whole, "a row is not there");
            }
        }
        assert!(refused > 100 && walked > 1_000, "{refused} {walked}");
    }
}
