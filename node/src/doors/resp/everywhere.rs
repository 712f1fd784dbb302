//! Everywhere: commands that are about all keys, where the databases are spread over several shards.
//!
//! ```text
//!   DBSIZE, TAG.COUNT       the sum                       KEYS, TAG.KEYS    one after the other
//!   SCAN                    shard by shard, which one stands in the cursor
//!   RANDOMKEY               of a shard that is drawn by how many keys it has
//!   FLUSHDB, FLUSHALL, TAG.DROP, SCRIPT, FUNCTION         written to each; the first error is the reply
//! ```
//!
//! Each shard is read as new as every write answered before; all of them together are no picture of one moment, and what is
//! written to each is not one step: after an error some have it. Among a cluster's clients a node speaks of the shards that it
//! leads, because such clients ask every node and put the answers together.

use std::sync::Arc;

use futures_util::future::join_all;
use loci_index::table::commands::{int_text, is, parse_int};
use loci_index::table::tape::{Item, Items, Tape};

use super::commands::{self, Command};
use super::databases::Calls;
use super::pipeline::{Answer, Pending};
use super::places::{Homes, Place};
use super::render;
use super::session::Session;
use crate::doors::looks::Look;

/// A cursor's lowest bits say which shard it is of; as many keys as share the others come together.
const PART_BITS: u32 = 6;
const PARTS_MAX: u64 = 1 << PART_BITS;
const _: () = assert!(crate::router::SHARDS_MAX as u64 <= PARTS_MAX);

/// The cursor of a shard, and the shard.
fn parts_of(cursor: u64) -> (u64, usize) {
    (cursor & !(PARTS_MAX - 1), (cursor % PARTS_MAX) as usize)
}

impl Session {
    /// Carries a command out that is about all keys. What waited for the log was settled.
    pub async fn everywhere(&mut self, command: Command, args: &[&[u8]]) {
        let asks = only_asks(command, args);
        let found = match self.door.homes_at(self.level()).await {
            Ok(homes) => self.door.own_parts(&homes, !asks).map(|parts| (homes, parts)),
            Err(error) => Err(error),
        };
        let (homes, parts) = match found {
            Ok(found) => found,
            Err(error) => return self.out.error(error),
        };
        match command.spec.name {
            "keys" => self.keys_everywhere(&homes, &parts, args[1]).await,
            "scan" => self.scan_everywhere(command, &homes, &parts, args).await,
            "randomkey" => self.random_key_everywhere(&homes, &parts).await,
            "flushall" => self.flush_everywhere(&homes, &parts, args).await,
            "dbsize" | "tag.count" | "tag.keys" => {
                let mut tapes = Vec::with_capacity(parts.len());
                for part in parts {
                    self.go_to(Place::of_part(&homes, part));
                    let Some(tape) = self.read_tape(command, args).await else { return };
                    tapes.push(tape.to_vec());
                }
                self.write_joined(Join::of(command, args), &tapes);
            }
            _ => self.write_everywhere(command, &homes, &parts, args).await,
        }
    }

    async fn keys_everywhere(&mut self, homes: &Arc<Homes>, parts: &[usize], pattern: &[u8]) {
        let mut found = Vec::new();
        for part in parts {
            self.go_to(Place::of_part(homes, *part));
            if !self.find_keys(pattern, &mut found).await {
                return;
            }
        }
        self.out.array(found.len());
        found.iter().for_each(|key| self.out.bulk(key));
    }

    async fn scan_everywhere(&mut self, command: Command, homes: &Arc<Homes>, parts: &[usize], args: &[&[u8]]) {
        let cursor = std::str::from_utf8(args[1]).ok().and_then(|text| text.parse::<u64>().ok());
        let (within, part) = match cursor {
            // In a shard that is not this node's any more as well: it still has all of its keys.
            Some(cursor) if cursor != 0 => parts_of(cursor),
            _ => (0, parts.first().copied().unwrap_or(0)),
        };
        if part >= homes.shards().len() {
            self.out.error("ERR invalid cursor");
            return;
        }
        let given = args[2..].chunks(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
        let mut counts = given
            .filter(|(word, _)| is(word, "count"))
            .filter_map(|(_, count)| parse_int(count))
            .filter(|count| *count > 0);
        let mut count = counts.next_back().unwrap_or(10);
        self.go_to(Place::of_part(homes, part));
        loop {
            let within_text = within.to_string();
            let count_text = int_text(count);
            let mut words: Vec<&[u8]> = args.to_vec();
            if cursor.is_some() {
                words[1] = within_text.as_bytes();
                // A pair without its second word is wrong, and stays so.
                if args.len().is_multiple_of(2) {
                    words.extend([&b"count"[..], &count_text]);
                }
            }
            let Some(tape) = self.read_tape(command, &words).await else { return };
            let mut items = Items::new(&tape);
            let mut next = None;
            if let (Some(Item::Array(2)), Some(Item::Bulk(text))) = (items.next(), items.next()) {
                next = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok());
            }
            let Some(next) = next else {
                render::reply(&mut Items::new(&tape), &mut self.out);
                return;
            };
            let next = match (next, parts_of(next).0) {
                (0, _) => parts.iter().find(|other| **other > part).map_or(0, |other| *other as u64),
                (_, rounded) if rounded > within => rounded | part as u64,
                // More of them lie closer together than a cursor can tell: all at once.
                _ => {
                    count = count.saturating_mul(4);
                    continue;
                }
            };
            self.out.array(2);
            self.out.bulk(next.to_string());
            render::reply(&mut items, &mut self.out);
            return;
        }
    }

