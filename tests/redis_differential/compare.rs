//! When two replies to one command say the same.
//!
//! What Redis leaves to chance is compared by its form, what it leaves unordered is sorted, times may differ by what passed
//! between the two calls, and numbers are compared as numbers where their digits changed between versions. Of an error the
//! first word counts, or all of it if `LOCI_DIFF_STRICT=1`.

use std::fmt;

use loci_wire::resp::Reply;

use super::templates::Args;

/// How one command's replies are compared.
#[derive(Debug, Clone, Copy, Default)]
struct Rule {
    /// Elements come in any order.
    unordered: bool,
    /// They are names and values in turn.
    pairs: bool,
    /// Only the form is agreed.
    form: bool,
    /// Whole numbers may differ by this much.
    tolerance: i64,
    /// Strings that are numbers are compared as such.
    numbers: bool,
    /// Whole errors are compared, not just their first word.
    strict: bool,
}

fn word(args: &Args, at: usize) -> String {
    args.get(at).map_or(String::new(), |arg| String::from_utf8_lossy(arg).to_uppercase())
}

fn has(args: &Args, option: &str) -> bool {
    args.iter().skip(1).any(|arg| arg.eq_ignore_ascii_case(option.as_bytes()))
}

/// Whether the replies of a command are of its choosing.
pub fn is_random(args: &Args) -> bool {
    matches!(word(args, 0).as_str(), "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" | "RANDOMKEY")
}

fn rule(args: &Args, strict: bool) -> Rule {
    let name = word(args, 0);
    let base = Rule { strict, ..Rule::default() };
    match name.as_str() {
        "KEYS" | "SMEMBERS" | "SUNION" | "SINTER" | "SDIFF" | "HKEYS" | "HVALS" => Rule { unordered: true, ..base },
        "SPOP" => Rule { unordered: true, ..base },
        "SORT" | "SORT_RO" if has(args, "NOSORT") => Rule { unordered: true, ..base },
        "PUBSUB" => Rule { unordered: true, ..base },
        "HGETALL" => Rule { unordered: true, pairs: true, ..base },
        "SCAN" | "SSCAN" => Rule { unordered: true, ..base },
        "HSCAN" | "ZSCAN" => Rule { unordered: true, pairs: true, numbers: true, ..base },
        "TTL" | "EXPIRETIME" => Rule { tolerance: 1, ..base },
        "PTTL" | "PEXPIRETIME" => Rule { tolerance: 1_500, ..base },
        "OBJECT" if word(args, 1) == "IDLETIME" => Rule { tolerance: 3, ..base },
        "XPENDING" if args.len() > 3 => Rule { tolerance: 2_000, ..base },
        "EVAL" | "EVAL_RO" | "EVALSHA" => {
            let lists = args.get(1).is_some_and(|script| script.windows(7).any(|word| word == b"HGETALL"));
            Rule { numbers: true, unordered: lists, ..base }
        }
        _ if is_random(args) => Rule { form: true, ..base },
        _ if name.starts_with('Z') || name.starts_with("GEO") || name.starts_with("BZ") => {
            Rule { numbers: true, ..base }
        }
        _ => base,
    }
}

/// Whether both replies say the same.
pub fn same(args: &Args, left: &Reply, right: &Reply, strict: bool) -> bool {
    let rule = rule(args, strict);
    if word(args, 0) == "XINFO" {
        let (mut left, mut right) = (left.clone(), right.clone());
        for reply in [&mut left, &mut right] {
            if word(args, 1) != "GROUPS" {
                forget_times(reply);
            }
        }
        return alike(&rule, &left, &right);
    }
    alike(&rule, left, right)
}

/// What differs from run to run and from version to version in what a stream says of itself.
const TIMES: [&str; 7] = ["idle", "inactive", "seen-time", "active-time", "radix-tree-keys", "radix-tree-nodes", "pel"];

fn forget_times(reply: &mut Reply) {
    let is_time = |name: &Reply| match name {
        Reply::Bulk(name) | Reply::Status(name) => TIMES.iter().any(|time| time.as_bytes() == name),
        _ => false,
    };
    // The pending entries carry times too, but how many there are is kept.
    let forget = |value: &mut Reply| match value {
        Reply::Array(pending) => *value = Reply::Int(pending.len() as i64),
        _ => *value = Reply::Null,
    };
    match reply {
        Reply::Map(pairs) => {
            pairs.retain(|(name, _)| *name != Reply::Bulk(b"inactive".to_vec()));
            pairs.retain(|(name, _)| *name != Reply::Bulk(b"active-time".to_vec()));
            for (name, value) in pairs {
                if is_time(name) { forget(value) } else { forget_times(value) }
            }
        }
        Reply::Array(parts) => {
            let mut at = 0;
            while at < parts.len() {
                let time = is_time(&parts[at]);
                match &parts[at] {
                    Reply::Bulk(name) if time && (name == b"inactive" || name == b"active-time") => {
                        parts.drain(at..(at + 2).min(parts.len()));
                        continue;
                    }
                    _ if time && at + 1 < parts.len() => {
                        at += 1;
                        forget(&mut parts[at]);
                    }
                    _ => forget_times(&mut parts[at]),
                }
                at += 1;
            }
        }
        _ => {}
    }
}

/// Forgets what PFCOUNT keeps of its result in a sketch.
pub fn forget_cached_count(value: &mut Reply) {
    if let Reply::Bulk(bytes) = value
        && bytes.starts_with(b"HYLL")
        && bytes.len() >= 16
    {
        bytes[8..16].fill(0);
    }
}

