//! Strings: most keys have one, so what is done with them most often is done with as little as can be.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{At, Keyspace, WrongType, hash_of_entry, is_live, stripe_of};
use crate::effects::Fate;
use crate::table::entry::{Entry, Value};
use crate::table::objects::{Kind, Text};

impl Keyspace {
    /// The string of a key.
    pub fn string(&self, key: &[u8], now: u64) -> Result<Option<&[u8]>, WrongType> {
        let Some(entry) = self.live(key, now) else { return Ok(None) };
        self.note_use(entry);
        match entry.value() {
            Value::String(value) => Ok(Some(value)),
            Value::Object(object) => Text::of(object).map(|text| Some(text.bytes())).ok_or(WrongType),
        }
    }

    /// Gives a key a string, whatever it had. A deadline of zero: none.
    pub fn set_string(&mut self, key: &[u8], value: &[u8], deadline: u64, at: At) {
        let hash = self.hash(key);
        if self.set_string_again(hash, key, value, deadline, at) {
            return;
        }
        self.expire(hash, key, at.now);
        self.touch(hash, key);
        self.note_going(hash, key);
        self.untag(key);
        let (noted, heat) = match self.entry(hash, key) {
            Some(entry) => (entry.times().noted, entry.heat()),
            None => (0, 0),
        };
        let times = self.times(hash, deadline, noted);
        self.forget(hash, key);
        let seed = self.seed;
        let stripe = &mut self.stripes[stripe_of(hash)];
        let before = stripe.bytes();
        let new = match stripe.find_mut(hash, |entry| entry.key() == key) {
            Some(entry) => {
                if entry.set_times(times) && entry.overwrite(value) {
                    entry.set_version(at.version);
                } else {
                    entry.replace(Entry::string(key, value, at.version, times, heat));
                }
                false
            }
            None => {
                let entry = Entry::string(key, value, at.version, times, heat);
                stripe.insert(hash, entry, |entry| xxh3_64_with_seed(entry.key(), seed));
                true
            }
        };
        self.bytes += stripe.bytes() - before;
        self.account(hash, key);
        self.events.changed(key, if new { Fate::Made } else { Fate::Replaced });
        if new {
            self.queue(hash);
        }
    }

    /// The same where there is a string already, which is most often so; says no where there is none.
    fn set_string_again(&mut self, hash: u64, key: &[u8], value: &[u8], deadline: u64, at: At) -> bool {
        let Some(entry) = self.entry(hash, key) else { return false };
        if !matches!(entry.value(), Value::String(_)) || !is_live(entry, at.now) {
            return false;
        }
        let (old, heat) = (entry.times(), entry.heat());
        let (sum, bytes) = (hash_of_entry(self.seed, hash, entry), entry.bytes());
        self.touch(hash, key);
        self.untag(key);
        self.events.changed(key, Fate::Replaced);
        let times = self.times(hash, deadline, old.noted);
        let entry = self.stripes[stripe_of(hash)].find_mut(hash, |entry| entry.key() == key);
        let entry = entry.expect("it was found above");
        if entry.set_times(times) && entry.overwrite(value) {
            entry.set_version(at.version);
        } else {
            entry.replace(Entry::string(key, value, at.version, times, heat));
        }
        self.sum = self.sum.wrapping_sub(sum).wrapping_add(hash_of_entry(self.seed, hash, entry));
        self.bytes = self.bytes - bytes + entry.bytes();
        self.timed = self.timed - usize::from(old.deadline != 0) + usize::from(times.deadline != 0);
        true
    }

    /// The string of a key, made ready to be changed in place; an empty one where there is no such key.
    pub fn edit_text<R>(&mut self, key: &[u8], at: At, change: impl FnOnce(&mut Text) -> R) -> Result<R, WrongType> {
        let hash = self.hash(key);
        self.expire(hash, key, at.now);
        let plain = match self.entry(hash, key) {
            Some(entry) => match entry.value() {
                Value::String(value) => Some((Text::from(value), entry.times(), entry.heat())),
                Value::Object(_) => None,
            },
            None => None,
        };
        if let Some((text, times, heat)) = plain {
            self.keeping_tags(key, at, |keyspace| {
                drop(keyspace.take_entry(hash, key));
                keyspace.add_entry(hash, key, Entry::object(key, text.into_object(), at.version, times, heat));
            });
        }
        let (result, added) = self.edit_or_new(key, at, |text: &mut Text| {
            let before = text.bytes().len();
            let result = change(text);
            ((result, text.bytes().len().saturating_sub(before)), true)
        })?;
        self.grown += added as u64;
        Ok(result)
    }
}
