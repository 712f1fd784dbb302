//! The index of one attribute in one segment: which rows have which value, without looking at the rows.
//!
//! ```text
//!   filter ---> truth(filter, indexes) ---> rows that it surely takes, rows that it may take
//!                     |                            (the same, where indexes cover all of it)
//!        per index:   v
//!   values   key key key ...          the different values, sorted by key (see [`key`])
//!   starts   0   3   4 ...            where each one's rows begin
//!   rows     5 9 30 | 7 | 2 8 ...     so equality is a slice, and so is a range
//!   marks    every 1/32 of the rows   as bits: the rows before that place. A long slice is the difference of two
//! ```
//!
//! A row has one value at a path, or none. If the value is a list, its elements stand in a second such table. For each
//! kind of value (null, bool, number, text, timestamp, list, other) there are the rows that have one, so what is unknown
//! comes out as it does for [`crate::filter::Filter::evaluate`]: that is the specification, and here is nothing but a
//! faster way.
//!
//! Its section of the segment, all numbers little-endian, each part at the next multiple of 8:
//!
//! ```text
//!  0         4       8      12          16                          16 + 8 x PARTS
//!  | version | kind  | rows | left out  | bytes of each part (u64)  | part | part | ...
//!
//!  path             u32 length, utf-8: for each name
//!  kinds            u32 x 7: how many rows have a value of each kind
//!  kind bits        u64 x words, for each kind that some rows have and not all
//!  values           offsets u32 x (V + 1), key bytes, starts u32 x (V + 1), rows u32 x N, rest u32 x L: the rows whose
//!                   text is too long for a key
//!  marks            places u32 x M in `rows`, ascending, each where a value begins; u64 x words for each
//!  elements         as values, without marks; the rest are lists with such a text in them
//!  grams            of substring indexes: u32 x G, three bytes of text each (most significant first), ascending; starts
//!                   u32 x (G + 1) into u32 x P: the values (by number) that have them, ascending
//! ```
//!
//! An index that would be too large is left out: its section says so, and filters on its path look at rows.
//!
//! The bytes are under the section's checksum. Reading does not trust them all the same: an offset that leads nowhere is
//! an empty value or no rows, never a panic.

mod key;
mod rows;
mod build;
mod read;
mod truth;
#[cfg(test)]
mod tests;

pub(crate) use build::build;
pub use key::INDEXED_TEXT_BYTES_MAX;
pub(crate) use read::{IndexRef, describe};
pub(crate) use rows::RowSet;
pub(crate) use truth::{Truth, truth};

/// An index whose different values take more bytes together is left out.
pub const INDEX_VALUES_BYTES_MAX: usize = 128 << 20;
/// A substring index of more three-byte pieces, counted once for each different value, does without them.
pub const INDEX_GRAMS_MAX: usize = 1 << 25;

const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
/// There are marks if so many rows have a value.
const MARKED_ROWS_MIN: usize = 2_048;
/// A range is at most two such parts of the rows away from marks.
const MARKS: usize = 32;

/// The parts of the section, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Kinds,
    KindBits,
    ValueOffsets,
    ValueBytes,
    ValueStarts,
    ValueRows,
    ValueRest,
    MarkPlaces,
    MarkBits,
    ElementOffsets,
    ElementBytes,
    ElementStarts,
    ElementRows,
    ElementRest,
    Grams,
    GramStarts,
    GramValues,
}

const PARTS: usize = Part::GramValues as usize + 1;

/// The three-byte pieces of a text, as numbers; some more than once.
fn grams(text: &[u8]) -> impl Iterator<Item = u32> {
    text.windows(3).map(|piece| u32::from(piece[0]) << 16 | u32::from(piece[1]) << 8 | u32::from(piece[2]))
}
