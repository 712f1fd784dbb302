//! Groups of consumers: making them, reading in one, acknowledging.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::streams::{
    self, DELETED, NOT_THERE, Reading, STILL_WANTED, id, ids, ids_block, read, reply_entries, reply_entry, reply_id,
    reply_numbers, write,
};
use super::{BLOCKING, DENYOOM, Done, FAST, Failure, Keys, Spec, int, is};
use crate::table::objects::Stream;
use crate::table::objects::stream::{Group, Handed, Id, References, View};

const ONE: Keys = Keys::Range(1, 1, 1);

pub(super) const SPECS: &[Spec] = &[
    write("xgroup", -2, Keys::Range(2, 2, 1), DENYOOM, xgroup),
    write("xreadgroup", -7, Keys::Found(streams::read_keys), BLOCKING, xreadgroup),
    write("xack", -4, ONE, FAST, xack),
    write("xackdel", -6, ONE, FAST, xackdel),
    read("xpending", -3, ONE, 0, xpending),
];

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// There is no such group.
pub(super) fn no_group(key: &[u8], group: &[u8]) -> Failure {
    format!("NOGROUP No such key '{}' or consumer group '{}'", shown(key), shown(group)).into()
}

/// There is no such group of a key that is there.
pub(super) fn no_group_of(key: &[u8], group: &[u8]) -> Failure {
    format!("NOGROUP No such consumer group '{}' for key name '{}'", shown(group), shown(key)).into()
}

