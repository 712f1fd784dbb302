//! The keyspace: keys with their values and deadlines, in stripes.
//!
//! ```text
//!   key --hash--> stripe (1 of 1024) --hash--> Entry
//!                   |
//!                   '-- saved?  while a checkpoint is under way: a stripe is written down before it changes
//! ```
//!
//! Commands see it through `find`, `string`, `object` (reading) and `set_string`, `edit`, `put`, `remove`, `set_deadline`
//! (writing). Every change goes through one of the latter, which keep the accounts: what is taken in memory, the sum for
//! the digest, the wheel, events, the journal of a script, and what a checkpoint has still to see.
//!
//! Always:
//! - a change gives its key the version of the call that made it; what did not change keeps its version;
//! - an object without elements is not there.

mod due;
mod journal;
mod order;
mod settle;
mod strings;
mod tagged;
mod victims;
mod whole;

use std::hint::black_box;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::allocated;
use super::entry::{Entry, Times, Value};
use super::events::{Events, Listening};
use super::eviction::queues::Queues;
use super::file::Saving;
use super::lookups;
use super::objects::{Kind, Object, STRING_BYTES, Text};
use super::stripe::Stripe;
use super::tags::Tags;
use super::wheel::Wheel;
use crate::effects::Fate;
use journal::Journal;
use settle::Settling;

pub use super::entry::KEY_BYTES_MAX;
pub use tagged::Tagged;
pub(super) use tagged::{TAG_BYTES_MAX, TAGS_MAX, TagNames};

const STRIPE_BITS: u32 = 10;
pub(super) const STRIPES: usize = 1 << STRIPE_BITS;
/// The bits below tell where in the stripe.
pub(super) const STRIPE_SHIFT: u32 = 40;

/// About what an entry's place in its stripe takes.
const PLACE_BYTES: usize = 10;

/// Fewer notes in the wheel than this are left alone.
const TIDY_WHEEL_MIN: usize = 1 << 16;

/// When and where a call writes.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The version that what it changes will have: its position in the log.
    pub version: u64,
    /// The log's clock: milliseconds since 1970.
    pub now: u64,
}

/// A key holds another kind of value than the command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongType;

/// A value with its deadline that was taken out, to be put elsewhere.
pub struct Taken {
    pub(super) value: TakenValue,
    /// Zero: none.
    pub deadline: u64,
    pub(super) tags: TagNames,
}

/// A value by itself.
pub enum TakenValue {
    /// A string.
    String(Box<[u8]>),
    /// All else.
    Object(Object),
}

/// Keys with their values.
pub struct Keyspace {
    stripes: Box<[Stripe]>,
    seed: u64,
    len: usize,
    timed: usize,
    /// Of entries and stripes.
    bytes: usize,
    sum: u128,
    /// Grows with every change.
    changes: u64,
    wheel: Wheel,
    /// Where there is a budget.
    queues: Option<Box<Queues>>,
    /// As far as a key's use is counted.
    heat_max: u8,
    grown: u64,
    /// How much that may be.
    growth_max: u64,
    /// How many keys expired and were evicted since this member began.
    expired: u64,
    evicted: u64,
    /// Of keys that have some, if any has.
    tags: Option<Box<Tags>>,
    /// Tags stay on what is overwritten just now.
    keeps_tags: bool,
    /// So many notes in the wheel are worth looking which of them mean nothing any more.
    tidy_wheel_at: usize,
    settling: Settling,
    /// What happened, where somebody listens.
    pub events: Events,
    journal: Option<Journal>,
    saving: Option<Arc<Saving>>,
}

pub(super) fn stripe_of(hash: u64) -> usize {
    (hash >> STRIPE_SHIFT) as usize & (STRIPES - 1)
}

