//! Reading values of every type and form.

use std::borrow::Cow;

use super::wire::Reader;
use super::{packed, streams};
use crate::table::commands::{parse_float, parse_int};
use crate::table::keyspace::TakenValue;
use crate::table::objects::{End, Hash, Kind, List, Set, Sorted};

pub(super) mod types {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const SORTED_TEXT: u8 = 3;
    pub const HASH: u8 = 4;
    pub const SORTED: u8 = 5;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const SORTED_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const SORTED_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
    pub const HASH_TIMED_FIRST: u8 = 22;
    pub const HASH_TIMED_LISTPACK_FIRST: u8 = 23;
    pub const HASH_TIMED: u8 = 24;
    pub const HASH_TIMED_LISTPACK: u8 = 25;
}

/// The elements of a quicklist's node: one as it is, or packed ones.
const PLAIN: u64 = 1;
const PACKED: u64 = 2;

/// Reads the value that a payload holds; fields of hashes that have expired by `now` are left out. None: it is damaged, or of a
/// type that is not known here.
pub fn read(content: &[u8], now: u64) -> Option<TakenValue> {
    let mut reader = Reader::new(content);
    let value = match reader.byte()? {
        types::STRING => TakenValue::String(reader.string()?.into()),
        kind => {
            let object = object(kind, &mut reader, now)?;
            (!object.is_empty()).then_some(TakenValue::Object(object))?
        }
    };
    reader.rest.is_empty().then_some(value)
}

fn object(kind: u8, reader: &mut Reader<'_>, now: u64) -> Option<crate::table::objects::Object> {
    Some(match kind {
        types::LIST | types::LIST_ZIPLIST | types::LIST_QUICKLIST | types::LIST_QUICKLIST_2 => {
            list(kind, reader)?.into_object()
        }
        types::SET | types::SET_INTSET | types::SET_LISTPACK => set(kind, reader)?.into_object(),
        types::SORTED | types::SORTED_TEXT | types::SORTED_ZIPLIST | types::SORTED_LISTPACK => {
            sorted(kind, reader)?.into_object()
        }
        types::HASH | types::HASH_ZIPMAP | types::HASH_ZIPLIST | types::HASH_LISTPACK => {
            hash(kind, reader)?.into_object()
        }
        types::HASH_TIMED_FIRST | types::HASH_TIMED_LISTPACK_FIRST | types::HASH_TIMED | types::HASH_TIMED_LISTPACK => {
            timed_hash(kind, reader, now)?.into_object()
        }
        types::STREAM | types::STREAM_2 | types::STREAM_3 => streams::read(kind, reader)?.into_object(),
        _ => return None,
    })
}

fn list(kind: u8, reader: &mut Reader<'_>) -> Option<List> {
    let mut list = List::default();
    let mut add = |strings: Vec<Cow<'_, [u8]>>| strings.iter().for_each(|string| list.push(End::Right, string));
    match kind {
        types::LIST_ZIPLIST => add(packed::ziplist(&reader.string()?)?),
        types::LIST => {
            for _ in 0..reader.number()? {
                add(vec![reader.string()?]);
            }
        }
        _ => {
            for _ in 0..reader.number()? {
                let container = if kind == types::LIST_QUICKLIST_2 { reader.number()? } else { PACKED };
                let node = reader.string()?;
                match container {
                    PLAIN => add(vec![node]),
                    PACKED if kind == types::LIST_QUICKLIST => add(packed::ziplist(&node)?),
                    PACKED => add(packed::listpack(&node)?),
                    _ => return None,
                }
            }
        }
    }
    Some(list)
}

fn set(kind: u8, reader: &mut Reader<'_>) -> Option<Set> {
    let mut set = Set::default();
    match kind {
        types::SET => {
            for _ in 0..reader.number()? {
                set.add(&reader.string()?).then_some(())?;
            }
        }
        _ => {
            let node = reader.string()?;
            let strings = if kind == types::SET_INTSET { packed::intset(&node) } else { packed::listpack(&node) };
            for member in strings? {
                set.add(&member).then_some(())?;
            }
        }
    }
    Some(set)
}

