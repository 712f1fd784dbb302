//! Typed values, the slow and obvious way: what a few of the calls of Redis, and of ours, do to keys, and what they answer.
//!
//! A map, and values that are what the library has. It shares nothing with the table but the tape that replies stand on,
//! so that whatever both say is likely so.
//!
//! | module | what |
//! |---|---|
//! | here | keys, deadlines, strings, lists, scripts |
//! | [`hashes`] | hashes, and the deadlines of their fields |
//! | [`sets`] | sets and sorted sets |
//! | [`streams`] | streams and groups of consumers |
//! | [`natives`] | leases, limiters, tags, guards |
//!
//! Always: a key or a field whose deadline has passed is not there; nothing here removes it, so the state as of any moment
//! can be asked as of any later one.

mod hashes;
mod natives;
mod sets;
mod streams;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use loci_index::table::script::sha1_hex;
use loci_index::table::tape::{Item, Items, Tape};

pub use hashes::Field;
pub use natives::Limiter;
pub use streams::{Group, Handed, Id, Stream};

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Typed {
    /// A string.
    Text(Vec<u8>),
    /// A list, which has elements.
    List(Vec<Vec<u8>>),
    /// A hash, which has fields.
    Hash(BTreeMap<Vec<u8>, Field>),
    /// A set, which has members.
    Set(BTreeSet<Vec<u8>>),
    /// A sorted set, which has members, with their scores: only whole ones.
    Sorted(BTreeMap<Vec<u8>, i64>),
    /// A stream.
    Stream(Stream),
    /// Who holds a lease, and under which number.
    Lease(Vec<u8>, u64),
    /// How much was taken lately.
    Limiter(Limiter),
}

impl Typed {
    fn name(&self) -> &'static str {
        match self {
            Typed::Text(_) => "string",
            Typed::List(_) => "list",
            Typed::Hash(_) => "hash",
            Typed::Set(_) => "set",
            Typed::Sorted(_) => "zset",
            Typed::Stream(_) => "stream",
            Typed::Lease(..) => "lease",
            Typed::Limiter(_) => "limiter",
        }
    }

    /// Whether nothing is in it: then its key goes.
    fn is_empty(&self) -> bool {
        match self {
            Typed::List(list) => list.is_empty(),
            Typed::Hash(hash) => hash.is_empty(),
            Typed::Set(set) => set.is_empty(),
            Typed::Sorted(sorted) => sorted.is_empty(),
            Typed::Text(_) | Typed::Stream(_) | Typed::Lease(..) | Typed::Limiter(_) => false,
        }
    }
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
    /// What it depends on.
    pub tags: BTreeSet<Vec<u8>>,
}

impl Kept {
    /// That value, from a call at that position, without deadline and tags.
    pub fn of(value: Typed, version: u64) -> Kept {
        Kept { value, deadline: 0, version, tags: BTreeSet::new() }
    }

    /// Whether it is there at a time.
    pub fn is_live(&self, now: u64) -> bool {
        is_before(now, self.deadline) && self.fields().is_none_or(|mut fields| fields.any(|end| is_before(now, end)))
    }

    /// The same under another key: a lease gets a new number.
    fn moved(mut self, when: When) -> Kept {
        if let Typed::Lease(_, number) = &mut self.value {
            *number = when.version;
        }
        Kept { version: when.version, ..self }
    }

    /// When the fields of a hash end; zero: never.
    pub fn fields(&self) -> Option<impl Iterator<Item = u64>> {
        match &self.value {
            Typed::Hash(hash) => Some(hash.values().map(|field| field.deadline)),
            _ => None,
        }
    }

    /// When it went, if it is not there at a time.
    pub fn went(&self, now: u64) -> u64 {
        match is_before(now, self.deadline) {
            true => self.fields().into_iter().flatten().max().unwrap_or(0),
            false => self.deadline,
        }
    }
}

/// Whether a deadline has not passed; zero never does.
fn is_before(now: u64, deadline: u64) -> bool {
    deadline == 0 || deadline > now
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
    /// Adds to a set, and says how large it is.
    Collect,
}

