//! Sets and sorted sets.

use std::collections::{BTreeMap, BTreeSet};

use loci_index::table::tape::Tape;

use super::{Failure, NOT_A_NUMBER, Plain, Typed, When, number};
use crate::plain::Kept;

type Set = BTreeSet<Vec<u8>>;
type Sorted = BTreeMap<Vec<u8>, i64>;

/// The end of a range of scores: a number, `-inf`, `+inf`, or a number after a parenthesis, which is not in the range. As
/// the lowest or highest score that is.
fn edge(text: &[u8], lowest: bool) -> Result<i64, Failure> {
    match text {
        b"-inf" => Ok(i64::MIN),
        b"+inf" => Ok(i64::MAX),
        [b'(', rest @ ..] => Ok(number(rest).ok_or(NOT_A_NUMBER)? + if lowest { 1 } else { -1 }),
        text => number(text).ok_or(NOT_A_NUMBER),
    }
}

/// Members with their scores, by score and then by name.
fn ranked(sorted: &Sorted) -> Vec<(i64, Vec<u8>)> {
    let mut ranked: Vec<_> = sorted.iter().map(|(member, score)| (*score, member.clone())).collect();
    ranked.sort_unstable();
    ranked
}

impl Plain {
    fn set_of(&self, key: &[u8], now: u64) -> Result<Set, Failure> {
        let set = self.value(key, now, |typed| match typed {
            Typed::Set(set) => Some(set),
            _ => None,
        })?;
        Ok(set.cloned().unwrap_or_default())
    }

    fn sorted(&self, key: &[u8], now: u64) -> Result<Sorted, Failure> {
        let sorted = self.value(key, now, |typed| match typed {
            Typed::Sorted(sorted) => Some(sorted),
            _ => None,
        })?;
        Ok(sorted.cloned().unwrap_or_default())
    }

