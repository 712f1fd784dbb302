//! Looks: what a door asks of a keyspace to read, where it is or on another node.
//!
//! ```text
//!   look --here--> a keyspace --> tape
//!     '--as words of a call--> another node --> the same look --> its keyspace --> tape
//! ```
//!
//! Most are commands that only read. The others are what the door must know and no command says; their names begin with a byte that
//! no command's does.

use std::sync::Arc;

use loci_index::table::call::Unpacked;
use loci_index::table::commands::{self, Run, Spec, parse_int, settle_read};
use loci_index::table::execute::{self, Moment};
use loci_index::table::slots::slot;
use loci_index::table::tape::{Item, Items, Tape};
use loci_index::table::{Keyspace, Table, glob, lookups, weight};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub enum Look<'a> {
    /// What a command says that only reads.
    Command(&'static Spec, &'a [&'a [u8]]),
    /// The versions of keys; zero: not there.
    Versions(&'a [&'a [u8]]),
    /// The types of keys; nothing for those that are not there.
    Types(&'a [&'a [u8]]),
    /// The arguments of an XREAD with what `$` means now in its place; nothing: there was none.
    Settled(&'a [&'a [u8]]),
    /// What a key takes in memory, or nothing.
    Bytes(&'a [u8]),
    /// All of a key that can be carried elsewhere, or nothing: version, deadline, the value as DUMP has it, tags.
    Whole(&'a [u8]),
    /// Keys of a slot, so many at most.
    KeysOfSlot(u16, usize),
    /// How many keys there are, and how many of them have a deadline.
    Counts,
}

/// A value with fewer bytes is carried in a moment.
const LIGHT_BYTES: usize = 256 << 10;

const VERSIONS: &[u8] = b"\0versions";
const TYPES: &[u8] = b"\0types";
const SETTLED: &[u8] = b"\0settled";
const BYTES: &[u8] = b"\0bytes";
const WHOLE: &[u8] = b"\0whole";
const KEYS_OF_SLOT: &[u8] = b"\0keysofslot";
const COUNTS: &[u8] = b"\0counts";

impl<'a> Look<'a> {
    /// As a call; `numbers` holds what it has no place for elsewhere.
    pub fn words<'w>(&self, numbers: &'w mut [String; 2]) -> Vec<&'w [u8]>
    where
        'a: 'w,
    {
        let (name, rest): (&[u8], &'a [&'a [u8]]) = match *self {
            Look::Command(_, args) => return args.to_vec(),
            Look::Versions(keys) => (VERSIONS, keys),
            Look::Types(keys) => (TYPES, keys),
            Look::Settled(args) => (SETTLED, args),
            Look::Bytes(key) => return vec![BYTES, key],
            Look::Whole(key) => return vec![WHOLE, key],
            Look::KeysOfSlot(slot, count) => {
                *numbers = [slot.to_string(), count.min(i64::MAX as usize).to_string()];
                return vec![KEYS_OF_SLOT, numbers[0].as_bytes(), numbers[1].as_bytes()];
            }
            Look::Counts => (COUNTS, &[]),
        };
        [name].into_iter().chain(rest.iter().copied()).collect()
    }

    /// From a call. None: it is no look, or no command of this version.
    pub fn of(words: &'a [&'a [u8]]) -> Option<Look<'a>> {
        let (&name, rest) = words.split_first()?;
        if name.first() != Some(&0) {
            let spec = commands::find(name).filter(|spec| spec.takes(words.len()))?;
            return matches!(spec.run, Run::Read(_)).then_some(Look::Command(spec, words));
        }
        Some(match (name, rest) {
            (VERSIONS, keys) => Look::Versions(keys),
            (TYPES, keys) => Look::Types(keys),
            (SETTLED, args) => Look::Settled(args),
            (BYTES, [key]) => Look::Bytes(key),
            (WHOLE, [key]) => Look::Whole(key),
            (KEYS_OF_SLOT, [slot, count]) => {
                Look::KeysOfSlot(parse_int(slot)?.try_into().ok()?, parse_int(count)?.try_into().ok()?)
            }
            (COUNTS, []) => Look::Counts,
            _ => return None,
        })
    }

    /// Whether it is done in a moment.
    fn is_short(&self, table: &Table, now: u64) -> bool {
        match *self {
            Look::Command(spec, _) if spec.name == "keys" => false,
            Look::Command(spec, args) => table.read(|keyspace| !weight::is_heavy(keyspace, spec, args, now)),
            Look::Whole(key) => {
                table.read(|keyspace| keyspace.bytes_of(key, now).is_none_or(|bytes| bytes < LIGHT_BYTES))
            }
            Look::KeysOfSlot(..) => false,
            Look::Versions(keys) | Look::Types(keys) => keys.len() <= AT_ONCE,
            Look::Settled(_) | Look::Bytes(_) | Look::Counts => true,
        }
    }

    /// Looks. What goes through all keys does so in parts, and others have their turn in between.
    fn run_on(&self, table: &Table, moment: Moment, tape: &mut Tape) {
        let (pattern, wanted, count) = match *self {
            Look::Command(spec, [_, pattern]) if spec.name == "keys" => (Some(*pattern), None, usize::MAX),
            Look::KeysOfSlot(slot, count) => (None, Some(slot), count),
            _ => return table.read(|keyspace| self.run(keyspace, moment, tape)),
        };
        let fits = |key: &&[u8]| {
            pattern.is_none_or(|pattern| glob::matches(pattern, key)) && wanted.is_none_or(|wanted| slot(key) == wanted)
        };
        let (mut found, mut bytes): (Vec<Box<[u8]>>, usize) = (Vec::new(), 0);
        for part in 0..Keyspace::PARTS {
            table.read(|keyspace| {
                let keys = keyspace.keys_of_part(part, moment.now).filter(fits).take(count - found.len());
                found.extend(keys.map(Box::<[u8]>::from).inspect(|key| bytes += key.len()));
            });
            if bytes > execute::REPLY_BYTES_MAX {
                return tape.error(execute::ASKED_TOO_MUCH);
            }
        }
        tape.array(found.len());
        found.iter().for_each(|key| tape.bulk(key));
    }

    /// Looks.
    pub fn run(&self, keyspace: &Keyspace, moment: Moment, tape: &mut Tape) {
        let now = moment.now;
        match *self {
            Look::Command(spec, args) => execute::read(keyspace, spec, args, moment, tape),
            Look::Versions(keys) => {
                tape.array(keys.len());
                keys.iter().for_each(|key| tape.int(keyspace.version(key, now).unwrap_or(0) as i64));
            }
            Look::Types(keys) => {
                tape.array(keys.len());
                keys.iter().for_each(|key| tape.bulk_or_null(keyspace.type_of(key, now).map(str::as_bytes)));
            }
            Look::Settled(args) => match settle_read(keyspace, args, now) {
                None => tape.null(),
                Some(settled) => {
                    tape.array(settled.len());
                    settled.iter().for_each(|arg| tape.bulk(arg));
                }
            },
            Look::Bytes(key) => match keyspace.bytes_of(key, now) {
                Some(bytes) => tape.count(bytes),
                None => tape.null(),
            },
            Look::Whole(key) => whole(keyspace, key, moment, tape),
            Look::KeysOfSlot(wanted, count) => {
                let parts = (0..Keyspace::PARTS).flat_map(|part| keyspace.keys_of_part(part, now));
                let keys: Vec<&[u8]> = parts.filter(|key| slot(key) == wanted).take(count).collect();
                tape.array(keys.len());
                keys.iter().for_each(|key| tape.bulk(key));
            }
            Look::Counts => {
                tape.array(2);
                tape.count(keyspace.len());
                tape.count(keyspace.timed());
            }
        }
    }
}

