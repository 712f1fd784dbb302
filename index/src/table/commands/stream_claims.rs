//! Claims: taking over what others were given and did not acknowledge.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::stream_groups::{edit, no_group};
use super::streams::{self, id, reply_entry, reply_id, write};
use super::{Done, FAST, Failure, Keys, Spec, is, parse_int};
use crate::table::objects::Stream;
use crate::table::objects::stream::{Group, Handed, Id};

const ONE: Keys = Keys::Range(1, 1, 1);
/// How many are looked at for each that may be claimed.
const LOOKS: usize = 10;

pub(super) const SPECS: &[Spec] =
    &[write("xclaim", -6, ONE, FAST, xclaim), write("xautoclaim", -6, ONE, FAST, xautoclaim)];

fn number(text: &[u8], what: &str) -> Result<i64, Failure> {
    parse_int(text).ok_or_else(|| format!("ERR Invalid {what}").into())
}

fn check_group(keyspace: &Keyspace, call: &Call<'_>) -> Result<(), Failure> {
    let (key, name) = (call.args[1], call.args[2]);
    let stream = keyspace.object::<Stream>(key, call.now)?;
    stream.and_then(|stream| stream.group(name)).map(|_| ()).ok_or_else(|| no_group(key, name))
}

fn idle_for(handed: &Handed, now: u64) -> i64 {
    (now as i64).saturating_sub(handed.time as i64)
}

/// The consumer that claims: its slot, and whether it was made.
fn claimer(group: &mut Group, name: &[u8], now: u64) -> (u32, bool) {
    let (consumer, made) = group.find_or_add(name, now);
    group.edit(consumer, |consumer| consumer.seen = now);
    (consumer, made)
}

fn xclaim(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    check_group(keyspace, call)?;
    let (key, name, member, args, now) = (call.args[1], call.args[2], call.args[3], call.args, call.now);
    let least = number(args[4], "min-idle-time argument for XCLAIM")?.max(0);
    let ids: Vec<Id> = args[5..].iter().map_while(|text| Id::parse(text, 0)).collect();
    let (mut time, mut retries, mut force, mut just_id, mut last) = (None, None, false, false, Id::MIN);
    let mut place = 5 + ids.len();
    while place < args.len() {
        let (word, given) = (args[place], args.get(place + 1));
        if is(word, "force") {
            force = true;
        } else if is(word, "justid") {
            just_id = true;
        } else {
            place += 1;
            match given {
                Some(given) if is(word, "idle") => {
                    time = Some((now as i64).saturating_sub(number(given, "IDLE option argument for XCLAIM")?));
                }
                Some(given) if is(word, "time") => time = Some(number(given, "TIME option argument for XCLAIM")?),
                Some(given) if is(word, "retrycount") => {
                    retries = u64::try_from(number(given, "RETRYCOUNT option argument for XCLAIM")?).ok();
                }
                Some(given) if is(word, "lastid") => last = id(given)?,
                _ => {
                    return Err(format!("ERR Unrecognized XCLAIM option '{}'", String::from_utf8_lossy(word)).into());
                }
            }
        }
        place += 1;
    }
    // A time that cannot be is now: whoever says it has another clock.
    let time = time.and_then(|time| u64::try_from(time).ok()).filter(|time| *time <= now).unwrap_or(now);
    let (mark, mut count) = (call.out.open_array(), 0);
    let at = call.at();
    let made = keyspace.edit(key, at, |stream: &mut Stream| {
        let result = stream.edit_group(name, |view, group| {
            let mut changed = last > group.last;
            group.last = group.last.max(last);
            let (consumer, made) = claimer(group, member, now);
            for id in &ids {
                let Some(entry) = view.entries.get(*id) else {
                    changed |= group.acknowledge(*id);
                    continue;
                };
                let before = match group.pending().get(*id).copied() {
                    Some(handed) if least > 0 && idle_for(&handed, now) < least => continue,
                    Some(handed) => handed.count,
                    // What force makes counts as handed out once before.
                    None if force => 1,
                    None => continue,
                };
                let count_of = retries.unwrap_or(if just_id { before } else { before.saturating_add(1) });
                group.hand(Handed { id: *id, consumer, time, count: count_of });
                group.edit(consumer, |consumer| consumer.active = Some(now));
                if just_id {
                    reply_id(call, *id)
                } else {
                    reply_entry(call, &entry)
                }
                count += 1;
            }
            (made, changed || made || count > 0)
        });
        result.unwrap_or((false, false))
    })?;
    call.out.close(mark, count);
    if made == Some(true) {
        keyspace.notify(b't', "xgroup-createconsumer", key);
    }
    Ok(())
}

fn xautoclaim(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, name, member, args, now) = (call.args[1], call.args[2], call.args[3], call.args, call.now);
    let least = number(args[4], "min-idle-time argument for XAUTOCLAIM")?.max(0);
    let start = streams::start(args[5])?;
    let (mut most, mut just_id) = (100, false);
    let mut words = args[6..].iter();
    while let Some(word) = words.next() {
        if is(word, "justid") {
            just_id = true;
            continue;
        }
        let given = words.next().filter(|_| is(word, "count")).ok_or(Failure::Syntax)?;
        let given = parse_int(given).filter(|given| (1..=i64::MAX / 16).contains(given));
        most = given.ok_or("ERR COUNT must be > 0")? as usize;
    }
    check_group(keyspace, call)?;
    let result = edit(keyspace, call, key, name, |view, group| {
        let (consumer, made) = claimer(group, member, now);
        let looks = most.saturating_mul(LOOKS);
        let ids = group.pending().from(start).map(|handed| handed.id).take(looks.saturating_add(1));
        let ids: Vec<Id> = ids.collect();
        let (mut claimed, mut deleted, mut place) = (Vec::new(), Vec::new(), 0);
        while place < ids.len() && place < looks && claimed.len() + deleted.len() < most {
            let id = ids[place];
            place += 1;
            if view.entries.get(id).is_none() {
                group.acknowledge(id);
                deleted.push(id);
                continue;
            }
            let Some(handed) = group.pending().get(id).copied() else { continue };
            if least > 0 && idle_for(&handed, now) < least {
                continue;
            }
            let count = if just_id { handed.count } else { handed.count.saturating_add(1) };
            group.hand(Handed { id, consumer, time: now, count });
            claimed.push(id);
        }
        if !claimed.is_empty() {
            group.edit(consumer, |consumer| consumer.active = Some(now));
        }
        let changed = made || !claimed.is_empty() || !deleted.is_empty();
        ((made, claimed, deleted, ids.get(place).copied().unwrap_or(Id::MIN)), changed)
    })?;
    let (made, claimed, deleted, next) = result.ok_or_else(|| no_group(key, name))?;
    if made {
        keyspace.notify(b't', "xgroup-createconsumer", key);
    }
    call.out.array(3);
    reply_id(call, next);
    call.out.array(claimed.len());
    let stream = keyspace.object::<Stream>(key, now)?;
    for id in claimed {
        match stream.and_then(|stream| stream.entries().get(id)).filter(|_| !just_id) {
            Some(entry) => reply_entry(call, &entry),
            None => reply_id(call, id),
        }
    }
    call.out.array(deleted.len());
    deleted.into_iter().for_each(|id| reply_id(call, id));
    Ok(())
}
