//! One collection whose records lie in several stores, read as if they lay in one.
//!
//! ```text
//!   view of one store ----> CollectionView --.
//!   view of another ------> CollectionView --+--> Parts: get, scan, count, ask
//!   view of a third ------> CollectionView --'
//! ```
//!
//! Always: the parts have the same rules, and a key is in at most one of them. Then every answer is the one that a single
//! store with all the records would give, to the last bit of a score, except where graphs are walked: those are other graphs.
//! What a reader asks of one part costs what it costs without all this: [`CollectionView`] is read as its own only part.
//!
//! The views may be of different moments. A part is as its view shows it, so an answer is of one moment for each part, and
//! not of one for all. Texts that have expired count in the scores of words until their own store has ended them.

use super::{CollectionView, RecordRef};

/// All parts of a collection.
#[derive(Clone, Copy)]
pub struct Parts<'p, 'v>(pub(super) &'p [CollectionView<'v>]);

impl<'p, 'v> Parts<'p, 'v> {
    /// The collection that has these parts: at least one, of the same rules. Steps and watchers number them in this
    /// order, from 0.
    pub fn new(parts: &'p [CollectionView<'v>]) -> Parts<'p, 'v> {
        assert!(!parts.is_empty(), "a collection lies somewhere");
        Parts(parts)
    }

    /// The record with that key, whichever part it is in.
    pub fn get(&self, key: &[u8], now: u64) -> Option<RecordRef<'v>> {
        self.0.iter().find_map(|part| part.get(key, now))
    }
}
