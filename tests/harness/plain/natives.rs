//! What Redis does not have: leases, limiters, tags, and guards of transactions.

use std::collections::BTreeSet;

use loci_index::command::Unmet;
use loci_index::table::tape::Tape;

use super::{Failure, Kept, NOT_A_NUMBER, Plain, Typed, WRONG_TYPE, When, number};

/// How much was taken lately.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Limiter {
    /// So many millionths of a token were missing from the bucket at that time.
    Bucket(u64, u64),
    /// What was taken, and when.
    Window(Vec<(u64, u64)>),
}

/// A lease with its holder and its number.
type Held<'p> = (&'p Kept, &'p [u8], u64);

/// What a limiter says.
struct Verdict {
    allowed: bool,
    left: u64,
    again_in: i64,
    whole_in: u64,
}

fn whole(text: &[u8]) -> Result<u64, Failure> {
    number(text).and_then(|number| u64::try_from(number).ok()).ok_or(NOT_A_NUMBER)
}

impl Plain {
    /// What is otherwise than a guard has it, which is `LEASE.FENCE` or `VERSION.IF`.
    pub fn unmet(&self, args: &[&[u8]], now: u64) -> Option<Unmet> {
        args[1..].chunks(2).find_map(|pair| {
            let (key, number) = (pair[0], whole(pair[1]).expect("clients send numbers"));
            match args[0] {
                b"LEASE.FENCE" => self.lease_unmet(key, number, now),
                _ => self.value_unmet(key, number, now),
            }
        })
    }

    /// What is otherwise, if a lease is not held under a number.
    pub fn lease_unmet(&self, name: &[u8], given: u64, now: u64) -> Option<Unmet> {
        let held = self.held(name, now).unwrap_or(0);
        (held == 0 || held != given).then(|| Unmet::Lease { name: name.to_vec(), given, held })
    }

    /// What is otherwise, if a value has not a version.
    pub fn value_unmet(&self, key: &[u8], expected: u64, now: u64) -> Option<Unmet> {
        let found = self.live(key, now).map_or(0, |kept| kept.version);
        (found != expected).then(|| Unmet::Value { key: key.to_vec(), expected, found })
    }

    /// The number under which a lease is held.
    pub fn held(&self, name: &[u8], now: u64) -> Option<u64> {
        match self.live(name, now)?.value {
            Typed::Lease(_, number) => Some(number),
            _ => None,
        }
    }