fn whole(keyspace: &Keyspace, key: &[u8], moment: Moment, tape: &mut Tape) {
    let found = keyspace.version(key, moment.now).zip(keyspace.deadline(key, moment.now));
    let (Some((version, deadline)), Some(dump)) = (found, commands::find(b"dump")) else { return tape.null() };
    let tags = keyspace.tags_of(key, moment.now);
    tape.array(3 + tags.len());
    tape.int(version as i64);
    tape.int(deadline as i64);
    // The value, or why it cannot be had.
    execute::read(keyspace, dump, &[b"dump", key], moment, tape);
    tags.iter().for_each(|tag| tape.bulk(tag));
}

/// All of a key that can be carried elsewhere.
pub struct Whole<'t> {
    /// Its version.
    pub version: u64,
    /// When it expires, in milliseconds since 1970; zero: never.
    pub deadline: i64,
    /// As DUMP has it; or why it cannot be had.
    pub value: Result<&'t [u8], &'t [u8]>,
    /// Its tags.
    pub tags: Vec<&'t [u8]>,
}

/// What [`Look::Whole`] found, if anything. None: that does not stand there.
pub fn whole_of<'t>(items: &mut Items<'t>) -> Option<Option<Whole<'t>>> {
    let count = match items.next()? {
        Item::Null => return Some(None),
        Item::Array(count) => count.checked_sub(3)?,
        _ => return None,
    };
    let (Item::Int(version), Item::Int(deadline)) = (items.next()?, items.next()?) else { return None };
    let value = match items.next()? {
        Item::Bulk(value) => Ok(value),
        Item::Error(error) => Err(error),
        _ => return None,
    };
    let tags = (0..count).map(|_| bulk(items)?).collect::<Option<_>>()?;
    Some(Some(Whole { version: version as u64, deadline, value, tags }))
}