impl Keyspace {
    /// Without keys. `seed` decides where keys lie.
    pub fn new(seed: u64) -> Keyspace {
        Keyspace {
            stripes: (0..STRIPES).map(|_| Stripe::new()).collect(),
            seed,
            len: 0,
            timed: 0,
            bytes: 0,
            sum: 0,
            changes: 0,
            wheel: Wheel::default(),
            queues: None,
            heat_max: HEAT_MAX,
            grown: 0,
            growth_max: u64::MAX,
            expired: 0,
            evicted: 0,
            tags: None,
            keeps_tags: false,
            tidy_wheel_at: TIDY_WHEEL_MIN,
            settling: Settling::default(),
            events: Events::default(),
            journal: None,
            saving: None,
        }
    }

    /// Tells these listeners what happens from now on.
    pub fn listen(&mut self, listening: Listening) {
        self.events = Events::new(listening);
    }

    /// How many keys there are; those that have expired and were not removed yet are among them.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many keys have a deadline.
    pub fn timed(&self) -> usize {
        self.timed
    }

    /// What it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        let queues = self.queues.as_ref().map_or(0, |queues| queues.bytes());
        let tags = self.tags.as_ref().map_or(0, |tags| allocated(size_of::<Tags>()) + tags.bytes());
        self.bytes + queues + tags + self.wheel.bytes() + STRIPES * size_of::<Stripe>()
    }

    /// The sum of its keys' hashes: the same on every member that made the same calls.
    pub fn sum(&self) -> u128 {
        self.sum.wrapping_add(self.tags.as_ref().map_or(0, |tags| tags.sum()))
    }

    /// The same, computed anew.
    pub fn sum_from_entries(&self) -> u128 {
        let entries = self.stripes.iter().flat_map(Stripe::iter);
        let tags = self.tags.as_ref().map_or(0, |tags| tags.sum_anew());
        entries.fold(tags, |sum, entry| sum.wrapping_add(hash_of_entry(self.seed, self.hash(entry.key()), entry)))
    }

    /// Grows with every change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.seed)
    }

    fn entry(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        self.stripes[stripe_of(hash)].find(hash, |entry| entry.key() == key)
    }

    /// The entry of a key that has not expired by `now`.
    fn live(&self, key: &[u8], now: u64) -> Option<&Entry> {
        let found = self.entry(self.hash(key), key).filter(|entry| is_live(entry, now));
        lookups::note(found.is_some());
        found
    }

    /// Whether there is such a key.
    pub fn contains(&self, key: &[u8], now: u64) -> bool {
        self.live(key, now).is_some()
    }

    /// What the type of a key's value is called.
    pub fn type_of(&self, key: &[u8], now: u64) -> Option<&'static str> {
        Some(match self.live(key, now)?.value() {
            Value::String(_) => Text::NAME,
            Value::Object(object) => object.type_name(),
        })
    }

    /// How a key's value is kept, in Redis' words.
    pub fn encoding(&self, key: &[u8], now: u64) -> Option<&'static str> {
        Some(match self.live(key, now)?.value() {
            Value::String(value) if super::commands::parse_int(value).is_some() => "int",
            Value::String(value) if value.len() <= 44 => "embstr",
            Value::String(_) => "raw",
            Value::Object(object) => object.encoding(),
        })
    }

    /// When a key ends: `None` where there is no key, zero where it does not end.
    pub fn deadline(&self, key: &[u8], now: u64) -> Option<u64> {
        self.live(key, now).map(|entry| entry.times().deadline)
    }

    /// The position of the call that changed a key last.
    pub fn version(&self, key: &[u8], now: u64) -> Option<u64> {
        self.live(key, now).map(Entry::version)
    }

    /// What a key with its value takes in memory. It does not count as looked for.
    pub fn bytes_of(&self, key: &[u8], now: u64) -> Option<usize> {
        let entry = self.entry(self.hash(key), key).filter(|entry| is_live(entry, now))?;
        Some(entry.bytes() + PLACE_BYTES)
    }

    /// How many elements a key has; of a string, every [`STRING_BYTES`] count as one. It does not count as looked for.
    pub fn elements_of(&self, key: &[u8], now: u64) -> usize {
        match self.entry(self.hash(key), key).filter(|entry| is_live(entry, now)).map(Entry::value) {
            None => 0,
            Some(Value::String(value)) => value.len() / STRING_BYTES,
            Some(Value::Object(object)) => object.elements(),
        }
    }

    /// How much a key was used lately, as far as readers said so.
    pub fn heat(&self, key: &[u8], now: u64) -> Option<u8> {
        self.live(key, now).map(Entry::heat)
    }

    /// A reader used a key.
    pub fn warm(&self, key: &[u8], now: u64) {
        if let Some(entry) = self.live(key, now) {
            self.note_use(entry);
        }
    }

    fn note_use(&self, entry: &Entry) {
        let heat = entry.heat();
        if heat < self.heat_max {
            entry.set_heat(heat + 1);
        }
    }

    /// The object of a key.
    pub fn object<K: Kind>(&self, key: &[u8], now: u64) -> Result<Option<&K>, WrongType> {
        let Some(entry) = self.live(key, now) else { return Ok(None) };
        self.note_use(entry);
        match entry.value() {
            Value::Object(object) => K::of(object).map(Some).ok_or(WrongType),
            Value::String(_) => Err(WrongType),
        }
    }

    /// Before a key changes.
    fn touch(&mut self, hash: u64, key: &[u8]) {
        self.changes += 1;
        let stripe = stripe_of(hash);
        if let Some(saving) = &self.saving
            && saving.is_wanted(stripe)
        {
            saving.spill(stripe, self.stripes[stripe].iter(), self.tags.as_deref());
        }
        self.note_before(hash, key);
    }

    /// Takes an entry out of the accounts, before it changes or goes.
    fn forget(&mut self, hash: u64, key: &[u8]) {
        let Some(entry) = self.entry(hash, key) else { return };
        let (sum, bytes, timed) = (hash_of_entry(self.seed, hash, entry), entry.bytes(), entry.times().deadline != 0);
        self.sum = self.sum.wrapping_sub(sum);
        self.bytes -= bytes;
        self.timed -= usize::from(timed);
        self.len -= 1;
    }

    /// Takes an entry into the accounts, once it has changed or came.
    fn account(&mut self, hash: u64, key: &[u8]) {
        let Some(entry) = self.entry(hash, key) else { return };
        let (sum, bytes, timed) = (hash_of_entry(self.seed, hash, entry), entry.bytes(), entry.times().deadline != 0);
        self.sum = self.sum.wrapping_add(sum);
        self.bytes += bytes;
        self.timed += usize::from(timed);
        self.len += 1;
    }

    /// Removes an entry, which is there, and gives it back.
    fn take_entry(&mut self, hash: u64, key: &[u8]) -> Option<Entry> {
        self.touch(hash, key);
        self.note_going(hash, key);
        self.untag(key);
        self.forget(hash, key);
        let seed = self.seed;
        let hash_of = |entry: &Entry| xxh3_64_with_seed(entry.key(), seed);
        let stripe = &mut self.stripes[stripe_of(hash)];
        let before = stripe.bytes();
        let removed = stripe.remove(hash, |entry| entry.key() == key, hash_of);
        self.bytes = self.bytes - before + stripe.bytes();
        removed
    }

    /// Puts an entry where there is none of its key.
    fn add_entry(&mut self, hash: u64, key: &[u8], entry: Entry) {
        let seed = self.seed;
        let stripe = &mut self.stripes[stripe_of(hash)];
        let before = stripe.bytes();
        stripe.insert(hash, entry, |entry| xxh3_64_with_seed(entry.key(), seed));
        self.bytes += stripe.bytes() - before;
        self.account(hash, key);
        self.note_parts(hash, key);
        self.queue(hash);
    }

    /// Forgets notes of keys that are gone, once there are many.
    fn tidy_wheel(&mut self) {
        if self.wheel.notes() < self.tidy_wheel_at {
            return;
        }
        self.wheel.clear();
        let seed = self.seed;
        for entry in self.stripes.iter_mut().flat_map(Stripe::iter_mut) {
            let times = entry.times();
            let first = [times.deadline, first_of_parts(entry)].into_iter().filter(|deadline| *deadline != 0).min();
            let noted = first.map_or(0, |first| self.wheel.note(xxh3_64_with_seed(entry.key(), seed), first));
            entry.set_times(Times { noted, ..times });
        }
        self.tidy_wheel_at = TIDY_WHEEL_MIN.max(self.wheel.notes() * 2);
    }

    /// The times that go with a deadline: it is noted if it comes before what is noted already.
    fn times(&mut self, hash: u64, deadline: u64, noted: u64) -> Times {
        if deadline == 0 {
            // A note that is left over does no harm.
            return Times { deadline: 0, noted };
        }
        let noted =
            if noted == 0 || Wheel::step_of(deadline) < noted { self.wheel.note(hash, deadline) } else { noted };
        Times { deadline, noted }
    }

    /// Removes a key that has expired, and says whether it had. Of one that has not, removes the parts that have.
    fn expire(&mut self, hash: u64, key: &[u8], now: u64) -> bool {
        let Some(entry) = self.entry(hash, key) else { return false };
        if is_live(entry, now) {
            if has_expired_parts(entry, now) {
                self.expire_parts(hash, key, now);
            }
            return false;
        }
        let deadline = entry.times().deadline;
        let by_parts = deadline == 0 || deadline > now;
        drop(self.take_entry(hash, key));
        self.expired += 1;
        self.events.changed(key, Fate::Expired);
        if by_parts {
            self.events.named(b'h', "hexpired", key);
            self.events.named(b'g', "del", key);
        } else {
            self.events.named(b'x', "expired", key);
        }
        true
    }

    fn expire_parts(&mut self, hash: u64, key: &[u8], now: u64) {
        self.touch(hash, key);
        self.forget(hash, key);
        let entry = self.stripes[stripe_of(hash)].find_mut(hash, |entry| entry.key() == key);
        if let Some(object) = entry.and_then(Entry::object_mut) {
            object.expire(now);
        }
        self.account(hash, key);
        self.note_parts(hash, key);
        self.events.changed(key, Fate::Replaced);
        self.events.named(b'h', "hexpired", key);
    }

    /// Notes the earliest deadline of an object's parts if it comes before what is noted already.
    fn note_parts(&mut self, hash: u64, key: &[u8]) {
        let Some(entry) = self.stripes[stripe_of(hash)].find_mut(hash, |entry| entry.key() == key) else { return };
        let (first, times) = (first_of_parts(entry), entry.times());
        if first != 0 && (times.noted == 0 || Wheel::step_of(first) < times.noted) {
            let noted = self.wheel.note(hash, first);
            entry.set_times(Times { noted, ..times });
        }
    }

    /// The first step of [looking ahead](super::ahead): where in its stripe a key would be. The other steps know it by what this
    /// says.
    pub(super) fn look_at_head(&self, key: &[u8]) -> u64 {
        let hash = self.hash(key);
        self.stripes[stripe_of(hash)].look_at_head(hash);
        hash
    }

    /// The second step: where it is.
    pub(super) fn look_at_place(&self, hash: u64) {
        black_box(self.guess(hash).map(Entry::mark));
    }

    /// The third step: how it begins.
    pub(super) fn look_at_entry(&self, hash: u64) {
        black_box(self.guess(hash).map(Entry::heat));
    }

    /// The last step: how it ends.
    pub(super) fn look_at_end(&self, hash: u64) {
        let end = |entry: &Entry| match entry.value() {
            Value::String(value) => (entry.key().last().copied(), value.last().copied()),
            Value::Object(_) => (entry.key().last().copied(), None),
        };
        black_box(self.guess(hash).map(end));
    }

    fn guess(&self, hash: u64) -> Option<&Entry> {
        self.stripes[stripe_of(hash)].guess(hash)
    }

    /// Gives a key an object, whatever it had. A deadline of zero: none. One without elements removes the key.
    pub fn put<K: Kind>(&mut self, key: &[u8], value: K, deadline: u64, at: At) {
        let object = value.into_object();
        self.grown += encoded_bytes(&object);
        self.put_back(key, Taken { value: TakenValue::Object(object), deadline, tags: TagNames::new() }, at);
    }

    /// Gives a key what was taken out elsewhere, whatever it had.
    pub fn put_back(&mut self, key: &[u8], taken: Taken, at: At) {
        let hash = self.hash(key);
        let old = self.take_entry(hash, key);
        let heat = old.as_ref().map_or(0, Entry::heat);
        let times = self.times(hash, taken.deadline, 0);
        let fate = match (&taken.value, &old) {
            (TakenValue::Object(object), None) if object.is_empty() => return,
            (TakenValue::Object(object), Some(_)) if object.is_empty() => Fate::Deleted,
            (_, Some(_)) => Fate::Replaced,
            (_, None) => Fate::Made,
        };
        self.events.changed(key, fate);
        let entry = match taken.value {
            TakenValue::Object(object) if object.is_empty() => return,
            TakenValue::Object(Object::Lease(mut lease)) => {
                lease.renumber(at.version);
                Entry::object(key, Object::Lease(lease), at.version, times, heat)
            }
            TakenValue::Object(object) => Entry::object(key, object, at.version, times, heat),
            TakenValue::String(value) => Entry::string(key, &value, at.version, times, heat),
        };
        self.add_entry(hash, key, entry);
        self.put_tags(key, &taken.tags);
    }

    /// Takes a key out with its value.
    pub fn take(&mut self, key: &[u8], at: At) -> Option<Taken> {
        self.take_for(key, at, Fate::Deleted)
    }

    fn take_for(&mut self, key: &[u8], at: At, fate: Fate) -> Option<Taken> {
        let hash = self.hash(key);
        if self.expire(hash, key, at.now) {
            return None;
        }
        self.entry(hash, key)?;
        let tags = self.tag_names(key);
        let entry = self.take_entry(hash, key)?;
        self.events.changed(key, fate);
        Some(taken_of(entry, tags))
    }

    /// A copy of a key's value, with its deadline.
    pub fn copy_of(&self, key: &[u8], now: u64) -> Option<Taken> {
        self.live(key, now).map(|entry| taken_of(copy(entry), self.tag_names(key)))
    }

    /// Puts a copy where it may have been none; see [`Keyspace::copy_of`].
    pub fn put_copy(&mut self, key: &[u8], copy: Taken, at: At) {
        self.grown += match &copy.value {
            TakenValue::String(value) => value.len() as u64,
            TakenValue::Object(object) => encoded_bytes(object),
        };
        self.put_back(key, copy, at);
    }

    /// Removes a key, and says whether it was there.
    pub fn remove(&mut self, key: &[u8], at: At) -> bool {
        self.take(key, at).is_some()
    }

    /// Removes a key to make room, and says whether it was there. A lease stays, which it may have become since it was chosen.
    pub fn evict(&mut self, key: &[u8], at: At) -> bool {
        if self.entry(self.hash(key), key).is_some_and(victims::is_lease) {
            return false;
        }
        self.take_for(key, at, Fate::Evicted).is_some()
    }

    /// Changes a key's deadline; zero: none. Says whether the key is there.
    pub fn set_deadline(&mut self, key: &[u8], deadline: u64, at: At) -> bool {
        let hash = self.hash(key);
        if self.expire(hash, key, at.now) {
            return false;
        }
        let Some(noted) = self.entry(hash, key).map(|entry| entry.times().noted) else { return false };
        self.touch(hash, key);
        self.events.changed(key, Fate::Replaced);
        let times = self.times(hash, deadline, noted);
        self.forget(hash, key);
        if let Some(entry) = self.stripes[stripe_of(hash)].find_mut(hash, |entry| entry.key() == key) {
            if !entry.set_times(times)
                && let Value::String(value) = entry.value()
            {
                entry.replace(Entry::string(key, value, at.version, times, entry.heat()));
            }
            entry.set_version(at.version);
        }
        self.account(hash, key);
        true
    }

    /// Changes a key's object in place. `change` says whether it changed anything; an object that it leaves without
    /// elements goes, with its key. None: there is no such key.
    pub fn edit<K: Kind, R>(
        &mut self,
        key: &[u8],
        at: At,
        change: impl FnOnce(&mut K) -> (R, bool),
    ) -> Result<Option<R>, WrongType> {
        self.edit_as(key, at, false, change)
    }

    /// `made`: nobody has seen the object yet.
    fn edit_as<K: Kind, R>(
        &mut self,
        key: &[u8],
        at: At,
        made: bool,
        change: impl FnOnce(&mut K) -> (R, bool),
    ) -> Result<Option<R>, WrongType> {
        let hash = self.hash(key);
        if self.expire(hash, key, at.now) {
            return Ok(None);
        }
        match self.entry(hash, key).map(Entry::value) {
            None => return Ok(None),
            Some(Value::Object(object)) if K::of(object).is_some() => {}
            Some(_) => return Err(WrongType),
        }
        self.touch(hash, key);
        self.forget(hash, key);
        let entry = self.stripes[stripe_of(hash)].find_mut(hash, |entry| entry.key() == key);
        let entry = entry.expect("it was found above");
        let object = entry.object_mut().and_then(K::of_mut).expect("it was looked at above");
        let (result, changed) = change(object);
        let empty = object.is_empty();
        if changed {
            entry.set_version(at.version);
        }
        self.account(hash, key);
        if changed {
            self.note_parts(hash, key);
            match (made, empty) {
                (false, false) => self.events.changed(key, Fate::Replaced),
                (false, true) => self.events.changed(key, Fate::Deleted),
                (true, false) => self.events.changed(key, Fate::Made),
                (true, true) => {}
            }
        }
        if empty {
            drop(self.take_entry(hash, key));
        }
        Ok(Some(result))
    }

    /// The same, with a new object where there is no such key.
    pub fn edit_or_new<K: Kind + Default, R>(
        &mut self,
        key: &[u8],
        at: At,
        change: impl FnOnce(&mut K) -> (R, bool),
    ) -> Result<R, WrongType> {
        let hash = self.hash(key);
        self.expire(hash, key, at.now);
        let made = self.entry(hash, key).is_none();
        if made {
            self.touch(hash, key);
            let entry = Entry::object(key, K::default().into_object(), at.version, Times::default(), 0);
            self.add_entry(hash, key, entry);
        }
        Ok(self.edit_as(key, at, made, change)?.expect("it is there, or was made"))
    }

    /// Something with a name happened to a key; `class` is the letter that chooses it in `notify-keyspace-events`.
    pub fn notify(&mut self, class: u8, name: &'static str, key: &[u8]) {
        self.events.named(class, name, key);
    }

    /// From now on it is counted what calls add besides what they bring along. They may add so many bytes.
    pub fn begin_growth(&mut self, bytes_max: u64) {
        (self.grown, self.growth_max) = (0, bytes_max);
        self.tidy_wheel();
        self.settle();
    }

    /// Whether calls added more since then than they may, as all members count it.
    pub fn has_grown(&self) -> bool {
        self.grown > self.growth_max
    }

    /// What had to be written down for a checkpoint under way.
    pub fn spilled_bytes(&self) -> usize {
        self.saving.as_ref().map_or(0, |saving| saving.spilled_bytes())
    }

    /// All keys, expired ones too, in no order that means anything.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.stripes.iter().flat_map(Stripe::iter).map(Entry::key)
    }

    /// The keys of a part of the keyspace that have not expired; there are [`Keyspace::PARTS`] parts.
    pub fn keys_of_part(&self, part: usize, now: u64) -> impl Iterator<Item = &[u8]> {
        let entries = self.stripes.get(part).into_iter().flat_map(Stripe::iter);
        entries.filter(move |entry| is_live(entry, now)).map(Entry::key)
    }

    /// How many parts [`Keyspace::keys_of_part`] knows.
    pub const PARTS: usize = STRIPES;

    pub(super) fn set_saving(&mut self, saving: Option<Arc<Saving>>) {
        self.saving = saving;
    }

    pub(super) fn stripe(&self, stripe: usize) -> impl Iterator<Item = &Entry> {
        self.stripes[stripe].iter()
    }

    /// Takes in an entry from a file. Says no where its key is there already.
    pub(super) fn load(&mut self, entry: Entry, tags: &[Box<[u8]>]) -> bool {
        let key: Box<[u8]> = entry.key().into();
        let hash = self.hash(&key);
        if self.entry(hash, &key).is_some() {
            return false;
        }
        let mut entry = entry;
        if entry.times().deadline != 0 {
            let times = self.times(hash, entry.times().deadline, 0);
            entry.set_times(times);
        }
        self.add_entry(hash, &key, entry);
        self.put_tags(&key, tags);
        true
    }

    pub(super) fn tags(&self) -> Option<&Tags> {
        self.tags.as_deref()
    }
}