    fn lease(&self, name: &[u8], now: u64) -> Result<Option<Held<'_>>, Failure> {
        match self.live(name, now) {
            None => Ok(None),
            Some(kept) => match &kept.value {
                Typed::Lease(holder, number) => Ok(Some((kept, holder, *number))),
                _ => Err(WRONG_TYPE),
            },
        }
    }

    /// Whether it is a call of this page; then it was carried out.
    pub(super) fn native_call(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<bool, Failure> {
        let (key, now) = (args.get(1).copied().unwrap_or_default(), when.now);
        match args[0] {
            b"LEASE.ACQUIRE" => {
                let until = now + whole(args[3])?;
                if self.lease(key, now)?.is_some_and(|(_, holder, _)| holder != args[2]) {
                    out.null();
                    return Ok(true);
                }
                let value = Typed::Lease(args[2].to_vec(), when.version);
                self.put(key, Kept { deadline: until, ..Kept::of(value, when.version) }, when);
                out.int(when.version as i64);
            }
            b"LEASE.RENEW" | b"LEASE.RELEASE" => {
                let given = whole(args[2])?;
                let found = self.lease(key, now)?.filter(|(_, _, number)| *number == given);
                let held = found.map(|(kept, _, _)| kept.clone());
                out.flag(held.is_some());
                match held {
                    Some(kept) if args[0] == b"LEASE.RENEW" => {
                        let deadline = now + whole(args[3])?;
                        self.put(key, Kept { deadline, version: when.version, ..kept }, when);
                    }
                    Some(_) => self.remove(key),
                    None => {}
                }
            }
            b"LEASE.GET" => match self.lease(key, now)? {
                None => out.null_array(),
                Some((kept, holder, number)) => {
                    out.map(3);
                    out.bulk(b"holder");
                    out.bulk(holder);
                    out.bulk(b"number");
                    out.int(number as i64);
                    out.bulk(b"milliseconds");
                    out.int(if kept.deadline == 0 { -1 } else { (kept.deadline - now) as i64 });
                }
            },
            b"LEASE.FENCE" | b"VERSION.IF" => match self.unmet(args, now) {
                Some(unmet) => return Err(format!("{} {unmet}", unmet.kind()).into()),
                None => out.ok(),
            },
            b"RL.BUCKET" => self.bucket(args, when, out)?,
            b"RL.WINDOW" => self.window(args, when, out)?,
            b"TAG.SET" | b"TAG.ADD" | b"TAG.REM" => {
                let given: BTreeSet<Vec<u8>> = args[2..].iter().map(|tag| tag.to_vec()).collect();
                let Some(kept) = self.live(key, now).cloned() else {
                    out.int(0);
                    return Ok(true);
                };
                let before = kept.tags.len();
                let tags: BTreeSet<Vec<u8>> = match args[0] {
                    b"TAG.SET" => given,
                    b"TAG.ADD" => kept.tags.union(&given).cloned().collect(),
                    _ => kept.tags.difference(&given).cloned().collect(),
                };
                out.count(if args[0] == b"TAG.SET" { 1 } else { before.abs_diff(tags.len()) });
                // The version stays.
                self.put(key, Kept { tags, ..kept }, when);
            }
            b"TAG.OF" => {
                let tags = self.live(key, now).map(|kept| kept.tags.clone()).unwrap_or_default();
                out.set(tags.len());
                tags.iter().for_each(|tag| out.bulk(tag));
            }
            b"TAG.KEYS" | b"TAG.COUNT" | b"TAG.DROP" => {
                let has = |kept: &Kept| args[1..].iter().any(|tag| kept.tags.contains(*tag));
                let found = self.keys.iter().filter(|(_, kept)| kept.is_live(now) && has(kept));
                let keys: Vec<Vec<u8>> = found.map(|(key, _)| key.clone()).collect();
                if args[0] == b"TAG.KEYS" {
                    out.array(keys.len());
                    keys.iter().for_each(|key| out.bulk(key));
                } else {
                    out.count(keys.len());
                }
                if args[0] == b"TAG.DROP" {
                    keys.iter().for_each(|key| self.remove(key));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn limiter(&self, key: &[u8], now: u64) -> Result<Option<Limiter>, Failure> {
        let limiter = self.value(key, now, |typed| match typed {
            Typed::Limiter(limiter) => Some(limiter),
            _ => None,
        })?;
        Ok(limiter.cloned())
    }

    /// A bucket of so many tokens, into which whole tokens flow each second.
    fn bucket(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        const TOKEN: u64 = 1_000_000;
        let (capacity, rate, cost) = (whole(args[2])? * TOKEN, whole(args[3])?, whole(args[4])? * TOKEN);
        let (missing, then) = match self.limiter(args[1], when.now)? {
            None => (0, when.now),
            Some(Limiter::Bucket(missing, then)) => (missing, then),
            Some(Limiter::Window(_)) => return Err(WRONG_TYPE),
        };
        // So many millionths flow in each millisecond.
        let flow = rate * TOKEN / 1_000;
        let before = missing.saturating_sub(flow * (when.now - then));
        let allowed = before + cost <= capacity;
        let after = if allowed { before + cost } else { before };
        let again_in = match () {
            () if allowed => 0,
            () if cost > capacity => -1,
            () => (before + cost - capacity).div_ceil(flow) as i64,
        };
        let left = capacity.saturating_sub(after) / TOKEN;
        let verdict = Verdict { allowed, left, again_in, whole_in: after.div_ceil(flow) };
        self.ruled(args[1], verdict, cost, Limiter::Bucket(after, when.now), when, out);
        Ok(())
    }

    fn window(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<(), Failure> {
        let (limit, millis, cost) = (whole(args[2])?, whole(args[3])?, whole(args[4])?);
        let mut taken = match self.limiter(args[1], when.now)? {
            None => Vec::new(),
            Some(Limiter::Window(taken)) => taken,
            Some(Limiter::Bucket(..)) => return Err(WRONG_TYPE),
        };
        taken.retain(|(at, _)| at + millis > when.now);
        // How much still counts after so long.
        let used_in = |taken: &[(u64, u64)], wait: u64| -> u64 {
            taken.iter().filter(|(at, _)| at + millis > when.now + wait).map(|(_, cost)| cost).sum()
        };
        let used = used_in(&taken, 0);
        let allowed = used + cost <= limit;
        let ends = |taken: &[(u64, u64)]| -> Vec<u64> { taken.iter().map(|(at, _)| at + millis - when.now).collect() };
        let again_in = match allowed {
            true => 0,
            false => {
                let fits = |wait: &u64| used_in(&taken, *wait) + cost <= limit;
                ends(&taken).into_iter().find(fits).map_or(-1, |wait| wait as i64)
            }
        };
        if allowed && cost > 0 {
            taken.push((when.now, cost));
        }
        let left = limit.saturating_sub(used_in(&taken, 0));
        let verdict = Verdict { allowed, left, again_in, whole_in: ends(&taken).into_iter().max().unwrap_or(0) };
        self.ruled(args[1], verdict, cost, Limiter::Window(taken), when, out);
        Ok(())
    }

    fn ruled(&mut self, key: &[u8], verdict: Verdict, cost: u64, limiter: Limiter, when: When, out: &mut Tape) {
        if verdict.allowed && cost > 0 {
            self.change_until(key, Typed::Limiter(limiter), when.now + verdict.whole_in, when);
        }
        out.array(4);
        out.flag(verdict.allowed);
        out.int(verdict.left as i64);
        out.int(verdict.again_in);
        out.int(verdict.whole_in as i64);
    }
}
