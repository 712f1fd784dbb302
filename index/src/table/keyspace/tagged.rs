//! Tags of keys: see [`tags`](crate::table::tags).
//!
//! A key keeps its tags as it keeps its deadline: through changes in place and with another name; what overwrites it takes them
//! away, and so does what removes it.

use super::{At, Keyspace, is_live};
use crate::table::tags::Tags;

/// The most tags of one key.
pub(crate) const TAGS_MAX: usize = 256;
/// The longest tag.
pub(crate) const TAG_BYTES_MAX: usize = 1_024;

/// Names of tags, in order.
pub(crate) type TagNames = Vec<Box<[u8]>>;

impl Keyspace {
    /// The tags of a key, in order.
    pub fn tags_of(&self, key: &[u8], now: u64) -> Vec<&[u8]> {
        if !self.contains(key, now) {
            return Vec::new();
        }
        let mut tags: Vec<&[u8]> = self.tags.iter().flat_map(|tags| tags.of(key)).collect();
        tags.sort_unstable();
        tags
    }

    /// The keys with a tag that have not expired, in order.
    pub fn tagged(&self, tag: &[u8], now: u64) -> Vec<&[u8]> {
        let keys = self.tags.iter().flat_map(|tags| tags.keys(tag));
        let is_live = |key: &&[u8]| self.entry(self.hash(key), key).is_some_and(|entry| is_live(entry, now));
        let mut keys: Vec<&[u8]> = keys.filter(is_live).collect();
        keys.sort_unstable();
        keys
    }

    /// Changes a key's tags; `change` says how many it changed. None: there is no such key.
    pub fn retag(&mut self, key: &[u8], at: At, change: impl FnOnce(&mut Tagged<'_>) -> usize) -> Option<usize> {
        let hash = self.hash(key);
        if self.expire(hash, key, at.now) {
            return None;
        }
        self.entry(hash, key)?;
        self.touch(hash, key);
        let seed = self.seed;
        let tags = self.tags.get_or_insert_with(|| Box::new(Tags::new(seed)));
        let changed = change(&mut Tagged { tags, key });
        self.forget_no_tags();
        Some(changed)
    }

    /// What `change` writes under a key keeps the tags that the key has.
    pub fn keeping_tags<R>(&mut self, key: &[u8], at: At, change: impl FnOnce(&mut Keyspace) -> R) -> R {
        if self.tags.is_none() {
            return change(self);
        }
        let hash = self.hash(key);
        self.expire(hash, key, at.now);
        self.keeps_tags = true;
        let result = change(self);
        self.keeps_tags = false;
        if self.entry(hash, key).is_none() {
            self.untag(key);
        }
        result
    }

    /// Takes a key's tags away, once it was touched.
    pub(super) fn untag(&mut self, key: &[u8]) {
        if let Some(tags) = &mut self.tags
            && !self.keeps_tags
            && tags.clear(key)
        {
            self.forget_no_tags();
        }
    }

    pub(super) fn tag_names(&self, key: &[u8]) -> TagNames {
        self.tags.iter().flat_map(|tags| tags.of(key)).map(Box::from).collect()
    }

    /// Gives tags to a key that has none and was touched.
    pub(super) fn put_tags(&mut self, key: &[u8], names: &[Box<[u8]>]) {
        if names.is_empty() {
            return;
        }
        let seed = self.seed;
        let tags = self.tags.get_or_insert_with(|| Box::new(Tags::new(seed)));
        for name in names {
            tags.add(key, name);
        }
    }

    fn forget_no_tags(&mut self) {
        if self.tags.as_ref().is_some_and(|tags| tags.is_empty()) {
            self.tags = None;
        }
    }
}

/// The tags of one key, to be changed.
pub struct Tagged<'t> {
    tags: &'t mut Tags,
    key: &'t [u8],
}

impl Tagged<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.tags.of(self.key).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more; says whether it is new.
    pub fn add(&mut self, tag: &[u8]) -> bool {
        self.tags.add(self.key, tag)
    }

    /// One less; says whether it was there.
    pub fn remove(&mut self, tag: &[u8]) -> bool {
        self.tags.remove(self.key, tag)
    }

    /// None any more.
    pub fn clear(&mut self) {
        self.tags.clear(self.key);
    }
}