impl Script {
    /// All of them.
    pub const ALL: [Script; 4] = [Script::CompareAndDelete, Script::Raise, Script::Push, Script::Collect];

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
                "local kind = redis.call('type', KEYS[1]).ok \
                 if kind == 'string' then redis.call('del', KEYS[1]) \
                 elseif kind ~= 'list' and kind ~= 'none' then return -1 end \
                 redis.call('rpush', KEYS[1], ARGV[1]) return redis.call('llen', KEYS[1])"
            }
            Script::Collect => {
                "local added = redis.pcall('sadd', KEYS[1], ARGV[1]) if type(added) == 'table' then return -1 end \
                 return redis.call('scard', KEYS[1])"
            }
        }
    }
}

/// The calls that only look, of those that are known here.
pub const LOOKS: &[&str] = &[
    "EXISTS",
    "GET",
    "HGET",
    "HGETALL",
    "HLEN",
    "HPEXPIRETIME",
    "HPTTL",
    "LEASE.FENCE",
    "LEASE.GET",
    "LLEN",
    "LRANGE",
    "PTTL",
    "SCARD",
    "SISMEMBER",
    "SMEMBERS",
    "STRLEN",
    "TAG.COUNT",
    "TAG.KEYS",
    "TAG.OF",
    "TYPE",
    "VERSION.IF",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREAD",
    "ZCARD",
    "ZCOUNT",
    "ZRANGE",
    "ZRANK",
    "ZSCORE",
];

/// Whether a call only looks.
pub fn is_look<W: AsRef<[u8]>>(words: &[W]) -> bool {
    LOOKS.iter().any(|name| name.as_bytes() == words[0].as_ref())
}

/// A failure, in the words of Redis.
type Failure = Cow<'static, str>;
const WRONG_TYPE: Failure = Cow::Borrowed("WRONGTYPE Operation against a key holding the wrong kind of value");
const NOT_A_NUMBER: Failure = Cow::Borrowed("ERR value is not an integer or out of range");
const OVERFLOW: Failure = Cow::Borrowed("ERR increment or decrement would overflow");
const NO_SCRIPT: Failure = Cow::Borrowed("NOSCRIPT No matching script. Please use EVAL.");
const NO_KEY: Failure = Cow::Borrowed("ERR no such key");

/// A reply whose parts have no order, in order: so that two are the same if they say the same.
pub fn in_order(reply: &[u8]) -> Vec<u8> {
    let mut items = Items::new(reply);
    let size = match items.next() {
        Some(Item::Set(_)) => 1,
        Some(Item::Map(_)) => 2,
        _ => return reply.to_vec(),
    };
    let (head, mut parts) = (reply.len() - items.rest().len(), Vec::new());
    while !items.rest().is_empty() {
        let part: Vec<&[u8]> = (0..size).map_while(|_| items.whole()).collect();
        if part.is_empty() {
            break;
        }
        parts.push(part.concat());
    }
    parts.sort_unstable();
    [&reply[..head], &parts.concat()].concat()
}

