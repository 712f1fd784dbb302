//! Differences that stay, each with its reason. A sequence ends where it meets one, and how often each was met is said at the
//! end of a run.

use loci_wire::resp::Reply;

use super::servers::Connection;
use super::templates::Args;
use super::{Difference, Sequence, Step, compare};

const CONSUMERS: &str = "XREADGROUP, XCLAIM and XAUTOCLAIM make their consumer in any case, as from 7.2 on";

fn is_of_strings(encoding: &str) -> bool {
    ["raw", "embstr", "int"].iter().any(|name| encoding.trim_matches('"') == *name)
}

/// Why a difference stays; none: it is one that must not be.
pub fn reason(difference: &Difference, sequence: &Sequence, addresses: &[String; 2]) -> Option<&'static str> {
    let Difference { command, replies, raw, .. } = difference;
    let word = |at: usize| command.get(at).map_or(String::new(), |arg| String::from_utf8_lossy(arg).to_uppercase());
    let heard = word(0) == "WHAT IS HEARD OF";
    let name = if heard { word(1) } else { word(0) };
    let [redis, other] = replies;
    let refused = !redis.starts_with('-') && other.starts_with('-');
    match name.as_str() {
        "BITCOUNT" | "BITPOS" if refused || redis.starts_with("-WRONGTYPE") && other.starts_with("-ERR") => {
            Some("BITCOUNT and BITPOS look at their arguments before the key, as from 7.2 on")
        }
        "OBJECT" if word(1) == "ENCODING" && [redis, other].iter().all(|told| is_of_strings(told)) => {
            Some("how a string is kept is told from its bytes, not from how it came to be")
        }
        "OBJECT" if word(1) == "ENCODING" && redis.contains("quicklist") && other.contains("listpack") => {
            Some("short lists are listpacks, as from 7.2 on")
        }
        "EXEC" if redis == "Null" && other.starts_with('[') && watches_what_is_gone(&addresses[1], sequence) => {
            Some("a watched key that was not there and is not there again did not change")
        }
        "ZRANK" | "ZREVRANK" if redis.starts_with("-ERR wrong number of arguments") => {
            Some("ZRANK and ZREVRANK take WITHSCORE, as from 7.2 on")
        }
        "COMMAND" => Some("there are other commands than in 7.0"),
        "MOVE" | "COPY" if heard => Some("keys that go to another database are told of as `restore` and `del`"),
        "MOVE" | "COPY" if refused && other.contains("transaction") => {
            Some("MOVE and COPY to another database are not for transactions")
        }
        "INCRBYFLOAT" | "HINCRBYFLOAT" if refused && other.contains("float") => {
            Some("INCRBYFLOAT knows no numbers beyond those of a double")
        }
        "SCAN" | "SSCAN" | "HSCAN" | "ZSCAN" if refused && other.contains("cursor") => {
            Some("a cursor is not negative, as from 7.4 on")
        }
        _ if raw.as_ref().is_some_and(compare::are_one_number) => {
            Some("INCRBYFLOAT is exact or counts by doubles, and Redis by longer ones, whose last digits differ")
        }
        "DBSIZE" if sizes(&addresses[0]) == sizes(&addresses[1]) => {
            Some("a key that is set with a deadline long ago is not counted, as from 7.2 on")
        }
        "XREADGROUP" | "XCLAIM" | "XAUTOCLAIM" if heard && makes(other) && !makes(redis) => Some(CONSUMERS),
        "XREADGROUP" if redis.starts_with("-UNBLOCKED") && other.starts_with("-NOGROUP") => {
            Some("who waits for entries of a stream that goes away is told NOGROUP, as from 7.2 on")
        }
        "XGROUP" if word(1) == "CREATECONSUMER" && redis == ":1" && other == ":0" => Some(CONSUMERS),
        "XINFO" if raw.clone().is_some_and(|replies| is_more_consumers(command, replies)) => Some(CONSUMERS),
        "XINFO" if raw.clone().is_some_and(|replies| is_lag_only(command, replies)) => {
            Some("how far a group is behind that was made with ENTRIESREAD is told as by later versions")
        }
        name if !heard
            && !name.starts_with("PF")
            && command.iter().skip(1).any(|key| is_sketch(&addresses[0], key)) =>
        {
            Some("PFCOUNT keeps nothing of its result in the value, since it is a read here")
        }
        _ if sorts_without_weights(sequence) => {
            Some("SORT with ALPHA leaves elements without weights in no order of its own")
        }
        _ if saturates_from_afar(sequence) => Some(
            "BITFIELD makes the least of a number that is far below it where it saturates; Redis makes the greatest of some",
        ),
        _ if is_by_name(command) && addresses.iter().any(|address| has_scores(address, command)) => {
            Some("ranges by name in a sorted set whose scores differ have no meaning")
        }
        _ => None,
    }
}

