//! Typed values, the slow and obvious way: what a few of the calls of Redis do to keys, and what they answer.
//!
//! A map, and values that are what the library has. It shares nothing with the table but the tape that replies stand on,
//! so that whatever both say is likely so.
//!
//! Always: a key whose deadline has passed is not there; nothing here removes it, so the state as of any moment can be
//! asked as of any later one.

use std::collections::{BTreeMap, BTreeSet};

use loci_index::table::script::sha1_hex;
use loci_index::table::tape::Tape;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Typed {
    /// A string.
    Text(Vec<u8>),
    /// A list, which has elements.
    List(Vec<Vec<u8>>),
    /// A hash, which has fields.
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
}

/// A key's value, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The value.
    pub value: Typed,
    /// When it ends, in milliseconds since 1970; zero: never.
    pub deadline: u64,
    /// The position of the call that changed it last.
    pub version: u64,
}

impl Kept {
    /// Whether it is there at a time.
    pub fn is_live(&self, now: u64) -> bool {
        self.deadline == 0 || self.deadline > now
    }
}

/// When a call is carried out.
#[derive(Debug, Clone, Copy)]
pub struct When {
    /// Milliseconds since 1970.
    pub now: u64,
    /// Its position in the log.
    pub version: u64,
}

/// Keys with their values.
#[derive(Debug, Clone, Default)]
pub struct Plain {
    keys: BTreeMap<Vec<u8>, Kept>,
    /// Keys that were changed since [`Plain::take_changed`].
    changed: BTreeSet<Vec<u8>>,
}

/// The scripts that were loaded, by their digests; shared by all databases.
pub type Loaded = BTreeSet<Vec<u8>>;

/// What a script does, told in two languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Removes a key that has this value: how locks are given back.
    CompareAndDelete,
    /// Raises a number.
    Raise,
    /// Adds to a list, and says how long it is.
    Push,
}

impl Script {
    /// All of them.
    pub const ALL: [Script; 3] = [Script::CompareAndDelete, Script::Raise, Script::Push];

    /// In Lua.
    pub fn source(self) -> &'static str {
        match self {
            Script::CompareAndDelete => {
                "if redis.pcall('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
            }
            Script::Raise => {
                "local n = tonumber(redis.pcall('get', KEYS[1])) \
                 if n and n < tonumber(ARGV[1]) then redis.call('set', KEYS[1], ARGV[1]) return 1 end return 0"
            }
            Script::Push => {
                "if redis.call('type', KEYS[1]).ok == 'string' then redis.call('del', KEYS[1]) end \
                 if redis.call('type', KEYS[1]).ok == 'hash' then return -1 end \
                 redis.call('rpush', KEYS[1], ARGV[1]) return redis.call('llen', KEYS[1])"
            }
        }
    }
}

/// A failure, in the words of Redis.
type Failure = &'static str;
const WRONG_TYPE: Failure = "WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_A_NUMBER: Failure = "ERR value is not an integer or out of range";
const OVERFLOW: Failure = "ERR increment or decrement would overflow";
const NO_SCRIPT: Failure = "NOSCRIPT No matching script. Please use EVAL.";

impl Plain {
    /// With these keys.
    pub fn of(keys: BTreeMap<Vec<u8>, Kept>) -> Plain {
        Plain { keys, changed: BTreeSet::new() }
    }

    /// What it holds, expired or not.
    pub fn keys(&self) -> &BTreeMap<Vec<u8>, Kept> {
        &self.keys
    }

    /// The keys that were changed since this was asked last.
    pub fn take_changed(&mut self) -> BTreeSet<Vec<u8>> {
        std::mem::take(&mut self.changed)
    }

