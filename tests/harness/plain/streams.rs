//! Streams: entries by their ids, and groups of consumers that read them. Nothing is trimmed roughly here.

use std::collections::{BTreeMap, BTreeSet};

use loci_index::table::tape::Tape;

use super::{Failure, NOT_A_NUMBER, Plain, Typed, When, number};

/// The id of an entry.
pub type Id = (u64, u64);

/// Entries, and groups that read them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Names and values in turn.
    pub entries: BTreeMap<Id, Vec<Vec<u8>>>,
    /// The last id there ever was.
    pub last: Id,
    /// By name.
    pub groups: BTreeMap<Vec<u8>, Group>,
}

/// Consumers that share the entries of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Group {
    /// The last that was handed out.
    pub last: Id,
    /// Their names.
    pub consumers: BTreeSet<Vec<u8>>,
    /// What was handed out and not acknowledged.
    pub pending: BTreeMap<Id, Handed>,
}

/// Whom an entry was handed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Handed {
    /// The consumer.
    pub to: Vec<u8>,
    /// When, the last time.
    pub time: u64,
    /// How often.
    pub count: i64,
}

const TOO_SMALL: &str = "ERR The ID specified in XADD is equal or smaller than the target stream top item";
const NEEDS_KEY: &str = "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
                         MKSTREAM option to create an empty stream automatically.";

/// An id, whose second number may be left out. Clients send nothing else.
fn id(text: &[u8]) -> Id {
    let text = std::str::from_utf8(text).expect("an id");
    let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
    (ms.parse().expect("an id"), seq.parse().expect("an id"))
}

fn text(id: Id) -> Vec<u8> {
    format!("{}-{}", id.0, id.1).into_bytes()
}