/// What [`Look::Versions`] found. None: that does not stand there.
pub fn versions_of(items: &mut Items<'_>) -> Option<Vec<u64>> {
    let Item::Array(count) = items.next()? else { return None };
    let version = |item| match item {
        Item::Int(version) => Some(version as u64),
        _ => None,
    };
    (0..count).map(|_| version(items.next()?)).collect()
}

/// An array of bytes, with nothing in some of their places: what [`Look::Types`], [`Look::Settled`], [`Look::KeysOfSlot`] and KEYS
/// find. None: that does not stand there.
pub fn bulks_of<'t>(items: &mut Items<'t>) -> Option<Vec<Option<&'t [u8]>>> {
    let Item::Array(count) = items.next()? else { return None };
    (0..count).map(|_| bulk(items)).collect()
}

fn bulk<'t>(items: &mut Items<'t>) -> Option<Option<&'t [u8]>> {
    match items.next()? {
        Item::Bulk(bytes) => Some(Some(bytes)),
        Item::Null => Some(None),
        _ => None,
    }
}

/// Packed calls, each of which names one of the tables; none: there is nothing in it.
pub struct Asked {
    /// By their places.
    pub tables: Vec<Option<Arc<Table>>>,
    /// Packed.
    pub calls: bytes::Bytes,
    /// When it is read.
    pub moment: Moment,
    /// What all replies may take; whatever the first takes.
    pub bytes_max: usize,
}

/// So many calls are done at once, in a moment.
const AT_ONCE: usize = 64;

impl Asked {
    /// Whether all of it is done in a moment.
    pub fn is_short(&self) -> bool {
        let (mut unpacked, mut words, mut count) = (Unpacked::new(&self.calls), Vec::new(), 0);
        while let Some(place) = unpacked.next_into(&mut words) {
            count += 1;
            let Some(look) = Look::of(&words) else { continue };
            let table = self.tables.get(usize::from(place)).and_then(Option::as_ref);
            if count > AT_ONCE || table.is_some_and(|table| !look.is_short(table, self.moment.now)) {
                return false;
            }
        }
        true
    }