/// Forgets a field of what a stream says of itself, wherever it is.
pub fn forget_field(reply: &mut Reply, field: &[u8]) {
    let is_it = |name: &Reply| matches!(name, Reply::Bulk(name) if name == field);
    match reply {
        Reply::Map(pairs) => {
            pairs.retain(|(name, _)| !is_it(name));
            pairs.iter_mut().for_each(|(_, value)| forget_field(value, field));
        }
        Reply::Array(parts) => {
            if let Some(at) = parts.iter().position(is_it) {
                parts.drain(at..(at + 2).min(parts.len()));
            }
            parts.iter_mut().for_each(|part| forget_field(part, field));
        }
        _ => {}
    }
}

/// Whether two texts are one number with a fraction, or a large one, in other digits.
pub fn are_one_number(replies: &[Reply; 2]) -> bool {
    let [Reply::Bulk(left), Reply::Bulk(right)] = replies else { return false };
    let long = |text: &[u8]| text.contains(&b'.') || text.len() > 17;
    (long(left) || long(right))
        && number(&replies[0]).zip(number(&replies[1])).is_some_and(|(left, right)| close(left, right))
}

/// Texts of numbers with a fraction become numbers: their last digits do not matter.
pub fn forget_digits(value: &mut Reply) {
    if let Reply::Bulk(text) = &value
        && (text.contains(&b'.') || text.len() > 17)
        && let Some(number) = number(value).filter(|number| number.is_finite())
    {
        *value = Reply::Bulk(format!("{number:.12e}").into_bytes());
    }
}

fn number(reply: &Reply) -> Option<f64> {
    match reply {
        Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Reply::Double(value) => Some(*value),
        _ => None,
    }
}

fn close(left: f64, right: f64) -> bool {
    left == right || left.is_nan() && right.is_nan() || (left - right).abs() <= 1e-9 * left.abs().max(right.abs())
}

fn sorted(replies: &[Reply], pairs: bool) -> Vec<Vec<Reply>> {
    let mut groups: Vec<Vec<Reply>> = replies.chunks(if pairs { 2 } else { 1 }).map(<[Reply]>::to_vec).collect();
    groups.sort_by_key(|group| format!("{group:?}"));
    groups
}

fn alike(rule: &Rule, left: &Reply, right: &Reply) -> bool {
    let all = |left: &[Reply], right: &[Reply]| {
        left.len() == right.len() && left.iter().zip(right).all(|(left, right)| alike(rule, left, right))
    };
    let any_order = |left: &[Reply], right: &[Reply], pairs: bool| {
        let (left, right) = (sorted(left, pairs), sorted(right, pairs));
        left.len() == right.len() && left.iter().zip(&right).all(|(left, right)| all(left, right))
    };
    match (left, right) {
        (Reply::Error(left), Reply::Error(right)) => {
            let code = |text: &[u8]| text.split(|byte| *byte == b' ').next().map(<[u8]>::to_vec);
            if rule.strict { left == right } else { code(left) == code(right) }
        }
        (Reply::Int(left), Reply::Int(right)) => left.abs_diff(*right) <= rule.tolerance as u64,
        (Reply::Bulk(_), Reply::Bulk(_)) if rule.form => true,
        (Reply::Array(left), Reply::Array(right)) if rule.form => left.len() == right.len(),
        (Reply::Bulk(a), Reply::Bulk(b)) => {
            let numbers = || number(left).zip(number(right)).is_some_and(|(left, right)| close(left, right));
            a == b || rule.numbers && numbers()
        }
        (Reply::Double(left), Reply::Double(right)) => close(*left, *right),
        (Reply::Array(left), Reply::Array(right)) if rule.unordered => any_order(left, right, rule.pairs),
        (Reply::Array(left), Reply::Array(right)) | (Reply::Push(left), Reply::Push(right)) => all(left, right),
        (Reply::Set(left), Reply::Set(right)) => any_order(left, right, false),
        (Reply::Map(left), Reply::Map(right)) => {
            let flat = |pairs: &[(Reply, Reply)]| {
                pairs.iter().flat_map(|(name, value)| [name.clone(), value.clone()]).collect::<Vec<_>>()
            };
            any_order(&flat(left), &flat(right), true)
        }
        _ => left == right,
    }
}

/// A reply in one line for people.
pub struct Shown<'a>(pub &'a Reply);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, begin: &str, replies: &[Reply]| {
            write!(f, "{begin}[")?;
            for (at, reply) in replies.iter().enumerate() {
                write!(f, "{}{}", if at == 0 { "" } else { ", " }, Shown(reply))?;
            }
            f.write_str("]")
        };
        match self.0 {
            Reply::Status(text) => write!(f, "+{}", text.escape_ascii()),
            Reply::Error(text) => write!(f, "-{}", text.escape_ascii()),
            Reply::Int(value) => write!(f, ":{value}"),
            Reply::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Reply::Array(replies) => list(f, "", replies),
            Reply::Set(replies) => list(f, "set", replies),
            Reply::Push(replies) => list(f, "push", replies),
            Reply::Map(pairs) => {
                f.write_str("map[")?;
                for (name, value) in pairs {
                    write!(f, "{}: {}, ", Shown(name), Shown(value))?;
                }
                f.write_str("]")
            }
            other => write!(f, "{other:?}"),
        }
    }
}
