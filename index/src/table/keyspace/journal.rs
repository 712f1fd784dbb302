//! The journal: what a script's changes find, so that they can be taken back.
//!
//! ```text
//!   touch, the first of a key --> its entry: a copy | large: the object itself keeps the steps back
//!   an object that keeps steps leaves its entry --> a copy of what it was
//! ```

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::tagged::TagNames;
use super::{Keyspace, copy, stripe_of};
use crate::table::entry::{Entry, Times};
use crate::table::events::Mark;

/// What a script's changes found.
#[derive(Default)]
pub(super) struct Journal {
    /// In the order of the first change, with the tags that were there.
    before: Vec<(Box<[u8]>, Before, TagNames)>,
    /// Their places by key.
    seen: HashTable<usize>,
    events: Mark,
}

/// What was at a key.
enum Before {
    /// Nothing, or this.
    Entry(Option<Entry>),
    /// What is there now, once its object has gone back all its steps.
    Steps { version: u64, times: Times, heat: u8 },
}

impl Journal {
    fn place(&self, hash: u64, key: &[u8]) -> Option<usize> {
        self.seen.find(hash, |&place| *self.before[place].0 == *key).copied()
    }
}

impl Keyspace {
    /// Begins to keep what changes find, so that they can be taken back.
    pub fn begin_journal(&mut self) {
        self.journal = Some(Journal { events: self.events.mark(), ..Journal::default() });
    }

    /// What was changed since stays.
    pub fn keep_changes(&mut self) {
        let Some(journal) = self.journal.take() else { return };
        for (key, before, _) in journal.before {
            if let Before::Steps { .. } = before {
                let hash = self.hash(&key);
                let entry = self.stripes[stripe_of(hash)].find_mut(hash, |entry| *entry.key() == *key);
                if let Some(object) = entry.and_then(Entry::object_mut) {
                    object.end_steps();
                }
            }
        }
    }

    /// Everything is as it was when the journal was begun.
    pub fn take_back(&mut self) {
        let Some(journal) = self.journal.take() else { return };
        for (key, before, tags) in journal.before {
            let hash = self.hash(&key);
            match before {
                Before::Entry(before) => {
                    drop(self.take_entry(hash, &key));
                    let Some(mut entry) = before else { continue };
                    // Its note may have come up meanwhile; one too many does no harm.
                    let times = self.times(hash, entry.times().deadline, 0);
                    entry.set_times(times);
                    self.add_entry(hash, &key, entry);
                    self.put_tags(&key, &tags);
                }
                Before::Steps { version, times, heat } => {
                    self.touch(hash, &key);
                    self.forget(hash, &key);
                    let times = self.times(hash, times.deadline, 0);
                    let entry = self.stripes[stripe_of(hash)].find_mut(hash, |entry| *entry.key() == *key);
                    let entry = entry.expect("it keeps steps for as long as it is there");
                    entry.set_times(times);
                    entry.set_version(version);
                    entry.set_heat(heat);
                    if let Some(object) = entry.object_mut() {
                        object.step_back();
                    }
                    self.account(hash, &key);
                    self.note_parts(hash, &key);
                    self.untag(&key);
                    self.put_tags(&key, &tags);
                }
            }
        }
        self.events.truncate(journal.events);
    }

    /// Before a key changes: writes down what is there, if nobody has.
    pub(super) fn note_before(&mut self, hash: u64, key: &[u8]) {
        if self.journal.as_ref().is_none_or(|journal| journal.place(hash, key).is_some()) {
            return;
        }
        let tags = self.tag_names(key);
        let Some(journal) = &mut self.journal else { return };
        let entry = self.stripes[stripe_of(hash)].find_mut(hash, |entry| entry.key() == key);
        let before = match entry {
            None => Before::Entry(None),
            Some(entry) => match entry.object_mut().is_some_and(|object| object.begin_steps()) {
                true => Before::Steps { version: entry.version(), times: entry.times(), heat: entry.heat() },
                false => Before::Entry(Some(copy(entry))),
            },
        };
        let (place, seed) = (journal.before.len(), self.seed);
        journal.before.push((key.into(), before, tags));
        let before = &journal.before;
        journal.seen.insert_unique(hash, place, |&place| xxh3_64_with_seed(&before[place].0, seed));
    }

    /// Before what is at a key goes as a whole: it can go back no steps elsewhere.
    pub(super) fn note_going(&mut self, hash: u64, key: &[u8]) {
        let Some(journal) = &mut self.journal else { return };
        let Some(place) = journal.place(hash, key) else { return };
        let Before::Steps { version, times, heat } = journal.before[place].1 else { return };
        let entry = self.stripes[stripe_of(hash)].find_mut(hash, |entry| entry.key() == key);
        if let Some(object) = entry.and_then(Entry::object_mut) {
            let was = object.before_steps();
            journal.before[place].1 = Before::Entry(Some(Entry::object(key, was, version, times, heat)));
        }
    }

    /// Whether the object of a key keeps its steps.
    #[cfg(test)]
    fn keeps_steps(&self, key: &[u8]) -> bool {
        let Some(journal) = &self.journal else { return false };
        let is = |place: usize| matches!(journal.before[place].1, Before::Steps { .. });
        journal.place(self.hash(key), key).is_some_and(is)
    }
}

#[cfg(test)]
mod tests {
    use crate::table::call::Chance;
    use crate::table::execute::tests::Trial;

