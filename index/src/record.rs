//! What users store, and the limits it keeps to.
//!
//! A record has a key, and may have a value, attributes to filter by, embeddings to be found by nearness, and a
//! deadline. It is stored as versions: a version begins at the position of the command that wrote it and ends at the
//! position of the one that replaced or removed it.

use std::fmt;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// The largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// The largest attributes of one record, in encoded bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 1 << 20;
/// How deep attributes may nest.
pub const ATTRIBUTES_DEPTH_MAX: usize = 16;
/// The largest dimension of an embedding.
pub const DIMENSION_MAX: usize = 16_384;
/// The most named embeddings of one collection.
pub const EMBEDDINGS_MAX: usize = 16;
/// The most named sparse vectors of one collection.
pub const SPARSE_MAX: usize = 16;
/// The most attributes of one collection that are found by their words.
pub const TEXTS_MAX: usize = 16;
/// The most indexed attributes of one collection.
pub const INDEXES_MAX: usize = 64;
/// The longest path to an indexed attribute, in bytes of all its names together.
pub const PATH_BYTES_MAX: usize = 1 << 10;
/// The longest name of a namespace, a collection or an embedding, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Where a command stands in a shard's log: the entry's index and the command's place in that entry.
///
/// A record's version is the position of the command that wrote it, so no two writes share one, and positions grow
/// with the log. Everything visible at `Position::end_of(index)` is what the entries up to `index` left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    const PLACE_BITS: u32 = 16;
    /// The most commands in one entry.
    pub const COMMANDS_MAX: usize = 1 << Self::PLACE_BITS;
    /// The last entry there can be: after it there would be no position that is not [`Position::NEVER`].
    pub const INDEX_MAX: u64 = (1 << (64 - Self::PLACE_BITS)) - 2;
    /// Before every command.
    pub const ZERO: Position = Position(0);
    /// After every command: the end of a version that has not ended.
    pub const NEVER: Position = Position(u64::MAX);

    /// The position of command number `place` of the entry at `index`.
    ///
    /// Panics if `place` is not below [`Position::COMMANDS_MAX`] or the index has no room: both are checked where
    /// entries are made and read.
    pub fn new(index: u64, place: usize) -> Position {
        assert!(place < Self::COMMANDS_MAX && index < 1 << (64 - Self::PLACE_BITS), "entry {index} place {place}");
        Position(index << Self::PLACE_BITS | place as u64)
    }

    /// The last position of the entry at `index`.
    pub fn end_of(index: u64) -> Position {
        Position::new(index, Self::COMMANDS_MAX - 1)
    }

    /// The entry it belongs to.
    pub fn index(self) -> u64 {
        self.0 >> Self::PLACE_BITS
    }

    /// The position before it.
    pub fn before(self) -> Position {
        Position(self.0.saturating_sub(1))
    }

    /// The command's place in the entry.
    pub fn place(self) -> u16 {
        self.0 as u16
    }

    /// As a number, for files and replies.
    pub fn get(self) -> u64 {
        self.0
    }

    /// From the number that [`Position::get`] gave.
    pub fn from_u64(position: u64) -> Position {
        Position(position)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Position::NEVER => f.write_str("never"),
            Position(p) => write!(f, "{}.{}", self.index(), p & (Self::COMMANDS_MAX as u64 - 1)),
        }
    }
}

/// Which collection a change is for. Given out once and never again, so that a change meant for a collection that was
/// dropped cannot reach a new one of the same name. Whoever brings ids along in commands keeps to that as well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CollectionId(pub u64);

impl CollectionId {
    /// The largest that a command may bring along. However many are given out after it, they do not run out.
    pub const MAX: CollectionId = CollectionId(u64::MAX >> 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_grow_with_the_log_and_within_an_entry() {
        assert!(Position::new(1, 5) < Position::new(2, 0));
        assert!(Position::new(2, 0) < Position::new(2, 1));
        assert!(Position::end_of(2) < Position::new(3, 0));
        assert!(Position::end_of(1 << 40) < Position::NEVER);
        assert_eq!(Position::new(77, 3).index(), 77);
    }
}