    /// The replies, one after another, and how many there are: for the others there was no room, or the next is not known here.
    pub fn answer(&self) -> (Tape, u32) {
        let empty = Table::new(0);
        let (mut unpacked, mut words, mut tape, mut answered) =
            (Unpacked::new(&self.calls), Vec::new(), Tape::new(), 0);
        while let Some(place) = unpacked.next_into(&mut words) {
            let (Some(look), Some(table)) = (Look::of(&words), self.tables.get(usize::from(place))) else { break };
            let moment = Moment { number: self.moment.number.wrapping_add(answered), ..self.moment };
            let before = tape.len();
            match table {
                None => look.run_on(&empty, moment, &mut tape),
                Some(table) => {
                    lookups::take();
                    look.run_on(table, moment, &mut tape);
                    table.looked(lookups::take());
                }
            }
            if tape.len() > self.bytes_max {
                tape.truncate(before);
                if answered > 0 {
                    break;
                }
                tape.error(execute::ASKED_TOO_MUCH);
            }
            answered += 1;
        }
        (tape, answered)
    }
}

/// Packed calls without the first so many.
pub fn without(calls: &bytes::Bytes, count: u32) -> bytes::Bytes {
    let (mut unpacked, mut words) = (Unpacked::new(calls), Vec::new());
    for _ in 0..count {
        if unpacked.next_into(&mut words).is_none() {
            break;
        }
    }
    calls.slice(calls.len() - unpacked.rest().len()..)
}

#[cfg(test)]
mod tests {
    use loci_index::command::{Command, Entry, Envelope, Execution, Origin, Outcome, Schema};
    use loci_index::directory::RamDirectory;
    use loci_index::store::{Store, StoreOptions};
    use loci_index::table::call::Packed;

    use super::*;

    /// Of a store in which calls were carried out.
    fn table() -> Arc<Table> {
        let mut store = Store::create(Arc::new(RamDirectory::new()), StoreOptions::default(), [1; 32], 0).unwrap();
        let (namespace, name) = ("n".to_owned(), "c".to_owned());
        let make = Command::CreateCollection { namespace: namespace.clone(), name, schema: Schema::default() };
        let mut index = 0;
        let mut apply = |command| {
            index += 1;
            let commands = vec![Envelope { origin: Origin::default(), command }];
            store.apply(index, &Entry { clock: 100, commands }.encode()).expect("an entry").remove(0)
        };
        apply(Command::CreateNamespace { name: namespace });
        let Outcome::Created { collection } = apply(make) else { panic!("it is made") };
        let mut calls = Packed::new();
        for line in [
            "SET {a}1 one",
            "SET {a}2 two",
            "PEXPIREAT {a}2 5000",
            "TAG.SET {a}2 red blue",
            "RPUSH list x y",
            "XADD stream 7-1 f v",
            "SET gone x",
            "PEXPIREAT gone 500",
        ] {
            calls.push(0, line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter());
        }
        let calls = calls.into_bytes();
        let execution = Execution { collections: vec![collection], calls, conditions: Vec::new(), atomic: false };
        assert!(matches!(apply(Command::Execute(Box::new(execution))), Outcome::Executed(Some(_))));
        store.view().collection("n", "c").and_then(|found| found.table().cloned()).expect("there are typed values")
    }

    const MOMENT: Moment = Moment { now: 1_000, version: 9, number: 0 };