fn encoded_bytes(object: &Object) -> u64 {
    let mut bytes = Vec::new();
    object.encode(&mut bytes);
    bytes.len() as u64
}

/// Everything of an entry that is state. `hash` is its key's.
fn hash_of_entry(seed: u64, hash: u64, entry: &Entry) -> u128 {
    let (tag, content) = match entry.value() {
        Value::String(value) => (0, xxh3_64_with_seed(value, seed ^ 1)),
        Value::Object(object) => (u64::from(object.tag()), object.sum()),
    };
    let mut all = [0; 40];
    let parts = [hash, content, tag, entry.version(), entry.times().deadline];
    for (place, part) in all.chunks_exact_mut(8).zip(parts) {
        place.copy_from_slice(&part.to_le_bytes());
    }
    xxh3_128_with_seed(&all, seed)
}

fn is_live(entry: &Entry, now: u64) -> bool {
    let deadline = entry.times().deadline;
    let parts_live = || match entry.value() {
        Value::String(_) => true,
        Value::Object(object) => object.is_live(now),
    };
    (deadline == 0 || deadline > now) && parts_live()
}

fn first_of_parts(entry: &Entry) -> u64 {
    match entry.value() {
        Value::String(_) => 0,
        Value::Object(object) => object.first_deadline(),
    }
}

fn has_expired_parts(entry: &Entry, now: u64) -> bool {
    let first = first_of_parts(entry);
    first != 0 && first <= now
}

/// The most that is counted of a key's use, where its frequency is not what counts.
const HEAT_MAX: u8 = 3;

fn copy(entry: &Entry) -> Entry {
    let (key, version, times, heat) = (entry.key(), entry.version(), entry.times(), entry.heat());
    match entry.value() {
        Value::String(value) => Entry::string(key, value, version, times, heat),
        Value::Object(object) => Entry::object(key, object.clone(), version, times, heat),
    }
}

fn taken_of(entry: Entry, tags: TagNames) -> Taken {
    let deadline = entry.times().deadline;
    let value = match entry.value() {
        Value::String(value) => Some(TakenValue::String(value.into())),
        Value::Object(_) => None,
    };
    let value = value.or_else(|| entry.into_object().map(TakenValue::Object));
    Taken { value: value.expect("an entry holds a string or an object"), deadline, tags }
}