/// Whether a subcommand takes so many arguments, as Redis says it: `arities` are those of all subcommands.
pub(super) fn subcommand(
    call: &Call<'_>,
    name: &str,
    arities: &[(&'static str, i32)],
) -> Result<&'static str, Failure> {
    let word = call.args[1];
    let Some((found, arity)) = arities.iter().find(|(name, _)| is(word, name)) else {
        let upper = name.to_ascii_uppercase();
        return Err(
            format!("ERR unknown subcommand '{}'. Try {upper} HELP.", shown(&word[..word.len().min(128)])).into()
        );
    };
    let wanted = arity.unsigned_abs() as usize;
    let fits = if *arity < 0 { call.args.len() >= wanted } else { call.args.len() == wanted };
    if fits { Ok(found) } else { Err(format!("ERR wrong number of arguments for '{name}|{found}' command").into()) }
}

/// As Redis says that the arguments of a subcommand make no sense.
pub(super) fn subcommand_syntax(call: &Call<'_>, name: &str) -> Failure {
    let word = shown(&call.args[1][..call.args[1].len().min(128)]);
    format!("ERR unknown subcommand or wrong number of arguments for '{word}'. Try {name} HELP.").into()
}

/// Answers with help.
pub(super) fn reply_help(call: &mut Call<'_>, name: &str, lines: &[&str]) {
    call.out.array(lines.len() + 3);
    call.out.status(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    lines.iter().for_each(|line| call.out.status(line));
    call.out.status("HELP");
    call.out.status("    Print this help.");
}

const GROUP_HELP: &[&str] = &[
    "CREATE <key> <groupname> <id|$> [option]",
    "    Create a new consumer group. Options are:",
    "    * MKSTREAM",
    "      Create the empty stream if it does not exist.",
    "    * ENTRIESREAD entries_read",
    "      Set the group's entries_read counter (internal use).",
    "CREATECONSUMER <key> <groupname> <consumer>",
    "    Create a new consumer in the specified group.",
    "DELCONSUMER <key> <groupname> <consumer>",
    "    Remove the specified consumer.",
    "DESTROY <key> <groupname>",
    "    Remove the specified group.",
    "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
    "    Set the current group ID and entries_read counter.",
];

const GROUP_ARITIES: &[(&str, i32)] =
    &[("create", -5), ("setid", -5), ("destroy", 4), ("createconsumer", 5), ("delconsumer", 5), ("help", 2)];

fn xgroup(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let what = subcommand(call, "xgroup", GROUP_ARITIES)?;
    if what == "help" {
        reply_help(call, "XGROUP", GROUP_HELP);
        return Ok(());
    }
    let (key, name) = (call.args[2], call.args[3]);
    let (mut make, mut entries_read) = (false, None);
    let mut place = 5;
    while place < call.args.len() {
        let word = call.args[place];
        if what == "create" && is(word, "mkstream") {
            make = true;
        } else if (what == "create" || what == "setid") && is(word, "entriesread") && place + 1 < call.args.len() {
            place += 1;
            let given = int(call.args[place])?;
            if given < -1 {
                return Err("ERR value for ENTRIESREAD must be positive or -1".into());
            }
            entries_read = u64::try_from(given).ok();
        } else {
            return Err(subcommand_syntax(call, "XGROUP"));
        }
        place += 1;
    }
    let stream = keyspace.object::<Stream>(key, call.now)?;
    if !make {
        let Some(stream) = stream else {
            let text = "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use \
                        the MKSTREAM option to create an empty stream automatically.";
            return Err(text.into());
        };
        if stream.group(name).is_none() && matches!(what, "setid" | "createconsumer" | "delconsumer") {
            return Err(no_group_of(key, name));
        }
    }
    let last = stream.map_or(Id::MIN, |stream| stream.counts().last);
    let (at, now) = (call.at(), call.now);
    match what {
        "create" => {
            let from = if call.args[4] == b"$" { last } else { id(call.args[4])? };
            let made = keyspace.edit_or_new(key, at, |stream: &mut Stream| {
                let made = stream.add_group(Group::new(name, from, entries_read));
                (made, made)
            })?;
            if !made {
                return Err("BUSYGROUP Consumer Group name already exists".into());
            }
            keyspace.notify(b't', "xgroup-create", key);
            call.out.ok();
        }
        "setid" => {
            let from = match call.args[4] {
                b"$" => last,
                b"-" => Id::MIN,
                b"+" => Id::MAX,
                text => id(text)?,
            };
            edit(keyspace, call, key, name, |_, group| {
                (group.last, group.read) = (from, entries_read);
                ((), true)
            })?;
            keyspace.notify(b't', "xgroup-setid", key);
            call.out.ok();
        }
        "destroy" => {
            let gone = keyspace.edit(key, at, |stream: &mut Stream| {
                let gone = stream.remove_group(name);
                (gone, gone)
            })?;
            if gone == Some(true) {
                keyspace.notify(b't', "xgroup-destroy", key);
            }
            call.out.flag(gone == Some(true));
        }
        "createconsumer" => {
            let consumer = call.args[4];
            let made = edit(keyspace, call, key, name, |_, group| {
                let (_, made) = group.find_or_add(consumer, now);
                (made, made)
            })?;
            if made == Some(true) {
                keyspace.notify(b't', "xgroup-createconsumer", key);
            }
            call.out.flag(made == Some(true));
        }
        _ => {
            let consumer = call.args[4];
            let had = edit(keyspace, call, key, name, |_, group| {
                let had = group.remove(consumer);
                (had, had.is_some())
            })?;
            let had = had.flatten();
            if had.is_some() {
                keyspace.notify(b't', "xgroup-delconsumer", key);
            }
            call.out.count(had.unwrap_or(0));
        }
    }
    Ok(())
}

/// Changes a group; `change` says whether it changed anything that others see. None: there is no such group.
pub(super) fn edit<R>(
    keyspace: &mut Keyspace,
    call: &Call<'_>,
    key: &[u8],
    group: &[u8],
    change: impl FnOnce(View<'_>, &mut Group) -> (R, bool),
) -> Result<Option<R>, Failure> {
    let result = keyspace.edit(key, call.at(), |stream: &mut Stream| match stream.edit_group(group, change) {
        Some((result, changed)) => (Some(result), changed),
        None => (None, false),
    })?;
    Ok(result.flatten())
}

/// The id in `XREADGROUP`: what is new, or what comes after this one of what the consumer has.
fn after(word: &[u8]) -> Result<Option<Id>, Failure> {
    let meaningless = |sign: &str| {
        Failure::from(format!(
            "ERR The {sign} ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer \
             by specifying a proper ID, or use the > ID to get new messages. The {sign} ID would just return an empty \
             result set."
        ))
    };
    match word {
        b">" => Ok(None),
        b"$" => Err(meaningless("$")),
        b"+" => Err(meaningless("+")),
        word => id(word).map(Some),
    }
}

fn xreadgroup(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let reading = Reading::parse(call.args, true)?;
    let (group, member) = reading.group.ok_or(Failure::Syntax)?;
    let mut streams = Vec::with_capacity(reading.streams.len());
    for (key, word) in &reading.streams {
        let stream = keyspace.object::<Stream>(key, call.now)?;
        if stream.and_then(|stream| stream.group(group)).is_none() {
            return Err(format!(
                "NOGROUP No such key '{}' or consumer group '{}' in XREADGROUP with GROUP option",
                shown(key),
                shown(group)
            )
            .into());
        }
        streams.push((*key, after(word)?));
    }
    let before = call.out.len();
    let (mark, mut count) = (call.out.open_entries(), 0);
    let now = call.now;
    for (key, after) in streams {
        let at = call.at();
        let made = keyspace.edit(key, at, |stream: &mut Stream| {
            let result = stream.edit_group(group, |view, group| {
                let (consumer, made) = group.find_or_add(member, now);
                group.edit(consumer, |consumer| consumer.seen = now);
                let start = match after {
                    Some(after) => Some(after),
                    None => view.entries.last().filter(|last| last.id > group.last).map(|_| group.last),
                };
                let mut given = 0;
                if let Some(start) = start {
                    call.out.bulk(key);
                    count += 1;
                    given = match (after, start.next()) {
                        (_, None) => reply_entries(call, std::iter::empty(), 0),
                        (None, Some(from)) => hand_out(call, view, group, consumer, from, &reading),
                        (Some(_), Some(from)) => again(call, view, group, consumer, from, reading.count),
                    };
                }
                (made, made || given > 0)
            });
            result.unwrap_or((false, false))
        })?;
        if made == Some(true) {
            keyspace.notify(b't', "xgroup-createconsumer", key);
        }
    }
    call.out.close(mark, count);
    if count == 0 {
        call.out.truncate(before);
        call.out.null_array();
    }
    Ok(())
}

/// Hands new entries out. Says how many.
fn hand_out(
    call: &mut Call<'_>,
    view: View<'_>,
    group: &mut Group,
    consumer: u32,
    from: Id,
    reading: &Reading<'_>,
) -> usize {
    let time = call.now;
    let new = view.entries.range(from, Id::MAX).inspect(|entry| {
        view.advance(group, entry.id);
        if !reading.acknowledged {
            group.hand(Handed { id: entry.id, consumer, time, count: 1 });
        }
    });
    let given = reply_entries(call, new, reading.count);
    if given > 0 && !reading.acknowledged {
        group.edit(consumer, |consumer| consumer.active = Some(time));
    }
    given
}

/// Gives a consumer once more what it has. Says how much.
fn again(call: &mut Call<'_>, view: View<'_>, group: &mut Group, consumer: u32, from: Id, count: usize) -> usize {
    let count = if count == 0 { usize::MAX } else { count };
    let ids: Vec<Id> = group.consumer(consumer).pending().from(from).take(count).copied().collect();
    call.out.array(ids.len());
    for id in &ids {
        let Some(entry) = view.entries.get(*id) else {
            call.out.array(2);
            reply_id(call, *id);
            call.out.null_array();
            continue;
        };
        reply_entry(call, &entry);
        if let Some(handed) = group.pending().get(*id).copied() {
            group.hand(Handed { time: call.now, count: handed.count.saturating_add(1), ..handed });
        }
    }
    ids.len()
}

fn xack(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, group) = (call.args[1], call.args[2]);
    if keyspace.object::<Stream>(key, call.now)?.and_then(|stream| stream.group(group)).is_none() {
        call.out.int(0);
        return Ok(());
    }
    let ids = ids(&call.args[3..])?;
    let acknowledged = edit(keyspace, call, key, group, |_, group| {
        let acknowledged = ids.iter().filter(|id| group.acknowledge(**id)).count();
        (acknowledged, acknowledged > 0)
    })?;
    call.out.count(acknowledged.unwrap_or(0));
    Ok(())
}

fn xackdel(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, group) = (call.args[1], call.args[2]);
    let (references, ids) = ids_block(&call.args[3..])?;
    let became = keyspace.edit(key, call.at(), |stream: &mut Stream| {
        let mut one = |id: Id| {
            if stream.edit_group(group, |_, group| group.acknowledge(id)) != Some(true) {
                return NOT_THERE;
            }
            // What was acknowledged and is gone already is as good as deleted.
            match streams::delete(stream, id, references) {
                STILL_WANTED if references == References::Acknowledged => STILL_WANTED,
                _ => DELETED,
            }
        };
        let became: Vec<i64> = ids.iter().map(|id| one(*id)).collect();
        let changed = became.iter().any(|what| *what != NOT_THERE);
        (became, changed)
    })?;
    let became = became.unwrap_or_else(|| vec![NOT_THERE; ids.len()]);
    if became.contains(&DELETED) {
        keyspace.notify(b't', "xdel", key);
    }
    reply_numbers(call, &became);
    Ok(())
}

fn xpending(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let (key, name, args) = (call.args[1], call.args[2], call.args);
    if args.len() != 3 && !(6..=9).contains(&args.len()) {
        return Err(Failure::Syntax);
    }
    let (mut idle, mut place) = (0, 3);
    let mut range = None;
    if args.len() >= 6 {
        if is(args[3], "idle") {
            idle = int(args[4])?;
            if args.len() < 8 {
                return Err(Failure::Syntax);
            }
            place = 5;
        }
        let count = int(args[place + 2])?.max(0) as usize;
        range = Some((streams::start(args[place])?, streams::end(args[place + 1])?, count));
    }
    let stream = keyspace.object::<Stream>(key, call.now)?;
    let group = stream.and_then(|stream| stream.group(name)).ok_or_else(|| no_group(key, name))?;
    let Some((from, to, count)) = range else {
        summary(call, group);
        return Ok(());
    };
    let consumer = match args.get(place + 3) {
        Some(name) => match group.find(name) {
            Some(slot) => Some(group.consumer(slot)),
            None => {
                call.out.array(0);
                return Ok(());
            }
        },
        None => None,
    };
    let now = call.now;
    let idle_of = |handed: &Handed| (now as i64).saturating_sub(handed.time as i64);
    let fits = |handed: &&Handed| idle == 0 || idle_of(handed) >= idle;
    let of = consumer.map(|consumer| consumer.pending().from(from).filter_map(|id| group.pending().get(*id)));
    let all = consumer.is_none().then(|| group.pending().from(from));
    let pending = of.into_iter().flatten().chain(all.into_iter().flatten());
    let (mark, mut written) = (call.out.open_array(), 0);
    for handed in pending.take_while(|handed| handed.id <= to).filter(fits).take(count) {
        call.out.array(4);
        reply_id(call, handed.id);
        call.out.bulk(group.consumer(handed.consumer).name());
        call.out.int(idle_of(handed).max(0));
        call.out.int(handed.count as i64);
        written += 1;
    }
    call.out.close(mark, written);
    Ok(())
}

fn summary(call: &mut Call<'_>, group: &Group) {
    let pending = group.pending();
    call.out.array(4);
    call.out.count(pending.len());
    let Some((first, last)) = pending.first().zip(pending.last()) else {
        call.out.null();
        call.out.null();
        call.out.null_array();
        return;
    };
    reply_id(call, first.id);
    reply_id(call, last.id);
    let busy = || group.consumers().filter(|consumer| !consumer.pending().is_empty());
    call.out.array(busy().count());
    for consumer in busy() {
        call.out.array(2);
        call.out.bulk(consumer.name());
        call.out.bulk(consumer.pending().len().to_string().as_bytes());
    }
}
