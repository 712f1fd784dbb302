//! Streams: adding entries, reading, deleting and trimming them.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::{BLOCKING, DENYOOM, Done, FAST, Failure, Keys, READONLY, Run, Spec, WRITE, int, is, parse_int};
use crate::table::objects::Stream;
use crate::table::objects::stream::{BLOCK_ENTRIES, Entry, Id, References, Trim, Until};

const ONE: Keys = Keys::Range(1, 1, 1);

pub(super) const fn read(
    name: &'static str,
    arity: i32,
    keys: Keys,
    flags: u32,
    run: fn(&Keyspace, &mut Call<'_>) -> Done,
) -> Spec {
    Spec { name, arity, flags: READONLY | flags, keys, run: Run::Read(run) }
}

pub(super) const fn write(
    name: &'static str,
    arity: i32,
    keys: Keys,
    flags: u32,
    run: fn(&mut Keyspace, &mut Call<'_>) -> Done,
) -> Spec {
    Spec { name, arity, flags: WRITE | flags, keys, run: Run::Write(run) }
}

pub(super) const SPECS: &[Spec] = &[
    write("xadd", -5, ONE, DENYOOM | FAST, xadd),
    read("xlen", 2, ONE, FAST, xlen),
    read("xrange", -4, ONE, 0, |keyspace, call| xrange(keyspace, call, false)),
    read("xrevrange", -4, ONE, 0, |keyspace, call| xrange(keyspace, call, true)),
    read("xread", -4, Keys::Found(read_keys), BLOCKING, xread),
    write("xdel", -3, ONE, FAST, xdel),
    write("xdelex", -5, ONE, FAST, xdelex),
    write("xtrim", -4, ONE, 0, xtrim),
    write("xsetid", -3, ONE, DENYOOM | FAST, xsetid),
];

fn invalid_id() -> Failure {
    "ERR Invalid stream ID specified as stream command argument".into()
}

/// An id, without the words `-` and `+`.
pub(super) fn id(text: &[u8]) -> Result<Id, Failure> {
    Id::parse(text, 0).ok_or_else(invalid_id)
}

/// Ids, all of them or none.
pub(super) fn ids(texts: &[&[u8]]) -> Result<Vec<Id>, Failure> {
    texts.iter().map(|text| id(text)).collect()
}

fn id_or_end(text: &[u8], seq: u64) -> Result<Id, Failure> {
    match text {
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        text => Id::parse(text, seq).ok_or_else(invalid_id),
    }
}

/// The first id of an interval.
pub(super) fn start(text: &[u8]) -> Result<Id, Failure> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            id(rest)?.next().ok_or_else(|| "ERR invalid start ID for the interval".into())
        }
        text => id_or_end(text, 0),
    }
}

/// The last id of an interval.
pub(super) fn end(text: &[u8]) -> Result<Id, Failure> {
    match text {
        [b'(', rest @ ..] if !rest.is_empty() => {
            let id = Id::parse(rest, u64::MAX).ok_or_else(invalid_id)?;
            id.prev().ok_or_else(|| "ERR invalid end ID for the interval".into())
        }
        text => id_or_end(text, u64::MAX),
    }
}

/// Answers with an id.
pub(super) fn reply_id(call: &mut Call<'_>, id: Id) {
    call.out.bulk(id.text().as_bytes());
}

/// Answers with an entry.
pub(super) fn reply_entry(call: &mut Call<'_>, entry: &Entry<'_>) {
    call.out.array(2);
    reply_id(call, entry.id);
    call.out.array(entry.len * 2);
    for (name, value) in entry.fields() {
        call.out.bulk(name);
        call.out.bulk(value);
    }
}

/// Answers with entries, at most so many; zero: all. Says how many.
pub(super) fn reply_entries<'e>(call: &mut Call<'_>, entries: impl Iterator<Item = Entry<'e>>, count: usize) -> usize {
    let mark = call.out.open_array();
    let mut written = 0;
    for entry in entries.take(if count == 0 { usize::MAX } else { count }) {
        reply_entry(call, &entry);
        written += 1;
    }
    call.out.close(mark, written);
    written
}

/// Which id an entry is to have.
enum Wanted {
    Next,
    NextOf(u64),
    This(Id),
}

/// What stands before the entry in `XADD`, and after the key in `XTRIM`.
struct Options {
    trim: Option<Trim>,
    make: bool,
    /// Where the id stands.
    place: usize,
    wanted: Wanted,
}

