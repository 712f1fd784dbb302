//! What is known of a stream: `XINFO`.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::stream_groups::{no_group_of, reply_help, subcommand, subcommand_syntax};
use super::streams::{read, reply_entries, reply_entry, reply_id};
use super::{Done, Keys, Spec, int, is};
use crate::table::objects::Stream;
use crate::table::objects::stream::{Consumer, Group, Id};

pub(super) const SPECS: &[Spec] = &[read("xinfo", -2, Keys::Range(2, 2, 1), 0, xinfo)];

const HELP: &[&str] = &[
    "CONSUMERS <key> <groupname>",
    "    Show consumers of <groupname>.",
    "GROUPS <key>",
    "    Show the stream consumer groups.",
    "STREAM <key> [FULL [COUNT <count>]",
    "    Show information about the stream.",
];

const ARITIES: &[(&str, i32)] = &[("stream", -3), ("groups", 3), ("consumers", 4), ("help", 2)];

fn xinfo(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let what = subcommand(call, "xinfo", ARITIES)?;
    if what == "help" {
        reply_help(call, "XINFO", HELP);
        return Ok(());
    }
    let key = call.args[2];
    let stream = keyspace.object::<Stream>(key, call.now)?.ok_or("ERR no such key")?;
    match what {
        "consumers" => {
            let name = call.args[3];
            let group = stream.group(name).ok_or_else(|| no_group_of(key, name))?;
            call.out.array(group.consumers().len());
            group.consumers().for_each(|consumer| reply_consumer(call, consumer));
        }
        "groups" => {
            call.out.array(stream.groups().len());
            stream.groups().for_each(|group| reply_group(call, stream, group));
        }
        _ => return reply_stream(call, stream),
    }
    Ok(())
}

fn label(call: &mut Call<'_>, name: &str) {
    call.out.bulk(name.as_bytes());
}

fn labelled(call: &mut Call<'_>, name: &str, number: i64) {
    label(call, name);
    call.out.int(number);
}

fn labelled_id(call: &mut Call<'_>, name: &str, id: Id) {
    label(call, name);
    reply_id(call, id);
}

fn labelled_if_known(call: &mut Call<'_>, name: &str, number: Option<i64>) {
    label(call, name);
    match number {
        Some(number) => call.out.int(number),
        None => call.out.null(),
    }
}

fn reply_consumer(call: &mut Call<'_>, consumer: &Consumer) {
    let since = |time: u64| (call.now as i64).saturating_sub(time as i64);
    let (idle, inactive) = (since(consumer.seen).max(0), consumer.active.map_or(-1, since));
    call.out.map(4);
    label(call, "name");
    call.out.bulk(consumer.name());
    labelled(call, "pending", consumer.pending().len() as i64);
    labelled(call, "idle", idle);
    labelled(call, "inactive", inactive);
}

fn reply_group(call: &mut Call<'_>, stream: &Stream, group: &Group) {
    call.out.map(6);
    label(call, "name");
    call.out.bulk(group.name());
    labelled(call, "consumers", group.consumers().len() as i64);
    labelled(call, "pending", group.pending().len() as i64);
    labelled_id(call, "last-delivered-id", group.last);
    labelled_if_known(call, "entries-read", group.read.map(|read| read as i64));
    labelled_if_known(call, "lag", stream.view().lag(group));
}

fn reply_stream(call: &mut Call<'_>, stream: &Stream) -> Done {
    let options = &call.args[3..];
    let full = match options {
        [] => None,
        [word] if is(word, "full") => Some(10),
        [word, count, given] if is(word, "full") && is(count, "count") => match int(given)? {
            count if count < 0 => Some(10),
            count => Some(count as usize),
        },
        _ => return Err(subcommand_syntax(call, "XINFO")),
    };
    let (entries, counts) = (stream.entries(), stream.counts());
    call.out.map(if full.is_some() { 9 } else { 10 });
    labelled(call, "length", entries.len() as i64);
    labelled(call, "radix-tree-keys", entries.blocks() as i64);
    labelled(call, "radix-tree-nodes", entries.blocks() as i64 + 1);
    labelled_id(call, "last-generated-id", counts.last);
    labelled_id(call, "max-deleted-entry-id", counts.deleted);
    labelled(call, "entries-added", counts.added as i64);
    labelled_id(call, "recorded-first-entry-id", entries.first().map_or(Id::MIN, |entry| entry.id));
    let Some(count) = full else {
        labelled(call, "groups", stream.groups().len() as i64);
        for (name, entry) in [("first-entry", entries.first()), ("last-entry", entries.last())] {
            label(call, name);
            match entry {
                Some(entry) => reply_entry(call, &entry),
                None => call.out.null(),
            }
        }
        return Ok(());
    };
    label(call, "entries");
    reply_entries(call, entries.range(Id::MIN, Id::MAX), count);
    label(call, "groups");
    call.out.array(stream.groups().len());
    for group in stream.groups() {
        reply_whole_group(call, stream, group, if count == 0 { usize::MAX } else { count });
    }
    Ok(())
}

fn reply_whole_group(call: &mut Call<'_>, stream: &Stream, group: &Group, count: usize) {
    call.out.map(7);
    label(call, "name");
    call.out.bulk(group.name());
    labelled_id(call, "last-delivered-id", group.last);
    labelled_if_known(call, "entries-read", group.read.map(|read| read as i64));
    labelled_if_known(call, "lag", stream.view().lag(group));
    labelled(call, "pel-count", group.pending().len() as i64);
    label(call, "pending");
    call.out.array(group.pending().len().min(count));
    for handed in group.pending().iter().take(count) {
        call.out.array(4);
        reply_id(call, handed.id);
        call.out.bulk(group.consumer(handed.consumer).name());
        call.out.int(handed.time as i64);
        call.out.int(handed.count as i64);
    }
    label(call, "consumers");
    call.out.array(group.consumers().len());
    for consumer in group.consumers() {
        call.out.map(5);
        label(call, "name");
        call.out.bulk(consumer.name());
        labelled(call, "seen-time", consumer.seen as i64);
        labelled(call, "active-time", consumer.active.map_or(-1, |active| active as i64));
        labelled(call, "pel-count", consumer.pending().len() as i64);
        label(call, "pending");
        call.out.array(consumer.pending().len().min(count));
        for handed in consumer.pending().iter().take(count).filter_map(|id| group.pending().get(*id)) {
            call.out.array(3);
            reply_id(call, handed.id);
            call.out.int(handed.time as i64);
            call.out.int(handed.count as i64);
        }
    }
}
