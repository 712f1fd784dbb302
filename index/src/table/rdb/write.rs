//! Writing values, in the plain forms.

use super::streams;
use super::values::types;
use super::wire::{put_number, put_string};
use crate::table::keyspace::TakenValue;
use crate::table::objects::Object;

/// Versions, by what they can hold.
const PLAIN: u16 = 9;
const STREAMS_2: u16 = 10;
const STREAMS_3: u16 = 11;
const TIMED_HASHES: u16 = 12;

/// Writes a value, its type first, and says which version can hold it. None: Redis has no such type.
pub fn write(value: &TakenValue, out: &mut Vec<u8>) -> Option<u16> {
    let object = match value {
        TakenValue::String(string) => {
            out.push(types::STRING);
            put_string(out, string);
            return Some(PLAIN);
        }
        TakenValue::Object(object) => object,
    };
    match object {
        Object::Text(text) => {
            out.push(types::STRING);
            put_string(out, text.bytes());
        }
        Object::List(list) => {
            out.push(types::LIST);
            put_number(out, list.len() as u64);
            list.iter_from(0).for_each(|element| put_string(out, element));
        }
        Object::Set(set) => {
            out.push(types::SET);
            put_number(out, set.len() as u64);
            set.iter().for_each(|member| put_string(out, &member));
        }
        Object::Sorted(sorted) => {
            out.push(types::SORTED);
            put_number(out, sorted.len() as u64);
            for (member, score) in sorted.iter(0..sorted.len()) {
                put_string(out, member);
                out.extend_from_slice(&score.to_le_bytes());
            }
        }
        Object::Hash(hash) => {
            let earliest =
                hash.with_deadlines().filter(|(.., deadline)| *deadline != 0).map(|(.., deadline)| deadline).min();
            let Some(earliest) = earliest else {
                out.push(types::HASH);
                put_number(out, hash.with_deadlines().count() as u64);
                for (field, value, _) in hash.with_deadlines() {
                    put_string(out, field);
                    put_string(out, value);
                }
                return Some(PLAIN);
            };
            out.push(types::HASH_TIMED);
            out.extend_from_slice(&earliest.to_le_bytes());
            put_number(out, hash.with_deadlines().count() as u64);
            for (field, value, deadline) in hash.with_deadlines() {
                put_number(out, if deadline == 0 { 0 } else { deadline - earliest + 1 });
                put_string(out, field);
                put_string(out, value);
            }
            return Some(TIMED_HASHES);
        }
        Object::Stream(stream) => {
            let (kind, version) =
                if streams::is_plain(stream) { (types::STREAM_2, STREAMS_2) } else { (types::STREAM_3, STREAMS_3) };
            out.push(kind);
            streams::write(stream, kind, out);
            return Some(version);
        }
        Object::Limiter(_) | Object::Lease(_) => return None,
    }
    Some(PLAIN)
}