    async fn random_key_everywhere(&mut self, homes: &Arc<Homes>, parts: &[usize]) {
        let mut sizes = Vec::with_capacity(parts.len());
        for part in parts {
            self.go_to(Place::of_part(homes, *part));
            let Some(found) = self.ask_one(Look::Counts).await else { return };
            let size = match (found.items().next(), found.items().nth(1)) {
                (Some(Item::Array(2)), Some(Item::Int(size))) => size as usize,
                _ => return self.damaged_reply(),
            };
            sizes.push((*part, size));
        }
        let mut chance = self.chance();
        let all: usize = sizes.iter().map(|(_, size)| size).sum();
        if all == 0 {
            return self.out.null();
        }
        let mut drawn = chance.below(all);
        let part = sizes.iter().find(|(_, size)| {
            let here = drawn < *size;
            drawn = drawn.saturating_sub(*size);
            here
        });
        self.go_to(Place::of_part(homes, part.map_or(0, |(part, _)| *part)));
        let Some(command) = commands::find(b"randomkey") else { return };
        if let Some(found) = self.ask_one(Look::Command(command.spec, &[b"randomkey"])).await {
            self.answer(&mut found.items(), Answer::Whole);
        }
    }

    /// FLUSHALL, in these shards.
    pub async fn flush_everywhere(&mut self, homes: &Arc<Homes>, parts: &[usize], args: &[&[u8]]) {
        match args {
            [_] => {}
            [_, word] if is(word, "sync") || is(word, "async") => {}
            _ => return self.out.error("ERR syntax error"),
        }
        let there = match self.door.databases_there().await {
            Ok(there) => there,
            Err(error) => return self.out.error(error),
        };
        let calls = parts.iter().map(|part| {
            let (place, mut pending) = (Place::of_part(homes, *part), Pending::default());
            for database in &there {
                pending.push(&place, *database, [&b"flushdb"[..]].into_iter(), Answer::None);
            }
            pending.into_calls(&place)
        });
        if !there.is_empty()
            && let Err(error) = self.execute_all(calls.collect()).await
        {
            return self.out.error(error);
        }
        self.out.ok();
    }

    async fn write_everywhere(&mut self, command: Command, homes: &Arc<Homes>, parts: &[usize], args: &[&[u8]]) {
        let database = self.database;
        let calls = parts.iter().map(|part| {
            let (place, mut pending) = (Place::of_part(homes, *part), Pending::default());
            pending.push(&place, database, args.iter().copied(), Answer::Whole);
            pending.into_calls(&place)
        });
        match self.execute_all(calls.collect()).await {
            Ok(tapes) => self.write_joined(Join::of(command, args), &tapes),
            Err(error) => self.out.error(error),
        }
    }

    /// Has several shards carry out calls at the same time.
    async fn execute_all(&mut self, calls: Vec<Calls>) -> Result<Vec<Vec<u8>>, String> {
        self.read_anew();
        let door = &self.door;
        let done = join_all(calls.into_iter().map(|calls| door.execute(calls, self.origin()))).await;
        let several = done.len() > 1 && done.iter().any(Result::is_ok);
        let tapes: Result<Vec<_>, String> = done.into_iter().map(|tape| Ok(tape?.unwrap_or_default())).collect();
        tapes.map_err(|error| if several { format!("{error} (other shards have done it)") } else { error })
    }

    /// Writes what several shards said to the same command as one reply.
    fn write_joined(&mut self, join: Join, tapes: &[Vec<u8>]) {
        let written = joined(join, tapes).is_some_and(|tape| render::reply(&mut tape.items(), &mut self.out));
        if !written {
            self.out.error("ERR the reply is damaged");
            self.closing = true;
        }
    }
}

/// Whether a command changes no keys, so that a node that leads nothing answers it too, as a replica does.
fn only_asks(command: Command, args: &[&[u8]]) -> bool {
    let part = |known: &[&str]| args.get(1).is_some_and(|part| known.iter().any(|known| is(part, known)));
    match command.spec.name {
        "dbsize" | "keys" | "scan" | "randomkey" | "tag.count" | "tag.keys" => true,
        "script" => true,
        "function" => part(&["list", "dump", "stats", "help", "kill"]),
        _ => false,
    }
}