/// A score as text with its length before it, where three lengths stand for what is no ordinary number.
fn old_score(reader: &mut Reader<'_>) -> Option<f64> {
    match reader.byte()? {
        253 => Some(f64::NAN),
        254 => Some(f64::INFINITY),
        255 => Some(f64::NEG_INFINITY),
        len => parse_float(reader.bytes(usize::from(len))?),
    }
}

fn sorted(kind: u8, reader: &mut Reader<'_>) -> Option<Sorted> {
    let mut sorted = Sorted::default();
    let mut add = |member: &[u8], score: f64| {
        // Minus zero is zero.
        (!score.is_nan() && sorted.insert(member, score + 0.0).is_none()).then_some(())
    };
    match kind {
        types::SORTED | types::SORTED_TEXT => {
            for _ in 0..reader.number()? {
                let member = reader.string()?;
                let score = match kind {
                    types::SORTED => f64::from_le_bytes(reader.array()?),
                    _ => old_score(reader)?,
                };
                add(&member, score)?;
            }
        }
        _ => {
            let node = reader.string()?;
            let strings = if kind == types::SORTED_ZIPLIST { packed::ziplist(&node) } else { packed::listpack(&node) };
            for pair in pairs(&strings?)? {
                add(&pair[0], parse_float(&pair[1])?)?;
            }
        }
    }
    Some(sorted)
}

fn pairs<'s, 'p>(strings: &'s [Cow<'p, [u8]>]) -> Option<std::slice::ChunksExact<'s, Cow<'p, [u8]>>> {
    strings.len().is_multiple_of(2).then(|| strings.chunks_exact(2))
}

fn hash(kind: u8, reader: &mut Reader<'_>) -> Option<Hash> {
    let mut hash = Hash::default();
    match kind {
        types::HASH => {
            for _ in 0..reader.number()? {
                let field = reader.string()?;
                hash.set(&field, &reader.string()?, false).then_some(())?;
            }
        }
        _ => {
            let node = reader.string()?;
            let strings = match kind {
                types::HASH_ZIPMAP => packed::zipmap(&node),
                types::HASH_ZIPLIST => packed::ziplist(&node),
                _ => packed::listpack(&node),
            };
            for pair in pairs(&strings?)? {
                hash.set(&pair[0], &pair[1], false).then_some(())?;
            }
        }
    }
    Some(hash)
}

/// One whose fields have deadlines. The forms of the releases before the first say no earliest one, and count from zero.
fn timed_hash(kind: u8, reader: &mut Reader<'_>, now: u64) -> Option<Hash> {
    let mut hash = Hash::default();
    let mut add = |field: &[u8], value: &[u8], deadline: u64| {
        if deadline != 0 && deadline <= now {
            return Some(());
        }
        hash.set(field, value, false).then_some(())?;
        (deadline == 0 || hash.set_deadline(field, deadline)).then_some(())
    };
    let earliest = match kind {
        types::HASH_TIMED | types::HASH_TIMED_LISTPACK => reader.eight()?,
        _ => 0,
    };
    if matches!(kind, types::HASH_TIMED | types::HASH_TIMED_FIRST) {
        for _ in 0..reader.number()? {
            let after = reader.number()?;
            let deadline = match (kind, after) {
                (_, 0) => 0,
                (types::HASH_TIMED, after) => earliest.checked_add(after - 1)?,
                (_, deadline) => deadline,
            };
            let field = reader.string()?;
            add(&field, &reader.string()?, deadline)?;
        }
    } else {
        let node = reader.string()?;
        let strings = packed::listpack(&node)?;
        if !strings.len().is_multiple_of(3) {
            return None;
        }
        for three in strings.chunks_exact(3) {
            let deadline = u64::try_from(parse_int(&three[2])?).ok()?;
            add(&three[0], &three[1], deadline)?;
        }
    }
    Some(hash)
}
