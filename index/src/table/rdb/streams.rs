//! Streams: entries in listpacks, and groups.
//!
//! ```text
//!   listpack of a node, all ids relative to the node's:
//!     entries, deleted ones, names, each name, 0       and for each entry
//!     flags, milliseconds, number, (names, each name with its) values, how many elements that were
//! ```

use super::packed::{self, Listpack};
use super::values::types;
use super::wire::{EXPANDED_BYTES_MAX, Reader, put_number, put_string};
use crate::table::commands::parse_int;
use crate::table::objects::Stream;
use crate::table::objects::stream::{Counts, Entry, Group, Handed, Id};

const DELETED: i64 = 1;
/// It has the names of the node.
const SAME_NAMES: i64 = 2;
/// How large a node is written.
const NODE_ENTRIES: usize = 100;
const NODE_BYTES: usize = 4096;

fn id(reader: &mut Reader<'_>) -> Option<Id> {
    Some(Id { ms: reader.number()?, seq: reader.number()? })
}

fn put_id(out: &mut Vec<u8>, id: Id) {
    put_number(out, id.ms);
    put_number(out, id.seq);
}

pub fn read(kind: u8, reader: &mut Reader<'_>) -> Option<Stream> {
    let (mut stream, mut room) = (Stream::default(), EXPANDED_BYTES_MAX);
    for _ in 0..reader.number()? {
        let key = reader.string()?;
        let base = Id::from_bytes((*key).try_into().ok()?);
        read_node(&mut stream, base, &reader.string()?, &mut room)?;
    }
    let length = reader.number()?;
    let last = id(reader)?;
    let counts = if kind == types::STREAM {
        Counts { last, deleted: Id::MIN, added: length }
    } else {
        let _first = id(reader)?;
        Counts { last, deleted: id(reader)?, added: reader.number()? }
    };
    if length != stream.entries().len() as u64 || last < stream.counts().last {
        return None;
    }
    stream.set_counts(counts);
    for _ in 0..reader.number()? {
        let group = read_group(kind, reader, &stream)?;
        stream.add_group(group).then_some(())?;
    }
    Some(stream)
}

fn read_node(stream: &mut Stream, base: Id, node: &[u8], room: &mut usize) -> Option<()> {
    let strings = packed::listpack(node)?;
    let mut strings = strings.iter();
    let mut next = || strings.next();
    let number = |text: &[u8]| parse_int(text);
    let count = |text: &[u8]| parse_int(text).and_then(|count| usize::try_from(count).ok());
    let (entries, deleted, names) = (count(next()?)?, count(next()?)?, count(next()?)?);
    let mut node_names = Vec::new();
    for _ in 0..names {
        node_names.push(next()?);
    }
    next().filter(|end| ***end == *b"0")?;
    let mut seen = 0usize;
    let mut fields: Vec<&[u8]> = Vec::new();
    while let Some(flags) = next() {
        let flags = number(flags)?;
        let (ms, seq) = (number(next()?)?, number(next()?)?);
        let id = Id { ms: base.ms.checked_add_signed(ms)?, seq: base.seq.checked_add_signed(seq)? };
        fields.clear();
        let elements = if flags & SAME_NAMES != 0 {
            for name in &node_names {
                fields.extend([&name[..], &next()?[..]]);
            }
            names + 3
        } else {
            let names = count(next()?)?;
            for _ in 0..names {
                fields.extend([&next()?[..], &next()?[..]]);
            }
            names.checked_mul(2)?.checked_add(4)?
        };
        (count(next()?)? == elements && !fields.is_empty()).then_some(())?;
        seen += 1;
        if flags & DELETED == 0 {
            // A few bytes that share the node's names may stand for an entry as large as these.
            *room = room.checked_sub(fields.iter().map(|field| field.len()).sum())?;
            stream.push(id, &fields).then_some(())?;
        }
    }
    (seen == entries.checked_add(deleted)?).then_some(())
}