/// How several replies become one. An error of one is the reply, whatever the others say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    /// Of numbers.
    Sum,
    /// Of lists, one after the other.
    Lists,
    /// Of lists of zeros and ones: ones where all have them.
    Flags,
    /// All of them are alike.
    First,
}

impl Join {
    fn of(command: Command, args: &[&[u8]]) -> Join {
        match command.spec.name {
            "dbsize" | "tag.count" | "tag.drop" => Join::Sum,
            "tag.keys" => Join::Lists,
            "script" if args.get(1).is_some_and(|part| is(part, "exists")) => Join::Flags,
            _ => Join::First,
        }
    }
}

/// None: they are not replies of that kind.
fn joined(join: Join, tapes: &[Vec<u8>]) -> Option<Tape> {
    let mut joined = Tape::new();
    for tape in tapes {
        if let Item::Error(text) = Items::new(tape).next()? {
            joined.error(&String::from_utf8_lossy(text));
            return Some(joined);
        }
    }
    match join {
        Join::First => joined.append(tapes.first()?),
        Join::Sum => {
            let number = |tape: &Vec<u8>| match Items::new(tape).next() {
                Some(Item::Int(number)) => Some(number),
                _ => None,
            };
            joined.int(tapes.iter().map(number).try_fold(0i64, |sum, number| Some(sum.saturating_add(number?)))?);
        }
        Join::Lists => {
            let lists = tapes.iter().map(|tape| list(tape)).collect::<Option<Vec<_>>>()?;
            joined.array(lists.iter().map(Vec::len).sum());
            lists.iter().flatten().for_each(|item| joined.append(item));
        }
        Join::Flags => {
            let lists = tapes.iter().map(|tape| list(tape)).collect::<Option<Vec<_>>>()?;
            let count = lists.first()?.len();
            joined.array(count);
            for place in 0..count {
                let has = |list: &Vec<&[u8]>| Some(Items::new(list.get(place)?).next()? == Item::Int(1));
                let all = lists.iter().map(has).try_fold(true, |all, has| Some(all && has?))?;
                joined.flag(all);
            }
        }
    }
    Some(joined)
}

/// The items of a list, each as it stands on the tape.
fn list(tape: &[u8]) -> Option<Vec<&[u8]>> {
    let mut items = Items::new(tape);
    let Some(Item::Array(count) | Item::Set(count)) = items.next() else { return None };
    (0..count).map(|_| items.whole()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tape(write: impl FnOnce(&mut Tape)) -> Vec<u8> {
        let mut tape = Tape::new();
        write(&mut tape);
        tape.into_bytes()
    }

    fn flags(all: &[bool]) -> Vec<u8> {
        tape(|tape| {
            tape.array(all.len());
            all.iter().for_each(|flag| tape.flag(*flag));
        })
    }

    fn keys(all: &[&str]) -> Vec<u8> {
        tape(|tape| {
            tape.array(all.len());
            all.iter().for_each(|key| tape.bulk(key.as_bytes()));
        })
    }

    #[test]
    fn replies_of_several_shards_become_one() {
        let (two, five, wrong) = (tape(|t| t.int(2)), tape(|t| t.int(5)), tape(|t| t.error("ERR no")));
        for (join, tapes, expected) in [
            (Join::Sum, vec![two.clone(), five.clone()], Some(tape(|t| t.int(7)))),
            (Join::Sum, vec![two.clone(), wrong.clone(), five.clone()], Some(wrong.clone())),
            (Join::Sum, vec![two.clone(), keys(&["a"])], None),
            (Join::Lists, vec![keys(&["a", "b"]), keys(&[]), keys(&["c"])], Some(keys(&["a", "b", "c"]))),
            (Join::Lists, vec![keys(&["a"]), two.clone()], None),
            (
                Join::Flags,
                vec![flags(&[true, true, false]), flags(&[true, false, true])],
                Some(flags(&[true, false, false])),
            ),
            (Join::Flags, vec![flags(&[true]), flags(&[])], None),
            (Join::First, vec![two.clone(), five], Some(two)),
            (Join::First, vec![Vec::new()], None),
        ] {
            assert_eq!(joined(join, &tapes).map(Tape::into_bytes), expected, "{join:?} of {tapes:?}");
        }
    }

    #[test]
    fn a_cursor_says_which_shard_it_is_of() {
        for (cursor, expected) in [(0, (0, 0)), (3, (0, 3)), (64 + 5, (64, 5)), ((1 << 53) - 1, ((1 << 53) - 64, 63))] {
            assert_eq!(parts_of(cursor), expected);
        }
    }
}