pub(super) fn references(word: &[u8]) -> Option<References> {
    match () {
        () if is(word, "keepref") => Some(References::Keep),
        () if is(word, "delref") => Some(References::Delete),
        () if is(word, "acked") => Some(References::Acknowledged),
        () => None,
    }
}

fn options(call: &Call<'_>, adds: bool) -> Result<Options, Failure> {
    let args = call.args;
    let (mut until, mut roughly, mut limit, mut kept) = (None, false, None, None);
    let mut options = Options { trim: None, make: true, place: args.len(), wanted: Wanted::Next };
    let mut place = 2;
    while place < args.len() {
        let (word, more) = (args[place], args.len() - 1 - place);
        if adds && word == b"*" {
            options.place = place;
            break;
        }
        let by_len = is(word, "maxlen");
        if (by_len || is(word, "minid")) && more > 0 {
            if until.is_some() {
                let text = "ERR syntax error, MAXLEN and MINID options at the same time are not compatible";
                return Err(text.into());
            }
            roughly = more >= 2 && args[place + 1] == b"~";
            if roughly || (more >= 2 && args[place + 1] == b"=") {
                place += 1;
            }
            place += 1;
            until = Some(if by_len {
                let len = int(args[place])?;
                Until::Len(usize::try_from(len).map_err(|_| Failure::from("ERR The MAXLEN argument must be >= 0."))?)
            } else {
                Until::Id(id(args[place])?)
            });
        } else if is(word, "limit") && more > 0 {
            let given = int(args[place + 1])?;
            limit = Some(usize::try_from(given).map_err(|_| Failure::from("ERR The LIMIT argument must be >= 0."))?);
            place += 1;
        } else if adds && is(word, "nomkstream") {
            options.make = false;
        } else if let Some(found) = references(word) {
            if kept.replace(found).is_some() {
                return Err(Failure::Syntax);
            }
        } else if adds {
            options.place = place;
            options.wanted = match Id::parse_open(word) {
                Some(ms) => Wanted::NextOf(ms),
                None => Wanted::This(id(word)?),
            };
            break;
        } else {
            return Err(Failure::Syntax);
        }
        place += 1;
    }
    if limit.is_some_and(|limit| limit > 0) && until.is_none() {
        return Err("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy".into());
    }
    if !adds && until.is_none() {
        return Err("ERR syntax error, XTRIM must be called with a trimming strategy".into());
    }
    if limit.is_some() && !roughly {
        return Err("ERR syntax error, LIMIT cannot be used without the special ~ option".into());
    }
    let limit = limit.unwrap_or(if roughly { 100 * BLOCK_ENTRIES as usize } else { 0 });
    let references = kept.unwrap_or(References::Keep);
    options.trim = until.map(|until| Trim { until, roughly, limit, references });
    Ok(options)
}

fn xadd(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let key = call.args[1];
    let options = options(call, true)?;
    let fields = call.args.get(options.place + 1..).unwrap_or_default();
    if fields.len() < 2 || fields.len() % 2 == 1 {
        return Err("ERR wrong number of arguments for 'xadd' command".into());
    }
    if matches!(options.wanted, Wanted::This(Id::MIN)) {
        return Err("ERR The ID specified in XADD must be greater than 0-0".into());
    }
    let found = keyspace.object::<Stream>(key, call.now)?;
    if found.is_none() && !options.make {
        call.out.null();
        return Ok(());
    }
    let last = found.map_or(Id::MIN, |stream| stream.counts().last);
    if last == Id::MAX {
        return Err("ERR The stream has exhausted the last possible ID, unable to add more items".into());
    }
    let id = match options.wanted {
        Wanted::This(id) => Some(id),
        Wanted::NextOf(ms) if ms == last.ms => last.next().filter(|next| next.ms == ms),
        Wanted::NextOf(ms) => Some(Id { ms, seq: 0 }),
        Wanted::Next if call.now > last.ms => Some(Id { ms: call.now, seq: 0 }),
        Wanted::Next => last.next(),
    };
    let too_small = "ERR The ID specified in XADD is equal or smaller than the target stream top item";
    let id = id.filter(|id| *id > last).ok_or(too_small)?;
    let trimmed = keyspace.edit_or_new(key, call.at(), |stream: &mut Stream| {
        stream.push(id, fields);
        (options.trim.map_or(0, |trim| stream.trim(trim)), true)
    })?;
    keyspace.notify(b't', "xadd", key);
    if trimmed > 0 {
        keyspace.notify(b't', "xtrim", key);
    }
    reply_id(call, id);
    Ok(())
}