    /// Large collections, small ones, strings.
    fn filled() -> Trial {
        let mut trial = Trial::new();
        for number in 0..600 {
            trial.line(&format!("ZADD z {} m{number}", number % 50));
            trial.line(&format!("HSET h f{number} v{number}"));
            trial.line(&format!("SADD s m{number}"));
            trial.line(&format!("RPUSH l element:{number:0>30}"));
        }
        trial.line("ZADD few 1 a 2 b");
        trial.line("SETRANGE long 5000 end");
        trial.line("HPEXPIRE h 5000 FIELDS 2 f1 f2");
        trial.line("PEXPIRE s 900000");
        trial.line("SET text word TAGS 2 t1 t2");
        trial.line("TAG.SET h t1 t3");
        trial
    }

    fn line(chance: &mut Chance) -> String {
        let keys = ["z", "h", "s", "l", "few", "text", "long", "new"];
        let (key, other) = (keys[chance.below(keys.len())], keys[chance.below(keys.len())]);
        let number = chance.below(900);
        match chance.below(39) {
            36 => format!("SETRANGE long {} some{number}", number * 7),
            37 => format!("APPEND long more{number}"),
            38 => format!("SETBIT long {} 1", number * 50),
            30 => format!("LPUSH l left{number}"),
            31 => format!("RPUSH l right{number} more"),
            32 => format!("LPOP l {}", 1 + number % 7),
            33 => format!("LTRIM l {} -{}", number % 9, 1 + number % 5),
            34 => format!("LSET l {} set{number}", number % 300),
            35 if number < 300 => format!("LREM l 1 element:{number:0>30}"),
            35 => format!("LINSERT l BEFORE element:{:0>30} put{number}", number % 600),
            0..4 => format!("ZADD z {} m{number}", chance.below(60)),
            4..6 => format!("ZREM z m{number}"),
            6 => format!("ZREMRANGEBYRANK z {} {}", number % 100, number % 100 + 5),
            7 => format!("ZINCRBY z 3 m{number}"),
            8..11 => format!("HSET h f{number} w{number}"),
            11..13 => format!("HDEL h f{number}"),
            13 => format!("HPEXPIRE h {} FIELDS 1 f{number}", 1 + chance.below(3_000)),
            14 => format!("HPERSIST h FIELDS 1 f{}", number % 5),
            15..18 => format!("SADD s m{number}"),
            18..20 => format!("SREM s m{number}"),
            20 => "SPOP s 3".into(),
            21 => format!("PEXPIRE {key} {}", 1_000 + number),
            22 => format!("PERSIST {key}"),
            23 => format!("COPY {key} {other} REPLACE"),
            24 => format!("RENAME {key} {other}"),
            25 => format!("SET {key} word"),
            26 => format!("DEL {key}"),
            27 if number < 300 => format!("TAG.SET {key} t{} t{}", number % 5, number % 3),
            27 if number < 400 => format!("TAG.DROP t{}", number % 5),
            27 => format!("SUNIONSTORE {key} s"),
            28 => format!("ZADD {key} 1 m{number}"),
            _ if number < 20 => "FLUSHDB".into(),
            _ => "ZPOPMIN z 2".into(),
        }
    }

    #[test]
    fn what_a_script_changed_stays_or_is_taken_back_as_a_whole() {
        for seed in 0..40 {
            let mut chance = Chance::new(seed);
            let (mut trial, mut twin) = (filled(), filled());
            for _ in 0..3 {
                let (sum, len, clock) = (trial.keyspace.sum(), trial.keyspace.len(), trial.now);
                trial.keyspace.begin_journal();
                let lines: Vec<String> = (0..chance.below(25)).map(|_| line(&mut chance)).collect();
                for line in &lines {
                    trial.line(line);
                }
                if chance.below(2) == 0 {
                    trial.keyspace.take_back();
                    assert_eq!((trial.keyspace.sum(), trial.keyspace.len()), (sum, len), "seed {seed}: {lines:?}");
                    assert_eq!(trial.keyspace.sum_from_entries(), sum, "seed {seed}: {lines:?}");
                    // Where chance finds what differs from here on.
                    twin = filled();
                    trial = filled();
                } else {
                    trial.keyspace.keep_changes();
                    lines.iter().for_each(|line| drop(twin.line(line)));
                    assert_eq!(trial.keyspace.sum(), twin.keyspace.sum(), "seed {seed}: {lines:?}");
                    assert_eq!(trial.keyspace.memory_bytes(), twin.keyspace.memory_bytes(), "seed {seed}: {lines:?}");
                }
                (trial.now, twin.now) = (clock + 1_500, clock + 1_500);
            }
        }
    }

    #[test]
    fn a_large_object_is_not_copied_until_it_goes() {
        let mut trial = filled();
        let sum = trial.keyspace.sum();
        trial.keyspace.begin_journal();
        for (line, key) in [
            ("ZADD z 7 m7", "z"),
            ("HSET h f7 new", "h"),
            ("SREM s m7", "s"),
            ("RPUSH l x", "l"),
            ("SETBIT long 9 1", "long"),
        ] {
            trial.line(line);
            assert!(trial.keyspace.keeps_steps(key.as_bytes()), "{line}");
        }
        trial.line("ZADD few 3 c");
        assert!(!trial.keyspace.keeps_steps(b"few"));
        trial.line("RENAME z y");
        assert!(!trial.keyspace.keeps_steps(b"z"));
        trial.line("ZREM y m9");
        trial.keyspace.take_back();
        assert_eq!(trial.keyspace.sum(), sum);
        assert_eq!(trial.line("ZSCORE z m9"), "(double) 9");
        assert_eq!(trial.line("EXISTS y"), "(integer) 0");
    }
}