/// The place of the key among a call's words; of several, of the first.
pub fn key_place<W: AsRef<[u8]>>(words: &[W]) -> usize {
    match words[0].as_ref() {
        b"EVAL" | b"EVALSHA" => 3,
        b"XGROUP" => 2,
        b"XREAD" | b"XREADGROUP" => {
            words.iter().position(|word| word.as_ref() == b"STREAMS").map_or(1, |streams| streams + 1)
        }
        _ => 1,
    }
}

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

    fn put(&mut self, key: &[u8], kept: Kept, when: When) {
        if kept.deadline != 0 && kept.deadline <= when.now {
            return self.remove(key);
        }
        self.keys.insert(key.to_vec(), kept);
        self.changed.insert(key.to_vec());
    }

    /// Changes a value in place, which keeps its deadline and its tags; one without elements goes.
    fn change(&mut self, key: &[u8], value: Typed, when: When) {
        if value.is_empty() {
            return self.remove(key);
        }
        let kept = match self.live(key, when.now).cloned() {
            Some(kept) => Kept { value, version: when.version, ..kept },
            None => Kept::of(value, when.version),
        };
        self.put(key, kept, when);
    }

    /// Changes a value in place, or makes it, and its deadline.
    fn change_until(&mut self, key: &[u8], value: Typed, deadline: u64, when: When) {
        self.change(key, value, when);
        if let Some(kept) = self.live(key, when.now).cloned() {
            self.put(key, Kept { deadline, ..kept }, when);
        }
    }

    /// A value of one type, if there is a value.
    fn value<T>(&self, key: &[u8], now: u64, pick: fn(&Typed) -> Option<&T>) -> Result<Option<&T>, Failure> {
        let Some(kept) = self.live(key, now) else { return Ok(None) };
        pick(&kept.value).map(Some).ok_or(WRONG_TYPE)
    }

    fn text(&self, key: &[u8], now: u64) -> Result<Option<&Vec<u8>>, Failure> {
        self.value(key, now, |typed| match typed {
            Typed::Text(text) => Some(text),
            _ => None,
        })
    }

    fn list(&self, key: &[u8], now: u64) -> Result<Vec<Vec<u8>>, Failure> {
        let list = self.value(key, now, |typed| match typed {
            Typed::List(list) => Some(list),
            _ => None,
        })?;
        Ok(list.cloned().unwrap_or_default())
    }

    /// Carries a call out; the reply, a failure too, is added to the tape. One that is not known here panics.
    pub fn call(&mut self, loaded: &mut Loaded, args: &[&[u8]], when: When, out: &mut Tape) {
        if let Err(failure) = self.carry_out(loaded, args, when, out) {
            out.error(&failure);
        }
    }

    fn carry_out(&mut self, loaded: &mut Loaded, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let now = when.now;
        let key = args.get(1).copied().unwrap_or_default();
        match args[0] {
            b"GET" => out.bulk_or_null(self.text(key, now)?.map(Vec::as_slice)),
            b"STRLEN" => out.count(self.text(key, now)?.map_or(0, Vec::len)),
            b"EXISTS" => out.flag(self.live(key, now).is_some()),
            b"TYPE" => out.status(self.live(key, now).map_or("none", |kept| kept.value.name())),
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
                    let deadline = now.saturating_add_signed(millis).max(1);
                    self.put(key, Kept { deadline, version: when.version, ..kept }, when);
                    out.int(1);
                }
            },
            b"PERSIST" => match self.live(key, now).filter(|kept| kept.deadline != 0).cloned() {
                None => out.int(0),
                Some(kept) => {
                    self.put(key, Kept { deadline: 0, version: when.version, ..kept }, when);
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
            b"RENAME" => {
                let kept = self.live(key, now).cloned().ok_or(NO_KEY)?;
                if key != args[2] {
                    self.remove(key);
                    self.put(args[2], kept.moved(when), when);
                }
                out.ok();
            }
            b"COPY" => {
                let kept = self.live(key, now).filter(|_| self.live(args[2], now).is_none()).cloned();
                out.flag(kept.is_some());
                if let Some(kept) = kept {
                    self.put(args[2], kept.moved(when), when);
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
            _ => {
                let families =
                    [Plain::hash_call, Plain::set_call, Plain::sorted_call, Plain::stream_call, Plain::native_call];
                for family in families {
                    if family(self, args, when, out)? {
                        return Ok(());
                    }
                }
                panic!("the plain model knows no {}", String::from_utf8_lossy(args[0]));
            }
        }
        Ok(())
    }

    fn set(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let (key, value) = (args[1], args[2]);
        let (mut deadline, mut get, mut only_new, mut tags) = (0, false, false, BTreeSet::new());
        let mut words = args[3..].iter();
        while let Some(word) = words.next() {
            match *word {
                b"NX" => only_new = true,
                b"GET" => get = true,
                b"PX" => {
                    let millis = words.next().and_then(|word| number(word)).ok_or(NOT_A_NUMBER)?;
                    deadline = when.now.saturating_add_signed(millis);
                }
                b"TAGS" => {
                    let count = words.next().and_then(|word| number(word)).ok_or(NOT_A_NUMBER)?;
                    tags = words.by_ref().take(count as usize).map(|tag| tag.to_vec()).collect();
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
        let value = Typed::Text(value.to_vec());
        self.put(key, Kept { value, deadline, version: when.version, tags }, when);
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
                    self.put(key, Kept::of(Typed::Text(argument.to_vec()), when.version), when);
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
            Script::Collect => self.collect(key, argument, when),
        }
    }
}

/// A whole number, as Redis writes it and in no other way.
fn number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