    fn looks<'a>(get: &'a [&'a [u8]]) -> Vec<Look<'a>> {
        let of = |name: &[u8]| commands::find(name).expect("a command");
        vec![
            Look::Command(of(b"mget"), get),
            Look::Command(of(b"dbsize"), &[b"dbsize"]),
            Look::Versions(&[b"{a}1", b"none", b"gone"]),
            Look::Types(&[b"{a}1", b"none", b"list", b"stream", b"gone"]),
            Look::Settled(&[b"xread", b"block", b"0", b"streams", b"stream", b"none", b"$", b"$"]),
            Look::Settled(&[b"xread", b"streams", b"stream", b"5"]),
            Look::Bytes(b"{a}1"),
            Look::Bytes(b"none"),
            Look::Whole(b"{a}2"),
            Look::Whole(b"gone"),
            Look::KeysOfSlot(slot(b"{a}1"), 1),
            Look::KeysOfSlot(slot(b"{a}1"), 9),
            Look::Counts,
        ]
    }

    #[test]
    fn a_look_finds_elsewhere_what_it_finds_here() {
        let table = table();
        let get: [&[u8]; 3] = [b"mget", b"{a}1", b"gone"];
        let (mut here, mut packed) = (Tape::new(), Packed::new());
        for look in looks(&get) {
            table.read(|keyspace| look.run(keyspace, MOMENT, &mut here));
            packed.push(0, look.words(&mut Default::default()).into_iter());
        }
        let calls: bytes::Bytes = packed.into_bytes().into();
        let count = looks(&get).len() as u32;
        let asked = |calls: bytes::Bytes, bytes_max| {
            let tables = vec![Some(table.clone()), None];
            let (tape, answered) = Asked { tables, calls, moment: MOMENT, bytes_max }.answer();
            (tape.into_bytes(), answered)
        };
        let here = here.into_bytes();
        assert_eq!(asked(calls.clone(), usize::MAX), (here.clone(), count));
        // In as many pieces as there is room for.
        for bytes_max in [here.len(), 100, 80] {
            let (mut rest, mut all, mut answered) = (calls.clone(), Vec::new(), 0);
            while answered < count {
                let (tape, more) = asked(rest.clone(), bytes_max);
                assert!(more > 0 && tape.len() <= bytes_max, "{more} replies of {} bytes", tape.len());
                all.extend(tape);
                answered += more;
                rest = without(&rest, more);
            }
            assert_eq!((all == here, answered, rest.len()), (true, count, 0), "{bytes_max} bytes at a time");
        }
        let (tape, answered) = asked(calls.clone(), 3);
        assert_eq!(answered, 1);
        assert!(matches!(Items::new(&tape).next(), Some(Item::Error(_))), "one that is too large by itself");
        // What is damaged on its way is answered as far as it is known.
        for len in 0..calls.len() {
            assert!(asked(calls.slice(..len), usize::MAX).1 < count);
        }
    }

    #[test]
    fn what_was_found_is_read_as_it_was_written() {
        let table = table();
        let find = |look: Look<'_>| {
            let mut tape = Tape::new();
            table.read(|keyspace| look.run(keyspace, MOMENT, &mut tape));
            tape
        };
        let tape = find(Look::Versions(&[b"{a}1", b"none", b"gone"]));
        let versions = versions_of(&mut tape.items()).expect("versions");
        assert!(versions[0] > 0 && versions[1..] == [0, 0], "{versions:?}");
        let tape = find(Look::Types(&[b"{a}1", b"none", b"stream"]));
        assert_eq!(bulks_of(&mut tape.items()), Some(vec![Some(&b"string"[..]), None, Some(b"stream")]));
        let tape = find(Look::Settled(&[b"xread", b"streams", b"stream", b"$"]));
        let settled: [Option<&[u8]>; 4] = [Some(b"xread"), Some(b"streams"), Some(b"stream"), Some(b"7-1")];
        assert_eq!(bulks_of(&mut tape.items()), Some(settled.to_vec()));
        let tape = find(Look::Whole(b"{a}2"));
        let whole = whole_of(&mut tape.items()).flatten().expect("it is there");
        assert_eq!((whole.deadline, whole.tags.len(), whole.value.is_ok()), (5_000, 2, true));
        assert!(matches!(whole_of(&mut find(Look::Whole(b"gone")).items()), Some(None)));
        for len in 0..tape.len() {
            assert!(whole_of(&mut Items::new(&tape.bytes()[..len])).is_none(), "cut at {len}");
        }
        assert_eq!(bulks_of(&mut find(Look::Counts).items()), None, "numbers");
    }

    #[test]
    fn what_is_no_look_is_refused() {
        for words in [
            &[&b"set"[..], b"k", b"v"][..],
            &[b"get"],
            &[b"nothing"],
            &[b"\0nothing"],
            &[b"\0bytes"],
            &[b"\0keysofslot", b"x", b"1"],
            &[b"\0keysofslot", b"1", b"-1"],
            &[b"eval", b"return 1", b"0"],
            &[],
        ] {
            assert!(Look::of(words).is_none(), "{words:?}");
        }
    }
}