    /// What a key holds that has not expired.
    pub fn live(&self, key: &[u8], now: u64) -> Option<&Kept> {
        self.keys.get(key).filter(|kept| kept.is_live(now))
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.changed.insert(key.to_vec());
        }
    }

    fn put(&mut self, key: &[u8], value: Typed, deadline: u64, when: When) {
        if deadline != 0 && deadline <= when.now {
            return self.remove(key);
        }
        self.keys.insert(key.to_vec(), Kept { value, deadline, version: when.version });
        self.changed.insert(key.to_vec());
    }

    /// Changes a value in place; one without elements goes.
    fn change(&mut self, key: &[u8], value: Typed, when: When) {
        let is_empty = match &value {
            Typed::Text(_) => false,
            Typed::List(list) => list.is_empty(),
            Typed::Hash(hash) => hash.is_empty(),
        };
        if is_empty {
            return self.remove(key);
        }
        let deadline = self.live(key, when.now).map_or(0, |kept| kept.deadline);
        self.put(key, value, deadline, when);
    }

    fn text(&self, key: &[u8], now: u64) -> Result<Option<&Vec<u8>>, Failure> {
        match self.live(key, now).map(|kept| &kept.value) {
            None => Ok(None),
            Some(Typed::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn list(&self, key: &[u8], now: u64) -> Result<Vec<Vec<u8>>, Failure> {
        match self.live(key, now).map(|kept| &kept.value) {
            None => Ok(Vec::new()),
            Some(Typed::List(list)) => Ok(list.clone()),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn hash(&self, key: &[u8], now: u64) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Failure> {
        match self.live(key, now).map(|kept| &kept.value) {
            None => Ok(BTreeMap::new()),
            Some(Typed::Hash(hash)) => Ok(hash.clone()),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    /// Carries a call out; the reply, a failure too, is added to the tape. One that is not known here panics.
    pub fn call(&mut self, loaded: &mut Loaded, args: &[&[u8]], when: When, out: &mut Tape) {
        if let Err(failure) = self.carry_out(loaded, args, when, out) {
            out.error(failure);
        }
    }

    fn carry_out(&mut self, loaded: &mut Loaded, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let now = when.now;
        let key = args.get(1).copied().unwrap_or_default();
        match args[0] {
            b"GET" => out.bulk_or_null(self.text(key, now)?.map(Vec::as_slice)),
            b"STRLEN" => out.count(self.text(key, now)?.map_or(0, Vec::len)),
            b"EXISTS" => out.flag(self.live(key, now).is_some()),
            b"TYPE" => out.status(match self.live(key, now).map(|kept| &kept.value) {
                None => "none",
                Some(Typed::Text(_)) => "string",
                Some(Typed::List(_)) => "list",
                Some(Typed::Hash(_)) => "hash",
            }),
            b"PTTL" => out.int(match self.live(key, now).map(|kept| kept.deadline) {
                None => -2,
                Some(0) => -1,
                Some(deadline) => (deadline - now) as i64,
            }),
            b"SET" => self.set(args, when, out)?,
            b"INCR" => {
                let old = self.text(key, now)?.map_or(Ok(0), |text| number(text).ok_or(NOT_A_NUMBER))?;
                let new: i64 = old.checked_add(1).ok_or(OVERFLOW)?;
                self.change(key, Typed::Text(new.to_string().into_bytes()), when);
                out.int(new);
            }
            b"APPEND" => {
                let mut text = self.text(key, now)?.cloned().unwrap_or_default();
                text.extend_from_slice(args[2]);
                out.count(text.len());
                self.change(key, Typed::Text(text), when);
            }
            b"GETDEL" => {
                out.bulk_or_null(self.text(key, now)?.map(Vec::as_slice));
                self.remove(key);
            }
            b"DEL" => {
                out.flag(self.live(key, now).is_some());
                self.remove(key);
            }
            b"PEXPIRE" => match self.live(key, now).cloned() {
                None => out.int(0),
                Some(kept) => {
                    let millis = number(args[2]).ok_or(NOT_A_NUMBER)?;
                    self.put(key, kept.value, now.saturating_add_signed(millis).max(1), when);
                    out.int(1);
                }
            },
            b"PERSIST" => match self.live(key, now).filter(|kept| kept.deadline != 0).cloned() {
                None => out.int(0),
                Some(kept) => {
                    self.put(key, kept.value, 0, when);
                    out.int(1);
                }
            },
            b"LPUSH" | b"RPUSH" => {
                let mut list = self.list(key, now)?;
                for element in &args[2..] {
                    list.insert(if args[0] == b"LPUSH" { 0 } else { list.len() }, element.to_vec());
                }
                out.count(list.len());
                self.change(key, Typed::List(list), when);
            }
            b"LPOP" | b"RPOP" => {
                let mut list = self.list(key, now)?;
                let popped = match args[0] {
                    _ if list.is_empty() => None,
                    b"LPOP" => Some(list.remove(0)),
                    _ => list.pop(),
                };
                out.bulk_or_null(popped.as_deref());
                if popped.is_some() {
                    self.change(key, Typed::List(list), when);
                }
            }
            b"LLEN" => out.count(self.list(key, now)?.len()),
            b"LRANGE" => {
                let list = self.list(key, now)?;
                out.array(list.len());
                list.iter().for_each(|element| out.bulk(element));
            }
            b"HSET" => {
                let mut hash = self.hash(key, now)?;
                let created = hash.insert(args[2].to_vec(), args[3].to_vec()).is_none();
                out.flag(created);
                self.change(key, Typed::Hash(hash), when);
            }
            b"HGET" => {
                let hash = self.hash(key, now)?;
                out.bulk_or_null(hash.get(args[2]).map(Vec::as_slice));
            }
            b"HLEN" => out.count(self.hash(key, now)?.len()),
            b"HDEL" => {
                let mut hash = self.hash(key, now)?;
                let removed = hash.remove(args[2]).is_some();
                out.flag(removed);
                if removed {
                    self.change(key, Typed::Hash(hash), when);
                }
            }
            b"FLUSHDB" => {
                let keys: Vec<Vec<u8>> = self.keys.keys().cloned().collect();
                keys.iter().for_each(|key| self.remove(key));
                out.ok();
            }
            b"EVAL" | b"EVALSHA" => {
                let wanted = |script: &Script| match args[0] {
                    b"EVAL" => script.source().as_bytes() == args[1],
                    _ => sha1_hex(script.source().as_bytes()).as_bytes() == args[1],
                };
                let script = Script::ALL.into_iter().find(wanted).expect("clients send the scripts of this page");
                let digest = sha1_hex(script.source().as_bytes()).into_bytes();
                if args[0] == b"EVAL" {
                    loaded.insert(digest);
                } else if !loaded.contains(&digest) {
                    return Err(NO_SCRIPT);
                }
                out.int(self.script(script, args[3], args[4], when));
            }
            other => panic!("the plain model knows no {}", String::from_utf8_lossy(other)),
        }
        Ok(())
    }

    fn set(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let (key, value) = (args[1], args[2]);
        let (mut deadline, mut get, mut only_new) = (0, false, false);
        let mut words = args[3..].iter();
        while let Some(word) = words.next() {
            match *word {
                b"NX" => only_new = true,
                b"GET" => get = true,
                b"PX" => {
                    let millis = words.next().and_then(|word| number(word)).ok_or(NOT_A_NUMBER)?;
                    deadline = when.now.saturating_add_signed(millis);
                }
                other => panic!("the plain model knows no SET {}", String::from_utf8_lossy(other)),
            }
        }
        let there = self.live(key, when.now).is_some();
        if get {
            out.bulk_or_null(self.text(key, when.now)?.map(Vec::as_slice));
        }
        if only_new && there {
            if !get {
                out.null();
            }
            return Ok(());
        }
        self.put(key, Typed::Text(value.to_vec()), deadline, when);
        if !get {
            out.ok();
        }
        Ok(())
    }

    fn script(&mut self, script: Script, key: &[u8], argument: &[u8], when: When) -> i64 {
        let now = when.now;
        match script {
            Script::CompareAndDelete => {
                let equal = self.text(key, now).is_ok_and(|text| text.is_some_and(|text| text == argument));
                if equal {
                    self.remove(key);
                }
                i64::from(equal)
            }
            Script::Raise => {
                let float = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<f64>().ok();
                let old = self.text(key, now).ok().flatten().and_then(|text| float(text));
                let raises = old.is_some_and(|old| Some(old) < float(argument));
                if raises {
                    self.put(key, Typed::Text(argument.to_vec()), 0, when);
                }
                i64::from(raises)
            }
            Script::Push => {
                if self.text(key, now).is_ok_and(|text| text.is_some()) {
                    self.remove(key);
                }
                let Ok(mut list) = self.list(key, now) else { return -1 };
                list.push(argument.to_vec());
                let len = list.len();
                self.change(key, Typed::List(list), when);
                len as i64
            }
        }
    }
}

/// A whole number, as Redis writes it and in no other way.
fn number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use loci_index::table::execute::{self, Moment};
    use loci_index::table::keyspace::Keyspace;
    use loci_index::table::scripting::Scripts;

    use super::*;
    use crate::chance::Chance;
    use crate::sim::tables;

    /// The table itself and this page say the same of any calls.
    #[test]
    fn the_table_says_the_same() {
        for seed in 0..300 {
            let mut chance = Chance::new(seed);
            let (mut table, mut scripts) = (Keyspace::new(seed), Scripts::default());
            let (mut plain, mut loaded) = (Plain::default(), Loaded::new());
            let mut now = 1_000_000;
            for version in 1..200 {
                now += chance.below(400);
                let words = tables::any_call(&mut chance, "k", 4, &format!("{version}"), true);
                let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                let (mut mine, mut its) = (Tape::new(), Tape::new());
                plain.call(&mut loaded, &args, When { now, version }, &mut mine);
                let moment = Moment { now, version, number: 0 };
                let spec = execute::find(&args).expect("a command");
                if matches!(spec.run, loci_index::table::commands::Run::Script) {
                    scripts.call(&mut table, &args, moment, &mut its);
                } else {
                    execute::write(&mut table, spec, &args, moment, &mut its);
                }
                let words: Vec<_> = args.iter().map(|word| String::from_utf8_lossy(word)).collect();
                assert_eq!(mine, its, "seed {seed}, call {version}: {words:?}");
                for number in 0..4 {
                    let key = format!("k{number}").into_bytes();
                    let mine = plain.live(&key, now).map(|kept| (kept.version, kept.deadline));
                    let its = table.version(&key, now).zip(table.deadline(&key, now));
                    assert_eq!(mine, its, "seed {seed}, call {version}: {words:?}: {number}");
                }
            }
        }
    }
}