fn next(id: Id) -> Id {
    (id.0, id.1 + 1)
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn no_group(key: &[u8], group: &[u8]) -> Failure {
    format!("NOGROUP No such key '{}' or consumer group '{}'", lossy(key), lossy(group)).into()
}

fn say_entry(id: Id, fields: &[Vec<u8>], out: &mut Tape) {
    out.array(2);
    out.bulk(&text(id));
    out.array(fields.len());
    fields.iter().for_each(|word| out.bulk(word));
}

/// The number after a word, if it stands there.
fn after(args: &[&[u8]], word: &[u8]) -> Result<Option<usize>, Failure> {
    let Some(place) = args.iter().position(|arg| *arg == word) else { return Ok(None) };
    Ok(Some(number(args[place + 1]).ok_or(NOT_A_NUMBER)? as usize))
}

impl Stream {
    /// Removes the oldest until so many are left, and says how many went.
    fn trim(&mut self, most: usize) -> usize {
        let gone = self.entries.len().saturating_sub(most);
        (0..gone).for_each(|_| drop(self.entries.pop_first()));
        gone
    }
}

impl Plain {
    fn stream(&self, key: &[u8], now: u64) -> Result<Option<Stream>, Failure> {
        let stream = self.value(key, now, |typed| match typed {
            Typed::Stream(stream) => Some(stream),
            _ => None,
        })?;
        Ok(stream.cloned())
    }

    /// Whether it is a call of streams; then it was carried out.
    pub(super) fn stream_call(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<bool, Failure> {
        let (key, now) = (args.get(1).copied().unwrap_or_default(), when.now);
        match args[0] {
            b"XADD" => self.add_entry(args, when, out)?,
            b"XLEN" => out.count(self.stream(key, now)?.map_or(0, |stream| stream.entries.len())),
            // All.
            b"XRANGE" => {
                let stream = self.stream(key, now)?.unwrap_or_default();
                out.array(stream.entries.len());
                stream.entries.iter().for_each(|(id, fields)| say_entry(*id, fields, out));
            }
            // Of one stream, without COUNT.
            b"XREAD" => {
                let key = args[2];
                let mut new = self.stream(key, now)?.unwrap_or_default().entries.split_off(&next(id(args[3])));
                match new.is_empty() {
                    true => out.null_array(),
                    false => {
                        out.entries(1);
                        out.bulk(key);
                        out.array(new.len());
                        while let Some((id, fields)) = new.pop_first() {
                            say_entry(id, &fields, out);
                        }
                    }
                }
            }
            b"XDEL" => {
                let Some(mut stream) = self.stream(key, now)? else {
                    out.int(0);
                    return Ok(true);
                };
                let gone = args[2..].iter().filter(|word| stream.entries.remove(&id(word)).is_some()).count();
                self.gone(key, stream, gone, when, out);
            }
            b"XTRIM" => {
                let mut stream = self.stream(key, now)?.unwrap_or_default();
                let gone = match args[2] {
                    b"MAXLEN" => stream.trim(number(args[3]).ok_or(NOT_A_NUMBER)? as usize),
                    _ => {
                        let left = stream.entries.split_off(&id(args[3]));
                        std::mem::replace(&mut stream.entries, left).len()
                    }
                };
                self.gone(key, stream, gone, when, out);
            }
            b"XGROUP" => self.change_group(args, when, out)?,
            b"XREADGROUP" => self.read_in_group(args, when, out)?,
            b"XACK" => {
                let mut stream = self.stream(key, now)?.unwrap_or_default();
                let Some(group) = stream.groups.get_mut(args[2]) else {
                    out.int(0);
                    return Ok(true);
                };
                let gone = args[3..].iter().filter(|word| group.pending.remove(&id(word)).is_some()).count();
                self.gone(key, stream, gone, when, out);
            }
            b"XPENDING" => self.say_pending(args, now, out)?,
            b"XCLAIM" => self.claim(args, when, out)?,
            b"XAUTOCLAIM" => self.claim_any(args, when, out)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn gone(&mut self, key: &[u8], stream: Stream, gone: usize, when: When, out: &mut Tape) {
        out.count(gone);
        if gone > 0 {
            self.change(key, Typed::Stream(stream), when);
        }
    }

    fn add_entry(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let (key, most) = (args[1], after(args, b"MAXLEN")?);
        let place = if most.is_some() { 4 } else { 2 };
        let mut stream = self.stream(key, when.now)?.unwrap_or_default();
        let new = match args[place] {
            b"*" if when.now > stream.last.0 => (when.now, 0),
            b"*" => next(stream.last),
            word => match word.strip_suffix(b"-*") {
                Some(ms) if id(ms).0 == stream.last.0 => next(stream.last),
                Some(ms) => id(ms),
                None => id(word),
            },
        };
        if new <= stream.last {
            return Err(TOO_SMALL.into());
        }
        stream.last = new;
        stream.entries.insert(new, args[place + 1..].iter().map(|word| word.to_vec()).collect());
        if let Some(most) = most {
            stream.trim(most);
        }
        out.bulk(&text(new));
        self.change(key, Typed::Stream(stream), when);
        Ok(())
    }

    fn change_group(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let (key, name) = (args[2], args[3]);
        let found = self.stream(key, when.now)?;
        let Some(mut stream) = found.or_else(|| args.contains(&&b"MKSTREAM"[..]).then(Stream::default)) else {
            return Err(NEEDS_KEY.into());
        };
        match args[1] {
            b"CREATE" => {
                let last = if args[4] == b"$" { stream.last } else { id(args[4]) };
                if stream.groups.contains_key(name) {
                    return Err("BUSYGROUP Consumer Group name already exists".into());
                }
                stream.groups.insert(name.to_vec(), Group { last, ..Group::default() });
                out.ok();
            }
            b"DESTROY" => {
                let gone = stream.groups.remove(name).is_some();
                self.gone(key, stream, usize::from(gone), when, out);
                return Ok(());
            }
            _ => {
                let Some(group) = stream.groups.get_mut(name) else {
                    let (name, key) = (lossy(name), lossy(key));
                    return Err(format!("NOGROUP No such consumer group '{name}' for key name '{key}'").into());
                };
                let had = group.pending.len();
                group.pending.retain(|_, handed| handed.to != args[4]);
                out.count(had - group.pending.len());
                if !group.consumers.remove(args[4]) {
                    return Ok(());
                }
            }
        }
        self.change(key, Typed::Stream(stream), when);
        Ok(())
    }

    /// Of one stream.
    fn read_in_group(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let (name, consumer, key, word) = (args[2], args[3], args[args.len() - 2], args[args.len() - 1]);
        let count = after(args, b"COUNT")?.unwrap_or(usize::MAX);
        let mut stream = self.stream(key, when.now)?.unwrap_or_default();
        let Some(group) = stream.groups.get_mut(name) else {
            let (key, name) = (lossy(key), lossy(name));
            let text =
                format!("NOGROUP No such key '{key}' or consumer group '{name}' in XREADGROUP with GROUP option");
            return Err(text.into());
        };
        let made = group.consumers.insert(consumer.to_vec());
        let given: Vec<Id> = match word {
            b">" => stream.entries.range(next(group.last)..).map(|(id, _)| *id).take(count).collect(),
            word => {
                let pending = group.pending.range(next(id(word))..);
                pending.filter(|(_, handed)| handed.to == consumer).map(|(id, _)| *id).take(count).collect()
            }
        };
        if word == b">" && given.is_empty() {
            out.null_array();
        } else {
            out.entries(1);
            out.bulk(key);
            out.array(given.len());
        }
        for id in &given {
            let fields = stream.entries.get(id);
            match fields {
                Some(fields) => say_entry(*id, fields, out),
                None => {
                    out.array(2);
                    out.bulk(&text(*id));
                    out.null_array();
                    continue;
                }
            }
            let before = group.pending.get(id).filter(|_| word != b">").map_or(0, |handed| handed.count);
            group.pending.insert(*id, Handed { to: consumer.to_vec(), time: when.now, count: before + 1 });
            group.last = group.last.max(if word == b">" { *id } else { group.last });
        }
        if made || !given.is_empty() {
            self.change(key, Typed::Stream(stream), when);
        }
        Ok(())
    }

    /// In short, or, of any consumer, from the first to the last.
    fn say_pending(&self, args: &[&[u8]], now: u64, out: &mut Tape) -> Result<(), Failure> {
        let stream = self.stream(args[1], now)?.unwrap_or_default();
        let pending = &stream.groups.get(args[2]).ok_or_else(|| no_group(args[1], args[2]))?.pending;
        if args.len() > 3 {
            out.array(pending.len());
            for (id, handed) in pending {
                out.array(4);
                out.bulk(&text(*id));
                out.bulk(&handed.to);
                out.int((now - handed.time) as i64);
                out.int(handed.count);
            }
            return Ok(());
        }
        out.array(4);
        out.count(pending.len());
        let Some((first, last)) = pending.first_key_value().zip(pending.last_key_value()) else {
            out.null();
            out.null();
            out.null_array();
            return Ok(());
        };
        out.bulk(&text(*first.0));
        out.bulk(&text(*last.0));
        let mut by_consumer: BTreeMap<&[u8], usize> = BTreeMap::new();
        pending.values().for_each(|handed| *by_consumer.entry(&handed.to).or_default() += 1);
        out.array(by_consumer.len());
        for (consumer, count) in by_consumer {
            out.array(2);
            out.bulk(consumer);
            out.bulk(count.to_string().as_bytes());
        }
        Ok(())
    }

    fn claim(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let (key, name, consumer, least) = (args[1], args[2], args[3], number(args[4]).ok_or(NOT_A_NUMBER)? as u64);
        let mut stream = self.stream(key, when.now)?.unwrap_or_default();
        let group = stream.groups.get_mut(name).ok_or_else(|| no_group(key, name))?;
        let mut changed = group.consumers.insert(consumer.to_vec());
        let mut claimed = Vec::new();
        for id in args[5..].iter().map(|word| id(word)) {
            if !stream.entries.contains_key(&id) {
                changed |= group.pending.remove(&id).is_some();
                continue;
            }
            let Some(handed) = group.pending.get_mut(&id) else { continue };
            if when.now - handed.time >= least {
                *handed = Handed { to: consumer.to_vec(), time: when.now, count: handed.count + 1 };
                claimed.push(id);
            }
        }
        out.array(claimed.len());
        claimed.iter().for_each(|id| say_entry(*id, &stream.entries[id], out));
        if changed || !claimed.is_empty() {
            self.change(key, Typed::Stream(stream), when);
        }
        Ok(())
    }

    /// From the first on, with COUNT.
    fn claim_any(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let (key, name, consumer, least) = (args[1], args[2], args[3], number(args[4]).ok_or(NOT_A_NUMBER)? as u64);
        let most = after(args, b"COUNT")?.expect("clients say it");
        let found = self.stream(key, when.now)?;
        let mut stream = found.ok_or_else(|| no_group(key, name))?;
        let group = stream.groups.get_mut(name).ok_or_else(|| no_group(key, name))?;
        let made = group.consumers.insert(consumer.to_vec());
        let (mut claimed, mut deleted, mut looks) = (Vec::new(), Vec::new(), 0);
        let mut goes_on = (0, 0);
        let all: Vec<Id> = group.pending.keys().copied().collect();
        for id in all {
            if looks == most * 10 || claimed.len() + deleted.len() == most {
                goes_on = id;
                break;
            }
            looks += 1;
            if !stream.entries.contains_key(&id) {
                group.pending.remove(&id);
                deleted.push(id);
                continue;
            }
            let handed = group.pending.get_mut(&id).expect("it was among them");
            if when.now - handed.time >= least {
                *handed = Handed { to: consumer.to_vec(), time: when.now, count: handed.count + 1 };
                claimed.push(id);
            }
        }
        out.array(3);
        out.bulk(&text(goes_on));
        out.array(claimed.len());
        claimed.iter().for_each(|id| say_entry(*id, &stream.entries[id], out));
        out.array(deleted.len());
        deleted.iter().for_each(|id| out.bulk(&text(*id)));
        if made || !claimed.is_empty() || !deleted.is_empty() {
            self.change(key, Typed::Stream(stream), when);
        }
        Ok(())
    }
}