fn xlen(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let found = keyspace.object::<Stream>(call.args[1], call.now)?;
    call.out.count(found.map_or(0, |stream| stream.entries().len()));
    Ok(())
}

fn xrange(keyspace: &Keyspace, call: &mut Call<'_>, back: bool) -> Done {
    let (first, last) = if back { (call.args[3], call.args[2]) } else { (call.args[2], call.args[3]) };
    let (first, last) = (start(first)?, end(last)?);
    let mut count = None;
    let mut words = call.args[4..].iter();
    while let Some(word) = words.next() {
        let given = words.next().filter(|_| is(word, "count")).ok_or(Failure::Syntax)?;
        count = Some(int(given)?.max(0) as usize);
    }
    let Some(stream) = keyspace.object::<Stream>(call.args[1], call.now)? else {
        call.out.array(0);
        return Ok(());
    };
    match count {
        Some(0) => call.out.null_array(),
        count if back => {
            reply_entries(call, stream.entries().range_back(first, last), count.unwrap_or(0));
        }
        count => {
            reply_entries(call, stream.entries().range(first, last), count.unwrap_or(0));
        }
    }
    Ok(())
}

/// What `XREAD` and `XREADGROUP` were asked for.
pub(super) struct Reading<'a> {
    pub count: usize,
    pub group: Option<(&'a [u8], &'a [u8])>,
    pub acknowledged: bool,
    /// Keys, and the words for their ids.
    pub streams: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Reading<'a> {
    pub fn parse(args: &[&'a [u8]], in_group: bool) -> Result<Reading<'a>, Failure> {
        let mut reading = Reading { count: 0, group: None, acknowledged: false, streams: Vec::new() };
        let only = |word: &str| {
            Failure::from(format!("ERR The {word} option is only supported by XREADGROUP. You called XREAD instead."))
        };
        let mut place = 1;
        while place < args.len() {
            let (word, more) = (args[place], args.len() - 1 - place);
            if is(word, "block") && more > 0 {
                place += 1;
                let timeout = parse_int(args[place]).ok_or("ERR timeout is not an integer or out of range")?;
                if timeout < 0 {
                    return Err("ERR timeout is negative".into());
                }
            } else if is(word, "count") && more > 0 {
                place += 1;
                reading.count = int(args[place])?.max(0) as usize;
            } else if is(word, "streams") && more > 0 {
                let rest = &args[place + 1..];
                if rest.len() % 2 == 1 {
                    let (name, what) =
                        if in_group { ("xreadgroup", "ID or '>'") } else { ("xread", "ID, '+', or '$'") };
                    return Err(format!(
                        "ERR Unbalanced '{name}' list of streams: for each stream key an {what} must be specified."
                    )
                    .into());
                }
                let (keys, ids) = rest.split_at(rest.len() / 2);
                reading.streams = keys.iter().copied().zip(ids.iter().copied()).collect();
                break;
            } else if is(word, "group") && more >= 2 {
                if !in_group {
                    return Err(only("GROUP"));
                }
                reading.group = Some((args[place + 1], args[place + 2]));
                place += 2;
            } else if is(word, "noack") {
                if !in_group {
                    return Err(only("NOACK"));
                }
                reading.acknowledged = true;
            } else {
                return Err(Failure::Syntax);
            }
            place += 1;
        }
        if reading.streams.is_empty() {
            return Err(Failure::Syntax);
        }
        if in_group && reading.group.is_none() {
            return Err("ERR Missing GROUP option for XREADGROUP".into());
        }
        Ok(reading)
    }
}

/// Where the keys of `XREAD` and `XREADGROUP` are.
pub(super) fn read_keys(args: &[&[u8]]) -> Vec<usize> {
    let mut place = 1;
    while let Some(word) = args.get(place) {
        match () {
            () if is(word, "streams") => {
                let keys = (args.len() - place - 1) / 2;
                return (place + 1..place + 1 + keys).collect();
            }
            () if is(word, "group") => place += 3,
            () if is(word, "noack") => place += 1,
            () => place += 2,
        }
    }
    Vec::new()
}

/// The id after which a reader begins that said `$` or `+`.
fn begin(stream: Option<&Stream>, word: &[u8]) -> Option<Id> {
    let last = |stream: &Stream| stream.entries().last().map(|entry| entry.id);
    match word {
        b"$" => Some(stream.map_or(Id::MIN, |stream| stream.counts().last)),
        b"+" => Some(match stream {
            Some(stream) => last(stream).and_then(Id::prev).unwrap_or(stream.counts().last),
            None => Id::MIN,
        }),
        _ => None,
    }
}

/// A call of `XREAD` that can be tried again later: `$` is replaced by what it means now. None where it says no `$`.
pub fn settle_read(keyspace: &Keyspace, args: &[&[u8]], now: u64) -> Option<Vec<Box<[u8]>>> {
    let keys = read_keys(args);
    let mut settled: Vec<Box<[u8]>> = args.iter().map(|arg| Box::from(*arg)).collect();
    let mut found = false;
    for key in &keys {
        let place = key + keys.len();
        if args.get(place).copied() == Some(b"$") {
            let stream = keyspace.object::<Stream>(args[*key], now).unwrap_or(None);
            let id = stream.map_or(Id::MIN, |stream| stream.counts().last);
            settled[place] = id.text().into_bytes().into();
            found = true;
        }
    }
    found.then_some(settled)
}

fn xread(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let reading = Reading::parse(call.args, false)?;
    let mut streams = Vec::with_capacity(reading.streams.len());
    for (key, word) in &reading.streams {
        let stream = keyspace.object::<Stream>(key, call.now)?;
        if *word == b">" {
            let text = "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
                        <consumer> option.";
            return Err(text.into());
        }
        let after = begin(stream, word).map_or_else(|| id(word), Ok)?;
        streams.push((*key, stream, after));
    }
    let before = call.out.len();
    let (mark, mut count) = (call.out.open_entries(), 0);
    for (key, stream, after) in streams {
        let Some((stream, from)) = stream.zip(after.next()) else { continue };
        if stream.entries().last().is_none_or(|last| last.id < from) {
            continue;
        }
        call.out.bulk(key);
        reply_entries(call, stream.entries().range(from, Id::MAX), reading.count);
        count += 1;
    }
    call.out.close(mark, count);
    if count == 0 {
        call.out.truncate(before);
        call.out.null_array();
    }
    Ok(())
}

fn xdel(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let key = call.args[1];
    // A key that is not there, or holds something else, comes before an id that is none.
    if keyspace.object::<Stream>(key, call.now)?.is_none() {
        call.out.int(0);
        return Ok(());
    }
    let ids = ids(&call.args[2..])?;
    let deleted = keyspace.edit(key, call.at(), |stream: &mut Stream| {
        let deleted = ids.iter().filter(|id| stream.delete(**id)).count();
        (deleted, deleted > 0)
    })?;
    let deleted = deleted.unwrap_or(0);
    if deleted > 0 {
        keyspace.notify(b't', "xdel", key);
    }
    call.out.count(deleted);
    Ok(())
}

/// Reads `[KEEPREF | DELREF | ACKED] IDS count id ...`, in any order.
pub(super) fn ids_block(args: &[&[u8]]) -> Result<(References, Vec<Id>), Failure> {
    let (mut kept, mut found) = (None, None);
    let mut place = 0;
    while place < args.len() {
        if let Some(word) = references(args[place]) {
            if kept.replace(word).is_some() {
                return Err(Failure::Syntax);
            }
            place += 1;
        } else if is(args[place], "ids") && found.is_none() && place + 1 < args.len() {
            let count = parse_int(args[place + 1]).filter(|count| *count > 0);
            let count = count.ok_or("ERR Number of IDs must be a positive integer")? as usize;
            let rest = &args[place + 2..];
            let named = rest.get(..count).ok_or("ERR The `numids` parameter must match the number of arguments")?;
            found = Some(ids(named)?);
            place += 2 + count;
        } else {
            return Err(Failure::Syntax);
        }
    }
    Ok((kept.unwrap_or(References::Keep), found.ok_or(Failure::Syntax)?))
}

/// What became of an entry that was to be deleted.
pub(super) const NOT_THERE: i64 = -1;
pub(super) const DELETED: i64 = 1;
pub(super) const STILL_WANTED: i64 = 2;

/// Deletes an entry as `XDELEX` does.
pub(super) fn delete(stream: &mut Stream, id: Id, references: References) -> i64 {
    let there = stream.entries().get(id).is_some();
    if references == References::Acknowledged && there && stream.is_wanted(id) {
        return STILL_WANTED;
    }
    if references == References::Delete {
        stream.forget(id);
    }
    if stream.delete(id) { DELETED } else { NOT_THERE }
}

/// Answers with what became of each.
pub(super) fn reply_numbers(call: &mut Call<'_>, numbers: &[i64]) {
    call.out.array(numbers.len());
    numbers.iter().for_each(|number| call.out.int(*number));
}

fn xdelex(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let key = call.args[1];
    let (references, ids) = ids_block(&call.args[2..])?;
    let became = keyspace.edit(key, call.at(), |stream: &mut Stream| {
        let before = stream.entries().len();
        let became: Vec<i64> = ids.iter().map(|id| delete(stream, *id, references)).collect();
        let changed = before != stream.entries().len() || references == References::Delete;
        (became, changed)
    })?;
    let became = became.unwrap_or_else(|| vec![NOT_THERE; ids.len()]);
    if became.contains(&DELETED) {
        keyspace.notify(b't', "xdel", key);
    }
    reply_numbers(call, &became);
    Ok(())
}

fn xtrim(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let key = call.args[1];
    let trim = options(call, false)?.trim.ok_or(Failure::Syntax)?;
    let gone = keyspace.edit(key, call.at(), |stream: &mut Stream| {
        let gone = stream.trim(trim);
        (gone, gone > 0)
    })?;
    let gone = gone.unwrap_or(0);
    if gone > 0 {
        keyspace.notify(b't', "xtrim", key);
    }
    call.out.count(gone);
    Ok(())
}

fn xsetid(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, last) = (call.args[1], id(call.args[2])?);
    let (mut added, mut deleted) = (None, Id::MIN);
    let mut words = call.args[3..].iter();
    while let Some(word) = words.next() {
        let given = words.next().ok_or(Failure::Syntax)?;
        if is(word, "entriesadded") {
            let given = int(given)?;
            added = Some(u64::try_from(given).map_err(|_| Failure::from("ERR entries_added must be positive"))?);
        } else if is(word, "maxdeletedid") {
            deleted = id(given)?;
            if last < deleted {
                let text = "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id";
                return Err(text.into());
            }
        } else {
            return Err(Failure::Syntax);
        }
    }
    let stream = keyspace.object::<Stream>(key, call.now)?.ok_or("ERR no such key")?;
    let mut counts = stream.counts();
    if last < counts.deleted {
        return Err("ERR The ID specified in XSETID is smaller than current max_deleted_entry_id".into());
    }
    if let Some(entry) = stream.entries().last() {
        if last < entry.id {
            return Err("ERR The ID specified in XSETID is smaller than the target stream top item".into());
        }
        if added.is_some_and(|added| added < stream.entries().len() as u64) {
            return Err("ERR The entries_added specified in XSETID is smaller than the target stream length".into());
        }
    }
    counts.last = last;
    counts.added = added.unwrap_or(counts.added);
    if deleted != Id::MIN {
        counts.deleted = deleted;
    }
    keyspace.edit(key, call.at(), |stream: &mut Stream| (stream.set_counts(counts), true))?;
    keyspace.notify(b't', "xsetid", key);
    call.out.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::table::execute::tests::Trial;

    #[test]
    fn streams_and_groups_answer_as_they_should() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("XADD s 1-1 a 1", r#""1-1""#),
            (
                "XADD s 1-1 a 1",
                "(error) ERR The ID specified in XADD is equal or smaller than the target stream top item",
            ),
            ("XADD s 1-* a 2", r#""1-2""#),
            ("XADD s * b 3", r#""1000000-0""#),
            ("XADD s * b 4", r#""1000000-1""#),
            ("XADD n NOMKSTREAM * b 4", "(nil)"),
            ("XLEN s", "(integer) 4"),
            (
                "XRANGE s - +",
                r#"[["1-1" ["a" "1"]] ["1-2" ["a" "2"]] ["1000000-0" ["b" "3"]] ["1000000-1" ["b" "4"]]]"#,
            ),
            ("XREVRANGE s + (1-2 COUNT 1", r#"[["1000000-1" ["b" "4"]]]"#),
            ("XRANGE s - + COUNT 0", "(nil)"),
            ("XREAD COUNT 1 STREAMS s nope 1 0", r#"{"s" [["1-1" ["a" "1"]]]}"#),
            ("XREAD BLOCK 0 STREAMS s $", "(nil)"),
            ("XREAD STREAMS s +", r#"{"s" [["1000000-1" ["b" "4"]]]}"#),
            (
                "XREADGROUP GROUP g alice STREAMS s >",
                "(error) NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option",
            ),
            ("XGROUP CREATE s g 0", "OK"),
            ("XGROUP CREATE s g 0", "(error) BUSYGROUP Consumer Group name already exists"),
            ("XREADGROUP GROUP g alice COUNT 2 STREAMS s >", r#"{"s" [["1-1" ["a" "1"]] ["1-2" ["a" "2"]]]}"#),
            ("XREADGROUP GROUP g bob COUNT 1 STREAMS s >", r#"{"s" [["1000000-0" ["b" "3"]]]}"#),
            ("XREADGROUP GROUP g alice STREAMS s 1-1", r#"{"s" [["1-2" ["a" "2"]]]}"#),
            ("XPENDING s g", r#"[(integer) 3 "1-1" "1000000-0" [["alice" "2"] ["bob" "1"]]]"#),
            (
                "XPENDING s g - + 10 alice",
                r#"[["1-1" "alice" (integer) 0 (integer) 1] ["1-2" "alice" (integer) 0 (integer) 2]]"#,
            ),
            ("XACK s g 1-1 1-1 9-9", "(integer) 1"),
            (
                "XINFO GROUPS s",
                r#"[{"name" "g" "consumers" (integer) 2 "pending" (integer) 2 "last-delivered-id" "1000000-0" "entries-read" (integer) 3 "lag" (integer) 1}]"#,
            ),
            ("XDELEX s ACKED IDS 4 1-1 1-2 1000000-1 9-9", "[(integer) 1 (integer) 2 (integer) 2 (integer) -1]"),
            ("XDELEX s IDS 1 1-2 KEEPREF", "[(integer) 1]"),
            ("XDELEX s IDS 2 1-2", "(error) ERR The `numids` parameter must match the number of arguments"),
            ("XCLAIM s g bob 0 1-2 1000000-0", r#"[["1000000-0" ["b" "3"]]]"#),
            ("XAUTOCLAIM s g carol 0 - COUNT 1", r#"["0-0" [["1000000-0" ["b" "3"]]] []]"#),
            ("XACKDEL s g ACKED IDS 2 1000000-0 7-7", "[(integer) 1 (integer) -1]"),
            (
                "XINFO CONSUMERS s g",
                r#"[{"name" "alice" "pending" (integer) 0 "idle" (integer) 0 "inactive" (integer) 0} {"name" "bob" "pending" (integer) 0 "idle" (integer) 0 "inactive" (integer) 0} {"name" "carol" "pending" (integer) 0 "idle" (integer) 0 "inactive" (integer) 0}]"#,
            ),
            (
                "XINFO STREAM s FULL",
                r#"{"length" (integer) 1 "radix-tree-keys" (integer) 1 "radix-tree-nodes" (integer) 2 "last-generated-id" "1000000-1" "max-deleted-entry-id" "1000000-0" "entries-added" (integer) 4 "recorded-first-entry-id" "1000000-1" "entries" [["1000000-1" ["b" "4"]]] "groups" [{"name" "g" "last-delivered-id" "1000000-0" "entries-read" (integer) 3 "lag" (integer) 1 "pel-count" (integer) 0 "pending" [] "consumers" [{"name" "alice" "seen-time" (integer) 1000000 "active-time" (integer) 1000000 "pel-count" (integer) 0 "pending" []} {"name" "bob" "seen-time" (integer) 1000000 "active-time" (integer) 1000000 "pel-count" (integer) 0 "pending" []} {"name" "carol" "seen-time" (integer) 1000000 "active-time" (integer) 1000000 "pel-count" (integer) 0 "pending" []}]}]}"#,
            ),
            ("XADD s MAXLEN 1 DELREF * c 5", r#""1000000-2""#),
            ("XTRIM s MINID 1000001", "(integer) 1"),
            ("XSETID s 5-5", "(error) ERR The ID specified in XSETID is smaller than current max_deleted_entry_id"),
            ("XGROUP DELCONSUMER s g alice", "(integer) 0"),
            ("XGROUP DESTROY s g", "(integer) 1"),
            ("XGROUP FOO s g", "(error) ERR unknown subcommand 'FOO'. Try XGROUP HELP."),
            ("XGROUP DESTROY s", "(error) ERR wrong number of arguments for 'xgroup|destroy' command"),
            ("XLEN s", "(integer) 0"),
            ("TYPE s", "stream"),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
    }
}