/// The keys of each database that are there for whoever looks.
fn sizes(address: &str) -> Vec<Result<Reply, String>> {
    let mut connection = Connection::open(address);
    let size = |database| match connection.say(&format!("SELECT {database}")).and_then(|_| connection.say("KEYS *"))? {
        Reply::Array(keys) => Ok(Reply::Int(keys.len() as i64)),
        other => Ok(other),
    };
    (0..16).map(size).collect()
}

/// Whether a number is to be put to bits that is about as far below zero as can be, and is to stay at their bounds.
fn sorts_without_weights(sequence: &Sequence) -> bool {
    sequence.steps.iter().any(|step| match step {
        Step::Call(_, args) => {
            let has = |word: &[u8]| args.iter().any(|arg| arg.eq_ignore_ascii_case(word));
            (has(b"SORT") || has(b"SORT_RO")) && has(b"ALPHA") && has(b"BY")
        }
        _ => false,
    })
}

fn saturates_from_afar(sequence: &Sequence) -> bool {
    sequence.steps.iter().any(|step| match step {
        Step::Call(_, args) => {
            let has = |word: &[u8]| args.iter().any(|arg| arg.eq_ignore_ascii_case(word));
            has(b"BITFIELD") && has(b"SAT") && has(b"-9223372036854775808")
        }
        _ => false,
    })
}

fn watches_what_is_gone(address: &str, sequence: &Sequence) -> bool {
    let mut connection = Connection::open(address);
    let mut is_gone = |key: &Vec<u8>| matches!(connection.call(&[b"EXISTS".to_vec(), key.clone()]), Ok(Reply::Int(0)));
    sequence.steps.iter().any(|step| match step {
        Step::Call(_, args) if args[0].eq_ignore_ascii_case(b"WATCH") => args[1..].iter().any(&mut is_gone),
        _ => false,
    })
}

fn makes(heard: &str) -> bool {
    heard.contains("xgroup-createconsumer")
}

/// Whether the other server has more consumers, and all else is alike.
fn is_more_consumers(command: &Args, mut replies: [Reply; 2]) -> bool {
    if command.get(1).is_some_and(|part| part.eq_ignore_ascii_case(b"CONSUMERS")) {
        return matches!(&replies, [Reply::Array(redis), Reply::Array(other)] if redis.len() < other.len());
    }
    replies.iter_mut().for_each(|reply| compare::forget_field(reply, b"consumers"));
    compare::same(command, &replies[0], &replies[1], false) || is_lag_only(command, replies)
}

fn is_lag_only(command: &Args, mut replies: [Reply; 2]) -> bool {
    replies.iter_mut().for_each(|reply| compare::forget_field(reply, b"lag"));
    compare::same(command, &replies[0], &replies[1], false)
}

/// Whether there is a key whose value is that of a HyperLogLog.
fn is_sketch(address: &str, key: &[u8]) -> bool {
    let mut connection = Connection::open(address);
    let value = connection.call(&[b"GET".to_vec(), key.to_vec()]);
    matches!(value, Ok(Reply::Bulk(value)) if value.starts_with(b"HYLL"))
}

fn is_by_name(command: &Args) -> bool {
    let name = String::from_utf8_lossy(&command[0]).to_uppercase();
    name.contains("LEX") || command.iter().any(|arg| arg.eq_ignore_ascii_case(b"BYLEX"))
}

/// Whether the sorted set that a command names has members of different scores.
fn has_scores(address: &str, command: &Args) -> bool {
    let mut connection = Connection::open(address);
    let Some(key) = command.get(1) else { return false };
    (0..3).chain([15]).any(|database| {
        connection.say(&format!("SELECT {database}")).ok();
        let all =
            connection.call(&[b"ZRANGE".to_vec(), key.clone(), b"0".to_vec(), b"-1".to_vec(), b"WITHSCORES".to_vec()]);
        let Ok(Reply::Array(parts)) = all else { return false };
        let mut scores = parts.iter().skip(1).step_by(2);
        let first = scores.next();
        scores.any(|score| Some(score) != first)
    })
}