fn read_group(kind: u8, reader: &mut Reader<'_>, stream: &Stream) -> Option<Group> {
    let name = reader.string()?;
    let last = id(reader)?;
    let read = match kind {
        types::STREAM => None,
        // What is not known is all ones.
        _ => Some(reader.number()?).filter(|read| *read != u64::MAX),
    };
    let read = if kind == types::STREAM && last == stream.counts().last { Some(stream.counts().added) } else { read };
    let mut group = Group::new(&name, last, read);
    let mut pending = Vec::new();
    for _ in 0..reader.number()? {
        pending.push((Id::from_bytes(reader.array()?), reader.eight()?, reader.number()?));
    }
    pending.is_sorted_by(|one, other| one.0 < other.0).then_some(())?;
    for _ in 0..reader.number()? {
        let name = reader.string()?;
        let seen = reader.eight()?;
        let active = if kind == types::STREAM_3 { reader.eight()? } else { seen };
        let (slot, new) = group.find_or_add(&name, seen);
        new.then_some(())?;
        group.edit(slot, |consumer| consumer.active = Some(active).filter(|active| *active != u64::MAX));
        for _ in 0..reader.number()? {
            let id = Id::from_bytes(reader.array()?);
            let place = pending.binary_search_by_key(&id, |(id, ..)| *id).ok()?;
            let (_, time, count) = pending[place];
            group.pending().get(id).is_none().then_some(())?;
            group.hand(Handed { id, consumer: slot, time, count });
        }
    }
    // What is pending is with somebody.
    (group.pending().len() == pending.len()).then_some(group)
}

/// Whether the form before the newest, which knows less of consumers, loses nothing.
pub fn is_plain(stream: &Stream) -> bool {
    stream.groups().all(|group| group.consumers().all(|consumer| consumer.active == Some(consumer.seen)))
}

pub fn write(stream: &Stream, kind: u8, out: &mut Vec<u8>) {
    let mut nodes: Vec<(Id, Vec<u8>)> = Vec::new();
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut bytes = 0;
    for entry in stream.entries().range(Id::MIN, Id::MAX) {
        let size: usize = entry.fields().map(|(name, value)| name.len() + value.len()).sum();
        if entries.len() == NODE_ENTRIES || (!entries.is_empty() && bytes + size > NODE_BYTES) {
            nodes.extend(node(&entries));
            entries.clear();
            bytes = 0;
        }
        bytes += size;
        entries.push(entry);
    }
    nodes.extend(node(&entries));
    put_number(out, nodes.len() as u64);
    for (base, node) in nodes {
        put_string(out, &base.bytes());
        put_string(out, &node);
    }
    let Counts { last, deleted, added } = stream.counts();
    put_number(out, stream.entries().len() as u64);
    put_id(out, last);
    put_id(out, stream.entries().first().map_or(Id::MIN, |entry| entry.id));
    put_id(out, deleted);
    put_number(out, added);
    put_number(out, stream.groups().len() as u64);
    for group in stream.groups() {
        put_string(out, group.name());
        put_id(out, group.last);
        put_number(out, group.read.unwrap_or(u64::MAX));
        put_number(out, group.pending().len() as u64);
        for handed in group.pending().iter() {
            out.extend_from_slice(&handed.id.bytes());
            out.extend_from_slice(&handed.time.to_le_bytes());
            put_number(out, handed.count);
        }
        put_number(out, group.consumers().len() as u64);
        for consumer in group.consumers() {
            put_string(out, consumer.name());
            out.extend_from_slice(&consumer.seen.to_le_bytes());
            if kind == types::STREAM_3 {
                out.extend_from_slice(&consumer.active.unwrap_or(u64::MAX).to_le_bytes());
            }
            put_number(out, consumer.pending().len() as u64);
            consumer.pending().iter().for_each(|id| out.extend_from_slice(&id.bytes()));
        }
    }
}

/// Entries as one node, under the id of the first. None without entries.
fn node(entries: &[Entry<'_>]) -> Option<(Id, Vec<u8>)> {
    let first = entries.first()?;
    let names = |entry: &Entry<'_>| entry.fields().map(|(name, _)| name.to_vec()).collect::<Vec<_>>();
    let node_names = names(first);
    let mut list = Listpack::new();
    list.int(entries.len() as i64);
    list.int(0);
    list.int(node_names.len() as i64);
    node_names.iter().for_each(|name| list.string(name));
    list.int(0);
    for entry in entries {
        let same = entry.fields().map(|(name, _)| name).eq(node_names.iter().map(|name| &name[..]));
        list.int(if same { SAME_NAMES } else { 0 });
        list.int(entry.id.ms.wrapping_sub(first.id.ms) as i64);
        list.int(entry.id.seq.wrapping_sub(first.id.seq) as i64);
        let count = entry.fields().count() as i64;
        if !same {
            list.int(count);
        }
        for (name, value) in entry.fields() {
            if !same {
                list.string(name);
            }
            list.string(value);
        }
        list.int(if same { count + 3 } else { 2 * count + 4 });
    }
    Some((first.id, list.into_bytes()))
}