    /// Whether it is a call of sets; then it was carried out.
    pub(super) fn set_call(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<bool, Failure> {
        let (key, now) = (args.get(1).copied().unwrap_or_default(), when.now);
        match args[0] {
            b"SADD" | b"SREM" => {
                let mut set = self.set_of(key, now)?;
                let does = |member: &&&[u8]| match args[0] {
                    b"SADD" => set.insert(member.to_vec()),
                    _ => set.remove(**member),
                };
                let count = args[2..].iter().filter(does).count();
                out.count(count);
                if count > 0 {
                    self.change(key, Typed::Set(set), when);
                }
            }
            b"SCARD" => out.count(self.set_of(key, now)?.len()),
            b"SISMEMBER" => out.flag(self.set_of(key, now)?.contains(args[2])),
            b"SMEMBERS" => {
                let set = self.set_of(key, now)?;
                out.set(set.len());
                set.iter().for_each(|member| out.bulk(member));
            }
            b"SMOVE" => {
                let (to, member) = (args[2], args[3]);
                let is_there = self.live(key, now).is_some();
                let mut from_set = self.set_of(key, now)?;
                if !is_there {
                    out.int(0);
                    return Ok(true);
                }
                let mut to_set = self.set_of(to, now)?;
                let moved = from_set.remove(member);
                out.flag(moved);
                if moved && key != to {
                    self.change(key, Typed::Set(from_set), when);
                    if to_set.insert(member.to_vec()) {
                        self.change(to, Typed::Set(to_set), when);
                    }
                }
            }
            b"SUNIONSTORE" | b"SINTERSTORE" | b"SDIFFSTORE" => {
                let (one, other) = (self.set_of(args[2], now)?, self.set_of(args[3], now)?);
                let set: Set = match args[0] {
                    b"SUNIONSTORE" => one.union(&other).cloned().collect(),
                    b"SINTERSTORE" => one.intersection(&other).cloned().collect(),
                    _ => one.difference(&other).cloned().collect(),
                };
                out.count(set.len());
                self.store(key, Typed::Set(set), when);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What a script does that adds to a set.
    pub(super) fn collect(&mut self, key: &[u8], member: &[u8], when: When) -> i64 {
        let Ok(mut set) = self.set_of(key, when.now) else { return -1 };
        let (new, len) = (set.insert(member.to_vec()), set.len());
        if new {
            self.change(key, Typed::Set(set), when);
        }
        len as i64
    }

    /// Gives a key a value, whatever it had; one without elements removes it.
    fn store(&mut self, key: &[u8], value: Typed, when: When) {
        match value.is_empty() {
            true => self.remove(key),
            false => self.put(key, Kept::of(value, when.version), when),
        }
    }

    /// Whether it is a call of sorted sets; then it was carried out.
    pub(super) fn sorted_call(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<bool, Failure> {
        let (key, now) = (args.get(1).copied().unwrap_or_default(), when.now);
        match args[0] {
            b"ZADD" | b"ZINCRBY" => self.add_scores(args, when, out)?,
            b"ZREM" => {
                let mut sorted = self.sorted(key, now)?;
                let count = args[2..].iter().filter(|member| sorted.remove(**member).is_some()).count();
                self.removed(key, sorted, count, when, out);
            }
            b"ZREMRANGEBYSCORE" => {
                let mut sorted = self.sorted(key, now)?;
                let (least, most, before) = (edge(args[2], true)?, edge(args[3], false)?, sorted.len());
                sorted.retain(|_, score| *score < least || *score > most);
                let count = before - sorted.len();
                self.removed(key, sorted, count, when, out);
            }
            b"ZPOPMIN" | b"ZPOPMAX" => {
                let mut sorted = self.sorted(key, now)?;
                let mut ranked = ranked(&sorted);
                if args[0] == b"ZPOPMAX" {
                    ranked.reverse();
                }
                let count = args.get(2).map(|count| number(count).ok_or(NOT_A_NUMBER)).transpose()?;
                ranked.truncate(count.unwrap_or(1) as usize);
                match count {
                    _ if ranked.is_empty() => out.array(0),
                    None => out.array(2),
                    Some(_) => out.pairs(ranked.len()),
                }
                for (score, member) in &ranked {
                    sorted.remove(member);
                    out.bulk(member);
                    out.double(*score as f64);
                }
                if !ranked.is_empty() {
                    self.change(key, Typed::Sorted(sorted), when);
                }
            }
            b"ZCARD" => out.count(self.sorted(key, now)?.len()),
            b"ZSCORE" => match self.sorted(key, now)?.get(args[2]) {
                Some(score) => out.double(*score as f64),
                None => out.null(),
            },
            b"ZRANK" => match ranked(&self.sorted(key, now)?).iter().position(|(_, member)| member == args[2]) {
                Some(rank) => out.count(rank),
                None => out.null(),
            },
            b"ZCOUNT" => {
                let sorted = self.sorted(key, now)?;
                let (least, most) = (edge(args[2], true)?, edge(args[3], false)?);
                out.count(sorted.values().filter(|score| (least..=most).contains(score)).count());
            }
            // All, with scores.
            b"ZRANGE" => {
                let ranked = ranked(&self.sorted(key, now)?);
                match self.live(key, now).is_some() {
                    true => out.pairs(ranked.len()),
                    false => out.array(0),
                }
                for (score, member) in &ranked {
                    out.bulk(member);
                    out.double(*score as f64);
                }
            }
            // Of two, which are added up.
            b"ZUNIONSTORE" => {
                let mut sorted = self.sorted_or_set(args[3], now)?;
                for (member, score) in self.sorted_or_set(args[4], now)? {
                    *sorted.entry(member).or_insert(0) += score;
                }
                out.count(sorted.len());
                self.store(key, Typed::Sorted(sorted), when);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A sorted set, or a set, in which every score is one.
    fn sorted_or_set(&self, key: &[u8], now: u64) -> Result<Sorted, Failure> {
        match self.set_of(key, now) {
            Ok(set) => Ok(set.into_iter().map(|member| (member, 1)).collect()),
            Err(_) => self.sorted(key, now),
        }
    }

    fn removed(&mut self, key: &[u8], sorted: Sorted, count: usize, when: When, out: &mut Tape) {
        out.count(count);
        if count > 0 {
            self.change(key, Typed::Sorted(sorted), when);
        }
    }

    fn add_scores(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let key = args[1];
        let first = args.iter().skip(2).position(|word| number(word).is_some()).expect("a score") + 2;
        let (words, pairs) = (&args[2..first], &args[first..]);
        let says = |word: &str| words.contains(&word.as_bytes());
        let adds_up = args[0] == b"ZINCRBY" || says("INCR");
        let mut sorted = self.sorted(key, when.now)?;
        let (mut new, mut changed, mut last) = (0, 0, None);
        for pair in pairs.chunks(2) {
            let (given, member) = (number(pair[0]).ok_or(NOT_A_NUMBER)?, pair[1]);
            let old = sorted.get(member).copied();
            let score = if adds_up { old.unwrap_or(0) + given } else { given };
            let may = match old {
                None => !says("XX"),
                Some(old) => !(says("NX") || says("GT") && score <= old || says("LT") && score >= old),
            };
            last = may.then_some(score);
            if may {
                sorted.insert(member.to_vec(), score);
                new += usize::from(old.is_none());
                changed += usize::from(old.is_some_and(|old| old != score));
            }
        }
        match last {
            Some(score) if adds_up => out.double(score as f64),
            None if adds_up => out.null(),
            _ => out.count(new + if says("CH") { changed } else { 0 }),
        }
        if new + changed > 0 {
            self.change(key, Typed::Sorted(sorted), when);
        }
        Ok(())
    }
}
