//! Hashes, and the deadlines of their fields.

use std::collections::BTreeMap;

use loci_index::table::tape::Tape;

use super::{Failure, NOT_A_NUMBER, OVERFLOW, Plain, Typed, When, is_before, number};

/// What a field of a hash has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Field {
    /// Its value.
    pub value: Vec<u8>,
    /// When it ends, in milliseconds since 1970; zero: never.
    pub deadline: u64,
}

type Hash = BTreeMap<Vec<u8>, Field>;

/// The fields that stand after `FIELDS` and their number.
fn fields<'a>(args: &'a [&'a [u8]]) -> &'a [&'a [u8]] {
    let place = args.iter().position(|word| *word == b"FIELDS").expect("it stands there");
    &args[place + 2..]
}

/// What a deadline is that may be so only under a condition. Zero: never.
fn may(condition: &[u8], old: u64, new: u64) -> bool {
    let late = |deadline: u64| if deadline == 0 { u64::MAX } else { deadline };
    match condition {
        b"NX" => old == 0,
        b"XX" => old != 0,
        b"GT" => late(new) > late(old),
        b"LT" => late(new) < late(old),
        _ => true,
    }
}

impl Plain {
    /// The fields of a hash that have not ended.
    fn hash(&self, key: &[u8], now: u64) -> Result<Hash, Failure> {
        let hash = self.value(key, now, |typed| match typed {
            Typed::Hash(hash) => Some(hash),
            _ => None,
        })?;
        let live = hash.into_iter().flatten().filter(|(_, field)| is_before(now, field.deadline));
        Ok(live.map(|(name, field)| (name.clone(), field.clone())).collect())
    }

    /// Whether it is a call of this page; then it was carried out.
    pub(super) fn hash_call(&mut self, args: &[&[u8]], when: When, out: &mut Tape) -> Result<bool, Failure> {
        let (key, now) = (args.get(1).copied().unwrap_or_default(), when.now);
        if args[0].first() != Some(&b'H') {
            return Ok(false);
        }
        let mut hash = self.hash(key, now)?;
        let before = hash.clone();
        let mut rewritten = false;
        match args[0] {
            b"HSET" => {
                let field = Field { value: args[3].to_vec(), deadline: 0 };
                out.flag(hash.insert(args[2].to_vec(), field).is_none());
                rewritten = true;
            }
            b"HGET" => out.bulk_or_null(hash.get(args[2]).map(|field| &field.value[..])),
            b"HGETALL" => {
                out.map(hash.len());
                for (name, field) in &hash {
                    out.bulk(name);
                    out.bulk(&field.value);
                }
            }
            b"HLEN" => out.count(hash.len()),
            b"HDEL" => out.flag(hash.remove(args[2]).is_some()),
            b"HINCRBY" => {
                let by = number(args[3]).ok_or(NOT_A_NUMBER)?;
                let field = hash.entry(args[2].to_vec()).or_insert(Field { value: b"0".to_vec(), deadline: 0 });
                let old = number(&field.value).ok_or("ERR hash value is not an integer")?;
                let new = old.checked_add(by).ok_or(OVERFLOW)?;
                field.value = new.to_string().into_bytes();
                out.int(new);
                rewritten = true;
            }
            b"HPEXPIRE" => {
                let deadline = now + number(args[2]).ok_or(NOT_A_NUMBER)? as u64;
                let fields = fields(args);
                out.array(fields.len());
                for name in fields {
                    out.int(match hash.get_mut(*name) {
                        None => -2,
                        Some(field) if !may(args[3], field.deadline, deadline) => 0,
                        Some(_) if deadline <= now => {
                            hash.remove(*name);
                            2
                        }
                        Some(field) => {
                            field.deadline = deadline;
                            rewritten = true;
                            1
                        }
                    });
                }
            }
            b"HPERSIST" => {
                let fields = fields(args);
                out.array(fields.len());
                for name in fields {
                    out.int(match hash.get_mut(*name) {
                        None => -2,
                        Some(field) if field.deadline == 0 => -1,
                        Some(field) => {
                            field.deadline = 0;
                            1
                        }
                    });
                }
            }
            b"HPTTL" | b"HPEXPIRETIME" => {
                let fields = fields(args);
                out.array(fields.len());
                for name in fields {
                    out.int(match hash.get(*name).map(|field| field.deadline) {
                        None => -2,
                        Some(0) => -1,
                        Some(deadline) if args[0] == b"HPTTL" => (deadline - now) as i64,
                        Some(deadline) => deadline as i64,
                    });
                }
            }
            b"HGETDEL" => {
                let fields = fields(args);
                out.array(fields.len());
                for name in fields {
                    out.bulk_or_null(hash.remove(*name).map(|field| field.value).as_deref());
                }
            }
            // Only with PX.
            b"HGETEX" => {
                let deadline = now + number(args[3]).ok_or(NOT_A_NUMBER)? as u64;
                let fields = fields(args);
                out.array(fields.len());
                for name in fields {
                    out.bulk_or_null(hash.get(*name).map(|field| &field.value[..]));
                    if let Some(field) = hash.get_mut(*name) {
                        field.deadline = deadline;
                        rewritten = true;
                    }
                }
            }
            // Only with FNX or FXX, and PX.
            b"HSETEX" => {
                let deadline = now + number(args[4]).ok_or(NOT_A_NUMBER)? as u64;
                let pairs = fields(args);
                let wants = args[2] == b"FXX";
                let may = pairs.chunks(2).all(|pair| hash.contains_key(pair[0]) == wants);
                out.flag(may);
                for pair in pairs.chunks(2).filter(|_| may) {
                    hash.insert(pair[0].to_vec(), Field { value: pair[1].to_vec(), deadline });
                    rewritten = true;
                }
            }
            _ => return Ok(false),
        }
        // What was written counts as changed, even if it is the same again.
        if rewritten || hash != before {
            self.change(key, Typed::Hash(hash), when);
        }
        Ok(true)
    }
}
