//! A row: one version of one record, in memory.
//!
//! ```text
//!   row:  | begin | end | deadline | hash | older | lengths | bytes | vectors, if the collection has any |
//!                                                                |
//!                                          | key | value | attributes |    one piece of memory
//! ```
//!
//! Rows are many and mostly small: what a look at one touches lies together, and each asks for as little memory as can be, once.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::NONE;
use crate::record::Position;
use crate::text::Words;

/// The length of a value that is not there, which is not the same as an empty one.
const NO_VALUE: u32 = u32::MAX;

/// See the module's front page.
pub(crate) struct Row {
    bytes: Box<[u8]>,
    key_bytes: u32,
    /// Or [`NO_VALUE`].
    value_bytes: u32,
    vectors: Option<Box<Vectors>>,
    pub begin: Position,
    /// [`Position::NEVER`] until the version has ended.
    end: AtomicU64,
    pub deadline: u64,
    /// The keyed hash that the store's digest sums up.
    pub hash: u128,
    /// The row of the key's version before this one, if that is in this buffer too.
    pub(super) older: AtomicU32,
    /// The words of its texts, once somebody has searched for some.
    pub(super) words: OnceLock<Box<[Words]>>,
}

struct Vectors {
    /// By the field's number in the schema.
    embeddings: Box<[Option<Box<[f32]>>]>,
    /// The same of sparse embeddings, as [`crate::sparse::encode`] writes them.
    sparse: Box<[Option<Box<[u8]>>]>,
}

/// What a record holds besides its key, before it is stored.
#[derive(Clone, Default, Debug)]
pub(crate) struct RowContent<'a> {
    pub value: Option<Cow<'a, [u8]>>,
    pub attributes: Cow<'a, [u8]>,
    /// By the field's number in the schema; as long as the schema has fields.
    pub embeddings: Box<[Option<Box<[f32]>>]>,
    /// By the number in the schema; as long as the schema has sparse embeddings.
    pub sparse: Box<[Option<Box<[u8]>>]>,
    pub deadline: u64,
}

impl Row {
    /// A version that has not ended.
    pub fn new(begin: Position, key: &[u8], content: RowContent<'_>, hash: u128) -> Row {
        let RowContent { value, attributes, embeddings, sparse, deadline } = content;
        let length = |part: &[u8]| u32::try_from(part.len()).expect("an entry is far shorter than that");
        let (key_bytes, value_bytes) = (length(key), value.as_deref().map_or(NO_VALUE, length));
        let bytes = [key, value.as_deref().unwrap_or_default(), &*attributes].concat().into_boxed_slice();
        let has_vectors = !embeddings.is_empty() || !sparse.is_empty();
        Row {
            bytes,
            key_bytes,
            value_bytes,
            vectors: has_vectors.then(|| Box::new(Vectors { embeddings, sparse })),
            begin,
            end: AtomicU64::new(Position::NEVER.get()),
            deadline,
            hash,
            older: AtomicU32::new(NONE),
            words: OnceLock::new(),
        }
    }

    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes as usize]
    }

    /// Where the attributes begin.
    fn attributes_at(&self) -> usize {
        let value_bytes = if self.value_bytes == NO_VALUE { 0 } else { self.value_bytes };
        self.key_bytes as usize + value_bytes as usize
    }

    pub fn value(&self) -> Option<&[u8]> {
        (self.value_bytes != NO_VALUE).then(|| &self.bytes[self.key_bytes as usize..self.attributes_at()])
    }

    pub fn attributes(&self) -> &[u8] {
        &self.bytes[self.attributes_at()..]
    }

    /// Embeddings by the field's number in the schema.
    pub fn embeddings(&self) -> &[Option<Box<[f32]>>] {
        self.vectors.as_ref().map_or(&[], |vectors| &vectors.embeddings)
    }

    pub fn embedding(&self, field: usize) -> Option<&[f32]> {
        self.embeddings().get(field)?.as_deref()
    }

    /// Sparse embeddings by the number in the schema.
    pub fn sparse(&self) -> &[Option<Box<[u8]>>] {
        self.vectors.as_ref().map_or(&[], |vectors| &vectors.sparse)
    }

    pub fn end(&self) -> Position {
        Position::from_u64(self.end.load(Ordering::Relaxed))
    }

    pub fn set_end(&self, end: Position) {
        self.end.store(end.get(), Ordering::Relaxed);
    }

    pub fn visible_at(&self, position: Position) -> bool {
        self.begin <= position && position < self.end()
    }

    /// The bytes of all that the record holds, its key among them.
    pub fn content_bytes(&self) -> usize {
        let embeddings = self.embeddings().iter().flatten().map(|embedding| size_of_val(&**embedding)).sum::<usize>();
        let sparse = self.sparse().iter().flatten().map(|weights| weights.len()).sum::<usize>();
        self.bytes.len() + embeddings + sparse
    }

    /// What it takes in memory, near enough.
    pub fn memory_bytes(&self) -> usize {
        let vectors = self.vectors.as_ref().map_or(0, |vectors| {
            size_of::<Vectors>() + size_of_val(&*vectors.embeddings) + size_of_val(&*vectors.sparse)
        });
        size_of::<OnceLock<Row>>() + self.content_bytes() + vectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_what_it_was_made_of() {
        let values: [Option<&[u8]>; 3] = [None, Some(b""), Some(b"value")];
        for (key, value, attributes) in values.into_iter().flat_map(|value| {
            [(&b""[..], value, &b""[..]), (b"key", value, b""), (b"", value, b"attributes"), (b"k", value, b"a")]
        }) {
            for fields in 0..3 {
                let embeddings: Box<[_]> =
                    (0..fields).map(|field| (field == 1).then(|| Box::from([1.5, 2.5]))).collect();
                let sparse: Box<[_]> = (0..fields).map(|field| (field == 0).then(|| Box::from([7; 12]))).collect();
                let (value, attributes) = (value.map(Cow::Borrowed), Cow::Borrowed(attributes));
                let content = RowContent { value, attributes, embeddings, sparse, deadline: 9 };
                let row = Row::new(Position::new(3, 4), key, content.clone(), 5);
                assert_eq!((row.key(), row.value()), (key, content.value.as_deref()));
                assert_eq!((row.attributes(), row.deadline), (&*content.attributes, 9));
                assert_eq!((row.embeddings(), row.sparse()), (&*content.embeddings, &*content.sparse));
                assert_eq!(row.embedding(1), (fields > 1).then_some(&[1.5, 2.5][..]));
                assert_eq!((row.begin, row.end(), row.hash), (Position::new(3, 4), Position::NEVER, 5));
                let parts = key.len() + content.value.as_ref().map_or(0, |v| v.len()) + content.attributes.len();
                let vectors = usize::from(fields > 1) * 8 + usize::from(fields > 0) * 12;
                assert_eq!(row.content_bytes(), parts + vectors);
                row.set_end(Position::new(8, 0));
                assert!(row.visible_at(Position::new(7, 9)) && !row.visible_at(Position::new(8, 0)));
            }
        }
    }

    #[test]
    fn a_row_is_two_lines_of_the_cache() {
        assert!(size_of::<OnceLock<Row>>() <= 128);
    }
}
